"""A batch in one transaction, on SQLite and PostgreSQL: what is stored, learned, counted and put aside."""

import json
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from pipeline import historian, intake
from pipeline.adapters import Message, native
from pipeline.readings import DAY_MS, Channel, ReadingError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOON_MS = 1_772_366_400_000
UNITS = {"velocity_rms": "mm/s", "winding.temperature": "degC"}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    url = f"sqlite:///{tmp_path}/h.sqlite" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    engine = historian.connect(url)
    with historian.writing(engine) as connection:
        historian.metadata.create_all(connection)
        register(connection, "G1", "G2")
    yield engine
    engine.dispose()


def register(connection: sa.Connection, *gate_ids: str, **fields: Any) -> None:
    connection.execute(sa.insert(historian.gates), [{"gate_id": gate_id, "station_id": "S1", **fields} for gate_id in gate_ids])


def message(values: dict[str, float], at: datetime = NOW, gate_id: str = "G1", units: dict[str, str] | None = None) -> Message:
    payload = {"t": at.isoformat(), "values": values, "units": UNITS if units is None else units}
    return Message(f"sluicewatch/v1/S1/{gate_id}/motor/telemetry", json.dumps(payload).encode())


def store(engine: Engine, *messages: Message, registry: intake.Registry | None = None, now: datetime = NOW) -> intake.Stored:
    with historian.writing(engine) as connection:
        return intake.store_messages(connection, registry or intake.Registry(), messages, now)


def rows_of(engine: Engine, gate_id: str = "G1") -> list[dict[str, Any]]:
    with engine.connect() as connection:
        frame = historian.read_gate(connection, gate_id, 0, NOON_MS + 10 * DAY_MS)
    return [{str(k): v for k, v in row.items() if v == v} for row in frame.to_dict("records")]


def quarantine(engine: Engine) -> Sequence[sa.Row[Any]]:
    with engine.connect() as connection:
        return connection.execute(sa.select(historian.quarantine).order_by(historian.quarantine.c.quarantine_id)).fetchall()


def tallies(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        return historian.load_tallies(connection)


def table(engine: Engine, selected: sa.Table) -> list[Any]:
    with engine.connect() as connection:
        return sorted(tuple(row) for row in connection.execute(sa.select(selected)))


def test_a_message_becomes_a_row_a_dirty_day_a_sign_of_life_and_a_count(engine: Engine) -> None:
    stored = store(engine, message({"velocity_rms": 1.5, "winding.temperature": 40.0}))

    assert stored == intake.Stored(ok=1, with_readings=1, readings=1, newest_ms=NOON_MS)
    assert rows_of(engine) == [{"ts": NOW, "motor.velocity_rms": 1.5, "motor.winding.temperature": 40.0}]
    assert [row[:2] for row in table(engine, historian.dirty_days)] == [("G1", NOON_MS - DAY_MS // 2)]
    with engine.connect() as connection:
        assert historian.data_clock(connection) == NOW
    assert tallies(engine) == {"messages_stored": 1, "readings_received": 1}


@pytest.mark.parametrize("seed", range(5))
def test_order_repetition_and_batches_do_not_matter(engine: Engine, seed: int) -> None:
    chance = random.Random(seed)
    messages = []
    expected: dict[tuple[str, datetime, str], float] = {}
    for _ in range(60):
        at = NOW - timedelta(minutes=chance.randrange(20) * 97)
        gate_id = chance.choice(["G1", "G2"])
        values = {name: float(chance.randrange(1, 5)) for name in UNITS if chance.random() < 0.7} or {"velocity_rms": 1.0}
        messages.append(message(values, at, gate_id))
        for name, value in values.items():
            key = (gate_id, at, f"motor.{name}")
            expected[key] = max(value, expected.get(key, value))
    heard = chance.sample(messages, len(messages)) + chance.choices(messages, k=20)
    registry = intake.Registry()

    while heard:
        size = chance.randrange(1, 15)
        store(engine, *heard[:size], registry=registry)
        heard = heard[size:]

    found = {
        (gate_id, row["ts"], name): value
        for gate_id in ("G1", "G2")
        for row in rows_of(engine, gate_id)
        for name, value in row.items()
        if name != "ts"
    }
    assert found == expected
    assert [row[:2] for row in table(engine, historian.dirty_days)] == sorted(
        {(gate_id, int(at.timestamp()) // 86_400 * DAY_MS) for gate_id, at, _ in expected}
    )
    with engine.connect() as connection:
        assert historian.data_clock(connection) == max(at for _, at, _ in expected)


def test_of_two_values_at_one_instant_the_greater_stays_and_the_conflict_is_counted(engine: Engine) -> None:
    in_one_batch = store(engine, message({"velocity_rms": 2.0}), message({"velocity_rms": 3.0}), message({"velocity_rms": 3.0}))
    in_a_later_one = store(engine, message({"velocity_rms": 1.0}), message({"winding.temperature": 20.0}))

    assert (in_one_batch.conflicts, in_a_later_one.conflicts) == (1, 1)
    assert rows_of(engine) == [{"ts": NOW, "motor.velocity_rms": 3.0, "motor.winding.temperature": 20.0}]
    assert tallies(engine)["values_in_conflict"] == 2


def test_a_channel_is_learned_with_its_unit_and_may_then_leave_it_out(engine: Engine) -> None:
    registry = intake.Registry()
    store(engine, message({"velocity_rms": 0.002}, units={"velocity_rms": "m/s"}), registry=registry)

    in_the_same_process = message({"velocity_rms": 0.003}, NOW + timedelta(seconds=1), units={})
    after_a_restart = message({"velocity_rms": 0.004}, NOW + timedelta(seconds=2), units={})
    store(engine, in_the_same_process, registry=registry)
    store(engine, after_a_restart)

    assert [row["motor.velocity_rms"] for row in rows_of(engine)] == [2.0, 3.0, 4.0]


def test_a_component_of_more_than_sixteen_channels_loses_none(engine: Engine) -> None:
    names = [f"p{n}.temperature" for n in range(40)]

    store(engine, message({name: float(n) for n, name in enumerate(names)}, units=dict.fromkeys(names, "degC")))

    assert rows_of(engine) == [{"ts": NOW} | {f"motor.{name}": float(n) for n, name in enumerate(names)}]


def test_a_gate_and_a_channel_registered_a_moment_ago_are_found_at_once(engine: Engine) -> None:
    registry = intake.Registry()
    new = message({"velocity_rms": 1.0}, gate_id="G3", units={})
    before = store(engine, new, registry=registry)
    with historian.writing(engine) as connection:
        register(connection, "G3")
        historian.declare_channels(connection, [Channel("G3", "motor", "velocity_rms", "mm/s")])
    registry._loaded_at -= 10  # as if what was read had become 10 s old: reading it may take 2 % of the time

    after = store(engine, new, registry=registry)

    assert (before.quarantined, after.ok) == (1, 1)
    assert len(rows_of(engine, "G3")) == 1


def test_the_fleet_is_read_anew_only_when_it_has_changed_whoever_changed_it(engine: Engine) -> None:
    registry, asked = intake.Registry(), []
    sa.event.listen(engine, "before_cursor_execute", lambda c, cursor, statement, *about: asked.append(statement))

    def reads(*messages: Message) -> int:
        registry._loaded_at -= 10
        asked.clear()
        store(engine, *messages, registry=registry)
        return sum("FROM gates" in statement for statement in asked)

    first = reads(message({"velocity_rms": 1.0}))
    second = reads(message({"velocity_rms": 2.0}, NOW + timedelta(seconds=1)))  # the first one declared a channel
    unknown = reads(message({"velocity_rms": 1.0}, gate_id="G9"), message({"velocity_rms": 3.0}))
    with historian.writing(engine) as connection:
        historian.declare_channels(connection, [Channel("G1", "motor", "velocity_rms", "m/s")])
    changed = reads(message({"velocity_rms": 0.004}, NOW + timedelta(seconds=2), units={}))

    assert (first, second, unknown, changed) == (1, 1, 0, 1)
    assert [row["motor.velocity_rms"] for row in rows_of(engine)] == [3.0, 2.0, 4.0]


def test_what_a_failed_transaction_taught_is_learned_again(engine: Engine) -> None:
    registry = intake.Registry()
    with historian.writing(engine) as connection:
        intake.store_messages(connection, registry, [message({"velocity_rms": 1.0})], NOW)
        connection.rollback()
    registry.forget()

    store(engine, message({"velocity_rms": 2.0}), registry=registry)

    assert rows_of(engine) == [{"ts": NOW, "motor.velocity_rms": 2.0}]


def test_a_device_that_makes_up_names_does_not_fill_the_historian(engine: Engine) -> None:
    registry = intake.Registry()
    for batch in range(4):
        names = [f"p{batch}_{n}.temperature" for n in range(150)]
        messages = [message(dict.fromkeys(part, 20.0), units=dict.fromkeys(part, "degC")) for part in (names[:75], names[75:])]
        store(engine, *messages, registry=registry)

    assert len(table(engine, historian.channels)) <= intake.CHANNELS_PER_GATE
    assert {row.reason for row in quarantine(engine)} == {"too_many_channels"}
    assert store(engine, message({"p0_0.temperature": 21.0}, units={}), registry=registry).ok == 1


def test_what_cannot_be_used_is_kept_with_its_reason_and_counted(engine: Engine) -> None:
    store(engine, message({"velocity_rms": 1.0}, gate_id="G9"), message({"velocity_rms": 1.0}))

    row = quarantine(engine)[0]
    assert (row.received_at, row.topic, row.reason) == (NOW, "sluicewatch/v1/S1/G9/motor/telemetry", "unknown_gate")
    assert row.payload == message({"velocity_rms": 1.0}).payload
    assert "G9" in row.detail
    assert tallies(engine) == {"messages_stored": 1, "messages_quarantined": 1, "refused_unknown_gate": 1, "readings_received": 1}


def test_a_half_good_message_is_stored_and_put_aside(engine: Engine) -> None:
    stored = store(engine, message({"velocity_rms": 1.0, "winding.temperature": 999.0}))

    assert (stored.ok, stored.quarantined, stored.with_readings) == (0, 1, 1)
    assert rows_of(engine) == [{"ts": NOW, "motor.velocity_rms": 1.0}]
    assert [row.reason for row in quarantine(engine)] == ["out_of_range"]
    assert tallies(engine) == {"messages_stored": 1, "messages_quarantined": 1, "refused_out_of_range": 1, "readings_received": 1}


def test_of_a_long_message_the_beginning_is_kept(engine: Engine) -> None:
    store(engine, Message("sluicewatch/v1/S1/G1/motor/telemetry", b"x" * 60_000))

    assert quarantine(engine)[0].payload == b"x" * 4096


def test_text_that_a_database_or_a_terminal_would_choke_on_is_written_out(engine: Engine) -> None:
    odd = {"a\x00b": 1.0, "c\ud800": 2.0}

    store(engine, Message("sluicewatch/v1/\x00\ud800\x1b[31m\u95f8", b"{}"), message(odd))

    first, second = quarantine(engine)
    assert first.topic == "sluicewatch/v1/\\x00\\ud800\\x1b[31m\u95f8"
    assert "a\\x00b" in second.detail


def test_a_fault_of_our_own_costs_one_message(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(one: Message, *rest: Any) -> Any:
        if b"666" in one.payload:
            raise RuntimeError("a bug")
        return honest(one, *rest)

    honest = native.decode
    monkeypatch.setattr(native, "decode", decode)

    stored = store(engine, message({"velocity_rms": 666.0}), message({"velocity_rms": 2.0}))

    assert (stored.ok, stored.quarantined) == (1, 1)
    assert [(row.reason, row.detail) for row in quarantine(engine)] == [("internal_error", "RuntimeError: a bug")]


def test_late_messages_are_stored_like_others_and_counted(engine: Engine) -> None:
    registry = intake.Registry()
    store(engine, message({"velocity_rms": 1.0}), registry=registry)

    late = store(engine, message({"velocity_rms": 2.0}, NOW - timedelta(days=3)), registry=registry)
    a_little = store(engine, message({"velocity_rms": 3.0}, NOW - timedelta(minutes=50)), registry=registry)

    assert (late.late, late.ok, a_little.late, a_little.ok) == (1, 0, 0, 1)
    assert len(rows_of(engine)) == 3
    assert tallies(engine)["messages_late"] == 1


def test_a_gate_cannot_have_spoken_before_it_was_commissioned(engine: Engine) -> None:
    with historian.writing(engine) as connection:
        register(connection, "new", commissioned_on="2026-02-28")
        register(connection, "old", commissioned_on="1958-05-01T00:00:00+00:00")
        register(connection, "odd", commissioned_on="some time in 1987")
    reset_clock = datetime(1970, 1, 1, 0, 5, tzinfo=UTC)

    stored = store(
        engine,
        message({"velocity_rms": 1.0}, datetime(2026, 2, 27, 23, 59, tzinfo=UTC), "new"),
        message({"velocity_rms": 1.0}, datetime(2026, 2, 28, tzinfo=UTC), "new"),
        message({"velocity_rms": 1.0}, reset_clock, "old"),
        message({"velocity_rms": 1.0}, datetime(1999, 1, 1, tzinfo=UTC), "old"),
        message({"velocity_rms": 1.0}, datetime(2014, 12, 31, tzinfo=UTC)),
        message({"velocity_rms": 1.0}, datetime(2014, 12, 31, tzinfo=UTC), "odd"),
        message({"velocity_rms": 1.0}, datetime(2015, 1, 1, tzinfo=UTC), "odd"),
    )

    assert stored.quarantined == 4
    assert {row.reason for row in quarantine(engine)} == {"clock_fault"}
    assert [len(rows_of(engine, gate_id)) for gate_id in ("new", "old", "odd")] == [1, 1, 1]


def test_a_status_moves_the_sign_of_life_and_is_no_reading(engine: Engine) -> None:
    payload = json.dumps({"status": "online", "t": NOW.isoformat()}).encode()

    stored = store(engine, Message("sluicewatch/v1/S1/G1/status", payload, retained=True))

    assert (stored.ok, stored.with_readings) == (1, 0)
    assert tallies(engine) == {}
    with engine.connect() as connection:
        assert historian.data_clock(connection) == NOW


def test_a_device_gone_mad_is_refused_what_goes_beyond_its_limit_and_harms_nobody(engine: Engine) -> None:
    registry = intake.Registry(most_a_minute=3)
    mad = [message({"velocity_rms": 1.0 + n}, NOW + timedelta(seconds=n)) for n in range(5)]
    sane = [message({"velocity_rms": 1.0}, NOW, gate_id="G2")]

    stored = [store(engine, *some, registry=registry) for some in (mad[:2], [*mad[2:], *sane])]

    assert [one.refused for one in stored] == [{}, {"flooding": 2}]
    assert [row["motor.velocity_rms"] for row in rows_of(engine)] == [1.0, 2.0, 3.0]
    assert len(rows_of(engine, "G2")) == 1
    assert "a component may tell 3 readings in one minute" in quarantine(engine)[0].detail


def test_a_backlog_is_no_flood_however_fast_it_comes(engine: Engine) -> None:
    registry = intake.Registry(most_a_minute=3)
    backlog = [message({"velocity_rms": 1.0}, NOW - timedelta(seconds=20 * n)) for n in range(300)]

    assert store(engine, *backlog, registry=registry).quarantined == 0
    assert len(rows_of(engine)) == 300


def test_what_a_failed_transaction_counted_does_not_count(engine: Engine) -> None:
    registry = intake.Registry(most_a_minute=1)
    store(engine, message({"velocity_rms": 1.0}), registry=registry)
    registry.forget()

    assert store(engine, message({"velocity_rms": 1.0}), registry=registry).quarantined == 0


def test_a_whole_message_can_be_put_aside_for_a_reason_of_the_caller(engine: Engine) -> None:
    with historian.writing(engine) as connection:
        stored = intake.put_aside(connection, [message({"velocity_rms": 1.0})], ReadingError("not_storable", "why"), NOW)

    assert stored.quarantined == 1
    assert [(row.reason, row.detail) for row in quarantine(engine)] == [("not_storable", "why")]
    assert tallies(engine) == {"messages_quarantined": 1, "refused_not_storable": 1}


def test_a_refused_message_is_judged_again_as_of_the_time_it_came(engine: Engine) -> None:
    came = NOW - timedelta(hours=3)
    early = message(
        {"velocity_rms": 1.5}, at=came + timedelta(minutes=20), gate_id="G9"
    )  # its clock was wrong then, and still is
    store(engine, message({"velocity_rms": 1.5}, at=came, gate_id="G9"), early, now=came)
    store(engine, Message("sluicewatch/v1/S1/G1/motor/telemetry", b"{}"))
    with historian.writing(engine) as connection:
        register(connection, "G9")
        rows = historian.list_quarantine(connection, level="G9")[::-1]

        retried = intake.retry(connection, rows)

    assert (retried.stored, retried.refused) == (1, {"clock_fault": 1})
    assert rows_of(engine, "G9") == [{"ts": came, "motor.velocity_rms": 1.5}]
    assert sorted((row.reason, row.received_at) for row in quarantine(engine)) == [("clock_fault", came), ("wrong_shape", NOW)]
    assert tallies(engine)["messages_quarantined"] == 2


def test_what_was_good_of_a_message_counts_once_when_the_rest_is_judged_again(engine: Engine) -> None:
    first, second = NOW - timedelta(hours=2), NOW - timedelta(hours=1)
    readings = [
        {"t": first.isoformat(), "values": {"velocity_rms": 1.0}, "units": {"velocity_rms": "mm/s"}},
        {"t": second.isoformat(), "values": {"crest_factor": 3.0}},  # of a channel that nobody has declared
    ]
    store(engine, Message("sluicewatch/v1/S1/G1/motor/telemetry", json.dumps({"readings": readings}).encode()))
    came = tallies(engine)
    with historian.writing(engine) as connection:
        historian.declare_channels(connection, [Channel("G1", "motor", "crest_factor", "1")])

        retried = intake.retry(connection, historian.list_quarantine(connection))

    assert (came["messages_stored"], came["readings_received"], came["messages_quarantined"]) == (1, 1, 1)
    assert retried.stored == 1
    assert {name: n for name, n in tallies(engine).items() if n} == {"messages_stored": 1, "readings_received": 2}
    assert [row["ts"] for row in rows_of(engine)] == [first, second]


def test_what_was_kept_in_part_or_retained_is_never_judged_again(engine: Engine) -> None:
    long = Message("sluicewatch/v1/S1/G9/motor/telemetry", b" " * 5000)
    with historian.writing(engine) as connection:
        intake.put_aside(connection, [long], ReadingError("unknown_gate", "gate 'G9' is not registered"), NOW)
        intake.put_aside(connection, [message({"velocity_rms": 1.0})], ReadingError("retained", "a kept copy"), NOW)
        before = historian.list_quarantine(connection)

        retried = intake.retry(connection, before[::-1])

        assert (retried.stored, retried.refused) == (0, {"unknown_gate": 1, "retained": 1})
        assert historian.list_quarantine(connection) == before
    assert rows_of(engine) == []


def test_the_refused_are_listed_by_reason_and_by_a_level_of_their_topic(engine: Engine) -> None:
    store(engine, message({"velocity_rms": 1.0}, gate_id="G9"), message({"velocity_rms": 1.0}, gate_id="G99"))
    store(engine, Message("sluicewatch/v1/S1/G1/motor/telemetry", b"{}"))

    def listed(**which: Any) -> list[str]:
        with engine.connect() as connection:
            return [row.topic.split("/")[3] for row in historian.list_quarantine(connection, **which)]

    assert listed() == ["G1", "G99", "G9"]
    assert listed(reason="unknown_gate") == ["G99", "G9"]
    assert listed(level="G9") == ["G9"]
    assert listed(level="G_") == []
    assert listed(limit=1) == ["G1"]


def status(word: str) -> Message:
    return Message("sluicewatch/v1/S1/G1/status", json.dumps({"status": word}).encode(), retained=True)


def test_since_when_a_gate_is_offline_is_known(engine: Engine) -> None:
    for hours, word in enumerate(["online", "offline", "offline"]):
        store(engine, status(word), now=NOW + timedelta(hours=hours))

    with engine.connect() as connection:
        query = sa.select(historian.gates.c.connection, historian.gates.c.connection_at).order_by("gate_id")
        told = connection.execute(query).fetchall()
    assert [tuple(row) for row in told] == [("offline", NOW + timedelta(hours=1)), (None, None)]


def discovery(gate_id: str = "G9", station_id: str = "S7") -> Message:
    channels = [{"component": "motor", "quantity": "velocity_rms", "unit": "m/s"}]
    return Message(f"sluicewatch/v1/{station_id}/{gate_id}/discovery", json.dumps({"channels": channels}).encode(), True)


def reading_of_g9() -> Message:
    payload = {"t": NOW.isoformat(), "values": {"velocity_rms": 0.002}}  # in the unit that was declared
    return Message("sluicewatch/v1/S7/G9/motor/telemetry", json.dumps(payload).encode())


def test_a_gate_that_introduces_itself_is_heard_from_the_same_batch_on(engine: Engine) -> None:
    open_door = intake.Registry(allow_discovery=True)

    stored = store(engine, reading_of_g9(), discovery(), registry=open_door)
    again = store(engine, discovery(), discovery("G1", "S1"), registry=open_door)

    assert (stored.ok, stored.quarantined, again.ok, again.quarantined) == (2, 0, 2, 0)
    assert rows_of(engine, "G9") == [{"ts": NOW, "motor.velocity_rms": 2.0}]
    with engine.connect() as connection:
        gates = connection.execute(sa.select(historian.gates.c.gate_id, historian.gates.c.station_id).order_by("gate_id")).all()
        assert [tuple(row) for row in gates] == [("G1", "S1"), ("G2", "S1"), ("G9", "S7")]
        assert [slot.channel.unit for slot in historian.load_slots(connection, "G1").values()] == ["m/s"]


def test_no_device_can_fill_the_historian_with_gates(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine.connect() as connection:
        there = connection.scalar(sa.select(sa.func.count()).select_from(historian.gates))
    monkeypatch.setattr(intake, "MOST_DISCOVERED", there + 1)
    open_door = intake.Registry(allow_discovery=True)

    stored = store(engine, discovery("G7"), discovery("G8"), discovery("G1", "S1"), registry=open_door)
    again = store(engine, discovery("G9"), discovery("G7"), registry=open_door)

    assert (stored.refused, again.refused) == ({"too_many_gates": 1}, {"too_many_gates": 1})
    assert {row[0] for row in table(engine, historian.gates)} & {"G7", "G8", "G9"} == {"G7"}


def test_nobody_introduces_itself_where_that_is_not_allowed(engine: Engine) -> None:
    stored = store(engine, discovery(), discovery("G1", "S1"), reading_of_g9())

    assert stored.refused == {"discovery_off": 2, "unknown_gate": 1}
    assert table(engine, historian.channels) == []
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(historian.gates)) == 2
