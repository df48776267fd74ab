"""A sender's congestion window, in segments, as Linux keeps it, a round trip at a time.

Slow start doubles it (every byte acknowledged counts). Past the threshold Reno adds one segment a
round trip (RFC 5681), CUBIC follows W(t) = C (t - K)³ + Wmax and is at least what Reno would be
(RFC 9438). A loss leaves β of it, a timeout one segment (RFC 6298), and each timeout's worth of
idle time halves it, down to the initial window (RFC 2861; RFC 5681 takes it there at once).
"""

from __future__ import annotations

import math

from broker.network.laws import BACK_OFF, CUBIC_C, FRIENDLY, Congestion

_LEAST_GROWTH = 1.05  # Linux, bictcp_update: while no loss is known CUBIC gains at least a 20th
_MOST_GROWTH = 1.5  # RFC 9438, section 4.4


class Window:
    """The window of one flow. `size` is what may be under way, in segments."""

    __slots__ = ("_beta", "_epoch_ns", "_initial", "_k_s", "_law", "_origin", "_peak", "_reno",
                 "size", "threshold", "trains")  # fmt: skip

    def __init__(self, law: Congestion, initial: int) -> None:
        self._law, self._initial, self._beta = law, float(initial), BACK_OFF[law]
        self.trains = law == "cubic"  # HyStart is a part of Linux's CUBIC
        self.reset()

    def reset(self) -> None:
        """A connection that has just been made."""
        self.size = self._initial
        self.threshold = math.inf
        self._peak = 0.0
        self._epoch_ns: int | None = None
        self._origin = self._k_s = self._reno = 0.0

    @property
    def at_first(self) -> bool:
        """Whether it is as a new connection's."""
        return self.size == self._initial and self._epoch_ns is None

    def grow(self, now_ns: int, rtt_ns: int, used: float) -> None:
        """A round trip is over in which nothing was lost and `used` segments were acknowledged.

        A window that was not needed does not grow (RFC 7661, as Linux has it).
        """
        if 2 * used <= self.size:
            return
        if self.size < self.threshold:
            self.size = min(self.size + used, self.threshold)
        elif self._law == "reno":
            self.size += 1
        else:
            self._grow_as_cubic(now_ns, rtt_ns)

    def _grow_as_cubic(self, now_ns: int, rtt_ns: int) -> None:
        if self._epoch_ns is None:
            self._epoch_ns = now_ns
            self._reno = self.size
            self._origin = max(self._peak, self.size)
            self._k_s = ((self._origin - self.size) / CUBIC_C) ** (1 / 3)
        t = (now_ns - self._epoch_ns + rtt_ns) / 1e9 - self._k_s
        target = self._origin + CUBIC_C * t**3
        if not self._peak:
            target = max(target, self.size * _LEAST_GROWTH)
        self._reno += FRIENDLY
        self.size = max(self.size, min(target, self.size * _MOST_GROWTH), self._reno)

    def acknowledge(self, segments: float) -> None:
        """So many were acknowledged within a round trip whose end brings a loss to light."""
        if self.size < self.threshold:
            self.size = min(self.size + segments, self.threshold)

    def leave_slow_start(self) -> None:
        """The pipe is full: what HyStart (RFC 9406) finds from the round trips or their trains."""
        self.threshold = min(self.threshold, self.size)

    def back_off(self) -> None:
        """A loss was found and is repaired: multiplicative decrease, CUBIC's fast convergence."""
        low = self.size < self._peak
        self._peak = self.size * (1 + self._beta) / 2 if low else self.size
        self.threshold = self.size = max(self.size * self._beta, 2.0)
        self._epoch_ns = None

    def time_out(self) -> None:
        """The retransmission timer fired: one segment, and slow start to what was in order."""
        self.back_off()
        self.size = 1.0

    def idle(self, idle_ns: int, rto_ns: int) -> None:
        """Nothing was sent for so long."""
        if self._epoch_ns is not None:
            self._epoch_ns += idle_ns
        if idle_ns > rto_ns and self.size > self._initial:
            self.threshold = max(self.threshold, 0.75 * self.size)
            halvings = min((idle_ns - 1) // rto_ns, 64)
            self.size = max(self.size / 2**halvings, self._initial)
