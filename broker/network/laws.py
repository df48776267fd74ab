"""The published laws of TCP, as pure functions. Windows in segments, times in seconds.

- Mathis, Semke, Mahdavi, Ott: *The macroscopic behavior of the TCP congestion avoidance algorithm*,
  CCR 27(3), 1997: `mathis`.
- Padhye, Firoiu, Towsley, Kurose: *Modeling TCP throughput*, SIGCOMM 1998: `pftk`, with timeouts.
- Ha, Rhee, Xu: *CUBIC*, OSR 42(5), 2008, and RFC 9438: `cubic`, its region that is friendly to Reno
  included.
- Appenzeller, Keslassy, McKeown: *Sizing router buffers*, SIGCOMM 2004: `utilization`.

`acked_per_ack` is 1 everywhere: Linux counts bytes that are acknowledged (RFC 3465), so delayed
acknowledgments do not slow the growth of its windows.
"""

from __future__ import annotations

import math
from typing import Literal

Congestion = Literal["cubic", "reno"]

BACK_OFF = {"cubic": 0.7, "reno": 0.5}
"""What is left of the window after a loss (RFC 9438 section 4.6, RFC 5681)."""
CUBIC_C = 0.4
"""CUBIC's scale, segments ÷ s³ (RFC 9438, section 5.1)."""
FRIENDLY = 3 * (1 - 0.7) / (1 + 0.7)
"""Segments a round trip by which CUBIC's estimate of Reno grows (RFC 9438, section 4.3)."""

_CUBIC_FACTOR = math.pow(CUBIC_C * (3 + 0.7) / (4 * (1 - 0.7)), 0.25)


def mathis(loss: float) -> float:
    """The mean window of Reno under independent `loss`: √(3 ÷ 2p)."""
    return math.sqrt(1.5 / loss) if loss > 0 else math.inf


def pftk(loss: float, rtt_s: float, rto_s: float, window: float = math.inf) -> float:
    """Reno's segments a second under `loss`, with timeouts, at most `window` under way (eq. 30)."""
    if loss <= 0:
        return window / rtt_s
    backed_off = min(1.0, 3 * math.sqrt(3 * loss / 8)) * loss * (1 + 32 * loss**2)
    return min(window / rtt_s, 1 / (rtt_s * math.sqrt(2 * loss / 3) + rto_s * backed_off))


def cubic(loss: float, rtt_s: float) -> float:
    """The mean window of CUBIC under `loss` (RFC 9438, eq. 6, and eq. 3 where Reno's is larger)."""
    if loss <= 0:
        return math.inf
    return max(_CUBIC_FACTOR * math.pow(rtt_s / loss, 0.75), mathis(loss))


def window(law: Congestion, loss: float, rtt_s: float) -> float:
    """The mean window of either law under `loss`."""
    return cubic(loss, rtt_s) if law == "cubic" else mathis(loss)


def loss_at(law: Congestion, segments: float, rtt_s: float) -> float:
    """The loss under which the law's mean window is `segments`; the inverse of `window`."""
    reno = 1.5 / segments**2
    if law == "reno":
        return reno
    return max(reno, rtt_s * math.pow(_CUBIC_FACTOR / segments, 4 / 3))


def bias(law: Congestion, loss: float, rtt_s: float) -> float:
    """How a flow counts at a bottleneck where all see the same `loss`: its segments a second.

    For Reno that is inverse in the round trip (Lakshman and Madhow, ToN 5(3), 1997, find between 1
    and 2 as the power for synchronized losses; 1 is what the response function says). For CUBIC it
    is the power 1/4, and 1 in its friendly region (RFC 9438, section 5.2).
    """
    return window(law, loss, rtt_s) / rtt_s


def standing(law: Congestion, buffer: float) -> float:
    """The mean queue before a saturated link that drops the tail, in units as `buffer` is: products
    of bandwidth and round trip.

    The window swings between 1 + buffer and β times that. Its mean is a half of the way for Reno,
    and for CUBIC, whose way back up is concave, three quarters.
    """
    mean = (1 + BACK_OFF[law]) / 2 if law == "reno" else (BACK_OFF[law] + 3) / 4
    return min(max(mean * (1 + buffer) - 1, 0.0), buffer)


def utilization(law: Congestion, buffer: float, flows: int = 1) -> float:
    """The share of a link that saturating flows use where `buffer` is its queue over the product of
    its bandwidth and their round trip, and a full queue drops the tail.

    A window swings from (1 + buffer) down to β times that. While it is below 1 the link idles: Reno
    grows in a line, CUBIC as W = Wmax - C (K - t)³. Of n flows that are not synchronized the swings
    average out as √n (Appenzeller et al. 2004).
    """
    buffer *= math.sqrt(flows)
    beta = BACK_OFF[law]
    top = 1 + buffer
    low = beta * top
    if low >= 1:
        return 1.0
    if law == "reno":
        # Time goes with the window below 1 (in round trips of the same length), and with the
        # window times itself above it (there the round trip grows with the queue).
        below, above = 1 - low, (top**2 - 1) / 2
        sent_below, sent_above = (1 - low**2) / 2, above
        return (sent_below + sent_above) / (below + above)
    # In units of K: W(t) = top - (top - low)(1 - t)³; it crosses 1 at `cross`.
    swing = top - low
    cross = 1 - math.cbrt(buffer / swing)
    area = top * cross - swing * (1 - (1 - cross) ** 4) / 4
    return area + (1 - cross)
