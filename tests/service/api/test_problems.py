"""Every error is a problem body (RFC 9457), says no more than it may, and carries a request id."""

import logging
import uuid
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy.exc import OperationalError

from service.api.envelope import BODY_LIMIT_BYTES
from service.api.problems import KINDS
from tests.service.api.client import TestClient


def check_problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    """RFC 9457: media type, the members, and status twice the same."""
    body: dict[str, Any] = answer.json()
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "instance", "code", "request_id", "errors"} == set(body)
    assert (body["status"], body["code"], body["type"]) == (status, code, f"/problems/{code}")
    assert body["request_id"] == answer.headers.get("x-request-id", body["request_id"])
    assert uuid.UUID(body["request_id"])
    return body


CASES = [
    ("GET", "/api/v1/nothing", None, 404, "not_found"),
    ("GET", "/nothing", None, 404, "not_found"),
    ("GET", "/static/nothing.js", None, 404, "not_found"),
    ("PUT", "/api/v1/gates", None, 405, "method_not_allowed"),
    ("POST", "/livez", None, 405, "method_not_allowed"),
    ("GET", "/api/v1/gates/DSH-S9-G9", None, 404, "not_found"),
    ("GET", "/api/v1/gates/%20", None, 422, "invalid"),
    ("GET", "/api/v1/gates/DSH-S9-G9/forecast", None, 404, "not_found"),
    ("GET", "/api/v1/gates/DSH-S9-G9/readings", None, 404, "not_found"),
    ("GET", "/api/v1/gates/DSH-S9-G9/operations", None, 404, "not_found"),
    ("GET", "/api/v1/gates/DSH-S3-G1/readings?from=yesterday", None, 422, "invalid"),
    ("GET", "/api/v1/gates?limit=0", None, 422, "invalid"),
    ("GET", "/api/v1/gates?limit=501", None, 422, "invalid"),
    ("GET", "/api/v1/gates?state=fine", None, 422, "invalid"),
    ("GET", "/api/v1/gates?cursor=AAAA", None, 400, "bad_cursor"),
    ("GET", "/api/v1/maintenance?kind=holiday", None, 422, "invalid"),
    ("GET", "/api/v1/alerts/alr_none", None, 404, "not_found"),
    ("GET", "/api/v1/alerts?state=closed", None, 422, "invalid"),
    ("POST", "/api/v1/alerts/alr_none/acknowledge", None, 404, "not_found"),
    ("POST", "/api/v1/alerts/alr_none/resolve", b"{}", 422, "invalid"),
    ("POST", "/api/v1/alerts/alr_none/resolve", b'{"finding": "false_alarm"}', 404, "not_found"),
    ("POST", "/api/v1/webhooks", b'{"url": "ftp://x.example"}', 422, "invalid"),
    ("POST", "/api/v1/webhooks", b'{"url": ', 400, "bad_request"),
    ("DELETE", "/api/v1/webhooks/ep_none", None, 404, "not_found"),
    ("POST", "/api/v1/webhooks/ep_none/test", None, 404, "not_found"),
    ("GET", "/api/v1/webhooks/ep_none/deliveries", None, 404, "not_found"),
    ("POST", "/api/v1/maintenance", b"[]", 422, "invalid"),
    ("POST", "/api/v1/maintenance", b"", 422, "invalid"),
    ("POST", "/api/v1/maintenance", b" " * (BODY_LIMIT_BYTES + 1), 413, "too_large"),
    ("GET", "/problems/nothing", None, 404, "not_found"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "code"), CASES)
def test_an_error_is_a_problem(client: TestClient, method: str, path: str, body: bytes | None, status: int, code: str) -> None:
    answer = client.request(method, path, content=body, headers={"Content-Type": "application/json"})

    check_problem(answer, status, code)


def test_a_body_without_a_declared_length_is_limited_too(client: TestClient) -> None:
    chunks = (b" " * 100_000 for _ in range(11))

    check_problem(client.post("/api/v1/maintenance", content=chunks), 413, "too_large")


def test_the_allowed_methods_are_told(client: TestClient) -> None:
    assert client.put("/livez").headers["Allow"] == "GET"


def test_a_fault_of_ours_is_told_without_its_cause(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    app = client.app
    assert isinstance(app, FastAPI)

    @app.get("/api/broken")
    def broken() -> None:
        raise RuntimeError("the cause")

    with caplog.at_level(logging.ERROR):
        answer = client.get("/api/broken")

    body = check_problem(answer, 500, "internal")
    assert "the cause" not in answer.text
    assert "Traceback" not in answer.text
    assert body["request_id"] in caplog.text
    assert answer.headers["content-security-policy"]


def test_a_database_that_does_not_answer_is_503(client: TestClient) -> None:
    app = client.app
    assert isinstance(app, FastAPI)

    @app.get("/api/locked")
    def locked() -> None:
        raise OperationalError("SELECT secret", {}, Exception("database is locked"))

    answer = client.get("/api/locked")

    check_problem(answer, 503, "unavailable")
    assert answer.headers["Retry-After"] == "5"
    assert "SELECT" not in answer.text


def test_a_refused_body_is_not_repeated_in_the_answer(client: TestClient) -> None:
    answer = client.post("/api/v1/webhooks", json={"url": ["hunter2"], "secret": "hunter2"})

    body = check_problem(answer, 422, "invalid")
    assert {error["pointer"] for error in body["errors"]} == {"/body/url", "/body/secret"}
    assert "hunter2" not in answer.text


@pytest.mark.parametrize("code", KINDS)
def test_each_kind_of_problem_has_its_page(client: TestClient, code: str) -> None:
    answer = client.get(f"/problems/{code}")

    assert answer.status_code == 200
    assert KINDS[code].meaning in answer.text


def test_a_browser_gets_a_page_and_the_api_never_answers_with_one(client: TestClient) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml"}

    assert client.get("/nothing", headers=browser).headers["content-type"].startswith("text/html")
    check_problem(client.get("/api/v1/nothing", headers=browser), 404, "not_found")
