"""A filled fleet behind the application, fresh for every test: the database is made once and copied."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import Engine

from pipeline import historian
from service.store import migrate
from tests.service.api import fleet
from tests.service.api.client import TestClient


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A database file with the whole fleet, and the ids of its alerts."""
    path = tmp_path_factory.mktemp("fleet") / "fleet.sqlite"
    engine = historian.connect(f"sqlite:///{path}")
    migrate(engine)
    alert_ids = fleet.fill(engine)
    engine.dispose()
    return path, alert_ids


@pytest.fixture
def fleet_engine(filled: tuple[Path, list[str]], tmp_path: Path) -> Iterator[Engine]:
    """This test's own copy of the filled database."""
    path = tmp_path / "fleet.sqlite"
    shutil.copy(filled[0], path)
    engine = historian.connect(f"sqlite:///{path}")
    yield engine
    engine.dispose()


@pytest.fixture
def alert_ids(filled: tuple[Path, list[str]]) -> list[str]:
    """The fleet's alerts, in the order of `fleet.AT_RISK`."""
    return filled[1]


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """A registry with one champion."""
    return fleet.write_registry(tmp_path / "registry")


@pytest.fixture
def connect(fleet_engine: Engine, registry: Path) -> Callable[..., TestClient]:
    """Make a client whose key has the scopes given (all, when none is given)."""
    app = fleet.make_app(fleet_engine, registry)

    def with_scopes(*scopes: str) -> TestClient:
        key = fleet.make_key(fleet_engine, *scopes)
        return TestClient(app, headers={"Authorization": f"Bearer {key.text}"}, raise_server_exceptions=False)

    return with_scopes


@pytest.fixture
def client(connect: Callable[..., TestClient]) -> TestClient:
    """A client that may do everything."""
    return connect()


@pytest.fixture
def stranger(fleet_engine: Engine, registry: Path) -> TestClient:
    """A client without a key."""
    return TestClient(fleet.make_app(fleet_engine, registry), raise_server_exceptions=False)
