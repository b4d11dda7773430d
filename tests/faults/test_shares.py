"""Three ingest processes, each with its station, on a real PostgreSQL and a real Mosquitto; killed, they lose nothing."""

import json
import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
import sqlalchemy as sa
from paho.mqtt.enums import CallbackAPIVersion

from pipeline import historian
from pipeline.errors import BadInput
from pipeline.historian import to_ms
from pipeline.ingest import IngestSettings, IngestState
from pipeline.shares import Share, SharesState, run_shares
from service import store
from service.broker import Broker, free_port
from tests.checker import Account, Published, account, stored_values
from tests.faults import ingest_workers as workers

SERVER = multiprocessing.get_context("forkserver")
STATIONS = ("S1", "S2", "S3")


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    SERVER.set_forkserver_preload(["tests.faults.ingest_workers"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        forkserver.ensure_running()


@pytest.fixture
def database(postgres_url: str) -> str:
    engine = historian.connect(postgres_url)
    store.migrate(engine)
    with historian.writing(engine) as connection:
        gates = [{"gate_id": f"{station}-G1", "station_id": station} for station in STATIONS]
        connection.execute(sa.insert(historian.gates), gates)
    engine.dispose()
    return postgres_url


def begin(database: str, broker: Broker, station: str) -> BaseProcess:
    heard, told = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=workers.share, args=(told, database, broker.url, station))
    process.start()
    told.close()
    assert heard.poll(60), "the process did not begin"
    assert heard.recv() == "begun"
    return process


def eventually(happened, seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


class Publisher:
    """A device at each station, all the time."""

    def __init__(self, broker: Broker) -> None:
        self.published = Published()
        self.counting = False
        """What the broker acknowledged before anybody had subscribed, nobody has lost."""
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="sensors", clean_session=False)
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        n = 0
        while not self._ended.wait(0.01):
            station = STATIONS[n % len(STATIONS)]
            at = workers.NOW - timedelta(days=1) + timedelta(seconds=n)
            body = {"t": at.isoformat(), "values": {"velocity_rms": 1.0}, "units": {"velocity_rms": "mm/s"}}
            sent = self._client.publish(f"sluicewatch/v1/{station}/{station}-G1/motor/telemetry", json.dumps(body), qos=1)
            key = (f"{station}-G1", "motor.velocity_rms", to_ms(at))
            self.published.sent[key] = 1.0
            sent.wait_for_publish(30)
            if self.counting:
                self.published.acknowledged.add(key)
            n += 1

    def end(self) -> Published:
        self._ended.set()
        self._thread.join()
        self._client.disconnect()
        self._client.loop_stop()
        return self.published


@pytest.mark.broker
@pytest.mark.postgres
def test_when_one_of_three_is_killed_another_goes_on_with_its_session_and_nothing_is_lost(
    mosquitto: Broker, database: str
) -> None:
    engine = historian.connect(database)
    gates = [f"{station}-G1" for station in STATIONS]
    processes = [begin(database, mosquitto, station) for station in STATIONS]

    def stored(gate_id: str) -> int:
        return len(stored_values(engine, [gate_id]))

    def sessions() -> int:
        """How many shares are at work: each holds its lock."""
        with engine.connect() as connection:
            here = "database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            held = sa.text(f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND {here}")
            return connection.scalar(held) or 0

    try:
        eventually(lambda: sessions() == 3)
        publisher = Publisher(mosquitto)
        try:
            eventually(lambda: all(stored(gate_id) > 5 for gate_id in gates))
            publisher.counting = True
            processes[0].kill()
            processes[0].join()
            before = stored(gates[0])
            eventually(lambda: stored(gates[0]) > before + 20)
            back = begin(database, mosquitto, STATIONS[0])  # stands by: its share is worked on
            processes.append(back)
            processes[1].kill()
            before = stored(gates[1])
            eventually(lambda: stored(gates[1]) > before + 20)
        finally:
            published = publisher.end()
        eventually(lambda: published.acknowledged <= stored_values(engine, gates).keys())
        for process in processes[2:]:
            process.terminate()
            process.join(20)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()

    assert account(engine, published) == Account()
    engine.dispose()


@pytest.mark.postgres
def test_a_share_whose_broker_is_away_is_not_ready_at_any_moment(database: str) -> None:
    engine, state, stop = historian.connect(database), SharesState(), threading.Event()
    settings, own = IngestSettings(f"mqtt://127.0.0.1:{free_port()}"), Share.of(["S1"])
    attempts: list[IngestState] = []
    told = []

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(run_shares, engine, settings, own, stop=stop, clock=lambda: workers.NOW, state=state)

        def third_attempt() -> bool:
            attempts.extend(worker for worker in list(state.workers.values()) if not any(worker is one for one in attempts))
            if attempts:
                told.append(state.faults())
            return len(attempts) == 3

        eventually(third_attempt)
        stop.set()
        working.result(20)

    assert {tuple(faults) for faults in told} == {("S1: not connected to the broker",)}
    engine.dispose()


def test_one_process_is_all_that_sqlite_bears(tmp_path: Path) -> None:
    engine = historian.connect(f"sqlite:///{tmp_path}/h.sqlite")

    with pytest.raises(BadInput, match="several ingest processes need PostgreSQL"):
        run_shares(
            engine, IngestSettings("mqtt://127.0.0.1"), Share.of(["S1"]), stop=threading.Event(), clock=lambda: workers.NOW
        )
    engine.dispose()


def test_a_share_is_its_stations_in_any_order() -> None:
    assert Share.of(["S2", "S1", "S2"]) == Share.of(["S1", "S2"])
    assert Share.of(["S1", "S2"]).lock != Share.of(["S1"]).lock
    assert -(2**63) <= Share.of(["S1"]).lock < 2**63
    for wrong in ([], ["S 1"], ["S1/#"]):
        with pytest.raises(BadInput, match="stations: allowed are station ids"):
            Share.of(wrong)
