from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipeline.simulator import Fleet, live_gate, make_fleet, simulate_gate, stream_readings
from pipeline.simulator.degradation import MODES, Life, live
from pipeline.simulator.duty import Duty
from pipeline.simulator.fleet import channel_keys
from pipeline.simulator.maintenance import Outage, Upkeep
from pipeline.simulator.signals import Rows, Scene, first_order, lay_out, made_s, observe, student, true_temperatures
from pipeline.simulator.weather import DAY_S, Weather


def one_run(days: int, start_s: float, minutes: float, load: float) -> Duty:
    def per_run(value: float) -> np.ndarray:
        return np.array([value])

    runs = np.zeros(days, dtype=np.int64)
    runs[0] = 1
    return Duty(
        number=np.array([0]),
        day=np.array([0]),
        start_s=per_run(start_s),
        duration_s=per_run(minutes * 60),
        load=per_run(load),
        aim_m=per_run(2.0),
        stops=per_run(1.0),
        runs=runs,
        run_minutes=runs * minutes,
        day_load=np.full(days, load),
    )


def rows_of(duty: Duty, days: int, lasted_s: np.ndarray | None = None) -> Rows:
    """Every row of these days, with a heartbeat each quarter of an hour."""
    return lay_out(duty, duty.duration_s if lasted_s is None else lasted_s, 900.0, 0.0, 0.0, days * float(DAY_S))


def healthy(gates: int, days: int) -> pd.DataFrame:
    """Readings in motion of a fleet without wear and without sensor faults, every tenth of each gate."""
    fleet = make_fleet(gates=gates, days=days, seed=5, hazard_scale=0.0, sensor_faults=False, preventive=False)
    frames = [simulate_gate(fleet, gate_id).readings for gate_id in fleet.gate_ids]
    return pd.concat([frame[frame["motor.kurtosis"].notna()].iloc[::10] for frame in frames], ignore_index=True)


def test_a_healthy_fleet_vibrates_mostly_in_zones_a_and_b() -> None:
    velocity_mm_s = healthy(gates=80, days=300)["motor.velocity_rms"]

    low, middle, high = velocity_mm_s.quantile([0.01, 0.5, 0.99])
    assert (low, middle) == pytest.approx((0.34, 0.94), abs=0.1)
    assert high == pytest.approx(2.6, abs=0.6)
    assert (velocity_mm_s < 1.8).mean() > 0.9  # class I: zone B ends at 1.8 mm/s


def test_a_healthy_fleet_is_as_warm_as_gates_are() -> None:
    year = healthy(gates=12, days=366)

    bearing_c = tuple(year["motor.bearing_de.temperature"].quantile([0.01, 0.5, 0.99]))
    assert bearing_c == pytest.approx((17.0, 32.0, 51.0), abs=3.0)
    # runs of some minutes, apart from each other, stay below the single long run a day of the reference (11, 39, 81)
    assert 30.0 < year["motor.winding.temperature"].median() < 42.0
    assert year["motor.winding.temperature"].max() < 155.0


def test_the_doubling_scan_is_the_plain_recursion() -> None:
    rng = np.random.default_rng(0)
    target, dt_over_tau = rng.uniform(10, 90, 500), rng.uniform(0.0, 0.3, 500)

    temperature, plain = 20.0, []
    for aim, step in zip(target, dt_over_tau, strict=True):
        temperature = aim + (temperature - aim) * np.exp(-step)
        plain.append(temperature)

    assert first_order(target, dt_over_tau, 20.0) == pytest.approx(np.array(plain), abs=1e-9)


@pytest.mark.parametrize("hoist", ["winch", "hydraulic"])
def test_a_gate_is_back_at_ambient_six_hours_after_it_stopped(hoist: str) -> None:
    days, start_s = 2, 3 * 3600.0
    gate = next(gate for gate in make_fleet(gates=30, days=days, seed=1).gates if gate.hoist == hoist)
    weather = Weather(np.full(days, 25.0), np.zeros(days), np.zeros(days))
    ran = one_run(days, start_s, 45.0, 1.0)
    nothing = np.zeros(0, dtype=np.int64)
    stood = replace(ran, number=nothing, start_s=np.zeros(0), duration_s=np.zeros(0), day=nothing)

    curves = {}
    for name, duty in (("ran", ran), ("stood", stood)):
        rows = rows_of(duty, days)
        temperatures = true_temperatures(gate, weather, [], rows, ran.load, ran.stops)
        curves[name] = {key: pd.Series(values, rows.t_s) for key, values in temperatures.items()}

    stopped_s = start_s + 45 * 60
    for key, warm in curves["ran"].items():
        excess = warm - curves["stood"][key].reindex(warm.index).interpolate("index")
        assert excess.loc[stopped_s] > 8.0
        assert excess.loc[stopped_s + 6 * 3600 :].abs().max() < 2.0


def test_a_winding_warms_by_the_law_of_first_order() -> None:
    days, load, minutes = 1, 1.0, 25.0
    gate = make_fleet(gates=1, days=days, seed=1).gates[0]
    gate = replace(gate, sun_k=0.0)
    weather = Weather(np.full(days, 25.0), np.zeros(days), np.zeros(days))
    duty = one_run(days, 43_200.0, minutes, load)
    rows = rows_of(duty, days)

    winding = true_temperatures(gate, weather, [], rows, duty.load, duty.stops)["motor.winding.temperature"]

    tau_min = 25.0 * gate.thermal_scale["motor.winding.temperature"]
    rise = winding[np.flatnonzero(rows.kind == 3)[0]] - winding[np.flatnonzero(rows.kind == 1)[0]]
    # the air itself drifts by less than 1 K in these 25 minutes
    assert rise == pytest.approx(70.0 * (1 - np.exp(-minutes / tau_min)), abs=1.0)


def test_rows_come_each_minute_in_motion_after_the_run_up_and_each_quarter_hour_at_rest() -> None:
    duty = one_run(1, 7200.0, 3.5, 0.5)

    rows = rows_of(duty, 1)

    around = [(t, kind) for t, kind in zip(rows.t_s.tolist(), rows.kind.tolist(), strict=True) if 6000 < t < 9000]
    assert around == [(6300, 0), (7200, 1), (7220, 2), (7280, 2), (7340, 2), (7400, 2), (7410, 3), (8100, 0)]


def test_noise_is_students_t_with_four_degrees_of_freedom() -> None:
    uniform = np.linspace(0.001, 0.999, 999)

    assert student(uniform) == pytest.approx(np.clip(stats.t.ppf(uniform, 4), -6, 6), abs=1e-9)


def test_parts_of_a_gates_life_put_together_are_the_whole() -> None:
    wish = "gate=DSH-S1-G1,channel=motor.velocity_rms,fault={},at=2024-02-10"
    for fault in ("stuck", "clipping", "spikes"):
        fleet = make_fleet(gates=1, days=100, seed=5, hazard_scale=6.0, inject=[wish.format(fault)])

        whole = simulate_gate(fleet, "DSH-S1-G1").readings
        parts = pd.concat(stream_readings(fleet, "DSH-S1-G1", 13), ignore_index=True)

        pd.testing.assert_frame_equal(parts, whole)


def test_a_run_that_breaks_is_cut_short_and_none_is_made_under_repair() -> None:
    duty = one_run(1, 7200.0, 10.0, 0.5)

    broken = Life([], [Outage("failure", 7300.0, 9000.0, "gear", "gearbox")])
    repaired = Life([], [Outage("failure", 7000.0, 9000.0, "gear", "gearbox")])
    cut = rows_of(duty, 1, made_s(duty, broken))
    none = rows_of(duty, 1, made_s(duty, repaired))

    assert cut.t_s[cut.run == 0].tolist() == [7200, 7220, 7280, 7300]
    assert (none.run == -1).all()
    assert none.t_s.tolist() == np.arange(0, DAY_S, 900).tolist()


def bearing_runs(fleet: Fleet) -> list[pd.DataFrame]:
    """Daily medians of each visible bearing run to failure, from the onset on."""
    out = []
    for gate in fleet.gates:
        weather, duty, _ = live_gate(fleet, gate)
        upkeep = Upkeep(fleet.seed, gate.index, False)
        modes = [MODES["motor_bearing"]]
        life = live(fleet.seed, gate.index, gate.constitution, weather, duty, upkeep, 100.0, modes)
        readings = observe(Scene(fleet, gate, weather, duty, life)).set_index("ts")
        motor = readings[["motor.kurtosis", "motor.acceleration_rms"]].where(readings["motor.kurtosis"].notna())
        for fault in life.episodes:
            if fault.outcome == "failed" and not fault.silent:
                first = fleet.started_at + pd.Timedelta(days=fault.first_day)
                last = fleet.started_at + pd.Timedelta(seconds=fault.end_s)
                out.append(motor[(motor.index >= first) & (motor.index <= last)].resample("D").median())
    return out


def test_kurtosis_peaks_before_the_vibration_does_when_a_bearing_fails() -> None:
    fleet = make_fleet(gates=9, days=500, seed=5, sensor_faults=False, preventive=False)

    runs = [run.rolling(3, min_periods=1).median() for run in bearing_runs(fleet) if len(run) >= 12]

    earlier = [run["motor.kurtosis"].argmax() < run["motor.acceleration_rms"].argmax() for run in runs]
    assert len(earlier) >= 30
    assert np.mean(earlier) >= 0.8


def test_silent_faults_show_in_no_channel() -> None:
    fleet = make_fleet(gates=1, days=300, seed=5, sensor_faults=False, preventive=False)
    gate = fleet.gates[0]
    weather, duty, _ = live_gate(fleet, gate)
    upkeep = Upkeep(fleet.seed, 0, False)
    worn = live(fleet.seed, 0, gate.constitution, weather, duty, upkeep, 400.0, [MODES["gear"]])
    for fault in worn.episodes:
        fault.silent = True

    unseen = observe(Scene(fleet, gate, weather, duty, worn))
    without = observe(Scene(fleet, gate, weather, duty, Life([], worn.outages)))

    assert len(worn.episodes) > 0
    pd.testing.assert_frame_equal(unseen, without)


def test_every_channel_is_declared_and_measured() -> None:
    fleet = make_fleet(gates=12, days=30, seed=5)

    for gate in fleet.gates:
        readings = simulate_gate(fleet, gate.gate_id).readings
        assert list(readings.columns) == ["ts", *channel_keys(gate.hoist)]
        assert readings["ts"].is_monotonic_increasing
        assert readings["ts"].is_unique
        assert readings.notna().any().all()
    assert {gate.hoist for gate in fleet.gates} == {"winch", "screw", "hydraulic"}
