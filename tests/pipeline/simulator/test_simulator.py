import filecmp
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.dataset import open_dataset
from pipeline.errors import BadInput
from pipeline.simulator import VERSION, live_gate, make_fleet, simulate_gate, write_dataset
from pipeline.simulator.truth import failures, read_truth


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("simulated") / "fleet"
    write_dataset(path, gates=5, days=200, seed=8, hazard_scale=12.0)
    return path


def assert_same_bytes(left: Path, right: Path) -> None:
    files = sorted(path.relative_to(left) for path in left.rglob("*") if path.is_file())

    assert files == sorted(path.relative_to(right) for path in right.rglob("*") if path.is_file())
    assert filecmp.cmpfiles(left, right, [str(file) for file in files], shallow=False) == ([str(file) for file in files], [], [])


def test_the_same_seed_writes_the_same_bytes_with_one_process_and_with_two(tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []

    write_dataset(tmp_path / "one", gates=3, days=40, seed=8, hazard_scale=12.0)
    write_dataset(
        tmp_path / "two", gates=3, days=40, seed=8, hazard_scale=12.0, jobs=2, progress=lambda n, of: done.append((n, of))
    )

    assert_same_bytes(tmp_path / "one", tmp_path / "two")
    assert done == [(n, 3) for n in range(1, 4)]


def test_another_seed_gives_another_history() -> None:
    one, other = (simulate_gate(make_fleet(gates=1, days=10, seed=seed), "DSH-S1-G1").readings for seed in (1, 2))

    assert not one.equals(other)


def test_a_small_fleet_is_the_beginning_of_a_large_one() -> None:
    small, large = make_fleet(gates=2, days=30, seed=1), make_fleet(gates=9, days=30, seed=1)

    for gate_id in small.gate_ids:
        pd.testing.assert_frame_equal(simulate_gate(small, gate_id).readings, simulate_gate(large, gate_id).readings)


def test_switching_sensor_faults_off_leaves_wear_and_maintenance_as_they_were() -> None:
    on, off = (make_fleet(gates=3, days=200, seed=8, hazard_scale=12.0, sensor_faults=flag) for flag in (True, False))

    changed = 0
    for gate_id in on.gate_ids:
        spoiled, clean = simulate_gate(on, gate_id), simulate_gate(off, gate_id)
        assert spoiled.maintenance == clean.maintenance
        assert spoiled.truth.equals(clean.truth)
        merged = clean.readings.set_index("ts").reindex(spoiled.readings["ts"])
        same = merged.to_numpy() == spoiled.readings.drop(columns="ts").to_numpy()
        changed += (~same & spoiled.readings.drop(columns="ts").notna().to_numpy()).sum()
    assert changed > 0


def test_switching_inspections_off_leaves_everything_before_the_first_visit_as_it_was() -> None:
    on, off = (make_fleet(gates=3, days=200, seed=8, preventive=flag) for flag in (True, False))

    for gate in on.gates:
        visited, left_alone = simulate_gate(on, gate.gate_id), simulate_gate(off, gate.gate_id)
        first = visited.maintenance[0]["started_at"]
        before = [frame[frame["ts"] < first] for frame in (visited.readings, left_alone.readings)]
        pd.testing.assert_frame_equal(before[0], before[1])
        assert all(record["kind"] != "inspection" for record in left_alone.maintenance)


def test_what_changes_in_one_component_leaves_the_noise_of_the_others_alone() -> None:
    healthy, worn = (make_fleet(gates=3, days=120, seed=8, hazard_scale=scale, preventive=False) for scale in (0.0, 40.0))

    assert sum(len(live_gate(worn, gate)[2].failures) for gate in worn.gates) >= 3
    for gate in worn.gates:
        both = [simulate_gate(fleet, gate.gate_id).readings.set_index("ts") for fleet in (healthy, worn)]
        level, other = (frame["station.water_level"] for frame in both)
        shared = level.index.intersection(other.index)
        assert len(shared) > 0.8 * len(level)
        # where a run was not made, a heartbeat may stand in the very second of one of its samples
        assert (level[shared].fillna(-1.0) == other[shared].fillna(-1.0)).mean() > 0.999


def test_a_written_dataset_opens_and_holds_what_was_simulated(folder: Path) -> None:
    dataset = open_dataset(folder)
    fleet = make_fleet(gates=5, days=200, seed=8, hazard_scale=12.0)

    assert dataset.gate_ids == fleet.gate_ids
    history = simulate_gate(fleet, "DSH-S2-G2")
    pd.testing.assert_frame_equal(dataset.readings("DSH-S2-G2"), history.readings)
    work_orders = dataset.maintenance[dataset.maintenance["gate_id"] == "DSH-S2-G2"]
    pd.testing.assert_frame_equal(
        work_orders[history.maintenance_table().columns].reset_index(drop=True),
        history.maintenance_table(),
        check_dtype=False,
    )
    assert set(dataset.components["component"]) >= {"motor", "gearbox", "brake", "leaf"}
    assert (pd.to_datetime(dataset.gates["commissioned_on"]) < pd.Timestamp("2021-02-01")).all()


def test_truth_and_work_orders_tell_the_same_failures(folder: Path) -> None:
    dataset = open_dataset(folder)

    hidden = failures(read_truth(folder))
    told = dataset.maintenance[dataset.maintenance["kind"] == "failure"]

    assert len(hidden) > 5
    assert sorted(zip(hidden["gate_id"], hidden["component"], hidden["mode"], hidden["failed_at"], strict=True)) == sorted(
        zip(told["gate_id"], told["component"], told["failure_mode"], told["started_at"], strict=True)
    )
    repairs = dataset.maintenance[dataset.maintenance["kind"] == "repair"]
    assert set(zip(told["gate_id"], told["started_at"], strict=True)) <= set(
        zip(repairs["gate_id"], repairs["started_at"], strict=True)
    )


def test_truth_is_the_state_at_midnight_and_ends_with_the_fault(folder: Path) -> None:
    truth = read_truth(folder)
    faults = truth[truth["active"]]

    assert (faults["day"].dt.normalize() == faults["day"]).all()
    assert faults["z"].between(0.0, 1.0, inclusive="left").all()
    assert (faults["fails_at"].isna() | (faults["fails_at"] >= faults["day"])).all()
    by_fault = faults[faults["mode"] != "brake_drag"].groupby(["gate_id", "mode", "tau"])  # a brake may free itself
    assert (by_fault["z"].apply(lambda z: z.diff().min()).dropna() >= 0).all()
    assert (by_fault["day"].apply(lambda day: day.diff().dropna().eq(pd.Timedelta(days=1)).all())).all()


def test_a_gate_under_repair_does_not_move_but_is_heard(folder: Path) -> None:
    fleet = make_fleet(gates=5, days=200, seed=8, hazard_scale=12.0, sensor_faults=False)
    seen = 0

    for gate_id in fleet.gate_ids:
        history = simulate_gate(fleet, gate_id)
        for record in history.maintenance:
            if record["kind"] == "repair" and record["ended_at"] is not None:
                ts = history.readings["ts"]
                during = history.readings[(ts > record["started_at"]) & (ts < record["ended_at"])]
                assert during["motor.moving"].max() == 0.0
                seen += len(during)
    assert seen > 500


def test_the_data_card_says_how_far_from_real_the_fleet_is(folder: Path) -> None:
    card = (folder / "data_card.md").read_text(encoding="utf-8")

    hidden = failures(read_truth(folder))
    per_year = len(hidden) / (5 * 200 / 365.25)
    assert f"simulator version {VERSION}, seed 8" in card
    assert f"| failures | {len(hidden)}, {per_year:.2f} a gate-year |" in card
    assert "| hazard_scale | 12 (" in card
    assert f"fails {per_year / 0.015:.0f} times as often" in " ".join(card.split())


def test_the_base_rate_on_the_card_is_the_share_of_days_before_a_failure(folder: Path) -> None:
    hidden = failures(read_truth(folder))

    positive = 0
    for gate_id in make_fleet(gates=5, days=200, seed=8).gate_ids:
        failed = hidden.loc[hidden["gate_id"] == gate_id, "failed_at"]
        for day in pd.date_range("2024-01-01", periods=200 - 14, tz="UTC"):
            positive += any(day < at <= day + pd.Timedelta(days=14) for at in failed)

    card = (folder / "data_card.md").read_text(encoding="utf-8")
    assert f"| base rate | {positive / (5 * 186):.4f} of gate-days" in card


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("gates", 0, "gates must lie in 1..100000; got 0"),
        ("days", -3, "days must lie in 1..36500; got -3"),
        ("stations", 9, "stations must lie in 1..2; got 9"),
        ("seed", -1, "seed must be 0 or more; got -1"),
        ("hazard_scale", -0.5, "hazard_scale must lie in 0..1000; got -0.5"),
        ("hazard_scale", float("nan"), "hazard_scale must lie in 0..1000; got nan"),
        ("jobs", 0, "jobs must lie in 1..64; got 0"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(tmp_path: Path, setting: str, value: float, told: str) -> None:
    settings = {"gates": 2, "days": 3, "seed": 1} | {setting: value}

    with pytest.raises(BadInput, match=told.replace(".", r"\.")):
        write_dataset(tmp_path / "fleet", **settings)  # type: ignore[arg-type]  # a wrong one is the point


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_text("old")

    with pytest.raises(BadInput, match="must be new or empty"):
        write_dataset(tmp_path, gates=1, days=1, seed=1)


def test_stations_stand_along_a_river_and_share_their_weather() -> None:
    fleet = make_fleet(gates=30, days=30, seed=1)

    table = fleet.stations.set_index("station_id")
    assert fleet.gate_ids[:4] == ["DSH-S1-G1", "DSH-S1-G2", "DSH-S1-G3", "DSH-S2-G1"]
    assert (table.loc["DSH-S3", "downstream_station_id"], table.loc["DSH-S8", "downstream_station_id"]) == ("DSH-S4", "")
    assert table.loc["DSH-S3", "name_zh"] == "大沙河3号闸站"
    assert table["river_km"].to_dict()["DSH-S3"] > table["river_km"].to_dict()["DSH-S4"]
    rain = {gate.station_id: fleet.weather(gate).rain_mm for gate in fleet.gates}
    assert np.array_equal(rain["DSH-S1"], rain["DSH-S8"])
    assert not np.array_equal(rain["DSH-S1"], rain["MZH-S1"])
