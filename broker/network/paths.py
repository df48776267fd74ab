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

    `users` may still name flows that have ended; whoever looks drops them. `free_ns` is when the
    last datagram in its queue is through.
    """

    __slots__ = ("capacity", "free_ns", "name", "users")

    def __init__(self, name: object, capacity: float) -> None:
        self.name, self.capacity = name, capacity
        self.users: dict[int, Flow] = {}
        self.free_ns = 0


class Path:
    """A route as it is now.

    Attributes:
        speed: bytes a nanosecond that a flow alone has.
        travel_ns: from a segment's last bit at the bottleneck to its arrival.
        per_byte_ns: what each byte of a first segment takes more, over the other links of the
            route: each forwards a segment once it has all of it.
        rtt_ns: round trip of a full segment and its acknowledgment, without queues.
        jitter: draws what jitter adds to `travel_ns`, or None; at least `-jitter_most_ns`.
        losses: what segments are lost to: its purpose (for its stream of chance), loss and burst.
        queue_bytes: what can wait at the slowest link.
        standing_ns: the mean wait in it where flows that never end fill it.
        utilization: what of the bandwidth a flow alone can use with that queue.
    """

    __slots__ = (
        "bandwidth_bps", "delay_s", "jitter", "jitter_most_ns", "links", "losses", "per_bit",
        "per_byte_ns", "queue_bytes", "resources", "rtt_ns", "speed", "standing_ns", "travel_ns",
        "uses", "utilization",
    )  # fmt: skip

    def __init__(
        self,
        links: Sequence[Link],
        back: Sequence[Link] | None,
        resource: Callable[[Link], Resource],
        transport: Transport,
    ) -> None:
        self.links = tuple(links)
        taken: dict[Resource, float] = {}
        for link in links:
            shared = resource(link)
            per_bit = 1 / link.bandwidth_bps if link.medium else 1.0
            taken[shared] = taken.get(shared, 0.0) + per_bit
        self.resources = tuple(taken)
        self.per_bit = tuple(taken.values())
        self.uses = tuple(Use(shared, per_bit) for shared, per_bit in taken.items())
        self.bandwidth_bps = min(
            shared.capacity / per_bit for shared, per_bit in taken.items()
        )  # fmt: skip
        self.speed = self.bandwidth_bps / 8e9
        self.delay_s = sum(link.delay_s for link in links)
        self.travel_ns = sum(to_ns(link.delay_s) for link in links)
        byte_ns = [8e9 / link.bandwidth_bps for link in links]
        self.per_byte_ns = sum(byte_ns) - max(byte_ns)
        returning = links if back is None else back
        there_ns = self.travel_ns + sum(byte_ns) * (
            transport.segment_bytes + transport.header_bytes
        )
        back_ns = sum(to_ns(link.delay_s) + 8e9 / link.bandwidth_bps * ACK_BYTES
                      for link in returning)  # fmt: skip
        self.rtt_ns = max(round(there_ns + back_ns), LEAST_RTT_NS)
        strays = [link for link in links if link.jitter_s > 0]
        self.jitter = _jitter(strays) if strays else None
        self.jitter_most_ns = sum(
            to_ns(link.delay_s) - to_ns(max(link.delay_s + link.jitter_s * quantile(link)(0), 0))
            for link in strays
        )
        self.losses = tuple(
            (purpose, loss, burst)
            for link in links
            for purpose, loss, burst in (
                (f"loss {link.source}>{link.target}", link.loss, link.burst),
                (f"corrupt {link.source}>{link.target}", link.corrupt, 1.0),
            )
            if loss > 0
        )
        slowest = min(links, key=lambda link: link.bandwidth_bps)
        self.queue_bytes = queue_bytes(slowest)
        product = self.rtt_ns * self.speed
        self.utilization = 1.0
        if slowest.queue == "codel":
            self.standing_ns = round(CODEL_TARGET_S * 1e9)
        else:
            self.utilization = laws.utilization(transport.congestion, self.queue_bytes / product)
            queued = laws.standing(transport.congestion, self.queue_bytes / product) * product
            self.standing_ns = round(queued / self.speed)

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
