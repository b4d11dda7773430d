"""Synthetic bursts: what an analyst who knows nothing of the simulator finds in them is what was put in."""

import math
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import signal, stats

from pipeline.errors import BadInput
from pipeline.simulator import live_gate, make_fleet, write_dataset
from pipeline.simulator.fleet import MOTORS
from pipeline.simulator.signals import IMPULSES, Scene, made_s
from pipeline.simulator.waveforms import (
    RATE_HZ,
    SAMPLES,
    damaged_race,
    gate_machine,
    gearbox_burst,
    motor_burst,
    to_burst,
)
from pipeline.spectra import Machine
from pipeline.waveforms import Burst, decode, encode

Floats = NDArray[np.floating[Any]]
Race = Literal["outer", "inner"]

BIN_HZ = 12_800.0 / 8_192
SEEDS = range(20)
MACHINES = [
    Machine(speed_rpm, balls, ball_mm, pitch_mm, angle_deg=0.0, gear_teeth=23)
    for _, speed_rpm, balls, ball_mm, pitch_mm in MOTORS
]
MACHINE = MACHINES[0]
AT = datetime(2026, 3, 1, 8, 15, tzinfo=UTC)

# balls x speed / 2 x (1 -+ ball / pitch), worked out by hand for each of MOTORS
DEFECTS_HZ: dict[Race, list[float]] = {"outer": [85.73, 85.64, 57.09, 49.15], "inner": [130.27, 130.36, 86.91, 78.85]}


def amplitudes(x: Floats) -> Floats:
    """Amplitude spectrum with a Hann window, one value each `BIN_HZ`."""
    window = signal.windows.hann(len(x))
    return np.asarray(np.abs(np.fft.rfft((x - x.mean()) * window)) * 2.0 / window.sum())


def envelope_spectrum(x: Floats) -> Floats:
    """Amplitudes of the envelope of what rings between 2 and 4 kHz."""
    band = signal.butter(4, (2000.0, 4000.0), "bandpass", fs=12_800.0, output="sos")
    return amplitudes(np.abs(signal.hilbert(signal.sosfiltfilt(band, x))))


def height(spectrum: Floats, at_hz: float, reach_hz: float) -> float:
    """The line at a frequency, a bin more or less, over the median of its neighbourhood."""
    away_hz = np.abs(np.arange(len(spectrum)) * BIN_HZ - at_hz)
    around = (away_hz > 3 * BIN_HZ) & (away_hz < reach_hz)
    return float(spectrum[away_hz <= BIN_HZ].max() / np.median(spectrum[around]))


def worn_motor(seed: int, machine: Machine = MACHINE, bearing_z: float = 0.5, race: Race = "outer") -> Floats:
    return motor_burst(np.random.default_rng(seed), machine, 0.2, bearing_z=bearing_z, race=race)


def mean_kurtosis(bursts: list[Floats]) -> float:
    return float(np.mean([stats.kurtosis(burst, fisher=False) for burst in bursts]))


@pytest.mark.parametrize("bearing_z", [0.1, 0.5, 0.97])
@pytest.mark.parametrize("race", ["outer", "inner"])
@pytest.mark.parametrize("motor", range(len(MOTORS)))
def test_the_envelope_of_a_worn_bearing_peaks_at_its_race(motor: int, race: Race, bearing_z: float) -> None:
    defect_hz = DEFECTS_HZ[race][motor]
    # cage, shaft and sidebands are rivals; harmonics are the same finding
    low, high = math.ceil(5.0 / BIN_HZ), math.floor(1.6 * defect_hz / BIN_HZ)

    for seed in SEEDS:
        spectrum = envelope_spectrum(worn_motor(seed, MACHINES[motor], bearing_z, race))
        peak_hz = (low + int(np.argmax(spectrum[low:high]))) * BIN_HZ

        assert peak_hz == pytest.approx(defect_hz, abs=BIN_HZ)
        assert height(spectrum, defect_hz, reach_hz=0.45 * defect_hz) > 4.0


@pytest.mark.parametrize("race", ["outer", "inner"])
@pytest.mark.parametrize("motor", range(len(MOTORS)))
def test_the_envelope_of_a_healthy_bearing_has_no_line_there(motor: int, race: Race) -> None:
    defect_hz = DEFECTS_HZ[race][motor]

    for seed in SEEDS:
        spectrum = envelope_spectrum(worn_motor(seed, MACHINES[motor], bearing_z=0.0))

        assert height(spectrum, defect_hz, reach_hz=0.45 * defect_hz) < 4.0


@pytest.mark.parametrize("race", ["outer", "inner"])
@pytest.mark.parametrize("machine", MACHINES)
def test_kurtosis_rises_with_wear_to_what_the_readings_show_and_falls_before_the_end(machine: Machine, race: Race) -> None:
    fresh, half, late = (
        mean_kurtosis([worn_motor(seed, machine, bearing_z, race) for seed in SEEDS]) for bearing_z in (0.0, 0.5, 0.97)
    )

    assert fresh == pytest.approx(3.0, abs=0.1)
    assert half == pytest.approx(3.0 + IMPULSES["motor_bearing"]["motor.kurtosis"], abs=1.0)
    assert 4.0 < late < 6.0


def test_damage_on_the_inner_race_beats_with_the_shaft_and_on_the_outer_does_not() -> None:
    heights: dict[Race, list[float]] = {"inner": [], "outer": []}
    for race, found in heights.items():
        for seed in SEEDS:
            spectrum = envelope_spectrum(worn_motor(seed, race=race))
            found += [height(spectrum, DEFECTS_HZ[race][0] + side * 24.0, reach_hz=20.0) for side in (-1, 1)]

    assert np.median(heights["inner"]) > 5.0
    assert np.median(heights["outer"]) < 4.0


@pytest.mark.parametrize("acceleration_rms_g", [0.0, 0.12, 7.5])
def test_a_burst_is_as_strong_as_was_asked_whatever_the_wear(acceleration_rms_g: float) -> None:
    rng = np.random.default_rng(5)
    bursts = [
        motor_burst(rng, MACHINE, acceleration_rms_g),
        motor_burst(rng, MACHINE, acceleration_rms_g, 0.6, 0.4, 0.8, "inner"),
        gearbox_burst(rng, MACHINE, acceleration_rms_g),
        gearbox_burst(rng, MACHINE, acceleration_rms_g, 0.7, 0.5, 0.3, 0.2),
    ]

    for burst in bursts:
        assert burst.shape == (8192,)
        assert np.mean(burst) == pytest.approx(0.0, abs=1e-9)
        assert np.std(burst) == pytest.approx(acceleration_rms_g, rel=1e-9)


def test_misalignment_raises_twice_the_shaft_frequency_most() -> None:
    def lines(misalignment_s: float) -> Floats:
        bursts = [motor_burst(np.random.default_rng(seed), MACHINE, 0.2, misalignment_s=misalignment_s) for seed in SEEDS]
        spectra = np.array([amplitudes(burst) for burst in bursts])
        # 1440 rpm: 24 Hz
        return np.array([np.median(spectra[:, round(times * 24.0 / BIN_HZ)]) for times in (1, 2, 3)])

    growth = lines(1.0) / lines(0.0)

    assert growth[1] > 4.0
    assert max(growth[0], growth[2]) < 2.0


def test_dry_friction_leans_to_high_frequencies_and_has_no_line() -> None:
    fresh, dry = ([motor_burst(np.random.default_rng(s), MACHINE, 0.2, lubrication_z=z) for s in SEEDS] for z in (0.0, 0.9))

    def high_share(bursts: list[Floats]) -> float:
        half = len(amplitudes(bursts[0])) // 2
        return float(np.mean([np.sum(a[half:] ** 2) / np.sum(a**2) for a in map(amplitudes, bursts)]))

    assert high_share(fresh) == pytest.approx(0.5, abs=0.05)
    assert high_share(dry) > 0.65
    assert max(height(envelope_spectrum(burst), DEFECTS_HZ["outer"][0], reach_hz=38.0) for burst in dry) < 4.0


def test_dry_friction_raises_kurtosis_a_little_half_way() -> None:
    half = mean_kurtosis([motor_burst(np.random.default_rng(seed), MACHINE, 0.2, lubrication_z=0.5) for seed in range(100)])

    assert half == pytest.approx(3.0 + IMPULSES["lubrication"]["motor.kurtosis"], abs=0.4)


@pytest.mark.parametrize("machine", MACHINES)
def test_worn_gears_sing_at_the_mesh_frequency_with_sidebands_and_healthy_ones_do_not(machine: Machine) -> None:
    shaft_hz = machine.speed_rpm / 60.0
    # the third harmonic's own sidebands are as weak as the noise
    lines_hz = [shaft_hz * (23 * harmonic + side) for harmonic, side in product((1, 2), (-1, 0, 1))] + [3 * 23 * shaft_hz]

    def spectra(gear_s: float) -> list[Floats]:
        return [amplitudes(gearbox_burst(np.random.default_rng(seed), machine, 0.3, gear_s=gear_s)) for seed in SEEDS]

    worn, healthy_on_average = spectra(0.5), np.mean(spectra(0.0), axis=0)

    for line_hz in lines_hz:
        assert min(height(spectrum, line_hz, reach_hz=0.9 * shaft_hz) for spectrum in worn) > 4.0
        assert height(healthy_on_average, line_hz, reach_hz=0.9 * shaft_hz) < 1.5


def test_a_harmonic_of_the_mesh_above_half_the_rate_does_not_come_back_as_another_line() -> None:
    fast = Machine(speed_rpm=3000.0, balls=9, ball_mm=7.938, pitch_mm=38.5, angle_deg=0.0, gear_teeth=80)

    spectrum = amplitudes(gearbox_burst(np.random.default_rng(3), fast, 0.3, gear_s=0.8))

    # 4,000 Hz fits; 8,000 and 12,000 would be folded to 4,800 and 800
    assert height(spectrum, 4000.0, reach_hz=45.0) > 20.0
    assert max(height(spectrum, folded_hz, reach_hz=45.0) for folded_hz in (4800.0, 800.0)) < 4.0


def test_a_mesh_that_the_rate_cannot_carry_at_all_leaves_the_level_as_asked() -> None:
    too_fast = Machine(speed_rpm=3000.0, balls=9, ball_mm=7.938, pitch_mm=38.5, angle_deg=0.0, gear_teeth=200)

    assert np.std(gearbox_burst(np.random.default_rng(3), too_fast, 0.3, gear_s=0.8)) == pytest.approx(0.3)


def test_a_cracked_tooth_knocks_once_a_revolution() -> None:
    bursts = [gearbox_burst(np.random.default_rng(seed), MACHINE, 0.3, crack_z=0.5) for seed in SEEDS]

    assert min(height(envelope_spectrum(burst), 24.0, reach_hz=20.0) for burst in bursts) > 4.0
    assert mean_kurtosis(bursts) == pytest.approx(3.0 + IMPULSES["gear"]["gearbox.kurtosis"], abs=0.7)


def test_the_same_generator_gives_the_same_burst_and_another_does_not() -> None:
    assert np.array_equal(worn_motor(11), worn_motor(11))
    assert not np.array_equal(worn_motor(11), worn_motor(12))


def test_a_rate_too_low_for_the_resonance_is_refused() -> None:
    with pytest.raises(BadInput, match="rate_hz must be 7500 or more, to carry the resonance; got 4000"):
        motor_burst(np.random.default_rng(0), MACHINE, 0.2, rate_hz=4000.0)


@pytest.mark.parametrize("peak_g", [1e-7, 0.032767, 0.4, 1.0, 9.99, 50.0])
def test_a_burst_uses_its_sixteen_bits_without_clipping(peak_g: float) -> None:
    samples_g = peak_g * np.sin(np.linspace(0.0, 20.0, 1001))

    burst = to_burst(samples_g, AT, "bearing_de")

    largest = int(np.abs(burst.samples.astype(int)).max())
    # a step of two digits is at most a tenth too large
    assert 32767 / 1.11 < largest <= 32767
    assert len(f"{burst.scale_g:e}".rstrip("0").replace("e", ".").split(".")[0]) <= 2
    assert float(f"{burst.scale_g:.1e}") == burst.scale_g
    assert np.abs(burst.acceleration_g - samples_g).max() <= 0.51 * burst.scale_g


def test_a_silent_burst_is_silent_still() -> None:
    assert not to_burst(np.zeros(8), AT, "bearing_de").acceleration_g.any()


def test_what_was_put_in_is_still_there_after_the_journey() -> None:
    sent = to_burst(worn_motor(4), AT, "bearing_de")

    came = decode(encode(sent))

    assert (came.t, came.point, came.axis, came.rate_hz) == (AT, "bearing_de", "radial", RATE_HZ)
    assert (RATE_HZ, SAMPLES) == (12_800.0, 8_192)
    assert np.std(came.acceleration_g) == pytest.approx(0.2, rel=1e-4)
    assert height(envelope_spectrum(came.acceleration_g), DEFECTS_HZ["outer"][0], reach_hz=38.0) > 4.0


def test_the_bursts_of_a_failing_gate_show_its_bearing_at_the_right_frequency_and_the_wear_of_the_moment(tmp_path: Path) -> None:
    wish = "gate=DSH-S1-G1,mode=motor_bearing,fail-at=2024-03-20T09:00:00Z"
    write_dataset(tmp_path / "fleet", gates=1, days=80, seed=4, hazard_scale=0.0, inject=[wish], waveforms=True)
    fleet = make_fleet(gates=1, days=80, seed=4, hazard_scale=0.0, inject=[wish])
    gate = fleet.gates[0]
    scene = Scene(fleet, gate, *live_gate(fleet, gate))
    race = damaged_race(scene, 70 * 86_400.0)
    found = gate_machine(gate).frequencies
    sought_hz = found.bpfo_hz if race == "outer" else found.bpfi_hz

    files = sorted((tmp_path / "fleet" / "waveforms" / "DSH-S1-G1" / "motor.bearing_de").iterdir())
    bursts = [decode(file.read_bytes()) for file in files]

    # one a run that outlasts its run-up
    assert len(bursts) == (made_s(scene.duty, scene.life) > 20.0).sum() > 100
    assert [int(file.stem) for file in files] == [round(b.t.timestamp() * 1000) for b in bursts]
    onset, failed = fleet.started_at + timedelta(days=scene.life.episodes[0].first_day), datetime(2024, 3, 20, 9, tzinfo=UTC)
    worn = [b for b in bursts if failed - timedelta(days=8) < b.t < failed]
    healthy = [b for b in bursts if b.t < onset]
    assert len(worn) >= 5
    assert np.mean([peaks_at(b, sought_hz) for b in worn]) >= 0.9
    assert np.mean([peaks_at(b, sought_hz) for b in healthy]) <= 0.1


def peaks_at(burst: Burst, sought_hz: float) -> bool:
    """Whether the envelope spectrum of the resonance's band is highest within one bin of a frequency."""
    band = signal.butter(4, [2000.0, 4500.0], "bandpass", fs=burst.rate_hz, output="sos")
    envelope = np.abs(signal.hilbert(signal.sosfiltfilt(band, burst.acceleration_g)))
    spectrum = np.abs(np.fft.rfft(envelope - envelope.mean()))
    hz = np.fft.rfftfreq(len(envelope), 1 / burst.rate_hz)
    near = (hz > 0.6 * sought_hz) & (hz < 1.6 * sought_hz)
    return bool(abs(hz[near][np.argmax(spectrum[near])] - sought_hz) <= 1.01 * hz[1])
