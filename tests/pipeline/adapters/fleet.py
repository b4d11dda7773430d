"""What the tests of the foreign dialects share: some gates, and the mapping file that ties devices to them."""

from collections.abc import Mapping

from pipeline.adapters import Decoded, Gate
from pipeline.adapters.mapping import DeviceMap, read_mapping
from pipeline.spectra import Machine

NOW_MS = 1_772_353_200_000  # 2026-03-01T08:20:00Z
QUARTER_PAST_MS = 1_772_352_900_000  # 2026-03-01T08:15:00Z
MARCH_2024_MS = 1_709_251_200_000
GATES = ("S3-G1", "S3-G2", "S4-G1", "S5-G1", "S5-G2", "S6-G1", "S6-G2")

MAPPING = """
[signals.hoist]
"Vibration/motor_v_rms" = { channel = "motor.velocity_rms", unit = "mm/s" }
"Vibration/motor_a_rms" = { channel = "motor.acceleration_rms", unit = "g" }
"Vibration/kurtosis" = { channel = "motor.kurtosis", unit = "1" }
"Temperature/winding" = { channel = "motor.winding.temperature", unit = "degC" }
"Temperature/bearing" = { channel = "motor.bearing_de.temperature", unit = "degC" }
"State/running" = { channel = "motor.moving", unit = "1" }
"Level/up" = { channel = "station.head", unit = "cm" }
"Battery/*" = false

[signals.flat]
vibration = { channel = "motor.velocity_rms", unit = "m/s" }
temperature = { channel = "motor.winding.temperature", unit = "degC" }
rssi = false

[signals.winch]
"Hoist/MotorDE/vRms" = { channel = "motor.velocity_rms", unit = "mm/s" }
"Hoist/MotorDE/Temp" = { channel = "motor.bearing_de.temperature", unit = "degC" }
"Hoist/Gearbox/OilTemp" = { channel = "gearbox.oil.temperature", unit = "degC" }
"Gate/Opening" = { channel = "leaf.opening", unit = "m" }
"Gate/Moving" = { channel = "leaf.moving", unit = "1" }

[[publisher]]
dialect = "iotda"
id = "dsh_station3"
signals = "hoist"
gates = { dsh_station3_gate1 = "S3-G1", dsh_station3_gate2 = "S3-G2" }

[[publisher]]
dialect = "iotda"
id = "dsh_station4_gate1"
signals = "hoist"
gates = { dsh_station4_gate1 = "S4-G1" }

[[publisher]]
dialect = "thingsboard"
signals = "flat"
gates = { "Device A" = "S5-G1", "Device B" = "S5-G2" }

[[publisher]]
dialect = "sparkplug"
id = "DSH/S6"
signals = "winch"
gates = { Gate1 = "S6-G1", "DSH/S6" = "S6-G2" }
"""


class SomeGates:
    """A fleet of gates whose channels are declared where `units` says so."""

    def __init__(self, units: Mapping[tuple[str, str], Mapping[str, str]] | None = None) -> None:
        self.declared = units or {}

    def gate(self, gate_id: str) -> Gate | None:
        return Gate(gate_id, gate_id.partition("-")[0], MARCH_2024_MS) if gate_id in GATES else None

    def units(self, gate_id: str, component: str) -> Mapping[str, str]:
        return self.declared.get((gate_id, component), {})

    def machine(self, gate_id: str, component: str) -> Machine:
        return Machine()


def device_map() -> DeviceMap:
    return read_mapping(MAPPING, GATES)


def reasons(found: Decoded) -> list[str]:
    return [refusal.reason for refusal in found.refusals]
