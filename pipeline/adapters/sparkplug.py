"""Sparkplug B: Protobuf on ``spBv1.0/<group>/<type>/<edge node>[/<device>]``. No network, no database, no clock.

An edge node tells in its birth certificates (NBIRTH, DBIRTH) what its metrics are called, and may then send aliases for
their names. So the adapter has a memory: `Adapter.receive`, called once for each message in the order of arrival, ties a
message to the births it leans on; `Adapter.decode` needs nothing else. The memory of an edge node begins with its first
message and ends with its death certificate (NDEATH); only edge nodes and devices of the mapping file have one, and no
birth is larger than a message may be.

A gap in the sequence numbers is counted (`Adapter.missed`), and the edge node goes into `Adapter.rebirth_wanted`, as does
one that sends aliases nobody told us. Names stay valid over a gap: an edge node gets new ones in a new session, and the
end of the old session reaches us even where births were lost, because NDEATH has QoS 1.

References
----------
Eclipse Sparkplug 3.0.0, chapters 4 (topics), 5 (operational behavior) and 6 (payloads).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from pipeline.adapters import Decoded, Fleet, Message
from pipeline.adapters.checks import short
from pipeline.adapters.collecting import Collector, check_message
from pipeline.adapters.mapping import DeviceMap
from pipeline.readings import ReadingError

NODE_TYPES = ("NBIRTH", "NDATA", "NDEATH")
DEVICE_TYPES = ("DBIRTH", "DDATA", "DDEATH")
FILTERS = (*(f"spBv1.0/+/{kind}/+" for kind in NODE_TYPES), *(f"spBv1.0/+/{kind}/+/+" for kind in DEVICE_TYPES))

GOOD_QUALITY = 192
REBIRTH = "Node Control/Rebirth"
_BOOLEAN = 11
_SIGNED_BITS = {1: 8, 2: 16, 3: 32, 4: 64}  # Int8 … Int64 travel as unsigned numbers, in two's complement
_UNSIGNED = {5, 6, 7, 8}
_OWN_METRICS = ("bdSeq", "Node Control/", "Device Control/")
"""What the standard itself puts beside the measurements."""


def _describe() -> Any:
    """Build the class of a payload from the standard's field numbers; fields we do not use are left out and skipped."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="sluicewatch_sparkplug.proto", package="sluicewatch", syntax="proto2")

    def describe(name: str, *fields: tuple[int, str, int | str], repeated: tuple[str, ...] = (), one_of: str = "") -> None:
        described = file.message_type.add(name=name)
        if one_of:
            described.oneof_decl.add(name=one_of)
        for number, field_name, kind in fields:
            added = described.field.add(name=field_name, number=number, label=kinds.LABEL_OPTIONAL)
            if field_name in repeated:
                added.label = kinds.LABEL_REPEATED
            if isinstance(kind, str):
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".sluicewatch.{kind}"
            else:
                added.type = kind
            if one_of and field_name.endswith("_value"):
                added.oneof_index = 0

    # Text is read as bytes: what is not UTF-8 is then refused by us, not by the parser.
    u32, u64, flag, text = kinds.TYPE_UINT32, kinds.TYPE_UINT64, kinds.TYPE_BOOL, kinds.TYPE_BYTES
    describe("Payload", (1, "timestamp", u64), (2, "metrics", "Metric"), (3, "seq", u64), repeated=("metrics",))
    describe(
        "Metric",
        *((1, "name", text), (2, "alias", u64), (3, "timestamp", u64), (4, "datatype", u32)),
        *((6, "is_transient", flag), (7, "is_null", flag), (9, "properties", "PropertySet")),
        *((10, "int_value", u32), (11, "long_value", u64), (12, "float_value", kinds.TYPE_FLOAT)),
        *((13, "double_value", kinds.TYPE_DOUBLE), (14, "boolean_value", flag), (15, "string_value", text)),
        one_of="value",
    )
    describe("PropertySet", (1, "keys", text), (2, "values", "PropertyValue"), repeated=("keys", "values"))
    describe("PropertyValue", (3, "int", u32), (4, "long", u64))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("sluicewatch.Payload"))


Payload = _describe()


class Birth(NamedTuple):
    """What a birth certificate told: name and datatype by alias, datatype by name."""

    aliases: Mapping[int, tuple[str, int]]
    datatypes: Mapping[str, int]


@dataclass(slots=True)
class _EdgeNode:
    """What an edge node has told since its birth; `births` by device, its own under its own id."""

    births: dict[str, Birth] = field(default_factory=dict)
    bd_seq: int | None = None
    seq: int | None = None


class Adapter:
    """Decodes the metrics of the edge nodes of a mapping file.

    Attributes
    ----------
    missed : int
        How many messages the sequence numbers say did not reach us.
    rebirth_wanted : set of str
        Edge nodes (``group/edge node``) that should send their births again.
    """

    FILTERS = FILTERS

    def __init__(self, device_map: DeviceMap) -> None:
        self.missed = 0
        self.rebirth_wanted: set[str] = set()
        self._map = device_map
        self._edge_nodes: dict[str, _EdgeNode] = {}

    def receive(self, message: Message) -> Message:
        """Remember what a message tells, and return it with what its publisher told before.

        Call it once for each message, in the order of arrival. A message that `decode` will refuse teaches nothing.
        """
        try:
            kind, publisher, device_id = _read_topic(message.topic)
            check_message(message)
            wanted = self._map.devices("sparkplug", publisher)
            payload = _parse(message.payload)
        except ReadingError:
            return message
        node = self._edge_nodes.setdefault(publisher, _EdgeNode())
        if kind == "NDEATH":
            if node.bd_seq is None or _bd_seq(payload) == node.bd_seq:  # else the will of a session that was over before
                del self._edge_nodes[publisher]
            return message
        if kind == "NBIRTH":
            node.births, node.bd_seq = {}, _bd_seq(payload)
            self.rebirth_wanted.discard(publisher)
        elif payload.HasField("seq") and node.seq is not None and payload.seq != node.seq:
            missed = (payload.seq - node.seq - 1) % 256
            self.missed += missed
            if missed:
                self.rebirth_wanted.add(publisher)
        node.seq = payload.seq if payload.HasField("seq") else None
        if kind == "DDEATH":
            node.births.pop(device_id, None)
        elif kind in ("NBIRTH", "DBIRTH"):
            if device_id in wanted:
                node.births[device_id] = _read_birth(payload)
        elif device_id in wanted:
            birth = node.births.get(device_id)
            if any(not metric.name and (birth is None or metric.alias not in birth.aliases) for metric in payload.metrics):
                self.rebirth_wanted.add(publisher)
            return message._replace(known=birth)
        return message

    def decode(self, message: Message, fleet: Fleet, now_ms: int) -> Decoded:
        """Return what a message holds; it has gone through `receive`.

        Metrics that are null or transient, or whose quality is not good, were not measured. Historical ones are readings
        like any other.

        Returns
        -------
        Decoded
            Readings in the order of the message; none from a death certificate. Reasons of refusals: ``wrong_topic``,
            ``oversize``, ``retained``, ``unknown_publisher``, ``unknown_device``, ``identity_mismatch``,
            ``unknown_gate``, ``not_protobuf``, ``unknown_alias``, ``wrong_shape``, ``clock_fault``, ``unmapped_name``,
            ``not_finite``, ``out_of_range``.
        """
        try:
            return self._decode(message, fleet, now_ms)
        except ReadingError as refusal:
            return Decoded(refusals=(refusal,))

    def _decode(self, message: Message, fleet: Fleet, now_ms: int) -> Decoded:
        kind, publisher, device_id = _read_topic(message.topic)
        check_message(message)
        self._map.devices("sparkplug", publisher)  # refuses a stranger, whatever the payload holds
        payload = _parse(message.payload)
        if kind in ("NDEATH", "DDEATH"):
            return Decoded()  # like an offline status: nothing was measured, and nobody is alive
        birth = message.known if isinstance(message.known, Birth) else Birth({}, {})
        found = Collector(self._map, "sparkplug", publisher, fleet, now_ms)
        values: dict[int | None, list[tuple[str, Any]]] = {}
        unknown: dict[int, None] = {}
        for metric in payload.metrics:
            try:
                name, datatype = _name(metric, birth)
                if name.startswith(_OWN_METRICS) or metric.is_null or metric.is_transient or not _good(metric):
                    continue
                ts_ms = next((part.timestamp for part in (metric, payload) if part.HasField("timestamp")), None)
                values.setdefault(ts_ms, []).append((name, _value(metric, name, datatype)))
            except _UnknownAliasError:
                unknown[metric.alias] = None
            except ReadingError as refusal:
                found.refuse("", refusal)
        if unknown:
            aliases = ", ".join(map(str, unknown))[:200]
            found.refuse(
                "",
                ReadingError(
                    "unknown_alias",
                    f"alias {aliases}: no birth has named it; let the edge node be born again (--sparkplug-rebirth asks for it)",
                ),
            )
        source = found.device(device_id) if values else None
        if source is not None:
            for ts_ms, at_once in values.items():
                found.add("", source, ts_ms, at_once, "timestamp")
        return found.decoded()


class _UnknownAliasError(Exception):
    """A metric without a name, whose alias no birth has told."""


def rebirth_request(publisher: str, now_ms: int) -> tuple[str, bytes]:
    """Return topic and payload of the command by which an edge node (``group/edge node``) is asked for its births."""
    group, _, edge_node = publisher.partition("/")
    payload = Payload(timestamp=now_ms)
    payload.metrics.add(name=REBIRTH.encode(), datatype=_BOOLEAN, boolean_value=True)
    return f"spBv1.0/{group}/NCMD/{edge_node}", payload.SerializeToString()


def _read_topic(topic: str) -> tuple[str, str, str]:
    """Return type, publisher and device of a topic; an edge node's own metrics belong to the device called as it is."""
    match topic.split("/"):
        case ["spBv1.0", group, kind, edge_node] if kind in NODE_TYPES:
            return kind, f"{group}/{edge_node}", f"{group}/{edge_node}"
        case ["spBv1.0", group, kind, edge_node, device_id] if kind in DEVICE_TYPES:
            return kind, f"{group}/{edge_node}", device_id
    raise ReadingError(
        "wrong_topic",
        f"topic must be spBv1.0/<group>/<{'|'.join(NODE_TYPES)}>/<edge node> or "
        f"spBv1.0/<group>/<{'|'.join(DEVICE_TYPES)}>/<edge node>/<device>; got {topic!r}",
    )


def _parse(data: bytes) -> Any:
    try:
        return Payload.FromString(data)
    except DecodeError as error:
        raise ReadingError("not_protobuf", f"the payload must be a Sparkplug B message; {error}") from None


def _bd_seq(payload: Any) -> int | None:
    for metric in payload.metrics:
        if metric.name == b"bdSeq":
            return int(metric.long_value or metric.int_value)
    return None


def _read_birth(payload: Any) -> Birth:
    told = [(metric, metric.name.decode(errors="replace")) for metric in payload.metrics if metric.name]
    return Birth(
        {metric.alias: (name, metric.datatype) for metric, name in told if metric.HasField("alias")},
        {name: metric.datatype for metric, name in told},
    )


def _name(metric: Any, birth: Birth) -> tuple[str, int]:
    """Return a metric's name and datatype, its own or those of the birth."""
    if metric.name:
        try:
            name = metric.name.decode()
        except UnicodeDecodeError:
            raise ReadingError("wrong_shape", f"a metric's name must be UTF-8; got {short(metric.name)}") from None
        return name, metric.datatype or birth.datatypes.get(name, 0)
    try:
        name, datatype = birth.aliases[metric.alias]
    except KeyError:
        raise _UnknownAliasError from None
    return name, metric.datatype or datatype


def _good(metric: Any) -> bool:
    """Whether the device itself believes the value; one without a quality is good."""
    for key, value in zip(metric.properties.keys, metric.properties.values, strict=False):
        if key == b"Quality":
            return bool((value.long if value.HasField("long") else value.int) == GOOD_QUALITY)
    return True


def _value(metric: Any, name: str, datatype: int) -> Any:
    """Return the metric's number (a flag as true or false); None where it holds something else."""
    kind = metric.WhichOneof("value")
    if kind in ("float_value", "double_value", "boolean_value"):
        return getattr(metric, kind)
    if kind not in ("int_value", "long_value"):
        return None
    number = getattr(metric, kind)
    bits = _SIGNED_BITS.get(datatype)
    if bits:
        number %= 1 << bits
        return number - (1 << bits) if number >> (bits - 1) else number
    if datatype in _UNSIGNED:
        return number
    if datatype == _BOOLEAN:
        return bool(number)
    raise ReadingError("wrong_shape", f"{short(name)}: metric or birth must tell a number's datatype, 1 to 11; got {datatype}")
