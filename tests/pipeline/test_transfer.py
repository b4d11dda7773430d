"""A dataset folder into the historian and back: nothing lost, nothing doubled, live features equal training's."""

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa

from pipeline import cut_days, features, historian, transfer
from pipeline.dataset import Dataset, open_dataset
from pipeline.operations import segment
from pipeline.readings import DAY_MS
from pipeline.simulator import write_dataset
from service.live_features import load_features, replace_days

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("fleet")
    write_dataset(folder, gates=3, days=60, seed=5)
    return open_dataset(folder)


@pytest.fixture
def engine(dataset: Dataset, tmp_path: Path) -> sa.Engine:
    engine = historian.connect(f"sqlite:///{tmp_path}/h.sqlite")
    with historian.writing(engine) as connection:
        historian.metadata.create_all(connection)
        transfer.register_fleet(connection, dataset, NOW)
    return engine


def test_readings_come_back_as_they_were_and_a_second_import_changes_nothing(dataset: Dataset, engine: sa.Engine) -> None:
    def stored() -> tuple[int, pd.DataFrame]:
        with engine.connect() as connection:
            rows = connection.scalar(sa.select(sa.func.count()).select_from(historian.readings))
            return rows, historian.read_gate(connection, dataset.gate_ids[0], 0, 2**52)

    written = transfer.import_readings(engine, dataset)
    first = stored()
    with historian.writing(engine) as connection:
        transfer.register_fleet(connection, dataset, NOW)
    transfer.import_readings(engine, dataset)

    original = dataset.readings(dataset.gate_ids[0]).dropna(axis="columns", how="all")
    assert first[0] == written == stored()[0]
    pd.testing.assert_frame_equal(first[1], original[first[1].columns], check_exact=True)
    pd.testing.assert_frame_equal(stored()[1], first[1], check_exact=True)
    with engine.connect() as connection:
        assert len(historian.load_table(connection, historian.maintenance)) == len(dataset.maintenance)


def test_live_features_are_training_features_on_the_same_readings(dataset: Dataset, engine: sa.Engine) -> None:
    transfer.import_readings(engine, dataset)
    gate_id = dataset.gate_ids[1]
    trained = features.build(
        features.history_of(dataset, gate_id), [pd.Timestamp(dataset.readings(gate_id)["ts"].max()).ceil("D")]
    )
    at = trained["as_of"].iloc[0]

    at_ms = int(at.timestamp() * 1000)
    with historian.writing(engine) as connection:
        days = cut_days.load_dirty_days(connection, [gate_id], at_ms)[gate_id]
        for day_ms in reversed(days):  # one day at a time, the newest first: order must not matter
            cut = segment(historian.read_gate(connection, gate_id, day_ms, day_ms + DAY_MS))
            replace_days(connection, [(gate_id, [day_ms], cut)])
        live = load_features(connection, [gate_id], [at.to_pydatetime()])

    assert len(days) == 60
    assert live["velocity_dev"].notna().any()
    pd.testing.assert_frame_equal(live, trained, rtol=0, atol=1e-9)


def test_a_fleet_without_stations_or_readings_can_be_registered(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"format": "sluicewatch-dataset/1", "source": "", "licence": ""}')
    (tmp_path / "gates.csv").write_text("gate_id,station_id\nG1,S9\n")
    (tmp_path / "channels.csv").write_text("gate_id,component,quantity,unit\n*,motor,velocity_rms,mm/s\n")
    (tmp_path / "maintenance.csv").write_text("gate_id,kind,started_at\nG1,repair,2026-01-01T00:00:00Z\n")
    engine = historian.connect(f"sqlite:///{tmp_path}/h.sqlite")

    with historian.writing(engine) as connection:
        historian.metadata.create_all(connection)
        transfer.register_fleet(connection, open_dataset(tmp_path, need_readings=False), NOW)

    with engine.connect() as connection:
        assert historian.load_table(connection, historian.stations)["station_id"].tolist() == ["S9"]
        assert historian.load_table(connection, historian.maintenance)["component"].tolist() == [""]


def test_the_bursts_of_a_worn_bearing_arrive_as_readings_that_tell_its_race(tmp_path: Path) -> None:
    wish = "gate=DSH-S1-G1,mode=motor_bearing,fail-at=2024-02-20T09:00:00Z"
    write_dataset(tmp_path / "fleet", gates=1, days=55, seed=4, hazard_scale=0.0, inject=[wish], waveforms=True)
    point = "motor.bearing_de"
    told = [f"{point}.{quantity}" for quantity in ("envelope_bpfo", "envelope_bpfi", "acceleration_rms")]
    declared = pd.read_csv(tmp_path / "fleet" / "channels.csv")
    ours = pd.DataFrame(
        {"gate_id": "*", "component": "motor", "point": "bearing_de", "quantity": [n.split(".")[2] for n in told]}
    )
    pd.concat([declared, ours.assign(unit="g")]).to_csv(tmp_path / "fleet" / "channels.csv", index=False)
    engine = historian.connect(f"sqlite:///{tmp_path}/h.sqlite")
    dataset = open_dataset(tmp_path / "fleet")

    with historian.writing(engine) as connection:
        historian.metadata.create_all(connection)
        transfer.register_fleet(connection, dataset, NOW)
    transfer.import_readings(engine, dataset)
    with engine.connect() as connection:
        stored = historian.read_gate(connection, "DSH-S1-G1", 0, 2**52).dropna(subset=told)

    assert len(stored) == len(list((tmp_path / "fleet" / "waveforms" / "DSH-S1-G1" / point).iterdir())) > 50
    failed = pd.Timestamp("2024-02-20T09:00Z")
    last_week = stored[stored["ts"].between(failed - pd.Timedelta(days=7), failed)]
    first_week = stored[stored["ts"] < stored["ts"].iloc[0] + pd.Timedelta(days=7)]
    grown = [last_week[name].median() / first_week[name].median() for name in told]
    assert max(grown[:2]) > 3.0
    # the level alone grew less than the line of the damaged race
    assert max(grown[:2]) > 1.5 * grown[2]
