"""deploy/mosquitto.conf and its ACL, run for real with keys of the test's own: who gets in, and who may write what."""

import getpass
import os
import socket
import ssl
import subprocess
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Self
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from service.broker import HOST, LIMITS, answers, free_port, tied

DEPLOY = Path(__file__).parents[2] / "deploy"
ACCOUNTS = ("deliver-1", "thingsboard-gateway", "G1", "G2", "S1")  # two gates and the gateway of station S1 among them


@dataclass(frozen=True)
class Site:
    """A Mosquitto that runs the shipped files, with keys and accounts made by the shipped script."""

    folder: Path
    certificate_port: int
    password_port: int
    passwords: dict[str, str]

    @property
    def authority(self) -> str:
        return str(self.folder / "mosquitto" / "ca.crt")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, mosquitto_program: str) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site") / "secrets"
    credentials(folder, "init", "broker.example.org")
    credentials(folder, "certificate", "G1")
    passwords = {account: credentials(folder, "account", account).strip() for account in ACCOUNTS}
    ingest_url = (folder / "ingest.env").read_text().strip().removeprefix("SLUICEWATCH_MQTT=")
    passwords["ingest-1"] = str(urlsplit(ingest_url).password)
    site = Site(folder, free_port(), free_port(), passwords)
    text = (DEPLOY / "mosquitto.conf").read_text()
    for shipped, ours in {
        "/mosquitto/config/mosquitto.acl": f"{DEPLOY}/mosquitto.acl",
        "/mosquitto/secrets": str(folder / "mosquitto"),
        "/mosquitto/data": str(folder),
        "listener 8883": f"listener {site.certificate_port} {HOST}",
        "listener 8884": f"listener {site.password_port} {HOST}",
    }.items():
        assert shipped in text
        text = text.replace(shipped, ours)
    (folder / "mosquitto.conf").write_text(f"user {getpass.getuser()}\n{text}")
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(tied([mosquitto_program, "-c", str(folder / "mosquitto.conf")]), stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 10
        while not (answers(site.certificate_port) and answers(site.password_port)):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(log.read_text())
            time.sleep(0.02)
        yield site
    finally:
        process.terminate()
        process.wait(10)


def credentials(folder: Path, *arguments: str) -> str:
    """What `deploy/credentials` prints."""
    environment = {**os.environ, "SECRETS": str(folder)}
    return subprocess.run(
        [DEPLOY / "credentials", *arguments], env=environment, check=True, capture_output=True, text=True
    ).stdout


class Client:
    """A connected MQTT 5 client (5, because only it is told of a refusal)."""

    def __init__(self, site: Site, port: int, account: str = "", client_id: str = "", certificate: str = "") -> None:
        self.answers: Queue[str] = Queue()
        self.messages: Queue[mqtt.MQTTMessage] = Queue()
        self.ended: Queue[str] = Queue()
        self.mqtt = mqtt.Client(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5)
        if account:
            self.mqtt.username_pw_set(account, site.passwords[account])
        files = (str(site.folder / f"{certificate}.crt"), str(site.folder / f"{certificate}.key")) if certificate else ()
        self.mqtt.tls_set(site.authority, *files)
        self.mqtt.on_connect = lambda _client, _data, _flags, reason, _properties: self.answers.put(str(reason))
        self.mqtt.on_publish = lambda _client, _data, _mid, reason, _properties: self.answers.put(str(reason))
        self.mqtt.on_subscribe = lambda _client, _data, _mid, reasons, _properties: self.answers.put(str(reasons[0]))
        self.mqtt.on_disconnect = lambda _client, _data, _flags, reason, _properties: self.ended.put(str(reason))
        self.mqtt.on_message = lambda _client, _data, message: self.messages.put(message)
        self.mqtt.connect(HOST, port)
        self.mqtt.loop_start()
        self.welcome = self.answers.get(timeout=10)

    def may_write(self, topic: str) -> bool:
        """Whether the broker takes a QoS 1 message for this topic."""
        self.mqtt.publish(topic, b"{}", qos=1)
        answer = self.answers.get(timeout=10)
        assert answer in {"Success", "No matching subscribers", "Not authorized"}
        return answer != "Not authorized"

    def subscribe(self, topic: str) -> None:
        self.mqtt.subscribe(topic, qos=1)
        assert self.answers.get(timeout=10) == "Granted QoS 1"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.mqtt.disconnect()
        self.mqtt.loop_stop()


def test_the_site_and_the_demo_share_their_limits() -> None:
    lines = [line.split(maxsplit=1) for line in (DEPLOY / "mosquitto.conf").read_text().splitlines()]
    shipped = {words[0]: words[1] for words in lines if len(words) == 2 and words[0] in LIMITS}

    assert shipped == LIMITS


@pytest.mark.broker
def test_nobody_comes_in_without_an_account(site: Site) -> None:
    with Client(site, site.password_port) as stranger:
        assert stranger.welcome == "Not authorized"


@pytest.mark.broker
def test_the_certificate_port_refuses_a_password_alone(site: Site) -> None:
    context = ssl.create_default_context(cafile=site.authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # 1.3 tells of the missing certificate only after the handshake

    with (
        socket.create_connection((HOST, site.certificate_port), timeout=10) as plain,
        pytest.raises(ssl.SSLError, match=r"(?i)certificate.required|handshake.failure"),
    ):
        context.wrap_socket(plain, server_hostname=HOST)


@pytest.mark.broker
def test_tls_1_1_is_refused(site: Site) -> None:
    context = ssl.create_default_context(cafile=site.authority)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1

    with (
        socket.create_connection((HOST, site.password_port), timeout=10) as plain,
        pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"),
    ):
        context.wrap_socket(plain, server_hostname=HOST)


@pytest.mark.broker
def test_a_gate_is_who_its_certificate_says(site: Site) -> None:
    with Client(site, site.certificate_port, certificate="G1") as gate:
        assert gate.may_write("sluicewatch/v1/S1/G1/motor/telemetry")
        assert not gate.may_write("sluicewatch/v1/S1/G2/motor/telemetry")


@pytest.mark.broker
@pytest.mark.parametrize(
    ("account", "topic", "allowed"),
    [
        ("G1", "sluicewatch/v1/S1/G1/motor/telemetry", True),
        ("G1", "sluicewatch/v1/S1/G1/motor/waveform", True),
        ("G1", "sluicewatch/v1/S1/G1/status", True),
        ("G1", "sluicewatch/v1/S1/G1/discovery", True),
        ("G1", "sluicewatch/v1/S1/G2/motor/telemetry", False),
        ("G1", "sluicewatch/v1/S1/G1/alert", False),
        ("S1", "sluicewatch/v1/S1/G2/motor/telemetry", True),
        ("S1", "sluicewatch/v1/S1/G2/status", True),
        ("S1", "sluicewatch/v1/S2/G9/motor/telemetry", False),
        ("S1", "sluicewatch/v1/S1/G2/alert", False),
        ("S1", "$oc/devices/S1/sys/properties/report?request_id=7", True),
        ("S1", "$oc/devices/S1/sys/gateway/sub_devices/properties/report", True),
        ("S1", "$oc/devices/G1/sys/properties/report", False),
        ("S1", "spBv1.0/Basin/NBIRTH/S1", True),
        ("S1", "spBv1.0/Basin/DDATA/S1/G1", True),
        ("S1", "spBv1.0/Basin/DDATA/S2/G1", False),
        ("S1", "spBv1.0/Basin/NCMD/S1", False),
        ("S1", "v1/gateway/telemetry", False),
        ("thingsboard-gateway", "v1/gateway/telemetry", True),
        ("thingsboard-gateway", "sluicewatch/v1/S1/G1/status", False),
        ("ingest-1", "spBv1.0/Basin/NCMD/S1", False),
        ("ingest-1", "spBv1.0/Basin/DCMD/S1/G1", False),
        ("ingest-1", "$oc/devices/S1/sys/commands/1", False),
        ("ingest-1", "sluicewatch/v1/S1/G1/alert", False),
        ("deliver-1", "sluicewatch/v1/S1/G1/alert", True),
        ("deliver-1", "sluicewatch/v1/S1/G1/command", False),
    ],
)
def test_an_account_writes_where_it_may_and_nowhere_else(site: Site, account: str, topic: str, allowed: bool) -> None:
    with Client(site, site.password_port, account) as writer:
        assert writer.may_write(topic) == allowed


@pytest.mark.broker
def test_a_message_for_another_gate_reaches_nobody(site: Site) -> None:
    with Client(site, site.password_port, "ingest-1") as ingest, Client(site, site.password_port, "G1") as gate:
        ingest.subscribe("sluicewatch/v1/#")
        gate.may_write("sluicewatch/v1/S1/G2/motor/telemetry")
        gate.may_write("sluicewatch/v1/S1/G1/motor/telemetry")

        assert ingest.messages.get(timeout=10).topic == "sluicewatch/v1/S1/G1/motor/telemetry"


@pytest.mark.broker
def test_a_client_cannot_take_over_the_session_of_another(site: Site) -> None:
    with Client(site, site.password_port, "G1") as gate, Client(site, site.password_port, "G2", client_id="G1") as thief:
        assert thief.welcome == "Success"
        assert gate.may_write("sluicewatch/v1/S1/G1/status")
        assert gate.ended.empty()


@pytest.mark.broker
def test_credentials_never_overwrites_what_is_there(site: Site) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refusal:
        credentials(site.folder, "init", "broker.example.org")

    assert "is there already; nothing was changed" in refusal.value.stderr


@pytest.mark.broker
@pytest.mark.parametrize("name", ["", "../G1", "+", "G1/#", "a b"])
def test_credentials_refuses_a_name_that_would_mean_more_than_one_gate(site: Site, name: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refusal:
        credentials(site.folder, "account", name)

    assert refusal.value.returncode == 2
