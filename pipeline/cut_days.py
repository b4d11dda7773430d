"""Days as the historian keeps them: which are to be cut anew, and what cut ones told, as rows of packed numbers."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from pipeline.historian import Span, days, dirty_days, gates, operations, raw_from_ms, summary_names
from pipeline.readings import DAY_MS


def mark_dirty(connection: Connection, days: Iterable[tuple[str, int]]) -> None:
    """Note (gate_id, day_ms) pairs whose operations must be made anew, because readings of that day came in.

    The mark is another each time, so that who has cut a day can tell whether readings came meanwhile.
    """
    mark = secrets.randbits(62)
    rows = [(gate_id, day_ms, mark) for gate_id, day_ms in days]
    if rows:
        at = "?" if connection.dialect.name == "sqlite" else "%s"
        connection.exec_driver_sql(
            f"INSERT INTO dirty_days (gate_id, day_ms, mark) VALUES ({at}, {at}, {at}) "  # noqa: S608 - fixed words only
            "ON CONFLICT (gate_id, day_ms) DO UPDATE SET mark = excluded.mark",
            sorted(rows),
        )


def load_dirty_days(connection: Connection, gate_ids: Sequence[str], before_ms: int) -> dict[str, list[int]]:
    """Days (epoch ms) before `before_ms` whose operations must be made anew, by gate; not those whose readings were forgotten."""
    return {gate_id: list(marks) for gate_id, marks in load_marks(connection, gate_ids, before_ms).items()}


def load_marks(connection: Connection, gate_ids: Sequence[str], before_ms: int) -> dict[str, dict[int, int]]:
    """As `load_dirty_days`, each day with the mark it has now; see `mark_dirty`."""
    since_ms = raw_from_ms(connection)
    query = (
        sa.select(dirty_days)
        .where(dirty_days.c.gate_id.in_(list(gate_ids)), dirty_days.c.day_ms.between(since_ms, before_ms - 1))
        .order_by(dirty_days.c.gate_id, dirty_days.c.day_ms)
    )
    found: dict[str, dict[int, int]] = {}
    for gate_id, day_ms, mark in connection.execute(query):
        found.setdefault(gate_id, {})[day_ms] = mark
    return found


def replace_days(
    connection: Connection,
    whole_days: Sequence[tuple[str, int]],
    operation_rows: Sequence[tuple[str, int, int, bytes]],
    day_rows: Sequence[tuple[str, int, bytes]],
) -> None:
    """Put operations (gate_id, started_ms, ended_ms, summary) and days (gate_id, day_ms, summary) in place of the old.

    They are all there is of the `whole_days` (gate_id, day_ms), which are clean afterwards; call it in the transaction that
    read their readings. A summary is packed numbers, in the order of `grow_summary_names`.
    """
    ends = [{"gate": gate_id, "since": day_ms, "until": day_ms + DAY_MS} for gate_id, day_ms in whole_days]
    for table, begins in ((operations, operations.c.started_ms), (days, days.c.day_ms), (dirty_days, dirty_days.c.day_ms)):
        of_day = (table.c.gate_id == sa.bindparam("gate"), begins >= sa.bindparam("since"), begins < sa.bindparam("until"))
        if ends:
            connection.execute(sa.delete(table).where(*of_day), ends)
    for table, rows in ((operations, operation_rows), (days, day_rows)):
        if rows:
            names = [column.name for column in table.columns]
            connection.execute(sa.insert(table), [dict(zip(names, row, strict=True)) for row in rows])


def load_summary_names(connection: Connection, gate_ids: Sequence[str]) -> dict[tuple[str, str], tuple[str, ...]]:
    """The names of the numbers in the summaries of some gates, by (gate_id, ``"operations"`` or ``"days"``)."""
    query = sa.select(summary_names).where(summary_names.c.gate_id.in_(list(gate_ids)))
    return {(row.gate_id, row.told_of): _names(row.names) for row in connection.execute(query)}


@lru_cache(maxsize=256)
def _names(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))  # gates of one make have the same


def grow_summary_names(
    connection: Connection, gate_id: str, told_of: str, known: tuple[str, ...], wanted: Iterable[str]
) -> tuple[str, ...]:
    """Return the names `known` of the numbers in a gate's summaries, the new ones of `wanted` put at their end.

    None ever goes, so that old summaries need not be written anew when the gate gets another channel.
    """
    have = set(known)
    new = [name for name in wanted if name not in have]
    if not new:
        return known
    names = (*known, *new)
    row = {"gate_id": gate_id, "told_of": told_of, "names": json.dumps(names, separators=(",", ":"))}
    connection.execute(sa.delete(summary_names).where(summary_names.c.gate_id == gate_id, summary_names.c.told_of == told_of))
    connection.execute(sa.insert(summary_names).values(row))
    return names


def load_operations(connection: Connection, gate_id: str, since_ms: int, before_ms: int) -> list[tuple[int | bytes, ...]]:
    """Rows (started_ms, ended_ms, summary) of one gate's operations started in ``[since_ms, before_ms)``, in order."""
    return [row[1:] for row in load_spans(connection, operations, [(gate_id, since_ms, before_ms)])]


def load_days(connection: Connection, gate_id: str, since_ms: int, before_ms: int) -> list[tuple[int | bytes, ...]]:
    """Rows (day_ms, summary) of one gate's days in ``[since_ms, before_ms)``, in order."""
    return [row[1:] for row in load_spans(connection, days, [(gate_id, since_ms, before_ms)])]


def load_spans(connection: Connection, table: sa.Table, spans: Sequence[Span]) -> list[tuple[Any, ...]]:
    """Rows of `operations` or `days` within spans that do not overlap, span by span, each by its time; one query."""
    if not spans:
        return []
    columns = [column.name for column in table.columns]
    mark = "(?, ?, ?)" if connection.dialect.name == "sqlite" else "(%s::text, %s::bigint, %s::bigint)"
    values = ", ".join([mark] * len(spans))
    # CROSS JOIN fixes SQLite's order: the spans outside, a search of the clustered key inside
    query = (
        f"WITH s (gate_id, since_ms, before_ms) AS (VALUES {values}) "  # noqa: S608 - fixed words only
        f"SELECT {', '.join(f't.{name}' for name in columns)} FROM s CROSS JOIN {table.name} t "
        f"WHERE t.gate_id = s.gate_id AND t.{columns[1]} >= s.since_ms AND t.{columns[1]} < s.before_ms"
    )
    found = connection.exec_driver_sql(query, tuple(part for span in spans for part in span)).cursor.fetchall()
    return sorted(found, key=itemgetter(0, 1))


def first_days(connection: Connection, gate_ids: Sequence[str]) -> dict[str, int]:
    """The first UTC day (epoch ms) with readings of each of some gates that has any."""
    # one look into the clustered key for each gate, where grouping would read all its days
    first = sa.select(days.c.day_ms).where(days.c.gate_id == gates.c.gate_id).order_by(days.c.day_ms).limit(1).scalar_subquery()
    query = sa.select(gates.c.gate_id, first).where(gates.c.gate_id.in_(list(gate_ids)))
    return {gate_id: day_ms for gate_id, day_ms in connection.execute(query) if day_ms is not None}
