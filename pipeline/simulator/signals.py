"""What the sensors of one gate show: vibration per minute of movement, temperatures with their lags, a heartbeat at rest.

Reads the hidden state (`degradation.Life`) and the duty, adds noise that is independent of both, and returns rows. Noise has a
part that stays for a day, one that stays for a run and one per reading, so averaging a run does not make it vanish.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.simulator.degradation import Episode, Life, severity
from pipeline.simulator.duty import Duty, Ints, opening_after, opening_path
from pipeline.simulator.fleet import Fleet, Gate, channel_keys
from pipeline.simulator.sensor_faults import apply_faults, draw_faults
from pipeline.simulator.streams import Layer, stream
from pipeline.simulator.weather import DAY_S, Floats, Weather, ambient_at, daily_to_instants, local_hour, sun_at

RUN_UP_S = 20.0
SAMPLE_EVERY_S = 60.0

# log-scale noise of a reading = 0.13 x Student t(4) in all, split by how long a part lasts
DAY_NOISE, RUN_NOISE, READING_NOISE = 0.11, 0.08, 0.06
CURRENT_NOISE_SHARE = 0.05

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

LOCK_IN_HALF_WIDTH = 0.15
"""Half the width of the band of openings, as a share of the travel, in which worn seals make the leaf vibrate."""


@dataclass(frozen=True, slots=True)
class Rows:
    """When a gate reports and what it is doing then, one entry per row, ascending.

    ``t_s`` seconds from the start; ``run`` the index of the run (-1 at rest); ``sample`` whether vibration is measured in motion;
    ``moving``; ``ran`` whether the gate ran since the row before.
    """

    t_s: Floats
    run: Ints
    sample: np.ndarray[tuple[int], np.dtype[np.bool_]]
    moving: np.ndarray[tuple[int], np.dtype[np.bool_]]
    ran: np.ndarray[tuple[int], np.dtype[np.bool_]]


def actual_runs(duty: Duty, life: Life) -> tuple[Ints, Floats]:
    """Which of the asked-for runs were made, and for how long: none starts in an outage, one that breaks is cut short."""
    duration_s = duty.duration_s.copy()
    for outage in life.outages:
        duration_s[(duty.start_s >= outage.start_s) & (duty.start_s < outage.end_s)] = 0.0
        cut = (duty.start_s < outage.start_s) & (duty.start_s + duration_s > outage.start_s)
        duration_s[cut] = outage.start_s - duty.start_s[cut]
    made = np.flatnonzero(duration_s >= 1.0)
    return made, duration_s[made]


def make_rows(start_s: Floats, duration_s: Floats, days: int, heartbeat_s: float, phase_s: float) -> Rows:
    """Lay out the rows: start, a sample a minute after the run-up, stop; between runs a heartbeat."""
    samples = np.maximum(np.floor((duration_s - RUN_UP_S - 1.0) / SAMPLE_EVERY_S).astype(np.int64) + 1, 0)
    run_of_sample = np.repeat(np.arange(len(start_s)), samples)
    nth = np.arange(len(run_of_sample)) - np.repeat(np.cumsum(samples) - samples, samples)
    stop_s = start_s + duration_s

    beat_s = np.arange(phase_s, days * DAY_S, heartbeat_s)
    before = np.searchsorted(start_s, beat_s, side="right") - 1
    resting = (before < 0) | (beat_s > stop_s[np.maximum(before, 0)]) if len(start_s) else np.ones(len(beat_s), dtype=bool)
    beat_s = beat_s[resting]

    runs = np.arange(len(start_s))
    kinds = [(start_s, runs, 1), (start_s[run_of_sample] + RUN_UP_S + SAMPLE_EVERY_S * nth, run_of_sample, 2)]
    kinds += [(stop_s, runs, 3), (beat_s, np.full(len(beat_s), -1), 0)]
    t_s = np.concatenate([t for t, _, _ in kinds])
    run = np.concatenate([r for _, r, _ in kinds])
    kind = np.concatenate([np.full(len(t), k) for t, _, k in kinds])
    order = np.lexsort((kind, t_s))
    t_s, run, kind = t_s[order], run[order], kind[order]
    keep = np.append(True, np.diff(t_s) > 0.0) & (t_s < days * DAY_S)
    t_s, run, kind = t_s[keep], run[keep], kind[keep]
    return Rows(t_s, run, kind == 2, (kind == 1) | (kind == 2), (kind == 2) | (kind == 3))


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
    made, duration_s = actual_runs(duty, life)
    start_s, load, stops = duty.start_s[made], duty.load[made], duty.stops[made]
    rng = stream(fleet.seed, Layer.SIGNAL, gate.index)
    phase_s = float(rng.integers(0, fleet.heartbeat_min * 60))
    rows = make_rows(start_s, duration_s, fleet.days, fleet.heartbeat_min * 60.0, phase_s)
    keys = channel_keys(gate.hoist)

    values = _surroundings(rng, gate, weather, duty, made, duration_s, rows)
    opening = values["leaf.opening"] / gate.calling.travel_m
    visible = [episode for episode in life.episodes if not episode.silent]
    values |= _vibration(rng, fleet, gate, weather, life, visible, rows, load, opening)
    values |= _temperatures(rng, gate, weather, visible, rows, load, stops)
    values = {key: values[key] for key in keys}
    if fleet.sensor_faults:
        faults = draw_faults(stream(fleet.seed, Layer.SENSOR, gate.index, 0), keys, fleet.days)
        apply_faults(stream(fleet.seed, Layer.SENSOR, gate.index, 1), faults, rows.t_s, values)
    for key in keys:
        quantity = key.rpartition(".")[2]
        values[key] = np.round(np.clip(values[key], *LIMITS.get(quantity, (-np.inf, np.inf))), DECIMALS[quantity]) + 0.0
    heard = ~np.all([np.isnan(values[key]) for key in keys], axis=0)
    first_ms = int(fleet.started_at.timestamp() * 1000)
    ts = pd.Series(first_ms + np.round(rows.t_s[heard] * 1000).astype(np.int64)).astype("datetime64[ms, UTC]")
    return pd.DataFrame({"ts": ts, **{key: values[key][heard] for key in keys}})


def _surroundings(
    rng: np.random.Generator, gate: Gate, weather: Weather, duty: Duty, made: Ints, duration_s: Floats, rows: Rows
) -> dict[str, Floats]:
    """What the drive itself and the water say: movement, load, opening, head, level, air."""
    start_m, direction = opening_path(gate.calling, duration_s, duty.aim_m[made])
    opening_m = np.full(len(rows.t_s), 0.25 * gate.calling.travel_m)
    if len(made):
        last = np.searchsorted(duty.start_s[made], rows.t_s, side="right") - 1
        run = np.maximum(last, 0)
        elapsed_s = np.minimum(rows.t_s - duty.start_s[made][run], duration_s[run])
        reached = opening_after(gate.calling, start_m[run], direction[run], elapsed_s)
        opening_m = np.where(last >= 0, reached, opening_m)
    flood = daily_to_instants(weather.flood, rows.t_s)
    n = len(rows.t_s)
    wet = daily_to_instants((weather.rain_mm > 1.0).astype(np.float64), rows.t_s)
    load = np.where(rows.moving, _of_run(duty.load[made], rows) + rng.normal(0.0, 0.01, n), np.nan)
    humidity = 68.0 + 16.0 * wet + 9.0 * np.cos(2 * np.pi * (local_hour(rows.t_s) - 5.0) / 24.0) + rng.normal(0.0, 2.0, n)
    return {
        "motor.moving": rows.moving.astype(np.float64),
        "motor.load": np.maximum(load, 0.0),
        "leaf.opening": opening_m,
        "leaf.head": gate.head_m * (1.0 + 0.25 * flood) + rng.normal(0.0, 0.02, n),
        "station.ambient_temperature": ambient_at(weather, rows.t_s) + rng.normal(0.0, 0.2, n),
        "station.humidity": np.clip(humidity, 20.0, 100.0),
        "station.water_level": gate.level_m + 0.8 * flood + rng.normal(0.0, 0.01, n),
    }


def _of_run(per_run: Floats, rows: Rows) -> Floats:
    """Spread a value per run over the rows; the rows at rest get an arbitrary one."""
    return per_run[rows.run] if len(per_run) else np.zeros(len(rows.run))


def _student(rng: np.random.Generator, n: int) -> Floats:
    return rng.standard_t(4.0, n)


def _vibration(
    rng: np.random.Generator,
    fleet: Fleet,
    gate: Gate,
    weather: Weather,
    life: Life,
    visible: list[Episode],
    rows: Rows,
    load: Floats,
    opening: Floats,
) -> dict[str, Floats]:
    n, s = len(rows.t_s), np.flatnonzero(rows.sample)
    t_s, run = rows.t_s[s], rows.run[s]
    day = (t_s // DAY_S).astype(np.int64)
    load = load[run]
    progress = [(episode, episode.progress_at(t_s)) for episode in visible]
    worn = [(episode.mode, z, severity(episode.mode, z)) for episode, z in progress]
    locked_in = np.abs(opening[s] - gate.lock_in_opening) < LOCK_IN_HALF_WIDTH
    runs = int(rows.run.max(initial=-1)) + 1

    out: dict[str, Floats] = {}
    for key, baseline in gate.baseline.items():
        component, sensitivity = key.partition(".")[0], gate.sensitivity[key]
        column = np.full(n, np.nan)
        if key.endswith("kurtosis"):
            level = baseline + sum(
                (IMPULSES[m.code].get(key, 0.0) * 4 * z * (1 - z) * sensitivity for m, z, _ in worn if m.code in IMPULSES),
                np.zeros(len(s)),
            )
            rough = np.abs(0.2 * _student(rng, runs)) * np.where(rng.random(runs) < 0.03, 4.0, 1.0)
            column[s] = level + rough[run] + np.abs(0.15 * _student(rng, len(s)))
            out[key] = column
            continue
        noise = DAY_NOISE * _student(rng, fleet.days)[day] + RUN_NOISE * _student(rng, runs)[run]
        noise += READING_NOISE * _student(rng, len(s))
        gain = np.zeros(len(s))
        for mode, _, strength in worn:
            log_gain = GAINS[mode.code].get(key, 0.0)
            gain += log_gain * strength * (locked_in if mode.code == "seal_wear" else 1.0)
        renewed = _renewal(fleet, gate, life, component, key, t_s)
        if key == "motor.current":
            noise, form, unit = noise * CURRENT_NOISE_SHARE, 0.4 + 1.1 * load, gate.rated_current_a
        else:
            form, unit = 0.7 + 0.55 * load, 1.0
        if component == "leaf":
            form = form * (1.0 + 0.9 * weather.flood[day] * rng.uniform(0.3, 1.0, runs)[run])
        column[s] = unit * baseline * form * np.exp(sensitivity * gain + noise + renewed)
        rest = ~rows.moving
        column[rest] = 0.0 if key == "motor.current" else _floor(rng, key, baseline, int(rest.sum()))
        out[key] = column
    for component in ("motor", "gearbox"):
        excess = np.maximum(out[f"{component}.kurtosis"] - 3.0, 0.0)
        crest = np.clip(3.0 + 0.9 * excess**0.6 + rng.normal(0.0, 0.1, n), 2.5, 12.0)
        out[f"{component}.crest_factor"] = crest
        out[f"{component}.acceleration_peak"] = crest * out[f"{component}.acceleration_rms"]
    return out


def _renewal(fleet: Fleet, gate: Gate, life: Life, component: str, key: str, t_s: Floats) -> Floats:
    """Log-shift of a channel's baseline by the repairs of its component: each leaves a slightly different machine."""
    shift = np.zeros(len(t_s))
    repairs = [outage for outage in life.outages if outage.kind != "inspection" and outage.component in ("", component)]
    number = list(gate.baseline).index(key)
    for outage in repairs:
        draw = stream(fleet.seed, Layer.SIGNAL, gate.index, number, int(outage.end_s)).normal(0.0, 0.1)
        shift[t_s >= outage.end_s] = draw
    return shift


def _floor(rng: np.random.Generator, key: str, baseline: float, n: int) -> Floats:
    """Vibration at rest: the sensor's own floor, and now and then a neighbour at work."""
    floor = 0.06 if key.endswith("acceleration_rms") else 0.1
    neighbour = np.where(rng.random(n) < 0.04, rng.uniform(0.1, 0.35, n), 0.0)
    scale = 0.1 if key.endswith("acceleration_rms") else 1.0
    return scale * (floor * rng.uniform(0.5, 1.5, n) + baseline * neighbour)


def _temperatures(
    rng: np.random.Generator,
    gate: Gate,
    weather: Weather,
    visible: list[Episode],
    rows: Rows,
    load: Floats,
    stops: Floats,
) -> dict[str, Floats]:
    n = len(rows.t_s)
    house_c = ambient_at(weather, rows.t_s) + sun_at(weather, rows.t_s, gate.sun_k)
    ran, dt_min = rows.ran, np.diff(rows.t_s, prepend=rows.t_s[:1]) / 60.0
    load, stops = _of_run(load, rows), _of_run(stops, rows)
    day = (rows.t_s // DAY_S).astype(np.int64)
    worn = [(episode.mode, severity(episode.mode, episode.progress_at(rows.t_s))) for episode in visible]

    rise: dict[str, Floats] = {
        "motor.winding.temperature": 70.0 * load**2,
        "motor.bearing_de.temperature": 25.0 * load,
        "gearbox.oil.temperature": 25.0 * load,
        "brake.lining.temperature": 20.0 * stops,
        "hydraulic.oil.temperature": 25.0 * load,
    }
    out: dict[str, Floats] = {}
    true_c: dict[str, Floats] = {}
    for key, (running_min, resting_min, noise_k) in THERMAL.items():
        if key.startswith("hydraulic.") and gate.hoist != "hydraulic":
            continue
        extra = np.zeros(n)
        for mode, strength in worn:
            extra += HEATING.get(mode.code, {}).get(key, 0.0) * strength
        heat = rise[key] + gate.sensitivity[key] * extra
        if key == "motor.bearing_de.temperature":
            heat = heat + 0.15 * (true_c["motor.winding.temperature"] - house_c)
        target = house_c + np.where(ran, heat, 0.0)
        tau_min = np.where(ran, running_min, resting_min) * gate.thermal_scale[key]
        true_c[key] = first_order(target, dt_min / tau_min, float(house_c[0]))
        slow = rng.normal(0.0, 0.8 * noise_k, weather.days)[day]
        out[key] = true_c[key] + slow + rng.normal(0.0, 0.6 * noise_k, n)
    return out
