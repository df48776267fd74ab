"""An asyncio event loop whose timers are exact.

asyncio waits with epoll, whose time-out is in whole milliseconds, rounded up: what is due in 5.2 ms
comes after 6. `select` on the epoll's own descriptor has microseconds (see `broker.realtime`), and
then epoll is asked what there is without waiting. Just before a time the loop does not sleep at
all, for waking up takes longer than what is left.
"""

from __future__ import annotations

import asyncio
import select
import selectors
import sys

from broker.realtime import EXACT_S, sharpen

_MOST_DESCRIPTORS = 1_000


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A loop for the thread that calls, which Linux wakes within microseconds from now on."""
    sharpen()
    if sys.platform != "linux":
        return asyncio.new_event_loop()
    return asyncio.SelectorEventLoop(_ExactSelector())


class _ExactSelector(selectors.EpollSelector):
    """epoll, that waits as long as it is told."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0 and self.fileno() < _MOST_DESCRIPTORS:
            if timeout > EXACT_S:
                select.select((self.fileno(),), (), (), timeout - EXACT_S)
            timeout = 0
        return super().select(timeout)
