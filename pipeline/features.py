"""Features: what a gate's operations up to an instant say about each of its components. No network, database or clock.

One function, `build`, serves training and live scoring; live takes the newest row. Each component is compared with its
own earlier operations at similar load, opening and ambient temperature: a *cycle* starts with the record or with a repair,
its first 30 days are the *baseline*, and a *deviation* is what an operation shows beyond what the baseline explains. A row
as of T knows nothing that happened at T or later.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.cycles import BASELINE_DAYS, Cycles, Records, whole_cycle_before
from pipeline.dataset import Dataset
from pipeline.gate_history import OWN_GROUPS, GateHistory
from pipeline.gate_view import TREND, GateView, Measured
from pipeline.operations import segment
from pipeline.readings import DAY_MS, quantity_of
from pipeline.trends import HISTORY_DAYS, REMEMBER_DAYS, nan_mean

__all__ = [
    "COMPONENT_KINDS",
    "FEATURES",
    "HOIST_TYPES",
    "OWN_GROUPS",
    "GateHistory",
    "Measured",
    "build",
    "build_all",
    "components_to_score",
    "day_or_none",
    "from_dataset",
    "history_of",
    "needed_spans",
    "shown_and_expected",
    "unit_of",
]

COMPONENT_KINDS = ("motor", "gearbox", "brake", "leaf", "screw", "drum", "hydraulic")
HOIST_TYPES = ("winch", "screw", "hydraulic")

_KINDS_TOLD = ("motor", "gearbox", "brake", "leaf", "hydraulic")
"""Kinds of components whose deviations every component of their gate is told."""

_VIBRATION_TREND = ("dev", "dev_7d", "slope_7d", "slope_14d", "slope_30d")
_VIBRATION = (OWN_GROUPS.index("velocity"), OWN_GROUPS.index("acceleration"))
_CONTRASTED = {group: OWN_GROUPS.index(group) for group in ("velocity", "temperature")}

_CONTEXT = (
    "load_7d",
    "operations_7d",
    "minutes_7d",
    "minutes_28d",
    "ambient_7d",
    "head_7d",
    "head_rise",
    "head_beyond",
    "load_rise",
    "cycle_days",
    "baseline_operations",
    "days_since_operation",
    "coverage_7d",
    "gate_lost",
    "own_lost",
)
_RECORD = ("gate_failures_a_year", "own_failures_a_year", "repairs_a_year", "days_since_visit", "gate_age_years")

FEATURES: tuple[str, ...] = (
    *(f"{group}_{name}" for group in OWN_GROUPS for name in TREND),
    *(f"current_{name}" for name in TREND),
    *(f"{kind}_{group}_z" for kind in _KINDS_TOLD for group in OWN_GROUPS),
    *(f"own_z_{rank}" for rank in (1, 2, 3)),
    *(f"own_t_{rank}" for rank in (1, 2, 3)),
    *(f"gate_z_{rank}" for rank in (1, 2, 3)),
    *(f"gate_t_{rank}" for rank in (1, 2, 3)),
    *(f"{group}_contrast" for group in _CONTRASTED),
    "vibration_level_mm_s",
    *(f"vibration_{name}" for name in _VIBRATION_TREND),
    "temperature_level_c",
    *_CONTEXT,
    *_RECORD,
    *(f"is_{kind}" for kind in (*COMPONENT_KINDS, "other")),
    *(f"hoist_{hoist}" for hoist in HOIST_TYPES),
)
"""Names and order of the feature columns; all float64, NaN where nothing is known.

``velocity`` … ``impulse`` and ``current`` are log ratios to the own baseline, ``temperature`` kelvin beyond what load,
duration and ambient explain; ``dev`` is the mean of the last 3 days, slopes are per day, ``z`` is in units of the
baseline's own scatter.
"""

_UNITS = {
    "temperature_contrast": "K",
    "vibration_level_mm_s": "mm/s",
    "temperature_level_c": "degC",
    "minutes_7d": "min",
    "minutes_28d": "min",
    "ambient_7d": "degC",
    "head_7d": "m",
    "cycle_days": "d",
    "days_since_operation": "d",
    "days_since_visit": "d",
    "gate_age_years": "a",
}


def unit_of(feature: str) -> str:
    """Unit of a feature: ``1`` for log ratios, multiples of the scatter, shares, counts and flags; ``/d`` is per day."""
    group, _, name = feature.partition("_")
    if feature in _UNITS:
        return _UNITS[feature]
    if name.endswith("a_year"):
        return "1/a"
    if name == "days_over":
        return "d"
    size = "K" if group == "temperature" and name.startswith(("dev", "slope", "diff", "fall", "rate")) else "1"
    return f"{size}/d" if name.startswith(("slope", "rate")) else size


_N_TRENDS = FEATURES.index("velocity_contrast")

GATES_AT_ONCE = 10
"""Gates that share a view: enough to share the cost of each step, few enough for the processor's cache."""

SENSOR_DAYS = 45
"""Verdicts on a channel look back 14 days with readings, its reporting interval 30; a stuck one is known after some more."""


def from_dataset(
    dataset: Dataset,
    as_ofs: Sequence[datetime] | None = None,
    progress: Callable[[int, int], None] | None = None,
    jobs: int = 1,
    gate_ids: Sequence[str] | None = None,
    quantities: Mapping[str, Collection[str]] | None = None,
    compact: bool = False,
    keep: Path | None = None,
) -> pd.DataFrame:
    """Feature rows of the gates of a dataset at each of `as_ofs` (default: every midnight their readings cover).

    Parameters
    ----------
    jobs : processes that share the gates; the rows are the same
    gate_ids : these gates only
    quantities : for some gates, as a station would see them that measures nothing but these
    compact : hold features in single precision, which is enough to learn from
    keep : folder that keeps each gate's rows once they are made, so that a run that was cut short goes on where it
        stopped; whoever names it answers for it that dataset, code and these parameters are the same

    Returns
    -------
    DataFrame
        As `build`, for all gates, sorted by gate, component and time.
    """
    parts = []
    gate_ids = dataset.gate_ids if gate_ids is None else gate_ids
    quantities = quantities or {}
    work = partial(_of_gate, dataset, as_ofs, quantities, compact)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        work = partial(_kept, keep, work, quantities)
    for done, rows in enumerate(_each_gate(gate_ids, work, jobs), start=1):
        if len(rows):
            parts.append(rows)
        if progress is not None:
            progress(done, len(gate_ids))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*_KEYS, *FEATURES])


def _compact(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([rows[list(_KEYS)], rows[list(FEATURES)].astype(np.float32)], axis=1)


def _each_gate(gate_ids: Sequence[str], work: Callable[[str], pd.DataFrame], jobs: int) -> Iterator[pd.DataFrame]:
    if jobs <= 1:
        yield from map(work, gate_ids)
        return
    with ProcessPoolExecutor(max_workers=jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(work, gate_ids, chunksize=4)


def _of_gate(
    dataset: Dataset,
    as_ofs: Sequence[datetime] | None,
    quantities: Mapping[str, Collection[str]],
    compact: bool,
    gate_id: str,
) -> pd.DataFrame:
    history = history_of(dataset, gate_id, quantities.get(gate_id))
    if not len(history.days):
        return pd.DataFrame(columns=[*_KEYS, *FEATURES])
    rows = build(history, _midnights(history.days) if as_ofs is None else as_ofs)
    return _compact(rows) if compact else rows


def _kept(
    folder: Path, work: Callable[[str], pd.DataFrame], quantities: Mapping[str, Collection[str]], gate_id: str
) -> pd.DataFrame:
    """The rows of a gate as they were kept, else made and kept: whole or not at all, whenever the process dies."""
    only = f"@{'+'.join(sorted(quantities[gate_id]))}" if gate_id in quantities else ""
    file = folder / f"{gate_id}{only}.parquet"
    if file.is_file():
        kept: pd.DataFrame = pq.read_table(file).to_pandas()
        return kept
    rows = work(gate_id)
    descriptor, temporary = tempfile.mkstemp(prefix=".new-", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), stream)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(file)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return rows


def history_of(
    dataset: Dataset, gate_id: str, quantities: Collection[str] | None = None, before: datetime | None = None
) -> GateHistory:
    """Cut one gate's readings (of some `quantities`) into operations, with its maintenance records beside.

    `before` an instant, it is what was known then: nothing that happened at it or later.
    """
    readings = dataset.readings(gate_id)
    records = dataset.maintenance[dataset.maintenance["gate_id"] == gate_id]
    if before is not None:
        readings, records = readings[readings["ts"] < before], records[records["started_at"] < before]
        records = records.assign(ended_at=records["ended_at"].where(records["ended_at"] < before))
    if quantities is not None:
        kept = [name for name in readings.columns if quantity_of(name) in quantities]
        readings = readings[["ts", *kept]].dropna(how="all", subset=kept)
    segmented = segment(readings)
    gate = dataset.gates[dataset.gates["gate_id"] == gate_id].iloc[0]
    named = {
        *dataset.components.loc[dataset.components["gate_id"] == gate_id, "component"],
        *dataset.channels.loc[dataset.channels["gate_id"] == gate_id, "component"],
    }
    declared = [channel for channel in dataset.declared(gate_id) if channel.interval_s is not None]
    return GateHistory(
        gate_id=gate_id,
        components=components_to_score(named),
        hoist_type=str(gate["hoist_type"]),
        operations=segmented.operations,
        days=segmented.days,
        maintenance=Records.of(records),
        intervals_s={channel.key: float(channel.interval_s or 0.0) for channel in declared},
        commissioned_on=day_or_none(gate["commissioned_on"]),
    )


def day_or_none(text: object) -> date | None:
    """A day as a table has it (``2019-05-01``); None where it is empty or no day."""
    try:
        return date.fromisoformat(str(text))
    except ValueError:
        return None


def components_to_score(named: set[str]) -> tuple[str, ...]:
    """The components of a gate that get a forecast: all but the station's shared instruments."""
    return tuple(sorted(named - {"station"}))


_KEYS = ("gate_id", "component", "as_of", "reason", "lost", "hoist_type")


def build(history: GateHistory, as_ofs: Sequence[datetime]) -> pd.DataFrame:
    """Feature rows of one gate.

    Parameters
    ----------
    history : GateHistory
    as_ofs : sequence of aware datetimes
        UTC midnights. Rows at T use only operations, rests and maintenance records that started before T, and never the
        end of a repair that had not ended yet.

    Returns
    -------
    DataFrame
        One row per (component, as_of): ``gate_id``, ``component``, ``as_of`` (datetime64[ms, UTC]), ``reason`` (``""`` or
        why no forecast can be given: ``under_repair``, ``stale``, ``young``, ``idle``, ``sensors``), ``lost`` (the
        component's faulty channels, each with its kind: ``"motor.current: stuck; …"``), ``hoist_type`` and the float64
        columns `FEATURES`.
    """
    return build_all([history], as_ofs)


def build_all(histories: Sequence[GateHistory], as_ofs: Sequence[datetime]) -> pd.DataFrame:
    """Feature rows of several gates, one gate after the other as `build` gives them; one frame of many is the cheaper."""
    at = np.array(sorted({_to_ms(as_of) for as_of in as_ofs}), dtype=np.int64)
    if (at % DAY_MS).any():
        raise ValueError("as_of must be a UTC midnight")
    histories = [history for history in histories if history.components]
    parts = [
        _rows_of(GateView(histories[start : start + GATES_AT_ONCE], at)) for start in range(0, len(histories), GATES_AT_ONCE)
    ]
    if not parts:
        return pd.DataFrame(columns=[*_KEYS, *FEATURES])
    keys = {name: np.concatenate([of_gate[name] for of_gate, _ in parts]) for name in _KEYS}
    frame = pd.DataFrame(keys)
    frame["as_of"] = frame["as_of"].astype("datetime64[ms]").dt.tz_localize("UTC")
    values = pd.DataFrame(np.concatenate([matrix for _, matrix in parts]), columns=list(FEATURES))
    return pd.concat([frame, values], axis="columns")


def _rows_of(view: GateView) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Key columns of some gates' rows by name, and `FEATURES`, shape (rows, features)."""
    shape = n_gates, n, n_at = (*view.is_component.shape, len(view.at))
    found = view.deviations()
    own, current = found[:, :, : len(OWN_GROUPS)], np.fmax.reduce(found[:, :, -1], axis=1)
    z, t_7d = found[:, :, :, TREND.index("z")], found[:, :, :, TREND.index("t_7d")]
    of_kind = np.full((n_gates, len(_KINDS_TOLD), len(OWN_GROUPS), n_at), np.nan)
    for number, history in enumerate(view.histories):
        for place, kind in enumerate(_KINDS_TOLD):
            if kind in history.components:
                of_kind[number, place] = z[number, history.components.index(kind), : len(OWN_GROUPS)]
    kinds = (*COMPONENT_KINDS, "other")
    is_kind = np.zeros((len(kinds), n_gates, n, 1))
    for number, history in enumerate(view.histories):
        for place, part in enumerate(history.components):
            is_kind[kinds.index(part if part in COMPONENT_KINDS else "other"), number, place] = 1.0
    hoists = [history.hoist_type for history in view.histories]
    columns = {
        **{f"{group}_contrast": own[:, :, place, 0] - _of_others(own[:, :, place, 0]) for group, place in _CONTRASTED.items()},
        **{f"vibration_{name}": _first_known(own[:, :, list(_VIBRATION), TREND.index(name)]) for name in _VIBRATION_TREND},
        **view.levels(),
        **view.context(),
        **view.record(),
        **{f"is_{kind}": flags for kind, flags in zip(kinds, is_kind, strict=True)},
        **{f"hoist_{hoist}": np.array([float(of == hoist) for of in hoists])[:, None, None] for hoist in HOIST_TYPES},
    }
    of_own = [_greatest_three(of[:, :, : len(OWN_GROUPS)]) for of in (z, t_7d)]
    of_gate = [_greatest_three(of.reshape(n_gates, 1, -1, n_at)) for of in (z, t_7d)]
    blocks = (
        own.reshape(n_gates, n, -1, n_at),
        current[:, None],
        of_kind.reshape(n_gates, 1, -1, n_at),
        *of_own,
        *of_gate,
        np.stack([np.broadcast_to(columns[name], shape) for name in FEATURES[_N_TRENDS:]], axis=2),
    )
    matrix = np.concatenate([np.broadcast_to(block, (n_gates, n, *block.shape[-2:])) for block in blocks], axis=2)
    components = [part for history in view.histories for part in history.components]
    n_rows = [len(history.components) * n_at for history in view.histories]
    keys = {
        "gate_id": np.repeat(np.array([history.gate_id for history in view.histories], dtype=object), n_rows),
        "component": np.repeat(np.array(components, dtype=object), n_at),
        "as_of": np.tile(view.at, len(components)),
        "reason": view.reasons()[view.is_component].ravel(),
        "lost": view.told_lost()[view.is_component].ravel(),
        "hoist_type": np.repeat(np.array(hoists, dtype=object), n_rows),
    }
    return keys, matrix.swapaxes(2, 3)[view.is_component].reshape(-1, len(FEATURES))


def _of_others(values: np.ndarray) -> np.ndarray:
    """Mean of what the other components of its gate show, for each one; shape (gates, components, as_ofs)."""
    return np.stack([nan_mean(np.delete(values, place, axis=1), axis=1) for place in range(values.shape[1])], axis=1)


def _first_known(values: np.ndarray) -> np.ndarray:
    """The first of two kinds of evidence (last axis but one), or the second where that says nothing."""
    return np.where(np.isnan(values[..., 0, :]), values[..., 1, :], values[..., 0, :])


def _greatest_three(z: np.ndarray) -> np.ndarray:
    """The three greatest along the last axis but one, in falling order; NaN where there are fewer."""
    known = np.concatenate([np.where(np.isfinite(z), z, -np.inf), np.full((*z.shape[:-2], 3, z.shape[-1]), -np.inf)], axis=-2)
    top = -np.sort(-known, axis=-2)[..., :3, :]
    return np.where(np.isinf(top), np.nan, top)


def shown_and_expected(history: GateHistory, component: str, as_of: datetime) -> dict[str, Measured]:
    """What stands behind the newest deviations of one component's row, by group of evidence; see `Measured`.

    As in the row, the column that deviates most speaks for its group, and the gate's strongest current for any component.
    A group is absent where nothing is known.
    """
    view = GateView([history], np.array([_to_ms(as_of)], dtype=np.int64))
    found = view.measured(component, OWN_GROUPS)
    currents = [one for part in history.components for one in view.measured(part, ("current",)).values()]
    return {**found, "current": max(currents, key=lambda one: one.change)} if currents else found


def needed_spans(
    maintenance: Records, components: Sequence[str], first_day_ms: int, as_ofs: Sequence[datetime]
) -> list[tuple[int, int]]:
    """Spans of whole days (epoch ms, the end exclusive) whose operations and days make the rows at `as_ofs`.

    These are the days that trends look back to, and the baselines of each component's cycle and of the last one before it
    that had a whole one, each with some days before it, by which its sensors are judged. `build` gives the same rows from
    them as from the whole record (given `GateHistory.first_day_ms`), as long as gates report at least now and then.

    Parameters
    ----------
    maintenance, first_day_ms : as in `GateHistory`
    components : those of the gate that have channels, the station's shared instruments among them
    """
    at = np.array(sorted({_to_ms(as_of) for as_of in as_ofs}), dtype=np.int64)
    cycles = Cycles(maintenance, min(first_day_ms, int(at[-1])), at)
    end_ms = int(at[-1])
    spans = [(int(at[0]) - (HISTORY_DAYS + REMEMBER_DAYS) * DAY_MS, end_ms)]
    for component in {cycles.key(component): component for component in components}.values():
        starts_ms = cycles.starts(component)
        for cycle_ms in set(cycles.at(component, at)[0].tolist()):
            before_ms = whole_cycle_before(starts_ms, cycle_ms)
            for start_ms in (cycle_ms,) if before_ms is None else (before_ms, cycle_ms):
                spans.append((start_ms, min(start_ms + BASELINE_DAYS * DAY_MS, end_ms)))
    merged: list[tuple[int, int]] = []
    for start_ms, end_ms in sorted(spans):
        start_ms = (start_ms // DAY_MS - SENSOR_DAYS) * DAY_MS
        end_ms = -(-end_ms // DAY_MS) * DAY_MS
        if merged and start_ms <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end_ms))
        else:
            merged.append((start_ms, end_ms))
    return merged


def _to_ms(instant: datetime) -> int:
    return round(instant.timestamp() * 1000)


def _midnights(days: pd.DataFrame) -> list[datetime]:
    day_ms = days["day_ms"].to_numpy()
    return [pd.Timestamp(ms, unit="ms", tz="UTC") for ms in range(int(day_ms.min()), int(day_ms.max()) + 2 * DAY_MS, DAY_MS)]
