"""Maintenance records: what was done to which gate, and what was found. The model learns from them."""

from __future__ import annotations

from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Query, Request

from pipeline import historian
from pipeline.historian import to_ms, writing
from service import store
from service.api import paging, queries
from service.api.auth import Principal, actor_of, needs
from service.api.context import Here
from service.api.problems import FieldError, Problem
from service.api.schemas import MaintenanceIn, MaintenanceKind, MaintenanceOut, Page
from service.work import wrongs

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
        if found := wrongs(connection, [record], now)[0]:
            errors = [FieldError(pointer=f"/body/{wrong.field}", code=wrong.code, message=wrong.message) for wrong in found]
            raise Problem("invalid", f"Not valid: {'; '.join(wrong.message for wrong in found)}.", errors=errors)
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
