"""The subscribers of the ingest bench, each a process: the bare one, and our ingest as the service runs it.

Both say ``ready`` when they have subscribed, and the monotonic second at which they had the last message: the bare one
received, ours on disk and acknowledged. Ours then says how much memory it took at most, and after each batch how many messages
it had by which second.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.bench.messages import NOW
from service.broker import HOST

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge

READY = "ready"


def say(word: str) -> None:
    """Tell the process that started us."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def bare(port: int, messages: int) -> None:
    """Receive with paho as its documentation shows it: `loop_forever`, acknowledged by itself; the callback only counts."""
    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="bench-bare", clean_session=False)
    received = 0

    def on_message(client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        nonlocal received
        received += 1
        if received == messages:
            say(f"{time.monotonic()}")
            client.disconnect()

    client.on_message = on_message
    client.on_subscribe = lambda *told: say(READY)
    client.connect(HOST, port)
    client.subscribe("sluicewatch/v1/#", 1)
    client.loop_forever()


class _Finish(threading.Event):
    """Ends ingest, which asks it after every acknowledged batch, once so many messages are stored or refused."""

    def __init__(self, messages: int) -> None:
        super().__init__()
        self._messages = messages
        self._ready = self._changed = False
        self.batches: list[tuple[float, int]] = []

    def clock(self) -> datetime:
        """The present, which ingest asks for once in a transaction."""
        self._changed = True
        return NOW

    def is_set(self) -> bool:
        """Whether all have been acknowledged; the first question comes before there is a connection."""
        from pipeline.ingest import CONNECTED, RECEIVED

        if not self._ready and _total(CONNECTED):
            self._ready = True
            say(READY)
        if self._changed and not super().is_set():
            self._changed = False
            self.batches.append((time.monotonic(), int(_total(RECEIVED))))
            if self.batches[-1][1] >= self._messages:
                say(f"{self.batches[-1][0]}")
                self.set()
        return super().is_set()


def _total(metric: Gauge | Counter) -> float:
    """Sum over the labels of a metric; a counter also carries when it was created."""
    return sum(sample.value for family in metric.collect() for sample in family.samples if not sample.name.endswith("_created"))


def ours(port: int, messages: int, database: str) -> None:
    """Receive as `sluicewatch ingest` does."""
    from pipeline import historian
    from pipeline.ingest import IngestSettings, run_ingest

    finish = _Finish(messages)
    run_ingest(historian.connect(database), IngestSettings(f"mqtt://{HOST}:{port}"), stop=finish, clock=finish.clock)
    say(json.dumps({"peak_mb": peak_mb(), "batches": finish.batches}))


def peak_mb() -> float:
    """The most memory that this process has taken, in MB of 1,000,000 bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # not ru_maxrss: on Linux that outlives exec, so a child begins with what its parent took (measured: 271 for 219)
        lines = status.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes there


if __name__ == "__main__":
    if len(sys.argv) > 3:
        ours(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    else:
        bare(int(sys.argv[1]), int(sys.argv[2]))
