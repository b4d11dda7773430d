"""Failures and sensor faults on request, for demos and tests: what was asked for, and nothing else, changes.

``gate=G,mode=M,fail-at=T`` makes that failure; ``gate=G,channel=C,fault=F,at=T[,until=T]`` spoils that channel. This module only
reads the words; `degradation` and `sensor_faults` do it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from pipeline.errors import BadInput

FAULTS = {
    "stale": "the channel says nothing any more",
    "stuck": "it repeats its last value",
    "drift": "it moves by 5 K, or by 40 %, within 21 days and stays there",
    "spikes": "5 % of its samples jump",
    "clipping": "nothing above the third quartile of its healthy values in motion",
    "unit_slip": "it reports in another unit than declared",
    "loose_mount": "the accelerometer's mount is loose: all it measures is halved",
    "dropout": "30 % of its readings are missing",
}
"""Every sensor fault that can be asked for, and what it does."""

_FORMS = "gate=G,mode=M,fail-at=T or gate=G,channel=C,fault=F,at=T[,until=T]"


@dataclass(frozen=True, slots=True)
class ForcedFailure:
    """A failure that happens at ``at_s`` seconds from the start, whatever else does."""

    gate_id: str
    mode: str
    at_s: float


@dataclass(frozen=True, slots=True)
class ForcedFault:
    """A sensor fault of one channel from ``at_s`` to ``until_s``, seconds from the start."""

    gate_id: str
    channel: str
    fault: str
    at_s: float
    until_s: float = math.inf


def parse(text: str, start: datetime) -> ForcedFailure | ForcedFault:
    """Read one request.

    Parameters
    ----------
    text : see the module's beginning; ``T`` is RFC 3339 with an offset, or a date (midnight UTC)
    start : beginning of the simulation

    Raises
    ------
    BadInput
        The text has not the form, names a field twice or not at all, an unknown fault, or a time that is none.

    Examples
    --------
    >>> parse("gate=DSH-S1-G1,mode=gear,fail-at=2024-01-02", datetime(2024, 1, 1, tzinfo=UTC))
    ForcedFailure(gate_id='DSH-S1-G1', mode='gear', at_s=86400.0)
    """
    fields: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value or name in fields:
            raise BadInput(f"inject: must be {_FORMS}; got {text!r}")
        fields[name] = value
    if set(fields) == {"gate", "mode", "fail-at"}:
        return ForcedFailure(fields["gate"], fields["mode"], _seconds(fields["fail-at"], start))
    if {"gate", "channel", "fault", "at"} <= set(fields) <= {"gate", "channel", "fault", "at", "until"}:
        if fields["fault"] not in FAULTS:
            raise BadInput(f"inject: fault must be one of {', '.join(FAULTS)}; got {fields['fault']!r}")
        until_s = _seconds(fields["until"], start) if "until" in fields else math.inf
        at_s = _seconds(fields["at"], start)
        if until_s <= at_s:
            raise BadInput(f"inject: until must be later than at; got {fields['until']!r}")
        return ForcedFault(fields["gate"], fields["channel"], fields["fault"], at_s, until_s)
    raise BadInput(f"inject: must be {_FORMS}; got {text!r}")


def _seconds(text: str, start: datetime) -> float:
    try:
        instant = datetime.combine(date.fromisoformat(text), time(), UTC) if len(text) == 10 else datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise BadInput(f"inject: a time must be a date or RFC 3339 with an offset, as 2024-05-01T08:00:00Z; got {text!r}")
    return (instant - start).total_seconds()
