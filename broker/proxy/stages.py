"""The toxics of one connection, one way: each a stage that keeps what it delays.

A stage hands on to the next. Where a toxic is changed what waits in its stage is timed anew from
when it came; where it is taken away all of that goes on at once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterable

from broker.proxy.items import Ending, Item
from broker.proxy.toxics import Law, Timed, Timeout, Toxic

Give = Callable[[Item], None]
Lose = Callable[[int], None]


class Stage:
    """One toxic at work on one connection, one way.

    `give` is called with what goes on, `lose` with how many bytes do not.
    """

    def __init__(self, toxic: Toxic, chance: random.Random, give: Give, lose: Lose) -> None:
        self.toxic = toxic
        self.give, self._lose = give, lose
        self._chance = chance
        self._fate = chance.random()
        self._loop = asyncio.get_running_loop()
        # Not before when, when it came, and what it is.
        self._waiting: deque[tuple[int, int, Item]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._law = self._new_law()
        now_ns = time.monotonic_ns()
        self._queue(now_ns, self._law.begin(now_ns))

    @property
    def acts(self) -> bool:
        """Whether it acts on this connection."""
        return self._fate < self.toxic.toxicity

    def take(self, item: Item) -> None:
        """Something has come."""
        now_ns = time.monotonic_ns()
        if item is Ending.RESET:
            self.drop()
            self.give(item)
            return
        timed = list(self._law.take(now_ns, item))
        if self._law.restarts:
            self.drop()
        if swallowed := _size(item) - sum(_size(part) for _, part in timed):
            self._lose(swallowed)
        self._queue(now_ns, timed)

    def change(self, toxic: Toxic) -> None:
        """It is set to something else."""
        self.toxic = toxic
        waiting = self._clear()
        before, self._law = self._law, self._new_law()
        self._law.follow(before)
        now_ns = time.monotonic_ns()
        self._queue(now_ns, self._law.begin(now_ns))
        if not self._law.restarts:
            for _, came_ns, item in waiting:
                self._queue(came_ns, self._law.take(came_ns, item))

    def leave(self) -> None:
        """It is taken away."""
        if isinstance(self.toxic.attributes, Timeout) and self.acts:
            self.drop()
            self.give(Ending.CLOSE)
            return
        for _, _, item in self._clear():
            self.give(item)

    def drop(self) -> None:
        """What waits is lost."""
        if lost := sum(_size(item) for _, _, item in self._clear()):
            self._lose(lost)

    def _clear(self) -> list[tuple[int, int, Item]]:
        """Takes out what waits."""
        waiting = list(self._waiting)
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return waiting

    def _new_law(self) -> Law:
        return self.toxic.attributes.law(self._chance) if self.acts else Law()

    def _queue(self, came_ns: int, timed: Iterable[Timed]) -> None:
        self._waiting.extend((due_ns, came_ns, item) for due_ns, item in timed)
        self._hand_on()

    def _hand_on(self) -> None:
        waiting = self._waiting
        while waiting and waiting[0][0] <= time.monotonic_ns():
            self.give(waiting.popleft()[2])
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if waiting:
            self._timer = self._loop.call_at(waiting[0][0] / 1e9, self._hand_on)


def _size(item: Item) -> int:
    return 0 if isinstance(item, Ending) else len(item)
