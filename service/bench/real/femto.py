"""FEMTO/PRONOSTIA: which minutes are among a bearing's last 30, one bearing left out at a time.

The snapshots are bursts of a dataset folder; `pipeline.spectra` makes readings of them and `pipeline.features` rows, a minute
told as a day, without one feature that tells time. The product's own learner sees five bearings and is asked about the sixth.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from models.fitting import fit
from models.labels import label
from pipeline.dataset import Dataset, open_dataset
from pipeline.features import FEATURES, from_dataset
from pipeline.readings import quantity_of
from service.bench.real.folders import write_femto
from service.bench.report import Figure

Floats = npt.NDArray[np.float64]

LAST_MINUTES = 30
GROUPS = ("acceleration", "peak", "impulse")
COUNTING_TIME = ("days_over", "rate")
"""Trends that count how long: with one of them a model could learn the age."""

DRAWS, CONFIDENCE = 200, 0.9


def bench_femto(archive: zipfile.ZipFile, folder: Path) -> list[Figure]:
    """Measure the learner on all indicators and on RMS alone, single features, and the controls."""
    write_femto(archive, folder)
    dataset = open_dataset(folder)
    readings = {gate_id: dataset.readings(gate_id) for gate_id in dataset.gate_ids}
    rows = from_dataset(dataset)
    rows = rows[rows["reason"] != "stale"].reset_index(drop=True)
    labels = label(rows, dataset.maintenance, _failed_at(dataset))
    scores = {
        "learnt from all indicators": learnt(dataset, rows, GROUPS),
        "learnt from RMS alone": learnt(dataset, rows, GROUPS[:1]),
        "strongest deviation of all indicators": rows["own_z_1"].to_numpy(dtype=np.float64),
        "deviation of RMS alone": rows["acceleration_z"].to_numpy(dtype=np.float64),
        "control, RMS as it is": _rms(readings, rows),
        "control, age": _age(readings, rows),
    }
    asked = labels["at_risk"].to_numpy()
    near = (labels["failure_d"] <= LAST_MINUTES).to_numpy()[asked]
    judged = _Judged(rows["gate_id"].to_numpy()[asked], near)
    figures = []
    for name, score in scores.items():
        for what, (value, interval) in judged.measure(score[asked]).items():
            figures.append(Figure("femto", f"{name}: {what}", "1", (value,), counts=judged.counts, interval=interval))
    all_of, rms = (scores[name][asked] for name in ("learnt from all indicators", "learnt from RMS alone"))
    for what, (value, interval) in judged.measure(all_of, less=rms).items():
        named = f"learnt from all indicators less learnt from RMS alone: {what}"
        figures.append(Figure("femto", named, "1", (value,), counts=judged.counts, interval=interval))
    return figures


def learnt(dataset: Dataset, rows: pd.DataFrame, groups: Sequence[str]) -> Floats:
    """Return the learner's log-odds of failing soon for each row, by a model that has not seen the row's bearing."""
    features = [name for name in FEATURES if name.partition("_")[0] in groups and name.partition("_")[2] not in COUNTING_TIME]
    failed_at = _failed_at(dataset)
    out = np.full(len(rows), np.nan)
    for gate_id in dataset.gate_ids:
        own = (rows["gate_id"] == gate_id).to_numpy()
        others = dataset.maintenance[dataset.maintenance["gate_id"] != gate_id]
        forecaster = fit(rows[~own], others, failed_at, features=features, seed=0)
        out[own] = forecaster.log_odds(rows[own])[:, -1]
    return out


def _failed_at(dataset: Dataset) -> pd.Series:
    """When each bearing's record ends: it was run to failure."""
    return dataset.maintenance.set_index("gate_id")["started_at"]


def _rms(readings: Mapping[str, pd.DataFrame], rows: pd.DataFrame) -> Floats:
    """The greater RMS of both directions in the snapshot before each row, in g."""
    out = np.full(len(rows), np.nan)
    for gate_id, of_bearing in readings.items():
        names = [name for name in of_bearing.columns if quantity_of(name) == "acceleration_rms"]
        own = (rows["gate_id"] == gate_id).to_numpy()
        before = np.searchsorted(of_bearing["ts"].to_numpy(), rows["as_of"][own].to_numpy()) - 1
        out[own] = of_bearing[names].max(axis=1).to_numpy()[before]
    return out


def _age(readings: Mapping[str, pd.DataFrame], rows: pd.DataFrame) -> Floats:
    """Minutes since the bearing's first snapshot, told as days."""
    started = pd.Series({gate_id: of_bearing["ts"].iloc[0] for gate_id, of_bearing in readings.items()})
    return np.asarray((rows["as_of"] - rows["gate_id"].map(started)).dt.total_seconds() / 86_400.0, dtype=np.float64)


class _Judged:
    """Rows of some bearings, of which each is among the last minutes or not; scores are judged on all of them pooled."""

    def __init__(self, gate_id: npt.NDArray[np.object_], near: npt.NDArray[np.bool_]) -> None:
        self._near = near
        self._of = [np.flatnonzero(gate_id == name) for name in np.unique(gate_id.astype(str))]
        self._drawn = np.random.default_rng(0).integers(len(self._of), size=(DRAWS, len(self._of)))

    @property
    def counts(self) -> dict[str, int]:
        """How many bearings, rows and rows near the end."""
        return {"bearings": len(self._of), "rows": len(self._near), "near": int(self._near.sum())}

    def measure(self, score: Floats, less: Floats | None = None) -> dict[str, tuple[float, tuple[float, float]]]:
        """AUC and AP, or by how much they are above those of another score; with the 90 % bootstrap over whole bearings."""
        everything = np.arange(len(self._near))
        draws = [np.concatenate([self._of[place] for place in drawn]) for drawn in self._drawn]
        tail = (1.0 - CONFIDENCE) / 2.0
        found = {}
        for what, of in (("AUC", roc_auc_score), ("AP", average_precision_score)):
            values = np.array([of(self._near[at], _filled(score)[at]) for at in (everything, *draws)])
            if less is not None:
                values -= np.array([of(self._near[at], _filled(less)[at]) for at in (everything, *draws)])
            low, high = np.quantile(values[1:], (tail, 1.0 - tail))
            found[what] = (float(values[0]), (float(low), float(high)))
        return found


def _filled(score: Floats) -> Floats:
    """A row without verdict ranks below all others: it raises no alarm."""
    return np.asarray(np.where(np.isfinite(score), score, np.nanmin(score) - 1.0))
