"""Maintenance records: what may be recorded, what is refused and why."""

from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from pipeline import historian
from service import store
from tests.service.api.client import TestClient
from tests.service.api.fleet import MEASURED
from tests.service.api.test_gates import all_pages

PATH = "/api/v1/maintenance"
RECORD: dict[str, Any] = {"gate_id": MEASURED, "kind": "repair", "started_at": "2026-11-19T16:00:00+08:00"}


def test_a_record_is_kept_as_given(client: TestClient, fleet_engine: Engine, alert_ids: list[str]) -> None:
    whole = {
        **RECORD,
        "component": "motor",
        "failure_mode": "motor_bearing",
        "ended_at": "2026-11-20T07:30:00Z",
        "finding": "confirmed_degradation",
        "alert_id": alert_ids[0],
        "note": "轴承剥落",
    }

    answer = client.post(PATH, json=whole)

    made = answer.json()
    assert answer.status_code == 201
    assert made["started_at"] == "2026-11-19T08:00:00Z"
    assert made["recorded_at"] == "2026-11-20T08:40:00Z"
    with fleet_engine.connect() as connection:
        row = connection.execute(
            sa.select(historian.maintenance).where(historian.maintenance.c.maintenance_id == made["maintenance_id"])
        ).one()
        audited = store.list_audit(connection, subject=MEASURED)[0]
    assert (row.component, row.kind, row.finding, row.note) == ("motor", "repair", "confirmed_degradation", "轴承剥落")
    assert row.started_at == datetime(2026, 11, 19, 8, tzinfo=UTC)
    assert (audited["action"], audited["actor"], audited["source"]) == ("maintenance.recorded", "Duty desk", "api")
    assert client.get(f"{PATH}?gate_id={MEASURED}").json()["items"][0] == made


def test_what_is_not_given_means_the_whole_gate_and_not_ended(client: TestClient) -> None:
    made = client.post(PATH, json=RECORD).json()

    assert (made["component"], made["ended_at"], made["finding"], made["alert_id"]) == ("", None, None, None)


@pytest.mark.parametrize(
    ("change", "pointer", "code"),
    [
        ({"gate_id": "DSH-S9-G9"}, "/body/gate_id", "unknown_gate"),
        ({"gate_id": "no gate"}, "/body/gate_id", "string_pattern_mismatch"),
        ({"kind": "overhaul"}, "/body/kind", "literal_error"),
        ({"finding": "broken"}, "/body/finding", "literal_error"),
        ({"component": "drum"}, "/body/component", "unknown_component"),
        ({"alert_id": "alr_none"}, "/body/alert_id", "unknown_alert"),
        ({"ended_at": "2026-11-19T07:59:59Z"}, "/body/ended_at", "ends_before_start"),
        ({"started_at": "2026-11-20T08:45:01Z"}, "/body/started_at", "in_future"),
        ({"ended_at": "2026-11-20T09:00:00Z"}, "/body/ended_at", "in_future"),
        ({"started_at": "2026-11-19T16:00:00"}, "/body/started_at", "value_error"),
        ({"started_at": 1_763_539_200}, "/body/started_at", "value_error"),
        ({"started_at": "2026-11-31T16:00:00Z"}, "/body/started_at", "datetime_from_date_parsing"),
        ({"note": "x" * 1001}, "/body/note", "string_too_long"),
        ({"notes": "x"}, "/body/notes", "extra_forbidden"),
        ({"failure_mode": "Worn out!"}, "/body/failure_mode", "string_pattern_mismatch"),
    ],
)
def test_a_wrong_record_is_refused_by_name(client: TestClient, change: dict[str, Any], pointer: str, code: str) -> None:
    answer = client.post(PATH, json={**RECORD, **change})

    assert answer.status_code == 422
    assert [(error["pointer"], error["code"]) for error in answer.json()["errors"]] == [(pointer, code)]
    assert len(client.get(PATH).json()["items"]) == 2


def test_an_alert_of_another_gate_is_refused(client: TestClient, alert_ids: list[str]) -> None:
    assert client.post(PATH, json={**RECORD, "alert_id": alert_ids[1]}).status_code == 422


def test_all_that_is_wrong_is_told_at_once(client: TestClient) -> None:
    wrong = {**RECORD, "component": "drum", "alert_id": "alr_none", "started_at": "2027-01-01T00:00:00Z"}

    errors = client.post(PATH, json=wrong).json()["errors"]

    assert {error["pointer"] for error in errors} == {"/body/component", "/body/alert_id", "/body/started_at"}


def test_records_come_newest_first_also_where_they_began_together(client: TestClient) -> None:
    for _ in range(3):
        assert client.post(PATH, json=RECORD).status_code == 201

    ids = [record["maintenance_id"] for record in all_pages(client, PATH, 2)]

    assert ids == [5, 4, 3, 2, 1]


def test_records_can_be_asked_for_by_kind(client: TestClient) -> None:
    found = client.get(f"{PATH}?kind=lubrication").json()["items"]

    assert [record["component"] for record in found] == ["motor"]
