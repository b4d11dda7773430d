"""The strip above every page: is the system itself alive? It judges figures of the store and asks no clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.engine import Connection

from service import hold, store
from service.api.context import STALE_AFTER, ModelInfo
from service.console.views.parts import Fleet, whole_fleet
from service.console.words import Words, site_day, site_time

NO_NEW_DATA_AFTER = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class StripItem:
    """One figure of the system strip; `ok` is None where there is nothing to judge."""

    key: str
    label: str
    value: str
    note: str
    ok: bool | None


def system_strip(connection: Connection, now: datetime, words: Words, champion: ModelInfo | None) -> tuple[StripItem, ...]:
    """Is the system alive: data, scoring, model, notifications, time."""
    return strip_of(connection, whole_fleet(connection, now), store.last_scoring_run(connection), now, words, champion)


def strip_of(
    connection: Connection, fleet: Fleet, run: store.Row | None, now: datetime, words: Words, champion: ModelInfo | None
) -> tuple[StripItem, ...]:
    """Make the strip of a fleet and its last scoring run, both gathered already."""

    def item(key: str, value: str, note: str = "", ok: bool | None = None) -> StripItem:
        return StripItem(key, words(f"strip.{key}"), value, note, ok)

    standings = fleet.standings.values()
    total = len(standings)
    reporting = sum(not one.data_stale for one in standings)
    newest = max((one.last_seen for one in standings if one.last_seen), default=None)
    flowing = newest is not None and now - newest < NO_NEW_DATA_AFTER
    scored = run is not None and now - run["as_of"] <= 2 * STALE_AFTER
    uncalibrated = champion is not None and not champion.calibrated_here
    on_hold = hold.current(connection) is not None
    figures = store.delivery_figures(connection)
    failed, disabled = figures["by_state"].get("failed", 0), figures["endpoints_disabled"]
    receivers = len(store.list_endpoints(connection))
    none = words("strip.none")
    return (
        item(
            "data",
            words.age(newest, now) if newest else none,
            "" if flowing or newest is None else words("strip.data_late"),
            flowing if newest else None,
        ),
        item(
            "reporting",
            words("strip.reporting_value", n=reporting, total=total) if total else none,
            "" if reporting == total else words("strip.silent", n=total - reporting),
            reporting == total if total else None,
        ),
        item(
            "scored",
            site_day(run["as_of"], "UTC") if run else words("strip.not_yet"),
            "" if scored or run is None else words("strip.scored_late"),
            scored if run else None,
        ),
        item(
            "model",
            champion.version if champion else words("strip.no_model"),
            words("strip.on_hold") if on_hold else words("strip.uncalibrated") if uncalibrated else "",
            champion is not None and not on_hold,
        ),
        item(
            "webhooks",
            words("strip.webhooks_value", pending=figures["pending"], failed=failed)
            if receivers
            else words("strip.webhooks_none"),
            words("strip.webhooks_off", n=disabled) if disabled else "",
            failed == 0 and not disabled if receivers else None,
        ),
        item("clock", site_time(now, fleet.zone(next(iter(fleet.standings), "")))),
    )
