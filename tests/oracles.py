"""Slow, obvious versions of what the product calculates fast; tests compare the two."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from pipeline.simulator.degradation import Mode

Floats = NDArray[np.floating[Any]]
DAY_MS = 86_400_000


def operations_of_day(rows: Sequence[Mapping[str, float]]) -> list[list[Mapping[str, float]]]:
    """Cut one day's rows (each with ``ts_ms`` and ``moving``, in order) into operations by walking along them."""
    found: list[list[Mapping[str, float]]] = []
    current: list[Mapping[str, float]] = []
    for row in rows:
        if row["moving"] > 0.5 and current and row["ts_ms"] - current[-1]["ts_ms"] <= 20 * 60_000:
            current.append(row)
        elif row["moving"] > 0.5:
            current = [row]
            found.append(current)
        else:
            current = []
    return found


def spikes_of_day(rows: Sequence[Mapping[str, float]], name: str, hot: bool) -> set[float]:
    """Instants of one day at which a channel's sample stands alone, far above what is beside it."""
    samples, found = [row for row in rows if row[name] == row[name]], set()
    operations = [[row for row in operation if row[name] == row[name]] for operation in operations_of_day(rows)]
    if not hot:
        for operation in operations:
            for i, row in enumerate(operation):
                beside = [operation[j][name] for j in (i - 1, i + 1) if 0 <= j < len(operation)]
                typical = statistics.median(other[name] for other in operation)
                if beside and row[name] > 1.6 * max(beside) and row[name] > 1.8 * typical:
                    found.add(row["ts_ms"])
        return found
    for before, row, after in zip(samples, samples[1:], samples[2:], strict=False):
        at_rest = row["moving"] < 0.5
        if at_rest and (before["moving"] > 0.5 or after["moving"] > 0.5):
            continue
        apart_min = (after["ts_ms"] - before["ts_ms"]) / 60_000
        if apart_min <= (40 if at_rest else 5) and row[name] > max(before[name], after[name]) + 8.0:
            found.add(row["ts_ms"])
    return found


def lone_at_rest(rows: Sequence[Mapping[str, float]], name: str, limits: Mapping[str, float]) -> tuple[int, int]:
    """How many of one day's rows at rest tell whether a vibration channel alone is raised, and in how many it is.

    ``limits``: how many times its median at rest each such channel is raised at.
    """
    usual = {}
    for other in limits:
        resting = [row[other] for row in rows if row["moving"] < 0.5 and row[other] == row[other]]
        if resting and statistics.median(resting) > 0:
            usual[other] = statistics.median(resting)
    samples = [row for row in rows if row[name] == row[name]]
    told = found = 0
    for before, row, after in zip([None, *samples[:-1]], samples, [*samples[1:], None], strict=True):
        others = [other for other in usual if other != name and row[other] == row[other]]
        if row["moving"] > 0.5 or name not in usual or not others:
            continue
        told += 1
        beside = [near[name] for near in (before, after) if near is not None and near["moving"] < 0.5]
        raised = {other for other in (name, *others) if row[other] > limits[other] * usual[other]}
        found += raised == {name} and bool(beside) and row[name] > 1.6 * max(beside)
    return told, found


def sensor_day(
    rows: Sequence[Mapping[str, float]], name: str, hot: bool, limits: Mapping[str, float] | None = None
) -> dict[str, float]:
    """What one day's rows (``ts_ms``, ``moving``, in order) tell of a channel's sensor (``hot``: a thermometer)."""
    samples = [row for row in rows if row[name] == row[name]]
    if not samples:
        return {}
    spikes = spikes_of_day(rows, name, hot)
    told_at_rest, spikes_at_rest = (0, 0) if hot else lone_at_rest(rows, name, limits or {})
    moving, resting = [r for r in samples if r["moving"] > 0.5], [r for r in samples if r["moving"] < 0.5]
    last = samples[-1][name]
    same = []
    for row in reversed(samples):
        if row[name] != last:
            break
        same.append(row["ts_ms"])
    measured = [[row["ts_ms"] for row in op if row[name] == row[name]] for op in operations_of_day(rows)]
    repeated = [op for op in measured if op and all(ts_ms in same for ts_ms in op)]
    cold = [r for r in resting if r["ts_ms"] not in spikes and (not hot or _stood_ms(rows, r["ts_ms"]) >= 3 * 3_600_000)]
    calm = [r[name] for r in moving if r["ts_ms"] not in spikes]
    low = sorted(r[name] for r in cold)[: len(cold) - len(cold) // 10]
    found = {
        "n_op": len(moving),
        "n_rest": len(resting),
        "seen_ms": samples[-1]["ts_ms"],
        "spikes": len(spikes) + spikes_at_rest,
        "n_spiky": len(samples) if hot else len(moving) + told_at_rest,
        "at_top": 0,
        "same": len(same),
        "same_ops": len(repeated),
        "last": last,
    }
    if moving:
        found["top"] = max(r[name] for r in moving)
        found["at_top"] = sum(r[name] == found["top"] for r in moving)
    if calm:
        found["move"] = statistics.fmean(calm)
    if resting:
        found["flat"] = float(len({r[name] for r in resting}) == 1)
    if low:
        found["rest"] = statistics.fmean(low)
    return {what: float(value) for what, value in found.items()}


def _stood_ms(rows: Sequence[Mapping[str, float]], at_ms: float) -> float:
    """How long the gate has stood, as far as this day tells."""
    moved = [row["ts_ms"] for row in rows if row["moving"] > 0.5 and row["ts_ms"] <= at_ms]
    return at_ms - max([*moved, at_ms // DAY_MS * DAY_MS])


def merged(rows: Sequence[tuple[int, str, float]]) -> dict[tuple[int, str], float]:
    """Readings (time, channel, value) in any order and number; the greater of two values for one key stays."""
    kept: dict[tuple[int, str], float] = {}
    for ts_ms, channel, value in rows:
        kept[(ts_ms, channel)] = max(value, kept.get((ts_ms, channel), value))
    return kept


def median(values: Sequence[float]) -> float:
    """The textbook median."""
    return statistics.median(values)


def failure_probability(mode: Mode, z: float, tau_d: float, usage: Floats | float) -> Any:
    """Probability that a fault of progress ``z`` and scale ``tau_d`` has reached 1 after ``usage`` more usage days.

    Gamma process: 1 - F(1 - z; shape usage / (tau c²), scale c²). A fault that may heal: the Wiener process of drift 1 / tau and
    variance c² / tau between the barriers 0 and 1, by the method of images; without the lower barrier it would be the inverse
    Gaussian distribution. Failures on demand are not in it. 0 where ``usage`` is 0.

    References
    ----------
    van Noortwijk (2009), "A survey of the application of gamma processes in maintenance"; Cox and Miller (1965), "The Theory of
    Stochastic Processes", section 5.7.
    """
    c2, usage = mode.spread**2, np.asarray(usage, dtype=np.float64)
    if not mode.heals:
        return np.asarray(special.gammaincc(usage / (tau_d * c2), (1.0 - z) / c2))
    with np.errstate(divide="ignore", invalid="ignore"):
        total = _first_passage(1.0 - z, usage / tau_d, c2)
        for n in (1, 2, 3):
            total = total + np.exp(-2 * n / c2) * _first_passage(2 * n + 1.0 - z, usage / tau_d, c2)
            total = total - np.exp(-2 * (n - 1 + z) / c2) * _first_passage(2 * n - 1.0 + z, usage / tau_d, c2)
    return np.where(usage > 0.0, total, 0.0)


def _first_passage(distance: float, time: Floats, variance: float) -> Floats:
    """Inverse Gaussian: chance that a Wiener process of drift 1 has gone ``distance`` up by ``time``."""
    root = np.sqrt(variance * time)
    late = np.exp(2 * distance / variance + special.log_ndtr((-time - distance) / root))
    return np.asarray(special.ndtr((time - distance) / root) + late)
