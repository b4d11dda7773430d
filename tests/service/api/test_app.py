"""The whole application: its machine-readable description and its headers."""

import re
from typing import Any

import pytest

from tests.service.api.client import TestClient


@pytest.fixture
def schema(stranger: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = stranger.get("/openapi.json").json()
    return found


def operations(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in schema["paths"].values() for operation in path.values()]


def test_each_operation_has_a_plain_name_and_one_sentence(schema: dict[str, Any]) -> None:
    names = [operation["operationId"] for operation in operations(schema)]

    assert schema["openapi"].startswith("3.1")
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)+", name) for name in names)
    assert all(re.fullmatch(r"[A-Z][^\n]+\.", operation["description"]) for operation in operations(schema))


def test_names_of_operations_stay_as_they_are_for_generated_clients(schema: dict[str, Any]) -> None:
    assert {operation["operationId"] for operation in operations(schema)} == {
        "list_gates",
        "get_gate",
        "get_forecast",
        "list_readings",
        "list_operations",
        "list_maintenance",
        "record_maintenance",
        "list_alerts",
        "get_alert",
        "acknowledge_alert",
        "resolve_alert",
        "create_webhook",
        "list_webhooks",
        "delete_webhook",
        "test_webhook",
        "rotate_webhook_secret",
        "replay_deliveries",
        "list_deliveries",
        "get_delivery",
        "list_quarantine",
        "list_models",
        "release_model",
        "check_alive",
        "check_ready",
        "show_metrics",
    }


def test_every_operation_describes_its_answer_and_the_one_shape_of_errors(schema: dict[str, Any]) -> None:
    for operation in operations(schema):
        good = next(answer for status, answer in operation["responses"].items() if status.startswith("2"))
        error = operation["responses"]["default"]["content"]["application/problem+json"]

        assert error["schema"]["$ref"].endswith("/Problem")
        assert "422" not in operation["responses"]
        if operation["operationId"] not in ("delete_webhook", "show_metrics"):
            assert "$ref" in good["content"]["application/json"]["schema"], operation["operationId"]


def test_every_reference_in_the_schema_leads_somewhere(schema: dict[str, Any]) -> None:
    named = set(re.findall(r"#/components/schemas/(\w+)", str(schema)))

    assert named <= set(schema["components"]["schemas"])


@pytest.mark.parametrize("path", ["/", "/login", "/docs", "/livez", "/api/v1/gates", "/static/console.css", "/nothing"])
def test_every_answer_carries_the_security_headers(stranger: TestClient, path: str) -> None:
    headers = stranger.get(path, follow_redirects=False).headers

    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert len(headers["x-request-id"]) == 36
