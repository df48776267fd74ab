"""A node in the test's hands: what it sends and receives is the test's own doing.

Its `Node` lives on the test's loop, so the test may `await` what it gives. On the network it is a
node like all others; but it runs no program that a fault could end, and a test goes on:

    crash, leave        it is off the network, and what had come and was not read is forgotten
    stop                what comes is dropped
    pause               what comes waits
    slow, squeeze,
    full disk           as for any node
    skew                nothing: the test's clock is that of the world
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from broker.machine import Machine
from broker.node import Node, Surroundings
from broker.testing.loop import VirtualLoop
from topologies import Node as Place


async def _nothing(_: Node) -> None:
    """A node in the test's hands runs no program."""


class Hand(Machine):
    """The machine of such a node."""

    # ruff: noqa: ARG002 - it is told what any machine is told

    def __init__(
        self,
        place: Place,
        number: int,
        surroundings: Surroundings,
        threads: ThreadPoolExecutor,
        loop: VirtualLoop,
    ) -> None:
        super().__init__(place, number, _nothing, surroundings, threads)
        self._loop = loop
        self.held = self.node = Node(place, 0, loop, self.disk, self)

    def boot(self, now_ns: int, incarnation: int) -> None:
        """It is on the network again."""
        self.held._reads_no_more = False

    def crash(self, now_ns: int) -> None:
        """What had come is forgotten. The test goes on."""
        self._arrivals.clear()
        self._looped.clear()
        self.held._inbox.clear()

    def stop(self, now_ns: int) -> None:
        """What comes is dropped, as where a program has ended."""
        self.held._read_no_more()

    def skew(self, now_ns: int, offset_ns: int, drift: float) -> None:
        """The test's clock is right."""

    def next_ns(self) -> int | None:
        if self._paused:
            return None
        loop = self._loop
        assert loop is not None
        due = loop._now_ns if self._looped else None
        coming = [self.processor.next_end_ns()] if self.work else []
        coming += [self._arrivals[0].due_ns] if self._arrivals else []
        return min((ns for ns in (due, *coming) if ns is not None), default=None)

    def run(self, now_ns: int, end_ns: int, patient: bool) -> bool:
        """Takes in what has come; what the test makes of it, its loop does."""
        if self._paused:
            return True
        while self._looped:
            self.held._deliver(self._looped.popleft())
        while self._arrivals and self._arrivals[0].due_ns < end_ns:
            self.held._deliver(self._arrivals.popleft())
        if self.work:
            self._finish_work(now_ns)
        self.upcoming_ns = self.next_ns()
        return True

    def is_idle(self) -> bool:
        return not (self.work or self._looped)

    def describe(self) -> str:
        return "in the test's hands"

    def close(self) -> None:
        """Nothing of it waits that isn't the test's."""
        self._lane.clear()
        self.held._dead = True
