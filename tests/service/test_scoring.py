"""Scoring: features as in training, the one alarm policy day by day, one transaction a chunk, days taken up where they stopped.

The model is faked, because its judgement is not ours to test: it says for each component and day what the test wants. All
of our own side is real: a migrated database, readings in the historian, operations, features, cases and the outbox.
"""

import json
import random
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from models.drift import Reference
from models.policy import Policy, Replay
from models.registry import RegistryError
from pipeline import cut_days, features, historian
from pipeline.cycles import Records
from pipeline.historian import to_ms, writing
from pipeline.operations import segment
from pipeline.readings import DAY_MS, Channel
from service import alerts as life
from service import cases, live_features, scoring, store
from service.cases import Renewal
from service.live_features import load_features, refresh_operations
from service.scoring import ScoreReport, ScoringState
from service.store import Actor

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
T0 = datetime(2026, 3, 2, tzinfo=UTC)
GATES = ("DSH-S1-G1", "DSH-S1-G2", "DSH-S2-G1")
CHANNELS = ("motor.velocity_rms", "motor.winding.temperature", "motor.moving", "gearbox.velocity_rms")

Says = Callable[[str, str, datetime], float | None]


def curve_of(p_14d: float) -> np.ndarray:
    """A curve with a constant daily hazard that is `p_14d` on day 14."""
    return 1 - (1 - p_14d) ** (np.arange(1, 22) / 14)


@dataclass
class Oracle:
    """A forecaster that says what it is told to; None is no verdict."""

    says: Says
    with_components: bool = True
    lost: Mapping[tuple[str, str], str] = field(default_factory=dict)
    asked: list[pd.DataFrame] = field(default_factory=list)

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        self.asked.append(rows)
        out = []
        for (gate_id, as_of), of_gate in rows.groupby(["gate_id", "as_of"], sort=True):
            of_components = [self.row(gate_id, c, as_of, self.says(gate_id, c, as_of)) for c in of_gate["component"]]
            highest = max((row["p_14d"] for row in of_components if row["p_14d"] == row["p_14d"]), default=None)
            out += [self.row(gate_id, "", as_of, highest), *(of_components if self.with_components else [])]
        return pd.DataFrame(out)

    def typical(self) -> dict[str, float]:
        return {"velocity_dev": 0.0, "velocity_z": 0.0, "load_7d": 0.5}

    def log_odds_14d(self, rows: pd.DataFrame) -> np.ndarray:
        return 2 * rows["velocity_dev"].to_numpy(dtype=float)

    def row(self, gate_id: str, component: str, as_of: pd.Timestamp, p_14d: float | None) -> dict[str, Any]:
        curve = None if p_14d is None else curve_of(p_14d)
        day = [np.nan if curve is None else curve[index] for index in (6, 13, 20)]
        return {
            "gate_id": gate_id,
            "component": component,
            "as_of": as_of,
            "verdict": "no_verdict" if curve is None else "forecast",
            "reason": "stale" if curve is None else "",
            **dict(zip(("p_7d", "p_14d", "p_21d"), day, strict=True)),
            **dict.fromkeys(("ttf_p10_d", "ttf_p50_d", "ttf_p90_d"), np.nan),
            "failure_mode": None if curve is None else "gear",
            "lost": self.lost.get((gate_id, component), ""),
            "failure_mode_share": np.nan if curve is None else 0.8,
            "model_version": "oracle-1",
            "curve": curve,
        }


@dataclass(frozen=True)
class Model:
    forecaster: Oracle
    policy: Policy = field(default_factory=lambda: Policy(open_at=0.4))
    version: str = "oracle-1"
    reference: Reference | None = None


def model(says: Says, **attributes: Any) -> Model:
    return Model(Oracle(says, **attributes))


def all_alike(gate_id: str, component: str, as_of: datetime) -> float | None:
    """What a gate and component say, the same in every process."""
    return 0.9 if (gate_id, component) == (GATES[1], "motor") else 0.01


def quiet(gate_id: str, component: str, as_of: datetime) -> float | None:
    return 0.01


def only(gate_id: str, component: str, days: Mapping[int, float | None] | Sequence[float | None]) -> Says:
    """What one component says, by the day after T0 (0 is T0); every other component is quiet."""

    def says(gate: str, part: str, as_of: datetime) -> float | None:
        if (gate, part) != (gate_id, component):
            return 0.01
        return days[(as_of - T0) // DAY]

    return says


def declare(engine: Engine, gate_ids: Iterable[str] = GATES) -> None:
    channels = []
    for gate_id in gate_ids:
        for key in CHANNELS:
            component, _, name = key.partition(".")
            point, _, quantity = name.rpartition(".")
            unit = {"velocity_rms": "mm/s", "temperature": "degC", "moving": "1"}[quantity]
            channels.append(Channel(gate_id=gate_id, component=component, point=point, quantity=quantity, unit=unit))
    with writing(engine) as connection:
        historian.declare_channels(connection, channels)


def readings_of(day: datetime, seed: int = 0) -> pd.DataFrame:
    """One day of a gate that moves twice for ten minutes."""
    rng = random.Random(f"{day} {seed}")
    at = [day + timedelta(minutes=minutes) for minutes in range(0, 1440, 30)]
    at += [day + timedelta(hours=hours, minutes=minutes) for hours in (8, 17) for minutes in range(1, 11)]
    rows = []
    for instant in sorted(set(at)):
        moving = instant.hour in (8, 17) and 1 <= instant.minute <= 10
        level = (0.9 if moving else 0.1) * rng.uniform(0.9, 1.1)
        warm = 25 + (15 if moving else 0) + rng.uniform(-0.5, 0.5)
        rows.append((instant, level, warm, float(moving), level * 1.2))
    frame = pd.DataFrame(rows, columns=["ts", *CHANNELS])
    frame["ts"] = frame["ts"].astype("datetime64[ms, UTC]")
    return frame


def feed(engine: Engine, gate_id: str, frame: pd.DataFrame) -> None:
    """Store readings as ingest does: rows, dirty days and the newest event time in one transaction."""
    with writing(engine) as connection:
        rows: dict[tuple[int, int], list[float | None]] = {}
        for slot in historian.load_slots(connection, gate_id).values():
            for instant, value in zip(frame["ts"], frame[slot.channel.key], strict=True):
                wide = rows.setdefault((slot.series_id, to_ms(instant)), [None] * historian.SLOTS)
                wide[slot.slot] = value
        historian.store_readings(connection, [(*key, *values) for key, values in sorted(rows.items())])
        days = {(gate_id, to_ms(instant) // DAY_MS * DAY_MS) for instant in frame["ts"]}
        cut_days.mark_dirty(connection, days)
        historian.mark_seen(connection, {gate_id: to_ms(frame["ts"].max())})


def feed_days(engine: Engine, gate_ids: Iterable[str], first: datetime, days: int) -> None:
    for gate_id in gate_ids:
        frames = [readings_of(first + number * DAY, seed=GATES.index(gate_id)) for number in range(days)]
        feed(engine, gate_id, pd.concat(frames, ignore_index=True))


@pytest.fixture
def gate(sqlite_engine: Engine) -> Engine:
    """One gate with channels and three days of readings up to T0; the others are known by name only."""
    declare(sqlite_engine, GATES[:1])
    feed_days(sqlite_engine, GATES[:1], T0 - 3 * DAY, 3)
    return sqlite_engine


@pytest.fixture
def river(sqlite_engine: Engine) -> Engine:
    """Three gates with channels and three days of readings up to T0."""
    declare(sqlite_engine)
    feed_days(sqlite_engine, GATES, T0 - 3 * DAY, 3)
    return sqlite_engine


def score_days(engine: Engine, scored_by: Model, days: int, first: int = 0) -> list[ScoreReport]:
    return [
        scoring.score_day(engine, scored_by, T0 + day * DAY, T0 + day * DAY + HOUR, public_url="https://gates.example")
        for day in range(first, first + days)
    ]


def record(engine: Engine, gate_id: str, kind: str, started_at: datetime, **values: Any) -> None:
    with writing(engine) as connection:
        given = {"component": "", "recorded_at": started_at} | values
        connection.execute(sa.insert(historian.maintenance).values(gate_id=gate_id, kind=kind, started_at=started_at, **given))


def all_alerts(engine: Engine) -> list[life.Alert]:
    with engine.connect() as connection:
        ids = connection.scalars(sa.select(store.alerts.c.alert_id).order_by(store.alerts.c.opened_as_of)).all()
        return [store.get_alert(connection, alert_id) for alert_id in ids]


def event_types(engine: Engine, subject: str) -> list[str]:
    with engine.connect() as connection:
        event = store.events.c
        return list(connection.scalars(sa.select(event.type).where(event.subject == subject).order_by(event.event_sequence)))


# --- features -------------------------------------------------------------------------------------------------------


def test_live_features_are_those_that_training_makes_of_the_same_readings(engine: Engine) -> None:
    declare(engine, GATES[:1])
    gate_id, days = GATES[0], 14
    frames = [readings_of(T0 - number * DAY) for number in range(days, 0, -1)]
    record(engine, gate_id, "repair", T0 - 12 * DAY, component="gearbox", ended_at=T0 - 12 * DAY + 2 * HOUR)
    for frame in reversed(frames):
        feed(engine, gate_id, frame.sample(frac=1, random_state=1))

    refresh_operations(engine, [gate_id], T0)
    with engine.connect() as connection:
        live = load_features(connection, [gate_id], [T0])
        clean = cut_days.load_dirty_days(connection, [gate_id], to_ms(T0))
        records = historian.load_table(connection, historian.maintenance)
    cut = segment(pd.concat(frames, ignore_index=True))
    trained = features.build(
        features.GateHistory(gate_id, ("gearbox", "motor"), "winch", cut.operations, cut.days, Records.of(records)), [T0]
    )

    assert clean == {}
    assert list(live["reason"]) == ["", ""]
    pd.testing.assert_frame_equal(live, trained, rtol=0, atol=1e-9, check_dtype=False)


def test_a_late_reading_makes_its_own_day_anew_and_nothing_else(gate: Engine) -> None:
    refresh_operations(gate, [GATES[0]], T0)
    late = readings_of(T0 - 2 * DAY).iloc[:1].assign(ts=pd.Timestamp(T0 - 2 * DAY + 3 * HOUR), **{"motor.moving": 1.0})
    with gate.connect() as connection:
        before = cut_days.load_operations(connection, GATES[0], 0, to_ms(T0))
    feed(gate, GATES[0], late)

    days = refresh_operations(gate, [GATES[0]], T0)

    with gate.connect() as connection:
        after = cut_days.load_operations(connection, GATES[0], 0, to_ms(T0))
    assert days == 1
    assert set(before) < set(after)
    assert [row[0] for row in set(after) - set(before)] == [to_ms(T0 - 2 * DAY + 3 * HOUR)]


def test_days_that_have_not_ended_are_not_cut_yet(gate: Engine) -> None:
    feed_days(gate, GATES[:1], T0, 1)

    refresh_operations(gate, [GATES[0]], T0)

    with gate.connect() as connection:
        assert cut_days.load_dirty_days(connection, GATES[:1], to_ms(T0 + DAY)) == {GATES[0]: [to_ms(T0)]}
        assert cut_days.load_operations(connection, GATES[0], to_ms(T0), to_ms(T0 + DAY)) == []


@pytest.mark.parametrize("times", [1, 3])
def test_a_day_that_gets_readings_while_it_is_cut_is_cut_again(gate: Engine, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    came: list[int] = []
    segment_all = live_features.operations.segment_all

    def meanwhile(readings: Any) -> Any:
        cut = segment_all(readings)
        if len(came) < times:
            came.append(len(came))
            at = T0 - DAY + 5 * HOUR + timedelta(seconds=7 * len(came))
            feed(gate, GATES[0], readings_of(T0 - DAY).iloc[:1].assign(ts=pd.Timestamp(at)))
        return cut

    refresh_operations(gate, GATES[:1], T0)
    with gate.connect() as connection:
        (before,) = (row[1] for row in cut_days.load_days(connection, GATES[0], to_ms(T0 - DAY), to_ms(T0)))
    feed(gate, GATES[0], readings_of(T0 - DAY).iloc[:1].assign(ts=pd.Timestamp(T0 - DAY + 5 * HOUR + timedelta(seconds=3))))
    monkeypatch.setattr(live_features.operations, "segment_all", meanwhile)

    done = refresh_operations(gate, GATES[:1], T0)

    with gate.connect() as connection:
        assert cut_days.load_dirty_days(connection, GATES[:1], to_ms(T0)) == {}
        (after,) = (row[1] for row in cut_days.load_days(connection, GATES[0], to_ms(T0 - DAY), to_ms(T0)))
        names = cut_days.load_summary_names(connection, GATES[:1])[GATES[0], "days"]
    readings = names.index("readings")
    assert (done, len(came)) == (1, times)
    assert np.frombuffer(after)[readings] == np.frombuffer(before)[readings] + times + 1


def test_a_day_that_gets_readings_all_the_time_stays_dirty(gate: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    segment_all = live_features.operations.segment_all

    def meanwhile(readings: Any) -> Any:
        with writing(gate) as connection:
            cut_days.mark_dirty(connection, [(GATES[0], to_ms(T0 - DAY))])
        return segment_all(readings)

    refresh_operations(gate, GATES[:1], T0)
    feed(gate, GATES[0], readings_of(T0 - DAY).iloc[:1].assign(ts=pd.Timestamp(T0 - DAY + 5 * HOUR)))
    monkeypatch.setattr(live_features.operations, "segment_all", meanwhile)

    assert refresh_operations(gate, GATES[:1], T0) == 0
    with gate.connect() as connection:
        assert cut_days.load_dirty_days(connection, GATES[:1], to_ms(T0)) == {GATES[0]: [to_ms(T0 - DAY)]}


@pytest.mark.postgres
@pytest.mark.parametrize("marks_first", [True, False])
def test_readings_that_come_while_their_day_is_cut_are_not_forgotten(postgres_url: str, marks_first: bool) -> None:
    engine = historian.connect(postgres_url)
    row = (1, to_ms(T0 + HOUR), 0.5, *[None] * 15)
    steps = [lambda c: cut_days.mark_dirty(c, [("g", to_ms(T0))]), lambda c: historian.store_readings(c, [row])]
    try:
        store.migrate(engine)
        with writing(engine) as connection:
            connection.execute(sa.insert(historian.gates).values(gate_id="g", station_id="s"))
            motor = Channel(gate_id="g", component="motor", quantity="velocity_rms", unit="mm/s")
            historian.declare_channels(connection, [motor])
            cut_days.mark_dirty(connection, [("g", to_ms(T0))])

        cutting = threading.Thread(target=refresh_operations, args=(engine, ["g"], T0 + DAY))
        with writing(engine) as ingest:
            first, second = steps if marks_first else reversed(steps)
            first(ingest)
            cutting.start()
            cutting.join(0.5)
            second(ingest)
        cutting.join(30)
        refresh_operations(engine, ["g"], T0 + DAY)

        with engine.connect() as connection:
            assert len(cut_days.load_days(connection, "g", 0, to_ms(T0 + DAY))) == 1
    finally:
        engine.dispose()


# --- forecasts --------------------------------------------------------------------------------------------------------


def test_every_gate_gets_its_forecast_once_and_what_was_published_stays(engine: Engine) -> None:
    declare(engine)
    feed_days(engine, GATES, T0 - 3 * DAY, 3)
    first = scoring.score_day(engine, model(quiet), T0, T0 + HOUR)
    with engine.connect() as connection:
        published = [store.latest_forecast(connection, gate_id) for gate_id in GATES]

    feed(engine, GATES[0], readings_of(T0 - DAY, seed=99))
    second = scoring.score_day(engine, model(lambda *_: 0.9), T0, T0 + 2 * HOUR)

    assert (first.gates, first.known, first.forecasts, first.verdicts) == (3, 0, 9, 9)
    assert (second.gates, second.known, second.forecasts, second.opened) == (0, 3, 0, 0)
    with engine.connect() as connection:
        assert [store.latest_forecast(connection, gate_id) for gate_id in GATES] == published
        run = store.last_scoring_run(connection)
    assert run is not None
    assert (run["as_of"], run["gates"], run["model_version"]) == (T0, 3, "oracle-1")


def test_a_stored_forecast_says_what_the_model_said(gate: Engine) -> None:
    says = only(GATES[0], "motor", [None])

    score_days(gate, model(says), 1)

    with gate.connect() as connection:
        gate, gearbox, motor = store.latest_forecast(connection, GATES[0])
    assert (motor["verdict"], motor["reason"], motor["p_14d"], motor["curve"]) == ("no_verdict", "stale", None, None)
    assert (gearbox["verdict"], gearbox["reason"], gearbox["failure_mode"]) == ("forecast", "", "gear")
    assert gearbox["curve"] == pytest.approx(curve_of(0.01))
    assert (gate["component"], gate["p_14d"]) == ("", pytest.approx(0.01))


def test_a_run_cut_short_is_finished_by_the_next_one(river: Engine) -> None:
    asked: list[str] = []

    def fails_once(gate_id: str, component: str, as_of: datetime) -> float | None:
        asked.append(gate_id)
        if gate_id == GATES[2] and asked.count(gate_id) == 1:
            raise RuntimeError("the machine went away")
        return 0.01

    with pytest.raises(RuntimeError):
        scoring.score_days(river, model(fails_once), [T0], T0, chunk=2)
    with river.connect() as connection:
        half = store.scored_gates(connection, T0)
        unfinished = store.last_scoring_run(connection)
    (report,) = scoring.score_days(river, model(fails_once), [T0], T0, chunk=2)

    assert (half, unfinished) == (set(GATES[:2]), None)
    assert (report.known, report.gates) == (2, 1)


def test_forecasts_cases_alerts_and_outbox_rows_of_a_chunk_are_one_transaction(gate: Engine) -> None:
    with writing(gate) as connection:
        store.add_endpoint(
            connection, url="https://r.example/", sealed_secret=b"s", at=T0, actor=Actor("w", "api"), verified=True
        )
    score_days(gate, model(lambda *_: 0.9), 1)
    breaks = sa.text("CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    with writing(gate) as connection:
        connection.execute(breaks)

    with pytest.raises(sa.exc.IntegrityError, match="disk full"):
        score_days(gate, model(lambda *_: 0.9), 1, first=1)

    with gate.connect() as connection:
        assert store.scored_gates(connection, T0 + DAY) == set()
        assert {case["stepped_as_of"] for case in store.load_cases(connection, GATES).values()} == {T0}
        assert store.unresolved_alerts(connection, GATES) == {}
        assert store.list_deliveries(connection) == []


# --- cases ------------------------------------------------------------------------------------------------------------


def test_a_case_opens_on_two_of_three_days_and_its_alert_says_by_when(gate: Engine) -> None:
    score_days(gate, model(only(GATES[0], "gearbox", [0.5, 0.1, 0.5])), 3)

    (alert,) = all_alerts(gate)
    assert (alert.gate_id, alert.component) == (GATES[0], "gearbox")
    assert (alert.failure_mode, alert.failure_mode_share) == ("gear", 0.8)
    assert (alert.opened_as_of, alert.opened_at) == (T0 + 2 * DAY, T0 + 2 * DAY + HOUR)
    assert alert.p_14d == pytest.approx(0.5)
    # p_14d = 0.5 is `high`; 1 - 0.5**(3/14) = 0.138 is the first day at 0.1 or more
    assert (alert.severity, alert.respond_by) == ("high", T0 + 2 * DAY + 3 * DAY)
    assert alert.confidence == "not_yet_calibrated_here"
    assert event_types(gate, alert.alert_id) == ["alert.opened"]


def test_an_important_gate_is_one_step_more_severe(river: Engine) -> None:
    score_days(river, model(lambda *_: 0.5), 2)

    severities = {(alert.gate_id, alert.severity) for alert in all_alerts(river)}
    assert severities == {(GATES[0], "high"), (GATES[1], "high"), (GATES[2], "critical")}


def test_a_worse_forecast_raises_the_severity_and_five_better_days_end_the_case(gate: Engine) -> None:
    says = only(GATES[0], "motor", [0.45, 0.45, 0.95, *[0.1] * 5])

    reports = score_days(gate, model(says), 8)

    (alert,) = all_alerts(gate)
    assert [report.opened for report in reports] == [0, 1, 0, 0, 0, 0, 0, 0]
    assert (alert.state, alert.resolution, alert.resolved_at) == ("resolved", "auto_cleared", T0 + 7 * DAY + HOUR)
    # medium, then critical; lower from the fourth day, shown lower from the fifth
    assert event_types(gate, alert.alert_id) == ["alert.opened", "alert.updated", "alert.updated", "alert.resolved"]


def test_days_without_a_verdict_freeze_the_case_whatever_their_number(gate: Engine) -> None:
    says = only(GATES[0], "motor", [0.5, 0.5, 0.1, 0.1, 0.1, 0.1, *[None] * 9, 0.1])

    score_days(gate, model(says), 15)
    (frozen,) = all_alerts(gate)
    score_days(gate, model(says), 1, first=15)

    assert (frozen.state, frozen.as_of) == ("open", T0 + 5 * DAY)
    assert [alert.state for alert in all_alerts(gate)] == ["resolved"]


@pytest.mark.parametrize("kind", ["repair", "replacement"])
@pytest.mark.parametrize("component", ["motor", ""])
def test_a_repair_of_the_component_or_the_gate_ends_the_case(gate: Engine, kind: str, component: str) -> None:
    says = only(GATES[0], "motor", [0.5, 0.5, 0.5])
    score_days(gate, model(says), 2)
    record(gate, GATES[0], kind, T0 + DAY + 5 * HOUR, component=component)

    score_days(gate, model(says), 1, first=2)

    (alert,) = all_alerts(gate)
    assert (alert.state, alert.resolution) == ("resolved", "repaired")


@pytest.mark.parametrize(("kind", "component"), [("repair", "gearbox"), ("inspection", "motor"), ("failure", "motor")])
def test_work_elsewhere_inspections_and_failures_do_not_end_a_case(gate: Engine, kind: str, component: str) -> None:
    says = only(GATES[0], "motor", [0.5, 0.5, 0.5])
    score_days(gate, model(says), 2)
    record(gate, GATES[0], kind, T0 + DAY + 5 * HOUR, component=component)

    score_days(gate, model(says), 1, first=2)

    assert [alert.state for alert in all_alerts(gate)] == ["open"]


def test_a_work_order_handed_in_late_ends_the_case_that_was_opened_meanwhile(gate: Engine) -> None:
    says = only(GATES[0], "motor", [0.5, 0.5, 0.5, None, None])
    score_days(gate, model(says), 3)
    started, ended = T0 + 12 * HOUR, T0 + 2 * DAY + 12 * HOUR
    record(gate, GATES[0], "repair", started, component="motor", ended_at=ended, recorded_at=T0 + 3 * DAY)

    reports = score_days(gate, model(says), 2, first=3)

    assert [alert.resolution for alert in all_alerts(gate)] == ["repaired"]
    assert [report.resolved for report in reports] == [1, 0]


def test_an_alert_that_a_person_resolved_stays_so_until_its_case_has_closed_and_opened_again(gate: Engine) -> None:
    says = only(GATES[0], "motor", [0.5, 0.5, 0.5, *[0.1] * 5, 0.5, 0.5])
    score_days(gate, model(says), 2)
    (alert,) = all_alerts(gate)
    with writing(gate) as connection:
        change = life.resolve(alert, resolution="by_person", by="wang", at=T0 + DAY, finding="no_fault_found")
        store.apply_change(connection, change, actor=Actor("wang", "ui"), public_url="")

    score_days(gate, model(says), 7, first=2)
    still = all_alerts(gate)
    score_days(gate, model(says), 1, first=9)

    assert [a.state for a in still] == ["resolved"]
    assert [a.state for a in all_alerts(gate)] == ["resolved", "open"]


def test_the_gate_as_a_whole_opens_a_case_only_where_the_model_tells_no_components_apart(river: Engine) -> None:
    both = model(only(GATES[0], "motor", [0.5, 0.5]))
    score_days(river, both, 2)
    with_components = {alert.component for alert in all_alerts(river)}

    whole = model(only(GATES[1], "motor", {2: 0.5, 3: 0.5}), with_components=False)
    score_days(river, whole, 2, first=2)

    assert with_components == {"motor"}
    assert {(alert.gate_id, alert.component) for alert in all_alerts(river)} == {(GATES[0], "motor"), (GATES[1], "")}


def test_live_cases_open_and_close_on_the_days_that_evaluation_counts(river: Engine) -> None:
    rng = random.Random(3)
    days, gates, parts = 24, GATES[:2], ("motor", "gearbox")
    calm, bad = [None, 0.05, 0.1, 0.2, 0.2], [None, 0.3, 0.39, 0.5, 0.7]
    said = {
        (gate, part, day): rng.choice((calm, bad)[(day // 7 + shift) % 2])
        for shift, (gate, part) in enumerate([(gate, part) for gate in gates for part in parts])
        for day in range(days)
    }
    scored_by = model(lambda gate, part, as_of: said.get((gate, part, (as_of - T0) // DAY)))
    for gate in gates:
        for day in (9, 13, 18):
            record(river, gate, "repair", T0 + day * DAY + 3 * HOUR, component="motor")

    score_days(river, scored_by, days)

    with river.connect() as connection:
        rows = pd.DataFrame(connection.execute(sa.select(store.forecasts)).mappings().all())
        maintenance = historian.load_table(connection, historian.maintenance)
    for part in parts:
        replay = Replay(rows[rows["component"] == part], maintenance, dict.fromkeys(GATES, T0 + days * DAY))
        expected = [(gate, alarm.started_ms, alarm.ended_ms) for gate in gates for alarm in replay.alarms(scored_by.policy, gate)]
        found = [
            (a.gate_id, to_ms(a.opened_as_of), to_ms(a.resolved_at - HOUR) if a.resolved_at else np.iinfo(np.int64).max)
            for a in all_alerts(river)
            if a.component == part
        ]
        assert sorted(found) == sorted(expected)
    assert len(all_alerts(river)) >= 5


def test_an_alert_holds_what_moved_its_forecast_anew_every_day(sqlite_engine: Engine) -> None:
    declare(sqlite_engine, GATES[:1])
    for number in range(-14, 2):
        frame = readings_of(T0 + number * DAY)
        frame["motor.velocity_rms"] *= 1.0 + 0.15 * max(0, number + 4) * frame["motor.moving"]
        feed(sqlite_engine, GATES[0], frame)

    score_days(sqlite_engine, model(only(GATES[0], "motor", [0.5, 0.5])), 2)
    (opened,) = all_alerts(sqlite_engine)
    score_days(sqlite_engine, model(only(GATES[0], "motor", {2: 0.5})), 1, first=2)
    (updated,) = all_alerts(sqlite_engine)

    for alert, as_of in ((opened, T0 + DAY), (updated, T0 + 2 * DAY)):
        (item,) = alert.evidence
        assert (item["feature"], item["channel"]) == ("motor.velocity", "motor.velocity_rms:mean")
        # the faked forecaster says 2 × velocity_dev, and typical is 0
        assert item["contribution"] == pytest.approx(2 * np.log(item["value"] / item["baseline"]))
        assert (item["as_of"], item["since"]) == (life.rfc3339(as_of), life.rfc3339(as_of - 3 * DAY))
    assert updated.evidence[0]["change"] > opened.evidence[0]["change"] > 1.2


@given(
    started=st.integers(0, 20),
    lasted=st.none() | st.integers(0, 5),
    recorded=st.integers(0, 20),
    of=st.sampled_from(["motor", "", "brake"]),
)
def test_a_renewal_counts_on_the_first_day_strictly_after_it_began(
    started: int, lasted: int | None, recorded: int, of: str
) -> None:
    ended = None if lasted is None else T0 + (started + lasted) * HOUR * 12
    renewal = Renewal(of, T0 + started * HOUR * 12, ended, T0 + recorded * HOUR * 12)

    seen = [
        day
        for day in range(1, 12)
        if cases.is_renewed([renewal], "motor", as_of=T0 + day * DAY, stepped_as_of=T0 + (day - 1) * DAY)
    ]

    assert seen == ([] if of == "brake" else [started // 2 + 1])


# --- notices ----------------------------------------------------------------------------------------------------------


def test_between_the_days_gates_are_told_of_that_fell_silent(river: Engine) -> None:
    def silent_at(now: datetime) -> list[str | None]:
        scoring.score_due(river, model(quiet), clock=lambda: now, backlog=DAY)
        with river.connect() as connection:
            return [notice.gate_id for notice in store.open_notices(connection, "gate.data_stale")]

    feed_days(river, GATES[1:], T0, 4)

    # nobody has declared how often they report, so it takes a day from the last reading, at 23:50
    assert silent_at(T0 + 23 * HOUR) == []
    assert silent_at(T0 + DAY) == [GATES[0]]
    feed_days(river, GATES[:1], T0 + 3 * DAY, 1)
    assert silent_at(T0 + 4 * DAY) == []


def sensor_day(engine: Engine, day: int, lost: Mapping[str, str], reason: str = "") -> int:
    """Tell what the components of the first gate lost on one day; return how many notices began or ended."""
    as_of = T0 + day * DAY
    rows = pd.DataFrame(
        [{"gate_id": GATES[0], "component": part, "reason": reason, "lost": lost.get(part, "")} for part in ("gearbox", "motor")]
    )
    with writing(engine) as connection:
        chunk = cases.CaseDay(connection, Policy(open_at=0.4), GATES[:1], rows, as_of, as_of + HOUR, "", lambda wanted: {})
        chunk.tell_sensor_faults()
    return chunk.counts["notices"]


def sensor_notices(engine: Engine) -> dict[str, str]:
    with engine.connect() as connection:
        return {str(n.detail["channel"]): str(n.detail["fault"]) for n in store.open_notices(connection, "sensor.fault")}


def test_a_bad_sensor_is_a_low_notice_once_for_each_channel_and_kind_until_it_is_gone(sqlite_engine: Engine) -> None:
    stuck = {"motor": "motor.velocity_rms: stuck"}
    both = stuck | {"gearbox": "gearbox.oil.temperature: drift; gearbox.velocity_rms: spikes"}
    other_kind = {"motor": "motor.velocity_rms: clipping"}

    changes = [sensor_day(sqlite_engine, day, lost) for day, lost in enumerate([{}, stuck, stuck, both, other_kind, {}])]

    assert changes == [0, 1, 0, 2, 4, 1]
    assert sensor_notices(sqlite_engine) == {}
    with sqlite_engine.connect() as connection:
        query = sa.select(store.events).order_by(store.events.c.event_sequence)
        told = [(event.type, json.loads(event.body)["data"]) for event in connection.execute(query)]
    assert [type_ for type_, _ in told].count("sensor.fault") == [type_ for type_, _ in told].count("sensor.restored") == 4
    assert told[0][1]["severity"] == "low"
    assert told[0][1]["component"] == "motor"
    assert told[0][1]["detail"] == {
        "as_of": "2026-03-03T00:00:00Z",
        "channel": "motor.velocity_rms",
        "fault": "stuck",
        "ne107": "failure",
    }
    assert all_alerts(sqlite_engine) == []


def test_a_stuck_sensor_is_stored_with_the_forecast_and_told_by_scoring(sqlite_engine: Engine) -> None:
    declare(sqlite_engine, GATES[:1])
    for day in range(-30, 1):
        frame = readings_of(T0 + day * DAY, seed=day)
        if day >= -5:
            frame["motor.winding.temperature"] = 25.0
        feed(sqlite_engine, GATES[0], frame)
    told = model(quiet, lost={(GATES[0], ""): "motor.winding.temperature: stuck"})

    score_days(sqlite_engine, told, 1, first=1)

    with sqlite_engine.connect() as connection:
        assert store.latest_forecast(connection, GATES[0])[0]["lost"] == "motor.winding.temperature: stuck"
    assert sensor_notices(sqlite_engine) == {"motor.winding.temperature": "stuck"}
    assert all_alerts(sqlite_engine) == []


def test_the_sensors_of_a_gate_that_fell_silent_keep_what_was_said_of_them(sqlite_engine: Engine) -> None:
    sensor_day(sqlite_engine, 0, {"motor": "motor.velocity_rms: stuck"})

    changed = sensor_day(
        sqlite_engine, 1, {"motor": "motor.velocity_rms: stale", "gearbox": "gearbox.velocity_rms: stale"}, "stale"
    )

    assert changed == 0
    assert sensor_notices(sqlite_engine) == {"motor.velocity_rms": "stuck"}


# --- day after day ----------------------------------------------------------------------------------------------------


def test_days_are_scored_one_after_the_other_from_the_first_reading_to_the_clock(gate: Engine) -> None:
    def scored(now: datetime) -> list[datetime]:
        return [report.as_of for report in scoring.score_due(gate, model(quiet), clock=lambda: now)]

    assert scored(T0 + scoring.GRACE - timedelta(seconds=1)) == [T0 - 2 * DAY, T0 - DAY]
    assert scored(T0 + scoring.GRACE) == [T0]
    assert scored(T0 + 23 * HOUR) == []


def test_the_past_is_scored_no_further_back_than_asked(gate: Engine) -> None:
    now = T0 + 100 * DAY + 12 * HOUR

    reports = scoring.score_due(gate, model(quiet), clock=lambda: now, backlog=3 * DAY)

    assert [report.as_of for report in reports] == [T0 + day * DAY for day in (97, 98, 99, 100)]


def test_without_readings_the_clock_is_not_even_asked(sqlite_engine: Engine) -> None:
    def clock() -> datetime:
        clock_asked.append(1)
        return T0

    clock_asked: list[int] = []
    with sqlite_engine.connect() as connection:
        assert scoring.next_midnight(connection, 60 * DAY, clock) is None
    assert clock_asked == []


def test_a_backlog_scored_at_once_ends_where_scoring_day_by_day_ends(engine: Engine, tmp_path: Path) -> None:
    says = only(GATES[0], "motor", [0.5, 0.5, 0.95, 0.1, 0.1, 0.1, 0.1, 0.1, 0.5, 0.5])
    by_day = historian.connect(f"sqlite:///{tmp_path / 'by_day.sqlite'}")
    store.migrate(by_day)
    tables, event = {}, store.events.c
    for one in (by_day, engine):
        if one is by_day:
            with writing(one) as connection:
                gates = [{"gate_id": gate_id, "station_id": "s", "hoist_type": "winch"} for gate_id in GATES]
                connection.execute(sa.insert(historian.gates), gates)
        declare(one)
        feed_days(one, GATES[:1], T0 - 3 * DAY, 9)
        record(one, GATES[0], "repair", T0 + 4 * DAY + HOUR, component="gearbox")

    for day in range(10):
        scoring.score_days(by_day, model(says), [T0 + day * DAY], T0)
    scoring.score_days(engine, model(says), [T0 + day * DAY for day in range(10)], T0)

    for one in (by_day, engine):
        with one.connect() as connection:
            tables[one] = (
                historian.load_table(connection, store.forecasts),
                historian.load_table(connection, store.cases),
                connection.execute(
                    sa.select(event.type, event.subject, event.sequence)
                    .where(event.gate_id == GATES[0])
                    .order_by(event.event_sequence)
                ).all(),
            )
    for left, right in zip(tables[by_day][:2], tables[engine][:2], strict=True):
        pd.testing.assert_frame_equal(left, right)
    assert tables[by_day][2] == tables[engine][2]
    assert len(tables[engine][2]) > 4
    by_day.dispose()


def test_two_processes_write_what_one_writes(tmp_path: Path) -> None:
    found = []
    for jobs in (1, 2):
        engine = historian.connect(f"sqlite:///{tmp_path / f'{jobs}.sqlite'}")
        store.migrate(engine)
        with writing(engine) as connection:
            gates = [{"gate_id": gate_id, "station_id": "s", "hoist_type": "winch"} for gate_id in GATES]
            connection.execute(sa.insert(historian.gates), gates)
        declare(engine)
        feed_days(engine, GATES, T0 - 3 * DAY, 4)
        reports = scoring.score_days(engine, model(all_alike), [T0, T0 + DAY, T0 + 2 * DAY], T0, jobs=jobs)
        with engine.connect() as connection:
            tables = (store.forecasts, store.case_log, historian.operations, historian.days, historian.summary_names)
            found.append([*(historian.load_table(connection, table) for table in tables)])
        assert [report.gates for report in reports] == [3, 3, 3]
        engine.dispose()

    for one, two in zip(*found, strict=True):
        pd.testing.assert_frame_equal(one, two)


def test_only_midnights_can_be_scored(gate: Engine) -> None:
    with pytest.raises(ValueError, match="midnight"):
        scoring.score_day(gate, model(quiet), T0 + HOUR, T0)


def test_the_process_scores_what_is_due_takes_a_new_champion_and_keeps_the_old_when_the_new_is_broken(
    gate: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The registry is another room, faked at its two doors: which version is champion, and the loaded model."""
    champions = iter(["oracle-1", "broken", "oracle-2"])
    stop, state = threading.Event(), ScoringState()

    def resolve(registry: Path, name: str) -> str:
        return next(champions, "oracle-2")

    def load(registry: Path, name: str = "champion") -> Model:
        if name == "broken":
            raise RegistryError("model broken: its hash is wrong")
        version = "oracle-1" if name == "champion" else name
        return Model(Oracle(lambda *_: 0.01), version=version)

    def clock() -> datetime:
        with gate.connect() as connection:
            last = store.last_scoring_run(connection)
        if last is not None and last["as_of"] == T0:
            stop.set()
        following = (last["as_of"] if last else T0 - 3 * DAY) + DAY
        return min(following, T0) + HOUR  # one more day is due

    monkeypatch.setattr(scoring.models, "resolve", resolve)
    monkeypatch.setattr(scoring.models, "load", load)
    scoring.run_scoring(gate, tmp_path, clock=clock, stop=stop, every_s=0.01, state=state)

    with gate.connect() as connection:
        runs = connection.execute(sa.select(store.scoring_runs).order_by(store.scoring_runs.c.as_of)).mappings().all()
    assert [(run["as_of"], run["model_version"]) for run in runs] == [
        (T0 - 2 * DAY, "oracle-1"),
        (T0 - DAY, "oracle-1"),
        (T0, "oracle-2"),
    ]
    assert state.faults() == state.stuck() == []


def test_a_day_that_cannot_be_scored_is_said_and_tried_again(
    gate: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stop, state = threading.Event(), ScoringState()
    faults: list[list[str]] = []
    calls: list[int] = []

    def moody(gate_id: str, component: str, as_of: datetime) -> float | None:
        calls.append(1)
        if len(calls) == 1:
            raise FloatingPointError("a curve went down")
        return 0.01

    def clock() -> datetime:
        faults.append(state.faults())
        with gate.connect() as connection:
            if store.last_scoring_run(connection) is not None:
                stop.set()
        return T0 - DAY

    monkeypatch.setattr(scoring.models, "resolve", lambda registry, name: "oracle-1")
    monkeypatch.setattr(scoring.models, "load", lambda registry, name="champion": model(moody))
    scoring.run_scoring(gate, tmp_path, clock=clock, stop=stop, every_s=0.01, state=state)

    assert ["scoring: FloatingPointError: a curve went down"] in faults
    assert state.faults() == []
    assert "a day could not be scored" in caplog.text


# --- a challenger ----------------------------------------------------------------------------------------------------


def rows_of(engine: Engine, table: sa.Table) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        query = sa.select(table).order_by(table.c.as_of, table.c.gate_id, table.c.component)
        return [dict(row) for row in connection.execute(query).mappings()]


def everything_but_the_shadow(engine: Engine) -> dict[str, list[Any]]:
    """Every table that people or other parts look at, without what a clock or chance puts there."""
    told = (store.forecasts, store.cases, store.case_log, store.alerts, store.events, store.deliveries, store.drift_days)
    varying = {"alert_id", "event_id", "delivery_id", "duration_s", "body", "subject", "secret"}
    with engine.connect() as connection:
        return {
            table.name: sorted(
                str([(name, value) for name, value in row.items() if name not in varying])
                for row in connection.execute(sa.select(table)).mappings()
            )
            for table in told
        }


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_challenger_speaks_of_the_same_rows_and_changes_nothing_for_anybody(tmp_path: Path, river: Engine, jobs: int) -> None:
    challenger = Model(Oracle(quiet), version="oracle-2")
    with sqlite3.connect(str(river.url.database)) as source, sqlite3.connect(f"{tmp_path}/alone.sqlite") as copy:
        source.backup(copy)
    alone = historian.connect(f"sqlite:///{tmp_path}/alone.sqlite")
    scoring.score_days(alone, Model(Oracle(all_alike)), [T0], T0 + HOUR)

    scoring.score_days(river, Model(Oracle(all_alike)), [T0], T0 + HOUR, challenger=challenger, chunk=2, jobs=jobs)

    champions, shadow = rows_of(river, store.forecasts), rows_of(river, store.shadow_forecasts)
    assert everything_but_the_shadow(river) == everything_but_the_shadow(alone)
    assert [(row["gate_id"], row["component"]) for row in shadow] == [(row["gate_id"], row["component"]) for row in champions]
    assert [row["p_14d"] for row in shadow] == pytest.approx([0.01] * len(shadow))
    assert rows_of(alone, store.shadow_forecasts) == []
    alone.dispose()


def test_a_challenger_that_would_alarm_everywhere_opens_nothing(river: Engine) -> None:
    feed_days(river, GATES, T0, 3)
    loud = Model(Oracle(lambda gate_id, component, as_of: 0.99), version="oracle-2")

    for day in range(3):
        scoring.score_day(river, Model(Oracle(quiet)), T0 + day * DAY, T0 + day * DAY + HOUR)
        scoring.score_days(river, Model(Oracle(quiet)), [T0 + day * DAY], T0 + day * DAY + HOUR, challenger=loud)

    assert rows_of(river, store.shadow_forecasts) == []  # each day was the champion's already
    feed_days(river, GATES, T0 + 3 * DAY, 3)
    for day in range(3, 6):
        scoring.score_days(river, Model(Oracle(quiet)), [T0 + day * DAY], T0 + day * DAY + HOUR, challenger=loud)
    assert len(rows_of(river, store.shadow_forecasts)) == 3 * 3 * 3
    assert all_alerts(river) == []


def test_a_challenger_that_fails_costs_the_champion_nothing(river: Engine, caplog: pytest.LogCaptureFixture) -> None:
    def raises(gate_id: str, component: str, as_of: datetime) -> float | None:
        raise ValueError("cannot say")

    broken = Model(Oracle(raises), version="oracle-2")

    [report] = scoring.score_days(river, Model(Oracle(quiet)), [T0], T0 + HOUR, challenger=broken)

    assert (report.gates, report.forecasts) == (3, 9)
    assert rows_of(river, store.shadow_forecasts) == []
    assert "the challenger oracle-2 cannot forecast" in caplog.text
