"""What a model would have said of a record, day after day, and which of its gates it had learnt from. No clock, no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pandas as pd

from models import registry
from models.train import Progress, TrainingError, data_sha256
from pipeline.dataset import Dataset
from pipeline.features import from_dataset


def backtest(
    dataset: Dataset,
    model: registry.Model,
    from_: datetime,
    to: datetime,
    *,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Forecast every gate at every UTC midnight from `from_` to `to`, both included, as the live service would have.

    Returns
    -------
    DataFrame
        A forecast file. Its ``attrs`` say with which ``policy`` the model is deployed and which of the gates the model had
        ``learnt_from``: those of its own training data, by its hash or, where a site's record has grown since, by their
        names; figures on them prove nothing.
    """
    rows = rows_between(dataset, from_, to, progress)
    forecasts = model.forecaster.predict(rows)
    forecasts.attrs = {"policy": model.policy.as_dict(), "learnt_from": learnt_from(dataset, model, from_, rows)}
    return forecasts


def rows_between(dataset: Dataset, from_: datetime, to: datetime, progress: Progress | None = None) -> pd.DataFrame:
    """Feature rows of every gate at every UTC midnight from `from_` to `to`, both included."""
    if to < from_:
        raise TrainingError(f"the backtest must end on or after {from_:%Y-%m-%d}; got {to:%Y-%m-%d}")
    days = [from_ + timedelta(days=n) for n in range((to - from_).days + 1)]
    told = None if progress is None else partial(progress, "features")
    return from_dataset(dataset, days, progress=told)


def learnt_from(dataset: Dataset, model: registry.Model, from_: datetime, rows: pd.DataFrame) -> list[str]:
    """Gates of rows from `from_` on that a model has learnt from."""
    training = model.manifest["training"]
    if from_ > datetime.fromisoformat(training["development_until"]):
        return []
    return sorted(learnt_gates(dataset.gate_ids, data_sha256(dataset), training) & set(rows["gate_id"]))


def learnt_gates(gate_ids: Sequence[str], data_sha256: str, training: Mapping[str, Any]) -> set[str]:
    """Gates of a dataset, known by its hash, that a model learnt from at any time."""
    if data_sha256 == training["data_sha256"]:
        return set(gate_ids) - set(training["test_gates"])
    # a site's record has grown since; simulated gates share their names with every other simulated fleet
    return set() if training["simulated"] else set(training.get("learnt_gates", ())) & set(gate_ids)
