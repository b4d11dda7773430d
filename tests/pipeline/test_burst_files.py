"""Raw bursts as files: whole, once each, found by gate and time, gone when they are old."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline import burst_files
from pipeline.waveforms import burst_path

MARCH = datetime(2026, 3, 1, tzinfo=UTC)
MARCH_MS = 1_772_323_200_000


def put(folder: Path, payload: bytes = b"abc", gate_id: str = "G1", hours: float = 0.0) -> str:
    path = burst_path(gate_id, "motor", "bearing_de", MARCH + timedelta(hours=hours))
    burst_files.keep(folder, [(path, payload)])
    return str(path)


def test_of_two_at_one_place_the_same_stays_whatever_the_order(tmp_path: Path) -> None:
    for folder, order in ((tmp_path / "a", (b"abc", b"abd")), (tmp_path / "b", (b"abd", b"abc"))):
        for payload in order:
            path = put(folder, payload)

        assert (folder / path).read_bytes() == b"abd"
    assert [file.name for file in (tmp_path / "a").rglob("*") if file.is_file()] == [f"{MARCH_MS}.bin"]


def test_they_are_found_by_gate_and_time(tmp_path: Path) -> None:
    first, second = put(tmp_path), put(tmp_path, hours=1)
    put(tmp_path, gate_id="G2")

    found = burst_files.taken(tmp_path, "G1", MARCH_MS, MARCH_MS + 3_600_000)

    assert found == [(MARCH_MS, first), (MARCH_MS + 3_600_000, second)]
    assert burst_files.taken(tmp_path, "G1", MARCH_MS + 1, MARCH_MS + 3_599_999) == []
    assert burst_files.taken(tmp_path / "nothing", "G1", 0, MARCH_MS) == []


def test_the_old_go_and_their_empty_folders_with_them(tmp_path: Path) -> None:
    put(tmp_path, gate_id="G2")
    put(tmp_path)
    stays = put(tmp_path, hours=1)

    assert burst_files.expire(tmp_path, MARCH_MS + 3_600_000) == 2

    assert [file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.bin")] == [stays]
    assert not (tmp_path / "waveforms" / "G2" / "motor.bearing_de").exists()
