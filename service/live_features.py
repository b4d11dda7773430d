"""From what the historian holds to feature rows: dirty days cut into operations anew, then the features of training.

How a feature is made is in `pipeline.features`, how a day is cut in `pipeline.operations`; here is only what is read and
written for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from pipeline import features, historian, operations
from pipeline.historian import to_ms, writing
from pipeline.readings import DAY_MS


def refresh_operations(engine: Engine, gate_id: str, as_of: datetime) -> int:
    """Make the operations and days of a gate's dirty days before `as_of` anew; return how many days there were."""
    before_ms = to_ms(as_of)
    with engine.connect() as connection:
        if not historian.load_dirty_days(connection, [gate_id], before_ms):
            return 0
    with writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            # wait for ingest to commit what it has marked; its next mark waits for us. Without it a reading that comes
            # while its day is cut could find the mark still there, and be forgotten when the mark goes.
            connection.execute(sa.text("LOCK TABLE dirty_days IN SHARE ROW EXCLUSIVE MODE"))
        days_ms = historian.load_dirty_days(connection, [gate_id], before_ms).get(gate_id, [])
        for run_ms in _runs(days_ms):
            readings = historian.read_gate(connection, gate_id, run_ms[0], run_ms[-1] + DAY_MS)
            cut = operations.segment(readings)
            historian.replace_days(
                connection,
                gate_id,
                run_ms,
                operations.to_rows(cut.operations, ("started_ms", "ended_ms")),
                operations.to_rows(cut.days, ("day_ms",)),
            )
    return len(days_ms)


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
    until_ms = to_ms(max(as_ofs))
    gates = historian.load_table(connection, historian.gates, gate_ids).set_index("gate_id")
    named: dict[str, set[str]] = {gate_id: set() for gate_id in gate_ids}
    for table in (historian.components, historian.channels):
        query = sa.select(table.c.gate_id, table.c.component).where(table.c.gate_id.in_(list(gate_ids)))
        for gate_id, component in connection.execute(query):
            named[gate_id].add(component)
    records = historian.load_table(connection, historian.maintenance, gate_ids)
    for column in ("started_at", "ended_at"):
        records[column] = pd.to_datetime(records[column], utc=True).astype("datetime64[ms, UTC]")
    parts = []
    for gate_id in gate_ids:
        rows_of = historian.load_operations(connection, gate_id, 0, until_ms)
        history = features.GateHistory(
            gate_id=gate_id,
            components=features.components_to_score(named[gate_id]),
            hoist_type=str(gates.loc[gate_id, "hoist_type"] or ""),
            operations=operations.from_rows(rows_of, ("started_ms", "ended_ms")),
            days=operations.from_rows(historian.load_days(connection, gate_id, 0, until_ms), ("day_ms",)),
            maintenance=records.loc[records["gate_id"] == gate_id, ["component", "kind", "started_at", "ended_at"]].reset_index(
                drop=True
            ),
        )
        parts.append(features.build(history, as_ofs))
    found = [part for part in parts if not part.empty]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["gate_id"])
