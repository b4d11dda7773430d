"""Drift: the statistics against slow versions and SciPy, the thresholds against fresh fleets, and what is no drift."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from models import drift
from models.drift import BINS, COMPARED, LEVELS, LOOKED_AT, SCORE, UNKNOWN, Compared, Reference

START = datetime(2024, 1, 1, tzinfo=UTC)
OF_GATES, OF_DAYS = 0.8, 0.6
"""Spread among gates that stays, and from day to day: a value is far from independent of yesterday's."""


def draw(n_gates: int, days: int, seed: int, season: float = 0.0, first_day: int = 0, prefix: str = "G") -> pd.DataFrame:
    """Gate-days whose every feature is a gate's own level, a season and a day's news; a third of the gates are hydraulic."""
    rng = np.random.default_rng(seed)
    own = rng.normal(0, OF_GATES, (n_gates, 1, len(LOOKED_AT)))
    values = own + rng.normal(0, OF_DAYS, (n_gates, days, len(LOOKED_AT)))
    values += season * np.sin(2 * np.pi * (first_day + np.arange(days)) / 365)[None, :, None]
    frame = pd.DataFrame(values.reshape(-1, len(LOOKED_AT)), columns=list(LOOKED_AT))
    number = np.repeat(np.arange(n_gates), days)
    frame.loc[number % 3 > 0, [name for name in LOOKED_AT if name.startswith("hydraulic")]] = np.nan
    frame["gate_id"] = [f"{prefix}{n:03d}" for n in number]
    day = pd.date_range(START, periods=first_day + days, freq="D")[first_day:].astype("datetime64[ms, UTC]")
    frame["as_of"] = np.tile(day, n_gates)
    return frame


@pytest.fixture(scope="module")
def reference() -> Reference:
    found = drift.learn(draw(200, 140, seed=1))
    assert found is not None
    return found


def compare(reference: Reference, days: pd.DataFrame) -> dict[str, Compared]:
    """The last week of a fleet, and its weeks before."""
    shown = drift.with_changes(days)
    last = shown[shown["as_of"] > shown["as_of"].max() - timedelta(days=7)] if len(shown) else shown
    return reference.compare_fleet(reference.bins(last), last["gate_id"].to_numpy(dtype=object))


@given(st.lists(st.integers(0, 400), min_size=BINS, max_size=BINS))
def test_the_statistics_are_those_of_their_definitions(counts: list[int]) -> None:
    expected = np.arange(1.0, BINS + 1) / sum(range(1, BINS + 1))
    found = [(n + 0.5) / (sum(counts) + 0.5 * BINS) for n in counts]

    psi, ks = drift.statistics(np.array(counts), expected)

    pairs = [(found[k] + found[k + 1], expected[k] + expected[k + 1]) for k in range(0, BINS, 2)]
    assert psi == pytest.approx(sum((p - q) * math.log(p / q) for p, q in pairs))
    assert ks == pytest.approx(max(abs(sum(found[:k]) - sum(expected[:k])) for k in range(1, BINS + 1)))


def test_the_distance_at_the_edges_is_nearly_scipys() -> None:
    rng = np.random.default_rng(5)
    learnt, shown = rng.normal(0, 1, 20_000), rng.normal(0.3, 1.2, 5_000)
    edges = np.quantile(learnt, np.arange(1, BINS) / BINS)

    _, ks = drift.statistics(np.bincount(np.searchsorted(edges, shown), minlength=BINS), np.full(BINS, 1 / BINS))

    assert ks == pytest.approx(stats.ks_2samp(learnt, shown).statistic, abs=0.01)


@given(st.lists(st.floats(1e-12, 1.0), min_size=1, max_size=40))
def test_what_has_drifted_is_what_benjamini_and_hochberg_say(p: list[float]) -> None:
    found = drift._hochberg([Compared(600, 0.1, 0.1, 0.1, 0.1, one) for one in p] + [Compared(10)])

    adjusted = stats.false_discovery_control(p, method="bh")
    assert [one.drifted for one in found] == [*(bool(q <= 0.05 * (1 + 1e-12)) for q in adjusted), False]


def test_a_quantiles_chance_is_its_level_and_beyond_the_last_it_goes_on_falling() -> None:
    exponential = -np.log(np.array(LEVELS))

    assert [drift._chance(value, exponential) for value in exponential] == pytest.approx([1.0, *LEVELS[1:]])
    assert drift._chance(12.0, exponential) == pytest.approx(math.exp(-12.0))


def test_fleets_like_those_learnt_from_hardly_ever_drift(reference: Reference) -> None:
    fleets = [compare(reference, draw(100, 35, seed=seed, prefix="L")) for seed in range(100, 200)]

    flagged = sum(any(one.drifted for one in fleet.values()) for fleet in fleets)
    singly = np.mean([one.p <= 0.01 for fleet in fleets for one in fleet.values() if one.enough])
    assert flagged <= 10  # 5 of 100 expected; 11 and more have a chance of 1 %
    assert 0.001 < singly < 0.03
    # as if the 700 values were independent, most of these fleets would have drifted
    iid = 1.63 / math.sqrt(700)
    assert np.mean([any(one.ks > iid for one in fleet.values()) for fleet in fleets]) > 0.8


@pytest.mark.parametrize("feature", ["motor_velocity_z", "current_z", SCORE])
def test_half_a_standard_deviation_in_one_feature_is_found_and_named(reference: Reference, feature: str) -> None:
    days = draw(100, 35, seed=7, prefix="L")
    days.loc[days["as_of"] > days["as_of"].max() - timedelta(days=7), feature] += 0.5 * math.hypot(OF_GATES, OF_DAYS)

    found = compare(reference, days)

    drifted = [name for name, one in found.items() if one.drifted]
    assert f"{feature}_change" in drifted
    assert set(drifted) <= {feature, f"{feature}_change"}
    assert found[f"{feature}_change"].psi > found[f"{feature}_change"].psi_usual


def test_a_season_that_was_learnt_is_not_drift() -> None:
    learnt = drift.learn(draw(200, 365, seed=1, season=0.6))
    calm = drift.learn(draw(200, 365, seed=1))
    summer = draw(100, 35, seed=3, season=0.6, first_day=74, prefix="L")
    assert learnt is not None
    assert calm is not None

    assert not any(one.drifted for one in compare(learnt, summer).values())
    assert sum(one.drifted for one in compare(calm, summer).values()) > 10


def test_a_few_values_are_not_compared(reference: Reference) -> None:
    found = compare(reference, draw(100, 35, seed=9, prefix="L"))

    assert {name for name, one in found.items() if not one.enough} == {n for n in COMPARED if n.startswith("hydraulic")}
    assert {one.n for one in found.values()} == {238, 700}
    assert all(math.isnan(one.psi) and not one.drifted for one in found.values() if not one.enough)
    assert not any(one.enough for one in compare(reference, draw(100, 7, seed=9).iloc[:0]).values())


def test_the_gate_that_is_unlike_all_others_is_named(reference: Reference) -> None:
    days = draw(40, 28, seed=11, prefix="L")
    days.loc[days["gate_id"] == "L007", list(LOOKED_AT)] *= 3.0

    def compared(some: pd.DataFrame) -> dict[str, Compared]:
        shown = drift.with_changes(some)
        return reference.compare_gates(reference.bins(shown), shown["gate_id"].to_numpy(dtype=object))

    assert [gate_id for gate_id, one in compared(days).items() if one.drifted] == ["L007"]
    assert not any(one.enough for one in compared(days[days["as_of"] < days["as_of"].min() + timedelta(days=7)]).values())


def test_what_is_not_known_is_in_no_bin(reference: Reference) -> None:
    days = draw(1, 2, seed=1)
    days[LOOKED_AT[0]] = [np.nan, np.inf]

    assert list(reference.bins(drift.with_changes(days))[:, 0]) == [UNKNOWN, UNKNOWN]


def test_a_change_is_against_the_mean_of_the_gates_own_days_from_seven_to_twenty_seven_days_ago() -> None:
    days = draw(3, 60, seed=2).sample(frac=1.0, random_state=1)  # in no order
    days.loc[days["as_of"] < days["as_of"].min() + timedelta(days=30), "motor_velocity_z"] = np.nan

    found = drift.with_changes(days)

    for _, row in found[found["gate_id"] == "G001"].iterrows():
        age_d = (row["as_of"] - days["as_of"]) / timedelta(days=1)
        before = days[(days["gate_id"] == "G001") & (age_d >= 7) & (age_d <= 27)]
        for name in ("motor_velocity_z", SCORE):
            known = before[name].dropna()
            expected = row[name] - known.mean() if len(known) >= 10 else math.nan
            assert row[f"{name}_change"] == pytest.approx(expected, nan_ok=True)


def test_a_reference_comes_back_from_its_file_nearly_as_it_was(reference: Reference) -> None:
    text = reference.to_json()
    again = Reference.from_json(text)

    assert again is not None
    assert len(text) < 100_000
    for name in Reference.__slots__:
        np.testing.assert_allclose(getattr(again, name), getattr(reference, name), rtol=1e-3)
    assert Reference.from_json(text.replace(b"motor_velocity_z", b"motor_speed_z")) is None


@pytest.mark.parametrize(("gates", "days"), [(9, 100), (40, 50)])
def test_too_few_gates_or_weeks_are_no_reference(gates: int, days: int) -> None:
    assert drift.learn(draw(gates, days, seed=1)) is None


def test_the_same_days_make_the_same_reference() -> None:
    first, second = (drift.learn(draw(20, 70, seed=1), seed=4) for _ in range(2))

    assert first is not None
    assert second is not None
    assert first.to_json() == second.to_json()


def test_gate_days_take_one_row_a_gate_and_day_and_the_gates_score() -> None:
    rows = pd.DataFrame(
        {
            "gate_id": ["A", "A", "B"],
            "component": ["brake", "motor", "motor"],
            "as_of": [START] * 3,
            "cycle_days": [60.0, 90.0, 59.0],
            **{name: [3.0, 4.0, 5.0] for name in (*drift.OF_PART, "current_z")},
        }
    )
    forecasts = pd.DataFrame(
        {"gate_id": ["A", "A", "B"], "component": ["", "motor", ""], "as_of": [START] * 3, "p_14d": [0.2, 0.1, np.nan]}
    )

    found = drift.gate_days(rows, forecasts)

    assert found["gate_id"].tolist() == ["A", "B"]
    assert found["motor_velocity_z"].tolist() == pytest.approx([4.0, math.nan], nan_ok=True)  # that of B is young
    assert found["brake_velocity_z"].tolist() == pytest.approx([3.0, math.nan], nan_ok=True)
    assert found["current_z"].tolist() == pytest.approx([4.0, math.nan], nan_ok=True)
    assert found[SCORE].tolist() == pytest.approx([math.log(0.25), math.nan], nan_ok=True)
