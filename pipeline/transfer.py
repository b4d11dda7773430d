"""A dataset folder into the historian and back. What was interrupted is simply run again.

Importing twice changes nothing. An export goes on behind the last gate it has written; its folder becomes a dataset, with
``dataset.json``, only when all of it is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from pipeline import cut_days, historian
from pipeline.dataset import TABLES, Dataset, DatasetError, write_readings, write_tables
from pipeline.historian import to_ms
from pipeline.readings import DAY_MS, find_quantity

Progress = Callable[[int, int], None]
"""Told how many gates are done, of how many."""

UNFINISHED = "export.json"
"""Stands in the folder of an export that has not ended yet, and holds what was asked for."""

_BATCH_ROWS = 20_000
_MONTH_MS = 30 * DAY_MS


def register_fleet(connection: Connection, dataset: Dataset, recorded_at: datetime) -> None:
    """Make a dataset's stations, gates, components, channels and maintenance records known, or bring them up to date."""
    stations = dataset.stations
    missing = sorted(set(dataset.gates["station_id"]) - set(stations["station_id"]))
    if missing:
        stations = pd.concat([stations, pd.DataFrame({"station_id": missing})], ignore_index=True)
    _upsert(connection, historian.stations, stations)
    _upsert(connection, historian.gates, dataset.gates.assign(source=dataset.source, licence=dataset.licence))
    _upsert(connection, historian.components, dataset.components)
    historian.declare_channels(connection, [channel for gate_id in dataset.gate_ids for channel in dataset.declared(gate_id)])
    add_records(connection, dataset.maintenance.to_dict("records"), recorded_at)


def import_readings(engine: Engine, dataset: Dataset, progress: Progress | None = None) -> int:
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
                cut_days.mark_dirty(connection, {(gate_id, day_ms) for day_ms in days.tolist()})
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


def add_records(connection: Connection, records: Iterable[Mapping[Any, Any]], recorded_at: datetime) -> list[str]:
    """Write maintenance records; one that is known by gate, component, kind and start takes what is new of the rest.

    What a later record leaves empty stays as it was: a work order that was open is handed in again when it is closed.

    Returns
    -------
    list of str
        ``new``, ``changed`` or ``known``, for each record.
    """
    table = historian.maintenance
    told = [{name: _cell(record.get(name)) for name in (*_IDENTITY, *_DETAILS)} for record in records]
    gate_ids = sorted({row["gate_id"] for row in told})
    query = sa.select(table).where(table.c.gate_id.in_(gate_ids)).order_by(table.c.maintenance_id)
    known = {_identity(row): dict(row) for row in connection.execute(query).mappings()}
    new: list[dict[str, Any]] = []
    changed: dict[int, dict[str, Any]] = {}
    out = []
    for row in told:
        row["component"] = row["component"] or ""
        there = known.get(_identity(row))
        if there is None:
            known[_identity(row)] = row
            new.append(row)
            out.append("new")
            continue
        news = {name: row[name] for name in _DETAILS if row[name] is not None and row[name] != there[name]}
        there.update(news)
        if news and "maintenance_id" in there:
            changed[there["maintenance_id"]] = {"at": there["maintenance_id"], **{name: there[name] for name in _DETAILS}}
        out.append("changed" if news else "known")
    if new:
        connection.execute(sa.insert(table), [{**row, "recorded_at": recorded_at} for row in new])
    if changed:
        values: dict[str, Any] = {name: sa.bindparam(name) for name in _DETAILS}
        where = table.c.maintenance_id == sa.bindparam("at")
        connection.execute(sa.update(table).where(where).values(values), list(changed.values()))
    return out


_IDENTITY = ("gate_id", "component", "kind", "started_at")
_DETAILS = ("failure_mode", "ended_at", "finding", "alert_id", "note")


def _identity(record: Mapping[Any, Any]) -> tuple[str, str, str, int]:
    return record["gate_id"], record["component"], record["kind"], to_ms(record["started_at"])


def _cell(value: Any) -> Any:
    """An empty cell becomes NULL, a timestamp an aware datetime."""
    if value is None or value == "" or pd.isna(value):
        return None
    return value.to_pydatetime() if isinstance(value, pd.Timestamp) else value


def export_dataset(
    engine: Engine,
    folder: Path,
    *,
    gate_ids: Sequence[str] | None = None,
    first: datetime | None = None,
    before: datetime | None = None,
    progress: Progress | None = None,
) -> int:
    """Write what the historian knows as a dataset folder, one gate after the other, in canonical units.

    The same content makes the same bytes. Records are read after the readings, so that no failure of a time that is
    in the readings is missing.

    Parameters
    ----------
    folder : a new or empty folder, or that of an interrupted export of the same
    gate_ids : every gate unless told
    first, before : the readings from `first` on and before `before`, and the records begun before `before`, whose ends are
        left out where they came later; all unless told

    Returns
    -------
    int
        Gates in the dataset.

    Raises
    ------
    DatasetError
        The folder holds something else, a gate is unknown, or there is none.
    """
    first_ms, before_ms = (None if instant is None else to_ms(instant) for instant in (first, before))
    asked = {
        "database": engine.url.render_as_string(),
        "gates": None if gate_ids is None else sorted(set(gate_ids)),
        "first_ms": first_ms,
        "before_ms": before_ms,
    }
    with engine.connect() as connection:
        chosen = _chosen_gates(connection, gate_ids)
    _begin_or_go_on(folder, asked)
    for done, gate_id in enumerate(chosen, start=1):
        if not (folder / "readings" / f"{gate_id}.parquet").is_file():
            with engine.connect() as connection:
                frame = _all_readings(connection, gate_id, first_ms, before_ms)
            if len(frame):
                write_readings(folder, gate_id, frame)
        if progress is not None:
            progress(done, len(chosen))
    with engine.connect() as connection:
        _export_tables(connection, folder, chosen, before)
    (folder / UNFINISHED).unlink()
    return len(chosen)


def _chosen_gates(connection: Connection, gate_ids: Sequence[str] | None) -> list[str]:
    known = sorted(connection.scalars(sa.select(historian.gates.c.gate_id)))
    unknown = sorted(set(gate_ids or ()) - set(known))
    if unknown:
        raise DatasetError(f"gates: {unknown[0]!r} is not in the database; known are {', '.join(known[:20]) or 'none'}")
    if not known:
        raise DatasetError("database: it knows no gate; bring a fleet in with `sluicewatch import DIR`")
    return known if gate_ids is None else sorted(set(gate_ids))


def _begin_or_go_on(folder: Path, asked: dict[str, Any]) -> None:
    marker = folder / UNFINISHED
    if marker.is_file():
        if json.loads(marker.read_text(encoding="utf-8")) != asked:
            raise DatasetError(f"{folder}: an export of other gates, days or another database stopped here; repeat its flags")
    elif folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise DatasetError(f"{folder}: must be a new or empty folder; something is in it that no interrupted export left")
    else:
        (folder / "readings").mkdir(parents=True, exist_ok=True)
        part = folder / f"{UNFINISHED}.part"
        part.write_text(json.dumps(asked), encoding="utf-8")
        part.replace(marker)


def _all_readings(connection: Connection, gate_id: str, first_ms: int | None, before_ms: int | None) -> pd.DataFrame:
    """All readings of a gate in a span, read month by month: as rows of Python objects they are ten times as large."""
    series = sa.select(historian.channels.c.series_id).where(historian.channels.c.gate_id == gate_id)
    ts_ms = historian.readings.c.ts_ms
    query = sa.select(sa.func.min(ts_ms), sa.func.max(ts_ms)).where(historian.readings.c.series_id.in_(series))
    oldest_ms, newest_ms = connection.execute(query).one()
    if oldest_ms is None:
        return pd.DataFrame()
    since_ms = oldest_ms if first_ms is None else max(oldest_ms, first_ms)
    until_ms = newest_ms + 1 if before_ms is None else min(newest_ms + 1, before_ms)
    months = [
        historian.read_gate(connection, gate_id, start_ms, min(start_ms + _MONTH_MS, until_ms))
        for start_ms in range(since_ms, until_ms, _MONTH_MS)
    ]
    frame = pd.concat([month for month in months if len(month)] or [pd.DataFrame()], ignore_index=True)
    return frame[["ts", *sorted(frame.columns.drop("ts"))]] if len(frame) else frame


def _export_tables(connection: Connection, folder: Path, gate_ids: Sequence[str], before: datetime | None) -> None:
    gates = historian.load_table(connection, historian.gates, gate_ids)
    stations = historian.load_table(connection, historian.stations)
    channels = historian.load_table(connection, historian.channels, gate_ids)
    channels["unit"] = [find_quantity(quantity).unit for quantity in channels["quantity"]]
    maintenance = historian.load_table(connection, historian.maintenance, gate_ids)
    if before is not None:
        maintenance = maintenance[maintenance["started_at"] < before]
        maintenance["ended_at"] = maintenance["ended_at"].where(maintenance["ended_at"] < before)
    tables = {
        "stations": stations[stations["station_id"].isin(gates["station_id"])],
        "gates": gates,
        "components": historian.load_table(connection, historian.components, gate_ids),
        "channels": channels,
        "maintenance": maintenance,
    }
    kept = {name: table[[column for column in TABLES[name].columns if column in table]] for name, table in tables.items()}
    write_tables(
        folder, source=_joined(gates["source"].fillna("historian")), licence=_joined(gates["licence"].fillna("")), **kept
    )


def _joined(words: Iterable[str]) -> str:
    """The different ones, in order."""
    return "; ".join(sorted(set(words) - {""}))
