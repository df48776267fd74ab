"""Who writes down what became of every message on a bus in wall time, where somebody wants it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import zmq

from broker.intake import OPENING, Sent
from broker.ledger import Ledger
from broker.network import Fate
from broker.shared import Custodian, inline
from broker.wire import Frame, decode


class Books(Protocol):
    """Who writes down what became of messages."""

    def sent(self, number: int, sent: Sent) -> None: ...

    def ended(self, fate: Fate) -> None: ...


class LedgerBooks:
    """Writes every message into a ledger. `tap` is told of each that is sent."""

    def __init__(
        self,
        ledger: Ledger,
        names: Sequence[str],
        custodian: Custodian,
        tap: Callable[[str, str, Frame], None] | None = None,
    ) -> None:
        self._ledger = ledger
        self._names = names
        self._custodian = custodian
        self._tap = tap

    def sent(self, number: int, sent: Sent) -> None:
        """A message was handed to the network under this number."""
        frame = frame_of(sent)
        if sent[1].places:
            parts = [self._custodian.read(entry) for entry in sent[1].places]
            frame = inline(frame, parts)
        source, destination = self._names[sent[1].source], self._names[sent[1].destination]
        entry = self._ledger.sent(source, destination, frame)
        assert entry.number == number
        if self._tap is not None:
            self._tap(source, destination, frame)

    def ended(self, fate: Fate) -> None:
        """A copy of a message has ended."""
        self._ledger.ended(fate)


def frame_of(one: Sent) -> Frame:
    """A message as it was sent."""
    apart = [part.buffer if isinstance(part, zmq.Frame) else part for part in one[3]]
    return decode([OPENING + one[2], *apart])[0]
