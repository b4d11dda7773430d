"""Who knocks at the door with another's name: messages refused for that, told as one notice while they go on.

Ingest has kept each of them, and used none. What is told is that somebody should look: at a gateway that is wired wrongly, at an
account that is shared, or at worse. A notice begins with the first such message and ends when an hour has brought no other.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from pipeline import historian
from service import alerts as life
from service import store
from service.alerts import Notice
from service.store import SCORING

REFUSED = "door.refused"
REASONS = ("identity_mismatch", "unknown_publisher")
"""Why a message is refused that speaks for whom its publisher may not speak."""

QUIET = timedelta(hours=1)
MOST_TOPICS = 5
SEEN = "door_seen"
"""The tally that holds the newest message that was told of."""


def watch_door(connection: Connection, now: datetime) -> None:
    """Begin the notice where such a message is new, end it after a quiet hour; inside a transaction."""
    under_way = current(connection)
    table = historian.quarantine
    seen = historian.load_tallies(connection).get(SEEN, 0)
    query = sa.select(table.c.quarantine_id, table.c.received_at, table.c.reason, table.c.topic)
    new = connection.execute(
        query.where(table.c.reason.in_(REASONS), table.c.quarantine_id > seen).order_by("quarantine_id")
    ).all()
    if new:
        historian.tally(connection, SEEN, new[-1].quarantine_id - seen)
    if under_way is None and new:
        notice = life.open_notice(REFUSED, new[0].reason, now, detail=_detail(new))
        store.save_notice(connection, notice, actor=SCORING)
    elif under_way is not None and not new:
        newest = connection.scalar(sa.select(sa.func.max(table.c.received_at)).where(table.c.reason.in_(REASONS)))
        if newest is None or now - newest >= QUIET:
            store.save_notice(connection, life.close_notice(under_way, now), actor=SCORING)


def current(connection: Connection) -> Notice | None:
    """The notice under way, if there is one."""
    return next(iter(store.open_notices(connection, REFUSED)), None)


def _detail(rows: Any) -> dict[str, object]:
    topics = Counter(row.topic for row in rows)
    return {
        "messages": len(rows),
        "reasons": dict(Counter(row.reason for row in rows)),
        "topics": {topic[:200]: n for topic, n in topics.most_common(MOST_TOPICS)},
        "since": life.rfc3339(rows[0].received_at),
        "advice": "`sluicewatch quarantine list --reason identity_mismatch` shows them; none was used",
    }
