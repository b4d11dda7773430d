"""What the processes of `test_ingest_faults` do; imported by the server of processes, so that they begin at once."""

from __future__ import annotations

import logging
import os
import signal
import threading
from datetime import UTC, datetime
from multiprocessing.connection import Connection

from pipeline import historian
from pipeline.ingest import IngestSettings, run_ingest

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def ingest(told: Connection, database: str, url: str, failpoint: str) -> None:
    """Be `sluicewatch ingest` until asked to end; say ``begun`` first."""
    os.environ["SLUICEWATCH_FAILPOINT"] = failpoint
    logging.disable(logging.WARNING)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    told.send("begun")
    run_ingest(historian.connect(database), IngestSettings(url), stop=stop, clock=lambda: NOW)
