"""What a model was shown of each gate and day, packed, and the reports that compare it with what the model learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.store.tables import Row, all_rows, drift_days, drift_reports, first_row


def save_drift_days(connection: Connection, rows: Sequence[Row]) -> None:
    """Keep what was shown of gates on a day that was not kept yet."""
    if rows:
        connection.execute(sa.insert(drift_days), list(rows))


def load_drift_days(
    connection: Connection, after: datetime, until: datetime, model_version: str
) -> list[tuple[str, datetime, bytes]]:
    """Gate, day and what was shown of each day after `after` and up to `until`, to one model, by gate and day."""
    day = drift_days.c
    query = sa.select(day.gate_id, day.as_of, day.shown).where(
        day.as_of > after, day.as_of <= until, day.model_version == model_version
    )
    return [(row.gate_id, row.as_of, row.shown) for row in connection.execute(query.order_by(day.gate_id, day.as_of))]


def forget_drift_days(connection: Connection, until: datetime) -> None:
    """Forget what was shown on `until` and earlier; no window reaches back so far."""
    connection.execute(sa.delete(drift_days).where(drift_days.c.as_of <= until))


def save_drift_report(connection: Connection, report: Row) -> None:
    """Keep a day's report; a day scored again is compared again."""
    connection.execute(sa.delete(drift_reports).where(drift_reports.c.as_of == report["as_of"]))
    connection.execute(sa.insert(drift_reports).values(**report))


def last_drift_reports(connection: Connection, model_version: str, limit: int = 1) -> list[Row]:
    """The newest reports about a model, the newest first."""
    report = drift_reports.c
    query = sa.select(drift_reports).where(report.model_version == model_version)
    return all_rows(connection.execute(query.order_by(report.as_of.desc()).limit(limit)))


def last_drift_report(connection: Connection) -> Row | None:
    """The newest report, about whichever model."""
    return first_row(connection.execute(sa.select(drift_reports).order_by(drift_reports.c.as_of.desc()).limit(1)))
