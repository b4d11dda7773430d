"""The native dialect: JSON on ``sluicewatch/v1/<station>/<gate>/…``. No network, no database, no clock.

Telemetry comes on ``…/<component>/telemetry`` as one reading ``{"t", "values", "units"}`` or as ``{"readings": [ … ]}``, a
raw vibration burst (`pipeline.waveforms`) on ``…/<component>/waveform``, a gate's status on ``…/status``, and what it measures on
``…/discovery``. A clean message takes the fast way, which only has to notice that something is wrong; any other is examined part
by part, so that its refusal lists every gap at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec

from pipeline import waveforms
from pipeline.adapters import Decoded, Fleet, Gate, Message
from pipeline.adapters.checks import (
    EPOCH,
    FUTURE_MS,
    MILLISECOND,
    TELEMETRY_BYTES,
    Instant,
    believable,
    kind_of,
    load_json,
    short,
)
from pipeline.readings import (
    ID_PATTERN,
    Channel,
    Reading,
    ReadingError,
    check_range,
    find_conversion,
    find_quantity,
    split_name,
    to_canonical,
)
from pipeline.spectra import Machine, indicators

FILTERS = ("sluicewatch/v1/#",)
STATUS_BYTES = 4_096
DISCOVERY_BYTES = TELEMETRY_BYTES


class _OneReading(msgspec.Struct, gc=False):
    t: Instant
    values: dict[str, float]
    units: dict[str, str] = {}


class _Telemetry(msgspec.Struct, gc=False):
    t: Instant | None = None
    seq: int | None = None
    values: dict[str, float] | None = None
    units: dict[str, str] | None = None
    readings: list[_OneReading] | None = None


class _Status(msgspec.Struct):
    status: Literal["online", "offline"]
    t: Instant | None = None


class _Channel(msgspec.Struct, forbid_unknown_fields=True):
    """A row of channels.csv."""

    component: str
    quantity: str
    unit: str
    gate_id: str | None = None
    point: str = ""
    axis: str = ""
    band_low_hz: float | None = None
    band_high_hz: float | None = None
    interval_s: Annotated[float, msgspec.Meta(gt=0)] | None = None


_telemetry = msgspec.json.Decoder(_Telemetry)
_status = msgspec.json.Decoder(_Status)


def decode(message: Message, fleet: Fleet, now_ms: int) -> Decoded:
    """Return what a message of the native dialect holds.

    Parameters
    ----------
    message : Message
    fleet : Fleet
        The registered gates and declared units.
    now_ms : int
        The present, in epoch milliseconds.

    Returns
    -------
    Decoded
        Readings in the order of the message. Reasons of refusals: ``wrong_topic``, ``oversize``, ``unknown_gate``,
        ``identity_mismatch``, ``retained``, ``not_json``, ``wrong_shape``, ``clock_fault``, ``unknown_quantity``,
        ``unit_missing``, ``wrong_unit``, ``not_finite``, ``out_of_range``.
    """
    try:
        return _decode(message, fleet, now_ms)
    except ReadingError as refusal:
        return Decoded(refusals=(refusal,))


def _decode(message: Message, fleet: Fleet, now_ms: int) -> Decoded:
    match message.topic.split("/"):
        case ["sluicewatch", "v1", station_id, gate_id, component, "telemetry"]:
            kind, limit = "telemetry", TELEMETRY_BYTES
        case ["sluicewatch", "v1", station_id, gate_id, component, "waveform"]:
            kind, limit = "waveform", waveforms.MAX_BYTES
        case ["sluicewatch", "v1", station_id, gate_id, "status"]:
            kind, limit, component = "status", STATUS_BYTES, ""
        case ["sluicewatch", "v1", station_id, gate_id, "discovery"]:
            kind, limit, component = "discovery", DISCOVERY_BYTES, ""
        case ["sluicewatch", "v1", _, _, "alert"]:
            return Decoded(ours=False)  # our own word, which the broker sends back to us
        case _:
            raise ReadingError(
                "wrong_topic",
                "topic must be sluicewatch/v1/<station>/<gate>/<component>/telemetry or …/waveform, or "
                f"sluicewatch/v1/<station>/<gate>/status or …/discovery; got {message.topic!r}",
            )
    if len(message.payload) > limit:
        raise ReadingError("oversize", f"a {kind} message may have {limit} bytes; got more")
    gate = fleet.gate(gate_id)
    if gate is None and kind == "discovery":
        return _decode_discovery(message.payload, gate_id, station_id, joins=True)
    if gate is None:
        raise ReadingError("unknown_gate", f"gate {gate_id!r} is not registered; import or register it first")
    if gate.station_id != station_id:
        raise ReadingError(
            "identity_mismatch", f"gate {gate_id!r} belongs to station {gate.station_id!r}; the topic says {station_id!r}"
        )
    if kind == "status":
        return _decode_status(message.payload, gate, now_ms)
    if kind == "discovery":
        return _decode_discovery(message.payload, gate_id, station_id, joins=False)
    if message.retained:
        raise ReadingError("retained", f"a {kind} message must be published without the retain flag: a kept copy looks fresh")
    declared = fleet.units(gate_id, component)
    if not declared and not ID_PATTERN.match(component):
        raise ReadingError("wrong_topic", f"a component's name must match [A-Za-z0-9_-]{{1,128}}; got {component!r}")
    if kind == "waveform":
        return _decode_burst(message.payload, gate, component, declared, fleet.machine(gate_id, component), now_ms)
    clean = _read_clean(message.payload, gate, component, declared, now_ms)
    return clean or _examine(load_json(message.payload), gate, component, declared, now_ms)


def _read_clean(payload: bytes, gate: Gate, component: str, declared: Mapping[str, str], now_ms: int) -> Decoded | None:
    """Decode a message in which everything is right; return None for any other."""
    try:
        telemetry = _telemetry.decode(payload)
        items: Iterable[_OneReading | _Telemetry] | None = telemetry.readings
        if items is None:
            items = (telemetry,)
        elif telemetry.t is not None or telemetry.values is not None or telemetry.units is not None:
            return None
        gate_id = gate.gate_id
        earliest, latest = gate.since_ms, now_ms + FUTURE_MS
        readings = []
        new: dict[str, str] = {}
        units: dict[str, str] = {}
        rules: dict[str, _Rule] = {}  # the readings of one message are mostly alike
        for item in items:
            if item.t is None or not item.values:
                return None
            ts_ms = (item.t - EPOCH) // MILLISECOND
            if not earliest <= ts_ms <= latest:
                return None
            if (item.units or {}) != units:
                units, rules = item.units or {}, {}
            values = {}
            for name, value in item.values.items():
                rule = rules.get(name)
                if rule is None:
                    unit = units[name] if name in units else declared[name]
                    if name not in declared:
                        new.setdefault(name, unit)
                    rule = rules[name] = _rule(name, unit)
                factor, offset, low, high = rule
                canonical = value * factor + offset
                if not low <= canonical <= high:
                    return None
                values[name] = canonical
            readings.append(Reading(gate_id, component, ts_ms, values))
        seq = telemetry.seq
    except (ValueError, RecursionError, ReadingError, KeyError):  # msgspec's own errors and UnicodeDecodeError are ValueErrors
        return None
    if not readings:
        return None
    return Decoded(readings, _channels(gate_id, component, new), seq=_count(seq))


def _channels(gate_id: str, component: str, units: Mapping[str, str]) -> list[Channel]:
    channels = []
    for name, unit in units.items():
        point, quantity = split_name(name)
        channels.append(Channel(gate_id, component, quantity, unit, point))
    return channels


_Rule = tuple[float, float, float, float]


@lru_cache(maxsize=8192)
def _rule(name: str, unit: str) -> _Rule:
    """Return factor and offset to the canonical unit, and the limits of the possible in it."""
    _, quantity = split_name(name)
    conversion = find_conversion(quantity, unit)
    known = find_quantity(quantity)
    return conversion.factor, conversion.offset, known.low, known.high


def _examine(document: Any, gate: Gate, component: str, declared: Mapping[str, str], now_ms: int) -> Decoded:
    """Take a message apart that is not wholly right: keep each good value, name each gap."""
    if not isinstance(document, dict):
        raise ReadingError("wrong_shape", f"the payload must be a JSON object; got {kind_of(document)}")
    items = [document]
    if document.get("readings") is not None:
        items = document["readings"]
        beside = [name for name in ("t", "values", "units") if document.get(name) is not None]
        if beside:
            raise ReadingError("wrong_shape", f"{', '.join(beside)}: belongs inside each of `readings`, not beside it")
        if not isinstance(items, list) or not items:
            raise ReadingError("wrong_shape", f"readings: must be a list of one or more; got {kind_of(items)}")
    readings: list[Reading] = []
    refusals: list[ReadingError] = []
    new: dict[str, str] = {}
    for number, item in enumerate(items):
        where = "" if item is document else f"readings[{number}]."
        try:
            ts_ms, units, values = _parts(item, gate, now_ms)
        except ReadingError as refusal:
            refusals.append(ReadingError(refusal.reason, f"{where}{refusal}"))
            continue
        good = {}
        for name, value in values.items():
            try:
                good[name] = _canonical(name, value, units, declared)
            except ReadingError as refusal:
                refusals.append(ReadingError(refusal.reason, f"{where}{refusal}"))
            else:
                if name not in declared:
                    new.setdefault(name, units[name])
        if good:
            readings.append(Reading(gate.gate_id, component, ts_ms, good))
    return Decoded(readings, _channels(gate.gate_id, component, new), refusals, seq=_count(document.get("seq")))


def _count(seq: Any) -> int | None:
    """The publisher's own count, if it is one: it only ever reports, so anything else is passed over."""
    return seq if isinstance(seq, int) and not isinstance(seq, bool) and 0 <= seq < 2**63 else None


def _parts(item: Any, gate: Gate, now_ms: int) -> tuple[int, dict[str, Any], dict[str, Any]]:
    if not isinstance(item, dict):
        raise ReadingError("wrong_shape", f"a reading must be a JSON object; got {kind_of(item)}")
    units, values = item.get("units"), item.get("values")
    if units is None:
        units = {}
    if not isinstance(units, dict):
        raise ReadingError("wrong_shape", f"units: must be an object of names and units; got {kind_of(units)}")
    if not isinstance(values, dict) or not values:
        raise ReadingError("wrong_shape", f"values: must be an object of one or more names and numbers; got {kind_of(values)}")
    return _instant_ms(item.get("t"), gate, now_ms), units, values


def _instant_ms(text: Any, gate: Gate, now_ms: int) -> int:
    try:
        instant = msgspec.convert(text, Instant)
    except ValueError:  # ValidationError, and UnicodeEncodeError for half a surrogate pair
        raise ReadingError(
            "wrong_shape", f"t: must be RFC 3339 with an offset, as 2026-03-01T08:15:00Z; got {short(text)}"
        ) from None
    return believable((instant - EPOCH) // MILLISECOND, gate, now_ms)


def _canonical(name: str, value: Any, units: Mapping[str, Any], declared: Mapping[str, str]) -> float:
    _, quantity = split_name(name)
    known = find_quantity(quantity)
    unit = units[name] if name in units else declared.get(name)
    allowed = ", ".join(known.accepted)
    if unit is None:
        raise ReadingError("unit_missing", f"{name}: add its unit under `units` (allowed are {allowed}) or declare the channel")
    if not isinstance(unit, str) or unit not in known.accepted:
        raise ReadingError("wrong_unit", f"{name}: the unit must be one of {allowed}; got {short(unit)}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ReadingError("wrong_shape", f"{name}: must be a number; got {short(value)}")
    try:
        return to_canonical(quantity, unit, float(value))
    except OverflowError:
        raise ReadingError("not_finite", f"{name}: must be a finite number; got {short(value)}") from None
    except ReadingError as refusal:
        raise ReadingError(refusal.reason, f"{name}: {refusal}") from None


def _decode_burst(
    payload: bytes, gate: Gate, component: str, declared: Mapping[str, str], machine: Machine, now_ms: int
) -> Decoded:
    """One burst is one reading: what its spectra say of channels at its point."""
    try:
        burst = waveforms.decode(payload)
    except waveforms.WaveformError as error:
        raise ReadingError("wrong_shape", str(error)) from None
    ts_ms = believable((burst.t - EPOCH) // MILLISECOND, gate, now_ms)
    values: dict[str, float] = {}
    refusals: list[ReadingError] = []
    for quantity, value in indicators(burst, machine).items():
        try:
            values[f"{burst.point}.{quantity}"] = check_range(quantity, value)
        except ReadingError as refusal:
            refusals.append(ReadingError(refusal.reason, f"{quantity} of the burst: {refusal}"))
    new = {name: find_quantity(split_name(name)[1]).unit for name in values if name not in declared}
    return Decoded(
        [Reading(gate.gate_id, component, ts_ms, values)] if values else (),
        _channels(gate.gate_id, component, new),
        refusals,
        burst=waveforms.burst_path(gate.gate_id, component, burst.point, burst.t),
    )


def _decode_status(payload: bytes, gate: Gate, now_ms: int) -> Decoded:
    """``{"status": "online" | "offline", "t"}``: an online gate is alive at `t`; a will, being old, carries none."""
    try:
        status = _status.decode(payload)
    except (ValueError, RecursionError) as error:
        raise ReadingError("wrong_shape", f'a status must be {{"status": "online" or "offline", "t"}}; {error}') from None
    connected = {gate.gate_id: status.status}
    if status.t is None or status.status == "offline":
        return Decoded(connected=connected)
    return Decoded(seen={gate.gate_id: believable((status.t - EPOCH) // MILLISECOND, gate, now_ms)}, connected=connected)


def _decode_discovery(payload: bytes, gate_id: str, station_id: str, *, joins: bool) -> Decoded:
    """``{"channels": [ … ]}`` with the fields of channels.csv: what can be is declared, the others refused by their number."""
    for name, level in (("gate", gate_id), ("station", station_id)):
        if not ID_PATTERN.match(level):
            raise ReadingError("wrong_topic", f"a {name}'s name must match [A-Za-z0-9_-]{{1,128}}; got {level!r}")
    document = load_json(payload)
    items = document.get("channels") if isinstance(document, dict) else None
    if not isinstance(items, list) or not items:
        raise ReadingError("wrong_shape", 'a discovery must be {"channels": [ … ]} with one channel or more, as in channels.csv')
    channels: list[Channel] = []
    refusals: list[ReadingError] = []
    for number, item in enumerate(items):
        try:
            channels.append(_channel(item, gate_id))
        except ReadingError as refusal:
            refusals.append(ReadingError(refusal.reason, f"channels[{number}]: {refusal}"))
    return Decoded(channels=channels, refusals=refusals, joins={gate_id: station_id} if joins and channels else {})


def _channel(item: Any, gate_id: str) -> Channel:
    try:
        told = msgspec.convert(item, _Channel)
    except ValueError as error:  # ValidationError, and UnicodeEncodeError for half a surrogate pair
        raise ReadingError("wrong_shape", f"must have the fields of channels.csv; {error}") from None
    if told.gate_id not in (None, "*", gate_id):
        raise ReadingError("identity_mismatch", f"gate_id: may be left out or {gate_id!r}; got {short(told.gate_id)}")
    for name, value in (("component", told.component), ("point", told.point or "point")):
        if not ID_PATTERN.match(value):
            raise ReadingError("wrong_shape", f"{name}: must match [A-Za-z0-9_-]{{1,128}}; got {short(value)}")
    for name in ("band_low_hz", "band_high_hz", "interval_s"):
        value = getattr(told, name)
        if value is not None and not math.isfinite(value):
            raise ReadingError("not_finite", f"{name}: must be a finite number; got {value}")
    find_conversion(told.quantity, told.unit)
    return Channel(
        gate_id=gate_id,
        component=told.component,
        quantity=told.quantity,
        unit=told.unit,
        point=told.point,
        axis=told.axis[:128],
        band_low_hz=told.band_low_hz,
        band_high_hz=told.band_high_hz,
        interval_s=told.interval_s,
    )
