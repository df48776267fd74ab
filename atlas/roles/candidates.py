"""Who may host a span, and in which order they are asked.

First the host of the plan, then its stand-ins in the neighborhood, then hosts of other
neighborhoods, the nearest first; those that failed lately come after all others, whoever they are.
Nobody is left out: where all failed lately, it may be the client's own way that did.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Literal, NamedTuple

from atlas.roles.pace import LEAST_S, MOST_DOUBLINGS

Where = Literal["plan", "neighborhood", "elsewhere"]


class Candidate(NamedTuple):
    """A host, and where it stands to the client."""

    where: Where
    host: str


class Shunned:
    """Hosts that failed lately, shared by all of a client's spans.

    A host is shunned for as long as it has kept the client waiting, at least a second, and twice as
    long with each failure until it has computed again: as hosts that come back do, and hosts that
    come and go do not. One that had only forgotten is there, and is shunned from the second time.
    """

    def __init__(self) -> None:
        self._failures: dict[str, int] = {}
        self._until_s: dict[str, float] = {}

    def add(self, host: str, now_s: float, *, waited_s: float, forgot: bool = False) -> None:
        """It failed, after `waited_s`."""
        failures = self._failures.get(host, 0)
        self._failures[host] = min(failures + 1, MOST_DOUBLINGS)
        if not (forgot and failures == 0):
            self._until_s[host] = now_s + max(LEAST_S, waited_s) * 2.0**failures

    def forgive(self, host: str) -> None:
        """It has computed."""
        self._failures.pop(host, None)
        self._until_s.pop(host, None)

    def __call__(self, host: str, now_s: float) -> bool:
        return self._until_s.get(host, 0.0) > now_s


def in_order(
    candidates: Sequence[Candidate], shunned: Shunned, now_s: float, but: Container[str] = ()
) -> list[Candidate]:
    """The candidates as they are to be asked now, without those in `but`."""
    left = [candidate for candidate in candidates if candidate.host not in but]
    return sorted(left, key=lambda candidate: shunned(candidate.host, now_s))
