"""A small believable fleet for tests of the API and the console: 24 gates, a month of one gate, forecasts, alerts, receivers.

It is written through the historian and the store, as the other rooms would write it; nothing here is read from HTTP.
"""

import json
import math
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
from fastapi import FastAPI
from sqlalchemy.engine import Connection, Engine

from models.policy import Policy, severity
from pipeline import cut_days, historian
from pipeline.historian import to_ms, writing
from pipeline.operations import segment
from pipeline.readings import DAY_MS, Channel
from service import alerts as life
from service import store
from service.alerts import Outlook
from service.api import auth, keys
from service.api.app import create_app
from service.live_features import replace_days
from service.webhooks.guard import Guard, check_url

NOW = datetime(2026, 11, 20, 8, 40, tzinfo=UTC)
TODAY = NOW.replace(hour=0, minute=0)
DAY = timedelta(days=1)
TEST = store.Actor("test", "system")
VERSION = "2026.11-test"
PUBLIC_URL = "https://gates.example"

AT_RISK = {
    ("DSH-S3-G1", "motor"): ("motor_bearing", 0.72),
    ("DSH-S1-G2", "gearbox"): ("gear", 0.46),
    ("DSH-S6-G3", "brake"): ("brake_drag", 0.55),
    ("DSH-S8-G2", "leaf"): ("", 0.41),
}
MODE_SHARE = 0.87
EVIDENCE = {
    "change": 2.88,
    "change_unit": "x",
    "value": 2.94,
    "baseline": 1.02,
    "unit": "mm/s",
    "peer_low": 0.9,
    "peer_high": 1.2,
}
BAD_SENSORS = {
    ("DSH-S3-G1", "gearbox"): "gearbox.oil.temperature: drift",
    ("DSH-S3-G1", "motor"): "motor.velocity_rms: stuck",
}
STALE = ("DSH-S5-G1", "DSH-S5-G2")
IDLE = ("DSH-S2-G3",)
MEASURED = "DSH-S3-G1"
HOISTS = ("winch", "screw", "hydraulic")
DRIVEN = {"winch": "drum", "screw": "screw", "hydraulic": "hydraulic"}


def curve_to(p_14d: float) -> list[float]:
    """A curve that never falls and has `p_14d` on day 14, from a constant hazard."""
    hazard = -math.log1p(-p_14d) / 14
    return [round(1 - math.exp(-hazard * day), 6) for day in range(1, 22)]


def add_stations_and_gates(connection: Connection) -> list[str]:
    """Eight stations of three gates along one river."""
    connection.execute(
        sa.insert(historian.stations),
        [
            {
                "station_id": f"DSH-S{n}",
                "name": f"Dasha River Station {n}",
                "name_zh": f"大沙河{n}号闸站",
                "basin": "Dasha River",
                "river": "Dasha River",
                "river_km": 16.1 - 1.7 * n,
                "downstream_station_id": f"DSH-S{n + 1}" if n < 8 else None,
                "time_zone": "Asia/Shanghai",
                "latitude": 22.6 - 0.01 * n,
                "longitude": 113.96,
            }
            for n in range(1, 9)
        ],
    )
    rows = []
    for station in range(1, 9):
        for number in range(1, 4):
            gate_id = f"DSH-S{station}-G{number}"
            seen = NOW - (3 * DAY if gate_id in STALE else timedelta(minutes=4))
            rows.append(
                {
                    "gate_id": gate_id,
                    "station_id": f"DSH-S{station}",
                    "name": f"Gate {number}",
                    "name_zh": f"{number}号闸门",
                    "gate_type": "vertical_lift",
                    "hoist_type": HOISTS[(station + number) % 3],
                    "role": "flood",
                    "criticality": "normal",
                    "travel_m": 5.0,
                    "commissioned_on": "2011-05-01",
                    "last_seen_ms": to_ms(seen),
                }
            )
    connection.execute(sa.insert(historian.gates), rows)
    connection.execute(
        sa.insert(historian.components),
        [
            {"gate_id": row["gate_id"], "component": component, "rated_power_kw": 11.0 if component == "motor" else None}
            for row in rows
            for component in ("motor", "gearbox", "brake", "leaf", DRIVEN[str(row["hoist_type"])])
        ],
    )
    return [str(row["gate_id"]) for row in rows]


def add_readings(connection: Connection, gate_id: str, days: int = 30) -> None:
    """Two movements a day with a motor bearing that gets worse, rests between them, today's operations not yet cut."""
    draw = random.Random(7)
    names = [
        ("motor", "", "velocity_rms", "mm/s"),
        ("motor", "", "moving", "1"),
        ("motor", "bearing_de", "temperature", "degC"),
        ("motor", "winding", "temperature", "degC"),
        ("gearbox", "", "velocity_rms", "mm/s"),
        ("gearbox", "oil", "temperature", "degC"),
        ("leaf", "", "velocity_rms", "mm/s"),
    ]
    historian.declare_channels(connection, [Channel(gate_id, c, q, u, point=p, interval_s=3600.0) for c, p, q, u in names])
    slots = {slot.channel.key: slot for slot in historian.load_slots(connection, gate_id).values()}
    rows: dict[tuple[int, int], list[float | None]] = {}

    def put(ts_ms: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            slot = slots[key]
            rows.setdefault((slot.series_id, ts_ms), [None] * historian.SLOTS)[slot.slot] = value

    first = to_ms(TODAY) - days * DAY_MS
    for day in range(days + 1):
        worn = (day / days) ** 3
        ambient = 22 + 4 * math.sin(day / 4)
        for hour in range(24):
            ts_ms = first + day * DAY_MS + hour * 3_600_000
            if ts_ms > to_ms(NOW):
                break
            moving = hour in (2, 7)
            for minute in range(0, 14 if moving else 1, 2):
                warm = minute / 14 if moving else 0.0
                put(
                    ts_ms + minute * 60_000,
                    {
                        "motor.velocity_rms": (1.0 + 1.9 * worn) * draw.lognormvariate(0, 0.1) if moving else 0.08,
                        "motor.moving": float(moving),
                        "motor.bearing_de.temperature": ambient + warm * (18 + 14 * worn) + draw.gauss(0, 0.4),
                        "motor.winding.temperature": ambient + warm * 24 + draw.gauss(0, 0.5),
                        "gearbox.velocity_rms": 1.2 * draw.lognormvariate(0, 0.1) if moving else 0.07,
                        "gearbox.oil.temperature": ambient + warm * 9 + draw.gauss(0, 0.4),
                        "leaf.velocity_rms": 0.6 * draw.lognormvariate(0, 0.15) if moving else 0.06,
                    },
                )
    historian.store_readings(connection, [(*key, *values) for key, values in sorted(rows.items())])
    done = segment(historian.read_gate(connection, gate_id, first, to_ms(TODAY)))
    replace_days(connection, [(gate_id, [first + day * DAY_MS for day in range(days)], done)])
    cut_days.mark_dirty(connection, [(gate_id, to_ms(TODAY))])


def forecast_row(
    gate_id: str, component: str, as_of: datetime, p_14d: float, mode: str = "", lost: str = ""
) -> dict[str, object]:
    """One row of the forecasts table."""
    curve = curve_to(p_14d)
    first = {q: next((day for day, p in enumerate(curve, 1) if p >= q), None) for q in (0.1, 0.5, 0.9)}
    return {
        "gate_id": gate_id,
        "component": component,
        "as_of": as_of,
        "verdict": "forecast",
        "reason": "",
        "p_7d": curve[6],
        "p_14d": curve[13],
        "p_21d": curve[20],
        "ttf_p10_d": first[0.1],
        "ttf_p50_d": first[0.5],
        "ttf_p90_d": first[0.9],
        "failure_mode": mode,
        "failure_mode_share": MODE_SHARE if mode else None,
        "lost": lost,
        "model_version": VERSION,
        "curve": curve,
    }


def no_verdict_row(gate_id: str, component: str, as_of: datetime, reason: str) -> dict[str, object]:
    """One row of the forecasts table that says why there is no verdict."""
    row = dict.fromkeys(forecast_row(gate_id, component, as_of, 0.1))
    told = {"gate_id": gate_id, "component": component, "as_of": as_of, "verdict": "no_verdict", "reason": reason}
    return {**row, **told, "failure_mode": "", "lost": "", "model_version": VERSION}


def add_forecasts(connection: Connection, gate_ids: list[str], days: int = 3) -> None:
    """The last days' forecasts of every gate, and the run that made them."""
    draw = random.Random(3)
    rows = []
    for gate_id in gate_ids:
        for back in range(days):
            as_of = TODAY - back * DAY
            if gate_id in STALE + IDLE:
                reason = "stale" if gate_id in STALE else "idle"
                rows += [no_verdict_row(gate_id, component, as_of, reason) for component in ("", "motor")]
                continue
            risks = {c: (draw.uniform(0.01, 0.08), "") for c in ("motor", "gearbox", "brake", "leaf")}
            for (at_risk, component), (mode, p) in AT_RISK.items():
                if at_risk == gate_id:
                    risks[component] = (p, mode)
            worst = max(risks, key=lambda c: risks[c][0])
            lost = {c: BAD_SENSORS.get((gate_id, c), "") for c in risks}
            all_lost = "; ".join(sorted(text for text in lost.values() if text))
            rows.append(forecast_row(gate_id, "", as_of, min(0.99, risks[worst][0] + 0.02), risks[worst][1], all_lost))
            rows += [forecast_row(gate_id, c, as_of, p, mode, lost[c]) for c, (p, mode) in risks.items()]
    store.save_forecasts(connection, rows)
    run = {"as_of": TODAY, "finished_at": TODAY + timedelta(minutes=3), "duration_s": 2.5, "model_version": VERSION}
    store.save_scoring_run(connection, {**run, "gates": len(gate_ids), "forecasts": len(rows)})


def add_alerts(connection: Connection) -> list[str]:
    """The alerts of the gates at risk; the second one is acknowledged."""
    ids = []
    for (gate_id, component), (mode, p_14d) in AT_RISK.items():
        curve = curve_to(p_14d)
        first = next(day for day, p in enumerate(curve, 1) if p >= 0.1)
        outlook = Outlook(
            as_of=TODAY,
            curve=tuple(curve),
            failure_mode=mode,
            failure_mode_share=MODE_SHARE if mode else None,
            model_version=VERSION,
            severity=severity(curve[6], curve[13]),  # type: ignore[arg-type]  # one of the severities
            respond_by=TODAY + max(1, first) * DAY,
            confidence="not_yet_calibrated_here",
            evidence=({**EVIDENCE, "feature": f"{component}.velocity"},),
        )
        change = life.open_alert(gate_id, component, outlook, TODAY + timedelta(minutes=3))
        alert = store.apply_change(connection, change, actor=store.SCORING, public_url=PUBLIC_URL)
        ids.append(alert.alert_id)
    second = store.get_alert(connection, ids[1])
    change = life.acknowledge(second, by="North crew", at=NOW - timedelta(hours=2))
    store.apply_change(connection, change, actor=store.Actor("North crew", "ui"), public_url=PUBLIC_URL)
    return ids


def add_maintenance(connection: Connection) -> None:
    """A repair long ago and a lubrication two weeks ago."""
    day = {"gate_id": MEASURED, "recorded_at": NOW}
    connection.execute(
        sa.insert(historian.maintenance),
        [
            {**day, "component": "brake", "kind": "repair", "started_at": NOW - 24 * DAY, "ended_at": NOW - 23 * DAY},
            {**day, "component": "motor", "kind": "lubrication", "started_at": NOW - 13 * DAY, "ended_at": NOW - 13 * DAY},
        ],
    )


def add_quarantine(connection: Connection, n: int = 3) -> None:
    """Messages that could not be used."""
    row = {"topic": "sluicewatch/v1/DSH-S3/DSH-S3-G1/motor/telemetry", "payload": b'{"t": \xff', "reason": "not_json"}
    rows = [{**row, "received_at": NOW - timedelta(minutes=n), "detail": f"message {n}"} for n in range(n)]
    historian.put_in_quarantine(connection, rows)


def write_registry(folder: Path, *, calibrated_here: bool = False, reference: bool = False) -> Path:
    """A registry with one champion; only its manifest, for nothing here loads a model."""
    version = folder / VERSION
    version.mkdir(parents=True)
    manifest = {
        "format": "sluicewatch-model/1",
        "version": VERSION,
        "created_at": "2026-11-01T00:00:00Z",
        "policy": Policy(open_at=0.4, calibrated_here=calibrated_here).as_dict(),
        "files": {"model.joblib": {"sha256": "ab" * 32, "size": 1}},
    }
    if reference:
        manifest["files"] |= {"drift.json": {"sha256": "cd" * 32, "size": 1}}  # type: ignore[operator]
    (version / "manifest.json").write_text(json.dumps(manifest))
    (folder / "aliases.json").write_text(json.dumps({"champion": VERSION}))
    return folder


def fill(engine: Engine) -> list[str]:
    """The whole fleet; returns the ids of its alerts, in the order of `AT_RISK`."""
    with writing(engine) as connection:
        gate_ids = add_stations_and_gates(connection)
        add_readings(connection, MEASURED)
        add_forecasts(connection, gate_ids)
        store.add_endpoint(
            connection, url="https://receiver.example/hook", sealed_secret=b"x", at=NOW - DAY, actor=TEST, verified=True
        )
        alert_ids = add_alerts(connection)
        add_maintenance(connection)
        add_quarantine(connection)
        for gate_id in STALE:
            notice = life.open_notice("gate.data_stale", gate_id, NOW - 2 * DAY, gate_id=gate_id, detail={})
            store.save_notice(connection, notice, actor=store.SCORING)
    return alert_ids


def make_app(engine: Engine, registry: Path) -> FastAPI:
    """The application as the composition root makes it, with a clock that stands still."""
    return create_app(
        engine,
        clock=lambda: NOW,
        registry=registry,
        seal_secret=lambda secret: b"sealed:" + secret.encode()[::-1],
        check_url=lambda url: check_url(url, Guard(ports=())),
        session_key=b"k" * 32,
        public_url=PUBLIC_URL,
        bursts=registry.parent / "bursts",
    )


def make_key(engine: Engine, *scopes: str, name: str = "Duty desk") -> keys.NewKey:
    """A live key; without scopes, one that may do everything."""
    return auth.create_key(engine, name=name, scopes=scopes or tuple(keys.SCOPES), at=NOW - DAY, actor=TEST)


def put_on_hold(engine: Engine, alert_ids: list[str]) -> None:
    """As if nobody had been told of some alerts, for too many gates had opened cases that day."""
    detail = {"as_of": life.rfc3339(TODAY), "model_version": VERSION, "gates": 9, "gates_with_verdict": 21}
    with writing(engine) as connection:
        store.save_notice(connection, life.open_notice("model.on_hold", VERSION, NOW, detail=detail), actor=TEST)
        for alert_id in alert_ids:
            store.hold_alert(connection, alert_id, TODAY)
            mine = store.deliveries.c.subject == alert_id
            connection.execute(sa.update(store.deliveries).where(mine).values(state="held"))


def put_drift(engine: Engine, *, drifted: bool = True) -> None:
    """As if the gearboxes' vibration had been unlike what the model learnt from for a day and a half."""
    one = {"n": 640, "psi": 0.5, "psi_usual": 0.2, "ks": 0.3, "ks_usual": 0.15, "p": 1e-6, "drifted": drifted}
    few = {"n": 90, "psi": None, "psi_usual": None, "ks": None, "ks_usual": None, "p": None, "drifted": False}
    report = {
        "as_of": TODAY,
        "model_version": VERSION,
        "drifted": ["gearbox_velocity_z"] if drifted else [],
        "features": {"gearbox_velocity_z": one, "hydraulic_velocity_z": few},
        "gates_unlike": ["DSH-S1-G1"],
    }
    with writing(engine) as connection:
        store.save_drift_report(connection, report)
        if drifted:
            at = NOW - timedelta(hours=36)
            notice = life.open_notice("model.drift", VERSION, at, detail={"model_version": VERSION})
            store.save_notice(connection, notice, actor=TEST)
