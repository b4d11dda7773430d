"""What a perfect forecaster would say: forecasts from the hidden state, as a ceiling for every model. Never for training.

For a forecaster that sees the past only, no proper score can be better than that of P(failure | hidden state, history of weather
and duty). The ladder takes more and more of the hidden state away:

- ``O1`` knows everything: the progress of each fault, its scale tau, silent faults too, and how prone the gate is.
- ``O2`` does not know tau; it infers it from the progress and the use since the onset.
- ``O3`` sees what sensors could show: no silent fault, and nothing of the gate's own proneness. The ceiling for a model.

The future is simulated: weather from today's state on, duty from the weather, wear from the duty. What no path is needed for (new
faults, silent faults that may be there already) comes from the hazards and the distribution of a fault's life. Repairs of the
future are not foreseen: a forecast speaks of a gate that is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from pipeline.simulator import VERSION, live_gate
from pipeline.simulator.degradation import (
    COUPLINGS,
    MODES,
    SUDDEN,
    Constitution,
    Life,
    Mode,
    demand,
    demand_hazard,
    environment,
    modes_of,
)
from pipeline.simulator.duty import REFERENCE_MIN_PER_DAY, Duty
from pipeline.simulator.fleet import Fleet, Gate, make_fleet
from pipeline.simulator.maintenance import chance_to_find
from pipeline.simulator.parallel import each_gate
from pipeline.simulator.scenarios import asked_factor, corrosion, weather_change
from pipeline.simulator.streams import Floats, Layer, stream
from pipeline.simulator.truth import read_settings
from pipeline.simulator.weather import (
    FLOOD_MM,
    MOST_FLOOD,
    RUN_OFF,
    SLOW_PERSISTENCE,
    SLOW_SD_K,
    Weather,
    chance_of_rain,
    day_of_year,
    rain_scale_mm,
    season_c,
    wet_after,
)

RUNGS = ("O1", "O2", "O3")
HORIZON_D = 21

FUTURES = 48
"""Futures of weather and duty for each day."""

PATHS_PER_FUTURE = 4
"""Paths of a fault's wear for each of them."""

TAU_POINTS = 31

ORDINARY_DEMAND = 3.0
"""What the operations of an ordinary day ask of a worn part, see `degradation.demand`."""

LIFE_PATHS, LIFE_D = 6000, 400


@dataclass(frozen=True, slots=True)
class Futures:
    """Simulated futures of one gate; each array has the shape (days, futures, horizon).

    Index d holds what may come after midnight d; ``usage`` and ``asked`` are those of `degradation`.
    """

    weather: Weather
    usage: Floats
    asked: Floats


def weather_futures(rng: np.random.Generator, fleet: Fleet, gate: Gate, weather: Weather) -> Weather:
    """Simulate what may come after each midnight, given the weather until then; arrays of shape (days + 1, futures, horizon)."""
    days = fleet.days
    doy = day_of_year(fleet.start, days + HORIZON_D)
    change = weather_change(fleet.scenario, fleet.seed, gate.river, fleet.start, days)
    warmer_k, extra, dry = (np.zeros(days + HORIZON_D) for _ in range(3))
    if change is not None:
        warmer_k[:days], extra[:days], dry[:days] = change.warmer_k, change.more_rain_mm > 0.0, change.dry
    # the state at midnight d is that of the day before; nothing is known at the first, which is taken for an ordinary day
    wet = np.append(False, weather.rain_mm > 0.0)
    q = np.append(FLOOD_MM * 0.3, FLOOD_MM * weather.flood)
    slow = weather.ambient_c - season_c(doy[:days]) + 1.2 * (weather.rain_mm > 5.0) - warmer_k[:days]
    x = np.append(0.0, slow)
    wet, q, x = (np.repeat(state[:, None], FUTURES, axis=1) for state in (wet, q, x))
    at = np.arange(days + 1)
    shape = (days + 1, FUTURES, HORIZON_D)
    ambient_c, rain_mm, flood = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for ahead in range(HORIZON_D):
        day = np.minimum(at + ahead, days + HORIZON_D - 1)[:, None]
        p_wet = chance_of_rain(doy[day])
        wet = rng.random(wet.shape) < wet_after(wet, p_wet)
        rain = np.where(wet, rng.gamma(0.6, 1.0, wet.shape) * rain_scale_mm(p_wet), 0.0)
        rain = np.where(extra[day] > 0.0, rain + rng.gamma(1.2, 45.0, wet.shape), rain) * (dry[day] == 0.0)
        x = SLOW_PERSISTENCE * x + rng.normal(0.0, SLOW_SD_K, wet.shape)
        q = RUN_OFF * q + rain
        rain_mm[:, :, ahead], flood[:, :, ahead] = rain, np.minimum(q / FLOOD_MM, MOST_FLOOD)
        ambient_c[:, :, ahead] = season_c(doy[day]) + x - 1.2 * (rain > 5.0) + warmer_k[day]
    return Weather(ambient_c, rain_mm, flood)


def duty_futures(rng: np.random.Generator, fleet: Fleet, gate: Gate, ahead: Weather, asked_factor: Floats) -> Futures:
    """Simulate the duty that goes with each future of the weather."""
    calling, days = gate.calling, fleet.days
    day = np.arange(days + 1)[:, None, None] + np.arange(HORIZON_D)
    factor = asked_factor[np.minimum(day, days - 1)]
    runs = rng.poisson(calling.runs_per_day * (1.0 + calling.flood_gain * ahead.flood) * factor).astype(np.float64)
    runs = np.where((day % 7 == calling.exercise_weekday) & (runs == 0), 1.0, runs)
    minutes = 1.5 * rng.standard_gamma(np.maximum(6.0 * runs, 1e-9))
    minutes = np.where(runs > 0, minutes, 0.0)
    load = 0.55 + 0.12 * ahead.flood + rng.normal(0.0, 0.09, runs.shape)
    return Futures(ahead, 0.35 + 0.65 * minutes / REFERENCE_MIN_PER_DAY, demand(runs, load))


def wear_out(rng: np.random.Generator, mode: Mode, z: Floats, tau_d: Floats, usage: Floats, asked: Floats) -> Floats:
    """Probability that faults have failed by each day of the future.

    Parameters
    ----------
    z : progress of each fault, shape (faults,)
    tau_d : its scale on each path, shape (faults, paths)
    usage, asked : of each path's days, shape (faults, paths, horizon)

    Returns
    -------
    ndarray, shape (faults, horizon)
    """
    progress = np.repeat(z[:, None], tau_d.shape[1], axis=1)
    alive = np.ones_like(progress)
    failed, out = np.zeros_like(progress), np.zeros((len(z), usage.shape[2]))
    for ahead in range(usage.shape[2]):
        fails, stays, progress = _day_of_wear(rng, mode, progress, usage[:, :, ahead] / tau_d, asked[:, :, ahead])
        failed += alive * fails
        alive *= stays
        out[:, ahead] = failed.mean(axis=1)
    return out


def _day_of_wear(
    rng: np.random.Generator, mode: Mode, z: Floats, pace: Floats, asked: Floats | float
) -> tuple[Floats, Floats, Floats]:
    """One day of many faults, as `degradation` draws it: chance to fail, chance to go on (the rest heals), progress after it."""
    broken = -np.expm1(-demand_hazard(z, asked))
    c2 = mode.spread**2
    if not mode.heals:
        after = z + c2 * rng.standard_gamma(pace / c2)
        fails = np.where(after >= 1.0, 1.0, broken)
        return fails, 1.0 - fails, after
    variance = c2 * pace
    after = z + pace + np.sqrt(variance) * rng.standard_normal(z.shape)
    over = np.where(after >= 1.0, 1.0, np.exp(np.minimum(-2.0 * (1.0 - z) * (1.0 - after) / variance, 0.0)))
    under = np.where(after <= 0.0, 1.0, np.exp(np.minimum(-2.0 * z * after / variance, 0.0)))
    between = (1.0 - over) * (1.0 - under)
    return over + between * broken, between * (1.0 - broken), np.clip(after, 1e-6, 1.0 - 1e-6)


@lru_cache(maxsize=32)
def life_table(code: str) -> tuple[Floats, Floats]:
    """What becomes of a fresh fault at usage 1, its tau not known, by days of wear from 0 to `LIFE_D`.

    Returns
    -------
    (failed, found) : share that has failed by then; chance that an inspection finds one that has not
    """
    mode, rng = MODES[code], stream(0, Layer.WEAR, 2**31, MODES[code].number)
    tau_d = rng.lognormal(np.log(mode.pf_median_d), mode.pf_log_sd, LIFE_PATHS)
    z, alive, gone = np.full(LIFE_PATHS, mode.starts_at), np.ones(LIFE_PATHS), np.zeros(LIFE_PATHS)
    failed, found = np.zeros(LIFE_D + 1), np.zeros(LIFE_D + 1)
    found[0] = float(chance_to_find(z).mean())
    for day in range(1, LIFE_D + 1):
        fails, stays, z = _day_of_wear(rng, mode, z, 1.0 / tau_d, ORDINARY_DEMAND)
        gone += alive * fails
        alive *= stays
        failed[day] = gone.mean()
        found[day] = float((chance_to_find(np.minimum(z, 1.0)) * alive).sum() / max(float(alive.sum()), 1e-9))
    return failed, found


def tau_posterior(mode: Mode, z: float, z_at_onset: float, usage: float) -> tuple[Floats, Floats]:
    """What the progress says of a fault's scale: grid points of tau in days, and their weights."""
    nodes = np.linspace(-3.0, 3.0, TAU_POINTS)
    tau_d = mode.pf_median_d * np.exp(mode.pf_log_sd * nodes)
    log_weight = stats.norm.logpdf(nodes)
    if usage > 0.0 and z > z_at_onset - (1.0 if mode.heals else 0.0):
        c2 = mode.spread**2
        if mode.heals:
            variance = c2 * usage / tau_d
            log_weight = log_weight + stats.norm.logpdf(z, z_at_onset + usage / tau_d, np.sqrt(variance))
            # it has met neither barrier on its way
            log_weight += np.log(-np.expm1(-2.0 * z_at_onset * z / variance) + 1e-300)
            log_weight += np.log(-np.expm1(-2.0 * (1.0 - z_at_onset) * (1.0 - z) / variance) + 1e-300)
        else:
            log_weight = log_weight + stats.gamma.logpdf(z - z_at_onset, usage / (tau_d * c2), scale=c2)
    weight = np.exp(log_weight - log_weight.max())
    return tau_d, weight / weight.sum()


def gate_curves(fleet: Fleet, gate_id: str, rung: str) -> tuple[list[str], Floats]:
    """Probability of failure of one gate by mode.

    Returns
    -------
    (codes, curves) : the modes, and an array of shape (modes, days + 1, horizon): P(failure by this mode within 1..21 days of
        midnight d), as if there were no other mode
    """
    gate = fleet.gate(gate_id)
    weather, duty, life = live_gate(fleet, gate)
    rng = stream(fleet.seed, Layer.ORACLE, gate.index, RUNGS.index(rung))
    ahead = weather_futures(rng, fleet, gate, weather)
    futures = duty_futures(rng, fleet, gate, ahead, asked_factor(fleet.scenario, fleet.start, fleet.days))
    known = gate.constitution if rung != "O3" else _ordinary(gate.constitution)
    standing = _standing(fleet.days, life, seen_only=rung == "O3")
    modes = modes_of(gate.hoist)
    rust = corrosion(fleet.scenario, fleet.start, fleet.days)
    curves = np.zeros((len(modes), fleet.days + 1, HORIZON_D))
    for number, mode in enumerate(modes):
        factor = rust.get(mode.code, np.ones(fleet.days))
        hazard = _future_hazard(fleet, known, mode, futures, factor) * _strain(mode, standing, fleet.days)[:, None]
        if mode.code == SUDDEN:
            curves[number] = -np.expm1(-np.cumsum(hazard, axis=1))
            continue
        pace = float(duty.usage.mean())
        coming = _new_faults(mode, hazard, pace)
        if rung == "O3":
            coming += _unseen_faults(fleet, gate, known, mode, weather, duty, life, factor, pace)
        curves[number] = -np.expm1(-coming)
        faults = standing.get(mode.code, [])
        if faults:
            curves[number, [day for day, _, _, _ in faults]] = _standing_faults(rng, mode, faults, futures, duty, life, rung)
    return [mode.code for mode in modes], curves


_Standing = tuple[int, float, float, int]


def _standing(days: int, life: Life, *, seen_only: bool) -> dict[str, list[_Standing]]:
    """By mode, the fault that stands at each midnight: (day, progress, tau, index of its episode)."""
    out: dict[str, list[_Standing]] = {}
    for index, episode in enumerate(life.episodes):
        if seen_only and episode.silent:
            continue
        for offset, z in enumerate(episode.z):
            day = episode.first_day + offset
            if day <= days and day * 86_400 <= episode.end_s:
                out.setdefault(episode.mode.code, []).append((day, z, episode.tau_d, index))
    return out


def _ordinary(gate: Constitution) -> Constitution:
    """The gate as one who knows its age and hoist only takes it to be."""
    return Constitution(gate.hoist, 1.0, dict.fromkeys(gate.mix, 1.0), gate.age_y)


def _rate(fleet: Fleet, known: Constitution, mode: Mode, days: Floats) -> Floats:
    """Onsets a day at usage 1 in ordinary weather."""
    age = np.sqrt((known.age_y + days / 365.0) / 15.0)
    return np.asarray(fleet.hazard_scale * mode.per_year * known.frailty * known.mix[mode.code] * age / 365.0)


def _future_hazard(fleet: Fleet, known: Constitution, mode: Mode, futures: Futures, factor: Floats) -> Floats:
    """Expected onsets on each day of the future, shape (days + 1, horizon)."""
    day = np.arange(fleet.days + 1)[:, None] + np.arange(HORIZON_D)
    expected = np.mean(environment(mode, futures.weather) * futures.usage, axis=1)
    return np.asarray(_rate(fleet, known, mode, day.astype(np.float64)) * expected * factor[np.minimum(day, fleet.days - 1)])


def _strain(mode: Mode, standing: dict[str, list[_Standing]], days: int) -> Floats:
    """How many times more often the mode starts because of what is worn already, by midnight."""
    strain = np.ones(days + 1)
    for cause, factor in COUPLINGS.get(mode.code, ()):
        for day, z, _, _ in standing.get(cause, []):
            if z > 0.5:
                strain[day] *= factor
    return strain


def _failed_within(mode: Mode, wear_days: Floats, pace: float) -> Floats:
    failed, _ = life_table(mode.code)
    return np.interp(np.maximum(wear_days, 0.0) * pace, np.arange(LIFE_D + 1), failed)


def _new_faults(mode: Mode, hazard: Floats, pace: float) -> Floats:
    """Cumulated hazard of failure by faults that start from now on; a fault wears from the day after its onset."""
    lag = np.arange(HORIZON_D)[None, :] - np.arange(HORIZON_D)[:, None]  # (onset day, day by whose end it failed)
    return np.asarray(hazard @ np.where(lag > 0, _failed_within(mode, lag.astype(np.float64), pace), 0.0))


def _unseen_faults(
    fleet: Fleet,
    gate: Gate,
    known: Constitution,
    mode: Mode,
    weather: Weather,
    duty: Duty,
    life: Life,
    factor: Floats,
    pace: float,
) -> Floats:
    """Cumulated hazard of failure by silent faults that may be there already, shape (days + 1, horizon).

    Each past day since the component was last renewed may have been an onset; inspections since then would have found some.
    """
    days = fleet.days
    past = np.arange(days, dtype=np.float64)
    onset = mode.silent * _rate(fleet, known, mode, past) * environment(mode, weather) * duty.usage * factor
    at, lag = np.arange(days + 1)[:, None], np.arange(1, LIFE_D + 1)[None, :]
    day = at - lag
    renewed = np.zeros(days + 1)
    visits: list[int] = []
    for outage in life.outages:
        if outage.kind == "inspection":
            visits.append(int(outage.start_s // 86_400))
        elif outage.component in ("", mode.component):
            renewed[min(int(outage.end_s // 86_400) + 1, days + 1) :] = outage.end_s // 86_400
    mass = np.where((day >= 0) & (day >= renewed[:, None]), onset[np.clip(day, 0, days - 1)], 0.0)
    _, found = life_table(mode.code)
    for visit in visits:
        age = np.clip((visit - day - 1) * pace, 0.0, LIFE_D)
        missed = 1.0 - np.interp(age, np.arange(LIFE_D + 1), found)
        mass *= np.where((day < visit) & (at > visit), missed, 1.0)
    wear = (lag[0] - 1).astype(np.float64)
    by_day = _failed_within(mode, wear[:, None] + 1.0 + np.arange(HORIZON_D), pace) - _failed_within(mode, wear, pace)[:, None]
    return np.asarray(mass @ by_day)


def _standing_faults(
    rng: np.random.Generator,
    mode: Mode,
    faults: Sequence[_Standing],
    futures: Futures,
    duty: Duty,
    life: Life,
    rung: str,
) -> Floats:
    """Probability of failure of the faults that stand, one row each."""
    days = np.array([day for day, _, _, _ in faults])
    z = np.array([progress for _, progress, _, _ in faults])
    paths = FUTURES * PATHS_PER_FUTURE
    tau_d = np.repeat(np.array([tau for _, _, tau, _ in faults])[:, None], paths, axis=1)
    if rung != "O1":
        summed = np.append(0.0, np.cumsum(duty.usage))
        for row, (day, progress, _, index) in enumerate(faults):
            episode = life.episodes[index]
            used = float(summed[min(day, len(summed) - 1)] - summed[episode.first_day])
            points, weights = tau_posterior(mode, progress, episode.z[0], used)
            # evenly through the posterior rather than at random
            places = (np.arange(paths) + 0.5) / paths
            tau_d[row] = rng.permutation(points[np.minimum(np.searchsorted(np.cumsum(weights), places), TAU_POINTS - 1)])
    usage, asked = (np.repeat(part[days], PATHS_PER_FUTURE, axis=1) for part in (futures.usage, futures.asked))
    return wear_out(rng, mode, z, tau_d, usage, asked)


def gate_forecasts(fleet: Fleet, gate_id: str, rung: str) -> pd.DataFrame:
    """The forecasts of one rung for one gate at every midnight from the first to the last: rows of a forecast file."""
    codes, curves = gate_curves(fleet, gate_id, rung)
    gate = fleet.gate(gate_id)
    component_of = np.array([MODES[code].component for code in codes])
    as_of = [fleet.started_at + timedelta(days=day) for day in range(1, fleet.days + 1)]
    frames = []
    for component in ("", *gate.components):
        chosen = np.ones(len(codes), dtype=np.bool_) if component == "" else component_of == component
        curve = 1.0 - np.prod(1.0 - curves[chosen, 1:], axis=0)
        likeliest = np.array(codes, dtype=object)[chosen][np.argmax(curves[chosen, 1:, 13], axis=0)]
        frames.append(_rows(gate_id, component, as_of, curve, likeliest, f"oracle-{rung}"))
    return pd.concat(frames, ignore_index=True)


def _rows(
    gate_id: str, component: str, as_of: Sequence[datetime], curve: Floats, mode: NDArray[np.object_], version: str
) -> pd.DataFrame:
    curve = np.maximum.accumulate(np.clip(curve, 0.0, 1.0), axis=1)

    def first_day(level: float) -> Floats:
        reached = curve >= level
        return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, np.nan)

    return pd.DataFrame(
        {
            "gate_id": gate_id,
            "component": component,
            "as_of": pd.Series(as_of).astype("datetime64[ms, UTC]"),
            "verdict": "forecast",
            "reason": "",
            "p_7d": curve[:, 6],
            "p_14d": curve[:, 13],
            "p_21d": curve[:, 20],
            "ttf_p10_d": first_day(0.1),
            "ttf_p50_d": first_day(0.5),
            "ttf_p90_d": first_day(0.9),
            "failure_mode": mode,
            "model_version": version,
            "curve": list(curve),
        }
    )


def oracle(folder: str | Path, rung: str, *, jobs: int = 1, progress: Callable[[int, int], None] | None = None) -> pd.DataFrame:
    """The forecasts of one rung for a simulated dataset folder.

    Raises
    ------
    BadInput
        The folder has no truth, or was made by another version of the simulator.
    """
    fleet = make_fleet(**read_settings(folder, VERSION))
    frames: list[pd.DataFrame] = []
    for done, frame in enumerate(_forecasts(fleet, rung, jobs), start=1):
        frames.append(frame)
        if progress is not None:
            progress(done, len(fleet.gates))
    return pd.concat(frames, ignore_index=True)


def _forecasts(fleet: Fleet, rung: str, jobs: int) -> Iterator[pd.DataFrame]:
    return each_gate(gate_forecasts, fleet, jobs, rung)
