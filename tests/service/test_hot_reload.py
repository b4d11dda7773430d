"""A new champion at work without a restart: real registry, real scoring, real API, and no request that fails meanwhile."""

import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from models import registry
from pipeline import historian
from pipeline.dataset import open_dataset
from pipeline.simulator import write_dataset
from pipeline.transfer import import_readings, register_fleet
from service import store
from service.scoring import run_scoring
from tests.service.api import fleet
from tests.service.api.client import TestClient

DAYS = 4


def test_scoring_takes_each_new_champion_for_the_next_day_and_no_request_fails(tmp_path: Path, sqlite_engine: Engine) -> None:
    folder = tmp_path / "registry"
    shipped = registry.load(folder, registry.seed(folder))
    mine = replace(shipped.policy, open_at=0.25)
    registry.save_tuned(folder, "mine", parent=shipped.version, policy=mine, tuned={}, card="")
    write_dataset(tmp_path / "fleet", gates=2, days=30, seed=3, heartbeat_min=60)
    dataset = open_dataset(tmp_path / "fleet")
    with historian.writing(sqlite_engine) as connection:
        register_fleet(connection, dataset, fleet.NOW)
    import_readings(sqlite_engine, dataset)
    last = max(dataset.readings(gate_id)["ts"].max() for gate_id in dataset.gate_ids).to_pydatetime()
    switches = {1: lambda: registry.promote(folder, "mine"), 2: lambda: registry.rollback(folder)}
    stop, asked = threading.Event(), threading.Event()

    def clock():
        """Asked while a day is about to be scored: the champion that scores it was chosen already."""
        with sqlite_engine.connect() as connection:
            done = connection.scalar(sa.select(sa.func.count()).select_from(store.scoring_runs))
        asked.wait(60)  # at least one request under each champion
        asked.clear()
        switches.pop(done, lambda: None)()
        if done == DAYS - 1:
            stop.set()
        return last - (DAYS - done) * timedelta(days=1)

    client = TestClient(
        fleet.make_app(sqlite_engine, folder),
        headers={"Authorization": f"Bearer {fleet.make_key(sqlite_engine).text}"},
    )
    answers, champions = [], []

    def ask() -> None:
        while not stop.is_set():
            for path in ("/api/v1/models", f"/api/v1/gates/{dataset.gate_ids[0]}"):
                answers.append(client.get(path))
            models = answers[-2].json()["items"]
            champions.append([model["version"] for model in models if "champion" in model["aliases"]])
            asked.set()
            stop.wait(0.02)  # leaves scoring its share of the interpreter

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        run_scoring(sqlite_engine, folder, clock=clock, stop=stop, every_s=0.01, grace=timedelta(0), backlog=timedelta(0))
    finally:
        stop.set()
        asking.join()

    with sqlite_engine.connect() as connection:
        runs = connection.execute(sa.select(store.scoring_runs).order_by(store.scoring_runs.c.as_of)).mappings().all()
        rows = connection.execute(sa.select(store.forecasts.c.as_of, store.forecasts.c.model_version).distinct()).all()
    versions = [shipped.version, shipped.version, "mine", shipped.version]
    assert [run["model_version"] for run in runs] == versions
    assert sorted(rows) == [(run["as_of"], version) for run, version in zip(runs, versions, strict=True)]
    assert {answer.status_code for answer in answers} == {200}
    assert {tuple(names) for names in champions} == {(shipped.version,), ("mine",)}
