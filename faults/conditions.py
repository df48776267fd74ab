"""What is broken now, and what that makes of nodes and links.

`Conditions` is a value: `begin` and `end` give another one and leave this one as it is, in a time
that depends on what the event touches and not on the size of the network. How faults that overlap
compose is said here and nowhere else:

- A node is down while any crash holds it; stopped while any stop does; frozen while any pause does;
  away while any leave does; without room on its disk while any full disk does.
- Slowdowns multiply: 4x and 2x together are 8x.
- Of a node's memory the smallest of its own and all absolute values is left, and then the relative
  ones multiply that.
- Of a clock the offsets add up and the rates (1 + drift) multiply, so that no clock ever stands
  still or runs backwards. Both hold from begin to end: then the clock is right again.
- Background traffic of several faults flows side by side.
- A link is cut while any cut holds it.
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
- Who wants to call a node behind several NATs has to get through each of them; one without a
  gateway lets nobody in.

The order in which faults begin and end does not matter, not even in the last bit; when all have
ended, everything is exactly what it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

from faults.event import Amount, Event
from faults.table import Table
from topologies.model import Link

_Key: TypeAlias = tuple[str, ...]
_Mark: TypeAlias = tuple[str, int | str]
"""A fault, and what it is to the node or link: the side of a partition, the gateway of a NAT."""
_NEARLY_ALL = math.nextafter(1.0, 0.0)
_NEARLY_STILL = math.nextafter(-1.0, 0.0)
_ON_LINKS = ("degrade", "cut")


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

    active: Table[str, Event] = field(default_factory=Table)
    _index: Table[_Key, tuple[_Mark, ...]] = field(default_factory=Table, repr=False, compare=False)

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
        index = self._index
        for key, mark in _touched(event):
            index = index.put(key, tuple(sorted((*index.get(key, ()), (event.fault, mark)))))
        return Conditions(self.active.put(event.fault, event), index)

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
        index = self._index
        for key, _ in _touched(begun):
            left = tuple(mark for mark in index[key] if mark[0] != event.fault)
            index = index.put(key, left) if left else index.drop(key)
        return Conditions(self.active.drop(event.fault), index)

    def since(self, before: Conditions) -> tuple[Event, ...]:
        """The beginnings of the faults that hold now and did not then, and the other way round, by
        the faults' names. It looks only at what differs.
        """
        faults = self.active.differing(before.active)
        both = ((before.active.get(fault), self.active.get(fault)) for fault in faults)
        return tuple(event for pair in both for event in pair if event is not None)

    def is_up(self, node: str) -> bool:
        """Whether this node is on the network: no crash holds it, and it has not left."""
        return ("crash", node) not in self._index and not self.has_left(node)

    def has_left(self, node: str) -> bool:
        """Whether this node has left politely, or has not joined yet."""
        return ("leave", node) in self._index

    def is_stopped(self, node: str) -> bool:
        """Whether a stop holds this node: its program was asked to end and has not been started
        again.
        """
        return ("stop", node) in self._index

    def is_paused(self, node: str) -> bool:
        """Whether a pause freezes this node."""
        return ("pause", node) in self._index

    def is_disk_full(self, node: str) -> bool:
        """Whether nothing more can be written to this node's disk."""
        return ("full_disk", node) in self._index

    def skew(self, node: str) -> tuple[int, float]:
        """How this node's clock is off: how far it is ahead at once, in nanoseconds, and its drift,
        how much faster it runs; the drift is always above -1.
        """
        changes = [event.change for event in self._of("skew", node) if event.change]
        if not changes:
            return 0, 0.0
        offset_ns = sum(change.offset_ns or 0 for change in changes)
        # Fractions, for the drift of a single skew is to be that skew's, to the last bit.
        rate = math.prod(1 + Fraction(change.drift or 0.0) for change in changes)
        return offset_ns, max(float(rate - 1), _NEARLY_STILL)

    def traffic(self) -> tuple[Traffic, ...]:
        """The background traffic of now, by the fault's name, then in its order."""
        return tuple(
            Traffic(event.fault, source, target, event.change.rate_bps)
            for event in self._of("traffic")
            if event.change and event.change.rate_bps
            for source, target in event.links
        )

    def compute_factor(self, node: str) -> float:
        """What of its speed this node has: 1.0 is all, 0.25 is four times slower."""
        slower = (event.change.compute for event in self._of("slow", node) if event.change)
        return 1.0 / _product(times for times in slower if times is not None)

    def memory_bytes(self, node: str, own: int) -> int:
        """What is left of the *own* bytes that this node's device grants."""
        changes = [event.change for event in self._of("squeeze", node) if event.change]
        if not changes:
            return own
        return math.floor(_compose(own, [change.memory for change in changes], min))

    def link(self, link: Link) -> Link:
        """This link as it is now, cuts apart; the very same object when nothing touches it."""
        events = self._on_link("degrade", link.source, link.target)
        changes = [event.change for event in events if event.change is not None]
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

    def is_cut(self, source: str, target: str) -> bool:
        """Whether the link from *source* to *target* carries nothing."""
        return bool(self._on_link("cut", source, target))

    def blocked(self, source: str, target: str) -> bool:
        """Whether a partition keeps what *source* sends from reaching *target*."""
        theirs = self._index.get(("partition", target), ())
        for fault, here in self._index.get(("partition", source), ()) if theirs else ():
            there = next((side for other, side in theirs if other == fault), here)
            if here != there and (here < there or not self.active[fault].oneway):
                return True
        return False

    def relays(self, source: str, target: str) -> tuple[str, ...] | None:
        """The gateways by way of which *source* can call *target*: none where it needs none; None
        where a NAT lets nobody in.

        A NAT only keeps out who calls: what is answered to a node behind it always gets back to it.
        Those behind one gateway call each other as ever, and the gateway calls them.
        """
        gateways: list[str] = []
        ours = self._index.get(("nat", source), ())
        for mark in self._index.get(("nat", target), ()):
            gateway = str(mark[1])
            if mark in ours or gateway == source or gateway in gateways:
                continue
            if not gateway:
                return None
            gateways.append(gateway)
        return tuple(gateways)

    def _of(self, kind: str, *ends: str) -> Iterator[Event]:
        return (self.active[fault] for fault, _ in self._index.get((kind, *ends), ()))

    def _on_link(self, kind: str, source: str, target: str) -> list[Event]:
        """The events of this kind that touch this direction of a link, each once."""
        events = [*self._of(kind, source, target), *self._of(kind, source)]
        events += (event for event in self._of(kind, target) if not event.oneway)
        return list({event.fault: event for event in events}.values())


def _touched(event: Event) -> Iterator[tuple[_Key, int | str]]:
    """The keys under which those whom an event touches find it, and what it is to them."""
    if event.kind == "partition":
        for side, group in enumerate(event.groups):
            yield from ((("partition", node), side) for node in group)
    elif event.kind == "nat":
        gateways = dict(event.links)
        yield from ((("nat", node), gateways.get(node, "")) for node in event.nodes)
    elif event.kind == "traffic":
        yield ("traffic",), 0
    elif event.nodes:
        yield from (((event.kind, node), 0) for node in event.nodes)
    elif event.kind in _ON_LINKS:
        yield from (((event.kind, *ends), 0) for ends in event.links)


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
