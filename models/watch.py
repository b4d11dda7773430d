"""Is the alarm budget kept where the model serves: false alarms of the service's own cases against its maintenance records.

What is a false alarm is decided in `models.policy`, by the same code that tunes and evaluates. No clock, no database, no
network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from models.labels import FAR_MS, History, matured_until
from models.policy import EVIDENCE_DAYS, YEAR_DAYS, judge, lower_bound_per_year, merge_cases

WATCHED = timedelta(days=365)
"""How far back false alarms are counted: a year, so that every season is in it."""


@dataclass(frozen=True, slots=True)
class Case:
    """A case the service opened: from the scored day it opened on to the one it closed on, None while it is open."""

    gate_id: str
    component: str
    opened_as_of: datetime
    closed_as_of: datetime | None


@dataclass(frozen=True, slots=True)
class AlarmRate:
    """What a year of alarms cost, against what was agreed.

    Attributes
    ----------
    as_of : end of the year counted
    gate_years : gate-days with a verdict, without the last 35 days: an alarm that starts there cannot be called false yet,
        for a failure that makes it true may come for 28 days and be on record 7 days later
    budget_per_gate_year : what the threshold at work promises

    Examples
    --------
    >>> from datetime import UTC
    >>> rate = AlarmRate(datetime(2026, 3, 1, tzinfo=UTC), false_alarms=7, gate_years=20.0, budget_per_gate_year=0.2)
    >>> rate.per_gate_year, round(rate.lower_per_gate_year, 3), rate.is_over_budget
    (0.35, 0.195, False)
    """

    as_of: datetime
    false_alarms: int
    gate_years: float
    budget_per_gate_year: float

    @property
    def per_gate_year(self) -> float | None:
        """False alarms per gate-year; None before anything could be counted."""
        return self.false_alarms / self.gate_years if self.gate_years else None

    @property
    def lower_per_gate_year(self) -> float:
        """The 90 % lower bound of the true rate (Poisson)."""
        return lower_bound_per_year(self.false_alarms, self.gate_years)

    @property
    def is_over_budget(self) -> bool:
        """Whether the rate is proven to be over the budget; one bad week is no proof."""
        return self.lower_per_gate_year > self.budget_per_gate_year

    @property
    def is_within_budget(self) -> bool:
        """Whether the counted rate itself is within the budget; between the two, what was said last still holds."""
        return (self.per_gate_year or 0.0) <= self.budget_per_gate_year


def watched_days(as_of: datetime) -> tuple[datetime, datetime]:
    """First and last scored day whose alarms can be judged and lie in the watched year."""
    return as_of - WATCHED, matured_until(as_of, EVIDENCE_DAYS)


def alarm_rate(
    cases: Iterable[Case],
    history: History,
    observed_until: Mapping[str, datetime],
    *,
    gate_days: int,
    as_of: datetime,
    budget_per_gate_year: float,
) -> AlarmRate:
    """Count what the cases of the last 365 days cost.

    A case costs a false alarm for each 28 days it began or stayed open without a failure or a finding that bore it out, as in
    `models.policy`; those count that began within `watched_days`.

    Parameters
    ----------
    cases : cases that were open at any time in the watched year; earlier ones do no harm
    history : failures, repairs and replacements of their gates
    observed_until : mapping from gate_id to the end of what is known of the gate; `as_of` where it is missing or later
    gate_days : days with a verdict, summed over gates, within `watched_days`
    """
    first_ms, last_ms = (_ms(day) for day in watched_days(as_of))
    of_gate: dict[str, list[tuple[int, int, str]]] = {}
    for case in cases:
        closed_ms = FAR_MS if case.closed_as_of is None else _ms(case.closed_as_of)
        of_gate.setdefault(case.gate_id, []).append((_ms(case.opened_as_of), closed_ms, case.component))
    false_alarms = 0
    for gate_id, found in of_gate.items():
        until_ms = _ms(min(as_of, observed_until.get(gate_id, as_of)))
        for alarm in merge_cases(gate_id, found):
            false_alarms += sum(first_ms <= start_ms <= last_ms for start_ms in judge(alarm, history, until_ms).charged_ms)
    return AlarmRate(as_of, false_alarms, gate_days / YEAR_DAYS, budget_per_gate_year)


def _ms(instant: datetime) -> int:
    return round(instant.timestamp() * 1000)
