"""A site's own threshold: forecast its history, choose T by the alarm budget, register the result. No clock, no network.

The model stays as it is: only its policy becomes another, under a version of its own. Below 60 gate-years nothing is
registered, because a threshold from so little is no better than the one there is.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from models import registry
from models.card import tuned_card
from models.labels import History
from models.policy import BUDGET_PER_GATE_YEAR, ENOUGH_GATE_YEARS, Policy, Replay, tune
from models.train import Progress, TrainingError, backtest, data_sha256, record_ends, record_starts
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
    """Tune a model's threshold on a site's history and register the result as a new version, not yet promoted.

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
    forecasts = backtest(dataset, parent, from_, to, progress=progress)
    learnt_from: list[Any] = forecasts.attrs["learnt_from"]
    replay = Replay(forecasts[~forecasts["gate_id"].isin(learnt_from)], History(dataset.maintenance), ends)
    left_out = len(learnt_from)
    policy = tune(
        replay,
        budget_per_gate_year=budget_per_gate_year,
        fallback=parent.policy.open_at,
        enough_gate_years=enough_gate_years,
    )
    if not policy.calibrated_here:
        raise TrainingError(_refusal(parent, policy, left_out, enough_gate_years))
    tuned = {
        "parent": parent.version,
        "parent_open_at": parent.policy.open_at,
        "data_sha256": data_sha256(dataset),
        "source": dataset.source,
        "simulated": "simul" in dataset.source.lower(),
        "first_as_of": from_.isoformat(),
        "last_as_of": to.isoformat(),
        "gates": len(replay.gate_ids),
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
        created_at=created_at.isoformat() if created_at else None,
    )


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
