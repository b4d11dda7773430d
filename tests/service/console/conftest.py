"""The console over the same filled fleet as the API's tests, with somebody signed in by the form."""

from collections.abc import Callable

import pytest
from sqlalchemy.engine import Engine

from tests.service.api import fleet
from tests.service.api.client import TestClient
from tests.service.api.conftest import alert_ids, connect, filled, fleet_engine, registry, stranger

__all__ = ["alert_ids", "connect", "filled", "fleet_engine", "registry", "stranger"]


@pytest.fixture
def sign_in(stranger: TestClient, fleet_engine: Engine) -> Callable[..., TestClient]:
    """Sign in with a new key of these scopes (all, when none is given)."""

    def with_scopes(*scopes: str) -> TestClient:
        stranger.post("/login", data={"key": fleet.make_key(fleet_engine, *scopes).text}, follow_redirects=False)
        return stranger

    return with_scopes


@pytest.fixture
def console(sign_in: Callable[..., TestClient]) -> TestClient:
    """A browser with somebody signed in who may do everything."""
    return sign_in()
