"""The delivery log as people see it: deliveries, their attempts, sending again. What is due is `service.outbox`'s to say."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.alerts import rfc3339
from service.store.audit_trail import append_audit
from service.store.tables import Actor, NotFound, Row, all_rows, attempts, deliveries, endpoints, first_row


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
    return all_rows(connection.execute(query))


def get_delivery(connection: Connection, webhook_id: str) -> Row:
    """One delivery with its body.

    Raises
    ------
    NotFound
        There is none with that id.
    """
    row = first_row(connection.execute(sa.select(deliveries).where(deliveries.c.webhook_id == webhook_id)))
    if row is None:
        raise NotFound(f"delivery: there is none with webhook-id {webhook_id!r}")
    return row


def list_attempts(connection: Connection, webhook_id: str) -> list[Row]:
    """Every attempt of one delivery, in order; `response` is for administrators only."""
    query = sa.select(attempts).where(attempts.c.webhook_id == webhook_id).order_by(attempts.c.attempt_id)
    return all_rows(connection.execute(query))


def replay(
    connection: Connection,
    endpoint_id: str,
    *,
    at: datetime,
    actor: Actor,
    webhook_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> int:
    """Send an endpoint's finished deliveries again under their own webhook-id: one by id, or the failed ones of a time.

    The time is when they failed, `since` included and `until` not. One that is still on its way stays as it is.
    """
    row = deliveries.c
    where = [row.endpoint_id == endpoint_id]
    if webhook_id is not None:
        where += [row.webhook_id == webhook_id, row.state.in_(("failed", "delivered"))]
    else:
        where.append(row.state == "failed")
    if since is not None:
        where.append(row.finished_at >= since)
    if until is not None:
        where.append(row.finished_at < until)
    again = {"state": "pending", "attempts": 0, "next_attempt_at": None, "finished_at": None}
    sent = connection.execute(sa.update(deliveries).where(*where).values(again)).rowcount
    asked = {"webhook_id": webhook_id} if webhook_id else {"since": _text(since), "until": _text(until)}
    after = {"deliveries": sent, **asked}
    append_audit(connection, at=at, actor=actor, action="delivery.replayed", subject=endpoint_id, after=after)
    return sent


def _text(instant: datetime | None) -> str | None:
    return None if instant is None else rfc3339(instant)


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
