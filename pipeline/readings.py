"""Readings, units and ranges: what may enter. No network, no database, no clock.

A *channel* is one measured quantity at one place of one component; a *reading* is what one component's channels showed
at one instant, in canonical units. Everything downstream speaks canonical units only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.errors import BadInput

DAY_MS = 86_400_000

STANDARD_GRAVITY_M_S2 = 9.80665

ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
"""What a station, gate, component or point may be called."""


class ReadingError(BadInput):
    """A value, unit, name or time that cannot be a reading.

    Attributes
    ----------
    reason : str
        Machine-readable code, e.g. ``wrong_unit`` or ``out_of_range``; the quarantine is grouped by it.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Conversion:
    """``canonical = value * factor + offset``."""

    factor: float = 1.0
    offset: float = 0.0

    def apply(self, value: float) -> float:
        """Convert one value to the canonical unit."""
        return value * self.factor + self.offset


@dataclass(frozen=True, slots=True)
class Quantity:
    """A measurable quantity: its canonical unit, the units accepted for it and what is physically possible.

    ``low`` and ``high`` are limits of the possible, in the canonical unit, not limits of the healthy: a value outside
    them is a broken message, a value inside them is evidence.
    """

    name: str
    unit: str
    low: float
    high: float
    accepted: Mapping[str, Conversion]


_IDENTITY = Conversion()
_ACCELERATION = {"g": _IDENTITY, "m/s2": Conversion(1 / STANDARD_GRAVITY_M_S2), "mg": Conversion(1e-3)}
_LENGTH = {"m": _IDENTITY, "cm": Conversion(1e-2), "mm": Conversion(1e-3)}
_TEMPERATURE = {"degC": _IDENTITY, "degF": Conversion(5 / 9, -160 / 9), "K": Conversion(1.0, -273.15)}
_NUMBER = {"1": _IDENTITY}


def _quantity(name: str, low: float, high: float, accepted: Mapping[str, Conversion]) -> Quantity:
    canonical = next(unit for unit, conversion in accepted.items() if conversion == _IDENTITY)
    return Quantity(name=name, unit=canonical, low=low, high=high, accepted=accepted)


QUANTITIES: Mapping[str, Quantity] = {
    quantity.name: quantity
    for quantity in (
        _quantity("velocity_rms", 0.0, 1000.0, {"mm/s": _IDENTITY, "m/s": Conversion(1e3)}),
        *(
            _quantity(name, 0.0, 1000.0, _ACCELERATION)
            for name in (
                "acceleration_rms",
                "acceleration_peak",
                "envelope_bpfo",
                "envelope_bpfi",
                "envelope_bsf",
                "envelope_ftf",
                "gear_mesh",
            )
        ),
        _quantity("kurtosis", 0.0, 1000.0, _NUMBER),
        _quantity("crest_factor", 0.0, 1000.0, _NUMBER),
        _quantity("temperature", -60.0, 400.0, _TEMPERATURE),
        _quantity("ambient_temperature", -60.0, 80.0, _TEMPERATURE),
        _quantity("current", 0.0, 5000.0, {"A": _IDENTITY, "mA": Conversion(1e-3)}),
        _quantity("moving", 0.0, 1.0, _NUMBER),
        *(_quantity(name, -1000.0, 10000.0, _LENGTH) for name in ("opening", "head", "water_level")),
        _quantity("load", 0.0, 5.0, {"1": _IDENTITY, "%": Conversion(1e-2)}),
        _quantity("humidity", 0.0, 100.0, {"%": _IDENTITY}),
        _quantity("oil_pressure", -1.0, 1000.0, {"bar": _IDENTITY, "kPa": Conversion(1e-2), "MPa": Conversion(10.0)}),
    )
}
"""Every quantity of the dataset format (DATASET.md), by name."""


def find_quantity(name: str) -> Quantity:
    """Return the quantity called `name`.

    Raises
    ------
    ReadingError
        ``unknown_quantity``, naming what is known.
    """
    try:
        return QUANTITIES[name]
    except KeyError:
        raise ReadingError("unknown_quantity", f"quantity {name!r} is unknown; known are {', '.join(QUANTITIES)}") from None


def find_conversion(quantity: str, unit: str) -> Conversion:
    """Return how `unit` becomes the canonical unit of `quantity`.

    Raises
    ------
    ReadingError
        ``unknown_quantity`` or ``wrong_unit``, naming the units allowed.

    Examples
    --------
    >>> find_conversion("velocity_rms", "m/s").apply(0.0023)
    2.3
    """
    known = find_quantity(quantity)
    try:
        return known.accepted[unit]
    except KeyError:
        allowed = ", ".join(known.accepted)
        raise ReadingError("wrong_unit", f"unit of {quantity}: allowed are {allowed}; got {unit!r}") from None


def to_canonical(quantity: str, unit: str, value: float) -> float:
    """Convert one value to the canonical unit and check that it is possible.

    Raises
    ------
    ReadingError
        ``unknown_quantity``, ``wrong_unit``, ``not_finite`` or ``out_of_range``, which names the units that would fit.

    Examples
    --------
    >>> to_canonical("temperature", "degF", 212.0)
    100.0
    """
    canonical = find_conversion(quantity, unit).apply(value)
    try:
        return check_range(quantity, canonical)
    except ReadingError as refusal:
        known = find_quantity(quantity)
        fitting = [other for other, to in known.accepted.items() if known.low <= to.apply(value) <= known.high]
        if refusal.reason != "out_of_range" or not fitting:
            raise
        hint = f"{value:g} would be possible in {' or '.join(fitting)}; is the unit wrong?"
        raise ReadingError(refusal.reason, f"{refusal} ({hint})") from None


def check_range(quantity: str, value: float) -> float:
    """Return `value` (canonical unit) when it is finite and physically possible.

    Raises
    ------
    ReadingError
        ``not_finite`` or ``out_of_range``.
    """
    known = find_quantity(quantity)
    if not math.isfinite(value):
        raise ReadingError("not_finite", f"{quantity} must be a finite number; got {value}")
    if not known.low <= value <= known.high:
        raise ReadingError("out_of_range", f"{quantity} must lie in {known.low:g}..{known.high:g} {known.unit}; got {value:g}")
    return value


def quantity_of(column: str) -> str:
    """The quantity a channel key names, ``""`` when unknown: ``temperature`` for ``motor.winding.temperature``."""
    quantity = column.rpartition(".")[2]
    return quantity if quantity in QUANTITIES else ""


@dataclass(frozen=True, slots=True)
class Channel:
    """One measured quantity at one place of one component of one gate.

    `unit` is the unit its values arrive in, `interval_s` the expected reporting interval at rest in seconds.
    """

    gate_id: str
    component: str
    quantity: str
    unit: str
    point: str = ""
    axis: str = ""
    band_low_hz: float | None = None
    band_high_hz: float | None = None
    interval_s: float | None = None

    @property
    def name(self) -> str:
        """Name within the component, as in a message: ``quantity`` or ``point.quantity``."""
        return f"{self.point}.{self.quantity}" if self.point else self.quantity

    @property
    def key(self) -> str:
        """Name within the gate, as in a readings file: ``component.quantity`` or ``component.point.quantity``."""
        return f"{self.component}.{self.name}"


def split_name(name: str) -> tuple[str, str]:
    """Split ``quantity`` or ``point.quantity`` into (point, quantity); the point is empty where there is none.

    Raises
    ------
    ReadingError
        ``wrong_shape`` when there are more parts or a part is not an id.

    Examples
    --------
    >>> split_name("winding.temperature")
    ('winding', 'temperature')
    """
    point, dot, quantity = name.rpartition(".")
    if (dot and not ID_PATTERN.match(point)) or not ID_PATTERN.match(quantity):
        raise ReadingError("wrong_shape", f"a value's name must be `quantity` or `point.quantity`; got {name!r}")
    return point, quantity


@dataclass(frozen=True, slots=True)
class Reading:
    """What one component's channels showed at one instant, in canonical units.

    The instant is epoch milliseconds UTC (`ts_ms`), an integer because millions of these pass through; `values` is
    keyed by `Channel.name`.
    """

    gate_id: str
    component: str
    ts_ms: int
    values: Mapping[str, float]


class Stretch(NamedTuple):
    """A stretch of one gate's readings as arrays, side by side.

    Attributes
    ----------
    channels : their keys (`Channel.key`), sorted; those that have a value
    ts_ms : the instants (epoch ms), rising, shape (rows,)
    values : NaN where a channel was not measured then, shape (channels, rows)
    """

    channels: tuple[str, ...]
    ts_ms: np.ndarray
    values: np.ndarray
