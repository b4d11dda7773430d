import gc
import json
import queue
import resource
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from pipeline.adapters import Gate, native
from pipeline.adapters import Message as Received
from pipeline.errors import BadInput
from pipeline.simulator import make_fleet, publish, simulate_gate
from pipeline.simulator.publish import FleetPublisher, Message, PublishError, Station, fleet_messages, replay, to_messages
from pipeline.spectra import Machine
from service.broker import Broker, free_port

START = datetime(2024, 1, 1, tzinfo=UTC)


class Registered:
    """A registry that knows one gate and declares every channel of the simulator in its canonical unit."""

    def __init__(self, gate: Gate, units: dict[str, dict[str, str]]) -> None:
        self._gate, self._units = gate, units

    def gate(self, gate_id: str) -> Gate | None:
        return self._gate if gate_id == self._gate.gate_id else None

    def units(self, gate_id: str, component: str) -> dict[str, str]:
        return self._units[component]

    def machine(self, gate_id: str, component: str) -> Machine:
        return Machine()


@contextmanager
def subscriber(broker: Broker, client_id: str = "listener") -> Iterator["queue.Queue[Any]"]:
    """Everything published, as paho hands it out; the session outlives a broker's restart."""
    received: queue.Queue[Any] = queue.Queue()
    subscribed = threading.Event()
    client = Client(CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=False)
    client.reconnect_delay_set(1, 1)
    client.on_connect = lambda client, *_: client.subscribe("sluicewatch/v1/#", qos=1)
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = lambda _client, _data, message: received.put(message)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    assert subscribed.wait(10)
    try:
        yield received
    finally:
        client.disconnect()
        client.loop_stop()


def drain(received: "queue.Queue[Any]", rows: int) -> list[dict[str, Any]]:
    """The next ``rows`` distinct telemetry readings, each with its topic."""
    out: dict[tuple[str, str], dict[str, Any]] = {}
    while len(out) < rows:
        message = received.get(timeout=20)
        if message.topic.endswith("/telemetry"):
            body = json.loads(message.payload)
            for reading in body.get("readings", [body]):
                out[message.topic, reading["t"]] = reading | {"topic": message.topic}
    return list(out.values())


def test_a_message_says_what_the_readings_say_and_leaves_out_what_was_not_measured() -> None:
    readings = pd.DataFrame(
        {
            "ts": pd.to_datetime(["2026-03-01T08:15:00.250Z", "2026-03-01T08:16:00.250Z", "2026-03-01T09:15:00.250Z"]),
            "motor.current": [9.5, 9.6, np.nan],
            "motor.winding.temperature": [38.7, np.nan, np.nan],
            "leaf.head": [np.nan, 3.1, 3.2],
        }
    )

    messages = list(to_messages("S1", "G1", readings, batch=timedelta(hours=1)))

    assert [(m.topic, json.loads(m.payload), m.rows) for m in messages] == [
        ("sluicewatch/v1/S1/G1/leaf/telemetry", {"t": "2026-03-01T08:16:00.250Z", "seq": 1, "values": {"head": 3.1}}, 1),
        (
            "sluicewatch/v1/S1/G1/motor/telemetry",
            {
                "readings": [
                    {"t": "2026-03-01T08:15:00.250Z", "seq": 1, "values": {"current": 9.5, "winding.temperature": 38.7}},
                    {"t": "2026-03-01T08:16:00.250Z", "seq": 2, "values": {"current": 9.6}},
                ]
            },
            2,
        ),
        ("sluicewatch/v1/S1/G1/leaf/telemetry", {"t": "2026-03-01T09:15:00.250Z", "seq": 2, "values": {"head": 3.2}}, 1),
    ]


def test_a_message_is_due_when_its_last_reading_has_happened_and_none_is_too_long() -> None:
    fleet = make_fleet(gates=1, days=20, seed=4)
    readings = simulate_gate(fleet, "DSH-S1-G1").readings

    messages = list(to_messages("DSH-S1", "DSH-S1-G1", readings, batch=timedelta(days=10)))

    assert [m.due_ms for m in messages] == sorted(m.due_ms for m in messages)
    for message in messages:
        body = json.loads(message.payload)
        last = datetime.fromisoformat(body.get("readings", [body])[-1]["t"])
        assert message.due_ms == round(last.timestamp() * 1000)
    assert max(len(m.payload) for m in messages) <= 60_000 < sum(len(m.payload) for m in messages) / 6


def test_from_live_on_batches_become_short_and_numbering_goes_on() -> None:
    readings = pd.DataFrame(
        {"ts": pd.date_range("2024-01-01", periods=8, freq="15min", tz="UTC"), "motor.current": np.arange(8.0)}
    )

    messages = list(
        to_messages(
            "S1", "G1", readings, timedelta(hours=1), live_from=START + timedelta(hours=1), live_batch=timedelta(minutes=1)
        )
    )

    bodies = [json.loads(m.payload) for m in messages]
    assert [m.rows for m in messages] == [4, 1, 1, 1, 1]
    assert [r["seq"] for body in bodies for r in body.get("readings", [body])] == [1, 2, 3, 4, 5, 6, 7, 8]


def quarters_of_an_hour(periods: int) -> pd.DataFrame:
    """Two components' readings: one at each quarter, one at every third alone."""
    n = np.arange(float(periods))
    return pd.DataFrame(
        {
            "ts": pd.date_range("2024-01-01", periods=periods, freq="15min", tz="UTC"),
            "motor.current": n,
            "leaf.head": np.where(n % 3 == 0, n, np.nan),
        }
    )


def test_frames_cut_between_batches_say_the_same_as_one_frame() -> None:
    whole = quarters_of_an_hour(96)
    live_from = START + timedelta(hours=20)

    pieces = [whole[:16], whole[16:16], whole[16:20], whole[20:88], whole[88:]]

    assert list(to_messages("S1", "G1", iter(pieces), live_from=live_from)) == list(
        to_messages("S1", "G1", whole, live_from=live_from)
    )


@given(cuts=st.sets(st.integers(0, 96)))
def test_frames_cut_anywhere_say_the_same_readings_with_the_same_numbers_in_order(cuts: set[int]) -> None:
    whole = quarters_of_an_hour(96)
    edges = [0, *sorted(cuts), 96]

    messages = list(to_messages("S1", "G1", (whole[first:stop] for first, stop in pairwise(edges))))

    assert [m.due_ms for m in messages] == sorted(m.due_ms for m in messages)
    said, expected = (readings_by_topic(one) for one in (messages, to_messages("S1", "G1", whole)))
    assert said == expected


def readings_by_topic(messages: Iterable[Message]) -> dict[str, list[Any]]:
    out: dict[str, list[Any]] = {}
    for message in messages:
        body = json.loads(message.payload)
        out.setdefault(message.topic, []).extend(body.get("readings", [body]))
    return out


def test_frames_are_asked_for_one_at_a_time_and_let_go_before_the_next() -> None:
    alive: list[weakref.ref[pd.DataFrame]] = []
    most_alive = 0

    def days() -> Iterator[pd.DataFrame]:
        nonlocal most_alive
        for day in range(5):
            gc.collect()
            most_alive = max(most_alive, sum(one() is not None for one in alive))
            frame = quarters_of_an_hour(96).assign(ts=lambda f, day=day: f["ts"] + pd.Timedelta(days=day))
            alive.append(weakref.ref(frame))
            yield frame
            del frame

    messages = to_messages("S1", "G1", days())
    assert len(alive) == 0
    next(messages)

    assert len(alive) == 1
    assert sum(1 for _ in messages) + 1 == 5 * 48
    assert most_alive == 0


def test_ingest_reads_from_the_messages_exactly_what_the_dataset_would_hold() -> None:
    fleet = make_fleet(gates=1, days=3, seed=4)
    readings = simulate_gate(fleet, "DSH-S1-G1").readings
    units: dict[str, dict[str, str]] = {}
    for row in fleet.channels_table().to_dict("records"):
        name = f"{row['point']}.{row['quantity']}" if row["point"] else row["quantity"]
        units.setdefault(row["component"], {})[name] = row["unit"]
    registry = Registered(Gate("DSH-S1-G1", "DSH-S1", 0), units)

    decoded = [
        native.decode(Received(m.topic, m.payload), registry, int(fleet.ends_at.timestamp() * 1000))
        for m in to_messages("DSH-S1", "DSH-S1-G1", readings)
    ]

    assert not [refusal for one in decoded for refusal in one.refusals]
    rebuilt: dict[int, dict[str, float]] = {}
    for reading in (reading for one in decoded for reading in one.readings):
        merged = rebuilt.setdefault(reading.ts_ms, {})
        merged.update({f"{reading.component}.{name}": value for name, value in reading.values.items()})
    frame = pd.DataFrame(list(rebuilt.values()), index=list(rebuilt)).sort_index()[list(readings.columns[1:])]
    expected = readings.drop(columns="ts").set_index(readings["ts"].dt.as_unit("ms").astype(np.int64).to_numpy())
    pd.testing.assert_frame_equal(frame, expected, check_exact=True)


@pytest.mark.broker
def test_what_is_published_is_acknowledged_and_arrives_in_event_order(mosquitto: Broker) -> None:
    fleet = make_fleet(gates=4, days=3, seed=4, stations=2, transport_faults=False)  # clocks that are right
    readings = {gate_id: simulate_gate(fleet, gate_id).readings for gate_id in fleet.gate_ids}
    with subscriber(mosquitto) as received, FleetPublisher(fleet_messages(fleet, readings)) as publisher:
        publisher.connect(mosquitto.url)
        assert publisher.published == 0
        assert publisher.publish_until(fleet.started_at + timedelta(days=1), timeout=20)
        assert publisher.wait_acknowledged(timeout=20)
        first_day = publisher.rows_published
        after_midnight = publisher.next_event
        assert publisher.publish_until(fleet.ends_at, timeout=20)
        assert publisher.wait_acknowledged(timeout=20)

        got = drain(received, publisher.rows_published)

    assert after_midnight is not None
    assert START + timedelta(days=1) < after_midnight < START + timedelta(days=1, hours=1)
    assert publisher.next_event is None
    assert 0 < first_day < publisher.rows_published == publisher.rows_acknowledged
    assert publisher.published == publisher.acknowledged
    before_midnight = sum(datetime.fromisoformat(reading["t"]) <= START + timedelta(days=1) for reading in got[:first_day])
    assert before_midnight == first_day
    by_topic: dict[str, list[int]] = {}
    for reading in got:
        by_topic.setdefault(reading["topic"], []).append(reading["seq"])
    assert all(seqs == list(range(1, len(seqs) + 1)) for seqs in by_topic.values())


@pytest.mark.broker
def test_a_restarted_broker_loses_nothing_and_unacknowledged_messages_come_again(mosquitto: Broker) -> None:
    fleet = make_fleet(gates=2, days=4, seed=4, stations=2)
    readings = {gate_id: simulate_gate(fleet, gate_id).readings for gate_id in fleet.gate_ids}
    publisher = FleetPublisher(fleet_messages(fleet, readings, batch=timedelta(0)), max_unacknowledged=50)
    with subscriber(mosquitto) as received, publisher:
        publisher.connect(mosquitto.url)
        publisher.publish_until(fleet.ends_at, timeout=0.02)
        mosquitto.stop()
        stopped_at = publisher.rows_published
        mosquitto.start()

        assert publisher.publish_until(fleet.ends_at, timeout=30)
        assert publisher.wait_acknowledged(timeout=30)
        got = drain(received, publisher.rows_published)

    assert stopped_at < publisher.rows_published, "the restart came too late to test anything"
    assert len(got) == publisher.rows_published == publisher.rows_acknowledged


@pytest.mark.broker
def test_a_replay_keeps_to_its_speed_and_ends_when_it_is_told(mosquitto: Broker) -> None:
    fleet = make_fleet(gates=1, days=2, seed=4)
    readings = {"DSH-S1-G1": simulate_gate(fleet, "DSH-S1-G1").readings}
    hours = 6

    with FleetPublisher(fleet_messages(fleet, readings, batch=timedelta(0))) as publisher:
        publisher.connect(mosquitto.url)
        began = time.monotonic()
        replay(publisher, START, START + timedelta(hours=hours), speed=hours * 3600.0, stop=threading.Event())
        took_s = time.monotonic() - began
        next_event = publisher.next_event
        stop = threading.Event()
        stop.set()
        replay(publisher, START + timedelta(hours=hours), fleet.ends_at, speed=1.0, stop=stop)

    assert took_s == pytest.approx(1.0, abs=0.5)
    assert next_event is not None
    assert START + timedelta(hours=hours) < next_event < START + timedelta(hours=hours + 1)
    assert publisher.next_event == next_event


@pytest.mark.broker
def test_gates_are_online_while_connected_and_offline_after(mosquitto: Broker) -> None:
    fleet = make_fleet(gates=2, days=1, seed=4, stations=1)
    readings = {gate_id: simulate_gate(fleet, gate_id).readings for gate_id in fleet.gate_ids}

    with subscriber(mosquitto) as received:
        with FleetPublisher(fleet_messages(fleet, readings)) as publisher:
            publisher.connect(mosquitto.url)
        statuses = [received.get(timeout=10) for _ in range(4)]

    said = [(message.topic, json.loads(message.payload)["status"]) for message in statuses]
    assert said == [
        (f"sluicewatch/v1/DSH-S1/{gate_id}/status", status)
        for status in ("online", "offline")
        for gate_id in ("DSH-S1-G1", "DSH-S1-G2")
    ]


def minutely(messages: int, station_id: str = "S1") -> Station:
    """A station that has so many messages to say, a minute apart."""
    start_ms = int(START.timestamp() * 1000)
    topic = f"sluicewatch/v1/{station_id}/G1/motor/telemetry"
    said = (Message(start_ms + 60_000 * n, topic, b'{"t":"2024-01-01T00:00:00Z","seq":%d}' % n, 1) for n in range(messages))
    return Station(station_id, ("G1",), said)


@pytest.mark.broker
def test_a_bounded_rate_is_kept_over_all_gateways_together(mosquitto: Broker) -> None:
    rate, messages = 200.0, 300
    stations = {name: minutely(messages // 3, name) for name in ("S1", "S2", "S3")}

    with FleetPublisher(stations, messages_per_s=rate) as publisher:
        publisher.connect(mosquitto.url)
        began, began_cpu = time.monotonic(), time.process_time()
        assert publisher.publish_until(START + timedelta(days=1), timeout=20)
        took_s, took_cpu_s = time.monotonic() - began, time.process_time() - began_cpu
        assert publisher.wait_acknowledged(timeout=10)

    burst = rate * publish.BURST_S
    assert publisher.published == publisher.acknowledged == messages
    assert (messages - burst - 1) / rate <= took_s < 3 * messages / rate
    assert took_cpu_s < took_s / 2, "it waits without being busy"


@pytest.mark.broker
def test_a_bounded_rate_holds_again_after_a_broker_restart(mosquitto: Broker) -> None:
    rate, messages = 200.0, 300
    with subscriber(mosquitto) as received, FleetPublisher({"S1": minutely(messages)}, messages_per_s=rate) as publisher:
        publisher.connect(mosquitto.url)
        assert not publisher.publish_until(START + timedelta(days=1), timeout=0.5)
        mosquitto.stop()
        before = publisher.published
        assert not publisher.publish_until(START + timedelta(days=1), timeout=0.5)
        while_down = publisher.published - before
        mosquitto.start()
        began = time.monotonic()
        assert publisher.publish_until(START + timedelta(days=1), timeout=20)
        took_s = time.monotonic() - began
        assert publisher.wait_acknowledged(timeout=10)

        seqs: set[int] = set()
        online = 0
        while len(seqs) < messages:
            message = received.get(timeout=20)
            body = json.loads(message.payload)
            if message.topic.endswith("/status"):
                # a retained one is only the broker's answer to the subscriber's coming back
                online += body["status"] == "online" and not message.retain
            else:
                seqs.add(body["seq"])

    assert 0 < before < messages
    assert while_down <= 1
    assert took_s >= (messages - before - while_down - rate * publish.BURST_S - 1) / rate
    assert seqs == set(range(messages))
    assert online == 2, "statuses are said again"


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(BadInput, match="messages_per_s must be a number above 0; got"):
        FleetPublisher({}, messages_per_s=rate)


def test_the_soft_limit_of_open_files_is_raised_and_a_low_hard_limit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(1024, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _which: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _which, both: limits.append(both))

    publish.allow_connections(800)
    publish.allow_connections(2000)
    publish.allow_connections(900)

    assert limits == [(1024, 4096), (2200, 4096)]
    with pytest.raises(PublishError, match=r"4000 stations need 4200 open files; the hard limit of this process is 4096"):
        publish.allow_connections(4000)


@pytest.mark.broker
def test_seven_hundred_gateways_connect_in_seconds(mosquitto: Broker) -> None:
    stations = {f"S{number}": minutely(1, f"S{number}") for number in range(700)}

    with FleetPublisher(stations) as publisher:
        began = time.monotonic()
        publisher.connect(mosquitto.url)
        took_s = time.monotonic() - began
        assert publisher.publish_until(START + timedelta(days=1), timeout=20)
        assert publisher.wait_acknowledged(timeout=20)

    assert publisher.acknowledged == 700
    assert took_s < 10


@pytest.mark.parametrize("url", ["http://127.0.0.1:1883", "mqtt://", "mqtt://127.0.0.1:notaport", "127.0.0.1:1883"])
def test_a_wrong_url_is_refused_in_one_line_that_says_what_is_allowed(url: str) -> None:
    fleet = make_fleet(gates=1, days=1, seed=4)

    with (
        FleetPublisher(fleet_messages(fleet, {})) as publisher,
        pytest.raises(PublishError, match=r"mqtt://\[user:password@\]host\[:port\]; got"),
    ):
        publisher.connect(url)


def test_an_unreachable_broker_is_named() -> None:
    fleet = make_fleet(gates=1, days=1, seed=4)
    readings = {"DSH-S1-G1": simulate_gate(fleet, "DSH-S1-G1").readings}
    port = free_port()

    with (
        FleetPublisher(fleet_messages(fleet, readings)) as publisher,
        pytest.raises(PublishError, match=f"no broker can be reached at 127.0.0.1:{port}"),
    ):
        publisher.connect(f"mqtt://127.0.0.1:{port}")
