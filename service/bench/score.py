"""Bench of scoring: one day of a simulated fleet, and the forecaster against its trees alone on the same rows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from sqlalchemy.engine import Engine
from threadpoolctl import threadpool_limits

from models import registry
from models.forecast import Forecaster, feature_matrix, in_steps, scale
from pipeline import historian, simulator, transfer
from pipeline.dataset import open_dataset
from pipeline.errors import BadInput
from service import store
from service.bench.report import BenchError, Figure, ratio
from service.live_features import load_features
from service.scoring import score_day

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
    trees = forecaster.parts["trees"]
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
