"""One concrete event: something breaks, or what broke is whole again.

`faults.expand` makes events out of a scenario, a topology and a seed; `faults.Conditions` knows
what they mean together. A fault that ends gives two events with the same name, ``begin`` and
``end``. An event whose nodes only a run can know ("host of client-3") says so in *selector* and has
no nodes until `faults.resolve` has filled them in.

A scenario file has more words than there are kinds of event: a ``join`` is the end of a ``leave``,
a ``flap`` a row of ``cut``, a ``loss`` a ``degrade``, a trace one of these at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from topologies import units

Phase = Literal["begin", "end"]
Kind = Literal[
    "crash", "stop", "pause", "leave", "slow", "squeeze", "skew", "full_disk", "degrade", "cut",
    "partition", "nat", "traffic",
]  # fmt: skip
How = Literal["absolute", "relative", "plus"]


@dataclass(frozen=True, slots=True)
class Amount:
    """What becomes of one number of a link or a node.

    Attributes:
        how: ``absolute``: it is *value*; ``relative``: *value* times what it was; ``plus``: that
            much more.
        value: in bit/s, seconds, bytes or as a fraction, as the number itself; without unit when
            relative.
    """

    how: How
    value: float


@dataclass(frozen=True, slots=True)
class Change:
    """What a fault does to those it touches; None where it leaves a thing alone.

    Attributes:
        compute: how many times slower a node computes (4.0 is a quarter of its speed).
        memory: of what a node's device grants: ``absolute`` in bytes, at most; or ``relative``.
        offset_ns, drift: of a node's clock: how far it is ahead at once, and how much faster it
            runs (1e-4 gains 100 µs a second).
        rate_bps: of background traffic: how much of the wire it takes where it can.
        bandwidth, delay, jitter, loss, burst, duplicate, reorder, corrupt: of links.
    """

    compute: float | None = None
    memory: Amount | None = None
    offset_ns: int | None = None
    drift: float | None = None
    rate_bps: float | None = None
    bandwidth: Amount | None = None
    delay: Amount | None = None
    jitter: Amount | None = None
    loss: Amount | None = None
    burst: Amount | None = None
    duplicate: Amount | None = None
    reorder: Amount | None = None
    corrupt: Amount | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens to the network at an instant.

    Attributes:
        at_ns: when, in nanoseconds after the start.
        fault: which fault: its position in the file counted from 1, its own ``id``, or
            ``churn-1.3``.
        phase: whether it begins or ends.
        kind: what it is.
        nodes: whom it strikes, in the topology's order; of a ``degrade`` and a ``cut``, whose
            links.
        links: the directed links that a ``degrade`` or a ``cut`` touches, in the topology's order;
            of ``traffic``, the ordered pairs of nodes between which it flows (along their route);
            of a ``nat``, each node with its gateway, where others reach it by way of one.
        groups: the sides of a ``partition``; *nodes* is then all of them.
        oneway: of a ``partition``: only from a group to the groups after it is nothing heard any
            more; of a ``degrade`` or a ``cut``: only from the first end of the link to the second,
            or only the links that begin at its nodes.
        selector: what only a run can know, such as ``host of client-3``; None once that is
            resolved.
        change: what a ``slow``, ``squeeze``, ``skew``, ``degrade`` or ``traffic`` changes.
        order: the fault's place in its scenario; decides among events of the same instant.
    """

    at_ns: int
    fault: str
    phase: Phase
    kind: Kind
    nodes: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()
    oneway: bool = False
    selector: str | None = None
    change: Change | None = None
    order: int = field(default=0, compare=False)

    @property
    def text(self) -> str:
        """The event in a few words, as ``degrade links of client-4: bandwidth 10 %``."""
        words = f"{self.kind.replace('_', ' ')} {self._subject()}"
        if self.phase == "end":
            return f"end of {words}"
        if self.change is not None and (changes := describe(self.change)):
            return f"{words}: " + ", ".join(f"{name} {value}" for name, value in changes.items())
        return words

    def _subject(self) -> str:
        if self.kind == "partition":
            arrow = " ⇥ " if self.oneway else " | "
            return arrow.join(", ".join(group) for group in self.groups)
        if self.kind == "traffic":
            sources, targets = ends_of(self.links)
            return f"{', '.join(sources)} → {', '.join(targets)}"
        if self.selector is not None or self.nodes:
            return self._whom(self.selector or ", ".join(self.nodes))
        if not self.links:
            return "nothing"
        source, target = self.links[0]
        return f"{source} {'→' if self.oneway else '↔'} {target}"

    def _whom(self, whom: str) -> str:
        if self.kind in ("degrade", "cut"):
            return f"links {'from' if self.oneway else 'of'} {whom}"
        if self.kind == "nat" and self.links:
            return f"{whom} behind {', '.join(ends_of(self.links)[1])}"
        return whom


def ends_of(pairs: Sequence[tuple[str, str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Where these pairs begin, and where they end, each name once."""
    sources = dict.fromkeys(source for source, _ in pairs)
    targets = dict.fromkeys(target for _, target in pairs)
    return tuple(sources), tuple(targets)


def describe(change: Change) -> dict[str, str]:
    """A change as a scenario file writes it: ``{"bandwidth": "10 %", "delay": "+150 ms"}``."""
    written: dict[str, str] = {}
    if change.compute is not None:
        written["compute"] = units.show_factor(change.compute)
    if change.offset_ns is not None:
        written["offset"] = units.show_offset(change.offset_ns)
    if change.drift is not None:
        written["drift"] = units.show_drift(change.drift)
    if change.rate_bps is not None:
        written["rate"] = units.show_bandwidth(change.rate_bps)
    for name in _SHOWN:
        amount: Amount | None = getattr(change, name)
        if amount is not None:
            written[name] = show_amount(name, amount)
    return written


def show_amount(name: str, amount: Amount) -> str:
    """What becomes of the number of this name, as a scenario file writes it."""
    if amount.how == "relative":
        return units.show_fraction(amount.value)
    return ("+" if amount.how == "plus" else "") + _SHOWN[name](amount.value)


_SHOWN: dict[str, Callable[[float], str]] = {
    "memory": lambda value: units.show_size(round(value)),
    "bandwidth": units.show_bandwidth,
    "delay": units.show_duration,
    "jitter": units.show_duration,
    "loss": units.show_fraction,
    "burst": units.show_number,
    "duplicate": units.show_fraction,
    "reorder": units.show_fraction,
    "corrupt": units.show_fraction,
}
