"""The audit trail: who did what to what. Rows are appended; none is changed or deleted."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.store.tables import Actor, Row, all_rows, audit


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


def list_audit(connection: Connection, *, subject: str | None = None, limit: int = 500) -> list[Row]:
    """Audit rows, newest first."""
    query = sa.select(audit)
    if subject is not None:
        query = query.where(audit.c.subject == subject)
    return all_rows(connection.execute(query.order_by(audit.c.audit_id.desc()).limit(limit)))
