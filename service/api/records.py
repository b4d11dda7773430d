"""What the system itself keeps: messages it could not use, and the models it has."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from service.api import paging, queries
from service.api.auth import needs
from service.api.context import Here
from service.api.schemas import ModelOut, Page, QuarantineOut

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
    """List the registered models, each with its aliases."""
    return Page(
        items=[
            ModelOut(
                version=model.version,
                aliases=list(model.aliases),
                sha256=model.sha256,
                created_at=model.created_at,
                open_at=model.open_at,
                calibration="calibrated here" if model.calibrated_here else "not yet calibrated here",
            )
            for model in here.list_models()
        ]
    )
