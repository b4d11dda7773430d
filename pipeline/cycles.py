"""Maintenance cycles: since when is a component as good as new, and is it in order? No network, database or clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from pipeline.readings import DAY_MS

BASELINE_DAYS = 30
"""The first days of a cycle, with which a component is compared."""

OPEN_REPAIR_DAYS = 7
"""A repair whose end is not on record counts as ended after this long."""

WITHOUT_REPAIR_DAYS = 30
"""A failure with no repair on record for this long is taken as mended one day after it."""


def cycle_state(maintenance: Records, component: str, record_start_ms: int, at_ms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """When the component's present cycle started, and whether it is out of order, as of each instant.

    A component is as new from the end of a repair or replacement of it (or of the whole gate). As of T only an end before
    T is known; a repair whose end is not is under way for 7 days and counts as ended then. After a failure the component
    is out of order until a repair starts; where none does for 30 days, it is taken as mended one day after the failure.

    Parameters
    ----------
    maintenance : those of the gate
    component : str
    record_start_ms : int
        Where no repair came before, the cycle starts with the record.
    at_ms : array of int64, sorted

    Returns
    -------
    start_ms : array of int64
    out_of_order : array of bool
    """
    return _cycle_state(maintenance.concerning(component), record_start_ms, at_ms)


@dataclass(frozen=True, slots=True)
class Records:
    """Maintenance records as arrays, in their order; an end that is not known is the greatest of all instants."""

    component: np.ndarray
    kind: np.ndarray
    started_ms: np.ndarray
    ended_ms: np.ndarray

    @classmethod
    def of(cls, maintenance: pd.DataFrame) -> Records:
        """From columns ``component`` (``""`` is the whole gate), ``kind``, ``started_at``, ``ended_at`` (UTC, NaT allowed)."""
        ended_ms = ms_column(maintenance["ended_at"])
        return cls(
            maintenance["component"].to_numpy(dtype=object),
            maintenance["kind"].to_numpy(dtype=object),
            ms_column(maintenance["started_at"]),
            np.where(ended_ms == _NOT_A_TIME, np.iinfo(np.int64).max, ended_ms),
        )

    def concerning(self, component: str) -> Records:
        """Those of the component and of the whole gate."""
        return self.only((self.component == component) | (self.component == ""))

    def only(self, kept: np.ndarray | slice) -> Records:
        """Some of them."""
        return Records(self.component[kept], self.kind[kept], self.started_ms[kept], self.ended_ms[kept])


_NOT_A_TIME = np.datetime64("NaT", "ms").astype(np.int64)


def _cycle_state(own: Records, record_start_ms: int, at_ms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mended = own.only((own.kind == "repair") | (own.kind == "replacement"))
    start_ms = np.full(len(at_ms), record_start_ms, dtype=np.int64)
    out_of_order = np.zeros(len(at_ms), dtype=bool)
    for repair_ms, end_ms in zip(mended.started_ms, mended.ended_ms, strict=True):
        under_way = (repair_ms < at_ms) & (end_ms >= at_ms)
        overdue_ms = repair_ms + OPEN_REPAIR_DAYS * DAY_MS
        out_of_order |= under_way & (at_ms <= overdue_ms)
        start_ms = np.where(end_ms < at_ms, np.maximum(start_ms, end_ms), start_ms)
        start_ms = np.where(under_way & (at_ms > overdue_ms), np.maximum(start_ms, overdue_ms), start_ms)
    for failed_ms in own.started_ms[own.kind == "failure"]:
        following = mended.started_ms[mended.started_ms >= failed_ms]
        waiting = (failed_ms < at_ms) & (at_ms <= (following.min() if len(following) else np.iinfo(np.int64).max))
        given_up = at_ms > failed_ms + WITHOUT_REPAIR_DAYS * DAY_MS
        out_of_order |= waiting & ~given_up
        start_ms = np.where(waiting & given_up, np.maximum(start_ms, failed_ms + DAY_MS), start_ms)
    return start_ms, out_of_order


class Cycles:
    """The cycles of a gate's components as of every midnight up to the last of some; those with the same records share them."""

    def __init__(self, records: Records, first_day_ms: int, at: np.ndarray) -> None:
        self._records = records
        self._first_day_ms = first_day_ms
        self._origin = min(first_day_ms, int(at[0]))
        self._midnights_ms = np.arange(self._origin, at[-1] + 1, DAY_MS)
        self._known: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
        self._keys: dict[str, tuple[int, ...]] = {}

    def key(self, component: str) -> tuple[int, ...]:
        """The same for components with the same cycles."""
        if component not in self._keys:
            records = self._records
            told = (records.kind == "repair") | (records.kind == "replacement") | (records.kind == "failure")
            own = (records.component == component) | (records.component == "")
            self._keys[component] = tuple(np.flatnonzero(told & own).tolist())
        return self._keys[component]

    def at(self, component: str, at_ms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `cycle_state`; at midnights up to the last."""
        key = self.key(component)
        if key not in self._known:
            own = self._records.only(np.array(key, dtype=np.int64))
            self._known[key] = _cycle_state(own, self._first_day_ms, self._midnights_ms)
        start_ms, out_of_order = self._known[key]
        place = (at_ms - self._origin) // DAY_MS
        return start_ms[place], out_of_order[place]

    def starts(self, component: str) -> list[int]:
        """Every start of a cycle that some midnight of the record knew of, rising."""
        start_ms, _ = self.at(component, self._midnights_ms[self._midnights_ms >= self._first_day_ms])
        return sorted(set(start_ms.tolist()))


def whole_cycle_before(cycle_starts_ms: Sequence[int], cycle_ms: int) -> int | None:
    """Start of the last earlier cycle that got a whole baseline; None where there is none."""
    followed = pairwise(cycle_starts_ms)
    earlier = [start for start, end in followed if end <= cycle_ms and end - start >= BASELINE_DAYS * DAY_MS]
    return earlier[-1] if earlier else None


def ms_column(instants: pd.Series) -> np.ndarray:
    return instants.to_numpy(dtype="datetime64[ms]").astype(np.int64)
