"""The hidden state of a simulated fleet reaches neither a feature nor a label nor the hash of the data."""

from pathlib import Path

import pandas as pd

from models.labels import History, label
from models.train import data_sha256, record_ends
from pipeline.dataset import open_dataset
from pipeline.features import FEATURES, from_dataset
from pipeline.simulator import write_dataset
from pipeline.simulator.truth import FILE, read_truth


def test_what_teaches_is_the_same_with_the_truth_without_it_and_with_a_false_one(tmp_path: Path) -> None:
    write_dataset(tmp_path / "fleet", gates=2, days=60, seed=8, hazard_scale=12.0, heartbeat_min=60)
    dataset = open_dataset(tmp_path / "fleet")
    truth = read_truth(tmp_path / "fleet")
    assert len(truth) > 20

    def taught() -> tuple[pd.DataFrame, pd.DataFrame, str]:
        rows = from_dataset(dataset)
        return rows, label(rows, History(dataset.maintenance), record_ends(dataset)), data_sha256(dataset)

    with_truth = taught()
    truth.assign(z=0.5).to_parquet(tmp_path / "fleet" / FILE)
    with_a_false_one = taught()
    (tmp_path / "fleet" / FILE).unlink()
    without = taught()

    for other in (with_a_false_one, without):
        pd.testing.assert_frame_equal(with_truth[0], other[0])
        pd.testing.assert_frame_equal(with_truth[1], other[1])
        assert with_truth[2] == other[2]
    hidden = {"z", "tau", "silent", "active", "fails_at", "mode"}
    assert hidden.isdisjoint(FEATURES)
    assert hidden.isdisjoint(with_truth[0].columns)
