"""The gates of a fleet shared among processes. The order of the results, and so the bytes, do not depend on how many."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from pipeline.simulator.fleet import Fleet

Result = TypeVar("Result")


def each_gate(work: Callable[..., Result], fleet: Fleet, jobs: int, *args: Any) -> Iterator[Result]:
    """Call ``work(fleet, gate_id, *args)`` for every gate, in the order of the fleet."""
    jobs = min(jobs, len(fleet.gates))
    if jobs == 1:
        for gate_id in fleet.gate_ids:
            yield work(fleet, gate_id, *args)
        return
    # spawned, not forked: the caller may have threads
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        waiting = [pool.submit(work, fleet, gate_id, *args) for gate_id in fleet.gate_ids]
        for future in waiting:
            yield future.result()
