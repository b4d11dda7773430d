"""Life cycle of an alert: open, update, acknowledge, resolve; and of a notice. No clock, database or network.

Every decision takes values, the time among them, and returns a `Change`; `service.store` writes it and `service.events`
says what receivers are told of it. When a case opens and closes is not decided here but in `models.policy`. Identity is
(gate, component): the failure mode, the severity and the model version are facts about an alert and may change while it
stays the same alert.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from pipeline.dataset import FINDINGS
from pipeline.errors import SluicewatchError

Severity = Literal["low", "medium", "high", "critical"]
State = Literal["open", "acknowledged", "resolved"]
Confidence = Literal["calibrated", "not_yet_calibrated_here"]

SEVERITIES: tuple[Severity, ...] = ("low", "medium", "high", "critical")
"""From least to most urgent: 四级 … 一级 of the risk grade (风险等级)."""

STATES: tuple[State, ...] = ("open", "acknowledged", "resolved")

RESOLUTIONS = ("auto_cleared", "repaired", "by_person", "model_withdrawn")
"""Why an alert ended: the policy closed the case, a maintenance record did, a person did, or its model was replaced on hold."""

MAX_EVIDENCE = 5
MAX_NOTE = 1_000

SEVERITY_FALLS_AFTER = timedelta(hours=24)

NOTICE_ENDS: Mapping[str, str] = {
    "gate.data_stale": "gate.data_restored",
    "sensor.fault": "sensor.restored",
    "model.on_hold": "model.released",
    "model.drift": "model.drift_over",
    "alarms.over_budget": "alarms.within_budget",
    "door.refused": "door.quiet",
}
"""Kinds of notice and the event that tells their end."""


class IllegalTransition(SluicewatchError):
    """The alert's state does not allow what was asked; the message says the state and what it allows."""

    def __init__(self, alert: Alert, action: str, allowed: Sequence[State]) -> None:
        self.alert_id = alert.alert_id
        self.state = alert.state
        self.action = action
        super().__init__(f"{action}: allowed in state {' or '.join(allowed)}; alert {alert.alert_id} is {alert.state}")


@dataclass(frozen=True, slots=True)
class Outlook:
    """What one scored day says about one component; `curve` holds P(failure within 1..21 days).

    `failure_mode_share` is the mode's share among those of the component; None where nobody knows.
    """

    as_of: datetime
    curve: tuple[float, ...]
    failure_mode: str
    model_version: str
    severity: Severity
    respond_by: datetime
    confidence: Confidence
    evidence: tuple[Mapping[str, object], ...] = ()
    failure_mode_share: float | None = None

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
    failure_mode_share: float | None = None

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
        failure_mode_share=outlook.failure_mode_share,
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
        failure_mode_share=outlook.failure_mode_share,
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
    """A plain message of low severity with a beginning and an end: no data, a sensor not believed, a model on hold, drift, too
    many false alarms."""

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


def rfc3339(instant: datetime) -> str:
    """An aware instant as UTC text, with milliseconds only where it has them.

    Examples
    --------
    >>> rfc3339(datetime(2026, 11, 20, 2, 10, tzinfo=UTC))
    '2026-11-20T02:10:00Z'
    """
    utc = instant.astimezone(UTC)
    return utc.isoformat(timespec="milliseconds" if utc.microsecond >= 1000 else "seconds").replace("+00:00", "Z")
