"""Gates, forecasts, readings and operations over HTTP, compared with what the fleet was filled with."""

import statistics
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from pipeline import burst_files, historian
from pipeline.historian import to_ms, writing
from pipeline.waveforms import burst_path
from service import silence_watch, store
from service.alerts import open_notice
from service.api import queries
from tests.service.api import fleet
from tests.service.api.client import TestClient
from tests.service.api.fleet import AT_RISK, DAY, IDLE, MEASURED, NOW, STALE, TODAY


def utc(text: str) -> datetime:
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


def all_pages(client: TestClient, path: str, limit: int) -> list[dict[str, Any]]:
    """Follow `next` to the end."""
    items, cursor = [], ""
    while True:
        joint = "&" if "?" in path else "?"
        page = client.get(f"{path}{joint}limit={limit}{cursor}").json()
        assert len(page["items"]) <= limit
        items += page["items"]
        if page["next"] is None:
            return items
        cursor = f"&cursor={page['next']}"


def test_each_gate_says_how_it_stands(client: TestClient) -> None:
    gates = {gate["gate_id"]: gate for gate in client.get("/api/v1/gates?limit=500").json()["items"]}

    at_risk = {gate_id for gate_id, _ in AT_RISK}
    assert len(gates) == 24
    assert {gate_id for gate_id, gate in gates.items() if gate["state"] == "at_risk"} == at_risk
    assert {gate_id for gate_id, gate in gates.items() if gate["state"] == "stale"} == set(STALE)
    assert {gate_id: gates[gate_id]["reason"] for gate_id in IDLE} == dict.fromkeys(IDLE, "idle")
    assert gates[IDLE[0]]["state"] == "no_verdict"
    assert gates["DSH-S4-G1"]["state"] == "normal"
    assert gates[MEASURED]["severity"] == "high"
    assert gates[MEASURED]["p_14d"] == pytest.approx(0.74, abs=1e-6)
    assert gates[IDLE[0]]["p_14d"] is None
    assert utc(gates[MEASURED]["as_of"]) == TODAY


def test_pages_hold_every_gate_once_in_order(client: TestClient) -> None:
    ids = [gate["gate_id"] for gate in all_pages(client, "/api/v1/gates", 7)]

    assert ids == sorted(ids)
    assert len(ids) == len(set(ids)) == 24


def test_gates_can_be_asked_for_by_state_and_station(client: TestClient) -> None:
    stale = all_pages(client, "/api/v1/gates?state=stale", 1)
    of_station = all_pages(client, "/api/v1/gates?station_id=DSH-S3", 2)

    assert [gate["gate_id"] for gate in stale] == list(STALE)
    assert [gate["gate_id"] for gate in of_station] == ["DSH-S3-G1", "DSH-S3-G2", "DSH-S3-G3"]


def test_a_cursor_serves_its_own_query_only(client: TestClient) -> None:
    cursor = client.get("/api/v1/gates?limit=2").json()["next"]

    assert client.get(f"/api/v1/gates?limit=2&cursor={cursor}").status_code == 200
    assert client.get(f"/api/v1/gates?limit=2&state=normal&cursor={cursor}").status_code == 400
    assert client.get(f"/api/v1/alerts?cursor={cursor}").status_code == 400
    assert client.get(f"/api/v1/gates?limit=2&cursor={cursor[:-4]}").status_code == 400


GATE = {"gate_id": "G", "last_seen_ms": to_ms(NOW), "connection": None, "connection_at": None}
OFFLINE = {**GATE, "connection": "offline", "connection_at": NOW}
FORECAST = {"verdict": "forecast", "reason": "", "as_of": TODAY}


@pytest.mark.parametrize(
    ("gate", "forecast", "expected"),
    [
        (GATE, FORECAST, ("normal", "")),
        (GATE, None, ("no_verdict", "not_scored")),
        (GATE, {**FORECAST, "verdict": "no_verdict", "reason": "young"}, ("no_verdict", "young")),
        (GATE, {**FORECAST, "as_of": NOW - timedelta(days=2, seconds=1)}, ("no_verdict", "outdated")),
        (GATE, {**FORECAST, "as_of": NOW - timedelta(days=2)}, ("normal", "")),
        ({**GATE, "last_seen_ms": to_ms(NOW - DAY)}, FORECAST, ("stale", "stale")),
        ({**GATE, "last_seen_ms": to_ms(NOW - DAY) + 1}, FORECAST, ("normal", "")),
        ({**GATE, "last_seen_ms": None}, FORECAST, ("stale", "stale")),
        (OFFLINE, FORECAST, ("stale", "offline")),
        ({**OFFLINE, "last_seen_ms": to_ms(NOW) + 1}, FORECAST, ("normal", "")),
        ({**GATE, "connection": "online", "connection_at": NOW}, FORECAST, ("normal", "")),
    ],
)
def test_what_is_not_known_is_never_normal(
    gate: dict[str, Any], forecast: dict[str, Any] | None, expected: tuple[str, str]
) -> None:
    found = queries.standing(gate, forecast, [], NOW)

    assert (found.state, found.reason) == expected


def test_a_gate_at_risk_stays_so_when_its_data_stops(client: TestClient, fleet_engine: Engine) -> None:
    with writing(fleet_engine) as connection:
        silent = sa.update(historian.gates).values(last_seen_ms=to_ms(NOW - 3 * DAY))
        connection.execute(silent.where(historian.gates.c.gate_id == MEASURED))

    gate = client.get(f"/api/v1/gates/{MEASURED}").json()

    assert (gate["state"], gate["data_stale"]) == ("at_risk", True)


def test_a_gate_whose_silence_was_told_of_is_stale_until_it_speaks_again(client: TestClient, fleet_engine: Engine) -> None:
    def heard(at: datetime) -> tuple[str, bool, bool]:
        with writing(fleet_engine) as connection:
            seen = sa.update(historian.gates).values(last_seen_ms=to_ms(at))
            connection.execute(seen.where(historian.gates.c.gate_id == "DSH-S4-G1"))
        gate = client.get(f"/api/v1/gates/{'DSH-S4-G1'}").json()
        listed = next(one for one in client.get("/api/v1/gates").json()["items"] if one["gate_id"] == "DSH-S4-G1")
        return gate["state"], gate["data_stale"], listed["data_stale"]

    before = heard(NOW - timedelta(hours=2))
    with writing(fleet_engine) as connection:
        notice = open_notice(silence_watch.STALE, "DSH-S4-G1", NOW - timedelta(hours=1), gate_id="DSH-S4-G1", detail={})
        store.save_notice(connection, notice, actor=store.SCORING)

    assert before == ("normal", False, False)
    assert heard(NOW - timedelta(hours=2)) == ("stale", True, True)
    assert heard(NOW - timedelta(minutes=1)) == ("normal", False, False)


def test_a_gate_shows_its_station_components_and_channels(client: TestClient) -> None:
    gate = client.get(f"/api/v1/gates/{MEASURED}").json()

    assert gate["station"]["time_zone"] == "Asia/Shanghai"
    assert [one["component"] for one in gate["components"]] == ["brake", "gearbox", "leaf", "motor", "screw"]
    assert {one["key"]: one["unit"] for one in gate["channels"]} == {
        "gearbox.oil.temperature": "degC",
        "gearbox.velocity_rms": "mm/s",
        "leaf.velocity_rms": "mm/s",
        "motor.bearing_de.temperature": "degC",
        "motor.moving": "1",
        "motor.velocity_rms": "mm/s",
        "motor.winding.temperature": "degC",
    }


def test_a_forecast_has_the_gate_and_each_component_with_the_whole_curve(client: TestClient) -> None:
    forecast = client.get(f"/api/v1/gates/{MEASURED}/forecast").json()

    motor = next(row for row in forecast["components"] if row["component"] == "motor")
    assert utc(forecast["as_of"]) == TODAY
    assert forecast["model_version"] == fleet.VERSION
    assert forecast["gate"]["component"] == ""
    assert motor["curve"] == fleet.curve_to(0.72)
    assert motor["p_14d"] == motor["curve"][13]
    assert (motor["failure_mode"], motor["failure_mode_share"]) == ("motor_bearing", fleet.MODE_SHARE)
    assert next(row for row in forecast["components"] if row["component"] == "leaf")["failure_mode_share"] is None


def test_a_forecast_says_which_sensors_it_did_not_believe(client: TestClient) -> None:
    forecast = client.get(f"/api/v1/gates/{MEASURED}/forecast").json()

    drift = {"channel": "gearbox.oil.temperature", "kind": "drift", "ne107": "out_of_specification"}
    stuck = {"channel": "motor.velocity_rms", "kind": "stuck", "ne107": "failure"}
    lost = {row["component"]: row["lost_channels"] for row in forecast["components"]}
    assert forecast["gate"]["lost_channels"] == [drift, stuck]
    assert lost == {"motor": [stuck], "gearbox": [drift], "brake": [], "leaf": []}


def test_a_forecast_without_verdict_says_why_and_gives_no_number(client: TestClient) -> None:
    gate = client.get(f"/api/v1/gates/{IDLE[0]}/forecast").json()["gate"]

    assert (gate["verdict"], gate["reason"]) == ("no_verdict", "idle")
    assert {gate[name] for name in ("p_7d", "p_14d", "p_21d", "ttf_p50_d")} == {None}
    assert gate["curve"] is None


@pytest.mark.parametrize(
    ("as_of", "expected"),
    [
        ("2026-11-19T00:00:00Z", TODAY - DAY),
        ("2026-11-19T23:59:59%2B08:00", TODAY - DAY),
        ("2026-11-19T07:59:59%2B08:00", TODAY - 2 * DAY),
    ],
)
def test_an_earlier_forecast_can_be_asked_for(client: TestClient, as_of: str, expected: datetime) -> None:
    assert utc(client.get(f"/api/v1/gates/{MEASURED}/forecast?as_of={as_of}").json()["as_of"]) == expected


def test_a_gate_without_a_forecast_that_early_is_404(client: TestClient) -> None:
    assert client.get(f"/api/v1/gates/{MEASURED}/forecast?as_of=2026-01-01T00:00:00Z").status_code == 404


@pytest.mark.parametrize(("calibrated_here", "expected"), [(False, "not yet calibrated here"), (True, "calibrated here")])
def test_a_forecast_says_whether_it_is_calibrated_here(
    fleet_engine: Engine, tmp_path: Path, calibrated_here: bool, expected: str
) -> None:
    registry = fleet.write_registry(tmp_path / "other", calibrated_here=calibrated_here)
    key = fleet.make_key(fleet_engine)
    client = TestClient(fleet.make_app(fleet_engine, registry), headers={"Authorization": f"Bearer {key.text}"})

    assert client.get(f"/api/v1/gates/{MEASURED}/forecast").json()["calibration"] == expected
    assert client.get(f"/api/v1/gates/{MEASURED}").json()["calibration"] == expected
    assert {gate["calibration"] for gate in client.get("/api/v1/gates").json()["items"] if gate["as_of"]} == {expected}
    assert client.get("/api/v1/models").json()["items"][0]["calibration"] == expected


def test_a_model_nobody_knows_any_more_is_not_called_calibrated(fleet_engine: Engine, tmp_path: Path) -> None:
    key = fleet.make_key(fleet_engine)
    app = fleet.make_app(fleet_engine, tmp_path / "no registry")
    client = TestClient(app, headers={"Authorization": f"Bearer {key.text}"})

    assert client.get(f"/api/v1/gates/{MEASURED}/forecast").json()["calibration"] == "not yet calibrated here"


def stored(engine: Engine, key: str, start: datetime, end: datetime) -> list[tuple[datetime, float]]:
    """The slow obvious way: everything, then a filter."""
    with engine.connect() as connection:
        frame = historian.read_gate(connection, MEASURED, 0, to_ms(NOW) + 1)
    pairs = zip(frame["ts"], frame[key], strict=True)
    return [(ts.to_pydatetime(), value) for ts, value in pairs if value == value and start <= ts < end]


def test_readings_are_those_stored_in_the_span(client: TestClient, fleet_engine: Engine) -> None:
    start, end = TODAY - 2 * DAY, TODAY - DAY
    path = f"/api/v1/gates/{MEASURED}/readings?from=2026-11-18T00:00:00Z&to=2026-11-19T00:00:00Z"

    found = client.get(f"{path}&channel=motor.velocity_rms&channel=leaf.velocity_rms").json()

    assert found["next_from"] is None
    assert [series["key"] for series in found["channels"]] == ["leaf.velocity_rms", "motor.velocity_rms"]
    for series in found["channels"]:
        pairs = list(zip([utc(ts) for ts in series["ts"]], series["values"], strict=True))
        assert pairs == stored(fleet_engine, series["key"], start, end)


def test_pages_of_readings_join_without_gap_or_repeat(client: TestClient, fleet_engine: Engine) -> None:
    start, end = TODAY - DAY, TODAY
    whole: dict[str, list[tuple[datetime, float]]] = {}
    following: str | None = "2026-11-19T00:00:00Z"
    pages = 0
    while following:
        path = f"/api/v1/gates/{MEASURED}/readings?from={following}&to=2026-11-20T00:00:00Z&limit=10"
        page = client.get(path).json()
        for series in page["channels"]:
            told = zip([utc(ts) for ts in series["ts"]], series["values"], strict=True)
            whole.setdefault(series["key"], []).extend(told)
        following = page["next_from"]
        pages += 1

    assert pages > 2
    assert len(whole) == 7
    for key, pairs in whole.items():
        assert pairs == stored(fleet_engine, key, start, end)


def test_readings_without_a_span_are_those_of_the_last_day(client: TestClient, fleet_engine: Engine) -> None:
    found = client.get(f"/api/v1/gates/{MEASURED}/readings?channel=motor.moving").json()["channels"][0]

    expected = stored(fleet_engine, "motor.moving", NOW - DAY, NOW)
    assert [utc(ts) for ts in found["ts"]] == [ts for ts, _ in expected]


def test_buckets_hold_the_lowest_and_highest_of_their_part(client: TestClient, fleet_engine: Engine) -> None:
    key, start = "motor.bearing_de.temperature", TODAY - 2 * DAY
    path = f"/api/v1/gates/{MEASURED}/readings?from=2026-11-18T00:00:00Z&to=2026-11-20T00:00:00Z"

    found = client.get(f"{path}&channel={key}&buckets=16").json()["channels"][0]

    parts: dict[datetime, list[float]] = {}
    for ts, value in stored(fleet_engine, key, start, TODAY):
        parts.setdefault(start + (ts - start) // timedelta(hours=3) * timedelta(hours=3), []).append(value)
    assert [utc(ts) for ts in found["ts"]] == sorted(parts)
    assert found["low"] == [min(parts[ts]) for ts in sorted(parts)]
    assert found["high"] == [max(parts[ts]) for ts in sorted(parts)]
    assert found["values"] is None


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("channel=motor.noise", "/query/channel"),
        ("from=2026-11-20T00:00:00Z&to=2026-11-20T00:00:00Z", "/query/from"),
        ("from=2010-01-01T00:00:00Z", "/query/from"),
        ("from=2026-11-20T00:00:00", "/query/from"),
        ("from=1700000000", "/query/from"),
        ("from=2026-13-01T00:00:00Z", "/query/from"),
        ("limit=10001", "/query/limit"),
        ("buckets=0", "/query/buckets"),
    ],
)
def test_a_wrong_question_for_readings_names_what_is_wrong(client: TestClient, query: str, pointer: str) -> None:
    answer = client.get(f"/api/v1/gates/{MEASURED}/readings?{query}")

    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


def test_operations_come_newest_first_with_what_their_channels_showed(client: TestClient, fleet_engine: Engine) -> None:
    found = all_pages(client, f"/api/v1/gates/{MEASURED}/operations", 25)

    first = found[0]
    start, end = utc(first["started_at"]), utc(first["ended_at"])
    inside = [v for _, v in stored(fleet_engine, "motor.velocity_rms", start, end + timedelta(milliseconds=1))]
    started = [utc(one["started_at"]) for one in found]
    assert len(found) == 60
    assert started == sorted(started, reverse=True)
    assert first["summary"]["motor.velocity_rms:mean"] == pytest.approx(statistics.fmean(inside))


def test_an_operation_names_the_bursts_that_were_taken_in_it(client: TestClient, registry: Path) -> None:
    path = f"/api/v1/gates/{MEASURED}/operations?limit=2"
    newest, older = client.get(path).json()["items"]
    taken = [utc(newest["started_at"]), utc(newest["ended_at"]), utc(newest["ended_at"]) + timedelta(milliseconds=1)]
    files = [burst_path(MEASURED, "motor", "bearing_de", at) for at in taken]
    burst_files.keep(registry.parent / "bursts", [(file, b"burst") for file in files])

    found = [one["bursts"] for one in client.get(path).json()["items"]]

    assert newest["bursts"] == older["bursts"] == []
    assert found == [[str(files[0]), str(files[1])], []]


def test_operations_of_a_span(client: TestClient) -> None:
    span = "from=2026-11-10T00:00:00Z&to=2026-11-11T00:00:00Z"
    found = client.get(f"/api/v1/gates/{MEASURED}/operations?{span}").json()["items"]

    assert [one["started_at"] for one in found] == ["2026-11-10T07:00:00Z", "2026-11-10T02:00:00Z"]


def test_operations_up_to_now_include_a_day_that_is_not_scored_yet(fleet_engine: Engine) -> None:
    with fleet_engine.connect() as connection:
        found = queries.operations_up_to_now(connection, MEASURED, to_ms(TODAY - DAY), to_ms(NOW))

    hours = [timedelta(hours=2), timedelta(hours=7)]
    assert [one.started_at for one in found] == [day + hour for day in (TODAY - DAY, TODAY) for hour in hours]


@pytest.mark.postgres
def test_every_read_works_on_postgresql_too(postgres_url: str, registry: Path, client: TestClient) -> None:
    engine = historian.connect(postgres_url)
    store.migrate(engine)
    alert_ids = fleet.fill(engine)
    key = fleet.make_key(engine)
    other = TestClient(fleet.make_app(engine, registry), headers={"Authorization": f"Bearer {key.text}"})
    span = "from=2026-11-18T00:00:00Z&to=2026-11-19T00:00:00Z"

    for path in (
        "/api/v1/gates?limit=500",
        f"/api/v1/gates/{MEASURED}",
        f"/api/v1/gates/{MEASURED}/forecast",
        f"/api/v1/gates/{MEASURED}/readings?{span}&limit=20",
        f"/api/v1/gates/{MEASURED}/readings?{span}&buckets=7",
        f"/api/v1/gates/{MEASURED}/operations?limit=5",
        "/api/v1/maintenance?limit=1",
        "/api/v1/alerts",
        f"/api/v1/alerts/{alert_ids[0]}",
        "/api/v1/quarantine",
        "/api/v1/models",
        "/readyz",
    ):
        assert other.get(path).json() == client.get(path).json(), path
    assert other.get("/metrics").status_code == 200
    assert [one["alert_id"] for one in all_pages(other, "/api/v1/alerts", 1)] == [
        one["alert_id"] for one in all_pages(client, "/api/v1/alerts", 4)
    ]
    engine.dispose()
