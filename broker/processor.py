"""What a device's time costs: one computation at a time, in the order given.

`Processor` is pure: it is told the time, the price of each computation in floating-point
operations, and when the device gets slower or faster; it says when the next computation ends.
Prices are known beforehand, so the end of a computation is known while the work itself is still
being done.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from broker.clock import NANOSECONDS, to_seconds


@dataclass(slots=True)
class _Job:
    number: int
    remaining_flops: float


class Processor:
    """A queue of computations on a device of `flops` operations per second."""

    def __init__(self, flops: float) -> None:
        self._flops = flops
        self._factor = 1.0
        self._jobs: deque[_Job] = deque()
        self._since_ns = 0

    def submit(self, now_ns: int, number: int, flops: float) -> None:
        """Queues computation `number`, which takes `flops` operations."""
        if not self._jobs:
            self._since_ns = now_ns
        self._jobs.append(_Job(number, flops))

    def set_factor(self, now_ns: int, factor: float) -> None:
        """From now on the device runs at `factor` of its speed (0.25: four times slower; 0.0: it
        stands still).
        """
        if self._jobs:
            done = to_seconds(now_ns - self._since_ns) * self._flops * self._factor
            self._jobs[0].remaining_flops = max(self._jobs[0].remaining_flops - done, 0.0)
        self._since_ns = now_ns
        self._factor = factor

    def next_end_ns(self) -> int | None:
        """The instant at which the computation under way ends, or None when the device is idle."""
        if not self._jobs or not self._factor:
            return None
        seconds = self._jobs[0].remaining_flops / (self._flops * self._factor)
        return self._since_ns + math.ceil(seconds * NANOSECONDS)

    def due(self, now_ns: int) -> Iterator[int]:
        """The numbers of the computations that have ended by `now_ns`, in order; they stay."""
        end_ns = self._since_ns
        for job in self._jobs if self._factor else ():
            end_ns += math.ceil(job.remaining_flops / (self._flops * self._factor) * NANOSECONDS)
            if end_ns > now_ns:
                break
            yield job.number

    def finish_due(self, now_ns: int) -> list[int]:
        """The numbers of the computations that have ended by `now_ns`, in order."""
        ended: list[int] = []
        while (end_ns := self.next_end_ns()) is not None and end_ns <= now_ns:
            ended.append(self._jobs.popleft().number)
            self._since_ns = end_ns
        return ended
