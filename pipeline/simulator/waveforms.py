"""What an accelerometer on a motor or gearbox would record in 0.64 s, from the wear inside. Pure functions of a given generator.

A healthy machine is broadband noise with a little of its shaft's own turning in it. A worn race is struck once by every ball that
rolls over the damage, and each blow rings at the housing's resonance: the spectrum shows that resonance, only the spectrum of the
envelope shows how often it is struck. Worn gears sing at the mesh frequency, a cracked tooth knocks once a revolution.

The level is given (it is the reading's `acceleration_rms`); the wear decides what that level is made of. So that burst and
readings tell one story, shares of energy come from the gains and kurtosis peaks of `signals`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Literal

import numpy as np

from pipeline.errors import BadInput
from pipeline.simulator.degradation import MODES, severity
from pipeline.simulator.fleet import MOTORS, Gate
from pipeline.simulator.signals import GAINS, IMPULSES, SAMPLE, Scene, true_signals
from pipeline.simulator.streams import Floats, Layer, stream
from pipeline.simulator.weather import DAY_S
from pipeline.spectra import Machine
from pipeline.waveforms import Burst

RATE_HZ, SAMPLES = 12_800.0, 8_192

RESONANCE_HZ, DAMPING = 3_000.0, 0.08
"""Ringing of the bearing housing, and its damping as a share of critical: a blow is over after 3 ms, before the next."""

SLIP = 0.0075
"""Standard deviation of the time between two blows, as a share of it: balls slide a little as they roll."""

LOAD_ZONE = 0.7
"""Damage on the inner race turns with the shaft, in and out of the loaded side: depth to which that modulates the blows."""

BLOW_SPREAD = 0.1
"""Log-scale spread of the strength of single blows."""

LATE_EXCESS = 1.2
"""Kurtosis that a bearing worn out still has beyond 3: the damage has spread, but its line never leaves the envelope."""

LARGEST_SHARE = 0.9
"""Share of the energy that blows may take: some noise always stays."""

FRICTION_BLOCK_S = 0.005
"""How long dry friction stays about equally rough."""

_RACES = 2**31  # beyond every run's number
MESH_AMPLITUDES = (1.0, 0.5, 0.25)
"""Mesh frequency and its harmonics, relative."""

Race = Literal["outer", "inner"]


def motor_burst(
    rng: np.random.Generator,
    machine: Machine,
    acceleration_rms_g: float,
    bearing_z: float = 0.0,
    lubrication_z: float = 0.0,
    misalignment_s: float = 0.0,
    race: Race = "outer",
    *,
    samples: int = SAMPLES,
    rate_hz: float = RATE_HZ,
) -> Floats:
    """Return what is measured on the motor's bearing.

    Parameters
    ----------
    acceleration_rms_g : root mean square of the whole burst, met exactly
    bearing_z, lubrication_z : progress of these modes, 0 to 1
    misalignment_s : severity of misalignment, about 0 to 1; twice the shaft frequency grows most
    race : where the bearing is damaged

    Returns
    -------
    ndarray, shape (samples,)
        Acceleration in g, of mean 0. Its kurtosis rises with ``bearing_z``, half way to about 3 plus the peak of
        `signals.IMPULSES`, and falls again, as the damage spreads and the blows drown in noise.

    Raises
    ------
    BadInput
        When ``rate_hz`` is too low for the resonance.
    """
    _check_rate(rate_hz)
    gain, peak = GAINS["lubrication"]["motor.acceleration_rms"], IMPULSES["lubrication"]["motor.kurtosis"]
    friction = _added_share(gain, float(severity(MODES["lubrication"], np.asarray(lubrication_z))))
    noise = _noise(rng, samples, rate_hz, friction, peak * _hump(lubrication_z))
    burst = _with_shaft(rng, noise, rate_hz, machine.frequencies.shaft_hz, misalignment_s)
    if bearing_z > 0.0:
        found, inner = machine.frequencies, race == "inner"
        blows = _blows(
            rng,
            samples,
            rate_hz,
            found.bpfi_hz if inner else found.bpfo_hz,
            SLIP,
            turning_hz=found.shaft_hz if inner else 0.0,
        )
        excess = IMPULSES["motor_bearing"]["motor.kurtosis"] * _hump(bearing_z) + LATE_EXCESS * bearing_z
        burst = _mix(burst, blows, _share_for(excess, blows))
    return acceleration_rms_g * _unit(burst)


def gearbox_burst(
    rng: np.random.Generator,
    machine: Machine,
    acceleration_rms_g: float,
    gear_s: float = 0.0,
    crack_z: float = 0.0,
    rubbing_z: float = 0.0,
    misalignment_s: float = 0.0,
    *,
    samples: int = SAMPLES,
    rate_hz: float = RATE_HZ,
) -> Floats:
    """Return what is measured on the gearbox.

    Parameters
    ----------
    acceleration_rms_g : root mean square of the whole burst, met exactly
    gear_s : severity of gear wear, about 0 to 1: the mesh frequency, its harmonics and their sidebands at the shaft frequency
    crack_z : progress of a cracked tooth, 0 to 1: it knocks once a revolution, loudest half way
    rubbing_z : progress of what rubs behind the gearbox (nut, pump, open gear), 0 to 1: rough noise
    misalignment_s : severity of misalignment, about 0 to 1

    Returns
    -------
    ndarray, shape (samples,)
        Acceleration in g, of mean 0. Harmonics that the rate cannot carry are left out.

    Raises
    ------
    BadInput
        When ``rate_hz`` is too low for the resonance.
    """
    _check_rate(rate_hz)
    gain, peak = GAINS["nut_wear"]["gearbox.acceleration_rms"], IMPULSES["nut_wear"]["gearbox.kurtosis"]
    friction = _added_share(gain, float(severity(MODES["nut_wear"], np.asarray(rubbing_z))))
    noise = _noise(rng, samples, rate_hz, friction, peak * _hump(rubbing_z))
    shaft_hz = machine.frequencies.shaft_hz
    burst = _with_shaft(rng, noise, rate_hz, shaft_hz, misalignment_s)
    mesh = _mesh(rng, samples, rate_hz, machine.mesh_hz, shaft_hz, gear_s)
    burst = _mix(burst, mesh, _added_share(GAINS["gear"]["gearbox.acceleration_rms"], gear_s))
    if crack_z > 0.0:
        # a tooth comes round with the shaft: nothing slips
        blows = _blows(rng, samples, rate_hz, shaft_hz, slip=0.0)
        burst = _mix(burst, blows, _share_for(IMPULSES["gear"]["gearbox.kurtosis"] * _hump(crack_z), blows))
    return acceleration_rms_g * _unit(burst)


def to_burst(samples_g: Floats, t: datetime, point: str, axis: str = "radial", rate_hz: float = RATE_HZ) -> Burst:
    """Return the burst a sensor would send: 16 bits, the step just large enough for the largest sample.

    The step is rounded up to two significant digits.

    Examples
    --------
    >>> from datetime import UTC
    >>> burst = to_burst(np.array([0.5, -1.0]), datetime(2026, 3, 1, tzinfo=UTC), "bearing_de")
    >>> burst.scale_g, burst.samples.tolist()
    (3.1e-05, [16129, -32258])
    """
    scale_g = _tidy(float(np.max(np.abs(samples_g))) / np.iinfo(np.int16).max)
    return Burst(t, point, axis, rate_hz, scale_g, np.rint(samples_g / scale_g).astype(np.int16))


def _tidy(least: float) -> float:
    """The next number of two significant digits that is not less; a silent burst gets a step all the same."""
    if least <= 0.0:
        return 1e-6
    exponent = math.floor(math.log10(least)) - 1
    # by way of decimals, so that the header says 3.1e-05 and not 3.1000000000000004e-05
    return float(f"{math.ceil(least / 10.0**exponent)}e{exponent}")


def _check_rate(rate_hz: float) -> None:
    if not rate_hz >= 2.5 * RESONANCE_HZ:
        raise BadInput(f"rate_hz must be {2.5 * RESONANCE_HZ:g} or more, to carry the resonance; got {rate_hz:g}")


def _hump(z: float) -> float:
    """1 half way, 0 at both ends: how impulsive a fault is over its life."""
    return 4.0 * z * (1.0 - z)


def _added_share(gain: float, s: float) -> float:
    """Share of the energy that a fault has added: it multiplies the level by exp(gain s), the energy by exp(2 gain s)."""
    return -math.expm1(-2.0 * gain * s)


def _unit(x: Floats) -> Floats:
    """Of mean 0 and root mean square 1; silence stays silence."""
    x = x - x.mean()
    rms = math.sqrt(float(np.mean(x**2)))
    return x / rms if rms > 0.0 else x


def _mix(burst: Floats, part: Floats, share: float) -> Floats:
    """Give ``share`` of the energy to another part."""
    return math.sqrt(1.0 - share) * _unit(burst) + math.sqrt(share) * _unit(part)


def _share_for(excess: float, blows: Floats) -> float:
    """Share of the energy at which the blows lift the kurtosis by ``excess``, the rest being normal.

    Fourth cumulants of independent parts add up, and a part with a share q of the energy has q² of its own excess.
    """
    own = float(np.mean(_unit(blows) ** 4)) - 3.0
    return min(math.sqrt(excess / own), LARGEST_SHARE) if own > 0.0 else LARGEST_SHARE


def _noise(rng: np.random.Generator, samples: int, rate_hz: float, friction: float, excess: float) -> Floats:
    """Broadband noise; ``friction`` of its energy leans to high frequencies, its loudness wanders to ``excess`` kurtosis."""
    even, lifted = rng.normal(size=samples), np.diff(rng.normal(size=samples + 1))
    noise = _mix(even, lifted, friction)
    block = round(FRICTION_BLOCK_S * rate_hz)
    wander = np.repeat(rng.normal(size=-(-samples // block)), block)[:samples]
    # kurtosis of a normal variable times exp(v x normal) is 3 exp(4 v²)
    noise = noise * np.exp(0.5 * math.sqrt(math.log1p(excess / 3.0)) * wander)
    return _unit(noise)


def _with_shaft(rng: np.random.Generator, noise: Floats, rate_hz: float, shaft_hz: float, misalignment_s: float) -> Floats:
    """Add the shaft's own turning: a hundredth of the energy is 0.9 mm/s at the 0.12 g of a healthy motor."""
    angle = 2.0 * np.pi * shaft_hz / rate_hz * np.arange(len(noise))
    once, twice = 0.01 * (1.0 + misalignment_s), 0.005 + 0.5 * misalignment_s
    phases = rng.uniform(0.0, 2.0 * np.pi, 2)
    turning = math.sqrt(2.0 * once) * np.sin(angle + phases[0]) + math.sqrt(2.0 * twice) * np.sin(2.0 * angle + phases[1])
    return np.asarray(noise + turning)


def _blows(
    rng: np.random.Generator, samples: int, rate_hz: float, blows_hz: float, slip: float, turning_hz: float = 0.0
) -> Floats:
    """A train of blows, each ringing at the resonance; ``turning_hz`` modulates their strength, 0 does not."""
    decay_per_s = DAMPING * 2.0 * np.pi * RESONANCE_HZ
    ringing_hz = RESONANCE_HZ * math.sqrt(1.0 - DAMPING**2)
    count = math.ceil(1.1 * samples / rate_hz * blows_hz) + 3
    gaps_s = (1.0 + slip * rng.normal(size=count)) / blows_hz
    # the first blow falls before the burst begins, so that it may begin within a ringing
    at_s = np.cumsum(gaps_s) - gaps_s[0] - rng.uniform() / blows_hz
    strength = np.exp(BLOW_SPREAD * rng.normal(size=count))
    strength *= 1.0 + (LOAD_ZONE if turning_hz else 0.0) * np.cos(2.0 * np.pi * (turning_hz * at_s + rng.uniform()))

    lasting = math.ceil(10.0 / decay_per_s * rate_hz)
    first = np.ceil(at_s * rate_hz).astype(np.int64)
    index = first[:, None] + np.arange(lasting)
    since_s = index / rate_hz - at_s[:, None]
    ringing = strength[:, None] * np.exp(-decay_per_s * since_s) * np.sin(2.0 * np.pi * ringing_hz * since_s)
    within = (index >= 0) & (index < samples)
    train = np.zeros(samples)
    np.add.at(train, index[within], ringing[within])
    return train


def _mesh(rng: np.random.Generator, samples: int, rate_hz: float, mesh_hz: float, shaft_hz: float, gear_s: float) -> Floats:
    """Mesh frequency and harmonics, modulated by the shaft: wear is uneven around the wheel, the more the further it is."""
    t_s = np.arange(samples) / rate_hz
    phases = rng.uniform(0.0, 2.0 * np.pi, len(MESH_AMPLITUDES) + 1)
    depth = min(0.4 + 0.4 * gear_s, 0.9)
    mesh = np.zeros(samples)
    for harmonic, amplitude in enumerate(MESH_AMPLITUDES, start=1):
        # what lies above half the rate would come back as a line that no machine has
        if harmonic * mesh_hz + shaft_hz < rate_hz / 2.0:
            mesh += amplitude * np.sin(2.0 * np.pi * harmonic * mesh_hz * t_s + phases[harmonic])
    uneven: Floats = mesh * (1.0 + depth * np.cos(2.0 * np.pi * shaft_hz * t_s + phases[0]))
    return uneven


def gate_bursts(scene: Scene, first_day: int = 0, stop_day: int | None = None) -> Iterator[tuple[str, Burst]]:
    """The bursts of one gate from one day to another: two a run, at the motor's and the gearbox's bearing, half way through it.

    Their root mean square is the acceleration that a faultless sensor reads at that moment; their signatures stand for the wear
    then. Yields (component, burst) in order of time.
    """
    fleet, gate = scene.fleet, scene.gate
    stop_day = fleet.days if stop_day is None else stop_day
    rows, values = true_signals(scene, first_day * float(DAY_S), stop_day * float(DAY_S))
    machine = gate_machine(gate)
    sampled = np.flatnonzero(rows.kind == SAMPLE)
    runs, first, count = np.unique(rows.run[sampled], return_index=True, return_counts=True)
    for run, place in zip(runs.tolist(), sampled[first + count // 2].tolist(), strict=True):
        t_s = float(rows.t_s[place])
        number = int(scene.duty.number[run])
        z = {
            fault.mode.code: float(fault.progress_at(np.array([t_s]))[0])
            for fault in scene.visible
            if fault.first_day * DAY_S <= t_s
        }
        s = {code: float(severity(MODES[code], np.array(progress))) for code, progress in z.items()}
        t = fleet.started_at + timedelta(seconds=t_s + gate.clock_error_s)
        at_motor, at_gearbox = (stream(fleet.seed, Layer.WAVEFORM, gate.index, number, point) for point in (0, 1))
        motor_g = motor_burst(
            at_motor,
            machine,
            float(values["motor.acceleration_rms"][place]),
            bearing_z=z.get("motor_bearing", 0.0),
            lubrication_z=z.get("lubrication", 0.0),
            misalignment_s=s.get("misalignment", 0.0),
            race=damaged_race(scene, t_s),
        )
        yield "motor", to_burst(motor_g, t, "bearing_de")
        gearbox_g = gearbox_burst(
            at_gearbox,
            machine,
            float(values["gearbox.acceleration_rms"][place]),
            gear_s=s.get("gear", 0.0),
            crack_z=z.get("gear", 0.0),
            rubbing_z=max(z.get(code, 0.0) for code in ("nut_wear", "pump_wear", "open_gear")),
            misalignment_s=s.get("misalignment", 0.0),
        )
        yield "gearbox", to_burst(gearbox_g, t, "input_shaft")


def gate_machine(gate: Gate) -> Machine:
    """The rotating parts of one gate, as components.csv tells them."""
    _, speed_rpm, balls, ball_mm, pitch_mm = MOTORS[gate.motor]
    return Machine(float(speed_rpm), balls, ball_mm, pitch_mm, 0.0, gate.gear_teeth)


def damaged_race(scene: Scene, t_s: float) -> Race:
    """Where the bearing is damaged at an instant: two of three faults begin on the outer race."""
    standing = [fault.first_day for fault in scene.visible if fault.mode.code == "motor_bearing" and t_s <= fault.end_s]
    drawn = stream(scene.fleet.seed, Layer.WAVEFORM, scene.gate.index, _RACES, min(standing, default=0)).random()
    return "outer" if drawn < 2 / 3 else "inner"
