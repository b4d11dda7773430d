"""The messages of the ingest bench: which gates and channels there are, and their telemetry as finished MQTT packets."""

from __future__ import annotations

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

_QOS_1_PUBLISH = b"\x32"


def publish_packets(messages: int, readings: int, gates: int = GATES) -> Iterator[bytes]:
    """Encode messages of so many readings each, one component after the other and a second between its readings."""
    series = gates * len(COMPONENTS)
    for number in range(messages):
        gate, component = divmod(number % series, len(COMPONENTS))
        first = number // series * readings
        payload = _payload([_reading(first + k) for k in range(readings)])
        topic = f"sluicewatch/v1/S{gate // 10}/G{gate}/{COMPONENTS[component]}/telemetry".encode()
        body = struct.pack("!H", len(topic)) + topic + struct.pack("!H", number % 65_535 + 1) + payload
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
