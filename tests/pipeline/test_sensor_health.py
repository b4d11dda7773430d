"""Sensor health on hand-made gates: each fault is named on its channel, and what a machine or the weather does is not."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import pytest

from pipeline.channel_days import GateDays
from pipeline.operations import segment
from pipeline.readings import DAY_MS
from pipeline.sensor_health import KINDS, MASKED, Health, assess, assess_all

START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
DAYS, FROM = 70, 45
MINUTE = 60_000
INTERVAL_S = 900.0

VELOCITY, ACCELERATION = "motor.velocity_rms", "motor.acceleration_rms"
CURRENT, KURTOSIS = "motor.current", "motor.kurtosis"
WINDING, BEARING, OIL = "motor.winding.temperature", "motor.bearing_de.temperature", "gearbox.oil.temperature"
AMBIENT = "station.ambient_temperature"

Spoil = Callable[[pd.DataFrame, np.ndarray], None]
"""Changes a frame in place on the rows of a mask."""


def gate(
    *, per_day: int = 3, days: int = DAYS, seed: int = 1, still: tuple[int, int] = (0, 0), decimals: int = 2
) -> pd.DataFrame:
    """A healthy gate: a heartbeat every 15 minutes, `per_day` operations of 12 minutes; its load differs from one to the next.

    Vibration and current have a floor at rest; kurtosis is told in motion only. The gate stands still from one day to another.
    """
    rng = np.random.default_rng(seed)
    t, moving, load = [], [], []
    for day in range(days):
        starts = [] if still[0] <= day < still[1] else [(7 * 60 + 150 * i) for i in range(per_day)]
        runs = {
            start + minute: (minute, rng_load) for start in starts for rng_load in [rng.normal(0, 0.1)] for minute in range(12)
        }
        beats = {m: None for m in range(0, 1440, 15) if not any(start <= m < start + 12 for start in starts)}
        for at in sorted({**beats, **runs}):
            t.append(START_MS + day * DAY_MS + at * MINUTE)
            moving.append(float(at in runs))
            load.append(runs.get(at, (0, np.nan))[1])
    ts, on, by_load = np.array(t), np.array(moving) > 0.5, np.nan_to_num(np.array(load))
    n, day = len(ts), (ts - START_MS) / DAY_MS
    air = 18 + 0.1 * day + 4 * np.sin(2 * np.pi * (day - 0.4))

    def noisy(level: np.ndarray | float, share: float = 0.08) -> np.ndarray:
        return np.asarray(level * np.exp(by_load + share * rng.standard_normal(n)))

    heat = np.zeros(n)
    for row in range(1, n):
        pause = (ts[row] - ts[row - 1]) / MINUTE
        heat[row] = heat[row - 1] * np.exp(-pause / 40) + (6.0 * (1 - np.exp(-pause / 20)) if on[row] else 0.0)
    frame = pd.DataFrame(
        {
            "motor.moving": on.astype(float),
            VELOCITY: np.where(on, noisy(1.2), noisy(0.1, 0.03)).round(decimals),
            ACCELERATION: np.where(on, noisy(0.15), noisy(0.006, 0.03)).round(4),
            CURRENT: np.where(on, noisy(8.0, 0.03), 0.0).round(2),
            KURTOSIS: np.where(on, 3.2 * np.exp(0.05 * rng.standard_normal(n)), np.nan),
            WINDING: air + heat + 0.3 * rng.standard_normal(n),
            BEARING: air + 0.7 * heat + 0.3 * rng.standard_normal(n),
            OIL: air + 0.4 * heat + 0.3 * rng.standard_normal(n),
            AMBIENT: air + 0.2 * rng.standard_normal(n),
        }
    ).round(4)
    frame.insert(0, "ts", pd.Series(ts.astype("datetime64[ms]")).dt.tz_localize("UTC"))
    return frame


def day_of(frame: pd.DataFrame) -> np.ndarray:
    return (frame["ts"].to_numpy(dtype="datetime64[ms]").astype(np.int64) - START_MS) / DAY_MS


def judged(frame: pd.DataFrame, intervals_s: Mapping[str, float] | None = None, cycles: tuple[int, ...] = ()) -> Health:
    """Judge a frame; `cycles` are days on which a repair of the motor ended."""
    return assess(gate_days(frame, intervals_s, cycles))


def gate_days(frame: pd.DataFrame, intervals_s: Mapping[str, float] | None = None, cycles: tuple[int, ...] = ()) -> GateDays:
    cut = segment(frame)
    first_ms = int(cut.days["day_ms"].iloc[0])

    def cycle_starts(component: str, at_ms: np.ndarray) -> np.ndarray:
        ends = [first_ms, *(START_MS + day * DAY_MS for day in cycles if component == "motor")]
        return np.array([max(end for end in ends if end < at) for at in at_ms], dtype=np.int64)

    return GateDays(cut.days, cut.operations["started_ms"].to_numpy(), cycle_starts, intervals_s or {})


def kinds(health: Health, channel: str) -> list[str]:
    """What is said of a channel on each day, '' where nothing."""
    names = [*KINDS, ""]
    return [names[kind] for kind in health.kind[health.channels.index(channel)].tolist()]


def first_named(health: Health, channel: str, kind: str) -> int | None:
    """Days since `FROM` after which the channel is first named for that kind."""
    said = kinds(health, channel)
    return next((day + 1 - FROM for day, name in enumerate(said) if name == kind), None)


def spoilt(spoil: Spoil, **about: int) -> Health:
    frame = gate(**about)
    spoil(frame, day_of(frame) >= FROM)
    return judged(frame)


def stick(channel: str) -> Spoil:
    def spoil(frame: pd.DataFrame, rows: np.ndarray) -> None:
        last = frame.loc[~rows & frame[channel].notna(), channel].iloc[-1]
        frame.loc[rows & frame[channel].notna(), channel] = last

    return spoil


def scale(factor: float, *channels: str) -> Spoil:
    def spoil(frame: pd.DataFrame, rows: np.ndarray) -> None:
        for channel in channels:
            frame.loc[rows, channel] *= factor

    return spoil


def clip(channel: str) -> Spoil:
    def spoil(frame: pd.DataFrame, rows: np.ndarray) -> None:
        healthy = frame.loc[~rows & (frame["motor.moving"] > 0.5), channel]
        frame.loc[rows, channel] = np.minimum(frame.loc[rows, channel], healthy.quantile(0.75))

    return spoil


def creep(channel: str, by: float, *, days: float = 21.0) -> Spoil:
    def spoil(frame: pd.DataFrame, rows: np.ndarray) -> None:
        share = np.clip((day_of(frame) - FROM) / days, 0, 1)
        if "temperature" in channel:
            frame[channel] += by * share
        else:
            frame[channel] *= 1 + by * share

    return spoil


def jump(channel: str, *, share: float = 0.12) -> Spoil:
    def spoil(frame: pd.DataFrame, rows: np.ndarray) -> None:
        hit = rows & (np.random.default_rng(5).random(len(frame)) < share)
        if "temperature" in channel:
            frame.loc[hit, channel] += 30.0
        else:
            frame.loc[hit, channel] *= 5.0

    return spoil


def drop(channel: str, share: float) -> Spoil:
    def spoil(frame: pd.DataFrame, rows: np.ndarray) -> None:
        frame.loc[rows & (np.random.default_rng(6).random(len(frame)) < share), channel] = np.nan

    return spoil


def fahrenheit(frame: pd.DataFrame, rows: np.ndarray) -> None:
    frame.loc[rows, OIL] = frame.loc[rows, OIL] * 1.8 + 32


FAULTS = [
    pytest.param("stuck", VELOCITY, stick(VELOCITY), 2, id="stuck vibration"),
    pytest.param("stuck", KURTOSIS, stick(KURTOSIS), 2, id="stuck in motion only"),
    pytest.param("stuck", OIL, stick(OIL), 2, id="stuck thermometer"),
    pytest.param("unit_slip", VELOCITY, scale(0.001, VELOCITY), 1, id="m/s for mm/s"),
    pytest.param("unit_slip", ACCELERATION, scale(9.80665, ACCELERATION), 1, id="m/s² for g"),
    pytest.param("unit_slip", OIL, fahrenheit, 1, id="°F for °C"),
    pytest.param("clipping", ACCELERATION, clip(ACCELERATION), 3, id="clipped vibration"),
    pytest.param("clipping", CURRENT, clip(CURRENT), 3, id="clipped current"),
    pytest.param("loose_mount", VELOCITY, scale(0.5, VELOCITY, ACCELERATION), 4, id="loose mount"),
    pytest.param("drift", OIL, creep(OIL, 5.0), 21, id="drifting thermometer"),
    pytest.param("drift", VELOCITY, creep(VELOCITY, 0.4), 21, id="drifting gain"),
    pytest.param("dropout", BEARING, drop(BEARING, 0.3), 2, id="30 % of readings missing"),
    pytest.param("spikes", VELOCITY, jump(VELOCITY), 3, id="spikes of vibration"),
    pytest.param("spikes", WINDING, jump(WINDING), 3, id="spikes of temperature"),
]


@pytest.mark.parametrize(("kind", "channel", "spoil", "within_d"), FAULTS)
def test_a_fault_is_named_in_time_on_its_channel_and_on_no_other(kind: str, channel: str, spoil: Spoil, within_d: int) -> None:
    health = spoilt(spoil)

    days = first_named(health, channel, kind)
    assert days is not None
    assert 0 < days <= within_d
    allowed = {VELOCITY, ACCELERATION} if kind == "loose_mount" else {channel}
    assert {other for other in health.channels if any(kinds(health, other))} <= allowed
    # a thermometer that drifts is believed less its bias
    assert health.believable[health.channels.index(channel), -1] == (kind not in MASKED or (kind == "drift" and channel == OIL))


def test_a_healthy_gate_has_no_faulty_sensor() -> None:
    assert (judged(gate()).kind == -1).all()


def test_a_machine_that_wears_is_not_a_bad_sensor() -> None:
    """Three times the vibration in motion, more current and heat, and the same floor at rest."""
    frame = gate()
    worn = np.clip((day_of(frame) - FROM) / 20, 0, 1) * (frame["motor.moving"] > 0.5)
    for channel in (VELOCITY, ACCELERATION, KURTOSIS):
        frame[channel] *= 1 + 2 * worn
    frame[CURRENT] *= 1 + 0.3 * worn
    frame[BEARING] += 15 * worn

    assert (judged(frame).kind == -1).all()


def test_a_heat_wave_is_no_drift() -> None:
    frame = gate()
    for channel in (WINDING, BEARING, OIL, AMBIENT):
        frame[channel] += 12 * np.clip((day_of(frame) - FROM) / 5, 0, 1)

    health = judged(frame)

    assert (health.kind == -1).all()
    assert np.abs(health.bias_k).max() < 1.0


def test_a_gate_that_stands_still_for_two_weeks_has_sensors_as_good_as_before() -> None:
    assert (judged(gate(still=(FROM, FROM + 14))).kind == -1).all()


def test_a_coarse_sensor_at_rest_is_not_stuck() -> None:
    """With a resolution of 0.1 mm/s the floor is the same value all day."""
    frame = gate(decimals=1, still=(FROM, FROM + 3))
    assert frame.loc[frame["motor.moving"] < 0.5, VELOCITY].nunique() == 1

    assert (judged(frame).kind == -1).all()


def test_a_coarse_sensor_is_clipped_when_its_highest_value_comes_far_more_often_than_it_used_to() -> None:
    """With a resolution of 0.1 mm/s the highest value of a day comes again anyway."""
    health = spoilt(clip(VELOCITY), decimals=1)

    days = first_named(health, VELOCITY, "clipping")
    assert days is not None
    assert 0 < days <= 3
    assert {name for channel in health.channels for name in kinds(health, channel)} == {"", "clipping"}


def test_a_coarse_sensor_is_not_clipped_on_weak_days_on_which_all_its_samples_are_alike() -> None:
    frame = gate(decimals=1)
    weak = (day_of(frame) >= FROM) & (frame["motor.moving"] > 0.5)
    frame.loc[weak, VELOCITY] = np.where(np.random.default_rng(7).random(weak.sum()) < 0.6, 0.9, 0.8)

    assert not any(kinds(judged(frame), VELOCITY))


def test_a_coarse_sensor_that_shows_nothing_else_through_many_operations_is_stuck() -> None:
    """One that hardly answers to movement at its best: a loose mount at the floor of the sensor."""
    frame = gate()
    frame[VELOCITY] = np.where(day_of(frame) >= FROM, 0.1, frame[VELOCITY].clip(0.1, 0.12))

    assert first_named(judged(frame), VELOCITY, "stuck") is not None


def test_readings_once_an_operation_only_are_enough_to_be_believed() -> None:
    frame = gate(per_day=2)
    begins = (frame["motor.moving"] > 0.5) & (frame["motor.moving"].shift(1, fill_value=0.0) < 0.5)
    for channel in (VELOCITY, ACCELERATION, CURRENT, KURTOSIS, WINDING, BEARING, OIL):
        frame.loc[~begins, channel] = np.nan

    assert (judged(frame).kind == -1).all()


def test_a_component_with_one_channel_can_be_judged() -> None:
    frame = gate()[["ts", "motor.moving", OIL]]
    stick(OIL)(frame, day_of(frame) >= FROM)

    health = judged(frame)

    assert first_named(health, OIL, "stuck") is not None
    assert (judged(gate()[["ts", VELOCITY]]).kind == -1).all()


def test_two_thermometers_without_air_temperature_are_not_told_apart() -> None:
    frame = gate()[["ts", "motor.moving", WINDING, OIL]]
    creep(OIL, 5.0)(frame, day_of(frame) >= FROM)

    health = judged(frame)

    assert (health.kind == -1).all()
    assert (health.bias_k == 0.0).all()


def test_bias_is_what_a_thermometer_shows_beyond_its_siblings_at_rest() -> None:
    frame = gate()
    creep(OIL, 2.0, days=1.0)(frame, day_of(frame) >= FROM)

    health = judged(frame)

    row = health.channels.index(OIL)
    assert health.bias_k[row, FROM - 1] == pytest.approx(0.0, abs=0.3)
    assert health.bias_k[row, -1] == pytest.approx(2.0, abs=0.3)
    assert (health.kind == -1).all()  # 2 K are taken off, and need no mask


def test_a_repair_gives_the_sensor_a_new_reference() -> None:
    frame = gate()
    scale(0.5, VELOCITY, ACCELERATION)(frame, day_of(frame) >= FROM)

    health = judged(frame, cycles=(FROM,))

    assert set(kinds(health, VELOCITY)[FROM:]) == {""}


@pytest.mark.parametrize(("kind", "channel", "spoil", "within_d"), FAULTS)
def test_a_verdict_knows_nothing_of_later_days(kind: str, channel: str, spoil: Spoil, within_d: int) -> None:
    frame = gate()
    spoil(frame, day_of(frame) >= FROM)
    full = judged(frame)

    for day in (12, 33, FROM + 1, FROM + 4, FROM + 15):
        early = judged(frame[day_of(frame) < day].reset_index(drop=True))
        assert early.channels == full.channels
        np.testing.assert_array_equal(early.kind, full.kind[:, :day])
        np.testing.assert_allclose(early.bias_k, full.bias_k[:, :day], atol=1e-9)
        np.testing.assert_array_equal(early.seen_ms, full.seen_ms[:, :day])
        np.testing.assert_array_equal(early.interval_s(np.arange(day)), full.interval_s(np.arange(day)))


def test_a_channel_is_stale_after_two_of_its_intervals_without_a_word() -> None:
    frame = gate()
    silent = day_of(frame) >= FROM + 0.5
    frame.loc[silent, OIL] = np.nan
    last_ms = int(frame.loc[~silent, "ts"].iloc[-1].timestamp() * 1000)
    intervals_s = dict.fromkeys((OIL, VELOCITY), INTERVAL_S)

    def at(ms: int) -> dict[str, str]:
        known = frame[frame["ts"] < pd.Timestamp(ms, unit="ms", tz="UTC")].reset_index(drop=True)
        return judged(known, intervals_s).at(ms)

    assert at(last_ms + round(2 * INTERVAL_S * 1000)) == {}
    assert at(last_ms + round(2 * INTERVAL_S * 1000) + 1) == {OIL: "stale"}
    assert at(START_MS + (FROM + 10) * DAY_MS) == {OIL: "stale"}


@pytest.mark.parametrize(("missing", "kind"), [(3, "dropout"), (12, "stale")])
def test_a_channel_that_drops_out_is_not_stale_because_some_readings_in_a_row_are_missing(missing: int, kind: str) -> None:
    frame = gate()
    drop(OIL, 0.3)(frame, day_of(frame) >= FROM)
    frame.loc[day_of(frame) >= DAYS - missing / 96, OIL] = np.nan

    assert judged(frame, {OIL: INTERVAL_S}).at(START_MS + DAYS * DAY_MS) == {OIL: kind}


def test_channels_of_a_gate_that_says_nothing_at_all_are_not_stale_one_by_one() -> None:
    day_later_ms = START_MS + (DAYS + 1) * DAY_MS

    assert judged(gate(), {OIL: INTERVAL_S}).at(day_later_ms) == {}


def test_an_interval_that_is_not_declared_is_learnt_from_the_days_at_rest() -> None:
    frame = gate(per_day=0)

    health = judged(frame)

    row = health.channels.index(OIL)
    assert health.interval_s(np.array([DAYS - 1]))[row, 0] == pytest.approx(900.0)
    assert health.at(START_MS + DAYS * DAY_MS) == {}


def test_a_channel_that_speaks_in_motion_only_is_stale_when_it_misses_a_days_operations() -> None:
    frame = gate()
    frame.loc[day_of(frame) >= FROM, KURTOSIS] = np.nan

    health = judged(frame)

    assert health.at(START_MS + FROM * DAY_MS) == {}
    assert health.at(START_MS + (FROM + 1) * DAY_MS) == {KURTOSIS: "stale"}


def test_a_gate_that_stands_still_makes_no_channel_stale_that_speaks_in_motion_only() -> None:
    assert judged(gate(still=(FROM, DAYS))).at(START_MS + DAYS * DAY_MS) == {}


def test_before_the_first_day_nothing_is_known() -> None:
    assert judged(gate(days=3)).at(START_MS) == {}


def test_a_gate_without_readings_has_no_channels() -> None:
    empty = assess(GateDays(pd.DataFrame({"day_ms": []}), np.array([], dtype=np.int64), lambda _, at_ms: at_ms, {}))

    assert empty.channels == ()
    assert empty.at(START_MS) == {}


def test_gates_that_are_judged_together_are_judged_as_each_alone() -> None:
    loose, short, drifting = gate(), gate(days=25, per_day=1), gate()
    loose.loc[day_of(loose) >= FROM, [VELOCITY, ACCELERATION]] *= 0.5
    drifting.loc[day_of(drifting) >= FROM, OIL] += 6.0
    given = [
        gate_days(loose, {OIL: INTERVAL_S}, cycles=(12,)),
        gate_days(short[["ts", VELOCITY, OIL, WINDING]]),
        GateDays(pd.DataFrame({"day_ms": []}), np.array([], dtype=np.int64), lambda _, at_ms: at_ms, {}),
        gate_days(drifting[day_of(drifting) >= 5].drop(columns=AMBIENT).reset_index(drop=True)),
    ]

    together = assess_all(given)

    assert {*together[0].at(START_MS + DAYS * DAY_MS).values()} == {"loose_mount"}
    for health, alone in zip(together, map(assess, given), strict=True):
        for name in Health.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(health, name), getattr(alone, name))
