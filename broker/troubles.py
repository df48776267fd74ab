"""The faults of a run as they strike: events in, orders for the machines out.

Pure but for its own state: it is told the instant and what programs have declared, and says what
conditions hold from then on and what that means for each machine.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import faults as fault_language
from broker.ledger import FaultEntry
from faults import Conditions, Event, Scenario, Selection
from topologies import Topology

Order = tuple[Any, ...]
"""What a machine is to do: the action's name, the node's number, and the action's values."""
LinkNow = tuple[str, str, float, float, float]
"""A link as it is now: source, target, bit/s, delay in s, loss."""
GOODBYE_NS = 1_000_000_000
"""So long a node that leaves may still clean up and say goodbye; then it is gone."""


_DOWN = ("crash", "stop", "leave")


@dataclass(frozen=True, slots=True)
class Strike:
    """What has begun and ended at an instant.

    `orders` are in the order of the run's nodes; `links` are those that have changed, or None where
    none has.
    """

    events: tuple[Event, ...]
    orders: tuple[Order, ...]
    links: tuple[LinkNow, ...] | None


def is_meant(name: str, fault: str) -> bool:
    """Whether who says `fault` means the one of that name, too: an empty word means all; a `flap`
    and a process are several, whose names begin with theirs (``churn-1.3``).
    """
    return not fault or name == fault or name.startswith(f"{fault}.")


def told(event: Event) -> tuple[FaultEntry, dict[str, Any]]:
    """An event as the books have it, and as the experimenter is told."""
    text = event.text
    entry = FaultEntry(event.at_ns, event.fault, event.kind, event.phase, event.nodes, text)
    fields = {
        "kind": event.kind,
        "phase": event.phase,
        "fault": event.fault,
        "nodes": list(event.nodes),
        "links": [list(pair) for pair in event.links],
        "text": text,
    }
    return entry, fields


class Troubles:
    """The faults still to come, and those that hold (`conditions`).

    `applied` are the events that were, with every selector resolved; `pending` those to come;
    `lost` are the nodes that are down and that nothing to come will bring back. A node that leaves
    is stopped, and away `GOODBYE_NS` later; one that leaves at the very beginning was never there.
    `topology` is the network's.
    """

    def __init__(
        self,
        faults: Scenario | Sequence[Event],
        topology: Topology,
        seed: int,
        names: Sequence[str],
    ) -> None:
        events = (
            fault_language.expand(faults, topology, seed)
            if isinstance(faults, Scenario)
            else sorted(faults, key=lambda event: event.at_ns)
        )
        self._events = list(reversed(events))
        self.topology = topology
        self._numbers = {name: number for number, name in enumerate(names)}
        self._incarnation = dict.fromkeys(names, 0)
        self._leaving: dict[str, tuple[int, Event]] = {}
        self._selection: Selection | None = None
        self.conditions = Conditions()
        self.applied: list[Event] = []
        self.lost: dict[str, None] = {}
        self._ending = frozenset(event.fault for event in events if event.phase == "end")

    def add(self, events: Sequence[Event]) -> None:
        """Further events, none of them in the past, at an instant after those there were."""
        merged = sorted([*self.pending, *events], key=lambda event: event.at_ns)
        self._events = merged[::-1]
        self._ending |= {event.fault for event in events if event.phase == "end"}

    def drop(self, fault: str, at_ns: int) -> bool:
        """Ends the faults that are meant (`is_meant`) then, or, where they have not begun, sees
        that they never do. Whether there was anything to do.
        """
        meant = [name for name in self._known() if is_meant(name, fault)]
        kept = [event for event in self.pending if event.fault not in meant]
        ends = [
            replace(self.conditions.active[name], at_ns=at_ns, phase="end")
            for name in meant
            if name in self.conditions.active
        ]
        self._events = kept[::-1]
        self.add(ends)
        return bool(meant)

    def _known(self) -> dict[str, None]:
        """The faults that hold or are to come."""
        pending = (event.fault for event in self.pending)
        return dict.fromkeys((*self.conditions.active, *pending))

    @property
    def pending(self) -> tuple[Event, ...]:
        """The events still to come."""
        return tuple(reversed(self._events))

    def next_ns(self) -> int | None:
        """When something happens next, or None."""
        coming = [at_ns for at_ns, _ in itertools.islice(self._leaving.values(), 1)]
        if self._events:
            coming.append(self._events[-1].at_ns)
        return min(coming, default=None)

    def first_orders(self) -> list[Order]:
        """The orders with which a run begins, faults at its very beginning apart."""
        return [("boot", number, 0) for number in self._numbers.values()]

    def enroll(self, name: str) -> list[Order]:
        """One more node runs a program; what its machine is to do first, as things are now."""
        number = self._numbers[name] = len(self._numbers)
        self._incarnation[name] = 0
        return self.newcomer(number, name, self.conditions, 0)

    def newcomer(
        self, number: int, name: str, conditions: Conditions, incarnation: int
    ) -> list[Order]:
        """What the machine of a node that comes under these conditions is to do first."""
        orders: list[Order] = []
        if (skew := conditions.skew(name)) != (0, 0.0):
            orders.append(("skew", number, *skew))
        if (factor := conditions.compute_factor(name)) != 1.0:
            orders.append(("speed", number, factor))
        if conditions.is_disk_full(name):
            orders.append(("disk", number, True))
        if (left := self.memory_left(name, conditions)) is not None:
            orders.append(("memory", number, left))
        if conditions.is_up(name) and not conditions.is_stopped(name):
            orders.append(("boot", number, incarnation))
        if conditions.is_paused(name):
            orders.append(("pause", number, True))
        return orders

    def withdraw(self, faults: Sequence[str]) -> None:
        """What is still to come of these faults never does."""
        self._events = [event for event in self._events if event.fault not in faults]

    def runs(self, name: str) -> bool:
        """Whether this node's program is to run now."""
        return self.conditions.is_up(name) and not self.conditions.is_stopped(name)

    def strike(self, now_ns: int, facts: Mapping[str, tuple[str, ...]]) -> Strike | None:
        """Applies the events that are due; None when there is none."""
        before = self.conditions
        struck: list[Event] = []
        gone = self._part(now_ns)
        while self._events and self._events[-1].at_ns <= now_ns:
            event = self._resolve(self._events.pop(), facts)
            self._take(event)
            struck.append(event)
            if event.fault not in self._ending and event.kind in _DOWN:
                self.lost |= dict.fromkeys(event.nodes)
        if not struck and not gone:
            return None
        self.applied += struck
        numbers = self._numbers
        touched = {node for event in (*gone, *struck) for node in event.nodes if node in numbers}
        orders = [
            order
            for name in sorted(touched, key=numbers.__getitem__)
            for order in self._orders(name, before)
        ]
        links = self._links_of(struck, self.conditions)
        return Strike(tuple(struck), tuple(orders), links)

    def _take(self, event: Event) -> None:
        """The event holds, or is over, from now on."""
        if event.phase == "end":
            self._leaving.pop(event.fault, None)
            self.conditions = self.conditions.end(event)
        elif event.kind == "leave" and event.at_ns > 0:
            self._leaving[event.fault] = (event.at_ns + GOODBYE_NS, event)
            self.conditions = self.conditions.begin(replace(event, kind="stop"))
        else:
            self.conditions = self.conditions.begin(event)

    def _part(self, now_ns: int) -> list[Event]:
        """Those who are leaving and have had their time are away."""
        gone: list[Event] = []
        while self._leaving:
            fault, (until_ns, event) = next(iter(self._leaving.items()))
            if until_ns > now_ns:
                break
            del self._leaving[fault]
            self.conditions = self.conditions.end(replace(event, phase="end")).begin(event)
            gone.append(event)
        return gone

    def _resolve(self, event: Event, facts: Mapping[str, tuple[str, ...]]) -> Event:
        """The event with what only a run can know filled in: an end means the nodes of its
        beginning.
        """
        if event.phase == "end":
            begun = self.conditions.active[event.fault]
            return replace(event, nodes=begun.nodes, links=begun.links, selector=None)
        if event.selector is None:
            return event
        return fault_language.resolve(event, facts, self._chooser)

    @property
    def _chooser(self) -> Selection:
        if self._selection is None:
            self._selection = Selection(self.topology)
        return self._selection

    def _orders(self, name: str, before: Conditions) -> list[Order]:
        now, number = self.conditions, self._numbers[name]
        orders: list[Order] = []
        ran = before.is_up(name) and not before.is_stopped(name)
        runs = self.runs(name)
        if before.is_up(name) and not now.is_up(name):
            orders.append(("crash", number))
        elif ran and not runs:
            orders.append(("stop", number))
        elif runs and not ran:
            self._incarnation[name] += 1
            orders.append(("boot", number, self._incarnation[name]))
        if now.compute_factor(name) != before.compute_factor(name):
            orders.append(("speed", number, now.compute_factor(name)))
        if now.is_paused(name) != before.is_paused(name):
            orders.append(("pause", number, now.is_paused(name)))
        if now.skew(name) != before.skew(name):
            orders.append(("skew", number, *now.skew(name)))
        if now.is_disk_full(name) != before.is_disk_full(name):
            orders.append(("disk", number, now.is_disk_full(name)))
        left = self.memory_left(name, now)
        if left is not None and left != self.memory_left(name, before):
            orders.append(("memory", number, left))
        return orders

    def memory_left(self, name: str, conditions: Conditions) -> int | None:
        """What a node's device grants under these conditions; None without one."""
        device = self.topology.nodes[name].device
        return None if device is None else conditions.memory_bytes(name, device.grant_bytes)

    def links(self, conditions: Conditions) -> tuple[LinkNow, ...]:
        """All links that are not as in the topology under these conditions."""
        return self._links_of(conditions.active.values(), conditions) or ()

    def links_ever_changed(self, conditions: Conditions) -> tuple[LinkNow, ...]:
        """Under these conditions, all links that faults have ever touched."""
        return self._links_of(self.applied, conditions) or ()

    def _links_of(
        self, events: Iterable[Event], conditions: Conditions
    ) -> tuple[LinkNow, ...] | None:
        touched = dict.fromkeys(
            ends
            for event in events
            if event.kind == "degrade"
            for ends in event.links or self._chooser.links_of(event.nodes, oneway=event.oneway)
        )
        links = [conditions.link(self.topology.links[ends]) for ends in touched]
        now = [(*link.ends, link.bandwidth_bps, link.delay_s, link.loss) for link in links]
        return tuple(now) or None
