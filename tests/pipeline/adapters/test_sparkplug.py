"""Sparkplug B: golden messages made by another encoder, births, aliases, gaps, deaths, and each kind of refusal."""

import struct
from typing import Any

import pytest

from pipeline.adapters import Decoded, Message, sparkplug
from pipeline.readings import Channel, Reading
from tests.pipeline.adapters.fleet import NOW_MS, QUARTER_PAST_MS, SomeGates, device_map, reasons

# Encoded by protobuf 7.36.2 from the standard's own description, not by our code.
NBIRTH = bytes.fromhex(
    "0880d0eab6b73312120a0562645365711880d0eab6b7332008580012210a144e6f646520436f6e74726f6c2f526562697274681880d0eab6b733"
    "200b70001800"
)
DBIRTH = bytes.fromhex(
    "08f4d3eab6b73312240a12486f6973742f4d6f746f7244452f76526d73100118f4d3eab6b7332009650000a03f12240a12486f6973742f4d6f74"
    "6f7244452f54656d70100218f4d3eab6b7332009650000fc4112280a15486f6973742f47656172626f782f4f696c54656d70100318f4d3eab6b7"
    "33200350fbffffff0f12340a0c476174652f4f70656e696e67100418f4d3eab6b733200a4a100a075175616c6974791205080318c00169666666"
    "666666d63f1801"
)
DDATA = bytes.fromhex(
    "08e0a4eeb6b733120e100118f89ceeb6b7336514aea73f120e100218f89ceeb6b7336500000042120b100418f89ceeb6b7333801121010021880"
    "f38eb5b7332801650000f2411802"
)
NDEATH = bytes.fromhex("0880d0eab6b733120b0a05626453657120085800")
NCMD = bytes.fromhex("08a0ddf0b6b733121a0a144e6f646520436f6e74726f6c2f52656269727468200b7001")
BIRTH_MS = 1_767_225_600_500  # 2026-01-01T00:00:00.500Z


class EdgeNode:
    """Sends messages of edge node DSH/S6 to one adapter, which receives and then decodes them."""

    def __init__(self) -> None:
        self.adapter = sparkplug.Adapter(device_map())

    def send(self, kind: str, payload: bytes, node: str = "S6", device: str = "Gate1", *, retained: bool = False) -> Decoded:
        topic = f"spBv1.0/DSH/{kind}/{node}" + (f"/{device}" if kind.startswith("D") else "")
        return self.adapter.decode(self.adapter.receive(Message(topic, payload, retained)), SomeGates(), NOW_MS)


def born() -> EdgeNode:
    node = EdgeNode()
    node.send("NBIRTH", NBIRTH)
    node.send("DBIRTH", DBIRTH)
    return node


def payload(*metrics: dict[str, Any], seq: int | None = 2, timestamp: int | None = QUARTER_PAST_MS) -> bytes:
    """A payload of our own; the encoder is protobuf's, checked by the golden messages above."""
    made = sparkplug.Payload()
    if seq is not None:
        made.seq = seq
    if timestamp is not None:
        made.timestamp = timestamp
    for metric in metrics:
        made.metrics.add(**metric)
    return bytes(made.SerializeToString())


def values(found: Decoded) -> list[float]:
    return [value for reading in found.readings for value in reading.values.values()]


def test_births_and_data_become_readings() -> None:
    node = EdgeNode()

    of_node = node.send("NBIRTH", NBIRTH)
    of_device = node.send("DBIRTH", DBIRTH)
    data = node.send("DDATA", DDATA)

    assert of_node == Decoded(readings=[], channels=[], refusals=[])
    assert of_device.readings == [
        Reading("S6-G1", "motor", BIRTH_MS, {"velocity_rms": 1.25, "bearing_de.temperature": 31.5}),
        Reading("S6-G1", "gearbox", BIRTH_MS, {"oil.temperature": -5.0}),
        Reading("S6-G1", "leaf", BIRTH_MS, {"opening": 0.35}),
    ]
    assert of_device.channels == [
        Channel("S6-G1", "motor", "velocity_rms", "mm/s"),
        Channel("S6-G1", "motor", "temperature", "degC", "bearing_de"),
        Channel("S6-G1", "gearbox", "temperature", "degC", "oil"),
        Channel("S6-G1", "leaf", "opening", "m"),
    ]
    [single] = struct.unpack("<f", struct.pack("<f", 1.31))
    assert data.readings == [
        Reading("S6-G1", "motor", 1_767_225_659_000, {"velocity_rms": single, "bearing_de.temperature": 32.0}),
        Reading("S6-G1", "motor", 1_767_222_000_000, {"bearing_de.temperature": 30.25}),
    ], "the null metric was not measured; the historical one is a reading of its own time"
    assert not of_device.refusals
    assert not data.refusals
    assert (node.adapter.missed, node.adapter.rebirth_wanted) == (0, set())


def test_decoding_a_message_again_gives_the_same_whatever_came_after_it() -> None:
    node = born()
    received = node.adapter.receive(Message("spBv1.0/DSH/DDATA/S6/Gate1", DDATA))
    first = node.adapter.decode(received, SomeGates(), NOW_MS)
    node.send("NDEATH", NDEATH)

    assert node.adapter.decode(received, SomeGates(), NOW_MS) == first
    assert len(first.readings) == 2


def test_who_comes_late_cannot_read_aliases_and_wants_a_rebirth() -> None:
    node = EdgeNode()

    late = node.send("DDATA", DDATA)
    wanted = set(node.adapter.rebirth_wanted)
    node.send("NBIRTH", NBIRTH)
    node.send("DBIRTH", DBIRTH)
    after = node.send("DDATA", DDATA)

    assert (values(late), reasons(late)) == ([], ["unknown_alias"])
    assert str(late.refusals[0]).startswith("alias 1, 2, 4: ")
    assert wanted == {"DSH/S6"}
    assert not node.adapter.rebirth_wanted
    assert len(after.readings) == 2


def test_names_instead_of_aliases_need_no_birth() -> None:
    found = EdgeNode().send("DDATA", payload({"name": b"Gate/Opening", "double_value": 1.5, "datatype": 10}))

    assert found.readings == [Reading("S6-G1", "leaf", QUARTER_PAST_MS, {"opening": 1.5})]


def test_the_request_for_a_rebirth_is_the_standards_own() -> None:
    assert sparkplug.rebirth_request("DSH/S6", 1_767_225_700_000) == ("spBv1.0/DSH/NCMD/S6", NCMD)


def test_a_gap_in_the_sequence_is_counted_and_wants_a_rebirth_but_names_stay_valid() -> None:
    node = born()
    alias = {"alias": 1, "float_value": 2.0}

    in_order = node.send("DDATA", payload(alias, seq=2))
    again = node.send("DDATA", payload(alias, seq=2))
    before = (node.adapter.missed, set(node.adapter.rebirth_wanted))
    after_a_gap = node.send("DDATA", payload(alias, seq=6))

    assert before == (0, set()), "a message that comes twice is no gap"
    assert (node.adapter.missed, node.adapter.rebirth_wanted) == (3, {"DSH/S6"})
    assert values(in_order) == values(again) == values(after_a_gap) == [2.0]


def test_the_sequence_wraps_at_256_and_counts_messages_of_devices_we_do_not_want() -> None:
    node = born()

    for n in range(2, 600):
        node.send("DDATA", payload(seq=n % 256), device="Gate1" if n % 3 else "Camera")

    assert (node.adapter.missed, node.adapter.rebirth_wanted) == (0, set())


def test_a_death_ends_the_session_and_takes_its_aliases_along() -> None:
    node = born()

    death = node.send("NDEATH", NDEATH)
    after = node.send("DDATA", DDATA)

    assert death == Decoded()
    assert reasons(after) == ["unknown_alias"]
    assert node.adapter.missed == 0, "a new session begins where it likes"


def test_the_will_of_an_earlier_session_ends_nothing() -> None:
    node = EdgeNode()
    node.send("NBIRTH", payload({"name": b"bdSeq", "long_value": 7, "datatype": 8}, seq=0))
    node.send("DBIRTH", DBIRTH)

    node.send("NDEATH", NDEATH)

    assert len(node.send("DDATA", DDATA).readings) == 2


def test_the_death_of_a_device_takes_its_own_aliases_only() -> None:
    node = born()
    node.send("NDATA", payload(seq=2))

    death = node.send("DDEATH", payload(seq=3))

    assert death == Decoded()
    assert reasons(node.send("DDATA", payload({"alias": 1, "float_value": 1.0}, seq=4))) == ["unknown_alias"]
    assert node.adapter.missed == 0


def test_a_new_birth_gives_aliases_a_new_meaning() -> None:
    node = born()
    node.send("NBIRTH", NBIRTH)
    node.send("DBIRTH", payload({"name": b"Gate/Opening", "alias": 1, "datatype": 10, "double_value": 1.0}, seq=1))

    found = node.send("DDATA", payload({"alias": 1, "double_value": 2.0}, {"alias": 2, "float_value": 2.0}))

    assert found.readings == [Reading("S6-G1", "leaf", QUARTER_PAST_MS, {"opening": 2.0})]
    assert reasons(found) == ["unknown_alias"]


def test_an_edge_node_may_measure_a_gate_itself() -> None:
    found = EdgeNode().send("NDATA", payload({"name": b"Hoist/MotorDE/vRms", "float_value": 0.5, "datatype": 9}))

    assert found.readings == [Reading("S6-G2", "motor", QUARTER_PAST_MS, {"velocity_rms": 0.5})]


@pytest.mark.parametrize(
    ("datatype", "field", "came", "stored"),
    [
        (1, "int_value", 0xFFFFFFFB, -5.0),
        (1, "int_value", 0xFB, -5.0),
        (2, "int_value", 0xFFFFFFFB, -5.0),
        (3, "int_value", 0xFFFFFFFB, -5.0),
        (3, "int_value", 5, 5.0),
        (4, "long_value", 2**64 - 5, -5.0),
        (5, "int_value", 200, 200.0),
        (7, "long_value", 300, 300.0),
        (8, "long_value", 300, 300.0),
        (9, "float_value", 1.5, 1.5),
        (10, "double_value", 1.31, 1.31),
    ],
)
def test_numbers_of_every_datatype(datatype: int, field: str, came: Any, stored: float) -> None:
    metric = {"name": b"Hoist/MotorDE/Temp", "datatype": datatype, field: came}

    assert values(EdgeNode().send("DDATA", payload(metric))) == [stored]


@pytest.mark.parametrize(("field", "came"), [("boolean_value", True), ("int_value", 1)])
def test_a_flag_is_a_number_where_the_quantity_is_moving(field: str, came: Any) -> None:
    metric = {"name": b"Gate/Moving", "datatype": 11, field: came}

    assert values(EdgeNode().send("DDATA", payload(metric))) == [1.0]


@pytest.mark.parametrize(
    "not_measured",
    [
        {"is_null": True},
        {"is_transient": True, "float_value": 1.0},
        *({"float_value": 1.0, "properties": {"keys": [b"Quality"], "values": [{"int": code}]}} for code in (0, 500)),
    ],
)
def test_what_the_device_does_not_vouch_for_was_not_measured(not_measured: dict[str, Any]) -> None:
    found = EdgeNode().send("DDATA", payload({"name": b"Hoist/MotorDE/Temp", "datatype": 9, **not_measured}))

    assert (values(found), reasons(found)) == ([], [])


def test_a_metric_without_a_time_is_of_its_message_and_that_without_one_of_now() -> None:
    metric = {"name": b"Gate/Opening", "double_value": 1.0, "datatype": 10}

    assert EdgeNode().send("DDATA", payload(metric)).readings[0].ts_ms == QUARTER_PAST_MS
    assert EdgeNode().send("DDATA", payload(metric, timestamp=None)).readings[0].ts_ms == NOW_MS


def test_of_one_instant_said_twice_both_are_handed_on() -> None:
    """The store keeps the greater one and counts the conflict, whatever the order."""
    metric = {"name": b"Gate/Opening", "datatype": 10}

    assert values(EdgeNode().send("DDATA", payload(metric | {"double_value": 2.0}, metric | {"double_value": 1.0}))) == [2.0, 1.0]


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        ({"name": b"Gate/Opening", "datatype": 10, "double_value": float("nan")}, "not_finite"),
        ({"name": b"Gate/Opening", "datatype": 10, "double_value": 1e300}, "out_of_range"),
        ({"name": b"Gate/Opening", "datatype": 12, "string_value": b"1.5"}, "wrong_shape"),
        ({"name": b"Gate/Opening", "datatype": 10}, "wrong_shape"),
        ({"name": b"Gate/Opening", "int_value": 1}, "wrong_shape"),
        ({"name": b"Gate/Opening", "datatype": 13, "long_value": 1}, "wrong_shape"),
        ({"name": b"Gate/Opening", "datatype": 11, "boolean_value": True}, "wrong_shape"),
        ({"name": b"Gate/\xff", "datatype": 10, "double_value": 1.0}, "wrong_shape"),
        ({"name": b"Gate/Colour", "datatype": 10, "double_value": 1.0}, "unmapped_name"),
        ({"name": b"Gate/Opening", "datatype": 10, "double_value": 1.0, "timestamp": 1_772_382_000_000}, "clock_fault"),
        ({"name": b"Gate/Opening", "datatype": 10, "double_value": 1.0, "timestamp": 2**64 - 1}, "clock_fault"),
        ({"alias": 9, "float_value": 1.0}, "unknown_alias"),
    ],
)
def test_a_metric_that_cannot_be_used_is_refused_and_costs_only_itself(metric: dict[str, Any], reason: str) -> None:
    good = {"name": b"Hoist/MotorDE/Temp", "datatype": 9, "float_value": 30.0}

    found = EdgeNode().send("DDATA", payload(metric, good))

    assert (values(found), reasons(found)) == ([30.0], [reason])


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ({"kind": "DDATA", "payload": DBIRTH, "node": "S9"}, "unknown_publisher"),
        ({"kind": "NDEATH", "payload": NDEATH, "node": "S9"}, "unknown_publisher"),
        ({"kind": "DBIRTH", "payload": DBIRTH, "device": "Gate9"}, "unknown_device"),
        ({"kind": "DBIRTH", "payload": DBIRTH, "device": "S5-G1"}, "identity_mismatch"),
        ({"kind": "DBIRTH", "payload": DBIRTH, "device": "Gate1/more"}, "wrong_topic"),
        ({"kind": "NCMD", "payload": NCMD}, "wrong_topic"),
        ({"kind": "DBIRTH", "payload": b"\xff\xff"}, "not_protobuf"),
        ({"kind": "DBIRTH", "payload": DBIRTH, "retained": True}, "retained"),
        ({"kind": "DBIRTH", "payload": b"\0" * 65_537}, "oversize"),
    ],
)
def test_a_message_that_cannot_be_used_is_refused_and_teaches_nothing(sent: dict[str, Any], reason: str) -> None:
    node = EdgeNode()

    found = node.send(**sent)

    assert (list(found.readings), reasons(found)) == ([], [reason])
    assert reasons(node.send("DDATA", DDATA)) == ["unknown_alias"]


def test_strangers_take_no_memory() -> None:
    node = EdgeNode()

    for n in range(100):
        node.send("NBIRTH", NBIRTH, node=f"S{n + 10}")
        node.send("DBIRTH", DBIRTH, device=f"Camera{n}")

    assert list(node.adapter._edge_nodes) == ["DSH/S6"]
    assert node.adapter._edge_nodes["DSH/S6"].births == {}
