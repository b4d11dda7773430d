"""Bench of the simulator: is its oracle calibrated, how far below it is the shipped model, are the fleets hard enough?

Fleets that the shipped model has not seen, the same rows for everybody: gate rows with a forecast of the model and a known
outcome at 14 days. Everything here comes from simulation.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from models import baselines, registry
from models.labels import FloatArray, History, label, outcome
from models.train import record_ends
from pipeline.dataset import Dataset, open_dataset
from pipeline.features import FEATURES, from_dataset
from pipeline.simulator import live_gate, make_fleet, write_dataset
from pipeline.simulator.degradation import SUDDEN
from pipeline.simulator.oracle import oracle
from pipeline.simulator.weather import DAY_S
from pipeline.spectra import ZONES
from service.bench.report import BenchError, Figure

HORIZON_D = 14
RESAMPLES = 400
BINS = (0.0, 0.02, 0.1, 0.3, 0.7, 1.0)
STRUCTURE_GATES, STRUCTURE_DAYS = 300, 1080
"""Size of the fleets, wear without signals, by which the kinds of failures are counted."""

FUSED = ("own_z_", "own_t_", "gate_z_", "gate_t_", "vibration_")
"""Features made of several channels; the rule about single features does not speak of them."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class _Fleet:
    """One fleet: gate rows (columns ``gate_id, y`` and a forecast of each forecaster), and its plain numbers."""

    rows: pd.DataFrame
    failures: int
    single_auc: float
    fused_auc: float
    zone_ap: float
    level_ap: float


def bench_oracle(
    gates: int = 100,
    days: int = 720,
    seeds: Sequence[int] = (101, 102, 103),
    jobs: int = 2,
    progress: Progress | None = None,
) -> list[Figure]:
    """Measure fleets of each seed; the reliability bins pool them."""
    fleets = []
    with tempfile.TemporaryDirectory(prefix="sluicewatch-bench-") as name:
        registry.seed(Path(name) / "registry")
        model = registry.load(Path(name) / "registry")
        for number, seed in enumerate(seeds):
            folder = Path(name) / f"fleet-{seed}"
            write_dataset(folder, gates=gates, days=days, seed=seed, jobs=jobs)
            fleets.append(_measure(folder, model, jobs))
            if progress is not None:
                progress(number + 1, len(seeds))
    return [*_oracle_figures(fleets), *_difficulty(fleets, [_structure(seed) for seed in seeds])]


def _measure(folder: Path, model: registry.Model, jobs: int) -> _Fleet:
    dataset = open_dataset(folder)
    features = from_dataset(dataset)
    forecasts = {"model": model.forecaster.predict(features), "zone limit": baselines.zone_limit(features)}
    forecasts["zone"] = _zones(dataset, forecasts["zone limit"])
    forecasts |= {rung: oracle(folder, rung, jobs=jobs) for rung in ("O1", "O3")}
    rows = _gate_rows(dataset, forecasts)
    if rows["y"].nunique() < 2:
        raise BenchError(f"{len(rows)} rows without a failure to judge by; take more gates or more days")
    single_auc, fused_auc = _largest_auc(dataset, features)
    return _Fleet(
        rows=rows,
        failures=int((dataset.maintenance["kind"] == "failure").sum()),
        single_auc=single_auc,
        fused_auc=fused_auc,
        zone_ap=float(average_precision_score(rows["y"], rows["zone"])),
        level_ap=float(average_precision_score(rows["y"], rows["zone limit"])),
    )


def _zones(dataset: Dataset, levels: pd.DataFrame) -> pd.DataFrame:
    """The rule as it is used: the zone, A to D as 0 to 3, of the gate's highest vibration velocity, by its motor's class.

    Indicative, as hoists run for minutes.
    """
    motors = dataset.components[dataset.components["component"] == "motor"].set_index("gate_id")["iso_class"]
    gates = levels[levels["component"] == ""].copy()
    score = gates["p_14d"].to_numpy(dtype=np.float64)
    velocity_mm_s = baselines.ZONE_LIMIT_MM_S * np.sqrt(score / (1.0 - score))
    limits = np.array([ZONES[iso_class].boundaries_mm_s for iso_class in gates["gate_id"].map(motors)])
    zone = (velocity_mm_s[:, None] >= limits).sum(axis=1).astype(np.float64)
    gates["p_14d"] = np.where(np.isfinite(velocity_mm_s), zone, np.nan)
    return gates


def _structure(seed: int) -> tuple[float, float]:
    """Of the failures of a larger fleet: the share that is silent or sudden, and the share that gives less than 7 days."""
    fleet = make_fleet(gates=STRUCTURE_GATES, days=STRUCTURE_DAYS, seed=seed)
    lives = [live_gate(fleet, gate)[2] for gate in fleet.gates]
    count = sum(len(life.failures) for life in lives)
    sudden = sum(outage.mode == SUDDEN for life in lives for outage in life.failures)
    worn = [fault for life in lives for fault in life.episodes if fault.outcome == "failed"]
    short = sum(fault.end_s / DAY_S - fault.first_day < 7 for fault in worn)
    return (sum(fault.silent for fault in worn) + sudden) / count, (short + sudden) / count


def _gate_rows(dataset: Dataset, forecasts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The gate rows that every forecaster speaks of, with p_14d of each and the outcome."""
    rows: pd.DataFrame | None = None
    for name, file in forecasts.items():
        gate = file.loc[file["component"] == "", ["gate_id", "as_of", "p_14d"]].rename(columns={"p_14d": name}).dropna()
        gate["as_of"] = gate["as_of"].astype("datetime64[ms, UTC]")
        rows = gate if rows is None else rows.merge(gate, on=["gate_id", "as_of"])
    assert rows is not None
    return _with_outcome(dataset, rows)


def _with_outcome(dataset: Dataset, rows: pd.DataFrame) -> pd.DataFrame:
    labels = label(rows.assign(component=""), History(dataset.maintenance), record_ends(dataset))
    return rows.assign(y=outcome(labels, HORIZON_D)).dropna(subset="y").reset_index(drop=True)


def _largest_auc(dataset: Dataset, features: pd.DataFrame) -> tuple[float, float]:
    """The largest area under the ROC curve, over gate rows, that one feature of one component has: of one channel, and fused."""
    gates = _with_outcome(dataset, features[["gate_id", "as_of"]].drop_duplicates())
    best = {False: 0.5, True: 0.5}
    for _, rows in features[features["reason"] == ""].groupby("component"):
        merged = gates.merge(rows[["gate_id", "as_of", *FEATURES]], on=["gate_id", "as_of"], how="left")
        for feature in FEATURES:
            values = merged[feature].to_numpy(dtype=np.float64)
            if np.isfinite(values).any():
                values = np.where(np.isfinite(values), values, np.nanmedian(values))
                auc = float(roc_auc_score(merged["y"], values))
                fused = feature.startswith(FUSED)
                best[fused] = max(best[fused], auc, 1.0 - auc)
    return best[False], best[True]


def _oracle_figures(fleets: Sequence[_Fleet]) -> list[Figure]:
    def per_fleet(measured: str, unit: str, values: Callable[[pd.DataFrame], float], against: str = "") -> Figure:
        return Figure("oracle", measured, unit, tuple(values(fleet.rows) for fleet in fleets), against)

    def brier(name: str) -> Callable[[pd.DataFrame], float]:
        return lambda rows: float(((rows[name] - rows["y"]) ** 2).mean())

    def precision(name: str) -> Callable[[pd.DataFrame], float]:
        return lambda rows: float(average_precision_score(rows["y"], rows[name]))

    figures = [per_fleet("base rate, 14 d", "share", lambda rows: float(rows["y"].mean()))]
    for rung in ("O1", "O3"):
        figures.append(per_fleet(f"mean forecast of {rung}", "share", lambda rows, rung=rung: float(rows[rung].mean())))  # type: ignore[misc]  # mypy cannot type a lambda's default
        figures.append(
            per_fleet(f"mean of {rung} off the base rate", "std errors", lambda rows, rung=rung: _off(rows, rung)[2])  # type: ignore[misc]
        )
    figures += [per_fleet(f"Brier score of {name}", "1", brier(name)) for name in ("O1", "O3", "model")]
    figures += [per_fleet(f"AP of {name}", "1", precision(name)) for name in ("O1", "O3", "model")]
    pooled = pd.concat([fleet.rows.assign(gate_id=f"{n} " + fleet.rows["gate_id"]) for n, fleet in enumerate(fleets)])
    for rung in ("O1", "O3"):
        for low, high in pairwise(BINS):
            inside = pooled[(pooled[rung] >= low) & (pooled[rung] <= (high if high == 1.0 else np.nextafter(high, 0.0)))]
            if inside["y"].nunique() < 2:
                continue  # no spread, so nothing to measure by
            forecast, observed, off = _off(inside, rung)
            told = f"{rung} in {low:g}..{high:g}, all fleets: forecast {forecast:.3f}, observed {observed:.3f}; off by"
            figures.append(Figure("oracle", told, "std errors", (off,)))
    return figures


def _off(rows: pd.DataFrame, name: str) -> tuple[float, float, float]:
    """Mean forecast, mean outcome, and their difference in standard errors of a bootstrap over gates."""
    by_gate = rows.groupby("gate_id").agg(p=(name, "sum"), y=("y", "sum"), n=("y", "size")).to_numpy(dtype=np.float64)
    drawn = by_gate[np.random.default_rng(0).integers(0, len(by_gate), (RESAMPLES, len(by_gate)))].sum(axis=1)
    differences: FloatArray = (drawn[:, 0] - drawn[:, 1]) / drawn[:, 2]
    forecast, observed = float(rows[name].mean()), float(rows["y"].mean())
    return forecast, observed, (forecast - observed) / float(differences.std())


def _difficulty(fleets: Sequence[_Fleet], structure: Sequence[tuple[float, float]]) -> list[Figure]:
    def per_fleet(measured: str, unit: str, values: Callable[[_Fleet], float], against: str = "") -> Figure:
        return Figure("difficulty", measured, unit, tuple(values(fleet) for fleet in fleets), against)

    unseen, short = zip(*structure, strict=True)
    larger = f"{STRUCTURE_GATES} gates x {STRUCTURE_DAYS} days"
    return [
        per_fleet("failures in a fleet", "failures", lambda fleet: float(fleet.failures), "100 or more"),
        Figure("difficulty", f"silent and sudden failures, {larger}", "share", unseen, "0.20 to 0.30"),
        Figure("difficulty", f"failures within 7 d of their onset, or sudden, {larger}", "share", short, "0.15 to 0.25"),
        per_fleet("largest AUC of a feature of one channel", "1", lambda fleet: fleet.single_auc, "0.70 or less"),
        per_fleet("largest AUC of a fused feature", "1", lambda fleet: fleet.fused_auc),
        per_fleet("AP of ISO zones over the base rate", "x", lambda fleet: fleet.zone_ap / fleet.rows["y"].mean(), "below 3"),
        per_fleet(
            "AP of vibration velocity itself over the base rate", "x", lambda fleet: fleet.level_ap / fleet.rows["y"].mean()
        ),
    ]
