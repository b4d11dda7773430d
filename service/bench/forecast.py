"""Bench of the forecast: what the shipped model is worth on simulated fleets it has not seen, beside what could be had.

In parts. What a part found is kept in the work folder, and so are the fleets and features it made: a run that was cut off
goes on where it stopped, and a part that is done is not done again. Everything here comes from simulation.

===============  =======================================================================================================
`fleets`         the fleets of the parts below, with the oracle's forecasts and the features of each
`core`           the model on all test fleets together: every figure, by mode and by hoist type, beside the oracle (O3), what
                 operators use and an isolation forest, each with a threshold set on another fleet
`budget`         the threshold tuned on one half of the test gates, its false alarms counted on the other
`two_channels`   the same fleets with nothing but ``velocity_rms`` and ``temperature``
`channels`       which one more quantity would help such a station: the first test fleet, each of some added in turn
`scenarios`      worlds that differ: ranking beside the oracle's, and the budget before and after tuning on the spot
`in_domain`      the model against one that learnt from a fleet of that other world
`site`           a site in that other world after its first 60 gate-years: the model as it is, tuned there, one that learnt there
`peers`          the model against LightGBM on the same rows and features
`sensor_faults`  each fault of a sensor: named in time or not, and whether it raises an asset alert; false namings
`training`       how long training takes, and how much memory
===============  =======================================================================================================
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from models import baselines, registry
from models import forecast as product
from models.baselines import Baseline
from models.evaluate import Estimate, compare, evaluate
from models.forecast import Forecaster, Settings, calibrate, failure_count, feature_matrix, fit
from models.labels import HORIZON_DAYS, FloatArray, History, failures_per_gate, gate_folds, hold_out, label, outcome
from models.pictures import draw
from models.policy import BUDGET_PER_GATE_YEAR, EVIDENCE_DAYS, NEVER, YEAR_DAYS, Policy, Replay, tune
from models.promotion import compare_files
from models.retune import recalibrate
from models.train import CALIBRATED_AT_D, FOLDS, hoist_types, read_forecasts, record_ends, train, write_forecasts
from pipeline.dataset import Dataset, open_dataset
from pipeline.features import FEATURES, from_dataset
from pipeline.readings import DAY_MS, quantity_of
from pipeline.simulator import write_dataset
from pipeline.simulator.oracle import oracle
from pipeline.simulator.scenarios import SCENARIOS
from pipeline.simulator.truth import read_truth
from service.bench.report import BenchError, Figure, document, machine
from service.bench.sensor_faults import sensor_faults

ORACLE = "oracle"
RUNG = "O3"
FEWEST_CHANNELS = ("velocity_rms", "temperature")
ONE_MORE: Mapping[str, tuple[str, ...]] = {
    "acceleration": ("acceleration_rms", "acceleration_peak"),
    "kurtosis": ("kurtosis",),
    "current": ("current",),
    "movement": ("moving",),
    "movement and load": ("moving", "load"),
}
"""What is added to `FEWEST_CHANNELS` in `channels`."""

ELSEWHERE = "new_fleet"
"""The scenario of `in_domain` and of `site`."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the bench is. One work folder holds one size.

    Attributes
    ----------
    seeds : of the test fleets; ``tuning_seed``: of the fleet on which opponents get their thresholds; ``scenario_seed``: of
        the fleets of other worlds; ``site_seeds``: of the sites of `site`
    training_gates, training_seed : of the fleet that the shipped model learnt from, as the Makefile says; it has as many days
    splits : how many times gates are dealt anew for tuning and counting
    struck_gates : healthy gates that get a sensor fault, of each kind
    timed_gates, timed_seed : of the fleet on which training is timed
    tuning_gate_years : what a site tunes on in another world
    site_gate_years : what a site has when it asks whether to retrain
    settings : with which opponents learn
    """

    gates: int = 110
    days: int = 720
    seeds: tuple[int, ...] = (101, 102, 103)
    tuning_seed: int = 104
    scenario_seed: int = 105
    site_seeds: tuple[int, ...] = (111, 112, 113)
    scenarios: tuple[str, ...] = tuple(SCENARIOS)
    training_gates: int = 600
    training_seed: int = 2026
    splits: int = 200
    struck_gates: int = 100
    timed_gates: int = 203
    timed_seed: int = 107
    tuning_gate_years: float = 60.0
    site_gate_years: float = 60.0
    hazard_scale: float = 1.0
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True, slots=True)
class _Work:
    folder: Path
    sizes: Sizes
    jobs: int
    model: registry.Model

    @property
    def budget(self) -> float:
        return self.model.policy.budget_per_gate_year


@dataclass(frozen=True, slots=True)
class _Pool:
    """Forecast files of several fleets as one, by name; gate ids begin with the fleet's name."""

    files: Mapping[str, pd.DataFrame]
    history: History
    observed_until: Mapping[str, datetime]
    hoists: Mapping[str, str]


def bench_forecast(
    folder: Path, parts: Sequence[str], sizes: Sizes | None = None, *, jobs: int = 2, progress: Progress | None = None
) -> list[Figure]:
    """Do the parts that are not done yet, and return the figures of every part done so far, in the order of `PARTS`.

    Raises
    ------
    BenchError
        The folder holds work of another size or model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    registry.seed(folder / "registry")
    work = _Work(folder, sizes or Sizes(), jobs, registry.load(folder / "registry"))
    _claim(work)
    for number, name in enumerate(parts):
        if not (folder / f"{name}.json").exists():
            _write_whole(folder / f"{name}.json", document(PARTS[name](work), machine()))
        if progress is not None:
            progress(number + 1, len(parts))
    return [figure for name in PARTS for figure in _done(folder / f"{name}.json")]


def _claim(work: _Work) -> None:
    about = json.loads(json.dumps({"model": work.model.version, "sizes": asdict(work.sizes)}))
    file = work.folder / "about.json"
    if not file.exists():
        _write_whole(file, json.dumps(about, indent=2))
    elif json.loads(file.read_text(encoding="utf-8")) != about:
        raise BenchError(f"{work.folder} holds work of another size or model ({file.name} tells); take a new folder")


def _done(file: Path) -> list[Figure]:
    if not file.exists():
        return []
    return [Figure.from_dict(figure) for figure in json.loads(file.read_text(encoding="utf-8"))["figures"]]


def _write_whole(file: Path, text: str) -> None:
    part = file.with_name(f"{file.name}.part")
    part.write_text(text, encoding="utf-8")
    part.rename(file)


def _fleet(work: _Work, seed: int, scenario: str = "", gates: int | None = None) -> Dataset:
    """A fleet, simulated when it is not there yet."""
    name = f"fleet-{seed}-{scenario}" if scenario else f"fleet-{seed}"

    def make(part: Path) -> None:
        write_dataset(
            part,
            gates=gates or work.sizes.gates,
            days=work.sizes.days,
            seed=seed,
            scenario=scenario,
            hazard_scale=work.sizes.hazard_scale,
            jobs=work.jobs,
        )

    return open_dataset(_made(work.folder / name, make))


def _training_fleet(work: _Work, scenario: str = "") -> Dataset:
    return _fleet(work, work.sizes.training_seed, scenario, work.sizes.training_gates)


def _made(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder that is there as a whole or not at all."""
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        make(part)
        part.rename(folder)
    return folder


def _features(work: _Work, dataset: Dataset) -> pd.DataFrame:
    file = work.folder / f"features-{dataset.path.name}.parquet"
    if not file.exists():
        part = file.with_name(f"{file.name}.part")
        from_dataset(dataset, jobs=work.jobs).to_parquet(part)
        part.rename(file)
    return pd.read_parquet(file)


def _oracle(work: _Work, dataset: Dataset) -> pd.DataFrame:
    file = dataset.path / f"oracle-{RUNG}.parquet"
    if not file.exists():
        part = file.with_name(f"{file.name}.part")
        write_forecasts(oracle(dataset.path, RUNG, jobs=work.jobs), part)
        part.rename(file)
    return read_forecasts(file)


def _pool(datasets: Sequence[Dataset], forecast: Callable[[Dataset], Mapping[str, pd.DataFrame]]) -> _Pool:
    """Forecast fleets one after another and lay them together."""
    files: dict[str, list[pd.DataFrame]] = {}
    maintenance: list[pd.DataFrame] = []
    observed_until: dict[str, datetime] = {}
    hoists: dict[str, str] = {}
    for dataset in datasets:
        mark = f"{dataset.path.name}/"
        for name, file in forecast(dataset).items():
            files.setdefault(name, []).append(_lean(file).assign(gate_id=mark + file["gate_id"]))
        maintenance.append(dataset.maintenance.assign(gate_id=mark + dataset.maintenance["gate_id"]))
        observed_until |= {mark + gate_id: end for gate_id, end in record_ends(dataset).items()}
        hoists |= {mark + gate_id: hoist for gate_id, hoist in hoist_types(dataset).items()}
    pooled = {name: pd.concat(parts, ignore_index=True) for name, parts in files.items()}
    return _Pool(pooled, History(pd.concat(maintenance, ignore_index=True)), observed_until, hoists)


_JUDGED = ("gate_id", "component", "as_of", "verdict", "reason", "p_7d", "p_14d", "failure_mode", "model_version", "curve")


def _lean(file: pd.DataFrame) -> pd.DataFrame:
    """What is judged of a forecast file: the curves of components, most of its memory, are not."""
    return file[list(_JUDGED)].assign(curve=file["curve"].where(file["component"] == ""))


def _test_fleets(work: _Work) -> list[Dataset]:
    return [_fleet(work, seed) for seed in work.sizes.seeds]


def _model_on(work: _Work) -> Callable[[Dataset], dict[str, pd.DataFrame]]:
    return lambda dataset: {"model": work.model.forecaster.predict(_features(work, dataset))}


# --- parts -----------------------------------------------------------------------------------------------------------


def _fleets(work: _Work) -> list[Figure]:
    failures, rates = [], []
    for seed in (*work.sizes.seeds, work.sizes.tuning_seed):
        dataset = _fleet(work, seed)
        rows = _features(work, dataset)
        _oracle(work, dataset)
        if seed in work.sizes.seeds:
            failures.append(float((dataset.maintenance["kind"] == "failure").sum()))
            rates.append(_rate_14d(rows, dataset))
    return [
        Figure("fleets", "failures in a test fleet", "failures", tuple(failures)),
        Figure("fleets", "base rate, 14 d", "share", tuple(rates)),
    ]


def _rate_14d(rows: pd.DataFrame, dataset: Dataset) -> float:
    gates = rows[["gate_id", "as_of"]].drop_duplicates().assign(component="")
    return float(np.nanmean(outcome(label(gates, History(dataset.maintenance), record_ends(dataset)), 14)))


_FIGURES = (
    ("base_rate_14d", "base rate, 14 d", "share", ""),
    ("ap_14d", "AP at 14 d", "1", ""),
    ("ap_7d", "AP at 7 d", "1", ""),
    ("brier_skill_14d", "Brier skill at 14 d", "1", ""),
    ("log_loss_skill_14d", "log-loss skill at 14 d", "1", ""),
    ("tail_forecast_14d", "mean forecast where p > 0.2", "share", ""),
    ("tail_observed_14d", "observed where p > 0.2", "share", ""),
    ("tail_error_14d", "reliability error where p > 0.2", "share", "0.05 or less"),
    ("useful_share", "failures warned 7-21 d ahead", "share", ""),
    ("early_share", "failures warned 7 d ahead or more", "share", ""),
    ("lead_time_median_d", "median lead time", "d", ""),
    ("false_alarms_per_gate_year", "false alarms", "/gate-year", f"a budget of {BUDGET_PER_GATE_YEAR:g}"),
    ("alarm_precision", "alarms that came true", "share", ""),
    ("ttf_enclosed_share", "failures between 0.1 and 0.9 of the curve", "share", "0.80 to 0.92"),
    ("right_component_share", "right component of warned failures", "share", "0.90 or more"),
    ("right_mode_share", "right mode where the component was right", "share", "0.70 or more"),
    ("no_verdict_share", "gate-days without verdict", "share", ""),
    ("no_verdict_healthy_share", "gate-days without verdict, healthy feeds", "share", "0.02 or less"),
)
"""Name in a report, what it measures, unit, what it should be."""

_BY_HOIST = ("ap_14d", "brier_skill_14d", "useful_share", "early_share", "false_alarms_per_gate_year")
_BY_MODE = ("useful_share", "early_share")
_OF_OPPONENTS = ("ap_14d", "brier_skill_14d", "useful_share", "early_share", "false_alarms_per_gate_year")

_OF_THE_ORACLE = (
    ("ap_14d", "AP at 14 d, share of the oracle's", "0.68 or more"),
    ("useful_share", "failures warned 7-21 d ahead, share of the oracle's", "0.58 or more"),
    ("early_share", "failures warned 7 d ahead or more, share of the oracle's", "0.63 or more"),
    ("brier_skill_14d", "Brier skill at 14 d, share of the oracle's", "0.55 or more"),
)


def _estimates(bench: str, found: Mapping[str, Any], names: Sequence[str], of: str = "") -> list[Figure]:
    """Figures of these names; one that is not defined is left out."""
    return [
        figure
        for name, measured, unit, should in _FIGURES
        if name in names and name in found
        for figure in _estimate(bench, f"{of}: {measured}" if of else measured, unit, found[name], "" if of else should)
    ]


def _estimate(bench: str, measured: str, unit: str, found: Estimate, against: str = "") -> list[Figure]:
    value, low, high = found["value"], found["low"], found["high"]
    if value is None or low is None or high is None:
        return []
    return [Figure(bench, measured, unit, (value,), against, interval=(low, high))]


def _core(work: _Work) -> list[Figure]:
    opponents, policies = _opponents(work)

    def forecast(dataset: Dataset) -> dict[str, pd.DataFrame]:
        rows = _features(work, dataset)
        files = {"model": work.model.forecaster.predict(rows), ORACLE: _oracle(work, dataset)}
        return files | {name: opponent(rows).assign(curve=None) for name, opponent in opponents.items()}

    datasets = _test_fleets(work)
    pool = _pool(datasets, forecast)
    policies["model"] = work.model.policy
    reports = {
        name: evaluate(
            file,
            pool.history,
            pool.observed_until,
            policy=policies[name],
            are_probabilities=name in ("model", ORACLE, "constant"),
            hoists=pool.hoists,
        )
        for name, file in pool.files.items()
    }
    pictures = work.folder / "pictures"
    pictures.mkdir(exist_ok=True)
    draw(reports, pictures)
    report, counts = reports["model"], reports["model"]["counts"]
    figures = [
        Figure("core", "gate-years in test", "gate-years", (report["gate_years"],), "600 or more"),
        Figure("core", "evaluable failures in test", "failures", (float(counts["evaluable_failures"]),), "400 or more"),
        *_estimates("core", report["figures"], [name for name, *_ in _FIGURES]),
        _nothing_wrong(datasets, pool, policies["model"]),
    ]
    figures += _ratios(pool, policies, reports)
    for name in (ORACLE, *opponents):
        figures += _estimates("opponents", reports[name]["figures"], _OF_OPPONENTS, name)
    for mode, row in report["by_mode"].items():
        figures += _estimates("modes", row, _BY_MODE, f"{mode}, {row['failures']} failures")
    for hoist, row in report["by_hoist"].items():
        of = f"{hoist}, {row['failures']} failures in {row['gate_years']:.0f} gate-years"
        figures += _estimates("hoists", row, _BY_HOIST, of)
    return figures


def _opponents(work: _Work) -> tuple[dict[str, Baseline], dict[str, Policy]]:
    """What the model is compared with, and the thresholds of these and of the oracle; all learnt on the tuning fleet."""
    dataset = _fleet(work, work.sizes.tuning_seed)
    rows = _features(work, dataset)
    history, ends = History(dataset.maintenance), record_ends(dataset)
    per_day = float(-np.log1p(-_rate_14d(rows, dataset)) / 14)
    forest = baselines.isolation_forest(rows, FEATURES, seed=0)
    opponents: dict[str, Baseline] = {
        "constant": lambda of: baselines.constant(of, per_day),
        **baselines.SCORES,
        "isolation_forest": forest,
    }
    files = {ORACLE: _oracle(work, dataset)} | {name: opponent(rows) for name, opponent in opponents.items()}
    return opponents, {name: _tuned(work, Replay(file, history, ends)) for name, file in files.items()}


def _tuned(work: _Work, replay: Replay) -> Policy:
    return tune(replay, budget_per_gate_year=work.budget, fallback=NEVER, enough_gate_years=0.0)


def _ratios(pool: _Pool, policies: Mapping[str, Policy], reports: Mapping[str, Mapping[str, Any]]) -> list[Figure]:
    """The model against the oracle, the operators' best and the isolation forest, gate by gate."""

    def against(name: str, *figures: str) -> Mapping[str, Estimate]:
        files = {other: (pool.files[other], policies[other]) for other in ("model", name)}
        return compare(files, pool.history, pool.observed_until, figures=figures)[name]

    def useful(name: str) -> float:
        return reports[name]["figures"]["useful_share"]["value"] or 0.0

    of_oracle = against(ORACLE, *(name for name, *_ in _OF_THE_ORACLE))
    figures = [
        figure
        for name, measured, should in _OF_THE_ORACLE
        for figure in _estimate("core", measured, "x", of_oracle[name], should)
    ]
    best = max(baselines.OPERATORS, key=useful)
    for name, should in ((best, "2.5 or more"), ("isolation_forest", "")):
        measured = f"failures warned 7-21 d ahead, times those of {name}"
        figures += _estimate("core", measured, "x", against(name, "useful_share")["useful_share"], should)
    return figures


def _nothing_wrong(datasets: Sequence[Dataset], pool: _Pool, policy: Policy) -> Figure:
    """The lenient count: false alarms in whose 28 days the truth knows no fault of the gate."""
    marked = [(f"{dataset.path.name}/", read_truth(dataset.path)) for dataset in datasets]
    truth = pd.concat([frame.assign(gate_id=mark + frame["gate_id"]) for mark, frame in marked], ignore_index=True)
    faulty = truth[truth["active"]]
    days_ms = {gate_id: day.astype("int64").to_numpy() for gate_id, day in faulty.groupby("gate_id")["day"]}
    none: FloatArray = np.array([])
    replay = Replay(pool.files["model"], pool.history, pool.observed_until)
    charged = 0
    for gate_id in replay.gate_ids:
        for alarm in replay.alarms(policy, gate_id):
            since_ms = days_ms.get(gate_id, none) - alarm.started_ms
            if not ((since_ms >= -DAY_MS) & (since_ms <= EVIDENCE_DAYS * DAY_MS)).any():
                charged += replay.judge(alarm).charged
    return Figure("core", "false alarms, no fault in their 28 days", "/gate-year", (charged / max(replay.gate_years, 1e-9),))


def _budget(work: _Work) -> list[Figure]:
    pool = _pool(_test_fleets(work), _model_on(work))
    replay = Replay(pool.files["model"], pool.history, pool.observed_until)
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(work.sizes.splits):
        gate_ids = rng.permutation(replay.gate_ids).tolist()
        half, rest = replay.only(gate_ids[: len(gate_ids) // 2]), replay.only(gate_ids[len(gate_ids) // 2 :])
        rates.append(rest.false_alarms(_tuned(work, half)) / rest.gate_years)
    over = float(np.mean(np.array(rates) > work.budget))
    return [
        Figure("budget", f"of {len(rates)} random halves, share over the budget", "share", (over,), "0.10 or less"),
        Figure("budget", "false alarms on the other half", "/gate-year", tuple(rates), f"a budget of {work.budget:g}"),
    ]


def _two_channels(work: _Work) -> list[Figure]:
    homes = _test_fleets(work)
    bare = [_stripped(work, home, "two") for home in homes]
    of_home = {home.path.name: dataset for home, dataset in zip(homes, bare, strict=True)}

    def forecast(dataset: Dataset) -> dict[str, pd.DataFrame]:
        predict = work.model.forecaster.predict
        return {"two": predict(_features(work, of_home[dataset.path.name])), "all": predict(_features(work, dataset))}

    pool = _pool(homes, forecast)
    policy = work.model.policy
    pair = {name: (file, policy) for name, file in pool.files.items()}
    ratios = compare(pair, pool.history, pool.observed_until)["all"]
    report = evaluate(pool.files["two"], pool.history, pool.observed_until, policy=policy)
    shown = ("ap_14d", "brier_skill_14d", "useful_share", "early_share", "false_alarms_per_gate_year", "no_verdict_healthy_share")
    figures = _estimates("two channels", report["figures"], shown, "velocity and temperature only")
    for name, measured, _, _ in _FIGURES:
        if name in ratios:
            should = "0.80 or more" if name == "ap_14d" else ""
            figures += _estimate("two channels", f"{measured}, share of that with all channels", "x", ratios[name], should)
    return figures


def _channels(work: _Work) -> list[Figure]:
    home = _fleet(work, work.sizes.seeds[0])
    variants: dict[str, tuple[str, ...]] = {"velocity and temperature": (), **ONE_MORE}
    figures: list[Figure] = []
    predict, history, ends = work.model.forecaster.predict, History(home.maintenance), record_ends(home)
    every = (predict(_features(work, home)), work.model.policy)
    for name, added in variants.items():
        some = _stripped(work, home, f"with-{name.replace(' ', '-')}", added)
        files = {"some": (predict(_features(work, some)), work.model.policy), "all": every}
        share = compare(files, history, ends, figures=("ap_14d",))["all"]["ap_14d"]
        told = f"with {name} too" if added else f"{name} alone"
        figures += _estimate("channels", f"{told}: AP at 14 d, share of that with all channels", "x", share)
    return figures


def _stripped(work: _Work, home: Dataset, name: str, added: Sequence[str] = ()) -> Dataset:
    return open_dataset(_made(work.folder / f"{home.path.name}-{name}", partial(_strip, home, (*FEWEST_CHANNELS, *added))))


def _strip(home: Dataset, quantities: Sequence[str], part: Path) -> None:
    """The same dataset without any channel but those of some quantities."""
    shutil.copytree(home.path, part, ignore=shutil.ignore_patterns("readings", "*.parquet"))
    channels = pd.read_csv(part / "channels.csv", dtype=str, keep_default_na=False)
    channels[channels["quantity"].isin(quantities)].to_csv(part / "channels.csv", index=False, lineterminator="\n")
    (part / "readings").mkdir()
    for file in sorted((home.path / "readings").iterdir()):
        kept = [name for name in pq.read_schema(file).names if name == "ts" or quantity_of(name) in quantities]
        pq.write_table(pq.read_table(file, columns=kept), part / "readings" / file.name, compression="zstd")


def _scenarios(work: _Work) -> list[Figure]:
    """The whole record counts, the days before a scenario begins too; `home` is the same fleet without any."""
    figures: list[Figure] = []
    for scenario in ("", *work.sizes.scenarios):
        of = scenario or "home"
        dataset = _fleet(work, work.sizes.scenario_seed, scenario)
        files = {"model": work.model.forecaster.predict(_features(work, dataset)), ORACLE: _oracle(work, dataset)}
        history, ends = History(dataset.maintenance), record_ends(dataset)
        policy = work.model.policy
        report = evaluate(files["model"], history, ends, policy=policy)
        shown = ("ap_14d", "useful_share", "early_share", "false_alarms_per_gate_year", "no_verdict_healthy_share")
        figures += _estimates("scenarios", report["figures"], shown, of)
        pair = {name: (file, policy) for name, file in files.items()}
        share = compare(pair, history, ends, figures=("ap_14d",))[ORACLE]["ap_14d"]
        figures += _estimate("scenarios", f"{of}: AP at 14 d, share of the oracle's", "x", share)
        figures += _tuned_on_the_spot(work, Replay(files["model"], history, ends), of)
    return figures


def _tuned_on_the_spot(work: _Work, replay: Replay, of: str) -> list[Figure]:
    """False alarms of the other gates after tuning on so many gate-years; mean and 90 % range of gates dealt anew."""
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(work.sizes.splits):
        gate_ids = rng.permutation(replay.gate_ids).tolist()
        years = np.cumsum([replay.only([gate_id]).gate_years for gate_id in gate_ids])
        enough = int(np.searchsorted(years, work.sizes.tuning_gate_years)) + 1
        rest = replay.only(gate_ids[enough:])
        if rest.gate_years > 0:
            rates.append(rest.false_alarms(_tuned(work, replay.only(gate_ids[:enough]))) / rest.gate_years)
    if not rates:
        return []
    measured = f"{of}: false alarms after tuning on {work.sizes.tuning_gate_years:g} gate-years, mean of {len(rates)} draws"
    low, high = np.quantile(rates, [0.05, 0.95])
    should = f"{1.25 * work.budget:g} or less" if of == ELSEWHERE else ""
    found = (float(np.mean(rates)),)
    return [Figure("scenarios", measured, "/gate-year", found, should, interval=(float(low), float(high)))]


def _in_domain(work: _Work) -> list[Figure]:
    name = f"in-{ELSEWHERE.replace('_', '-')}"
    if not (work.folder / "registry" / name).exists():
        home = _training_fleet(work, ELSEWHERE)
        train(
            home,
            registry_dir=work.folder / "registry",
            name=name,
            seed=work.model.manifest["training"]["seed"],
            rows=_features(work, home),
            settings=work.sizes.settings,
            jobs=work.jobs,
        )
    native = registry.load(work.folder / "registry", name)
    dataset = _fleet(work, work.sizes.scenario_seed, ELSEWHERE)
    rows = _features(work, dataset)
    files = {
        "model": (work.model.forecaster.predict(rows), work.model.policy),
        "native": (native.forecaster.predict(rows), native.policy),
    }
    wanted = ("ap_14d", "brier_skill_14d")
    found = compare(files, History(dataset.maintenance), record_ends(dataset), figures=wanted)["native"]
    told = f"of one that learnt from {work.sizes.training_gates} gates of {ELSEWHERE}"
    return [
        *_estimate("in domain", f"{ELSEWHERE}: AP at 14 d, share {told}", "x", found["ap_14d"], "0.90 or more"),
        *_estimate("in domain", f"{ELSEWHERE}: Brier skill at 14 d, share {told}", "x", found["brier_skill_14d"]),
    ]


_OF_SITES = ("ap_14d", "brier_skill_14d", "useful_share", "early_share", "false_alarms_per_gate_year")


def _site(work: _Work) -> list[Figure]:
    """What a site gains by its first 60 gate-years. All are judged on the same gates and days: those after, a horizon later."""
    days = round(work.sizes.site_gate_years * YEAR_DAYS / work.sizes.gates)
    found: dict[str, list[float]] = {}
    for seed in work.sizes.site_seeds:
        for measured, value in _one_site(work, _fleet(work, seed, ELSEWHERE), timedelta(days=days)).items():
            found.setdefault(measured, []).append(value)
    units = {measured: unit for _, measured, unit, _ in _FIGURES}
    return [
        Figure("site", measured, units.get(measured.partition(": ")[2], "1"), tuple(values)) for measured, values in found.items()
    ]


def _one_site(work: _Work, home: Dataset, first: timedelta) -> dict[str, float]:
    rows = _features(work, home)
    until = rows["as_of"].min().to_pydatetime() + first
    begun = open_dataset(_made(work.folder / f"{home.path.name}-begun", partial(_cut, home, until)))
    name = f"learnt-{home.path.name}".replace("_", "-")
    if not (work.folder / "registry" / name).exists():
        train(begun, registry_dir=work.folder / "registry", name=name, settings=work.sizes.settings, jobs=work.jobs)
    native = registry.load(work.folder / "registry", name)
    early, later = rows[rows["as_of"] <= until], rows[rows["as_of"] >= until + timedelta(days=HORIZON_DAYS)]
    forecaster, log_odds = work.model.forecaster, work.model.forecaster.log_odds(early)
    known, so_far = History(begun.maintenance), record_ends(begun)
    failures = failures_per_gate(begun.maintenance, sorted(set(early["gate_id"])))
    here = recalibrate(forecaster, early, log_odds, known, so_far, failures) or forecaster
    replay = Replay(here.assemble(early, log_odds), known, so_far)
    tuned = tune(replay, budget_per_gate_year=work.budget, fallback=work.model.policy.open_at, enough_gate_years=0.0)
    history, ends = History(home.maintenance), record_ends(home)
    files = {
        "retrained": (native.forecaster.predict(later), native.policy),
        "as shipped": (forecaster.predict(later), work.model.policy),
        "tuned": (here.predict(later), tuned),
    }
    told: dict[str, float] = {}
    for contender, (file, policy) in files.items():
        figures = evaluate(file, history, ends, policy=policy)["figures"]
        for figure, measured, _, _ in _FIGURES:
            if figure in _OF_SITES and (figures[figure]["value"] is not None):
                told[f"{contender}: {measured}"] = figures[figure]["value"]
    pair = {contender: files[contender] for contender in ("retrained", "as shipped")}
    shown = compare_files(pair, history, ends, hoists=hoist_types(home), asked="gates", simulated=True)
    told["retrained: AP at 14 d, times that as shipped"] = shown.ratios["ap_14d"]["value"] or 0.0
    told["retrained: `models promote` would take it"] = float(not shown.objections)
    return told


def _cut(home: Dataset, until: datetime, part: Path) -> None:
    """The same dataset as it was at an instant: readings and records from before, without ends that came later."""
    shutil.copytree(home.path, part, ignore=shutil.ignore_patterns("readings", "*.parquet"))
    (part / "readings").mkdir()
    for file in sorted((home.path / "readings").iterdir()):
        read = pd.read_parquet(file)
        read[read["ts"] < until].to_parquet(part / "readings" / file.name, index=False)
    records = pd.read_csv(part / "maintenance.csv", dtype=str, keep_default_na=False)
    started, ended = (pd.to_datetime(records[name], utc=True, format="ISO8601") for name in ("started_at", "ended_at"))
    records.loc[ended >= until, "ended_at"] = ""
    records[started < until].to_csv(part / "maintenance.csv", index=False, lineterminator="\n")


def _peers(work: _Work) -> list[Figure]:
    peer = _lightgbm(work)

    def forecast(dataset: Dataset) -> dict[str, pd.DataFrame]:
        rows = _features(work, dataset)
        return {"model": work.model.forecaster.predict(rows), "LightGBM": peer.predict(rows)}

    pool = _pool(_test_fleets(work), forecast)
    pair = {name: (file, work.model.policy) for name, file in pool.files.items()}
    wanted = ("ap_14d", "brier_skill_14d")
    found = compare(pair, pool.history, pool.observed_until, figures=wanted)["LightGBM"]
    return [
        *_estimate("peers", "AP at 14 d, times that of LightGBM", "x", found["ap_14d"], "0.98 or more"),
        *_estimate("peers", "Brier skill at 14 d, times that of LightGBM", "x", found["brier_skill_14d"]),
    ]


@dataclass(frozen=True, slots=True)
class _Peer(Forecaster):
    """The shipped model's frame with the trees of LightGBM alone in it."""

    def log_odds(self, rows: pd.DataFrame) -> FloatArray:
        x = feature_matrix(rows, self.features)
        scored = (rows["reason"] == "").to_numpy()
        out = np.full((len(rows), len(self.horizons_d)), np.nan)
        for column, horizon_d in enumerate(self.horizons_d):
            asked = np.column_stack([x[scored], np.full(int(scored.sum()), horizon_d)])
            out[scored, column] = self.parts["lightgbm"].predict(asked, raw_score=True, num_threads=1)
        return out


def _lightgbm(work: _Work) -> _Peer:
    """LightGBM, taught and calibrated as `models.train` does it, on the rows of the shipped model's training fleet."""
    dataset = _training_fleet(work)
    rows = _features(work, dataset)
    seed = work.model.manifest["training"]["seed"]
    observed_until, history = record_ends(dataset), History(dataset.maintenance)
    failures = failures_per_gate(dataset.maintenance, sorted(observed_until))
    first, last = rows["as_of"].min().to_pydatetime(), rows["as_of"].max().to_pydatetime()
    rows = rows[hold_out(failures, first, last, seed=seed).teaches(rows)].reset_index(drop=True)

    def teach(some: pd.DataFrame) -> _Peer:
        return _taught(some.reset_index(drop=True), history, observed_until, work.sizes.settings, seed)

    here = {gate_id: failures[gate_id] for gate_id in sorted(set(rows["gate_id"]))}
    log_odds: FloatArray = np.full((len(rows), len(product.HORIZONS_D)), np.nan)
    for fold in gate_folds(here, FOLDS, seed=seed):
        inside = rows["gate_id"].isin(fold).to_numpy()
        log_odds[inside] = teach(rows[~inside]).log_odds(rows[inside])
    labels = label(rows, history, observed_until)
    at = [product.HORIZONS_D.index(horizon_d) for horizon_d in CALIBRATED_AT_D]
    y = np.column_stack([outcome(labels, horizon_d) for horizon_d in CALIBRATED_AT_D])
    calibrated = calibrate(teach(rows), log_odds[:, at], y, failure_count(rows, labels))
    assert isinstance(calibrated, _Peer)
    return calibrated


def _taught(rows: pd.DataFrame, history: History, observed_until: Mapping[str, datetime], settings: Settings, seed: int) -> _Peer:
    try:
        import lightgbm
    except ImportError as error:
        raise BenchError(f"the part peers needs LightGBM ({error}); `make check` installs what development needs") from error
    # rates, modes and the rest of the frame; its own trees are not asked
    frame = fit(rows, history, observed_until, features=FEATURES, seed=seed, settings=replace(settings, trees=1, fewest_trees=1))
    labels = label(rows, history, observed_until)
    usable = (rows["reason"] == "").to_numpy() & labels["at_risk"].to_numpy()
    teaching = product.draw_teaching(labels, usable, settings.healthy_rows, np.random.default_rng(seed))
    x = np.column_stack([feature_matrix(rows, FEATURES)[teaching.place], teaching.horizon_d])
    trees = min(settings.trees, max(settings.fewest_trees, failure_count(rows, labels)))
    chosen = {
        "objective": "binary",
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.leaves,
        "min_data_in_leaf": min(settings.rows_per_leaf, max(20, len(teaching.y) // 60)),
        "lambda_l2": settings.l2,
        "feature_fraction_bynode": settings.share_of_features,
        "monotone_constraints": [0] * len(FEATURES) + [1],
        "num_threads": 1,
        "deterministic": True,
        "seed": seed,
        "verbose": -1,
    }
    data = lightgbm.Dataset(x, label=teaching.y, weight=teaching.weight)
    kept = {part.name: getattr(frame, part.name) for part in fields(frame)}
    return _Peer(**kept | {"parts": {**frame.parts, "lightgbm": lightgbm.train(chosen, data, num_boost_round=trees)}})


def _sensor_faults(work: _Work) -> list[Figure]:
    sizes = work.sizes
    return sensor_faults(
        work.model.forecaster,
        work.model.policy,
        count=sizes.struck_gates,
        gates=sizes.gates,
        days=sizes.days,
        seed=sizes.tuning_seed,
        jobs=work.jobs,
    )


def _training(work: _Work) -> list[Figure]:
    """How long it takes from raw readings to a registered model, and how much memory, as a command of its own."""
    sizes = work.sizes
    dataset = _fleet(work, sizes.timed_seed, gates=sizes.timed_gates)
    gate_years = sizes.timed_gates * sizes.days / YEAR_DAYS
    target = work.folder / "timed-registry"
    cache = work.folder / "timed-features"
    for made_before in (target, cache):
        shutil.rmtree(made_before, ignore_errors=True)
    command = [sys.executable, "-m", "service.cli", "train", str(dataset.path), "--registry", str(target), "--name", "timed"]
    command += ["--cache", str(cache)]
    started = time.perf_counter()
    done = subprocess.run([*command, "--jobs", str(work.jobs)], check=False, capture_output=True, text=True)
    minutes = (time.perf_counter() - started) / 60.0
    if done.returncode:
        raise BenchError(f"bench forecast: training failed: {done.stderr.strip().splitlines()[-1]}")
    peak_gb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    told = f"{gate_years:.0f} gate-years of raw readings to a registered model, {work.jobs} processes"
    return [
        Figure("training", told, "min", (minutes,), "15 or less"),
        Figure("training", "its largest process", "GB", (peak_gb,), "6 or less"),
    ]


PARTS: Mapping[str, Callable[[_Work], list[Figure]]] = {
    "fleets": _fleets,
    "core": _core,
    "budget": _budget,
    "two_channels": _two_channels,
    "channels": _channels,
    "scenarios": _scenarios,
    "in_domain": _in_domain,
    "site": _site,
    "peers": _peers,
    "sensor_faults": _sensor_faults,
    "training": _training,
}
"""The parts by name, in the order in which they make use of each other's work."""
