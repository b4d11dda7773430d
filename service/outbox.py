"""The outbox: claim due deliveries, try each once, note the attempt, schedule the next. Retries are rows, not sleeps.

Several workers may run beside each other: a delivery is claimed for a minute, and who dies with it leaves it to the
others, so that every message arrives at least once, each time under the same webhook-id and with the same bytes. Within
one (endpoint, alert) a later event waits for an earlier one; nothing waits for another alert or another endpoint.

`plan` decides and knows no clock; `claim`, `attempt` and `record` are one delivery's way; `deliver` is the process's loop.
"""

from __future__ import annotations

import asyncio
import email.utils
import logging
import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

import httpx
import prometheus_client
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from pipeline.errors import BadInput
from pipeline.historian import writing
from service import store
from service.events import endpoint_event
from service.store import attempts, deliveries, endpoints
from service.webhooks import standard
from service.webhooks.guard import AddressNotAllowed
from service.webhooks.standard import Vault

log = logging.getLogger(__name__)

SCHEDULE: tuple[timedelta, ...] = tuple(
    timedelta(seconds=seconds) for seconds in (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
)
"""Delay before each attempt, counted from the one before: ten attempts over 75 h 35 m 5 s."""

JITTER = (0.8, 1.2)
OVERLOADED = (429, 502, 504)
OVERLOAD_DELAY = timedelta(seconds=60)
MAX_RETRY_AFTER = timedelta(hours=24)
DISABLE_AFTER = timedelta(days=5)

DEADLINE_S = 15.0
"""For the whole attempt: name, TLS, request and answer. httpx's own limits are per read and never fire on a drip."""

MAX_ANSWER_BYTES = 16_384
KEPT_ANSWER_BYTES = 1_024
LEASE = timedelta(seconds=60)
PER_ENDPOINT = 4
IN_FLIGHT = 32
POLL_S = 0.5
STUCK_S = 120.0

_CLAIM_LOCK = 7_305_100_002  # beside the event lock of the store

Failure = Literal["", "status", "timeout", "no_answer", "tls", "protocol", "address_not_allowed", "secret"]

ATTEMPTS = prometheus_client.Counter("sluicewatch_webhook_attempts", "Attempts to deliver a webhook", ["kind", "result"])


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one attempt brought: an answer's status, or why there was none (`error`, one of `Failure`)."""

    status: int | None
    error: Failure
    duration: timedelta = timedelta(0)
    retry_after: str | None = None
    answer: bytes = b""

    @property
    def delivered(self) -> bool:
        """Whether the receiver accepted it: 2xx and nothing else."""
        return self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Plan:
    """What follows from an attempt: the delivery's state, when it is tried again, and whether its endpoint is gone."""

    state: Literal["pending", "delivered", "failed"]
    next_attempt_at: datetime | None = None
    gone: bool = False


def plan(outcome: Outcome, attempt: int, now: datetime, rng: random.Random) -> Plan:
    """Decide what follows from the `attempt`-th try (1 is the first).

    2xx is success and nothing else is; a redirect is a failure. 410 ends the endpoint. An overloaded or silent receiver
    is left alone for a minute, and one that says Retry-After for as long as it says, up to a day.
    """
    if outcome.delivered:
        return Plan("delivered")
    if outcome.status == 410:
        return Plan("failed", gone=True)
    if attempt >= len(SCHEDULE):
        return Plan("failed")
    delay = SCHEDULE[attempt] * rng.uniform(*JITTER)
    if outcome.status in OVERLOADED or outcome.error == "timeout":
        delay = max(delay, OVERLOAD_DELAY)
    if (asked := _retry_after(outcome.retry_after, now)) is not None:
        delay = max(delay, min(asked, MAX_RETRY_AFTER))
    return Plan("pending", now + delay)


def _retry_after(text: str | None, now: datetime) -> timedelta | None:
    """Seconds or an HTTP date; what is neither is ignored."""
    if text is None:
        return None
    if text.strip().isascii() and text.strip().isdigit():
        return timedelta(seconds=min(int(text), 10**9))
    try:
        at = email.utils.parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)) - now


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that this worker alone may try until its lease ends."""

    webhook_id: str
    endpoint_id: str
    url: str
    event_type: str
    body: bytes
    attempt: int
    sealed_secrets: tuple[bytes, ...]
    worker: str


def claim(engine: Engine, now: datetime, *, worker: str, limit: int = IN_FLIGHT) -> list[Claimed]:
    """Take up to `limit` due deliveries, endpoint by endpoint in turn, no more than four in flight for each."""
    with engine.connect() as connection:
        if connection.execute(_due(now).limit(1)).first() is None:
            return []  # looking costs no write lock
    with writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CLAIM_LOCK)))
        flying = _in_flight(connection, now)
        taken: list[str] = []
        for row in connection.execute(_due(now)):
            if len(taken) < limit and row.turn + flying.get(row.endpoint_id, 0) <= PER_ENDPOINT:
                taken.append(row.webhook_id)
        if not taken:
            return []
        connection.execute(
            sa.update(deliveries).where(deliveries.c.webhook_id.in_(taken)).values(claimed_by=worker, claimed_until=now + LEASE)
        )
        return _load(connection, taken, now, worker)


def _due(now: datetime) -> sa.Select[tuple[str, str, int]]:
    """Deliveries that may be tried now, each with its turn within its endpoint, first turns first."""
    earlier = deliveries.alias("earlier")
    held_back = sa.exists().where(
        earlier.c.endpoint_id == deliveries.c.endpoint_id,
        earlier.c.subject == deliveries.c.subject,
        earlier.c.sequence < deliveries.c.sequence,
        earlier.c.state == "pending",
    )
    turn = sa.func.row_number().over(partition_by=deliveries.c.endpoint_id, order_by=deliveries.c.event_sequence)
    due = (
        sa.select(deliveries.c.webhook_id, deliveries.c.endpoint_id, turn.label("turn"))
        .join(endpoints, endpoints.c.endpoint_id == deliveries.c.endpoint_id)
        .where(
            deliveries.c.state == "pending",
            sa.or_(deliveries.c.next_attempt_at.is_(None), deliveries.c.next_attempt_at <= now),
            sa.or_(deliveries.c.claimed_until.is_(None), deliveries.c.claimed_until <= now),
            sa.or_(
                endpoints.c.state == "active",
                sa.and_(endpoints.c.state == "unverified", deliveries.c.event_type == "endpoint.ping"),
            ),
            sa.or_(deliveries.c.subject == "", ~held_back),
        )
        .subquery()
    )
    return sa.select(due).where(due.c.turn <= PER_ENDPOINT).order_by(due.c.turn, due.c.endpoint_id)


def _in_flight(connection: Connection, now: datetime) -> dict[str, int]:
    query = sa.select(deliveries.c.endpoint_id, sa.func.count()).where(
        deliveries.c.state == "pending", deliveries.c.claimed_until > now
    )
    return {row[0]: row[1] for row in connection.execute(query.group_by(deliveries.c.endpoint_id))}


def _load(connection: Connection, webhook_ids: list[str], now: datetime, worker: str) -> list[Claimed]:
    query = (
        sa.select(deliveries, endpoints.c.url)
        .join(endpoints, endpoints.c.endpoint_id == deliveries.c.endpoint_id)
        .where(deliveries.c.webhook_id.in_(webhook_ids))
    )
    rows = {row.webhook_id: row for row in connection.execute(query)}
    secrets = {
        endpoint_id: tuple(store.live_secrets(connection, endpoint_id, now))
        for endpoint_id in {row.endpoint_id for row in rows.values()}
    }
    return [
        Claimed(
            webhook_id=row.webhook_id,
            endpoint_id=row.endpoint_id,
            url=row.url,
            event_type=row.event_type,
            body=row.body,
            attempt=row.attempts + 1,
            sealed_secrets=secrets[row.endpoint_id],
            worker=worker,
        )
        for row in (rows[webhook_id] for webhook_id in webhook_ids)
    ]


async def attempt(client: httpx.AsyncClient, claimed: Claimed, vault: Vault, now: datetime) -> Outcome:
    """Send one delivery once; whatever the receiver does, it is over within the deadline."""
    started = time.perf_counter()
    status: int | None = None
    retry_after: str | None = None
    answer = b""
    error: Failure = ""
    try:
        secrets = [vault.open(sealed) for sealed in claimed.sealed_secrets]
        headers = standard.headers(secrets, claimed.webhook_id, now, claimed.body)
        headers |= {"content-type": "application/json", "accept-encoding": "identity"}
        async with (
            asyncio.timeout(DEADLINE_S),
            client.stream("POST", claimed.url, content=claimed.body, headers=headers) as response,
        ):
            status, retry_after = response.status_code, response.headers.get("retry-after")
            response.headers.pop("content-encoding", None)  # kept as it came: unpacking could make a few bytes a flood
            async for part in response.aiter_bytes():
                answer += part[: MAX_ANSWER_BYTES - len(answer)]
                if len(answer) >= MAX_ANSWER_BYTES:
                    break
    except BadInput:
        error = "secret"
    except AddressNotAllowed:
        error = "address_not_allowed"
    except (TimeoutError, httpx.TimeoutException):
        error = "timeout"
    except httpx.ConnectError as refused:
        error = "tls" if "certificate" in str(refused).lower() or "ssl" in str(refused).lower() else "no_answer"
    except httpx.NetworkError:
        error = "no_answer"
    except (httpx.HTTPError, httpx.InvalidURL):
        error = "protocol"
    if status is not None:
        # once the status is here the receiver has decided; how the rest of its answer ends changes nothing
        error = "" if 200 <= status < 300 else "status"
    return Outcome(
        status=status,
        error=error,
        duration=timedelta(seconds=time.perf_counter() - started),
        retry_after=retry_after,
        answer=answer,
    )


def record(engine: Engine, claimed: Claimed, outcome: Outcome, now: datetime, rng: random.Random) -> Plan:
    """Write what an attempt brought: its log row, the delivery's state, the endpoint's, in one transaction.

    Where the lease ran out meanwhile, only the log row and a success are written: the delivery belongs to another worker.
    """
    decided = plan(outcome, claimed.attempt, now, rng)
    mine = sa.and_(deliveries.c.webhook_id == claimed.webhook_id, deliveries.c.state == "pending")
    if not outcome.delivered:
        mine = sa.and_(mine, deliveries.c.claimed_by == claimed.worker)
    with writing(engine) as connection:
        connection.execute(
            sa.insert(attempts).values(
                webhook_id=claimed.webhook_id,
                attempt=claimed.attempt,
                at=now,
                duration_ms=outcome.duration // timedelta(milliseconds=1),
                status=outcome.status,
                error=outcome.error,
                response=outcome.answer[:KEPT_ANSWER_BYTES],
                next_attempt_at=decided.next_attempt_at,
            )
        )
        changed = connection.execute(
            sa.update(deliveries)
            .where(mine)
            .values(
                state=decided.state,
                attempts=claimed.attempt,
                next_attempt_at=decided.next_attempt_at,
                claimed_until=None,
                claimed_by=None,
                finished_at=None if decided.state == "pending" else now,
            )
        )
        if changed.rowcount:
            _note_endpoint(connection, claimed, outcome, decided, now)
    ATTEMPTS.labels(kind="generic", result="delivered" if outcome.delivered else outcome.error).inc()
    return decided


def _note_endpoint(connection: Connection, claimed: Claimed, outcome: Outcome, decided: Plan, now: datetime) -> None:
    """Keep the endpoint's state: verified by an accepted ping, disabled when it is gone or has failed for five days."""
    query = sa.select(endpoints).where(endpoints.c.endpoint_id == claimed.endpoint_id)
    endpoint = connection.execute(query).mappings().one()
    if endpoint["state"] not in ("active", "unverified"):
        return
    values: dict[str, object]
    failing_since = endpoint["first_failure_at"] or now
    reason = ""
    if outcome.delivered:
        values = {"last_success_at": now, "first_failure_at": None}
        if endpoint["state"] == "unverified":
            values |= {"state": "active", "verified_at": now}
            reason = "its ping was accepted"
    else:
        values = {"first_failure_at": failing_since}
        if decided.gone:
            reason = "the receiver answered 410 Gone"
        elif now - failing_since >= DISABLE_AFTER:
            reason = f"nothing but failures for {DISABLE_AFTER.days} days"
        if reason:
            values |= {"state": "disabled", "disabled_reason": reason}
    store.change_endpoint(connection, claimed.endpoint_id, values, at=now, actor=store.DELIVERY, reason=reason)
    if values.get("state") == "disabled":
        event = endpoint_event("endpoint.disabled", claimed.endpoint_id, now, {"reason": reason})
        store.publish(connection, event)


@dataclass(slots=True)
class DeliveryState:
    """What other threads may ask a running `deliver`; `moved_at` is monotonic seconds."""

    fault: str = ""
    moved_at: float = field(default_factory=time.monotonic)

    def faults(self) -> list[str]:
        """Why nothing is being delivered at present."""
        return [f"outbox: {self.fault}"] if self.fault else []

    def stuck(self) -> list[str]:
        """What only a restart would mend: the loop does not move any more."""
        still_s = time.monotonic() - self.moved_at
        return [f"the loop has not moved for {still_s:.0f} s"] if still_s > STUCK_S else []


async def deliver(
    engine: Engine,
    client: httpx.AsyncClient,
    *,
    clock: Callable[[], datetime],
    rng: random.Random,
    vault: Vault,
    stop: threading.Event,
    state: DeliveryState | None = None,
) -> None:
    """Be the `deliver` process until `stop` is set: what is due is tried at once, nobody waits for a slow receiver.

    What is under way when it stops is brought to its end, within the deadline.
    """
    state = state or DeliveryState()
    worker = uuid.uuid4().hex
    flying: set[asyncio.Task[None]] = set()

    async def carry(one: Claimed) -> None:
        outcome = await attempt(client, one, vault, clock())
        await asyncio.to_thread(record, engine, one, outcome, clock(), rng)

    while not stop.is_set():
        state.moved_at = time.monotonic()
        try:
            if len(flying) < IN_FLIGHT:
                claimed = await asyncio.to_thread(claim, engine, clock(), worker=worker, limit=IN_FLIGHT - len(flying))
                flying |= {asyncio.create_task(carry(one)) for one in claimed}
            state.fault = ""
        except Exception as error:  # the outermost loop: the database may be away for a while, the outbox is not lost
            log.exception("the outbox cannot be read; trying again")
            state.fault = f"{type(error).__name__}: {error}"
        if not flying:
            await asyncio.sleep(POLL_S)
            continue
        done, flying = await asyncio.wait(flying, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if lost := task.exception():
                log.error("an attempt could not be noted; its lease will end", exc_info=lost)
    if flying:
        await asyncio.wait(flying)
