"""The topology under the conditions of now: links, who is up, and the ways between nodes.

`generation` counts changes: what somebody worked out from an earlier one has to be asked for again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from broker.network.paths import Leg, Path, Resource
from broker.network.routes import Pair, Routes
from faults import Conditions
from topologies import Link, Topology


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
        self._routes: Routes | None = None

    def update(self, conditions: Conditions) -> tuple[str, ...] | None:
        """Takes these conditions; returns the nodes that have just died, or None where no way has
        changed at all.
        """
        before, self.conditions = self.conditions, conditions
        old, new = before.active, conditions.active
        changed = [old[fault] for fault in old if fault not in new]
        changed += [event for fault, event in new.items() if old.get(fault) is not event]
        kinds = {event.kind for event in changed}
        if not kinds & {"crash", "degrade", "partition", "traffic"}:
            return None
        touched: dict[Pair, None] = {}
        nodes: dict[str, None] = {}
        for event in changed:
            if event.kind == "crash":
                nodes.update(dict.fromkeys(event.nodes))
            elif event.kind == "degrade":
                touched.update(dict.fromkeys(event.links))
                for name in event.nodes:
                    touched.update(dict.fromkeys(self._touching.get(name, ())))
        for ends in touched:
            if ends in self.links:
                link = self.links[ends] = conditions.link(self._topology.links[ends])
                self._legs.pop(ends, None)
                if ends in self._resources and not link.medium:
                    self._resources[ends].capacity = link.bandwidth_bps
        self.generation += 1
        self._routes = None
        return tuple(name for name in nodes if before.is_up(name) and not conditions.is_up(name))

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

    def route(self, source: str, destination: str) -> tuple[Link, ...] | None:
        """The links on the way, or None where there is none or a partition forbids it."""
        if self.conditions.blocked(source, destination):
            return None
        pairs = self.routes.path(source, destination)
        return None if pairs is None else self.routes.links(pairs)

    def path(self, source: str, destination: str) -> Path | None:
        """The way with all that a flow needs to know of it."""
        if self.conditions.blocked(source, destination):
            return None
        there = self.routes.path(source, destination)
        if not there:
            return None
        back = self.routes.path(destination, source)
        return Path(
            [self._leg(ends) for ends in there],
            [self._leg(ends) for ends in back or ()],
            self._topology.transport,
        )

    def _leg(self, ends: Pair) -> Leg:
        found = self._legs.get(ends)
        if found is None:
            link = self.links[ends]
            found = self._legs[ends] = Leg(link, self.resource(link))
        return found

    @property
    def routes(self) -> Routes:
        """The routes of now."""
        if self._routes is None:
            self._routes = Routes(self._up())
        return self._routes

    def least_ns(self, nodes: Sequence[str]) -> int | None:
        """See `Routes.least_ns`."""
        return self.routes.least_ns(nodes)

    def _up(self) -> Iterable[Link]:
        is_up = self.conditions.is_up
        down = {name for name in self._topology.nodes if not is_up(name)}
        return (
            link
            for link in self.links.values()
            if link.bandwidth_bps > 0
            and link.loss < 1
            and link.source not in down
            and link.target not in down
        )
