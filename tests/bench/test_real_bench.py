"""The bench of real data: on tiny stand-ins of the same file formats and, where the archives are, on a part of the real thing."""

from __future__ import annotations

import json
import os
import zipfile
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from pipeline.dataset import open_dataset
from service.bench.real import FEMTO, IMS, SKAB, bench_real
from service.bench.real.folders import IMS_SETS, open_archive, write_femto, write_ims
from service.bench.real.ims import Alarm, alarms, choose, shown
from service.bench.real.skab import deviation, flag
from service.bench.report import Figure
from service.cli import main

DATA = Path(os.environ.get("SLUICEWATCH_DATA", Path(__file__).parents[3] / "shared" / "data"))

HOURS = 100
FEMTO_MINUTES = 60


def skab_run(rng: np.random.Generator, rows: int = 460, shift: float = 0.0) -> pd.DataFrame:
    """A run whose flow falls and whose first accelerometer rises by a share, from row 430 to 449."""
    shifted = np.where((np.arange(rows) >= 430) & (np.arange(rows) < 450), shift, 0.0)
    columns = {
        "datetime": pd.date_range("2020-03-09 10:14:33", periods=rows, freq="s").astype(str),
        "Accelerometer1RMS": 0.027 * np.exp(0.01 * rng.normal(size=rows) + shifted),
        "Accelerometer2RMS": 0.040 * np.exp(0.01 * rng.normal(size=rows)),
        "Current": 1.3 + 0.1 * rng.normal(size=rows),
        "Pressure": 0.05 * rng.normal(size=rows),
        "Temperature": 79.0 + 0.1 * rng.normal(size=rows),
        "Thermocouple": 26.0 + 0.1 * rng.normal(size=rows),
        "Voltage": 233.0 + 5.0 * rng.normal(size=rows),
        "Volume Flow RateRMS": 32.0 * np.exp(0.01 * rng.normal(size=rows) - shifted),
        "anomaly": (shifted > 0.0).astype(float),
        "changepoint": 0.0,
    }
    return pd.DataFrame(columns)


def write_stand_ins(folder: Path) -> None:
    rng = np.random.default_rng(7)
    folder.mkdir()
    with zipfile.ZipFile(folder / SKAB, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("anomaly-free/anomaly-free", "valve1/0", "valve1/1", "other/2"):
            archive.writestr(f"skab/data/{name}.csv", skab_run(rng, shift=0.3).to_csv(sep=";", index=False))
        archive.writestr("skab/data/README.md", "the data")
    with zipfile.ZipFile(folder / FEMTO, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, bearing in enumerate(("Bearing1_1", "Bearing1_2", "Bearing2_1", "Bearing3_1")):
            for minute in range(FEMTO_MINUTES):
                wear = 0.3 * np.exp(max(minute - 25, 0) / 10.0)
                samples_g = wear * rng.normal(size=(640, 2))
                mark = ";" if number == 2 else ","
                lines = [mark.join(["9", "39", "39", "65664", f"{x:.3f}", f"{y:.3f}"]) for x, y in samples_g]
                archive.writestr(f"Learning_set/{bearing}/acc_{1 + 6 * minute:05d}.csv", "\n".join(lines) + "\n")
            archive.writestr(f"Learning_set/{bearing}/temp_00001.csv", "9,46,47,5,91.316\n")
    with zipfile.ZipFile(folder / IMS, "w", zipfile.ZIP_DEFLATED) as archive:
        for of in IMS_SETS:
            archive.writestr(of.table, ims_table(rng, of.failed, of.at_rest).to_csv())
        t_s, began = np.arange(2_048) / 20_000.0, datetime(2004, 2, 12, 10, 32, 39)  # noqa: DTZ001 - as the files have it
        for hour in range(HOURS):
            snapshot = rng.normal(scale=0.08, size=(2_048, 4))
            # 16 rollers, 8.4 mm on 71.5 mm, 15.17 degrees, 2,000 rpm: 236.4 passes a second on the outer race
            swing = 1.0 + np.cos(2.0 * np.pi * 236.4 * t_s)
            snapshot[:, 0] += (0.1 if hour > HOURS - 40 else 0.0) * swing * np.sin(2.0 * np.pi * 4_000.0 * t_s)
            text = "\n".join("\t".join(f"{value:.3f}" for value in row) for row in snapshot)
            archive.writestr(f"{IMS_SETS[0].raw}{began + timedelta(hours=hour):%Y.%m.%d.%H.%M.%S}", text)


def ims_table(rng: np.random.Generator, failed: int, at_rest: int) -> pd.DataFrame:
    """Six snapshots an hour; one bearing rises over the last 20 hours, then the rig stands still."""
    n = 6 * HOURS
    rising = np.maximum(np.arange(n) - (n - 120), 0) / 60.0
    table = pd.DataFrame({f"Bearing {b}": 0.06 * np.exp(0.02 * rng.normal(size=n)) for b in range(1, 5)})
    table[f"Bearing {failed}"] *= np.exp(rising)
    table.iloc[n - at_rest :] = 0.001
    table.index = pd.date_range("2004-02-12 10:32:39", periods=n, freq="10min")
    return table


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "data"
    write_stand_ins(folder)
    return folder


@pytest.fixture(scope="module")
def figures(data: Path) -> dict[str, Figure]:
    found = bench_real(data, ["skab", "femto", "ims"])
    assert len({figure.measured for figure in found}) == len(found)
    return {figure.measured: figure for figure in found}


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", "real", *arguments], catch_exceptions=False)


def test_skab_pools_what_comes_after_the_first_400_rows(figures: dict[str, Figure]) -> None:
    everything = figures["control, everything flagged: F1"]

    assert everything.counts == {"runs": 3, "rows": 3 * 60, "anomalous": 3 * 20}
    # precision 1/3, recall 1
    assert everything.median == pytest.approx(2.0 * (1 / 3) / (1.0 + 1 / 3))
    assert figures["control, everything flagged: FAR"].median == 100.0
    assert figures["vibration, current and the load itself: F1"].median > 0.85
    # what is averaged over three rows lingers a little after the last anomalous one
    assert figures["vibration, current and the load itself: FAR"].median <= 10.0


def test_flags_know_neither_the_rows_after_them_nor_their_own_for_a_limit() -> None:
    rng = np.random.default_rng(3)
    run = skab_run(rng, shift=0.3)
    readings = pd.DataFrame(
        {
            "ts": pd.to_datetime(run["datetime"]),
            "motor.pump_1.acceleration_rms": run["Accelerometer1RMS"],
            "motor.load": run["Volume Flow RateRMS"] / 32.0,
        }
    )
    changed = readings.copy()
    changed.loc[440:, ["motor.pump_1.acceleration_rms", "motor.load"]] *= 9.0

    before, after = (flag(frame, ("acceleration_rms",), judge_load=True) for frame in (readings, changed))

    assert before[:40].tolist() == after[:40].tolist()
    assert before[33:40].all()
    assert not before[:30].any()


def test_a_deviation_is_the_mean_of_the_last_three_rows_in_scatters() -> None:
    values = np.tile([-1.0, 1.0], 210)
    values[-20:] += np.linspace(0.0, 2.0, 20)  # slow enough that no row is an odd one

    found = deviation(values[None], np.zeros((420, 1)))[0]

    # the first 400 rows lie one from their median, which is 1.4826 robust standard deviations
    assert found[2:] == pytest.approx([values[at - 2 : at + 1].mean() / 1.4826 for at in range(2, 420)])


def test_femto_is_judged_on_each_bearings_last_30_minutes(figures: dict[str, Figure]) -> None:
    learnt = figures["learnt from all indicators: AUC"]

    # one row a minute but the first, which nothing came before
    assert learnt.counts == {"bearings": 4, "rows": 4 * (FEMTO_MINUTES - 1), "near": 4 * 30}
    assert learnt.median > 0.9
    age = figures["control, age: AUC"]
    assert age.median == 1.0  # all lives are equally long here
    difference = figures["learnt from all indicators less learnt from RMS alone: AP"]
    alone = figures["learnt from RMS alone: AP"]
    assert difference.median == pytest.approx(figures["learnt from all indicators: AP"].median - alone.median)


def test_femto_snapshots_are_bursts_that_read_back_in_either_spelling(data: Path, tmp_path: Path) -> None:
    with open_archive(data, FEMTO) as archive:
        write_femto(archive, tmp_path)
        text = archive.read("Learning_set/Bearing2_1/acc_00007.csv").decode()
    shown_g = np.array([float(line.split(";")[4]) for line in text.splitlines()])

    readings = open_dataset(tmp_path).readings("Bearing2_1")

    assert len(readings) == FEMTO_MINUTES
    assert readings["ts"].diff().dropna().eq(pd.Timedelta(days=1)).all()
    assert readings["motor.horizontal.acceleration_rms"][1] == pytest.approx(shown_g.std(), rel=1e-3)


def test_ims_names_the_failing_bearing_and_no_other(figures: dict[str, Figure]) -> None:
    for name, bearing, other in (("set2", 1, "set3"), ("set3", 3, "set2")):
        named = f"{name}, own baseline, less the other bearings"
        assert 0.0 < figures[f"{named}: bearing{bearing} (fails), its alarm that stays opens before the end"].median < 20 / 24
        assert figures[f"{named}: false alarms per healthy bearing-month"].median == 0.0
        assert figures[f"{named}: threshold from {other}"].median >= 2.0
    grown = "set2, raw snapshots: bearing{} , envelope at BPFO, last 30 h over first 30 h"
    assert figures[grown.replace("{} ", "1 (fails)")].median > 5.0
    assert figures[grown.replace("{} ", "2 (healthy)")].median < 2.0
    assert figures["set2, in real time: days with a verdict"].median == 0.0


def test_what_the_resting_rig_shows_is_no_reading(data: Path, tmp_path: Path) -> None:
    with open_archive(data, IMS) as archive:
        write_ims(archive, tmp_path, IMS_SETS[0], stretch=24)

    readings = open_dataset(tmp_path).readings("set2-bearing2")

    assert len(readings) == 6 * HOURS - 2
    assert readings["motor.acceleration_rms"].min() > 0.05
    # ten minutes are told as four hours
    assert readings["ts"].diff().dropna().eq(pd.Timedelta(hours=4)).all()


def test_a_case_opens_on_two_of_three_hours_and_stays_until_five_are_below_half() -> None:
    quiet, loud = [0.0] * 5, [4.0, 0.0, 4.0]

    closed = alarms(np.array([*quiet, *loud, *([1.9] * 5), *quiet]), threshold=4.0)
    open_still = alarms(np.array([np.nan, *loud, *([2.1] * 9)]), threshold=4.0)

    # opened on the third hour of three; the last of 18 hours is hour 17
    assert closed == [Alarm(days_before=(17 - 7) / 24, stays=False)]
    assert open_still == [Alarm(days_before=(12 - 3) / 24, stays=True)]


def test_the_threshold_is_the_lowest_at_which_healthy_bearings_are_silent() -> None:
    of = IMS_SETS[0]
    evidence = {of.gate_id(1): np.full(20, 50.0), of.gate_id(2): np.array([0.0] * 10 + [5.04] * 10), of.gate_id(3): np.zeros(20)}

    assert choose(evidence, of) == 5.1
    assert choose({of.gate_id(1): np.full(20, 50.0), of.gate_id(2): np.zeros(20)}, of) == 2.0


def test_what_shakes_all_bearings_of_a_rig_is_taken_off() -> None:
    rows = pd.DataFrame(
        {
            "as_of": pd.to_datetime(["2004-01-01"] * 3 + ["2004-01-02"] * 3),
            "gate_id": ["a", "b", "c"] * 2,
            "z": [6.0, 6.0, 6.0, 9.0, 3.0, np.nan],
        }
    )

    found = shown(rows, "z", of_neighbours=True)

    assert found["a"].tolist() == [0.0, 6.0]
    assert found["b"].tolist() == [0.0, -6.0]
    assert found["c"].tolist() == pytest.approx([0.0, np.nan], nan_ok=True)


def test_an_archive_that_is_not_there_is_named_and_left_out(data: Path, tmp_path: Path) -> None:
    (tmp_path / SKAB).symlink_to(data / SKAB)

    answer = bench("--data", str(tmp_path), "--out", str(tmp_path / "out" / "real.json"))

    assert answer.exit_code == 0
    assert f"femto left out: {FEMTO} is not in {tmp_path}" in answer.stdout
    assert f"ims left out: {IMS} is not in {tmp_path}" in answer.stdout
    written = json.loads((tmp_path / "out" / "real.json").read_text(encoding="utf-8"))
    assert {figure["bench"] for figure in written["figures"]} == {"skab", "skab board"}
    assert bench("--data", str(tmp_path / "nowhere")).stdout.count("left out") == 3


def test_a_part_that_is_unknown_or_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / IMS).write_text("not a zip", encoding="utf-8")

    unknown, broken = bench("--part", "phm"), bench("--data", str(tmp_path), "--part", "ims")

    assert unknown.exit_code == broken.exit_code == 2
    assert "part: must be all or one of skab, femto, ims; got 'phm'" in unknown.output
    assert f"{IMS} is not a zip archive" in broken.output


@pytest.mark.skipif(not (DATA / SKAB).is_file(), reason=f"{SKAB} is not in {DATA}")
def test_skab_itself_gives_the_leaderboards_forest_and_keeps_its_bar() -> None:
    found = {figure.measured: figure for figure in bench_real(DATA, ["skab"])}

    ours = "vibration, current and the load itself"
    forest = [found[f"control, isolation forest run again: {rate}"].median for rate in ("F1", "FAR", "MAR")]
    assert [round(forest[0], 2), round(forest[1], 2), round(forest[2], 2)] == [0.29, 2.56, 82.89]
    assert found["control, everything flagged: F1"].counts["rows"] == 23_801
    assert found["control, everything flagged: F1"].median == pytest.approx(0.698, abs=5e-4)
    assert found[f"{ours}: F1"].median >= 0.76
    assert found[f"{ours}: FAR"].median <= 26.6
