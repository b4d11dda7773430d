"""Endpoints: the receivers of webhooks, their state and the sealed secrets that sign for them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.events import DEFAULT_LOCALE
from service.store.audit_trail import append_audit
from service.store.tables import Actor, NotFound, Row, all_rows, deliveries, endpoint_secrets, endpoints, first_row

MAX_OLD_SECRETS = 10


def add_endpoint(
    connection: Connection,
    *,
    url: str,
    sealed_secret: bytes,
    at: datetime,
    actor: Actor,
    description: str = "",
    event_types: Sequence[str] = (),
    locale: str = DEFAULT_LOCALE,
    verified: bool = False,
) -> str:
    """Make a receiver known and return its id; unless `verified` it stays `unverified` until a ping is accepted.

    `sealed_secret` comes from `service.webhooks.standard.Vault.seal`; the URL must have passed
    `service.webhooks.guard.check_url`.
    """
    endpoint_id = f"ep_{uuid.uuid4().hex}"
    connection.execute(
        sa.insert(endpoints).values(
            endpoint_id=endpoint_id,
            url=url,
            description=description,
            event_types=list(event_types),
            locale=locale,
            state="active" if verified else "unverified",
            created_at=at,
            verified_at=at if verified else None,
        )
    )
    connection.execute(sa.insert(endpoint_secrets).values(endpoint_id=endpoint_id, generation=1, sealed=sealed_secret))
    after = {"url": url, "event_types": list(event_types), "locale": locale, "verified": verified}
    append_audit(connection, at=at, actor=actor, action="endpoint.created", subject=endpoint_id, after=after)
    return endpoint_id


def get_endpoint(connection: Connection, endpoint_id: str) -> Row:
    """One endpoint, without its secrets.

    Raises
    ------
    NotFound
        There is none with that id, or it was deleted.
    """
    query = sa.select(endpoints).where(endpoints.c.endpoint_id == endpoint_id, endpoints.c.state != "deleted")
    row = first_row(connection.execute(query))
    if row is None:
        raise NotFound(f"webhook endpoint: there is none with id {endpoint_id!r}")
    return row


def list_endpoints(connection: Connection) -> list[Row]:
    """All endpoints but the deleted, oldest first, without their secrets."""
    query = sa.select(endpoints).where(endpoints.c.state != "deleted")
    return all_rows(connection.execute(query.order_by(endpoints.c.created_at, endpoints.c.endpoint_id)))


def change_endpoint(
    connection: Connection, endpoint_id: str, values: Row, *, at: datetime, actor: Actor, reason: str = ""
) -> Row:
    """Change how an endpoint stands (its state: active or disabled); return the endpoint as it is now."""
    before = get_endpoint(connection, endpoint_id)
    allowed = {"state", "disabled_reason", "verified_at", "first_failure_at", "last_success_at"}
    if unknown := sorted(set(values) - allowed):
        raise ValueError(f"endpoint: allowed are {', '.join(sorted(allowed))}; got {', '.join(unknown)}")
    new = dict(values)
    if new.get("state") == "active":
        new |= {"disabled_reason": None, "first_failure_at": None}
    connection.execute(sa.update(endpoints).where(endpoints.c.endpoint_id == endpoint_id).values(new))
    shown = sorted({"state", "disabled_reason"} & set(new))
    if shown:
        append_audit(
            connection,
            at=at,
            actor=actor,
            action="endpoint.changed",
            subject=endpoint_id,
            before={name: before[name] for name in shown},
            after={name: new[name] for name in shown},
            reason=reason,
        )
    return get_endpoint(connection, endpoint_id)


def delete_endpoint(connection: Connection, endpoint_id: str, *, at: datetime, actor: Actor) -> None:
    """Forget a receiver: its secrets go, what was pending for it fails, its delivery log stays."""
    before = get_endpoint(connection, endpoint_id)
    connection.execute(sa.update(endpoints).where(endpoints.c.endpoint_id == endpoint_id).values(state="deleted"))
    connection.execute(sa.delete(endpoint_secrets).where(endpoint_secrets.c.endpoint_id == endpoint_id))
    pending = sa.and_(deliveries.c.endpoint_id == endpoint_id, deliveries.c.state.in_(("pending", "held")))
    connection.execute(sa.update(deliveries).where(pending).values(state="failed", finished_at=at))
    append_audit(connection, at=at, actor=actor, action="endpoint.deleted", subject=endpoint_id, before={"url": before["url"]})


def rotate_secret(
    connection: Connection, endpoint_id: str, sealed_secret: bytes, *, at: datetime, keep_old: timedelta, actor: Actor
) -> None:
    """Give an endpoint a new secret; the old one keeps signing beside it for `keep_old`, at most ten at a time."""
    get_endpoint(connection, endpoint_id)
    secret = endpoint_secrets.c
    mine = secret.endpoint_id == endpoint_id
    connection.execute(sa.update(endpoint_secrets).where(mine, secret.expires_at.is_(None)).values(expires_at=at + keep_old))
    newest = connection.scalar(sa.select(sa.func.max(secret.generation)).where(mine)) or 0
    connection.execute(
        sa.delete(endpoint_secrets).where(mine, sa.or_(secret.expires_at <= at, secret.generation <= newest - MAX_OLD_SECRETS))
    )
    connection.execute(sa.insert(endpoint_secrets).values(endpoint_id=endpoint_id, generation=newest + 1, sealed=sealed_secret))
    append_audit(connection, at=at, actor=actor, action="endpoint.rotated", subject=endpoint_id)


def live_secrets(connection: Connection, endpoint_id: str, at: datetime) -> list[bytes]:
    """The sealed secrets that sign at that instant, newest first."""
    secret = endpoint_secrets.c
    query = sa.select(secret.sealed).where(
        secret.endpoint_id == endpoint_id, sa.or_(secret.expires_at.is_(None), secret.expires_at > at)
    )
    return list(connection.scalars(query.order_by(secret.generation.desc())))
