"""What an operator sees, and what a form may do."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from sqlalchemy.engine import Engine

from models.watch import AlarmRate
from pipeline import historian
from pipeline.historian import to_ms, writing
from service import store
from service.console import session
from tests.service.api import fleet
from tests.service.api.client import TestClient
from tests.service.console.page import Element, parse


def page(client: TestClient, path: str = "/") -> Element:
    """A page that was answered well."""
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return parse(answer.text)


def strip(shown: Element) -> dict[str, str]:
    return {
        one.attributes["data-testid"].removeprefix("strip-"): one.text
        for one in shown.one("section", data_testid="strip").all("div")
    }


def empty_app(tmp_path: Path, registry: Path, fill: Callable[[sa.Connection], None] = lambda _: None) -> TestClient:
    """A console over a new database, with somebody signed in."""
    engine = historian.connect(f"sqlite:///{tmp_path / 'new.sqlite'}")
    store.migrate(engine)
    with writing(engine) as connection:
        fill(connection)
    client = TestClient(fleet.make_app(engine, registry))
    client.post("/login", data={"key": fleet.make_key(engine).text})
    return client


# --- the overview ---------------------------------------------------------------------------------------------------


def test_the_first_row_is_the_most_urgent_and_says_which_how_bad_by_when_and_what_to_do(console: TestClient) -> None:
    first = page(console).one("section", data_testid="actions").all("tr")[1]
    shown = first.text.replace("\u00a0", " ")

    for part in ("High", "Gate 1", "Dasha River Station 3", "Motor:", "Motor bearing wearing out", "72 % within 14 days"):
        assert part in shown
    assert "not yet calibrated here" in shown
    assert "2026-11-22 in 39 h" in shown
    assert "Inspect the motor's drive-end bearing" in shown
    assert first.all("button")[0].text == "Acknowledge"
    assert first.one("svg").attributes["data-shape"] == "triangle"


def test_the_strip_says_whether_the_system_is_alive(console: TestClient) -> None:
    assert strip(page(console)) == {
        "data": "Newest reading 4 min ago in order",
        "reporting": "Gates reporting 22 of 24 2 silent",
        "scored": "Last scored day 2026-11-20 in order",
        "model": "Model 2026.11-test not yet calibrated here",
        "webhooks": "Webhooks 7 waiting, 0 failed in order",
        "clock": "Now 2026-11-20 16:40 UTC+8",
    }


def test_the_strip_turns_red_when_data_and_scoring_stop(console: TestClient, fleet_engine: Engine) -> None:
    with writing(fleet_engine) as connection:
        connection.execute(sa.update(historian.gates).values(last_seen_ms=to_ms(fleet.NOW - timedelta(hours=1))))
        connection.execute(sa.update(store.scoring_runs).values(as_of=fleet.TODAY - timedelta(days=2)))

    shown = page(console)

    assert strip(shown)["data"] == "Newest reading 60 min ago no new data"
    assert strip(shown)["scored"].endswith("late")
    bad = {one.attributes["data-testid"] for one in shown.all("div", class_="bad")}
    assert bad == {"strip-data", "strip-scored"}


def test_alerts_are_counted_by_severity(console: TestClient) -> None:
    counts = page(console).one("section", data_testid="counts")

    assert [one.text for one in counts.all("span", class_="count")] == [
        "Critical 0",
        "High 3",
        "Medium 1",
        "Low 0",
        "3 gates without a verdict",
    ]


@pytest.mark.parametrize(
    ("false_alarms", "gate_years", "language", "told"),
    [
        (3, 18.0, "en", "3 in 18.0 gate-years, 0.17 per gate-year; the budget is 0.2."),
        (9, 18.0, "en", "9 in 18.0 gate-years, 0.50 per gate-year; the budget is 0.2. over budget"),
        (9, 18.0, "zh-CN", "近365天误报：18.0 闸门·年内 9 次，每闸门每年 0.50 次；预算为 0.2 次。 超出预算"),
        (0, 0.0, "en", "False alarms cannot be counted before 28 days; the budget is 0.2 per gate-year."),
    ],
)
def test_the_overview_says_how_many_alarms_were_false(
    console: TestClient, fleet_engine: Engine, false_alarms: int, gate_years: float, language: str, told: str
) -> None:
    with writing(fleet_engine) as connection:
        store.save_alarm_rate(connection, AlarmRate(fleet.TODAY, false_alarms, gate_years, budget_per_gate_year=0.2))

    line = page(console, f"/?lang={language}").one("p", data_testid="alarm-rate").text

    assert line.endswith(told)


@pytest.mark.parametrize(
    ("reference", "drifted", "language", "told"),
    [
        (False, None, "en", "Drift: this model has no reference of what it learnt from."),
        (True, None, "zh-CN", "漂移：数据尚不足，无法与模型学习时的情况比较。"),
        (True, False, "en", "Drift: none; readings are like those the model learnt from."),
        (True, True, "en", "Drift for 36 h: gearboxes. Look at the sensors first; the model is not retrained by itself."),
        (True, True, "zh-CN", "已漂移 36 小时：减速器。请先检查传感器；模型不会自行重新训练。"),
    ],
)
def test_the_overview_says_whether_readings_are_like_those_learnt_from(
    fleet_engine: Engine, tmp_path: Path, reference: bool, drifted: bool | None, language: str, told: str
) -> None:
    if drifted is not None:
        fleet.put_drift(fleet_engine, drifted=drifted)
    client = TestClient(fleet.make_app(fleet_engine, fleet.write_registry(tmp_path / "r", reference=reference)))
    client.post("/login", data={"key": fleet.make_key(fleet_engine).text})

    assert page(client, f"/?lang={language}").one("p", data_testid="drift").text == told


@pytest.mark.parametrize(
    ("language", "told", "strip", "delivery"),
    [
        (
            "en",
            "9 of 21 gates opened cases in one day. Alerts listed here but not sent to anyone until somebody has looked: 1",
            "on hold: new",
            "held: model on",
        ),
        ("zh-CN", "一天内 21 个闸门中有 9 个出现新告警。1 条告警列在此处", "已暂停：新告警不发送", "暂缓发送"),
    ],
)
def test_every_page_says_that_the_model_is_on_hold(
    console: TestClient, fleet_engine: Engine, alert_ids: list[str], language: str, told: str, strip: str, delivery: str
) -> None:
    fleet.put_on_hold(fleet_engine, alert_ids[:1])

    first = page(console, f"/?lang={language}")

    assert told in first.one("p", data_testid="on-hold").text
    for path in ("/", f"/alerts/{alert_ids[0]}", f"/gates/{fleet.MEASURED}"):
        figure = page(console, path).one("div", data_testid="strip-model")
        assert strip in figure.text
        assert "bad" in figure.attributes["class"]
    assert delivery in console.get(f"/alerts/{alert_ids[0]}").text


def test_every_gate_is_in_the_grid_with_shape_word_and_look(console: TestClient) -> None:
    cells = {one.attributes["data-gate"]: one for one in page(console).one("section", data_testid="fleet").all("a")}

    looks = {gate_id: (cell.attributes["data-look"], cell.one("svg").attributes["data-shape"]) for gate_id, cell in cells.items()}
    assert len(cells) == 24
    assert looks["DSH-S3-G1"] == ("high", "triangle")
    assert looks["DSH-S8-G2"] == ("medium", "diamond")
    assert looks["DSH-S4-G1"] == ("normal", "ring")
    assert looks[fleet.STALE[0]] == ("stale", "hatch")
    assert looks[fleet.IDLE[0]] == ("no_verdict", "hatch")
    assert cells[fleet.IDLE[0]].text == "Gate 3 No verdict not moving"


def test_stations_stand_along_the_river(console: TestClient) -> None:
    names = [one.text for one in page(console).one("section", data_testid="fleet").all("h3")]

    assert names == [f"Dasha River Station {n}" for n in range(1, 9)]


def test_notices_are_shown_apart_from_alerts(console: TestClient) -> None:
    notices = page(console).one("section", data_testid="notices").all("li")

    assert {one.text for one in notices} == {
        f"Low Dasha River Station 5 · Gate {n} : No data from this gate (48 h ago)" for n in (1, 2)
    }


def test_without_any_data_the_page_says_so_and_is_not_reassuring(tmp_path: Path, registry: Path) -> None:
    shown = page(empty_app(tmp_path, registry))

    assert "says nothing about their condition" in shown.one("section", data_testid="actions").text
    assert "No gate is known yet" in shown.one("section", data_testid="fleet").text
    assert strip(shown)["data"] == "Newest reading none yet"
    assert not shown.all("span", class_="normal")


def test_a_fleet_without_verdicts_is_never_shown_as_normal(tmp_path: Path, registry: Path) -> None:
    def fill(connection: sa.Connection) -> None:
        ids = fleet.add_stations_and_gates(connection)
        store.save_forecasts(connection, [fleet.no_verdict_row(gate_id, "", fleet.TODAY, "young") for gate_id in ids])
        run = {"as_of": fleet.TODAY, "finished_at": fleet.NOW, "duration_s": 1.0, "gates": 24, "forecasts": 24}
        store.save_scoring_run(connection, {**run, "model_version": "v"})

    shown = page(empty_app(tmp_path, registry, fill))

    looks = {one.attributes["data-look"] for one in shown.one("section", data_testid="fleet").all("a")}
    assert looks == {"no_verdict", "stale"}
    assert "24 gates without a verdict" in shown.text
    assert "says nothing about their condition" in shown.one("section", data_testid="actions").text


def test_an_all_normal_fleet_shows_no_severity_colour(tmp_path: Path, registry: Path) -> None:
    def fill(connection: sa.Connection) -> None:
        ids = fleet.add_stations_and_gates(connection)
        connection.execute(sa.update(historian.gates).values(last_seen_ms=to_ms(fleet.NOW)))
        store.save_forecasts(connection, [fleet.forecast_row(gate_id, "", fleet.TODAY, 0.03) for gate_id in ids])
        run = {"as_of": fleet.TODAY, "finished_at": fleet.NOW, "duration_s": 1.0, "gates": 24, "forecasts": 24}
        store.save_scoring_run(connection, {**run, "model_version": "v"})

    shown = page(empty_app(tmp_path, registry, fill))

    assert {one.attributes["data-look"] for one in shown.all("a", class_="cell")} == {"normal"}
    assert all("none" in one.attributes["class"] for one in shown.all("span", class_="count"))
    assert "none of 24 gates above its alert threshold" in shown.text
    assert not shown.all("div", class_="bad")


def test_names_from_outside_are_shown_as_text(console: TestClient, fleet_engine: Engine) -> None:
    with writing(fleet_engine) as connection:
        connection.execute(sa.update(historian.gates).values(name="<script>alert(1)</script>"))
        connection.execute(sa.update(historian.maintenance).values(note="</script><script>alert(2)</script>"))

    for path in ("/", f"/gates/{fleet.MEASURED}"):
        text = console.get(path).text
        assert "<script>alert" not in text
        parse(text)


def test_a_risk_below_the_alert_threshold_is_shown_in_figures_and_without_colour(
    console: TestClient, fleet_engine: Engine
) -> None:
    with writing(fleet_engine) as connection:
        row = store.forecasts.c
        newest = sa.update(store.forecasts).values(p_14d=0.38)
        connection.execute(newest.where(row.gate_id == "DSH-S4-G1", row.component == "", row.as_of == fleet.TODAY))

    cell = next(one for one in page(console).all("a", class_="cell") if one.attributes["data-gate"] == "DSH-S4-G1")

    assert cell.text.replace("\u00a0", " ") == "Gate 1 Normal 38 % in 14 days"
    assert cell.attributes["data-look"] == "normal"


def test_a_failure_mode_is_named_only_where_failure_is_likely(console: TestClient, fleet_engine: Engine) -> None:
    with writing(fleet_engine) as connection:
        connection.execute(
            sa.update(store.forecasts).where(store.forecasts.c.component == "brake").values(failure_mode="brake_drag")
        )

    text = page(console, f"/gates/{fleet.MEASURED}").text

    assert "Motor bearing wearing out" in text
    assert "Brake dragging" not in text


def test_a_gates_page_says_which_sensors_are_not_believed_and_what_to_do(console: TestClient) -> None:
    def lines(path: str) -> list[str]:
        return [line.text for line in page(console, path).one("ul", data_testid="lost").all("li")]

    assert lines(f"/gates/{fleet.MEASURED}?lang=en") == [
        "Gearbox: oil, temperature: has moved away from its siblings or its own floor. Calibrate or replace the sensor.",
        "Motor, vibration velocity: repeats one value. Restart or replace the sensor.",
    ]
    assert lines(f"/gates/{fleet.MEASURED}?lang=zh-CN")[1].endswith("振动速度： 数值不变。请重启或更换传感器。")
    assert not page(console, "/gates/DSH-S1-G1?lang=en").all("ul", data_testid="lost")


# --- a gate ---------------------------------------------------------------------------------------------------------


def charts(shown: Element) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads(shown.one("script", id="charts").text)
    return found


def test_a_gate_shows_its_forecast_as_chart_and_table(console: TestClient) -> None:
    shown = page(console, f"/gates/{fleet.MEASURED}")

    forecast = charts(shown)["forecast"]
    lines = {line["label"]: line["y"] for line in forecast["series"]}  # type: ignore[attr-defined]  # JSON
    rows = [[cell.text for cell in row.walk() if cell.tag in ("th", "td")] for row in shown.all("tr")]
    assert lines["Motor"] == fleet.curve_to(0.72)
    assert list(lines)[:2] == ["Whole gate", "Motor"]
    assert forecast["threshold"] == 0.4
    assert ["Motor Motor bearing wearing out", "47 %", "72 %", "85 %", "within 8 days"] in rows
    assert "not yet calibrated here" in shown.one("main").text


def test_a_gate_shows_vibration_per_operation_up_to_now(console: TestClient, fleet_engine: Engine) -> None:
    vibration = charts(page(console, f"/gates/{fleet.MEASURED}"))["vibration"]

    motor = next(line for line in vibration["series"] if line["label"] == "Motor")  # type: ignore[attr-defined]  # JSON
    hours = [to_ms(fleet.TODAY) / 1000 + hour * 3600 for hour in (2, 7)]
    assert vibration["x"][-2:] == hours  # type: ignore[index]  # JSON
    assert motor["y"][-1] > 2.2
    assert all(value > 0.5 for value in motor["y"])


def test_a_gate_shows_the_hottest_of_each_day_and_its_maintenance(console: TestClient) -> None:
    found = charts(page(console, f"/gates/{fleet.MEASURED}?days=30"))

    temperature = found["temperature"]
    labels = [line["label"] for line in temperature["series"]]  # type: ignore[attr-defined]  # JSON
    assert labels == ["Gearbox: oil", "Motor: bearing", "Motor: winding"]
    assert 30 <= len(temperature["x"]) <= 31  # type: ignore[arg-type]  # JSON
    assert max(temperature["series"][1]["y"]) > 45  # type: ignore[index]  # JSON
    assert [mark["label"] for mark in found["marks"]] == ["Lubrication: Motor", "Repair: Brake"]  # type: ignore[index]  # JSON


def test_a_shorter_time_can_be_chosen(console: TestClient) -> None:
    week, quarter = (charts(page(console, f"/gates/{fleet.MEASURED}?days={n}")) for n in (7, 90))

    assert len(week["vibration"]["x"]) == 14  # type: ignore[arg-type]  # JSON
    assert len(quarter["vibration"]["x"]) == 62  # type: ignore[arg-type]  # JSON
    assert week["marks"] == []


def test_a_gate_that_never_measured_anything_has_a_page_too(console: TestClient) -> None:
    shown = page(console, f"/gates/{fleet.STALE[0]}")

    assert "No verdict: no reading for 24 hours." in shown.text
    assert "No operation with vibration in this time." in shown.text
    assert not shown.all("div", data_chart="forecast")


# --- an alert -------------------------------------------------------------------------------------------------------


def token_of(shown: Element) -> str:
    return shown.all("input", name="token")[0].attributes["value"]


def test_an_alert_page_says_why_what_to_do_and_who_was_told(console: TestClient, alert_ids: list[str]) -> None:
    shown = page(console, f"/alerts/{alert_ids[0]}").one("main").text.replace("\u00a0", " ")

    assert "Motor bearing wearing out: 87 % among the known faults of this part" in shown
    assert "within 7 days 47 % · within 14 days 72 % · within 21 days 85 % not yet calibrated here" in shown
    assert "motor vibration 2.88 × what this gate showed at such loads (2.94 mm/s, baseline 1.02); peers 0.9–1.2 ×" in shown
    assert "opened · scoring" in shown
    assert "opened: on its way · receiver.example" in shown
    assert "/hook" not in shown


def test_acknowledging_takes_one_click(console: TestClient, alert_ids: list[str], fleet_engine: Engine) -> None:
    shown = page(console)
    button = shown.one("button", id=f"ack-{alert_ids[0]}")
    form = next(one for one in shown.all("form") if button in one.children)
    fields = {one.attributes["name"]: one.attributes["value"] for one in form.all("input")}

    answer = console.post(form.attributes["action"], data=fields, follow_redirects=False)

    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    with fleet_engine.connect() as connection:
        audited = store.list_audit(connection, subject=alert_ids[0])[0]
    assert (audited["action"], audited["actor"], audited["source"]) == ("alert.acknowledged", "Duty desk", "ui")
    assert not page(console).all("button", id=f"ack-{alert_ids[0]}")


def test_resolving_needs_a_finding_and_ends_the_alert(console: TestClient, alert_ids: list[str]) -> None:
    path = f"/alerts/{alert_ids[0]}"
    token = token_of(page(console, path))

    refused = console.post(f"{path}/resolve", data={"token": token, "finding": "", "note": ""})
    done = console.post(f"{path}/resolve", data={"token": token, "finding": "confirmed_degradation", "note": "轴承 <b>"})

    assert refused.status_code == 422
    shown = parse(done.text).one("main").text
    assert "It was wearing out" in shown
    assert "轴承 <b>" in shown
    assert "This alert is resolved." in shown


def test_acknowledging_what_somebody_else_took_on_is_told_as_a_page(console: TestClient, alert_ids: list[str]) -> None:
    token = token_of(page(console))

    answer = console.post(f"/alerts/{alert_ids[1]}/acknowledge", data={"token": token}, headers={"Accept": "text/html"})

    assert answer.status_code == 409
    assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("token", ["", "0" * 64])
def test_a_form_from_elsewhere_changes_nothing(console: TestClient, alert_ids: list[str], token: str) -> None:
    path = f"/alerts/{alert_ids[0]}"

    assert console.post(f"{path}/acknowledge", data={"token": token}).status_code == 403
    assert console.post(f"{path}/resolve", data={"token": token, "finding": "false_alarm"}).status_code == 403
    assert console.post("/logout", data={"token": token}).status_code == 403
    assert page(console).all("button", id=f"ack-{alert_ids[0]}")


def test_who_may_only_look_gets_no_button_and_no_way_round_it(sign_in: Callable[..., TestClient], alert_ids: list[str]) -> None:
    viewer = sign_in("gates:read", "alerts:read")
    shown = page(viewer)

    answer = viewer.post(f"/alerts/{alert_ids[0]}/acknowledge", data={"token": token_of(shown)})

    assert not [one for one in shown.all("button") if one.text == "Acknowledge"]
    assert answer.status_code == 403


# --- signing in -----------------------------------------------------------------------------------------------------


PAGES = ["/", "/gates/DSH-S3-G1", "/alerts/alr_x"]


@pytest.mark.parametrize("path", PAGES)
def test_a_stranger_is_sent_to_sign_in_and_back(stranger: TestClient, fleet_engine: Engine, path: str) -> None:
    answer = stranger.get(path, follow_redirects=False)
    form = parse(stranger.get(answer.headers["location"]).text).one("form")
    after = form.one("input", name="next").attributes["value"]

    signed = stranger.post("/login", data={"next": after, "key": fleet.make_key(fleet_engine).text}, follow_redirects=False)

    assert answer.status_code == 303
    assert (signed.status_code, signed.headers["location"]) == (303, path)


def test_a_stranger_cannot_post(stranger: TestClient, alert_ids: list[str], fleet_engine: Engine) -> None:
    for step in ("acknowledge", "resolve"):
        answer = stranger.post(f"/alerts/{alert_ids[0]}/{step}", data={"finding": "false_alarm"}, follow_redirects=False)

        assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/")
    with fleet_engine.connect() as connection:
        assert store.get_alert(connection, alert_ids[0]).state == "open"


@pytest.mark.parametrize(
    "after", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/a\nb", "evil"]
)
def test_signing_in_never_leads_to_another_site(stranger: TestClient, fleet_engine: Engine, after: str) -> None:
    key = fleet.make_key(fleet_engine).text
    answer = stranger.post("/login", data={"next": after, "key": key}, follow_redirects=False)

    assert answer.headers["location"] == "/"


def test_the_session_cookie_cannot_be_read_by_scripts_and_holds_no_key(stranger: TestClient, fleet_engine: Engine) -> None:
    key = fleet.make_key(fleet_engine)
    answer = stranger.post("/login", data={"key": f" {key.text}\n"}, follow_redirects=False)

    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{session.COOKIE}=")
    assert re.search(r"; HttpOnly", cookie)
    assert re.search(r"; SameSite=lax", cookie, re.IGNORECASE)
    assert "Secure" not in cookie
    assert key.text.split("_")[2] not in cookie


def test_over_tls_the_cookie_is_for_tls_only(fleet_engine: Engine, registry: Path) -> None:
    client = TestClient(fleet.make_app(fleet_engine, registry), base_url="https://gates.example")
    answer = client.post("/login", data={"key": fleet.make_key(fleet_engine).text}, follow_redirects=False)

    assert "; Secure" in answer.headers["set-cookie"]


@pytest.mark.parametrize("key", ["", "gk_nothing", "x" * 5000])
def test_a_wrong_key_opens_nothing_and_is_not_repeated(stranger: TestClient, key: str) -> None:
    answer = stranger.post("/login", data={"key": key})

    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert parse(answer.text).one("input", name="key").attributes.get("value") is None


def test_a_key_that_may_not_see_alerts_does_not_open_the_console(stranger: TestClient, fleet_engine: Engine) -> None:
    answer = stranger.post("/login", data={"key": fleet.make_key(fleet_engine, "gates:read").text})

    assert answer.status_code == 403
    assert "gates:read and alerts:read" in answer.text


def test_the_sign_in_form_of_another_site_is_refused(stranger: TestClient, fleet_engine: Engine) -> None:
    key = fleet.make_key(fleet_engine).text
    answer = stranger.post("/login", data={"key": key}, headers={"Sec-Fetch-Site": "cross-site"})

    assert answer.status_code == 403


def test_revoking_a_key_ends_its_session_at_once(console: TestClient, fleet_engine: Engine) -> None:
    page(console)
    with writing(fleet_engine) as connection:
        for row in store.list_api_keys(connection):
            store.revoke_api_key(connection, row["key_id"], at=fleet.NOW, actor=fleet.TEST)

    assert console.get("/", follow_redirects=False).status_code == 303


def test_a_session_lasts_while_a_replay_races_through_its_days(console: TestClient) -> None:
    app = console.app
    assert isinstance(app, FastAPI)
    app.state.context = replace(app.state.context, clock=lambda: fleet.NOW + timedelta(days=3))

    assert strip(page(console))["data"] == "Newest reading 3 days ago no new data"


def test_signing_out_ends_the_session(console: TestClient) -> None:
    console.post("/logout", data={"token": token_of(page(console))})

    assert console.get("/", follow_redirects=False).status_code == 303


def test_a_session_cookie_is_no_key_for_the_api(console: TestClient) -> None:
    assert console.get("/api/v1/gates").status_code == 401


# --- language and errors --------------------------------------------------------------------------------------------


def test_the_console_speaks_chinese_and_remembers_it(console: TestClient) -> None:
    asked = page(console, "/?lang=zh-CN")
    later = page(console, f"/gates/{fleet.MEASURED}")

    assert asked.one("html").attributes["lang"] == later.one("html").attributes["lang"] == "zh-CN"
    assert "大沙河3号闸站" in asked.text
    assert "电动机轴承磨损" in asked.text
    assert "检查电机驱动端轴承" in asked.text
    assert "1号闸门" in later.text
    assert page(console, "/?lang=en").one("html").attributes["lang"] == "en"


@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_no_page_shows_a_bare_code_or_an_unfilled_text(console: TestClient, alert_ids: list[str], language: str) -> None:
    for path in ("/", f"/gates/{fleet.MEASURED}", f"/gates/{fleet.STALE[0]}", f"/alerts/{alert_ids[1]}", "/login"):
        shown = page(console, f"{path}?lang={language}")
        text = shown.one("main").text + " ".join(strip(shown).values()) if path != "/login" else shown.text

        assert not re.search(r"\{\w*\}|\bNone\b|motor_bearing|brake_drag|no_verdict|under_repair|zh-CN", text), path


def test_an_unknown_address_is_a_page_in_the_readers_language(console: TestClient) -> None:
    answer = console.get("/gates/none?lang=zh-CN", headers={"Accept": "text/html"})

    assert answer.status_code == 404
    assert "地址不存在" in answer.text
