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
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from models import baselines, registry
from models.baselines import Baseline
from models.evaluate import Estimate, compare, evaluate
from models.labels import HORIZON_DAYS, FloatArray, History, label, outcome
from models.pictures import draw
from models.policy import BUDGET_PER_GATE_YEAR, EVIDENCE_DAYS, NEVER, YEAR_DAYS, Policy, Replay, tune
from models.promotion import compare_files
from models.retune import tune_on
from models.train import hoist_types, record_ends, train
from pipeline.dataset import Dataset, open_dataset
from pipeline.features import FEATURES
from pipeline.readings import DAY_MS, quantity_of
from pipeline.simulator.truth import read_truth
from service.bench.forecast_work import (
    Pool,
    Sizes,
    Work,
    features_of,
    fleet_of,
    made,
    model_on,
    oracle_of,
    pool_of,
    test_fleets,
    training_fleet,
    write_whole,
)
from service.bench.lightgbm_peer import learn_peer
from service.bench.report import BenchError, Figure, document, machine
from service.bench.sensor_faults import sensor_faults

ORACLE = "oracle"
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
    work = Work(folder, sizes or Sizes(), jobs, registry.load(folder / "registry"))
    _claim(work)
    for number, name in enumerate(parts):
        if not (folder / f"{name}.json").exists():
            write_whole(folder / f"{name}.json", document(PARTS[name](work), machine()))
        if progress is not None:
            progress(number + 1, len(parts))
    return [figure for name in PARTS for figure in _done(folder / f"{name}.json")]


def _claim(work: Work) -> None:
    about = json.loads(json.dumps({"model": work.model.version, "sizes": asdict(work.sizes)}))
    file = work.folder / "about.json"
    if not file.exists():
        write_whole(file, json.dumps(about, indent=2))
    elif json.loads(file.read_text(encoding="utf-8")) != about:
        raise BenchError(f"{work.folder} holds work of another size or model ({file.name} tells); take a new folder")


def _done(file: Path) -> list[Figure]:
    if not file.exists():
        return []
    return [Figure.from_dict(figure) for figure in json.loads(file.read_text(encoding="utf-8"))["figures"]]


# --- parts -----------------------------------------------------------------------------------------------------------


def _fleets(work: Work) -> list[Figure]:
    failures, rates = [], []
    for seed in (*work.sizes.seeds, work.sizes.tuning_seed):
        dataset = fleet_of(work, seed)
        rows = features_of(work, dataset)
        oracle_of(work, dataset)
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


def _core(work: Work) -> list[Figure]:
    opponents, policies = _opponents(work)

    def forecast(dataset: Dataset) -> dict[str, pd.DataFrame]:
        rows = features_of(work, dataset)
        files = {"model": work.model.forecaster.predict(rows), ORACLE: oracle_of(work, dataset)}
        return files | {name: opponent(rows).assign(curve=None) for name, opponent in opponents.items()}

    datasets = test_fleets(work)
    pool = pool_of(datasets, forecast)
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


def _opponents(work: Work) -> tuple[dict[str, Baseline], dict[str, Policy]]:
    """What the model is compared with, and the thresholds of these and of the oracle; all learnt on the tuning fleet."""
    dataset = fleet_of(work, work.sizes.tuning_seed)
    rows = features_of(work, dataset)
    history, ends = History(dataset.maintenance), record_ends(dataset)
    per_day = float(-np.log1p(-_rate_14d(rows, dataset)) / 14)
    forest = baselines.isolation_forest(rows, FEATURES, seed=0)
    opponents: dict[str, Baseline] = {
        "constant": lambda of: baselines.constant(of, per_day),
        **baselines.SCORES,
        "isolation_forest": forest,
    }
    files = {ORACLE: oracle_of(work, dataset)} | {name: opponent(rows) for name, opponent in opponents.items()}
    return opponents, {name: _tuned(work, Replay(file, history, ends)) for name, file in files.items()}


def _tuned(work: Work, replay: Replay) -> Policy:
    return tune(replay, budget_per_gate_year=work.budget, fallback=NEVER, enough_gate_years=0.0)


def _ratios(pool: Pool, policies: Mapping[str, Policy], reports: Mapping[str, Mapping[str, Any]]) -> list[Figure]:
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


def _nothing_wrong(datasets: Sequence[Dataset], pool: Pool, policy: Policy) -> Figure:
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


def _budget(work: Work) -> list[Figure]:
    pool = pool_of(test_fleets(work), model_on(work))
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


def _two_channels(work: Work) -> list[Figure]:
    homes = test_fleets(work)
    bare = [_stripped(work, home, "two") for home in homes]
    of_home = {home.path.name: dataset for home, dataset in zip(homes, bare, strict=True)}

    def forecast(dataset: Dataset) -> dict[str, pd.DataFrame]:
        predict = work.model.forecaster.predict
        return {"two": predict(features_of(work, of_home[dataset.path.name])), "all": predict(features_of(work, dataset))}

    pool = pool_of(homes, forecast)
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


def _channels(work: Work) -> list[Figure]:
    home = fleet_of(work, work.sizes.seeds[0])
    variants: dict[str, tuple[str, ...]] = {"velocity and temperature": (), **ONE_MORE}
    figures: list[Figure] = []
    predict, history, ends = work.model.forecaster.predict, History(home.maintenance), record_ends(home)
    every = (predict(features_of(work, home)), work.model.policy)
    for name, added in variants.items():
        some = _stripped(work, home, f"with-{name.replace(' ', '-')}", added)
        files = {"some": (predict(features_of(work, some)), work.model.policy), "all": every}
        share = compare(files, history, ends, figures=("ap_14d",))["all"]["ap_14d"]
        told = f"with {name} too" if added else f"{name} alone"
        figures += _estimate("channels", f"{told}: AP at 14 d, share of that with all channels", "x", share)
    return figures


def _stripped(work: Work, home: Dataset, name: str, added: Sequence[str] = ()) -> Dataset:
    return open_dataset(made(work.folder / f"{home.path.name}-{name}", partial(_strip, home, (*FEWEST_CHANNELS, *added))))


def _strip(home: Dataset, quantities: Sequence[str], part: Path) -> None:
    """The same dataset without any channel but those of some quantities."""
    shutil.copytree(home.path, part, ignore=shutil.ignore_patterns("readings", "*.parquet"))
    channels = pd.read_csv(part / "channels.csv", dtype=str, keep_default_na=False)
    channels[channels["quantity"].isin(quantities)].to_csv(part / "channels.csv", index=False, lineterminator="\n")
    (part / "readings").mkdir()
    for file in sorted((home.path / "readings").iterdir()):
        kept = [name for name in pq.read_schema(file).names if name == "ts" or quantity_of(name) in quantities]
        pq.write_table(pq.read_table(file, columns=kept), part / "readings" / file.name, compression="zstd")


def _scenarios(work: Work) -> list[Figure]:
    """The whole record counts, the days before a scenario begins too; `home` is the same fleet without any."""
    figures: list[Figure] = []
    for scenario in ("", *work.sizes.scenarios):
        of = scenario or "home"
        dataset = fleet_of(work, work.sizes.scenario_seed, scenario)
        files = {"model": work.model.forecaster.predict(features_of(work, dataset)), ORACLE: oracle_of(work, dataset)}
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


def _tuned_on_the_spot(work: Work, replay: Replay, of: str) -> list[Figure]:
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


def _in_domain(work: Work) -> list[Figure]:
    name = f"in-{ELSEWHERE.replace('_', '-')}"
    if not (work.folder / "registry" / name).exists():
        home = training_fleet(work, ELSEWHERE)
        train(
            home,
            registry_dir=work.folder / "registry",
            name=name,
            seed=work.model.manifest["training"]["seed"],
            rows=features_of(work, home),
            settings=work.sizes.settings,
            jobs=work.jobs,
        )
    native = registry.load(work.folder / "registry", name)
    dataset = fleet_of(work, work.sizes.scenario_seed, ELSEWHERE)
    rows = features_of(work, dataset)
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


def _site(work: Work) -> list[Figure]:
    """What a site gains by its first 60 gate-years. All are judged on the same gates and days: those after, a horizon later."""
    days = round(work.sizes.site_gate_years * YEAR_DAYS / work.sizes.gates)
    found: dict[str, list[float]] = {}
    for seed in work.sizes.site_seeds:
        for measured, value in _one_site(work, fleet_of(work, seed, ELSEWHERE), timedelta(days=days)).items():
            found.setdefault(measured, []).append(value)
    units = {measured: unit for _, measured, unit, _ in _FIGURES}
    return [
        Figure("site", measured, units.get(measured.partition(": ")[2], "1"), tuple(values)) for measured, values in found.items()
    ]


def _one_site(work: Work, home: Dataset, first: timedelta) -> dict[str, float]:
    rows = features_of(work, home)
    until = rows["as_of"].min().to_pydatetime() + first
    begun = open_dataset(made(work.folder / f"{home.path.name}-begun", partial(_cut, home, until)))
    name = f"learnt-{home.path.name}".replace("_", "-")
    if not (work.folder / "registry" / name).exists():
        train(begun, registry_dir=work.folder / "registry", name=name, settings=work.sizes.settings, jobs=work.jobs)
    native = registry.load(work.folder / "registry", name)
    early, later = rows[rows["as_of"] <= until], rows[rows["as_of"] >= until + timedelta(days=HORIZON_DAYS)]
    shipped = work.model
    tuned = tune_on(
        early,
        begun.maintenance,
        record_ends(begun),
        shipped.forecaster,
        budget_per_gate_year=work.budget,
        fallback=shipped.policy.open_at,
        enough_gate_years=0.0,
    )
    history, ends = History(home.maintenance), record_ends(home)
    files = {
        "retrained": (native.forecaster.predict(later), native.policy),
        "as shipped": (shipped.forecaster.predict(later), shipped.policy),
        "tuned": ((tuned.recalibrated or shipped.forecaster).predict(later), tuned.policy),
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


def _peers(work: Work) -> list[Figure]:
    home = training_fleet(work)
    peer = learn_peer(home, features_of(work, home), work.sizes.settings, work.model.manifest["training"]["seed"])

    def forecast(dataset: Dataset) -> dict[str, pd.DataFrame]:
        rows = features_of(work, dataset)
        return {"model": work.model.forecaster.predict(rows), "LightGBM": peer.predict(rows)}

    pool = pool_of(test_fleets(work), forecast)
    pair = {name: (file, work.model.policy) for name, file in pool.files.items()}
    wanted = ("ap_14d", "brier_skill_14d")
    found = compare(pair, pool.history, pool.observed_until, figures=wanted)["LightGBM"]
    return [
        *_estimate("peers", "AP at 14 d, times that of LightGBM", "x", found["ap_14d"], "0.98 or more"),
        *_estimate("peers", "Brier skill at 14 d, times that of LightGBM", "x", found["brier_skill_14d"]),
    ]


def _sensor_faults(work: Work) -> list[Figure]:
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


def _training(work: Work) -> list[Figure]:
    """How long it takes from raw readings to a registered model, and how much memory, as a command of its own."""
    sizes = work.sizes
    dataset = fleet_of(work, sizes.timed_seed, gates=sizes.timed_gates)
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


PARTS: Mapping[str, Callable[[Work], list[Figure]]] = {
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
