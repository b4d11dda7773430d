"""Evidence: what a group did to a forecast, against the forecaster asked by hand; what it is compared with."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.explain import GROUPS, contributions, explain, group_of, with_typical
from pipeline.features import FEATURES, Measured

AS_OF = pd.Timestamp("2026-03-01", tz="UTC")
NUMBERS = st.floats(-20, 20).map(lambda value: round(value, 3))


@dataclass
class Linear:
    """A forecaster that adds up weighted features; unknown ones count as nothing."""

    weights: dict[str, float]
    medians: dict[str, float] = field(default_factory=dict)

    def typical(self) -> dict[str, float]:
        return {name: self.medians.get(name, 0.0) for name in self.weights}

    def log_odds_14d(self, rows: pd.DataFrame) -> np.ndarray:
        return sum(weight * rows[name].fillna(0.0).to_numpy(dtype=float) for name, weight in self.weights.items())


def row(component="motor", gate_id="G0", hoist_type="winch", **values):
    keys = {"gate_id": gate_id, "component": component, "as_of": AS_OF, "reason": "", "hoist_type": hoist_type}
    return {**dict.fromkeys(FEATURES, np.nan), **keys, **values}


def test_a_contribution_is_how_much_lower_the_log_odds_were_had_the_group_been_typical():
    forecaster = Linear(
        {
            "velocity_dev": 2.0,
            "motor_velocity_z": 0.1,
            "temperature_dev": 0.3,
            "load_7d": 1.0,
            "brake_peak_z": 0.5,
            "is_motor": 9.0,
        },
        {"velocity_dev": 0.1, "load_7d": 0.5},
    )
    asked = row(velocity_dev=0.6, motor_velocity_z=5.0, temperature_dev=-2.0, load_7d=0.7, brake_peak_z=2.0, is_motor=1.0)

    (found,) = contributions(forecaster, [asked])

    # by hand: 2.0 × (0.6 - 0.1) + 0.1 × 5; 0.3 × -2; 1.0 × (0.7 - 0.5); 0.5 × 2; which machine it is, is no evidence
    expected = {"velocity": 1.5, "temperature": -0.6, "history": 0.2, "others": 1.0}
    assert found == pytest.approx(expected)


def test_what_is_not_known_moved_nothing_and_stays_unknown():
    changed = with_typical(row(velocity_dev=0.6), "velocity", {"velocity_dev": 0.1, "velocity_slope_7d": 0.2})

    assert changed["velocity_dev"] == 0.1
    assert np.isnan(changed["velocity_slope_7d"])
    assert with_typical(row(velocity_dev=0.6), "peak", {"peak_dev": 0.1}) is None


@given(st.lists(NUMBERS, min_size=6, max_size=6, unique=True), st.lists(NUMBERS, max_size=4, unique=True), st.integers(0, 5))
def test_a_group_gives_way_among_the_greatest_of_its_component_and_gate(own, others, which):
    groups = GROUPS[:6]
    others = [value for value in others if value not in own]
    typical = {f"{group}_z": 0.25 for group in groups}

    def ranks(prefix, values):
        top = sorted(values, reverse=True)[:3] + [np.nan] * 3
        return {f"{prefix}_{rank}": top[rank - 1] for rank in (1, 2, 3)}

    asked = row(**{f"{group}_z": z for group, z in zip(groups, own, strict=True)})
    asked |= ranks("own_z", own) | ranks("gate_z", own + others)

    changed = with_typical(asked, groups[which], typical)

    for prefix, values in (("own_z", own), ("gate_z", own + others)):
        top = sorted(values, reverse=True)[:3]
        expected = sorted([0.25 if value == own[which] else value for value in top], reverse=True)
        assert [changed[f"{prefix}_{rank}"] for rank in (1, 2, 3)] == expected


def test_a_forecaster_that_sees_only_the_greatest_still_names_the_group_behind_it():
    forecaster = Linear({"own_z_1": 1.0, "gate_z_1": 1.0, "temperature_z": 0.0, "velocity_z": 0.0})
    asked = row(temperature_z=7.0, velocity_z=1.0, own_z_1=7.0, own_z_2=1.0, gate_z_1=9.0, gate_z_2=7.0, gate_z_3=1.0)

    (found,) = contributions(forecaster, [asked])

    assert found["temperature"] == pytest.approx(6.0)  # own_z_1 falls from 7 to 1
    assert found["velocity"] == 0.0
    assert found["others"] == pytest.approx(2.0)  # gate_z_1 falls from 9 to 7


def test_vibration_is_velocity_where_it_is_measured_and_acceleration_where_not():
    groups = [group_of("vibration_dev", "motor", with_velocity) for with_velocity in (True, False)]

    assert groups == ["velocity", "acceleration"]
    assert {group_of(name, "motor", True) for name in FEATURES} == {*GROUPS, ""}


def peers_of(devs, **kinds):
    return pd.DataFrame([row(gate_id=f"P{n}", velocity_dev=dev, temperature_dev=10 * dev, **kinds) for n, dev in enumerate(devs)])


def test_evidence_is_strongest_first_with_what_it_showed_and_what_peers_show():
    forecaster = Linear({"velocity_dev": 2.0, "temperature_dev": 0.5})
    asked = pd.DataFrame([row(velocity_dev=np.log(1.8), temperature_dev=-4.0)])
    at = (datetime(2026, 2, 26, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC))
    measured = {("G0", "motor"): {"velocity": Measured("motor.velocity_rms:mean", "mm/s", 1.8, 1.0, 1.8, *at)}}
    devs = [-0.2, -0.1, 0.0, 0.1, 0.2]
    strangers = [
        peers_of([5.0] * 9, hoist_type="screw"),
        peers_of([5.0] * 9, component="brake"),
        peers_of([5.0] * 9, reason="idle"),
    ]

    velocity, temperature = explain(forecaster, asked, pd.concat([asked, peers_of(devs), *strangers]), measured)["G0", "motor"]

    assert (velocity.feature, velocity.contribution) == ("motor.velocity", pytest.approx(2 * np.log(1.8)))
    assert (velocity.change, velocity.change_unit, velocity.direction) == (pytest.approx(1.8), "x", "up")
    low, high = np.exp(-0.2) + 0.4 * (np.exp(-0.1) - np.exp(-0.2)), np.exp(0.1) + 0.6 * (np.exp(0.2) - np.exp(0.1))
    assert (velocity.peer_low, velocity.peer_high) == (pytest.approx(low), pytest.approx(high))
    assert (velocity.channel, velocity.unit, velocity.value, velocity.baseline) == ("motor.velocity_rms:mean", "mm/s", 1.8, 1.0)
    assert (velocity.since, velocity.as_of) == at
    assert (temperature.contribution, temperature.change, temperature.change_unit) == (-2.0, -4.0, "K")
    assert (temperature.direction, temperature.peer_low, temperature.peer_high) == ("down", -1.6, 1.6)
    assert temperature.value is None


def test_four_gates_are_too_few_to_say_what_peers_show():
    forecaster = Linear({"velocity_dev": 2.0})

    (item,) = explain(forecaster, pd.DataFrame([row(velocity_dev=0.6)]), peers_of([0.0] * 4), {})["G0", "motor"]

    assert (item.peer_low, item.peer_high) == (None, None)


def test_a_row_without_forecast_has_no_evidence():
    silent = pd.DataFrame([row(velocity_dev=0.6, reason="young")])

    assert explain(Linear({"velocity_dev": 2.0}), silent, silent, {}) == {}


def test_the_learnt_forecaster_is_asked_as_anyone_could_ask_it(forecaster, unseen):
    scored = unseen.rows[(unseen.rows["reason"] == "") & (unseen.rows["component"] == "motor")].iloc[200:260:20]
    middle = dict(zip(np.array(forecaster.features)[forecaster.parts["varied"]], forecaster.parts["middle"], strict=True))

    found = contributions(forecaster, scored.assign(velocity_dev=0.0).to_dict("records"))

    def logit_p_14d(rows):
        p = forecaster.predict(rows).query("component == 'motor'")["p_14d"].to_numpy()
        return np.log(p / (1 - p))

    for group, columns in (
        ("velocity", [name for name in forecaster.features if name.startswith("vibration_")]),
        ("temperature", ["temperature_dev"]),
        ("history", ["load_7d"]),
    ):
        typical = scored.assign(**{name: middle[name] for name in columns}).where(scored.notna(), scored)
        assert [one[group] for one in found] == pytest.approx(logit_p_14d(scored) - logit_p_14d(typical))


def test_log_odds_at_14_days_are_those_of_the_published_probability(forecaster, unseen):
    rows = unseen.rows[unseen.rows["as_of"] == sorted(unseen.rows["as_of"].unique())[200]].sort_values(["gate_id", "component"])
    shifted = replace(forecaster, slope=1.4, intercept=-0.3)

    p = shifted.predict(rows).query("component != ''")["p_14d"].to_numpy()

    assert np.isnan(p).any()
    assert shifted.log_odds_14d(rows) == pytest.approx(np.log(p / (1 - p)), nan_ok=True)
