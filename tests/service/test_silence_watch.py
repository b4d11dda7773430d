"""When data stops, someone is told: within the hour, once, and again when it is back."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from pipeline import historian
from pipeline.adapters import Message
from pipeline.historian import writing
from pipeline.intake import Registry, store_messages
from pipeline.readings import Channel
from service import store
from service.api.queries import gate_standings
from service.silence_watch import AT_LEAST, watch_silence

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
GATE = "DSH-S1-G1"


@pytest.fixture(autouse=True)
def _nobody_has_spoken(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(sa.update(historian.gates).values(last_seen_ms=None))


def speak(engine: Engine, at: datetime, *, received: datetime | None = None) -> None:
    """One reading, as a device sends it."""
    payload = f'{{"t": "{at.isoformat()}", "values": {{"velocity_rms": 1.0}}, "units": {{"velocity_rms": "mm/s"}}}}'
    send(engine, f"sluicewatch/v1/DSH-S1/{GATE}/motor/telemetry", payload, received or at)


def say(engine: Engine, word: str, at: datetime) -> None:
    """The status of a gate, or its will."""
    send(engine, f"sluicewatch/v1/DSH-S1/{GATE}/status", f'{{"status": "{word}"}}', at)


def send(engine: Engine, topic: str, payload: str, at: datetime) -> None:
    with writing(engine) as connection:
        stored = store_messages(connection, Registry(), [Message(topic, payload.encode())], at)
    assert stored.quarantined == 0, stored.last_refusal


def declare(engine: Engine, *intervals_s: float | None) -> None:
    quantities = ("velocity_rms", "temperature", "current")
    units = ("mm/s", "degC", "A")
    with writing(engine) as connection:
        historian.declare_channels(
            connection,
            [Channel(GATE, "motor", *of, interval_s=s) for *of, s in zip(quantities, units, intervals_s, strict=False)],
        )


def watch(engine: Engine, at: datetime) -> list[str]:
    """Look once, and return every event there has been."""
    with writing(engine) as connection:
        watch_silence(connection, at)
        return events(connection)


def events(connection: Connection) -> list[str]:
    return list(connection.scalars(sa.select(store.events.c.type).order_by(store.events.c.event_sequence)))


@pytest.mark.parametrize(
    ("intervals_s", "patience"),
    [((900.0, 3600.0), HOUR), ((3600.0, 86_400.0), 2 * HOUR), ((), 24 * HOUR), ((None, 7200.0), 4 * HOUR)],
)
def test_a_gate_is_silent_after_two_intervals_and_an_hour_at_least(
    engine: Engine, intervals_s: tuple[float | None, ...], patience: timedelta
) -> None:
    declare(engine, *intervals_s)
    speak(engine, NOW)

    assert watch(engine, NOW + patience - MINUTE) == []
    assert watch(engine, NOW + patience) == ["gate.data_stale"]
    with engine.connect() as connection:
        (notice,) = store.open_notices(connection)
    assert (notice.gate_id, notice.opened_at) == (GATE, NOW + patience)
    assert notice.detail == {"last_seen": "2026-03-01T12:00:00Z", "said": "nothing"}


def test_silence_is_told_once_and_its_end_too(engine: Engine) -> None:
    declare(engine, 900.0)
    speak(engine, NOW)

    assert watch(engine, NOW + 2 * HOUR) == ["gate.data_stale"]
    assert watch(engine, NOW + 9 * HOUR) == ["gate.data_stale"]
    speak(engine, NOW + HOUR, received=NOW + 10 * HOUR)  # what its gateway had kept: it is silent still
    assert watch(engine, NOW + 10 * HOUR) == ["gate.data_stale"]
    speak(engine, NOW + 10 * HOUR)
    assert watch(engine, NOW + 10 * HOUR) == ["gate.data_stale", "gate.data_restored"]
    assert watch(engine, NOW + 12 * HOUR) == ["gate.data_stale", "gate.data_restored", "gate.data_stale"]


@pytest.mark.parametrize("ahead", [timedelta(0), 4 * MINUTE])
def test_who_is_offline_is_silent_at_once_even_with_a_clock_that_is_ahead(engine: Engine, ahead: timedelta) -> None:
    speak(engine, NOW + ahead, received=NOW)
    say(engine, "offline", NOW + MINUTE)

    assert watch(engine, NOW + MINUTE) == ["gate.data_stale"]
    with engine.connect() as connection:
        (notice,) = store.open_notices(connection)
        one = next(one for one in gate_standings(connection, NOW + MINUTE) if one.gate["gate_id"] == GATE)
    assert notice.detail["said"] == "offline"
    assert (one.state, one.reason) == ("stale", "offline")
    speak(engine, NOW + 2 * MINUTE + ahead, received=NOW + 2 * MINUTE)
    assert watch(engine, NOW + 2 * MINUTE) == ["gate.data_stale", "gate.data_restored"]


def test_nothing_is_expected_of_a_gate_in_repair(engine: Engine) -> None:
    declare(engine, 900.0)
    speak(engine, NOW)
    ended_at = NOW + 5 * HOUR
    with writing(engine) as connection:
        values = {"component": "", "kind": "repair", "started_at": NOW, "ended_at": ended_at, "recorded_at": NOW}
        connection.execute(sa.insert(historian.maintenance).values(gate_id=GATE, **values))

    assert watch(engine, ended_at) == []
    assert watch(engine, ended_at + MINUTE) == ["gate.data_stale"]


def test_a_gate_that_never_spoke_is_told_of_once_a_day_has_been_scored(engine: Engine) -> None:
    declare(engine, 900.0)
    assert watch(engine, NOW) == []
    row = {"gate_id": GATE, "component": "", "as_of": NOW, "verdict": "no_verdict", "reason": "stale", "model_version": "v1"}
    with writing(engine) as connection:
        store.save_forecasts(connection, [row])

    assert watch(engine, NOW) == ["gate.data_stale"]
    with engine.connect() as connection:
        (notice,) = store.open_notices(connection)
    assert notice.detail == {"last_seen": None, "said": "nothing"}


def test_a_site_whose_gateways_send_rarely_waits_longer(engine: Engine) -> None:
    declare(engine, 900.0)
    speak(engine, NOW)
    assert AT_LEAST == HOUR
    with writing(engine) as connection:
        watch_silence(connection, NOW + 3 * HOUR - MINUTE, at_least=3 * HOUR)
        assert events(connection) == []
        watch_silence(connection, NOW + 3 * HOUR, at_least=3 * HOUR)
        assert events(connection) == ["gate.data_stale"]
