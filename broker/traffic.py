"""What a node has said and not yet handed over, and how much is under way between it and its peers.

Its machine hands over what was `Said` whenever it has run; `Traffic` is the node's end of flow
control, and says who has to wait before more can be sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.clock import NodeLoop
from broker.wire import PUBLISH, UNCOUNTED, Frame


@dataclass(slots=True)
class Said:
    """What a node has said since it was last asked, with the instants, in nanoseconds, and for how
    many seconds of its device it has asked.
    """

    frames: list[Frame] = field(default_factory=list)
    notes: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)
    facts: list[tuple[int, str, list[str]]] = field(default_factory=list)
    topics: list[tuple[int, str, bool]] = field(default_factory=list)
    worked_s: float = 0.0

    def clear(self) -> None:
        """Nothing was said."""
        for things in (self.frames, self.notes, self.facts, self.topics):
            things.clear()


class Traffic:
    """How much is under way between a node and each peer, and who has to wait therefore.

    A receiver reports what it has taken up each time a quarter of the buffer has come together; a
    sender waits while a whole buffer and more is neither taken up nor lost. So neither the network
    nor a slow reader holds more than that of any sender, plus one message. Those who wait stand in
    line: nobody sends before them, and each sends one message in its turn.

    `full` are the peers to whom nothing can be sent at once.
    """

    def __init__(self, loop: NodeLoop, buffer_bytes: int) -> None:
        self._loop = loop
        self._buffer_bytes = buffer_bytes
        self._under_way: dict[int, int] = {}
        self._taken: dict[tuple[int, bool], int] = {}
        self._lines: dict[int, deque[asyncio.Future[None]]] = {}
        self.full: dict[int, None] = {}
        self.receipts: list[tuple[int, int, int, bool]] = []

    def sent(self, peer: int, size_bytes: int) -> None:
        """So many bytes more are on their way to `peer`."""
        total = self._under_way[peer] = self._under_way.get(peer, 0) + size_bytes
        if total >= self._buffer_bytes:
            self.full[peer] = None

    async def room(self, peer: int) -> None:
        """Waits in line until something can be sent to `peer`; `next_turn` is to be called then."""
        line = self._lines.setdefault(peer, deque())
        turn: asyncio.Future[None] = self._loop.create_future()
        line.append(turn)
        try:
            await turn
        except BaseException:
            line.remove(turn)
            self.next_turn(peer)
            raise
        line.popleft()

    def next_turn(self, peer: int) -> None:
        """Lets the first in line for `peer` send, if there is room."""
        if self._under_way.get(peer, 0) >= self._buffer_bytes:
            return
        line = self._lines.get(peer)
        if not line:
            self.full.pop(peer, None)
        elif not line[0].done():
            line[0].set_result(None)

    def receipt(self, peer: int, size_bytes: int | None) -> None:
        """`peer` has taken up so many bytes, or they are lost; None is all there were."""
        left = 0 if size_bytes is None else max(self._under_way.get(peer, 0) - size_bytes, 0)
        self._under_way[peer] = left
        self.next_turn(peer)

    def restart(self, under_way: Mapping[int, int]) -> None:
        """The bus was away: so much is under way to these peers, all else is lost."""
        waiting = list(self._under_way)
        self._under_way = dict(under_way)
        self._taken.clear()
        for peer in waiting:
            self.next_turn(peer)

    def take_up(self, frame: Frame) -> None:
        """The program has this message now."""
        published = bool(frame.flags & PUBLISH)
        if frame.flags & UNCOUNTED and not published:
            return
        key = (frame.source, published)
        taken = self._taken.get(key, 0) + frame.size_bytes
        if taken * 4 >= self._buffer_bytes:
            self.receipts.append((self._loop._now_ns, frame.source, taken, published))
            taken = 0
        self._taken[key] = taken
