"""A host's memory: layers that its sessions share, sessions, and who gives way to whom.

All of it is reserved out of the device's grant before anything is loaded, so a host takes on no
client that it has no memory for. What is short of memory gets it by one rule:

1. layers that nobody uses go first;
2. then sessions that were not used for `IDLE_S`, the longest first;
3. a newcomer gets no more than that. Where the device itself grants less than is held (`squeeze`),
   sessions in use are given up, one after another, until the rest fits: the one with the fewest
   steps committed in its round first, since it costs the least to repeat elsewhere; of several, by
   the client's name, then by the layers. Layers go with the last session on them.

One that computes at the moment ends that computation and answers; its memory counts as given back
from then on. Its client hears at its next request that there is no such session, and another host
replays it: that costs time and no bit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from atlas.models import Range, Stage
from atlas.pairing import SpanCost
from atlas.roles.patience import monotonic_s
from broker import DeviceMemoryError, Node, Reservation

Key = tuple[str, int, int]
"""A session: the client, and its layers."""
IDLE_S = 900.0
"""A session unused for so long makes room."""


class Tenant(Protocol):
    """A session as far as its memory goes."""

    memory: Reservation
    used_s: float
    version: int

    @property
    def busy(self) -> bool:
        """Whether it is at work now."""


@dataclass
class Base:
    """The frozen layers of one span, shared by all sessions on it, on their way from the disk.

    `users` counts the sessions on it, those that are being opened among them.
    """

    stage: asyncio.Task[Stage]
    memory: Reservation
    users: int = 0


class HostMemory:
    """Holds a host's layers and decides who gives way.

    Args:
        node: whose memory it is.
        tenants: the host's sessions; they are only read.
        give_up: ends a session, which then is no tenant any more, and calls `release`, at once or,
            after `expect`, when its computation is over. It is told why.
        now_s: the clock of `used_s`.
    """

    def __init__(
        self,
        node: Node,
        tenants: Mapping[Key, Tenant],
        give_up: Callable[[Key, str], None],
        now_s: Callable[[], float] = monotonic_s,
    ) -> None:
        self._node = node
        self._tenants = tenants
        self._give_up = give_up
        self._now_s = now_s
        self._bases: dict[Range, Base] = {}
        self._expected: dict[Reservation, Range] = {}
        node.on_memory(self.fit)

    def require_room(self, key: Key, cost: SpanCost) -> None:
        """Raises DeviceMemoryError unless the session would fit when all have given way to it."""
        span = span_of(key)
        needed = cost.session_bytes + (0 if span in self._bases else cost.base_bytes)
        leaving = [other for other in self._tenants if other == key or other in self._stale()]
        held = [(span_of(other), self._tenants[other].memory.size_bytes) for other in leaving]
        granted = self._node.memory_bytes
        free = granted - self._node.reserved_bytes + self._freed([*held, *self._ending()], span)
        if needed > free:
            purpose = f"a session of {key[0]} on {_layers(span)}"
            raise DeviceMemoryError(self._node.name, purpose, needed, max(free, 0), granted)

    def reserve(self, size_bytes: int, purpose: str) -> Reservation:
        """Memory for a newcomer. Raises DeviceMemoryError if too few give way to it."""
        while True:
            try:
                return self._node.reserve(size_bytes, purpose)
            except DeviceMemoryError:
                if not self._drop_unused() and not self._give_up_stale():
                    raise

    def take_base(
        self, span: Range, size_bytes: int, load: Callable[[], Coroutine[Any, Any, Stage]]
    ) -> Base:
        """The span's frozen layers, on their way from the disk unless they are here, for one more
        session. Raises DeviceMemoryError.
        """
        base = self._bases.get(span)
        if base is None:
            memory = self.reserve(size_bytes, _layers(span))
            loading = asyncio.get_running_loop().create_task(load())
            base = self._bases[span] = Base(loading, memory)
        base.users += 1
        return base

    def expect(self, span: Range, memory: Reservation) -> None:
        """A session that was given up will release this as soon as its computation is over."""
        self._expected[memory] = span

    def release(self, span: Range, memory: Reservation) -> None:
        """A session on these layers is gone, or did not come to be."""
        self._expected.pop(memory, None)
        memory.release()
        self._bases[span].users -= 1
        self.fit()

    def fit(self) -> None:
        """Makes what is held fit into what the device grants now, by the rule."""
        while self._over() and self._drop_unused():
            pass
        while self._over() > self._freed(self._ending()) and self._tenants:
            if not self._give_up_stale():
                self._give_up(min(self._tenants, key=self._cost_to_repeat), "squeezed")
        while self._over() and self._drop_unused():
            pass

    def let_go(self) -> None:
        """Forgets all of it, as a crash does."""
        self._bases.clear()
        self._expected.clear()

    def _over(self) -> int:
        """By how many bytes more is held than granted."""
        return max(self._node.reserved_bytes - self._node.memory_bytes, 0)

    def _ending(self) -> list[tuple[Range, int]]:
        return [(span, memory.size_bytes) for memory, span in self._expected.items()]

    def _freed(self, leaving: Collection[tuple[Range, int]], keep: Range | None = None) -> int:
        """What is free once these sessions are gone, and the layers that nobody uses then."""
        freed = sum(size_bytes for _, size_bytes in leaving)
        for span, base in self._bases.items():
            staying = base.users - sum(on == span for on, _ in leaving)
            freed += base.memory.size_bytes if staying == 0 and span != keep else 0
        return freed

    def _drop_unused(self) -> bool:
        """Drops the oldest of the layers that nobody uses; says whether there were any."""
        unused = [span for span, base in self._bases.items() if base.users == 0]
        if unused:
            self._bases.pop(unused[0]).memory.release()
        return bool(unused)

    def _give_up_stale(self) -> bool:
        """Gives up the session unused for longest; says whether there was a stale one."""
        stale = self._stale()
        if stale:
            self._give_up(stale[0], "unused")
        return bool(stale)

    def _stale(self) -> list[Key]:
        """Sessions that were not used for long, the longest first."""
        unused = [
            (tenant.used_s, key)
            for key, tenant in self._tenants.items()
            if self._now_s() - tenant.used_s > IDLE_S and not tenant.busy
        ]
        return [key for _, key in sorted(unused)]

    def _cost_to_repeat(self, key: Key) -> tuple[int, Key]:
        return self._tenants[key].version, key


def span_of(key: Key) -> Range:
    """The layers of a session."""
    return Range(*key[1:])


def _layers(span: Range) -> str:
    return f"layers {span.first}-{span.last - 1}"
