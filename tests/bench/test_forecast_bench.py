"""The bench of the forecast in its smallest size: every part does its work once, and keeps it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from models.fitting import Settings
from pipeline.dataset import open_dataset
from pipeline.simulator.sensor_faults import SensorFault
from service.bench.forecast import FEWEST_CHANNELS, ONE_MORE, PARTS, bench_forecast
from service.bench.forecast_work import Sizes
from service.bench.report import BenchError, Figure
from service.bench.sensor_faults import NO_FAULT, STRIKES, changed, healthy_seeds, is_named, strike, strikes

TINY = Sizes(
    gates=5,
    days=250,
    seeds=(1, 2),
    tuning_seed=3,
    scenario_seed=4,
    site_seeds=(6,),
    scenarios=("new_fleet",),
    training_gates=8,
    training_seed=5,
    splits=4,
    struck_gates=3,
    timed_gates=8,
    timed_seed=5,
    tuning_gate_years=0.5,
    site_gate_years=5.0,
    hazard_scale=5.0,
    settings=Settings(trees=10, fewest_trees=10, healthy_rows=1000),
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench") / "work"


@pytest.fixture(scope="module")
def found(work: Path) -> dict[str, list[Figure]]:
    parts = [name for name in PARTS if name not in ("peers", "site")]
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


def test_training_is_timed_as_the_command_a_user_gives(found: dict[str, list[Figure]], work: Path) -> None:
    timed = measured(found["training"])

    assert timed["5 gate-years of raw readings to a registered model, 1 processes"].median > 0
    assert (work / "timed-registry" / "timed" / "manifest.json").is_file()


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
    alone, *others = found["channels"]
    assert alone.measured == "velocity and temperature alone: AP at 14 d, share of that with all channels"
    assert len(others) == len(ONE_MORE)
    with_load = open_dataset(work / f"fleet-{TINY.seeds[0]}-with-movement-and-load")
    assert set(with_load.channels["quantity"]) == {*FEWEST_CHANNELS, "moving", "load"}


def test_every_world_is_judged_and_the_native_model_too(found: dict[str, list[Figure]]) -> None:
    worlds = {name.partition(":")[0] for name in measured(found["scenarios"])}

    assert worlds == {"home", "new_fleet"}
    assert any(figure.measured.startswith("new_fleet: AP at 14 d, share of one that learnt") for figure in found["in domain"])


def test_a_site_learns_from_its_beginning_and_all_are_judged_on_what_comes_later(tmp_path: Path) -> None:
    figures = bench_forecast(tmp_path, ["site"], replace(TINY, gates=10, hazard_scale=8.0), jobs=1)

    home, begun = (open_dataset(tmp_path / f"fleet-6-new_fleet{name}") for name in ("", "-begun"))
    cut = pd.Timestamp("2024-01-01", tz="UTC") + pd.Timedelta(days=183)  # 5 gate-years of 10 gates

    for gate_id in home.gate_ids:
        readings = home.readings(gate_id)
        pd.testing.assert_frame_equal(begun.readings(gate_id), readings[readings["ts"] < cut])
    known = home.maintenance[home.maintenance["started_at"] < cut].reset_index(drop=True)
    assert begun.maintenance["started_at"].tolist() == known["started_at"].tolist()
    assert begun.maintenance["ended_at"].tolist() == known["ended_at"].where(known["ended_at"] < cut).tolist()
    site = measured(figures)
    ratio = site["retrained: AP at 14 d"].median / site["as shipped: AP at 14 d"].median
    assert site["retrained: AP at 14 d, times that as shipped"].median == pytest.approx(ratio, rel=0.3)


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


def test_sensor_faults_are_counted_by_kind_and_beside_a_sound_gate(found: dict[str, list[Figure]]) -> None:
    figures = measured(found["sensor faults"])

    for kind in STRIKES:
        named, exactly = figures[f"{kind}: named in time"].median, figures[f"{kind}: named in time as {kind}"].median
        assert 0 <= exactly <= named <= 1
        trials = [name for name in figures if name.startswith(f"{kind} of ")]
        assert sum(int(name.split(", ")[1].split()[0]) for name in trials) == TINY.struck_gates
    assert figures["stale: named in time"].median == figures["stuck: named in time"].median == 1.0
    total = next(f.median for name, f in figures.items() if name.endswith("false namings"))
    by_kind = [f.median for name, f in figures.items() if "falsely named" in name]
    assert total == pytest.approx(sum(by_kind))


@pytest.mark.parametrize("kind", STRIKES)
def test_a_struck_gate_differs_from_the_sound_one_in_that_channel_from_that_midnight_on(kind: str) -> None:
    seed = next(healthy_seeds(kind, 1))
    struck, sound = strike(seed, kind), strike(seed, NO_FAULT)

    both = struck.readings().merge(sound.readings(), on="ts", suffixes=("", " sound"))

    at = pd.Timestamp(struck.start_ms, unit="ms", tz="UTC")
    names = [name for name in both if f"{name} sound" in both]
    differ = {name: both[name].fillna(-99) != both[f"{name} sound"].fillna(-99) for name in names}
    assert differ[struck.channel].any()
    assert both.loc[differ[struck.channel], "ts"].min() >= at
    shaken = {name for name in names if kind == "loose_mount" and name.split(".")[0] == struck.channel.split(".")[0]}
    assert {name for name in names if differ[name].any()} <= {struck.channel, *shaken}


def test_samples_that_a_clipped_sensor_would_have_shown_higher_are_counted() -> None:
    seed = next(healthy_seeds("clipping", 1))
    struck, sound = strike(seed, "clipping"), strike(seed, NO_FAULT).readings()
    readings, channel = struck.readings(), struck.channel
    start, end = (pd.Timestamp(struck.start_ms + days * 86_400_000, unit="ms", tz="UTC") for days in (0, 40))
    limit = readings.loc[readings["ts"] >= start, channel].max()

    found = changed(struck, seed, readings, struck.start_ms + 40 * 86_400_000)

    assert found == ((sound["ts"] >= start) & (sound["ts"] < end) & (sound[channel] > limit)).sum() > 0


def test_a_graver_fault_that_masks_counts_as_named_and_a_lighter_one_does_not() -> None:
    assert is_named("drift", "drift")
    assert is_named("stuck", "clipping")
    assert not is_named("stale", "clipping")  # it hides nothing
    assert not is_named("spikes", "drift")
    assert not is_named(None, "drift")


def test_a_natural_fault_strikes_what_it_touches() -> None:
    loose = SensorFault("loose_mount", "motor", 0.0, 1.0, 0.5)

    assert strikes(loose, "motor.acceleration_peak")
    assert not strikes(loose, "gearbox.velocity_rms")
    assert strikes(SensorFault("dropout", "", 0.0, 1.0), "leaf.head")
    assert not strikes(SensorFault("stuck", "motor.current", 0.0, 1.0), "motor.velocity_rms")
