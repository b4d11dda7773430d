"""Forecast and Forecaster: the curve P(failure within 1..21 days) of every component and gate. No clock, no database.

A gradient boosting model that takes the horizon as a feature (so its curve cannot cross itself) and logistic regressions,
one for each kind of component, are averaged in log-odds and then calibrated by two numbers. A gate fails when one of its
components does, or suddenly, without a sign: its curve is put together from those.

What is learnt is kept in scikit-learn and numpy objects and plain numbers only, so that a stored model does not depend
on where this class lives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from models.labels import HORIZON_DAYS, FloatArray, IntArray
from pipeline.errors import BadInput
from pipeline.features import COMPONENT_KINDS

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

LOGISTIC_SHARE = 0.5
"""Weight of the logistic regressions in the mean log-odds."""

POOLED = ""
"""The logistic regression of all kinds together; it stands in for kinds that have none of their own."""

SHAKEN, ASKED = ("acceleration_z", "impulse_z"), ("current_z", "load_7d")
"""Features by which a row knows more of its vibration than the velocity, and what was asked of the machine."""

RICH = "rich"
"""Rows whose gate knows both of some component may have trees of their own; all other rows have those of all rows together."""

MOST_SCALED = 6.0
STEPS = 20
"""The trees see scaled features in steps of 1/20: with so few different values they need not choose their bins by weighted
percentiles, which scikit-learn does slowly, and which would leave the rare high values, the ones that matter, in one bin."""

P_RANGE = (1e-6, 1 - 1e-6)


class ForecastError(BadInput):
    """Rows that cannot be learnt from or scored."""


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
        scored = can_be_scored(rows)
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
        scored = can_be_scored(rows)
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
        scores = typical_where_unknown(z) @ model["weights"].T + model["intercepts"]
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


def can_be_scored(rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
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
    z = typical_where_unknown(z)
    return np.concatenate([z, np.maximum(z - 1, 0), np.maximum(z - 2, 0)], axis=1, dtype=dtype, casting="same_kind")


def typical_where_unknown(z: FloatArray) -> FloatArray:
    return np.nan_to_num(z, nan=0.0)  # the median
