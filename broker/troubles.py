"""The faults of a run as they strike: events in, orders for the machines out.

Pure but for its own state: it is told the instant and what programs have declared, and says what
conditions hold from then on and what that means for each machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import faults as fault_language
from broker.ledger import FaultEntry
from faults import Conditions, Event, Scenario
from topologies import Topology

Order = tuple[Any, ...]
"""What a machine is to do: the action's name, the node's number, and the action's values."""
LinkNow = tuple[str, str, float, float, float]
"""A link that is not as in the topology: source, target, bit/s, delay in s, loss."""


_DOWN = ("crash", "stop")


@dataclass(frozen=True, slots=True)
class Strike:
    """What has begun and ended at an instant.

    `orders` are in the order of the run's nodes; `links` are all links that differ from the
    topology now, or None where that has not changed.
    """

    events: tuple[Event, ...]
    orders: tuple[Order, ...]
    links: tuple[LinkNow, ...] | None


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
    `lost` are the nodes that are down and that nothing to come will bring back.
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
        self._topology = topology
        self._numbers = {name: number for number, name in enumerate(names)}
        self._incarnation = dict.fromkeys(names, 0)
        self._links: dict[tuple[str, str], LinkNow] = {}
        self.conditions = Conditions()
        self.applied: list[Event] = []
        self.lost: dict[str, None] = {}
        self._ending = frozenset(event.fault for event in events if event.phase == "end")

    @property
    def pending(self) -> tuple[Event, ...]:
        """The events still to come."""
        return tuple(reversed(self._events))

    def next_ns(self) -> int | None:
        """When the next event comes, or None."""
        return self._events[-1].at_ns if self._events else None

    def first_orders(self) -> list[Order]:
        """The orders with which a run begins, faults at its very beginning apart."""
        return [("boot", number, 0) for number in self._numbers.values()]

    def runs(self, name: str) -> bool:
        """Whether this node's program is to run now."""
        return self.conditions.is_up(name) and not self.conditions.is_stopped(name)

    def strike(self, now_ns: int, facts: Mapping[str, tuple[str, ...]]) -> Strike | None:
        """Applies the events that are due; None when there is none."""
        before = self.conditions
        struck: list[Event] = []
        while self._events and self._events[-1].at_ns <= now_ns:
            event = self._resolve(self._events.pop(), facts)
            begins = event.phase == "begin"
            change = self.conditions.begin if begins else self.conditions.end
            self.conditions = change(event)
            struck.append(event)
            if begins and event.kind in _DOWN and event.fault not in self._ending:
                self.lost |= dict.fromkeys(event.nodes)
        if not struck:
            return None
        self.applied += struck
        touched = {node for event in struck for node in event.nodes}
        orders = [
            order
            for name in self._numbers
            if name in touched
            for order in self._orders(name, before)
        ]
        return Strike(tuple(struck), tuple(orders), self._links_now(struck))

    def _resolve(self, event: Event, facts: Mapping[str, tuple[str, ...]]) -> Event:
        """The event with what only a run can know filled in: an end means the nodes of its
        beginning.
        """
        if event.phase == "end":
            begun = self.conditions.active[event.fault]
            return replace(event, nodes=begun.nodes, links=begun.links, selector=None)
        if event.selector is None:
            return event
        return fault_language.resolve(event, facts, self._topology)

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
        return orders

    def _links_now(self, struck: Sequence[Event]) -> tuple[LinkNow, ...] | None:
        touched = {ends for event in struck if event.kind == "degrade" for ends in event.links}
        if not touched:
            return None
        for ends, link in self._topology.links.items():
            if ends in touched:
                now = self.conditions.link(link)
                self._links.pop(ends, None)
                if now is not link:
                    self._links[ends] = (*ends, now.bandwidth_bps, now.delay_s, now.loss)
        return tuple(self._links.values())
