"""The alert page: why, what to do, what happened so far and who was told. It decides nothing and asks no clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from sqlalchemy.engine import Connection

from service import store
from service.console.views.parts import ActionRow, action, code_if_any, fleet_of_one, percent
from service.console.words import Words, site_time
from service.reasons import reason


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
    mode_share: str
    finding: str
    evidence: tuple[str, ...]
    history: tuple[Step, ...]
    notified: tuple[Step, ...]


def alert_page(connection: Connection, alert_id: str, now: datetime, words: Words) -> AlertPage:
    """Gather an alert's page; `store.NotFound` when there is no such alert."""
    alert = store.get_alert(connection, alert_id)
    fleet = fleet_of_one(connection, alert.gate_id, now)
    zone = fleet.zone(alert.gate_id)
    # a robot's URL holds its token: people who may see alerts see the receiver's host only
    receivers = {
        row["endpoint_id"]: row["description"] or urlsplit(row["url"]).hostname for row in store.list_endpoints(connection)
    }
    return AlertPage(
        row=action(alert, fleet, now, words),
        state=words(f"state.{alert.state}"),
        opened=site_time(alert.opened_at, zone),
        p_7d=percent(alert.p_7d),
        p_21d=percent(alert.curve[20]),
        calibrated=alert.confidence == "calibrated",
        mode_share="" if alert.failure_mode_share is None else percent(alert.failure_mode_share),
        finding=code_if_any(words, "finding", alert.finding),
        evidence=tuple(reason(item).in_locale(words.language) for item in alert.evidence),
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
