"""The dataset folder: written, read back, and refused with every gap at once."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.dataset import DatasetError, merge_rows, open_dataset, write_readings, write_tables
from pipeline.waveforms import Burst, burst_path, encode


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


def write_burst(folder: Path, point: str, t: pd.Timestamp, carrier_g: float, depth: float, by_hz: float) -> None:
    """A carrier of 3,000 Hz whose strength swings by a share `depth` `by_hz` times a second: 0.5 s of it."""
    t_s = np.arange(6_400) / 12_800.0
    acceleration_g = carrier_g * (1.0 + depth * np.cos(2 * np.pi * by_hz * t_s)) * np.sin(2 * np.pi * 3_000.0 * t_s)
    burst = Burst(t.to_pydatetime(), point, "radial", 12_800.0, 1e-4, np.rint(acceleration_g / 1e-4).astype(np.int16))
    file = folder / burst_path("G1", "motor", point, burst.t)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encode(burst))


def declare_bearing(folder: Path, *quantities: str) -> None:
    with (folder / "channels.csv").open("a", encoding="utf-8") as file:
        for quantity in quantities:
            file.write(f"G1,motor,{quantity},{'g' if quantity != 'kurtosis' else '1'},bearing_de\n")
    # 9 balls of a tenth of the pitch at 1,200 rpm: 20 / 2 x 9 x (1 - 0.1) = 81 passes a second on the outer race
    (folder / "components.csv").write_text(
        "gate_id,component,speed_rpm,bearing_balls,bearing_ball_mm,bearing_pitch_mm\nG1,motor,1200,9,5,50\n", encoding="utf-8"
    )


def test_bursts_are_readings_of_the_channels_declared_at_their_point(folder: Path) -> None:
    declare_bearing(folder, "acceleration_rms", "envelope_bpfo", "kurtosis")
    at = minutes(0, 5)
    for t, depth in zip(at, (0.0, 0.5), strict=True):
        write_burst(folder, "bearing_de", t, carrier_g=0.8, depth=depth, by_hz=81.0)
    write_burst(folder, "bearing_nde", at[0], carrier_g=0.8, depth=0.0, by_hz=81.0)  # no channel is declared there
    write_readings(folder, "G1", pd.DataFrame({"ts": minutes(0, 1), "motor.velocity_rms": [0.9, 1.1]}))

    frame = open_dataset(folder).readings("G1")

    assert frame["ts"].tolist() == minutes(0, 1, 5).tolist()
    bearing = "motor.bearing_de"
    assert set(frame.columns) == {"ts", "motor.velocity_rms", *(f"{bearing}.{q}" for q in QUANTITIES_OF_BEARING)}
    assert frame["motor.velocity_rms"].tolist()[:2] == [0.9, 1.1]
    # amplitude A, depth m: the mean square is A²/2 (1 + m²/2), the envelope swings by A m
    assert frame[f"{bearing}.acceleration_rms"].tolist() == pytest.approx(
        [0.8 / 2**0.5, np.nan, 0.8 * (0.5 * 1.125) ** 0.5], rel=2e-3, nan_ok=True
    )
    assert frame[f"{bearing}.envelope_bpfo"].tolist() == pytest.approx([0.0, np.nan, 0.4], abs=0.005, nan_ok=True)


QUANTITIES_OF_BEARING = ("acceleration_rms", "envelope_bpfo", "kurtosis")


def test_bursts_alone_are_a_history(folder: Path) -> None:
    declare_bearing(folder, "acceleration_rms")
    write_burst(folder, "bearing_de", minutes(0)[0], carrier_g=0.8, depth=0.0, by_hz=81.0)
    for file in (folder / "readings").iterdir():
        file.unlink()

    dataset = open_dataset(folder)

    assert dataset.readings("G1").columns.tolist() == ["ts", "motor.bearing_de.acceleration_rms"]
    assert dataset.readings("G2").empty


def test_what_is_no_burst_is_refused_by_its_name(folder: Path) -> None:
    declare_bearing(folder, "acceleration_rms")
    write_burst(folder, "bearing_de", minutes(0)[0], carrier_g=0.8, depth=0.0, by_hz=81.0)
    (file,) = (folder / "waveforms" / "G1" / "motor.bearing_de").iterdir()
    file.write_bytes(file.read_bytes()[:-1])

    with pytest.raises(DatasetError, match=r"waveforms/G1/motor.bearing_de/1772323200000.bin: n: 6400 samples must be followed"):
        open_dataset(folder).readings("G1")
