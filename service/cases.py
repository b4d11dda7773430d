"""From one day's forecasts to cases, alerts and notices of bad sensors, inside the caller's transaction.

When a case opens and closes is decided in `models.policy`, what an alert becomes in `service.alerts`; here a renewal, a
forecast and what was known before are brought together for them, and what they answer is written by `service.store`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, cast

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models import policy as rule
from models.explain import Evidence, Key
from models.labels import RENEWALS
from models.policy import CaseState, Policy, ScoredDay
from pipeline import historian
from pipeline.sensor_health import KINDS, read_lost
from service import alerts as life
from service import store
from service.alerts import Alert, Change, Notice, Outlook, Severity
from service.events import Gate
from service.evidence import for_alert
from service.store import SCORING

SENSOR_FAULT = "sensor.fault"


def text_of(value: Any) -> str:
    """A cell of a frame as text; nothing (None, NaN) is the empty one."""
    return "" if value is None or value != value else str(value)


@dataclass(frozen=True, slots=True)
class Renewal:
    """A repair or replacement, of one component or ('') of the whole gate."""

    component: str
    started_at: datetime
    ended_at: datetime | None
    recorded_at: datetime


def is_renewed(
    renewals: Iterable[Renewal],
    component: str,
    *,
    as_of: datetime,
    stepped_as_of: datetime | None,
    alert: Alert | None = None,
) -> bool:
    """Whether the component (for '', any part of the gate) went into repair or replacement since its last step.

    A record handed in while an alert is open also counts when the work ended after the alert began: the evidence it was
    opened on belongs to the old part. A crew writes its work order when the work is done.
    """
    for renewal in renewals:
        concerns = not component or renewal.component in ("", component)
        if not concerns or renewal.started_at >= as_of:
            continue
        if stepped_as_of is not None and renewal.started_at >= stepped_as_of:
            return True
        if alert is not None and renewal.recorded_at >= alert.opened_at:
            until = max(renewal.started_at, renewal.ended_at or renewal.started_at)
            if until >= alert.opened_as_of:
                return True
    return False


Explain = Callable[[Sequence[Key]], Mapping[Key, Sequence[Evidence]]]
"""Says why some components of the day are forecast what they are."""


@dataclass(frozen=True, slots=True)
class _Due:
    """An alert that is to be opened, or updated where there is one; the row of its case gets its id."""

    gate: Gate
    forecast: Mapping[str, Any]
    alert: Alert | None
    case: dict[str, Any]


class CaseDay:
    """The cases of one chunk of gates on one day; it belongs to the transaction it was made in."""

    def __init__(
        self,
        connection: Connection,
        policy: Policy,
        gate_ids: Sequence[str],
        rows: pd.DataFrame,
        as_of: datetime,
        now: datetime,
        public_url: str,
        explain: Explain,
    ) -> None:
        self.connection, self.policy, self.as_of, self.now = connection, policy, as_of, now
        self.gate_ids, self.public_url, self.explain = gate_ids, public_url, explain
        self.rows = rows
        self.gate_of_row = [str(gate_id) for gate_id in rows["gate_id"].tolist()]
        self.gates = store.load_gates(connection, gate_ids)
        self.known_cases = store.load_cases(connection, gate_ids)
        self.alerts = store.unresolved_alerts(connection, gate_ids)
        self.renewals = _load_renewals(connection, gate_ids, as_of)
        self.cases: list[dict[str, Any]] = []
        self.due: list[_Due] = []
        self.opened: list[dict[str, Any]] = []
        self.closed: list[dict[str, Any]] = []
        self.counts: Counter[str] = Counter()

    def step_gate(self, gate_id: str, forecasts: Sequence[Mapping[str, Any]]) -> None:
        """Step the cases of a gate's components; the gate's own case only where the model tells no components apart."""
        of_components = [row for row in forecasts if row["component"]]
        for forecast in of_components or forecasts:
            self._step(self.gates[gate_id], forecast["component"], forecast)

    def _step(self, gate: Gate, component: str, forecast: Mapping[str, Any]) -> None:
        key = (gate.gate_id, component)
        case, alert = self.known_cases.get(key), self.alerts.get(key)
        before = CaseState() if case is None else _case_state(case["state"])
        stepped_as_of = None if case is None else case["stepped_as_of"]
        renewals = self.renewals.get(gate.gate_id, ())
        renewed = is_renewed(renewals, component, as_of=self.as_of, stepped_as_of=stepped_as_of, alert=alert)
        after = rule.next_state(before, ScoredDay(forecast["p_14d"], renewed), self.policy)
        today = {"gate_id": gate.gate_id, "component": component, "as_of": self.as_of}
        if before.open and (renewed or not after.open):
            self.closed.append(today)
        if after.open and (renewed or not before.open):
            self.opened.append(today)

        if alert is not None and (renewed or not after.open):
            resolution = "repaired" if renewed else "auto_cleared"
            self._apply(life.resolve(alert, resolution=resolution, by=SCORING.name, at=self.now), gate, "resolved")
            alert = None
        case = {
            "gate_id": gate.gate_id,
            "component": component,
            "state": asdict(after),
            "stepped_as_of": self.as_of,
            "alert_id": alert.alert_id if alert is not None else None,
        }
        self.cases.append(case)
        # an alert that a person resolved stays so until its case has closed
        if after.open and forecast["curve"] is not None and (alert is not None or renewed or not before.open):
            self.due.append(_Due(gate, forecast, alert, case))

    def tell_cases(self) -> None:
        """Open and update the alerts of the open cases stepped so far; why, is asked for all of them at once."""
        told = self.explain([(due.gate.gate_id, due.forecast["component"]) for due in self.due])
        for due in self.due:
            key = (due.gate.gate_id, due.forecast["component"])
            outlook = self._outlook(due.gate, due.forecast, for_alert(told.get(key, ())))
            if due.alert is not None:
                self._apply(life.update(due.alert, outlook, self.now), due.gate, "updated")
            else:
                due.case["alert_id"] = self._apply(life.open_alert(*key, outlook, self.now), due.gate, "opened").alert_id
        self.due.clear()

    def _apply(self, change: Change, gate: Gate, count_as: str) -> Alert:
        if change.event_type is not None:
            self.counts[count_as] += 1
        return store.apply_change(
            self.connection,
            change,
            actor=SCORING,
            public_url=self.public_url,
            gate=gate,
            reason=change.after.resolution or "",
            held=True,  # until the whole fleet's day is judged
        )

    def _outlook(self, gate: Gate, forecast: Mapping[str, Any], evidence: tuple[Mapping[str, object], ...]) -> Outlook:
        return Outlook(
            as_of=self.as_of,
            curve=tuple(forecast["curve"]),
            failure_mode=forecast["failure_mode"],
            failure_mode_share=forecast["failure_mode_share"],
            model_version=forecast["model_version"],
            severity=cast(Severity, rule.severity(forecast["p_7d"], forecast["p_14d"], gate.criticality)),
            respond_by=rule.respond_by(forecast["curve"], self.as_of),
            confidence="calibrated" if self.policy.calibrated_here else "not_yet_calibrated_here",
            evidence=evidence,
        )

    def tell_sensor_faults(self) -> None:
        """Begin a notice for each channel that is newly not believed, and end it when it is again.

        A gate that has fallen silent has its own notice: of its channels nothing new is known.
        """
        reasons: dict[str, set[str]] = {}
        faulty: dict[str, dict[str, str]] = {}
        lost = self.rows["lost"].tolist() if "lost" in self.rows else [""] * len(self.rows)
        for gate_id, reason, told_lost in zip(self.gate_of_row, self.rows["reason"].tolist(), lost, strict=True):
            reasons.setdefault(gate_id, set()).add(text_of(reason))
            faulty.setdefault(gate_id, {}).update(read_lost(text_of(told_lost)))
        told: dict[str, dict[str, Notice]] = {}
        for notice in store.open_notices(self.connection, SENSOR_FAULT):
            told.setdefault(notice.gate_id or "", {})[notice.key] = notice
        for gate_id, channels in sorted(faulty.items()):
            if "stale" in reasons[gate_id]:
                continue
            known = told.get(gate_id, {})
            found = {f"{gate_id} {channel} {kind}": (channel, kind) for channel, kind in channels.items()}
            changed = [life.close_notice(known[key], self.now) for key in sorted(known.keys() - found.keys())]
            changed += [self._sensor_fault(gate_id, key, *found[key]) for key in sorted(found.keys() - known.keys())]
            for notice in changed:
                store.save_notice(self.connection, notice, actor=SCORING, gate=self.gates[gate_id])
                self.counts["notices"] += 1

    def _sensor_fault(self, gate_id: str, key: str, channel: str, kind: str) -> Notice:
        detail = {"as_of": life.rfc3339(self.as_of), "channel": channel, "fault": kind, "ne107": KINDS.get(kind, "")}
        component = channel.partition(".")[0]
        return life.open_notice(SENSOR_FAULT, key, self.now, gate_id=gate_id, component=component, detail=detail)


def _case_state(plain: Mapping[str, Any]) -> CaseState:
    return CaseState(**{**plain, "over": tuple(plain["over"])})


def _load_renewals(connection: Connection, gate_ids: Sequence[str], as_of: datetime) -> dict[str, list[Renewal]]:
    record = historian.maintenance.c
    query = (
        sa.select(record.gate_id, record.component, record.started_at, record.ended_at, record.recorded_at)
        .where(record.gate_id.in_(list(gate_ids)), record.kind.in_(RENEWALS), record.started_at < as_of)
        .order_by(record.maintenance_id)
    )
    found: dict[str, list[Renewal]] = {}
    for row in connection.execute(query):
        renewal = Renewal(row.component, row.started_at, row.ended_at, row.recorded_at)
        found.setdefault(row.gate_id, []).append(renewal)
    return found
