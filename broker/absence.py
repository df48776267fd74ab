"""What a port keeps for the time when its bus is not there, so that its nodes can go on.

Reports and messages wait, datagrams and what is published are lost, as on a network without a way.
When the bus is back it is told which programs live, what they subscribe to and have declared; and
the nodes are told that what was under way is lost, so that nobody waits for room that never comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from broker.wire import DATAGRAM, NOBODY, PUBLISH, UNCOUNTED, Frame, Kind, pack


class Absence:
    """The time without a bus, for one port.

    Attributes:
        begun: whether it is now; `announced`: the bus has said that it will be back.
        lives: the incarnation of each program that runs, by its node's number.
    """

    def __init__(self) -> None:
        self.begun = self.announced = False
        self.lives: dict[int, int] = {}
        self._topics: dict[tuple[int, str], None] = {}
        self._facts: dict[tuple[int, str], list[str]] = {}
        self._held: list[Frame] = []

    def begin(self, *, announced: bool = False) -> None:
        """The bus is gone."""
        self.begun, self.announced = True, announced or self.announced

    def end(self) -> list[Frame]:
        """It is back; gives what has been waiting for it, in order."""
        self.begun = self.announced = False
        held, self._held = self._held, []
        return held

    def hold(self, frames: Sequence[Frame]) -> None:
        """Keeps what can wait."""
        self._held += [frame for frame in frames if not frame.flags & (DATAGRAM | PUBLISH)]

    # What would have to be said again.

    def ordered(self, body: dict[str, Any]) -> None:
        """Follows what becomes of programs."""
        for action, number, *values in body["actions"]:
            if action in ("boot", "crash", "stop"):
                self.lives.pop(number, None)
                for topic in [topic for topic in self._topics if topic[0] == number]:
                    del self._topics[topic]
            if action == "boot":
                self.lives[number] = values[0]

    def said(self, body: dict[str, Any]) -> None:
        """Follows what programs have said that lasts."""
        for _, number, topic, wanted in body.get("topics", ()):
            self._topics.pop((number, topic), None)
            if wanted:
                self._topics[number, topic] = None
        for _, number, fact, nodes in body.get("facts", ()):
            self._facts[number, fact] = list(nodes)

    def again(self, now_ns: int) -> dict[str, Any]:
        """All of that as a report."""
        return {
            "topics": [[now_ns, number, topic, True] for number, topic in self._topics],
            "facts": [[now_ns, *key, nodes] for key, nodes in self._facts.items()],
        }


def under_way(numbers: Sequence[int], sent: Sequence[Frame], now_ns: int) -> list[Frame]:
    """Receipts that tell nodes what is still under way to others: what of theirs was `sent` again,
    as ``{number of the peer: bytes}``; all else is lost.
    """
    left: dict[int, dict[str, int]] = {number: {} for number in numbers}
    for frame in sent:
        if frame.kind == Kind.SEND and frame.source in left and not frame.flags & UNCOUNTED:
            peers, peer = left[frame.source], str(frame.destination)
            peers[peer] = peers.get(peer, 0) + frame.size_bytes
    return [
        Frame(Kind.RECEIPT, NOBODY, number, body=pack(peers), due_ns=now_ns)
        for number, peers in left.items()
    ]
