"""The stream cut into gate operations and idle spells. No network, no database, no clock.

A gate is an idle machine: minutes of movement a day. The unit of evidence is one *operation*, a movement from start to
stop; what the channels show between operations tells of liveness and sensor bias. A UTC day is the unit of work: an
operation that runs over midnight is cut there, so the operations of a day depend on the readings of that day only, and
a late reading never costs more than its own day (docs/decisions/0005-day-is-the-unit-of-work.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.readings import DAY_MS, quantity_of

GAP_MS = 20 * 60_000
"""Two samples that show movement, further apart than this, belong to two operations."""

TAIL_MS = 30_000
"""A sample this shortly after the last one that showed movement still belongs to it (components report one by one)."""

MOVING_ABOVE = {"velocity_rms": 0.3, "acceleration_rms": 0.03}
"""Where no channel says `moving`: vibration above this (mm/s, g) is movement. Idle noise is 0.05 to 0.15 mm/s."""

CONTEXT = ("load", "opening", "head", "ambient_temperature")
"""Quantities that explain an operation rather than judge it; kept once each, from whichever component has them."""


@dataclass(frozen=True, slots=True)
class Segmented:
    """What a stretch of readings holds.

    Attributes
    ----------
    operations : DataFrame
        One row per operation: ``started_ms``, ``ended_ms``, ``minutes``, the `CONTEXT` columns (NaN where not measured)
        and, per channel, ``<key>:median`` over the operation; for temperatures ``<key>:start`` (the first value of the
        operation) and ``<key>:max`` instead.
    rests : DataFrame
        One row per UTC day with any reading: ``day_ms``, ``readings`` (rows that day), ``last_ms`` (the newest), and
        per channel ``<key>:median`` over the samples between operations.
    """

    operations: pd.DataFrame
    rests: pd.DataFrame


def segment(readings: pd.DataFrame) -> Segmented:
    """Cut one gate's readings into operations and rests.

    Parameters
    ----------
    readings : DataFrame
        Column ``ts`` (datetime64[ms, UTC]), sorted and unique, and one float column per channel named by `Channel.key`;
        whole UTC days, any number of them.

    Returns
    -------
    Segmented
        The result for many days is the concatenation of the results for each day alone.
    """
    ts_ms = readings["ts"].to_numpy(dtype="datetime64[ms]").astype(np.int64)
    values = {name: readings[name].to_numpy(dtype=float) for name in readings.columns if name != "ts"}
    by_quantity: dict[str, list[str]] = {}
    for name in values:
        by_quantity.setdefault(quantity_of(name), []).append(name)

    moving = _moving(values, by_quantity, len(ts_ms))
    starts, ends = _bounds(ts_ms, moving)
    member = np.searchsorted(starts, ts_ms, side="right") - 1
    if len(starts):
        inside = (member >= 0) & (ts_ms <= ends[member] + TAIL_MS) & (ts_ms // DAY_MS == starts[member] // DAY_MS)
        member = np.where(inside & (np.isnan(moving) | (moving > 0.5)), member, -1)

    operations = {
        "started_ms": starts,
        "ended_ms": ends,
        "minutes": (ends - starts) / 60_000.0,
    }
    for quantity in CONTEXT:
        operations[quantity] = _context(values, by_quantity.get(quantity, []), member, ts_ms, starts)
    days, day_index = np.unique(ts_ms // DAY_MS, return_inverse=True)
    rest_index = np.where(member < 0, day_index, -1)
    rests = {
        "day_ms": days * DAY_MS,
        "readings": np.bincount(day_index, minlength=len(days)),
        "last_ms": _last(ts_ms, day_index, len(days)),
    }
    for name in sorted(values):
        quantity = quantity_of(name)
        if quantity in ("", "moving", *CONTEXT):
            continue
        if quantity == "temperature":
            operations[f"{name}:start"] = _first(values[name], member, len(starts))
            operations[f"{name}:max"] = _greatest(values[name], member, len(starts))
        else:
            operations[f"{name}:median"] = grouped_median(values[name], member, len(starts))
        rests[f"{name}:median"] = grouped_median(values[name], rest_index, len(days))
    return Segmented(pd.DataFrame(operations), pd.DataFrame(rests))


def grouped_median(values: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """Median of the finite `values` of each group 0..n_groups-1; NaN where a group has none, -1 is no group.

    Examples
    --------
    >>> grouped_median(np.array([1.0, 3.0, 9.0, 5.0]), np.array([0, 0, -1, 2]), 3)
    array([ 2., nan,  5.])
    """
    use = (group >= 0) & np.isfinite(values)
    group, values = group[use], values[use]
    order = np.lexsort((values, group))
    values = values[order]
    counts = np.bincount(group, minlength=n_groups)
    offsets = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(int)
    medians = np.full(n_groups, np.nan)
    some = counts > 0
    low, high = offsets[some] + (counts[some] - 1) // 2, offsets[some] + counts[some] // 2
    medians[some] = (values[low] + values[high]) / 2
    return medians


def to_rows(frame: pd.DataFrame, keys: Iterable[str]) -> list[tuple[int | str, ...]]:
    """Turn operations or rests into rows for the historian: the `keys` columns, then the rest as one JSON text."""
    keys = list(keys)
    names = [name for name in frame.columns if name not in keys]
    key_rows = zip(*(frame[key].to_numpy(dtype=np.int64).tolist() for key in keys), strict=True)
    value_rows = frame[names].to_numpy(dtype=float).tolist()
    return [
        (*key_row, json.dumps({name: value for name, value in zip(names, row, strict=True) if value == value}))
        for key_row, row in zip(key_rows, value_rows, strict=True)
    ]


def from_rows(rows: Iterable[tuple[int | str, ...]], keys: Iterable[str]) -> pd.DataFrame:
    """Turn the historian's rows back into the frame that `to_rows` was given (absent values are NaN)."""
    keys = list(keys)
    records = [(row[:-1], json.loads(str(row[-1]))) for row in rows]
    names = sorted({name for _, values in records for name in values})
    columns: dict[str, np.ndarray] = {
        key: np.array([key_row[i] for key_row, _ in records], dtype=np.int64) for i, key in enumerate(keys)
    }
    for name in names:
        columns[name] = np.array([values.get(name, np.nan) for _, values in records], dtype=float)
    return pd.DataFrame(columns)


def _moving(values: dict[str, np.ndarray], by_quantity: dict[str, list[str]], n_rows: int) -> np.ndarray:
    """1 where the gate moves, 0 where it rests, NaN where a row does not tell."""
    told = [values[name] for name in by_quantity.get("moving", [])]
    if not told:
        told = [
            np.where(np.isnan(values[name]), np.nan, values[name] > limit)
            for quantity, limit in MOVING_ABOVE.items()
            for name in by_quantity.get(quantity, [])
        ]
    if not told:
        return np.full(n_rows, np.nan)
    stacked = np.vstack(told)
    known = ~np.isnan(stacked).all(axis=0)
    moving = np.full(n_rows, np.nan)
    moving[known] = np.nanmax(stacked[:, known], axis=0)
    return moving


def _bounds(ts_ms: np.ndarray, moving: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = np.flatnonzero(~np.isnan(moving))
    at, on = ts_ms[known], moving[known] > 0.5
    if not on.any():
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    continues = np.zeros(len(at), dtype=bool)
    continues[1:] = on[1:] & on[:-1] & (np.diff(at) <= GAP_MS) & (np.diff(at // DAY_MS) == 0)
    is_start = on & ~continues
    is_end = on & ~np.concatenate([continues[1:], [False]])
    return at[is_start], at[is_end]


def _context(
    values: dict[str, np.ndarray], names: list[str], member: np.ndarray, ts_ms: np.ndarray, starts: np.ndarray
) -> np.ndarray:
    """Median of a context quantity over each operation, else its newest value of that day before the operation."""
    out = np.full(len(starts), np.nan)
    for name in sorted(names):
        median = grouped_median(values[name], member, len(starts))
        told = np.flatnonzero(np.isfinite(values[name]))
        if len(told):
            before = np.searchsorted(ts_ms[told], starts, side="right") - 1
            at = told[np.maximum(before, 0)]
            same_day = (before >= 0) & (ts_ms[at] // DAY_MS == starts // DAY_MS)
            median = np.where(np.isnan(median) & same_day, values[name][at], median)
        out = np.where(np.isnan(out), median, out)
    return out


def _first(values: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    out = np.full(n_groups, np.nan)
    use = np.flatnonzero((group >= 0) & np.isfinite(values))[::-1]
    out[group[use]] = values[use]  # written backwards, so the earliest value stays
    return out


def _greatest(values: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    out = np.full(n_groups, -np.inf)
    use = (group >= 0) & np.isfinite(values)
    np.maximum.at(out, group[use], values[use])
    return np.where(np.isinf(out), np.nan, out)


def _last(ts_ms: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    out = np.zeros(n_groups, dtype=np.int64)
    np.maximum.at(out, group, ts_ms)
    return out
