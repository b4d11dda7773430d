"""What the sensors of one gate show: vibration per minute of movement, temperatures with their lags, a heartbeat at rest.

Reads the hidden state (`degradation.Life`) and the duty, adds noise that is independent of both, and returns rows. Noise has a
part that stays for a day, one that stays for a run and one per reading, so averaging a run does not make it vanish.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from zlib import crc32

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.simulator.degradation import Episode, Life, severity
from pipeline.simulator.duty import Duty, Ints, opening_after, opening_path
from pipeline.simulator.fleet import Fleet, Gate, channel_keys
from pipeline.simulator.maintenance import Outage
from pipeline.simulator.sensor_faults import apply_faults, draw_faults, draw_scatter
from pipeline.simulator.streams import Layer, stream
from pipeline.simulator.weather import DAY_S, Floats, Weather, ambient_at, daily_to_instants, local_hour, sun_at

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
    "temperature": (-30.0, 200.0),
}
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

LOCK_IN_HALF_WIDTH = 0.25
"""Half the width of the band of openings, as a share of the travel, in which worn seals make the leaf vibrate."""


BEAT, START, SAMPLE, STOP = 0, 1, 2, 3
"""Kinds of rows: a heartbeat at rest, and within a run its start, a vibration sample a minute, its stop."""

Draw = Callable[[np.random.Generator, int], Floats]


@dataclass(frozen=True, slots=True)
class Rows:
    """When a gate reports and why, one entry per row, ascending.

    ``t_s`` seconds from the start; ``run`` the index of the run asked for (-1 for a heartbeat); ``kind`` one of `BEAT` … `STOP`.
    """

    t_s: Floats
    run: Ints
    kind: Ints

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
        return per_run[self.run] if len(per_run) else np.zeros(len(self.run))


def lay_out(duty: Duty, days: int, heartbeat_s: float, phase_s: float) -> Rows:
    """Every row there would be if every run asked for were made and the heartbeat never paused."""
    samples = np.maximum(np.floor((duty.duration_s - RUN_UP_S - 1.0) / SAMPLE_EVERY_S).astype(np.int64) + 1, 0)
    run_of_sample = np.repeat(np.arange(len(samples)), samples)
    nth = np.arange(len(run_of_sample)) - np.repeat(np.cumsum(samples) - samples, samples)
    beat_s = np.arange(phase_s, days * DAY_S, heartbeat_s)
    runs = np.arange(len(samples))
    parts = [
        (beat_s, np.full(len(beat_s), -1), BEAT),
        (duty.start_s, runs, START),
        (duty.start_s[run_of_sample] + RUN_UP_S + SAMPLE_EVERY_S * nth, run_of_sample, SAMPLE),
        (duty.start_s + duty.duration_s, runs, STOP),
    ]
    t_s = np.concatenate([t for t, _, _ in parts])
    run = np.concatenate([r for _, r, _ in parts])
    kind = np.concatenate([np.full(len(t), k) for t, _, k in parts])
    order = np.lexsort((kind, t_s))
    return Rows(t_s[order], run[order], kind[order])


def made_s(duty: Duty, life: Life) -> Floats:
    """How long each run asked for really lasted: none starts in an outage, one that breaks is cut short."""
    duration_s = duty.duration_s.copy()
    for outage in life.outages:
        duration_s[(duty.start_s >= outage.start_s) & (duty.start_s < outage.end_s)] = 0.0
        cut = (duty.start_s < outage.start_s) & (duty.start_s + duration_s > outage.start_s)
        duration_s[cut] = outage.start_s - duty.start_s[cut]
    return duration_s


def happened(layout: Rows, duty: Duty, lasted_s: Floats) -> tuple[Ints, Rows]:
    """The rows that came to be, and their places in the layout: what was moving sent no heartbeat, what stood no sample."""
    of_run = layout.run >= 0
    lasted = layout.of_run(lasted_s)
    end_s = layout.of_run(duty.start_s) + lasted
    keep = np.where(of_run, (lasted > 0.0) & ((layout.t_s < end_s) | (layout.kind == STOP)), True)
    if len(lasted_s):
        before = np.searchsorted(duty.start_s, layout.t_s, side="right") - 1
        within = (before >= 0) & (layout.t_s <= (duty.start_s + lasted_s)[before]) & (lasted_s[before] > 0.0)
        keep &= of_run | ~within
    places = np.flatnonzero(keep)
    t_s = np.where(layout.kind == STOP, end_s, layout.t_s)[places]
    order = np.lexsort((layout.kind[places], t_s))
    places, t_s = places[order], t_s[order]
    fresh = np.append(True, np.diff(t_s) > 0.0)
    places = places[fresh]
    return places, Rows(t_s[fresh], layout.run[places], layout.kind[places])


@dataclass(frozen=True, slots=True)
class Noise:
    """Random draws for the rows of one gate, from a stream for each channel.

    Drawn for the whole layout: what a repair or a fault changes elsewhere in the gate's life leaves the noise of a row alone.
    """

    seed: int
    gate_index: int
    layout: Rows
    places: Ints
    rows: Rows
    days: int
    runs: int

    def per_row(self, channel: str, draw: Draw) -> Floats:
        """A draw for each row."""
        return draw(self._rng(channel, 0), len(self.layout.t_s))[self.places]

    def per_run(self, channel: str, draw: Draw) -> Floats:
        """A draw for each run, spread over its rows; heartbeats get an arbitrary one."""
        return self.rows.of_run(draw(self._rng(channel, 1), self.runs))

    def per_day(self, channel: str, draw: Draw) -> Floats:
        """A draw for each day, spread over its rows."""
        return draw(self._rng(channel, 2), self.days)[self.rows.day]

    def _rng(self, channel: str, part: int) -> np.random.Generator:
        return stream(self.seed, Layer.SIGNAL, self.gate_index, part, crc32(channel.encode()))


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


def observe(fleet: Fleet, gate: Gate, weather: Weather, duty: Duty, life: Life) -> pd.DataFrame:
    """What the gate's gateway reports over the whole time: ``ts`` and one column per channel, NaN where nothing was measured."""
    phase_s = float(stream(fleet.seed, Layer.SIGNAL, gate.index).integers(0, fleet.heartbeat_min * 60))
    layout = lay_out(duty, fleet.days, fleet.heartbeat_min * 60.0, phase_s)
    lasted_s = made_s(duty, life)
    places, rows = happened(layout, duty, lasted_s)
    noise = Noise(fleet.seed, gate.index, layout, places, rows, fleet.days, len(duty.start_s))
    visible = [episode for episode in life.episodes if not episode.silent]

    values = _surroundings(noise, gate, weather, duty, lasted_s)
    values |= _vibration(noise, gate, weather, duty, life, visible, values["leaf.opening"] / gate.calling.travel_m)
    for key, true_c in true_temperatures(gate, weather, visible, rows, duty.load, duty.stops).items():
        sd_k = THERMAL[key][2]
        values[key] = true_c + noise.per_day(key, _normal(0.8 * sd_k)) + noise.per_row(key, _normal(0.6 * sd_k))

    keys = channel_keys(gate.hoist)
    values = {key: values[key] for key in keys}
    if fleet.sensor_faults:
        faults = draw_faults(stream(fleet.seed, Layer.SENSOR, gate.index, 0), keys, fleet.days)
        scatter = draw_scatter(stream(fleet.seed, Layer.SENSOR, gate.index, 1), keys, len(layout.t_s))
        apply_faults(faults, scatter.at(places), rows.t_s, values)
    for key in keys:
        quantity = key.rpartition(".")[2]
        values[key] = np.round(np.clip(values[key], *LIMITS.get(quantity, (-np.inf, np.inf))), DECIMALS[quantity]) + 0.0
    heard = ~np.all([np.isnan(values[key]) for key in keys], axis=0)
    first_ms = int(fleet.started_at.timestamp() * 1000)
    ts = pd.Series(first_ms + np.round(rows.t_s[heard] * 1000).astype(np.int64)).astype("datetime64[ms, UTC]")
    return pd.DataFrame({"ts": ts, **{key: values[key][heard] for key in keys}})


def _surroundings(noise: Noise, gate: Gate, weather: Weather, duty: Duty, lasted_s: Floats) -> dict[str, Floats]:
    """What the drive itself and the water say: movement, load, opening, head, level, air."""
    rows = noise.rows
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
        return noise.per_row(channel, _normal(sd))

    told = rows.of_run(duty.load) + noise.per_run("motor.load", _normal(LOAD_ERROR))
    humidity = 68.0 + 16.0 * wet + 9.0 * np.cos(2 * np.pi * (local_hour(rows.t_s) - 5.0) / 24.0)
    return {
        "motor.moving": rows.moving.astype(np.float64),
        "motor.load": np.where(rows.moving, np.maximum(told + jitter("motor.load", 0.01), 0.0), np.nan),
        "leaf.opening": opening_m,
        "leaf.head": gate.head_m * (1.0 + 0.25 * flood) + jitter("leaf.head", 0.02),
        "station.ambient_temperature": ambient_at(weather, rows.t_s) + jitter("station.ambient_temperature", 0.2),
        "station.humidity": np.clip(humidity + jitter("station.humidity", 2.0), 20.0, 100.0),
        "station.water_level": gate.level_m + 0.8 * flood + jitter("station.water_level", 0.01),
    }


def _normal(sd: float) -> Draw:
    return lambda rng, n: rng.normal(0.0, sd, n)


def _student(rng: np.random.Generator, n: int) -> Floats:
    """Heavy-tailed noise; cut at 6, beyond which a healthy machine would shake itself to pieces."""
    return np.clip(rng.standard_t(4.0, n), -6.0, 6.0)


def _roughness(rng: np.random.Generator, n: int) -> Floats:
    """What raises a run's kurtosis without a fault; three runs of a hundred are four times as rough."""
    rough: Floats = np.abs(0.2 * _student(rng, n)) * np.where(rng.random(n) < 0.03, 4.0, 1.0)
    return rough


def _vibration(
    noise: Noise, gate: Gate, weather: Weather, duty: Duty, life: Life, visible: Sequence[Episode], opening: Floats
) -> dict[str, Floats]:
    """Vibration and current: per sample in motion, the noise floor at rest; kurtosis and crest in motion only."""
    rows = noise.rows
    sampled, resting = rows.kind == SAMPLE, ~rows.moving
    load = rows.of_run(duty.load)
    progress = [(episode.mode, episode.progress_at(rows.t_s)) for episode in visible]
    strength = [(mode, severity(mode, z)) for mode, z in progress]
    locked_in = np.abs(opening - gate.lock_in_opening) < LOCK_IN_HALF_WIDTH

    out: dict[str, Floats] = {}
    for key, baseline in gate.baseline.items():
        component, sensitivity = key.partition(".")[0], gate.sensitivity[key]
        if key.endswith("kurtosis"):
            level = baseline + noise.per_run(key, _roughness) + np.abs(0.15 * noise.per_row(key, _student))
            for mode, z in progress:
                level = level + IMPULSES.get(mode.code, {}).get(key, 0.0) * 4.0 * z * (1.0 - z) * sensitivity
            out[key] = np.where(sampled, level, np.nan)
            continue
        log_level = DAY_NOISE * noise.per_day(key, _student) + RUN_NOISE * noise.per_run(key, _student)
        log_level += READING_NOISE * noise.per_row(key, _student)
        form, unit = 0.7 + 0.55 * load, 1.0
        rest = noise.per_row(f"{key} at rest", partial(_floor, key, baseline))
        if key == "motor.current":
            log_level *= CURRENT_NOISE_SHARE
            form, unit, rest = 0.4 + 1.1 * load, gate.rated_current_a, 0.0 * rest
        if component == "leaf":
            turbulence = noise.per_run(f"{key} in floods", lambda rng, n: rng.uniform(0.3, 1.0, n))
            form = form * (1.0 + 0.9 * weather.flood[rows.day] * turbulence)
        for mode, s in strength:
            gain = sensitivity * GAINS[mode.code].get(key, 0.0)
            log_level += gain * s * (locked_in if mode.code == "seal_wear" else 1.0)
        for outage in life.outages:
            if outage.kind != "inspection" and outage.component in ("", component):
                log_level[rows.t_s >= outage.end_s] += _renewal(noise, key, outage)
        level = unit * baseline * form * np.exp(log_level)
        out[key] = np.where(sampled, level, np.where(resting, rest, np.nan))
    for component in ("motor", "gearbox"):
        excess = np.maximum(out[f"{component}.kurtosis"] - 3.0, 0.0)
        scatter = noise.per_row(f"{component}.crest_factor", _normal(0.1))
        out[f"{component}.crest_factor"] = np.clip(3.0 + 0.9 * excess**0.6 + scatter, 2.5, 12.0)
        out[f"{component}.acceleration_peak"] = out[f"{component}.crest_factor"] * out[f"{component}.acceleration_rms"]
    return out


def _renewal(noise: Noise, key: str, outage: Outage) -> float:
    """Log-shift of a channel's baseline by a repair: it leaves a slightly different machine."""
    rng = stream(noise.seed, Layer.SIGNAL, noise.gate_index, 3, crc32(key.encode()), int(outage.end_s))
    return float(rng.normal(0.0, 0.1))


def _floor(key: str, baseline: float, rng: np.random.Generator, n: int) -> Floats:
    """Vibration at rest: the sensor's own floor, and now and then a neighbour at work."""
    own, scale = (0.06, 0.1) if key.endswith("acceleration_rms") else (0.1, 1.0)
    neighbour = np.where(rng.random(n) < 0.04, rng.uniform(0.1, 0.35, n), 0.0)
    return scale * (own * rng.uniform(0.5, 1.5, n) + baseline * neighbour)


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
