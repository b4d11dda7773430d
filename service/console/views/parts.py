"""What several pages show: a gate's names and standing, an alert's line, a probability. It decides nothing and asks no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.engine import Connection

from service import store
from service.advice import recommended_action
from service.alerts import Alert
from service.api import queries
from service.api.queries import GateStanding
from service.console.words import Words, site_day

WORTH_A_WORD = 0.1
"""A probability within 14 days from which it is shown without an alert, and from which a failure mode is named."""

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

_NAMELESS: store.Row = {"name": None, "name_zh": None, "river": None, "river_km": None, "time_zone": None}


@dataclass(frozen=True, slots=True)
class Fleet:
    """The gates that a page speaks of, by gate_id, and every station."""

    standings: Mapping[str, GateStanding]
    stations: Mapping[str, store.Row]

    def station(self, station_id: str) -> store.Row:
        """A station's row; one without a name where the station is not known."""
        return self.stations.get(station_id, _NAMELESS)

    def zone(self, gate_id: str) -> str | None:
        """The time zone of a gate's station."""
        one = self.standings.get(gate_id)
        return self.station(one.gate["station_id"])["time_zone"] if one else None

    def gate_name(self, gate_id: str, words: Words) -> str:
        """A gate's name; its id where the gate is not known."""
        one = self.standings.get(gate_id)
        return words.name(one.gate["name"], one.gate["name_zh"], gate_id) if one else gate_id

    def station_name(self, gate_id: str, words: Words) -> str:
        """The name of a gate's station; nothing where the gate is not known."""
        one = self.standings.get(gate_id)
        if one is None:
            return ""
        row = self.station(one.gate["station_id"])
        return words.name(row["name"], row["name_zh"], one.gate["station_id"])


def whole_fleet(connection: Connection, now: datetime) -> Fleet:
    """Gather every gate and how it stands."""
    found = queries.gate_standings(connection, now)
    return Fleet({one.gate["gate_id"]: one for one in found}, queries.stations(connection))


def fleet_of_one(connection: Connection, gate_id: str, now: datetime) -> Fleet:
    """Gather one gate and how it stands; an empty fleet where it is not known."""
    one = queries.gate_standing(connection, gate_id, now)
    return Fleet({gate_id: one} if one else {}, queries.stations(connection))


def look_of(one: GateStanding) -> str:
    """The severity of a gate's worst alert, else its state: the key of its shape and colour."""
    return one.severity or one.state


def word_of(one: GateStanding, words: Words) -> str:
    """Say how a gate stands."""
    return words(f"severity.{one.severity}") if one.severity else words(f"gate_state.{one.state}")


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


def action(alert: Alert, fleet: Fleet, now: datetime, words: Words) -> ActionRow:
    """Say what an alert asks for, and until when."""
    recommended = recommended_action(alert.component, alert.failure_mode)
    return ActionRow(
        alert=alert,
        gate=fleet.gate_name(alert.gate_id, words),
        station=fleet.station_name(alert.gate_id, words),
        problem=words.code("mode", alert.failure_mode),
        component=words.code("component", alert.component),
        action=recommended.text.in_locale(words.language),
        percent=percent(alert.p_14d),
        respond_by=site_day(alert.respond_by, fleet.zone(alert.gate_id)),
        due=words.due(alert.respond_by, now),
        overdue=alert.respond_by < now,
    )


def code_if_any(words: Words, family: str, code: str | None) -> str:
    """Return the text of a code, or nothing where there is no code."""
    return words.code(family, code) if code else ""


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
