"""Who reaches whom over which links: shortest by delay, then by hops, then by name.

A node with one neighbor only never lies between others, so searches run over the rest (in a star of
10,000 nodes: over one), and each goes on only as far as somebody asks. A link that goes or comes
back at such a node moves nobody else's route; one between others has routes searched again. Delays
are whole nanoseconds here, so equal ones are equal.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from itertools import pairwise

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
            for neighbor, link_ns in graph.inner.get(name, {}).items():
                if neighbor not in found:
                    heapq.heappush(open_, (delay_ns + link_ns, hops + 1, (*path, neighbor)))
        return found.get(target)


class Routes:
    """The shortest routes over `links`, which are up until they are dropped.

    `leaves` are the nodes with one neighbor, and that neighbor, whether the links are up or not;
    `inner` the delays of the links between others that are up, by source and target.
    """

    def __init__(self, links: Iterable[Link]) -> None:
        links = tuple(links)
        neighbors: dict[str, str | None] = {}
        for link in links:
            for here, there in (link.ends, link.ends[::-1]):
                if neighbors.setdefault(here, there) != there:
                    neighbors[here] = None
        self.leaves: Mapping[str, str] = {
            name: only for name, only in neighbors.items() if only is not None
        }
        self.inner: dict[str, dict[str, int]] = {}
        self._outer: dict[Pair, None] = {}
        self._searches: dict[str, _Search] = {}
        for link in links:
            self.put(link)

    def is_inner(self, ends: Pair) -> bool:
        """Whether this link can lie between others."""
        return ends[0] not in self.leaves and ends[1] not in self.leaves

    def put(self, link: Link) -> bool:
        """The link is up, with this delay; says whether others' routes may be other ones now."""
        if not self.is_inner(link.ends):
            self._outer[link.ends] = None
            return False
        targets, delay_ns = self.inner.setdefault(link.source, {}), to_ns(link.delay_s)
        if targets.get(link.target) == delay_ns:
            return False
        targets[link.target] = delay_ns
        self._searches.clear()
        return True

    def drop(self, ends: Pair) -> bool:
        """The link is not up; says whether others' routes may be other ones now."""
        self._outer.pop(ends, None)
        if self.inner.get(ends[0], {}).pop(ends[1], None) is None:
            return False
        self._searches.clear()
        return True

    def path(self, source: str, target: str) -> tuple[Pair, ...] | None:
        """The ends of each link on the way, or None without one."""
        if source == target:
            return ()
        if (source, target) in self._outer:
            return ((source, target),)
        first, last = self.leaves.get(source, source), self.leaves.get(target, target)
        if first != source and (source, first) not in self._outer:
            return None
        if last != target and (last, target) not in self._outer:
            return None
        between = self._between(first, last)
        if between is None:
            return None
        head = () if first == source else (source,)
        tail = () if last == target else (target,)
        return tuple(pairwise((*head, *between, *tail)))

    def _between(self, first: str, last: str) -> tuple[str, ...] | None:
        if first == last:
            return (first,)
        search = self._searches.get(first)
        if search is None:
            if len(self._searches) >= _MOST_SEARCHES:
                del self._searches[next(iter(self._searches))]
            search = self._searches[first] = _Search(self, first)
        return search.path(last)
