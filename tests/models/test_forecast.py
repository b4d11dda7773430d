"""Curves that cannot contradict themselves, and probabilities that come true on a fleet whose truth is known."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score

from models.fitting import calibrate, fit
from models.forecast import COLUMNS, Forecaster, ForecastError, feature_matrix
from models.labels import label, outcome
from tests.models import fleet
from tests.models.conftest import SMALL


@pytest.fixture(scope="module")
def sample(unseen):
    """Ten days of every gate, whole."""
    days = sorted(unseen.rows["as_of"].unique())[100:300:20]
    return unseen.rows[unseen.rows["as_of"].isin(days)].reset_index(drop=True)


@pytest.fixture(scope="module")
def forecasts(forecaster, sample):
    return forecaster.predict(sample)


def test_the_forecast_has_the_files_columns_and_one_row_per_gate_and_component(forecasts, sample):
    assert tuple(forecasts.columns) == COLUMNS
    assert len(forecasts) == len(sample) + len(sample[["gate_id", "as_of"]].drop_duplicates())
    assert not forecasts.duplicated(["gate_id", "component", "as_of"]).any()


def test_a_component_row_says_what_it_lost_and_the_gate_row_what_all_of_them_did(forecaster, sample):
    gate_id, as_of = sample["gate_id"].iloc[0], sample["as_of"].iloc[0]
    here = (sample["gate_id"] == gate_id) & (sample["as_of"] == as_of)
    first, second = sample.loc[here, "component"].iloc[:2]
    rows = sample.assign(lost="")
    rows.loc[here & (rows["component"] == second), "lost"] = "b.velocity_rms: stuck; station.ambient_temperature: stale"
    rows.loc[here & (rows["component"] == first), "lost"] = "a.oil.temperature: drift; station.ambient_temperature: stale"

    told = forecaster.predict(rows)
    without = forecaster.predict(sample)

    lost = told[(told["gate_id"] == gate_id) & (told["as_of"] == as_of)].set_index("component")["lost"]
    assert lost[""] == "a.oil.temperature: drift; b.velocity_rms: stuck; station.ambient_temperature: stale"
    assert lost[second] == "b.velocity_rms: stuck; station.ambient_temperature: stale"
    assert (told["lost"] != "").sum() == 3
    assert (without["lost"] == "").all()
    pd.testing.assert_frame_equal(told.drop(columns=["lost", "curve"]), without.drop(columns=["lost", "curve"]))


def test_the_curve_never_falls_and_the_columns_are_read_off_it(forecasts):
    scored = forecasts[forecasts["verdict"] == "forecast"]
    curves = np.stack(scored["curve"])

    assert curves.shape[1] == 21
    assert (np.diff(curves, axis=1) >= 0).all()
    assert ((curves > 0) & (curves < 1)).all()
    for name, day in (("p_7d", 7), ("p_14d", 14), ("p_21d", 21)):
        assert scored[name].tolist() == curves[:, day - 1].tolist()
    for name, level in (("ttf_p10_d", 0.1), ("ttf_p50_d", 0.5), ("ttf_p90_d", 0.9)):
        slow = [next((d + 1 for d in range(21) if curve[d] >= level), np.nan) for curve in curves]
        assert scored[name].tolist() == pytest.approx(slow, nan_ok=True)


def test_the_gate_survives_when_all_components_and_chance_let_it(forecaster, forecasts):
    scored = forecasts[forecasts["verdict"] == "forecast"]
    for _, rows in scored.groupby(["gate_id", "as_of"]):
        parts, gate = rows[rows["component"] != ""], rows[rows["component"] == ""].iloc[0]
        if len(parts) < 3:
            continue
        for day in (0, 6, 13, 20):
            survives = np.exp(-forecaster.sudden_per_day * (day + 1))
            for curve in parts["curve"]:
                survives *= 1 - curve[day]

            assert gate["curve"][day] == pytest.approx(1 - survives, abs=1e-12)
            assert gate["curve"][day] >= max(curve[day] for curve in parts["curve"])


def test_a_component_without_verdict_counts_in_its_gate_with_its_mean_hazard(forecaster, sample):
    whole = sample.groupby(["gate_id", "as_of"])["reason"].transform(lambda reasons: (reasons == "").all())
    first = sample[whole].iloc[0]
    rows = sample[(sample["gate_id"] == first["gate_id"]) & (sample["as_of"] == first["as_of"])].copy()
    rows.loc[rows.index[0], "reason"] = "young"

    gate = forecaster.predict(rows).iloc[0]

    known = forecaster.predict(rows.iloc[1:])
    survives = np.prod([1 - p for p in known.loc[known["component"] != "", "p_14d"]])
    hazard = forecaster.sudden_per_day + forecaster.base_per_day[rows["component"].iloc[0]]
    assert gate["verdict"] == "forecast"
    assert gate["p_14d"] == pytest.approx(1 - survives * np.exp(-14 * hazard))


def test_what_cannot_be_scored_says_why_and_shows_no_number(forecaster, sample):
    rows = sample.head(6).assign(reason=["young", "stale", "stale", "", "idle", "young"])
    rows["gate_id"] = ["A", "A", "A", "B", "B", "C"]
    rows["component"] = ["brake", "gearbox", "motor", "brake", "gearbox", "motor"]
    rows["as_of"] = rows["as_of"].iloc[0]

    found = forecaster.predict(rows).set_index(["gate_id", "component"])

    assert found["reason"].to_dict() == {
        ("A", ""): "stale", ("A", "brake"): "young", ("A", "gearbox"): "stale", ("A", "motor"): "stale",
        ("B", ""): "", ("B", "brake"): "", ("B", "gearbox"): "idle",
        ("C", ""): "young", ("C", "motor"): "young",
    }  # fmt: skip
    silent = found[found["reason"] != ""]
    assert (silent["verdict"] == "no_verdict").all()
    assert silent[["p_7d", "p_14d", "p_21d", "ttf_p10_d", "failure_mode", "failure_mode_share", "curve"]].isna().all(axis=None)


def test_no_rows_make_no_forecast(forecaster, sample):
    assert forecaster.predict(sample.head(0)).empty


@given(
    hnp.arrays(
        np.float64,
        (6, len(fleet.FEATURES)),
        elements=st.one_of(st.floats(-50, 50), st.sampled_from([np.nan, np.inf, -np.inf, 1e300])),
    )
)
@settings(max_examples=25, deadline=None)
def test_wild_features_still_make_a_curve(forecaster, values):
    rows = pd.DataFrame(values, columns=fleet.FEATURES)
    rows["gate_id"], rows["component"], rows["reason"] = "G", [f"c{n}" for n in range(6)], ""
    rows["as_of"] = pd.Timestamp(fleet.START)

    curves = np.stack(forecaster.predict(rows)["curve"])

    assert np.isfinite(curves).all()
    assert (np.diff(curves, axis=1) >= 0).all()
    assert (curves[0] >= curves[1:].max(axis=0)).all()


def test_a_row_is_forecast_the_same_alone_and_among_others(forecaster, sample, forecasts):
    some = sample[sample["gate_id"] == sample["gate_id"].iloc[0]].sample(frac=1, random_state=0)

    alone = forecaster.predict(some)

    among = forecasts[forecasts["gate_id"] == some["gate_id"].iloc[0]]
    assert alone["p_14d"].to_numpy() == pytest.approx(among["p_14d"].to_numpy(), abs=1e-12, nan_ok=True)


def test_the_same_data_and_seed_learn_the_same(learnt, forecaster, sample, forecasts):
    shuffled = learnt.maintenance.sample(frac=1, random_state=0)
    again = fit(learnt.rows, shuffled, learnt.observed_until, features=fleet.FEATURES, seed=0, settings=SMALL)

    assert again.predict(sample)["p_14d"].equals(forecasts["p_14d"])


def test_a_forecaster_is_rebuilt_from_its_manifest_and_parts(forecaster, sample, forecasts):
    stored = json.loads(json.dumps(replace(forecaster, slope=1.2, intercept=-0.1).as_dict()))

    rebuilt = Forecaster.from_dict(stored, forecaster.parts, "v7")

    assert replace(rebuilt, slope=1.0, intercept=0.0, version="").predict(sample)["p_14d"].equals(forecasts["p_14d"])
    assert (rebuilt.slope, rebuilt.intercept) == (1.2, -0.1)
    assert set(rebuilt.predict(sample)["model_version"]) == {"v7"}


def test_a_missing_feature_is_named(forecaster, sample):
    with pytest.raises(ForecastError, match="feature columns are missing: load_7d"):
        forecaster.predict(sample.drop(columns="load_7d"))


def test_features_that_never_varied_or_were_never_known_change_nothing(learnt, forecaster, sample, forecasts):
    # is_screw is constant in the toy fleet: any value of it later is as good as the one seen
    strange = forecaster.predict(sample.assign(is_screw=1.0))
    more = learnt.rows.assign(unknown=np.nan)
    features = (*fleet.FEATURES, "unknown")
    with_unknown = fit(more, learnt.maintenance, learnt.observed_until, features=features, seed=0, settings=SMALL)

    assert strange["p_14d"].equals(forecasts["p_14d"])
    assert with_unknown.predict(sample.assign(unknown=3.0))["p_14d"].equals(forecasts["p_14d"])


def test_too_few_failures_are_refused_with_their_number(learnt):
    quiet = learnt.maintenance[learnt.maintenance["kind"] != "failure"]

    with pytest.raises(ForecastError, match="at least 3 component failures .* got 0"):
        fit(learnt.rows, quiet, learnt.observed_until, features=fleet.FEATURES, seed=0, settings=SMALL)


def test_a_handful_of_failures_is_enough_to_learn_something(learnt, sample):
    gates = sorted(learnt.observed_until)[:8]
    rows = learnt.rows[learnt.rows["gate_id"].isin(gates)]

    small = fit(rows, learnt.maintenance, learnt.observed_until, features=fleet.FEATURES, seed=0, settings=SMALL)
    forecasts = small.predict(sample)

    assert forecasts.loc[forecasts["verdict"] == "forecast", "p_14d"].between(0, 1).all()


def test_hazards_are_events_per_day_at_risk(learnt, forecaster):
    failures = learnt.maintenance[learnt.maintenance["kind"] == "failure"]
    n_days = learnt.rows[["gate_id", "as_of"]].drop_duplicates().shape[0]

    sudden = (failures["component"] == "").sum() / n_days
    motor = (failures["component"] == "motor").sum() / n_days

    assert forecaster.sudden_per_day == pytest.approx(sudden, rel=0.15)
    assert forecaster.base_per_day["motor"] == pytest.approx(motor, rel=0.15)


def test_probabilities_come_true_on_gates_never_seen(forecaster, unseen):
    forecasts = forecaster.predict(unseen.rows)
    gates = forecasts[(forecasts["component"] == "") & (forecasts["verdict"] == "forecast")]
    y = outcome(label(gates, unseen.maintenance, unseen.observed_until), 14)
    p, y = gates["p_14d"].to_numpy()[np.isfinite(y)], y[np.isfinite(y)]

    assert p.mean() == pytest.approx(y.mean(), rel=0.25)
    assert p[p > 0.2].mean() == pytest.approx(y[p > 0.2].mean(), abs=0.15)
    assert average_precision_score(y, p) > 0.5
    assert 1 - ((p - y) ** 2).mean() / (y.mean() * (1 - y.mean())) > 0.3


def test_the_mode_named_before_a_failure_is_mostly_the_right_one(forecaster, unseen):
    labels = label(unseen.rows, unseen.maintenance, unseen.observed_until)
    near = ((unseen.rows["reason"] == "") & (labels["failure_d"] <= 10) & (unseen.rows["component"] == "motor")).to_numpy()
    forecasts = forecaster.predict(unseen.rows[near])

    named = forecasts[forecasts["component"] == "motor"].merge(
        unseen.rows[near][["gate_id", "as_of"]].assign(true=labels.loc[near, "failure_mode"]), on=["gate_id", "as_of"]
    )

    assert set(named["failure_mode"]) <= set(fleet.MODES["motor"])
    assert (named["failure_mode"] == named["true"]).mean() > 0.7  # two modes: guessing names half


def test_a_mode_has_its_share_among_the_modes_of_its_component(forecaster, sample, forecasts):
    model = forecaster.parts["modes"]
    scored = sample[(sample["component"] == "motor") & (sample["reason"] == "")].sort_values(["gate_id", "as_of"])

    told = forecasts[forecasts["verdict"] == "forecast"].set_index("component")[["failure_mode", "failure_mode_share"]]

    expected = []
    for _, row in scored.iterrows():
        z = np.arcsinh((row[list(fleet.FEATURES)].to_numpy(float)[forecaster.parts["varied"]] - forecaster.parts["middle"])
                       / forecaster.parts["width"])  # fmt: skip
        z = np.nan_to_num(np.clip(z, forecaster.parts["least"], forecaster.parts["most"]))
        odds = {
            name: np.exp(weights @ z + intercept)
            for name, weights, intercept in zip(model["names"], model["weights"], model["intercepts"], strict=True)
            if name in fleet.MODES["motor"]
        }
        mode = max(odds, key=lambda name: odds[name])
        expected.append((mode, odds[mode] / sum(odds.values())))
    assert told.loc["motor", "failure_mode"].tolist() == [mode for mode, _ in expected]
    assert told.loc["motor", "failure_mode_share"].tolist() == pytest.approx([share for _, share in expected])
    assert (told.loc["brake", "failure_mode_share"] == 1.0).all()  # only one mode was ever seen of it


def test_a_gate_has_mode_and_share_of_its_most_endangered_component(forecasts):
    for _, rows in forecasts[forecasts["verdict"] == "forecast"].groupby(["gate_id", "as_of"]):
        gate, parts = rows[rows["component"] == ""], rows[rows["component"] != ""]
        leading = parts.loc[parts["p_14d"].idxmax()]

        assert gate["failure_mode"].tolist() == [leading["failure_mode"]]
        assert gate["failure_mode_share"].tolist() == [leading["failure_mode_share"]]


def test_modes_that_nothing_tells_apart_have_no_share(forecaster, sample):
    parts = {name: part for name, part in forecaster.parts.items() if name != "modes"}

    told = replace(forecaster, parts=parts).predict(sample)

    share = told[told["verdict"] == "forecast"].set_index("component")["failure_mode_share"]
    assert share["motor"].isna().all()
    assert (share["brake"] == 1.0).all()


@pytest.mark.parametrize(("n_failures", "towards"), [(4000, "the data"), (1, "leaving it")])
def test_calibration_follows_many_failures_and_distrusts_few(forecaster, n_failures, towards):
    rng = np.random.default_rng(0)
    true = rng.normal(-3, 1.5, 40_000)
    y = (rng.random(40_000) < 1 / (1 + np.exp(-true))).astype(float)
    twisted = (true + 0.5) / 1.3

    found = calibrate(forecaster, twisted[:, None], y[:, None], n_failures)

    expected = (1.3, -0.5) if towards == "the data" else (1.0, 0.0)
    assert (found.slope, found.intercept) == pytest.approx(expected, abs=0.15)


def test_without_failures_calibration_leaves_the_forecaster_alone(forecaster):
    assert calibrate(forecaster, np.zeros((5, 1)), np.zeros((5, 1)), 0) is forecaster


def test_what_is_not_finite_is_unknown():
    rows = pd.DataFrame({"a": [1.0, np.inf], "b": [np.nan, -np.inf]})

    assert np.isnan(feature_matrix(rows, ["a", "b"])).tolist() == [[False, True], [True, True]]
