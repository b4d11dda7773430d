"""The dataset folder: written, read back, and refused with every gap at once."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.dataset import DatasetError, merge_rows, open_dataset, write_readings, write_tables


def minutes(*offsets: int) -> pd.Series:
    return pd.Series(pd.Timestamp("2026-03-01", tz="UTC") + pd.to_timedelta(list(offsets), unit="min")).astype(
        "datetime64[ms, UTC]"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tables(
        tmp_path,
        source="test",
        licence="CC0",
        gates=pd.DataFrame({"gate_id": ["G1", "G2"], "station_id": ["S1", "S1"], "hoist_type": ["winch", "screw"]}),
        channels=pd.DataFrame(
            {
                "gate_id": ["*", "G2", "*"],
                "component": ["motor"] * 3,
                "point": ["", "", "winding"],
                "quantity": ["velocity_rms", "velocity_rms", "temperature"],
                "unit": ["mm/s", "m/s", "degC"],
            }
        ),
        maintenance=pd.DataFrame(
            {
                "gate_id": ["G1"],
                "kind": ["failure"],
                "started_at": [pd.Timestamp("2026-03-05T10:00:00+08:00")],
                "component": ["motor"],
                "failure_mode": ["motor_bearing"],
            }
        ),
    )
    frame = pd.DataFrame({"ts": minutes(0, 1), "motor.velocity_rms": [0.001, 0.002], "motor.winding.temperature": [20.0, np.nan]})
    write_readings(tmp_path, "G2", frame)
    return tmp_path


def test_a_folder_reads_back_what_was_written(folder: Path) -> None:
    dataset = open_dataset(folder)

    assert dataset.gate_ids == ["G1", "G2"]
    assert dataset.maintenance["started_at"].iloc[0] == pd.Timestamp("2026-03-05T02:00:00Z")
    assert pd.isna(dataset.maintenance["ended_at"].iloc[0])
    assert dataset.readings("G1").empty


def test_a_star_stands_for_every_gate_and_a_gates_own_line_wins(folder: Path) -> None:
    dataset = open_dataset(folder)

    assert [c.unit for c in dataset.declared("G1") if c.quantity == "velocity_rms"] == ["mm/s"]
    assert [c.unit for c in dataset.declared("G2") if c.quantity == "velocity_rms"] == ["m/s"]


def test_values_come_out_in_canonical_units(folder: Path) -> None:
    assert open_dataset(folder).readings("G2")["motor.velocity_rms"].tolist() == [1.0, 2.0]


def test_csv_gz_with_offsets_reads_like_parquet(folder: Path) -> None:
    frame = pd.DataFrame({"ts": ["2026-03-01T08:00:00+08:00", "2026-03-01T00:01:00Z"], "motor.velocity_rms": [1.0, 2.0]})
    frame.to_csv(folder / "readings" / "G1.csv.gz", index=False)

    readings = open_dataset(folder).readings("G1")

    assert readings["ts"].tolist() == list(minutes(0, 1))
    assert str(readings["ts"].dtype) == "datetime64[ms, UTC]"


def test_rows_with_one_time_are_merged_channel_by_channel_the_greater_staying() -> None:
    frame = pd.DataFrame({"ts": minutes(1, 0, 1), "a": [1.0, 5.0, 3.0], "b": [np.nan, 6.0, 2.0]})

    merged = merge_rows(frame)

    assert merged["ts"].tolist() == list(minutes(0, 1))
    assert merged["a"].tolist() == [5.0, 3.0]
    assert merged["b"].tolist() == [6.0, 2.0]


def test_every_gap_is_listed_at_once_with_its_fix(folder: Path) -> None:
    (folder / "channels.csv").write_text("gate_id,component,quantity,unit\nG1,motor,velocity_rms,\nG9,motor,temperature,degC\n")
    (folder / "maintenance.csv").write_text("gate_id,kind,started_at\nG1,broken,2026-03-01T00:00:00Z\n")

    with pytest.raises(DatasetError) as refusal:
        open_dataset(folder)

    told = str(refusal.value)
    assert "channels.csv line 2: unit must not be empty" in told

    (folder / "channels.csv").write_text(
        "gate_id,component,quantity,unit\nG1,motor,velocity_rms,furlong\nG9,motor,temperature,degC\n"
    )
    with pytest.raises(DatasetError) as refusal:
        open_dataset(folder)
    told = str(refusal.value)
    assert "allowed are mm/s, m/s; got 'furlong'" in told
    assert "gate_id 'G9' is not in gates.csv" in told
    assert "kind must be one of failure, repair" in told


def test_a_time_without_offset_is_refused(folder: Path) -> None:
    (folder / "maintenance.csv").write_text("gate_id,kind,started_at\nG1,failure,2026-03-01 08:00\n")

    with pytest.raises(DatasetError, match="RFC 3339 with an offset"):
        open_dataset(folder)


def test_an_undeclared_channel_is_refused(folder: Path) -> None:
    write_readings(folder, "G1", pd.DataFrame({"ts": minutes(0), "motor.current": [1.0]}))

    with pytest.raises(DatasetError, match="motor.current are not declared; add them to channels.csv"):
        open_dataset(folder).readings("G1")


@pytest.mark.parametrize("text", ["not json", '{"format": "other/1"}', "[]"])
def test_another_format_is_refused_by_name(folder: Path, text: str) -> None:
    (folder / "dataset.json").write_text(text)

    with pytest.raises(DatasetError, match="dataset.json"):
        open_dataset(folder)


def test_a_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        open_dataset(tmp_path / "nowhere")


def test_the_same_content_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    frame = open_dataset(folder).readings("G2")
    for copy in ("a", "b"):
        (tmp_path / copy / "readings").mkdir(parents=True)
        write_readings(tmp_path / copy, "G2", frame)

    assert (tmp_path / "a/readings/G2.parquet").read_bytes() == (tmp_path / "b/readings/G2.parquet").read_bytes()
