"""What people do about wear: repairs after a failure, and inspections that find some of it before.

`Upkeep` decides (how long a repair takes, whether an inspection finds a fault); `records` writes down what the work orders say.
The work orders are all that the rest of the product ever learns of failures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypedDict

import numpy as np

from pipeline.simulator.streams import Floats, Layer, stream
from pipeline.simulator.weather import DAY_S

INSPECTION_INTERVAL_D = 120

BADLY_DONE, LEFT_BEHIND = 0.15, 0.1
"""Share of corrective repairs that leave some of the fault, and the most they leave of its progress."""


class Record(TypedDict):
    """One line of maintenance.csv."""

    gate_id: str
    component: str
    kind: str
    failure_mode: str
    started_at: datetime
    ended_at: datetime | None
    finding: str
    note: str


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which the gate is not moved, in seconds from the start, and what it was for.

    ``kind`` is ``failure``, ``found`` (an inspection that found wear and put it right), ``inspection`` (nothing found) or
    ``overhaul`` (everything made as new).
    ``component`` empty means the whole gate.
    """

    kind: str
    start_s: float
    end_s: float
    mode: str = ""
    component: str = ""


def chance_to_find(z: Floats) -> Floats:
    """Chance that an inspection finds a fault of progress ``z``: hardly below 0.3, three of four above 0.6."""
    return np.asarray(0.75 / (1.0 + np.exp(-(z - 0.45) / 0.08)))


@dataclass(frozen=True, slots=True)
class Upkeep:
    """How one gate is kept up: corrective repairs, and inspections every 120 days staggered over the fleet.

    ``overhaul_day`` is the day on which the whole gate is made as new; negative for never.
    """

    seed: int
    gate_index: int
    preventive: bool = True
    overhaul_day: int = -1

    def overhaul_due(self, day: int) -> bool:
        """Whether the gate is overhauled on this day; no inspection is made then."""
        return day == self.overhaul_day

    def inspection_due(self, day: int) -> bool:
        """Whether an inspection stands in the calendar for this day."""
        offset = (self.gate_index * 37 + 60) % INSPECTION_INTERVAL_D
        return self.preventive and day % INSPECTION_INTERVAL_D == offset

    def inspection_s(self, day: int) -> tuple[float, float]:
        """Start and end of that day's inspection in seconds, within local working hours (9 to 15 o'clock)."""
        rng = stream(self.seed, Layer.UPKEEP, self.gate_index, 0, day)
        start_s = day * DAY_S + math.floor(rng.uniform(1.0, 4.0) * 60) * 60.0
        return start_s, start_s + math.floor(rng.uniform(1.0, 3.0) * 60) * 60.0

    def finds(self, day: int, mode_number: int, z: float) -> bool:
        """Whether the inspection of ``day`` finds a fault of progress ``z``."""
        draw = stream(self.seed, Layer.UPKEEP, self.gate_index, 1, day, mode_number).random()
        return bool(draw < chance_to_find(np.array(z)))

    def repaired_s(self, failed_s: float) -> float:
        """End of the repair after a failure: geometric days later, in the local afternoon."""
        rng = stream(self.seed, Layer.UPKEEP, self.gate_index, 2, int(failed_s))
        days = int(failed_s // DAY_S) + int(rng.geometric(0.45))
        return days * DAY_S + math.floor(rng.uniform(5.0, 10.0) * 60) * 60.0

    def left_behind(self, failed_s: float) -> float:
        """What a repair leaves of the fault: 0 for most, up to 0.1 of progress where it was done badly."""
        rng = stream(self.seed, Layer.UPKEEP, self.gate_index, 3, int(failed_s))
        return float(rng.uniform(0.0, LEFT_BEHIND)) if rng.random() < BADLY_DONE else 0.0


def records(gate_id: str, start: datetime, days: int, outages: Sequence[Outage]) -> list[Record]:
    """The work orders of one gate, in order of time; what ends after the last simulated day has no end yet."""
    out: list[Record] = []

    def add(kind: str, outage: Outage, *, ended: bool = True, finding: str = "", note: str = "") -> None:
        open_ended = not ended or outage.end_s >= days * DAY_S
        out.append(
            {
                "gate_id": gate_id,
                "component": outage.component,
                "kind": kind,
                "failure_mode": outage.mode,
                "started_at": start + timedelta(seconds=outage.start_s),
                "ended_at": None if open_ended else start + timedelta(seconds=outage.end_s),
                "finding": finding,
                "note": note,
            }
        )

    for outage in outages:
        if outage.kind == "failure":
            add("failure", outage, ended=False)
            add("repair", outage)
        elif outage.kind == "found":
            add("repair", outage, finding="confirmed_degradation", note="found by the periodic inspection")
        elif outage.kind == "overhaul":
            add("repair", outage, note="overhaul of the whole gate")
        else:
            add("inspection", outage, note="periodic inspection")
    return out
