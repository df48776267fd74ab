"""The network: sends, faults and time in; fates of messages out. See the package."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

from broker.network import laws
from broker.network.agenda import NEVER, Agenda, Fate
from broker.network.carrier import Carrier
from broker.network.datagrams import Train
from broker.network.sender import Stream
from broker.network.shares import Shares
from broker.network.streams import Streams
from broker.network.ways import Ways
from faults import Conditions
from topologies import Link, Topology

_INSTANT = itemgetter(1)


class Cost(NamedTuple):
    """What a way would cost now: the rate a new stream would get, its delay with the queues that
    stand on it, and the share of packets that is lost.
    """

    bandwidth_bps: float
    delay_s: float
    loss: float


class Load(NamedTuple):
    """What is going on at a link now: how much of it is in use (1.0: all of it), and how long what
    comes now would wait before it.
    """

    link: Link
    share: float
    queue_s: float


class Network:
    """The network of a topology under changing conditions.

    Deterministic in (topology, seed, calls); whole nanoseconds; never told an instant before one it
    was told already. Raises InputError for links that can't be as they are set.
    """

    def __init__(self, topology: Topology, seed: int) -> None:
        self._transport = topology.transport
        self._agenda = Agenda()
        self._ways = Ways(topology)
        self._shares = Shares(self._agenda, topology.transport)
        parts = (self._agenda, self._ways, self._shares, topology.transport, seed)
        self._streams = Streams(*parts)
        self._carrier = Carrier(*parts)

    # Questions.

    @property
    def duplicated(self) -> int:
        """How many copies of datagrams links have made."""
        return self._carrier.duplicated

    def next_ns(self) -> int | None:
        """The next instant at which anything happens, or None."""
        agenda = self._agenda
        if agenda.fates:
            return agenda.fates[0].at_ns
        if self._shares.dirty:
            self._shares.solve()
        return agenda.next_ns()

    def in_flight(self) -> int:
        """How many copies have neither arrived nor been lost."""
        return self._agenda.in_flight

    def route(self, source: str, destination: str) -> tuple[Link, ...] | None:
        """The links from source to destination as they are now, or None without a way."""
        return self._ways.route(source, destination)

    def lookahead_ns(self, nodes: Sequence[str]) -> int:
        """No message between two different ones of `nodes`, sent from now on, arrives sooner than
        this after it was sent, until a fault makes a link sooner; one that makes links worse, or
        takes them away, does not change it. Where none ever reaches another, that is as long as
        streams wait for a way.
        """
        least = self._ways.least_ns(nodes)
        return round(self._transport.timeout_s * 1e9) if least is None else least

    def cost(self, source: str, destination: str) -> Cost | None:
        """What a new stream would find on its way now, or None without one."""
        if source == destination:
            return Cost(math.inf, 0.0, 0.0)
        path = self._ways.path(source, destination)
        if path is None:
            return None
        now_ns, shares = self._agenda.now, self._shares
        if shares.dirty:
            shares.solve()
        rate = shares.offer(path, now_ns)
        rtt_s = path.rtt_ns / 1e9
        lossy = laws.window(self._transport.congestion, path.loss, rtt_s) / rtt_s
        segment = self._transport.segment_bytes + self._transport.header_bytes
        queued_ns = max(max(resource.free_ns - now_ns, 0) for resource in path.resources)
        standing_s = (shares.wait_ns(path, now_ns) + queued_ns) / 1e9
        return Cost(min(rate, lossy * segment * 8), path.delay_s + standing_s, path.loss)

    def loads(self) -> list[Load]:
        """What is going on at those links that anything has gone over so far."""
        if self._shares.dirty:
            self._shares.solve()
        now_ns = self._agenda.now
        return [
            Load(
                link,
                1.0 if resource.free_ns > now_ns else self._shares.share(resource, now_ns),
                (self._shares.standing_ns(resource, now_ns) + max(resource.free_ns - now_ns, 0))
                / 1e9,
            )
            for link, resource in self._ways.used()
        ]

    # What happens.

    def send(
        self,
        at_ns: int,
        number: int,
        source: str,
        destination: str,
        size_bytes: int,
        *,
        datagram: bool = False,
        channel: int = 0,
    ) -> None:
        """A node hands a message over. One for a node that is down is lost at once.

        Two nodes have one stream each way, or several: those of different `channel` share links as
        any two streams do. Raises InputError for a datagram of more than 65,507 bytes.
        """
        agenda = self._agenda
        if (agenda.heap and agenda.heap[0][0] <= at_ns) or self._shares.dirty:
            self._run(at_ns)
        agenda.now = at_ns
        if datagram:
            self._carrier.send(at_ns, number, source, destination, size_bytes)
        else:
            self._streams.send(at_ns, number, source, destination, size_bytes, channel)

    def close(self, at_ns: int, source: str, destination: str, channel: int) -> None:
        """A connection is no more, this way: what of it has not arrived is lost, and its next
        message begins a new one.
        """
        self._run(at_ns)
        self._agenda.now = max(self._agenda.now, at_ns)
        self._streams.close(at_ns, source, destination, channel)

    def send_alike(
        self,
        instants: Sequence[int],
        number: int,
        source: str,
        destination: str,
        size_bytes: int,
    ) -> None:
        """As `send` for a message of a stream of that size at each of these instants, numbered from
        `number` on; in less time.
        """
        agenda, shares = self._agenda, self._shares
        taken, count = 0, len(instants)
        while taken < count:
            at_ns = instants[taken]
            if shares.dirty or (agenda.heap and agenda.heap[0][0] <= at_ns):
                self._run(at_ns)
            agenda.now = at_ns
            taken += self._streams.send_alike(
                instants, taken, number + taken, source, destination, size_bytes
            )
        if count:
            agenda.now = instants[-1]

    def apply(self, at_ns: int, conditions: Conditions) -> None:
        """From this instant on the network is as `conditions` say, before anything else happens in
        it; what is in flight is planned anew.
        """
        self._run_through(at_ns - 1)
        self._agenda.now = max(self._agenda.now, at_ns)
        changed = self._ways.update(conditions)
        for name in changed.dead:
            how = "left" if conditions.has_left(name) else "crashed"
            self._streams.lose_ends(at_ns, name, how)
            self._carrier.lose_ends(at_ns, name, how)
        self._streams.move(at_ns, changed)

    def advance(self, to_ns: int) -> list[Fate]:
        """Time is `to_ns` now; returns all fates until then that were not returned yet."""
        agenda = self._agenda
        if (agenda.heap and agenda.heap[0][0] <= to_ns) or self._shares.dirty:
            self._run_through(to_ns)
        agenda.now = max(agenda.now, to_ns)
        fates, agenda.fates = agenda.fates, []
        return fates

    def certain_ns(self, until_ns: int) -> int:
        """Until when `arrivals` tells all there is, `until_ns` at most (itself no more than the
        lookahead from now): a datagram on its way has fewer links before it than one yet to be
        sent.
        """
        return self._carrier.certain_ns(until_ns)

    def arrivals(self, until_ns: int) -> list[Fate]:
        """Pops those arrivals until then that nothing sent from now on can change any more: they
        have left their last bottleneck.
        """
        if self._shares.dirty:
            self._shares.solve()
        agenda = self._agenda
        heap = agenda.heap
        later: list[Train] = []
        runs: list[tuple[int, list[Fate]]] = []
        streams: list[Stream] = []
        while heap and heap[0][0] <= until_ns:
            at_ns, index, thing = heapq.heappop(heap)
            if thing.wake_ns != at_ns:
                continue
            thing.wake_ns = NEVER
            if isinstance(thing, Stream):
                streams.append(thing)
                runs.append((index, self._streams.early(thing, agenda.now, until_ns)))
            elif isinstance(thing, Train):
                if thing.arriving and not thing.corrupt:
                    runs.append((index, [self._carrier.end(thing, at_ns, "")]))
                else:
                    thing.wake_ns = at_ns
                    later.append(thing)
        for stream in streams:
            agenda.wake(stream, stream.aim())
        for train in later:
            heapq.heappush(heap, (train.wake_ns, train.index, train))
        if len(runs) == 1:
            return runs[0][1]
        runs.sort()
        fates = [fate for _, run in runs for fate in run]
        fates.sort(key=_INSTANT)
        return fates

    # Inside.

    def _run(self, to_ns: int) -> None:
        """All that happens until then; what is touched at that very instant is not solved yet."""
        agenda, shares, streams, carrier = self._agenda, self._shares, self._streams, self._carrier
        heap = agenda.heap
        while True:
            if shares.dirty and shares.dirty_ns < to_ns and (
                not heap or heap[0][0] > shares.dirty_ns
            ):  # fmt: skip
                shares.solve()
            if not heap or heap[0][0] > to_ns:
                return
            at_ns, _, thing = heapq.heappop(heap)
            if thing.wake_ns != at_ns:
                continue
            thing.wake_ns = NEVER
            if thing.__class__ is Stream:
                streams.wake(thing, at_ns, to_ns)
            else:
                carrier.hop(thing, at_ns)  # type: ignore[arg-type]

    def _run_through(self, to_ns: int) -> None:
        """The same, and that, too."""
        self._run(to_ns)
        while self._shares.dirty and self._shares.dirty_ns <= to_ns:
            self._shares.solve()
            self._run(to_ns)


__all__ = ["Cost", "Fate", "Load", "Network"]
