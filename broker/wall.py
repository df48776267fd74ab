"""Wall time: the same programs on the machine's clock, in processes of their own.

    run(programs, topology=…, processes=4, transport="tcp")   # a bus here, programs in 4 processes
    join("ipc:///tmp/bus", {"phone": program})                # programs here, the bus elsewhere

A node is the same machine as in virtual time (`broker.machine`); only what drives it differs. The
`Driver` waits for its ports and for the earliest instant at which any of its nodes has something to
do, and runs them at the instant that the machine's clock shows. Messages come before their time and
wait here until then, as does what faults do to nodes. A computation ends at its priced end, or when
the work is really done, whichever is later; how late is counted.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import tempfile
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

from broker.account import Observer as BusObserver
from broker.books import LedgerBooks
from broker.clock import NANOSECONDS, driving, to_ns, to_seconds
from broker.errors import BrokerError, FrameError, ProgramError, with_the_books
from broker.ledger import Ledger
from broker.machine import Machine, commit
from broker.node import Program, Programs
from broker.port import Port, a_word
from broker.processes import WorkerProcesses
from broker.realtime import EXACT_S, Waiter, sharpen
from broker.runs import JOIN_DEADLINE_S, WEEK_S, Run, Transport, check_arguments
from broker.scheduler import Ends, Note, Observer, Tap
from broker.serve import Bus
from broker.troubles import told
from broker.wire import Frame, Kind, unpack
from broker.worker import Assignment, Worker, gather
from faults import Event, Scenario
from topologies import Node as Place
from topologies import Topology

_LONGEST_WAIT_NS = 200_000_000
_LATE_NS = 1_000_000
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Lateness:
    """How often this process was more than 1 ms late with what has come, and how often work took
    longer than its price; and the worst of each.
    """

    releases: int = 0
    worst_release_ns: int = 0
    works: int = 0
    worst_work_ns: int = 0


class Driver(Worker):
    """Runs the nodes of an `Assignment` on the machine's clock, behind `ports`.

    `live` returns once all programs have ended, or, `forever`, when the bus says that the run is
    over. Programs see the machine's own clock and generators, and may use its threads and sockets.
    """

    virtual = False

    def __init__(
        self, assignment: Assignment, ports: Sequence[Port], *, forever: bool = False
    ) -> None:
        super().__init__(assignment, ports[0].socket)
        self._all_ports = tuple(ports)
        self._ports = {self._numbers[name]: port for port in ports for name in port.nodes}
        self._clock = ports[0]
        self._forever = forever
        self._coming: list[tuple[int, int, int, Frame]] = []
        self._order = itertools.count()
        self._done: deque[int] = deque()
        self.late = Lateness()
        self._waiter = Waiter(EXACT_S)
        for port in ports:
            self._waiter.watch(port.descriptor)

    def live(self) -> None:
        """Runs the nodes until the run is over."""
        sharpen()
        with driving():
            while self._turn():
                self._wait()

    def close(self) -> None:
        """Drops all nodes; real work still under way is not waited for."""
        super().close()
        self._waiter.close()
        late = self.late
        if late.releases or late.works:
            _log.warning(
                "this process was late with %d messages, by up to %.1f ms; %d computations took "
                "longer than their price, by up to %.3f s",
                late.releases,
                late.worst_release_ns / 1e6,
                late.works,
                late.worst_work_ns / 1e9,
            )

    def work_is_done(self, number: int, late_ns: int | None) -> None:
        """Work of a node is done, `late_ns` after its price has been paid. Any thread may call."""
        if late_ns is not None:
            self.late.works += 1
            self.late.worst_work_ns = max(self.late.worst_work_ns, late_ns)
        self._done.append(number)
        self._waiter.wake()

    @property
    def now_ns(self) -> int:
        """Nanoseconds since the run's clock started."""
        return self._clock.now_ns()

    def _machine(self, place: Place, number: int, program: Program) -> Machine:
        return _Machine(place, number, program, self, self._threads)

    def machines(self) -> list[Machine]:
        """The nodes here."""
        return list(self._machines.values())

    # One turn.

    def _turn(self) -> bool:
        for port in self._all_ports:
            for frame in port.read():
                self._hear(frame)
        if any(port.closed for port in self._all_ports):
            return False
        if self._clock.start_ns is not None:
            now_ns = self.now_ns
            self._release(now_ns)
            self._run_due(now_ns)
        return self._forever or not all(machine.reported for machine in self._machines.values())

    def _hear(self, frame: Frame) -> None:
        """Keeps a message or an order until its time; at one instant orders come first."""
        if frame.kind == Kind.ORDERS:
            entry = (frame.instant_ns, 0, next(self._order), frame)
        elif frame.kind in (Kind.DELIVER, Kind.RECEIPT) and frame.destination in self._machines:
            entry = (frame.due_ns, 1, next(self._order), frame)
        else:
            return
        heapq.heappush(self._coming, entry)

    def _release(self, now_ns: int) -> None:
        coming, late = self._coming, self.late
        while coming and coming[0][0] <= now_ns:
            due_ns, _, _, frame = heapq.heappop(coming)
            if frame.kind == Kind.ORDERS:
                self._run_due(due_ns)
                self._obey(due_ns, unpack(frame.body))
                continue
            if now_ns - due_ns > _LATE_NS:
                late.releases += 1
                late.worst_release_ns = max(late.worst_release_ns, now_ns - due_ns)
            try:
                unpack(frame.body)  # another process has packed it
            except FrameError as error:
                _log.warning("a message that can't be read was dropped: %s", error)
                continue
            self._machines[frame.destination].arrive(frame)
            self._put_down(frame.destination, due_ns)

    def _run_due(self, now_ns: int) -> None:
        """Runs every node that has something to do by now."""
        agenda = self._agenda
        touched, self._touched = self._touched, {}
        while self._done:
            self._put_down(self._done.popleft(), now_ns)
        while agenda and agenda[0][0] <= now_ns:
            due_ns, number = heapq.heappop(agenda)
            machine = self._machines[number]
            if machine.scheduled_ns != due_ns:
                continue
            machine.scheduled_ns = None
            touched[number] = machine
            machine.run(now_ns, now_ns + 1, patient=False)
            self._put_down(number, machine.next_ns())
        if touched:
            self._report(now_ns, touched.values())

    def _report(self, _: int, machines: Iterable[Machine]) -> None:
        """Hands over what the nodes sent, and says how they are."""
        frames: dict[Port, list[Frame]] = {}
        news: dict[Port, dict[str, list[Any]]] = {}
        for machine in machines:
            port = self._ports[machine.number]
            gather(machine, frames.setdefault(port, []), news.setdefault(port, {}))
        for port, sent in frames.items():
            if sent:
                port.send(sent)
        for port, body in news.items():
            if body:
                port.report(body)

    def _wait(self) -> None:
        now_ns = self.now_ns
        due = now_ns + _LONGEST_WAIT_NS
        if self._clock.start_ns is not None:
            if self._coming:
                due = min(due, self._coming[0][0])
            if self._agenda:
                due = min(due, self._agenda[0][0])
        if not self._done and not any(port.has_mail() for port in self._all_ports):
            self._waiter.wait((due - now_ns) / NANOSECONDS)


class _Machine(Machine):
    """A machine whose work may take longer than its price: only those wait who wait for it."""

    def __init__(
        self,
        place: Place,
        number: int,
        program: Program,
        driver: Driver,
        threads: ThreadPoolExecutor,
    ) -> None:
        super().__init__(place, number, program, driver, threads)
        self._driver = driver

    def next_ns(self) -> int | None:
        """The next instant at which anything happens here, or None."""
        if self._loop is not None and not self._paused and any(self._late_done()):
            return self._loop._now_ns
        return super().next_ns()

    def _late_done(self) -> Iterator[int]:
        return (number for number in self._paid if self.work[number][0].done())

    def _reset_work(self) -> None:
        super()._reset_work()
        self._paid: list[int] = []

    def _work_is_done(self, _: int) -> bool:
        """Work that is not done holds up only those who wait for it."""
        return True

    def _finish_work(self, now_ns: int) -> None:
        """Commits what is both paid for and done."""
        for number in self.processor.finish_due(now_ns):
            self._paid.append(number)
            if not (done := self.work[number][0]).done():
                done.add_done_callback(self._later(now_ns))
        for number in tuple(self._late_done()):
            self._paid.remove(number)
            commit(*self.work.pop(number))

    def _later(self, priced_ns: int) -> Callable[[Future[Any]], None]:
        driver, number = self._driver, self.number
        return lambda _: driver.work_is_done(number, driver.now_ns - priced_ns)


# Runs.


def join(
    endpoint: str,
    programs: Programs,
    *,
    word: bytes = b"",
    keys: Path | None = None,
    patience_s: float | None = None,
) -> dict[str, object]:
    """Runs programs here, on their nodes of the bus at `endpoint`, until all have returned.

    Args:
        word: The bus's secret word, where it wants one (`keys.word_of` reads it from a file).
        keys: The folder with the bus's public key and the nodes' own, where it wants keys.
        patience_s: How long the bus may be gone. When it comes back, programs go on; what was under
            way is lost. Without it, 20 s, and 5 min for a bus that has said it will be back.

    Returns:
        What each program returned, by its node.

    Raises:
        ProgramError: A program raised; the others are dropped.
        BrokerError: The bus does not let a node in, or is gone.
    """
    names = tuple(programs)
    with contextlib.ExitStack() as opened:
        groups = [(name,) for name in names] if keys is not None else [names]
        ports = []
        for group in groups:
            ports.append(Port(endpoint, group, word=word, folder=keys, patience_s=patience_s))
            opened.callback(ports[-1].close)
        threads = max(1, os.cpu_count() or 1)
        assignment = Assignment(
            0, word, ports[0].names, programs, ports[0].topology, ports[0].seed, threads
        )
        driver = Driver(assignment, ports)
        opened.callback(driver.close)
        driver.live()
        failed = [one for one in driver.machines() if one.failure is not None]
        for machine in failed:
            assert machine.failure is not None
            raise ProgramError(
                machine.place.name, to_seconds(machine.ended_ns or 0), *machine.failure
            )
        return driver.returned


def run(
    programs: Programs,
    *,
    topology: Topology,
    faults: Scenario | Sequence[Event] = (),
    seed: int = 0,
    processes: int = 1,
    workers: int | None = None,
    transport: Transport = "ipc",
    background: Collection[str] = (),
    ends: Ends = "all",
    limit_s: float = WEEK_S,
    observe: Observer | None = None,
    tap: Tap | None = None,
) -> Run:
    """Runs each program on its node, on the machine's clock, until all but the `background` ones
    returned, or the first of them did: the bus in this process, the programs in `processes` others.

    The arguments are those of `broker.run`; `limit_s` and the times of what comes back are real
    seconds. The programs must be picklable. `Run.digest` differs from run to run, as times do.
    """
    names = tuple(programs)
    check_arguments(programs, topology, processes, workers, transport, background, ends, limit_s)
    if transport == "inproc":
        raise BrokerError("in wall time programs have processes of their own: use ipc or tcp")
    count = min(processes, len(names))
    owners = {name: number % count for number, name in enumerate(names)}
    words = [a_word() for _ in range(count)]
    watcher = _Watcher([name for name in names if name not in background], ends, observe)
    ledger = watcher.ledger
    with contextlib.ExitStack() as opened:
        bus = Bus(
            topology,
            names,
            faults,
            seed=seed,
            words={name: words[owner] for name, owner in owners.items()},
            expected=len(names),
            observer=watcher,
            books=lambda custodian: LedgerBooks(ledger, names, custodian, tap),
        )
        opened.enter_context(with_the_books(ledger, lambda: (*watcher.applied, *bus.to_come())))
        watcher.stop = bus.stop
        closing = opened.enter_context(contextlib.ExitStack())
        closing.callback(bus.close)
        folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="broker-"))
        endpoint = bus.bind(
            f"ipc://{Path(folder) / 'bus'}" if transport == "ipc" else "tcp://127.0.0.1:*"
        )
        threads = workers or max(1, (os.cpu_count() or 1) // count)
        assignments = [
            Assignment(
                index,
                words[index],
                names,
                {name: program for name, program in programs.items() if owners[name] == index},
                topology,
                seed,
                threads,
            )
            for index in range(count)
        ]
        pool = WorkerProcesses(endpoint, assignments, _work)
        opened.callback(pool.end)

        def alive() -> None:
            pool.check()
            if bus.now_ns > to_ns(limit_s):
                raise BrokerError(f"the run has not ended after {limit_s:,.0f} s")

        bus.run(alive)
        ended_ns = bus.now_ns
        if watcher.error is not None:
            raise watcher.error
        closing.close()
        returned = pool.returned(JOIN_DEADLINE_S)
    return Run(
        {name: returned[name] for name in names if name in returned},
        ledger,
        ledger.digest(),
        to_seconds(ended_ns),
        (*watcher.applied, *bus.to_come()),
    )


class _Watcher(BusObserver):
    """Follows a run: what was noted, which faults were applied, and when it is over."""

    def __init__(self, principals: Sequence[str], ends: Ends, observe: Observer | None) -> None:
        self.ledger = Ledger()
        self.applied: list[Event] = []
        self.error: BrokerError | None = None
        self.stop: Callable[[], None] = lambda: None
        self._principals = frozenset(principals)
        self._enough = len(principals) if ends == "all" else 1
        self._observe = observe
        self._ended: set[str] = set()

    def fault(self, event: Event) -> None:
        self.applied.append(event)
        entry, fields = told(event)
        self.ledger.fault(entry)
        self.note(event.at_ns, "", "fault", fields)

    def note(self, at_ns: int, node: str, event: str, fields: dict[str, Any]) -> None:
        if self._observe is not None:
            self._observe(Note(to_seconds(at_ns), node, event, fields, self.ledger.wire_bytes))

    def ended(self, _: int, node: str, returned: bool) -> None:
        if returned:
            self._ended.add(node)
        if len(self._principals & self._ended) >= self._enough:
            self.stop()

    def failed(self, at_ns: int, node: str, text: str, problem: str) -> None:
        if self.error is None:
            self.error = ProgramError(node, to_seconds(at_ns), text, problem)
        self.stop()

    def restarted(self, node: str) -> None:
        self._ended.discard(node)


def _work(endpoint: str, assignment: Assignment, pipe: Pipe) -> None:
    """The body of a process that runs programs in wall time."""
    try:
        with (
            contextlib.closing(
                Port(endpoint, tuple(assignment.programs), word=assignment.token)
            ) as port,
            contextlib.closing(Driver(assignment, [port], forever=True)) as driver,
        ):
            driver.live()
            pipe.send(("returned", driver.returned))
    except BaseException:
        with contextlib.suppress(OSError):
            pipe.send(("failed", traceback.format_exc()))
        raise SystemExit(1) from None
    finally:
        pipe.close()
