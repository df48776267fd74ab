"""The nodes that live in one process, behind one DEALER socket.

A worker is told an instant, what arrives then and what breaks then; it runs its nodes until none
has anything to do, hands over what they sent, and says when it next has something to do. Real work
runs in threads meanwhile: a worker only waits for it when its virtual end has come. That is where
parallelism comes from, and why it can't change a result.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import math
import os
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import zmq

from broker.clock import NodeLoop, to_seconds
from broker.disk import Disk
from broker.errors import BrokerError, SpinError, WorkerError
from broker.network import Network
from broker.node import Node, Programs, Route
from broker.processor import Processor
from broker.wire import Frame, Kind, collect, decode, pack, post, unpack
from topologies import InputError, Topology
from topologies import Node as Place

T = TypeVar("T")

WORK_DEADLINE_S = 600.0
_PASSES_AT_AN_INSTANT = 10_000
_CLOSINGS = 8
_HERE = os.path.dirname(__file__)  # noqa: PTH120 - as code objects spell it


@dataclass(frozen=True)
class Assignment:
    """What one worker is to run: `names` are all nodes of the run, `programs` those here."""

    index: int
    token: bytes
    names: tuple[str, ...]
    programs: Programs
    topology: Topology
    seed: int
    threads: int


class _Lane:
    """Runs one device's work in the shared threads, one at a time and in order."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Callable[[], object], Future[Any]]] = deque()
        self._busy = False

    def submit(self, work: Callable[[], object]) -> Future[Any]:
        done: Future[Any] = Future()
        with self._lock:
            self._waiting.append((work, done))
            if not self._busy:
                self._busy = True
                self._threads.submit(self._run)
        return done

    def clear(self) -> None:
        with self._lock:
            self._waiting.clear()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._busy = False
                    return
                work, done = self._waiting.popleft()
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)


class _Machine:
    """One node: what stays over crashes (disk, numbers) and what a crash takes (loop, memory,
    work).
    """

    def __init__(self, place: Place, threads: ThreadPoolExecutor) -> None:
        self.place = place
        self.disk = Disk()
        self.sequence = 0
        self.factor = 1.0
        self._threads = threads
        self.node: Node | None = None
        self.loop: NodeLoop | None = None
        self.main: asyncio.Task[object] | None = None
        self.ended = False
        self._graves: list[asyncio.Task[Any]] = []
        self._reset_work()

    def _reset_work(self) -> None:
        flops = self.place.device.flops if self.place.device else 0.0
        self.processor = Processor(flops)
        self.processor.set_factor(0, self.factor)
        self.lane = _Lane(self._threads)
        self.work: dict[int, tuple[Future[Any], asyncio.Future[Any]]] = {}
        self.work_count = 0

    def crash(self) -> None:
        """Nothing of the program runs any more. It is kept, fenced, so that no `finally` runs
        either.
        """
        if self.loop is None or self.node is None:
            return
        self.node._die()
        self.loop.fence()
        self.lane.clear()
        self._graves += asyncio.all_tasks(self.loop)
        self.node = self.loop = self.main = None
        self.ended = False
        self._reset_work()

    def close(self) -> None:
        """The run is over: what still waits is closed, and its `finally` reaches nobody."""
        _remains.extend(self._graves)
        self._graves.clear()
        self.crash()
        _dispose(self._graves)

    def next_ns(self) -> int | None:
        if self.loop is None:
            return None
        candidates = (self.loop.next_ns(), self.processor.next_end_ns())
        return min((ns for ns in candidates if ns is not None), default=None)


class Worker:
    """Runs the nodes of an `Assignment`, driven by the frames that come over `socket`."""

    def __init__(self, assignment: Assignment, socket: zmq.Socket[bytes]) -> None:
        _dispose_of_remains()
        self._assignment = assignment
        self._socket = socket
        self._threads = ThreadPoolExecutor(assignment.threads, thread_name_prefix="compute")
        self._numbers = {name: number for number, name in enumerate(assignment.names)}
        nodes = assignment.topology.nodes
        self._machines = {
            name: _Machine(nodes[name], self._threads) for name in assignment.programs
        }
        self._map = Network(assignment.topology, 0)
        self._now_ns = 0
        self._arrived: list[Frame] = []
        self.returned: dict[str, object] = {}

    # What nodes call (`Surroundings`).

    @property
    def names(self) -> Sequence[str]:
        return self._assignment.names

    def number(self, name: str) -> int:
        if name not in self._numbers:
            raise BrokerError(f"no program runs on a node {name!r}")
        return self._numbers[name]

    def next_sequence(self, name: str) -> int:
        machine = self._machines[name]
        machine.sequence += 1
        return machine.sequence

    def route(self, source: str, destination: str) -> Route | None:
        links = self._map.route(source, destination)
        if links is None:
            return None
        bandwidth = min((link.bandwidth_bps for link in links), default=float("inf"))
        return Route(bandwidth, sum(link.delay_s for link in links))

    def compute(self, name: str, work: Callable[[], T], flops: float) -> asyncio.Future[T]:
        machine = self._machines[name]
        if machine.loop is None or machine.place.device is None:
            raise BrokerError(f"node {name} has no device to compute on")
        if not 0 <= flops < math.inf:
            raise BrokerError(f"node {name}: flops is {flops}; it counts operations, 0 or more")
        future: asyncio.Future[T] = machine.loop.create_future()
        machine.work_count += 1
        machine.work[machine.work_count] = (machine.lane.submit(work), future)
        machine.processor.submit(self._now_ns, machine.work_count, flops)
        return future

    # The conversation with the bus.

    def hello(self) -> None:
        """Joins the run."""
        body = {"index": self._assignment.index, "token": self._assignment.token}
        self._send(Frame(Kind.HELLO, body=pack(body)))

    def pump(self) -> bool:
        """Reads frames until an instant is done (True) or the run is over (False)."""
        while True:
            frame = decode(collect(self._socket))
            if frame.kind is Kind.DELIVER:
                self._arrived.append(frame)
            elif frame.kind is Kind.ADVANCE:
                self._advance(frame)
                return True
            elif frame.kind is Kind.DESCRIBE:
                self._send(Frame(Kind.QUIET, body=pack({"waiting": self._describe()})))
                return True
            elif frame.kind is Kind.CLOSE:
                return False

    def close(self) -> None:
        """Drops all nodes; real work still under way is not waited for."""
        for machine in self._machines.values():
            machine.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _send(self, frame: Frame) -> None:
        post(self._socket, frame)

    def _advance(self, frame: Frame) -> None:
        self._now_ns = frame.instant_ns
        order = unpack(frame.body)
        for action, number, value in order["actions"]:
            self._act(action, self._assignment.names[number], value)
        for arrival in self._arrived:
            machine = self._machines[self._assignment.names[arrival.destination]]
            if machine.node is not None and machine.loop is not None:
                machine.loop._now_ns = self._now_ns
                source = self._assignment.names[arrival.source]
                machine.node._deliver(source, arrival, arrival.instant_ns)
        self._arrived.clear()
        failed = self._run_all()
        self._report(failed)

    def _act(self, action: str, name: str, value: float) -> None:
        machine = self._machines[name]
        if action == "boot":
            loop = NodeLoop(name)  # type: ignore[abstract]  # the rest is set below the class
            loop._now_ns = self._now_ns
            node = Node(machine.place, int(value), loop, machine.disk, self, self._assignment.seed)
            machine.loop, machine.node = loop, node
            machine.main = loop.create_task(_call(self._assignment.programs[name], node))
        elif action == "crash":
            machine.crash()
        elif action == "speed":
            machine.factor = value
            machine.processor.set_factor(self._now_ns, value)

    def _run_all(self) -> dict[str, tuple[str, str]]:
        """Runs every node until none has anything to do at this instant; returns who failed, and
        how.
        """
        failed: dict[str, tuple[str, str]] = {}
        for name, machine in self._machines.items():
            passes = 0
            while machine.loop is not None and not machine.ended:
                due = machine.next_ns()
                if due is None or due > self._now_ns:
                    break
                passes += 1
                if passes > _PASSES_AT_AN_INSTANT:
                    raise SpinError(name, to_seconds(self._now_ns), passes)
                self._finish_work(machine)
                machine.loop.run_until_quiet(self._now_ns)
                if machine.main is not None and machine.main.done():
                    machine.ended = True
                    error = (
                        asyncio.CancelledError("the program was cancelled")
                        if machine.main.cancelled()
                        else machine.main.exception()
                    )
                    if error is None:
                        self.returned[name] = machine.main.result()
                    else:
                        failed[name] = _account(error)
        return failed

    def _finish_work(self, machine: _Machine) -> None:
        for number in machine.processor.finish_due(self._now_ns):
            done, future = machine.work.pop(number)
            try:
                error = done.exception(timeout=WORK_DEADLINE_S)
            except TimeoutError:
                raise WorkerError(
                    f"work on node {machine.place.name} took more than {WORK_DEADLINE_S:.0f} s"
                ) from None
            if future.done():
                continue
            if isinstance(error, StopIteration):
                future.set_exception(RuntimeError("work raised StopIteration"))
            elif error is not None:
                future.set_exception(error)
            else:
                future.set_result(done.result())

    def _report(self, failed: dict[str, tuple[str, str]]) -> None:
        sent = 0
        notes: list[list[Any]] = []
        facts: list[list[Any]] = []
        for name, machine in self._machines.items():
            node = machine.node
            if node is None:
                continue
            for frame in node._outbox:
                self._send(frame)
            sent += len(node._outbox)
            node._outbox.clear()
            notes += [[name, note["event"], note["fields"]] for note in node._notes]
            node._notes.clear()
            facts += [[name, fact, nodes] for fact, nodes in node._facts.items()]
            node._facts.clear()
        pending = [ns for machine in self._machines.values() if not machine.ended
                   and (ns := machine.next_ns()) is not None]  # fmt: skip
        body = {
            "sent": sent,
            "next": min(pending, default=None),
            "notes": notes,
            "facts": facts,
            "ended": [name for name, machine in self._machines.items() if machine.ended],
            "failed": failed,
        }
        self._send(Frame(Kind.QUIET, instant_ns=self._now_ns, body=pack(body)))

    def _describe(self) -> dict[str, str]:
        """What each node's program waits for, as its innermost line."""
        return {
            name: _where(machine.main) if machine.main is not None else "down"
            for name, machine in self._machines.items()
            if not machine.ended
        }


# A coroutine can't be dropped without running its `finally`. So that no crashed program's ever runs
# within a run, nor while somebody looks at what came of it, these are kept until the next run.
_remains: list[asyncio.Task[Any]] = []


@atexit.register
def _dispose_of_remains() -> None:
    _dispose(_remains)


def _dispose(tasks: list[asyncio.Task[Any]]) -> None:
    """Closes tasks of fenced loops, and what their `finally` raises interests nobody."""
    while tasks:
        program = tasks.pop().get_coro()
        for _ in range(_CLOSINGS):  # a `finally` that awaits does not let go at once
            with contextlib.suppress(
                Exception, asyncio.CancelledError, SystemExit, BaseExceptionGroup
            ):
                program.close()
                break


async def _call(program: Callable[[Node], Any], node: Node) -> object:
    return await program(node)


def _account(error: BaseException) -> tuple[str, str]:
    """An exception's traceback, and what it tells a person where bad input was the cause."""
    cause = error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    problem = str(cause) if isinstance(cause, InputError) else ""
    return "".join(traceback.format_exception(error)), problem


def _where(task: asyncio.Task[object]) -> str:
    """The chain of awaits of a task, outermost first, without this room's own frames."""
    places: list[str] = []
    awaited: Any = task.get_coro()
    while awaited is not None:
        code = getattr(awaited, "cr_frame", None)
        if code is None:
            break
        path = code.f_code.co_filename
        if os.path.dirname(path) != _HERE:  # noqa: PTH120
            places.append(f"{code.f_code.co_qualname} ({os.path.basename(path)}:{code.f_lineno})")  # noqa: PTH119
        else:
            places.append(f"{code.f_code.co_name}()")
        awaited = getattr(awaited, "cr_await", None)
    return " → ".join(place for place in places if place != "_call()")
