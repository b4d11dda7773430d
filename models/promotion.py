"""When a model may become the champion: proven better on gates it has not learnt from, and worse for no kind of hoist.

Candidate and champion forecast the same rows: the gates that the candidate's training held out, in the time it held out.
No clock, no network; every change of the champion is appended to the registry's ``promotions.jsonl``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from models import registry
from models.backtest import learnt_gates
from models.evaluate import Estimate, EvaluationError, compare, evaluate, table
from models.labels import History
from models.policy import Policy
from models.train import TrainingError, data_sha256, ends_of, hoist_types
from pipeline.dataset import Dataset
from pipeline.errors import BadInput
from pipeline.features import from_dataset

HOIST_FLOOR = 0.9
"""A candidate whose average precision for one hoist type is below this share of the champion's is refused."""

ENOUGH_FAILURES = 5
"""A hoist type with fewer failures in the tested time is told but not judged: its figure is chance."""

OVERRIDE = "--force --reason TEXT overrides"


class PromotionRefused(BadInput):
    """A model that is not shown to be better than the champion; one line with the figures."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same rows.

    Attributes
    ----------
    asked : what they were judged on, in words
    reports : as `models.evaluate.evaluate`, of the candidate and then of the champion
    ratios : the candidate's figures over the champion's, each with the 90 % interval of a paired bootstrap over gates
    by_hoist : hoist type to the number of failures and the ratio ``ap_14d``
    """

    candidate: str
    champion: str
    simulated: bool
    asked: str
    reports: Mapping[str, Mapping[str, Any]]
    ratios: Mapping[str, Estimate]
    by_hoist: Mapping[str, Mapping[str, Any]]

    @property
    def objections(self) -> list[str]:
        """Why the candidate is not better; empty when it is."""
        ratio = self.ratios["ap_14d"]
        found = []
        if ratio["low"] is None or ratio["low"] <= 1.0:
            found.append(f"its AP at 14 d is {_told(ratio)} times that of {self.champion}, and the interval must lie above 1")
        for hoist, row in self.by_hoist.items():
            value = row["ap_14d"]["value"]
            if row["failures"] >= ENOUGH_FAILURES and value is not None and value < HOIST_FLOOR:
                found.append(
                    f"for hoist type {hoist} it is {value:.2f} times, below {HOIST_FLOOR:g} ({row['failures']} failures)"
                )
        return found

    @property
    def verdict(self) -> str:
        """One line: what the rule says, and on what."""
        report = self.reports[self.candidate]
        where = (
            f"on {report['gates']} {self.asked}, {report['first_as_of'][:10]} to {report['last_as_of'][:10]} "
            f"({report['gate_years']:.1f} gate-years, {report['counts']['evaluable_failures']} failures"
            f"{', simulated' if self.simulated else ''})"
        )
        if self.objections:
            return f"{self.candidate} is not shown to be better than {self.champion}: {where} {'; '.join(self.objections)}"
        return f"{self.candidate} is better than {self.champion}: {where} AP at 14 d is {_told(self.ratios['ap_14d'])} times"

    @property
    def table(self) -> str:
        """Both models' figures side by side, the ratios, and the ratio for each hoist type."""
        lines = [table(self.reports)]
        for hoist, row in self.by_hoist.items():
            few = "" if row["failures"] >= ENOUGH_FAILURES else "; too few to judge"
            lines.append(f"hoist type {hoist}: AP at 14 d {_told(row['ap_14d'])} times ({row['failures']} failures{few})")
        return "\n".join(lines)


def compare_models(
    dataset: Dataset,
    candidate: registry.Model,
    champion: registry.Model,
    *,
    seed: int = 0,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Judge two models on the rows of a dataset that the candidate's training held out.

    Those are the gates it has not learnt from; where it, or the champion, learnt from other gates of this dataset, only the
    days from its ``test_from`` on. That the champion may know the gates' earlier time is to the champion's advantage.

    Raises
    ------
    BadInput
        No gate is left, or nothing can be said about the rows that are.
    """
    sha256 = data_sha256(dataset)
    learnt = [learnt_gates(dataset.gate_ids, sha256, model.manifest["training"]) for model in (candidate, champion)]
    gate_ids = sorted(set(dataset.gate_ids) - learnt[0])
    if not gate_ids:
        raise TrainingError(f"{candidate.version} has learnt from every gate of this dataset, so nothing can be shown on it")
    rows = from_dataset(dataset, gate_ids=gate_ids, jobs=jobs, progress=progress)
    if rows.empty:
        raise TrainingError(f"the gates that {candidate.version} has not learnt from have no readings")
    observed_until = ends_of(rows)
    for model, known in zip((candidate, champion), learnt, strict=True):
        if known:
            rows = rows[rows["as_of"] >= datetime.fromisoformat(model.manifest["training"]["test_from"])]
    files = {model.version: (model.forecaster.predict(rows), model.policy) for model in (candidate, champion)}
    return compare_files(
        files,
        History(dataset.maintenance),
        observed_until,
        hoists=hoist_types(dataset),
        asked="gates it has not learnt from",
        simulated="simul" in dataset.source.lower(),
        seed=seed,
    )


def compare_files(
    files: Mapping[str, tuple[pd.DataFrame, Policy]],
    history: History,
    observed_until: Mapping[str, datetime],
    *,
    hoists: Mapping[str, str],
    asked: str,
    simulated: bool,
    seed: int = 0,
) -> Comparison:
    """Judge the forecasts of two versions for the same gates, the candidate's first, each with the policy it is deployed with."""
    candidate, champion = files
    reports = {
        name: evaluate(forecasts, history, observed_until, policy=policy, hoists=hoists, seed=seed)
        for name, (forecasts, policy) in files.items()
    }
    ratios = compare(files, history, observed_until, seed=seed)[champion]
    reports[champion]["model_against_it"] = ratios
    by_hoist = {}
    for hoist, row in reports[candidate]["by_hoist"].items():
        part = {
            name: (forecasts[forecasts["gate_id"].map(hoists) == hoist], policy) for name, (forecasts, policy) in files.items()
        }
        try:
            ratio = compare(part, history, observed_until, figures=("ap_14d",), seed=seed)[champion]["ap_14d"]
        except EvaluationError:
            ratio = {"value": None, "low": None, "high": None}
        by_hoist[hoist] = {"failures": row["failures"], "ap_14d": ratio}
    return Comparison(candidate, champion, simulated, asked, reports, ratios, by_hoist)


def promote(
    registry_dir: Path,
    version: str,
    *,
    dataset: Dataset | None = None,
    comparison: Comparison | None = None,
    at: datetime,
    actor: str,
    reason: str = "",
    force: bool = False,
    seed: int = 0,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> registry.Model:
    """Make a version the champion if it is better than the present one; a registry without a champion has the shipped one.

    A version that `models.retune` made of the champion is the same model with a threshold proven here, and needs no
    comparison.

    Parameters
    ----------
    dataset : the folder it was trained on, or a longer record of the same gates
    comparison : in its place, one that was made already: of what both models said of live gates (`service.shadow`)
    at, actor, reason : kept in ``promotions.jsonl``
    force : promote without being better; needs a reason

    Raises
    ------
    PromotionRefused
        It is not shown to be better, with the figures; or there is no dataset to show it on.
    BadInput
        Force without a reason; a model that cannot be loaded.
    """
    if force and not reason.strip():
        raise PromotionRefused("force: say why with --reason TEXT; it is kept with the promotion")
    registry.seed(registry_dir)
    candidate = registry.load(registry_dir, version)
    before = registry.aliases(registry_dir)[registry.CHAMPION]
    if candidate.version == before:
        return candidate
    told, rule = "", "forced"
    if not force:
        champion = registry.load(registry_dir, before)
        rule = "threshold tuned here" if _is_retuned(candidate, champion) else "better"
        if rule == "better" and dataset is None and comparison is None:
            raise PromotionRefused(
                f"{version} must be compared with {before}: give --dataset, the folder it was trained on or a longer record "
                f"of the same gates; {OVERRIDE}"
            )
        if rule == "better":
            if comparison is not None and (comparison.candidate, comparison.champion) != (candidate.version, before):
                raise PromotionRefused(
                    f"{candidate.version} must be compared with {before}; {comparison.candidate} was compared with "
                    f"{comparison.champion}"
                )
            if dataset is not None:
                comparison = compare_models(dataset, candidate, champion, seed=seed, jobs=jobs, progress=progress)
            assert comparison is not None
            told = comparison.verdict
            if comparison.objections:
                raise PromotionRefused(f"{told}; {OVERRIDE}")
    _record(registry_dir, "promote", before, candidate.version, at, actor, reason, rule=rule, figures=told)
    return registry.promote(registry_dir, candidate.version)


def roll_back(registry_dir: Path, *, at: datetime, actor: str, reason: str = "") -> registry.Model:
    """Exchange the champion and the one before it, and record it."""
    now = registry.aliases(registry_dir)
    if registry.PREVIOUS in now and registry.CHAMPION in now:
        _record(registry_dir, "roll back", now[registry.CHAMPION], now[registry.PREVIOUS], at, actor, reason)
    return registry.rollback(registry_dir)


def challenge(registry_dir: Path, version: str, *, at: datetime, actor: str, reason: str = "") -> registry.Model:
    """Let a version forecast beside the champion, for comparison only, from the next scored day on; it is recorded.

    Raises
    ------
    PromotionRefused
        It is the champion already.
    """
    registry.seed(registry_dir)
    model = registry.load(registry_dir, version)
    now = registry.aliases(registry_dir)
    if model.version == now[registry.CHAMPION]:
        raise PromotionRefused(f"{model.version} is the champion, and cannot be its own challenger")
    _record(registry_dir, "challenge", now.get(registry.CHALLENGER, ""), model.version, at, actor, reason)
    registry.set_challenger(registry_dir, model.version)
    return model


def dismiss(registry_dir: Path, *, at: datetime, actor: str, reason: str = "") -> str:
    """End the challenge; return whose it was. What it forecast stays.

    Raises
    ------
    PromotionRefused
        There is no challenger.
    """
    version = registry.aliases(registry_dir).get(registry.CHALLENGER)
    if version is None:
        raise PromotionRefused(f"{registry_dir} has no challenger")
    _record(registry_dir, "dismiss", version, "", at, actor, reason)
    registry.set_challenger(registry_dir, None)
    return version


def _is_retuned(candidate: registry.Model, champion: registry.Model) -> bool:
    """Whether the candidate is the champion but for its threshold and calibration."""
    same_model = candidate.manifest["files"][registry.MODEL] == champion.manifest["files"][registry.MODEL]
    learnt, of_champion = ({**one.manifest["forecaster"], "calibration": None} for one in (candidate, champion))
    of_it = candidate.manifest.get("tuned", {}).get("parent") == champion.version
    return bool(of_it and same_model and learnt == of_champion)


def _record(registry_dir: Path, action: str, before: str, after: str, at: datetime, actor: str, reason: str, **more: str) -> None:
    """Written before the switch: a promotion without its record could not be explained, a record without its switch can."""
    facts = {"at": at.isoformat(), "actor": actor, "action": action, "before": before, "after": after, "reason": reason}
    registry.append_promotion(registry_dir, facts | more)


def _told(ratio: Estimate) -> str:
    if ratio["value"] is None:
        return "not defined"
    if ratio["low"] is None or ratio["high"] is None:
        return f"{ratio['value']:.2f} (no interval)"
    return f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
