"""Every number of a results file stands in the docs as the bench printed it, and no other does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.bench.report import Figure, table

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("name", ["oracle", "simulate", "publish"])
def test_the_page_of_the_simulator_shows_what_the_bench_wrote(name: str) -> None:
    written = json.loads((DOCS / "results" / f"{name}.json").read_text(encoding="utf-8"))
    figures = [
        Figure(f["bench"], f["measured"], f["unit"], tuple(f["values"]), f["against"], f["counts"]) for f in written["figures"]
    ]

    shown = table(figures, written["machine"])

    assert f"```text\n{shown}\n```" in (DOCS / "simulator.md").read_text(encoding="utf-8")


def test_no_results_file_goes_unshown() -> None:
    shown = (DOCS / "simulator.md").read_text(encoding="utf-8")

    for file in (DOCS / "results").iterdir():
        assert f"results/{file.name}" in shown
