"""Gates that have fallen silent: a notice for each begins within the hour, and ends when it speaks again.

A gate is silent when its newest reading is older than two of the intervals in which it should report, but not before an hour
is over: many a gateway sends its readings a batch at a time, and a notice that comes and goes with every batch is soon
ignored. Where no interval is declared it is a day, after which features refuse it too. A gate that said it is offline, or whose
will did, is silent at once, until something else comes. Nothing is expected of a gate that is in repair as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from pipeline import historian
from pipeline.cycles import cycle_state
from pipeline.historian import from_ms, to_ms
from service import alerts as life
from service import store
from service.live_features import load_maintenance
from service.store import SCORING

STALE = "gate.data_stale"
INTERVALS = 2
AT_LEAST, UNDECLARED = timedelta(hours=1), timedelta(hours=24)


def watch_silence(connection: Connection, now: datetime, at_least: timedelta = AT_LEAST) -> None:
    """Begin a notice for each gate that is silent, end it where one is not any more; inside a transaction.

    A gate that has never spoken is told of once a day has been scored without it: until then it may be about to be wired.
    """
    under_way = {notice.gate_id or "": notice for notice in store.open_notices(connection, STALE)}
    gates = historian.gates.c
    maybe = sa.or_(gates.last_seen_ms.is_(None), gates.last_seen_ms <= to_ms(now - at_least), gates.connection == "offline")
    rows = connection.execute(sa.select(historian.gates).where(maybe)).mappings()
    found: dict[str, Mapping[str, Any]] = {row["gate_id"]: dict(row) for row in rows}
    silent = _silent(connection, found, now, at_least)
    for gate_id in sorted(under_way.keys() - silent):
        store.save_notice(connection, life.close_notice(under_way[gate_id], now), actor=SCORING)
    for gate_id in sorted(silent - under_way.keys()):
        last_seen_ms = found[gate_id]["last_seen_ms"]
        detail = {
            "last_seen": None if last_seen_ms is None else life.rfc3339(from_ms(last_seen_ms)),
            "said": "offline" if is_offline(found[gate_id]) else "nothing",
        }
        notice = life.open_notice(STALE, gate_id, now, gate_id=gate_id, detail=detail)
        store.save_notice(connection, notice, actor=SCORING)


def is_offline(gate: Mapping[str, Any]) -> bool:
    """Whether the last that was heard of a gate (a row of `historian.gates`) is that it is offline."""
    last_seen_ms = gate["last_seen_ms"]
    # who speaks again without a word about it is not offline any more
    return gate["connection"] == "offline" and (last_seen_ms is None or last_seen_ms <= to_ms(gate["connection_at"]))


def _silent(connection: Connection, gates: Mapping[str, Mapping[str, Any]], now: datetime, at_least: timedelta) -> set[str]:
    gate_ids = sorted(gates)
    intervals_s = _intervals_s(connection, gate_ids)
    never = [gate_id for gate_id in gate_ids if gates[gate_id]["last_seen_ms"] is None]
    scored = store.ever_scored(connection, never)
    silent = set()
    for gate_id in gate_ids:
        gate, interval_s = gates[gate_id], intervals_s.get(gate_id)
        patience = UNDECLARED if interval_s is None else max(INTERVALS * timedelta(seconds=interval_s), at_least)
        if gate["last_seen_ms"] is None:
            is_silent = gate_id in scored
        else:
            is_silent = is_offline(gate) or now - from_ms(gate["last_seen_ms"]) >= patience
        if is_silent:
            silent.add(gate_id)
    return silent - _in_repair(connection, sorted(silent), now)


def _intervals_s(connection: Connection, gate_ids: Sequence[str]) -> dict[str, float]:
    """How often each gate's busiest channel should report, where that is declared."""
    channel = historian.channels.c
    query = sa.select(channel.gate_id, sa.func.min(channel.interval_s)).where(channel.gate_id.in_(list(gate_ids)))
    found = connection.execute(query.group_by(channel.gate_id))
    return {gate_id: interval_s for gate_id, interval_s in found if interval_s is not None}


def _in_repair(connection: Connection, gate_ids: Sequence[str], now: datetime) -> set[str]:
    at_ms = np.array([to_ms(now)])
    records = load_maintenance(connection, gate_ids)
    return {gate_id for gate_id, of_gate in records.items() if cycle_state(of_gate, "", 0, at_ms)[1][0]}
