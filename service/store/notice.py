"""Notices: which are under way, and writing the beginning and the end of one with all it brings."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.alerts import Notice
from service.events import Gate, notice_event
from service.store.audit_trail import append_audit
from service.store.event import publish
from service.store.forecast import gate_of
from service.store.tables import Actor, Conflict, all_rows, first_row, notices


def open_notices(connection: Connection, kind: str | None = None, gate_id: str | None = None) -> list[Notice]:
    """Notices that have not ended, oldest first; of one kind, of one gate."""
    query = sa.select(notices).where(notices.c.closed_at.is_(None))
    if kind is not None:
        query = query.where(notices.c.kind == kind)
    if gate_id is not None:
        query = query.where(notices.c.gate_id == gate_id)
    return [Notice(**row) for row in all_rows(connection.execute(query.order_by(notices.c.opened_at, notices.c.notice_id)))]


def last_notice(connection: Connection, kind: str) -> Notice | None:
    """The newest notice of a kind, under way or ended."""
    query = sa.select(notices).where(notices.c.kind == kind).order_by(notices.c.opened_at.desc(), notices.c.key.desc())
    row = first_row(connection.execute(query.limit(1)))
    return None if row is None else Notice(**row)


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
        gate = gate_of(connection, notice.gate_id)
    event = notice_event(notice, gate)
    publish(connection, event)
    append_audit(connection, at=event.at, actor=actor, action=event.type, subject=notice.notice_id, after=dict(notice.detail))
