"""Huawei IoTDA: the platform's own example messages, both times, string numbers, and each kind of refusal."""

import json
from typing import Any

import pytest

from pipeline.adapters import Decoded, Message, iotda
from pipeline.readings import Channel, Reading
from tests.pipeline.adapters.fleet import NOW_MS, QUARTER_PAST_MS, SomeGates, device_map, reasons

REPORT = "$oc/devices/dsh_station4_gate1/sys/properties/report"
BATCH = "$oc/devices/dsh_station3/sys/gateway/sub_devices/properties/report"

DEVICE_REPORT = (
    b'{"services":[{"service_id":"Vibration","properties":{"motor_v_rms":1.31,"motor_a_rms":0.14,"kurtosis":3.4},'
    b'"event_time":"20260301T081500Z"},'
    b'{"service_id":"Temperature","properties":{"winding":46.2,"bearing":38.7},"event_time":"2026-03-01T08:15:00.250Z"}]}'
)
GATEWAY_BATCH = (
    b'{"devices":[{"device_id":"dsh_station3_gate1","services":[{"service_id":"Vibration",'
    b'"properties":{"motor_v_rms":"1.31"},"event_time":"20260301T081500Z"}]},'
    b'{"device_id":"dsh_station3_gate2","services":[{"service_id":"Vibration","properties":{"motor_v_rms":1.02}}]}]}'
)


def decode(payload: Any, topic: str = REPORT, *, retained: bool = False) -> Decoded:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return iotda.Adapter(device_map()).decode(Message(topic, data, retained), SomeGates(), NOW_MS)


def report(properties: Any, event_time: Any = "20260301T081500Z", service_id: Any = "Vibration") -> dict[str, Any]:
    return {"services": [{"service_id": service_id, "properties": properties, "event_time": event_time}]}


def test_a_device_report_becomes_its_readings() -> None:
    found = decode(DEVICE_REPORT)

    assert found.readings == [
        Reading("S4-G1", "motor", QUARTER_PAST_MS, {"velocity_rms": 1.31, "acceleration_rms": 0.14, "kurtosis": 3.4}),
        Reading("S4-G1", "motor", QUARTER_PAST_MS + 250, {"winding.temperature": 46.2, "bearing_de.temperature": 38.7}),
    ]
    assert found.channels == [
        Channel("S4-G1", "motor", "velocity_rms", "mm/s"),
        Channel("S4-G1", "motor", "acceleration_rms", "g"),
        Channel("S4-G1", "motor", "kurtosis", "1"),
        Channel("S4-G1", "motor", "temperature", "degC", "winding"),
        Channel("S4-G1", "motor", "temperature", "degC", "bearing_de"),
    ]
    assert not found.refusals


def test_a_gateway_batch_becomes_readings_of_its_gates_and_without_a_time_they_are_of_now() -> None:
    found = decode(GATEWAY_BATCH, BATCH)

    assert found.readings == [
        Reading("S3-G1", "motor", QUARTER_PAST_MS, {"velocity_rms": 1.31}),
        Reading("S3-G2", "motor", NOW_MS, {"velocity_rms": 1.02}),
    ]
    assert not found.refusals


@pytest.mark.parametrize(("payload", "topic"), [(DEVICE_REPORT, REPORT), (GATEWAY_BATCH, BATCH)])
def test_a_request_id_at_the_end_of_the_topic_changes_nothing(payload: bytes, topic: str) -> None:
    assert decode(payload, f"{topic}?request_id=7f/a") == decode(payload, topic)


def test_what_is_declared_already_is_not_declared_anew() -> None:
    fleet = SomeGates({("S4-G1", "motor"): {"velocity_rms": "m/s", "kurtosis": "1"}})

    found = iotda.Adapter(device_map()).decode(Message(REPORT, DEVICE_REPORT), fleet, NOW_MS)

    assert [channel.name for channel in found.channels] == ["acceleration_rms", "winding.temperature", "bearing_de.temperature"]
    assert found.readings[0].values["velocity_rms"] == 1.31, "the unit of the mapping file counts"


@pytest.mark.parametrize(
    ("event_time", "ts_ms"),
    [
        ("20260301T081500Z", QUARTER_PAST_MS),
        ("2026-03-01T08:15:00.250Z", QUARTER_PAST_MS + 250),
        ("2026-03-01T08:15:00Z", QUARTER_PAST_MS),
        ("2026-03-01T16:15:00+08:00", QUARTER_PAST_MS),
        (None, NOW_MS),
        ("", NOW_MS),
    ],
)
def test_event_times(event_time: Any, ts_ms: int) -> None:
    assert decode(report({"kurtosis": 3.0}, event_time)).readings == [Reading("S4-G1", "motor", ts_ms, {"kurtosis": 3.0})]


@pytest.mark.parametrize(
    ("name", "came", "stored"),
    [
        ("Vibration/motor_v_rms", "1.31", 1.31),
        ("Vibration/motor_v_rms", " 13.1e-1 ", 1.31),
        ("Level/up", "410", 4.1),
        ("State/running", True, 1.0),
        ("State/running", "0", 0.0),
    ],
)
def test_numbers_as_gateways_send_them(name: str, came: Any, stored: float) -> None:
    service_id, _, property_name = name.partition("/")

    found = decode(report({property_name: came}, service_id=service_id))

    assert [value for reading in found.readings for value in reading.values.values()] == pytest.approx([stored], rel=1e-12)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not_json"),
        (b"{", "not_json"),
        (b"[]", "wrong_shape"),
        ({}, "wrong_shape"),
        ({"services": []}, "wrong_shape"),
        ({"services": [7]}, "wrong_shape"),
        ({"services": [{"service_id": "Vibration"}]}, "wrong_shape"),
        (report({}), "wrong_shape"),
        (report([1]), "wrong_shape"),
        (report({"kurtosis": 3.0}, service_id=None), "wrong_shape"),
        (report({"kurtosis": None}), "wrong_shape"),
        (report({"kurtosis": True}), "wrong_shape"),
        (report({"kurtosis": {"value": 3.0}}), "wrong_shape"),
        (report({"kurtosis": ""}), "wrong_shape"),
        (report({"kurtosis": "nan"}), "wrong_shape"),
        (report({"kurtosis": "1_0"}), "wrong_shape"),
        (report({"kurtosis": "３"}), "wrong_shape"),
        (report({"kurtosis": "1" * 65}), "wrong_shape"),
        (report({"kurtosis": float("nan")}), "not_finite"),
        (report({"kurtosis": "1e999"}), "not_finite"),
        (report({"kurtosis": 10**400}), "not_finite"),
        (report({"kurtosis": -1}), "out_of_range"),
        (report({"wobble": 1}), "unmapped_name"),
        (report({"kurtosis": 3.0}, service_id="Shaking"), "unmapped_name"),
        (report({"kurtosis": 3.0}, "2026-03-01 08:15:00"), "wrong_shape"),
        (report({"kurtosis": 3.0}, "20261301T081500Z"), "wrong_shape"),
        (report({"kurtosis": 3.0}, 1772352900000), "wrong_shape"),
        (report({"kurtosis": 3.0}, "\ud800"), "wrong_shape"),
        (report({"kurtosis": 3.0}, "20260301T161500Z"), "clock_fault"),
        (report({"kurtosis": 3.0}, "20000101T000000Z"), "clock_fault"),
        (b" " * 65_537, "oversize"),
    ],
)
def test_a_report_that_cannot_be_used_is_refused_with_its_reason(payload: Any, reason: str) -> None:
    found = decode(payload)

    assert (list(found.readings), reasons(found)) == ([], [reason])


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        ("$oc/devices/dsh_station4_gate2/sys/properties/report", "unknown_publisher"),
        ("$oc/devices/dsh_station3/sys/properties/report", "unknown_device"),
        ("$oc/devices/dsh_station3_gate1/sys/properties/report", "unknown_publisher"),
        ("$oc/devices/dsh_station4_gate1/sys/properties/set", "wrong_topic"),
        ("$oc/devices/dsh_station4_gate1/sys/messages/up", "wrong_topic"),
        ("", "wrong_topic"),
    ],
)
def test_a_topic_that_names_no_publisher_of_the_mapping_is_refused(topic: str, reason: str) -> None:
    found = decode(DEVICE_REPORT, topic)

    assert (list(found.readings), reasons(found)) == ([], [reason])


@pytest.mark.parametrize(
    ("device_id", "reason"),
    [
        ("dsh_station4_gate1", "identity_mismatch"),
        ("S4-G1", "identity_mismatch"),
        ("gate9", "unknown_device"),
        (7, "wrong_shape"),
    ],
)
def test_a_gateway_never_speaks_for_a_gate_that_is_not_its_own(device_id: Any, reason: str) -> None:
    own = {"device_id": "dsh_station3_gate1", **report({"kurtosis": 3.0})}
    foreign = {"device_id": device_id, **report({"kurtosis": 9.0})}

    found = decode({"devices": [foreign, own]}, BATCH)

    assert found.readings == [Reading("S3-G1", "motor", QUARTER_PAST_MS, {"kurtosis": 3.0})]
    assert reasons(found) == [reason]


def test_local_time_sent_as_utc_is_recognised_and_named() -> None:
    found = decode(report({"kurtosis": 3.0}, "20260301T161500Z"))

    assert "local time of UTC+8" in str(found.refusals[0])


def test_a_kept_copy_is_refused_because_it_looks_fresh() -> None:
    assert reasons(decode(DEVICE_REPORT, retained=True)) == ["retained"]


def test_every_gap_of_a_message_is_told_with_its_place_and_the_good_rest_is_kept() -> None:
    devices = [
        {"device_id": "dsh_station3_gate1", **report({"motor_v_rms": "fast", "kurtosis": 3.0, "wobble": 1})},
        {"device_id": "dsh_station3_gate2", "services": [*report({"kurtosis": 4.0}, "noon")["services"], 7]},
        "dsh_station3_gate2",
        {"device_id": "dsh_station3_gate2", **report({"level": 80}, service_id="Battery")},
    ]

    found = decode({"devices": devices}, BATCH)

    assert found.readings == [Reading("S3-G1", "motor", QUARTER_PAST_MS, {"kurtosis": 3.0})]
    assert [str(refusal).split(" must ")[0].split(" is not ")[0] for refusal in found.refusals] == [
        "devices[0].services[0]: 'Vibration/motor_v_rms':",
        "devices[0].services[0]: 'Vibration/wobble'",
        "devices[1].services[0]: event_time:",
        "devices[1].services[1]:",
        "devices[2]:",
    ]
