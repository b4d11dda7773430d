"""Alerts that nobody is told of yet: their events are logged and their outbox rows are there, in state `held`.

An alert is held from its opening until its day is judged (`service.hold`). Then its rows become `pending` and go out in
their order, or `dropped`, with an audit row each alert. Whoever publishes and whoever lets go take the same lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.store.audit_trail import append_audit
from service.store.tables import Actor, case_log, deliveries, held_alerts

_EVENT_LOCK = 7_305_100_001  # any number of our own; PostgreSQL's advisory locks have no names


def lock_events(connection: Connection) -> None:
    """Let writers of events take turns until they commit: on PostgreSQL by a lock, on SQLite all writers do anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_EVENT_LOCK)))


def hold_alert(connection: Connection, alert_id: str, as_of: datetime) -> None:
    """Tell nobody of an alert that opens as of a midnight, until it is told or dropped."""
    connection.execute(sa.insert(held_alerts).values(alert_id=alert_id, as_of=as_of))


def is_held(connection: Connection, subject: str) -> bool:
    """Whether nobody is told of this alert yet."""
    return connection.scalar(sa.select(held_alerts.c.alert_id).where(held_alerts.c.alert_id == subject)) is not None


def list_held(connection: Connection, until: datetime | None = None) -> list[str]:
    """Ids of alerts that nobody is told of yet, of those opened as of `until` or earlier."""
    query = sa.select(held_alerts.c.alert_id).order_by(held_alerts.c.as_of, held_alerts.c.alert_id)
    return list(connection.scalars(query if until is None else query.where(held_alerts.c.as_of <= until)))


def count_held(connection: Connection) -> int:
    """How many alerts nobody is told of yet."""
    return connection.scalar(sa.select(sa.func.count()).select_from(held_alerts)) or 0


def tell_held(connection: Connection, until: datetime) -> None:
    """Let go what is held of alerts opened as of `until` or earlier: it is due now, in its order."""
    lock_events(connection)
    opened = held_alerts.c.as_of <= until
    mine = deliveries.c.subject.in_(sa.select(held_alerts.c.alert_id).where(opened))
    connection.execute(sa.update(deliveries).where(deliveries.c.state == "held", mine).values(state="pending"))
    connection.execute(sa.delete(held_alerts).where(opened))


def drop_held(connection: Connection, alert_ids: Sequence[str], *, at: datetime, actor: Actor, reason: str) -> None:
    """Never send what is held of some alerts, and note it of each."""
    lock_events(connection)
    for alert_id in alert_ids:
        mine = sa.and_(deliveries.c.subject == alert_id, deliveries.c.state == "held")
        dropped = connection.execute(sa.update(deliveries).where(mine).values(state="dropped", finished_at=at)).rowcount
        connection.execute(sa.delete(held_alerts).where(held_alerts.c.alert_id == alert_id))
        after = {"deliveries": dropped}
        append_audit(connection, at=at, actor=actor, action="alert.dropped", subject=alert_id, after=after, reason=reason)


def gates_with_new_cases(connection: Connection, after: datetime, until: datetime, *, still_at: datetime | None = None) -> int:
    """Gates with a case that opened after `after` and as of `until` or earlier; with `still_at`, and was open then."""
    case = case_log.c
    query = sa.select(sa.func.count(case.gate_id.distinct())).where(case.opened_as_of > after, case.opened_as_of <= until)
    if still_at is not None:
        query = query.where(sa.or_(case.closed_as_of.is_(None), case.closed_as_of > still_at))
    return connection.scalar(query) or 0
