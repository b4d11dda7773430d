"""The event log, and the outbox rows that carry an event to the endpoints that want it. Sending is `service.outbox`'s."""

from __future__ import annotations

import uuid
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.events import Event, body, endpoint_event
from service.store.endpoint import get_endpoint
from service.store.held import is_held, lock_events
from service.store.tables import Row, all_rows, deliveries, endpoints, events


def publish(connection: Connection, event: Event) -> int:
    """Append an event to the log and one outbox row for each endpoint that wants it; return the event's number.

    Numbers appear in the order in which transactions commit, so that a reader who has seen number n misses nothing
    below n: on PostgreSQL writers of events take turns, on SQLite all writers do. What concerns a held alert is held.
    """
    event_sequence = _append_event(connection, event)
    state = "held" if is_held(connection, event.subject) else "pending"
    wanting = sa.select(endpoints).where(endpoints.c.state == "active")
    for endpoint in all_rows(connection.execute(wanting)):
        if not endpoint["event_types"] or event.type in endpoint["event_types"]:
            _enqueue(connection, event, event_sequence, endpoint, state)
    return event_sequence


def ping_endpoint(connection: Connection, endpoint_id: str, at: datetime) -> str:
    """Queue a signed `endpoint.ping`, whose acceptance makes an unverified endpoint active; return the webhook-id.

    It is for this endpoint only, whatever the endpoint's state.
    """
    endpoint = get_endpoint(connection, endpoint_id)
    event = endpoint_event("endpoint.ping", endpoint_id, at, {})
    return _enqueue(connection, event, _append_event(connection, event), endpoint)


def _append_event(connection: Connection, event: Event) -> int:
    lock_events(connection)
    inserted = connection.execute(
        sa.insert(events).values(
            type=event.type,
            subject=event.subject,
            sequence=event.sequence,
            gate_id=event.gate_id,
            at=event.at,
            body=body(event),
        )
    )
    key = inserted.inserted_primary_key
    assert key is not None
    return int(key[0])


def _enqueue(connection: Connection, event: Event, event_sequence: int, endpoint: Row, state: str = "pending") -> str:
    webhook_id = f"msg_{uuid.uuid4().hex}"
    connection.execute(
        sa.insert(deliveries).values(
            webhook_id=webhook_id,
            endpoint_id=endpoint["endpoint_id"],
            event_sequence=event_sequence,
            event_type=event.type,
            subject=event.subject,
            sequence=event.sequence,
            body=body(event, endpoint["locale"]),
            state=state,
            attempts=0,
            created_at=event.at,
        )
    )
    return webhook_id
