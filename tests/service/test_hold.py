"""The mass-flag guard: a model that flags half the fleet is put on hold, nobody is told of it but those who mind the model, and
nothing is lost or sent twice, whoever dies in between.

The model is faked as in `test_scoring`; the outbox is real and asked what it would send.
"""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from pipeline import historian
from pipeline.historian import writing
from service import alerts as life
from service import hold, outbox, scoring, store
from service.cases import CaseDay
from service.cli import main
from service.hold import HoldRule
from service.silence_watch import watch_silence
from tests.service.test_scoring import DAY, HOUR, T0, Model, Oracle, all_alerts, declare, feed, readings_of

FLEET = tuple(f"DSH-S1-G{n}" for n in range(1, 11))
PUSHED = FLEET[:4]
RNG = random.Random(1)
PERSON = store.Actor("wang", "cli")


def pushed(gate_ids: Iterable[str] = PUSHED, until: datetime = T0 + 100 * DAY, version: str = "oracle-1") -> Model:
    """A model that sees the motors of some gates fail, until some day, and is calm about the others."""
    flagged = set(gate_ids)

    def says(gate_id: str, component: str, as_of: datetime) -> float:
        return 0.6 if gate_id in flagged and component == "motor" and as_of < until else 0.01

    return Model(Oracle(says), version=version)


@pytest.fixture
def river(engine: Engine) -> Engine:
    """Ten gates with three days of readings up to T0, one receiver of everything and one of what concerns models."""
    fill(engine)
    return engine


def fill(engine: Engine) -> None:
    with writing(engine) as connection:
        known = set(connection.scalars(sa.select(historian.gates.c.gate_id)))
        fresh = [{"gate_id": g, "station_id": "DSH-S1", "hoist_type": "winch"} for g in FLEET if g not in known]
        connection.execute(sa.insert(historian.gates), fresh)
        connection.execute(sa.delete(historian.gates).where(historian.gates.c.gate_id.not_in(FLEET)))
        for locale, event_types in (("zh-CN", []), ("en", ["model.on_hold", "model.released"])):
            store.add_endpoint(
                connection,
                url=f"https://{locale}.example/",
                sealed_secret=b"x",
                at=T0,
                actor=PERSON,
                verified=True,
                locale=locale,
                event_types=event_types,
            )
    declare(engine, FLEET)
    frame = pd.concat([readings_of(T0 - number * DAY) for number in (3, 2, 1)], ignore_index=True)
    for gate_id in FLEET:
        feed(engine, gate_id, frame)


def score(engine: Engine, scored_by: Model, *days: int, rule: HoldRule | None = None, **given: Any) -> None:
    for day in days:
        now = T0 + day * DAY + HOUR
        scoring.score_days(engine, scored_by, [T0 + day * DAY], now, hold_rule=rule or HoldRule(), **given)


def sent(engine: Engine, now: datetime) -> list[str]:
    """Deliver all that is due until nothing is, every receiver accepting it; return `event subject` of each."""
    accepted = outbox.Outcome(status=204, error="")
    found: list[str] = []
    while claimed := outbox.claim(engine, now, worker="w"):
        for one in claimed:
            data = json.loads(one.body)["data"]
            found.append(f"{one.event_type} {data.get('alert_id') or data.get('gate_id') or data['notice_id'][:3]}")
            outbox.record(engine, one, accepted, now, RNG)
    return found


def kinds(texts: Iterable[str], of: tuple[str, ...] = ("alert.", "model.")) -> dict[str, int]:
    """How many there were of each type; the river falls silent after its first day, which is not what most tests are about."""
    names = [text.partition(" ")[0] for text in texts if text.startswith(of)]
    return {name: names.count(name) for name in sorted(set(names))}


def states(engine: Engine, event_type: str) -> Mapping[str, int]:
    table = store.deliveries.c
    with engine.connect() as connection:
        query = sa.select(table.state, sa.func.count()).where(table.event_type == event_type).group_by(table.state)
        return {row[0]: row[1] for row in connection.execute(query)}


def is_on_hold(engine: Engine) -> bool:
    with engine.connect() as connection:
        return hold.current(connection) is not None


def release(engine: Engine, now: datetime) -> hold.Released:
    with writing(engine) as connection:
        return hold.release(connection, now, actor=PERSON, reason="seen on site")


@given(gates=st.integers(0, 50), judged=st.integers(0, 50))
def test_a_flood_is_three_gates_and_more_than_a_fifth(gates: int, judged: int) -> None:
    assert HoldRule().is_flood(gates, judged) == (gates >= 3 and 5 * gates > judged)


def test_forty_percent_pushed_high_at_once_are_one_message_and_the_sensors_go_on(river: Engine) -> None:
    score(river, pushed(), 0)
    for gate_id in FLEET[:9]:  # the last one falls silent
        feed(river, gate_id, readings_of(T0))

    score(river, pushed(), 1)
    with writing(river) as connection:
        rows = pd.DataFrame([{"gate_id": FLEET[8], "component": "motor", "reason": "", "lost": "motor.velocity_rms: stuck"}])
        at = T0 + DAY + HOUR
        CaseDay(connection, pushed().policy, FLEET[8:9], rows, at - HOUR, at, "", lambda wanted: {}).tell_sensor_faults()
        watch_silence(connection, at)

    # one message to each of the two receivers; notices of sensors and silence to the one that wants them
    told = kinds(sent(river, T0 + DAY + HOUR), of=("",))
    assert told == {"gate.data_stale": 1, "model.on_hold": 2, "sensor.fault": 1}
    assert states(river, "alert.opened") == {"held": 4}
    assert {alert.gate_id for alert in all_alerts(river) if alert.state == "open"} == set(PUSHED)
    with river.connect() as connection:
        (notice,) = store.open_notices(connection, hold.ON_HOLD)
    assert notice.detail == {
        "as_of": life.rfc3339(T0 + DAY),
        "model_version": "oracle-1",
        "gates": 4,
        "gates_with_verdict": 10,
        "held_from_share": 0.2,
        "held_from_gates": 3,
    }


@pytest.mark.parametrize(("flagged", "rule"), [(2, HoldRule()), (4, HoldRule(share=0.4)), (4, HoldRule(gates=5))])
def test_fewer_gates_than_the_rule_says_are_told_as_ever(river: Engine, flagged: int, rule: HoldRule) -> None:
    score(river, pushed(FLEET[:flagged]), 0, 1, rule=rule)

    assert kinds(sent(river, T0 + DAY + HOUR)) == {"alert.opened": flagged}
    assert not is_on_hold(river)


def test_a_model_stays_on_hold_while_its_cases_stand_and_tells_nothing_twice(river: Engine) -> None:
    score(river, pushed(), 0, 1)
    score(river, pushed(FLEET[:5]), 2, 3)

    assert kinds(sent(river, T0 + 3 * DAY + HOUR)) == {"model.on_hold": 2}
    assert states(river, "alert.opened") == {"held": 5}


def test_a_person_releases_what_is_open_in_order_and_drops_what_is_resolved_with_a_record(river: Engine) -> None:
    score(river, pushed(), 0, 1)
    acknowledged, resolved, *_ = all_alerts(river)
    for change in (
        life.acknowledge(acknowledged, by="wang", at=T0 + DAY + 2 * HOUR),
        life.resolve(resolved, resolution="by_person", by="wang", at=T0 + DAY + 2 * HOUR, finding="false_alarm"),
    ):
        with writing(river) as connection:
            store.apply_change(connection, change, actor=PERSON, public_url="")
    assert kinds(sent(river, T0 + DAY + 3 * HOUR)) == {"model.on_hold": 2}

    released = release(river, T0 + DAY + 4 * HOUR)

    told = sent(river, T0 + DAY + 5 * HOUR)
    assert released == hold.Released(told=3, dropped=1)
    assert kinds(told) == {"alert.acknowledged": 1, "alert.opened": 3, "model.released": 2}
    of_one = [text.partition(" ")[0] for text in told if text.endswith(acknowledged.alert_id)]
    assert of_one == ["alert.opened", "alert.acknowledged"]
    assert (states(river, "alert.opened"), states(river, "alert.resolved")) == ({"delivered": 3, "dropped": 1}, {"dropped": 1})
    with river.connect() as connection:
        dropped = store.list_audit(connection, subject=resolved.alert_id)[0]
        assert store.count_held(connection) == 0
        ended = store.last_notice(connection, hold.ON_HOLD)
        assert ended is not None
        audited = store.list_audit(connection, subject=ended.notice_id)[0]
    assert (dropped["action"], dropped["actor"], dropped["after"], dropped["reason"]) == (
        "alert.dropped",
        "wang",
        {"deliveries": 2},
        "seen on site",
    )
    assert (audited["action"], audited["actor"], audited["after"]["reason"]) == ("model.released", "wang", "seen on site")


def test_a_released_day_is_not_held_again_but_another_flood_is(river: Engine) -> None:
    score(river, pushed(), 0, 1)
    release(river, T0 + DAY + 2 * HOUR)
    score(river, pushed(), 1)  # scored again, as after a crash
    score(river, pushed(), 2)
    assert not is_on_hold(river)

    score(river, pushed(FLEET[:8]), 3, 4)

    assert is_on_hold(river)
    assert states(river, "alert.opened") == {"pending": 4, "held": 4}
    assert kinds(sent(river, T0 + 5 * DAY)) == {"alert.opened": 4, "model.on_hold": 4, "model.released": 2}


def test_the_command_line_releases_with_a_reason(sqlite_engine: Engine) -> None:
    fill(sqlite_engine)
    score(sqlite_engine, pushed(), 0, 1)
    url = str(sqlite_engine.url)

    answers = [CliRunner().invoke(main, ["models", "release", "--reason", "seen on site", "--database", url]) for _ in range(2)]

    assert [answer.exit_code for answer in answers] == [0, 1]
    assert answers[0].output == "released: 4 alerts are told, 0 were resolved meanwhile and are not\n"
    assert "none is on hold" in answers[1].output
    assert states(sqlite_engine, "alert.opened") == {"pending": 4}


def test_who_releases_nothing_is_told_so(river: Engine) -> None:
    with pytest.raises(hold.NotOnHold, match="none is on hold"):
        release(river, T0)


def test_a_hold_ends_by_itself_when_few_enough_cases_are_left(river: Engine) -> None:
    score(river, pushed(), 0, 1)
    calm_but_two = pushed(PUSHED[:2])

    score(river, calm_but_two, 2, 3, 4, 5)
    held_until = kinds(sent(river, T0 + 5 * DAY + HOUR))
    score(river, calm_but_two, 6)  # the fifth day below: two cases close, 2 of 10 are left

    assert held_until == {"model.on_hold": 2}
    assert kinds(sent(river, T0 + 6 * DAY + HOUR)) == {"alert.opened": 2, "model.released": 2}
    assert states(river, "alert.opened") == {"delivered": 2, "dropped": 2}


def test_alerts_told_before_go_on_being_told(river: Engine) -> None:
    score(river, pushed(FLEET[9:]), 0, 1)
    (before,) = all_alerts(river)
    score(river, pushed((*PUSHED, FLEET[9])), 2, 3)
    assert kinds(sent(river, T0 + 3 * DAY + HOUR)) == {"alert.opened": 1, "model.on_hold": 2}

    with writing(river) as connection:
        alert = store.get_alert(connection, before.alert_id)
        change = life.acknowledge(alert, by="wang", at=T0 + 4 * DAY)
        store.apply_change(connection, change, actor=PERSON, public_url="")

    assert sent(river, T0 + 4 * DAY) == [f"alert.acknowledged {before.alert_id}"]


def test_a_model_replaced_on_hold_takes_its_untold_cases_with_it_and_what_the_next_one_sees_is_told(river: Engine) -> None:
    score(river, pushed(), 0, 1)
    taken_on = all_alerts(river)[3]
    with writing(river) as connection:
        change = life.acknowledge(taken_on, by="wang", at=T0 + DAY + 2 * HOUR)
        store.apply_change(connection, change, actor=PERSON, public_url="")
    before = pushed([PUSHED[0], taken_on.gate_id], version="oracle-0")

    score(river, before, 2)
    on_first_day = kinds(sent(river, T0 + 2 * DAY + HOUR))
    score(river, before, 3)

    assert on_first_day == {"alert.acknowledged": 1, "alert.opened": 1, "model.on_hold": 2, "model.released": 2}
    assert kinds(sent(river, T0 + 3 * DAY + HOUR)) == {"alert.opened": 1}
    assert states(river, "alert.opened") == {"delivered": 2, "dropped": 3}
    found = {(alert.gate_id, alert.state, alert.resolution, alert.opened_as_of) for alert in all_alerts(river)}
    withdrawn = [(gate_id, "resolved", "model_withdrawn", T0 + DAY) for gate_id in PUSHED[:3]]
    reopened = (PUSHED[0], "open", None, T0 + 3 * DAY)
    assert found == {*withdrawn, reopened, (PUSHED[3], "acknowledged", None, T0 + DAY)}
    with river.connect() as connection:
        log = store.load_case_log(connection, T0)
    assert sorted((case.gate_id, case.closed_as_of) for case in log if case.closed_as_of) == [
        (gate_id, T0 + 2 * DAY) for gate_id in PUSHED[:3]
    ]


def test_a_backlog_is_judged_day_by_day(river: Engine) -> None:
    scored_by = pushed(until=T0 + 3 * DAY)

    scoring.score_days(river, scored_by, [T0 + day * DAY for day in range(12)], T0 + 12 * DAY)

    # held on the second day, released on the eighth, the fifth below; by then all is resolved
    assert kinds(sent(river, T0 + 12 * DAY)) == {"model.on_hold": 2, "model.released": 2}
    assert states(river, "alert.opened") == {"dropped": 4}


def test_a_gate_that_cannot_be_scored_does_not_silence_the_others(river: Engine) -> None:
    def says(gate_id: str, component: str, as_of: datetime) -> float:
        if gate_id == FLEET[8] and as_of == T0 + DAY:
            raise RuntimeError("the machine went away")
        return 0.6 if (gate_id, component) == (FLEET[0], "motor") else 0.01

    score(river, Model(Oracle(says)), 0)
    with pytest.raises(RuntimeError):
        score(river, Model(Oracle(says)), 1, chunk=5)

    assert kinds(sent(river, T0 + DAY + HOUR)) == {"alert.opened": 1}


def test_a_deleted_receiver_loses_what_was_held_for_it(river: Engine) -> None:
    score(river, pushed(), 0, 1)
    with writing(river) as connection:
        for endpoint in store.list_endpoints(connection):
            store.delete_endpoint(connection, endpoint["endpoint_id"], at=T0 + 2 * DAY, actor=PERSON)

    release(river, T0 + 2 * DAY)

    assert states(river, "alert.opened") == {"failed": 4}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_and_die(url: str, moment: str) -> None:
    """In a process of its own: score the day of the flood, or release it, and be killed at a moment."""
    engine = historian.connect(url)
    if moment == "between the chunks":
        judged = scoring._score_gates

        def second_time(*given: Any) -> Any:
            scoring._score_gates = lambda *_: die()  # type: ignore[assignment,return-value]
            return judged(*given)

        scoring._score_gates = second_time
    elif moment == "before the judgement":
        scoring.judge_days = lambda *_: die()
    elif moment == "in the judgement":
        store.save_notice = lambda *_, **__: die()
    elif moment == "after the judgement":
        store.save_scoring_run = lambda *_: die()
    elif moment == "in the release":
        score(engine, pushed(), 1)
        store.tell_held = lambda *_: die()
        release(engine, T0 + DAY + 2 * HOUR)
    score(engine, pushed(), 1, chunk=5)


@pytest.mark.parametrize(
    "moment", ["between the chunks", "before the judgement", "in the judgement", "after the judgement", "in the release"]
)
def test_a_killed_process_loses_no_notice_and_sends_none_twice(river: Engine, moment: str) -> None:
    score(river, pushed(), 0)
    url = river.url.render_as_string(hide_password=False).replace("postgresql+psycopg", "postgresql")
    code = "import sys; from tests.service import test_hold; test_hold.run_and_die(sys.argv[1], sys.argv[2])"

    killed = subprocess.run([sys.executable, "-c", code, url, moment], env=os.environ, check=False)
    meanwhile = kinds(sent(river, T0 + DAY + HOUR))
    score(river, pushed(), 1)
    after = kinds(sent(river, T0 + DAY + HOUR))
    release(river, T0 + DAY + 3 * HOUR)

    assert killed.returncode == -signal.SIGKILL
    assert {name: meanwhile.get(name, 0) + after.get(name, 0) for name in meanwhile | after} == {"model.on_hold": 2}
    assert kinds(sent(river, T0 + DAY + 3 * HOUR)) == {"alert.opened": 4, "model.released": 2}
    assert len(all_alerts(river)) == 4
