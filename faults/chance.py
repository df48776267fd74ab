"""Faults by the laws of chance, drawn so that they are the same everywhere.

Each node draws from a stream of its own, seeded by the scenario's seed, the process and the node's
name: a node more or less changes nothing for the others. Times are drawn in
whole numbers only: the logarithms of different C libraries differ in their last bit.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from hashlib import sha256

from faults.event import Event
from faults.scenario import Churn
from faults.selection import Selection
from topologies.document import Place

MOST_EVENTS = 1_000_000
_BITS = 64


def churn(
    process: Churn, name: str, seed: int, selection: Selection, place: Place
) -> Iterator[tuple[Event, int]]:
    """The crashes of a churn by time, each with how long it lasts in nanoseconds.

    They are called *name*.1, *name*.2, … in that order. Raises ScenarioError when the nodes are not
    known beforehand, or when there would be more than `MOST_EVENTS` of them.
    """
    nodes = selection.nodes(process.nodes, (*place, "nodes"), "a churn")
    drawn: list[tuple[int, int, str, int]] = []
    for index, node in enumerate(nodes):
        stream = random.Random(_seed(seed, name, node))
        instant_ns = 0
        while True:
            instant_ns += exponential_ns(stream, process.mean_up)
            if instant_ns > process.until:
                break
            down_ns = exponential_ns(stream, process.mean_down)
            drawn.append((instant_ns, index, node, down_ns))
            instant_ns += down_ns
            if len(drawn) > MOST_EVENTS:
                problem = f"this churn has more than {MOST_EVENTS} crashes"
                remedy = "Write longer times, or an earlier until"
                raise selection.document.error(problem, place, remedy)
    for number, (at_ns, _, node, down_ns) in enumerate(sorted(drawn), start=1):
        yield Event(at_ns, f"{name}.{number}", "begin", "crash", nodes=(node,)), down_ns


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


def _seed(seed: int, process: str, node: str) -> int:
    return int.from_bytes(sha256(f"{seed}:{process}:{node}".encode()).digest()[:16])
