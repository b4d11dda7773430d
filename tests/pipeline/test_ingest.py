"""Ingest through a real Mosquitto: a message acknowledged is on disk, counts once, and a bad one stops nothing."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt
import pytest
import sqlalchemy as sa
from paho.mqtt.enums import CallbackAPIVersion
from scipy import signal as signal_tools
from scipy import stats
from sqlalchemy.engine import Engine

from pipeline import historian, ingest, intake, sequence
from pipeline.adapters import sparkplug
from pipeline.adapters.dialects import NATIVE, Dialects
from pipeline.adapters.mapping import read_mapping
from pipeline.errors import BadInput
from pipeline.ingest import IngestSettings, IngestState, run_ingest
from pipeline.waveforms import Burst, encode
from service.broker import Broker, free_port

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DATA = Path(os.environ.get("SLUICEWATCH_DATA", Path(__file__).parents[3] / "shared" / "data"))
FEMTO = DATA / "open_femto_learning_every6.zip"
TOPIC = "sluicewatch/v1/S1/G1/motor/telemetry"

CHILD = """
import signal, sys, threading, time
from datetime import UTC, datetime
from pipeline import historian
from pipeline.ingest import IngestSettings, IngestState, run_ingest

def tell():
    while state.storing_since is None:
        time.sleep(0.0005)
    print("storing", flush=True)

stop, state = threading.Event(), IngestState()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
threading.Thread(target=tell, daemon=True).start()
now = datetime(2026, 3, 1, 12, tzinfo=UTC)
run_ingest(historian.connect(sys.argv[1]), IngestSettings(sys.argv[2]), stop=stop, clock=lambda: now, state=state)
"""


@pytest.fixture
def database(tmp_path: Path) -> str:
    """The URL of a historian that knows gate G1 of station S1."""
    url = f"sqlite:///{tmp_path}/h.sqlite"
    engine = historian.connect(url)
    with historian.writing(engine) as connection:
        historian.metadata.create_all(connection)
        connection.execute(sa.insert(historian.gates), {"gate_id": "G1", "station_id": "S1"})
    engine.dispose()
    return url


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    engine = historian.connect(database)
    yield engine
    engine.dispose()


@contextmanager
def running(engine: Engine, url: str, dialects: Dialects = NATIVE, **settings: Any) -> Iterator[IngestState]:
    """Ingest in a thread until the end of the block; it is connected when the block begins and has stopped cleanly after it."""
    state, stop = IngestState(), threading.Event()
    given: dict[str, Any] = {"stop": stop, "clock": lambda: NOW, "state": state, "dialects": dialects}
    with ThreadPoolExecutor(1) as pool:
        ingesting = pool.submit(run_ingest, engine, IngestSettings(url, **settings), **given)
        try:
            eventually(lambda: state.connected or ingesting.done())
            time.sleep(0.1)  # the broker has our SUBSCRIBE by then
            yield state
        finally:
            stop.set()
            ingesting.result(20)


def eventually(happened: Callable[[], Any], seconds: float = 20.0) -> None:
    """Return when it happened; fail when it does not."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def reading(n: int, value: float = 1.0) -> bytes:
    at = NOW - timedelta(hours=3) + timedelta(milliseconds=n)
    return json.dumps({"t": at.isoformat(), "values": {"velocity_rms": value}, "units": {"velocity_rms": "mm/s"}}).encode()


@contextmanager
def sensor(broker: Broker) -> Iterator[Callable[..., None]]:
    """A device: call it with payloads (and a topic) to publish them with QoS 1 and wait for the broker's acknowledgement."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="sensor", clean_session=False)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()

    def publish(*payloads: bytes, topic: str = TOPIC, retain: bool = False) -> None:
        for sent in [client.publish(topic, payload, qos=1, retain=retain) for payload in payloads]:
            sent.wait_for_publish(20)
            assert sent.is_published()

    yield publish
    client.disconnect()
    client.loop_stop()


def tally(engine: Engine, name: str = "messages_stored") -> int:
    with engine.connect() as connection:
        return historian.load_tallies(connection).get(name, 0)


def stored_ms(engine: Engine) -> list[int]:
    """Offsets n of the stored `reading(n)`; a doubled one would stand twice."""
    start_ms = historian.to_ms(NOW - timedelta(hours=3))
    with engine.connect() as connection:
        return [row.ts_ms - start_ms for row in connection.execute(sa.select(historian.readings.c.ts_ms).order_by("ts_ms"))]


@pytest.mark.broker
@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_every_message_is_stored_once_and_none_waits_after_a_clean_stop(mosquitto: Broker, engine: Engine, version: str) -> None:
    with sensor(mosquitto) as publish:
        with running(engine, mosquitto.url, version=version):
            publish(*(reading(n) for n in range(500)))
        with running(engine, mosquitto.url, version=version):
            publish(*(reading(n) for n in range(500, 600)))
            eventually(lambda: len(stored_ms(engine)) == 600)

    assert stored_ms(engine) == list(range(600))
    assert tally(engine) == 600, "a message came again although it had been acknowledged"


@pytest.mark.broker
def test_the_fleet_is_read_before_the_broker_is_asked_for_messages(mosquitto: Broker, engine: Engine) -> None:
    asked: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda c, cursor, statement, *about: asked.append(statement))

    with running(engine, mosquitto.url):
        before = sum("FROM gates" in statement for statement in asked)
        with sensor(mosquitto) as publish:
            publish(reading(0).replace(b', "units": {"velocity_rms": "mm/s"}', b""))
            eventually(lambda: tally(engine, "messages_quarantined") == 1)

    assert before == sum("FROM gates" in statement for statement in asked) == 1


@pytest.mark.broker
def test_malformed_messages_are_counted_and_kept_with_their_reason_and_ingest_goes_on(mosquitto: Broker, engine: Engine) -> None:
    before = ingest.RECEIVED.labels("quarantined")._value.get()
    wrong_unit = reading(1).replace(b"mm/s", b"furlong")
    with sensor(mosquitto) as publish, running(engine, mosquitto.url):
        publish(b"velocity 1.3", wrong_unit)
        publish(reading(2), topic="sluicewatch/v1/S1/G404/motor/telemetry")
        publish(reading(3, float("nan")), b"{" + b" " * 204_800 + b"}", reading(4))
        eventually(lambda: tally(engine) == 1)

    with engine.connect() as connection:
        kept = connection.execute(sa.select(historian.quarantine).order_by(historian.quarantine.c.quarantine_id)).fetchall()
    assert [row.reason for row in kept] == ["not_json", "wrong_unit", "unknown_gate", "not_finite", "oversize"]
    assert [len(row.payload) for row in kept][-1] == 4096
    assert kept[1].payload == wrong_unit
    assert stored_ms(engine) == [4]
    assert tally(engine, "messages_quarantined") == 5
    assert ingest.RECEIVED.labels("quarantined")._value.get() - before == 5


@pytest.mark.broker
def test_a_kept_copy_of_old_telemetry_is_not_taken_for_news(mosquitto: Broker, engine: Engine) -> None:
    with sensor(mosquitto) as publish:
        publish(reading(1), retain=True)
        with running(engine, mosquitto.url):
            eventually(lambda: tally(engine, "messages_quarantined") == 1)

    assert stored_ms(engine) == []


@pytest.mark.broker
def test_what_a_publishers_count_misses_is_reported(
    mosquitto: Broker, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sequence, "GRACE_S", 0.5)
    numbered = [json.dumps(json.loads(reading(n)) | {"seq": n}).encode() for n in (0, 1, 2, 5, 6, 9, 4)]

    with sensor(mosquitto) as publish, running(engine, mosquitto.url):
        publish(*numbered)
        eventually(lambda: tally(engine, "messages_lost_upstream") == 3)

    assert stored_ms(engine) == [0, 1, 2, 4, 5, 6, 9]
    assert f"3 messages were lost on their way to us, by their numbers; most of {TOPIC}: 3" in caplog.text


@pytest.mark.broker
def test_a_batch_larger_than_the_brokers_window_does_not_stall(mosquitto: Broker, engine: Engine) -> None:
    settings: dict[str, Any] = {"version": "5", "receive_maximum": 5, "most_messages": 2_000}
    with running(engine, mosquitto.url, **settings):
        pass  # the session exists now and collects
    with sensor(mosquitto) as publish:
        publish(*(reading(n) for n in range(400)))

    started = time.monotonic()
    with running(engine, mosquitto.url, **settings):
        eventually(lambda: len(stored_ms(engine)) == 400)

    assert time.monotonic() - started < 10


@pytest.mark.broker
def test_many_small_batches_keep_the_order_of_acknowledgement(mosquitto: Broker, engine: Engine) -> None:
    with sensor(mosquitto) as publish, running(engine, mosquitto.url, most_messages=7):
        publish(*(reading(n) for n in range(500)))
        eventually(lambda: len(stored_ms(engine)) == 500)

    assert tally(engine) == 500


@pytest.mark.broker
def test_killed_in_mid_stream_it_loses_nothing_and_doubles_nothing(mosquitto: Broker, database: str, engine: Engine) -> None:
    chance = random.Random(20260301)
    sent = 0
    with running(engine, mosquitto.url):
        pass  # the session exists now and collects
    with sensor(mosquitto) as publish:
        for _ in range(3):
            with child(database, mosquitto.url) as process:
                publish(reading(sent))
                sent += 1
                assert process.stdout is not None
                assert process.stdout.readline() == b"storing\n"
                until = time.monotonic() + chance.uniform(0.0, 0.5)
                while time.monotonic() < until:
                    publish(*(reading(n) for n in range(sent, sent + 20)))
                    sent += 20
                process.kill()
        publish(*(reading(n) for n in range(sent, sent + 100)))
        sent += 100

    with running(engine, mosquitto.url):
        eventually(lambda: len(stored_ms(engine)) >= sent)

    assert stored_ms(engine) == list(range(sent))
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"


@contextmanager
def child(database: str, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """Ingest in a process of its own, which says ``storing`` when it stores its first batch; killed at the end of the block."""
    command = [sys.executable, "-c", CHILD, database, url]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.broker
def test_asked_to_end_it_stores_and_acknowledges_what_it_has(mosquitto: Broker, database: str, engine: Engine) -> None:
    with sensor(mosquitto) as publish, child(database, mosquitto.url) as process:
        retained = json.dumps({"status": "online", "t": NOW.isoformat()}).encode()
        publish(retained, topic="sluicewatch/v1/S1/G1/status", retain=True)
        assert process.stdout is not None
        assert process.stdout.readline() == b"storing\n"
        publish(*(reading(n) for n in range(200)))
        process.send_signal(signal.SIGTERM)
        code = process.wait(20)
    with running(engine, mosquitto.url):
        eventually(lambda: len(stored_ms(engine)) == 200)

    assert code == 0
    assert tally(engine) == 200, "a message came again although it had been stored"


@pytest.mark.broker
def test_what_could_not_be_stored_was_not_acknowledged(mosquitto: Broker, database: str, engine: Engine) -> None:
    with running(engine, mosquitto.url):
        pass
    with sensor(mosquitto) as publish:
        publish(*(reading(n) for n in range(300)))

    with historian.writing(engine), child(database, mosquitto.url) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"storing\n"
        time.sleep(0.3)
        process.kill()
    nothing = stored_ms(engine)
    with running(engine, mosquitto.url):
        eventually(lambda: len(stored_ms(engine)) == 300)

    assert nothing == []
    assert stored_ms(engine) == list(range(300))


@pytest.mark.broker
def test_a_storage_outage_is_reported_waited_for_and_made_up_for(mosquitto: Broker, database: str, engine: Engine) -> None:
    impatient = historian.connect(database)
    sa.event.listen(impatient, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout=200"))

    with sensor(mosquitto) as publish, running(impatient, mosquitto.url) as state:
        publish(*(reading(n) for n in range(50)))
        eventually(lambda: len(stored_ms(engine)) == 50)
        with historian.writing(engine):
            publish(*(reading(n) for n in range(50, 250)))
            eventually(lambda: any("storage: " in fault for fault in state.faults()))
            time.sleep(1)
            assert len(stored_ms(engine)) == 50
        eventually(lambda: len(stored_ms(engine)) == 250)
        eventually(lambda: state.faults() == [])
    impatient.dispose()

    assert stored_ms(engine) == list(range(250))


@pytest.mark.broker
def test_a_full_disk_is_told_of_spoils_nothing_and_is_made_up_for(
    mosquitto: Broker, database: str, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    pages = [0]
    small = historian.connect(database)
    sa.event.listen(small, "checkout", lambda connection, *_: connection.execute(f"PRAGMA max_page_count={pages[0] or 2**30}"))

    with sensor(mosquitto) as publish, running(small, mosquitto.url) as state:
        publish(*(reading(n) for n in range(50)))
        eventually(lambda: len(stored_ms(engine)) == 50)
        with engine.connect() as connection:
            pages[0] = connection.exec_driver_sql("PRAGMA page_count").scalar_one() + 1
        publish(*(reading(n) for n in range(50, 3000)))
        eventually(lambda: any("full" in fault for fault in state.faults()))
        kept = len(stored_ms(engine))
        pages[0] = 0
        eventually(lambda: len(stored_ms(engine)) == 3000)
        eventually(lambda: state.faults() == [])
    small.dispose()

    assert kept < 3000
    assert (
        "storage fails, nothing is acknowledged until it is back: (sqlite3.OperationalError) database or disk is full"
        in caplog.text
    )
    assert stored_ms(engine) == list(range(3000))
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"


@pytest.mark.broker
def test_a_broker_that_restarts_is_found_again(mosquitto: Broker, engine: Engine) -> None:
    with running(engine, mosquitto.url) as state:
        for round_ in range(3):
            with sensor(mosquitto) as publish:
                publish(*(reading(n) for n in range(round_ * 100, round_ * 100 + 100)))
            mosquitto.stop()
            eventually(lambda: state.faults() == ["not connected to the broker"])
            mosquitto.start()
        eventually(lambda: len(stored_ms(engine)) == 300)

    assert stored_ms(engine) == list(range(300))


@pytest.mark.broker
def test_a_message_the_historian_rejects_is_put_aside_and_those_beside_it_are_stored(mosquitto: Broker, engine: Engine) -> None:
    with historian.writing(engine) as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER no_666 BEFORE INSERT ON readings WHEN NEW.v0 = 666 BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        )

    with running(engine, mosquitto.url), sensor(mosquitto) as publish:
        publish(reading(0), reading(1, 666.0), *(reading(n) for n in range(2, 20)))
        eventually(lambda: len(stored_ms(engine)) == 19)
        eventually(lambda: tally(engine, "messages_quarantined") == 1)

    with engine.connect() as connection:
        kept = connection.execute(sa.select(historian.quarantine)).one()
    assert (kept.reason, kept.payload) == ("not_storable", reading(1, 666.0))
    assert "not this one" in kept.detail


@pytest.mark.broker
def test_a_fault_nobody_thought_of_does_not_end_it(
    mosquitto: Broker, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faults = [RuntimeError("first"), RuntimeError("second")]

    def store_messages(*arguments: Any) -> Any:
        if faults:
            raise faults.pop()
        return honest(*arguments)

    honest = intake.store_messages
    monkeypatch.setattr(ingest, "store_messages", store_messages)

    with running(engine, mosquitto.url), sensor(mosquitto) as publish:
        publish(*(reading(n) for n in range(50)))
        eventually(lambda: len(stored_ms(engine)) == 50)

    assert [record.exc_info[1].args for record in caplog.records if record.exc_info and record.exc_info[1]] == [
        ("second",),
        ("first",),
    ]


MAPPING = """
[signals.plain]
"Motor/v" = { channel = "motor.velocity_rms", unit = "mm/s" }
[[publisher]]
dialect = "iotda"
id = "gateway-3"
signals = "plain"
gates = { child = "G2" }
[[publisher]]
dialect = "thingsboard"
signals = "plain"
gates = { "Device A" = "G3" }
[[publisher]]
dialect = "sparkplug"
id = "Basin/S4"
signals = "plain"
gates = { Gate = "G4" }
"""
REPORT = "$oc/devices/gateway-3/sys/gateway/sub_devices/properties/report"


@pytest.fixture
def dialects(engine: Engine) -> Dialects:
    """All dialects; each foreign one may speak for one gate of its own, G2 to G4."""
    gate_ids = ["G2", "G3", "G4"]
    with historian.writing(engine) as connection:
        connection.execute(sa.insert(historian.gates), [{"gate_id": gate_id, "station_id": "S1"} for gate_id in gate_ids])
    return Dialects(read_mapping(MAPPING, gate_ids))


def iotda_report(device_id: str, value: float) -> bytes:
    services = [{"service_id": "Motor", "properties": {"v": value}, "event_time": "20260301T090000Z"}]
    return json.dumps({"devices": [{"device_id": device_id, "services": services}]}).encode()


def born_gate(seq: int, *, alias_only: bool) -> bytes:
    made = sparkplug.Payload(timestamp=historian.to_ms(NOW) + seq, seq=seq)
    made.metrics.add(**({} if alias_only else {"name": b"Motor/v", "datatype": 9}), alias=1, float_value=4.0 + seq)
    return bytes(made.SerializeToString())


@pytest.mark.broker
@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_all_dialects_together_each_for_its_own_gates(
    mosquitto: Broker, engine: Engine, dialects: Dialects, version: str
) -> None:
    with sensor(mosquitto) as publish, running(engine, mosquitto.url, dialects, version=version):
        publish(reading(0, 1.0))
        publish(iotda_report("child", 2.0), topic=f"{REPORT}?request_id=7")
        publish(b'{"Device A": [{"ts": 1772350000000, "values": {"Motor/v": 3}}]}', topic="v1/gateway/telemetry")
        publish(born_gate(1, alias_only=False), topic="spBv1.0/Basin/DBIRTH/S4/Gate")
        publish(born_gate(2, alias_only=True), topic="spBv1.0/Basin/DDATA/S4/Gate")
        publish(*(iotda_report(name, 9.0) for name in ("G1", "Device A", "Gate", "G3")), topic=REPORT)
        eventually(lambda: tally(engine, "readings_received") == 5 and tally(engine, "messages_quarantined") == 4)

    with engine.connect() as connection:
        query = sa.select(historian.channels.c.gate_id, historian.readings.c.v0).join(
            historian.readings, historian.readings.c.series_id == historian.channels.c.series_id
        )
        stored = sorted(tuple(row) for row in connection.execute(query))
        kept = connection.execute(sa.select(historian.quarantine.c.reason)).scalars().all()
    assert stored == [("G1", 1.0), ("G2", 2.0), ("G3", 3.0), ("G4", 5.0), ("G4", 6.0)]
    assert sorted(kept) == ["identity_mismatch", "identity_mismatch", "unknown_device", "unknown_device"]


@pytest.mark.broker
def test_a_dialect_that_left_the_mapping_file_is_not_heard_any_more(
    mosquitto: Broker, engine: Engine, dialects: Dialects
) -> None:
    with running(engine, mosquitto.url, dialects):
        pass  # the session has the subscription now

    with sensor(mosquitto) as publish, running(engine, mosquitto.url):
        publish(iotda_report("child", 2.0), topic=REPORT)
        publish(reading(0))
        eventually(lambda: stored_ms(engine) == [0])

    assert tally(engine, "messages_quarantined") == 0


@pytest.mark.broker
@pytest.mark.parametrize("allowed", [True, False])
def test_an_edge_node_whose_aliases_nobody_told_us_is_asked_once_where_that_is_allowed(
    mosquitto: Broker, engine: Engine, dialects: Dialects, allowed: bool
) -> None:
    heard: list[bytes] = []
    edge = mqtt.Client(CallbackAPIVersion.VERSION2)
    edge.on_message = lambda _client, _data, message: heard.append(message.payload)
    subscribed = threading.Event()
    edge.on_subscribe = lambda *_: subscribed.set()
    edge.connect("127.0.0.1", mosquitto.port)
    edge.loop_start()
    edge.subscribe("spBv1.0/Basin/NCMD/S4", qos=1)
    assert subscribed.wait(20)

    with sensor(mosquitto) as publish, running(engine, mosquitto.url, dialects, sparkplug_rebirth=allowed):
        for seq in range(3):
            publish(born_gate(seq, alias_only=True), topic="spBv1.0/Basin/DDATA/S4/Gate")
            eventually(lambda: tally(engine, "messages_quarantined") == seq + 1)  # noqa: B023 - called before the next round
        if allowed:
            eventually(lambda: heard)
        publish(b"the last", topic="spBv1.0/Basin/NCMD/S4")
        eventually(lambda: b"the last" in heard)
    edge.disconnect()
    edge.loop_stop()

    _, request = sparkplug.rebirth_request("Basin/S4", historian.to_ms(NOW))
    assert heard == [request, b"the last"] if allowed else [b"the last"]


def test_a_first_connection_that_fails_is_bad_input(engine: Engine) -> None:
    with pytest.raises(BadInput, match="cannot reach"):
        run_ingest(engine, IngestSettings(f"mqtt://127.0.0.1:{free_port()}"), stop=threading.Event(), clock=lambda: NOW)


def test_a_loop_that_stands_still_and_a_batch_that_takes_long_are_reported() -> None:
    now = time.monotonic()

    assert IngestState(moved_at=now).stuck() == []
    assert IngestState(moved_at=now - 121).stuck() == ["the loop has not moved for 121 s"]
    assert IngestState(connected=True, storing_since=now - 1).faults() == []
    assert IngestState(connected=True, storing_since=now - 6).faults() == ["storage: a batch has been under way for 6 s"]


@pytest.mark.broker
def test_a_real_bearings_bursts_become_the_readings_that_scipy_gives(mosquitto: Broker, engine: Engine, tmp_path: Path) -> None:
    if not FEMTO.is_file():
        pytest.skip(f"{FEMTO.name} is not in {FEMTO.parent}")
    with zipfile.ZipFile(FEMTO) as archive:
        members = sorted(name for name in archive.namelist() if "Bearing1_1/acc_" in name)[::20]
        texts = [archive.read(name).decode().replace(";", ",") for name in members]
    # the files tell thousandths of g
    raw = [np.rint(np.loadtxt(io.StringIO(text), delimiter=",", usecols=4) * 1000.0).astype(np.int16) for text in texts]
    times = [NOW - timedelta(hours=len(raw) - n) for n in range(len(raw))]
    bursts = [encode(Burst(t, "horizontal", "x", 25_600.0, 0.001, samples)) for t, samples in zip(times, raw, strict=True)]
    folder = tmp_path / "bursts"

    with sensor(mosquitto) as publish, running(engine, mosquitto.url, bursts_folder=folder, bursts_days=36_500):
        publish(*bursts, *bursts[:3], topic="sluicewatch/v1/S1/G1/motor/waveform")
        eventually(lambda: tally(engine) == len(bursts) + 3)

    with engine.connect() as connection:
        stored = historian.read_gate(connection, "G1", 0, historian.to_ms(NOW)).set_index("ts")
    assert list(stored.index) == times
    assert len(times) > 20
    for t, samples in zip(times, raw, strict=True):
        acceleration_g = samples / 1000.0
        centred = acceleration_g - acceleration_g.mean()
        expected = {
            "acceleration_rms": np.sqrt(signal_tools.periodogram(acceleration_g, 25_600.0, scaling="spectrum")[1].sum()),
            "acceleration_peak": np.abs(centred).max(),
            "kurtosis": stats.kurtosis(acceleration_g, fisher=False),
            "crest_factor": np.abs(centred).max() / np.std(acceleration_g),
        }
        found = {name: stored.at[t, f"motor.horizontal.{name}"] for name in expected}
        assert found == pytest.approx(expected, rel=1e-6)
    kept = sorted(folder.rglob("*.bin"))
    assert [file.read_bytes() for file in kept] == bursts


@pytest.mark.broker
def test_a_burst_that_cannot_be_kept_is_not_acknowledged_and_comes_again(
    mosquitto: Broker, engine: Engine, tmp_path: Path
) -> None:
    samples = np.arange(-300, 300, dtype=np.int16)
    payload = encode(Burst(NOW, "bearing_de", "", 12_800.0, 0.001, samples))
    folder = tmp_path / "bursts"
    folder.write_text("a file where the folder should be")

    with sensor(mosquitto) as publish, running(engine, mosquitto.url, bursts_folder=folder, bursts_days=36_500) as state:
        publish(payload, topic="sluicewatch/v1/S1/G1/motor/waveform")
        eventually(lambda: any("storage" in fault for fault in state.faults()))
        assert tally(engine) == 0
        folder.unlink()
        eventually(lambda: tally(engine) == 1)

    assert [file.read_bytes() for file in folder.rglob("*.bin")] == [payload]
