"""What the browser draws on a gate's page, as values for JSON: forecast, vibration, temperature. It draws nothing itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.engine import Connection

from pipeline import historian
from pipeline.historian import to_ms
from service import store
from service.api import queries
from service.api.context import ModelInfo
from service.console.views.parts import WORTH_A_WORD, percent
from service.console.words import Words

VELOCITY = ".velocity_rms:mean"
"""How the key of a component's vibration ends in the summary of an operation."""

TEMPERATURE_HOURS = {7: 2, 30: 24, 90: 24}
"""Of how many hours the chart shows the highest temperature, by the days shown."""

COMPONENTS = ("", "motor", "gearbox", "brake", "leaf", "hydraulic", "screw", "drum")
"""Their order gives each component one colour in every chart."""


@dataclass(frozen=True, slots=True)
class ForecastLine:
    """One line of the forecast table and chart; without a verdict it has a reason only."""

    component: str
    name: str
    curve: tuple[float, ...] = ()
    p_7d: str = ""
    p_14d: str = ""
    p_21d: str = ""
    half: str = ""
    problem: str = ""
    reason: str = ""


def forecast_line(row: store.Row, words: Words) -> ForecastLine:
    """Say the forecast of a gate or of one of its components."""
    component, day = row["component"], row["ttf_p50_d"]
    name = words.code("component", component) if component else words("gate.whole")
    if row["verdict"] != "forecast":
        return ForecastLine(component, name, reason=words.code("reason", row["reason"]))
    return ForecastLine(
        component=component,
        name=name,
        curve=tuple(row["curve"]),
        p_7d=percent(row["p_7d"]),
        p_14d=percent(row["p_14d"]),
        p_21d=percent(row["p_21d"]),
        half=words("gate.beyond") if day is None else words("gate.within", n=int(day)),
        problem=words.code("mode", row["failure_mode"]) if row["p_14d"] >= WORTH_A_WORD else "",
    )


def forecast_chart(lines: Sequence[ForecastLine], model: ModelInfo | None, words: Words) -> dict[str, Any]:
    """The probability of failure by days ahead, a line for the gate and one for each component."""
    return {
        "x": list(range(1, 22)),
        "x_label": words("gate.days"),
        "series": [
            {"label": line.name, **_look(line.component), "main": not line.component, "y": line.curve}
            for line in lines
            if line.curve
        ],
        "threshold": model.open_at if model else None,
        "threshold_label": words("gate.threshold"),
    }


def vibration_chart(operations: Sequence[queries.Operation], words: Words) -> dict[str, Any]:
    """The mean vibration of each operation, a line for each component measured."""
    keys = sorted({key for one in operations for key in one.summary if key.endswith(VELOCITY)})
    return {
        "x": [seconds(one.started_at) for one in operations],
        "unit": "mm/s",
        "series": [
            {
                "label": channel_label(key.removesuffix(":mean"), words),
                **_look(key),
                "y": [one.summary.get(key) for one in operations],
            }
            for key in keys
        ],
    }


def temperature_chart(
    connection: Connection, gate_id: str, start_ms: int, end_ms: int, hours: int, words: Words
) -> dict[str, Any]:
    """The highest temperature of every `hours` hours, a line for each channel that reported one."""
    slots = historian.load_slots(connection, gate_id).values()
    buckets = max(1, round((end_ms - start_ms) / (hours * 3_600_000)))
    keys = [slot.channel.key for slot in slots if slot.channel.quantity in ("temperature", "ambient_temperature")]
    found = queries.bucket_channels(connection, gate_id, keys, start_ms, end_ms, buckets)
    grid = sorted({ts_ms for one in found for ts_ms in one.ts_ms})
    lines: list[dict[str, Any]] = []
    for one in found:
        told = dict(zip(one.ts_ms, one.high or [], strict=True))
        if told:
            line = {"label": channel_label(one.key, words), **_look(one.key, [made["colour"] for made in lines])}
            lines.append({**line, "y": [told.get(ts_ms) for ts_ms in grid]})
    return {
        "x": [ts_ms / 1000 for ts_ms in grid],
        "unit": "°C",
        "title": words("gate.temperature", hours=hours),
        "series": lines,
    }


def marks(maintenance: Sequence[store.Row], words: Words) -> list[dict[str, Any]]:
    """The maintenance records as marks on the time axis."""
    return [
        {
            "s": seconds(row["started_at"]),
            "label": f"{words.code('kind', row['kind'])}: {words.code('component', row['component'])}",
        }
        for row in maintenance
    ]


def seconds(instant: datetime) -> float:
    """An instant as the charts count time."""
    return to_ms(instant) / 1000


def channel_label(key: str, words: Words) -> str:
    """Say which component a channel measures, and at which point."""
    component, *rest = key.split(".")
    point = rest[0] if len(rest) > 1 else ""
    name = words.code("component", component)
    if point:
        return f"{name}: {words.code('point', point)}"
    return words("gate.ambient") if rest[-1] == "ambient_temperature" else name


def lost_line(channel: str, kind: str, words: Words) -> str:
    """Say which sensor is not believed, why, and what to do."""
    quantity = channel.rpartition(".")[2]
    told = words("lost.line", place=channel_label(channel, words), quantity=words.code("quantity", quantity))
    return f"{told} {words.code('lost', kind)}"


def _look(key: str, colours_so_far: Sequence[Any] = ()) -> dict[str, int]:
    """One colour per component in every chart; a component's second channel differs by its dashes."""
    component = key.split(".")[0]
    colour = COMPONENTS.index(component) if component in COMPONENTS else len(COMPONENTS)
    return {"colour": colour, "dash": colours_so_far.count(colour)}
