"""The bench of the forecast in its smallest size: every part does its work once, and keeps it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from models.forecast import Settings
from pipeline.dataset import open_dataset
from service.bench.forecast import PARTS, Sizes, bench_forecast
from service.bench.report import BenchError, Figure

TINY = Sizes(
    gates=5,
    days=250,
    seeds=(1, 2),
    tuning_seed=3,
    scenario_seed=4,
    scenarios=("new_fleet",),
    training_gates=8,
    training_seed=5,
    splits=4,
    tuning_gate_years=0.5,
    hazard_scale=5.0,
    settings=Settings(trees=10, fewest_trees=10, healthy_rows=1000),
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench") / "work"


@pytest.fixture(scope="module")
def found(work: Path) -> dict[str, list[Figure]]:
    parts = [name for name in PARTS if name != "peers"]
    out: dict[str, list[Figure]] = {}
    for figure in bench_forecast(work, parts, TINY, jobs=1):
        out.setdefault(figure.bench, []).append(figure)
    return out


def measured(figures: list[Figure]) -> dict[str, Figure]:
    assert len({figure.measured for figure in figures}) == len(figures)
    return {figure.measured: figure for figure in figures}


def test_the_core_pools_the_fleets_and_judges_with_intervals(found: dict[str, list[Figure]]) -> None:
    core, fleets = measured(found["core"]), measured(found["fleets"])

    failures = core["evaluable failures in test"].median
    assert 0 < failures <= sum(fleets["failures in a test fleet"].values)
    assert core["gate-years in test"].median == pytest.approx(2 * 5 * 250 / 365.25, rel=0.01)
    assert core["AP at 14 d"].interval is not None
    assert core["AP at 14 d"].low <= core["AP at 14 d"].median <= core["AP at 14 d"].high
    oracle = measured(found["opponents"])["oracle: AP at 14 d"].median
    assert 0 < core["AP at 14 d, share of the oracle's"].median < 1.5
    assert oracle > core["base rate, 14 d"].median
    lenient, strict = core["false alarms, no fault in their 28 days"].median, core["false alarms"].median
    assert lenient <= strict


def test_modes_and_hoists_add_up_to_the_failures(found: dict[str, list[Figure]]) -> None:
    failures = measured(found["core"])["evaluable failures in test"].median

    counts = {name.partition(" failures")[0] for name in (f.measured for f in found["modes"])}
    assert sum(int(count.rpartition(", ")[2]) for count in counts) == failures
    assert {name.partition(",")[0] for name in (f.measured for f in found["hoists"])} <= {"winch", "screw", "hydraulic"}


def test_the_budget_is_tried_on_every_split(found: dict[str, list[Figure]]) -> None:
    over, rates = found["budget"]

    assert len(rates.values) == TINY.splits
    assert over.median == sum(rate > 0.2 for rate in rates.values) / TINY.splits


def test_two_channels_are_what_is_left(found: dict[str, list[Figure]], work: Path) -> None:
    bare, home = open_dataset(work / "fleet-1-two"), open_dataset(work / "fleet-1")
    gate_id = home.gate_ids[0]

    assert set(bare.channels["quantity"]) == {"velocity_rms", "temperature"}
    columns = bare.readings(gate_id).columns
    assert set(columns) == {"ts", *(c for c in home.readings(gate_id) if c.endswith((".velocity_rms", ".temperature")))}
    pd.testing.assert_frame_equal(bare.readings(gate_id), home.readings(gate_id)[list(columns)])
    pd.testing.assert_frame_equal(bare.maintenance, home.maintenance)
    assert measured(found["two channels"])["AP at 14 d, share of that with all channels"].median > 0


def test_every_world_is_judged_and_the_native_model_too(found: dict[str, list[Figure]]) -> None:
    worlds = {name.partition(":")[0] for name in measured(found["scenarios"])}

    assert worlds == {"home", "new_fleet"}
    assert any(figure.measured.startswith("new_fleet: AP at 14 d, share of one that learnt") for figure in found["in domain"])


def test_peers_learn_from_the_fleet_that_the_shipped_model_learnt_from() -> None:
    sizes = Sizes()
    made = f"--gates {sizes.training_gates} --days {sizes.days} --seed {sizes.training_seed} "

    assert f"sluicewatch simulate --to build/champion {made}" in (Path(__file__).parents[2] / "Makefile").read_text()


@pytest.mark.usefixtures("found")
def test_what_is_done_is_not_done_again(work: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in work.rglob("*") if file.is_file()}

    again = bench_forecast(work, ["core", "budget"], TINY, jobs=1)

    assert {figure.bench for figure in again} >= {"fleets", "core", "budget", "scenarios"}
    assert {file: file.stat().st_mtime_ns for file in work.rglob("*") if file.is_file()} == before


@pytest.mark.usefixtures("found")
def test_a_folder_of_another_size_is_refused(work: Path) -> None:
    with pytest.raises(BenchError, match="another size or model"):
        bench_forecast(work, ["core"], replace(TINY, gates=6))


@pytest.mark.usefixtures("found")
def test_lightgbm_is_a_peer_on_the_same_rows(work: Path) -> None:
    pytest.importorskip("lightgbm", reason="LightGBM comes with `make check`")

    figures = bench_forecast(work, ["peers"], TINY, jobs=1)

    assert measured([f for f in figures if f.bench == "peers"])["AP at 14 d, times that of LightGBM"].median > 0
