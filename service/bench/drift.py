"""Bench of drift: is it silent without drift and in a warm season, and how soon is a channel found that has shifted?

A reference fleet stands for what a model learnt from; live fleets of other seeds are looked at every day as the service does.
A shift is put into the readings of one channel of every gate. Everything here comes from simulation.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from models import drift, registry
from models.drift import BEFORE_DAYS, FLEET_DAYS, Compared, Reference
from pipeline.dataset import open_dataset
from pipeline.features import from_dataset
from pipeline.readings import quantity_of
from pipeline.simulator import write_dataset
from service.bench.report import BenchError, Figure

BENCH = "drift"
WARM_UP_DAYS = 110
"""A live fleet has that much of a past when it is first looked at."""

FOUND_WITHIN_D = 21
SEASON_K = 5.0
REFERENCE_SEED = 500
SHIFTED = ("motor.velocity_rms", "gearbox.velocity_rms")
"""Channels that shift by half of their own scatter: of operations around the own baseline, in the logarithm."""

Progress = Callable[[int, int], None]
Change = Callable[[pd.DataFrame, pd.Series], None]
"""Changes a gate's readings in place, given the days since it began (negative before)."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What was found of a fleet on each of its days, by feature."""

    days: Sequence[Mapping[str, Compared]]

    @property
    def drifted(self) -> list[bool]:
        """Whether anything has drifted, day by day."""
        return [any(one.drifted for one in day.values()) for day in self.days]


def bench_drift(
    gates: int = 100,
    days: int = 90,
    reference_gates: int = 200,
    reference_days: int = 420,
    seeds: Sequence[int] = (601, 602, 603),
    jobs: int = 1,
    progress: Progress | None = None,
) -> list[Figure]:
    """Watch a live fleet of each seed as it is; the first one also with shifted channels and in a warm season."""
    steps, done = 2 + len(seeds) + len(SHIFTED), 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, steps)

    with tempfile.TemporaryDirectory(prefix="sluicewatch-bench-") as name:
        at = Path(name)
        registry.seed(at / "registry")
        model = registry.load(at / "registry")

        def look(folder: Path, last: int | None = None) -> tuple[pd.DataFrame, Mapping[str, float]]:
            rows = _rows(folder, jobs, last)
            return drift.gate_days(rows, model.forecaster.predict(rows)), _scatter(rows)

        write_dataset(at / "reference", gates=reference_gates, days=reference_days, seed=REFERENCE_SEED, jobs=jobs)
        learnt, scatter = look(at / "reference")
        reference = drift.learn(learnt)
        if reference is None:
            raise BenchError("the reference fleet is too small to tell what is usual; take more gates or more days")
        step()
        calm = []
        for seed in seeds:
            write_dataset(at / f"{seed}", gates=gates, days=WARM_UP_DAYS + days, seed=seed, jobs=jobs)
            calm.append(watch(reference, look(at / f"{seed}", days)[0], days))
            step()
        warnings = tuple(float(len(drift.episodes(one.drifted))) for one in calm)
        told = f"fleet warnings in {days} days, {gates} gates, no drift"
        figures = [Figure(BENCH, told, "warnings", warnings, "1 or fewer")]
        for channel in SHIFTED:
            by = 0.5 * scatter[channel.partition(".")[0]]
            _changed(at / f"{seeds[0]}", at / "changed", days, _shift(channel, by))
            seen = watch(reference, look(at / "changed", days)[0], days)
            told = f"days until {channel} of every gate, {100 * np.expm1(by):.1f} % higher, is found"
            figures.append(Figure(BENCH, told, "d", (_found_after(seen, calm[0], channel),), "7 or fewer"))
            step()
        _changed(at / f"{seeds[0]}", at / "changed", days, _warm)
        warm = watch(reference, look(at / "changed", days)[0], days)
        step()
        told = f"fleet warnings in {days} days, {SEASON_K:g} K warmer from the middle on"
        warnings = (float(len(drift.episodes(warm.drifted))),)
        return [
            *figures,
            Figure(BENCH, told, "warnings", warnings, f"{len(drift.episodes(calm[0].drifted))} of the same fleet as it is"),
        ]


def _rows(folder: Path, jobs: int, last: int | None) -> pd.DataFrame:
    """Feature rows of a fleet: of all its days, or of the last so many and those that the first of them looks back to."""
    dataset = open_dataset(folder)
    as_ofs = None
    if last is not None:
        end = pd.Timestamp(dataset.readings(dataset.gate_ids[0])["ts"].max()).floor("D")
        as_ofs = [(end - pd.Timedelta(days=n)).to_pydatetime() for n in range(last + FLEET_DAYS + BEFORE_DAYS)][::-1]
    return from_dataset(dataset, as_ofs, jobs=jobs, compact=True)


def _scatter(rows: pd.DataFrame) -> dict[str, float]:
    """By component, what one standard deviation of the velocity's baseline is worth in its logarithm: deviation over ``z``."""
    told = rows[rows["velocity_z"].abs() > 0.1]
    ratio = (told["velocity_dev"] / told["velocity_z"]).groupby(told["component"]).median()
    return {str(component): float(value) for component, value in ratio.items()}


def watch(reference: Reference, gate_days: pd.DataFrame, days: int) -> Watched:
    """Compare a fleet on each of its last days, as the service does."""
    shown = drift.with_changes(gate_days)
    bins, gates = reference.bins(shown), shown["gate_id"].to_numpy(dtype=object)
    as_of = shown["as_of"]
    found = []
    for day in sorted(as_of.unique())[-days:]:
        window = ((as_of > day - pd.Timedelta(days=FLEET_DAYS)) & (as_of <= day)).to_numpy()
        found.append(reference.compare_fleet(bins[window], gates[window]))
    return Watched(found)


def _found_after(seen: Watched, calm: Watched, channel: str) -> float:
    """Days from the shift, in the middle of what is watched, until a feature of the channel's component has drifted anew."""
    begins = len(seen.days) // 2
    component = channel.partition(".")[0]
    for day in range(begins, min(begins + FOUND_WITHIN_D, len(seen.days))):
        of_channel = [name for name, one in seen.days[day].items() if one.drifted and name.startswith(component)]
        if any(not calm.days[day][name].drifted for name in of_channel):
            return float(day - begins)
    return float(FOUND_WITHIN_D + 1)  # not found


def _changed(source: Path, target: Path, days: int, change: Change) -> None:
    """Copy a dataset, its readings changed from the middle of its last days on."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    for file in sorted((target / "readings").iterdir()):
        readings = pd.read_parquet(file)
        end = readings["ts"].max().floor("D")
        begins = end - pd.Timedelta(days=days - 1 - days // 2)
        change(readings, (readings["ts"] - begins) / pd.Timedelta(days=1))
        readings.to_parquet(file, index=False)


def _shift(channel: str, by: float) -> Change:
    def change(readings: pd.DataFrame, day: pd.Series) -> None:
        if channel in readings:
            readings[channel] = readings[channel].where(day < 0, readings[channel] * np.exp(by))

    return change


def _warm(readings: pd.DataFrame, day: pd.Series) -> None:
    """A season that comes and stays: from the middle on, over two weeks, everything grows warmer."""
    warmer_k = SEASON_K * (day / 14.0).clip(0.0, 1.0)
    for channel in readings.columns:
        if channel != "ts" and quantity_of(channel) in ("temperature", "ambient_temperature"):
            readings[channel] = readings[channel] + warmer_k
