"""API keys: their hashes, scopes and ends, never the keys themselves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.store.audit_trail import append_audit
from service.store.tables import Actor, NotFound, Row, all_rows, api_keys, first_row


def add_api_key(
    connection: Connection,
    *,
    key_id: str,
    sha256: str,
    name: str,
    scopes: Sequence[str],
    at: datetime,
    actor: Actor,
    expires_at: datetime | None = None,
) -> None:
    """Keep a key's hash, never the key."""
    connection.execute(
        sa.insert(api_keys).values(
            key_id=key_id, sha256=sha256, name=name, scopes=list(scopes), created_at=at, expires_at=expires_at
        )
    )
    append_audit(
        connection,
        at=at,
        actor=actor,
        action="key.created",
        subject=key_id,
        after={"name": name, "scopes": list(scopes)},
    )


def find_api_key(connection: Connection, key_id: str) -> Row | None:
    """The key of that id, revoked or not, or None."""
    return first_row(connection.execute(sa.select(api_keys).where(api_keys.c.key_id == key_id)))


def list_api_keys(connection: Connection) -> list[Row]:
    """All keys, oldest first, revoked ones included."""
    return all_rows(connection.execute(sa.select(api_keys).order_by(api_keys.c.created_at, api_keys.c.key_id)))


def revoke_api_key(connection: Connection, key_id: str, *, at: datetime, actor: Actor) -> None:
    """End a key.

    Raises
    ------
    NotFound
        There is no key with that id that is still valid.
    """
    where = sa.and_(api_keys.c.key_id == key_id, api_keys.c.revoked_at.is_(None))
    if connection.execute(sa.update(api_keys).where(where).values(revoked_at=at)).rowcount != 1:
        raise NotFound(f"key: there is none in use with id {key_id!r}")
    append_audit(connection, at=at, actor=actor, action="key.revoked", subject=key_id)


def touch_api_key(connection: Connection, key_id: str, at: datetime) -> None:
    """Note when a key was last used."""
    connection.execute(sa.update(api_keys).where(api_keys.c.key_id == key_id).values(last_used_at=at))
