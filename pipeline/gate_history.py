"""One gate's history as it is given, and what it holds up to an instant: operations by column, days, records and cycles.

No network, database or clock. What the histories of several gates show is in `pipeline.gate_view`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache

import numpy as np
import pandas as pd

from pipeline.channel_days import GateDays
from pipeline.cycles import Cycles, Records
from pipeline.operations import CONTEXT, SHOCKS
from pipeline.readings import quantity_of

GROUPS: dict[str, tuple[str, ...]] = {
    "velocity": ("velocity_rms",),
    "acceleration": ("acceleration_rms",),
    "impulse": SHOCKS,
    "peak": ("acceleration_peak",),
    "temperature": ("temperature",),
    "current": ("current",),
}
"""Kinds of evidence; the channels of one group of one component are fused, the strongest counting."""

OWN_GROUPS = ("velocity", "high", "acceleration", "peak", "impulse", "temperature")
ALL_GROUPS = (*OWN_GROUPS, "current")
_GROUP_OF = {quantity: group for group, quantities in GROUPS.items() for quantity in quantities}

ALWAYS = ("started_ms", "minutes", *CONTEXT)
"""Columns that operations have, also where nothing was measured."""


@dataclass(frozen=True, slots=True)
class GateHistory:
    """What is known of one gate.

    Attributes
    ----------
    operations, days : DataFrame
        As `pipeline.operations.Segmented` gives them.
    maintenance : its records
    intervals_s : expected reporting intervals at rest, by channel, where declared
    commissioned_on : the day the gate went into service, where known
    first_day_ms : the first day of the gate's record, where `days` are not the whole of it (see `needed_spans`)
    """

    gate_id: str
    components: tuple[str, ...]
    hoist_type: str
    operations: pd.DataFrame
    days: pd.DataFrame
    maintenance: Records
    intervals_s: Mapping[str, float] = field(default_factory=dict)
    commissioned_on: date | None = None
    first_day_ms: int | None = None


class KnownGate:
    """What one gate's history holds up to the last as_of."""

    def __init__(self, history: GateHistory, at: np.ndarray) -> None:
        self.history = history
        operations = history.operations
        if missing := [name for name in ALWAYS if name not in operations]:
            operations = operations.reindex(columns=[*operations.columns, *missing])
        names = tuple(operations.columns)
        self.place = {name: place for place, name in enumerate(names)}
        values = operations.to_numpy(dtype=float).T
        started = values[self.place["started_ms"]].astype(np.int64)
        n = int(np.searchsorted(started, at[-1], side="left"))
        self.values, self.started = values[:, :n], started[:n]
        self.current = next((name for name in sorted(names) if name.endswith("current:mean")), None)
        self.evidence = _evidence(names)
        day_ms = history.days["day_ms"].to_numpy(dtype=np.int64)
        n_days = int(np.searchsorted(day_ms, at[-1], side="left"))
        self.days, self.day_ms = history.days.iloc[:n_days], day_ms[:n_days]
        self.first_day_ms = _first_day(history, self.day_ms, int(at[-1]))
        self.cycles = Cycles(history.maintenance, self.first_day_ms, at)

    def judged_by(self) -> GateDays:
        """What its sensors are judged by."""
        return GateDays(self.days, self.started, lambda part, at_ms: self.cycles.at(part, at_ms)[0], self.history.intervals_s)

    def columns(self, component: str, groups: Sequence[str]) -> list[tuple[int, str, str]]:
        """Place of the component, group and name of its columns of evidence; none of what is no component of the gate."""
        return [
            (place, group, name)
            for place in [place for place, part in enumerate(self.history.components) if part == component]
            for group, names in self.evidence.get(component, {}).items()
            if group in groups
            for name in names
        ]


@lru_cache(maxsize=256)
def _evidence(names: tuple[str, ...]) -> dict[str, dict[str, list[str]]]:
    """The columns of operations that are evidence, by component and group; gates of one make have the same."""
    columns: dict[str, dict[str, list[str]]] = {}
    for name in names:
        key, _, told = name.partition(":")
        quantity = quantity_of(key)
        group = _GROUP_OF.get(quantity, "")
        if not group:
            continue
        of_component = columns.setdefault(key.split(".")[0], {})
        if told == "high" and quantity == "velocity_rms":
            of_component.setdefault("high", []).append(name)
        elif told in ("mean", "max"):
            of_component.setdefault(group, []).append(name)
    return columns


def _first_day(history: GateHistory, day_ms: np.ndarray, until_ms: int) -> int:
    first_ms = history.first_day_ms
    if first_ms is None:
        first_ms = int(day_ms.min()) if len(day_ms) else until_ms
    return min(first_ms, until_ms)
