"""Bench of the simulator: seconds for a dataset folder, and how they grow with the number of gates."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.errors import BadInput
from pipeline.simulator import write_dataset
from service.bench.report import Figure


def bench_simulate(
    gates: int = 24, days: int = 60, repeats: int = 3, progress: Callable[[int, int], None] | None = None
) -> list[Figure]:
    """Measure a quarter of the gates, half of them and all of them in turn, each in one process."""
    sizes = sorted({max(1, gates // 4), max(1, gates // 2), gates})
    if len(sizes) < 2:
        raise BadInput(f"gates: how time grows needs at least 2; got {gates}")
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    for number in range(repeats * len(sizes)):
        size = sizes[number % len(sizes)]
        seconds[size].append(_measure(size, days))
        if progress is not None:
            progress(number + 1, repeats * len(sizes))
    plain = [Figure("simulate", f"{size} gates x {days} days", "s", tuple(seconds[size])) for size in sizes]
    per_repeat = zip(*seconds.values(), strict=True)
    slopes = tuple(float(np.polyfit(np.log(sizes), np.log(taken), 1)[0]) for taken in per_repeat)
    named = f"e in time ~ gates^e, slope on logarithmic scales over {', '.join(map(str, sizes))} gates"
    return [*plain, Figure("simulate", named, "exponent", slopes)]


def _measure(gates: int, days: int) -> float:
    with tempfile.TemporaryDirectory(prefix="sluicewatch-bench-") as name:
        started = time.perf_counter()
        write_dataset(Path(name) / "fleet", gates=gates, days=days, seed=1)
        return time.perf_counter() - started
