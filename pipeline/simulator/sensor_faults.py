"""What is wrong with the sensors, not with the gate: drift, stuck values, loose mounts, spikes, gaps.

Applied to finished signals from a stream of random numbers of its own: with sensor faults switched off, everything else of the
same gate stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.simulator.duty import Ints
from pipeline.simulator.weather import DAY_S, Floats

DRIFT_PER_GATE_DAY = 2.0 / 700.0
STUCK_PER_CHANNEL_DAY = 1.0 / 3000.0
LOOSE_PER_MOUNT_DAY = 1.0 / 900.0
DROPOUT_PER_GATE_DAY = 1.0 / 200.0
SPIKE_CHANCE = 0.002
MISSING_CHANCE = 0.01

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


@dataclass(frozen=True, slots=True)
class Scatter:
    """What goes wrong with single readings: ``factor`` by vibration channel (1 where nothing), ``lost`` by component."""

    factor: Mapping[str, Floats]
    lost: Mapping[str, NDArray[np.bool_]]

    def at(self, places: Ints) -> Scatter:
        """The same for a choice of rows."""
        return Scatter(
            {key: factor[places] for key, factor in self.factor.items()},
            {component: lost[places] for component, lost in self.lost.items()},
        )


def draw_scatter(rng: np.random.Generator, keys: Sequence[str], n_rows: int) -> Scatter:
    """Draw spikes and lost readings of one gate."""
    factor = {}
    for key in keys:
        if key.endswith(("velocity_rms", "acceleration_rms")):
            factor[key] = np.where(rng.random(n_rows) < SPIKE_CHANCE, rng.uniform(2.0, 8.0, n_rows), 1.0)
    components = dict.fromkeys(key.partition(".")[0] for key in keys)
    return Scatter(factor, {component: rng.random(n_rows) < MISSING_CHANCE for component in components})


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
            shift = fault.size * (t_s[rows] - fault.start_s) / DAY_S
            if fault.channel.endswith("temperature"):
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
