"""What the system itself keeps: messages it could not use, and the models it has."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from models import registry
from service import store
from service.api import paging, queries
from service.api.auth import needs
from service.api.context import Here
from service.api.schemas import AlarmRateOut, ModelOut, Page, QuarantineOut

router = APIRouter(prefix="/api/v1", tags=["records"])


@router.get("/quarantine", dependencies=[needs("gates:read")])
def list_quarantine(
    here: Here,
    reason: Annotated[str | None, Query(max_length=32, description="Only those refused for this reason.")] = None,
    limit: paging.Limit = 50,
    cursor: paging.Cursor = None,
) -> Page[QuarantineOut]:
    """List messages that could not be used, newest first, each with the reason."""
    query = {"list": "quarantine", "reason": reason}
    position = paging.decode(cursor, query, int)
    with here.engine.connect() as connection:
        before = position[0] if position else None
        found = queries.quarantine_before(connection, reason=reason, before=before, limit=limit + 1)
    shown = found[:limit]
    following = paging.encode([shown[-1]["quarantine_id"]], query) if len(found) > limit else None
    items = [QuarantineOut.model_validate({**row, "payload": row["payload"].decode("utf-8", "replace")}) for row in shown]
    return Page(items=items, next=following)


@router.get("/models", dependencies=[needs("models:read")])
def list_models(here: Here) -> Page[ModelOut]:
    """List the registered models, each with its aliases; the one that scores now with the false alarms it makes here."""
    with here.engine.connect() as connection:
        rate = store.last_alarm_rate(connection)
    achieved = AlarmRateOut.model_validate(rate) if rate else None
    return Page(
        items=[
            ModelOut(
                version=model.version,
                aliases=list(model.aliases),
                sha256=model.sha256,
                created_at=model.created_at,
                open_at=model.open_at,
                calibration="calibrated here" if model.calibrated_here else "not yet calibrated here",
                budget_per_gate_year=model.budget_per_gate_year,
                alarm_rate=achieved if registry.CHAMPION in model.aliases else None,
            )
            for model in here.list_models()
        ]
    )
