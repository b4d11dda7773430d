"""What operators use today, by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.ensemble import IsolationForest

from models import baselines
from models.forecast import COLUMNS, ForecastError
from tests.models import fleet


def rows(**columns: list[float]) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    return pd.DataFrame(
        {
            "gate_id": "G1",
            "component": "motor",
            "as_of": pd.date_range(fleet.START, periods=n, freq="D").astype("datetime64[ms, UTC]"),
            "reason": "",
            "vibration_level_mm_s": 1.0,
            "vibration_dev": 0.0,
            "vibration_slope_14d": 0.0,
            **columns,
        }
    )


def motor_p_14d(forecasts: pd.DataFrame) -> list[float]:
    return forecasts.loc[forecasts["component"] == "motor", "p_14d"].tolist()


def test_the_constant_is_the_chance_of_a_constant_hazard():
    forecasts = baselines.constant(rows(vibration_dev=[0.0, 3.0]), per_day=0.01)

    assert forecasts["component"].tolist() == ["", ""]
    assert forecasts["p_14d"].tolist() == pytest.approx([1 - np.exp(-0.14)] * 2)


def test_at_the_zone_limit_the_score_is_a_half():
    forecasts = baselines.zone_limit(rows(vibration_level_mm_s=[0.9, 4.5, 9.0, np.nan]))

    assert motor_p_14d(forecasts) == pytest.approx([1 / 26, 0.5, 0.8, 0.0])


def test_a_trend_that_reaches_the_limit_in_14_days_scores_a_half():
    limit = np.log(2.5)
    deviation, slope = [limit - 0.14, limit + 0.2, limit, 0.0], [0.01, 0.0, -0.2 / 14, -0.5]
    forecasts = baselines.trend(rows(vibration_dev=deviation, vibration_slope_14d=slope))

    assert motor_p_14d(forecasts) == pytest.approx([0.5, 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1)), 0.0], abs=1e-6)


def test_the_ewma_remembers_a_fifth_at_a_time_and_skips_days_without_verdict():
    frame = rows(vibration_dev=[1.0, 99.0, 0.0])
    frame.loc[1, "reason"] = "idle"

    forecasts = baselines.ewma(frame)

    smooth = (0.8 * 1.0 + 1.0 * 0.0) / (0.8 + 1.0)  # pandas weighs the first value 0.8, the next 1
    expected = [1 / (1 + np.exp(-(level - 0.5) / 0.2)) for level in (1.0, smooth)]
    assert [p for p in motor_p_14d(forecasts) if p == p] == pytest.approx(expected)


def test_the_forest_orders_rows_as_scikit_learn_scores_them(learnt, unseen):
    known = learnt.rows[learnt.rows["reason"] == ""]
    median = known[list(fleet.FEATURES)].median()
    filled = known.fillna(median.to_dict())
    frame = unseen.rows[unseen.rows["reason"] == ""].head(2000).fillna(median.to_dict())
    oracle = IsolationForest(n_estimators=100, random_state=3).fit(filled[list(fleet.FEATURES)].to_numpy()[:20_000])
    odd = -oracle.score_samples(frame[list(fleet.FEATURES)].to_numpy())

    forecasts = baselines.isolation_forest(learnt.rows, fleet.FEATURES, seed=0)(frame)

    found = frame.merge(forecasts, on=["gate_id", "component", "as_of"], how="left")["p_14d"]
    assert spearmanr(odd, found).statistic > 0.9  # two forests drawn apart
    assert ((found >= 0.5) == (odd >= 0.5)).mean() > 0.97


def test_a_forest_needs_a_row_that_can_be_scored(unseen):
    with pytest.raises(ForecastError, match="at least one row"):
        baselines.isolation_forest(unseen.rows.assign(reason="young"), fleet.FEATURES, seed=0)


@pytest.mark.parametrize("name", [*baselines.SCORES, "isolation_forest"])
def test_every_baseline_makes_a_forecast_file_silent_where_the_model_is(name, unseen, learnt):
    frame = unseen.rows[unseen.rows["gate_id"] < "G004"].sample(frac=1, random_state=0)
    forest = baselines.isolation_forest(learnt.rows, fleet.FEATURES, seed=0)

    forecasts = {**baselines.SCORES, "isolation_forest": forest}[name](frame)

    assert tuple(forecasts.columns) == COLUMNS
    parts = forecasts[forecasts["component"] != ""].set_index(["gate_id", "component", "as_of"])["verdict"]
    reasons = frame.set_index(["gate_id", "component", "as_of"])["reason"]
    assert ((parts == "forecast") == (reasons.reindex(parts.index) == "")).all()
    scored = forecasts[forecasts["verdict"] == "forecast"]
    highest = scored[scored["component"] != ""].groupby(["gate_id", "as_of"])["p_14d"].max()
    gates = scored[scored["component"] == ""].set_index(["gate_id", "as_of"])["p_14d"]
    assert gates.equals(highest)
    assert (np.diff(np.stack(scored["curve"]), axis=1) >= 0).all()


def test_a_forecast_does_not_change_with_later_rows(unseen):
    frame = unseen.rows[unseen.rows["gate_id"] == "G001"]
    earlier = frame[frame["as_of"] < frame["as_of"].quantile(0.5)]

    for name, baseline in baselines.SCORES.items():
        kept = baseline(frame).merge(earlier[["as_of"]].drop_duplicates(), on="as_of")
        assert baseline(earlier)["p_14d"].tolist() == pytest.approx(kept["p_14d"].tolist(), nan_ok=True), name
