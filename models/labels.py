"""From maintenance records to what a forecast should have said. No clock, no database, no network.

A row is one ``(gate_id, component, as_of)``; the empty component is the gate as a whole. A component's event is its own
failure, a gate's event is any failure of the gate, those without a component (a jam, a lost phase) among them. A
repair or replacement that came before the failure *censors*: nobody knows when the old part would have failed, whatever
the finding says. So does a visit of any kind that found damage, and an alert that nobody looked into: that no failure came
afterwards proves nothing there. See docs/labels.md. Rows are split by whole gates and by time only; there is no split by
random rows, because neighbouring days of one gate are nearly copies of each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.cycles import OPEN_REPAIR_DAYS, WITHOUT_REPAIR_DAYS
from pipeline.dataset import FINDINGS
from pipeline.errors import BadInput
from pipeline.readings import DAY_MS

HORIZON_DAYS = 21
"""How far a forecast looks."""

RENEWALS = ("repair", "replacement")
"""Kinds of maintenance after which the component is as new."""

CONFIRMS = ("confirmed_failure", "confirmed_degradation", "prevented_by_maintenance")
"""Findings that there was damage: what an alert foretold was there."""

REFUTES = ("no_fault_found", "false_alarm")
"""Findings that there was none."""

NOT_LOOKED = "not_inspected"

DOUBTS = (*CONFIRMS, NOT_LOOKED)
"""Findings after which no failure on record is no proof of health: somebody will have seen to it, or nobody looked."""

REPORTING_LAG_DAYS = 7
"""How long after a failure its record may be handed in; before, the living record does not count as complete."""

FAR_MS = np.iinfo(np.int64).max
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class LabelError(BadInput):
    """Records from which no label can be made."""


def epoch_ms(instants: pd.Series) -> IntArray:
    """Epoch milliseconds of aware instants; NaT becomes the far future (an end that is not known yet)."""
    moments = pd.to_datetime(instants, utc=True).astype("datetime64[ms, UTC]")
    return np.where(moments.isna(), FAR_MS, moments.astype("int64")).astype(np.int64)


@dataclass(frozen=True, slots=True)
class UnitHistory:
    """What happened to one unit: one component of one gate, or (component ``""``) the gate as a whole.

    Times are epoch milliseconds, sorted. A gate's history holds the records of all its components.

    Attributes
    ----------
    failures_ms, modes, failed : start of each failure, its mode (``""`` unknown), the component that failed
    renewals_ms : start of each repair or replacement
    doubts_ms : start of each record from which on no failure proves nothing: renewals, damage found, nobody looked
    confirmed_ms : start of each visit on which an alert was confirmed
    excuses_ms : start of each renewal after which nobody can say whether an alarm was right: all but those on which an alert
        was refuted
    unlooked_ms : start of each record of an alert that nobody looked into
    down_ms : intervals [start, end) out of service, shape (n, 2); the unit is as new at each end
    """

    failures_ms: IntArray
    modes: tuple[str, ...]
    failed: tuple[str, ...]
    renewals_ms: IntArray
    doubts_ms: IntArray
    confirmed_ms: IntArray
    excuses_ms: IntArray
    unlooked_ms: IntArray
    down_ms: IntArray

    def next_failure(self, at_ms: IntArray) -> IntArray:
        """Index of the first failure after each instant; ``len(failures_ms)`` where none follows."""
        found: IntArray = np.searchsorted(self.failures_ms, at_ms, side="right")
        return found


class History:
    """The maintenance records of a fleet, looked up by unit.

    Parameters
    ----------
    maintenance : DataFrame, one row per record
        Columns ``gate_id, component, kind, started_at, ended_at`` and, where known, ``failure_mode, finding, alert_id``.

    Notes
    -----
    A finding is of an alert when its record names one (``alert_id``); what one record of an alert found holds for the others,
    of several findings the first in `pipeline.dataset.FINDINGS`. Without an alert it says nothing about alarms: a periodic
    inspection finds damage too.

    A record without a component is of the whole gate: such a repair renews every component, such a failure is an event
    of the gate and of none of its components. What is out of service follows `pipeline.cycles.cycle_state`, in
    hindsight: a failure lasts until its own ``ended_at``, else to the end of the repair that follows it within 30 days,
    else one day; a repair without an end lasts 7 days.
    """

    def __init__(self, maintenance: pd.DataFrame) -> None:
        self._records: dict[str, list[_Record]] = {}
        self._units: dict[tuple[str, str], UnitHistory] = {}
        text = {name: _text(maintenance, name) for name in ("component", "failure_mode", "finding", "alert_id")}
        columns = (
            maintenance["gate_id"],
            epoch_ms(maintenance["started_at"]),
            epoch_ms(maintenance["ended_at"]),
            maintenance["kind"],
            *text.values(),
            _of_alerts(text["finding"], text["alert_id"]),
        )
        for gate_id, started, ended, kind, component, mode, finding, _, of_alert in zip(*columns, strict=True):
            record = _Record(int(started), int(ended), str(kind), component, mode, finding, of_alert)
            self._records.setdefault(str(gate_id), []).append(record)
        for records in self._records.values():
            records.sort()

    def unit(self, gate_id: str, component: str) -> UnitHistory:
        """Return the history of one component, or of the whole gate for ``""``."""
        key = (gate_id, component)
        if key not in self._units:
            self._units[key] = _unit_history(self._records.get(gate_id, []), component)
        return self._units[key]


@dataclass(frozen=True, slots=True, order=True)
class _Record:
    started_ms: int
    ended_ms: int
    kind: str
    component: str
    mode: str
    finding: str
    of_alert: str

    @property
    def renews(self) -> bool:
        return self.kind in RENEWALS


def _text(maintenance: pd.DataFrame, name: str) -> pd.Series:
    if name not in maintenance:
        return pd.Series("", index=maintenance.index)
    return maintenance[name].fillna("").astype(str)


def _of_alerts(finding: pd.Series, alert_id: pd.Series) -> list[str]:
    """What was found of the alert that each record names, on whichever visit; ``""`` where it names none."""
    found: dict[str, str] = {}
    for alert, word in zip(alert_id, finding, strict=True):
        if alert and word in FINDINGS:
            found[alert] = min(word, found.get(alert, word), key=FINDINGS.index)
    return [found.get(alert, "") for alert in alert_id]


def _unit_history(records: Sequence[_Record], component: str) -> UnitHistory:
    failures = [r for r in records if r.kind == "failure" and component in ("", r.component)]
    others = [r for r in records if r.kind != "failure" and (component in ("", r.component) or r.component == "")]
    renewals = [r for r in others if r.renews]
    down = [(r.started_ms, _end_of_repair(r)) for r in renewals]
    down += [(r.started_ms, _end_of_failure(r, renewals)) for r in failures]
    return UnitHistory(
        failures_ms=_starts(failures),
        modes=tuple(r.mode for r in failures),
        failed=tuple(r.component for r in failures),
        renewals_ms=_starts(renewals),
        doubts_ms=_starts(r for r in others if r.renews or r.finding in DOUBTS),
        confirmed_ms=_starts(r for r in others if r.of_alert in CONFIRMS),
        excuses_ms=_starts(r for r in renewals if r.of_alert not in REFUTES),
        unlooked_ms=_starts(r for r in others if r.of_alert == NOT_LOOKED),
        down_ms=np.array(sorted(down), dtype=np.int64).reshape(-1, 2),
    )


def _starts(records: Iterable[_Record]) -> IntArray:
    return np.array([record.started_ms for record in records], dtype=np.int64)


def _end_of_repair(repair: _Record) -> int:
    return repair.ended_ms if repair.ended_ms != FAR_MS else repair.started_ms + OPEN_REPAIR_DAYS * DAY_MS


def _end_of_failure(failure: _Record, renewals: Sequence[_Record]) -> int:
    if failure.ended_ms != FAR_MS:
        return failure.ended_ms
    until_ms = failure.started_ms + WITHOUT_REPAIR_DAYS * DAY_MS
    mends = (
        _end_of_repair(r)
        for r in renewals
        if failure.started_ms <= r.started_ms <= until_ms and r.component in ("", failure.component)
    )
    return next(mends, failure.started_ms + DAY_MS)


def label(
    rows: pd.DataFrame, maintenance: pd.DataFrame | History, observed_until: Mapping[str, datetime] | pd.Series
) -> pd.DataFrame:
    """Say for each row when its event came, and for how long it is known not to have come.

    Parameters
    ----------
    rows : DataFrame
        Columns ``gate_id, component, as_of``; component ``""`` asks about the gate as a whole.
    maintenance : DataFrame or History
    observed_until : mapping from gate_id to the end of that gate's record

    Returns
    -------
    DataFrame, same index as `rows`
        ``failure_d`` : day on which the event came, 1 for (as_of, as_of + 1 d]; NaN where it did not come or a repair
        came first. ``free_d`` : whole days observed without the event, up to the first doubt
        (`UnitHistory`). ``failure_mode`` : of that event, ``""`` where
        none or unknown. ``at_risk`` : False while the unit was out of service, and at and after the end of the record.

    Raises
    ------
    LabelError
        A gate has no end of record.
    """
    history = maintenance if isinstance(maintenance, History) else History(maintenance)
    as_of_ms = epoch_ms(rows["as_of"])
    failure_d = np.full(len(rows), np.nan)
    free_d = np.zeros(len(rows))
    mode = np.full(len(rows), "", dtype=object)
    at_risk = np.zeros(len(rows), dtype=bool)
    for (gate_id, component), places in _places(rows).items():
        end_ms = end_of_record_ms(observed_until, gate_id)
        unit = history.unit(gate_id, component)
        at = as_of_ms[places]
        index = unit.next_failure(at)
        fails_ms = np.append(unit.failures_ms, FAR_MS)[index]
        renewed_ms, doubted_ms = _next(unit.renewals_ms, at), _next(unit.doubts_ms, at)
        came = (fails_ms < FAR_MS) & (fails_ms <= renewed_ms)
        day = np.ceil((fails_ms[came] - at[came]) / DAY_MS)
        failure_d[places[came]] = day
        free_d[places] = np.maximum((np.minimum(doubted_ms, end_ms) - at) // DAY_MS, 0)
        free_d[places[came]] = day - 1
        mode[places[came]] = np.array([*unit.modes, ""], dtype=object)[index[came]]
        at_risk[places] = (at < end_ms) & ~_inside(at, unit.down_ms)
    out = {"failure_d": failure_d, "free_d": free_d, "failure_mode": mode, "at_risk": at_risk}
    return pd.DataFrame(out, index=rows.index)


def _next(starts_ms: IntArray, at_ms: IntArray) -> IntArray:
    """The first start after each instant, `FAR_MS` where none follows."""
    found: IntArray = np.append(starts_ms, FAR_MS)[np.searchsorted(starts_ms, at_ms, side="right")]
    return found


def end_of_record_ms(observed_until: Mapping[str, datetime] | pd.Series, gate_id: str) -> int:
    """Return the end of a gate's record in epoch milliseconds; LabelError where it has none."""
    if gate_id not in observed_until:
        raise LabelError(f"gate {gate_id!r} has no end of record: it has no readings")
    return int(pd.Timestamp(observed_until[gate_id]).value // 1_000_000)


def outcome(labels: pd.DataFrame, horizon_d: int) -> FloatArray:
    """Return 1 where the event came within the horizon, 0 where it is known not to have come, NaN where unknown."""
    came = labels["failure_d"].to_numpy() <= horizon_d
    free = labels["free_d"].to_numpy() >= horizon_d
    return np.where(labels["at_risk"], np.where(came, 1.0, np.where(free, 0.0, np.nan)), np.nan)


def matured_until(now: datetime, days: int) -> datetime:
    """Return the last ``as_of`` of a living service whose outcome within so many days counts by now.

    A record may be handed in 7 days late. Rows whose failure is known already must wait as long as those without one: counted
    when they come, failures would stand in the figures before the days on which nothing happened.

    Examples
    --------
    >>> matured_until(datetime(2026, 3, 22), 14).isoformat()
    '2026-03-01T00:00:00'
    """
    return now - timedelta(days=days + REPORTING_LAG_DAYS)


def _places(rows: pd.DataFrame) -> dict[tuple[str, str], IntArray]:
    units = pd.MultiIndex.from_frame(rows[["gate_id", "component"]])
    codes, uniques = pd.factorize(units)
    order = np.argsort(codes, kind="stable")
    runs = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1) if len(rows) else []
    return {(str(gate_id), str(component)): run for (gate_id, component), run in zip(uniques, runs, strict=True)}


def _inside(at_ms: IntArray, intervals_ms: IntArray) -> npt.NDArray[np.bool_]:
    hit = np.zeros(len(at_ms), dtype=bool)
    for start_ms, end_ms in intervals_ms:
        hit |= (at_ms >= start_ms) & (at_ms < end_ms)
    return hit


@dataclass(frozen=True, slots=True)
class Split:
    """Who learns and who is asked: whole gates, and the asked ones later in time. Another split is refused.

    Attributes
    ----------
    development, test : gate ids, disjoint
    development_until : last as_of that may teach
    test_from : first as_of that is tested; at least the horizon later

    Raises
    ------
    LabelError
        A gate would both teach and be tested, or a label that teaches would look into the tested time.
    """

    development: frozenset[str]
    test: frozenset[str]
    development_until: datetime
    test_from: datetime

    def __post_init__(self) -> None:
        both = sorted(self.development & self.test)
        if both:
            raise LabelError(f"a gate must not both teach and be tested, its days are nearly copies of each other; got {both[0]}")
        if self.test_from - self.development_until < timedelta(days=HORIZON_DAYS):
            raise LabelError(
                f"the test must start {HORIZON_DAYS} days after the last day that teaches, or later; "
                f"got {self.development_until:%Y-%m-%d} and {self.test_from:%Y-%m-%d}"
            )

    def teaches(self, rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
        """Mask of the rows that may teach."""
        mask = rows["gate_id"].isin(self.development) & (rows["as_of"] <= self.development_until)
        return mask.to_numpy(dtype=bool)

    def tests(self, rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
        """Mask of the rows that test."""
        return (rows["gate_id"].isin(self.test) & (rows["as_of"] >= self.test_from)).to_numpy(dtype=bool)


def hold_out(
    failures: Mapping[str, int],
    first: datetime,
    last: datetime,
    *,
    seed: int,
    test_share: float = 0.25,
    test_time_share: float = 0.35,
    embargo: timedelta = timedelta(days=HORIZON_DAYS),
) -> Split:
    """Hold out whole gates for the last part of the record.

    Parameters
    ----------
    failures : mapping from every gate_id to its number of failures
        Both sides get gates of every count, so that a small test is not without failures by bad luck.
    first, last : first and last as_of of the record
    embargo : at least the horizon, so that no label that teaches looks into the tested time

    Raises
    ------
    LabelError
        Fewer than two gates, an embargo below the horizon, or a record too short to hold back a part of it.
    """
    if len(failures) < 2:
        raise LabelError(f"at least 2 gates are needed to hold out whole gates; got {len(failures)}")
    days = (last - first).days
    test_from = first + timedelta(days=round(days * (1 - test_time_share)))
    if test_from - embargo <= first:
        raise LabelError(f"the record must be longer than {embargo.days} days before its tested part; it has {days} days in all")
    parts = max(2, round(1 / test_share))
    test = gate_folds(failures, parts, seed=seed)[0]
    return Split(frozenset(failures) - test, test, test_from - embargo, test_from)


def gate_folds(failures: Mapping[str, int], n_folds: int, *, seed: int) -> list[frozenset[str]]:
    """Deal whole gates into folds, those with many failures first, in an order drawn from the seed."""
    rng = np.random.default_rng(seed)
    shuffled: list[str] = rng.permutation(sorted(failures)).tolist()
    dealt = sorted(shuffled, key=lambda gate_id: -failures[gate_id])
    folds: list[list[str]] = [[] for _ in range(min(n_folds, len(dealt)))]
    for start in range(0, len(dealt), len(folds)):
        hand = dealt[start : start + len(folds)]
        for fold, gate_id in zip(rng.permutation(len(folds)), hand, strict=False):
            folds[fold].append(gate_id)
    return [frozenset(fold) for fold in folds]


def failures_per_gate(maintenance: pd.DataFrame, gate_ids: Iterable[str]) -> dict[str, int]:
    """Count the failure records of every gate, 0 for gates without one."""
    counts = maintenance.loc[maintenance["kind"] == "failure", "gate_id"].value_counts()
    return {gate_id: int(counts.get(gate_id, 0)) for gate_id in gate_ids}
