"""Who knocks at the door with another's name, or without end: messages refused for that, told as one notice while they go on.

Ingest has kept of them what it may, and used none. What is told is that somebody should look: at a gateway that is wired
wrongly, at an account that is shared, or at worse. A notice begins with the first such message and ends when an hour has brought
no other.
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
REASONS = ("identity_mismatch", "unknown_publisher", "flooding")
"""Why a message is refused that speaks for whom its publisher may not speak, or of which there are far too many."""

QUIET = timedelta(hours=1)
MOST_TOPICS, MOST_LOOKED_AT = 5, 2_000
SEEN = "door_seen"
"""The tally of such messages that were told of. Counters, not rows: of those the oldest go, and SQLite gives ids again."""


def watch_door(connection: Connection, now: datetime) -> None:
    """Begin the notice where such a message is new, end it after a quiet hour; inside a transaction."""
    under_way = current(connection)
    tallies = historian.load_tallies(connection)
    refused = {reason: tallies.get(historian.refused(reason), 0) for reason in REASONS}
    new = sum(refused.values()) - tallies.get(SEEN, 0)
    if new:
        historian.tally(connection, SEEN, new)
    table = historian.quarantine
    of_such = sa.select(table.c.received_at, table.c.topic).where(table.c.reason.in_(REASONS))
    kept = connection.execute(of_such.order_by(table.c.quarantine_id.desc()).limit(MOST_LOOKED_AT)).all()
    if under_way is None and new > 0:
        reason = max(refused, key=lambda name: refused[name])
        detail = _detail(new, reason, kept)
        store.save_notice(connection, life.open_notice(REFUSED, reason, now, detail=detail), actor=SCORING)
    elif under_way is not None and new <= 0:
        newest = max((row.received_at for row in kept), default=under_way.opened_at)
        if now - newest >= QUIET:
            store.save_notice(connection, life.close_notice(under_way, now), actor=SCORING)


def current(connection: Connection) -> Notice | None:
    """The notice under way, if there is one."""
    return next(iter(store.open_notices(connection, REFUSED)), None)


def _detail(new: int, reason: str, kept: Any) -> dict[str, object]:
    topics = Counter(row.topic for row in kept)
    return {
        "messages": new,
        "topics": {topic[:200]: n for topic, n in topics.most_common(MOST_TOPICS)},
        "advice": f"`sluicewatch quarantine list --reason {reason}` shows what is kept of them; none was used",
    }
