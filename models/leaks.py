"""Does a feature look ahead? Rows made again without anything that came later must be the rows that teach.

A feature that knows the future shines in every test and warns of nothing in service. No clock, no network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from models.labels import epoch_ms
from pipeline import features
from pipeline.dataset import Dataset
from pipeline.errors import BadInput
from pipeline.readings import DAY_MS

TOLERANCE = 1e-9
GATES = 3
SINGLE_PRECISION = 1e-6
"""Rows that teach may be held in it."""


class LeakError(BadInput):
    """A feature that looks ahead, or rows that the dataset does not give; one line with its name."""


def refuse_leaks(
    dataset: Dataset,
    rows: pd.DataFrame,
    failures: Mapping[str, int],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Make some rows again, once from everything and once from what was there by then, and refuse any difference.

    Looked at are the three gates with most failures, each at a midnight before a failure and in the middle of its record.

    Parameters
    ----------
    rows : feature rows that are to teach, of whole records
    failures : number of failures of every gate

    Raises
    ------
    LeakError
        A feature, or the reason why there is no forecast, differs by more than 1e-9; or `rows` differ from what the
        dataset gives by more than single precision explains.
    """
    sample = sorted(failures, key=lambda gate_id: (-failures[gate_id], gate_id))[:GATES]
    for done, gate_id in enumerate(sample):
        if progress is not None:
            progress(done, len(sample))
        given = rows[rows["gate_id"] == gate_id]
        whole = features.from_dataset(dataset, gate_ids=[gate_id])
        for day in _days(dataset, gate_id, given["as_of"]):
            from_all = _as_of(whole, day)
            known_then = features.build(features.history_of(dataset, gate_id, before=day), [day])
            leak = _first_difference(from_all, _as_of(known_then, day))
            if leak is not None:
                name, component, now, then = leak
                raise LeakError(
                    f"feature {name!r} looks ahead: for {component} of {gate_id} as of {day:%Y-%m-%d} it is {now}, but {then} "
                    "once everything later is removed; nothing was trained"
                )
            other = _first_difference(_as_of(given, day), from_all, rtol=SINGLE_PRECISION)
            if other is not None:
                name, component, came, made = other
                raise LeakError(
                    f"the rows given are not this dataset's: {name!r} for {component} of {gate_id} as of {day:%Y-%m-%d} is "
                    f"{came} there, but {made} when it is made again; nothing was trained"
                )
    if progress is not None:
        progress(len(sample), len(sample))


def _days(dataset: Dataset, gate_id: str, midnights: pd.Series) -> Iterator[datetime]:
    """A midnight before a failure, where something follows that could be known too early, and one in the middle."""
    days = sorted(set(midnights))
    of_gate = (dataset.maintenance["gate_id"] == gate_id) & (dataset.maintenance["kind"] == "failure")
    eves = pd.to_datetime(epoch_ms(dataset.maintenance.loc[of_gate, "started_at"]) // DAY_MS * DAY_MS, unit="ms", utc=True)
    before_failures = [day for day in days[:-1] if day in set(eves)]
    chosen = {days[len(days) // 2], *before_failures[len(before_failures) // 2 :][:1]} if days else set()
    yield from (day.to_pydatetime() for day in sorted(chosen))


def _as_of(rows: pd.DataFrame, day: datetime) -> pd.DataFrame:
    return rows[rows["as_of"] == day].set_index("component").sort_index()


def _first_difference(one: pd.DataFrame, other: pd.DataFrame, rtol: float = 0.0) -> tuple[str, str, Any, Any] | None:
    """Name, component and both values of what differs between two days' rows of one gate; None where nothing does."""
    for name in ("reason", "lost", *features.FEATURES):
        a, b = one[name].to_numpy(), other.loc[one.index, name].to_numpy()
        if name in features.FEATURES:
            same = np.isclose(a.astype(float), b.astype(float), rtol=rtol, atol=TOLERANCE, equal_nan=True)
        else:
            same = a == b
        if not same.all():
            place = int(np.argmin(same))
            return name, str(one.index[place]), a[place], b[place]
    return None
