"""Who has called whom where NATs stand between them.

A NAT lets nobody in who was not called, or only by way of its gateway. Who called first decides,
for as long as both live and the NAT holds: whom a node behind it has called reaches it directly.
What it sends itself always goes directly.
"""

from __future__ import annotations

from collections.abc import Iterable

from faults import Conditions

_Pair = tuple[str, str]


class Calls:
    """The calls over NATs: pairs of a node behind one and its peer outside."""

    def __init__(self) -> None:
        # Whether the one inside was who called; and the pairs that each node is of.
        self._from_inside: dict[_Pair, bool] = {}
        self._of: dict[str, dict[_Pair, None]] = {}

    def call(self, source: str, destination: str, conditions: Conditions) -> bool:
        """One node sends to another, and a way is there; says whether that opens the way back."""
        out, back = (source, destination), (destination, source)
        if conditions.relays(*back) != () and out not in self._from_inside:
            self._note(out, from_inside=True)
            return True
        if conditions.relays(*out) and back not in self._from_inside:
            self._note(back, from_inside=False)
        return False

    def relays(self, source: str, destination: str, conditions: Conditions) -> _Relays:
        """The gateways by way of which source reaches destination; None where it can't."""
        relays = conditions.relays(source, destination)
        return () if relays != () and self._from_inside.get((destination, source)) else relays

    def hang_up(self, nodes: Iterable[str]) -> None:
        """The connections of these nodes are no more."""
        for name in nodes:
            for pair in self._of.pop(name, ()):
                del self._from_inside[pair]
                peer = pair[0] if pair[1] == name else pair[1]
                del self._of[peer][pair]

    def _note(self, pair: _Pair, *, from_inside: bool) -> None:
        self._from_inside[pair] = from_inside
        for name in pair:
            self._of.setdefault(name, {})[pair] = None


_Relays = tuple[str, ...] | None
