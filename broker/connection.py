"""One process's connection to a bus, as the bus sees it, and what waits to go out to it."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import zmq
import zmq.backend

from broker.wire import MAGIC, Frame, encode

if TYPE_CHECKING:
    from broker.intake import Part, Pattern

FRAMES, BYTES = 1_024, 2**20
"""A packet with so many is sent at once."""

_HEAD = struct.Struct("!2sH")
_MORE, _NOBLOCK = int(zmq.SNDMORE), int(zmq.NOBLOCK)


class Connection:
    """A DEALER that was admitted.

    `word` stands in the first frame of each of its packets (in `due_ns`): a routing id alone could
    be taken over by somebody else once its holder is gone. `shares` says whether it sees the bus's
    shared memory, `gone` that nobody is there any more.

    The next packet is put together in `out` (`count` frames, and the parts that go `apart` from
    it); what the process does not take is its `backlog`.
    """

    __slots__ = (
        "apart", "backlog", "backlog_bytes", "count", "gone", "identity", "like", "nodes", "number",
        "out", "shares", "word",
    )  # fmt: skip

    def __init__(self, number: int, identity: bytes, nodes: frozenset[int], word: bytes) -> None:
        self.number = number
        self.identity = identity
        self.nodes = nodes
        self.word = word
        self.like: Pattern | None = None
        self.out = bytearray()
        self.count = 0
        self.apart: list[Part] = []
        self.backlog: deque[tuple[Part, ...]] = deque()
        self.backlog_bytes = 0
        self.gone = False
        self.shares = False

    @property
    def is_full(self) -> bool:
        """Whether the next packet should go out before anything else is put into it."""
        return self.count >= FRAMES or len(self.out) >= BYTES or bool(self.apart)

    def add(self, frame: Frame) -> None:
        """Puts a frame into the next packet."""
        self.out += encode([frame])[0][_HEAD.size :]
        self.count += 1

    def post(self, socket: zmq.Socket[bytes]) -> None:
        """Sends the packet, or lets it wait behind what waits already."""
        if not self.count:
            return
        parts = (self.identity, _HEAD.pack(MAGIC, self.count) + self.out, *self.apart)
        self.out, self.count, self.apart = bytearray(), 0, []
        if self.backlog or not self._try(socket, parts):
            self.backlog.append(parts)
            self.backlog_bytes += sum(map(len, parts))

    def push(self, socket: zmq.Socket[bytes]) -> None:
        """Sends what waits, as far as the process takes it; to nobody goes all of it."""
        while self.backlog and self._try(socket, self.backlog[0]):
            self.backlog_bytes -= sum(map(len, self.backlog.popleft()))

    def _try(self, socket: zmq.Socket[bytes], parts: tuple[Part, ...]) -> bool:
        """Whether it was sent; what goes to somebody who is gone counts as sent.

        Only the packet itself is copied: it is gone by then, and libzmq hands the other parts on as
        it has received them.
        """
        send: Callable[..., object] = zmq.backend.Socket.send  # its stubs don't know our frames
        last = len(parts) - 1
        try:
            for place, part in enumerate(parts):
                flags = _NOBLOCK | _MORE if place < last else _NOBLOCK
                send(socket, part, flags, copy=place < 2)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self.gone = True
        return True
