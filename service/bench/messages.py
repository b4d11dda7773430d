"""The messages of the ingest bench: which gates and channels there are, their telemetry as finished MQTT packets, and poison."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

GATES = 200
COMPONENTS = ("motor", "gearbox", "brake", "leaf", "hydraulic")
UNITS = {"velocity_rms": "mm/s", "acceleration_rms": "g", "kurtosis": "1", "bearing_de.temperature": "degC", "current": "A"}
FIRST = datetime(2026, 3, 1, tzinfo=UTC)
NOW = FIRST + timedelta(days=30)
"""The present of the ingest under test; all readings are older."""

GOOD = b'{"t": "2026-02-28T00:00:00Z", "values": {"velocity_rms": 1.5}, "units": {"velocity_rms": "mm/s"}}'


def poison(topic: str) -> dict[str, tuple[str, bytes]]:
    """Messages on a component's topic (or near it) that no receiver can use, by what is wrong: a topic and a payload each."""
    version, station, gate, component, _ = topic.rsplit("/", 4)
    return {
        "not JSON": (topic, b"velocity 1.3"),
        "bad UTF-8": (topic, GOOD.replace(b"mm/s", b"\xff\xfe")),
        "300 KB": (topic, b"{" + b" " * 307_200 + b"}"),
        "depth 1,000": (topic, b"[" * 1_000 + b"]" * 1_000),
        "NaN": (topic, GOOD.replace(b"1.5", b"NaN")),
        "Infinity": (topic, GOOD.replace(b"1.5", b"-Infinity")),
        "1e400": (topic, GOOD.replace(b"1.5", b"1e400")),
        "above 2^63": (topic, GOOD.replace(b'"2026-02-28T00:00:00Z"', b"9223372036854775809")),
        "wrong type": (topic, GOOD.replace(b"1.5", b'[{"a": 1}]')),
        "missing field": (topic, b'{"values": {"velocity_rms": 1.5}}'),
        "unknown gate": (f"{version}/{station}/{gate}404404/{component}/telemetry", GOOD),
        "wrong topic depth": (f"{version}/{station}/{gate}/{component}/more/telemetry", GOOD),
        "empty": (topic, b""),
        "gzip": (topic, gzip.compress(GOOD)),
    }


_QOS_1_PUBLISH = b"\x32"


def publish_packets(messages: int, readings: int, gates: int = GATES, poison_every: int = 0) -> Iterator[bytes]:
    """Encode messages of so many readings each, one component after the other and a second between its readings.

    With `poison_every`, the first of so many is `poison` instead.
    """
    series, bad = gates * len(COMPONENTS), list(poison(f"sluicewatch/v1/S0/G0/{COMPONENTS[0]}/telemetry").values())
    for number in range(messages):
        if poison_every and number % poison_every == 0:
            topic, payload = bad[number // poison_every % len(bad)]
        else:
            gate, component = divmod(number % series, len(COMPONENTS))
            first = number // series * readings
            payload = _payload([_reading(first + k) for k in range(readings)])
            topic = f"sluicewatch/v1/S{gate // 10}/G{gate}/{COMPONENTS[component]}/telemetry"
        to = topic.encode()
        body = struct.pack("!H", len(to)) + to + struct.pack("!H", number % 65_535 + 1) + payload
        yield _QOS_1_PUBLISH + _variable_length(len(body)) + body


def connect_packet(client_id: str, keepalive_s: int = 60) -> bytes:
    """Encode the CONNECT of MQTT 3.1.1 with a clean session."""
    name = client_id.encode()
    body = b"\x00\x04MQTT\x04\x02" + struct.pack("!HH", keepalive_s, len(name)) + name
    return b"\x10" + _variable_length(len(body)) + body


def _reading(number: int) -> dict[str, object]:
    values = (1.31 + number % 7, 0.25, 3.1, 38.7, 12.5)
    instant = (FIRST + timedelta(seconds=number)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"t": instant, "seq": number, "values": dict(zip(UNITS, values, strict=True))}


def _payload(readings: list[dict[str, object]]) -> bytes:
    return json.dumps(readings[0] if len(readings) == 1 else {"readings": readings}, separators=(",", ":")).encode()


def _variable_length(n: int) -> bytes:
    """MQTT 3.1.1, 2.2.3: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while n > 127:
        encoded.append(n % 128 | 128)
        n //= 128
    encoded.append(n)
    return bytes(encoded)
