"""Delivery: schedule, order, leases, evil receivers, endpoints that come and go. The far side is faked, our side is not."""

import asyncio
import json
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import sqlalchemy as sa
import standardwebhooks
from sqlalchemy.engine import Engine

from pipeline.historian import writing
from service import alerts as life
from service import outbox, store
from service.outbox import Outcome
from service.store import Actor
from service.webhooks import standard
from service.webhooks.guard import Guard, guarded_client
from service.webhooks.standard import Vault

T0 = datetime(2026, 3, 2, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
PERSON = Actor("wang", "api")
VAULT = Vault(Vault.new_key())
SECRET = standard.new_secret()
CURVE = tuple(0.03 * day for day in range(1, 22))

Handler = Callable[[httpx.Request], httpx.Response]


def add_endpoint(engine: Engine, url: str = "https://receiver.example/hook", *, verified: bool = True) -> str:
    with writing(engine) as connection:
        sealed = VAULT.seal(SECRET)
        return store.add_endpoint(connection, url=url, sealed_secret=sealed, at=T0, actor=PERSON, verified=verified)


def open_alert(engine: Engine, component: str = "motor") -> life.Alert:
    outlook = life.Outlook(T0, CURVE, "motor_bearing", "v1", "medium", T0 + 4 * DAY, "calibrated")
    with writing(engine) as connection:
        change = life.open_alert("DSH-S1-G1", component, outlook, T0)
        return store.apply_change(connection, change, actor=store.SCORING, public_url="https://gates.example")


def acknowledge(engine: Engine, alert: life.Alert) -> life.Alert:
    with writing(engine) as connection:
        change = life.acknowledge(alert, by="wang", at=T0)
        return store.apply_change(connection, change, actor=PERSON, public_url="")


def resolve(engine: Engine, alert: life.Alert) -> life.Alert:
    with writing(engine) as connection:
        change = life.resolve(alert, resolution="by_person", by="wang", at=T0)
        return store.apply_change(connection, change, actor=PERSON, public_url="")


class Report(NamedTuple):
    """Deliveries of one round by the state they are in now."""

    delivered: int
    pending: int
    failed: int


async def deliver_due(engine: Engine, client: httpx.AsyncClient, now: datetime, rng: random.Random, *, vault: Vault) -> Report:
    """One round of the loop's own steps, at an instant of the test's choice."""
    claimed = outbox.claim(engine, now, worker=uuid.uuid4().hex)
    outcomes = await asyncio.gather(*(outbox.attempt(client, one, vault, now) for one in claimed))
    states = Counter(outbox.record(engine, one, outcome, now, rng).state for one, outcome in zip(claimed, outcomes, strict=True))
    return Report(states["delivered"], states["pending"], states["failed"])


def one_round(engine: Engine, handler: Handler, now: datetime, seed: int = 0) -> Report:
    async def run() -> Report:
        async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
            return await deliver_due(engine, client, now, random.Random(seed), vault=VAULT)

    return asyncio.run(run())


def always(status: int, **headers: str) -> Handler:
    return lambda request: httpx.Response(status, headers={k.replace("_", "-"): v for k, v in headers.items()})


def only_delivery(engine: Engine) -> store.Row:
    with engine.connect() as connection:
        (row,) = store.list_deliveries(connection)
    return row


# --- what follows from an attempt -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "attempt", "least_s", "most_s"),
    [
        (Outcome(500, "status"), 1, 4, 6),
        (Outcome(404, "status"), 1, 4, 6),
        (Outcome(301, "status"), 1, 4, 6),
        (Outcome(None, "no_answer"), 1, 4, 6),
        (Outcome(None, "timeout"), 1, 60, 60),
        (Outcome(429, "status"), 1, 60, 60),
        (Outcome(502, "status"), 1, 60, 60),
        (Outcome(504, "status"), 1, 60, 60),
        (Outcome(503, "status"), 1, 4, 6),
        (Outcome(504, "status"), 2, 240, 360),
        (Outcome(429, "status", retry_after="120"), 1, 120, 120),
        (Outcome(503, "status", retry_after="Mon, 02 Mar 2026 01:00:00 GMT"), 1, 3600, 3600),
        (Outcome(503, "status", retry_after="Sun, 01 Mar 2026 00:00:00 GMT"), 1, 4, 6),
        (Outcome(503, "status", retry_after="900000"), 1, 86_400, 86_400),
        (Outcome(503, "status", retry_after="9" * 40), 1, 86_400, 86_400),
        (Outcome(503, "status", retry_after="soon"), 1, 4, 6),
        (Outcome(503, "status", retry_after="-5"), 1, 4, 6),
        (Outcome(503, "status", retry_after="²"), 1, 4, 6),
        (Outcome(500, "status"), 9, 0.8 * 86_400, 1.2 * 86_400),
    ],
)
def test_a_failure_is_tried_again_when_schedule_and_receiver_say(
    outcome: Outcome, attempt: int, least_s: float, most_s: float
) -> None:
    for seed in range(20):
        decided = outbox.plan(outcome, attempt, T0, random.Random(seed))

        assert decided.state == "pending"
        assert decided.next_attempt_at is not None
        assert least_s <= (decided.next_attempt_at - T0).total_seconds() <= most_s


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_every_2xx_is_success(status: int) -> None:
    assert outbox.plan(Outcome(status, ""), 1, T0, random.Random(0)).state == "delivered"


def test_the_tenth_failure_is_the_last_and_410_ends_the_endpoint_at_once() -> None:
    assert outbox.plan(Outcome(500, "status"), 10, T0, random.Random(0)).state == "failed"
    assert outbox.plan(Outcome(410, "status"), 1, T0, random.Random(0)) == outbox.Plan("failed", gone=True)


def test_the_schedule_lasts_as_long_as_the_documentation_says() -> None:
    assert sum(outbox.SCHEDULE, timedelta(0)) == timedelta(hours=75, minutes=35, seconds=5)


# --- the life of a delivery -----------------------------------------------------------------------------------------


def test_a_receiver_that_always_fails_sees_ten_attempts_of_one_message_on_schedule(engine: Engine) -> None:
    add_endpoint(engine)
    open_alert(engine)
    seen: list[tuple[datetime, httpx.Request]] = []
    now = T0

    while (row := only_delivery(engine))["state"] == "pending":
        now = row["next_attempt_at"] or now

        def refuse(request: httpx.Request, at: datetime = now) -> httpx.Response:
            seen.append((at, request))
            return httpx.Response(500, text="no")

        if seen:
            assert one_round(engine, refuse, now - SECOND / 1000) == Report(0, 0, 0)
        one_round(engine, refuse, now, seed=len(seen))

    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(seen)]
    assert len(seen) == 10
    for gap, wanted in zip(gaps, outbox.SCHEDULE[1:], strict=True):
        assert 0.8 * wanted - SECOND <= gap <= 1.2 * wanted + SECOND
    assert len({request.headers["webhook-id"] for _, request in seen}) == 1
    assert len({request.content for _, request in seen}) == 1
    assert len({request.headers["webhook-timestamp"] for _, request in seen}) == 10
    assert row["state"] == "failed"
    with engine.connect() as connection:
        log = store.list_attempts(connection, row["webhook_id"])
    assert [(entry["attempt"], entry["status"], entry["response"]) for entry in log] == [
        (number, 500, b"no") for number in range(1, 11)
    ]


def test_what_arrives_verifies_with_the_reference_library_and_is_what_was_stored(engine: Engine) -> None:
    add_endpoint(engine)
    alert = open_alert(engine)
    received: list[httpx.Request] = []

    def accept(request: httpx.Request) -> httpx.Response:
        received.append(request)
        return httpx.Response(202, text="thanks")

    now = datetime.now(UTC)  # the reference library asks the real clock
    report = one_round(engine, accept, now)

    assert report == Report(delivered=1, pending=0, failed=0)
    (request,) = received
    document = standardwebhooks.Webhook(SECRET).verify(request.content, dict(request.headers))
    assert document["type"] == "alert.opened"
    assert document["data"]["alert_id"] == alert.alert_id
    assert request.headers["content-type"] == "application/json"
    row = only_delivery(engine)
    with engine.connect() as connection:
        assert store.get_delivery(connection, row["webhook_id"])["body"] == request.content
    assert row["state"] == "delivered"
    assert one_round(engine, accept, now + DAY) == Report(0, 0, 0)


def test_a_redirect_is_not_followed_and_counts_as_failure(engine: Engine) -> None:
    add_endpoint(engine)
    open_alert(engine)
    asked = []

    def redirect(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(301, headers={"location": "http://169.254.169.254/"})

    report = one_round(engine, redirect, T0)

    assert report == Report(0, 1, 0)
    assert asked == ["https://receiver.example/hook"]


def test_the_log_keeps_the_first_kilobyte_of_an_answer(engine: Engine) -> None:
    add_endpoint(engine)
    open_alert(engine)

    one_round(engine, lambda request: httpx.Response(500, content=b"x" * 100_000), T0)

    with engine.connect() as connection:
        (entry,) = store.list_attempts(connection, only_delivery(engine)["webhook_id"])
    assert entry["response"] == b"x" * 1024


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (httpx.ConnectError("refused"), "no_answer"),
        (httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED]"), "tls"),
        (httpx.ReadError("reset"), "no_answer"),
        (httpx.ReadTimeout("slow"), "timeout"),
        (httpx.RemoteProtocolError("not HTTP"), "protocol"),
    ],
)
def test_why_there_was_no_answer_is_noted(sqlite_engine: Engine, raised: Exception, error: str) -> None:
    add_endpoint(sqlite_engine)
    open_alert(sqlite_engine)

    def fail(request: httpx.Request) -> httpx.Response:
        raise raised

    one_round(sqlite_engine, fail, T0)

    with sqlite_engine.connect() as connection:
        (entry,) = store.list_attempts(connection, only_delivery(sqlite_engine)["webhook_id"])
    assert (entry["status"], entry["error"]) == (None, error)


def test_a_blocked_address_is_never_called_and_said_as_such(sqlite_engine: Engine) -> None:
    add_endpoint(sqlite_engine, "https://10.0.0.1/hook")
    open_alert(sqlite_engine)

    async def run() -> Report:
        async with guarded_client(Guard()) as client:
            return await deliver_due(sqlite_engine, client, T0, random.Random(0), vault=VAULT)

    assert asyncio.run(run()) == Report(0, 1, 0)
    with sqlite_engine.connect() as connection:
        (entry,) = store.list_attempts(connection, only_delivery(sqlite_engine)["webhook_id"])
    assert entry["error"] == "address_not_allowed"


def test_another_key_than_the_one_that_sealed_is_told_and_nothing_is_sent(sqlite_engine: Engine) -> None:
    add_endpoint(sqlite_engine)
    open_alert(sqlite_engine)

    async def run() -> Report:
        async with httpx.AsyncClient(transport=httpx.MockTransport(always(200))) as client:
            other = Vault(Vault.new_key())
            return await deliver_due(sqlite_engine, client, T0, random.Random(0), vault=other)

    assert asyncio.run(run()) == Report(0, 1, 0)


def test_secrets_are_in_neither_the_database_files_nor_the_log(
    tmp_path: Path, sqlite_engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    add_endpoint(sqlite_engine)
    open_alert(sqlite_engine)

    one_round(sqlite_engine, always(500), T0)

    needle = SECRET.removeprefix("whsec_")
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(needle.encode() in content for content in files)
    assert needle not in caplog.text


# --- endpoints ------------------------------------------------------------------------------------------------------


def test_an_unverified_endpoint_gets_its_ping_and_alerts_only_after_accepting_it(engine: Engine) -> None:
    endpoint_id = add_endpoint(engine, verified=False)
    with writing(engine) as connection:
        store.ping_endpoint(connection, endpoint_id, T0)
    open_alert(engine, "brake")
    types: list[str] = []

    def receive(request: httpx.Request) -> httpx.Response:
        types.append(json.loads(request.content)["type"])
        return httpx.Response(500 if len(types) == 1 else 200)

    one_round(engine, receive, T0)
    with engine.connect() as connection:
        after_refusal = store.get_endpoint(connection, endpoint_id)["state"]
    one_round(engine, receive, T0 + HOUR)
    open_alert(engine, "motor")
    one_round(engine, receive, T0 + HOUR)

    with engine.connect() as connection:
        endpoint = store.get_endpoint(connection, endpoint_id)
    assert after_refusal == "unverified"
    assert (endpoint["state"], endpoint["verified_at"]) == ("active", T0 + HOUR)
    assert types == ["endpoint.ping", "endpoint.ping", "alert.opened"]


def test_gone_disables_the_endpoint_at_once_and_the_others_are_told(engine: Engine) -> None:
    gone = add_endpoint(engine, "https://gone.example/")
    add_endpoint(engine, "https://other.example/")
    first = open_alert(engine)
    acknowledge(engine, first)
    told: list[str] = []

    def receive(request: httpx.Request) -> httpx.Response:
        if request.url.host == "gone.example":
            return httpx.Response(410)
        told.append(json.loads(request.content)["type"])
        return httpx.Response(200)

    for hours in range(3):
        one_round(engine, receive, T0 + hours * HOUR)

    with engine.connect() as connection:
        assert store.get_endpoint(connection, gone)["state"] == "disabled"
        assert [row["state"] for row in store.list_deliveries(connection, endpoint_id=gone)] == ["pending", "failed"]
    assert sorted(told) == ["alert.acknowledged", "alert.opened", "endpoint.disabled"]


@pytest.mark.parametrize(
    ("hours", "success_between", "state"), [(119, False, "active"), (121, False, "disabled"), (121, True, "active")]
)
def test_five_days_of_nothing_but_failures_disable_an_endpoint(
    engine: Engine, hours: int, success_between: bool, state: str
) -> None:
    endpoint_id = add_endpoint(engine)
    open_alert(engine, "first")
    one_round(engine, always(500), T0)
    if success_between:
        one_round(engine, always(200), T0 + HOUR)
    open_alert(engine, "second")

    one_round(engine, always(500), T0 + hours * HOUR)

    with engine.connect() as connection:
        assert store.get_endpoint(connection, endpoint_id)["state"] == state


def test_a_disabled_endpoint_goes_on_where_it_stopped_when_a_person_enables_it(engine: Engine) -> None:
    endpoint_id = add_endpoint(engine)
    open_alert(engine)
    with writing(engine) as connection:
        store.change_endpoint(connection, endpoint_id, {"state": "disabled"}, at=T0, actor=PERSON)
    while_disabled = one_round(engine, always(200), T0)

    with writing(engine) as connection:
        store.change_endpoint(connection, endpoint_id, {"state": "active"}, at=T0, actor=PERSON)

    assert while_disabled == Report(0, 0, 0)
    assert one_round(engine, always(200), T0) == Report(1, 0, 0)


# --- order ----------------------------------------------------------------------------------------------------------


def test_a_failing_event_holds_back_later_events_of_its_alert_and_of_no_other(engine: Engine) -> None:
    add_endpoint(engine)
    stuck, free = open_alert(engine, "motor"), open_alert(engine, "brake")
    resolve(engine, acknowledge(engine, stuck))
    acknowledge(engine, free)
    accepted: list[tuple[str, int]] = []

    def receive(request: httpx.Request) -> httpx.Response:
        document = json.loads(request.content)
        if document["data"]["alert_id"] == stuck.alert_id and document["sequence"] == 1:
            return httpx.Response(500)
        accepted.append((document["data"]["alert_id"], document["sequence"]))
        return httpx.Response(200)

    for _ in range(3):
        one_round(engine, receive, T0)

    assert accepted == [(free.alert_id, 1), (free.alert_id, 2)]


def test_when_the_retries_of_one_event_are_used_up_the_later_ones_go(engine: Engine) -> None:
    add_endpoint(engine)
    acknowledge(engine, open_alert(engine))
    with writing(engine) as connection:
        first = sa.and_(store.deliveries.c.sequence == 1)
        connection.execute(sa.update(store.deliveries).where(first).values(attempts=9))
    sequences: list[int] = []

    def receive(request: httpx.Request) -> httpx.Response:
        sequences.append(json.loads(request.content)["sequence"])
        return httpx.Response(500 if sequences[-1] == 1 else 200)

    reports = [one_round(engine, receive, T0) for _ in range(2)]

    assert reports == [Report(0, 0, 1), Report(1, 0, 0)]
    assert sequences == [1, 2]


def test_a_receiver_that_fails_at_random_sees_every_alert_in_order(sqlite_engine: Engine) -> None:
    add_endpoint(sqlite_engine)
    alerts = [open_alert(sqlite_engine, f"part{number}") for number in range(40)]
    alerts = [acknowledge(sqlite_engine, alert) for alert in alerts]
    for alert in alerts[::2]:
        resolve(sqlite_engine, alert)
    chaos = random.Random(7)
    accepted: dict[str, list[int]] = defaultdict(list)
    ids: set[str] = set()

    def receive(request: httpx.Request) -> httpx.Response:
        if chaos.random() < 0.3:
            return httpx.Response(500)
        document = json.loads(request.content)
        accepted[document["data"]["alert_id"]].append(document["sequence"])
        ids.add(request.headers["webhook-id"])
        return httpx.Response(200)

    now = T0
    for seed in range(2000):
        if one_round(sqlite_engine, receive, now, seed) == Report(0, 0, 0):
            with sqlite_engine.connect() as connection:
                waiting = sa.select(sa.func.min(store.deliveries.c.next_attempt_at))
                following = connection.scalar(waiting.where(store.deliveries.c.state == "pending"))
            if following is None:
                break
            now = max(now, following)

    assert set(accepted) == {alert.alert_id for alert in alerts}
    assert all(sequences == sorted(set(sequences)) for sequences in accepted.values())
    assert len(ids) == 100


# --- several workers and workers that die -----------------------------------------------------------------------------


def test_a_worker_that_dies_leaves_its_delivery_to_another_after_the_lease(engine: Engine) -> None:
    add_endpoint(engine)
    open_alert(engine)

    (held,) = outbox.claim(engine, T0, worker="dies")
    meanwhile = outbox.claim(engine, T0 + outbox.LEASE - SECOND, worker="second")
    (again,) = outbox.claim(engine, T0 + outbox.LEASE, worker="second")

    assert meanwhile == []
    assert (again.webhook_id, again.body, again.attempt) == (held.webhook_id, held.body, 1)


def test_a_worker_that_lost_its_lease_changes_nothing_but_a_success_counts(engine: Engine) -> None:
    add_endpoint(engine)
    open_alert(engine)
    (late,) = outbox.claim(engine, T0, worker="late")
    outbox.claim(engine, T0 + outbox.LEASE, worker="second")

    outbox.record(engine, late, Outcome(500, "status"), T0 + outbox.LEASE, random.Random(0))
    after_failure = only_delivery(engine)
    outbox.record(engine, late, Outcome(200, ""), T0 + outbox.LEASE, random.Random(0))

    assert (after_failure["state"], after_failure["claimed_by"], after_failure["attempts"]) == ("pending", "second", 0)
    assert only_delivery(engine)["state"] == "delivered"


def test_workers_beside_each_other_never_claim_the_same_and_keep_to_four_per_endpoint(engine: Engine) -> None:
    for number in range(5):
        add_endpoint(engine, f"https://receiver{number}.example/")
    for number in range(8):
        open_alert(engine, f"part{number}")

    def work(number: int) -> list[outbox.Claimed]:
        return [one for _ in range(3) for one in outbox.claim(engine, T0, worker=f"worker{number}", limit=3)]

    with ThreadPoolExecutor(4) as pool:
        claimed = [one for batch in pool.map(work, range(4)) for one in batch]

    per_endpoint = defaultdict(int)
    for one in claimed:
        per_endpoint[one.endpoint_id] += 1
    assert len({one.webhook_id for one in claimed}) == len(claimed) == 20
    assert set(per_endpoint.values()) == {4}


def test_the_places_are_shared_among_endpoints_in_turn(sqlite_engine: Engine) -> None:
    busy, quiet = add_endpoint(sqlite_engine), add_endpoint(sqlite_engine)
    for number in range(8):
        open_alert(sqlite_engine, f"part{number}")

    claimed = outbox.claim(sqlite_engine, T0, worker="one", limit=4)

    assert sorted(one.endpoint_id for one in claimed) == sorted([busy, busy, quiet, quiet])


# --- evil receivers over real sockets ---------------------------------------------------------------------------------


@contextmanager
def evil_receiver(speak: Callable[[socket.socket], None], heard: list[bytes] | None = None) -> Iterator[str]:
    """A server that says what `speak` writes into each connection, and never ends by itself."""
    listening = socket.create_server(("127.0.0.1", 0))
    open_sockets: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            open_sockets.append(connection)
            threading.Thread(target=_quietly, args=(speak, connection, heard), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for one in open_sockets:
            one.close()
        thread.join()


def _quietly(speak: Callable[[socket.socket], None], connection: socket.socket, heard: list[bytes] | None) -> None:
    try:
        request = connection.recv(65536)
        while heard is not None and not request.endswith(b"}"):
            request += connection.recv(65536)
        if heard is not None:
            heard.append(request)
        speak(connection)
    except OSError:
        pass  # the other side went away, as it should


def never(connection: socket.socket) -> None:
    connection.recv(1)


def drip(connection: socket.socket) -> None:
    for byte in b"HTTP/1.1 200 OK\r\n" + b"x-header: slow\r\n" * 1000:
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


def flood(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 500 No\r\ncontent-length: 10000000000\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65536)


def babble(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")


@pytest.mark.parametrize(
    ("speak", "error", "at_least_s"),
    [(never, "timeout", 0.4), (drip, "timeout", 0.4), (flood, "status", 0.0), (babble, "protocol", 0.0)],
)
def test_no_receiver_holds_a_worker_longer_than_the_deadline(
    monkeypatch: pytest.MonkeyPatch, speak: Callable[[socket.socket], None], error: str, at_least_s: float
) -> None:
    monkeypatch.setattr(outbox, "DEADLINE_S", 0.5)

    async def run(url: str) -> Outcome:
        claimed = outbox.Claimed("msg_1", "ep_1", url, "alert.opened", b"{}", 1, (VAULT.seal(SECRET),), "one")
        async with guarded_client(Guard(allow_loopback=True, allow_http=True)) as client:
            return await outbox.attempt(client, claimed, VAULT, T0)

    with evil_receiver(speak) as url:
        outcome = asyncio.run(run(url))

    assert outcome.error == error
    assert at_least_s <= outcome.duration.total_seconds() < 2
    assert len(outcome.answer) <= outbox.MAX_ANSWER_BYTES


def test_one_hanging_receiver_does_not_delay_the_healthy_ones(sqlite_engine: Engine) -> None:
    arrived: dict[str, float] = {}

    async def receive(request: httpx.Request) -> httpx.Response:
        if request.url.host == "hangs.example":
            await asyncio.sleep(60)
        arrived[f"{request.url.host} {request.headers['webhook-id']}"] = time.perf_counter()
        return httpx.Response(200)

    add_endpoint(sqlite_engine, "https://hangs.example/")
    for number in range(4):
        add_endpoint(sqlite_engine, f"https://healthy{number}.example/")
    for number in range(10):
        open_alert(sqlite_engine, f"part{number}")
    started = time.perf_counter()

    async def run() -> None:
        stop = threading.Event()
        async with httpx.AsyncClient(transport=httpx.MockTransport(receive)) as client:
            loop = asyncio.create_task(
                outbox.deliver(
                    sqlite_engine,
                    client,
                    clock=lambda: datetime.now(UTC),
                    rng=random.Random(0),
                    vault=VAULT,
                    stop=stop,
                )
            )
            while len(arrived) < 40 and time.perf_counter() - started < 20:
                await asyncio.sleep(0.02)
            stop.set()
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)

    asyncio.run(run())

    assert len(arrived) == 40
    assert max(arrived.values()) - started < 5


def test_the_loop_ends_when_told_and_survives_a_database_that_is_away(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add_endpoint(sqlite_engine)
    open_alert(sqlite_engine)
    real, calls = outbox.claim, []

    def away_once(*args: object, **kwargs: object) -> list[outbox.Claimed]:
        calls.append(1)
        if len(calls) == 1:
            raise sa.exc.OperationalError("SELECT 1", {}, Exception("database is away"))
        return real(*args, **kwargs)  # type: ignore[arg-type] # handed on as they came

    monkeypatch.setattr(outbox, "claim", away_once)
    monkeypatch.setattr(outbox, "POLL_S", 0.01)
    state = outbox.DeliveryState()

    async def run() -> None:
        stop = threading.Event()

        def receive(request: httpx.Request) -> httpx.Response:
            stop.set()
            return httpx.Response(200)

        async with httpx.AsyncClient(transport=httpx.MockTransport(receive)) as client:
            await asyncio.wait_for(
                outbox.deliver(
                    sqlite_engine,
                    client,
                    clock=lambda: T0,
                    rng=random.Random(0),
                    vault=VAULT,
                    stop=stop,
                    state=state,
                ),
                10,
            )

    asyncio.run(run())

    assert only_delivery(sqlite_engine)["state"] == "delivered"
    assert "the outbox cannot be read" in caplog.text
    assert state.faults() == state.stuck() == []


RUNS = """
    import asyncio, random, sys, threading
    from datetime import UTC, datetime
    from pipeline.historian import connect
    from service import outbox
    from service.webhooks.guard import Guard, guarded_client
    from service.webhooks.standard import Vault

    async def run():
        async with guarded_client(Guard(allow_loopback=True, allow_http=True)) as client:
            vault = Vault(sys.argv[2].encode())
            clock, stop = lambda: datetime.now(UTC), threading.Event()
            engine = connect(sys.argv[1])
            await outbox.deliver(engine, client, clock=clock, rng=random.Random(0), vault=vault, stop=stop)

    asyncio.run(run())
"""


def test_a_process_killed_between_the_answer_and_its_note_repeats_the_same_message(sqlite_engine: Engine) -> None:
    key = Vault.new_key()
    vault = Vault(key)
    received: list[bytes] = []
    answered = threading.Event()

    def accept_and_kill(connection: socket.socket) -> None:
        received.append(first_bytes.pop())
        process.kill()
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        answered.set()

    first_bytes: list[bytes] = []
    with evil_receiver(accept_and_kill, first_bytes) as url:
        with writing(sqlite_engine) as connection:
            sealed = vault.seal(SECRET)
            store.add_endpoint(connection, url=url, sealed_secret=sealed, at=T0, actor=PERSON, verified=True)
        open_alert(sqlite_engine)
        command = [sys.executable, "-c", textwrap.dedent(RUNS), str(sqlite_engine.url), key.decode()]
        process = subprocess.Popen(command)
        assert answered.wait(30)
        assert process.wait(30) == -signal.SIGKILL

    again: list[httpx.Request] = []

    def accept(request: httpx.Request) -> httpx.Response:
        again.append(request)
        return httpx.Response(200)

    async def second_worker() -> Report:
        async with httpx.AsyncClient(transport=httpx.MockTransport(accept)) as client:
            later = datetime.now(UTC) + outbox.LEASE + SECOND
            return await deliver_due(sqlite_engine, client, later, random.Random(0), vault=vault)

    assert only_delivery(sqlite_engine)["state"] == "pending"
    assert asyncio.run(second_worker()) == Report(1, 0, 0)
    head, _, body = received[0].partition(b"\r\n\r\n")
    assert again[0].headers["webhook-id"].encode() in head
    assert again[0].content == body
