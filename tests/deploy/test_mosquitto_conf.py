"""deploy/mosquitto.conf and its ACL, run for real with keys of the test's own: who gets in, and who may write what."""

import getpass
import ipaddress
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Queue
from typing import Self
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from prometheus_client import REGISTRY

from pipeline import historian
from pipeline.ingest import run_ingest
from pipeline.shares import Share, SharesState, run_shares
from pipeline.subscription import BrokerError, IngestSettings, Subscription
from service import store
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
    for name in ("G1", "G3", "ingest-1"):
        credentials(folder, "certificate", name)
    passwords = {account: credentials(folder, "account", account).strip() for account in ACCOUNTS}
    for name in ("ingest", "check"):
        url = urlsplit((folder / f"{name}.env").read_text().strip().removeprefix("SLUICEWATCH_MQTT="))
        passwords[str(url.username)] = str(url.password)
    with serve(folder, passwords, mosquitto_program) as site:
        yield site


@contextmanager
def serve(folder: Path, passwords: dict[str, str], program: str, acl: Path = DEPLOY / "mosquitto.acl") -> Iterator[Site]:
    """Run the shipped files with the keys in a folder, on ports of our own."""
    site = Site(folder, free_port(), free_port(), passwords)
    text = (DEPLOY / "mosquitto.conf").read_text()
    for shipped, ours in {
        "/mosquitto/config/mosquitto.acl": str(acl),
        "/mosquitto/secrets": str(folder / "mosquitto"),
        "/mosquitto/data": str(folder),
        "listener 8883": f"listener {site.certificate_port} {HOST}",
        "listener 8884": f"listener {site.password_port} {HOST}",
    }.items():
        assert shipped in text
        text = text.replace(shipped, ours)
    (folder / "mosquitto.conf").write_text(f"user {getpass.getuser()}\npid_file {folder}/pid\n{text}")
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(tied([program, "-c", str(folder / "mosquitto.conf")]), stdout=output, stderr=output)
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
        ("check", "sluicewatch/v1/S1/G1/motor/telemetry", False),
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
def test_a_revoked_certificate_is_refused_once_the_list_is_read_again(site: Site) -> None:
    with Client(site, site.certificate_port, certificate="G3") as gate:
        assert gate.welcome == "Success"

    credentials(site.folder, "revoke", "G3")
    os.kill(int((site.folder / "pid").read_text()), signal.SIGHUP)
    deadline = time.monotonic() + 10
    while is_welcome(site, "G3"):
        assert time.monotonic() < deadline
    assert is_welcome(site, "G1")


def is_welcome(site: Site, name: str) -> bool:
    """Whether the broker lets our client in by a certificate."""
    link = Subscription(settings(site, site.certificate_port, name))
    try:
        link.open()
    except BrokerError as refusal:
        return "certificate revoked" not in str(refusal)
    finally:
        link.close()
    return True


def settings(site: Site, port: int, certificate: str = "", account: str = "") -> IngestSettings:
    """What our own client needs to connect to the site by a certificate or an account."""
    user = f"{account}:{site.passwords[account]}@" if account else ""
    return IngestSettings(
        f"mqtts://{user}{HOST}:{port}",
        client_id="sluicewatch-test",
        keep_session=False,
        ca_file=site.authority,
        certificate_file=str(site.folder / f"{certificate}.crt") if certificate else None,
        key_file=str(site.folder / f"{certificate}.key") if certificate else None,
    )


@pytest.mark.broker
@pytest.mark.parametrize("by", ["certificate", "account"])
def test_our_client_comes_in_by_certificate_or_account_and_hears_the_gates(site: Site, by: str) -> None:
    link = Subscription(
        settings(site, site.certificate_port, certificate="ingest-1")
        if by == "certificate"
        else settings(site, site.password_port, account="check")
    )
    link.open()
    while not link.subscribed:
        assert link.turn(10)

    with Client(site, site.certificate_port, certificate="G1") as gate:
        assert gate.may_write("sluicewatch/v1/S1/G1/motor/telemetry")
    while not link.inbox:
        assert link.turn(10)
    link.close()

    assert [message.topic for message in link.inbox] == ["sluicewatch/v1/S1/G1/motor/telemetry"]


@pytest.mark.broker
def test_check_hears_a_gate_through_its_own_account_and_ends_nobodys_session(site: Site) -> None:
    values = {"velocity_rms": 1.31, "winding.temperature": 38.7, "moving": 1}
    units = {"velocity_rms": "mm/s", "winding.temperature": "degC", "moving": "1"}
    body = {"t": datetime.now(UTC).isoformat(), "values": values, "units": units}

    with Client(site, site.password_port, "ingest-1") as ingest, Client(site, site.certificate_port, certificate="G1") as gate:
        ingest.subscribe("sluicewatch/v1/#")
        check = start_check(site)
        gate.mqtt.publish("sluicewatch/v1/S1/G1/motor/telemetry", json.dumps(body), qos=1)
        assert gate.answers.get(timeout=10) == "Success"
        check.send_signal(signal.SIGINT)
        output, _ = check.communicate(timeout=20)

        assert ingest.messages.get(timeout=10).topic == "sluicewatch/v1/S1/G1/motor/telemetry"
        assert ingest.ended.empty()
    assert (check.returncode, json.loads(output)["findings"]) == (0, [])
    assert site.passwords["check"] not in output


@pytest.mark.broker
@pytest.mark.postgres
def test_a_share_hears_its_stations_through_the_example_of_the_acl(
    site: Site, tmp_path: Path, mosquitto_program: str, postgres_url: str
) -> None:
    own = Share.of(["KD-02", "KD-01"])
    shipped = (DEPLOY / "mosquitto.acl").read_text().splitlines()
    at = shipped.index(f"# user ingest-{own.name}")
    acl = tmp_path / "acl"
    acl.write_text("\n".join([*shipped[:at], *(line.removeprefix("# ") for line in shipped[at : at + 3]), *shipped[at + 3 :]]))
    folder = tmp_path / "secrets"
    shutil.copytree(site.folder / "mosquitto", folder / "mosquitto")
    stations = ("KD-01", "KD-02", "KD-03")
    passwords = {name: credentials(folder, "account", name).strip() for name in (f"ingest-{own.name}", *stations)}
    engine = historian.connect(postgres_url)
    store.migrate(engine)
    with historian.writing(engine) as connection:
        gates = [{"gate_id": f"{station}-G1", "station_id": station} for station in stations]
        connection.execute(sa.insert(historian.gates), gates)
    state, stop = SharesState(), threading.Event()
    body = {"t": "2026-03-01T08:15:00Z", "values": {"velocity_rms": 1.31}, "units": {"velocity_rms": "mm/s"}}

    def stored() -> list[str]:
        with engine.connect() as connection:
            return sorted(connection.scalars(sa.select(historian.channels.c.gate_id).distinct()))

    with serve(folder, passwords, mosquitto_program, acl) as other, ThreadPoolExecutor(1) as pool:
        url = f"mqtts://ingest-{{share}}:{passwords[f'ingest-{own.name}']}@{HOST}:{other.password_port}"
        known = IngestSettings(url, ca_file=other.authority)
        working = pool.submit(run_shares, engine, known, own, stop=stop, clock=lambda: datetime.now(UTC), state=state)
        deadline = time.monotonic() + 40
        try:
            while stored() != ["KD-01-G1", "KD-02-G1"]:  # again and again: the first may come before the subscription
                assert time.monotonic() < deadline, state.faults()
                for station in reversed(stations):
                    with Client(other, other.password_port, station) as gateway:
                        gateway.mqtt.publish(f"sluicewatch/v1/{station}/{station}-G1/motor/telemetry", json.dumps(body), qos=1)
                        gateway.answers.get(timeout=10)
        finally:
            stop.set()
            working.result(20)
    engine.dispose()


@pytest.mark.broker
def test_a_second_check_under_one_account_ends_the_first_with_a_clear_line(site: Site) -> None:
    first = start_check(site)
    with Client(site, site.password_port, "check"):
        _, told = first.communicate(timeout=20)

    assert first.returncode == 2
    assert told.strip().endswith("the connection ended while it listened: a second client of one account ends the first")


def start_check(site: Site) -> "subprocess.Popen[str]":
    """A `sluicewatch check` of G1 that listens."""
    url = f"mqtts://check:{site.passwords['check']}@{HOST}:{site.password_port}"
    command = [sys.executable, "-m", "service.cli", "check", "--mqtt", url, "--mqtt-ca", site.authority, "--gate", "G1", "--json"]
    check = subprocess.Popen(command, cwd=DEPLOY.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert check.stderr is not None
    assert "listening for G1" in check.stderr.readline()
    return check


@pytest.mark.broker
def test_our_client_is_told_when_it_shows_no_certificate_where_one_is_asked_for(site: Site) -> None:
    link = Subscription(settings(site, site.certificate_port))

    with pytest.raises(BrokerError, match=r"refuses our certificate, or that we show none \(--mqtt-certificate, --mqtt-key\)"):
        link.open()
    link.close()


DAY = timedelta(days=1)


@pytest.mark.broker
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # paho leaves a refused socket to the collector
@pytest.mark.parametrize(
    ("name", "starts", "ends", "authority", "told"),
    [
        (HOST, -DAY, DAY, "own", None),
        (HOST, -DAY, DAY, "", "self-signed certificate in certificate chain"),
        ("other.example.org", -DAY, DAY, "own", f"IP address mismatch, certificate is not valid for '{HOST}'"),
        (HOST, -2 * DAY, -DAY, "own", "certificate has expired"),
    ],
)
def test_our_client_knows_the_broker_by_authority_name_and_date(
    site: Site,
    tmp_path: Path,
    mosquitto_program: str,
    name: str,
    starts: timedelta,
    ends: timedelta,
    authority: str,
    told: str | None,
) -> None:
    folder = tmp_path / "secrets"
    shutil.copytree(site.folder / "mosquitto", folder / "mosquitto")
    write_certificate(site.folder / "ca.key", folder / "mosquitto", name, starts, ends)

    with serve(folder, site.passwords, mosquitto_program) as other:
        link = Subscription(
            replace(settings(other, other.password_port, account="check"), ca_file=other.authority if authority else None)
        )
        try:
            link.open()
            refusal = None
        except BrokerError as error:
            refusal = str(error)
        link.close()

    assert refusal == (
        told
        and f"mqtt: mqtts://{HOST}:{other.password_port} shows a certificate we do not trust: {told}; "
        "trusted are the authority of --mqtt-ca (else this machine's) and the name in the address"
    )


@pytest.mark.broker
def test_ingest_warns_of_a_broker_certificate_that_ends_within_a_month(
    site: Site, tmp_path: Path, mosquitto_program: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "secrets"
    shutil.copytree(site.folder / "mosquitto", folder / "mosquitto")
    write_certificate(site.folder / "ca.key", folder / "mosquitto", HOST, -DAY, 20.5 * DAY)
    engine = historian.connect(f"sqlite:///{tmp_path}/gates.sqlite")
    store.migrate(engine)
    stop, deadline = threading.Event(), time.monotonic() + 20

    with serve(folder, site.passwords, mosquitto_program) as other, ThreadPoolExecutor(1) as pool:
        known = settings(other, other.password_port, account="ingest-1")
        ingesting = pool.submit(run_ingest, engine, known, stop=stop, clock=lambda: datetime.now(UTC))
        while "ends in 20 days" not in caplog.text and not ingesting.done() and time.monotonic() < deadline:
            time.sleep(0.02)
        stop.set()
        ingesting.result(20)
    engine.dispose()

    assert "the broker's certificate ends in 20 days" in caplog.text
    ends = REGISTRY.get_sample_value("sluicewatch_mqtt_certificate_expiry_timestamp_seconds") or 0
    assert ends == pytest.approx((datetime.now(UTC) + 20.5 * DAY).timestamp(), abs=3600)


def write_certificate(authority_key: Path, folder: Path, name: str, starts: timedelta, ends: timedelta) -> None:
    """The broker's certificate as `credentials init` makes it, but for another name or another time."""
    signer = serialization.load_pem_private_key(authority_key.read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    authority = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    alternative = x509.IPAddress(ipaddress.ip_address(name)) if name == HOST else x509.DNSName(name)
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(
            authority.subject, subject, key.public_key(), x509.random_serial_number(), now + starts, now + ends
        )
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    (folder / "server.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


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
