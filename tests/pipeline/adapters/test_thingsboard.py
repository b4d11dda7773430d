"""ThingsBoard's gateway telemetry: the example of its documentation, and each kind of refusal."""

import json
from typing import Any

import pytest

from pipeline.adapters import Decoded, Message, thingsboard
from pipeline.readings import Channel, Reading
from tests.pipeline.adapters.fleet import NOW_MS, QUARTER_PAST_MS, SomeGates, device_map, reasons

TOPIC = "v1/gateway/telemetry"


def decode(payload: Any, topic: str = TOPIC, *, retained: bool = False) -> Decoded:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return thingsboard.Adapter(device_map()).decode(Message(topic, data, retained), SomeGates(), NOW_MS)


def one(values: Any, ts: Any = QUARTER_PAST_MS) -> dict[str, Any]:
    return {"Device A": [{"ts": ts, "values": values}]}


def test_a_message_of_a_gateway_becomes_readings_of_its_gates() -> None:
    payload = (
        b'{"Device A": [{"ts": 1772352900000, "values": {"temperature": 42, "vibration": 0.0013}},'
        b' {"ts": 1772352901000, "values": {"temperature": "43.5", "rssi": -71}}],'
        b' "Device B": [{"values": {"temperature": 12.5}}]}'
    )

    found = decode(payload)

    assert found.readings == [
        Reading("S5-G1", "motor", QUARTER_PAST_MS, {"winding.temperature": 42.0, "velocity_rms": 1.3}),
        Reading("S5-G1", "motor", QUARTER_PAST_MS + 1000, {"winding.temperature": 43.5}),
        Reading("S5-G2", "motor", NOW_MS, {"winding.temperature": 12.5}),
    ]
    assert found.channels == [
        Channel("S5-G1", "motor", "temperature", "degC", "winding"),
        Channel("S5-G1", "motor", "velocity_rms", "m/s"),
        Channel("S5-G2", "motor", "temperature", "degC", "winding"),
    ]
    assert not found.refusals


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"temperature 42", "not_json"),
        ([], "wrong_shape"),
        ({}, "wrong_shape"),
        ({"Device A": {"ts": QUARTER_PAST_MS, "values": {"temperature": 42}}}, "wrong_shape"),
        ({"Device A": []}, "wrong_shape"),
        ({"Device A": [{"temperature": 42}]}, "wrong_shape"),
        ({"Device A": [42]}, "wrong_shape"),
        (one({}), "wrong_shape"),
        (one({"temperature": None}), "wrong_shape"),
        (one({"temperature": "hot"}), "wrong_shape"),
        (one({"temperature": 42}, "2026-03-01T08:15:00Z"), "wrong_shape"),
        (one({"temperature": 42}, 1772352900000.5), "wrong_shape"),
        (one({"temperature": 42}, True), "wrong_shape"),
        (one({"temperature": 42}, QUARTER_PAST_MS // 1000), "clock_fault"),
        (one({"temperature": 42}, QUARTER_PAST_MS * 1000), "clock_fault"),
        (one({"temperature": 42}, -(10**400)), "clock_fault"),
        (one({"temperature": 42}, 10**400), "clock_fault"),
        (one({"temperature": 4200}), "out_of_range"),
        (one({"humidity": 80}), "unmapped_name"),
        ({"Device C": [{"values": {"temperature": 42}}]}, "unknown_device"),
        ({"S3-G1": [{"values": {"temperature": 42}}]}, "identity_mismatch"),
        (b" " * 65_537, "oversize"),
    ],
)
def test_a_message_that_cannot_be_used_is_refused_with_its_reason(payload: Any, reason: str) -> None:
    found = decode(payload)

    assert (list(found.readings), reasons(found)) == ([], [reason])


def test_seconds_sent_as_milliseconds_are_recognised_and_named() -> None:
    found = decode(one({"temperature": 42}, QUARTER_PAST_MS // 1000))

    assert "(seconds sent as if they were milliseconds?)" in str(found.refusals[0])


def test_a_device_tells_nobody_who_it_is_and_is_not_believed() -> None:
    assert reasons(decode({"temperature": 42}, "v1/devices/me/telemetry")) == ["wrong_topic"]


def test_a_kept_copy_is_refused_because_it_looks_fresh() -> None:
    assert reasons(decode(one({"temperature": 42}), retained=True)) == ["retained"]


def test_one_wrong_part_costs_only_itself() -> None:
    payload = one({"temperature": 42, "vibration": "?"})
    payload["Device A"].append({"ts": 0, "values": {"temperature": 1}})
    payload["Device C"] = [{"values": {"temperature": 1}}]

    found = decode(payload)

    assert found.readings == [Reading("S5-G1", "motor", QUARTER_PAST_MS, {"winding.temperature": 42.0})]
    assert [str(refusal).split(" must ")[0].split(" the gate ")[0].split(" is ")[0] for refusal in found.refusals] == [
        "'Device A'[0]: 'vibration':",
        "'Device A'[1]: ts:",
        "'Device C'",
    ]
