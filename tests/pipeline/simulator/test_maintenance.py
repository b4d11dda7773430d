from datetime import UTC, datetime

import numpy as np
import pytest

from pipeline.simulator.maintenance import INSPECTION_INTERVAL_D, Outage, Upkeep, records
from pipeline.simulator.weather import DAY_S

START = datetime(2024, 1, 1, tzinfo=UTC)


def test_a_failure_becomes_a_failure_and_a_repair_a_find_becomes_a_repair() -> None:
    outages = [
        Outage("inspection", 3600.0, 7200.0),
        Outage("failure", 1.5 * DAY_S, 3.0 * DAY_S, "brake_drag", "brake"),
        Outage("found", 5.0 * DAY_S, 5.1 * DAY_S, "gear", "gearbox"),
        Outage("failure", 8.0 * DAY_S, 11.0 * DAY_S, "sudden", ""),
    ]

    rows = records("G1", START, 10, outages)

    told = [(row["kind"], row["component"], row["failure_mode"], row["finding"], row["ended_at"] is None) for row in rows]
    assert told == [
        ("inspection", "", "", "", False),
        ("failure", "brake", "brake_drag", "", True),
        ("repair", "brake", "brake_drag", "", False),
        ("repair", "gearbox", "gear", "confirmed_degradation", False),
        ("failure", "", "sudden", "", True),
        ("repair", "", "sudden", "", True),  # it ends after the last simulated day
    ]
    assert rows[1]["started_at"] == rows[2]["started_at"] == datetime(2024, 1, 2, 12, tzinfo=UTC)
    assert rows[2]["ended_at"] == datetime(2024, 1, 4, tzinfo=UTC)


def test_inspections_come_every_120_days_in_working_hours_and_are_staggered() -> None:
    due = {index: [day for day in range(720) if Upkeep(1, index).inspection_due(day)] for index in range(30)}

    assert all((np.diff(days) == INSPECTION_INTERVAL_D).all() for days in due.values())
    assert len({days[0] for days in due.values()}) == 30
    assert not Upkeep(1, 0, preventive=False).inspection_due(due[0][0])
    for day in due[3]:
        start_s, end_s = Upkeep(1, 3).inspection_s(day)
        assert 9 <= start_s % DAY_S / 3600 + 8 < end_s % DAY_S / 3600 + 8 <= 15


@pytest.mark.parametrize(("z", "chance"), [(0.2, 0.032), (0.45, 0.375), (0.9, 0.747)])
def test_an_inspection_finds_worn_parts_and_misses_fresh_damage(z: float, chance: float) -> None:
    found = np.mean([Upkeep(1, index).finds(100, 2, z) for index in range(3000)])

    assert found == pytest.approx(chance, abs=0.03)


def test_a_repair_takes_some_days() -> None:
    days = [Upkeep(1, index).repaired_s(100.5 * DAY_S) / DAY_S - 100.5 for index in range(2000)]

    assert min(days) > 0.5
    assert np.mean(days) == pytest.approx(1 / 0.45 - 0.5 + 7.5 / 24, abs=0.15)
