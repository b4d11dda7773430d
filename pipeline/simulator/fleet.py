"""Which gates there are and how they differ: stations along rivers, hoists, ages, duty, signal baselines, thermal constants.

Everything here is fixed over a gate's life and drawn from the gate's own stream, so a fleet of 24 gates is the beginning of the
fleet of 100 with the same seed and stations of the same size. River names are real ones of Shenzhen; the gates are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from pipeline.errors import BadInput
from pipeline.simulator.degradation import HOISTS, MODES, Constitution, modes_of
from pipeline.simulator.duty import Calling
from pipeline.simulator.inject import ForcedFailure, ForcedFault, parse
from pipeline.simulator.scenarios import find_scenario, weather_change
from pipeline.simulator.sensor_faults import check_fault
from pipeline.simulator.streams import Layer, stream
from pipeline.simulator.weather import DAY_S, UTC_OFFSET_H, Weather, make_weather

GATES_PER_STATION = 3
STATIONS_PER_RIVER = 8

RIVERS = (
    ("DSH", "Dasha River", "大沙河", 22.600, 113.960),
    ("MZH", "Maozhou River", "茅洲河", 22.780, 113.860),
    ("GLH", "Guanlan River", "观澜河", 22.710, 114.060),
    ("LGH", "Longgang River", "龙岗河", 22.740, 114.280),
    ("PSH", "Pingshan River", "坪山河", 22.690, 114.380),
    ("XXH", "Xixiang River", "西乡河", 22.590, 113.880),
)

HOIST_SHARES = {"winch": 0.5, "screw": 0.3, "hydraulic": 0.2}
OTHER_HOIST_SHARES = {"winch": 0.2, "screw": 0.3, "hydraulic": 0.5}
OTHER_LEVELS: Mapping[str, float] = {"velocity_rms": 1.8, "acceleration_rms": 1.5, "kurtosis": 1.05, "current": 0.9}
"""The make of `new_fleet`: shares of the hoists, and factors on the healthy levels."""

ROLES = {"regulating": 0.85, "flood": 0.10, "exercised": 0.05}
"""Shares of the roles: moved some times a day; seldom, but for floods; once a week so that it does not seize."""

SKEWED_CLOCKS, LARGEST_SKEW_S = 0.05, 120.0
LOCAL_TIME_STATIONS = 1 / 40
"""Share of gates whose clock is off, by how much at most; share of stations that send local time as UTC."""

VIBRATION_CHANNELS = (
    "motor.velocity_rms",
    "motor.acceleration_rms",
    "motor.kurtosis",
    "gearbox.velocity_rms",
    "gearbox.acceleration_rms",
    "gearbox.kurtosis",
    "leaf.velocity_rms",
    "motor.current",
)
TEMPERATURE_CHANNELS = (
    "motor.bearing_de.temperature",
    "motor.winding.temperature",
    "gearbox.oil.temperature",
    "brake.lining.temperature",
    "hydraulic.oil.temperature",
)

NOMINAL_BASELINE: Mapping[str, float] = {
    "motor.velocity_rms": 0.9,
    "motor.acceleration_rms": 0.12,
    "motor.kurtosis": 3.2,
    "gearbox.velocity_rms": 1.1,
    "gearbox.acceleration_rms": 0.18,
    "gearbox.kurtosis": 3.2,
    "leaf.velocity_rms": 0.6,
    "motor.current": 0.67,
}
"""Healthy level at normal load (0.55): mm/s, g, 1; the current as a fraction of rated, which it draws at full load."""

LEVEL_SPREAD: Mapping[str, float] = {"kurtosis": 0.06, "current": 0.08}
"""How far healthy levels differ from gate to gate, log scale; 0.28 where not named. A drive is chosen to fit its gate."""

# (rated power kW, speed rpm, bearing balls, ball mm, pitch mm): deep-groove bearings 6205, 6206 and 6308
MOTORS = ((3.0, 1440, 9, 7.938, 38.5), (5.5, 1440, 9, 9.525, 46.0), (11.0, 960, 9, 9.525, 46.0), (22.0, 960, 8, 15.081, 65.0))


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate and all that is fixed about it.

    ``baseline`` and ``sensitivity`` are keyed by channel; ``thermal_scale`` multiplies the time constants of each temperature
    channel; ``motor`` is an index into `MOTORS`; ``contact_loss`` is the share of the bearing's warmth over the air that its
    sensor, stuck on the surface, does not feel; ``clock_error_s`` is what the gate's clock is ahead of UTC.
    """

    index: int
    gate_id: str
    station_id: str
    river: int
    number: int
    gate_type: str
    criticality: str
    commissioned_on: date
    motor: int
    gear_teeth: int
    constitution: Constitution
    calling: Calling
    baseline: Mapping[str, float]
    sensitivity: Mapping[str, float]
    thermal_scale: Mapping[str, float]
    sun_k: float
    lock_in_opening: float
    head_m: float
    level_m: float
    contact_loss: float
    clock_error_s: float

    @property
    def hoist(self) -> str:
        """``winch``, ``screw`` or ``hydraulic``."""
        return self.constitution.hoist

    @property
    def rated_current_a(self) -> float:
        """Rated current of the motor: about 2 A per kW at 400 V."""
        return 2.0 * MOTORS[self.motor][0]

    @property
    def components(self) -> tuple[str, ...]:
        """The components this gate has."""
        last = {"winch": "drum", "screw": "screw", "hydraulic": "hydraulic"}[self.hoist]
        return ("motor", "gearbox", "brake", "leaf", last)


@dataclass(frozen=True)
class Fleet:
    """A fleet and the settings of its simulation; the same fields, the same history."""

    gates: tuple[Gate, ...]
    stations: pd.DataFrame
    seed: int
    start: date
    days: int
    hazard_scale: float = 1.0
    sensor_faults: bool = True
    preventive: bool = True
    heartbeat_min: int = 15
    scenario: str = ""
    transport_faults: bool = True
    inject: tuple[str, ...] = ()
    per_station: int = GATES_PER_STATION

    @property
    def settings(self) -> dict[str, Any]:
        """What `make_fleet` was told: the same settings and version make the same fleet."""
        names = ("seed", "days", "hazard_scale", "sensor_faults", "preventive", "heartbeat_min", "scenario", "transport_faults")
        told = {name: getattr(self, name) for name in names}
        return {
            "gates": len(self.gates),
            "start": self.start.isoformat(),
            "stations": -(-len(self.gates) // self.per_station),
            "inject": list(self.inject),
            **told,
        }

    @cached_property
    def injected(self) -> tuple[ForcedFailure | ForcedFault, ...]:
        """The failures and sensor faults that were asked for."""
        return tuple(parse(text, self.started_at) for text in self.inject)

    def failures_of(self, gate: Gate) -> list[ForcedFailure]:
        """The failures that were asked for of one gate."""
        return [wish for wish in self.injected if isinstance(wish, ForcedFailure) and wish.gate_id == gate.gate_id]

    def faults_of(self, gate: Gate) -> list[ForcedFault]:
        """The sensor faults that were asked for of one gate."""
        return [wish for wish in self.injected if isinstance(wish, ForcedFault) and wish.gate_id == gate.gate_id]

    @property
    def gate_ids(self) -> list[str]:
        """Every gate, in the order of the fleet."""
        return [gate.gate_id for gate in self.gates]

    @property
    def started_at(self) -> datetime:
        """UTC midnight of the first day."""
        return datetime.combine(self.start, time(), UTC)

    @property
    def ends_at(self) -> datetime:
        """UTC midnight after the last day."""
        return self.started_at + timedelta(days=self.days)

    def gate(self, gate_id: str) -> Gate:
        """The gate of this name."""
        return self._by_id[gate_id]

    @cached_property
    def _by_id(self) -> dict[str, Gate]:
        return {gate.gate_id: gate for gate in self.gates}

    def weather(self, gate: Gate) -> Weather:
        """The weather of the gate's river basin: one for all its gates."""
        change = weather_change(self.scenario, self.seed, gate.river, self.start, self.days)
        return make_weather(stream(self.seed, Layer.WEATHER, gate.river), self.start, self.days, change)

    def gates_table(self) -> pd.DataFrame:
        """gates.csv."""
        return pd.DataFrame(
            [
                {
                    "gate_id": gate.gate_id,
                    "station_id": gate.station_id,
                    "name": f"Gate {gate.number}",
                    "name_zh": f"{gate.number}号闸门",
                    "gate_type": gate.gate_type,
                    "hoist_type": gate.hoist,
                    "role": gate.calling.role,
                    "criticality": gate.criticality,
                    "commissioned_on": gate.commissioned_on.isoformat(),
                    "travel_m": gate.calling.travel_m,
                }
                for gate in self.gates
            ]
        )

    def components_table(self) -> pd.DataFrame:
        """components.csv."""
        return pd.DataFrame([row for gate in self.gates for row in _component_rows(gate)])

    def channels_table(self) -> pd.DataFrame:
        """channels.csv: every channel of every gate."""
        rows = [
            {"gate_id": gate.gate_id, "component": component, **_CHANNELS[key], "interval_s": self.heartbeat_min * 60}
            for gate in self.gates
            for key in channel_keys(gate.hoist)
            for component in [key.partition(".")[0]]
        ]
        return pd.DataFrame(rows)


def _channel(quantity: str, unit: str, point: str = "", band: tuple[float, float] | None = None) -> dict[str, Any]:
    low, high = band if band else (None, None)
    axis = "radial" if band else ""
    return {"quantity": quantity, "unit": unit, "point": point, "axis": axis, "band_low_hz": low, "band_high_hz": high}


_VELOCITY_BAND, _ACCELERATION_BAND, _LEAF_BAND = (10.0, 1000.0), (10.0, 6000.0), (1.0, 30.0)
_CHANNELS: Mapping[str, dict[str, Any]] = {
    **{
        f"{component}.{name}": spec
        for component in ("motor", "gearbox")
        for name, spec in (
            ("velocity_rms", _channel("velocity_rms", "mm/s", band=_VELOCITY_BAND)),
            ("acceleration_rms", _channel("acceleration_rms", "g", band=_ACCELERATION_BAND)),
            ("acceleration_peak", _channel("acceleration_peak", "g", band=_ACCELERATION_BAND)),
            ("kurtosis", _channel("kurtosis", "1", band=_ACCELERATION_BAND)),
            ("crest_factor", _channel("crest_factor", "1", band=_ACCELERATION_BAND)),
        )
    },
    "motor.bearing_de.temperature": _channel("temperature", "degC", "bearing_de"),
    "motor.winding.temperature": _channel("temperature", "degC", "winding"),
    "motor.current": _channel("current", "A"),
    "motor.moving": _channel("moving", "1"),
    "motor.load": _channel("load", "1"),
    "gearbox.oil.temperature": _channel("temperature", "degC", "oil"),
    "brake.lining.temperature": _channel("temperature", "degC", "lining"),
    "leaf.velocity_rms": _channel("velocity_rms", "mm/s", band=_LEAF_BAND),
    "leaf.opening": _channel("opening", "m"),
    "leaf.head": _channel("head", "m"),
    "hydraulic.oil.temperature": _channel("temperature", "degC", "oil"),
    "station.ambient_temperature": _channel("ambient_temperature", "degC"),
    "station.humidity": _channel("humidity", "%"),
    "station.water_level": _channel("water_level", "m"),
}


def channel_keys(hoist: str) -> list[str]:
    """The channels of a gate with this hoist, in the order of the readings file's columns."""
    return [key for key in _CHANNELS if hoist == "hydraulic" or not key.startswith("hydraulic.")]


def _component_rows(gate: Gate) -> list[dict[str, Any]]:
    power_kw, speed_rpm, balls, ball_mm, pitch_mm = MOTORS[gate.motor]
    rows: list[dict[str, Any]] = [
        {"gate_id": gate.gate_id, "component": component, "iso_class": ""} for component in gate.components
    ]
    rows[0] |= {
        "rated_power_kw": power_kw,
        "rated_current_a": gate.rated_current_a,
        "speed_rpm": speed_rpm,
        "bearing_balls": balls,
        "bearing_ball_mm": ball_mm,
        "bearing_pitch_mm": pitch_mm,
        "bearing_angle_deg": 0.0,
        "iso_class": "I" if power_kw <= 15 else "II",
    }
    rows[1] |= {"speed_rpm": speed_rpm, "gear_teeth": gate.gear_teeth, "iso_class": rows[0]["iso_class"]}
    return rows


def make_fleet(
    *,
    gates: int,
    days: int,
    seed: int,
    start: date = date(2024, 1, 1),
    hazard_scale: float = 1.0,
    sensor_faults: bool = True,
    preventive: bool = True,
    stations: int | None = None,
    heartbeat_min: int = 15,
    scenario: str = "",
    transport_faults: bool = True,
    inject: Sequence[str] = (),
) -> Fleet:
    """Draw a fleet.

    Parameters
    ----------
    gates, days, seed, start : how many, how long, which random numbers, from which UTC day on
    hazard_scale : multiplies how often wear starts (and sudden failures happen); 1 is about 0.8 failures a gate-year
    sensor_faults, preventive : switch the background sensor faults and the periodic inspections
    stations : how many stations to spread the gates over; three gates a station unless told
    heartbeat_min : minutes between readings at rest
    scenario : a name of `scenarios.SCENARIOS`, or nothing
    transport_faults : clocks that are wrong, readings repeated and out of order
    inject : failures and sensor faults on request, see `inject`

    Raises
    ------
    BadInput
        Naming the setting that is out of range.
    """
    _check(gates=gates, days=days, stations=gates if stations is None else stations, heartbeat_min=heartbeat_min)
    if seed < 0:
        raise BadInput(f"seed must be 0 or more; got {seed}")
    if not 0.0 <= hazard_scale <= 1000.0:
        raise BadInput(f"hazard_scale must lie in 0..1000; got {hazard_scale:g}")
    if scenario:
        find_scenario(scenario)
    per_station = GATES_PER_STATION if stations is None else -(-gates // stations)
    made = tuple(_make_gate(seed, index, per_station, start, scenario == "new_fleet", transport_faults) for index in range(gates))
    fleet = Fleet(
        gates=made,
        stations=_stations_table(-(-gates // per_station)),
        seed=seed,
        start=start,
        days=days,
        hazard_scale=hazard_scale,
        sensor_faults=sensor_faults,
        preventive=preventive,
        heartbeat_min=heartbeat_min,
        scenario=scenario,
        transport_faults=transport_faults,
        inject=tuple(inject),
        per_station=per_station,
    )
    _check_injected(fleet)
    return fleet


def _check_injected(fleet: Fleet) -> None:
    for wish in fleet.injected:
        if wish.gate_id not in fleet.gate_ids:
            raise BadInput(f"inject: gate must be one of the fleet's; got {wish.gate_id!r}")
        hoist = fleet.gate(wish.gate_id).hoist
        if not 0.0 <= wish.at_s < fleet.days * DAY_S:
            raise BadInput(f"inject: the time must lie within the {fleet.days} days from {fleet.start}; gate {wish.gate_id}")
        if isinstance(wish, ForcedFault):
            check_fault(wish.channel, wish.fault, channel_keys(hoist))
        elif wish.mode not in (codes := [mode.code for mode in modes_of(hoist)]):
            raise BadInput(f"inject: mode of a {hoist} gate must be one of {', '.join(codes)}; got {wish.mode!r}")


def _check(**counts: int) -> None:
    most = {"gates": 100_000, "days": 36_500, "stations": counts["gates"], "heartbeat_min": 1440}
    for name, value in counts.items():
        if not 1 <= value <= most[name]:
            raise BadInput(f"{name} must lie in 1..{most[name]}; got {value}")


def _station_id(station: int) -> str:
    river, place = divmod(station, STATIONS_PER_RIVER)
    round_, river = divmod(river, len(RIVERS))
    return f"{RIVERS[river][0]}{round_ + 1 if round_ else ''}-S{place + 1}"


def _stations_table(count: int) -> pd.DataFrame:
    rows = []
    for station in range(count):
        place = station % STATIONS_PER_RIVER
        _, name, name_zh, latitude, longitude = RIVERS[station // STATIONS_PER_RIVER % len(RIVERS)]
        last = place == STATIONS_PER_RIVER - 1 or station == count - 1
        rows.append(
            {
                "station_id": _station_id(station),
                "name": f"{name} Station {place + 1}",
                "name_zh": f"{name_zh}{place + 1}号闸站",
                "basin": name,
                "river": name,
                "downstream_station_id": "" if last else _station_id(station + 1),
                "time_zone": "Asia/Shanghai",
                "river_km": round(14.4 - 1.7 * place, 1),
                "latitude": round(latitude - 0.010 * place, 4),
                "longitude": round(longitude - 0.004 * place, 4),
            }
        )
    return pd.DataFrame(rows)


def _clock_error_s(seed: int, index: int, station: int) -> float:
    """What a gate's clock is ahead of UTC, s."""
    wrong = stream(seed, Layer.FLEET, station, 2).random() < LOCAL_TIME_STATIONS
    skewed, skew = stream(seed, Layer.FLEET, index, 1).random(2).tolist()
    skew_s = LARGEST_SKEW_S * (2.0 * skew - 1.0) if skewed < SKEWED_CLOCKS else 0.0
    return round(skew_s, 3) + (UTC_OFFSET_H * 3600.0 if wrong else 0.0)


def _make_calling(rng: np.random.Generator) -> Calling:
    role = str(rng.choice(list(ROLES), p=list(ROLES.values())))
    often, seldom = float(rng.lognormal(np.log(2.45), 0.55)), float(rng.uniform(0.05, 0.3))
    return Calling(
        role=role,
        runs_per_day={"regulating": often, "flood": seldom, "exercised": 0.0}[role],
        flood_gain={"regulating": 1.1, "flood": 6.0, "exercised": 0.0}[role],
        exercise_weekday=int(rng.integers(7)),
        travel_m=round(float(rng.uniform(3.0, 8.0)), 1),
        speed_m_min=round(float(rng.uniform(0.3, 0.7)), 2),
    )


def _make_gate(seed: int, index: int, per_station: int, start: date, other_make: bool, transport_faults: bool) -> Gate:
    rng = stream(seed, Layer.FLEET, index)
    station, number = divmod(index, per_station)
    shares = OTHER_HOIST_SHARES if other_make else HOIST_SHARES
    hoist = str(rng.choice(HOISTS, p=[shares[name] for name in HOISTS]))
    types = {"winch": ("vertical_lift", "radial"), "screw": ("vertical_lift",), "hydraulic": ("radial", "flap")}[hoist]
    gate_type = types[int(rng.integers(2)) % len(types)]
    calling = _make_calling(rng)
    age_y = float(rng.uniform(3.0, 30.0))
    mix = {code: float(rng.lognormal(-0.125, 0.5)) for code in MODES}
    spread = {key: LEVEL_SPREAD.get(key.rpartition(".")[2], 0.28) for key in NOMINAL_BASELINE}
    baseline = {key: level * float(rng.lognormal(0.0, spread[key])) for key, level in NOMINAL_BASELINE.items()}
    sensitivity = {key: float(rng.lognormal(-0.06, 0.35)) for key in (*VIBRATION_CHANNELS, *TEMPERATURE_CHANNELS)}
    if other_make:
        other = stream(seed, Layer.SCENARIO, index)
        baseline = {key: level * OTHER_LEVELS[key.rpartition(".")[2]] for key, level in baseline.items()}
        sensitivity = {key: value * float(other.lognormal(-0.15, 0.3)) for key, value in sensitivity.items()}
    return Gate(
        index=index,
        gate_id=f"{_station_id(station)}-G{number + 1}",
        station_id=_station_id(station),
        river=station // STATIONS_PER_RIVER,
        number=number + 1,
        gate_type=gate_type,
        criticality="high" if rng.random() < 0.2 else "normal",
        commissioned_on=start - timedelta(days=round(age_y * 365.25)),
        motor=int(rng.integers(len(MOTORS))),
        gear_teeth=int(rng.integers(17, 30)),
        constitution=Constitution(hoist, float(rng.lognormal(-0.18, 0.6)), mix, age_y),
        calling=calling,
        baseline=baseline,
        sensitivity=sensitivity,
        thermal_scale={key: float(rng.uniform(0.8, 1.2)) for key in TEMPERATURE_CHANNELS},
        sun_k=float(rng.uniform(0.0, 6.0)),
        lock_in_opening=float(rng.uniform(0.15, 0.5)),
        head_m=float(rng.uniform(1.5, 5.0)),
        level_m=float(rng.uniform(1.0, 4.0)),
        contact_loss=float(rng.uniform(0.0, 0.2)),
        clock_error_s=_clock_error_s(seed, index, station) if transport_faults else 0.0,
    )
