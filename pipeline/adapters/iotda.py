"""Huawei IoTDA, as HarmonyOS devices and their gateways speak it: JSON on ``$oc/devices/…``. No network, no database, no clock.

A device reports its properties on ``$oc/devices/<device>/sys/properties/report``, a gateway those of its sub-devices on
``$oc/devices/<gateway>/sys/gateway/sub_devices/properties/report``; either may end in ``?request_id=…``. The device in the
topic is the publisher. A property is called ``<service_id>/<property>`` in the mapping file. We take the platform's side
and never answer: a report has no reply but the broker's acknowledgement.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import msgspec

from pipeline.adapters import Decoded, Fleet, Gate, Message
from pipeline.adapters.checks import EPOCH, MILLISECOND, Instant, kind_of, load_json, short
from pipeline.adapters.collecting import Collector, check_message
from pipeline.adapters.mapping import Device, DeviceMap
from pipeline.readings import ReadingError

# A broker lets `#` match no topic that begins with `$`, and `report` matches no `report?request_id=…`.
FILTERS = ("$oc/devices/+/sys/properties/+", "$oc/devices/+/sys/gateway/sub_devices/properties/+")

_COMPACT = re.compile(r"\d{8}T\d{6}Z\Z", re.ASCII)


class Adapter:
    """Decodes reports of the devices and gateways of a mapping file."""

    FILTERS = FILTERS

    def __init__(self, device_map: DeviceMap) -> None:
        self._map = device_map

    def decode(self, message: Message, fleet: Fleet, now_ms: int) -> Decoded:
        """Return what a report holds.

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
        match message.topic.partition("?")[0].split("/"):
            case ["$oc", "devices", publisher, "sys", "properties", "report"]:
                batch = False
            case ["$oc", "devices", publisher, "sys", "gateway", "sub_devices", "properties", "report"]:
                batch = True
            case _:
                raise ReadingError(
                    "wrong_topic",
                    "topic must be $oc/devices/<device>/sys/properties/report or "
                    f"$oc/devices/<gateway>/sys/gateway/sub_devices/properties/report; got {message.topic!r}",
                )
        check_message(message)
        self._map.devices("iotda", publisher)  # refuses a stranger, whatever the payload holds
        document = load_json(message.payload)
        if not isinstance(document, dict):
            raise ReadingError("wrong_shape", f"the payload must be a JSON object; got {kind_of(document)}")
        found = Collector(self._map, "iotda", publisher, fleet, now_ms)
        if not batch:
            self._add_services(found, "", found.device(publisher), document.get("services"))
            return found.decoded()
        devices = document.get("devices")
        if not isinstance(devices, list) or not devices:
            raise ReadingError("wrong_shape", f"devices: must be a list of one or more; got {kind_of(devices)}")
        for number, item in enumerate(devices):
            where = f"devices[{number}]"
            if not isinstance(item, dict):
                found.refuse(where, ReadingError("wrong_shape", f"must be a JSON object; got {kind_of(item)}"))
                continue
            self._add_services(found, f"{where}.", found.device(item.get("device_id")), item.get("services"))
        return found.decoded()

    def _add_services(self, found: Collector, where: str, source: tuple[Device, Gate] | None, services: Any) -> None:
        if source is None:
            return  # refused already
        if not isinstance(services, list) or not services:
            found.refuse(
                f"{where}services", ReadingError("wrong_shape", f"must be a list of one or more; got {kind_of(services)}")
            )
            return
        for number, service in enumerate(services):
            inside = f"{where}services[{number}]"
            try:
                service_id, properties, ts_ms = _parts(service)
            except ReadingError as refusal:
                found.refuse(inside, refusal)
                continue
            values = ((f"{service_id}/{name}", value) for name, value in properties.items())
            found.add(inside, source, ts_ms, values, "event_time")


def _parts(service: Any) -> tuple[str, dict[str, Any], int | None]:
    if not isinstance(service, dict):
        raise ReadingError("wrong_shape", f"must be a JSON object; got {kind_of(service)}")
    service_id, properties = service.get("service_id"), service.get("properties")
    if not isinstance(service_id, str):
        raise ReadingError("wrong_shape", f"service_id: must be a string; got {short(service_id)}")
    if not isinstance(properties, dict) or not properties:
        raise ReadingError("wrong_shape", f"properties: must be an object of one or more; got {kind_of(properties)}")
    return service_id, properties, read_event_time(service.get("event_time"))


def read_event_time(text: Any) -> int | None:
    """Return an ``event_time`` as epoch milliseconds; None where there is none, as in ``null``.

    Raises
    ------
    ReadingError
        ``wrong_shape``: it is in neither of IoTDA's two formats. (The platform would take the time of receipt; a time
        that was meant and cannot be read is better mended than replaced.)

    Examples
    --------
    >>> read_event_time("20260301T081500Z"), read_event_time("2026-03-01T08:15:00.250Z"), read_event_time(None)
    (1772352900000, 1772352900250, None)
    """
    if text is None or text == "":
        return None
    try:
        if isinstance(text, str) and _COMPACT.match(text):
            instant = datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        else:
            instant = msgspec.convert(text, Instant)
    except ValueError:
        raise ReadingError(
            "wrong_shape", f"event_time: must be in UTC like 20260301T081500Z or 2026-03-01T08:15:00.250Z; got {short(text)}"
        ) from None
    return (instant - EPOCH) // MILLISECOND
