"""docs/asyncapi.yaml and the code say the same: topics, limits, and which messages are taken and refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml  # type: ignore[import-untyped]  # comes with amqtt; its types would be one more package

from pipeline import waveforms
from pipeline.adapters import Decoded, Gate, Message, native
from pipeline.adapters.checks import TELEMETRY_BYTES
from pipeline.intake import NO_EARLIER_MS
from pipeline.readings import ID_PATTERN, QUANTITIES
from pipeline.spectra import Machine
from pipeline.subscription import IngestSettings
from service.broker import LIMITS
from tests.schema import valid

ROOT = Path(__file__).parents[1]
DOCUMENT: dict[str, Any] = yaml.safe_load((ROOT / "docs/asyncapi.yaml").read_text(encoding="utf-8"))
COMPONENTS = DOCUMENT["components"]
NOW_MS = 1_772_353_200_000  # 2026-03-01T08:20:00Z
LEVELS = {"station": "DSH-S3", "gate": "DSH-S3-G1", "component": "motor"}
T = "2026-03-01T08:15:00Z"


class OneGate:
    def gate(self, gate_id: str) -> Gate | None:
        return Gate(gate_id, "DSH-S3", NO_EARLIER_MS) if gate_id == "DSH-S3-G1" else None

    def units(self, gate_id: str, component: str) -> Mapping[str, str]:
        return {"velocity_rms": "mm/s"}

    def machine(self, gate_id: str, component: str) -> Machine:
        return Machine()


def decode(channel: str, payload: bytes) -> Decoded:
    topic = DOCUMENT["channels"][channel]["address"].format(**LEVELS)
    return native.decode(Message(topic, payload), OneGate(), NOW_MS)


def test_every_reference_leads_somewhere_and_every_address_has_its_parameters() -> None:
    def references(part: Any) -> list[str]:
        if isinstance(part, list):
            return [found for item in part for found in references(item)]
        if not isinstance(part, dict):
            return []
        return [value for name, value in part.items() if name == "$ref"] + references(list(part.values()))

    for reference in references(DOCUMENT):
        found: Any = DOCUMENT
        for name in reference.removeprefix("#/").split("/"):
            found = found[name]
    assert DOCUMENT["asyncapi"] == "3.0.0"
    for channel in DOCUMENT["channels"].values():
        assert re.findall(r"{(\w+)}", channel["address"]) == list(channel["parameters"])


def test_the_addresses_are_the_topics_that_the_code_knows() -> None:
    bare = {name: decode(name, b"?") for name in DOCUMENT["channels"]}

    assert all(refusal.reason != "wrong_topic" for found in bare.values() for refusal in found.refusals)
    assert not bare["alert"].ours
    assert native.decode(Message("sluicewatch/v1/DSH-S3/DSH-S3-G1/motor/other", b"?"), OneGate(), NOW_MS).refusals[0].reason == (
        "wrong_topic"
    )


def test_the_limits_are_those_of_the_code() -> None:
    longest = {name: message["x-maximum-bytes"] for name, message in COMPONENTS["messages"].items()}
    broker = DOCUMENT["servers"]["certificate"]["bindings"]["mqtt"]
    ours = IngestSettings("mqtt://broker")

    assert longest == {
        "telemetry": TELEMETRY_BYTES,
        "burst": waveforms.MAX_BYTES,
        "status": native.STATUS_BYTES,
        "discovery": native.DISCOVERY_BYTES,
    }
    for channel, message in {"telemetry": "telemetry", "waveform": "burst", "status": "status", "discovery": "discovery"}.items():
        assert decode(channel, b" " * (longest[message] + 1)).refusals[0].reason == "oversize"
    assert broker["maximumPacketSize"] == int(LIMITS["message_size_limit"])
    assert (broker["clientId"], broker["keepAlive"], broker["sessionExpiryInterval"], not broker["cleanSession"]) == (
        ours.client_id,
        ours.keepalive_s,
        ours.session_expiry_s,
        ours.keep_session,
    )


def test_names_and_units_are_those_of_the_code() -> None:
    schemas = COMPONENTS["schemas"]
    identity = ID_PATTERN.pattern.removesuffix(r"\Z")

    assert schemas["Id"]["pattern"] == f"^{identity}$"
    assert schemas["Name"]["pattern"] == rf"^({identity}\.)?({'|'.join(QUANTITIES)})$"
    assert schemas["Channel"]["properties"]["quantity"]["enum"] == list(QUANTITIES)
    assert set(schemas["Unit"]["enum"]) == {unit for quantity in QUANTITIES.values() for unit in quantity.accepted}
    assert all(identity in parameter["description"] for parameter in COMPONENTS["parameters"].values())


@pytest.mark.parametrize("name", ["telemetry", "status", "discovery"])
def test_the_examples_are_valid_and_taken(name: str) -> None:
    message = COMPONENTS["messages"][name]

    assert message["examples"]
    for example in message["examples"]:
        assert valid(example["payload"], message["payload"], DOCUMENT)
        assert not decode(name, json.dumps(example["payload"]).encode()).refusals


def reading(**other: Any) -> dict[str, Any]:
    return {name: value for name, value in ({"t": T, "values": {"velocity_rms": 1.3}} | other).items() if value != "left out"}


CHANNEL = {"component": "motor", "quantity": "velocity_rms", "unit": "mm/s"}

TAKEN: list[tuple[str, Any]] = [
    ("telemetry", reading()),
    ("telemetry", reading(t="2026-03-01T16:15:00.250+08:00", seq=0, firmware="2.1")),
    ("telemetry", reading(values={"bearing_de.acceleration_rms": 1}, units={"bearing_de.acceleration_rms": "g"})),
    ("telemetry", reading(units=None, readings=None)),
    ("telemetry", {"readings": [reading(), reading(units={"velocity_rms": "mm/s"})], "seq": 12, "t": None}),
    ("status", {"status": "offline"}),
    ("status", {"status": "online", "t": T, "reason": "power"}),
    ("discovery", {"channels": [CHANNEL, {**CHANNEL, "point": "winding", "quantity": "temperature", "unit": "K"}]}),
    ("discovery", {"channels": [{**CHANNEL, "gate_id": "DSH-S3-G1", "axis": "radial", "band_low_hz": 10, "interval_s": 0.5}]}),
]
REFUSED: list[tuple[str, Any]] = [
    ("telemetry", []),
    ("telemetry", {}),
    ("telemetry", "1.3"),
    ("telemetry", reading(t="left out")),
    ("telemetry", reading(t=None)),
    ("telemetry", reading(t=1772352900)),
    ("telemetry", reading(t="2026-03-01T08:15:00")),
    ("telemetry", reading(t="2026-02-30T08:15:00Z")),
    ("telemetry", reading(t="yesterday")),
    ("telemetry", reading(values="left out")),
    ("telemetry", reading(values={})),
    ("telemetry", reading(values=[1.3])),
    ("telemetry", reading(values={"velocity_rms": "1.3"})),
    ("telemetry", reading(values={"velocity_rms": True})),
    ("telemetry", reading(values={"velocity_rms": None})),
    ("telemetry", reading(values={"velocity_rms": {"x": 1.3}})),
    ("telemetry", reading(values={"vRms": 1.3}, units={"vRms": "mm/s"})),
    ("telemetry", reading(values={"a.b.velocity_rms": 1.3}, units={"a.b.velocity_rms": "mm/s"})),
    ("telemetry", reading(values={".velocity_rms": 1.3}, units={".velocity_rms": "mm/s"})),
    ("telemetry", reading(values={"velocity_rms": 1.3, "noise": 1}, units={"noise": "1"})),
    ("telemetry", reading(units={"velocity_rms": "inch/s"})),
    ("telemetry", reading(units={"velocity_rms": 1})),
    ("telemetry", reading(units="mm/s")),
    ("telemetry", reading(readings=[reading()])),
    ("telemetry", {"readings": []}),
    ("telemetry", {"readings": reading()}),
    ("telemetry", {"readings": [reading(), 5]}),
    ("telemetry", {"readings": [reading()], "units": {"velocity_rms": "mm/s"}}),
    ("status", {"status": "asleep"}),
    ("status", {"t": T}),
    ("status", {"status": "online", "t": "08:15"}),
    ("status", "online"),
    ("discovery", {"channels": []}),
    ("discovery", CHANNEL),
    ("discovery", {"channels": [{**CHANNEL, "unit": "left out"}]}),
    ("discovery", {"channels": [{**CHANNEL, "quantity": "noise"}]}),
    ("discovery", {"channels": [{**CHANNEL, "component": "the motor"}]}),
    ("discovery", {"channels": [{**CHANNEL, "point": "a.b"}]}),
    ("discovery", {"channels": [{**CHANNEL, "intervall": 5}]}),
    ("discovery", {"channels": [{**CHANNEL, "interval_s": 0}]}),
    ("discovery", {"channels": [CHANNEL, {"component": "motor"}]}),
]


def cases(messages: list[tuple[str, Any]]) -> Any:
    return pytest.mark.parametrize(("channel", "payload"), messages, ids=[json.dumps(message)[:90] for message in messages])


@cases(TAKEN)
def test_what_the_schema_allows_is_taken(channel: str, payload: Any) -> None:
    assert valid(payload, COMPONENTS["messages"][channel]["payload"], DOCUMENT)
    assert [str(refusal) for refusal in decode(channel, json.dumps(payload).encode()).refusals] == []


@cases(REFUSED)
def test_what_the_schema_forbids_is_refused(channel: str, payload: Any) -> None:
    assert not valid(payload, COMPONENTS["messages"][channel]["payload"], DOCUMENT)
    assert decode(channel, json.dumps(payload).encode()).refusals


HEADER = {"t": T, "point": "bearing_de", "axis": "radial", "rate_hz": 12800.0, "scale_g": 0.0005, "n": 4096}


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        ({}, True),
        ({"axis": "", "serial": 7}, True),
        ({"rate_hz": 1e7, "scale_g": 1e-9}, True),
        ({"t": "2026-03-01T08:15:00"}, False),
        ({"point": ""}, False),
        ({"point": "bearing de"}, False),
        ({"axis": "x y"}, False),
        ({"rate_hz": 0}, False),
        ({"rate_hz": "12800"}, False),
        ({"scale_g": 1001}, False),
        ({"scale_g": True}, False),
        ({"n": 0}, False),
        ({"n": 4096.5}, False),
        *(({name: "left out"}, False) for name in HEADER),
    ],
)
def test_a_burst_whose_header_the_schema_allows_is_taken_and_no_other(change: dict[str, Any], taken: bool) -> None:
    header = {name: value for name, value in {**HEADER, **change}.items() if value != "left out"}
    samples = (1000 * np.sin(np.arange(4096))).astype("<i2").tobytes()

    found = decode("waveform", json.dumps(header).encode() + b"\n" + samples)

    assert valid(header, COMPONENTS["messages"]["burst"]["x-header"], DOCUMENT) is taken
    assert (found.burst is not None) is taken
