"""The benches in their smallest size: they measure what they say, and all that was sent arrives. Nothing about seconds."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from pipeline.simulator import write_dataset
from service.bench import drift
from service.bench.ingest import delays_ms
from service.bench.messages import publish_packets
from service.bench.report import Figure, document, ratio, table
from service.bench.score import bench_many
from service.bench.subscriber import peak_mb
from service.cli import main

FIELDS = {"bench", "measured", "against", "unit", "median", "low", "high", "values", "counts"}


def figures(*arguments: str, out: Path) -> list[dict[str, Any]]:
    """The figures that a bench writes, after a look at what every bench promises."""
    answer = CliRunner().invoke(main, ["bench", *arguments, "--out", str(out)], catch_exceptions=False)

    assert answer.exit_code == 0, answer.output
    written = json.loads(out.read_text(encoding="utf-8"))
    assert {"cores", "python", "mosquitto", "paho-mqtt", "scikit-learn"} <= set(written["machine"])
    assert f"python {written['machine']['python']}" in answer.stdout
    for figure in written["figures"]:
        assert set(figure) == FIELDS
        assert figure["low"] <= figure["median"] <= figure["high"]
        assert figure["measured"] in answer.stdout
        assert figure["against"] in answer.stdout
    return list(written["figures"])


def positive(figure: Mapping[str, Any]) -> bool:
    return all(value > 0 for value in figure["values"])


@pytest.mark.broker
@pytest.mark.usefixtures("mosquitto_program")
def test_the_ingest_bench_stores_every_reading_it_sends(tmp_path: Path) -> None:
    bare, single, of_bare, arrays, of_single = figures("ingest", "--messages", "300", "--repeats", "1", out=tmp_path / "f.json")

    assert single["counts"] == {"messages": 300, "sent": 300, "stored": 300}
    assert arrays["counts"] == {"messages": 30, "sent": 3000, "stored": 3000}
    assert of_bare["against"] == bare["measured"]
    assert of_bare["values"] == [one / other for one, other in zip(single["values"], bare["values"], strict=True)]
    assert of_single["against"] == single["measured"]
    assert all(positive(figure) and len(figure["values"]) == 1 for figure in (bare, single, of_bare, arrays, of_single))


@pytest.mark.broker
@pytest.mark.usefixtures("mosquitto_program")
def test_the_steady_bench_stores_every_reading_and_tells_how_long_each_waited(tmp_path: Path) -> None:
    half, most, nearly_all, poisoned, times, late, memory = figures(
        "steady", "--gates", "30", "--rate", "100", "--seconds", "2", "--repeats", "1", out=tmp_path / "f.json"
    )

    assert half["counts"] == {"sent": 200, "stored": 200}
    assert 0 < half["median"] <= most["median"] <= nearly_all["median"]
    assert times["median"] == pytest.approx(poisoned["median"] / nearly_all["median"])
    assert (late["unit"], memory["unit"]) == ("ms", "MB")
    assert positive(memory)


def test_the_import_bench_brings_in_every_value(tmp_path: Path) -> None:
    rate, memory = figures("import", "--gates", "2", "--days", "3", "--repeats", "2", out=tmp_path / "f.json")

    write_dataset(tmp_path / "fleet", gates=2, days=3, seed=1)
    frames = [pd.read_parquet(file).groupby("ts").first() for file in (tmp_path / "fleet" / "readings").iterdir()]
    assert rate["counts"] == {"values": sum(int(frame.notna().to_numpy().sum()) for frame in frames)}
    assert (rate["unit"], memory["unit"]) == ("values/s", "MB")
    assert all(positive(figure) and len(figure["values"]) == 2 for figure in (rate, memory))


def test_the_first_of_every_hundred_messages_is_poison_of_the_next_kind() -> None:
    good, mixed = list(publish_packets(1_500, 1)), list(publish_packets(1_500, 1, poison_every=100))

    assert [number for number in range(1_500) if good[number] != mixed[number]] == list(range(0, 1_500, 100))
    bad = mixed[::100]
    assert len(set(bad[:14])) == 14
    assert b"velocity 1.3" in bad[0]
    assert b"velocity 1.3" in bad[14]


def test_a_message_waits_from_when_it_is_due_until_its_batch_is_stored() -> None:
    batches = [(10.4, 2), (10.4, 2), (11.0, 3), (12.0, 6)]
    slowly = [next(end for end, total in batches if total > number) - 10.0 - number / 4 for number in range(6)]

    assert delays_ms(batches, start_s=10.0, messages_per_s=4.0) == pytest.approx([1000 * wait for wait in slowly])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only there a child begins with what its parent took")
def test_peak_memory_is_that_of_the_process_alone() -> None:
    taken = bytearray(b"x") * 300_000_000
    command = [sys.executable, "-c", "from service.bench.subscriber import peak_mb; print(peak_mb())"]

    told = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert 5 < told < len(taken) / 1e6 < peak_mb()


@pytest.mark.broker
@pytest.mark.usefixtures("mosquitto_program")
def test_the_publish_bench_counts_the_same_at_all_three_places(tmp_path: Path) -> None:
    rate, connect, memory = figures("publish", "--gates", "30", "--rate", "100", "--seconds", "3", out=tmp_path / "f.json")

    assert rate["counts"] == {"gates": 30, "stations": 10, "published": 300, "acknowledged": 300, "received": 300}
    assert 50 < rate["median"] <= 300 / (3 - 0.2)
    assert (rate["unit"], connect["unit"], memory["unit"]) == ("messages/s", "s", "MB")
    assert all(positive(figure) for figure in (rate, connect, memory))


def test_the_simulator_bench_tells_how_time_grows_with_the_gates(tmp_path: Path) -> None:
    one, two, exponent, memory = figures("simulate", "--gates", "2", "--days", "2", "--repeats", "2", out=tmp_path / "f.json")

    assert (one["measured"], two["measured"]) == ("1 gates x 2 days", "2 gates x 2 days")
    assert positive(one)
    assert positive(two)
    assert (exponent["unit"], len(exponent["values"])) == ("exponent", 2)
    assert memory["median"] > 50


def test_the_scoring_bench_scores_every_gate_and_forecasts_every_row(tmp_path: Path) -> None:
    day, layer, bare, of_bare = figures("score", "--gates", "2", "--days", "22", "--repeats", "2", out=tmp_path / "f.json")

    assert day["counts"] == {"gates": 2, "scored": 2}
    assert layer["counts"]["forecasts"] == layer["counts"]["rows"] > 0
    assert of_bare["against"] == bare["measured"]
    assert all(positive(figure) for figure in (day, layer, bare, of_bare))


def test_the_scoring_bench_of_a_fleet_scores_copies_of_its_gates_on_one_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.bench.score.SIMULATED", 2)

    few, many, *rates, exponent, memory = bench_many(gates=20, days=22, jobs=2)

    assert (few.unit, many.unit, exponent.unit, memory.unit) == ("s", "s", "exponent", "MB")
    assert [rate.values for rate in rates] == [(2 / few.median,), (20 / many.median,)]


def test_out_may_stand_before_the_bench_too(tmp_path: Path) -> None:
    out = tmp_path / "new" / "f.json"

    answer = CliRunner().invoke(
        main, ["bench", "--out", str(out), "simulate", "--gates", "2", "--days", "1", "--repeats", "1"], catch_exceptions=False
    )

    assert answer.exit_code == 0, answer.output
    assert len(json.loads(out.read_text(encoding="utf-8"))["figures"]) == 4


def test_too_few_days_to_score_are_refused_in_one_line() -> None:
    answer = CliRunner().invoke(main, ["bench", "score", "--days", "10"])

    assert answer.exit_code == 2
    assert answer.output.strip() == "sluicewatch: days: 5 repeats need at least 25; got 10"


def test_a_ratio_pairs_the_repeats_before_it_takes_the_median() -> None:
    ours = Figure("ingest", "ours", "readings/s", (10.0, 30.0, 100.0))
    bare = Figure("ingest", "bare", "readings/s", (20.0, 30.0, 50.0))

    found = ratio(ours, bare)

    assert found.values == (0.5, 1.0, 2.0)
    assert (found.median, found.against) == (1.0, "bare")
    assert "ours, against bare" in table([found], {"cores": 2})
    assert json.loads(document([found], {"cores": 2}))["figures"][0]["low"] == 0.5


def test_an_estimate_is_shown_with_its_interval_and_comes_back_from_its_file() -> None:
    estimate = Figure("core", "AP", "1", (0.42,), "0.4 or more", {"failures": 3}, interval=(0.35, 0.5))
    repeated = Figure("ingest", "ours", "readings/s", (10.0, 30.0))

    text = table([estimate, repeated], {"cores": 2})
    written = json.loads(document([estimate, repeated], {"cores": 2}))["figures"]

    assert "      0.42  0.35 .. 0.5" in text
    assert [line.split()[1:3] for line in text.splitlines() if line.startswith(("core ", "ingest"))] == [
        ["value", "90"],
        ["median", "range"],
    ]
    assert [Figure.from_dict(figure) for figure in written] == [estimate, repeated]


def test_packets_are_what_mqtt_3_1_1_says() -> None:
    (packet,) = publish_packets(1, 30)
    stream = io.BytesIO(packet)

    kind = stream.read(1)[0]
    length = shift = 0
    while True:  # the decoder of MQTT 3.1.1, 2.2.3
        (byte,) = stream.read(1)
        length += (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    body = stream.read()
    topic = body[2 : 2 + int.from_bytes(body[:2], "big")]
    payload = json.loads(body[4 + len(topic) :])

    assert (kind >> 4, kind & 0b110) == (3, 0b010)  # PUBLISH at QoS 1
    assert length == len(body)
    assert topic == b"sluicewatch/v1/S0/G0/motor/telemetry"
    assert len(payload["readings"]) == 30


def test_the_oracle_bench_says_how_calibrated_and_how_hard_the_fleets_are(tmp_path: Path) -> None:
    found = figures("oracle", "--gates", "12", "--days", "200", "--seeds", "28", "--jobs", "1", out=tmp_path / "f.json")

    named = {figure["measured"]: figure for figure in found}
    assert len(named["base rate, 14 d"]["values"]) == 1
    brier = [named[f"Brier score of {name}"]["median"] for name in ("O1", "model")]
    assert 0.0 < brier[0] < brier[1]
    assert named["silent and sudden failures, 300 gates x 1080 days"]["against"] == "0.20 to 0.30"
    assert named["AP of ISO zones over the base rate"]["median"] > 0
    assert 0.5 <= named["largest AUC of a feature of one channel"]["median"] <= 1.0
    assert any("O1 in 0.7..1, all fleets" in name for name in named)


def test_the_drift_bench_finds_a_shift_that_is_there_and_none_in_a_fleet_too_small(tmp_path: Path) -> None:
    small = ("--gates", "4", "--days", "30", "--reference-gates", "10", "--reference-days", "150", "--seeds", "7")

    found = figures("drift", *small, out=tmp_path / "f.json")

    calm, motor, gearbox, warm = found
    assert calm["measured"] == "fleet warnings in 30 days, 4 gates, no drift"
    assert (calm["values"], warm["values"]) == ([0.0], [0.0])  # four gates a week are no 500 values
    assert (motor["unit"], gearbox["unit"]) == ("d", "d")
    assert motor["values"] == gearbox["values"] == [22.0]


def test_shifts_and_seasons_change_what_they_say_from_the_middle_on(tmp_path: Path) -> None:
    folder, days = tmp_path / "fleet", 10
    write_dataset(folder, gates=1, days=20, seed=3)
    (file,) = (folder / "readings").iterdir()
    before = pd.read_parquet(file)

    drift._changed(folder, tmp_path / "shifted", days, drift._shift("motor.velocity_rms", 0.1))
    drift._changed(folder, tmp_path / "warm", days, drift._warm)

    shifted, warm = (pd.read_parquet(tmp_path / name / "readings" / file.name) for name in ("shifted", "warm"))
    begins = before["ts"].max().floor("D") - pd.Timedelta(days=4)
    ratio = (shifted["motor.velocity_rms"] / before["motor.velocity_rms"]).dropna()
    after = before["ts"][ratio.index] >= begins
    assert ratio[~after].to_numpy() == pytest.approx(1.0)
    assert ratio[after].to_numpy() == pytest.approx(np.exp(0.1))
    warmer = (warm["station.ambient_temperature"] - before["station.ambient_temperature"]).dropna()
    age_d = (before["ts"][warmer.index] - begins) / pd.Timedelta(days=1)
    assert warmer.to_numpy() == pytest.approx(5.0 / 14 * age_d.clip(lower=0).to_numpy())
    unchanged = [name for name in before if not name.endswith("temperature")]
    pd.testing.assert_frame_equal(warm[unchanged], before[unchanged])
