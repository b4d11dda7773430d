"""Read-only queries that the routes and the console share. Nothing here writes; what changes things is in `service.store`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from pipeline import cut_days, historian
from pipeline.historian import from_ms, to_ms
from pipeline.operations import KEYS, from_rows, segment, summaries
from pipeline.readings import DAY_MS
from service import store
from service.alerts import SEVERITIES, STATES, Alert
from service.api.context import STALE_AFTER
from service.silence_watch import STALE, is_offline

FORECAST_GOOD_FOR = timedelta(days=2)
"""A forecast older than this says nothing about today."""


@dataclass(frozen=True, slots=True)
class GateStanding:
    """A gate and how it stands; `gate` has the columns of the gates table."""

    gate: Mapping[str, Any]
    last_seen: datetime | None
    state: str
    reason: str
    data_stale: bool
    alerts: tuple[Alert, ...]
    forecast: store.Row | None

    @property
    def severity(self) -> str | None:
        """Of the most severe unresolved alert."""
        return max((alert.severity for alert in self.alerts), key=SEVERITIES.index, default=None)


def standing(
    gate: Mapping[str, Any],
    forecast: store.Row | None,
    alerts: Sequence[Alert],
    now: datetime,
    silent_since: datetime | None = None,
) -> GateStanding:
    """Say how a gate stands. An alert outlives silence; silence and an old forecast are never taken for health.

    A gate whose silence has been told of (`silent_since`) is silent until it speaks again; any other one, after a day.
    """
    last_seen = None if gate["last_seen_ms"] is None else from_ms(gate["last_seen_ms"])
    offline = is_offline(gate)
    told = silent_since is not None and (last_seen is None or last_seen <= silent_since)
    stale = offline or told or last_seen is None or now - last_seen >= STALE_AFTER
    state, reason = "normal", ""
    if alerts:
        state = "at_risk"
    elif stale:
        state, reason = "stale", "offline" if offline else "stale"
    elif forecast is None:
        state, reason = "no_verdict", "not_scored"
    elif forecast["verdict"] != "forecast":
        state, reason = "no_verdict", forecast["reason"]
    elif now - forecast["as_of"] > FORECAST_GOOD_FOR:
        state, reason = "no_verdict", "outdated"
    return GateStanding(gate, last_seen, state, reason, stale, tuple(alerts), forecast)


def gate_standings(connection: Connection, now: datetime) -> list[GateStanding]:
    """Every gate and how it stands, by gate_id."""
    gates = connection.execute(sa.select(historian.gates).order_by(historian.gates.c.gate_id)).mappings().all()
    forecasts = _newest_gate_rows(connection)
    alerts: dict[str, list[Alert]] = {}
    for alert in store.alerts_by_urgency(connection, limit=10_000):
        alerts.setdefault(alert.gate_id, []).append(alert)
    silent = _silent_since(connection)
    return [
        standing(gate, forecasts.get(gate_id), alerts.get(gate_id, []), now, silent.get(gate_id))
        for gate_id, gate in ((gate["gate_id"], dict(gate)) for gate in gates)
    ]


def _silent_since(connection: Connection, gate_id: str | None = None) -> dict[str, datetime]:
    """Since when each gate (or the one) is silent whose silence has been told of."""
    return {notice.gate_id or "": notice.opened_at for notice in store.open_notices(connection, STALE, gate_id)}


def _newest_gate_rows(connection: Connection) -> dict[str, store.Row]:
    """The newest gate row of every gate, without its curve: one step into the primary key per gate, however long the history."""
    table, gate_id = store.forecasts, historian.gates.c.gate_id
    inner = table.alias()
    newest = sa.select(sa.func.max(inner.c.as_of)).where(inner.c.gate_id == gate_id, inner.c.component == "")
    found = sa.and_(table.c.gate_id == gate_id, table.c.component == "", table.c.as_of == newest.scalar_subquery())
    columns = [column for column in table.c if column.name != "curve"]
    # an outer join, so that SQLite goes from gates to forecasts: the other way it reads the whole history
    query = sa.select(*columns).select_from(historian.gates.join(table, found, isouter=True))
    return {row["gate_id"]: dict(row) for row in connection.execute(query).mappings() if row["gate_id"] is not None}


def gate_standing(connection: Connection, gate_id: str, now: datetime) -> GateStanding | None:
    """One gate and how it stands, or None when it is not known."""
    query = sa.select(historian.gates).where(historian.gates.c.gate_id == gate_id)
    gate = connection.execute(query).mappings().first()
    if gate is None:
        return None
    forecast = store.latest_forecast(connection, gate_id)
    alerts = list(store.unresolved_alerts(connection, [gate_id]).values())
    return standing(dict(gate), forecast[0] if forecast else None, alerts, now, _silent_since(connection, gate_id).get(gate_id))


def stations(connection: Connection) -> dict[str, store.Row]:
    """Every station by id."""
    rows = connection.execute(sa.select(historian.stations)).mappings()
    return {row["station_id"]: dict(row) for row in rows}


def components(connection: Connection, gate_id: str) -> list[store.Row]:
    """The components of one gate."""
    table = historian.components
    query = sa.select(table).where(table.c.gate_id == gate_id).order_by(table.c.component)
    return [dict(row) for row in connection.execute(query).mappings()]


def forecast_at(connection: Connection, gate_id: str, as_of: datetime | None) -> list[store.Row]:
    """The newest forecast of a gate not later than `as_of`: its gate row first, then its components."""
    if as_of is None:
        return store.latest_forecast(connection, gate_id)
    table = store.forecasts
    newest = sa.select(sa.func.max(table.c.as_of)).where(table.c.gate_id == gate_id, table.c.as_of <= as_of)
    query = sa.select(table).where(table.c.gate_id == gate_id, table.c.as_of == newest.scalar_subquery())
    return [dict(row) for row in connection.execute(query.order_by(table.c.component)).mappings()]


def peers(connection: Connection, gate_id: str, component: str, as_of: datetime, limit: int) -> list[str]:
    """Other gates of the same hoist type with a forecast of that component on that day, the first by gate_id."""
    gate, table = historian.gates, store.forecasts
    own = sa.select(gate.c.hoist_type).where(gate.c.gate_id == gate_id).scalar_subquery()
    query = (
        sa.select(table.c.gate_id)
        .join(gate, gate.c.gate_id == table.c.gate_id)
        .where(table.c.as_of == as_of, table.c.component == component, table.c.verdict == "forecast")
        .where(gate.c.hoist_type == own, gate.c.gate_id != gate_id)
        .order_by(table.c.gate_id)
        .limit(limit)
    )
    return list(connection.scalars(query))


@dataclass(frozen=True, slots=True)
class ChannelSeries:
    """One channel's values in time order; under downsampling `low` and `high` per bucket instead of `values`."""

    key: str
    unit: str
    ts_ms: list[int]
    values: list[float] | None = None
    low: list[float] | None = None
    high: list[float] | None = None


def read_channels(
    connection: Connection, gate_id: str, keys: Sequence[str], start_ms: int, end_ms: int, limit: int
) -> tuple[list[ChannelSeries], int | None]:
    """Readings of some channels of a gate in ``[start_ms, end_ms)``, and where the next page starts.

    Each component gives at most `limit` rows; the page ends for all channels where the first of them was cut.
    """
    table = historian.readings
    found: list[tuple[list[historian.Slot], list[Any]]] = []
    cut_ms: int | None = None
    for series_id, slots in _slots_by_series(connection, gate_id, keys).items():
        query = (
            sa.select(table.c.ts_ms, *(table.c[f"v{slot.slot}"] for slot in slots))
            .where(table.c.series_id == series_id, table.c.ts_ms >= start_ms, table.c.ts_ms < end_ms)
            .order_by(table.c.ts_ms)
            .limit(limit + 1)
        )
        rows = list(connection.execute(query))
        if len(rows) > limit:
            cut_ms = min(rows[-1][0], cut_ms if cut_ms is not None else rows[-1][0])
        found.append((slots, rows))
    series = []
    for slots, rows in found:
        kept = [row for row in rows if cut_ms is None or row[0] < cut_ms]
        for column, slot in enumerate(slots, start=1):
            told = [(row[0], row[column]) for row in kept if row[column] is not None]
            ts_ms, values = [ts for ts, _ in told], [value for _, value in told]
            series.append(ChannelSeries(slot.channel.key, slot.channel.unit, ts_ms, values=values))
    return sorted(series, key=lambda one: one.key), cut_ms


def bucket_channels(
    connection: Connection, gate_id: str, keys: Sequence[str], start_ms: int, end_ms: int, buckets: int
) -> list[ChannelSeries]:
    """Lowest and highest value of some channels in each of `buckets` equal parts of ``[start_ms, end_ms)``."""
    table = historian.readings
    width_ms = max(1, -(-(end_ms - start_ms) // buckets))
    bucket = (table.c.ts_ms - start_ms) // width_ms
    series = []
    for series_id, slots in _slots_by_series(connection, gate_id, keys).items():
        values = [table.c[f"v{slot.slot}"] for slot in slots]
        query = (
            sa.select(bucket.label("bucket"), *(f(value) for value in values for f in (sa.func.min, sa.func.max)))
            .where(table.c.series_id == series_id, table.c.ts_ms >= start_ms, table.c.ts_ms < end_ms)
            .group_by(sa.text("bucket"))
            .order_by(sa.text("bucket"))
        )
        rows = list(connection.execute(query))
        for index, slot in enumerate(slots):
            low, high = 1 + 2 * index, 2 + 2 * index
            told = [row for row in rows if row[low] is not None]
            series.append(
                ChannelSeries(
                    slot.channel.key,
                    slot.channel.unit,
                    [start_ms + int(row[0]) * width_ms for row in told],
                    low=[row[low] for row in told],
                    high=[row[high] for row in told],
                )
            )
    return sorted(series, key=lambda one: one.key)


def _slots_by_series(connection: Connection, gate_id: str, keys: Sequence[str]) -> dict[int, list[historian.Slot]]:
    wanted = set(keys)
    found: dict[int, list[historian.Slot]] = {}
    for slot in historian.load_slots(connection, gate_id).values():
        if slot.channel.key in wanted:
            found.setdefault(slot.series_id, []).append(slot)
    return found


@dataclass(frozen=True, slots=True)
class Operation:
    """One movement of a gate and what it showed."""

    started_at: datetime
    ended_at: datetime
    summary: Mapping[str, float]


def operations_before(connection: Connection, gate_id: str, start_ms: int, before_ms: int, limit: int) -> list[Operation]:
    """The last `limit` operations of a gate that started in ``[start_ms, before_ms)``, newest first."""
    table = historian.operations
    query = (
        sa.select(table.c.started_ms, table.c.ended_ms, table.c.summary)
        .where(table.c.gate_id == gate_id, table.c.started_ms >= start_ms, table.c.started_ms < before_ms)
        .order_by(table.c.started_ms.desc())
        .limit(limit)
    )
    names = cut_days.load_summary_names(connection, [gate_id]).get((gate_id, "operations"), ())
    return _operations(from_rows([tuple(row) for row in connection.execute(query)], KEYS["operations"], names))


def _operations(frame: pd.DataFrame) -> list[Operation]:
    keys = KEYS["operations"]
    at = frame[list(keys)].to_numpy(dtype=np.int64).tolist()
    return [
        Operation(from_ms(started), from_ms(ended), told)
        for (started, ended), told in zip(at, summaries(frame, keys), strict=True)
    ]


def maintenance_before(
    connection: Connection,
    *,
    gate_id: str | None = None,
    kind: str | None = None,
    since: datetime | None = None,
    before: tuple[int, int] | None = None,
    limit: int,
) -> list[store.Row]:
    """Maintenance records, newest start first; `before` is (started_at in ms, id) of the last one seen."""
    table = historian.maintenance
    query = sa.select(table)
    if gate_id is not None:
        query = query.where(table.c.gate_id == gate_id)
    if kind is not None:
        query = query.where(table.c.kind == kind)
    if since is not None:
        query = query.where(table.c.started_at >= since)
    if before is not None:
        started_at, maintenance_id = from_ms(before[0]), before[1]
        same = sa.and_(table.c.started_at == started_at, table.c.maintenance_id < maintenance_id)
        query = query.where(sa.or_(table.c.started_at < started_at, same))
    query = query.order_by(table.c.started_at.desc(), table.c.maintenance_id.desc()).limit(limit)
    return [dict(row) for row in connection.execute(query).mappings()]


def urgency(alert: Alert) -> list[Any]:
    """The sort key of an alert in the list: unacknowledged, then severity, then respond_by, then the older."""
    return [
        STATES.index(alert.state),
        -SEVERITIES.index(alert.severity),
        to_ms(alert.respond_by),
        to_ms(alert.opened_at),
        alert.alert_id,
    ]


URGENCY_KINDS = (int, int, int, int, str)


def alerts_after(
    connection: Connection,
    *,
    states: Sequence[str] | None,
    severities: Sequence[str] | None,
    gate_id: str | None,
    after: Sequence[Any] | None,
    limit: int,
) -> list[Alert]:
    """Alerts in order of `urgency`, those after the position `after`; resolved ones come last."""
    table = store.alerts
    state = sa.case({name: rank for rank, name in enumerate(STATES)}, value=table.c.state)
    severity = sa.case({name: -rank for rank, name in enumerate(SEVERITIES)}, value=table.c.severity)
    respond_by, opened_at = (sa.type_coerce(table.c[name], sa.BigInteger) for name in ("respond_by", "opened_at"))
    key = [state, severity, respond_by, opened_at, table.c.alert_id]
    query = sa.select(table)
    for column, wanted in ((table.c.state, states), (table.c.severity, severities)):
        if wanted:
            query = query.where(column.in_(list(wanted)))
    if gate_id is not None:
        query = query.where(table.c.gate_id == gate_id)
    if after is not None:
        query = query.where(sa.tuple_(*key) > sa.tuple_(*(sa.literal(value) for value in after)))
    rows = connection.execute(query.order_by(*key).limit(limit)).mappings()
    return [Alert(**{**row, "curve": tuple(row["curve"]), "evidence": tuple(row["evidence"])}) for row in rows]


def operations_up_to_now(connection: Connection, gate_id: str, start_ms: int, end_ms: int) -> list[Operation]:
    """A gate's operations in ``[start_ms, end_ms)``, oldest first, the days not yet scored among them.

    Such days are cut from their readings here; more than three of them (a gate just imported) wait for the scoring run.
    """
    dirty = cut_days.load_dirty_days(connection, [gate_id], end_ms).get(gate_id, [])[-3:]
    stored = operations_before(connection, gate_id, start_ms, end_ms, limit=10_000)[::-1]
    found = [one for one in stored if to_ms(one.started_at) // DAY_MS * DAY_MS not in dirty]
    for day_ms in dirty:
        if day_ms + DAY_MS > start_ms:
            frame = segment(historian.read_gate(connection, gate_id, day_ms, day_ms + DAY_MS)).operations
            found += _operations(frame[frame["started_ms"].between(start_ms, end_ms - 1)])
    return sorted(found, key=lambda one: one.started_at)
