"""From a dataset to a registered model with honest figures: fit, calibrate, tune, test, write. No clock, no network.

Whole gates are held out for the test, in later time. On the others, folds of whole gates give forecasts by models that
had not seen the gate; calibration and threshold come from those, the threshold from the whole record: a fleet that is looked at
for a year has fewer false alarms in it than later. The model that is tested is the model that is stored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import pipeline
from models import baselines, drift, registry, signing
from models.card import model_card
from models.data_card import data_card
from models.evaluate import compare, evaluate, table
from models.fitting import Settings, calibrate, failure_count, fit
from models.forecast import Forecaster
from models.labels import HORIZON_DAYS, FloatArray, History, Split, failures_per_gate, gate_folds, hold_out, label, outcome
from models.leaks import refuse_leaks
from models.policy import BUDGET_PER_GATE_YEAR, NEVER, SHIPPED_OPEN_AT, YEAR_DAYS, Policy, Replay, tune
from pipeline.dataset import Dataset
from pipeline.errors import BadInput
from pipeline.features import FEATURES, from_dataset

FOLDS = 4
CALIBRATED_AT_D = (7, 14, 21)

BARE = ("velocity_rms", "temperature")
"""The least a gate must measure (DATASET.md)."""

_SHAKEN = ("acceleration_rms", "acceleration_peak")
_CONTROLLED = ("moving", "load", "ambient_temperature")
BETWEEN: tuple[tuple[str, ...], ...] = (
    ("moving",),
    _CONTROLLED,
    _SHAKEN,
    (*_SHAKEN, "kurtosis", "crest_factor"),
    ("current", "ambient_temperature"),
    (*_CONTROLLED, "opening", "head", "water_level", "humidity", "current"),
    (*_SHAKEN, "kurtosis", "crest_factor", "moving", "ambient_temperature"),
)
"""What stations between the barest and one that tells everything have besides `BARE`: a signal of movement, what a gate's
controller knows, vibration sensors of two makes, a clamp meter, and all but one of these."""

GOLDEN_DAYS = 12

Progress = Callable[[str, int, int], None]
"""Told the stage, and how much of it is done of how much."""


class TrainingError(BadInput):
    """A dataset or forecast file that cannot be used."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model just trained: registered, verified by loading it, and not yet promoted.

    Attributes
    ----------
    model : as the registry loads it
    reports : figures on the held-out gates, ``model`` first, then the baselines
    """

    model: registry.Model
    reports: Mapping[str, Mapping[str, Any]]

    @property
    def version(self) -> str:
        """Name in the registry."""
        return self.model.version

    @property
    def table(self) -> str:
        """The figures as text."""
        return table(self.reports)


def train(
    dataset: Dataset,
    *,
    registry_dir: Path,
    name: str,
    seed: int = 0,
    budget_per_gate_year: float = BUDGET_PER_GATE_YEAR,
    progress: Progress | None = None,
    rows: pd.DataFrame | None = None,
    settings: Settings | None = None,
    created_at: datetime | None = None,
    jobs: int = 1,
    cache: Path | None = None,
) -> Candidate:
    """Train on a dataset and register the result as a new version.

    Parameters
    ----------
    dataset : see `pipeline.dataset`
    registry_dir : folder of the registry; made when missing
    name : name of the version
    seed : the same dataset, seed and library versions give the same predictions
    rows : feature rows of this dataset, when they are at hand already
    created_at : stored in the manifest; left out, the manifest too is the same each time
    jobs : processes that make feature rows; the result is the same
    cache : folder that keeps feature rows, so that a training that was cut short, or another one on the same dataset, need
        not make them again; they are found by the hashes of the dataset and of the code that made them

    Raises
    ------
    BadInput
        The dataset has too few gates, days or failures, a feature looks ahead, the name is taken, or the key that would
        sign is not trusted; one line says which.
    """
    registry.check_free(registry_dir, name)
    signing.ready(signing.keys_of(registry_dir))
    say = progress or _silent
    sha256 = data_sha256(dataset)
    keep = None if cache is None else cache / f"{sha256[:16]}-{_feature_code_sha256()[:16]}"
    if rows is None:
        rows = from_dataset(dataset, progress=lambda done, of: say("features", done, of), jobs=jobs, compact=True, keep=keep)
    if rows.empty:
        raise TrainingError("the dataset has no readings to make features of")
    observed_until = ends_of(rows)
    history = History(dataset.maintenance)
    failures = failures_per_gate(dataset.maintenance, sorted(observed_until))
    refuse_leaks(dataset, rows, failures, progress=lambda done, of: say("look for leaks", done, of))
    first, last = rows["as_of"].min().to_pydatetime(), rows["as_of"].max().to_pydatetime()
    split = hold_out(failures, first, last, seed=seed)
    teaches = split.teaches(rows)
    teaching = rows[teaches].reset_index(drop=True)
    developing = rows["gate_id"].isin(set(teaching["gate_id"])).to_numpy()
    later = rows[developing & ~teaches].reset_index(drop=True)
    testing = rows[split.tests(rows)].reset_index(drop=True)

    poorer = _rows_of_poorer_stations(dataset, split, jobs, say, keep)
    forecaster, out_of_fold = _fit_and_calibrate(
        teaching, later, poorer, history, observed_until, failures, seed, settings, say, jobs
    )
    forecaster = replace(forecaster, version=name)
    shipped = registry.shipped_policy()
    policy = tune(
        Replay(out_of_fold, history, observed_until),
        budget_per_gate_year=budget_per_gate_year,
        fallback=shipped.open_at if shipped else SHIPPED_OPEN_AT,
    )
    say("test", 0, 1)
    reports = _test(forecaster, policy, teaching, rows[developing], testing, history, observed_until, hoist_types(dataset), seed)
    say("test", 1, 1)
    training = _training_facts(dataset, sha256, teaching, history, split, observed_until, name, seed, settings)
    if training["simulated"]:
        # nobody's site is a simulation: wherever this model serves, its threshold comes from elsewhere
        policy = replace(policy, calibrated_here=False)
    model = registry.save(
        registry_dir,
        name,
        forecaster=forecaster,
        policy=policy,
        training=training,
        metrics=reports,
        card=model_card(name, training, policy.as_dict(), reports),
        data_card=data_card(name, dataset, rows, history, observed_until, split, training["data_sha256"]),
        golden_rows=_golden_rows(forecaster, testing),
        reference=drift.learn(drift.gate_days(teaching, out_of_fold[split.teaches(out_of_fold)]), seed=seed),
        created_at=created_at.isoformat() if created_at else None,
    )
    return Candidate(model, reports)


def judge(
    dataset: Dataset,
    forecasts: pd.DataFrame,
    *,
    beside: Mapping[str, pd.DataFrame] | None = None,
    budget_per_gate_year: float = BUDGET_PER_GATE_YEAR,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """Judge a forecast file, ours or another's, against a dataset, with the baselines on the same gates and days.

    A file of `backtest` carries the threshold its model is deployed with; for any other file, and for the baselines, the
    threshold is chosen on these very gates, and the report says so. There are no other rows for the isolation forest to learn
    from either; it needs no outcomes, and its report says ``learnt_here``.

    Parameters
    ----------
    beside : more forecast files by name, such as an oracle's, to be judged on the gates and days of the first

    Returns
    -------
    dict
        Reports of `models.evaluate.evaluate`: ``model`` first, then the files beside it, then the baselines.
        ``learnt_from`` of the model's counts the gates it had learnt from; ``model_against_it`` of a file beside it holds
        the ratios of `models.evaluate.compare`.

    Raises
    ------
    TrainingError
        The file speaks of gates that the dataset does not have, or of other times than UTC midnights; a file beside it
        lacks gates, or has a name that is taken.
    """
    unknown = sorted(set(forecasts["gate_id"]) - set(dataset.gate_ids))
    if unknown:
        raise TrainingError(f"the dataset has no gate {unknown[0]!r}, which the forecast file speaks of")
    days = sorted(forecasts["as_of"].unique())
    if any(day != day.normalize() for day in days):
        raise TrainingError("as_of must be UTC midnights")
    say = progress or _silent
    rows = from_dataset(dataset, days, progress=lambda done, of: say("features", done, of))
    rows = rows[rows["gate_id"].isin(set(forecasts["gate_id"]))].reset_index(drop=True)
    observed_until = record_ends(dataset)
    history = History(dataset.maintenance)
    deployed = forecasts.attrs.get("policy")
    policy = Policy.from_dict(deployed) if deployed else None
    hoists = hoist_types(dataset)
    report = evaluate(
        forecasts,
        history,
        observed_until,
        policy=policy,
        budget_per_gate_year=budget_per_gate_year,
        hoists=hoists,
        seed=seed,
    )
    report["learnt_from"] = len(forecasts.attrs.get("learnt_from", ()))
    reports = {"model": report}
    for name, other in (beside or {}).items():
        of_model = (forecasts, policy or Policy(report["threshold"], report["budget_per_gate_year"]))
        same_rows = _same_rows(name, other, forecasts)
        reports[name] = _judge_beside(of_model, same_rows, history, observed_until, hoists, seed)
    scores = {**baselines.SCORES, "isolation_forest": baselines.isolation_forest(rows, FEATURES, seed=seed)}
    files = {"constant": baselines.constant(rows, _per_day(report["figures"]["base_rate_14d"]["value"]))}
    files |= {name: baseline(rows) for name, baseline in scores.items()}
    budget = report["budget_per_gate_year"]
    others = _judge_baselines(files, history, observed_until, budget, {}, hoists, seed)
    others["isolation_forest"]["learnt_here"] = True
    return reports | others


def _same_rows(name: str, other: pd.DataFrame, forecasts: pd.DataFrame) -> pd.DataFrame:
    """The rows of a file on the gates and days of another."""
    if name in ("model", "constant", "isolation_forest", *baselines.SCORES):
        raise TrainingError(f"a file beside the model needs a name of its own; got {name!r}")
    missing = sorted(set(forecasts["gate_id"]) - set(other["gate_id"]))
    if missing:
        raise TrainingError(f"the file {name} lacks gate {missing[0]!r}, which the model's speaks of")
    found = other.merge(forecasts[["gate_id", "as_of"]].drop_duplicates())
    found.attrs = other.attrs
    return found


def _judge_beside(
    model: tuple[pd.DataFrame, Policy],
    other: pd.DataFrame,
    history: History,
    observed_until: Mapping[str, datetime],
    hoists: Mapping[str, str],
    seed: int,
) -> dict[str, Any]:
    """The report of a file beside the model's, with the ratios of the model's figures to its own."""
    budget = model[1].budget_per_gate_year
    deployed = other.attrs.get("policy")
    policy = Policy.from_dict(deployed) if deployed else None
    report = evaluate(other, history, observed_until, policy=policy, budget_per_gate_year=budget, hoists=hoists, seed=seed)
    pair = {"model": model, "other": (other, policy or Policy(report["threshold"], budget))}
    report["model_against_it"] = compare(pair, history, observed_until, seed=seed)["other"]
    return report


def hoist_types(dataset: Dataset) -> dict[str, str]:
    """Return the hoist type of every gate, ``""`` where the dataset does not give it."""
    return dict(zip(dataset.gates["gate_id"], dataset.gates["hoist_type"], strict=True))


def record_ends(dataset: Dataset) -> dict[str, datetime]:
    """Return for every gate with readings the UTC midnight after its last one."""
    return {gate_id: _midnight_after(ts.max()) for gate_id, ts in _times_of_readings(dataset)}


def record_starts(dataset: Dataset) -> dict[str, datetime]:
    """Return for every gate with readings the UTC midnight after its first one, the first it can be forecast at."""
    return {gate_id: _midnight_after(ts.min()) for gate_id, ts in _times_of_readings(dataset)}


def _times_of_readings(dataset: Dataset) -> Iterator[tuple[str, pd.Series]]:
    for gate_id in dataset.gate_ids:
        file = dataset.path / "readings" / f"{gate_id}.parquet"
        # a column of a Parquet file is read without the others; a CSV is read whole
        ts = pq.read_table(file, columns=["ts"]).to_pandas()["ts"] if file.is_file() else dataset.readings(gate_id)["ts"]
        if len(ts):
            yield gate_id, ts


def _midnight_after(instant: Any) -> datetime:
    moment = pd.Timestamp(instant)
    moment = moment.tz_localize("UTC") if moment.tz is None else moment.tz_convert("UTC")
    return (moment.floor("D") + pd.Timedelta(days=1)).to_pydatetime()


def ends_of(rows: pd.DataFrame) -> dict[str, datetime]:
    """As `record_ends`, from the feature rows of whole records: the last ``as_of`` is the midnight after the last reading."""
    last = rows.groupby("gate_id")["as_of"].max()
    return {str(gate_id): instant.to_pydatetime() for gate_id, instant in last.items()}


def _silent(stage: str, done: int, of: int) -> None:
    """Nobody is watching."""


def _rows_of_poorer_stations(dataset: Dataset, split: Split, jobs: int, say: Progress, keep: Path | None) -> pd.DataFrame:
    """The teaching gates once more, each as some poorer station would see it: every second with nothing but `BARE`.

    Stations differ in what they measure; a model that has only seen rich ones makes nonsense of poor ones.
    """
    measured = set(dataset.channels["quantity"])
    bare, *between = dict.fromkeys(frozenset({*BARE, *added} & measured) for added in ((), *BETWEEN))
    between = [station for station in between if station != measured]
    if bare == measured:
        return pd.DataFrame()
    turns = [station for one in between for station in (bare, one)] or [bare]
    rows = from_dataset(
        dataset,
        progress=lambda done, of: say("features of poorer stations", done, of),
        jobs=jobs,
        gate_ids=sorted(split.development),
        quantities={gate_id: turns[number % len(turns)] for number, gate_id in enumerate(dataset.gate_ids)},
        compact=True,
        keep=keep,
    )
    return rows[split.teaches(rows)] if len(rows) else rows


def _fit_and_calibrate(
    rows: pd.DataFrame,
    later: pd.DataFrame,
    poorer: pd.DataFrame,
    history: History,
    observed_until: Mapping[str, datetime],
    failures: Mapping[str, int],
    seed: int,
    settings: Settings | None,
    say: Progress,
    jobs: int,
) -> tuple[Forecaster, pd.DataFrame]:
    """Return the calibrated forecaster, and forecasts of every gate by forecasters that had not seen it.

    `later` rows of the same gates are forecast only, `poorer` rows only teach.
    """
    here = {gate_id: failures[gate_id] for gate_id in sorted(set(rows["gate_id"]))}
    folds_of_gates = gate_folds(here, FOLDS, seed=seed)
    masks = [rows["gate_id"].isin(fold).to_numpy() for fold in folds_of_gates]
    say("fit", 0, len(masks) + 1)

    def learn(held_out: npt.NDArray[np.bool_]) -> Forecaster:
        too = poorer[~poorer["gate_id"].isin(rows["gate_id"][held_out].unique())] if len(poorer) else poorer
        seen = pd.concat([rows[~held_out], too], ignore_index=True)
        return fit(seen, history, observed_until, features=FEATURES, seed=seed, settings=settings)

    def fitted(held_out: npt.NDArray[np.bool_]) -> tuple[Forecaster, FloatArray]:
        """A forecaster that has not seen some gates, and its log-odds of them at the calibrated horizons."""
        forecaster = learn(held_out)
        forecaster = replace(forecaster, horizons_d=CALIBRATED_AT_D)
        return forecaster, forecaster.log_odds(rows[held_out])

    # scikit-learn leaves the interpreter alone while it fits, so threads are enough; a process would need its own rows
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        folds = []
        for forecaster, held_out_log_odds in pool.map(fitted, masks):
            folds.append((forecaster, held_out_log_odds))
            say("fit", len(folds), len(masks) + 1)
    # the one that takes the most memory comes alone
    final = learn(np.zeros(len(rows), dtype=bool))
    say("fit", len(masks) + 1, len(masks) + 1)
    log_odds = np.full((len(rows), len(CALIBRATED_AT_D)), np.nan)
    for mask, (_, held_out_log_odds) in zip(masks, folds, strict=True):
        log_odds[mask] = held_out_log_odds
    labels = label(rows, history, observed_until)
    y = np.column_stack([outcome(labels, h) for h in CALIBRATED_AT_D])
    final = calibrate(final, log_odds, y, failure_count(rows, labels))
    parts = []
    for fold, mask, (forecaster, _) in zip(folds_of_gates, masks, folds, strict=True):
        calibrated = replace(forecaster, slope=final.slope, intercept=final.intercept)
        parts.append(calibrated.assemble(rows[mask], log_odds[mask]))
        parts.append(calibrated.predict(later[later["gate_id"].isin(fold)]))
    return final, pd.concat(parts, ignore_index=True)


def _test(
    forecaster: Forecaster,
    policy: Policy,
    teaching: pd.DataFrame,
    developing: pd.DataFrame,
    testing: pd.DataFrame,
    history: History,
    observed_until: Mapping[str, datetime],
    hoists: Mapping[str, str],
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Reports of the model and of what it is compared with, whose thresholds come from the record that its own comes from."""
    budget = policy.budget_per_gate_year
    report = evaluate(forecaster.predict(testing), history, observed_until, policy=policy, hoists=hoists, seed=seed)
    gates = teaching[["gate_id", "as_of"]].drop_duplicates().assign(component="")
    rate = float(np.nanmean(outcome(label(gates, history, observed_until), 14)))
    scores = {**baselines.SCORES, "isolation_forest": baselines.isolation_forest(teaching, FEATURES, seed=seed)}
    tuned = {}
    if policy.calibrated_here:
        for name, baseline in scores.items():
            replay = Replay(baseline(developing), history, observed_until)
            tuned[name] = tune(replay, budget_per_gate_year=budget, fallback=NEVER)
    files = {"constant": baselines.constant(testing, _per_day(rate))}
    files |= {name: baseline(testing) for name, baseline in scores.items()}
    return {"model": report} | _judge_baselines(files, history, observed_until, budget, tuned, hoists, seed)


def _per_day(rate_14d: float) -> float:
    """The constant hazard per day behind a rate of failures within 14 days."""
    return float(-np.log1p(-min(rate_14d, 0.99)) / 14)


def _judge_baselines(
    files: Mapping[str, pd.DataFrame],
    history: History,
    observed_until: Mapping[str, datetime],
    budget_per_gate_year: float,
    tuned: Mapping[str, Policy],
    hoists: Mapping[str, str],
    seed: int,
) -> dict[str, dict[str, Any]]:
    return {
        name: evaluate(
            file,
            history,
            observed_until,
            policy=tuned.get(name),
            budget_per_gate_year=budget_per_gate_year,
            are_probabilities=name == "constant",
            hoists=hoists,
            seed=seed,
        )
        for name, file in files.items()
    }


def _training_facts(
    dataset: Dataset,
    sha256: str,
    teaching: pd.DataFrame,
    history: History,
    split: Split,
    observed_until: Mapping[str, datetime],
    name: str,
    seed: int,
    settings: Settings | None,
) -> dict[str, Any]:
    days = teaching[["gate_id", "as_of"]].drop_duplicates()
    first = teaching["as_of"].min()
    until_ms = split.development_until.timestamp() * 1000
    n_failures = sum(int((history.unit(gate_id, "").failures_ms <= until_ms).sum()) for gate_id in split.development)
    return {
        "data_sha256": sha256,
        "source": dataset.source,
        "simulated": "simul" in dataset.source.lower(),
        "seed": seed,
        "settings": asdict(settings or Settings()),
        "target": "first failure of the component after as_of; a repair or replacement before it censors",
        "horizon_days": HORIZON_DAYS,
        "labels_until": max(observed_until.values()).isoformat(),
        "first_as_of": first.isoformat(),
        "development_until": split.development_until.isoformat(),
        "test_from": split.test_from.isoformat(),
        "development_gates": len(split.development),
        "learnt_gates": sorted(split.development),
        "development_gate_years": len(days) / YEAR_DAYS,
        "development_failures": n_failures,
        "test_gates": sorted(split.test),
        "command": f"sluicewatch train {dataset.path.name} --registry REGISTRY --name {name} --seed {seed}",
    }


def _feature_code_sha256() -> str:
    """Hash of all that makes a feature row of a dataset: the modules of `pipeline` and the libraries they calculate with."""
    digest = hashlib.sha256(json.dumps(registry.versions_in_use(), sort_keys=True).encode())
    digest.update(f"pandas {pd.__version__} pyarrow {pa.__version__}".encode())
    for file in sorted(Path(pipeline.__file__).parent.glob("*.py")):
        digest.update(f"\n{file.name} ".encode() + file.read_bytes())
    return digest.hexdigest()


def data_sha256(dataset: Dataset) -> str:
    """Hash of the names and contents of the dataset's files; the simulator's truth and unknown files do not count."""
    digest = hashlib.sha256()
    tables = ("dataset.json", "stations.csv", "gates.csv", "components.csv", "channels.csv", "maintenance.csv")
    files = [dataset.path / name for name in tables if (dataset.path / name).is_file()]
    files += sorted(file for file in (dataset.path / "readings").iterdir() if file.is_file())
    files += sorted((dataset.path / "waveforms").rglob("*.bin"))
    for file in files:
        digest.update(f"{file.relative_to(dataset.path).as_posix()} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _golden_rows(forecaster: Forecaster, rows: pd.DataFrame) -> pd.DataFrame:
    """Gate-days spread evenly over the range of forecasts."""
    scored = rows[rows["reason"] == ""]
    forecasts = forecaster.predict(scored)
    gates = forecasts[forecasts["component"] == ""].sort_values(["p_14d", "gate_id", "as_of"], ignore_index=True)
    picked = gates.iloc[np.unique(np.linspace(0, len(gates) - 1, GOLDEN_DAYS).round().astype(int))]
    return scored.merge(picked[["gate_id", "as_of"]], on=["gate_id", "as_of"])
