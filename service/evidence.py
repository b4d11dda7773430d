"""Why a component is forecast what it is, from what the historian holds: `models.explain` with its readings beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime

import pandas as pd
from sqlalchemy.engine import Connection

from models import explain
from models.explain import Evidence, Explainable, Key
from pipeline import features
from service.alerts import rfc3339
from service.live_features import load_histories


def find_evidence(
    connection: Connection, forecaster: Explainable, rows: pd.DataFrame, wanted: Sequence[Key], as_of: datetime
) -> dict[Key, tuple[Evidence, ...]]:
    """Evidence of some components, the strongest contribution first; `rows` are those of all gates scored with them."""
    if not wanted:
        return {}
    keys = pd.MultiIndex.from_frame(rows[["gate_id", "component"]])
    asked = rows[keys.isin(list(wanted))]
    measured: dict[Key, Mapping[str, features.Measured]] = {}
    for gate_id, component in wanted:
        (history,) = load_histories(connection, [gate_id], [as_of])
        measured[gate_id, component] = features.shown_and_expected(history, component, as_of)
    return explain.explain(forecaster, asked, rows, measured)


def for_alert(items: Sequence[Evidence]) -> tuple[Mapping[str, object], ...]:
    """What spoke for the failure, as an alert keeps it: plain values, instants as text."""
    return tuple(
        {name: rfc3339(value) if isinstance(value, datetime) else value for name, value in asdict(item).items()}
        for item in items
        if item.contribution > 0
    )
