"""Is this channel believable? Sensor health before asset health, in NE 107 words. No network, no database, no clock.

A bad sensor must never be reported as a bad gate. What each day tells of a channel (`pipeline.operations`) is compared with the
channel's own first days after the last repair, and with its siblings: a gate that has stood for hours shows the same
temperature everywhere, and a vibration sensor shows its own floor. Verdicts on a day use nothing later than that day.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.operations import SCALED
from pipeline.readings import DAY_MS, QUANTITIES, quantity_of

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

KINDS: Mapping[str, str] = {
    "stale": "failure",
    "stuck": "failure",
    "unit_slip": "failure",
    "clipping": "out_of_specification",
    "loose_mount": "maintenance_required",
    "drift": "out_of_specification",
    "dropout": "maintenance_required",
    "spikes": "maintenance_required",
}
"""What can be wrong with a channel, the graver first, and the word NAMUR NE 107 has for such a state."""

MASKED = ("stuck", "unit_slip", "clipping", "loose_mount", "drift")
"""Kinds that spoil the values themselves. A stale channel has none, gaps hide nothing, and lone spikes are taken out."""

VIBRATION = ("velocity_rms", "acceleration_rms")
FIT_AGES_D = (10, 15, 20, 30)
"""A channel's reference is fitted anew at these ages of the cycle (days), and is final at 30; before 10 there is none."""

OPERATIONS = 5
"""Most faults are judged over the days that hold this many operations, one day at least and `MOST_DAYS` at most."""

MOST_DAYS = 14
STALE_INTERVALS, DROPOUT_PATIENCE = 2.0, 4.0
"""A channel is stale after so many intervals of silence; one that is known to drop out, after so many times as long."""

SAME_SAMPLES, SAME_OPERATIONS = 8, 3
"""A channel is stuck when its newest value came so many times in a row, all through so many operations."""

COARSE_SAMPLES = 40
"""As `SAME_SAMPLES`, of a sensor that shows about the same in motion as at rest; through `OPERATIONS` of them."""

MISSING_SHARE, EXPECTED_SAMPLES = 0.15, 40.0
"""Readings drop out when a greater share of at least so many is missing than is missing elsewhere in the gate."""

AT_TOP_SAMPLES, AT_TOP_SHARE = 4.0, 0.12
ENOUGH_IN_MOTION, FINE_REPEATS = 10.0, 0.3
"""A channel is clipped when so many samples, and such a share of those in motion, equal the highest; it is told from so many in
motion. A sensor is fine when its highest value comes again less than this often a day."""

SPIKES, SPIKE_SHARE = 3.0, 0.02
"""Fewest spikes of an accelerometer, one fewer of others, and the least share of its samples."""

DRIFT_K, DRIFT_LOG = 3.0, 0.2
"""How far a thermometer (K) or a gain (log) moves at rest before it has drifted."""

LOOSE_LOG = 0.3
"""How much weaker (log) all vibration of a component is on a loose mount."""

SMOOTH_D = 5
REST_SAMPLES = 8
"""A day with fewer samples at rest is no day at rest."""

_SPOILS = np.array([*(kind in MASKED for kind in KINDS), False])  # the last stands for -1, nothing found
_SPOILS_TEMPERATURE = np.array([*(kind in MASKED and kind != "drift" for kind in KINDS), False])


@dataclass(frozen=True, slots=True)
class Health:
    """Verdicts on the channels of one gate, day by day.

    Attributes
    ----------
    channels : keys, one for each first index below
    day_ms : the UTC days that have readings, rising; the second index
    kind : index into `KINDS` of the gravest fault as known at the end of each day, -1 where none is found
    bias_k : what a temperature shows beyond its siblings while the gate stands cold, less what it showed in its first
        days (K, median of 5 days); 0 where unknown and for other quantities
    interval_s : how often the channel reports at rest, as known each day; NaN where it does not
    seen_ms : its newest reading up to the end of each day
    """

    channels: tuple[str, ...]
    day_ms: Ints
    kind: npt.NDArray[np.int8]
    bias_k: Floats
    interval_s: Floats
    seen_ms: Floats

    def kinds_at(self, as_of_ms: Ints) -> npt.NDArray[np.int8]:
        """Index into `KINDS` of what is wrong with each channel as of each instant, -1 where nothing is found.

        A channel is stale when it has said nothing for two of its intervals while another one did; one that reports in motion
        only, when the other channels told of operations and it did not.
        """
        row = np.searchsorted(self.day_ms, as_of_ms, side="left") - 1
        if not len(self.day_ms):
            return np.full((len(self.channels), len(as_of_ms)), -1, dtype=np.int8)
        silent_s = (as_of_ms - self.seen_ms[:, row]) / 1000.0
        # where readings drop out, two that are missing in a row say nothing new
        patience = np.where(self.kind[:, row] == tuple(KINDS).index("dropout"), DROPOUT_PATIENCE, 1.0)
        stale = silent_s > patience * STALE_INTERVALS * self.interval_s[:, row]
        # where all are silent it is the gate or its gateway, and that is told of the gate
        stale &= (np.isfinite(self.interval_s[:, row]) & ~stale).any(axis=0)
        kinds = np.where(stale, tuple(KINDS).index("stale"), self.kind[:, row])
        return np.where(row >= 0, kinds, -1).astype(np.int8)

    def at(self, as_of_ms: int) -> dict[str, str]:
        """The faulty channels as of an instant, each with its kind."""
        kinds = self.kinds_at(np.array([as_of_ms], dtype=np.int64))[:, 0]
        names = tuple(KINDS)
        return {channel: names[kind] for channel, kind in zip(self.channels, kinds.tolist(), strict=True) if kind >= 0}

    def believable(self, channel: str) -> Bools:
        """On which days the channel's values may be used; a thermometer that drifts may, less its bias."""
        spoils = _SPOILS_TEMPERATURE if quantity_of(channel) == "temperature" else _SPOILS
        return np.asarray(~spoils[self.kind[self.channels.index(channel)]])

    def believable_days(self) -> Bools:
        """The same for every channel, shape (channels, days)."""
        return np.array([self.believable(channel) for channel in self.channels], dtype=bool).reshape(self.kind.shape)


def read_lost(text: str) -> dict[str, str]:
    """Channels and kinds of a forecast row's ``lost``.

    Examples
    --------
    >>> read_lost("gearbox.oil.temperature: drift; motor.velocity_rms: stuck")
    {'gearbox.oil.temperature': 'drift', 'motor.velocity_rms': 'stuck'}
    """
    told = [part.rpartition(": ") for part in text.split("; ") if part]
    return {channel: kind for channel, _, kind in told}


CycleStarts = Callable[[str, Ints], Ints]
"""When a component's cycle started (epoch ms) as of each of some instants."""


def assess(days: pd.DataFrame, started_ms: Ints, cycle_starts: CycleStarts, intervals_s: Mapping[str, float]) -> Health:
    """Judge every channel of a gate on every day that has readings.

    Parameters
    ----------
    days : DataFrame
        As `pipeline.operations.Segmented` gives them.
    started_ms : starts of the operations, rising
    cycle_starts : see `pipeline.cycles.cycle_state`
    intervals_s : expected reporting intervals at rest, by channel; learnt from the channel's own days where not given
    """
    day_ms = days["day_ms"].to_numpy(dtype=np.int64)
    channels = tuple(name.removesuffix(":seen_ms") for name in days.columns if name.endswith(":seen_ms"))
    if not len(channels) or not len(day_ms):
        empty = np.zeros((len(channels), len(day_ms)))
        return Health(channels, day_ms, empty.astype(np.int8) - 1, empty, np.full_like(empty, np.nan), empty)
    table = _Table(days, channels)
    operations = np.diff(np.searchsorted(started_ms, np.append(day_ms, day_ms[-1] + DAY_MS)))
    window = _window_starts(operations, OPERATIONS)
    component_of = np.array([channel.partition(".")[0] for channel in channels])
    cycles = {name: cycle_starts(name, day_ms + DAY_MS) for name in sorted(set(component_of.tolist()))}
    fits = _fits(day_ms, cycles, component_of)
    quantity = np.array([quantity_of(channel) for channel in channels])

    habits = _habits(table, fits)
    bias_k, drift = _drift(table, quantity, fits)
    found = {
        "stuck": _stuck(table, quantity, fits),
        "unit_slip": _unit_slip(table, quantity, fits),
        "clipping": _clipping(table, quantity, operations, fits),
        "loose_mount": _loose(table, quantity, component_of, fits),
        "drift": drift,
        "dropout": _dropout(table, window, habits),
        "spikes": _spikes(table, quantity, operations, fits),
    }
    kind = np.full((len(channels), len(day_ms)), -1, dtype=np.int8)
    for number, name in reversed(list(enumerate(KINDS))):
        if name in found:
            kind[found[name]] = number
    silent_in_motion = _silent_in_motion(table, habits)
    kind[silent_in_motion] = 0
    seen = np.maximum.accumulate(np.nan_to_num(table["seen_ms"], nan=-np.inf), axis=1)
    return Health(channels, day_ms, kind, bias_k, _intervals(table, channels, intervals_s), seen)


class _Table:
    """The days' columns as arrays of shape (channels, days), NaN where a channel does not have them."""

    def __init__(self, days: pd.DataFrame, channels: Sequence[str]) -> None:
        self._days = days.to_numpy(dtype=np.float64).T
        self._place = {name: place for place, name in enumerate(days.columns)}
        self._channels = channels
        self._counts: dict[str, Floats] = {}
        self._usual: dict[str, Floats] = {}
        self._made: dict[str, Floats] = {}
        # a handful of samples between two operations is no day at rest
        self._made["rest"] = np.where(self.count("n_rest") >= REST_SAMPLES, self["rest"], np.nan)

    def __getitem__(self, told: str) -> Floats:
        if told not in self._made:
            places = np.array([self._place.get(f"{channel}:{told}", -1) for channel in self._channels])
            self._made[told] = np.where((places >= 0)[:, None], self._days[places], np.nan)
        return self._made[told]

    def count(self, told: str) -> Floats:
        """A column of counts: 0 on days without it."""
        if told not in self._counts:
            self._counts[told] = np.where(np.isnan(self[told]), 0.0, self[told])
        return self._counts[told]

    def usual(self, told: str, fits: _Fits) -> Floats:
        """Median of each cycle's first days; several kinds of fault are measured by it."""
        if told not in self._usual:
            self._usual[told] = _reference(self[told], fits, _median)
        return self._usual[told]


@dataclass(frozen=True, slots=True)
class _Fits:
    """Which references there are, and which one is for which channel and day.

    Attributes
    ----------
    channel, since, until : for every reference its channel, and the first and the end of the rows of days it is made from
    of_day : index of the reference for each channel and day, -1 where there is none yet
    """

    channel: Ints
    since: Ints
    until: Ints
    of_day: Ints

    def made_from(self, values: Floats) -> Floats:
        """The values of each reference's days, shape (references, most days of one); NaN beyond its own days."""
        rows = self.since[:, None] + np.arange(int((self.until - self.since).max(initial=0)))
        return np.where(rows < self.until[:, None], values[self.channel[:, None], np.minimum(rows, values.shape[1] - 1)], np.nan)

    def spread(self, references: Floats) -> Floats:
        """References where they are for: shape (channels, days)."""
        return np.append(references, np.nan)[self.of_day]


def _fits(day_ms: Ints, cycles: Mapping[str, Ints], component_of: npt.NDArray[np.str_]) -> _Fits:
    """For every cycle and age at which references are fitted: whose, for which days, from which."""
    channel, since, until = [], [], []
    of_day = np.full((len(component_of), len(day_ms)), -1, dtype=np.int64)
    found = 0
    for component, start in cycles.items():
        own = np.flatnonzero(component_of == component)
        age = np.searchsorted(FIT_AGES_D, (day_ms + DAY_MS - start) / DAY_MS, side="right") - 1
        changes = np.append(True, (age[1:] != age[:-1]) | (start[1:] != start[:-1]))
        first = np.flatnonzero(changes & (age >= 0))
        number = np.cumsum(changes & (age >= 0)) - 1
        ages_ms = np.array(FIT_AGES_D)[age[first]] * DAY_MS
        channel.append(np.repeat(own, len(first)))
        since.append(np.tile(np.searchsorted(day_ms, start[first]), len(own)))
        until.append(np.tile(np.searchsorted(day_ms, start[first] + ages_ms), len(own)))
        offsets = found + np.arange(len(own)) * len(first)
        of_day[own] = np.where(age >= 0, offsets[:, None] + number, -1)
        found += len(own) * len(first)
    return _Fits(np.concatenate(channel), np.concatenate(since), np.concatenate(until), of_day)


def _reference(values: Floats, fits: _Fits, of: Callable[[Floats], Floats]) -> Floats:
    """Statistic `of` the first days of each cycle, for every day that has one; NaN for the others."""
    return fits.spread(of(fits.made_from(values)))


def quantile(values: Floats, share: float) -> Floats:
    """Quantile (nearest rank) of the finite values of each row; NaN where a row has none."""
    ordered = np.sort(values, axis=1)
    counts = np.isfinite(values).sum(axis=1)
    at = np.maximum(np.ceil(share * counts).astype(int) - 1, 0)
    if not values.shape[1]:
        return np.full(len(values), np.nan)
    return np.where(counts > 0, ordered[np.arange(len(values)), at], np.nan)


def _median(values: Floats) -> Floats:
    return quantile(values, 0.5)


def _scatter(values: Floats) -> Floats:
    return np.asarray(1.4826 * _median(np.abs(values - _median(values)[:, None])))


def _trailing(values: Floats, days: int, of: Callable[[Floats], Floats]) -> Floats:
    """Statistic `of` the last rows up to each day; of fewer at the beginning."""
    return of(_last_days(values, days).reshape(-1, days)).reshape(values.shape)


def _last_days(values: Floats, days: int) -> Floats:
    """The rows up to each day, the newest last, as a third axis; NaN before the first."""
    padded = np.full((len(values), values.shape[1] + days - 1), np.nan)
    padded[:, days - 1 :] = values
    return sliding(padded, days)


def _days_back(values: Floats, days: int) -> list[Floats]:
    """The rows of each day, of the day before it, and so on; NaN before the first."""
    padded = np.full((len(values), values.shape[1] + days - 1), np.nan)
    padded[:, days - 1 :] = values
    return [padded[:, days - 1 - lag : padded.shape[1] - lag] for lag in range(days)]


def _trailing_mean(values: Floats, days: int) -> Floats:
    """Mean of the last rows up to each day; of fewer at the beginning."""
    known = np.isfinite(values)
    total, count = np.zeros(values.shape), np.zeros(values.shape)
    filled = np.where(known, values, 0.0)
    for lag in range(min(days, values.shape[1]) - 1, -1, -1):
        total[:, lag:] += filled[:, : values.shape[1] - lag]
        count[:, lag:] += known[:, : values.shape[1] - lag]
    return np.where(count > 0, total / np.maximum(count, 1.0), np.nan)


def sliding(values: Floats, length: int) -> Floats:
    """All stretches of `length` along the last axis of a contiguous array, as one more axis; a view, not to be written to.

    numpy's `sliding_window_view` takes longer to make one than most statistics take to be made of it.
    """
    shape = (*values.shape[:-1], values.shape[-1] - length + 1, length)
    return np.ndarray(shape, np.float64, values, strides=(*values.strides, values.strides[-1]))


def _window_starts(operations: Ints, enough: int) -> Ints:
    """For each day the latest one from which on `enough` operations were made, or `MOST_DAYS` before where fewer were."""
    before = np.concatenate([[0], np.cumsum(operations)])
    rows = np.arange(len(operations))
    start = np.searchsorted(before, before[1:] - enough, side="right") - 1
    return np.asarray(np.maximum(np.maximum(start, rows - MOST_DAYS + 1), 0), dtype=np.int64)


def _sum(counts: Floats, window: Ints) -> Floats:
    """Sum over each day's window."""
    total = np.concatenate([np.zeros((len(counts), 1)), np.cumsum(counts, axis=1)], axis=1)
    return np.asarray(total[:, 1:] - total[:, window])


def _stuck(table: _Table, quantity: npt.NDArray[np.str_], fits: _Fits) -> Bools:
    """The last value came again and again, through several operations, or all day where such days are not its habit.

    A coarse sensor that shows about the same in motion as at rest may well repeat itself, but not for ever.
    """
    n = table.count("n_op") + table.count("n_rest")
    same, same_ops, last = table.count("same"), table.count("same_ops"), table["last"]
    rows = np.arange(last.shape[1])
    told = np.maximum.accumulate(np.where(np.isfinite(last), rows, 0), axis=1)
    last = np.take_along_axis(last, told, axis=1)
    before = np.concatenate([np.full((len(last), 1), np.nan), last[:, :-1]], axis=1)
    goes_on = (same == n) & ((last == before) | (n == 0))
    since = np.maximum.accumulate(np.where(goes_on, 0, rows), axis=1)

    def run(counts: Floats) -> Floats:
        total = np.cumsum(counts, axis=1)
        return np.asarray(total - np.take_along_axis(total - counts, since, axis=1))

    flat = _reference(table["flat"], fits, _mean)
    all_day = (rows > since) & (flat < 0.05) & (table.count("n_rest") > 0) & ~np.isin(quantity, SCALED)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        contrast = np.log(table.usual("move", fits) / table.usual("rest", fits))
    telling = ~np.isin(quantity, SCALED)[:, None] | ~(np.abs(contrast) < 1.0)
    needed = np.where(telling, SAME_SAMPLES, COARSE_SAMPLES)
    moved = run(same_ops) >= np.where(telling, SAME_OPERATIONS, OPERATIONS)
    return ((run(same) >= needed) & moved) | ((run(same) >= SAME_SAMPLES) & all_day)


def _mean(values: Floats) -> Floats:
    known = np.isfinite(values)
    count = known.sum(axis=1)
    return np.where(count > 0, np.where(known, values, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)


def _unit_slip(table: _Table, quantity: npt.NDArray[np.str_], fits: _Fits) -> Bools:
    """All values are what the channel used to show, in another accepted unit of its quantity."""
    move, rest = table["move"], table["rest"]
    usual_move, usual_rest = table.usual("move", fits), table.usual("rest", fits)
    slipped = np.zeros(move.shape, dtype=bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        usual = np.abs(np.log(move / usual_move)) < 0.7
    siblings = _siblings(table, quantity)
    for name in sorted(set(quantity.tolist()) & set(QUANTITIES)):
        own = np.flatnonzero(quantity == name)
        for conversion in QUANTITIES[name].accepted.values():
            if conversion.factor == 1.0 and conversion.offset == 0.0:
                continue
            if name.endswith("temperature"):
                cold = np.where(np.isfinite(siblings[own]), siblings[own], usual_rest[own])
                slipped[own] |= _is_near((cold - conversion.offset) / conversion.factor, rest[own], cold)
                continue
            moves = _is_scaled(move[own], usual_move[own], conversion.factor)
            if not moves.any():
                continue
            rests = _is_scaled(rest[own], usual_rest[own], conversion.factor, slack=0.9)
            stepped = _since_a_step(moves, usual[own], np.isfinite(move[own]))
            slipped[own] |= stepped & (rests | ~(usual_rest[own] > 0) | np.isnan(rest[own]))
    return slipped


def _since_a_step(now: Bools, before: Bools, told: Bools) -> Bools:
    """Days on which `now` holds and has held since a day right after one that was `before`; nothing wears out in one step.

    Days without a value (not `told`) are skipped, and say what the day before them said.
    """
    rows = np.arange(now.shape[1])
    broken = np.maximum.accumulate(np.where(told & ~now, rows, -1), axis=1)
    stepped = now & (broken >= 0) & np.take_along_axis(before, np.maximum(broken, 0), axis=1)
    newest = np.maximum.accumulate(np.where(told, rows, -1), axis=1)
    return np.asarray((newest >= 0) & np.take_along_axis(stepped, np.maximum(newest, 0), axis=1))


def _is_near(expected: Floats, shown: Floats, usual: Floats) -> Bools:
    return (np.abs(shown - expected) < 8.0) & (np.abs(shown - usual) > 15.0)


def _is_scaled(shown: Floats, usual: Floats, factor: float, slack: float = 0.7) -> Bools:
    with np.errstate(divide="ignore", invalid="ignore"):
        step = np.log(shown / usual)
    return np.asarray(np.abs(step + np.log(factor)) < min(slack, np.abs(np.log(factor)) / 2))


def _siblings(table: _Table, quantity: npt.NDArray[np.str_]) -> Floats:
    """For each thermometer what the others show while the gate stands cold: their median."""
    warm = np.flatnonzero((quantity == "temperature") | (quantity == "ambient_temperature"))
    out = np.full(table["rest"].shape, np.nan)
    for row in warm:
        others = warm[warm != row]
        if len(others):
            out[row] = _median(table["rest"][others].T)
    return out


def _clipping(table: _Table, quantity: npt.NDArray[np.str_], operations: Ints, fits: _Fits) -> Bools:
    """Nothing goes above one value, which comes again and again; and that is not this channel's habit.

    A fine sensor hardly shows its highest value twice, on one day or two. A coarse one does: it must do so far more often than at
    first, on several days, and at a value that is low for it.
    """
    top, at_top, n = table["top"], table.count("at_top"), table.count("n_op")
    repeats = _reference(np.where(n > 0, at_top - 1.0, np.nan), fits, _mean)
    clipped = np.zeros(top.shape, dtype=bool)
    for enough in (OPERATIONS, 3 * OPERATIONS):
        window = _window_starts(operations, enough)
        highest, times, days = _at_the_top(top, at_top, window)
        in_motion = _sum(n, window)
        share = np.where(in_motion >= ENOUGH_IN_MOTION, times / np.maximum(in_motion, 1.0), np.nan)
        fine = (repeats < FINE_REPEATS) | ((repeats < 1.0) & (days >= 2) & (_reference(days, fits, _greatest) <= 1.0))
        habit = _reference(share, fits, _greatest)
        low = highest <= _reference(highest, fits, lambda values: quantile(values, 0.15))
        coarse = low & (days >= 3) & (share >= 3.0 * habit + 0.05)
        clipped |= (fine | coarse) & (times >= AT_TOP_SAMPLES) & (share >= AT_TOP_SHARE)
    # the air may well be as warm from one operation to the next
    return np.asarray(clipped & (quantity != "ambient_temperature")[:, None])


def _greatest(values: Floats) -> Floats:
    return quantile(values, 1.0)


def _at_the_top(top: Floats, at_top: Floats, window: Ints) -> tuple[Floats, Floats, Floats]:
    """Over each day's window: the highest value in motion, how many samples equal it, and on how many days some do."""
    rows = np.arange(top.shape[1])
    # one day back after the other: far quicker than a statistic of each short window
    inside = [rows - lag >= window for lag in range(MOST_DAYS)]
    tops, times_a_day = _days_back(top, MOST_DAYS), _days_back(at_top, MOST_DAYS)
    highest, times, days = np.full(top.shape, np.nan), np.zeros(top.shape), np.zeros(top.shape)
    for told, back in zip(inside, tops, strict=True):
        highest = np.where(told, np.fmax(highest, back), highest)
    for told, back, times_then in zip(inside, tops, times_a_day, strict=True):
        equal = told & (back == highest)
        times += np.where(equal, times_then, 0.0)
        days += equal
    return highest, times, days


def _loose(table: _Table, quantity: npt.NDArray[np.str_], component_of: npt.NDArray[np.str_], fits: _Fits) -> Bools:
    """All vibration of one component is weaker, at rest as well: no machine gets quieter than its own floor."""
    at_rest = _log_change(table, "rest", fits, 2)
    moving, moving_7d = _log_change(table, "move", fits, 3), _log_change(table, "move", fits, 7)
    loose = np.zeros(at_rest.shape, dtype=bool)
    for name in sorted(set(component_of.tolist())):
        mounted = (component_of == name) & np.isin(quantity, VIBRATION)
        if not mounted.any():
            continue
        shown = np.where(np.isfinite(at_rest[mounted]), at_rest[mounted], np.nan)
        told = np.isfinite(shown).any(axis=0)
        with np.errstate(invalid="ignore"):
            weaker = (_mean(shown.T) < -LOOSE_LOG) & (np.nanmax(np.where(told, shown, 0.0), axis=0) < -0.4 * LOOSE_LOG)
            quieter = _mean(moving[mounted].T) < -0.8 * LOOSE_LOG
            alone = _mean(moving_7d[mounted].T) < -0.45
        shaken = (component_of == name) & np.isin(quantity, (*VIBRATION, "acceleration_peak"))
        loose[shaken] = np.where(told, weaker & quieter, alone)
    return loose


def _log_change(table: _Table, told: str, fits: _Fits, days: int) -> Floats:
    """Mean of the last days over the median of the first ones, as a log; NaN where either is not above zero."""
    usual, recent = table.usual(told, fits), _trailing_mean(table[told], days)
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.log(np.maximum(recent, 1e-9) / usual)
    return np.where(np.isfinite(change) & (usual > 0), change, np.nan)


def _drift(table: _Table, quantity: npt.NDArray[np.str_], fits: _Fits) -> tuple[Floats, Bools]:
    """Bias of the thermometers against their siblings, and which channels have moved at rest."""
    rest = table["rest"]
    warm, scaled = quantity == "temperature", np.isin(quantity, SCALED)
    values = np.full(rest.shape, np.nan)
    values[warm] = rest[warm] - _reference_temperature(table, quantity)
    with np.errstate(divide="ignore", invalid="ignore"):
        values[scaled] = np.where(rest[scaled] > 0, np.log(rest[scaled]), np.nan)
    limit = np.where(warm, DRIFT_K, DRIFT_LOG)[:, None]
    moved = _trailing(values, SMOOTH_D, _median) - _reference(values, fits, _median)
    usual = _reference(values, fits, _scatter)
    drifted = np.abs(moved) > np.fmax(limit, 4.0 * usual)
    return np.where(warm[:, None] & np.isfinite(moved), moved, 0.0), drifted


def _reference_temperature(table: _Table, quantity: npt.NDArray[np.str_]) -> Floats:
    """What a gate that stands cold has for its temperature: the median of its thermometers; of two, the house's own."""
    rest = table["rest"]
    warm = np.isin(quantity, ("temperature", "ambient_temperature"))
    ambient = quantity == "ambient_temperature"
    if warm.sum() >= 3:
        return _median(rest[warm].T)[None, :]
    return _median(rest[ambient].T)[None, :] if ambient.any() else np.full((1, rest.shape[1]), np.nan)


Habits = tuple[Floats, Floats, Floats, Floats]


def _habits(table: _Table, fits: _Fits) -> Habits:
    """How many samples the gate's busiest channel has each day in motion and at rest, and which share of them is each one's."""
    n_op, n_rest = table.count("n_op"), table.count("n_rest")
    most_op, most_rest = n_op.max(axis=0), n_rest.max(axis=0)
    shares = []
    for n, most in ((n_op, most_op), (n_rest, most_rest)):
        total = np.append(0.0, np.cumsum(most))
        of_all = total[fits.until] - total[fits.since]
        shares.append(fits.spread(np.nansum(fits.made_from(n), axis=1) / np.maximum(of_all, 1.0)))
    return most_op, most_rest, shares[0], shares[1]


def _dropout(table: _Table, window: Ints, habits: Habits) -> Bools:
    """A good part of the samples is missing that the gate's other channels have."""
    most_op, most_rest, usual_op, usual_rest = habits
    expected = usual_op * _sum(most_op[None, :], window) + usual_rest * _sum(most_rest[None, :], window)
    came = _sum(table.count("n_op") + table.count("n_rest"), window)
    return (expected >= EXPECTED_SAMPLES) & (came < (1.0 - MISSING_SHARE) * expected)


def _silent_in_motion(table: _Table, habits: Habits) -> Bools:
    """A channel that reports in motion only has missed the last day's operations."""
    most_op, _, usual_op, usual_rest = habits
    return np.asarray((usual_rest < 0.3) & (usual_op * most_op[None, :] >= SAME_SAMPLES) & (table.count("n_op") == 0))


def _spikes(table: _Table, quantity: npt.NDArray[np.str_], operations: Ints, fits: _Fits) -> Bools:
    """More lone spikes than the channel's habit, over the last operations or, where they are rarer, over three times as many.

    One accelerometer in a good machine shows a spike now and then; a motor that draws a rush at each start always does.
    """
    spikes, n = table.count("spikes"), table.count("n_spiky")
    usual = _reference(spikes, fits, _mean) / np.maximum(_reference(n, fits, _mean), 1.0)
    fewest = np.where(np.isin(quantity, VIBRATION), SPIKES, SPIKES - 1.0)[:, None]
    found = np.zeros(spikes.shape, dtype=bool)
    for enough, more in ((OPERATIONS, 0.0), (3 * OPERATIONS, 1.0)):
        window = _window_starts(operations, enough)
        times, share = _sum(spikes, window), _sum(spikes, window) / np.maximum(_sum(n, window), 1.0)
        found |= (times >= fewest + more) & (share >= np.fmax(SPIKE_SHARE, 3.0 * np.nan_to_num(usual)))
    return found


def _intervals(table: _Table, channels: Sequence[str], given_s: Mapping[str, float]) -> Floats:
    """How often each channel reports at rest (s) as known each day: as declared, else by its last month; NaN where never."""
    n_rest = table.count("n_rest")
    a_day = _trailing(np.where(n_rest > 0, n_rest, np.nan), 30, _median)
    resting = (_trailing_mean((n_rest > 0).astype(float), 30) > 0.5) & (a_day >= 4)
    declared = np.array([given_s.get(channel, np.nan) for channel in channels])[:, None]
    interval_s = np.where(np.isfinite(declared), declared, 86_400.0 / np.maximum(a_day, 1.0))
    return np.where(resting, interval_s, np.nan)
