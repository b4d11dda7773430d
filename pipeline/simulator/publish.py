"""Simulated gates as sensors: readings into MQTT messages, and the gateways that publish them on event time.

`to_messages` decides what is said and when; it knows no network. `FleetPublisher` is the edge: as in the field, a station's
gateway holds one connection and speaks for its gates. It knows no clock of the world; the caller says up to which event time
to publish. It never subscribes. What goes wrong on the way to the broker is `transport`'s.
"""

from __future__ import annotations

import heapq
import logging
import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import inf, isnan
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import unquote, urlsplit

import msgspec
import numpy as np
import pandas as pd
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from pipeline.errors import BadInput
from pipeline.simulator.fleet import Fleet
from pipeline.simulator.streams import Ints
from pipeline.waveforms import Burst
from pipeline.waveforms import encode as encode_burst

log = logging.getLogger(__name__)

ROOT = "sluicewatch/v1"
MAX_BYTES = 60_000
"""A telemetry message may have 64 KB; this leaves room for what a gateway on the way may add."""

ONLINE, OFFLINE = b'{"status":"online"}', b'{"status":"offline"}'
KEEPALIVE_S = 60
MESSAGES_PER_TURN, RECONNECTS_PER_TURN = 512, 32
TURN_S = 0.05
"""So long messages are made before the connections are looked after again: a gate's next chunk may take a while."""
BURST_S = 0.1
"""A bounded rate makes up for no longer stop than this."""
FIRST_RETRY_S, LONGEST_RETRY_S = 0.2, 5.0
OTHER_FILES = 200
"""Open files a process may need beside its connections."""
MISC_EVERY_S = 1.0
TELL_EVERY_S, IDLE_S = 0.02, 0.05
CLOSE_S = 5.0

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_NEVER = 2**63 - 1

_encode = msgspec.json.Encoder().encode


class PublishError(BadInput):
    """The broker cannot be reached or refuses us, or this machine does not allow us so many connections."""


class Message(NamedTuple):
    """One telemetry message: when it is handed over (event time, epoch ms), where it goes, its bytes, its readings."""

    due_ms: int
    topic: str
    payload: bytes
    rows: int


def to_messages(
    station_id: str,
    gate_id: str,
    readings: pd.DataFrame | Iterable[pd.DataFrame],
    batch: timedelta = timedelta(hours=1),
    live_from: datetime | None = None,
    live_batch: timedelta = timedelta(minutes=1),
) -> Iterator[Message]:
    """Say what one gate reported: each component's readings of each ``batch`` of event time in one message.

    Parameters
    ----------
    readings : DataFrame, ``ts`` ascending and one column per channel, as `GateHistory.readings`; or such frames one after the
        other in order of time, which are asked for one at a time
    batch : event time a gateway collects before it publishes; zero publishes each reading alone
    live_from, live_batch : from this event time on (none: never) it collects only for so long

    Yields
    ------
    Message
        In the order of `due_ms`: a message is due when its last reading has happened. Values that were not measured are
        left out, a reading without any value is not sent, and no message has more than 60 000 bytes. ``seq`` counts on from
        frame to frame; no message reaches from one frame into the next.

    Examples
    --------
    >>> frame = pd.DataFrame({"ts": pd.to_datetime(["2026-03-01T08:15:00Z"]), "motor.current": [9.5], "leaf.head": [np.nan]})
    >>> [(m.topic, m.payload) for m in to_messages("S1", "G1", frame)]  # doctest: +NORMALIZE_WHITESPACE
    [('sluicewatch/v1/S1/G1/motor/telemetry',
      b'{"t":"2026-03-01T08:15:00.000Z","seq":1,"values":{"current":9.5}}')]
    """
    voices: dict[str, _Voice] = {}
    for chunk in [readings] if isinstance(readings, pd.DataFrame) else readings:
        ts_ms = chunk["ts"].dt.as_unit("ms").astype(np.int64).to_numpy()
        window = _windows(ts_ms, batch, live_from, live_batch)
        keys_of: dict[str, list[str]] = {}
        for key in chunk.columns.drop("ts"):
            keys_of.setdefault(key.partition(".")[0], []).append(key)
        streams = []
        for component, keys in keys_of.items():
            topic = f"{ROOT}/{station_id}/{gate_id}/{component}/telemetry"
            streams.append(voices.setdefault(component, _Voice(topic)).messages(ts_ms, chunk[keys], window))
        del chunk  # its columns are copied: of thousands of gates each may hold one chunk, not two
        yield from heapq.merge(*streams)


def _windows(ts_ms: Ints, batch: timedelta, live_from: datetime | None, live_batch: timedelta) -> Ints:
    """Number the window of event time that each reading is collected in; ascending."""
    windows = [ts_ms // (span // _MILLISECOND) if span else np.arange(len(ts_ms)) for span in (batch, live_batch)]
    if live_from is None:
        return windows[0]
    live = int(np.searchsorted(ts_ms, _epoch_ms(live_from)))
    # the live windows are numbered on after the others
    after = windows[0][live - 1] + 1 if live else 0
    return np.concatenate([windows[0][:live], windows[1][live:] - windows[1][live:][:1] + after])


class _Voice:
    """What one component of a gate says, and how many readings it has said so far."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._said = 0

    def messages(self, ts_ms: Ints, readings: pd.DataFrame, window: Ints) -> Iterator[Message]:
        names = [key.partition(".")[2] for key in readings.columns]
        values = readings.to_numpy()
        measured = np.isfinite(values)
        spoken = np.flatnonzero(measured.any(axis=1))
        if len(spoken) == 0:
            return
        ts_ms, values, whole = ts_ms[spoken], values[spoken], measured[spoken].all(axis=1)
        cuts = (np.flatnonzero(np.diff(window[spoken])) + 1).tolist()
        del readings, measured
        for first, stop in pairwise([0, *cuts, len(ts_ms)]):
            texts = np.datetime_as_string(ts_ms[first:stop].astype("datetime64[ms]")).tolist()
            items = [
                {
                    "t": f"{t}Z",
                    "seq": seq,
                    "values": dict(zip(names, row, strict=True))
                    if complete
                    else {name: value for name, value in zip(names, row, strict=True) if not isnan(value)},
                }
                for seq, (t, row, complete) in enumerate(
                    zip(texts, values[first:stop].tolist(), whole[first:stop].tolist(), strict=True), start=self._said + 1
                )
            ]
            self._said += len(items)
            yield from _pack(self._topic, ts_ms[first:stop].tolist(), items)


def _pack(topic: str, due_ms: list[int], items: list[dict[str, Any]]) -> Iterator[Message]:
    payload = _encode(items[0] if len(items) == 1 else {"readings": items})
    if len(payload) <= MAX_BYTES or len(items) == 1:
        yield Message(due_ms[-1], topic, payload, len(items))
        return
    half = len(items) // 2
    yield from _pack(topic, due_ms[:half], items[:half])
    yield from _pack(topic, due_ms[half:], items[half:])


def fleet_messages(
    fleet: Fleet,
    readings: Mapping[str, pd.DataFrame | Iterable[pd.DataFrame]],
    batch: timedelta = timedelta(hours=1),
    live_from: datetime | None = None,
    live_batch: timedelta = timedelta(minutes=1),
    bursts: Mapping[str, Iterable[tuple[str, Burst]]] | None = None,
) -> dict[str, Station]:
    """What each station's gateway has to say about the gates in ``readings`` (gate id -> frame, or frames in order of time).

    Ready for `FleetPublisher`. ``bursts`` are (component, burst) by gate in order of time; the other arguments are those of
    `to_messages`. A message is due when its last reading happened, whatever time a wrong clock has put into it.
    """
    streams: dict[str, dict[str, Iterator[Message]]] = {}
    for gate in fleet.gates:
        if gate.gate_id in readings:
            said = to_messages(gate.station_id, gate.gate_id, readings[gate.gate_id], batch, live_from, live_batch)
            if bursts and gate.gate_id in bursts:
                said = heapq.merge(said, burst_messages(gate.station_id, gate.gate_id, bursts[gate.gate_id]))
            if gate.clock_error_s:
                said = _by_true_time(said, round(1000 * gate.clock_error_s))
            streams.setdefault(gate.station_id, {})[gate.gate_id] = said
    return {station_id: Station(station_id, tuple(gates), heapq.merge(*gates.values())) for station_id, gates in streams.items()}


def burst_messages(station_id: str, gate_id: str, bursts: Iterable[tuple[str, Burst]]) -> Iterator[Message]:
    """One message for each burst of one gate, due at the burst's time."""
    for component, burst in bursts:
        yield Message(_epoch_ms(burst.t), f"{ROOT}/{station_id}/{gate_id}/{component}/waveform", encode_burst(burst), 1)


def _by_true_time(messages: Iterable[Message], clock_error_ms: int) -> Iterator[Message]:
    for message in messages:
        yield message._replace(due_ms=message.due_ms - clock_error_ms)


class Station(NamedTuple):
    """A gateway's station, its gates and what it has to say, in the order of `Message.due_ms`."""

    station_id: str
    gate_ids: tuple[str, ...]
    messages: Iterable[Message]


def status_topic(station_id: str, gate_id: str) -> str:
    """Topic of a gate's retained status."""
    return f"{ROOT}/{station_id}/{gate_id}/status"


class _Gateway:
    """One station's connection: what it says next, what the broker has not acknowledged yet."""

    def __init__(self, number: int, station: Station) -> None:
        self.number = number
        self.station = station
        self.messages = iter(station.messages)
        self.next: Message | None = next(self.messages, None)
        self.unacknowledged: dict[int, int] = {}
        self.statuses: set[int] = set()
        self.connected = False
        self.lined_up = False
        self.retry_s = FIRST_RETRY_S
        self.retry_at = 0.0
        # the session is kept, so that after a lost connection paho sends again what was not acknowledged
        self.client = Client(
            CallbackAPIVersion.VERSION2, client_id=station.station_id, clean_session=False, reconnect_on_failure=False
        )
        self.client.max_inflight_messages = 0  # our own bound is in `FleetPublisher`
        # MQTT has one will a connection: it speaks for the station's first gate
        self.client.will_set(status_topic(station.station_id, station.gate_ids[0]), OFFLINE, qos=1, retain=True)

    def say(self, status: bytes) -> None:
        """Publish the retained status of every gate of the station."""
        for gate_id in self.station.gate_ids:
            info = self.client.publish(status_topic(self.station.station_id, gate_id), status, qos=1, retain=True)
            self.statuses.add(info.mid)


class FleetPublisher:
    """The gateways of a fleet: one MQTT connection a station, all served by one thread.

    Messages go out in the order in which they are due across the fleet; a station whose connection is down, or which has
    ``max_unacknowledged`` messages in flight, waits without holding up the others. Nothing is lost over a broker restart:
    what was not acknowledged is sent again, and what was not sent yet waits. Status messages are not counted.

    A gateway asks for its messages one at a time, the first of each at once; the next when it has published the last.

    Parameters
    ----------
    stations : from `fleet_messages`
    max_unacknowledged : messages in flight per connection
    messages_per_s : most messages a second of all gateways together; unbounded unless told. Statuses, and what is sent again
        after a lost connection, come on top

    Raises
    ------
    BadInput
        ``messages_per_s`` is no number above 0.
    """

    def __init__(
        self, stations: Mapping[str, Station], max_unacknowledged: int = 200, messages_per_s: float | None = None
    ) -> None:
        if messages_per_s is not None and not 0 < messages_per_s < inf:
            raise BadInput(f"messages_per_s must be a number above 0; got {messages_per_s:g}")
        self.published = 0
        self.acknowledged = 0
        self.rows_published = 0
        self.rows_acknowledged = 0
        self._gateways = [_Gateway(number, station) for number, station in enumerate(stations.values())]
        self._max_unacknowledged = max_unacknowledged
        self._allowance = None if messages_per_s is None else _Allowance(messages_per_s, time.monotonic())
        self._without_link: dict[int, _Gateway] = {}
        self._retry_s, self._retry_at = FIRST_RETRY_S, 0.0
        self._selector = selectors.DefaultSelector()
        self._ready: list[tuple[int, int]] = []
        self._until_ms = -1
        self._error: Exception | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._wake_us, self._wake = socket.socketpair()
        self._wake_us.setblocking(False)
        self._selector.register(self._wake_us, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="simulated-gateways", daemon=True)

    def connect(self, url: str, timeout: float = 15.0) -> None:
        """Connect every gateway to ``mqtt://[user:password@]host[:port]`` and say that its gates are online.

        Raises
        ------
        PublishError
            The URL is wrong, the broker cannot be reached, refuses a gateway or does not answer in ``timeout`` seconds; or
            this process may not have so many connections.
        """
        host, port, user, password = _address(url)
        allow_connections(len(self._gateways))
        for gateway in self._gateways:
            if user is not None:
                gateway.client.username_pw_set(user, password)
            self._wire(gateway)
            try:
                gateway.client.connect(host, port, KEEPALIVE_S)
            except OSError as error:
                raise PublishError(f"mqtt: no broker can be reached at {host}:{port}: {error}") from error
        self._thread.start()
        if not self._await(lambda: all(gateway.connected for gateway in self._gateways), timeout):
            raise PublishError(f"mqtt: the broker at {host}:{port} did not accept every gateway within {timeout:g} s")

    def publish_until(self, event_time: datetime, timeout: float | None = None) -> bool:
        """Publish everything that is due at ``event_time``; return when all of it was handed to the connections.

        Returns False when ``timeout`` seconds did not suffice (the rest goes on in the background).
        """
        until_ms = _epoch_ms(event_time)
        with self._changed:
            self._until_ms = max(self._until_ms, until_ms)
        self._wake.send(b".")
        return self._await(lambda: self._next_ms() > until_ms, timeout)

    def wait_acknowledged(self, timeout: float | None = None) -> bool:
        """Wait until the broker has acknowledged everything published; False when it has not within ``timeout`` seconds."""
        return self._await(lambda: self.acknowledged == self.published, timeout)

    @property
    def next_event(self) -> datetime | None:
        """Event time of the first message not yet published; none when all has been said."""
        next_ms = self._next_ms()
        return None if next_ms == _NEVER else _EPOCH + next_ms * _MILLISECOND

    def close(self) -> None:
        """Say that the gates are offline, disconnect and end the thread; what is not acknowledged by then stays so."""
        with self._changed:
            self._closing = True
        if self._thread.is_alive():
            self._wake.send(b".")
            self._thread.join(CLOSE_S + 1.0)
        self._selector.close()
        self._wake.close()
        self._wake_us.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _next_ms(self) -> int:
        # each is looked at once: the thread may be exchanging it
        return min((message.due_ms for gateway in self._gateways if (message := gateway.next) is not None), default=_NEVER)

    def _await(self, reached: Any, timeout: float | None) -> bool:
        with self._changed:
            done = self._changed.wait_for(lambda: self._error is not None or reached(), timeout)
            if self._error is not None:
                raise self._error
            return bool(done)

    # Everything below runs in the thread; paho's clients are touched by no other once it has started.

    def _wire(self, gateway: _Gateway) -> None:
        selector, client = self._selector, gateway.client

        def opened(_client: Client, _data: Any, link: Any) -> None:
            selector.register(link, selectors.EVENT_READ, gateway)
            self._without_link.pop(gateway.number, None)

        def closed(_client: Client, _data: Any, link: Any) -> None:
            selector.unregister(link)
            self._without_link[gateway.number] = gateway

        def wants_to_write(_client: Client, _data: Any, link: Any) -> None:
            selector.modify(link, selectors.EVENT_READ | selectors.EVENT_WRITE, gateway)

        def has_written(_client: Client, _data: Any, link: Any) -> None:
            selector.modify(link, selectors.EVENT_READ, gateway)

        def connected(_c: Client, _d: Any, _f: ConnectFlags, reason: ReasonCode, _p: Properties | None) -> None:
            if reason.is_failure:
                raise PublishError(f"mqtt: the broker refuses {gateway.station.station_id!r}: {reason}")
            gateway.connected, gateway.retry_s = True, FIRST_RETRY_S
            gateway.say(ONLINE)
            self._line_up(gateway)

        def disconnected(_c: Client, _d: Any, _f: DisconnectFlags, _r: ReasonCode, _p: Properties | None) -> None:
            gateway.connected, gateway.retry_at = False, time.monotonic() + gateway.retry_s

        def acknowledged(_client: Client, _data: Any, mid: int, _reason: ReasonCode, _properties: Properties) -> None:
            gateway.statuses.discard(mid)
            rows = gateway.unacknowledged.pop(mid, None)
            if rows is not None:
                self.acknowledged += 1
                self.rows_acknowledged += rows
                self._line_up(gateway)

        client.on_socket_open, client.on_socket_close = opened, closed
        client.on_socket_register_write, client.on_socket_unregister_write = wants_to_write, has_written
        client.on_connect, client.on_disconnect, client.on_publish = connected, disconnected, acknowledged

    def _line_up(self, gateway: _Gateway) -> None:
        """Put the gateway in the queue of those that may publish, by when it says its next is due."""
        room = len(gateway.unacknowledged) < self._max_unacknowledged
        if gateway.connected and not gateway.lined_up and room and gateway.next is not None:
            gateway.lined_up = True
            heapq.heappush(self._ready, (gateway.next.due_ms, gateway.number))

    def _serve(self) -> None:
        try:
            misc_at = tell_at = 0.0
            while not self._closing:
                self._turn(self._publish_some())
                now = time.monotonic()
                if now >= tell_at:
                    tell_at = now + TELL_EVERY_S
                    with self._changed:
                        self._changed.notify_all()
                if now >= misc_at:
                    misc_at = now + MISC_EVERY_S
                    for gateway in self._gateways:
                        gateway.client.loop_misc()
                self._reconnect()
            self._say_goodbye()
        except Exception as error:
            if not isinstance(error, PublishError):
                log.exception("the simulated gateways have stopped")
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _publish_some(self) -> float:
        """Publish what is due and allowed, for a moment; return for how many seconds there is nothing more to publish."""
        began = time.monotonic()
        for _ in range(MESSAGES_PER_TURN):
            if not self._ready or self._ready[0][0] > self._until_ms:
                return IDLE_S
            now = time.monotonic()
            if now - began > TURN_S:
                return 0.0
            if self._allowance is not None and (wait_s := self._allowance.wait_s(now)) > 0:
                return min(wait_s, IDLE_S)
            gateway = self._gateways[heapq.heappop(self._ready)[1]]
            gateway.lined_up = False
            message = gateway.next
            if message is None or not gateway.connected:
                continue
            info = gateway.client.publish(message.topic, message.payload, qos=1)
            gateway.unacknowledged[info.mid] = message.rows
            self.published += 1
            self.rows_published += message.rows
            if self._allowance is not None:
                self._allowance.spend()
            gateway.next = next(gateway.messages, None)
            self._line_up(gateway)
        return 0.0

    def _turn(self, wait_s: float) -> None:
        for key, events in self._selector.select(wait_s):
            gateway = key.data
            if gateway is None:
                self._wake_us.recv(4096)
                continue
            if events & selectors.EVENT_WRITE:
                gateway.client.loop_write()
            if events & selectors.EVENT_READ and gateway.client.socket() is not None:
                gateway.client.loop_read()

    def _reconnect(self) -> None:
        now = time.monotonic()
        if not self._without_link or now < self._retry_at:
            return
        ripe = [gateway for gateway in self._without_link.values() if now >= gateway.retry_at]
        for gateway in ripe[:RECONNECTS_PER_TURN]:
            gateway.retry_s = min(2 * gateway.retry_s, LONGEST_RETRY_S)
            gateway.retry_at = now + gateway.retry_s
            try:
                gateway.client.reconnect()
            except OSError as error:
                # there is one broker: what one gateway cannot reach, the others need not try now
                self._retry_s = min(2 * self._retry_s, LONGEST_RETRY_S)
                self._retry_at = now + self._retry_s
                log.info("%s cannot reach the broker yet: %s", gateway.station.station_id, error)
                return
            self._retry_s = FIRST_RETRY_S

    def _say_goodbye(self) -> None:
        deadline = time.monotonic() + CLOSE_S
        connected = [gateway for gateway in self._gateways if gateway.connected]
        for gateway in connected:
            gateway.say(OFFLINE)
        # closing while the broker still answers would reset the connection and with it what it has not read yet
        while time.monotonic() < deadline and any(gateway.connected and gateway.statuses for gateway in connected):
            self._turn(0.1)
        for gateway in connected:
            gateway.client.disconnect()
        while time.monotonic() < deadline and any(gateway.client.socket() is not None for gateway in connected):
            self._turn(0.1)


def replay(publisher: FleetPublisher, start: datetime, end: datetime, speed: float, stop: threading.Event) -> None:
    """Publish on event time from ``start`` to ``end``, ``speed`` seconds of it a second, until ``stop`` is set.

    What was due before ``start`` goes out at once. When the broker or a bounded rate does not keep up, what is due waits in the
    gateways and goes out late; at the end all of it is waited for.
    """
    event_time, told_at = start, time.monotonic()
    while publisher.publish_until(event_time, timeout=1.0) is False or event_time < end:
        if stop.wait(0.1):
            return
        now = time.monotonic()
        event_time, told_at = min(end, event_time + timedelta(seconds=speed * (now - told_at))), now


class _Allowance:
    """A token bucket: how many messages may go out now.

    Examples
    --------
    >>> allowance = _Allowance(per_s=10.0, now=0.0)
    >>> allowance.spend()
    >>> allowance.wait_s(now=0.0), allowance.wait_s(now=0.1)
    (0.1, 0.0)
    """

    def __init__(self, per_s: float, now: float) -> None:
        self._per_s = per_s
        self._most = max(1.0, per_s * BURST_S)
        self._left = 1.0
        self._at = now

    def wait_s(self, now: float) -> float:
        """Seconds until the next message may go; 0 when it may go now."""
        self._left = min(self._most, self._left + (now - self._at) * self._per_s)
        self._at = now
        return max(0.0, (1.0 - self._left) / self._per_s)

    def spend(self) -> None:
        """Count a message that has gone."""
        self._left -= 1.0


def allow_connections(connections: int) -> None:
    """Raise this process's soft limit of open files, which its children inherit, to what so many connections need.

    Raises
    ------
    PublishError
        The hard limit is lower.
    """
    if sys.platform == "win32":  # it has no such limit
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + OTHER_FILES
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise PublishError(
            f"mqtt: {connections} stations need {needed} open files; the hard limit of this process is {hard} (ulimit -Hn). "
            "Raise it, or simulate fewer stations"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _epoch_ms(instant: datetime) -> int:
    return (instant - _EPOCH) // _MILLISECOND


def _address(url: str) -> tuple[str, int, str | None, str | None]:
    parts = urlsplit(url)
    try:
        port = parts.port or 1883
    except ValueError:
        port = -1
    if parts.scheme != "mqtt" or not parts.hostname or port < 0 or parts.path not in ("", "/"):
        raise PublishError(f"mqtt: the URL must be mqtt://[user:password@]host[:port]; got {url!r}")
    user = None if parts.username is None else unquote(parts.username)
    return parts.hostname, port, user, None if parts.password is None else unquote(parts.password)
