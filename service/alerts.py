"""Life cycle of an alert: open, update, acknowledge, resolve; what receivers are told. No clock, database or network.

Every decision takes values, the time among them, and returns a `Change`; `service.store` writes it. When a case opens
and closes is not decided here but in `models.policy`. Identity is (gate, component): the failure mode, the severity and
the model version are facts about an alert and may change while it stays the same alert.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from pipeline.errors import SluicewatchError

Severity = Literal["low", "medium", "high", "critical"]
State = Literal["open", "acknowledged", "resolved"]
Confidence = Literal["calibrated", "not_yet_calibrated_here"]

SEVERITIES: tuple[Severity, ...] = ("low", "medium", "high", "critical")
"""From least to most urgent: 四级 … 一级 of the risk grade (风险等级)."""

STATES: tuple[State, ...] = ("open", "acknowledged", "resolved")

RESOLUTIONS = ("auto_cleared", "repaired", "by_person")
"""Why an alert ended: the policy closed the case, a maintenance record did, or a person did."""

FINDINGS = (
    "confirmed_failure",
    "confirmed_degradation",
    "prevented_by_maintenance",
    "no_fault_found",
    "false_alarm",
    "not_inspected",
    "duplicate",
)
"""What a visit found, in the words of maintenance.csv."""

LOCALES = ("zh-CN", "en")
DEFAULT_LOCALE = "zh-CN"

HORIZON_DAYS = 14
MAX_EVIDENCE = 5
MAX_BODY_BYTES = 20_000
MAX_NAME = 200
MAX_NOTE = 1_000

SEVERITY_FALLS_AFTER = timedelta(hours=24)

ALERT_EVENTS = ("alert.opened", "alert.updated", "alert.acknowledged", "alert.resolved")
NOTICE_ENDS: Mapping[str, str] = {
    "gate.data_stale": "gate.data_restored",
    "sensor.fault": "sensor.restored",
    "model.on_hold": "model.released",
}
"""Kinds of notice and the event that tells their end."""

EVENT_TYPES: tuple[str, ...] = (
    *ALERT_EVENTS,
    *(event for pair in NOTICE_ENDS.items() for event in pair),
    "endpoint.ping",
    "endpoint.disabled",
)


class IllegalTransition(SluicewatchError):
    """The alert's state does not allow what was asked; the message says the state and what it allows."""

    def __init__(self, alert: Alert, action: str, allowed: Sequence[State]) -> None:
        self.alert_id = alert.alert_id
        self.state = alert.state
        self.action = action
        super().__init__(f"{action}: allowed in state {' or '.join(allowed)}; alert {alert.alert_id} is {alert.state}")


@dataclass(frozen=True, slots=True)
class Words:
    """One text in the languages we speak; `body` picks the receiver's."""

    zh: str
    en: str

    def in_locale(self, locale: str) -> str:
        """The text for a locale: Chinese for any `zh…`, English for all others."""
        return self.zh if locale.startswith("zh") else self.en


@dataclass(frozen=True, slots=True)
class Action:
    """What a crew should do first, with a stable code that a receiver may map to its own work orders."""

    code: str
    text: Words


ACTIONS: Mapping[str, Action] = {
    "motor_bearing": Action(
        "inspect_motor_bearing",
        Words(
            "检查电机驱动端轴承：听音、测温，复测振动加速度；有剥落或异响时更换轴承",
            "Inspect the motor's drive-end bearing: listen, measure temperature and vibration again; "
            "replace it if it is spalled or noisy",
        ),
    ),
    "lubrication": Action(
        "relubricate_bearing",
        Words(
            "检查电机轴承润滑：确认油脂牌号与油量，补脂或换脂；补脂后温度短时升高属正常",
            "Check the motor bearing's grease, its grade and amount; regrease or replace it. "
            "A short temperature rise after regreasing is normal",
        ),
    ),
    "misalignment": Action(
        "check_alignment",
        Words(
            "检查联轴器对中、地脚螺栓和基础；双吊点闸门同时检查两侧是否同步",
            "Check coupling alignment, foundation bolts and footing; on gates with two hoist points also whether they run level",
        ),
    ),
    "winding": Action(
        "test_winding_insulation",
        Words(
            "停机测量电机绕组绝缘电阻和三相电流平衡，检查受潮与通风",
            "Stop the motor; measure winding insulation resistance and phase balance; look for damp and blocked ventilation",
        ),
    ),
    "gear": Action(
        "inspect_gearbox",
        Words(
            "检查减速器：油位、油质与铁屑，打开视孔看齿面点蚀与磨损",
            "Inspect the gearbox: oil level, oil condition and metal debris; look at the tooth flanks for pitting and wear",
        ),
    ),
    "brake_drag": Action(
        "check_brake_release",
        Words(
            "检查制动器松闸间隙、推动器与闸瓦温度，清理锈蚀并调整",
            "Check the brake's release gap, its actuator and lining temperature; remove corrosion and readjust",
        ),
    ),
    "guide_seizure": Action(
        "inspect_guides",
        Words(
            "检查导轮、支铰与门槽：清除泥沙杂物，试运行并观察电流是否随开度升高",
            "Inspect guide wheels, trunnions and slots: clear silt and debris, "
            "move the gate and watch the current along its travel",
        ),
    ),
    "seal_wear": Action(
        "inspect_seals",
        Words(
            "检查底止水与侧止水磨损；避免在引起振动的小开度长时间停留",
            "Inspect bottom and side seals for wear; do not leave the gate long at the small openings where it vibrates",
        ),
    ),
    "nut_wear": Action(
        "inspect_screw_nut",
        Words(
            "检查螺杆与铜螺母：测量间隙，清洁并重新润滑，间隙超限时更换螺母",
            "Inspect screw and bronze nut: measure the play, clean and lubricate; "
            "replace the nut when the play is over its limit",
        ),
    ),
    "pump_wear": Action(
        "inspect_hydraulic_pump",
        Words(
            "检查液压泵与油液：油温、油位、滤芯、泄漏和气蚀噪声",
            "Inspect the hydraulic pump and oil: temperature, level, filter, leakage and the noise of cavitation",
        ),
    ),
    "open_gear": Action(
        "inspect_open_gear",
        Words(
            "检查开式齿轮啮合与润滑，清洁齿面并重新涂脂",
            "Inspect mesh and lubrication of the open gear; clean the teeth and grease them again",
        ),
    ),
    "rope_drum": Action(
        "inspect_rope_and_drum",
        Words(
            "检查钢丝绳断丝、松弛与两侧张力，检查卷筒绳槽与压板",
            "Inspect the wire rope for broken wires, slack and unequal tension, and the drum's grooves and clamps",
        ),
    ),
    "sudden": Action(
        "check_electrics_and_debris",
        Words(
            "检查供电、接触器、限位开关与门槽杂物，手动试运行一次",
            "Check supply, contactors, limit switches and debris in the slots; move the gate once by hand control",
        ),
    ),
}
"""First action per failure mode. A failure mode without a text in both languages cannot be enabled."""

_BY_COMPONENT: Mapping[str, Action] = {
    "motor": Action(
        "inspect_motor",
        Words("检查电机：振动、轴承温度与绕组", "Inspect the motor: vibration, bearing temperature, winding"),
    ),
    "gearbox": ACTIONS["gear"],
    "brake": ACTIONS["brake_drag"],
    "leaf": ACTIONS["guide_seizure"],
    "screw": ACTIONS["nut_wear"],
    "hydraulic": ACTIONS["pump_wear"],
    "drum": ACTIONS["rope_drum"],
}
_ANY = Action(
    "inspect_gate",
    Words("现场检查闸门与启闭机，必要时试运行一次", "Inspect the gate and its hoist on site; move it once where allowed"),
)


def recommended_action(component: str, failure_mode: str) -> Action:
    """What to do first: by failure mode, else by component, else in general."""
    return ACTIONS.get(failure_mode) or _BY_COMPONENT.get(component) or _ANY


@dataclass(frozen=True, slots=True)
class Gate:
    """What a body says about a gate besides its alert."""

    gate_id: str
    name: Words
    station_id: str = ""
    station_name: Words = field(default_factory=lambda: Words("", ""))
    criticality: str = ""
    last_seen: datetime | None = None


@dataclass(frozen=True, slots=True)
class Outlook:
    """What one scored day says about one component; `curve` holds P(failure within 1..21 days)."""

    as_of: datetime
    curve: tuple[float, ...]
    failure_mode: str
    model_version: str
    severity: Severity
    respond_by: datetime
    confidence: Confidence
    evidence: tuple[Mapping[str, object], ...] = ()

    @property
    def p_7d(self) -> float:
        """P(failure within 7 days)."""
        return self.curve[6]

    @property
    def p_14d(self) -> float:
        """P(failure within 14 days)."""
        return self.curve[13]


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert; `sequence` counts what receivers were told, `version` every write.

    `lower_since` is the first scored day of the present run of days with a lower severity than the one shown.
    """

    alert_id: str
    gate_id: str
    component: str
    failure_mode: str
    severity: Severity
    state: State
    opened_as_of: datetime
    opened_at: datetime
    as_of: datetime
    curve: tuple[float, ...]
    respond_by: datetime
    confidence: Confidence
    evidence: tuple[Mapping[str, object], ...]
    model_version: str
    sequence: int
    version: int
    lower_since: datetime | None = None
    acknowledged_by: str | None = None
    acknowledged_at: datetime | None = None
    resolved_by: str | None = None
    resolved_at: datetime | None = None
    resolution: str | None = None
    finding: str | None = None
    note: str | None = None

    @property
    def p_7d(self) -> float:
        """P(failure within 7 days)."""
        return self.curve[6]

    @property
    def p_14d(self) -> float:
        """P(failure within 14 days); the alert's probability."""
        return self.curve[13]


@dataclass(frozen=True, slots=True)
class Change:
    """One step of an alert. `event_type` is None when only numbers moved and nobody needs to be told."""

    before: Alert | None
    after: Alert
    event_type: str | None
    at: datetime


def make_id(prefix: str, *identity: str) -> str:
    """An identifier that anyone can recompute from what it identifies.

    Examples
    --------
    >>> make_id("alr", "DSH-S3-G1", "motor", "2026-11-20T00:00:00Z")
    'alr_OH4V46KBPZS26B3DK7TRI6E7KM'
    """
    digest = hashlib.sha256("\x1f".join(identity).encode()).digest()[:16]
    return f"{prefix}_{base64.b32encode(digest).decode().rstrip('=')}"


def open_alert(gate_id: str, component: str, outlook: Outlook, at: datetime) -> Change:
    """Open the alert of a case that the policy has just opened."""
    after = Alert(
        alert_id=make_id("alr", gate_id, component, rfc3339(outlook.as_of)),
        gate_id=gate_id,
        component=component,
        failure_mode=outlook.failure_mode,
        severity=outlook.severity,
        state="open",
        opened_as_of=outlook.as_of,
        opened_at=at,
        as_of=outlook.as_of,
        curve=outlook.curve,
        respond_by=outlook.respond_by,
        confidence=outlook.confidence,
        evidence=tuple(outlook.evidence[:MAX_EVIDENCE]),
        model_version=outlook.model_version,
        sequence=1,
        version=1,
    )
    return Change(None, after, "alert.opened", at)


def update(alert: Alert, outlook: Outlook, at: datetime) -> Change:
    """Take a new scored day's numbers. The severity rises at once and falls when it has been lower for 24 hours.

    Receivers are told only when the severity changes: a new probability inside one risk grade is on the screen, not on
    the phone.
    """
    _require(alert, "update", ("open", "acknowledged"))
    lower_since = None
    severity = alert.severity
    if _rank(outlook.severity) > _rank(alert.severity):
        severity = outlook.severity
    elif _rank(outlook.severity) < _rank(alert.severity):
        lower_since = alert.lower_since or outlook.as_of
        if outlook.as_of - lower_since >= SEVERITY_FALLS_AFTER:
            severity, lower_since = outlook.severity, None
    told = severity != alert.severity
    after = replace(
        alert,
        as_of=outlook.as_of,
        curve=outlook.curve,
        failure_mode=outlook.failure_mode,
        severity=severity,
        lower_since=lower_since,
        respond_by=outlook.respond_by,
        confidence=outlook.confidence,
        evidence=tuple(outlook.evidence[:MAX_EVIDENCE]),
        model_version=outlook.model_version,
        sequence=alert.sequence + told,
        version=alert.version + 1,
    )
    return Change(alert, after, "alert.updated" if told else None, at)


def acknowledge(alert: Alert, *, by: str, at: datetime) -> Change:
    """A person has seen the alert and takes it on."""
    _require(alert, "acknowledge", ("open",))
    after = replace(_next(alert), state="acknowledged", acknowledged_by=by, acknowledged_at=at)
    return Change(alert, after, "alert.acknowledged", at)


def resolve(
    alert: Alert, *, resolution: str, by: str, at: datetime, finding: str | None = None, note: str | None = None
) -> Change:
    """End the alert, saying why (one of `RESOLUTIONS`) and, where somebody looked, what was found (of `FINDINGS`)."""
    _require(alert, "resolve", ("open", "acknowledged"))
    if resolution not in RESOLUTIONS:
        raise ValueError(f"resolution: allowed are {', '.join(RESOLUTIONS)}; got {resolution!r}")
    if finding is not None and finding not in FINDINGS:
        raise ValueError(f"finding: allowed are {', '.join(FINDINGS)}; got {finding!r}")
    after = replace(
        _next(alert),
        state="resolved",
        resolved_by=by,
        resolved_at=at,
        resolution=resolution,
        finding=finding,
        note=note,
    )
    return Change(alert, after, "alert.resolved", at)


def _next(alert: Alert) -> Alert:
    return replace(alert, sequence=alert.sequence + 1, version=alert.version + 1)


def _require(alert: Alert, action: str, allowed: Sequence[State]) -> None:
    if alert.state not in allowed:
        raise IllegalTransition(alert, action, allowed)


def _rank(severity: Severity) -> int:
    return SEVERITIES.index(severity)


@dataclass(frozen=True, slots=True)
class Notice:
    """A plain message of low severity with a beginning and an end: no data, a sensor not believed, a model on hold."""

    notice_id: str
    kind: str
    key: str
    gate_id: str | None
    component: str
    opened_at: datetime
    closed_at: datetime | None
    detail: Mapping[str, object]


def open_notice(
    kind: str, key: str, at: datetime, *, gate_id: str | None = None, component: str = "", detail: Mapping[str, object]
) -> Notice:
    """Begin a notice; `kind` is one of `NOTICE_ENDS`, `key` is what it is about: a gate, a channel, a model."""
    if kind not in NOTICE_ENDS:
        raise ValueError(f"notice: allowed are {', '.join(NOTICE_ENDS)}; got {kind!r}")
    return Notice(make_id("ntc", kind, key, rfc3339(at)), kind, key, gate_id, component, at, None, detail)


def close_notice(notice: Notice, at: datetime) -> Notice:
    """End a notice."""
    if notice.closed_at is not None:
        raise ValueError(f"notice {notice.notice_id} was closed at {rfc3339(notice.closed_at)}")
    return replace(notice, closed_at=at)


@dataclass(frozen=True, slots=True)
class Event:
    """What receivers are told. Order is kept among events of one `subject`, by `sequence`."""

    type: str
    at: datetime
    subject: str
    sequence: int
    data: Mapping[str, object]
    gate_id: str | None = None


def alert_event(change: Change, gate: Gate, public_url: str) -> Event:
    """Tell receivers about an alert's step; `public_url` is where people reach the console."""
    if change.event_type is None:
        raise ValueError(f"alert {change.after.alert_id}: this change tells nobody")
    alert = change.after
    action = recommended_action(alert.component, alert.failure_mode)
    data: dict[str, object] = {
        "alert_id": alert.alert_id,
        "gate_id": alert.gate_id,
        "gate_name": gate.name,
        "site": gate.station_name,
        "station_id": gate.station_id,
        "component": alert.component,
        "failure_mode": alert.failure_mode,
        "state": alert.state,
        "severity": alert.severity,
        "probability": _probability(alert.p_14d),
        "horizon_days": HORIZON_DAYS,
        "p_7d": _probability(alert.p_7d),
        "p_14d": _probability(alert.p_14d),
        "p_21d": _probability(alert.curve[20]),
        "expected_window": expected_window(alert.curve, alert.as_of),
        "respond_by": rfc3339(alert.respond_by),
        "confidence": alert.confidence,
        "data_quality": {"last_seen": rfc3339(gate.last_seen) if gate.last_seen else None},
        "evidence": list(alert.evidence),
        "recommended_action": {"code": action.code, "text_zh": action.text.zh, "text_en": action.text.en},
        "as_of": rfc3339(alert.as_of),
        "opened_at": rfc3339(alert.opened_at),
        "model": {"version": alert.model_version},
        "url": f"{public_url.rstrip('/')}/alerts/{alert.alert_id}",
    }
    if alert.acknowledged_at is not None:
        data |= {"acknowledged_by": alert.acknowledged_by, "acknowledged_at": rfc3339(alert.acknowledged_at)}
    if alert.resolved_at is not None:
        data |= {
            "resolved_by": alert.resolved_by,
            "resolved_at": rfc3339(alert.resolved_at),
            "resolution": alert.resolution,
            "finding": alert.finding,
            "note": alert.note[:MAX_NOTE] if alert.note else None,
        }
    return Event(change.event_type, change.at, alert.alert_id, alert.sequence, data, alert.gate_id)


def notice_event(notice: Notice, gate: Gate | None) -> Event:
    """Tell receivers that a notice began or, once it is closed, that it ended."""
    ended = notice.closed_at is not None
    data: dict[str, object] = {
        "notice_id": notice.notice_id,
        "severity": "low",
        "gate_id": notice.gate_id,
        "component": notice.component,
        "opened_at": rfc3339(notice.opened_at),
        "closed_at": rfc3339(notice.closed_at) if notice.closed_at else None,
        "detail": dict(notice.detail),
    }
    if gate is not None:
        data |= {"gate_name": gate.name, "site": gate.station_name, "station_id": gate.station_id}
    return Event(
        type=NOTICE_ENDS[notice.kind] if ended else notice.kind,
        at=notice.closed_at or notice.opened_at,
        subject=notice.notice_id,
        sequence=2 if ended else 1,
        data=data,
        gate_id=notice.gate_id,
    )


def endpoint_event(event_type: str, endpoint_id: str, at: datetime, data: Mapping[str, object]) -> Event:
    """A ping to prove ownership, or the news that an endpoint was disabled."""
    return Event(event_type, at, "", 1, {"endpoint_id": endpoint_id, **data})


def body(event: Event, locale: str = DEFAULT_LOCALE) -> bytes:
    """The JSON text of an event for one locale, as it is stored, signed and sent.

    Raises
    ------
    ValueError
        The text is longer than Standard Webhooks allows (20,000 bytes), or holds a number that JSON has no word for.
    """
    document = {
        "type": event.type,
        "specversion": "1",
        "timestamp": rfc3339(event.at),
        "sequence": event.sequence,
        "locale": locale,
        "data": _in_locale(event.data, locale),
    }
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    if len(text) > MAX_BODY_BYTES:
        raise ValueError(f"webhook body: allowed are {MAX_BODY_BYTES} bytes; {event.type} {event.subject} has {len(text)}")
    return text


def _in_locale(value: object, locale: str) -> object:
    if isinstance(value, Words):
        return value.in_locale(locale)[:MAX_NAME]
    if isinstance(value, Mapping):
        return {key: _in_locale(item, locale) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_in_locale(item, locale) for item in value]
    return value


def expected_window(curve: Sequence[float], as_of: datetime) -> dict[str, str]:
    """The calendar days on which a failure, should it come within 21 days, falls in 8 of 10 cases.

    From the day on which the curve has 10 % of its last value to the day on which it has 90 %. Day 1 of the curve is
    the day that begins at `as_of`.

    Examples
    --------
    >>> straight = [0.02 * day for day in range(1, 22)]
    >>> expected_window(straight, datetime(2026, 11, 20, tzinfo=UTC))
    {'from': '2026-11-22', 'to': '2026-12-08'}
    """
    days = [next(day for day, p in enumerate(curve) if p >= share * curve[-1]) for share in (0.1, 0.9)]
    first, last = ((as_of + timedelta(days=day)).date().isoformat() for day in days)
    return {"from": first, "to": last}


def rfc3339(instant: datetime) -> str:
    """An aware instant as UTC text, with milliseconds only where it has them.

    Examples
    --------
    >>> rfc3339(datetime(2026, 11, 20, 2, 10, tzinfo=UTC))
    '2026-11-20T02:10:00Z'
    """
    utc = instant.astimezone(UTC)
    return utc.isoformat(timespec="milliseconds" if utc.microsecond >= 1000 else "seconds").replace("+00:00", "Z")


def _probability(p: float) -> float:
    return round(p, 4)
