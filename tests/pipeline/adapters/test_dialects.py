"""Which dialects are spoken, and which adapter a message goes to."""

import json

from pipeline.adapters import Message
from pipeline.adapters.dialects import NATIVE, Dialects
from pipeline.adapters.mapping import read_mapping
from tests.pipeline.adapters.fleet import GATES, MAPPING, NOW_MS, SomeGates, reasons

REPORT = "$oc/devices/dsh_station4_gate1/sys/properties/report"


def test_without_a_mapping_file_only_the_native_dialect_is_spoken() -> None:
    assert NATIVE.filters == ("sluicewatch/v1/#",)
    assert reasons(NATIVE.decode(Message(REPORT, b"{}"), SomeGates(), NOW_MS)) == ["wrong_topic"]


def test_only_the_dialects_of_the_mapping_file_are_spoken_beside_it() -> None:
    everything = Dialects(read_mapping(MAPPING, GATES))
    without_iotda = Dialects(
        read_mapping(MAPPING.partition("[[publisher]]")[0] + MAPPING[MAPPING.index('[[publisher]]\ndialect = "thing') :], GATES)
    )

    assert not everything.unwanted
    assert set(without_iotda.unwanted) == {pattern for pattern in everything.filters if pattern.startswith("$oc/")}
    assert set(without_iotda.filters) == set(everything.filters) - set(without_iotda.unwanted)


def test_each_message_goes_to_the_dialect_of_its_topic() -> None:
    dialects = Dialects(read_mapping(MAPPING, GATES))
    services = [{"service_id": "Vibration", "properties": {"motor_v_rms": 1.0}}]
    measured = {"t": "2026-03-01T08:15:00Z", "values": {"velocity_rms": 1.0}, "units": {"velocity_rms": "mm/s"}}

    found = {
        topic: dialects.decode(Message(topic, json.dumps(payload).encode()), SomeGates(), NOW_MS)
        for topic, payload in {
            "sluicewatch/v1/S3/S3-G1/motor/telemetry": measured,
            REPORT: {"services": services},
            "v1/gateway/telemetry": {"Device A": [{"values": {"temperature": 20}}]},
            "spBv1.0/DSH/DDATA/S6/Gate1": "not Protobuf",
            "homie/5/gate/$state": "ready",
        }.items()
    }

    assert [[reading.gate_id for reading in one.readings] for one in found.values()] == [["S3-G1"], ["S4-G1"], ["S5-G1"], [], []]
    assert [reasons(one) for one in found.values()] == [[], [], [], ["not_protobuf"], ["wrong_topic"]]
