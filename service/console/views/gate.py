"""The gate page: how a gate stands, its forecast, its charts and its history. It decides nothing and asks no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.engine import Connection

from pipeline import historian
from pipeline.historian import to_ms
from pipeline.readings import DAY_MS
from pipeline.sensor_health import read_lost
from service import store
from service.api import queries
from service.api.context import ModelInfo
from service.console.views import charts
from service.console.views.charts import ForecastLine
from service.console.views.parts import ActionRow, action, code_if_any, fleet_of_one, look_of, word_of
from service.console.words import Words, site_day, site_time

OPERATIONS_SHOWN = 15
MAINTENANCE_SHOWN = 200


@dataclass(frozen=True, slots=True)
class OperationRow:
    """One movement in the table under the charts."""

    started: str
    duration: str
    velocities: str
    hottest: str


@dataclass(frozen=True, slots=True)
class MaintenanceRow:
    """One maintenance record in the table; the charts mark it too."""

    when: str
    kind: str
    component: str
    finding: str
    note: str


@dataclass(frozen=True, slots=True)
class GatePage:
    """Everything on a gate's page; `charts` goes to the browser as JSON."""

    gate_id: str
    name: str
    station: str
    kind: str
    look: str
    word: str
    reason: str
    last_seen: str
    alerts: tuple[ActionRow, ...]
    forecast_of: str
    calibrated: bool
    forecast: tuple[ForecastLine, ...]
    lost: tuple[str, ...]
    operations: tuple[OperationRow, ...]
    maintenance: tuple[MaintenanceRow, ...]
    charts: Mapping[str, Any]


def gate_page(
    connection: Connection, gate_id: str, now: datetime, days: int, words: Words, models: Sequence[ModelInfo]
) -> GatePage | None:
    """Gather a gate's page for the last `days` days; None when the gate is not known."""
    fleet = fleet_of_one(connection, gate_id, now)
    one = fleet.standings.get(gate_id)
    if one is None:
        return None
    zone = fleet.zone(gate_id)
    end_ms = to_ms(now) + 1
    start_ms = end_ms - days * DAY_MS
    operations = queries.operations_up_to_now(connection, gate_id, start_ms, end_ms)
    maintenance = queries.maintenance_before(
        connection, gate_id=gate_id, since=historian.from_ms(start_ms), limit=MAINTENANCE_SHOWN
    )
    rows = store.latest_forecast(connection, gate_id)
    by_version = {model.version: model for model in models}
    model = by_version.get(rows[0]["model_version"]) if rows else None
    rows = rows[:1] + sorted(rows[1:], key=lambda row: -(row["p_14d"] or 0.0))
    lines = tuple(charts.forecast_line(row, words) for row in rows)
    kinds = (code_if_any(words, "gate_type", one.gate["gate_type"]), code_if_any(words, "hoist", one.gate["hoist_type"]))
    hours = charts.TEMPERATURE_HOURS[days]
    return GatePage(
        gate_id=gate_id,
        name=fleet.gate_name(gate_id, words),
        station=fleet.station_name(gate_id, words),
        kind=", ".join(kind for kind in kinds if kind),
        look=look_of(one),
        word=word_of(one, words),
        reason=code_if_any(words, "reason", one.reason),
        last_seen=f"{site_time(one.last_seen, zone)} ({words.age(one.last_seen, now)})" if one.last_seen else "",
        alerts=tuple(action(alert, fleet, now, words) for alert in sorted(one.alerts, key=queries.urgency)),
        forecast_of=words("gate.forecast_of", day=site_day(rows[0]["as_of"], "UTC"), version=rows[0]["model_version"])
        if rows
        else "",
        calibrated=model is not None and model.calibrated_here,
        forecast=lines,
        lost=tuple(
            charts.lost_line(channel, kind, words) for channel, kind in read_lost(rows[0]["lost"] if rows else "").items()
        ),
        operations=tuple(_operation(row, zone, words) for row in operations[::-1][:OPERATIONS_SHOWN]),
        maintenance=tuple(_maintenance(row, zone, words) for row in maintenance),
        charts={
            "zone": zone or "UTC",
            "time": words("gate.time"),
            "from_s": start_ms / 1000,
            "to_s": end_ms / 1000,
            "forecast": charts.forecast_chart(lines, model, words),
            "vibration": charts.vibration_chart(operations, words),
            "temperature": charts.temperature_chart(connection, gate_id, start_ms, end_ms, hours, words),
            "marks": charts.marks(maintenance, words),
        },
    )


def _operation(one: queries.Operation, zone: str | None, words: Words) -> OperationRow:
    velocities, temperatures = [], []
    for key, value in sorted(one.summary.items()):
        if key.endswith(charts.VELOCITY):
            velocities.append(f"{words.code('component', key.split('.')[0])} {value:.2f}")
        elif key.endswith(".temperature:max"):
            temperatures.append((value, charts.channel_label(key.removesuffix(":max"), words)))
    hottest = max(temperatures, default=None)
    return OperationRow(
        started=site_time(one.started_at, zone),
        duration=words.duration(one.ended_at - one.started_at),
        velocities=", ".join(velocities),
        hottest=f"{hottest[0]:.1f} ({hottest[1]})" if hottest else "",
    )


def _maintenance(row: store.Row, zone: str | None, words: Words) -> MaintenanceRow:
    return MaintenanceRow(
        when=site_time(row["started_at"], zone),
        kind=words.code("kind", row["kind"]),
        component=words.code("component", row["component"]),
        finding=code_if_any(words, "finding", row["finding"]),
        note=row["note"] or "",
    )
