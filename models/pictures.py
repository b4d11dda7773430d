"""Pictures of a report: reliability, lead times, false alarms against recall, modes. Drawn from the report's values alone.

matplotlib is imported only when a picture is drawn. Same report, same pictures, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.evaluate import USEFUL_D
from pipeline.errors import BadInput

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Reports = Mapping[str, Mapping[str, Any]]
"""Reports of `models.evaluate.evaluate` on the same gates and days by name, the model's first."""

BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000"
PALETTE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK)
"""Okabe and Ito (2008): told apart by the colour-blind too. The model is blue."""

GREY = "#8C8C8C"
STYLE: Mapping[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.edgecolor": "#777777",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}

LONGEST_LEAD_D = 42
"""Longer lead times share the last bar of their histogram."""


def draw(reports: Reports, folder: Path) -> list[Path]:
    """Draw the pictures of a report as PNG files in a folder that exists, and return them.

    Raises
    ------
    BadInput
        matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BadInput(f"drawing needs matplotlib ({error}); run: pip install 'sluicewatch[plot]'") from error

    pictures: dict[str, Callable[[Figure, Reports], None]] = {
        "reliability": _draw_reliability,
        "lead_times": _draw_lead_times,
        "recall": _draw_recall,
        "modes": _draw_modes,
    }
    files = []
    with mpl.rc_context():
        mpl.rcdefaults()  # a picture does not depend on who draws it
        mpl.rcParams.update(STYLE)
        for name, picture in pictures.items():
            figure = Figure(dpi=110)
            FigureCanvasAgg(figure)
            picture(figure, reports)
            file = folder / f"{name}.png"
            figure.savefig(file, metadata={"Software": None})
            files.append(file)
    return files


def _first(reports: Reports) -> Mapping[str, Any]:
    return next(iter(reports.values()))


def _subtitle(reports: Reports) -> str:
    report = _first(reports)
    version = report["model_version"] or "unnamed model"
    return f"{version}: {report['gates']} gates, {report['gate_years']:.1f} gate-years"


def _spread(estimate: Mapping[str, float | None]) -> tuple[float, float]:
    """How far the interval reaches below and above the value; 0 where it is not known."""
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None or low is None or high is None:
        return 0.0, 0.0
    return max(value - low, 0.0), max(high - value, 0.0)


def _draw_reliability(figure: Figure, reports: Reports) -> None:
    figure.set_size_inches(7.5, 7.0)
    axes: Axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="as forecast")
    for colour, (name, report) in zip(PALETTE, reports.items(), strict=False):
        bins = report["reliability_14d"]
        if len(bins) < 2:
            continue  # a constant has no curve
        axes.errorbar(
            [row["forecast"] for row in bins],
            [row["observed"]["value"] for row in bins],
            yerr=np.transpose([_spread(row["observed"]) for row in bins]),
            color=colour,
            marker="o",
            markersize=5,
            linewidth=1.6,
            elinewidth=1,
            capsize=3,
            label=name,
        )
    for row in _first(reports)["reliability_14d"]:
        if row["forecast"] >= 0.1:  # below, the bins lie too close for words
            at = (row["forecast"], min(row["observed"]["value"] + _spread(row["observed"])[1], 1.0))
            axes.annotate(f"{row['gates']} gates", at, (0, 5), textcoords="offset points", ha="center", fontsize=8.5, color=BLUE)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.06), xlabel="forecast P(failure within 14 days), mean of the bin")
    axes.set_ylabel("share of gate-days that failed within 14 days")
    axes.set_title(f"What was forecast and what happened, with 90 % intervals\n{_subtitle(reports)}")
    axes.legend(loc="upper left")


def _draw_lead_times(figure: Figure, reports: Reports) -> None:
    from matplotlib.ticker import MaxNLocator

    figure.set_size_inches(9.0, 5.0)
    axes: Axes = figure.add_subplot()
    report = _first(reports)
    lead_d = np.minimum(report["lead_times_d"], LONGEST_LEAD_D - 0.5)
    counts = report["counts"]
    axes.axvspan(*USEFUL_D, color=GREEN, alpha=0.13, linewidth=0)
    axes.hist(lead_d, bins=list(range(LONGEST_LEAD_D + 1)), color=BLUE, edgecolor="white", linewidth=0.6)
    axes.set(xlim=(0, LONGEST_LEAD_D), xlabel="days from the alarm to the failure", ylabel="failures")
    axes.set_xticks(
        [*range(0, LONGEST_LEAD_D, 7), LONGEST_LEAD_D], [*map(str, range(0, LONGEST_LEAD_D, 7)), f"{LONGEST_LEAD_D} +"]
    )
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    top = axes.get_ylim()[1]
    axes.set_ylim(0, top * 1.12)
    axes.text(sum(USEFUL_D) / 2, top * 1.05, f"useful: {counts['useful_warnings']}", ha="center", color=GREEN)
    axes.set_title(
        f"Warned of {counts['warned_failures']} of {counts['evaluable_failures']} failures, "
        f"{counts['warnings_7_days_or_more_ahead']} of them 7 days ahead or more\n{_subtitle(reports)}"
    )


def _draw_recall(figure: Figure, reports: Reports) -> None:
    figure.set_size_inches(12.5, 5.6)
    left = figure.add_subplot(1, 2, 1)
    right = figure.add_subplot(1, 2, 2, sharex=left, sharey=left)
    budget = _first(reports)["budget_per_gate_year"]
    panels = ((left, "useful_share", "warned 7 to 21 days ahead"), (right, "early_share", "warned 7 days ahead or more"))
    for axes, share, title in panels:
        axes.axvline(budget, color=GREY, linewidth=1, linestyle="--")
        for colour, (name, report) in zip(PALETTE, reports.items(), strict=False):
            _draw_operating_curve(axes, report, share, colour, name)
        axes.set(xlabel="false alarms per gate-year", title=f"Share of failures {title}", xlim=(0, 5 * budget))
        axes.set_ylim(0, 1)
    left.text(budget, 0.98, " budget", color="#555555", fontsize=9, va="top")
    right.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title="ring: at its threshold,\nmodel with 90 % intervals")
    figure.suptitle(f"False alarms against recall.  {_subtitle(reports)}", x=0.01, ha="left", fontsize=12)


def _draw_operating_curve(axes: Axes, report: Mapping[str, Any], share: str, colour: str, name: str) -> None:
    points = report["operating_curve"]
    x = [point["false_alarms_per_gate_year"] for point in points]
    axes.plot(x, [point[share] for point in points], color=colour, linewidth=2.2 if colour == BLUE else 1.4, label=name)
    rate, recall = report["figures"]["false_alarms_per_gate_year"], report["figures"][share]
    if rate["value"] is None or recall["value"] is None:
        return
    axes.plot(rate["value"], recall["value"], marker="o", markersize=7, markerfacecolor="white", color=colour, clip_on=False)
    if colour == BLUE:
        x_error, y_error = (np.transpose([_spread(estimate)]) for estimate in (rate, recall))
        axes.errorbar(rate["value"], recall["value"], xerr=x_error, yerr=y_error, color=colour, elinewidth=1, capsize=3, zorder=1)


def _draw_modes(figure: Figure, reports: Reports) -> None:
    report = _first(reports)
    by_mode = sorted(report["by_mode"].items(), key=lambda item: (-item[1]["failures"], item[0]))
    by_hoist = list(report["by_hoist"].items())
    groups: Sequence[tuple[str, Mapping[str, Any]]] = [*by_mode, *by_hoist]
    figure.set_size_inches(9.5, 2.2 + 0.5 * len(groups))
    axes: Axes = figure.add_subplot()
    y = np.arange(len(groups)) + 0.6 * (np.arange(len(groups)) >= len(by_mode))
    bars = (("useful_share", BLUE, "7 to 21 days ahead", -0.2), ("early_share", SKY, "7 days ahead or more", 0.2))
    for share, colour, label, shift in bars:
        values = [group[share]["value"] or 0.0 for _, group in groups]
        spreads = np.transpose([_spread(group[share]) for _, group in groups]).reshape(2, -1)
        axes.barh(
            y + shift, values, height=0.38, color=colour, label=label, xerr=spreads, error_kw={"elinewidth": 1, "capsize": 2}
        )
    axes.set_yticks(y, [f"{name.replace('_', ' ')} ({group['failures']})" for name, group in groups])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlim=(0, 1), xlabel="share of failures warned of, with 90 % intervals")
    axes.set_title(f"Failures by mode and by hoist type (how many)\n{_subtitle(reports)}", pad=24)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
