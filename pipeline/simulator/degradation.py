"""How a gate wears out: one engine for every failure mode. Hidden state only; no sensor sees this directly.

A mode is healthy until its hazard fires. Then its progress z grows by random steps, one a day, whose mean is usage / tau; the
function is lost when z reaches 1, or earlier when an operation asks too much of a worn part. The steps are Gamma-distributed
(wear never heals), for a dragging brake normal (it may free itself: z back at 0). The first mode to fail wins, the repair resets
the component, not always to as good as new. Some faults are silent (no sensor shows them), some failures sudden (no wear at all).

The hitting time has a closed form, by which the tests judge it: 1 - F(1 - z; shape usage / (tau c²), scale c²) with F the Gamma
distribution; for a dragging brake that of a Wiener process of drift 1 / tau and variance c² / tau between two barriers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.errors import BadInput
from pipeline.simulator.duty import Duty
from pipeline.simulator.inject import ForcedFailure
from pipeline.simulator.maintenance import Outage, Upkeep
from pipeline.simulator.streams import Floats, Ints, Layer, stream
from pipeline.simulator.weather import DAY_S, Weather

SUDDEN = "sudden"
HOISTS = ("winch", "screw", "hydraulic")

ON_DEMAND_PER_DAY = 0.10
"""Hazard a day that four operations at normal load break a part worn to z = 1."""


HEALING_START = 0.1
"""Progress at which a fault that may heal begins; at 0 it is gone."""


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
    heals : whether it is a Wiener process with drift that starts at `HEALING_START` and may heal, instead of a Gamma process
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
    heals: bool = False

    @property
    def starts_at(self) -> float:
        """Progress of a fresh fault."""
        return HEALING_START if self.heals else 0.0


MODES: Mapping[str, Mode] = {
    mode.code: mode
    for mode in (
        # lubrication and misalignment come first: what they reach today speeds the bearing's onset today
        Mode("lubrication", 1, "motor", 0.11, 30, 0.70, 0.30, 1.5, 0.10),
        Mode("misalignment", 3, "motor", 0.08, 75, 0.60, 0.25, 1.0, 0.05),
        Mode("motor_bearing", 0, "motor", 0.13, 38, 0.60, 0.22, 3.0, 0.10),
        Mode("winding", 7, "motor", 0.06, 12, 0.90, 0.45, 3.0, 0.50),
        Mode("gear", 2, "gearbox", 0.06, 110, 0.60, 0.18, 2.0, 0.10),
        Mode("brake_drag", 4, "brake", 0.12, 16, 0.70, 0.35, 1.2, 0.15, heals=True),
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
    ``outcome`` (``failed``, ``repaired`` or ``healed``) are set when it ends; it had reached ``z_end`` then. A ``forced`` one was
    asked for (`inject`): no inspection finds it and no repair of the component ends it before its time.
    """

    mode: Mode
    tau_d: float
    silent: bool
    first_day: int
    z: list[float] = field(default_factory=list)
    end_s: float = math.inf
    z_end: float = math.nan
    outcome: str = ""
    forced: bool = False

    def __post_init__(self) -> None:
        self.z = self.z or [self.mode.starts_at]

    def progress_at(self, t_s: Floats) -> Floats:
        """Progress at instants in seconds from the start: linear within a day, 0 before the onset and after the end."""
        knots_s = (self.first_day + np.arange(len(self.z))) * float(DAY_S)
        z = np.asarray(self.z)
        if self.outcome in ("failed", "healed"):
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
    rate = hazard_scale * mode.per_year * gate.frailty * gate.mix[mode.code] * np.sqrt(age_y / 15.0)
    return np.asarray(rate * environment(mode, weather) * usage / 365.0, dtype=np.float64)


def environment(mode: Mode, weather: Weather) -> Floats | float:
    """What the weather does to the onset of a mode, as a factor."""
    return ENVIRONMENT[mode.code](weather) if mode.code in ENVIRONMENT else 1.0


def demand_hazard(z: Floats | float, asked: Floats | float) -> Floats:
    """Hazard of a day that an operation breaks a part worn to ``z``; ``asked`` is from `demand`."""
    return np.asarray(ON_DEMAND_PER_DAY * np.clip((np.asarray(z) - 0.8) / 0.2, 0.0, 1.0) ** 2 * asked)


def demand(runs: Floats | Ints, load: Floats | float) -> Floats:
    """What a day's operations ask of worn parts: 1 for one run at a load of 0.6."""
    return np.asarray(np.minimum(runs, 4.0) * (np.asarray(load) / 0.6) ** 2)


def live(
    seed: int,
    gate_index: int,
    gate: Constitution,
    weather: Weather,
    duty: Duty,
    upkeep: Upkeep,
    hazard_scale: float = 1.0,
    modes: Sequence[Mode] | None = None,
    corrosion: Mapping[str, Floats] | None = None,
    forced: Sequence[ForcedFailure] = (),
) -> Life:
    """Let one gate live through its weather and duty, one step a day.

    Each fault has a stream of random numbers of its own, keyed by gate, mode and how many faults of the mode came before.
    A gate under repair does not age.

    Parameters
    ----------
    corrosion : factor on the onset of a mode by day, where a scenario changes it
    forced : failures to make, whatever else happens

    Raises
    ------
    BadInput
        A forced failure falls into a time in which the gate is out of service anyway.
    """
    return _Living(seed, gate_index, gate, weather, duty, upkeep, hazard_scale, modes, corrosion or {}, forced).life()


class _Living:
    """One gate from day to day: the faults it has, and what it waits for."""

    def __init__(
        self,
        seed: int,
        gate_index: int,
        gate: Constitution,
        weather: Weather,
        duty: Duty,
        upkeep: Upkeep,
        hazard_scale: float,
        modes: Sequence[Mode] | None,
        corrosion: Mapping[str, Floats],
        forced: Sequence[ForcedFailure],
    ) -> None:
        self.modes = modes_of(gate.hoist) if modes is None else modes
        self.seed, self.gate_index, self.days, self.duty, self.upkeep = seed, gate_index, weather.days, duty, upkeep
        hazard = {mode.code: onset_hazard(mode, gate, weather, duty.usage, hazard_scale) for mode in self.modes}
        self.hazard = {code: (rate * corrosion.get(code, 1.0)).tolist() for code, rate in hazard.items()}
        self.usage, self.asked = duty.usage.tolist(), demand(duty.runs, duty.day_load).tolist()
        self.count = {mode.code: -1 for mode in self.modes}
        self.randoms: dict[str, np.random.Generator] = {}
        self.patience: dict[str, float] = {}
        for mode in self.modes:
            self._renew(mode.code)
        self.active: dict[str, Episode] = {}
        self.episodes: list[Episode] = []
        self.outages: list[Outage] = []
        self.down_through = -1
        self.forced = [(failure, _forced_episode(seed, gate_index, failure, self.usage)) for failure in forced]

    def life(self) -> Life:
        for day in range(self.days):
            if day <= self.down_through:
                self._rest(day)
            else:
                self._age(day)
        episodes = self.episodes + [fault for _, fault in self.forced if fault is not None]
        return Life(sorted(episodes, key=lambda fault: (fault.first_day, fault.mode.number)), self.outages)

    def _renew(self, code: str) -> None:
        self.count[code] += 1
        self.randoms[code] = stream(self.seed, Layer.WEAR, self.gate_index, MODES[code].number, self.count[code])
        self.patience[code] = float(self.randoms[code].exponential())

    def _reset(self, component: str, at_s: float) -> None:
        """End every fault of a repaired component; the empty component is the whole gate."""
        for code in [code for code, fault in self.active.items() if component in ("", fault.mode.component)]:
            fault = self.active.pop(code)
            fault.end_s, fault.outcome = at_s, fault.outcome or "repaired"
            self._renew(code)

    def _rest(self, day: int) -> None:
        """A day of a gate that is out of service: nothing wears, nothing starts."""
        for fault in self.active.values():
            if day >= fault.first_day:
                fault.z.append(fault.z[-1])
        for failure, _ in self.forced:
            if failure.at_s // DAY_S == day:
                raise BadInput(f"inject: gate {failure.gate_id!r} is out of service at the time it should fail; choose another")

    def _age(self, day: int) -> None:
        busy_until_s = self._visit(day)
        failing: list[tuple[float, str]] = []
        progress: dict[str, float] = {}
        starting: list[Episode] = []
        for mode in self.modes:
            if mode.code in self.active:
                progress[mode.code] = self._wear(day, self.active[mode.code], failing)
            elif (fault := self._onset(day, mode, failing)) is not None:
                starting.append(fault)

        at_s, code, episode = self._first_to_fail(day, failing, busy_until_s)
        if code:
            mode = MODES[code]
            outage = Outage("failure", at_s, self.upkeep.repaired_s(at_s), code, mode.component)
            self.outages.append(outage)
            self.down_through = int(outage.end_s // DAY_S)
            if episode is not None and not episode.forced:
                episode.outcome, episode.z_end = "failed", min(progress[code], 1.0)
            self._reset(mode.component, at_s)
            for fault in [fault for fault in starting if mode.component in ("", fault.mode.component)]:
                starting.remove(fault)
                self._renew(fault.mode.code)
            left = 0.0 if episode is None or episode.forced else self.upkeep.left_behind(at_s)
            if left > 0.0:
                starting.append(self._fault(mode, self.down_through + 1, mode.starts_at + left))
        for code, fault in list(self.active.items()):
            if fault.mode.heals and progress[code] <= 0.0:
                fault.end_s, fault.z_end, fault.outcome = (day + 1.0) * DAY_S, 0.0, "healed"
                del self.active[code]
                self._renew(code)
            else:
                # where another mode was quicker, what was worn through holds on by a thread
                fault.z.append(min(progress[code], 0.999))
        for fault in starting:
            self.active[fault.mode.code] = fault
            self.episodes.append(fault)

    def _visit(self, day: int) -> float:
        """Inspections and overhauls of the day; return when the last of them ends, in seconds from the start."""
        busy_until_s = 0.0
        if self.upkeep.overhaul_due(day):
            outage = Outage("overhaul", *self.upkeep.inspection_s(day))
            self.outages.append(outage)
            self._reset("", outage.start_s)
            return outage.end_s
        if self.upkeep.inspection_due(day):
            for outage in _inspect(day, self.upkeep, list(self.active.values())):
                self.outages.append(outage)
                busy_until_s = outage.end_s
                if outage.kind == "found":
                    self._reset(outage.component, outage.start_s)
        return busy_until_s

    def _wear(self, day: int, fault: Episode, failing: list[tuple[float, str]]) -> float:
        """A day of one fault; return its progress after it, and put it among the failing where it is one of them."""
        mode, rng, z = fault.mode, self.randoms[fault.mode.code], fault.z[-1]
        c2 = mode.spread**2
        pace = self.usage[day] / fault.tau_d
        if mode.heals:
            after, share = _drag(rng, z, pace, c2)
        else:
            step = float(rng.gamma(pace / c2, c2))
            after, share = z + step, (1.0 - z) / max(step, 1e-300)
        if after >= 1.0:
            failing.append((share, mode.code))
        elif z > 0.8 and self.asked[day] > 0.0 and rng.random() < -math.expm1(-float(demand_hazard(z, self.asked[day]))):
            failing.append((float(rng.random()), mode.code))
        return after

    def _onset(self, day: int, mode: Mode, failing: list[tuple[float, str]]) -> Episode | None:
        code = mode.code
        strain = 1.0
        for cause, factor in COUPLINGS.get(code, ()):
            if cause in self.active and self.active[cause].z[-1] > 0.5:
                strain *= factor
        self.patience[code] -= self.hazard[code][day] * strain
        if self.patience[code] > 0.0:
            return None
        if code == SUDDEN:
            failing.append((float(self.randoms[code].random()), code))
            self._renew(code)
            return None
        return self._fault(mode, day + 1, mode.starts_at)

    def _fault(self, mode: Mode, first_day: int, z: float) -> Episode:
        rng = self.randoms[mode.code]
        tau_d = float(rng.lognormal(math.log(mode.pf_median_d), mode.pf_log_sd))
        return Episode(mode, tau_d, bool(rng.random() < mode.silent), first_day, [z])

    def _first_to_fail(
        self, day: int, failing: list[tuple[float, str]], busy_until_s: float
    ) -> tuple[float, str, Episode | None]:
        """When, by which mode and by which fault the gate fails today; an empty mode where it does not."""
        first: tuple[float, str, Episode | None] = (math.inf, "", None)
        if failing:
            fraction, code = min(failing)
            at_s = max(float(math.floor(self.duty.instant_s(day, fraction))), busy_until_s)
            first = (at_s, code, self.active.get(code))
        for failure, fault in self.forced:
            if failure.at_s // DAY_S == day:
                if failure.at_s < busy_until_s or failure.at_s > first[0]:
                    raise BadInput(
                        f"inject: gate {failure.gate_id!r} is out of service at the time it should fail; choose another"
                    )
                first = (failure.at_s, failure.mode, fault)
        return first


def _drag(rng: np.random.Generator, z: float, pace: float, c2: float) -> tuple[float, float]:
    """A day of a Wiener process between healing (0) and failure (1); what it touched between the midnights counts.

    Returns the progress after it, and when of the day (0 to 1) it failed, if it did.
    """
    variance = c2 * pace
    after = z + pace + math.sqrt(variance) * float(rng.normal())
    up, down, when = rng.random(3).tolist()
    # a Brownian bridge from z to `after` goes above 1, or below 0, with these chances
    if after >= 1.0 or up < math.exp(-2.0 * (1.0 - z) * (1.0 - after) / variance):
        return 1.0, when
    healed = after <= 0.0 or down < math.exp(-2.0 * z * after / variance)
    return (0.0 if healed else after), when


def _forced_episode(seed: int, gate_index: int, failure: ForcedFailure, usage: Sequence[float]) -> Episode | None:
    """The fault that ends in a forced failure: as wear of this mode looks when one knows that it ends there.

    The days it takes are the mode's median at this gate's usage, cut where the simulation begins; the way between is a Gamma
    process conditioned on its end.
    """
    mode = MODES[failure.mode]
    if mode.code == SUDDEN:
        return None
    last = int(failure.at_s // DAY_S)
    passed, first = 0.0, last
    while first > 0 and passed < mode.pf_median_d:
        first -= 1
        passed += usage[first]
    rng = stream(seed, Layer.INJECTION, gate_index, mode.number, int(failure.at_s))
    paces = np.asarray(usage[first : last + 1])
    steps = rng.gamma(np.maximum(paces / (mode.pf_median_d * mode.spread**2), 1e-3))
    # the last day counts for what of it passes before the failure
    steps[-1] *= max((failure.at_s - last * DAY_S) / DAY_S, 1e-3)
    path = np.concatenate([[0.0], np.cumsum(steps) / steps.sum()])
    z = mode.starts_at + (1.0 - mode.starts_at) * path
    return Episode(
        mode, mode.pf_median_d, False, first, z[:-1].tolist(), end_s=failure.at_s, z_end=1.0, outcome="failed", forced=True
    )


def _inspect(day: int, upkeep: Upkeep, faults: Sequence[Episode]) -> list[Outage]:
    """What one inspection leads to: a repair for each fault it finds, or a visit that changed nothing."""
    start_s, end_s = upkeep.inspection_s(day)
    found = [fault.mode for fault in faults if upkeep.finds(day, fault.mode.number, fault.z[-1])]
    if not found:
        return [Outage("inspection", start_s, end_s)]
    return [Outage("found", start_s, end_s, mode.code, mode.component) for mode in found]
