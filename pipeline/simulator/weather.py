"""Rain, heat and floods of one river basin, day by day. Exogenous: knows nothing of gates.

Rain is a two-state Markov chain with a monsoon summer, the flood index a leaky sum of rain, the ambient temperature a season
plus slow weather. The parameters are anchored on Shenzhen's climate (about 1 900 mm of rain a year, 82 % of it from April to
September; January 15 °C, July 29 °C).
"""

from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from pipeline.simulator.streams import Floats

WARM_UP_DAYS = 60
UTC_OFFSET_H = 8.0
"""Hours that local time (Asia/Shanghai, no summer time) is ahead of UTC."""

SLOW_PERSISTENCE, SLOW_SD_K = 0.75, 1.7
"""The slow weather around the season: what stays of it after a day, and the spread of a day's news."""

RUN_OFF = 0.8
"""Share of the water in the basin that is still there a day later."""

FLOOD_MM, MOST_FLOOD = 85.0, 4.0
"""Stored rain at which the flood index is 1, and the greatest index."""

DIURNAL_SWING_K = 4.0
WARMEST_HOUR = 15.0
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Weather:
    """Daily weather of a basin; every array has one value per UTC day.

    Attributes
    ----------
    ambient_c : daily mean air temperature in the shade, °C
    rain_mm : rain of the day, mm
    flood : flood index, 0 (dry) to 4 (extreme)
    """

    ambient_c: Floats
    rain_mm: Floats
    flood: Floats

    @property
    def days(self) -> int:
        """Number of days."""
        return len(self.rain_mm)


@dataclass(frozen=True, slots=True)
class Change:
    """What a scenario does to the weather, one value per day: warmer by K, more rain in mm, no rain at all."""

    warmer_k: Floats
    more_rain_mm: Floats
    dry: NDArray[np.bool_]


def day_of_year(start: date, days: int, warm_up: int = 0) -> Floats:
    """Day of the year (1 = 1 January) of each day from ``start - warm_up`` on."""
    dates = np.datetime64(start, "D") + np.arange(-warm_up, days).astype("timedelta64[D]")
    since_new_year: Floats = (dates - dates.astype("datetime64[Y]")).astype(np.float64)
    return since_new_year + 1.0


def chance_of_rain(doy: Floats) -> Floats:
    """Share of the days that are wet, by the day of the year: a monsoon summer."""
    wet: Floats = 0.12 + 0.43 * np.exp(-(((doy - 190.0) / 65.0) ** 2))
    return wet


def wet_after(was_wet: NDArray[np.bool_] | bool, p_wet: Floats | float) -> Floats:
    """Chance that a day is wet, given the day before."""
    return np.where(was_wet, 0.62, 0.7 * np.asarray(p_wet))


def rain_scale_mm(p_wet: Floats) -> Floats:
    """Scale of a wet day's Gamma(0.6) amount of rain, mm."""
    return 34.0 * (0.22 + 1.85 * p_wet)


def season_c(doy: Floats) -> Floats:
    """Mean air temperature of a day of the year, °C."""
    warm: Floats = 22.5 - 6.8 * np.cos(2 * np.pi * (doy - 20.0) / 365.0)
    return warm


def make_weather(rng: np.random.Generator, start: date, days: int, change: Change | None = None) -> Weather:
    """Draw the weather of ``days`` days from ``start`` on, warmed up so that day one is an ordinary day.

    ``change`` is what a scenario does to it; days before it are the same with and without.
    """
    doy = day_of_year(start, days, WARM_UP_DAYS)
    n = len(doy)
    p_wet = chance_of_rain(doy)
    chance, amount, innovation = rng.random(n), rng.gamma(0.6, rain_scale_mm(p_wet)), rng.normal(0.0, SLOW_SD_K, n)
    warmer_k, more_mm, dry = np.zeros(n), np.zeros(n), np.zeros(n, dtype=np.bool_)
    if change is not None:
        warmer_k[WARM_UP_DAYS:], more_mm[WARM_UP_DAYS:], dry[WARM_UP_DAYS:] = change.warmer_k, change.more_rain_mm, change.dry

    rain, slow, flood = np.zeros(n), np.zeros(n), np.zeros(n)
    wet, x, q = False, 0.0, 0.0
    for t in range(n):
        wet = bool(chance[t] < wet_after(wet, p_wet[t]))
        rain[t] = 0.0 if dry[t] else (amount[t] if wet else 0.0) + more_mm[t]
        x = SLOW_PERSISTENCE * x + innovation[t]
        q = RUN_OFF * q + rain[t]
        slow[t], flood[t] = x, min(q / FLOOD_MM, MOST_FLOOD)
    ambient = season_c(doy) + slow - 1.2 * (rain > 5.0) + warmer_k
    return Weather(ambient[WARM_UP_DAYS:], rain[WARM_UP_DAYS:], flood[WARM_UP_DAYS:])


def local_hour(t_s: Floats) -> Floats:
    """Local hour of the day, 0 to 24, of instants given in seconds since the (UTC midnight) start."""
    hour: Floats = np.mod(t_s / 3600.0 + UTC_OFFSET_H, 24.0)
    return hour


def daily_to_instants(daily: Floats, t_s: Floats) -> Floats:
    """Spread a daily value over instants: linear between the days' noons, so that midnight makes no step."""
    return np.interp(t_s, (np.arange(len(daily)) + 0.5) * DAY_S, daily)


def ambient_at(weather: Weather, t_s: Floats) -> Floats:
    """Air temperature in the shade at instants in seconds since the start, °C."""
    swing: Floats = DIURNAL_SWING_K * np.cos(2 * np.pi * (local_hour(t_s) - WARMEST_HOUR) / 24.0)
    return daily_to_instants(weather.ambient_c, t_s) + swing


def sun_at(weather: Weather, t_s: Floats, strength_k: float) -> Floats:
    """Warming of the hoist house by the sun on dry days, K: a half sine from 6 to 18 o'clock local time."""
    dry = (weather.rain_mm < 1.0)[np.minimum((t_s // DAY_S).astype(np.int64), weather.days - 1)]
    height: Floats = np.maximum(0.0, np.sin(np.pi * (local_hour(t_s) - 6.0) / 12.0))
    return strength_k * height * dry
