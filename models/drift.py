"""Drift: does what a model is shown today still look like what it learnt from? No clock, no database, no network.

Looked at are the deviations of each kind of component from its own baseline, one value a gate and day, their change against
the gate's own weeks before, and the model's score; ambient temperature, load and levels come and go with the season and are not,
nor is the leaf, which shakes with the water. A fleet's last week is compared with what the model learnt from in bins of equal
share, by PSI (Siddiqi 2006) and Kolmogorov-Smirnov. What is usual is not a rule of thumb: it is the 99th percentile of a block
bootstrap at the same number of gates, a block being a week of a gate. All gates of one resample are drawn from the same week,
so that a season is as usual as it was in training.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.labels import FloatArray, IntArray, epoch_ms
from pipeline.features import OWN_GROUPS
from pipeline.readings import DAY_MS

Bins = npt.NDArray[np.uint8]
Gates = npt.NDArray[np.object_]

SCORE = "score"
KINDS = ("motor", "gearbox", "brake", "hydraulic")
OF_PART = tuple(f"{group}_z" for group in OWN_GROUPS)
LOOKED_AT: tuple[str, ...] = (*(f"{kind}_{name}" for kind in KINDS for name in OF_PART), "current_z", SCORE)
"""What is looked at, one value a gate and day: how far the last days are from the own baseline, in units of its scatter, and the
log-odds of the gate's ``p_14d``."""

COMPARED: tuple[str, ...] = (*LOOKED_AT, *(f"{name}_change" for name in LOOKED_AT))
"""What is compared: the same, and what it is above the mean of the gate's own weeks before (from 7 to 27 days ago): a step shows
in that whatever gates differ in."""

YOUNG_DAYS = 60
"""A component is looked at from this age of its cycle on: its baseline is final, and a whole month lies after it."""

FLEET_DAYS, BEFORE_DAYS, GATE_DAYS = 7, 28, 28
"""How far back a fleet, looked at daily, the weeks before each of its days, and a gate, looked at weekly, are looked at."""

QUIET_DAYS = 7
"""What has drifted counts as over after so many days without."""

FEWEST_VALUES = 500
FEWEST_BEFORE = 10
FALSE_SHARE = 0.05
"""Of the features marked as drifted, as many may be so by chance."""

BINS = 20
UNKNOWN = 255
LEVELS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
AT_1_PERCENT = LEVELS.index(0.01)
FLEETS = (10, 30, 100, 300, 1000)
RESAMPLES = 2000
FEWEST_WEEKS, FEWEST_GATES = 8, 10


@dataclass(frozen=True, slots=True)
class Compared:
    """One feature of a fleet, or all of one gate, against the reference.

    Attributes
    ----------
    n : values known; below `FEWEST_VALUES` the others are NaN
    psi, ks, psi_usual, ks_usual : statistics, and their 99th percentiles without drift
    p : chance of statistics so great without drift
    drifted : by Benjamini and Hochberg (1995) over all that were compared together
    """

    n: int
    psi: float = np.nan
    ks: float = np.nan
    psi_usual: float = np.nan
    ks_usual: float = np.nan
    p: float = np.nan
    drifted: bool = False

    @property
    def enough(self) -> bool:
        """Whether there were enough values to compare."""
        return self.n >= FEWEST_VALUES


@dataclass(frozen=True, slots=True)
class Reference:
    """What a model learnt from, as far as drift asks; features are those of `COMPARED`.

    Attributes
    ----------
    edges : inner edges of the bins, shape (features, BINS - 1)
    shares : share of each bin, shape (features, BINS)
    reporting : share of the gates that have the feature, shape (features,)
    usual : upper quantiles (`LEVELS`) of PSI and KS of fleets of `FLEETS` gates, shape (2, fleets, features, levels)
    usual_gate : the same of one gate's four weeks, all of `LOOKED_AT` together, shape (2, levels)
    """

    edges: FloatArray
    shares: FloatArray
    reporting: FloatArray
    usual: FloatArray
    usual_gate: FloatArray

    def bins(self, days: pd.DataFrame) -> Bins:
        """The bin of each value of `with_changes`, `UNKNOWN` where there is none, shape (rows, features)."""
        return _bins(days[list(COMPARED)].to_numpy(dtype=np.float64), self.edges)

    def compare_fleet(self, bins: Bins, gates: Gates) -> dict[str, Compared]:
        """Compare the days of a fleet, feature by feature; `gates` says whose each row is."""
        counts = count(bins)
        psi, ks = statistics(counts, self.shares)
        gate = pd.factorize(gates)[0]
        found = []
        for place in range(len(COMPARED)):
            n = int(counts[place].sum())
            if n < FEWEST_VALUES:
                found.append(Compared(n))
                continue
            n_gates = len(np.unique(gate[bins[:, place] != UNKNOWN]))
            sizes = np.log(np.maximum(np.array(FLEETS) * self.reporting[place], 1.0))
            usual = [_at_size(np.log(n_gates), sizes, of_stat[:, place]) for of_stat in self.usual]
            found.append(_judge(n, float(psi[place]), float(ks[place]), usual))
        return dict(zip(COMPARED, _hochberg(found), strict=True))

    def compare_gates(self, bins: Bins, gates: Gates) -> dict[str, Compared]:
        """Compare each gate's days, all that is looked at together."""
        names, place = np.unique(gates, return_inverse=True)
        found = []
        for number in range(len(names)):
            counts = count(bins[place == number])[: len(LOOKED_AT)]
            psi, ks = _together(counts, self.shares[: len(LOOKED_AT)])
            n = int(counts.sum())
            found.append(_judge(n, psi, ks, list(self.usual_gate)) if n >= FEWEST_VALUES else Compared(n))
        return dict(zip(names.tolist(), _hochberg(found), strict=True))

    def to_json(self) -> bytes:
        """As the registry keeps it, in four significant digits."""
        arrays = {name: _short(getattr(self, name)) for name in self.__slots__}
        return (json.dumps({"compared": COMPARED, "fleets": FLEETS, "levels": LEVELS, **arrays}) + "\n").encode()

    @classmethod
    def from_json(cls, text: bytes) -> Reference | None:
        """Rebuild from `to_json`; None where it was made of other features than are compared now."""
        told = json.loads(text)
        if [told["compared"], told["fleets"], told["levels"]] != [list(COMPARED), list(FLEETS), list(LEVELS)]:
            return None
        return cls(**{name: np.array(told[name], dtype=np.float64) for name in cls.__slots__})


def episodes(drifted: Sequence[bool]) -> list[tuple[int, int]]:
    """First day of each run of drift, and the one on which it counts as over (the end of the record where it does not).

    Examples
    --------
    >>> episodes([False, True, False, True, *[False] * 7, True])
    [(1, 10), (11, 12)]
    """
    found: list[tuple[int, int]] = []
    began, quiet = -1, 0
    for day, is_drifted in enumerate(drifted):
        if is_drifted and began < 0:
            began = day
        quiet = 0 if is_drifted else quiet + 1
        if began >= 0 and quiet >= QUIET_DAYS:
            found.append((began, day))
            began = -1
    return [*found, (began, len(drifted))] if began >= 0 else found


def gate_days(rows: pd.DataFrame, forecasts: pd.DataFrame) -> pd.DataFrame:
    """What is looked at of each gate and day: from feature rows and forecasts, columns ``gate_id``, ``as_of`` and `LOOKED_AT`."""
    key = ["gate_id", "as_of"]
    gates = forecasts[forecasts["component"] == ""]
    p = gates["p_14d"].astype(np.float64).clip(1e-9, 1 - 1e-9)
    days = gates[key].assign(**{SCORE: np.log(p / (1 - p))})
    grown = rows[rows["cycle_days"] >= YOUNG_DAYS]
    for kind in KINDS:
        named = {name: f"{kind}_{name}" for name in OF_PART} | ({"current_z": "current_z"} if kind == "motor" else {})
        parts = grown.loc[grown["component"] == kind, [*key, *named]].rename(columns=named)
        days = days.merge(parts, on=key, how="left")
    return days[[*key, *LOOKED_AT]]


def with_changes(days: pd.DataFrame) -> pd.DataFrame:
    """Add to `gate_days` what each value is above the mean of the gate's own weeks before; NaN where too few are known."""
    gate, day = _places(days)
    values = days[list(LOOKED_AT)].to_numpy(dtype=np.float64)
    grid = np.full((gate.max(initial=-1) + 1, day.max(initial=-1) + 1, len(LOOKED_AT)), np.nan)
    grid[gate, day] = np.where(np.isfinite(values), values, np.nan)
    known = np.isfinite(grid)
    until = [np.insert(np.cumsum(one, axis=1), 0, 0, axis=1) for one in (np.where(known, grid, 0.0), known)]
    first, end = (np.maximum(day - ago, 0) for ago in (BEFORE_DAYS - 1, FLEET_DAYS - 1))
    total, n = (one[gate, end] - one[gate, first] for one in until)
    change = values - np.where(n >= FEWEST_BEFORE, total / np.maximum(n, 1), np.nan)
    return pd.concat([days, pd.DataFrame(change, columns=list(COMPARED[len(LOOKED_AT) :]), index=days.index)], axis="columns")


def learn(days: pd.DataFrame, seed: int = 0) -> Reference | None:
    """Make the reference of `gate_days` of the gates learnt from; None where they are too few gates or weeks to tell."""
    gate, day = _places(days)
    week, n_weeks, n_gates = day // 7, (day.max(initial=0) + 1) // 7, gate.max(initial=-1) + 1
    if n_weeks < FEWEST_WEEKS or n_gates < FEWEST_GATES:
        return None
    values = with_changes(days)[list(COMPARED)].to_numpy(dtype=np.float64)
    inner = np.arange(1, BINS) / BINS
    known = [column[np.isfinite(column)] for column in values.T]
    edges = np.array([np.quantile(some, inner) if len(some) else np.zeros(BINS - 1) for some in known])
    bins = _bins(values, edges)
    total = count(bins) + 0.5
    shares = total / total.sum(axis=1, keepdims=True)
    weekly = _weekly(bins, gate, week, (n_weeks, n_gates, *shares.shape))
    of_gate = weekly.sum(axis=(0, 3)) > 0
    reporting = of_gate.sum(axis=0) / max(of_gate.any(axis=1).sum(), 1)
    rng = np.random.default_rng(seed)
    half = len(LOOKED_AT)
    looked_at = [_usual(weekly[:, :, :half], fleet, shares[:half], rng, put_back=True) for fleet in FLEETS]
    changes = [_usual(weekly[:, :, half:], fleet, shares[half:], rng, put_back=False) for fleet in FLEETS]
    usual = np.concatenate([np.stack(looked_at, axis=1), np.stack(changes, axis=1)], axis=2)
    return Reference(edges, shares, reporting, usual, _usual_gate(bins[:, :half], gate, week, shares[:half]))


def count(bins: Bins) -> IntArray:
    """How many values are in each bin, shape (features, BINS)."""
    return np.array([np.bincount(column[column != UNKNOWN], minlength=BINS) for column in bins.T], dtype=np.int64)


def statistics(counts: npt.NDArray[Any], shares: FloatArray) -> tuple[FloatArray, FloatArray]:
    """PSI over pairs of bins, and the greatest distance of the distributions at an edge; over the last axis."""
    smooth = counts + 0.5
    found = smooth / smooth.sum(axis=-1, keepdims=True)
    shown, expected = (share.reshape(*share.shape[:-1], BINS // 2, 2).sum(axis=-1) for share in (found, shares))
    psi = ((shown - expected) * np.log(shown / expected)).sum(axis=-1)
    return psi, np.abs(np.cumsum(found, axis=-1) - np.cumsum(shares, axis=-1)).max(axis=-1)


def _places(days: pd.DataFrame) -> tuple[IntArray, IntArray]:
    """Number of each row's gate, and of its day since the first one."""
    day = epoch_ms(days["as_of"]) // DAY_MS
    return pd.factorize(days["gate_id"])[0].astype(np.int64), day - day.min(initial=day.max(initial=0))


def _bins(values: FloatArray, edges: FloatArray) -> Bins:
    found = [np.searchsorted(of_feature, column) for of_feature, column in zip(edges, values.T, strict=True)]
    return np.where(np.isfinite(values), np.column_stack(found), UNKNOWN).astype(np.uint8)


def _together(counts: IntArray, shares: FloatArray) -> tuple[float, float]:
    """The statistics of all features in one: their bins are of equal shares, so that they may be added."""
    n = counts.sum(axis=1)
    expected = (n[:, None] * shares).sum(axis=0) / max(n.sum(), 1)
    psi, ks = statistics(counts.sum(axis=0), expected) if n.sum() else (np.nan, np.nan)
    return float(psi), float(ks)


def _weekly(bins: Bins, gate: IntArray, week: IntArray, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Counts of each whole week of each gate, shape (weeks, gates, features, BINS)."""
    weeks, gates, features, _ = shape
    found = np.zeros(shape, dtype=np.uint8)
    for place in range(features):
        use = (bins[:, place] != UNKNOWN) & (week < weeks)
        cell = np.ravel_multi_index((week[use], gate[use], bins[use, place]), (weeks, gates, BINS))
        found[:, :, place] = np.bincount(cell, minlength=weeks * gates * BINS).reshape(weeks, gates, BINS)
    return found


def _usual(
    weekly: npt.NDArray[np.uint8], n_gates: int, shares: FloatArray, rng: np.random.Generator, put_back: bool
) -> FloatArray:
    """Upper quantiles of the statistics of fleets of so many gates, each drawn from one week; shape (2, features, levels).

    The weeks beside it lend their blocks, so that a week's own chance does not decide. In what is looked at gates differ for
    good, those learnt from too: of that fewer are drawn, put back, so that the spread is that of both samples, 1/n + 1/N. In
    changes they do not, and a block drawn twice would only add noise.
    """
    there = weekly.sum(axis=(2, 3)) > 0
    of_week = there.sum(axis=1)
    full, found = np.flatnonzero(of_week > 0.8 * of_week.max()), []
    fewer = max(round(n_gates * of_week.max() / (n_gates + of_week.max())), 1)
    for week, times in zip(full, rng.multinomial(RESAMPLES, np.full(len(full), 1 / len(full))), strict=True):
        beside = full[np.abs(full - week) <= 1]
        blocks = np.concatenate([weekly[one][there[one]] for one in beside]).astype(np.float32)
        if put_back:
            drawn = rng.multinomial(fewer, np.full(len(blocks), 1 / len(blocks)), size=times).astype(np.float32)
        else:
            drawn = (rng.random((times, len(blocks))).argsort(axis=1) < n_gates).astype(np.float32)
        counts = (drawn @ blocks.reshape(len(blocks), -1)).reshape(times, *shares.shape)
        found.append(np.stack(statistics(counts, shares)))
    return np.moveaxis(np.quantile(np.concatenate(found, axis=1), 1 - np.array(LEVELS), axis=1), 0, -1)


def _usual_gate(bins: Bins, gate: IntArray, week: IntArray, shares: FloatArray) -> FloatArray:
    """Upper quantiles of one gate's statistics over four weeks, shape (2, levels); endless where no gate has enough values."""
    blocks = pd.Series(range(len(gate))).groupby([gate, week // (GATE_DAYS // 7)]).indices.values()
    counts = [count(bins[rows]) for rows in blocks]
    found = [_together(one, shares) for one in counts if one.sum() >= FEWEST_VALUES]
    if not found:
        return np.full((2, len(LEVELS)), np.inf)
    return np.asarray(np.quantile(np.array(found), 1 - np.array(LEVELS), axis=0).T)


def _at_size(size: float, sizes: FloatArray, usual: FloatArray) -> FloatArray:
    """Upper quantiles at a size of fleet between those drawn, on logarithmic scales."""
    return np.exp([np.interp(size, sizes, np.log(of_level)) for of_level in usual.T])


def _judge(n: int, psi: float, ks: float, usual: Sequence[FloatArray]) -> Compared:
    p = min(1.0, 2.0 * min(_chance(value, quantiles) for value, quantiles in zip((psi, ks), usual, strict=True)))
    return Compared(n, psi, ks, float(usual[0][AT_1_PERCENT]), float(usual[1][AT_1_PERCENT]), p)


def _chance(value: float, quantiles: FloatArray) -> float:
    """Chance of a value so great; beyond the last quantile the tail is taken as exponential."""
    logs = np.log(LEVELS)
    if value > quantiles[-1]:
        step = max(float(quantiles[-1] - quantiles[AT_1_PERCENT]), 1e-9)
        return float(np.exp(logs[-1] - (value - quantiles[-1]) / step * (logs[AT_1_PERCENT] - logs[-1])))
    return 1.0 if value <= quantiles[0] else float(np.exp(np.interp(value, quantiles, logs)))


def _hochberg(found: Sequence[Compared]) -> list[Compared]:
    """Mark what has drifted, so that of what is marked on average no more than `FALSE_SHARE` is so by chance."""
    p = np.sort([one.p for one in found if one.enough])
    passed = np.flatnonzero(p <= FALSE_SHARE * np.arange(1, len(p) + 1) / max(len(p), 1))
    limit = p[passed[-1]] if len(passed) else -1.0
    return [replace(one, drifted=bool(one.enough and one.p <= limit)) for one in found]


def _short(values: FloatArray) -> Any:
    finite = np.nan_to_num(values, posinf=1e300)  # JSON has no word for what is endless
    return np.vectorize(lambda x: float(f"{x:.4g}"))(finite).tolist()
