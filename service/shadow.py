"""The challenger against the champion, on what both said of the living gates and on outcomes that are known by now.

Both forecast the same rows on the same midnights, so nothing has to be made anew. Neither had seen what came: days that one
of them learnt from, which a backlog may hold, do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from models import registry
from models.labels import REPORTING_LAG_DAYS, History, matured_until
from models.promotion import Comparison, compare_files
from pipeline import historian
from pipeline.errors import BadInput
from service import store

FEWEST_DAYS = 14
"""Matured midnights below which nothing is compared."""

HORIZON_D = 14
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class TooEarly(BadInput):
    """What a challenger said has not matured enough to compare."""


def compare_shadow(engine: Engine, registry_dir: Path, now: datetime, *, seed: int = 0) -> Comparison:
    """Compare challenger and champion on the forecasts whose outcome within 14 days counts by `now`.

    Raises
    ------
    TooEarly
        There is no challenger, or it has forecast less than 14 matured midnights beside this champion; the line tells how
        many there are and until when they have matured.
    """
    aliases = registry.aliases(registry_dir)
    if registry.CHALLENGER not in aliases:
        raise TooEarly(f"{registry_dir} has no challenger; `sluicewatch models challenge VERSION` appoints one")
    challenger, champion = (registry.load(registry_dir, aliases[name]) for name in (registry.CHALLENGER, registry.CHAMPION))
    until, after = matured_until(now, HORIZON_D), max(_learnt_until(model) for model in (challenger, champion))
    with engine.connect() as connection:
        pair = store.load_both(connection, challenger.version, champion.version, after, until)
        maintenance = historian.load_table(connection, historian.maintenance)
        gates = connection.execute(sa.select(historian.gates.c.gate_id, historian.gates.c.hoist_type)).all()
    days = len({row["as_of"] for row in pair[0]})
    if days < FEWEST_DAYS:
        raise TooEarly(
            f"{challenger.version} has forecast {days} midnights beside {champion.version} that have matured (up to "
            f"{until:%Y-%m-%d}: 14 days and a week for late records); {FEWEST_DAYS} are needed"
        )
    files = {model.version: (_frame(rows), model.policy) for model, rows in zip((challenger, champion), pair, strict=True)}
    known_until = now - timedelta(days=REPORTING_LAG_DAYS)
    return compare_files(
        files,
        History(maintenance),
        {row["gate_id"]: known_until for row in pair[0]},
        hoists={gate_id: hoist or "" for gate_id, hoist in gates},
        asked=f"gates of this site beside the champion, matured up to {until:%Y-%m-%d},",
        simulated=False,
        seed=seed,
    )


def _learnt_until(model: registry.Model) -> datetime:
    """Until when it knows outcomes of real gates; simulated time is not the river's."""
    training = model.manifest["training"]
    return LONG_AGO if training["simulated"] else datetime.fromisoformat(training["labels_until"])


def _frame(rows: Sequence[store.Row]) -> pd.DataFrame:
    """A forecast file of stored rows."""
    frame = pd.DataFrame([dict(row) for row in rows])
    frame["as_of"] = pd.to_datetime(frame["as_of"], utc=True).astype("datetime64[ms, UTC]")
    return frame
