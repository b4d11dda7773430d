"""Bench of ingest: decoded, validated and on disk before it is acknowledged, against a subscriber that does nothing.

Broker, publisher and subscriber are processes of their own on this machine, new for every run; the kinds of run follow
each other A B C A B C, so that a slow minute meets all of them. Another bench keeps to a rate, and asks how long a message waits.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from pipeline import historian
from pipeline.channel_days import Floats
from pipeline.readings import Channel, split_name
from service import store
from service.bench.messages import COMPONENTS, GATES, UNITS
from service.bench.report import BenchError, Figure, ratio
from service.broker import start_broker, tied

READINGS_TOGETHER, POISON_EVERY = 100, 100
SETTLE_S = 0.3
"""From the subscriber's word to the first message, so that the broker knows of the subscription."""
END_S = 30.0


@dataclass(frozen=True, slots=True)
class Run:
    """One kind of run; `readings` is how many there are in a message."""

    named: str
    messages: int
    readings: int = 1
    stores: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """How long one run took, and how many readings the historian has after it (none for the bare subscriber)."""

    seconds: float
    stored: int


@dataclass(frozen=True, slots=True)
class _Steady:
    """One run: how long each message waited, by how much the publisher was late at most, what ingest took and stored."""

    waits_ms: Floats
    late_s: float
    peak_mb: float
    stored: int


def bench_ingest(messages: int = 20_000, repeats: int = 5, progress: Callable[[int, int], None] | None = None) -> list[Figure]:
    """Measure ingest; with readings in arrays a tenth of the messages is sent.

    Raises
    ------
    BenchError
        Not every reading was stored.
    BrokerStartError
        Mosquitto is not on this machine.
    """
    bare = Run("bare paho subscriber (loop_forever, automatic ack, empty callback), QoS 1", messages, stores=False)
    single = Run("ingest of 1 reading a message, QoS 1, durable before its ack", messages)
    arrays = Run(f"ingest of {READINGS_TOGETHER} readings a message", max(1, messages // 10), READINGS_TOGETHER)
    runs = (bare, single, arrays)
    outcomes: dict[Run, list[Outcome]] = {run: [] for run in runs}
    with tempfile.TemporaryDirectory(prefix="sluicewatch-bench-") as name:
        empty = Path(name) / "empty.sqlite"
        _prepare(empty)
        for number in range(repeats * len(runs)):
            run = runs[number % len(runs)]
            outcomes[run].append(_measure(run, empty, Path(name) / f"{number}"))
            if progress is not None:
                progress(number + 1, repeats * len(runs))
    received, one, many = (_figure(run, outcomes[run]) for run in runs)
    return [received, one, ratio(one, received), many, ratio(many, one)]


def bench_steady(
    gates: int = 10_000,
    messages_per_s: int = 1_000,
    seconds: int = 60,
    repeats: int = 3,
    progress: Callable[[int, int], None] | None = None,
) -> list[Figure]:
    """Measure how long after its publication a reading is stored, and the memory of ingest, with many gates at a steady rate.

    Runs in which every hundredth message is poison take turns with runs without: what do they cost the good ones?

    Raises
    ------
    BenchError
        Not every reading was stored, or the publisher could not keep to the rate.
    BrokerStartError
        Mosquitto is not on this machine.
    """
    waits_ms: dict[int, list[Floats]] = {0: [], POISON_EVERY: []}
    late_ms, peaks_mb, stored = [], [], []
    with tempfile.TemporaryDirectory(prefix="sluicewatch-bench-") as name:
        empty = Path(name) / "empty.sqlite"
        _prepare(empty, gates)
        for number in range(2 * repeats):
            poison_every = (0, POISON_EVERY)[number % 2]
            steady = _keep_steady(empty, Path(name) / f"{number}", gates, messages_per_s, seconds, poison_every)
            waits_ms[poison_every].append(steady.waits_ms)
            if not poison_every:
                late_ms.append(steady.late_s * 1000)
                peaks_mb.append(steady.peak_mb)
                stored.append(steady.stored)
            if progress is not None:
                progress(number + 1, 2 * repeats)
    named = f"{gates} gates, {messages_per_s} messages/s for {seconds} s"
    counts = {"sent": messages_per_s * seconds, "stored": min(stored)}

    def wait(share: int, poison_every: int = 0) -> Figure:
        values = tuple(float(np.percentile(waits, share)) for waits in waits_ms[poison_every])
        too = f", of them {100 // poison_every} % poison" if poison_every else ""
        told = f"{named}{too}: from the moment a message is due to its reading on disk, {share} %"
        return Figure("steady", told, "ms", values, counts={} if poison_every else counts)

    clean, poisoned = wait(99), wait(99, POISON_EVERY)
    return [
        wait(50),
        wait(95),
        clean,
        poisoned,
        ratio(poisoned, clean),
        Figure("steady", f"{named}: latest message of the publisher", "ms", tuple(late_ms)),
        Figure("steady", f"{named}: peak memory of ingest", "MB", tuple(peaks_mb)),
    ]


def _keep_steady(empty: Path, folder: Path, gates: int, messages_per_s: int, seconds: int, poison_every: int) -> _Steady:
    folder.mkdir()
    database, messages = folder / "historian.sqlite", messages_per_s * seconds
    shutil.copy(empty, database)
    with (
        start_broker(folder / "broker", kind="mosquitto") as broker,
        _child("publisher", *map(str, (broker.port, messages, 1, gates, messages_per_s, poison_every))) as publisher,
        _child("subscriber", str(broker.port), str(messages), _url(database)) as subscriber,
    ):
        _hear(publisher)
        _hear(subscriber)
        time.sleep(SETTLE_S)
        assert publisher.stdin is not None
        publisher.stdin.write("\n")
        publisher.stdin.flush()
        start_s, late_s = float(_hear(publisher)), float(_hear(publisher))
        _hear(subscriber)
        told = json.loads(_hear(subscriber))
    stored, good = _count(database), messages - (-(-messages // poison_every) if poison_every else 0)
    if stored != good:
        raise BenchError(f"bench steady: {good} readings were sent and {stored} stored")
    if late_s > max(1.0, seconds / 10):
        raise BenchError(f"bench steady: the publisher fell {late_s:.1f} s behind {messages_per_s} messages/s")
    return _Steady(delays_ms(told["batches"], start_s, messages_per_s), late_s, told["peak_mb"], stored)


def delays_ms(batches: Sequence[tuple[float, int]], start_s: float, messages_per_s: float) -> Floats:
    """How long each message waited, from when it was due until the batch it came in was stored and acknowledged.

    One publisher's messages are stored in their order: so message k came in the first batch after which there were more than k.

    Examples
    --------
    >>> delays_ms([(10.25, 1), (12.5, 3)], start_s=10.0, messages_per_s=1.0).tolist()
    [250.0, 1500.0, 500.0]
    """
    ends_s, totals = np.array([end_s for end_s, _ in batches]), np.array([total for _, total in batches])
    number = np.arange(totals[-1])
    waits: Floats = (ends_s[np.searchsorted(totals, number, side="right")] - start_s - number / messages_per_s) * 1000
    return waits


def _figure(run: Run, outcomes: Sequence[Outcome]) -> Figure:
    sent = run.messages * run.readings
    rates = tuple(sent / outcome.seconds for outcome in outcomes)
    counts = {"messages": run.messages, "sent": sent}
    if run.stores:
        counts["stored"] = min(outcome.stored for outcome in outcomes)
    return Figure("ingest", run.named, "readings/s", rates, counts=counts)


def _measure(run: Run, empty: Path, folder: Path) -> Outcome:
    folder.mkdir()
    database = folder / "historian.sqlite"
    shutil.copy(empty, database)
    where = [_url(database)] if run.stores else []
    with (
        start_broker(folder / "broker", kind="mosquitto") as broker,
        _child("publisher", str(broker.port), str(run.messages), str(run.readings)) as publisher,
        _child("subscriber", str(broker.port), str(run.messages), *where) as subscriber,
    ):
        _hear(publisher)
        _hear(subscriber)
        time.sleep(SETTLE_S)
        assert publisher.stdin is not None
        publisher.stdin.write("\n")
        publisher.stdin.flush()
        started, ended = float(_hear(publisher)), float(_hear(subscriber))
        if run.stores:
            _hear(subscriber)  # what it took, which does not matter here
        subscriber.wait(END_S)
        publisher.wait(END_S)
    stored, sent = _count(database), run.messages * run.readings
    if run.stores and stored != sent:
        raise BenchError(f"bench ingest: {sent} readings were sent and {stored} stored")
    return Outcome(ended - started, stored)


def _prepare(database: Path, gate_count: int = GATES) -> None:
    """Make the historian that every run starts with: migrated, with its gates and channels, without a reading."""
    engine = historian.connect(_url(database))
    store.migrate(engine)
    gates = [{"gate_id": f"G{gate}", "station_id": f"S{gate // 10}"} for gate in range(gate_count)]
    names = [(*split_name(name), unit) for name, unit in UNITS.items()]
    channels = [
        Channel(gate["gate_id"], component, quantity, unit, point)
        for gate in gates
        for component in COMPONENTS
        for point, quantity, unit in names
    ]
    with historian.writing(engine) as connection:
        connection.execute(sa.insert(historian.gates), gates)
        historian.declare_channels(connection, channels)
    engine.dispose()


def _count(database: Path) -> int:
    engine = historian.connect(_url(database))
    with engine.connect() as connection:
        stored = connection.scalar(sa.select(sa.func.count()).select_from(historian.readings))
    engine.dispose()
    return int(stored or 0)


def _url(database: Path) -> str:
    return f"sqlite:///{database}"


@contextmanager
def _child(module: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = tied([sys.executable, "-m", f"service.bench.{module}", *words])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise BenchError("bench ingest: a publisher or subscriber ended early; its own words are above")
    return line.strip()
