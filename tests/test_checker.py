"""The checker of the fault tests sees each fault that is planted, and none where there is none."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from pipeline import historian
from pipeline.adapters import Message
from pipeline.intake import Registry, store_messages
from pipeline.readings import DAY_MS
from service import store
from tests.checker import Account, Key, Published, account

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOON_MS = 1_772_366_400_000
DAY = ("G1", NOON_MS - DAY_MS // 2)


def key(second: int) -> Key:
    return ("G1", "motor.velocity_rms", NOON_MS - second * 1000)


def message(second: int) -> Message:
    at = datetime.fromtimestamp(NOON_MS / 1000 - second, UTC).isoformat()
    payload = f'{{"t": "{at}", "values": {{"velocity_rms": 1.5}}, "units": {{"velocity_rms": "mm/s"}}}}'
    return Message("sluicewatch/v1/S1/G1/motor/telemetry", payload.encode())


def nothing(connection: Connection) -> None:
    """As it should be."""


def clean(connection: Connection) -> None:
    connection.execute(sa.delete(historian.dirty_days))


def double_a_row_and_forget(connection: Connection) -> None:
    connection.execute(sa.delete(historian.readings).where(historian.readings.c.ts_ms == NOON_MS - 1000))
    connection.execute(sa.delete(historian.dirty_days))


@pytest.mark.parametrize(
    ("published", "late", "spoil", "expected"),
    [
        ([1, 2, 3], [], nothing, Account()),
        ([1, 2, 3, 4], [], nothing, Account(lost=frozenset({key(4)}))),
        ([1, 2], [], nothing, Account(phantom=frozenset({key(3)}))),
        ([1, 2, 3, 5], [5], clean, Account(unused=frozenset({DAY}))),
        ([2, 3], [], double_a_row_and_forget, Account(doubled=frozenset({DAY}))),
    ],
)
def test_each_planted_fault_is_found_and_no_other(
    tmp_path: Path, published: list[int], late: list[int], spoil: Callable[[Connection], None], expected: Account
) -> None:
    engine = historian.connect(f"sqlite:///{tmp_path}/h.sqlite")
    store.migrate(engine)
    told = Published({key(n): 1.5 for n in published}, {key(n) for n in published})
    with historian.writing(engine) as connection:
        connection.execute(sa.insert(historian.gates), {"gate_id": "G1", "station_id": "S1"})
        store_messages(connection, Registry(), [message(n) for n in (1, 2, 3)], NOW)
    assert account(engine, Published({key(n): 1.5 for n in (1, 2, 3)}, set())) == Account()
    with historian.writing(engine) as connection:
        store_messages(connection, Registry(), [message(n) for n in late], NOW)
        spoil(connection)

    assert account(engine, told) == expected
    engine.dispose()


def test_a_changed_value_is_found(tmp_path: Path) -> None:
    engine = historian.connect(f"sqlite:///{tmp_path}/h.sqlite")
    store.migrate(engine)
    with historian.writing(engine) as connection:
        connection.execute(sa.insert(historian.gates), {"gate_id": "G1", "station_id": "S1"})
        store_messages(connection, Registry(), [message(1)], NOW)

    assert account(engine, Published({key(1): 1.4}, {key(1)})) == Account(changed=frozenset({key(1)}))
    engine.dispose()
