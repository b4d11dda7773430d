"""From what the historian holds to feature rows: dirty days cut into operations anew, then the features of training.

How a feature is made is in `pipeline.features`, how a day is cut in `pipeline.operations`; here is only what is read and
written for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from pipeline import cut_days, features, historian, operations
from pipeline.cycles import Records
from pipeline.historian import to_ms, writing
from pipeline.readings import DAY_MS

GATES_AT_ONCE = 50
"""Gates whose histories are in memory at one time, some 400 kB each."""

TRIES = 5
"""A day that gets another reading each time it is cut stays dirty after so many."""

_Run = tuple[str, Sequence[int]]
"""A gate, and days of it (epoch ms) that follow one another."""


def refresh_operations(engine: Engine, gate_ids: Sequence[str], as_of: datetime) -> int:
    """Make the operations and days of gates' dirty days before `as_of` anew; return how many days there were.

    Nobody waits while days are read and cut. A day that gets another reading meanwhile is cut once more; one that gets them all
    the time stays dirty, as one does that gets them a moment later.
    """
    before_ms = to_ms(as_of)
    done = 0
    for start in range(0, len(gate_ids), GATES_AT_ONCE):
        some = gate_ids[start : start + GATES_AT_ONCE]
        for _ in range(TRIES):
            # before the readings: where one comes between, the mark is another all the same
            with engine.connect() as connection:
                marks = cut_days.load_marks(connection, some, before_ms)
            if not marks:
                break
            done += sum(_make_anew(engine, batch, before_ms) for batch in _batches(marks))
    return done


def _make_anew(engine: Engine, marks: Mapping[str, Mapping[int, int]], before_ms: int) -> int:
    """Cut gates' days and put those in place whose marks are still the same, as no other readings came; return how many."""
    runs = [(gate_id, run_ms) for gate_id, of_gate in marks.items() for run_ms in _runs(of_gate)]
    with engine.connect() as connection:
        cuts = [
            cut for first in range(0, len(runs), GATES_AT_ONCE) for cut in _cut(connection, runs[first : first + GATES_AT_ONCE])
        ]
    with writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            # wait for ingest to commit what it has marked; its next mark waits for us. Without it a reading could be stored, and
            # its mark go, between our look at the marks and our own writing.
            connection.execute(sa.text("LOCK TABLE dirty_days IN SHARE ROW EXCLUSIVE MODE"))
        now = cut_days.load_marks(connection, list(marks), before_ms)
        same = [
            (gate_id, run_ms, cut)
            for (gate_id, run_ms), cut in zip(runs, cuts, strict=True)
            if all(now.get(gate_id, {}).get(day_ms) == marks[gate_id][day_ms] for day_ms in run_ms)
        ]
        replace_days(connection, same)
    return sum(len(run_ms) for _, run_ms, _ in same)


def _batches(marks: Mapping[str, Mapping[int, int]]) -> Iterator[dict[str, Mapping[int, int]]]:
    """Gates whose days are put in place in one transaction: one with a long backlog alone, so that nobody waits long for it."""
    batch: dict[str, Mapping[int, int]] = {}
    for gate_id, of_gate in marks.items():
        if len(of_gate) > 1:
            yield {gate_id: of_gate}
        else:
            batch[gate_id] = of_gate
    if batch:
        yield batch


def _cut(connection: Connection, runs: Sequence[_Run]) -> list[operations.Segmented]:
    spans = [(gate_id, run_ms[0], run_ms[-1] + DAY_MS) for gate_id, run_ms in runs]
    return operations.segment_all(historian.read_gates(connection, spans))


def replace_days(connection: Connection, cuts: Sequence[tuple[str, Sequence[int], operations.Segmented]]) -> None:
    """Put what was cut from whole days of gates in place of what the historian has of them."""
    known = cut_days.load_summary_names(connection, sorted({gate_id for gate_id, _, _ in cuts}))
    rows: dict[str, list[tuple[Any, ...]]] = {"operations": [], "days": []}
    for gate_id, _, cut in cuts:
        for told_of, frame in (("operations", cut.operations), ("days", cut.days)):
            keys, where = operations.KEYS[told_of], (gate_id, told_of)
            wanted = [name for name in frame.columns if name not in keys]
            known[where] = cut_days.grow_summary_names(connection, *where, known.get(where, ()), wanted)
            rows[told_of] += [(gate_id, *row) for row in operations.to_rows(frame, keys, known[where])]
    whole_days = [(gate_id, day_ms) for gate_id, days_ms, _ in cuts for day_ms in days_ms]
    cut_days.replace_days(connection, whole_days, rows["operations"], rows["days"])


def _runs(days_ms: Iterable[int], longest: int = 31) -> list[list[int]]:
    """Days cut into runs that follow one another, so that a backlog is read in a few pieces and never as a whole."""
    runs: list[list[int]] = []
    for day_ms in days_ms:
        if runs and day_ms == runs[-1][-1] + DAY_MS and len(runs[-1]) < longest:
            runs[-1].append(day_ms)
        else:
            runs.append([day_ms])
    return runs


def load_features(connection: Connection, gate_ids: Sequence[str], as_ofs: Sequence[datetime]) -> pd.DataFrame:
    """Feature rows of some gates as of some midnights, from stored operations, days and maintenance records."""
    found = [
        rows
        for start in range(0, len(gate_ids), GATES_AT_ONCE)
        for rows in [features.build_all(load_histories(connection, gate_ids[start : start + GATES_AT_ONCE], as_ofs), as_ofs)]
        if not rows.empty
    ]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["gate_id"])


def load_histories(connection: Connection, gate_ids: Sequence[str], as_ofs: Sequence[datetime]) -> list[features.GateHistory]:
    """What the feature rows of some gates need of their histories, no more."""
    until_ms = to_ms(max(as_ofs))
    gates, components, channels = historian.gates.c, historian.components.c, historian.channels.c
    facts = {row.gate_id: row for row in _rows(connection, gate_ids, gates.gate_id, gates.hoist_type, gates.commissioned_on)}
    named: dict[str, set[str]] = {gate_id: set() for gate_id in gate_ids}
    intervals_s: dict[str, dict[str, float]] = {gate_id: {} for gate_id in gate_ids}
    for gate_id, component in _rows(connection, gate_ids, components.gate_id, components.component):
        named[gate_id].add(component)
    of_channels = (channels.gate_id, channels.component, channels.point, channels.quantity, channels.interval_s)
    for gate_id, component, point, quantity, interval_s in _rows(connection, gate_ids, *of_channels):
        named[gate_id].add(component)
        if interval_s is not None:
            intervals_s[gate_id][".".join(part for part in (component, point, quantity) if part)] = interval_s
    maintenance = load_maintenance(connection, gate_ids)
    first_ms = cut_days.first_days(connection, gate_ids)
    spans: list[historian.Span] = []
    for gate_id in gate_ids:
        if gate_id in first_ms:
            needed = features.needed_spans(maintenance[gate_id], sorted({"station", *named[gate_id]}), first_ms[gate_id], as_ofs)
            spans += [(gate_id, since_ms, before_ms) for since_ms, before_ms in needed]
    names = cut_days.load_summary_names(connection, gate_ids)
    frames: dict[str, dict[str, pd.DataFrame]] = {}
    for table in (historian.operations, historian.days):
        keys = operations.KEYS[table.name]
        rows = cut_days.load_spans(connection, table, spans)
        of_gate = {gate_id: [row[1:] for row in group] for gate_id, group in groupby(rows, itemgetter(0))}
        frames[table.name] = {
            gate_id: operations.from_rows(of_gate.get(gate_id, ()), keys, names.get((gate_id, table.name), ()))
            for gate_id in gate_ids
        }
    return [
        features.GateHistory(
            gate_id=gate_id,
            components=features.components_to_score(named[gate_id]),
            hoist_type=str(facts[gate_id].hoist_type or ""),
            operations=frames["operations"][gate_id],
            days=frames["days"][gate_id],
            maintenance=maintenance[gate_id],
            intervals_s=intervals_s[gate_id],
            commissioned_on=features.day_or_none(facts[gate_id].commissioned_on),
            first_day_ms=min(first_ms.get(gate_id, until_ms), until_ms),
        )
        for gate_id in gate_ids
    ]


def _rows(connection: Connection, gate_ids: Sequence[str], of_gate: sa.Column[str], *columns: sa.Column[Any]) -> Sequence[Any]:
    return connection.execute(sa.select(of_gate, *columns).where(of_gate.in_(list(gate_ids)))).all()


def load_maintenance(connection: Connection, gate_ids: Sequence[str]) -> dict[str, Records]:
    """The maintenance records of each of some gates."""
    table = historian.load_table(connection, historian.maintenance, gate_ids)
    table = table.sort_values("gate_id", kind="stable")
    for column in ("started_at", "ended_at"):
        table[column] = pd.to_datetime(table[column], utc=True)
    records, of_gate = Records.of(table), table["gate_id"].to_numpy(dtype=object)
    since, until = (np.searchsorted(of_gate, list(gate_ids), side=side) for side in ("left", "right"))
    return {gate_id: records.only(slice(start, end)) for gate_id, start, end in zip(gate_ids, since, until, strict=True)}
