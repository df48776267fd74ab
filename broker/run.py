"""`broker.run`: programs, a topology, faults and a seed in; results, ledger and digest out.

The scheduler moves virtual time from instant to instant. At each one, in this order: faults are
applied; what arrives is delivered; computations end; timers fire; programs run until nothing is
ready in any of them. Only then is the network asked about all that was sent, sorted by a hash of
(seed, instant, source) and then by sequence, so that no name always wins and other seeds explore
other orders. This repeats until the instant is quiet. Then the clock jumps to the next instant at
which anything happens.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import zmq

import faults as fault_language
from broker.bus import Bus
from broker.clock import to_ns, to_seconds
from broker.errors import BrokerError, DeadlockError, LivelockError, ProgramError
from broker.ledger import FaultEntry, Ledger
from broker.network import Fate, Network
from broker.node import Programs
from broker.processes import WorkerProcesses
from broker.wire import MAX_NODES, Frame, Kind, pack, unpack
from broker.worker import Assignment, Worker
from faults import Conditions, Event, Scenario
from topologies import Topology

ROUNDS_AT_AN_INSTANT = 10_000
JOIN_DEADLINE_S = 120.0
INSTANT_DEADLINE_S = 900.0
WEEK_S = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Note:
    """What a program told the experimenter, or what the emulator did to it (`node` is "" then).

    `bytes_total` counts the bytes handed to the network until then.
    """

    time_s: float
    node: str
    event: str
    fields: dict[str, Any]
    bytes_total: int


@dataclass(frozen=True)
class Run:
    """What came of a run.

    `faults` are the events as they were applied, every selector resolved, and after them those that
    were still to come when the run ended.
    """

    returned: dict[str, object]
    ledger: Ledger
    digest: str
    virtual_seconds: float
    faults: tuple[Event, ...]


Observer = Callable[[Note], None]
Tap = Callable[[str, str, Frame], None]


def run(
    programs: Programs,
    *,
    topology: Topology,
    faults: Scenario | Sequence[Event] = (),
    seed: int = 0,
    processes: int = 1,
    background: Collection[str] = (),
    limit_s: float = WEEK_S,
    observe: Observer | None = None,
    tap: Tap | None = None,
) -> Run:
    """Runs each program on its node, in virtual time, until all but the `background` ones returned.

    Args:
        programs: By name of node. With more than one process they must be picklable.
        topology: The network. Every program's node must be in it.
        faults: A scenario, or events as `faults.expand` gives them.
        seed: Of everything that is drawn. Same seed, same digest, for any number of processes.
        processes: 1 runs all here; more spread the nodes over that many worker processes.
        background: Nodes whose programs need not end, as servers do.
        limit_s: Virtual seconds after which the run is stopped with an error.
        observe: Called with each `Note`, in order of virtual time.
        tap: Called with source, destination and frame of every message sent.

    Raises:
        ProgramError: A program raised.
        DeadlockError: Nothing is under way and programs wait.
        BrokerError: Anything else that ends a run; `topologies.InputError` for bad input.
    """
    scheduler = _Scheduler(
        programs, topology, faults, seed, processes, frozenset(background), limit_s, observe, tap
    )
    return scheduler.run()


class _Scheduler:
    """One run. Owns the clock, the network, the ledger and the workers."""

    def __init__(
        self,
        programs: Programs,
        topology: Topology,
        faults: Scenario | Sequence[Event],
        seed: int,
        processes: int,
        background: frozenset[str],
        limit_s: float,
        observe: Observer | None,
        tap: Tap | None,
    ) -> None:
        self._names = tuple(programs)
        _check(self._names, topology, processes, background)
        self._programs = programs
        self._topology = topology
        self._seed = seed
        self._processes = min(processes, len(self._names))
        self._principals = [name for name in self._names if name not in background]
        self._limit_ns = to_ns(limit_s)
        self._observe = observe
        self._tap = tap
        events = (
            fault_language.expand(faults, topology, seed)
            if isinstance(faults, Scenario)
            else sorted(faults, key=lambda event: event.at_ns)
        )
        self._events = list(reversed(events))
        self._applied: list[Event] = []
        self._conditions = Conditions()
        self._facts: dict[str, tuple[str, ...]] = {}

        self._now_ns = 0
        self._ledger = Ledger()
        self._network = Network(topology, seed)
        self._flying: dict[int, Frame] = {}
        self._numbers = {name: number for number, name in enumerate(self._names)}
        self._owners = tuple(number % self._processes for number in range(len(self._names)))
        self._next_of: list[int | None] = [None] * self._processes
        self._ended: list[set[str]] = [set() for _ in range(self._processes)]
        self._incarnation = dict.fromkeys(self._names, 0)
        self._bus: Bus
        self._local: Worker | None = None

    # The frame of a run.

    def run(self) -> Run:
        """Starts the workers, moves time until the principals have returned, closes everything."""
        tokens = tuple(secrets.token_bytes(16) for _ in range(self._processes))
        assignments = [self._assignment(index, token) for index, token in enumerate(tokens)]
        pool: WorkerProcesses | None = None
        with contextlib.ExitStack() as opened:
            folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="broker-"))
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            opened.callback(context.term)
            socket = _open(context, zmq.ROUTER, opened)
            socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
            if self._processes == 1:
                socket.bind("inproc://bus")
                dealer = _open(context, zmq.DEALER, opened)
                dealer.connect("inproc://bus")
                self._local = Worker(assignments[0], dealer)
                opened.callback(self._local.close)
                self._local.hello()
                alive: Callable[[], None] = _nothing
            else:
                endpoint = f"ipc://{Path(folder) / 'bus'}"
                socket.bind(endpoint)
                pool = WorkerProcesses(endpoint, assignments)
                opened.callback(pool.end)
                alive = pool.check
            self._bus = Bus(socket, self._owners, tokens, self._ledger, alive)
            self._bus.wait_for_all(JOIN_DEADLINE_S)
            self._live()
            self._ledger.check(self._network.in_flight())
            for worker in range(self._processes):
                self._bus.send(worker, Frame(Kind.CLOSE))
            returned: dict[str, object] = {}
            if pool is not None:
                returned = pool.returned(JOIN_DEADLINE_S)
            elif self._local is not None:
                returned = self._local.returned
        return Run(
            {name: returned[name] for name in self._names if name in returned},
            self._ledger,
            self._ledger.digest(),
            to_seconds(self._now_ns),
            (*self._applied, *reversed(self._events)),
        )

    def _assignment(self, index: int, token: bytes) -> Assignment:
        threads = max(1, (os.cpu_count() or 1) // self._processes)
        mine = {
            name: program
            for (name, program), owner in zip(self._programs.items(), self._owners, strict=True)
            if owner == index
        }
        return Assignment(index, token, self._names, mine, self._topology, self._seed, threads)

    # Time.

    def _live(self) -> None:
        actions = self._apply_faults({})
        for name in self._names:
            if self._conditions.is_up(name):
                self._act(actions, name, "boot", 0)
        self._quiet(actions)
        while not self._done():
            now_ns = self._next_instant()
            if now_ns > self._limit_ns:
                raise BrokerError(
                    f"the run has not ended after {to_seconds(self._limit_ns):,.0f} virtual seconds"
                )
            self._now_ns = now_ns
            self._quiet(self._apply_faults({}))

    def _done(self) -> bool:
        ended = set().union(*self._ended)
        return all(name in ended for name in self._principals)

    def _next_instant(self) -> int:
        candidates = [ns for ns in self._next_of if ns is not None]
        if (ns := self._network.next_ns()) is not None:
            candidates.append(ns)
        if self._events:
            candidates.append(self._events[-1].at_ns)
        if not candidates:
            raise DeadlockError(to_seconds(self._now_ns), self._waiting())
        return max(min(candidates), self._now_ns)

    def _quiet(self, actions: dict[int, list[list[Any]]]) -> None:
        """Lets this instant happen, in rounds, until nothing more happens in it."""
        for _ in range(ROUNDS_AT_AN_INSTANT):
            fates = self._network.advance(self._now_ns)
            deliveries = self._settle(fates)
            due = {
                worker
                for worker, ns in enumerate(self._next_of)
                if ns is not None and ns <= self._now_ns
            }
            workers = sorted(due | set(actions) | set(deliveries))
            if not workers:
                if (ns := self._network.next_ns()) is None or ns > self._now_ns:
                    return
                continue
            self._step(workers, actions, deliveries)
            actions = {}
        raise LivelockError(to_seconds(self._now_ns), ROUNDS_AT_AN_INSTANT)

    def _settle(self, fates: Sequence[Fate]) -> dict[int, list[Frame]]:
        """Books fates; returns what arrived by worker, in the seeded order of this instant."""
        arrived: list[Frame] = []
        for fate in fates:
            self._ledger.ended(fate)
            frame = self._flying.pop(fate.number)
            if not fate.reason:
                arrived.append(frame)
        deliveries: dict[int, list[Frame]] = {}
        for frame in sorted(arrived, key=self._order):
            deliveries.setdefault(self._owners[frame.destination], []).append(frame)
        return deliveries

    def _order(self, frame: Frame) -> tuple[bytes, int]:
        return _tie_break(self._seed, self._now_ns, self._names[frame.source]), frame.sequence

    def _step(
        self,
        workers: Sequence[int],
        actions: dict[int, list[list[Any]]],
        deliveries: dict[int, list[Frame]],
    ) -> None:
        """One round: lets the workers run until quiet, and hands the network what they sent."""
        for worker in workers:
            for frame in deliveries.get(worker, ()):
                self._bus.send(worker, frame)
            body = pack({"actions": actions.get(worker, [])})
            self._bus.send(worker, Frame(Kind.ADVANCE, instant_ns=self._now_ns, body=body))
            if self._local is not None:
                self._local.pump()
        sent: list[Frame] = []
        reports: dict[int, dict[str, Any]] = {}
        counts = dict.fromkeys(workers, 0)
        while len(reports) < len(workers):
            worker, frame = self._bus.receive(INSTANT_DEADLINE_S)
            if frame.kind is Kind.SEND:
                sent.append(frame)
                counts[worker] += 1
            else:
                reports[worker] = unpack(frame.body)
        for frame in sorted(sent, key=self._order):
            self._hand_over(frame)
        for worker in workers:
            if reports[worker]["sent"] != counts[worker]:
                raise BrokerError(
                    f"worker {worker} sent {reports[worker]['sent']} frames, {counts[worker]} came"
                )
            self._next_of[worker] = reports[worker]["next"]
            self._ended[worker] = set(reports[worker]["ended"])
        self._read(list(reports.values()))

    def _hand_over(self, frame: Frame) -> None:
        source, destination = self._names[frame.source], self._names[frame.destination]
        entry = self._ledger.sent(source, destination, frame)
        self._flying[entry.number] = Frame(
            Kind.DELIVER,
            frame.source,
            frame.destination,
            frame.sequence,
            frame.answers,
            frame.instant_ns,
            frame.purpose,
            frame.body,
            frame.payload,
        )
        if self._tap is not None:
            self._tap(source, destination, frame)
        self._network.send(self._now_ns, entry.number, source, destination, entry.size_bytes)

    def _read(self, reports: Sequence[dict[str, Any]]) -> None:
        """Passes on what programs noted, declared and died of, in the order of the run's nodes."""
        notes = [note for report in reports for note in report["notes"]]
        for name, event, fields in sorted(notes, key=lambda note: self._numbers[note[0]]):
            self._tell(name, event, fields)
        facts = [fact for report in reports for fact in report["facts"]]
        for _, fact, nodes in sorted(facts, key=lambda fact: self._numbers[fact[0]]):
            self._facts[fact] = tuple(nodes)
        failed = {name: said for report in reports for name, said in report["failed"].items()}
        if failed:
            name = min(failed, key=self._numbers.__getitem__)
            text, problem = failed[name]
            raise ProgramError(name, to_seconds(self._now_ns), text, problem)

    def _tell(self, node: str, event: str, fields: dict[str, Any]) -> None:
        if self._observe is not None:
            note = Note(to_seconds(self._now_ns), node, event, fields, self._ledger.wire_bytes)
            self._observe(note)

    # Faults.

    def _apply_faults(self, actions: dict[int, list[list[Any]]]) -> dict[int, list[list[Any]]]:
        """Applies the faults of this instant; returns what the workers have to do about them."""
        before = self._conditions
        while self._events and self._events[-1].at_ns <= self._now_ns:
            self._apply(self._resolve(self._events.pop()))
        if self._conditions is before:
            return actions
        self._network.apply(self._now_ns, self._conditions)
        for name in self._names:
            was_up, is_up = before.is_up(name), self._conditions.is_up(name)
            if was_up and not is_up:
                self._act(actions, name, "crash", 0)
                self._ended[self._owners[self._numbers[name]]].discard(name)
            elif is_up and not was_up:
                self._incarnation[name] += 1
                self._act(actions, name, "boot", self._incarnation[name])
            factor = self._conditions.compute_factor(name)
            if factor != before.compute_factor(name):
                self._act(actions, name, "speed", factor)
        return actions

    def _resolve(self, event: Event) -> Event:
        """The event with what only a run can know filled in: an end means the nodes of its
        beginning.
        """
        if event.selector is None:
            return event
        if event.phase == "end":
            begun = self._conditions.active[event.fault]
            return replace(event, nodes=begun.nodes, links=begun.links, selector=None)
        return fault_language.resolve(event, self._facts, self._topology)

    def _apply(self, event: Event) -> None:
        self._conditions = (
            self._conditions.begin(event) if event.phase == "begin" else self._conditions.end(event)
        )
        self._applied.append(event)
        text = event.text
        self._ledger.fault(
            FaultEntry(event.at_ns, event.fault, event.kind, event.phase, event.nodes, text)
        )
        self._tell(
            "",
            "fault",
            {
                "kind": event.kind,
                "phase": event.phase,
                "fault": event.fault,
                "nodes": list(event.nodes),
                "links": [list(pair) for pair in event.links],
                "text": text,
            },
        )

    def _act(
        self, actions: dict[int, list[list[Any]]], name: str, action: str, value: float
    ) -> None:
        number = self._numbers[name]
        actions.setdefault(self._owners[number], []).append([action, number, value])

    def _waiting(self) -> dict[str, str]:
        """Who waits for what, for the report of a deadlock."""
        waiting: dict[str, str] = {}
        for worker in range(self._processes):
            self._bus.send(worker, Frame(Kind.DESCRIBE))
            if self._local is not None:
                self._local.pump()
            _, frame = self._bus.receive(INSTANT_DEADLINE_S)
            waiting |= unpack(frame.body)["waiting"]
        return {name: waiting[name] for name in self._names if name in waiting}


@functools.lru_cache(maxsize=4096)
def _tie_break(seed: int, instant_ns: int, source: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{instant_ns}:{source}".encode(), digest_size=8).digest()


def _check(
    names: Sequence[str], topology: Topology, processes: int, background: Collection[str]
) -> None:
    if not names:
        raise BrokerError("a run needs at least one program")
    if len(names) > MAX_NODES:
        raise BrokerError(f"{len(names):,} programs; at most {MAX_NODES:,}")
    if processes < 1:
        raise BrokerError(f"processes is {processes}; it takes at least 1")
    strangers = [name for name in names if name not in topology.nodes]
    if strangers:
        raise BrokerError(
            f"no node {strangers[0]!r} in topology {topology.name}; it has "
            f"{', '.join(topology.nodes)}"
        )
    idle = sorted(set(background) - set(names))
    if idle:
        raise BrokerError(f"no program {idle[0]!r} to leave running; there are {', '.join(names)}")


def _open(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, opened: contextlib.ExitStack
) -> zmq.Socket[bytes]:
    """A socket that is closed with `opened`, and never holds a run's end up."""
    socket = context.socket(kind)
    opened.callback(socket.close)
    socket.set_hwm(0)
    socket.linger = 0
    return socket


def _nothing() -> None:
    """A worker in this process is alive as long as this process is."""
