"""The machine's clock: nanoseconds, and waits that end within microseconds of their time.

epoll's own timeout is rounded up to whole milliseconds; `select` on the epoll's descriptor has
microseconds, and Linux's timer slack (50 µs) can be asked to be 1 µs.

Memory is a matter of time, too: glibc gives that of each large message back to the kernel when it
is free, and the next one finds it gone, page by page, which takes as long as copying it. It can be
asked to keep what it has.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import sys

_PR_SET_TIMERSLACK = 29
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEEP_BYTES = (
    (_M_MMAP_THRESHOLD, 32 * 2**20),  # the most there is
    (_M_TRIM_THRESHOLD, 2**30),
    (_M_TOP_PAD, 64 * 2**20),  # what a thread's heap has: none is given back
)
_MANY_DESCRIPTORS = 1_000
EXACT_S = 100e-6
"""How long before a time it pays to stop sleeping: what a machine takes to wake up."""


def sharpen() -> None:
    """Asks Linux to wake this thread within a microsecond of when it wants to be woken, and glibc
    to keep the memory that this process has had.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.prctl(_PR_SET_TIMERSLACK, 1_000, 0, 0, 0)
        for option, size in _KEEP_BYTES:
            library.mallopt(option, size)


class Waiter:
    """Waits for any of some descriptors to become readable, or for a time to come.

    `wake` may be called from other threads and from signal handlers. A waiter that is `early_s` too
    early lets its caller look at the clock until the time has come, which is more exact than any
    sleep and costs the processor that long.
    """

    def __init__(self, early_s: float = 0.0) -> None:
        self._early_s = early_s
        self._rung = False
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._bell, select.EPOLLIN)  # the default would be EPOLLOUT, too

    def watch(self, descriptor: int) -> None:
        """Waits for this one, too."""
        self._epoll.register(descriptor, select.EPOLLIN)

    def wait(self, seconds: float) -> None:
        """Waits until something can be read, somebody wakes us, or so many seconds have passed."""
        seconds -= self._early_s
        if seconds > 0:
            number = self._epoll.fileno()
            if number < _MANY_DESCRIPTORS:
                select.select((number,), (), (), seconds)
            else:
                self._epoll.poll(seconds)
        if self._rung:
            self._rung = False
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._bell)

    def wake(self) -> None:
        """Ends the wait."""
        os.eventfd_write(self._bell, 1)
        self._rung = True  # after it, so that no ring is ever left unheard

    def close(self) -> None:
        """Gives its descriptors back."""
        self._epoll.close()
        os.close(self._bell)
