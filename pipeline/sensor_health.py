"""Is this channel believable? Sensor health before asset health, in NE 107 words. No network, no database, no clock.

A bad sensor must never be reported as a bad gate. What each day tells of a channel (`pipeline.operations`) is compared with the
channel's own first days after the last repair, and with its siblings: a gate that has stood for hours shows the same
temperature everywhere, and a vibration sensor shows its own floor. Verdicts on a day use nothing later than that day.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from pipeline.channel_days import (
    Bools,
    Floats,
    GateDays,
    Ints,
    Table,
    beside,
    days_back,
    greatest,
    last_days,
    mean,
    median,
    scatter,
    trailing_mean,
    window_sum,
)
from pipeline.operations import SCALED
from pipeline.readings import QUANTITIES

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
OPERATIONS = 5
"""Most faults are judged over the days that hold this many operations, one day at least and `MOST_DAYS` at most."""

STALE_INTERVALS, DROPOUT_PATIENCE = 2.0, 4.0
"""A channel is stale after so many intervals of silence; one that is known to drop out, after so many times as long."""

SAME_SAMPLES, SAME_OPERATIONS = 8, 3
"""A channel is stuck when its newest value came so many times in a row, all through so many operations."""

COARSE_SAMPLES = 40
"""As `SAME_SAMPLES`, of a sensor that shows about the same in motion as at rest; through `OPERATIONS` of them."""

MISSING_SHARE, EXPECTED_SAMPLES = 0.15, 40.0
"""Readings drop out when a greater share of at least so many is missing than is missing elsewhere in the gate."""

AT_TOP_SHARE, ENOUGH_IN_MOTION = 0.1, 10.0
REPEATS, REPEATS_BY_CHANCE = 0.1, 1e-3
"""A channel is clipped when such a share of its samples in motion, of so many at least, equal the highest, more than ever in its
first days, and when so many repeats of a day's highest value are that unlikely with twice as many as usual. Of any good sensor's
highest values so many may be repeats, each day."""

SPIKES, SPIKES_BY_CHANCE = 2.0, 5e-4
SPIKE_SHARE, SHAKEN_SPIKE_SHARE = 0.0003, 0.002
"""Fewest spikes, and how unlikely so many must be with half as many again as usual. Of any good sensor's samples such a share may
be spikes, of an accelerometer's the greater one."""

DRIFT_K, DRIFT_LOG = 3.0, 0.2
"""How far a thermometer (K) or a gain (log) moves at rest before it has drifted."""

LOOSE_LOG = 0.3
"""How much weaker (log) all vibration of a component is on a loose mount."""

SMOOTH_D = 5

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
    believable : whether the channel's values of that day may be used; those of a thermometer that drifts may, less its bias
    bias_k : what a temperature shows beyond its siblings while the gate stands cold, less what it showed in its first
        days (K, median of 5 days); 0 where unknown and for other quantities
    seen_ms : its newest reading up to the end of each day
    n_rest : its samples at rest
    declared_s : its reporting interval at rest, NaN where none is declared; no second index
    """

    channels: tuple[str, ...]
    day_ms: Ints
    kind: npt.NDArray[np.int8]
    believable: Bools
    bias_k: Floats
    seen_ms: Floats
    n_rest: Floats
    declared_s: Floats

    def interval_s(self, place: Ints) -> Floats:
        """How often each channel reports at rest as known on some days: as declared, else by its last month; NaN where never."""
        n_rest = last_days(self.n_rest, 30)[:, place]
        a_day = median(np.where(n_rest > 0, n_rest, np.nan))
        resting = ((n_rest > 0).sum(axis=-1) / np.minimum(place + 1, 30) > 0.5) & (a_day >= 4)
        declared_s = self.declared_s[:, None]
        interval_s = np.where(np.isfinite(declared_s), declared_s, 86_400.0 / np.maximum(a_day, 1.0))
        return np.where(resting, interval_s, np.nan)

    def kinds_at(self, as_of_ms: Ints) -> npt.NDArray[np.int8]:
        """Index into `KINDS` of what is wrong with each channel as of each instant, -1 where nothing is found.

        A channel is stale when it has said nothing for two of its intervals while another one did; one that reports in motion
        only, when the other channels told of operations and it did not.
        """
        if not len(self.day_ms):
            return np.full((len(self.channels), len(as_of_ms)), -1, dtype=np.int8)
        before = np.searchsorted(self.day_ms, as_of_ms, side="left")
        day = np.maximum(before - 1, 0)
        interval_s = self.interval_s(day)
        silent_s = (as_of_ms - self.seen_ms[:, day]) / 1000.0
        # where readings drop out, two that are missing in a row say nothing new
        patience = np.where(self.kind[:, day] == tuple(KINDS).index("dropout"), DROPOUT_PATIENCE, 1.0)
        stale = silent_s > patience * STALE_INTERVALS * interval_s
        # where all are silent it is the gate or its gateway, and that is told of the gate
        stale &= (np.isfinite(interval_s) & ~stale).any(axis=0)
        kinds = np.where(stale, tuple(KINDS).index("stale"), self.kind[:, day])
        return np.where(before > 0, kinds, -1).astype(np.int8)

    def at(self, as_of_ms: int) -> dict[str, str]:
        """The faulty channels as of an instant, each with its kind."""
        kinds = self.kinds_at(np.array([as_of_ms], dtype=np.int64))[:, 0]
        names = tuple(KINDS)
        return {channel: names[kind] for channel, kind in zip(self.channels, kinds.tolist(), strict=True) if kind >= 0}


def read_lost(text: str) -> dict[str, str]:
    """Channels and kinds of a forecast row's ``lost``.

    Examples
    --------
    >>> read_lost("gearbox.oil.temperature: drift; motor.velocity_rms: stuck")
    {'gearbox.oil.temperature': 'drift', 'motor.velocity_rms': 'stuck'}
    """
    told = [part.rpartition(": ") for part in text.split("; ") if part]
    return {channel: kind for channel, _, kind in told}


def assess(gate: GateDays) -> Health:
    """Judge every channel of a gate on every day that has readings."""
    return assess_all([gate])[0]


def assess_all(gates: Sequence[GateDays]) -> list[Health]:
    """Judge several gates, each as `assess` does: some at one go cost less than one after the other."""
    told = [number for number, gate in enumerate(gates) if len(gate.days) and gate.layout.channels]
    found = dict(zip(told, _assess([gates[number] for number in told]) if told else [], strict=True))
    return [found[number] if number in found else _nothing(gate) for number, gate in enumerate(gates)]


def _nothing(gate: GateDays) -> Health:
    channels, day_ms = gate.layout.channels, gate.day_ms
    empty = np.zeros((len(channels), len(day_ms)))
    unknown = np.full(len(channels), np.nan)
    return Health(channels, day_ms, empty.astype(np.int8) - 1, empty == 0.0, empty, empty, empty, unknown)


def _assess(gates: Sequence[GateDays]) -> list[Health]:
    table = Table(gates)
    habits = _habits(table)
    bias_k, drift = _drift(table)
    found = {
        "stuck": _stuck(table),
        "unit_slip": _unit_slip(table),
        "clipping": _clipping(table),
        "loose_mount": _loose(table),
        "drift": drift,
        "dropout": _dropout(table, habits),
        "spikes": _spikes(table),
    }
    kind = np.full(drift.shape, -1, dtype=np.int8)
    for number, name in reversed(list(enumerate(KINDS))):
        if name in found:
            kind[found[name]] = number
    kind[_silent_in_motion(table, habits)] = 0
    believable = ~np.where((table.quantity == "temperature")[:, None], _SPOILS_TEMPERATURE[kind], _SPOILS[kind])
    seen_ms = np.maximum.accumulate(np.nan_to_num(table["seen_ms"], nan=-np.inf), axis=1)
    return [
        Health(
            gate.layout.channels,
            table.day_ms[number, days],
            kind[rows, days],
            believable[rows, days],
            bias_k[rows, days],
            seen_ms[rows, days],
            table.count("n_rest")[rows, days],
            np.array([gate.intervals_s.get(channel, np.nan) for channel in gate.layout.channels]),
        )
        for number, gate in enumerate(gates)
        for rows in [slice(table.first_row[number], table.first_row[number + 1])]
        for days in [slice(table.n_days[number])]
    ]


def _stuck(table: Table) -> Bools:
    """The last value came again and again, through several operations, or all day where such days are not its habit.

    A coarse sensor that shows about the same in motion as at rest may well repeat itself, but not for ever.
    """
    n = table.count("n_op") + table.count("n_rest")
    same, same_ops, last = table.count("same"), table.count("same_ops"), table["last"]
    rows, scaled = table.columns, np.isin(table.quantity, SCALED)[:, None]
    told = np.maximum.accumulate(np.where(np.isfinite(last), rows, 0), axis=1)
    last = np.take_along_axis(last, told, axis=1)
    before = np.concatenate([np.full((len(last), 1), np.nan), last[:, :-1]], axis=1)
    goes_on = (same == n) & ((last == before) | (n == 0))
    since = np.maximum.accumulate(np.where(goes_on, 0, rows), axis=1)

    def run(counts: Floats) -> Floats:
        total = np.cumsum(counts, axis=1)
        return np.asarray(total - np.take_along_axis(total - counts, since, axis=1))

    flat = table.fits.reference(table["flat"], mean)
    all_day = (rows > since) & (flat < 0.05) & (table.count("n_rest") > 0) & ~scaled
    with np.errstate(divide="ignore", invalid="ignore"):
        contrast = np.log(table.usual("move") / table.usual("rest"))
    telling = ~scaled | ~(np.abs(contrast) < 1.0)
    needed = np.where(telling, SAME_SAMPLES, COARSE_SAMPLES)
    moved = run(same_ops) >= np.where(telling, SAME_OPERATIONS, OPERATIONS)
    return ((run(same) >= needed) & moved) | ((run(same) >= SAME_SAMPLES) & all_day)


def _unit_slip(table: Table) -> Bools:
    """All values are what the channel used to show, in another accepted unit of its quantity."""
    move, rest = table["move"], table["rest"]
    usual_move, usual_rest = table.usual("move"), table.usual("rest")
    slipped = np.zeros(move.shape, dtype=bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        usual = np.abs(np.log(move / usual_move)) < 0.7
    siblings = _siblings(table)
    for name in sorted(set(table.quantity.tolist()) & set(QUANTITIES)):
        own = np.flatnonzero(table.quantity == name)
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


def _thermometers(table: Table) -> list[Ints]:
    """Rows of each gate's thermometers, the house's among them."""
    return table.rows_of((table.quantity == "temperature") | (table.quantity == "ambient_temperature"))


def _siblings(table: Table) -> Floats:
    """For each thermometer what the others show while the gate stands cold: their median."""
    out = np.full(table["rest"].shape, np.nan)
    rows = _thermometers(table)
    cold = beside(table["rest"], rows)
    for place in range(cold.shape[-1]):
        gates = np.flatnonzero([len(of_gate) > place for of_gate in rows])
        out[[rows[gate][place] for gate in gates]] = median(np.delete(cold[gates], place, axis=-1))
    return out


def _clipping(table: Table) -> Bools:
    """Nothing goes above one value, which comes again and again; and that is not this channel's habit.

    How often a day's highest value comes again is a matter of how fine the sensor is: by chance it does so once more with the
    same probability each time. A weak day in which all samples are about the same is told by its highest value: it is below
    what the channel shows on an average day.
    """
    top, at_top, n = table["top"], table.count("at_top"), table.count("n_op")
    fits = table.fits
    usual = np.fmax(REPEATS, 2.0 * fits.reference(np.where(n > 0, at_top - 1.0, np.nan), mean))
    clipped = np.zeros(top.shape, dtype=bool)
    for enough in (1, OPERATIONS, 3 * OPERATIONS):
        window = table.window(enough)[table.gate]
        highest, times, days = _at_the_top(top, at_top, window)
        in_motion = window_sum(n, window)
        share = np.where(in_motion >= ENOUGH_IN_MOTION, times / np.maximum(in_motion, 1.0), np.nan)
        by_chance = (usual / (1.0 + usual)) ** (times - days)
        much = (share >= AT_TOP_SHARE) & (share > fits.reference(share, greatest))
        clipped |= much & (by_chance < REPEATS_BY_CHANCE) & (highest >= table.usual("move"))
    # the air may well be as warm from one operation to the next
    return np.asarray(clipped & (table.quantity != "ambient_temperature")[:, None])


def _at_the_top(top: Floats, at_top: Floats, window: Ints) -> tuple[Floats, Floats, Floats]:
    """Over each day's window: the highest value in motion, how many samples equal it, and on how many days some do."""
    columns = np.arange(top.shape[1])
    # one day back after the other: far quicker than a statistic of each short window
    longest = int((columns - window).max(initial=0)) + 1
    inside = [columns - lag >= window for lag in range(longest)]
    tops, times_a_day = days_back(top, longest), days_back(at_top, longest)
    highest, times, days = np.full(top.shape, np.nan), np.zeros(top.shape), np.zeros(top.shape)
    for told, back in zip(inside, tops, strict=True):
        np.fmax(highest, back, out=highest, where=told)
    for told, back, times_then in zip(inside, tops, times_a_day, strict=True):
        equal = told & (back == highest)
        np.add(times, times_then, out=times, where=equal)
        days += equal
    return highest, times, days


def _loose(table: Table) -> Bools:
    """All vibration of one component is weaker, at rest as well: no machine gets quieter than its own floor."""
    at_rest = _log_change(table, "rest", 2)
    moving, moving_7d = _log_change(table, "move", 3), _log_change(table, "move", 7)
    loose = np.zeros(at_rest.shape, dtype=bool)
    is_mounted, is_shaken = np.isin(table.quantity, VIBRATION), np.isin(table.quantity, (*VIBRATION, "acceleration_peak"))
    mounts = [
        rows[table.component[rows] == name]
        for rows in table.rows_of(is_shaken)
        for name in sorted(set(table.component[rows[is_mounted[rows]]].tolist()))
    ]
    mounted = [rows[is_mounted[rows]] for rows in mounts]
    shown = beside(at_rest, mounted)
    told = np.isfinite(shown).any(axis=-1)
    with np.errstate(invalid="ignore"):
        weaker = (mean(shown) < -LOOSE_LOG) & (np.fmax.reduce(shown, axis=-1, initial=-np.inf) < -0.4 * LOOSE_LOG)
        quieter = mean(beside(moving, mounted)) < -0.8 * LOOSE_LOG
        alone = mean(beside(moving_7d, mounted)) < -0.45
    for rows, of_mount in zip(mounts, np.where(told, weaker & quieter, alone), strict=True):
        loose[rows] = of_mount
    return loose


def _log_change(table: Table, told: str, days: int) -> Floats:
    """Mean of the last days over the median of the first ones, as a log; NaN where either is not above zero."""
    usual, recent = table.usual(told), trailing_mean(table[told], days)
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.log(np.maximum(recent, 1e-9) / usual)
    return np.where(np.isfinite(change) & (usual > 0), change, np.nan)


def _drift(table: Table) -> tuple[Floats, Bools]:
    """Bias of the thermometers against their siblings, and which channels have moved at rest."""
    rest = table["rest"]
    warm, scaled = table.quantity == "temperature", np.isin(table.quantity, SCALED)
    values = np.full(rest.shape, np.nan)
    values[warm] = rest[warm] - _reference_temperature(table)[table.gate[warm]]
    with np.errstate(divide="ignore", invalid="ignore"):
        values[scaled] = np.where(rest[scaled] > 0, np.log(rest[scaled]), np.nan)
    limit = np.where(warm, DRIFT_K, DRIFT_LOG)[:, None]
    recent = np.full(rest.shape, np.nan)
    recent[warm | scaled] = median(last_days(values[warm | scaled], SMOOTH_D))
    moved = recent - table.fits.reference(values, median)
    usual = table.fits.reference(values, scatter)
    drifted = np.abs(moved) > np.fmax(limit, 4.0 * usual)
    return np.where(warm[:, None] & np.isfinite(moved), moved, 0.0), drifted


def _reference_temperature(table: Table) -> Floats:
    """What a gate that stands cold has for its temperature: the median of its thermometers; of two, the house's own."""
    ambient = table.quantity == "ambient_temperature"
    rows = [of_gate if len(of_gate) >= 3 else of_gate[ambient[of_gate]] for of_gate in _thermometers(table)]
    return median(beside(table["rest"], rows))


Habits = tuple[Floats, Floats, Floats, Floats]


def _habits(table: Table) -> Habits:
    """How many samples the gate's busiest channel has each day in motion and at rest, and which share of them is each one's."""
    fits, gate = table.fits, table.gate[table.fits.channel]
    busiest, shares = [], []
    for n in (table.count("n_op"), table.count("n_rest")):
        most = table.greatest(n)
        total = np.concatenate([np.zeros((len(most), 1)), np.cumsum(most, axis=1)], axis=1)
        of_all = total[gate, fits.until] - total[gate, fits.since]
        busiest.append(most)
        shares.append(fits.spread(np.nansum(fits.made_from(n), axis=1) / np.maximum(of_all, 1.0)))
    return busiest[0], busiest[1], shares[0], shares[1]


def _dropout(table: Table, habits: Habits) -> Bools:
    """A good part of the samples is missing that the gate's other channels have."""
    most_op, most_rest, usual_op, usual_rest = habits
    window = table.window(OPERATIONS)
    expected = usual_op * window_sum(most_op, window)[table.gate] + usual_rest * window_sum(most_rest, window)[table.gate]
    came = window_sum(table.count("n_op") + table.count("n_rest"), window[table.gate])
    return (expected >= EXPECTED_SAMPLES) & (came < (1.0 - MISSING_SHARE) * expected)


def _silent_in_motion(table: Table, habits: Habits) -> Bools:
    """A channel that reports in motion only has missed the last day's operations."""
    most_op, _, usual_op, usual_rest = habits
    return np.asarray((usual_rest < 0.3) & (usual_op * most_op[table.gate] >= SAME_SAMPLES) & (table.count("n_op") == 0))


def _spikes(table: Table) -> Bools:
    """More lone spikes than chance makes of the channel's habit, over the last operations or over three times as many.

    One accelerometer in a good machine shows a spike now and then; a motor that draws a rush at each start always does.
    """
    spikes, n = table.count("spikes"), table.count("n_spiky")
    usual = table.fits.reference(spikes, mean) / np.maximum(table.fits.reference(n, mean), 1.0)
    least = np.where(np.isin(table.quantity, VIBRATION), SHAKEN_SPIKE_SHARE, SPIKE_SHARE)[:, None]
    share = np.fmax(least, 1.5 * usual)
    found = np.zeros(spikes.shape, dtype=bool)
    for enough in (OPERATIONS, 3 * OPERATIONS):
        window = table.window(enough)[table.gate]
        times, expected = window_sum(spikes, window), share * window_sum(n, window)
        some = times >= SPIKES
        # the Poisson probability of so many or more
        found[some] |= special.gammainc(times[some], expected[some]) < SPIKES_BY_CHANCE
    return found
