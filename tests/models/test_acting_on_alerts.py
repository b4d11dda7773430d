"""Acting on alerts must not teach the model that alerts are false: a perfect crew, simulated, and what it leaves behind."""

from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from models.fitting import Settings, fit
from models.forecast import Forecaster
from models.labels import History, label, outcome
from models.policy import EVIDENCE_DAYS, Policy, Replay
from tests.models.fleet import START, ToyFleet

FEATURES = ("vibration_dev", "is_motor", "is_leaf")
QUICK = Settings(trees=40, fewest_trees=40, learning_rate=0.2, healthy_rows=60_000, l2=50.0)
CREW_COMES_AFTER = timedelta(days=3)
POLICY = Policy(open_at=0.3)
DAYS = 365


def draw(gates: int, seed: int) -> ToyFleet:
    """A fleet whose motors show their wear for weeks, and whose leaves fail three times a year without a sign."""
    rng = np.random.default_rng(seed)
    rows, records, ends = [], [], {}
    for n in range(gates):
        gate_id = f"G{n:03d}"
        ends[gate_id] = START + timedelta(days=DAYS)
        for component in ("motor", "leaf"):
            wear, down, day = np.zeros(DAYS), np.zeros(DAYS, bool), 0
            while True:
                day += int(rng.exponential(150 if component == "motor" else 50)) + 1
                life = int(rng.uniform(20, 40)) if component == "motor" else 0
                wear[day : day + life] = np.linspace(0, 1, life)[: max(DAYS - day, 0)]
                day += life
                if day >= DAYS - 3:
                    break
                failed, mended = START + timedelta(days=day, hours=-12), START + timedelta(days=day + 1, hours=12)
                records += [(gate_id, component, "failure", failed, failed), (gate_id, component, "repair", failed, mended)]
                down[day : day + 2] = True
                day += 2
            frame = pd.DataFrame({"as_of": pd.date_range(START, periods=DAYS, tz="UTC").astype("datetime64[ms, UTC]")})
            frame["vibration_dev"] = 2 * wear**2 + rng.normal(0, 0.2, DAYS)
            told = {"gate_id": gate_id, "component": component, "reason": np.where(down, "under_repair", "")}
            rows.append(frame.assign(**told, is_motor=float(component == "motor"), is_leaf=float(component == "leaf")))
    work = pd.DataFrame(records, columns=["gate_id", "component", "kind", "started_at", "ended_at"])
    return ToyFleet(pd.concat(rows, ignore_index=True), work.assign(failure_mode="worn"), ends)


def act(untouched: ToyFleet, forecaster: Forecaster) -> ToyFleet:
    """Let the crew of a fleet live by a model's alerts: each failure announced in time becomes a repair of found damage.

    From the crew's coming to the end of the repair that would have followed the failure, the component is out of service.
    """
    replay = Replay(forecaster.predict(untouched.rows), untouched.maintenance, untouched.observed_until)
    opened: dict[tuple[str, str], list[pd.Timestamp]] = {}
    for gate_id in replay.gate_ids:
        for alarm in replay.alarms(POLICY, gate_id):
            for component, since_ms in alarm.opened_ms.items():
                opened.setdefault((gate_id, component), []).append(pd.Timestamp(since_ms, unit="ms", tz="UTC"))
    records = untouched.maintenance.assign(finding="", alert_id="")
    reason, prevented = untouched.rows["reason"].copy(), []
    for number, failure in records[records["kind"] == "failure"].iterrows():
        unit, failed = (failure["gate_id"], failure["component"]), failure["started_at"]
        in_time = (
            since for since in opened.get(unit, []) if since + CREW_COMES_AFTER < failed <= since + timedelta(days=EVIDENCE_DAYS)
        )
        since = next(in_time, None)
        if since is not None:
            repair = number + 1  # `draw` writes it behind its failure
            told = {"started_at": since + CREW_COMES_AFTER, "finding": "confirmed_degradation", "alert_id": f"alr_{number}"}
            records.loc[repair, list(told)] = list(told.values())
            own = (untouched.rows["gate_id"] == unit[0]) & (untouched.rows["component"] == unit[1])
            reason[own & untouched.rows["as_of"].between(told["started_at"], records["ended_at"][repair])] = "under_repair"
            prevented.append(number)
    return ToyFleet(untouched.rows.assign(reason=reason), records.drop(index=prevented), untouched.observed_until)


def naive(records: pd.DataFrame) -> pd.DataFrame:
    """The same records to whom a crew's visit is no event: the failure did not come, so the alert was false."""
    acted = records["finding"] != ""
    return records.assign(kind=records["kind"].mask(acted, "inspection"), finding="", alert_id="")


def learn(*fleets: ToyFleet) -> Forecaster:
    """Train on several fleets at once."""
    rows = pd.concat(
        [each.rows.assign(gate_id=f"{n}-" + each.rows["gate_id"]) for n, each in enumerate(fleets)], ignore_index=True
    )
    work = pd.concat([each.maintenance.assign(gate_id=f"{n}-" + each.maintenance["gate_id"]) for n, each in enumerate(fleets)])
    ends = {f"{n}-{gate_id}": end for n, each in enumerate(fleets) for gate_id, end in each.observed_until.items()}
    return fit(rows, work, ends, features=FEATURES, seed=0, settings=QUICK)


def ranking(forecaster: Forecaster, untouched: ToyFleet) -> float:
    """Average precision at 14 days of the component rows, as scikit-learn counts it."""
    told = forecaster.predict(untouched.rows)
    told = told[(told["component"] != "") & told["p_14d"].notna()]
    y = outcome(label(told, History(untouched.maintenance), untouched.observed_until), 14)
    return float(average_precision_score(y[y == y], told["p_14d"][y == y]))


@dataclass(frozen=True)
class Year:
    """A model, the year in which a crew lived by it, the same year as if nobody had come, and a fleet nobody touched."""

    first: ToyFleet
    model: Forecaster
    alone: ToyFleet
    acted: ToyFleet
    unseen: ToyFleet


@pytest.fixture(scope="module")
def year() -> Year:
    first, alone = draw(12, seed=1), draw(60, seed=2)
    model = learn(first)
    return Year(first, model, alone, act(alone, model), draw(25, seed=3))


def test_acting_on_alerts_does_not_teach_that_they_were_false(year: Year) -> None:
    doubted = replace(year.acted, maintenance=naive(year.acted.maintenance))

    before = ranking(year.model, year.unseen)
    nobody_came = ranking(learn(year.first, year.alone), year.unseen)
    after = ranking(learn(year.first, year.acted), year.unseen)
    naively = ranking(learn(year.first, doubted), year.unseen)

    # resampling whole gates moves these differences by about 0.01
    assert after == pytest.approx(before, abs=0.01)
    assert after == pytest.approx(nobody_came, abs=0.01)
    assert naively < before - 0.05


def test_alerts_that_were_acted_on_were_true(year: Year) -> None:
    motor_failures = {
        name: ((work["kind"] == "failure") & (work["component"] == "motor")).sum()
        for name, work in (("alone", year.alone.maintenance), ("acted", year.acted.maintenance))
    }
    prevented = motor_failures["alone"] - motor_failures["acted"]
    forecasts = year.model.predict(year.acted.rows)
    forecasts = forecasts[forecasts["component"] == "motor"]

    def judged(work: pd.DataFrame) -> Counter[bool | None]:
        work = work[work["component"] == "motor"]
        replay = Replay(forecasts, work, year.acted.observed_until)
        return Counter(replay.judge(alarm).is_true for gate_id in replay.gate_ids for alarm in replay.alarms(POLICY, gate_id))

    assert prevented > 100
    assert judged(year.acted.maintenance)[True] >= prevented
    assert judged(year.acted.maintenance)[False] == 0
    assert judged(naive(year.acted.maintenance))[False] > prevented / 2
