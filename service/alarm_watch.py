"""After each scored day: are false alarms within their budget? Kept for the API, the metrics and the console, and told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.labels import History
from models.watch import AlarmRate, alarm_rate, watched_days
from pipeline import historian
from pipeline.historian import from_ms
from service import alerts as life
from service import store
from service.store import SCORING

OVER_BUDGET = "alarms.over_budget"


def watch_alarms(
    connection: Connection, as_ofs: Sequence[datetime], now: datetime, *, budget_per_gate_year: float, model_version: str
) -> None:
    """Count the false alarms of the year before each scored day, in their order; tell people what the last one brings.

    The budget is that of the model at work, whichever model opened the cases: it is what operators are promised today.
    """
    if not as_ofs:
        return
    cases = store.load_case_log(connection, watched_days(min(as_ofs))[0])
    gate_ids = sorted({case.gate_id for case in cases})
    history, ends = _load_history(connection, gate_ids), _ends_of_record(connection, gate_ids)
    for as_of in sorted(as_ofs):
        days = store.gate_days(connection, *watched_days(as_of))
        rate = alarm_rate(cases, history, ends, gate_days=days, as_of=as_of, budget_per_gate_year=budget_per_gate_year)
        store.save_alarm_rate(connection, rate)
    _tell(connection, rate, now, model_version)


def _tell(connection: Connection, rate: AlarmRate, now: datetime, model_version: str) -> None:
    """Begin a notice when the rate is proven to be over the budget, and end it when it is within again."""
    under_way = store.open_notices(connection, OVER_BUDGET)
    if rate.is_over_budget and not under_way:
        notice = life.open_notice(OVER_BUDGET, model_version, now, detail=_detail(rate))
    elif rate.is_within_budget and under_way:
        notice = replace(life.close_notice(under_way[0], now), detail=_detail(rate))
    else:
        return
    store.save_notice(connection, notice, actor=SCORING)


def _detail(rate: AlarmRate) -> dict[str, object]:
    return {
        "as_of": life.rfc3339(rate.as_of),
        "false_alarms": rate.false_alarms,
        "gate_years": round(rate.gate_years, 2),
        "per_gate_year": None if rate.per_gate_year is None else round(rate.per_gate_year, 3),
        "lower_per_gate_year": round(rate.lower_per_gate_year, 3),
        "budget_per_gate_year": rate.budget_per_gate_year,
    }


def _load_history(connection: Connection, gate_ids: Sequence[str]) -> History:
    return History(historian.load_table(connection, historian.maintenance, gate_ids))


def _ends_of_record(connection: Connection, gate_ids: Sequence[str]) -> dict[str, datetime]:
    """The UTC midnight after each gate's last reading, as `models.train.record_ends` has it of a dataset."""
    gate = historian.gates.c
    query = sa.select(gate.gate_id, gate.last_seen_ms).where(gate.gate_id.in_(gate_ids), gate.last_seen_ms.is_not(None))
    return {row.gate_id: _midnight_after(from_ms(row.last_seen_ms)) for row in connection.execute(query)}


def _midnight_after(instant: datetime) -> datetime:
    return instant.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
