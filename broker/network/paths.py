"""What a flow needs to know of its way, worked out once for as long as the way is as it is.

A *resource* is what flows share: a link's bandwidth, or a medium's time. It knows who uses it. A
`Path` is the resources of a route with what each takes for a bit, and the times of the route.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from broker.network import laws
from broker.network.chance import quantile
from broker.network.routes import to_ns
from broker.network.sharing import Use
from topologies import Link, Transport

if TYPE_CHECKING:
    from broker.network.flow import Flow

QUEUE_S = 0.1
LEAST_QUEUE_BYTES, MOST_QUEUE_BYTES = 64 * 2**10, 4 * 2**20
CODEL_TARGET_S = 0.005
ACK_BYTES = 66
LEAST_RTT_NS = 1_000


def queue_bytes(link: Link) -> int:
    """What can wait before a link.

    Without a setting of its own: what it sends in 100 ms (the rule of thumb of one round trip times
    the bandwidth, Villamizar and Song 1994, for the round trip of a long way), but at least 64 KiB,
    which bursts of small windows need, and at most the 4 MiB that ports of switches have.
    """
    if link.queue_bytes is not None:
        return link.queue_bytes
    wanted = int(link.bandwidth_bps * QUEUE_S / 8)
    return min(max(wanted, LEAST_QUEUE_BYTES), MOST_QUEUE_BYTES)


class Resource:
    """A link or a medium, and the flows that are sending over it.

    `users` may still name flows that have ended; whoever looks drops them. `background` is what
    those of them send that do not give way, in bit/s. `free_ns` is when the last packet in its
    queue is through, and `idle_ns` when a packet last found it idle.
    """

    __slots__ = ("background", "capacity", "free_ns", "idle_ns", "name", "users")

    def __init__(self, name: object, capacity: float) -> None:
        self.name, self.capacity = name, capacity
        self.users: dict[int, Flow] = {}
        self.background: dict[int, float] = {}
        self.free_ns = 0
        self.idle_ns = 0

    def take(self, at_ns: int, for_ns: int) -> int:
        """A train takes it for so long, behind those that are queued; returns until when."""
        free_ns = self.free_ns
        if free_ns <= at_ns:
            free_ns = at_ns
            if len(self.users) == len(self.background):
                self.idle_ns = at_ns
        self.free_ns = free_ns = free_ns + for_ns
        return free_ns

    def take_alike(self, instants: Sequence[int], free: Sequence[int], for_ns: int) -> None:
        """Trains took it at these instants for so long each, the last of them until `free[-1]`."""
        self.free_ns = free[-1]
        for at_ns, free_ns in zip(reversed(instants), reversed(free), strict=True):
            if free_ns - for_ns == at_ns:
                self.idle_ns = at_ns
                break


class Leg:
    """A link as it is now, with what every way over it needs to know of it.

    `jitter_most_ns` is by how much jitter can shorten its delay; the rest as in `Path`. It is
    `stale` once the link is another.
    """

    __slots__ = (
        "byte_ns", "delay_ns", "jitter_most_ns", "link", "losses", "per_bit", "resource", "stale",
    )  # fmt: skip

    def __init__(self, link: Link, resource: Resource) -> None:
        self.link, self.resource = link, resource
        self.stale = False
        self.per_bit = 1 / link.bandwidth_bps if link.medium else 1.0
        self.byte_ns = 8e9 / link.bandwidth_bps
        self.delay_ns = to_ns(link.delay_s)
        self.jitter_most_ns = 0
        if link.jitter_s > 0:
            least_s = max(link.delay_s + link.jitter_s * quantile(link)(0), 0)
            self.jitter_most_ns = self.delay_ns - to_ns(least_s)
        self.losses = tuple(
            (f"{purpose} {link.source}>{link.target}", loss, burst)
            for purpose, loss, burst in (
                ("loss", link.loss, link.burst),
                ("corrupt", link.corrupt, 1.0),
            )
            if loss > 0
        )


class Path:
    """A route as it is now.

    Attributes:
        hops: each resource on the way, and the nanoseconds that a byte takes of it.
        speed: bytes a nanosecond that a flow alone has.
        travel_ns: from a segment's last bit at the bottleneck to its arrival.
        per_byte_ns: what each byte of a first segment takes more, over the other links of the
            route: each forwards a segment once it has all of it.
        rtt_ns: round trip of a full segment and its acknowledgment, without queues.
        neck: the slowest link, if every other is at least twice as fast: then bursts of slow start
            come to its queue as they were sent, one sender's behind the other's.
        jitter: draws what jitter adds to `travel_ns`, or None; at least `-jitter_most_ns`.
        losses: what segments are lost to: its purpose (for its stream of chance), loss and burst.
        queue_bytes: what can wait at the slowest link.
        plain: whether it takes of each resource what its rate is (no media).
    """

    __slots__ = (
        "_back", "_congestion", "_legs", "_slowest", "_standing", "_uses", "bandwidth_bps", "hops",
        "jitter", "jitter_most_ns", "losses", "neck", "per_bit", "per_byte_ns", "plain",
        "queue_bytes",
        "resources", "rtt_ns", "speed", "travel_ns",
    )  # fmt: skip

    def __init__(self, legs: Sequence[Leg], back: Sequence[Leg], transport: Transport) -> None:
        taken: dict[Resource, float] = {}
        hops: dict[Resource, float] = {}
        travel_ns, bytes_ns, slowest_ns = 0, 0.0, 0.0
        losses: tuple[tuple[str, float, float], ...] = ()
        self.jitter_most_ns = 0
        self.jitter = None
        for leg in legs:
            resource, byte_ns = leg.resource, leg.byte_ns
            taken[resource] = taken.get(resource, 0.0) + leg.per_bit
            hops[resource] = hops.get(resource, 0.0) + byte_ns
            travel_ns += leg.delay_ns
            bytes_ns += byte_ns
            if byte_ns > slowest_ns:
                slowest_ns, self._slowest = byte_ns, leg.link
            if leg.losses:
                losses += leg.losses
            if leg.link.jitter_s > 0:
                self.jitter_most_ns += leg.jitter_most_ns
                self.jitter = _jitter([leg.link for leg in legs if leg.link.jitter_s > 0])
        self._legs, self._back = tuple(legs), tuple(back)
        self.losses = losses
        self.resources = tuple(taken)
        self.per_bit = tuple(taken.values())
        self.plain = self.per_bit.count(1.0) == len(taken)
        self.neck = None
        if self.plain and sum(2 * leg.byte_ns > slowest_ns for leg in legs) == 1:
            self.neck = max(hops, key=hops.__getitem__)
        self.hops = tuple(hops.items())
        self.bandwidth_bps = min([r.capacity / per_bit for r, per_bit in taken.items()])
        self.speed = self.bandwidth_bps / 8e9
        self.travel_ns = travel_ns
        self.per_byte_ns = bytes_ns - slowest_ns
        trip_ns = travel_ns + bytes_ns * (transport.segment_bytes + transport.header_bytes)
        for leg in back or legs:
            trip_ns += leg.delay_ns + leg.byte_ns * ACK_BYTES
        self.rtt_ns = max(round(trip_ns), LEAST_RTT_NS)
        self.queue_bytes = queue_bytes(self._slowest)
        self._congestion = transport.congestion
        self._standing = -1
        self._uses: tuple[Use, ...] | None = None

    def is_as(self, other: Path | None) -> bool:
        """Whether both are the same, link by link as they are now."""
        return other is not None and (self._legs, self._back) == (other._legs, other._back)

    @property
    def is_stale(self) -> bool:
        """Whether one of its links is another now, there or back."""
        return any(leg.stale for leg in (*self._legs, *self._back))

    @property
    def delay_s(self) -> float:
        """Of all its links together."""
        return sum(leg.link.delay_s for leg in self._legs)

    @property
    def uses(self) -> tuple[Use, ...]:
        """What of each resource it takes for a bit."""
        if self._uses is None:
            self._uses = tuple(map(Use, self.resources, self.per_bit))
        return self._uses

    @property
    def standing_ns(self) -> int:
        """The mean wait at the slowest link where flows that never end fill its queue."""
        if self._standing < 0:
            if self._slowest.queue == "codel":
                self._standing = round(CODEL_TARGET_S * 1e9)
            else:
                product = self.rtt_ns * self.speed
                queued = laws.standing(self._congestion, self.queue_bytes / product) * product
                self._standing = round(queued / self.speed)
        return self._standing

    @property
    def utilization(self) -> float:
        """What of the bandwidth a flow alone can use with that queue."""
        if self._slowest.queue == "codel":
            return 1.0
        return laws.utilization(self._congestion, self.queue_bytes / (self.rtt_ns * self.speed))

    @property
    def loss(self) -> float:
        """The share of packets that does not arrive in order."""
        return 1 - math.prod(1 - loss for _, loss, _ in self.losses)


def _jitter(links: Sequence[Link]) -> Callable[[random.Random], int]:
    """Draws what the jitter of these links adds together; no link's delay becomes negative."""
    each = [(quantile(link), link.jitter_s, -link.delay_s) for link in links]

    def draw(chance: random.Random) -> int:
        return round(
            sum(max(of(chance.random()) * jitter_s, least_s) for of, jitter_s, least_s in each)
            * 1e9
        )

    return draw
