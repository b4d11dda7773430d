"""The native dialect: golden messages of the documentation, each kind of refusal, and garbage."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.adapters import Decoded, Gate, Message, native
from pipeline.readings import QUANTITIES, Channel, Reading
from pipeline.spectra import Machine

NOW_MS = 1_772_352_900_000  # 2026-03-01T08:15:00Z
MARCH_2024_MS = 1_709_251_200_000
TOPIC = "sluicewatch/v1/S1/G1/motor/telemetry"


class OneGate:
    """A fleet of gate G1 of station S1, whose motor has declared channels."""

    def __init__(self, units: Mapping[str, str] | None = None) -> None:
        self.declared = {"winding.temperature": "degC"} if units is None else units

    def gate(self, gate_id: str) -> Gate | None:
        return Gate("G1", "S1", MARCH_2024_MS) if gate_id == "G1" else None

    def units(self, gate_id: str, component: str) -> Mapping[str, str]:
        return self.declared if component == "motor" else {}

    def machine(self, gate_id: str, component: str) -> Machine:
        return Machine()


def decode(payload: Any, topic: str = TOPIC, *, retained: bool = False, fleet: OneGate | None = None) -> Decoded:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return native.decode(Message(topic, data, retained), fleet or OneGate(), NOW_MS)


def reasons(found: Decoded) -> list[str]:
    return [refusal.reason for refusal in found.refusals]


def one(values: Any, t: Any = "2026-03-01T08:15:00Z", units: Any = None) -> dict[str, Any]:
    return {"t": t, "values": values, "units": units} if units is not None else {"t": t, "values": values}


def test_the_documented_message_becomes_one_reading() -> None:
    payload = (
        b'{"t": "2026-03-01T08:15:00.250Z", "seq": 4711, "values": {"velocity_rms": 1.31, "winding.temperature": 38.7}, '
        b'"units": {"velocity_rms": "mm/s"}}'
    )

    found = decode(payload)

    assert found == Decoded(
        readings=[Reading("G1", "motor", NOW_MS + 250, {"velocity_rms": 1.31, "winding.temperature": 38.7})],
        channels=[Channel("G1", "motor", "velocity_rms", "mm/s")],
        refusals=(),
        seq=4711,
    )


def test_a_message_that_is_refused_in_part_still_counts_in_its_publishers_sequence() -> None:
    found = decode({"seq": 4711, **one({"winding.temperature": 30, "velocity_rms": "fast"}, units={"velocity_rms": "mm/s"})})

    assert reasons(found) == ["wrong_shape"]
    assert found.seq == 4711


def test_a_batch_becomes_its_readings_in_order() -> None:
    items = [one({"winding.temperature": 30 + n}, f"2026-03-01T08:0{n}:00+00:00") for n in range(3)]

    found = decode({"readings": items})

    assert [reading.ts_ms for reading in found.readings] == [NOW_MS - 60_000 * m for m in (15, 14, 13)]
    assert [reading.values["winding.temperature"] for reading in found.readings] == [30.0, 31.0, 32.0]
    assert not found.refusals


@pytest.mark.parametrize(
    ("name", "value", "unit", "canonical"),
    [
        ("velocity_rms", 0.0025, "m/s", 2.5),
        ("acceleration_rms", 9.80665, "m/s2", 1.0),
        ("acceleration_peak", 1500, "mg", 1.5),
        ("winding.temperature", 212, "degF", 100.0),
        ("oil.temperature", 300.15, "K", 27.0),
        ("current", 12_500, "mA", 12.5),
        ("opening", 320, "cm", 3.2),
        ("head", 4_100, "mm", 4.1),
        ("load", 80, "%", 0.8),
        ("oil_pressure", 16, "MPa", 160.0),
        ("moving", 1, "1", 1.0),
    ],
)
def test_units_are_converted_on_the_way_in(name: str, value: float, unit: str, canonical: float) -> None:
    found = decode(one({name: value}, units={name: unit}))

    assert found.readings[0].values[name] == pytest.approx(canonical, rel=1e-12)
    assert not found.refusals


def test_a_declared_unit_counts_where_the_message_has_none_and_the_message_wins_where_it_has_one() -> None:
    fleet = OneGate({"velocity_rms": "m/s"})

    left_out = decode(one({"velocity_rms": 0.002}), fleet=fleet)
    given_anew = decode(one({"velocity_rms": 2.0}, units={"velocity_rms": "mm/s"}), fleet=fleet)

    assert left_out.readings == given_anew.readings
    assert left_out.readings[0].values == {"velocity_rms": 2.0}
    assert not given_anew.channels


def test_an_offset_from_utc_names_the_same_instant() -> None:
    found = decode(one({"winding.temperature": 30.0}, "2026-03-01T16:15:00.250+08:00"))

    assert found.readings[0].ts_ms == NOW_MS + 250


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"winding 38.7", "not_json"),
        (b"", "not_json"),
        (b'\xff\xfe{"t"', "not_json"),
        (b"\x1f\x8b\x08\x00", "not_json"),
        (b'{"values": {"\x80": 1}}', "not_json"),
        (b"[" * 30_000, "not_json"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "not_json"),
        (b"[]", "wrong_shape"),
        (b"38.7", "wrong_shape"),
        (b"{}", "wrong_shape"),
        (b'{"readings": []}', "wrong_shape"),
        (b'{"readings": {"t": 1}}', "wrong_shape"),
        (b'{"readings": [7]}', "wrong_shape"),
        (b'{"readings": [], "t": "2026-03-01T08:15:00Z", "values": {"winding.temperature": 1}}', "wrong_shape"),
        (one({}), "wrong_shape"),
        (one([1, 2]), "wrong_shape"),
        (one({"winding.temperature": "38.7"}), "wrong_shape"),
        (one({"winding.temperature": True}), "wrong_shape"),
        (one({"winding.temperature": None}), "wrong_shape"),
        (one({"winding.temperature": {}}), "wrong_shape"),
        (one({"winding.temperature": 1.0}, units=["degC"]), "wrong_shape"),
        (one({"a.b.temperature": 1.0}, units={"a.b.temperature": "degC"}), "wrong_shape"),
        (one({"bad point.temperature": 1.0}, units={"bad point.temperature": "degC"}), "wrong_shape"),
        (one({"winding.temperature": 1.0}, t=1772352900), "wrong_shape"),
        (one({"winding.temperature": 1.0}, t=None), "wrong_shape"),
        (one({"winding.temperature": 1.0}, t="2026-03-01T08:15:00"), "wrong_shape"),
        (one({"winding.temperature": 1.0}, t="\ud800"), "wrong_shape"),
        (one({"winding.temperature": 1.0}, t="2026-02-30T08:15:00Z"), "wrong_shape"),
        (one({"winding.temperature": float("nan")}), "not_finite"),
        (one({"winding.temperature": float("-inf")}), "not_finite"),
        (b'{"t": "2026-03-01T08:15:00Z", "values": {"winding.temperature": 1e999}}', "not_finite"),
        (one({"winding.temperature": 10**400}), "not_finite"),
        (one({"winding.temperature": -273.15}), "out_of_range"),
        (one({"velocity_rms": 1e308}, units={"velocity_rms": "m/s"}), "not_finite"),
        (one({"moving": 2}, units={"moving": "1"}), "out_of_range"),
        (one({"velocity_rms": 1.3}, units={"velocity_rms": "furlong"}), "wrong_unit"),
        (one({"velocity_rms": 1.3}, units={"velocity_rms": 5}), "wrong_unit"),
        (one({"velocity_rms": 1.3}), "unit_missing"),
        (one({"wobble": 1.3}, units={"wobble": "1"}), "unknown_quantity"),
        (one({"winding.temperature": 30.0}, t="2026-03-01T08:20:00.001Z"), "clock_fault"),
        (one({"winding.temperature": 30.0}, t="2024-02-29T23:59:59.999Z"), "clock_fault"),
        (one({"winding.temperature": 30.0}, t="1970-01-01T00:00:07Z"), "clock_fault"),
        (one({"winding.temperature": 30.0}, t="0001-01-01T00:00:00+08:00"), "clock_fault"),
        (one({"winding.temperature": 30.0}, t="9999-12-31T23:59:59-08:00"), "clock_fault"),
        (b'{"t": "' + b"x" * 65_536 + b'"}', "oversize"),
    ],
)
def test_a_message_that_cannot_be_used_is_refused_with_its_reason(payload: Any, reason: str) -> None:
    found = decode(payload)

    assert not found.readings
    assert not found.channels
    assert reasons(found) == [reason]


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        ("sluicewatch/v1/S1/G2/motor/telemetry", "unknown_gate"),
        ("sluicewatch/v1/S2/G1/motor/telemetry", "identity_mismatch"),
        ("sluicewatch/v1/S1/G1/telemetry", "wrong_topic"),
        ("sluicewatch/v1/S1/G1/motor/telemetry/more", "wrong_topic"),
        ("sluicewatch/v2/S1/G1/motor/telemetry", "wrong_topic"),
        ("sluicewatch/v1/S1/G1/mo tor/telemetry", "wrong_topic"),
        ("sluicewatch/v1/S1/G1//telemetry", "wrong_topic"),
        ("", "wrong_topic"),
    ],
)
def test_a_topic_that_names_no_gate_of_ours_is_refused(topic: str, reason: str) -> None:
    found = decode(one({"winding.temperature": 30.0}), topic)

    assert (found.readings, reasons(found)) == ((), [reason])


def test_the_limits_of_time_and_size_are_still_allowed() -> None:
    newest = decode(one({"winding.temperature": 30.0}, t="2026-03-01T08:20:00Z"))
    oldest = decode(one({"winding.temperature": 30.0}, t="2024-03-01T00:00:00Z"))
    padded = json.dumps(one({"winding.temperature": 30.0})).encode().ljust(65_536)

    assert not newest.refusals
    assert not oldest.refusals
    assert not decode(padded).refusals
    assert reasons(decode(padded + b" ")) == ["oversize"]


@pytest.mark.parametrize(("t", "named"), [("16:15:00", True), ("16:20:30", True), ("15:00:00", False), ("18:00:00", False)])
def test_local_time_sent_as_utc_is_recognised_and_named(t: str, named: bool) -> None:
    found = decode(one({"winding.temperature": 30.0}, f"2026-03-01T{t}Z"))

    assert reasons(found) == ["clock_fault"]
    assert ("UTC+8" in str(found.refusals[0])) is named


def test_a_kept_copy_of_telemetry_is_refused_because_it_looks_fresh() -> None:
    assert reasons(decode(one({"winding.temperature": 30.0}), retained=True)) == ["retained"]


def test_one_bad_reading_in_a_batch_costs_only_itself() -> None:
    items = [
        one({"winding.temperature": 30.0}),
        one({"winding.temperature": 31.0}, t="yesterday"),
        one({"winding.temperature": 32.0}, t="2026-03-01T08:14:00Z"),
    ]

    found = decode({"readings": items})

    assert [reading.values["winding.temperature"] for reading in found.readings] == [30.0, 32.0]
    assert reasons(found) == ["wrong_shape"]
    assert str(found.refusals[0]).startswith("readings[1].t: ")


def test_one_bad_value_in_a_reading_costs_only_itself() -> None:
    """A broken temperature probe must not make its gate's vibration disappear."""
    found = decode(one({"winding.temperature": float("nan"), "velocity_rms": 1.3}, units={"velocity_rms": "mm/s"}))

    assert [reading.values for reading in found.readings] == [{"velocity_rms": 1.3}]
    assert reasons(found) == ["not_finite"]


def test_a_refusal_lists_every_gap_at_once() -> None:
    found = decode(one({"velocity_rms": 1.3, "wobble": 2, "current": 3}, units={"current": "V"}))

    assert reasons(found) == ["unit_missing", "unknown_quantity", "wrong_unit"]
    assert [str(refusal).partition(":")[0] for refusal in found.refusals[::2]] == ["velocity_rms", "current"]


def test_a_fractional_millisecond_is_cut_off() -> None:
    found = decode(one({"winding.temperature": 30.0}, "2026-03-01T08:15:00.250999Z"))

    assert found.readings[0].ts_ms == NOW_MS + 250


def test_a_status_tells_that_a_gate_is_alive_and_nothing_else() -> None:
    topic = "sluicewatch/v1/S1/G1/status"

    online = decode({"status": "online", "t": "2026-03-01T08:10:00Z"}, topic, retained=True)
    will = decode({"status": "offline"}, topic)
    wrong = decode({"status": "asleep"}, topic)
    ahead = decode({"status": "online", "t": "2026-03-01T09:10:00Z"}, topic)
    garbled = decode(b'{"status": "\x80"}', topic)

    assert online == Decoded(seen={"G1": NOW_MS - 300_000}, connected={"G1": "online"})
    assert will == Decoded(connected={"G1": "offline"})
    assert reasons(wrong) == ["wrong_shape"]
    assert reasons(ahead) == ["clock_fault"]
    assert reasons(garbled) == ["wrong_shape"]


DISCOVERY = "sluicewatch/v1/S1/G1/discovery"
MOTOR = {"component": "motor", "point": "bearing_de", "quantity": "temperature", "unit": "degF", "interval_s": 900}


def test_a_discovery_declares_channels_and_says_which_gate_nobody_knows() -> None:
    known = decode(
        {"channels": [MOTOR, {"component": "leaf", "quantity": "velocity_rms", "unit": "mm/s"}]}, DISCOVERY, retained=True
    )
    new = decode({"channels": [MOTOR | {"gate_id": "G9"}]}, "sluicewatch/v1/S7/G9/discovery")

    assert known.channels == [
        Channel("G1", "motor", "temperature", "degF", "bearing_de", interval_s=900.0),
        Channel("G1", "leaf", "velocity_rms", "mm/s"),
    ]
    assert (known.joins, known.refusals, known.readings) == ({}, [], ())
    assert (new.joins, [channel.gate_id for channel in new.channels]) == ({"G9": "S7"}, ["G9"])


@pytest.mark.parametrize(
    ("channel", "reason", "told"),
    [
        (MOTOR | {"unit": "furlong"}, "wrong_unit", "furlong"),
        (MOTOR | {"quantity": "colour"}, "unknown_quantity", "colour"),
        (MOTOR | {"gate_id": "G2"}, "identity_mismatch", "gate_id: may be left out or 'G1'; got 'G2'"),
        (MOTOR | {"component": "mo tor"}, "wrong_shape", "component: must match"),
        (MOTOR | {"interval": 900}, "wrong_shape", "unknown field `interval`"),
        (MOTOR | {"interval_s": 0}, "wrong_shape", "$.interval_s"),
        (MOTOR | {"band_low_hz": float("inf")}, "not_finite", "band_low_hz: must be a finite number; got inf"),
        ({"component": "motor", "unit": "g"}, "wrong_shape", "missing required field `quantity`"),
        ("motor", "wrong_shape", "Expected `object`"),
    ],
)
def test_a_channel_that_cannot_be_is_refused_and_those_beside_it_are_declared(channel: Any, reason: str, told: str) -> None:
    found = decode({"channels": [MOTOR, channel]}, DISCOVERY)

    assert reasons(found) == [reason]
    assert str(found.refusals[0]).startswith("channels[1]: ")
    assert told in str(found.refusals[0])
    assert len(found.channels) == 1


@pytest.mark.parametrize("payload", [{"channels": []}, {"channels": {}}, {}, [], b"x"])
def test_a_discovery_without_channels_is_refused_and_no_gate_joins(payload: Any) -> None:
    found = decode(payload, "sluicewatch/v1/S7/G9/discovery")

    assert reasons(found) in (["wrong_shape"], ["not_json"])
    assert found.joins is None


def test_our_own_alerts_are_not_taken_for_messages() -> None:
    assert decode({"anything": 1}, "sluicewatch/v1/S1/G1/alert", retained=True) == Decoded(ours=False)


UNITS = {name: quantity.unit for name, quantity in QUANTITIES.items()}


@st.composite
def clean_messages(draw: st.DrawFn) -> dict[str, Any]:
    def reading() -> dict[str, Any]:
        names = draw(st.lists(st.sampled_from(sorted(QUANTITIES)), min_size=1, max_size=5, unique=True))
        values = {n: draw(st.floats(QUANTITIES[n].low, QUANTITIES[n].high) | st.integers(0, 1)) for n in names}
        at = draw(st.datetimes(datetime(2024, 3, 1), datetime(2026, 3, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - bounds of Hypothesis are naive
        return one(values, at.isoformat(), {n: UNITS[n] for n in names})

    if draw(st.booleans()):
        return reading()
    return {"readings": [reading() for _ in range(draw(st.integers(1, 4)))]}


@settings(deadline=None)
@given(clean_messages())
def test_the_fast_way_and_the_careful_way_agree_on_clean_messages(message: dict[str, Any]) -> None:
    fleet = OneGate({})
    gate = fleet.gate("G1")
    assert gate is not None

    fast = native._read_clean(json.dumps(message).encode(), gate, "motor", {}, NOW_MS)
    careful = native._examine(message, gate, "motor", {}, NOW_MS)

    assert fast is not None
    assert (fast.readings, fast.channels) == (careful.readings, careful.channels)
    assert not careful.refusals


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["t", "seq", "values", "units", "readings", "velocity_rms", "winding.temperature", "a.b", "", "\ud800"])
near_misses = st.recursive(
    json_values | st.sampled_from(["2026-03-01T08:15:00Z", "mm/s", "degC"]),
    lambda inner: st.dictionaries(names, inner, max_size=4) | st.lists(inner, max_size=3),
    max_leaves=12,
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A clean message with some of its bytes cut out, changed or put in."""
    data = bytearray(json.dumps(draw(clean_messages())).encode())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


topics = st.sampled_from([TOPIC, "sluicewatch/v1/S1/G1/status", "sluicewatch/v1/S1/G1/new one/telemetry"]) | st.text()


@settings(deadline=None, max_examples=500)
@given(
    topics,
    st.binary(max_size=200) | near_misses.map(lambda v: json.dumps(v).encode()) | mutated(),
    st.booleans(),
)
def test_whatever_comes_is_decoded_or_refused_and_nothing_impossible_enters(topic: str, payload: bytes, retained: bool) -> None:
    found = native.decode(Message(topic, payload, retained), OneGate(), NOW_MS)

    for reading in found.readings:
        assert reading.gate_id == "G1"
        assert MARCH_2024_MS <= reading.ts_ms <= NOW_MS + 300_000
        for name, value in reading.values.items():
            quantity = QUANTITIES[name.rpartition(".")[2]]
            assert quantity.low <= value <= quantity.high
    assert found.readings or found.refusals or found.seen or not found.ours or topic.endswith("/status")
