import numpy as np
import pytest

from pipeline.simulator.fleet import channel_keys
from pipeline.simulator.sensor_faults import Scatter, SensorFault, apply_faults, draw_faults, draw_scatter
from pipeline.simulator.streams import Layer, stream
from pipeline.simulator.weather import DAY_S, Floats

KEYS = channel_keys("winch")


def spoiled(fault: SensorFault) -> dict[str, Floats]:
    """Daily readings 10, 11, 12, 13, 14 of every channel, after one fault from day 1 to day 4."""
    t_s = np.arange(5) * float(DAY_S)
    nothing_lost = {key.partition(".")[0]: np.zeros(5, dtype=np.bool_) for key in KEYS}
    values: dict[str, Floats] = {key: np.arange(10.0, 15.0) for key in KEYS}
    apply_faults([fault], Scatter({}, nothing_lost), t_s, values)
    return values


def test_a_drifting_temperature_moves_by_a_quarter_kelvin_a_day() -> None:
    values = spoiled(SensorFault("drift", "motor.winding.temperature", DAY_S, 4 * DAY_S, 0.24))

    assert values["motor.winding.temperature"] == pytest.approx(np.array([10, 11, 12.24, 13.48, 14]))
    assert values["motor.velocity_rms"].tolist() == [10, 11, 12, 13, 14]


def test_a_stuck_sensor_repeats_its_first_value() -> None:
    values = spoiled(SensorFault("stuck", "motor.current", DAY_S, 4 * DAY_S))

    assert values["motor.current"].tolist() == [10, 11, 11, 11, 14]


def test_a_loose_mount_weakens_acceleration_more_than_velocity() -> None:
    values = spoiled(SensorFault("loose_mount", "gearbox", DAY_S, 4 * DAY_S, 0.5))

    assert values["gearbox.acceleration_rms"][2] == pytest.approx(12 * 0.5**1.5)
    assert values["gearbox.velocity_rms"][2] == pytest.approx(12 * 0.5**0.6)
    assert values["motor.velocity_rms"][2] == 12


def test_a_silent_gate_measures_nothing() -> None:
    values = spoiled(SensorFault("dropout", "", DAY_S, 4 * DAY_S))

    assert all(np.isnan(column).tolist() == [False, True, True, True, False] for column in values.values())


def test_faults_come_as_often_as_they_should() -> None:
    days, gates = 720, 150
    faults = [draw_faults(stream(1, Layer.SENSOR, gate, 0), KEYS, days) for gate in range(gates)]
    count = {kind: sum(fault.kind == kind for gate in faults for fault in gate) for kind in ("drift", "loose_mount", "dropout")}

    expected = {"drift": 2 / 700, "loose_mount": 3 / 900, "dropout": 1 / 200}
    for kind, rate in expected.items():
        assert count[kind] == pytest.approx(rate * days * gates, abs=4 * (rate * days * gates) ** 0.5)


def test_spikes_and_lost_readings_are_as_rare_as_they_should() -> None:
    rng = np.random.default_rng(0)

    scatter = draw_scatter(lambda _purpose: rng.random(50_000), KEYS)

    assert np.mean([(factor > 1).mean() for factor in scatter.factor.values()]) == pytest.approx(0.002, rel=0.1)
    assert np.mean([lost.mean() for lost in scatter.lost.values()]) == pytest.approx(0.01, rel=0.1)
