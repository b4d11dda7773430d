"""The data card of a simulated dataset: what it is, how often its gates fail, and how far that is from real gates."""

from __future__ import annotations

from datetime import timedelta

import pandas as pd

from pipeline.simulator.degradation import SUDDEN
from pipeline.simulator.fleet import Fleet
from pipeline.simulator.scenarios import find_scenario
from pipeline.simulator.truth import days_to_failure, failures

PUBLISHED_FAILURES_PER_MACHINE_YEAR = 0.015
"""Major mechanical failures of lock gate machinery, computed from table D-5 of USACE ETL 1110-2-560 (2001)."""

HORIZON_D = 14


CARD = """# Data card

Simulated by sluicewatch, simulator version {version}, seed {seed}. No real gate is in it; rivers lend their names only.

| | |
| --- | --- |
| gates, days | {gates}, {days} from {start} ({gate_years:.1f} gate-years) |
| hazard_scale | {hazard_scale:g} (1 is the simulator's own rate; it multiplies how often wear starts) |
| scenario | {scenario} |
| sensor faults, transport faults, preventive inspections | {sensor_faults}, {transport_faults}, {preventive} |
| on request | {inject} |
| reading interval | 1 min in motion, {heartbeat_min} min at rest |
| failures | {failures}, {per_year:.2f} a gate-year |
| base rate | {base_rate:.4f} of gate-days have a failure within the next {horizon_d} days |
| silent or sudden | {unseen} of {failures} failures show in no channel beforehand |
| wear put right by inspections | {found}, {found_per_year:.2f} a gate-year (censored, not failures) |

## Acceleration

Published figures for lock gate machinery come to about {published:g} major mechanical failures a machine-year (USACE ETL
1110-2-560, 2001, table D-5). This fleet fails {acceleration:.0f} times as often, so that there is something to learn from. Rates,
base rates and alarm counts from it must not be read as those of real gates. Most parameters of the simulator are
engineering judgement.

## Failures by mode

| mode | component | failures | a gate-year | silent |
| --- | --- | --- | --- | --- |
{modes}

## From the first wear to the failure

{pf}. Sudden failures have no such time; a failure within 7 days of its onset, or sudden, is {short} of {failures}.

The hidden state is in truth.parquet; nothing that trains or scores may read it.
"""


def data_card(fleet: Fleet, version: str, maintenance: pd.DataFrame, truth: pd.DataFrame) -> str:
    """Write the card; the same dataset gives the same text."""
    gate_years = len(fleet.gates) * fleet.days / 365.25
    failed = failures(truth)
    found = int((maintenance["finding"] == "confirmed_degradation").sum())
    pf_d = days_to_failure(truth)
    modes = [
        f"| {mode} | {component or 'whole gate'} | {len(rows)} | {len(rows) / gate_years:.3f} | {int(rows['silent'].sum())} |"
        for (mode, component), rows in failed.groupby(["mode", "component"], sort=True)
    ]
    return CARD.format(
        version=version,
        seed=fleet.seed,
        gates=len(fleet.gates),
        days=fleet.days,
        start=fleet.start.isoformat(),
        gate_years=gate_years,
        hazard_scale=fleet.hazard_scale,
        scenario=f"{fleet.scenario}: {find_scenario(fleet.scenario).change}" if fleet.scenario else "none",
        sensor_faults="on" if fleet.sensor_faults else "off",
        transport_faults="on" if fleet.transport_faults else "off",
        preventive="on" if fleet.preventive else "off",
        inject="; ".join(fleet.inject) or "nothing",
        heartbeat_min=fleet.heartbeat_min,
        failures=len(failed),
        per_year=len(failed) / gate_years,
        base_rate=_base_rate(fleet, failed),
        horizon_d=HORIZON_D,
        unseen=int(failed["silent"].sum()),
        found=found,
        found_per_year=found / gate_years,
        published=PUBLISHED_FAILURES_PER_MACHINE_YEAR,
        acceleration=len(failed) / gate_years / PUBLISHED_FAILURES_PER_MACHINE_YEAR,
        modes="\n".join(modes),
        pf=_pf_intervals(pf_d),
        short=int((pf_d < 7).sum() + (failed["mode"] == SUDDEN).sum()),
    )


def _pf_intervals(pf_d: pd.Series) -> str:
    if pf_d.empty:
        return "No fault wore out"
    parts = pd.cut(pf_d, [-1, 7, 14, 60, float("inf")], labels=["< 7 d", "7-14 d", "14-60 d", "> 60 d"], right=False)
    shares = parts.value_counts(normalize=True, sort=False)
    told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    return f"Of {len(pf_d)} faults that wore out: {told} (median {pf_d.median():.0f} d)"


def _base_rate(fleet: Fleet, failed: pd.DataFrame) -> float:
    """Share of gate-days t with a failure in (t, t + 14 d], counting days whose 14 d lie within the time simulated."""
    known = max(fleet.days - HORIZON_D, 0)
    days = pd.date_range(fleet.started_at, periods=known, freq="D")
    positive = 0
    for _, times in failed.groupby("gate_id")["failed_at"]:
        ahead = pd.DataFrame({at: (days < at) & (at <= days + timedelta(days=HORIZON_D)) for at in times}, index=range(known))
        positive += int(ahead.any(axis=1).sum())
    return positive / (known * len(fleet.gates)) if known else 0.0
