"""Alert policy: when forecasts open, keep and close a case, and which threshold keeps the alarm budget.

ONE rule: `next_state` runs day by day in the live service; `Replay` runs the same function over a forecast file, for
tuning and for evaluation. No clock, no database, no network.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import chi2

from models.labels import FAR_MS, FloatArray, History, IntArray, end_of_record_ms, epoch_ms
from pipeline.errors import BadInput
from pipeline.readings import DAY_MS

BUDGET_PER_GATE_YEAR = 0.2
"""False alarms a crew accepts, by default, per gate and year."""

ENOUGH_GATE_YEARS = 60.0
"""History below which a site's own threshold is no better than the shipped one."""

SHIPPED_OPEN_AT = 0.4
"""Threshold where neither this site nor a shipped model has one yet."""


def threshold(hundredths: int) -> float:
    """The probability whose log-odds are so many hundredths."""
    return float(1 / (1 + np.exp(-hundredths / 100)))


HIGHEST, LOWEST = 1200, -1200
"""Between these thresholds (hundredths of log-odds) one is searched."""

STEPS = (10, 5)
"""By how many hundredths a threshold is lowered, until it is too low: a replay of a large fleet takes a second. The last one is
the only slack that the budget has on gates not seen yet."""

NEVER = threshold(HIGHEST)

BOUND_CONFIDENCE = 0.9
BOOTSTRAP_DRAWS = 1000

EVIDENCE_DAYS = 28
"""An alarm is true when a failure, or a finding that it was right, follows within this many days of its start."""

YEAR_DAYS = 365.25
RESPOND_AT = 0.1
SEVERITIES = ("low", "medium", "high", "critical")


class PolicyError(BadInput):
    """A threshold or budget outside its range."""


@dataclass(frozen=True, slots=True)
class Policy:
    """When a case opens and closes.

    Attributes
    ----------
    open_at : threshold T on ``p_14d``, inside (0, 1)
    budget_per_gate_year : false alarms per gate-year that T was tuned for
    tuned_gate_years, tuned_false_alarms : on how much it was tuned, and what it made there
    calibrated_here : False while the threshold is a shipped one: say "not yet calibrated here" beside every forecast

    Examples
    --------
    >>> Policy(open_at=0.5).close_at    # half the odds of 1:1 is 1:2
    0.3333333333333333
    """

    open_at: float
    budget_per_gate_year: float = BUDGET_PER_GATE_YEAR
    tuned_gate_years: float = 0.0
    tuned_false_alarms: int = 0
    calibrated_here: bool = False
    days_to_open: int = 2
    days_looked_at: int = 3
    days_to_close: int = 5

    def __post_init__(self) -> None:
        if not 0 < self.open_at < 1:
            raise PolicyError(f"open_at must lie between 0 and 1; got {self.open_at!r}")
        if not self.budget_per_gate_year > 0:
            raise PolicyError(f"budget_per_gate_year must be above 0; got {self.budget_per_gate_year!r}")
        if not 1 <= self.days_to_open <= self.days_looked_at:
            raise PolicyError(f"days_to_open must lie between 1 and {self.days_looked_at}; got {self.days_to_open!r}")

    @property
    def close_at(self) -> float:
        """Half the odds of `open_at`; the gap is the deadband, without it a probability near T would chatter."""
        return self.open_at / (2 - self.open_at)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Policy:
        """Rebuild from a manifest; what a newer version added is ignored."""
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})


@dataclass(frozen=True, slots=True)
class ScoredDay:
    """What one day said about one component.

    Attributes
    ----------
    p_14d : probability of failure within 14 days; None where the day has no verdict
    renewed : the component (or its whole gate) went into repair or replacement since the day before
    """

    p_14d: float | None
    renewed: bool = False


@dataclass(frozen=True, slots=True)
class CaseState:
    """Where one component's case stands after a day; a component never seen starts with ``CaseState()``.

    Attributes
    ----------
    over : whether each of the last scored days reached the threshold, the newest last
    days_below : scored days in a row below the closing level, while open
    """

    open: bool = False
    over: tuple[bool, ...] = ()
    days_below: int = 0


def next_state(state: CaseState, day: ScoredDay, policy: Policy) -> CaseState:
    """Return the case's state after one day.

    Opens on 2 of the last 3 scored days, closes after 5 scored days in a row below half the odds, and at once on a
    repair or replacement. A day without verdict neither opens nor closes: no data is not good news.
    """
    if day.renewed:
        state = CaseState()
    if day.p_14d is None:
        return state
    over = (*state.over, day.p_14d >= policy.open_at)[-policy.days_looked_at :]
    if state.open:
        below = state.days_below + 1 if day.p_14d < policy.close_at else 0
        still_open = below < policy.days_to_close
        return CaseState(open=still_open, over=over, days_below=below if still_open else 0)
    return CaseState(open=sum(over) >= policy.days_to_open, over=over)


def severity(p_7d: float, p_14d: float, criticality: str = "") -> str:
    """How bad a forecast is: critical if p_7d >= 0.5, high if p_7d >= 0.25 or p_14d >= 0.5, else medium.

    A gate of criticality ``high`` goes one step up.

    Examples
    --------
    >>> severity(0.3, 0.4), severity(0.3, 0.4, "high"), severity(0.1, 0.3)
    ('high', 'critical', 'medium')
    """
    level = 3 if p_7d >= 0.5 else 2 if p_7d >= 0.25 or p_14d >= 0.5 else 1
    if criticality == "high":
        level = min(level + 1, len(SEVERITIES) - 1)
    return SEVERITIES[level]


def respond_by(curve: Sequence[float], as_of: datetime) -> datetime:
    """Return the first day on which the curve reaches 0.1, at least one day ahead; the curve's end where it never does.

    Examples
    --------
    >>> from datetime import UTC
    >>> respond_by([0.02, 0.05, 0.11, 0.2], datetime(2026, 3, 1, tzinfo=UTC)).date().isoformat()
    '2026-03-04'
    """
    return as_of + timedelta(days=first_day_at(curve, RESPOND_AT) or len(curve))


def first_day_at(curve: Sequence[float], level: float) -> int | None:
    """Return the first day (1 for the first value) on which a non-decreasing curve reaches the level; None if never."""
    return next((day for day, p in enumerate(curve, start=1) if p >= level), None)


@dataclass(frozen=True, slots=True)
class Alarm:
    """A gate in alarm: from the day its first case opened to the day none was open any more.

    Attributes
    ----------
    started_ms, ended_ms : as_of of the opening and of the closing, epoch milliseconds; `FAR_MS` when open at the end
    opened_ms : the components whose cases were open meanwhile, each with the as_of on which its first case opened
    """

    gate_id: str
    started_ms: int
    ended_ms: int
    opened_ms: Mapping[str, int]

    @property
    def components(self) -> frozenset[str]:
        """The components whose cases were open meanwhile."""
        return frozenset(self.opened_ms)


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of one alarm.

    Attributes
    ----------
    is_true : a failure of the gate, or a visit on which an alert was confirmed, followed within 28 days of its start; None
        when a repair, a replacement or the end of the record came first, or nobody looked, so that nobody can say. A repair
        on which the alert was refuted is no excuse.
    charged_ms : starts of the false alarms it costs, epoch milliseconds: its own, and one more for every further 28 days
        it stays open without a failure
    """

    is_true: bool | None
    charged_ms: tuple[int, ...]

    @property
    def charged(self) -> int:
        """How many false alarms it costs."""
        return len(self.charged_ms)


def merge_cases(gate_id: str, cases: Iterable[tuple[int, int, str]]) -> list[Alarm]:
    """Make a gate's cases (start, end in epoch milliseconds, component) into its alarms, in order of time."""
    alarms: list[Alarm] = []
    for started_ms, ended_ms, component in sorted(cases):
        last = alarms[-1] if alarms else None
        if last and started_ms <= last.ended_ms:
            ended_ms = max(ended_ms, last.ended_ms)
            opened_ms = {component: started_ms} | dict(last.opened_ms)
            alarms[-1] = replace(last, ended_ms=ended_ms, opened_ms=opened_ms)
        else:
            alarms.append(Alarm(gate_id, started_ms, ended_ms, {component: started_ms}))
    return alarms


def judge(alarm: Alarm, history: History, until_ms: int) -> Judged:
    """Say whether an alarm was true, and which false alarms it costs, when its gate is known up to `until_ms`."""
    gate = history.unit(alarm.gate_id, "")
    # a crew that acts on an alert prevents the failure: its finding stands for it
    proofs_ms = np.concatenate([gate.failures_ms, gate.confirmed_ms])
    own = [history.unit(alarm.gate_id, component) for component in alarm.components]
    excuses_ms = np.concatenate([unit.excuses_ms for unit in own])
    unlooked_ms = np.concatenate([unit.unlooked_ms for unit in own])
    charged_ms: list[int] = []
    is_true: bool | None = None
    start_ms = alarm.started_ms
    while start_ms == alarm.started_ms or start_ms + EVIDENCE_DAYS * DAY_MS <= min(alarm.ended_ms, until_ms):
        verdict = _judge_days(start_ms, proofs_ms, excuses_ms, unlooked_ms, until_ms)
        if start_ms == alarm.started_ms:
            is_true = verdict
        if verdict is False:
            charged_ms.append(start_ms)
        start_ms += EVIDENCE_DAYS * DAY_MS
    return Judged(is_true, tuple(charged_ms))


@dataclass(slots=True)
class _Series:
    component: str
    as_of_ms: IntArray
    p_14d: FloatArray
    renewed: npt.NDArray[np.bool_]
    highest: float


class Replay:
    """A forecast file beside its maintenance records, ready to be run through the rule at any threshold.

    Parameters
    ----------
    forecasts : DataFrame
        Columns ``gate_id, component, as_of, p_14d`` of a forecast file; a missing ``p_14d`` is a day without verdict,
        and of two rows for one day the last counts. Rows of the gate as a whole open cases only for gates that have no
        component rows.
    maintenance : DataFrame or History
    observed_until : mapping from gate_id to the end of that gate's record; what came more than 28 days after a gate's last
        forecast day is not looked at
    """

    def __init__(
        self,
        forecasts: pd.DataFrame,
        maintenance: pd.DataFrame | History,
        observed_until: Mapping[str, datetime] | pd.Series,
    ) -> None:
        self.history = maintenance if isinstance(maintenance, History) else History(maintenance)
        self._series: dict[str, list[_Series]] = {}
        self._charged: dict[tuple[tuple[float, ...], str], int] = {}
        self.observed_until_ms: dict[str, int] = {}
        self.scored_from_ms: dict[str, int] = {}
        self.scored_until_ms: dict[str, int] = {}
        self.evidence_days: dict[str, int] = {}
        rows = pd.DataFrame(
            {
                "gate_id": forecasts["gate_id"].astype(str),
                "component": forecasts["component"].astype(object).where(forecasts["component"].notna(), ""),
                "as_of_ms": epoch_ms(forecasts["as_of"]),
                "p_14d": pd.to_numeric(forecasts["p_14d"]).to_numpy(dtype="float64", na_value=np.nan),
            }
        )
        rows = rows.drop_duplicates(["gate_id", "component", "as_of_ms"], keep="last")
        for gate_id, frame in rows.sort_values(["gate_id", "component", "as_of_ms"]).groupby("gate_id", sort=True):
            self._add_gate(str(gate_id), frame, end_of_record_ms(observed_until, str(gate_id)))

    def _add_gate(self, gate_id: str, frame: pd.DataFrame, until_ms: int) -> None:
        by_component = {str(name): rows for name, rows in frame.groupby("component", sort=True)}
        parts = [name for name in by_component if name] or [""]
        self._series[gate_id] = []
        for component in parts:
            as_of_ms = by_component[component]["as_of_ms"].to_numpy()
            p_14d = by_component[component]["p_14d"].to_numpy()
            starts_ms = self.history.unit(gate_id, component).renewals_ms
            # a record is known on the first as_of strictly after it
            seen = np.searchsorted(starts_ms, as_of_ms, side="left")
            renewed = np.diff(seen, prepend=seen[:1]) > 0
            highest = float(np.nanmax(p_14d)) if np.isfinite(p_14d).any() else -np.inf
            self._series[gate_id].append(_Series(component, as_of_ms, p_14d, renewed, highest))
        days_ms = frame["as_of_ms"].to_numpy()
        # whether an alarm of the last day would still be open later, nobody knows
        until_ms = min(until_ms, int(days_ms.max()) + EVIDENCE_DAYS * DAY_MS)
        self.observed_until_ms[gate_id] = until_ms
        self.scored_from_ms[gate_id] = int(days_ms.min())
        self.scored_until_ms[gate_id] = int(days_ms.max())
        scored = frame[frame["p_14d"].notna() & (frame["as_of_ms"] <= until_ms - EVIDENCE_DAYS * DAY_MS)]
        self.evidence_days[gate_id] = int(scored["as_of_ms"].nunique())

    @property
    def gate_ids(self) -> list[str]:
        """Gates of the file, sorted."""
        return list(self._series)

    @property
    def gate_years(self) -> float:
        """Gate-years over which false alarms can be counted.

        Days with a verdict, without the last 28 of a gate's record: an alarm that starts there can never be called
        false.
        """
        return float(self.years_per_gate.sum())

    @property
    def years_per_gate(self) -> FloatArray:
        """As `gate_years`, of each gate in the order of `gate_ids`."""
        return np.array([self.evidence_days[gate_id] for gate_id in self.gate_ids], dtype=np.float64) / YEAR_DAYS

    def alarms(self, policy: Policy, gate_id: str) -> list[Alarm]:
        """Run the rule over one gate and return its alarms in order of time."""
        return merge_cases(
            gate_id,
            (
                (started_ms, ended_ms, series.component)
                for series in self._series[gate_id]
                for started_ms, ended_ms in _cases(series, policy)
            ),
        )

    def judge(self, alarm: Alarm) -> Judged:
        """Say whether an alarm was true, and which false alarms it costs."""
        return judge(alarm, self.history, self.observed_until_ms[alarm.gate_id])

    def false_alarms(self, policy: Policy) -> int:
        """Count the false alarms of the whole fleet under a policy."""
        return int(self.false_alarms_per_gate(policy).sum())

    def false_alarms_per_gate(self, policy: Policy) -> IntArray:
        """Count the false alarms of each gate under a policy, in the order of `gate_ids`."""
        rule = (policy.open_at, policy.days_to_open, policy.days_looked_at, policy.days_to_close)
        return np.array([self._charged_to(policy, rule, gate_id) for gate_id in self.gate_ids], dtype=np.int64)

    def _charged_to(self, policy: Policy, rule: tuple[float, ...], gate_id: str) -> int:
        if (rule, gate_id) not in self._charged:
            self._charged[rule, gate_id] = sum(self.judge(alarm).charged for alarm in self.alarms(policy, gate_id))
        return self._charged[rule, gate_id]

    def only(self, gate_ids: Collection[str]) -> Replay:
        """The same replay of some of its gates; what was counted once is not counted again."""
        part = copy.copy(self)
        chosen = set(gate_ids)
        part._series = {gate_id: series for gate_id, series in self._series.items() if gate_id in chosen}
        part.evidence_days = {gate_id: days for gate_id, days in self.evidence_days.items() if gate_id in chosen}
        return part


def _judge_days(start_ms: int, proofs_ms: IntArray, excuses_ms: IntArray, unlooked_ms: IntArray, until_ms: int) -> bool | None:
    end_ms = start_ms + EVIDENCE_DAYS * DAY_MS
    first_proof_ms = min(proofs_ms[(proofs_ms > start_ms) & (proofs_ms <= end_ms)], default=FAR_MS)
    first_excuse_ms = min(excuses_ms[(excuses_ms >= start_ms) & (excuses_ms <= end_ms)], default=FAR_MS)
    if first_proof_ms <= min(first_excuse_ms, end_ms):
        return True
    nobody_looked = bool(((unlooked_ms >= start_ms) & (unlooked_ms <= end_ms)).any())
    return None if first_excuse_ms < FAR_MS or nobody_looked or until_ms < end_ms else False


def _cases(series: _Series, policy: Policy) -> list[tuple[int, int]]:
    if series.highest < policy.open_at:
        return []
    cases: list[tuple[int, int]] = []
    state = CaseState()
    opened_ms = 0
    first = int(np.argmax(series.p_14d >= policy.open_at))  # before it, the rule has nothing to remember
    for as_of_ms, p_14d, renewed in zip(
        series.as_of_ms[first:].tolist(), series.p_14d[first:].tolist(), series.renewed[first:].tolist(), strict=True
    ):
        was_open = state.open
        state = next_state(state, ScoredDay(None if p_14d != p_14d else p_14d, renewed), policy)
        if state.open and not was_open:
            opened_ms = as_of_ms
        elif was_open and not state.open:
            cases.append((opened_ms, as_of_ms))
    if state.open:
        cases.append((opened_ms, FAR_MS))
    return cases


def upper_bound_per_year(false_alarms: int, gate_years: float, confidence: float = BOUND_CONFIDENCE) -> float:
    """Upper confidence bound of a Poisson rate (Garwood's exact one).

    Examples
    --------
    >>> round(upper_bound_per_year(0, 10.0), 3)    # -ln(0.1) / 10
    0.23
    """
    if gate_years <= 0:
        return float("inf")
    return float(chi2.ppf(confidence, 2 * (false_alarms + 1)) / 2 / gate_years)


def lower_bound_per_year(false_alarms: int, gate_years: float, confidence: float = BOUND_CONFIDENCE) -> float:
    """Lower confidence bound of a Poisson rate (Garwood's exact one); 0 while there are no false alarms.

    Examples
    --------
    >>> round(lower_bound_per_year(1, 1.0), 3)    # -ln(0.9)
    0.105
    """
    if gate_years <= 0 or not false_alarms:
        return 0.0
    return float(chi2.ppf(1 - confidence, 2 * false_alarms) / 2 / gate_years)


class RateBound:
    """The 90 % upper bound of a fleet's false alarms per gate-year: what the true rate hardly exceeds.

    The greater of two. Garwood's takes false alarms for independent. A bootstrap over whole gates does not: one badly
    mounted sensor makes several. It draws from the gates seen and one more, as bad as the worst of them, for the same
    reason for which Garwood's bound counts one alarm more than was seen: the next gate may be of a kind that these few
    did not show. Without it, simulated fleets whose gates differ much were over budget in 15 to 20 of 100 cases
    where 10 are meant; with it, in 6 to 11.

    Parameters
    ----------
    years_per_gate : array of shape (gates,)
        Gate-years over which each gate's false alarms are counted.
    seed : of the draws; the same gates give the same bound

    Examples
    --------
    >>> spread, on_one_gate = np.array([1] * 6 + [0] * 54), np.array([6] + [0] * 59)
    >>> bound = RateBound(np.full(60, 1.0))
    >>> round(bound.per_year(spread), 2), round(bound.per_year(on_one_gate), 2)
    (0.18, 0.41)
    """

    def __init__(self, years_per_gate: FloatArray, *, draws: int = BOOTSTRAP_DRAWS, seed: int = 0) -> None:
        self._gate_years = float(years_per_gate.sum())
        n = len(years_per_gate) + 1
        # how often each draw takes each gate; the added one, last, brings alarms and no time
        self._taken = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
        self._years = self._taken[:, :-1] @ years_per_gate

    def per_year(self, false_alarms_per_gate: IntArray) -> float:
        """Return the bound for these counts, in the order of the gates' years; infinite without any gate-years."""
        poisson = upper_bound_per_year(int(false_alarms_per_gate.sum()), self._gate_years)
        if not np.isfinite(poisson):
            return poisson
        counts = np.append(false_alarms_per_gate, max(1, int(false_alarms_per_gate.max())))
        drawn = np.divide(self._taken @ counts, self._years, out=np.full(len(self._years), np.inf), where=self._years > 0)
        return max(poisson, float(np.quantile(drawn, BOUND_CONFIDENCE, method="higher")))


def lowest_while(keeps: Callable[[float], bool]) -> float | None:
    """Return the lowest threshold for which `keeps` holds, searched from above; None where not even the highest one does.

    It is lowered by the greater of the `STEPS` until `keeps` fails, then from the last that held by the smaller.

    Examples
    --------
    >>> round(lowest_while(lambda open_at: open_at > 0.25), 4)    # 0.05 of log-odds lower it is 0.2497
    0.2592
    """
    if not keeps(NEVER):
        return None
    lowest = HIGHEST
    for step in STEPS:
        while lowest - step > LOWEST and keeps(threshold(lowest - step)):
            lowest -= step
    return threshold(lowest)


def tune(
    replay: Replay,
    *,
    budget_per_gate_year: float = BUDGET_PER_GATE_YEAR,
    fallback: float = SHIPPED_OPEN_AT,
    enough_gate_years: float = ENOUGH_GATE_YEARS,
) -> Policy:
    """Choose the lowest threshold that keeps the budget on gates the model has not learnt from.

    It is searched by `lowest_while`; what must keep the budget is the upper bound of the rate (`RateBound`). Below
    `enough_gate_years` the fallback is kept and the policy says that it is not calibrated here; likewise where even the
    highest threshold is not proven to keep the budget.
    """
    gate_years = replay.gate_years
    chosen = Policy(fallback, budget_per_gate_year=budget_per_gate_year, tuned_gate_years=gate_years)
    bound = RateBound(replay.years_per_gate)

    def keeps(open_at: float) -> bool:
        return bound.per_year(replay.false_alarms_per_gate(replace(chosen, open_at=open_at))) <= budget_per_gate_year

    open_at = lowest_while(keeps) if gate_years >= enough_gate_years else None
    if open_at is not None:
        chosen = replace(chosen, open_at=open_at, calibrated_here=True)
    return replace(chosen, tuned_false_alarms=replay.false_alarms(chosen))
