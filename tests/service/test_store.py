"""The store on SQLite and on PostgreSQL: schema, forecasts, alerts with their outbox rows, keys and audit."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import alembic.autogenerate
import alembic.command
import alembic.runtime.migration
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from pipeline import cut_days, historian
from pipeline.errors import BadInput
from pipeline.historian import writing
from pipeline.readings import DAY_MS
from service import alerts as life
from service import store
from service.alerts import Alert, Outlook
from service.events import endpoint_event
from service.store import Actor

DAY = timedelta(days=1)
T0 = datetime(2026, 3, 2, tzinfo=UTC)
PERSON = Actor("wang", "api", "req-1")
CURVE = tuple(0.03 * day for day in range(1, 22))


def outlook(as_of: datetime = T0, severity: life.Severity = "medium") -> Outlook:
    return Outlook(as_of, CURVE, "motor_bearing", "v1", severity, as_of + 4 * DAY, "calibrated")


def open_alert(engine: Engine, gate_id: str = "DSH-S1-G1", component: str = "motor", as_of: datetime = T0) -> Alert:
    with writing(engine) as connection:
        change = life.open_alert(gate_id, component, outlook(as_of), as_of)
        return store.apply_change(connection, change, actor=store.SCORING, public_url="https://gates.example")


def add_endpoint(engine: Engine, *, event_types: tuple[str, ...] = (), locale: str = "zh-CN", verified: bool = True) -> str:
    with writing(engine) as connection:
        return store.add_endpoint(
            connection,
            url="https://receiver.example/hook",
            sealed_secret=b"sealed",
            at=T0,
            actor=PERSON,
            event_types=event_types,
            locale=locale,
            verified=verified,
        )


def forecast(gate_id: str, as_of: datetime, component: str = "") -> dict[str, object]:
    p = {"p_7d": CURVE[6], "p_14d": CURVE[13], "p_21d": CURVE[20], "ttf_p10_d": 4.0, "ttf_p50_d": 17.0, "ttf_p90_d": None}
    return {
        "gate_id": gate_id,
        "component": component,
        "as_of": as_of,
        "verdict": "forecast",
        "reason": "",
        **p,
        "failure_mode": "gear",
        "failure_mode_share": 0.8,
        "model_version": "v1",
        "curve": list(CURVE),
    }


def events_of(connection: Connection, subject: str) -> list[sa.Row[Any]]:
    event = store.events.c
    query = sa.select(store.events).where(event.subject == subject).order_by(event.event_sequence)
    return list(connection.execute(query))


def test_the_migrations_make_exactly_the_tables_of_the_code(engine: Engine) -> None:
    with engine.connect() as connection:
        context = alembic.runtime.migration.MigrationContext.configure(connection, opts={"compare_type": True})

        difference = alembic.autogenerate.compare_metadata(context, historian.metadata)

    assert difference == []


def test_migrating_twice_is_harmless_and_leaves_a_schema_that_checks(engine: Engine) -> None:
    store.migrate(engine)

    store.check_schema(engine)


def test_an_older_database_keeps_its_cases_and_counts_its_verdicts(engine: Engine) -> None:
    resolved = open_alert(engine, as_of=T0)
    with writing(engine) as connection:
        change = life.resolve(resolved, resolution="auto_cleared", by="scoring", at=T0 + 6 * DAY)
        store.apply_change(connection, change, actor=store.SCORING, public_url="https://gates.example")
    open_alert(engine, as_of=T0 + 20 * DAY)
    by_hand = open_alert(engine, component="brake", as_of=T0 + 3 * DAY)
    with writing(engine) as connection:
        change = life.resolve(by_hand, resolution="by_person", by="wang", at=T0 + 4 * DAY)
        store.apply_change(connection, change, actor=PERSON, public_url="https://gates.example")
        state = {"open": True, "over": [True, True], "days_below": 0}
        case = {"gate_id": "DSH-S1-G1", "state": state, "stepped_as_of": T0 + 20 * DAY, "alert_id": None}
        store.save_cases(connection, [{**case, "component": "motor"}, {**case, "component": "brake"}])
        rows = [forecast(gate_id, T0, component) for gate_id in ("DSH-S1-G1", "DSH-S1-G2") for component in ("", "motor")]
        silent = forecast("DSH-S2-G1", T0) | {"verdict": "no_verdict"}
        store.save_forecasts(connection, [*rows, silent])
        run = {"as_of": T0, "finished_at": T0, "duration_s": 1.0, "gates": 3, "forecasts": 5, "model_version": "v1"}
        store.save_scoring_run(connection, run)

    config = store.alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.downgrade(config, "0001")
    store.migrate(engine)

    with engine.connect() as connection:
        logged = {(case.component, case.opened_as_of, case.closed_as_of) for case in store.load_case_log(connection, T0)}
        assert store.gate_days(connection, T0, T0) == 2
    assert logged == {
        ("motor", T0, T0 + DAY),
        ("motor", T0 + 20 * DAY, None),
        ("brake", T0 + 3 * DAY, None),  # a person ended the alert, the policy has not closed the case
    }


def test_operations_of_an_older_database_are_forgotten_and_their_days_cut_again(engine: Engine) -> None:
    midnight = historian.to_ms(T0)
    noon, tomorrow = midnight + DAY_MS // 2, midnight + DAY_MS
    config = store.alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.downgrade(config, "0002")
        for gate_id in ("DSH-S1-G1", "DSH-S1-G2"):
            at = {"gate_id": gate_id, "at": midnight}
            connection.execute(sa.text("INSERT INTO rests (gate_id, day_ms, summary) VALUES (:gate_id, :at, '{}')"), at)
        for gate_id in ("DSH-S1-G1", "DSH-S2-G1"):
            at = {"gate_id": gate_id, "at": noon}
            connection.execute(sa.text("INSERT INTO operations VALUES (:gate_id, :at, :at + 60000, '{}')"), at)
        dirty = sa.text("INSERT INTO dirty_days (gate_id, day_ms) VALUES ('DSH-S1-G1', :at)")
        connection.execute(dirty, {"at": midnight})

    store.migrate(engine)

    with engine.connect() as connection:
        gate_ids = ("DSH-S1-G1", "DSH-S1-G2", "DSH-S2-G1")
        assert cut_days.load_dirty_days(connection, gate_ids, tomorrow) == {gate_id: [midnight] for gate_id in gate_ids}
        assert [cut_days.load_operations(connection, gate_id, 0, tomorrow) for gate_id in gate_ids] == [[], [], []]
        assert [cut_days.load_days(connection, gate_id, 0, tomorrow) for gate_id in gate_ids] == [[], [], []]


def test_a_database_without_the_schema_is_refused_with_the_command_that_mends_it(tmp_path: Path) -> None:
    empty = historian.connect(f"sqlite:///{tmp_path / 'empty.sqlite'}")

    with pytest.raises(BadInput, match="run `sluicewatch migrate`"):
        store.check_schema(empty)

    empty.dispose()


def test_a_published_forecast_cannot_be_written_again(engine: Engine) -> None:
    with writing(engine) as connection:
        store.save_forecasts(connection, [forecast("DSH-S1-G1", T0)])

    with pytest.raises(sa.exc.IntegrityError), writing(engine) as connection:
        store.save_forecasts(connection, [forecast("DSH-S1-G1", T0)])


def test_the_latest_forecast_holds_the_gate_row_first_and_then_its_components(engine: Engine) -> None:
    rows = [
        forecast(gate_id, T0 + days * DAY, component)
        for gate_id in ("DSH-S1-G1", "DSH-S1-G2")
        for days in range(3)
        for component in ("motor", "", "brake")
    ]
    with writing(engine) as connection:
        store.save_forecasts(connection, rows)

    with engine.connect() as connection:
        latest = store.latest_forecast(connection, "DSH-S1-G1")
        never = store.latest_forecast(connection, "DSH-S2-G1")

    assert [(row["component"], row["as_of"]) for row in latest] == [(c, T0 + 2 * DAY) for c in ("", "brake", "motor")]
    assert latest[0]["curve"] == pytest.approx(CURVE)
    assert never == []


def test_an_opened_alert_brings_its_event_its_outbox_rows_and_its_audit_row(engine: Engine) -> None:
    chinese, english = add_endpoint(engine), add_endpoint(engine, locale="en")
    add_endpoint(engine, event_types=("alert.resolved",))
    add_endpoint(engine, verified=False)

    alert = open_alert(engine)

    with engine.connect() as connection:
        stored = store.get_alert(connection, alert.alert_id)
        events = events_of(connection, alert.alert_id)
        rows = {
            row["endpoint_id"]: store.get_delivery(connection, row["webhook_id"])
            for row in store.list_deliveries(connection, subject=alert.alert_id)
        }
        audited = store.list_audit(connection, subject=alert.alert_id)
    assert stored == alert
    assert [event.type for event in events] == ["alert.opened"]
    assert {endpoint: json.loads(row["body"])["data"]["gate_name"] for endpoint, row in rows.items()} == {
        chinese: "1号站1号闸",
        english: "Gate 1 of S1",
    }
    assert {row["state"] for row in rows.values()} == {"pending"}
    assert [(row["actor"], row["action"], row["before"]) for row in audited] == [("scoring", "alert.opened", None)]


def test_there_is_never_a_second_unresolved_alert_of_one_gate_and_component(engine: Engine) -> None:
    open_alert(engine)

    with pytest.raises(sa.exc.IntegrityError):
        open_alert(engine, as_of=T0 + DAY)

    open_alert(engine, component="brake")
    with engine.connect() as connection:
        assert len(store.unresolved_alerts(connection, ["DSH-S1-G1"])) == 2


def test_of_two_people_who_acknowledge_the_same_version_one_is_told_of_the_conflict(engine: Engine) -> None:
    alert = open_alert(engine)
    first = life.acknowledge(alert, by="wang", at=T0)
    second = life.acknowledge(alert, by="li", at=T0)

    with writing(engine) as connection:
        store.apply_change(connection, first, actor=PERSON, public_url="")
    with pytest.raises(store.Conflict, match=alert.alert_id), writing(engine) as connection:
        store.apply_change(connection, second, actor=Actor("li", "api"), public_url="")

    with engine.connect() as connection:
        assert store.get_alert(connection, alert.alert_id).acknowledged_by == "wang"
        assert [event.sequence for event in events_of(connection, alert.alert_id)] == [1, 2]
        assert [row["actor"] for row in store.list_audit(connection, subject=alert.alert_id)] == ["wang", "scoring"]


def test_alerts_by_urgency_put_the_unacknowledged_and_severe_and_soonest_first(engine: Engine) -> None:
    wanted: list[str] = []
    with writing(engine) as connection:
        for component, severity, respond_in in (
            ("soon", "critical", 1),
            ("later", "critical", 3),
            ("high", "high", 1),
            ("medium", "medium", 1),
        ):
            given = Outlook(T0, CURVE, "", "v1", severity, T0 + respond_in * DAY, "calibrated")  # type: ignore[arg-type] # words of Severity
            change = life.open_alert("DSH-S1-G1", component, given, T0)
            wanted.append(store.apply_change(connection, change, actor=store.SCORING, public_url="").alert_id)
        seen = life.acknowledge(store.get_alert(connection, wanted[0]), by="wang", at=T0)
        store.apply_change(connection, seen, actor=PERSON, public_url="")

        urgent = [alert.alert_id for alert in store.alerts_by_urgency(connection)]
        counts = store.count_alerts(connection)

    assert urgent == [*wanted[1:], wanted[0]]
    assert counts == {"low": 0, "medium": 1, "high": 1, "critical": 2}


def test_a_notice_begins_once_ends_once_and_tells_both(engine: Engine) -> None:
    detail = {"reason": "stale"}
    notice = life.open_notice("gate.data_stale", "DSH-S1-G1", T0, gate_id="DSH-S1-G1", detail=detail)
    with writing(engine) as connection:
        store.save_notice(connection, notice, actor=store.SCORING)
    again = life.open_notice("gate.data_stale", "DSH-S1-G1", T0 + DAY, gate_id="DSH-S1-G1", detail=detail)
    with pytest.raises(sa.exc.IntegrityError), writing(engine) as connection:
        store.save_notice(connection, again, actor=store.SCORING)

    with writing(engine) as connection:
        (found,) = store.open_notices(connection, "gate.data_stale")
        store.save_notice(connection, life.close_notice(found, T0 + DAY), actor=store.SCORING)

    with engine.connect() as connection:
        assert found == notice
        assert store.open_notices(connection) == []
        told = events_of(connection, notice.notice_id)
        assert [(event.type, event.sequence) for event in told] == [
            ("gate.data_stale", 1),
            ("gate.data_restored", 2),
        ]


@pytest.mark.postgres
def test_a_later_event_waits_until_an_earlier_one_is_committed(postgres_url: str) -> None:
    engine = historian.connect(postgres_url)
    store.migrate(engine)
    event = endpoint_event("endpoint.ping", "ep_1", T0, {})

    with engine.connect() as slow, engine.connect() as quick:
        first = store.publish(slow, event)
        quick.execute(sa.text("SET lock_timeout = '200ms'"))
        quick.commit()
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            store.publish(quick, event)
        quick.rollback()
        slow.commit()
        second = store.publish(quick, event)
        quick.commit()

    assert second > first
    engine.dispose()


def test_a_deleted_endpoint_loses_its_secrets_and_what_was_pending(engine: Engine) -> None:
    endpoint_id = add_endpoint(engine)
    alert = open_alert(engine)

    with writing(engine) as connection:
        store.delete_endpoint(connection, endpoint_id, at=T0, actor=PERSON)

    with engine.connect() as connection:
        assert store.list_endpoints(connection) == []
        assert store.live_secrets(connection, endpoint_id, T0) == []
        assert [row["state"] for row in store.list_deliveries(connection, subject=alert.alert_id)] == ["failed"]
        with pytest.raises(store.NotFound):
            store.get_endpoint(connection, endpoint_id)


def test_an_old_secret_signs_beside_the_new_one_until_its_time_is_over(engine: Engine) -> None:
    endpoint_id = add_endpoint(engine)
    with writing(engine) as connection:
        store.rotate_secret(connection, endpoint_id, b"new", at=T0, keep_old=timedelta(hours=24), actor=PERSON)

    with engine.connect() as connection:
        just_before = store.live_secrets(connection, endpoint_id, T0 + timedelta(hours=24, seconds=-1))
        just_after = store.live_secrets(connection, endpoint_id, T0 + timedelta(hours=24, seconds=1))

    assert just_before == [b"new", b"sealed"]
    assert just_after == [b"new"]


def test_no_more_than_ten_old_secrets_are_kept(engine: Engine) -> None:
    endpoint_id = add_endpoint(engine)
    with writing(engine) as connection:
        for number in range(14):
            store.rotate_secret(connection, endpoint_id, b"%d" % number, at=T0, keep_old=DAY, actor=PERSON)

    with engine.connect() as connection:
        live = store.live_secrets(connection, endpoint_id, T0)

    assert live == [b"%d" % number for number in range(13, 2, -1)]


def test_a_key_is_found_by_its_id_until_it_is_revoked(engine: Engine) -> None:
    digest = hashlib.sha256(b"gk_secret").hexdigest()
    with writing(engine) as connection:
        store.add_api_key(connection, key_id="abcd1234", sha256=digest, name="crew", scopes=["alerts:read"], at=T0, actor=PERSON)
        store.touch_api_key(connection, "abcd1234", T0 + DAY)
        store.revoke_api_key(connection, "abcd1234", at=T0 + 2 * DAY, actor=PERSON)
        with pytest.raises(store.NotFound):
            store.revoke_api_key(connection, "abcd1234", at=T0 + 3 * DAY, actor=PERSON)

        found = store.find_api_key(connection, "abcd1234")

    assert found is not None
    assert found["sha256"] == digest
    assert found["scopes"] == ["alerts:read"]
    assert (found["last_used_at"], found["revoked_at"]) == (T0 + DAY, T0 + 2 * DAY)


def test_failed_deliveries_are_replayed_under_their_own_id(engine: Engine) -> None:
    endpoint_id = add_endpoint(engine)
    open_alert(engine)
    with writing(engine) as connection:
        connection.execute(sa.update(store.deliveries).values(state="failed", attempts=10, finished_at=T0 + DAY))
        (before,) = store.list_deliveries(connection)

        old = store.replay(connection, endpoint_id, at=T0, actor=PERSON, since=T0 + 2 * DAY)
        late = store.replay(connection, endpoint_id, at=T0, actor=PERSON, since=T0, until=T0 + DAY)
        sent = store.replay(connection, endpoint_id, at=T0, actor=PERSON, since=T0 + DAY, until=T0 + 2 * DAY)
        (after,) = store.list_deliveries(connection)

    assert (old, late, sent) == (0, 0, 1)
    assert (after["webhook_id"], after["state"], after["attempts"]) == (before["webhook_id"], "pending", 0)


def test_unknown_ids_are_told_apart_from_empty_answers(engine: Engine) -> None:
    with engine.connect() as connection:
        for ask in (store.get_alert, store.get_endpoint, store.get_delivery):
            with pytest.raises(store.NotFound, match="nothing"):
                ask(connection, "nothing")


KILLED = """
    import os, signal, sys
    from datetime import datetime, UTC
    from pipeline import historian
    from service import alerts as life, store
    from service.store import alert as writer
    engine = historian.connect(sys.argv[1])
    as_of = datetime(2026, 3, 2, tzinfo=UTC)
    outlook = life.Outlook(as_of, tuple(0.03 * day for day in range(1, 22)), "gear", "v1", "medium", as_of, "calibrated")
    with historian.writing(engine) as connection:
        change = life.open_alert("DSH-S1-G1", "gearbox", outlook, as_of)
        if sys.argv[2] == "after the alert":
            writer.gate_of = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # its alert is written, its event is not
        store.apply_change(connection, change, actor=store.SCORING, public_url="")
    if sys.argv[2] == "after the commit":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("moment", "rows"), [("after the alert", 0), ("after the commit", 1)])
def test_a_killed_process_leaves_the_alert_with_all_it_brings_or_nothing(engine: Engine, moment: str, rows: int) -> None:
    add_endpoint(engine)
    url = engine.url.render_as_string(hide_password=False).replace("postgresql+psycopg", "postgresql")

    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), url, moment], env=os.environ, check=False)

    assert killed.returncode == -signal.SIGKILL
    with engine.connect() as connection:
        counts = {
            table.name: connection.scalar(sa.select(sa.func.count()).select_from(table))
            for table in (store.alerts, store.events, store.deliveries)
        }
        audited = store.list_audit(connection)
    assert counts == {"alerts": rows, "events": rows, "deliveries": rows}
    assert [row["action"] for row in audited] == ["alert.opened"] * rows + ["endpoint.created"]
