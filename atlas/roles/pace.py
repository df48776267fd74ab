"""How long a client waits for a host: deadlines from round trips that were measured.

The estimator is TCP's (RFC 6298): a smoothed mean and a smoothed deviation, for each host and kind
of request, of how many times as long as planned an answer took. What is planned scales with the
work (operations, bytes, the way as it is now), so that one measurement serves for requests of any
size. Before there is a measurement the plan counts as the first one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

LEAST_S = 1.0
"""No deadline is shorter: RFC 6298, 2.4. Below it, whatever else a device does decides."""
MOST_DOUBLINGS = 6
"""RFC 6298, 5.5, lets the back-off end: at 64 times, as TCP's 60 s are to its least."""
PULSES = 4
"""A request is looked after so often in the time that it should take: a death costs a quarter."""
_GAIN, _DEVIATION_GAIN, _DEVIATIONS = 1 / 8, 1 / 4, 4.0

Plan = Callable[[str, str, int], float]
"""(host, kind, bytes sent) → the seconds that an answer should take, by what was known before."""


@dataclass
class _Estimate:
    """RFC 6298's SRTT and RTTVAR, of answers in multiples of the plan."""

    mean: float
    deviation: float

    @classmethod
    def first(cls, ratio: float) -> _Estimate:
        return cls(ratio, ratio / 2)

    def add(self, ratio: float) -> None:
        self.deviation += _DEVIATION_GAIN * (abs(self.mean - ratio) - self.deviation)
        self.mean += _GAIN * (ratio - self.mean)

    @property
    def late(self) -> float:
        """The multiple of the plan that few answers need."""
        return self.mean + _DEVIATIONS * self.deviation


class Pace:
    """Deadlines by host and kind of request.

    As a retransmission timer does, they double with each one missed until an answer comes that says
    something of the time a step takes: the client's own way may have become slow, so this counts
    over all hosts. An answer to `alive?` that is quicker than planned says nothing: the next one
    may stand behind a tensor. To be asked for room is only a few bytes, and no measure.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._estimates: dict[tuple[str, str], _Estimate] = {}
        self._missed = 0

    def expected_s(self, host: str, kind: str, sent_bytes: int = 0) -> float:
        """How long an answer should take."""
        return self._estimate(host, kind).mean * self._plan(host, kind, sent_bytes)

    def deadline_s(self, host: str, kind: str, sent_bytes: int = 0) -> float:
        """What few answers take longer than."""
        late_s = self._estimate(host, kind).late * self._plan(host, kind, sent_bytes)
        return max(LEAST_S, late_s) * 2.0 ** min(self._missed, MOST_DOUBLINGS)

    def pulse_s(self, host: str, kind: str, sent_bytes: int = 0) -> float:
        """How long after asking, and how often, to ask whether the host is alive."""
        return max(LEAST_S, self.expected_s(host, kind, sent_bytes) / PULSES)

    def knows(self, host: str, kind: str) -> bool:
        """Whether such an answer was measured."""
        return (host, kind) in self._estimates

    def measured(self, host: str, kind: str, sent_bytes: int, seconds: float) -> None:
        """An answer came after `seconds`."""
        ratio = seconds / max(self._plan(host, kind, sent_bytes), 1e-9)
        if kind in ("room?", "alive?", "open"):
            ratio = max(ratio, 1.0)
        else:
            self._missed = 0
        known = self._estimates.get((host, kind))
        if known is None:
            self._estimates[host, kind] = _Estimate.first(ratio)
        else:
            known.add(ratio)

    def missed(self, kind: str) -> None:
        """No answer came in time."""
        if kind != "room?":
            self._missed += 1

    def _estimate(self, host: str, kind: str) -> _Estimate:
        return self._estimates.get((host, kind), _Estimate.first(1.0))
