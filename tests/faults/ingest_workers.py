"""What the processes of `test_ingest_faults` do; imported by the server of processes, so that they begin at once."""

from __future__ import annotations

import logging
import os
import signal
import threading
from datetime import UTC, datetime
from multiprocessing.connection import Connection

from pipeline import historian
from pipeline.health import HealthServer
from pipeline.ingest import IngestSettings, IngestState, run_ingest
from pipeline.shares import Share, run_shares

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def ingest(told: Connection, database: str, url: str, failpoint: str, health_port: int = 0) -> None:
    """Be `sluicewatch ingest` until asked to end; say ``begun`` first."""
    os.environ["SLUICEWATCH_FAILPOINT"] = failpoint
    logging.disable(logging.WARNING)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    state = IngestState()
    with HealthServer(health_port, live=state.stuck, ready=state.faults):
        told.send("begun")
        run_ingest(historian.connect(database), IngestSettings(url), stop=stop, clock=lambda: NOW, state=state)


def share(told: Connection, database: str, url: str, station: str) -> None:
    """Be one of several `sluicewatch ingest --stations`."""
    logging.disable(logging.WARNING)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    told.send("begun")
    settings, own = IngestSettings(url), Share.of([station])
    run_shares(historian.connect(database), settings, own, stop=stop, clock=lambda: NOW, take_over_s=2.0)
