"""Bench of the simulator: seconds for a dataset folder, how they grow with the number of gates, and the memory it takes."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.errors import BadInput
from pipeline.simulator import write_dataset
from service.bench.report import Figure


def bench_simulate(
    gates: int = 24, days: int = 60, repeats: int = 3, jobs: int = 1, progress: Callable[[int, int], None] | None = None
) -> list[Figure]:
    """Measure an eighth of the gates, a quarter, half and all of them in turn."""
    sizes = sorted({max(1, gates // 8), max(1, gates // 4), max(1, gates // 2), gates})
    if len(sizes) < 2:
        raise BadInput(f"gates: how time grows needs at least 2; got {gates}")
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    for number in range(repeats * len(sizes)):
        size = sizes[number % len(sizes)]
        seconds[size].append(_measure(size, days, jobs))
        if progress is not None:
            progress(number + 1, repeats * len(sizes))
    plain = [Figure("simulate", f"{size} gates x {days} days", "s", tuple(seconds[size])) for size in sizes]
    per_repeat = zip(*seconds.values(), strict=True)
    slopes = tuple(float(np.polyfit(np.log(sizes), np.log(taken), 1)[0]) for taken in per_repeat)
    named = f"e in time ~ gates^e, slope on logarithmic scales over {', '.join(map(str, sizes))} gates"
    return [
        *plain,
        Figure("simulate", named, "exponent", slopes),
        Figure("simulate", "memory, greatest of all", "MB", (peak_mb(jobs),)),
    ]


def _measure(gates: int, days: int, jobs: int) -> float:
    with tempfile.TemporaryDirectory(prefix="sluicewatch-bench-") as name:
        started = time.perf_counter()
        write_dataset(Path(name) / "fleet", gates=gates, days=days, seed=1, jobs=jobs)
        return time.perf_counter() - started


def peak_mb(jobs: int) -> float:
    """Peak memory of this process and of as many children as there were, each taken for the largest."""
    own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return float((own + (jobs * child if jobs > 1 else 0)) / 1024)
