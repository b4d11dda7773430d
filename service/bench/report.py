"""What a bench found: figures with their range and what they were measured against, as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from pipeline.errors import SluicewatchError
from service.broker import mosquitto_path

LIBRARIES = ("sluicewatch", "paho-mqtt", "msgspec", "sqlalchemy", "numpy", "pandas", "scikit-learn")


class BenchError(SluicewatchError):
    """What was measured did not do its work, so that its speed means nothing."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of one bench: a value a repeat, never only the best; or an estimate with its 90 % `interval`.

    `against` is what a ratio was measured against in the same run, or what it should be, empty for a plain figure; `counts`
    are what was sent and what arrived, where that was counted.
    """

    bench: str
    measured: str
    unit: str
    values: tuple[float, ...]
    against: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    interval: tuple[float, float] | None = None

    @property
    def median(self) -> float:
        """The middle one of the repeats."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """Lower end of the interval, or of the range of the repeats."""
        return self.interval[0] if self.interval else min(self.values)

    @property
    def high(self) -> float:
        """Upper end of the interval, or of the range of the repeats."""
        return self.interval[1] if self.interval else max(self.values)

    def as_dict(self) -> dict[str, Any]:
        """As plain values for a file."""
        return {
            "bench": self.bench,
            "measured": self.measured,
            "against": self.against,
            "unit": self.unit,
            "median": self.median,
            "low": self.low,
            "high": self.high,
            "values": list(self.values),
            "counts": dict(self.counts),
            **({"interval": list(self.interval)} if self.interval else {}),
        }

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> Figure:
        """Rebuild from a file."""
        interval = written.get("interval")
        return cls(
            written["bench"],
            written["measured"],
            written["unit"],
            tuple(written["values"]),
            written["against"],
            written["counts"],
            (interval[0], interval[1]) if interval else None,
        )


def ratio(of: Figure, to: Figure) -> Figure:
    """The paired ratios of two figures from the same run: repeat by repeat, so that a slow minute meets both."""
    pairs = zip(of.values, to.values, strict=True)
    return Figure(of.bench, of.measured, "x", tuple(one / other for one, other in pairs), against=to.measured)


def machine() -> dict[str, Any]:
    """What the figures depend on: cores, system and versions."""
    return {
        "cores": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "mosquitto": _mosquitto_version(),
        **{library: version(library) for library in LIBRARIES},
    }


def table(figures: Sequence[Figure], on: Mapping[str, Any]) -> str:
    """The figures as text, one a line: median, range, what was measured and against what."""
    lines = [", ".join(f"{name} {value}" for name, value in on.items())]
    estimated = {figure.bench for figure in figures if figure.interval}
    bench = ""
    for figure in figures:
        if figure.bench != bench:
            bench = figure.bench
            heads = ("value", "90 % interval") if bench in estimated else ("median", "range")
            lines += ["", f"{bench:12}{heads[0]:>10}  {heads[1]:21}  unit"]
        span = f"{_short(figure.low)} .. {_short(figure.high)}"
        what = f"{figure.measured}, against {figure.against}" if figure.against else figure.measured
        lines.append(f"{'':12}{_short(figure.median):>10}  {span:21}  {figure.unit:11} {what}")
    return "\n".join(lines)


def document(figures: Sequence[Figure], on: Mapping[str, Any]) -> str:
    """The figures as JSON."""
    return json.dumps({"machine": dict(on), "figures": [figure.as_dict() for figure in figures]}, indent=2) + "\n"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _mosquitto_version() -> str:
    path = mosquitto_path()
    if path is None:
        return "none"
    told = subprocess.run([path, "-h"], capture_output=True, text=True, check=False).stdout
    return told.partition("\n")[0].rpartition(" ")[2]
