"""The guides: each message to copy is decoded with the mapping lines of its page, for gates of the sample data."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.adapters import Gate, Message
from pipeline.adapters.dialects import Dialects
from pipeline.adapters.mapping import read_mapping
from pipeline.intake import NO_EARLIER_MS
from pipeline.spectra import Machine

ROOT = Path(__file__).parents[3]
NOW_MS = 1_772_353_200_000  # 2026-03-01T08:20:00Z

JSON = re.compile(r"mosquitto_pub -q 1 (?:-r )?-t '([^']+)' -m '((?:[^']|'\$\(date -u [^)]+\)')+)'")
DATE = re.compile(r"'\$\(date -u [^)]+\)'")  # the shell puts the present here
BINARY = re.compile(r"echo ([0-9a-f]+) \|\s+xxd -r -p \| mosquitto_pub -t '([^']+)' -s")


class SampleBasin:
    """The gates of the sample data, without a declared channel."""

    def __init__(self) -> None:
        with (ROOT / "sample_data/basin/gates.csv").open(encoding="utf-8") as file:
            self.stations = {row["gate_id"]: row["station_id"] for row in csv.DictReader(file)}

    def gate(self, gate_id: str) -> Gate | None:
        return Gate(gate_id, self.stations[gate_id], NO_EARLIER_MS) if gate_id in self.stations else None

    def units(self, gate_id: str, component: str) -> dict[str, str]:
        return {}

    def machine(self, gate_id: str, component: str) -> Machine:
        return Machine()


def page(name: str) -> str:
    return (ROOT / "docs/guides" / name).read_text(encoding="utf-8")


def messages(text: str) -> list[Message]:
    found = [Message(topic, DATE.sub("2026-03-01T08:19:59Z", payload).encode()) for topic, payload in JSON.findall(text)]
    return found + [Message(topic, bytes.fromhex(payload)) for payload, topic in BINARY.findall(text)]


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        (
            "native.md",
            [
                ("DSH-S3-G1", "motor", "2026-03-01T08:19:59.000", {"velocity_rms": 1.31, "winding.temperature": 38.7}),
                (
                    "DSH-S3-G1",
                    "motor",
                    "2026-03-01T08:15:00.250",
                    {"velocity_rms": 1.31, "winding.temperature": 38.7, "moving": 1},
                ),
                ("DSH-S3-G1", "motor", "2026-03-01T08:15:00.000", {"velocity_rms": 1.31}),
                ("DSH-S3-G1", "motor", "2026-03-01T08:16:00.000", {"velocity_rms": 1.29}),
            ],
        ),
        (
            "iotda.md",
            [
                ("DSH-S3-G1", "motor", "2026-03-01T08:20:00.000", {"velocity_rms": 1.31}),
                ("DSH-S3-G1", "motor", "2026-03-01T08:20:00.000", {"winding.temperature": 46.2}),
                ("DSH-S3-G1", "motor", "2026-03-01T08:15:00.000", {"velocity_rms": 1.31, "kurtosis": 3.4}),
                ("DSH-S3-G1", "motor", "2026-03-01T08:15:00.250", {"winding.temperature": 46.2}),
                ("DSH-S3-G2", "motor", "2026-03-01T08:20:00.000", {"velocity_rms": 1.02}),
            ],
        ),
        (
            "thingsboard.md",
            [
                ("DSH-S3-G1", "motor", "2026-03-01T08:20:00.000", {"velocity_rms": 1.3, "winding.temperature": 38.7}),
                ("DSH-S3-G1", "motor", "2026-03-01T08:15:00.000", {"velocity_rms": 1.3, "winding.temperature": 38.7}),
                ("DSH-S3-G1", "motor", "2026-03-01T08:16:00.000", {"velocity_rms": 1.4, "winding.temperature": 38.9}),
                ("DSH-S3-G2", "motor", "2026-03-01T08:15:00.000", {"winding.temperature": 31.5}),
            ],
        ),
        (
            "sparkplug.md",
            [
                ("DSH-S3-G1", "motor", "2026-03-01T08:20:00.000", {"velocity_rms": 1.25, "bearing_de.temperature": 31.5}),
                ("DSH-S3-G1", "motor", "2026-01-01T00:00:00.500", {"velocity_rms": 1.25, "bearing_de.temperature": 31.5}),
                ("DSH-S3-G1", "gearbox", "2026-01-01T00:00:00.500", {"oil.temperature": -5}),
                ("DSH-S3-G1", "leaf", "2026-01-01T00:00:00.500", {"opening": 0.35}),
                ("DSH-S3-G1", "motor", "2026-01-01T00:00:59.000", {"velocity_rms": 1.31, "bearing_de.temperature": 32}),
                ("DSH-S3-G1", "motor", "2025-12-31T23:00:00.000", {"bearing_de.temperature": 30.25}),
            ],
        ),
    ],
)
def test_the_messages_of_a_page_are_decoded_with_its_mapping_lines(
    name: str, stored: list[tuple[str, str, str, dict[str, float]]]
) -> None:
    basin, text = SampleBasin(), page(name)
    mapping = "".join(re.findall(r"```toml\n(.*?)```", text, re.DOTALL))
    dialects = Dialects(read_mapping(mapping, basin.stations.keys()))

    found = [dialects.decode(message, basin, NOW_MS) for message in dialects.receive(messages(text))]

    assert [str(refusal) for one in found for refusal in one.refusals] == []
    assert [(r.gate_id, r.component, utc_text(r.ts_ms)) for one in found for r in one.readings] == [row[:3] for row in stored]
    assert [dict(r.values) for one in found for r in one.readings] == [pytest.approx(row[3], rel=1e-6) for row in stored]


def test_the_burst_of_the_page_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = page("waveforms.md")
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    [topic] = re.findall(r"mosquitto_pub -q 1 -t '([^']+)' -f burst.bin", text)
    monkeypatch.chdir(tmp_path)

    exec(code, {})  # a reader runs it, too
    found = Dialects().decode(Message(topic, (tmp_path / "burst.bin").read_bytes()), SampleBasin(), NOW_MS)

    (reading,) = found.readings
    assert (reading.gate_id, reading.component, utc_text(reading.ts_ms)) == ("DSH-S3-G1", "motor", "2026-03-01T08:15:00.000")
    # by hand: of 0, 120, -80, 42 the mean is 20.5, and the mean square about it 5220.75
    assert reading.values["bearing_de.acceleration_rms"] == pytest.approx(0.0005 * 5220.75**0.5)
    assert found.refusals == []


def utc_text(ts_ms: int) -> str:
    return str(np.datetime64(ts_ms, "ms"))


def test_the_example_of_the_mapping_page_is_one() -> None:
    [mapping] = re.findall(r"```toml\n(.*?)```", page("mapping.md"), re.DOTALL)

    devices = read_mapping(mapping, SampleBasin().stations.keys()).devices("iotda", "dsh_station3_gateway")

    assert {device_id: device.gate_id for device_id, device in devices.items()} == {
        "dsh_station3_gate1": "DSH-S3-G1",
        "dsh_station3_gate2": "DSH-S3-G2",
    }
