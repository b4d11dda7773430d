from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from pipeline.simulator import live_gate, make_fleet
from pipeline.simulator.degradation import (
    ENVIRONMENT,
    HOISTS,
    MODES,
    SUDDEN,
    Constitution,
    Life,
    Mode,
    live,
    modes_of,
    onset_hazard,
    severity,
)
from pipeline.simulator.duty import Duty
from pipeline.simulator.maintenance import Upkeep
from pipeline.simulator.weather import DAY_S, Weather
from tests.oracles import failure_probability


def frozen(days: int) -> tuple[Weather, Duty]:
    """Dry weather of 30 °C, usage 1 on every day, and no operation that could break a worn part on demand."""
    nothing, none = np.zeros(days), np.zeros(0)
    at_once = np.zeros(0, dtype=np.int64)
    duty = Duty(
        at_once, at_once, none, none, none, none, none, nothing.astype(np.int64), np.full(days, 28.0), np.full(days, 0.55)
    )
    return Weather(np.full(days, 30.0), nothing, nothing), duty


def lives(modes: Sequence[Mode], days: int, gates: int, hazard_scale: float) -> list[Life]:
    weather, duty = frozen(days)
    gate = Constitution("winch", 1.0, dict.fromkeys(MODES, 1.0), 15.0)
    return [live(7, index, gate, weather, duty, Upkeep(7, index, False), hazard_scale, modes) for index in range(gates)]


@pytest.mark.parametrize("code", [code for code in MODES if code != SUDDEN])
def test_times_from_onset_to_failure_follow_the_closed_form(code: str) -> None:
    days, mode = 4000, MODES[code]
    rng = np.random.default_rng(0)

    placed = []
    for life in lives([mode], days, gates=8, hazard_scale=300.0):
        for fault in life.episodes:
            # a fault of the first half has had 2,000 days to fail: nearly none is cut off by the end
            if fault.outcome == "failed" and fault.first_day < days / 2:
                took_d = int(fault.end_s // DAY_S) - fault.first_day + 1
                usages = np.array([took_d - 1.0, took_d, 1e9])
                before, after, ever = failure_probability(mode, mode.starts_at, fault.tau_d, usages)
                placed.append(rng.uniform(before, after) / ever)  # failure is seen by whole days; some brakes free themselves

    assert len(placed) > 80
    assert stats.kstest(placed, "uniform").pvalue > 0.001  # eleven modes are tried


def test_the_closed_form_is_the_chance_that_summed_gamma_steps_reach_one() -> None:
    mode, rng = MODES["gear"], np.random.default_rng(0)
    c2 = mode.spread**2

    steps = rng.gamma(1.0 / (16.0 * c2), c2, (40_000, 10)).sum(axis=1)

    assert failure_probability(mode, 0.4, 16.0, 10.0) == pytest.approx((steps >= 0.6).mean(), abs=0.01)


@pytest.mark.parametrize("z", [0.1, 0.4])
def test_the_closed_form_of_a_dragging_brake_is_the_chance_to_reach_one_before_it_frees_itself(z: float) -> None:
    mode, rng, tau_d, steps = MODES["brake_drag"], np.random.default_rng(0), 16.0, 4000
    # tiny steps, each looked at: what crosses between two of them is 0.583 of a step's spread (Siegmund 1979)
    dt = 12.0 / steps
    spread = mode.spread * (dt / tau_d) ** 0.5
    position, failed, alive = np.full(4000, z), np.zeros(4000, dtype=np.bool_), np.ones(4000, dtype=np.bool_)
    for _ in range(steps):
        position += dt / tau_d + spread * rng.normal(size=4000)
        failed |= alive & (position >= 1.0 - 0.583 * spread)
        alive &= (position > 0.583 * spread) & ~failed

    assert failure_probability(mode, z, tau_d, 12.0) == pytest.approx(failed.mean(), abs=0.025)


def test_a_brake_frees_itself_as_often_as_a_walk_between_two_barriers() -> None:
    mode = MODES["brake_drag"]
    faults = [fault for life in lives([mode], 4000, gates=8, hazard_scale=100.0) for fault in life.episodes]
    ended = [fault.outcome for fault in faults if fault.outcome]

    # Wiener process of drift 1 and variance c², from 0.1, between 0 and 1 (Cox and Miller, section 2.4)
    c2 = mode.spread**2
    freed = (np.exp(-2 * 0.1 / c2) - np.exp(-2 / c2)) / (1 - np.exp(-2 / c2))
    assert np.mean([outcome == "healed" for outcome in ended]) == pytest.approx(freed, abs=3 * (freed / len(ended)) ** 0.5)


def test_onsets_come_as_often_as_the_hazard_says() -> None:
    mode = MODES["seal_wear"]

    onsets = sum(len(life.episodes) for life in lives([mode], 3650, gates=40, hazard_scale=1.0))

    # 400 gate-years at 0.06, less the time a fault already stands: some 20 % of it with a mean life of 72 days
    assert onsets == pytest.approx(400 * 0.06, abs=3 * (400 * 0.06) ** 0.5)


def test_heat_floods_and_rain_raise_only_the_modes_they_should() -> None:
    days = 3
    calm = Weather(np.full(days, 30.0), np.zeros(days), np.zeros(days))
    storm = Weather(np.full(days, 42.0), np.full(days, 50.0), np.full(days, 2.0))
    gate = Constitution("winch", 2.0, dict.fromkeys(MODES, 0.5), 15.0)

    ratio = {
        code: onset_hazard(mode, gate, storm, np.ones(days))[0] / onset_hazard(mode, gate, calm, np.ones(days))[0]
        for code, mode in MODES.items()
    }

    assert {code: value for code, value in ratio.items() if value != 1.0} == pytest.approx(
        {
            "lubrication": 2**0.6,
            "misalignment": 2.0,
            "guide_seizure": 2.0,
            "winding": 3.0,
            SUDDEN: (0.6 + 2.4 + 0.3) / 0.6,
        }
    )
    assert set(ENVIRONMENT) < set(MODES)
    assert onset_hazard(MODES["gear"], gate, calm, np.ones(days))[0] == pytest.approx(0.06 / 365)


def test_starved_lubrication_starts_bearing_damage_three_times_as_often() -> None:
    days = 3000
    # days without bearing damage and outage, and the onsets on them: lubrication past half way (1) or not (0)
    exposed, onsets = [0, 0], [0, 0]
    for life in lives([MODES["lubrication"], MODES["motor_bearing"]], days, gates=40, hazard_scale=30.0):
        dry, open_to_onset = np.zeros(days + 1, dtype=np.int64), np.ones(days + 1, dtype=np.bool_)
        for outage in life.outages:
            open_to_onset[int(outage.start_s // DAY_S) : int(outage.end_s // DAY_S) + 1] = False
        for fault in life.episodes:
            span = slice(fault.first_day, fault.first_day + len(fault.z))
            if fault.mode.code == "lubrication":
                dry[span] = np.array(fault.z)[: len(dry[span])] > 0.5
            else:
                open_to_onset[span] = False
        for fault in life.episodes:
            if fault.mode.code == "motor_bearing":
                onsets[dry[fault.first_day - 1]] += 1
        for state in (0, 1):
            exposed[state] += int((open_to_onset & (dry == state)).sum())

    ratio = (onsets[1] / exposed[1]) / (onsets[0] / exposed[0])
    assert ratio == pytest.approx(3.0, rel=0.25)


def test_wear_ends_at_one_or_at_a_repair_and_only_a_brake_frees_itself() -> None:
    fleet = make_fleet(gates=12, days=720, seed=9, hazard_scale=12.0)
    outcomes: Counter[str] = Counter()
    for gate in fleet.gates:
        _, _, life = live_gate(fleet, gate)
        ends = {outage.start_s for outage in life.outages if outage.kind != "inspection"}
        for fault in life.episodes:
            outcomes[fault.outcome] += 1
            assert fault.mode.heals or (np.diff(fault.z) >= 0).all()
            assert fault.mode.starts_at <= fault.z[0] <= fault.mode.starts_at + 0.1
            assert min(fault.z) >= 0.0
            assert max(fault.z) < 1.0
            assert (fault.end_s in ends) == (fault.outcome in ("failed", "repaired"))
            assert fault.outcome != "healed" or fault.mode.code == "brake_drag"

    assert set(outcomes) == {"failed", "repaired", "healed", ""}


def test_a_gate_that_is_down_does_not_fail_again() -> None:
    fleet = make_fleet(gates=12, days=720, seed=9, hazard_scale=8.0)

    for gate in fleet.gates:
        failures = live_gate(fleet, gate)[2].failures
        for earlier, later in pairwise(failures):
            assert later.start_s > earlier.end_s > earlier.start_s


def test_each_hoist_has_its_own_parts() -> None:
    own = {hoist: {mode.component for mode in modes_of(hoist)} for hoist in HOISTS}

    common = {"motor", "gearbox", "brake", "leaf", ""}
    assert own == {
        "winch": common | {"drum"},
        "screw": common | {"screw"},
        "hydraulic": common | {"hydraulic"},
    }


def test_severity_is_convex_and_reaches_one() -> None:
    z = np.linspace(0, 1, 11)

    for code, mode in MODES.items():
        if code != SUDDEN:
            s = severity(mode, z)
            assert s[0] == 0.0
            assert s[-1] == pytest.approx(1.0)
            assert (np.diff(s, 2) > 0).all()


def test_the_fleet_fails_about_as_often_and_as_unseen_as_it_should() -> None:
    fleet = make_fleet(gates=180, days=1095, seed=3)
    failed: Counter[str] = Counter()
    unseen, short, runs_to_failure = 0, 0, 0
    for gate in fleet.gates:
        _, _, life = live_gate(fleet, gate)
        failed.update(outage.mode for outage in life.failures)
        for fault in life.episodes:
            if fault.outcome == "failed":
                unseen += fault.silent
                runs_to_failure += 1
                short += fault.end_s / DAY_S - fault.first_day < 7
    total = sum(failed.values())

    assert total / (180 * 3) == pytest.approx(0.8, rel=0.15)
    assert 0.20 <= (unseen + failed[SUDDEN]) / total <= 0.30
    assert 0.15 <= (short + failed[SUDDEN]) / total <= 0.25
    assert total == runs_to_failure + failed[SUDDEN]
    assert set(failed) == set(MODES)
    assert max(failed.values()) < 0.25 * total
