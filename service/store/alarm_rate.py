"""The log of cases, and the rate of false alarms they came to, day by day."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.watch import AlarmRate, Case
from pipeline.historian import UtcMillis
from service.store.tables import Row, alarm_rates, all_rows, case_log, first_row, scoring_runs


def log_cases(connection: Connection, opened: Sequence[Row], closed: Sequence[Row]) -> None:
    """Note cases that closed, then cases that opened; a row has ``gate_id``, ``component`` and ``as_of``."""
    log = case_log.c
    if closed:
        connection.execute(
            sa.update(case_log)
            .where(
                log.gate_id == sa.bindparam("b_gate_id"), log.component == sa.bindparam("b_component"), log.closed_as_of.is_(None)
            )
            .values(closed_as_of=sa.bindparam("b_as_of", type_=UtcMillis)),
            [{f"b_{name}": value for name, value in row.items()} for row in closed],
        )
    if opened:
        columns = ("gate_id", "component", "opened_as_of")
        connection.execute(
            sa.insert(case_log),
            [dict(zip(columns, (row["gate_id"], row["component"], row["as_of"]), strict=True)) for row in opened],
        )


def load_case_log(connection: Connection, since: datetime) -> list[Case]:
    """Cases that were open at `since` or later."""
    still_open = sa.or_(case_log.c.closed_as_of.is_(None), case_log.c.closed_as_of >= since)
    return [Case(**row) for row in all_rows(connection.execute(sa.select(case_log).where(still_open)))]


def gate_days(connection: Connection, first: datetime, last: datetime) -> int:
    """Gates with a verdict, summed over the scored days from `first` to `last`, both included."""
    run = scoring_runs.c
    query = sa.select(sa.func.sum(run.gates_with_verdict)).where(run.as_of >= first, run.as_of <= last)
    return int(connection.scalar(query) or 0)


def save_alarm_rate(connection: Connection, rate: AlarmRate) -> None:
    """Keep a day's rate; a day scored again is counted again."""
    connection.execute(sa.delete(alarm_rates).where(alarm_rates.c.as_of == rate.as_of))
    connection.execute(sa.insert(alarm_rates).values({name: getattr(rate, name) for name in AlarmRate.__dataclass_fields__}))


def last_alarm_rate(connection: Connection) -> AlarmRate | None:
    """The rate of the newest scored day."""
    row = first_row(connection.execute(sa.select(alarm_rates).order_by(alarm_rates.c.as_of.desc()).limit(1)))
    return None if row is None else AlarmRate(**row)
