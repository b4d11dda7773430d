"""What each page shows, gathered from the store into plain values. It decides nothing and asks no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy.engine import Connection

from pipeline import historian
from pipeline.historian import to_ms
from pipeline.readings import DAY_MS
from service import store
from service.advice import recommended_action
from service.alerts import SEVERITIES, Alert, Notice
from service.api import queries
from service.api.context import STALE_AFTER, ModelInfo
from service.console.words import Words, site_day, site_time

NO_NEW_DATA_AFTER = timedelta(hours=1)
ALERTS_LOOKED_AT = 500
ACTIONS_SHOWN = 50
NOTICES_SHOWN = 10
OPERATIONS_SHOWN = 15
WORTH_A_WORD = 0.1
"""A probability within 14 days from which it is shown without an alert, and from which a failure mode is named."""

TEMPERATURE_HOURS = {7: 2, 30: 24, 90: 24}
"""Of how many hours the charts show the highest temperature, by the days shown."""

COMPONENTS = ("", "motor", "gearbox", "brake", "leaf", "hydraulic", "screw", "drum")
"""Their order gives each component one colour in every chart."""

SHAPES = {
    "critical": "octagon",
    "high": "triangle",
    "medium": "diamond",
    "low": "circle",
    "normal": "ring",
    "no_verdict": "hatch",
    "stale": "hatch",
}
"""Severity and state are told by shape and word, and only then by colour."""


@dataclass(frozen=True, slots=True)
class StripItem:
    """One figure of the system strip; `ok` is None where there is nothing to judge."""

    key: str
    label: str
    value: str
    note: str
    ok: bool | None


@dataclass(frozen=True, slots=True)
class ActionRow:
    """One alert in the list of what needs doing."""

    alert: Alert
    gate: str
    station: str
    problem: str
    component: str
    action: str
    percent: str
    respond_by: str
    due: str
    overdue: bool


@dataclass(frozen=True, slots=True)
class Cell:
    """One gate in the fleet grid; `look` is a severity or a state."""

    gate_id: str
    name: str
    look: str
    word: str
    detail: str
    data_stale: bool


@dataclass(frozen=True, slots=True)
class Station:
    """One station's row of the fleet grid."""

    name: str
    river: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class NoticeRow:
    """One notice of low severity."""

    text: str
    gate_id: str | None
    gate: str
    since: str


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything on the first page."""

    strip: tuple[StripItem, ...]
    counts: Mapping[str, int]
    without_verdict: int
    gates: int
    actions: tuple[ActionRow, ...]
    actions_left_out: int
    nothing_to_do: str
    notices: tuple[NoticeRow, ...]
    stations: tuple[Station, ...]


@dataclass(frozen=True, slots=True)
class _Fleet:
    standings: tuple[queries.GateStanding, ...]
    stations: Mapping[str, store.Row]
    run: store.Row | None

    def zone(self, gate_id: str | None = None) -> str | None:
        """The zone of a gate's station, or the first station's where no gate is meant."""
        for one in self.standings:
            if gate_id in (None, one.gate["gate_id"]):
                return self.stations.get(one.gate["station_id"], {}).get("time_zone")
        return None


def strip(connection: Connection, now: datetime, words: Words, champion: ModelInfo | None) -> tuple[StripItem, ...]:
    """Is the system alive: data, scoring, model, notifications, time."""
    return _strip(connection, _fleet(connection, now), now, words, champion)


def overview(connection: Connection, now: datetime, words: Words, champion: ModelInfo | None) -> Overview:
    """Gather the first page: is the system alive, what needs doing, how does every gate stand."""
    fleet = _fleet(connection, now)
    by_gate = {one.gate["gate_id"]: one for one in fleet.standings}
    unresolved = queries.alerts_after(
        connection, states=store.UNRESOLVED, severities=None, gate_id=None, after=None, limit=ALERTS_LOOKED_AT
    )
    # where two must be answered on the same day, the likelier failure comes first
    unresolved.sort(key=lambda alert: [*queries.urgency(alert)[:3], -alert.p_14d])
    unresolved = unresolved[:ACTIONS_SHOWN]
    counts = store.count_alerts(connection)
    without_verdict = sum(one.state in ("no_verdict", "stale") for one in fleet.standings)
    return Overview(
        strip=_strip(connection, fleet, now, words, champion),
        counts={severity: counts[severity] for severity in reversed(SEVERITIES)},
        without_verdict=without_verdict,
        gates=len(fleet.standings),
        actions=tuple(_action(alert, by_gate.get(alert.gate_id), fleet, now, words) for alert in unresolved),
        actions_left_out=max(0, sum(counts.values()) - len(unresolved)),
        nothing_to_do=_nothing_to_do(fleet, without_verdict, words),
        notices=tuple(_notice(notice, by_gate, fleet, now, words) for notice in store.open_notices(connection)[:NOTICES_SHOWN]),
        stations=_stations(fleet, words),
    )


def _nothing_to_do(fleet: _Fleet, without_verdict: int, words: Words) -> str:
    """Say what an empty list means; where nobody knows, it must not read like good news."""
    judged = len(fleet.standings) - without_verdict
    if fleet.run is None or judged == 0:
        return f"{words('actions.none')} {words('actions.none_judged')}"
    day = site_day(fleet.run["as_of"], "UTC")
    text = f"{words('actions.none')} {words('actions.none_scored', day=day, n=judged)}"
    return f"{text} {words('actions.some_unjudged', n=without_verdict)}" if without_verdict else text


def _fleet(connection: Connection, now: datetime) -> _Fleet:
    return _Fleet(
        standings=tuple(queries.gate_standings(connection, now)),
        stations=queries.stations(connection),
        run=store.last_scoring_run(connection),
    )


def _strip(
    connection: Connection, fleet: _Fleet, now: datetime, words: Words, champion: ModelInfo | None
) -> tuple[StripItem, ...]:
    newest = max((one.last_seen for one in fleet.standings if one.last_seen), default=None)
    reporting = sum(not one.data_stale for one in fleet.standings)
    total = len(fleet.standings)
    run, none = fleet.run, words("strip.none")
    figures = store.delivery_figures(connection)
    failed = figures["by_state"].get("failed", 0)
    receivers = len(store.list_endpoints(connection))
    flowing = newest is not None and now - newest < NO_NEW_DATA_AFTER
    scored = run is not None and now - run["as_of"] <= 2 * STALE_AFTER
    uncalibrated = champion is not None and not champion.calibrated_here
    return (
        StripItem(
            "data",
            words("strip.data"),
            words.age(newest, now) if newest else none,
            "" if flowing or newest is None else words("strip.data_late"),
            flowing if newest else None,
        ),
        StripItem(
            "reporting",
            words("strip.reporting"),
            words("strip.reporting_value", n=reporting, total=total) if total else none,
            "" if reporting == total else words("strip.silent", n=total - reporting),
            reporting == total if total else None,
        ),
        StripItem(
            "scored",
            words("strip.scored"),
            site_day(run["as_of"], "UTC") if run else words("strip.not_yet"),
            "" if scored or run is None else words("strip.scored_late"),
            scored if run else None,
        ),
        StripItem(
            "model",
            words("strip.model"),
            champion.version if champion else words("strip.no_model"),
            words("strip.uncalibrated") if uncalibrated else "",
            champion is not None,
        ),
        StripItem(
            "webhooks",
            words("strip.webhooks"),
            words("strip.webhooks_value", pending=figures["pending"], failed=failed)
            if receivers
            else words("strip.webhooks_none"),
            words("strip.webhooks_off", n=figures["endpoints_disabled"]) if figures["endpoints_disabled"] else "",
            failed == 0 and not figures["endpoints_disabled"] if receivers else None,
        ),
        StripItem("clock", words("strip.clock"), site_time(now, fleet.zone()), "", None),
    )


def _action(alert: Alert, one: queries.GateStanding | None, fleet: _Fleet, now: datetime, words: Words) -> ActionRow:
    gate, station = _names(one, alert.gate_id, fleet, words)
    recommended = recommended_action(alert.component, alert.failure_mode)
    return ActionRow(
        alert=alert,
        gate=gate,
        station=station,
        problem=words.code("mode", alert.failure_mode),
        component=words.code("component", alert.component),
        action=recommended.text.in_locale(words.language),
        percent=percent(alert.p_14d),
        respond_by=site_day(alert.respond_by, fleet.zone(alert.gate_id)),
        due=words.due(alert.respond_by, now),
        overdue=alert.respond_by < now,
    )


def _names(one: queries.GateStanding | None, gate_id: str, fleet: _Fleet, words: Words) -> tuple[str, str]:
    if one is None:
        return gate_id, ""
    gate, station_id = one.gate, one.gate["station_id"]
    station = fleet.stations.get(station_id, {"name": None, "name_zh": None})
    return (
        words.name(gate["name"], gate["name_zh"], gate_id),
        words.name(station["name"], station["name_zh"], station_id),
    )


def _notice(notice: Notice, by_gate: Mapping[str, queries.GateStanding], fleet: _Fleet, now: datetime, words: Words) -> NoticeRow:
    one = by_gate.get(notice.gate_id or "")
    gate = " · ".join(reversed(_names(one, one.gate["gate_id"], fleet, words))) if one else notice.key
    return NoticeRow(words.code("notice", notice.kind), notice.gate_id, gate, words.age(notice.opened_at, now))


def _stations(fleet: _Fleet, words: Words) -> tuple[Station, ...]:
    cells: dict[str, list[Cell]] = {}
    for one in fleet.standings:
        cells.setdefault(one.gate["station_id"], []).append(_cell(one, fleet, words))

    def along_the_river(station_id: str) -> tuple[str, bool, float, str]:
        row = fleet.stations.get(station_id, {})
        km = row.get("river_km")
        return (row.get("river") or "", km is None, -(km or 0.0), station_id)

    found = []
    for station_id in sorted(cells, key=along_the_river):
        row = fleet.stations.get(station_id, {"name": None, "name_zh": None, "river": None})
        name = words.name(row["name"], row["name_zh"], station_id)
        found.append(Station(name, row["river"] or "", tuple(cells[station_id])))
    return tuple(found)


def _cell(one: queries.GateStanding, fleet: _Fleet, words: Words) -> Cell:
    look = one.severity or one.state
    if one.alerts:
        worst = max(one.alerts, key=lambda alert: alert.p_14d)
        detail = f"{words.code('component', worst.component)} {percent(worst.p_14d)}"
    elif one.reason:
        detail = words.code("short", one.reason)
    elif one.forecast and one.forecast["p_14d"] >= WORTH_A_WORD:
        detail = words("fleet.probability", percent=percent(one.forecast["p_14d"]))
    else:
        detail = ""
    word = words(f"severity.{look}") if one.alerts else words(f"gate_state.{look}")
    name = _names(one, one.gate["gate_id"], fleet, words)[0]
    return Cell(one.gate["gate_id"], name, look, word, detail, one.data_stale)


def percent(p: float) -> str:
    r"""Say a probability; what rounds to none or to certainty is said as a bound.

    Examples
    --------
    >>> percent(0.724), percent(0.0004), percent(0.9991)
    ('72\xa0%', '< 1\xa0%', '> 99\xa0%')
    """
    if p < 0.01:
        return "< 1\u00a0%"
    return "> 99\u00a0%" if p > 0.99 else f"{p:.0%}".replace("%", "\u00a0%")


@dataclass(frozen=True, slots=True)
class ForecastLine:
    """One line of the forecast table and chart."""

    component: str
    name: str
    curve: tuple[float, ...]
    p_7d: str
    p_14d: str
    p_21d: str
    half: str
    problem: str
    reason: str


@dataclass(frozen=True, slots=True)
class OperationRow:
    """One movement in the table under the charts."""

    started: str
    duration: str
    velocities: str
    hottest: str


@dataclass(frozen=True, slots=True)
class MaintenanceRow:
    """One maintenance record in the table and as a mark in the charts."""

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
    operations: tuple[OperationRow, ...]
    maintenance: tuple[MaintenanceRow, ...]
    charts: Mapping[str, Any]


def gate_page(
    connection: Connection, gate_id: str, now: datetime, days: int, words: Words, models: Sequence[ModelInfo]
) -> GatePage | None:
    """Gather a gate's page for the last `days` days; None when the gate is not known."""
    one = queries.gate_standing(connection, gate_id, now)
    if one is None:
        return None
    fleet = _Fleet((one,), queries.stations(connection), None)
    name, station = _names(one, gate_id, fleet, words)
    zone = fleet.zone()
    end_ms = to_ms(now) + 1
    start_ms = end_ms - days * DAY_MS
    operations = queries.operations_up_to_now(connection, gate_id, start_ms, end_ms)
    maintenance = queries.maintenance_before(connection, gate_id=gate_id, since=historian.from_ms(start_ms), limit=200)
    rows = store.latest_forecast(connection, gate_id)
    by_version = {model.version: model for model in models}
    model = by_version.get(rows[0]["model_version"]) if rows else None
    rows = rows[:1] + sorted(rows[1:], key=lambda row: -(row["p_14d"] or 0.0))
    lines = tuple(_forecast_line(row, words) for row in rows)
    gate = one.gate
    kind = ", ".join(
        words.code(family, gate[column])
        for family, column in (("gate_type", "gate_type"), ("hoist", "hoist_type"))
        if gate[column]
    )
    look = one.severity or one.state
    return GatePage(
        gate_id=gate_id,
        name=name,
        station=station,
        kind=kind,
        look=look,
        word=words(f"severity.{look}") if one.alerts else words(f"gate_state.{look}"),
        reason=words.code("reason", one.reason) if one.reason else "",
        last_seen=f"{site_time(one.last_seen, zone)} ({words.age(one.last_seen, now)})" if one.last_seen else "",
        alerts=tuple(_action(alert, one, fleet, now, words) for alert in sorted(one.alerts, key=queries.urgency)),
        forecast_of=words("gate.forecast_of", day=site_day(rows[0]["as_of"], "UTC"), version=rows[0]["model_version"])
        if rows
        else "",
        calibrated=model is not None and model.calibrated_here,
        forecast=lines,
        operations=tuple(_operation(row, zone, words) for row in operations[::-1][:OPERATIONS_SHOWN]),
        maintenance=tuple(_maintenance(row, zone, words) for row in maintenance),
        charts={
            "zone": zone or "UTC",
            "time": words("gate.time"),
            "from_s": start_ms / 1000,
            "to_s": end_ms / 1000,
            "forecast": _forecast_chart(lines, model, words),
            "vibration": _vibration_chart(operations, words),
            "temperature": _temperature_chart(connection, gate_id, start_ms, end_ms, TEMPERATURE_HOURS[days], words),
            "marks": [
                {
                    "s": to_ms(row["started_at"]) / 1000,
                    "label": f"{words.code('kind', row['kind'])}: {words.code('component', row['component'])}",
                }
                for row in maintenance
            ],
        },
    )


def _forecast_line(row: store.Row, words: Words) -> ForecastLine:
    known = row["verdict"] == "forecast"
    half = ""
    if known:
        day = row["ttf_p50_d"]
        half = words("gate.beyond") if day is None else words("gate.within", n=int(day))
    whole = not row["component"]
    return ForecastLine(
        component=row["component"],
        name=words("gate.whole") if whole else words.code("component", row["component"]),
        curve=tuple(row["curve"]) if known else (),
        p_7d=percent(row["p_7d"]) if known else "",
        p_14d=percent(row["p_14d"]) if known else "",
        p_21d=percent(row["p_21d"]) if known else "",
        half=half,
        problem=words.code("mode", row["failure_mode"]) if known and row["p_14d"] >= WORTH_A_WORD else "",
        reason="" if known else words.code("reason", row["reason"]),
    )


def _forecast_chart(lines: Sequence[ForecastLine], model: ModelInfo | None, words: Words) -> dict[str, Any]:
    return {
        "x": list(range(1, 22)),
        "x_label": words("gate.days"),
        "series": [
            {"label": line.name, **_look(line.component), "main": not line.component, "y": line.curve}
            for line in lines
            if line.curve
        ],
        "threshold": model.open_at if model else None,
        "threshold_label": words("gate.threshold"),
    }


def _vibration_chart(operations: Sequence[queries.Operation], words: Words) -> dict[str, Any]:
    ending = ".velocity_rms:median"
    keys = sorted({key for one in operations for key in one.summary if key.endswith(ending)})
    return {
        "x": [to_ms(one.started_at) / 1000 for one in operations],
        "unit": "mm/s",
        "series": [
            {
                "label": _channel_label(key.removesuffix(":median"), words),
                **_look(key),
                "y": [one.summary.get(key) for one in operations],
            }
            for key in keys
        ],
    }


def _temperature_chart(
    connection: Connection, gate_id: str, start_ms: int, end_ms: int, hours: int, words: Words
) -> dict[str, Any]:
    slots = historian.load_slots(connection, gate_id).values()
    buckets = max(1, round((end_ms - start_ms) / (hours * 3_600_000)))
    keys = [slot.channel.key for slot in slots if slot.channel.quantity in ("temperature", "ambient_temperature")]
    found = queries.bucket_channels(connection, gate_id, keys, start_ms, end_ms, buckets)
    grid = sorted({ts_ms for one in found for ts_ms in one.ts_ms})
    lines: list[dict[str, Any]] = []
    for one in found:
        told = dict(zip(one.ts_ms, one.high or [], strict=True))
        if told:
            line = {"label": _channel_label(one.key, words), **_look(one.key, [made["colour"] for made in lines])}
            lines.append({**line, "y": [told.get(ts_ms) for ts_ms in grid]})
    return {
        "x": [ts_ms / 1000 for ts_ms in grid],
        "unit": "°C",
        "title": words("gate.temperature", hours=hours),
        "series": lines,
    }


def _look(key: str, colours_so_far: Sequence[Any] = ()) -> dict[str, int]:
    """One colour per component in every chart; a component's second channel differs by its dashes."""
    component = key.split(".")[0]
    colour = COMPONENTS.index(component) if component in COMPONENTS else len(COMPONENTS)
    return {"colour": colour, "dash": colours_so_far.count(colour)}


def _channel_label(key: str, words: Words) -> str:
    component, *rest = key.split(".")
    point = rest[0] if len(rest) > 1 else ""
    name = words.code("component", component)
    if point:
        return f"{name}: {words.code('point', point)}"
    return words("gate.ambient") if rest[-1] == "ambient_temperature" else name


def _operation(one: queries.Operation, zone: str | None, words: Words) -> OperationRow:
    velocities, temperatures = [], []
    for key, value in sorted(one.summary.items()):
        if key.endswith(".velocity_rms:median"):
            velocities.append(f"{words.code('component', key.split('.')[0])} {value:.2f}")
        elif key.endswith(".temperature:max"):
            temperatures.append((value, _channel_label(key.removesuffix(":max"), words)))
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
        finding=words.code("finding", row["finding"]) if row["finding"] else "",
        note=row["note"] or "",
    )


@dataclass(frozen=True, slots=True)
class Step:
    """One line of an alert's history."""

    when: str
    what: str
    who: str


@dataclass(frozen=True, slots=True)
class AlertPage:
    """Everything on an alert's page."""

    row: ActionRow
    state: str
    opened: str
    p_7d: str
    p_21d: str
    calibrated: bool
    finding: str
    evidence: tuple[tuple[str, str], ...]
    history: tuple[Step, ...]
    notified: tuple[Step, ...]


def alert_page(connection: Connection, alert_id: str, now: datetime, words: Words) -> AlertPage:
    """Gather an alert's page; `store.NotFound` when there is no such alert."""
    alert = store.get_alert(connection, alert_id)
    one = queries.gate_standing(connection, alert.gate_id, now)
    fleet = _Fleet((one,) if one else (), queries.stations(connection), None)
    zone = fleet.zone()
    # a robot's URL holds its token: people who may see alerts see the receiver's host only
    receivers = {
        row["endpoint_id"]: row["description"] or urlsplit(row["url"]).hostname for row in store.list_endpoints(connection)
    }
    return AlertPage(
        row=_action(alert, one, fleet, now, words),
        state=words(f"state.{alert.state}"),
        opened=site_time(alert.opened_at, zone),
        p_7d=percent(alert.p_7d),
        p_21d=percent(alert.curve[20]),
        calibrated=alert.confidence == "calibrated",
        finding=words.code("finding", alert.finding) if alert.finding else "",
        evidence=tuple(_evidence(item, words) for item in alert.evidence),
        history=tuple(
            Step(site_time(row["at"], zone), words.code("event", row["action"]), row["actor"])
            for row in reversed(store.list_audit(connection, subject=alert_id))
        ),
        notified=tuple(
            Step(
                site_time(row["finished_at"] or row["created_at"], zone),
                f"{words.code('event', row['event_type'])}: {words.code('delivery', row['state'])}",
                receivers.get(row["endpoint_id"]) or row["endpoint_id"],
            )
            for row in store.list_deliveries(connection, subject=alert_id)
        ),
    )


def _evidence(item: Mapping[str, object], words: Words) -> tuple[str, str]:
    def number(value: object) -> str:
        return f"{value:.3g}" if isinstance(value, int | float) else str(value)

    text = number(item.get("value", ""))
    if item.get("unit") not in (None, "", "1"):
        text += f" {item['unit']}"
    if item.get("baseline") is not None:
        text += f" ({words('alert.usually', value=number(item['baseline']))})"
    return str(item.get("feature", "")), text
