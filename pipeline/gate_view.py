"""Gates' histories as the features see them: what their operations show beyond a baseline, and how they were used.

No network, database or clock. A view as of T knows nothing that happened at T or later; what becomes of it as rows is in
`pipeline.features`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise, zip_longest
from typing import Any

import numpy as np
import pandas as pd

from pipeline import sensor_health
from pipeline.baseline import filled, ridge, rise
from pipeline.cycles import BASELINE_DAYS, whole_cycle_before
from pipeline.gate_history import ALL_GROUPS, ALWAYS, OWN_GROUPS, GateHistory, KnownGate
from pipeline.readings import DAY_MS, QUANTITIES, quantity_of
from pipeline.trends import (
    HISTORY_DAYS,
    NEVER_MS,
    REMEMBER_DAYS,
    Used,
    by_day,
    evidence_7d,
    nan_mean,
    newest,
    newest_mean,
    pulled_in,
    trends_at,
    windows,
)

TREND = (
    "dev",
    "dev_7d",
    "dev_14d",
    "slope_7d",
    "slope_14d",
    "slope_30d",
    "diff_3_14",
    "diff_7_30",
    "z",
    "t_7d",
    "days_over",
    "fall",
    "rate",
    "z_before",
    "now",
    "low",
)
MIN_CYCLE_DAYS = 10
MAX_IDLE_DAYS = 7
_BASELINE_AGES = (0, 10, 15, 20, 30)
"""The baseline is fitted anew at these ages of the cycle (days), and is final at 30; before 10 days there is none."""

_FEWEST_ALIKE = 2
"""Operations of the baseline from which on a channel that showed one value in all of them has no baseline."""

# scatter expected of a healthy channel, and the worth of that expectation in operations
_PRIOR_SCATTER = {
    "velocity": 0.12,
    "high": 0.15,
    "acceleration": 0.12,
    "peak": 0.15,
    "impulse": 0.15,
    "temperature": 1.5,
    "current": 0.03,
}
_PRIOR_OPERATIONS = 8.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What the newest operations of one column of evidence showed, and what the own baseline explains of the same operations.

    Attributes
    ----------
    column : a column of operations, ``motor.velocity_rms:mean``
    shown, expected : mean over days of the means of their operations, in `unit`. Geometric means, but for temperature: there
        arithmetic ones of the rise (K) from the start of an operation to its ``:max``. One odd operation is pulled in.
    change : ``shown / expected``, which is ``exp(dev)`` of the row; for temperature ``shown - expected``, which is ``dev``
    since, until : midnights; the first day whose operations count, and the end of the last one
    """

    column: str
    unit: str
    shown: float
    expected: float
    change: float
    since: datetime
    until: datetime

    @classmethod
    def of(cls, column: str, group: str, expected: float, deviation: float, since_ms: int, until_ms: int) -> Measured:
        """From means of what the baseline explains and of the deviation, in the terms of `GateView._shown`."""
        since, until = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (since_ms, until_ms))
        if group == "temperature":
            return cls(column, "K", expected + deviation, expected, deviation, since, until)
        unit = QUANTITIES[quantity_of(column.partition(":")[0])].unit
        shown, explained, change = (float(np.exp(value)) for value in (expected + deviation, expected, deviation))
        return cls(column, unit, shown, explained, change, since, until)


@dataclass(frozen=True, slots=True)
class _Task:
    """Columns of evidence of one gate, of components whose cycles are the same, to be compared with one baseline.

    Attributes
    ----------
    gate : its number
    columns : place of the component, group and name of each
    wanted : which as_ofs
    since_ms, until_ms : start of the cycle, and up to when its operations are the baseline
    before_ms : start of the last earlier cycle that got a whole baseline, where there is one
    """

    gate: int
    columns: Sequence[tuple[int, str, str]]
    wanted: np.ndarray
    since_ms: int
    until_ms: int
    before_ms: int | None


@dataclass(frozen=True, slots=True)
class _Shown:
    """What the operations of some columns of evidence show beyond a baseline.

    Attributes
    ----------
    used : the operations that count
    day : the day of each of them, counted from the first of the stretch, -1 where `used` has none; shape (columns, operations)
    deviation, expected : what each shows beyond what the baseline explains, pulled in; and that; shape (columns, operations)
    scatter : the baseline's own, shape (columns,)
    daily, count : mean deviation and operations of each day, shape (columns, days)
    """

    used: Used
    day: np.ndarray
    deviation: np.ndarray
    expected: np.ndarray
    scatter: np.ndarray
    daily: np.ndarray
    count: np.ndarray

    def newest(self, boundaries_ms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `trends.newest`."""
        return newest(self.used, self.deviation / self.scatter[:, None], boundaries_ms)

    def daily_expected(self) -> np.ndarray:
        """Mean of what the baseline explains of each day's operations, shape (columns, days)."""
        return by_day(self.expected, self.day, self.daily.shape[1])[0]


class GateView:
    """Some gates' histories, their sensors judged, on a grid of days: `HISTORY_DAYS` before the first as_of to the last.

    Several gates in one view cost less than one after the other, and show the same.

    Arrays have the gates as their first axis and often the components as the second, as many as the gate with the most has;
    `is_component` tells which of them there are. Operations are as many as the gate with the most has; those behind a gate's
    last one start at `NEVER_MS` and show nothing.
    """

    def __init__(self, histories: Sequence[GateHistory], at: np.ndarray) -> None:
        self.at = at
        self._gates = gates = [KnownGate(history, at) for history in histories]
        self.histories = histories
        self.is_component = _side_by_side([np.ones(len(history.components), dtype=bool) for history in histories], False)
        self.origin = int(at[0]) - HISTORY_DAYS * DAY_MS
        self.n_days = int((at[-1] - self.origin) // DAY_MS)
        self.columns = ((at - self.origin) // DAY_MS).astype(int)
        self.started = _side_by_side([gate.started for gate in gates], NEVER_MS)
        self.day = (self.started - self.origin) // DAY_MS
        self.first_day_ms = np.array([gate.first_day_ms for gate in gates])
        self._first_row = np.cumsum([0, *(len(gate.values) for gate in gates)])
        self._values = np.full((self._first_row[-1], self.started.shape[1]), np.nan)
        for gate, first_row in zip(gates, self._first_row, strict=False):
            self._values[first_row : first_row + len(gate.values), : len(gate.started)] = gate.values
        self.operations = {name: self._values[[self._row(number, name) for number in range(len(gates))]] for name in ALWAYS}
        self.house_c = self._house()
        self._look_at_days()
        self._look_at_cycles()
        self._believe(sensor_health.assess_all([gate.judged_by() for gate in gates]))

    def _row(self, number: int, name: str) -> int:
        """Where the values of a column of a gate's operations are."""
        return int(self._first_row[number]) + self._gates[number].place[name]

    def _channel_of(self, number: int, name: str) -> int:
        """The channel of a column of a gate's operations."""
        channels: dict[str, int] = self._channel[number]
        return channels[name.partition(":")[0]]

    def _house(self) -> np.ndarray:
        """Temperature around each gate at each operation: as measured, else that of the point which was coolest at its start."""
        house = self.operations["ambient_temperature"].copy()
        for of_gate, gate, first in zip(house, self._gates, self._first_row, strict=False):
            starts = [first + place for name, place in gate.place.items() if name.endswith("temperature:start")]
            unknown = np.flatnonzero(np.isnan(of_gate[: len(gate.started)]))
            if len(unknown) and starts:
                of_gate[unknown] = np.fmin.reduce(self._values[np.array(starts)[:, None], unknown], axis=0)
        return house

    def _look_at_days(self) -> None:
        """When each gate reported and moved."""
        gates, at = self._gates, self.at
        self._row_of = np.zeros(self.started.shape, dtype=np.int64)
        reported = np.zeros((len(gates), self.n_days))
        for number, gate in enumerate(gates):
            self._row_of[number, : len(gate.started)] = np.searchsorted(gate.day_ms, gate.started // DAY_MS * DAY_MS)
            grid_day = (gate.day_ms - self.origin) // DAY_MS
            reported[number, grid_day[grid_day >= 0]] = 1.0
        self._row_at = np.array([np.searchsorted(gate.day_ms, at, side="left") - 1 for gate in gates])
        self.coverage_7d = windows(reported, 7, fill=0.0)[:, self.columns].mean(axis=-1)
        self.stale = np.where(self.columns > 0, reported[:, self.columns - 1], 0.0) == 0.0
        newest = np.array([np.searchsorted(started, at, side="left") - 1 for started in self.started])
        newest_ms = np.take_along_axis(self.started, np.maximum(newest, 0), axis=1)
        self.since_operation_d = np.where(newest >= 0, (at - newest_ms) / DAY_MS, np.inf)

    def _look_at_cycles(self) -> None:
        """When each component's cycle started (ms), and whether it is out of order; shape (gates, components, as_ofs)."""
        shape = (*self.is_component.shape, len(self.at))
        self._starts, self._out_of_order = np.full(shape, self.at), np.zeros(shape, dtype=bool)
        for number, gate in enumerate(self._gates):
            for place, component in enumerate(gate.history.components):
                self._starts[number, place], self._out_of_order[number, place] = gate.cycles.at(component, self.at)

    def _believe(self, health: Sequence[sensor_health.Health]) -> None:
        """Take the verdicts on the sensors; those of all gates one after the other."""
        self._health = health
        first = np.cumsum([0, *(len(of_gate.channels) for of_gate in health)])
        self._channel = [
            {channel: first_one + place for place, channel in enumerate(of_gate.channels)}
            for first_one, of_gate in zip(first, health, strict=False)
        ]
        most = max(1, *(len(of_gate.day_ms) for of_gate in health))
        self._believable, self._bias_k = np.ones((first[-1], most), dtype=bool), np.zeros((first[-1], most))
        for since, end, of_gate in zip(first, first[1:], health, strict=False):
            self._believable[since:end, : len(of_gate.day_ms)] = of_gate.believable
            self._bias_k[since:end, : len(of_gate.day_ms)] = of_gate.bias_k
        row_at = np.repeat(self._row_at, np.diff(first), axis=0)
        self._spoilt = (row_at >= 0) & ~np.take_along_axis(self._believable, np.maximum(row_at, 0), axis=1)
        self._kinds = [of_gate.kinds_at(self.at) for of_gate in health]
        own = self._is_own()
        self._own_lost, self._gate_lost = self._lost(own), self._lost(own.max(axis=1))

    def _is_own(self) -> np.ndarray:
        """Which channels measure vibration or temperature of each component, shape (gates, components, channels)."""
        own = np.zeros((*self.is_component.shape, len(self._spoilt)))
        for number, gate in enumerate(self._gates):
            for place, component in enumerate(gate.history.components):
                own[number, place, [self._channel_of(number, name) for *_, name in gate.columns(component, OWN_GROUPS)]] = 1.0
        return own

    def _lost(self, of: np.ndarray) -> np.ndarray:
        """Share of some channels that are not believable, at each as_of."""
        return np.asarray(of @ self._spoilt / np.maximum(of.sum(axis=-1, keepdims=True), 1.0))

    def told_lost(self) -> np.ndarray:
        """Each component's faulty channels at each as_of, in words."""
        names = tuple(sensor_health.KINDS)
        told = np.full(self._starts.shape, "", dtype=object)
        for number, (health, kinds, history) in enumerate(zip(self._health, self._kinds, self.histories, strict=True)):
            for place, at in zip(*np.nonzero(kinds >= 0), strict=True):
                channel, kind = health.channels[place], names[kinds[place, at]]
                component = channel.partition(".")[0]
                if component in history.components:
                    where = (number, history.components.index(component), at)
                    told[where] += f"{'; ' if told[where] else ''}{channel}: {kind}"
        return told

    def reasons(self) -> np.ndarray:
        """Why a component gets no forecast at each as_of, shape (gates, components, as_ofs); ``""`` where it gets one."""
        reasons = np.full(self._starts.shape, "", dtype=object)
        reasons[self._own_lost == 1.0] = "sensors"
        reasons[np.broadcast_to((self.since_operation_d > MAX_IDLE_DAYS)[:, None], reasons.shape)] = "idle"
        reasons[self.at - self._starts < MIN_CYCLE_DAYS * DAY_MS] = "young"
        reasons[np.broadcast_to(self.stale[:, None], reasons.shape)] = "stale"
        reasons[self._out_of_order] = "under_repair"
        return reasons

    def measured(self, component: str, groups: Sequence[str]) -> dict[str, Measured]:
        """Behind the newest ``dev`` of some groups: the column that deviates most, as of the only as_of of the only gate; see
        `Measured`.
        """
        columns = self._gates[0].columns(component, groups)
        found: dict[str, Measured] = {}
        for task in self._tasks(0, columns):
            first, end = self._stretch([task])
            shown = self._shown([task], self._in_baseline([task]), first, end)
            daily_expected = shown.daily_expected()
            for row, (_, group, name) in enumerate(columns):
                told = np.flatnonzero(np.isfinite(shown.daily[row]))
                if not len(told) or self._spoilt[self._channel_of(0, name), 0]:
                    continue
                until = min(int(told[-1]) + 3, end - first)  # a gate that rests keeps its last three days: see `remembered`
                if end - first - until > REMEMBER_DAYS:
                    continue
                days = told[told >= until - 3]
                since_ms, until_ms = (self.origin + (first + int(day)) * DAY_MS for day in (days[0], days[-1] + 1))
                deviation, expected = shown.daily[row, days].mean(), daily_expected[row, days].mean()
                one = Measured.of(name, group, float(expected), float(deviation), since_ms, until_ms)
                if group not in found or one.change > found[group].change:
                    found[group] = one
        return found

    def deviations(self) -> np.ndarray:
        """The trend of each component's deviation at each as_of, shape (gates, components, `ALL_GROUPS`, `TREND`, as_ofs)."""
        deviations = np.full((*self.is_component.shape, len(ALL_GROUPS), len(TREND), len(self.at)), np.nan)
        tasks = []
        for number, gate in enumerate(self._gates):
            alike: dict[tuple[int, ...], list[tuple[int, str, str]]] = {}
            for component in gate.history.components:
                alike.setdefault(gate.cycles.key(component), []).extend(gate.columns(component, ALL_GROUPS))
            tasks.append([task for columns in alike.values() for task in self._tasks(number, columns)])
        # the first of each gate at one go, then the second of those that have another
        for some in zip_longest(*tasks):
            together = [task for task in some if task is not None]
            for task, found in zip(together, self._deviations(together), strict=True):
                groups = [(place, ALL_GROUPS.index(group)) for place, group, _ in task.columns]
                first = [row for row, group in enumerate(groups) if row == 0 or group != groups[row - 1]]
                places, numbers = (list(of) for of in zip(*(groups[row] for row in first), strict=True))
                strongest = np.fmax.reduceat(found, first, axis=1).swapaxes(0, 1)
                deviations[task.gate, np.array(places)[:, None], np.array(numbers)[:, None], :, task.wanted] = (
                    strongest.transpose(0, 2, 1)
                )
        return deviations

    def _tasks(self, number: int, columns: Sequence[tuple[int, str, str]]) -> list[_Task]:
        """What there is to compare of columns of components of a gate whose cycles are the same."""
        if not columns:
            return []
        gate = self._gates[number]
        start = self._starts[number, columns[0][0]]
        fitted_at = np.searchsorted(_BASELINE_AGES, (self.at - start) / DAY_MS, side="right") - 1
        cycle_starts_ms = gate.cycles.starts(gate.history.components[columns[0][0]])
        return [
            _Task(
                number,
                columns,
                np.flatnonzero((start == cycle_ms) & (fitted_at == fit)),
                cycle_ms,
                # the age is reached by every as_of that is wanted, so the baseline holds nothing later than any of them
                cycle_ms + _BASELINE_AGES[fit] * DAY_MS,
                whole_cycle_before(cycle_starts_ms, cycle_ms),
            )
            for cycle_ms, fit in sorted({(int(c), int(f)) for c, f in zip(start, fitted_at, strict=True) if f > 0})
        ]

    def _stretch(self, tasks: Sequence[_Task]) -> tuple[int, int]:
        """First day and end of the days that the trends of some tasks look back to."""
        columns = self.columns[np.concatenate([task.wanted for task in tasks])]
        return max(int(columns.min()) - HISTORY_DAYS, 0), int(columns.max())

    def _in_baseline(self, tasks: Sequence[_Task]) -> np.ndarray:
        """Which operations are each task's baseline, shape (tasks, operations)."""
        return self._between([task.gate for task in tasks], [(task.since_ms, task.until_ms) for task in tasks])

    def _between(self, gates: Sequence[int], spans_ms: Sequence[tuple[int, int]]) -> np.ndarray:
        started, spans = self.started[gates], np.array(spans_ms)
        return np.asarray((started >= spans[:, :1]) & (started < spans[:, 1:]))

    def _deviations(self, tasks: Sequence[_Task]) -> list[np.ndarray]:
        """The trends of each task's columns, each of shape (trends, columns, as_ofs wanted)."""
        first, end = self._stretch(tasks)
        wanted = np.unique(np.concatenate([task.wanted for task in tasks]))
        columns = self.columns[wanted] - first
        shown = self._shown(tasks, self._in_baseline(tasks), first, end)
        trends = trends_at(shown.daily, shown.scatter[:, None], shown.count, columns)
        trends["now"], trends["low"] = shown.newest(self.at[wanted])
        trends["z_before"] = trends["t_7d"].copy()
        first_row = np.cumsum([0, *(len(task.columns) for task in tasks)])
        rows_of = [np.arange(since, until) for since, until in pairwise(first_row)]
        again = [number for number, task in enumerate(tasks) if task.before_ms is not None]
        if again:
            spans_ms = [
                (start, start + BASELINE_DAYS * DAY_MS) for task in tasks for start in [task.before_ms] if start is not None
            ]
            before = self._between([tasks[number].gate for number in again], spans_ms)
            shown = self._shown([tasks[number] for number in again], before, first, end)
            mean_7d = nan_mean(windows(shown.daily, 7)[:, columns], axis=-1)
            rows = np.concatenate([rows_of[number] for number in again])
            trends["z_before"][rows] = evidence_7d(mean_7d, shown.scatter[:, None], shown.count, columns)
        channels = self._channels(tasks)
        found = np.array([trends[trend] for trend in TREND])
        found = np.where(self._spoilt[channels][:, wanted] | ~np.isfinite(found), np.nan, found)
        return [found[:, rows][:, :, np.searchsorted(wanted, task.wanted)] for rows, task in zip(rows_of, tasks, strict=True)]

    def _channels(self, tasks: Sequence[_Task]) -> np.ndarray:
        """The channel of each column of some tasks."""
        return np.array([self._channel_of(task.gate, name) for task in tasks for _, _, name in task.columns])

    def _shown(self, tasks: Sequence[_Task], baseline: np.ndarray, first: int, end: int) -> _Shown:
        """What operations of the days from `first` to `end` of each task's cycle show beyond a baseline of it.

        Rows are the columns of evidence of all tasks, one task after the other.
        """
        gate = np.array([task.gate for task in tasks])
        near = (self.day[gate] >= first - REMEMBER_DAYS) & (self.day[gate] < end)
        near &= self.started[gate] >= np.array([task.since_ms for task in tasks])[:, None]
        # the operations of each task that have a say come first
        matter = near | baseline
        some = np.argsort(~matter, axis=1, kind="stable")[:, : max(int(matter.sum(axis=1).max()), 1)]
        near, fit_on = (np.take_along_axis(which, some, axis=1) for which in (near, baseline))
        ops = {name: self.operations[name][gate[:, None], some] for name in ALWAYS}
        has_load = (np.isfinite(ops["load"]) & fit_on).any(axis=1)
        for number in np.flatnonzero(~has_load):
            # a motor draws what it is asked for: where nobody tells the load, its current does, and is no evidence itself
            drawn = self._gates[gate[number]].current
            if drawn is not None:
                asks = self._believable[self._channel_of(gate[number], drawn), self._row_of[gate[number], some[number]]]
                ops["load"][number] = np.where(asks, self._values[self._row(gate[number], drawn), some[number]], np.nan)
        load, opening, head = (filled(ops[name], fit_on) for name in ("load", "opening", "head"))
        span = np.fmax.reduce(np.where(fit_on, opening, np.nan), axis=1, keepdims=True, initial=0.0)
        # the jet under a leaf that is nearly closed shakes it
        context = np.stack([load, opening, head, np.exp(-opening / np.maximum(0.15 * span, 1e-9))], axis=-1)

        # from here on a row is a column of evidence
        columns = [(task.gate, group, name) for task in tasks for _, group, name in task.columns]
        of = np.repeat(np.arange(len(tasks)), [len(task.columns) for task in tasks])
        gate, some, near, fit_on = gate[of], some[of], near[of], fit_on[of]
        group = np.array([group for _, group, _ in columns])
        channel, day_row = self._channels(tasks)[:, None], self._row_of[gate[:, None], some]
        believable = self._believable[channel, day_row]
        values = self._values[np.array([self._row(number, name) for number, _, name in columns])[:, None], some]
        target, predicted, scatter = np.full(values.shape, np.nan), np.zeros(values.shape), np.zeros(len(values))
        warm, cold = np.flatnonzero(group == "temperature"), np.flatnonzero(group != "temperature")
        if len(cold):
            target[cold] = np.log(np.maximum(values[cold], 1e-6))
            known = fit_on[cold] & believable[cold] & np.isfinite(target[cold])
            predicted[cold], scatter[cold] = ridge(context[of[cold]], target[cold], known)
        if len(warm):
            of_start = [self._row(columns[row][0], columns[row][2].replace(":max", ":start")) for row in warm]
            starts = self._values[np.array(of_start)[:, None], some[warm]]
            house_c, bias_k = self.house_c[gate[warm, None], some[warm]], self._bias_k[channel[warm], day_row[warm]]
            minutes, load = ops["minutes"][of[warm]], load[of[warm]]
            target[warm], explained_by = rise(minutes, house_c, values[warm], starts, bias_k, load, fit_on[warm])
            known = fit_on[warm] & believable[warm] & np.isfinite(target[warm])
            predicted[warm], scatter[warm] = ridge(explained_by, target[warm], known)
        is_load = ~has_load[of] & (group == "current")
        told = np.isfinite(target) & believable & ~is_load[:, None]
        n = (fit_on & told).sum(axis=1)
        # who shows one and the same in every operation does not measure
        most = np.where(fit_on & told, values, -np.inf).max(axis=1)
        least = np.where(fit_on & told, values, np.inf).min(axis=1)
        n[(n >= _FEWEST_ALIKE) & (most - least <= 1e-6 * most) & (group != "temperature")] = 0
        prior = np.array([_PRIOR_SCATTER[name] for name in group])
        pulled = np.sqrt((n * scatter**2 + _PRIOR_OPERATIONS * prior**2) / (n + _PRIOR_OPERATIONS))
        scatter = np.where(n > 0, pulled, np.nan)
        used = Used.of(near & told & (n > 0)[:, None], self.started[gate[:, None], some])
        deviation = pulled_in(used, used.pick(target - predicted), 3.0 * scatter[:, None])
        day = np.where(used.real, used.pick(self.day[gate[:, None], some] - first), -1)
        daily, count = by_day(deviation, day, end - first)
        return _Shown(used, day, deviation, used.pick(predicted), scatter, daily, count)

    def _daily_means(self, values: np.ndarray, gate: np.ndarray) -> np.ndarray:
        """Mean of each day of the grid, for each row of values per operation of a gate."""
        day = np.where(np.isfinite(values), self.day[gate], -1)
        return by_day(values, day, self.n_days)[0]

    def levels(self) -> dict[str, np.ndarray]:
        """Absolute level of the last days of each component: vibration velocity (mm/s), temperature while moving (degC)."""
        wanted = {"vibration_level_mm_s": ".velocity_rms:mean", "temperature_level_c": ".temperature:max"}
        told = [
            (feature, number, gate.history.components.index(part), self._first_row[number] + place)
            for number, gate in enumerate(self._gates)
            for name, place in gate.place.items()
            for feature, ending in wanted.items()
            if name.endswith(ending) and (part := name.partition(".")[0]) in gate.history.components
        ]
        rows, gates = (np.array([one[part] for one in told], dtype=np.int64) for part in (3, 1))
        newest = newest_mean(self._daily_means(self._values[rows], gates), self.columns)
        levels = {feature: np.full(self._starts.shape, np.nan) for feature in wanted}
        for (feature, number, component, _), of_column in zip(told, newest, strict=True):
            levels[feature][number, component] = np.fmax(levels[feature][number, component], of_column)
        return levels

    def context(self) -> dict[str, np.ndarray]:
        """How the gate was used, how old each component's cycle is and how much of the week was reported.

        Shape (gates, components, as_ofs), or (gates, 1, as_ofs) of what is the same for all components.
        """
        frozen_ms = np.minimum(self.at, self._starts + BASELINE_DAYS * DAY_MS)
        first, frozen = (
            np.array([np.searchsorted(started, of_gate) for started, of_gate in zip(self.started, at_ms, strict=True)])
            for at_ms in (self._starts, frozen_ms)
        )
        of_gate = {
            **self._use(),
            "days_since_operation": np.minimum(self.since_operation_d, 60.0),
            "coverage_7d": self.coverage_7d,
            "gate_lost": self._gate_lost,
        }
        return {
            **{name: values[:, None] for name, values in of_gate.items()},
            **self._unlike_baseline(first, frozen),
            "cycle_days": np.minimum((self.at - self._starts) / DAY_MS, 365.0),
            "baseline_operations": (frozen - first) * 1.0,
            "own_lost": self._own_lost,
        }

    def _unlike_baseline(self, first: np.ndarray, frozen: np.ndarray) -> dict[str, np.ndarray]:
        """How far head (log) and load of the last 3 days lie from the baseline's mean, and head from its highest.

        What a flood does to a leaf cannot be learnt in a dry month.
        """
        head, load = np.log(np.maximum(self.operations["head"], 0.1)), self.operations["load"]
        gate = np.arange(len(head))
        recent = [newest_mean(self._daily_means(values, gate), self.columns)[:, None] for values in (head, load)]
        means = []
        for values in (head, load):
            known = np.isfinite(values)
            total, count = (np.pad(np.cumsum(of, axis=1), ((0, 0), (1, 0))) for of in (np.where(known, values, 0.0), known))
            in_baseline, n = (of[gate[:, None, None], frozen] - of[gate[:, None, None], first] for of in (total, count))
            means.append(np.where(n > 0, in_baseline / np.maximum(n, 1), np.nan))
        highest = np.full(first.shape, np.nan)
        for number, of_gate in enumerate(first):
            for start in np.unique(of_gate):
                of_cycle = (of_gate == start) & (frozen[number] > start)
                highest[number][of_cycle] = np.fmax.accumulate(head[number, start:])[frozen[number][of_cycle] - start - 1]
        return {"head_rise": recent[0] - means[0], "head_beyond": recent[0] - highest, "load_rise": recent[1] - means[1]}

    def _use(self) -> dict[str, np.ndarray]:
        """What is the same for all components: how the gate was used."""
        gate = np.arange(len(self._gates))
        use = (self.day >= 0) & (self.day < self.n_days)
        minutes, count = by_day(self.operations["minutes"], np.where(use, self.day, -1), self.n_days)
        minutes = np.where(count > 0, minutes * count, 0.0)
        load, ambient, head = (
            nan_mean(windows(self._daily_means(self.operations[name], gate), 7)[:, self.columns], axis=-1)
            for name in ("load", "ambient_temperature", "head")
        )
        return {
            "load_7d": load,
            "operations_7d": windows(count, 7, fill=0.0)[:, self.columns].sum(axis=-1),
            "minutes_7d": windows(minutes, 7, fill=0.0)[:, self.columns].sum(axis=-1),
            "minutes_28d": windows(minutes, 28, fill=0.0)[:, self.columns].sum(axis=-1),
            "ambient_7d": ambient,
            "head_7d": head,
        }

    def record(self) -> dict[str, np.ndarray]:
        """What the maintenance records tell: how often the gate failed and was repaired, when somebody last looked, its age.

        Shapes as of `context`.
        """
        records = [history.maintenance for history in self.histories]
        started_ms = _side_by_side([of_gate.started_ms for of_gate in records], NEVER_MS)
        failed = _side_by_side([of_gate.kind == "failure" for of_gate in records], False)
        mended = _side_by_side([(of_gate.kind == "repair") | (of_gate.kind == "replacement") for of_gate in records], False)
        of_whole = _side_by_side([of_gate.component == "" for of_gate in records], False)
        own = np.zeros((*self.is_component.shape, started_ms.shape[1]), dtype=bool)
        for number, (gate, of_gate) in enumerate(zip(self._gates, records, strict=True)):
            for place, component in enumerate(gate.history.components):
                own[number, place, : len(of_gate.component)] = of_gate.component == component
        past = started_ms[:, :, None] < self.at
        years = ((self.at - self.first_day_ms[:, None]) / (365.25 * DAY_MS))[:, None]

        def a_year(kept: np.ndarray) -> np.ndarray:
            # as if half a record more had come in one year more: two failures in a month are not 24 a year
            return np.asarray((kept.astype(float) @ past + 0.5) / (years + 1.0))

        visits = (own | of_whole[:, None])[..., None] & past[:, None]
        visited_ms = np.where(visits, started_ms[:, None, :, None], -NEVER_MS).max(axis=2, initial=-NEVER_MS)
        visited_ms = np.where(visited_ms > -NEVER_MS, visited_ms, self.first_day_ms[:, None, None])
        since = [gate.history.commissioned_on for gate in self._gates]
        since_ms = np.array([np.nan if day is None else pd.Timestamp(day).value // 10**6 for day in since])
        return {
            "gate_failures_a_year": a_year(failed[:, None]),
            "own_failures_a_year": a_year(own & failed[:, None]),
            "repairs_a_year": a_year(mended[:, None]),
            "days_since_visit": np.minimum((self.at - visited_ms) / DAY_MS, 365.0),
            "gate_age_years": ((self.at - since_ms[:, None]) / (365.25 * DAY_MS))[:, None],
        }


def _side_by_side(parts: Sequence[np.ndarray], beyond: Any) -> np.ndarray:
    """One row for each part, as long as the longest, at least one; beyond its end a row is `beyond`."""
    rows = np.full((len(parts), max(1, *map(len, parts))), beyond)
    for row, part in zip(rows, parts, strict=True):
        row[: len(part)] = part
    return rows
