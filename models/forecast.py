"""Forecast and Forecaster: the curve P(failure within 1..21 days) of every component and gate. No clock, no database.

A gradient boosting model that takes the horizon as a feature (so its curve cannot cross itself) and logistic regressions,
one for each kind of component, are averaged in log-odds and then calibrated by two numbers. A gate fails when one of its
components does, or suddenly, without a sign: its curve is put together from those.

What is learnt is kept in scikit-learn and numpy objects and plain numbers only, so that a stored model does not depend
on where this class lives.
"""

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

from models.labels import HORIZON_DAYS, FloatArray, History, IntArray, epoch_ms, label
from pipeline.errors import BadInput
from pipeline.features import COMPONENT_KINDS
from pipeline.readings import DAY_MS

HORIZONS_D = (1, 3, 5, 7, 10, 14, 17, 21)
"""Horizons the model learns; between them the hazard is taken as constant."""

COLUMNS = (
    "gate_id",
    "component",
    "as_of",
    "verdict",
    "reason",
    "p_7d",
    "p_14d",
    "p_21d",
    "ttf_p10_d",
    "ttf_p50_d",
    "ttf_p90_d",
    "failure_mode",
    "failure_mode_share",
    "lost",
    "model_version",
    "curve",
)
"""Columns of a forecast file, in order (DATASET.md)."""

NEAR_D = HORIZON_DAYS
"""Rows this close before a failure are all kept, at every horizon; the others are thinned and weighted by 1/share."""

LOGISTIC_SHARE = 0.5
"""Weight of the logistic regressions in the mean log-odds."""

FEWEST_OF_A_KIND = 8
"""Component failures from which on a kind of component gets a logistic regression of its own."""

POOLED = ""
"""The logistic regression of all kinds together; it stands in for kinds that have none of their own."""

SHAKEN, ASKED = ("acceleration_z", "impulse_z"), ("current_z", "load_7d")
"""Features by which a row knows more of its vibration than the velocity, and what was asked of the machine."""

RICH, RICH_SHARE = "rich", 0.5
"""Rows whose gate knows both of some component have trees of their own, where they hold such a share of the failures; all other
rows have those of all rows together."""

MOST_SCALED = 6.0
STEPS = 20
"""The trees see scaled features in steps of 1/20: with so few different values they need not choose their bins by weighted
percentiles, which scikit-learn does slowly, and which would leave the rare high values, the ones that matter, in one bin."""

FEWEST_FAILURES = 3
FEWEST_FAILURES_FOR_MODES = 20
P_RANGE = (1e-6, 1 - 1e-6)
_ROWS_AT_ONCE = 50_000


class ForecastError(BadInput):
    """Rows that cannot be learnt from or scored."""


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
class Forecaster:
    """Turns rows of features into forecasts.

    Attributes
    ----------
    features : names of the feature columns, in the order of the fitted parts
    horizons_d : learnt horizons, the last one 21
    parts : the fitted scikit-learn and numpy objects
    slope, intercept : calibration of the log-odds
    sudden_per_day : hazard of failures that no component row stands for
    base_per_day : mean hazard of each component; stands in for a component without verdict in its gate's curve
    modes : failure modes seen with each component, the most frequent first
    version : name of the model, copied into every forecast
    """

    features: tuple[str, ...]
    horizons_d: tuple[int, ...]
    parts: Mapping[str, Any]
    sudden_per_day: float
    base_per_day: Mapping[str, float]
    modes: Mapping[str, tuple[str, ...]]
    slope: float = 1.0
    intercept: float = 0.0
    version: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Everything but the fitted parts, as plain values for a manifest."""
        return {
            "features": list(self.features),
            "horizons_d": list(self.horizons_d),
            "calibration": {"method": "platt", "slope": self.slope, "intercept": self.intercept},
            "sudden_per_day": self.sudden_per_day,
            "base_per_day": dict(self.base_per_day),
            "modes": {component: list(modes) for component, modes in self.modes.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], parts: Mapping[str, Any], version: str) -> Forecaster:
        """Rebuild from a manifest and the fitted parts."""
        return cls(
            features=tuple(values["features"]),
            horizons_d=tuple(values["horizons_d"]),
            parts=parts,
            sudden_per_day=float(values["sudden_per_day"]),
            base_per_day=dict(values["base_per_day"]),
            modes={component: tuple(modes) for component, modes in values["modes"].items()},
            slope=float(values["calibration"]["slope"]),
            intercept=float(values["calibration"]["intercept"]),
            version=version,
        )

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Forecast for every row, and for every gate and day as a whole.

        Parameters
        ----------
        rows : DataFrame, one row per (gate_id, component, as_of)
            With ``reason`` (``""`` where the row can be scored), ``lost`` (faulty channels in words, as `pipeline.features`
            tells them; may be absent) and the feature columns; more columns are ignored.

        Returns
        -------
        DataFrame
            The columns of a forecast file (`COLUMNS`), sorted by gate, day and component; the gate's own row has component
            ``""`` and has lost what its components lost. ``curve`` holds float arrays of 21 values, None where there is no
            verdict. ``failure_mode_share`` is the share of the mode among the modes known of the component, given that one of
            them is under way; NaN where several are known and too few failures were seen to tell them apart. The gate has
            mode and share of its most endangered component.

        Raises
        ------
        ForecastError
            A feature column is missing.
        """
        return self.assemble(rows, self.log_odds(rows))

    def log_odds(self, rows: pd.DataFrame) -> FloatArray:
        """Return the log-odds before calibration, shape (rows, horizons); NaN for rows that cannot be scored."""
        x = feature_matrix(rows, self.features)
        scored = _can_be_scored(rows)
        out = np.full((len(rows), len(self.horizons_d)), np.nan)
        if scored.any():
            with threadpool_limits(limits=1):
                z = scale(x[scored], self.parts)
                rich, kinds = is_rich(rows[scored]), kinds_of(rows[scored])
                out[scored] = (1 - LOGISTIC_SHARE) * self._trees(z, rich) + LOGISTIC_SHARE * self._logistic(z, kinds)
        return out

    def log_odds_14d(self, rows: pd.DataFrame) -> FloatArray:
        """Return the log-odds of each row's published ``p_14d``, shape (rows,); NaN for rows that cannot be scored."""
        # curves do not cross: what is asked at 14 days alone is what the whole curve says there
        log_odds = replace(self, horizons_d=(14,)).log_odds(rows)[:, 0]
        least, most = np.log(P_RANGE) - np.log1p(-np.array(P_RANGE))
        return np.asarray(np.clip(self.intercept + self.slope * log_odds, least, most))

    def typical(self) -> dict[str, float]:
        """Return the median of each feature over the rows learnt from; without those that never varied, which change nothing."""
        varied = [self.features[place] for place in self.parts["varied"]]
        return dict(zip(varied, self.parts["middle"].tolist(), strict=True))

    def _trees(self, z: FloatArray, rich: npt.NDArray[np.bool_]) -> FloatArray:
        by_kind: Mapping[str, HistGradientBoostingClassifier] = self.parts["trees"]
        stepped, out = in_steps(z), np.empty((len(z), len(self.horizons_d)))
        for trees, own in ((by_kind.get(RICH, by_kind[POOLED]), rich), (by_kind[POOLED], ~rich)):
            if own.any():
                # column by column: a tree asks for one feature of all rows, and is seven times quicker so
                asked = np.empty((int(own.sum()), z.shape[1] + 1), order="F")
                asked[:, :-1] = stepped[own]
                for place, horizon_d in enumerate(self.horizons_d):
                    asked[:, -1] = horizon_d
                    out[own, place] = trees.decision_function(asked)
        return out

    def _logistic(self, z: FloatArray, kinds: npt.NDArray[np.str_]) -> FloatArray:
        by_kind: Mapping[str, FloatArray] = self.parts["logistic"]
        out = np.empty((len(z), len(self.horizons_d)))
        for kind in np.unique(kinds):
            weights = by_kind.get(str(kind), by_kind[POOLED])
            of_kind = kinds == kind
            base = with_hinges(z[of_kind]) @ weights[:-2] + weights[-1]
            out[of_kind] = base[:, None] + weights[-2] * np.log(self.horizons_d)[None, :]
        return out

    def assemble(self, rows: pd.DataFrame, log_odds: FloatArray) -> pd.DataFrame:
        """Calibrate log-odds and put the forecasts of components and gates together; see `predict`."""
        lost = rows["lost"].fillna("").to_numpy(dtype=object) if "lost" in rows else np.full(len(rows), "", dtype=object)
        rows = rows[["gate_id", "component", "as_of", "reason", *self.features]]
        scored = _can_be_scored(rows)
        curves = np.full((len(rows), HORIZON_DAYS), np.nan)
        curves[scored] = self._curves(log_odds[scored])
        mode, share = np.full(len(rows), None, dtype=object), np.full(len(rows), np.nan)
        mode[scored], share[scored] = self._failure_modes(rows[scored])
        base = np.array([self.base_per_day.get(component, 0.0) for component in rows["component"]])
        components = pd.DataFrame(
            {
                "gate_id": rows["gate_id"].to_numpy(),
                "component": rows["component"].to_numpy(),
                "as_of": rows["as_of"].to_numpy(),
                "reason": rows["reason"].fillna("").to_numpy(),
                "lost": lost,
            }
        )
        gates, gate_curves, leading = self._gates(components, curves, base)
        out = pd.concat([components, gates], ignore_index=True)
        out["as_of"] = pd.to_datetime(out["as_of"], utc=True).astype("datetime64[ms, UTC]")
        out["failure_mode"] = np.concatenate([mode, mode[leading]])
        out["failure_mode_share"] = np.concatenate([share, share[leading]])
        return self._finish(out, np.vstack([curves, gate_curves]))

    def _curves(self, log_odds: FloatArray) -> FloatArray:
        calibrated = self.intercept + self.slope * log_odds
        p = np.clip(1 / (1 + np.exp(-np.clip(calibrated, -30, 30))), *P_RANGE)
        hazard = np.maximum.accumulate(-np.log1p(-p), axis=1)
        return np.asarray(-np.expm1(-hazard @ _interpolation(self.horizons_d)))

    def _failure_modes(self, rows: pd.DataFrame) -> tuple[npt.NDArray[np.object_], FloatArray]:
        """The likeliest mode of each row's component, and its share among that component's modes."""
        known = {component: modes[0] for component, modes in self.modes.items() if modes}
        out = rows["component"].map(known).astype(object)
        out = out.where(out.notna(), None)
        model = self.parts.get("modes")
        chosen = out.to_numpy(copy=True)
        only_one = [component for component, modes in self.modes.items() if len(modes) == 1]
        share = np.where(rows["component"].isin(only_one), 1.0, np.nan)
        if model is None or len(rows) == 0:
            return chosen, share
        z = scale(feature_matrix(rows, self.features), self.parts)
        scores = _typical_where_unknown(z) @ model["weights"].T + model["intercepts"]
        names = np.array(model["names"], dtype=object)
        components = rows["component"].to_numpy()
        for component, modes in self.modes.items():
            allowed = np.isin(names, modes)
            at = np.flatnonzero(components == component)
            if allowed.any() and len(at):
                own = scores[np.ix_(at, allowed)]
                chosen[at] = names[allowed][np.argmax(own, axis=1)]
                share[at] = 1 / np.exp(own - own.max(axis=1, keepdims=True)).sum(axis=1)  # softmax, at the greatest
        return chosen, share

    def _gates(
        self, components: pd.DataFrame, curves: FloatArray, base_per_day: FloatArray
    ) -> tuple[pd.DataFrame, FloatArray, IntArray]:
        """Rows and curves of the gates, and the place of each one's most endangered component."""
        keys = components.groupby(["gate_id", "as_of"], sort=True)
        code = np.asarray(keys.ngroup(), dtype=np.int64)
        gates = keys.size().index.to_frame(index=False)
        scored = np.isfinite(curves[:, 0])
        days = np.arange(1, HORIZON_DAYS + 1)
        hazard = np.tile(self.sudden_per_day * days, (len(gates), 1))
        np.add.at(hazard, code, np.where(scored[:, None], -np.log1p(-curves), base_per_day[:, None] * days))
        highest = np.zeros_like(hazard)
        np.maximum.at(highest, code[scored], curves[scored])
        has_forecast = np.bincount(code, weights=scored, minlength=len(gates)) > 0
        gate_curves = np.where(has_forecast[:, None], np.maximum(-np.expm1(-hazard), highest), np.nan)

        p_14d = np.where(scored, curves[:, 13], -1.0)
        order = np.lexsort((components["component"].astype(str).to_numpy(), -p_14d, code))
        leading = order[np.searchsorted(code[order], np.arange(len(gates)))]
        gates["component"] = ""
        gates["reason"] = _commonest_reason(code, components["reason"].to_numpy(), scored, has_forecast)
        gates["lost"] = _all_lost(code, components["lost"].to_numpy(), len(gates))
        return gates[["gate_id", "component", "as_of", "reason", "lost"]], gate_curves, leading

    def _finish(self, out: pd.DataFrame, curves: FloatArray) -> pd.DataFrame:
        scored = np.isfinite(curves[:, 0])
        out["verdict"] = np.where(scored, "forecast", "no_verdict")
        out["reason"] = np.where(scored, "", out["reason"])
        out["p_7d"], out["p_14d"], out["p_21d"] = curves[:, 6], curves[:, 13], curves[:, 20]
        for name, level in (("ttf_p10_d", 0.1), ("ttf_p50_d", 0.5), ("ttf_p90_d", 0.9)):
            reached = np.nan_to_num(curves) >= level
            out[name] = np.where(reached.any(axis=1), np.argmax(reached, axis=1) + 1.0, np.nan)
        out["model_version"] = self.version
        held = np.empty(len(out), dtype=object)
        held[:] = [curve if known else None for curve, known in zip(curves, scored, strict=True)]
        out["curve"] = held
        return out.sort_values(["gate_id", "as_of", "component"], ignore_index=True)[list(COLUMNS)]


def feature_matrix(rows: pd.DataFrame, features: Sequence[str]) -> FloatArray:
    """Return the feature columns as float64, shape (rows, features); what is not finite becomes NaN (unknown)."""
    missing = [name for name in features if name not in rows]
    if missing:
        raise ForecastError(f"feature columns are missing: {', '.join(missing)}")
    x = rows[list(features)].to_numpy(dtype=np.float64)
    return np.where(np.isfinite(x), x, np.nan)


def _can_be_scored(rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
    return (rows["reason"].fillna("") == "").to_numpy(dtype=bool)


def _commonest_reason(
    code: IntArray,
    reason: npt.NDArray[np.object_],
    scored: npt.NDArray[np.bool_],
    has_forecast: npt.NDArray[np.bool_],
) -> npt.NDArray[np.object_]:
    out = np.full(len(has_forecast), "", dtype=object)
    silent = ~scored & ~has_forecast[code]
    counts = pd.DataFrame({"code": code[silent], "reason": reason[silent]}).value_counts().reset_index()
    counts = counts.sort_values(["code", "count", "reason"], ascending=[True, False, True]).drop_duplicates("code")
    out[counts["code"].to_numpy(dtype=int)] = counts["reason"].to_numpy()
    return out


def _all_lost(code: IntArray, lost: npt.NDArray[np.object_], n_gates: int) -> npt.NDArray[np.object_]:
    """What the rows of each gate and day lost, in one text."""
    out = np.full(n_gates, "", dtype=object)
    for row in np.flatnonzero(lost != ""):
        told = {*out[code[row]].split("; "), *lost[row].split("; ")} - {""}
        out[code[row]] = "; ".join(sorted(told))
    return out


def _interpolation(horizons_d: Sequence[int]) -> FloatArray:
    """Matrix that spreads cumulative hazards at the learnt horizons linearly over days 1..21."""
    knots = np.array([0, *horizons_d])
    days = np.arange(1, HORIZON_DAYS + 1)
    return np.array([np.interp(days, knots, np.eye(len(knots))[i]) for i in range(1, len(knots))])


def kinds_of(rows: pd.DataFrame) -> npt.NDArray[np.str_]:
    """The kind of each row's component, by which it gets its logistic regression; a name of the user's own is ``other``.

    Rows of gates that are not rich are of kinds of their own, by what they know of `SHAKEN` and of `ASKED`: what is left stands
    for more there.
    """
    kinds = rows["component"].where(rows["component"].isin(COMPONENT_KINDS), "other").to_numpy(dtype=str)
    told = np.select([is_rich(rows), _knows(rows, SHAKEN), _knows(rows, ASKED)], ["", "unasked ", "unshaken "], "bare ")
    return np.char.add(told, kinds)


def is_rich(rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Whether each row's gate knows more than velocity of some component's vibration, and what was asked of the machine."""
    of_gate = [f"{kind}_{name}" for kind in COMPONENT_KINDS for name in SHAKEN]
    return _knows(rows, (*SHAKEN, *of_gate)) & _knows(rows, ASKED)


def _knows(rows: pd.DataFrame, names: Sequence[str]) -> npt.NDArray[np.bool_]:
    return np.asarray(rows[[name for name in names if name in rows]].notna().any(axis=1), dtype=bool)


def scale(x: FloatArray, parts: Mapping[str, Any]) -> FloatArray:
    """Columns that varied, less their median and by their quartile range, as asinh: linear near 0, a logarithm far away.

    Beyond what was seen nothing more is concluded. What is unknown stays NaN.
    """
    z = np.arcsinh((x[:, parts["varied"]] - parts["middle"]) / parts["width"])
    return np.asarray(np.clip(z, parts["least"], parts["most"]))


def in_steps(z: FloatArray) -> FloatArray:
    """Scaled features in steps, see `STEPS`."""
    return np.asarray(np.round(z * STEPS) / STEPS)


def with_hinges(z: FloatArray, dtype: type[np.floating[Any]] = np.float64) -> npt.NDArray[Any]:
    """Scaled features, and how far they lie above 1 and above 2: what is rare counts more than in proportion."""
    z = _typical_where_unknown(z)
    return np.concatenate([z, np.maximum(z - 1, 0), np.maximum(z - 2, 0)], axis=1, dtype=dtype, casting="same_kind")


def _typical_where_unknown(z: FloatArray) -> FloatArray:
    return np.nan_to_num(z, nan=0.0)  # the median


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
    usable = _can_be_scored(rows) & labels["at_risk"].to_numpy()
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
    usable = _can_be_scored(rows) & labels["at_risk"].to_numpy()
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
        model.fit(_typical_where_unknown(z[at]), mode[at].astype(str), sample_weight=weight)
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
