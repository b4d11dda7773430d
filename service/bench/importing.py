"""Bench of `import`: years of a simulated fleet brought into an empty historian, by a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from pipeline import historian, transfer
from pipeline.dataset import open_dataset
from pipeline.simulator import write_dataset
from service import store
from service.bench.report import BenchError, Figure
from service.bench.subscriber import peak_mb
from service.broker import tied

FEWEST_A_SECOND, MOST_MB = "500,000 or more", "2,000 or less"


def bench_import(
    gates: int = 32, days: int = 720, repeats: int = 1, jobs: int = 2, progress: Callable[[int, int], None] | None = None
) -> list[Figure]:
    """Measure how many values a second come into the historian (SQLite), and the memory that takes; simulating is not timed.

    Raises
    ------
    BenchError
        The historian does not hold as many rows as the folder.
    """
    with tempfile.TemporaryDirectory(prefix="sluicewatch-bench-") as name:
        fleet = Path(name) / "fleet"
        write_dataset(fleet, gates=gates, days=days, seed=1, jobs=jobs)
        dataset = open_dataset(fleet)
        values = sum(int(dataset.readings(gate_id).drop(columns="ts").count().sum()) for gate_id in dataset.gate_ids)
        rates, peaks_mb = [], []
        for number in range(repeats):
            command = tied([sys.executable, "-m", "service.bench.importing", str(fleet), f"sqlite:///{name}/{number}.sqlite"])
            told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            if told["stored"] != told["imported"]:
                raise BenchError(f"bench import: {told['imported']} readings were imported and {told['stored']} stored")
            rates.append(values / told["seconds"])
            peaks_mb.append(told["peak_mb"])
            Path(name, f"{number}.sqlite").unlink()
            if progress is not None:
                progress(number + 1, repeats)
    named = f"{gates} gates x {days} days, {values / 1e6:.0f} million values into SQLite"
    return [
        Figure("import", named, "values/s", tuple(rates), FEWEST_A_SECOND, counts={"values": values}),
        Figure("import", "peak memory of the process", "MB", tuple(peaks_mb), MOST_MB),
    ]


def main(folder: str, database: str) -> None:
    """Be the process."""
    engine = historian.connect(database)
    store.migrate(engine)
    started = time.perf_counter()
    dataset = open_dataset(folder)
    with historian.writing(engine) as connection:
        transfer.register_fleet(connection, dataset, datetime.now(UTC))
    imported = transfer.import_readings(engine, dataset)
    seconds = time.perf_counter() - started
    with engine.connect() as connection:
        stored = connection.scalar(sa.select(sa.func.count()).select_from(historian.readings))
    engine.dispose()
    sys.stdout.write(json.dumps({"imported": imported, "stored": stored, "seconds": seconds, "peak_mb": peak_mb()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
