"""Slow, obvious versions of what the product calculates fast; tests compare the two."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

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
