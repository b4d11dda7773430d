"""Is this process alive, can it do its work, and the figures a monitoring system asks for. No key is needed and none is told."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import sqlalchemy as sa
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from pipeline import historian
from pipeline.historian import to_ms, writing
from service import hold, store
from service.alerts import rfc3339
from service.api.context import STALE_AFTER, Context, Here
from service.api.schemas import Check, Liveness, Readiness
from service.silence_watch import STALE

router = APIRouter(tags=["health"])

PROBE_SECONDS = 5.0
"""A database that has not taken a write for this long counts as not usable."""


@router.get("/livez")
async def check_alive() -> Liveness:
    """Tell that this process answers; nothing else is looked at."""
    return Liveness(status="pass")


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness, "description": "Not ready."}})
async def check_ready(here: Here) -> Response:
    """Tell whether the database takes writes, data comes in and a model is there."""
    checks = {"database": Check(status="fail", detail=f"no write within {PROBE_SECONDS:g} s")}
    with anyio.move_on_after(PROBE_SECONDS):
        checks = await anyio.to_thread.run_sync(_checks, here, abandon_on_cancel=True)
    worst = max((check.status for check in checks.values()), key=("pass", "warn", "fail").index)
    body = Readiness(status=worst, checks=checks)
    return JSONResponse(body.model_dump(), status_code=503 if worst == "fail" else 200)


def _checks(here: Context) -> dict[str, Check]:
    now = here.clock()
    checks = {}
    try:
        with writing(here.engine) as connection:
            historian.tally(connection, "write_probe", 0)
            newest = historian.data_clock(connection)
            run = store.last_scoring_run(connection)
            on_hold = hold.current(connection)
            held = store.count_held(connection)
    except SQLAlchemyError as error:
        return {"database": Check(status="fail", detail=f"no write: {type(error).__name__}")}
    checks["database"] = Check(status="pass", detail="takes writes")
    checks["data"] = _age_check("newest reading", newest, now)
    checks["scoring"] = _age_check("last scored day", run["as_of"] if run else None, now)
    champion = here.champion()
    if champion is None:
        checks["model"] = Check(status="fail", detail="no model is registered as champion")
    elif on_hold is not None:
        since = rfc3339(on_hold.opened_at)
        checks["model"] = Check(
            status="warn", detail=f"{champion.version} on hold since {since}: nobody is told of {held} alerts"
        )
    else:
        checks["model"] = Check(status="pass", detail=champion.version)
    return checks


def _age_check(what: str, instant: datetime | None, now: datetime) -> Check:
    if instant is None:
        return Check(status="warn", detail=f"{what}: none yet")
    age = now - instant
    late = age > (STALE_AFTER if what == "newest reading" else 2 * STALE_AFTER)
    return Check(status="warn" if late else "pass", detail=f"{what}: {age.total_seconds():.0f} s ago")


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def show_metrics(here: Here) -> Response:
    """Give the figures in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(here))
    return Response(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")


class _Figures(Collector):
    """Reads every figure from the database when it is asked, so that all processes tell the same."""

    def __init__(self, here: Context) -> None:
        self.here = here

    def collect(self) -> Iterator[Metric]:
        """Give one metric after the other."""
        now = self.here.clock()
        with self.here.engine.connect() as connection:
            tallies = historian.load_tallies(connection)
            alerts = store.count_alerts(connection)
            run = store.last_scoring_run(connection)
            deliveries = store.delivery_figures(connection)
            newest = historian.data_clock(connection)
            transitions = _transitions(connection)
            attempts = _attempts(connection)
            stale = _stale_gates(connection, now)
            rate = store.last_alarm_rate(connection)
            on_hold = hold.current(connection) is not None
            held = store.count_held(connection)
            drift = store.last_drift_report(connection)
        yield _counter("mqtt_messages_received", "Messages taken from MQTT.", "result", _received(tallies))
        if newest is not None:
            yield _gauge("newest_reading_timestamp_seconds", "Event time of the newest reading.", newest.timestamp())
        if run is not None:
            yield _gauge(
                "scoring_last_success_timestamp_seconds", "When a run was last finished.", run["finished_at"].timestamp()
            )
        by_severity = GaugeMetricFamily("sluicewatch_alerts_open", "Unresolved alerts.", labels=["severity"])
        for severity, n in alerts.items():
            by_severity.add_metric([severity], n)
        yield by_severity
        yield _counter("alert_transitions", "Steps of alerts.", "to", transitions)
        yield _gauge("gates_stale", "Gates silent for 24 hours, or told of by gate.data_stale.", stale)
        yield _counter("webhook_attempts", "Attempts to deliver a webhook.", "result", attempts)
        yield _gauge("webhook_pending", "Webhooks not yet delivered.", deliveries["pending"])
        oldest = deliveries["oldest_pending_at"]
        waited = (now - oldest).total_seconds() if oldest else 0.0
        yield _gauge("webhook_oldest_pending_seconds", "Age of the oldest webhook not yet delivered.", max(0.0, waited))
        yield _gauge("webhook_endpoints_disabled", "Receivers switched off.", deliveries["endpoints_disabled"])
        if rate is not None:
            if rate.per_gate_year is not None:
                yield _gauge("false_alarms_per_gate_year", "False alarms of the last 365 days.", rate.per_gate_year)
            yield _gauge("alarm_budget_per_gate_year", "False alarms that were agreed to.", rate.budget_per_gate_year)
        yield _gauge("model_on_hold", "1 while new alerts are told to nobody.", on_hold)
        yield _gauge("alerts_held", "Alerts that nobody has been told of.", held)
        if drift is not None:
            yield _drift(drift["features"])
        champion = self.here.champion()
        if champion:
            info = InfoMetricFamily("sluicewatch_model", "The model that scores now.")
            info.add_metric([], {"version": champion.version, "sha256": champion.sha256})
            yield info
        yield from _disk(self.here)


def _drift(features: Mapping[str, Mapping[str, Any]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "sluicewatch_drift_psi_ratio", "PSI over the 99th percentile of fleets without drift.", labels=["feature"]
    )
    for name, one in features.items():
        if one["psi"] is not None:
            family.add_metric([name], one["psi"] / one["psi_usual"])
    return family


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"sluicewatch_{name}", meaning, value=value)


def _counter(name: str, meaning: str, label: str, values: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"sluicewatch_{name}", meaning, labels=[label])
    for value, n in sorted(values.items()):
        family.add_metric([value], n)
    return family


def _received(tallies: dict[str, int]) -> dict[str, int]:
    return {
        "ok": tallies.get("messages_stored", 0),
        "quarantined": tallies.get("messages_quarantined", 0),
    }


def _transitions(connection: sa.Connection) -> dict[str, int]:
    table = store.events
    query = sa.select(table.c.type, sa.func.count()).where(table.c.type.like("alert.%")).group_by(table.c.type)
    return {row[0].removeprefix("alert."): row[1] for row in connection.execute(query)}


def _attempts(connection: sa.Connection) -> dict[str, int]:
    table = store.attempts
    result = sa.case((table.c.error == "", "delivered"), else_="failed")
    query = sa.select(result, sa.func.count()).group_by(result)
    return {"delivered": 0, "failed": 0} | {row[0]: row[1] for row in connection.execute(query)}


def _stale_gates(connection: sa.Connection, now: datetime) -> int:
    seen = historian.gates.c.last_seen_ms
    told = [notice.gate_id for notice in store.open_notices(connection, STALE)]
    late = sa.or_(seen.is_(None), seen <= to_ms(now - STALE_AFTER), historian.gates.c.gate_id.in_(told))
    return connection.scalar(sa.select(sa.func.count()).select_from(historian.gates).where(late)) or 0


def _disk(here: Context) -> Iterator[Metric]:
    file = here.engine.url.database
    if here.engine.dialect.name == "sqlite" and file:
        usage = shutil.disk_usage(Path(file).parent)
        yield _gauge("disk_free_ratio", "Free part of the database's disk.", usage.free / usage.total)
