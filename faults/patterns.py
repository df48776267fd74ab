"""Faults that belong together: what others' testers have found to break distributed programs.

Each gives entries of a timeline as a file would say them, to be put into ``Scenario.of``;
`faults.random` makes a whole scenario of these and of single faults.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from random import Random
from typing import Any, TypeAlias, TypeVar

from topologies import units

Entries: TypeAlias = list[dict[str, Any]]
_One = TypeVar("_One")


class Dice:
    """Chance from a seed: the same numbers on every machine and in every version of Python."""

    def __init__(self, *key: object) -> None:
        digest = sha256(":".join(map(str, key)).encode()).digest()
        self._stream = Random(int.from_bytes(digest[:16]))

    def below(self, end: int) -> int:
        """A whole number from 0 on that is less than this."""
        return self._stream.getrandbits(64) * end >> 64

    def between(self, least: int, most: int) -> int:
        """A whole number from *least* to *most*."""
        return least + self.below(most - least + 1)

    def one(self, things: Sequence[_One]) -> _One:
        """One of these."""
        return things[self.below(len(things))]

    def shuffled(self, things: Iterable[_One]) -> list[_One]:
        """These in another order."""
        left = list(things)
        return [left.pop(self.below(len(left))) for _ in range(len(left))]


def swizzle(nodes: Sequence[str], at_ns: int, lasts_ns: int, dice: Dice) -> Entries:
    """Nodes are cut off one by one, and come back one by one in another order.

    So FoundationDB's ``RandomClogging`` has it: half of them, clogged and unclogged at random
    instants. It finds what depends on the order in which things come back.
    """
    chosen = dice.shuffled(nodes)[: max(1, len(nodes) // 2)]
    half_ns = lasts_ns // 2
    gone = sorted(dice.below(half_ns) for _ in chosen)
    back = dice.shuffled(half_ns + 1 + dice.below(half_ns) for _ in chosen)
    return [
        entry(at_ns + begin_ns, end_ns - begin_ns, cut={"nodes": [node]})
        for node, begin_ns, end_ns in zip(chosen, gone, back, strict=True)
    ]


def isolate_one(nodes: Sequence[str], at_ns: int, lasts_ns: int, dice: Dice) -> Entries:
    """One of these nodes hears nobody and is heard by nobody."""
    return [entry(at_ns, lasts_ns, partition=[[dice.one(nodes)], ["others"]])]


def split(nodes: Sequence[str], at_ns: int, lasts_ns: int, dice: Dice) -> Entries:
    """These nodes fall into a majority and a minority that don't hear each other."""
    order = dice.shuffled(nodes)
    fewer = dice.between(1, max(1, (len(order) - 1) // 2))
    return [entry(at_ns, lasts_ns, partition=[order[:fewer], order[fewer:]])]


def majority_ring(nodes: Sequence[str], at_ns: int, lasts_ns: int, dice: Dice) -> Entries:
    """Each of these nodes hears a majority of them, but no two the same one.

    They stand in a ring in random order, and each hears only those nearest to it (Jepsen's
    ``majorities-ring``). Of three all hear each other, so it takes four.
    """
    ring = dice.shuffled(nodes)
    size = len(ring)
    reach = (size // 2 + 1) // 2
    entries: Entries = []
    for place, node in enumerate(ring):
        # Each pair is named once, by the one that comes first.
        later = range(place + 1, size)
        far = [ring[other] for other in later if reach < other - place < size - reach]
        if far:
            entries.append(entry(at_ns, lasts_ns, partition=[[node], far]))
    return entries


def entry(at_ns: int, lasts_ns: int, **fault: Any) -> dict[str, Any]:
    """An entry of a timeline."""
    times = {"at": units.show_nanoseconds(at_ns), "for": units.show_nanoseconds(lasts_ns)}
    return times | fault
