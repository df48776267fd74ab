"""How time moves in a test's world: from instant to instant, and the test among the programs.

The same scheduler and the same machines as in `broker.run`, with two differences. All nodes live in
this thread, so frames are handed over as they are and cross no socket. And the test is outside of
the network: it may look at anything, start programs and break things at any instant. So no node may
run ahead of another: a window is always a single instant. At each, faults strike, what arrives is
delivered, programs run, and then the test, in rounds until nothing more happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any

from broker.clock import to_seconds
from broker.errors import THE_TEST, LimitError
from broker.ledger import Ledger
from broker.machine import Machine
from broker.network import Network
from broker.node import Program
from broker.scheduler import Observer, Scheduler, word_of
from broker.testing.hands import Hand
from broker.testing.loop import VirtualLoop
from broker.troubles import Order, Strike, Troubles
from broker.wire import Frame, Kind
from broker.worker import Assignment, Worker
from faults import Event
from topologies import Topology

_THREADS = 2


class Crew(Worker):
    """The nodes of a world, and the test's own loop, which acts after them at each instant.

    `ended` is called with each program that has come to an end; it says whether somebody has heard
    of it, so that a failure need not end the test.
    """

    def __init__(
        self, topology: Topology, seed: int, loop: VirtualLoop, ended: Callable[[Machine], bool]
    ) -> None:
        assignment = Assignment(0, b"", (), {}, topology, seed, _THREADS)
        super().__init__(assignment, None)  # type: ignore[arg-type]  # it speaks by `_post`
        self._names: list[str] = []
        self._loop = loop
        self._hands: list[Hand] = []
        self._tell_ended = ended
        self._outbox: list[Frame] = []

    @property
    def names(self) -> Sequence[str]:
        return self._names

    def enroll(self, name: str, program: Program | None) -> Machine:
        """One more node: with a program, or in the test's hands."""
        number = self._numbers[name] = len(self._names)
        self._names.append(name)
        place = self._assignment.topology.nodes[name]
        machine: Machine
        if program is None:
            machine = Hand(place, number, self, self._threads, self._loop)
            self._hands.append(machine)
        else:
            machine = self._machine(place, number, program)
        self._machines[number] = machine
        return machine

    def unread(self) -> dict[str, int]:
        """How many messages have come to each node and were not read."""
        nodes = (machine.node for machine in self._machines.values())
        return {node.name: len(node._inbox) for node in nodes if node is not None and node._inbox}

    # As the scheduler's bus.

    def send(self, worker: int, frames: Sequence[Frame]) -> None:  # noqa: ARG002 - there is one
        """What the scheduler says is done at once."""
        for frame in frames:
            self._take(frame)

    def receive(self, deadline_s: float) -> tuple[int, list[Frame]]:  # noqa: ARG002 - no waiting
        """What was said since."""
        frames, self._outbox = self._outbox, []
        return 0, frames

    def _post(self, frames: Sequence[Frame]) -> None:
        self._outbox += frames

    # As a worker.

    def _take(self, frame: Frame) -> bool | None:
        if frame.kind is Kind.ADVANCE:  # most of them; who runs the test has seen to the thread
            self._advance(frame.instant_ns, frame.due_ns)
            return True
        return super()._take(frame)

    def _advance(self, now_ns: int, end_ns: int) -> None:
        self._loop.now_is(now_ns)
        super()._advance(now_ns, end_ns)

    def _report(self, end_ns: int, machines: Iterable[Machine]) -> None:
        touched = dict.fromkeys(machines)
        for machine in touched:
            if machine.ended_ns is not None and not machine.reported:
                machine.reported = self._tell_ended(machine) and machine.failure is not None
        loop = self._loop
        if not loop.stopping:
            loop.take_over()
            try:
                loop.run_until_quiet(end_ns - 1)
            finally:
                loop.leave()
        for hand in self._hands:
            self._put_down(hand.number, hand.next_ns())
            touched[hand] = None
        super()._report(end_ns, touched)

    def next_ns(self) -> int | None:
        """When a node or the test next has something to do."""
        return self._next_ns()

    def _next_ns(self) -> int | None:
        theirs = super()._next_ns()
        own = None if self._loop.stopping else self._loop.next_ns()
        return theirs if own is None else own if theirs is None else min(own, theirs)

    def _is_idle(self) -> bool:
        return super()._is_idle() and self._loop.next_ns() is None

    def _describe(self) -> dict[str, str]:
        waiting = {
            machine.place.name: machine.describe()
            for machine in self._machines.values()
            if not machine.has_returned and not isinstance(machine, Hand)
        }
        return {THE_TEST: self._loop.describe()} | waiting


class Director(Scheduler):
    """Moves a world from instant to instant; `struck` is told of each strike."""

    def __init__(
        self,
        crew: Crew,
        loop: VirtualLoop,
        network: Network,
        troubles: Troubles,
        ledger: Ledger,
        topology: Topology,
        *,
        seed: int,
        limit_ns: int,
        observe: Observer,
        struck: Callable[[Sequence[Event]], None],
    ) -> None:
        super().__init__(
            (),
            (0,),
            (),
            network,
            troubles,
            ledger,
            crew,  # type: ignore[arg-type]  # it has what is asked of a bus
            seed=seed,
            send_buffer_bytes=topology.transport.send_buffer_bytes,
            limit_ns=limit_ns,
            ends="all",
            observe=observe,
            tap=None,
            pump=bool,
        )
        self._crew = crew
        self._loop = loop
        self._seed = seed
        self._first: list[Order] = []
        self._tell_struck = struck

    def step(self) -> None:
        """Lets everything happen that happens at the next instant.

        Raises DeadlockError where nothing is to come, ProgramError where a program fails.
        """
        self._next_of[0] = self._crew.next_ns()
        now_ns = self.now_ns if self._first else self._next_instant()
        if now_ns > self._limit_ns:
            raise LimitError(to_seconds(self._limit_ns), self._waiting())
        self._loop.keep_pace(now_ns)
        self.now_ns = now_ns
        if now_ns > self._look_ns:
            self._look_behind_heartbeats()
        first, self._first = self._first, []
        self._begin_window(first)

    def enroll(self, name: str) -> None:
        """One more node begins now, under the conditions of now."""
        number = len(self._names)
        self._names = (*self._names, name)
        self._numbers[name] = number
        self._owners = (0,) * len(self._names)
        self._words.append(word_of(self._seed, name))
        self._facts.enroll(name)
        self._first += self._troubles.enroll(name)

    def close(self) -> None:
        """Takes note of what has arrived by now. Raises LedgerError where the books are wrong."""
        self._end(self.now_ns)
        self._check()

    def _order(
        self, orders: list[Order], strike: Strike
    ) -> tuple[list[Order], Sequence[Any] | None]:
        given = super()._order(orders, strike)
        self._tell_struck(strike.events)
        return given

    def _book(self, sent: list[Frame], reports: Sequence[dict[str, Any]]) -> None:
        """At most instants there is nothing but messages, and then this is all there is to do."""
        if any(reports):
            super()._book(sent, reports)
            return
        for fate in self._arriving:
            self._ledger.ended(fate)
        self._arriving.clear()
        for frame in self._in_order(sent, attrgetter("instant_ns")):
            self._hand_over(frame)

    def _look_ahead(self) -> None:
        """Nobody runs ahead of the test."""
        self._lookahead_ns = 0

    def _is_over(self) -> bool:
        return False

    def has_returned(self, name: str) -> bool:
        return self._numbers[name] in self._returned

    def _waiting(self, said: Sequence[dict[str, Any]] | None = None) -> dict[str, str]:
        waiting: dict[str, str] = {}
        for body in said or self._describe():
            waiting |= body["waiting"]
        return waiting
