"""What the README says is so: its figures are the shipped model's, its links lead somewhere, its commands run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from models import registry
from models.evaluate import table
from service.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_figures_are_those_of_the_shipped_model() -> None:
    champion = registry.ARTIFACTS / registry.resolve(registry.ARTIFACTS, registry.CHAMPION)
    metrics = json.loads((champion / registry.METRICS).read_text(encoding="utf-8"))

    assert table(metrics) in README


PAGES = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "deploy/README.md", "sample_data/README.md", "docs/retraining.md"]


@pytest.mark.parametrize("page", [*PAGES, *(f"docs/guides/{file.name}" for file in sorted((ROOT / "docs/guides").glob("*.md")))])
def test_every_link_to_a_file_leads_somewhere(page: str) -> None:
    file = ROOT / page

    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", file.read_text(encoding="utf-8"))

    assert [link for link in links if not (file.parent / link).exists()] == []


def test_the_data_scientists_first_run_prints_figures_beside_the_baselines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = re.search(r"```sh\n(sluicewatch train sample_data.*?)```", README, re.DOTALL)
    assert block is not None
    (tmp_path / "sample_data").symlink_to(ROOT / "sample_data")
    monkeypatch.chdir(tmp_path)

    answers = [CliRunner().invoke(main, line.split()[1:]) for line in block[1].strip().splitlines()]

    assert [answer.exit_code for answer in answers] == [0, 0, 0], [answer.output for answer in answers]
    for told in (answers[0].output, answers[2].output):
        for figure in ("AP at 14 d", "Brier skill at 14 days", "median lead time", "false alarms / gate-year"):
            assert figure.replace(" days", " d") in told.replace(" days", " d")
        assert re.search(r"model\s+constant\s+zone_limit\s+trend", told)
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["model"]["figures"]["ap_14d"]["value"] > 0
