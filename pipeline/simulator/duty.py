"""What a gate is asked to do: when it moves, for how long, how far and against what load.

Exogenous to wear: a run stands here whether or not the gate can still make it. Which runs really happened is decided by
`signals`, which leaves out those that fall into an outage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.simulator.weather import DAY_S, Floats, Weather

Ints = NDArray[np.int64]

REFERENCE_MIN_PER_DAY = 28.0
"""Running minutes a day at which the usage factor is 1."""

MOST_RUNS_PER_DAY = 30


@dataclass(frozen=True, slots=True)
class Calling:
    """How much a gate is used, fixed over its life.

    Attributes
    ----------
    runs_per_day : mean number of runs a day in dry weather
    exercise_weekday : 0 to 6, the day of the week on which an unused gate is exercised
    travel_m, speed_m_min : the leaf's full travel and its speed
    """

    runs_per_day: float
    exercise_weekday: int
    travel_m: float
    speed_m_min: float


@dataclass(frozen=True, slots=True)
class Duty:
    """The runs a gate is asked for, in order of time, and what they sum up to each day.

    Per run: ``day`` (index), ``start_s`` and ``duration_s`` (seconds, from the start of the simulation), ``load`` (fraction of
    rated), ``aim_m`` (the opening it makes for), ``stops`` (times the brake falls in). Per day: ``runs``, ``run_minutes``,
    ``day_load`` (mean; 0.55 where nothing ran).
    """

    day: Ints
    start_s: Floats
    duration_s: Floats
    load: Floats
    aim_m: Floats
    stops: Floats
    runs: Ints
    run_minutes: Floats
    day_load: Floats

    @property
    def usage(self) -> Floats:
        """Usage factor of each day: part calendar ageing, part running time; about 1 on average."""
        return 0.35 + 0.65 * self.run_minutes / REFERENCE_MIN_PER_DAY

    def instant_s(self, day: int, fraction: float) -> float:
        """The instant at which ``fraction`` of the day's running time has passed; of the day itself if nothing ran."""
        runs = np.flatnonzero(self.day == day)
        if len(runs) == 0:
            return (day + fraction) * DAY_S
        left_s = fraction * float(self.duration_s[runs].sum())
        for run in runs[:-1]:
            if left_s <= self.duration_s[run]:
                return float(self.start_s[run] + left_s)
            left_s -= float(self.duration_s[run])
        return float(self.start_s[runs[-1]] + min(left_s, float(self.duration_s[runs[-1]])))


def make_duty(rng: np.random.Generator, calling: Calling, weather: Weather) -> Duty:
    """Draw a gate's runs: Poisson by the day, more in floods, half of them soon after the one before."""
    days = weather.days
    wanted = np.minimum(rng.poisson(calling.runs_per_day * (1.0 + 1.1 * weather.flood)), MOST_RUNS_PER_DAY)
    wanted = np.where((np.arange(days) % 7 == calling.exercise_weekday) & (wanted == 0), 1, wanted)
    total = int(wanted.sum())
    day = np.repeat(np.arange(days), wanted)
    duration_s = np.round(60.0 * np.clip(rng.gamma(6.0, 1.5, total), 1.0, 45.0))
    # four of five runs fall into local working hours, 8 to 20 o'clock, which are 0 to 12 UTC
    wish_s = np.where(rng.random(total) < 0.8, rng.uniform(0, DAY_S / 2, total), rng.uniform(0, DAY_S, total))
    wish_s = wish_s[np.lexsort((wish_s, day))]
    soon, pause_s = rng.random(total) < 0.5, np.round(rng.uniform(120.0, 720.0, total))
    load = 0.55 + 0.12 * weather.flood[day] + 0.05 * np.sin(2 * np.pi * np.arange(days) / 365.0)[day]
    load = load + rng.normal(0.0, 0.08, days)[day] + rng.normal(0.0, 0.06, total)
    aim_m = calling.travel_m * np.clip(0.3 + 0.2 * weather.flood[day] + rng.normal(0.0, 0.35, total), 0.0, 1.0)
    stops = 1.0 + rng.poisson(0.3, total)

    start_s, fits = np.zeros(total), np.zeros(total, dtype=np.bool_)
    today, free_from_s = -1, 0.0
    for run in range(total):
        midnight_s = float(day[run]) * DAY_S
        first = day[run] != today
        if first:
            today, free_from_s = int(day[run]), midnight_s + 60.0
        start = free_from_s + pause_s[run] if soon[run] and not first else midnight_s + np.round(wish_s[run])
        start = max(start, free_from_s)
        fits[run] = start + duration_s[run] < midnight_s + DAY_S - 60.0
        if fits[run]:
            start_s[run], free_from_s = start, start + duration_s[run] + 120.0

    day, start_s, duration_s = day[fits], start_s[fits], duration_s[fits]
    load, aim_m, stops = np.clip(load[fits], 0.2, 1.25), aim_m[fits], stops[fits]
    runs = np.bincount(day, minlength=days).astype(np.int64)
    day_load = np.where(runs > 0, np.bincount(day, load, days) / np.maximum(runs, 1), 0.55)
    run_minutes = np.bincount(day, duration_s, days) / 60.0
    return Duty(day, start_s, duration_s, load, aim_m, stops, runs, run_minutes, day_load)


def opening_path(calling: Calling, duration_s: Floats, aim_m: Floats) -> tuple[Floats, Floats]:
    """Where each run starts and which way it goes, for runs really made in this order.

    A run drives towards its aim at the gate's own speed and turns at the end of the travel.

    Returns
    -------
    (start_m, direction) : opening at the start of each run, and +1 (opening) or -1 (closing)
    """
    start_m, direction = np.zeros(len(aim_m)), np.zeros(len(aim_m))
    position = 0.25 * calling.travel_m
    for run in range(len(aim_m)):
        start_m[run] = position
        direction[run] = 1.0 if aim_m[run] >= position else -1.0
        position = float(opening_after(calling, start_m[run : run + 1], direction[run : run + 1], duration_s[run : run + 1])[0])
    return start_m, direction


def opening_after(calling: Calling, start_m: Floats, direction: Floats, elapsed_s: Floats) -> Floats:
    """Opening after ``elapsed_s`` of movement, reflected at both ends of the travel, m."""
    unfolded = np.mod(start_m + direction * calling.speed_m_min * elapsed_s / 60.0, 2 * calling.travel_m)
    return np.asarray(calling.travel_m - np.abs(calling.travel_m - unfolded), dtype=np.float64)
