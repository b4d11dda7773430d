"""One connection to a broker: addresses, refusals, and the buffered socket between paho and the network."""

import datetime
import ipaddress
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from paho.mqtt.enums import CallbackAPIVersion

from pipeline import subscription
from pipeline.errors import BadInput
from pipeline.subscription import BrokerError, IngestSettings, MqttAddress, Subscription, parse_mqtt_url
from service.broker import Broker, answers, free_port, mosquitto_path

TOPIC = "sluicewatch/v1/S1/G1/motor/telemetry"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://broker", MqttAddress("broker", 1883, False, None, None)),
        ("mqtts://broker", MqttAddress("broker", 8883, True, None, None)),
        ("mqtt://127.0.0.1:2883/", MqttAddress("127.0.0.1", 2883, False, None, None)),
        ("mqtt://[::1]:1884", MqttAddress("::1", 1884, False, None, None)),
        ("mqtts://ingest-1:p%40ss%3A@h:1", MqttAddress("h", 1, True, "ingest-1", "p@ss:")),
        ("mqtt://ingest@h", MqttAddress("h", 1883, False, "ingest", None)),
    ],
)
def test_a_broker_address_is_taken_apart(url: str, address: MqttAddress) -> None:
    assert parse_mqtt_url(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "broker",
        "http://h",
        "mqtt://",
        "mqtt://h:0",
        "mqtt://h:70000",
        "mqtt://h:x",
        "mqtt://u:secret@h:x",
        "mqtt://h/a",
        "mqtt://[",
    ],
)
def test_any_other_address_is_refused_without_showing_a_password(url: str) -> None:
    with pytest.raises(BadInput, match=r"^mqtt: allowed is mqtt://") as refused:
        parse_mqtt_url(url)

    assert "secret" not in str(refused.value)


def test_a_broker_that_is_not_there_is_one_clear_line() -> None:
    link = Subscription(IngestSettings(f"mqtt://127.0.0.1:{free_port()}"))

    with pytest.raises(BrokerError, match=r"^mqtt: cannot reach mqtt://127\.0\.0\.1:\d+; Connection refused$"):
        link.open()
    link.close()


def test_something_that_is_no_broker_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "CONNECT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        link = Subscription(IngestSettings(f"mqtt://127.0.0.1:{silent.getsockname()[1]}"))

        with pytest.raises(BrokerError, match="did not answer"):
            link.open()
        link.close()


def test_the_buffered_socket_carries_every_byte_both_ways() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    buffered = subscription._BufferedSocket(near)
    sent = bytes(range(256)) * 2_000
    received = bytearray()

    def read_all() -> None:
        while len(received) < len(sent):
            received.extend(far.recv(4096))

    reader = threading.Thread(target=read_all)
    for start in range(0, len(sent), 1000):
        buffered.send(sent[start : start + 1000])
    assert buffered.unsent() == len(sent)
    reader.start()
    while buffered.unsent():
        buffered.flush()
    reader.join(10)
    far.sendall(b"abcdefgh")
    parts = [buffered.recv(3), buffered.recv(1), buffered.recv(100)]
    with pytest.raises(BlockingIOError):
        buffered.recv(1)
    far.close()
    at_the_end = buffered.recv(1)
    buffered.close()

    assert received == sent
    assert parts == [b"abc", b"d", b"efgh"]
    assert at_the_end == b""


def publish(client: mqtt.Client, payloads: list[bytes]) -> None:
    """Publish with QoS 1 and wait until the broker has acknowledged all."""
    client.loop_start()
    for info in [client.publish(TOPIC, payload, qos=1) for payload in payloads]:
        info.wait_for_publish(10)
    client.disconnect()
    client.loop_stop()


def receive(link: Subscription, n: int, seconds: float = 10.0) -> list[bytes]:
    """Turn and acknowledge until `n` messages came."""
    got: list[bytes] = []
    deadline = time.monotonic() + seconds
    while len(got) < n and time.monotonic() < deadline:
        if not link.turn(0.1) or link.full:
            got += [message.payload for message in link.inbox]
            link.acknowledge()
    return got


@pytest.mark.broker
@pytest.mark.parametrize("version", ["3.1.1", "5"])
@pytest.mark.parametrize("buffered", [True, False])
def test_messages_arrive_in_order_with_and_without_the_buffer(
    mosquitto: Broker, monkeypatch: pytest.MonkeyPatch, version: Any, buffered: bool
) -> None:
    if not buffered:
        monkeypatch.delattr(subscription._Client, "_create_socket")  # as a later paho that does not call it
    link = Subscription(IngestSettings(mosquitto.url, version=version))
    link.open()
    link.turn(0.1)
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", mosquitto.port)
    sent = [b"%d " % n * (n % 50 * 100) for n in range(300)]

    publish(client, sent)
    got = receive(link, len(sent))
    used = isinstance(link._client.socket(), subscription._BufferedSocket)
    link.close()

    assert got == sent
    assert used is buffered, "paho no longer makes its socket where we buffer it"


@pytest.mark.broker
def test_what_was_not_acknowledged_comes_again_on_the_next_connection(mosquitto: Broker) -> None:
    settings = IngestSettings(mosquitto.url)
    first = Subscription(settings)
    first.open()
    first.turn(0.1)
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", mosquitto.port)
    sent = [b"%d" % n for n in range(50)]
    publish(client, sent)
    while len(first.inbox) < 50:
        first.turn(0.1)
    first.close()

    second = Subscription(settings)
    second.open()
    got = receive(second, len(sent))
    second.close()
    third = Subscription(settings)
    third.open()
    left = receive(third, 1, seconds=0.5)
    third.close()

    assert got == sent
    assert left == []


@pytest.mark.broker
def test_a_full_inbox_is_not_read_into_and_loses_nothing(mosquitto: Broker) -> None:
    link = Subscription(IngestSettings(mosquitto.url, most_messages=10))
    link.open()
    link.turn(0.1)
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", mosquitto.port)
    publish(client, [b"%d" % n for n in range(100)])

    sizes: list[int] = []
    got: list[int] = []
    while len(got) < 100:
        while link.turn(0.1) and not link.full:
            pass
        sizes.append(len(link.inbox))
        got += [int(message.payload) for message in link.inbox]
        link.acknowledge()
    link.close()

    assert got == list(range(100))
    assert max(sizes) == 10


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for 127.0.0.1 (``broker.pem``, its own authority) and its key (``broker.key``)."""
    folder = tmp_path_factory.mktemp("certificates")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker of the tests")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "broker.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "broker.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder


@pytest.fixture
def tls_port(mosquitto: Broker, certificates: Path, tmp_path: Path) -> Iterator[int]:
    """The port of a Mosquitto that speaks TLS only."""
    port = free_port()
    lines = [
        f"listener {port} 127.0.0.1",
        "allow_anonymous true",
        "user root",
        f"certfile {certificates}/broker.pem",
        f"keyfile {certificates}/broker.key",
    ]
    (tmp_path / "tls.conf").write_text("\n".join(lines))
    process = subprocess.Popen([str(mosquitto_path()), "-c", str(tmp_path / "tls.conf")], stderr=subprocess.DEVNULL)
    while not answers(port):
        assert process.poll() is None
        time.sleep(0.02)
    yield port
    process.terminate()
    process.wait(10)


@pytest.mark.broker
def test_messages_arrive_through_tls(tls_port: int, certificates: Path) -> None:
    link = Subscription(IngestSettings(f"mqtts://127.0.0.1:{tls_port}", ca_file=str(certificates / "broker.pem")))
    link.open()
    link.turn(0.1)
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.tls_set(str(certificates / "broker.pem"))
    client.connect("127.0.0.1", tls_port)
    sent = [b"%d " % n * 500 for n in range(300)]

    publish(client, sent)
    got = receive(link, len(sent))
    link.close()

    assert got == sent


@pytest.mark.broker
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # paho leaves a refused TLS socket to the collector
def test_a_broker_with_a_certificate_nobody_vouches_for_is_refused(tls_port: int) -> None:
    link = Subscription(IngestSettings(f"mqtts://127.0.0.1:{tls_port}"))

    with pytest.raises(BrokerError, match="certificate"):
        link.open()
    link.close()


def test_an_authority_that_cannot_be_read_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="mqtt_ca"):
        Subscription(IngestSettings("mqtts://127.0.0.1", ca_file=str(tmp_path / "none.pem")))
    assert issubclass(ssl.SSLError, OSError)
