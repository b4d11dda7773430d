"""Several ingest processes, each with its stations; one takes over what another one leaves. PostgreSQL says who has what.

A *share* is some stations and the broker session that collects for them. A process announces its own in the database, and whoever
holds the share's advisory lock works on it. The lock goes with its holder's connection, also by ``kill -9``; then another process
takes it and resumes the *same* session, in which the broker has kept what nobody acknowledged.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from pipeline import historian
from pipeline.adapters.dialects import Dialects
from pipeline.errors import BadInput
from pipeline.ingest import IngestState, run_ingest
from pipeline.readings import ID_PATTERN
from pipeline.subscription import IngestSettings

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
TAKE_OVER_S = 5.0
"""A share of others must have been free for so long: who restarts gets its own back."""
PLACE = "{share}"
"""Stands in the broker's address for the share's name, where each session needs an account of its own."""


@dataclass(frozen=True, slots=True)
class Share:
    """Some stations; the same ones in another order are the same share."""

    stations: tuple[str, ...]

    @classmethod
    def of(cls, stations: Sequence[str]) -> Share:
        """Make a share of station ids.

        Raises
        ------
        BadInput
            There are none, or one is no id.
        """
        if not stations or not all(ID_PATTERN.match(station) for station in stations):
            raise BadInput(f"stations: allowed are station ids with commas between; got {','.join(stations)!r}")
        return cls(tuple(sorted(set(stations))))

    @property
    def name(self) -> str:
        """What its session and its lock are called by."""
        return ".".join(self.stations)

    @property
    def lock(self) -> int:
        """The number of its advisory lock."""
        return int.from_bytes(hashlib.sha256(f"sluicewatch ingest {self.name}".encode()).digest()[:8], "big", signed=True)


class _Worker:
    """Ingest of one share in a thread."""

    def __init__(self, engine: Engine, settings: IngestSettings, share: Share, clock: Callable[[], datetime]) -> None:
        self.state = IngestState()
        self._stop = threading.Event()
        own = replace(
            settings,
            client_id=f"{settings.client_id}-{share.name}",
            mqtt_url=settings.mqtt_url.replace(PLACE, share.name),
        )
        self._engine, self._settings, self._share, self._clock = engine, own, share, clock
        self._thread = threading.Thread(target=self._work, name=f"ingest {share.name}", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            dialects = Dialects(stations=self._share.stations)
            run_ingest(self._engine, self._settings, stop=self._stop, clock=self._clock, state=self.state, dialects=dialects)
        except BadInput as error:  # the broker cannot be reached: whoever looks after the shares tries again
            log.error("share %s: %s", self._share.name, error)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Store and acknowledge what is at hand, then end."""
        self._stop.set()
        self._thread.join()


@dataclass(slots=True)
class SharesState:
    """What a health port may ask of all shares that this process works on."""

    workers: dict[str, IngestState] = field(default_factory=dict)
    storage_fault: str = ""

    def faults(self) -> list[str]:
        """Why messages are not being stored at present; a process that stands by has none."""
        own = [self.storage_fault] if self.storage_fault else []
        return own + [f"{name}: {fault}" for name, state in sorted(self.workers.items()) for fault in state.faults()]

    def stuck(self) -> list[str]:
        """What only a restart would mend."""
        return [f"{name}: {fault}" for name, state in sorted(self.workers.items()) for fault in state.stuck()]


def run_shares(
    engine: Engine,
    settings: IngestSettings,
    own: Share,
    *,
    stop: threading.Event,
    clock: Callable[[], datetime],
    state: SharesState | None = None,
    take_over_s: float = TAKE_OVER_S,
) -> None:
    """Work on the own share, and on each that nobody else works on any more, until `stop` is set.

    Raises
    ------
    BadInput
        The database is not PostgreSQL.
    """
    if engine.dialect.name != "postgresql":
        raise BadInput("stations: several ingest processes need PostgreSQL; on SQLite one process hears all stations")
    _Shares(engine, settings, own, stop, clock, state or SharesState(), take_over_s).run()


class _Shares:
    def __init__(
        self,
        engine: Engine,
        settings: IngestSettings,
        own: Share,
        stop: threading.Event,
        clock: Callable[[], datetime],
        state: SharesState,
        take_over_s: float,
    ) -> None:
        self._engine, self._settings, self._own, self._clock = engine, settings, own, clock
        self._stop, self._state, self._take_over_s = stop, state, take_over_s
        self._workers: dict[Share, _Worker] = {}
        self._free_since: dict[Share, float] = {}

    def run(self) -> None:
        while not self._stop.is_set():
            try:
                with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as locks:
                    locks.detach()  # closed for good at the end: the pool would keep it open, and the locks with it
                    try:
                        self._announce()
                        self._state.storage_fault = ""
                        self._look_after(locks)
                    finally:
                        for share in list(self._workers):
                            self._end(share)
            except sa.exc.DBAPIError as error:  # with the connection the locks are gone, and others may have them
                self._state.storage_fault = f"storage: {str(error).partition(chr(10))[0]}"
                log.error("the shares are given up until the database is back: %s", self._state.storage_fault)
                self._stop.wait(LOOK_EVERY_S)

    def _announce(self) -> None:
        table = historian.ingest_shares
        with historian.writing(self._engine) as connection:
            if connection.scalar(sa.select(table.c.share).where(table.c.share == self._own.name)) is None:
                connection.execute(sa.insert(table).values(share=self._own.name, stations=",".join(self._own.stations)))

    def _look_after(self, locks: Connection) -> None:
        while not self._stop.is_set():
            announced = locks.scalars(sa.select(historian.ingest_shares.c.stations)).all()
            for share in (Share.of(text.split(",")) for text in announced):
                if share in self._workers and not self._workers[share].alive:
                    self._workers.pop(share).stop()  # its faults stay told until it, or somebody else, works again
                    locks.execute(sa.select(sa.func.pg_advisory_unlock(share.lock)))
                elif share not in self._workers and self._may_begin(share, locks):
                    log.info("working on share %s", share.name)
                    self._workers[share] = worker = _Worker(self._engine, self._settings, share, self._clock)
                    self._state.workers[share.name] = worker.state
            self._stop.wait(LOOK_EVERY_S)

    def _may_begin(self, share: Share, locks: Connection) -> bool:
        """Whether the share is ours now; one of others only when it has been free for some time."""
        if not locks.scalar(sa.select(sa.func.pg_try_advisory_lock(share.lock))):
            self._free_since.pop(share, None)
            self._state.workers.pop(share.name, None)
            return False
        now = time.monotonic()
        if share == self._own or now - self._free_since.setdefault(share, now) >= self._take_over_s:
            return True
        locks.execute(sa.select(sa.func.pg_advisory_unlock(share.lock)))
        return False

    def _end(self, share: Share) -> None:
        self._workers.pop(share).stop()
        self._state.workers.pop(share.name, None)
