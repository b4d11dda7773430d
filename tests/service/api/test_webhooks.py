"""Webhook endpoints: the secret is shown once, and what was sent can be looked up."""

import json
import logging
from base64 import b64decode

import pytest
from sqlalchemy.engine import Engine

from service import store
from tests.service.api.client import TestClient
from tests.service.api.fleet import NOW
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
