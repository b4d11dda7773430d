"""Bench of real data: open condition-monitoring data through the product's own import, indicators, baselines and features.

No public data of sluice gates, hoists, dams or cranes was found; these are a water loop with a pump and two bearing rigs. The
data are not part of the product: whoever has the archives in a folder can run it; what is not there is said and left out.

=======  ===================================================================================================================
`skab`   SKAB: which rows of 34 runs of a water loop are anomalous, by the benchmark's protocol, beside its leaderboard
`femto`  FEMTO/PRONOSTIA: which minutes are a bearing's last 30, one bearing left out at a time, beside age and RMS alone
`ims`    NASA IMS: how long before the end a failing bearing raises an alarm that stays, and what healthy ones raise
=======  ===================================================================================================================
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from service.bench.real.femto import bench_femto
from service.bench.real.folders import FEMTO, IMS, SKAB, open_archive
from service.bench.real.ims import bench_ims
from service.bench.real.skab import bench_skab
from service.bench.report import Figure

PARTS: Mapping[str, str] = {"skab": SKAB, "femto": FEMTO, "ims": IMS}
"""Parts and the archive each reads."""


def missing(data: Path) -> dict[str, str]:
    """The parts that cannot be run with what the folder holds, each with the reason."""
    return {part: f"{name} is not in {data}" for part, name in PARTS.items() if not (data / name).is_file()}


def bench_real(data: Path, parts: Sequence[str], progress: Callable[[int, int], None] | None = None) -> list[Figure]:
    """Measure some parts on the archives in a folder.

    Raises
    ------
    BadInput
        An archive is not there.
    """
    benches = {"skab": bench_skab, "femto": bench_femto, "ims": bench_ims}
    figures: list[Figure] = []
    for done, part in enumerate(parts, start=1):
        with open_archive(data, PARTS[part]) as archive, tempfile.TemporaryDirectory(prefix="sluicewatch-bench-") as name:
            figures += benches[part](archive, Path(name))
        if progress is not None:
            progress(done, len(parts))
    return figures
