from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import BadInput
from pipeline.simulator import Fleet, live_gate, make_fleet, simulate_gate
from pipeline.simulator.degradation import MODES, onset_hazard
from pipeline.simulator.publish import fleet_messages
from pipeline.simulator.scenarios import SCENARIOS
from pipeline.simulator.transport import through_uplinks

GATE = "DSH-S1-G1"


def with_and_without(name: str, **settings: object) -> tuple[Fleet, Fleet, pd.Timestamp, pd.Timestamp]:
    """The fleet with the scenario and without, and the scenario's first and last moment."""
    told = {"gates": 3, "days": 366, "seed": 4} | settings
    changed, plain = (make_fleet(scenario=scenario, **told) for scenario in (name, ""))  # type: ignore[arg-type]  # a mixed bag
    window = SCENARIOS[name].window(changed.start, changed.days)
    start = pd.Timestamp(changed.started_at)
    return changed, plain, start + pd.Timedelta(days=window.start), start + pd.Timedelta(days=window.stop)


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in ("new_fleet", "gateway_outage")])
def test_before_a_scenario_begins_every_byte_is_as_without_it(name: str) -> None:
    changed, plain, begins, _ = with_and_without(name)

    for gate_id in changed.gate_ids:
        one, other = (simulate_gate(fleet, gate_id) for fleet in (changed, plain))
        # the air is interpolated between noons, so that a scenario's first midnight makes no step
        noon = begins - pd.Timedelta(hours=12)
        before = [history.readings[history.readings["ts"] < noon] for history in (one, other)]
        pd.testing.assert_frame_equal(*before)
        assert not one.readings.equals(other.readings) or name == "sensor_swap"


def test_a_heat_wave_is_six_kelvin_over_45_days_and_warms_every_point() -> None:
    changed, plain, begins, ends = with_and_without("heat_wave", hazard_scale=0.0)

    assert (begins.date(), (ends - begins).days) == (date(2024, 7, 1), 45)
    warm, cool = (simulate_gate(fleet, GATE).readings.set_index("ts")[begins:ends] for fleet in (changed, plain))
    for channel in [key for key in warm if key.endswith("temperature")]:
        assert warm[channel].mean() - cool[channel].mean() == pytest.approx(6.0, abs=0.9)
    weather, duty, _ = live_gate(changed, changed.gates[0])
    calm = plain.weather(plain.gates[0])
    during = slice(182, 182 + 45)
    for code, expected in (("winding", 2**0.5), ("lubrication", 2**0.3), ("gear", 1.0)):
        hazards = [onset_hazard(MODES[code], changed.gates[0].constitution, w, duty.usage)[during].sum() for w in (weather, calm)]
        assert hazards[0] / hazards[1] == pytest.approx(expected, rel=0.03)


def test_flood_weeks_bring_three_to_five_times_the_duty_and_shake_the_leaf() -> None:
    changed, plain, begins, _ = with_and_without("flood_weeks", gates=24, seed=2)

    assert begins.date() == date(2024, 6, 1)
    span = slice((begins.date() - changed.start).days + 5, (begins.date() - changed.start).days + 28)
    minutes, sudden = [], []
    for gate, other in zip(changed.gates, plain.gates, strict=True):
        weather, duty, _ = live_gate(changed, gate)
        calm_weather, calm, _ = live_gate(plain, other)
        minutes.append((duty.run_minutes[span].sum(), calm.run_minutes[span].sum()))
        sudden.append(
            [
                onset_hazard(MODES["sudden"], gate.constitution, w, d.usage)[span].sum()
                for w, d in ((weather, duty), (calm_weather, calm))
            ]
        )
    more = np.sum(minutes, axis=0)
    assert 2.0 < more[0] / more[1] < 5.0  # June is wet without it, too
    assert np.divide(*np.sum(sudden, axis=0)) > 3.0
    flooded, calm_readings = (simulate_gate(fleet, GATE).readings for fleet in (changed, plain))
    leaf = [
        frame[frame["ts"].between(begins, begins + timedelta(days=28)) & frame["motor.kurtosis"].notna()][
            "leaf.velocity_rms"
        ].median()
        for frame in (flooded, calm_readings)
    ]
    assert leaf[0] > 1.3 * leaf[1]


def test_a_new_fleet_has_other_levels_and_hoists_and_the_same_weather() -> None:
    changed, plain, _, _ = with_and_without("new_fleet", gates=300)

    def share(fleet: Fleet, hoist: str) -> float:
        return float(np.mean([gate.hoist == hoist for gate in fleet.gates]))

    assert share(plain, "winch") == pytest.approx(0.5, abs=0.08)
    assert share(changed, "hydraulic") == pytest.approx(0.5, abs=0.08)
    level = [np.median([gate.baseline["motor.velocity_rms"] for gate in fleet.gates]) for fleet in (changed, plain)]
    assert level[0] / level[1] == pytest.approx(1.8, rel=0.05)
    assert np.array_equal(changed.weather(changed.gates[0]).rain_mm, plain.weather(plain.gates[0]).rain_mm)


def test_a_sensor_swap_steps_the_readings_and_not_the_gate() -> None:
    changed, plain, begins, _ = with_and_without("sensor_swap", gates=12, hazard_scale=0.0, sensor_faults=False)

    seen = set()
    for gate_id in changed.gate_ids:
        one, other = (
            simulate_gate(fleet, gate_id).readings.set_index("ts")[begins + pd.Timedelta(days=15) :] for fleet in (changed, plain)
        )
        moving = other["motor.kurtosis"].notna()
        ratio = {key: (one[key][moving] / other[key][moving]).median() for key in ("motor.velocity_rms", "gearbox.velocity_rms")}
        seen.add(tuple(round(value, 4 if value < 0.1 else 1) for value in ratio.values()))
        rest = one.drop(columns=list(ratio))
        pd.testing.assert_frame_equal(rest, other.drop(columns=list(ratio)))
    assert seen == {(0.001, 1.0), (1.0, 1.6), (1.0, 1.0)}


def test_new_firmware_samples_once_in_ten_minutes_and_drops_kurtosis() -> None:
    changed, plain, begins, _ = with_and_without("firmware")

    new, old = (simulate_gate(fleet, GATE).readings for fleet in (changed, plain))
    new, old = (frame[frame["ts"] >= begins] for frame in (new, old))
    assert new["motor.kurtosis"].notna().sum() == new["motor.crest_factor"].notna().sum() == 0
    samples = [int((frame["motor.moving"] == 1).sum()) for frame in (new, old)]
    assert samples[0] < 0.35 * samples[1]  # each run keeps its start and its first sample


def test_a_drought_leaves_the_weekly_exercise_and_corrodes() -> None:
    changed, _, begins, _ = with_and_without("drought")

    weather, duty, _ = live_gate(changed, changed.gates[0])
    span = slice((begins.date() - changed.start).days, changed.days)
    assert weather.rain_mm[span].sum() == 0.0
    assert duty.runs[span].sum() == pytest.approx((span.stop - span.start) / 7, abs=1)
    assert duty.runs[span].max() == 1
    fleets = [
        make_fleet(gates=150, days=730, seed=4, scenario=name, preventive=False, hazard_scale=3.0) for name in ("drought", "")
    ]
    per_use = []
    for fleet in fleets:
        onsets = use = 0.0
        for gate in fleet.gates:
            _, duty, life = live_gate(fleet, gate)
            onsets += sum(fault.mode.code == "guide_seizure" and fault.first_day > 365 for fault in life.episodes)
            use += duty.usage[365:].sum()
        per_use.append(onsets / use)
    assert per_use[0] / per_use[1] > 1.4  # twice, less what floods add to the other


def test_a_repair_wave_renews_every_gate_within_a_month() -> None:
    changed, _, begins, ends = with_and_without("repair_wave", gates=9, hazard_scale=4.0)

    for gate_id in changed.gate_ids:
        history = simulate_gate(changed, gate_id)
        overhauls = [record for record in history.maintenance if record["note"] == "overhaul of the whole gate"]
        assert [(record["kind"], record["component"]) for record in overhauls] == [("repair", "")]
        assert begins <= overhauls[0]["started_at"] < ends
        truth = history.truth.to_pandas()
        standing = truth[truth["day"] == pd.Timestamp(overhauls[0]["started_at"]).ceil("D")]
        assert standing.empty


def test_a_gateway_outage_makes_three_days_late_and_loses_nothing() -> None:
    changed, plain, begins, ends = with_and_without("gateway_outage", days=20, transport_faults=False)

    readings = {gate_id: simulate_gate(plain, gate_id).readings for gate_id in plain.gate_ids}
    pd.testing.assert_frame_equal(readings[GATE], simulate_gate(changed, GATE).readings)
    on_time = list(through_uplinks(plain, fleet_messages(plain, readings))["DSH-S1"].messages)
    late = list(through_uplinks(changed, fleet_messages(changed, readings))["DSH-S1"].messages)

    assert sorted(m.payload for m in late) == sorted(m.payload for m in on_time)
    first_ms, last_ms = begins.value // 10**6, ends.value // 10**6
    assert not [m for m in late if first_ms <= m.due_ms < last_ms]
    assert len([m for m in late if m.due_ms == last_ms]) >= len([m for m in on_time if first_ms <= m.due_ms < last_ms]) > 100


def test_an_unknown_scenario_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(BadInput, match=r"must be one of heat_wave, .*; got 'ice_age'"):
        make_fleet(gates=1, days=10, seed=1, scenario="ice_age")
