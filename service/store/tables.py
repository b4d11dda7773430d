"""The tables of the store, and the small words its other files share: rows, who acted, what may go wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pipeline.errors import SluicewatchError
from pipeline.historian import UtcMillis, metadata

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


def _said() -> list[sa.Column[Any]]:
    """The columns of what a forecast says."""
    return [
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(32), nullable=False, server_default=""),
        sa.Column("p_7d", sa.Float(53)),
        sa.Column("p_14d", sa.Float(53)),
        sa.Column("p_21d", sa.Float(53)),
        sa.Column("ttf_p10_d", sa.Float(53)),
        sa.Column("ttf_p50_d", sa.Float(53)),
        sa.Column("ttf_p90_d", sa.Float(53)),
        sa.Column("failure_mode", sa.String(64), nullable=False, server_default=""),
        sa.Column("failure_mode_share", sa.Float(53)),
        sa.Column("lost", sa.Text, nullable=False, server_default=""),
        sa.Column("curve", Json),
    ]


forecasts = sa.Table(
    "forecasts",
    metadata,
    sa.Column("gate_id", sa.String(128), primary_key=True),
    sa.Column("component", sa.String(128), primary_key=True, server_default=""),
    sa.Column("as_of", UtcMillis, primary_key=True, autoincrement=False),
    sa.Column("model_version", sa.String(128), nullable=False),
    *_said(),
    sa.Index("ix_forecasts_as_of", "as_of"),
    sqlite_with_rowid=False,
)
shadow_forecasts = sa.Table(
    "shadow_forecasts",
    metadata,
    sa.Column("gate_id", sa.String(128), primary_key=True),
    sa.Column("component", sa.String(128), primary_key=True, server_default=""),
    sa.Column("as_of", UtcMillis, primary_key=True, autoincrement=False),
    sa.Column("model_version", sa.String(128), primary_key=True),
    *_said(),
    sqlite_with_rowid=False,
)
"""What a challenger says beside the champion. A table of its own, so that nothing which acts on forecasts can meet it."""
scoring_runs = sa.Table(
    "scoring_runs",
    metadata,
    sa.Column("as_of", UtcMillis, primary_key=True, autoincrement=False),
    sa.Column("finished_at", UtcMillis, nullable=False),
    sa.Column("duration_s", sa.Float(53), nullable=False),
    sa.Column("gates", sa.Integer, nullable=False),
    sa.Column("forecasts", sa.Integer, nullable=False),
    sa.Column("model_version", sa.String(128), nullable=False),
    sa.Column("gates_with_verdict", sa.Integer, nullable=False, server_default="0"),
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
case_log = sa.Table(
    "case_log",
    metadata,
    sa.Column("gate_id", sa.String(128), primary_key=True),
    sa.Column("component", sa.String(128), primary_key=True, server_default=""),
    sa.Column("opened_as_of", UtcMillis, primary_key=True, autoincrement=False),
    sa.Column("closed_as_of", UtcMillis),
    sa.Index("ix_case_log_closed", "closed_as_of"),
)
alarm_rates = sa.Table(
    "alarm_rates",
    metadata,
    sa.Column("as_of", UtcMillis, primary_key=True, autoincrement=False),
    sa.Column("false_alarms", sa.Integer, nullable=False),
    sa.Column("gate_years", sa.Float(53), nullable=False),
    sa.Column("budget_per_gate_year", sa.Float(53), nullable=False),
)
drift_days = sa.Table(
    "drift_days",
    metadata,
    sa.Column("as_of", UtcMillis, primary_key=True, autoincrement=False),
    sa.Column("gate_id", sa.String(128), primary_key=True),
    sa.Column("model_version", sa.String(128), nullable=False),
    sa.Column("shown", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
drift_reports = sa.Table(
    "drift_reports",
    metadata,
    sa.Column("as_of", UtcMillis, primary_key=True, autoincrement=False),
    sa.Column("model_version", sa.String(128), nullable=False),
    sa.Column("drifted", Json, nullable=False),
    sa.Column("features", Json, nullable=False),
    sa.Column("gates_unlike", Json, nullable=False),
)
alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column("alert_id", sa.String(64), primary_key=True),
    sa.Column("gate_id", sa.String(128), nullable=False),
    sa.Column("component", sa.String(128), nullable=False),
    sa.Column("failure_mode", sa.String(64), nullable=False),
    sa.Column("failure_mode_share", sa.Float(53)),
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
held_alerts = sa.Table(
    "held_alerts",
    metadata,
    sa.Column("alert_id", sa.String(64), primary_key=True),
    sa.Column("as_of", UtcMillis, nullable=False),
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


def all_rows(result: sa.CursorResult[Any]) -> list[Row]:
    """Every row of an answer."""
    names = tuple(result.keys())
    return [dict(zip(names, row, strict=True)) for row in result]


def first_row(result: sa.CursorResult[Any]) -> Row | None:
    """The first row of an answer, or None."""
    row = result.mappings().first()
    return None if row is None else dict(row)
