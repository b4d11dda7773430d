"""The hidden state, written beside a simulated dataset. For the oracle, the demo's tally and `evaluate --truth` only.

Nothing that trains or scores may import this; an import contract holds that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import BadInput
from pipeline.simulator.degradation import SUDDEN, Life
from pipeline.simulator.weather import DAY_S

FILE = "truth.parquet"

SCHEMA = pa.schema(
    [
        ("gate_id", pa.string()),
        ("day", pa.timestamp("ms", tz="UTC")),
        ("mode", pa.string()),
        ("component", pa.string()),
        ("z", pa.float64()),
        ("tau", pa.float64()),
        ("active", pa.bool_()),
        ("silent", pa.bool_()),
        ("fails_at", pa.timestamp("ms", tz="UTC")),
    ]
)


def truth_table(gate_id: str, start: datetime, days: int, life: Life) -> pa.Table:
    """The hidden state of one gate.

    One row for each midnight (UTC) and each fault that exists then: its progress ``z``, its scale ``tau`` in days, whether it is
    ``silent``, and ``fails_at``, the moment at which this fault will take the function (null where it never does). A sudden
    failure has one row, ``active`` false, at the midnight before it.
    """
    rows: list[tuple[Any, ...]] = []
    midnights = [start + timedelta(days=day) for day in range(days + 1)]
    for episode in life.episodes:
        fails_at = start + timedelta(seconds=episode.end_s) if episode.outcome == "failed" else None
        for offset, z in enumerate(episode.z):
            day = episode.first_day + offset
            if day <= days and day * DAY_S <= episode.end_s:
                mode = episode.mode
                state = (z, episode.tau_d, True, episode.silent, fails_at)
                rows.append((gate_id, midnights[day], mode.code, mode.component, *state))
    for outage in life.failures:
        if outage.mode == SUDDEN:
            at = start + timedelta(seconds=outage.start_s)
            midnight = midnights[int(outage.start_s // DAY_S)]
            rows.append((gate_id, midnight, SUDDEN, "", 0.0, None, False, True, at))
    rows.sort(key=lambda row: (row[1], row[2]))
    columns = [[row[place] for row in rows] for place in range(len(SCHEMA))]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def write_truth(folder: Path, tables: Iterable[pa.Table], version: str, settings: Mapping[str, Any]) -> None:
    """Write truth.parquet, one row group a gate; the file's metadata says by which simulator, told what, it was made."""
    schema = SCHEMA.with_metadata({"simulator": version, "settings": msgspec.json.encode(settings)})
    with pq.ParquetWriter(folder / FILE, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)


def read_truth(folder: str | Path) -> pd.DataFrame:
    """The hidden state of a dataset folder; columns as `truth_table` says."""
    frame: pd.DataFrame = pq.read_table(_file(folder)).to_pandas()
    return frame


def read_settings(folder: str | Path, version: str) -> dict[str, Any]:
    """What the simulator was told when it made the folder, for `fleet.make_fleet`.

    Raises
    ------
    BadInput
        The folder has no truth, or one by another version of the simulator.
    """
    metadata = pq.read_schema(_file(folder)).metadata or {}
    made_by = metadata.get(b"simulator", b"an older version").decode()
    if made_by != version:
        raise BadInput(f"{Path(folder) / FILE} must be made by simulator version {version}; got {made_by}. Simulate it again")
    settings: dict[str, Any] = msgspec.json.decode(metadata[b"settings"])
    return settings | {"start": date.fromisoformat(settings["start"])}


def _file(folder: str | Path) -> Path:
    file = Path(folder) / FILE
    if not file.is_file():
        raise BadInput(f"{str(folder)!r} has no {FILE}: only what the simulator wrote knows its hidden state")
    return file


def failures(truth: pd.DataFrame) -> pd.DataFrame:
    """Every failure in a truth frame: ``gate_id, component, mode, silent, failed_at``, one row each, in order of time."""
    failed = truth[truth["fails_at"].notna()].rename(columns={"fails_at": "failed_at"})
    columns = ["gate_id", "component", "mode", "silent", "failed_at"]
    return failed[columns].drop_duplicates(ignore_index=True).sort_values(["failed_at", "gate_id"], ignore_index=True)


def days_to_failure(truth: pd.DataFrame) -> pd.Series:
    """Days from the onset to the failure of each fault that took the function; sudden failures have none."""
    faults = truth[truth["active"] & truth["fails_at"].notna()].groupby(["gate_id", "mode", "tau"])
    days: pd.Series = (faults["fails_at"].first() - faults["day"].first()).dt.total_seconds() / DAY_S
    return days
