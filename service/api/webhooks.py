"""Webhook endpoints: who is told, a test, and what became of each notification. Sending itself is the outbox's work."""

from __future__ import annotations

import secrets
from base64 import b64encode
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from pipeline.historian import writing
from service import store
from service.api import paging
from service.api.auth import Principal, actor_of, needs
from service.api.context import Here
from service.api.problems import FieldError, Problem
from service.api.schemas import DeliveryOut, EndpointIn, EndpointOut, NewEndpointOut, Page, PingOut
from service.events import EVENT_TYPES

router = APIRouter(prefix="/api/v1/webhooks", tags=["webhooks"])

Admin = Annotated[Principal, needs("webhooks:admin")]


@router.post("", status_code=201)
def create_webhook(here: Here, request: Request, who: Admin, wanted: EndpointIn) -> NewEndpointOut:
    """Add a receiver; it gets a signed ping at once and, when it accepts that, every event it wants."""
    if unknown := sorted(set(wanted.event_types) - set(EVENT_TYPES)):
        message = f"allowed are {', '.join(EVENT_TYPES)}; got {', '.join(unknown)}"
        error = FieldError(pointer="/body/event_types", code="unknown_event", message=message)
        raise Problem("invalid", f"event_types: {message}.", errors=[error])
    url = here.check_url(wanted.url)
    secret = f"whsec_{b64encode(secrets.token_bytes(32)).decode()}"
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
