"""`sluicewatch check` as an integrator runs it: a real broker, `mosquitto_pub`, and the guides' messages with today's time."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline import historian
from pipeline.adapters.sparkplug import Payload
from pipeline.dataset import open_dataset
from pipeline.subscription import IngestSettings, Subscription
from pipeline.transfer import register_fleet
from service import store
from service.broker import Broker
from tests.conftest import missing

ROOT = Path(__file__).parents[2]
GATE = "DSH-S3-G1"
TOPIC = f"sluicewatch/v1/DSH-S3/{GATE}/motor/telemetry"
UNITS = {"velocity_rms": "mm/s", "winding.temperature": "degC", "moving": "1"}

MAPPING = """
[signals.hoist]
"v" = { channel = "motor.velocity_rms", unit = "mm/s" }
"T" = { channel = "motor.winding.temperature", unit = "degC" }
"S/v" = { channel = "motor.velocity_rms", unit = "mm/s" }
"S/T" = { channel = "motor.winding.temperature", unit = "degC" }
[[publisher]]
"""


class Check:
    """A running `sluicewatch check --json`; `end` makes it report."""

    def __init__(self, broker: Broker, *arguments: str, gate: str = GATE) -> None:
        command = [sys.executable, "-m", "service.cli", "check", "--mqtt", broker.url, "--gate", gate, "--json", *arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.first_line = self.process.stderr.readline()  # it listens now
        assert "listening" in self.first_line

    def end(self, broker: Broker) -> tuple[int, dict[str, Any]]:
        """Return exit code and report, once all that was published before has arrived."""
        settle(broker)
        self.process.send_signal(signal.SIGINT)
        output, _ = self.process.communicate(timeout=20)
        return self.process.returncode, json.loads(output)


def settle(broker: Broker) -> None:
    """Return when the broker, which serves its clients in turn, has handed out what it was given: a round trip later."""
    link = Subscription(IngestSettings(broker.url, client_id="settle", keep_session=False), ["settle"])
    link.open()
    while not link.subscribed:
        assert link.turn(10)
    publish(broker, "settle", b"x")
    while not link.inbox:
        assert link.turn(10)
    link.acknowledge()
    link.close()


def publish(broker: Broker, topic: str, payload: bytes, *flags: str) -> None:
    program = shutil.which("mosquitto_pub") or missing("mosquitto_pub is not on this machine (Debian: mosquitto-clients)")
    subprocess.run([program, "-p", str(broker.port), "-q", "1", "-t", topic, "-s", *flags], input=payload, check=True, timeout=20)


def native(values: dict[str, float], ahead: timedelta = timedelta(0), **beside: Any) -> bytes:
    return json.dumps({"t": (datetime.now(UTC) + ahead).isoformat(), "values": values, "units": UNITS, **beside}).encode()


def iotda(values: dict[str, Any]) -> bytes:
    time = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    services = [{"service_id": "S", "properties": values, "event_time": time}]
    return json.dumps({"devices": [{"device_id": "gate1", "services": services}]}).encode()


def thingsboard(values: dict[str, float]) -> bytes:
    return json.dumps({"Gate 1": [{"ts": int(datetime.now(UTC).timestamp() * 1000), "values": values}]}).encode()


def sparkplug(values: dict[str, float]) -> bytes:
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    payload = Payload(timestamp=now_ms, seq=1)
    for name, value in values.items():
        payload.metrics.add(name=name.encode(), timestamp=now_ms, datatype=10, double_value=value)
    return bytes(payload.SerializeToString())


@pytest.mark.broker
def test_a_good_gate_is_well_and_a_bad_one_is_told_what_to_mend(mosquitto: Broker) -> None:
    good, bad = Check(mosquitto), Check(mosquitto, gate="DSH-S3-G2")
    publish(mosquitto, TOPIC, native({"velocity_rms": 1.31, "winding.temperature": 38.7, "moving": 1}))
    other = TOPIC.replace("G1", "G2")
    publish(mosquitto, other, native({"velocity_rms": 1.31}, ahead=timedelta(hours=8)))
    publish(mosquitto, other, native({"velocity_rms": 1.31}, units={"velocity_rms": "m/s"}))
    publish(mosquitto, other, native({"winding.temperature": 311}))

    code, report = good.end(mosquitto)
    bad_code, bad_report = bad.end(mosquitto)

    assert (code, report["verdict"], report["findings"]) == (0, "well", [])
    assert {arriving["channel"]: arriving["value"] for arriving in report["arrives"]} == {
        "motor.moving": 1.0,
        "motor.velocity_rms": 1.31,
        "motor.winding.temperature": 38.7,
    }
    assert f"listening for {GATE} at {mosquitto.url}" in good.first_line
    assert (bad_code, bad_report["verdict"]) == (1, "wrong")
    told = json.dumps(bad_report["findings"])
    for what in ("8 h: local time of UTC+8", "1.31 would be possible in mm/s", "looks like K", "no vibration"):
        assert what in told


@pytest.mark.broker
def test_each_foreign_dialect_is_checked_with_its_mapping(mosquitto: Broker, tmp_path: Path) -> None:
    speakers = {
        "iotda": 'dialect = "iotda"\nid = "st3"\ngates = { gate1 = "DSH-S3-G1" }',
        "thingsboard": 'dialect = "thingsboard"\ngates = { "Gate 1" = "DSH-S3-G1" }',
        "sparkplug": 'dialect = "sparkplug"\nid = "DSH/S3"\ngates = { Gate1 = "DSH-S3-G1" }',
    }
    checks = {}
    for dialect, speaker in speakers.items():
        names = '"S/' if dialect == "iotda" else '"'
        lines = [line for line in MAPPING.splitlines() if not line.startswith('"') or line.startswith((f"{names}v", f"{names}T"))]
        (tmp_path / dialect).write_text("\n".join([*lines, 'signals = "hoist"', speaker]))
        checks[dialect] = Check(mosquitto, "--mapping", str(tmp_path / dialect))
    values = {"v": 1.31, "T": 46.2}
    publish(mosquitto, "$oc/devices/st3/sys/gateway/sub_devices/properties/report", iotda(values))
    publish(mosquitto, "v1/gateway/telemetry", thingsboard(values))
    publish(mosquitto, "spBv1.0/DSH/DBIRTH/S3/Gate1", sparkplug(values))

    reports = {dialect: check.end(mosquitto) for dialect, check in checks.items()}

    for code, report in reports.values():
        assert code == 0
        assert [(arriving["channel"], arriving["value"]) for arriving in report["arrives"]] == [
            ("motor.velocity_rms", 1.31),
            ("motor.winding.temperature", 46.2),
        ]
        assert [finding["kind"] for finding in report["findings"]] == ["note"]  # nobody says `moving`


@pytest.mark.broker
def test_a_kept_reading_is_named_and_where_nothing_comes_the_exit_code_is_2(mosquitto: Broker) -> None:
    publish(mosquitto, TOPIC, native({"velocity_rms": 1.31}), "-r")
    check, silent = Check(mosquitto), Check(mosquitto, gate="DSH-S1-G1")

    code, report = check.end(mosquitto)
    silent_code, silent_report = silent.end(mosquitto)

    assert code == 1
    assert any("without the retain flag" in finding["mend"] for finding in report["findings"])
    assert (silent_code, silent_report["verdict"]) == (2, "nothing")


@pytest.mark.broker
@pytest.mark.parametrize("where", ["--dataset", "--database"])
def test_what_is_declared_is_missed(mosquitto: Broker, tmp_path: Path, where: str) -> None:
    source = "sample_data/basin"
    if where == "--database":
        source = f"sqlite:///{tmp_path}/gates.sqlite"
        engine = historian.connect(source)
        store.migrate(engine)
        with historian.writing(engine) as connection:
            register_fleet(connection, open_dataset(ROOT / "sample_data/basin"), datetime.now(UTC))
    check = Check(mosquitto, where, source)
    publish(mosquitto, TOPIC, json.dumps({"t": datetime.now(UTC).isoformat(), "values": {"velocity_rms": 1.31}}).encode())

    _, report = check.end(mosquitto)

    assert [arriving["channel"] for arriving in report["arrives"]] == ["motor.velocity_rms"]  # in the declared unit
    silent = {
        text.partition(":")[0] for text in (finding["text"] for finding in report["findings"]) if "declared to report" in text
    }
    declared = {channel.key for channel in open_dataset(ROOT / "sample_data/basin").declared(GATE)}
    assert silent == declared - {"motor.velocity_rms"}


@pytest.mark.broker
def test_ingest_keeps_its_session_and_its_messages_while_somebody_checks(mosquitto: Broker) -> None:
    ingest = Subscription(IngestSettings(mosquitto.url))
    ingest.open()
    ingest.turn(0.1)
    check = Check(mosquitto)
    publish(mosquitto, TOPIC, native({"velocity_rms": 1.31}))
    check.end(mosquitto)

    while not ingest.inbox:
        assert ingest.turn(5.0)

    assert [message.topic for message in ingest.inbox] == [TOPIC]
    ingest.close()


def test_the_account_of_another_process_is_refused() -> None:
    command: Sequence[str] = [sys.executable, "-m", "service.cli", "check", "--gate", GATE]
    environment = {**os.environ, "SLUICEWATCH_MQTT": "mqtts://ingest-1:secret@broker:8884"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)

    assert ended.returncode == 2
    assert ended.stderr.strip() == (
        "sluicewatch: mqtt: ingest-1 is the account of another process, which the broker would throw out for us; "
        "give check its own"
    )
