"""How soon a message can be anywhere, at the soonest: the promise by which time moves in windows.

The promise is made once, for all links up and as the topology has them. What goes away or gets
slower never breaks it. What can get sooner than that (jitter reaches below a delay, and what is
reordered skips it) is looked at link by link: only as far around it as the promise reaches.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence

from broker.network.chance import least_delay_s
from broker.network.routes import Pair, to_ns
from topologies import Link

_Delays = dict[str, dict[str, int]]


class Lookahead:
    """The least delay between nodes over `links`, jitter at its most favorable."""

    def __init__(self, links: Iterable[Link]) -> None:
        self._own: dict[Pair, int] = {}
        self._out: _Delays = {}
        self._in: _Delays = {}
        for link in links:
            self._own[link.ends] = least_ns = to_ns(least_delay_s(link))
            self._set(link.ends, least_ns)
        self._asked: tuple[str, ...] = ()
        self._wanted: frozenset[str] = frozenset()
        self._promised: int | None = None
        # Links that are sooner than their own now, with what is the least over them.
        self._sooner: dict[Pair, int | None] = {}
        self._least: list[tuple[int, Pair]] = []

    def change(self, link: Link) -> None:
        """The link is so from now on."""
        ends, own_ns = link.ends, self._own[link.ends]
        least_ns = min(to_ns(least_delay_s(link)), own_ns)
        if least_ns == self._out[link.source][link.target]:
            return
        self._set(ends, least_ns)
        if least_ns == own_ns:
            del self._sooner[ends]
        else:
            self._look_around(ends)

    def least_ns(self, nodes: Sequence[str]) -> int | None:
        """No message between two different ones of `nodes` is there sooner; None where none ever
        reaches another.
        """
        asked = tuple(nodes)
        if asked != self._asked:
            self._asked, self._wanted = asked, frozenset(asked)
            self._promised = self._search()
            self._least = []
            for ends in self._sooner:
                self._look_around(ends)
        while self._least and self._sooner.get(self._least[0][1]) != self._least[0][0]:
            heapq.heappop(self._least)
        if self._promised is None or not self._least:
            return self._promised
        return min(self._promised, self._least[0][0])

    def _set(self, ends: Pair, least_ns: int) -> None:
        self._out.setdefault(ends[0], {})[ends[1]] = least_ns
        self._in.setdefault(ends[1], {})[ends[0]] = least_ns

    def _search(self) -> int | None:
        """One search from all of them at once, in which a node may be reached from two of them; it
        is over when one is reached from another. Links that are sooner now are as ever.
        """
        seen: dict[str, list[str]] = {}
        open_ = [(0, name, name) for name in sorted(self._wanted)]
        while open_:
            delay_ns, name, origin = heapq.heappop(open_)
            origins = seen.setdefault(name, [])
            if origin in origins or len(origins) == 2:
                continue
            if name in self._wanted and origin != name:
                return delay_ns
            origins.append(origin)
            for neighbor in self._out.get(name, {}):
                heapq.heappush(open_, (delay_ns + self._own[name, neighbor], neighbor, origin))
        return None

    def _look_around(self, ends: Pair) -> None:
        """Notes the least delay over this link, where that is less than what was promised."""
        self._sooner[ends] = least = None
        if self._promised is None:
            return
        link_ns = self._out[ends[0]][ends[1]]
        within_ns = self._promised - link_ns
        for before_ns, source in self._nearest(ends[0], self._in, within_ns):
            for after_ns, target in self._nearest(ends[1], self._out, within_ns - before_ns):
                over_ns = before_ns + link_ns + after_ns
                if source != target and (least is None or over_ns < least):
                    least = over_ns
        if least is not None:
            self._sooner[ends] = least
            heapq.heappush(self._least, (least, ends))

    def _nearest(
        self, start: str, delays: Mapping[str, Mapping[str, int]], within_ns: int
    ) -> list[tuple[int, str]]:
        """The two of the nodes that are nearest to `start`, as far as they are within that."""
        nearest: list[tuple[int, str]] = []
        seen: set[str] = set()
        open_ = [(0, start)] if within_ns > 0 else []
        while open_ and len(nearest) < 2:
            delay_ns, name = heapq.heappop(open_)
            if name in seen:
                continue
            seen.add(name)
            if name in self._wanted:
                nearest.append((delay_ns, name))
            for neighbor, link_ns in delays.get(name, {}).items():
                if delay_ns + link_ns < within_ns and neighbor not in seen:
                    heapq.heappush(open_, (delay_ns + link_ns, neighbor))
        return nearest
