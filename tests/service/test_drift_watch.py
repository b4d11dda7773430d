"""Drift as the service watches it: bins kept with forecasts, one notice an episode, a suggestion and no more."""

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from models import drift
from models.drift import BEFORE_DAYS, FLEET_DAYS, QUIET_DAYS, Reference
from pipeline.historian import writing
from service import drift_watch, store
from service.drift_watch import DRIFT, standing, watch_drift
from service.live_features import load_features
from tests.models.test_drift import draw
from tests.service.test_scoring import DAY, GATES, HOUR, T0, Model, Oracle, declare, event_types, feed_days, quiet, scoring

N_GATES = 100
KEPT_DAYS = FLEET_DAYS + BEFORE_DAYS
SHIFTED = "gearbox_velocity_z"


@pytest.fixture(scope="module")
def reference() -> Reference:
    found = drift.learn(draw(120, 100, seed=1))
    assert found is not None
    return found


def show(engine: Engine, reference: Reference, shifts: Sequence[float], first: int = 0, version: str = "v1") -> None:
    """Show a fleet to a model day by day, one feature shifted by so much, and watch it."""
    fleet = draw(N_GATES, 70, seed=2, prefix="L")
    day = fleet.groupby("gate_id").cumcount().to_numpy()
    for number, shift in enumerate(shifts, start=first):
        today = fleet[day == number].copy()
        today[SHIFTED] += shift
        as_of = T0 + number * DAY
        values = today[list(drift.LOOKED_AT)].to_numpy(dtype="<f4")
        with writing(engine) as connection:
            rows = [
                {"gate_id": gate_id, "as_of": as_of, "model_version": version, "shown": of_gate.tobytes()}
                for gate_id, of_gate in zip(today["gate_id"], values, strict=True)
            ]
            store.save_drift_days(connection, rows)
            watch_drift(connection, [as_of], as_of + HOUR, reference=reference, model_version=version)


def status(engine: Engine, now: datetime, version: str = "v1") -> drift_watch.Standing:
    with engine.connect() as connection:
        return standing(connection, version, True, now)


def test_scoring_keeps_what_was_shown_of_each_gate(engine: Engine, reference: Reference) -> None:
    declare(engine)
    feed_days(engine, GATES, T0 - 70 * DAY, 70)

    scoring.score_days(engine, Model(Oracle(quiet), reference=reference), [T0 - DAY, T0], T0 + HOUR)

    with engine.connect() as connection:
        kept = store.load_drift_days(connection, T0 - DAY, T0, "oracle-1")
        rows = load_features(connection, GATES, [T0])
        (report,) = store.last_drift_reports(connection, "oracle-1")
    shown = drift.gate_days(rows, Oracle(quiet).predict(rows))
    told = {gate_id: np.frombuffer(packed, dtype="<f4") for gate_id, _, packed in kept}
    assert told.keys() == set(GATES)
    for gate_id, values in shown.set_index("gate_id")[list(drift.LOOKED_AT)].iterrows():
        np.testing.assert_array_equal(told[str(gate_id)], values.to_numpy(dtype="<f4"))
    assert np.isfinite(shown["motor_velocity_z"]).all()
    assert {name: one["n"] for name, one in report["features"].items() if one["n"]}.keys() >= {"motor_velocity_z", "score"}
    assert all(one["psi"] is None for one in report["features"].values())
    assert status(engine, T0, "oracle-1").status == "not enough data"


def test_a_model_without_a_reference_says_so_and_keeps_nothing(sqlite_engine: Engine) -> None:
    declare(sqlite_engine)
    feed_days(sqlite_engine, GATES, T0 - 3 * DAY, 3)

    scoring.score_days(sqlite_engine, Model(Oracle(quiet)), [T0], T0 + HOUR)

    with sqlite_engine.connect() as connection:
        assert standing(connection, "oracle-1", False, T0).status == "no reference"
        assert connection.scalar(sa.select(sa.func.count()).select_from(store.drift_days)) == 0
        assert store.last_drift_report(connection) is None


def test_drift_is_one_notice_an_episode_and_over_after_a_quiet_week(engine: Engine, reference: Reference) -> None:
    show(engine, reference, [0.0] * 7)
    before = status(engine, T0 + 7 * DAY)
    show(engine, reference, [0.8] * 10, first=7)
    during = status(engine, T0 + 17 * DAY)
    show(engine, reference, [0.0] * 45, first=17)  # for four weeks, that it went back is a change
    after = status(engine, T0 + 62 * DAY)

    assert (before.status, during.status, after.status) == ("in line", "drift", "in line")
    assert during.since is not None
    assert T0 + 7 * DAY < during.since <= T0 + 14 * DAY
    assert during.report is not None
    assert SHIFTED in during.report["drifted"]
    with engine.connect() as connection:
        notice = store.last_notice(connection, DRIFT)
        reports = store.last_drift_reports(connection, "v1", limit=100)
    assert notice is not None
    assert event_types(engine, notice.notice_id) == ["model.drift", "model.drift_over"]
    last = max(report["as_of"] for report in reports if report["drifted"])
    assert notice.closed_at == last + QUIET_DAYS * DAY + HOUR
    told = {one["feature"]: one["p"] for one in notice.detail["features"]}  # type: ignore[attr-defined]
    assert told[SHIFTED] < 0.01


def test_drift_of_three_weeks_is_a_suggestion_and_nothing_else(engine: Engine, reference: Reference) -> None:
    show(engine, reference, [0.8] * 30)

    found = status(engine, T0 + 30 * DAY)
    assert found.since is not None
    assert [status(engine, found.since + days * DAY).suggests_training for days in (20, 21)] == [False, True]
    with engine.connect() as connection:
        assert list(connection.scalars(sa.select(store.events.c.type))) == ["model.drift"]


def test_another_model_ends_the_drift_of_the_one_before_it(engine: Engine, reference: Reference) -> None:
    show(engine, reference, [0.8] * 7)

    show(engine, reference, [0.0], first=7, version="v2")

    found = status(engine, T0 + 8 * DAY, "v2")
    assert (found.status, found.since) == ("not enough data", None)
    assert found.report is not None
    assert {one["n"] for one in found.report["features"].values()} <= {0, 34, 100}
    with engine.connect() as connection:
        assert list(connection.scalars(sa.select(store.events.c.type))) == ["model.drift", "model.drift_over"]


def test_days_no_window_reaches_back_to_are_forgotten(sqlite_engine: Engine, reference: Reference) -> None:
    show(sqlite_engine, reference, [0.0] * (KEPT_DAYS + 3))

    with sqlite_engine.connect() as connection:
        kept = pd.Series(connection.scalars(sa.select(store.drift_days.c.as_of)).all())
    assert (kept.min(), kept.max()) == (T0 + 3 * DAY, T0 + (KEPT_DAYS + 2) * DAY)


def test_gates_unlike_all_others_are_named_on_mondays(sqlite_engine: Engine, reference: Reference) -> None:
    assert T0.weekday() == 0
    odd = np.full(len(drift.LOOKED_AT), 3.0, dtype="<f4").tobytes()
    show(sqlite_engine, reference, [0.0] * 27)
    with writing(sqlite_engine) as connection:
        connection.execute(sa.update(store.drift_days).where(store.drift_days.c.gate_id == "L004").values(shown=odd))

    show(sqlite_engine, reference, [0.0], first=27)
    sunday = status(sqlite_engine, T0 + 28 * DAY).report
    show(sqlite_engine, reference, [0.0], first=28)
    monday = status(sqlite_engine, T0 + 29 * DAY).report

    assert sunday is not None
    assert monday is not None
    assert sunday["gates_unlike"] == []
    assert "L004" in monday["gates_unlike"]
    assert len(monday["gates_unlike"]) <= 2  # of a hundred others one may be so by chance
