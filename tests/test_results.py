"""Every number of a results file stands in the docs as the bench printed it, and no other does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.bench.report import Figure, table

DOCS = Path(__file__).parents[1] / "docs"


RESULTS = sorted(file.stem for file in (DOCS / "results").iterdir())
PAGES = {
    "forecast": "forecast.md",
    "real": "real-data.md",
    "drift": "drift.md",
    **dict.fromkeys(("ingest", "steady", "import", "score"), "speed.md"),
}


@pytest.mark.parametrize("name", RESULTS)
def test_the_docs_show_what_the_bench_wrote(name: str) -> None:
    written = json.loads((DOCS / "results" / f"{name}.json").read_text(encoding="utf-8"))
    figures = [Figure.from_dict(figure) for figure in written["figures"]]
    page = (DOCS / PAGES.get(name, "simulator.md")).read_text(encoding="utf-8")

    shown = table(figures, written["machine"])

    assert f"```text\n{shown}\n```" in page
    assert f"results/{name}.json" in page
