"""Spectra: what one burst of raw acceleration says of a bearing and a gear. No network, database, file or clock.

A burst becomes readings of quantities the product already knows (`indicators`), in canonical units, so that features compare them
with the machine's own past as they do with any other reading. What a burst cannot tell, for it is too short, too slow or the
geometry is not known, it does not tell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.readings import STANDARD_GRAVITY_M_S2
from pipeline.waveforms import Burst

Floats = npt.NDArray[np.float64]

VELOCITY_BAND_HZ = (10.0, 1_000.0)
"""The band of ISO 10816 and 20816 for machines of 600 rpm and more, both ends included."""

ENVELOPE_FROM_HZ, ENVELOPE_UP_TO = 2_000.0, 0.4
"""The envelope is that of what rings from 2 kHz up to this share of the sampling rate: above shaft and mesh, below the filter of
the sensor."""

SLIP = 0.02
"""Balls slide as they roll, and a motor under load turns slower than its plate says: a defect's line is looked for within 2 %."""

RESOLVED_PERIODS = 4.0
"""Periods of a frequency that a burst must hold to tell it from an offset: a Hann window smears each line over 4 / duration."""

PADDING = 4
"""Spectra of the envelope are padded to this many times the burst: a line between two bins loses 1 % instead of 15 %."""

MESH_HARMONICS, MESH_SIDEBANDS = 3, 2.5
"""The mesh band: so many harmonics, each with the sidebands up to so many times the shaft frequency around it."""


@dataclass(frozen=True, slots=True)
class DefectFrequencies:
    """How often, in Hz, the shaft turns, the cage turns, a ball passes the outer and the inner race, and a ball spins."""

    shaft_hz: float
    ftf_hz: float
    bpfo_hz: float
    bpfi_hz: float
    bsf_hz: float


@dataclass(frozen=True, slots=True)
class Machine:
    """What decides the frequencies of a drive: speed, one rolling bearing, the teeth of the wheel on the same shaft.

    ``ball_mm`` and ``pitch_mm`` are diameters, ``angle_deg`` is the contact angle; what is not known is NaN, and so is every
    frequency that hangs on it.
    """

    speed_rpm: float = math.nan
    balls: float = math.nan
    ball_mm: float = math.nan
    pitch_mm: float = math.nan
    angle_deg: float = 0.0
    gear_teeth: float = math.nan

    @classmethod
    def of(cls, component: Mapping[Any, Any]) -> Machine:
        """From a row of components.csv; a contact angle that is not given is 0, any other number not above 0 is not known."""
        names = ("speed_rpm", "bearing_balls", "bearing_ball_mm", "bearing_pitch_mm", "gear_teeth")
        speed_rpm, balls, ball_mm, pitch_mm, teeth = (
            value if value > 0.0 else math.nan for value in (float(component[name]) for name in names)
        )
        angle_deg = float(component["bearing_angle_deg"])
        return cls(speed_rpm, balls, ball_mm, pitch_mm, 0.0 if math.isnan(angle_deg) else angle_deg, teeth)

    @property
    def frequencies(self) -> DefectFrequencies:
        """The frequencies of its bearing."""
        return defect_frequencies(self.speed_rpm, self.balls, self.ball_mm, self.pitch_mm, self.angle_deg)

    @property
    def mesh_hz(self) -> float:
        """How often two teeth meet."""
        return self.gear_teeth * self.speed_rpm / 60.0


def defect_frequencies(
    speed_rpm: float, balls: float, ball_mm: float, pitch_mm: float, angle_deg: float = 0.0
) -> DefectFrequencies:
    """Return the frequencies of a rolling bearing whose outer race stands still, without slip.

    Examples
    --------
    >>> found = defect_frequencies(1800, 9, 7.938, 38.5)  # a 6205
    >>> round(found.bpfo_hz), round(found.bpfi_hz), round(found.ftf_hz, 1)
    (107, 163, 11.9)

    References
    ----------
    Randall and Antoni (2011), "Rolling element bearing diagnostics: a tutorial", equations 1 to 4.
    """
    shaft_hz = speed_rpm / 60.0
    ratio = ball_mm / pitch_mm * math.cos(math.radians(angle_deg))
    ftf_hz = shaft_hz / 2.0 * (1.0 - ratio)
    return DefectFrequencies(
        shaft_hz=shaft_hz,
        ftf_hz=ftf_hz,
        bpfo_hz=balls * ftf_hz,
        bpfi_hz=balls * shaft_hz / 2.0 * (1.0 + ratio),
        bsf_hz=pitch_mm / (2.0 * ball_mm) * shaft_hz * (1.0 - ratio**2),
    )


def indicators(burst: Burst, machine: Machine) -> dict[str, float]:
    """Return what a burst shows, by quantity, in canonical units.

    Parameters
    ----------
    burst : Burst
    machine : Machine
        Of the component it was taken on.

    Returns
    -------
    dict of str to float
        ``acceleration_rms`` and ``acceleration_peak`` (g, about the mean), ``crest_factor`` (peak over RMS), ``kurtosis`` (3 for
        normal noise), ``velocity_rms`` (mm/s, see `velocity_rms_mm_s`), ``envelope_bpfo``, ``envelope_bpfi``, ``envelope_bsf``,
        ``envelope_ftf`` (g, see `envelope_amplitude_g`) and ``gear_mesh`` (g, see `mesh_rms_g`). What the burst cannot tell is
        absent; one without any movement has neither kurtosis nor crest factor.
    """
    acceleration_g = burst.acceleration_g - burst.acceleration_g.mean()
    rms_g, peak_g = math.sqrt(float(np.mean(acceleration_g**2))), float(np.abs(acceleration_g).max())
    found = {"acceleration_rms": rms_g, "acceleration_peak": peak_g}
    if rms_g > 0.0:
        found["kurtosis"] = float(np.mean((acceleration_g / rms_g) ** 4))
        found["crest_factor"] = peak_g / rms_g
    found["velocity_rms"] = velocity_rms_mm_s(acceleration_g, burst.rate_hz)
    bearing = machine.frequencies
    sought = {"bpfo": bearing.bpfo_hz, "bpfi": bearing.bpfi_hz, "bsf": bearing.bsf_hz, "ftf": bearing.ftf_hz}
    amplitudes = envelope_amplitude_g(acceleration_g, burst.rate_hz, np.array(list(sought.values())))
    found |= {f"envelope_{name}": float(amplitude) for name, amplitude in zip(sought, amplitudes, strict=True)}
    found["gear_mesh"] = mesh_rms_g(acceleration_g, burst.rate_hz, machine.mesh_hz, bearing.shaft_hz)
    return {quantity: value for quantity, value in found.items() if math.isfinite(value)}


def velocity_rms_mm_s(acceleration_g: Floats, rate_hz: float) -> float:
    """Return the root mean square of the velocity between 10 and 1,000 Hz, in mm/s.

    Each line of the acceleration's spectrum (Hann window) is divided by its angular frequency. NaN where the burst holds less
    than four periods of 10 Hz (0.4 s) or its rate is not above 2,000 Hz.

    Parameters
    ----------
    acceleration_g : ndarray, shape (n,), in g
    rate_hz : samples a second

    Examples
    --------
    >>> t_s = np.arange(12_800) / 12_800
    >>> round(velocity_rms_mm_s(np.sqrt(2) * np.sin(2 * np.pi * 100 * t_s), 12_800.0), 2)  # 9.80665 / (2 pi 100) m/s
    15.61
    """
    low_hz, high_hz = VELOCITY_BAND_HZ
    n = len(acceleration_g)
    if n / rate_hz < RESOLVED_PERIODS / low_hz or rate_hz <= 2.0 * high_hz:
        return math.nan
    hz, power = _power(acceleration_g, rate_hz)
    band = (hz >= low_hz) & (hz <= high_hz)
    velocity = power[band] / (2.0 * np.pi * hz[band]) ** 2
    return 1000.0 * STANDARD_GRAVITY_M_S2 * math.sqrt(float(velocity.sum()))


def envelope_amplitude_g(acceleration_g: Floats, rate_hz: float, sought_hz: Floats) -> Floats:
    """Return how strongly the envelope swings at some frequencies, in g.

    What rings from 2 kHz to 0.4 of the rate is demodulated (the magnitude of its analytic signal, in the frequency domain); the
    amplitude is the highest line of the envelope's Hann spectrum within 2 % of the frequency. A carrier of amplitude A with a
    modulation of depth m shows A m.

    Parameters
    ----------
    acceleration_g : ndarray, shape (n,), in g
    rate_hz : samples a second
    sought_hz : ndarray, shape (k,)
        NaN where not known.

    Returns
    -------
    ndarray, shape (k,)
        NaN for a frequency that is not known, of which the burst holds less than four periods, or that the band is too narrow to
        carry (half its width at most).
    """
    n, low_hz, high_hz = len(acceleration_g), ENVELOPE_FROM_HZ, ENVELOPE_UP_TO * rate_hz
    told = (sought_hz >= RESOLVED_PERIODS * rate_hz / n) & (sought_hz <= (high_hz - low_hz) / 2.0)
    amplitudes = np.full(len(sought_hz), np.nan)
    if not told.any():
        return amplitudes
    hz = np.fft.fftfreq(n, 1.0 / rate_hz)
    kept = np.where((hz >= low_hz) & (hz <= high_hz), 2.0 * np.fft.fft(acceleration_g), 0.0)
    envelope = np.abs(np.fft.ifft(kept))
    window = _hann(n)
    lines = np.abs(np.fft.rfft((envelope - envelope.mean()) * window, PADDING * n)) * 2.0 / window.sum()
    step_hz = rate_hz / (PADDING * n)
    for place in np.flatnonzero(told):
        first, last = (round(sought_hz[place] * (1.0 + side * SLIP) / step_hz) for side in (-1, 1))
        amplitudes[place] = lines[first : last + 1].max()
    return amplitudes


def mesh_rms_g(acceleration_g: Floats, rate_hz: float, mesh_hz: float, shaft_hz: float) -> float:
    """Return the root mean square of what sounds around the gear mesh frequency and its harmonics, in g.

    Around each of three harmonics counts a band of 2.5 shaft frequencies to both sides, which holds two sidebands; harmonics
    whose band the rate cannot carry are left out. NaN where not even the first fits or the burst cannot resolve the sidebands.
    """
    reach_hz = MESH_SIDEBANDS * shaft_hz
    n = len(acceleration_g)
    if not (mesh_hz + reach_hz < rate_hz / 2.0 and shaft_hz >= RESOLVED_PERIODS * rate_hz / n):
        return math.nan
    hz, power = _power(acceleration_g, rate_hz)
    centres = mesh_hz * np.arange(1, MESH_HARMONICS + 1)
    centres = centres[centres + reach_hz < rate_hz / 2.0]
    band = (np.abs(hz[:, None] - centres) <= reach_hz).any(axis=1)
    return math.sqrt(float(power[band].sum()))


def _power(x: Floats, rate_hz: float) -> tuple[Floats, Floats]:
    """Frequencies and the mean square that stands at each, through a Hann window; they add up to the whole mean square."""
    n, window = len(x), _hann(len(x))
    power = np.abs(np.fft.rfft(x * window)) ** 2 * 2.0 / (n * np.sum(window**2))
    return np.asarray(np.fft.rfftfreq(n, 1.0 / rate_hz), dtype=np.float64), power


def _hann(n: int) -> Floats:
    return np.asarray(0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(n) / n))


@dataclass(frozen=True, slots=True)
class ZoneClass:
    """One class of a vibration standard: the power it is for (kW, above and up to), its A/B, B/C and C/D boundaries (mm/s)."""

    above_kw: float
    up_to_kw: float
    boundaries_mm_s: tuple[float, float, float]


ZONES: Mapping[str, ZoneClass] = {
    "I": ZoneClass(0.0, 15.0, (0.71, 1.8, 4.5)),
    "II": ZoneClass(15.0, 75.0, (1.12, 2.8, 7.1)),
    "III": ZoneClass(75.0, math.inf, (1.8, 4.5, 11.2)),
}
"""Classes of ISO 10816-1 by the name that ``iso_class`` of components.csv has for them."""

ZONE_SPEED_RPM = (600.0, 12_000.0)
"""Speeds at which 10 to 1,000 Hz hold what a machine's vibration is judged by."""

OUT_OF_SCOPE = "out_of_scope"


@dataclass(frozen=True, slots=True)
class IsoZone:
    """Zone ``A`` (new) to ``D`` (damaging), or ``out_of_scope`` with the reason in words; the reason is empty in scope."""

    zone: str
    reason: str = ""


def iso_zone(velocity_rms: float, iso_class: str, rated_power_kw: float, speed_rpm: float, *, continuous: bool) -> IsoZone:
    """Return the zone of ISO 10816-1 for a velocity RMS (mm/s, 10 to 1,000 Hz); a value on a boundary lies in the better zone.

    The zones are for machines that run on at a steady speed. A hoist runs for minutes: its own past judges it, no zone does.

    Examples
    --------
    >>> iso_zone(2.1, "I", 11.0, 960.0, continuous=True)
    IsoZone(zone='C', reason='')
    >>> iso_zone(2.1, "I", 11.0, 960.0, continuous=False).reason
    'the machine runs for minutes; zones are for continuous operation'
    """
    reason = _outside(velocity_rms, iso_class, rated_power_kw, speed_rpm, continuous)
    if reason:
        return IsoZone(OUT_OF_SCOPE, reason)
    return IsoZone("ABCD"[int(np.searchsorted(ZONES[iso_class].boundaries_mm_s, velocity_rms))])


def _outside(velocity_rms: float, iso_class: str, rated_power_kw: float, speed_rpm: float, continuous: bool) -> str:
    """Why the standard does not apply; empty where it does."""
    if not math.isfinite(velocity_rms):
        return "no velocity RMS of 10 to 1,000 Hz"
    if iso_class not in ZONES:
        return f"iso_class is none of {', '.join(ZONES)}; got {iso_class!r}"
    if not continuous:
        return "the machine runs for minutes; zones are for continuous operation"
    of_class = ZONES[iso_class]
    if not of_class.above_kw < rated_power_kw <= of_class.up_to_kw:
        return f"class {iso_class} is for {of_class.above_kw:g} to {of_class.up_to_kw:g} kW; got {rated_power_kw:g} kW"
    slowest, fastest = ZONE_SPEED_RPM
    if not slowest <= speed_rpm <= fastest:
        return f"zones are for {slowest:g} to {fastest:g} rpm; got {speed_rpm:g} rpm"
    return ""
