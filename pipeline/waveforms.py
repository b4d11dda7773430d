"""Waveform bursts: a fraction of a second of raw acceleration, and the bytes it travels and is kept in. No network, file, clock.

A burst is one JSON line ``{"t", "point", "axis", "rate_hz", "scale_g", "n"}``, a line feed, then n signed 16-bit samples, least
significant byte first. The same bytes come by MQTT and lie in a dataset's ``waveforms/`` folder (DATASET.md).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BadInput
from pipeline.readings import ID_PATTERN

MAX_BYTES = 262_144
"""What a burst may have, header and samples."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_SAMPLE = np.dtype("<i2")

_NAME = "a string of 1 to 128 letters, digits, _ or -"
_RATES_HZ, _SCALES_G = (1.0, 1e7), (1e-15, 1e3)
"""What a converter can do; beyond it a header is a mistake, and a square would overflow."""
_FIELDS: dict[str, tuple[Any, str]] = {
    "t": (Annotated[datetime, msgspec.Meta(tz=True)], "RFC 3339 with an offset, as 2026-03-01T08:15:00.000Z"),
    "point": (str, _NAME),
    "axis": (str, f"empty or {_NAME}"),
    "rate_hz": (float, "a number from 1 to 10,000,000"),
    "scale_g": (float, "a number above 0, at most 1,000"),
    "n": (Annotated[int, msgspec.Meta(ge=1)], "a whole number of samples, 1 or more"),
}
"""Fields of the header: the type of each, and what it must be in words."""


class WaveformError(BadInput):
    """What came cannot be a burst, or a burst cannot be named so."""


@dataclass(frozen=True, slots=True, eq=False)
class Burst:
    """Raw acceleration at one point of one component.

    Attributes
    ----------
    t : datetime
        When the first sample was taken, aware, UTC. The format keeps milliseconds.
    point, axis : str
        Where and in which direction; the axis may be empty.
    rate_hz : float
        Samples per second.
    scale_g : float
        Acceleration of one step, in g.
    samples : ndarray of int16, shape (n,)

    Raises
    ------
    WaveformError
        Naming the field that cannot be.
    """

    t: datetime
    point: str
    axis: str
    rate_hz: float
    scale_g: float
    samples: NDArray[np.int16]

    def __post_init__(self) -> None:
        if self.t.utcoffset() != timedelta(0):
            raise WaveformError(f"t: must be an aware datetime in UTC; got {self.t.isoformat()}")
        if not ID_PATTERN.match(self.point):
            raise _refusal("point", self.point)
        if self.axis and not ID_PATTERN.match(self.axis):
            raise _refusal("axis", self.axis)
        for field, value, (low, high) in (("rate_hz", self.rate_hz, _RATES_HZ), ("scale_g", self.scale_g, _SCALES_G)):
            if not low <= value <= high:
                raise _refusal(field, value)
        if self.samples.dtype != np.int16 or self.samples.ndim != 1 or not len(self.samples):
            shape = "x".join(str(length) for length in self.samples.shape)
            raise WaveformError(f"samples: must be a row of one or more int16; got {shape} {self.samples.dtype}")

    @property
    def acceleration_g(self) -> NDArray[np.float64]:
        """The samples in g."""
        return self.samples.astype(np.float64) * self.scale_g


def encode(burst: Burst) -> bytes:
    r"""Return the bytes of a burst.

    Raises
    ------
    WaveformError
        When they would be more than `MAX_BYTES`.

    Examples
    --------
    >>> at = datetime(2026, 3, 1, 8, 15, tzinfo=UTC)
    >>> encode(Burst(at, "bearing_de", "radial", 12800.0, 0.0005, np.array([1, -2], np.int16)))
    b'{"t":"2026-03-01T08:15:00.000Z","point":"bearing_de","axis":"radial","rate_hz":12800.0,"scale_g":0.0005,"n":2}\n\x01\x00\xfe\xff'
    """
    header = {
        "t": burst.t.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "point": burst.point,
        "axis": burst.axis,
        "rate_hz": burst.rate_hz,
        "scale_g": burst.scale_g,
        "n": len(burst.samples),
    }
    payload = msgspec.json.encode(header) + b"\n" + burst.samples.astype(_SAMPLE).tobytes()
    _check_size(payload)
    return payload


def decode(payload: bytes) -> Burst:
    """Return the burst that `encode` made these bytes from; fields the header has beyond ours are passed over.

    Raises
    ------
    WaveformError
        Naming the field, what was allowed and what came.
    """
    _check_size(payload)
    line, feed, data = payload.partition(b"\n")
    if not feed:
        raise WaveformError("header: must be one line of JSON that ends with a line feed; got no line feed")
    document = _load_json(line)
    if not isinstance(document, dict):
        raise WaveformError(f"header: must be a JSON object; got {_short(document)}")
    header = {field: _convert(document, field) for field in _FIELDS}
    n = header.pop("n")
    if len(data) != n * _SAMPLE.itemsize:
        raise WaveformError(f"n: {_short(n)} samples must be followed by twice as many bytes; got {len(data)}")
    return Burst(**header, samples=np.frombuffer(data, _SAMPLE).astype(np.int16, copy=False))


def burst_path(gate_id: str, component: str, point: str, t: datetime) -> PurePosixPath:
    """Return where a dataset keeps the burst that began at ``t`` (aware), relative to the dataset.

    Raises
    ------
    WaveformError
        When a name could lead elsewhere.

    Examples
    --------
    >>> str(burst_path("DSH-S1-G1", "motor", "bearing_de", datetime(2026, 3, 1, 8, 15, tzinfo=UTC)))
    'waveforms/DSH-S1-G1/motor.bearing_de/1772352900000.bin'
    """
    for field, name in (("gate_id", gate_id), ("component", component), ("point", point)):
        if not ID_PATTERN.match(name):
            raise WaveformError(f"{field}: must be {_NAME}; got {_short(name)}")
    epoch_ms = (t - _EPOCH) // _MILLISECOND
    return PurePosixPath("waveforms", gate_id, f"{component}.{point}", f"{epoch_ms}.bin")


def _check_size(payload: bytes) -> None:
    if len(payload) > MAX_BYTES:
        raise WaveformError(f"a burst may have {MAX_BYTES} bytes; got {len(payload)}")


def _load_json(line: bytes) -> Any:
    """Parse the header, letting NaN and Infinity pass, so that the refusal can name the field."""
    try:
        return json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise WaveformError(f"header: must be JSON in UTF-8; {error}") from None


def _convert(document: dict[str, Any], field: str) -> Any:
    if field not in document:
        raise WaveformError(f"{field}: must be {_FIELDS[field][1]}; got nothing")
    try:
        value = msgspec.convert(document[field], _FIELDS[field][0])
        return value.astimezone(UTC) if field == "t" else value
    except (ValueError, OverflowError):  # half a surrogate pair; an offset that leads out of the years 1..9999
        raise _refusal(field, document[field]) from None


def _refusal(field: str, value: Any) -> WaveformError:
    return WaveformError(f"{field}: must be {_FIELDS[field][1]}; got {_short(value)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
