"""The achieved rate of false alarms: kept day by day, told once when it turns over the budget and once when it is back.

Gates, cases and work orders are real rows; a year of quiet scoring runs is written rather than scored.
"""

import json
from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from models.labels import History
from models.watch import AlarmRate, alarm_rate, watched_days
from pipeline import historian
from pipeline.historian import writing
from service import alerts as life
from service import store
from service.alarm_watch import OVER_BUDGET, watch_alarms
from tests.service.test_scoring import (
    DAY,
    GATES,
    HOUR,
    T0,
    all_alerts,
    declare,
    event_types,
    feed_days,
    model,
    only,
    record,
    score_days,
)

BUDGET = 0.2


def quiet_years(engine: Engine, days: int = 400, gates: int = 30) -> None:
    """Scoring runs of some gates, each with a verdict, on every day from T0."""
    run = {"duration_s": 1.0, "gates": gates, "forecasts": gates, "model_version": "v1", "gates_with_verdict": gates}
    with writing(engine) as connection:
        for day in range(days):
            as_of = T0 + day * DAY
            store.save_scoring_run(connection, {**run, "as_of": as_of, "finished_at": as_of + HOUR})


def cases(engine: Engine, days: Mapping[str, tuple[int, int]]) -> None:
    """A case per component of the first gate, from one day after T0 to another."""
    with writing(engine) as connection:
        for component, (opened, closed) in days.items():
            case = {"gate_id": GATES[0], "component": component}
            store.log_cases(connection, [{**case, "as_of": T0 + opened * DAY}], [])
            store.log_cases(connection, [], [{**case, "as_of": T0 + closed * DAY}])
        connection.execute(sa.update(historian.gates).values(last_seen_ms=historian.to_ms(T0 + 2000 * DAY)))


def watch(engine: Engine, day: int) -> AlarmRate:
    with writing(engine) as connection:
        as_of = T0 + day * DAY
        watch_alarms(connection, [as_of], as_of + HOUR, budget_per_gate_year=BUDGET, model_version="v1")
        rate = store.last_alarm_rate(connection)
    assert rate is not None
    return rate


def told(engine: Engine) -> list[tuple[str, str]]:
    with engine.connect() as connection:
        event = store.events.c
        query = sa.select(event.type, event.at).where(event.type.like("alarms.%")).order_by(event.event_sequence)
        return [(row.type, (row.at - T0) // DAY) for row in connection.execute(query)]


def test_scoring_logs_when_cases_open_and_close_and_keeps_the_days_rate(sqlite_engine: Engine) -> None:
    declare(sqlite_engine, GATES[:1])
    feed_days(sqlite_engine, GATES[:1], T0 - 3 * DAY, 3)
    scored_by = model(only(GATES[0], "motor", [0.6, 0.6, *[0.1] * 5, *[0.6] * 3]))

    score_days(sqlite_engine, scored_by, 10)

    with sqlite_engine.connect() as connection:
        logged = [(case.component, case.opened_as_of, case.closed_as_of) for case in store.load_case_log(connection, T0)]
        rate = store.last_alarm_rate(connection)
        assert store.gate_days(connection, T0, T0 + 9 * DAY) == 10
    assert sorted(logged) == [("motor", T0 + DAY, T0 + 6 * DAY), ("motor", T0 + 8 * DAY, None)]
    assert rate == AlarmRate(T0 + 9 * DAY, 0, 0.0, 0.2)


def test_a_case_whose_alert_a_person_resolved_stays_open_in_the_log(sqlite_engine: Engine) -> None:
    declare(sqlite_engine, GATES[:1])
    feed_days(sqlite_engine, GATES[:1], T0 - 3 * DAY, 3)
    scored_by = model(only(GATES[0], "motor", [0.6] * 6))
    score_days(sqlite_engine, scored_by, 3)
    (alert,) = all_alerts(sqlite_engine)
    with writing(sqlite_engine) as connection:
        change = life.resolve(alert, resolution="by_person", by="wang", at=T0 + 2 * DAY + HOUR)
        store.apply_change(connection, change, actor=store.Actor("wang", "ui"), public_url="")

    score_days(sqlite_engine, scored_by, 3, first=3)

    with sqlite_engine.connect() as connection:
        (case,) = store.load_case_log(connection, T0)
    assert (case.opened_as_of, case.closed_as_of) == (T0 + DAY, None)


def test_a_repair_closes_the_case_in_the_log(sqlite_engine: Engine) -> None:
    declare(sqlite_engine, GATES[:1])
    feed_days(sqlite_engine, GATES[:1], T0 - 3 * DAY, 3)
    record(sqlite_engine, GATES[0], "repair", T0 + 2 * DAY + HOUR, component="motor")

    score_days(sqlite_engine, model(only(GATES[0], "motor", [0.6] * 5)), 5)

    with sqlite_engine.connect() as connection:
        logged = sorted(
            (case.opened_as_of, case.closed_as_of) for case in store.load_case_log(connection, T0) if case.closed_as_of
        )
    assert logged == [(T0 + DAY, T0 + 3 * DAY)]


def test_the_rate_comes_from_cases_failures_and_watched_days(sqlite_engine: Engine) -> None:
    quiet_years(sqlite_engine)
    cases(sqlite_engine, {"motor": (100, 110), "brake": (200, 265), "gearbox": (300, 310)})
    record(sqlite_engine, GATES[0], "failure", T0 + 320 * DAY, component="motor")

    rate = watch(sqlite_engine, 400)

    assert rate.false_alarms == 1 + 2  # the second stayed open for 65 days; a failure made the third one true
    assert rate.gate_years == 30 * 331 / 365.25  # 35 to 365 days after T0


def test_what_a_crew_found_of_an_alert_decides_what_its_case_cost(sqlite_engine: Engine) -> None:
    quiet_years(sqlite_engine)
    cases(sqlite_engine, {"motor": (100, 110), "brake": (160, 170), "gearbox": (220, 230), "leaf": (280, 290)})
    for component, day, finding in (
        ("motor", 105, "confirmed_degradation"),
        ("brake", 165, "no_fault_found"),
        ("gearbox", 225, "not_inspected"),
    ):
        told = {"component": component, "finding": finding, "alert_id": f"alr_{component}"}
        record(sqlite_engine, GATES[0], "repair" if component == "brake" else "inspection", T0 + day * DAY, **told)

    assert watch(sqlite_engine, 400).false_alarms == 2  # the brake's and the leaf's


def test_too_many_false_alarms_are_told_once_and_again_only_after_they_were_within_the_budget(sqlite_engine: Engine) -> None:
    quiet_years(sqlite_engine, days=1200, gates=2)
    cases(sqlite_engine, {f"part{n}": (first, first + 5) for n, first in enumerate([200, 240, 280, 320, 900, 940, 980])})

    for day in range(250, 1100, 10):
        watch(sqlite_engine, day)

    kinds = [kind for kind, _ in told(sqlite_engine)]
    days = [day for _, day in told(sqlite_engine)]
    assert kinds == ["alarms.over_budget", "alarms.within_budget", "alarms.over_budget"]
    with sqlite_engine.connect() as connection:
        daily = {row.as_of: AlarmRate(**row._mapping) for row in connection.execute(sa.select(store.alarm_rates))}
        assert len(store.open_notices(connection, OVER_BUDGET)) == 1
    over = [(as_of - T0) // DAY for as_of, rate in daily.items() if rate.is_over_budget]
    within = [(as_of - T0) // DAY for as_of, rate in daily.items() if rate.is_within_budget]
    assert days[0] == min(over)
    assert days[1] == min(day for day in within if day > days[0])
    assert days[2] == min(day for day in over if day > days[1])


def test_what_is_told_is_the_rate_and_its_budget_to_every_receiver(sqlite_engine: Engine) -> None:
    with writing(sqlite_engine) as connection:
        store.add_endpoint(
            connection, url="https://r.example/", sealed_secret=b"x", at=T0, actor=store.SCORING, verified=True, locale="en"
        )
    quiet_years(sqlite_engine, gates=2)
    cases(sqlite_engine, {f"part{n}": (first, first + 5) for n, first in enumerate([100, 150, 200, 250])})

    rate = watch(sqlite_engine, 390)

    with sqlite_engine.connect() as connection:
        (notice,) = store.open_notices(connection)
        (delivery,) = store.list_deliveries(connection)
        sent = json.loads(store.get_delivery(connection, delivery["webhook_id"])["body"])
    assert sent["type"] == "alarms.over_budget"
    assert sent["data"]["gate_id"] is None
    assert sent["data"]["detail"] == {
        "as_of": "2027-03-27T00:00:00Z",
        "false_alarms": 4,
        "gate_years": round(rate.gate_years, 2),
        "per_gate_year": round(rate.false_alarms / rate.gate_years, 3),
        "lower_per_gate_year": round(rate.lower_per_gate_year, 3),
        "budget_per_gate_year": 0.2,
    }
    assert event_types(sqlite_engine, notice.notice_id) == ["alarms.over_budget"]


def test_a_backlog_is_counted_day_by_day_and_told_once(sqlite_engine: Engine) -> None:
    quiet_years(sqlite_engine, gates=2)
    cases(sqlite_engine, {f"part{n}": (first, first + 5) for n, first in enumerate([100, 150, 200, 250])})
    days = [T0 + day * DAY for day in range(270, 301)]

    with writing(sqlite_engine) as connection:
        watch_alarms(connection, days, T0 + 301 * DAY, budget_per_gate_year=BUDGET, model_version="v1")
        kept = {row.as_of: AlarmRate(**row._mapping) for row in connection.execute(sa.select(store.alarm_rates))}
        log = store.load_case_log(connection, T0)
        alone = {
            as_of: alarm_rate(
                log,
                History(historian.load_table(connection, historian.maintenance)),
                {},
                gate_days=store.gate_days(connection, *watched_days(as_of)),
                as_of=as_of,
                budget_per_gate_year=BUDGET,
            )
            for as_of in days
        }

    assert kept == alone
    assert [kept[T0 + day * DAY].false_alarms for day in (270, 284, 285)] == [3, 3, 4]
    assert told(sqlite_engine) == [("alarms.over_budget", 301)]
