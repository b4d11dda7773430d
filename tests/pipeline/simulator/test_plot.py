import builtins
import shutil
import struct
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.dataset import write_readings, write_tables
from pipeline.errors import BadInput
from pipeline.simulator import write_dataset
from pipeline.simulator.plot import faults, per_run, plot_gate, running_median, silences, stretches
from pipeline.simulator.truth import FILE

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
GATE = "DSH-S1-G1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("simulated") / "fleet"
    write_dataset(path, gates=1, days=60, seed=8, hazard_scale=12.0)
    return path


@pytest.fixture
def by_hand(tmp_path: Path) -> Path:
    """Two channels and no station, component, work order or truth: a run at noon, ten days long, but for the fifth."""
    path = tmp_path / "by_hand"
    noons = [pd.Timestamp("2026-03-01T12:00Z") + pd.Timedelta(days=day) for day in range(10) if day != 5]
    ts = pd.DatetimeIndex([noon + pd.Timedelta(minutes=minute) for noon in noons for minute in (-60, 0, 1, 2, 3, 60)])
    frame = pd.DataFrame(
        {
            "ts": ts.as_unit("ms"),
            "motor.velocity_rms": np.tile([0.1, 0.9, 1.0, 1.1, 0.1, 0.1], len(noons)),
            "motor.temperature": np.tile([20.0, 21.0, 22.0, 23.0, 24.0, 21.0], len(noons)),
        }
    )
    write_tables(
        path,
        source="a historian",
        licence="none",
        gates=pd.DataFrame([{"gate_id": "G1", "station_id": "S1"}]),
        channels=pd.DataFrame(
            [
                {"gate_id": "*", "component": "motor", "quantity": "velocity_rms", "unit": "mm/s"},
                {"gate_id": "*", "component": "motor", "quantity": "temperature", "unit": "degC"},
            ]
        ),
        maintenance=pd.DataFrame(columns=["gate_id", "kind", "started_at"]),
    )
    write_readings(path, "G1", frame)
    return path


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:])
    return width, height


def frame(minutes: list[float], **channels: list[float]) -> pd.DataFrame:
    ts = pd.Timestamp("2026-03-01T10:00Z") + pd.to_timedelta(minutes, unit="min")
    return pd.DataFrame(
        {"ts": pd.DatetimeIndex(ts).as_unit("ms"), **{name.replace("__", "."): c for name, c in channels.items()}}
    )


def test_a_run_is_told_by_means_in_motion_and_the_warmest_row_until_its_stop() -> None:
    nan = np.nan
    readings = frame(
        [0, 15, 16, 17, 18, 18.5, 30, 45, 46, 60],
        motor__moving=[0, 1, 1, 1, 1, 0, 0, 1, 1, 0],
        motor__velocity_rms=[0.1, nan, 1.0, 2.0, 1.5, 0.1, 0.1, nan, 2.0, 0.1],
        motor__winding__temperature=[20, 20, 21, 22, 23, 24, 50, 30, 31, 60],
        motor__load=[nan, 0.5, 0.5, 0.6, 0.6, nan, nan, 0.7, 0.7, nan],
    )

    runs = per_run(readings)

    assert (runs["started_ms"] - readings["ts"].iloc[0].timestamp() * 1000).tolist() == [15 * MINUTE, 45 * MINUTE]
    assert runs["minutes"].tolist() == [3.5, 1.0]  # the second one's stop was not reported: the row after is 14 min later
    assert runs["motor.velocity_rms"].tolist() == [1.5, 2.0]
    assert runs["motor.winding.temperature"].tolist() == [24.0, 31.0]
    assert runs["load"].tolist() == [0.55, 0.7]


def test_a_run_that_is_not_over_and_readings_without_any_run_are_summed_up_too() -> None:
    open_end = per_run(frame([0, 1, 2], motor__moving=[0, 1, 1], motor__temperature=[20, 21, np.nan]))
    idle = per_run(frame([0, 15], motor__moving=[0, 0], motor__temperature=[20, 21]))

    assert open_end[["minutes", "motor.temperature"]].to_numpy().tolist() == [[1.0, 21.0]]
    assert len(idle) == 0


def test_silence_counts_from_more_than_six_hours_and_at_both_ends() -> None:
    ts_ms = np.array([7, 13, 19, 26, 27]) * HOUR

    assert silences(ts_ms, 0, 33 * HOUR) == [(0, 7 * HOUR), (19 * HOUR, 26 * HOUR)]
    assert silences(ts_ms, 8 * HOUR, 20 * HOUR) == []
    assert silences(np.array([], dtype=np.int64), 0, 7 * HOUR) == [(0, 7 * HOUR)]


def test_a_line_is_cut_at_a_silence_and_where_runs_are_far_apart_but_not_at_a_missing_value() -> None:
    at_ms = np.array([0, 1, 2, 3, 20, 21]) * DAY
    values = np.array([1.0, np.nan, 2.0, 3.0, 4.0, 5.0])

    parts = stretches(at_ms, values, [int(2.5 * DAY)])

    assert [part.tolist() for _, part in parts] == [[1.0, 2.0], [3.0], [4.0, 5.0]]
    assert stretches(at_ms, np.full(6, np.nan), []) == []


def test_the_running_median_looks_three_and_a_half_days_both_ways_and_wants_three_values() -> None:
    at_ms = np.array([0, 1, 2, 3, 4, 5, 40]) * DAY
    values = np.array([1.0, 9.0, 2.0, 8.0, 3.0, 7.0, 5.0])

    medians = running_median(at_ms, values)

    by_hand = [np.median(values[np.abs(at_ms - at) <= 3.5 * DAY]) for at in at_ms[:6]]
    assert medians[:6].tolist() == by_hand
    assert np.isnan(medians[6])


def test_faults_of_one_mode_are_told_apart() -> None:
    days = pd.date_range("2026-01-01", periods=9, tz="UTC", unit="ms")
    fails = pd.Timestamp("2026-01-03T05:00Z")
    rows: list[dict[str, Any]] = [
        {"day": days[0], "mode": "gear", "z": 0.5, "tau": 9.0, "fails_at": fails},
        {"day": days[1], "mode": "gear", "z": 0.7, "tau": 9.0, "fails_at": fails},
        {"day": days[2], "mode": "gear", "z": 0.9, "tau": 9.0, "fails_at": fails},
        {"day": days[3], "mode": "gear", "z": 0.0, "tau": 7.0, "fails_at": None},
        {"day": days[4], "mode": "gear", "z": 0.1, "tau": 7.0, "fails_at": None},
        {"day": days[8], "mode": "gear", "z": 0.0, "tau": 7.0, "fails_at": None},
        {"day": days[1], "mode": "brake_drag", "z": 0.1, "tau": 3.0, "fails_at": None},
    ]

    found = faults(pd.DataFrame(rows))

    assert [(fault["mode"].iloc[0], fault["z"].tolist()) for fault in found] == [
        ("gear", [0.5, 0.7, 0.9]),
        ("brake_drag", [0.1]),
        ("gear", [0.0, 0.1]),
        ("gear", [0.0]),
    ]


def test_the_same_data_give_the_same_picture(folder: Path, tmp_path: Path) -> None:
    for name in ("one.png", "two.png", "one.svg", "two.svg"):
        plot_gate(folder, GATE, tmp_path / name)

    assert png_size(tmp_path / "one.png") == (1600, 1400)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_without_the_truth_there_is_no_panel_of_wear(folder: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns(FILE))

    plot_gate(folder, GATE, tmp_path / "all.svg")
    plot_gate(bare, GATE, tmp_path / "bare.svg")
    plot_gate(bare, GATE, tmp_path / "bare.png")

    titles = {name: "<!-- hidden wear" in (tmp_path / name).read_text(encoding="utf-8") for name in ("all.svg", "bare.svg")}
    assert titles == {"all.svg": True, "bare.svg": False}
    assert "so hidden wear is not known" in (tmp_path / "bare.svg").read_text(encoding="utf-8")
    assert png_size(tmp_path / "bare.png")[1] < 1400


def test_vibration_and_temperature_alone_make_a_picture(by_hand: Path, tmp_path: Path) -> None:
    plot_gate(by_hand, "G1", tmp_path / "whole.png")
    plot_gate(by_hand, "G1", tmp_path / "part.pdf", start=date(2026, 3, 5), days=3)

    assert png_size(tmp_path / "whole.png")[0] == 1600
    assert (tmp_path / "part.pdf").read_bytes().startswith(b"%PDF")


def test_what_cannot_be_drawn_is_said(by_hand: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    with pytest.raises(BadInput, match="gate must be one of G1; got 'G9'"):
        plot_gate(by_hand, "G9", out)
    with pytest.raises(BadInput, match="readings from 2026-03-01 to 2026-03-10; got 30 days from 2027-01-01"):
        plot_gate(by_hand, "G1", out, start=date(2027, 1, 1), days=30)
    with pytest.raises(BadInput, match="days must lie in 1..36500; got 0"):
        plot_gate(by_hand, "G1", out, days=0)
    with pytest.raises(BadInput, match=r"must end in \.png, \.svg, \.pdf; got 'out\.bmp'"):
        plot_gate(by_hand, "G1", out.with_suffix(".bmp"))
    with pytest.raises(BadInput, match="nowhere' of the picture does not exist"):
        plot_gate(by_hand, "G1", tmp_path / "nowhere" / "out.png")
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(BadInput, match=r"taken\.png' cannot be written: Is a directory"):
        plot_gate(by_hand, "G1", tmp_path / "taken.png")
    with pytest.raises(BadInput, match="'.*absent' does not exist"):
        plot_gate(tmp_path / "absent", "G1", out)
    (by_hand / "stations.csv").write_text("station_id,time_zone\nS1,Mars/Olympus\n", encoding="utf-8")
    with pytest.raises(BadInput, match="time_zone of S1 must be a name as Asia/Shanghai; got 'Mars/Olympus'"):
        plot_gate(by_hand, "G1", out)
    (by_hand / "stations.csv").unlink()
    (by_hand / FILE).write_text("no parquet", encoding="utf-8")
    with pytest.raises(BadInput, match=r"truth\.parquet cannot be read"):
        plot_gate(by_hand, "G1", out)
    assert not out.exists()


def test_a_missing_matplotlib_is_said_with_its_cure(by_hand: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_matplotlib(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)

    with pytest.raises(BadInput, match=r"pip install 'sluicewatch\[plot\]'"):
        plot_gate(by_hand, "G1", tmp_path / "out.png")
