"""A site's own probabilities and threshold: calibrate on its history, choose T by the budget, register. No clock, no network.

What the model has learnt stays as it is; under a version of its own it gets another policy and, where that forecasts better, the
calibration of this site. Below 60 gate-years nothing is registered, because what so little tells is no better than what there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from models import drift, registry
from models.backtest import learnt_from, rows_between
from models.card import tuned_card
from models.fitting import calibrate, failure_count
from models.forecast import Forecaster
from models.labels import FloatArray, History, failures_per_gate, gate_folds, label, outcome
from models.policy import BUDGET_PER_GATE_YEAR, ENOUGH_GATE_YEARS, Policy, Replay, tune
from models.train import CALIBRATED_AT_D, FOLDS, Progress, TrainingError, data_sha256, record_ends, record_starts
from pipeline.dataset import Dataset


def retune(
    dataset: Dataset,
    *,
    registry_dir: Path,
    model: str = registry.CHAMPION,
    name: str | None = None,
    budget_per_gate_year: float = BUDGET_PER_GATE_YEAR,
    enough_gate_years: float = ENOUGH_GATE_YEARS,
    from_: datetime | None = None,
    to: datetime | None = None,
    progress: Progress | None = None,
    created_at: datetime | None = None,
) -> registry.Model:
    """Tune a model on a site's history and register the result as a new version, not yet promoted.

    Gates that the model learnt from are left out: it knows their failures.

    Parameters
    ----------
    model : version or alias of the parent, which stays as it is
    name : of the new version; ``<parent>-here`` when left out
    budget_per_gate_year : false alarms a crew accepts per gate and year
    enough_gate_years : history below which there is nothing to tune on
    from_, to : first and last UTC midnight to forecast; the whole record when left out
    created_at : stored in the manifest

    Raises
    ------
    BadInput
        There are fewer than 60 gate-years, no threshold is proven to keep the budget, or the name is taken; one line says
        which. Nothing is registered then.
    """
    parent = registry.load(registry_dir, model)
    version = name or f"{parent.version}-here"
    registry.check_free(registry_dir, version)
    ends = record_ends(dataset)
    if not ends:
        raise TrainingError("the dataset has no readings to forecast from")
    from_ = from_ or min(record_starts(dataset).values())
    to = to or max(ends.values())
    rows = rows_between(dataset, from_, to, progress)
    known = learnt_from(dataset, parent, from_, rows)
    left_out = len(known)
    rows = rows[~rows["gate_id"].isin(known)].reset_index(drop=True)
    found = tune_on(
        rows,
        dataset.maintenance,
        ends,
        parent.forecaster,
        budget_per_gate_year=budget_per_gate_year,
        fallback=parent.policy.open_at,
        enough_gate_years=enough_gate_years,
    )
    policy, recalibrated = found.policy, found.recalibrated
    if not policy.calibrated_here:
        raise TrainingError(_refusal(parent, policy, left_out, enough_gate_years))
    tuned = {
        "parent": parent.version,
        "parent_open_at": parent.policy.open_at,
        "recalibrated": recalibrated is not None,
        "data_sha256": data_sha256(dataset),
        "source": dataset.source,
        "simulated": "simul" in dataset.source.lower(),
        "first_as_of": from_.isoformat(),
        "last_as_of": to.isoformat(),
        "gates": len(found.replay.gate_ids),
        "gates_left_out": left_out,
        "gate_years": policy.tuned_gate_years,
        "false_alarms": policy.tuned_false_alarms,
        "budget_per_gate_year": budget_per_gate_year,
    }
    card = (registry_dir / parent.version / registry.CARD).read_text(encoding="utf-8")
    return registry.save_tuned(
        registry_dir,
        version,
        parent=parent.version,
        policy=policy,
        tuned=tuned,
        card=tuned_card(card, version, policy.as_dict(), tuned),
        recalibrated=recalibrated,
        # where probabilities are others, so are the scores that drift is told by
        reference=drift.learn(drift.gate_days(rows, found.forecasts)) if recalibrated else None,
        created_at=created_at.isoformat() if created_at else None,
    )


@dataclass(frozen=True, slots=True)
class Tuned:
    """What tuning found.

    Attributes
    ----------
    recalibrated : the forecaster with the site's calibration; None where its own forecasts as well
    forecasts, replay : of the rows tuned on, by that forecaster
    """

    policy: Policy
    recalibrated: Forecaster | None
    forecasts: pd.DataFrame
    replay: Replay


def tune_on(
    rows: pd.DataFrame,
    maintenance: pd.DataFrame,
    ends: Mapping[str, datetime],
    forecaster: Forecaster,
    *,
    budget_per_gate_year: float,
    fallback: float,
    enough_gate_years: float,
) -> Tuned:
    """Calibrate a forecaster on feature rows of gates it has not learnt from, and choose its threshold on them.

    Parameters
    ----------
    maintenance, ends : records of these gates, and where each one's record ends
    budget_per_gate_year, fallback, enough_gate_years : as `models.policy.tune` takes them
    """
    history = History(maintenance)
    failures = failures_per_gate(maintenance, sorted(set(rows["gate_id"])))
    log_odds = forecaster.log_odds(rows)
    recalibrated = recalibrate(forecaster, rows, log_odds, history, ends, failures)
    forecasts = (recalibrated or forecaster).assemble(rows, log_odds)
    replay = Replay(forecasts, history, ends)
    policy = tune(replay, budget_per_gate_year=budget_per_gate_year, fallback=fallback, enough_gate_years=enough_gate_years)
    return Tuned(policy, recalibrated, forecasts, replay)


def recalibrate(
    forecaster: Forecaster,
    rows: pd.DataFrame,
    log_odds: FloatArray,
    history: History,
    ends: Mapping[str, datetime],
    failures: Mapping[str, int],
) -> Forecaster | None:
    """Fit slope and intercept to a site; None where that does not forecast better, fold by fold, gates that it was not fitted to.

    Parameters
    ----------
    rows : of gates that the forecaster has not learnt from
    log_odds : of these rows, before any calibration
    failures : how many each of these gates had

    Notes
    -----
    Better is a smaller log loss at the calibrated horizons, summed over the rows of all folds.
    """
    if not failures:
        return None
    at = [forecaster.horizons_d.index(horizon_d) for horizon_d in CALIBRATED_AT_D]
    labels, log_odds = label(rows, history, ends), log_odds[:, at]
    y = np.column_stack([outcome(labels, horizon_d) for horizon_d in CALIBRATED_AT_D])

    def fitted(use: npt.NDArray[np.bool_]) -> Forecaster:
        return calibrate(forecaster, log_odds[use], y[use], failure_count(rows[use], labels[use]))

    before = after = 0.0
    for fold in gate_folds(failures, FOLDS, seed=0):
        held_out = rows["gate_id"].isin(fold).to_numpy()
        before += _log_loss(forecaster, log_odds[held_out], y[held_out])
        after += _log_loss(fitted(~held_out), log_odds[held_out], y[held_out])
    return fitted(np.ones(len(rows), dtype=bool)) if after < before else None


def _log_loss(forecaster: Forecaster, log_odds: FloatArray, y: FloatArray) -> float:
    known = np.isfinite(y) & np.isfinite(log_odds)
    told = forecaster.intercept + forecaster.slope * log_odds[known]
    return float(np.sum(np.logaddexp(0.0, told) - y[known] * told))


def _refusal(parent: registry.Model, policy: Policy, left_out: int, enough_gate_years: float) -> str:
    without = f", without the {left_out} gates {parent.version} learnt from" if left_out else ""
    stays = f"the threshold of {parent.version} stays ({parent.policy.open_at:.3f}) and nothing was registered"
    if policy.tuned_gate_years < enough_gate_years:
        return (
            f"not calibrated here: this history has {policy.tuned_gate_years:.1f} gate-years{without}, "
            f"{enough_gate_years:g} are needed to tune a threshold; {stays}"
        )
    return (
        f"not calibrated here: {policy.tuned_gate_years:.1f} gate-years{without} do not prove any threshold to keep a budget of "
        f"{policy.budget_per_gate_year:g} false alarms per gate-year; {stays}"
    )
