"""Datagrams: each packet on its own, and nobody slows down for the network.

A datagram is a train of IP fragments that travels link by link. At each link it may be lost (one
lost fragment loses it), come twice or damaged (then a checksum finds it at the other end); it waits
behind what is queued there, is dropped where the queue is full, goes at the link's full rate, and
takes the link's delay with its jitter, or none of it where it is reordered (as netem has it).
Datagrams may overtake each other.
"""

from __future__ import annotations

import random

from broker.network import chance
from broker.network.chance import Losses, quantile
from broker.network.paths import Resource, queue_bytes
from broker.network.routes import Pair, to_ns
from broker.network.segments import datagram_bytes, fragments
from topologies import Link, Transport


class Train:
    """One copy of a datagram under way. Its first packet is at `at_node` at `wake_ns`, its last
    `lag_ns` later; it still has to go by way of `relays`.
    """

    __slots__ = ("arriving", "at_node", "copy", "corrupt", "destination", "index", "lag_ns",
                 "number", "packets", "relays", "size", "source", "twins", "wake_ns")  # fmt: skip

    def __init__(
        self, index: int, number: int, source: str, destination: str, size: int, packets: int
    ) -> None:
        self.index, self.number, self.copy = index, number, 0
        self.twins = 0
        self.source, self.destination, self.at_node = source, destination, source
        self.size, self.packets = size, packets
        self.lag_ns = 0
        self.wake_ns = 0
        self.relays: tuple[str, ...] = ()
        self.corrupt = self.arriving = False

    @property
    def goal(self) -> str:
        """Where it goes next: a relay, or its destination."""
        return self.relays[0] if self.relays else self.destination

    def twin(self, index: int) -> Train:
        """The same once more."""
        twin = Train(index, self.number, self.source, self.destination, self.size, self.packets)
        self.twins += 1
        twin.at_node, twin.copy, twin.lag_ns = self.at_node, self.twins, self.lag_ns
        twin.wake_ns, twin.corrupt, twin.relays = self.wake_ns, self.corrupt, self.relays
        return twin


def train(
    index: int, number: int, source: str, destination: str, size: int, transport: Transport
) -> Train:
    """A datagram of `size` bytes that is about to leave."""
    return Train(
        index, number, source, destination,
        datagram_bytes(size, transport), fragments(size, transport),
    )  # fmt: skip


class _Chain:
    """Counts down to the next packet that a link loses of a pair's."""

    __slots__ = ("_left", "_losses")

    def __init__(self, link: Link, drawn: random.Random) -> None:
        self._losses = Losses([(link.loss, link.burst, drawn)])
        self._left = self._losses.gap()

    def loses(self, packets: int) -> bool:
        lost = False
        while self._left < packets:
            lost = True
            packets -= self._left + 1
            self._left = self._losses.gap()
        self._left -= packets
        return lost


class Fortune:
    """What becomes of datagrams on links, drawn per pair of nodes, link and purpose."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._streams: dict[tuple[str, str, str], random.Random] = {}
        self._chains: dict[tuple[str, str, Pair], tuple[Link, _Chain]] = {}

    def happens(self, train: Train, link: Link, what: str, probability: float) -> bool:
        """Whether something that befalls a packet with this probability befalls the train."""
        if probability <= 0:
            return False
        drawn = self._stream(train, f"datagram {what} {link.source}>{link.target}").random()
        return drawn < 1 - (1 - probability) ** train.packets

    def loses(self, train: Train, link: Link) -> bool:
        """Whether the link loses a fragment of it."""
        if link.loss <= 0:
            return False
        key = (train.source, train.destination, link.ends)
        known = self._chains.get(key)
        if known is None or (known[0].loss, known[0].burst) != (link.loss, link.burst):
            drawn = self._stream(train, f"datagram loss {link.source}>{link.target}")
            known = self._chains[key] = (link, _Chain(link, drawn))
        return known[1].loses(train.packets)

    def delay_ns(self, train: Train, link: Link) -> int:
        """What the link's delay is for it."""
        if self.happens(train, link, "reorder", link.reorder):
            return 0
        if link.jitter_s <= 0:
            return to_ns(link.delay_s)
        drawn = self._stream(train, f"datagram jitter {link.source}>{link.target}")
        return to_ns(max(link.delay_s + link.jitter_s * quantile(link)(drawn.random()), 0.0))

    def _stream(self, train: Train, purpose: str) -> random.Random:
        key = (train.source, train.destination, purpose)
        found = self._streams.get(key)
        if found is None:
            found = chance.stream(self._seed, purpose, train.source, train.destination)
            self._streams[key] = found
        return found


def transmit(
    train: Train, link: Link, resource: Resource, now_ns: int, standing_ns: int
) -> int | None:
    """Puts it in the link's queue: how long its first packet waits, or None where it is full.

    The train's last packet is through once all were sent, and not before it was there itself.
    """
    byte_ns = 8e9 / link.bandwidth_bps
    wait_ns = max(resource.free_ns - now_ns, 0)
    room = queue_bytes(link)
    if wait_ns / byte_ns + train.size - train.size // train.packets > room:
        return None
    wait_ns += standing_ns
    first = byte_ns * train.size / train.packets
    whole = max(int(byte_ns * train.size), int(train.lag_ns + first) - wait_ns)
    resource.take(now_ns, int(byte_ns * train.size))
    train.lag_ns = max(whole - int(first), 0)
    return wait_ns + int(first)
