"""Operations and rests, against a walk along the rows."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.operations import DAY_MS, from_rows, grouped_median, segment, to_rows
from tests import oracles

BASE_MS = 1_772_323_200_000  # 2026-03-01T00:00:00Z


def readings_of(rows: list[dict[str, float]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows).sort_values("ts_ms")
    ts = pd.Series(frame.pop("ts_ms").to_numpy(dtype="int64").astype("datetime64[ms]")).dt.tz_localize("UTC")
    frame = frame.reset_index(drop=True)
    frame.insert(0, "ts", ts)
    return frame.rename(columns={"moving": "motor.moving", "v": "motor.velocity_rms", "t": "motor.winding.temperature"})


days_of_rows = st.lists(
    st.tuples(st.integers(0, 2 * 24 * 60 - 1), st.booleans(), st.floats(0.01, 9.0), st.floats(5.0, 90.0)),
    min_size=1,
    max_size=150,
    unique_by=lambda row: row[0],
)


@settings(max_examples=60, deadline=None)
@given(days_of_rows)
def test_operations_are_what_a_walk_along_the_rows_finds(drawn: list[tuple[int, bool, float, float]]) -> None:
    rows = [{"ts_ms": BASE_MS + minute * 60_000, "moving": float(on), "v": v, "t": t} for minute, on, v, t in sorted(drawn)]
    expected = [
        op for day in (0, 1) for op in oracles.operations_of_day([r for r in rows if (r["ts_ms"] - BASE_MS) // DAY_MS == day])
    ]

    found = segment(readings_of(rows)).operations

    assert found["started_ms"].tolist() == [op[0]["ts_ms"] for op in expected]
    assert found["ended_ms"].tolist() == [op[-1]["ts_ms"] for op in expected]
    assert found["motor.velocity_rms:median"].tolist() == pytest.approx([oracles.median([r["v"] for r in op]) for op in expected])
    assert found["motor.winding.temperature:start"].tolist() == [op[0]["t"] for op in expected]
    assert found["motor.winding.temperature:max"].tolist() == [max(r["t"] for r in op) for op in expected]


@settings(max_examples=30, deadline=None)
@given(days_of_rows)
def test_many_days_give_what_each_day_alone_gives(drawn: list[tuple[int, bool, float, float]]) -> None:
    rows = [{"ts_ms": BASE_MS + minute * 60_000, "moving": float(on), "v": v, "t": t} for minute, on, v, t in drawn]
    by_day = [[r for r in rows if (r["ts_ms"] - BASE_MS) // DAY_MS == day] for day in (0, 1)]

    together = segment(readings_of(rows))
    alone = [segment(readings_of(day)) for day in by_day if day]

    for part in ("operations", "rests"):
        apart = pd.concat([getattr(s, part) for s in alone], ignore_index=True)
        pd.testing.assert_frame_equal(getattr(together, part), apart, check_dtype=False)


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


def test_rests_count_what_arrived_and_show_the_median_at_rest() -> None:
    rows = [{"ts_ms": BASE_MS + hour * 3_600_000, "moving": 0.0, "t": 20.0 + hour} for hour in range(3)]
    rows.append({"ts_ms": BASE_MS + 4 * 3_600_000, "moving": 1.0, "t": 80.0})

    rests = segment(readings_of(rows)).rests

    assert rests["readings"].tolist() == [4]
    assert rests["last_ms"].tolist() == [BASE_MS + 4 * 3_600_000]
    assert rests["motor.winding.temperature:median"].tolist() == [21.0]


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

    again = from_rows(to_rows(operations, ("started_ms", "ended_ms")), ("started_ms", "ended_ms"))

    for name in again.columns:
        assert again[name].tolist() == operations[name].tolist()
    assert operations.drop(columns=list(again.columns)).isna().all(axis=None)
