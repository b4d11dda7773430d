"""The mapping file: which foreign device is which gate, and which of our channels its names are, in which unit.

It is written by a person and read once, at the start; what cannot be used is refused with every gap at once, each with
its fix. What each key means stands in ``docs/guides/mapping.md``. No network, no database, no clock.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.adapters import Fleet
from pipeline.adapters.checks import kind_of, short
from pipeline.errors import BadInput
from pipeline.readings import ID_PATTERN, ReadingError, find_conversion, split_name

_ID_IS: Mapping[str, tuple[re.Pattern[str] | None, str]] = {
    "iotda": (ID_PATTERN, "the device id in the topic: letters, digits, _ and -"),
    "sparkplug": (re.compile(r"[^/+#]+/[^/+#]+\Z"), "group/edge node, as in the topic"),
    "thingsboard": (None, ""),
}
"""What the id of a dialect's publisher looks like; None where the topic names nobody."""

_PUBLISHER_KEYS = {"dialect", "id", "signals", "gates"}


class MappingError(BadInput):
    """A mapping file that cannot be used; the message lists every gap, one a line, each with its fix."""


class Signal(NamedTuple):
    """The channel that a foreign name means: `name` within `component`, its values arriving in `unit`."""

    component: str
    name: str
    unit: str


@dataclass(frozen=True, slots=True)
class Signals:
    """What a kind of device sends: the names we use, and those known and not wanted (``Battery/*``: all that begin so)."""

    used: Mapping[str, Signal]
    ignored: tuple[str, ...] = ()

    def ignore(self, name: str) -> bool:
        """Whether the name is known and not wanted."""
        return any(name == known or (known.endswith("*") and name.startswith(known[:-1])) for known in self.ignored)


@dataclass(frozen=True, slots=True)
class Device:
    """A foreign device: the gate it measures and what it sends."""

    gate_id: str
    signals: Signals


class DeviceMap:
    """Who may speak for which gate; made by `read_mapping`, empty without a file.

    Parameters
    ----------
    publishers : mapping, optional
        By dialect and publisher id (empty where the topic names nobody): the devices it speaks for, by their ids.
    """

    def __init__(self, publishers: Mapping[tuple[str, str], Mapping[str, Device]] | None = None) -> None:
        self._publishers = publishers or {}
        self._known = {(dialect, device_id) for (dialect, _), devices in self._publishers.items() for device_id in devices}

    @property
    def dialects(self) -> set[str]:
        """The dialects that some publisher speaks."""
        return {dialect for dialect, _ in self._publishers}

    def speakers_for(self, gate_id: str) -> set[tuple[str, str]]:
        """Dialect and id of the publishers that may speak for a gate."""
        return {
            speaker
            for speaker, devices in self._publishers.items()
            if any(device.gate_id == gate_id for device in devices.values())
        }

    def devices(self, dialect: str, publisher: str) -> Mapping[str, Device]:
        """Return the devices that a publisher speaks for, by their ids.

        Raises
        ------
        ReadingError
            ``unknown_publisher``.
        """
        try:
            return self._publishers[dialect, publisher]
        except KeyError:
            raise ReadingError(
                "unknown_publisher",
                f"publisher {short(publisher)} is not in the mapping file; add a [[publisher]] of dialect {dialect!r}",
            ) from None

    def find(self, dialect: str, publisher: str, device_id: str, fleet: Fleet) -> Device:
        """Return a device that the publisher may speak for.

        Raises
        ------
        ReadingError
            ``unknown_publisher``, ``unknown_device``, or ``identity_mismatch`` where the device is another publisher's or
            is called like a gate.
        """
        devices = self.devices(dialect, publisher)
        named = short(publisher) if publisher else f"the {dialect} gateway"
        device = devices.get(device_id)
        if device is not None:
            return device
        if (dialect, device_id) in self._known or fleet.gate(device_id) is not None:
            raise ReadingError("identity_mismatch", f"{named} is not mapped to {short(device_id)} and may not speak for it")
        raise ReadingError("unknown_device", f"{short(device_id)} is not in the mapping file; add it to `gates` of {named}")


def read_mapping(text: str, gate_ids: Collection[str] | None) -> DeviceMap:
    """Read a mapping file.

    Parameters
    ----------
    text : str
        TOML.
    gate_ids : collection of str or None
        The registered gates; None where they are not known, and any will do.

    Raises
    ------
    MappingError
        Listing every gap at once, each with its fix.

    Examples
    --------
    >>> text = '''
    ... [signals.hoist]
    ... "Temperature/winding" = { channel = "motor.winding.temperature", unit = "degC" }
    ... [[publisher]]
    ... dialect = "iotda"
    ... id = "gateway-3"
    ... signals = "hoist"
    ... gates = { "s3-gate1" = "DSH-S3-G1" }
    ... '''
    >>> read_mapping(text, {"DSH-S3-G1"}).devices("iotda", "gateway-3")["s3-gate1"].gate_id
    'DSH-S3-G1'
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MappingError(f"mapping: the file must be TOML; {error}") from None
    gaps = [f"{key}: unknown; allowed are [signals.NAME] and [[publisher]]" for key in document.keys() - {"signals", "publisher"}]
    signals = _read_signals(document.get("signals", {}), gaps)
    publishers = _read_publishers(document.get("publisher", []), signals, gate_ids, gaps)
    if gaps:
        raise MappingError("\n".join(["mapping: the file cannot be used:", *(f"  - {gap}" for gap in gaps)]))
    return DeviceMap(publishers)


def _read_signals(document: Any, gaps: list[str]) -> dict[str, Signals]:
    if not isinstance(document, dict):
        gaps.append(f"signals: must be tables [signals.NAME]; got {kind_of(document)}")
        return {}
    signals = {}
    for name, table in document.items():
        if not isinstance(table, dict):
            gaps.append(f"signals.{name}: must be a table [signals.{name}]; got {kind_of(table)}")
            table = {}
        used: dict[str, Signal] = {}
        foreign_names: dict[tuple[str, str], str] = {}
        for foreign, meaning in table.items():
            if meaning is False:
                continue
            where = f"signals.{name}: {foreign!r}"
            try:
                signal = _read_signal(meaning)
            except ReadingError as gap:
                gaps.append(f"{where}: {gap}")
                continue
            first = foreign_names.setdefault(signal[:2], foreign)
            if first != foreign:
                gaps.append(f"{where}: {'.'.join(signal[:2])} is {first!r} already; give each its own channel")
            used[foreign] = signal
        signals[name] = Signals(used, tuple(foreign for foreign, meaning in table.items() if meaning is False))
    return signals


def _read_signal(meaning: Any) -> Signal:
    if (
        not isinstance(meaning, dict)
        or meaning.keys() != {"channel", "unit"}
        or not all(isinstance(v, str) for v in meaning.values())
    ):
        raise ReadingError(
            "wrong_shape", 'must be { channel = "component.quantity", unit = "…" }, or false for a name not wanted'
        )
    component, dot, name = meaning["channel"].partition(".")
    if not dot or not ID_PATTERN.match(component):
        came = meaning["channel"]
        raise ReadingError("wrong_shape", f"a channel is component.quantity or component.point.quantity; got {came!r}")
    _, quantity = split_name(name)
    find_conversion(quantity, meaning["unit"])
    return Signal(component, name, meaning["unit"])


def _read_publishers(
    document: Any, signals: Mapping[str, Signals], gate_ids: Collection[str] | None, gaps: list[str]
) -> dict[tuple[str, str], dict[str, Device]]:
    if not isinstance(document, list) or not all(isinstance(entry, dict) for entry in document):
        gaps.append("publisher: must be tables [[publisher]], with double brackets")
        return {}
    publishers: dict[tuple[str, str], dict[str, Device]] = {}
    sources: dict[tuple[str, str, str], tuple[str, str]] = {}
    for number, entry in enumerate(document, 1):
        where = f"publisher {number}"
        for key in sorted(entry.keys() - _PUBLISHER_KEYS):
            gaps.append(f"{where}: {key}: unknown; allowed are {', '.join(sorted(_PUBLISHER_KEYS))}")
        dialect, publisher_id = entry.get("dialect"), entry.get("id", "")
        gaps.extend(f"{where}: {gap}" for gap in _check_publisher(dialect, publisher_id))
        its_signals = signals.get(entry["signals"]) if isinstance(entry.get("signals"), str) else None
        if its_signals is None:
            known = ", ".join(signals) or "none"
            gaps.append(f"{where}: signals: must name a [signals.NAME] of this file ({known}); got {short(entry.get('signals'))}")
            its_signals = Signals({})
        gates = entry.get("gates")
        if not isinstance(gates, dict) or not gates:
            gaps.append(f'{where}: gates: must be {{ "device id" = "gate id", … }}; got {short(gates)}')
            continue
        devices = publishers.setdefault((str(dialect), str(publisher_id)), {})
        for device_id, gate_id in gates.items():
            if device_id in devices:
                gaps.append(f"{where}: gates: {device_id!r} stands twice for this publisher; keep one")
            if not isinstance(gate_id, str) or (gate_ids is not None and gate_id not in gate_ids):
                gaps.append(
                    f"{where}: gates: gate {short(gate_id)} is not registered; import or register it first, or mend the name"
                )
                continue
            devices[device_id] = Device(gate_id, its_signals)
            gaps.extend(
                f"{where}: gates: {gap}" for gap in _share_a_channel(sources, (str(dialect), device_id), devices[device_id])
            )
    return publishers


def _check_publisher(dialect: Any, publisher_id: Any) -> Iterator[str]:
    if dialect not in _ID_IS:
        yield f"dialect: allowed are {', '.join(_ID_IS)}; got {short(dialect)}"
        return
    pattern, meaning = _ID_IS[dialect]
    if pattern is None:
        if publisher_id != "":
            yield f"id: leave it out; the topics of {dialect} do not name who publishes"
    elif not isinstance(publisher_id, str) or not pattern.match(publisher_id):
        yield f"id: must be {meaning}; got {short(publisher_id)}"


def _share_a_channel(
    sources: dict[tuple[str, str, str], tuple[str, str]], source: tuple[str, str], device: Device
) -> Iterator[str]:
    """Two devices that write one channel would hide each other; one device behind two gateways is the same source."""
    for signal in device.signals.used.values():
        first = sources.setdefault((device.gate_id, signal.component, signal.name), source)
        if first != source:
            channel = f"{signal.component}.{signal.name}"
            yield f"{source[1]!r} and {first[1]!r} both write {channel} of gate {device.gate_id!r}; give one its own [signals]"
            return
