"""One process's connection to a bus, as the bus sees it, and what waits to go out to it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.intake import Part, Pattern


class Connection:
    """A DEALER that was admitted.

    `word` stands in the first frame of each of its packets (in `due_ns`): a routing id alone could
    be taken over by somebody else once its holder is gone. `shares` says whether it sees the bus's
    shared memory.
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
