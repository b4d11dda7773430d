"""The walk-through of docs/retraining.md runs as it stands, and its worked files are what a historian would have exported."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from models import registry
from pipeline.dataset import Dataset, open_dataset
from pipeline.simulator import write_dataset

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "retraining.md").read_text(encoding="utf-8")
EXAMPLES = ROOT / "docs" / "examples" / "historian"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

# tag, component, point, quantity, unit there, what one of it is in canonical units
TAGS = (
    ("MOT.VIB", "motor", "", "velocity_rms", "mm/s", 1.0),
    ("MOT.TEMP_DE", "motor", "bearing_de", "temperature", "degC", 1.0),
    ("MOT.CURR", "motor", "", "current", "A", 1.0),
    ("MOT.RUN", "motor", "", "moving", "1", 1.0),
    ("GBX.VIB", "gearbox", "", "velocity_rms", "m/s", 1000.0),
    ("GBX.OIL_TEMP", "gearbox", "oil", "temperature", "degC", 1.0),
)


def run(blocks: list[str]) -> dict[str, object]:
    names: dict[str, object] = {"__name__": "retraining"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"docs/retraining.md, block {number + 1}", "exec"), names)
    return names


def export(dataset: Dataset, folder: Path) -> None:
    """Be the historian: a line for each value in local time and the tag's unit, with some that it doubts."""
    folder.mkdir(parents=True, exist_ok=True)
    lines, tags = [], []
    for gate_id in dataset.gate_ids:
        readings = dataset.readings(gate_id)
        local = readings["ts"].dt.tz_convert("Asia/Shanghai").dt.strftime("%Y-%m-%d %H:%M:%S.%f").str[:-3]
        for tag, component, point, quantity, unit, factor in TAGS:
            name = f"{gate_id.replace('-', '.')}.{tag}"
            tags.append((name, gate_id, component, point, quantity, unit, 3600))
            values = readings[".".join(part for part in (component, point, quantity) if part)] / factor
            told = [(name, at, f"{value:.6g}", "Good") for at, value in zip(local, values, strict=True) if np.isfinite(value)]
            told[40:40] = [(name, told[40][1], "9999", "Bad")]
            lines += told
    lines.sort(key=lambda line: (line[1], line[0]))
    pd.DataFrame(lines, columns=["TagName", "Timestamp", "Value", "Quality"]).to_csv(folder / "export.csv", index=False)
    columns = ["tag", "gate_id", "component", "point", "quantity", "unit", "interval_s"]
    pd.DataFrame(tags, columns=columns).to_csv(folder / "tags.csv", index=False)


def compare_readings(converted: Dataset, original: Dataset) -> None:
    for gate_id in original.gate_ids:
        found, expected = converted.readings(gate_id), original.readings(gate_id)
        names = sorted(found.columns.drop("ts"))
        assert len(names) == len(TAGS)
        expected = expected[["ts", *names]].dropna(how="all", subset=names).reset_index(drop=True)
        pd.testing.assert_frame_equal(found[["ts", *names]], expected, check_names=False, rtol=1e-5)


def test_the_worked_files_are_one_day_of_two_simulated_gates(tmp_path: Path) -> None:
    write_dataset(tmp_path / "fleet", gates=2, days=1, seed=4, heartbeat_min=60)

    export(open_dataset(tmp_path / "fleet"), tmp_path / "historian")

    for name in ("export.csv", "tags.csv"):
        made = (tmp_path / "historian" / name).read_text()
        assert (EXAMPLES / name).read_text() == made, f"the simulator has changed: take {tmp_path}/historian/{name}"


def test_what_was_exported_comes_back_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "fleet", gates=3, days=25, seed=8, heartbeat_min=60)
    original = open_dataset(tmp_path / "fleet")
    export(original, tmp_path / "docs" / "examples" / "historian")
    shutil.copy(EXAMPLES / "work_orders.csv", tmp_path / "docs" / "examples" / "historian")
    monkeypatch.chdir(tmp_path)

    run(BLOCKS[:1])

    compare_readings(open_dataset(tmp_path / "build" / "site"), original)


def test_the_walk_through_leads_from_an_export_to_a_promoted_model_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "fleet", gates=2, days=1, seed=4, heartbeat_min=60)
    for name in ("docs", "sample_data"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)

    names = run(BLOCKS)

    site = open_dataset(tmp_path / "build" / "site")
    compare_readings(site, open_dataset(tmp_path / "fleet"))
    records = [
        (row["gate_id"], row["component"], row["kind"], f"{row['started_at']:%d %H:%M}", str(row["ended_at"])[8:16])
        for row in site.maintenance.to_dict("records")
    ]
    assert sorted(records) == [  # eight hours behind Shanghai
        ("DSH-S1-G1", "motor", "inspection", "01 01:00", "01 02:30"),
        ("DSH-S1-G2", "", "lubrication", "01 06:00", "01 07:00"),
        ("DSH-S1-G2", "gearbox", "failure", "01 13:10", ""),
        ("DSH-S1-G2", "gearbox", "repair", "01 14:00", "01 19:45"),
    ]
    told = capsys.readouterr().out
    folder = tmp_path / "build" / "registry"
    assert "mine-1 is not shown to be better than" in told
    assert [json.loads(line)["rule"] for line in (folder / "promotions.jsonl").read_text().splitlines()[:1]] == ["forced"]
    assert registry.verify(folder, "mine-1").version == "mine-1"
    assert registry.aliases(folder)["previous"] == "mine-1"
    assert names["ratios"]["ap_14d"]["value"] == pytest.approx(
        names["report"]["figures"]["ap_14d"]["value"] / names["evaluate"](*_of_champion(names))["figures"]["ap_14d"]["value"],
        rel=1e-9,
    )


def _of_champion(names):
    return names["files"][names["champion"].version][0], names["dataset"].maintenance, names["ends"]
