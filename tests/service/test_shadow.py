"""The challenger against the champion on matured forecasts of living gates, and its way in and out of the registry."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from sqlalchemy.engine import Engine

from models import promotion, registry
from pipeline import historian
from service import scoring, store
from service.cli import main
from service.shadow import TooEarly, compare_shadow

DAY = timedelta(days=1)
FIRST = datetime(2026, 3, 1, tzinfo=UTC)
NOW = FIRST + 120 * DAY
GATES = [f"DSH-S3-G{number}" for number in range(1, 31)]
FAILED = {gate_id: FIRST + (60 + number) * DAY + timedelta(hours=9) for number, gate_id in enumerate(GATES[:12])}

Says = Callable[[str, datetime], float]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A registry with the shipped champion and `mine`, the same with another threshold."""
    folder = tmp_path / "registry"
    shipped = registry.load(folder, registry.seed(folder))
    registry.save_tuned(folder, "mine", parent=shipped.version, policy=shipped.policy, tuned={}, card="")
    return folder


def knows(gate_id: str, as_of: datetime) -> float:
    """One who sees two weeks ahead, but for a little doubt."""
    ahead = FAILED.get(gate_id, NOW + 100 * DAY) - as_of
    return 0.9 if timedelta(0) < ahead <= 14 * DAY else 0.02


def guesses(gate_id: str, as_of: datetime) -> float:
    return float(np.random.default_rng([GATES.index(gate_id), (as_of - FIRST) // DAY]).uniform(0.0, 0.6))


def stored(says: Says, version: str, days: range) -> list[dict[str, Any]]:
    rows = []
    for gate_id in GATES:
        for day in days:
            as_of = FIRST + day * DAY
            curve = (1 - (1 - says(gate_id, as_of)) ** (np.arange(1, 22) / 14)).tolist()
            numbers = {"p_7d": curve[6], "p_14d": curve[13], "p_21d": curve[20], "curve": curve, "model_version": version}
            parts = ("", "motor")
            rows += [{"gate_id": gate_id, "component": part, "as_of": as_of, "verdict": "forecast", **numbers} for part in parts]
    return rows


def live(engine: Engine, champion: str, theirs: Says, ours: Says, days: range) -> None:
    """As if both had scored some days, and gates had failed."""
    failures = [
        {
            "gate_id": gate_id,
            "kind": "failure",
            "component": "motor",
            "started_at": at,
            "ended_at": at + 5 * DAY,
            "recorded_at": at,
        }
        for gate_id, at in FAILED.items()
    ]
    with historian.writing(engine) as connection:
        gates = [{"gate_id": gate_id, "station_id": "DSH-S3", "hoist_type": "winch"} for gate_id in GATES]
        connection.execute(sa.insert(historian.gates), gates)
        connection.execute(sa.insert(historian.maintenance), failures)
        store.save_forecasts(connection, stored(theirs, champion, range(days.stop)))
        store.save_shadow(connection, stored(ours, "mine", days))


def test_one_who_knows_is_better_than_one_who_guesses_on_matured_days_only(engine: Engine, models: Path) -> None:
    champion = registry.aliases(models)["champion"]
    live(engine, champion, theirs=guesses, ours=knows, days=range(20, 119))
    promotion.challenge(models, "mine", at=NOW, actor="zhang")

    found = compare_shadow(engine, models, NOW)

    report = found.reports["mine"]
    assert found.objections == []
    assert report["first_as_of"] == "2026-03-21T00:00:00+00:00"  # not the days before it was the challenger
    assert report["last_as_of"] == "2026-06-08T00:00:00+00:00"  # 14 days and a week for late records before now
    assert report["figures"]["ap_14d"]["value"] == pytest.approx(1.0)
    assert "matured up to 2026-06-08" in found.verdict
    promoted = promotion.promote(models, "mine", comparison=found, at=NOW, actor="zhang")
    assert promoted.version == "mine"
    assert registry.aliases(models) == {"champion": "mine", "previous": champion}


def test_one_who_guesses_is_refused_and_stays_the_challenger(sqlite_engine: Engine, models: Path) -> None:
    champion = registry.aliases(models)["champion"]
    live(sqlite_engine, champion, theirs=knows, ours=guesses, days=range(0, 119))
    promotion.challenge(models, "mine", at=NOW, actor="zhang")

    with pytest.raises(promotion.PromotionRefused, match="mine is not shown to be better than"):
        promotion.promote(models, "mine", comparison=compare_shadow(sqlite_engine, models, NOW), at=NOW, actor="zhang")

    assert registry.aliases(models) == {"champion": champion, "challenger": "mine"}


def test_too_few_matured_days_are_said_and_not_judged(sqlite_engine: Engine, models: Path) -> None:
    with pytest.raises(TooEarly, match="has no challenger; `sluicewatch models challenge VERSION`"):
        compare_shadow(sqlite_engine, models, NOW)
    live(sqlite_engine, registry.aliases(models)["champion"], theirs=knows, ours=knows, days=range(87, 119))
    promotion.challenge(models, "mine", at=NOW, actor="zhang")

    told = r"mine has forecast 13 midnights beside .* that have matured \(up to 2026-06-08: .*\); 14 are needed"
    with pytest.raises(TooEarly, match=told):
        compare_shadow(sqlite_engine, models, NOW)
    assert compare_shadow(sqlite_engine, models, NOW + DAY).candidate == "mine"


def test_a_challenge_is_recorded_loaded_and_ended(models: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        answer = CliRunner().invoke(main, ["models", *arguments, "--registry", str(models)])
        assert answer.exit_code in (0, 2), answer.output
        return answer.output.strip()

    champion = registry.aliases(models)["champion"]

    assert run("challenge", "mine") == "mine is the challenger: it forecasts beside the champion, and nobody is told"
    assert "mine  challenger" in run("list")
    assert scoring._challenger(models, None).version == "mine"  # type: ignore[union-attr]
    assert "cannot be its own challenger" in run("challenge", champion)
    assert "no model 'yours'" in run("challenge", "yours")
    assert run("challenge", "--none", "--reason", "worse") == "mine is no challenger any more"
    assert scoring._challenger(models, None) is None
    assert "has no challenger" in run("challenge", "--none")
    assert "give a version, or --none" in run("challenge")
    lines = [json.loads(line) for line in (models / registry.PROMOTIONS).read_text().splitlines()]
    assert [(line["action"], line["before"], line["after"], line["reason"]) for line in lines] == [
        ("challenge", "", "mine", ""),
        ("dismiss", "mine", "", "worse"),
    ]


def test_a_challenger_whose_bytes_were_changed_is_not_loaded(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    promotion.challenge(models, "mine", at=NOW, actor="zhang")
    with (models / "mine" / registry.MODEL).open("ab") as file:
        file.write(b"x")

    assert scoring._challenger(models, None) is None
    assert "the challenger cannot be loaded" in caplog.text


def test_damaged_aliases_leave_the_champion_at_work_without_a_challenger(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    champion = registry.load(models)
    (models / registry.ALIASES).write_text("{")

    assert scoring._newest(models, champion) is champion
    assert scoring._challenger(models, None) is None
    assert "the challenger cannot be loaded" in caplog.text


def test_what_a_challenger_says_proves_nothing_for_another_version(sqlite_engine: Engine, models: Path) -> None:
    champion = registry.aliases(models)["champion"]
    live(sqlite_engine, champion, theirs=guesses, ours=knows, days=range(0, 119))
    promotion.challenge(models, "mine", at=NOW, actor="zhang")
    found = compare_shadow(sqlite_engine, models, NOW)
    registry.save_tuned(models, "other", parent=champion, policy=registry.load(models).policy, tuned={}, card="")

    with pytest.raises(promotion.PromotionRefused, match="other must be compared with .*; mine was compared with"):
        promotion.promote(models, "other", comparison=found, at=NOW, actor="zhang")

    assert registry.aliases(models) == {"champion": champion, "challenger": "mine"}


@pytest.mark.parametrize(("simulated", "first"), [(False, "2026-05-01"), (True, "2026-03-01")])
def test_days_that_a_challenger_learnt_from_do_not_count(
    sqlite_engine: Engine, models: Path, simulated: bool, first: str
) -> None:
    shipped = registry.load(models)
    training = {**shipped.manifest["training"], "simulated": simulated, "labels_until": "2026-04-30T00:00:00+00:00"}
    golden = pd.read_parquet(models / shipped.version / registry.GOLDEN).drop(columns="expected_p_14d")
    cards: dict[str, Any] = {"metrics": {}, "card": "", "data_card": ""}
    mine = {"forecaster": shipped.forecaster, "policy": shipped.policy, "golden_rows": golden, **cards}
    registry.save(models, "late", training=training, **mine)
    live(sqlite_engine, shipped.version, theirs=guesses, ours=knows, days=range(0, 119))
    with historian.writing(sqlite_engine) as connection:
        store.save_shadow(connection, stored(knows, "late", range(119)))  # a backlog, scored after it had learnt
    promotion.challenge(models, "late", at=NOW, actor="zhang")

    found = compare_shadow(sqlite_engine, models, NOW)

    assert found.reports["late"]["first_as_of"][:10] == first
