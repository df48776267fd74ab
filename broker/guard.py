"""What a program finds in virtual time where it reaches past asyncio.

The machine's clock, the global generator of random numbers, threads and sockets would each make a
run depend on more than its seed. While programs run in virtual time, their clocks and generators
are the node's own, virtual and seeded; a real sleep, thread, socket or process is refused with an
error that names the node and says what to do instead. Only code that runs on a node's loop is
concerned, and in the work that it gives to threads the generators: the rest of the world finds
everything as it was.

Out of reach: names that a module had bound before (`from time import time`), `datetime.now`, the
clock as work sees it, the order of a set of texts (it is `PYTHONHASHSEED`'s), what the collector of
garbage finalizes, and what compiled libraries do by themselves.
"""

from __future__ import annotations

import _thread
import asyncio
import builtins
import concurrent.futures
import contextlib
import multiprocessing.process
import os
import random
import select
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

from broker import work
from broker.clock import NodeLoop
from broker.errors import RealWorldError
from broker.tasks import numbered, watched_collector

EPOCH_NS = 1_767_225_600 * 10**9
"""What `time.time` says when a run begins: 2026-01-01, 00:00 UTC."""

_CLOCKS = ("time", "monotonic", "perf_counter")
_OTHER_CLOCKS = (
    "process_time", "process_time_ns", "thread_time", "thread_time_ns", "clock_gettime",
    "clock_gettime_ns",
)  # fmt: skip
_POOLS = (concurrent.futures.ThreadPoolExecutor, concurrent.futures.ProcessPoolExecutor)
_NUMPYS_FUNCTIONS = ("seed", "ranf", "sample", "set_bit_generator")
_lock = threading.Lock()
_guards = 0
_saved: list[tuple[object, str, object]] = []


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """While this is open, programs on nodes meet their own clock and generators."""
    global _guards  # noqa: PLW0603 - the modules that are patched are global, too
    with _lock:
        _guards += 1
        if _guards == 1:
            _patch()
    try:
        with watched_collector():
            yield
    finally:
        with _lock:
            _guards -= 1
            if _guards == 0:
                while _saved:
                    setattr(*_saved.pop())


def _here() -> NodeLoop | None:
    loop = asyncio._get_running_loop()
    if isinstance(loop, NodeLoop) and loop.is_running() and not loop.trusted:
        return loop
    return None


def _generator() -> random.Random | None:
    """Where to draw from, if it is a node that draws, or its work in a thread."""
    loop = _here()
    return work.generator() if loop is None else loop.random


def _patch() -> None:
    _replace_clocks()
    _replace_generators()
    _refuse_the_real_world()
    _replace(builtins, "__import__", _as_ever(builtins.__import__))
    _replace(asyncio, "as_completed", _in_their_order(asyncio.as_completed))
    _replace(asyncio.tasks._GatheringFuture, "__hash__", numbered)  # type: ignore[attr-defined]


def _replace_clocks() -> None:
    for name in _CLOCKS:
        ahead_ns = EPOCH_NS if name == "time" else 0
        _replace(time, name, _seconds(getattr(time, name), ahead_ns))
        _replace(time, f"{name}_ns", _nanoseconds(getattr(time, f"{name}_ns"), ahead_ns))
    for name in ("gmtime", "localtime", "ctime"):
        _replace(time, name, _calendar(getattr(time, name)))
    for name in ("asctime", "strftime"):
        _replace(time, name, _date_in_words(getattr(time, name)))
    _refuse_all(time, _OTHER_CLOCKS, "use node.now, or asyncio's loop.time()")


def _replace_generators() -> None:
    shared = random._inst
    for name in dir(random):
        if getattr(getattr(random, name), "__self__", None) is shared:
            _replace(random, name, _own_random(name, getattr(random, name)))
    _replace(random.Random, "seed", _own_seed(random.Random.seed))
    own_bytes = _own_bytes(os.urandom)
    _replace(os, "urandom", own_bytes)
    _replace(random, "_urandom", own_bytes)
    if hasattr(os, "getrandom"):
        _replace(os, "getrandom", _own_bytes(os.getrandom))
    _replace(uuid, "uuid1", _own_uuid1(uuid.uuid1))
    if numpy := sys.modules.get("numpy"):
        shared = numpy.random.mtrand._rand
        its_own = [
            name
            for name in dir(numpy.random)
            if name in _NUMPYS_FUNCTIONS
            or getattr(getattr(numpy.random, name), "__self__", None) is shared
        ]
        remedy = "seed one: numpy.random.default_rng(node.random.getrandbits(64))"
        _refuse_all(numpy.random, its_own, remedy)


def _refuse_the_real_world() -> None:
    work = "use node.compute or asyncio.to_thread"
    _refuse_all(time, ("sleep",), "await asyncio.sleep")
    _refuse_all(select, ("select",), "await what you wait for")
    _refuse_all(os, ("system", "fork", "posix_spawn"), work)
    _refuse_all(_thread, ("start_new_thread",), work)
    _refuse(threading.Thread, "start", "threading.Thread.start", work)
    _refuse(subprocess.Popen, "__init__", "subprocess.Popen", work)
    _refuse(multiprocessing.process.BaseProcess, "start", "multiprocessing.Process.start", work)
    for pool in _POOLS:
        _refuse(pool, "submit", f"{pool.__name__}.submit", work)
    _refuse(socket.socket, "__init__", "socket.socket", "use node.send and node.receive")


def _replace(owner: object, name: str, value: object) -> None:
    _saved.append((owner, name, getattr(owner, name)))
    setattr(owner, name, value)


def _refuse(owner: object, name: str, what: str, remedy: str) -> None:
    original = getattr(owner, name)

    def refuse(*args: Any, **options: Any) -> Any:
        if (loop := _here()) is not None:
            raise RealWorldError(loop.name, what, remedy)
        return original(*args, **options)

    _replace(owner, name, refuse)


def _refuse_all(module: ModuleType, names: Iterable[str], remedy: str) -> None:
    for name in names:
        if hasattr(module, name):
            _refuse(module, name, f"{module.__name__}.{name}", remedy)


def _seconds(original: Callable[[], float], ahead_ns: int) -> Callable[[], float]:
    def seconds() -> float:
        loop = _here()
        return original() if loop is None else _clock_ns(loop, ahead_ns) / 1e9

    return seconds


def _nanoseconds(original: Callable[[], int], ahead_ns: int) -> Callable[[], int]:
    def nanoseconds() -> int:
        loop = _here()
        return original() if loop is None else _clock_ns(loop, ahead_ns)

    return nanoseconds


def _calendar(original: Callable[[float | None], Any]) -> Callable[..., Any]:
    def date(seconds: float | None = None) -> Any:
        if seconds is None and (loop := _here()) is not None:
            seconds = _clock_ns(loop, EPOCH_NS) / 1e9
        return original(seconds)

    return date


def _date_in_words(original: Callable[..., str]) -> Callable[..., str]:
    """Without a time these ask for one where nobody can see it."""

    def words(*args: Any) -> str:
        whole = 1 if original.__name__ == "asctime" else 2
        if len(args) < whole and _here() is not None:
            args = (*args, time.localtime())
        return original(*args)

    return words


def _in_their_order(original: Callable[..., Any]) -> Callable[..., Any]:
    """asyncio makes tasks of a set of coroutines; this makes them before, in the order given."""

    def as_completed(fs: Any, *, timeout: float | None = None) -> Any:
        if _here() is not None and not (asyncio.isfuture(fs) or asyncio.iscoroutine(fs)):
            fs = [asyncio.ensure_future(future) for future in dict.fromkeys(fs)]
        return original(fs, timeout=timeout)

    return as_completed


def _clock_ns(loop: NodeLoop, ahead_ns: int) -> int:
    """`time.time` is the node's clock, which can be wrong; the others are monotonic."""
    return loop.clock_ns() + ahead_ns if ahead_ns else loop.monotonic_ns()


def _own_random(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def draw(*args: Any, **options: Any) -> Any:
        own = _generator()
        return original(*args, **options) if own is None else getattr(own, name)(*args, **options)

    return draw


def _own_bytes(original: Callable[..., bytes]) -> Callable[..., bytes]:
    def draw(size: int, *flags: int) -> bytes:
        own = _generator()
        return original(size, *flags) if own is None else own.randbytes(size)

    return draw


def _own_seed(original: Callable[..., None]) -> Callable[..., None]:
    """A generator that is made without a seed takes one from the node, not from the machine."""

    def seed(generator: random.Random, a: Any = None, version: int = 2) -> None:
        if a is None and (own := _generator()) is not None:
            a = own.getrandbits(64)
        original(generator, a, version)

    return seed


def _as_ever(load: Callable[..., Any]) -> Callable[..., Any]:
    """A module that is loaded while a program runs is loaded as ever: it is loaded once, and what
    it draws then would be missing the next time.
    """

    def load_as_ever(name: str, *args: Any, **options: Any) -> Any:
        loop = _here()
        if loop is None:
            return load(name, *args, **options)
        with loop.trust():
            return load(name, *args, **options)

    return load_as_ever


def _own_uuid1(original: Callable[..., uuid.UUID]) -> Callable[..., uuid.UUID]:
    def uuid1(node: int | None = None, clock_seq: int | None = None) -> uuid.UUID:
        loop = _here()
        if loop is None:
            return original(node, clock_seq)
        since_1582 = (loop.clock_ns() + EPOCH_NS) // 100 + 0x01B2_1DD2_1381_4000
        sequence = loop.random.getrandbits(14) if clock_seq is None else clock_seq
        fields = (
            since_1582 & 0xFFFF_FFFF,
            (since_1582 >> 32) & 0xFFFF,
            (since_1582 >> 48) & 0x0FFF,
            (sequence >> 8) & 0x3F,
            sequence & 0xFF,
            loop.random.getrandbits(48) | 1 << 40 if node is None else node,
        )
        return uuid.UUID(fields=fields, version=1)

    return uuid1
