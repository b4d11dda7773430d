"""Operations and days, against a walk along the rows."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dataset import open_dataset
from pipeline.operations import DAY_MS, from_rows, grouped_median, segment, segment_all, summaries, to_rows
from pipeline.readings import Stretch
from pipeline.simulator import write_dataset
from tests import oracles

BASE_MS = 1_772_323_200_000  # 2026-03-01T00:00:00Z


def readings_of(rows: list[dict[str, float]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows).sort_values("ts_ms")
    ts = pd.Series(frame.pop("ts_ms").to_numpy(dtype="int64").astype("datetime64[ms]")).dt.tz_localize("UTC")
    frame = frame.reset_index(drop=True)
    frame.insert(0, "ts", ts)
    return frame.rename(columns={"moving": "motor.moving", **KEYS})


def as_stretch(readings: pd.DataFrame) -> Stretch:
    channels = [name for name in readings.columns if name != "ts"]
    ts_ms = readings["ts"].to_numpy(dtype="datetime64[ms]").astype(np.int64)
    return Stretch(tuple(channels), ts_ms, readings[channels].to_numpy(dtype=float).T)


NAN = float("nan")
KEYS = {"v": "motor.velocity_rms", "a": "gearbox.acceleration_rms", "t": "motor.winding.temperature"}
RAISED = {"v": 5.5, "a": 3.0}
TOLD = ("n_op", "n_rest", "seen_ms", "spikes", "n_spiky", "top", "at_top", "same", "same_ops", "last", "move", "flat", "rest")

# few different values, so that some repeat; high ones among them, so that some are spikes; gaps
vibrations = st.one_of(st.sampled_from([0.1, 0.1, 0.1, 0.9, 1.0, 1.1, 8.0, NAN]), st.floats(0.01, 9.0))
temperatures = st.one_of(st.sampled_from([20.0, 20.0, 20.0, 20.1, 31.0, 60.0, NAN]), st.floats(5.0, 90.0))
days_of_rows = st.builds(
    lambda dense, sparse: list({row[0]: row for row in [*sparse, *dense]}.values()),
    st.lists(st.tuples(st.integers(1380, 1500), st.booleans(), vibrations, vibrations, temperatures), min_size=1, max_size=80),
    st.lists(st.tuples(st.integers(0, 2 * 24 * 60 - 1), st.booleans(), vibrations, vibrations, temperatures), max_size=80),
)
"""Rows of two days by minute, many of them around the midnight between."""


Drawn = list[tuple[int, bool, float, float, float]]


def rows_of(drawn: Drawn) -> list[dict[str, float]]:
    return [
        {"ts_ms": BASE_MS + minute * 60_000, "moving": float(on), "v": v, "a": a, "t": t} for minute, on, v, a, t in sorted(drawn)
    ]


def by_day(rows: list[dict[str, float]]) -> list[list[dict[str, float]]]:
    days = [[row for row in rows if (row["ts_ms"] - BASE_MS) // DAY_MS == day] for day in (0, 1)]
    return [day for day in days if day]


@settings(max_examples=80, deadline=None)
@given(days_of_rows)
def test_operations_are_what_a_walk_along_the_rows_finds(drawn: Drawn) -> None:
    rows = rows_of(drawn)
    expected, calm_v, calm_t = [], [], []
    for day in by_day(rows):
        spiky = {name: oracles.spikes_of_day(day, name, hot=name == "t") for name in KEYS}
        for op in oracles.operations_of_day(day):
            expected.append(op)
            calm_v.append([r["v"] for r in op if r["v"] == r["v"] and r["ts_ms"] not in spiky["v"]])
            calm_t.append([r["t"] for r in op if r["t"] == r["t"] and r["ts_ms"] not in spiky["t"]])

    found = segment(readings_of(rows)).operations

    assert found["started_ms"].tolist() == [op[0]["ts_ms"] for op in expected]
    assert found["ended_ms"].tolist() == [op[-1]["ts_ms"] for op in expected]
    means = [sum(values) / len(values) if values else NAN for values in calm_v]
    assert found["motor.velocity_rms:mean"].tolist() == pytest.approx(means, nan_ok=True)
    # the nearest rank: of ten values the ninth, of eleven the tenth
    highs = [sorted(values)[math.ceil(0.9 * len(values)) - 1] if values else NAN for values in calm_v]
    assert found["motor.velocity_rms:high"].tolist() == pytest.approx(highs, nan_ok=True)
    starts = [values[0] if values else NAN for values in calm_t]
    assert found["motor.winding.temperature:start"].tolist() == pytest.approx(starts, nan_ok=True)
    tops = [max(values) if values else NAN for values in calm_t]
    assert found["motor.winding.temperature:max"].tolist() == pytest.approx(tops, nan_ok=True)


@settings(max_examples=120, deadline=None)
@given(days_of_rows)
def test_a_day_tells_of_each_sensor_what_a_walk_along_its_rows_finds(drawn: Drawn) -> None:
    rows = rows_of(drawn)

    found = segment(readings_of(rows)).days

    for number, day in enumerate(by_day(rows)):
        assert found["readings"].iloc[number] == len(day)
        assert found["last_ms"].iloc[number] == day[-1]["ts_ms"]
        for name, key in KEYS.items():
            expected = oracles.sensor_day(day, name, hot=name == "t", limits=RAISED)
            told = {what: found[f"{key}:{what}"].iloc[number] for what in TOLD}
            assert told == pytest.approx({what: expected.get(what, NAN) for what in TOLD}, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(days_of_rows)
def test_many_days_give_byte_for_byte_what_each_day_alone_gives(drawn: Drawn) -> None:
    rows = rows_of(drawn)

    together = segment(readings_of(rows))
    alone = [segment(readings_of(day).dropna(axis="columns", how="all")) for day in by_day(rows)]

    for part, keys in (("operations", ("started_ms", "ended_ms")), ("days", ("day_ms",))):
        names = sorted({*getattr(together, part).columns} - {*keys})
        apart = [row for cut in alone for row in to_rows(getattr(cut, part), keys, names)]
        assert to_rows(getattr(together, part), keys, names) == apart


def test_components_that_report_some_seconds_apart_belong_to_one_operation() -> None:
    rows = []
    for minute in range(5):
        rows.append({"ts_ms": BASE_MS + minute * 60_000, "moving": 1.0, "v": 1.0})
        rows.append({"ts_ms": BASE_MS + minute * 60_000 + 10_000, "t": 30.0 + minute})

    found = segment(readings_of(rows)).operations

    assert len(found) == 1
    assert found["minutes"].iloc[0] == 4.0
    assert found["motor.winding.temperature:max"].iloc[0] == 34.0


def test_without_a_moving_channel_vibration_tells_movement() -> None:
    rows = [{"ts_ms": BASE_MS + minute * 60_000, "v": 1.2 if 10 <= minute < 16 else 0.1} for minute in range(30)]

    found = segment(readings_of(rows)).operations

    assert (found["started_ms"] - BASE_MS).tolist() == [600_000]
    assert found["minutes"].tolist() == [5.0]


def test_context_is_kept_once_and_taken_from_before_when_not_measured_on_the_move() -> None:
    rows = [{"ts_ms": BASE_MS, "moving": 0.0, "station.ambient_temperature": 21.5}] + [
        {"ts_ms": BASE_MS + minute * 60_000, "moving": 1.0, "v": 1.0, "motor.load": 0.5 + 0.1 * minute} for minute in (1, 2, 3)
    ]

    found = segment(readings_of(rows)).operations

    assert found["ambient_temperature"].tolist() == [21.5]
    assert found["load"].tolist() == pytest.approx([0.7])
    assert np.isnan(found["head"].iloc[0])


def test_a_thermometer_is_judged_where_the_gate_has_stood_for_three_hours() -> None:
    rows = [{"ts_ms": BASE_MS + hour * 3_600_000, "moving": 0.0, "t": 20.0 + hour} for hour in range(12)]
    rows.append({"ts_ms": BASE_MS + 6 * 3_600_000 + 60_000, "moving": 1.0, "t": 80.0})

    days = segment(readings_of(rows)).days

    assert days["readings"].tolist() == [13]
    assert days["last_ms"].tolist() == [BASE_MS + 11 * 3_600_000]
    # at 3, 4, 5 and 6 o'clock, and at 10 and 11 again
    assert days["motor.winding.temperature:rest"].tolist() == [pytest.approx((23 + 24 + 25 + 26 + 30 + 31) / 6)]


def test_a_lone_jump_is_a_spike_and_not_part_of_its_operation() -> None:
    values = [1.0, 1.1, 6.0, 1.0, 0.9, 1.1]
    rows = [{"ts_ms": BASE_MS + minute * 60_000, "moving": 1.0, "v": v} for minute, v in enumerate(values)]

    found = segment(readings_of(rows))

    assert found.days["motor.velocity_rms:spikes"].tolist() == [1.0]
    assert found.operations["motor.velocity_rms:mean"].tolist() == [pytest.approx(5.1 / 5)]
    assert found.operations["motor.velocity_rms:high"].tolist() == [1.1]
    assert found.days["motor.velocity_rms:top"].tolist() == [6.0]


def at_rest(v: list[float], a: list[float]) -> pd.DataFrame:
    pairs = enumerate(zip(v, a, strict=True))
    return readings_of([{"ts_ms": BASE_MS + hour * 3_600_000, "moving": 0.0, "v": one, "a": two} for hour, (one, two) in pairs])


def test_a_sensor_that_jumps_alone_at_rest_has_a_spike_and_a_gate_that_is_shaken_has_none() -> None:
    calm = [0.1] * 12
    once, shaken, for_long = [*calm[:5], 0.9, *calm[6:]], [*calm[:5], 0.9, *calm[6:]], [*calm[:5], 0.9, 0.9, *calm[7:]]

    alone, together, lasting = (segment(at_rest(v, a)).days for v, a in ((once, calm), (once, shaken), (for_long, calm)))

    for days, spikes in ((alone, 1.0), (together, 0.0), (lasting, 0.0)):
        assert days["motor.velocity_rms:spikes"].tolist() == [spikes]
        assert days["motor.velocity_rms:n_spiky"].tolist() == [12.0]
        assert days["gearbox.acceleration_rms:spikes"].tolist() == [0.0]


def test_the_only_vibration_sensor_of_a_gate_is_not_judged_by_jumps_at_rest() -> None:
    readings = at_rest([0.1] * 5 + [0.9] + [0.1] * 6, [0.1] * 12).drop(columns="gearbox.acceleration_rms")

    days = segment(readings).days

    assert days[["motor.velocity_rms:spikes", "motor.velocity_rms:n_spiky"]].to_numpy().tolist() == [[0.0, 0.0]]


def test_the_mean_at_rest_leaves_out_the_highest_tenth() -> None:
    values = [0.1] * 18 + [2.0, 3.0]  # a neighbour at work now and then
    rows = [{"ts_ms": BASE_MS + hour * 60_000 * 60, "moving": 0.0, "v": v} for hour, v in enumerate(values)]

    days = segment(readings_of(rows)).days

    assert days["motor.velocity_rms:rest"].tolist() == [pytest.approx(0.1)]
    assert days["motor.velocity_rms:flat"].tolist() == [0.0]


@given(st.lists(st.tuples(st.integers(-1, 3), st.floats(-1e6, 1e6) | st.just(float("nan"))), max_size=40))
def test_grouped_median_is_the_median_of_each_group(pairs: list[tuple[int, float]]) -> None:
    group, values = np.array([g for g, _ in pairs], dtype=int), np.array([v for _, v in pairs], dtype=float)

    found = grouped_median(values, group, 4)

    for wanted in range(4):
        members = [v for g, v in pairs if g == wanted and v == v]
        assert found[wanted] == pytest.approx(oracles.median(members)) if members else np.isnan(found[wanted])


def test_rows_for_the_historian_come_back_exactly() -> None:
    rows = [{"ts_ms": BASE_MS + minute * 60_000, "moving": 1.0, "v": 1.0 / 3.0 + minute, "t": 30.1} for minute in range(4)]
    operations = segment(readings_of(rows)).operations

    keys = ("started_ms", "ended_ms")
    names = [name for name in operations.columns if name not in keys]
    again = from_rows(to_rows(operations, keys, names), keys, names)

    pd.testing.assert_frame_equal(
        again, operations[[*keys, *sorted(names)]], check_exact=True, check_dtype=False, check_column_type=False
    )


def test_a_row_written_before_its_gate_had_a_channel_is_read_with_that_channel_unknown() -> None:
    old, new = pd.DataFrame({"day_ms": [0], "b": [1.5]}), pd.DataFrame({"day_ms": [DAY_MS], "a": [2.5], "b": [np.nan]})

    found = from_rows([*to_rows(old, ["day_ms"], ["b"]), *to_rows(new, ["day_ms"], ["b", "a"])], ["day_ms"], ["b", "a"])

    pd.testing.assert_frame_equal(
        found, pd.DataFrame({"day_ms": [0.0, DAY_MS], "a": [np.nan, 2.5], "b": [1.5, np.nan]}), check_column_type=False
    )
    assert summaries(found, ["day_ms"]) == [{"b": 1.5}, {"a": 2.5}]


def test_stretches_of_several_gates_cut_at_one_go_are_those_cut_one_by_one(tmp_path: Path) -> None:
    write_dataset(tmp_path, gates=4, days=9, seed=2)
    dataset = open_dataset(tmp_path)
    stretches = [dataset.readings(gate_id).dropna(axis="columns", how="all") for gate_id in dataset.gate_ids]
    from_ms = stretches[1]["ts"].iloc[0] + pd.Timedelta(days=3)
    stretches.append(stretches[1][stretches[1]["ts"] >= from_ms.floor("D")].reset_index(drop=True))
    stretches.append(stretches[0].iloc[:0][["ts"]])

    for cut, readings in zip(segment_all([as_stretch(one) for one in stretches]), stretches, strict=True):
        alone = segment(readings)
        pd.testing.assert_frame_equal(
            cut.operations, alone.operations, check_exact=True, check_dtype=False, check_column_type=False
        )
        pd.testing.assert_frame_equal(cut.days, alone.days, check_exact=True, check_dtype=False, check_column_type=False)
