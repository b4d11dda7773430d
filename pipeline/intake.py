"""Intake: a batch of messages becomes readings, channels, tallies and quarantine rows, in one transaction.

What is written does not depend on the order or the repetition of messages, unless a device that floods us is held back. It knows
no broker: `ingest` hands it what came by MQTT, and a message kept in quarantine can be handed in again the same way.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from pipeline import cut_days, historian
from pipeline.adapters import Decoded, Gate, Message
from pipeline.adapters.dialects import NATIVE, Dialects
from pipeline.historian import to_ms
from pipeline.readings import DAY_MS, Channel, Reading, ReadingError
from pipeline.spectra import Machine

log = logging.getLogger(__name__)

NO_EARLIER_MS = 1_420_070_400_000
"""2015-01-01: a gate without a commissioning date has not spoken before."""
RESET_CLOCK_MS = 31_536_000_000
"""1971-01-01: a time before it comes from a clock that lost its battery, however old the gate."""
LATE_MS = 3_600_000
"""A message whose newest reading is this much older than its gate's newest counts as late; it is stored all the same."""
CHANNELS_PER_GATE = 512
"""A device that makes up names must not fill the historian with channels."""
MOST_DISCOVERED = 10_000
"""A fleet of so many gates takes in no more by itself: a device that makes up gates must not fill the historian with them."""
DETAIL_CHARACTERS = 2_000


class Place(NamedTuple):
    """Where the values of one component go; components that are alike share all but their series."""

    series_ids: tuple[int, ...]
    widths: tuple[int, ...]  # how many slots of each series are in use
    layout: Mapping[str, tuple[int, int]]  # channel name -> which of the series, which slot
    units: Mapping[str, str]


_NOWHERE = Place((), (), {}, {})
_UNKNOWN_MACHINE = Machine()


class Registry:
    """The registered gates and declared channels, kept in memory; an `adapters.Fleet` that also knows the slots."""

    def __init__(self, *, allow_discovery: bool = False, most_a_minute: int = 0) -> None:
        self.allow_discovery = allow_discovery
        """Whether devices may declare their channels, and a gate nobody knows, by themselves."""
        self.most_a_minute = most_a_minute
        """How many readings of a component may fall into one minute of its own time; 0: any number."""
        self.newest_ms: dict[str, int] = {}
        """The newest event time of each gate."""
        self._gates: dict[str, Gate] = {}
        self._places: dict[str, dict[str, Place]] = {}
        self._machines: dict[tuple[str, str], Machine] = {}
        self._alike: dict[Any, tuple[tuple[int, ...], Mapping[str, tuple[int, int]], Mapping[str, str]]] = {}
        self._minutes: dict[tuple[str, str], tuple[int, int]] = {}  # the minute each component is in, and its readings so far
        self._loaded_at = float("-inf")
        self._load_s = 0.0
        self._changes = 0  # as of what we hold

    def gate(self, gate_id: str) -> Gate | None:
        """Return the registered gate, or None."""
        return self._gates.get(gate_id)

    def units(self, gate_id: str, component: str) -> Mapping[str, str]:
        """Return the declared unit of each channel of the component, by the channel's name within it."""
        return self.place(gate_id, component).units

    def machine(self, gate_id: str, component: str) -> Machine:
        """Return what is known of the component's bearing and gear."""
        return self._machines.get((gate_id, component), _UNKNOWN_MACHINE)

    def place(self, gate_id: str, component: str) -> Place:
        """Return where the component's values go."""
        try:
            return self._places[gate_id][component]
        except KeyError:
            return _NOWHERE

    def gate_count(self) -> int:
        """Return how many gates are registered."""
        return len(self._gates)

    def channel_count(self, gate_id: str) -> int:
        """Return how many channels the gate has."""
        return sum(len(place.layout) for place in self._places.get(gate_id, {}).values())

    def join(self, gate_id: str, station_id: str) -> None:
        """Know a gate that has just been registered."""
        self._gates[gate_id] = Gate(gate_id, station_id, since_ms(None))

    def forget(self) -> None:
        """Read everything anew before the next batch: what a failed transaction taught us was never stored."""
        self._loaded_at = float("-inf")
        self._minutes.clear()

    def takes(self, reading: Reading) -> bool:
        """Count a reading; False where its component has told enough in this minute of its own time.

        A backlog is as dense as it was measured, however fast it comes; a device gone mad is not.
        """
        component, minute = (reading.gate_id, reading.component), reading.ts_ms // 60_000
        at, told = self._minutes.get(component, (minute, 0))
        told = told + 1 if at == minute else 1
        self._minutes[component] = (minute, told)
        return told <= self.most_a_minute

    def keep_fresh(self, connection: Connection) -> None:
        """Read everything anew when it has changed, and hourly for what was changed by hand; for 2 % of the time at most."""
        changes, age_s = historian.fleet_changes(connection), time.monotonic() - self._loaded_at
        if (changes == self._changes and age_s < 3600) or age_s < 50 * self._load_s:
            return
        started = time.monotonic()
        self._load_gates(connection)
        self._places = {}
        self.load_channels(connection)
        self._loaded_at = time.monotonic()
        self._load_s = self._loaded_at - started
        self._changes = changes

    def _load_gates(self, connection: Connection) -> None:
        gates = historian.gates.c
        query = sa.select(gates.gate_id, gates.station_id, gates.commissioned_on, gates.last_seen_ms)
        self._gates, self.newest_ms, self._machines = {}, {}, {}
        for gate_id, station_id, commissioned_on, last_seen_ms in connection.execute(query):
            self._gates[gate_id] = Gate(gate_id, station_id, since_ms(commissioned_on))
            if last_seen_ms is not None:
                self.newest_ms[gate_id] = last_seen_ms

        turning = sa.select(historian.components).where(historian.components.c.speed_rpm.is_not(None))
        for row in connection.execute(turning).mappings():
            known = {name: math.nan if value is None else value for name, value in row.items()}
            self._machines[row["gate_id"], row["component"]] = Machine.of(known)

    def load_channels(self, connection: Connection, gate_ids: Collection[str] | None = None) -> None:
        """Read the channels anew, of some gates or of all."""
        channels = historian.channels.c
        query = sa.select(
            channels.gate_id,
            channels.component,
            channels.point,
            channels.quantity,
            channels.unit,
            channels.series_id,
            channels.slot,
        ).order_by(channels.gate_id, channels.component, channels.series_id, channels.slot)
        if gate_ids is not None:
            query = query.where(channels.gate_id.in_(gate_ids))
        for (gate_id, component), rows in groupby(connection.execute(query), key=lambda row: (row[0], row[1])):
            self._places.setdefault(gate_id, {})[component] = self._place(rows)

    def _place(self, rows: Iterable[Any]) -> Place:
        series_ids: dict[int, int] = {}
        shape = tuple(
            (
                f"{point}.{quantity}" if point else quantity,
                series_ids.setdefault(series_id, len(series_ids)),
                slot,
                unit,
            )
            for _, _, point, quantity, unit, series_id, slot in rows
        )
        if shape not in self._alike:
            self._alike[shape] = (
                tuple(1 + max(slot for _, which, slot, _ in shape if which == series) for series in range(len(series_ids))),
                {name: (which, slot) for name, which, slot, _ in shape},
                {name: unit for name, _, _, unit in shape},
            )
        return Place(tuple(series_ids), *self._alike[shape])


def since_ms(commissioned_on: str | None) -> int:
    """Return when a gate can first have spoken; a date that cannot be read counts as none, and must not stop the others."""
    try:
        since = date.fromisoformat((commissioned_on or "")[:10])
    except ValueError:
        return NO_EARLIER_MS
    return max((since - date(1970, 1, 1)).days * DAY_MS, RESET_CLOCK_MS)


@dataclass(slots=True)
class Stored:
    """What one batch came to.

    `ok`, `late` and `quarantined` count each message of ours once. `with_readings` are those that held a usable reading;
    a status holds none, and of a message in quarantine a part may have been usable. `refused` counts those by their reason,
    `bursts` are raw vibration bursts, which the caller may keep, and where; `sequence` is what publishers counted, by
    topic, in the order of arrival.
    """

    ok: int = 0
    late: int = 0
    quarantined: int = 0
    with_readings: int = 0
    readings: int = 0
    conflicts: int = 0
    newest_ms: int | None = None
    bursts: list[tuple[PurePosixPath, bytes]] = field(default_factory=list)
    sequence: list[tuple[str, int]] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    last_refusal: str = ""


# What may be mended by a message of the same batch in which the gate introduces itself.
_DOUBTFUL = frozenset({"unknown_gate", "identity_mismatch", "unit_missing", "clock_fault"})

_Rows = dict[int, dict[int, list[float]]]  # series -> instant -> cells, NaN where nothing was measured


def store_messages(
    connection: Connection, registry: Registry, messages: Sequence[Message], now: datetime, dialects: Dialects = NATIVE
) -> Stored:
    """Decode messages and write all that follows from them; the caller commits.

    Parameters
    ----------
    connection : Connection
        In a transaction begun by `historian.writing`.
    registry : Registry
        The caller calls its `forget` when the transaction fails.
    messages : sequence of Message
    now : datetime
        The present, aware UTC.
    dialects : Dialects
        Their `receive` has seen the messages; decoding is repeated where a gate has just introduced itself.
    """
    registry.keep_fresh(connection)
    decoded = [_decode(message, registry, to_ms(now), dialects) for message in messages]
    if _discover(connection, registry, decoded):
        decoded = [
            _decode(message, registry, to_ms(now), dialects) if found.joins is None and _is_doubtful(found) else found
            for message, found in zip(messages, decoded, strict=True)
        ]
    _learn(connection, registry, decoded)
    if registry.most_a_minute:
        decoded = [_hold_back(registry, found) for found in decoded]

    stored = Stored()
    rows: _Rows = {}
    days: set[tuple[str, int]] = set()
    newest: dict[str, int] = {}
    connected: dict[str, str] = {}
    refused: list[dict[str, Any]] = []
    for message, found in zip(messages, decoded, strict=True):
        late = bool(found.readings)
        for reading in found.readings:
            gate_id, ts_ms = reading.gate_id, reading.ts_ms
            stored.conflicts += _merge(rows, registry.place(gate_id, reading.component), ts_ms, reading.values)
            days.add((gate_id, ts_ms - ts_ms % DAY_MS))
            if ts_ms > newest.get(gate_id, 0):
                newest[gate_id] = ts_ms
            if late and ts_ms >= registry.newest_ms.get(gate_id, 0) - LATE_MS:
                late = False
        connected |= found.connected
        if found.seq is not None:
            stored.sequence.append((message.topic, found.seq))
        for gate_id, ts_ms in found.seen.items():
            newest[gate_id] = max(ts_ms, newest.get(gate_id, 0))
        if found.burst is not None:
            stored.bursts.append((found.burst, message.payload))
        stored.readings += len(found.readings)
        stored.with_readings += bool(found.readings)
        if found.refusals:
            refused.append(_quarantine_row(message, found.refusals, now, used=len(found.readings)))
        elif late:
            stored.late += 1
        elif found.ours:
            stored.ok += 1
    stored.quarantined = len(refused)
    stored.refused.update(row["reason"] for row in refused)
    stored.newest_ms = max(newest.values(), default=None)
    if refused:
        stored.last_refusal = _told(refused[-1])

    in_key_order = [
        (series_id, ts_ms, *cells) for series_id, instants in sorted(rows.items()) for ts_ms, cells in sorted(instants.items())
    ]
    stored.conflicts += historian.store_readings(connection, in_key_order)
    cut_days.mark_dirty(connection, days)
    historian.mark_seen(connection, newest)
    historian.mark_connected(connection, connected, now)
    historian.put_in_quarantine(connection, refused)
    _tally(connection, stored)
    for gate_id, ts_ms in newest.items():
        registry.newest_ms[gate_id] = max(ts_ms, registry.newest_ms.get(gate_id, 0))
    return stored


def put_aside(connection: Connection, messages: Sequence[Message], refusal: ReadingError, now: datetime) -> Stored:
    """Put whole messages into quarantine for one reason; the caller commits."""
    rows = [_quarantine_row(message, [refusal], now) for message in messages]
    historian.put_in_quarantine(connection, rows)
    stored = Stored(quarantined=len(rows), refused=Counter([refusal.reason] * len(rows)), last_refusal=_told(rows[-1]))
    _tally(connection, stored)
    return stored


@dataclass(slots=True)
class Retried:
    """What became of messages that were judged again.

    `stored` are used up and gone from quarantine; `refused` counts the others by their reason, which may be a new one.
    """

    stored: int = 0
    refused: Counter[str] = field(default_factory=Counter)


def retry(connection: Connection, rows: Sequence[Any], dialects: Dialects = NATIVE) -> Retried:
    """Judge quarantined messages again, as of the time each came; the caller commits.

    What can be used now is stored, as if it had been usable then, and its row goes; for any other a row with what is wrong
    with it now takes the place of the old one. A message that was kept only in part, and one that the broker had retained,
    can never be used and stays.

    Parameters
    ----------
    rows : rows of `historian.quarantine`, oldest first
    dialects : they have a memory of their own: what a message leans on must be among the rows
    """
    retried = Retried(refused=Counter(row.reason for row in rows if not _can_be_retried(row)))
    again = [row for row in rows if _can_be_retried(row)]
    table, registry = historian.quarantine, Registry()
    connection.execute(sa.delete(table).where(table.c.quarantine_id.in_([row.quarantine_id for row in again])))
    for received_at, at_once in groupby(again, key=lambda row: row.received_at):
        messages = dialects.receive([Message(row.topic, row.payload) for row in at_once])
        stored = store_messages(connection, registry, messages, received_at, dialects)
        retried.stored += len(messages) - stored.quarantined
        retried.refused.update(stored.refused)
    # each was counted when it came, and so was what was good of it
    historian.tally(connection, "messages_quarantined", -len(again))
    historian.tally(connection, "messages_stored", -sum(row.used > 0 for row in again))
    historian.tally(connection, "readings_received", -sum(row.used for row in again))
    for reason, n in Counter(row.reason for row in again).items():
        historian.tally(connection, historian.refused(reason), -n)
    return retried


def _can_be_retried(row: Any) -> bool:
    return row.reason != "retained" and len(row.payload) < historian.QUARANTINE_PAYLOAD_BYTES


def _is_doubtful(found: Decoded) -> bool:
    return any(refusal.reason in _DOUBTFUL for refusal in found.refusals)


def _discover(connection: Connection, registry: Registry, decoded: list[Decoded]) -> bool:
    """Register the gates that introduced themselves, where that is allowed; their channels are declared with all others."""
    discovered = False
    for index, found in enumerate(decoded):
        if found.joins is None:
            continue
        if not registry.allow_discovery:
            detail = "devices may not register here: `ingest --allow-discovery` allows it, or import the fleet"
            decoded[index] = Decoded(refusals=[ReadingError("discovery_off", detail)])
            continue
        if found.joins and registry.gate_count() + len(found.joins) > MOST_DISCOVERED:
            detail = f"a fleet of {MOST_DISCOVERED} gates takes in no more by discovery: import those that are yours"
            decoded[index] = Decoded(refusals=[ReadingError("too_many_gates", detail)])
            continue
        for gate_id, station_id in found.joins.items():
            historian.register_gate(connection, gate_id, station_id)
            registry.join(gate_id, station_id)
            log.info("gate %s of station %s introduced itself", gate_id, station_id)
        _learn(connection, registry, decoded, only=index)
        discovered = True
    return discovered


def _decode(message: Message, registry: Registry, now_ms: int, dialects: Dialects) -> Decoded:
    try:
        return dialects.decode(message, registry, now_ms)
    except Exception as error:  # outermost for one message: a fault of ours must not stop those behind it
        log.exception("cannot decode a message on %s", message.topic)
        return Decoded(refusals=[ReadingError("internal_error", f"{type(error).__name__}: {error}")])


def _learn(connection: Connection, registry: Registry, decoded: list[Decoded], only: int | None = None) -> None:
    """Declare the channels that came with a unit and were not known; refuse a message that goes beyond its gate's limit."""
    wanted: dict[str, dict[str, Channel]] = {}
    for index, found in enumerate(decoded):
        if (found.joins is not None) != (index == only):
            continue  # what was discovered is declared before the others are decoded
        for channel in found.channels:
            of_gate = wanted.setdefault(channel.gate_id, {})
            if len(of_gate) + registry.channel_count(channel.gate_id) >= CHANNELS_PER_GATE and channel.key not in of_gate:
                detail = f"a gate may have {CHANNELS_PER_GATE} channels; {channel.key} would be one more"
                decoded[index] = Decoded(refusals=[ReadingError("too_many_channels", detail)])
                break
            of_gate.setdefault(channel.key, channel)
    if wanted:
        historian.declare_channels(connection, [channel for of_gate in wanted.values() for channel in of_gate.values()])
        registry.load_channels(connection, wanted)


def _hold_back(registry: Registry, found: Decoded) -> Decoded:
    """What a message may tell: a device that floods us is refused what goes beyond its limit."""
    kept = [reading for reading in found.readings if registry.takes(reading)]
    if len(kept) == len(found.readings):
        return found
    detail = (
        f"a component may tell {registry.most_a_minute} readings in one minute of its own time (`ingest --most-a-minute`); "
        f"{len(found.readings) - len(kept)} of {len(found.readings)} are beyond it. Vibration as it is sampled belongs in bursts"
    )
    return found._replace(readings=kept, refusals=[*found.refusals, ReadingError("flooding", detail)])


def _merge(rows: _Rows, place: Place, ts_ms: int, values: Mapping[str, float]) -> int:
    """Put values into their wide rows; of two different ones the greater stays. Return how often that happened."""
    conflicts = 0
    at = -1
    cells: list[float] = []
    for name, value in values.items():
        which, slot = place.layout[name]
        if which != at:  # once only, but for a component of more than 16 channels
            at = which
            cells = rows.setdefault(place.series_ids[at], {}).setdefault(ts_ms, [])
            if not cells:
                cells.extend([math.nan] * place.widths[at])
        old = cells[slot]
        if math.isnan(old):
            cells[slot] = value
        elif old != value:
            conflicts += 1
            cells[slot] = max(old, value)
    return conflicts


def _quarantine_row(message: Message, refusals: Sequence[ReadingError], now: datetime, used: int = 0) -> dict[str, Any]:
    return {
        "received_at": now,
        "topic": _printable(message.topic),
        "payload": message.payload,
        "reason": refusals[0].reason,
        "detail": _printable("; ".join(str(refusal) for refusal in refusals)[:DETAIL_CHARACTERS]),
        "used": used,
    }


def _told(row: Mapping[str, Any]) -> str:
    return f"{row['topic']}: {row['reason']}: {row['detail']}"


def _printable(text: str) -> str:
    """Return the text with what no terminal or database should meet written out: control characters and lone surrogates."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _tally(connection: Connection, stored: Stored) -> None:
    counts = {
        "messages_stored": stored.with_readings,
        "messages_quarantined": stored.quarantined,
        "messages_late": stored.late,
        "readings_received": stored.readings,
        "values_in_conflict": stored.conflicts,
    }
    counts |= {historian.refused(reason): n for reason, n in stored.refused.items()}
    for name, n in counts.items():
        if n:
            historian.tally(connection, name, n)
