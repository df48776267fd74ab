"""What a node's loop is made of: tasks, futures, handles and timers that are the same in every run.

asyncio keeps tasks and futures in sets (`wait` returns two, `TaskGroup` cancels in a set's order),
and their usual hash is an address in memory. Here it is a number that the node's loop has counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from broker.clock import NodeLoop


class Task(asyncio.Task[Any]):
    """A task with a number."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], **options: Any) -> None:
        self._number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number

    __eq__ = object.__eq__


class Future(asyncio.Future[Any]):
    """A future that gets a number when somebody asks for one, which few do."""

    __eq__ = object.__eq__

    def __hash__(self) -> int:
        return numbered(self)


def numbered(future: asyncio.Future[Any]) -> int:
    """The number of a future on a node's loop; anywhere else its usual hash."""
    number: int | None = getattr(future, "_number", None)
    if number is None:
        count = getattr(future.get_loop(), "next_number", None)
        number = object.__hash__(future) if count is None else count()
        future._number = number  # type: ignore[attr-defined]
    return number


def is_unheard(task: asyncio.Task[Any]) -> bool:
    """Whether a task has failed, and nobody has asked how it ended."""
    return bool(task._log_traceback)


class Handle(asyncio.Handle):
    """A callback that is ready. asyncio's own asks the loop about debugging each time."""

    __slots__ = ()

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: NodeLoop,
        context: Context | None,
    ) -> None:
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = self._source_traceback = None

    def cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            self._callback = self._args = None  # type: ignore[assignment]


class Timer(Handle, asyncio.TimerHandle):
    """A callback at a time. A cancelled one leaves the heap when it comes to its top."""

    __slots__ = ()

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: NodeLoop,
        context: Context | None,
    ) -> None:
        # As `Handle` does, without the call: each sleep makes one, and it is 4 % of a message.
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = self._source_traceback = None
        self._when = when
        self._scheduled = True


# The collector of garbage comes when enough has been made, by whatever thread.

_collector: int | None = None


def collecting() -> bool:
    """Whether it is the collector that runs in this thread; only within `watched_collector`."""
    return _collector == threading.get_ident()


@contextlib.contextmanager
def watched_collector() -> Iterator[None]:
    """While this is open `collecting` knows."""
    gc.callbacks.append(_note)
    try:
        yield
    finally:
        gc.callbacks.remove(_note)


def _note(phase: str, _: dict[str, int]) -> None:
    global _collector  # noqa: PLW0603 - there is one collector
    _collector = threading.get_ident() if phase == "start" else None
