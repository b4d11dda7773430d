"""Evidence over HTTP and in alerts, each number made again the slow obvious way from what the API itself hands out.

Seven winch gates and a screw one without load or head: what a baseline explains is then the mean of its first 30 days. The
model is a real one, learnt on a toy fleet whose features are some of ours.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from models import registry as models
from models.fitting import Settings, fit
from models.forecast import Forecaster
from models.policy import Policy
from pipeline import cut_days, historian
from pipeline.historian import to_ms, writing
from pipeline.readings import Channel
from service import scoring, store
from service.live_features import load_features
from tests.models import fleet as toy
from tests.service.api import fleet
from tests.service.api.client import TestClient

DAY = timedelta(days=1)
DAYS = 40
TODAY = fleet.TODAY
T0 = TODAY - DAYS * DAY
WORN = "W1"
WINCHES = (WORN, "W2", "W3", "W4", "W5", "W6", "W7")
GATES = (*WINCHES, "S1")
CHANNELS = (("", "velocity_rms", "mm/s"), ("winding", "temperature", "degC"), ("", "moving", "1"))


def readings_of(gate_id: str) -> pd.DataFrame:
    """Two movements of ten minutes a day; the worn gate shakes and heats more from day 31 on."""
    rng = np.random.default_rng(GATES.index(gate_id))
    rows = []
    for day in range(DAYS):
        worn = max(0, day - 30) * (gate_id == WORN)
        for hour in range(0, 24, 2):
            rows.append((T0 + day * DAY + timedelta(hours=hour), 0.08, 20.0, 0.0))
        for hour in (7, 15):
            level = np.exp(0.08 * worn + 0.06 * rng.standard_normal())
            for minute in range(10):
                heat = 20.0 + (1.2 + 0.08 * worn) * minute + 0.2 * rng.standard_normal()
                at = T0 + day * DAY + timedelta(hours=hour, minutes=minute)
                rows.append((at, level * np.exp(0.03 * rng.standard_normal()), heat, 1.0))
    frame = pd.DataFrame(rows, columns=["ts", *(".".join(filter(None, ("motor", *c[:2]))) for c in CHANNELS)])
    return frame.sort_values("ts").assign(ts=lambda f: f["ts"].astype("datetime64[ms, UTC]"))


def fill(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(sa.insert(historian.stations), [{"station_id": "ST", "name": "Station"}])
        hoists = {gate_id: "winch" if gate_id in WINCHES else "screw" for gate_id in GATES}
        rows = [{"gate_id": g, "station_id": "ST", "hoist_type": hoist, "criticality": "normal"} for g, hoist in hoists.items()]
        connection.execute(sa.insert(historian.gates), rows)
        channels = [Channel(g, "motor", q, unit, point=p, interval_s=7200.0) for g in GATES for p, q, unit in CHANNELS]
        historian.declare_channels(connection, channels)
        for gate_id in GATES:
            frame = readings_of(gate_id)
            wide: dict[tuple[int, int], list[float | None]] = {}
            for slot in historian.load_slots(connection, gate_id).values():
                for instant, value in zip(frame["ts"], frame[slot.channel.key], strict=True):
                    wide.setdefault((slot.series_id, to_ms(instant)), [None] * historian.SLOTS)[slot.slot] = value
            historian.store_readings(connection, [(*key, *values) for key, values in sorted(wide.items())])
            cut_days.mark_dirty(connection, {(gate_id, to_ms(T0 + day * DAY)) for day in range(DAYS)})
            historian.mark_seen(connection, {gate_id: to_ms(frame["ts"].max())})


@pytest.fixture(scope="module")
def forecaster() -> Forecaster:
    learnt = toy.draw(15, 250, seed=1)
    small = Settings(trees=20, fewest_trees=20, learning_rate=0.2, healthy_rows=2000)
    made = fit(learnt.rows, learnt.maintenance, learnt.observed_until, features=toy.FEATURES, seed=0, settings=small)
    return replace(made, slope=1.3, intercept=0.2)


@pytest.fixture(scope="module")
def scored(forecaster: Forecaster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Path]]:
    """A database scored on three days, and the registry of the model that did."""
    folder = tmp_path_factory.mktemp("evidence")
    golden = toy.draw(1, 60, seed=5).rows.query("reason == ''").tail(20)
    model = models.save(
        folder / "registry",
        "toy-1",
        forecaster=replace(forecaster, version="toy-1"),
        policy=Policy(open_at=0.1),
        training={"data_sha256": "0" * 64},
        metrics={},
        card="# Model card\n",
        data_card="# Data card\n",
        golden_rows=golden,
    )
    engine = historian.connect(f"sqlite:///{folder / 'gates.sqlite'}")
    store.migrate(engine)
    fill(engine)
    days = [TODAY - back * DAY for back in (2, 1, 0)]
    scoring.score_days(engine, model, days, TODAY + timedelta(minutes=10))
    yield engine, folder / "registry"
    engine.dispose()


@pytest.fixture
def client(scored: tuple[Engine, Path]) -> TestClient:
    engine, registry = scored
    with writing(engine) as connection:
        connection.execute(sa.text("DELETE FROM api_keys"))
    key = fleet.make_key(engine)
    return TestClient(fleet.make_app(engine, registry), headers={"Authorization": f"Bearer {key.text}"})


@pytest.fixture
def evidence(client: TestClient) -> dict[str, dict[str, Any]]:
    """Evidence about the worn motor, by group."""
    told = client.get(f"/api/v1/gates/{WORN}/forecast?component=motor").json()["evidence"]
    return {item["feature"].removeprefix("motor."): item for item in told}


def summaries(client: TestClient, gate_id: str, start: datetime, end: datetime) -> list[dict[str, float]]:
    query = f"from={start:%Y-%m-%dT%H:%M:%SZ}&to={end:%Y-%m-%dT%H:%M:%SZ}&limit=500"
    return [one["summary"] for one in client.get(f"/api/v1/gates/{gate_id}/operations?{query}").json()["items"]]


def geometric_mean(client: TestClient, gate_id: str, start: datetime, end: datetime) -> float:
    return float(np.exp(fmean(np.log(one["motor.velocity_rms:mean"]) for one in summaries(client, gate_id, start, end))))


def test_value_baseline_and_peer_range_are_those_of_the_operations(client: TestClient, evidence: dict[str, Any]) -> None:
    item = evidence["velocity"]

    shown = {gate_id: geometric_mean(client, gate_id, TODAY - 3 * DAY, TODAY) for gate_id in WINCHES}
    usual = {gate_id: geometric_mean(client, gate_id, T0, T0 + 30 * DAY) for gate_id in WINCHES}
    change = {gate_id: shown[gate_id] / usual[gate_id] for gate_id in WINCHES}
    low, high = np.quantile([change[gate_id] for gate_id in WINCHES if gate_id != WORN], [0.1, 0.9])
    assert (item["channel"], item["unit"]) == ("motor.velocity_rms:mean", "mm/s")
    assert (item["value"], item["baseline"]) == (pytest.approx(shown[WORN]), pytest.approx(usual[WORN], rel=0.01))
    assert item["change"] == pytest.approx(item["value"] / item["baseline"])
    assert (item["change_unit"], item["direction"]) == ("x", "up")
    # a baseline pulls in its odd operations: the plain mean of 60 of them lies within 1 %
    assert (item["peer_low"], item["peer_high"]) == (pytest.approx(low, rel=0.01), pytest.approx(high, rel=0.01))
    assert (item["since"], item["as_of"]) == ("2026-11-17T00:00:00Z", "2026-11-20T00:00:00Z")


def test_a_temperature_is_told_by_its_rise_in_kelvin(client: TestClient, evidence: dict[str, Any]) -> None:
    item = evidence["temperature"]

    channel = "motor.winding.temperature"
    ops = summaries(client, WORN, TODAY - 3 * DAY, TODAY)
    assert (item["channel"], item["unit"], item["change_unit"]) == (f"{channel}:max", "K", "K")
    assert item["value"] == pytest.approx(fmean(one[f"{channel}:max"] - one[f"{channel}:start"] for one in ops))
    assert item["change"] == pytest.approx(item["value"] - item["baseline"])
    # 9 minutes of 0.08 K more a minute and day of wear, 7 to 9 days of it
    assert item["change"] == pytest.approx(9 * 0.08 * 8, abs=0.5)


def test_a_contribution_is_what_the_forecaster_says_without_it(
    scored: tuple[Engine, Path], forecaster: Forecaster, evidence: dict[str, Any]
) -> None:
    with scored[0].connect() as connection:
        row = load_features(connection, [WORN], [TODAY])
    middle = dict(zip(np.array(toy.FEATURES)[forecaster.parts["varied"]], forecaster.parts["middle"], strict=True))
    groups = {
        "velocity": [name for name in toy.FEATURES if name.startswith("vibration_")],
        "temperature": ["temperature_dev"],
    }

    for group, columns in groups.items():
        p, typical = (
            forecaster.predict(one).set_index("component").loc["motor", "p_14d"]
            for one in (row, row.assign(**{name: middle[name] for name in columns}))
        )

        expected = np.log(p / (1 - p)) - np.log(typical / (1 - typical))
        assert evidence[group]["contribution"] == pytest.approx(expected, abs=1e-9)
    assert evidence["velocity"]["contribution"] > 0.5


def test_the_strongest_comes_first_and_an_alert_keeps_what_spoke_for_the_failure(
    client: TestClient, evidence: dict[str, Any]
) -> None:
    (alert,) = [one for one in client.get("/api/v1/alerts").json()["items"] if one["gate_id"] == WORN]

    contributions = [item["contribution"] for item in evidence.values()]
    assert contributions == sorted(contributions, reverse=True)
    assert alert["as_of"] == "2026-11-20T00:00:00Z"
    kept = [item for item in evidence.values() if item["contribution"] > 0][:5]
    assert alert["evidence"] == [pytest.approx(item) for item in kept]


def test_a_forecast_is_not_explained_unasked(client: TestClient) -> None:
    assert client.get(f"/api/v1/gates/{WORN}/forecast").json()["evidence"] is None


def test_one_screw_gate_has_no_peers(client: TestClient) -> None:
    told = client.get("/api/v1/gates/S1/forecast?component=motor").json()["evidence"]

    assert {(item["peer_low"], item["peer_high"]) for item in told} == {(None, None)}


def test_a_component_without_forecast_is_not_found(client: TestClient) -> None:
    answer = client.get(f"/api/v1/gates/{WORN}/forecast?component=brake")

    assert answer.status_code == 404
    assert "components are motor" in answer.json()["detail"]


def test_a_model_that_is_gone_cannot_explain_its_forecast(
    scored: tuple[Engine, Path], tmp_path: Path, client: TestClient
) -> None:
    app = fleet.make_app(scored[0], tmp_path / "empty")
    other = TestClient(app, headers=dict(client.headers))

    answer = other.get(f"/api/v1/gates/{WORN}/forecast?component=motor")

    assert answer.status_code == 404
    assert "'toy-1', which made the forecast, cannot be loaded" in answer.json()["detail"]
