import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, kstest

from pipeline.simulator import make_fleet, simulate_gate
from pipeline.simulator.publish import Message, fleet_messages
from pipeline.simulator.transport import Uplink, as_received, disturb, draw_uplink

START = datetime(2024, 1, 1, tzinfo=UTC)
START_MS = 1_704_067_200_000
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
PERFECT = Uplink(seed=1, station_number=0, sent_twice=0.0, held_back=0.0)


def every(minutes: float, messages: int, start_ms: int = START_MS) -> list[Message]:
    """So many messages of one station, each due some minutes after the one before."""
    return [Message(start_ms + round(n * minutes * MINUTE_MS), "a/b/telemetry", f"{n}".encode(), 1) for n in range(messages)]


def numbers(messages: list[Message]) -> list[int]:
    return [int(message.payload) for message in messages]


def different(messages: list[Message]) -> set[bytes]:
    return {message.payload for message in messages}


def test_a_perfect_uplink_changes_nothing() -> None:
    said = every(1, 500)

    assert list(disturb(said, PERFECT)) == said


def test_what_is_due_in_an_outage_comes_at_its_end_in_one_go_before_what_is_due_then() -> None:
    said = every(60, 6)  # at 0, 1, 2, 3, 4, 5 h
    uplink = replace(PERFECT, outages=((START_MS + HOUR_MS, START_MS + 3 * HOUR_MS),))

    came = list(disturb(said, uplink))

    assert numbers(came) == [0, 1, 2, 3, 4, 5]
    assert [(message.due_ms - START_MS) / HOUR_MS for message in came] == [0, 3, 3, 3, 4, 5]


def test_an_outage_that_ends_within_the_next_is_waited_out_to_the_end_of_both() -> None:
    outages = ((START_MS, START_MS + 2 * HOUR_MS), (START_MS + HOUR_MS, START_MS + 4 * HOUR_MS))

    came = list(disturb(every(60, 5), replace(PERFECT, outages=outages)))

    assert [(message.due_ms - START_MS) / HOUR_MS for message in came] == [4, 4, 4, 4, 4]


def test_a_forced_outage_of_three_days_is_replayed_with_the_old_times() -> None:
    said = every(15, 5 * 96)  # five days
    first, last = START_MS + DAY_MS, START_MS + 4 * DAY_MS
    uplink = replace(draw_uplink(seed=3, station_number=2, days=5, start=START), outages=((first, last),))

    came = list(disturb(said, uplink))

    assert sorted(different(came)) == sorted(message.payload for message in said)
    assert not [message for message in came if first <= message.due_ms < last]
    at_the_end = {number for message in came if message.due_ms == last for number in numbers([message])}
    # what was held back when it should have come near the end may come later than that
    assert at_the_end >= set(range(96, 4 * 96)) - {n for m in came if m.due_ms > last for n in numbers([m])}
    assert len(at_the_end) > 0.98 * 3 * 96


def test_when_all_are_sent_twice_each_comes_again_within_a_minute() -> None:
    came = list(disturb(every(10, 50), replace(PERFECT, sent_twice=1.0)))

    assert numbers(came) == [n for n in range(50) for _ in range(2)]
    gaps_ms = [again.due_ms - first.due_ms for first, again in zip(came[::2], came[1::2], strict=True)]
    assert 0 <= min(gaps_ms) < max(gaps_ms) <= MINUTE_MS


def test_when_all_are_held_back_each_comes_one_to_thirty_minutes_late() -> None:
    said = every(10, 400)

    came = list(disturb(said, replace(PERFECT, held_back=1.0)))

    late_ms = [message.due_ms - said[number].due_ms for message, number in zip(came, numbers(came), strict=True)]
    assert kstest([(late - MINUTE_MS) / (29 * MINUTE_MS) for late in late_ms], "uniform").pvalue > 0.001
    assert numbers(came) != sorted(numbers(came)), "at 10 minutes apart many are overtaken"


def test_shares_of_repeated_and_late_messages_are_those_of_the_domain() -> None:
    messages = 40_000
    said = every(1, messages)

    came = list(disturb(said, Uplink(seed=5, station_number=1)))

    times = Counter(numbers(came))
    first_ms: dict[int, int] = {}
    for message, number in zip(came, numbers(came), strict=True):
        first_ms.setdefault(number, message.due_ms)
    twice = sum(count == 2 for count in times.values())
    late = sum(first_ms[number] > message.due_ms for number, message in enumerate(said))
    for found, share in ((twice, 0.01), (late, 0.005)):
        low, high = binom.interval(0.999, messages, share)
        assert low <= found <= high
    assert set(times.values()) == {1, 2}


@given(
    seed=st.integers(0, 1000),
    gaps_min=st.lists(st.integers(0, 90), max_size=60),
    share=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    outage_h=st.tuples(st.integers(0, 40), st.integers(0, 72)),
)
def test_nothing_is_lost_or_altered_or_early_and_all_comes_in_order_of_handing_over(
    seed: int, gaps_min: list[int], share: float, outage_h: tuple[int, int]
) -> None:
    due_ms, said = START_MS, []
    for number, gap in enumerate(gaps_min):
        due_ms += gap * MINUTE_MS
        said.append(Message(due_ms, f"topic/{number % 3}", f"{number}".encode(), 1))
    begin = START_MS + outage_h[0] * HOUR_MS
    uplink = Uplink(seed, 0, ((begin, begin + outage_h[1] * HOUR_MS),), sent_twice=share, held_back=share)

    came = list(disturb(said, uplink))

    assert {(m.topic, m.payload, m.rows) for m in came} == {(m.topic, m.payload, m.rows) for m in said}
    assert [m.due_ms for m in came] == sorted(m.due_ms for m in came)
    assert all(message.due_ms >= said[number].due_ms for message, number in zip(came, numbers(came), strict=True))
    assert not [m for m in came if uplink.outages[0][0] <= m.due_ms < uplink.outages[0][1]]


def test_a_message_that_waits_does_not_make_it_read_everything() -> None:
    read: list[int] = []

    def endless() -> Iterator[Message]:
        number = 0
        while True:
            read.append(number)
            yield Message(START_MS + number * MINUTE_MS, "topic", f"{number}".encode(), 1)
            number += 1

    came = disturb(endless(), Uplink(seed=1, station_number=0, held_back=0.5))

    for asked in range(1, 2000):
        next(came)
        assert len(read) <= asked + 31, "no message is held back for more than 30 minutes"


def test_the_same_seed_is_the_same_stream_and_another_station_another() -> None:
    said = every(1, 5000)
    days = 4000

    uplink = draw_uplink(7, 3, days, START)

    assert list(disturb(said, uplink)) == list(disturb(said, draw_uplink(7, 3, days, START)))
    assert uplink.outages != draw_uplink(7, 4, days, START).outages
    calm, calm_neighbour = (replace(one, outages=()) for one in (uplink, draw_uplink(7, 4, days, START)))
    assert list(disturb(said, calm)) != list(disturb(said, calm_neighbour))


def test_an_outage_leaves_alone_what_happens_to_the_messages_around_it() -> None:
    said = every(15, 10 * 96)
    calm = Uplink(seed=2, station_number=0)
    first, last = START_MS + 3 * DAY_MS, START_MS + 6 * DAY_MS

    came, came_calm = list(disturb(said, replace(calm, outages=((first, last),)))), list(disturb(said, calm))

    assert [m for m in came if m.due_ms < first or m.due_ms > last] == [
        m for m in came_calm if m.due_ms < first or m.due_ms > last
    ]


def test_outages_come_once_in_200_station_days_and_last_log_uniformly_from_minutes_to_days() -> None:
    days, stations = 1000, 60

    uplinks = [draw_uplink(1, station, days, START) for station in range(stations)]

    outages = [outage for uplink in uplinks for outage in uplink.outages]
    low, high = binom.interval(0.999, days * stations, 1 / 200)
    # one that begins within another is a part of it, which happens to about one in a hundred
    assert 0.97 * low <= len(outages) <= high
    minutes = [(end - start) / MINUTE_MS for start, end in outages]
    assert kstest(minutes, "loguniform", args=(5, 3 * 24 * 60)).pvalue > 0.001
    for uplink in uplinks:
        ends = [instant for outage in uplink.outages for instant in outage]
        assert ends == sorted(ends)
        assert all(START_MS <= start < START_MS + days * DAY_MS for start, _ in uplink.outages)


@pytest.mark.parametrize("days", [1, 50, 700])
def test_a_longer_time_begins_with_the_outages_of_a_shorter_one(days: int) -> None:
    shorter, longer = (draw_uplink(1, 5, length, START).outages for length in (days, 1000))

    begun = [outage for outage in longer if outage[0] < (START + timedelta(days=days)).timestamp() * 1000]
    assert list(shorter) == begun


def test_a_historian_gets_some_rows_twice_and_some_out_of_order_and_nothing_else() -> None:
    frame = pd.DataFrame(
        {"ts": pd.date_range("2024-01-01", periods=20_000, freq="min", tz="UTC"), "leaf.head": np.arange(20_000.0)}
    )

    got = as_received(frame, np.random.default_rng(1))

    pd.testing.assert_frame_equal(got.drop_duplicates().sort_values("ts", ignore_index=True), frame)
    assert len(got) - len(frame) == pytest.approx(200, abs=45)
    late = (got["ts"].cummax() > got["ts"]).sum()
    # nearly every held one, and a repeated one unless it comes before the next, which is one of five
    assert late == pytest.approx(100 + 0.8 * 200, abs=60)


def test_one_gate_in_twenty_has_a_wrong_clock_and_one_station_in_forty_another_time_zone() -> None:
    fleet = make_fleet(gates=1500, days=1, seed=1)

    error_s = np.array([gate.clock_error_s for gate in fleet.gates])
    abroad = error_s > 20_000
    assert np.mean(abroad) == pytest.approx(1 / 40, abs=0.012)
    skewed = (error_s != 0.0) & ~abroad
    assert np.mean(skewed) == pytest.approx(0.05, abs=0.015)
    assert np.abs(error_s[skewed]).max() <= 120.0
    assert {gate.station_id for gate, far in zip(fleet.gates, abroad, strict=True) if far}.isdisjoint(
        {gate.station_id for gate, far in zip(fleet.gates, abroad, strict=True) if not far}
    )
    assert all(gate.clock_error_s == 0.0 for gate in make_fleet(gates=1500, days=1, seed=1, transport_faults=False).gates)


def test_a_wrong_clock_is_in_the_times_and_not_in_the_moment_of_publishing() -> None:
    fleet = make_fleet(gates=300, days=1, seed=1)
    plain = make_fleet(gates=300, days=1, seed=1, transport_faults=False)
    gate = next(gate for gate in fleet.gates if gate.clock_error_s > 20_000)

    said, right = (
        list(
            fleet_messages(f, {gate.gate_id: simulate_gate(f, gate.gate_id).readings}, batch=timedelta(0))[
                gate.station_id
            ].messages
        )
        for f in (fleet, plain)
    )

    assert [m.due_ms for m in said] == [m.due_ms for m in right]
    stamps = [pd.Timestamp(json.loads(messages[0].payload)["t"]) for messages in (said, right)]
    assert stamps[0] - stamps[1] == timedelta(seconds=gate.clock_error_s)
