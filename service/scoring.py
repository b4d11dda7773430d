"""Scoring: once a day, from what the historian holds to forecasts, cases, alerts and outbox rows.

`score_days` scores every gate as of some midnights, in their order. What is slow (cutting readings into operations,
features, the model) is done for all of them together and outside the write lock; what people see happens at once: the
forecasts, the cases' steps, the alerts, their events, outbox rows and audit rows of up to 500 gates on one day are one
transaction, and no gate is split. A gate that already has a forecast as of a midnight is left alone, so a run that was
cut short is simply run again.

When a case opens and closes is decided in `models.policy`, what an alert becomes in `service.alerts`.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, cast

import pandas as pd
import prometheus_client
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from models import policy as rule
from models import registry as models
from models.labels import RENEWALS
from models.policy import CaseState, Policy, ScoredDay
from pipeline import features, historian, operations
from pipeline.historian import from_ms, to_ms, writing
from pipeline.readings import DAY_MS
from service import alerts as life
from service import store
from service.alerts import Alert, Change, Notice, Outlook, Severity
from service.events import Gate
from service.store import SCORING

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
STALE = "gate.data_stale"
EVIDENCE_FROM_Z = 2.0
STUCK_S = 3600.0

RUN_SECONDS = prometheus_client.Histogram(
    "sluicewatch_scoring_run_duration_seconds",
    "Scoring every gate as of one midnight",
    buckets=(0.1, 0.5, 1, 5, 10, 30, 60, 300, 900),
)
LAST_SUCCESS = prometheus_client.Gauge("sluicewatch_scoring_last_success_timestamp_seconds", "When the last scoring run ended")


class Forecaster(Protocol):
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
    engine: Engine, model: Model, as_ofs: Sequence[datetime], now: datetime, *, public_url: str = "", chunk: int = CHUNK
) -> list[ScoreReport]:
    """Score every gate as of some UTC midnights, in their order; `now` is when people are told."""
    for as_of in as_ofs:
        if to_ms(as_of) % DAY_MS:
            raise ValueError(f"as_of must be a UTC midnight; got {as_of.isoformat()}")
    days = sorted(as_ofs)
    started = time.perf_counter()
    with engine.connect() as connection:
        gate_ids = sorted(store.load_gates(connection))
        known = {as_of: store.scored_gates(connection, as_of) for as_of in days}
    wanted = [gate_id for gate_id in gate_ids if any(gate_id not in known[as_of] for as_of in days)]
    reports = {as_of: ScoreReport(as_of, known=len(known[as_of])) for as_of in days}
    for start in range(0, len(wanted), chunk):
        for as_of, counts in _score_chunk(engine, model, wanted[start : start + chunk], days, now, public_url):
            reports[as_of] = reports[as_of].add(counts)
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
            }
            store.save_scoring_run(connection, run)
    return done


def score_day(engine: Engine, model: Model, as_of: datetime, now: datetime, *, public_url: str = "") -> ScoreReport:
    """Score every gate as of one UTC midnight."""
    return score_days(engine, model, [as_of], now, public_url=public_url)[0]


def _score_chunk(
    engine: Engine, model: Model, gate_ids: Sequence[str], as_ofs: Sequence[datetime], now: datetime, public_url: str
) -> Iterator[tuple[datetime, Mapping[str, int]]]:
    for gate_id in gate_ids:
        refresh_operations(engine, gate_id, as_ofs[-1])
    with engine.connect() as connection:
        rows = load_features(connection, gate_ids, as_ofs)
    if rows.empty:
        return
    forecasts = model.forecaster.predict(rows)
    for as_of in as_ofs:
        yield (
            as_of,
            _score_gates(
                engine, model.policy, rows[rows["as_of"] == as_of], forecasts[forecasts["as_of"] == as_of], as_of, now, public_url
            ),
        )


def _score_gates(
    engine: Engine,
    policy: Policy,
    rows: pd.DataFrame,
    forecasts: pd.DataFrame,
    as_of: datetime,
    now: datetime,
    public_url: str,
) -> Mapping[str, int]:
    """Publish one day of one chunk: the one transaction."""
    with writing(engine) as connection:
        known = store.scored_gates(connection, as_of)  # by an earlier run that was cut short, or by another process
        rows, forecasts = rows[~rows["gate_id"].isin(known)], forecasts[~forecasts["gate_id"].isin(known)]
        stored = [forecast_row(row) for row in forecasts.to_dict("records")]
        store.save_forecasts(connection, stored)
        day = _Day(connection, policy, sorted(set(rows["gate_id"])), rows, as_of, now, public_url)
        for gate_id, of_gate in _by_gate(stored).items():
            day.step_gate(gate_id, of_gate)
        store.save_cases(connection, day.cases)
        day.tell_stale()
    verdicts = sum(row["verdict"] == "forecast" for row in stored)
    return {"gates": len(day.gate_ids), "forecasts": len(stored), "verdicts": verdicts, **day.counts}


# --- from readings to features --------------------------------------------------------------------------------------


def refresh_operations(engine: Engine, gate_id: str, as_of: datetime) -> int:
    """Make the operations and rests of a gate's dirty days before `as_of` anew; return how many days there were."""
    before_ms = to_ms(as_of)
    with engine.connect() as connection:
        if not historian.load_dirty_days(connection, [gate_id], before_ms):
            return 0
    with writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            # wait for ingest to commit what it has marked; its next mark waits for us. Without it a reading that comes
            # while its day is cut could find the mark still there, and be forgotten when the mark goes.
            connection.execute(sa.text("LOCK TABLE dirty_days IN SHARE ROW EXCLUSIVE MODE"))
        days_ms = historian.load_dirty_days(connection, [gate_id], before_ms).get(gate_id, [])
        for run_ms in _runs(days_ms):
            readings = historian.read_gate(connection, gate_id, run_ms[0], run_ms[-1] + DAY_MS)
            cut = operations.segment(readings)
            historian.replace_days(
                connection,
                gate_id,
                run_ms,
                operations.to_rows(cut.operations, ("started_ms", "ended_ms")),
                operations.to_rows(cut.rests, ("day_ms",)),
            )
    return len(days_ms)


def _runs(days_ms: Iterable[int], longest: int = 31) -> list[list[int]]:
    """Days cut into runs that follow one another, so that a backlog is read in a few pieces and never as a whole."""
    runs: list[list[int]] = []
    for day_ms in days_ms:
        if runs and day_ms == runs[-1][-1] + DAY_MS and len(runs[-1]) < longest:
            runs[-1].append(day_ms)
        else:
            runs.append([day_ms])
    return runs


def load_features(connection: Connection, gate_ids: Sequence[str], as_ofs: Sequence[datetime]) -> pd.DataFrame:
    """Feature rows of some gates as of some midnights, from stored operations, rests and maintenance records."""
    until_ms = to_ms(max(as_ofs))
    gates = historian.load_table(connection, historian.gates, gate_ids).set_index("gate_id")
    named: dict[str, set[str]] = {gate_id: set() for gate_id in gate_ids}
    for table in (historian.components, historian.channels):
        query = sa.select(table.c.gate_id, table.c.component).where(table.c.gate_id.in_(list(gate_ids)))
        for gate_id, component in connection.execute(query):
            named[gate_id].add(component)
    records = historian.load_table(connection, historian.maintenance, gate_ids)
    for column in ("started_at", "ended_at"):
        records[column] = pd.to_datetime(records[column], utc=True).astype("datetime64[ms, UTC]")
    parts = []
    for gate_id in gate_ids:
        rows_of = historian.load_operations(connection, gate_id, 0, until_ms)
        history = features.GateHistory(
            gate_id=gate_id,
            components=features.components_to_score(named[gate_id]),
            hoist_type=str(gates.loc[gate_id, "hoist_type"] or ""),
            operations=operations.from_rows(rows_of, ("started_ms", "ended_ms")),
            rests=operations.from_rows(historian.load_rests(connection, gate_id, 0, until_ms), ("day_ms",)),
            maintenance=records.loc[records["gate_id"] == gate_id, ["component", "kind", "started_at", "ended_at"]].reset_index(
                drop=True
            ),
        )
        parts.append(features.build(history, as_ofs))
    found = [part for part in parts if not part.empty]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["gate_id"])


# --- from forecasts to alerts ---------------------------------------------------------------------------------------


def forecast_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    """One row of a forecast frame as the store keeps it: no NaN, plain numbers, aware instants."""
    numbers = ("p_7d", "p_14d", "p_21d", "ttf_p10_d", "ttf_p50_d", "ttf_p90_d")
    curve = row["curve"]
    return {
        "gate_id": str(row["gate_id"]),
        "component": _text(row["component"]),
        "as_of": pd.Timestamp(row["as_of"]).to_pydatetime().astimezone(UTC),
        "verdict": str(row["verdict"]),
        "reason": _text(row["reason"]),
        **{name: None if pd.isna(row[name]) else float(row[name]) for name in numbers},
        "failure_mode": _text(row["failure_mode"]),
        "model_version": str(row["model_version"]),
        "curve": None if curve is None or isinstance(curve, float) else [float(p) for p in curve],
    }


def _text(value: Any) -> str:
    return "" if value is None or value != value else str(value)


def _by_gate(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["gate_id"], []).append(row)
    return found


@dataclass(frozen=True, slots=True)
class Renewal:
    """A repair or replacement, of one component or ('') of the whole gate."""

    component: str
    started_at: datetime
    ended_at: datetime | None
    recorded_at: datetime


def is_renewed(
    renewals: Iterable[Renewal],
    component: str,
    *,
    as_of: datetime,
    stepped_as_of: datetime | None,
    alert: Alert | None = None,
) -> bool:
    """Whether the component (for '', any part of the gate) went into repair or replacement since its last step.

    A record handed in while an alert is open also counts when the work ended after the alert began: the evidence it was
    opened on belongs to the old part. A crew writes its work order when the work is done.
    """
    for renewal in renewals:
        concerns = not component or renewal.component in ("", component)
        if not concerns or renewal.started_at >= as_of:
            continue
        if stepped_as_of is not None and renewal.started_at >= stepped_as_of:
            return True
        if alert is not None and renewal.recorded_at >= alert.opened_at:
            until = max(renewal.started_at, renewal.ended_at or renewal.started_at)
            if until >= alert.opened_as_of:
                return True
    return False


class _Day:
    """The cases of one chunk of gates on one day; it belongs to the transaction it was made in."""

    def __init__(
        self,
        connection: Connection,
        policy: Policy,
        gate_ids: Sequence[str],
        rows: pd.DataFrame,
        as_of: datetime,
        now: datetime,
        public_url: str,
    ) -> None:
        self.connection, self.policy, self.as_of, self.now = connection, policy, as_of, now
        self.gate_ids, self.public_url = gate_ids, public_url
        self.rows = {(str(row["gate_id"]), str(row["component"])): row for row in rows.to_dict("records")}
        self.gates = store.load_gates(connection, gate_ids)
        self.known_cases = store.load_cases(connection, gate_ids)
        self.alerts = store.unresolved_alerts(connection, gate_ids)
        self.renewals = _load_renewals(connection, gate_ids, as_of)
        self.cases: list[dict[str, Any]] = []
        self.counts: Counter[str] = Counter()

    def step_gate(self, gate_id: str, forecasts: Sequence[Mapping[str, Any]]) -> None:
        """Step the cases of a gate's components; the gate's own case only where the model tells no components apart."""
        of_components = [row for row in forecasts if row["component"]]
        for forecast in of_components or forecasts:
            self._step(self.gates[gate_id], forecast["component"], forecast)

    def _step(self, gate: Gate, component: str, forecast: Mapping[str, Any]) -> None:
        key = (gate.gate_id, component)
        case, alert = self.known_cases.get(key), self.alerts.get(key)
        before = CaseState() if case is None else _case_state(case["state"])
        stepped_as_of = None if case is None else case["stepped_as_of"]
        renewals = self.renewals.get(gate.gate_id, ())
        renewed = is_renewed(renewals, component, as_of=self.as_of, stepped_as_of=stepped_as_of, alert=alert)
        after = rule.next_state(before, ScoredDay(forecast["p_14d"], renewed), self.policy)

        if alert is not None and (renewed or not after.open):
            resolution = "repaired" if renewed else "auto_cleared"
            self._apply(life.resolve(alert, resolution=resolution, by=SCORING.name, at=self.now), gate, "resolved")
            alert = None
        if after.open and forecast["curve"] is not None:
            outlook = self._outlook(gate, forecast)
            if alert is not None:
                self._apply(life.update(alert, outlook, self.now), gate, "updated")
            elif renewed or not before.open:  # an alert that a person resolved stays so until its case has closed
                alert = self._apply(life.open_alert(gate.gate_id, component, outlook, self.now), gate, "opened")
        self.cases.append(
            {
                "gate_id": gate.gate_id,
                "component": component,
                "state": asdict(after),
                "stepped_as_of": self.as_of,
                "alert_id": alert.alert_id if alert is not None else None,
            }
        )

    def _apply(self, change: Change, gate: Gate, count_as: str) -> Alert:
        if change.event_type is not None:
            self.counts[count_as] += 1
        return store.apply_change(
            self.connection, change, actor=SCORING, public_url=self.public_url, gate=gate, reason=change.after.resolution or ""
        )

    def _outlook(self, gate: Gate, forecast: Mapping[str, Any]) -> Outlook:
        return Outlook(
            as_of=self.as_of,
            curve=tuple(forecast["curve"]),
            failure_mode=forecast["failure_mode"],
            model_version=forecast["model_version"],
            severity=cast(Severity, rule.severity(forecast["p_7d"], forecast["p_14d"], gate.criticality)),
            respond_by=rule.respond_by(forecast["curve"], self.as_of),
            confidence="calibrated" if self.policy.calibrated_here else "not_yet_calibrated_here",
            evidence=evidence(self.rows.get((gate.gate_id, forecast["component"]), {}), forecast["component"]),
        )

    def tell_stale(self) -> None:
        """Begin a notice for a gate whose readings stopped, and end it when they are back."""
        reasons: dict[str, set[str]] = {}
        for (gate_id, _), row in self.rows.items():
            reasons.setdefault(gate_id, set()).add(_text(row["reason"]))
        silent: dict[str, Notice] = {
            notice.gate_id: notice for notice in store.open_notices(self.connection, STALE) if notice.gate_id
        }
        for gate_id, found in sorted(reasons.items()):
            gate = self.gates[gate_id]
            is_stale = "stale" in found and found <= {"stale", "under_repair"}
            if is_stale and gate_id not in silent:
                detail = {"as_of": life.rfc3339(self.as_of), "last_seen": self._last_reading(gate_id)}
                notice = life.open_notice(STALE, gate_id, self.now, gate_id=gate_id, detail=detail)
            elif gate_id in silent and not found <= {"stale", "under_repair"}:
                notice = life.close_notice(silent[gate_id], self.now)
            else:
                continue
            store.save_notice(self.connection, notice, actor=SCORING, gate=gate)
            self.counts["notices"] += 1

    def _last_reading(self, gate_id: str) -> str | None:
        """When the gate last sent a reading before this day; in a backlog its newest one may be much later."""
        rows = historian.load_rests(self.connection, gate_id, 0, to_ms(self.as_of))
        days = operations.from_rows(rows[-1:], ("day_ms",))
        return life.rfc3339(from_ms(int(days["last_ms"].iloc[-1]))) if len(days) else None


def _case_state(plain: Mapping[str, Any]) -> CaseState:
    return CaseState(**{**plain, "over": tuple(plain["over"])})


def _load_renewals(connection: Connection, gate_ids: Sequence[str], as_of: datetime) -> dict[str, list[Renewal]]:
    record = historian.maintenance.c
    query = (
        sa.select(record.gate_id, record.component, record.started_at, record.ended_at, record.recorded_at)
        .where(record.gate_id.in_(list(gate_ids)), record.kind.in_(RENEWALS), record.started_at < as_of)
        .order_by(record.maintenance_id)
    )
    found: dict[str, list[Renewal]] = {}
    for row in connection.execute(query):
        renewal = Renewal(row.component, row.started_at, row.ended_at, row.recorded_at)
        found.setdefault(row.gate_id, []).append(renewal)
    return found


def evidence(row: Mapping[Any, Any], component: str) -> tuple[Mapping[str, object], ...]:
    """What stands out in a feature row: evidence at least two of its own standard deviations off, strongest first.

    Vibration and current are given as multiples of the component's own baseline, temperature as kelvin above it.
    """
    found = []
    for group in (*features.OWN_GROUPS, "current"):
        z, dev = row.get(f"{group}_z", math.nan), row.get(f"{group}_dev", math.nan)
        if not (math.isfinite(z) and math.isfinite(dev)) or abs(z) < EVIDENCE_FROM_Z:
            continue
        kelvin = group == "temperature"
        found.append(
            (
                abs(z),
                {
                    "feature": f"{component}.{group}" if component else group,
                    "value": round(dev, 2) if kelvin else round(math.exp(dev), 3),
                    "baseline": 0.0 if kelvin else 1.0,
                    "unit": "K above own baseline" if kelvin else "of own baseline",
                    "direction": "up" if dev > 0 else "down",
                },
            )
        )
    return tuple(item for _, item in sorted(found, key=lambda pair: -pair[0]))


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
        tables = (historian.dirty_days, historian.rests)  # read already and not yet; a first run may have been cut short
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
    state: ScoringState | None = None,
) -> None:
    """Be the `score` process: score each midnight once the clock has passed it by `grace`, with the champion of the day.

    A day that cannot be scored is tried again; a champion that cannot be loaded leaves the one before it at work.

    Raises
    ------
    RegistryError
        There is no champion to begin with.
    """
    state = state or ScoringState()
    model = models.load(registry)
    log.info("scoring with model %s", model.version)
    while not stop.is_set():
        state.moved_at = time.monotonic()
        reports: list[ScoreReport] = []
        try:
            model = _newest(registry, model)
            reports = score_due(engine, model, clock=clock, grace=grace, backlog=backlog, public_url=public_url)
            state.fault = ""
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
    clock: Callable[[], datetime],
    grace: timedelta = GRACE,
    backlog: timedelta = BACKLOG,
    public_url: str = "",
) -> list[ScoreReport]:
    """Score the next midnights that are due, a month of them at most; nothing when none is."""
    with engine.connect() as connection:
        following = next_midnight(connection, backlog, clock)
    now = clock()
    if following is None:
        return []
    as_ofs = [following + number * DAY for number in range(DAYS_AT_ONCE) if following + number * DAY + grace <= now]
    return score_days(engine, model, as_ofs, now, public_url=public_url)


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
