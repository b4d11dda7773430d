"""Why a component is forecast what it is: which evidence moved it, what it shows, and what its peers show. No clock, no database.

Evidence is told in groups: a component's own (`pipeline.features.OWN_GROUPS`), the gate's ``current``, what its ``others``
(the gate's other components) show, and its ``history`` (records, age, duty, data quality). The contribution of a group is how
much lower the log-odds of ``p_14d`` would be had all of the group shown what is typical: the median over the rows learnt from.

The median, and not "unknown", stands for typical in both halves of the forecaster. For the logistic regressions they are the
same. For the trees they are not: unknown is what gates without that sensor are, and a forecast for a poorer station would
answer another question than what this evidence did. What the row does not know stays unknown: it moved nothing.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd

from models.labels import FloatArray
from pipeline.features import COMPONENT_KINDS, OWN_GROUPS, Measured

GROUPS = (*OWN_GROUPS, "current", "others", "history")

FEWEST_PEERS = 5
PEER_RANGE = (0.1, 0.9)

_RANKED = (("own_z", "z"), ("own_t", "t_7d"), ("gate_z", "z"), ("gate_t", "t_7d"))
"""Features that hold the three greatest of a component or gate, and of what."""

Key = tuple[str, str]
"""A gate and one of its components."""

Row = Mapping[Hashable, Any]


class Explainable(Protocol):
    """What is needed of a forecaster; `models.forecast.Forecaster` is one."""

    def typical(self) -> Mapping[str, float]:
        """The median of every feature that matters over the rows learnt from."""

    def log_odds_14d(self, rows: pd.DataFrame) -> FloatArray:
        """Log-odds of ``p_14d`` of component rows, shape (rows,)."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One group of evidence about one component.

    Attributes
    ----------
    feature : component and group, ``motor.velocity``
    contribution : what the group added to the log-odds of ``p_14d`` (negative: it spoke for the component)
    change : what was shown against the component's own baseline: a multiple (``change_unit`` ``x``) or kelvin beyond it
        (``K``); None for groups that are not measured
    direction : of the change
    peer_low, peer_high : the 10 and 90 % quantile of the same change over other gates of the hoist type on that day, None
        where fewer than 5 are known
    channel, value, baseline, unit : column of operations, what it showed and what the own baseline explains; see
        `pipeline.features.Measured`
    since, as_of : the first day whose operations count; nothing from ``as_of`` on was used
    """

    feature: str
    contribution: float
    change: float | None
    change_unit: Literal["x", "K"] | None
    direction: Literal["up", "down"] | None
    peer_low: float | None
    peer_high: float | None
    channel: str | None
    value: float | None
    baseline: float | None
    unit: str | None
    since: datetime | None
    as_of: datetime


def explain(
    forecaster: Explainable, rows: pd.DataFrame, peers: pd.DataFrame, measured: Mapping[Key, Mapping[str, Measured]]
) -> dict[Key, tuple[Evidence, ...]]:
    """Evidence of some components on one day, the strongest contribution first.

    Parameters
    ----------
    rows : DataFrame, one row per (gate_id, component), as `Forecaster.predict` takes them; rows without forecast are left out
    peers : DataFrame, the rows of all gates known on the same day, any components and hoist types
    measured : per gate and component, what `pipeline.features.shown_and_expected` tells
    """
    asked = [row for row in rows.to_dict("records") if not row["reason"]]
    devs = [name for group in GROUPS if (name := f"{group}_dev") in peers]
    known = peers.loc[peers["reason"] == "", ["gate_id", "hoist_type", "component", *devs]]
    alike = dict(iter(known.groupby(["hoist_type", "component"])))
    found: dict[Key, tuple[Evidence, ...]] = {}
    for row, moved in zip(asked, contributions(forecaster, asked), strict=True):
        key = (str(row["gate_id"]), str(row["component"]))
        same = alike.get((row["hoist_type"], row["component"]), known.head(0))
        others = same[same["gate_id"] != row["gate_id"]]
        items = [_item(row, group, moved[group], others, measured.get(key, {}).get(group)) for group in moved]
        found[key] = tuple(sorted(items, key=lambda item: -item.contribution))
    return found


def _item(row: Row, group: str, contribution: float, others: pd.DataFrame, measured: Measured | None) -> Evidence:
    dev = _number(row, f"{group}_dev")
    low, high = _peer_range(others, group)
    return Evidence(
        feature=f"{row['component']}.{group}",
        contribution=contribution,
        change=None if math.isnan(dev) else float(_change(dev, group)),
        change_unit=None if math.isnan(dev) else "K" if group == "temperature" else "x",
        direction=None if math.isnan(dev) else "up" if dev > 0 else "down",
        peer_low=low,
        peer_high=high,
        channel=measured.column if measured else None,
        value=measured.shown if measured else None,
        baseline=measured.expected if measured else None,
        unit=measured.unit if measured else None,
        since=measured.since if measured else None,
        as_of=row["as_of"].to_pydatetime(),
    )


def _change(dev: Any, group: str) -> Any:
    return dev if group == "temperature" else np.exp(dev)


def _peer_range(others: pd.DataFrame, group: str) -> tuple[float | None, float | None]:
    if f"{group}_dev" not in others:
        return None, None
    devs = others[f"{group}_dev"].dropna().to_numpy(dtype=float)
    if len(devs) < FEWEST_PEERS:
        return None, None
    low, high = np.quantile(_change(devs, group), PEER_RANGE)
    return float(low), float(high)


def contributions(forecaster: Explainable, rows: Sequence[Row]) -> list[dict[str, float]]:
    """For each row, what every group of which something is known added to the log-odds of its ``p_14d``."""
    typical = forecaster.typical()
    asked: list[Row] = []
    places: list[tuple[int, dict[str, int]]] = []
    for row in rows:
        without = {group: with_typical(row, group, typical) for group in GROUPS}
        first = len(asked)
        known = [group for group in GROUPS if without[group] is not None]
        places.append((first, {group: first + 1 + place for place, group in enumerate(known)}))
        asked += [row, *(changed for changed in without.values() if changed is not None)]
    if not asked:
        return []
    log_odds = forecaster.log_odds_14d(pd.DataFrame(asked))
    return [{group: float(log_odds[first] - log_odds[at]) for group, at in of.items()} for first, of in places]


def with_typical(row: Row, group: str, typical: Mapping[str, float]) -> dict[Hashable, Any] | None:
    """The row had all of a group's evidence been typical; None where it knows nothing of the group.

    Where a value of the group was among the three greatest of its component or gate, it gives way there, too; which was the
    fourth, the row does not know.
    """
    component, with_velocity = str(row["component"]), not math.isnan(_number(row, "velocity_dev"))
    of_group = _by_group(tuple(typical), component, with_velocity).get(group, ())
    columns = [name for name in of_group if not math.isnan(_number(row, name))]
    changed = dict(row)
    changed.update((name, typical[name]) for name in columns)
    for prefix, ending in _RANKED:
        ranks = [f"{prefix}_{rank}" for rank in (1, 2, 3) if not math.isnan(_number(row, f"{prefix}_{rank}"))]
        own = {_number(row, f"{one}_{ending}") for one in (*OWN_GROUPS, "current")}
        values = []
        for name in ranks:
            value = _number(row, name)
            if group == "others":
                spoken_by = prefix.startswith("gate") and value not in own
                value = typical.get(name, value) if spoken_by else value
            elif value == _number(row, f"{group}_{ending}"):
                value = typical.get(f"{group}_{ending}", value)
            values.append(value)
        changed.update(zip(ranks, sorted(values, reverse=True), strict=True))
    return changed if columns or changed != row else None


@lru_cache(maxsize=64)
def _by_group(features: tuple[str, ...], component: str, with_velocity: bool) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name in features:
        group = group_of(name, component, with_velocity)
        found[group] = (*found.get(group, ()), name)
    return found


def group_of(feature: str, component: str, with_velocity: bool) -> str:
    """The group of evidence of a feature of a component's row; ``""`` for ranks and for what says which machine it is.

    Examples
    --------
    >>> [group_of(name, "motor", True) for name in ("velocity_dev", "motor_peak_z", "brake_peak_z", "load_7d")]
    ['velocity', 'peak', 'others', 'history']
    """
    if feature.startswith(("is_", "hoist_", *(f"{prefix}_" for prefix, _ in _RANKED))):
        return ""
    if feature.startswith("vibration_"):  # of velocity where there is one: see `pipeline.features.build`
        return "velocity" if with_velocity or feature == "vibration_level_mm_s" else "acceleration"
    kind = next((kind for kind in COMPONENT_KINDS if feature.startswith(f"{kind}_")), "")
    if kind and kind != component:
        return "others"
    of = feature.removeprefix(f"{kind}_")
    return next((group for group in (*OWN_GROUPS, "current") if of.startswith(f"{group}_")), "history")


def _number(row: Row, name: str) -> float:
    """A cell of a row; NaN where it is absent or not finite."""
    value = float(row.get(name, math.nan))
    return value if math.isfinite(value) else math.nan
