"""Labels by hand, and against a version that looks at every record for every row."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.labels import LabelError, Split, gate_folds, hold_out, label, matured_until, outcome

DAY0 = datetime(2026, 1, 1, tzinfo=UTC)


def at(day: float) -> datetime:
    return DAY0 + timedelta(days=day)


def rows(*asked: tuple[str, float]) -> pd.DataFrame:
    return pd.DataFrame({"gate_id": "G1", "component": [c for c, _ in asked], "as_of": [at(day) for _, day in asked]})


def log(*records: tuple[str, str, float, float | None]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "gate_id": "G1",
            "component": [component for component, *_ in records],
            "kind": [kind for _, kind, *_ in records],
            "failure_mode": ["gear" if kind == "failure" else "" for _, kind, *_ in records],
            "started_at": pd.to_datetime([at(start) for *_, start, _ in records], utc=True),
            "ended_at": pd.to_datetime([None if end is None else at(end) for *_, end in records], utc=True),
        }
    )


OBSERVED = {"G1": at(100)}
FAILURE = ("motor", "failure", 10.5, None)
ITS_REPAIR = ("motor", "repair", 10.6, 12.4)
PREVENTED = ("motor", "replacement", 8.4, 8.6)


@pytest.mark.parametrize(
    ("records", "asked", "failure_d", "free_d", "at_risk"),
    [
        pytest.param([FAILURE], ("motor", 10), 1, 0, True, id="half a day ahead is day 1"),
        pytest.param([("motor", "failure", 11, None)], ("motor", 10), 1, 0, True, id="exactly one day ahead is day 1"),
        pytest.param([FAILURE], ("motor", 3), 8, 7, True, id="seven and a half days ahead is day 8"),
        pytest.param([FAILURE], ("", 3), 8, 7, True, id="a component's failure is the gate's event"),
        pytest.param([FAILURE], ("brake", 3), np.nan, 97, True, id="and not another component's"),
        pytest.param([("", "failure", 10.5, None)], ("motor", 3), np.nan, 97, True, id="a sudden one is no component's"),
        pytest.param([("", "failure", 10.5, None)], ("", 3), 8, 7, True, id="a sudden one is the gate's event"),
        pytest.param([FAILURE, PREVENTED], ("motor", 3), np.nan, 5, True, id="a replacement before it censors"),
        pytest.param([FAILURE, PREVENTED], ("", 3), np.nan, 5, True, id="the gate is censored too"),
        pytest.param([FAILURE, PREVENTED], ("brake", 3), np.nan, 97, True, id="another component is not"),
        pytest.param([FAILURE, ("", "repair", 8.4, 8.6)], ("brake", 3), np.nan, 5, True, id="a repair of the whole gate is"),
        pytest.param([FAILURE, ITS_REPAIR], ("motor", 3), 8, 7, True, id="the repair after a failure does not censor it"),
        pytest.param([FAILURE, ITS_REPAIR], ("motor", 11), np.nan, 89, False, id="under repair is unknown"),
        pytest.param([FAILURE, ITS_REPAIR], ("motor", 12), np.nan, 88, False, id="until the repair ends"),
        pytest.param([FAILURE, ITS_REPAIR], ("motor", 13), np.nan, 87, True, id="known again after it"),
        pytest.param([FAILURE, ITS_REPAIR], ("", 11), np.nan, 89, False, id="a gate with a component down is down"),
        pytest.param([FAILURE, ITS_REPAIR], ("brake", 11), np.nan, 89, True, id="another component is not down"),
        pytest.param([("motor", "failure", 10, None)], ("motor", 10), np.nan, 90, False, id="failing that very instant"),
        pytest.param([FAILURE], ("motor", 11), np.nan, 89, False, id="without a repair it is down for one day"),
        pytest.param([FAILURE], ("motor", 12), np.nan, 88, True, id="and no longer"),
        pytest.param([("motor", "repair", 10.5, None)], ("motor", 17), np.nan, 83, False, id="a repair without end is 7 days"),
        pytest.param([("motor", "inspection", 8.4, 8.6), FAILURE], ("motor", 3), 8, 7, True, id="an inspection changes nothing"),
        pytest.param([("motor", "lubrication", 8.4, 8.6), FAILURE], ("motor", 3), 8, 7, True, id="nor does lubrication"),
        pytest.param([], ("motor", 90), np.nan, 10, True, id="the end of the record censors"),
        pytest.param([], ("motor", 100), np.nan, 0, False, id="at the end nothing is known"),
        pytest.param([("motor", "failure", 100.2, None)], ("motor", 95), 6, 5, True, id="a failure may end the record"),
    ],
)
def test_days_to_the_event_by_hand(records, asked, failure_d, free_d, at_risk):
    labels = label(rows(asked), log(*records), OBSERVED).iloc[0]

    assert labels["failure_d"] == pytest.approx(failure_d, nan_ok=True)
    assert (labels["free_d"], labels["at_risk"]) == (free_d, at_risk)


@pytest.mark.parametrize(
    ("day", "horizon_d", "expected"),
    [(3, 7, 0), (3, 8, 1), (3, 21, 1), (11, 7, np.nan), (90, 10, 0), (90, 11, np.nan)],
)
def test_an_outcome_is_known_when_it_came_or_was_watched_not_to_come(day, horizon_d, expected):
    labels = label(rows(("motor", day)), log(FAILURE, ITS_REPAIR), OBSERVED)

    assert outcome(labels, horizon_d)[0] == pytest.approx(expected, nan_ok=True)


ALERT = "alr_1"


def found(*records: tuple[str, str, float, str, str]) -> pd.DataFrame:
    """Records (component, kind, day, finding, alert_id), each over at once."""
    told = log(*[(component, kind, day, day) for component, kind, day, _, _ in records])
    return told.assign(finding=[word for *_, word, _ in records], alert_id=[alert for *_, alert in records])


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        pytest.param([], 0, id="nothing happened"),
        pytest.param([("motor", "repair", 8, "confirmed_degradation", ALERT)], np.nan, id="a crew prevented it"),
        pytest.param([("motor", "repair", 8, "no_fault_found", ALERT)], np.nan, id="the part is new, whatever was found"),
        pytest.param([("motor", "repair", 8, "", "")], np.nan, id="nobody says what was found"),
        pytest.param([("motor", "lubrication", 8, "prevented_by_maintenance", ALERT)], np.nan, id="prevented with a grease gun"),
        pytest.param([("motor", "inspection", 8, "confirmed_degradation", ALERT)], np.nan, id="somebody will have seen to it"),
        pytest.param([("motor", "inspection", 8, "confirmed_failure", ALERT)], np.nan, id="a failure needs a record of its own"),
        pytest.param([("motor", "inspection", 8, "not_inspected", ALERT)], np.nan, id="nobody looked"),
        pytest.param([("brake", "inspection", 8, "not_inspected", ALERT)], 0, id="nobody looked at another component"),
        pytest.param([("", "inspection", 8, "not_inspected", ALERT)], np.nan, id="nobody looked at the whole gate"),
        pytest.param([("motor", "inspection", 8, "no_fault_found", ALERT)], 0, id="somebody looked and found nothing"),
        pytest.param([("motor", "inspection", 8, "false_alarm", ALERT)], 0, id="a false alarm"),
        pytest.param([("motor", "inspection", 8, "duplicate", ALERT)], 0, id="a duplicate tells nothing"),
        pytest.param([("motor", "inspection", 8, "", "")], 0, id="a plain inspection changes nothing"),
        pytest.param([("motor", "inspection", 17.5, "not_inspected", ALERT)], 0, id="after the horizon"),
        pytest.param(
            [("motor", "inspection", 8, "confirmed_degradation", ALERT), ("motor", "failure", 12, "", "")], 1, id="it came"
        ),
        pytest.param(
            [("motor", "inspection", 8, "not_inspected", ALERT), ("motor", "failure", 12, "", "")], 1, id="it came, too"
        ),
        pytest.param(
            [("motor", "repair", 8, "confirmed_degradation", ALERT), ("motor", "failure", 12, "", "")],
            np.nan,
            id="of the new part",
        ),
    ],
)
def test_what_a_finding_makes_of_a_label(records, expected):
    labels = label(rows(("motor", 3)), found(*records), OBSERVED)

    assert outcome(labels, 14)[0] == pytest.approx(expected, nan_ok=True)


def test_a_prediction_of_day_0_counts_on_day_21_and_not_before():
    asked = [at(0), at(1)]

    counted = [[as_of <= matured_until(at(day), 14) for as_of in asked] for day in (20, 20.99, 21, 22)]

    assert counted == [[False, False], [False, False], [True, False], [True, True]]


def test_the_mode_is_that_of_the_event():
    labels = label(rows(("motor", 3), ("", 3), ("brake", 3)), log(FAILURE), OBSERVED)

    assert labels["failure_mode"].tolist() == ["gear", "gear", ""]


def test_a_gate_without_readings_is_refused():
    with pytest.raises(LabelError, match="'G1' has no end of record"):
        label(rows(("motor", 3)), log(FAILURE), {})


half_days = st.integers(0, 79).map(lambda n: n / 2 + 0.25)
records = st.lists(
    st.tuples(
        st.sampled_from(["motor", "brake", ""]),
        st.sampled_from(["failure", "repair", "replacement", "inspection"]),
        half_days,
        st.one_of(st.none(), st.just(0.5), st.just(3.0)),
    ),
    max_size=8,
    unique_by=lambda r: r[2],
)


@given(records)
@settings(max_examples=25, deadline=None)
def test_labels_agree_with_a_search_through_all_records(drawn):
    drawn = [(c, k, s, None if e is None else s + e) for c, k, s, e in drawn]
    asked = rows(*[(c, day) for c in ("motor", "brake", "") for day in range(0, 40, 3)])

    labels = label(asked, log(*drawn), {"G1": at(40)})

    for (_, row), (_, found) in zip(asked.iterrows(), labels.iterrows(), strict=True):
        day = (row["as_of"] - DAY0) / timedelta(days=1)
        event = min((s for c, k, s, _ in drawn if k == "failure" and row["component"] in ("", c) and s > day), default=999)
        renewal = min(
            (
                s
                for c, k, s, _ in drawn
                if k in ("repair", "replacement") and (row["component"] in ("", c) or c == "") and s > day
            ),
            default=999,
        )
        for horizon_d in (1, 7, 14, 21):
            came = event < 999 and event <= renewal and day < event <= day + horizon_d
            watched = min(event, renewal, 40) >= day + horizon_d
            expected = 1.0 if came else 0.0 if watched else np.nan
            if found["at_risk"]:
                assert outcome(labels.loc[[found.name]], horizon_d)[0] == pytest.approx(expected, nan_ok=True)


def test_the_split_holds_out_whole_gates_later_than_the_embargo():
    failures = {f"G{n}": n % 3 for n in range(20)}
    split = hold_out(failures, at(0), at(200), seed=1)
    frame = pd.DataFrame([(g, at(d)) for g in failures for d in range(200)], columns=["gate_id", "as_of"])

    teaching, testing = frame[split.teaches(frame)], frame[split.tests(frame)]

    assert not set(teaching["gate_id"]) & set(testing["gate_id"])
    assert testing["as_of"].min() - teaching["as_of"].max() >= timedelta(days=21)
    assert len(set(testing["gate_id"])) == 5
    assert split == hold_out(failures, at(0), at(200), seed=1)


@pytest.mark.parametrize(
    ("gates", "days", "embargo_d", "message"),
    [
        (1, 200, 21, "at least 2 gates"),
        (5, 25, 21, "record must be longer"),
        (5, 200, 14, "must start 21 days after the last day that teaches"),
    ],
)
def test_what_cannot_be_held_out_is_refused(gates, days, embargo_d, message):
    failures = {f"G{n}": 1 for n in range(gates)}

    with pytest.raises(LabelError, match=message):
        hold_out(failures, at(0), at(days), seed=0, embargo=timedelta(days=embargo_d))


def test_a_split_by_random_rows_cannot_be_had():
    gates = frozenset({"A", "B"})

    with pytest.raises(LabelError, match="a gate must not both teach and be tested, .*; got B"):
        Split(gates, frozenset({"B"}), at(100), at(150))
    with pytest.raises(LabelError, match="the test must start 21 days after the last day that teaches, or later; got"):
        Split(frozenset({"A"}), frozenset({"B"}), at(100), at(120))


@given(st.dictionaries(st.text("ABCD", min_size=1, max_size=4), st.integers(0, 5), min_size=2, max_size=20), st.integers(2, 6))
def test_folds_share_out_every_gate_once(failures, n_folds):
    folds = gate_folds(failures, n_folds, seed=3)

    assert sorted(gate_id for fold in folds for gate_id in fold) == sorted(failures)
    assert max(map(len, folds)) - min(map(len, folds)) <= 1
