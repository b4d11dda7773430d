"""The model card: what a model is for, what it was trained on and how good it really was, written from its own figures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from models.evaluate import table
from models.policy import ENOUGH_GATE_YEARS

HEADINGS = ("Intended use", "Training data", "Figures", "Alarm threshold", "Known weaknesses", "How to remake it")
"""What `models verify` asks of a card."""

_FIGURES = (
    ("Average precision at 14 days", "ap_14d", "{:.3f}"),
    ("Average precision at 7 days", "ap_7d", "{:.3f}"),
    ("Brier skill at 14 days (0: no better than the base rate)", "brier_skill_14d", "{:+.3f}"),
    ("Mean forecast where p > 0.2", "tail_forecast_14d", "{:.2f}"),
    ("Share that failed where p > 0.2", "tail_observed_14d", "{:.2f}"),
    ("Distance of these two", "tail_error_14d", "{:.2f}"),
    ("Failures between 10 and 90 % of their curve", "ttf_enclosed_share", "{:.2f}"),
    ("Failures warned 7 to 21 days ahead", "useful_share", "{:.2f}"),
    ("Failures warned 7 days ahead or more", "early_share", "{:.2f}"),
    ("Median lead time in days", "lead_time_median_d", "{:.1f}"),
    ("False alarms per gate-year", "false_alarms_per_gate_year", "{:.2f}"),
    ("Share of alarms that came true", "alarm_precision", "{:.2f}"),
    ("Warned at the right component", "right_component_share", "{:.2f}"),
    ("Of these, by the right failure mode", "right_mode_share", "{:.2f}"),
    ("Gate-days without verdict", "no_verdict_share", "{:.3f}"),
    ("Gate-days without verdict, healthy feeds", "no_verdict_healthy_share", "{:.3f}"),
)


def model_card(
    version: str, training: Mapping[str, Any], policy: Mapping[str, Any], reports: Mapping[str, Mapping[str, Any]]
) -> str:
    """Return the card as Markdown.

    Parameters
    ----------
    training : as in the manifest
    policy : as in the manifest
    reports : reports of `models.evaluate` on the held-out gates; ``model`` and the baselines
    """
    report = reports["model"]
    counts = report["counts"]
    mark = " (simulated)" if training["simulated"] else ""
    lines = [
        f"# Model card: {version}",
        "",
        "## Intended use",
        "",
        "Says for each component of a water gate's hoist, once a day, how likely it is to fail within 1 to 21 days, so that "
        "a crew can be sent one to two weeks ahead. It advises people; it is not a protection device and must not move or "
        "stop a gate. Failures without precursor (debris, power, lightning) are in its numbers only as a constant risk.",
        "",
        "## Training data",
        "",
        f"Source: {training['source'] or 'not given'}. sha256 of the dataset's files: `{training['data_sha256']}`.",
        f"Learnt from {training['development_gates']} gates, {training['development_gate_years']:.1f} gate-years, "
        f"{training['development_failures']} failures{mark}; days {training['first_as_of'][:10]} to "
        f"{training['development_until'][:10]}.",
    ]
    if training["simulated"]:
        lines += [
            "",
            "**Every figure on this card comes from simulated gates.** Wear, signals and sensor faults follow assumptions; "
            "nobody has measured this model on real gates. Expect worse, and re-tune the threshold on your own history.",
        ]
    lines += [
        "",
        "## Figures",
        "",
        f"On {report['gates']} gates it never saw, in later time ({report['first_as_of'][:10]} to "
        f"{report['last_as_of'][:10]}), {report['gate_years']:.1f} gate-years, {counts['evaluable_failures']} failures, "
        f"{counts['evaluable_failures_without_component']} of them sudden. In brackets the 90 % interval of a bootstrap over "
        "gates.",
        "",
        f"| figure{mark} | value | 90 % interval |",
        "| --- | --- | --- |",
    ]
    for title, name, form in _FIGURES:
        figure = report["figures"].get(name)
        if figure is None or figure["value"] is None:
            lines.append(f"| {title}{mark} | not defined | |")
            continue
        lines.append(f"| {title}{mark} | {form.format(figure['value'])} | {_interval(figure, form)} |")
    lines += ["", f"Beside what operators use today{mark}:", "", "```text", table(reports), "```", ""]
    lines += [f"Per component that failed{mark}:", "", "| component | failures | warned 7-21 d | warned 7 d or more |"]
    lines += ["| --- | --- | --- | --- |"]
    lines += [
        f"| {component} | {row['failures']} | {row['useful']} | {row['early']} |"
        for component, row in report["by_component"].items()
    ]
    for kind, strata in (("failure mode", report["by_mode"]), ("hoist type", report["by_hoist"])):
        if strata:
            lines += ["", f"Per {kind}{mark}, with 90 % intervals:", ""]
            lines += [f"| {kind} | failures | warned 7-21 d | warned 7 d or more |", "| --- | --- | --- | --- |"]
            lines += [
                f"| {name} | {row['failures']} | {_share(row['useful_share'])} | {_share(row['early_share'])} |"
                for name, row in strata.items()
            ]
    lines += ["", "## Alarm threshold", "", _threshold(policy, mark), "", "## Known weaknesses", ""]
    lines += [f"- {weakness}" for weakness in _weaknesses(report)]
    lines += ["", "## How to remake it", "", "```sh", str(training["command"]), "```", ""]
    lines += [f"Seed {training['seed']}; the same data, seed and library versions give the same predictions.", ""]
    return "\n".join(lines)


def _interval(figure: Mapping[str, float | None], form: str) -> str:
    low, high = figure["low"], figure["high"]
    return "" if low is None or high is None else f"{form.format(low)} to {form.format(high)}"


def _share(figure: Mapping[str, float | None]) -> str:
    if figure["value"] is None:
        return "-"
    return f"{figure['value']:.2f} ({_interval(figure, '{:.2f}')})"


def _threshold(policy: Mapping[str, Any], mark: str) -> str:
    rule = _rule(policy)
    if policy["tuned_gate_years"] < ENOUGH_GATE_YEARS:
        return rule + (
            f"**Not yet calibrated here**: {policy['tuned_gate_years']:.1f} gate-years are too few to tune it "
            f"({ENOUGH_GATE_YEARS:g} are needed), so this is the shipped threshold."
        )
    tuned = (
        f"Tuned on {policy['tuned_gate_years']:.1f} gate-years{mark} of gates the forecasts had not learnt from, to a budget "
        f"of {policy['budget_per_gate_year']:g} false alarms per gate-year (90 % upper bound); it made "
        f"{policy['tuned_false_alarms']} there."
    )
    if not policy["calibrated_here"]:
        tuned += ' On real gates it counts as "not yet calibrated here" until it is tuned on their own history.'
    return rule + tuned


def _rule(policy: Mapping[str, Any]) -> str:
    return (
        f"A case opens when p_14d reaches {policy['open_at']:.3f} on {policy['days_to_open']} of the last "
        f"{policy['days_looked_at']} scored days. "
    )


def tuned_card(card: str, version: str, policy: Mapping[str, Any], tuned: Mapping[str, Any]) -> str:
    """Return a parent's card as that of a version which differs in its threshold, and maybe its calibration, only.

    Parameters
    ----------
    card : the parent's; its figures are facts about the parent's threshold and stay
    policy, tuned : as in the manifest
    """
    mark = " (simulated)" if tuned["simulated"] else ""
    left_out = f"; {tuned['gates_left_out']} gates it learnt from were left out" if tuned["gates_left_out"] else ""
    probabilities = (
        "Its probabilities were calibrated anew on the same history, because that forecast better the gates it was not fitted to."
        if tuned["recalibrated"]
        else "Its probabilities are those of its parent: calibrating them anew did not forecast better."
    )
    threshold = (
        f"{_rule(policy)}**Calibrated here**: tuned on {tuned['gate_years']:.1f} gate-years{mark} of {tuned['gates']} gates of "
        f"the site's own history (source: {tuned['source'] or 'not given'}; sha256 `{tuned['data_sha256']}`; days "
        f"{tuned['first_as_of'][:10]} to {tuned['last_as_of'][:10]}{left_out}), to a budget of "
        f"{tuned['budget_per_gate_year']:g} false alarms per gate-year (90 % upper bound); it made {tuned['false_alarms']} "
        f"there. {probabilities} All else is {tuned['parent']}, whose threshold was {tuned['parent_open_at']:.3f}: the figures "
        "above were measured with that one."
    )
    titled = re.sub(r"\A# .*", lambda _: f"# Model card: {version}", card)
    section = re.compile(r"(?<=\n)## Alarm threshold\n.*?(?=\n## |\Z)", re.DOTALL)
    text = f"## Alarm threshold\n\n{threshold}\n"
    return section.sub(lambda _: text, titled) if section.search(titled) else f"{titled}\n{text}"


def _weaknesses(report: Mapping[str, Any]) -> list[str]:
    counts, figures = report["counts"], report["figures"]
    out = []
    if counts["evaluable_failures"] < 30:
        out.append(
            f"Tested on {counts['evaluable_failures']} failures only: the intervals are wide, and no figure here is proof."
        )
    missed = counts["evaluable_failures"] - counts["warnings_7_days_or_more_ahead"]
    out.append(f"{missed} of {counts['evaluable_failures']} failures had no warning 7 days ahead.")
    for component, row in report["by_component"].items():
        if component != "none" and row["failures"] >= 5 and row["early"] < 0.3 * row["failures"]:
            out.append(f"Failures of the {component} are mostly not seen 7 days ahead ({row['early']} of {row['failures']}).")
    tail, observed = figures["tail_forecast_14d"]["value"], figures["tail_observed_14d"]["value"]
    if tail is not None and observed is not None and abs(tail - observed) > 0.08:
        word = "above" if tail > observed else "below"
        out.append(f"High forecasts lie {word} what happened ({tail:.2f} against {observed:.2f} where p > 0.2).")
    rate, budget = figures["false_alarms_per_gate_year"]["value"], report["budget_per_gate_year"]
    if rate is not None and rate > budget:
        out.append(f"On the tested gates it made {rate:.2f} false alarms per gate-year, above its budget of {budget:g}.")
    out.append("A sensor that drifts or works loose looks like wear to it.")
    out.append("A case opened after a long idle spell rests on old operations.")
    return out
