"""Figures of a forecast file: by hand on small files, and against scikit-learn."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss

from models import baselines
from models.evaluate import BINS, COMPARED, EvaluationError, compare, evaluate, table
from models.labels import label, outcome
from models.policy import Policy

DAY0 = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = Policy(open_at=0.5)


def log(*records: tuple[str, str, str, float]) -> pd.DataFrame:
    frame = pd.DataFrame(records, columns=["gate_id", "component", "kind", "day"])
    frame["started_at"] = pd.to_datetime([DAY0 + timedelta(days=d) for d in frame["day"]], utc=True)
    frame["ended_at"] = frame["started_at"] + timedelta(hours=2)
    return frame


def file(series: dict[tuple[str, str], dict[int, float]], n_days: int = 200) -> pd.DataFrame:
    """A forecast file: every unit 0.01 each day, but for the days given; gate rows are the highest of their components."""
    rows = [
        (gate_id, component, DAY0 + timedelta(days=day), days.get(day, 0.01))
        for (gate_id, component), days in series.items()
        for day in range(n_days)
    ]
    parts = pd.DataFrame(rows, columns=["gate_id", "component", "as_of", "p_14d"])
    gates = parts.groupby(["gate_id", "as_of"], as_index=False)["p_14d"].max().assign(component="")
    frame = pd.concat([parts, gates], ignore_index=True)
    return frame.assign(p_7d=frame["p_14d"] / 2, verdict="forecast", reason="", model_version="hand")


def high(first: int, last: int) -> dict[int, float]:
    return dict.fromkeys(range(first, last + 1), 0.9)


def until(*gate_ids: str, day: int = 200) -> dict[str, datetime]:
    return {gate_id: DAY0 + timedelta(days=day) for gate_id in gate_ids}


@pytest.mark.parametrize(
    ("over", "records", "lead_d", "useful", "early"),
    [
        # the second day over opens the case; the lead runs from its as_of to the failure
        pytest.param(high(90, 100), [("G1", "motor", "failure", 100.5)], 9.5, 1, 1, id="nine and a half days"),
        pytest.param(high(93, 100), [("G1", "motor", "failure", 101.0)], 7.0, 1, 1, id="seven days are enough"),
        pytest.param(high(93, 100), [("G1", "motor", "failure", 100.9)], 6.9, 0, 0, id="a little less is not"),
        pytest.param(high(79, 101), [("G1", "motor", "failure", 101.0)], 21.0, 1, 1, id="21 days are still useful"),
        pytest.param(high(70, 101), [("G1", "motor", "failure", 101.0)], 30.0, 0, 1, id="earlier is early"),
        pytest.param(high(70, 76), [("G1", "motor", "failure", 101.0)], 30.0, 0, 1, id="closed 20 days before: it counts"),
        pytest.param(high(68, 74), [("G1", "motor", "failure", 101.0)], None, 0, 0, id="closed 22 days before: it does not"),
        pytest.param(high(101, 105), [("G1", "motor", "failure", 101.0)], None, 0, 0, id="afterwards is no warning"),
        pytest.param({}, [("G1", "", "failure", 101.0)], None, 0, 0, id="a sudden one is in the denominator"),
        pytest.param(high(90, 100), [("G1", "", "failure", 101.0)], 10.0, 1, 1, id="a gate in alarm is warned of any failure"),
    ],
)
def test_lead_time_by_hand(over, records, lead_d, useful, early):
    report = evaluate(file({("G1", "motor"): over}), log(*records), until("G1"), policy=POLICY, resamples=10)

    assert report["counts"]["evaluable_failures"] == 1
    assert report["figures"]["lead_time_median_d"]["value"] == pytest.approx(lead_d)
    assert report["counts"]["useful_warnings"] == useful
    assert report["counts"]["warnings_7_days_or_more_ahead"] == early


@pytest.mark.parametrize(
    ("records", "evaluable"),
    [
        ([("G1", "motor", "failure", 31)], 1),
        ([("G1", "motor", "failure", 30.9)], 0),
        ([("G1", "motor", "repair", 50), ("G1", "motor", "failure", 80)], 0),
        ([("G1", "motor", "repair", 50), ("G1", "motor", "failure", 82)], 1),
        ([("G1", "brake", "repair", 50), ("G1", "motor", "failure", 80)], 1),
        ([("G1", "", "repair", 50), ("G1", "motor", "failure", 80)], 0),
        ([("G1", "motor", "failure", 199.9)], 1),
        ([("G1", "motor", "failure", 200.1)], 0),
        ([("G1", "motor", "repair", 50), ("G1", "", "failure", 60)], 1),
    ],
)
def test_a_failure_counts_when_it_was_watched_for_31_days(records, evaluable):
    series = {("G1", "motor"): {}, ("G1", "brake"): {}}
    report = evaluate(file(series), log(*records), until("G1", day=230), policy=POLICY, resamples=10)

    assert report["counts"]["evaluable_failures"] == evaluable


def test_false_alarms_precision_and_shares_by_hand():
    series = {
        ("G1", "motor"): high(90, 100),  # true: failure on day 101
        ("G2", "motor"): high(40, 120),  # open from 41 to 125: 84 days, three false alarms
        ("G3", "motor"): high(60, 70),  # the motor is replaced on day 75: nobody knows
        ("G4", "motor"): {},
    }
    records = log(("G1", "motor", "failure", 101.0), ("G3", "motor", "replacement", 75.5), ("G4", "motor", "failure", 150.0))

    report = evaluate(file(series), records, until("G1", "G2", "G3", "G4"), policy=POLICY, resamples=50)

    figures = {name: figure["value"] for name, figure in report["figures"].items()}
    assert figures["false_alarms_per_gate_year"] == pytest.approx(3 / (4 * 173 / 365.25))  # days 0 to 172 of 200
    assert (figures["useful_share"], figures["early_share"], figures["warned_share"]) == (0.5, 0.5, 0.5)
    assert figures["alarm_precision"] == 0.5
    assert report["counts"] | {"alarms": 3, "true_alarms": 1, "false_alarms": 3, "undecided_alarms": 1} == report["counts"]
    assert report["by_component"] == {"motor": {"failures": 2, "useful": 1, "early": 1}}


def test_failures_without_verdict_are_missed_and_the_silence_is_counted():
    forecasts = file({("G1", "motor"): high(90, 100)})
    silent = forecasts["as_of"].between(DAY0 + timedelta(days=60), DAY0 + timedelta(days=109))
    forecasts.loc[silent, ["p_7d", "p_14d"]] = np.nan
    forecasts.loc[silent, "verdict"] = "no_verdict"

    report = evaluate(forecasts, log(("G1", "motor", "failure", 101.0)), until("G1"), policy=POLICY, resamples=10)

    assert report["figures"]["useful_share"]["value"] == 0
    assert report["figures"]["no_verdict_share"]["value"] == 50 / 200


def of_modes(records: pd.DataFrame, *modes: str) -> pd.DataFrame:
    return records.assign(failure_mode=modes)


def test_modes_and_hoists_by_hand():
    series = {
        ("G1", "motor"): high(90, 100),
        ("G2", "motor"): {},
        ("G3", "brake"): high(70, 101),
        ("G4", "brake"): high(40, 50),  # a false alarm
    }
    failures = log(("G1", "motor", "failure", 101.0), ("G2", "motor", "failure", 150.0), ("G3", "brake", "failure", 101.0))
    hoists = {"G1": "winch", "G2": "screw", "G3": "winch", "G4": "screw"}

    report = evaluate(
        file(series),
        of_modes(failures, "motor_bearing", "motor_bearing", "brake_drag"),
        until(*hoists),
        policy=POLICY,
        hoists=hoists,
        resamples=50,
    )

    def shares(row):
        return [row[name]["value"] for name in ("useful_share", "early_share", "warned_share")]

    modes, winch, screw = report["by_mode"], report["by_hoist"]["winch"], report["by_hoist"]["screw"]
    assert {mode: row["failures"] for mode, row in modes.items()} == {"brake_drag": 1, "motor_bearing": 2}
    assert shares(modes["motor_bearing"]) == [0.5, 0.5, 0.5]
    assert shares(modes["brake_drag"]) == [0.0, 1.0, 1.0]  # 30 days ahead is early, not useful
    assert (winch["failures"], winch["gates"], winch["gate_years"]) == (2, 2, pytest.approx(400 / 365.25))
    assert (winch["useful_share"]["value"], screw["useful_share"]["value"]) == (0.5, 0.0)
    assert winch["false_alarms_per_gate_year"]["value"] == 1 / (2 * 173 / 365.25)  # 30 days ahead is too early to be true
    assert screw["false_alarms_per_gate_year"]["value"] == 1 / (2 * 173 / 365.25)


def test_a_hoist_is_judged_as_if_its_gates_were_all(judged, unseen):
    forecasts, _ = judged
    some = [f"G{n:03d}" for n in range(15)]

    report = evaluate(
        forecasts,
        unseen.maintenance,
        unseen.observed_until,
        policy=POLICY,
        hoists=dict.fromkeys(some, "screw"),
        resamples=10,
    )
    alone = evaluate(
        forecasts[forecasts["gate_id"].isin(some)], unseen.maintenance, unseen.observed_until, policy=POLICY, resamples=10
    )

    assert list(report["by_hoist"]) == ["screw"]
    for name in ("ap_14d", "brier_skill_14d", "useful_share", "early_share", "false_alarms_per_gate_year"):
        assert report["by_hoist"]["screw"][name]["value"] == pytest.approx(alone["figures"][name]["value"]), name


def test_the_time_to_failure_by_hand():
    # given a failure within 21 days, day k has the share k / 21: 0.1 is reached on day 3 and 0.9 on day 19
    forecasts = file({("G1", "motor"): {}, ("G2", "motor"): {}})
    forecasts["curve"] = [np.arange(1, 22) * 0.02 for _ in range(len(forecasts))]
    told_late = (forecasts["gate_id"] == "G1") | forecasts["as_of"].between(DAY0 + timedelta(days=99), DAY0 + timedelta(days=100))
    forecasts["curve"] = forecasts["curve"].where(told_late)

    report = evaluate(
        forecasts,
        log(("G1", "motor", "failure", 101.0), ("G2", "motor", "failure", 101.0)),
        until("G1", "G2"),
        policy=POLICY,
        resamples=10,
    )

    # days 3 to 19 of 21 for the first failure; only days 1 and 2 for the second
    assert report["figures"]["ttf_enclosed_share"]["value"] == pytest.approx((17 / 21 + 0) / 2)


def test_a_curve_of_another_length_is_refused():
    forecasts = file({("G1", "motor"): {}})
    forecasts["curve"] = [np.full(14, 0.1) for _ in range(len(forecasts))]

    with pytest.raises(EvaluationError, match="21 values, one a day; got 14"):
        evaluate(forecasts, log(("G1", "motor", "failure", 101.0)), until("G1"), policy=POLICY, resamples=10)


def test_right_component_and_mode_by_hand():
    series = {
        ("G1", "motor"): high(90, 100),  # right component, right mode
        ("G2", "motor"): high(90, 100),  # right component; the mode it said first was another
        ("G3", "brake"): high(90, 100),  # the brake's alarm, the motor's failure
        ("G3", "motor"): {},
        ("G4", "motor"): high(90, 100),  # its mode is not on record
        ("G5", "brake"): high(90, 100),  # brake and motor within 28 days: neither came alone
        ("G5", "motor"): {},
        ("G6", "motor"): {},  # no warning
    }
    failures = [(gate_id, "motor", "failure", 101.0) for gate_id in ("G1", "G2", "G3", "G4", "G5", "G6")]
    records = of_modes(log(*failures, ("G5", "brake", "failure", 110.0)), *3 * ["wear"], "", "wear", "wear", "drag")
    forecasts = file(series).assign(failure_mode="wear")
    # the second day over opens the case
    first = (forecasts["gate_id"] == "G2") & (forecasts["as_of"] == DAY0 + timedelta(days=91))
    forecasts.loc[first, "failure_mode"] = "lubrication"

    figures = evaluate(forecasts, records, until(*(f"G{n}" for n in range(1, 7))), policy=POLICY, resamples=10)["figures"]

    assert figures["right_component_share"]["value"] == 3 / 4
    assert figures["right_mode_share"]["value"] == 1 / 2


def test_a_feed_is_healthy_unless_the_gate_is_young_idle_or_under_repair():
    forecasts = file({("G1", "motor"): {}})
    for first, last, reason in ((0, 9, "young"), (60, 79, "idle"), (100, 104, "stale"), (120, 122, "under_repair")):
        silent = forecasts["as_of"].between(DAY0 + timedelta(days=first), DAY0 + timedelta(days=last))
        forecasts.loc[silent, ["p_7d", "p_14d"]] = np.nan
        forecasts.loc[silent, ["verdict", "reason"]] = ["no_verdict", reason]

    figures = evaluate(forecasts, log(), until("G1"), policy=POLICY, resamples=10)["figures"]

    assert figures["no_verdict_share"]["value"] == (10 + 20 + 5 + 3) / 200
    assert figures["no_verdict_healthy_share"]["value"] == 5 / (200 - 10 - 20 - 3)


def test_the_reliability_curve_agrees_with_pandas(judged, unseen):
    forecasts, report = judged
    gates = forecasts[(forecasts["component"] == "") & (forecasts["verdict"] == "forecast")]
    y = outcome(label(gates, unseen.maintenance, unseen.observed_until), 14)
    known = gates.assign(y=y)[np.isfinite(y)]
    bins = known.groupby(pd.cut(known["p_14d"], [*BINS[:-1], 1.01], right=False), observed=True)

    curve = pd.DataFrame(report["reliability_14d"])

    assert curve["rows"].tolist() == bins.size().tolist()
    assert curve["gates"].tolist() == bins["gate_id"].nunique().tolist()
    assert curve["forecast"].tolist() == pytest.approx(bins["p_14d"].mean().tolist())
    assert [observed["value"] for observed in curve["observed"]] == pytest.approx(bins["y"].mean().tolist())


def test_each_point_of_the_operating_curve_is_what_its_threshold_would_have_made(judged, unseen):
    forecasts, report = judged
    points = report["operating_curve"]

    assert len(points) > 5
    for point in points[:: len(points) // 3]:
        policy = Policy(point["threshold"])
        figures = evaluate(forecasts, unseen.maintenance, unseen.observed_until, policy=policy, resamples=1)["figures"]
        for name in ("false_alarms_per_gate_year", "useful_share", "early_share", "warned_share"):
            assert point[name] == pytest.approx(figures[name]["value"]), name
    assert report["figures"]["lead_time_median_d"]["value"] == pytest.approx(np.median(report["lead_times_d"]))


@pytest.fixture(scope="module")
def judged(forecaster, unseen):
    forecasts = forecaster.predict(unseen.rows)
    return forecasts, evaluate(forecasts, unseen.maintenance, unseen.observed_until, policy=Policy(0.3))


def test_row_figures_agree_with_scikit_learn(judged, unseen):
    forecasts, report = judged
    gates = forecasts[(forecasts["component"] == "") & (forecasts["verdict"] == "forecast")]
    labels = label(gates, unseen.maintenance, unseen.observed_until)
    figures = {name: figure["value"] for name, figure in report["figures"].items()}
    for horizon_d in (7, 14):
        y = outcome(labels, horizon_d)
        p, y = gates[f"p_{horizon_d}d"].to_numpy()[np.isfinite(y)], y[np.isfinite(y)]

        assert figures[f"ap_{horizon_d}d"] == pytest.approx(average_precision_score(y, p))
    rate = np.full(len(y), y.mean())
    assert figures["brier_skill_14d"] == pytest.approx(1 - brier_score_loss(y, p) / brier_score_loss(y, rate))
    assert figures["log_loss_skill_14d"] == pytest.approx(1 - log_loss(y, p) / log_loss(y, rate))
    assert figures["tail_forecast_14d"] == pytest.approx(p[p > 0.2].mean())
    assert figures["tail_observed_14d"] == pytest.approx(y[p > 0.2].mean())
    assert figures["tail_error_14d"] == pytest.approx(abs(p[p > 0.2].mean() - y[p > 0.2].mean()))


def test_ties_are_ranked_together_as_scikit_learn_does(judged, unseen):
    forecasts = judged[0].assign(p_14d=judged[0]["p_14d"].round(1))
    gates = forecasts[(forecasts["component"] == "") & (forecasts["verdict"] == "forecast")]
    y = outcome(label(gates, unseen.maintenance, unseen.observed_until), 14)

    report = evaluate(forecasts, unseen.maintenance, unseen.observed_until, policy=POLICY, resamples=10)

    expected = average_precision_score(y[np.isfinite(y)], gates["p_14d"].to_numpy()[np.isfinite(y)])
    assert report["figures"]["ap_14d"]["value"] == pytest.approx(expected)


def test_the_interval_is_the_spread_over_resampled_gates(judged, unseen):
    forecasts, report = judged
    gates = forecasts[(forecasts["component"] == "") & (forecasts["verdict"] == "forecast")]
    y = pd.Series(outcome(label(gates, unseen.maintenance, unseen.observed_until), 14), index=gates.index)
    parts = {g: (y[rows.index].to_numpy(), rows["p_14d"].to_numpy()) for g, rows in gates.groupby("gate_id")}
    rng = np.random.default_rng(5)
    slow = []
    for _ in range(200):
        drawn = [parts[g] for g in rng.choice(sorted(parts), len(parts))]
        ys, ps = (np.concatenate([d[i] for d in drawn]) for i in (0, 1))
        slow.append(average_precision_score(ys[np.isfinite(ys)], ps[np.isfinite(ys)]))

    found = report["figures"]["ap_14d"]

    assert found["low"] == pytest.approx(np.quantile(slow, 0.05), abs=0.03)
    assert found["high"] == pytest.approx(np.quantile(slow, 0.95), abs=0.03)


def test_the_report_is_plain_json_and_the_same_each_time(judged, unseen):
    forecasts, report = judged

    again = evaluate(forecasts, unseen.maintenance, unseen.observed_until, policy=Policy(0.3))

    assert json.loads(json.dumps(report, allow_nan=False)) == again


def test_without_a_threshold_the_best_one_is_taken_and_said_to_flatter(judged, unseen):
    forecasts, _ = judged

    report = evaluate(forecasts, unseen.maintenance, unseen.observed_until, budget_per_gate_year=0.5, resamples=10)

    assert report["figures"]["false_alarms_per_gate_year"]["value"] <= 0.5
    assert "flatters" in report["threshold_from"]
    assert "flatters" in table({"model": report})


def test_scores_that_are_no_probabilities_get_no_calibration_figures(unseen):
    report = evaluate(
        baselines.trend(unseen.rows), unseen.maintenance, unseen.observed_until, are_probabilities=False, resamples=10
    )

    assert report["figures"]["ap_14d"]["value"] > report["figures"]["base_rate_14d"]["value"]
    assert "brier_skill_14d" not in report["figures"]


def test_the_constant_forecast_has_no_skill_and_ranks_at_the_base_rate(unseen):
    report = evaluate(baselines.constant(unseen.rows, 0.002), unseen.maintenance, unseen.observed_until, resamples=10)

    figures = {name: figure["value"] for name, figure in report["figures"].items()}
    assert figures["ap_14d"] == pytest.approx(figures["base_rate_14d"])
    assert figures["brier_skill_14d"] <= 0


def test_the_table_shows_the_model_beside_the_baselines(judged, unseen):
    _, report = judged
    trend = evaluate(
        baselines.trend(unseen.rows), unseen.maintenance, unseen.observed_until, are_probabilities=False, resamples=10
    )

    text = table({"model": report, "trend": trend})

    lines = text.splitlines()
    assert lines[1].split() == ["model", "trend"]
    ap = report["figures"]["ap_14d"]
    assert f"{ap['value']:.3f} ({ap['low']:.3f} to {ap['high']:.3f})" in text
    assert next(line for line in lines if line.startswith("Brier skill")).endswith("-")


def test_a_file_against_itself_is_one_in_every_draw(judged, unseen):
    entry = (judged[0], Policy(0.3))

    ratios = compare({"model": entry, "same": entry}, unseen.maintenance, unseen.observed_until, resamples=20)

    assert ratios == {"same": {name: {"value": 1.0, "low": 1.0, "high": 1.0} for name in COMPARED}}


def test_ratios_are_those_of_the_reports_where_both_forecast_every_row(judged, unseen):
    forecasts, report = judged
    blurred = forecasts.assign(p_14d=forecasts["p_14d"].round(1))
    other = evaluate(blurred, unseen.maintenance, unseen.observed_until, policy=Policy(0.6), resamples=1)

    ratios = compare(
        {"model": (forecasts, Policy(0.3)), "blurred": (blurred, Policy(0.6))},
        unseen.maintenance,
        unseen.observed_until,
        resamples=1,
    )

    for name in COMPARED:
        expected = report["figures"][name]["value"] / other["figures"][name]["value"]
        assert ratios["blurred"][name]["value"] == pytest.approx(expected), name


def test_the_interval_of_a_ratio_is_that_of_paired_gates():
    # of every pair of failures the one file warned of both, the other of the first: half, whatever gates are drawn
    series = {(f"G{n}", "motor"): high(90, 100) for n in range(8)}
    failures = log(*((gate_id, "motor", "failure", day) for gate_id, _ in series for day in (101.0, 181.0)))
    both = file({unit: days | high(170, 180) for unit, days in series.items()})

    ratios = compare(
        {"one": (file(series), POLICY), "both": (both, POLICY)},
        failures,
        until(*(gate_id for gate_id, _ in series)),
        figures=("useful_share",),
        resamples=50,
    )

    assert ratios["both"]["useful_share"] == {"value": 0.5, "low": 0.5, "high": 0.5}


def test_rows_are_compared_where_both_forecast_and_failures_by_what_each_had_said(judged, unseen):
    forecasts, report = judged
    silent = forecasts["as_of"] < forecasts["as_of"].quantile(0.5)
    quiet = forecasts.assign(p_14d=forecasts["p_14d"].mask(silent), p_7d=forecasts["p_7d"].mask(silent))

    ratios = compare(
        {"model": (forecasts, Policy(0.3)), "quiet": (quiet, Policy(0.3))},
        unseen.maintenance,
        unseen.observed_until,
        resamples=1,
    )

    assert ratios["quiet"]["ap_14d"]["value"] == pytest.approx(1.0)
    missed = evaluate(quiet, unseen.maintenance, unseen.observed_until, policy=Policy(0.3), resamples=1)
    expected = report["figures"]["early_share"]["value"] / missed["figures"]["early_share"]["value"]
    assert ratios["quiet"]["early_share"]["value"] == pytest.approx(expected)
    assert expected > 1.2


def test_files_of_different_gates_are_not_compared(judged, unseen):
    forecasts = judged[0]
    fewer = forecasts[forecasts["gate_id"] != "G001"]

    with pytest.raises(EvaluationError, match="fewer and model must speak of the same gates"):
        compare({"model": (forecasts, POLICY), "fewer": (fewer, POLICY)}, unseen.maintenance, unseen.observed_until, resamples=1)


def test_a_file_without_gate_rows_or_known_outcomes_is_refused():
    forecasts = file({("G1", "motor"): {}}, n_days=40)

    with pytest.raises(EvaluationError, match="no gate row"):
        evaluate(forecasts[forecasts["component"] != ""], log(), until("G1"), policy=POLICY)
    with pytest.raises(EvaluationError, match="known outcome within 14 days"):
        evaluate(forecasts, log(), until("G1", day=5), policy=POLICY)
