"""All dialects together: what to subscribe to, and which adapter a message goes to. No network, no database, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pipeline.adapters import Decoded, Fleet, Message, iotda, native, sparkplug, thingsboard
from pipeline.adapters.mapping import DeviceMap


class Adapter(Protocol):
    """One dialect; see `pipeline.adapters`."""

    @property
    def FILTERS(self) -> tuple[str, ...]:  # noqa: N802 - a module has it as a constant
        """What to subscribe to."""

    def decode(self, message: Message, fleet: Fleet, now_ms: int) -> Decoded:
        """Return what a message holds."""


class Dialects:
    """The native dialect, of all stations or some, and those that some publisher of the mapping file speaks.

    Attributes
    ----------
    filters, unwanted : tuple of str
        What to subscribe to; what an earlier mapping file may have subscribed to and this one does not want.
    sparkplug : sparkplug.Adapter or None
    """

    def __init__(self, device_map: DeviceMap | None = None, stations: Sequence[str] = ()) -> None:
        device_map = device_map or DeviceMap()
        self.sparkplug = sparkplug.Adapter(device_map) if "sparkplug" in device_map.dialects else None
        adapters: list[Adapter] = [native]
        if self.sparkplug:
            adapters.append(self.sparkplug)
        if "iotda" in device_map.dialects:
            adapters.append(iotda.Adapter(device_map))
        if "thingsboard" in device_map.dialects:
            adapters.append(thingsboard.Adapter(device_map))
        self.filters = tuple(pattern for adapter in adapters for pattern in adapter.FILTERS)
        if stations:
            some = tuple(f"sluicewatch/v1/{station}/#" for station in stations)
            self.filters = (*some, *(pattern for pattern in self.filters if pattern not in native.FILTERS))
        foreign = (*iotda.FILTERS, *thingsboard.FILTERS, *sparkplug.FILTERS)
        self.unwanted = tuple(pattern for pattern in foreign if pattern not in self.filters)
        # the first level of a topic tells the dialect
        self._adapters = {pattern.partition("/")[0]: adapter for adapter in adapters for pattern in adapter.FILTERS}

    def receive(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Let adapters that have a memory see messages, once each and in the order of arrival; decode what is returned."""
        adapter = self.sparkplug
        if adapter is None:
            return messages
        return [adapter.receive(message) if message.topic.startswith("spBv1.0/") else message for message in messages]

    def decode(self, message: Message, fleet: Fleet, now_ms: int) -> Decoded:
        """Return what a message holds; the native dialect refuses a topic that is nobody's."""
        return self._adapters.get(message.topic.partition("/")[0], native).decode(message, fleet, now_ms)


NATIVE = Dialects()
"""Without a mapping file; it has no memory, so it can be shared."""
