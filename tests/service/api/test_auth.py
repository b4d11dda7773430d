"""Deny by default: every API route declares a scope, and refuses whoever lacks it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from sqlalchemy.engine import Engine

from service.api import keys
from tests.service.api import fleet
from tests.service.api.client import TestClient

OPEN = {"/livez", "/readyz", "/metrics", "/docs", "/openapi.json", "/static", "/login", "/problems/{code}"}
SCOPES = {
    ("GET", "/api/v1/gates"): "gates:read",
    ("GET", "/api/v1/gates/{gate_id}"): "gates:read",
    ("GET", "/api/v1/gates/{gate_id}/forecast"): "gates:read",
    ("GET", "/api/v1/gates/{gate_id}/readings"): "gates:read",
    ("GET", "/api/v1/gates/{gate_id}/operations"): "gates:read",
    ("GET", "/api/v1/maintenance"): "gates:read",
    ("POST", "/api/v1/maintenance"): "feedback:write",
    ("GET", "/api/v1/alerts"): "alerts:read",
    ("GET", "/api/v1/alerts/{alert_id}"): "alerts:read",
    ("POST", "/api/v1/alerts/{alert_id}/acknowledge"): "alerts:write",
    ("POST", "/api/v1/alerts/{alert_id}/resolve"): "alerts:write",
    ("GET", "/api/v1/webhooks"): "webhooks:admin",
    ("POST", "/api/v1/webhooks"): "webhooks:admin",
    ("DELETE", "/api/v1/webhooks/{endpoint_id}"): "webhooks:admin",
    ("POST", "/api/v1/webhooks/{endpoint_id}/test"): "webhooks:admin",
    ("POST", "/api/v1/webhooks/{endpoint_id}/rotate"): "webhooks:admin",
    ("POST", "/api/v1/webhooks/{endpoint_id}/replay"): "webhooks:admin",
    ("GET", "/api/v1/webhooks/{endpoint_id}/deliveries"): "webhooks:admin",
    ("GET", "/api/v1/webhooks/{endpoint_id}/deliveries/{webhook_id}"): "webhooks:admin",
    ("GET", "/api/v1/quarantine"): "gates:read",
    ("GET", "/api/v1/models"): "models:read",
    ("POST", "/api/v1/models/release"): "models:activate",
}


def routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Every (method, path) the application answers, wherever it is declared."""
    for context in iter_route_contexts(app.routes):
        for method in (context.methods or {"GET"}) - {"HEAD"}:
            yield method, str(context.path)


def call(client: TestClient, method: str, path: str) -> Any:
    for name in ("gate_id", "alert_id", "endpoint_id", "webhook_id"):
        path = path.replace("{" + name + "}", "nothing")
    return client.request(method, path, follow_redirects=False)


def test_every_route_is_open_on_purpose_or_declares_a_scope(stranger: TestClient) -> None:
    paths = stranger.get("/openapi.json").json()["paths"]
    declared = {
        (method.upper(), path): scope
        for path, operations in paths.items()
        for method, operation in operations.items()
        for need in operation.get("security", [])
        for scope in need["ApiKey"]
    }
    app = stranger.app
    assert isinstance(app, FastAPI)
    api = {route for route in routes(app) if route[1].startswith("/api/")}
    others = {path for _, path in routes(app) if not path.startswith("/api/") and path not in OPEN}

    assert declared == SCOPES
    assert api == set(SCOPES)
    assert others == {"/", "/logout", "/gates/{gate_id}", "/alerts/{alert_id}"} | {
        f"/alerts/{{alert_id}}/{step}" for step in ("acknowledge", "resolve")
    }


def test_without_a_key_every_route_answers_401(stranger: TestClient) -> None:
    for method, path in SCOPES:
        answer = call(stranger, method, path)

        assert answer.status_code == 401, path
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.json()["code"] == "unauthenticated"


def test_a_key_with_every_scope_but_the_needed_one_gets_403(connect: Callable[..., TestClient]) -> None:
    for needed in keys.SCOPES:
        client = connect(*(scope for scope in keys.SCOPES if scope != needed))
        for method, path in (route for route, scope in SCOPES.items() if scope == needed):
            answer = call(client, method, path)

            assert answer.status_code == 403, path
            assert needed in answer.json()["detail"]


def test_the_declared_scope_alone_is_enough(connect: Callable[..., TestClient]) -> None:
    for needed in keys.SCOPES:
        client = connect(needed)
        for method, path in (route for route, scope in SCOPES.items() if scope == needed):
            assert call(client, method, path).status_code not in (401, 403), path


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer x", "Basic Z2s6", "Bearer gk_a_b_c", "bearer gk_ÿ"])
def test_a_malformed_key_is_401(stranger: TestClient, header: str) -> None:
    answer = stranger.get("/api/v1/gates", headers={"Authorization": header.encode("latin-1")})

    assert answer.status_code == 401


def test_a_key_in_the_address_is_not_taken(stranger: TestClient, fleet_engine: Engine) -> None:
    key = fleet.make_key(fleet_engine)

    assert stranger.get(f"/api/v1/gates?key={key.text}").status_code == 401


def test_an_unknown_query_parameter_is_refused(client: TestClient) -> None:
    answer = client.get("/api/v1/alerts?sate=open")

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/query/sate"
    assert "state" in answer.json()["detail"]
