"""A node's own event loop, on virtual time.

Each node of a run has one `NodeLoop`. A loop never sleeps and never looks at the machine's clock:
its driver tells it what time it is and lets it run until nothing is ready at that instant. Because
the loops share nothing but messages, the order in which a driver steps them can't be seen by any
program.

Time is whole nanoseconds inside and float seconds at asyncio's own face (`loop.time()`). A loop's
clock can drift: its seconds are then longer or shorter than the run's, and so are its timeouts.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import heapq
import itertools
import logging
import math
import random
import sys
import threading
import zlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextvars import Context
from typing import Any, NoReturn, TypeVar

from broker.errors import BrokerError, RealWorldError, SpinError, WorkerError
from broker.tasks import Future, Handle, Task, Timer, collecting, is_unheard
from broker.work import seeded

T = TypeVar("T")

NANOSECONDS = 1_000_000_000
_SPIN_LIMIT = 1_000_000
_FAR_S = 1e9
_MANY_FAILED = 64
_WORK_DEADLINE_S = 600.0
_LOOK_S = 0.2

_log = logging.getLogger(__name__)


def to_ns(seconds: float) -> int:
    """Seconds as whole nanoseconds, rounded to the nearest."""
    return round(seconds * NANOSECONDS)


def to_seconds(nanoseconds: int) -> float:
    """Whole nanoseconds as seconds."""
    return nanoseconds / NANOSECONDS


@contextlib.contextmanager
def driving() -> Iterator[None]:
    """While this is open loops of nodes run in this thread; what ran here before goes on after."""
    outer, hooks = asyncio._get_running_loop(), sys.get_asyncgen_hooks()
    try:
        yield
    finally:
        sys.set_asyncgen_hooks(*hooks)
        asyncio._set_running_loop(outer)


def wait_for(
    work: concurrent.futures.Future[Any], what: str, interrupted: Callable[[], bool]
) -> None:
    """Waits until real work is done, however it ends. Raises WorkerError when that takes too long,
    or when it is `interrupted`.
    """
    for _ in range(math.ceil(_WORK_DEADLINE_S / _LOOK_S)):
        if work.done() or concurrent.futures.wait((work,), _LOOK_S).done:
            return
        if interrupted():
            raise WorkerError(f"{what} was not waited for: the run was stopped")
    raise WorkerError(f"{what} took more than {_WORK_DEADLINE_S:.0f} s")


class NodeLoop(asyncio.AbstractEventLoop):
    """An asyncio event loop that is stepped from outside, at instants that it is told.

    Programs use asyncio as ever: `sleep`, `timeout`, `gather`, `TaskGroup`, `Event`, `Queue`,
    `to_thread`. Work given to a thread holds virtual time until it is done (`wait_outside`). What
    would reach past the emulator, a real socket or a subprocess, raises `RealWorldError`.

    When the node dies its loop is `fence`d: nothing it holds runs any more, and what the garbage
    collector finalizes later finds a loop that takes nothing on.
    """

    def __init__(self, name: str, seed: str = "", interrupted: Callable[[], bool] = bool) -> None:
        self.name = name
        self.interrupted = interrupted
        self._seed = seed
        self.random = random.Random(f"{seed}:global:{name}")
        self.trusted = False
        self._now_ns = 0
        self._drift = 0.0
        self._offset_ns = 0
        self._ahead_ns = 0
        self._monotonic_ahead_ns = 0
        self._skewed_since_ns = 0
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[int, int, asyncio.TimerHandle]] = []
        self._order = itertools.count()
        self._numbers = itertools.count(zlib.crc32(name.encode()) << 24)
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._failed: list[tuple[int, asyncio.Task[Any]]] = []
        self._orphans: list[AsyncGenerator[Any, Any]] = []
        self._running = False
        self._thread = 0
        self._fenced = False
        self._outside: deque[tuple[concurrent.futures.Future[Any], asyncio.Future[Any]]] = deque()
        self._threads: concurrent.futures.ThreadPoolExecutor | None = None

    # What the scheduler calls.

    def take_over(self) -> None:
        """It is this loop that runs in this thread now."""
        self._thread = threading.get_ident()
        asyncio._set_running_loop(self)
        sys.set_asyncgen_hooks(None, self._close_generator)

    def leave(self) -> None:
        """It runs in no thread now, and what calls it may be another node's program."""
        self._thread = 0

    def run_until_quiet(self, now_ns: int) -> None:
        """Runs all that is ready at `now_ns`, due timers included, until nothing is left.

        Within `driving` and after `take_over` only. Raises `SpinError` where a program keeps itself
        busy without letting time pass.
        """
        self._now_ns = now_ns
        self._running = True
        ready, timers = self._ready, self._timers
        ran = 0
        try:
            while True:
                while timers and timers[0][0] <= now_ns:
                    ready.append(heapq.heappop(timers)[2])
                if not ready:
                    if not self._outside:
                        return
                    self._wait_outside()
                    continue
                handle = ready.popleft()
                if not handle._cancelled:
                    try:
                        handle._context.run(handle._callback, *handle._args)  # type: ignore[attr-defined]
                    except (SystemExit, KeyboardInterrupt):
                        raise
                    except BaseException as error:
                        self._tell(handle, error)
                ran += 1
                if ran > _SPIN_LIMIT:
                    raise SpinError(self.name, to_seconds(now_ns), ran)
        finally:
            self._running = False

    def next_ns(self) -> int | None:
        """The instant at which this loop next has something to do, or None."""
        if self._ready:
            return self._now_ns
        while self._timers and self._timers[0][2]._cancelled:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def has_only(self, handle: asyncio.Handle | None) -> bool:
        """Whether this loop has nothing else to do than `handle`, now or later."""
        return not self._ready and all(
            timer is handle or timer._cancelled for _, _, timer in self._timers
        )

    def skew(self, now_ns: int, offset_ns: int, drift: float) -> None:
        """From now on this node's clock is `offset_ns` ahead and gains `drift` seconds a second.

        With (0, 0.0) it is right again. `loop.time()` is the monotonic clock, as asyncio wants it:
        it feels the drift, and never an offset, nor the correction afterwards.
        """
        passed_ns = round(self._drift * (now_ns - self._skewed_since_ns))
        self._monotonic_ahead_ns += passed_ns
        self._ahead_ns = self._ahead_ns + passed_ns if offset_ns or drift else 0
        self._offset_ns, self._drift, self._skewed_since_ns = offset_ns, drift, now_ns
        self._now_ns = now_ns
        self._timers = [
            (self._due_ns(timer.when()), order, timer) for _, order, timer in self._timers
        ]
        heapq.heapify(self._timers)

    def ahead_ns(self) -> int:
        """How far the node's clock is ahead of the run's time now; negative when it is behind."""
        if self._drift:
            drifted_ns = round(self._drift * (self._now_ns - self._skewed_since_ns))
            return self._offset_ns + self._ahead_ns + drifted_ns
        return self._offset_ns + self._ahead_ns

    def clock_ns(self) -> int:
        """Nanoseconds since the run began, by the node's own clock."""
        return self._now_ns + self.ahead_ns()

    def monotonic_ns(self) -> int:
        """What `loop.time()` shows, in nanoseconds."""
        if self._drift:
            drifted_ns = round(self._drift * (self._now_ns - self._skewed_since_ns))
            return self._now_ns + self._monotonic_ahead_ns + drifted_ns
        return self._now_ns + self._monotonic_ahead_ns

    def _due_ns(self, when: float) -> int:
        """The first instant of the run at which the monotonic clock shows `when`, or now."""
        due_ns = to_ns(when) - self._monotonic_ahead_ns
        if self._drift:
            since_ns = self._skewed_since_ns
            due_ns = since_ns + math.ceil((due_ns - since_ns) / (1.0 + self._drift))
        return max(due_ns, self._now_ns)

    def tasks(self) -> list[asyncio.Task[Any]]:
        """Its tasks that have not ended, in the order in which they were made; `asyncio.all_tasks`
        would look at those of all nodes.
        """
        return [task for task in self._tasks if not task.done()]

    def unheard(self) -> list[tuple[int, asyncio.Task[Any]]]:
        """Its tasks that have failed without anybody having asked how they ended, and when."""
        self._failed = [(at_ns, task) for at_ns, task in self._failed if is_unheard(task)]
        return list(self._failed)

    def fence(self) -> None:
        """The node died: drop all that would run, and take nothing more. So nothing is to come."""
        self._fenced = True
        self._ready.clear()
        self._timers.clear()
        self._outside.clear()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _close_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        """An asynchronous generator was left half-way: its `finally` runs as a task, as ever.

        Not so where it is only the collector that found it, for that comes when it pleases.
        """
        if collecting():
            self._orphans.append(generator)
        else:
            self.create_task(generator.aclose())

    def _wait_outside(self) -> None:
        """Waits for the oldest work in a thread: time stands still meanwhile, order is as
        submitted.
        """
        work, future = self._outside.popleft()
        wait_for(work, f"a thread of node {self.name}", self.interrupted)
        try:
            result = work.result()
        except BaseException as error:
            if not isinstance(error, Exception | concurrent.futures.CancelledError):
                raise
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(result)

    # What asyncio and programs call.

    def time(self) -> float:
        return self.monotonic_ns() / NANOSECONDS

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = Handle(callback, args, self, context)
        if not self._fenced:
            if not self._thread:
                self._refuse_neighbors()
            self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        if self._drift or not delay < _FAR_S:
            return self.call_at(self.time() + delay, callback, *args, context=context)
        due_ns = self._now_ns
        if delay > 0:
            due_ns += round(delay * NANOSECONDS)
        when = (due_ns + self._monotonic_ahead_ns) / NANOSECONDS
        handle = Timer(when, callback, args, self, context)
        if not self._fenced:
            heapq.heappush(self._timers, (due_ns, next(self._order), handle))
        return handle

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = Timer(when, callback, args, self, context)
        if not self._fenced and when != math.inf:
            heapq.heappush(self._timers, (self._due_ns(when), next(self._order), handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        task = Task(self.next_number(), coro, loop=self, **options)
        if self._fenced:
            coro.close()
        else:
            self._tasks[task] = None
            task.add_done_callback(self._ended)
        return task

    def next_number(self) -> int:
        """A number for a task or a future, which nothing else on this loop has."""
        return next(self._numbers)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if is_unheard(task):
            if len(self._failed) > _MANY_FAILED:
                self.unheard()
            self._failed.append((self._now_ns, task))

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        if self._fenced:
            return self.create_future()
        if executor is None:
            if self._threads is None:
                self._threads = concurrent.futures.ThreadPoolExecutor(max_workers=1)
            executor = self._threads
        future = self.create_future()
        work: Callable[[], Any] = functools.partial(func, *args)
        if isinstance(executor, concurrent.futures.ThreadPoolExecutor):
            work = self.seeded(work)
        with self.trust():
            self._outside.append((executor.submit(work), future))
        return future

    def seeded(self, work: Callable[[], T]) -> Callable[[], T]:
        """`work` as a thread is to do it: what it draws is the same in every run."""
        return seeded(work, f"{self._seed}:work:{self.name}:{self.next_number()}")

    def _refuse_neighbors(self) -> None:
        """What another node's program would wake here nobody might run, in another process least.
        Raises BrokerError; the emulator itself may.
        """
        loop = asyncio._get_running_loop()
        if isinstance(loop, NodeLoop) and loop._running:
            raise self.stranger()

    def stranger(self) -> BrokerError:
        """The error where other code acts as this node's program."""
        loop = asyncio._get_running_loop()
        other = isinstance(loop, NodeLoop) and loop is not self
        who = f"the program of node {loop.name}" if other else "code outside its program"  # type: ignore[union-attr]
        return BrokerError(
            f"{who} acts on node {self.name} through memory (an object of a module, or what a "
            "computation was given): nodes share nothing but messages, computations nothing but "
            "what they return"
        )

    @contextlib.contextmanager
    def trust(self) -> Iterator[None]:
        """While this is open it is the emulator that acts, as when it starts a thread for work."""
        outer, self.trusted = self.trusted, True
        try:
            yield
        finally:
            self.trusted = outer

    @contextlib.contextmanager
    def closing(self, task: asyncio.Task[Any]) -> Iterator[None]:
        """While this is open, a dead task's code can run as on this loop: nothing that it awaits
        comes, and it meets no real world.
        """
        outer, hooks = asyncio._get_running_loop(), sys.get_asyncgen_hooks()
        self.take_over()
        asyncio.tasks._enter_task(self, task)
        self._running = True
        try:
            yield
        finally:
            self._running = False
            self.leave()
            asyncio.tasks._leave_task(self, task)
            sys.set_asyncgen_hooks(*hooks)
            asyncio._set_running_loop(outer)

    def _tell(self, handle: asyncio.Handle, error: BaseException) -> None:
        """A callback raised; the loop goes on, as asyncio's does."""
        message = f"Exception in callback {getattr(handle, '_callback', None)!r}"
        self.call_exception_handler({"message": message, "exception": error, "handle": handle})

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self._fenced:
            return
        error = context.get("exception")
        _log.error(
            "node %s at %.6f s: %s", self.name, self.time(), context["message"], exc_info=error
        )

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        """Debug mode reads the machine's clock; it stays off."""

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return self._fenced

    def close(self) -> None:
        self.fence()

    async def shutdown_asyncgens(self) -> None:
        """Nothing to do: a loop ends with its node."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Nothing to do: work in threads is waited for at every instant."""


def _refuse(method: str) -> Callable[..., NoReturn]:
    remedy = "use what the node gives: send, receive, compute"
    if method.endswith(("_exception_handler", "_task_factory")):
        remedy = "a node's loop is the emulator's own; catch errors where you await"

    def refuse(self: NodeLoop, *_: object, **__: object) -> NoReturn:
        raise RealWorldError(self.name, method, remedy)

    refuse.__name__ = method
    refuse.__doc__ = f"Refused: `{method}` would leave the emulator."
    return refuse


for _method in vars(asyncio.AbstractEventLoop):
    if not _method.startswith("_") and _method not in vars(NodeLoop):
        setattr(NodeLoop, _method, _refuse(_method))
