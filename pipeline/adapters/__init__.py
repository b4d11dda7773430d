"""From a device's dialect to readings: what every adapter takes and gives. No network, no database, no clock.

An adapter has ``FILTERS`` (what to subscribe to) and ``decode(message, fleet, now_ms) -> Decoded``, which depends on
nothing but its arguments; one of a foreign dialect is made with the mapping file (`pipeline.adapters.mapping`). It never
raises for what a device sent: the smallest part that is wrong (a value, a reading, else the message) is refused with a
reason and a line of explanation, and what is good beside it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import NamedTuple, Protocol

from pipeline.readings import Channel, Reading, ReadingError
from pipeline.spectra import Machine


class Message(NamedTuple):
    """One MQTT message as it came; `retained` means that the broker had kept it, so it may be old.

    `known` is what its publisher said before and leans on now: the names that a Sparkplug birth gave to aliases.
    """

    topic: str
    payload: bytes
    retained: bool = False
    known: object = None


@dataclass(frozen=True, slots=True)
class Gate:
    """A registered gate: the station it belongs to and the epoch milliseconds before which it cannot have spoken."""

    gate_id: str
    station_id: str
    since_ms: int


class Fleet(Protocol):
    """What an adapter may ask about what has been declared."""

    def gate(self, gate_id: str) -> Gate | None:
        """Return the registered gate, or None."""

    def units(self, gate_id: str, component: str) -> Mapping[str, str]:
        """Return the declared unit of each channel of the component, by the channel's name within it."""

    def machine(self, gate_id: str, component: str) -> Machine:
        """Return what is known of the component's bearing and gear."""


class Decoded(NamedTuple):
    """What one message held.

    `readings` are in canonical units. `channels` are those among them that were not declared before, each with the unit
    it came in. `refusals` tell what could not be used and why. `seen` are event times, in epoch milliseconds, at which a
    gate said that it is alive without measuring anything. `burst` is where the message itself may be kept: it is one raw
    vibration burst. `connected` is what gates said of their connection, ``online`` or ``offline``. `joins` is None but for a
    discovery: then it holds the gates that it spoke for and nobody knows, with their stations, and `channels` may be known ones.
    `seq` is the publisher's own count. `ours` is false for a message that nobody meant for us.
    """

    readings: Sequence[Reading] = ()
    channels: Sequence[Channel] = ()
    refusals: Sequence[ReadingError] = ()
    seen: Mapping[str, int] = MappingProxyType({})
    burst: PurePosixPath | None = None
    connected: Mapping[str, str] = MappingProxyType({})
    joins: Mapping[str, str] | None = None
    seq: int | None = None
    ours: bool = True
