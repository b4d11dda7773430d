"""Raw vibration bursts as files, for some days: what came by MQTT, byte for byte. No network, database or clock.

They lie as in a dataset's ``waveforms/`` folder, so that a folder of them beside the tables of an export is a dataset. What a
burst says is in the readings already; the files are for people who want to look for themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath


def keep(folder: Path, bursts: Iterable[tuple[PurePosixPath, bytes]]) -> None:
    """Write bursts, each to its path (`pipeline.waveforms.burst_path`) below the folder; they are on disk on return.

    Of two different ones at one path the greater stays, so that the order in which they come does not matter.
    """
    for path, payload in bursts:
        file = folder / path
        if file.exists() and file.read_bytes() >= payload:
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        with part.open("wb") as stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)


def expire(folder: Path, before_ms: int) -> int:
    """Remove the bursts that were taken before an instant (epoch ms); return how many there were."""
    old = [file for file in folder.glob("waveforms/*/*/*.bin") if _taken_ms(file) < before_ms]
    for file in old:
        file.unlink(missing_ok=True)
        with suppress(OSError):  # others are in it
            file.parent.rmdir()
    return len(old)


def taken(folder: Path, gate_id: str, start_ms: int, end_ms: int) -> list[tuple[int, str]]:
    """When (epoch ms) and where below the folder the bursts of a gate in ``[start_ms, end_ms]`` lie, in order of time."""
    found = ((_taken_ms(file), file) for file in folder.glob(f"waveforms/{gate_id}/*/*.bin"))
    return sorted((ms, file.relative_to(folder).as_posix()) for ms, file in found if start_ms <= ms <= end_ms)


def _taken_ms(file: Path) -> int:
    return int(file.stem)
