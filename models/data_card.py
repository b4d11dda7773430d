"""The data card: what a model's data were, who may use them, what is missing and how labels were made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from models.labels import HORIZON_DAYS, History, Split, label, outcome
from models.policy import YEAR_DAYS
from pipeline.dataset import Dataset

HEADINGS = ("Source", "Licence", "Window", "Missingness", "Label process", "Class counts")
"""What `models verify` asks of a card."""

_KNOWN_BY = {
    "vibration velocity": "velocity_dev",
    "vibration acceleration": "acceleration_dev",
    "shock (kurtosis, crest factor, envelope)": "impulse_dev",
    "temperature": "temperature_dev",
    "current": "current_dev",
    "load": "load_7d",
    "ambient temperature": "ambient_7d",
    "head": "head_7d",
}
"""Kinds of evidence, and the feature that is NaN where there is none."""

_LABELS = f"""A component-day is *failed within h days* when `maintenance.csv` has a `failure` of that component in the h days
after its midnight; a gate-day when it has any failure of the gate. Where a `repair` or `replacement`, a visit that found
damage or an alert nobody looked into came first, or the record ends first, the day is *unknown*: nobody knows when the old
part would have failed.
It counts as *not failed* only when all h days were observed. Days out of service are *unknown*, too. A label is final
{HORIZON_DAYS} days after its day. Who wrote the records, and how completely, this card cannot know: what is not entered counts
as not happened."""


def data_card(
    version: str,
    dataset: Dataset,
    rows: pd.DataFrame,
    history: History,
    observed_until: Mapping[str, datetime],
    split: Split,
    data_sha256: str,
) -> str:
    """Return the card as Markdown.

    Parameters
    ----------
    rows : feature rows of every gate and day, taught and tested
    observed_until : end of each gate's record
    """
    mark = " (simulated)" if "simul" in dataset.source.lower() else ""
    gates = rows[["gate_id", "as_of"]].drop_duplicates().assign(component="")
    scored = rows[rows["reason"] == ""]
    records = dataset.maintenance["kind"].value_counts()
    findings = dataset.maintenance.loc[dataset.maintenance["finding"] != "", "finding"].value_counts()
    hoists = dataset.gates["hoist_type"].replace("", "not given").value_counts()
    lines = [
        f"# Data card: {version}",
        "",
        "## Source",
        "",
        f"{dataset.source or 'Not given'}. sha256 of the dataset's files: `{data_sha256}`.",
        "",
        "## Licence",
        "",
        f"{dataset.licence or 'Not given'}.",
        "",
        "## Window",
        "",
        f"Days {_day(rows['as_of'].min())} to {_day(rows['as_of'].max())}; {len(observed_until)} gates with readings, "
        f"{len(gates) / YEAR_DAYS:.1f} gate-years{mark}.",
        f"{len(split.development)} gates taught, until {_day(split.development_until)}; {len(split.test)} others tested, from "
        f"{_day(split.test_from)}.",
        "",
        *_table(("hoist type", "gates"), sorted(hoists.items())),
        "",
        "## Missingness",
        "",
        f"Of {len(rows)} component-days{mark}, by why there can be no forecast:",
        "",
        *_table(("reason", "share"), _reasons(rows)),
        "",
        "Of those with a forecast, the share that has each kind of evidence (a sensor that is absent, silent or not believed "
        "gives none):",
        "",
        *_table(
            ("evidence", "share"),
            [(kind, f"{scored[name].notna().mean():.3f}") for kind, name in _KNOWN_BY.items() if name in scored and len(scored)],
        ),
        "",
        "## Label process",
        "",
        _LABELS,
        "",
        *_table(
            (f"records{mark}", "number"), [*sorted(records.items()), *((f"finding {name}", n) for name, n in findings.items())]
        ),
        "",
        "## Class counts",
        "",
        *_table(
            (f"days{mark}", "within", "failed", "not failed", "unknown"),
            [
                *_counts("components, with a forecast", scored, history, observed_until),
                *_counts("gates", gates, history, observed_until),
            ],
        ),
        "",
    ]
    return "\n".join(lines)


def _reasons(rows: pd.DataFrame) -> list[tuple[str, str]]:
    shares = rows["reason"].replace("", "none: there is one").value_counts(normalize=True)
    return [(str(reason), f"{share:.3f}") for reason, share in shares.items()]


def _counts(
    what: str, rows: pd.DataFrame, history: History, observed_until: Mapping[str, datetime]
) -> list[tuple[str, str, int, int, int]]:
    labels = label(rows, history, observed_until)
    y = {horizon_d: outcome(labels, horizon_d) for horizon_d in (7, 14, HORIZON_DAYS)}
    return [(what, f"{h} d", int((of == 1).sum()), int((of == 0).sum()), int(np.isnan(of).sum())) for h, of in y.items()]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    return [f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows)]


def _day(instant: Any) -> str:
    return f"{instant:%Y-%m-%d}"
