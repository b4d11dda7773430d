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
