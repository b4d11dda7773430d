"""Messages in another's name: none is used, and somebody is told once."""

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from pipeline import historian
from pipeline.adapters import Message
from pipeline.intake import Registry, retry, store_messages
from service import store
from service.door_watch import watch_door

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def spoof(engine: Engine, messages: int, at: datetime = NOW, station: str = "DSH-S9") -> None:
    """A gateway of another station speaks for a gate of ours."""
    payload = b'{"t": "2026-03-01T11:00:00Z", "values": {"velocity_rms": 9.0}, "units": {"velocity_rms": "mm/s"}}'
    with historian.writing(engine) as connection:
        topic = f"sluicewatch/v1/{station}/DSH-S1-G1/motor/telemetry"
        store_messages(connection, Registry(), [Message(topic, payload)] * messages, at)


def watch(engine: Engine, at: datetime) -> list[str]:
    """Look once, and return every event there has been."""
    with historian.writing(engine) as connection:
        watch_door(connection, at)
        return list(connection.scalars(sa.select(store.events.c.type).order_by(store.events.c.event_sequence)))


def test_a_thousand_spoofed_messages_are_one_event_and_no_reading(engine: Engine) -> None:
    assert watch(engine, NOW) == []
    spoof(engine, 600)
    spoof(engine, 400, station="DSH-S8")

    assert watch(engine, NOW) == ["door.refused"]
    with engine.connect() as connection:
        (notice,) = store.open_notices(connection)
        assert connection.scalar(sa.select(sa.func.count()).select_from(historian.readings)) == 0
    assert notice.detail["messages"] == 1000
    assert notice.detail["topics"] == {
        "sluicewatch/v1/DSH-S9/DSH-S1-G1/motor/telemetry": 500,  # of one publisher no more are kept
        "sluicewatch/v1/DSH-S8/DSH-S1-G1/motor/telemetry": 400,
    }


def test_it_goes_on_without_more_words_and_ends_after_a_quiet_hour(engine: Engine) -> None:
    spoof(engine, 1)
    assert watch(engine, NOW) == ["door.refused"]
    spoof(engine, 5, at=NOW + HOUR)

    assert watch(engine, NOW + HOUR) == ["door.refused"]
    assert watch(engine, NOW + 2 * HOUR - timedelta(seconds=1)) == ["door.refused"]
    assert watch(engine, NOW + 2 * HOUR) == ["door.refused", "door.quiet"]
    assert watch(engine, NOW + 9 * HOUR) == ["door.refused", "door.quiet"]
    spoof(engine, 1, at=NOW + 10 * HOUR)
    assert watch(engine, NOW + 10 * HOUR) == ["door.refused", "door.quiet", "door.refused"]


def test_it_is_told_whatever_became_of_the_messages_meanwhile(engine: Engine) -> None:
    spoof(engine, 3)
    assert watch(engine, NOW) == ["door.refused"]
    assert watch(engine, NOW + HOUR) == ["door.refused", "door.quiet"]
    with historian.writing(engine) as connection:
        retried = retry(connection, historian.list_quarantine(connection)[::-1])
    assert retried.refused == {"identity_mismatch": 3}
    assert watch(engine, NOW + 2 * HOUR) == ["door.refused", "door.quiet"]  # old ones judged again are not new ones
    with historian.writing(engine) as connection:
        connection.execute(sa.delete(historian.quarantine))
    spoof(engine, 1, at=NOW + 3 * HOUR)
    with historian.writing(engine) as connection:
        connection.execute(sa.delete(historian.quarantine))

    assert watch(engine, NOW + 3 * HOUR) == ["door.refused", "door.quiet", "door.refused"]


def test_other_refusals_are_not_about_names(engine: Engine) -> None:
    with historian.writing(engine) as connection:
        store_messages(connection, Registry(), [Message("sluicewatch/v1/DSH-S1/DSH-S1-G1/motor/telemetry", b"{}")], NOW)

    assert watch(engine, NOW) == []
