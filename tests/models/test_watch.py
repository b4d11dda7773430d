"""The achieved rate of false alarms: by hand, and against a replay of the same forecasts."""

from datetime import UTC, datetime, timedelta
from math import exp, factorial

import pandas as pd
import pytest

from models.labels import FAR_MS, History
from models.policy import Policy, lower_bound_per_year
from models.watch import AlarmRate, Case, alarm_rate
from tests.models.test_policy import DAY0, log, noisy_fleet

NOW = DAY0 + timedelta(days=500)


def at(day: float) -> datetime:
    return DAY0 + timedelta(days=day)


def rate(cases: list[Case], *records: tuple[str, str, str, float], gate_days: int = 3650, **known: float) -> AlarmRate:
    until = {gate_id: at(day) for gate_id, day in known.items()}
    return alarm_rate(cases, History(log(*records)), until, gate_days=gate_days, as_of=NOW, budget_per_gate_year=0.2)


def case(opened: float, closed: float | None, gate_id: str = "G1", component: str = "motor") -> Case:
    return Case(gate_id, component, at(opened), None if closed is None else at(closed))


@pytest.mark.parametrize(
    ("cases", "records", "expected"),
    [
        pytest.param([case(300, 310)], [], 1, id="nothing followed"),
        pytest.param([case(300, 360)], [], 2, id="60 days cost two"),
        pytest.param([case(430, None)], [], 2, id="open for 70 days: whole months only"),
        pytest.param([case(480, None)], [], 0, id="too young to judge"),
        pytest.param([case(465, 470)], [], 1, id="28 days and a week to hand in the record"),
        pytest.param([case(466, 471)], [], 0, id="a day less"),
        pytest.param([case(300, 310)], [("G1", "brake", "failure", 320)], 0, id="a failure of the gate makes it true"),
        pytest.param([case(300, 310)], [("G1", "motor", "repair", 305)], 0, id="a repair: nobody can say"),
        pytest.param([case(300, 310)], [("G1", "brake", "repair", 305)], 1, id="a repair elsewhere proves nothing"),
        pytest.param([case(300, 310), case(305, 320, component="brake")], [], 1, id="one alarm of two components"),
        pytest.param([case(300, 310), case(305, 320, gate_id="G2")], [], 2, id="two gates"),
        pytest.param([case(100, 120)], [], 0, id="more than a year ago"),
        pytest.param([case(100, 220)], [], 2, id="began earlier: the months within the year count"),
    ],
)
def test_what_cases_cost_by_hand(cases, records, expected):
    assert rate(cases, *records).false_alarms == expected


def test_a_gate_that_fell_silent_is_judged_only_as_far_as_it_is_known():
    assert rate([case(300, None)], G1=320.0).false_alarms == 0
    assert rate([case(300, None)], G1=330.0).false_alarms == 1


def test_the_years_are_those_of_the_gate_days_watched():
    found = rate([case(300, 310)], gate_days=1461)

    assert (found.gate_years, found.per_gate_year) == (4.0, 0.25)


def test_live_counting_agrees_with_the_replay_of_the_same_forecasts():
    replay, policy = noisy_fleet(40, 350, seed=4), Policy(0.04)
    cases = [
        Case(alarm.gate_id, component, moment(alarm.started_ms), None if alarm.ended_ms == FAR_MS else moment(alarm.ended_ms))
        for gate_id in replay.gate_ids
        for alarm in replay.alarms(policy, gate_id)
        for component in alarm.components
    ]

    found = alarm_rate(
        cases,
        replay.history,
        {},
        gate_days=round(replay.gate_years * 365.25),
        as_of=at(357),  # by then, all that the replay can judge has matured
        budget_per_gate_year=0.2,
    )

    assert found.false_alarms == replay.false_alarms(policy) > 10
    assert found.gate_years == pytest.approx(replay.gate_years)


def moment(epoch_ms: int) -> datetime:
    return pd.Timestamp(epoch_ms, unit="ms", tz=UTC).to_pydatetime()


@pytest.mark.parametrize(("false_alarms", "gate_years"), [(1, 2.0), (3, 12.0), (17, 60.0)])
def test_the_lower_bound_is_the_rate_that_makes_so_many_alarms_a_one_in_ten_event(false_alarms, gate_years):
    mean = lower_bound_per_year(false_alarms, gate_years) * gate_years

    assert 1 - sum(exp(-mean) * mean**k / factorial(k) for k in range(false_alarms)) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("false_alarms", "gate_years", "over", "within"),
    [
        (0, 0.0, False, True),
        (4, 20.0, False, True),
        (5, 20.0, False, False),
        (7, 20.0, False, False),
        (8, 20.0, True, False),
    ],
)
def test_over_budget_is_proven_and_within_is_counted(false_alarms, gate_years, over, within):
    found = AlarmRate(NOW, false_alarms, gate_years, budget_per_gate_year=0.2)

    assert (found.is_over_budget, found.is_within_budget) == (over, within)
