"""Gates as receivers know them, forecasts, and the runs that made them. A forecast once published stays as it was."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from pipeline import historian
from service.advice import Words
from service.events import Gate
from service.store.tables import Row, all_rows, first_row, forecasts, scoring_runs, shadow_forecasts


def load_gates(connection: Connection, gate_ids: Sequence[str] | None = None) -> dict[str, Gate]:
    """What a body says about gates (of `gate_ids`, or all), by gate_id."""
    gate, station = historian.gates, historian.stations
    query = sa.select(
        gate.c.gate_id,
        gate.c.name,
        gate.c.name_zh,
        gate.c.station_id,
        gate.c.criticality,
        gate.c.last_seen_ms,
        station.c.name.label("station_name"),
        station.c.name_zh.label("station_name_zh"),
    ).select_from(gate.outerjoin(station, gate.c.station_id == station.c.station_id))
    if gate_ids is not None:
        query = query.where(gate.c.gate_id.in_(list(gate_ids)))
    return {row.gate_id: _gate(row._mapping) for row in connection.execute(query)}


def gate_of(connection: Connection, gate_id: str) -> Gate:
    """What a body says about one gate: its id alone where the historian does not know it."""
    return load_gates(connection, [gate_id]).get(gate_id) or Gate(gate_id, Words(gate_id, gate_id))


def _gate(row: RowMapping) -> Gate:
    name = row["name"] or row["gate_id"]
    station = row["station_name"] or row["station_id"]
    return Gate(
        gate_id=row["gate_id"],
        name=Words(zh=row["name_zh"] or name, en=name),
        station_id=row["station_id"],
        station_name=Words(zh=row["station_name_zh"] or station, en=station),
        criticality=row["criticality"] or "",
        last_seen=None if row["last_seen_ms"] is None else historian.from_ms(row["last_seen_ms"]),
    )


def save_forecasts(connection: Connection, rows: Sequence[Row]) -> None:
    """Write new forecast rows; a row that exists is an error, because what was published stays as it was."""
    if rows:
        connection.execute(sa.insert(forecasts), list(rows))


def save_shadow(connection: Connection, rows: Sequence[Row]) -> None:
    """Write what a challenger forecast beside the champion; see `shadow_forecasts`."""
    if rows:
        connection.execute(sa.insert(shadow_forecasts), list(rows))


def load_both(
    connection: Connection, challenger: str, champion: str, after: datetime, until: datetime
) -> tuple[list[Row], list[Row]]:
    """What two versions said of the same gates on the same midnights after one and up to another, one in the other's shadow."""
    ours, theirs = shadow_forecasts.c, forecasts.c
    same = sa.and_(ours.gate_id == theirs.gate_id, ours.component == theirs.component, ours.as_of == theirs.as_of)
    which = (ours.model_version == challenger, theirs.model_version == champion, theirs.as_of > after, theirs.as_of <= until)
    joint = shadow_forecasts.join(forecasts, same)
    first, second = (sa.select(table).select_from(joint).where(*which) for table in (shadow_forecasts, forecasts))
    return all_rows(connection.execute(first)), all_rows(connection.execute(second))


def scored_gates(connection: Connection, as_of: datetime, gate_ids: Sequence[str] | None = None) -> set[str]:
    """Gates (of `gate_ids`, or all) that already have a forecast as of that midnight."""
    query = sa.select(forecasts.c.gate_id).where(forecasts.c.as_of == as_of, forecasts.c.component == "")
    if gate_ids is not None:
        query = query.where(forecasts.c.gate_id.in_(list(gate_ids)))
    return set(connection.scalars(query))


def ever_scored(connection: Connection, gate_ids: Sequence[str]) -> set[str]:
    """Those of some gates that have a forecast as of any midnight."""
    query = sa.select(forecasts.c.gate_id).where(forecasts.c.gate_id.in_(list(gate_ids))).distinct()
    return set(connection.scalars(query))


def gates_with_verdict(connection: Connection, as_of: datetime) -> int:
    """How many gates have a verdict as of that midnight."""
    has_verdict = sa.and_(forecasts.c.as_of == as_of, forecasts.c.component == "", forecasts.c.verdict == "forecast")
    return connection.scalar(sa.select(sa.func.count()).select_from(forecasts).where(has_verdict)) or 0


def latest_forecast(connection: Connection, gate_id: str) -> list[Row]:
    """The newest forecast of a gate: its gate row (component '') first, then its components; empty if never scored."""
    newest = sa.select(sa.func.max(forecasts.c.as_of)).where(forecasts.c.gate_id == gate_id, forecasts.c.component == "")
    query = sa.select(forecasts).where(forecasts.c.gate_id == gate_id, forecasts.c.as_of == newest.scalar_subquery())
    return all_rows(connection.execute(query.order_by(forecasts.c.component)))


def save_scoring_run(connection: Connection, run: Row) -> None:
    """Note that every gate has been scored as of a midnight."""
    connection.execute(sa.delete(scoring_runs).where(scoring_runs.c.as_of == run["as_of"]))
    connection.execute(sa.insert(scoring_runs).values(**run))


def last_scoring_run(connection: Connection) -> Row | None:
    """The newest finished scoring run, by as_of."""
    return first_row(connection.execute(sa.select(scoring_runs).order_by(scoring_runs.c.as_of.desc()).limit(1)))
