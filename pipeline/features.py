"""Features: what a gate's operations up to an instant say about each of its components. No network, database or clock.

One function, `build`, serves training and live scoring; live takes the newest row. Each component is compared with its
own earlier operations at similar load, opening and ambient temperature: a *cycle* starts with the record or with a repair,
its first 30 days are the *baseline*, and a *deviation* is what an operation shows beyond what the baseline explains. A row
as of T knows nothing that happened at T or later.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property, lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import sensor_health
from pipeline.baseline import filled, house, ridge, rise
from pipeline.channel_days import GateDays
from pipeline.cycles import BASELINE_DAYS, Cycles, Records, whole_cycle_before
from pipeline.dataset import Dataset
from pipeline.operations import CONTEXT, SHOCKS, segment
from pipeline.readings import DAY_MS, QUANTITIES, quantity_of
from pipeline.trends import (
    HISTORY_DAYS,
    REMEMBER_DAYS,
    Used,
    by_day,
    evidence_7d,
    nan_max,
    nan_mean,
    newest,
    pulled_in,
    remembered,
    trends_at,
    windows,
)

COMPONENT_KINDS = ("motor", "gearbox", "brake", "leaf", "screw", "drum", "hydraulic")
HOIST_TYPES = ("winch", "screw", "hydraulic")

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
_GROUP_OF = {quantity: group for group, quantities in GROUPS.items() for quantity in quantities}

_TREND = (
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
_CONTEXT = (
    "load_7d",
    "operations_7d",
    "minutes_7d",
    "minutes_28d",
    "ambient_7d",
    "head_7d",
    "head_rise",
    "head_beyond",
    "load_rise",
    "cycle_days",
    "baseline_operations",
    "days_since_operation",
    "coverage_7d",
    "gate_lost",
    "own_lost",
)
_RECORD = ("gate_failures_a_year", "own_failures_a_year", "repairs_a_year", "days_since_visit", "gate_age_years")
_CONTRAST = ("velocity_contrast", "temperature_contrast")

FEATURES: tuple[str, ...] = (
    *(f"{group}_{name}" for group in OWN_GROUPS for name in _TREND),
    *(f"current_{name}" for name in _TREND),
    *(f"{kind}_{group}_z" for kind in ("motor", "gearbox", "brake", "leaf", "hydraulic") for group in OWN_GROUPS),
    *(f"own_z_{rank}" for rank in (1, 2, 3)),
    *(f"own_t_{rank}" for rank in (1, 2, 3)),
    *(f"gate_z_{rank}" for rank in (1, 2, 3)),
    *(f"gate_t_{rank}" for rank in (1, 2, 3)),
    *_CONTRAST,
    "vibration_level_mm_s",
    "vibration_dev",
    "vibration_dev_7d",
    "vibration_slope_7d",
    "vibration_slope_14d",
    "vibration_slope_30d",
    "temperature_level_c",
    *_CONTEXT,
    *_RECORD,
    *(f"is_{kind}" for kind in (*COMPONENT_KINDS, "other")),
    *(f"hoist_{hoist}" for hoist in HOIST_TYPES),
)
"""Names and order of the feature columns; all float64, NaN where nothing is known.

``velocity`` … ``impulse`` and ``current`` are log ratios to the own baseline, ``temperature`` kelvin beyond what load,
duration and ambient explain; ``dev`` is the mean of the last 3 days, slopes are per day, ``z`` is in units of the
baseline's own scatter.
"""

_UNITS = {
    "temperature_contrast": "K",
    "vibration_level_mm_s": "mm/s",
    "temperature_level_c": "degC",
    "minutes_7d": "min",
    "minutes_28d": "min",
    "ambient_7d": "degC",
    "head_7d": "m",
    "cycle_days": "d",
    "days_since_operation": "d",
    "days_since_visit": "d",
    "gate_age_years": "a",
}


def unit_of(feature: str) -> str:
    """Unit of a feature: ``1`` for log ratios, multiples of the scatter, shares, counts and flags; ``/d`` is per day."""
    group, _, name = feature.partition("_")
    if feature in _UNITS:
        return _UNITS[feature]
    if name.endswith("a_year"):
        return "1/a"
    if name == "days_over":
        return "d"
    size = "K" if group == "temperature" and name.startswith(("dev", "slope", "diff", "fall", "rate")) else "1"
    return f"{size}/d" if name.startswith(("slope", "rate")) else size


GATES_AT_ONCE = 10
"""Gates whose sensors are judged together: enough to share the cost of each step, few enough for the processor's cache."""

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
SENSOR_DAYS = 45
"""Verdicts on a channel look back 14 days with readings, its reporting interval 30; a stuck one is known after some more."""


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


def from_dataset(
    dataset: Dataset,
    as_ofs: Sequence[datetime] | None = None,
    progress: Callable[[int, int], None] | None = None,
    jobs: int = 1,
    gate_ids: Sequence[str] | None = None,
    quantities: Sequence[str] | None = None,
    compact: bool = False,
    keep: Path | None = None,
) -> pd.DataFrame:
    """Feature rows of the gates of a dataset at each of `as_ofs` (default: every midnight their readings cover).

    Parameters
    ----------
    jobs : processes that share the gates; the rows are the same
    gate_ids : these gates only
    quantities : as a station would see it that measures nothing but these
    compact : hold features in single precision, which is enough to learn from
    keep : folder that keeps each gate's rows once they are made, so that a run that was cut short goes on where it
        stopped; whoever names it answers for it that dataset, code and these parameters are the same

    Returns
    -------
    DataFrame
        As `build`, for all gates, sorted by gate, component and time.
    """
    parts = []
    gate_ids = dataset.gate_ids if gate_ids is None else gate_ids
    work = partial(_of_gate, dataset, as_ofs, quantities, compact)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        work = partial(_kept, keep, work)
    for done, rows in enumerate(_each_gate(gate_ids, work, jobs), start=1):
        if len(rows):
            parts.append(rows)
        if progress is not None:
            progress(done, len(gate_ids))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*_KEYS, *FEATURES])


def _compact(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([rows[list(_KEYS)], rows[list(FEATURES)].astype(np.float32)], axis=1)


def _each_gate(gate_ids: Sequence[str], work: Callable[[str], pd.DataFrame], jobs: int) -> Iterator[pd.DataFrame]:
    if jobs <= 1:
        yield from map(work, gate_ids)
        return
    with ProcessPoolExecutor(max_workers=jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(work, gate_ids, chunksize=4)


def _of_gate(
    dataset: Dataset, as_ofs: Sequence[datetime] | None, quantities: Sequence[str] | None, compact: bool, gate_id: str
) -> pd.DataFrame:
    history = history_of(dataset, gate_id, quantities)
    if not len(history.days):
        return pd.DataFrame(columns=[*_KEYS, *FEATURES])
    rows = build(history, _midnights(history.days) if as_ofs is None else as_ofs)
    return _compact(rows) if compact else rows


def _kept(folder: Path, work: Callable[[str], pd.DataFrame], gate_id: str) -> pd.DataFrame:
    """The rows of a gate as they were kept, else made and kept: whole or not at all, whenever the process dies."""
    file = folder / f"{gate_id}.parquet"
    if file.is_file():
        kept: pd.DataFrame = pq.read_table(file).to_pandas()
        return kept
    rows = work(gate_id)
    descriptor, temporary = tempfile.mkstemp(prefix=".new-", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), stream)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(file)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return rows


def history_of(
    dataset: Dataset, gate_id: str, quantities: Sequence[str] | None = None, before: datetime | None = None
) -> GateHistory:
    """Cut one gate's readings (of some `quantities`) into operations, with its maintenance records beside.

    `before` an instant, it is what was known then: nothing that happened at it or later.
    """
    readings = dataset.readings(gate_id)
    records = dataset.maintenance[dataset.maintenance["gate_id"] == gate_id]
    if before is not None:
        readings, records = readings[readings["ts"] < before], records[records["started_at"] < before]
        records = records.assign(ended_at=records["ended_at"].where(records["ended_at"] < before))
    if quantities is not None:
        kept = [name for name in readings.columns if quantity_of(name) in quantities]
        readings = readings[["ts", *kept]].dropna(how="all", subset=kept)
    segmented = segment(readings)
    gate = dataset.gates[dataset.gates["gate_id"] == gate_id].iloc[0]
    named = {
        *dataset.components.loc[dataset.components["gate_id"] == gate_id, "component"],
        *dataset.channels.loc[dataset.channels["gate_id"] == gate_id, "component"],
    }
    declared = [channel for channel in dataset.declared(gate_id) if channel.interval_s is not None]
    return GateHistory(
        gate_id=gate_id,
        components=components_to_score(named),
        hoist_type=str(gate["hoist_type"]),
        operations=segmented.operations,
        days=segmented.days,
        maintenance=records[["component", "kind", "started_at", "ended_at"]].reset_index(drop=True),
        intervals_s={channel.key: float(channel.interval_s or 0.0) for channel in declared},
        commissioned_on=day_or_none(gate["commissioned_on"]),
    )


def day_or_none(text: object) -> date | None:
    """A day as a table has it (``2019-05-01``); None where it is empty or no day."""
    try:
        return date.fromisoformat(str(text))
    except ValueError:
        return None


def components_to_score(named: set[str]) -> tuple[str, ...]:
    """The components of a gate that get a forecast: all but the station's shared instruments."""
    return tuple(sorted(named - {"station"}))


_KEYS = ("gate_id", "component", "as_of", "reason", "lost", "hoist_type")


def build(history: GateHistory, as_ofs: Sequence[datetime]) -> pd.DataFrame:
    """Feature rows of one gate.

    Parameters
    ----------
    history : GateHistory
    as_ofs : sequence of aware datetimes
        UTC midnights. Rows at T use only operations, rests and maintenance records that started before T, and never the
        end of a repair that had not ended yet.

    Returns
    -------
    DataFrame
        One row per (component, as_of): ``gate_id``, ``component``, ``as_of`` (datetime64[ms, UTC]), ``reason`` (``""`` or
        why no forecast can be given: ``under_repair``, ``stale``, ``young``, ``idle``, ``sensors``), ``lost`` (the
        component's faulty channels, each with its kind: ``"motor.current: stuck; …"``), ``hoist_type`` and the float64
        columns `FEATURES`.
    """
    return build_all([history], as_ofs)


def build_all(histories: Sequence[GateHistory], as_ofs: Sequence[datetime]) -> pd.DataFrame:
    """Feature rows of several gates, one gate after the other as `build` gives them; one frame of many is the cheaper."""
    at = np.array(sorted({_to_ms(as_of) for as_of in as_ofs}), dtype=np.int64)
    if (at % DAY_MS).any():
        raise ValueError("as_of must be a UTC midnight")
    parts = [
        _rows_of(view)
        for start in range(0, len(histories), GATES_AT_ONCE)
        for view in _views(histories[start : start + GATES_AT_ONCE], at)
    ]
    if not parts:
        return pd.DataFrame(columns=[*_KEYS, *FEATURES])
    keys = {name: np.concatenate([of_gate[name] for of_gate, _ in parts]) for name in _KEYS}
    frame = pd.DataFrame(keys)
    frame["as_of"] = frame["as_of"].astype("datetime64[ms]").dt.tz_localize("UTC")
    values = pd.DataFrame(np.concatenate([matrix for _, matrix in parts]), columns=list(FEATURES))
    return pd.concat([frame, values], axis="columns")


def _rows_of(view: _GateView) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Key columns of one gate's rows by name, and `FEATURES`, shape (rows, features)."""
    history, at = view.history, view.at
    deviations = view.deviations()
    empty = np.full(len(at), np.nan)
    nothing = _fuse([], len(at))
    gate_z = np.vstack([trend["z"] for groups in deviations.values() for trend in groups.values()] or [empty])
    current = _fuse([groups["current"] for groups in deviations.values() if "current" in groups], len(at))
    shared = {f"{kind}_{group}_z": empty for kind in COMPONENT_KINDS for group in OWN_GROUPS}
    for component, groups in deviations.items():
        shared.update({f"{component}_{group}_z": groups[group]["z"] for group in groups if group in OWN_GROUPS})
    shared.update({f"current_{name}": current[name] for name in _TREND})
    shared.update(_ranked("gate_z", gate_z))
    gate_t = np.vstack([trend["t_7d"] for groups in deviations.values() for trend in groups.values()] or [empty])
    shared.update(_ranked("gate_t", gate_t))
    shared.update({f"hoist_{hoist}": np.full(len(at), float(history.hoist_type == hoist)) for hoist in HOIST_TYPES})

    blocks = [np.empty((0, len(FEATURES)))]
    for component in history.components:
        groups = deviations[component]
        own = {group: groups.get(group, nothing) for group in OWN_GROUPS}
        columns = dict(shared)
        columns.update({f"{group}_{name}": own[group][name] for group in OWN_GROUPS for name in _TREND})
        columns.update(_ranked("own_z", np.vstack([own[group]["z"] for group in OWN_GROUPS])))
        columns.update(_ranked("own_t", np.vstack([own[group]["t_7d"] for group in OWN_GROUPS])))
        for group in ("velocity", "temperature"):
            others = [deviations[c][group]["dev"] for c in history.components if c != component and group in deviations[c]]
            columns[f"{group}_contrast"] = own[group]["dev"] - nan_mean(np.vstack([*others, empty]).T, axis=1)
        for name in ("dev", "dev_7d", "slope_7d", "slope_14d", "slope_30d"):
            columns[f"vibration_{name}"] = np.where(
                np.isnan(own["velocity"][name]), own["acceleration"][name], own["velocity"][name]
            )
        columns.update(view.levels(component))
        columns.update(view.context(component))
        columns.update(view.record(component))
        kind = component if component in COMPONENT_KINDS else "other"
        columns.update({f"is_{name}": np.full(len(at), float(name == kind)) for name in (*COMPONENT_KINDS, "other")})
        blocks.append(np.concatenate([columns[name] for name in FEATURES]).reshape(len(FEATURES), len(at)).T)
    n = len(history.components)
    keys = {
        "gate_id": np.full(n * len(at), history.gate_id, dtype=object),
        "component": np.repeat(np.array(history.components, dtype=object), len(at)),
        "as_of": np.tile(at, n),
        "reason": np.concatenate([view.reasons(component) for component in history.components] or [np.empty(0, object)]),
        "lost": np.concatenate([view.told_lost(component) for component in history.components] or [np.empty(0, object)]),
        "hoist_type": np.full(n * len(at), history.hoist_type, dtype=object),
    }
    return keys, np.concatenate(blocks)


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
        """From means of what the baseline explains and of the deviation, in the terms of `_GateView._shown`."""
        since, until = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (since_ms, until_ms))
        if group == "temperature":
            return cls(column, "K", expected + deviation, expected, deviation, since, until)
        unit = QUANTITIES[quantity_of(column.partition(":")[0])].unit
        shown, explained, change = (float(np.exp(value)) for value in (expected + deviation, expected, deviation))
        return cls(column, unit, shown, explained, change, since, until)


def shown_and_expected(history: GateHistory, component: str, as_of: datetime) -> dict[str, Measured]:
    """What stands behind the newest deviations of one component's row, by group of evidence; see `Measured`.

    As in the row, the column that deviates most speaks for its group, and the gate's strongest current for any component.
    A group is absent where nothing is known.
    """
    (view,) = _views([history], np.array([_to_ms(as_of)], dtype=np.int64))
    found = view.measured(component, OWN_GROUPS)
    currents = [one for part in history.components for one in view.measured(part, ("current",)).values()]
    return {**found, "current": max(currents, key=lambda one: one.change)} if currents else found


def _first_day(history: GateHistory, day_ms: np.ndarray, until_ms: int) -> int:
    first_ms = history.first_day_ms
    if first_ms is None:
        first_ms = int(day_ms.min()) if len(day_ms) else until_ms
    return min(first_ms, until_ms)


def needed_spans(
    maintenance: pd.DataFrame, components: Sequence[str], first_day_ms: int, as_ofs: Sequence[datetime]
) -> list[tuple[int, int]]:
    """Spans of whole days (epoch ms, the end exclusive) whose operations and days make the rows at `as_ofs`.

    These are the days that trends look back to, and the baselines of each component's cycle and of the last one before it
    that had a whole one, each with some days before it, by which its sensors are judged. `build` gives the same rows from
    them as from the whole record (given `GateHistory.first_day_ms`), as long as gates report at least now and then.

    Parameters
    ----------
    maintenance, first_day_ms : as in `GateHistory`
    components : those of the gate that have channels, the station's shared instruments among them
    """
    at = np.array(sorted({_to_ms(as_of) for as_of in as_ofs}), dtype=np.int64)
    cycles = Cycles(Records.of(maintenance), min(first_day_ms, int(at[-1])), at)
    end_ms = int(at[-1])
    spans = [(int(at[0]) - (HISTORY_DAYS + REMEMBER_DAYS) * DAY_MS, end_ms)]
    for component in {cycles.key(component): component for component in components}.values():
        starts_ms = cycles.starts(component)
        for cycle_ms in set(cycles.at(component, at)[0].tolist()):
            before_ms = whole_cycle_before(starts_ms, cycle_ms)
            for start_ms in (cycle_ms,) if before_ms is None else (before_ms, cycle_ms):
                spans.append((start_ms, min(start_ms + BASELINE_DAYS * DAY_MS, end_ms)))
    merged: list[tuple[int, int]] = []
    for start_ms, end_ms in sorted(spans):
        start_ms = (start_ms // DAY_MS - SENSOR_DAYS) * DAY_MS
        end_ms = -(-end_ms // DAY_MS) * DAY_MS
        if merged and start_ms <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end_ms))
        else:
            merged.append((start_ms, end_ms))
    return merged


def _to_ms(instant: datetime) -> int:
    return round(instant.timestamp() * 1000)


def _midnights(days: pd.DataFrame) -> list[datetime]:
    day_ms = days["day_ms"].to_numpy()
    return [pd.Timestamp(ms, unit="ms", tz="UTC") for ms in range(int(day_ms.min()), int(day_ms.max()) + 2 * DAY_MS, DAY_MS)]


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


def _views(histories: Sequence[GateHistory], at: np.ndarray) -> list[_GateView]:
    """Some gates' histories with their sensors judged."""
    views = [_GateView(history, at) for history in histories]
    for view, health in zip(views, sensor_health.assess_all([view.gate_days() for view in views]), strict=True):
        view.believe(health)
    return views


class _GateView:
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
        self.operations = dict(zip(operations.columns, values, strict=True))
        self.house_c = house(self.operations)
        self.evidence = _evidence(tuple(operations.columns))
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
        keys = sorted(
            {
                name.partition(":")[0]
                for component in components
                for group, names in self.evidence.get(component, {}).items()
                if group in OWN_GROUPS
                for name in names
            }
        )
        if not keys:
            return np.zeros(len(self.at))
        return np.asarray(np.mean([self.spoilt(key) for key in keys], axis=0))

    def told_lost(self, component: str) -> np.ndarray:
        """The component's faulty channels at each as_of, in words."""
        names = tuple(sensor_health.KINDS)
        told = np.full(len(self.at), "", dtype=object)
        for place in np.flatnonzero((self._kinds >= 0).any(axis=1)):
            channel, kind = self.health.channels[place], self._kinds[place]
            if channel.partition(".")[0] == component:
                for at in np.flatnonzero(kind >= 0):
                    told[at] += f"{'; ' if told[at] else ''}{channel}: {names[kind[at]]}"
        return told

    def cycles(self, component: str) -> tuple[np.ndarray, np.ndarray]:
        """For each as_of: when the component's cycle started (ms), and whether it is out of order."""
        return self._cycles.at(component, self.at)

    def reasons(self, component: str) -> np.ndarray:
        """Why the component gets no forecast at each as_of; ``""`` where it gets one."""
        start, down = self.cycles(component)
        young = self.at - start < MIN_CYCLE_DAYS * DAY_MS
        idle = self.since_operation_d > MAX_IDLE_DAYS
        blind = self.lost([component]) == 1.0
        told = ["under_repair", "stale", "young", "idle", "sensors"]
        reasons = np.select([down, self.stale, young, idle, blind], told, default="")
        return reasons.astype(object)

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

    def deviations(self) -> dict[str, dict[str, dict[str, np.ndarray]]]:
        """Per component and group of evidence it has: the trend of its deviation at each as_of."""
        alike: dict[tuple[int, ...], list[str]] = {}
        for component in self.history.components:
            alike.setdefault(self._cycles.key(component), []).append(component)
        deviations = {}
        for components in alike.values():
            deviations.update(self._deviations(components))
        return {component: deviations.get(component, {}) for component in self.history.components}

    def _deviations(self, components: Sequence[str]) -> dict[str, dict[str, dict[str, np.ndarray]]]:
        """The same for components whose cycles are the same."""
        of_group = [
            (component, group, names) for component in components for group, names in self.evidence.get(component, {}).items()
        ]
        names = [(name, group) for _, group, of in of_group for name in of]
        if not names:
            return {component: {} for component in components}
        found = np.full((len(_TREND), len(names), len(self.at)), np.nan)
        start, _ = self.cycles(components[0])
        fitted_at = np.searchsorted(_BASELINE_AGES, (self.at - start) / DAY_MS, side="right") - 1
        cycle_starts_ms = self._cycles.starts(components[0])
        for cycle_ms, fit in sorted({(int(c), int(f)) for c, f in zip(start, fitted_at, strict=True) if f > 0}):
            wanted = np.flatnonzero((start == cycle_ms) & (fitted_at == fit))
            columns = self.columns[wanted]
            near, baseline, first, end = self._compared(cycle_ms, fit, columns)
            shown = self._shown(names, near, baseline, first, end)
            if shown is None:
                found[_TREND.index("days_over")][:, wanted] = 0.0
                continue
            trends = trends_at(shown.daily, shown.scatter[:, None], shown.count, columns - first)
            trends["now"], trends["low"] = shown.newest(self.at[wanted])
            trends["z_before"] = trends["t_7d"]
            before = self._healthy_before(cycle_starts_ms, cycle_ms)
            if before is not None and (shown := self._shown(names, near, before, first, end)) is not None:
                mean_7d = nan_mean(windows(shown.daily, 7)[:, columns - first], axis=-1)
                trends["z_before"] = evidence_7d(mean_7d, shown.scatter[:, None], shown.count, columns - first)
            for place, trend in enumerate(_TREND):
                found[place][:, wanted] = trends[trend]
        spoilt = np.array([self.spoilt(name.partition(":")[0]) for name, _ in names])
        found = np.where(spoilt | ~np.isfinite(found), np.nan, found)
        ends = np.cumsum([len(of) for _, _, of in of_group])
        strongest = np.fmax.reduceat(found, np.append(0, ends[:-1]), axis=1)
        fused: dict[str, dict[str, dict[str, np.ndarray]]] = {component: {} for component in components}
        for place, (component, group, _) in enumerate(of_group):
            fused[component][group] = dict(zip(_TREND, strongest[:, place], strict=True))
        return fused

    def _shown(
        self, names: Sequence[tuple[str, str]], near: np.ndarray, baseline: np.ndarray, first: int, end: int
    ) -> _Shown | None:
        """What the operations of the days from `first` to `end` show beyond a baseline; None where there are none at all."""
        some = np.flatnonzero(near | baseline)
        if not len(some):
            return None
        ops = {name: self.operations[name][some] for name in _ALWAYS}
        fit_on, started, near = baseline[some], self.started[some], near[some]
        load, opening, head = (filled(ops[name], fit_on) for name in ("load", "opening", "head"))
        rows = self.row_of[some]
        channel = np.array([self._channel[name.partition(":")[0]] for name, _ in names])
        believable = self._believable[channel[:, None], rows]
        values = np.array([self.operations[name][some] for name, _ in names])
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
            starts = np.array(
                [self.operations[name.replace(":max", ":start")][some] for name, group in names if group == "temperature"]
            )
            bias_k = self.health.bias_k[channel[warm][:, None], rows]
            target[warm], explained_by = rise(ops["minutes"], self.house_c[some], values[warm], starts, bias_k, load, fit_on)
            known = fit_on & believable[warm] & np.isfinite(target[warm])
            predicted[warm], scatter[warm] = ridge(explained_by, target[warm], known)
        told = np.isfinite(target) & believable
        n = (fit_on & told).sum(axis=1)
        # who shows one and the same in every operation does not measure
        shown_then = np.where(fit_on & told, values, np.nan)
        most, least = nan_max(shown_then.T), -nan_max(-shown_then.T)
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

    def levels(self, component: str) -> dict[str, np.ndarray]:
        """Absolute level of the last days: vibration velocity (mm/s) and temperature while moving (degC)."""
        return {feature: levels[component] for feature, levels in self._levels.items()}

    @cached_property
    def _levels(self) -> dict[str, dict[str, np.ndarray]]:
        wanted = {"vibration_level_mm_s": ".velocity_rms:mean", "temperature_level_c": ".temperature:max"}
        levels = {}
        for feature, ending in wanted.items():
            names = [name for name in self.operations if name.endswith(ending)]
            daily = self._daily_means(np.array([self.operations[name] for name in names]).reshape(len(names), len(self.started)))
            newest = remembered(nan_mean(windows(daily, 3), axis=-1))[:, self.columns]
            part = np.array([name.partition(".")[0] for name in names], dtype=object)
            nothing = np.full((1, len(self.at)), np.nan)
            levels[feature] = {
                component: nan_max(np.vstack([nothing, newest[part == component]])) for component in self.history.components
            }
        return levels

    def context(self, component: str) -> dict[str, np.ndarray]:
        """How the gate was used, how old the cycle is and how much of the week was reported."""
        start, _ = self.cycles(component)
        cycle_days = (self.at - start) / DAY_MS
        first, frozen = np.searchsorted(self.started, [start, np.minimum(self.at, start + BASELINE_DAYS * DAY_MS)])
        out = dict(self._use)
        out |= self._unlike_baseline(first, frozen)
        out["cycle_days"] = np.minimum(cycle_days, 365.0)
        out["baseline_operations"] = (frozen - first).astype(float)
        out["days_since_operation"] = np.minimum(self.since_operation_d, 60.0)
        out["coverage_7d"] = self.coverage_7d
        out["own_lost"] = self.lost([component])
        return out

    def _unlike_baseline(self, first: np.ndarray, frozen: np.ndarray) -> dict[str, np.ndarray]:
        """How far head (log) and load of the last 3 days lie from the baseline's mean, and head from its highest.

        What a flood does to a leaf cannot be learnt in a dry month.
        """
        head, load = self._head_and_load
        recent = remembered(nan_mean(windows(self._daily_means(np.array([head, load])), 3), axis=-1))[:, self.columns]
        means = []
        for values in (head, load):
            known = np.isfinite(values)
            total = np.append(0.0, np.cumsum(np.where(known, values, 0.0)))
            count = np.append(0, np.cumsum(known))
            n = count[frozen] - count[first]
            means.append(np.where(n > 0, (total[frozen] - total[first]) / np.maximum(n, 1), np.nan))
        highest = np.full(len(first), np.nan)
        for start in np.unique(first):
            of_cycle = (first == start) & (frozen > start)
            highest[of_cycle] = np.fmax.accumulate(head[start:])[frozen[of_cycle] - start - 1]
        return {"head_rise": recent[0] - means[0], "head_beyond": recent[0] - highest, "load_rise": recent[1] - means[1]}

    @cached_property
    def _head_and_load(self) -> tuple[np.ndarray, np.ndarray]:
        """Head (log, of at least 0.1 m) and load of each operation."""
        return np.log(np.maximum(self.operations["head"], 0.1)), self.operations["load"]

    @cached_property
    def _use(self) -> dict[str, np.ndarray]:
        """What is the same for all components: how the gate was used."""
        minutes = self.operations["minutes"]
        use = self.day >= 0
        day = self.day[use].astype(int)
        count = np.bincount(day, minlength=self.n_days).astype(float)
        minutes = np.bincount(day, weights=minutes[use], minlength=self.n_days)
        names = ("load", "ambient_temperature", "head")
        daily = self._daily_means(np.array([self.operations[name] for name in names]))
        load, ambient, head = nan_mean(windows(daily, 7)[:, self.columns], axis=-1)
        return {
            "load_7d": load,
            "operations_7d": windows(count, 7, fill=0.0)[self.columns].sum(axis=-1),
            "minutes_7d": windows(minutes, 7, fill=0.0)[self.columns].sum(axis=-1),
            "minutes_28d": windows(minutes, 28, fill=0.0)[self.columns].sum(axis=-1),
            "ambient_7d": ambient,
            "head_7d": head,
            "gate_lost": self.lost(self.history.components),
        }

    def record(self, component: str) -> dict[str, np.ndarray]:
        """What the maintenance records tell: how often the gate failed and was repaired, when somebody last looked, its age."""
        records = self.records
        started = records.started_ms
        of_part = (records.component == "") | (records.component == component)
        failed = records.kind == "failure"
        mended = (records.kind == "repair") | (records.kind == "replacement")
        years = (self.at - self.first_day_ms) / (365.25 * DAY_MS)

        def a_year(kept: np.ndarray) -> np.ndarray:
            # as if half a record more had come in one year more: two failures in a month are not 24 a year
            return (np.searchsorted(np.sort(started[kept]), self.at) + 0.5) / (years + 1.0)

        visits = np.append(np.sort(started[of_part]), np.iinfo(np.int64).max)
        newest = np.searchsorted(visits, self.at) - 1
        visited = np.where(newest >= 0, visits[np.maximum(newest, 0)], self.first_day_ms)
        since = np.nan if self.history.commissioned_on is None else pd.Timestamp(self.history.commissioned_on).value // 10**6
        return {
            "gate_failures_a_year": a_year(failed),
            "own_failures_a_year": a_year(failed & (records.component == component)),
            "repairs_a_year": a_year(mended),
            "days_since_visit": np.minimum((self.at - visited) / DAY_MS, 365.0),
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


def _fuse(groups: list[dict[str, np.ndarray]], n: int) -> dict[str, np.ndarray]:
    """The strongest of several trends, name by name; NaN where there is none."""
    if not groups:
        return dict.fromkeys(_TREND, np.full(n, np.nan))
    return {name: nan_max(np.vstack([group[name] for group in groups])) for name in _TREND}


def _ranked(prefix: str, z: np.ndarray) -> dict[str, np.ndarray]:
    """The three greatest of several z, in falling order; NaN where there are fewer."""
    filled = np.where(np.isfinite(z), z, -np.inf)
    filled = np.vstack([filled, np.full((3, z.shape[1]), -np.inf)])
    top = -np.sort(-filled, axis=0)[:3]
    return {f"{prefix}_{rank + 1}": np.where(np.isinf(top[rank]), np.nan, top[rank]) for rank in range(3)}
