"""Work that people tell of: maintenance records by the API or from a CSV file, held to the same rules, and findings.

A file is taken as a whole or refused with everything that is wrong with it, line by line.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from sqlalchemy.engine import Connection

from pipeline import historian
from pipeline.dataset import TABLES
from pipeline.errors import BadInput
from pipeline.transfer import add_records
from service import store
from service.alerts import Alert, rfc3339
from service.api.schemas import MaintenanceIn

FUTURE_ALLOWANCE = timedelta(minutes=5)
"""How far the clock of whoever writes may be ahead of ours."""

MOST_TOLD = 20
"""Wrong lines told of one file."""

_GATES_AT_ONCE = 500


class WorkError(BadInput):
    """Records that cannot be taken; the message lists what is wrong, one a line."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """One field of a record that cannot be taken; the message names it, what was allowed and what came."""

    field: str
    code: str
    message: str


def wrongs(connection: Connection, records: Sequence[MaintenanceIn], now: datetime) -> list[list[Wrong]]:
    """Return for each record what is wrong with it beside its own words: its times, and the things it speaks of."""
    asked = sorted({record.gate_id for record in records})
    gate, alert = historian.gates.c.gate_id, store.alerts.c
    parts: dict[str, set[str]] = {}
    owner: dict[str, str] = {}
    for start in range(0, len(asked), _GATES_AT_ONCE):
        some = asked[start : start + _GATES_AT_ONCE]
        parts |= {gate_id: set() for gate_id in connection.scalars(sa.select(gate).where(gate.in_(some)))}
        for table in (historian.components, historian.channels):
            query = sa.select(table.c.gate_id, table.c.component).where(table.c.gate_id.in_(some))
            for gate_id, component in connection.execute(query):
                parts[gate_id].add(component)
        query = sa.select(alert.alert_id, alert.gate_id).where(alert.gate_id.in_(some))
        owner |= {row.alert_id: row.gate_id for row in connection.execute(query)}
    return [[*_wrong_times(record, now), *_wrong_references(record, parts, owner)] for record in records]


def _wrong_times(record: MaintenanceIn, now: datetime) -> Iterator[Wrong]:
    if record.ended_at is not None and record.ended_at < record.started_at:
        message = f"ended_at must not lie before started_at; got {rfc3339(record.ended_at)}"
        yield Wrong("ended_at", "ends_before_start", message)
    for name, instant in (("started_at", record.started_at), ("ended_at", record.ended_at)):
        if instant is not None and instant > now + FUTURE_ALLOWANCE:
            yield Wrong(name, "in_future", f"{name} must not lie in the future; got {rfc3339(instant)}")


def _wrong_references(record: MaintenanceIn, parts: dict[str, set[str]], owner: dict[str, str]) -> Iterator[Wrong]:
    if record.gate_id not in parts:
        yield Wrong("gate_id", "unknown_gate", f"gate_id must be a known gate; got {record.gate_id!r}")
        return
    known = parts[record.gate_id]
    if record.component and record.component not in known:
        message = f"component must be empty or one of {', '.join(sorted(known)) or 'none'}; got {record.component!r}"
        yield Wrong("component", "unknown_component", message)
    if record.alert_id is not None and owner.get(record.alert_id) != record.gate_id:
        message = f"alert_id must be an alert of gate {record.gate_id!r}; got {record.alert_id!r}"
        yield Wrong("alert_id", "unknown_alert", message)


def keep_finding(connection: Connection, alert: Alert) -> None:
    """Put down what was found of a resolved alert among the maintenance records, from which models learn.

    It is an inspection: a repair, or a failure, is a record of its own, which may name the alert.
    """
    row = {
        "gate_id": alert.gate_id,
        "component": alert.component,
        "kind": "inspection",
        "started_at": alert.resolved_at,
        "ended_at": alert.resolved_at,
        "finding": alert.finding,
        "alert_id": alert.alert_id,
        "note": alert.note,
        "recorded_at": alert.resolved_at,
    }
    connection.execute(sa.insert(historian.maintenance).values(row))


def import_file(connection: Connection, file: Path, now: datetime, actor: store.Actor) -> Counter[str]:
    """Take the records of a CSV file with the columns of maintenance.csv; doing it twice changes nothing.

    A record that is known by gate, component, kind and start takes what the file tells anew.

    Returns
    -------
    Counter
        Records by ``new``, ``changed`` and ``known``.

    Raises
    ------
    WorkError
        The file cannot be read, or something in it cannot be taken; then nothing of it was.
    """
    by_line, gaps = _read(file)
    records = list(by_line.values())
    told = wrongs(connection, records, now)
    gaps += [(line, wrong.message) for line, found in zip(by_line, told, strict=True) for wrong in found]
    if gaps:
        lines = [f"  - line {line}: {message}" for line, message in sorted(gaps)[:MOST_TOLD]]
        more = [f"  - and {len(gaps) - MOST_TOLD} more"] if len(gaps) > MOST_TOLD else []
        raise WorkError("\n".join([f"{file.name}: nothing was taken:", *lines, *more]))
    outcomes = add_records(connection, [record.model_dump() for record in records], now)
    for record, what in zip(records, outcomes, strict=True):
        if what != "known":
            after = record.model_dump(mode="json")
            action = "maintenance.recorded" if what == "new" else "maintenance.changed"
            store.append_audit(connection, at=now, actor=actor, action=action, subject=record.gate_id, after=after)
    return Counter(outcomes)


def _read(file: Path) -> tuple[dict[int, MaintenanceIn], list[tuple[int, str]]]:
    """The records of a file by the line each begins on, and what is wrong with the words of the others."""
    spec = TABLES["maintenance"]
    by_line: dict[int, MaintenanceIn] = {}
    first_at: dict[tuple[object, ...], int] = {}
    gaps: list[tuple[int, str]] = []
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream, restkey="", strict=True)
            missing = [name for name in spec.required if name not in (rows.fieldnames or ())]
            if missing:
                raise WorkError(f"{file.name}: must have the columns {', '.join(spec.required)}; it lacks {', '.join(missing)}")
            for row in rows:
                line = rows.line_num - sum(cell.count("\n") for cell in row.values() if isinstance(cell, str))
                if row.get(""):
                    gaps.append((line, f"must have {len(rows.fieldnames or ())} cells as the first line has; it has more"))
                    continue
                given = {name: row[name].strip() for name in spec.columns if (row.get(name) or "").strip()}
                try:
                    record = MaintenanceIn.model_validate(given)
                except ValidationError as error:
                    gaps += [(line, _told(item, given)) for item in error.errors()]
                    continue
                identity = (record.gate_id, record.component, record.kind, record.started_at)
                if identity in first_at:
                    message = f"gate, component, kind and start must differ from those of line {first_at[identity]}; keep one"
                    gaps.append((line, message))
                first_at.setdefault(identity, line)
                by_line[line] = record
    except OSError as error:
        raise WorkError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise WorkError(f"{file.name}: must be written in UTF-8; in a spreadsheet, save it as CSV UTF-8") from None
    except csv.Error as error:
        raise WorkError(f"{file.name}: must be a CSV file with commas; {error}") from None
    return by_line, gaps


def _told(error: ErrorDetails, given: dict[str, str]) -> str:
    """What pydantic found, in our words: the field, what is allowed, what came."""
    field = str(error["loc"][0])
    allowed = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if error["type"] == "missing":
        return f"{field} must not be empty"
    return f"{field}: {allowed}; got {given[field]!r}"
