"""The topology under the conditions of now: links, who is up, and the ways between nodes.

A change is told with what it touches. Where routes between others may have moved it concerns
everybody: `generation` counts these changes, and what somebody worked out from an earlier one has
to be asked for again. All else concerns who uses a link that has changed, or the messages from and
to some nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from broker.network.calls import Calls
from broker.network.lookahead import Lookahead
from broker.network.paths import Leg, Path, Resource
from broker.network.routes import Pair, Routes
from faults import Conditions, Event
from topologies import Link, Topology


@dataclass(slots=True)
class Changed:
    """What a change of the conditions has touched.

    Attributes:
        nodes: the messages from and to these may have another way.
        everybody: all may.
        stale: there are ways of which a link between others is another now.
        dead: the nodes that have just died or left.
        noise: background traffic that begins (True) or is over (False).
    """

    nodes: dict[str, None] = field(default_factory=dict)
    everybody: bool = False
    stale: bool = False
    dead: list[str] = field(default_factory=list)
    noise: list[tuple[Event, bool]] = field(default_factory=list)


class Ways:
    """Links, resources and routes. Raises InputError where a link can't be as it is set."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self.conditions = Conditions()
        self.generation = 0
        self.links: dict[Pair, Link] = dict(topology.links)
        self._touching: dict[str, list[Pair]] = {}
        for ends in self.links:
            for end in ends:
                self._touching.setdefault(end, []).append(ends)
        self._resources: dict[Pair, Resource] = {}
        self._legs: dict[Pair, Leg] = {}
        self._media: dict[str, Resource] = {}
        self._routes = Routes(self.links.values())
        self._lookahead = Lookahead(self.links.values())
        self._calls = Calls()

    def update(self, conditions: Conditions) -> Changed:
        """Takes these conditions, in a time that depends on what has changed."""
        before, self.conditions = self.conditions, conditions
        changed = Changed()
        links: dict[Pair, None] = {}
        for event in conditions.since(before):
            self._strike(event, before, changed, links)
        for name in changed.nodes:
            if before.is_up(name) and not conditions.is_up(name):
                changed.dead.append(name)
        self._calls.hang_up(changed.dead)
        for ends in links:
            if ends in self.links:
                self._change(ends, changed)
        self.generation += changed.everybody
        return changed

    def _strike(
        self, event: Event, before: Conditions, changed: Changed, links: dict[Pair, None]
    ) -> None:
        """An event has begun or ended: the nodes, links and traffic that it touches."""
        kind, nodes = event.kind, event.nodes
        if kind in ("crash", "leave"):
            nodes = tuple([n for n in nodes if before.is_up(n) != self.conditions.is_up(n)])
        elif kind == "nat":
            self._calls.hang_up(nodes)
        elif kind == "traffic":
            begins = self.conditions.active.get(event.fault) is event
            changed.noise.append((event, begins))
        if kind in ("crash", "leave", "partition", "nat"):
            changed.nodes.update(dict.fromkeys(nodes))
        if kind in ("crash", "leave", "degrade", "cut"):
            links.update(dict.fromkeys(event.links))
            for name in nodes:
                links.update(dict.fromkeys(self._touching.get(name, ())))

    def _change(self, ends: Pair, changed: Changed) -> None:
        """One link may be another now, or not be there."""
        conditions = self.conditions
        link = self.links[ends] = conditions.link(self._topology.links[ends])
        is_inner = self._routes.is_inner(ends)
        leg = self._legs.pop(ends, None)
        if leg is not None:
            leg.stale = True
            changed.stale |= is_inner
        if ends in self._resources and not link.medium:
            self._resources[ends].capacity = link.bandwidth_bps
        self._lookahead.change(link)
        if (
            link.bandwidth_bps > 0
            and link.loss < 1
            and not conditions.is_cut(*ends)
            and all(map(conditions.is_up, ends))
        ):
            moved = self._routes.put(link)
        else:
            moved = self._routes.drop(ends)
        changed.everybody |= moved
        if not is_inner:
            changed.nodes.update((end, None) for end in ends if end in self._routes.leaves)

    def call(self, source: str, destination: str) -> bool:
        """See `Calls.call`."""
        return self._calls.call(source, destination, self.conditions)

    def by_way_of(self, source: str, destination: str) -> tuple[str, ...] | None:
        """The gateways by way of which source reaches destination; None where a partition or a NAT
        lets nothing through.
        """
        if self.conditions.blocked(source, destination):
            return None
        return self._calls.relays(source, destination, self.conditions)

    # Ways.

    def resource(self, link: Link) -> Resource:
        """What the flows over a link share."""
        if link.medium:
            if link.medium not in self._media:
                self._media[link.medium] = Resource(link.medium, 1.0)
            return self._media[link.medium]
        found = self._resources.get(link.ends)
        if found is None:
            found = self._resources[link.ends] = Resource(link.ends, link.bandwidth_bps)
        return found

    def used(self) -> Iterator[tuple[Link, Resource]]:
        """The links that something has gone over, with what is shared there."""
        for ends, resource in self._resources.items():
            yield self.links[ends], resource
        for leg in self._legs.values():
            if leg.link.medium:
                yield leg.link, leg.resource

    def next_link(self, here: str, there: str) -> Link | None:
        """The first link of the route, whoever lets whom through; None without one."""
        pairs = self._routes.path(here, there)
        return self.links[pairs[0]] if pairs else None

    def onward(self, here: str, there: str) -> tuple[Link, ...]:
        """All its links."""
        return tuple([self.links[ends] for ends in self._routes.path(here, there) or ()])

    def route(self, source: str, destination: str) -> tuple[Link, ...] | None:
        """The links on the way, or None where there is none or nothing is let through."""
        relays = self.by_way_of(source, destination)
        pairs = None if relays is None else self._pairs((source, *relays, destination))
        return None if pairs is None else tuple([self.links[ends] for ends in pairs])

    def path(self, source: str, destination: str, *, called: bool = False) -> Path | None:
        """The way with all that a flow needs to know of it. NATs are no hindrance for one that was
        `called`.
        """
        relays = self.by_way_of(source, destination)
        if called and not self.conditions.blocked(source, destination):
            relays = ()
        if relays is None:
            return None
        there = self._pairs((source, *relays, destination))
        if not there:
            return None
        back = self._pairs((destination, *relays[::-1], source))
        return Path(
            [self._leg(ends) for ends in there],
            [self._leg(ends) for ends in back or ()],
            self._topology.transport,
        )

    def _pairs(self, stops: Sequence[str]) -> tuple[Pair, ...] | None:
        """The ends of all links on the way from stop to stop."""
        pairs: tuple[Pair, ...] = ()
        for here, there in pairwise(stops):
            more = self._routes.path(here, there)
            if more is None:
                return None
            pairs += more
        return pairs

    def _leg(self, ends: Pair) -> Leg:
        found = self._legs.get(ends)
        if found is None:
            link = self.links[ends]
            found = self._legs[ends] = Leg(link, self.resource(link))
        return found

    def least_ns(self, nodes: Sequence[str]) -> int | None:
        """See `Lookahead.least_ns`."""
        return self._lookahead.least_ns(nodes)
