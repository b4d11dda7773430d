"""Gates that wear out: a simulated fleet, as a dataset folder or as sensors that publish.

Weather and duty are drawn first, wear follows from them, signals from all three, sensor faults come last; each layer has random
streams of its own. The same seed and `VERSION` give the same bytes.

Examples
--------
>>> fleet = make_fleet(gates=1, days=2, seed=1)
>>> simulate_gate(fleet, "DSH-S1-G1").readings["motor.moving"].max()
np.float64(1.0)
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pandas as pd
import pyarrow as pa

from pipeline.dataset import write_readings, write_tables
from pipeline.errors import BadInput
from pipeline.simulator.data_card import data_card
from pipeline.simulator.degradation import Life, live
from pipeline.simulator.duty import Duty, make_duty
from pipeline.simulator.fleet import Fleet, Gate, make_fleet
from pipeline.simulator.maintenance import Record, Upkeep, records
from pipeline.simulator.signals import observe
from pipeline.simulator.streams import Layer, stream
from pipeline.simulator.truth import truth_table, write_truth
from pipeline.simulator.weather import Weather

__all__ = ["VERSION", "Fleet", "GateHistory", "live_gate", "make_fleet", "simulate_gate", "write_dataset"]

VERSION = "1"
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
    duty = make_duty(stream(fleet.seed, Layer.DUTY, gate.index), gate.calling, weather)
    upkeep = Upkeep(fleet.seed, gate.index, fleet.preventive)
    life = live(fleet.seed, gate.index, gate.constitution, weather, duty, upkeep, fleet.hazard_scale)
    return weather, duty, life


def simulate_gate(fleet: Fleet, gate_id: str) -> GateHistory:
    """Simulate one gate over the whole time; it does not depend on the others."""
    gate = fleet.gate(gate_id)
    weather, duty, life = live_gate(fleet, gate)
    return GateHistory(
        gate_id=gate_id,
        readings=observe(fleet, gate, weather, duty, life),
        maintenance=records(gate_id, fleet.started_at, fleet.days, life.outages),
        truth=truth_table(gate_id, fleet.started_at, fleet.days, life),
    )


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
    progress: Callable[[int, int], None] | None = None,
) -> Fleet:
    """Simulate a fleet and write it as a dataset folder with its truth and its data card.

    Parameters
    ----------
    path : folder to make; it must not exist yet or be empty
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
    )
    folder = Path(path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"folder {str(folder)!r} must be new or empty, so that no old reading stays among the new ones")
    (folder / "readings").mkdir(parents=True, exist_ok=True)

    work_orders: list[Record] = []
    truths: list[pa.Table] = []
    for done, (maintenance, truth) in enumerate(_write_gates(fleet, folder, min(jobs, gates)), start=1):
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
    write_truth(folder, truths)
    card = data_card(fleet, VERSION, maintenance_table, pa.concat_tables(truths).to_pandas())
    (folder / "data_card.md").write_text(card, encoding="utf-8")
    return fleet


def _maintenance_table(rows: list[Record]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=MAINTENANCE_COLUMNS)
    for column in ("started_at", "ended_at"):
        table[column] = pd.to_datetime(table[column], utc=True).astype("datetime64[ms, UTC]")
    return table


def _write_gate(fleet: Fleet, folder: Path, gate_id: str) -> tuple[list[Record], pa.Table]:
    history = simulate_gate(fleet, gate_id)
    write_readings(folder, gate_id, history.readings)
    return history.maintenance, history.truth


def _write_gates(fleet: Fleet, folder: Path, jobs: int) -> Iterator[tuple[list[Record], pa.Table]]:
    if jobs == 1:
        for gate_id in fleet.gate_ids:
            yield _write_gate(fleet, folder, gate_id)
        return
    # spawned, not forked: the caller may have threads
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        waiting = [pool.submit(_write_gate, fleet, folder, gate_id) for gate_id in fleet.gate_ids]
        for future in waiting:
            yield future.result()
