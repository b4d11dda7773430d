"""What every dialect asks of a message: its size, its time, and how to say what came instead. No clock of its own."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec

from pipeline.adapters import Gate
from pipeline.readings import ReadingError

TELEMETRY_BYTES = 65_536
FUTURE_MS = 5 * 60_000
"""A reading this far ahead of us is still believed: clocks differ."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)

Instant = Annotated[datetime, msgspec.Meta(tz=True)]

_FIRST_MS, _LAST_MS = -62_135_596_800_000, 253_402_300_799_999
"""The calendar's years 1 to 9999; an offset may lead out of them."""
_HOUR_MS = 3_600_000


def load_json(payload: bytes) -> Any:
    """Parse JSON, letting NaN and Infinity pass, so that the refusal can name the value."""
    try:
        return json.loads(payload.decode())
    except (ValueError, RecursionError) as error:
        raise ReadingError("not_json", f"the payload must be JSON in UTF-8; {error}") from None


def believable(ts_ms: int, gate: Gate, now_ms: int, field: str = "t") -> int:
    """Return the instant (epoch milliseconds) unless it is a clock fault.

    Raises
    ------
    ReadingError
        ``clock_fault``; an offset of 8 h and seconds sent as milliseconds are recognised and named.
    """
    if gate.since_ms <= ts_ms <= now_ms + FUTURE_MS:
        return ts_ms
    if ts_ms < gate.since_ms:
        seconds = gate.since_ms <= ts_ms * 1000 <= now_ms + FUTURE_MS
        named = " (seconds sent as if they were milliseconds?)" if seconds else ""
        raise ReadingError("clock_fault", f"{field}: the gate began at {utc(gate.since_ms)}; got {utc(ts_ms)}{named}")
    ahead_h = (min(ts_ms, _LAST_MS) - now_ms) / _HOUR_MS
    named = " (8 h: local time of UTC+8 sent as if it were UTC?)" if abs(ahead_h - 8) <= 0.25 else ""
    raise ReadingError(
        "clock_fault", f"{field}: may be at most 5 min ahead of {utc(now_ms)}; got {utc(ts_ms)}, {ahead_h:.1f} h ahead{named}"
    )


def utc(ts_ms: int) -> str:
    """Write an instant for a person."""
    return f"{EPOCH + timedelta(milliseconds=min(max(ts_ms, _FIRST_MS), _LAST_MS)):%Y-%m-%dT%H:%M:%SZ}"


def kind_of(value: Any) -> str:
    """Name what JSON brought."""
    return {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "nothing"}.get(
        type(value), "a number"
    )


def short(value: Any) -> str:
    """Show what came, of a long value only the beginning."""
    text = repr(value) if not isinstance(value, dict | list) else kind_of(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
