"""What a plan is judged by, in one place: the time of a round, and the memory of every host.

**Time.** In a round of S steps a client c, whose spans s lie on hosts h(s), does one thing at a
time. If nobody else were there its round would take

    alone(c) = S · own/speed(c) + Σ_s [ S · flops(s)/speed(h) + bits(s) · (1/bw(c→h) + 1/bw(h→c))
               + 2 (S + 1) (delay(c→h) + delay(h→c)) ],     bits(s) = 8 (2 S boundary + adapter(s)):

activations and a gradient each way in every step, the adapter there at the round's beginning and
back at its end. But a device computes one thing at a time, and its uplink and its downlink carry so
many bits a second, for whomever it is; in a round each of the three is busy for

    busy(r) = Σ of what all clients ask of r, the device's own part as a client among it.

All clients take S steps a round and none has two requests out at once, so this is a closed network
of queues, whose cycle is at least the longer of the two (the asymptotic bounds of Denning and
Buzen, ACM Computing Surveys 10(3), 1978), and close to it as soon as the clients fall out of each
other's way, since their demands hardly vary:

    round(c) ≈ max(alone(c), max of busy(r) over the r that c uses)

A plan's first objective is the slowest client's round, which is max(max_c alone, max_r busy). The
second is what is left of waiting for each other, which grows with the squares of what is busy, and
so evens out the load: Σ_c alone(c) + Σ_r busy(r)² / L, where L is a lower bound of the first.

**Memory.** The frozen base of a span once for each host that has it, a session for each client:
Σ_s [n(s,h) > 0] base(s) + n(s,h) session(s) ≤ free(h). Nobody hosts for itself.

Ties are broken by the order in which clients and hosts are given, never by their names.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from atlas.pairing.types import Capability, StepCost, Ways

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
RELATIVE = 1e-9
"""Differences of time smaller than this share of the whole are rounding."""


class Problem:
    """Clients C, hosts H and spans K as arrays, in the order given; seconds of a whole round.

    Args:
        clients: Who needs hosts.
        hosts: Who may host; clients may be among them.
        cost: What a step costs.
        ways: What is known of the routes between pairs.

    Attributes:
        own: [C], computing the client's own part.
        compute: [K, H], computing a span for one client.
        demand: [3, K, H], what one client's span asks of a host's processor, uplink, downlink.
        trips: [C, H], the round trips of a span in a round.
        fixed: [3, H], what a host that is a client itself asks of them in any plan.
    """

    def __init__(
        self,
        clients: Sequence[Capability],
        hosts: Sequence[Capability],
        cost: StepCost,
        ways: Ways | None = None,
    ) -> None:
        self.clients, self.hosts, self.cost = tuple(clients), tuple(hosts), cost
        steps, spans = cost.steps, cost.spans
        self.free: Ints = np.array([host.free_bytes for host in hosts], dtype=np.int64)
        self.base: Ints = np.array([span.base_bytes for span in spans], dtype=np.int64)
        self.session: Ints = np.array([span.session_bytes for span in spans], dtype=np.int64)
        self._bits = np.array(
            [8.0 * (2 * steps * cost.boundary_bytes + span.adapter_bytes) for span in spans]
        )
        self._route(ways or {})
        flops = np.array([span.step_flops for span in spans])
        speed = np.array([host.flops for host in hosts])
        self.own: Floats = steps * cost.own_flops / np.array([one.flops for one in clients])
        self.compute: Floats = steps * flops[:, None] / speed
        uplink = np.array([host.uplink_bps for host in hosts])
        downlink = np.array([host.downlink_bps for host in hosts])
        bits = self._bits[:, None]
        self.demand: Floats = np.stack([self.compute, bits / uplink, bits / downlink])
        self.fixed: Floats = np.zeros((3, len(hosts)))
        place = {host.name: index for index, host in enumerate(hosts)}
        self.itself: Ints = np.array(
            [place.get(client.name, -1) for client in clients], dtype=np.int64
        )
        for client, host in enumerate(self.itself):
            if host >= 0:
                total = self._bits.sum()
                own = (self.own[client], total / uplink[host], total / downlink[host])
                self.fixed[:, host] = own
        alone = self.base[:, None] + self.session[:, None]
        self.able: Bools = alone <= self.free
        self.least: Floats = np.array(
            [
                [self.seconds(client, span).min(initial=np.inf) for span in range(len(spans))]
                for client in range(len(clients))
            ]
        )
        self.bound = self._bound()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, K, H)."""
        return len(self.clients), len(self.cost.spans), len(self.hosts)

    def seconds(self, client: int, span: int) -> Floats:
        """[H], what a client's round grows by if the host takes the span, were nobody else there.

        Infinite for itself, and for hosts that could not hold it if it were all they held.
        """
        times: Floats = (
            self.trips[client] + self._bits[span] * self._per_bit[client] + self.compute[span]
        )
        times = np.where(self.able[span], times, np.inf)
        if self.itself[client] >= 0:
            times[self.itself[client]] = np.inf
        return times

    def seconds_on(self, clients: Ints, spans: Ints, hosts: Ints | int) -> Floats:
        """[n], the same of many (client, span, host)."""
        times = self.trips[clients, hosts] + self._bits[spans] * self._per_bit[clients, hosts]
        refused = ~self.able[spans, hosts] | (self.itself[clients] == hosts)
        return np.where(refused, np.inf, times + self.compute[spans, hosts])

    def second(self, client: int, span: int, host: int) -> float:
        """The same of one host that is able."""
        way = self.trips[client, host] + self._bits[span] * self._per_bit[client, host]
        return float(way + self.compute[span, host])

    def _route(self, ways: Ways) -> None:
        def both(name: str) -> tuple[Floats, Floats]:
            of_clients = np.array([getattr(client, name) for client in self.clients], dtype=float)
            of_hosts = np.array([getattr(host, name) for host in self.hosts], dtype=float)
            return of_clients[:, None], of_hosts[None, :]

        (up, host_up), (down, host_down) = both("uplink_bps"), both("downlink_bps")
        near, far = both("delay_s")
        there, back = np.minimum(up, host_down), np.minimum(host_up, down)
        delay = 2 * (near + far)
        if ways:
            for c, client in enumerate(self.clients):
                for h, host in enumerate(self.hosts):
                    out = ways.get((client.name, host.name))
                    home = ways.get((host.name, client.name))
                    if out is not None and home is not None:
                        there[c, h], back[c, h] = out.bandwidth_bps, home.bandwidth_bps
                        delay[c, h] = out.delay_s + home.delay_s
        self._per_bit: Floats = 1 / there + 1 / back
        self.trips: Floats = 2 * (self.cost.steps + 1) * delay

    def _bound(self) -> float:
        """No plan's slowest round is shorter: every client alone on its best hosts; and all spans
        have to find a place on hosts whose memory and time is enough for so many.
        """
        clients, spans, hosts = self.shape
        if not clients or not hosts:
            return 0.0
        alone = float((self.own + self.least.sum(axis=1)).max())
        room = np.array([rooms(int(free), self.base, self.session) for free in self.free])
        with np.errstate(divide="ignore", invalid="ignore"):
            each = self.demand.min(axis=1)
            low, high = alone, alone + float((self.fixed + clients * spans * each).max())

            def places(seconds: float) -> int:
                most = np.floor((seconds * (1 + RELATIVE) - self.fixed) / each).min(axis=0)
                return int(np.minimum(np.maximum(most, 0), room).sum())

            if places(low) < clients * spans and places(high) >= clients * spans:
                for _ in range(60):
                    middle = (low + high) / 2
                    low, high = (
                        (middle, high) if places(middle) < clients * spans else (low, middle)
                    )
        return low


def rooms(free: int, base: Ints, session: Ints) -> int:
    """At most how many jobs fit on a host, for any mix of spans: one base, then sessions alone."""
    least = int(base.min() + session.min())
    return 0 if least > free else 1 + int((free - least) // max(int(session.min()), 1))


class Arrangement:
    """Which host has which (client, span), and what that comes to; changed in place.

    Attributes:
        host_of: [C, K], -1 where there is none yet.
        count: [K, H], sessions.
        need: [H], bytes.
        busy: [3, H] and alone: [C], seconds. A span without a host counts as on its best.
    """

    def __init__(self, problem: Problem) -> None:
        clients, spans, hosts = problem.shape
        self.problem = problem
        self.host_of: Ints = np.full((clients, spans), -1, dtype=np.int64)
        self.count: Ints = np.zeros((spans, hosts), dtype=np.int64)
        self.need: Ints = np.zeros(hosts, dtype=np.int64)
        self.busy: Floats = problem.fixed.copy()
        self.alone: Floats = problem.own + problem.least.sum(axis=1)

    def copy(self) -> Arrangement:
        """Another that can be changed by itself."""
        other = Arrangement.__new__(Arrangement)
        other.problem = self.problem
        other.host_of, other.count = self.host_of.copy(), self.count.copy()
        other.need, other.busy = self.need.copy(), self.busy.copy()
        other.alone = self.alone.copy()
        return other

    def become(self, other: Arrangement) -> None:
        """What that one is, which must not be used any more."""
        self.host_of, self.count, self.need = other.host_of, other.count, other.need
        self.busy, self.alone = other.busy, other.alone

    def put(self, client: int, span: int, host: int) -> None:
        """Gives the span to a host; it must have none."""
        self._change(client, span, host, 1)
        self.host_of[client, span] = host

    def take(self, client: int, span: int) -> int:
        """Takes the span from its host, which is returned."""
        host = int(self.host_of[client, span])
        self._change(client, span, host, -1)
        self.host_of[client, span] = -1
        return host

    def _change(self, client: int, span: int, host: int, by: int) -> None:
        problem = self.problem
        self.count[span, host] += by
        if self.count[span, host] == (1 if by > 0 else 0):
            self.need[host] += by * problem.base[span]
        self.need[host] += by * problem.session[span]
        self.busy[:, host] += by * problem.demand[:, span, host]
        longer = problem.second(client, span, host) - problem.least[client, span]
        self.alone[client] += by * longer

    def fits(self, client: int, span: int) -> Bools:
        """[H], who has room for it beside what it has, and may take it."""
        problem = self.problem
        base = np.where(self.count[span] == 0, problem.base[span], 0)
        room: Bools = self.need + base + problem.session[span] <= problem.free
        if problem.itself[client] >= 0:
            room[problem.itself[client]] = False
        return room

    @property
    def round_s(self) -> float:
        """The slowest client's round: the first objective."""
        return float(max(self.alone.max(initial=0.0), self.busy.max(initial=0.0)))

    @property
    def waiting_s(self) -> float:
        """The second objective."""
        bound = self.problem.bound or 1.0
        return float(self.alone.sum() + np.square(self.busy).sum() / bound)

    @property
    def holds(self) -> bool:
        """Whether everything has a host, and nobody more than its memory holds, nor itself."""
        itself = self.problem.itself[:, None]
        return bool(
            (self.host_of >= 0).all()
            and (self.need <= np.maximum(self.problem.free, 0)).all()
            and ((self.host_of != itself) | (itself < 0)).all()
        )

    def round_of(self, client: int) -> float:
        """What this client's round is predicted to take."""
        used = list(self.host_of[client])
        if self.problem.itself[client] >= 0:
            used.append(self.problem.itself[client])
        return float(max(self.alone[client], self.busy[:, used].max()))

    def names(self, client: int) -> tuple[str, ...]:
        """The client's hosts, span by span."""
        return tuple(self.problem.hosts[host].name for host in self.host_of[client])
