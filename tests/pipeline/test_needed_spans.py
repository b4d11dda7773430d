"""The newest row of a gate from the spans it needs is the row from its whole history."""

from dataclasses import replace
from datetime import datetime

import numpy as np
import pandas as pd
import pytest

from pipeline import features
from pipeline.cycles import Records
from pipeline.dataset import open_dataset
from pipeline.readings import DAY_MS
from pipeline.simulator import write_dataset

DAYS = 760
AGES_D = (20, 47, 95, 190, 333, 500, 717, 760)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[features.GateHistory]:
    """Gates of two years, one of them with a year's rest, one with a repair every now and then."""
    folder = tmp_path_factory.mktemp("old")
    write_dataset(folder, gates=4, days=DAYS, seed=11)
    dataset = open_dataset(folder)
    often, idle, *others = [features.history_of(dataset, gate_id) for gate_id in dataset.gate_ids]
    start = pd.Timestamp(int(often.days["day_ms"].min()), unit="ms", tz="UTC")
    records = pd.DataFrame(
        [
            {"component": part, "kind": "repair", "started_at": start + pd.Timedelta(days=day, hours=7), "ended_at": end}
            for part, day, lasts_h in (
                ("motor", 41, 5),
                ("", 60, 30),
                ("brake", 140, 5),
                ("motor", 300, 9),
                ("gearbox", 330, None),
            )
            for end in [pd.NaT if lasts_h is None else start + pd.Timedelta(days=day, hours=7 + lasts_h)]
        ]
    ).astype({"started_at": "datetime64[ms, UTC]", "ended_at": "datetime64[ms, UTC]"})
    of_gate = dataset.maintenance[dataset.maintenance["gate_id"] == often.gate_id]
    moved = (idle.operations["started_ms"] - idle.days["day_ms"].min()) // DAY_MS
    rested = ~moved.between(150, 500)
    return [
        replace(often, maintenance=Records.of(pd.concat([of_gate, records], ignore_index=True))),
        replace(idle, operations=idle.operations[rested].reset_index(drop=True)),
        *others,
    ]


def cut(history: features.GateHistory, as_of: datetime) -> features.GateHistory:
    """Only what lies in the spans that a row needs."""
    first_day_ms = int(history.days["day_ms"].min())
    parts = sorted({name.partition(".")[0] for name in history.days.columns if ":" in name})
    spans = features.needed_spans(history.maintenance, parts, first_day_ms, [as_of])

    def within(at_ms: pd.Series) -> np.ndarray:
        return np.logical_or.reduce([(at_ms >= since_ms) & (at_ms < before_ms) for since_ms, before_ms in spans])

    return replace(
        history,
        operations=history.operations[within(history.operations["started_ms"])].reset_index(drop=True),
        days=history.days[within(history.days["day_ms"])].reset_index(drop=True),
        first_day_ms=first_day_ms,
    )


@pytest.mark.parametrize("age_d", AGES_D)
def test_a_row_needs_no_more_of_the_history_than_its_spans(whole: list[features.GateHistory], age_d: int) -> None:
    for history in whole:
        as_of = pd.Timestamp(int(history.days["day_ms"].min()) + age_d * DAY_MS, unit="ms", tz="UTC").to_pydatetime()

        rows, bounded = features.build(history, [as_of]), features.build(cut(history, as_of), [as_of])

        pd.testing.assert_frame_equal(bounded, rows, rtol=0, atol=1e-9)


def test_of_two_years_a_third_is_read(whole: list[features.GateHistory]) -> None:
    as_of = pd.Timestamp(int(whole[2].days["day_ms"].max()) + DAY_MS, unit="ms", tz="UTC").to_pydatetime()

    assert len(cut(whole[2], as_of).days) < DAYS / 3 + 45
