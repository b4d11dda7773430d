"""Mutated payloads of every dialect: nothing but refusals comes of them, and what is accepted is possible.

The mutations are seeded, so a failure comes again. ``SLUICEWATCH_FUZZ=100000`` tries that many for each dialect.
"""

import copy
import json
import os
import random
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.adapters import Message, sparkplug
from pipeline.adapters.checks import FUTURE_MS
from pipeline.adapters.dialects import Dialects
from pipeline.readings import QUANTITIES, ReadingError
from tests.pipeline.adapters import test_iotda, test_sparkplug
from tests.pipeline.adapters.fleet import GATES, MARCH_2024_MS, NOW_MS, SomeGates, device_map

TRIES = int(os.environ.get("SLUICEWATCH_FUZZ", "5000"))

_NATIVE = "sluicewatch/v1/S3/S3-G1"
_SAMPLES: dict[str, list[tuple[str, bytes]]] = {
    "native": [
        (
            f"{_NATIVE}/motor/telemetry",
            b'{"t": "2026-03-01T08:15:00.250Z", "seq": 4711, "values": {"velocity_rms": 1.31, "winding.temperature": 38.7}, '
            b'"units": {"velocity_rms": "mm/s", "winding.temperature": "degC"}}',
        ),
        (
            f"{_NATIVE}/motor/telemetry",
            b'{"readings": [{"t": "2026-03-01T08:15:00Z", "values": {"load": 80}, "units": {"load": "%"}}, '
            b'{"t": "2026-03-01T08:16:00Z", "values": {"load": 81}, "units": {"load": "%"}}]}',
        ),
        (
            f"{_NATIVE}/discovery",
            b'{"channels": [{"component": "motor", "quantity": "velocity_rms", "unit": "mm/s", "interval_s": 60}]}',
        ),
        (f"{_NATIVE}/status", b'{"status": "online", "t": "2026-03-01T08:10:00Z"}'),
    ],
    "burst": [
        (
            f"{_NATIVE}/motor/waveform",
            b'{"t":"2026-03-01T08:15:00.000Z","point":"bearing_de","axis":"radial","rate_hz":12800.0,"scale_g":0.0005,"n":300}\n'
            + random.Random(1).randbytes(600),
        )
    ],
    "iotda": [(test_iotda.REPORT, test_iotda.DEVICE_REPORT), (test_iotda.BATCH, test_iotda.GATEWAY_BATCH)],
    "thingsboard": [
        (
            "v1/gateway/telemetry",
            b'{"Device A": [{"ts": 1772352900000, "values": {"temperature": 42, "vibration": 0.0013}}, {"ts": 1772352901000, '
            b'"values": {"temperature": "43.5", "rssi": -71}}], "Device B": [{"values": {"temperature": 12.5}}]}',
        )
    ],
    "sparkplug": [
        ("spBv1.0/DSH/NBIRTH/S6", test_sparkplug.NBIRTH),
        ("spBv1.0/DSH/DBIRTH/S6/Gate1", test_sparkplug.DBIRTH),
        *[("spBv1.0/DSH/DDATA/S6/Gate1", test_sparkplug.DDATA), ("spBv1.0/DSH/NDATA/S6", test_sparkplug.DDATA)] * 3,
        ("spBv1.0/DSH/NDEATH/S6", test_sparkplug.NDEATH),
        ("spBv1.0/DSH/DDEATH/S6/Gate1", test_sparkplug.NDEATH),
    ],
}
_NASTY = [
    *(None, True, False, 0, -1, 2**63, 10**400, -0.0, 1e308, float("nan"), float("inf"), "", "nan", "1e999", "\x00", "\ud800"),
    *("9" * 70, "2026-03-01T08:15:00Z", "99991231T235959Z", "00000101T000000Z", [], {}, [[[]]], {"a": {}}, 1772352900, 1.5),
]


def change_bytes(chance: random.Random, data: bytes) -> bytes:
    """Cut out, change, repeat or put in some bytes."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randint(0, len(changed))
        end = at + chance.choice((0, 1, 1, 2, 8))
        new = chance.choice((chance.randbytes(chance.randint(0, 4)), bytes(changed[at:end]) * 2, b'"', b"7", b"-", b"\xff"))
        changed[at:end] = new
    return bytes(changed[: chance.randint(0, len(changed))] if chance.random() < 0.1 else changed)


def change_json(chance: random.Random, data: bytes) -> bytes:
    """Put something nasty in place of a part, take the part out, or call it something else."""
    document = json.loads(data)
    for _ in range(chance.choice((1, 1, 2, 3))):
        part: Any = document
        while isinstance(part, dict | list) and part:
            key = chance.choice(list(part)) if isinstance(part, dict) else chance.randrange(len(part))
            inner = part[key]
            if isinstance(inner, dict | list) and inner and chance.random() < 0.95:
                part = inner
                continue
            deed = chance.random()
            if deed < 0.2:
                del part[key]
            elif deed < 0.4 and isinstance(part, dict):
                part[chance.choice(["t", "ts", "values", "S4-G1", "a.b", "\ud800", "kurtosis"])] = part.pop(key)
            else:
                part[key] = copy.deepcopy(chance.choice(_NASTY))  # it may be changed in its turn
            break
    return json.dumps(document).encode()


def change_header(chance: random.Random, data: bytes) -> bytes:
    """Change the header of a burst and leave its samples."""
    header, feed, samples = data.partition(b"\n")
    return change_json(chance, header) + feed + samples


def change_protobuf(chance: random.Random, _: bytes) -> bytes:
    """A payload of random metrics, most of them nearly right."""
    made = sparkplug.Payload(seq=chance.randrange(300))
    if chance.random() < 0.9:
        made.timestamp = chance.choice([NOW_MS] * 9 + [0, 2**64 - 1, NOW_MS // 1000])
    names = [b"Hoist/MotorDE/vRms", b"Hoist/MotorDE/Temp", b"Gate/Opening", b"Gate/Moving", b"bdSeq", b"Gate/Colour", b"\xff"]
    for _ in range(chance.randint(0, 6)):
        metric = made.metrics.add(datatype=chance.randrange(20))
        if chance.random() < 0.7:
            metric.name = chance.choice(names)
        if chance.random() < 0.6:
            metric.alias = chance.randrange(6)
        if chance.random() < 0.2:
            metric.timestamp = chance.choice([NOW_MS - 5_000, 1, 2**63])
        match chance.randrange(8):
            case 0:
                metric.is_null = True
            case 1:
                metric.int_value = chance.choice([0, 1, 2**31, 2**32 - 1])
            case 2:
                metric.long_value = chance.choice([0, 1, 2**63, 2**64 - 1])
            case 3:
                metric.double_value = chance.choice([0.5, float("nan"), float("-inf"), 1e300])
            case 4:
                metric.boolean_value = True
            case 5:
                metric.string_value = chance.choice([b"1.5", b"\xff"])
            case _:
                metric.float_value = chance.choice([1.5, 30.0, -1.0, 1e30])
        if chance.random() < 0.2:
            metric.properties.keys.append(chance.choice([b"Quality", b"\xff"]))
            metric.properties.values.add(int=chance.choice([0, 192, 500]))
    return bytes(made.SerializeToString())


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("dialect", _SAMPLES)
def test_mutated_payloads_are_refused_or_possible_and_never_raise(dialect: str) -> None:
    chance = random.Random(f"{dialect} 20260301")
    adapters, fleet = Dialects(device_map()), SomeGates({("S3-G1", "motor"): {"winding.temperature": "degC"}})
    by_shape = {"sparkplug": change_protobuf, "burst": change_header}.get(dialect, change_json)
    ways: list[Callable[[random.Random, bytes], bytes]] = [change_bytes, by_shape, by_shape, by_shape]
    used = refused = 0
    for _ in range(TRIES):
        topic, payload = chance.choice(_SAMPLES[dialect])
        if chance.random() < 0.95:
            payload = chance.choice(ways)(chance, payload)
        if chance.random() < 0.02:
            topic = change_bytes(chance, topic.encode()).decode(errors="backslashreplace")

        [message] = adapters.receive([Message(topic, payload, chance.random() < 0.01)])
        found = adapters.decode(message, fleet, NOW_MS)

        for reading in found.readings:
            assert reading.gate_id in GATES
            assert MARCH_2024_MS <= reading.ts_ms <= NOW_MS + FUTURE_MS
            assert reading.values
            for name, value in reading.values.items():
                quantity = QUANTITIES[name.rpartition(".")[2]]
                assert quantity.low <= value <= quantity.high
        assert all(isinstance(refusal, ReadingError) and str(refusal) for refusal in found.refusals)
        used += bool(found.readings)
        refused += bool(found.refusals)
    assert used > TRIES / 10, "the mutations leave nothing right, and so try nothing"
    assert refused > TRIES / 10
