"""One small forecaster, learnt once on a toy fleet, and another toy fleet it has not seen."""

import pytest

from models.fitting import Settings, fit
from models.forecast import Forecaster
from tests.models import fleet

SMALL = Settings(trees=50, fewest_trees=50, learning_rate=0.12, healthy_rows=4000)


@pytest.fixture(scope="session")
def learnt() -> fleet.ToyFleet:
    return fleet.draw(40, 365, seed=1)


@pytest.fixture(scope="session")
def unseen() -> fleet.ToyFleet:
    return fleet.draw(40, 365, seed=2)


@pytest.fixture(scope="session")
def forecaster(learnt: fleet.ToyFleet) -> Forecaster:
    return fit(learnt.rows, learnt.maintenance, learnt.observed_until, features=fleet.FEATURES, seed=0, settings=SMALL)
