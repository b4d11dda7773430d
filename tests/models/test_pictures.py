"""Pictures of a report: drawn from its JSON alone, the same each time, and showing what it says."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from models import baselines
from models.evaluate import evaluate
from models.pictures import BLUE, draw
from models.policy import Policy
from pipeline.errors import BadInput

NAMES = ["reliability.png", "lead_times.png", "recall.png", "modes.png"]


@pytest.fixture(scope="module")
def reports(forecaster, unseen) -> Mapping[str, Any]:
    judged = (unseen.maintenance, unseen.observed_until)
    forecasts = forecaster.predict(unseen.rows)
    hoists = {f"G{n:03d}": ("winch", "screw")[n % 2] for n in range(40)}
    model = evaluate(forecasts, *judged, policy=Policy(0.3), hoists=hoists, resamples=20)
    trend = evaluate(baselines.trend(unseen.rows), *judged, are_probabilities=False, resamples=20)
    written: Mapping[str, Any] = json.loads(json.dumps({"model": model, "trend": trend}))
    return written


def blue_share(picture: Path) -> float:
    rgb = matplotlib.image.imread(picture)[:, :, :3]
    wanted = np.array([int(BLUE[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return float((np.abs(rgb - wanted).max(axis=2) < 0.02).mean())


def test_the_same_report_makes_the_same_pictures(reports, tmp_path):
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        assert [file.name for file in draw(reports, folder)] == NAMES

    for name in NAMES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_bars_of_the_lead_times_grow_with_the_failures_warned_of(reports, tmp_path):
    model = reports["model"]
    lead_d = model["lead_times_d"]
    half = {**model, "lead_times_d": [lead for lead in lead_d if lead < 20]}
    none = {**model, "lead_times_d": []}
    shown = []
    for number, report in enumerate((none, half)):
        (tmp_path / str(number)).mkdir()
        draw({"model": report}, tmp_path / str(number))
        shown.append(blue_share(tmp_path / str(number) / "lead_times.png"))

    assert shown[0] == 0.0 < shown[1]


def test_a_report_without_failures_is_drawn_too(reports, tmp_path):
    nothing = {"value": None, "low": None, "high": None}
    quiet = {
        **reports["model"],
        "figures": dict.fromkeys(reports["model"]["figures"], nothing),
        "by_mode": {},
        "by_hoist": {},
        "reliability_14d": [],
        "lead_times_d": [],
        "operating_curve": [],
    }

    assert len(draw({"model": quiet}, tmp_path)) == len(NAMES)


def test_without_matplotlib_it_says_what_to_install(reports, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(BadInput, match=r"pip install 'sluicewatch\[plot\]'"):
        draw(reports, tmp_path)
