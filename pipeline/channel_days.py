"""What days tell of the channels of several gates, side by side as arrays, and statistics of stretches of days.

Every channel is a row, every day with readings a column; a gate's first such day is in the first column, and behind its last one
stand NaN. Nothing here looks at later days than it says, so what gates share a table changes no number. No network, database
or clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.readings import DAY_MS, quantity_of

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Strings = npt.NDArray[np.str_]

TOLD = ("n_op", "n_rest", "seen_ms", "spikes", "n_spiky", "top", "at_top", "same", "same_ops", "last", "move", "flat", "rest")
"""What a day tells of a channel; see `pipeline.operations.Segmented`."""

FIT_AGES_D = (10, 15, 20, 30)
"""A channel's reference is fitted anew at these ages of the cycle (days), and is final at 30; before 10 there is none."""

MOST_DAYS = 14
"""Most days of a window of operations."""

REST_SAMPLES = 8
"""A day with fewer samples at rest is no day at rest."""

CycleStarts = Callable[[str, Ints], Ints]
"""When a component's cycle started (epoch ms) as of each of some instants."""


@dataclass(frozen=True, slots=True)
class GateDays:
    """What the sensors of one gate are judged by.

    Attributes
    ----------
    days : DataFrame
        As `pipeline.operations.Segmented` gives them.
    started_ms : starts of the operations, rising
    cycle_starts : see `pipeline.cycles.cycle_state`
    intervals_s : expected reporting intervals at rest, by channel; learnt from the channel's own days where not given
    """

    days: pd.DataFrame
    started_ms: Ints
    cycle_starts: CycleStarts
    intervals_s: Mapping[str, float]

    @property
    def day_ms(self) -> Ints:
        """The days that have readings, rising."""
        return self.days["day_ms"].to_numpy(dtype=np.int64)

    @property
    def layout(self) -> Layout:
        """Its channels, and where what is told of them stands."""
        return layout_of(tuple(self.days.columns))


@dataclass(frozen=True, slots=True)
class Layout:
    """Which channels the columns of days are of.

    Attributes
    ----------
    channels : keys
    quantity, component : of each channel
    places : the column of each of `TOLD` of each channel, -1 where there is none; shape (TOLD, channels)
    """

    channels: tuple[str, ...]
    quantity: Strings
    component: Strings
    places: Ints

    @property
    def is_thermometer(self) -> Bools:
        """Whether a channel is a component's temperature."""
        return np.asarray(self.quantity == "temperature")


@lru_cache(maxsize=256)
def layout_of(columns: tuple[str, ...]) -> Layout:
    """The layout of the columns of days; gates of one make have the same."""
    channels = tuple(name.removesuffix(":seen_ms") for name in columns if name.endswith(":seen_ms"))
    place = {name: number for number, name in enumerate(columns)}
    return Layout(
        channels,
        np.array([quantity_of(channel) for channel in channels], dtype=np.str_),
        np.array([channel.partition(".")[0] for channel in channels], dtype=np.str_),
        np.array([[place.get(f"{channel}:{told}", -1) for channel in channels] for told in TOLD], dtype=np.int64),
    )


class Table:
    """The days of gates that have some, and channels; arrays of shape (channels of all gates, most days of one).

    Attributes
    ----------
    day_ms : shape (gates, days); it goes on behind a gate's last day
    n_days : of each gate
    first_row : the first channel of each gate, and the end
    gate : of each channel
    quantity, component : of each channel
    """

    def __init__(self, gates: Sequence[GateDays]) -> None:
        self._gates = gates
        layouts = [gate.layout for gate in gates]
        days_ms = [gate.day_ms for gate in gates]
        self.n_days = np.array([len(day_ms) for day_ms in days_ms])
        self.first_row = np.append(0, np.cumsum([len(layout.channels) for layout in layouts]))
        self.gate = np.repeat(np.arange(len(gates)), np.diff(self.first_row))
        self.quantity = np.concatenate([layout.quantity for layout in layouts])
        self.component = np.concatenate([layout.component for layout in layouts])
        self.columns = np.arange(int(self.n_days.max()))
        self.day_ms = np.array([day_ms[-1] for day_ms in days_ms])[:, None] + (self.columns - self.n_days[:, None] + 1) * DAY_MS
        told = np.full((len(TOLD), len(self.gate), len(self.columns)), np.nan)
        for number, (gate, layout, day_ms) in enumerate(zip(gates, layouts, days_ms, strict=True)):
            self.day_ms[number, : len(day_ms)] = day_ms
            values = gate.days.to_numpy(dtype=np.float64)[:, layout.places.ravel()].T.reshape(*layout.places.shape, len(day_ms))
            values[layout.places < 0] = np.nan
            told[:, self.first_row[number] : self.first_row[number + 1], : len(day_ms)] = values
        self._told = dict(zip(TOLD, told, strict=True))
        self._counts: dict[str, Floats] = {}
        self._usual: dict[str, Floats] = {}
        self._windows: dict[int, Ints] = {}
        # a handful of samples between two operations is no day at rest
        self._told["rest"] = np.where(self.count("n_rest") >= REST_SAMPLES, self["rest"], np.nan)

    def __getitem__(self, told: str) -> Floats:
        return self._told[told]

    def count(self, told: str) -> Floats:
        """A column of counts: 0 on days without it."""
        if told not in self._counts:
            self._counts[told] = np.where(np.isnan(self[told]), 0.0, self[told])
        return self._counts[told]

    def usual(self, told: str) -> Floats:
        """Median of each cycle's first days; several kinds of fault are measured by it."""
        if told not in self._usual:
            self._usual[told] = self.fits.reference(self[told], median)
        return self._usual[told]

    def rows_of(self, of: Bools) -> list[Ints]:
        """Rows of some channels, gate by gate."""
        return [np.flatnonzero(of[start:end]) + start for start, end in zip(self.first_row[:-1], self.first_row[1:], strict=True)]

    def greatest(self, values: Floats) -> Floats:
        """The greatest of the channels of each gate, shape (gates, days)."""
        return np.asarray(np.maximum.reduceat(values, self.first_row[:-1], axis=0))

    def window(self, enough: int) -> Ints:
        """For each gate and day the latest day from which on `enough` operations were made, or `MOST_DAYS` before where fewer."""
        if enough not in self._windows:
            self._windows[enough] = np.array([_window_starts(operations, enough) for operations in self._operations])
        return self._windows[enough]

    @cached_property
    def _operations(self) -> Ints:
        """How many each gate made each day."""
        ends_ms = np.column_stack([self.day_ms, self.day_ms[:, -1] + DAY_MS])
        return np.array(
            [np.diff(np.searchsorted(gate.started_ms, of_gate)) for gate, of_gate in zip(self._gates, ends_ms, strict=True)]
        )

    @cached_property
    def fits(self) -> Fits:
        """Which references there are."""
        part_of = np.zeros(len(self.gate), dtype=np.int64)
        gate_of: list[int] = []
        starts_ms: list[Ints] = []
        for number, gate in enumerate(self._gates):
            rows, n = slice(self.first_row[number], self.first_row[number + 1]), self.n_days[number]
            for name in sorted(set(self.component[rows].tolist())):
                part_of[rows][self.component[rows] == name] = len(gate_of)
                gate_of.append(number)
                starts_ms.append(np.zeros(len(self.columns), dtype=np.int64))
                starts_ms[-1][:n] = gate.cycle_starts(name, self.day_ms[number, :n] + DAY_MS)
        return Fits.of(part_of, np.array(starts_ms), np.array(gate_of), self.day_ms, self.columns < self.n_days[:, None])


@dataclass(frozen=True, slots=True)
class Fits:
    """Which references there are, and which one is for which channel and day.

    Attributes
    ----------
    channel, since, until : for every reference its channel, and the first and the end of the columns of days it is made from
    of_day : index of the reference for each channel and day, -1 where there is none yet
    places, beyond : where the days of each reference lie in a flat array of channels and days; which are not its own any more
    """

    channel: Ints
    since: Ints
    until: Ints
    of_day: Ints
    places: Ints
    beyond: Bools

    @classmethod
    def of(cls, part_of: Ints, start_ms: Ints, gate_of: Ints, day_ms: Ints, is_day: Bools) -> Fits:
        """For every cycle and age at which references are fitted: whose, for which days, from which.

        Parameters
        ----------
        part_of : the component (numbered through all gates) of each channel
        start_ms : start of each component's cycle as known at the end of each day, shape (components, days)
        gate_of : the gate of each component
        day_ms, is_day : the days of each gate, and which are; shape (gates, days)
        """
        age = np.searchsorted(FIT_AGES_D, (day_ms[gate_of] + DAY_MS - start_ms) / DAY_MS, side="right") - 1
        age[~is_day[gate_of]] = -1
        begins = age >= 0
        begins[:, 1:] &= (age[:, 1:] != age[:, :-1]) | (start_ms[:, 1:] != start_ms[:, :-1])
        part, day = np.nonzero(begins)
        since_ms = start_ms[part, day]
        until_ms = since_ms + np.array(FIT_AGES_D)[age[part, day]] * DAY_MS
        # all gates' days one after the other, still rising
        shift = np.arange(len(day_ms)) << 44
        every = (day_ms + shift[:, None]).ravel()
        gate = gate_of[part]
        since, until = (np.searchsorted(every, ms + shift[gate]) - gate * day_ms.shape[1] for ms in (since_ms, until_ms))

        n_of_part = begins.sum(axis=1)
        first_of_part, n = np.cumsum(n_of_part) - n_of_part, n_of_part[part_of]
        first = np.cumsum(n) - n
        which = np.arange(n.sum()) + np.repeat(first_of_part[part_of] - first, n)
        number = np.cumsum(begins, axis=1) - 1
        of_day = np.where((age >= 0)[part_of], number[part_of] + first[:, None], -1)
        channel, since, until = np.repeat(np.arange(len(part_of)), n), since[which], until[which]
        days = since[:, None] + np.arange(int((until - since).max(initial=0)))
        places = channel[:, None] * day_ms.shape[1] + np.minimum(days, day_ms.shape[1] - 1)
        return cls(channel, since, until, of_day, places, days >= until[:, None])

    def made_from(self, values: Floats) -> Floats:
        """The values of each reference's days, shape (references, most days of one); NaN beyond its own days."""
        found = values.ravel()[self.places]
        found[self.beyond] = np.nan
        return found

    def spread(self, references: Floats) -> Floats:
        """References where they are for: shape (channels, days)."""
        return np.append(references, np.nan)[self.of_day]

    def reference(self, values: Floats, of: Callable[[Floats], Floats]) -> Floats:
        """Statistic `of` the first days of each cycle, for every day that has one; NaN for the others."""
        return self.spread(of(self.made_from(values)))


def quantile(values: Floats, share: float) -> Floats:
    """Quantile (nearest rank) of the finite values of each row (last axis); NaN where a row has none."""
    if not values.shape[-1]:
        return np.full(values.shape[:-1], np.nan)
    ordered = np.sort(values, axis=-1)
    counts = np.isfinite(values).sum(axis=-1)
    at = np.maximum(np.ceil(share * counts).astype(int) - 1, 0)
    found = np.take_along_axis(ordered, at[..., None], axis=-1)[..., 0]
    return np.where(counts > 0, found, np.nan)


def median(values: Floats) -> Floats:
    return quantile(values, 0.5)


def greatest(values: Floats) -> Floats:
    return quantile(values, 1.0)


def scatter(values: Floats) -> Floats:
    return np.asarray(1.4826 * median(np.abs(values - median(values)[:, None])))


def mean(values: Floats) -> Floats:
    """Mean of the finite values of each row (last axis); NaN where a row has none."""
    known = np.isfinite(values)
    count = known.sum(axis=-1)
    return np.where(count > 0, np.where(known, values, 0.0).sum(axis=-1) / np.maximum(count, 1), np.nan)


def beside(values: Floats, groups: Sequence[Ints]) -> Floats:
    """The rows of each group side by side, shape (groups, days, rows of the largest); NaN where a group has fewer."""
    rows = np.full((len(groups), max(map(len, groups), default=0)), -1, dtype=np.int64)
    for number, of_group in enumerate(groups):
        rows[number, : len(of_group)] = of_group
    return np.moveaxis(np.where((rows >= 0)[..., None], values[rows], np.nan), 1, -1)


def last_days(values: Floats, days: int) -> Floats:
    """The columns up to each day, the newest last, as a third axis; NaN before the first."""
    return sliding(_padded(values, days), days)


def days_back(values: Floats, days: int) -> list[Floats]:
    """The columns of each day, of the day before it, and so on; NaN before the first."""
    padded = _padded(values, days)
    return [padded[:, days - 1 - lag : padded.shape[1] - lag] for lag in range(days)]


def _padded(values: Floats, days: int) -> Floats:
    padded = np.full((len(values), values.shape[1] + days - 1), np.nan)
    padded[:, days - 1 :] = values
    return padded


def trailing_mean(values: Floats, days: int) -> Floats:
    """Mean of the last columns up to each day; of fewer at the beginning."""
    known = np.isfinite(values)
    total, count = np.zeros(values.shape), np.zeros(values.shape)
    filled = np.where(known, values, 0.0)
    for lag in range(min(days, values.shape[1]) - 1, -1, -1):
        total[:, lag:] += filled[:, : values.shape[1] - lag]
        count[:, lag:] += known[:, : values.shape[1] - lag]
    return np.where(count > 0, total / np.maximum(count, 1.0), np.nan)


def sliding(values: Floats, length: int) -> Floats:
    """All stretches of `length` along the last axis of a contiguous array, as one more axis; a view, not to be written to.

    numpy's `sliding_window_view` takes longer to make one than most statistics take to be made of it.
    """
    shape = (*values.shape[:-1], values.shape[-1] - length + 1, length)
    return np.ndarray(shape, np.float64, values, strides=(*values.strides, values.strides[-1]))


def _window_starts(operations: Ints, enough: int) -> Ints:
    before = np.concatenate([[0], np.cumsum(operations)])
    columns = np.arange(len(operations))
    start = np.searchsorted(before, before[1:] - enough, side="right") - 1
    return np.asarray(np.maximum(np.maximum(start, columns - MOST_DAYS + 1), 0), dtype=np.int64)


def window_sum(counts: Floats, window: Ints) -> Floats:
    """Sum over each day's window, which starts at the column `window`; both of one shape."""
    total = np.concatenate([np.zeros((len(counts), 1)), np.cumsum(counts, axis=1)], axis=1)
    return np.asarray(total[:, 1:] - np.take_along_axis(total, window, axis=1))
