"""Trends: windows over what operations show beyond their baseline, day by day. Arrays in, arrays out."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from pipeline import channel_days
from pipeline.readings import DAY_MS

LOOK_BACK_DAYS = 60
"""Over how many days a trend asks how long, and from how high."""

OVER_Z = 2.0
REMEMBER_DAYS = 14
"""A gate that has not moved for some days keeps its last 3-day deviation this long."""

NEVER_MS = np.iinfo(np.int64).max
"""An instant (epoch ms) later than any other."""

HISTORY_DAYS = LOOK_BACK_DAYS + REMEMBER_DAYS + 4
"""How far back the days reach that a row's trends are made of; each is the mean of operations of its own alone."""


def by_day(values: np.ndarray, day: np.ndarray, n_days: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and number of each row's values of each day, shape (rows, n_days); those of day -1 or less are left out."""
    use = np.flatnonzero((day >= 0).ravel())
    cell = (day + np.arange(len(day))[:, None] * n_days).ravel()[use].astype(np.int64)
    count = np.bincount(cell, minlength=len(day) * n_days).reshape(len(day), n_days)
    total = np.bincount(cell, weights=values.ravel()[use], minlength=len(day) * n_days).reshape(len(day), n_days)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), count


@dataclass(frozen=True, slots=True)
class Used:
    """The operations that count, another number of them for each column of evidence, each column's moved to the front.

    Attributes
    ----------
    order : operations of each column, those that count first
    real : which of them count, shape (columns, most of one)
    started_ms : their starts, `NEVER_MS` of those that do not count
    """

    order: np.ndarray
    real: np.ndarray
    started_ms: np.ndarray

    @classmethod
    def of(cls, use: np.ndarray, started_ms: np.ndarray) -> Used:
        """Pick operations by `use`, shape (columns, operations); their starts are of that shape too, or the same for all."""
        counts = use.sum(axis=1)
        most = max(int(counts.max(initial=0)), 1)
        order = np.argsort(~use, axis=1, kind="stable")[:, :most]
        real = np.arange(most) < counts[:, None]
        started_ms = np.take_along_axis(np.broadcast_to(started_ms, use.shape), order, axis=1)
        return cls(order, real, np.where(real, started_ms, NEVER_MS))

    def pick(self, values: np.ndarray) -> np.ndarray:
        """Values of operations in this order."""
        return np.take_along_axis(values, self.order, axis=1)

    def last_five(self, picked: np.ndarray) -> np.ndarray:
        """For each operation its value and those of the four before it, the newest last; NaN for those older by 14 days."""
        started_ms = windows(self.started_ms, 5, fill=-np.inf)[:, 1:]
        fresh = self.started_ms[..., None] - started_ms <= REMEMBER_DAYS * DAY_MS
        return np.where(fresh, windows(picked, 5)[:, 1:], np.nan)

    def last_five_at(self, picked: np.ndarray, at_ms: np.ndarray) -> np.ndarray:
        """The same up to each of some instants (exclusive), shape (columns, instants, 5); NaN for those older by 14 days then."""
        last = np.array([np.searchsorted(started_ms, at_ms, side="left") for started_ms in self.started_ms])
        place = last[..., None] + np.arange(-5, 0)
        column = np.arange(len(picked))[:, None, None]
        inside, place = place >= 0, np.maximum(place, 0)
        fresh = at_ms[:, None] - self.started_ms[column, place] <= REMEMBER_DAYS * DAY_MS
        return np.where(inside & fresh, picked[column, place], np.nan)


def pulled_in(used: Used, deviation: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Each operation's deviation, held within `reach` of the median of the last five: one odd operation is no trend."""
    five = used.last_five(deviation)
    lowest, highest = (functools.reduce(of, np.moveaxis(five, -1, 0)) for of in (np.fmin, np.fmax))
    # where all five lie closer together than that, so does the median: nearly everywhere, and sorting them is slow
    odd = ~(highest - lowest < reach)
    middle = np.where(odd, np.nan, deviation)
    middle[odd] = channel_days.median(five[odd])
    return np.asarray(np.clip(deviation, middle - reach, middle + reach))


def newest(used: Used, z: np.ndarray, boundaries_ms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At each boundary, of the last five operations of 14 days: the mean of the last three, and the second lowest of five."""
    five = used.last_five_at(z, boundaries_ms)
    return nan_mean(five[..., -3:], axis=-1), np.sort(five, axis=-1)[..., 1]


def trends_at(daily: np.ndarray, scatter: np.ndarray, count: np.ndarray, at: np.ndarray) -> dict[str, np.ndarray]:
    """Windows over daily series (a row each) at some of their boundaries; what is at boundary t uses days before t only."""
    mean = {days: nan_mean(windows(daily, days), axis=-1) for days in (3, 7)}
    newest = remembered(mean[3])
    over = (newest[:, 1:] / scatter > OVER_Z).astype(float)
    highest = nan_max(np.moveaxis(windows(mean[7], LOOK_BACK_DAYS)[:, at + 1], -1, 0))
    newest, mean_7d = newest[:, at], mean[7][:, at]
    mean_14d, mean_30d = (nan_mean(windows(daily, days)[:, at], axis=-1) for days in (14, 30))
    days_over = windows(over, LOOK_BACK_DAYS, fill=0.0)[:, at].sum(axis=-1)
    slopes = {days: _slope(windows(daily, days)[:, at]) for days in (7, 14, 30)}
    return {
        "dev": newest,
        "dev_7d": mean_7d,
        "dev_14d": mean_14d,
        "slope_7d": slopes[7],
        "slope_14d": slopes[14],
        "slope_30d": slopes[30],
        "diff_3_14": newest - mean_14d,
        "diff_7_30": mean_7d - mean_30d,
        "z": newest / scatter,
        "t_7d": evidence_7d(mean_7d, scatter, count, at),
        "days_over": days_over,
        "fall": np.where(np.isfinite(mean_7d), highest - mean_7d, np.nan),
        "rate": mean_7d / (days_over + 7.0),
    }


def evidence_7d(mean_7d: np.ndarray, scatter: np.ndarray, count: np.ndarray, at: np.ndarray) -> np.ndarray:
    """How many standard errors the last week's mean lies off, as if the operations of one day were half alike."""
    # ten operations of one day are worth less than ten days
    return np.asarray(mean_7d / scatter * np.sqrt(windows(np.sqrt(count), 7, fill=0.0)[:, at].sum(axis=-1)))


def newest_mean(daily: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Mean of the last 3 days before some boundaries, as it is `remembered`."""
    since = max(int(at.min()) - REMEMBER_DAYS - 3, 0)
    return remembered(nan_mean(windows(daily[..., since:], 3), axis=-1))[..., at - since]


def remembered(mean_3d: np.ndarray) -> np.ndarray:
    """Mean of the last 3 days; a gate that rests keeps its last one for 14 days."""
    place = np.arange(mean_3d.shape[-1])
    last = np.maximum.accumulate(np.where(np.isfinite(mean_3d), place, -1), axis=-1)
    fresh = (last >= 0) & (place - last <= REMEMBER_DAYS)
    return np.where(fresh, np.take_along_axis(mean_3d, np.maximum(last, 0), axis=-1), np.nan)


def windows(daily: np.ndarray, days: int, fill: float = np.nan) -> np.ndarray:
    """The `days` days before each day boundary 0..n, as one more axis; days before the series are `fill`."""
    padded = np.full((*daily.shape[:-1], days + daily.shape[-1]), fill)
    padded[..., days:] = daily
    return channel_days.sliding(padded, days)


def nan_mean(windows: np.ndarray, axis: int) -> np.ndarray:
    known = np.isfinite(windows)
    count = known.sum(axis=axis)
    total = np.where(known, windows, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def nan_max(rows: np.ndarray) -> np.ndarray:
    known = np.isfinite(rows)
    greatest = np.where(known, rows, -np.inf).max(axis=0)
    return np.where(known.any(axis=0), greatest, np.nan)


def _slope(windows: np.ndarray) -> np.ndarray:
    """Least-squares slope per day over windows, pulled to 0 when few days are known (as if 10 day² of level ground)."""
    known = np.isfinite(windows)
    n = np.maximum(known.sum(axis=-1), 1)
    x = np.arange(windows.shape[-1], dtype=float)
    y = np.where(known, windows, 0.0)
    sum_x, sum_y = known @ x, y.sum(axis=-1)
    slope = (y @ x - sum_x * sum_y / n) / (known @ x**2 - sum_x**2 / n + 10.0)
    return np.where(known.any(axis=-1), slope, np.nan)
