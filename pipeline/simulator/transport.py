"""What goes wrong between a station's gateway and the broker: messages sent twice, held back, or waiting for the uplink.

Nothing is lost here, and no message is altered: each comes once at least, later perhaps, with the times at which its readings
happened. A gateway outside the broker's reach stores and forwards. Clock errors are not here; they are made with the timestamps.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from math import exp, log
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.simulator.scenarios import find_scenario
from pipeline.simulator.streams import Layer, stream

if TYPE_CHECKING:
    from pipeline.simulator.fleet import Fleet
    from pipeline.simulator.publish import Message, Station

SENT_TWICE = 0.01
HELD_BACK = 0.005
AGAIN_WITHIN_MS = 60_000
"""A message is sent again within so long after the first time: its acknowledgement had not come."""
HELD_BACK_MS = (60_000, 30 * 60_000)
"""Shortest and longest; many are overtaken by their own component's next."""

OUTAGES_PER_DAY = 1 / 200
OUTAGE_MS = (5 * 60_000, 3 * 86_400_000)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_DAY_MS = 86_400_000
_DRAWS_AT_ONCE = 256
_OUTAGES, _MESSAGES = 0, 1


@dataclass(frozen=True, slots=True)
class Uplink:
    """One station's way to the broker, and what is wrong with it.

    Attributes
    ----------
    outages : (start, end) in epoch ms, apart from each other and in order of time; what is due in between comes at the end
    sent_twice, held_back : share of messages
    """

    seed: int
    station_number: int
    outages: tuple[tuple[int, int], ...] = ()
    sent_twice: float = SENT_TWICE
    held_back: float = HELD_BACK


def draw_uplink(seed: int, station_number: int, days: int, start: datetime) -> Uplink:
    """Draw the outages of a station's uplink: one in 200 days, log-uniform from 5 minutes to 3 days.

    A longer time begins with the outages of a shorter one. To force an outage, use `dataclasses.replace`: what happens to
    the messages is drawn from another stream.

    Examples
    --------
    >>> uplink = draw_uplink(seed=1, station_number=0, days=1000, start=datetime(2024, 1, 1, tzinfo=UTC))
    >>> [round((end - start) / 60_000) for start, end in uplink.outages]  # minutes
    [12, 135, 1514, 37]
    """
    start_ms = (start - _EPOCH) // _MILLISECOND
    shortest, longest = OUTAGE_MS
    outages: list[tuple[int, int]] = []
    draws = stream(seed, Layer.TRANSPORT, station_number, _OUTAGES).random((days, 3)).tolist()
    for day, (happens, when, how_long) in enumerate(draws):
        if happens < OUTAGES_PER_DAY:
            begin = start_ms + day * _DAY_MS + int(when * _DAY_MS)
            end = begin + round(shortest * exp(how_long * log(longest / shortest)))
            if outages and begin <= outages[-1][1]:
                outages[-1] = (outages[-1][0], max(outages[-1][1], end))
            else:
                outages.append((begin, end))
    return Uplink(seed, station_number, tuple(outages))


def disturb(messages: Iterable[Message], faults: Uplink) -> Iterator[Message]:
    """Say when each message of a station comes to the broker, and which come twice.

    Parameters
    ----------
    messages : in the order of `due_ms`; read no further than needed

    Yields
    ------
    Message
        In the order of `due_ms`, now the moment at which the message is handed over. Messages handed over at the same moment
        keep their order.
    """
    waiting: list[tuple[int, int, Message]] = []
    copies = 0
    for message, (twice, again, held, how_long) in zip(messages, _draws(faults), strict=False):
        due_ms = message.due_ms
        if held < faults.held_back:
            due_ms += _between(HELD_BACK_MS, how_long)
        moments_ms = [due_ms, due_ms + int(again * AGAIN_WITHIN_MS)] if twice < faults.sent_twice else [due_ms]
        for moment_ms in moments_ms:
            handed_ms = _when_up(moment_ms, faults.outages)
            heapq.heappush(waiting, (handed_ms, copies, message._replace(due_ms=handed_ms)))
            copies += 1
        # all that is still unread is due at this message's time or later
        while waiting and waiting[0][0] <= message.due_ms:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]


def through_uplinks(fleet: Fleet, stations: Mapping[str, Station]) -> dict[str, Station]:
    """The stations with what their uplinks do to their messages; the scenario `gateway_outage` cuts them all for three days."""
    forced: tuple[tuple[int, int], ...] = ()
    start_ms = (fleet.started_at - _EPOCH) // _MILLISECOND
    if fleet.scenario == "gateway_outage":
        window = find_scenario(fleet.scenario).window(fleet.start, fleet.days)
        forced = ((start_ms + window.start * _DAY_MS, start_ms + window.stop * _DAY_MS),)
    out: dict[str, Station] = {}
    for number, station_id in enumerate(fleet.stations["station_id"]):
        if station_id in stations:
            uplink = Uplink(fleet.seed, number, (), 0.0, 0.0)
            if fleet.transport_faults:
                uplink = draw_uplink(fleet.seed, number, fleet.days, fleet.started_at)
            uplink = replace(uplink, outages=tuple(sorted((*uplink.outages, *forced))))
            station = stations[station_id]
            out[station_id] = station._replace(messages=disturb(station.messages, uplink))
    return out


def as_received(readings: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """The rows of one gate's readings in a historian that wrote them as they came: 1 % twice, 0.5 % after later ones.

    What waited for the uplink came in its own order, so an outage shows in no file.
    """
    n = len(readings)
    twice, late = rng.random(n) < SENT_TWICE, rng.random(n) < HELD_BACK
    place = np.arange(n) + np.where(late, rng.uniform(1.0, 30.0, n), 0.0)
    again = np.flatnonzero(twice)
    order = np.argsort(np.concatenate([place, place[again] + rng.uniform(0.0, 5.0, len(again))]), kind="stable")
    return readings.iloc[np.concatenate([np.arange(n), again])[order]].reset_index(drop=True)


def _draws(faults: Uplink) -> Iterator[list[float]]:
    """Four uniform draws for each message, whether it needs them or not, so that no share shifts the others' draws."""
    rng = stream(faults.seed, Layer.TRANSPORT, faults.station_number, _MESSAGES)
    while True:
        yield from rng.random((_DRAWS_AT_ONCE, 4)).tolist()


def _between(bounds_ms: tuple[int, int], share: float) -> int:
    return bounds_ms[0] + int(share * (bounds_ms[1] - bounds_ms[0]))


def _when_up(due_ms: int, outages: tuple[tuple[int, int], ...]) -> int:
    for start_ms, end_ms in outages:
        if start_ms <= due_ms < end_ms:
            due_ms = end_ms
    return due_ms
