"""the first schema"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("alert_id", sa.String(length=64), nullable=False),
        sa.Column("gate_id", sa.String(length=128), nullable=False),
        sa.Column("component", sa.String(length=128), nullable=False),
        sa.Column("failure_mode", sa.String(length=64), nullable=False),
        sa.Column("severity", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("opened_as_of", sa.BigInteger(), nullable=False),
        sa.Column("opened_at", sa.BigInteger(), nullable=False),
        sa.Column("as_of", sa.BigInteger(), nullable=False),
        sa.Column("curve", sa.Text(), nullable=False),
        sa.Column("respond_by", sa.BigInteger(), nullable=False),
        sa.Column("confidence", sa.String(length=32), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("model_version", sa.String(length=128), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("lower_since", sa.BigInteger(), nullable=True),
        sa.Column("acknowledged_by", sa.Text(), nullable=True),
        sa.Column("acknowledged_at", sa.BigInteger(), nullable=True),
        sa.Column("resolved_by", sa.Text(), nullable=True),
        sa.Column("resolved_at", sa.BigInteger(), nullable=True),
        sa.Column("resolution", sa.String(length=32), nullable=True),
        sa.Column("finding", sa.String(length=32), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("alert_id"),
    )
    with op.batch_alter_table("alerts", schema=None) as batch_op:
        batch_op.create_index("ix_alerts_state_opened", ["state", "opened_at"], unique=False)
        batch_op.create_index(
            "uq_alerts_one_unresolved",
            ["gate_id", "component"],
            unique=True,
            sqlite_where=sa.text("state != 'resolved'"),
            postgresql_where=sa.text("state != 'resolved'"),
        )

    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.Column("last_used_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("key_id"),
    )
    op.create_table(
        "audit",
        sa.Column("audit_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=512), nullable=False),
        sa.Column("before", sa.Text(), nullable=True),
        sa.Column("after", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("audit_id"),
    )
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.create_index("ix_audit_subject", ["subject"], unique=False)

    op.create_table(
        "cases",
        sa.Column("gate_id", sa.String(length=128), nullable=False),
        sa.Column("component", sa.String(length=128), server_default="", nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("stepped_as_of", sa.BigInteger(), nullable=False),
        sa.Column("alert_id", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("gate_id", "component"),
    )
    op.create_table(
        "channels",
        sa.Column("channel_id", sa.Integer(), nullable=False),
        sa.Column("gate_id", sa.String(length=128), nullable=False),
        sa.Column("component", sa.String(length=128), nullable=False),
        sa.Column("point", sa.String(length=128), server_default="", nullable=False),
        sa.Column("quantity", sa.String(length=64), nullable=False),
        sa.Column("unit", sa.String(length=16), nullable=False),
        sa.Column("axis", sa.Text(), server_default="", nullable=False),
        sa.Column("band_low_hz", sa.Float(), nullable=True),
        sa.Column("band_high_hz", sa.Float(), nullable=True),
        sa.Column("interval_s", sa.Float(), nullable=True),
        sa.Column("series_id", sa.Integer(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("channel_id"),
        sa.UniqueConstraint("gate_id", "component", "point", "quantity"),
        sa.UniqueConstraint("series_id", "slot"),
    )
    op.create_table(
        "components",
        sa.Column("gate_id", sa.String(length=128), nullable=False),
        sa.Column("component", sa.String(length=128), nullable=False),
        sa.Column("rated_power_kw", sa.Float(), nullable=True),
        sa.Column("rated_current_a", sa.Float(), nullable=True),
        sa.Column("speed_rpm", sa.Float(), nullable=True),
        sa.Column("bearing_balls", sa.Float(), nullable=True),
        sa.Column("bearing_ball_mm", sa.Float(), nullable=True),
        sa.Column("bearing_pitch_mm", sa.Float(), nullable=True),
        sa.Column("bearing_angle_deg", sa.Float(), nullable=True),
        sa.Column("gear_teeth", sa.Float(), nullable=True),
        sa.Column("iso_class", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("gate_id", "component"),
    )
    op.create_table(
        "dirty_days",
        sa.Column("gate_id", sa.String(length=128), nullable=False),
        sa.Column("day_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("gate_id", "day_ms"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "endpoints",
        sa.Column("endpoint_id", sa.String(length=64), nullable=False),
        sa.Column("url", sa.String(length=2048), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("event_types", sa.Text(), nullable=False),
        sa.Column("locale", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("verified_at", sa.BigInteger(), nullable=True),
        sa.Column("first_failure_at", sa.BigInteger(), nullable=True),
        sa.Column("last_success_at", sa.BigInteger(), nullable=True),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("endpoint_id"),
    )
    op.create_table(
        "events",
        sa.Column("event_sequence", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("gate_id", sa.String(length=128), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("event_sequence"),
    )
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.create_index("ix_events_subject", ["subject"], unique=False)

    op.create_table(
        "forecasts",
        sa.Column("gate_id", sa.String(length=128), nullable=False),
        sa.Column("component", sa.String(length=128), server_default="", nullable=False),
        sa.Column("as_of", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=32), server_default="", nullable=False),
        sa.Column("p_7d", sa.Float(precision=53), nullable=True),
        sa.Column("p_14d", sa.Float(precision=53), nullable=True),
        sa.Column("p_21d", sa.Float(precision=53), nullable=True),
        sa.Column("ttf_p10_d", sa.Float(precision=53), nullable=True),
        sa.Column("ttf_p50_d", sa.Float(precision=53), nullable=True),
        sa.Column("ttf_p90_d", sa.Float(precision=53), nullable=True),
        sa.Column("failure_mode", sa.String(length=64), server_default="", nullable=False),
        sa.Column("model_version", sa.String(length=128), nullable=False),
        sa.Column("curve", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("gate_id", "component", "as_of"),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("forecasts", schema=None) as batch_op:
        batch_op.create_index("ix_forecasts_as_of", ["as_of"], unique=False)

    op.create_table(
        "gates",
        sa.Column("gate_id", sa.String(length=128), nullable=False),
        sa.Column("station_id", sa.String(length=128), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("name_zh", sa.Text(), nullable=True),
        sa.Column("gate_type", sa.Text(), nullable=True),
        sa.Column("hoist_type", sa.Text(), nullable=True),
        sa.Column("role", sa.Text(), nullable=True),
        sa.Column("criticality", sa.Text(), nullable=True),
        sa.Column("travel_m", sa.Float(), nullable=True),
        sa.Column("commissioned_on", sa.Text(), nullable=True),
        sa.Column("last_seen_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("gate_id"),
    )
    with op.batch_alter_table("gates", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_gates_station_id"), ["station_id"], unique=False)

    op.create_table(
        "maintenance",
        sa.Column("maintenance_id", sa.Integer(), nullable=False),
        sa.Column("gate_id", sa.String(length=128), nullable=False),
        sa.Column("component", sa.String(length=128), server_default="", nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("failure_mode", sa.Text(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("finding", sa.String(length=32), nullable=True),
        sa.Column("alert_id", sa.String(length=64), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("maintenance_id"),
    )
    with op.batch_alter_table("maintenance", schema=None) as batch_op:
        batch_op.create_index("ix_maintenance_gate_started", ["gate_id", "started_at"], unique=False)

    op.create_table(
        "notices",
        sa.Column("notice_id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("key", sa.String(length=512), nullable=False),
        sa.Column("gate_id", sa.String(length=128), nullable=True),
        sa.Column("component", sa.String(length=128), server_default="", nullable=False),
        sa.Column("opened_at", sa.BigInteger(), nullable=False),
        sa.Column("closed_at", sa.BigInteger(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("notice_id"),
    )
    with op.batch_alter_table("notices", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_notices_gate_id"), ["gate_id"], unique=False)
        batch_op.create_index(
            "uq_notices_one_open",
            ["kind", "key"],
            unique=True,
            sqlite_where=sa.text("closed_at IS NULL"),
            postgresql_where=sa.text("closed_at IS NULL"),
        )

    op.create_table(
        "operations",
        sa.Column("gate_id", sa.String(length=128), nullable=False),
        sa.Column("started_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("ended_ms", sa.BigInteger(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("gate_id", "started_ms"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "quarantine",
        sa.Column("quarantine_id", sa.Integer(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("quarantine_id"),
    )
    with op.batch_alter_table("quarantine", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_quarantine_reason"), ["reason"], unique=False)

    op.create_table(
        "readings",
        sa.Column("series_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("ts_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("v0", sa.Float(precision=53), nullable=True),
        sa.Column("v1", sa.Float(precision=53), nullable=True),
        sa.Column("v2", sa.Float(precision=53), nullable=True),
        sa.Column("v3", sa.Float(precision=53), nullable=True),
        sa.Column("v4", sa.Float(precision=53), nullable=True),
        sa.Column("v5", sa.Float(precision=53), nullable=True),
        sa.Column("v6", sa.Float(precision=53), nullable=True),
        sa.Column("v7", sa.Float(precision=53), nullable=True),
        sa.Column("v8", sa.Float(precision=53), nullable=True),
        sa.Column("v9", sa.Float(precision=53), nullable=True),
        sa.Column("v10", sa.Float(precision=53), nullable=True),
        sa.Column("v11", sa.Float(precision=53), nullable=True),
        sa.Column("v12", sa.Float(precision=53), nullable=True),
        sa.Column("v13", sa.Float(precision=53), nullable=True),
        sa.Column("v14", sa.Float(precision=53), nullable=True),
        sa.Column("v15", sa.Float(precision=53), nullable=True),
        sa.PrimaryKeyConstraint("series_id", "ts_ms"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "rests",
        sa.Column("gate_id", sa.String(length=128), nullable=False),
        sa.Column("day_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("gate_id", "day_ms"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "scoring_runs",
        sa.Column("as_of", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=False),
        sa.Column("duration_s", sa.Float(precision=53), nullable=False),
        sa.Column("gates", sa.Integer(), nullable=False),
        sa.Column("forecasts", sa.Integer(), nullable=False),
        sa.Column("model_version", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("as_of"),
    )
    op.create_table(
        "stations",
        sa.Column("station_id", sa.String(length=128), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("name_zh", sa.Text(), nullable=True),
        sa.Column("basin", sa.Text(), nullable=True),
        sa.Column("river", sa.Text(), nullable=True),
        sa.Column("river_km", sa.Float(), nullable=True),
        sa.Column("downstream_station_id", sa.String(length=128), nullable=True),
        sa.Column("time_zone", sa.Text(), nullable=True),
        sa.Column("latitude", sa.Float(), nullable=True),
        sa.Column("longitude", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("station_id"),
    )
    op.create_table(
        "tallies",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "deliveries",
        sa.Column("webhook_id", sa.String(length=64), nullable=False),
        sa.Column("endpoint_id", sa.String(length=64), nullable=False),
        sa.Column("event_sequence", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("event_type", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.BigInteger(), nullable=True),
        sa.Column("claimed_until", sa.BigInteger(), nullable=True),
        sa.Column("claimed_by", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["endpoints.endpoint_id"],
        ),
        sa.ForeignKeyConstraint(
            ["event_sequence"],
            ["events.event_sequence"],
        ),
        sa.PrimaryKeyConstraint("webhook_id"),
    )
    with op.batch_alter_table("deliveries", schema=None) as batch_op:
        batch_op.create_index("ix_deliveries_endpoint_event", ["endpoint_id", "event_sequence"], unique=False)
        batch_op.create_index(
            "ix_deliveries_pending",
            ["endpoint_id", "subject", "sequence"],
            unique=False,
            sqlite_where=sa.text("state = 'pending'"),
            postgresql_where=sa.text("state = 'pending'"),
        )

    op.create_table(
        "endpoint_secrets",
        sa.Column("endpoint_id", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["endpoints.endpoint_id"],
        ),
        sa.PrimaryKeyConstraint("endpoint_id", "generation"),
    )
    op.create_table(
        "attempts",
        sa.Column("attempt_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("webhook_id", sa.String(length=64), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.String(length=64), nullable=False),
        sa.Column("response", sa.LargeBinary(), nullable=False),
        sa.Column("next_attempt_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["webhook_id"],
            ["deliveries.webhook_id"],
        ),
        sa.PrimaryKeyConstraint("attempt_id"),
    )
    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_attempts_webhook_id"), ["webhook_id"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_attempts_webhook_id"))

    op.drop_table("attempts")
    op.drop_table("endpoint_secrets")
    with op.batch_alter_table("deliveries", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_deliveries_pending", sqlite_where=sa.text("state = 'pending'"), postgresql_where=sa.text("state = 'pending'")
        )
        batch_op.drop_index("ix_deliveries_endpoint_event")

    op.drop_table("deliveries")
    op.drop_table("tallies")
    op.drop_table("stations")
    op.drop_table("scoring_runs")
    op.drop_table("rests")
    op.drop_table("readings")
    with op.batch_alter_table("quarantine", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_quarantine_reason"))

    op.drop_table("quarantine")
    op.drop_table("operations")
    with op.batch_alter_table("notices", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_notices_one_open", sqlite_where=sa.text("closed_at IS NULL"), postgresql_where=sa.text("closed_at IS NULL")
        )
        batch_op.drop_index(batch_op.f("ix_notices_gate_id"))

    op.drop_table("notices")
    with op.batch_alter_table("maintenance", schema=None) as batch_op:
        batch_op.drop_index("ix_maintenance_gate_started")

    op.drop_table("maintenance")
    with op.batch_alter_table("gates", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_gates_station_id"))

    op.drop_table("gates")
    with op.batch_alter_table("forecasts", schema=None) as batch_op:
        batch_op.drop_index("ix_forecasts_as_of")

    op.drop_table("forecasts")
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.drop_index("ix_events_subject")

    op.drop_table("events")
    op.drop_table("endpoints")
    op.drop_table("dirty_days")
    op.drop_table("components")
    op.drop_table("channels")
    op.drop_table("cases")
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.drop_index("ix_audit_subject")

    op.drop_table("audit")
    op.drop_table("api_keys")
    with op.batch_alter_table("alerts", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_alerts_one_unresolved",
            sqlite_where=sa.text("state != 'resolved'"),
            postgresql_where=sa.text("state != 'resolved'"),
        )
        batch_op.drop_index("ix_alerts_state_opened")

    op.drop_table("alerts")
