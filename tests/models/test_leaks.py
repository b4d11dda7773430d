"""A feature that looks ahead is planted, and training must name it."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from models.labels import failures_per_gate
from models.leaks import LeakError, refuse_leaks
from models.train import train
from pipeline import features
from pipeline.dataset import open_dataset
from pipeline.features import FEATURES, from_dataset
from pipeline.readings import DAY_MS
from pipeline.simulator import write_dataset
from service.cli import main

START = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset") / "site"
    write_dataset(folder, gates=3, days=120, seed=11, hazard_scale=8.0, heartbeat_min=60)
    return open_dataset(folder)


@pytest.fixture(scope="module")
def rows(dataset):
    return from_dataset(dataset, compact=True)


def failures(dataset):
    return failures_per_gate(dataset.maintenance, dataset.gate_ids)


def failures_of(history):
    records = history.maintenance
    return [pd.Timestamp(ms, unit="ms", tz="UTC") for ms in records.started_ms[records.kind == "failure"].tolist()]


def days_to_the_next_failure(history, as_ofs, rows):
    """The leak that ruins real projects: a column from which the outcome can be read."""
    failed = failures_of(history)
    nearest = [min((f - t for f in failed if f > t), default=timedelta(days=60)) for t in rows["as_of"]]
    return rows.assign(days_since_visit=[wait / timedelta(days=1) for wait in nearest])


def a_centred_window(history, as_ofs, rows):
    """A smoothing window with its middle at as_of."""
    day = history.operations["started_ms"].to_numpy() // DAY_MS
    middle = rows["as_of"].dt.as_unit("ms").astype("int64").to_numpy() // DAY_MS
    return rows.assign(operations_7d=[float(((day >= m - 4) & (day < m + 3)).sum()) for m in middle])


def a_repair_known_too_early(history, as_ofs, rows):
    """The reason knows of a failure that has not come yet."""
    failed = failures_of(history)
    soon = [any(t < f <= t + timedelta(days=2) for f in failed) for t in rows["as_of"]]
    return rows.assign(reason=np.where(soon, "under_repair", rows["reason"]))


LEAKS = {
    "days_since_visit": days_to_the_next_failure,
    "operations_7d": a_centred_window,
    "reason": a_repair_known_too_early,
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_feature_that_looks_ahead_is_refused_by_its_name(dataset, monkeypatch, tmp_path, name):
    build = features.build
    monkeypatch.setattr(features, "build", lambda history, as_ofs: LEAKS[name](history, as_ofs, build(history, as_ofs)))

    with pytest.raises(LeakError, match=f"^feature '{name}' looks ahead: for .* once everything later is removed") as refusal:
        train(dataset, registry_dir=tmp_path / "registry", name="leaky")

    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "registry" / "leaky").exists()


def test_the_command_refuses_it_too(dataset, monkeypatch, tmp_path):
    build = features.build
    monkeypatch.setattr(features, "build", lambda history, as_ofs: a_centred_window(history, as_ofs, build(history, as_ofs)))

    answer = CliRunner().invoke(main, ["train", str(dataset.path), "--registry", str(tmp_path / "r"), "--name", "leaky"])

    assert (answer.exit_code, answer.output.count("\n")) == (2, 1)
    assert "'operations_7d' looks ahead" in answer.output


def test_honest_features_pass_and_progress_is_told(dataset, rows):
    told = []

    refuse_leaks(dataset, rows, failures(dataset), progress=lambda done, of: told.append((done, of)))

    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("name", ["velocity_dev", "reason"])
def test_rows_that_the_dataset_does_not_give_are_refused(dataset, rows, name):
    other = rows.assign(**{name: "idle" if name == "reason" else rows[name] + 0.01})

    with pytest.raises(LeakError, match=f"the rows given are not this dataset's: '{name}' for "):
        refuse_leaks(dataset, other, failures(dataset))


def test_what_is_known_before_a_day_is_cut_from_readings_and_records(dataset):
    gate_id, day = dataset.gate_ids[0], START + timedelta(days=60)

    known = features.history_of(dataset, gate_id, before=day)

    assert known.operations["started_ms"].max() < day.timestamp() * 1000 <= known.days["day_ms"].max() + DAY_MS
    never_ms, day_ms = np.iinfo(np.int64).max, day.timestamp() * 1000
    assert (known.maintenance.started_ms < day_ms).all()
    assert ((known.maintenance.ended_ms < day_ms) | (known.maintenance.ended_ms == never_ms)).all()
    assert set(FEATURES) <= set(features.build(known, [day]).columns)
