"""A throw-away fleet whose truth is known: wear, what it shows, failures. Draws feature rows, not readings."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

START = datetime(2025, 1, 1, tzinfo=UTC)
COMPONENTS = ("brake", "gearbox", "motor")
MODES = {"brake": ("brake_drag",), "gearbox": ("gear",), "motor": ("lubrication", "motor_bearing")}
FEATURES = (
    "vibration_level_mm_s",
    "vibration_dev",
    "vibration_dev_7d",
    "vibration_slope_7d",
    "vibration_slope_14d",
    "vibration_slope_30d",
    "temperature_dev",
    "is_motor",
    "is_gearbox",
    "is_brake",
    "is_screw",
    "load_7d",
)
ONSETS_PER_YEAR = 0.45
SUDDEN_PER_YEAR = 0.15
LIFE_DAYS = 35.0


@dataclass(frozen=True)
class ToyFleet:
    """Feature rows of every gate, component and day, the work orders, and the end of each gate's record."""

    rows: pd.DataFrame
    maintenance: pd.DataFrame
    observed_until: dict[str, datetime]


def draw(n_gates: int, days: int, seed: int, prevented: float = 0.1) -> ToyFleet:
    """Draw a fleet: wear starts at random, grows by Gamma steps over about 35 days and fails; some is mended before."""
    parts, records = [], []
    for number in range(n_gates):
        rng = np.random.default_rng([seed, number])
        gate_id = f"G{number:03d}"
        gate_parts, gate_records = _gate(gate_id, days, rng, prevented)
        parts += gate_parts
        records += gate_records
    columns = ["gate_id", "component", "kind", "failure_mode", "started_at", "ended_at"]
    maintenance = pd.DataFrame(records, columns=columns)
    for name in ("started_at", "ended_at"):
        maintenance[name] = pd.to_datetime(maintenance[name], utc=True).astype("datetime64[ms, UTC]")
    rows = pd.concat(parts, ignore_index=True)
    return ToyFleet(rows, maintenance, {f"G{n:03d}": START + timedelta(days=days) for n in range(n_gates)})


def _gate(
    gate_id: str, days: int, rng: np.random.Generator, prevented: float
) -> tuple[list[pd.DataFrame], list[tuple[object, ...]]]:
    records: list[tuple[object, ...]] = []
    sudden = np.flatnonzero(rng.random(days) < SUDDEN_PER_YEAR / 365)
    for day in sudden:
        at = START + timedelta(days=int(day), hours=11)
        records.append((gate_id, "", "failure", "sudden", at, at + timedelta(hours=5)))
    parts = []
    for component in COMPONENTS:
        severity, young, under_repair, mode_heat, life_records = _life(component, days, rng, prevented)
        records += [
            (gate_id, component, kind, mode, START + timedelta(days=start), START + timedelta(days=end))
            for kind, mode, start, end in life_records
        ]
        parts.append(_shown(gate_id, component, severity, young, under_repair, mode_heat, rng))
    return parts, records


def _life(component, days, rng, prevented):  # type: ignore[no-untyped-def]
    severity, heat = np.zeros(days + 1), np.zeros(days + 1)
    young, under_repair = np.zeros(days + 1, bool), np.zeros(days + 1, bool)
    young[:10] = True
    records = []
    z, life, mode, mend_at = 0.0, 0.0, "", 2.0
    day = 0
    while day < days:
        if not mode and rng.random() < ONSETS_PER_YEAR / 365:
            mode = MODES[component][rng.integers(len(MODES[component]))]
            life = LIFE_DAYS * np.exp(rng.normal(0, 0.5))
            mend_at = rng.uniform(0.3, 0.9) if rng.random() < prevented else 2.0
        if mode:
            z += rng.gamma(1 / (life * 0.08), 0.08)
            severity[day + 1] = min(z, 1.0) ** 1.5
            heat[day + 1] = severity[day + 1] * (2.0 if mode == "lubrication" else 0.4)
        if z >= 1 or z >= mend_at:
            failed = day + rng.uniform(0.3, 0.6)
            mended = day + 2 + rng.uniform(0.3, 0.6)
            if z >= 1:
                records.append(("failure", mode, failed, None))
            records.append(("repair", mode, failed, mended))
            under_repair[day + 1 : day + 3] = True
            young[day + 3 : day + 13] = True
            severity[day + 1 :] = 0
            z, mode, mend_at = 0.0, "", 2.0
            day += 2
        day += 1
    return severity, young, under_repair, heat, [(k, m, s, s + 0.2 if e is None else e) for k, m, s, e in records]


def _shown(gate_id, component, severity, young, under_repair, heat, rng):  # type: ignore[no-untyped-def]
    n = len(severity)
    dev = 1.1 * severity + rng.normal(0, 0.12, n)
    smooth = pd.Series(dev).rolling(7, min_periods=1).mean().to_numpy()

    def slope(window: int) -> np.ndarray:
        return (pd.Series(smooth).diff(window) / window).to_numpy()

    frame = pd.DataFrame(
        {
            "gate_id": gate_id,
            "component": component,
            "as_of": pd.date_range(START, periods=n, freq="D").astype("datetime64[ms, UTC]"),
            "reason": np.select([under_repair, young], ["under_repair", "young"], ""),
            "hoist_type": "winch",
            "vibration_level_mm_s": np.exp(np.log(0.9) + rng.normal(0, 0.28) + dev),
            "vibration_dev": dev,
            "vibration_dev_7d": smooth,
            "vibration_slope_7d": slope(7),
            "vibration_slope_14d": slope(14),
            "vibration_slope_30d": slope(30),
            "temperature_dev": 8 * heat + rng.normal(0, 1.5, n),
            "is_screw": 0.0,
            "load_7d": rng.normal(0.55, 0.1, n),
        }
    )
    for kind in COMPONENTS:
        frame[f"is_{kind}"] = float(kind == component)
    frame.loc[rng.random(n) < 0.02, "temperature_dev"] = np.nan
    frame["reason"] = frame["reason"].astype(object)
    return [frame][0]
