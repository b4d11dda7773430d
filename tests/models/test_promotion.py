"""Who may become the champion: the shipped model against one that ranks backwards, on a small simulated site."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from sklearn.metrics import average_precision_score

from models import promotion, registry
from models.backtest import backtest
from models.labels import History, label, outcome
from models.promotion import Comparison, PromotionRefused, compare_models, promote, roll_back
from models.registry import RegistryError
from models.retune import retune
from models.train import TrainingError, data_sha256, record_ends
from pipeline.dataset import open_dataset
from pipeline.features import from_dataset
from pipeline.simulator import write_dataset
from service.cli import main

START = datetime(2024, 1, 1, tzinfo=UTC)
TEST_FROM = START + timedelta(days=60)
NOW = {"at": datetime(2026, 11, 20, 8, tzinfo=UTC), "actor": "Li"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset") / "site"
    write_dataset(folder, gates=8, days=200, seed=11, hazard_scale=6.0, heartbeat_min=60)
    return open_dataset(folder)


@pytest.fixture(scope="module")
def rows_of():
    """Feature rows by gates: the dataset stays the same, so they are made once."""
    return {}


@pytest.fixture(autouse=True)
def made_once(rows_of, monkeypatch):
    def remembered(dataset, gate_ids, **_):
        if tuple(gate_ids) not in rows_of:
            rows_of[tuple(gate_ids)] = from_dataset(dataset, gate_ids=gate_ids)
        return rows_of[tuple(gate_ids)]

    monkeypatch.setattr(promotion, "from_dataset", remembered)


@pytest.fixture(scope="module")
def shipped():
    return registry.load(registry.ARTIFACTS)


@pytest.fixture
def folder(tmp_path):
    registry.seed(tmp_path / "registry")
    return tmp_path / "registry"


def save(folder, name, shipped, dataset, *, slope=1.0, test_gates=None):
    """The shipped forecaster under another name, as if learnt on this dataset; a negative slope ranks backwards."""
    facts = {
        "data_sha256": data_sha256(dataset),
        "test_gates": dataset.gate_ids[2:] if test_gates is None else test_gates,
        "development_until": (TEST_FROM - timedelta(days=21)).isoformat(),
        "test_from": TEST_FROM.isoformat(),
    }
    return registry.save(
        folder,
        name,
        forecaster=replace(shipped.forecaster, version=name, slope=slope),
        policy=shipped.policy,
        training=shipped.manifest["training"] | facts,
        metrics={},
        card="",
        data_card="",
        golden_rows=pq.read_table(registry.ARTIFACTS / shipped.version / registry.GOLDEN).to_pandas(),
    )


def record(folder):
    file = folder / "promotions.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_both_are_judged_on_the_gates_and_days_the_candidate_held_out(folder, shipped, dataset):
    candidate = save(folder, "backwards", shipped, dataset, slope=-1.0)

    found = compare_models(dataset, candidate, shipped)

    history, until, expected = History(dataset.maintenance), record_ends(dataset), []
    for model in (candidate, shipped):
        forecasts = backtest(dataset, model, TEST_FROM, max(until.values()))
        rows = forecasts[(forecasts["component"] == "") & forecasts["gate_id"].isin(dataset.gate_ids[2:])].dropna(subset="p_14d")
        rows = rows[rows["as_of"] < rows["gate_id"].map(until)]
        y = outcome(label(rows, history, until), 14)
        known = np.isfinite(y)
        expected.append(average_precision_score(y[known], rows["p_14d"].to_numpy(dtype=float)[known]))
    reports = found.reports
    assert [reports[name]["figures"]["ap_14d"]["value"] for name in reports] == pytest.approx(expected, rel=1e-6)
    assert found.ratios["ap_14d"]["value"] == pytest.approx(expected[0] / expected[1], rel=1e-6)
    assert [report["gates"] for report in reports.values()] == [6, 6]
    assert reports["backwards"]["first_as_of"] == TEST_FROM.isoformat()
    assert set(found.by_hoist) == set(dataset.gates.set_index("gate_id")["hoist_type"][dataset.gate_ids[2:]])


def test_a_worse_model_is_refused_with_its_figures_in_one_line(folder, shipped, dataset):
    save(folder, "backwards", shipped, dataset, slope=-1.0)

    with pytest.raises(PromotionRefused) as refusal:
        promote(folder, "backwards", dataset=dataset, **NOW)

    ratio = compare_models(dataset, registry.load(folder, "backwards"), shipped).ratios["ap_14d"]
    told = f"its AP at 14 d is {ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}) times that of {shipped.version}"
    assert ratio["value"] < 0.5
    assert told in str(refusal.value)
    assert "on 6 gates it has not learnt from, 2024-03-01 to" in str(refusal.value)
    assert "simulated)" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert registry.aliases(folder) == {"champion": shipped.version}
    assert record(folder) == []


def test_a_better_model_is_promoted_and_the_record_says_by_how_much(folder, shipped, dataset):
    save(folder, "backwards", shipped, dataset, slope=-1.0)
    save(folder, "mine", shipped, dataset)
    promote(folder, "backwards", force=True, reason="for the test", **NOW)

    promoted = promote(folder, "mine", dataset=dataset, **NOW)

    assert promoted.version == registry.load(folder).version == "mine"
    assert registry.aliases(folder) == {"champion": "mine", "previous": "backwards"}
    first, second = record(folder)
    assert first == {
        **{"at": "2026-11-20T08:00:00+00:00", "actor": "Li", "action": "promote", "rule": "forced", "figures": ""},
        **{"before": shipped.version, "after": "backwards", "reason": "for the test"},
    }
    assert (second["rule"], second["before"], second["after"]) == ("better", "backwards", "mine")
    assert second["figures"].startswith("mine is better than backwards: on 6 gates")


def test_a_model_as_good_is_not_better(folder, shipped, dataset):
    save(folder, "twin", shipped, dataset)

    with pytest.raises(PromotionRefused, match=r"is 1\.00 \(1\.00 to 1\.00\) times that of .* must lie above 1"):
        promote(folder, "twin", dataset=dataset, **NOW)


def test_without_a_dataset_it_says_what_is_needed(folder, shipped, dataset):
    save(folder, "twin", shipped, dataset)

    with pytest.raises(PromotionRefused, match=f"twin must be compared with {shipped.version}: give --dataset, the folder"):
        promote(folder, "twin", **NOW)


def test_a_registry_without_a_champion_has_the_shipped_one(shipped, dataset, tmp_path):
    save(tmp_path / "new", "backwards", shipped, dataset, slope=-1.0)

    with pytest.raises(PromotionRefused, match=f"times that of {shipped.version}"):
        promote(tmp_path / "new", "backwards", dataset=dataset, **NOW)


def test_force_needs_a_reason(folder, shipped, dataset):
    save(folder, "twin", shipped, dataset)

    with pytest.raises(PromotionRefused, match="say why"):
        promote(folder, "twin", force=True, reason=" ", **NOW)

    assert registry.aliases(folder) == {"champion": shipped.version}


def test_force_promotes_over_a_champion_that_cannot_be_loaded(folder, shipped, dataset):
    save(folder, "twin", shipped, dataset)
    (folder / shipped.version / "model.joblib").unlink()

    with pytest.raises(RegistryError, match="lacks model.joblib"):
        promote(folder, "twin", dataset=dataset, **NOW)
    promote(folder, "twin", force=True, reason="the champion is damaged", **NOW)

    assert registry.load(folder).version == "twin"


def test_the_champion_with_a_threshold_tuned_here_needs_no_comparison(folder, shipped, dataset):
    retune(dataset, registry_dir=folder, name="here", enough_gate_years=0.3, budget_per_gate_year=12.0)

    promote(folder, "here", **NOW)

    assert registry.aliases(folder)["champion"] == "here"
    assert record(folder)[0]["rule"] == "threshold tuned here"


def test_another_models_tuned_threshold_does_need_one(folder, shipped, dataset):
    save(folder, "backwards", shipped, dataset, slope=-1.0, test_gates=dataset.gate_ids)
    retune(dataset, registry_dir=folder, model="backwards", name="here", enough_gate_years=0.3, budget_per_gate_year=300.0)

    with pytest.raises(PromotionRefused, match="must be compared"):
        promote(folder, "here", **NOW)


def test_a_model_that_learnt_from_every_gate_cannot_be_judged(folder, shipped, dataset):
    candidate = save(folder, "knows-all", shipped, dataset, test_gates=[])

    with pytest.raises(TrainingError, match="knows-all has learnt from every gate of this dataset"):
        compare_models(dataset, candidate, shipped)


def estimate(value, low, high):
    return {"value": value, "low": low, "high": high}


@pytest.mark.parametrize(
    ("ratio", "by_hoist", "objection"),
    [
        (estimate(1.4, 1.01, 1.9), {"winch": (9, 1.2), "screw": (9, 0.9)}, None),
        (estimate(1.4, 1.0, 1.9), {}, "1.40 (1.00 to 1.90) times that of old, and the interval must lie above 1"),
        (estimate(None, None, None), {}, "not defined times"),
        (estimate(1.4, 1.1, 1.9), {"screw": (5, 0.89)}, "for hoist type screw it is 0.89 times, below 0.9 (5 failures)"),
        (estimate(1.4, 1.1, 1.9), {"screw": (4, 0.1), "winch": (7, None)}, None),
    ],
)
def test_the_rule(ratio, by_hoist, objection):
    hoists = {name: {"failures": n, "ap_14d": estimate(value, 0.1, 3.0)} for name, (n, value) in by_hoist.items()}

    objections = Comparison("new", "old", False, "gates", {}, {"ap_14d": ratio}, hoists).objections

    assert len(objections) == (objection is not None)
    assert (objection or "") in "".join(objections)


def test_going_back_is_recorded_too(folder, shipped, dataset):
    save(folder, "twin", shipped, dataset)
    promote(folder, "twin", force=True, reason="trial", **NOW)

    back = roll_back(folder, reason="trial is over", **NOW)

    assert back.version == shipped.version
    assert registry.aliases(folder) == {"champion": shipped.version, "previous": "twin"}
    facts = record(folder)[1]
    assert (facts["action"], facts["before"], facts["reason"]) == ("roll back", "twin", "trial is over")


def test_a_promotion_that_cannot_be_recorded_does_not_happen(folder, shipped, dataset):
    save(folder, "twin", shipped, dataset)
    (folder / "promotions.jsonl").symlink_to(folder / "elsewhere")

    with pytest.raises(OSError, match="symbolic links"):
        promote(folder, "twin", force=True, reason="trial", **NOW)

    assert registry.aliases(folder) == {"champion": shipped.version}


def test_the_commands_compare_promote_and_go_back(folder, shipped, dataset, monkeypatch):
    def run(*arguments):
        return CliRunner().invoke(main, ["models", *arguments, "--registry", str(folder)])

    save(folder, "backwards", shipped, dataset, slope=-1.0)
    where = ("--dataset", str(dataset.path))
    compared, refused = run("compare", "backwards", "champion", *where), run("promote", "backwards", *where)
    forced = run("promote", "backwards", "--force", "--reason", "trial")
    better, back = run("compare", shipped.version, "backwards", *where), run("rollback", "--reason", "over")

    ratio = f"backwards / {shipped.version}: AP at 14 d 0."
    assert compared.output.splitlines()[1].split() == ["backwards", shipped.version]
    assert ratio in compared.output
    assert "hoist type " in compared.output
    assert compared.output.splitlines()[-1].startswith(f"backwards is not shown to be better than {shipped.version}: on 6 gates")
    assert (refused.exit_code, refused.output.count("\n")) == (2, 1)
    assert refused.output.endswith(f"{promotion.OVERRIDE}\n")
    assert forced.output == "backwards is the champion\n"
    assert better.output.splitlines()[-1].startswith(f"{shipped.version} is better than backwards: on 8 gates")
    assert back.output == f"{shipped.version} is the champion again\n"
    assert [facts["reason"] for facts in record(folder)] == ["trial", "over"]
