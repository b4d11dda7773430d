"""Ingest under faults, through a real Mosquitto with our configuration: nothing acknowledged is lost, nothing counts twice.

Ten kills, three restarts and a second without storage; `make faults` asks for 200, 20 and 60 by ``FAULTS_KILLS``.
"""

import json
import logging
import multiprocessing
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt
import pandas as pd
import pytest
import sqlalchemy as sa
from paho.mqtt.enums import CallbackAPIVersion
from sqlalchemy.engine import Engine

from pipeline import cut_days, historian
from pipeline.dataset import Dataset, open_dataset
from pipeline.historian import to_ms
from pipeline.readings import QUANTITIES
from pipeline.simulator import write_dataset
from pipeline.transfer import import_readings, register_fleet
from service import store
from service.bench.messages import GOOD, poison
from service.broker import Broker, free_port
from service.live_features import load_features, refresh_operations
from tests.checker import Account, Published, account, stored_values
from tests.faults import ingest_workers as workers

KILLS = int(os.environ.get("FAULTS_KILLS", "10"))
RESTARTS = max(3, KILLS // 10)
OUTAGE_S = 60.0 if KILLS >= 100 else 1.0
GATE, CHANNEL = "G1", "motor.velocity_rms"
SERVER = multiprocessing.get_context("forkserver")
log = logging.getLogger(__name__)

pytestmark = [pytest.mark.broker, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    """The server of processes, with everything imported, so that they begin at once."""
    SERVER.set_forkserver_preload(["tests.faults.ingest_workers"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # in Python 3.11 it does not get ours
        forkserver.ensure_running()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a migrated database that knows gate G1 of station S1."""
    url = f"sqlite:///{tmp_path}/h.sqlite" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))
    know_gate(url)
    return url


def know_gate(url: str) -> None:
    engine = historian.connect(url)
    store.migrate(engine)
    with historian.writing(engine) as connection:
        connection.execute(sa.insert(historian.gates), {"gate_id": GATE, "station_id": "S1"})
    engine.dispose()


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    engine = historian.connect(database)
    yield engine
    engine.dispose()


@contextmanager
def ingesting(database: str, broker: Broker, failpoint: str = "", health_port: int = 0) -> Iterator[BaseProcess]:
    """Ingest in a process of its own, connected soon after the block begins; killed at the end of the block."""
    heard, told = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=workers.ingest, args=(told, database, broker.url, failpoint, health_port))
    process.start()
    told.close()
    assert heard.poll(60), "the process did not begin"
    assert heard.recv() == "begun"
    try:
        yield process
    finally:
        process.kill()
        process.join()


def begin_session(database: str, broker: Broker, engine: Engine) -> None:
    """Let ingest subscribe once; from then on its session collects. What was acknowledged before, nobody has lost."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="probe")
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    query = sa.select(historian.gates.c.gate_id, historian.gates.c.station_id, historian.gates.c.connection).order_by("gate_id")

    def heard() -> bool:
        with engine.connect() as connection:
            gate_id, station_id, said = connection.execute(query).first()
        client.publish(f"sluicewatch/v1/{station_id}/{gate_id}/status", '{"status": "offline"}', qos=1)
        time.sleep(0.1)
        return said is not None

    with ingesting(database, broker):
        eventually(heard)
    client.disconnect()
    client.loop_stop()


@contextmanager
def publishing(broker: Broker, per_s: float) -> Iterator[Published]:
    """A device that sends a reading after the other with QoS 1 until the block ends, and what was acknowledged by then."""
    published, on_the_way, ended = Published(), dict[int, tuple[str, str, int]](), threading.Event()
    # paho calls back with a lock of its own held, which `publish` wants too: a lock of ours around both would stand for ever
    answered: SimpleQueue[int] = SimpleQueue()

    def settle() -> None:
        while not answered.empty():
            published.acknowledged.add(on_the_way.pop(answered.get()))

    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="sensor", clean_session=False)
    client.reconnect_delay_set(1, 1)
    client.max_queued_messages_set(0)
    client.on_publish = lambda _client, _data, packet_id, *_: answered.put(packet_id)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()

    def send() -> None:
        n = 0
        while not ended.wait(1.0 / per_s):
            at = workers.NOW - timedelta(days=2) + timedelta(milliseconds=250 * n)
            value = float(1 + n % 7)
            body = {"t": at.isoformat(), "values": {"velocity_rms": value}, "units": {"velocity_rms": "mm/s"}, "seq": n}
            sent = client.publish("sluicewatch/v1/S1/G1/motor/telemetry", json.dumps(body), qos=1)
            on_the_way[sent.mid] = key = (GATE, CHANNEL, to_ms(at))
            published.sent[key] = value
            settle()
            n += 1

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield published
    finally:
        ended.set()
        thread.join()
        eventually(lambda: settle() or not on_the_way, 60)
        client.disconnect()
        client.loop_stop()


def eventually(happened, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def catch_up(database: str, broker: Broker, engine: Engine, wanted: int) -> None:
    """Ingest undisturbed until nothing more comes."""
    with ingesting(database, broker) as process:
        eventually(lambda: len(stored_values(engine, [GATE])) >= wanted, 60)
        process.terminate()
        process.join(20)
        assert process.exitcode == 0


def test_killed_at_random_moments_it_loses_and_doubles_nothing(mosquitto: Broker, database: str, engine: Engine) -> None:
    moment = random.Random(20260301)
    begin_session(database, mosquitto, engine)
    with publishing(mosquitto, per_s=300) as published:
        for _ in range(KILLS):
            with ingesting(database, mosquitto):
                time.sleep(moment.uniform(0.0, 0.6))
    catch_up(database, mosquitto, engine, len(published.acknowledged))

    assert account(engine, published) == Account()
    assert len(published.acknowledged) > 20 * KILLS
    log.info("%d kills, %d acknowledged messages, 0 lost, 0 doubled", KILLS, len(published.acknowledged))


@pytest.mark.parametrize("point", ["ingest.before_commit", "ingest.after_commit"])
def test_killed_at_a_failpoint_it_loses_and_doubles_nothing(mosquitto: Broker, database: str, engine: Engine, point: str) -> None:
    moment = random.Random(point)
    begin_session(database, mosquitto, engine)
    with publishing(mosquitto, per_s=300) as published:
        for _ in range(max(3, KILLS // 2)):
            with ingesting(database, mosquitto, f"{point}:{moment.randint(1, 5)}") as process:
                process.join(30)
                assert process.exitcode == -9, "it did not come by the failpoint"
    catch_up(database, mosquitto, engine, len(published.acknowledged))

    assert account(engine, published) == Account()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_broker_that_ends_in_order_again_and_again_loses_nothing(mosquitto: Broker, database: str, engine: Engine) -> None:
    begin_session(database, mosquitto, engine)
    with ingesting(database, mosquitto) as process, publishing(mosquitto, per_s=100) as published:
        for _ in range(RESTARTS):
            time.sleep(1.0)
            mosquitto.restart()
        time.sleep(1.0)
        assert process.is_alive()
    catch_up(database, mosquitto, engine, len(published.acknowledged))

    assert account(engine, published) == Account()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_broker_that_is_killed_loses_at_most_what_came_since_its_last_save(
    mosquitto: Broker, database: str, engine: Engine
) -> None:
    begin_session(database, mosquitto, engine)
    with publishing(mosquitto, per_s=100) as published:  # nobody listens: all of it is in the broker's hands
        for _ in range(RESTARTS):
            time.sleep(2.5)
            mosquitto.kill()
            mosquitto.start()
        time.sleep(2.5)
    with ingesting(database, mosquitto) as process:
        before = -1
        while before < (before := len(stored_values(engine, [GATE]))):
            time.sleep(1.5)
        process.terminate()
        process.join(20)

    found = account(engine, published)
    assert found == Account(lost=found.lost)
    # autosave_interval 1: a second's messages, and what came while a save was under way
    assert len(found.lost) <= RESTARTS * 100 * 1.5
    log.info("%d kills of the broker: %d of %d lost", RESTARTS, len(found.lost), len(published.acknowledged))


@contextmanager
def locked(database: str) -> Iterator[None]:
    """SQLite away: another connection holds it."""
    engine = historian.connect(database)
    with historian.writing(engine):
        yield
    engine.dispose()


@contextmanager
def stopped(server: Any) -> Iterator[None]:
    """PostgreSQL away: it is not running."""
    server.stop()
    yield
    server.start()


def readiness(port: int) -> int:
    """What ``/readyz`` answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def memory_mb(process: BaseProcess, which: str) -> float:
    """`VmRSS` (now) or `VmHWM` (at most so far) of a process."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition(f"{which}:")[2].split()[0]) / 1024


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_while_storage_is_away_nothing_is_acknowledged_and_all_is_made_up_for(
    mosquitto: Broker, tmp_path: Path, request: pytest.FixtureRequest, kind: str, killed: bool
) -> None:
    server = request.getfixturevalue("own_postgres") if kind == "postgresql" else None
    database = f"sqlite:///{tmp_path}/h.sqlite" if server is None else f"{server.address}/postgres"
    know_gate(database)
    engine, port = historian.connect(database), free_port()
    with ingesting(database, mosquitto, health_port=port) as process:
        eventually(lambda: readiness(port) == 200)
        with publishing(mosquitto, per_s=100) as published:
            eventually(lambda: stored_values(engine, [GATE]))
            engine.dispose()
            before_mb, began = memory_mb(process, "VmRSS"), time.monotonic()
            with locked(database) if server is None else stopped(server):
                eventually(lambda: readiness(port) == 503, 10)
                noticed_s = time.monotonic() - began
                time.sleep(max(0.0, OUTAGE_S - noticed_s))
                assert readiness(port) == 503
                if killed:  # what it had acknowledged without storing it would be lost now
                    process.kill()
                    process.join()
            back = time.monotonic()
        if not killed:
            wanted = len(published.acknowledged)
            eventually(lambda: len(stored_values(engine, [GATE])) >= wanted, max(30.0, 2 * OUTAGE_S))
            caught_up_s = time.monotonic() - back
            eventually(lambda: readiness(port) == 200)
            grown_mb = memory_mb(process, "VmHWM") - before_mb
            assert grown_mb <= 100
            told = "%s away: 503 after %.1f s, caught up %.1f s after its return, memory +%.0f MB"
            log.info(told, kind, noticed_s, caught_up_s, grown_mb)
    catch_up(database, mosquitto, engine, len(published.acknowledged))

    assert account(engine, published) == Account()
    engine.dispose()


TOPIC = "sluicewatch/v1/S1/G1/motor/telemetry"
STREAM = 100_000 if KILLS >= 100 else 2_000


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_one_message_in_a_hundred_of_poison_stops_nothing_and_all_are_accounted_for(
    mosquitto: Broker, database: str, engine: Engine
) -> None:
    at_ms, bad, published = to_ms(workers.NOW - timedelta(days=2)), list(poison(TOPIC).values()), Published()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="sensor", clean_session=False)
    client.max_queued_messages_set(0)
    client.connect("127.0.0.1", mosquitto.port)
    client.loop_start()
    begin_session(database, mosquitto, engine)
    with ingesting(database, mosquitto) as process:
        sent = []
        for n in range(STREAM):
            if n % 100 == 0:
                topic, payload = bad[n // 100 % len(bad)]
            else:
                at = datetime.fromtimestamp((at_ms + n) / 1000, UTC).isoformat()
                topic, payload = TOPIC, GOOD.replace(b"2026-02-28T00:00:00Z", at.encode())
                published.sent[GATE, CHANNEL, at_ms + n] = 1.5
            sent.append(client.publish(topic, payload, qos=1))
            if n >= 1_000:  # paho numbers at most 65,535 messages on their way
                sent[n - 1_000].wait_for_publish(120)
        for one in sent[-1_000:]:
            one.wait_for_publish(120)
        published.acknowledged = set(published.sent)
        expected = {"messages_stored": STREAM - STREAM // 100, "messages_quarantined": STREAM // 100}

        def tallies() -> dict[str, int]:
            with engine.connect() as connection:
                found = historian.load_tallies(connection)
            return {name: found.get(name, 0) for name in expected}

        eventually(lambda: sum(tallies().values()) >= STREAM, 120)
        process.terminate()
        process.join(20)
        assert process.exitcode == 0
    client.disconnect()
    client.loop_stop()

    assert tallies() == expected
    assert account(engine, published) == Account()


SEEDS = range(10 if KILLS >= 100 else 2)
MOST_UNDER_WAY = 20_000
"""MQTT numbers what is not yet acknowledged with 16 bits."""

REPLAYED_DAYS, REPLAYED_GATES = (7, 100) if KILLS >= 100 else (4, 2)


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("replayed") / "fleet"
    write_dataset(folder, gates=REPLAYED_GATES, days=REPLAYED_DAYS, seed=12, heartbeat_min=30, start=date(2026, 2, 1))
    return open_dataset(folder)


def known_fleet(url: str, dataset: Dataset) -> Engine:
    engine = historian.connect(url)
    store.migrate(engine)
    with historian.writing(engine) as connection:
        register_fleet(connection, dataset, workers.NOW)
    return engine


def as_messages(dataset: Dataset) -> list[tuple[float, str, bytes]]:
    """A message for each component and instant: when it was measured, its topic and its payload."""
    stations = dict(zip(dataset.gates["gate_id"], dataset.gates["station_id"], strict=True))
    found = []
    for gate_id in dataset.gate_ids:
        for row in dataset.readings(gate_id).to_dict("records"):
            at = row.pop("ts")
            by_component: dict[str, dict[str, float]] = {}
            for key, value in row.items():
                component, _, name = str(key).partition(".")
                if value == value:
                    by_component.setdefault(component, {})[name] = value
            for component, values in by_component.items():
                topic = f"sluicewatch/v1/{stations[gate_id]}/{gate_id}/{component}/telemetry"
                units = {name: QUANTITIES[name.rpartition(".")[2]].unit for name in values}
                found.append(
                    (at.timestamp(), topic, json.dumps({"t": at.isoformat(), "values": values, "units": units}).encode())
                )
    return sorted(found)


def spoilt(messages: list[tuple[float, str, bytes]], chance: random.Random) -> list[tuple[str, bytes]]:
    """5 % repeated, 20 % shuffled within 10 minutes, 2 % late by up to 3 days."""
    order = []
    for at, topic, payload in messages:
        when = at
        if chance.random() < 0.2:
            when += chance.uniform(0.0, 600.0)
        if chance.random() < 0.02:
            when += chance.uniform(0.0, 3 * 86_400.0)
        order.append((when, topic, payload))
        if chance.random() < 0.05:
            order.append((when + chance.uniform(0.0, 600.0), topic, payload))
    return [(topic, payload) for _, topic, payload in sorted(order)]


def all_that_follows(engine: Engine, dataset: Dataset) -> tuple[list[object], pd.DataFrame]:
    """Operations and days as they are stored, and the feature rows of every midnight."""
    gate_ids = dataset.gate_ids
    end = workers.NOW
    refresh_operations(engine, gate_ids, end)
    as_ofs = [datetime(2026, 2, 2, tzinfo=UTC) + timedelta(days=day) for day in range(REPLAYED_DAYS)]
    with engine.connect() as connection:
        names = cut_days.load_summary_names(connection, gate_ids)
        kept: list[object] = []
        for gate_id in gate_ids:
            for told_of, load in (("operations", cut_days.load_operations), ("days", cut_days.load_days)):
                # the order of a summary's numbers is that in which channels became known
                order = np.argsort(np.array(names[gate_id, told_of]))
                for *at, summary in load(connection, gate_id, 0, 2**52):
                    kept.append((gate_id, told_of, *at, np.frombuffer(summary)[order[: len(summary) // 8]].tobytes()))
        return kept, load_features(connection, gate_ids, as_ofs)


@pytest.mark.parametrize("seed", SEEDS)
def test_late_repeated_and_shuffled_messages_and_kills_change_nothing(
    mosquitto: Broker, tmp_path: Path, replayed: Dataset, seed: int
) -> None:
    chance = random.Random(seed)
    url = f"sqlite:///{tmp_path}/replayed.sqlite"
    clean, engine = known_fleet(f"sqlite:///{tmp_path}/clean.sqlite", replayed), known_fleet(url, replayed)
    import_readings(clean, replayed)
    messages = spoilt(as_messages(replayed), chance)
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="gateway", clean_session=False)
    client.max_queued_messages_set(0)
    client.connect("127.0.0.1", mosquitto.port)
    client.loop_start()
    begin_session(url, mosquitto, engine)

    quarter = -(-len(messages) // 4)
    for start in range(0, len(messages), quarter):
        with ingesting(url, mosquitto):
            for some in range(start, min(start + quarter, len(messages)), MOST_UNDER_WAY):
                until = min(some + MOST_UNDER_WAY, start + quarter)
                sent = [client.publish(topic, payload, qos=1) for topic, payload in messages[some:until]]
                for one in sent:
                    one.wait_for_publish(60)
            time.sleep(chance.uniform(0.0, 0.3))
    client.disconnect()
    client.loop_stop()
    wanted = stored_values(clean, replayed.gate_ids)
    with ingesting(url, mosquitto) as process:
        eventually(lambda: len(stored_values(engine, replayed.gate_ids)) >= len(wanted), 60)
        process.terminate()
        process.join(20)

    assert stored_values(engine, replayed.gate_ids) == wanted
    (kept, rows), (expected, expected_rows) = (all_that_follows(one, replayed) for one in (engine, clean))
    assert kept == expected
    pd.testing.assert_frame_equal(rows, expected_rows, rtol=0, atol=0)
    clean.dispose()
    engine.dispose()
