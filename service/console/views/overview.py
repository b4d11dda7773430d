"""The first page: is the system alive, what needs doing, how does every gate stand. It decides nothing and asks no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.engine import Connection

from models.watch import AlarmRate
from service import hold, store
from service.alerts import SEVERITIES, Notice
from service.api import queries
from service.api.context import ModelInfo
from service.api.queries import GateStanding
from service.console.views.parts import WORTH_A_WORD, ActionRow, Fleet, action, look_of, percent, whole_fleet, word_of
from service.console.views.strip import StripItem, strip_of
from service.console.words import Words, site_day
from service.drift_watch import standing

ALERTS_LOOKED_AT = 500
ACTIONS_SHOWN = 50
NOTICES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Cell:
    """One gate in the fleet grid; `look` is a severity or a state."""

    gate_id: str
    name: str
    look: str
    word: str
    detail: str


@dataclass(frozen=True, slots=True)
class Station:
    """One station's row of the fleet grid."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class NoticeRow:
    """One notice of low severity."""

    text: str
    gate_id: str | None
    gate: str
    since: str


@dataclass(frozen=True, slots=True)
class AlarmRateLine:
    """What false alarms came to in a year, against their budget."""

    text: str
    is_over_budget: bool


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything on the first page."""

    strip: tuple[StripItem, ...]
    counts: Mapping[str, int]
    without_verdict: int
    actions: tuple[ActionRow, ...]
    actions_left_out: int
    nothing_to_do: str
    on_hold: str
    alarm_rate: AlarmRateLine | None
    drift: str
    notices: tuple[NoticeRow, ...]
    stations: tuple[Station, ...]


def overview(connection: Connection, now: datetime, words: Words, champion: ModelInfo | None) -> Overview:
    """Gather the first page."""
    fleet = whole_fleet(connection, now)
    run = store.last_scoring_run(connection)
    unresolved = store.alerts_by_urgency(connection, limit=ALERTS_LOOKED_AT)
    # where two must be answered on the same day, the likelier failure comes first
    unresolved.sort(key=lambda alert: [*queries.urgency(alert)[:3], -alert.p_14d])
    unresolved = unresolved[:ACTIONS_SHOWN]
    counts = store.count_alerts(connection)
    without_verdict = sum(one.state in ("no_verdict", "stale") for one in fleet.standings.values())
    return Overview(
        strip=strip_of(connection, fleet, run, now, words, champion),
        counts={severity: counts[severity] for severity in reversed(SEVERITIES)},
        without_verdict=without_verdict,
        actions=tuple(action(alert, fleet, now, words) for alert in unresolved),
        actions_left_out=max(0, sum(counts.values()) - len(unresolved)),
        nothing_to_do=_nothing_to_do(run, len(fleet.standings) - without_verdict, without_verdict, words),
        on_hold=_on_hold(connection, now, words),
        alarm_rate=_alarm_rate(store.last_alarm_rate(connection), words),
        drift=_drift(connection, champion, now, words),
        notices=tuple(_notice(notice, fleet, now, words) for notice in store.open_notices(connection)[:NOTICES_SHOWN]),
        stations=_stations(fleet, words),
    )


def _nothing_to_do(run: store.Row | None, judged: int, without_verdict: int, words: Words) -> str:
    """Say what an empty list means; where nobody knows, it must not read like good news."""
    if run is None or judged == 0:
        return f"{words('actions.none')} {words('actions.none_judged')}"
    day = site_day(run["as_of"], "UTC")
    text = f"{words('actions.none')} {words('actions.none_scored', day=day, n=judged)}"
    return f"{text} {words('actions.some_unjudged', n=without_verdict)}" if without_verdict else text


def _on_hold(connection: Connection, now: datetime, words: Words) -> str:
    notice = hold.current(connection)
    if notice is None:
        return ""
    told = {"gates": notice.detail["gates"], "of": notice.detail["gates_with_verdict"], "n": store.count_held(connection)}
    return words("on_hold.value", since=words.duration(now - notice.opened_at), **told)


def _drift(connection: Connection, champion: ModelInfo | None, now: datetime, words: Words) -> str:
    if champion is None:
        return ""
    found = standing(connection, champion.version, champion.has_reference, now)
    if found.status != "drift" or found.report is None or found.since is None:
        return words(f"drift.{found.status.replace(' ', '_')}")
    parts = sorted({name.partition("_")[0] for name in found.report["drifted"]})
    named = words("drift.and").join(words.code("drift.of", part) for part in parts)
    text = words("drift.drift", since=words.duration(now - found.since), of=named or words("drift.fading"))
    return f"{text} {words('drift.train')}" if found.suggests_training else text


def _alarm_rate(rate: AlarmRate | None, words: Words) -> AlarmRateLine | None:
    if rate is None:
        return None
    budget = f"{rate.budget_per_gate_year:g}"
    if rate.per_gate_year is None:
        return AlarmRateLine(words("alarm_rate.too_early", budget=budget), False)
    counted = {"n": rate.false_alarms, "years": f"{rate.gate_years:.1f}", "rate": f"{rate.per_gate_year:.2f}"}
    return AlarmRateLine(words("alarm_rate.value", **counted, budget=budget), rate.is_over_budget)


def _notice(notice: Notice, fleet: Fleet, now: datetime, words: Words) -> NoticeRow:
    gate_id = notice.gate_id or ""
    known = gate_id in fleet.standings
    where = f"{fleet.station_name(gate_id, words)} · {fleet.gate_name(gate_id, words)}" if known else notice.key
    return NoticeRow(words.code("notice", notice.kind), notice.gate_id, where, words.age(notice.opened_at, now))


def _stations(fleet: Fleet, words: Words) -> tuple[Station, ...]:
    cells: dict[str, list[Cell]] = {}
    for gate_id, one in fleet.standings.items():
        cells.setdefault(one.gate["station_id"], []).append(_cell(one, fleet.gate_name(gate_id, words), words))

    def along_the_river(station_id: str) -> tuple[str, bool, float, str]:
        row = fleet.station(station_id)
        km = row["river_km"]
        return (row["river"] or "", km is None, -(km or 0.0), station_id)

    return tuple(
        Station(
            name=fleet.station_name(cells[station_id][0].gate_id, words),
            cells=tuple(cells[station_id]),
        )
        for station_id in sorted(cells, key=along_the_river)
    )


def _cell(one: GateStanding, name: str, words: Words) -> Cell:
    if one.alerts:
        worst = max(one.alerts, key=lambda alert: alert.p_14d)
        detail = f"{words.code('component', worst.component)} {percent(worst.p_14d)}"
    elif one.reason:
        detail = words.code("short", one.reason)
    elif one.forecast and one.forecast["p_14d"] >= WORTH_A_WORD:
        detail = words("fleet.probability", percent=percent(one.forecast["p_14d"]))
    else:
        detail = ""
    return Cell(one.gate["gate_id"], name, look_of(one), word_of(one, words), detail)
