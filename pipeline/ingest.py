"""Ingest: an MQTT subscriber that stores a message before it acknowledges it.

It publishes nothing, but for the one command by which Sparkplug's edge nodes are asked for their births, if that is allowed.

Messages are collected, stored in one transaction, and acknowledged in arrival order after its commit. A batch ends by
number, by size, by time, or when the socket falls silent: a broker that hands out only twenty unacknowledged messages
must not wait for a batch of thousands. Nothing is read while a batch is being stored; that is the back-pressure. When
storing fails nothing is acknowledged and the connection is given up, because a broker sends unacknowledged messages
again only on a new one.
"""

from __future__ import annotations

import gc
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import sqlalchemy as sa
from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy.engine import Engine

from pipeline import burst_files, historian
from pipeline.adapters import Message, sparkplug
from pipeline.adapters.dialects import NATIVE, Dialects
from pipeline.failpoints import failpoint
from pipeline.intake import Registry, Stored, put_aside, store_messages
from pipeline.readings import DAY_MS, ReadingError
from pipeline.sequence import Sequences
from pipeline.subscription import BrokerError, IngestSettings, Subscription

__all__ = ["BrokerError", "IngestSettings", "IngestState", "run_ingest"]

log = logging.getLogger(__name__)

RECEIVED = Counter("sluicewatch_mqtt_messages_received", "Messages stored or put in quarantine", ["result"])
CONNECTED = Gauge("sluicewatch_mqtt_connected", "1 while the broker delivers to us")
COMMIT_SECONDS = Histogram("sluicewatch_ingest_commit_duration_seconds", "Decoding, storing and committing one batch")
LAG_SECONDS = Gauge("sluicewatch_ingest_lag_seconds", "Now minus the newest event time of the newest commit")
LAST_COMMIT = Gauge("sluicewatch_ingest_last_commit_timestamp_seconds", "When the newest batch was committed")
CERTIFICATE_ENDS = Gauge("sluicewatch_mqtt_certificate_expiry_timestamp_seconds", "When the broker's certificate ends; 0: no TLS")
MISSED = Counter("sluicewatch_sparkplug_messages_missed", "Messages of edge nodes that their sequence numbers miss")
LOST = Counter("sluicewatch_mqtt_messages_lost_upstream", "Messages that the publishers' own counts miss")
UNACKED = Gauge("sluicewatch_ingest_unacked_messages", "Messages received and not yet acknowledged")

FLUSH_IDLE_S = 0.002
FLUSH_AFTER_S = 0.2
"""A batch is stored when the socket has been silent for this long, or when its first message has waited for that long."""
NOTICE_STOP_S = 0.25
STORAGE_SLOW_S = 5.0
STUCK_S = 120.0
LONGEST_WAIT_S = 5.0
WARN_OF_CERTIFICATE = timedelta(days=30)
REBIRTH_EVERY_S = 60.0
"""An edge node is asked for its births at most so often."""
EXPIRE_EVERY_S = 3_600.0
"""How often raw bursts are looked through for those that are too old."""
STEADY_S = 10.0
"""A connection that lasted this long was a good one; waiting between attempts starts small again."""


@dataclass(slots=True)
class IngestState:
    """What other threads may ask a running ingest; `moved_at` and `storing_since` are monotonic seconds."""

    connected: bool = False
    storage_fault: str = ""
    storing_since: float | None = None
    moved_at: float = field(default_factory=time.monotonic)

    def faults(self) -> list[str]:
        """Return why messages are not being stored at present."""
        faults = [] if self.connected else ["not connected to the broker"]
        if self.storage_fault:
            faults.append(f"storage: {self.storage_fault}")
        since = self.storing_since
        if since is not None and time.monotonic() - since > STORAGE_SLOW_S:
            faults.append(f"storage: a batch has been under way for {time.monotonic() - since:.0f} s")
        return faults

    def stuck(self) -> list[str]:
        """Return what only a restart would mend: the loop does not move any more."""
        still_s = time.monotonic() - self.moved_at
        return [f"the loop has not moved for {still_s:.0f} s"] if still_s > STUCK_S else []


def run_ingest(
    engine: Engine,
    settings: IngestSettings,
    *,
    stop: threading.Event,
    clock: Callable[[], datetime],
    state: IngestState | None = None,
    dialects: Dialects = NATIVE,
) -> None:
    """Receive, store and acknowledge until `stop` is set; then store what is at hand, acknowledge it and disconnect.

    Parameters
    ----------
    engine : Engine
        A migrated historian.
    settings : IngestSettings
    stop : threading.Event
        Set by a signal handler or another thread.
    clock : callable
        Returns the present, aware UTC; a reading more than 5 min ahead of it is a clock fault.
    state : IngestState, optional
        Kept up to date for a health port.
    dialects : Dialects
        What devices may speak; the native dialect alone without a mapping file.

    Raises
    ------
    BrokerError
        The first connection fails. A later one is tried again for as long as it takes.
    """
    thresholds = gc.get_threshold()
    # A batch is thousands of small objects without cycles, freed by reference counting; walking them again and again to
    # look for cycles took a quarter of the time (measured).
    gc.set_threshold(200_000)
    try:
        _Ingest(engine, settings, stop, clock, state or IngestState(), dialects).run()
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


class _Ingest:
    def __init__(
        self,
        engine: Engine,
        settings: IngestSettings,
        stop: threading.Event,
        clock: Callable[[], datetime],
        state: IngestState,
        dialects: Dialects,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._stop = stop
        self._clock = clock
        self._state = state
        self._dialects = dialects
        self._missed = 0
        self._asked_at: dict[str, float] = {}
        self._registry = Registry(allow_discovery=settings.allow_discovery, most_a_minute=settings.most_a_minute)
        self._sequences = Sequences()
        self._refused = 0
        self._told_at = float("-inf")
        self._expire_at = self._gaps_at = float("-inf")

    def run(self) -> None:
        ever_connected = False
        failures = 0
        while not self._stop.is_set():
            started = time.monotonic()
            link = Subscription(self._settings, self._dialects.filters, self._dialects.unwanted)
            try:
                with self._engine.connect() as connection:
                    self._registry.keep_fresh(connection)  # a large fleet takes its time: nothing should wait for it
                if not ever_connected:
                    gc.freeze()  # nor for a search of it for cycles, which what is refused sets off again and again
                link.open()
                ever_connected = True
                self._connected(True)
                self._look_at(link.certificate_ends)
                self._pump(link)
            except BrokerError as error:
                if not ever_connected:
                    raise
                log.warning("%s; trying again", error)
                self._save(link)
            except (sa.exc.SQLAlchemyError, OSError) as error:
                self._storage_failed(error)
            except Exception:  # the outermost loop: whatever it was, ingest must not end silently
                log.exception("ingest connects anew after an unexpected fault")
                self._registry.forget()
            finally:
                self._connected(False)
                link.close()
            failures = 0 if time.monotonic() - started > STEADY_S else failures + 1
            self._wait(failures)
            self._await_storage()

    def _pump(self, link: Subscription) -> None:
        """Collect and store until told to stop; then store what is at hand."""
        began = 0.0
        while not self._stop.is_set():
            now = self._state.moved_at = time.monotonic()
            self._expire_bursts(now)
            self._tell_of_gaps(now)
            if not link.inbox:
                came = link.turn(NOTICE_STOP_S)
                began = time.monotonic()
            else:
                came = link.turn(min(FLUSH_IDLE_S, max(0.0, began + FLUSH_AFTER_S - now)))
            if link.inbox and (not came or link.full or time.monotonic() - began >= FLUSH_AFTER_S):
                self._flush(link)
        if link.inbox:
            self._flush(link)

    def _flush(self, link: Subscription) -> None:
        UNACKED.set(len(link.inbox))
        self._store(link.inbox)
        link.acknowledge()
        UNACKED.set(0)
        if self._dialects.sparkplug is not None:
            self._look_after(self._dialects.sparkplug, link)

    def _expire_bursts(self, now_s: float) -> None:
        folder, days = self._settings.bursts_folder, self._settings.bursts_days
        if folder is not None and now_s >= self._expire_at:
            self._expire_at = now_s + EXPIRE_EVERY_S
            if expired := burst_files.expire(folder, historian.to_ms(self._clock()) - days * DAY_MS):
                log.info("%d raw bursts are older than %d days and removed", expired, days)

    def _look_after(self, adapter: sparkplug.Adapter, link: Subscription) -> None:
        """Count what edge nodes lost on the way, and ask those for their births that we cannot understand."""
        MISSED.inc(adapter.missed - self._missed)
        self._missed = adapter.missed
        now = time.monotonic()
        for publisher in adapter.rebirth_wanted if self._settings.sparkplug_rebirth else ():
            if now - self._asked_at.get(publisher, float("-inf")) >= REBIRTH_EVERY_S:
                self._asked_at[publisher] = now
                log.info("asking edge node %s for its births", publisher)
                link.publish(*sparkplug.rebirth_request(publisher, historian.to_ms(self._clock())))

    def _save(self, link: Subscription) -> None:
        """Store what a lost connection had brought. It comes again and changes nothing, unless the broker lost it too."""
        if link.inbox:
            try:
                self._store(link.inbox)
            except (sa.exc.SQLAlchemyError, OSError) as error:
                self._storage_failed(error)

    def _store(self, messages: Sequence[Message]) -> None:
        self._state.storing_since = time.monotonic()
        messages = self._dialects.receive(messages)
        try:
            self._transact(messages)
        except (sa.exc.IntegrityError, sa.exc.DataError) as error:
            # One message is to blame, or another process that declared the same channel at the same moment; alone, each
            # is stored or put aside, so that none of them can stop the rest for ever.
            log.warning("storing %d messages one by one after: %s", len(messages), _first_line(error))
            for message in messages:
                self._store_alone(message)
        finally:
            self._state.storing_since = None

    def _store_alone(self, message: Message) -> None:
        try:
            self._transact([message])
        except (sa.exc.IntegrityError, sa.exc.DataError) as error:
            self._transact([message], refusal=ReadingError("not_storable", _first_line(error)))

    def _transact(self, messages: Sequence[Message], refusal: ReadingError | None = None) -> None:
        """Store the messages (or, with a `refusal`, put them aside) in one transaction that is on disk on return."""
        now = self._clock()
        try:
            with COMMIT_SECONDS.time(), historian.writing(self._engine) as connection:
                if refusal is None:
                    stored = store_messages(connection, self._registry, messages, now, self._dialects)
                    if self._settings.bursts_folder is not None:
                        burst_files.keep(self._settings.bursts_folder, stored.bursts)
                else:
                    stored = put_aside(connection, messages, refusal, now)
                failpoint("ingest.before_commit")
            failpoint("ingest.after_commit")
        except (sa.exc.SQLAlchemyError, OSError):
            self._registry.forget()
            raise
        for result, n in (("ok", stored.ok), ("late", stored.late), ("quarantined", stored.quarantined)):
            RECEIVED.labels(result).inc(n)
        LAST_COMMIT.set(now.timestamp())
        if stored.newest_ms is not None:
            LAG_SECONDS.set(now.timestamp() - stored.newest_ms / 1000)
        now_s = time.monotonic()
        for topic, number in stored.sequence:
            self._sequences.saw(topic, number, now_s)
        self._tell_of_refusals(stored)

    def _tell_of_refusals(self, stored: Stored) -> None:
        """Log at most one line in ten seconds, however much a device sends that cannot be used."""
        self._refused += stored.quarantined
        if stored.quarantined and time.monotonic() - self._told_at > 10:
            log.warning("%d messages went into quarantine; the last: %s", self._refused, stored.last_refusal)
            self._refused, self._told_at = 0, time.monotonic()

    def _tell_of_gaps(self, now_s: float) -> None:
        """Count what publishers sent and nobody brought us, by the numbers that are missing in their count."""
        if now_s < self._gaps_at:
            return
        self._gaps_at = now_s + 1.0
        if lost := self._sequences.lost(now_s):
            n = sum(lost.values())
            LOST.inc(n)
            topic = max(lost, key=lambda one: lost[one])
            log.warning("%d messages were lost on their way to us, by their numbers; most of %s: %d", n, topic, lost[topic])
            with historian.writing(self._engine) as connection:
                historian.tally(connection, "messages_lost_upstream", n)

    def _look_at(self, certificate_ends: datetime | None) -> None:
        CERTIFICATE_ENDS.set(certificate_ends.timestamp() if certificate_ends else 0)
        if certificate_ends and certificate_ends - self._clock() < WARN_OF_CERTIFICATE:
            days = (certificate_ends - self._clock()).days
            log.warning("the broker's certificate ends in %d days, on %s; renew it", days, f"{certificate_ends:%Y-%m-%d}")

    def _connected(self, connected: bool) -> None:
        self._state.connected = connected
        CONNECTED.set(connected)

    def _wait(self, failures: int) -> None:
        self._state.moved_at = time.monotonic()
        self._stop.wait(random.uniform(0.5, 1.0) * min(LONGEST_WAIT_S, 0.2 * 2**failures))

    def _storage_failed(self, error: Exception) -> None:
        if not self._state.storage_fault:
            log.error("storage fails, nothing is acknowledged until it is back: %s", _first_line(error))
        self._state.storage_fault = _first_line(error)

    def _await_storage(self) -> None:
        """Wait until the historian takes a write again: until then a new connection would bring what cannot be stored."""
        failures = 0
        while self._state.storage_fault and not self._stop.is_set():
            try:
                with historian.writing(self._engine) as connection:
                    historian.tally(connection, "messages_stored", 0)
            except sa.exc.SQLAlchemyError as error:
                self._storage_failed(error)
                failures += 1
                self._wait(failures)
            else:
                self._state.storage_fault = ""
                log.warning("storage is back")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
