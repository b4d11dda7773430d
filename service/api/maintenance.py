"""Maintenance records: what was done to which gate, and what was found. The model learns from them."""

from __future__ import annotations

from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Query, Request
from sqlalchemy.engine import Connection

from pipeline import historian
from pipeline.historian import to_ms, writing
from service import store
from service.alerts import rfc3339
from service.api import paging, queries
from service.api.auth import Principal, actor_of, needs
from service.api.context import FUTURE_ALLOWANCE, Here
from service.api.problems import FieldError, Problem
from service.api.schemas import MaintenanceIn, MaintenanceKind, MaintenanceOut, Page

router = APIRouter(prefix="/api/v1/maintenance", tags=["maintenance"])


@router.get("", dependencies=[needs("gates:read")])
def list_maintenance(
    here: Here,
    gate_id: Annotated[str | None, Query(max_length=128)] = None,
    kind: MaintenanceKind | None = None,
    limit: paging.Limit = 50,
    cursor: paging.Cursor = None,
) -> Page[MaintenanceOut]:
    """List maintenance records, newest first."""
    query = {"list": "maintenance", "gate_id": gate_id, "kind": kind}
    position = paging.decode(cursor, query, int, int)
    before = (position[0], position[1]) if position else None
    with here.engine.connect() as connection:
        found = queries.maintenance_before(connection, gate_id=gate_id, kind=kind, before=before, limit=limit + 1)
    shown = found[:limit]
    last = shown[-1] if len(found) > limit else None
    following = paging.encode([to_ms(last["started_at"]), last["maintenance_id"]], query) if last else None
    return Page(items=[MaintenanceOut.model_validate(row) for row in shown], next=following)


@router.post("", status_code=201)
def record_maintenance(
    here: Here, request: Request, who: Annotated[Principal, needs("feedback:write")], record: MaintenanceIn
) -> MaintenanceOut:
    """Record a failure, repair, replacement, lubrication or inspection."""
    now = here.clock()
    row = {**record.model_dump(), "recorded_at": now}
    with writing(here.engine) as connection:
        if errors := [*_time_errors(here, record), *_reference_errors(connection, record)]:
            wrong = "; ".join(error.message for error in errors)
            raise Problem("invalid", f"Not valid: {wrong}.", errors=errors)
        inserted = connection.execute(sa.insert(historian.maintenance).values(row))
        maintenance_id = inserted.inserted_primary_key[0]
        store.append_audit(
            connection,
            at=now,
            actor=actor_of(who, request),
            action="maintenance.recorded",
            subject=record.gate_id,
            after={**record.model_dump(mode="json"), "maintenance_id": maintenance_id},
        )
    return MaintenanceOut.model_validate({**row, "maintenance_id": maintenance_id})


def _time_errors(here: Here, record: MaintenanceIn) -> list[FieldError]:
    latest = here.clock() + FUTURE_ALLOWANCE
    errors = []
    if record.ended_at is not None and record.ended_at < record.started_at:
        message = f"ended_at must not lie before started_at; got {rfc3339(record.ended_at)}"
        errors.append(FieldError(pointer="/body/ended_at", code="ends_before_start", message=message))
    for name, instant in (("started_at", record.started_at), ("ended_at", record.ended_at)):
        if instant is not None and instant > latest:
            message = f"{name} must not lie in the future; got {rfc3339(instant)}"
            errors.append(FieldError(pointer=f"/body/{name}", code="in_future", message=message))
    return errors


def _reference_errors(connection: Connection, record: MaintenanceIn) -> list[FieldError]:
    gate = historian.gates.c.gate_id
    if connection.scalar(sa.select(gate).where(gate == record.gate_id)) is None:
        message = f"gate_id must be a known gate; got {record.gate_id!r}"
        return [FieldError(pointer="/body/gate_id", code="unknown_gate", message=message)]
    errors = []
    known = {row["component"] for row in queries.components(connection, record.gate_id)}
    known |= {component for _, component, _ in historian.load_slots(connection, record.gate_id)}
    if record.component and record.component not in known:
        message = f"component must be empty or one of {', '.join(sorted(known)) or 'none'}; got {record.component!r}"
        errors.append(FieldError(pointer="/body/component", code="unknown_component", message=message))
    alert = store.alerts.c
    if record.alert_id is not None:
        owner = connection.scalar(sa.select(alert.gate_id).where(alert.alert_id == record.alert_id))
        if owner != record.gate_id:
            message = f"alert_id must be an alert of gate {record.gate_id!r}; got {record.alert_id!r}"
            errors.append(FieldError(pointer="/body/alert_id", code="unknown_alert", message=message))
    return errors
