"""From a foreign device's names and values to readings, by the mapping file; what the foreign dialects have in common."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pipeline.adapters import Decoded, Fleet, Gate, Message
from pipeline.adapters.checks import TELEMETRY_BYTES, believable, short
from pipeline.adapters.mapping import Device, DeviceMap, Signal
from pipeline.readings import Channel, Reading, ReadingError, split_name, to_canonical

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*\Z", re.ASCII)


def check_message(message: Message) -> None:
    """Refuse a message that is too long, or that the broker had kept.

    Raises
    ------
    ReadingError
        ``oversize`` or ``retained``.
    """
    if len(message.payload) > TELEMETRY_BYTES:
        raise ReadingError("oversize", f"a message may have {TELEMETRY_BYTES} bytes; got more")
    if message.retained:
        raise ReadingError("retained", "telemetry must be published without the retain flag: a kept copy looks fresh")


class Collector:
    """Collects what one message of one publisher holds, each part on its own, and never raises for what it says."""

    def __init__(self, device_map: DeviceMap, dialect: str, publisher: str, fleet: Fleet, now_ms: int) -> None:
        self.refusals: list[ReadingError] = []
        self._map, self._dialect, self._publisher = device_map, dialect, publisher
        self._fleet, self._now_ms = fleet, now_ms
        self._readings: list[Reading] = []
        self._channels: dict[tuple[str, str, str], Channel] = {}

    def refuse(self, where: str, refusal: ReadingError) -> None:
        """Remember what cannot be used and where it stood."""
        self.refusals.append(ReadingError(refusal.reason, f"{where}: {refusal}" if where else str(refusal)))

    def device(self, device_id: Any) -> tuple[Device, Gate] | None:
        """Return a device that the publisher may speak for, and its gate; None where that is refused."""
        try:
            if not isinstance(device_id, str):
                raise ReadingError("wrong_shape", f"a device's id must be a string; got {short(device_id)}")
            device = self._map.find(self._dialect, self._publisher, device_id, self._fleet)
            gate = self._fleet.gate(device.gate_id)
            if gate is None:
                raise ReadingError("unknown_gate", f"gate {device.gate_id!r} of {short(device_id)} is not registered any more")
        except ReadingError as refusal:
            self.refuse("", refusal)
            return None
        return device, gate

    def add(
        self, where: str, source: tuple[Device, Gate], ts_ms: int | None, values: Iterable[tuple[str, Any]], field: str
    ) -> None:
        """Take the values of one device at one instant; without an instant they are of now."""
        device, gate = source
        try:
            ts_ms = self._now_ms if ts_ms is None else believable(ts_ms, gate, self._now_ms, field)
        except ReadingError as refusal:
            self.refuse(where, refusal)
            return
        of_component: dict[str, list[dict[str, float]]] = {}
        for name, value in values:
            signal = device.signals.used.get(name)
            if signal is None:
                if not device.signals.ignore(name):
                    self.refuse(where, unmapped(name))
                continue
            try:
                number = read_number(signal, value)
            except ReadingError as refusal:
                self.refuse(f"{where}: {short(name)}" if where else short(name), refusal)
                continue
            found = of_component.setdefault(signal.component, [{}])
            if signal.name in found[-1]:
                found.append({})  # said twice: which one stays is not ours to decide
            found[-1][signal.name] = number
            self._learn(gate.gate_id, signal)
        for component, found in of_component.items():
            self._readings += [Reading(gate.gate_id, component, ts_ms, together) for together in found]

    def _learn(self, gate_id: str, signal: Signal) -> None:
        key = (gate_id, signal.component, signal.name)
        if key not in self._channels and signal.name not in self._fleet.units(gate_id, signal.component):
            point, quantity = split_name(signal.name)
            self._channels[key] = Channel(gate_id, signal.component, quantity, signal.unit, point)

    def decoded(self) -> Decoded:
        """Return everything that was collected."""
        return Decoded(self._readings, list(self._channels.values()), self.refusals)


def unmapped(name: str) -> ReadingError:
    """The refusal of a name that the mapping file does not know."""
    return ReadingError(
        "unmapped_name", f"{short(name)} is not in the mapping file; give it a channel and a unit, or false if it is not wanted"
    )


def read_number(signal: Signal, value: Any) -> float:
    """Return a foreign value in the canonical unit of its channel.

    A number may come as a string, as many gateways send it; true and false are 1 and 0 where the quantity is `moving`.

    Raises
    ------
    ReadingError
        ``wrong_shape``, ``not_finite`` or ``out_of_range``.

    Examples
    --------
    >>> read_number(Signal("motor", "velocity_rms", "mm/s"), "1.31")
    1.31
    """
    _, quantity = split_name(signal.name)
    if isinstance(value, str):
        if len(value) > 64 or not _NUMBER.match(value):
            raise ReadingError("wrong_shape", f"must be a number; got {short(value)}")
        value = float(value)
    if not isinstance(value, int | float) or (isinstance(value, bool) and quantity != "moving"):
        raise ReadingError("wrong_shape", f"must be a number; got {short(value)}")
    try:
        return to_canonical(quantity, signal.unit, float(value))
    except OverflowError:
        raise ReadingError("not_finite", f"{quantity} must be a finite number; got {short(value)}") from None
