"""What will happen when, and what has ended: all that the parts of the network have in common.

A thing that something will happen to (a stream, a datagram) has one instant at which it has to be
looked at, `wake_ns`; the heap may still hold older ones of it, which nobody minds.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple, Protocol

NEVER = 1 << 62


class Fate(NamedTuple):
    """How a copy of a message ended.

    `reason` is empty for an arrival, else why it was lost. `copy` counts the duplicates of a
    datagram from 1; `last` says that no further fate of this number will come.
    """

    number: int
    at_ns: int
    reason: str = ""
    copy: int = 0
    last: bool = True


class Thing(Protocol):
    """What has an instant to be looked at."""

    index: int
    wake_ns: int


class Agenda:
    """The heap of instants, and the fates that nobody has asked for yet.

    `now` is the latest instant told, `in_flight` how many copies have not ended.
    """

    __slots__ = ("fates", "heap", "in_flight", "now", "things")

    def __init__(self) -> None:
        self.heap: list[tuple[int, int, Thing]] = []
        self.fates: list[Fate] = []
        self.now = 0
        self.in_flight = 0
        self.things = 0

    def name(self) -> int:
        """An index for a new thing; what happens at one instant goes in their order."""
        self.things += 1
        return self.things

    def wake(self, thing: Thing, at_ns: int) -> None:
        """Something happens to it then; never, where that is `NEVER`."""
        if at_ns != thing.wake_ns:
            thing.wake_ns = at_ns
            if at_ns < NEVER:
                heapq.heappush(self.heap, (at_ns, thing.index, thing))

    def next_ns(self) -> int | None:
        """The first instant at which something happens."""
        heap = self.heap
        while heap:
            at_ns, _, thing = heap[0]
            if thing.wake_ns == at_ns:
                return at_ns
            heapq.heappop(heap)
        return None
