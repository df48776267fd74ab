"""What the ways between nodes cost, for those who plan: routes of the topology, links as they are.

A map knows nothing of who is up, of partitions and of other traffic: a program that asks it learns
what a routing table and a look at its interfaces would tell it, and no more.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence

from broker.network import Network
from broker.node import Route
from topologies import Link, Topology


class Map:
    """The routes of a topology; `change` tells it what links are like from now on."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._changed: dict[tuple[str, str], Sequence[float]] = {}

    @functools.cached_property
    def _routes(self) -> Network:
        """Made when somebody asks, which most programs never do."""
        return Network(self._topology, 0)

    def change(self, links: Iterable[tuple[str, str, float, float, float]]) -> None:
        """These links are so from now on: source, target, bit/s, delay in s, loss."""
        self._changed |= {(source, target): now for source, target, *now in links}

    def route(self, source: str, destination: str) -> Route | None:
        """What the way costs now, or None where there is none."""
        links = self._routes.route(source, destination)
        if links is None:
            return None
        bandwidth_bps, delay_s, kept = math.inf, 0.0, 1.0
        for link in links:
            bps, delay, loss = self._changed.get(link.ends) or _now(link)
            bandwidth_bps = min(bandwidth_bps, bps)
            delay_s += delay
            kept *= 1.0 - loss
        return Route(bandwidth_bps, delay_s, 1.0 - kept)


def _now(link: Link) -> tuple[float, float, float]:
    return link.bandwidth_bps, link.delay_s, link.loss
