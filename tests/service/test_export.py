"""A dataset into the historian, out of it and in again, on both kinds of server; and an export that was interrupted."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from sqlalchemy.engine import Engine

from models import fitting
from pipeline import historian, transfer
from pipeline.dataset import Dataset, DatasetError, open_dataset, write_readings, write_tables
from pipeline.historian import url_of, writing
from pipeline.readings import STANDARD_GRAVITY_M_S2
from pipeline.simulator import write_dataset
from service.cli import main
from service.store import migrate

NOW = datetime(2026, 3, 1, tzinfo=UTC)
TABLES = ("stations", "gates", "components", "channels", "maintenance")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("fleet")
    write_dataset(folder, gates=3, days=75, seed=5, hazard_scale=8.0, heartbeat_min=60)
    return open_dataset(folder)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A database at the newest schema with nothing in it, on each kind of server."""
    url = f"sqlite:///{tmp_path}/h.sqlite" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    engine = historian.connect(url)
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Engine]:
    engine = historian.connect(f"sqlite:///{tmp_path}/other.sqlite")
    migrate(engine)
    yield engine
    engine.dispose()


def bring_in(engine: Engine, dataset: Dataset) -> None:
    with writing(engine) as connection:
        transfer.register_fleet(connection, dataset, NOW)
    transfer.import_readings(engine, dataset)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def known(engine: Engine, gate_ids: list[str]) -> dict[str, pd.DataFrame]:
    """Everything of a fleet in a database, by the names of things."""
    with engine.connect() as connection:
        found = {name: historian.load_table(connection, historian.metadata.tables[name]) for name in TABLES}
        found |= {gate_id: historian.read_gate(connection, gate_id, 0, 2**52) for gate_id in gate_ids}
    return found


def test_import_export_import_is_identical(dataset: Dataset, empty: Engine, other: Engine, tmp_path: Path) -> None:
    bring_in(empty, dataset)

    exported_gates = transfer.export_dataset(empty, tmp_path / "out")
    again = open_dataset(tmp_path / "out")
    bring_in(other, again)

    assert exported_gates == 3
    before, after = known(empty, dataset.gate_ids), known(other, dataset.gate_ids)
    assert len(before["maintenance"]) > 3
    for name, table in before.items():
        pd.testing.assert_frame_equal(after[name], table, check_exact=True, check_dtype=False)
    for gate_id in dataset.gate_ids:
        original, exported = dataset.readings(gate_id).dropna(axis="columns", how="all"), again.readings(gate_id)
        assert sorted(exported.columns) == sorted(original.columns)
        told = original[original.drop(columns="ts").notna().any(axis=1)].reset_index(drop=True)
        for column in told.columns.drop("ts"):  # the very bits, not only equal numbers
            assert exported[column].to_numpy().tobytes() == told[column].to_numpy().tobytes()
        assert exported["ts"].tolist() == told["ts"].tolist()
    assert (again.source, again.licence) == (dataset.source, dataset.licence)


def test_the_same_content_is_exported_as_the_same_bytes(dataset: Dataset, other: Engine, tmp_path: Path) -> None:
    bring_in(other, dataset)

    for folder in ("a", "b"):
        run("export", tmp_path / folder, "--database", url_of(other))

    files = sorted(file.relative_to(tmp_path / "a") for file in (tmp_path / "a").rglob("*") if file.is_file())
    assert [str(file) for file in files if file.suffix not in (".csv", ".parquet")] == ["dataset.json"]
    assert len(files) == 6 + 3
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_an_interrupted_export_is_no_dataset_and_goes_on_where_it_stopped(
    dataset: Dataset, other: Engine, tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    def kill(done: int, _of: int) -> None:
        if done == 2:
            raise Killed

    bring_in(other, dataset)
    folder, whole = tmp_path / "out", tmp_path / "whole"
    transfer.export_dataset(other, whole)
    with pytest.raises(Killed):
        transfer.export_dataset(other, folder, progress=kill)
    written = {file.name: file.stat().st_mtime_ns for file in (folder / "readings").iterdir()}
    (folder / "readings" / f"{dataset.gate_ids[2]}.parquet.part").write_bytes(b"half a file")
    with pytest.raises(DatasetError, match="dataset.json is missing"):
        open_dataset(folder)
    with pytest.raises(DatasetError, match="repeat its flags"):
        transfer.export_dataset(other, folder, gate_ids=dataset.gate_ids[:2])

    transfer.export_dataset(other, folder)

    assert sorted(written) == [f"{gate_id}.parquet" for gate_id in dataset.gate_ids[:2]]
    assert {name: (folder / "readings" / name).stat().st_mtime_ns for name in written} == written
    assert {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*.*")} == {
        str(f.relative_to(whole)): f.read_bytes() for f in whole.rglob("*.*")
    }


def test_some_gates_and_days_are_what_was_known_on_the_last_of_them(dataset: Dataset, other: Engine, tmp_path: Path) -> None:
    bring_in(other, dataset)
    first, gates = dataset.readings(dataset.gate_ids[0])["ts"].min().floor("D"), dataset.gate_ids[:2]
    since, last = first + timedelta(days=10), first + timedelta(days=59)
    before = last + timedelta(days=1)

    answer = run(
        "export", tmp_path / "out", "--database", url_of(other), "--gates", ",".join(gates),
        "--from", f"{since:%Y-%m-%d}", "--to", f"{last:%Y-%m-%d}",
    )  # fmt: skip

    assert answer.exit_code == 0, answer.output
    part = open_dataset(tmp_path / "out")
    assert part.gate_ids == gates
    for gate_id in gates:
        original, ts = dataset.readings(gate_id), part.readings(gate_id)["ts"]
        told = original[original.drop(columns="ts").notna().any(axis=1) & (original["ts"] >= since) & (original["ts"] < before)]
        assert ts.tolist() == told["ts"].tolist()
    records = dataset.maintenance[dataset.maintenance["gate_id"].isin(gates) & (dataset.maintenance["started_at"] < before)]
    assert len(part.maintenance) == len(records) < (dataset.maintenance["gate_id"].isin(gates)).sum()
    assert not (part.maintenance["ended_at"] >= before).any()


def test_readings_leave_in_canonical_units_and_in_their_very_bits(other: Engine, tmp_path: Path) -> None:
    ts = pd.Series(pd.date_range("2026-01-01", periods=400, freq="7h", tz="UTC")).astype("datetime64[ms, UTC]")
    raw = np.random.default_rng(1).lognormal(size=400)
    raw[::7] = np.nan
    write_tables(
        tmp_path / "in",
        source="bench",
        licence="",
        gates=pd.DataFrame({"gate_id": ["G1"], "station_id": ["S1"], "name_zh": ['一号,"闸"\n门'], "travel_m": [0.1 + 0.2]}),
        channels=pd.DataFrame({"gate_id": ["G1"], "component": "motor", "quantity": "acceleration_rms", "unit": "m/s2"}),
        maintenance=pd.DataFrame(columns=["gate_id", "kind", "started_at"]),
    )
    write_readings(tmp_path / "in", "G1", pd.DataFrame({"ts": ts, "motor.acceleration_rms": raw}))
    bring_in(other, open_dataset(tmp_path / "in"))

    transfer.export_dataset(other, tmp_path / "out")

    out = open_dataset(tmp_path / "out")
    canonical = raw[np.isfinite(raw)] * (1 / STANDARD_GRAVITY_M_S2)
    assert out.channels["unit"].tolist() == ["g"]
    assert out.readings("G1")["motor.acceleration_rms"].to_numpy().tobytes() == canonical.tobytes()
    assert out.gates["travel_m"].tolist() == [0.1 + 0.2]
    assert out.gates["name_zh"].tolist() == ['一号,"闸"\n门']


def test_gates_of_several_sources_name_them_all(dataset: Dataset, other: Engine, tmp_path: Path) -> None:
    bring_in(other, dataset)
    with writing(other) as connection:
        connection.execute(sa.insert(historian.gates).values(gate_id="OWN-1", station_id="OWN"))

    transfer.export_dataset(other, tmp_path / "out")

    assert open_dataset(tmp_path / "out").source == f"historian; {dataset.source}"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("{tmp}/used",), "must be a new or empty folder"),
        (("{tmp}/new", "--gates", "DSH-S1-G1,NOWHERE"), "gates: 'NOWHERE' is not in the database; known are DSH-S1-G1"),
        (("{tmp}/new", "--to", "soon"), "--to: a day is written like 2026-03-01; got 'soon'"),
    ],
)
def test_what_cannot_be_exported_gets_one_clear_line(
    arguments: tuple[str, ...], told: str, dataset: Dataset, other: Engine, tmp_path: Path
) -> None:
    with writing(other) as connection:
        transfer.register_fleet(connection, dataset, NOW)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "theirs.txt").write_text("keep")

    answer = run("export", *(argument.format(tmp=tmp_path) for argument in arguments), "--database", url_of(other))

    assert answer.exit_code == 2
    assert told in answer.output
    assert len(answer.output.strip().splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_an_empty_database_has_nothing_to_export(other: Engine, tmp_path: Path) -> None:
    answer = run("export", tmp_path / "new", "--database", url_of(other))

    assert answer.exit_code == 2
    assert "it knows no gate" in answer.output


def test_training_from_the_store_is_training_on_the_exported_folder(
    other: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = partial(fitting.Settings, trees=20, fewest_trees=20, healthy_rows=2000)
    monkeypatch.setattr(fitting, "Settings", quick)  # what the command line trains with takes a minute
    write_dataset(tmp_path / "fleet", gates=8, days=220, seed=5, hazard_scale=12.0, heartbeat_min=240)
    bring_in(other, open_dataset(tmp_path / "fleet"))

    def trained(name: str, *data: str | Path) -> tuple[dict[str, bytes], str]:
        places = ("--registry", tmp_path / name / "registry", "--cache", tmp_path / name / "cache")
        answer = run("train", *data, *places, "--name", "v1")
        assert answer.exit_code == 0, answer.output
        files = {file.name: file.read_bytes() for file in (tmp_path / name / "registry" / "v1").iterdir()}
        del files["manifest.sig"]  # each registry has a key of its own
        return files, answer.output.partition("registered as")[0]

    from_store = trained("a", "--from-store", "--database", url_of(other))
    run("export", tmp_path / "store", "--database", url_of(other))
    from_folder = trained("b", tmp_path / "store")

    assert from_store == from_folder
    assert '"simulated": true' in from_store[0]["manifest.json"].decode()


@pytest.mark.parametrize("arguments", [(), ("{tmp}", "--from-store")])
def test_training_needs_a_folder_or_the_store(arguments: tuple[str, ...], tmp_path: Path) -> None:
    answer = run("train", *(argument.format(tmp=tmp_path) for argument in arguments), "--name", "v1")

    assert answer.exit_code == 2
    assert "train: give either a dataset folder or --from-store" in answer.output
