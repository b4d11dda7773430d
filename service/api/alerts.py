"""Alerts: the list by urgency, one alert, and what a person does about it."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Annotated

from fastapi import APIRouter, Query, Request

from pipeline.historian import writing
from service import alerts as life
from service import store
from service.advice import recommended_action
from service.alerts import SEVERITIES, STATES, Alert, Change
from service.api import paging, queries
from service.api.auth import Principal, actor_of, needs
from service.api.context import Context, Here
from service.api.problems import FieldError, Problem
from service.api.schemas import ActionOut, AlertOut, Page, ResolveIn
from service.work import keep_finding

router = APIRouter(prefix="/api/v1/alerts", tags=["alerts"])


def _alert_out(alert: Alert, held: Container[str]) -> AlertOut:
    action = recommended_action(alert.component, alert.failure_mode)
    fields = {name: getattr(alert, name) for name in AlertOut.model_fields if name not in ("recommended_action", "held")}
    shown = ActionOut(code=action.code, text_zh=action.text.zh, text_en=action.text.en)
    return AlertOut.model_validate({**fields, "recommended_action": shown, "held": alert.alert_id in held})


def _known(name: str, wanted: list[str] | None, allowed: tuple[str, ...]) -> list[str] | None:
    if wrong := sorted(set(wanted or ()) - set(allowed)):
        message = f"allowed are {', '.join(allowed)}; got {', '.join(wrong)}"
        error = FieldError(pointer=f"/query/{name}", code="unknown_value", message=message)
        raise Problem("invalid", f"{name}: {message}.", errors=[error])
    return sorted(set(wanted)) if wanted else None


@router.get("", dependencies=[needs("alerts:read")])
def list_alerts(
    here: Here,
    state: Annotated[list[str] | None, Query(description="open, acknowledged, resolved; may be repeated.")] = None,
    severity: Annotated[list[str] | None, Query(description="critical, high, medium, low; may be repeated.")] = None,
    gate_id: Annotated[str | None, Query(max_length=128)] = None,
    limit: paging.Limit = 50,
    cursor: paging.Cursor = None,
) -> Page[AlertOut]:
    """List alerts, the most urgent first: unacknowledged, then severity, then the day to respond by."""
    states, severities = _known("state", state, STATES), _known("severity", severity, SEVERITIES)
    query = {"list": "alerts", "state": states, "severity": severities, "gate_id": gate_id}
    after = paging.decode(cursor, query, *queries.URGENCY_KINDS)
    with here.engine.connect() as connection:
        found = queries.alerts_after(
            connection, states=states, severities=severities, gate_id=gate_id, after=after, limit=limit + 1
        )
        held = set(store.list_held(connection))
    shown = found[:limit]
    following = paging.encode(queries.urgency(shown[-1]), query) if len(found) > limit else None
    return Page(items=[_alert_out(alert, held) for alert in shown], next=following)


@router.get("/{alert_id}", dependencies=[needs("alerts:read")])
def get_alert(here: Here, alert_id: str) -> AlertOut:
    """Show one alert."""
    with here.engine.connect() as connection:
        return _alert_out(store.get_alert(connection, alert_id), store.list_held(connection))


@router.post("/{alert_id}/acknowledge")
def acknowledge_alert(here: Here, request: Request, who: Annotated[Principal, needs("alerts:write")], alert_id: str) -> AlertOut:
    """Take an open alert on, so that others see that somebody does."""
    acknowledge(here, alert_id, actor_of(who, request))
    return get_alert(here, alert_id)


@router.post("/{alert_id}/resolve")
def resolve_alert(
    here: Here, request: Request, who: Annotated[Principal, needs("alerts:write")], alert_id: str, found: ResolveIn
) -> AlertOut:
    """End an alert, saying what was found."""
    resolve(here, alert_id, found, actor_of(who, request))
    return get_alert(here, alert_id)


def acknowledge(here: Context, alert_id: str, actor: store.Actor) -> Alert:
    """Acknowledge an alert; the console uses it too."""
    return _change(here, alert_id, actor, lambda alert: life.acknowledge(alert, by=actor.name, at=here.clock()))


def resolve(here: Context, alert_id: str, found: ResolveIn, actor: store.Actor) -> Alert:
    """Resolve an alert with what was found; the console uses it too."""

    def decide(alert: Alert) -> Change:
        return life.resolve(
            alert,
            resolution="by_person",
            by=actor.name,
            at=here.clock(),
            finding=found.finding,
            note=found.note or None,
        )

    return _change(here, alert_id, actor, decide)


def _change(here: Context, alert_id: str, actor: store.Actor, decide: Callable[[Alert], Change]) -> Alert:
    with writing(here.engine) as connection:
        change = decide(store.get_alert(connection, alert_id))
        alert = store.apply_change(connection, change, actor=actor, public_url=here.public_url)
        if alert.finding is not None:
            keep_finding(connection, alert)
        return alert
