"""A live check of one gate: what arrives, what is missing, what looks wrong, and how to mend each. No network, no clock.

Every message is decoded by the adapters, as ingest decodes it; what they refuse is told in their words. On top of it stands
what only a person at the device can judge: a value that is possible and yet looks like another unit, a clock that stands
still, two devices under one name. It stores nothing and needs no database.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from pipeline.adapters import Decoded, Gate, Message
from pipeline.adapters.checks import utc
from pipeline.adapters.dialects import Dialects
from pipeline.adapters.mapping import DeviceMap
from pipeline.readings import Channel, Reading, ReadingError, find_conversion, find_quantity, split_name
from pipeline.spectra import Machine

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
REMEMBERED = 1_000
"""How many instants of a channel, and how many strangers, are kept in memory."""

USUAL: Mapping[str, tuple[float, float]] = {
    "velocity_rms": (0.005, 100.0),
    "acceleration_rms": (0.0001, 50.0),
    "acceleration_peak": (0.0001, 200.0),
    "temperature": (-40.0, 150.0),
    "ambient_temperature": (-40.0, 55.0),
    "current": (0.0, 2_000.0),
    "opening": (-2.0, 60.0),
    "head": (-10.0, 300.0),
    "load": (0.0, 3.0),
    "oil_pressure": (-1.0, 400.0),
}
"""Between what a sensor's own noise shows and what a hoist hardly ever does, in canonical units; limits of the usual, not of
the possible. A value outside them that another unit would bring inside looks like that unit."""

MENDS: Mapping[str, str] = {
    "retained": "publish without the retain flag, and clear the kept copy: mosquitto_pub -r -n -t TOPIC",
    "clock_fault": "let the device take its time from NTP and send UTC with a Z at the end",
    "unknown_alias": "restart the edge node while this check runs, so that its births are heard",
    "identity_mismatch": "publish under the gate's own station, or give the device to this publisher in the mapping file",
    "unknown_device": "add the device to `gates` of its [[publisher]] in the mapping file",
    "oversize": "send fewer readings in one message",
    "unknown_quantity": "rename the value, or leave it out",
    "wrong_unit": "send one of the units allowed, or convert on the device",
    "out_of_range": "mend the unit, or the scale of the sensor",
    "not_finite": "leave out a value that was not measured",
    "wrong_topic": "mend the topic; docs/guides has one to copy",
    "not_json": "send JSON; docs/guides has a message to copy",
    "wrong_shape": "docs/guides has a message to copy",
}
"""How to mend what an adapter refuses, where its own line does not say it."""


class Declared(NamedTuple):
    """What a database or a dataset says of the gate; `registered` is None where nobody was asked."""

    registered: bool | None = None
    station_id: str = ""
    since_ms: int = 1_420_070_400_000  # 2015, as ingest takes it for a gate without a commissioning date
    channels: tuple[Channel, ...] = ()
    machines: Mapping[str, Machine] = MappingProxyType({})


class Finding(NamedTuple):
    """One line of the report. `missing` and `wrong` want mending; a `note` is worth knowing."""

    kind: Literal["missing", "wrong", "note"]
    text: str
    mend: str = ""


@dataclass(slots=True)
class Arriving:
    """A channel that was heard: its newest value, in the canonical unit, and the instants it was of."""

    channel: str
    unit: str
    sent_in: str
    newest_ms: int
    newest: float
    least: float
    most: float
    readings: int = 0
    conflicts: int = 0
    speakers: set[str] = field(default_factory=set)
    values: dict[int, float] = field(default_factory=dict)

    @property
    def every_s(self) -> float | None:
        """How long it is from one reading to the next, by their own times; None for fewer than two."""
        if len(self.values) < 2:
            return None
        return (max(self.values) - min(self.values)) / 1000 / (len(self.values) - 1)


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found. `verdict`: ``well``, ``wrong``, or ``nothing`` where no message of the gate came."""

    gate_id: str
    messages: int
    arriving: tuple[Arriving, ...]
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Literal["well", "wrong", "nothing"]:
        """The exit code in a word."""
        if not self.messages:
            return "nothing"
        return "wrong" if any(finding.kind != "note" for finding in self.findings) else "well"


@dataclass(slots=True)
class _Source:
    """What one topic of the gate did."""

    messages: int = 0
    unpromised: int = 0
    untimed: int = 0
    least_lag_ms: int | None = None
    newest_ms: int | None = None
    standing: int = 0
    seq: int | None = None
    lost: int = 0
    steps_back: int = 0


class _OneGate:
    """A fleet (`pipeline.adapters.Fleet`) of the gate that is checked; what was heard with its unit is declared by that."""

    def __init__(self, gate_id: str, declared: Declared) -> None:
        self._gate = Gate(gate_id, declared.station_id, declared.since_ms)
        self._machines = declared.machines
        self._units: dict[str, dict[str, str]] = {}
        self.learn(declared.channels)

    def gate(self, gate_id: str) -> Gate | None:
        return self._gate if gate_id == self._gate.gate_id else None

    def units(self, gate_id: str, component: str) -> Mapping[str, str]:
        return self._units.get(component, {}) if gate_id == self._gate.gate_id else {}

    def machine(self, gate_id: str, component: str) -> Machine:
        return self._machines.get(component, Machine())

    def learn(self, channels: Any) -> None:
        for channel in channels:
            self._units.setdefault(channel.component, {}).setdefault(channel.name, channel.unit)

    def move_to(self, station_id: str) -> None:
        self._gate = Gate(self._gate.gate_id, station_id, self._gate.since_ms)


class Watch:
    """Listens to everything a broker has and remembers what concerns one gate.

    Parameters
    ----------
    gate_id : str
    device_map : DeviceMap
        Empty without a mapping file.
    declared : Declared
    """

    def __init__(self, gate_id: str, device_map: DeviceMap, declared: Declared) -> None:
        self._gate_id, self._declared = gate_id, declared
        self._dialects = Dialects(device_map)
        self._mapped = device_map.speakers_for(gate_id)
        self._foreign = device_map.dialects
        self._fleet = _OneGate(gate_id, declared)
        self._messages = 0
        self._arriving: dict[str, Arriving] = {}
        self._sources: dict[str, _Source] = {}
        self._refused: dict[str, tuple[ReadingError, str, int]] = {}
        self._stations: set[str] = set()
        self._strays: dict[str, None] = {}
        self._alike: set[str] = set()
        self._strangers: Counter[tuple[str, str]] = Counter()
        self._introduced: dict[str, Channel] = {}
        self._status = ""
        self._went_offline = 0

    @property
    def filters(self) -> tuple[str, ...]:
        """What to subscribe to: all dialects, mapped or not, so that a wrong name is found under the name it came by."""
        return self._dialects.filters + self._dialects.unwanted

    def take(self, message: Message, qos: int, now_ms: int) -> None:
        """Judge one message; call it in the order of arrival, with the time of arrival."""
        dialect, publisher = _speaker(message.topic)
        if dialect == "native" and not self._is_ours(message.topic):
            return
        if dialect != "native" and (dialect, publisher) not in self._mapped:
            if len(self._strangers) < REMEMBERED:
                self._strangers[dialect, publisher] += 1
            return
        for passed in self._dialects.receive([message]):
            found = self._dialects.decode(passed, self._fleet, now_ms)
        # a gateway's message may hold other gates, too
        refusals = [refusal for refusal in found.refusals if dialect == "native" or refusal.reason != "unknown_gate"]
        readings = [reading for reading in found.readings if reading.gate_id == self._gate_id]
        if not found.ours or (dialect != "native" and not readings and not refusals):
            return
        self._messages += 1
        for refusal in refusals:
            kind = f"{refusal.reason} {re.sub(r'[0-9][0-9.:TZe+-]*', '#', str(refusal))}"
            _, _, n = self._refused.get(kind, (refusal, "", 0))
            if n or len(self._refused) < REMEMBERED:
                self._refused[kind] = (refusal, message.topic, n + 1)
        if found.joins is not None:
            self._introduced |= {channel.key: channel for channel in found.channels}
            self._fleet.learn(found.channels)
        source = self._sources.setdefault(message.topic.partition("?")[0], _Source())
        source.messages += 1
        said = _peek(message.payload) if dialect == "native" else {}
        self._note_status(message, said)
        self._note_seq(source, said)
        if readings:
            source.unpromised += qos == 0 and not message.retained
            self._note_time(source, readings, now_ms)
            self._note_values(found, readings, said, f"{dialect} {publisher}".strip())

    def _is_ours(self, topic: str) -> bool:
        """Whether a native topic is the gate's; of others those are remembered that may be meant to be."""
        levels = topic.split("/")
        if levels[3:4] == [self._gate_id]:
            self._stations.add(levels[2])
            if not self._declared.station_id:
                self._fleet.move_to(levels[2])
            return True
        if self._gate_id in levels and len(self._strays) < REMEMBERED:
            self._strays[topic] = None
        elif len(levels) > 3 and len(self._alike) < REMEMBERED and _alike(levels[3], self._gate_id):
            self._alike.add(levels[3])
        return False

    def _note_status(self, message: Message, said: Mapping[str, Any]) -> None:
        if message.topic.endswith("/status") and message.topic.count("/") == 4:
            self._status = str(said.get("status", ""))
            self._went_offline += self._status == "offline" and not message.retained

    def _note_seq(self, source: _Source, said: Mapping[str, Any]) -> None:
        seq = said.get("seq")
        if not isinstance(seq, int) or isinstance(seq, bool):
            return
        if source.seq is not None:
            source.lost += max(0, seq - source.seq - 1)
            source.steps_back += seq < source.seq
        source.seq = seq

    def _note_time(self, source: _Source, readings: list[Reading], now_ms: int) -> None:
        newest_ms = max(reading.ts_ms for reading in readings)
        if newest_ms == now_ms:  # an adapter takes the time of receipt where a message has none
            source.untimed += 1
            return
        lag_ms = now_ms - newest_ms
        source.least_lag_ms = lag_ms if source.least_lag_ms is None else min(lag_ms, source.least_lag_ms)
        source.standing = source.standing + 1 if newest_ms == source.newest_ms else 0
        source.newest_ms = newest_ms

    def _note_values(self, found: Decoded, readings: list[Reading], said: Mapping[str, Any], speaker: str) -> None:
        self._fleet.learn(channel for channel in found.channels if channel.gate_id == self._gate_id)
        own_units = said.get("units")
        for reading in readings:
            declared = self._fleet.units(self._gate_id, reading.component)
            for name, value in reading.values.items():
                channel = f"{reading.component}.{name}"
                arriving = self._arriving.get(channel)
                if arriving is None:
                    unit = find_quantity(split_name(name)[1]).unit
                    arriving = self._arriving[channel] = Arriving(channel, unit, unit, reading.ts_ms, value, value, value)
                arriving.sent_in = (own_units.get(name) if isinstance(own_units, dict) else None) or declared.get(name, "")
                arriving.readings += 1
                arriving.speakers.add(speaker)
                arriving.least, arriving.most = min(value, arriving.least), max(value, arriving.most)
                if reading.ts_ms >= arriving.newest_ms:
                    arriving.newest_ms, arriving.newest = reading.ts_ms, value
                if len(arriving.values) < REMEMBERED or reading.ts_ms in arriving.values:
                    arriving.conflicts += arriving.values.setdefault(reading.ts_ms, value) != value

    def report(self, seconds: float) -> Report:
        """Tell what was heard in so many seconds."""
        if self._messages:
            findings = [
                *self._registration(),
                *self._names(),
                *self._refusals(),
                *self._units(),
                *self._times(),
                *self._others(),
                *self._losses(),
                *self._missing(seconds),
            ]
        else:
            findings = [*self._registration(), *self._names(), *self._silence()]
        arriving = tuple(arriving for _, arriving in sorted(self._arriving.items()))
        findings.sort(key=lambda finding: ("wrong", "missing", "note").index(finding.kind))
        return Report(self._gate_id, self._messages, arriving, tuple(findings))

    def _registration(self) -> Iterator[Finding]:
        if self._declared.registered is False:
            mend = "import it first, or let it introduce itself (discovery) where `ingest --allow-discovery` runs"
            yield Finding("wrong", f"gate {self._gate_id} is not registered: ingest refuses it", mend)
        if self._introduced and not self._declared.registered:
            text = (
                f"it introduces itself with {len(self._introduced)} channels, which counts where `ingest --allow-discovery` runs"
            )
            yield Finding("note", text)

    def _names(self) -> Iterator[Finding]:
        for topic in list(self._strays)[:5]:
            yield Finding(
                "wrong",
                f"{self._gate_id} stands at the wrong place of the topic {topic}",
                f"the topic is sluicewatch/v1/<station>/{self._gate_id}/<component>/telemetry",
            )
        if not self._messages and self._alike:
            names = ", ".join(sorted(self._alike)[:5])
            yield Finding(
                "wrong", f"nothing came for {self._gate_id}, but for {names}", "is the gate's id written as registered?"
            )

    def _silence(self) -> Iterator[Finding]:
        for dialect in sorted({dialect for dialect, _ in self._strangers}):
            names = ", ".join(sorted(publisher or "a gateway" for kind, publisher in self._strangers if kind == dialect)[:5])
            if dialect not in self._foreign:
                yield Finding("wrong", f"{names} speaks {dialect}, and no mapping file says for whom", "give --mapping FILE")
            elif not any(kind == dialect for kind, _ in self._mapped):
                yield Finding(
                    "wrong",
                    f"{names} speaks {dialect}, but the mapping file lets no {dialect} publisher speak for {self._gate_id}",
                    f"add {self._gate_id} to `gates` of its [[publisher]]",
                )
            else:
                known = ", ".join(sorted(publisher for kind, publisher in self._mapped if kind == dialect))
                yield Finding(
                    "wrong",
                    f"the mapping file has {known} speak for {self._gate_id}, who was silent; {names} spoke",
                    "write the publisher's `id` as its topics do",
                )
        yield Finding(
            "missing",
            f"nothing came for {self._gate_id}",
            "is the device connected to this broker, does its topic name this gate, may its account write there and this one "
            "read it (deploy/mosquitto.acl)? Watch longer with --seconds",
        )

    def _refusals(self) -> Iterator[Finding]:
        for refusal, topic, n in self._refused.values():
            mend = MENDS.get(refusal.reason, "").replace("TOPIC", f"'{topic}'")
            kind: Literal["missing", "wrong"] = "missing" if refusal.reason == "unknown_alias" else "wrong"
            yield Finding(kind, f"{topic}: {refusal.reason}, {n} times: {refusal}".replace(", 1 times", ""), mend)

    def _units(self) -> Iterator[Finding]:
        for arriving in self._arriving.values():
            _, quantity = split_name(arriving.channel.partition(".")[2])
            low, high = USUAL.get(quantity, (float("-inf"), float("inf")))
            too = "large" if arriving.most > high else "small" if 0 < arriving.most < low else ""
            if not too or not arriving.sent_in:
                continue
            try:
                sent = find_conversion(quantity, arriving.sent_in)
            except ReadingError:
                continue
            raw = (arriving.most - sent.offset) / sent.factor
            looks = [
                unit
                for unit, conversion in find_quantity(quantity).accepted.items()
                if unit != arriving.sent_in and low <= conversion.apply(raw) <= high
            ]
            if looks:
                yield Finding(
                    "wrong",
                    f"{arriving.channel}: {raw:g} {arriving.sent_in} is unusually {too}; it looks like {' or '.join(looks)}",
                    "mend the unit where it is declared: in the message, the mapping file or channels.csv",
                )

    def _times(self) -> Iterator[Finding]:
        clock = "let the device take its time from NTP and send UTC with a Z at the end"
        for topic, source in self._sources.items():
            if source.untimed:
                yield Finding(
                    "note",
                    f"{topic}: {source.untimed} of {source.messages} messages have no time and count as of their arrival",
                    "let the device send its times: what is delivered twice would count twice",
                )
            if source.standing >= 2:
                yield Finding(
                    "wrong",
                    f"{topic}: the time stands still at {utc(source.newest_ms or 0)} in {source.standing + 1} messages",
                    "send each reading once, with the time it was measured",
                )
            lag_ms = source.least_lag_ms
            if lag_ms is None:
                continue
            hours = round(lag_ms / HOUR_MS)
            if lag_ms < -10_000:
                yield Finding("note", f"{topic}: its clock is {-lag_ms / 1000:.0f} s ahead", clock)
            elif hours and hours <= 14 and abs(lag_ms - hours * HOUR_MS) <= 2 * MINUTE_MS:
                what = f"its times are {hours} h behind: a time of another zone, or an offset that does not belong to it"
                yield Finding("wrong", f"{topic}: {what}", clock)
            elif lag_ms > 5 * MINUTE_MS:
                yield Finding(
                    "wrong",
                    f"{topic}: its newest reading was {lag_ms / MINUTE_MS:.0f} min old when it came",
                    f"it counts all the same; if this is not a device catching up after an outage, {clock}",
                )

    def _others(self) -> Iterator[Finding]:
        one = "let one device measure it, or give each its own channel (point.quantity)"
        if len(self._stations) > 1:
            yield Finding(
                "wrong",
                f"{self._gate_id} is spoken for under several stations: {', '.join(sorted(self._stations))}",
                "stop the one that is not its own",
            )
        several: dict[frozenset[str], list[str]] = {}
        for arriving in self._arriving.values():
            if len(arriving.speakers) > 1:
                several.setdefault(frozenset(arriving.speakers), []).append(arriving.channel)
            if arriving.conflicts:
                yield Finding("wrong", f"{arriving.channel}: {arriving.conflicts} times two values for one instant", one)
        for speakers, channels in several.items():
            yield Finding("wrong", f"{', '.join(channels)}: sent by {' and by '.join(sorted(speakers))}", one)
        for topic, source in self._sources.items():
            if source.steps_back > 1:
                yield Finding("wrong", f"{topic}: seq went back {source.steps_back} times: two devices count here", one)
        if self._went_offline > 1:
            yield Finding(
                "wrong",
                f"the status of {self._gate_id} went offline {self._went_offline} times: two clients with one client id or "
                "account throw each other out, or the connection is bad",
                "give each client an account and a client id of its own",
            )

    def _losses(self) -> Iterator[Finding]:
        for topic, source in self._sources.items():
            if source.lost and source.steps_back < 2:
                yield Finding(
                    "wrong",
                    f"{topic}: seq misses {source.lost} messages that did not reach the broker",
                    "publish with QoS 1, and keep what was not acknowledged",
                )
        unpromised = sum(source.unpromised for topic, source in self._sources.items() if not topic.startswith("spBv1.0/"))
        if unpromised:
            text = f"{unpromised} of {self._messages} messages came with QoS 0: what is sent while ingest is away is lost"
            yield Finding("note", text, "publish with QoS 1")
        if self._dialects.sparkplug and self._dialects.sparkplug.missed:
            text = f"sequence numbers miss {self._dialects.sparkplug.missed} messages of the edge node"
            yield Finding("wrong", text, "look at its connection; by its standard Sparkplug is QoS 0")

    def _missing(self, seconds: float) -> Iterator[Finding]:
        declared = {channel.key: channel for channel in self._declared.channels} | self._introduced
        for channel in declared.values():
            if channel.key in self._arriving:
                continue
            if channel.interval_s is not None and channel.interval_s > seconds / 2:
                text = f"{channel.key}: silent, and declared to report every {channel.interval_s:g} s only"
                yield Finding("note", text, f"watch longer with --seconds {2 * channel.interval_s:.0f}, or while the gate moves")
            else:
                mend = "is the sensor connected, and its name the declared one? Else take it from the declaration"
                yield Finding("missing", f"{channel.key}: declared, and silent for {seconds:.0f} s", mend)
        quantities = {name.rpartition(".")[2] for name in (*self._arriving, *declared)}
        if not quantities & {"velocity_rms", "acceleration_rms"}:
            text = "no vibration: a forecast needs velocity_rms or acceleration_rms of a component"
            yield Finding("missing", text, "send it; docs/dataset.md has quantities and units")
        if "temperature" not in quantities:
            yield Finding("missing", "no temperature: a forecast needs that of a component", "send it, as point.temperature")
        if "moving" not in quantities:
            text = "no `moving`: vibration above 0.3 mm/s or 0.03 g will count as movement"
            yield Finding("note", text, "send moving (1 or 0) if the drive knows it")
        if self._status == "offline" and self._arriving:
            yield Finding("wrong", "the status says offline, and readings come", "publish the status online after each connect")


def _speaker(topic: str) -> tuple[str, str]:
    """Return dialect and publisher of a topic; the publisher of a native one is told by the gate."""
    match topic.split("/"):
        case ["$oc", "devices", publisher, *_]:
            return "iotda", publisher
        case ["spBv1.0", group, _, edge_node, *_]:
            return "sparkplug", f"{group}/{edge_node}"
        case ["v1", *_]:
            return "thingsboard", ""
    return "native", ""


def _peek(payload: bytes) -> Mapping[str, Any]:
    """What a JSON object says beside its values; nothing where it is none."""
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _alike(name: str, wanted: str) -> bool:
    """Whether one is the other with a slip of the pen, and not its neighbour ``…-G2``."""
    if name.casefold() == wanted.casefold():
        return True
    digits = re.sub(r"\D", "", name) == re.sub(r"\D", "", wanted)
    return digits and SequenceMatcher(None, name.casefold(), wanted.casefold()).ratio() > 0.8
