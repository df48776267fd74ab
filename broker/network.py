"""The network as a pure state machine: sends, faults and time in; fates of messages out.

No sockets and no clock of its own. `send`, `apply` and `advance` are told the instant; `next_ns`
says when something will happen next. Later traffic moves earlier arrivals, so nobody is told an
arrival before it has happened.

The model is a fluid one. Each ordered pair of nodes has one flow, first in, first out inside. A
flow crosses the links of the route that is shortest by delay, and flows share every link they cross
by max-min fairness, each direction on its own. A message has arrived when its last bit has crossed
the slowest point and then travelled the route's delay, plus jitter drawn from the flow's own seeded
stream; jitter never reorders a flow.

Sizes on the wire count headers: 66 bytes (Ethernet, IPv4, TCP with time stamps) for each segment of
1,448 bytes. Under loss p a flow carries no more than Mathis et al. (1997) give a Reno sender,
MSS ÷ RTT · √(3 ÷ 2p), and sends each bit 1 ÷ (1 - p) times.

Streams don't lose what waits for a path: without one a flow stalls, and it goes on when the path is
back and its retransmission timer (0.2 s, doubled each time) fires. Only the death of an end, or
`stream_timeout_s` without a path, loses messages.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from broker.clock import NANOSECONDS, to_ns
from faults import Conditions
from topologies import Link, Topology

SEGMENT_BYTES = 1_448
HEADER_BYTES = 66
MINIMUM_RTT_S = 1e-4
RETRANSMISSION_S = 0.2
STREAM_TIMEOUT_S = 600.0

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Parcel:
    """What the network knows of a message."""

    number: int
    source: str
    destination: str
    size_bytes: int


class Fate(NamedTuple):
    """How a parcel ended. `reason` is empty for an arrival, else why it was lost."""

    number: int
    at_ns: int
    reason: str = ""
    copy: int = 0
    last: bool = True


def wire_bytes(size_bytes: int) -> int:
    """Bytes on the wire for a message of `size_bytes`, headers of its segments counted."""
    segments = max(1, math.ceil(size_bytes / SEGMENT_BYTES))
    return size_bytes + segments * HEADER_BYTES


def max_min(
    routes: Mapping[Pair, tuple[Pair, ...]],
    capacity_bps: Mapping[Pair, float],
    caps_bps: Mapping[Pair, float],
) -> dict[Pair, float]:
    """Max-min fair rates in bit/s by progressive filling.

    `routes` gives the links that each flow crosses, `capacity_bps` each link's capacity, and
    `caps_bps` the most a flow can take by itself. All rates rise together until a link is full or a
    flow has reached its cap; what is bound then stays, the others rise on.
    """
    rates = dict.fromkeys(routes, 0.0)
    rising = dict.fromkeys(routes)
    left = {link: capacity_bps[link] for route in routes.values() for link in route}
    while rising:
        crossing: dict[Pair, int] = {}
        for flow in rising:
            for link in routes[flow]:
                crossing[link] = crossing.get(link, 0) + 1
        steps = [left[link] / count for link, count in crossing.items()]
        steps += [caps_bps[flow] - rates[flow] for flow in rising]
        step = max(min(steps), 0.0)
        for flow in rising:
            rates[flow] += step
        for link, count in crossing.items():
            left[link] -= step * count
        full = {link for link in crossing if left[link] <= capacity_bps[link] * 1e-12}
        bound = [
            flow
            for flow in rising
            if rates[flow] >= caps_bps[flow] * (1 - 1e-12)
            or any(link in full for link in routes[flow])
        ]
        if not bound:
            break
        for flow in bound:
            del rising[flow]
    return rates


@dataclass(slots=True)
class _Flow:
    """Messages from one node to another, in order. The head's bits drain at `rate_bps`."""

    pair: Pair
    jitter: random.Random
    queue: deque[Parcel] = field(default_factory=deque)
    remaining_bits: float = 0.0
    rate_bps: float = 0.0
    since_ns: int = 0
    version: int = 0
    route: tuple[Pair, ...] | None = None
    last_arrival_ns: int = 0
    stalled_ns: int | None = None
    resume_ns: int | None = None


class Network:
    """The network of a topology under changing conditions. Deterministic in (topology, seed,
    calls).
    """

    def __init__(
        self, topology: Topology, seed: int, *, stream_timeout_s: float = STREAM_TIMEOUT_S
    ) -> None:
        self._topology = topology
        self._seed = seed
        self._stream_timeout_ns = to_ns(stream_timeout_s)
        self._conditions = Conditions()
        self._links: dict[Pair, Link] = {}
        self._outgoing: dict[str, list[Link]] = {}
        self._routes: dict[str, dict[str, tuple[Pair, ...]]] = {}
        self._flows: dict[Pair, _Flow] = {}
        self._crossing: dict[Pair, dict[Pair, None]] = {}
        self._drained: list[tuple[int, Pair, int]] = []
        self._arrivals: list[tuple[int, int, Pair]] = []
        self._under_way: dict[int, Pair] = {}
        self._lost: list[Fate] = []
        self._look_up_links()

    # Questions.

    def next_ns(self) -> int | None:
        """The next instant at which a fate is decided or a rate changes, or None."""
        if self._lost:
            return self._lost[0].at_ns
        self._forget_stale()
        candidates = [heap[0][0] for heap in (self._drained, self._arrivals) if heap]
        return min(candidates, default=None)

    def in_flight(self) -> int:
        """How many parcels are neither delivered nor lost."""
        return sum(len(flow.queue) for flow in self._flows.values()) + len(self._under_way)

    def route(self, source: str, destination: str) -> tuple[Link, ...] | None:
        """The links from source to destination as they are now, or None without a path."""
        if self._conditions.blocked(source, destination):
            return None
        pairs = self._routes_from(source).get(destination)
        return None if pairs is None else tuple(self._links[pair] for pair in pairs)

    # What happens.

    duplicated = 0

    def lookahead_ns(self, _: object) -> int:
        soonest_s = min((link.delay_s - link.jitter_s for link in self._links.values()), default=1)
        return max(0, to_ns(soonest_s))

    def arrivals(self, until_ns: int) -> list[Fate]:
        fates = []
        while self._arrivals and self._arrivals[0][0] <= until_ns:
            at_ns, number, _ = heapq.heappop(self._arrivals)
            if self._under_way.pop(number, None) is not None:
                fates.append(Fate(number, at_ns))
        return fates

    def send(
        self,
        now_ns: int,
        number: int,
        source: str,
        destination: str,
        size_bytes: int,
        *,
        datagram: bool = False,  # noqa: ARG002
    ) -> None:
        """A node hands a message over. One for a node that is down is lost at once."""
        parcel = Parcel(number, source, destination, size_bytes)
        decided = self.advance(now_ns)
        self._lost = decided
        if not self._conditions.is_up(parcel.destination):
            self._lost.append(Fate(parcel.number, now_ns, "destination down"))
            return
        pair = (parcel.source, parcel.destination)
        flow = self._flows.get(pair)
        if flow is None:
            stream = random.Random(f"{self._seed}:jitter:{pair[0]}:{pair[1]}")
            flow = self._flows[pair] = _Flow(pair, stream)
        flow.queue.append(parcel)
        if len(flow.queue) == 1:
            self._start_head(flow, now_ns)

    def apply(self, now_ns: int, conditions: Conditions) -> None:
        """From now on the network is as `conditions` say; what is in flight is planned anew."""
        before, self._conditions = self._conditions, conditions
        for name in self._topology.nodes:
            if before.is_up(name) and not conditions.is_up(name):
                self._lose_ends(now_ns, name)
        self._look_up_links()
        for flow in list(self._flows.values()):
            if flow.queue:
                self._progress(flow, now_ns)
                self._take_route(flow, now_ns)
        self._solve(now_ns, self._flows.values())

    def advance(self, to_ns: int) -> list[Fate]:
        """Moves time to `to_ns`; returns what was decided until then, in order of time."""
        fates, self._lost = self._lost, []
        while (due := self.next_ns()) is not None and due <= to_ns:
            if self._arrivals and self._arrivals[0][0] == due:
                at_ns, number, _ = heapq.heappop(self._arrivals)
                if self._under_way.pop(number, None) is not None:
                    fates.append(Fate(number, at_ns))
            else:
                at_ns, pair, _ = heapq.heappop(self._drained)
                self._wake(self._flows[pair], at_ns)
            fates.extend(self._lost)
            self._lost = []
        return fates

    # Links and routes.

    def _look_up_links(self) -> None:
        self._links = {
            pair: self._conditions.link(link) for pair, link in self._topology.links.items()
        }
        self._outgoing = {name: [] for name in self._topology.nodes}
        for (source, target), link in self._links.items():
            usable = link.bandwidth_bps > 0 and link.loss < 1
            if usable and self._conditions.is_up(source) and self._conditions.is_up(target):
                self._outgoing[source].append(link)
        self._routes = {}

    def _routes_from(self, source: str) -> dict[str, tuple[Pair, ...]]:
        """Shortest routes by delay, then by hops, then by name, to all that can be reached."""
        known = self._routes.get(source)
        if known is not None:
            return known
        routes: dict[str, tuple[Pair, ...]] = {}
        queue: list[tuple[float, int, str, tuple[Pair, ...]]] = [(0.0, 0, source, ())]
        while queue:
            delay_s, hops, name, path = heapq.heappop(queue)
            if name in routes:
                continue
            routes[name] = path
            for link in self._outgoing.get(name, ()):
                if link.target not in routes:
                    heapq.heappush(
                        queue,
                        (
                            delay_s + link.delay_s,
                            hops + 1,
                            link.target,
                            (*path, (link.source, link.target)),
                        ),
                    )
        self._routes[source] = routes
        return routes

    # Flows.

    def _start_head(self, flow: _Flow, now_ns: int) -> None:
        size = wire_bytes(flow.queue[0].size_bytes)
        flow.remaining_bits = size * 8.0
        flow.since_ns = now_ns
        self._take_route(flow, now_ns)
        self._solve(now_ns, [flow])

    def _take_route(self, flow: _Flow, now_ns: int) -> None:
        """Puts the flow on the route of now; without one it stalls, with one again it resumes."""
        links = self.route(*flow.pair)
        if links is None:
            self._leave(flow)
            if flow.stalled_ns is None:
                flow.stalled_ns = now_ns
            flow.resume_ns = None
            return
        if flow.stalled_ns is not None:
            flow.resume_ns = _retransmission_after(flow.stalled_ns, now_ns)
            flow.stalled_ns = None
        if flow.resume_ns is not None and now_ns < flow.resume_ns:
            self._leave(flow)
            return
        flow.resume_ns = None
        route = tuple((link.source, link.target) for link in links)
        if route != flow.route:
            self._leave(flow)
            flow.route = route
            for pair in route:
                self._crossing.setdefault(pair, {})[flow.pair] = None

    def _leave(self, flow: _Flow) -> None:
        for pair in flow.route or ():
            crossing = self._crossing[pair]
            crossing.pop(flow.pair, None)
            if not crossing:
                del self._crossing[pair]
        flow.route = None

    def _progress(self, flow: _Flow, now_ns: int) -> None:
        if flow.rate_bps and flow.route is not None and not math.isinf(flow.rate_bps):
            done = flow.rate_bps * (now_ns - flow.since_ns) / NANOSECONDS
            flow.remaining_bits = max(flow.remaining_bits - done, 0.0)
        flow.since_ns = now_ns

    def _solve(self, now_ns: int, changed: Iterable[_Flow]) -> None:
        """Shares the links anew, in the part of the network that `changed` touches."""
        touched: dict[Pair, _Flow] = {}
        open_ = [flow for flow in changed if flow.queue]
        while open_:
            flow = open_.pop()
            if flow.pair in touched:
                continue
            touched[flow.pair] = flow
            for link in flow.route or ():
                open_.extend(
                    self._flows[pair] for pair in self._crossing[link] if pair not in touched
                )
        self._share(now_ns, touched)

    def _share(self, now_ns: int, touched: Mapping[Pair, _Flow]) -> None:
        moving = {pair: flow.route for pair, flow in sorted(touched.items()) if flow.route}
        capacity = {
            link: self._links[link].bandwidth_bps for route in moving.values() for link in route
        }
        caps = {pair: self._cap_bps(route) for pair, route in moving.items()}
        if len(moving) == 1:  # nobody to share with, as often
            rates = {pair: min(*capacity.values(), caps[pair]) for pair in moving}
        else:
            rates = max_min(moving, capacity, caps)
        for pair, flow in touched.items():
            self._progress(flow, now_ns)
            if flow.route == ():
                flow.rate_bps = math.inf
            elif flow.route is None:
                flow.rate_bps = 0.0
            else:
                flow.rate_bps = rates[pair] * _goodput(self._links[link] for link in flow.route)
            flow.version += 1
            self._plan(flow, now_ns)

    def _cap_bps(self, route: tuple[Pair, ...]) -> float:
        links = [self._links[pair] for pair in route]
        loss = 1.0 - _goodput(links)
        if loss <= 0:
            return math.inf
        rtt_s = max(2 * sum(link.delay_s for link in links), MINIMUM_RTT_S)
        return SEGMENT_BYTES * 8 / rtt_s * math.sqrt(1.5 / loss)

    def _plan(self, flow: _Flow, now_ns: int) -> None:
        """When the head has drained, or the flow has to look for its path again."""
        if flow.route is None:
            due = flow.resume_ns
            if due is None:
                since_ns = now_ns if flow.stalled_ns is None else flow.stalled_ns
                due = since_ns + self._stream_timeout_ns
        elif math.isinf(flow.rate_bps):
            due = now_ns
        else:
            due = now_ns + math.ceil(flow.remaining_bits / flow.rate_bps * NANOSECONDS)
        heapq.heappush(self._drained, (due, flow.pair, flow.version))

    def _forget_stale(self) -> None:
        heap = self._drained
        while heap:
            _, pair, version = heap[0]
            flow = self._flows[pair]
            if flow.version == version and flow.queue:
                break
            heapq.heappop(heap)
        while self._arrivals and self._arrivals[0][1] not in self._under_way:
            heapq.heappop(self._arrivals)

    def _wake(self, flow: _Flow, now_ns: int) -> None:
        """The instant that `_plan` set has come: the head has left, or a stall ends."""
        if flow.route is None:
            if flow.resume_ns is not None:
                self._take_route(flow, now_ns)
                self._solve(now_ns, [flow])
            else:
                self._lose_queue(flow, now_ns, "stream timeout")
            return
        parcel = flow.queue.popleft()
        arrival_ns = max(now_ns + self._travel_ns(flow), flow.last_arrival_ns)
        flow.last_arrival_ns = arrival_ns
        self._under_way[parcel.number] = flow.pair
        heapq.heappush(self._arrivals, (arrival_ns, parcel.number, flow.pair))
        if flow.queue:
            self._start_head(flow, now_ns)
            return
        neighbors = [
            self._flows[pair]
            for link in flow.route
            for pair in self._crossing[link]
            if pair != flow.pair
        ]
        self._leave(flow)
        flow.version += 1
        if neighbors:
            self._solve(now_ns, neighbors)

    def _travel_ns(self, flow: _Flow) -> int:
        seconds = 0.0
        for pair in flow.route or ():
            link = self._links[pair]
            seconds += link.delay_s
            if link.jitter_s:
                seconds += flow.jitter.uniform(-link.jitter_s, link.jitter_s)
        return max(to_ns(seconds), 0)

    # Losses.

    def _lose_ends(self, now_ns: int, name: str) -> None:
        """A node died: what it had not sent out is lost, and all that was for it."""
        for flow in self._flows.values():
            source, destination = flow.pair
            if destination == name:
                numbers = [number for number, pair in self._under_way.items() if pair == flow.pair]
                for number in numbers:
                    del self._under_way[number]
                    self._lost.append(Fate(number, now_ns, "destination crashed"))
                self._lose_queue(flow, now_ns, "destination crashed")
            elif source == name:
                self._lose_queue(flow, now_ns, "source crashed")

    def _lose_queue(self, flow: _Flow, now_ns: int, reason: str) -> None:
        self._lost.extend(Fate(parcel.number, now_ns, reason) for parcel in flow.queue)
        flow.queue.clear()
        flow.stalled_ns = flow.resume_ns = None
        flow.version += 1
        route = flow.route or ()
        self._leave(flow)
        self._solve(
            now_ns,
            [self._flows[pair] for link in route for pair in self._crossing.get(link, ())],
        )


def _goodput(links: Iterable[Link]) -> float:
    """The share of what is sent that is not lost on the way."""
    share = 1.0
    for link in links:
        share *= 1.0 - link.loss
    return share


def _retransmission_after(stalled_ns: int, path_back_ns: int) -> int:
    """The first instant at or after `path_back_ns` at which the doubled timer fires."""
    wait_s = RETRANSMISSION_S
    at_ns = stalled_ns + to_ns(wait_s)
    while at_ns < path_back_ns:
        wait_s *= 2
        at_ns += to_ns(wait_s)
    return at_ns
