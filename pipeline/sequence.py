"""What the sequence numbers of a publisher say went lost before it reached us. No clock: it is told what time it is.

A number only ever reports: it is not asked whether a reading counts. A device may restart its count, send late what it kept, and
send twice; a number that is missing counts as lost when it has not come for some time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

GRACE_S = 60.0
"""A number that comes so much later than its neighbours was late, not lost."""

RESTART = 10_000
"""A number so far from the expected one begins a new count, and so does 0."""

MOST_TOPICS, MOST_MISSING = 100_000, 200_000
"""No device can make us remember more than so many counts and missing numbers; beyond it a gap begins a new count."""


@dataclass(slots=True)
class _Count:
    following: int
    missing: dict[int, float] = field(default_factory=dict)  # number -> when its absence was seen


class Sequences:
    """The counts of all publishers, by topic."""

    def __init__(self) -> None:
        self._counts: dict[str, _Count] = {}
        self._open: set[str] = set()
        self._missing = 0

    def saw(self, topic: str, number: int, at_s: float) -> None:
        """Note that a message with this number came."""
        count = self._counts.get(topic)
        if count is None:
            if len(self._counts) < MOST_TOPICS:
                self._counts[topic] = _Count(number + 1)
            return
        if number == count.following:
            count.following += 1
        elif number in count.missing:
            del count.missing[number]
            self._missing -= 1
        elif 0 < (gap := number - count.following) < RESTART - len(count.missing) and self._missing + gap <= MOST_MISSING:
            self._missing += gap
            count.missing |= dict.fromkeys(range(count.following, number), at_s)
            count.following = number + 1
            self._open.add(topic)
        elif number == 0 or gap > 0 or gap <= -RESTART:
            self._missing -= len(count.missing)
            self._counts[topic] = _Count(number + 1)

    def lost(self, at_s: float) -> Mapping[str, int]:
        """How many are given up now, by topic; none is told of twice."""
        given_up = {}
        for topic in sorted(self._open):
            missing = self._counts[topic].missing
            old = [number for number, since_s in missing.items() if at_s - since_s >= GRACE_S]
            for number in old:
                del missing[number]
            self._missing -= len(old)
            if old:
                given_up[topic] = len(old)
            if not missing:
                self._open.discard(topic)
        return given_up
