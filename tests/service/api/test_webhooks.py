"""Webhook endpoints: a secret is shown once, and what was sent can be looked up and sent again."""

import asyncio
import json
import logging
import random
from base64 import b64decode
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import standardwebhooks
from sqlalchemy.engine import Engine

from pipeline.historian import writing
from service import outbox, store
from service.outbox import Outcome
from service.webhooks.standard import Vault
from tests.service.api.client import TestClient
from tests.service.api.fleet import NOW, TEST
from tests.service.api.test_gates import all_pages

PATH = "/api/v1/webhooks"
WANTED = {"url": "https://hooks.example/sluice", "description": "control room", "event_types": ["alert.opened"]}


def test_a_secret_is_shown_once_and_never_again(
    client: TestClient, fleet_engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        answer = client.post(PATH, json=WANTED)
        made = answer.json()
        secret = made["secret"]
        others = [
            client.get(PATH),
            client.post(f"{PATH}/{made['endpoint_id']}/test"),
            client.get(f"{PATH}/{made['endpoint_id']}/deliveries"),
            client.get("/metrics"),
            client.get("/openapi.json"),
        ]
    with fleet_engine.connect() as connection:
        sealed = store.live_secrets(connection, made["endpoint_id"], NOW)
        audited = json.dumps([dict(row, at="") for row in store.list_audit(connection, subject=made["endpoint_id"])])

    assert answer.status_code == 201
    assert secret.startswith("whsec_")
    assert len(b64decode(secret.removeprefix("whsec_"))) == 32
    assert sealed == [b"sealed:" + secret.encode()[::-1]]
    assert all(secret not in other.text for other in others)
    assert secret not in caplog.text
    assert secret not in audited


def test_each_endpoint_has_a_secret_of_its_own(client: TestClient) -> None:
    assert client.post(PATH, json=WANTED).json()["secret"] != client.post(PATH, json=WANTED).json()["secret"]


def test_a_new_endpoint_is_unverified_and_gets_a_ping(client: TestClient) -> None:
    made = client.post(PATH, json=WANTED).json()

    deliveries = client.get(f"{PATH}/{made['endpoint_id']}/deliveries").json()["items"]
    assert made["state"] == "unverified"
    assert [(one["event_type"], one["state"]) for one in deliveries] == [("endpoint.ping", "pending")]


def test_an_endpoint_that_does_not_say_otherwise_gets_all_events_in_chinese(client: TestClient) -> None:
    made = client.post(PATH, json={"url": WANTED["url"]}).json()

    assert (made["event_types"], made["locale"]) == ([], "zh-CN")


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"event_types": ["alert.open"]}, "/body/event_types"),
        ({"locale": "fr"}, "/body/locale"),
        ({"secret": "mine"}, "/body/secret"),
        ({"url": ""}, "/body/url"),
    ],
)
def test_a_wrong_endpoint_is_refused_by_name(client: TestClient, change: dict[str, object], pointer: str) -> None:
    answer = client.post(PATH, json={**WANTED, **change})

    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


@pytest.mark.parametrize("url", ["http://hooks.example", "https://127.0.0.1/", "https://user:pw@x.example", "file:///etc"])
def test_an_address_that_must_not_be_called_is_refused(client: TestClient, url: str) -> None:
    answer = client.post(PATH, json={**WANTED, "url": url})

    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("webhook url:")


def test_a_deleted_endpoint_is_gone(client: TestClient) -> None:
    endpoint_id = client.post(PATH, json=WANTED).json()["endpoint_id"]

    answer = client.delete(f"{PATH}/{endpoint_id}")

    assert (answer.status_code, answer.content) == (204, b"")
    assert client.delete(f"{PATH}/{endpoint_id}").status_code == 404
    assert client.get(f"{PATH}/{endpoint_id}/deliveries").status_code == 404
    assert endpoint_id not in client.get(PATH).text


def test_deliveries_come_newest_first(client: TestClient) -> None:
    endpoint_id = client.get(PATH).json()["items"][0]["endpoint_id"]
    pinged = client.post(f"{PATH}/{endpoint_id}/test")

    found = all_pages(client, f"{PATH}/{endpoint_id}/deliveries", 3)

    assert pinged.status_code == 202
    assert found[0]["webhook_id"] == pinged.json()["webhook_id"]
    assert [one["event_type"] for one in found[-4:]] == ["alert.opened"] * 4
    assert len(found) == len({one["webhook_id"] for one in found}) == 8
    assert client.get(f"{PATH}/{endpoint_id}/deliveries?state=failed").json()["items"] == []


def verified_endpoint(client: TestClient) -> str:
    """The fleet's own receiver, to which four opened alerts are pending."""
    endpoint_id: str = client.get(PATH).json()["items"][0]["endpoint_id"]
    return endpoint_id


def answer_all(engine: Engine, status: int, now: datetime, body: bytes = b"") -> list[outbox.Claimed]:
    """Claim what is due and note the same answer to all of it."""
    claimed = outbox.claim(engine, now, worker="test")
    for one in claimed:
        error: outbox.Failure = "" if 200 <= status < 300 else "status"
        outbox.record(engine, one, Outcome(status, error, answer=body), now, random.Random(0))
    return claimed


def test_after_a_rotation_the_old_and_the_new_secret_both_sign_for_a_day(client: TestClient, fleet_engine: Engine) -> None:
    made = client.post(PATH, json=WANTED).json()
    endpoint_id = made["endpoint_id"]
    answer = client.post(f"{PATH}/{endpoint_id}/rotate")
    rotated = answer.json()
    received: list[httpx.Request] = []

    class Backwards(Vault):
        """Opens what the test application seals."""

        def open(self, sealed: bytes) -> str:
            return sealed.removeprefix(b"sealed:")[::-1].decode()

    def accept(request: httpx.Request) -> httpx.Response:
        received.append(request)
        return httpx.Response(200)

    async def send(claimed: outbox.Claimed) -> Outcome:
        async with httpx.AsyncClient(transport=httpx.MockTransport(accept)) as far_side:
            return await outbox.attempt(far_side, claimed, Backwards(Vault.new_key()), datetime.now(UTC))

    (ping,) = (one for one in outbox.claim(fleet_engine, NOW, worker="test") if one.endpoint_id == endpoint_id)
    asyncio.run(send(ping))
    with fleet_engine.connect() as connection:
        after_a_day = store.live_secrets(connection, endpoint_id, NOW + timedelta(hours=24, seconds=1))
        audited = store.list_audit(connection, subject=endpoint_id)

    (request,) = received
    assert answer.status_code == 200
    assert rotated["secret"] != made["secret"]
    assert rotated["old_secrets_sign_until"] == "2026-11-21T08:40:00Z"
    for secret in (made["secret"], rotated["secret"]):
        assert standardwebhooks.Webhook(secret).verify(request.content, dict(request.headers))["type"] == "endpoint.ping"
    assert after_a_day == [b"sealed:" + rotated["secret"].encode()[::-1]]
    assert (audited[0]["action"], audited[0]["actor"]) == ("endpoint.rotated", "Duty desk")
    assert rotated["secret"] not in str(audited)


def test_a_failed_delivery_that_is_replayed_is_due_again_as_the_same_message(client: TestClient, fleet_engine: Engine) -> None:
    endpoint_id = verified_endpoint(client)
    failed = answer_all(fleet_engine, 410, NOW - timedelta(days=2), b"gone \xff")
    with writing(fleet_engine) as connection:
        store.change_endpoint(connection, endpoint_id, {"state": "active"}, at=NOW, actor=TEST)
    one = failed[0]

    answer = client.post(f"{PATH}/{endpoint_id}/replay", json={"webhook_id": one.webhook_id})
    twice = client.post(f"{PATH}/{endpoint_id}/replay", json={"webhook_id": one.webhook_id})

    due = {again.webhook_id: again for again in outbox.claim(fleet_engine, NOW, worker="other")}
    with fleet_engine.connect() as connection:
        audited = store.list_audit(connection, subject=endpoint_id)
    assert (answer.status_code, answer.json(), twice.json()) == (202, {"queued": 1}, {"queued": 0})
    assert (due[one.webhook_id].body, due[one.webhook_id].attempt) == (one.body, 1)
    assert not due.keys() & {other.webhook_id for other in failed[1:]}
    assert audited[1]["action"] == "delivery.replayed"
    assert audited[1]["after"] == {"deliveries": 1, "webhook_id": one.webhook_id}


def test_what_failed_within_a_range_is_replayed_and_nothing_else(client: TestClient, fleet_engine: Engine) -> None:
    endpoint_id = verified_endpoint(client)
    path = f"{PATH}/{endpoint_id}/replay"
    failed = {one.webhook_id for one in answer_all(fleet_engine, 410, NOW - timedelta(days=2))}

    before = client.post(path, json={"since": "2026-11-10T00:00:00Z", "until": "2026-11-18T08:40:00Z"}).json()
    after = client.post(path, json={"since": "2026-11-18T16:40:00.001+08:00"}).json()
    within = client.post(path, json={"since": "2026-11-18T08:40:00Z", "until": "2026-11-18T08:40:00.001Z"}).json()

    pending = client.get(f"{PATH}/{endpoint_id}/deliveries?state=pending").json()["items"]
    assert len(failed) == 4
    assert (before, after, within) == ({"queued": 0}, {"queued": 0}, {"queued": 4})
    assert failed <= {one["webhook_id"] for one in pending}


@pytest.mark.parametrize(
    ("asked", "pointers"),
    [
        ({}, ["/body/since"]),
        ({"until": "2026-11-19T00:00:00Z"}, ["/body/since"]),
        ({"webhook_id": "msg_1", "since": "2026-11-19T00:00:00Z"}, ["/body/since"]),
        ({"since": "2026-11-06T08:39:59Z"}, ["/body/since"]),
        ({"since": "2026-01-01T00:00:00Z", "until": "2026-01-15T00:00:00.001Z"}, ["/body/since"]),
        ({"since": "2026-11-19T00:00:00Z", "until": "2026-11-19T00:00:00Z"}, ["/body/since"]),
        ({"since": "2026-11-21T00:00:00Z"}, ["/body/since"]),
        ({"since": "2026-11-19"}, ["/body/since"]),
        ({"webhook_ids": ["msg_1"]}, ["/body/webhook_ids"]),
    ],
)
def test_a_replay_of_both_neither_or_more_than_14_days_is_refused(
    client: TestClient, asked: dict[str, object], pointers: list[str]
) -> None:
    answer = client.post(f"{PATH}/{verified_endpoint(client)}/replay", json=asked)

    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == pointers


def test_a_replay_of_exactly_14_days_is_not_too_long(client: TestClient) -> None:
    answer = client.post(f"{PATH}/{verified_endpoint(client)}/replay", json={"since": "2026-11-06T08:40:00Z"})

    assert (answer.status_code, answer.json()) == (202, {"queued": 0})


def test_one_delivery_shows_what_was_sent_and_every_answer(client: TestClient, fleet_engine: Engine) -> None:
    first = answer_all(fleet_engine, 500, NOW, b"sorry \xff")[0]
    answer_all(fleet_engine, 204, NOW + timedelta(minutes=1))

    answer = client.get(f"{PATH}/{verified_endpoint(client)}/deliveries/{first.webhook_id}")

    shown = answer.json()
    assert answer.status_code == 200
    assert (shown["state"], shown["attempts"]) == ("delivered", 2)
    assert shown["body"].encode() == first.body
    assert [(one["attempt"], one["status"], one["error"], one["response"]) for one in shown["log"]] == [
        (1, 500, "status", "sorry \ufffd"),
        (2, 204, "", ""),
    ]


def test_another_endpoints_delivery_is_as_unknown_as_one_that_never_was(client: TestClient) -> None:
    other = client.post(PATH, json=WANTED).json()["endpoint_id"]
    mine = verified_endpoint(client)
    webhook_id = client.get(f"{PATH}/{mine}/deliveries").json()["items"][0]["webhook_id"]

    answers = [
        *(client.get(f"{PATH}/{endpoint}/deliveries/{one}") for endpoint, one in ((other, webhook_id), (mine, "nothing"))),
        *(
            client.post(f"{PATH}/{endpoint}/replay", json={"webhook_id": one})
            for endpoint, one in ((other, webhook_id), (mine, "nothing"))
        ),
        client.get(f"{PATH}/nothing/deliveries/{webhook_id}"),
        client.post(f"{PATH}/nothing/replay", json={"since": "2026-11-19T00:00:00Z"}),
        client.post(f"{PATH}/nothing/rotate"),
    ]

    assert [answer.status_code for answer in answers] == [404] * 7
    assert {answer.headers["content-type"] for answer in answers} == {"application/problem+json"}
    assert answers[0].json()["detail"] == answers[1].json()["detail"].replace("nothing", webhook_id)
