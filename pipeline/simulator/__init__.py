"""Gates that wear out: a simulated fleet, as a dataset folder or as sensors that publish.

Weather and duty are drawn first, wear follows from them, signals from all three, sensor faults and transport come last; each
layer has random streams of its own. The same seed and `VERSION` give the same bytes.

Examples
--------
>>> fleet = make_fleet(gates=1, days=2, seed=1)
>>> simulate_gate(fleet, "DSH-S1-G1").readings["motor.moving"].max()
np.float64(1.0)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pandas as pd
import pyarrow as pa

from pipeline.dataset import write_readings, write_tables
from pipeline.errors import BadInput
from pipeline.simulator import scenarios
from pipeline.simulator.data_card import data_card
from pipeline.simulator.degradation import Life, live
from pipeline.simulator.duty import Duty, make_duty
from pipeline.simulator.fleet import Fleet, Gate, make_fleet
from pipeline.simulator.maintenance import Record, Upkeep, records
from pipeline.simulator.parallel import each_gate
from pipeline.simulator.signals import Scene, observe
from pipeline.simulator.streams import Layer, stream
from pipeline.simulator.transport import as_received
from pipeline.simulator.truth import truth_table, write_truth
from pipeline.simulator.waveforms import gate_bursts
from pipeline.simulator.weather import Weather
from pipeline.waveforms import Burst, burst_path, encode

__all__ = [
    "VERSION",
    "Fleet",
    "GateHistory",
    "live_gate",
    "make_fleet",
    "simulate_gate",
    "stream_bursts",
    "stream_readings",
    "write_dataset",
]

VERSION = "2"
"""Version of the simulated history: raised whenever the same seed gives other bytes."""

MAINTENANCE_COLUMNS = [
    "gate_id",
    "component",
    "kind",
    "failure_mode",
    "started_at",
    "ended_at",
    "finding",
    "note",
]


@dataclass(frozen=True, slots=True)
class GateHistory:
    """All that is to be known of one gate: what it reported, what the work orders say, what was hidden.

    Attributes
    ----------
    readings : DataFrame, as `pipeline.dataset.Dataset.readings` returns it
    maintenance : the gate's work orders, in order of time
    truth : table, see `truth.truth_table`
    """

    gate_id: str
    readings: pd.DataFrame
    maintenance: list[Record]
    truth: pa.Table

    def maintenance_table(self) -> pd.DataFrame:
        """The work orders as rows of maintenance.csv."""
        return _maintenance_table(self.maintenance)


def live_gate(fleet: Fleet, gate: Gate) -> tuple[Weather, Duty, Life]:
    """The layers beneath the signals: fast, for questions about wear alone."""
    weather = fleet.weather(gate)
    scenario, span = fleet.scenario, (fleet.start, fleet.days)
    asked = scenarios.asked_factor(scenario, *span)
    duty = make_duty(stream(fleet.seed, Layer.DUTY, gate.index), gate.calling, weather, asked)
    overhaul_day = scenarios.overhaul_day(scenario, fleet.seed, gate.index, *span)
    life = live(
        fleet.seed,
        gate.index,
        gate.constitution,
        weather,
        duty,
        Upkeep(fleet.seed, gate.index, fleet.preventive, overhaul_day),
        fleet.hazard_scale,
        corrosion=scenarios.corrosion(scenario, *span),
        forced=fleet.failures_of(gate),
    )
    return weather, duty, life


def simulate_gate(fleet: Fleet, gate_id: str) -> GateHistory:
    """Simulate one gate over the whole time; it does not depend on the others."""
    gate = fleet.gate(gate_id)
    weather, duty, life = live_gate(fleet, gate)
    return GateHistory(
        gate_id=gate_id,
        readings=observe(Scene(fleet, gate, weather, duty, life)),
        maintenance=records(gate_id, fleet.started_at, fleet.days, life.outages),
        truth=truth_table(gate_id, fleet.started_at, fleet.days, life),
    )


def stream_readings(fleet: Fleet, gate_id: str, chunk_days: int = 7) -> Iterator[pd.DataFrame]:
    """The readings of one gate, some days at a time: the same as those of `simulate_gate`, in little memory."""
    gate = fleet.gate(gate_id)
    scene = Scene(fleet, gate, *live_gate(fleet, gate))
    for first_day in range(0, fleet.days, chunk_days):
        yield observe(scene, first_day, min(first_day + chunk_days, fleet.days))


def stream_bursts(fleet: Fleet, gate_id: str, chunk_days: int = 7) -> Iterator[tuple[str, Burst]]:
    """The vibration bursts of one gate with their components, in order of time."""
    gate = fleet.gate(gate_id)
    scene = Scene(fleet, gate, *live_gate(fleet, gate))
    for first_day in range(0, fleet.days, chunk_days):
        yield from gate_bursts(scene, first_day, min(first_day + chunk_days, fleet.days))


def write_dataset(
    path: str | Path,
    *,
    gates: int,
    days: int,
    seed: int,
    start: date = date(2024, 1, 1),
    hazard_scale: float = 1.0,
    sensor_faults: bool = True,
    preventive: bool = True,
    jobs: int = 1,
    stations: int | None = None,
    heartbeat_min: int = 15,
    scenario: str = "",
    transport_faults: bool = True,
    inject: Sequence[str] = (),
    waveforms: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Fleet:
    """Simulate a fleet and write it as a dataset folder with its truth and its data card.

    Parameters
    ----------
    path : folder to make; it must not exist yet or be empty
    waveforms : write two bursts an operation, too (16 KB each)
    jobs : processes to share the gates; the bytes do not depend on it
    progress : called with (gates done, gates in all) after each gate

    The other settings are those of `fleet.make_fleet`.

    Raises
    ------
    BadInput
        A setting is out of range, or the folder is in use.
    """
    if not 1 <= jobs <= 64:
        raise BadInput(f"jobs must lie in 1..64; got {jobs}")
    fleet = make_fleet(
        gates=gates,
        days=days,
        seed=seed,
        start=start,
        hazard_scale=hazard_scale,
        sensor_faults=sensor_faults,
        preventive=preventive,
        stations=stations,
        heartbeat_min=heartbeat_min,
        scenario=scenario,
        transport_faults=transport_faults,
        inject=inject,
    )
    folder = Path(path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"folder {str(folder)!r} must be new or empty, so that no old reading stays among the new ones")
    (folder / "readings").mkdir(parents=True, exist_ok=True)

    work_orders: list[Record] = []
    truths: list[pa.Table] = []
    for done, (maintenance, truth) in enumerate(each_gate(_write_gate, fleet, jobs, folder, waveforms), start=1):
        work_orders += maintenance
        truths.append(truth)
        if progress is not None:
            progress(done, gates)
    maintenance_table = _maintenance_table(sorted(work_orders, key=lambda record: record["started_at"]))
    write_tables(
        folder,
        source=f"sluicewatch simulator, version {VERSION}, seed {seed}",
        licence="CC0-1.0",
        stations=fleet.stations,
        gates=fleet.gates_table(),
        components=fleet.components_table(),
        channels=fleet.channels_table(),
        maintenance=maintenance_table,
    )
    write_truth(folder, truths, VERSION, fleet.settings)
    card = data_card(fleet, VERSION, maintenance_table, pa.concat_tables(truths).to_pandas())
    (folder / "data_card.md").write_text(card, encoding="utf-8")
    return fleet


def _maintenance_table(rows: list[Record]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=MAINTENANCE_COLUMNS)
    for column in ("started_at", "ended_at"):
        table[column] = pd.to_datetime(table[column], utc=True).astype("datetime64[ms, UTC]")
    return table


def _write_gate(fleet: Fleet, gate_id: str, folder: Path, waveforms: bool) -> tuple[list[Record], pa.Table]:
    history = simulate_gate(fleet, gate_id)
    readings = history.readings
    if fleet.transport_faults:
        readings = as_received(readings, stream(fleet.seed, Layer.TRANSPORT, fleet.gate(gate_id).index, 2))
    write_readings(folder, gate_id, readings)
    if waveforms:
        _write_bursts(fleet, folder, gate_id)
    return history.maintenance, history.truth


def _write_bursts(fleet: Fleet, folder: Path, gate_id: str) -> None:
    for component, burst in stream_bursts(fleet, gate_id, chunk_days=60):
        file = folder / burst_path(gate_id, component, burst.point, burst.t)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(burst))
