"""A burst on a waveform topic: one reading of what its spectra say, or a refusal that tells why."""

from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pytest

from pipeline.adapters import Decoded, Message, native
from pipeline.spectra import Machine, indicators
from pipeline.waveforms import MAX_BYTES, Burst, encode
from tests.pipeline.adapters.test_native import NOW_MS, OneGate, reasons

TOPIC = "sluicewatch/v1/S1/G1/motor/waveform"
TAKEN = datetime(2026, 3, 1, 8, tzinfo=UTC)
BEARING = Machine(speed_rpm=1440.0, balls=9, ball_mm=7.938, pitch_mm=38.5, gear_teeth=23)


class Known(OneGate):
    """A fleet that knows the bearing of the gate's motor."""

    def machine(self, gate_id: str, component: str) -> Machine:
        return BEARING if (gate_id, component) == ("G1", "motor") else Machine()


def burst(**changed: Any) -> Burst:
    samples = np.random.default_rng(3).integers(-2000, 2000, 12_800).astype(np.int16)
    given = {"t": TAKEN, "point": "bearing_de", "axis": "radial", "rate_hz": 12_800.0, "scale_g": 0.0005, "samples": samples}
    return Burst(**given | changed)


def decode(payload: bytes, fleet: OneGate | None = None, *, topic: str = TOPIC, retained: bool = False) -> Decoded:
    return native.decode(Message(topic, payload, retained), fleet or Known(), NOW_MS)


def test_a_burst_is_one_reading_of_all_that_its_spectra_say() -> None:
    one = burst()

    found = decode(encode(one))

    (reading,) = found.readings
    assert (reading.gate_id, reading.component, reading.ts_ms) == ("G1", "motor", 1_772_352_000_000)
    assert reading.values == {f"bearing_de.{quantity}": value for quantity, value in indicators(one, BEARING).items()}
    assert {"bearing_de.envelope_bpfo", "bearing_de.gear_mesh", "bearing_de.velocity_rms"} < set(reading.values)
    assert found.refusals == []
    assert found.burst == PurePosixPath("waveforms/G1/motor.bearing_de/1772352000000.bin")


def test_it_declares_its_channels_in_canonical_units_but_those_that_are() -> None:
    declared = {"bearing_de.velocity_rms": "m/s"}

    channels = {channel.key: channel.unit for channel in decode(encode(burst()), OneGate(declared)).channels}

    assert channels == {
        "motor.bearing_de.acceleration_rms": "g",
        "motor.bearing_de.acceleration_peak": "g",
        "motor.bearing_de.crest_factor": "1",
        "motor.bearing_de.kurtosis": "1",
    }


@pytest.mark.parametrize(
    ("payload", "reason", "told"),
    [
        (b"\x00" * 40, "wrong_shape", "header: must be one line of JSON that ends with a line feed"),
        (encode(burst())[:-1], "wrong_shape", "n: 12800 samples must be followed by twice as many bytes; got 25599"),
        (
            encode(burst()).replace(b":12800.0", b":-1.0"),
            "wrong_shape",
            "rate_hz: must be a number from 1 to 10,000,000; got -1.0",
        ),
        (encode(burst(t=datetime(2026, 3, 1, 16, 15, tzinfo=UTC))), "clock_fault", "8.0 h ahead (8 h: local time of UTC+8"),
        (encode(burst(t=datetime(2020, 3, 1, tzinfo=UTC))), "clock_fault", "the gate began at 2024-03-01"),
        (b" " * (MAX_BYTES + 1), "oversize", "a waveform message may have 262144 bytes"),
    ],
)
def test_what_is_no_burst_is_refused_by_the_field(payload: bytes, reason: str, told: str) -> None:
    found = decode(payload)

    assert reasons(found) == [reason]
    assert told in str(found.refusals[0])
    assert (found.readings, found.burst) == ((), None)


def test_an_impossible_level_is_refused_and_the_rest_of_the_burst_kept() -> None:
    found = decode(encode(burst(scale_g=0.5)))

    assert "out_of_range" in reasons(found)
    assert any("acceleration_peak of the burst: acceleration_peak must lie in 0..1000 g" in str(told) for told in found.refusals)
    assert {"bearing_de.kurtosis", "bearing_de.crest_factor"} <= set(found.readings[0].values)


def test_a_retained_burst_and_one_of_another_station_are_refused() -> None:
    assert reasons(decode(encode(burst()), retained=True)) == ["retained"]
    assert reasons(decode(encode(burst()), topic="sluicewatch/v1/S2/G1/motor/waveform")) == ["identity_mismatch"]
