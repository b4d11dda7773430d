"""A site's own probabilities and threshold: the shipped model on a small simulated site; what it has learnt stays."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from scipy.optimize import minimize
from scipy.special import expit

from models import registry
from models.backtest import backtest
from models.labels import History
from models.policy import Replay, tune
from models.registry import RegistryError
from models.retune import recalibrate, retune
from models.train import TrainingError, data_sha256, record_ends
from pipeline.dataset import open_dataset
from pipeline.simulator import write_dataset
from service.cli import main

START = datetime(2024, 1, 1, tzinfo=UTC)
FIRST, LAST = START + timedelta(days=40), START + timedelta(days=160)
FEW = {"enough_gate_years": 0.3, "budget_per_gate_year": 12.0, "from_": FIRST, "to": LAST}
"""A history of 1.5 gate-years that a test has time for."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset") / "site"
    write_dataset(folder, gates=6, days=200, seed=11, hazard_scale=3.0, heartbeat_min=60)
    return open_dataset(folder)


@pytest.fixture
def folder(tmp_path):
    registry.seed(tmp_path / "registry")
    return tmp_path / "registry"


@pytest.fixture
def shipped(folder):
    return registry.load(folder)


def contents(version):
    return {file.name: file.read_bytes() for file in version.iterdir()}


def saved(folder, name, shipped, **training):
    """The shipped forecaster under another name, with other facts about its training."""
    golden = pq.read_table(folder / shipped.version / registry.GOLDEN).to_pandas()
    return registry.save(
        folder,
        name,
        forecaster=replace(shipped.forecaster, version=name),
        policy=shipped.policy,
        training=dict(shipped.manifest["training"]) | training,
        metrics={},
        card="# Model card: of a test\n",
        data_card="# Data card\n",
        golden_rows=golden,
    )


@pytest.fixture
def settled(monkeypatch):
    """No site where other probabilities would do better."""
    monkeypatch.setattr("models.retune.calibrate", lambda forecaster, *about: forecaster)


@pytest.mark.usefixtures("settled")
def test_the_new_version_is_its_parent_with_the_threshold_that_tune_finds(dataset, folder, shipped):
    tuned = retune(dataset, registry_dir=folder, name="mine", **FEW)

    forecasts = backtest(dataset, shipped, FIRST, LAST)
    until = {gate_id: min(end, LAST + timedelta(days=28)) for gate_id, end in record_ends(dataset).items()}
    expected = tune(Replay(forecasts, History(dataset.maintenance), until), budget_per_gate_year=12.0, enough_gate_years=0.3)
    before, after = contents(folder / shipped.version), contents(folder / "mine")
    assert tuned.policy == expected
    assert tuned.policy.calibrated_here
    assert {name for name in after if after[name] != before[name]} == {registry.MANIFEST, registry.SIGNATURE, registry.CARD}
    assert backtest(dataset, tuned, LAST, LAST)["p_14d"].equals(backtest(dataset, shipped, LAST, LAST)["p_14d"])
    assert set(backtest(dataset, tuned, LAST, LAST)["model_version"]) == {"mine"}


def test_probabilities_are_calibrated_where_that_forecasts_other_gates_better(dataset, folder, shipped):
    """A parent that promises failures three times as often has its odds brought down."""
    bold = replace(shipped.forecaster, intercept=shipped.forecaster.intercept + np.log(3))
    saved(folder, "bold", replace(shipped, forecaster=bold))

    tuned = retune(dataset, registry_dir=folder, model="bold", name="mine", **FEW)

    card = (folder / "mine" / registry.CARD).read_text()
    assert tuned.manifest["tuned"]["recalibrated"]
    assert "calibrated anew on the same history" in card
    assert tuned.forecaster.intercept < bold.intercept
    assert registry.load(folder, "mine").forecaster.slope == tuned.forecaster.slope
    assert (folder / "mine" / registry.MODEL).read_bytes() == (folder / "bold" / registry.MODEL).read_bytes()


@pytest.mark.parametrize(("slope", "intercept"), [(0.6, -1.0), (1.3, 1.0)])
def test_the_calibration_of_a_site_is_the_one_that_minimising_finds(shipped, slope, intercept):
    """400 gates, each asked once; what is told is off by a known slope and intercept."""
    rng = np.random.default_rng(3)
    told = rng.normal(-1.0, 1.5, 400)
    fails = rng.random(400) < expit(intercept + slope * told)
    rows = pd.DataFrame({"gate_id": [f"G{n}" for n in range(400)], "component": "motor", "as_of": FIRST, "reason": ""})
    at = FIRST + timedelta(days=5)
    records = rows.loc[fails, ["gate_id", "component"]].assign(kind="failure", started_at=at, ended_at=at + timedelta(days=2))
    parent = replace(shipped.forecaster, slope=1.0, intercept=0.0)
    log_odds = np.tile(told[:, None], (1, len(parent.horizons_d)))
    ends = dict.fromkeys(rows["gate_id"], FIRST + timedelta(days=90))

    found = recalibrate(
        parent, rows, log_odds, History(records), ends, dict(zip(rows["gate_id"], fails.astype(int), strict=True))
    )

    def penalised(theta):
        loss = np.logaddexp(0.0, theta[0] * told + theta[1]) - fails * (theta[0] * told + theta[1])
        return loss.sum() + 0.5 * ((theta[0] - 1.0) / 0.25) ** 2 + 0.5 * (theta[1] / 0.5) ** 2

    assert (found.slope, found.intercept) == pytest.approx(minimize(penalised, [1.0, 0.0], tol=1e-10).x, abs=1e-4)


def test_a_history_without_failures_leaves_probabilities_as_they_are(dataset, folder, shipped):
    quiet = replace(dataset, maintenance=dataset.maintenance[dataset.maintenance["kind"] != "failure"])

    tuned = retune(quiet, registry_dir=folder, name="mine", **(FEW | {"budget_per_gate_year": 40.0}))

    assert not tuned.manifest["tuned"]["recalibrated"]
    assert tuned.manifest["forecaster"] == shipped.manifest["forecaster"]
    assert "Its probabilities are those of its parent" in (folder / "mine" / registry.CARD).read_text()


def test_the_parent_stays_untouched_and_at_work(dataset, folder, shipped):
    before = contents(folder / shipped.version)

    retune(dataset, registry_dir=folder, name="mine", **FEW)

    assert contents(folder / shipped.version) == before
    assert registry.aliases(folder) == {"champion": shipped.version}


def test_a_tuned_version_verifies_and_is_promoted_like_any_other(dataset, folder, shipped):
    retune(dataset, registry_dir=folder, name="mine", **FEW)

    registry.promote(folder, "mine")

    assert registry.aliases(folder) == {"champion": "mine", "previous": shipped.version}
    content = bytearray((folder / "mine" / registry.MODEL).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "mine" / registry.MODEL).write_bytes(bytes(content))
    with pytest.raises(RegistryError, match="is not the file the manifest lists"):
        registry.load(folder, "mine")


def test_manifest_and_card_say_on_what_it_was_tuned(dataset, folder, shipped):
    tuned = retune(dataset, registry_dir=folder, name="mine", **FEW)

    told = tuned.manifest["tuned"]
    card = (folder / "mine" / registry.CARD).read_text()
    assert told["data_sha256"] == data_sha256(dataset)
    assert (told["parent"], told["parent_open_at"]) == (shipped.version, shipped.policy.open_at)
    assert (told["gates"], told["gates_left_out"], told["simulated"]) == (6, 0, True)
    assert told["gate_years"] == tuned.policy.tuned_gate_years == pytest.approx(6 * 121 / 365.25, abs=0.2)
    assert told["false_alarms"] == tuned.policy.tuned_false_alarms
    assert card.startswith("# Model card: mine\n")
    assert card.count("## Alarm threshold") == 1
    assert f"reaches {tuned.policy.open_at:.3f} on 2 of the last 3" in card
    assert "**Calibrated here**" in card
    assert "not yet calibrated here" not in card.lower()
    headings = re.findall("^## .*", (folder / shipped.version / registry.CARD).read_text(), re.MULTILINE)
    assert re.findall("^## .*", card, re.MULTILINE) == headings


def test_too_little_history_is_refused_and_nothing_is_registered(dataset, folder, shipped):
    with pytest.raises(TrainingError) as refusal:
        retune(dataset, registry_dir=folder, name="mine", from_=FIRST, to=LAST)

    assert re.fullmatch(
        rf"not calibrated here: this history has \d\.\d gate-years, 60 are needed to tune a threshold; the threshold of "
        rf"{shipped.version} stays \({shipped.policy.open_at:.3f}\) and nothing was registered",
        str(refusal.value),
    )
    assert [listed.version for listed in registry.list_versions(folder)] == [shipped.version]


def test_a_budget_that_the_history_cannot_prove_is_refused(dataset, folder):
    with pytest.raises(TrainingError, match="do not prove any threshold to keep a budget of 0.2 false alarms per gate-year"):
        retune(dataset, registry_dir=folder, name="mine", **(FEW | {"budget_per_gate_year": 0.2}))


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("grown", [False, True], ids=["the same record", "a record that has grown"])
def test_gates_the_model_learnt_from_are_left_out(dataset, folder, shipped, grown):
    gate_ids = dataset.gate_ids
    facts = {"development_until": LAST.isoformat(), "test_gates": gate_ids[4:], "learnt_gates": gate_ids[:4]}
    of_then = "0" * 64 if grown else data_sha256(dataset)
    own = saved(folder, "own", shipped, data_sha256=of_then, simulated=not grown, **facts)

    tuned = retune(dataset, registry_dir=folder, model="own", name="mine", **FEW)

    forecasts = backtest(dataset, own, FIRST, LAST)
    until = {gate_id: min(end, LAST + timedelta(days=28)) for gate_id, end in record_ends(dataset).items()}
    unseen = Replay(forecasts[forecasts["gate_id"].isin(gate_ids[4:])], History(dataset.maintenance), until)
    assert (tuned.manifest["tuned"]["gates"], tuned.manifest["tuned"]["gates_left_out"]) == (2, 4)
    assert tuned.policy == tune(unseen, budget_per_gate_year=12.0, enough_gate_years=0.3)


def test_a_model_that_learnt_from_every_gate_says_why_there_is_nothing_to_tune_on(dataset, folder, shipped):
    facts = {"development_until": LAST.isoformat(), "test_gates": [], "data_sha256": data_sha256(dataset)}
    saved(folder, "own", shipped, **facts)

    with pytest.raises(TrainingError, match=r"has 0\.0 gate-years, without the 6 gates own learnt from"):
        retune(dataset, registry_dir=folder, model="own", **FEW)


def test_a_taken_name_is_refused_before_anything_costly(dataset, folder, shipped):
    with pytest.raises(RegistryError, match="exists"):
        retune(dataset, registry_dir=folder, name=shipped.version)


def test_the_command_says_the_threshold_and_how_to_put_it_to_work(dataset, folder, shipped, monkeypatch):
    monkeypatch.setattr("models.retune.retune", partial(retune, enough_gate_years=0.3))  # a history a test has time for
    days = ["--from", f"{FIRST:%Y-%m-%d}", "--to", f"{LAST:%Y-%m-%d}"]

    answer = CliRunner().invoke(
        main, ["models", "tune", str(dataset.path), "--registry", str(folder), "--name", "mine", "--budget", "12", *days]
    )

    policy = registry.load(folder, "mine").policy
    assert answer.exit_code == 0, answer.output
    assert answer.output.startswith(
        f"mine: threshold {policy.open_at:.3f} (was {shipped.policy.open_at:.3f} in {shipped.version}), calibrated here on "
    )
    assert answer.output.endswith("`sluicewatch models promote mine` puts it to work\n")
