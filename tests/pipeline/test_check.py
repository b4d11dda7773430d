"""The live check of a gate: what it hears, misses and doubts, from messages of which we know what is wrong with them."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from pipeline import waveforms
from pipeline.adapters import Message
from pipeline.adapters.mapping import DeviceMap, read_mapping
from pipeline.adapters.sparkplug import Payload
from pipeline.check import Declared, Report, Watch
from pipeline.readings import Channel

NOW = datetime(2026, 3, 1, 8, 20, tzinfo=UTC)
TOPIC = "sluicewatch/v1/S3/S3-G1/motor/telemetry"
UNITS = {"velocity_rms": "mm/s", "winding.temperature": "degC", "moving": "1"}
GOOD = {"velocity_rms": 1.31, "winding.temperature": 38.7, "moving": 1}

SIGNALS = """
[signals.hoist]
"Vibration/v" = { channel = "motor.velocity_rms", unit = "mm/s" }
"Temperature/winding" = { channel = "motor.winding.temperature", unit = "degC" }
"State/running" = { channel = "motor.moving", unit = "1" }
[[publisher]]
signals = "hoist"
"""
IOTDA = f"""{SIGNALS}
dialect = "iotda"
id = "station3"
gates = {{ gate1 = "S3-G1", gate2 = "S3-G2" }}
"""
THINGSBOARD = f"""{SIGNALS}
dialect = "thingsboard"
gates = {{ "Gate 1" = "S3-G1" }}
"""
SPARKPLUG = f"""{SIGNALS}
dialect = "sparkplug"
id = "DSH/S3"
gates = {{ Gate1 = "S3-G1" }}
"""

Sent = tuple[str, bytes, float]  # topic, payload, seconds after NOW


def at(seconds: float, offset: timedelta = timedelta(0)) -> str:
    return (NOW + timedelta(seconds=seconds) + offset).isoformat().replace("+00:00", "Z")


def epoch_ms(seconds: float) -> int:
    return int((NOW + timedelta(seconds=seconds)).timestamp() * 1000)


def reading(seconds: float, values: dict[str, Any] | None = None, *, topic: str = TOPIC, **beside: Any) -> Sent:
    """A message of the native dialect, received at once."""
    body = {"t": at(seconds), "values": GOOD if values is None else values, "units": UNITS, **beside}
    return topic, json.dumps(body).encode(), seconds


def check(*sent: Sent, declared: Declared | None = None, device_map: DeviceMap | None = None, **flags: Any) -> Report:
    watch = Watch("S3-G1", device_map or DeviceMap(), declared or Declared())
    for topic, payload, seconds in sent:
        message = Message(topic, payload, flags.get("retained", False))
        watch.take(message, flags.get("qos", 1), epoch_ms(seconds) + (0 if flags.get("at_once") else 40))
    return watch.report(60.0)


def told(report: Report, kind: str = "") -> str:
    return "\n".join(f"{finding.text} -> {finding.mend}" for finding in report.findings if kind in ("", finding.kind))


def test_a_gate_that_sends_all_it_should_is_well() -> None:
    report = check(*(reading(seconds, seq=seconds // 10) for seconds in range(0, 50, 10)))

    assert report.verdict == "well"
    assert report.findings == ()
    assert [(a.channel, a.unit, a.newest, a.readings, a.every_s) for a in report.arriving] == [
        ("motor.moving", "1", 1.0, 5, 10.0),
        ("motor.velocity_rms", "mm/s", 1.31, 5, 10.0),
        ("motor.winding.temperature", "degC", 38.7, 5, 10.0),
    ]


@pytest.mark.parametrize(
    ("sent", "what", "mend"),
    [
        ([reading(0, {**GOOD, "velocity_rms": 0.00131})], "0.00131 mm/s is unusually small; it looks like m/s", "mend the unit"),
        ([reading(0, {**GOOD, "winding.temperature": 311.2})], "311.2 degC is unusually large; it looks like K", "mend the unit"),
        (
            [reading(0, {**GOOD, "current": 4500}, units={**UNITS, "current": "A"})],
            "4500 A is unusually large; it looks like mA",
            "mend the unit",
        ),
        (
            [reading(0), reading(1, {"load": 45}, units={"load": "1"})],
            "45 would be possible in %; is the unit wrong?",
            "mend the unit",
        ),
        (
            [reading(0), reading(1, {"velocity_rms": 1.3}, units={"velocity_rms": "inch/s"})],
            "wrong_unit",
            "convert on the device",
        ),
        ([reading(0), reading(1, t=at(1, timedelta(hours=8)))], "8 h: local time of UTC+8 sent as if it were UTC?", "send UTC"),
        ([reading(n, t=at(n, timedelta(hours=-8))) for n in range(3)], "its times are 8 h behind", "send UTC"),
        ([reading(n, t=at(n, timedelta(minutes=-12))) for n in range(3)], "was 12 min old when it came", "NTP"),
        (
            [reading(n, t=at(0)) for n in range(5)],
            "the time stands still at 2026-03-01T08:20:00Z in 5",
            "send each reading",
        ),
        ([reading(0, seq=7), reading(1, seq=11)], "seq misses 3 messages", "QoS 1"),
        (
            [reading(n, seq=seq) for n, seq in enumerate([41, 1007, 42, 1008, 43])],
            "seq went back 2 times: two devices count here",
            "one device",
        ),
        (
            [reading(0), reading(0, topic=TOPIC.replace("/S3/", "/S4/"))],
            "spoken for under several stations: S3, S4",
            "stop the one",
        ),
        (
            [reading(0), reading(0.1, {**GOOD, "velocity_rms": 2.0}, t=at(0))],
            "motor.velocity_rms: 1 times two values for one instant",
            "one device",
        ),
        (
            [reading(0), reading(0, topic="sluicewatch/v1/S3-G1/motor/telemetry")],
            "wrong place of the topic sluicewatch/v1/S3-G1/motor/telemetry",
            "sluicewatch/v1/<station>/S3-G1/<component>/telemetry",
        ),
        ([reading(0), (TOPIC, b"velocity 1.31", 1)], "not_json", "docs/guides"),
        (
            [reading(0), ("sluicewatch/v1/S3/S3-G1/status", b'{"status": "offline"}', 1)],
            "the status says offline, and readings come",
            "publish the status online",
        ),
        (
            [reading(0), *[("sluicewatch/v1/S3/S3-G1/status", b'{"status": "offline"}', n) for n in range(2)]],
            "went offline 2 times: two clients with one client id",
            "a client id of its own",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_mend(sent: list[Sent], what: str, mend: str) -> None:
    report = check(*sent)

    assert report.verdict == "wrong"
    assert any(finding.kind == "wrong" and what in finding.text and mend in finding.mend for finding in report.findings), told(
        report
    )


def test_a_retained_reading_is_named_with_the_command_that_clears_it() -> None:
    report = check(reading(0), retained=True)

    assert f"mosquitto_pub -r -n -t '{TOPIC}'" in told(report, "wrong")
    assert report.arriving == ()


@pytest.mark.parametrize(
    ("values", "kind", "what"),
    [
        ({"velocity_rms": 1.3, "moving": 1}, "missing", "no temperature"),
        ({"winding.temperature": 38.7, "moving": 1}, "missing", "no vibration"),
        ({"velocity_rms": 1.3, "winding.temperature": 38.7}, "note", "no `moving`"),
    ],
)
def test_a_quantity_that_a_forecast_wants_is_missed(values: dict[str, float], kind: str, what: str) -> None:
    report = check(reading(0, values))

    assert report.verdict == ("wrong" if kind == "missing" else "well")
    assert what in told(report, kind)


def test_a_declared_channel_that_is_silent_is_missed_unless_it_need_not_have_spoken() -> None:
    channels = (
        Channel("S3-G1", "gearbox", "velocity_rms", "mm/s", interval_s=5.0),
        Channel("S3-G1", "gearbox", "temperature", "degC", "oil", interval_s=3600.0),
    )

    report = check(reading(0), declared=Declared(True, "S3", 0, channels))

    assert told(report, "missing").startswith("gearbox.velocity_rms: declared, and silent for 60 s")
    assert told(report, "note").startswith("gearbox.oil.temperature: silent, and declared to report every 3600 s only")


def test_units_may_be_left_out_where_they_are_declared_and_are_missed_where_not() -> None:
    bare = reading(0, {"velocity_rms": 1.3}, units=None)
    declared = Declared(True, "S3", 0, (Channel("S3-G1", "motor", "velocity_rms", "mm/s"),))

    assert "unit_missing" in told(check(bare), "wrong")
    assert "unit_missing" not in told(check(bare, declared=declared))


def test_a_gate_under_a_station_not_its_own_or_not_registered_is_what_ingest_would_refuse() -> None:
    assert "gate 'S3-G1' belongs to station 'S9'" in told(check(reading(0), declared=Declared(True, "S9")), "wrong")
    assert "S3-G1 is not registered" in told(check(reading(0), declared=Declared(registered=False)), "wrong")


def test_what_is_published_without_a_promise_is_noted() -> None:
    report = check(reading(0), reading(1), qos=0)

    assert report.verdict == "well"
    assert "2 of 2 messages came with QoS 0" in told(report, "note")


def iotda(seconds: float, device: str = "gate1", publisher: str = "station3", time: str | None = "") -> Sent:
    time = at(seconds) if time == "" else time
    services = [
        {"service_id": "Vibration", "properties": {"v": "1.31"}, "event_time": time},
        {"service_id": "Temperature", "properties": {"winding": 46.2}, "event_time": time},
        {"service_id": "State", "properties": {"running": True}, "event_time": time},
    ]
    body = {"devices": [{"device_id": device, "services": services}, {"device_id": "gate2", "services": services}]}
    return f"$oc/devices/{publisher}/sys/gateway/sub_devices/properties/report", json.dumps(body).encode(), seconds


def thingsboard(seconds: float) -> Sent:
    ts = epoch_ms(seconds)
    values = {"Vibration/v": 1.31, "Temperature/winding": 46.2, "State/running": True}
    return "v1/gateway/telemetry", json.dumps({"Gate 1": [{"ts": ts, "values": values}]}).encode(), seconds


def sparkplug(seconds: float, *, aliases: bool = False) -> Sent:
    ts = epoch_ms(seconds)
    payload = Payload(timestamp=ts, seq=int(seconds))
    for alias, (name, value) in enumerate({"Vibration/v": 1.31, "Temperature/winding": 46.2, "State/running": 1.0}.items()):
        metric = payload.metrics.add(alias=alias, timestamp=ts, datatype=10, double_value=value)
        if not aliases:
            metric.name = name.encode()
    return f"spBv1.0/DSH/{'DDATA' if aliases else 'DBIRTH'}/S3/Gate1", payload.SerializeToString(), seconds


@pytest.mark.parametrize(
    ("sent", "mapping"),
    [
        ([iotda(0), iotda(1)], IOTDA),
        ([thingsboard(0), thingsboard(1)], THINGSBOARD),
        ([sparkplug(0), sparkplug(1, aliases=True)], SPARKPLUG),
    ],
)
def test_a_gate_of_a_foreign_dialect_is_well_with_its_mapping(sent: list[Sent], mapping: str) -> None:
    report = check(*sent, device_map=read_mapping(mapping, None))

    assert report.findings == ()
    assert report.verdict == "well"
    assert [(arriving.channel, arriving.readings) for arriving in report.arriving] == [
        ("motor.moving", 2),
        ("motor.velocity_rms", 2),
        ("motor.winding.temperature", 2),
    ]


def test_two_publishers_that_measure_one_channel_are_named() -> None:
    report = check(iotda(0), reading(1), device_map=read_mapping(IOTDA, None))

    assert "motor.velocity_rms" in told(report, "wrong")
    assert "sent by iotda station3 and by native" in told(report, "wrong")


def test_aliases_whose_birth_was_not_heard_ask_for_a_restart() -> None:
    report = check(sparkplug(0, aliases=True), device_map=read_mapping(SPARKPLUG, None))

    assert report.verdict == "wrong"
    assert "restart the edge node while this check runs" in told(report, "missing")


def test_a_message_without_a_time_is_noted() -> None:
    report = check(iotda(0, time=None), device_map=read_mapping(IOTDA, None))

    assert "1 of 1 messages have no time and count as of their arrival" in told(report, "note")


@pytest.mark.parametrize(
    ("sent", "mapping", "what"),
    [
        ([], "", "nothing came for S3-G1"),
        ([reading(0, topic=TOPIC.replace("S3-G1", "s3-g1"))], "", "nothing came for S3-G1, but for s3-g1"),
        ([iotda(0)], "", "station3 speaks iotda, and no mapping file says for whom"),
        ([iotda(0, publisher="st3")], IOTDA, "the mapping file has station3 speak for S3-G1, who was silent; st3 spoke"),
        ([iotda(0)], IOTDA.replace('gate1 = "S3-G1"', 'gate1 = "S3-G9"'), "lets no iotda publisher speak for S3-G1"),
    ],
)
def test_where_nothing_came_what_came_instead_is_told(sent: list[Sent], mapping: str, what: str) -> None:
    report = check(*sent, device_map=read_mapping(mapping, None))

    assert report.verdict == "nothing"
    assert what in told(report)


def test_neighbours_are_not_taken_for_slips_of_the_pen() -> None:
    assert "S3-G2" not in told(check(reading(0, topic=TOPIC.replace("S3-G1", "S3-G2"))))


def test_a_burst_arrives_as_what_it_tells() -> None:
    turns = np.sin(2 * np.pi * 100 * np.arange(12_800) / 12_800)  # one second of 100 Hz, 1 g of amplitude: 1 / sqrt(2) g
    burst = waveforms.Burst(NOW, "bearing_de", "radial", 12_800.0, 0.0005, (turns / 0.0005).astype(np.int16))

    report = check((TOPIC.replace("telemetry", "waveform"), waveforms.encode(burst), 0))

    shown = {arriving.channel: arriving.newest for arriving in report.arriving}
    assert shown["motor.bearing_de.acceleration_rms"] == pytest.approx(0.5**0.5, rel=0.01)
    assert "no vibration" not in told(report)
    assert "no temperature" in told(report, "missing")


def test_what_a_gate_introduced_itself_with_is_missed_and_needs_no_unit() -> None:
    channels = [
        {"component": "motor", "quantity": name, "unit": unit} for name, unit in (("velocity_rms", "m/s"), ("current", "A"))
    ]
    discovery = ("sluicewatch/v1/S3/S3-G1/discovery", json.dumps({"channels": channels}).encode(), 0.0)

    report = check(discovery, reading(1, {"velocity_rms": 0.0013}, units=None))

    assert [(arriving.channel, arriving.newest, arriving.sent_in) for arriving in report.arriving] == [
        ("motor.velocity_rms", 1.3, "m/s")
    ]
    assert "motor.current: declared, and silent" in told(report, "missing")
    assert "it introduces itself with 2 channels" in told(report, "note")
