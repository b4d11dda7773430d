"""What the system keeps of itself: quarantine and models."""

from pathlib import Path

import pytest
from sqlalchemy.engine import Engine

from models.watch import AlarmRate
from pipeline.historian import writing
from service import store
from tests.service.api import fleet
from tests.service.api.client import TestClient
from tests.service.api.test_gates import all_pages


def test_the_quarantine_shows_the_reason_and_the_bytes_as_text(client: TestClient) -> None:
    found = client.get("/api/v1/quarantine").json()["items"]

    assert [row["detail"] for row in found] == ["message 2", "message 1", "message 0"]
    assert {row["reason"] for row in found} == {"not_json"}
    assert found[0]["payload"] == '{"t": \ufffd'


def test_the_quarantine_can_be_paged_and_asked_for_a_reason(client: TestClient, fleet_engine: Engine) -> None:
    with writing(fleet_engine) as connection:
        fleet.add_quarantine(connection, 9)

    assert [row["quarantine_id"] for row in all_pages(client, "/api/v1/quarantine", 5)] == list(range(12, 0, -1))
    assert client.get("/api/v1/quarantine?reason=wrong_unit").json() == {"items": [], "next": None}


def test_a_model_is_listed_with_its_aliases_and_threshold(client: TestClient) -> None:
    assert client.get("/api/v1/models").json()["items"] == [
        {
            "version": fleet.VERSION,
            "aliases": ["champion"],
            "sha256": "ab" * 32,
            "created_at": "2026-11-01T00:00:00Z",
            "open_at": 0.4,
            "calibration": "not yet calibrated here",
            "budget_per_gate_year": 0.2,
            "alarm_rate": None,
            "drift": {
                "status": "no reference",
                "since": None,
                "as_of": None,
                "features": {},
                "gates_unlike": [],
                "suggests_training": False,
            },
            "on_hold": None,
        }
    ]


def test_the_champion_is_listed_with_the_false_alarms_it_makes_here(client: TestClient, fleet_engine: Engine) -> None:
    with writing(fleet_engine) as connection:
        store.save_alarm_rate(connection, AlarmRate(fleet.TODAY, false_alarms=9, gate_years=18.0, budget_per_gate_year=0.2))

    rate = client.get("/api/v1/models").json()["items"][0]["alarm_rate"]

    assert rate.pop("lower_per_gate_year") == pytest.approx(0.302, abs=0.001)  # qchisq(0.1, 18) / 2 / 18
    assert rate == {
        "as_of": "2026-11-20T00:00:00Z",
        "false_alarms": 9,
        "gate_years": 18.0,
        "per_gate_year": 0.5,
        "budget_per_gate_year": 0.2,
        "is_over_budget": True,
    }


def test_a_registry_that_cannot_be_read_lists_nothing_and_is_not_ready(client: TestClient, registry: Path) -> None:
    (registry / "aliases.json").write_text("{")

    assert client.get("/api/v1/models").json()["items"] == []
    assert client.get("/readyz").json()["checks"]["model"]["status"] == "fail"


def test_a_model_on_hold_is_told_everywhere_until_a_person_releases_it(
    client: TestClient, fleet_engine: Engine, alert_ids: list[str]
) -> None:
    fleet.put_on_hold(fleet_engine, alert_ids[:2])
    on_hold = client.get("/api/v1/models").json()["items"][0]["on_hold"]
    ready = client.get("/readyz").json()["checks"]["model"]
    held = {item["alert_id"]: item["held"] for item in client.get("/api/v1/alerts").json()["items"]}
    figures = client.get("/metrics").text

    answer = client.post("/api/v1/models/release", json={"reason": "seen on site"})

    assert on_hold == {
        "since": "2026-11-20T08:40:00Z",
        "as_of": "2026-11-20T00:00:00Z",
        "gates": 9,
        "gates_with_verdict": 21,
        "alerts_held": 2,
    }
    assert ready == {
        "status": "warn",
        "detail": f"{fleet.VERSION} on hold since 2026-11-20T08:40:00Z: nobody is told of 2 alerts",
    }
    assert held == {alert_id: alert_id in alert_ids[:2] for alert_id in alert_ids}
    assert "sluicewatch_model_on_hold 1.0" in figures
    assert "sluicewatch_alerts_held 2.0" in figures
    assert (answer.status_code, answer.json()) == (200, {"told": 2, "dropped": 0})
    assert client.get("/api/v1/models").json()["items"][0]["on_hold"] is None
    assert not any(item["held"] for item in client.get("/api/v1/alerts").json()["items"])
    with fleet_engine.connect() as connection:
        (row, *_) = store.list_audit(connection)
    assert (row["action"], row["source"], row["after"]["reason"]) == ("model.released", "api", "seen on site")


def test_a_release_needs_a_hold_and_a_reason(client: TestClient) -> None:
    assert client.post("/api/v1/models/release", json={"reason": "why not"}).status_code == 409
    assert client.post("/api/v1/models/release", json={"reason": " "}).status_code == 422


def test_drift_is_shown_with_the_champion_and_as_a_metric(fleet_engine: Engine, tmp_path: Path) -> None:
    app = fleet.make_app(fleet_engine, fleet.write_registry(tmp_path / "with", reference=True))
    client = TestClient(app, headers={"Authorization": f"Bearer {fleet.make_key(fleet_engine).text}"})
    before = client.get("/api/v1/models").json()["items"][0]["drift"]
    fleet.put_drift(fleet_engine)

    drift = client.get("/api/v1/models").json()["items"][0]["drift"]

    assert before["status"] == "not enough data"
    assert (drift["status"], drift["since"], drift["as_of"]) == ("drift", "2026-11-18T20:40:00Z", "2026-11-20T00:00:00Z")
    assert (drift["features"]["gearbox_velocity_z"]["psi"], drift["features"]["hydraulic_velocity_z"]["psi"]) == (0.5, None)
    assert (drift["gates_unlike"], drift["suggests_training"]) == (["DSH-S1-G1"], False)
    metrics = client.get("/metrics").text
    assert 'sluicewatch_drift_psi_ratio{feature="gearbox_velocity_z"} 2.5' in metrics
    assert "hydraulic_velocity_z" not in metrics
