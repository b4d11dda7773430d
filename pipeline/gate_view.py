"""One gate's history as the features see it: what its operations show beyond their baseline, and how it was used.

No network, database or clock. A view as of T knows nothing that happened at T or later; what becomes of it as rows is in
`pipeline.features`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property, lru_cache

import numpy as np
import pandas as pd

from pipeline import sensor_health
from pipeline.baseline import filled, house, ridge, rise
from pipeline.channel_days import GateDays
from pipeline.cycles import BASELINE_DAYS, Cycles, Records, whole_cycle_before
from pipeline.operations import CONTEXT, SHOCKS
from pipeline.readings import DAY_MS, QUANTITIES, quantity_of
from pipeline.trends import (
    HISTORY_DAYS,
    REMEMBER_DAYS,
    Used,
    by_day,
    evidence_7d,
    nan_mean,
    newest,
    pulled_in,
    remembered,
    trends_at,
    windows,
)

GROUPS: dict[str, tuple[str, ...]] = {
    "velocity": ("velocity_rms",),
    "acceleration": ("acceleration_rms",),
    "impulse": SHOCKS,
    "peak": ("acceleration_peak",),
    "temperature": ("temperature",),
    "current": ("current",),
}
"""Kinds of evidence; the channels of one group of one component are fused, the strongest counting."""

OWN_GROUPS = ("velocity", "high", "acceleration", "peak", "impulse", "temperature")
ALL_GROUPS = (*OWN_GROUPS, "current")
_GROUP_OF = {quantity: group for group, quantities in GROUPS.items() for quantity in quantities}

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

_ALWAYS = ("started_ms", "minutes", *CONTEXT)

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
class GateHistory:
    """What is known of one gate.

    Attributes
    ----------
    operations, days : DataFrame
        As `pipeline.operations.Segmented` gives them.
    maintenance : DataFrame
        Columns ``component`` (``""`` is the whole gate), ``kind``, ``started_at``, ``ended_at`` (aware UTC, NaT allowed).
    intervals_s : expected reporting intervals at rest, by channel, where declared
    commissioned_on : the day the gate went into service, where known
    first_day_ms : the first day of the gate's record, where `days` are not the whole of it (see `needed_spans`)
    """

    gate_id: str
    components: tuple[str, ...]
    hoist_type: str
    operations: pd.DataFrame
    days: pd.DataFrame
    maintenance: pd.DataFrame
    intervals_s: Mapping[str, float] = field(default_factory=dict)
    commissioned_on: date | None = None
    first_day_ms: int | None = None


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


def views(histories: Sequence[GateHistory], at: np.ndarray) -> list[GateView]:
    """Some gates' histories with their sensors judged."""
    views = [GateView(history, at) for history in histories]
    for view, health in zip(views, sensor_health.assess_all([view.gate_days() for view in views]), strict=True):
        view.believe(health)
    return views


class GateView:
    """One gate's history on a grid of days, from `origin` (`HISTORY_DAYS` before the first as_of) to the last as_of."""

    def __init__(self, history: GateHistory, at: np.ndarray) -> None:
        self.history = history
        self.at = at
        operations = history.operations
        if missing := [name for name in _ALWAYS if name not in operations]:
            operations = operations.reindex(columns=[*operations.columns, *missing])
        started = operations["started_ms"].to_numpy(dtype=np.int64)
        known = started < at[-1]
        values = np.ascontiguousarray(operations.to_numpy(dtype=float)[known].T)
        self._values = values
        self._place = {name: place for place, name in enumerate(operations.columns)}
        self.operations = dict(zip(self._place, values, strict=True))
        self.house_c = house(self.operations)
        self._current = next((name for name in sorted(self._place) if name.endswith("current:mean")), None)
        self.evidence = _evidence(tuple(self._place))
        self.started = started[known]
        self.records = Records.of(history.maintenance)
        self.origin = int(at[0]) - HISTORY_DAYS * DAY_MS
        self.n_days = int((at[-1] - self.origin) // DAY_MS)
        self.day = (self.started - self.origin) // DAY_MS
        self.columns = at_days = ((at - self.origin) // DAY_MS).astype(int)
        earlier = history.days["day_ms"].to_numpy() < at[-1]
        self.days = days = history.days if earlier.all() else history.days[earlier]
        day_ms = days["day_ms"].to_numpy(dtype=np.int64)
        self.first_day_ms = _first_day(history, day_ms, int(at[-1]))
        self._cycles = Cycles(self.records, self.first_day_ms, at)
        self.row_of = np.searchsorted(day_ms, self.started // DAY_MS * DAY_MS)
        self.row_at = np.searchsorted(day_ms, at, side="left") - 1
        grid_day = (day_ms - self.origin) // DAY_MS
        on_grid = (grid_day >= 0) & (grid_day < self.n_days)
        reported = np.zeros(self.n_days)
        reported[grid_day[on_grid]] = 1.0
        self.coverage_7d = windows(reported, 7, fill=0.0).mean(axis=-1)[at_days]
        self.stale = np.concatenate([[0.0], reported])[at_days] == 0.0
        newest = np.searchsorted(self.started, at, side="left") - 1
        self.since_operation_d = np.where(
            newest >= 0, (at - self.started[np.maximum(newest, 0)]) / DAY_MS if len(self.started) else np.inf, np.inf
        )

    def gate_days(self) -> GateDays:
        """What its sensors are judged by."""
        return GateDays(self.days, self.started, lambda part, at_ms: self._cycles.at(part, at_ms)[0], self.history.intervals_s)

    def believe(self, health: sensor_health.Health) -> None:
        """Take the verdicts on its sensors."""
        self.health = health
        self._channel = {channel: place for place, channel in enumerate(health.channels)}
        self._believable = health.believable
        self._kinds = health.kinds_at(self.at)

    def spoilt(self, channel: str) -> np.ndarray:
        """Whether the channel is not believable as of each as_of."""
        return np.asarray(self._spoilt[self._channel[channel]])

    @cached_property
    def _spoilt(self) -> np.ndarray:
        if not len(self.health.day_ms):
            return np.zeros((len(self.health.channels), len(self.at)), dtype=bool)
        return np.asarray((self.row_at >= 0) & ~self._believable[:, np.maximum(self.row_at, 0)])

    def lost(self, components: Sequence[str]) -> np.ndarray:
        """Share of these components' vibration and temperature channels that are not believable, at each as_of."""
        keys = {
            self._channel[name.partition(":")[0]]
            for component in components
            for group, names in self.evidence.get(component, {}).items()
            if group in OWN_GROUPS
            for name in names
        }
        if not keys:
            return np.zeros(len(self.at))
        return np.asarray(self._spoilt[sorted(keys)].mean(axis=0))

    def told_lost(self) -> np.ndarray:
        """Each component's faulty channels at each as_of, in words."""
        names = tuple(sensor_health.KINDS)
        told = np.full((len(self.history.components), len(self.at)), "", dtype=object)
        for place, at in zip(*np.nonzero(self._kinds >= 0), strict=True):
            channel, kind = self.health.channels[place], names[self._kinds[place, at]]
            component = channel.partition(".")[0]
            if component in self.history.components:
                where = (self.history.components.index(component), at)
                told[where] += f"{'; ' if told[where] else ''}{channel}: {kind}"
        return told

    def cycles(self, component: str) -> tuple[np.ndarray, np.ndarray]:
        """For each as_of: when the component's cycle started (ms), and whether it is out of order."""
        return self._cycles.at(component, self.at)

    @cached_property
    def _starts(self) -> np.ndarray:
        """When each component's cycle started (ms), shape (components, as_ofs)."""
        return self._of_each(lambda component: self.cycles(component)[0])

    @cached_property
    def _lost(self) -> np.ndarray:
        """See `lost`, for each component; shape (components, as_ofs)."""
        return self._of_each(lambda component: self.lost([component]))

    def _of_each(self, told: Callable[[str], np.ndarray]) -> np.ndarray:
        return np.array([told(component) for component in self.history.components]).reshape(-1, len(self.at))

    def reasons(self) -> np.ndarray:
        """Why a component gets no forecast at each as_of, shape (components, as_ofs); ``""`` where it gets one."""
        reasons = np.full(self._starts.shape, "", dtype=object)
        reasons[self._lost == 1.0] = "sensors"
        reasons[:, self.since_operation_d > MAX_IDLE_DAYS] = "idle"
        reasons[self.at - self._starts < MIN_CYCLE_DAYS * DAY_MS] = "young"
        reasons[:, self.stale] = "stale"
        reasons[self._of_each(lambda component: self.cycles(component)[1])] = "under_repair"
        return reasons

    def _healthy_before(self, cycle_starts_ms: Sequence[int], cycle_ms: int) -> np.ndarray | None:
        """Operations of the baseline of the last earlier cycle that got a whole one; None where there is none."""
        before_ms = whole_cycle_before(cycle_starts_ms, cycle_ms)
        if before_ms is None:
            return None
        return np.asarray((self.started >= before_ms) & (self.started < before_ms + BASELINE_DAYS * DAY_MS))

    def _compared(self, cycle_ms: int, fit: int, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, int, int]:
        """What is compared for as_ofs of one cycle: operations near them and of the baseline; first day and end of the days."""
        first, end = max(int(columns.min()) - HISTORY_DAYS, 0), int(columns.max())
        near = (self.started >= cycle_ms) & (self.day >= first - REMEMBER_DAYS) & (self.day < end)
        # the age is reached by every as_of that is wanted, so the baseline holds nothing later than any of them
        baseline = (self.started >= cycle_ms) & (self.started < cycle_ms + _BASELINE_AGES[fit] * DAY_MS)
        return near, baseline, first, end

    def measured(self, component: str, groups: Sequence[str]) -> dict[str, Measured]:
        """Behind the newest ``dev`` of some groups: the column that deviates most, as of the only as_of; see `Measured`."""
        names = [
            (name, group) for group, of_group in self.evidence.get(component, {}).items() if group in groups for name in of_group
        ]
        start, _ = self.cycles(component)
        fit = int(np.searchsorted(_BASELINE_AGES, (self.at[0] - start[0]) / DAY_MS, side="right")) - 1
        if fit <= 0 or not names:
            return {}
        near, baseline, first, end = self._compared(int(start[0]), fit, self.columns)
        shown = self._shown(names, near, baseline, first, end)
        if shown is None:
            return {}
        daily_expected = shown.daily_expected()
        found: dict[str, Measured] = {}
        for row, (name, group) in enumerate(names):
            told = np.flatnonzero(np.isfinite(shown.daily[row]))
            if not len(told) or self.spoilt(name.partition(":")[0])[0]:
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
        """The trend of each component's deviation by `GROUPS` at each as_of, shape (components, groups, trends, as_ofs)."""
        components = self.history.components
        deviations = np.full((len(components), len(ALL_GROUPS), len(TREND), len(self.at)), np.nan)
        alike: dict[tuple[int, ...], list[int]] = {}
        for place, component in enumerate(components):
            alike.setdefault(self._cycles.key(component), []).append(place)
        for places in alike.values():
            of_group = [
                (place, group, names) for place in places for group, names in self.evidence.get(components[place], {}).items()
            ]
            if of_group:
                names = [(name, group) for _, group, of in of_group for name in of]
                found = self._deviations(components[places[0]], names)
                first = np.cumsum([0, *(len(of) for _, _, of in of_group[:-1])])
                strongest = np.fmax.reduceat(found, first, axis=1)
                groups = [ALL_GROUPS.index(group) for _, group, _ in of_group]
                deviations[[place for place, _, _ in of_group], groups] = strongest.swapaxes(0, 1)
        return deviations

    def _deviations(self, component: str, names: Sequence[tuple[str, str]]) -> np.ndarray:
        """The same for columns of components whose cycles are those of one, shape (trends, columns, as_ofs)."""
        found = np.full((len(TREND), len(names), len(self.at)), np.nan)
        start, _ = self.cycles(component)
        fitted_at = np.searchsorted(_BASELINE_AGES, (self.at - start) / DAY_MS, side="right") - 1
        cycle_starts_ms = self._cycles.starts(component)
        for cycle_ms, fit in sorted({(int(c), int(f)) for c, f in zip(start, fitted_at, strict=True) if f > 0}):
            wanted = np.flatnonzero((start == cycle_ms) & (fitted_at == fit))
            columns = self.columns[wanted]
            near, baseline, first, end = self._compared(cycle_ms, fit, columns)
            shown = self._shown(names, near, baseline, first, end)
            if shown is None:
                found[TREND.index("days_over")][:, wanted] = 0.0
                continue
            trends = trends_at(shown.daily, shown.scatter[:, None], shown.count, columns - first)
            trends["now"], trends["low"] = shown.newest(self.at[wanted])
            trends["z_before"] = trends["t_7d"]
            before = self._healthy_before(cycle_starts_ms, cycle_ms)
            if before is not None and (shown := self._shown(names, near, before, first, end)) is not None:
                mean_7d = nan_mean(windows(shown.daily, 7)[:, columns - first], axis=-1)
                trends["z_before"] = evidence_7d(mean_7d, shown.scatter[:, None], shown.count, columns - first)
            for place, trend in enumerate(TREND):
                found[place][:, wanted] = trends[trend]
        spoilt = self._spoilt[[self._channel[name.partition(":")[0]] for name, _ in names]]
        return np.where(spoilt | ~np.isfinite(found), np.nan, found)

    def _shown(
        self, names: Sequence[tuple[str, str]], near: np.ndarray, baseline: np.ndarray, first: int, end: int
    ) -> _Shown | None:
        """What the operations of the days from `first` to `end` show beyond a baseline; None where there are none at all."""
        some = np.flatnonzero(near | baseline)
        if not len(some):
            return None
        ops = {name: self.operations[name][some] for name in _ALWAYS}
        fit_on, started, near = baseline[some], self.started[some], near[some]
        rows = self.row_of[some]
        drawn = None if (np.isfinite(ops["load"]) & fit_on).any() else self._current
        if drawn is not None:
            # a motor draws what it is asked for: where nobody tells the load, its current does, and is no evidence itself
            asks = self._believable[self._channel[drawn.partition(":")[0]], rows]
            ops["load"] = np.where(asks, self.operations[drawn][some], np.nan)
        load, opening, head = (filled(ops[name], fit_on) for name in ("load", "opening", "head"))
        channel = np.array([self._channel[name.partition(":")[0]] for name, _ in names])
        believable = self._believable[channel[:, None], rows]
        values = self._values[[self._place[name] for name, _ in names]][:, some]
        warm = np.array([group == "temperature" for _, group in names])
        target, predicted, scatter = np.full(values.shape, np.nan), np.zeros(values.shape), np.zeros(len(names))
        if not warm.all():
            span = np.nanmax(np.where(fit_on, opening, np.nan), initial=0.0)
            # the jet under a leaf that is nearly closed shakes it
            context = np.column_stack([load, opening, head, np.exp(-opening / max(0.15 * span, 1e-9))])
            target[~warm] = np.log(np.maximum(values[~warm], 1e-6))
            known = fit_on & believable[~warm] & np.isfinite(target[~warm])
            predicted[~warm], scatter[~warm] = ridge(context[None], target[~warm], known)
        if warm.any():
            of_start = [self._place[name.replace(":max", ":start")] for name, group in names if group == "temperature"]
            starts = self._values[of_start][:, some]
            bias_k = self.health.bias_k[channel[warm][:, None], rows]
            target[warm], explained_by = rise(ops["minutes"], self.house_c[some], values[warm], starts, bias_k, load, fit_on)
            known = fit_on & believable[warm] & np.isfinite(target[warm])
            predicted[warm], scatter[warm] = ridge(explained_by, target[warm], known)
        told = np.isfinite(target) & believable
        if drawn is not None:
            told[[group == "current" for _, group in names]] = False
        n = (fit_on & told).sum(axis=1)
        # who shows one and the same in every operation does not measure
        most = np.where(fit_on & told, values, -np.inf).max(axis=1)
        least = np.where(fit_on & told, values, np.inf).min(axis=1)
        n[(n >= _FEWEST_ALIKE) & (most - least <= 1e-6 * most) & ~warm] = 0
        prior = np.array([_PRIOR_SCATTER[group] for _, group in names])
        pulled = np.sqrt((n * scatter**2 + _PRIOR_OPERATIONS * prior**2) / (n + _PRIOR_OPERATIONS))
        scatter = np.where(n > 0, pulled, np.nan)
        used = Used.of(near & told & (n > 0)[:, None], started)
        deviation = pulled_in(used, used.pick(target - predicted), 3.0 * scatter[:, None])
        day = used.pick(np.broadcast_to(self.day[some] - first, values.shape))
        day = np.where(used.real, day, -1)
        daily, count = by_day(deviation, day, end - first)
        return _Shown(used, day, deviation, used.pick(predicted), scatter, daily, count)

    def _daily_means(self, values: np.ndarray) -> np.ndarray:
        """Mean of each day of the grid, for each row of values per operation."""
        day = np.where(np.isfinite(values), self.day, -1)
        return by_day(values, day, self.n_days)[0]

    def levels(self) -> dict[str, np.ndarray]:
        """Absolute level of the last days of each component: vibration velocity (mm/s), temperature while moving (degC)."""
        wanted = {"vibration_level_mm_s": ".velocity_rms:mean", "temperature_level_c": ".temperature:max"}
        told = [
            (feature, components.index(part), place)
            for components in [self.history.components]
            for feature, ending in wanted.items()
            for name, place in self._place.items()
            if name.endswith(ending) and (part := name.partition(".")[0]) in components
        ]
        daily = self._daily_means(self._values[[place for _, _, place in told]])
        newest = remembered(nan_mean(windows(daily, 3), axis=-1))[:, self.columns]
        levels = {feature: np.full((len(self.history.components), len(self.at)), np.nan) for feature in wanted}
        for (feature, component, _), of_column in zip(told, newest, strict=True):
            levels[feature][component] = np.fmax(levels[feature][component], of_column)
        return levels

    def context(self) -> dict[str, np.ndarray]:
        """How the gate was used, how old each component's cycle is and how much of the week was reported."""
        frozen_ms = np.minimum(self.at, self._starts + BASELINE_DAYS * DAY_MS)
        first, frozen = np.searchsorted(self.started, self._starts), np.searchsorted(self.started, frozen_ms)
        return {
            **self._use(),
            **self._unlike_baseline(first, frozen),
            "cycle_days": np.minimum((self.at - self._starts) / DAY_MS, 365.0),
            "baseline_operations": (frozen - first) * 1.0,
            "days_since_operation": np.minimum(self.since_operation_d, 60.0),
            "coverage_7d": self.coverage_7d,
            "gate_lost": self.lost(self.history.components),
            "own_lost": self._lost,
        }

    def _unlike_baseline(self, first: np.ndarray, frozen: np.ndarray) -> dict[str, np.ndarray]:
        """How far head (log) and load of the last 3 days lie from the baseline's mean, and head from its highest.

        What a flood does to a leaf cannot be learnt in a dry month.
        """
        head, load = np.log(np.maximum(self.operations["head"], 0.1)), self.operations["load"]
        recent = remembered(nan_mean(windows(self._daily_means(np.array([head, load])), 3), axis=-1))[:, self.columns]
        means = []
        for values in (head, load):
            known = np.isfinite(values)
            total, count = np.append(0.0, np.cumsum(np.where(known, values, 0.0))), np.append(0, np.cumsum(known))
            n = count[frozen] - count[first]
            means.append(np.where(n > 0, (total[frozen] - total[first]) / np.maximum(n, 1), np.nan))
        highest = np.full(first.shape, np.nan)
        for start in np.unique(first):
            of_cycle = (first == start) & (frozen > start)
            highest[of_cycle] = np.fmax.accumulate(head[start:])[frozen[of_cycle] - start - 1]
        return {"head_rise": recent[0] - means[0], "head_beyond": recent[0] - highest, "load_rise": recent[1] - means[1]}

    def _use(self) -> dict[str, np.ndarray]:
        """What is the same for all components: how the gate was used."""
        minutes = self.operations["minutes"]
        use = self.day >= 0
        day = self.day[use].astype(int)
        count = np.bincount(day, minlength=self.n_days).astype(float)
        minutes = np.bincount(day, weights=minutes[use], minlength=self.n_days)
        names = ("load", "ambient_temperature", "head")
        daily = self._daily_means(self._values[[self._place[name] for name in names]])
        load, ambient, head = nan_mean(windows(daily, 7)[:, self.columns], axis=-1)
        return {
            "load_7d": load,
            "operations_7d": windows(count, 7, fill=0.0)[self.columns].sum(axis=-1),
            "minutes_7d": windows(minutes, 7, fill=0.0)[self.columns].sum(axis=-1),
            "minutes_28d": windows(minutes, 28, fill=0.0)[self.columns].sum(axis=-1),
            "ambient_7d": ambient,
            "head_7d": head,
        }

    def record(self) -> dict[str, np.ndarray]:
        """What the maintenance records tell: how often the gate failed and was repaired, when somebody last looked, its age."""
        records = self.records
        failed = records.kind == "failure"
        mended = (records.kind == "repair") | (records.kind == "replacement")
        years = (self.at - self.first_day_ms) / (365.25 * DAY_MS)

        def a_year(kept: np.ndarray) -> np.ndarray:
            # as if half a record more had come in one year more: two failures in a month are not 24 a year
            return (np.searchsorted(np.sort(records.started_ms[kept]), self.at) + 0.5) / (years + 1.0)

        def visited_ms(component: str) -> np.ndarray:
            visits = np.append(np.sort(records.concerning(component).started_ms), np.iinfo(np.int64).max)
            newest = np.searchsorted(visits, self.at) - 1
            return np.where(newest >= 0, visits[np.maximum(newest, 0)], self.first_day_ms)

        since = np.nan if self.history.commissioned_on is None else pd.Timestamp(self.history.commissioned_on).value // 10**6
        return {
            "gate_failures_a_year": a_year(failed),
            "own_failures_a_year": self._of_each(lambda component: a_year(failed & (records.component == component))),
            "repairs_a_year": a_year(mended),
            "days_since_visit": np.minimum((self.at - self._of_each(visited_ms)) / DAY_MS, 365.0),
            "gate_age_years": (self.at - since) / (365.25 * DAY_MS),
        }


@lru_cache(maxsize=256)
def _evidence(names: tuple[str, ...]) -> dict[str, dict[str, list[str]]]:
    """The columns of operations that are evidence, by component and group; gates of one make have the same."""
    columns: dict[str, dict[str, list[str]]] = {}
    for name in names:
        key, _, told = name.partition(":")
        quantity = quantity_of(key)
        group = _GROUP_OF.get(quantity, "")
        if not group:
            continue
        of_component = columns.setdefault(key.split(".")[0], {})
        if told == "high" and quantity == "velocity_rms":
            of_component.setdefault("high", []).append(name)
        elif told in ("mean", "max"):
            of_component.setdefault(group, []).append(name)
    return columns


def _first_day(history: GateHistory, day_ms: np.ndarray, until_ms: int) -> int:
    first_ms = history.first_day_ms
    if first_ms is None:
        first_ms = int(day_ms.min()) if len(day_ms) else until_ms
    return min(first_ms, until_ms)
