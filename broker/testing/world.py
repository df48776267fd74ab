"""A world: a network, programs on its nodes, and a test that may look at and touch all of it.

    with World("campus.yaml", faults="evening.yaml", seed=3) as world:
        world.start("server", serve)
        phone = world.node("phone")

        async def story():
            reply = await phone.request("server", {"say": "hello"}, timeout=5)
            async with world.faults.partition(["phone"], ["server"]):
                await asyncio.sleep(60)

        world.run(story())

Time is virtual and moves only while `run` does. The pytest plugin makes one for each test that is
marked; by itself a world serves Hypothesis, whose every example wants a fresh one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import faults as fault_language
import topologies as networks
from broker.clock import to_ns, to_seconds
from broker.errors import BrokerError, ProgramError
from broker.ledger import Ledger
from broker.machine import Machine
from broker.network import Network
from broker.node import Node, Program
from broker.runs import WEEK_S, Faults
from broker.scheduler import Note
from broker.testing.director import Crew, Director
from broker.testing.injection import Injector
from broker.testing.loop import VirtualLoop
from broker.troubles import Troubles
from faults import Event
from topologies import Topology
from topologies.errors import did_you_mean

T = TypeVar("T")


class World:
    """One network with what runs on it, until `close`.

    Attributes:
        loop: the test's own event loop, in this world's time.
        topology, seed: as given.
        ledger: every message and its fate so far.
        notes: what programs have noted, in order of time.
        faults: breaks things by hand; see `Injector`.
    """

    def __init__(
        self,
        topology: Topology | str | Path,
        *,
        faults: Faults = (),
        seed: int = 0,
        limit_s: float = WEEK_S,
        wall: bool = False,
    ) -> None:
        if isinstance(topology, str | Path):
            topology = networks.load(topology)
        if isinstance(faults, str | Path):
            faults = fault_language.load(faults)
        self.topology = topology
        self.seed = seed
        self.loop = VirtualLoop(str(seed), wall=wall)  # type: ignore[abstract]  # as any NodeLoop
        self.ledger = Ledger(topology.transport)
        self.notes: list[Note] = []
        self._running: dict[str, Running] = {}
        self._held: dict[str, Node] = {}
        self._troubles = Troubles(faults, topology, seed, ())
        self.faults = Injector(topology, seed, self.loop, self._troubles)
        network = Network(topology, seed)
        self._crew = Crew(topology, seed, self.loop, self._has_ended)
        self._director = Director(
            self._crew,
            self.loop,
            network,
            self._troubles,
            self.ledger,
            topology,
            seed=seed,
            limit_ns=to_ns(limit_s),
            observe=self.notes.append,
            struck=self.faults.have_struck,
        )
        self.loop.driver = self._director
        self._closed = False

    # What a test does in it.

    def run(self, story: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine of the test to its end, and everything else until then.

        Raises ProgramError where a program fails whom nobody awaits, DeadlockError where nothing is
        to come and the coroutine waits; whatever it raises itself.
        """
        result: T = self.loop.run_until_complete(story)
        return result

    def start(self, name: str, program: Program) -> Running:
        """Starts a program on a node; it may run beyond the test's end, as servers do.

        Await what this gives to have what the program returns. A program that raises ends the test
        with ProgramError, at once or where it is awaited.
        """
        if not callable(program):
            raise BrokerError(
                f"the program of node {name} is a {type(program).__name__}; give the function "
                "itself, an `async def main(node)`, and don't call it"
            )
        self._enroll(name, program)
        running = self._running[name] = Running(name, self.loop)
        return running

    def node(self, name: str) -> Node:
        """A node in the test's own hands: it sends and receives as the test says."""
        if name not in self._held:
            machine = self._enroll(name, None)
            assert machine.node is not None
            self._held[name] = machine.node
        return self._held[name]

    async def play(
        self, programs: Mapping[str, Program], *, background: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Starts these programs and waits until all but the `background` ones have returned; what
        they returned, as `broker.run` gives it.
        """
        started = {name: self.start(name, program) for name, program in programs.items()}
        waited = {name: run for name, run in started.items() if name not in background}
        return {name: await run for name, run in waited.items()}

    # What it knows.

    @property
    def now(self) -> float:
        """Seconds since the world began."""
        return self.loop.now_s

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes that run programs or are in the test's hands, in the order of their start."""
        return tuple(self._crew.names)

    @property
    def struck(self) -> tuple[Event, ...]:
        """The faults so far, every name filled in."""
        return tuple(self._troubles.applied)

    @property
    def to_come(self) -> tuple[Event, ...]:
        """The faults still to come."""
        return self._troubles.pending

    @property
    def unread(self) -> dict[str, int]:
        """How many messages have come to each node and were not read."""
        return self._crew.unread()

    @property
    def digest(self) -> str:
        """A hash over all messages and faults so far; the same each time."""
        return self.ledger.digest()

    def waiting(self) -> dict[str, str]:
        """Who waits for what."""
        return self._crew._describe()

    # Its end.

    def check(self) -> None:
        """Raises LedgerError where the books don't balance."""
        self._director.close()

    def close(self) -> None:
        """Nothing runs here any more. Programs are dropped as they stand."""
        if self._closed:
            return
        self._closed = True
        self._crew.close()
        if not self.loop.is_closed():
            self.loop.close()

    def __enter__(self) -> World:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.check()
        finally:
            with contextlib.suppress(RuntimeError):
                asyncio.runners._cancel_all_tasks(self.loop)  # type: ignore[attr-defined]
            self.close()

    # Inside.

    def _enroll(self, name: str, program: Program | None) -> Machine:
        if name not in self.topology.nodes:
            remedy = did_you_mean(name, self.topology.nodes, what="nodes")
            raise BrokerError(f"no node {name!r} in topology {self.topology.name}. {remedy}")
        if name in self._held or name in self._running:
            who = "is in the test's hands" if name in self._held else "runs a program already"
            raise BrokerError(f"node {name} {who}; a node has one program, or the test for it")
        machine = self._crew.enroll(name, program)
        self._director.enroll(name)
        return machine

    def _has_ended(self, machine: Machine) -> bool:
        assert machine.ended_ns is not None
        running = self._running.get(machine.place.name)
        if running is None or not (machine.has_returned or machine.failure):
            return False
        error = None
        if machine.failure is not None:
            at_s = to_seconds(machine.ended_ns)
            error = ProgramError(machine.place.name, at_s, *machine.failure)
        return running._end(machine.returned, error)


class Running:
    """A program that was started: awaiting gives what it returns, or raises ProgramError."""

    def __init__(self, node: str, loop: VirtualLoop) -> None:
        self.node = node
        self._loop = loop
        self._waiting: list[asyncio.Future[Any]] = []
        self._ended: tuple[object, ProgramError | None] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the program has returned, or failed."""
        return self._ended is not None

    def __await__(self) -> Generator[Any, None, Any]:
        if self._ended is None:
            future = self._loop.create_future()
            self._waiting.append(future)
            yield from future.__await__()
        assert self._ended is not None
        returned, error = self._ended
        if error is not None:
            raise error
        return returned

    def _end(self, returned: object, error: ProgramError | None) -> bool:
        self._ended = returned, error
        waiting = [future for future in self._waiting if not future.done()]
        for future in waiting:
            future.set_result(None)
        self._waiting.clear()
        return bool(waiting)
