"""The mapping file: what it ties together, and that a bad one is refused with every gap at once."""

import pytest

from pipeline.adapters import Gate
from pipeline.adapters.mapping import DeviceMap, MappingError, Signal, read_mapping
from pipeline.readings import ReadingError
from pipeline.spectra import Machine

GATES = {"DSH-S3-G1", "DSH-S3-G2", "DSH-S4-G1"}
GOOD = """
[signals.hoist]
"Vibration/motor_v_rms" = { channel = "motor.velocity_rms", unit = "m/s" }
"Temperature/winding" = { channel = "motor.winding.temperature", unit = "degC" }
"Battery/*" = false

[signals.level]
"level" = { channel = "station.water_level", unit = "cm" }

[[publisher]]
dialect = "iotda"
id = "gateway-3"
signals = "hoist"
gates = { "s3-gate1" = "DSH-S3-G1", "s3-gate2" = "DSH-S3-G2" }

[[publisher]]
dialect = "iotda"
id = "gateway-3"
signals = "level"
gates = { "s3-level" = "DSH-S3-G1" }

[[publisher]]
dialect = "thingsboard"
signals = "hoist"
gates = { "Gate 1" = "DSH-S4-G1" }
"""


class Registered:
    """A fleet that knows the gates of this file."""

    def gate(self, gate_id: str) -> Gate | None:
        return Gate(gate_id, "S3", 0) if gate_id in GATES else None

    def units(self, gate_id: str, component: str) -> dict[str, str]:
        return {}

    def machine(self, gate_id: str, component: str) -> Machine:
        return Machine()


def gaps_of(text: str) -> list[str]:
    with pytest.raises(MappingError) as refused:
        read_mapping(text, GATES)
    return [line.removeprefix("  - ") for line in str(refused.value).splitlines()[1:]]


def test_a_mapping_ties_devices_to_gates_and_names_to_channels() -> None:
    devices = read_mapping(GOOD, GATES).devices("iotda", "gateway-3")

    assert {device_id: device.gate_id for device_id, device in devices.items()} == {
        "s3-gate1": "DSH-S3-G1",
        "s3-gate2": "DSH-S3-G2",
        "s3-level": "DSH-S3-G1",
    }
    assert devices["s3-gate2"].signals.used == {
        "Vibration/motor_v_rms": Signal("motor", "velocity_rms", "m/s"),
        "Temperature/winding": Signal("motor", "winding.temperature", "degC"),
    }
    assert devices["s3-level"].signals.used == {"level": Signal("station", "water_level", "cm")}


def test_names_that_are_known_and_not_wanted_are_told_by_false() -> None:
    devices = read_mapping(GOOD, GATES).devices("iotda", "gateway-3")

    signals = devices["s3-gate1"].signals
    assert [signals.ignore(name) for name in ("Battery/level", "Battery/", "battery/level", "Vibration/noise")] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("dialect", "publisher", "device", "reason"),
    [
        ("iotda", "gateway-9", "s3-gate1", "unknown_publisher"),
        ("sparkplug", "gateway-3", "s3-gate1", "unknown_publisher"),
        ("iotda", "gateway-3", "s3-gate9", "unknown_device"),
        ("iotda", "gateway-3", "DSH-S4-G1", "identity_mismatch"),
        ("thingsboard", "", "s3-gate1", "unknown_device"),
        ("iotda", "gateway-4", "s3-gate1", "identity_mismatch"),
        ("iotda", "gateway-4", "s4-gate1", ""),
    ],
)
def test_a_publisher_speaks_for_its_own_devices_only(dialect: str, publisher: str, device: str, reason: str) -> None:
    other = '\n[[publisher]]\ndialect = "iotda"\nid = "gateway-4"\nsignals = "level"\ngates = { "s4-gate1" = "DSH-S4-G1" }\n'
    device_map = read_mapping(GOOD + other, GATES)

    try:
        device_map.find(dialect, publisher, device, Registered())
        came = ""
    except ReadingError as refusal:
        came = refusal.reason

    assert came == reason


def test_a_file_lists_every_gap_at_once_each_with_its_fix() -> None:
    gaps = gaps_of("""
        colour = "blue"
        [signals.hoist]
        "v" = { channel = "motor.velocity_rms", unit = "furlong" }
        "w" = { channel = "motor.wobble", unit = "1" }
        "t" = { channel = "temperature", unit = "degC" }
        "u" = { channel = "motor.temperature" }
        "x" = "motor.current"
        "a" = { channel = "motor.current", unit = "A" }
        "b" = { channel = "motor.current", unit = "mA" }
        [[publisher]]
        dialect = "modbus"
        id = "gateway-3"
        signals = "hoist"
        gates = { "s3-gate1" = "DSH-S9-G1", "s3-gate2" = "DSH-S3-G1" }
        [[publisher]]
        dialect = "sparkplug"
        id = "gateway-3"
        signals = "winch"
        device = "s3-gate1"
        [[publisher]]
        dialect = "thingsboard"
        id = "gateway-3"
        signals = "hoist"
        gates = { "Gate 1" = "DSH-S4-G1" }
    """)

    assert len(gaps) == 14, gaps
    for part in (
        "colour: unknown; allowed are [signals.NAME] and [[publisher]]",
        "signals.hoist: 'v': unit of velocity_rms: allowed are mm/s, m/s; got 'furlong'",
        "signals.hoist: 'w': quantity 'wobble' is unknown; known are velocity_rms,",
        "signals.hoist: 't': a channel is component.quantity or component.point.quantity; got 'temperature'",
        "signals.hoist: 'u': must be { channel",
        "signals.hoist: 'x': must be { channel",
        "signals.hoist: 'b': motor.current is 'a' already; give each its own channel",
        "publisher 1: dialect: allowed are iotda, sparkplug, thingsboard; got 'modbus'",
        "publisher 1: gates: gate 'DSH-S9-G1' is not registered; import or register it first",
        "publisher 2: device: unknown; allowed are dialect, gates, id, signals",
        "publisher 2: id: must be group/edge node, as in the topic; got 'gateway-3'",
        "publisher 2: signals: must name a [signals.NAME] of this file (hoist); got 'winch'",
        'publisher 2: gates: must be { "device id" = "gate id", … }; got None',
        "publisher 3: id: leave it out; the topics of thingsboard do not name who publishes",
    ):
        assert [gap for gap in gaps if gap.startswith(part)], (part, gaps)


def test_two_devices_that_write_one_channel_are_refused_but_one_behind_two_gateways_is_not() -> None:
    def publisher(gateway: str, device: str) -> str:
        return f'[[publisher]]\ndialect="iotda"\nid="{gateway}"\nsignals="level"\ngates={{ "{device}" = "DSH-S3-G1" }}\n'

    head = '[signals.level]\nlevel = { channel = "station.water_level", unit = "m" }\n'

    standby = read_mapping(head + publisher("gateway-a", "level") + publisher("gateway-b", "level"), GATES)
    gaps = gaps_of(head + publisher("gateway-a", "level-1") + publisher("gateway-a", "level-2"))
    twice = gaps_of(head + publisher("gateway-a", "level") + publisher("gateway-a", "level"))

    assert standby.devices("iotda", "gateway-b") == standby.devices("iotda", "gateway-a")
    assert gaps == [
        "publisher 2: gates: 'level-2' and 'level-1' both write station.water_level of gate 'DSH-S3-G1'; "
        "give one its own [signals]"
    ]
    assert twice == ["publisher 2: gates: 'level' stands twice for this publisher; keep one"]


@pytest.mark.parametrize(
    "text",
    ["= 1", "signals = 1", "publisher = 1", "publisher = [1]", "[signals]\nhoist = 1", "[publisher]\nid = 1", "[[signals]]"],
)
def test_a_file_of_another_shape_is_refused_and_never_raises_anything_else(text: str) -> None:
    with pytest.raises(MappingError, match=r"\Amapping: "):
        read_mapping(text, GATES)


def test_without_a_file_nobody_speaks_a_foreign_dialect() -> None:
    assert DeviceMap().dialects == set()
    assert read_mapping("", GATES).dialects == set()
    assert read_mapping(GOOD, GATES).dialects == {"iotda", "thingsboard"}
