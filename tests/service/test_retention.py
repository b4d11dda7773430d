"""Old raw readings go; what was learnt of their days stays, and nothing late can spoil it."""

from datetime import UTC, datetime, timedelta

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from pipeline import historian
from pipeline.historian import to_ms, writing
from pipeline.readings import DAY_MS
from service.live_features import load_features, refresh_operations
from tests.service.test_scoring import DAY, GATES, T0, declare, feed, feed_days, readings_of

DAYS = 20


def fed(engine: Engine) -> pd.DataFrame:
    declare(engine, GATES[:2])
    feed_days(engine, GATES[:2], T0 - DAYS * DAY, DAYS)
    refresh_operations(engine, GATES[:2], T0)
    return rows(engine)


def rows(engine: Engine) -> pd.DataFrame:
    with engine.connect() as connection:
        return load_features(connection, GATES[:2], [T0 - DAY, T0])


def raw_days(engine: Engine) -> list[datetime]:
    with engine.connect() as connection:
        ms = connection.scalars(sa.select(historian.readings.c.ts_ms // DAY_MS).distinct()).all()
    return sorted(datetime.fromtimestamp(day * 86_400, UTC) for day in ms)


def test_features_are_the_same_without_the_readings_they_were_made_of(engine: Engine) -> None:
    before = fed(engine)
    with engine.connect() as connection:
        stored = connection.scalar(sa.select(sa.func.count()).select_from(historian.readings)) or 0

    deleted = historian.forget_readings(engine, to_ms(T0 - 5 * DAY))

    assert deleted == stored * (DAYS - 5) // DAYS
    assert raw_days(engine) == [T0 - number * DAY for number in range(5, 0, -1)]
    pd.testing.assert_frame_equal(rows(engine), before, rtol=0, atol=0)
    assert historian.forget_readings(engine, to_ms(T0 - 5 * DAY)) == 0


def test_a_late_reading_of_a_forgotten_day_makes_it_not_anew(engine: Engine) -> None:
    before = fed(engine)
    historian.forget_readings(engine, to_ms(T0 - 5 * DAY))

    feed(engine, GATES[0], readings_of(T0 - 9 * DAY).head(3))

    assert refresh_operations(engine, GATES[:2], T0) == 0
    pd.testing.assert_frame_equal(rows(engine), before, rtol=0, atol=0)
    assert raw_days(engine)[0] == T0 - 9 * DAY
    historian.forget_readings(engine, to_ms(T0 - 4 * DAY))  # it goes with the next ones
    assert raw_days(engine)[0] == T0 - 4 * DAY
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(historian.dirty_days)) == 0


def test_a_day_that_was_not_cut_yet_keeps_its_readings(engine: Engine) -> None:
    fed(engine)
    late = readings_of(T0 - 9 * DAY).head(1).assign(ts=pd.Timestamp(T0 - 9 * DAY + timedelta(hours=3)))
    feed(engine, GATES[0], late)

    historian.forget_readings(engine, to_ms(T0 - 5 * DAY))

    assert raw_days(engine)[0] == T0 - 9 * DAY
    refresh_operations(engine, GATES[:2], T0)
    historian.forget_readings(engine, to_ms(T0 - 5 * DAY))
    assert raw_days(engine)[0] == T0 - 5 * DAY


def test_nothing_is_forgotten_unless_it_is_asked_for(engine: Engine) -> None:
    fed(engine)

    with writing(engine) as connection:
        assert historian.raw_from_ms(connection) == 0
    assert len(raw_days(engine)) == DAYS
