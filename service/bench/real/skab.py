"""SKAB by its own protocol: each run fitted on its first 400 rows, judged on the rest, all 34 runs pooled.

A row is taken as one operation: each channel is compared with what the run's first 400 rows explain (`pipeline.baseline`), an odd
row is pulled in and the last three are averaged (`pipeline.trends`), and the strongest deviation speaks. The alarm limit is the
greatest that the first 400 rows themselves show. Nothing is fitted on later rows.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import IsolationForest
from threadpoolctl import threadpool_limits

from pipeline.baseline import ridge
from pipeline.dataset import open_dataset
from pipeline.readings import quantity_of
from pipeline.trends import Used, newest, pulled_in
from service.bench.real.folders import COMPONENT, SKAB_FIT_ROWS, write_skab
from service.bench.report import Figure

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

LOAD = f"{COMPONENT}.load"
WATCHED = ("acceleration_rms", "current")
"""Evidence of the product that a run's rows give. A temperature counts once an operation, by how far it rose since the start; a
run is one operation, and nothing is known of another."""

SPREAD = 3.0
"""How far, in units of scatter, one row may lie from the median of the last five."""

PUBLISHED = {
    "Conv-AE": (0.78, 13.55, 28.02),
    "MSET": (0.78, 39.73, 14.13),
    "T²+Q (PCA)": (0.76, 26.62, 24.92),
    "LSTM-AE": (0.74, 29.96, 25.92),
    "isolation forest": (0.29, 2.56, 82.89),
}
"""The benchmark's leaderboard: F1, false-alarm rate (%), missed-alarm rate (%)."""

UNITS = {"F1": "1", "FAR": "%", "MAR": "%"}
DRAWS, CONFIDENCE = 400, 0.9

Judged = Sequence[tuple[Bools, Bools]]
"""Of each run: what was flagged and what was anomalous, rows after the first 400."""


def bench_skab(archive: zipfile.ZipFile, folder: Path) -> list[Figure]:
    """Measure the product's evidence, with and without the load itself, beside controls and the leaderboard."""
    anomalous = write_skab(archive, folder)
    dataset = open_dataset(folder)
    runs = {gate_id: dataset.readings(gate_id) for gate_id in dataset.gate_ids}
    truth = {gate_id: anomalous[gate_id][SKAB_FIT_ROWS:] for gate_id in runs}
    temperatures = (*WATCHED, "temperature")
    flagged = {
        "vibration and current, load explained": {g: flag(run, WATCHED, judge_load=False) for g, run in runs.items()},
        "vibration, current and the load itself": {g: flag(run, WATCHED, judge_load=True) for g, run in runs.items()},
        "the same and temperatures, row by row": {g: flag(run, temperatures, judge_load=True) for g, run in runs.items()},
        "control, the load alone": {g: flag(run, (), judge_load=True) for g, run in runs.items()},
        "control, everything flagged": {g: np.ones(len(truth[g]), dtype=bool) for g in runs},
        "control, isolation forest run again": _forests(archive, runs),
    }
    figures = []
    for name, by_run in flagged.items():
        judged = [(by_run[g], truth[g]) for g in runs]
        figures += [
            Figure("skab", f"{name}: {rate}", UNITS[rate], (value,), counts=_counts(judged), interval=interval)
            for rate, value, interval in _with_intervals(judged)
        ]
    for name, rates in PUBLISHED.items():
        figures += [
            Figure("skab board", f"published, {name}: {rate}", UNITS[rate], (value,))
            for rate, value in zip(UNITS, rates, strict=True)
        ]
    return figures


def flag(readings: pd.DataFrame, quantities: Sequence[str], *, judge_load: bool) -> Bools:
    """Return which rows after the first 400 show a stronger deviation than any of those.

    Parameters
    ----------
    readings : DataFrame
        Of one run, as `pipeline.dataset.Dataset.readings` gives them.
    quantities : channels of these are judged by what is left after the load explained what it can
    judge_load : the load itself is judged, too
    """
    names = [name for name in readings.columns if quantity_of(name) in quantities]
    load = readings[LOAD].to_numpy(dtype=np.float64)
    deviations = np.empty((0, len(readings)))
    if names:
        values = np.array([_in_steps_of_scatter(readings[name]) for name in names])
        deviations = deviation(values, load[:, None])
    if judge_load:
        own = deviation(_in_steps_of_scatter(readings[LOAD])[None], np.zeros((len(load), 1)))
        deviations = np.vstack([deviations, own])
    strongest = np.nan_to_num(np.abs(deviations)).max(axis=0)
    return np.asarray(strongest[SKAB_FIT_ROWS:] > strongest[:SKAB_FIT_ROWS].max())


def deviation(values: Floats, explained_by: Floats) -> Floats:
    """Return the mean deviation of the last three rows in units of the first 400 rows' scatter, shape as `values`.

    Parameters
    ----------
    values : shape (channels, rows)
    explained_by : shape (rows, columns)
    """
    rows = np.arange(values.shape[1])
    fit_on = np.broadcast_to(rows < SKAB_FIT_ROWS, values.shape)
    predicted, scatter = ridge(explained_by[None], values, fit_on)
    scatter = np.maximum(scatter, 1e-9)[:, None]
    used = Used.of(np.ones(values.shape, dtype=bool), rows)
    held = pulled_in(used, used.pick(values - predicted), SPREAD * scatter)
    now, _ = newest(used, held / scatter, rows + 1)
    return now


def _in_steps_of_scatter(channel: pd.Series) -> Floats:
    """Temperatures as they are, the others as logs, as in the features."""
    values = channel.to_numpy(dtype=np.float64)
    return values if quantity_of(str(channel.name)) == "temperature" else np.log(np.maximum(values, 1e-6))


def _forests(archive: zipfile.ZipFile, runs: Mapping[str, pd.DataFrame]) -> dict[str, Bools]:
    """The leaderboard's isolation forest on the same rows, all eight columns of the files: whether this is its protocol."""
    flagged = {}
    for gate_id in runs:
        with archive.open(f"skab/data/{gate_id.replace('-', '/')}.csv") as file:
            columns = pd.read_csv(file, sep=";").iloc[:, 1:9].to_numpy(dtype=np.float64)
        with threadpool_limits(limits=1):
            forest = IsolationForest(random_state=0, contamination=0.0005).fit(columns[:SKAB_FIT_ROWS])
            odd = pd.Series((forest.predict(columns) < 0).astype(float))
        # its notebook takes the median of three rows
        flagged[gate_id] = (odd.rolling(3).median() > 0).to_numpy()[SKAB_FIT_ROWS:]
    return flagged


def _counts(judged: Judged) -> dict[str, int]:
    anomalous = np.concatenate([truth for _, truth in judged])
    return {"runs": len(judged), "rows": len(anomalous), "anomalous": int(anomalous.sum())}


def _rates(cells: Floats) -> dict[str, float]:
    """From true and false alarms, missed and rightly silent rows, shape (..., 4)."""
    hits, false, missed, silent = np.moveaxis(cells, -1, 0)
    return {
        "F1": 2.0 * hits / (2.0 * hits + false + missed),
        "FAR": 100.0 * false / (false + silent),
        "MAR": 100.0 * missed / (hits + missed),
    }


def _with_intervals(judged: Judged) -> list[tuple[str, float, tuple[float, float]]]:
    """Each rate with its 90 % bootstrap over whole runs."""
    cells = np.array([[(f & t).sum(), (f & ~t).sum(), (~f & t).sum(), (~f & ~t).sum()] for f, t in judged], dtype=np.float64)
    drawn = np.random.default_rng(0).integers(len(cells), size=(DRAWS, len(cells)))
    whole, again = _rates(cells.sum(axis=0)), _rates(cells[drawn].sum(axis=1))
    tail = (1.0 - CONFIDENCE) / 2.0
    return [
        (rate, float(whole[rate]), (float(np.quantile(again[rate], tail)), float(np.quantile(again[rate], 1.0 - tail))))
        for rate in UNITS
    ]
