"""What the system itself keeps: messages it could not use, and the models it has, one of them perhaps on hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from models import registry
from pipeline import historian
from pipeline.historian import writing
from service import hold, store
from service.api import paging
from service.api.auth import Principal, actor_of, needs
from service.api.context import Here
from service.api.schemas import AlarmRateOut, DriftOut, HoldOut, ModelOut, Page, QuarantineOut, ReleaseIn, ReleaseOut
from service.drift_watch import Standing, standing

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
        found = historian.list_quarantine(connection, reason=reason, before=before, limit=limit + 1)
    shown = found[:limit]
    following = paging.encode([shown[-1].quarantine_id], query) if len(found) > limit else None
    items = [QuarantineOut.model_validate({**row._mapping, "payload": row.payload.decode("utf-8", "replace")}) for row in shown]
    return Page(items=items, next=following)


@router.get("/models", dependencies=[needs("models:read")])
def list_models(here: Here) -> Page[ModelOut]:
    """List the registered models, each with its aliases; the one that scores now with the false alarms it makes here."""
    with here.engine.connect() as connection:
        rate = store.last_alarm_rate(connection)
        on_hold = hold.current(connection)
        held = store.count_held(connection)
        champion = here.champion()
        drift = _drift_out(standing(connection, champion.version, champion.has_reference, here.clock())) if champion else None
    achieved = AlarmRateOut.model_validate(rate) if rate else None
    held_back = HoldOut(since=on_hold.opened_at, alerts_held=held, **_told(on_hold.detail)) if on_hold else None
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
                drift=drift if registry.CHAMPION in model.aliases else None,
                on_hold=held_back if registry.CHAMPION in model.aliases else None,
            )
            for model in here.list_models()
        ]
    )


def _drift_out(found: Standing) -> DriftOut:
    report = found.report or {"as_of": None, "features": {}, "gates_unlike": []}
    fields = {name: report[name] for name in ("as_of", "features", "gates_unlike")}
    return DriftOut(status=found.status, since=found.since, suggests_training=found.suggests_training, **fields)


def _told(detail: Mapping[str, Any]) -> dict[str, Any]:
    return {name: detail[name] for name in ("as_of", "gates", "gates_with_verdict")}


@router.post("/models/release")
def release_model(
    here: Here, request: Request, who: Annotated[Principal, needs("models:activate")], given: ReleaseIn
) -> ReleaseOut:
    """Take the model off hold: what was held of alerts still open goes out now."""
    with writing(here.engine) as connection:
        released = hold.release(connection, here.clock(), actor=actor_of(who, request), reason=given.reason)
    return ReleaseOut.model_validate(released)
