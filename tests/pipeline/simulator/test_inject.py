from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import BadInput
from pipeline.simulator import GateHistory, live_gate, make_fleet, simulate_gate
from pipeline.simulator.inject import parse

GATE, OTHER = "DSH-S1-G1", "DSH-S1-G2"
START = datetime(2024, 1, 1, tzinfo=UTC)
AT = pd.Timestamp("2024-03-20T09:00:00Z")


def simulated(gate_id: str = GATE, *wishes: str, **settings: object) -> GateHistory:
    fleet = make_fleet(**({"gates": 3, "days": 120, "seed": 4, "hazard_scale": 0.0, "inject": wishes} | settings))  # type: ignore[arg-type]  # a mixed bag
    return simulate_gate(fleet, gate_id)


def spoiled(fault: str, channel: str = "motor.velocity_rms") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Readings without and with a sensor fault from `AT` on, by ts; nothing else is wrong with the sensors."""
    wish = f"gate={GATE},channel={channel},fault={fault},at=2024-03-20T09:00:00Z"
    return tuple(simulated(GATE, *w, sensor_faults=False).readings.set_index("ts") for w in ((), (wish,)))  # type: ignore[return-value]


def in_motion(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["motor.kurtosis"].notna()]


@pytest.mark.parametrize("mode", ["motor_bearing", "brake_drag", "sudden"])
def test_a_failure_on_request_happens_then_and_nothing_before_its_wear_changes(mode: str) -> None:
    wish = f"gate={GATE},mode={mode},fail-at=2024-03-20T09:00:00Z"
    plain, failing = simulated(GATE), simulated(GATE, wish)

    failures = [record for record in failing.maintenance if record["kind"] == "failure"]
    assert [(record["failure_mode"], record["started_at"]) for record in failures] == [(mode, AT)]
    truth = failing.truth.to_pandas()
    assert set(truth["mode"]) == {mode}
    onset = truth["day"].min() if mode != "sudden" else AT
    before = [history.readings[history.readings["ts"] < onset] for history in (plain, failing)]
    pd.testing.assert_frame_equal(*before)
    assert len(before[0]) > 1000
    # the other gates, and the gate itself once it is repaired, go on as they would have
    repaired = next(record["ended_at"] for record in failing.maintenance if record["kind"] == "repair")
    after = [h.readings[h.readings["ts"] > repaired + pd.Timedelta(days=1)]["station.water_level"] for h in (plain, failing)]
    assert after[0].dropna().tolist() == after[1].dropna().tolist()
    assert simulated(OTHER).readings.equals(simulated(OTHER, wish).readings)


def test_a_bearing_made_to_fail_shows_it_beforehand() -> None:
    wish = f"gate={GATE},mode=motor_bearing,fail-at=2024-03-20T09:00:00Z"
    plain, failing = (in_motion(simulated(GATE, *w, sensor_faults=False).readings).set_index("ts") for w in ((), (wish,)))

    last = slice(AT - pd.Timedelta(days=3), AT)
    ratio = failing["motor.acceleration_rms"][last].median() / plain["motor.acceleration_rms"][last].median()
    assert ratio > 1.5


def test_natural_wear_goes_on_beside_a_failure_on_request() -> None:
    wish = f"gate={GATE},mode=sudden,fail-at=2024-06-20T09:00:00Z"
    both = [
        live_gate(fleet, fleet.gate(GATE))[2]
        for fleet in (make_fleet(gates=1, days=300, seed=4, hazard_scale=10.0, inject=w) for w in ((), (wish,)))
    ]

    before = 171 * 86_400.0
    earlier = [[(o.kind, o.start_s, o.mode) for o in life.outages if o.start_s < before] for life in both]
    assert len(earlier[0]) > 2
    assert earlier[0] == earlier[1]


def test_a_stale_channel_falls_silent_and_the_others_do_not() -> None:
    clean, bad = spoiled("stale")

    assert bad["motor.velocity_rms"][AT:].notna().sum() == 0
    pd.testing.assert_frame_equal(clean.drop(columns="motor.velocity_rms"), bad.drop(columns="motor.velocity_rms"))
    pd.testing.assert_series_equal(clean["motor.velocity_rms"][:AT], bad["motor.velocity_rms"][:AT])


def test_a_stuck_channel_repeats_its_last_value() -> None:
    clean, bad = spoiled("stuck", "motor.winding.temperature")

    last = clean["motor.winding.temperature"][: AT - pd.Timedelta(milliseconds=1)].iloc[-1]
    assert set(bad["motor.winding.temperature"][AT:]) == {last}


@pytest.mark.parametrize(("channel", "moved"), [("motor.winding.temperature", 5.0), ("motor.acceleration_rms", 0.4)])
def test_a_drift_is_complete_after_three_weeks(channel: str, moved: float) -> None:
    clean, bad = spoiled("drift", channel)

    for days, share in ((0, 0.0), (10.5, 0.5), (21, 1.0), (35, 1.0)):
        span = slice(AT + pd.Timedelta(days=days), AT + pd.Timedelta(days=days + 1))
        c, b = in_motion(clean)[channel][span].mean(), in_motion(bad)[channel][span].mean()
        change = b - c if channel.endswith("temperature") else b / c - 1.0
        assert change == pytest.approx(share * moved, abs=0.06 * moved)


def test_spikes_hit_one_sample_in_twenty() -> None:
    clean, bad = (in_motion(frame)["motor.acceleration_rms"][AT:] for frame in spoiled("spikes", "motor.acceleration_rms"))

    jumped = bad > 1.5 * clean
    assert jumped.mean() == pytest.approx(0.05, abs=0.015)
    assert (bad[~jumped] == clean[~jumped]).all()


def test_clipping_cuts_at_the_third_quartile_of_the_month_before() -> None:
    clean, bad = (in_motion(frame)["motor.acceleration_rms"] for frame in spoiled("clipping", "motor.acceleration_rms"))

    quartile = clean[AT - pd.Timedelta(days=30) : AT].quantile(0.75)
    assert bad[AT:].max() == pytest.approx(quartile, abs=0.0015)
    assert (bad[AT:] == bad[AT:].max()).mean() == pytest.approx(0.25, abs=0.12)


@pytest.mark.parametrize(
    ("channel", "factor", "offset"),
    [("motor.velocity_rms", 1e-3, 0.0), ("motor.acceleration_rms", 9.80665, 0.0), ("brake.lining.temperature", 1.8, 32.0)],
)
def test_a_slip_of_unit_reports_what_another_unit_would(channel: str, factor: float, offset: float) -> None:
    clean, bad = (frame[channel][AT:].dropna() for frame in spoiled("unit_slip", channel))

    assert bad.to_numpy() == pytest.approx(clean.to_numpy() * factor + offset, abs=2e-6)


def test_a_loose_mount_halves_all_that_its_accelerometer_measures() -> None:
    clean, bad = (in_motion(frame)[AT:] for frame in spoiled("loose_mount", "gearbox.velocity_rms"))

    for channel in ("gearbox.velocity_rms", "gearbox.acceleration_rms", "gearbox.acceleration_peak"):
        assert (bad[channel] / clean[channel]).median() == pytest.approx(0.5, abs=0.05)
    assert (bad["motor.velocity_rms"] == clean["motor.velocity_rms"]).all()


def test_a_dropout_loses_three_readings_of_ten() -> None:
    clean, bad = (frame["motor.winding.temperature"][AT:] for frame in spoiled("dropout", "motor.winding.temperature"))

    assert bad.isna().sum() / clean.notna().sum() == pytest.approx(0.3, abs=0.03)
    assert (bad.dropna() == clean[bad.notna()]).all()


def test_a_fault_may_end() -> None:
    wish = f"gate={GATE},channel=motor.velocity_rms,fault=stale,at=2024-03-20T09:00:00Z,until=2024-03-21T09:00:00Z"

    column = simulated(GATE, wish, sensor_faults=False).readings.set_index("ts")["motor.velocity_rms"]

    assert column["2024-03-20T09:00Z":"2024-03-21T08:59Z"].notna().sum() == 0  # type: ignore[misc]  # a slice of instants
    assert column["2024-03-21T09:01Z":].notna().any()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ("gate=DSH-S1-G1", "must be gate=G,mode=M,fail-at=T or gate=G,channel=C"),
        ("gate=X,mode=gear,fail-at=2024-02-01", "gate must be one of the fleet's; got 'X'"),
        ("gate=DSH-S1-G1,mode=rust,fail-at=2024-02-01", "must be one of lubrication, .*; got 'rust'"),
        ("gate=DSH-S1-G1,mode=gear,fail-at=2025-02-01", "must lie within the 120 days from 2024-01-01"),
        ("gate=DSH-S1-G1,mode=gear,fail-at=soon", "a date or RFC 3339 with an offset.*; got 'soon'"),
        ("gate=DSH-S1-G1,mode=gear,fail-at=2024-02-01T08:00:00", "with an offset"),
        ("gate=DSH-S1-G1,channel=motor.mood,fault=stuck,at=2024-02-01", "channel must be one of .*; got 'motor.mood'"),
        ("gate=DSH-S1-G1,channel=motor.current,fault=sad,at=2024-02-01", "fault must be one of stale, .*; got 'sad'"),
        ("gate=DSH-S1-G1,channel=motor.current,fault=loose_mount,at=2024-02-01", "needs a velocity or acceleration channel"),
        ("gate=DSH-S1-G1,channel=motor.kurtosis,fault=unit_slip,at=2024-02-01", "has no second unit"),
        ("gate=DSH-S1-G1,channel=motor.current,fault=stuck,at=2024-02-02,until=2024-02-01", "until must be later than at"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_and_says_why(wish: str, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        make_fleet(gates=2, days=120, seed=4, inject=[wish])


def test_a_failure_in_the_middle_of_a_repair_is_refused() -> None:
    wishes = [f"gate={GATE},mode=sudden,fail-at=2024-03-20T09:00:00Z", f"gate={GATE},mode=gear,fail-at=2024-03-20T10:00:00Z"]

    with pytest.raises(BadInput, match="is out of service at the time it should fail"):
        simulated(GATE, *wishes)


def test_the_way_to_a_failure_on_request_is_worn_through_when_it_comes() -> None:
    fleet = make_fleet(
        gates=1, days=120, seed=4, hazard_scale=0.0, inject=[f"gate={GATE},mode=gear,fail-at=2024-03-20T09:00:00Z"]
    )
    fault = live_gate(fleet, fleet.gate(GATE))[2].episodes[0]

    assert fault.z[0] == 0.0
    assert (np.diff(fault.z) >= 0).all()
    assert 0.8 < fault.z[-1] <= 1.0
    assert parse(fleet.inject[0], START).at_s == fault.end_s
