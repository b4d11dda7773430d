"""NASA IMS bearings, sets 2 and 3: when does a failing bearing raise an alarm that stays, and what do healthy ones raise?

The snapshots are readings of dataset folders, an hour told as a day, for a record of a week holds no baseline of a month.
Deviations are the features' own, cases open and close by the product's policy, and the threshold for one set is chosen on the
other: the lowest at which no healthy bearing of it raises a case. Beside it what the product says when nothing is stretched.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from models import registry
from models.policy import CaseState, Policy, ScoredDay, next_state
from pipeline.dataset import open_dataset
from pipeline.features import from_dataset
from pipeline.trends import OVER_Z
from service.bench.real.folders import IMS_SETS, ImsSet, write_ims, write_ims_raw
from service.bench.report import Figure

Floats = npt.NDArray[np.float64]

STRETCH = 24
"""An hour is told as a day."""

MONTH_D = 30.4375
THRESHOLDS_Z = np.round(np.arange(OVER_Z, 1000.0, 0.1), 1)
"""What a threshold may be, in units of the baseline's scatter; below 2 nothing counts as a deviation anywhere in the product."""

BPFO = "motor.bearing_de.envelope_bpfo"
BASELINE_HOURS = 30


@dataclass(frozen=True, slots=True)
class Alarm:
    """When a case opened, in days before the end of the record, and whether it was still open then."""

    days_before: float
    stays: bool


def bench_ims(archive: zipfile.ZipFile, folder: Path) -> list[Figure]:
    """Measure both directions, with own baselines and against the rig's other bearings, and the envelope of the raw snapshots."""
    rows = {of.name: _rows(archive, folder / f"{of.name}-stretched", of, STRETCH) for of in IMS_SETS}
    figures = []
    for fit_on, test_on in (IMS_SETS, IMS_SETS[::-1]):
        for evidence, of_neighbours in (("own baseline", False), ("own baseline, less the other bearings", True)):
            found, ours = (shown(rows[of.name], "acceleration_z", of_neighbours) for of in (fit_on, test_on))
            threshold = choose(found, fit_on)
            named = f"{test_on.name}, {evidence}"
            figures.append(Figure("ims", f"{named}: threshold from {fit_on.name}", "scatter", (threshold,)))
            figures += _alarms(named, ours, test_on, threshold)
    figures += _shipped(rows)
    figures += _real_time(archive, folder)
    return [*figures, *_raw(archive, folder)]


def shown(rows: pd.DataFrame, feature: str, of_neighbours: bool) -> dict[str, Floats]:
    """Return each bearing's evidence hour by hour, NaN where it has none; `of_neighbours` takes off the mean of the others.

    What shakes the whole rig shakes every bearing; one that wears shakes itself the most.
    """
    table = rows.pivot_table(index="as_of", columns="gate_id", values=feature, dropna=False)
    if of_neighbours:
        table = pd.DataFrame({name: table[name] - table.drop(columns=name).mean(axis=1) for name in table})
    return {str(name): table[name].to_numpy(dtype=np.float64) for name in table}


def choose(evidence: Mapping[str, Floats], of: ImsSet) -> float:
    """Return the lowest threshold at which no healthy bearing of a set raises a case."""
    healthy = [z for name, z in evidence.items() if name != of.gate_id(of.failed)]
    return next(float(z) for z in THRESHOLDS_Z if not any(alarms(one, float(z)) for one in healthy))


def alarms(evidence: Floats, threshold: float) -> list[Alarm]:
    """Return the cases that the product's policy opens when evidence (in scatters) takes the place of a probability's odds.

    Opened by 2 of 3 hours at the threshold, closed by 5 in a row below half of it.
    """
    state, opened, found = CaseState(), -1, []
    policy = Policy(open_at=_of_odds(threshold))
    for hour, z in enumerate(evidence):
        was_open = state.open
        state = next_state(state, ScoredDay(_of_odds(float(z)) if np.isfinite(z) else None), policy)
        if state.open and not was_open:
            opened = hour
        elif was_open and not state.open:
            found.append(Alarm((len(evidence) - 1 - opened) / STRETCH, stays=False))
    if state.open:
        found.append(Alarm((len(evidence) - 1 - opened) / STRETCH, stays=True))
    return found


def _of_odds(odds: float) -> float:
    """A probability; 0 where the evidence speaks against."""
    return max(odds, 0.0) / (1.0 + max(odds, 0.0))


def _alarms(named: str, evidence: Mapping[str, Floats], of: ImsSet, threshold: float) -> list[Figure]:
    figures, false, hours = [], 0, 0
    for name, z in evidence.items():
        raised = alarms(z, threshold)
        stays = [alarm.days_before for alarm in raised if alarm.stays]
        counts = {"alarms": len(raised)}
        bearing = name.rpartition("-")[2]
        if name == of.gate_id(of.failed):
            named_one = f"{named}: {bearing} (fails), its alarm that stays opens before the end"
            figures.append(Figure("ims", named_one, "d", (max(stays, default=0.0),), counts=counts))
            figures.append(
                Figure("ims", f"{named}: {bearing} (fails), alarms that closed again", "alarms", (len(raised) - len(stays),))
            )
        else:
            figures.append(Figure("ims", f"{named}: {bearing} (healthy), false alarms", "alarms", (len(raised),), counts=counts))
            earliest = max((alarm.days_before for alarm in raised), default=0.0)
            figures.append(Figure("ims", f"{named}: {bearing} (healthy), earliest false alarm before the end", "d", (earliest,)))
            false, hours = false + len(raised), hours + len(z)
    months = hours / STRETCH / MONTH_D
    figures.append(Figure("ims", f"{named}: false alarms per healthy bearing-month", "1/month", (false / months,)))
    return figures


def _shipped(rows: Mapping[str, pd.DataFrame]) -> list[Figure]:
    """Cases that the model in the box opens on the same stretched rows, at its own threshold."""
    with tempfile.TemporaryDirectory(prefix="sluicewatch-bench-") as name:
        registry.seed(Path(name) / "registry")
        model = registry.load(Path(name) / "registry")
    figures = []
    for set_name, of_set in rows.items():
        forecasts = model.forecaster.predict(of_set)
        forecasts = forecasts[forecasts["component"] != ""]
        opened = sum(_opens(p_14d, model.policy) for _, p_14d in forecasts.groupby("gate_id")["p_14d"])
        figures.append(Figure("ims", f"{set_name}, the shipped model: bearings it opens a case for", "bearings", (opened,)))
    return figures


def _opens(p_14d: pd.Series, policy: Policy) -> bool:
    state, opened = CaseState(), False
    for p in p_14d.to_numpy(dtype=np.float64):
        state = next_state(state, ScoredDay(float(p) if np.isfinite(p) else None), policy)
        opened |= state.open
    return opened


def _real_time(archive: zipfile.ZipFile, folder: Path) -> list[Figure]:
    """How many days can be scored when a day is a day: a baseline needs ten."""
    figures = []
    for of in IMS_SETS:
        rows = _rows(archive, folder / f"{of.name}-real", of, 1)
        scored = (rows["reason"] == "").groupby(rows["gate_id"]).sum()
        days = rows["gate_id"].value_counts()
        counts = {"days": int(days.max())}
        figures.append(Figure("ims", f"{of.name}, in real time: days with a verdict", "d", (float(scored.max()),), counts=counts))
    return figures


def _raw(archive: zipfile.ZipFile, folder: Path) -> list[Figure]:
    """The envelope at the outer race's frequency in the raw snapshots, over its median in the first 30 hours."""
    of = IMS_SETS[0]
    write_ims_raw(archive, folder / "raw", of, STRETCH)
    dataset = open_dataset(folder / "raw")
    figures = []
    evidence = shown(from_dataset(dataset), "impulse_z", of_neighbours=False)
    for gate_id in dataset.gate_ids:
        line = dataset.readings(gate_id)[BPFO].to_numpy(dtype=np.float64)
        grown = np.median(line[-BASELINE_HOURS:]) / np.median(line[:BASELINE_HOURS])
        bearing = gate_id.rpartition("-")[2] + (" (fails)" if gate_id == of.gate_id(of.failed) else " (healthy)")
        named = f"{of.name}, raw snapshots: {bearing}"
        figures.append(Figure("ims", f"{named}, envelope at BPFO, last 30 h over first 30 h", "x", (float(grown),)))
        raised = [alarm.days_before for alarm in alarms(evidence[gate_id], OVER_Z) if alarm.stays]
        told = f"{named}, shocks beyond {OVER_Z:g} scatters stay from before the end"
        figures.append(Figure("ims", told, "d", (max(raised, default=0.0),)))
    return figures


def _rows(archive: zipfile.ZipFile, folder: Path, of: ImsSet, stretch: int) -> pd.DataFrame:
    write_ims(archive, folder, of, stretch)
    return from_dataset(open_dataset(folder))
