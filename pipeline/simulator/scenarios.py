"""Ways in which the world of a fleet differs from the one a model was trained in: by name, each with its expected effect.

A scenario changes one layer; what lies before its first day, and every layer above it, stays byte for byte as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from pipeline.errors import BadInput
from pipeline.simulator.streams import Floats, Layer, stream
from pipeline.simulator.weather import Change


@dataclass(frozen=True, slots=True)
class Scenario:
    """One difference.

    Attributes
    ----------
    name, change, effect : what it is called, what it changes, what is to be expected of it
    days : how long it lasts; 0 for to the end of the record
    season : month and day on which it begins, in the last year that has room for it; None: in the middle of the record
    """

    name: str
    change: str
    effect: str
    days: int = 0
    season: tuple[int, int] | None = None

    def window(self, start: date, days: int) -> slice:
        """The days of the record it lasts, as indices."""
        last_s = days - self.days
        begins = days // 2
        if self.season is not None:
            years = range(start.year, (start + timedelta(days=days)).year + 1)
            fits = [(date(year, *self.season) - start).days for year in years]
            begins = max((day for day in fits if 0 <= day <= last_s), default=begins)
        return slice(begins, min(begins + self.days, days) if self.days else days)


SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "heat_wave",
            "6 K warmer for 45 days from 1 July",
            "all temperatures up, lubrication and winding faults start more often; no alarm should come of the heat itself",
            days=45,
            season=(7, 1),
        ),
        Scenario(
            "flood_weeks",
            "28 days of extra rain from 1 June, Gamma(1.2, 45 mm) a day",
            "three to five times the duty, more load and leaf vibration, more sudden failures and seized guides",
            days=28,
            season=(6, 1),
        ),
        Scenario(
            "new_fleet",
            "machines of another make: other signal levels, sensitivities and mix of hoists",
            "levels learnt elsewhere mislead; comparison with the gate's own past should carry over",
        ),
        Scenario(
            "sensor_swap",
            "from the middle on, sensors are swapped: a third of the gates report motor velocity in m/s, a third have another "
            "gain at the gearbox",
            "steps in the readings without any fault of the gate",
        ),
        Scenario(
            "firmware",
            "from the middle on, gateways sample every 10 minutes of movement, and kurtosis and crest factor are dropped",
            "one vibration sample a run, features missing",
        ),
        Scenario(
            "drought",
            "from the middle on no rain; gates move for the weekly exercise only; brakes, guides and grease suffer from standing",
            "few operations to judge by; more brake, guide and lubrication faults per running hour",
        ),
        Scenario(
            "repair_wave",
            "every gate is overhauled within one month from the middle on",
            "labels censored, faults gone, every baseline moved",
            days=30,
        ),
        Scenario(
            "gateway_outage",
            "every station's uplink is down for three days from the middle on; its readings come afterwards, with their times",
            "readings late by up to three days; nothing lost, no alarm about the gates",
            days=3,
        ),
    )
}
"""Every scenario by its name."""

CORROSION: Mapping[str, float] = {"brake_drag": 2.0, "guide_seizure": 2.0, "lubrication": 1.5}
"""How many times more often these modes start per unit of use while gates stand still in a drought."""


def find_scenario(name: str) -> Scenario:
    """The scenario of this name; BadInput naming all of them where there is none."""
    if name not in SCENARIOS:
        raise BadInput(f"scenario must be one of {', '.join(SCENARIOS)}; got {name!r}")
    return SCENARIOS[name]


def weather_change(name: str, seed: int, river: int, start: date, days: int) -> Change | None:
    """What the scenario does to the weather of one river basin; None where nothing."""
    if name not in ("heat_wave", "flood_weeks", "drought"):
        return None
    window = SCENARIOS[name].window(start, days)
    warmer_k, more_mm, dry = np.zeros(days), np.zeros(days), np.zeros(days, dtype=np.bool_)
    if name == "heat_wave":
        warmer_k[window] = 6.0
    elif name == "flood_weeks":
        more_mm[window] = stream(seed, Layer.SCENARIO, river).gamma(1.2, 45.0, days)[window]
    else:
        dry[window] = True
    return Change(warmer_k, more_mm, dry)


def asked_factor(name: str, start: date, days: int) -> Floats:
    """Factor on the runs a gate is asked for, by day: none but the exercise in a drought."""
    factor = np.ones(days)
    if name == "drought":
        factor[SCENARIOS[name].window(start, days)] = 0.0
    return factor


def corrosion(name: str, start: date, days: int) -> dict[str, Floats]:
    """Factor on the onset of each mode that standing still harms, by day."""
    if name != "drought":
        return {}
    window = SCENARIOS[name].window(start, days)
    out: dict[str, Floats] = {}
    for mode, factor in CORROSION.items():
        out[mode] = np.ones(days)
        out[mode][window] = factor
    return out


def overhaul_day(name: str, seed: int, gate_index: int, start: date, days: int) -> int:
    """The day on which a gate is overhauled; -1 for never."""
    if name != "repair_wave":
        return -1
    window = SCENARIOS[name].window(start, days)
    return int(stream(seed, Layer.SCENARIO, gate_index).integers(window.start, window.stop))
