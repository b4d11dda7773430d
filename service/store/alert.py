"""Cases and alerts: the policy's state of each, and the one place where an alert's step becomes rows.

It decides nothing. What changes an alert is a `Change` from `service.alerts`; `apply_change` writes it together with
its event, one outbox row per endpoint and its audit row in the caller's transaction: all of them exist, or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from pipeline.historian import UtcMillis
from service.alerts import SEVERITIES, Alert, Change, rfc3339
from service.events import Gate, alert_event
from service.store.audit_trail import append_audit
from service.store.event import publish
from service.store.forecast import gate_of
from service.store.held import hold_alert
from service.store.tables import UNRESOLVED, Actor, Conflict, Json, NotFound, Row, alerts, all_rows, cases, first_row


def load_cases(connection: Connection, gate_ids: Sequence[str]) -> dict[tuple[str, str], Row]:
    """The policy's state per (gate_id, component) of some gates."""
    query = sa.select(cases).where(cases.c.gate_id.in_(list(gate_ids)))
    return {(row["gate_id"], row["component"]): row for row in all_rows(connection.execute(query))}


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
    row = first_row(connection.execute(sa.select(alerts).where(alerts.c.alert_id == alert_id)))
    if row is None:
        raise NotFound(f"alert: there is none with id {alert_id!r}")
    return _alert(row)


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
    return [_alert(row) for row in all_rows(connection.execute(query))]


def unresolved_alerts(connection: Connection, gate_ids: Sequence[str]) -> dict[tuple[str, str], Alert]:
    """The unresolved alert of each (gate_id, component) of some gates; there is never more than one."""
    query = sa.select(alerts).where(alerts.c.gate_id.in_(list(gate_ids)), alerts.c.state.in_(UNRESOLVED))
    return {(row["gate_id"], row["component"]): _alert(row) for row in all_rows(connection.execute(query))}


def count_alerts(connection: Connection) -> dict[str, int]:
    """Unresolved alerts per severity, zeros included."""
    query = sa.select(alerts.c.severity, sa.func.count()).where(alerts.c.state.in_(UNRESOLVED))
    found = {row[0]: row[1] for row in connection.execute(query.group_by(alerts.c.severity))}
    return {severity: found.get(severity, 0) for severity in SEVERITIES}


def apply_change(
    connection: Connection,
    change: Change,
    *,
    actor: Actor,
    public_url: str,
    gate: Gate | None = None,
    reason: str = "",
    held: bool = False,
) -> Alert:
    """Write one step of an alert with its event, its outbox rows and its audit row, and return the alert as it is now.

    Of an alert opened as `held` nobody is told before `service.store.held` lets it go.

    Raises
    ------
    Conflict
        The alert was changed since `change` was decided.
    """
    before, after = change.before, change.after
    values = {name: getattr(after, name) for name in Alert.__dataclass_fields__}
    if before is None:
        connection.execute(sa.insert(alerts).values(values))
        if held:
            hold_alert(connection, after.alert_id, after.opened_as_of)
    else:
        where = sa.and_(alerts.c.alert_id == before.alert_id, alerts.c.version == before.version)
        if connection.execute(sa.update(alerts).where(where).values(values)).rowcount != 1:
            raise Conflict(f"alert {before.alert_id}: it was changed meanwhile; version {before.version} is not the newest")
    if change.event_type is None:
        return after
    if gate is None:
        gate = gate_of(connection, after.gate_id)
    publish(connection, alert_event(change, gate, public_url))
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
        "as_of": rfc3339(alert.as_of),
        "model_version": alert.model_version,
        "finding": alert.finding,
        "version": alert.version,
    }


def _alert(row: Row) -> Alert:
    return Alert(**{**row, "curve": tuple(row["curve"]), "evidence": tuple(row["evidence"])})
