"""One checker for every fault: what was published and acknowledged, what is stored, what features are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from pipeline import cut_days, historian
from pipeline.readings import DAY_MS
from service.live_features import refresh_operations

Key = tuple[str, str, int]
"""A gate, one of its channels, and the epoch milliseconds of a reading."""


@dataclass(frozen=True, slots=True)
class Account:
    """How the three sets differ; `Account()` is as it should be.

    Attributes
    ----------
    lost : published and acknowledged, and not stored
    phantom : stored, and never published
    changed : stored with another value than was published
    unused, doubled : (gate, day): features are made of fewer, or of more, readings of that day than are stored
    """

    lost: frozenset[Key] = frozenset()
    phantom: frozenset[Key] = frozenset()
    changed: frozenset[Key] = frozenset()
    unused: frozenset[tuple[str, int]] = frozenset()
    doubled: frozenset[tuple[str, int]] = frozenset()


@dataclass(slots=True)
class Published:
    """What a publisher sent, and which of it the broker acknowledged; filled from any thread."""

    sent: dict[Key, float] = field(default_factory=dict)
    acknowledged: set[Key] = field(default_factory=set)


def stored_values(engine: Engine, gate_ids: Iterable[str]) -> dict[Key, float]:
    """Every stored value by gate, channel and time."""
    found = {}
    with engine.connect() as connection:
        for gate_id in gate_ids:
            frame = historian.read_gate(connection, gate_id, 0, 2**52)
            ts_ms = frame["ts"].astype("int64").tolist()
            for channel in frame.columns.drop("ts"):
                found |= {(gate_id, channel, at): v for at, v in zip(ts_ms, frame[channel].tolist(), strict=True) if v == v}
    return found


def used_rows(engine: Engine, gate_ids: list[str]) -> dict[tuple[str, int], int]:
    """Of how many instants the summary of each gate's day was made, after all that was due has been made anew."""
    refresh_operations(engine, gate_ids, datetime(2100, 1, 1, tzinfo=UTC))
    found = {}
    with engine.connect() as connection:
        names = cut_days.load_summary_names(connection, gate_ids)
        for gate_id in gate_ids:
            place = names[gate_id, "days"].index("readings")
            for day_ms, summary in cut_days.load_days(connection, gate_id, 0, 2**52):
                found[gate_id, int(day_ms)] = int(memoryview(summary).cast("d")[place])  # type: ignore[arg-type]
    return found


def account(engine: Engine, published: Published) -> Account:
    """Compare the three sets of all gates that were published for, or are registered."""
    with engine.connect() as connection:
        gate_ids = sorted(connection.scalars(sa.select(historian.gates.c.gate_id)))
    stored = stored_values(engine, gate_ids)
    speaking = sorted({gate_id for gate_id, _, _ in stored})
    used = used_rows(engine, speaking) if speaking else {}
    instants: Mapping[tuple[str, int], int] = Counter(
        (gate_id, at - at % DAY_MS) for gate_id, at in {(gate_id, at) for gate_id, _, at in stored}
    )
    days = instants.keys() | used.keys()
    return Account(
        lost=frozenset(published.acknowledged - stored.keys()),
        phantom=frozenset(stored.keys() - published.sent.keys()),
        changed=frozenset(key for key, value in stored.items() if published.sent.get(key, value) != value),
        unused=frozenset(day for day in days if used.get(day, 0) < instants.get(day, 0)),
        doubled=frozenset(day for day in days if used.get(day, 0) > instants.get(day, 0)),
    )
