from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from models.evaluate import evaluate
from models.forecast_files import read_forecasts
from models.labels import History, label, outcome
from models.train import record_ends
from pipeline.dataset import open_dataset
from pipeline.errors import BadInput
from pipeline.simulator import write_dataset
from pipeline.simulator.degradation import MODES, SUDDEN
from pipeline.simulator.oracle import RUNGS, life_table, oracle, tau_posterior, wear_out
from pipeline.simulator.truth import FILE
from service.cli import main
from tests.oracles import failure_probability


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("oracle") / "fleet"
    write_dataset(path, gates=48, days=300, seed=8, hazard_scale=3.0, heartbeat_min=240)
    return path


@pytest.fixture(scope="module")
def rungs(folder: Path) -> dict[str, pd.DataFrame]:
    return {rung: oracle(folder, rung) for rung in RUNGS}


def gate_rows(folder: Path, forecasts: pd.DataFrame) -> pd.DataFrame:
    """Gate rows with the outcome at 14 days, where it is known."""
    dataset = open_dataset(folder)
    gates = forecasts[forecasts["component"] == ""].reset_index(drop=True)
    gates["y"] = outcome(label(gates, History(dataset.maintenance), record_ends(dataset)), 14)
    return gates.dropna(subset="y")


@pytest.mark.parametrize("code", ["motor_bearing", "winding", "brake_drag"])
@pytest.mark.parametrize("z", [0.15, 0.7])
def test_with_duty_frozen_simulated_wear_is_the_closed_form(code: str, z: float) -> None:
    mode, paths = MODES[code], 20_000
    usage, nothing_asked = np.ones((1, paths, 21)), np.zeros((1, paths, 21))

    curve = wear_out(np.random.default_rng(1), mode, np.array([z]), np.full((1, paths), 20.0), usage, nothing_asked)[0]

    assert curve == pytest.approx(failure_probability(mode, z, 20.0, np.arange(1.0, 22.0)), abs=0.015)


def test_the_life_of_a_fresh_fault_is_the_closed_form_averaged_over_its_scale() -> None:
    mode = MODES["gear"]
    tau_d = mode.pf_median_d * np.exp(mode.pf_log_sd * np.random.default_rng(0).normal(size=4000))

    failed, _ = life_table("gear")

    for day in (20, 60, 200):
        expected = np.mean([failure_probability(mode, 0.0, tau, float(day)) for tau in tau_d])
        # failures on demand, which the closed form has not, take some a few days earlier
        assert expected - 0.02 < failed[day] < expected + 0.04


@pytest.mark.parametrize("code", ["guide_seizure", "brake_drag"])
def test_what_progress_says_of_the_scale_is_what_counting_faults_says(code: str) -> None:
    mode, rng, used = MODES[code], np.random.default_rng(0), 10
    tau_d = mode.pf_median_d * np.exp(mode.pf_log_sd * rng.normal(size=400_000))
    c2 = mode.spread**2
    if mode.heals:
        steps = 1 / tau_d + np.sqrt(c2 / tau_d) * rng.normal(size=(used, len(tau_d)))
        path = mode.starts_at + np.cumsum(steps, axis=0)
        alive = (path > 0.0).all(axis=0) & (path < 1.0).all(axis=0)
        z = path[-1]
    else:
        z = rng.gamma(used / (tau_d * c2), c2)
        alive = z < 1.0
    seen = alive & (np.abs(z - 0.4) < 0.02)

    points, weights = tau_posterior(mode, 0.4, mode.starts_at, float(used))

    assert np.log(points) @ weights == pytest.approx(np.log(tau_d[seen]).mean(), abs=0.05)


def test_an_oracle_file_keeps_the_contract_and_evaluate_reads_it(folder: Path) -> None:
    answer = CliRunner().invoke(main, ["simulate", "oracle", str(folder), "--rung", "O3"])

    assert answer.exit_code == 0, answer.output
    forecasts = read_forecasts(folder / "oracle-O3.parquet")
    curve = np.stack(forecasts["curve"].to_list())
    assert curve.shape[1] == 21
    assert (np.diff(curve, axis=1) >= 0.0).all()
    assert (curve >= 0.0).all()
    assert (curve <= 1.0).all()
    assert np.allclose(forecasts[["p_7d", "p_14d", "p_21d"]].to_numpy(), curve[:, [6, 13, 20]])
    at_14 = forecasts.pivot_table(index=["gate_id", "as_of"], columns="component", values="p_14d")
    assert (at_14[""] >= at_14.drop(columns="").max(axis=1) - 1e-12).all()
    # a sudden failure is the gate's alone
    assert (at_14[""] > at_14.drop(columns="").max(axis=1)).mean() > 0.99
    dataset = open_dataset(folder)
    report = evaluate(forecasts, dataset.maintenance, record_ends(dataset))
    assert report["model_version"] == "oracle-O3"
    assert report["figures"]["ap_14d"]["value"] > 0.4


def test_the_ladder_is_calibrated_and_each_rung_knows_less(folder: Path, rungs: dict[str, pd.DataFrame]) -> None:
    brier = {}
    for rung, forecasts in rungs.items():
        rows = gate_rows(folder, forecasts)
        by_gate = rows.groupby("gate_id").agg(p=("p_14d", "sum"), y=("y", "sum"), n=("y", "size"))
        resampled = np.random.default_rng(0).integers(0, len(by_gate), (400, len(by_gate)))
        sums = by_gate.to_numpy()[resampled].sum(axis=1)
        spread = ((sums[:, 0] - sums[:, 1]) / sums[:, 2]).std()
        assert abs(rows["p_14d"].mean() - rows["y"].mean()) < 2.5 * spread
        brier[rung] = float(((rows["p_14d"] - rows["y"]) ** 2).mean())
        constant = float(rows["y"].var(ddof=0))

    assert brier["O1"] < brier["O2"] < brier["O3"] < constant


def test_a_rung_that_sees_what_sensors_show_knows_nothing_of_silent_faults(folder: Path, rungs: dict[str, pd.DataFrame]) -> None:
    truth = pq.read_table(folder / FILE).to_pandas()
    silent = truth[truth["silent"] & truth["active"] & (truth["z"] > 0.6)]
    # the component's other modes may stand at the same time and be seen
    seen = truth[~truth["silent"] & truth["active"]][["gate_id", "day", "component"]].drop_duplicates()
    alone = silent.merge(seen, how="left", on=["gate_id", "day", "component"], indicator=True).query("_merge == 'left_only'")

    told = {
        rung: alone.merge(rungs[rung], left_on=["gate_id", "day", "component"], right_on=["gate_id", "as_of", "component"])[
            "p_21d"
        ]
        for rung in ("O1", "O3")
    }

    assert len(told["O1"]) > 10
    assert told["O1"].median() > 5 * told["O3"].median()
    assert told["O3"].max() < 0.2


def test_processes_do_not_change_what_the_oracle_says(tmp_path: Path) -> None:
    write_dataset(tmp_path / "fleet", gates=3, days=60, seed=8, hazard_scale=12.0, heartbeat_min=240)

    one, two = (oracle(tmp_path / "fleet", "O3", jobs=jobs) for jobs in (1, 2))

    pd.testing.assert_frame_equal(one, two)


def test_a_folder_without_truth_or_by_another_simulator_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"has no truth.parquet: only what the simulator wrote"):
        oracle(tmp_path, "O1")

    old = pq.read_table(folder / FILE)
    pq.write_table(old.replace_schema_metadata({"simulator": "1"}), tmp_path / FILE)
    with pytest.raises(BadInput, match="must be made by simulator version 2; got 1"):
        oracle(tmp_path, "O1")


def test_every_mode_has_a_life_table_and_sudden_failures_need_none() -> None:
    for code in MODES:
        if code != SUDDEN:
            failed, found = life_table(code)
            assert failed[0] == 0.0
            assert (np.diff(failed) >= 0.0).all()
            assert 0.0 <= found.min() <= found.max() <= 0.75
