"""Bench of sensor health: is each sensor fault named in time and on its channel, and is none taken for a bad gate?

Every trial is one healthy gate of a seed of its own: no wear, no other sensor fault, single readings lost and spiky as in every
simulated fleet, and one fault that begins at a midnight. Beside it stand the channels of a fleet in which nothing was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from models.forecast import Forecaster
from models.policy import Policy, Replay
from pipeline import features, sensor_health
from pipeline.channel_days import GateDays
from pipeline.cycles import Records, cycle_state
from pipeline.features import GateHistory
from pipeline.operations import segment
from pipeline.readings import DAY_MS, quantity_of
from pipeline.sensor_health import KINDS, MASKED, Health
from pipeline.simulator import Fleet, live_gate, make_fleet, simulate_gate
from pipeline.simulator.fleet import Gate, channel_keys
from pipeline.simulator.parallel import each_gate
from pipeline.simulator.sensor_faults import MOUNTS, SensorFault, draw_faults
from pipeline.simulator.signals import Scene, observe
from pipeline.simulator.streams import Layer, stream
from service.bench.report import Figure

BENCH = "sensor faults"
NO_FAULT = "no fault"

DAYS = 75
FIRST_DAY, LAST_DAY = 45, 49
"""A fault begins at one of these midnights."""

FIRST_SEED = 20_000
"""The rules of `pipeline.sensor_health` were chosen on seeds below."""

STRIKES: Mapping[str, tuple[str, ...]] = {
    "stale": ("velocity_rms", "acceleration_rms", "temperature", "current"),
    "stuck": ("velocity_rms", "acceleration_rms", "temperature", "current", "kurtosis"),
    "drift": ("velocity_rms", "acceleration_rms", "temperature"),
    "spikes": ("velocity_rms", "acceleration_rms", "temperature", "current"),
    "clipping": ("velocity_rms", "acceleration_rms", "temperature", "current", "kurtosis"),
    "unit_slip": ("velocity_rms", "acceleration_rms", "temperature", "current"),
    "loose_mount": ("velocity_rms", "acceleration_rms"),
    "dropout": ("velocity_rms", "acceleration_rms", "temperature", "current", "kurtosis"),
}
"""Quantities whose sensors each fault is made for, in equal shares. What a sensor tells in motion only cannot be two intervals
late; without a value at rest a gain that drifts is a machine that wears."""

OPERATIONS = 5
WINDOWS: Mapping[str, int] = {"loose_mount": 10}
"""A fault is to be named by the midnight after so many operations, and not before a day is over."""

MORE_OPERATIONS = 15
"""5 operations hold two spikes where 5 % of samples are spikes, and no sample near the third quartile where load is low; so
also the share named by then is told."""

IN_SAMPLES, FEWEST_CHANGED = ("spikes", "clipping"), 3
"""What changes a sample now and then; where it has changed fewer than so many, nothing tells it from chance."""

DRIFT_DAYS = 21
AFTER_DAYS = 45
"""So long after a fault of its own a channel does not count as healthy."""

APART_DAYS = 7
"""A channel named again within so many days is named once."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One fault on one gate, and how it was seen.

    Attributes
    ----------
    named : whether the channel was named within the window, rightly or for something graver that masks it
    named_exactly : the same, for the right kind alone
    named_later : named within 15 operations
    changed : samples within the window that the fault has changed; counted for what changes some samples only
    """

    seed: int
    kind: str
    quantity: str
    named: bool
    named_exactly: bool
    named_later: bool
    changed: int = 0


@dataclass(frozen=True, slots=True)
class Struck:
    """A gate with a fault in one channel from a midnight on."""

    fleet: Fleet
    channel: str
    start_ms: int

    @property
    def gate(self) -> Gate:
        """The one gate of its fleet."""
        return self.fleet.gates[0]

    def readings(self) -> pd.DataFrame:
        """What the gate reports."""
        return observe(Scene(self.fleet, self.gate, *live_gate(self.fleet, self.gate)))


def healthy_seeds(kind: str, count: int, days: int = DAYS) -> Iterator[int]:
    """The first seeds whose gate has no sensor fault of its own and moves often enough for the fault's window to end."""
    found, seed = 0, FIRST_SEED
    while found < count:
        seed += 1
        fleet = _fleet(seed, days)
        gate = fleet.gates[0]
        if draw_faults(stream(seed, Layer.SENSOR, 0), channel_keys(gate.hoist), days):
            continue
        _, duty, _ = live_gate(fleet, gate)
        if kind not in ("stale", "drift", NO_FAULT) and duty.runs[LAST_DAY:days].sum() < MORE_OPERATIONS:
            continue
        found += 1
        yield seed


def _fleet(seed: int, days: int, inject: Sequence[str] = ()) -> Fleet:
    return make_fleet(gates=1, days=days, seed=seed, hazard_scale=0.0, preventive=False, inject=inject)


def strike(seed: int, kind: str, days: int = DAYS) -> Struck:
    """Make the gate of a seed and put the fault into one of its channels; or into none for `NO_FAULT`."""
    sound = _fleet(seed, days)
    gate = sound.gates[0]
    rng = stream(seed, Layer.INJECTION, 0)
    at = sound.started_at + timedelta(days=int(rng.integers(FIRST_DAY, LAST_DAY + 1)))
    start_ms = round(at.timestamp() * 1000)
    if kind == NO_FAULT:
        return Struck(sound, "", start_ms)
    quantity = STRIKES[kind][int(rng.integers(len(STRIKES[kind])))]
    channels = [key for key in channel_keys(gate.hoist) if quantity_of(key) == quantity]
    channel = channels[int(rng.integers(len(channels)))]
    wish = f"gate={gate.gate_id},channel={channel},fault={kind},at={at.isoformat()}"
    return Struck(_fleet(seed, days, [wish]), channel, start_ms)


def history_of(fleet: Fleet, gate: Gate, readings: pd.DataFrame) -> GateHistory:
    """A simulated gate without work orders."""
    cut = segment(readings)
    return GateHistory(
        gate_id=gate.gate_id,
        components=tuple(sorted(gate.components)),
        hoist_type=gate.hoist,
        operations=cut.operations,
        days=cut.days,
        maintenance=Records.of(_no_records()),
        intervals_s=dict.fromkeys(channel_keys(gate.hoist), fleet.heartbeat_min * 60.0),
        commissioned_on=gate.commissioned_on,
    )


def _no_records() -> pd.DataFrame:
    """Work orders of nobody, in the columns of maintenance.csv."""
    names = ("gate_id", "component", "kind", "failure_mode", "started_at", "ended_at")
    types = {name: "datetime64[ms, UTC]" if name.endswith("_at") else "object" for name in names}
    return pd.DataFrame({name: [] for name in names}).astype(types)


def _health(history: GateHistory, maintenance: Records | None = None) -> Health:
    days = history.days
    first_ms = int(days["day_ms"].iloc[0])
    records = history.maintenance if maintenance is None else maintenance
    return sensor_health.assess(
        GateDays(
            days,
            history.operations["started_ms"].to_numpy(dtype=np.int64),
            lambda component, at_ms: cycle_state(records, component, first_ms, at_ms)[0],
            history.intervals_s,
        )
    )


def is_named(seen: str | None, kind: str) -> bool:
    """Whether what is said of a channel is the fault it has, or something graver that masks it."""
    names = tuple(KINDS)
    return seen == kind or (seen in MASKED and names.index(seen) < names.index(kind))


def judge(struck: Struck, kind: str, seed: int) -> tuple[Trial, GateHistory]:
    """Look whether a fault is named within its window; also what the gate's history is, for a forecast."""
    readings, channel, start_ms = struck.readings(), struck.channel, struck.start_ms
    history = history_of(struck.fleet, struck.gate, readings)
    if kind == "stale":
        at_ms = start_ms + round(1000 * (2.0 * history.intervals_s[channel] + struck.gate.clock_error_s))
        known = readings[readings["ts"] < pd.Timestamp(at_ms, unit="ms", tz="UTC")]
        seen = _health(history_of(struck.fleet, struck.gate, known)).at(at_ms).get(channel)
        return Trial(seed, kind, quantity_of(channel), is_named(seen, kind), seen == kind, is_named(seen, kind)), history
    health = _health(history)
    ended_ms = history.operations["ended_ms"].to_numpy(dtype=np.int64)
    ended_ms = ended_ms[ended_ms >= start_ms]

    def said(until_ms: int) -> list[str | None]:
        """Verdicts at every midnight from the day after the fault to the first one at which the window has passed."""
        midnights = range(start_ms + DAY_MS, -(-until_ms // DAY_MS) * DAY_MS + 1, DAY_MS)
        return [health.at(at_ms).get(channel) for at_ms in midnights]

    def after(operations: int) -> int:
        return max(start_ms + DAY_MS, int(ended_ms[min(operations, len(ended_ms)) - 1]))

    until_ms = start_ms + DRIFT_DAYS * DAY_MS if kind == "drift" else after(WINDOWS.get(kind, OPERATIONS))
    verdicts = said(until_ms)
    later = [*verdicts, *said(after(MORE_OPERATIONS))]
    named, named_later = (any(is_named(seen, kind) for seen in some) for some in (verdicts, later))
    in_time = changed(struck, seed, readings, until_ms) if kind in IN_SAMPLES else 0
    return Trial(seed, kind, quantity_of(channel), named, kind in verdicts, named_later, in_time), history


def changed(struck: Struck, seed: int, readings: pd.DataFrame, until_ms: int) -> int:
    """How many samples differ from those of the same gate without the fault, by the midnight that ends the window."""
    sound = strike(seed, NO_FAULT, struck.fleet.days).readings()
    both = readings[["ts", struck.channel]].merge(sound[["ts", struck.channel]], on="ts", suffixes=("", " sound"))
    both = both[both["ts"] < pd.Timestamp(-(-until_ms // DAY_MS) * DAY_MS, unit="ms", tz="UTC")].dropna()
    return int((both[struck.channel] != both[f"{struck.channel} sound"]).sum())


def try_kind(kind: str, count: int, forecaster: Forecaster, policy: Policy) -> tuple[list[Trial], float]:
    """Strike so many gates; return how each fault was seen, and the share of gates for which an asset alert began after it."""
    trials, rows, starts_ms = [], [], {}
    for seed in healthy_seeds(kind, count):
        struck = strike(seed, kind)
        if kind == NO_FAULT:
            history = history_of(struck.fleet, struck.gate, struck.readings())
        else:
            trial, history = judge(struck, kind, seed)
            trials.append(trial)
        first = datetime.fromtimestamp(struck.start_ms / 1000, UTC)
        as_ofs = [first + timedelta(days=day) for day in range((struck.fleet.ends_at - first).days + 1)]
        # all gates of one gate are called the same
        rows.append(features.build(history, as_ofs).assign(gate_id=f"{seed}"))
        starts_ms[f"{seed}"] = struck.start_ms
    until = {gate_id: datetime.fromtimestamp(ms / 1000 + 60 * 86_400, UTC) for gate_id, ms in starts_ms.items()}
    replay = Replay(forecaster.predict(pd.concat(rows, ignore_index=True)), _no_records(), until)
    return trials, float(np.mean([len(replay.alarms(policy, gate_id)) > 0 for gate_id in replay.gate_ids]))


@dataclass(frozen=True, slots=True)
class Namings:
    """False namings of one gate's channels by kind, and the channel-years in which there could have been any."""

    by_kind: Mapping[str, int]
    channel_years: float


def false_namings(fleet: Fleet, gate_id: str) -> Namings:
    """Count how often a channel is named at midnight that has no natural fault and had none in the last 45 days."""
    gate = fleet.gate(gate_id)
    history = simulate_gate(fleet, gate_id)
    told = history_of(fleet, gate, history.readings)
    health = _health(told, Records.of(history.maintenance_table().fillna({"component": ""})))
    at_ms = health.day_ms + DAY_MS
    kinds = np.full((len(health.channels), len(at_ms)), "", dtype=object)
    for column, instant in enumerate(at_ms.tolist()):
        said = health.at(instant)
        kinds[:, column] = [said.get(channel, "") for channel in health.channels]
    first_ms = int(fleet.started_at.timestamp() * 1000)
    faults = draw_faults(stream(fleet.seed, Layer.SENSOR, gate.index), channel_keys(gate.hoist), fleet.days)
    counts: dict[str, int] = {}
    healthy_days = 0
    for row, channel in enumerate(health.channels):
        healthy = np.ones(len(at_ms), dtype=bool)
        for fault in faults:
            if strikes(fault, channel):
                from_ms = first_ms + fault.start_s * 1000.0
                until_ms = first_ms + fault.end_s * 1000.0 + AFTER_DAYS * DAY_MS
                healthy &= (at_ms < from_ms) | (at_ms > until_ms)
        healthy_days += int(healthy.sum())
        named = kinds[row] != ""
        for column in np.flatnonzero(named & healthy).tolist():
            if not named[max(column - APART_DAYS, 0) : column].any():
                counts[str(kinds[row, column])] = counts.get(str(kinds[row, column]), 0) + 1
    return Namings(counts, healthy_days / 365.25)


def strikes(fault: SensorFault, channel: str) -> bool:
    """Whether a natural fault spoils a channel; a dropout silences the gate, a loose mount an accelerometer."""
    if fault.kind == "loose_mount":
        velocity, accelerations = MOUNTS[fault.channel]
        return channel in (velocity, *accelerations)
    return fault.kind == "dropout" or fault.channel == channel


def sensor_faults(
    forecaster: Forecaster, policy: Policy, *, count: int, gates: int, days: int, seed: int, jobs: int
) -> list[Figure]:
    """Figures of every kind of fault, and of the healthy channels of a fleet in which nothing was asked for."""
    figures = []
    for kind in STRIKES:
        trials, alerted = try_kind(kind, count, forecaster, policy)
        figures += [
            Figure(BENCH, f"{kind}: named in time", "share", (_share(t.named for t in trials),), "0.95 or more"),
            Figure(BENCH, f"{kind}: named in time as {kind}", "share", (_share(t.named_exactly for t in trials),)),
        ]
        if kind in IN_SAMPLES:
            late, enough = _share(t.named_later for t in trials), [t for t in trials if t.changed >= FEWEST_CHANGED]
            told = f"{kind}: {FEWEST_CHANGED} samples or more changed in time"
            figures += [
                Figure(BENCH, f"{kind}: named within {MORE_OPERATIONS} operations", "share", (late,)),
                Figure(BENCH, told, "share", (len(enough) / len(trials),)),
            ]
            if enough:
                figures.append(Figure(BENCH, f"{told}, of these named in time", "share", (_share(t.named for t in enough),)))
        for quantity in STRIKES[kind]:
            some = [t.named for t in trials if t.quantity == quantity]
            if some:
                figures.append(Figure(BENCH, f"{kind} of {quantity}: named in time, {len(some)} gates", "share", (_share(some),)))
        figures.append(Figure(BENCH, f"{kind}: asset alert", "share", (alerted,), "0.01 or less"))
    _, alerted = try_kind(NO_FAULT, count, forecaster, policy)
    figures.append(Figure(BENCH, f"{NO_FAULT}: asset alert", "share", (alerted,)))
    fleet = make_fleet(gates=gates, days=days, seed=seed)
    found = list(each_gate(false_namings, fleet, jobs))
    years = sum(one.channel_years for one in found)
    namings = [sum(one.by_kind.get(kind, 0) for one in found) for kind in KINDS]
    told = f"healthy channels, {years:.0f} channel-years"
    figures.append(Figure(BENCH, f"{told}: false namings", "/channel-year", (sum(namings) / years,), "0.1 or less"))
    figures += [
        Figure(BENCH, f"healthy channels: falsely named {kind}", "/channel-year", (times / years,))
        for kind, times in zip(KINDS, namings, strict=True)
    ]
    return figures


def _share(said: Iterable[bool]) -> float:
    return float(np.mean(list(said)))
