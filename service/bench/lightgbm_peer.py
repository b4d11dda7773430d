"""LightGBM in the frame of the shipped model, to compare it with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime

import numpy as np
import pandas as pd

from models.fitting import Settings, calibrate, draw_teaching, failure_count, fit
from models.forecast import HORIZONS_D, Forecaster, feature_matrix
from models.labels import FloatArray, History, failures_per_gate, gate_folds, hold_out, label, outcome
from models.train import CALIBRATED_AT_D, FOLDS, record_ends
from pipeline.dataset import Dataset
from pipeline.features import FEATURES
from service.bench.report import BenchError


@dataclass(frozen=True, slots=True)
class _Peer(Forecaster):
    """The shipped model's frame with the trees of LightGBM alone in it."""

    def log_odds(self, rows: pd.DataFrame) -> FloatArray:
        x = feature_matrix(rows, self.features)
        scored = (rows["reason"] == "").to_numpy()
        out = np.full((len(rows), len(self.horizons_d)), np.nan)
        for column, horizon_d in enumerate(self.horizons_d):
            asked = np.column_stack([x[scored], np.full(int(scored.sum()), horizon_d)])
            out[scored, column] = self.parts["lightgbm"].predict(asked, raw_score=True, num_threads=1)
        return out


def learn_peer(dataset: Dataset, rows: pd.DataFrame, settings: Settings, seed: int) -> _Peer:
    """LightGBM, taught and calibrated as `models.train` does it, on the feature rows that the shipped model learnt from."""
    observed_until, history = record_ends(dataset), History(dataset.maintenance)
    failures = failures_per_gate(dataset.maintenance, sorted(observed_until))
    first, last = rows["as_of"].min().to_pydatetime(), rows["as_of"].max().to_pydatetime()
    rows = rows[hold_out(failures, first, last, seed=seed).teaches(rows)].reset_index(drop=True)

    def teach(some: pd.DataFrame) -> _Peer:
        return _taught(some.reset_index(drop=True), history, observed_until, settings, seed)

    here = {gate_id: failures[gate_id] for gate_id in sorted(set(rows["gate_id"]))}
    log_odds: FloatArray = np.full((len(rows), len(HORIZONS_D)), np.nan)
    for fold in gate_folds(here, FOLDS, seed=seed):
        inside = rows["gate_id"].isin(fold).to_numpy()
        log_odds[inside] = teach(rows[~inside]).log_odds(rows[inside])
    labels = label(rows, history, observed_until)
    at = [HORIZONS_D.index(horizon_d) for horizon_d in CALIBRATED_AT_D]
    y = np.column_stack([outcome(labels, horizon_d) for horizon_d in CALIBRATED_AT_D])
    calibrated = calibrate(teach(rows), log_odds[:, at], y, failure_count(rows, labels))
    assert isinstance(calibrated, _Peer)
    return calibrated


def _taught(rows: pd.DataFrame, history: History, observed_until: Mapping[str, datetime], settings: Settings, seed: int) -> _Peer:
    try:
        import lightgbm
    except ImportError as error:
        raise BenchError(f"the part peers needs LightGBM ({error}); `make check` installs what development needs") from error
    # rates, modes and the rest of the frame; its own trees are not asked
    frame = fit(rows, history, observed_until, features=FEATURES, seed=seed, settings=replace(settings, trees=1, fewest_trees=1))
    labels = label(rows, history, observed_until)
    usable = (rows["reason"] == "").to_numpy() & labels["at_risk"].to_numpy()
    teaching = draw_teaching(labels, usable, settings.healthy_rows, np.random.default_rng(seed))
    x = np.column_stack([feature_matrix(rows, FEATURES)[teaching.place], teaching.horizon_d])
    trees = min(settings.trees, max(settings.fewest_trees, failure_count(rows, labels)))
    chosen = {
        "objective": "binary",
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.leaves,
        "min_data_in_leaf": min(settings.rows_per_leaf, max(20, len(teaching.y) // 60)),
        "lambda_l2": settings.l2,
        "feature_fraction_bynode": settings.share_of_features,
        "monotone_constraints": [0] * len(FEATURES) + [1],
        "num_threads": 1,
        "deterministic": True,
        "seed": seed,
        "verbose": -1,
    }
    data = lightgbm.Dataset(x, label=teaching.y, weight=teaching.weight)
    kept = {part.name: getattr(frame, part.name) for part in fields(frame)}
    return _Peer(**kept | {"parts": {**frame.parts, "lightgbm": lightgbm.train(chosen, data, num_boost_round=trees)}})
