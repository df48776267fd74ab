"""What a bus in wall time tells whoever runs it: as it goes (`Observer`), and what became of
everything (`Account`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from faults import Event


@dataclass(frozen=True, slots=True)
class Account:
    """What became of everything, when the bus has closed or is asked."""

    sent: int
    sent_bytes: int
    duplicated: int
    delivered: int
    delivered_bytes: int
    dropped: dict[str, int]
    in_flight: int
    malformed: dict[str, int]
    late: int
    lag_s: float
    blocked: int
    waiting_bytes: int
    connections: int
    turned_away: int


class Observer:
    """What a bus tells whoever runs it. All methods may be left as they are."""

    def fault(self, event: Event) -> None:
        """A fault has been applied."""

    def note(self, at_ns: int, node: str, event: str, fields: dict[str, Any]) -> None:
        """A program noted something."""

    def ended(self, at_ns: int, node: str, returned: bool) -> None:
        """A program has returned, or was stopped."""

    def failed(self, at_ns: int, node: str, text: str, problem: str) -> None:
        """A program has failed, with this traceback."""

    def restarted(self, node: str) -> None:
        """A node crashed, or starts again: its program has not ended."""

    def came(self, at_ns: int, nodes: Sequence[str]) -> None:
        """A process has joined with these nodes."""

    def went(self, at_ns: int, nodes: Sequence[str]) -> None:
        """The process with these nodes is gone."""


def lateness(account: Account) -> str:
    """How far a bus could not keep up, in words."""
    share = account.late / max(account.delivered, 1)
    return (
        f"the bus can't keep up: {account.late:,} messages ({share:.2%}) went out after their "
        f"time, by up to {account.lag_s * 1e3:.1f} ms"
    )
