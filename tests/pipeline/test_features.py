"""Features: what they must show on a gate whose wear is known, and what they must never know."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import features
from pipeline.cycles import Records, cycle_state
from pipeline.dataset import open_dataset
from pipeline.operations import segment
from pipeline.readings import DAY_MS
from pipeline.simulator import write_dataset

START = datetime(2026, 1, 1, tzinfo=UTC)
START_MS = int(START.timestamp() * 1000)
DAYS = 80


def midnight(day: int) -> datetime:
    return START + timedelta(days=day)


def gate_readings(*, worn_from: int = 10**6, days: int = DAYS, seed: int = 1) -> pd.DataFrame:
    """Two operations a day of 10 minutes; motor vibration depends on load, temperature on load and ambient; wear adds
    0.05 log mm/s and 0.5 K a day from `worn_from` on."""
    rng = np.random.default_rng(seed)
    rows = []
    for day in range(days):
        ambient = 20 + 8 * np.sin(2 * np.pi * day / 60)
        wear = max(0, day - worn_from)
        rows.append((START_MS + day * DAY_MS, 0.0, np.nan, 0.1, ambient, ambient))
        for hour in (8, 16):
            load = rng.uniform(0.4, 0.9)
            for minute in range(10):
                at = START_MS + day * DAY_MS + hour * 3_600_000 + minute * 60_000
                velocity = 1.2 * (0.7 + 0.55 * load) * np.exp(0.05 * wear + 0.05 * rng.standard_normal())
                heat = ambient + (40 * load + 0.5 * wear) * (1 - np.exp(-minute / 20)) + 0.3 * rng.standard_normal()
                rows.append((at, 1.0, load, velocity, heat, ambient))
    names = ["ts", "motor.moving", "motor.load", "motor.velocity_rms", "motor.winding.temperature", "station.ambient_temperature"]
    frame = pd.DataFrame(rows, columns=names)
    frame["ts"] = pd.Series(frame["ts"].to_numpy(dtype="int64").astype("datetime64[ms]")).dt.tz_localize("UTC")
    return frame


def maintenance(*records: tuple[str, str, datetime, datetime | None]) -> pd.DataFrame:
    frame = pd.DataFrame(records, columns=["component", "kind", "started_at", "ended_at"])
    for column in ("started_at", "ended_at"):
        frame[column] = pd.to_datetime(frame[column], utc=True).astype("datetime64[ms, UTC]")
    return frame


def history(readings: pd.DataFrame, records: pd.DataFrame | None = None) -> features.GateHistory:
    segmented = segment(readings)
    known = Records.of(maintenance() if records is None else records)
    return features.GateHistory("G1", ("gearbox", "motor"), "winch", segmented.operations, segmented.days, known)


def motor(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["component"] == "motor"].set_index("as_of")


def test_there_is_one_row_per_component_and_midnight_with_every_feature() -> None:
    rows = features.build(history(gate_readings()), [midnight(day) for day in range(40, 50)])

    assert len(rows) == 20
    assert list(rows.columns) == ["gate_id", "component", "as_of", "reason", "lost", "hoist_type", *features.FEATURES]
    assert set(rows["component"]) == {"gearbox", "motor"}
    assert all(rows[name].dtype == np.float64 for name in features.FEATURES)
    assert motor(rows)["is_motor"].eq(1.0).all()
    assert motor(rows)["hoist_winch"].eq(1.0).all()


def test_a_healthy_gate_does_not_deviate_whatever_the_load_and_the_season() -> None:
    rows = motor(features.build(history(gate_readings()), [midnight(day) for day in range(35, DAYS)]))

    assert rows["velocity_dev"].abs().max() < 0.1
    assert rows["temperature_dev"].abs().max() < 2.0
    assert (rows["reason"] == "").all()


def test_wear_shows_as_log_ratio_and_kelvin_with_its_slope() -> None:
    rows = motor(features.build(history(gate_readings(worn_from=45)), [midnight(75)]))

    # days 72..74 are 27..29 days worn: 28 × 0.05; the windows are full of a ramp of 0.05 a day
    assert rows["velocity_dev"].iloc[0] == pytest.approx(28 * 0.05, abs=0.08)
    assert rows["velocity_slope_14d"].iloc[0] == pytest.approx(0.05, abs=0.01)
    # at minute 9 an operation shows 36 % of the final heat: 28 × 0.5 × 0.36 K
    assert rows["temperature_dev"].iloc[0] == pytest.approx(28 * 0.5 * (1 - np.exp(-9 / 20)), abs=1.5)
    assert rows["velocity_z"].iloc[0] > 6
    assert rows["gate_z_1"].iloc[0] == rows["own_z_1"].iloc[0]


def test_a_row_knows_nothing_of_later_readings_and_records() -> None:
    readings, at = gate_readings(worn_from=45), [midnight(day) for day in range(12, 61)]
    records = maintenance(
        ("motor", "failure", midnight(30) + timedelta(hours=3), None),
        ("motor", "repair", midnight(31), midnight(33)),
        ("", "repair", midnight(59) + timedelta(hours=5), midnight(64)),
        ("motor", "failure", midnight(66), None),
    )
    cut = readings[readings["ts"] < pd.Timestamp(midnight(60))]
    known = records[records["started_at"] < pd.Timestamp(midnight(60))].assign(
        ended_at=lambda r: r["ended_at"].where(r["ended_at"] < pd.Timestamp(midnight(60)))
    )

    full = features.build(history(readings, records), at)
    early = features.build(history(cut, known), at)

    pd.testing.assert_frame_equal(full, early, rtol=0, atol=1e-9)


def test_the_newest_row_alone_is_the_row_that_training_uses() -> None:
    worn = history(gate_readings(worn_from=45), maintenance(("motor", "repair", midnight(20), midnight(20) + timedelta(hours=9))))
    every = features.build(worn, [midnight(day) for day in range(1, DAYS + 1)])

    for day in (3, 11, 16, 21, 22, 34, 40, 60, DAYS):
        alone = features.build(worn, [midnight(day)])
        among = every[every["as_of"] == pd.Timestamp(midnight(day))].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, among, rtol=0, atol=1e-9)


def test_reasons_say_why_there_is_no_forecast() -> None:
    readings = gate_readings()
    at = readings["ts"]
    readings = readings[~((at >= pd.Timestamp(midnight(50))) & (at < pd.Timestamp(midnight(53))))]
    still = (readings["ts"] >= pd.Timestamp(midnight(60))) & (readings["ts"] < pd.Timestamp(midnight(70)))
    readings = readings[~(still & (readings["motor.moving"] == 1.0))]
    records = maintenance(
        ("motor", "failure", midnight(25) + timedelta(hours=1), None), ("motor", "repair", midnight(27), midnight(28))
    )

    rows = features.build(history(readings, records), [midnight(day) for day in range(1, DAYS)])
    reason = {part: rows[rows["component"] == part].set_index("as_of")["reason"] for part in ("motor", "gearbox")}

    def on(part: str, day: int) -> str:
        return str(reason[part][pd.Timestamp(midnight(day))])

    assert [on("motor", day) for day in (5, 10, 25)] == ["young", "", ""]
    assert [on("motor", day) for day in (26, 27, 28, 29, 37, 38)] == ["under_repair"] * 3 + ["young"] * 2 + [""]
    assert {on("gearbox", day) for day in range(26, 39)} == {""}
    assert [on("motor", day) for day in (50, 51, 53, 54)] == ["", "stale", "stale", ""]
    assert [on("gearbox", day) for day in (66, 68, 70, 71)] == ["", "idle", "idle", ""]


def state_on(records: pd.DataFrame, day: int) -> tuple[float, bool]:
    start, down = cycle_state(Records.of(records), "motor", START_MS, np.array([START_MS + day * DAY_MS]))
    return (start[0] - START_MS) / DAY_MS, bool(down[0])


def test_a_repair_without_an_end_counts_as_ended_after_a_week() -> None:
    records = maintenance(("motor", "repair", midnight(5), None))

    assert [state_on(records, day) for day in (5, 6, 12, 13)] == [(0, False), (0, True), (0, True), (12, False)]


def test_a_failure_without_repair_is_taken_as_mended_after_a_month() -> None:
    records = maintenance(("", "failure", midnight(5), None))

    assert [state_on(records, day) for day in (5, 6, 35, 36)] == [(0, False), (0, True), (0, True), (6, False)]


def test_another_components_repair_changes_nothing() -> None:
    records = maintenance(("gearbox", "replacement", midnight(5), midnight(6)))

    assert state_on(records, 30) == (0, False)


def test_repairs_start_a_new_cycle_with_a_new_baseline() -> None:
    readings = gate_readings(worn_from=20)
    records = maintenance(("motor", "replacement", midnight(50), midnight(50) + timedelta(hours=2)))

    rows = motor(features.build(history(readings, records), [midnight(49), midnight(62)]))

    assert rows["velocity_dev"].iloc[0] > 1.0
    assert abs(rows["velocity_dev"].iloc[1]) < 0.6


def test_vibration_and_temperature_alone_are_enough() -> None:
    bare = gate_readings(worn_from=45)[["ts", "motor.velocity_rms", "motor.winding.temperature"]]

    row = motor(features.build(history(bare), [midnight(75)])).iloc[0]

    assert row["reason"] == ""
    assert row["velocity_dev"] == pytest.approx(28 * 0.05, abs=0.3)


def test_where_nobody_tells_the_load_the_current_does_and_is_no_evidence_itself() -> None:
    readings = gate_readings(worn_from=45)
    drawn = readings.rename(columns={"motor.load": "motor.current"})
    drawn["motor.current"] = 12.0 * drawn["motor.current"].fillna(0.0)

    with_load, with_current = (motor(features.build(history(some), [midnight(75)])).iloc[0] for some in (readings, drawn))

    for name in ("velocity_dev", "velocity_z", "velocity_slope_14d", "temperature_dev", "temperature_z"):
        assert with_current[name] == pytest.approx(with_load[name], rel=1e-6)
    assert np.isnan(with_current[["current_dev", "current_z", "load_7d"]].astype(float)).all()


def test_only_midnights_are_allowed() -> None:
    with pytest.raises(ValueError, match="midnight"):
        features.build(history(gate_readings()), [midnight(40) + timedelta(hours=1)])


def test_a_gate_without_readings_gives_stale_rows() -> None:
    empty = replace(history(gate_readings()), operations=pd.DataFrame({"started_ms": []}), days=pd.DataFrame({"day_ms": []}))

    rows = features.build(empty, [midnight(3)])

    assert rows["reason"].tolist() == ["stale", "stale"]


@pytest.mark.parametrize("day", [12, 33, 47, 70, DAYS])
def test_what_was_shown_over_what_was_expected_is_the_deviation_of_the_row(day: int) -> None:
    records = maintenance(("motor", "repair", midnight(20), midnight(20) + timedelta(hours=9)))
    worn = history(gate_readings(worn_from=45), records)

    told = features.shown_and_expected(worn, "motor", midnight(day))

    row = motor(features.build(worn, [midnight(day)])).iloc[0]
    assert set(told) == {"velocity", "high", "temperature"}
    for group in ("velocity", "high"):
        assert told[group].shown / told[group].expected == pytest.approx(told[group].change)
        assert np.log(told[group].change) == pytest.approx(row[f"{group}_dev"], abs=1e-9)
    assert told["temperature"].shown - told["temperature"].expected == pytest.approx(row["temperature_dev"], abs=1e-9)
    assert features.shown_and_expected(worn, "gearbox", midnight(day)) == {}


def test_what_was_shown_is_the_mean_of_the_operations_of_three_days_and_what_was_expected_is_their_load() -> None:
    worn = history(gate_readings(worn_from=45))

    told = features.shown_and_expected(worn, "motor", midnight(70))

    operations = worn.operations[worn.operations["started_ms"].between(START_MS + 67 * DAY_MS, START_MS + 70 * DAY_MS - 1)]
    rise = operations["motor.winding.temperature:max"] - operations["motor.winding.temperature:start"]
    assert len(operations) == 6
    assert (told["velocity"].column, told["velocity"].unit) == ("motor.velocity_rms:mean", "mm/s")
    assert told["velocity"].shown == pytest.approx(np.exp(np.log(operations["motor.velocity_rms:mean"]).mean()))
    assert told["velocity"].expected == pytest.approx((1.2 * (0.7 + 0.55 * operations["load"])).mean(), rel=0.05)
    assert (told["temperature"].column, told["temperature"].unit) == ("motor.winding.temperature:max", "K")
    assert told["temperature"].shown == pytest.approx(rise.mean())
    assert (told["velocity"].since, told["velocity"].until) == (midnight(67), midnight(70))


def test_a_gate_that_rests_is_measured_by_its_last_day_of_movement_until_that_is_too_long_ago() -> None:
    readings = gate_readings(worn_from=45)
    still = (readings["ts"] >= pd.Timestamp(midnight(60))) & (readings["motor.moving"] == 1.0)
    resting = history(readings[~still])

    told = features.shown_and_expected(resting, "motor", midnight(66))["velocity"]

    row = motor(features.build(resting, [midnight(66)])).iloc[0]
    assert (told.since, told.until) == (midnight(59), midnight(60))
    assert np.log(told.change) == pytest.approx(row["velocity_dev"], abs=1e-9)
    for day in (76, 77):
        known = motor(features.build(resting, [midnight(day)]))["velocity_dev"].notna().iloc[0]
        assert bool(features.shown_and_expected(resting, "motor", midnight(day))) == known
    assert features.shown_and_expected(resting, "motor", midnight(77)) == {}


def test_a_component_too_young_for_a_baseline_has_nothing_expected_of_it() -> None:
    assert features.shown_and_expected(history(gate_readings()), "motor", midnight(9)) == {}


def test_current_is_the_gates_whichever_component_measures_it() -> None:
    readings = gate_readings(worn_from=45)
    worn = history(readings.assign(**{"gearbox.current": 20 * readings["motor.velocity_rms"]}))

    told = features.shown_and_expected(worn, "motor", midnight(70))["current"]

    row = motor(features.build(worn, [midnight(70)])).iloc[0]
    assert (told.column, told.unit) == ("gearbox.current:mean", "A")
    assert np.log(told.change) == pytest.approx(row["current_dev"], abs=1e-9)


def test_rows_tell_how_far_head_and_load_lie_from_those_of_the_baseline():
    readings = gate_readings()
    moving = readings["motor.moving"] == 1.0
    flood = readings["ts"] >= pd.Timestamp(midnight(50))
    readings["leaf.head"] = np.where(moving, np.where(flood, 6.0, 4.0), np.nan)
    readings.loc[moving & (readings["ts"].dt.hour == 8) & ~flood, "leaf.head"] = 5.0  # the baseline saw 4 and 5 m
    readings.loc[moving, "motor.load"] = np.where(flood[moving], 0.8, 0.5)

    row = motor(features.build(history(readings), [midnight(60)])).iloc[0]

    assert row["head_rise"] == pytest.approx(np.log(6.0) - (np.log(4.0) + np.log(5.0)) / 2)
    assert row["head_beyond"] == pytest.approx(np.log(6.0 / 5.0))
    assert row["load_rise"] == pytest.approx(0.3)


def test_a_channel_that_showed_one_value_all_through_its_baseline_is_no_evidence():
    readings = gate_readings()
    dead = (readings["motor.moving"] == 1.0) & (readings["ts"] < pd.Timestamp(midnight(30)))
    readings.loc[dead, "motor.velocity_rms"] = 0.1

    row = motor(features.build(history(readings), [midnight(60)])).iloc[0]

    assert np.isnan(row["velocity_z"])
    assert np.isfinite(row["temperature_z"])


@pytest.mark.parametrize("compact", [True, False])
def test_kept_rows_are_the_rows_that_were_made(tmp_path: Path, compact: bool) -> None:
    write_dataset(tmp_path / "fleet", gates=2, days=40, seed=8, heartbeat_min=60)
    (tmp_path / "fleet" / "readings" / "DSH-S1-G2.parquet").unlink()  # a gate that has sent nothing yet
    dataset = open_dataset(tmp_path / "fleet")
    made = features.from_dataset(dataset, compact=compact)

    keeping = features.from_dataset(dataset, compact=compact, keep=tmp_path / "kept")
    kept = features.from_dataset(dataset, compact=compact, keep=tmp_path / "kept")

    pd.testing.assert_frame_equal(keeping, made, check_exact=True)
    pd.testing.assert_frame_equal(kept, made, check_exact=True)
    assert sorted(file.name for file in (tmp_path / "kept").iterdir()) == [f"{gate_id}.parquet" for gate_id in dataset.gate_ids]


def test_a_gate_is_seen_as_a_poorer_station_would_see_it_and_kept_apart(tmp_path: Path) -> None:
    few = ("velocity_rms", "temperature", "moving")
    write_dataset(tmp_path / "fleet", gates=2, days=40, seed=8, heartbeat_min=60)
    rich = open_dataset(tmp_path / "fleet")
    poorer, other = rich.gate_ids
    poor = shutil.copytree(rich.path, tmp_path / "poor")
    readings = pd.read_parquet(poor / "readings" / f"{poorer}.parquet")
    kept = ["ts", *(name for name in readings.columns if name.rpartition(".")[2] in few)]
    readings[kept].to_parquet(poor / "readings" / f"{poorer}.parquet", index=False)

    for _ in range(2):  # the second time they are kept
        seen = features.from_dataset(rich, quantities={poorer: few}, keep=tmp_path / "kept")

        expected = features.from_dataset(open_dataset(poor))
        pd.testing.assert_frame_equal(seen, expected, check_exact=True)
    full = features.from_dataset(rich, keep=tmp_path / "kept")
    pd.testing.assert_frame_equal(full, features.from_dataset(rich), check_exact=True)
    assert seen.loc[seen["gate_id"] == poorer, "acceleration_z"].isna().all()
    assert seen.loc[seen["gate_id"] == other, "acceleration_z"].notna().any()


def test_a_gate_without_components_has_no_rows_and_hurts_no_other():
    bare = replace(history(gate_readings(days=30)), components=())

    rows = features.build_all([bare, history(gate_readings(days=30))], [midnight(20)])

    assert sorted(rows["component"]) == ["gearbox", "motor"]
    assert features.build(bare, [midnight(20)]).empty
