"""Gates: how they stand, what is forecast, what they measured and how they moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy.engine import Connection

from pipeline import burst_files, historian
from pipeline.historian import from_ms, to_ms
from pipeline.sensor_health import KINDS, read_lost
from service import store
from service.api import paging, queries
from service.api.auth import needs
from service.api.context import GateId, Here, Instant, require_gate
from service.api.problems import FieldError, Problem
from service.api.schemas import (
    Calibration,
    ChannelOut,
    ComponentOut,
    EvidenceOut,
    ForecastOut,
    ForecastRow,
    GateDetail,
    GateOut,
    GateState,
    OperationOut,
    Page,
    ReadingsOut,
    Series,
    StationOut,
)
from service.evidence import find_evidence
from service.live_features import load_features

router = APIRouter(prefix="/api/v1/gates", tags=["gates"], dependencies=[needs("gates:read")])

MOST_PEERS = 50
"""So many gates are enough to say what a component usually shows, and few enough to ask for."""

_DEFAULT_SPAN = timedelta(days=1)
_LONGEST_SPAN = timedelta(days=3660)

From = Annotated[Instant | None, Query(alias="from", description="Start, included. Default: one day before `to`.")]
To = Annotated[Instant | None, Query(description="End, not included. Default: now.")]


def _gate_fields(one: queries.GateStanding, calibration: Callable[[str], Calibration]) -> dict[str, Any]:
    return {
        **{name: one.gate[name] for name in GateOut.model_fields if name in one.gate},
        "last_seen": one.last_seen,
        "state": one.state,
        "reason": one.reason,
        "data_stale": one.data_stale,
        "severity": one.severity,
        "open_alerts": len(one.alerts),
        "as_of": one.forecast["as_of"] if one.forecast else None,
        "p_14d": one.forecast["p_14d"] if one.forecast else None,
        "calibration": calibration(one.forecast["model_version"]) if one.forecast else None,
    }


@router.get("")
def list_gates(
    here: Here,
    state: Annotated[GateState | None, Query(description="Only gates that stand so.")] = None,
    station_id: Annotated[str | None, Query(max_length=128, description="Only gates of this station.")] = None,
    limit: paging.Limit = 50,
    cursor: paging.Cursor = None,
) -> Page[GateOut]:
    """List gates by id, each with how it stands."""
    query = {"list": "gates", "state": state, "station_id": station_id}
    after = paging.decode(cursor, query, str)
    with here.engine.connect() as connection:
        standings = queries.gate_standings(connection, here.clock())
    found = [
        one
        for one in standings
        if (state is None or one.state == state)
        and (station_id is None or one.gate["station_id"] == station_id)
        and (after is None or one.gate["gate_id"] > after[0])
    ]
    shown = found[:limit]
    following = paging.encode([shown[-1].gate["gate_id"]], query) if len(found) > limit else None
    calibration = calibrations(here)
    return Page(items=[GateOut.model_validate(_gate_fields(one, calibration)) for one in shown], next=following)


@router.get("/{gate_id}")
def get_gate(here: Here, gate_id: GateId) -> GateDetail:
    """Show one gate with its station, components and channels."""
    with here.engine.connect() as connection:
        one = queries.gate_standing(connection, gate_id, here.clock())
        if one is None:
            raise Problem("not_found", f"There is no gate {gate_id!r}.")
        station = queries.stations(connection).get(one.gate["station_id"])
        components = queries.components(connection, gate_id)
        channels = [slot.channel for slot in historian.load_slots(connection, gate_id).values()]
    return GateDetail(
        **_gate_fields(one, calibrations(here)),
        station=StationOut.model_validate(station) if station else None,
        components=[ComponentOut.model_validate(row) for row in components],
        channels=[ChannelOut.model_validate(one) for one in sorted(channels, key=lambda channel: channel.key)],
    )


@router.get("/{gate_id}/forecast")
def get_forecast(
    here: Here,
    gate_id: GateId,
    as_of: Annotated[
        Instant | None, Query(description="Newest forecast not later than this. Default: the newest of all.")
    ] = None,
    component: Annotated[
        str | None, Query(max_length=128, description="Show the evidence of this component, too; it takes about a second.")
    ] = None,
) -> ForecastOut:
    """Show a gate's forecast: P(failure within 1..21 days) for the whole gate and for each component."""
    with here.engine.connect() as connection:
        require_gate(connection, gate_id)
        rows = queries.forecast_at(connection, gate_id, as_of)
        if not rows:
            raise Problem("not_found", f"Gate {gate_id!r} has no forecast{' that early' if as_of else ' yet'}.")
        evidence = None if component is None else _evidence(here, connection, rows[1:], gate_id, component)
    version = rows[0]["model_version"]
    return ForecastOut(
        gate_id=gate_id,
        as_of=rows[0]["as_of"],
        model_version=version,
        calibration=calibrations(here)(version),
        gate=_forecast_row(rows[0]),
        components=[_forecast_row(row) for row in rows[1:]],
        evidence=evidence,
    )


def _evidence(
    here: Here, connection: Connection, rows: Sequence[store.Row], gate_id: str, component: str
) -> Sequence[EvidenceOut]:
    row = next((row for row in rows if row["component"] == component), None)
    if row is None:
        known = ", ".join(row["component"] for row in rows) or "none"
        raise Problem("not_found", f"Gate {gate_id!r} has no forecast of {component!r}; components are {known}.")
    forecaster = here.forecaster(row["model_version"])
    if forecaster is None:
        raise Problem("not_found", f"Model {row['model_version']!r}, which made the forecast, cannot be loaded to explain it.")
    peers = queries.peers(connection, gate_id, component, row["as_of"], MOST_PEERS)
    features = load_features(connection, [gate_id, *peers], [row["as_of"]])
    found = find_evidence(connection, forecaster, features, [(gate_id, component)], row["as_of"])
    return [EvidenceOut.model_validate(item) for item in found.get((gate_id, component), ())]


def _forecast_row(row: store.Row) -> ForecastRow:
    lost = [{"channel": channel, "kind": kind, "ne107": KINDS.get(kind, "")} for channel, kind in read_lost(row["lost"]).items()]
    return ForecastRow.model_validate({**row, "lost_channels": lost})


def calibrations(here: Here) -> Callable[[str], Calibration]:
    """Return what says whether a model's threshold was tuned on this site's own history; of an unknown model we claim nothing."""
    calibrated = {model.version for model in here.list_models() if model.calibrated_here}
    return lambda version: "calibrated here" if version in calibrated else "not yet calibrated here"


@router.get("/{gate_id}/readings")
def list_readings(
    here: Here,
    gate_id: GateId,
    start: From = None,
    to: To = None,
    channel: Annotated[list[str] | None, Query(max_length=100, description="Channel keys, repeated. Default: all.")] = None,
    limit: Annotated[int, Query(ge=1, le=10_000, description="Rows a component gives at most.")] = 1000,
    buckets: Annotated[
        int | None, Query(ge=1, le=2000, description="Give lowest and highest of so many equal parts instead.")
    ] = None,
) -> ReadingsOut:
    """Show a gate's readings in canonical units, as they are or thinned to lowest and highest."""
    start_ms, end_ms = _span(here, start, to)
    with here.engine.connect() as connection:
        require_gate(connection, gate_id)
        known = sorted(slot.channel.key for slot in historian.load_slots(connection, gate_id).values())
        keys = channel or known
        if unknown := sorted(set(keys) - set(known)):
            message = f"known are {', '.join(known) or 'none'}"
            error = FieldError(pointer="/query/channel", code="unknown_channel", message=message)
            raise Problem("invalid", f"Gate {gate_id!r} has no channel {', '.join(unknown)}.", errors=[error])
        cut_ms = None
        if buckets is None:
            found, cut_ms = queries.read_channels(connection, gate_id, keys, start_ms, end_ms, limit)
        else:
            found = queries.bucket_channels(connection, gate_id, keys, start_ms, end_ms, buckets)
    series = [
        Series(
            key=one.key,
            unit=one.unit,
            ts=[from_ms(ts_ms) for ts_ms in one.ts_ms],
            values=one.values,
            low=one.low,
            high=one.high,
        )
        for one in found
    ]
    return ReadingsOut(gate_id=gate_id, channels=series, next_from=None if cut_ms is None else from_ms(cut_ms))


@router.get("/{gate_id}/operations")
def list_operations(
    here: Here,
    gate_id: GateId,
    start: Annotated[Instant | None, Query(alias="from", description="Start, included. Default: any.")] = None,
    to: To = None,
    limit: paging.Limit = 50,
    cursor: paging.Cursor = None,
) -> Page[OperationOut]:
    """List a gate's movements, newest first, each with what its channels showed."""
    query = {"list": "operations", "gate_id": gate_id, "from": start, "to": to}
    position = paging.decode(cursor, query, int)
    before_ms = position[0] if position else to_ms(to or here.clock())
    with here.engine.connect() as connection:
        require_gate(connection, gate_id)
        start_ms = to_ms(start) if start else 0
        found = queries.operations_before(connection, gate_id, start_ms, before_ms, limit + 1)
    shown = found[:limit]
    following = paging.encode([to_ms(shown[-1].started_at)], query) if len(found) > limit else None
    items = [OperationOut.model_validate(one) for one in shown]
    if here.bursts is not None and shown:
        first_ms, last_ms = to_ms(shown[-1].started_at), max(to_ms(one.ended_at) for one in shown)
        taken = burst_files.taken(here.bursts, gate_id, first_ms, last_ms)
        for item in items:
            item.bursts = [name for ms, name in taken if to_ms(item.started_at) <= ms <= to_ms(item.ended_at)]
    return Page(items=items, next=following)


def _span(here: Here, start: Instant | None, to: Instant | None) -> tuple[int, int]:
    end = to or here.clock()
    begin = start or end - _DEFAULT_SPAN
    if not timedelta(0) < end - begin <= _LONGEST_SPAN:
        message = "`from` must lie before `to`, by ten years at most"
        raise Problem("invalid", message, errors=[FieldError(pointer="/query/from", code="bad_span", message=message)])
    return to_ms(begin), to_ms(end)
