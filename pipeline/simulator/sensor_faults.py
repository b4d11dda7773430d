"""What is wrong with the sensors, not with the gate: drift, stuck values, loose mounts, spikes, gaps; by chance or on request.

Applied to finished signals from a stream of random numbers of its own: with sensor faults switched off, everything else of the
same gate stays as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BadInput
from pipeline.readings import QUANTITIES
from pipeline.simulator.inject import ForcedFault
from pipeline.simulator.streams import Floats
from pipeline.simulator.weather import DAY_S

DRIFT_PER_GATE_DAY = 2.0 / 700.0
STUCK_PER_CHANNEL_DAY = 1.0 / 3000.0
LOOSE_PER_MOUNT_DAY = 1.0 / 900.0
DROPOUT_PER_GATE_DAY = 1.0 / 200.0
SPIKE_CHANCE = 0.002
MISSING_CHANCE = 0.01
MOST_DRIFT_K, MOST_DRIFT_LOG = 25.0, 0.6
"""Where a drifting sensor comes to rest: nobody believes a winding 50 K above its load."""

HEALTHY_S = 30.0 * DAY_S
"""The time from which a clipping or sticking sensor takes its healthy values."""

MOUNTS = {
    "motor": ("motor.velocity_rms", ("motor.acceleration_rms", "motor.acceleration_peak")),
    "gearbox": ("gearbox.velocity_rms", ("gearbox.acceleration_rms", "gearbox.acceleration_peak")),
    "leaf": ("leaf.velocity_rms", ()),
}
"""Accelerometers by component: the velocity and the accelerations that one loose mount weakens together."""


@dataclass(frozen=True, slots=True)
class SensorFault:
    """One fault of one sensor between two instants (seconds from the start).

    ``kind`` is ``drift`` (``size`` per day: K, or a log-gain), ``stuck``, ``loose_mount`` (``size`` the factor on acceleration;
    ``channel`` is the component) or ``dropout`` (the whole gate is silent; ``channel`` empty).
    """

    kind: str
    channel: str
    start_s: float
    end_s: float
    size: float = 0.0


def can_fail(key: str) -> bool:
    """Whether the channel's sensor may drift or stick: the measured ones, not the drive's own words and the water's."""
    return key.rpartition(".")[2] in ("velocity_rms", "acceleration_rms", "temperature", "current")


def draw_faults(rng: np.random.Generator, keys: Sequence[str], days: int) -> list[SensorFault]:
    """Draw every lasting sensor fault of one gate."""
    faulty = [key for key in keys if can_fail(key)]
    drifting = [key for key in faulty if not key.endswith("current")]
    out: list[SensorFault] = []

    def starts(rate: float) -> list[float]:
        return sorted(float(day) for day in rng.uniform(0.0, days, rng.poisson(rate * days)))

    for day in starts(DRIFT_PER_GATE_DAY):
        key = drifting[int(rng.integers(len(drifting)))]
        slope = 0.24 if key.endswith("temperature") else 0.006
        out.append(SensorFault("drift", key, day * DAY_S, (day + float(rng.exponential(120.0))) * DAY_S, slope))
    for key in faulty:
        for day in starts(STUCK_PER_CHANNEL_DAY):
            out.append(SensorFault("stuck", key, day * DAY_S, (day + float(rng.exponential(10.0))) * DAY_S))
    for component in MOUNTS:
        for day in starts(LOOSE_PER_MOUNT_DAY):
            factor = float(rng.uniform(0.3, 0.7))
            end_s = (day + float(rng.exponential(60.0))) * DAY_S
            out.append(SensorFault("loose_mount", component, day * DAY_S, end_s, factor))
    for day in starts(DROPOUT_PER_GATE_DAY):
        out.append(SensorFault("dropout", "", day * DAY_S, (day + float(rng.uniform(1.0, 7.0))) * DAY_S))
    return out


Uniforms = Callable[[str], Floats]
"""Uniform draws for every row, by what they are for."""


@dataclass(frozen=True, slots=True)
class Scatter:
    """What goes wrong with single readings: ``factor`` by vibration channel (1 where nothing), ``lost`` by component."""

    factor: Mapping[str, Floats]
    lost: Mapping[str, NDArray[np.bool_]]


def draw_scatter(uniforms: Uniforms, keys: Sequence[str]) -> Scatter:
    """Draw spikes and lost readings of one gate."""
    factor = {}
    for key in keys:
        if key.endswith(("velocity_rms", "acceleration_rms")):
            hit = uniforms(f"{key} spike") < SPIKE_CHANCE
            factor[key] = np.where(hit, 2.0 + 6.0 * uniforms(f"{key} height"), 1.0)
    components = dict.fromkeys(key.partition(".")[0] for key in keys)
    return Scatter(factor, {component: uniforms(f"{component} lost") < MISSING_CHANCE for component in components})


def apply_faults(faults: Sequence[SensorFault], scatter: Scatter, t_s: Floats, values: MutableMapping[str, Floats]) -> None:
    """Spoil the signals in place. A lost reading is NaN; a silent gate has NaN everywhere.

    Parameters
    ----------
    t_s : instants of the rows, seconds from the start, ascending
    values : channel -> one value per row
    """
    during = {fault: slice(*np.searchsorted(t_s, [fault.start_s, fault.end_s])) for fault in faults}
    for fault in faults:
        rows = during[fault]
        if fault.kind == "drift":
            hot = fault.channel.endswith("temperature")
            shift = np.minimum(fault.size * (t_s[rows] - fault.start_s) / DAY_S, MOST_DRIFT_K if hot else MOST_DRIFT_LOG)
            if hot:
                values[fault.channel][rows] += shift
            else:
                values[fault.channel][rows] *= np.exp(shift)
        elif fault.kind == "loose_mount":
            velocity, accelerations = MOUNTS[fault.channel]
            values[velocity][rows] *= fault.size**0.6
            for key in accelerations:
                values[key][rows] *= fault.size**1.5
    for key, factor in scatter.factor.items():
        values[key] *= factor
    for fault in faults:
        if fault.kind == "stuck":
            column = values[fault.channel][during[fault]]
            measured = np.flatnonzero(np.isfinite(column))
            column[measured] = column[measured[:1]]
    for key, column in values.items():
        column[scatter.lost[key.partition(".")[0]]] = np.nan
        for fault in faults:
            if fault.kind == "dropout":
                column[during[fault]] = np.nan


def memory_s(faults: Sequence[SensorFault], wishes: Sequence[ForcedFault], at_s: float) -> float:
    """The earliest instant whose reading matters for what the faults make of a reading at ``at_s``."""
    earliest = at_s
    for fault in faults:
        if fault.kind == "stuck" and fault.start_s <= at_s < fault.end_s:
            earliest = min(earliest, fault.start_s)
    for wish in wishes:
        if wish.fault in ("stuck", "clipping") and wish.until_s > at_s - HEALTHY_S:
            earliest = min(earliest, wish.at_s - HEALTHY_S)
    return earliest


def check_fault(channel: str, fault: str, keys: Sequence[str]) -> None:
    """Raise BadInput where a gate with these channels cannot have this sensor fault."""
    if channel not in keys:
        raise BadInput(f"inject: channel must be one of {', '.join(keys)}; got {channel!r}")
    if fault == "loose_mount" and not _shakes(channel):
        raise BadInput(f"inject: a loose mount needs a velocity or acceleration channel; got {channel!r}")
    if channel.endswith(".moving") and fault not in ("stale", "stuck", "dropout"):
        raise BadInput(f"inject: fault of {channel!r} must be stale, stuck or dropout; got {fault!r}")
    if fault == "unit_slip" and _other_unit(channel) is None:
        raise BadInput(f"inject: {channel!r} has no second unit to slip into")


def apply_wishes(
    wishes: Sequence[ForcedFault], uniforms: Uniforms, t_s: Floats, moving: NDArray[np.bool_], values: MutableMapping[str, Floats]
) -> None:
    """Make the sensor faults that were asked for, in place; a slip of unit is made later, by `slip_units`.

    ``moving`` says which rows were sampled in motion.
    """
    for wish in wishes:
        rows = slice(*np.searchsorted(t_s, [wish.at_s, wish.until_s]))
        column = values[wish.channel]
        if wish.fault == "stale":
            column[rows] = np.nan
        elif wish.fault == "stuck":
            before = column[: rows.start]
            last = np.flatnonzero(np.isfinite(before))
            measured = rows.start + np.flatnonzero(np.isfinite(column[rows]))
            column[measured] = before[last[-1]] if len(last) else column[measured[:1]]
        elif wish.fault == "drift":
            share = np.clip((t_s[rows] - wish.at_s) / (21 * DAY_S), 0.0, 1.0)
            if wish.channel.endswith("temperature"):
                column[rows] += 5.0 * share
            else:
                column[rows] *= 1.0 + 0.4 * share
        elif wish.fault == "spikes":
            hit, height = (uniforms(f"{wish.channel} asked {what}")[rows] for what in ("spike", "height"))
            if wish.channel.endswith("temperature"):
                column[rows] += np.where(hit < 0.05, 15.0 + 45.0 * height, 0.0)
            else:
                column[rows] *= np.where(hit < 0.05, 2.0 + 6.0 * height, 1.0)
        elif wish.fault == "clipping":
            limit = _third_quartile(column, t_s, moving, wish.at_s)
            column[rows] = np.minimum(column[rows], limit)
        elif wish.fault == "loose_mount":
            component = wish.channel.partition(".")[0]
            for key in values:
                if key.partition(".")[0] == component and _shakes(key):
                    values[key][rows] *= 0.5
        elif wish.fault == "other_gain":  # only the scenario `sensor_swap` asks for it
            column[rows] *= 1.6
        elif wish.fault == "dropout":
            column[rows][uniforms(f"{wish.channel} asked dropout")[rows] < 0.3] = np.nan


def slip_units(wishes: Sequence[ForcedFault], t_s: Floats, values: MutableMapping[str, Floats]) -> None:
    """Report in another unit than declared, in place; six digits are kept."""
    for wish in wishes:
        other = _other_unit(wish.channel) if wish.fault == "unit_slip" else None
        if other is not None:
            rows = slice(*np.searchsorted(t_s, [wish.at_s, wish.until_s]))
            conversion = QUANTITIES[wish.channel.rpartition(".")[2]].accepted[other]
            values[wish.channel][rows] = np.round((values[wish.channel][rows] - conversion.offset) / conversion.factor, 6)


def _shakes(channel: str) -> bool:
    return channel.endswith(("velocity_rms", "acceleration_rms", "acceleration_peak"))


def _other_unit(channel: str) -> str | None:
    quantity = QUANTITIES[channel.rpartition(".")[2]]
    return next((unit for unit in quantity.accepted if unit != quantity.unit), None)


def _third_quartile(column: Floats, t_s: Floats, moving: NDArray[np.bool_], at_s: float) -> float:
    """Of the values in motion in the month before; in the month after where that has too few."""
    for first_s, last_s in ((at_s - HEALTHY_S, at_s), (at_s, at_s + HEALTHY_S)):
        rows = (t_s >= first_s) & (t_s < last_s) & moving & np.isfinite(column)
        if rows.sum() >= 5:
            return float(np.quantile(column[rows], 0.75))
    return math.inf
