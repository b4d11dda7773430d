"""After each scored day: does the model see what it learnt from? Kept for the API, the metrics and the console, and told.

What was shown of a gate on a day is kept with its forecast (`day_rows`); the windows of `models.drift` are made of it. Whatever
is found, no model is trained or put to work by it: that is for people, who look at the sensors first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np
import pandas as pd
from sqlalchemy.engine import Connection

from models import drift
from models.drift import BEFORE_DAYS, FLEET_DAYS, GATE_DAYS, LOOKED_AT, QUIET_DAYS, Compared, Reference
from service import alerts as life
from service import store
from service.alerts import Notice
from service.store import SCORING

DRIFT = "model.drift"
SUGGEST_AFTER = timedelta(days=21)
"""From when on drift is a reason to suggest that a person trains anew (never to do it)."""

_DAY = timedelta(days=1)
_MONDAY = 0
_PACKED = np.dtype("<f4")


def day_rows(rows: pd.DataFrame, forecasts: pd.DataFrame, model_version: str) -> list[dict[str, Any]]:
    """What was shown of each gate on one day, as the store keeps it."""
    days = drift.gate_days(rows, forecasts)
    values = days[list(LOOKED_AT)].to_numpy(dtype=_PACKED)
    return [
        {"gate_id": gate_id, "as_of": as_of.to_pydatetime(), "model_version": model_version, "shown": of_gate.tobytes()}
        for gate_id, as_of, of_gate in zip(days["gate_id"], days["as_of"], values, strict=True)
    ]


def watch_drift(
    connection: Connection, as_ofs: Sequence[datetime], now: datetime, *, reference: Reference | None, model_version: str
) -> None:
    """Compare the fleet's last week for each scored day, each gate's last four weeks on Mondays; tell what is new."""
    if reference is not None:
        for as_of in sorted(as_ofs):
            store.save_drift_report(connection, _report(connection, reference, as_of, model_version))
            store.forget_drift_days(connection, as_of - (FLEET_DAYS + BEFORE_DAYS) * _DAY)
    _tell(connection, now, model_version)


def _report(connection: Connection, reference: Reference, as_of: datetime, model_version: str) -> dict[str, Any]:
    shown = drift.with_changes(_shown(connection, as_of, model_version))
    bins, gates, days = reference.bins(shown), shown["gate_id"].to_numpy(dtype=object), shown["as_of"]
    last = (days > as_of - FLEET_DAYS * _DAY).to_numpy()
    features = reference.compare_fleet(bins[last], gates[last])
    if as_of.weekday() == _MONDAY:
        month = (days > as_of - GATE_DAYS * _DAY).to_numpy()
        of_gates = reference.compare_gates(bins[month], gates[month])
        unlike = sorted(gate_id for gate_id, one in of_gates.items() if one.drifted)
    else:
        before = store.last_drift_reports(connection, model_version)
        unlike = before[0]["gates_unlike"] if before else []
    return {
        "as_of": as_of,
        "model_version": model_version,
        "drifted": [name for name, one in features.items() if one.drifted],
        "features": {name: _plain(one) for name, one in features.items()},
        "gates_unlike": unlike,
    }


def _shown(connection: Connection, as_of: datetime, model_version: str) -> pd.DataFrame:
    """What the model was shown of each gate on the days that a comparison looks back to."""
    kept = store.load_drift_days(connection, as_of - (FLEET_DAYS + BEFORE_DAYS) * _DAY, as_of, model_version)
    values = np.frombuffer(b"".join(packed for _, _, packed in kept), dtype=_PACKED).reshape(len(kept), len(LOOKED_AT))
    frame = pd.DataFrame(values, columns=list(LOOKED_AT))
    frame["gate_id"] = np.array([gate_id for gate_id, _, _ in kept], dtype=object)
    frame["as_of"] = pd.to_datetime([day for _, day, _ in kept], utc=True)
    return frame


def _plain(one: Compared) -> dict[str, Any]:
    """A comparison as JSON can hold it."""
    return {name: _number(value) for name, value in asdict(one).items()}


def _number(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _tell(connection: Connection, now: datetime, model_version: str) -> None:
    """Begin a notice when something has drifted, end it after a quiet week or with its model: one an episode."""
    under_way = current(connection)
    reports = store.last_drift_reports(connection, model_version, limit=QUIET_DAYS)
    drifted = [name for report in reports for name in report["drifted"]]
    if under_way is not None and (under_way.detail["model_version"] != model_version or not drifted):
        store.save_notice(connection, life.close_notice(under_way, now), actor=SCORING)
        under_way = None
    if under_way is None and reports and reports[0]["drifted"]:
        store.save_notice(connection, life.open_notice(DRIFT, model_version, now, detail=_detail(reports[0])), actor=SCORING)


def current(connection: Connection) -> Notice | None:
    """The drift under way, if there is one."""
    return next(iter(store.open_notices(connection, DRIFT)), None)


Status = Literal["no reference", "not enough data", "in line", "drift"]


@dataclass(frozen=True, slots=True)
class Standing:
    """How what the model at work is shown stands to what it learnt from.

    Attributes
    ----------
    status : `drift` while an episode is under way, from its first day until a quiet week is over
    since : when that began
    report : the newest comparison; None before the first
    suggests_training : drift for three weeks is a reason for a person to train anew
    """

    status: Status
    since: datetime | None
    report: store.Row | None
    suggests_training: bool


def standing(connection: Connection, model_version: str, has_reference: bool, now: datetime) -> Standing:
    """Say how the model at work stands."""
    report = next(iter(store.last_drift_reports(connection, model_version)), None)
    under_way = current(connection)
    if not has_reference:
        return Standing("no reference", None, None, False)
    if under_way is not None:
        return Standing("drift", under_way.opened_at, report, now - under_way.opened_at >= SUGGEST_AFTER)
    enough = report is not None and any(one["psi"] is not None for one in report["features"].values())
    return Standing("in line" if enough else "not enough data", None, report, False)


def _detail(report: Mapping[str, Any]) -> dict[str, object]:
    return {
        "as_of": life.rfc3339(report["as_of"]),
        "model_version": report["model_version"],
        "features": [{"feature": name, **report["features"][name]} for name in report["drifted"]],
        "gates_unlike": len(report["gates_unlike"]),
        "advice": "look at the sensors of these components first; nothing is retrained by itself",
    }
