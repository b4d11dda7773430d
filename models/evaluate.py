"""How good a forecast file is: ranking, calibration, lead time and false alarms, with intervals. No clock, no database.

Rows are gate rows. Events are failures of gates, sudden ones included. Alarms are those of the one rule in
`models.policy`. Every interval is a 90 % bootstrap over whole gates, because the days of one gate are nearly copies of
each other: what counts as evidence is gates and failures, not rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.labels import HORIZON_DAYS, FloatArray, History, IntArray, epoch_ms, label, outcome
from models.policy import (
    BUDGET_PER_GATE_YEAR,
    EVIDENCE_DAYS,
    HIGHEST,
    LOWEST,
    NEVER,
    YEAR_DAYS,
    Alarm,
    Judged,
    Policy,
    Replay,
    lowest_while,
    threshold,
)
from pipeline.errors import BadInput
from pipeline.readings import DAY_MS

EVALUABLE_AFTER_D = 31
"""A failure counts when its unit had been watched this long since the start of the file or its last repair."""

USEFUL_D = (7.0, 21.0)
"""Lead time of a useful warning: time to send a crew, and not so early that nobody believes it."""

TAIL_ABOVE = 0.2

BINS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
"""Edges of the bins of p_14d in the reliability curve; the last bin holds its upper edge."""

TTF_SPAN = (0.1, 0.9)
"""The time to failure, given that it lies within 21 days, is said to lie between these shares of curve[20]."""

NOT_FED = ("under_repair", "young", "idle")
"""Reasons that are no fault of the data: there is nothing to judge by yet, or the gate has not moved."""

CURVE_THRESHOLDS = tuple(threshold(hundredths) for hundredths in range(HIGHEST, LOWEST, -20))
CURVE_ENDS_AT = 5.0
"""The curve of false alarms against recall ends at this many times the budget."""

COMPARED = ("ap_14d", "brier_skill_14d", "useful_share", "early_share")
RESAMPLES = 400
FORMAT = "sluicewatch-report/1"

Estimate = dict[str, float | None]
"""``value``, and ``low`` and ``high`` of its 90 % interval; each None where it is not defined."""


class EvaluationError(BadInput):
    """A forecast file from which nothing can be said."""


@dataclass(frozen=True, slots=True)
class Warned:
    """One evaluable failure, and how long before it the gate's alarm had started (None: there was none).

    Attributes
    ----------
    lead_d : real days from the ``as_of`` at which the earliest alarm that overlaps the last 21 days opened
    case_opened_ms : as_of at which a case of the failed component itself opened within that alarm; None where none did
    alone : whether the failure names its component, and no other component of the gate failed within 28 days of it
    """

    gate_id: str
    component: str
    failure_mode: str
    lead_d: float | None
    case_opened_ms: int | None
    alone: bool

    @property
    def right_component(self) -> bool:
        """Whether a case of the failed component itself was among the alarm's."""
        return self.case_opened_ms is not None


@dataclass(frozen=True, slots=True)
class _Sample:
    """The gates of a file, and how often each is drawn in each resample.

    Attributes
    ----------
    draws : shape (resamples + 1, gates); the first row is the file itself, each gate once
    """

    gate_ids: pd.Index
    draws: FloatArray

    @classmethod
    def of(cls, gate_ids: Sequence[str], resamples: int, seed: int) -> _Sample:
        n = len(gate_ids)
        drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
        return cls(pd.Index(gate_ids), np.vstack([np.ones(n), drawn]).astype(np.float64))

    def only(self, gate_ids: Collection[str]) -> _Sample:
        """The same draws, of these gates alone."""
        return replace(self, draws=self.draws * self.gate_ids.isin(list(gate_ids)))

    def place(self, gate_of: Sequence[str] | pd.Series) -> IntArray:
        """Position of each gate."""
        return np.asarray(self.gate_ids.get_indexer(pd.Index(gate_of)), dtype=np.int64)

    def sums(self, place: IntArray, values: npt.ArrayLike) -> FloatArray:
        """Sum of the values in each draw; `place` is the gate each belongs to. Shape (resamples + 1,)."""
        values = np.broadcast_to(np.asarray(values, dtype=np.float64), place.shape)
        return np.asarray(self.draws @ np.bincount(place, weights=values, minlength=len(self.gate_ids)))

    def share(self, place: IntArray, hits: npt.ArrayLike) -> FloatArray:
        """Mean of the hits in each draw."""
        return _divide(self.sums(place, hits), self.sums(place, 1.0))


@dataclass(frozen=True, slots=True)
class _Rows:
    """Gate rows with a forecast and a known outcome at one horizon; `place` is the gate, as in `_Sample`."""

    place: IntArray
    y: FloatArray
    p: FloatArray


@dataclass(frozen=True, slots=True)
class _Events:
    """What one policy makes of a file: the failures with their warnings, the alarms with what became of them."""

    failures: Sequence[Warned]
    alarms: Sequence[Alarm]
    judged: Sequence[Judged]

    @property
    def lead_d(self) -> FloatArray:
        return np.array([np.nan if failure.lead_d is None else failure.lead_d for failure in self.failures])

    @property
    def charged(self) -> FloatArray:
        return np.array([judged.charged for judged in self.judged], dtype=np.float64)


def evaluate(
    forecasts: pd.DataFrame,
    maintenance: pd.DataFrame | History,
    observed_until: Mapping[str, datetime] | pd.Series,
    *,
    policy: Policy | None = None,
    budget_per_gate_year: float = BUDGET_PER_GATE_YEAR,
    are_probabilities: bool = True,
    hoists: Mapping[str, str] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Judge a forecast file against what happened.

    Parameters
    ----------
    forecasts : DataFrame, as `models.forecast.COLUMNS`
    maintenance : records of (at least) these gates
    observed_until : mapping from gate_id to the end of that gate's record
    policy : the threshold it was deployed with. Without one, the lowest threshold is taken that keeps the budget on these
        very gates; that flatters, and the report says so.
    are_probabilities : False for scores that only order the rows; calibration figures are then left out
    hoists : mapping from gate_id to its hoist type, where known

    Returns
    -------
    dict
        Plain values for JSON. ``figures`` maps a name to an `Estimate`. ``by_mode`` and ``by_hoist`` hold counts and
        estimates of each; ``reliability_14d``, ``lead_times_d`` and ``operating_curve`` are what the pictures show.

    Raises
    ------
    EvaluationError
        No gate row has a forecast whose outcome is known, or a curve does not hold 21 values.
    """
    history = maintenance if isinstance(maintenance, History) else History(maintenance)
    forecasts = _normal(forecasts)
    gates = _gate_rows(forecasts)
    replay = Replay(forecasts, history, observed_until)
    threshold_from = "set beforehand"
    if policy is None:
        policy, threshold_from = _lowest_within(replay, budget_per_gate_year), "these very gates (flatters)"

    sample = _Sample.of(replay.gate_ids, resamples, seed)
    labels = label(gates, history, observed_until)
    rows = {horizon_d: _known(gates, labels, horizon_d, sample) for horizon_d in (14, 7)}
    events = _events(replay, policy)
    drawn = _row_draws(rows, sample, are_probabilities) | _event_draws(replay, events, sample)
    drawn |= _naming_draws(forecasts, events, sample) | _silence_draws(gates, sample)
    if are_probabilities and "curve" in gates:
        drawn["ttf_enclosed_share"] = _enclosed(gates, labels, sample)
    as_of = gates["as_of"]
    return {
        "format": FORMAT,
        "model_version": str(gates["model_version"].iloc[0]) if "model_version" in gates else "",
        "first_as_of": as_of.min().isoformat(),
        "last_as_of": as_of.max().isoformat(),
        "gates": len(replay.gate_ids),
        "gate_years": len(gates) / YEAR_DAYS,
        "threshold": policy.open_at,
        "threshold_from": threshold_from,
        "budget_per_gate_year": policy.budget_per_gate_year,
        "calibrated_here": policy.calibrated_here,
        "are_probabilities": are_probabilities,
        "counts": _counts(replay, events),
        "figures": {name: _interval(values) for name, values in drawn.items()},
        "by_component": _by_component(events),
        "by_mode": _by_mode(events, sample),
        "by_hoist": _by_hoist(gates, rows, replay, events, sample, hoists or {}, are_probabilities),
        "reliability_14d": _reliability(rows[14], sample) if are_probabilities else [],
        "lead_times_d": sorted(events.lead_d[np.isfinite(events.lead_d)].tolist()),
        "operating_curve": _operating_curve(replay, policy),
    }


def compare(
    files: Mapping[str, tuple[pd.DataFrame, Policy]],
    maintenance: pd.DataFrame | History,
    observed_until: Mapping[str, datetime] | pd.Series,
    *,
    figures: Sequence[str] = COMPARED,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, dict[str, Estimate]]:
    """Ratio of the first file's figures to those of each other file, with the interval of a paired bootstrap over gates.

    Figures of rows (AP, Brier skill) are those of the gate rows that both files of a pair forecast. Figures of failures are
    each file's own, under its own policy: a failure that a file was silent about is one that it missed.

    Parameters
    ----------
    files : mapping from a name to a forecast file and the policy it is deployed with
        All about the same gates; fleets may be pooled under gate ids that tell them apart.
    figures : which; names as in the report of `evaluate`

    Returns
    -------
    dict
        Name of each other file to figure to `Estimate`; None where the other's figure is not above 0.

    Raises
    ------
    EvaluationError
        The files speak of different gates, or have no row with a known outcome in common.
    """
    history = maintenance if isinstance(maintenance, History) else History(maintenance)
    parts = {name: _normal(forecasts) for name, (forecasts, _) in files.items()}
    replays = {name: Replay(part, history, observed_until) for name, part in parts.items()}
    first, *others = files
    sample = _Sample.of(replays[first].gate_ids, resamples, seed)
    for name in others:
        if replays[name].gate_ids != replays[first].gate_ids:
            raise EvaluationError(f"{name} and {first} must speak of the same gates to be compared")
    of_events = {name: _event_draws(replays[name], _events(replays[name], policy), sample) for name, (_, policy) in files.items()}
    spoken = {name: _gate_rows(part).dropna(subset="p_14d") for name, part in parts.items()}
    out: dict[str, dict[str, Estimate]] = {}
    for name in others:
        pair = {}
        for one, other in ((first, name), (name, first)):
            rows = spoken[one].merge(spoken[other][["gate_id", "as_of"]])
            known = _known(rows, label(rows, history, observed_until), 14, sample)
            pair[one] = of_events[one] | _row_draws({14: known}, sample, are_probabilities=True)
        out[name] = {figure: _interval(_divide(pair[first][figure], pair[name][figure])) for figure in figures}
    return out


def _normal(forecasts: pd.DataFrame) -> pd.DataFrame:
    return forecasts.assign(component=forecasts["component"].astype(object).where(forecasts["component"].notna(), ""))


def _gate_rows(forecasts: pd.DataFrame) -> pd.DataFrame:
    gates = forecasts[forecasts["component"] == ""].drop_duplicates(["gate_id", "as_of"], keep="last")
    if gates.empty:
        raise EvaluationError("the forecast file has no gate row (a row whose component is empty)")
    return gates.reset_index(drop=True)


def _lowest_within(replay: Replay, budget_per_gate_year: float) -> Policy:
    """Lowest threshold, searched from above, whose counted rate keeps the budget."""

    def keeps(open_at: float) -> bool:
        policy = Policy(open_at, budget_per_gate_year=budget_per_gate_year)
        return replay.false_alarms(policy) <= budget_per_gate_year * replay.gate_years

    return Policy(lowest_while(keeps) or NEVER, budget_per_gate_year=budget_per_gate_year)


def _interval(values: FloatArray) -> Estimate:
    """The first value is the estimate, the others the resamples."""
    if not np.isfinite(values[0]):
        return {"value": None, "low": None, "high": None}
    known = values[1:][np.isfinite(values[1:])]
    if len(known) == 0:
        return {"value": float(values[0]), "low": None, "high": None}
    low, high = np.quantile(known, [0.05, 0.95])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


def _divide(above: FloatArray, below: FloatArray) -> FloatArray:
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)


def _known(gates: pd.DataFrame, labels: pd.DataFrame, horizon_d: int, sample: _Sample) -> _Rows:
    y = outcome(labels, horizon_d)
    p = pd.to_numeric(gates[f"p_{horizon_d}d"]).to_numpy(dtype="float64", na_value=np.nan)
    known = np.isfinite(y) & np.isfinite(p)
    if not known.any():
        raise EvaluationError(f"no gate row has both a forecast and a known outcome within {horizon_d} days")
    return _Rows(sample.place(gates["gate_id"][known]), y[known], p[known])


def _row_draws(rows: Mapping[int, _Rows], sample: _Sample, are_probabilities: bool) -> dict[str, FloatArray]:
    out: dict[str, FloatArray] = {}
    for horizon_d, known in rows.items():
        out[f"ap_{horizon_d}d"] = _average_precisions(known, sample)
        if horizon_d == 14:
            out["base_rate_14d"] = sample.share(known.place, known.y)
            out |= _calibration_draws(known, sample) if are_probabilities else {}
    return out


def _calibration_draws(rows: _Rows, sample: _Sample) -> dict[str, FloatArray]:
    y, p = rows.y, rows.p
    brier = sample.share(rows.place, (p - y) ** 2)
    rate = sample.share(rows.place, y)
    safe = np.clip(p, 1e-6, 1 - 1e-6)
    log_loss = sample.share(rows.place, -(y * np.log(safe) + (1 - y) * np.log1p(-safe)))
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = np.where((rate > 0) & (rate < 1), -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)), 0.0)
    tail = p > TAIL_ABOVE
    forecast, observed = sample.share(rows.place[tail], p[tail]), sample.share(rows.place[tail], y[tail])
    return {
        "brier_14d": brier,
        "brier_skill_14d": 1 - _divide(brier, rate * (1 - rate)),
        "log_loss_skill_14d": 1 - _divide(log_loss, entropy),
        "mean_forecast_14d": sample.share(rows.place, p),
        "tail_forecast_14d": forecast,
        "tail_observed_14d": observed,
        "tail_error_14d": np.abs(forecast - observed),
    }


def _average_precisions(rows: _Rows, sample: _Sample) -> FloatArray:
    """Average precision of the rows under each draw of gates; NaN where a draw has no event."""
    ever = np.asarray(sample.draws.sum(axis=0) > 0)[rows.place]
    y, p, place = rows.y[ever], rows.p[ever], rows.place[ever]
    out = np.full(len(sample.draws), np.nan)
    if not len(p):
        return out
    order = np.argsort(-p, kind="stable")
    y, p, place = y[order], p[order], place[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(p)), len(p) - 1)
    for i, weights in enumerate(sample.draws):
        weight = weights[place]
        hits = np.cumsum(weight * y)[last_of_tie]
        shown = np.cumsum(weight)[last_of_tie]
        if hits[-1] > 0:
            precision = _divide(hits, shown)
            out[i] = np.nansum(np.diff(hits, prepend=0.0) * precision) / hits[-1]
    return out


def _enclosed(gates: pd.DataFrame, labels: pd.DataFrame, sample: _Sample) -> FloatArray:
    """Share of the failures within 21 days whose day lies where the curve, given a failure within 21 days, puts it.

    Each failure weighs the same: it counts as the mean over the rows that saw it coming.
    """
    told = gates["curve"].notna().to_numpy() & labels["at_risk"].to_numpy()
    told &= labels["failure_d"].to_numpy() <= HORIZON_DAYS
    if not told.any():
        return np.full(len(sample.draws), np.nan)
    lengths = set(gates["curve"][told].map(len)) - {HORIZON_DAYS}
    if lengths:
        raise EvaluationError(f"a curve must hold {HORIZON_DAYS} values, one a day; got {min(lengths)}")
    day = labels["failure_d"].to_numpy()[told]
    curve = np.stack(gates["curve"][told].to_list()).astype(np.float64)
    given = _divide(curve, np.repeat(curve[:, -1:], HORIZON_DAYS, axis=1))
    first, last = (np.argmax(given >= share, axis=1) + 1 for share in TTF_SPAN)
    failed_on = epoch_ms(gates["as_of"][told]) // DAY_MS + day.astype(np.int64)
    rows = pd.DataFrame({"gate_id": gates["gate_id"][told].to_numpy(), "day": failed_on, "hit": (first <= day) & (day <= last)})
    failures = rows.groupby(["gate_id", "day"], as_index=False)["hit"].mean()
    return sample.share(sample.place(failures["gate_id"]), failures["hit"])


def _silence_draws(gates: pd.DataFrame, sample: _Sample) -> dict[str, FloatArray]:
    """Share of gate-days without verdict: of all, and of those with a healthy feed.

    A feed is called healthy when neither the verdict nor its reason says that the gate is under repair, young or idle: what a
    forecast file tells of duty it tells by its reasons. A stale feed counts as one that should have been forecast.
    """
    place = sample.place(gates["gate_id"])
    silent = (gates["verdict"] != "forecast").to_numpy()
    excused = silent & gates["reason"].isin(NOT_FED).to_numpy() if "reason" in gates else np.zeros(len(gates), dtype=bool)
    return {
        "no_verdict_share": sample.share(place, silent),
        "no_verdict_healthy_share": sample.share(place[~excused], silent[~excused]),
    }


def _events(replay: Replay, policy: Policy) -> _Events:
    alarms = {gate_id: replay.alarms(policy, gate_id) for gate_id in replay.gate_ids}
    flat = [alarm for of_gate in alarms.values() for alarm in of_gate]
    return _Events(evaluable_failures(replay, alarms), flat, [replay.judge(alarm) for alarm in flat])


def evaluable_failures(replay: Replay, alarms: Mapping[str, Sequence[Alarm]]) -> list[Warned]:
    """Return the failures inside the file that could have been warned of, with what warning there was.

    A failure counts when it came within the days of the file, at least 31 days after the file's first day of that gate and
    after the last repair or replacement of what failed. A failure of no component goes by repairs of the whole gate only.
    """
    out: list[Warned] = []
    for gate_id in replay.gate_ids:
        whole = replay.history.unit(gate_id, "")
        others = list(zip(whole.failures_ms.tolist(), whole.failed, strict=True))
        for failed_ms, component, mode in zip(whole.failures_ms.tolist(), whole.failed, whole.modes, strict=True):
            unit = replay.history.unit(gate_id, component) if component else whole
            ends_ms = unit.down_ms[:, 1] if component else np.array([], dtype=np.int64)
            fresh_ms = max([replay.scored_from_ms[gate_id], *ends_ms[ends_ms <= failed_ms].tolist()])
            inside = failed_ms <= replay.scored_until_ms[gate_id] + DAY_MS
            if inside and failed_ms - fresh_ms >= EVALUABLE_AFTER_D * DAY_MS:
                lead_d, opened_ms = _warning(component, failed_ms, alarms[gate_id])
                beside = (abs(at - failed_ms) <= EVIDENCE_DAYS * DAY_MS for at, other in others if other not in ("", component))
                alone = component != "" and not any(beside)
                out.append(Warned(gate_id, component, mode, lead_d, opened_ms, alone))
    return out


def _warning(component: str, failed_ms: int, alarms: Sequence[Alarm]) -> tuple[float | None, int | None]:
    """Days from the start of the alarm to the failure, and when the component's own case opened; None where there is none."""
    since_ms = failed_ms - round(USEFUL_D[1]) * DAY_MS
    standing = [alarm for alarm in alarms if alarm.started_ms < failed_ms and alarm.ended_ms > since_ms]
    if not standing:
        return None, None
    return (failed_ms - standing[0].started_ms) / DAY_MS, standing[0].opened_ms.get(component)


def _event_draws(replay: Replay, events: _Events, sample: _Sample) -> dict[str, FloatArray]:
    lead_d = events.lead_d
    failed, alarmed = (sample.place([event.gate_id for event in some]) for some in (events.failures, events.alarms))
    decided = np.array([judged.is_true is not None for judged in events.judged], dtype=bool)
    is_true = np.array([judged.is_true is True for judged in events.judged], dtype=bool)
    days = np.array([replay.evidence_days[gate_id] for gate_id in sample.gate_ids])
    years = sample.sums(np.arange(len(days)), days) / YEAR_DAYS
    return {
        **{name: sample.share(failed, hits) for name, hits in _warnings(lead_d).items()},
        "lead_time_median_d": _medians(lead_d, failed, sample),
        "false_alarms_per_gate_year": _divide(sample.sums(alarmed, events.charged), years),
        "alarm_precision": sample.share(alarmed[decided], is_true[decided]),
    }


def _warnings(lead_d: FloatArray) -> dict[str, npt.NDArray[np.bool_]]:
    """Which failures were warned of, by the name of the share they make up."""
    early = lead_d >= USEFUL_D[0]
    return {"useful_share": early & (lead_d <= USEFUL_D[1]), "early_share": early, "warned_share": np.isfinite(lead_d)}


def _naming_draws(forecasts: pd.DataFrame, events: _Events, sample: _Sample) -> dict[str, FloatArray]:
    """Of the warned failures that came alone: how many at the right component, and how many of those by the right mode.

    The mode is what the component's row said on the day on which its case opened; failures without a recorded mode are
    left out.
    """
    warned = [failure for failure in events.failures if failure.alone and failure.lead_d is not None]
    right = np.array([failure.right_component for failure in warned], dtype=bool)
    out = {"right_component_share": sample.share(sample.place([failure.gate_id for failure in warned]), right)}
    if "failure_mode" in forecasts and forecasts["failure_mode"].notna().any():
        named = [failure for failure in warned if failure.right_component and failure.failure_mode]
        keys = pd.DataFrame(
            {
                "gate_id": pd.Series([failure.gate_id for failure in named], dtype=object),
                "component": pd.Series([failure.component for failure in named], dtype=object),
                "as_of_ms": pd.Series([failure.case_opened_ms for failure in named], dtype=np.int64),
            }
        )
        told = forecasts.loc[forecasts["gate_id"].isin(keys["gate_id"]), ["gate_id", "component", "as_of", "failure_mode"]]
        told = told.assign(as_of_ms=epoch_ms(told["as_of"])).drop_duplicates(["gate_id", "component", "as_of_ms"], keep="last")
        said = keys.merge(told, on=["gate_id", "component", "as_of_ms"], how="left")["failure_mode"]
        hits = said.to_numpy() == np.array([failure.failure_mode for failure in named], dtype=object)
        out["right_mode_share"] = sample.share(sample.place(keys["gate_id"]), hits)
    return out


def _counts(replay: Replay, events: _Events) -> dict[str, int]:
    warned = {name: int(hits.sum()) for name, hits in _warnings(events.lead_d).items()}
    return {
        "failures": sum(_inside(replay, gate_id) for gate_id in replay.gate_ids),
        "evaluable_failures": len(events.failures),
        "evaluable_failures_without_component": sum(not failure.component for failure in events.failures),
        "useful_warnings": warned["useful_share"],
        "warnings_7_days_or_more_ahead": warned["early_share"],
        "warned_failures": warned["warned_share"],
        "warned_at_the_right_component": sum(failure.right_component for failure in events.failures),
        "alarms": len(events.alarms),
        "true_alarms": sum(judged.is_true is True for judged in events.judged),
        "false_alarms": sum(judged.charged for judged in events.judged),
        "undecided_alarms": sum(judged.is_true is None for judged in events.judged),
    }


def _inside(replay: Replay, gate_id: str) -> int:
    failures_ms = replay.history.unit(gate_id, "").failures_ms
    first_ms, last_ms = replay.scored_from_ms[gate_id], replay.scored_until_ms[gate_id] + DAY_MS
    return int(((failures_ms > first_ms) & (failures_ms <= last_ms)).sum())


def _by_component(events: _Events) -> dict[str, dict[str, int]]:
    hits = _warnings(events.lead_d)
    out: dict[str, dict[str, int]] = {}
    for number, failure in enumerate(events.failures):
        row = out.setdefault(failure.component or "none", {"failures": 0, "useful": 0, "early": 0})
        row["failures"] += 1
        row["useful"] += int(hits["useful_share"][number])
        row["early"] += int(hits["early_share"][number])
    return dict(sorted(out.items()))


def _by_mode(events: _Events, sample: _Sample) -> dict[str, dict[str, Any]]:
    """Failures of each recorded mode (``none`` where there is none), and what share was warned of."""
    mode_of = np.array([failure.failure_mode or "none" for failure in events.failures], dtype=object)
    place = sample.place([failure.gate_id for failure in events.failures])
    hits = _warnings(events.lead_d)
    out: dict[str, dict[str, Any]] = {}
    for mode in sorted(set(mode_of)):
        of_mode = mode_of == mode
        shares = {name: _interval(sample.share(place[of_mode], hit[of_mode])) for name, hit in hits.items()}
        out[mode] = {"failures": int(of_mode.sum()), **shares}
    return out


def _by_hoist(
    gates: pd.DataFrame,
    rows: Mapping[int, _Rows],
    replay: Replay,
    events: _Events,
    sample: _Sample,
    hoists: Mapping[str, str],
    are_probabilities: bool,
) -> dict[str, dict[str, Any]]:
    days = gates["gate_id"].value_counts()
    out: dict[str, dict[str, Any]] = {}
    for hoist in sorted({hoists.get(gate_id, "") for gate_id in replay.gate_ids} - {""}):
        ids = [gate_id for gate_id in replay.gate_ids if hoists.get(gate_id) == hoist]
        here = sample.only(ids)
        drawn = _row_draws({14: rows[14]}, here, are_probabilities) | _event_draws(replay, events, here)
        wanted = ("ap_14d", "brier_skill_14d", "useful_share", "early_share", "false_alarms_per_gate_year")
        out[hoist] = {
            "gates": len(ids),
            "gate_years": float(days[ids].sum() / YEAR_DAYS),
            "failures": sum(failure.gate_id in set(ids) for failure in events.failures),
            **{name: _interval(drawn[name]) for name in wanted if name in drawn},
        }
    return out


def _reliability(rows: _Rows, sample: _Sample) -> list[dict[str, Any]]:
    """What happened within 14 days, bin by bin of what was forecast; empty bins are left out."""
    out = []
    for low, high in pairwise(BINS):
        inside = (rows.p >= low) & ((rows.p < high) | (high == BINS[-1]))
        if inside.any():
            place = rows.place[inside]
            out.append(
                {
                    "from": low,
                    "to": high,
                    "rows": int(inside.sum()),
                    "gates": len(np.unique(place)),
                    "forecast": float(rows.p[inside].mean()),
                    "observed": _interval(sample.share(place, rows.y[inside])),
                }
            )
    return out


def _operating_curve(replay: Replay, policy: Policy) -> list[dict[str, float]]:
    """False alarms per gate-year and shares of failures warned of, at falling thresholds, from the first that rings."""
    out: list[dict[str, float]] = []
    if replay.gate_years == 0:
        return out
    for open_at in CURVE_THRESHOLDS:
        events = _events(replay, replace(policy, open_at=open_at))
        rate = float(events.charged.sum()) / replay.gate_years
        if not events.failures or rate > CURVE_ENDS_AT * policy.budget_per_gate_year:
            break
        if events.alarms:
            shares = {name: float(hits.mean()) for name, hits in _warnings(events.lead_d).items()}
            out.append({"threshold": open_at, "false_alarms_per_gate_year": rate, **shares})
    return out


def _medians(lead_d: FloatArray, place: IntArray, sample: _Sample) -> FloatArray:
    """Median lead time of the warned failures in each draw."""
    warned = np.isfinite(lead_d)
    order = np.argsort(lead_d[warned])
    lead_d, place = lead_d[warned][order], place[warned][order]
    medians = np.full(len(sample.draws), np.nan)
    for i, weights in enumerate(sample.draws):
        copies = np.repeat(lead_d, weights[place].astype(int))
        medians[i] = np.median(copies) if len(copies) else np.nan
    return medians


_LINES: tuple[tuple[str, str, str], ...] = (
    ("AP at 14 d", "ap_14d", "{:.3f}"),
    ("AP at 7 d", "ap_7d", "{:.3f}"),
    ("Brier skill at 14 d", "brier_skill_14d", "{:+.3f}"),
    ("log-loss skill at 14 d", "log_loss_skill_14d", "{:+.3f}"),
    ("p > 0.2: mean forecast", "tail_forecast_14d", "{:.2f}"),
    ("p > 0.2: observed", "tail_observed_14d", "{:.2f}"),
    ("p > 0.2: error", "tail_error_14d", "{:.2f}"),
    ("failed within 10-90 % of curve", "ttf_enclosed_share", "{:.2f}"),
    ("warned 7-21 d ahead", "useful_share", "{:.2f}"),
    ("warned >= 7 d ahead", "early_share", "{:.2f}"),
    ("median lead time (d)", "lead_time_median_d", "{:.1f}"),
    ("false alarms / gate-year", "false_alarms_per_gate_year", "{:.2f}"),
    ("alarms that came true", "alarm_precision", "{:.2f}"),
    ("warned at the right component", "right_component_share", "{:.2f}"),
    ("warned of the right mode", "right_mode_share", "{:.2f}"),
    ("days without verdict", "no_verdict_share", "{:.3f}"),
    ("the same, healthy feeds", "no_verdict_healthy_share", "{:.3f}"),
)


def table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the reports side by side as text, the first with its 90 % intervals."""
    names = list(reports)
    first = reports[names[0]]
    counts = first["counts"]
    lines = [
        f"{first['gates']} gates, {first['gate_years']:.1f} gate-years, {counts['evaluable_failures']} evaluable failures "
        f"({counts['evaluable_failures_without_component']} of them sudden), budget {first['budget_per_gate_year']:g} "
        "false alarms per gate-year",
    ]
    rows = [["", *names]]
    for title, figure, form in _LINES:
        if not any(figure in report["figures"] for report in reports.values()):
            continue  # reports of an older version lack it
        cells = [_cell(report["figures"].get(figure), form, with_interval=i == 0) for i, report in enumerate(reports.values())]
        rows.append([title, *cells])
    rows.append(["threshold on p_14d", *(f"{report['threshold']:.3g}" for report in reports.values())])
    widths = [max(len(row[i]) for row in rows) for i in range(len(names) + 1)]
    for row in rows:
        lines.append("  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]))
    titles = {figure: title for title, figure, _ in _LINES}
    for name, report in reports.items():
        ratios = report.get("model_against_it", {})
        told = [f"{titles[figure]} {_cell(ratio, '{:.2f}', with_interval=True)}" for figure, ratio in ratios.items()]
        if told:
            lines.append(f"{names[0]} / {name}: {', '.join(told)}")
    if first.get("learnt_from"):
        lines.append(
            f"The model had learnt from {first['learnt_from']} of these {first['gates']} gates: on them its figures prove "
            "nothing."
        )
    flattered = [name for name, report in reports.items() if report["threshold_from"] != "set beforehand"]
    if flattered:
        lines.append(f"Threshold chosen on these very gates, which flatters: {', '.join(flattered)}.")
    learnt_here = [name for name, report in reports.items() if report.get("learnt_here")]
    if learnt_here:
        lines.append(f"Learnt from these very rows, without their outcomes: {', '.join(learnt_here)}.")
    if counts["evaluable_failures"] < 30:
        lines.append(f"Only {counts['evaluable_failures']} failures: read the intervals, not the values.")
    return "\n".join(line.rstrip() for line in lines)


def _cell(figure: Mapping[str, float | None] | None, form: str, *, with_interval: bool) -> str:
    if figure is None or figure["value"] is None:
        return "-"
    text = form.format(figure["value"])
    if with_interval and figure["low"] is not None:
        text += f" ({form.format(figure['low'])} to {form.format(figure['high'])})"
    return text
