"""How a gate wears out: one Gamma-process engine for every failure mode. Hidden state only; no sensor sees this directly.

A mode is healthy until its hazard fires. Then its progress z grows from 0 by Gamma-distributed steps, one a day, whose mean is
usage / tau; the function is lost when z reaches 1, or earlier when an operation asks too much of a worn part. The first mode to
fail wins, the repair resets the component. Some faults are silent (no sensor shows them), some failures sudden (no wear at all).

The hitting time has a closed form, see `failure_probability`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import gammaincc

from pipeline.simulator.duty import Duty
from pipeline.simulator.maintenance import Outage, Upkeep
from pipeline.simulator.streams import Layer, stream
from pipeline.simulator.weather import DAY_S, Floats, Weather

SUDDEN = "sudden"
HOISTS = ("winch", "screw", "hydraulic")

ON_DEMAND_PER_DAY = 0.10
"""Hazard a day that four operations at normal load break a part worn to z = 1."""


@dataclass(frozen=True, slots=True)
class Mode:
    """One way to fail.

    Attributes
    ----------
    number : key of its random streams; never renumber
    component : whose case it is; empty for a failure of no component
    per_year : onsets per gate-year at average frailty, age and usage
    pf_median_d, pf_log_sd : the days from onset to failure at usage 1, log-normal over faults
    spread : relative spread of one fault's life (c of the Gamma process)
    sharpness : k of the severity (exp(k z) - 1) / (exp(k) - 1); greater is later and steeper
    silent : share of faults that no channel shows
    hoists : where it exists
    """

    code: str
    number: int
    component: str
    per_year: float
    pf_median_d: float
    pf_log_sd: float
    spread: float
    sharpness: float
    silent: float
    hoists: tuple[str, ...] = HOISTS


MODES: Mapping[str, Mode] = {
    mode.code: mode
    for mode in (
        # lubrication and misalignment come first: what they reach today speeds the bearing's onset today
        Mode("lubrication", 1, "motor", 0.11, 30, 0.70, 0.30, 1.5, 0.10),
        Mode("misalignment", 3, "motor", 0.08, 75, 0.60, 0.25, 1.0, 0.05),
        Mode("motor_bearing", 0, "motor", 0.13, 38, 0.60, 0.22, 3.0, 0.10),
        Mode("winding", 7, "motor", 0.06, 12, 0.90, 0.45, 3.0, 0.50),
        Mode("gear", 2, "gearbox", 0.06, 110, 0.60, 0.18, 2.0, 0.10),
        Mode("brake_drag", 4, "brake", 0.12, 16, 0.70, 0.35, 1.2, 0.15),
        Mode("guide_seizure", 5, "leaf", 0.13, 45, 0.70, 0.30, 1.5, 0.15),
        Mode("seal_wear", 6, "leaf", 0.06, 60, 0.60, 0.25, 1.0, 0.10),
        Mode("nut_wear", 8, "screw", 0.11, 50, 0.60, 0.25, 1.8, 0.10, ("screw",)),
        Mode("pump_wear", 9, "hydraulic", 0.11, 50, 0.60, 0.25, 1.8, 0.10, ("hydraulic",)),
        Mode("open_gear", 10, "drum", 0.11, 50, 0.60, 0.25, 1.8, 0.10, ("winch",)),
        Mode("rope_drum", 11, "drum", 0.05, 40, 0.80, 0.30, 2.0, 0.60, ("winch",)),
        Mode(SUDDEN, 12, "", 0.09, 0, 0, 0, 0, 1.0),
    )
}
"""Every failure mode by its code."""

COUPLINGS: Mapping[str, tuple[tuple[str, float], ...]] = {
    "motor_bearing": (("lubrication", 3.0), ("misalignment", 2.0)),
}
"""mode -> (cause, factor): while the cause is past half way, the mode starts so much more often."""


def modes_of(hoist: str) -> list[Mode]:
    """The failure modes a gate with this hoist can have, in the order the engine takes them."""
    return [mode for mode in MODES.values() if hoist in mode.hoists]


def severity(mode: Mode, z: Floats) -> Floats:
    """How strongly the sensors see progress ``z``: 0 at 0, 1 at 1, convex with the mode's sharpness, at most 1.2.

    Examples
    --------
    >>> severity(MODES["motor_bearing"], np.array([0.0, 0.5, 1.0])).round(3).tolist()
    [0.0, 0.182, 1.0]
    """
    k = mode.sharpness
    seen: Floats = np.minimum(np.expm1(k * z) / np.expm1(k), 1.2)
    return seen


def failure_probability(mode: Mode, z: float, tau_d: float, usage: float) -> float:
    """Probability that a fault of progress ``z`` and scale ``tau_d`` has reached 1 after ``usage`` more usage days.

    Closed form of the Gamma process: 1 - F(1 - z; shape usage / (tau c²), scale c²). Failures on demand are not in it.
    """
    scale = mode.spread**2
    return float(gammaincc(usage / (tau_d * scale), (1.0 - z) / scale))


@dataclass(frozen=True, slots=True)
class Constitution:
    """How prone one gate is to each mode, fixed over its life: frailty, mode mix, age in years at the start."""

    hoist: str
    frailty: float
    mix: Mapping[str, float]
    age_y: float


@dataclass(slots=True)
class Episode:
    """One fault from its onset to its failure or repair.

    ``z[i]`` is the progress at the start of day ``first_day + i``. ``end_s`` (seconds from the start of the simulation) and
    ``outcome`` (``failed`` or ``repaired``) are set when it ends; a failed one had reached ``z_end``.
    """

    mode: Mode
    tau_d: float
    silent: bool
    first_day: int
    z: list[float] = field(default_factory=lambda: [0.0])
    end_s: float = math.inf
    z_end: float = math.nan
    outcome: str = ""

    def progress_at(self, t_s: Floats) -> Floats:
        """Progress at instants in seconds from the start: linear within a day, 0 before the onset and after the end."""
        knots_s = (self.first_day + np.arange(len(self.z))) * float(DAY_S)
        z = np.asarray(self.z)
        if self.outcome == "failed":
            knots_s, z = np.append(knots_s, self.end_s), np.append(z, self.z_end)
        within = (t_s >= self.first_day * DAY_S) & (t_s <= self.end_s)
        return np.where(within, np.interp(t_s, knots_s, z), 0.0)


@dataclass(frozen=True, slots=True)
class Life:
    """Everything hidden that happened to one gate: its faults and its outages, in order of time."""

    episodes: Sequence[Episode]
    outages: Sequence[Outage]

    @property
    def failures(self) -> list[Outage]:
        """The outages that were failures."""
        return [outage for outage in self.outages if outage.kind == "failure"]


def heat_factor(ambient_c: Floats) -> Floats:
    """Ageing of insulation and grease against 30 °C; it doubles every 12 K."""
    return np.exp2((np.maximum(ambient_c, 15.0) - 30.0) / 12.0)


ENVIRONMENT: Mapping[str, Callable[[Weather], Floats]] = {
    "lubrication": lambda weather: heat_factor(weather.ambient_c) ** 0.6,
    "misalignment": lambda weather: 1.0 + (weather.flood > 1.0),
    "guide_seizure": lambda weather: 1.0 + 0.5 * weather.flood,
    "winding": lambda weather: heat_factor(weather.ambient_c) * (1.0 + 0.5 * (weather.rain_mm > 10.0)),
    SUDDEN: lambda weather: 0.6 + 1.2 * weather.flood + 0.3 * (weather.rain_mm > 40.0),
}
"""What weather does to the onset of a mode; nothing where it is not named."""


def onset_hazard(mode: Mode, gate: Constitution, weather: Weather, usage: Floats, hazard_scale: float = 1.0) -> Floats:
    """Chance a day, to first order, that the mode starts (for a sudden failure: happens), one value per day."""
    age_y = gate.age_y + np.arange(len(usage)) / 365.0
    environment = ENVIRONMENT[mode.code](weather) if mode.code in ENVIRONMENT else 1.0
    rate = hazard_scale * mode.per_year * gate.frailty * gate.mix[mode.code] * np.sqrt(age_y / 15.0)
    return np.asarray(rate * environment * usage / 365.0, dtype=np.float64)


def live(
    seed: int,
    gate_index: int,
    gate: Constitution,
    weather: Weather,
    duty: Duty,
    upkeep: Upkeep,
    hazard_scale: float = 1.0,
    modes: Sequence[Mode] | None = None,
) -> Life:
    """Let one gate live through its weather and duty, one step a day.

    Each fault has a stream of random numbers of its own, keyed by gate, mode and how many faults of the mode came before.
    A gate under repair does not age.
    """
    modes = modes_of(gate.hoist) if modes is None else modes
    usage = duty.usage
    hazard = {mode.code: onset_hazard(mode, gate, weather, usage, hazard_scale).tolist() for mode in modes}
    usage_of_day, runs, load = usage.tolist(), duty.runs.tolist(), duty.day_load.tolist()

    active: dict[str, Episode] = {}
    randoms = {mode.code: stream(seed, Layer.WEAR, gate_index, mode.number, 0) for mode in modes}
    patience = {mode.code: float(randoms[mode.code].exponential()) for mode in modes}
    count = dict.fromkeys(patience, 0)
    episodes: list[Episode] = []
    outages: list[Outage] = []
    down_through = -1

    def renew(code: str) -> None:
        count[code] += 1
        randoms[code] = stream(seed, Layer.WEAR, gate_index, MODES[code].number, count[code])
        patience[code] = float(randoms[code].exponential())

    def reset(component: str, at_s: float) -> None:
        """End every fault of a repaired component; the empty component is the whole gate."""
        for code in [code for code, fault in active.items() if component in ("", fault.mode.component)]:
            fault = active.pop(code)
            fault.end_s, fault.outcome = at_s, fault.outcome or "repaired"
            renew(code)

    for day in range(weather.days):
        if day <= down_through:
            for fault in active.values():
                fault.z.append(fault.z[-1])
            continue
        busy_until_s = 0.0
        if upkeep.inspection_due(day):
            inspected = _inspect(day, upkeep, list(active.values()))
            outages += inspected
            for outage in inspected:
                busy_until_s = outage.end_s
                if outage.kind == "found":
                    reset(outage.component, outage.start_s)

        failing: list[tuple[float, str]] = []
        progress: dict[str, float] = {}
        starting: list[Episode] = []
        for mode in modes:
            code, rng = mode.code, randoms[mode.code]
            if code in active:
                fault = active[code]
                z, scale = fault.z[-1], mode.spread**2
                step = float(rng.gamma(usage_of_day[day] / (fault.tau_d * scale), scale))
                progress[code] = z + step
                if z + step >= 1.0:
                    failing.append(((1.0 - z) / step, code))
                elif z > 0.8 and runs[day] > 0:
                    asked = min(runs[day], 4) * (load[day] / 0.6) ** 2
                    if rng.random() < -math.expm1(-ON_DEMAND_PER_DAY * ((z - 0.8) / 0.2) ** 2 * asked):
                        failing.append((float(rng.random()), code))
                continue
            strain = 1.0
            for cause, factor in COUPLINGS.get(code, ()):
                if cause in active and active[cause].z[-1] > 0.5:
                    strain *= factor
            patience[code] -= hazard[code][day] * strain
            if patience[code] > 0.0:
                continue
            if code == SUDDEN:
                failing.append((float(rng.random()), code))
                renew(code)
            else:
                tau_d = float(rng.lognormal(math.log(mode.pf_median_d), mode.pf_log_sd))
                starting.append(Episode(mode, tau_d, bool(rng.random() < mode.silent), day + 1))

        if failing:
            fraction, code = min(failing)
            at_s = max(float(math.floor(duty.instant_s(day, fraction))), busy_until_s)
            outage = Outage("failure", at_s, upkeep.repaired_s(at_s), code, MODES[code].component)
            outages.append(outage)
            down_through = int(outage.end_s // DAY_S)
            if code in active:
                active[code].outcome, active[code].z_end = "failed", min(progress[code], 1.0)
            reset(outage.component, at_s)
            for fault in [fault for fault in starting if outage.component in ("", fault.mode.component)]:
                starting.remove(fault)
                renew(fault.mode.code)
        for code, fault in active.items():
            # where another mode was quicker, what was worn through holds on by a thread
            fault.z.append(min(progress[code], 0.999))
        for fault in starting:
            active[fault.mode.code] = fault
            episodes.append(fault)
    return Life(episodes, outages)


def _inspect(day: int, upkeep: Upkeep, faults: Sequence[Episode]) -> list[Outage]:
    """What one inspection leads to: a repair for each fault it finds, or a visit that changed nothing."""
    start_s, end_s = upkeep.inspection_s(day)
    found = [fault.mode for fault in faults if upkeep.finds(day, fault.mode.number, fault.z[-1])]
    if not found:
        return [Outage("inspection", start_s, end_s)]
    return [Outage("found", start_s, end_s, mode.code, mode.component) for mode in found]
