"""A dataset folder into the historian. Doing it twice changes nothing, so an interrupted import is simply run again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from pipeline import historian
from pipeline.dataset import Dataset
from pipeline.readings import DAY_MS

_BATCH_ROWS = 20_000


def register_fleet(connection: Connection, dataset: Dataset, recorded_at: datetime) -> None:
    """Make a dataset's stations, gates, components, channels and maintenance records known, or bring them up to date."""
    stations = dataset.stations
    missing = sorted(set(dataset.gates["station_id"]) - set(stations["station_id"]))
    if missing:
        stations = pd.concat([stations, pd.DataFrame({"station_id": missing})], ignore_index=True)
    _upsert(connection, historian.stations, stations)
    _upsert(connection, historian.gates, dataset.gates)
    _upsert(connection, historian.components, dataset.components)
    historian.declare_channels(connection, [channel for gate_id in dataset.gate_ids for channel in dataset.declared(gate_id)])
    _add_maintenance(connection, dataset.maintenance, recorded_at)


def import_readings(engine: Engine, dataset: Dataset, progress: Callable[[int, int], None] | None = None) -> int:
    """Write every reading of a registered dataset, one gate after the other.

    Returns
    -------
    int
        Rows written: (component, time) pairs with at least one value.
    """
    written = 0
    gate_ids = dataset.gate_ids
    for done, gate_id in enumerate(gate_ids, start=1):
        written += _import_gate(engine, gate_id, dataset.readings(gate_id))
        if progress is not None:
            progress(done, len(gate_ids))
    return written


def _import_gate(engine: Engine, gate_id: str, frame: pd.DataFrame) -> int:
    if frame.empty:
        return 0
    ts_ms = frame["ts"].to_numpy(dtype="datetime64[ms]").astype(np.int64)
    with engine.connect() as connection:
        slots = historian.load_slots(connection, gate_id)
    by_series: dict[int, list[historian.Slot]] = {}
    for slot in slots.values():
        if slot.channel.key in frame:
            by_series.setdefault(slot.series_id, []).append(slot)
    written = 0
    for series_id, members in sorted(by_series.items()):
        values = np.full((len(frame), 1 + max(slot.slot for slot in members)), np.nan)
        for slot in members:
            values[:, slot.slot] = frame[slot.channel.key].to_numpy(dtype=float)
        told = np.flatnonzero(np.isfinite(values).any(axis=1))
        for start in range(0, len(told), _BATCH_ROWS):
            at = told[start : start + _BATCH_ROWS]
            rows = [(series_id, instant, *cells) for instant, cells in zip(ts_ms[at].tolist(), values[at].tolist(), strict=True)]
            days = np.unique(ts_ms[at] // DAY_MS) * DAY_MS
            with historian.writing(engine) as connection:
                historian.store_readings(connection, rows)
                historian.mark_dirty(connection, {(gate_id, day_ms) for day_ms in days.tolist()})
                historian.mark_seen(connection, {gate_id: int(ts_ms[at].max())})
            written += len(rows)
    return written


def _upsert(connection: Connection, table: sa.Table, frame: pd.DataFrame) -> None:
    keys = [column.name for column in table.primary_key.columns]
    names = [column.name for column in table.columns if column.name in frame]
    known = {tuple(row) for row in connection.execute(sa.select(*(table.c[key] for key in keys)))}
    new: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    for record in frame[names].to_dict("records"):
        row = {str(name): _cell(value) for name, value in record.items()}
        (changed if tuple(row[key] for key in keys) in known else new).append(row)
    if new:
        connection.execute(sa.insert(table), new)
    if changed and len(names) > len(keys):
        where = sa.and_(*(table.c[key] == sa.bindparam(f"at_{key}") for key in keys))
        values: dict[str, Any] = {name: sa.bindparam(f"to_{name}") for name in names if name not in keys}
        rows = [{("at_" if n in keys else "to_") + n: value for n, value in row.items()} for row in changed]
        connection.execute(sa.update(table).where(where).values(values), rows)


def _add_maintenance(connection: Connection, records: pd.DataFrame, recorded_at: datetime) -> None:
    table = historian.maintenance
    identity: Sequence[str] = ("gate_id", "component", "kind", "started_at")
    known = {tuple(row) for row in connection.execute(sa.select(*(table.c[name] for name in identity)))}
    rows = []
    for record in records.to_dict("records"):
        row = {column.name: _cell(record[column.name]) for column in table.columns if column.name in record}
        row["component"] = row["component"] or ""
        if tuple(row[name] for name in identity) not in known:
            rows.append({**row, "recorded_at": recorded_at})
    if rows:
        connection.execute(sa.insert(table), rows)


def _cell(value: Any) -> Any:
    """An empty cell becomes NULL, a timestamp an aware datetime."""
    if value is None or value == "" or pd.isna(value):
        return None
    return value.to_pydatetime() if isinstance(value, pd.Timestamp) else value
