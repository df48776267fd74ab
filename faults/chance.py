"""Faults by the laws of chance, drawn so that they are the same everywhere.

Each node or link draws from a stream of its own, seeded by the scenario's seed, the process and the
name: one more or less changes nothing for the others. Only ``crashes`` draws from one stream for
all of its nodes. Times are drawn in whole numbers only: the logarithms of different C libraries
differ in their last bit.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import TypeAlias

from faults.event import Event
from faults.processes import Churn, Crashes, Diurnal, Flapping, Process
from faults.selection import Selection
from topologies.document import Place

MOST_EVENTS = 1_000_000
_BITS = 64

Lasting: TypeAlias = tuple[Event, int | None]
"""The beginning of a fault, and how long it lasts in nanoseconds; None: it never ends."""
_Drawn: TypeAlias = list[tuple[int, int, int | None]]
"""When, whom (an index), and for how long."""


def draw(
    process: Process, name: str, seed: int, selection: Selection, place: Place
) -> Iterator[Lasting]:
    """The faults of a process by time, called *name*.1, *name*.2, … in that order.

    Raises ScenarioError when the nodes are not known beforehand, or when there would be more than
    `MOST_EVENTS` of them.
    """
    place = (*place, process.kind)
    if process.churn is not None:
        found = _churn(process.churn, f"{seed}:{name}", selection, place)
    elif process.crashes is not None:
        found = _crashes(process.crashes, f"{seed}:{name}", selection, place)
    elif process.flapping is not None:
        found = _flapping(process.flapping, f"{seed}:{name}", selection, place)
    else:
        assert process.diurnal is not None
        found = _diurnal(process.diurnal, f"{seed}:{name}", selection, place)
    events, times = found
    for number, (at_ns, index, lasts_ns) in enumerate(sorted(times, key=_order), start=1):
        event = events[index]
        yield Event(at_ns, f"{name}.{number}", "begin", event.kind, event.nodes, event.links,
                    oneway=event.oneway), lasts_ns  # fmt: skip


def _order(one: tuple[int, int, int | None]) -> tuple[int, int]:
    return one[:2]


def _churn(
    churn: Churn, key: str, selection: Selection, place: Place
) -> tuple[Sequence[Event], _Drawn]:
    nodes = selection.nodes(churn.nodes, (*place, "nodes"), "a churn", key)
    events = [Event(0, "", "begin", "crash", nodes=(node,)) for node in nodes]
    times = _up_and_down([f"{key}:{node}" for node in nodes], churn, selection, place, "crashes")
    return events, times


def _flapping(
    flapping: Flapping, key: str, selection: Selection, place: Place
) -> tuple[Sequence[Event], _Drawn]:
    oneway = flapping.oneway
    if flapping.link is not None:
        rows = [selection.link(*flapping.link, oneway=oneway, place=(*place, "link"))]
    else:
        nodes = selection.nodes(flapping.nodes or (), (*place, "nodes"), "a flapping", key)
        rows = [*selection.pairs_of(nodes)]
        if oneway:
            rows = [(ends,) for ends in selection.links_of(nodes, oneway=True)]
    events = [Event(0, "", "begin", "cut", links=row, oneway=len(row) == 1) for row in rows]
    keys = [f"{key}:{_pair(event)}" for event in events]
    return events, _up_and_down(keys, flapping, selection, place, "cuts")


def _pair(event: Event) -> str:
    """A pair of neighbors, whichever of its directions comes first in the topology."""
    return "→".join(event.links[0]) if event.oneway else "↔".join(sorted(event.links[0]))


def _crashes(
    crashes: Crashes, key: str, selection: Selection, place: Place
) -> tuple[Sequence[Event], _Drawn]:
    nodes = selection.nodes(crashes.nodes, (*place, "nodes"), "this process", key)
    events = [Event(0, "", "begin", "crash", nodes=(node,)) for node in nodes]
    stream = random.Random(_seed(key))
    times: _Drawn = []
    instant_ns = exponential_ns(stream, crashes.mean_between)
    while nodes and instant_ns <= crashes.until:
        index = stream.getrandbits(_BITS) * len(nodes) >> _BITS
        down_ns = None
        if crashes.mean_down is not None:
            down_ns = exponential_ns(stream, crashes.mean_down)
        _note(times, (instant_ns, index, down_ns), selection, place, "crashes")
        instant_ns += exponential_ns(stream, crashes.mean_between)
    return events, times


def _diurnal(
    diurnal: Diurnal, key: str, selection: Selection, place: Place
) -> tuple[Sequence[Event], _Drawn]:
    nodes = selection.nodes(diurnal.nodes, (*place, "nodes"), "this process", key)
    events = [Event(0, "", "begin", diurnal.away, nodes=(node,)) for node in nodes]
    times: _Drawn = []
    looks = 0
    for index, node in enumerate(nodes):
        stream = random.Random(_seed(f"{key}:{node}"))
        instant_ns, left_ns = 0, None
        while instant_ns < diurnal.until:
            there = stream.getrandbits(53) < share(diurnal, instant_ns) * 2**53
            if there and left_ns is not None:
                _note(times, (left_ns, index, instant_ns - left_ns), selection, place, "absences")
                left_ns = None
            elif not there and left_ns is None:
                left_ns = instant_ns
            instant_ns += exponential_ns(stream, diurnal.mean_stay)
            looks += 1
            _refuse_so_many(looks, selection, place, "changes")
        if left_ns is not None:
            _note(times, (left_ns, index, diurnal.until - left_ns), selection, place, "absences")
    return events, times


def share(diurnal: Diurnal, at_ns: int) -> float:
    """How likely a node is there at this instant: a wave of two parabolas for each half-day.

    Only operations that give the same bits on every machine, so no cosine.
    """
    half_ns = diurnal.day / 2
    from_peak_ns = (at_ns - diurnal.peak) % diurnal.day
    away = min(from_peak_ns, diurnal.day - from_peak_ns) / half_ns
    height = 1 - 2 * away * away if away <= 0.5 else 2 * (1 - away) * (1 - away)
    return diurnal.least + (diurnal.most - diurnal.least) * height


def _up_and_down(
    keys: Sequence[str],
    process: Churn | Flapping,
    selection: Selection,
    place: Place,
    what: str,
) -> _Drawn:
    """Up and down for exponential times, each with a stream of its own."""
    times: _Drawn = []
    for index, key in enumerate(keys):
        stream = random.Random(_seed(key))
        instant_ns = 0
        while True:
            instant_ns += exponential_ns(stream, process.mean_up)
            if instant_ns > process.until:
                break
            down_ns = exponential_ns(stream, process.mean_down)
            _note(times, (instant_ns, index, down_ns), selection, place, what)
            instant_ns += down_ns
    return times


def _note(
    times: _Drawn,
    one: tuple[int, int, int | None],
    selection: Selection,
    place: Place,
    what: str,
) -> None:
    times.append(one)
    _refuse_so_many(len(times), selection, place, what)


def _refuse_so_many(number: int, selection: Selection, place: Place, what: str) -> None:
    if number > MOST_EVENTS:
        problem = f"this {place[-1]} has more than {MOST_EVENTS} {what}"
        remedy = "Write longer times, or an earlier until"
        raise selection.document.error(problem, place, remedy)


def exponential_ns(stream: random.Random, mean_ns: int) -> int:
    """A time from the exponential distribution, in whole nanoseconds, at least one.

    J. von Neumann, "Various techniques used in connection with random digits" (1951): draw numbers
    while they fall; if the run has odd length its first number is the fraction, else one is added
    to the whole part and all starts again.
    """
    whole = 0
    while True:
        first = last = stream.getrandbits(_BITS)
        length = 1
        while (drawn := stream.getrandbits(_BITS)) < last:
            last = drawn
            length += 1
        if length % 2:
            return max(1, mean_ns * ((whole << _BITS) + first) >> _BITS)
        whole += 1


def _seed(key: str) -> int:
    return int.from_bytes(sha256(key.encode()).digest()[:16])
