"""`kill -9` at random moments of a promotion, a registration and a training: afterwards old or new, never broken.

Ten kills each; `make faults` asks for 200 by ``FAULTS_KILLS``.
"""

import logging
import multiprocessing
import os
import random
import shutil
import time
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path

import pandas as pd
import pytest

from models import registry, signing
from models.fitting import Settings, fit
from models.forecast import Forecaster
from pipeline.dataset import open_dataset
from pipeline.features import from_dataset
from pipeline.simulator import write_dataset
from tests.faults import registry_workers as workers
from tests.models import fleet

KILLS = int(os.environ.get("FAULTS_KILLS", "10"))
SERVER = multiprocessing.get_context("forkserver")
log = logging.getLogger(__name__)


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    """The server of processes, with everything imported, so that they begin at once."""
    SERVER.set_forkserver_preload(["tests.faults.registry_workers"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # in Python 3.11 it does not get ours
        forkserver.ensure_running()


@pytest.fixture(scope="module")
def forecaster() -> Forecaster:
    learnt = fleet.draw(15, 250, seed=1)
    small = Settings(trees=5, fewest_trees=5, learning_rate=0.2, healthy_rows=500)
    return fit(learnt.rows, learnt.maintenance, learnt.observed_until, features=fleet.FEATURES, seed=0, settings=small)


@pytest.fixture(scope="module")
def golden() -> pd.DataFrame:
    return fleet.draw(1, 60, seed=5).rows.query("reason == ''").tail(10)


def begin_and_kill(work: Callable[..., None], *arguments: object, within_s: float, moment: random.Random) -> None:
    """Let a process of its own work and kill it some moments after it has begun."""
    heard, told = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=workers.begin, args=(told, work, arguments))
    process.start()
    told.close()
    assert heard.poll(60), "the process did not begin"
    assert heard.recv() == "begun"
    process.join(moment.uniform(0.0, within_s))
    assert process.exitcode is None, f"the process ended by itself: {process.exitcode}"
    process.kill()
    process.join()


def test_the_champion_is_the_old_or_the_new_one(tmp_path: Path, forecaster: Forecaster, golden: pd.DataFrame) -> None:
    folder, moment, seen = tmp_path / "registry", random.Random(1), []
    for version in ("v1", "v2"):
        workers.save(folder, version, forecaster, golden)
        registry.promote(folder, version)

    # the moments of a few kills may by chance all fall on the same champion
    while len(seen) < KILLS or (len(set(seen)) == 1 and len(seen) < 5 * KILLS):
        begin_and_kill(workers.switch, folder, within_s=1.0, moment=moment)
        pointed = registry.aliases(folder)
        assert {pointed["champion"], pointed["previous"]} == {"v1", "v2"}
        assert registry.load(folder).version == pointed["champion"]
        seen.append(pointed["champion"])

    started = time.perf_counter()
    registry.rollback(folder)
    took_s = time.perf_counter() - started
    log.info("%d kills: champion %s; a rollback took %.2f s", len(seen), {v: seen.count(v) for v in set(seen)}, took_s)
    assert set(seen) == {"v1", "v2"}


def test_a_version_is_there_whole_or_not_at_all(tmp_path: Path, forecaster: Forecaster, golden: pd.DataFrame) -> None:
    moment, found = random.Random(2), 0

    for n in range(KILLS):
        folder = tmp_path / f"registry{n}"
        begin_and_kill(workers.register, folder, forecaster, golden, within_s=0.5, moment=moment)
        listed = [listed.version for listed in registry.list_versions(folder)]
        assert listed == sorted(f"v{number}" for number in range(len(listed)))
        for version in listed:
            assert registry.load(folder, version).version == version
        found += len(listed)
        workers.save(folder, "after", forecaster, golden)
        assert [key.signs_here for key in signing.list_trusted(signing.keys_of(folder))].count(True) == 1
        assert registry.load(folder, "after").version == "after"

    log.info("%d kills: %d versions registered before them, all whole", KILLS, found)
    assert found > 0


def test_a_training_goes_on_with_whole_rows(tmp_path: Path) -> None:
    write_dataset(tmp_path / "fleet", gates=4, days=40, seed=8, heartbeat_min=60)
    expected = from_dataset(open_dataset(tmp_path / "fleet"), compact=True)
    keep, moment, kept = tmp_path / "kept", random.Random(3), 0

    for _ in range(KILLS):
        begin_and_kill(workers.make_features, tmp_path / "fleet", keep, within_s=2.0, moment=moment)
        for file in keep.glob("*.parquet"):
            of_gate = expected[expected["gate_id"] == file.stem].reset_index(drop=True)
            pd.testing.assert_frame_equal(pd.read_parquet(file), of_gate, check_exact=True)
        n_kept = len(list(keep.glob("*.parquet")))
        kept += n_kept
        if n_kept == 4:
            shutil.rmtree(keep)

    resumed = from_dataset(open_dataset(tmp_path / "fleet"), compact=True, keep=keep)
    log.info("%d kills: %d gates found kept after them, all whole", KILLS, kept)
    assert kept > 0
    pd.testing.assert_frame_equal(resumed, expected, check_exact=True)
