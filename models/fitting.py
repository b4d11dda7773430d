"""What a `Forecaster` learns, and from which rows: scale, trees, regressions, rates and calibration. No clock, no database."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from models.forecast import (
    HORIZONS_D,
    MOST_SCALED,
    POOLED,
    RICH,
    Forecaster,
    ForecastError,
    can_be_scored,
    feature_matrix,
    in_steps,
    is_rich,
    kinds_of,
    scale,
    typical_where_unknown,
    with_hinges,
)
from models.labels import HORIZON_DAYS, FloatArray, History, IntArray, epoch_ms, label
from pipeline.readings import DAY_MS

NEAR_D = HORIZON_DAYS
"""Rows this close before a failure are all kept, at every horizon; the others are thinned and weighted by 1/share."""

FEWEST_OF_A_KIND = 8
"""Component failures from which on a kind of component gets a logistic regression of its own."""

RICH_SHARE = 0.5
"""Rich rows have trees of their own where they hold such a share of the failures."""

FEWEST_FAILURES = 3
FEWEST_FAILURES_FOR_MODES = 20
_ROWS_AT_ONCE = 50_000


@dataclass(frozen=True, slots=True)
class Settings:
    """What is fixed before learning; chosen on simulated fleets other than those the figures are from.

    Attributes
    ----------
    trees, fewest_trees : one tree for each failure, within these bounds: more failures bear a longer boosting
    rows_per_leaf : at least that many, where one failure stands for some 160 rows
    healthy_rows : how many rows far from a failure are kept, of rich gates and of others each
    """

    trees: int = 400
    fewest_trees: int = 150
    learning_rate: float = 0.06
    leaves: int = 12
    rows_per_leaf: int = 1200
    l2: float = 500.0
    share_of_features: float = 0.3
    logistic_c: float = 0.1
    healthy_rows: int = 100_000


@dataclass(frozen=True, slots=True)
class Teaching:
    """Rows to learn from: one per (component row, horizon)."""

    place: IntArray
    horizon_d: FloatArray
    y: FloatArray
    weight: FloatArray

    def and_(self, others: Teaching) -> Teaching:
        """These rows, and after them the others."""
        return Teaching(*(np.concatenate([getattr(self, part.name), getattr(others, part.name)]) for part in fields(self)))


def fit(
    rows: pd.DataFrame,
    maintenance: pd.DataFrame | History,
    observed_until: Mapping[str, datetime] | pd.Series,
    *,
    features: Sequence[str],
    seed: int,
    settings: Settings | None = None,
) -> Forecaster:
    """Learn from component rows and maintenance records; not calibrated yet.

    Parameters
    ----------
    rows : DataFrame, one row per (gate_id, component, as_of), as `Forecaster.predict` takes them; a second one of the same
        three is the same day as a poorer station would have seen it
    maintenance : records of these gates
    observed_until : mapping from gate_id to the end of that gate's record
    features : feature columns to learn from

    Raises
    ------
    ForecastError
        Fewer than 3 component failures are in the rows.
    """
    settings = settings or Settings()
    history = maintenance if isinstance(maintenance, History) else History(maintenance)
    rows = rows.reset_index(drop=True)
    labels = label(rows, history, observed_until)
    usable = can_be_scored(rows) & labels["at_risk"].to_numpy()
    failures = _failure_ids(rows, labels, usable)
    n_failures = int(failures.max(initial=-1)) + 1
    if n_failures < FEWEST_FAILURES:
        raise ForecastError(
            f"at least {FEWEST_FAILURES} component failures with scored days before them are needed to learn from; "
            f"got {n_failures}"
        )
    rng, rich = np.random.default_rng(seed), is_rich(rows)
    of_rich, of_others = (draw_teaching(labels, usable & own, settings.healthy_rows, rng) for own in (rich, ~rich))
    teaching = of_rich.and_(of_others)
    used = np.unique(np.append(teaching.place, np.flatnonzero(failures >= 0)))
    x = feature_matrix(rows.iloc[used], features)
    at = np.searchsorted(used, teaching.place)
    with threadpool_limits(limits=1):
        parts = _fit_scale(x)
        z = scale(x, parts)
        del x
        expanded = _expanded(z, at, teaching.horizon_d, in_steps)
        parts["trees"] = {POOLED: _fit_trees(expanded, teaching, settings, n_failures, seed)}
        n_rich = len(np.unique(failures[rich & (failures >= 0)]))
        if len(of_others.y) and n_rich >= RICH_SHARE * n_failures:
            parts["trees"][RICH] = _fit_trees(expanded[: len(of_rich.y)], of_rich, settings, n_rich, seed)
        del expanded
        kinds = kinds_of(rows)
        expanded = _expanded(z, at, np.log(teaching.horizon_d), partial(with_hinges, dtype=np.float32))
        parts["logistic"] = _fit_logistics(expanded, teaching, settings, kinds[teaching.place], failures)
        del expanded
        modes = _fit_modes(z, labels.iloc[used], failures[used])
    if modes is not None:
        parts["modes"] = modes
    once = ~rows.duplicated(["gate_id", "component", "as_of"])
    base_per_day, sudden_per_day, seen_modes = _rates(rows[once], labels[once], history)
    return Forecaster(
        features=tuple(features),
        horizons_d=HORIZONS_D,
        parts=parts,
        sudden_per_day=sudden_per_day,
        base_per_day=base_per_day,
        modes=seen_modes,
    )


def failure_count(rows: pd.DataFrame, labels: pd.DataFrame) -> int:
    """How many different component failures the rows that can be scored stand within 21 days of."""
    usable = can_be_scored(rows) & labels["at_risk"].to_numpy()
    return int(_failure_ids(rows, labels, usable).max(initial=-1)) + 1


def _failure_ids(rows: pd.DataFrame, labels: pd.DataFrame, usable: npt.NDArray[np.bool_]) -> IntArray:
    """Number the failures that usable rows stand within 21 days of; -1 for other rows."""
    near = usable & (labels["failure_d"].to_numpy() <= HORIZON_DAYS)
    day = epoch_ms(rows["as_of"]) // DAY_MS + np.nan_to_num(labels["failure_d"].to_numpy()).astype(np.int64)
    ids = np.full(len(rows), -1, dtype=np.int64)
    key = pd.MultiIndex.from_arrays([rows["gate_id"][near], rows["component"][near], day[near]])
    ids[near] = pd.factorize(key, sort=True)[0]
    return ids


def draw_teaching(labels: pd.DataFrame, usable: npt.NDArray[np.bool_], healthy_rows: int, rng: np.random.Generator) -> Teaching:
    """Draw the rows to learn from: all before a failure at every horizon, some healthy ones at one horizon each, weighted."""
    failure_d, free_d = labels["failure_d"].to_numpy(), labels["free_d"].to_numpy()
    near = usable & (failure_d <= NEAR_D)
    far = np.flatnonzero(usable & ~near & (free_d >= 1))
    share = min(1.0, healthy_rows / max(len(far), 1))
    far = far[rng.random(len(far)) < share]
    horizons = np.array(HORIZONS_D)
    drawn = rng.choice(horizons, len(far))  # a healthy row says little more at eight horizons than at one
    place = np.concatenate([np.repeat(np.flatnonzero(near), len(horizons)), far])
    horizon_d = np.concatenate([np.tile(horizons, int(near.sum())), drawn])
    weight = np.concatenate([np.ones(int(near.sum()) * len(horizons)), np.full(len(far), len(horizons) / share)])
    came = failure_d[place] <= horizon_d
    known = came | (free_d[place] >= horizon_d)
    return Teaching(place[known], horizon_d[known].astype(float), came[known].astype(float), weight[known])


def _expanded(z: FloatArray, at: IntArray, horizon: FloatArray, shown: Callable[[FloatArray], npt.NDArray[Any]]) -> FloatArray:
    """Rows `at` of `z` as they are `shown`, and the horizon as one more column; piece by piece: copies of all take gigabytes."""
    one = shown(z[:1])
    out = np.empty((len(at), one.shape[1] + 1), dtype=one.dtype)
    for start in range(0, len(at), _ROWS_AT_ONCE):
        piece = slice(start, start + _ROWS_AT_ONCE)
        out[piece, :-1] = shown(z[at[piece]])
    out[:, -1] = horizon
    return out


def _fit_scale(x: FloatArray) -> dict[str, Any]:
    known = np.flatnonzero(np.isfinite(x).any(axis=0))
    varied = known[np.nanmax(x[:, known], axis=0) > np.nanmin(x[:, known], axis=0)]
    x = x[:, varied]
    low, middle, high = np.nanquantile(x, (0.25, 0.5, 0.75), axis=0)
    ends = np.array([np.nanmin(x, axis=0), np.nanmax(x, axis=0)])
    width = np.where(high > low, high - low, np.abs(ends - middle).max(axis=0))
    least, most = np.clip(np.arcsinh((ends - middle) / width), -MOST_SCALED, MOST_SCALED)
    return {"varied": varied, "middle": middle, "width": width, "least": least, "most": most}


def _fit_trees(
    expanded: FloatArray, teaching: Teaching, settings: Settings, n_failures: int, seed: int
) -> HistGradientBoostingClassifier:
    # with little data a leaf may be smaller, but never less than a sixtieth of it
    rows_per_leaf = min(settings.rows_per_leaf, max(20, len(teaching.y) // 60))
    trees = HistGradientBoostingClassifier(
        max_iter=min(settings.trees, max(settings.fewest_trees, n_failures)),
        learning_rate=settings.learning_rate,
        max_leaf_nodes=settings.leaves,
        min_samples_leaf=rows_per_leaf,
        l2_regularization=settings.l2,
        max_features=settings.share_of_features,
        monotonic_cst=[0] * (expanded.shape[1] - 1) + [1],
        early_stopping=False,
        random_state=seed,
    )
    return trees.fit(expanded, teaching.y, sample_weight=teaching.weight)


def _fit_logistics(
    expanded: FloatArray, teaching: Teaching, settings: Settings, kinds: npt.NDArray[np.str_], failures: IntArray
) -> dict[str, FloatArray]:
    """For each kind of component with enough failures, and for all together: weights of the columns, then of log horizon
    (never negative), then the intercept."""
    fitted = {}
    for kind in (POOLED, *np.unique(kinds).tolist()):
        of_kind = np.flatnonzero((kinds == kind) | (kind == POOLED))
        seen = failures[teaching.place[of_kind]]
        n_failures = len(np.unique(seen[seen >= 0]))
        if kind != POOLED and n_failures < FEWEST_OF_A_KIND:
            continue
        y, weight = teaching.y[of_kind], teaching.weight[of_kind]
        model = LogisticRegression(C=settings.logistic_c, max_iter=300)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # close enough after 300 steps
            # rows before one failure are copies of each other: what counts as evidence is the number of failures
            model.fit(expanded if kind == POOLED else expanded[of_kind], y, sample_weight=weight * n_failures / y.sum())
        weights = np.append(model.coef_[0], model.intercept_)
        weights[-2] = max(weights[-2], 0.0)
        fitted[str(kind)] = np.asarray(weights)
    return fitted


def _fit_modes(z: FloatArray, labels: pd.DataFrame, failures: IntArray) -> dict[str, Any] | None:
    """Multinomial logistic regression over the last 21 days before failures, each failure weighing the same."""
    mode = labels["failure_mode"].to_numpy()
    at = np.flatnonzero((failures >= 0) & (mode != ""))
    n_failures = len(np.unique(failures[at]))
    if n_failures < FEWEST_FAILURES_FOR_MODES or len(np.unique(mode[at].astype(str))) < 2:
        return None
    weight = 1 / np.bincount(failures[at])[failures[at]]
    model = LogisticRegression(C=1.0, max_iter=500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(typical_where_unknown(z[at]), mode[at].astype(str), sample_weight=weight)
    weights, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps one row of weights for two classes
        weights, intercepts = np.vstack([-weights, weights]) / 2, np.append(-intercepts, intercepts) / 2
    return {"weights": weights, "intercepts": intercepts, "names": model.classes_.tolist()}


def _rates(
    rows: pd.DataFrame, labels: pd.DataFrame, history: History
) -> tuple[dict[str, float], float, dict[str, tuple[str, ...]]]:
    """Mean hazards per day (half an event is added, so that none is zero) and the modes seen, over the days at risk."""
    at_risk = labels["at_risk"].to_numpy()
    days_at_risk = rows["component"][at_risk].value_counts()
    first_day, last_day = rows.groupby("gate_id")["as_of"].min(), rows.groupby("gate_id")["as_of"].max()
    components_of = rows.groupby("gate_id")["component"].unique()
    gate_days = int(rows[["gate_id", "as_of"]][at_risk].drop_duplicates().shape[0])
    counts: dict[str, int] = {}
    modes: dict[str, dict[str, int]] = {}
    sudden = 0
    for gate_id in first_day.index:
        unit = history.unit(str(gate_id), "")
        inside = (unit.failures_ms > first_day[gate_id].value // 1_000_000) & (
            unit.failures_ms <= last_day[gate_id].value // 1_000_000 + DAY_MS
        )
        for i in np.flatnonzero(inside):
            component, mode = unit.failed[i], unit.modes[i]
            if component not in components_of[gate_id]:
                sudden += 1
                continue
            counts[component] = counts.get(component, 0) + 1
            if mode:
                seen = modes.setdefault(component, {})
                seen[mode] = seen.get(mode, 0) + 1
    base = {str(c): (counts.get(str(c), 0) + 0.5) / int(days_at_risk[c]) for c in sorted(days_at_risk.index)}
    ranked = {c: tuple(sorted(seen, key=lambda m: (-seen[m], m))) for c, seen in sorted(modes.items())}
    return base, (sudden + 0.5) / max(gate_days, 1), ranked


def calibrate(forecaster: Forecaster, log_odds: FloatArray, y: FloatArray, n_failures: int) -> Forecaster:
    """Fit slope and intercept on rows of gates the forecaster has not learnt from, shrunk toward those it has.

    Parameters
    ----------
    log_odds : shape (rows, k), before any calibration
    y : shape (rows, k), 1, 0 or NaN (unknown)
    n_failures : how many different failures stand behind the ones in `y`; that many, not the rows, count as evidence

    Notes
    -----
    Platt scaling with a normal prior of standard deviation 0.25 around the slope it has and of 0.5 around the intercept, solved
    by Newton's method. A forecaster fresh from `fit` has slope 1 and intercept 0.
    """
    use = np.isfinite(y) & np.isfinite(log_odds)
    s, target = log_odds[use], y[use]
    if n_failures == 0 or not 0 < target.sum() < len(target):
        return forecaster
    weight = n_failures / target.sum()
    design = np.column_stack([s, np.ones_like(s)])
    prior_precision = np.array([1 / 0.25**2, 1 / 0.5**2])
    start = theta = np.array([forecaster.slope, forecaster.intercept])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(design @ theta, -30, 30)))
        gradient = weight * design.T @ (p - target) + prior_precision * (theta - start)
        hessian = weight * (design * (p * (1 - p))[:, None]).T @ design + np.diag(prior_precision)
        step = np.linalg.solve(hessian, gradient)
        theta = theta - np.clip(step, -0.5, 0.5)
        if np.abs(step).max() < 1e-9:
            break
    return replace(forecaster, slope=float(max(theta[0], 0.1)), intercept=float(theta[1]))
