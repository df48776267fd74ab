"""`broker.run`: programs, a topology, faults and a seed in; results, ledger and digest out.

Here stands what a run is made of and how it is put up and taken down: sockets, workers, bus,
network, ledger. How time moves is the scheduler's (`broker.scheduler`).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import os
import secrets
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import zmq

from broker.bus import Bus
from broker.clock import to_ns, to_seconds
from broker.errors import BrokerError, with_the_books
from broker.ledger import Ledger
from broker.network import Network
from broker.node import Programs
from broker.processes import WorkerProcesses
from broker.scheduler import Ends, Observer, Scheduler, Tap
from broker.troubles import Troubles
from broker.watchdog import Watchdog
from broker.wire import MAX_NODES, Frame, Kind
from broker.worker import Assignment, Worker
from faults import Event, Scenario
from faults import load as load_faults
from topologies import Topology
from topologies import load as load_topology

JOIN_DEADLINE_S = 120.0
WEEK_S = 7 * 24 * 3600.0

Transport = Literal["inproc", "ipc", "tcp"]
Faults = Scenario | Sequence[Event] | str | Path


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


def run(
    programs: Programs,
    *,
    topology: Topology | str | Path,
    faults: Faults = (),
    seed: int = 0,
    clock: Literal["virtual", "wall"] = "virtual",
    processes: int = 1,
    workers: int | None = None,
    transport: Transport | None = None,
    background: Collection[str] = (),
    ends: Ends = "all",
    limit_s: float = WEEK_S,
    observe: Observer | None = None,
    tap: Tap | None = None,
) -> Run:
    """Runs each program on its node until all but the `background` ones have returned, or one of
    them has.

    Args:
        programs: By name of node. With more than one process they must be picklable.
        topology: The network, or the name or file of one. Every program's node must be in it.
        faults: A scenario, the name or file of one, or events as `faults.expand` gives them.
        seed: Of everything that is drawn. Same seed, same digest, for any number of processes.
        clock: ``virtual`` time jumps from event to event; ``wall`` is the machine's own clock, with
            programs in processes of their own (see `broker.wall`), and no two runs are the same.
        processes: 1 runs all here; more spread the nodes over that many worker processes.
        workers: Threads in each process that do what programs give to `node.compute`; as many as
            there are cores for each process, if not said.
        transport: The sockets that messages go over: ``inproc`` (one process only; the default
            there), ``ipc`` (the default for several), or ``tcp`` on the loopback interface.
        background: Nodes whose programs need not end, as servers do.
        ends: Whether the run ends when ``all`` the others have returned, or with the ``first`` one.
        limit_s: Virtual seconds after which the run is stopped with an error.
        observe: Called with each `Note`, in order of virtual time.
        tap: Called with source, destination and frame of every message sent.

    Raises:
        ProgramError: A program raised.
        DeadlockError: Nothing is under way and programs wait.
        BrokerError: Anything else that ends a run; `topologies.InputError` for bad input.

        Each of them has the run's `ledger` and `faults` as far as it came.
    """
    topology, faults = _read(topology, faults)
    if clock == "wall":
        from broker import wall  # noqa: PLC0415 - it is built on this module

        return wall.run(
            programs,
            topology=topology,
            faults=faults,
            seed=seed,
            processes=processes,
            workers=workers,
            transport=transport or "ipc",
            background=background,
            ends=ends,
            limit_s=limit_s,
            observe=observe,
            tap=tap,
        )
    if clock != "virtual":
        raise BrokerError(f"clock is {clock!r}; it is virtual or wall")
    plan = _Plan(programs, topology, seed, processes, workers, transport, background, ends, limit_s)
    return plan.run(faults, observe, tap)


async def run_async(
    programs: Programs,
    *,
    topology: Topology | str | Path,
    faults: Faults = (),
    seed: int = 0,
    processes: int = 1,
    workers: int | None = None,
    transport: Transport | None = None,
    background: Collection[str] = (),
    ends: Ends = "all",
    limit_s: float = WEEK_S,
    observe: Observer | None = None,
    tap: Tap | None = None,
) -> Run:
    """`run` in virtual time, from within a running event loop, which goes on meanwhile.

    The run has a thread of its own, and `observe` and `tap` are called there. Cancelling ends the
    run.
    """
    topology, faults = _read(topology, faults)
    plan = _Plan(programs, topology, seed, processes, workers, transport, background, ends, limit_s)
    running = asyncio.ensure_future(asyncio.to_thread(plan.run, faults, observe, tap))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        plan.stop()
        with contextlib.suppress(BrokerError):
            await running
        raise


class _Plan:
    """Who runs where. `run` puts everything up, lets time move, and takes everything down."""

    def __init__(
        self,
        programs: Programs,
        topology: Topology,
        seed: int,
        processes: int,
        workers: int | None,
        transport: Transport | None,
        background: Collection[str],
        ends: Ends,
        limit_s: float,
    ) -> None:
        check_arguments(
            programs, topology, processes, workers, transport, background, ends, limit_s
        )
        self._names = tuple(programs)
        self._limit_ns = to_ns(limit_s)
        self._programs = programs
        self._topology = topology
        self._seed = seed
        self._processes = min(processes, len(self._names))
        cores = os.cpu_count() or 1
        self._threads = workers or max(1, cores // self._processes)
        self._transport = transport or ("inproc" if self._processes == 1 else "ipc")
        self._principals = [name for name in self._names if name not in background]
        self._ends: Ends = ends
        self._owners = tuple(number % self._processes for number in range(len(self._names)))
        self._scheduler: Scheduler | None = None
        self._stopped = False

    def stop(self) -> None:
        """Ends the run soon; may be called from another thread."""
        self._stopped = True
        if self._scheduler is not None:
            self._scheduler.stop()

    def _watch(self, pool: WorkerProcesses) -> None:
        """Asked while the bus waits for other processes."""
        if self._stopped:
            raise BrokerError("the run was stopped from outside")
        pool.check()

    def run(
        self,
        faults: Scenario | Sequence[Event],
        observe: Observer | None,
        tap: Tap | None,
    ) -> Run:
        """Starts the workers, lets time move until the principals have returned, closes all."""
        tokens = tuple(secrets.token_bytes(16) for _ in range(self._processes))
        assignments = [self._assignment(index, token) for index, token in enumerate(tokens)]
        troubles = Troubles(faults, self._topology, self._seed, self._names)
        ledger = Ledger(self._topology.transport)
        network = Network(self._topology, self._seed)
        pool: WorkerProcesses | None = None
        local: Worker | None = None
        with (
            with_the_books(ledger, lambda: (*troubles.applied, *troubles.pending)),
            contextlib.ExitStack() as opened,
        ):
            folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="broker-"))
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            opened.callback(context.term)
            socket = _open(context, zmq.ROUTER, opened)
            socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
            socket.bind(self._address(Path(folder)))
            endpoint = str(socket.get_string(zmq.LAST_ENDPOINT))
            alive: Callable[[], None] = _nothing
            pump: Callable[[], object] = _nothing
            if self._processes == 1:
                dealer = _open(context, zmq.DEALER, opened)
                dealer.connect(endpoint)
                local = Worker(assignments[0], dealer, lambda: self._stopped)
                opened.callback(local.close)
                local.hello()
                pump = local.pump
            else:
                pool = WorkerProcesses(endpoint, assignments)
                opened.callback(pool.end)
                alive = functools.partial(self._watch, pool)
            bus = Bus(socket, self._owners, tokens, ledger, alive, self._names)
            bus.wait_for_all(JOIN_DEADLINE_S)
            self._scheduler = scheduler = Scheduler(
                self._names,
                self._owners,
                self._principals,
                network,
                troubles,
                ledger,
                bus,
                seed=self._seed,
                send_buffer_bytes=self._topology.transport.send_buffer_bytes,
                limit_ns=self._limit_ns,
                ends=self._ends,
                observe=observe,
                tap=tap,
                pump=pump,
            )
            if self._stopped:
                scheduler.stop()
            with Watchdog() if local is not None else contextlib.nullcontext():
                scheduler.live()
            for worker in range(self._processes):
                bus.send(worker, [Frame(Kind.CLOSE)])
            returned: dict[str, object] = {}
            if pool is not None:
                returned = pool.returned(JOIN_DEADLINE_S)
            elif local is not None:
                returned = local.returned
        return Run(
            {name: returned[name] for name in self._names if scheduler.has_returned(name)},
            ledger,
            ledger.digest(),
            to_seconds(scheduler.now_ns),
            (*troubles.applied, *troubles.pending),
        )

    def _address(self, folder: Path) -> str:
        addresses = {
            "inproc": "inproc://bus",
            "ipc": f"ipc://{folder / 'bus'}",
            "tcp": "tcp://127.0.0.1:*",
        }
        return addresses[self._transport]

    def _assignment(self, index: int, token: bytes) -> Assignment:
        mine = {
            name: program
            for (name, program), owner in zip(self._programs.items(), self._owners, strict=True)
            if owner == index
        }
        return Assignment(
            index, token, self._names, mine, self._topology, self._seed, self._threads
        )


def _read(
    topology: Topology | str | Path, faults: Faults
) -> tuple[Topology, Scenario | Sequence[Event]]:
    """What stands in the files that may be named instead."""
    return (
        load_topology(topology) if isinstance(topology, str | Path) else topology,
        load_faults(faults) if isinstance(faults, str | Path) else faults,
    )


def check_arguments(
    programs: Programs,
    topology: Topology,
    processes: int,
    workers: int | None,
    transport: Transport | None,
    background: Collection[str],
    ends: Ends,
    limit_s: float,
) -> None:
    """Raises BrokerError for what no run could be made of."""
    names = tuple(programs)
    if not names:
        raise BrokerError("a run needs at least one program")
    if len(names) > MAX_NODES:
        raise BrokerError(f"{len(names):,} programs; at most {MAX_NODES:,}")
    if processes < 1:
        raise BrokerError(f"processes is {processes}; it takes at least 1")
    if workers is not None and workers < 1:
        raise BrokerError(f"workers is {workers}; it takes at least 1 thread to compute")
    if transport not in (None, "inproc", "ipc", "tcp"):
        raise BrokerError(f"transport is {transport!r}; it is inproc, ipc or tcp")
    if transport == "inproc" and processes > 1:
        raise BrokerError("inproc is for one process; use ipc or tcp, or processes=1")
    strangers = [name for name in names if name not in topology.nodes]
    if strangers:
        raise BrokerError(
            f"no node {strangers[0]!r} in topology {topology.name}; it has "
            f"{', '.join(topology.nodes)}"
        )
    for name, program in programs.items():
        if not callable(program):
            raise BrokerError(
                f"the program of node {name} is a {type(program).__name__}; give the function "
                "itself, an `async def main(node)`, and don't call it"
            )
    if not 0 < limit_s < math.inf:
        raise BrokerError(f"limit_s is {limit_s}; it is a number of seconds, more than 0")
    _check_ends(names, background, ends)


def _check_ends(names: tuple[str, ...], background: Collection[str], ends: Ends) -> None:
    if isinstance(background, str):
        raise BrokerError(f"background is {background!r}; it is a list of names: [{background!r}]")
    if ends not in ("all", "first"):
        raise BrokerError(f"ends is {ends!r}; it is all or first")
    if ends == "first" and not set(names) - set(background):
        raise BrokerError("the run is to end with the first that returns, and all are background")
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
    """A worker in this process is alive as long as this process is, and others pump themselves."""
