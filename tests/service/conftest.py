"""A fresh database made by the migrations, on SQLite and on PostgreSQL, with a river of a few gates in it."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from pipeline import historian
from service.store import migrate

GATES = ("DSH-S1-G1", "DSH-S1-G2", "DSH-S2-G1")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An empty database at the newest schema, once on each kind of server."""
    on_sqlite = request.param == "sqlite"
    yield from _migrated(f"sqlite:///{tmp_path / 'store.sqlite'}" if on_sqlite else request.getfixturevalue("postgres_url"))


@pytest.fixture
def sqlite_engine(tmp_path: Path) -> Iterator[Engine]:
    """An empty SQLite database at the newest schema, for what does not depend on the server."""
    yield from _migrated(f"sqlite:///{tmp_path / 'store.sqlite'}")


def _migrated(url: str) -> Iterator[Engine]:
    engine = historian.connect(url)
    migrate(engine)
    with historian.writing(engine) as connection:
        connection.execute(
            sa.insert(historian.stations),
            [
                {"station_id": "DSH-S1", "name": "Station 1", "name_zh": "1号站"},
                {"station_id": "DSH-S2", "name": "Station 2", "name_zh": "2号站"},
            ],
        )
        connection.execute(
            sa.insert(historian.gates),
            [
                {
                    "gate_id": gate_id,
                    "station_id": gate_id[:6],
                    "name": f"Gate {gate_id[-1]} of {gate_id[4:6]}",
                    "name_zh": f"{gate_id[5]}号站{gate_id[-1]}号闸",
                    "hoist_type": "winch",
                    "criticality": "high" if gate_id == "DSH-S2-G1" else "normal",
                    "last_seen_ms": historian.to_ms(datetime(2026, 3, 1, 23, 50, tzinfo=UTC)),
                }
                for gate_id in GATES
            ],
        )
    yield engine
    engine.dispose()
