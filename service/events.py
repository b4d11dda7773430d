"""What receivers are told: the events of alerts, notices and endpoints, and their bodies. No clock, database or network.

An event holds its texts in every language; `body` picks the receiver's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from service.advice import Words, recommended_action
from service.alerts import MAX_NOTE, NOTICE_ENDS, Change, Confidence, Notice, rfc3339
from service.reasons import reason

LOCALES = ("zh-CN", "en")
DEFAULT_LOCALE = "zh-CN"

HORIZON_DAYS = 14
MAX_BODY_BYTES = 20_000
MAX_NAME = 200

ALERT_EVENTS = ("alert.opened", "alert.updated", "alert.acknowledged", "alert.resolved")
EVENT_TYPES: tuple[str, ...] = (
    *ALERT_EVENTS,
    *(event for pair in NOTICE_ENDS.items() for event in pair),
    "endpoint.ping",
    "endpoint.disabled",
)

CONFIDENCE_TEXTS: Mapping[Confidence, Words] = {
    "calibrated": Words(zh="已按本站数据校准", en="calibrated here"),
    "not_yet_calibrated_here": Words(zh="尚未按本站数据校准", en="not yet calibrated here"),
}
"""Whether the threshold behind an alert was tuned on this site's own history."""


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
        "failure_mode_share": None if alert.failure_mode_share is None else _probability(alert.failure_mode_share),
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
        "confidence_text": CONFIDENCE_TEXTS[alert.confidence],
        "data_quality": {"last_seen": rfc3339(gate.last_seen) if gate.last_seen else None},
        "evidence": [{**item, "text": reason(item)} for item in alert.evidence],
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
    >>> from datetime import UTC
    >>> straight = [0.02 * day for day in range(1, 22)]
    >>> expected_window(straight, datetime(2026, 11, 20, tzinfo=UTC))
    {'from': '2026-11-22', 'to': '2026-12-08'}
    """
    days = [next(day for day, p in enumerate(curve) if p >= share * curve[-1]) for share in (0.1, 0.9)]
    first, last = ((as_of + timedelta(days=day)).date().isoformat() for day in days)
    return {"from": first, "to": last}


def _probability(p: float) -> float:
    return round(p, 4)
