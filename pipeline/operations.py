"""The stream cut into gate operations and idle spells. No network, no database, no clock.

A gate is an idle machine: minutes of movement a day. The unit of evidence is one *operation*, a movement from start to
stop; what the channels show between operations tells of liveness and sensor bias. A UTC day is the unit of work: an
operation that runs over midnight is cut there, so the operations of a day depend on the readings of that day only, and
a late reading never costs more than its own day (docs/decisions/0005-day-is-the-unit-of-work.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from pipeline.readings import DAY_MS, Stretch, quantity_of

GAP_MS = 20 * 60_000
"""Two samples that show movement, further apart than this, belong to two operations."""

TAIL_MS = 30_000
"""A sample this shortly after the last one that showed movement still belongs to it (components report one by one)."""

MOVING_ABOVE = {"velocity_rms": 0.3, "acceleration_rms": 0.03}
"""Where no channel says `moving`: vibration above this (mm/s, g) of most sensors is movement. Idle noise is 0.05 to
0.15 mm/s."""

CONTEXT = ("load", "opening", "head", "ambient_temperature")
"""Quantities that explain an operation rather than judge it; kept once each, from whichever component has them."""


COLD_AFTER_MS = 3 * 3_600_000
"""A point that has rested this long is about as warm as its house; what it still shows beyond its siblings is bias."""

SPIKE_IN_MOTION, SPIKE_BESIDE, SPIKE_K = 1.8, 1.6, 8.0
"""A lone sample is a spike at this many times its operation's median and its neighbours (vibration and current), or at this many
kelvin above both neighbours."""

SPIKE_AT_REST = {"velocity_rms": 5.5, "acceleration_rms": 3.0}
"""At rest, where a neighbour at work shakes a gate, it is one at this many times its day's median, while no other of these
channels is. It counts against the sensor and is left out of nothing."""

SCALED = ("velocity_rms", "acceleration_rms", "acceleration_peak", "current")
"""Quantities whose sensor has a gain: what spoils it multiplies."""

SHOCKS = ("kurtosis", "crest_factor", "envelope_bpfo", "envelope_bpfi", "envelope_bsf", "envelope_ftf", "gear_mesh")
"""Quantities that tell of the shocks of damaged bearings and gears."""

JUDGED = (*SCALED, *SHOCKS, "temperature", "ambient_temperature")
"""Quantities whose sensor is judged by its values; of the others a day tells only that they report."""

KEYS: dict[str, tuple[str, ...]] = {"operations": ("started_ms", "ended_ms"), "days": ("day_ms",)}
"""Columns that the historian keeps beside the summary of each operation and of each day."""

PACKED = np.dtype("<f8")
"""How a summary's numbers are stored."""


@dataclass(frozen=True, slots=True)
class Segmented:
    """What a stretch of readings holds.

    Attributes
    ----------
    operations : DataFrame
        One row per operation: ``started_ms``, ``ended_ms``, ``minutes``, the `CONTEXT` columns (NaN where not measured)
        and, per channel, ``<key>:mean`` over the operation and ``<key>:high``, its 90 % quantile; for temperatures
        ``<key>:start`` (the first value of the operation) and ``<key>:max`` instead. Lone spikes are left out of all.
    days : DataFrame
        One row per UTC day with any reading: ``day_ms``, ``readings`` (rows that day), ``last_ms`` (the newest) and, per
        channel, what tells whether its sensor is to be believed, NaN on a day without a sample of it: ``<key>:n_op`` and
        ``:n_rest`` (samples in motion and at rest), ``:seen_ms`` (the newest), ``:spikes`` among ``:n_spiky`` samples that could
        tell, ``:top`` (the greatest value in motion) and ``:at_top`` (how many samples equal it), ``:same`` (how many samples up
        to the last one equal it), ``:same_ops`` (in how many operations all did), ``:last`` (that value), ``:move`` (mean in
        motion), ``:flat`` (1 where all at rest are equal) and ``:rest`` (mean at rest without the highest tenth; for temperatures
        only where the gate has stood for 3 hours).
    """

    operations: pd.DataFrame
    days: pd.DataFrame


def segment(readings: pd.DataFrame) -> Segmented:
    """Cut one gate's readings into operations and days.

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
    return _segment(ts_ms, {name: readings[name].to_numpy(dtype=float) for name in readings.columns if name != "ts"})


def _segment(ts_ms: np.ndarray, values: dict[str, np.ndarray]) -> Segmented:
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
    day_numbers, day = np.unique(ts_ms // DAY_MS, return_inverse=True)
    days = {
        "day_ms": day_numbers * DAY_MS,
        "readings": np.bincount(day, minlength=len(day_numbers)),
        "last_ms": _greatest(ts_ms, day, len(day_numbers)).astype(np.int64),
    }
    stood_ms = _stood(ts_ms, starts, ends)
    told_at_rest, raised = _raised_at_rest(values, by_quantity, np.where(member < 0, day, -1), len(day_numbers))
    for name in sorted(values):
        quantity = quantity_of(name)
        if not quantity:
            continue
        use = np.flatnonzero(np.isfinite(values[name]))
        samples = _Samples(ts_ms[use], values[name][use], member[use], day[use], stood_ms[use], len(starts), len(day_numbers))
        told = samples.counted()
        spiky = samples.spikes(quantity)
        if quantity not in ("moving", *CONTEXT):
            operations |= {f"{name}:{what}": column for what, column in samples.described(quantity, spiky).items()}
        if quantity in JUDGED:
            told |= samples.watched(quantity, spiky)
        if name in raised:
            lone = samples.stand_alone() & raised[name][use]
            told["spikes"] += np.bincount(samples.day[lone], minlength=len(day_numbers))
            told["n_spiky"] += np.bincount(samples.day[told_at_rest[name][use]], minlength=len(day_numbers))
        silent = np.isnan(told["seen_ms"])
        days |= {f"{name}:{what}": np.where(silent, np.nan, column) for what, column in told.items()}
    return Segmented(pd.DataFrame(operations), pd.DataFrame(days))


def segment_all(stretches: Sequence[Stretch]) -> list[Segmented]:
    """Cut several stretches of readings, each as `segment` does; those with the same channels at one go.

    A day is cut alone, so stretches of different gates are laid behind one another as if they were days of one gate.
    """
    alike: dict[tuple[str, ...], list[int]] = {}
    for number, stretch in enumerate(stretches):
        alike.setdefault(stretch.channels, []).append(number)
    cuts: dict[int, Segmented] = {}
    for channels, numbers in alike.items():
        instants = [stretches[number].ts_ms for number in numbers]
        days = [int(ts_ms[-1] // DAY_MS - ts_ms[0] // DAY_MS) + 1 if len(ts_ms) else 0 for ts_ms in instants]
        first = np.append(0, np.cumsum(days))
        shifts_ms = [
            int(day) * DAY_MS - (int(ts_ms[0]) // DAY_MS * DAY_MS if len(ts_ms) else 0)
            for day, ts_ms in zip(first, instants, strict=False)
        ]
        laid_ms = np.concatenate([ts_ms + shift_ms for ts_ms, shift_ms in zip(instants, shifts_ms, strict=True)])
        laid = np.concatenate([stretches[number].values for number in numbers], axis=1)
        cut = _segment(laid_ms, dict(zip(channels, laid, strict=True)))
        operations, told = (
            _taken_apart(frame, key, first[1:-1] * DAY_MS, shifts_ms)
            for frame, key in ((cut.operations, "started_ms"), (cut.days, "day_ms"))
        )
        cuts.update({number: Segmented(*parts) for number, *parts in zip(numbers, operations, told, strict=True)})
    return [cuts[number] for number in range(len(stretches))]


def _taken_apart(frame: pd.DataFrame, key: str, from_ms: np.ndarray, shifts_ms: Sequence[int]) -> list[pd.DataFrame]:
    """Rows of each stretch, with their instants as they were."""
    ends = [0, *np.searchsorted(frame[key].to_numpy(), from_ms).tolist(), len(frame)]
    shift_ms = np.repeat(shifts_ms, np.diff(ends))
    values = frame.to_numpy(dtype=float, copy=True)
    columns = pd.Index(frame.columns, dtype=object)
    values[:, [name.endswith("_ms") for name in columns]] -= shift_ms[:, None]
    return [pd.DataFrame(values[start:end], columns=columns) for start, end in pairwise(ends)]


@dataclass(frozen=True, slots=True)
class _Samples:
    """The finite samples of one channel in order of time: instant, value, operation (-1 at rest), day, and standing time."""

    ts_ms: np.ndarray
    value: np.ndarray
    operation: np.ndarray
    day: np.ndarray
    stood_ms: np.ndarray
    n_operations: int
    n_days: int

    def counted(self) -> dict[str, np.ndarray]:
        """How many samples a day has, and when the newest came."""
        in_motion = self.operation >= 0
        return {
            "n_op": np.bincount(self.day[in_motion], minlength=self.n_days).astype(float),
            "n_rest": np.bincount(self.day[~in_motion], minlength=self.n_days).astype(float),
            "seen_ms": _greatest(self.ts_ms, self.day, self.n_days),
        }

    def spikes(self, quantity: str) -> np.ndarray:
        """Which samples stand alone, far above what is beside them."""
        value, spiky = self.value, np.zeros(len(self.value), dtype=bool)
        if quantity.endswith("temperature"):
            between = np.arange(1, max(len(value) - 1, 1))
            before, after = between - 1, between + 1
            resting, day = self.operation < 0, self.day
            alike = ~resting[between] | (resting[before] & resting[after])
            # a day is cut alone: its first and last samples have one neighbour only
            alike &= (day[before] == day[between]) & (day[between] == day[after])
            near = self.ts_ms[after] - self.ts_ms[before] <= np.where(resting[between], 2 * GAP_MS, GAP_MS / 4)
            spiky[between] = alike & near & (value[between] > np.maximum(value[before], value[after]) + SPIKE_K)
            return spiky
        if quantity not in SCALED or not len(value):
            return spiky
        in_motion = self.operation >= 0
        middle = grouped_median(value, self.operation, self.n_operations)
        typical = middle[self.operation[in_motion]]
        spiky[in_motion] = self.stand_alone()[in_motion] & (value[in_motion] > SPIKE_IN_MOTION * typical)
        return spiky

    def stand_alone(self) -> np.ndarray:
        """Which samples are far above those beside them of the same operation, or of the same rest of a day."""
        value = self.value
        before, after = np.append(np.nan, value[:-1]), np.append(value[1:], np.nan)
        same_before = np.append(False, (self.operation[1:] == self.operation[:-1]) & (self.day[1:] == self.day[:-1]))
        same_after = np.append(same_before[1:], False)
        beside = np.fmax(np.where(same_before, before, np.nan), np.where(same_after, after, np.nan))
        return np.asarray(value > SPIKE_BESIDE * beside)

    def described(self, quantity: str, spiky: np.ndarray) -> dict[str, np.ndarray]:
        """What each operation shows of the channel."""
        value, operation = self.value[~spiky], self.operation[~spiky]
        if quantity == "temperature":
            return {
                "start": _first(value, operation, self.n_operations),
                "max": _greatest(value, operation, self.n_operations),
            }
        return {
            "mean": _mean(value, operation, self.n_operations),
            "high": grouped_quantile(value, operation, self.n_operations, 0.9),
        }

    def watched(self, quantity: str, spiky: np.ndarray) -> dict[str, np.ndarray]:
        """What each day tells of the channel's sensor."""
        value, day, n_days = self.value, self.day, self.n_days
        in_motion = self.operation >= 0
        moving_day = np.where(in_motion, day, -1)
        top = _greatest(value, moving_day, n_days)
        at_top = in_motion & (value == top[day])
        last = np.full(n_days, np.nan)
        last[day] = value
        # samples after the last one that differs from the day's last value
        number = np.arange(len(value))
        differs = _greatest(np.where(value != last[day], number, -1), day, n_days)
        same = number > differs[day]
        begins = in_motion & same & np.append(True, self.operation[1:] != self.operation[:-1])
        resting = np.where(in_motion, -1, day)
        spread = _greatest(value, resting, n_days) + _greatest(-value, resting, n_days)
        cold = ~in_motion & ~spiky & ((not quantity.endswith("temperature")) | (self.stood_ms >= COLD_AFTER_MS))
        return {
            "spikes": np.bincount(day[spiky], minlength=n_days).astype(float),
            "n_spiky": np.bincount(day if quantity.endswith("temperature") else day[in_motion], minlength=n_days).astype(float),
            "top": top,
            "at_top": np.bincount(day[at_top], minlength=n_days).astype(float),
            "same": np.bincount(day[same], minlength=n_days).astype(float),
            "same_ops": np.bincount(day[begins], minlength=n_days).astype(float),
            "last": last,
            "move": _mean(value, np.where(in_motion & ~spiky, day, -1), n_days),
            "flat": np.where(np.isnan(spread), np.nan, spread == 0.0),
            "rest": _low_mean(value, np.where(cold, day, -1), n_days),
        }


def _raised_at_rest(
    values: dict[str, np.ndarray], by_quantity: dict[str, list[str]], resting_day: np.ndarray, n_days: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Rows at rest that tell whether each vibration channel is raised while no other is, and those in which it is.

    A row tells only if another channel was measured then: what shakes the gate shakes more than one.
    """
    told, high = {}, {}
    for quantity, limit in SPIKE_AT_REST.items():
        for name in by_quantity.get(quantity, []):
            usual = np.append(grouped_median(values[name], resting_day, n_days), np.nan)[resting_day]
            told[name] = np.isfinite(values[name]) & (usual > 0.0)
            high[name] = told[name] & (values[name] > limit * usual)
    n_told, n_high = (sum(rows.values(), np.zeros(len(resting_day), dtype=int)) for rows in (told, high))
    return {name: rows & (n_told > 1) for name, rows in told.items()}, {
        name: rows & (n_told > 1) & (n_high == 1) for name, rows in high.items()
    }


def _stood(ts_ms: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """How long the gate has stood at each instant; the time since the first reading where no operation came before."""
    if not len(ts_ms):
        return ts_ms
    before = np.searchsorted(starts, ts_ms, side="right") - 1
    # a day is cut alone: what moved before its midnight is not known
    since = np.where(before >= 0, ends[np.maximum(before, 0)] if len(ends) else 0, -1)
    midnight = ts_ms // DAY_MS * DAY_MS
    return np.asarray(ts_ms - np.maximum(since, midnight))


def grouped_median(values: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """Median of the finite `values` of each group 0..n_groups-1; NaN where a group has none, -1 is no group.

    Examples
    --------
    >>> grouped_median(np.array([1.0, 3.0, 9.0, 5.0]), np.array([0, 0, -1, 2]), 3)
    array([ 2., nan,  5.])
    """
    values, counts, offsets = _sorted_groups(values, np.where(np.isfinite(values), group, -1), n_groups)
    medians = np.full(n_groups, np.nan)
    some = counts > 0
    low, high = offsets[some] + (counts[some] - 1) // 2, offsets[some] + counts[some] // 2
    medians[some] = (values[low] + values[high]) / 2
    return medians


def grouped_quantile(values: np.ndarray, group: np.ndarray, n_groups: int, share: float) -> np.ndarray:
    """The value below which `share` of each group lies (the nearest rank, no interpolation); -1 is no group.

    Examples
    --------
    >>> grouped_quantile(np.array([4.0, 1.0, 3.0, 2.0, 7.0]), np.array([0, 0, 0, 0, -1]), 2, 0.9)
    array([ 4., nan])
    """
    values, counts, offsets = _sorted_groups(values, group, n_groups)
    out = np.full(n_groups, np.nan)
    some = counts > 0
    out[some] = values[offsets[some] + np.ceil(share * counts[some]).astype(int) - 1]
    return out


def _sorted_groups(values: np.ndarray, group: np.ndarray, n_groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The values group by group, rising; how many each group has, and where it starts."""
    use = group >= 0
    group, values = group[use], values[use]
    order = np.lexsort((values, group))
    counts = np.bincount(group, minlength=n_groups)
    return values[order], counts, np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(int)


def _mean(values: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    use = group >= 0
    counts = np.bincount(group[use], minlength=n_groups)
    total = np.bincount(group[use], weights=values[use], minlength=n_groups)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.nan)


def _low_mean(values: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """Mean of each group without its highest tenth: a neighbour at work now and then does not count."""
    values, counts, offsets = _sorted_groups(values, group, n_groups)
    of = np.repeat(np.arange(n_groups), counts)
    # summed group by group, so that a group's mean does not depend on what else was cut with it
    kept = np.arange(len(values)) - offsets[of] < (counts - counts // 10)[of]
    return _mean(values, np.where(kept, of, -1), n_groups)


def to_rows(frame: pd.DataFrame, keys: Iterable[str], names: Sequence[str]) -> list[tuple[int | bytes, ...]]:
    """Turn operations or days into rows for the historian: the `keys` columns, then those of `names` as packed float64.

    The historian keeps a gate's `names` once. Packed, a row is read some fifty times faster than as JSON text.
    """
    keys = list(keys)
    key_rows = zip(*(frame[key].to_numpy(dtype=np.int64).tolist() for key in keys), strict=True)
    place = {name: number for number, name in enumerate(frame.columns)}
    taken = np.array([place.get(name, -1) for name in names], dtype=np.int64)
    values = np.where(taken >= 0, frame.to_numpy(dtype=PACKED)[:, taken], np.nan) if len(frame) else np.empty((0, len(names)))
    return [(*key_row, row.tobytes()) for key_row, row in zip(key_rows, values, strict=True)]


def from_rows(rows: Iterable[tuple[Any, ...]], keys: Iterable[str], names: Sequence[str]) -> pd.DataFrame:
    """Turn the historian's rows back into the frame that `to_rows` was given, its columns after the keys sorted.

    A row that is shorter than `names` was written before the gate had the last of them; those are NaN in it.
    """
    keys, rows, width = list(keys), list(rows), len(names) * PACKED.itemsize
    packed = [row[-1] for row in rows]
    if set(map(len, packed)) - {width}:
        packed = [one + np.full((width - len(one)) // PACKED.itemsize, np.nan, dtype=PACKED).tobytes() for one in packed]
    values = np.frombuffer(b"".join(packed), dtype=PACKED).reshape(len(rows), len(names))
    told, order = _in_order(tuple(keys), tuple(names))
    # one column after the other, as those who look at many rows of some columns want them
    frame = np.empty((len(told), len(rows)))
    for place in range(len(keys)):
        frame[place] = [row[place] for row in rows]
    frame[len(keys) :] = np.ascontiguousarray(values.T)[order]
    return pd.DataFrame(frame.T, columns=told, copy=False)


@lru_cache(maxsize=256)
def _in_order(keys: tuple[str, ...], names: tuple[str, ...]) -> tuple[pd.Index, np.ndarray]:
    """Keys and sorted names as columns, and the places of the sorted names; gates of one make have the same."""
    order = sorted(range(len(names)), key=names.__getitem__)
    # of pandas' kinds of index this one is the quickest to walk through
    return pd.Index([*keys, *(names[place] for place in order)], dtype=object), np.array(order, dtype=np.int64)


def summaries(frame: pd.DataFrame, keys: Iterable[str]) -> list[dict[str, float]]:
    """What each row of operations or days tells beside its `keys`: what is known, by name."""
    told = frame.drop(columns=list(keys))
    return [
        {name: value for name, value in zip(told.columns, row, strict=True) if value == value}
        for row in told.to_numpy(dtype=float).tolist()
    ]


def _moving(values: dict[str, np.ndarray], by_quantity: dict[str, list[str]], n_rows: int) -> np.ndarray:
    """1 where the gate moves, 0 where it rests, NaN where a row does not tell."""
    told = [values[name] for name in by_quantity.get("moving", [])]
    shaken = [
        np.where(np.isnan(values[name]), np.nan, values[name] > limit)
        for quantity, limit in MOVING_ABOVE.items()
        for name in by_quantity.get(quantity, [])
    ]
    stacked = np.vstack(told or shaken or [np.full(n_rows, np.nan)])
    known = ~np.isnan(stacked).all(axis=0)
    moving = np.full(n_rows, np.nan)
    # a neighbour at work shakes one sensor or the other, the gate's own movement most of them
    moving[known] = np.nanmax(stacked[:, known], axis=0) if told else np.nanmean(stacked[:, known], axis=0) > 0.5
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
    use = np.flatnonzero(group >= 0)[::-1]
    out[group[use]] = values[use]  # written backwards, so the earliest value stays
    return out


def _greatest(values: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """Greatest of the values of each group, groups following one another; NaN where there is none, -1 is no group."""
    use = np.flatnonzero(group >= 0)
    out = np.full(n_groups, np.nan)
    if len(use):
        of, kept = group[use], values[use]
        first = np.flatnonzero(np.append(True, of[1:] != of[:-1]))
        out[of[first]] = np.maximum.reduceat(kept, first)
    return out
