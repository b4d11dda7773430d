"""The embedded broker held against what its clients really get, and what it says it cannot do."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from pipeline.errors import BadInput
from service.broker import HOST, Broker, answers, free_port, start_broker

ROOT = Path(__file__).parents[2]
TOPIC = "sluicewatch/v1/S1/G1/motor/telemetry"


class Subscriber:
    """A durable MQTT 3.1.1 subscriber that keeps what it gets and acknowledges only when asked to."""

    def __init__(self, port: int, acknowledge: bool = True) -> None:
        self.messages: Queue[mqtt.MQTTMessage] = Queue()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, "durable", clean_session=False, manual_ack=True)
        self.acknowledge = acknowledge
        subscribed: Queue[int] = Queue()
        self.client.on_message = self._keep
        self.client.on_subscribe = lambda *_: subscribed.put(1)
        self.client.connect(HOST, port)
        self.client.loop_start()
        self.client.subscribe("sluicewatch/v1/#", qos=1)
        subscribed.get(timeout=10)

    def _keep(self, client: mqtt.Client, _: object, message: mqtt.MQTTMessage) -> None:
        self.messages.put(message)
        if self.acknowledge:
            client.ack(message.mid, message.qos)

    def payloads(self, n: int, seconds: float = 20.0) -> list[bytes]:
        """The first n messages' payloads, fewer when `seconds` bring nothing more."""
        got: list[bytes] = []
        try:
            while len(got) < n:
                got.append(bytes(self.messages.get(timeout=seconds).payload))
        except Empty:
            pass
        return got

    def leave(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def amqtt(tmp_path: Path) -> Iterator[Broker]:
    with start_broker(tmp_path, kind="amqtt") as broker:
        yield broker


@contextmanager
def published(port: int, payloads: list[bytes]) -> Iterator[None]:
    """Publish at QoS 1 by a client that stays connected in the block; the broker has acknowledged every message."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, "publisher")
    client.connect(HOST, port)
    client.loop_start()
    for info in [client.publish(TOPIC, payload, qos=1) for payload in payloads]:
        info.wait_for_publish(30)
    yield
    client.disconnect()
    client.loop_stop()


def numbered(n: int) -> list[bytes]:
    return [str(i).encode() for i in range(n)]


@pytest.mark.broker
def test_nothing_is_dropped_for_a_subscriber_that_is_away(mosquitto: Broker) -> None:
    Subscriber(mosquitto.port).leave()
    with published(mosquitto.port, numbered(3000)):
        pass  # stock Mosquitto keeps 1,000 of them

    subscriber = Subscriber(mosquitto.port)

    assert subscriber.payloads(3000) == numbered(3000)
    subscriber.leave()


@pytest.mark.broker
def test_a_killed_broker_keeps_what_it_took_two_seconds_before(mosquitto: Broker) -> None:
    Subscriber(mosquitto.port).leave()
    with published(mosquitto.port, numbered(500)):
        time.sleep(2.5)  # it saves once a second, by its own clock
    mosquitto.kill()
    mosquitto.start()

    subscriber = Subscriber(mosquitto.port)

    assert subscriber.payloads(500) == numbered(500)
    subscriber.leave()


@pytest.mark.broker
def test_mosquitto_delivers_again_what_was_not_acknowledged(mosquitto: Broker) -> None:
    assert delivered_again(mosquitto) == numbered(50)


def test_amqtt_does_not_deliver_again_as_it_says(amqtt: Broker) -> None:
    assert "no redelivery of unacknowledged messages" in amqtt.cannot

    assert delivered_again(amqtt) == []


def delivered_again(broker: Broker) -> list[bytes]:
    first = Subscriber(broker.port, acknowledge=False)
    with published(broker.port, numbered(50)):
        assert first.payloads(50) == numbered(50)
    first.leave()
    second = Subscriber(broker.port)
    again = second.payloads(50, seconds=3)
    second.leave()
    return again


def test_amqtt_brings_every_message_while_both_sides_stay_connected(amqtt: Broker) -> None:
    subscriber = Subscriber(amqtt.port)
    with published(amqtt.port, numbered(1000)):  # it forgets what it has not yet handed on for one that leaves
        assert subscriber.payloads(1000) == numbered(1000)
    subscriber.leave()


def test_a_taken_port_is_refused_in_one_line(tmp_path: Path, amqtt: Broker) -> None:
    with pytest.raises(BadInput, match=f"^broker: port {amqtt.port} on 127.0.0.1 is in use by another program[^\n]*$"):
        start_broker(tmp_path / "second", port=amqtt.port)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_the_broker_ends_with_the_process_that_started_it_even_by_kill_9(tmp_path: Path) -> None:
    port = free_port()
    script = "import sys, time, pathlib, service.broker as b\nb.start_broker(pathlib.Path(sys.argv[1]), int(sys.argv[2]))\n"
    script += "print('up', flush=True)\ntime.sleep(60)"
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path), str(port)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        os.kill(parent.pid, signal.SIGKILL)

    deadline = time.monotonic() + 10
    while answers(port) and time.monotonic() < deadline:
        time.sleep(0.02)  # the kernel ends the broker a moment after its parent
    assert not answers(port)
