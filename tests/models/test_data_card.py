"""The data card of two gates whose days can be counted by hand."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from models.data_card import HEADINGS, data_card
from models.labels import History, Split
from pipeline.dataset import open_dataset, write_tables

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def card(tmp_path):
    """Sixty days: A's motor fails at noon of day 30 for two days, B's is repaired throughout day 10."""
    write_tables(
        tmp_path,
        source="historian of a test",
        licence="CC0-1.0",
        gates=pd.DataFrame({"gate_id": ["A", "B"], "station_id": "S", "hoist_type": ["winch", ""]}),
        channels=pd.DataFrame({"gate_id": ["*"], "component": "motor", "quantity": "velocity_rms", "unit": "mm/s"}),
        maintenance=pd.DataFrame(
            {
                "gate_id": ["A", "B"],
                "component": "motor",
                "kind": ["failure", "repair"],
                "started_at": [FIRST + 30.5 * DAY, FIRST + 10 * DAY],
                "ended_at": [FIRST + 32.5 * DAY, FIRST + 11 * DAY],
                "finding": ["", "prevented_by_maintenance"],
            }
        ),
    )
    dataset = open_dataset(tmp_path, need_readings=False)
    rows = pd.DataFrame({"gate_id": np.repeat(["A", "B"], 60), "component": "motor", "reason": ""})
    rows["as_of"] = pd.to_datetime([FIRST + n * DAY for n in range(60)] * 2).astype("datetime64[ms, UTC]")
    rows.loc[[31, 32], "reason"] = "under_repair"
    rows["velocity_dev"] = np.where(rows["gate_id"] == "A", np.nan, 0.1)
    split = Split(frozenset("A"), frozenset("B"), FIRST + 20 * DAY, FIRST + 41 * DAY)
    until = dict.fromkeys("AB", FIRST + 60 * DAY)
    return data_card("v1", dataset, rows, History(dataset.maintenance), until, split, "ab" * 32)


def test_it_has_every_heading_and_what_the_dataset_says_of_itself(card):
    assert [line[3:] for line in card.splitlines() if line.startswith("## ")] == list(HEADINGS)
    assert "historian of a test. sha256 of the dataset's files: `abab" in card
    assert "\nCC0-1.0.\n" in card
    assert "Days 2026-01-01 to 2026-03-01; 2 gates with readings, 0.3 gate-years." in card
    assert "1 gates taught, until 2026-01-21; 1 others tested, from 2026-02-11." in card
    for row in ("| not given | 1 |", "| winch | 1 |", "| failure | 1 |", "| finding prevented_by_maintenance | 1 |"):
        assert row in card


def test_what_is_missing_is_counted(card):
    assert "| none: there is one | 0.983 |" in card  # 118 of 120
    assert "| under_repair | 0.017 |" in card
    assert "| vibration velocity | 0.508 |" in card  # 60 of 118


def test_classes_are_counted_at_each_horizon(card):
    # A fails in 7 days as of days 24 to 30, not as of 0 to 23 and 33 to 53; B not as of 0 to 3 and 11 to 53
    for within, failed, not_failed, unknown in ((7, 7, 92, 21), (14, 14, 67, 39), (21, 21, 46, 53)):
        assert f"| gates | {within} d | {failed} | {not_failed} | {unknown} |" in card
        # two unknown days have no forecast: A is under repair
        assert f"| components, with a forecast | {within} d | {failed} | {not_failed} | {unknown - 2} |" in card
