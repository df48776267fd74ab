"""Who reaches whom over which links: shortest by delay, then by hops, then by name.

A node with one neighbor only never lies between others, so searches run over the rest (in a star of
10,000 nodes: over one), and each goes on only as far as somebody asks. Delays are whole nanoseconds
here, so equal ones are equal.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from broker.network.chance import least_delay_s
from topologies import Link

Pair = tuple[str, str]
_MOST_SEARCHES = 1_024


def to_ns(seconds: float) -> int:
    """Seconds as whole nanoseconds, rounded to the nearest."""
    return round(seconds * 1e9)


class _Search:
    """One source's shortest paths, found as far as they were asked for."""

    def __init__(self, graph: Routes, source: str) -> None:
        self._graph = graph
        self._source = source
        self._found: dict[str, tuple[str, ...]] = {}
        self._open: list[tuple[int, int, tuple[str, ...]]] = [(0, 0, (source,))]

    def path(self, target: str) -> tuple[str, ...] | None:
        found, open_, graph = self._found, self._open, self._graph
        while target not in found and open_:
            delay_ns, hops, path = heapq.heappop(open_)
            name = path[-1]
            if name in found:
                continue
            found[name] = path
            for neighbor, link_ns in graph.outgoing.get(name, {}).items():
                if neighbor not in found and neighbor not in graph.leaves:
                    heapq.heappush(open_, (delay_ns + link_ns, hops + 1, (*path, neighbor)))
        return found.get(target)


class Routes:
    """The shortest routes over `links`, each given as one that is up."""

    def __init__(self, links: Iterable[Link]) -> None:
        self.outgoing: dict[str, dict[str, int]] = {}
        self._least: dict[str, dict[str, int]] = {}
        self._links: dict[Pair, Link] = {}
        neighbors: dict[str, str | None] = {}
        for link in links:
            a, b = link.ends
            self._links[link.ends] = link
            self.outgoing.setdefault(a, {})[b] = to_ns(link.delay_s)
            self._least.setdefault(a, {})[b] = to_ns(least_delay_s(link))
            for here, there in ((a, b), (b, a)):
                if neighbors.setdefault(here, there) != there:
                    neighbors[here] = None
        self.leaves: Mapping[str, str] = {
            name: only for name, only in neighbors.items() if only is not None
        }
        self._searches: dict[str, _Search] = {}

    def path(self, source: str, target: str) -> tuple[Pair, ...] | None:
        """The ends of each link on the way, or None without one."""
        if source == target:
            return ()
        head: tuple[str, ...] = (source,)
        tail: tuple[str, ...] = (target,)
        names: tuple[str, ...]
        if (source, target) in self._links and (source in self.leaves or target in self.leaves):
            return ((source, target),)
        first, last = self.leaves.get(source, source), self.leaves.get(target, target)
        if first != source:
            if (source, first) not in self._links:
                return None
            head = (source, first)
        if last != target:
            if (last, target) not in self._links:
                return None
            tail = (last, target)
        if head[-1] == tail[0]:
            names = (*head, *tail[1:])
        else:
            search = self._searches.get(head[-1])
            if search is None:
                if len(self._searches) >= _MOST_SEARCHES:
                    del self._searches[next(iter(self._searches))]
                search = self._searches[head[-1]] = _Search(self, head[-1])
            between = search.path(tail[0])
            if between is None:
                return None
            names = (*head, *between[1:], *tail[1:])
        return tuple(pairwise(names))

    def links(self, pairs: Iterable[Pair]) -> tuple[Link, ...]:
        """The links with these ends."""
        return tuple(self._links[pair] for pair in pairs)

    def least_ns(self, nodes: Sequence[str]) -> int | None:
        """The least delay between two different ones of `nodes`, jitter at its most favorable; None
        where none reaches another.

        One search from all of them at once, in which a node may be reached from two of them; it is
        over when one of `nodes` is reached from another.
        """
        wanted = frozenset(nodes)
        seen: dict[str, list[str]] = {}
        open_ = [(0, name, name) for name in sorted(wanted)]
        while open_:
            delay_ns, name, origin = heapq.heappop(open_)
            origins = seen.setdefault(name, [])
            if origin in origins or len(origins) == 2:
                continue
            if name in wanted and origin != name:
                return delay_ns
            origins.append(origin)
            for neighbor, link_ns in self._least.get(name, {}).items():
                heapq.heappush(open_, (delay_ns + link_ns, neighbor, origin))
        return None
