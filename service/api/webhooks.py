"""Webhook endpoints: who is told, a test, and what became of each notification. Sending itself is the outbox's work."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.engine import Connection

from pipeline.historian import writing
from service import store
from service.alerts import rfc3339
from service.api import paging
from service.api.auth import Principal, actor_of, needs
from service.api.context import Here
from service.api.problems import FieldError, Problem
from service.api.schemas import (
    AttemptOut,
    DeliveryOut,
    EndpointIn,
    EndpointOut,
    LoggedDeliveryOut,
    NewEndpointOut,
    Page,
    PingOut,
    ReplayIn,
    ReplayOut,
    RotatedSecretOut,
)
from service.events import EVENT_TYPES
from service.webhooks.standard import new_secret

router = APIRouter(prefix="/api/v1/webhooks", tags=["webhooks"])

Admin = Annotated[Principal, needs("webhooks:admin")]

OLD_SECRET_SIGNS_FOR = timedelta(hours=24)
LONGEST_REPLAY = timedelta(days=14)


@router.post("", status_code=201)
def create_webhook(here: Here, request: Request, who: Admin, wanted: EndpointIn) -> NewEndpointOut:
    """Add a receiver; it gets a signed ping at once and, when it accepts that, every event it wants."""
    if unknown := sorted(set(wanted.event_types) - set(EVENT_TYPES)):
        message = f"allowed are {', '.join(EVENT_TYPES)}; got {', '.join(unknown)}"
        error = FieldError(pointer="/body/event_types", code="unknown_event", message=message)
        raise Problem("invalid", f"event_types: {message}.", errors=[error])
    url = here.check_url(wanted.url)
    secret = new_secret()
    now = here.clock()
    with writing(here.engine) as connection:
        endpoint_id = store.add_endpoint(
            connection,
            url=url,
            sealed_secret=here.seal_secret(secret),
            at=now,
            actor=actor_of(who, request),
            description=wanted.description,
            event_types=sorted(set(wanted.event_types)),
            locale=wanted.locale,
        )
        store.ping_endpoint(connection, endpoint_id, now)
        made = store.get_endpoint(connection, endpoint_id)
    return NewEndpointOut.model_validate({**made, "secret": secret})


@router.get("", dependencies=[needs("webhooks:admin")])
def list_webhooks(here: Here) -> Page[EndpointOut]:
    """List the receivers, without their secrets."""
    with here.engine.connect() as connection:
        return Page(items=[EndpointOut.model_validate(row) for row in store.list_endpoints(connection)])


@router.delete("/{endpoint_id}", status_code=204)
def delete_webhook(here: Here, request: Request, who: Admin, endpoint_id: str) -> Response:
    """Remove a receiver; what was still on its way to it is given up."""
    with writing(here.engine) as connection:
        store.delete_endpoint(connection, endpoint_id, at=here.clock(), actor=actor_of(who, request))
    return Response(status_code=204)


@router.post("/{endpoint_id}/test", status_code=202, dependencies=[needs("webhooks:admin")])
def test_webhook(here: Here, endpoint_id: str) -> PingOut:
    """Queue a signed ping to a receiver; `deliveries` shows what became of it."""
    with writing(here.engine) as connection:
        return PingOut(webhook_id=store.ping_endpoint(connection, endpoint_id, here.clock()))


@router.post("/{endpoint_id}/rotate")
def rotate_webhook_secret(here: Here, request: Request, who: Admin, endpoint_id: str) -> RotatedSecretOut:
    """Give a receiver a new secret, shown once; for 24 hours deliveries are signed with the old one too."""
    secret = new_secret()
    now = here.wall_clock()  # the time of deliveries and their signatures, in a demo too
    with writing(here.engine) as connection:
        store.rotate_secret(
            connection,
            endpoint_id,
            here.seal_secret(secret),
            at=now,
            keep_old=OLD_SECRET_SIGNS_FOR,
            actor=actor_of(who, request),
        )
    return RotatedSecretOut(endpoint_id=endpoint_id, secret=secret, old_secrets_sign_until=now + OLD_SECRET_SIGNS_FOR)


@router.post("/{endpoint_id}/replay", status_code=202)
def replay_deliveries(here: Here, request: Request, who: Admin, endpoint_id: str, wanted: ReplayIn) -> ReplayOut:
    """Send one finished delivery again, or all that failed within up to 14 days, each under its own webhook-id."""
    now = here.wall_clock()
    if errors := _replay_errors(wanted, now):
        wrong = "; ".join(error.message for error in errors)
        raise Problem("invalid", f"Not valid: {wrong}.", errors=errors)
    with writing(here.engine) as connection:
        store.get_endpoint(connection, endpoint_id)
        if wanted.webhook_id is not None:
            _delivery_of(connection, endpoint_id, wanted.webhook_id)
        queued = store.replay(
            connection,
            endpoint_id,
            at=now,
            actor=actor_of(who, request),
            webhook_id=wanted.webhook_id,
            since=wanted.since,
            until=wanted.until,
        )
    return ReplayOut(queued=queued)


@router.get("/{endpoint_id}/deliveries", dependencies=[needs("webhooks:admin")])
def list_deliveries(
    here: Here,
    endpoint_id: str,
    state: Annotated[str | None, Query(pattern="^(pending|delivered|failed)$")] = None,
    limit: paging.Limit = 50,
    cursor: paging.Cursor = None,
) -> Page[DeliveryOut]:
    """List what was sent to a receiver, newest first."""
    query = {"list": "deliveries", "endpoint_id": endpoint_id, "state": state}
    position = paging.decode(cursor, query, int, str)
    before = (position[0], position[1]) if position else None
    with here.engine.connect() as connection:
        store.get_endpoint(connection, endpoint_id)
        found = store.list_deliveries(connection, endpoint_id=endpoint_id, state=state, limit=limit + 1, before=before)
    shown = found[:limit]
    last = shown[-1] if len(found) > limit else None
    following = paging.encode([last["event_sequence"], last["webhook_id"]], query) if last else None
    return Page(items=[DeliveryOut.model_validate(row) for row in shown], next=following)


@router.get("/{endpoint_id}/deliveries/{webhook_id}", dependencies=[needs("webhooks:admin")])
def get_delivery(here: Here, endpoint_id: str, webhook_id: str) -> LoggedDeliveryOut:
    """Show one delivery: what was sent, and what the receiver answered to every try."""
    with here.engine.connect() as connection:
        store.get_endpoint(connection, endpoint_id)
        delivery = _delivery_of(connection, endpoint_id, webhook_id)
        tries = store.list_attempts(connection, webhook_id)
    log = [AttemptOut.model_validate({**row, "response": row["response"].decode("utf-8", "replace")}) for row in tries]
    return LoggedDeliveryOut.model_validate({**delivery, "body": delivery["body"].decode(), "log": log})


def _delivery_of(connection: Connection, endpoint_id: str, webhook_id: str) -> store.Row:
    """Refuse with 404 a delivery to another receiver, in the very words of one that is nowhere."""
    delivery = store.get_delivery(connection, webhook_id)
    if delivery["endpoint_id"] != endpoint_id:
        raise store.NotFound(f"delivery: there is none with webhook-id {webhook_id!r}")
    return delivery


def _replay_errors(wanted: ReplayIn, now: datetime) -> list[FieldError]:
    if wanted.webhook_id is not None:
        return [
            FieldError(pointer=f"/body/{name}", code="one_or_range", message=f"{name} does not go with webhook_id")
            for name in ("since", "until")
            if getattr(wanted, name) is not None
        ]
    if wanted.since is None:
        message = "either webhook_id or since is needed; got neither"
        return [FieldError(pointer="/body/since", code="one_or_range", message=message)]
    length = (wanted.until or now) - wanted.since
    if length <= timedelta(0):
        message = f"since must lie before {'until' if wanted.until else 'now'}; got {rfc3339(wanted.since)}"
        return [FieldError(pointer="/body/since", code="empty_range", message=message)]
    if length > LONGEST_REPLAY:
        message = f"the range may be up to {LONGEST_REPLAY.days} days; got {length / timedelta(days=1):.2f} days"
        return [FieldError(pointer="/body/since", code="range_too_long", message=message)]
    return []
