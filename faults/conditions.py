"""What is broken now, and what that makes of nodes and links.

`Conditions` is a value: `begin` and `end` give another one and leave this one as it is. How faults
that overlap compose is said here and nowhere else:

- A node is down while any crash holds it; stopped while any stop does; frozen while any pause does.
- Slowdowns multiply: 4x and 2x together are 8x.
- Of a clock the offsets add up and the rates (1 + drift) multiply, so that no clock ever stands
  still or runs backwards. Both hold from begin to end: then the clock is right again.
- Background traffic of several faults flows side by side.
- Of a link's bandwidth, delay and jitter: the worst of the link's own and all absolute values wins
  (a degrade never makes a link better), then the relative ones multiply it, then the additive ones
  are added.
- Of its loss, duplicates, reordering and damage: the worst absolute value, then each additive one
  is a further, independent chance; so it never reaches 1. Where a link has no delay now, nothing
  is reordered, for there is none to skip.
- Of bursts the longest wins, the link's own included; where it is longer than 1 it is at least
  loss / (1 - loss), for bursts have gaps of a packet between them.
- Two nodes are cut off from each other, or one from the other, while any partition does it. Nodes
  that a partition does not name speak with everybody.

The order in which faults begin and end does not matter, not even in the last bit; when all have
ended, everything is exactly what it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from faults.event import Amount, Event
from topologies.model import Link

_Key = tuple[str, ...]
_NEARLY_ALL = math.nextafter(1.0, 0.0)
_NEARLY_STILL = math.nextafter(-1.0, 0.0)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of others that flow from *source* to *target*, as many as *rate_bps* where they fit."""

    fault: str
    source: str
    target: str
    rate_bps: float


@dataclass(frozen=True)
class Conditions:
    """The faults that hold now. ``Conditions()`` is a network in good health.

    Attributes:
        active: the event with which each of them began, by the fault's name.
    """

    active: Mapping[str, Event] = field(default_factory=dict)
    _index: Mapping[_Key, tuple[str, ...]] = field(default_factory=dict, repr=False, compare=False)

    def begin(self, event: Event) -> Conditions:
        """The conditions once this has begun.

        Raises ``ValueError`` when it is an end, when the fault holds already, or when the event is
        not resolved yet.
        """
        if event.phase != "begin":
            raise ValueError(f"fault {event.fault}: this event is an end")
        if event.fault in self.active:
            raise ValueError(f"fault {event.fault} holds already")
        if event.selector is not None:
            raise ValueError(f'fault {event.fault}: resolve "{event.selector}" first')
        index = dict(self._index)
        for key in _touched(event):
            index[key] = tuple(sorted((*index.get(key, ()), event.fault)))
        return Conditions({**self.active, event.fault: event}, index)

    def end(self, event: Event) -> Conditions:
        """The conditions once the fault that this event names is over, whatever nodes the event
        itself names.

        Raises ``ValueError`` when it is a begin, or when the fault does not hold.
        """
        if event.phase != "end":
            raise ValueError(f"fault {event.fault}: this event is a begin")
        begun = self.active.get(event.fault)
        if begun is None:
            raise ValueError(f"fault {event.fault} does not hold")
        index = dict(self._index)
        for key in _touched(begun):
            left = tuple(fault for fault in index[key] if fault != event.fault)
            if left:
                index[key] = left
            else:
                del index[key]
        active = {fault: held for fault, held in self.active.items() if fault != event.fault}
        return Conditions(active, index)

    def is_up(self, node: str) -> bool:
        """Whether no crash holds this node."""
        return ("crash", node) not in self._index

    def is_stopped(self, node: str) -> bool:
        """Whether a stop holds this node: its program was asked to end and has not been started
        again.
        """
        return ("stop", node) in self._index

    def is_paused(self, node: str) -> bool:
        """Whether a pause freezes this node."""
        return ("pause", node) in self._index

    def skew(self, node: str) -> tuple[int, float]:
        """How this node's clock is off: how far it is ahead at once, in nanoseconds, and its drift,
        how much faster it runs; the drift is always above -1.
        """
        changes = [event.change for event in self._of("skew", node) if event.change]
        offset_ns = sum(change.offset_ns or 0 for change in changes)
        # Fractions, for the drift of a single skew is to be that skew's, to the last bit.
        rate = math.prod(1 + Fraction(change.drift or 0.0) for change in changes)
        return offset_ns, max(float(rate - 1), _NEARLY_STILL)

    def traffic(self) -> tuple[Traffic, ...]:
        """The background traffic of now, by the fault's name, then in its order."""
        return tuple(
            Traffic(fault, source, target, event.change.rate_bps)
            for fault, event in sorted(self.active.items())
            if event.kind == "traffic" and event.change and event.change.rate_bps
            for source, target in event.links
        )

    def compute_factor(self, node: str) -> float:
        """What of its speed this node has: 1.0 is all, 0.25 is four times slower."""
        slower = (event.change.compute for event in self._of("slow", node) if event.change)
        return 1.0 / _product(times for times in slower if times is not None)

    def link(self, link: Link) -> Link:
        """This link as it is now; the very same object when nothing touches it."""
        faults = {
            event.fault: event
            for ends in (link.ends, (link.source,), (link.target,))
            for event in self._of("degrade", *ends)
        }
        changes = [event.change for event in faults.values() if event.change is not None]
        if not changes:
            return link
        chances = {
            name: _compose_chance(getattr(link, name), [getattr(c, name) for c in changes])
            for name in ("loss", "duplicate", "reorder", "corrupt")
        }
        burst = _compose(link.burst, [c.burst for c in changes], max)
        if burst > 1:
            burst = max(burst, chances["loss"] / (1 - chances["loss"]))
        delay_s = _compose(link.delay_s, [c.delay for c in changes], max)
        jitter_s = _compose(link.jitter_s, [c.jitter for c in changes], max)
        if not delay_s and not jitter_s:
            chances["reorder"] = 0.0
        return link.model_copy(
            update={
                "bandwidth_bps": _compose(link.bandwidth_bps, [c.bandwidth for c in changes], min),
                "delay_s": delay_s,
                "jitter_s": jitter_s,
                "burst": burst,
                **chances,
            }
        )

    def blocked(self, source: str, target: str) -> bool:
        """Whether a partition keeps what *source* sends from reaching *target*."""
        for event in self._of("partition", source):
            here, there = _side(event, source), _side(event, target)
            if here is None or there is None or here == there:
                continue
            if here < there or not event.oneway:
                return True
        return False

    def _of(self, kind: str, *ends: str) -> Iterator[Event]:
        return (self.active[fault] for fault in self._index.get((kind, *ends), ()))


def _touched(event: Event) -> Iterator[_Key]:
    """The keys under which those whom an event touches find it."""
    if event.nodes:
        yield from ((event.kind, node) for node in event.nodes)
    elif event.kind == "degrade":
        yield from ((event.kind, *ends) for ends in event.links)


def _side(event: Event, node: str) -> int | None:
    return next((side for side, group in enumerate(event.groups) if node in group), None)


def _product(factors: Iterable[float]) -> float:
    """Rounding depends on the order of factors, so that is fixed."""
    return math.prod(sorted(factors))


def _compose(
    own: float, amounts: Sequence[Amount | None], worst: Callable[[Iterable[float]], float]
) -> float:
    given = [amount for amount in amounts if amount is not None]
    if not given:
        return own
    base = worst([own, *(amount.value for amount in given if amount.how == "absolute")])
    times = _product(amount.value for amount in given if amount.how == "relative")
    return math.fsum([base * times, *(amount.value for amount in given if amount.how == "plus")])


def _compose_chance(own: float, amounts: Sequence[Amount | None]) -> float:
    given = [amount for amount in amounts if amount is not None]
    if not given:
        return own
    base = max([own, *(amount.value for amount in given if amount.how == "absolute")])
    more = [1.0 - amount.value for amount in given if amount.how == "plus"]
    return min(base + (1.0 - base) * (1.0 - _product(more)), _NEARLY_ALL)
