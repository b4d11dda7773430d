"""Scoring: once a day, from what the historian holds to forecasts, cases, alerts and outbox rows.

`score_days` scores every gate as of some midnights, in their order. What is slow (cutting readings into operations, features, the
model) is done for all of them together and outside the write lock; what people see happens at once: the forecasts, the cases'
steps, the alerts, their events, outbox rows and audit rows of up to 500 gates on one day are one transaction, and no gate is
split. New alerts are held until all chunks are done and `service.hold` has judged their day. A gate that already has a forecast
as of a midnight is left alone, so a run that was cut short is simply run again. A challenger, if there is one, forecasts from
the same rows; what it says is kept apart and nobody is told of it.

Readings become feature rows in `service.live_features`, forecasts become cases and alerts in `service.cases`; `run_scoring` is
the process's loop.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, cast

import pandas as pd
import prometheus_client
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from models import registry as models
from models.drift import Reference
from models.explain import Explainable
from models.policy import Policy
from pipeline import historian
from pipeline.historian import from_ms, to_ms, writing
from pipeline.readings import DAY_MS
from service import store
from service.alarm_watch import watch_alarms
from service.cases import CaseDay, text_of
from service.door_watch import watch_door
from service.drift_watch import day_rows, watch_drift
from service.evidence import find_evidence
from service.hold import HoldRule, judge_days, withdraw_other
from service.live_features import load_features, refresh_operations
from service.silence_watch import AT_LEAST, watch_silence

log = logging.getLogger(__name__)

CHUNK = 500
"""Gates in one transaction."""

GRACE = timedelta(minutes=10)
"""A day is scored this long after its midnight, so that readings under way may come in."""

BACKLOG = timedelta(days=60)
"""A first run, or one after a long pause, goes back no further: years of imported history are not years of alerts."""

DAYS_AT_ONCE = 31
"""Days of a backlog that share one look at a gate's history."""

DAY = timedelta(days=1)
STUCK_S = 3600.0
NORMALLY = HoldRule()

RUN_SECONDS = prometheus_client.Histogram(
    "sluicewatch_scoring_run_duration_seconds",
    "Scoring every gate as of one midnight",
    buckets=(0.1, 0.5, 1, 5, 10, 30, 60, 300, 900),
)
LAST_SUCCESS = prometheus_client.Gauge("sluicewatch_scoring_last_success_timestamp_seconds", "When the last scoring run ended")


class Forecaster(Explainable, Protocol):
    """What turns feature rows into forecast rows; `models.forecast.Forecaster` is one."""

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Forecast for every row, and for every gate and day as a whole."""


class Model(Protocol):
    """What scoring needs of a model; `models.registry.Model` is one."""

    @property
    def version(self) -> str:
        """Name of the version."""

    @property
    def forecaster(self) -> Forecaster:
        """What forecasts."""

    @property
    def policy(self) -> Policy:
        """When its forecasts open and close a case."""

    @property
    def reference(self) -> Reference | None:
        """What it learnt from, as far as drift asks; None where that was not kept."""


@dataclass(frozen=True, slots=True)
class ScoreReport:
    """What one run did: gates scored and left alone, forecast rows, those with a verdict, alerts and notices that changed."""

    as_of: datetime
    gates: int = 0
    known: int = 0
    forecasts: int = 0
    verdicts: int = 0
    opened: int = 0
    updated: int = 0
    resolved: int = 0
    notices: int = 0
    duration_s: float = 0.0

    def add(self, counts: Mapping[str, int]) -> ScoreReport:
        """The sum of this and the counts of another chunk, by field name."""
        return replace(self, **{name: getattr(self, name) + n for name, n in counts.items()})


def score_days(
    engine: Engine,
    model: Model,
    as_ofs: Sequence[datetime],
    now: datetime,
    *,
    challenger: Model | None = None,
    public_url: str = "",
    chunk: int = CHUNK,
    jobs: int = 1,
    hold_rule: HoldRule = NORMALLY,
) -> list[ScoreReport]:
    """Score every gate as of some UTC midnights, in their order; `now` is when people are told.

    What the `challenger` says is stored apart, for comparison only; where it fails, the day goes on without it. `jobs` processes
    share the chunks of gates; what they write is the same, in another order of gates.
    """
    for as_of in as_ofs:
        if to_ms(as_of) % DAY_MS:
            raise ValueError(f"as_of must be a UTC midnight; got {as_of.isoformat()}")
    days = sorted(as_ofs)
    started = time.perf_counter()
    if days:
        with writing(engine) as connection:
            withdraw_other(connection, days[0], now, model_version=model.version, public_url=public_url)
    with engine.connect() as connection:
        gate_ids = sorted(store.load_gates(connection))
        known = {as_of: store.scored_gates(connection, as_of) for as_of in days}
    wanted = [gate_id for gate_id in gate_ids if any(gate_id not in known[as_of] for as_of in days)]
    reports = {as_of: ScoreReport(as_of, known=len(known[as_of])) for as_of in days}
    chunk = max(1, min(chunk, -(-len(wanted) // jobs)))
    chunks = [wanted[start : start + chunk] for start in range(0, len(wanted), chunk)]
    try:
        for done_chunk in _scored_chunks(engine, model, challenger, chunks, days, now, public_url, jobs):
            for as_of, counts in done_chunk:
                reports[as_of] = reports[as_of].add(counts)
    finally:
        # also of days that could not be finished: a gate that cannot be scored must not silence the others
        with writing(engine) as connection:
            judge_days(connection, days, now, hold_rule, model.version)
    seconds = (time.perf_counter() - started) / len(days) if days else 0.0
    done = [replace(reports[as_of], duration_s=seconds) for as_of in days]
    with writing(engine) as connection:
        for report in done:
            run = {
                "as_of": report.as_of,
                "finished_at": now,
                "duration_s": report.duration_s,
                "gates": report.gates + report.known,
                "forecasts": report.forecasts,
                "model_version": model.version,
                "gates_with_verdict": store.gates_with_verdict(connection, report.as_of),
            }
            store.save_scoring_run(connection, run)
        budget = model.policy.budget_per_gate_year
        watch_alarms(connection, days, now, budget_per_gate_year=budget, model_version=model.version)
        watch_drift(connection, days, now, reference=model.reference, model_version=model.version)
    return done


def score_day(
    engine: Engine, model: Model, as_of: datetime, now: datetime, *, public_url: str = "", jobs: int = 1
) -> ScoreReport:
    """Score every gate as of one UTC midnight."""
    return score_days(engine, model, [as_of], now, public_url=public_url, jobs=jobs)[0]


Counted = list[tuple[datetime, Mapping[str, int]]]


def _scored_chunks(
    engine: Engine,
    model: Model,
    challenger: Model | None,
    chunks: Sequence[Sequence[str]],
    as_ofs: Sequence[datetime],
    now: datetime,
    public_url: str,
    jobs: int,
) -> Iterator[Counted]:
    if jobs == 1 or len(chunks) < 2:
        for gate_ids in chunks:
            yield list(_score_chunk(engine, model, challenger, gate_ids, as_ofs, now, public_url))
        return
    given = (historian.url_of(engine), model, challenger, as_ofs, now, public_url)
    with ProcessPoolExecutor(min(jobs, len(chunks)), get_context("spawn"), _begin_work, given) as pool:
        yield from pool.map(_work, chunks)


_at_work: list[Callable[[Sequence[str]], Counted]] = []
"""What a process of the pool does with a chunk; it is the same for all, and sent once."""


def _begin_work(
    url: str, model: Model, challenger: Model | None, as_ofs: Sequence[datetime], now: datetime, public_url: str
) -> None:
    engine = historian.connect(url)
    _at_work.append(lambda gate_ids: list(_score_chunk(engine, model, challenger, gate_ids, as_ofs, now, public_url)))
    # what stays need not be searched for cycles again and again; once a chunk is often enough
    gc.freeze()
    gc.disable()


def _work(gate_ids: Sequence[str]) -> Counted:
    try:
        return _at_work[-1](gate_ids)
    finally:
        gc.collect()


def _score_chunk(
    engine: Engine,
    model: Model,
    challenger: Model | None,
    gate_ids: Sequence[str],
    as_ofs: Sequence[datetime],
    now: datetime,
    public_url: str,
) -> Iterator[tuple[datetime, Mapping[str, int]]]:
    refresh_operations(engine, gate_ids, as_ofs[-1])
    with engine.connect() as connection:
        rows = load_features(connection, gate_ids, as_ofs)
    if rows.empty:
        return
    forecasts = model.forecaster.predict(rows)
    shadow = forecasts[:0] if challenger is None else _shadow(challenger, rows, forecasts[:0])
    for as_of in as_ofs:
        of_day, said, in_shadow = (frame[frame["as_of"] == as_of] for frame in (rows, forecasts, shadow))
        yield as_of, _score_gates(engine, model, of_day, said, in_shadow, as_of, now, public_url)


def _shadow(challenger: Model, rows: pd.DataFrame, nothing: pd.DataFrame) -> pd.DataFrame:
    """What the challenger says of the same rows; nothing where it cannot."""
    try:
        return challenger.forecaster.predict(rows)
    except Exception:  # whatever is wrong with it, the champion's day must not suffer
        log.exception("the challenger %s cannot forecast; the day goes on without it", challenger.version)
        return nothing


def _score_gates(
    engine: Engine,
    model: Model,
    rows: pd.DataFrame,
    forecasts: pd.DataFrame,
    shadow: pd.DataFrame,
    as_of: datetime,
    now: datetime,
    public_url: str,
) -> Mapping[str, int]:
    """Publish one day of one chunk: the one transaction."""
    with writing(engine) as connection:
        # by an earlier run that was cut short, or by another process
        known = store.scored_gates(connection, as_of, sorted(set(rows["gate_id"])))
        if known:
            rows, forecasts = rows[~rows["gate_id"].isin(known)], forecasts[~forecasts["gate_id"].isin(known)]
        stored = [forecast_row(row) for row in forecasts.to_dict("records")]
        store.save_forecasts(connection, stored)
        unknown = shadow[~shadow["gate_id"].isin(known)]
        store.save_shadow(connection, [forecast_row(row) for row in unknown.to_dict("records")])
        if model.reference is not None:
            store.save_drift_days(connection, day_rows(rows, forecasts, model.version))
        explain = partial(find_evidence, connection, model.forecaster, rows, as_of=as_of)
        day = CaseDay(connection, model.policy, sorted(set(rows["gate_id"])), rows, as_of, now, public_url, explain)
        for gate_id, of_gate in _by_gate(stored).items():
            day.step_gate(gate_id, of_gate)
        day.tell_cases()
        store.save_cases(connection, day.cases)
        store.log_cases(connection, day.opened, day.closed)
        day.tell_sensor_faults()
    verdicts = sum(row["verdict"] == "forecast" for row in stored)
    return {"gates": len(day.gate_ids), "forecasts": len(stored), "verdicts": verdicts, **day.counts}


def forecast_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    """One row of a forecast frame as the store keeps it: no NaN, plain numbers, aware instants."""
    numbers = ("p_7d", "p_14d", "p_21d", "ttf_p10_d", "ttf_p50_d", "ttf_p90_d", "failure_mode_share")
    curve = row["curve"]
    return {
        "gate_id": str(row["gate_id"]),
        "component": text_of(row["component"]),
        "as_of": pd.Timestamp(row["as_of"]).to_pydatetime().astimezone(UTC),
        "verdict": str(row["verdict"]),
        "reason": text_of(row["reason"]),
        **{name: None if pd.isna(row[name]) else float(row[name]) for name in numbers},
        "failure_mode": text_of(row["failure_mode"]),
        "lost": text_of(row.get("lost")),
        "model_version": str(row["model_version"]),
        "curve": None if curve is None or isinstance(curve, float) else [float(p) for p in curve],
    }


def _by_gate(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["gate_id"], []).append(row)
    return found


# --- day after day --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class ScoringState:
    """What other threads may ask a running `run_scoring`; `moved_at` is monotonic seconds."""

    fault: str = ""
    last: ScoreReport | None = None
    moved_at: float = field(default_factory=time.monotonic)

    def faults(self) -> list[str]:
        """Why days are not being scored at present."""
        return [f"scoring: {self.fault}"] if self.fault else []

    def stuck(self) -> list[str]:
        """What only a restart would mend: one day has been under way for very long."""
        still_s = time.monotonic() - self.moved_at
        return [f"the loop has not moved for {still_s:.0f} s"] if still_s > STUCK_S else []


def next_midnight(connection: Connection, backlog: timedelta, clock: Callable[[], datetime]) -> datetime | None:
    """The first midnight not yet scored, no more than `backlog` before the clock; None while there are no readings.

    The clock is asked after the readings: a clock that is the newest reading then knows at least those.
    """
    last = store.last_scoring_run(connection)
    if last is not None:
        following = cast(datetime, last["as_of"]) + DAY
    else:
        tables = (historian.dirty_days, historian.days)  # read already and not yet; a first run may have been cut short
        days_ms = [connection.scalar(sa.select(sa.func.min(table.c.day_ms))) for table in tables]
        if all(day_ms is None for day_ms in days_ms):
            return None
        following = from_ms(min(day_ms for day_ms in days_ms if day_ms is not None)) + DAY
    earliest = clock() - backlog
    return max(following, earliest.replace(hour=0, minute=0, second=0, microsecond=0))


def run_scoring(
    engine: Engine,
    registry: Path,
    *,
    clock: Callable[[], datetime],
    stop: threading.Event,
    every_s: float = 60.0,
    grace: timedelta = GRACE,
    backlog: timedelta = BACKLOG,
    public_url: str = "",
    jobs: int = 1,
    hold_rule: HoldRule = NORMALLY,
    keep_readings: timedelta | None = None,
    silent_after: timedelta = AT_LEAST,
    state: ScoringState | None = None,
) -> None:
    """Be the `score` process: score each midnight once the clock has passed it by `grace`, with the champion of the day.

    After each scored day raw readings older than `keep_readings` are forgotten; none where it is None. Between the days gates
    are told of that have said nothing for `silent_after`, or longer where they report more rarely.

    A day that cannot be scored is tried again; a champion that cannot be loaded leaves the one before it at work.

    Raises
    ------
    RegistryError
        There is no champion to begin with.
    """
    state = state or ScoringState()
    model = models.load(registry)
    challenger: models.Model | None = None
    log.info("scoring with model %s", model.version)
    while not stop.is_set():
        state.moved_at = time.monotonic()
        reports: list[ScoreReport] = []
        try:
            model = _newest(registry, model)
            challenger = _challenger(registry, challenger)
            reports = score_due(
                engine,
                model,
                challenger=challenger,
                clock=clock,
                grace=grace,
                backlog=backlog,
                public_url=public_url,
                jobs=jobs,
                hold_rule=hold_rule,
                silent_after=silent_after,
            )
            state.fault = ""
            if reports and keep_readings is not None:
                forgotten = historian.forget_readings(engine, to_ms(reports[-1].as_of - keep_readings))
                log.info("%d raw readings are older than %d days and forgotten", forgotten, keep_readings.days)
        except Exception as error:  # the outermost loop: one day's trouble must not end the days after it
            log.exception("a day could not be scored; trying again")
            state.fault = f"{type(error).__name__}: {error}"
        for report in reports:
            state.last = report
            RUN_SECONDS.observe(report.duration_s)
            LAST_SUCCESS.set(time.time())
            log.info(
                "scored %s: %d gates, %d forecasts with a verdict, %d alerts opened, %d resolved, %.1f s",
                report.as_of.date(),
                report.gates,
                report.verdicts,
                report.opened,
                report.resolved,
                report.duration_s,
            )
        if not reports:
            stop.wait(every_s)


def score_due(
    engine: Engine,
    model: Model,
    *,
    challenger: Model | None = None,
    clock: Callable[[], datetime],
    grace: timedelta = GRACE,
    backlog: timedelta = BACKLOG,
    public_url: str = "",
    jobs: int = 1,
    hold_rule: HoldRule = NORMALLY,
    silent_after: timedelta = AT_LEAST,
) -> list[ScoreReport]:
    """Score the next midnights that are due, a month of them at most; nothing when none is. Look at door and gates each time."""
    with engine.connect() as connection:
        following = next_midnight(connection, backlog, clock)
    now = clock()
    with writing(engine) as connection:
        watch_door(connection, now)
        watch_silence(connection, now, silent_after)
    if following is None:
        return []
    as_ofs = [following + number * DAY for number in range(DAYS_AT_ONCE) if following + number * DAY + grace <= now]
    return score_days(engine, model, as_ofs, now, challenger=challenger, public_url=public_url, jobs=jobs, hold_rule=hold_rule)


def _challenger(registry: Path, challenger: models.Model | None) -> models.Model | None:
    """The challenger of the day; None where there is none, or none that can be loaded."""
    try:
        version = models.aliases(registry).get(models.CHALLENGER)
        if version is None or (challenger is not None and challenger.version == version):
            return None if version is None else challenger
        challenger = models.load(registry, version)
    except (models.RegistryError, OSError) as error:  # the champion's day must not suffer
        log.error("the challenger cannot be loaded: %s", error)
        return None
    log.info("%s forecasts beside the champion from now on", challenger.version)
    return challenger


def _newest(registry: Path, model: models.Model) -> models.Model:
    try:
        version = models.resolve(registry, models.CHAMPION)
        if version == model.version:
            return model
        newest = models.load(registry, version)
    except models.RegistryError as error:
        log.error("the champion cannot be loaded, %s stays at work: %s", model.version, error)
        return model
    log.info("scoring with model %s from now on", newest.version)
    return newest
