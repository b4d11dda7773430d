"""Bench of the simulated gateways: thousands of gates from one process, at a steady rate, counted at three places.

The gates publish through `FleetPublisher` from this process; the broker is Mosquitto, a child; what arrives is counted by a
subscriber in a process of its own, which is this module run as a program. Published, acknowledged and received must agree.
"""

from __future__ import annotations

import queue
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from pipeline.simulator import make_fleet, stream_readings
from pipeline.simulator.publish import FleetPublisher, Station, allow_connections, fleet_messages
from service.bench.report import BenchError, Figure
from service.bench.subscriber import peak_mb
from service.broker import HOST, start_broker, tied

READY = "ready"
FEWEST_MESSAGES_A_DAY = 400
"""Of one gate: five components or more, and a reading each quarter of an hour."""
CONNECT_S = 60.0
LATE_S = 30.0
"""So much longer than planned may publishing take, and then each acknowledgement and the subscriber."""
SURPLUS_S = 1.0
"""The subscriber goes on listening so long after the last message it expects, for those it does not."""


def bench_publish(
    gates: int = 2_000,
    messages_per_s: float = 200.0,
    seconds: float = 300.0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Figure]:
    """Measure whether so many simulated gates, three a station, keep to a rate, and what it takes.

    Raises
    ------
    BenchError
        The numbers of messages published, acknowledged and received differ, or publishing took far too long.
    BrokerStartError
        Mosquitto is not on this machine.
    PublishError
        This process may not open so many connections.
    """
    planned = max(1, round(messages_per_s * seconds))
    fleet = make_fleet(gates=gates, days=1 + planned // (gates * FEWEST_MESSAGES_A_DAY), seed=1)
    readings = {gate_id: stream_readings(fleet, gate_id) for gate_id in fleet.gate_ids}
    stations = _first(planned, fleet_messages(fleet, readings, live_from=fleet.started_at))
    allow_connections(len(stations))  # before the broker starts, which inherits it
    with (
        tempfile.TemporaryDirectory(prefix="sluicewatch-bench-") as name,
        start_broker(Path(name) / "broker", kind="mosquitto") as broker,
        _subscriber(broker.port) as subscriber,
        FleetPublisher(stations, messages_per_s=messages_per_s) as publisher,
    ):
        _hear(subscriber)
        began = time.monotonic()
        publisher.connect(broker.url, CONNECT_S)
        connect_s = time.monotonic() - began

        began = time.monotonic()
        while not publisher.publish_until(fleet.ends_at, timeout=1.0):
            if progress is not None:
                progress(publisher.acknowledged, planned)
            if time.monotonic() - began > seconds + LATE_S:
                raise BenchError(f"bench publish: of {planned} messages {publisher.published} went out in {seconds + LATE_S:g} s")
        publisher.wait_acknowledged(LATE_S)
        took_s = time.monotonic() - began
        memory_mb = peak_mb()
        received = int(_ask(subscriber, publisher.published))
    counts = {
        "gates": gates,
        "stations": len(stations),
        "published": publisher.published,
        "acknowledged": publisher.acknowledged,
        "received": received,
    }
    if not publisher.published == publisher.acknowledged == received:
        raise BenchError(f"bench publish: the three counts differ: {counts}")
    named = f"{gates} gates, {len(stations)} gateways in one process, bound {messages_per_s:g} messages/s"
    return [
        Figure(
            "publish", f"{named}: each acknowledged and received", "messages/s", (publisher.published / took_s,), counts=counts
        ),
        Figure("publish", f"{len(stations)} gateways connected, statuses said", "s", (connect_s,)),
        Figure("publish", f"peak memory of the process, {gates} gates", "MB", (memory_mb,)),
    ]


def _first(messages: int, stations: Mapping[str, Station]) -> dict[str, Station]:
    """The stations with only so many messages in all, as evenly as it goes."""
    each, more = divmod(messages, len(stations))
    return {
        station_id: station._replace(messages=islice(station.messages, each + (number < more)))
        for number, (station_id, station) in enumerate(stations.items())
    }


@contextmanager
def _subscriber(port: int) -> Iterator[subprocess.Popen[str]]:
    command = tied([sys.executable, "-m", "service.bench.publish", str(port)])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _ask(subscriber: subprocess.Popen[str], expected: int) -> str:
    assert subscriber.stdin is not None
    subscriber.stdin.write(f"{expected}\n")
    subscriber.stdin.flush()
    return _hear(subscriber)


def _hear(subscriber: subprocess.Popen[str]) -> str:
    assert subscriber.stdout is not None
    line = subscriber.stdout.readline()
    if not line:
        raise BenchError("bench publish: the subscriber ended early; its own words are above")
    return line.strip()


def receive(port: int) -> None:
    """Be the subscriber: say ready, read how many messages to expect, and say how many different ones have come."""
    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="bench-receiver", clean_session=False)
    arrived: queue.SimpleQueue[int] = queue.SimpleQueue()
    client.on_message = lambda _client, _data, message: arrived.put(hash((message.topic, message.payload)))
    client.on_subscribe = lambda *told: _say(READY)
    client.connect(HOST, port)
    client.subscribe("sluicewatch/v1/+/+/+/telemetry", 1)
    client.loop_start()
    expected = int(sys.stdin.readline())
    different: set[int] = set()
    try:
        while True:
            different.add(arrived.get(timeout=LATE_S if len(different) < expected else SURPLUS_S))
    except queue.Empty:
        _say(f"{len(different)}")
    client.disconnect()
    client.loop_stop()


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    receive(int(sys.argv[1]))
