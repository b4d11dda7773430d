"""From a simulated dataset folder to a registered model, and back again."""

import json
import shutil
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import pipeline
from models import drift, registry
from models import train as train_module
from models.backtest import backtest
from models.evaluate import evaluate, table
from models.fitting import Settings
from models.forecast import COLUMNS, ForecastError
from models.forecast_files import read_forecasts, write_forecasts
from models.labels import LabelError
from models.registry import RegistryError
from models.train import TrainingError, data_sha256, judge, record_ends, train
from pipeline import features
from pipeline.dataset import open_dataset
from pipeline.features import from_dataset
from pipeline.simulator import write_dataset
from service.cli import main

START = datetime(2024, 1, 1, tzinfo=UTC)
BASELINES = ("constant", "zone_limit", "trend", "ewma", "isolation_forest")
QUICK = Settings(trees=20, fewest_trees=20, learning_rate=0.15, healthy_rows=2000)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset") / "fleet"
    write_dataset(folder, gates=8, days=300, seed=5, hazard_scale=6.0, heartbeat_min=60)
    return open_dataset(folder)


@pytest.fixture(scope="module")
def rows(dataset):
    return from_dataset(dataset, compact=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def candidate(dataset, rows, folder):
    return train(dataset, registry_dir=folder, name="v1", seed=3, rows=rows, settings=QUICK)


def test_training_registers_a_model_that_is_not_yet_the_champion(candidate, folder):
    assert registry.load(folder, "v1").version == candidate.version == "v1"
    assert registry.aliases(folder) == {}


def test_the_test_gates_were_kept_from_the_training_in_gate_and_time(candidate, dataset):
    training = candidate.model.manifest["training"]
    embargo = datetime.fromisoformat(training["test_from"]) - datetime.fromisoformat(training["development_until"])

    assert embargo >= timedelta(days=21)
    assert len(training["test_gates"]) + training["development_gates"] == len(dataset.gate_ids)
    assert candidate.reports["model"]["gates"] == len(training["test_gates"])
    assert candidate.reports["model"]["first_as_of"] == training["test_from"]


def test_the_manifest_tells_how_to_remake_it(candidate, dataset):
    manifest = candidate.model.manifest

    assert manifest["training"]["data_sha256"] == data_sha256(dataset)
    assert manifest["training"]["seed"] == 3
    assert manifest["forecaster"]["horizons_d"][-1] == 21
    assert set(manifest["files"]) == {"model.joblib", "metrics.json", "model_card.md", "data_card.md", "golden.parquet"}
    assert manifest["training"]["settings"] == asdict(QUICK)
    assert manifest["made_with"]["sluicewatch"] == version("sluicewatch")
    assert len(manifest["feature_schema"]["units"]) == len(manifest["forecaster"]["features"])
    assert manifest["created_at"] is None


def test_the_manifest_alone_is_enough_to_remake_the_same_files(dataset, folder, candidate, tmp_path):
    manifest = json.loads((folder / "v1" / "manifest.json").read_text())
    training = manifest["training"]
    assert training["data_sha256"] == data_sha256(dataset)
    assert manifest["made_with"] == registry.versions_in_use()

    remade = train(
        dataset,
        registry_dir=tmp_path,
        name=manifest["version"],
        seed=training["seed"],
        settings=Settings(**training["settings"]),
        budget_per_gate_year=manifest["policy"]["budget_per_gate_year"],
        cache=tmp_path / "cache",
    )

    for file in sorted({*(folder / "v1").iterdir()} - {folder / "v1" / registry.SIGNATURE}):  # signed by another key there
        assert (tmp_path / "v1" / file.name).read_bytes() == file.read_bytes(), file.name
    day = START + timedelta(days=250)
    assert backtest(dataset, remade.model, day, day)["p_14d"].equals(backtest(dataset, candidate.model, day, day)["p_14d"])


def test_a_training_that_was_cut_short_goes_on_where_it_stopped(dataset, candidate, folder, tmp_path, monkeypatch):
    cache, made, build = tmp_path / "cache", [], features.build

    def counted(history, as_ofs):
        made.append(history.gate_id)
        return build(history, as_ofs)

    def cut_short(stage, done, of):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(dataset, registry_dir=tmp_path, name="v1", seed=3, settings=QUICK, cache=cache, progress=cut_short)
    (kept,) = cache.iterdir()
    before = sorted(file.stem for file in kept.glob("*.parquet"))
    monkeypatch.setattr(features, "build", counted)
    train(dataset, registry_dir=tmp_path, name="v1", seed=3, settings=QUICK, cache=cache)

    assert before == dataset.gate_ids[:5]
    assert made[:3] == dataset.gate_ids[5:]
    assert (tmp_path / "v1" / "model.joblib").read_bytes() == (folder / "v1" / "model.joblib").read_bytes()
    made.clear()
    train(dataset, registry_dir=tmp_path, name="v2", seed=4, settings=QUICK, cache=cache)
    n_looked_at = 3 * 3  # for leaks: three gates from everything, and on two days each
    assert len(made) <= n_looked_at + len(dataset.gate_ids) // 2  # poorer stations: another seed, other gates


def test_kept_rows_are_not_used_for_other_data_or_other_code(dataset, tmp_path, monkeypatch):
    cache = tmp_path / "cache"

    def stop(stage, done, of):
        raise KeyboardInterrupt

    def begin():
        with pytest.raises(KeyboardInterrupt):
            train(open_dataset(copy), registry_dir=tmp_path / "r", name="v1", cache=cache, progress=stop)

    copy = shutil.copytree(dataset.path, tmp_path / "copy")
    begin()
    begin()
    assert len(list(cache.iterdir())) == 1
    with (copy / "maintenance.csv").open("a") as stream:
        stream.write("\n")
    begin()
    assert len(list(cache.iterdir())) == 2
    shutil.copytree(Path(pipeline.__file__).parent, tmp_path / "pipeline")
    with (tmp_path / "pipeline" / "trends.py").open("a") as stream:
        stream.write("# another\n")
    monkeypatch.setattr(pipeline, "__file__", str(tmp_path / "pipeline" / "__init__.py"))
    begin()
    assert len(list(cache.iterdir())) == 3


def test_gates_teach_once_more_as_the_poorer_stations_that_they_are_not(dataset, tmp_path, monkeypatch):
    fewest, told = {"velocity_rms", "temperature"}, {}

    def spied(*arguments, quantities=None, gate_ids=None, **named):
        told.update({gate_id: set(quantities[gate_id]) for gate_id in gate_ids or ()})
        return from_dataset(*arguments, quantities=quantities, gate_ids=gate_ids, **named)

    monkeypatch.setattr(train_module, "from_dataset", spied)
    poor = shutil.copytree(dataset.path, tmp_path / "poor")
    there = {*fewest, "moving", "ambient_temperature"}
    channels = pd.read_csv(poor / "channels.csv")
    channels[channels["quantity"].isin(there)].to_csv(poor / "channels.csv", index=False)
    for file in (poor / "readings").iterdir():
        readings = pd.read_parquet(file)
        kept = ["ts", *(name for name in readings.columns if name.rpartition(".")[2] in there)]
        readings[kept].to_parquet(file, index=False)

    for name, of in (("rich", dataset), ("poor", open_dataset(poor))):
        told.clear()
        learnt = train(of, registry_dir=tmp_path / "registry", name=name, seed=3, settings=QUICK)
        seen = [told.get(gate_id) for gate_id in dataset.gate_ids]
        assert set(told) == set(learnt.model.manifest["training"]["learnt_gates"])
        assert all(station in (None, fewest) for station in seen[::2])
        if name == "rich":
            assert all(station is None or station > fewest for station in seen[1::2])
            assert len({frozenset(station) for station in seen[1::2] if station}) > 1
        else:  # all that there is but movement or the air's temperature; never what the rows themselves are
            between = [fewest | {"moving"}, fewest | {"ambient_temperature"}]
            assert all(station is None or station in between for station in seen[1::2])


def test_what_was_learnt_from_is_kept_for_drift_where_the_gates_are_enough(dataset, rows, candidate, tmp_path, monkeypatch):
    monkeypatch.setattr(drift, "FEWEST_GATES", 3)

    enough = train(dataset, registry_dir=tmp_path, name="v1", seed=3, rows=rows, settings=QUICK).model

    assert candidate.model.reference is None
    assert "drift.json" in enough.manifest["files"]
    training = enough.manifest["training"]
    until = pd.Timestamp(training["development_until"])
    taught = rows[rows["gate_id"].isin(training["learnt_gates"]) & (rows["as_of"] <= until)]
    days = drift.gate_days(taught, enough.forecaster.predict(taught))
    bins = enough.reference.bins(drift.with_changes(days))
    place = drift.COMPARED.index("motor_velocity_z")
    share = np.bincount(bins[:, place][bins[:, place] != drift.UNKNOWN], minlength=drift.BINS) / (bins[:, place] < 255).sum()
    assert share == pytest.approx(1 / drift.BINS, abs=0.02)


def test_the_threshold_is_looked_for_in_the_whole_record_of_the_gates_that_teach(candidate, rows):
    known = rows[rows["gate_id"].isin(candidate.model.manifest["training"]["learnt_gates"]) & (rows["reason"] == "")]
    counted = known[known["as_of"] <= rows["as_of"].max() - timedelta(days=28)]

    days = len(counted[["gate_id", "as_of"]].drop_duplicates())

    assert candidate.model.policy.tuned_gate_years == pytest.approx(days / 365.25)
    assert (counted["as_of"] > pd.Timestamp(candidate.model.manifest["training"]["test_from"])).any()


def test_too_little_history_keeps_the_shipped_threshold_and_says_so(candidate, folder):
    shipped = registry.shipped_policy()

    assert not candidate.model.policy.calibrated_here
    assert shipped is None or candidate.model.policy.open_at == shipped.open_at
    assert "Not yet calibrated here" in (folder / "v1" / "model_card.md").read_text()


def test_the_card_says_simulated_next_to_every_figure(candidate, folder):
    card = (folder / "v1" / "model_card.md").read_text()
    figures = [line for line in card.splitlines() if line.startswith("| ") and "---" not in line]

    assert "**Every figure on this card comes from simulated gates.**" in card
    assert all("simulated" in line for line in figures[: figures.index(next(f for f in figures if "component" in f))])
    for heading in ("Intended use", "Training data", "Figures", "Alarm threshold", "Known weaknesses", "How to remake it"):
        assert f"\n## {heading}\n" in card
    ap = candidate.reports["model"]["figures"]["ap_14d"]["value"]
    assert f"| Average precision at 14 days (simulated) | {ap:.3f} |" in card
    for strata in (candidate.reports["model"]["by_mode"], candidate.reports["model"]["by_hoist"]):
        assert strata
        for name, row in strata.items():
            assert f"| {name} | {row['failures']} | " in card


def test_a_trained_model_has_both_cards_whole(candidate, folder):
    assert registry.verify(folder, "v1").version == "v1"


def test_the_table_has_the_model_beside_the_baselines(candidate):
    assert candidate.table.splitlines()[1].split() == ["model", *BASELINES]
    assert "Brier skill" in candidate.table
    assert "false alarms / gate-year" in candidate.table


def test_a_forecast_file_may_say_nothing_of_lost_sensors_and_shares_of_modes(candidate, dataset, tmp_path):
    forecasts = backtest(dataset, candidate.model, START + timedelta(days=200), START + timedelta(days=200))

    write_forecasts(forecasts.drop(columns=["lost", "failure_mode_share"]), tmp_path / "ours.parquet")
    pq.write_table(
        pq.read_table(tmp_path / "ours.parquet").drop_columns(["lost", "failure_mode_share"]), tmp_path / "others.parquet"
    )

    for name in ("ours", "others"):
        read = read_forecasts(tmp_path / f"{name}.parquet")
        assert set(read["lost"]) == {""}
        assert read["failure_mode_share"].isna().all()


def test_a_backtest_forecasts_every_gate_and_day_and_survives_its_file(candidate, dataset, tmp_path):
    first, last = START + timedelta(days=200), START + timedelta(days=203)
    forecasts = backtest(dataset, candidate.model, first, last)

    write_forecasts(forecasts, tmp_path / "f.parquet")
    again = read_forecasts(tmp_path / "f.parquet")

    gates = forecasts[forecasts["component"] == ""]
    assert len(gates) == 4 * len(dataset.gate_ids)
    assert gates["as_of"].min() == first
    assert gates["as_of"].max() == last
    assert tuple(again.columns) == COLUMNS
    assert again["p_14d"].equals(forecasts["p_14d"])
    assert again["lost"].tolist() == forecasts["lost"].tolist()
    assert again["failure_mode_share"].equals(forecasts["failure_mode_share"])
    assert again["as_of"].equals(forecasts["as_of"])
    assert again.attrs == forecasts.attrs
    assert pq.read_schema(tmp_path / "f.parquet").field("curve").type.value_type == "double"
    scored = again[again["verdict"] == "forecast"]
    assert all(len(curve) == 21 for curve in scored["curve"])
    assert again.loc[again["verdict"] != "forecast", "curve"].isna().all()


def test_a_backtest_says_which_gates_the_model_had_learnt_from(candidate, dataset):
    training = candidate.model.manifest["training"]
    early = backtest(dataset, candidate.model, START + timedelta(days=50), START + timedelta(days=50))
    late = datetime.fromisoformat(training["test_from"])
    unseen_time = backtest(dataset, candidate.model, late, late)

    assert set(early.attrs["learnt_from"]) == set(dataset.gate_ids) - set(training["test_gates"])
    assert unseen_time.attrs["learnt_from"] == []


def assert_alike(figures, expected, *, rel):
    assert list(figures) == list(expected)
    for name, estimate in expected.items():
        for end, value in estimate.items():
            assert figures[name][end] == (None if value is None else pytest.approx(value, rel=rel)), (name, end)


def test_the_test_figures_come_out_of_a_backtest_again(candidate, dataset, rows):
    training = candidate.model.manifest["training"]
    from_, to = datetime.fromisoformat(training["test_from"]), rows["as_of"].max().to_pydatetime()
    forecasts = backtest(dataset, candidate.model, from_, to)
    tested = forecasts[forecasts["gate_id"].isin(training["test_gates"])]

    report = evaluate(tested, dataset.maintenance, record_ends(dataset), policy=candidate.model.policy, seed=3)

    assert report["counts"] == candidate.reports["model"]["counts"]
    # training holds its rows in single precision
    assert_alike(report["figures"], candidate.reports["model"]["figures"], rel=1e-5)


def test_later_readings_and_records_do_not_change_a_forecast(candidate, dataset):
    day = START + timedelta(days=200)
    alone = backtest(dataset, candidate.model, day, day)

    among = backtest(dataset, candidate.model, day, day + timedelta(days=40))

    same_day = among[among["as_of"] == day]
    assert alone["p_14d"].to_numpy() == pytest.approx(same_day["p_14d"].to_numpy(), abs=1e-9, nan_ok=True)


def test_the_dataset_hash_sees_every_file_but_the_truth(dataset, tmp_path):
    write_dataset(tmp_path / "a", gates=2, days=30, seed=1)
    before = data_sha256(open_dataset(tmp_path / "a"))

    (tmp_path / "a" / "truth.parquet").unlink()
    without_truth = data_sha256(open_dataset(tmp_path / "a"))
    with (tmp_path / "a" / "gates.csv").open("a") as stream:
        stream.write("\n")

    assert without_truth == before
    assert data_sha256(open_dataset(tmp_path / "a")) != before


def test_training_refuses_early_what_cannot_work(dataset, rows, folder, candidate, tmp_path):
    with pytest.raises(RegistryError, match="'v1' exists"):
        train(dataset, registry_dir=folder, name="v1", rows=rows)
    with pytest.raises(LabelError, match="record must be longer"):
        train(dataset, registry_dir=tmp_path, name="short", rows=rows[rows["as_of"] < START + timedelta(days=30)])
    quiet = open_dataset(dataset.path)
    quiet.maintenance = quiet.maintenance[quiet.maintenance["kind"] != "failure"]
    with pytest.raises(ForecastError, match="at least 3 component failures"):
        train(quiet, registry_dir=tmp_path, name="quiet", rows=from_dataset(quiet, compact=True))
    with pytest.raises(TrainingError, match="no readings"):
        train(dataset, registry_dir=tmp_path, name="empty", rows=rows.head(0))
    with pytest.raises(TrainingError, match="must end on or after 2024-03-01; got 2024-02-01"):
        backtest(dataset, candidate.model, datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC))


def test_training_tells_how_far_it_is(dataset, tmp_path):
    told: list[str] = []

    train(
        dataset,
        registry_dir=tmp_path,
        name="v1",
        progress=lambda stage, done, of: told.append(stage),
        settings=QUICK,
    )

    assert list(dict.fromkeys(told)) == ["features", "look for leaks", "features of poorer stations", "fit", "test"]


def test_a_file_is_judged_beside_the_baselines_with_the_threshold_it_carries(candidate, dataset, tmp_path):
    training = candidate.model.manifest["training"]
    first = datetime.fromisoformat(training["test_from"])
    write_forecasts(backtest(dataset, candidate.model, first, START + timedelta(days=300)), tmp_path / "f.parquet")
    forecasts = read_forecasts(tmp_path / "f.parquet")

    reports = judge(dataset, forecasts[forecasts["gate_id"].isin(training["test_gates"])])

    assert list(reports) == ["model", *BASELINES]
    hoists = dataset.gates.set_index("gate_id")["hoist_type"]
    assert set(reports["model"]["by_hoist"]) == set(hoists[training["test_gates"]])
    assert "without their outcomes: isolation_forest." in table(reports)
    assert reports["model"]["threshold_from"] == "set beforehand"
    for name in ("model", "trend"):  # training holds its rows in single precision
        tested = candidate.reports[name]["figures"]["ap_14d"]["value"]
        assert reports[name]["figures"]["ap_14d"]["value"] == pytest.approx(tested, rel=1e-4)


def test_another_file_is_judged_beside_it_on_its_rows(candidate, dataset):
    first, last = datetime.fromisoformat(candidate.model.manifest["training"]["test_from"]), START + timedelta(days=300)
    forecasts = backtest(dataset, candidate.model, first, last)
    same = backtest(dataset, candidate.model, first - timedelta(days=30), last)

    reports = judge(dataset, forecasts, beside={"same": same})

    assert list(reports) == ["model", "same", *BASELINES]
    assert_alike(reports["same"]["figures"], reports["model"]["figures"], rel=1e-9)
    ratios = [ratio["value"] for ratio in reports["same"]["model_against_it"].values()]
    assert [ratio for ratio in ratios if ratio is not None] == pytest.approx([1.0] * (len(ratios) - ratios.count(None)))
    assert "model / same: AP at 14 d 1.00 (1.00 to 1.00)" in table(reports)
    with pytest.raises(TrainingError, match="lacks gate"):
        judge(dataset, forecasts, beside={"fewer": same[same["gate_id"] != dataset.gate_ids[0]]})
    with pytest.raises(TrainingError, match="name of its own; got 'trend'"):
        judge(dataset, forecasts, beside={"trend": same})


def test_the_command_judges_files_side_by_side_and_draws(candidate, dataset, tmp_path):
    first = datetime.fromisoformat(candidate.model.manifest["training"]["test_from"])
    write_forecasts(backtest(dataset, candidate.model, first, START + timedelta(days=300)), tmp_path / "f.parquet")
    asked = ["--dataset", str(dataset.path), "--forecasts", str(tmp_path / "f.parquet")]
    asked += ["--beside", f"twin={tmp_path / 'f.parquet'}", "--report", str(tmp_path / "r.json")]

    answer = CliRunner().invoke(main, ["evaluate", *asked, "--pictures", str(tmp_path / "new")], catch_exceptions=False)

    assert answer.exit_code == 0, answer.output
    assert answer.output.splitlines()[1].split()[:2] == ["model", "twin"]
    assert json.loads((tmp_path / "r.json").read_text())["twin"]["model_against_it"]["ap_14d"]["value"] == 1.0
    drawn = sorted(file.name for file in (tmp_path / "new").iterdir())
    assert drawn == ["lead_times.png", "modes.png", "recall.png", "reliability.png"]


def test_a_file_on_gates_the_model_had_learnt_from_says_so(candidate, dataset):
    forecasts = backtest(dataset, candidate.model, START + timedelta(days=50), START + timedelta(days=250))

    reports = judge(dataset, forecasts)

    n_learnt = candidate.model.manifest["training"]["development_gates"]
    assert reports["model"]["learnt_from"] == n_learnt
    assert f"had learnt from {n_learnt} of these 8 gates" in table(reports)


def test_a_file_that_does_not_fit_the_dataset_is_refused(candidate, dataset):
    day = START + timedelta(days=100)
    forecasts = backtest(dataset, candidate.model, day, day)

    with pytest.raises(TrainingError, match="no gate 'ELSEWHERE'"):
        judge(dataset, forecasts.assign(gate_id="ELSEWHERE"))
    with pytest.raises(TrainingError, match="UTC midnights"):
        judge(dataset, forecasts.assign(as_of=forecasts["as_of"] + timedelta(hours=1)))


def test_records_end_at_the_midnight_after_the_last_reading(dataset, rows):
    assert record_ends(dataset) == {
        gate_id: end.to_pydatetime() for gate_id, end in rows.groupby("gate_id")["as_of"].max().items()
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist"), (b"not parquet", "is not a Parquet file"), ("columns", "lacks the columns component, as_of")],
)
def test_what_is_no_forecast_file_is_refused_in_one_line(tmp_path, content, message):
    file = tmp_path / "f.parquet"
    if content == "columns":
        pd.DataFrame({"gate_id": ["G"], "p_14d": [0.1]}).to_parquet(file)
    elif content is not None:
        file.write_bytes(content)

    with pytest.raises(TrainingError, match=message) as refusal:
        read_forecasts(file)

    assert "\n" not in str(refusal.value)


def test_a_forecast_file_of_others_is_read_with_its_empty_components(tmp_path):
    frame = pd.DataFrame(
        {
            "gate_id": ["G", "G"],
            "component": [None, "motor"],
            "as_of": pd.to_datetime(["2026-01-01", "2026-01-01"]),
            "verdict": "forecast",
            "p_7d": [0.2, np.nan],
            "p_14d": [0.3, np.nan],
        }
    )
    frame.to_parquet(tmp_path / "f.parquet")

    found = read_forecasts(tmp_path / "f.parquet")

    assert found["component"].tolist() == ["", "motor"]
    assert found["as_of"].dtype == "datetime64[ms, UTC]"


def test_another_burst_is_another_data_set(tmp_path: Path) -> None:
    write_dataset(tmp_path / "fleet", gates=1, days=20, seed=8, heartbeat_min=60, waveforms=True)
    dataset = open_dataset(tmp_path / "fleet")
    before = data_sha256(dataset)
    burst = next((tmp_path / "fleet" / "waveforms").rglob("*.bin"))

    burst.write_bytes(burst.read_bytes()[:-2] + b"\x01\x00")

    assert data_sha256(dataset) != before
