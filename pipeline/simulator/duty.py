"""What a gate is asked to do: when it moves, for how long, how far and against what load.

Exogenous to wear: a run stands here whether or not the gate can still make it. Which runs really happened is decided by
`signals`, which leaves out those that fall into an outage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from pipeline.simulator.streams import Floats, Ints
from pipeline.simulator.weather import DAY_S, Weather

REFERENCE_MIN_PER_DAY = 28.0
"""Running minutes a day at which the usage factor is 1."""

MOST_RUNS_PER_DAY = 30


@dataclass(frozen=True, slots=True)
class Calling:
    """How much a gate is used, fixed over its life.

    Attributes
    ----------
    role : ``regulating`` (some runs a day), ``flood`` (seldom, and much more often in floods) or ``exercised`` (once a week)
    runs_per_day : mean number of runs a day in dry weather
    flood_gain : how many times more runs, at flood index 1
    exercise_weekday : 0 to 6, the day of the week on which an unused gate is exercised
    travel_m, speed_m_min : the leaf's full travel and its speed
    """

    role: str
    runs_per_day: float
    flood_gain: float
    exercise_weekday: int
    travel_m: float
    speed_m_min: float


@dataclass(frozen=True, slots=True)
class Duty:
    """The runs a gate is asked for, in order of time, and what they sum up to each day.

    Per run: ``number`` (its name: the same run has the same number whatever else the gate is asked for), ``day`` (index),
    ``start_s`` and ``duration_s`` (seconds, from the start of the simulation), ``load`` (fraction of rated), ``aim_m`` (the
    opening it makes for), ``stops`` (times the brake falls in). Per day: ``runs``, ``run_minutes``, ``day_load`` (mean; 0.55
    where nothing ran).
    """

    number: Ints
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


def make_duty(rng: np.random.Generator, calling: Calling, weather: Weather, asked: Floats | float = 1.0) -> Duty:
    """Draw a gate's runs: Poisson by the day, more in floods, half of them soon after the one before.

    Every day has its own numbers for each run it might have, so that more rain on one day adds runs to that day and changes
    no other.

    Parameters
    ----------
    asked : factor on the number of runs of each day; 0 leaves the weekly exercise
    """
    days = weather.days
    of_day, of_run = rng.random((days, 2)), rng.random((days, MOST_RUNS_PER_DAY, 8))
    mean = calling.runs_per_day * (1.0 + calling.flood_gain * weather.flood) * asked
    wanted = np.minimum(special.pdtrik(of_day[:, 0], np.maximum(mean, 1e-9)), MOST_RUNS_PER_DAY)
    wanted = np.ceil(np.maximum(wanted, 0.0)).astype(np.int64)
    wanted = np.where((np.arange(days) % 7 == calling.exercise_weekday) & (wanted == 0), 1, wanted)
    day = np.repeat(np.arange(days), wanted)
    nth = np.arange(len(day)) - np.repeat(np.cumsum(wanted) - wanted, wanted)
    u = of_run[day, nth]
    duration_s = np.round(60.0 * np.clip(1.5 * special.gammaincinv(6.0, u[:, 0]), 1.0, 45.0))
    # four of five runs fall into local working hours, 8 to 20 o'clock, which are 0 to 12 UTC
    wish_s = DAY_S * u[:, 2] * np.where(u[:, 1] < 0.8, 0.5, 1.0)
    wish_s = np.minimum(wish_s, DAY_S - duration_s - 62.0)  # the first of a day is always made
    soon, pause_s = u[:, 3] < 0.5, np.round(120.0 + 600.0 * u[:, 4])
    load = 0.55 + 0.12 * weather.flood[day] + 0.05 * np.sin(2 * np.pi * np.arange(days) / 365.0)[day]
    load = load + 0.08 * special.ndtri(of_day[:, 1])[day] + 0.06 * special.ndtri(u[:, 5])
    aim_m = calling.travel_m * np.clip(0.3 + 0.2 * weather.flood[day] + 0.35 * special.ndtri(u[:, 6]), 0.0, 1.0)
    stops = np.minimum(1.0 + np.ceil(np.maximum(special.pdtrik(u[:, 7], 0.3), 0.0)), 3.0)
    order = np.lexsort((wish_s, day))
    day, wish_s, duration_s, soon, pause_s = day[order], wish_s[order], duration_s[order], soon[order], pause_s[order]
    load, aim_m, stops, number = load[order], aim_m[order], stops[order], (day * MOST_RUNS_PER_DAY + nth[order])
    total = len(day)

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
    load, aim_m, stops, number = np.clip(load[fits], 0.2, 1.25), aim_m[fits], stops[fits], number[fits]
    runs = np.bincount(day, minlength=days).astype(np.int64)
    day_load = np.where(runs > 0, np.bincount(day, load, days) / np.maximum(runs, 1), 0.55)
    run_minutes = np.bincount(day, duration_s, days) / 60.0
    return Duty(number, day, start_s, duration_s, load, aim_m, stops, runs, run_minutes, day_load)


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
