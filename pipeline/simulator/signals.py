"""What the sensors of one gate show: vibration per minute of movement, temperatures with their lags, a heartbeat at rest.

Reads the hidden state (`degradation.Life`) and the duty, adds noise that is independent of both, and returns rows. Noise has a
part that stays for a day, one that stays for a run and one per reading, so averaging a run does not make it vanish. Every draw
belongs to its channel and its day, run or reading by name (`streams.hashed`): any part of a gate's life can be made without the
rest, and what a repair, a flood or a fault changes elsewhere leaves the noise of a reading alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from pipeline.simulator.degradation import Episode, Life, severity
from pipeline.simulator.duty import Duty, opening_after, opening_path
from pipeline.simulator.fleet import Fleet, Gate, channel_keys
from pipeline.simulator.inject import ForcedFault
from pipeline.simulator.maintenance import Outage
from pipeline.simulator.scenarios import find_scenario
from pipeline.simulator.sensor_faults import apply_faults, apply_wishes, draw_faults, draw_scatter, memory_s, slip_units
from pipeline.simulator.streams import Floats, Ints, Layer, hash_key, hashed, stream
from pipeline.simulator.weather import DAY_S, Weather, ambient_at, daily_to_instants, local_hour, sun_at

Bools = NDArray[np.bool_]

RUN_UP_S = 20.0
SAMPLE_EVERY_S = 60.0

# log-scale noise of a reading = 0.13 x Student t(4) in all, split by how long a part lasts
DAY_NOISE, RUN_NOISE, READING_NOISE = 0.11, 0.08, 0.06
CURRENT_NOISE_SHARE = 0.05
LOAD_ERROR = 0.05
"""Error of the load that the drive reports, per run: it is an estimate, so the current cannot be explained away by it."""

GAINS: Mapping[str, Mapping[str, float]] = {
    "motor_bearing": {"motor.velocity_rms": 1.0, "motor.acceleration_rms": 1.6},
    "lubrication": {"motor.velocity_rms": 0.25, "motor.acceleration_rms": 1.1, "motor.current": 0.05},
    "gear": {"gearbox.velocity_rms": 0.9, "gearbox.acceleration_rms": 1.3, "motor.current": 0.05},
    "misalignment": {"motor.velocity_rms": 1.2, "gearbox.velocity_rms": 0.9, "motor.current": 0.04},
    "brake_drag": {"motor.velocity_rms": 0.15, "motor.current": 0.22},
    "guide_seizure": {"gearbox.velocity_rms": 0.25, "leaf.velocity_rms": 1.1, "motor.current": 0.30},
    "seal_wear": {"leaf.velocity_rms": 1.5},
    "winding": {"motor.velocity_rms": 0.15, "motor.current": 0.05},
    **{
        code: {"gearbox.velocity_rms": 0.6, "gearbox.acceleration_rms": 1.0, "motor.current": 0.15}
        for code in ("nut_wear", "pump_wear", "open_gear")
    },
    "rope_drum": {"leaf.velocity_rms": 0.35, "motor.current": 0.06},
}
"""Log-gain of each vibration channel and the current at severity 1, by mode."""

HEATING: Mapping[str, Mapping[str, float]] = {
    "motor_bearing": {"motor.bearing_de.temperature": 14.0},
    "lubrication": {"motor.bearing_de.temperature": 18.0, "gearbox.oil.temperature": 5.0},
    "gear": {"gearbox.oil.temperature": 10.0},
    "misalignment": {"motor.bearing_de.temperature": 5.0},
    "brake_drag": {"motor.winding.temperature": 10.0, "brake.lining.temperature": 45.0},
    "guide_seizure": {"motor.winding.temperature": 9.0},
    "winding": {"motor.winding.temperature": 16.0},
    "nut_wear": {"gearbox.oil.temperature": 15.0},
    "pump_wear": {"gearbox.oil.temperature": 15.0, "hydraulic.oil.temperature": 15.0},
    "open_gear": {"gearbox.oil.temperature": 15.0},
}
"""Kelvin added to the steady running temperature at severity 1, by mode."""

IMPULSES: Mapping[str, Mapping[str, float]] = {
    "motor_bearing": {"motor.kurtosis": 7.0},
    "lubrication": {"motor.kurtosis": 1.2},
    "gear": {"gearbox.kurtosis": 4.0},
    **{code: {"gearbox.kurtosis": 1.5} for code in ("nut_wear", "pump_wear", "open_gear")},
}
"""Kurtosis added half way through the wear, by mode; it rises early and falls again before the end."""

# channel -> (running time constant, resting time constant, minutes; noise, K)
THERMAL: Mapping[str, tuple[float, float, float]] = {
    "motor.winding.temperature": (25.0, 60.0, 0.6),
    "motor.bearing_de.temperature": (15.0, 40.0, 0.5),
    "gearbox.oil.temperature": (45.0, 120.0, 0.5),
    "brake.lining.temperature": (8.0, 25.0, 1.0),
    "hydraulic.oil.temperature": (30.0, 90.0, 0.5),
}

LIMITS = {
    "velocity_rms": (0.0, 45.0),
    "acceleration_rms": (0.0, 50.0),
    "acceleration_peak": (0.0, 50.0),
    "crest_factor": (1.0, 50.0),
    "temperature": (-30.0, 200.0),
}
"""Ranges of the sensors, in the canonical unit."""

DECIMALS = {
    "velocity_rms": 1,
    "acceleration_rms": 3,
    "acceleration_peak": 3,
    "kurtosis": 2,
    "crest_factor": 2,
    "temperature": 1,
    "ambient_temperature": 1,
    "current": 2,
    "load": 2,
    "opening": 2,
    "head": 2,
    "water_level": 2,
    "humidity": 0,
    "moving": 0,
}
"""Resolution of the sensors: decimals of the canonical unit."""

NARROW_OPENING = 0.25
"""How much more a leaf vibrates, as a share, where it is nearly closed."""

LOCK_IN_HALF_WIDTH = 0.25
"""Half the width of the band of openings, as a share of the travel, in which worn seals make the leaf vibrate."""


BEAT, START, SAMPLE, STOP = 0, 1, 2, 3
"""Kinds of rows: a heartbeat at rest, and within a run its start, a vibration sample a minute, its stop."""

WARM_UP_D = 4
"""Days before a part of a gate's life from which its temperatures are reckoned: 40 time constants, nothing is left of more."""

SLOW_SAMPLES = 10
"""With the firmware of that scenario only each tenth minute of movement is sampled."""


@dataclass(frozen=True, slots=True)
class Rows:
    """When a gate reports and why, one entry per row, ascending.

    ``t_s`` seconds from the start; ``run`` the index of the run asked for (-1 for a heartbeat); ``kind`` one of `BEAT` … `STOP`;
    ``name`` a number that the row has whatever else the gate reports.
    """

    t_s: Floats
    run: Ints
    kind: Ints
    name: Ints

    @property
    def moving(self) -> Bools:
        """Whether the gate moves then."""
        moving: Bools = (self.kind == START) | (self.kind == SAMPLE)
        return moving

    @property
    def ran(self) -> Bools:
        """Whether the gate ran since the row before."""
        ran: Bools = (self.kind == SAMPLE) | (self.kind == STOP)
        return ran

    @property
    def day(self) -> Ints:
        """Index of the day of each row."""
        return (self.t_s // DAY_S).astype(np.int64)

    def of_run(self, per_run: Floats) -> Floats:
        """Spread a value per run over the rows; a heartbeat gets an arbitrary one."""
        return per_run[self.run] if len(per_run) else np.full(len(self.run), 0.5)


def made_s(duty: Duty, life: Life) -> Floats:
    """How long each run asked for really lasted: none starts in an outage, one that breaks is cut short."""
    duration_s = duty.duration_s.copy()
    for outage in life.outages:
        duration_s[(duty.start_s >= outage.start_s) & (duty.start_s < outage.end_s)] = 0.0
        cut = (duty.start_s < outage.start_s) & (duty.start_s + duration_s > outage.start_s)
        duration_s[cut] = outage.start_s - duty.start_s[cut]
    return duration_s


def lay_out(duty: Duty, lasted_s: Floats, heartbeat_s: float, phase_s: float, from_s: float, until_s: float) -> Rows:
    """The rows between two instants: each run made, with a sample a minute after its run-up, and heartbeats in between."""
    runs = np.flatnonzero((lasted_s > 0.0) & (duty.start_s + lasted_s >= from_s) & (duty.start_s < until_s))
    start_s, end_s, number = duty.start_s[runs], duty.start_s[runs] + lasted_s[runs], duty.number[runs]
    samples = np.maximum(np.ceil((lasted_s[runs] - RUN_UP_S) / SAMPLE_EVERY_S).astype(np.int64), 0)
    of_run = np.repeat(np.arange(len(runs)), samples)
    nth = np.arange(len(of_run)) - np.repeat(np.cumsum(samples) - samples, samples)
    first = int(np.ceil(max(from_s - phase_s, 0.0) / heartbeat_s))
    beats = np.arange(first, max(int(np.ceil((until_s - phase_s) / heartbeat_s)), first))
    beat_s = phase_s + beats * heartbeat_s
    # what moves sends no heartbeat
    before = np.searchsorted(start_s, beat_s, side="right") - 1
    if len(runs):
        still = (before < 0) | (beat_s > end_s[before])
        beats, beat_s = beats[still], beat_s[still]
    parts = [
        (beat_s, np.full(len(beats), -1), BEAT, 2 * beats),
        (start_s, runs, START, 128 * number + 1),
        (start_s[of_run] + RUN_UP_S + SAMPLE_EVERY_S * nth, runs[of_run], SAMPLE, 128 * number[of_run] + 2 * nth + 3),
        (end_s, runs, STOP, 128 * number + 127),
    ]
    t_s = np.concatenate([t for t, _, _, _ in parts])
    run = np.concatenate([r for _, r, _, _ in parts]).astype(np.int64)
    kind = np.concatenate([np.full(len(t), k) for t, _, k, _ in parts])
    name = np.concatenate([n for _, _, _, n in parts]).astype(np.int64)
    order = np.lexsort((kind, t_s))
    order = order[(t_s[order] >= from_s) & (t_s[order] < until_s)]
    order = order[np.append(True, np.diff(t_s[order]) > 0.0)] if len(order) else order
    return Rows(t_s[order], run[order], kind[order], name[order])


@dataclass(frozen=True, slots=True)
class Noise:
    """Random draws for the rows of one gate by channel, each a function of its own day, run or reading alone."""

    seed: int
    gate_index: int
    rows: Rows
    run_number: Ints
    layer: Layer = Layer.SIGNAL

    def row(self, purpose: str) -> Floats:
        """A uniform draw for each row."""
        return self._draw(purpose, 0, self.rows.name)

    def run(self, purpose: str) -> Floats:
        """A uniform draw for each run, spread over its rows; heartbeats get an arbitrary one."""
        return self.rows.of_run(self._draw(purpose, 1, self.run_number))

    def day(self, purpose: str) -> Floats:
        """A uniform draw for each day, spread over its rows."""
        first = int(self.rows.day.min(initial=0))
        return self._draw(purpose, 2, np.arange(first, int(self.rows.day.max(initial=0)) + 1))[self.rows.day - first]

    def daily(self, purpose: str, days: int) -> Floats:
        """A uniform draw for each day of the whole simulation."""
        return self._draw(purpose, 2, np.arange(days))

    def _draw(self, purpose: str, part: int, names: Ints) -> Floats:
        return hashed(hash_key(self.seed, self.layer, self.gate_index, part, crc32(purpose.encode())), names)


def normal(uniform: Floats) -> Floats:
    """Standard normal from uniform draws."""
    return np.asarray(special.ndtri(uniform))


def student(uniform: Floats) -> Floats:
    """Student's t with 4 degrees of freedom from uniform draws, by its closed quantile function; heavy-tailed noise.

    Cut at 6, beyond which a healthy machine would shake itself to pieces.

    References
    ----------
    Shaw (2006), "Sampling Student's T distribution - use of the inverse cumulative distribution function".
    """
    a = 4.0 * uniform * (1.0 - uniform)
    root = np.sqrt(a)
    t = 2.0 * np.sqrt(np.maximum(np.cos(np.arccos(root) / 3.0) / root - 1.0, 0.0)) * np.sign(uniform - 0.5)
    return np.asarray(np.clip(t, -6.0, 6.0))


def first_order(target: Floats, dt_over_tau: Floats, initial: float) -> Floats:
    """Solve T[i] = target[i] + (T[i-1] - target[i]) exp(-dt[i]/tau[i]) exactly, along the first axis.

    The affine steps are composed pairwise, doubling their span until nothing of the beginning is left.
    """
    keep = np.exp(-dt_over_tau)
    add = -np.expm1(-dt_over_tau) * target
    add[0] += keep[0] * initial
    keep[0] = 0.0
    span = 1
    while span < len(keep) and float(np.max(keep[span:])) > 1e-12:
        add[span:] = add[span:] + keep[span:] * add[:-span]
        keep[span:] = keep[span:] * keep[:-span]
        span *= 2
    return add


@dataclass(frozen=True, slots=True)
class Scene:
    """One gate with all that happened to it: what `observe` looks at."""

    fleet: Fleet
    gate: Gate
    weather: Weather
    duty: Duty
    life: Life

    @property
    def visible(self) -> list[Episode]:
        """The faults that a sensor can see."""
        return [episode for episode in self.life.episodes if not episode.silent]


def observe(scene: Scene, first_day: int = 0, stop_day: int | None = None) -> pd.DataFrame:
    """What the gate's gateway reports from one day to another: ``ts`` and one column per channel, NaN where nothing was measured.

    The parts of a gate's life, made one by one and put together, are the whole.
    """
    fleet, gate = scene.fleet, scene.gate
    keys = channel_keys(gate.hoist)
    faults = draw_faults(stream(fleet.seed, Layer.SENSOR, gate.index), keys, fleet.days) if fleet.sensor_faults else []
    wishes = [*fleet.faults_of(gate), *_swaps(fleet, gate)]
    from_s, until_s = first_day * float(DAY_S), (fleet.days if stop_day is None else stop_day) * float(DAY_S)
    matters_s = max(memory_s(faults, wishes, from_s) - WARM_UP_D * DAY_S, 0.0)
    ahead_s = max((wish.at_s + 30.0 * DAY_S for wish in wishes if wish.fault == "clipping"), default=0.0)

    rows, values = true_signals(scene, matters_s, min(max(until_s, ahead_s), fleet.days * float(DAY_S)))
    noise = Noise(fleet.seed, gate.index, rows, scene.duty.number, Layer.SENSOR)
    if fleet.sensor_faults:
        apply_faults(faults, draw_scatter(noise.row, keys), rows.t_s, values)
    apply_wishes(wishes, noise.row, rows.t_s, rows.kind == SAMPLE, values)
    for key in keys:
        quantity = key.rpartition(".")[2]
        values[key] = np.round(np.clip(values[key], *LIMITS.get(quantity, (-np.inf, np.inf))), DECIMALS[quantity]) + 0.0
    slip_units(wishes, rows.t_s, values)
    heard = (rows.t_s >= from_s) & (rows.t_s < until_s) & ~np.all([np.isnan(values[key]) for key in keys], axis=0)
    if fleet.scenario == "firmware":
        heard &= _old_or_tenth(fleet, rows, values)
    first_ms = int(fleet.started_at.timestamp() * 1000)
    told_s = rows.t_s[heard] + gate.clock_error_s
    ts = pd.Series(first_ms + np.round(told_s * 1000).astype(np.int64)).astype("datetime64[ms, UTC]")
    return pd.DataFrame({"ts": ts, **{key: values[key][heard] for key in keys}})


def true_signals(scene: Scene, from_s: float, until_s: float) -> tuple[Rows, dict[str, Floats]]:
    """What faultless sensors would show between two instants, by channel."""
    fleet, gate, duty = scene.fleet, scene.gate, scene.duty
    heartbeat_s = fleet.heartbeat_min * 60.0
    phase_s = float(stream(fleet.seed, Layer.SIGNAL, gate.index).integers(0, fleet.heartbeat_min * 60))
    lasted_s = made_s(duty, scene.life)
    rows = lay_out(duty, lasted_s, heartbeat_s, phase_s, from_s, until_s)
    noise = Noise(fleet.seed, gate.index, rows, duty.number)

    values = _surroundings(noise, scene, lasted_s)
    values |= _vibration(noise, scene, values["leaf.opening"] / gate.calling.travel_m)
    for key, true_c in true_temperatures(gate, scene.weather, scene.visible, rows, duty.load, duty.stops).items():
        sd_k = THERMAL[key][2]
        if key == "motor.bearing_de.temperature":
            true_c = true_c - gate.contact_loss * (true_c - ambient_at(scene.weather, rows.t_s))
        values[key] = true_c + 0.8 * sd_k * normal(noise.day(key)) + 0.6 * sd_k * normal(noise.row(key))
    return rows, {key: values[key] for key in channel_keys(gate.hoist)}


def _swaps(fleet: Fleet, gate: Gate) -> list[ForcedFault]:
    """What the scenario `sensor_swap` does to one gate, as sensor faults: a slip of unit, or another gain."""
    if fleet.scenario != "sensor_swap":
        return []
    window = find_scenario(fleet.scenario).window(fleet.start, fleet.days)
    kind, when = stream(fleet.seed, Layer.SCENARIO, gate.index).random(2).tolist()
    at_s = (window.start + 14.0 * when) * DAY_S
    if kind < 1 / 3:
        return [ForcedFault(gate.gate_id, "motor.velocity_rms", "unit_slip", at_s)]
    if kind < 2 / 3:
        return [ForcedFault(gate.gate_id, "gearbox.velocity_rms", "other_gain", at_s)]
    return []


def _old_or_tenth(fleet: Fleet, rows: Rows, values: dict[str, Floats]) -> Bools:
    """Which rows a gateway still sends with the new firmware; what it no longer measures becomes NaN in place."""
    window = find_scenario(fleet.scenario).window(fleet.start, fleet.days)
    new = rows.t_s >= window.start * DAY_S
    for key, column in values.items():
        if key.endswith(("kurtosis", "crest_factor")):
            column[new] = np.nan
    nth = (rows.name % 128 - 3) // 2
    kept: Bools = ~new | (rows.kind != SAMPLE) | (nth % SLOW_SAMPLES == 0)
    return kept


def _surroundings(noise: Noise, scene: Scene, lasted_s: Floats) -> dict[str, Floats]:
    """What the drive itself and the water say: movement, load, opening, head, level, air."""
    rows, gate, weather, duty = noise.rows, scene.gate, scene.weather, scene.duty
    opening_m = np.full(len(rows.t_s), 0.25 * gate.calling.travel_m)
    made = np.flatnonzero(lasted_s > 0.0)
    if len(made):
        start_m, direction = opening_path(gate.calling, lasted_s[made], duty.aim_m[made])
        last = np.searchsorted(duty.start_s[made], rows.t_s, side="right") - 1
        run = np.maximum(last, 0)
        elapsed_s = np.minimum(rows.t_s - duty.start_s[made][run], lasted_s[made][run])
        reached = opening_after(gate.calling, start_m[run], direction[run], elapsed_s)
        opening_m = np.where(last >= 0, reached, opening_m)
    flood = daily_to_instants(weather.flood, rows.t_s)
    wet = daily_to_instants((weather.rain_mm > 1.0).astype(np.float64), rows.t_s)

    def jitter(channel: str, sd: float) -> Floats:
        return sd * normal(noise.row(channel))

    told = rows.of_run(duty.load) + LOAD_ERROR * normal(noise.run("motor.load"))
    humidity = 68.0 + 16.0 * wet + 9.0 * np.cos(2 * np.pi * (local_hour(rows.t_s) - 5.0) / 24.0)
    # releases upstream make the level wander in dry weather, too; an open gate lets the water behind it fall
    swell_m = 0.06 * daily_to_instants(normal(noise.daily("swell", weather.days)), rows.t_s)
    head_m = gate.head_m * (1.0 + 0.25 * flood) * (1.0 - 0.2 * opening_m / gate.calling.travel_m)
    return {
        "motor.moving": rows.moving.astype(np.float64),
        "motor.load": np.where(rows.moving, np.maximum(told + jitter("motor.load", 0.01), 0.0), np.nan),
        "leaf.opening": opening_m,
        "leaf.head": head_m + jitter("leaf.head", 0.02),
        "station.ambient_temperature": ambient_at(weather, rows.t_s) + jitter("station.ambient_temperature", 0.2),
        "station.humidity": np.clip(humidity + jitter("station.humidity", 2.0), 20.0, 100.0),
        "station.water_level": gate.level_m + 0.8 * flood + swell_m + jitter("station.water_level", 0.01),
    }


def _roughness(noise: Noise, key: str) -> Floats:
    """What raises a run's kurtosis without a fault; three runs of a hundred are four times as rough."""
    rough = np.where(noise.run(f"{key} rough") < 0.03, 4.0, 1.0)
    return np.asarray(np.abs(0.2 * student(noise.run(key))) * rough)


def _vibration(noise: Noise, scene: Scene, opening: Floats) -> dict[str, Floats]:
    """Vibration and current: per sample in motion, the noise floor at rest; kurtosis and crest in motion only."""
    rows, gate, weather = noise.rows, scene.gate, scene.weather
    sampled, resting = rows.kind == SAMPLE, ~rows.moving
    load = rows.of_run(scene.duty.load)
    progress = [(episode.mode, episode.progress_at(rows.t_s)) for episode in scene.visible]
    strength = [(mode, severity(mode, z)) for mode, z in progress]
    locked_in = np.abs(opening - gate.lock_in_opening) < LOCK_IN_HALF_WIDTH

    out: dict[str, Floats] = {}
    for key, baseline in gate.baseline.items():
        component, sensitivity = key.partition(".")[0], gate.sensitivity[key]
        if key.endswith("kurtosis"):
            level = baseline + _roughness(noise, key) + np.abs(0.15 * student(noise.row(key)))
            for mode, z in progress:
                level = level + IMPULSES.get(mode.code, {}).get(key, 0.0) * 4.0 * z * (1.0 - z) * sensitivity
            out[key] = np.where(sampled, level, np.nan)
            continue
        log_level = DAY_NOISE * student(noise.day(key)) + RUN_NOISE * student(noise.run(key))
        log_level += READING_NOISE * student(noise.row(key))
        form, unit = 0.7 + 0.55 * load, 1.0
        rest: Floats = np.zeros(len(rows.t_s))
        if key == "motor.current":
            log_level *= CURRENT_NOISE_SHARE
            form, unit = 0.4 + 1.1 * load, gate.rated_current_a
        else:
            rest = _floor(noise, key, baseline)
        if component == "leaf":
            turbulence = 0.3 + 0.7 * noise.run(f"{key} in floods")
            form = form * (1.0 + 0.9 * weather.flood[rows.day] * turbulence)
            # the jet under a nearly closed leaf shakes it
            form = form * (1.0 + NARROW_OPENING * np.exp(-opening / 0.15))
        for mode, s in strength:
            gain = sensitivity * GAINS[mode.code].get(key, 0.0)
            log_level += gain * s * (locked_in if mode.code == "seal_wear" else 1.0)
        for outage in scene.life.outages:
            if outage.kind != "inspection" and outage.component in ("", component):
                log_level[rows.t_s >= outage.end_s] += _renewal(noise, key, outage)
        level = unit * baseline * form * np.exp(log_level)
        out[key] = np.where(sampled, level, np.where(resting, rest, np.nan))
    for component in ("motor", "gearbox"):
        excess = np.maximum(out[f"{component}.kurtosis"] - 3.0, 0.0)
        scatter = 0.1 * normal(noise.row(f"{component}.crest_factor"))
        out[f"{component}.crest_factor"] = np.clip(3.0 + 0.9 * excess**0.6 + scatter, 2.5, 12.0)
        out[f"{component}.acceleration_peak"] = out[f"{component}.crest_factor"] * out[f"{component}.acceleration_rms"]
    return out


def _renewal(noise: Noise, key: str, outage: Outage) -> float:
    """Log-shift of a channel's baseline by a repair: it leaves a slightly different machine."""
    rng = stream(noise.seed, Layer.SIGNAL, noise.gate_index, 3, crc32(key.encode()), int(outage.end_s))
    return float(rng.normal(0.0, 0.1))


def _floor(noise: Noise, key: str, baseline: float) -> Floats:
    """Vibration at rest: the sensor's own floor, and now and then a neighbour at work."""
    own, scale = (0.06, 0.1) if key.endswith("acceleration_rms") else (0.1, 1.0)
    at_work = noise.row(f"{key} neighbour") < 0.04
    neighbour = np.where(at_work, 0.1 + 0.25 * noise.row(f"{key} neighbour's strength"), 0.0)
    return np.asarray(scale * (own * (0.5 + noise.row(f"{key} at rest")) + baseline * neighbour))


def true_temperatures(
    gate: Gate, weather: Weather, visible: Sequence[Episode], rows: Rows, load: Floats, stops: Floats
) -> dict[str, Floats]:
    """Temperature of each point without sensor noise, °C: first-order lags towards air plus load heat plus fault heat.

    ``load`` and ``stops`` have one value per run.
    """
    house_c = ambient_at(weather, rows.t_s) + sun_at(weather, rows.t_s, gate.sun_k)
    dt_min = np.diff(rows.t_s, prepend=rows.t_s[:1]) / 60.0
    load, stops = rows.of_run(load), rows.of_run(stops)
    worn = [(episode.mode, severity(episode.mode, episode.progress_at(rows.t_s))) for episode in visible]
    rise: dict[str, Floats] = {
        "motor.winding.temperature": 70.0 * load**2,
        "motor.bearing_de.temperature": 25.0 * load,
        "gearbox.oil.temperature": 25.0 * load,
        "brake.lining.temperature": 20.0 * stops,
        "hydraulic.oil.temperature": 25.0 * load,
    }
    out: dict[str, Floats] = {}
    for key, (running_min, resting_min, _) in THERMAL.items():
        if key.startswith("hydraulic.") and gate.hoist != "hydraulic":
            continue
        heat = rise[key]
        for mode, strength in worn:
            heat = heat + gate.sensitivity[key] * HEATING.get(mode.code, {}).get(key, 0.0) * strength
        if key == "motor.bearing_de.temperature":
            heat = heat + 0.15 * (out["motor.winding.temperature"] - house_c)
        target = house_c + np.where(rows.ran, heat, 0.0)
        tau_min = np.where(rows.ran, running_min, resting_min) * gate.thermal_scale[key]
        out[key] = first_order(target, dt_min / tau_min, float(house_c[0]))
    return out
