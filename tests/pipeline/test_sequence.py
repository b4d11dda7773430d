"""What a publisher's count misses is reported once it will not come any more; nothing else is."""

import random

from pipeline.sequence import GRACE_S, MOST_MISSING, RESTART, Sequences


def fed(*numbers: int, topic: str = "a") -> Sequences:
    counts = Sequences()
    for number in numbers:
        counts.saw(topic, number, 0.0)
    return counts


def test_a_gap_is_told_once_and_only_when_its_time_is_over() -> None:
    counts = fed(5, 6, 9)

    assert counts.lost(GRACE_S - 1) == {}
    assert counts.lost(GRACE_S) == {"a": 2}
    assert counts.lost(10 * GRACE_S) == {}


def test_what_comes_late_within_its_time_was_not_lost() -> None:
    assert fed(1, 4, 3).lost(GRACE_S) == {"a": 1}
    assert fed(1, 4, 3, 2).lost(GRACE_S) == {}


def test_repetitions_and_a_new_count_are_no_gap() -> None:
    assert fed(1, 2, 2, 1, 3).lost(GRACE_S) == {}
    assert fed(700, 701, 0, 1, 2).lost(GRACE_S) == {}
    assert fed(1, 1 + 2 * RESTART, 2 + 2 * RESTART).lost(GRACE_S) == {}


def test_publishers_are_counted_apart() -> None:
    counts = fed(1, 3)
    for number in (8, 12):
        counts.saw("b", number, 30.0)

    assert counts.lost(GRACE_S) == {"a": 1}
    assert counts.lost(30.0 + GRACE_S) == {"b": 3}


def test_of_a_shuffled_stream_as_many_are_lost_as_are_left_out() -> None:
    chance = random.Random(7)
    numbers = list(range(2000))
    kept = [0, *(number for number in numbers[1:-1] if chance.random() > 0.1), numbers[-1]]
    shuffled = [kept[0], *sorted(kept[1:-1], key=lambda number: number + chance.uniform(0, 20)), kept[-1]]

    assert fed(*shuffled).lost(GRACE_S) == {"a": len(numbers) - len(kept)}


def test_no_device_makes_us_remember_without_end() -> None:
    jumps = [n * (RESTART - 1) for n in range(1, 300)]
    counts = fed(0, *jumps)
    for topic in range(100):
        for number in (1, RESTART - 10):
            counts.saw(f"t{topic}", number, 0.0)

    assert sum(counts.lost(GRACE_S).values()) <= MOST_MISSING
