"""The guard against a model gone wrong: when too many gates open cases at once, nobody is told before a person has looked.

A broken model, or a change of all sensors at once, makes cases of half a fleet overnight; operators who get forty notices on one
morning believe none of them afterwards. So every alert is born held (`service.store.held`), and after each scored day its
fleet is judged: either what is held goes out, or the model is put on hold, which is one notice `model.on_hold` to whoever
subscribes to it. Alerts go on being made and shown; what is told of sensors, silent gates and alerts told before goes on.
A hold ends by a person (`release`), by itself when few enough of those gates still have their case, or when another model is at
work.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection

from models.policy import CaseState
from service import alerts as life
from service import store
from service.alerts import Notice
from service.store import SCORING, Actor

log = logging.getLogger(__name__)

ON_HOLD = "model.on_hold"
AT_ONCE = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class HoldRule:
    """From when on cases are too many to be believed.

    Attributes
    ----------
    share : of the gates with a verdict that day
    gates : never fewer than these, however small the fleet

    Examples
    --------
    >>> HoldRule().is_flood(20, judged=100), HoldRule().is_flood(21, judged=100), HoldRule().is_flood(2, judged=4)
    (False, True, False)
    """

    share: float = 0.2
    gates: int = 3

    def is_flood(self, gates: int, judged: int) -> bool:
        """Whether so many gates with new cases are too many among those with a verdict."""
        return gates >= self.gates and gates > self.share * judged


@dataclass(frozen=True, slots=True)
class Released:
    """What became of the alerts that were held: `told` go out now, `dropped` are resolved and never do."""

    told: int
    dropped: int


class NotOnHold(store.Conflict):
    """There is nothing to release."""


def current(connection: Connection) -> Notice | None:
    """The hold under way, if there is one."""
    return next(iter(store.open_notices(connection, ON_HOLD)), None)


def judge_days(connection: Connection, as_ofs: Sequence[datetime], now: datetime, rule: HoldRule, model_version: str) -> None:
    """Judge scored days in their order: tell what was held until then, or put the model on hold, or end the hold.

    To judge a day again changes nothing.
    """
    for as_of in sorted(as_ofs):
        judged = store.gates_with_verdict(connection, as_of)
        hold = current(connection)
        if hold is not None:
            still = store.gates_with_new_cases(connection, _since(hold) - AT_ONCE, as_of, still_at=as_of)
            if not rule.is_flood(still, judged):
                reason = f"{still} of {judged} gates still have their case"
                _end(connection, hold, now, until=as_of, actor=SCORING, reason=reason)
            continue
        opened = store.gates_with_new_cases(connection, as_of - AT_ONCE, as_of)
        if rule.is_flood(opened, judged) and not _was_held(connection, as_of):
            detail = {
                "as_of": life.rfc3339(as_of),
                "model_version": model_version,
                "gates": opened,
                "gates_with_verdict": judged,
                **{f"held_from_{name}": value for name, value in asdict(rule).items()},
            }
            # a backlog is told at one instant: the day keeps two holds of it apart
            notice = life.open_notice(ON_HOLD, f"{model_version} {as_of.date()}", now, detail=detail)
            store.save_notice(connection, notice, actor=SCORING)
            log.warning("model %s is on hold: %d of %d gates opened cases as of %s", model_version, opened, judged, as_of.date())
        else:
            store.tell_held(connection, as_of)


def release(connection: Connection, now: datetime, *, actor: Actor, reason: str) -> Released:
    """A person ends the hold: what is held of alerts still open goes out, the rest is dropped.

    Raises
    ------
    NotOnHold
        No model is on hold.
    """
    hold = current(connection)
    if hold is None:
        raise NotOnHold("model: none is on hold")
    run = store.last_scoring_run(connection)
    # a day that is being scored right now is judged when it is done
    until = max(_since(hold), run["as_of"]) if run else _since(hold)
    return _end(connection, hold, now, until=until, actor=actor, reason=reason)


def withdraw_other(connection: Connection, as_of: datetime, now: datetime, *, model_version: str, public_url: str) -> None:
    """End a hold whose model is no longer at work, before the first day that another one scores.

    Its untold cases end with it: what the other model sees, it opens anew and tells. A case that a person has taken on stays.
    """
    hold = current(connection)
    if hold is None or hold.detail["model_version"] == model_version:
        return
    reason = f"model {model_version} is at work in place of {hold.detail['model_version']}"
    for alert_id in store.list_held(connection):
        alert = store.get_alert(connection, alert_id)
        if alert.state != "open":
            continue
        change = life.resolve(alert, resolution="model_withdrawn", by=SCORING.name, at=now)
        store.apply_change(connection, change, actor=SCORING, public_url=public_url, reason=reason)
        key = (alert.gate_id, alert.component)
        case = store.load_cases(connection, [alert.gate_id])[key]
        store.save_cases(connection, [{**case, "state": asdict(CaseState()), "alert_id": None}])
        store.log_cases(connection, [], [{"gate_id": key[0], "component": key[1], "as_of": as_of}])
    _end(connection, hold, now, until=as_of, actor=SCORING, reason=reason)


def _end(connection: Connection, hold: Notice, now: datetime, *, until: datetime, actor: Actor, reason: str) -> Released:
    held = store.list_held(connection, until)
    resolved = [alert_id for alert_id in held if store.get_alert(connection, alert_id).state == "resolved"]
    store.drop_held(connection, resolved, at=now, actor=actor, reason=reason)
    store.tell_held(connection, until)
    released = Released(len(held) - len(resolved), len(resolved))
    told: dict[str, Any] = {"reason": reason, "alerts_told": released.told, "alerts_dropped": released.dropped}
    ended = replace(life.close_notice(hold, now), detail={**hold.detail, **told})
    store.save_notice(connection, ended, actor=actor)
    return released


def _since(hold: Notice) -> datetime:
    return datetime.fromisoformat(str(hold.detail["as_of"]))


def _was_held(connection: Connection, as_of: datetime) -> bool:
    """Whether a hold of that day, or of a later one, was ended before: a person's word holds for the days behind it."""
    last = store.last_notice(connection, ON_HOLD)
    return last is not None and _since(last) >= as_of
