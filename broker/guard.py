"""What a program finds in virtual time where it reaches past asyncio.

The machine's clock, the global generator of random numbers, threads and sockets would each make a
run depend on more than its seed. While programs run in virtual time, their clocks and generators
are the node's own, virtual and seeded; a real sleep, thread, socket or process is refused with an
error that names the node and says what to do instead. Only code that runs on a node's loop is
concerned: other threads, and what `node.compute` does in them, find everything as it was.

Out of reach: names that a module had bound before (`from time import time`), `datetime.now`,
`time.strftime` without a time, and what compiled libraries do by themselves.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import os
import random
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from broker.clock import NodeLoop
from broker.errors import RealWorldError

EPOCH_NS = 1_767_225_600 * 10**9
"""What `time.time` says when a run begins: 2026-01-01, 00:00 UTC."""

_CLOCKS = ("time", "monotonic", "perf_counter")
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


def _patch() -> None:
    for name in _CLOCKS:
        ahead_ns = EPOCH_NS if name == "time" else 0
        _replace(time, name, _seconds(getattr(time, name), ahead_ns))
        _replace(time, f"{name}_ns", _nanoseconds(getattr(time, f"{name}_ns"), ahead_ns))
    for name in ("gmtime", "localtime", "ctime"):
        _replace(time, name, _calendar(getattr(time, name)))
    _refuse(time, "sleep", "time.sleep", "await asyncio.sleep")
    shared = random._inst
    for name in dir(random):
        if getattr(getattr(random, name), "__self__", None) is shared:
            _replace(random, name, _own_random(name, getattr(random, name)))
    _replace(random.Random, "seed", _own_seed(random.Random.seed))
    own_bytes = _own_random("randbytes", os.urandom)
    _replace(os, "urandom", own_bytes)
    _replace(random, "_urandom", own_bytes)
    _replace(uuid, "uuid1", _own_uuid1(uuid.uuid1))
    _refuse(threading.Thread, "start", "threading.Thread.start", "use node.compute")
    _refuse(socket.socket, "__init__", "socket.socket", "use node.send and node.receive")
    _refuse(subprocess.Popen, "__init__", "subprocess.Popen", "use node.compute")
    _replace(builtins, "__import__", _as_ever(builtins.__import__))
    if numpy := sys.modules.get("numpy"):
        shared = numpy.random.mtrand._rand
        for name in dir(numpy.random):
            its_own = getattr(getattr(numpy.random, name), "__self__", None) is shared
            if its_own or name in _NUMPYS_FUNCTIONS:
                remedy = "seed one: numpy.random.default_rng(node.random.getrandbits(64))"
                _refuse(numpy.random, name, f"numpy.random.{name}", remedy)


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


def _clock_ns(loop: NodeLoop, ahead_ns: int) -> int:
    """`time.time` is the node's clock, which can be wrong; the others are monotonic."""
    return loop.clock_ns() + ahead_ns if ahead_ns else loop.monotonic_ns()


def _own_random(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def draw(*args: Any, **options: Any) -> Any:
        loop = _here()
        if loop is None:
            return original(*args, **options)
        return getattr(loop.random, name)(*args, **options)

    return draw


def _own_seed(original: Callable[..., None]) -> Callable[..., None]:
    """A generator that is made without a seed takes one from the node, not from the machine."""

    def seed(generator: random.Random, a: Any = None, version: int = 2) -> None:
        if a is None and (loop := _here()) is not None:
            a = loop.random.getrandbits(64)
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
