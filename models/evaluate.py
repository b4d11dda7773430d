"""How good a forecast file is: ranking, calibration, lead time and false alarms, with intervals. No clock, no database.

Rows are gate rows. Events are failures of gates, sudden ones included. Alarms are those of the one rule in
`models.policy`. Every interval is a 90 % bootstrap over whole gates, because the days of one gate are nearly copies of
each other: what counts as evidence is gates and failures, not rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.labels import FloatArray, History, IntArray, label, outcome
from models.policy import BUDGET_PER_GATE_YEAR, NEVER, THRESHOLDS, YEAR_DAYS, Alarm, Policy, Replay
from pipeline.errors import BadInput
from pipeline.readings import DAY_MS

EVALUABLE_AFTER_D = 31
"""A failure counts when its unit had been watched this long since the start of the file or its last repair."""

USEFUL_D = (7.0, 21.0)
"""Lead time of a useful warning: time to send a crew, and not so early that nobody believes it."""

TAIL_ABOVE = 0.2
RESAMPLES = 400
FORMAT = "sluicewatch-report/1"


class EvaluationError(BadInput):
    """A forecast file from which nothing can be said."""


@dataclass(frozen=True, slots=True)
class Warned:
    """One evaluable failure, and how long before it the gate's alarm had started (None: there was none).

    Attributes
    ----------
    lead_d : real days from the ``as_of`` at which the earliest alarm that overlaps the last 21 days opened
    right_component : whether a case of the failed component itself was among that alarm's
    """

    gate_id: str
    component: str
    failure_mode: str
    lead_d: float | None
    right_component: bool


def evaluate(
    forecasts: pd.DataFrame,
    maintenance: pd.DataFrame | History,
    observed_until: Mapping[str, datetime] | pd.Series,
    *,
    policy: Policy | None = None,
    budget_per_gate_year: float = BUDGET_PER_GATE_YEAR,
    are_probabilities: bool = True,
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

    Returns
    -------
    dict
        Plain values for JSON. ``figures`` maps a name to ``{"value", "low", "high"}``, each None where it is not defined.

    Raises
    ------
    EvaluationError
        No gate row has a forecast whose outcome is known.
    """
    history = maintenance if isinstance(maintenance, History) else History(maintenance)
    forecasts = forecasts.assign(component=forecasts["component"].astype(object).where(forecasts["component"].notna(), ""))
    gates = forecasts[forecasts["component"] == ""].drop_duplicates(["gate_id", "as_of"], keep="last")
    gates = gates.reset_index(drop=True)
    if gates.empty:
        raise EvaluationError("the forecast file has no gate row (a row whose component is empty)")
    replay = Replay(forecasts, history, observed_until)
    gate_ids = replay.gate_ids
    threshold_from = "set beforehand"
    if policy is None:
        policy, threshold_from = _lowest_within(replay, budget_per_gate_year), "these very gates (flatters)"

    draws = _draws(len(gate_ids), resamples, seed)
    labels = label(gates, history, observed_until)
    figures = _row_figures(gates, labels, gate_ids, draws, are_probabilities)
    counts, event_figures, by_component = _event_figures(replay, policy, gate_ids, draws)
    figures |= event_figures
    silent = _per_gate(gates["gate_id"], np.asarray(gates["verdict"] != "forecast", dtype=np.float64), gate_ids)
    days = _per_gate(gates["gate_id"], np.ones(len(gates)), gate_ids)
    figures["no_verdict_share"] = _ratio(silent, days, draws)
    as_of = gates["as_of"]
    return {
        "format": FORMAT,
        "model_version": str(gates["model_version"].iloc[0]) if "model_version" in gates else "",
        "first_as_of": as_of.min().isoformat(),
        "last_as_of": as_of.max().isoformat(),
        "gates": len(gate_ids),
        "gate_years": float(days.sum() / YEAR_DAYS),
        "threshold": policy.open_at,
        "threshold_from": threshold_from,
        "budget_per_gate_year": policy.budget_per_gate_year,
        "calibrated_here": policy.calibrated_here,
        "are_probabilities": are_probabilities,
        "counts": counts,
        "figures": figures,
        "by_component": by_component,
    }


def _lowest_within(replay: Replay, budget_per_gate_year: float) -> Policy:
    """Lowest threshold, searched from above, whose counted rate keeps the budget."""
    chosen = Policy(NEVER, budget_per_gate_year=budget_per_gate_year)
    for open_at in THRESHOLDS:
        candidate = Policy(open_at, budget_per_gate_year=budget_per_gate_year)
        if replay.false_alarms(candidate) > budget_per_gate_year * replay.gate_years:
            break
        chosen = candidate
    return chosen


def _draws(n_gates: int, resamples: int, seed: int) -> FloatArray:
    """How often each gate is drawn in each resample, shape (resamples + 1, gates); the first row is the file itself."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n_gates, np.full(n_gates, 1 / n_gates), size=resamples)
    return np.vstack([np.ones(n_gates), drawn]).astype(np.float64)


def _per_gate(gate_of: pd.Series | Sequence[str], values: FloatArray, gate_ids: Sequence[str]) -> FloatArray:
    index = pd.Index(gate_ids).get_indexer(pd.Index(gate_of))
    return np.asarray(np.bincount(index, weights=values, minlength=len(gate_ids)), dtype=np.float64)


def _interval(values: FloatArray) -> dict[str, float | None]:
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


def _ratio(above: FloatArray, below: FloatArray, draws: FloatArray) -> dict[str, float | None]:
    return _interval(_divide(draws @ above, draws @ below))


def _row_figures(
    gates: pd.DataFrame, labels: pd.DataFrame, gate_ids: list[str], draws: FloatArray, are_probabilities: bool
) -> dict[str, dict[str, float | None]]:
    figures: dict[str, dict[str, float | None]] = {}
    gate_index = pd.Index(gate_ids).get_indexer(pd.Index(gates["gate_id"]))
    for horizon_d in (14, 7):
        y = outcome(labels, horizon_d)
        p = pd.to_numeric(gates[f"p_{horizon_d}d"]).to_numpy(dtype="float64", na_value=np.nan)
        known = np.isfinite(y) & np.isfinite(p)
        if not known.any():
            raise EvaluationError(f"no gate row has both a forecast and a known outcome within {horizon_d} days")
        y, p, gate = y[known], p[known], gate_index[known]
        figures[f"ap_{horizon_d}d"] = _interval(_average_precisions(y, p, gate, draws))
        if horizon_d == 14:
            n, events = _sums(gate, np.ones_like(y), draws), _sums(gate, y, draws)
            figures["base_rate_14d"] = _interval(events / n)
            figures |= _calibration_figures(y, p, gate, n, events, draws) if are_probabilities else {}
    return figures


def _sums(gate: IntArray, values: FloatArray, draws: FloatArray) -> FloatArray:
    return draws @ np.bincount(gate, weights=values, minlength=draws.shape[1])


def _calibration_figures(
    y: FloatArray, p: FloatArray, gate: IntArray, n: FloatArray, events: FloatArray, draws: FloatArray
) -> dict[str, dict[str, float | None]]:
    brier = _sums(gate, (p - y) ** 2, draws) / n
    rate = events / n
    safe = np.clip(p, 1e-6, 1 - 1e-6)
    log_loss = _sums(gate, -(y * np.log(safe) + (1 - y) * np.log1p(-safe)), draws) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = np.where((rate > 0) & (rate < 1), -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)), 0.0)
    tail = (p > TAIL_ABOVE).astype(float)
    in_tail = _sums(gate, tail, draws)
    forecast, observed = _divide(_sums(gate, tail * p, draws), in_tail), _divide(_sums(gate, tail * y, draws), in_tail)
    return {
        "brier_14d": _interval(brier),
        "brier_skill_14d": _interval(1 - _divide(brier, rate * (1 - rate))),
        "log_loss_skill_14d": _interval(1 - _divide(log_loss, entropy)),
        "mean_forecast_14d": _interval(_sums(gate, p, draws) / n),
        "tail_forecast_14d": _interval(forecast),
        "tail_observed_14d": _interval(observed),
    }


def _average_precisions(y: FloatArray, p: FloatArray, gate: IntArray, draws: FloatArray) -> FloatArray:
    """Average precision of the rows under each draw of gates; NaN where a draw has no event."""
    order = np.argsort(-p, kind="stable")
    y, p, gate = y[order], p[order], gate[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(p)), len(p) - 1)
    out = np.full(len(draws), np.nan)
    for i, weights in enumerate(draws):
        weight = weights[gate]
        hits = np.cumsum(weight * y)[last_of_tie]
        shown = np.cumsum(weight)[last_of_tie]
        if hits[-1] > 0:
            precision = _divide(hits, shown)
            out[i] = np.nansum(np.diff(hits, prepend=0.0) * precision) / hits[-1]
    return out


def evaluable_failures(replay: Replay, policy: Policy) -> list[Warned]:
    """Return the failures inside the file that could have been warned of, with what warning there was.

    A failure counts when it came within the days of the file, at least 31 days after the file's first day of that gate and
    after the last repair or replacement of what failed. A failure of no component goes by repairs of the whole gate only.
    """
    out: list[Warned] = []
    for gate_id in replay.gate_ids:
        alarms = replay.alarms(policy, gate_id)
        whole = replay.history.unit(gate_id, "")
        for failed_ms, component, mode in zip(whole.failures_ms.tolist(), whole.failed, whole.modes, strict=True):
            unit = replay.history.unit(gate_id, component) if component else whole
            ends_ms = unit.down_ms[:, 1] if component else np.array([], dtype=np.int64)
            fresh_ms = max([replay.scored_from_ms[gate_id], *ends_ms[ends_ms <= failed_ms].tolist()])
            inside = failed_ms <= replay.scored_until_ms[gate_id] + DAY_MS
            if inside and failed_ms - fresh_ms >= EVALUABLE_AFTER_D * DAY_MS:
                out.append(_warned(gate_id, component, mode, failed_ms, alarms))
    return out


def _warned(gate_id: str, component: str, mode: str, failed_ms: int, alarms: Sequence[Alarm]) -> Warned:
    since_ms = failed_ms - round(USEFUL_D[1]) * DAY_MS
    standing = [alarm for alarm in alarms if alarm.started_ms < failed_ms and alarm.ended_ms > since_ms]
    if not standing:
        return Warned(gate_id, component, mode, None, right_component=False)
    first = standing[0]
    return Warned(
        gate_id, component, mode, (failed_ms - first.started_ms) / DAY_MS, right_component=component in first.components
    )


def _event_figures(
    replay: Replay, policy: Policy, gate_ids: list[str], draws: FloatArray
) -> tuple[dict[str, int], dict[str, dict[str, float | None]], dict[str, dict[str, int]]]:
    failures = evaluable_failures(replay, policy)
    alarms = [alarm for gate_id in gate_ids for alarm in replay.alarms(policy, gate_id)]
    judged = [replay.judge(alarm) for alarm in alarms]
    lead = np.array([np.nan if f.lead_d is None else f.lead_d for f in failures])
    useful = (lead >= USEFUL_D[0]) & (lead <= USEFUL_D[1])
    early = lead >= USEFUL_D[0]
    gate_of_failure, gate_of_alarm = [f.gate_id for f in failures], [alarm.gate_id for alarm in alarms]

    def failure_share(hits: npt.NDArray[np.bool_]) -> dict[str, float | None]:
        hit = _per_gate(gate_of_failure, hits.astype(float), gate_ids)
        return _ratio(hit, _per_gate(gate_of_failure, np.ones(len(failures)), gate_ids), draws)

    charged = np.array([j.charged for j in judged], dtype=float)
    is_true = np.array([j.is_true is True for j in judged], dtype=float)
    decided = np.array([j.is_true is not None for j in judged], dtype=float)
    years = np.array([replay.evidence_days[gate_id] / YEAR_DAYS for gate_id in gate_ids])
    figures = {
        "useful_share": failure_share(useful),
        "early_share": failure_share(early),
        "warned_share": failure_share(np.isfinite(lead)),
        "lead_time_median_d": _median_lead(lead, gate_of_failure, gate_ids, draws),
        "false_alarms_per_gate_year": _ratio(_per_gate(gate_of_alarm, charged, gate_ids), years, draws),
        "alarm_precision": _ratio(
            _per_gate(gate_of_alarm, is_true, gate_ids), _per_gate(gate_of_alarm, decided, gate_ids), draws
        ),
    }
    counts = {
        "failures": sum(_inside(replay, gate_id) for gate_id in gate_ids),
        "evaluable_failures": len(failures),
        "evaluable_failures_without_component": sum(not f.component for f in failures),
        "useful_warnings": int(useful.sum()),
        "warnings_7_days_or_more_ahead": int(early.sum()),
        "warned_failures": int(np.isfinite(lead).sum()),
        "warned_at_the_right_component": sum(f.right_component for f in failures),
        "alarms": len(alarms),
        "true_alarms": int(is_true.sum()),
        "false_alarms": int(charged.sum()),
        "undecided_alarms": int((1 - decided).sum()),
    }
    by_component: dict[str, dict[str, int]] = {}
    for failure, is_useful, is_early in zip(failures, useful.tolist(), early.tolist(), strict=True):
        row = by_component.setdefault(failure.component or "none", {"failures": 0, "useful": 0, "early": 0})
        row["failures"] += 1
        row["useful"] += is_useful
        row["early"] += is_early
    return counts, figures, dict(sorted(by_component.items()))


def _inside(replay: Replay, gate_id: str) -> int:
    failures_ms = replay.history.unit(gate_id, "").failures_ms
    first_ms, last_ms = replay.scored_from_ms[gate_id], replay.scored_until_ms[gate_id] + DAY_MS
    return int(((failures_ms > first_ms) & (failures_ms <= last_ms)).sum())


def _median_lead(lead: FloatArray, gate_of: Sequence[str], gate_ids: list[str], draws: FloatArray) -> dict[str, float | None]:
    warned = np.isfinite(lead)
    if not warned.any():
        return _interval(np.array([np.nan]))
    gate = pd.Index(gate_ids).get_indexer(pd.Index(gate_of))[warned]
    order = np.argsort(lead[warned])
    lead, gate = lead[warned][order], gate[order]
    medians = np.full(len(draws), np.nan)
    for i, weights in enumerate(draws):
        copies = np.repeat(lead, weights[gate].astype(int))
        medians[i] = np.median(copies) if len(copies) else np.nan
    return _interval(medians)


_LINES: tuple[tuple[str, str, str], ...] = (
    ("AP at 14 d", "ap_14d", "{:.3f}"),
    ("AP at 7 d", "ap_7d", "{:.3f}"),
    ("Brier skill at 14 d", "brier_skill_14d", "{:+.3f}"),
    ("log-loss skill at 14 d", "log_loss_skill_14d", "{:+.3f}"),
    ("p > 0.2: mean forecast", "tail_forecast_14d", "{:.2f}"),
    ("p > 0.2: observed", "tail_observed_14d", "{:.2f}"),
    ("warned 7-21 d ahead", "useful_share", "{:.2f}"),
    ("warned >= 7 d ahead", "early_share", "{:.2f}"),
    ("median lead time (d)", "lead_time_median_d", "{:.1f}"),
    ("false alarms / gate-year", "false_alarms_per_gate_year", "{:.2f}"),
    ("alarms that came true", "alarm_precision", "{:.2f}"),
    ("days without verdict", "no_verdict_share", "{:.3f}"),
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
        cells = [_cell(report["figures"].get(figure), form, with_interval=i == 0) for i, report in enumerate(reports.values())]
        rows.append([title, *cells])
    rows.append(["threshold on p_14d", *(f"{report['threshold']:.3g}" for report in reports.values())])
    widths = [max(len(row[i]) for row in rows) for i in range(len(names) + 1)]
    for row in rows:
        lines.append("  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]))
    if first.get("learnt_from"):
        lines.append(
            f"The model had learnt from {first['learnt_from']} of these {first['gates']} gates: on them its figures prove "
            "nothing."
        )
    flattered = [name for name, report in reports.items() if report["threshold_from"] != "set beforehand"]
    if flattered:
        lines.append(f"Threshold chosen on these very gates, which flatters: {', '.join(flattered)}.")
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
