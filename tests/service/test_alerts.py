"""The life cycle of an alert: legal steps, severity, what receivers are told in two languages, and how long it may be."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from models.explain import Evidence
from service import advice, events
from service import alerts as life
from service.advice import Words
from service.alerts import Alert, Change, IllegalTransition, Outlook, Severity
from service.events import Gate

DAY = timedelta(days=1)
T0 = datetime(2026, 11, 20, tzinfo=UTC)
CURVE = tuple(round(0.03 * day, 2) for day in range(1, 22))
GATE = Gate(
    "DSH-S3-G1",
    Words("3号站1号闸", "Gate 1 of station 3"),
    station_id="DSH-S3",
    station_name=Words("3号站", "Station 3"),
    last_seen=datetime(2026, 11, 20, 2, 8, 41, tzinfo=UTC),
)
# every failure mode and component that the simulator and the shipped model know
FAILURE_MODES = ["motor_bearing", "lubrication", "misalignment", "winding", "gear", "brake_drag", "guide_seizure", "seal_wear"]
FAILURE_MODES += ["nut_wear", "pump_wear", "open_gear", "rope_drum", "sudden"]
COMPONENTS = ["motor", "gearbox", "brake", "leaf", "screw", "hydraulic", "drum", "another", ""]


def outlook(day: int = 0, severity: Severity = "medium", failure_mode: str = "motor_bearing") -> Outlook:
    as_of = T0 + day * DAY
    return Outlook(as_of, CURVE, failure_mode, "2026.11", severity, as_of + 4 * DAY, "calibrated")


def opened(severity: Severity = "medium") -> Alert:
    return life.open_alert("DSH-S3-G1", "motor", outlook(0, severity), T0 + timedelta(hours=2)).after


def acknowledged() -> Alert:
    return life.acknowledge(opened(), by="wang", at=T0).after


def resolved() -> Alert:
    return life.resolve(opened(), resolution="auto_cleared", by="scoring", at=T0).after


def as_json(change: Change, locale: str = "zh-CN") -> dict[str, object]:
    event = events.alert_event(change, GATE, "https://gates.example/")
    return json.loads(events.body(event, locale))


STEPS: dict[str, Callable[[Alert], Change]] = {
    "update": lambda alert: life.update(alert, outlook(1), T0),
    "acknowledge": lambda alert: life.acknowledge(alert, by="wang", at=T0),
    "resolve": lambda alert: life.resolve(alert, resolution="by_person", by="wang", at=T0, finding="no_fault_found"),
}


@pytest.mark.parametrize(
    ("alert", "legal"),
    [(opened(), {"update", "acknowledge", "resolve"}), (acknowledged(), {"update", "resolve"}), (resolved(), set())],
    ids=["open", "acknowledged", "resolved"],
)
def test_each_state_allows_its_own_steps_and_names_itself_when_it_refuses(alert: Alert, legal: set[str]) -> None:
    for name, step in STEPS.items():
        if name in legal:
            assert step(alert).before == alert
        else:
            with pytest.raises(IllegalTransition, match=f"{name}: allowed in state .* is {alert.state}") as refused:
                step(alert)
            assert (refused.value.alert_id, refused.value.state) == (alert.alert_id, alert.state)


def test_an_alert_is_the_same_alert_whatever_the_mode_severity_and_model_and_another_on_another_day() -> None:
    first = opened()
    same = life.open_alert("DSH-S3-G1", "motor", outlook(0, "critical", "winding"), T0 + DAY).after
    later = life.open_alert("DSH-S3-G1", "motor", outlook(1), T0).after
    other = life.open_alert("DSH-S3-G1", "brake", outlook(0), T0).after

    assert same.alert_id == first.alert_id
    assert len({first.alert_id, later.alert_id, other.alert_id}) == 3
    assert re.fullmatch(r"alr_[A-Z2-7]{26}", first.alert_id)


def test_the_severity_rises_at_once_and_receivers_are_told() -> None:
    change = life.update(opened("medium"), outlook(1, "high"), T0 + DAY)

    assert (change.after.severity, change.event_type, change.after.sequence) == ("high", "alert.updated", 2)


def test_the_severity_falls_only_after_24_hours_of_being_lower() -> None:
    first = life.update(opened("high"), outlook(1, "medium"), T0 + DAY)
    second = life.update(first.after, outlook(2, "medium"), T0 + 2 * DAY)

    assert (first.after.severity, first.event_type) == ("high", None)
    assert (second.after.severity, second.event_type) == ("medium", "alert.updated")


def test_a_severity_that_comes_back_within_a_day_never_fell() -> None:
    alert = opened("high")
    for day, severity in enumerate(("medium", "high", "medium", "high"), start=1):
        change = life.update(alert, outlook(day, severity), T0)  # type: ignore[arg-type] # words of Severity
        alert = change.after

        assert (alert.severity, change.event_type) == ("high", None)


def test_numbers_that_move_inside_one_grade_are_kept_and_nobody_is_told() -> None:
    moved = replace(outlook(1), curve=tuple(p + 0.001 for p in CURVE), failure_mode="lubrication", failure_mode_share=0.61)

    change = life.update(opened(), moved, T0 + DAY)

    assert change.event_type is None
    assert (change.after.p_14d, change.after.failure_mode) == (moved.p_14d, "lubrication")
    assert change.after.failure_mode_share == 0.61
    assert (change.after.sequence, change.after.version) == (1, 2)
    with pytest.raises(ValueError, match="tells nobody"):
        events.alert_event(change, GATE, "")


@pytest.mark.parametrize(("field", "value"), [("resolution", "because"), ("finding", "ghosts")])
def test_a_resolution_or_finding_of_ones_own_is_refused(field: str, value: str) -> None:
    words: dict[str, str] = {"resolution": "by_person", "finding": "false_alarm", field: value}

    with pytest.raises(ValueError, match=f"{field}: allowed are .*; got '{value}'"):
        life.resolve(opened(), by="wang", at=T0, **words)


def test_the_body_of_an_opened_alert_is_this() -> None:
    evidence = ({"feature": "motor.velocity", "contribution": 1.9, "change": 1.8, "change_unit": "x", "peer_low": None},)
    told = replace(outlook(), evidence=evidence, failure_mode_share=0.73456)
    change = life.open_alert("DSH-S3-G1", "motor", told, T0 + timedelta(hours=2, minutes=10))

    document = as_json(change)

    assert document == {
        "type": "alert.opened",
        "specversion": "1",
        "timestamp": "2026-11-20T02:10:00Z",
        "sequence": 1,
        "locale": "zh-CN",
        "data": {
            "alert_id": change.after.alert_id,
            "gate_id": "DSH-S3-G1",
            "gate_name": "3号站1号闸",
            "site": "3号站",
            "station_id": "DSH-S3",
            "component": "motor",
            "failure_mode": "motor_bearing",
            "failure_mode_share": 0.7346,
            "state": "open",
            "severity": "medium",
            "probability": 0.42,
            "horizon_days": 14,
            "p_7d": 0.21,
            "p_14d": 0.42,
            "p_21d": 0.63,
            "expected_window": {"from": "2026-11-22", "to": "2026-12-08"},
            "respond_by": "2026-11-24T00:00:00Z",
            "confidence": "calibrated",
            "confidence_text": "已按本站数据校准",
            "data_quality": {"last_seen": "2026-11-20T02:08:41Z"},
            "evidence": [{**evidence[0], "text": "电动机振动速度为本闸门同等荷载下的 1.8 倍"}],
            "recommended_action": {
                "code": "inspect_motor_bearing",
                "text_zh": advice.ACTIONS["motor_bearing"].text.zh,
                "text_en": advice.ACTIONS["motor_bearing"].text.en,
            },
            "as_of": "2026-11-20T00:00:00Z",
            "opened_at": "2026-11-20T02:10:00Z",
            "model": {"version": "2026.11"},
            "url": f"https://gates.example/alerts/{change.after.alert_id}",
        },
    }


def test_a_receiver_who_reads_english_is_told_the_english_names() -> None:
    data = as_json(life.acknowledge(opened(), by="wang", at=T0), "en")["data"]

    assert isinstance(data, dict)
    assert (data["gate_name"], data["site"]) == ("Gate 1 of station 3", "Station 3")
    assert (data["state"], data["acknowledged_by"], data["acknowledged_at"]) == ("acknowledged", "wang", "2026-11-20T00:00:00Z")


def test_a_receiver_reads_that_the_threshold_is_not_yet_calibrated_here() -> None:
    change = life.open_alert("DSH-S3-G1", "motor", replace(outlook(), confidence="not_yet_calibrated_here"), T0)

    data = as_json(change, "en")["data"]

    assert isinstance(data, dict)
    assert (data["confidence"], data["confidence_text"]) == ("not_yet_calibrated_here", "not yet calibrated here")


def test_a_resolved_alert_tells_why_it_ended_and_what_was_found() -> None:
    change = life.resolve(acknowledged(), resolution="by_person", by="wang", at=T0 + DAY, finding="false_alarm", note="好的")

    data = as_json(change)["data"]

    assert isinstance(data, dict)
    told = {name: data[name] for name in ("state", "resolution", "resolved_by", "resolved_at", "finding", "note")}
    assert told == {
        "state": "resolved",
        "resolution": "by_person",
        "resolved_by": "wang",
        "resolved_at": "2026-11-21T00:00:00Z",
        "finding": "false_alarm",
        "note": "好的",
    }


def test_the_longest_body_stays_below_twenty_thousand_bytes() -> None:
    evidence = tuple(
        {**dict.fromkeys(Evidence.__slots__, 1 / 3), "feature": "零" * 100, "channel": "零" * 100, "unit": "零" * 40}
        for _ in range(50)
    )
    gate = replace(GATE, name=Words("闸" * 10_000, "g" * 10_000), station_name=Words("站" * 10_000, "s" * 10_000))
    change = life.open_alert("g" * 128, "c" * 128, replace(outlook(), evidence=evidence), T0)
    last = life.resolve(change.after, resolution="by_person", by="人" * 100, at=T0, finding="not_inspected", note="记" * 100_000)

    for locale in events.LOCALES:
        assert len(events.body(events.alert_event(last, gate, "https://gates.example"), locale)) <= 20_000


def test_a_body_that_would_be_too_long_or_not_json_is_refused_here_and_not_by_the_receiver() -> None:
    with pytest.raises(ValueError, match="20000 bytes"):
        events.body(events.endpoint_event("endpoint.ping", "ep_1", T0, {"text": "x" * 20_000}))
    with pytest.raises(ValueError, match="JSON compliant"):
        events.body(events.endpoint_event("endpoint.ping", "ep_1", T0, {"p": float("nan")}))


@pytest.mark.parametrize("failure_mode", [*FAILURE_MODES, "a mode of one's own", ""])
@pytest.mark.parametrize("component", COMPONENTS)
def test_there_is_always_something_to_do_first_in_both_languages(component: str, failure_mode: str) -> None:
    action = advice.recommended_action(component, failure_mode)

    assert re.fullmatch(r"[a-z_]+", action.code)
    assert re.search(r"[一-鿿]", action.text.zh)
    assert action.text.en.isascii()


def test_every_known_failure_mode_has_an_action_of_its_own() -> None:
    assert set(FAILURE_MODES) <= set(advice.ACTIONS)
    assert len({action.code for action in advice.ACTIONS.values()}) == len(advice.ACTIONS)


def test_no_text_borrows_the_words_of_public_warning_grades() -> None:
    texts = " ".join(advice.recommended_action(c, m).text.zh for c in COMPONENTS for m in [*FAILURE_MODES, ""])

    assert not re.search("[红橙黄蓝]色?预警|预警", texts)


def test_a_notice_has_a_beginning_and_one_end() -> None:
    notice = life.open_notice("gate.data_stale", "DSH-S3-G1", T0, gate_id="DSH-S3-G1", detail={"last_seen": None})
    ended = life.close_notice(notice, T0 + DAY)

    begins, ends = (json.loads(events.body(events.notice_event(n, GATE))) for n in (notice, ended))

    assert [(b["type"], b["sequence"], b["data"]["severity"]) for b in (begins, ends)] == [
        ("gate.data_stale", 1, "low"),
        ("gate.data_restored", 2, "low"),
    ]
    assert begins["data"]["gate_name"] == "3号站1号闸"
    assert ends["data"]["closed_at"] == "2026-11-21T00:00:00Z"
    with pytest.raises(ValueError, match="was closed"):
        life.close_notice(ended, T0)
    with pytest.raises(ValueError, match="notice: allowed are"):
        life.open_notice("gate.haunted", "DSH-S3-G1", T0, detail={})


def test_a_late_curve_has_a_late_window_and_a_sudden_one_begins_today() -> None:
    late = [0.0] * 13 + [0.5] * 8
    sudden = [0.6] * 21

    assert events.expected_window(late, T0) == {"from": "2026-12-03", "to": "2026-12-03"}
    assert events.expected_window(sudden, T0) == {"from": "2026-11-20", "to": "2026-11-20"}


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (datetime(2026, 11, 20, 10, 10, tzinfo=timezone(timedelta(hours=8))), "2026-11-20T02:10:00Z"),
        (datetime(2026, 11, 20, 2, 10, 0, 250_000, tzinfo=UTC), "2026-11-20T02:10:00.250Z"),
        (datetime(2026, 11, 20, 2, 10, 0, 999, tzinfo=UTC), "2026-11-20T02:10:00Z"),
    ],
)
def test_instants_are_written_in_utc(instant: datetime, text: str) -> None:
    assert life.rfc3339(instant) == text


class LifeOfAlerts(RuleBasedStateMachine):
    """Any order of what scoring and people do: versions and sequences only rise, an end is an end, every step is told."""

    def __init__(self) -> None:
        super().__init__()
        self.alert: Alert | None = None
        self.day = 0
        self.told: list[int] = []

    def take(self, change: Change) -> None:
        before = self.alert
        self.alert = change.after
        if before is not None:
            assert change.after.alert_id == before.alert_id
            assert change.after.version == before.version + 1
        if change.event_type is not None:
            self.told.append(change.after.sequence)

    @precondition(lambda self: self.alert is None or self.alert.state == "resolved")
    @rule(severity=st.sampled_from(life.SEVERITIES))
    def open(self, severity: Severity) -> None:
        self.alert, self.told, self.day = None, [], self.day + 1
        self.take(life.open_alert("g", "motor", outlook(self.day, severity), T0))

    @precondition(lambda self: self.alert is not None)
    @rule(severity=st.sampled_from(life.SEVERITIES))
    def score(self, severity: Severity) -> None:
        self.day += 1
        self.attempt(lambda alert: life.update(alert, outlook(self.day, severity), T0), ("open", "acknowledged"))

    @precondition(lambda self: self.alert is not None)
    @rule()
    def acknowledge(self) -> None:
        self.attempt(lambda alert: life.acknowledge(alert, by="wang", at=T0), ("open",))

    @precondition(lambda self: self.alert is not None)
    @rule(resolution=st.sampled_from(life.RESOLUTIONS))
    def resolve(self, resolution: str) -> None:
        self.attempt(lambda alert: life.resolve(alert, resolution=resolution, by="w", at=T0), ("open", "acknowledged"))

    def attempt(self, step: Callable[[Alert], Change], allowed: tuple[str, ...]) -> None:
        assert self.alert is not None
        if self.alert.state in allowed:
            self.take(step(self.alert))
        else:
            with pytest.raises(IllegalTransition):
                step(self.alert)

    @invariant()
    def what_was_told_is_numbered_without_gap(self) -> None:
        assert self.told == list(range(1, len(self.told) + 1))
        if self.alert is not None:
            assert self.alert.sequence == len(self.told)
            assert (self.alert.resolved_at is not None) == (self.alert.state == "resolved")


TestLifeOfAlerts = LifeOfAlerts.TestCase
TestLifeOfAlerts.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
