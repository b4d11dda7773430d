"""Health and metrics: what an orchestrator and a monitoring system rely on."""

import re
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.engine import Engine

from models.watch import AlarmRate
from pipeline import historian
from pipeline.historian import writing
from service import store
from service.api import health
from tests.service.api import fleet
from tests.service.api.client import TestClient


def test_all_is_well_in_a_running_house(stranger: TestClient) -> None:
    ready = stranger.get("/readyz")

    assert stranger.get("/livez").json() == {"status": "pass"}
    assert ready.status_code == 200
    assert {name: check["status"] for name, check in ready.json()["checks"].items()} == {
        "database": "pass",
        "data": "pass",
        "scoring": "pass",
        "model": "pass",
    }


def test_a_new_house_without_data_is_ready_but_warns(tmp_path: Path, registry: Path) -> None:
    engine = historian.connect(f"sqlite:///{tmp_path / 'new.sqlite'}")
    store.migrate(engine)
    ready = TestClient(fleet.make_app(engine, registry)).get("/readyz")
    engine.dispose()

    assert (ready.status_code, ready.json()["status"]) == (200, "warn")
    assert ready.json()["checks"]["data"] == {"status": "warn", "detail": "newest reading: none yet"}


def test_without_a_model_it_is_not_ready(fleet_engine: Engine, tmp_path: Path) -> None:
    ready = TestClient(fleet.make_app(fleet_engine, tmp_path / "empty")).get("/readyz")

    assert ready.status_code == 503
    assert ready.json()["checks"]["model"]["status"] == "fail"


def test_without_a_schema_it_is_not_ready(tmp_path: Path, registry: Path) -> None:
    engine = historian.connect(f"sqlite:///{tmp_path / 'bare.sqlite'}")
    client = TestClient(fleet.make_app(engine, registry))

    ready = client.get("/readyz")

    assert (ready.status_code, ready.json()["checks"]["database"]["status"]) == (503, "fail")
    assert client.get("/livez").status_code == 200
    engine.dispose()


def test_a_database_that_takes_no_write_is_seen_in_time(
    stranger: TestClient, fleet_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROBE_SECONDS", 0.3)
    with historian.writing(fleet_engine) as holder:
        historian.tally(holder, "held", 1)
        began = time.monotonic()
        ready = stranger.get("/readyz")
        took_s = time.monotonic() - began
        alive = stranger.get("/livez")

    assert (ready.status_code, ready.json()["status"]) == (503, "fail")
    assert took_s < 5
    assert alive.status_code == 200


def test_metrics_are_well_formed_and_named_as_agreed(stranger: TestClient) -> None:
    text = stranger.get("/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    value = {
        (sample.name, *sorted(sample.labels.items())): sample.value for family in families.values() for sample in family.samples
    }

    assert all(re.fullmatch(r"sluicewatch_[a-z0-9_]+", name) for name in families)
    assert all(family.documentation for family in families.values())
    assert value["sluicewatch_alerts_open", ("severity", "high")] == 3
    assert value["sluicewatch_alerts_open", ("severity", "critical")] == 0
    assert value["sluicewatch_alert_transitions_total", ("to", "opened")] == 4
    assert value["sluicewatch_alert_transitions_total", ("to", "acknowledged")] == 1
    assert value[("sluicewatch_gates_stale",)] == len(fleet.STALE)
    assert value[("sluicewatch_webhook_pending",)] == 7
    assert value[("sluicewatch_webhook_oldest_pending_seconds",)] == 2 * 86_400
    assert value["sluicewatch_model_info", ("sha256", "ab" * 32), ("version", fleet.VERSION)] == 1
    assert value[("sluicewatch_scoring_last_success_timestamp_seconds",)] == fleet.TODAY.timestamp() + 180
    assert 0 < value[("sluicewatch_disk_free_ratio",)] <= 1


def test_metrics_name_no_gate(stranger: TestClient) -> None:
    assert fleet.MEASURED not in stranger.get("/metrics").text


def test_metrics_tell_the_rate_of_false_alarms_beside_its_budget(stranger: TestClient, fleet_engine: Engine) -> None:
    assert "alarm_budget" not in stranger.get("/metrics").text

    with writing(fleet_engine) as connection:
        store.save_alarm_rate(connection, AlarmRate(fleet.TODAY, false_alarms=3, gate_years=24.0, budget_per_gate_year=0.2))

    text = stranger.get("/metrics").text
    assert "sluicewatch_false_alarms_per_gate_year 0.125\n" in text
    assert "sluicewatch_alarm_budget_per_gate_year 0.2\n" in text
