"""The sample dataset is what its README says: small, with failures, and remade by the command given there."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner

from pipeline.dataset import open_dataset
from service.cli import main

FOLDER = Path(__file__).parents[1] / "sample_data"


def test_the_sample_is_small_and_has_failures_in_it() -> None:
    dataset = open_dataset(FOLDER / "basin")

    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) <= 5 * 1024 * 1024
    assert (dataset.maintenance["kind"] == "failure").sum() >= 10
    assert all(len(dataset.readings(gate_id)) > 1000 for gate_id in dataset.gate_ids)


def test_the_command_of_the_readme_remakes_it_byte_for_byte(tmp_path: Path) -> None:
    found = re.search(r"^sluicewatch (simulate .*)$", (FOLDER / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    again = tmp_path / "basin"

    answer = CliRunner().invoke(main, found[1].replace("sample_data/basin", str(again)).split())

    assert answer.exit_code == 0, answer.output
    names = sorted(file.relative_to(FOLDER / "basin") for file in (FOLDER / "basin").rglob("*") if file.is_file())
    assert names == sorted(file.relative_to(again) for file in again.rglob("*") if file.is_file())
    assert [name for name in names if (FOLDER / "basin" / name).read_bytes() != (again / name).read_bytes()] == []
