"""What the processes do that the registry's fault tests kill. They never end by themselves."""

from collections.abc import Callable
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

import pandas as pd

from models import registry
from models.forecast import Forecaster
from models.policy import Policy
from pipeline.dataset import open_dataset
from pipeline.features import from_dataset


def begin(told: Connection, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
    """Say that work has begun, and do it."""
    told.send("begun")
    work(*arguments)


def save(folder: Path, version: str, forecaster: Forecaster, golden: pd.DataFrame) -> None:
    """Register as `train` does at its end; the key pair is made when it is missing."""
    registry.save(
        folder,
        version,
        forecaster=forecaster,
        policy=Policy(0.3),
        training={},
        metrics={},
        card="# Model card\n",
        data_card="# Data card\n",
        golden_rows=golden,
    )


def switch(folder: Path) -> None:
    """Move the champion to and fro."""
    while True:
        for version in ("v1", "v2"):
            registry.promote(folder, version)
        registry.rollback(folder)


def register(folder: Path, forecaster: Forecaster, golden: pd.DataFrame) -> None:
    """Register one version after the other in a new registry."""
    for n in count():
        save(folder, f"v{n}", forecaster, golden)


def make_features(dataset: Path, keep: Path) -> None:
    """Make the feature rows of a dataset and keep them; again and again."""
    while True:
        from_dataset(open_dataset(dataset), compact=True, keep=keep)
