"""A failure detector: who has been silent for longer than is like them?

The phi-accrual detector of Hayashibara et al. (2004), "The φ accrual failure detector", SRDS. It
learns how far apart a peer's signs of life have come, and turns the silence since the last one into
a number, φ = -log10 of the chance that a peer which is well would be silent for so long. It can be
wrong both ways: a slow peer is suspected, and a dead one not at once. Pure: it is told the time.
"""

from __future__ import annotations

import math
from collections import deque

INTERVAL_S = 1.0
"""How often a watched peer is asked for a sign of life."""
THRESHOLD = 8.0
"""φ above which a peer is suspected: one mistake in 10^8 where the model holds."""
_REMEMBERED = 100
_LEAST_SPREAD_S = 0.1
_PAUSE_S = 3.0


class Detector:
    """The silence of one peer, who is asked every `interval_s` from `now_s` on.

    Until enough signs have come it takes it that they come an interval apart. A pause of 3 s is
    always forgiven, as Akka's and Cassandra's detectors do.
    """

    def __init__(self, now_s: float, interval_s: float = INTERVAL_S) -> None:
        self._last_s = now_s
        self._gaps: deque[float] = deque([0.75 * interval_s, 1.25 * interval_s], maxlen=_REMEMBERED)

    def alive(self, now_s: float) -> None:
        """A sign of life has come."""
        self._gaps.append(now_s - self._last_s)
        self._last_s = now_s

    def phi(self, now_s: float) -> float:
        """How strange the silence is by now."""
        mean = math.fsum(self._gaps) / len(self._gaps)
        variance = math.fsum((gap - mean) ** 2 for gap in self._gaps) / len(self._gaps)
        spread = max(math.sqrt(variance), _LEAST_SPREAD_S)
        beyond = (now_s - self._last_s - mean - _PAUSE_S) / spread
        chance = 0.5 * math.erfc(beyond / math.sqrt(2))
        return -math.log10(chance) if chance > 0 else math.inf

    def suspects(self, now_s: float) -> bool:
        """Whether the peer is taken for dead."""
        return self.phi(now_s) > THRESHOLD
