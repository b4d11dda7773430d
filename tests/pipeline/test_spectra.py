"""Waveform indicators against closed forms, against SciPy, and against bursts whose wear is known."""

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import integrate, signal, stats

from pipeline.readings import QUANTITIES
from pipeline.simulator.waveforms import gearbox_burst, motor_burst, to_burst
from pipeline.spectra import (
    OUT_OF_SCOPE,
    Machine,
    defect_frequencies,
    envelope_amplitude_g,
    indicators,
    iso_zone,
    mesh_rms_g,
    velocity_rms_mm_s,
)
from pipeline.waveforms import Burst

Floats = NDArray[np.float64]

RATE_HZ, SAMPLES = 12_800.0, 8_192
T_S = np.arange(SAMPLES) / RATE_HZ
AT = datetime(2026, 3, 1, 8, 15, tzinfo=UTC)
MOTOR = Machine(1440.0, 9, 7.938, 38.5)
GEARBOX = Machine(1440.0, gear_teeth=23)
GRAVITY = 9.80665


def sine(hz: float, amplitude: float = 1.0, phase: float = 0.3) -> Floats:
    return np.asarray(amplitude * np.sin(2.0 * np.pi * hz * T_S + phase))


def modulated(carrier_hz: float, by_hz: float, depth: float, amplitude: float = 1.0) -> Floats:
    return np.asarray(amplitude * (1.0 + depth * np.cos(2.0 * np.pi * by_hz * T_S)) * np.sin(2.0 * np.pi * carrier_hz * T_S))


def of(samples_g: Floats, machine: Machine = MOTOR, rate_hz: float = RATE_HZ) -> dict[str, float]:
    return indicators(to_burst(samples_g, AT, "bearing_de", rate_hz=rate_hz), machine)


def test_a_6205_at_1800_rpm_has_the_frequencies_of_the_check_case() -> None:
    found = defect_frequencies(1800.0, balls=9, ball_mm=7.938, pitch_mm=38.5)

    assert found.shaft_hz == 30.0
    assert (round(found.bpfo_hz), round(found.bpfi_hz), round(found.ftf_hz, 1)) == (107, 163, 11.9)
    # the ball rolls between the races without sliding: pitch / ball x (1 - (ball / pitch)²) / 2 turns for one of the shaft
    assert found.bsf_hz == pytest.approx(69.66, abs=0.01)


def test_a_contact_angle_brings_the_races_closer_to_each_other() -> None:
    found = defect_frequencies(1200.0, balls=10, ball_mm=10.0, pitch_mm=50.0, angle_deg=60.0)

    # cos 60° = 1/2: the ratio is 0.1
    assert (found.bpfo_hz, found.bpfi_hz, found.ftf_hz, found.bsf_hz) == pytest.approx((90.0, 110.0, 9.0, 49.5))


def test_a_row_of_components_without_geometry_has_no_frequencies_but_the_shafts() -> None:
    nothing = dict.fromkeys(("bearing_balls", "bearing_pitch_mm", "bearing_angle_deg", "gear_teeth"), math.nan)

    machine = Machine.of({**nothing, "speed_rpm": 960.0, "bearing_ball_mm": 0.0})

    assert machine.angle_deg == 0.0
    assert machine.frequencies.shaft_hz == 16.0
    assert np.isnan([machine.frequencies.bpfo_hz, machine.frequencies.bsf_hz, machine.mesh_hz]).all()


@pytest.mark.parametrize("hz", [12.5, 24.0, 33.3, 160.0, 487.1, 990.0])
def test_velocity_of_a_pure_sine_is_its_acceleration_over_its_angular_frequency(hz: float) -> None:
    found = of(sine(hz, amplitude=0.5))

    assert found["velocity_rms"] == pytest.approx(1000.0 * 0.5 * GRAVITY / (2.0 * np.pi * hz) / math.sqrt(2.0), rel=0.02)


@pytest.mark.parametrize("hz", [3.0, 5.0, 1_010.0, 4_000.0])
def test_what_shakes_outside_the_band_has_no_velocity(hz: float) -> None:
    whole = 1000.0 * GRAVITY / (2.0 * np.pi * hz) / math.sqrt(2.0)

    assert velocity_rms_mm_s(sine(hz), RATE_HZ) < 0.02 * whole


def test_velocity_of_two_sines_adds_in_squares() -> None:
    alone = [velocity_rms_mm_s(wave, RATE_HZ) for wave in (sine(25.0), sine(400.0, 5.0))]

    assert velocity_rms_mm_s(sine(25.0) + sine(400.0, 5.0), RATE_HZ) == pytest.approx(math.hypot(*alone), rel=1e-3)


def test_velocity_of_noise_is_what_scipy_integrates_in_time() -> None:
    band = signal.butter(4, (40.0, 700.0), "bandpass", fs=RATE_HZ, output="sos")
    noise = signal.sosfiltfilt(band, np.random.default_rng(1).normal(size=4 * SAMPLES))

    m_s = integrate.cumulative_trapezoid(GRAVITY * noise, dx=1.0 / RATE_HZ, initial=0.0)
    inside = signal.sosfiltfilt(signal.butter(4, 20.0, "highpass", fs=RATE_HZ, output="sos"), m_s)

    assert velocity_rms_mm_s(noise, RATE_HZ) == pytest.approx(1000.0 * np.sqrt(np.mean(inside**2)), rel=0.03)


def test_a_sine_has_peak_kurtosis_and_crest_factor_of_the_textbook() -> None:
    found = of(sine(801.3, amplitude=2.0))

    assert found["acceleration_rms"] == pytest.approx(math.sqrt(2.0), rel=1e-3)
    assert found["acceleration_peak"] == pytest.approx(2.0, rel=1e-3)
    assert found["kurtosis"] == pytest.approx(1.5, rel=1e-3)
    assert found["crest_factor"] == pytest.approx(math.sqrt(2.0), rel=1e-3)


def test_kurtosis_of_noise_is_scipys_and_a_steady_offset_counts_for_nothing() -> None:
    noise = np.random.default_rng(2).standard_t(5, SAMPLES)

    found, lifted = of(noise), of(noise + 3.0)

    assert found["kurtosis"] == pytest.approx(stats.kurtosis(noise, fisher=False), rel=1e-3)
    assert [lifted[name] for name in found] == pytest.approx([found[name] for name in found], rel=2e-3)


@pytest.mark.parametrize("line", ["bpfo", "bpfi", "bsf", "ftf"])
@pytest.mark.parametrize("slip", [0.985, 1.0, 1.015])
def test_the_envelope_of_a_modulated_carrier_swings_by_amplitude_times_depth(line: str, slip: float) -> None:
    hz = getattr(MOTOR.frequencies, f"{line}_hz")

    found = of(modulated(3_200.0, slip * hz, depth=0.4, amplitude=0.5))

    assert found[f"envelope_{line}"] == pytest.approx(0.5 * 0.4, rel=0.02)
    others = {"bpfo", "bpfi", "bsf", "ftf"} - {line}
    assert max(found[f"envelope_{other}"] for other in others) < 0.01


def test_an_envelope_below_the_band_is_not_heard() -> None:
    assert of(modulated(900.0, MOTOR.frequencies.bpfo_hz, depth=0.9))["envelope_bpfo"] < 0.01


def test_the_envelope_of_blows_in_noise_is_that_of_scipys_hilbert() -> None:
    burst = motor_burst(np.random.default_rng(3), MOTOR, 0.2, bearing_z=0.5)
    band = signal.butter(8, (2_000.0, 5_120.0), "bandpass", fs=RATE_HZ, output="sos")
    envelope = np.abs(signal.hilbert(signal.sosfiltfilt(band, burst)))
    window = signal.windows.hann(SAMPLES, sym=False)
    hz = np.linspace(0.98, 1.02, 41) * MOTOR.frequencies.bpfo_hz
    turned = np.exp(-2j * np.pi * hz[:, None] * T_S)
    expected = np.abs(turned @ ((envelope - envelope.mean()) * window)).max() * 2.0 / window.sum()

    assert of(burst)["envelope_bpfo"] == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("race", ["outer", "inner"])
def test_the_simulators_worn_bearing_stands_out_at_its_own_race(race: Any) -> None:
    own, other = ("envelope_bpfo", "envelope_bpfi") if race == "outer" else ("envelope_bpfi", "envelope_bpfo")

    def mean(quantity: str, bearing_z: float) -> float:
        bursts = [motor_burst(np.random.default_rng(seed), MOTOR, 0.2, bearing_z=bearing_z, race=race) for seed in range(10)]
        return float(np.mean([of(burst)[quantity] for burst in bursts]))

    assert mean(own, 0.5) > 4.0 * mean(own, 0.0)
    assert mean(own, 0.5) > 3.0 * mean(other, 0.5)


def test_a_mesh_tone_with_its_sidebands_counts_whole_and_a_tone_beside_it_does_not() -> None:
    shaft_hz, mesh_hz = 24.0, 552.0
    tone = modulated(mesh_hz, shaft_hz, depth=0.5)

    # power of the carrier and of two sidebands, 1/2 (1 + depth² / 2)
    assert of(tone, GEARBOX)["gear_mesh"] == pytest.approx(math.sqrt(0.5 * (1.0 + 0.5**2 / 2.0)), rel=5e-3)
    assert of(sine(2.0 * mesh_hz), GEARBOX)["gear_mesh"] == pytest.approx(math.sqrt(0.5), rel=5e-3)
    assert of(sine(mesh_hz + 4.0 * shaft_hz), GEARBOX)["gear_mesh"] < 0.01


def test_the_simulators_worn_gears_sing_louder() -> None:
    worn, healthy = (
        np.mean(
            [of(gearbox_burst(np.random.default_rng(seed), GEARBOX, 0.3, gear_s=s), GEARBOX)["gear_mesh"] for seed in range(5)]
        )
        for s in (0.5, 0.0)
    )

    assert worn > 3.0 * healthy


def test_a_short_burst_does_not_tell_what_it_cannot_resolve() -> None:
    # 0.1 s: no four periods of 10 Hz, of the cage's 9.5 Hz or of the shaft's 24 Hz
    found = of(np.random.default_rng(4).normal(size=1_280), Machine(1440.0, 9, 7.938, 38.5, gear_teeth=23))

    told = {"acceleration_rms", "acceleration_peak", "kurtosis", "crest_factor"}
    assert set(found) == told | {"envelope_bpfo", "envelope_bpfi", "envelope_bsf"}


def test_a_slow_burst_tells_neither_velocity_nor_envelope() -> None:
    assert set(of(np.random.default_rng(4).normal(size=4_000), rate_hz=2_000.0)) == {
        "acceleration_rms",
        "acceleration_peak",
        "kurtosis",
        "crest_factor",
    }


def test_a_mesh_that_the_rate_cannot_carry_is_not_told() -> None:
    assert math.isnan(mesh_rms_g(sine(800.0), RATE_HZ, mesh_hz=6_390.0, shaft_hz=24.0))
    assert np.isnan(envelope_amplitude_g(sine(800.0), RATE_HZ, np.array([2_000.0, np.nan]))).all()


def test_silence_has_neither_kurtosis_nor_crest_factor() -> None:
    found = of(np.zeros(SAMPLES))

    assert found.pop("velocity_rms") == 0.0
    assert set(found) == {
        "acceleration_rms",
        "acceleration_peak",
        *(f"envelope_{line}" for line in ("bpfo", "bpfi", "bsf", "ftf")),
    }
    assert not any(found.values())


@given(st.lists(st.integers(-32_768, 32_767), min_size=1, max_size=300), st.floats(10.0, 1e5), st.floats(1e-9, 1e-2))
def test_any_burst_gives_readings_that_may_enter(samples: list[int], rate_hz: float, scale_g: float) -> None:
    burst = Burst(AT, "bearing_de", "", rate_hz, scale_g, np.array(samples, np.int16))

    for quantity, value in indicators(burst, MOTOR).items():
        assert QUANTITIES[quantity].low <= value <= QUANTITIES[quantity].high


@pytest.mark.parametrize(
    ("iso_class", "power_kw", "boundaries"),
    [("I", 11.0, (0.71, 1.8, 4.5)), ("II", 22.0, (1.12, 2.8, 7.1)), ("III", 132.0, (1.8, 4.5, 11.2))],
)
def test_zones_change_at_the_boundaries_of_the_standard(
    iso_class: str, power_kw: float, boundaries: tuple[float, float, float]
) -> None:
    def zone(velocity: float) -> str:
        return iso_zone(velocity, iso_class, power_kw, 1440.0, continuous=True).zone

    assert [zone(boundary) for boundary in boundaries] == ["A", "B", "C"]
    assert [zone(boundary + 0.01) for boundary in boundaries] == ["B", "C", "D"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"continuous": False}, "runs for minutes"),
        ({"iso_class": ""}, "none of I, II, III; got ''"),
        ({"rated_power_kw": 22.0}, "class I is for 0 to 15 kW; got 22 kW"),
        ({"rated_power_kw": math.nan}, "got nan kW"),
        ({"speed_rpm": 2.0}, "600 to 12000 rpm; got 2 rpm"),
        ({"velocity_rms": math.nan}, "no velocity RMS"),
    ],
)
def test_outside_the_standard_there_is_no_zone_but_a_reason(changed: dict[str, Any], told: str) -> None:
    asked: dict[str, Any] = {
        "velocity_rms": 2.0,
        "iso_class": "I",
        "rated_power_kw": 11.0,
        "speed_rpm": 1440.0,
        "continuous": True,
    }

    found = iso_zone(**{**asked, **changed})

    assert found.zone == OUT_OF_SCOPE
    assert told in found.reason
