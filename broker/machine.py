"""One node's machine: what stays over crashes, and what a crash takes.

A machine is told what happens to it (boot, crash, stop, pause, a skewed clock, a slower processor,
messages that arrive) and is run up to an instant. It is the same in virtual and in wall time: the
driver decides what instant it is. The disk and the count of messages sent stay; the loop, its
program, the memory it holds and the work under way go with a crash.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import inspect
import logging
import math
import os
import threading
import traceback
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from types import CoroutineType
from typing import Any, TypeVar, cast

from broker.clock import NodeLoop, to_seconds, wait_for
from broker.disk import Disk
from broker.errors import BrokerError, SpinError
from broker.guard import guarded
from broker.node import Node, Program, Surroundings
from broker.processor import Processor
from broker.wire import Frame
from topologies import InputError
from topologies import Node as Place

T = TypeVar("T")

_log = logging.getLogger(__name__)
_PASSES_AT_AN_INSTANT = 10_000
_CLOSINGS = 8
_MOST_LINES = 8
_HERE = os.path.dirname(__file__)  # noqa: PTH120 - as code objects spell it


class Lane:
    """Runs one device's work in the shared threads, one at a time and in order."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Callable[[], object], Future[Any]]] = deque()
        self._busy = False

    def submit(self, work: Callable[[], object]) -> Future[Any]:
        """Queues `work`; the future has its result, or what it raised."""
        done: Future[Any] = Future()
        with self._lock:
            self._waiting.append((work, done))
            if not self._busy:
                self._busy = True
                self._threads.submit(self._run)
        return done

    def clear(self) -> None:
        """Forgets what has not begun."""
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


class Machine:
    """A node, its device and its program.

    What came of the program: `returned` (a value, once), or `failure` (traceback, and what it says
    to a person where input was bad), at `ended_ns`. `upcoming_ns` is what `next_ns` was when it was
    last run; `scheduled_ns` is its driver's. `memory_bytes` is what its device grants now.
    """

    def __init__(
        self,
        place: Place,
        number: int,
        program: Program,
        surroundings: Surroundings,
        threads: ThreadPoolExecutor,
    ) -> None:
        self.place = place
        self.number = number
        self.disk = Disk()
        self.ended_ns: int | None = None
        self.returned: object = None
        self.failure: tuple[str, str] | None = None
        self.reported = False
        self.upcoming_ns: int | None = None
        self.scheduled_ns: int | None = None
        self._program = program
        self._surroundings = surroundings
        self._threads = threads
        self._factor = 1.0
        self._paused = False
        self._stopping = False
        self._skew = (0, 0.0)
        self.memory_bytes = place.device.grant_bytes if place.device else 0
        self._sequence = 0
        self._arrivals: deque[Frame] = deque()
        self._looped: deque[Frame] = deque()
        self.node: Node | None = None
        self._loop: NodeLoop | None = None
        self._main: asyncio.Task[object] | None = None
        self._graves: list[asyncio.Task[Any]] = []
        self._reset_work()

    # What happens to it.

    def boot(self, now_ns: int, incarnation: int) -> None:
        """Calls the program as the incarnation of that number."""
        seed = f"{self._surroundings.seed}:{incarnation}"
        loop = NodeLoop(  # type: ignore[abstract]  # the rest is set below the class
            self.place.name, seed, self._surroundings.interrupted
        )
        loop.skew(now_ns, *self._skew)
        self._loop = loop
        self.node = Node(self.place, incarnation, loop, self.disk, self)
        self._main = loop.create_task(_call(self._program, self.node))

    def crash(self, now_ns: int) -> None:
        """Nothing of the program runs any more. It is kept, fenced, so that no `finally` runs
        either. It has failed where what it wanted called in a crash (`on_crash`) raised.
        """
        if self._loop is not None:
            self._loop._now_ns = now_ns
        error = self._fall()
        if error is not None:
            self.ended_ns, self.failure = now_ns, _account(error)

    def _fall(self) -> Exception | None:
        """Takes what a crash takes; what a callback of the program's then raised, or None."""
        loop, node, main = self._loop, self.node, self._main
        if loop is None or node is None or main is None:
            return None
        loop.fence()
        self._lane.clear()
        self._graves += loop.tasks()
        self.node = self._loop = self._main = None
        self.ended_ns = None
        self.reported = self._stopping = False
        self._arrivals.clear()
        self._looped.clear()
        self._reset_work()
        with loop.closing(main):
            return node._die()

    def stop(self, now_ns: int) -> None:
        """Cancels the program, which may clean up, and so may its other tasks. Whatever it returns,
        it has not returned.
        """
        if self._main is None:
            return
        self._stopping = True
        if not self._main.done():
            assert self._loop is not None
            self._loop._now_ns = now_ns
            self._main.cancel("the node was stopped")

    def pause(self, now_ns: int, paused: bool) -> None:
        """Freezes the node, or lets it go on: what came due meanwhile is due then."""
        self._paused = paused
        self.processor.set_factor(now_ns, 0.0 if paused else self._factor)

    def set_speed(self, now_ns: int, factor: float) -> None:
        """The device computes at `factor` of its speed from now on."""
        self._factor = factor
        if not self._paused:
            self.processor.set_factor(now_ns, factor)

    def skew(self, now_ns: int, offset_ns: int, drift: float) -> None:
        """The node's clock is so far ahead from now on, and gains so many seconds a second."""
        self._skew = (offset_ns, drift)
        if self._loop is not None:
            self._loop.skew(now_ns, offset_ns, drift)

    def squeeze(self, now_ns: int, left_bytes: int) -> None:
        """The device grants so much memory from now on. What is held stays."""
        self.memory_bytes = left_bytes
        if self._loop is not None and self.node is not None:
            self._loop._now_ns = now_ns
            self.node._tell_memory()

    def arrive(self, frame: Frame) -> None:
        """A message or a receipt, which arrives at its `due_ns`. They are told in order of that."""
        if self.node is not None:
            self._arrivals.append(frame)

    def close(self) -> None:
        """The run is over: what still waits is closed, and its `finally` reaches nobody."""
        remains.extend(self._graves)
        self._graves.clear()
        error = self._fall()
        if error is not None:
            what = "node %s: what it wanted called in a crash failed"
            _log.error(what, self.place.name, exc_info=error)
        dispose(self._graves)

    # Running it.

    def next_ns(self) -> int | None:
        """The next instant at which anything happens here, or None."""
        if self._loop is None or self._paused:
            return None
        due = None
        if self.ended_ns is None:
            if self._looped:
                return self._loop._now_ns
            due = self._loop.next_ns()
            if self.work:
                end_ns = self.processor.next_end_ns()
                if end_ns is not None and (due is None or end_ns < due):
                    due = end_ns
        if self._arrivals:
            arrival_ns = self._arrivals[0].due_ns
            if due is None or arrival_ns < due:
                due = arrival_ns
        return due

    def is_idle(self) -> bool:
        """Whether nothing more happens here by itself, a detector's heartbeats apart."""
        if self._loop is None or self.node is None or self._paused or self.ended_ns is not None:
            return True
        return not (self.work or self._looped) and self._loop.has_only(self.node._heartbeat)

    def run(self, now_ns: int, end_ns: int, patient: bool) -> bool:
        """Lets all happen that is due before `end_ns`; what was due before `now_ns` (a pause) is
        due then. False: it stopped where work is not done yet, and it would not be `patient`.
        """
        loop, node = self._loop, self.node
        self.upcoming_ns = due = self.next_ns()
        if due is None or due >= end_ns or loop is None or node is None:
            return True
        loop.take_over()
        arrivals = self._arrivals
        passes, instant_ns = 0, -1
        try:
            while due is not None and due < end_ns:
                due = max(due, now_ns)
                if due == instant_ns:
                    passes += 1
                    if passes > _PASSES_AT_AN_INSTANT:
                        raise SpinError(self.place.name, to_seconds(due), passes)
                else:
                    passes, instant_ns = 0, due
                if self.work and not patient and not self._work_is_done(due):
                    return False
                loop._now_ns = due
                while self._looped:
                    node._deliver(self._looped.popleft())
                while arrivals and arrivals[0].due_ns <= due:
                    node._deliver(arrivals.popleft())
                if self.work:
                    self._finish_work(due)
                if self.ended_ns is None:
                    loop.run_until_quiet(due)
                    if self._main is not None and self._main.done():
                        self._end(due, self._main)
                due = self.next_ns()
        finally:
            loop.leave()
        self.upcoming_ns = due
        return True

    def _end(self, now_ns: int, main: asyncio.Task[object]) -> None:
        self.ended_ns = now_ns
        if self.node is not None:
            self.node._read_no_more()
        if self._stopping:
            error = None if main.cancelled() else main.exception()
        elif main.cancelled():
            error = asyncio.CancelledError("the program was cancelled")
        else:
            error = main.exception()
        if error is not None:
            self.failure = _account(error)
        elif not self._stopping:
            self.returned = main.result()

    @property
    def has_returned(self) -> bool:
        """Whether the program has ended by itself, and well."""
        return self.ended_ns is not None and self.failure is None and not self._stopping

    # What the node asks of it (`Surroundings`, with what is its own).

    @property
    def surroundings(self) -> Surroundings:
        """The worker it stands in."""
        return self._surroundings

    def loop_back(self, frame: Frame) -> None:
        """A message of the node to itself arrives at once."""
        self._looped.append(frame)

    def next_sequence(self) -> int:
        """The number of the next message; it goes on after a crash."""
        self._sequence += 1
        return self._sequence

    def compute(self, work: Callable[[], T], flops: float) -> asyncio.Future[T]:
        """Starts work whose price is `flops`. Raises BrokerError where there is no device."""
        if self._loop is None or self.place.device is None:
            raise BrokerError(f"node {self.place.name} has no device to compute on")
        if not 0 <= flops < math.inf:
            raise BrokerError(
                f"node {self.place.name}: flops is {flops}; it counts operations, 0 or more"
            )
        future: asyncio.Future[T] = self._loop.create_future()
        self._work_count += 1
        with self._loop.trust():
            self.work[self._work_count] = (self._lane.submit(self._loop.seeded(work)), future)
        self.processor.submit(self._loop._now_ns, self._work_count, flops)
        if self.node is not None:
            self.node.said.worked_s += flops / self.place.device.flops
        return future

    # Work.

    def _reset_work(self) -> None:
        flops = self.place.device.flops if self.place.device else 0.0
        self.processor = Processor(flops)
        self.processor.set_factor(0, 0.0 if self._paused else self._factor)
        self._lane = Lane(self._threads)
        self.work: dict[int, tuple[Future[Any], asyncio.Future[Any]]] = {}
        self._work_count = 0

    def _work_is_done(self, now_ns: int) -> bool:
        """Whether the real work is done whose priced end has come."""
        return all(self.work[number][0].done() for number in self.processor.due(now_ns))

    def _finish_work(self, now_ns: int) -> None:
        for number in self.processor.finish_due(now_ns):
            done, future = self.work.pop(number)
            wait_for(done, f"work on node {self.place.name}", self._surroundings.interrupted)
            commit(done, future)

    def describe(self) -> str:
        """What the program waits for, as its chain of awaits; on lines of their own its other
        tasks, and those that have failed without anybody having heard of it.
        """
        loop, main = self._loop, self._main
        if loop is None or main is None:
            return "down"
        if self.ended_ns is not None:
            return "stopped"
        tasks = [task for task in loop.tasks() if task is not main]
        others = Counter(where(task) for task in tasks)
        lines = [f"and {place}" if n == 1 else f"and {n} x {place}" for place, n in others.items()]
        if len(lines) > _MOST_LINES:
            lines[_MOST_LINES:] = [f"and {len(lines) - _MOST_LINES:,} more"]
        lines += [
            f"a task failed at {to_seconds(at_ns):.6f} s: {task.exception()!r}"
            for at_ns, task in loop.unheard()
        ]
        first = f"paused in {where(main)}" if self._paused else where(main)
        return "\n    ".join([first, *lines])


def commit(done: Future[Any], future: asyncio.Future[Any]) -> None:
    """Gives a program what came of its work, which is done."""
    error = done.exception()
    if future.done():
        return
    if isinstance(error, StopIteration):
        future.set_exception(RuntimeError("work raised StopIteration"))
    elif error is not None:
        future.set_exception(error)
    else:
        future.set_result(done.result())


# A coroutine can't be dropped without running its `finally`. So that no crashed program's ever runs
# within a run, nor while somebody looks at what came of it, these are kept until the next run.
remains: list[asyncio.Task[Any]] = []


@atexit.register
def dispose_of_remains() -> None:
    """Closes what runs before have left."""
    dispose(remains)


def dispose(tasks: list[asyncio.Task[Any]]) -> None:
    """Closes tasks of fenced loops, and what their `finally` raises interests nobody.

    They are closed on their own loop, where whatever they try to await never comes: a program that
    catches everything and tries again would else do so for ever.
    """
    with guarded():
        while tasks:
            task = tasks.pop()
            with cast("NodeLoop", task.get_loop()).closing(task):
                _close(task)


def _close(task: asyncio.Task[Any]) -> None:
    for coroutine in reversed(_awaited(task.get_coro())):
        for _ in range(_CLOSINGS):  # a `finally` that awaits does not let go at once
            with contextlib.suppress(
                Exception, asyncio.CancelledError, SystemExit, BaseExceptionGroup
            ):
                coroutine.close()
                break
        else:
            # It never will, and must not be collected either: that would close it once more.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(coroutine))


def _awaited(coroutine: Any) -> list[Coroutine[Any, Any, Any]]:
    """A coroutine and those that it awaits, innermost last."""
    chain: list[Coroutine[Any, Any, Any]] = []
    while isinstance(coroutine, CoroutineType):
        chain.append(coroutine)
        coroutine = coroutine.cr_await
    return chain


async def _call(program: Program, node: Node) -> object:
    """As `asyncio.run`: once the program has returned or was cancelled, so are its other tasks, and
    it has ended when they have. Where it raised, the run ends at once.
    """
    try:
        returned = await _coming(program(node), node)
    except asyncio.CancelledError:
        await _wind_up(node._loop)
        raise
    await _wind_up(node._loop)
    return returned


async def _wind_up(loop: NodeLoop) -> None:
    rest = [task for task in loop.tasks() if task is not asyncio.current_task()]
    for task in rest:
        task.cancel()
    for task, ended in zip(rest, await asyncio.gather(*rest, return_exceptions=True), strict=True):
        if isinstance(ended, Exception):
            what = {"message": f"{task!r} raised when it was cancelled", "exception": ended}
            loop.call_exception_handler(what)


def _coming(returned: Awaitable[object], node: Node) -> Awaitable[object]:
    """What a program gave, where it can be awaited. Raises TypeError where it was no program."""
    if not inspect.isawaitable(returned):
        raise TypeError(
            f"the program of node {node.name} is no `async def main(node)`: called, it gave a "
            f"{type(returned).__name__} at once"
        )
    return returned


def _account(error: BaseException) -> tuple[str, str]:
    """An exception's traceback, and what it tells a person where bad input was the cause."""
    cause = error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    problem = str(cause) if isinstance(cause, InputError) else ""
    return "".join(traceback.format_exception(error)), problem


def where(task: asyncio.Task[object]) -> str:
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
