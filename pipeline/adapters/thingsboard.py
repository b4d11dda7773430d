"""ThingsBoard's gateway telemetry: JSON on ``v1/gateway/telemetry``. No network, no database, no clock.

``{"<device>": [{"ts": <epoch milliseconds>, "values": {…}}]}``; without `ts` the values are of now. The topic names
nobody, so whoever the broker lets write to it speaks for the devices that the mapping file gives to ThingsBoard, and for
no other. Telemetry of single devices (``v1/devices/me/telemetry``) is left out: neither topic nor payload says whose it is.
"""

from __future__ import annotations

from typing import Any

from pipeline.adapters import Decoded, Fleet, Gate, Message
from pipeline.adapters.checks import kind_of, load_json, short
from pipeline.adapters.collecting import Collector, check_message
from pipeline.adapters.mapping import Device, DeviceMap
from pipeline.readings import ReadingError

FILTERS = ("v1/gateway/telemetry",)


class Adapter:
    """Decodes the telemetry of a ThingsBoard gateway by a mapping file."""

    FILTERS = FILTERS

    def __init__(self, device_map: DeviceMap) -> None:
        self._map = device_map

    def decode(self, message: Message, fleet: Fleet, now_ms: int) -> Decoded:
        """Return what a message holds.

        Returns
        -------
        Decoded
            Readings in the order of the message. Reasons of refusals: ``wrong_topic``, ``oversize``, ``retained``,
            ``unknown_publisher``, ``unknown_device``, ``identity_mismatch``, ``unknown_gate``, ``not_json``,
            ``wrong_shape``, ``clock_fault``, ``unmapped_name``, ``not_finite``, ``out_of_range``.
        """
        try:
            return self._decode(message, fleet, now_ms)
        except ReadingError as refusal:
            return Decoded(refusals=(refusal,))

    def _decode(self, message: Message, fleet: Fleet, now_ms: int) -> Decoded:
        if message.topic not in FILTERS:
            raise ReadingError("wrong_topic", f"topic must be {FILTERS[0]}; got {message.topic!r}")
        check_message(message)
        document = load_json(message.payload)
        if not isinstance(document, dict) or not document:
            raise ReadingError("wrong_shape", f"the payload must be an object of one or more devices; got {kind_of(document)}")
        found = Collector(self._map, "thingsboard", "", fleet, now_ms)
        for device_id, items in document.items():
            source = found.device(device_id)
            if source is None:
                continue  # refused already
            if not isinstance(items, list) or not items:
                refusal = ReadingError("wrong_shape", f"must be a list of one or more; got {kind_of(items)}")
                found.refuse(short(device_id), refusal)
                continue
            for number, item in enumerate(items):
                _add(found, f"{short(device_id)}[{number}]", source, item)
        return found.decoded()


def _add(found: Collector, where: str, source: tuple[Device, Gate], item: Any) -> None:
    values = item.get("values") if isinstance(item, dict) else None
    if not isinstance(item, dict) or not isinstance(values, dict) or not values:
        refusal = ReadingError("wrong_shape", f'must be {{"ts", "values"}}, values an object of one or more; got {short(item)}')
        found.refuse(where, refusal)
        return
    ts_ms = item.get("ts")
    if ts_ms is not None and (isinstance(ts_ms, bool) or not isinstance(ts_ms, int)):
        found.refuse(where, ReadingError("wrong_shape", f"ts: must be epoch milliseconds; got {short(ts_ms)}"))
        return
    found.add(where, source, ts_ms, values.items(), "ts")
