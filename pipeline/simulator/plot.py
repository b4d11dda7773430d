"""A gate's year as one picture: what its sensors told, what its work orders say and, where the folder has it, how it wore.

For people who judge whether a history is believable; it shows the hidden state, so nothing that trains or scores may use it.
matplotlib is imported only when a picture is drawn. Same folder, same picture, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.dataset import Dataset, open_dataset
from pipeline.errors import BadInput
from pipeline.operations import segment
from pipeline.readings import DAY_MS, quantity_of
from pipeline.simulator.truth import FILE, read_truth
from pipeline.spectra import ZONES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Span = tuple[int, int]

SILENT_MS = 6 * 3_600_000
"""A gate that reports nothing for longer than this is drawn as silent."""

STOP_WITHIN_MS = 2 * 60_000
"""The row after a run still belongs to it when it comes this soon: it tells when the gate stopped and how warm it had become."""

MEDIAN_OVER = timedelta(days=7)
SPARSE_MS = 8 * DAY_MS
"""Runs further apart than this are not joined by a line; a gate that is only exercised runs once a week."""

SUFFIXES: Mapping[str, Mapping[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}
"""What can be written, and the metadata to leave out so that the same data give the same bytes."""

BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, BLACK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000"
PALETTE = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, BLACK)
"""Okabe and Ito (2008): told apart by the colour-blind too. Their yellow is too pale for thin lines on white."""

COLOURS: Mapping[str, str] = {
    "motor": BLUE,
    "gearbox": ORANGE,
    "leaf": GREEN,
    "motor.winding": SKY,
    "motor.bearing_de": BLUE,
    "gearbox.oil": ORANGE,
    "brake.lining": VERMILLION,
    "hydraulic.oil": PURPLE,
}
FAILURE, REPAIR, QUIET = "#B2182B", SKY, "#8C8C8C"

STYLE: Mapping[Any, Any] = {
    "font.size": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 10,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.edgecolor": "#777777",
    "axes.linewidth": 0.8,
    "hatch.color": "#B5B5B5",
    "hatch.linewidth": 0.7,
    "legend.frameon": False,
    "legend.handletextpad": 0.4,
    "svg.hashsalt": "sluicewatch",
}

NAMES_APART = 0.018
"""Names of failures stand at least this share of the width apart, so that they can be read."""

WIDTH_IN, HEIGHT_IN, DPI = 16.0, 14.0, 100
FULL_RATIOS = 10.6
"""Heights of all panels together; a picture with fewer panels is less tall."""


def per_run(readings: pd.DataFrame) -> pd.DataFrame:
    """What each run of a gate showed.

    Parameters
    ----------
    readings : DataFrame, as `pipeline.dataset.Dataset.readings` returns it

    Returns
    -------
    DataFrame
        One row per operation as `pipeline.operations.segment` cuts them: ``started_ms``, ``minutes`` (until the row that tells of
        the stop), ``load``, and one column per channel: for a temperature the greatest value, that row included, else the mean
        in motion.
    """
    operations = segment(readings).operations
    ts_ms = _ms(readings["ts"])
    started, ended = _ints(operations["started_ms"]), _ints(operations["ended_ms"])
    first, after = np.searchsorted(ts_ms, started), np.searchsorted(ts_ms, ended, side="right")
    following = np.append(ts_ms, np.iinfo(np.int64).max)[after]
    told = following - ended <= STOP_WITHIN_MS
    columns = {
        "started_ms": started,
        "minutes": (np.where(told, following, ended) - started) / 60_000.0,
        "load": operations["load"].to_numpy(dtype=float),
    }
    for name in readings.columns.drop("ts"):
        if quantity_of(name) == "temperature":
            columns[name] = _greatest(readings[name].to_numpy(dtype=float), first, np.where(told, after + 1, after))
        elif f"{name}:mean" in operations:
            columns[name] = operations[f"{name}:mean"].to_numpy(dtype=float)
    return pd.DataFrame(columns)


def silences(ts_ms: Ints, start_ms: int, end_ms: int) -> list[Span]:
    """The stretches within ``start_ms`` and ``end_ms`` longer than `SILENT_MS` without any reading.

    Examples
    --------
    >>> hour = 3_600_000
    >>> silences(np.array([1, 2, 9, 10]) * hour, 0, 17 * hour)
    [(7200000, 32400000), (36000000, 61200000)]
    """
    inside = ts_ms[(ts_ms > start_ms) & (ts_ms < end_ms)]
    edges = np.concatenate([[start_ms], inside, [end_ms]])
    long = np.flatnonzero(np.diff(edges) > SILENT_MS)
    return [(int(edges[at]), int(edges[at + 1])) for at in long]


def stretches(at_ms: Ints, values: Floats, breaks_ms: Iterable[int], sparse_ms: int = SPARSE_MS) -> list[tuple[Ints, Floats]]:
    """Cut a series where a line must not be drawn: at ``breaks_ms`` and where values are more than ``sparse_ms`` apart.

    Examples
    --------
    >>> [part.tolist() for _, part in stretches(np.array([0, 1, 2, 9]), np.array([5.0, np.nan, 6.0, 7.0]), [1], sparse_ms=5)]
    [[5.0], [6.0], [7.0]]
    """
    finite = np.isfinite(values)
    at_ms, values = at_ms[finite], values[finite]
    if not len(at_ms):
        return []
    place = np.searchsorted(np.sort(np.fromiter(breaks_ms, dtype=np.int64)), at_ms, side="right")
    cuts = np.flatnonzero((np.diff(place) > 0) | (np.diff(at_ms) > sparse_ms)) + 1
    return list(zip(np.split(at_ms, cuts), np.split(values, cuts), strict=True))


def running_median(at_ms: Ints, values: Floats) -> Floats:
    """Median over the 7 days around each value; NaN where fewer than three values lie there."""
    series = pd.Series(values, index=pd.to_datetime(at_ms, unit="ms"))
    median: Floats = series.rolling(MEDIAN_OVER, center=True, min_periods=3).median().to_numpy(dtype=float)
    return median


def faults(truth: pd.DataFrame) -> list[pd.DataFrame]:
    """One frame per fault of one gate's truth (see `truth.truth_table`), in order of its first day.

    Two faults of one mode differ in their scale, in how they end, or lie more than a day apart.
    """
    found = []
    for _, rows in truth.sort_values("day", kind="stable").groupby("mode", sort=True):
        ends = rows["fails_at"].astype("datetime64[ms, UTC]").fillna(pd.Timestamp(0, tz="UTC"))
        other = (rows["day"].diff() > timedelta(days=1)) | (rows["tau"].diff().abs() > 0) | (ends != ends.shift())
        found += [fault.reset_index(drop=True) for _, fault in rows.groupby(other.cumsum())]
    return sorted(found, key=lambda fault: (fault["day"].iloc[0], fault["mode"].iloc[0]))


def plot_gate(folder: Path, gate_id: str, out: Path, start: date | None = None, days: int = 365) -> None:
    """Draw one gate's history.

    Parameters
    ----------
    folder : a dataset folder; truth.parquet may be absent, then there is no panel of hidden wear
    out : the picture to write; ``.png``, ``.svg`` or ``.pdf``
    start : first day, in the station's time zone; the day of the first reading unless told
    days : how many days; the picture ends earlier where the data do

    Raises
    ------
    BadInput
        The folder, the gate, the time or the file to write cannot be used, or matplotlib is not installed.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise BadInput(f"picture must end in {', '.join(SUFFIXES)}; got {out.name!r}")
    if not out.parent.is_dir():
        raise BadInput(f"folder {str(out.parent)!r} of the picture does not exist")
    if not 1 <= days <= 36_500:
        raise BadInput(f"days must lie in 1..36500; got {days}")
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BadInput(f"drawing needs matplotlib ({error}); run: pip install 'sluicewatch[plot]'") from error

    view = _look(open_dataset(folder), gate_id, start, days)
    panels = _panels(view)
    with mpl.rc_context():
        mpl.rcdefaults()  # a picture does not depend on who draws it
        mpl.rcParams.update(STYLE)
        ratios = [ratio for ratio, _ in panels]
        margin_in = 2.05
        height_in = margin_in + (HEIGHT_IN - margin_in) * sum(ratios) / FULL_RATIOS
        figure = Figure(figsize=(WIDTH_IN, round(height_in, 2)), dpi=DPI)
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(
            len(panels),
            height_ratios=ratios,
            left=0.055,
            right=0.845,
            top=1.0 - 1.4 / height_in,
            bottom=0.65 / height_in,
            hspace=0.09,
        )
        all_axes: list[Axes] = []
        for place, (_, draw) in enumerate(panels):
            axes = figure.add_subplot(grid[place], sharex=all_axes[0] if all_axes else None)
            all_axes.append(axes)
            draw(axes, view)
            _draw_marks(axes, view)
        _draw_failure_names(all_axes[0], view)
        _draw_time_axis(all_axes, view)
        _draw_mark_legend(all_axes[-1], view, height_in)
        headline, subtitle = _title(view)
        figure.text(0.012, 1.0 - 0.30 / height_in, headline, fontsize=15, fontweight="bold", va="center")
        figure.text(0.012, 1.0 - 0.58 / height_in, subtitle, fontsize=10.5, color="#444444", va="center")
        try:
            figure.savefig(out, format=out.suffix.lower()[1:], dpi=DPI, metadata=dict(SUFFIXES[out.suffix.lower()]))
        except OSError as error:
            raise BadInput(f"picture {str(out)!r} cannot be written: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class _View:
    """All that one picture shows; instants in ms, ``work`` as maintenance.csv, ``faults`` None where no truth is known."""

    gate: Mapping[Any, Any]
    station_name: str
    motor: Mapping[Any, Any]
    zone: ZoneInfo
    start_ms: int
    end_ms: int
    readings: pd.DataFrame
    runs: pd.DataFrame
    work: pd.DataFrame
    faults: list[pd.DataFrame] | None
    silent: list[Span]

    @property
    def breaks_ms(self) -> list[int]:
        """Where no line goes on: when the gate was silent, when it failed, when something was made as new."""
        renewed = self.work[self.work["kind"].isin(["failure", "repair", "replacement"])]
        return [since for since, _ in self.silent] + [int(at) for at in _ms(renewed["started_at"])]

    def keys(self, *quantities: str) -> list[str]:
        """The channels of these quantities that have a value, in the order of the readings' columns."""
        return [
            name
            for name in self.readings.columns.drop("ts")
            if quantity_of(name) in quantities and self.readings[name].notna().any()
        ]


Panel = Callable[["Axes", _View], None]


def _look(dataset: Dataset, gate_id: str, start: date | None, days: int) -> _View:
    if gate_id not in dataset.gate_ids:
        known = dataset.gate_ids
        raise BadInput(f"gate must be one of {', '.join(known[:12])}{' …' if len(known) > 12 else ''}; got {gate_id!r}")
    readings = dataset.readings(gate_id)
    if readings.empty:
        raise BadInput(f"gate {gate_id} has no readings in {dataset.path.name}/readings")
    gate = dataset.gates.set_index("gate_id", drop=False).loc[gate_id].to_dict()
    stations = dataset.stations[dataset.stations["station_id"] == gate["station_id"]].to_dict("records")
    station = stations[0] if stations else {"name": "", "time_zone": ""}
    zone = _zone(station["time_zone"], gate["station_id"])
    motors = dataset.components[(dataset.components["gate_id"] == gate_id) & (dataset.components["component"] == "motor")]

    truth = _truth_of(dataset.path, gate_id)
    work = dataset.maintenance[dataset.maintenance["gate_id"] == gate_id].sort_values("started_at", kind="stable")
    ts_ms = _ms(readings["ts"])
    first_day = pd.Timestamp(start) if start else pd.Timestamp(ts_ms[0], unit="ms", tz=zone).tz_localize(None).normalize()
    start_ms = _local_midnight_ms(first_day, zone)
    day_after = pd.Timestamp(ts_ms[-1], unit="ms", tz=zone).tz_localize(None).normalize() + timedelta(days=1)
    end_ms = min(_local_midnight_ms(first_day + timedelta(days=days), zone), _local_midnight_ms(day_after, zone))
    inside = (ts_ms >= start_ms) & (ts_ms < end_ms)
    if not inside.any():
        have = " to ".join(f"{pd.Timestamp(at, unit='ms', tz=zone):%Y-%m-%d}" for at in ts_ms[[0, -1]])
        raise BadInput(f"gate {gate_id} has readings from {have}; got {days} days from {first_day:%Y-%m-%d}")
    shown = readings[inside].reset_index(drop=True)
    return _View(
        gate=gate,
        station_name=station["name"],
        motor=motors.iloc[0].to_dict() if len(motors) else {},
        zone=zone,
        start_ms=start_ms,
        end_ms=end_ms,
        readings=shown,
        runs=per_run(shown),
        work=work[(_ms(work["started_at"]) < end_ms) & (_ms(work["ended_at"].fillna(work["started_at"])) >= start_ms)],
        faults=None if truth is None else faults(truth),
        # before its first and after its last reading a gate is not silent: there the data end
        silent=silences(ts_ms, max(start_ms, int(ts_ms[0])), min(end_ms, int(ts_ms[-1]))),
    )


def _zone(name: str, station_id: str) -> ZoneInfo:
    try:
        return ZoneInfo(name or "UTC")
    except (KeyError, ValueError, OSError) as error:
        raise BadInput(f"stations.csv: time_zone of {station_id} must be a name as Asia/Shanghai; got {name!r}") from error


def _truth_of(folder: Path, gate_id: str) -> pd.DataFrame | None:
    if not (folder / FILE).is_file():
        return None
    try:
        truth = read_truth(folder)
        return truth[truth["gate_id"] == gate_id]
    except (pa.ArrowException, KeyError, OSError) as error:
        raise BadInput(f"{FILE} cannot be read: {error}") from error


def _panels(view: _View) -> list[tuple[float, Panel]]:
    wanted: list[tuple[float, Panel, bool]] = [
        (1.9, _draw_velocity, bool(view.keys("velocity_rms"))),
        (1.4, _draw_acceleration, bool(view.keys("acceleration_rms"))),
        (1.2, _draw_kurtosis, bool(view.keys("kurtosis"))),
        (1.9, _draw_temperature, bool(view.keys("temperature"))),
        (1.4, _draw_current, bool(view.keys("current"))),
        (1.3, _draw_duty, True),
        (1.5, _draw_wear, view.faults is not None),
    ]
    return [(ratio, draw) for ratio, draw, there in wanted if there]


def _draw_velocity(axes: Axes, view: _View) -> None:
    zones = ZONES.get(str(view.motor.get("iso_class", "")).upper())
    boundaries = zones.boundaries_mm_s if zones else ()
    _draw_runs(axes, view, view.keys("velocity_rms"), at_least=boundaries[1] * 1.25 if boundaries else 0.0)
    top = axes.get_ylim()[1]
    for name, boundary in zip(("A/B", "B/C", "C/D"), boundaries, strict=False):
        if boundary < top:
            axes.axhline(boundary, color="#555555", linewidth=0.9, linestyle=(0, (6, 3)), zorder=1.5)
            axes.annotate(
                f"{name} {boundary:g}",
                (1.0, boundary),
                xycoords=("axes fraction", "data"),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color="#333333",
            )
    axes.set_ylabel("velocity\nmm/s RMS")
    note = f"dashed: ISO 10816-1\nclass {view.motor['iso_class']}, indicative" if boundaries else None
    _draw_legend(axes, note)


def _draw_acceleration(axes: Axes, view: _View) -> None:
    _draw_runs(axes, view, view.keys("acceleration_rms"))
    axes.set_ylabel("acceleration\ng RMS")
    _draw_legend(axes)


def _draw_kurtosis(axes: Axes, view: _View) -> None:
    _draw_runs(axes, view, view.keys("kurtosis"), from_zero=False)
    axes.set_ylabel("kurtosis")
    _draw_legend(axes)


def _draw_temperature(axes: Axes, view: _View) -> None:
    for key in view.keys("ambient_temperature")[:1]:
        day_ms = _local_days_ms(_ms(view.readings["ts"]), view.zone)
        daily = view.readings[key].groupby(day_ms).agg(["min", "max"]).dropna()
        axes.bar(
            _days(_ints(daily.index)),
            daily["max"] - daily["min"],
            1.0,
            bottom=daily["min"],
            align="edge",
            color="#CFCFCF",
            linewidth=0,
            antialiased=False,  # else white seams show between the days
            zorder=1.2,
            label="ambient, daily range",
        )
    _draw_runs(axes, view, view.keys("temperature"), from_zero=False)
    axes.set_ylabel("greatest in a run\n°C")
    _draw_legend(axes)


def _draw_current(axes: Axes, view: _View) -> None:
    rated_a = float(view.motor.get("rated_current_a", np.nan))
    runs = view.runs.copy()
    keys = view.keys("current")
    unit = "A"
    if rated_a > 0.0:
        runs[keys] = runs[keys] / rated_a
        unit = "fraction of rated"
    series = [(f"{_subject(key)} current", runs[key].to_numpy(), colour) for key, colour in zip(keys, PALETTE, strict=False)]
    load = ("reported load", runs["load"].to_numpy(), ORANGE)
    if rated_a > 0.0 and runs["load"].notna().any():
        series.append(load)
    _draw_series(axes, view, series, from_zero=False)
    axes.set_ylabel(f"current, load\n{unit}" if len(series) > len(keys) else f"current\n{unit}")
    _draw_legend(axes)


def _draw_duty(axes: Axes, view: _View) -> None:
    minutes = view.runs["minutes"].groupby(_local_days_ms(_ints(view.runs["started_ms"]), view.zone)).sum()
    axes.bar(
        _days(_ints(minutes.index)), minutes, 1.0, align="edge", color="#A6A6A6", linewidth=0, zorder=2, label="minutes in motion"
    )
    axes.set_ylim(0.0, _robust_top([minutes.to_numpy(dtype=float)], 1.0))
    axes.set_ylabel("in motion\nminutes a day")
    twin = None
    for key, colour in zip(view.keys("water_level", "head") or view.keys("humidity"), (BLUE, GREEN, PURPLE), strict=False):
        twin = twin or axes.twinx()
        ts_ms, values = _ms(view.readings["ts"]), view.readings[key].to_numpy(dtype=float)
        quarter_ms = ts_ms // SILENT_MS * SILENT_MS
        level = pd.Series(values).groupby(quarter_ms).median()
        label = quantity_of(key).replace("_", " ")
        silent_ms = [since for since, _ in view.silent]
        for at_ms, part in stretches(_ints(level.index), level.to_numpy(dtype=float), silent_ms, sparse_ms=2 * SILENT_MS):
            twin.plot(_days(at_ms + SILENT_MS // 2), part, color=colour, linewidth=1.1, label=label, zorder=3)
            label = "_"
        twin.set_ylabel("water, m" if quantity_of(key) != "humidity" else "humidity, %")
        twin.grid(visible=False)
    _draw_legend(axes, others=[twin] if twin else [])


def _draw_wear(axes: Axes, view: _View) -> None:
    shown = [
        fault
        for fault in view.faults or []
        if _ms(fault["day"])[-1] + DAY_MS >= view.start_ms and _ms(fault["day"])[0] < view.end_ms
    ]
    modes = sorted({str(fault["mode"].iloc[0]) for fault in shown})
    colours = {mode: PALETTE[place % len(PALETTE)] for place, mode in enumerate(modes)}
    for mode in modes:
        axes.plot([], [], color=colours[mode], linewidth=2, label=mode.replace("_", " "))
    for fault in shown:
        colour = colours[str(fault["mode"].iloc[0])]
        at_ms, z = _ms(fault["day"]), fault["z"].to_numpy(dtype=float)
        failed_ms = _ms(fault["fails_at"].dropna())[:1]
        if len(failed_ms) and at_ms[-1] <= failed_ms[0] <= at_ms[-1] + DAY_MS:
            axes.plot(
                _days(failed_ms), z[-1:], marker="X", markersize=9, color=colour, markeredgecolor="white", zorder=5, clip_on=False
            )
            at_ms, z = np.append(at_ms, failed_ms), np.append(z, z[-1])
        style = (0, (3, 1.5)) if fault["silent"].iloc[0] else "solid"
        axes.plot(_days(at_ms), z, color=colour, linewidth=2, linestyle=style, zorder=3)
    axes.set_ylim(0.0, 1.08)
    axes.set_ylabel("hidden wear\nz, fails at 1")
    _draw_legend(axes, "dashed: shows in no sensor\nX: failed" if shown else "no fault in this time")


def _draw_runs(axes: Axes, view: _View, keys: Sequence[str], *, from_zero: bool = True, at_least: float = 0.0) -> None:
    free = [colour for colour in PALETTE if colour not in {COLOURS.get(_subject(key)) for key in keys}]
    series = []
    for key in keys:
        subject = _subject(key)
        colour = COLOURS.get(subject) or (free.pop(0) if free else BLACK)
        series.append((subject.replace(".", " ").replace("_", " "), view.runs[key].to_numpy(dtype=float), colour))
    _draw_series(axes, view, series, from_zero=from_zero, at_least=at_least)


def _draw_series(
    axes: Axes, view: _View, series: Sequence[tuple[str, Floats, str]], *, from_zero: bool, at_least: float = 0.0
) -> None:
    at_ms, breaks_ms = _ints(view.runs["started_ms"]), view.breaks_ms
    top = _robust_top([values for _, values, _ in series], at_least)
    for label, values, colour in series:
        above = values > top
        size = 3.2 if len(at_ms) < 1500 else 2.4
        axes.plot(
            _days(at_ms[~above]), values[~above], "o", markersize=size, markeredgewidth=0, alpha=0.38, color=colour, zorder=2.5
        )
        axes.plot(
            _days(at_ms[above]),
            np.full(above.sum(), 0.985),
            "^",
            markersize=5,
            color=colour,
            markeredgewidth=0,
            transform=axes.get_xaxis_transform(),
            zorder=4,
        )
        for part_ms, part in stretches(at_ms, values, breaks_ms):
            axes.plot(_days(part_ms), running_median(part_ms, part), color=colour, linewidth=1.4, zorder=3)
        axes.plot([], [], "o-", color=colour, linewidth=1.4, markersize=4, label=label)
    lowest = min((float(np.nanmin(values)) for _, values, _ in series if np.isfinite(values).any()), default=0.0)
    margin = 0.05 * (top - lowest)
    axes.set_ylim(0.0 if from_zero else lowest - margin, top)


def _robust_top(series: Sequence[Floats], at_least: float) -> float:
    """An upper limit that a few spikes cannot raise; what lies above it is drawn as triangles at the edge."""
    values = np.concatenate([part[np.isfinite(part)] for part in series]) if series else np.empty(0)
    if not len(values):
        return max(at_least, 1.0)
    usual, greatest = float(np.quantile(values, 0.995)), float(values.max())
    top = greatest if greatest <= 1.5 * abs(usual) else 1.2 * abs(usual)
    return max(top * 1.06, at_least, 1e-3)


def _draw_marks(axes: Axes, view: _View) -> None:
    for since_ms, until_ms in view.silent:
        axes.axvspan(
            *_days(np.array([since_ms, until_ms])),
            facecolor="#F0F0F0",
            edgecolor="#B5B5B5",
            hatch="////",
            linewidth=0,
            zorder=0.5,
        )
    for row in view.work.to_dict("records"):
        since_ms, until_ms = _span_ms(row, view.end_ms)
        if row["kind"] in ("repair", "replacement"):
            axes.axvspan(*_days(np.array([since_ms, until_ms])), color=REPAIR, alpha=0.45, linewidth=0.8, zorder=1)
        elif row["kind"] == "failure":
            axes.axvline(since_ms / DAY_MS, color=FAILURE, linewidth=1.4, zorder=3.5)
        else:
            style = "solid" if row["kind"] == "inspection" else (0, (2, 2))
            axes.axvline(since_ms / DAY_MS, color=QUIET, linewidth=0.9, linestyle=style, zorder=1)


def _draw_failure_names(axes: Axes, view: _View) -> None:
    failed = view.work[(view.work["kind"] == "failure") & (_ms(view.work["started_at"]) >= view.start_ms)]
    apart = NAMES_APART * (view.end_ms - view.start_ms) / DAY_MS
    free_from = -np.inf
    for row in failed.to_dict("records"):
        since = _span_ms(row, view.end_ms)[0] / DAY_MS
        at = max(since, free_from)
        free_from = at + apart
        axes.annotate(
            (row["failure_mode"] or row["component"] or "failure").replace("_", " "),
            (at, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(1, 4),
            textcoords="offset points",
            rotation=35,
            rotation_mode="anchor",
            color=FAILURE,
            fontsize=9.5,
            annotation_clip=False,
        )


def _draw_time_axis(all_axes: Sequence[Axes], view: _View) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(tz=view.zone, minticks=6, maxticks=14)
    last = all_axes[-1]
    last.xaxis.set_major_locator(locator)
    last.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=view.zone, show_offset=False))
    last.set_xlim(view.start_ms / DAY_MS, view.end_ms / DAY_MS)
    for axes in all_axes:
        axes.yaxis.set_label_coords(-0.035, 0.5)
        axes.tick_params(axis="x", labelbottom=axes is last)
        axes.tick_params(length=3, color="#777777")


def _draw_mark_legend(axes: Axes, view: _View, height_in: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks = [
        Line2D([], [], color=FAILURE, linewidth=1.6, label="failure"),
        Patch(color=REPAIR, alpha=0.45, label="repair or replacement"),
        Line2D([], [], color=QUIET, linewidth=1.0, label="inspection"),
        Line2D([], [], color=QUIET, linewidth=1.0, linestyle=(0, (2, 2)), label="lubrication"),
        Patch(facecolor="#F0F0F0", edgecolor="#B5B5B5", hatch="////", linewidth=0, label="no reading for over 6 h"),
        Line2D([], [], color="#555555", marker="o", markersize=4, linewidth=1.4, label="one run, and 7-day running median"),
        Line2D([], [], color="#555555", marker="^", markersize=5, linewidth=0, label="beyond the scale"),
    ]
    kinds = set(view.work["kind"])
    marks = [mark for mark in marks if mark.get_label() != "lubrication" or "lubrication" in kinds]
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.legend(handles=marks, loc="lower left", bbox_to_anchor=(0.05, 0.02 / height_in), ncols=len(marks), columnspacing=2.0)


def _draw_legend(axes: Axes, note: str | None = None, others: Sequence[Axes] = ()) -> None:
    handles, labels = axes.get_legend_handles_labels()
    for other in others:
        more, more_labels = other.get_legend_handles_labels()
        handles, labels = [*handles, *more], [*labels, *more_labels]
    legend = axes.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.045, 1.04), borderaxespad=0.0, title=note)
    legend.get_title().set_fontsize(8.5)
    legend.get_title().set_color("#444444")
    legend.set_alignment("left")


def _title(view: _View) -> tuple[str, str]:
    gate, motor = view.gate, view.motor
    place = ", ".join(part for part in (gate["name"], view.station_name) if part)
    headline = f"{gate['gate_id']}   {place}".rstrip()
    words = [gate["gate_type"].replace("_", " "), gate["hoist_type"] and f"{gate['hoist_type']} hoist", gate["role"]]
    power_kw, rated_a, rpm = (float(motor.get(name, np.nan)) for name in ("rated_power_kw", "rated_current_a", "speed_rpm"))
    rated = [f"{value:g} {unit}" for value, unit in ((power_kw, "kW"), (rated_a, "A"), (rpm, "rpm")) if value == value]
    first, last = (pd.Timestamp(at, unit="ms", tz=view.zone) for at in (view.start_ms, view.end_ms - 1))
    since = gate["commissioned_on"][:4]
    parts = [
        *words,
        f"motor {', '.join(rated)}" if rated else "",
        f"commissioned {since}" if since else "",
        f"{first:%Y-%m-%d} to {last:%Y-%m-%d}, {view.zone.key} time",
        "" if view.faults is not None else f"no {FILE}, so hidden wear is not known",
    ]
    return headline, "  ·  ".join(part for part in parts if part)


def _subject(key: str) -> str:
    """``motor`` of ``motor.current``, ``motor.winding`` of ``motor.winding.temperature``."""
    return key.rpartition(".")[0]


def _span_ms(row: Mapping[Any, Any], end_ms: int) -> Span:
    since = int(row["started_at"].timestamp() * 1000)
    return since, end_ms if pd.isna(row["ended_at"]) else int(row["ended_at"].timestamp() * 1000)


def _greatest(values: Floats, first: Ints, after: Ints) -> Floats:
    """The greatest finite value of each ``values[first:after]``; NaN where there is none."""
    if not len(first):
        return np.empty(0)
    padded = np.append(np.where(np.isfinite(values), values, -np.inf), -np.inf)
    greatest = np.maximum.reduceat(padded, np.column_stack([first, after]).ravel())[::2]
    return np.where(np.isinf(greatest), np.nan, greatest)


def _ms(instants: pd.Series[Any]) -> Ints:
    return instants.to_numpy(dtype="datetime64[ms]").astype(np.int64)


def _ints(values: pd.Series[Any] | pd.Index[Any]) -> Ints:
    return values.to_numpy(dtype=np.int64)


def _days(at_ms: Ints) -> Floats:
    """Instants as matplotlib counts them, in days since 1970."""
    days: Floats = at_ms / DAY_MS
    return days


def _local_midnight_ms(day: pd.Timestamp, zone: ZoneInfo) -> int:
    return int(day.tz_localize(zone, nonexistent="shift_forward", ambiguous=True).timestamp() * 1000)


def _local_days_ms(at_ms: Ints, zone: ZoneInfo) -> Ints:
    """The local midnight before each instant."""
    local = pd.DatetimeIndex(at_ms.astype("datetime64[ms]"), tz="UTC").tz_convert(zone).tz_localize(None).normalize()
    midnights = local.tz_localize(zone, nonexistent="shift_forward", ambiguous=np.ones(len(local), dtype=bool))
    return midnights.tz_convert("UTC").tz_localize(None).to_numpy(dtype="datetime64[ms]").astype(np.int64)
