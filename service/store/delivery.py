"""The delivery log as people see it: deliveries, their attempts, sending again. What is due is `service.outbox`'s to say."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

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
