"""Who holds up a run: a thread that looks, every second of real time, at the thread that drives.

A program that blocks (`queue.get`, an endless loop) never gives its thread back, so nobody else
can say anything about it. After `PATIENCE_S` at one instant of one node a warning names the node
and the line, once; after `DEADLINE_S` the program is interrupted with `HangError`, as soon as it
executes Python. What waits inside a library for ever can't be ended from within its process. Real
work that is waited for is no hang: it has a deadline of its own. The driver pays nothing for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import sys
import threading
import time
import traceback
from types import FrameType

from broker.clock import to_seconds, wait_for
from broker.errors import HangError
from broker.machine import Machine

PATIENCE_S = 10.0
DEADLINE_S = 900.0
_LOOK_S = 1.0

_log = logging.getLogger(__name__)


class Watchdog:
    """Watches the thread that opens it, until it is closed."""

    def __init__(self) -> None:
        self._watched = threading.get_ident()
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="broker-watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        with contextlib.suppress(HangError):  # one that came too late: it is over
            self._thread.join()
        self._thread.join()

    def _watch(self) -> None:
        seen: tuple[str, int] | None = None
        since_s, warned = 0.0, False
        while not self._enough.wait(_LOOK_S):
            frame = sys._current_frames().get(self._watched)
            now_s = time.monotonic()
            place, stack = _busy(frame)
            if place != seen or place is None:
                seen, since_s = place, now_s
                continue
            held_s = now_s - since_s
            if held_s >= PATIENCE_S and not warned:
                warned = True
                name, now_ns = place
                _log.warning(
                    "node %s does not give its thread back: for %.0f s of real time it has been at "
                    "%.6f s, here, and nobody else can run:\n%s",
                    name, held_s, to_seconds(now_ns), stack,
                )  # fmt: skip
            if held_s >= DEADLINE_S:
                self._interrupt()

    def _interrupt(self) -> None:
        """Raises `HangError` in the watched thread where it next executes Python.

        There is no taking it back: with no error, Python 3.11 looks for one at every step from then
        on, and hangs when it is traced.
        """
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(self._watched), ctypes.py_object(HangError)
        )


def _busy(frame: FrameType | None) -> tuple[tuple[str, int] | None, str]:
    """Which node runs in a thread, at which instant of the run, and where it stands."""
    places: list[tuple[FrameType, int]] = []
    while frame is not None and frame.f_code is not wait_for.__code__:
        if frame.f_code is Machine.run.__code__:
            machine, due_ns = frame.f_locals["self"], frame.f_locals.get("due")
            if due_ns is None:
                break
            stack = traceback.StackSummary.extract(reversed(places))
            return (machine.place.name, due_ns), "".join(stack.format())
        places.append((frame, frame.f_lineno))
        frame = frame.f_back
    return None, ""
