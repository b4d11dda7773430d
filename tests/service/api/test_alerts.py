"""Alerts over HTTP: the order of urgency, and what a person may do to one."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from pipeline.historian import writing
from service import store
from service.api import queries
from tests.service.api import fleet
from tests.service.api.client import TestClient
from tests.service.api.test_gates import all_pages

PATH = "/api/v1/alerts"


def test_the_most_urgent_alert_comes_first(client: TestClient, alert_ids: list[str]) -> None:
    motor, gearbox, brake, leaf = alert_ids
    found = client.get(PATH).json()["items"]

    order = [alert["alert_id"] for alert in found]
    assert [(alert["state"], alert["severity"]) for alert in found] == [
        ("open", "high"),
        ("open", "high"),
        ("open", "medium"),
        ("acknowledged", "high"),
    ]
    assert set(order[:2]) == {motor, brake}
    assert order[2:] == [leaf, gearbox]


def test_pages_of_alerts_follow_the_one_order_of_urgency(client: TestClient, fleet_engine: Engine) -> None:
    with writing(fleet_engine) as connection:
        known = queries.alerts_after(connection, states=None, severities=None, gate_id=None, after=None, limit=9)
        for n in range(40):
            made = replace(
                known[0],
                alert_id=f"alr_{n:02d}",
                gate_id=f"G{n}",
                state=("open", "acknowledged", "resolved")[n % 3],
                severity=("low", "medium", "high", "critical")[n % 4],
                respond_by=fleet.TODAY + timedelta(days=n % 5),
                opened_at=fleet.TODAY - timedelta(hours=n % 2),
            )
            connection.execute(sa.insert(store.alerts).values({name: getattr(made, name) for name in made.__slots__}))

    found = all_pages(client, PATH, 7)

    def urgency(alert: dict[str, Any]) -> Any:
        return (
            ("open", "acknowledged", "resolved").index(alert["state"]),
            ("critical", "high", "medium", "low").index(alert["severity"]),
            alert["respond_by"],
            alert["opened_at"],
            alert["alert_id"],
        )

    assert len(found) == 44
    assert found == sorted(found, key=urgency)


def test_alerts_can_be_asked_for_by_state_severity_and_gate(client: TestClient, alert_ids: list[str]) -> None:
    def ids(query: str) -> set[str]:
        return {alert["alert_id"] for alert in client.get(f"{PATH}?{query}").json()["items"]}

    motor, gearbox, brake, leaf = alert_ids
    assert ids("state=acknowledged") == {gearbox}
    assert ids("state=open&state=acknowledged&severity=high") == {motor, gearbox, brake}
    assert ids("severity=medium") == {leaf}
    assert ids(f"gate_id={fleet.MEASURED}") == {motor}
    assert ids("state=resolved") == set()


def test_an_alert_says_what_to_do_in_both_languages(client: TestClient, alert_ids: list[str]) -> None:
    alert = client.get(f"{PATH}/{alert_ids[0]}").json()

    assert alert["recommended_action"]["code"] == "inspect_motor_bearing"
    assert "bearing" in alert["recommended_action"]["text_en"]
    assert "轴承" in alert["recommended_action"]["text_zh"]
    assert alert["p_14d"] == pytest.approx(0.72, abs=1e-6)
    assert alert["curve"][13] == alert["p_14d"]
    assert alert["respond_by"] == "2026-11-22T00:00:00Z"
    assert alert["confidence"] == "not_yet_calibrated_here"


def test_acknowledging_says_who_and_tells_the_receivers(client: TestClient, fleet_engine: Engine, alert_ids: list[str]) -> None:
    answer = client.post(f"{PATH}/{alert_ids[0]}/acknowledge")

    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["acknowledged_by"]) == ("acknowledged", "Duty desk")
    assert answer.json()["acknowledged_at"] == "2026-11-20T08:40:00Z"
    with fleet_engine.connect() as connection:
        audited = store.list_audit(connection, subject=alert_ids[0])[0]
        sent = store.list_deliveries(connection, subject=alert_ids[0])
    assert (audited["action"], audited["source"]) == ("alert.acknowledged", "api")
    assert audited["request_id"] == answer.headers["x-request-id"]
    assert [row["event_type"] for row in sent] == ["alert.acknowledged", "alert.opened"]


def test_acknowledging_twice_is_a_conflict(client: TestClient, alert_ids: list[str]) -> None:
    client.post(f"{PATH}/{alert_ids[0]}/acknowledge")
    answer = client.post(f"{PATH}/{alert_ids[0]}/acknowledge")

    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert "is acknowledged" in answer.json()["detail"]


@pytest.mark.parametrize("which", [0, 1])
def test_resolving_keeps_the_finding(client: TestClient, alert_ids: list[str], which: int) -> None:
    found = {"finding": "confirmed_degradation", "note": "更换轴承"}
    resolved = client.post(f"{PATH}/{alert_ids[which]}/resolve", json=found).json()

    assert (resolved["state"], resolved["resolution"]) == ("resolved", "by_person")
    assert (resolved["finding"], resolved["note"], resolved["resolved_by"]) == (*found.values(), "Duty desk")
    record = client.get(f"/api/v1/maintenance?gate_id={resolved['gate_id']}").json()["items"][0]
    told = {name: record[name] for name in ("kind", "component", "finding", "alert_id", "note")}
    assert told == {"kind": "inspection", "component": resolved["component"], "alert_id": alert_ids[which], **found}
    assert record["started_at"] == record["ended_at"] == resolved["resolved_at"]


def test_a_resolved_alert_is_resolved_for_good(client: TestClient, alert_ids: list[str]) -> None:
    path, found = f"{PATH}/{alert_ids[0]}", {"finding": "false_alarm"}
    client.post(f"{path}/resolve", json=found)

    assert client.post(f"{path}/resolve", json=found).status_code == 409
    assert client.post(f"{path}/acknowledge").status_code == 409
    assert client.get(f"/api/v1/gates/{fleet.MEASURED}").json()["state"] == "normal"


@pytest.mark.parametrize("body", [{}, {"finding": "maybe"}, {"finding": "false_alarm", "x": 1}, {"finding": None}])
def test_resolving_needs_a_known_finding(client: TestClient, alert_ids: list[str], body: dict[str, Any]) -> None:
    assert client.post(f"{PATH}/{alert_ids[0]}/resolve", json=body).status_code == 422


def test_reading_alerts_does_not_allow_acknowledging(
    connect: Callable[..., TestClient], client: TestClient, alert_ids: list[str]
) -> None:
    assert connect("alerts:read").post(f"{PATH}/{alert_ids[0]}/acknowledge").status_code == 403
    assert client.get(f"{PATH}/{alert_ids[0]}").json()["state"] == "open"
