import numpy as np
import pytest

from pipeline.simulator import live_gate, make_fleet
from pipeline.simulator.duty import Calling, Duty, make_duty, opening_after
from pipeline.simulator.streams import Layer, stream
from pipeline.simulator.weather import DAY_S, Weather


@pytest.fixture(scope="module")
def duties() -> list[Duty]:
    fleet = make_fleet(gates=300, days=366, seed=2, hazard_scale=0.0)
    return [live_gate(fleet, gate)[1] for gate in fleet.gates]


def test_gates_move_as_often_and_as_long_as_gates_do(duties: list[Duty]) -> None:
    assert np.mean([duty.runs.mean() for duty in duties]) == pytest.approx(3.3, rel=0.15)
    assert np.mean([duty.run_minutes.mean() for duty in duties]) == pytest.approx(30, rel=0.15)
    assert np.mean([duty.usage.mean() for duty in duties]) == pytest.approx(1.06, rel=0.1)
    assert 0.06 <= np.mean([(duty.runs == 0).mean() for duty in duties]) <= 0.18


def test_no_gate_stands_still_for_more_than_a_week_and_no_two_runs_overlap(duties: list[Duty]) -> None:
    for duty in duties:
        still = np.diff(np.concatenate([[-1], np.flatnonzero(duty.runs > 0), [len(duty.runs)]]))
        end_s = duty.start_s + duty.duration_s

        assert still.max() <= 7
        assert (duty.start_s[1:] > end_s[:-1] + 60).all()
        assert (end_s // DAY_S == duty.day).all()


def test_each_role_moves_as_its_water_asks() -> None:
    fleet = make_fleet(gates=150, days=730, seed=2, hazard_scale=0.0)
    a_day: dict[str, list[float]] = {"regulating": [], "flood": [], "exercised": []}
    in_flood, in_dry = [], []
    for gate in fleet.gates:
        weather, duty, _ = live_gate(fleet, gate)
        a_day[gate.calling.role].append(float(duty.runs.mean()))
        if gate.calling.role == "flood":
            in_flood.append(duty.runs[weather.flood > 1.0].mean())
            in_dry.append(duty.runs[weather.flood < 0.1].mean())

    assert 2.5 < np.mean(a_day["regulating"]) < 4.5
    assert np.mean(a_day["flood"]) < 1.0
    assert set(np.round(a_day["exercised"], 2)) == {0.14}  # once a week
    assert np.mean(in_flood) > 3 * np.mean(in_dry)


def test_more_rain_on_some_days_leaves_the_runs_of_every_other_day_alone() -> None:
    dry, wet = np.zeros(60), np.where(np.arange(60) == 30, 3.0, 0.0)
    calling = Calling("regulating", 2.0, 1.1, 0, 4.0, 0.5)

    both = [make_duty(stream(1, Layer.DUTY, 0), calling, Weather(np.full(60, 20.0), dry, flood)) for flood in (dry, wet)]

    for field in ("number", "start_s", "duration_s", "load", "stops"):
        left, right = (getattr(duty, field)[duty.day != 30] for duty in both)
        assert np.array_equal(left, right)
    assert both[1].runs[30] > both[0].runs[30]


def test_a_failure_at_a_share_of_the_days_running_time_falls_into_that_run() -> None:
    def per_run(*values: float) -> np.ndarray:
        return np.array(values)

    duty = Duty(
        number=np.array([0, 1]),
        day=np.array([0, 0]),
        start_s=per_run(1000.0, 5000.0),
        duration_s=per_run(600.0, 200.0),
        load=per_run(0.5, 0.5),
        aim_m=per_run(1.0, 2.0),
        stops=per_run(1.0, 1.0),
        runs=np.array([2, 0]),
        run_minutes=per_run(800 / 60, 0.0),
        day_load=per_run(0.5, 0.55),
    )

    assert duty.instant_s(0, 0.5) == 1000 + 400
    assert duty.instant_s(0, 0.9) == 5000 + 120
    assert duty.instant_s(1, 0.25) == DAY_S * 1.25


def test_a_leaf_turns_at_the_ends_of_its_travel() -> None:
    calling = Calling(role="regulating", runs_per_day=1.0, flood_gain=1.1, exercise_weekday=0, travel_m=4.0, speed_m_min=0.5)

    reached = opening_after(calling, np.array([3.0, 3.0, 1.0]), np.array([1.0, 1.0, -1.0]), np.array([60.0, 240.0, 240.0]))

    assert reached.tolist() == [3.5, 3.0, 1.0]
