"""Bench of scoring: one day of a simulated fleet, and the forecaster against its trees alone on the same rows."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from threadpoolctl import threadpool_limits

from models import registry
from models.forecast import POOLED, Forecaster, feature_matrix, in_steps, scale
from pipeline import historian, simulator, transfer
from pipeline.dataset import open_dataset
from pipeline.errors import BadInput
from pipeline.historian import to_ms
from pipeline.readings import DAY_MS
from service import store
from service.bench.report import BenchError, Figure, ratio
from service.bench.simulate import peak_mb
from service.live_features import load_features, refresh_operations
from service.scoring import Model, score_day

SIMULATED, MANY = 24, 240
"""A fleet of so many gates or more is made of copies of a few simulated ones."""

DAYS_OF_ROWS = 30
FEWEST_DAYS = 20
"""A young gate has no forecast, and rows without one cost nothing."""


def bench_score(
    gates: int = 24, days: int = 60, repeats: int = 5, progress: Callable[[int, int], None] | None = None
) -> list[Figure]:
    """Measure the fleet's last days, one after the other as they would come; the backlog before them is not timed."""
    if days < FEWEST_DAYS + repeats:
        raise BadInput(f"days: {repeats} repeats need at least {FEWEST_DAYS + repeats}; got {days}")
    with tempfile.TemporaryDirectory(prefix="sluicewatch-bench-") as name:
        folder = Path(name)
        registry.seed(folder / "registry")
        model = registry.load(folder / "registry")
        engine, gate_ids, ends_at = _import(folder, gates, days)
        try:
            as_ofs = [ends_at - timedelta(days=back) for back in range(days)][::-1]
            plain = _score(engine, model, as_ofs[-repeats - 1 :], gates, progress)
            with engine.connect() as connection:
                rows = load_features(connection, gate_ids, as_ofs[-DAYS_OF_ROWS:])
        finally:
            engine.dispose()
    layer, bare = _predict(model.forecaster, rows[rows["reason"] == ""], repeats)
    return [plain, layer, bare, ratio(layer, bare)]


def bench_many(
    gates: int = 10_000,
    days: int = 120,
    jobs: int = 2,
    progress: Callable[[int, int], None] | None = None,
    model: Model | None = None,
) -> list[Figure]:
    """Score one day of a tenth of the gates, then of all; its readings are there.

    The days before it are cut, and the last of them is scored.

    The gates are copies of some simulated ones under other names, made inside the historian: their channels, operations,
    days and records, and the readings of the last day.
    """
    with tempfile.TemporaryDirectory(prefix="sluicewatch-bench-") as name:
        folder = Path(name)
        if model is None:
            registry.seed(folder / "registry")
            model = registry.load(folder / "registry")
        engine, gate_ids, ends_at = _import(folder, SIMULATED, days)
        refresh_operations(engine, gate_ids, ends_at - timedelta(days=1))
        engine.dispose()
        seconds: dict[int, float] = {}
        for size in (max(1, gates // 10), gates):
            shutil.copy(folder / "historian.sqlite", folder / "copies.sqlite")
            engine = historian.connect(f"sqlite:///{folder / 'copies.sqlite'}")
            try:
                _copy_gates(engine, size, ends_at)
                score_day(engine, model, ends_at - timedelta(days=1), ends_at, jobs=jobs)
                started = time.perf_counter()
                report = score_day(engine, model, ends_at, ends_at, jobs=jobs)
                seconds[size] = time.perf_counter() - started
            finally:
                engine.dispose()
                for path in folder.glob("copies.sqlite*"):
                    path.unlink()
            if report.gates != size:
                raise BenchError(f"bench score: of {size} gates {report.gates} were scored")
            if progress is not None:
                progress(len(seconds), 2)
    (few, few_s), (many, many_s) = seconds.items()
    named = f"copies of {SIMULATED} simulated gates, new operations only, {jobs} processes"
    return [
        *(Figure("score", f"one day of {size} gates: {named}", "s", (taken,)) for size, taken in seconds.items()),
        *(Figure("score", f"gates a second at {size} gates", "gates/s", (size / taken,)) for size, taken in seconds.items()),
        Figure("score", f"e in time ~ gates^e, {few} and {many} gates", "exponent", (_exponent(few, few_s, many, many_s),)),
        Figure("score", "memory, greatest of all", "MB", (peak_mb(jobs),)),
    ]


def _exponent(few: int, few_s: float, many: int, many_s: float) -> float:
    return float(np.log(many_s / few_s) / np.log(many / few))


def _copy_gates(engine: Engine, gates: int, ends_at: datetime) -> None:
    """Make the fleet as many gates as wanted, by rows copied under other names; a copy's series have numbers of their own."""
    day_ms = to_ms(ends_at) - DAY_MS
    with historian.writing(engine) as connection:
        originals = sorted(connection.scalars(sa.select(historian.gates.c.gate_id)))
        most = connection.scalar(sa.select(sa.func.max(historian.channels.c.series_id))) or 0
        for copy in range(1, -(-gates // len(originals))):
            kept = originals[: gates - copy * len(originals)]
            for table in _COPIED:
                columns = [column for column in table.columns if column.name not in ("channel_id", "maintenance_id")]
                new: dict[str, Any] = {
                    "gate_id": table.c.gate_id + f"~{copy}",
                    **({"series_id": table.c.series_id + copy * most} if "series_id" in table.c else {}),
                }
                query = sa.select(*(new.get(column.name, column) for column in columns)).where(table.c.gate_id.in_(kept))
                connection.execute(sa.insert(table).from_select([column.name for column in columns], query))
            readings = historian.readings
            series = sa.select(historian.channels.c.series_id).where(historian.channels.c.gate_id.in_(kept))
            query = sa.select(readings.c.series_id + copy * most, *list(readings.c)[1:]).where(
                readings.c.series_id.in_(series), readings.c.ts_ms >= day_ms
            )
            connection.execute(sa.insert(readings).from_select(list(readings.c.keys()), query))


_COPIED = (
    historian.gates,
    historian.components,
    historian.channels,
    historian.maintenance,
    historian.operations,
    historian.days,
    historian.summary_names,
    historian.dirty_days,
)


def _import(folder: Path, gates: int, days: int) -> tuple[Engine, Sequence[str], datetime]:
    fleet = simulator.write_dataset(folder / "fleet", gates=gates, days=days, seed=1)
    dataset = open_dataset(folder / "fleet")
    engine = historian.connect(f"sqlite:///{folder / 'historian.sqlite'}")
    store.migrate(engine)
    with historian.writing(engine) as connection:
        transfer.register_fleet(connection, dataset, fleet.ends_at)
    transfer.import_readings(engine, dataset)
    return engine, dataset.gate_ids, fleet.ends_at


def _score(
    engine: Engine,
    model: registry.Model,
    as_ofs: Sequence[datetime],
    gates: int,
    progress: Callable[[int, int], None] | None,
) -> Figure:
    """Score all days; the first, which also cuts the backlog into operations, only warms up."""
    rates, scored = [], []
    for number, as_of in enumerate(as_ofs):
        started = time.perf_counter()
        report = score_day(engine, model, as_of, as_of)
        rates.append(report.gates / (time.perf_counter() - started))
        scored.append(report.gates)
        if progress is not None:
            progress(number + 1, len(as_ofs))
    if min(scored) != gates:
        raise BenchError(f"bench score: {gates} gates were imported and on one day {min(scored)} scored")
    named = f"one scoring day of {gates} gates: operations, features, forecasts, cases, committed"
    return Figure("score", named, "gates/s", tuple(rates[1:]), counts={"gates": gates, "scored": min(scored)})


def _predict(forecaster: Forecaster, rows: pd.DataFrame, repeats: int) -> tuple[Figure, Figure]:
    """Forecast the same rows through the project's layer and by the bare trees, in turn."""
    z = in_steps(scale(feature_matrix(rows, forecaster.features), forecaster.parts))
    asked = [np.column_stack([z, np.full(len(z), horizon)]) for horizon in forecaster.horizons_d]
    trees = forecaster.parts["trees"][POOLED]
    rates: dict[str, list[float]] = {"layer": [], "bare": []}
    for _ in range(repeats):
        started = time.perf_counter()
        forecasts = forecaster.predict(rows)
        rates["layer"].append(len(rows) / (time.perf_counter() - started))
        with threadpool_limits(limits=1):
            started = time.perf_counter()
            for matrix in asked:
                trees.decision_function(matrix)
            rates["bare"].append(len(rows) / (time.perf_counter() - started))
    counts = {"rows": len(rows), "forecasts": int((forecasts["component"] != "").sum())}
    horizons = len(forecaster.horizons_d)
    return (
        Figure("score", "predict: calibrated curves of components and gates", "rows/s", tuple(rates["layer"]), counts=counts),
        Figure("score", f"bare decision_function of its trees at {horizons} horizons, 1 thread", "rows/s", tuple(rates["bare"])),
    )
