"""What the parts of the forecast bench share: its size, and fleets, features and forecasts that are made once and kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pandas as pd

from models import registry
from models.fitting import Settings
from models.forecast_files import read_forecasts, write_forecasts
from models.labels import History
from models.train import hoist_types, record_ends
from pipeline.dataset import Dataset, open_dataset
from pipeline.features import from_dataset
from pipeline.simulator import write_dataset
from pipeline.simulator.oracle import oracle
from pipeline.simulator.scenarios import SCENARIOS

RUNG = "O3"


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
class Work:
    folder: Path
    sizes: Sizes
    jobs: int
    model: registry.Model

    @property
    def budget(self) -> float:
        return self.model.policy.budget_per_gate_year


@dataclass(frozen=True, slots=True)
class Pool:
    """Forecast files of several fleets as one, by name; gate ids begin with the fleet's name."""

    files: Mapping[str, pd.DataFrame]
    history: History
    observed_until: Mapping[str, datetime]
    hoists: Mapping[str, str]


def fleet_of(work: Work, seed: int, scenario: str = "", gates: int | None = None) -> Dataset:
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

    return open_dataset(made(work.folder / name, make))


def training_fleet(work: Work, scenario: str = "") -> Dataset:
    return fleet_of(work, work.sizes.training_seed, scenario, work.sizes.training_gates)


def made(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder that is there as a whole or not at all."""
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        make(part)
        part.rename(folder)
    return folder


def features_of(work: Work, dataset: Dataset) -> pd.DataFrame:
    file = work.folder / f"features-{dataset.path.name}.parquet"
    if not file.exists():
        part = file.with_name(f"{file.name}.part")
        from_dataset(dataset, jobs=work.jobs).to_parquet(part)
        part.rename(file)
    return pd.read_parquet(file)


def oracle_of(work: Work, dataset: Dataset) -> pd.DataFrame:
    file = dataset.path / f"oracle-{RUNG}.parquet"
    if not file.exists():
        part = file.with_name(f"{file.name}.part")
        write_forecasts(oracle(dataset.path, RUNG, jobs=work.jobs), part)
        part.rename(file)
    return read_forecasts(file)


def pool_of(datasets: Sequence[Dataset], forecast: Callable[[Dataset], Mapping[str, pd.DataFrame]]) -> Pool:
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
    return Pool(pooled, History(pd.concat(maintenance, ignore_index=True)), observed_until, hoists)


_JUDGED = ("gate_id", "component", "as_of", "verdict", "reason", "p_7d", "p_14d", "failure_mode", "model_version", "curve")


def _lean(file: pd.DataFrame) -> pd.DataFrame:
    """What is judged of a forecast file: the curves of components, most of its memory, are not."""
    return file[list(_JUDGED)].assign(curve=file["curve"].where(file["component"] == ""))


def test_fleets(work: Work) -> list[Dataset]:
    return [fleet_of(work, seed) for seed in work.sizes.seeds]


def model_on(work: Work) -> Callable[[Dataset], dict[str, pd.DataFrame]]:
    return lambda dataset: {"model": work.model.forecaster.predict(features_of(work, dataset))}


def write_whole(file: Path, text: str) -> None:
    part = file.with_name(f"{file.name}.part")
    part.write_text(text, encoding="utf-8")
    part.rename(file)
