"""The store: tables and queries for forecasts, cases, alerts, notices, events, endpoints, deliveries, keys and audit.

It decides nothing. What changes an alert is a `Change` from `service.alerts`; `apply_change` writes it together with
its event, one outbox row per endpoint and its audit row in the caller's transaction: all of them exist, or none.
Read with `engine.connect()`, write inside `pipeline.historian.writing(engine)`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import alembic.runtime.migration
import alembic.script
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, RowMapping

from pipeline import historian
from pipeline.errors import BadInput, SluicewatchError
from pipeline.historian import UtcMillis, metadata
from service import alerts as life
from service.alerts import SEVERITIES, Alert, Change, Event, Gate, Notice, Words

Row = Mapping[str, Any]
"""One row by column name; instants are aware UTC, JSON columns are decoded."""

_ROW_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
# SQLite numbers rows by itself only where the key is spelt INTEGER


class Json(sa.types.TypeDecorator[Any]):
    """A JSON value as compact text, the same in SQLite and PostgreSQL."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:
        """Write the value as JSON text."""
        return None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Any:
        """Read the JSON text."""
        return None if value is None else json.loads(value)


forecasts = sa.Table(
    "forecasts",
    metadata,
    sa.Column("gate_id", sa.String(128), primary_key=True),
    sa.Column("component", sa.String(128), primary_key=True, server_default=""),
    sa.Column("as_of", UtcMillis, primary_key=True, autoincrement=False),
    sa.Column("verdict", sa.String(16), nullable=False),
    sa.Column("reason", sa.String(32), nullable=False, server_default=""),
    sa.Column("p_7d", sa.Float(53)),
    sa.Column("p_14d", sa.Float(53)),
    sa.Column("p_21d", sa.Float(53)),
    sa.Column("ttf_p10_d", sa.Float(53)),
    sa.Column("ttf_p50_d", sa.Float(53)),
    sa.Column("ttf_p90_d", sa.Float(53)),
    sa.Column("failure_mode", sa.String(64), nullable=False, server_default=""),
    sa.Column("model_version", sa.String(128), nullable=False),
    sa.Column("curve", Json),
    sa.Index("ix_forecasts_as_of", "as_of"),
    sqlite_with_rowid=False,
)
scoring_runs = sa.Table(
    "scoring_runs",
    metadata,
    sa.Column("as_of", UtcMillis, primary_key=True, autoincrement=False),
    sa.Column("finished_at", UtcMillis, nullable=False),
    sa.Column("duration_s", sa.Float(53), nullable=False),
    sa.Column("gates", sa.Integer, nullable=False),
    sa.Column("forecasts", sa.Integer, nullable=False),
    sa.Column("model_version", sa.String(128), nullable=False),
)
cases = sa.Table(
    "cases",
    metadata,
    sa.Column("gate_id", sa.String(128), primary_key=True),
    sa.Column("component", sa.String(128), primary_key=True, server_default=""),
    sa.Column("state", Json, nullable=False),
    sa.Column("stepped_as_of", UtcMillis, nullable=False),
    sa.Column("alert_id", sa.String(64)),
)
alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column("alert_id", sa.String(64), primary_key=True),
    sa.Column("gate_id", sa.String(128), nullable=False),
    sa.Column("component", sa.String(128), nullable=False),
    sa.Column("failure_mode", sa.String(64), nullable=False),
    sa.Column("severity", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("opened_as_of", UtcMillis, nullable=False),
    sa.Column("opened_at", UtcMillis, nullable=False),
    sa.Column("as_of", UtcMillis, nullable=False),
    sa.Column("curve", Json, nullable=False),
    sa.Column("respond_by", UtcMillis, nullable=False),
    sa.Column("confidence", sa.String(32), nullable=False),
    sa.Column("evidence", Json, nullable=False),
    sa.Column("model_version", sa.String(128), nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("lower_since", UtcMillis),
    sa.Column("acknowledged_by", sa.Text),
    sa.Column("acknowledged_at", UtcMillis),
    sa.Column("resolved_by", sa.Text),
    sa.Column("resolved_at", UtcMillis),
    sa.Column("resolution", sa.String(32)),
    sa.Column("finding", sa.String(32)),
    sa.Column("note", sa.Text),
    sa.Index("ix_alerts_state_opened", "state", "opened_at"),
    sa.Index(
        "uq_alerts_one_unresolved",
        "gate_id",
        "component",
        unique=True,
        sqlite_where=sa.text("state != 'resolved'"),
        postgresql_where=sa.text("state != 'resolved'"),
    ),
)
notices = sa.Table(
    "notices",
    metadata,
    sa.Column("notice_id", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("key", sa.String(512), nullable=False),
    sa.Column("gate_id", sa.String(128), index=True),
    sa.Column("component", sa.String(128), nullable=False, server_default=""),
    sa.Column("opened_at", UtcMillis, nullable=False),
    sa.Column("closed_at", UtcMillis),
    sa.Column("detail", Json, nullable=False),
    sa.Index(
        "uq_notices_one_open",
        "kind",
        "key",
        unique=True,
        sqlite_where=sa.text("closed_at IS NULL"),
        postgresql_where=sa.text("closed_at IS NULL"),
    ),
)
events = sa.Table(
    "events",
    metadata,
    sa.Column("event_sequence", _ROW_ID, primary_key=True, autoincrement=True),
    sa.Column("type", sa.String(64), nullable=False),
    sa.Column("subject", sa.String(64), nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("gate_id", sa.String(128)),
    sa.Column("at", UtcMillis, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Index("ix_events_subject", "subject"),
)
endpoints = sa.Table(
    "endpoints",
    metadata,
    sa.Column("endpoint_id", sa.String(64), primary_key=True),
    sa.Column("url", sa.String(2048), nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("event_types", Json, nullable=False),
    sa.Column("locale", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("created_at", UtcMillis, nullable=False),
    sa.Column("verified_at", UtcMillis),
    sa.Column("first_failure_at", UtcMillis),
    sa.Column("last_success_at", UtcMillis),
    sa.Column("disabled_reason", sa.Text),
)
endpoint_secrets = sa.Table(
    "endpoint_secrets",
    metadata,
    sa.Column("endpoint_id", sa.String(64), sa.ForeignKey("endpoints.endpoint_id"), primary_key=True),
    sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Column("expires_at", UtcMillis),
)
deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("webhook_id", sa.String(64), primary_key=True),
    sa.Column("endpoint_id", sa.String(64), sa.ForeignKey("endpoints.endpoint_id"), nullable=False),
    sa.Column("event_sequence", _ROW_ID, sa.ForeignKey("events.event_sequence"), nullable=False),
    sa.Column("event_type", sa.String(64), nullable=False),
    sa.Column("subject", sa.String(64), nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_attempt_at", UtcMillis),
    sa.Column("claimed_until", UtcMillis),
    sa.Column("claimed_by", sa.String(64)),
    sa.Column("created_at", UtcMillis, nullable=False),
    sa.Column("finished_at", UtcMillis),
    sa.Index("ix_deliveries_endpoint_event", "endpoint_id", "event_sequence"),
    sa.Index(
        "ix_deliveries_pending",
        "endpoint_id",
        "subject",
        "sequence",
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    ),
)
attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("attempt_id", _ROW_ID, primary_key=True, autoincrement=True),
    sa.Column("webhook_id", sa.String(64), sa.ForeignKey("deliveries.webhook_id"), nullable=False, index=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("at", UtcMillis, nullable=False),
    sa.Column("duration_ms", sa.Integer, nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("error", sa.String(64), nullable=False),
    sa.Column("response", sa.LargeBinary, nullable=False),
    sa.Column("next_attempt_at", UtcMillis),
)
api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("key_id", sa.String(64), primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("scopes", Json, nullable=False),
    sa.Column("created_at", UtcMillis, nullable=False),
    sa.Column("expires_at", UtcMillis),
    sa.Column("revoked_at", UtcMillis),
    sa.Column("last_used_at", UtcMillis),
)
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("audit_id", _ROW_ID, primary_key=True, autoincrement=True),
    sa.Column("at", UtcMillis, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("source", sa.String(16), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("subject", sa.String(512), nullable=False),
    sa.Column("before", Json),
    sa.Column("after", Json),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("request_id", sa.String(64)),
    sa.Index("ix_audit_subject", "subject"),
)

UNRESOLVED = ("open", "acknowledged")
_EVENT_LOCK = 7_305_100_001  # any number of our own; PostgreSQL's advisory locks have no names


class Conflict(SluicewatchError):
    """Somebody else changed the row between our reading and our writing; read again and decide again."""


class NotFound(SluicewatchError):
    """There is no row with that id; the message says what was asked for."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did it: a key's or a person's name, or the process; `source` is ui, api, system or robot."""

    name: str
    source: str
    request_id: str | None = None


SCORING = Actor("scoring", "system")
DELIVERY = Actor("delivery", "system")


# --- schema ---------------------------------------------------------------------------------------------------------


def migrate(engine: Engine) -> None:
    """Bring the database to the newest schema; harmless when it is there already."""
    config = alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "head")


def check_schema(engine: Engine) -> None:
    """Make sure that the database has the schema this version knows.

    Raises
    ------
    BadInput
        It has not; the message says to run ``sluicewatch migrate``.
    """
    head = alembic.script.ScriptDirectory.from_config(alembic_config()).get_current_head()
    with engine.connect() as connection:
        found = alembic.runtime.migration.MigrationContext.configure(connection).get_current_revision()
    if found != head:
        raise BadInput(f"database: its schema is {found or 'empty'}, this version needs {head}; run `sluicewatch migrate`")


def alembic_config() -> alembic.config.Config:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


# --- gates and forecasts --------------------------------------------------------------------------------------------


def load_gates(connection: Connection, gate_ids: Sequence[str] | None = None) -> dict[str, Gate]:
    """What a body says about gates (of `gate_ids`, or all), by gate_id."""
    gate, station = historian.gates, historian.stations
    query = sa.select(
        gate.c.gate_id,
        gate.c.name,
        gate.c.name_zh,
        gate.c.station_id,
        gate.c.criticality,
        gate.c.last_seen_ms,
        station.c.name.label("station_name"),
        station.c.name_zh.label("station_name_zh"),
    ).select_from(gate.outerjoin(station, gate.c.station_id == station.c.station_id))
    if gate_ids is not None:
        query = query.where(gate.c.gate_id.in_(list(gate_ids)))
    return {row.gate_id: _gate(row._mapping) for row in connection.execute(query)}


def _gate(row: RowMapping) -> Gate:
    name = row["name"] or row["gate_id"]
    station = row["station_name"] or row["station_id"]
    return Gate(
        gate_id=row["gate_id"],
        name=Words(zh=row["name_zh"] or name, en=name),
        station_id=row["station_id"],
        station_name=Words(zh=row["station_name_zh"] or station, en=station),
        criticality=row["criticality"] or "",
        last_seen=None if row["last_seen_ms"] is None else historian.from_ms(row["last_seen_ms"]),
    )


def save_forecasts(connection: Connection, rows: Sequence[Row]) -> None:
    """Write new forecast rows; a row that exists is an error, because what was published stays as it was."""
    if rows:
        connection.execute(sa.insert(forecasts), list(rows))


def scored_gates(connection: Connection, as_of: datetime) -> set[str]:
    """Gates that already have a forecast as of that midnight."""
    query = sa.select(forecasts.c.gate_id).where(forecasts.c.as_of == as_of, forecasts.c.component == "")
    return set(connection.scalars(query))


def latest_forecast(connection: Connection, gate_id: str) -> list[Row]:
    """The newest forecast of a gate: its gate row (component '') first, then its components; empty if never scored."""
    newest = sa.select(sa.func.max(forecasts.c.as_of)).where(forecasts.c.gate_id == gate_id, forecasts.c.component == "")
    query = sa.select(forecasts).where(forecasts.c.gate_id == gate_id, forecasts.c.as_of == newest.scalar_subquery())
    return _rows(connection.execute(query.order_by(forecasts.c.component)))


def save_scoring_run(connection: Connection, run: Row) -> None:
    """Note that every gate has been scored as of a midnight."""
    connection.execute(sa.delete(scoring_runs).where(scoring_runs.c.as_of == run["as_of"]))
    connection.execute(sa.insert(scoring_runs).values(**run))


def last_scoring_run(connection: Connection) -> Row | None:
    """The newest finished scoring run, by as_of."""
    return _first(connection.execute(sa.select(scoring_runs).order_by(scoring_runs.c.as_of.desc()).limit(1)))


# --- cases and alerts -----------------------------------------------------------------------------------------------


def load_cases(connection: Connection, gate_ids: Sequence[str]) -> dict[tuple[str, str], Row]:
    """The policy's state per (gate_id, component) of some gates."""
    query = sa.select(cases).where(cases.c.gate_id.in_(list(gate_ids)))
    return {(row["gate_id"], row["component"]): row for row in _rows(connection.execute(query))}


def save_cases(connection: Connection, rows: Sequence[Row]) -> None:
    """Write the policy's state of cases, new or known."""
    if not rows:
        return
    keys = sorted({row["gate_id"] for row in rows})
    known = set(load_cases(connection, keys))
    fresh = [row for row in rows if (row["gate_id"], row["component"]) not in known]
    if fresh:
        connection.execute(sa.insert(cases), fresh)
    if len(fresh) < len(rows):
        connection.execute(
            sa.update(cases)
            .where(cases.c.gate_id == sa.bindparam("b_gate_id"), cases.c.component == sa.bindparam("b_component"))
            .values(
                state=sa.bindparam("b_state", type_=Json),
                stepped_as_of=sa.bindparam("b_stepped_as_of", type_=UtcMillis),
                alert_id=sa.bindparam("b_alert_id"),
            ),
            [{f"b_{name}": value for name, value in row.items()} for row in rows if (row["gate_id"], row["component"]) in known],
        )


def get_alert(connection: Connection, alert_id: str) -> Alert:
    """One alert.

    Raises
    ------
    NotFound
        There is none with that id.
    """
    row = _first(connection.execute(sa.select(alerts).where(alerts.c.alert_id == alert_id)))
    if row is None:
        raise NotFound(f"alert: there is none with id {alert_id!r}")
    return _alert(row)


def list_alerts(
    connection: Connection,
    *,
    states: Sequence[str] | None = None,
    severities: Sequence[str] | None = None,
    gate_id: str | None = None,
    limit: int = 50,
    before: tuple[datetime, str] | None = None,
) -> list[Alert]:
    """Alerts, newest opened first; `before` is (opened_at, alert_id) of the last one of the page before."""
    query = sa.select(alerts)
    if states is not None:
        query = query.where(alerts.c.state.in_(list(states)))
    if severities is not None:
        query = query.where(alerts.c.severity.in_(list(severities)))
    if gate_id is not None:
        query = query.where(alerts.c.gate_id == gate_id)
    if before is not None:
        opened_at, alert_id = before
        query = query.where(
            sa.or_(
                alerts.c.opened_at < opened_at,
                sa.and_(alerts.c.opened_at == opened_at, alerts.c.alert_id < alert_id),
            )
        )
    query = query.order_by(alerts.c.opened_at.desc(), alerts.c.alert_id.desc()).limit(limit)
    return [_alert(row) for row in _rows(connection.execute(query))]


def alerts_by_urgency(connection: Connection, limit: int = 500) -> list[Alert]:
    """Unresolved alerts in the order a crew should look at them: unacknowledged, severity, respond_by, oldest."""
    rank = sa.case({name: rank for rank, name in enumerate(SEVERITIES)}, value=alerts.c.severity, else_=0)
    query = (
        sa.select(alerts)
        .where(alerts.c.state.in_(UNRESOLVED))
        .order_by(
            sa.case((alerts.c.state == "open", 0), else_=1),
            rank.desc(),
            alerts.c.respond_by,
            alerts.c.opened_at,
            alerts.c.alert_id,
        )
        .limit(limit)
    )
    return [_alert(row) for row in _rows(connection.execute(query))]


def unresolved_alerts(connection: Connection, gate_ids: Sequence[str]) -> dict[tuple[str, str], Alert]:
    """The unresolved alert of each (gate_id, component) of some gates; there is never more than one."""
    query = sa.select(alerts).where(alerts.c.gate_id.in_(list(gate_ids)), alerts.c.state.in_(UNRESOLVED))
    return {(row["gate_id"], row["component"]): _alert(row) for row in _rows(connection.execute(query))}


def count_alerts(connection: Connection) -> dict[str, int]:
    """Unresolved alerts per severity, zeros included."""
    query = sa.select(alerts.c.severity, sa.func.count()).where(alerts.c.state.in_(UNRESOLVED))
    found = {row[0]: row[1] for row in connection.execute(query.group_by(alerts.c.severity))}
    return {severity: found.get(severity, 0) for severity in SEVERITIES}


def apply_change(
    connection: Connection, change: Change, *, actor: Actor, public_url: str, gate: Gate | None = None, reason: str = ""
) -> Alert:
    """Write one step of an alert with its event, its outbox rows and its audit row, and return the alert as it is now.

    Raises
    ------
    Conflict
        The alert was changed since `change` was decided.
    """
    before, after = change.before, change.after
    values = {name: getattr(after, name) for name in Alert.__dataclass_fields__}
    if before is None:
        connection.execute(sa.insert(alerts).values(values))
    else:
        where = sa.and_(alerts.c.alert_id == before.alert_id, alerts.c.version == before.version)
        if connection.execute(sa.update(alerts).where(where).values(values)).rowcount != 1:
            raise Conflict(f"alert {before.alert_id}: it was changed meanwhile; version {before.version} is not the newest")
    if change.event_type is None:
        return after
    if gate is None:
        gate = load_gates(connection, [after.gate_id]).get(after.gate_id) or _unknown_gate(after.gate_id)
    publish(connection, life.alert_event(change, gate, public_url))
    append_audit(
        connection,
        at=change.at,
        actor=actor,
        action=change.event_type,
        subject=after.alert_id,
        before=_audited(before),
        after=_audited(after),
        reason=reason or after.resolution or "",
    )
    return after


def _audited(alert: Alert | None) -> dict[str, Any] | None:
    if alert is None:
        return None
    return {
        "state": alert.state,
        "severity": alert.severity,
        "p_14d": alert.p_14d,
        "as_of": life.rfc3339(alert.as_of),
        "model_version": alert.model_version,
        "finding": alert.finding,
        "version": alert.version,
    }


def _unknown_gate(gate_id: str) -> Gate:
    return Gate(gate_id, Words(gate_id, gate_id))


def _alert(row: Row) -> Alert:
    return Alert(**{**row, "curve": tuple(row["curve"]), "evidence": tuple(row["evidence"])})


# --- notices --------------------------------------------------------------------------------------------------------


def open_notices(connection: Connection, kind: str | None = None) -> list[Notice]:
    """Notices that have not ended, oldest first."""
    query = sa.select(notices).where(notices.c.closed_at.is_(None))
    if kind is not None:
        query = query.where(notices.c.kind == kind)
    return [Notice(**row) for row in _rows(connection.execute(query.order_by(notices.c.opened_at, notices.c.notice_id)))]


def save_notice(connection: Connection, notice: Notice, *, actor: Actor, gate: Gate | None = None) -> None:
    """Write the beginning or the end of a notice with its event, its outbox rows and its audit row."""
    values = {name: getattr(notice, name) for name in Notice.__dataclass_fields__}
    if notice.closed_at is None:
        connection.execute(sa.insert(notices).values(values))
    else:
        where = sa.and_(notices.c.notice_id == notice.notice_id, notices.c.closed_at.is_(None))
        if connection.execute(sa.update(notices).where(where).values(values)).rowcount != 1:
            raise Conflict(f"notice {notice.notice_id}: it ended meanwhile")
    if gate is None and notice.gate_id is not None:
        gate = load_gates(connection, [notice.gate_id]).get(notice.gate_id) or _unknown_gate(notice.gate_id)
    event = life.notice_event(notice, gate)
    publish(connection, event)
    append_audit(connection, at=event.at, actor=actor, action=event.type, subject=notice.notice_id, after=dict(notice.detail))


# --- events and outbox rows -----------------------------------------------------------------------------------------


def publish(connection: Connection, event: Event) -> int:
    """Append an event to the log and one outbox row for each endpoint that wants it; return the event's number.

    Numbers appear in the order in which transactions commit, so that a reader who has seen number n misses nothing
    below n: on PostgreSQL writers of events take turns, on SQLite all writers do.
    """
    event_sequence = _append_event(connection, event)
    wanting = sa.select(endpoints).where(endpoints.c.state == "active")
    for endpoint in _rows(connection.execute(wanting)):
        if not endpoint["event_types"] or event.type in endpoint["event_types"]:
            _enqueue(connection, event, event_sequence, endpoint)
    return event_sequence


def send_to(connection: Connection, event: Event, endpoint_id: str) -> str:
    """Append an event that is for one endpoint only (a ping), whatever the endpoint's state; return its webhook-id."""
    endpoint = get_endpoint(connection, endpoint_id)
    return _enqueue(connection, event, _append_event(connection, event), endpoint)


def _append_event(connection: Connection, event: Event) -> int:
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_EVENT_LOCK)))
    inserted = connection.execute(
        sa.insert(events).values(
            type=event.type,
            subject=event.subject,
            sequence=event.sequence,
            gate_id=event.gate_id,
            at=event.at,
            body=life.body(event),
        )
    )
    key = inserted.inserted_primary_key
    assert key is not None
    return int(key[0])


def _enqueue(connection: Connection, event: Event, event_sequence: int, endpoint: Row) -> str:
    webhook_id = f"msg_{uuid.uuid4().hex}"
    connection.execute(
        sa.insert(deliveries).values(
            webhook_id=webhook_id,
            endpoint_id=endpoint["endpoint_id"],
            event_sequence=event_sequence,
            event_type=event.type,
            subject=event.subject,
            sequence=event.sequence,
            body=life.body(event, endpoint["locale"]),
            state="pending",
            attempts=0,
            created_at=event.at,
        )
    )
    return webhook_id


def events_after(connection: Connection, event_sequence: int, limit: int = 500) -> list[Row]:
    """Events with a greater number, in order; what a live page asks for."""
    query = sa.select(events).where(events.c.event_sequence > event_sequence).order_by(events.c.event_sequence)
    return _rows(connection.execute(query.limit(limit)))


def events_of(connection: Connection, subject: str) -> list[Row]:
    """The events of one alert or notice, in order."""
    return _rows(connection.execute(sa.select(events).where(events.c.subject == subject).order_by(events.c.event_sequence)))


# --- endpoints ------------------------------------------------------------------------------------------------------


def add_endpoint(
    connection: Connection,
    *,
    url: str,
    sealed_secret: bytes,
    at: datetime,
    actor: Actor,
    description: str = "",
    event_types: Sequence[str] = (),
    locale: str = life.DEFAULT_LOCALE,
    verified: bool = False,
) -> str:
    """Make a receiver known and return its id; unless `verified` it stays `unverified` until a ping is accepted.

    `sealed_secret` comes from `service.webhooks.standard.Vault.seal`; the URL must have passed
    `service.webhooks.guard.check_url`.
    """
    endpoint_id = f"ep_{uuid.uuid4().hex}"
    connection.execute(
        sa.insert(endpoints).values(
            endpoint_id=endpoint_id,
            url=url,
            description=description,
            event_types=list(event_types),
            locale=locale,
            state="active" if verified else "unverified",
            created_at=at,
            verified_at=at if verified else None,
        )
    )
    connection.execute(sa.insert(endpoint_secrets).values(endpoint_id=endpoint_id, generation=1, sealed=sealed_secret))
    after = {"url": url, "event_types": list(event_types), "locale": locale, "verified": verified}
    append_audit(connection, at=at, actor=actor, action="endpoint.created", subject=endpoint_id, after=after)
    return endpoint_id


def ping_endpoint(connection: Connection, endpoint_id: str, at: datetime, data: Row | None = None) -> str:
    """Queue a signed `endpoint.ping`, whose acceptance makes an unverified endpoint active; return the webhook-id."""
    event = life.endpoint_event("endpoint.ping", endpoint_id, at, data or {})
    return send_to(connection, event, endpoint_id)


def get_endpoint(connection: Connection, endpoint_id: str) -> Row:
    """One endpoint, without its secrets.

    Raises
    ------
    NotFound
        There is none with that id, or it was deleted.
    """
    query = sa.select(endpoints).where(endpoints.c.endpoint_id == endpoint_id, endpoints.c.state != "deleted")
    row = _first(connection.execute(query))
    if row is None:
        raise NotFound(f"webhook endpoint: there is none with id {endpoint_id!r}")
    return row


def list_endpoints(connection: Connection) -> list[Row]:
    """All endpoints but the deleted, oldest first, without their secrets."""
    query = sa.select(endpoints).where(endpoints.c.state != "deleted")
    return _rows(connection.execute(query.order_by(endpoints.c.created_at, endpoints.c.endpoint_id)))


def change_endpoint(
    connection: Connection, endpoint_id: str, values: Row, *, at: datetime, actor: Actor, reason: str = ""
) -> Row:
    """Change some of an endpoint's fields (its state: active or disabled); return the endpoint as it is now."""
    before = get_endpoint(connection, endpoint_id)
    allowed = {"url", "description", "event_types", "locale", "state", "disabled_reason", "verified_at"}
    allowed |= {"first_failure_at", "last_success_at"}
    if unknown := sorted(set(values) - allowed):
        raise ValueError(f"endpoint: allowed are {', '.join(sorted(allowed))}; got {', '.join(unknown)}")
    new = dict(values)
    if new.get("state") == "active":
        new |= {"disabled_reason": None, "first_failure_at": None}
    connection.execute(sa.update(endpoints).where(endpoints.c.endpoint_id == endpoint_id).values(new))
    shown = sorted({"url", "description", "event_types", "locale", "state", "disabled_reason"} & set(new))
    if shown:
        append_audit(
            connection,
            at=at,
            actor=actor,
            action="endpoint.changed",
            subject=endpoint_id,
            before={name: before[name] for name in shown},
            after={name: new[name] for name in shown},
            reason=reason,
        )
    return get_endpoint(connection, endpoint_id)


def delete_endpoint(connection: Connection, endpoint_id: str, *, at: datetime, actor: Actor) -> None:
    """Forget a receiver: its secrets go, what was pending for it fails, its delivery log stays."""
    before = get_endpoint(connection, endpoint_id)
    connection.execute(sa.update(endpoints).where(endpoints.c.endpoint_id == endpoint_id).values(state="deleted"))
    connection.execute(sa.delete(endpoint_secrets).where(endpoint_secrets.c.endpoint_id == endpoint_id))
    pending = sa.and_(deliveries.c.endpoint_id == endpoint_id, deliveries.c.state == "pending")
    connection.execute(sa.update(deliveries).where(pending).values(state="failed", finished_at=at))
    append_audit(connection, at=at, actor=actor, action="endpoint.deleted", subject=endpoint_id, before={"url": before["url"]})


def rotate_secret(
    connection: Connection, endpoint_id: str, sealed_secret: bytes, *, at: datetime, keep_old: timedelta, actor: Actor
) -> None:
    """Give an endpoint a new secret; the old one keeps signing beside it for `keep_old`, at most ten at a time."""
    get_endpoint(connection, endpoint_id)
    secret = endpoint_secrets.c
    mine = secret.endpoint_id == endpoint_id
    connection.execute(sa.update(endpoint_secrets).where(mine, secret.expires_at.is_(None)).values(expires_at=at + keep_old))
    newest = connection.scalar(sa.select(sa.func.max(secret.generation)).where(mine)) or 0
    connection.execute(
        sa.delete(endpoint_secrets).where(mine, sa.or_(secret.expires_at <= at, secret.generation <= newest - MAX_OLD_SECRETS))
    )
    connection.execute(sa.insert(endpoint_secrets).values(endpoint_id=endpoint_id, generation=newest + 1, sealed=sealed_secret))
    append_audit(connection, at=at, actor=actor, action="endpoint.rotated", subject=endpoint_id)


MAX_OLD_SECRETS = 10


def live_secrets(connection: Connection, endpoint_id: str, at: datetime) -> list[bytes]:
    """The sealed secrets that sign at that instant, newest first."""
    secret = endpoint_secrets.c
    query = sa.select(secret.sealed).where(
        secret.endpoint_id == endpoint_id, sa.or_(secret.expires_at.is_(None), secret.expires_at > at)
    )
    return list(connection.scalars(query.order_by(secret.generation.desc())))


# --- deliveries -----------------------------------------------------------------------------------------------------


def list_deliveries(
    connection: Connection,
    *,
    endpoint_id: str | None = None,
    state: str | None = None,
    subject: str | None = None,
    limit: int = 50,
    before: tuple[int, str] | None = None,
) -> list[Row]:
    """Deliveries, newest first, without their bodies; `before` is (event_sequence, webhook_id) of the last one seen."""
    query = sa.select(*(column for column in deliveries.c if column.name != "body"))
    for column, value in (
        (deliveries.c.endpoint_id, endpoint_id),
        (deliveries.c.state, state),
        (deliveries.c.subject, subject),
    ):
        if value is not None:
            query = query.where(column == value)
    if before is not None:
        event_sequence, webhook_id = before
        query = query.where(
            sa.or_(
                deliveries.c.event_sequence < event_sequence,
                sa.and_(deliveries.c.event_sequence == event_sequence, deliveries.c.webhook_id < webhook_id),
            )
        )
    query = query.order_by(deliveries.c.event_sequence.desc(), deliveries.c.webhook_id.desc()).limit(limit)
    return _rows(connection.execute(query))


def get_delivery(connection: Connection, webhook_id: str) -> Row:
    """One delivery with its body.

    Raises
    ------
    NotFound
        There is none with that id.
    """
    row = _first(connection.execute(sa.select(deliveries).where(deliveries.c.webhook_id == webhook_id)))
    if row is None:
        raise NotFound(f"delivery: there is none with webhook-id {webhook_id!r}")
    return row


def list_attempts(connection: Connection, webhook_id: str) -> list[Row]:
    """Every attempt of one delivery, in order; `response` is for administrators only."""
    query = sa.select(attempts).where(attempts.c.webhook_id == webhook_id).order_by(attempts.c.attempt_id)
    return _rows(connection.execute(query))


def replay(
    connection: Connection,
    *,
    at: datetime,
    actor: Actor,
    webhook_ids: Iterable[str] | None = None,
    endpoint_id: str | None = None,
    failed_since: datetime | None = None,
) -> int:
    """Send finished deliveries again under their own webhook-id: some by id, or all failed ones since an instant."""
    row = deliveries.c
    if webhook_ids is not None:
        where = sa.and_(row.webhook_id.in_(list(webhook_ids)), row.state.in_(("failed", "delivered")))
    else:
        where = row.state == "failed"
    if endpoint_id is not None:
        where = sa.and_(where, row.endpoint_id == endpoint_id)
    if failed_since is not None:
        where = sa.and_(where, row.finished_at >= failed_since)
    again = {"state": "pending", "attempts": 0, "next_attempt_at": None, "finished_at": None}
    sent = connection.execute(sa.update(deliveries).where(where).values(again)).rowcount
    append_audit(
        connection,
        at=at,
        actor=actor,
        action="delivery.replayed",
        subject=endpoint_id or "",
        after={"deliveries": sent},
    )
    return sent


def delivery_figures(connection: Connection) -> dict[str, Any]:
    """Pending deliveries, when the oldest of them was made, disabled endpoints and attempts by result; for metrics."""
    pending = connection.execute(
        sa.select(sa.func.count(), sa.func.min(deliveries.c.created_at)).where(deliveries.c.state == "pending")
    ).one()
    disabled = connection.scalar(sa.select(sa.func.count()).where(endpoints.c.state == "disabled"))
    finished = connection.execute(sa.select(deliveries.c.state, sa.func.count()).group_by(deliveries.c.state))
    return {
        "pending": pending[0],
        "oldest_pending_at": pending[1],
        "endpoints_disabled": disabled or 0,
        "by_state": {row[0]: row[1] for row in finished},
    }


# --- API keys -------------------------------------------------------------------------------------------------------


def add_api_key(
    connection: Connection,
    *,
    key_id: str,
    sha256: str,
    name: str,
    scopes: Sequence[str],
    at: datetime,
    actor: Actor,
    expires_at: datetime | None = None,
) -> None:
    """Keep a key's hash, never the key."""
    connection.execute(
        sa.insert(api_keys).values(
            key_id=key_id, sha256=sha256, name=name, scopes=list(scopes), created_at=at, expires_at=expires_at
        )
    )
    append_audit(
        connection,
        at=at,
        actor=actor,
        action="key.created",
        subject=key_id,
        after={"name": name, "scopes": list(scopes)},
    )


def find_api_key(connection: Connection, key_id: str) -> Row | None:
    """The key of that id, revoked or not, or None."""
    return _first(connection.execute(sa.select(api_keys).where(api_keys.c.key_id == key_id)))


def list_api_keys(connection: Connection) -> list[Row]:
    """All keys, oldest first, revoked ones included."""
    return _rows(connection.execute(sa.select(api_keys).order_by(api_keys.c.created_at, api_keys.c.key_id)))


def revoke_api_key(connection: Connection, key_id: str, *, at: datetime, actor: Actor) -> None:
    """End a key.

    Raises
    ------
    NotFound
        There is no key with that id that is still valid.
    """
    where = sa.and_(api_keys.c.key_id == key_id, api_keys.c.revoked_at.is_(None))
    if connection.execute(sa.update(api_keys).where(where).values(revoked_at=at)).rowcount != 1:
        raise NotFound(f"key: there is none in use with id {key_id!r}")
    append_audit(connection, at=at, actor=actor, action="key.revoked", subject=key_id)


def touch_api_key(connection: Connection, key_id: str, at: datetime) -> None:
    """Note when a key was last used."""
    connection.execute(sa.update(api_keys).where(api_keys.c.key_id == key_id).values(last_used_at=at))


# --- audit ----------------------------------------------------------------------------------------------------------


def append_audit(
    connection: Connection,
    *,
    at: datetime,
    actor: Actor,
    action: str,
    subject: str,
    before: Any = None,
    after: Any = None,
    reason: str = "",
) -> None:
    """Append who did what to what; nothing here changes or deletes a row."""
    connection.execute(
        sa.insert(audit).values(
            at=at,
            actor=actor.name,
            source=actor.source,
            action=action,
            subject=subject,
            before=before,
            after=after,
            reason=reason,
            request_id=actor.request_id,
        )
    )


def list_audit(connection: Connection, *, subject: str | None = None, limit: int = 500, before: int | None = None) -> list[Row]:
    """Audit rows, newest first; `before` is the audit_id of the last one seen."""
    query = sa.select(audit)
    if subject is not None:
        query = query.where(audit.c.subject == subject)
    if before is not None:
        query = query.where(audit.c.audit_id < before)
    return _rows(connection.execute(query.order_by(audit.c.audit_id.desc()).limit(limit)))


def _rows(result: sa.CursorResult[Any]) -> list[Row]:
    return [dict(row) for row in result.mappings()]


def _first(result: sa.CursorResult[Any]) -> Row | None:
    row = result.mappings().first()
    return None if row is None else dict(row)
