"""An event loop in virtual time, for tests.

`asyncio.Runner`, pytest-asyncio and anyio take it for any other loop. Its clock stands still while
anything is ready, and then jumps to the next timer: `asyncio.sleep(3600)` takes no time. What
leaves virtual time (a socket, a subprocess, a thread of one's own) raises `RealWorldError`; work
given to `asyncio.to_thread` is done while the clock stands still.

With a `driver` it is one of many loops of a world (see `broker.testing.world`), all at one time.
"""

from __future__ import annotations

import asyncio
import heapq
import sys
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from broker.clock import NANOSECONDS, NodeLoop, driving, to_seconds
from broker.errors import THE_TEST, DeadlockError, RealWorldError, SpinError
from broker.guard import guarded
from broker.machine import where

T = TypeVar("T")
_SPIN_LIMIT = 1_000_000


class Driver(Protocol):
    """Who moves time."""

    def step(self) -> None:
        """Lets all happen that happens at the next instant, the test's own loop included."""


class VirtualLoop(NodeLoop):
    """A loop that is its own driver, or that of the test in a world.

    Args:
        seed: of what `random`, `uuid` and the like draw within it.
        wall: keeps pace with the machine's clock instead of jumping.
    """

    def __init__(self, seed: str = "0", *, wall: bool = False) -> None:
        super().__init__(THE_TEST, seed)
        self.driver: Driver = self
        self.stopping = False
        self._wall = wall
        self._began_s = time.monotonic()
        self._handler: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None = None
        self._factory: Callable[..., asyncio.Task[Any]] | None = None
        self._generators: list[weakref.ref[AsyncGenerator[Any, Any]]] = []
        self._no_more_generators = False
        self._home = threading.get_ident()
        self._debug = False
        self._default_executor = None  # not asyncio's promise, but many look at it

    # Driving.

    def run_forever(self) -> None:
        self._check()
        self.stopping = False
        with guarded(), driving():
            try:
                while not self.stopping:
                    self.driver.step()
            finally:
                self.stopping = False
                self.leave()

    def run_until_complete(self, future: Any) -> Any:
        try:
            self._check()
        except RuntimeError:
            if asyncio.iscoroutine(future):
                future.close()
            raise
        made = not asyncio.isfuture(future)
        awaited = asyncio.ensure_future(future, loop=self)

        def stop(_: asyncio.Future[Any]) -> None:
            self.stop()

        awaited.add_done_callback(stop)
        try:
            self.run_forever()
        except BaseException:
            if made and awaited.done() and not awaited.cancelled():
                awaited.exception()  # nobody else will ask
            raise
        finally:
            awaited.remove_done_callback(stop)
        if not awaited.done():
            raise RuntimeError("Event loop stopped before Future completed.")
        return awaited.result()

    def step(self) -> None:
        """The next instant, where nobody but this loop has a part in it."""
        due_ns = self.next_ns()
        if due_ns is None:
            waits = {self.name: "nothing is to come, and no other loop could wake it"}
            raise DeadlockError(to_seconds(self._now_ns), waits)
        self.keep_pace(due_ns)
        self.take_over()
        try:
            self.run_until_quiet(max(due_ns, self._now_ns))
        finally:
            self.leave()

    def keep_pace(self, due_ns: int) -> None:
        """In wall time, waits until the machine's clock is there."""
        if self._wall:
            ahead_s = to_seconds(due_ns) - (time.monotonic() - self._began_s)
            if ahead_s > 0:
                time.sleep(ahead_s)

    def run_until_quiet(self, now_ns: int) -> None:
        """As a node's loop, but that `stop` ends it after the callbacks that were ready then."""
        self._now_ns = now_ns
        self._running = True
        ready, timers, ran = self._ready, self._timers, 0
        try:
            while not self.stopping:
                while timers and timers[0][0] <= now_ns:
                    ready.append(heapq.heappop(timers)[2])
                if not ready:
                    if not self._outside:
                        return
                    self._wait_outside()
                    continue
                for _ in range(len(ready)):
                    self._run(ready.popleft())
                    ran += 1
                if ran > _SPIN_LIMIT:
                    raise SpinError(self.name, to_seconds(now_ns), ran)
        finally:
            self._running = False

    def _run(self, handle: asyncio.Handle) -> None:
        if handle._cancelled:
            return
        try:
            handle._context.run(handle._callback, *handle._args)  # type: ignore[attr-defined]
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._tell(handle, error)

    def stop(self) -> None:
        """Ends `run_forever` once what is ready now has run."""
        self.stopping = True

    def close(self) -> None:
        if self._running:
            raise RuntimeError("Cannot close a running event loop")
        self.fence()

    def _check(self) -> None:
        if self._fenced:
            raise RuntimeError("Event loop is closed")
        if self._running or self._thread:
            raise RuntimeError("This event loop is already running")
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("Cannot run the event loop while another loop is running")

    # What a node's loop refuses, or has no need of.

    def _refuse_neighbors(self) -> None:
        """A program may wake the test: it is outside of the network, and sees all."""

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        """From its own thread only: when another's call comes is chance."""
        if threading.get_ident() != self._home:
            remedy = "a thread's call comes when it pleases; await asyncio.to_thread instead"
            raise RealWorldError(self.name, "call_soon_threadsafe", remedy)
        return self.call_soon(callback, *args, context=context)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        if self._fenced:
            coro.close()
            raise RuntimeError("Event loop is closed")
        if self._factory is None:
            return super().create_task(coro, **options)
        task = self._factory(self, coro, **options)
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def set_task_factory(self, factory: Any) -> None:
        self._factory = factory

    def get_task_factory(self) -> Any:
        return self._factory

    def set_exception_handler(self, handler: Any) -> None:
        if handler is not None and not callable(handler):
            raise TypeError(f"A callable object or None is expected, got {handler!r}")
        self._handler = handler

    def get_exception_handler(self) -> Any:
        return self._handler

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self._handler is None:
            self.default_exception_handler(context)
        else:
            self._handler(self, context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        NodeLoop.call_exception_handler(self, context)

    def get_debug(self) -> bool:
        return self._debug

    def set_debug(self, enabled: bool) -> None:
        """Only remembered: debug mode reads the machine's clock."""
        self._debug = enabled

    def set_default_executor(self, executor: Any) -> None:
        """Not needed: a loop in virtual time has a thread of its own, so that order is kept."""

    # Asynchronous generators, which asyncio closes when a loop ends.

    def take_over(self) -> None:
        super().take_over()
        self._home = self._thread
        sys.set_asyncgen_hooks(self._meet, self._close_generator)

    def _meet(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._generators.append(weakref.ref(generator))

    async def shutdown_asyncgens(self) -> None:
        self._no_more_generators = True
        met, self._generators = self._generators, []
        left = [generator for one in met if (generator := one()) is not None]
        for ended in await asyncio.gather(
            *(generator.aclose() for generator in left), return_exceptions=True
        ):
            if isinstance(ended, Exception):
                what = "an error occurred during closing of an asynchronous generator"
                self.call_exception_handler({"message": what, "exception": ended})

    def now_is(self, now_ns: int) -> None:
        """Its clock shows the world's time, before anybody asks."""
        self._now_ns = now_ns

    @property
    def now_s(self) -> float:
        """Seconds since the loop began."""
        return self._now_ns / NANOSECONDS

    def describe(self) -> str:
        """What the tasks of the test wait for, each as its chain of awaits."""
        return "\n    and ".join(where(task) for task in self.tasks()) or "nothing of it is left"
