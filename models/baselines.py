"""What operators use today, as forecasts: a constant, zone limits, trend extrapolation, EWMA. No clock, no database.

Beside them an isolation forest, the usual first try of a data scientist. Their scores order the rows; all but the constant
are no probabilities, and evaluation treats them so. Each takes the same feature rows as the model, is silent where the model
is, and gets its threshold by the same rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from sklearn.ensemble import IsolationForest
from threadpoolctl import threadpool_limits

from models.forecast import COLUMNS, ForecastError, feature_matrix
from models.labels import HORIZON_DAYS, FloatArray

ZONE_LIMIT_MM_S = 4.5
"""Boundary of zones C and D for small machines (ISO 10816-1, class I; 7.1 in class II). Hoists run for minutes and lie
outside the standard's scope, so the zone is indicative."""

TREND_LIMIT = float(np.log(2.5))
"""Deviation (log ratio to the own baseline) that trend extrapolation heads for: one zone, a factor of 2.5."""

EWMA_SHARE = 0.2
EWMA_LIMIT = 0.5
OPERATORS = ("constant", "zone_limit", "trend", "ewma")
"""What operators use; the isolation forest is not among it."""

FOREST_TREES = 100
FOREST_ROWS = 20_000
"""The forest learns from at most so many rows; each of its trees looks at 256 of them."""

Baseline = Callable[[pd.DataFrame], pd.DataFrame]
"""From feature rows to a forecast file."""


def constant(rows: pd.DataFrame, per_day: float) -> pd.DataFrame:
    """Forecast the same for everybody: the mean hazard per day of the gates learnt from."""
    days = np.arange(1, HORIZON_DAYS + 1)
    curve = -np.expm1(-per_day * days)
    gates = rows[["gate_id", "as_of", "reason"]].assign(silent=rows["reason"].ne(""))
    gates = gates.sort_values("silent").drop_duplicates(["gate_id", "as_of"]).assign(component="")
    return _as_forecasts(gates, np.tile(curve, (len(gates), 1)), "constant")


def zone_limit(rows: pd.DataFrame) -> pd.DataFrame:
    """Compare the vibration velocity of the last days with the zone limit; 0.5 at the limit."""
    level = rows["vibration_level_mm_s"].to_numpy(dtype=np.float64)
    return _from_score(rows, level**2 / (level**2 + ZONE_LIMIT_MM_S**2), "zone_limit")


def trend(rows: pd.DataFrame) -> pd.DataFrame:
    """Extrapolate the deviation from the own baseline along its 14-day slope; 0.5 when it meets the limit in 14 days."""
    deviation = rows["vibration_dev"].to_numpy(dtype=np.float64)
    in_14_days = deviation + 14 * rows["vibration_slope_14d"].to_numpy(dtype=np.float64)
    return _from_score(rows, _logistic(in_14_days - TREND_LIMIT), "trend")


def ewma(rows: pd.DataFrame) -> pd.DataFrame:
    """Smooth the deviation exponentially over the scored days of a component; 0.5 at a log ratio of 0.5."""
    ordered = rows.sort_values(["gate_id", "component", "as_of"])
    deviation = ordered["vibration_dev"].where(ordered["reason"] == "")
    smooth = deviation.groupby([ordered["gate_id"], ordered["component"]]).transform(_smooth)
    return _from_score(rows, _logistic(smooth.reindex(rows.index).to_numpy(dtype=np.float64) - EWMA_LIMIT), "ewma")


SCORES: Mapping[str, Baseline] = {"zone_limit": zone_limit, "trend": trend, "ewma": ewma}
"""The baselines that need nothing but the rows."""


def isolation_forest(teaching: pd.DataFrame, features: Sequence[str], *, seed: int) -> Baseline:
    """Learn from rows that can be scored, without their outcomes, how odd a row is; 0.5 where it is no odder than others.

    What is unknown stays unknown: each tree draws a side for it, as scikit-learn does.

    Raises
    ------
    ForecastError
        No row can be scored.

    References
    ----------
    Liu, Ting and Zhou (2008), "Isolation forest".
    """
    known = teaching[teaching["reason"] == ""]
    if known.empty:
        raise ForecastError("an isolation forest needs at least one row that can be scored; got none")
    learnt = known.sample(min(len(known), FOREST_ROWS), random_state=seed)
    forest = IsolationForest(n_estimators=FOREST_TREES, random_state=seed).fit(feature_matrix(learnt, features))

    def score(rows: pd.DataFrame) -> pd.DataFrame:
        scored = (rows["reason"] == "").to_numpy()
        odd = np.full(len(rows), np.nan)
        if scored.any():
            with threadpool_limits(limits=1):
                odd[scored] = -forest.score_samples(feature_matrix(rows[scored], features))
        # spread over the range of thresholds: raw scores lie within some tenths of each other
        return _from_score(rows, _logistic(10 * (odd - 0.5)), "isolation_forest")

    return score


def _logistic(above_limit: FloatArray) -> FloatArray:
    return np.asarray(1 / (1 + np.exp(-np.clip(above_limit / 0.2, -20, 20))))


def _smooth(deviation: pd.Series) -> pd.Series:
    return deviation.ewm(alpha=EWMA_SHARE, ignore_na=True).mean()


def _from_score(rows: pd.DataFrame, score: FloatArray, name: str) -> pd.DataFrame:
    """Component rows from a score that stands in for p_14d, and gate rows with the highest of them."""
    # a component without vibration has no score of its own: no evidence, not no verdict
    score = np.clip(np.nan_to_num(score, nan=0.0), 0.0, 1 - 1e-9)
    parts = rows[["gate_id", "component", "as_of", "reason"]].assign(score=score)
    parts["silent"] = parts["reason"].ne("")
    highest = parts.sort_values(["silent", "score"], ascending=[True, False])
    gates = highest.drop_duplicates(["gate_id", "as_of"]).assign(component="")
    everything = pd.concat([parts, gates], ignore_index=True)
    days = np.arange(1, HORIZON_DAYS + 1)
    curves = -np.expm1(np.log1p(-everything["score"].to_numpy())[:, None] * days / 14.0)
    return _as_forecasts(everything, curves, name)


def _as_forecasts(rows: pd.DataFrame, curves: FloatArray, name: str) -> pd.DataFrame:
    scored = (rows["reason"] == "").to_numpy()
    curves = np.where(scored[:, None], curves, np.nan)
    out = rows[["gate_id", "component", "as_of", "reason"]].copy()
    out["verdict"] = np.where(scored, "forecast", "no_verdict")
    out["p_7d"], out["p_14d"], out["p_21d"] = curves[:, 6], curves[:, 13], curves[:, 20]
    out["ttf_p10_d"] = out["ttf_p50_d"] = out["ttf_p90_d"] = np.nan
    out["failure_mode"], out["failure_mode_share"], out["lost"] = None, np.nan, ""
    out["model_version"] = f"baseline:{name}"
    held = np.empty(len(out), dtype=object)
    held[:] = [curve if known else None for curve, known in zip(curves, scored, strict=True)]
    out["curve"] = held
    return out.sort_values(["gate_id", "as_of", "component"], ignore_index=True)[list(COLUMNS)]
