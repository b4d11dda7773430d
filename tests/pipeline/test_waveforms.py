"""The burst format: the bytes written down by hand, there and back again, and what is refused."""

import json
import struct
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.waveforms import MAX_BYTES, Burst, WaveformError, burst_path, decode, encode

AT = datetime(2026, 3, 1, 8, 15, 0, 250_000, tzinfo=UTC)
HEADER = {"t": "2026-03-01T08:15:00.250Z", "point": "bearing_de", "axis": "radial", "rate_hz": 12800.0, "scale_g": 0.0005, "n": 3}
GOLDEN = (
    b'{"t":"2026-03-01T08:15:00.250Z","point":"bearing_de","axis":"radial","rate_hz":12800.0,"scale_g":0.0005,"n":3}\n'
    + struct.pack("<3h", -32768, 1, 32767)
)

names = st.from_regex(r"[A-Za-z0-9_-]{1,128}", fullmatch=True)
rates_hz, scales_g = st.floats(1.0, 1e7), st.floats(1e-15, 1e3)
instants = st.datetimes(timezones=st.just(UTC)).map(lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000))
sample_lists = st.lists(st.integers(-32768, 32767), min_size=1, max_size=50)
bursts = st.builds(
    Burst, instants, names, st.just("") | names, rates_hz, scales_g, sample_lists.map(lambda xs: np.array(xs, np.int16))
)


def burst_of(*samples: int) -> Burst:
    return Burst(AT, "bearing_de", "radial", 12800.0, 0.0005, np.array(samples, np.int16))


def payload_of(**changes: Any) -> bytes:
    """Three samples under a header in which fields are changed; None leaves a field out."""
    header = {field: value for field, value in (HEADER | changes).items() if value is not None}
    return json.dumps(header).encode() + b"\n" + bytes(6)


def fields_of(burst: Burst) -> tuple[Any, ...]:
    return burst.t, burst.point, burst.axis, burst.rate_hz, burst.scale_g, burst.samples.dtype, burst.samples.tolist()


def test_a_burst_becomes_the_bytes_written_down_by_hand() -> None:
    assert encode(burst_of(-32768, 1, 32767)) == GOLDEN


def test_the_bytes_written_down_by_hand_become_a_burst() -> None:
    burst = decode(GOLDEN)

    assert fields_of(burst) == fields_of(burst_of(-32768, 1, 32767))
    assert burst.acceleration_g.tolist() == pytest.approx([-16.384, 0.0005, 16.3835])


@given(bursts)
def test_a_burst_survives_the_journey(burst: Burst) -> None:
    assert fields_of(decode(encode(burst))) == fields_of(burst)


def test_a_line_feed_among_the_samples_does_not_end_the_header_again() -> None:
    burst = burst_of(0x0A0A, 0x0A0A)

    assert decode(encode(burst)).samples.tolist() == [2570, 2570]


def test_an_offset_is_turned_into_utc_and_unknown_fields_are_passed_over() -> None:
    burst = decode(payload_of(t="2026-03-01T16:15:00.250+08:00", seq=7))

    assert (burst.t, burst.t.utcoffset()) == (AT, timedelta(0))


@given(st.binary(max_size=200) | st.binary(max_size=20).map(lambda data: GOLDEN[:-10] + data))
def test_any_bytes_are_a_burst_or_refused(data: bytes) -> None:
    try:
        burst = decode(data)
    except WaveformError:
        return

    assert fields_of(decode(encode(burst))) == fields_of(burst)


@pytest.mark.parametrize("field", list(HEADER))
def test_a_field_that_is_missing_is_named(field: str) -> None:
    with pytest.raises(WaveformError, match=rf"^{field}: must be .*; got nothing"):
        decode(payload_of(**{field: None}))


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("t", "2026-03-01T08:15:00", r"RFC 3339 with an offset.*got '2026-03-01T08:15:00'"),
        ("t", 1772352900250, r"RFC 3339 with an offset.*got 1772352900250"),
        ("t", "0001-01-01T00:00:00+08:00", r"RFC 3339 with an offset.*got '0001-01-01T00:00:00\+08:00'"),
        ("point", 3, r"a string of 1 to 128 .*got 3"),
        ("point", "", r"a string of 1 to 128 .*got ''"),
        ("point", "../../etc", r"a string of 1 to 128 .*got '\.\./\.\./etc'"),
        ("axis", "radial\n", r"empty or a string .*got 'radial\\n'"),
        ("rate_hz", "12800", r"a number from 1 to 10,000,000; got '12800'"),
        ("rate_hz", True, r"a number from 1 to 10,000,000; got True"),
        ("rate_hz", 0.0, r"a number from 1 to 10,000,000; got 0\.0"),
        ("rate_hz", float("inf"), r"a number from 1 to 10,000,000; got inf"),
        ("rate_hz", 10**400, r"a number from 1 to 10,000,000; got 1000"),
        ("scale_g", -0.0005, r"a number above 0, at most 1,000; got -0\.0005"),
        ("scale_g", float("nan"), r"a number above 0, at most 1,000; got nan"),
        ("n", 0, r"a whole number of samples, 1 or more; got 0"),
        ("n", -3, r"a whole number of samples, 1 or more; got -3"),
        ("n", 3.5, r"a whole number of samples, 1 or more; got 3\.5"),
        ("n", "3", r"a whole number of samples, 1 or more; got '3'"),
    ],
)
def test_a_field_that_cannot_be_is_named_with_what_was_allowed_and_what_came(field: str, value: Any, told: str) -> None:
    with pytest.raises(WaveformError, match=rf"^{field}: must be {told}"):
        decode(payload_of(**{field: value}))


@pytest.mark.parametrize("n", [2, 4, 10**30])
def test_a_count_that_disagrees_with_the_bytes_is_refused(n: int) -> None:
    with pytest.raises(WaveformError, match=rf"^n: {n} samples must be followed by twice as many bytes; got 6"):
        decode(payload_of(n=n))


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (b"", "one line of JSON that ends with a line feed; got no line feed"),
        (json.dumps(HEADER).encode(), "one line of JSON that ends with a line feed; got no line feed"),
        (b"\n", "JSON in UTF-8"),
        (b"not json\n", "JSON in UTF-8"),
        (b'{"t": "\xff"}\n', "JSON in UTF-8"),
        (b"[" * 100_000 + b"\n", "JSON in UTF-8"),
        (b"[1, 2]\n", r"a JSON object; got \[1, 2\]"),
    ],
)
def test_a_header_that_is_none_is_refused(payload: bytes, told: str) -> None:
    with pytest.raises(WaveformError, match=rf"^header: must be {told}"):
        decode(payload)


def test_256_kilobytes_pass_and_one_sample_more_does_not() -> None:
    most = (MAX_BYTES - len(encode(burst_of(0))) - len("130000") + len("1")) // 2 + 1
    largest = replace(burst_of(0), samples=np.zeros(most, np.int16))
    one_more = replace(burst_of(0), samples=np.zeros(most + 1, np.int16))

    assert MAX_BYTES == 256 * 1024
    assert len(encode(largest)) in (MAX_BYTES - 1, MAX_BYTES)
    assert len(decode(encode(largest)).samples) == most
    with pytest.raises(WaveformError, match="a burst may have 262144 bytes; got 26214"):
        encode(one_more)
    with pytest.raises(WaveformError, match="a burst may have 262144 bytes; got 262145"):
        decode(bytes(MAX_BYTES + 1))


@pytest.mark.parametrize("t", [AT.replace(tzinfo=None), AT.astimezone(timezone(timedelta(hours=8)))])
def test_a_burst_knows_its_time_in_utc_or_is_none(t: datetime) -> None:
    with pytest.raises(WaveformError, match="^t: must be an aware datetime in UTC; got 2026-03-01T"):
        replace(burst_of(1), t=t)


@pytest.mark.parametrize("samples", [np.zeros(3), np.zeros((2, 2), np.int16), np.zeros(0, np.int16)])
def test_samples_are_a_row_of_int16_or_no_burst(samples: Any) -> None:
    with pytest.raises(WaveformError, match="^samples: must be a row of one or more int16; got "):
        replace(burst_of(1), samples=samples)


def test_a_burst_lies_under_its_gate_component_point_and_millisecond() -> None:
    path = burst_path("DSH-S1-G1", "motor", "bearing_de", datetime(1970, 1, 2, 0, 0, 1, 5_999, tzinfo=UTC))

    assert path == PurePosixPath("waveforms/DSH-S1-G1/motor.bearing_de/86401005.bin")


@pytest.mark.parametrize("field", ["gate_id", "component", "point"])
@pytest.mark.parametrize("name", ["", "..", "a/b", "a.b", "a\n"])
def test_a_name_that_could_lead_elsewhere_names_no_file(field: str, name: str) -> None:
    parts = {"gate_id": "G1", "component": "motor", "point": "bearing_de"} | {field: name}

    with pytest.raises(WaveformError, match=rf"^{field}: must be a string"):
        burst_path(**parts, t=AT)
