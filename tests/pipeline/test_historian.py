"""The historian's hot path, against a dictionary; on SQLite and on PostgreSQL."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from pipeline import cut_days, historian
from pipeline.errors import BadInput
from pipeline.readings import DAY_MS, Channel
from tests import oracles

BASE_MS = 1_772_323_200_000


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    url = f"sqlite:///{tmp_path}/h.sqlite" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    engine = historian.connect(url)
    with historian.writing(engine) as connection:
        historian.metadata.create_all(connection)
        connection.execute(sa.insert(historian.stations), {"station_id": "S1"})
        connection.execute(sa.insert(historian.gates), [{"gate_id": g, "station_id": "S1"} for g in ("G1", "G2")])
    yield engine
    engine.dispose()


def channel(name: str, component: str = "motor") -> Channel:
    point, _, quantity = name.rpartition(".")
    return Channel("G1", component, quantity, {"temperature": "degF", "current": "mA"}.get(quantity, "m/s"), point=point)


def test_each_channel_gets_a_slot_of_its_own_and_keeps_it(engine: Engine) -> None:
    wanted = [channel(f"p{n}.temperature") for n in range(20)] + [channel("temperature", "brake")]

    with historian.writing(engine) as connection:
        historian.declare_channels(connection, wanted[:5])
        first = historian.load_slots(connection)
        historian.declare_channels(connection, wanted)
        slots = historian.load_slots(connection)

    assert len({(s.series_id, s.slot) for s in slots.values()}) == 21
    assert len({s.series_id for s in slots.values() if s.channel.component == "motor"}) == 2
    assert {key: (s.series_id, s.slot) for key, s in first.items()} == {k: (slots[k].series_id, slots[k].slot) for k in first}
    assert {s.channel.unit for s in slots.values()} == {"degF"}


def test_merging_is_independent_of_order_and_repetition(engine: Engine) -> None:
    names = ["velocity_rms", "winding.temperature", "current"]
    with historian.writing(engine) as connection:
        historian.declare_channels(connection, [channel(name) for name in names])
        slots = historian.load_slots(connection, "G1")
    series = next(iter(slots.values())).series_id

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(names), st.floats(0, 100)), min_size=1, max_size=30))
    def check(drawn: list[tuple[int, str, float]]) -> None:
        expected = oracles.merged([(BASE_MS + at, f"motor.{name}", value) for at, name, value in drawn])
        with historian.writing(engine) as connection:
            connection.execute(sa.delete(historian.readings))
            for at, name, value in drawn:  # one row a call: a batch holds each (series, time) once
                row: list[float | int | None] = [series, BASE_MS + at, *[None] * historian.SLOTS]
                row[2 + slots[("G1", "motor", name)].slot] = value
                historian.store_readings(connection, [tuple(row)])
            frame = historian.read_gate(connection, "G1", BASE_MS, BASE_MS + 10)
        found = {
            (int(row["ts"].timestamp() * 1000), name): row[name]
            for _, row in frame.iterrows()
            for name in frame.columns.drop("ts")
            if np.isfinite(row[name])
        }
        assert found == expected

    check()


def test_a_different_value_on_one_time_and_channel_is_counted_as_a_conflict(engine: Engine) -> None:
    def row(at: int, *values: float | None) -> tuple[int | float | None, ...]:
        return (7, BASE_MS + at, *values, *[None] * (historian.SLOTS - len(values)))

    with historian.writing(engine) as connection:
        counted = [
            historian.store_readings(connection, [row(0, 1.0, 2.0), row(1, 1.0)]),
            historian.store_readings(connection, [row(0, 1.0, 2.0), row(1, None, 5.0)]),  # a repeat and a filled cell
            historian.store_readings(connection, [row(0, 9.0, 0.5), row(1, 1.0, 5.0)]),
        ]
        stored = historian.stored_rows(connection, [(7, BASE_MS), (7, BASE_MS + 1), (7, BASE_MS + 2)])

    assert counted == [0, 0, 2]
    assert {at: values[2:4] for (_, at), values in stored.items()} == {BASE_MS: (9.0, 2.0), BASE_MS + 1: (1.0, 5.0)}


def test_dirty_days_last_seen_and_tallies_move_forward_only(engine: Engine) -> None:
    with historian.writing(engine) as connection:
        cut_days.mark_dirty(connection, {("G1", BASE_MS), ("G1", BASE_MS + DAY_MS)})
        cut_days.mark_dirty(connection, {("G1", BASE_MS)})
        historian.mark_seen(connection, {"G1": BASE_MS + 5})
        historian.mark_seen(connection, {"G1": BASE_MS + 3, "G2": BASE_MS + 1})
        historian.tally(connection, "messages_stored", 3)
        historian.tally(connection, "messages_stored", 4)

    with engine.begin() as connection:
        assert cut_days.load_dirty_days(connection, ["G1", "G2"], BASE_MS + DAY_MS) == {"G1": [BASE_MS]}
        assert historian.data_clock(connection) == historian.from_ms(BASE_MS + 5)
        assert historian.load_tallies(connection) == {"messages_stored": 7}


def test_replacing_days_leaves_the_other_days_alone_and_cleans_them(engine: Engine) -> None:
    def operation(day: int, hour: int) -> tuple[str, int, int, bytes]:
        start = BASE_MS + day * DAY_MS + hour * 3_600_000
        return ("G1", start, start + 60_000, b"%d" % day)

    with historian.writing(engine) as connection:
        cut_days.mark_dirty(connection, {("G1", BASE_MS)})
        cut_days.replace_days(
            connection, [("G1", BASE_MS), ("G1", BASE_MS + DAY_MS)], [operation(0, 1), operation(1, 1)], [("G1", BASE_MS, b"")]
        )
        cut_days.replace_days(connection, [("G1", BASE_MS)], [operation(0, 2), operation(0, 3)], [("G1", BASE_MS, b"")])

        assert cut_days.load_operations(connection, "G1", 0, BASE_MS + 9 * DAY_MS) == [
            operation(0, 2)[1:],
            operation(0, 3)[1:],
            operation(1, 1)[1:],
        ]
        assert cut_days.load_days(connection, "G1", 0, BASE_MS + DAY_MS) == [(BASE_MS, b"")]
        assert cut_days.load_dirty_days(connection, ["G1"], BASE_MS + DAY_MS) == {}


def test_quarantine_keeps_the_newest_and_cuts_long_payloads(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(historian, "QUARANTINE_ROWS", 5)
    at = datetime(2026, 3, 1, tzinfo=UTC)
    rows = [{"received_at": at, "topic": f"t{n}", "payload": b"x" * 9999, "reason": "not_json", "detail": ""} for n in range(8)]

    with historian.writing(engine) as connection:
        for row in rows:
            historian.put_in_quarantine(connection, [row])
        kept = historian.load_table(connection, historian.quarantine)

    assert kept["topic"].tolist() == ["t3", "t4", "t5", "t6", "t7"]
    assert {len(payload) for payload in kept["payload"]} == {4096}
    assert kept["received_at"].iloc[0] == at


@given(st.lists(st.lists(st.sampled_from(["a/b/c/d", "a/b/c/d/e", "a/b/c/e", "f"]), max_size=4), max_size=12))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_who_floods_quarantine_pushes_out_its_own(engine: Engine, batches: list[list[str]]) -> None:
    at, number = datetime(2026, 3, 1, tzinfo=UTC), itertools.count()
    expected: list[tuple[str, str]] = []
    with pytest.MonkeyPatch.context() as patch, historian.writing(engine) as connection:
        patch.setattr(historian, "QUARANTINE_ROWS", 5)
        patch.setattr(historian, "QUARANTINE_ROWS_EACH", 2)
        connection.execute(sa.delete(historian.quarantine))
        for topics in batches:
            rows = [
                {"received_at": at, "topic": t, "payload": b"", "reason": "not_json", "detail": str(next(number))} for t in topics
            ]
            historian.put_in_quarantine(connection, rows)
            expected += [(row["topic"][:7], row["detail"]) for row in rows]
            for publisher in set(dict(expected)):
                own = [one for one in expected if one[0] == publisher]
                expected = [one for one in expected if one not in own[:-2]]
            expected = expected[-5:]
        kept = historian.load_table(connection, historian.quarantine)

    assert sorted(kept["detail"], key=int) == [detail for _, detail in expected]


@pytest.mark.parametrize("url", ["mysql://x/y", "history.sqlite", "sqlite:///nowhere/at/all/h.sqlite"])
def test_a_wrong_database_url_says_what_is_allowed(url: str) -> None:
    with pytest.raises(BadInput, match="database:"):
        historian.connect(url)


def test_a_naive_time_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="aware"):
        historian.UtcMillis().process_bind_param(datetime(2026, 1, 1), None)  # noqa: DTZ001 - the naive time is the point
