"""The network: sends, faults and time in; fates of messages out. See the package."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from broker.network import datagrams, laws
from broker.network.chance import least_delay_s
from broker.network.datagrams import Fortune, Train
from broker.network.flow import NEVER, TIMED_OUT, Flow, Stream
from broker.network.paths import Path, Resource
from broker.network.routes import Pair, to_ns
from broker.network.segments import LARGEST_DATAGRAM
from broker.network.sharing import Demand, max_min
from broker.network.ways import Ways
from faults import Conditions
from topologies import InputError, Link, Topology


class Fate(NamedTuple):
    """How a copy of a message ended.

    `reason` is empty for an arrival, else why it was lost. `copy` counts the duplicates of a
    datagram from 1; `last` says that no further fate of this number will come.
    """

    number: int
    at_ns: int
    reason: str = ""
    copy: int = 0
    last: bool = True


class Cost(NamedTuple):
    """What a way would cost now: the rate a new stream would get, its delay with the queues that
    stand on it, and the share of packets that is lost.
    """

    bandwidth_bps: float
    delay_s: float
    loss: float


_fate = tuple.__new__


class Network:
    """The network of a topology under changing conditions.

    Deterministic in (topology, seed, calls); whole nanoseconds; never told an instant before one it
    was told already. Raises InputError for links that can't be as they are set.
    """

    def __init__(self, topology: Topology, seed: int) -> None:
        self._seed = seed
        self._transport = topology.transport
        self._full_bytes = topology.transport.segment_bytes
        self._header_bytes = topology.transport.header_bytes
        self._most_head = self._full_bytes + self._header_bytes
        self._timeout_ns = round(topology.transport.timeout_s * 1e9)
        self._ways = Ways(topology)
        self._generation = 0
        self._streams: dict[Pair, Stream] = {}
        self._background: list[Flow] = []
        self._trains: dict[int, Train] = {}
        self._copies: dict[int, int] = {}
        self._fortune = Fortune(seed)
        self._heap: list[tuple[int, int, Stream | Train]] = []
        self._order = 0
        self._now = 0
        self._out: list[Fate] = []
        self._in_flight = 0
        self.duplicated = 0

    # Questions.

    def next_ns(self) -> int | None:
        """The next instant at which anything happens, or None."""
        if self._out:
            return self._out[0].at_ns
        heap = self._heap
        while heap:
            at_ns, _, thing = heap[0]
            if thing.wake_ns == at_ns:
                return at_ns
            heapq.heappop(heap)
        return None

    def in_flight(self) -> int:
        """How many copies have neither arrived nor been lost."""
        return self._in_flight

    def route(self, source: str, destination: str) -> tuple[Link, ...] | None:
        """The links from source to destination as they are now, or None without a way."""
        return self._ways.route(source, destination)

    def lookahead_ns(self, nodes: Sequence[str]) -> int:
        """No message between two different ones of `nodes`, sent from now on, arrives sooner than
        this after it was sent, so long as no fault changes the links. Where none reaches another,
        that is as long as streams wait for a way.
        """
        least = self._ways.least_ns(nodes)
        return self._timeout_ns if least is None else least

    def cost(self, source: str, destination: str) -> Cost | None:
        """What a new stream would find on its way now, or None without one."""
        if source == destination:
            return Cost(math.inf, 0.0, 0.0)
        path = self._ways.path(source, destination)
        if path is None:
            return None
        probe = Flow(-1)
        probe.path, probe.goal_ns = path, NEVER
        rate = self._rates([*self._connected(path.resources, self._now), probe])[probe.index]
        rtt_s = path.rtt_ns / 1e9
        lossy = laws.window(self._transport.congestion, path.loss, rtt_s) / rtt_s
        standing_ns = self._wait_ns(path, self._now)
        return Cost(
            min(rate, lossy * self._most_head * 8), path.delay_s + standing_ns / 1e9, path.loss
        )

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
    ) -> None:
        """A node hands a message over. One for a node that is down is lost at once.

        Raises InputError for a datagram of more than 65,507 bytes.
        """
        if self._heap and self._heap[0][0] <= at_ns:
            self._run(at_ns)
        self._now = at_ns
        if datagram:
            self._send_datagram(at_ns, number, source, destination, size_bytes)
            return
        stream = self._streams.get((source, destination))
        if stream is None or stream.generation != self._generation or stream.waiting:
            stream = self._ready(at_ns, number, source, destination)
            if stream is None:
                return
        self._in_flight += 1
        size = size_bytes + (-(-size_bytes // self._full_bytes) or 1) * self._header_bytes
        begin = stream.enqueued
        end = stream.enqueued = begin + size
        head = size if size < self._most_head else self._most_head
        if stream.losses is not None:
            stream.mark(end, size)
        if stream.waiting:
            stream.queue.append((end, number, head))
            return
        if at_ns >= stream.goal_ns:
            self._begin(stream, at_ns, begin, end, number, head)
            return
        stream.queue.append((end, number, head))
        if end > stream.limit or stream.holes:
            if not stream.must:
                self._plan(stream)
            return
        stream.goal = end
        stream.goal_ns = stream.since_ns + math.ceil((end - stream.drained) / stream.speed)

    def send_alike(
        self, at_ns: int, number: int, count: int, source: str, destination: str, size_bytes: int
    ) -> None:
        """As `send` for `count` messages of a stream of that size, numbered from `number` on, which
        were handed over together; in less time.
        """
        self.send(at_ns, number, source, destination, size_bytes)
        stream = self._streams.get((source, destination))
        if (
            stream is None
            or stream.generation != self._generation
            or stream.waiting
            or stream.losses is not None
            or stream.holes
            or stream.must
            or at_ns >= stream.goal_ns
        ):
            for following in range(number + 1, number + count):
                self.send(at_ns, following, source, destination, size_bytes)
            return
        size = size_bytes + (-(-size_bytes // self._full_bytes) or 1) * self._header_bytes
        head = size if size < self._most_head else self._most_head
        end = stream.enqueued
        add = stream.queue.append
        for following in range(number + 1, number + count):
            end += size
            add((end, following, head))
        stream.enqueued = end
        self._in_flight += count - 1
        if end > stream.limit:
            self._plan(stream)
        else:
            stream.goal = end
            stream.goal_ns = stream.since_ns + math.ceil((end - stream.drained) / stream.speed)

    def _begin(
        self, stream: Stream, at_ns: int, begin: int, end: int, number: int, head: int
    ) -> None:
        """A stream that was idle begins to send."""
        queue = stream.queue
        if queue:
            stream.settle(at_ns)
        path = stream.path
        stream.drained = begin
        if at_ns >= stream.round_end or stream.full:
            stream.open_round(at_ns)
        stream.since_ns = at_ns
        stream.speed = speed = path.speed
        stream.shared = stream.must = False
        stream.wait_ns = 0
        queue.append((end, number, head))
        goal_ns = stream.goal_ns = at_ns + math.ceil((end - begin) / speed)
        stream.goal = end
        index = stream.index
        contended = False
        for resource in path.resources:
            users = resource.users
            if users and not (len(users) == 1 and index in users):
                for other in users.values():
                    if other.goal_ns > at_ns and other is not stream:
                        contended = True
                        break
                else:
                    users.clear()
            users[index] = stream
            if resource.free_ns > at_ns:
                stream.since_ns = max(stream.since_ns, resource.free_ns)
                contended = True
        if contended:
            stream.shared = True
            stream.goal_ns = NEVER
            stream.wait_ns = self._wait_ns(path, at_ns, stream)
            self._share(at_ns, path.resources, (stream,))
        elif end > stream.limit or stream.holes:
            self._plan(stream)
        elif not stream.transit:
            wake = goal_ns + path.travel_ns + int(path.per_byte_ns * head)
            if path.jitter_most_ns:
                wake = max(goal_ns, wake - path.jitter_most_ns)
            stream.wake_ns = wake
            heapq.heappush(self._heap, (wake, index, stream))

    def apply(self, at_ns: int, conditions: Conditions) -> None:
        """From this instant on the network is as `conditions` say, before anything else happens in
        it; what is in flight is planned anew.
        """
        self._run(at_ns - 1)
        self._now = max(self._now, at_ns)
        dead = self._ways.update(conditions)
        if dead is None:
            return
        self._generation = self._ways.generation
        for name in dead:
            self._lose_ends(at_ns, name)
        busy = [
            stream
            for stream in self._streams.values()
            if stream.waiting or stream.goal_ns > at_ns or stream.queue
        ]
        touched: dict[Resource, None] = {}
        for flow in self._background:
            touched.update(dict.fromkeys(flow.path.resources))
            self._unlist(flow)
        self._background = []
        for stream in busy:
            stream.rebase(at_ns)
            if stream.waiting or stream.drained < stream.enqueued:
                if stream.path is not None:
                    touched.update(dict.fromkeys(stream.path.resources))
                    self._unlist(stream)
                self._take_way(stream, at_ns)
        for traffic in conditions.traffic():
            path = self._ways.path(traffic.source, traffic.target)
            if path is not None:
                flow = Flow(self._next_index())
                flow.path, flow.cap_bps, flow.goal_ns = path, traffic.rate_bps, NEVER
                self._background.append(flow)
                for resource in path.resources:
                    resource.users[flow.index] = flow
                    touched[resource] = None
        for stream in busy:
            if not stream.waiting and stream.drained < stream.enqueued:
                self._enlist(stream)
                touched.update(dict.fromkeys(stream.path.resources))
        self._share(at_ns, touched, busy)

    def advance(self, to_ns: int) -> list[Fate]:
        """Time is `to_ns` now; returns all fates until then that were not returned yet."""
        if self._heap and self._heap[0][0] <= to_ns:
            self._run(to_ns)
        self._now = max(self._now, to_ns)
        fates, self._out = self._out, []
        return fates

    def certain_ns(self, until_ns: int) -> int:
        """Until when `arrivals` tells all there is, `until_ns` at most (itself no more than the
        lookahead from now): a datagram on its way has fewer links before it than one yet to be
        sent.
        """
        for train in self._trains.values():
            if not train.arriving and train.wake_ns < until_ns:
                links = self._ways.route(train.at_node, train.destination) or ()
                least_ns = sum(to_ns(least_delay_s(link)) for link in links)
                until_ns = min(until_ns, train.wake_ns + least_ns)
        return until_ns

    def arrivals(self, until_ns: int) -> list[Fate]:
        """Pops those arrivals until then that nothing sent from now on can change any more: they
        have left their last bottleneck.
        """
        heap = self._heap
        looked_at: list[Stream | Train] = []
        found: list[tuple[int, int, int, Fate]] = []
        things = 0
        while heap and heap[0][0] <= until_ns:
            at_ns, _, thing = heapq.heappop(heap)
            if thing.wake_ns != at_ns:
                continue
            thing.wake_ns = NEVER
            things += 1
            looked_at.append(thing)
            if isinstance(thing, Stream):
                thing.settle(self._now)
                transit = thing.transit
                while transit and transit[0][0] <= until_ns:
                    arrival_ns, number = transit.popleft()
                    fate = _fate(Fate, (number, arrival_ns, "", 0, True))
                    found.append((arrival_ns, thing.index, len(found), fate))
                    self._in_flight -= 1
            elif thing.arriving and not thing.corrupt:
                found.append((at_ns, thing.index, len(found), self._end_train(thing, at_ns, "")))
                looked_at.pop()
            else:
                thing.wake_ns = at_ns
        for thing in looked_at:
            if isinstance(thing, Stream):
                self._plan(thing)
            else:
                heapq.heappush(heap, (thing.wake_ns, thing.index, thing))
        if things > 1:
            found.sort()
        return [fate for _, _, _, fate in found]

    # Inside: time.

    def _run(self, to_ns: int) -> None:
        heap = self._heap
        while heap and heap[0][0] <= to_ns:
            at_ns, _, thing = heapq.heappop(heap)
            if thing.wake_ns != at_ns:
                continue
            thing.wake_ns = NEVER
            if thing.__class__ is Stream:
                self._wake(thing, at_ns, to_ns)
            else:
                self._hop(thing, at_ns)  # type: ignore[arg-type]

    def _wake(self, stream: Stream, at_ns: int, to_ns: int) -> None:
        """What has arrived is told, as far ahead as nothing else happens; then its own events."""
        heap, queue, transit, out = self._heap, stream.queue, stream.transit, self._out
        own_ns = NEVER
        if stream.waiting:
            own_ns = stream.resume_ns
        elif stream.must:
            own_ns = stream.goal_ns
        elif len(queue) == 1 and not transit:
            end, number, head = queue[0]
            path = stream.path
            arrival_ns = stream.since_ns + math.ceil((end - stream.drained) / stream.speed)
            arrival_ns += path.travel_ns + stream.wait_ns + int(path.per_byte_ns * head)
            if arrival_ns == at_ns >= stream.last_ns and path.jitter is None:
                # One small message on a quiet way, as almost always.
                queue.clear()
                stream.last_ns = at_ns
                self._in_flight -= 1
                out.append(_fate(Fate, (number, at_ns, "", 0, True)))
                return
        ahead = to_ns
        if heap and heap[0][0] <= ahead:
            ahead = heap[0][0] - 1
        if own_ns <= ahead:
            ahead = own_ns - 1
        ahead = max(ahead, at_ns)
        self._tell(stream, ahead)
        if transit and own_ns > at_ns:
            stream.wake_ns = wake = min(own_ns, transit[0][0])
            heapq.heappush(heap, (wake, stream.index, stream))
            return
        if at_ns >= own_ns:
            if stream.waiting:
                self._resume(stream, at_ns)
            else:
                self._reach_goal(stream, at_ns)
        if transit or queue or stream.waiting:
            self._plan(stream)

    def _tell(self, stream: Stream, until_ns: int) -> None:
        """What has arrived by then; nothing else happens until then."""
        queue, transit, out = stream.queue, stream.transit, self._out
        told = 0
        while True:
            while transit and transit[0][0] <= until_ns:
                arrival_ns, number = transit.popleft()
                out.append(_fate(Fate, (number, arrival_ns, "", 0, True)))
                told += 1
            if transit or not queue:
                break
            stream.settle(until_ns)
            if not transit:
                break
        self._in_flight -= told

    def _plan(self, stream: Stream) -> None:
        wake = stream.aim()
        if wake != stream.wake_ns:
            stream.wake_ns = wake
            if wake < NEVER:
                heapq.heappush(self._heap, (wake, stream.index, stream))

    def _next_index(self) -> int:
        self._order += 1
        return self._order

    # Inside: streams.

    def _ready(self, at_ns: int, number: int, source: str, destination: str) -> Stream | None:
        """The stream between two nodes on the way of now; None where the message has ended."""
        if not self._ways.conditions.is_up(destination):
            self._out.append(Fate(number, at_ns, "destination down"))
            return None
        if source == destination:
            self._out.append(Fate(number, at_ns))
            return None
        stream = self._streams.get((source, destination))
        if stream is None:
            stream = Stream(self._next_index(), source, destination, self._seed, self._transport)
            self._streams[source, destination] = stream
        if stream.generation != self._ways.generation:
            stream.rebase(at_ns)
            self._take_way(stream, at_ns)
            if stream.waiting:
                self._plan(stream)
        return stream

    def _take_way(self, stream: Stream, at_ns: int) -> None:
        """Puts the stream on the way of now; without one it stalls, with one again it resumes once
        its retransmission timer, doubled each time, has fired.
        """
        known = stream.generation >= 0
        path = self._ways.path(stream.source, stream.destination)
        stream.generation = self._ways.generation
        if path is None:
            if stream.stalled_ns < 0:
                stream.stop(at_ns, at_ns + self._timeout_ns)
                stream.stalled_ns = at_ns
            return
        fresh = not known or not stream.full
        stream.close_pipe()
        moved = not known or stream.path is None or stream.path.losses != path.losses
        stream.path = path
        stream.speed = path.speed
        if moved:
            stream.take_losses()
        if stream.stalled_ns >= 0:
            stream.resume_ns = _timer_after(stream.stalled_ns, at_ns, stream.rto_ns)
            stream.stalled_ns = -1
            stream.lost = TIMED_OUT
        elif not stream.waiting and not fresh:
            stream.begin_round(at_ns)

    def _resume(self, stream: Stream, at_ns: int) -> None:
        """A silence is over: the next round, a timer, or the end of patience with a lost way."""
        stream.waiting = False
        stream.since_ns = at_ns
        if stream.stalled_ns >= 0:
            stream.stalled_ns = -1
            stream.generation = -1
            self._lose_queue(stream, at_ns, "stream timeout")
            return
        if stream.path is not None:
            stream.wait_ns = self._wait_ns(stream.path, at_ns, stream)
        stream.next_round(at_ns)
        if stream.drained < stream.enqueued:
            self._join(stream, at_ns)

    def _reach_goal(self, stream: Stream, at_ns: int) -> None:
        """All is sent, or the window is used up, or a segment is lost."""
        stream.rebase(at_ns)
        if stream.holes and stream.drained >= stream.holes[0]:
            until_ns = stream.lose(at_ns)
            if until_ns:
                stream.stop(at_ns, until_ns)
                self._leave(stream, at_ns)
                return
        elif stream.drained >= stream.enqueued:
            self._leave(stream, at_ns)
            return
        elif at_ns >= stream.round_end:
            gain = stream.gain
            stream.fill(at_ns)
            if stream.shared and stream.gain != gain:
                self._enlist(stream)
                self._share(at_ns, stream.path.resources, (stream,))
                return
        else:
            stream.stop(at_ns, stream.round_end)
            self._leave(stream, at_ns)
            return
        self._join(stream, at_ns)

    def _join(self, stream: Stream, at_ns: int) -> None:
        """The stream sends on: with others there the sharing is solved anew."""
        listed = all(stream.index in resource.users for resource in stream.path.resources)
        self._enlist(stream)
        if listed and stream.shared:
            self._plan(stream)
        else:
            self._share(at_ns, stream.path.resources, (stream,))

    def _enlist(self, stream: Stream) -> None:
        stream.goal_ns = NEVER
        for resource in stream.path.resources:
            resource.users[stream.index] = stream

    def _unlist(self, flow: Flow) -> None:
        for resource in flow.path.resources:
            resource.users.pop(flow.index, None)

    def _leave(self, stream: Stream, at_ns: int) -> None:
        """The stream sends no more; what it took the others get."""
        self._unlist(stream)
        if stream.shared:
            stream.shared = stream.must = False
            self._share(at_ns, stream.path.resources, ())

    # Inside: sharing.

    def _connected(self, resources: Iterable[Resource], now_ns: int) -> list[Flow]:
        """The flows that are sending in the part of the network that hangs together with these."""
        found: dict[int, Flow] = {}
        seen: dict[Resource, None] = {}
        open_ = list(resources)
        while open_:
            resource = open_.pop()
            if resource in seen:
                continue
            seen[resource] = None
            users = resource.users
            for flow in list(users.values()):
                if flow.goal_ns <= now_ns:
                    del users[flow.index]
                elif flow.index not in found:
                    found[flow.index] = flow
                    open_.extend(flow.path.resources)
        return [found[index] for index in sorted(found)]

    def _rates(self, flows: Sequence[Flow]) -> dict[int, float]:
        weights = self._weights(flows)
        if min(weights) == max(weights) and (share := _equal_share(flows)):
            return {flow.index: share for flow in flows}
        demands = {
            flow.index: Demand(flow.path.uses, weight, flow.cap_bps)
            for flow, weight in zip(flows, weights, strict=True)
        }
        capacity = {
            resource: resource.capacity for flow in flows for resource in flow.path.resources
        }
        return max_min(demands, capacity)

    def _weights(self, flows: Sequence[Flow]) -> list[float]:
        """How flows count beside each other: the law's bias at the loss that they all see, and what
        bursts gain on flows whose pipes are full.
        """
        trips = [(flow.path.rtt_ns + flow.path.standing_ns) / 1e9 for flow in flows]
        gains = [flow.gain for flow in flows]
        if max(trips) <= min(trips) * 1.001:
            return gains
        mean_s = sum(trips) / len(trips)
        share = min(flow.path.bandwidth_bps for flow in flows) / len(flows)
        window = max(share * mean_s / 8 / self._most_head, 1.0)
        law = self._transport.congestion
        loss = laws.loss_at(law, window, mean_s)
        unit = laws.bias(law, loss, mean_s)
        return [
            gain * laws.bias(law, loss, rtt_s) / unit
            for gain, rtt_s in zip(gains, trips, strict=True)
        ]

    def _standing_ns(self, resource: Resource, now_ns: int, but: Flow | None = None) -> int:
        """How long the queue is that streams which fill a resource leave standing there."""
        queued = most = 0.0
        for flow in resource.users.values():
            if flow is but or flow.neck is not resource or flow.goal_ns <= now_ns:
                continue
            if isinstance(flow, Stream) and flow.full:
                queued += flow.queued(now_ns) / flow.path.speed
                most = max(most, flow.path.standing_ns)
        return int(min(queued, most))

    def _wait_ns(self, path: Path, now_ns: int, but: Flow | None = None) -> int:
        """What those queues are on a way together."""
        return sum(self._standing_ns(resource, now_ns, but) for resource in path.resources)

    def _share(self, now_ns: int, resources: Iterable[Resource], changed: Sequence[Stream]) -> None:
        """Shares anew what hangs together with these resources, and plans `changed` in any case."""
        flows = self._connected(resources, now_ns)
        if len(flows) == 1:
            rates = {flows[0].index: min(flows[0].path.bandwidth_bps, flows[0].cap_bps)}
        else:
            rates = self._rates(flows) if flows else {}
        shared = len(flows) > 1
        necks = _necks(flows, rates)
        planned_later = {stream.index for stream in changed}
        for flow in flows:
            speed = rates[flow.index] / 8e9
            if isinstance(flow, Stream) and (speed != flow.speed or shared != flow.shared):
                flow.rebase(now_ns)
                flow.speed = speed
                flow.shared = shared
                if flow.index not in planned_later:
                    self._plan(flow)
            flow.shared, flow.speed = shared, speed
            flow.neck = necks[flow.index]
        for stream in changed:
            self._plan(stream)

    # Inside: losses.

    def _lose_ends(self, now_ns: int, name: str) -> None:
        """A node died: what it had not sent out is lost, and all that was for it."""
        for stream in self._streams.values():
            if stream.destination == name:
                stream.settle(now_ns)
                reason = "destination crashed"
                for _, number in stream.transit:
                    self._out.append(Fate(number, now_ns, reason))
                self._in_flight -= len(stream.transit)
                stream.transit.clear()
            elif stream.source == name:
                stream.settle(now_ns)
                reason = "source crashed"
            else:
                continue
            self._lose_queue(stream, now_ns, reason)
            stream.connect_anew()
        for train in [train for train in self._trains.values() if train.destination == name]:
            self._out.append(self._end_train(train, now_ns, "destination crashed"))

    def _lose_queue(self, stream: Stream, now_ns: int, reason: str) -> None:
        for _, number, _ in stream.queue:
            self._out.append(Fate(number, now_ns, reason))
        self._in_flight -= len(stream.queue)
        stream.queue.clear()
        stream.holes.clear()
        stream.drained = stream.goal = stream.enqueued
        stream.goal_ns = now_ns
        stream.waiting = stream.must = False
        stream.stalled_ns = -1
        if stream.path is not None:
            self._leave(stream, now_ns)
        self._plan(stream)

    # Inside: datagrams.

    def _send_datagram(
        self, at_ns: int, number: int, source: str, destination: str, size: int
    ) -> None:
        if size > LARGEST_DATAGRAM:
            raise InputError(
                f"a datagram has at most {LARGEST_DATAGRAM:,} bytes, not {size:,}",
                remedy="Send it as a stream, or in parts",
            )
        if not self._ways.conditions.is_up(destination):
            self._out.append(Fate(number, at_ns, "destination down"))
            return
        train = datagrams.train(
            self._next_index(), number, source, destination, size, self._transport
        )
        self._trains[train.index] = train
        self._in_flight += 1
        self._hop(train, at_ns)

    def _hop(self, train: Train, at_ns: int) -> None:
        """A datagram has come to a node: it has arrived, or goes on over the next link."""
        train.wake_ns = NEVER
        if train.arriving or train.at_node == train.destination:
            self._out.append(self._end_train(train, at_ns, "corrupt" if train.corrupt else ""))
            return
        links = None
        if not self._ways.conditions.blocked(train.source, train.destination):
            links = self._ways.route(train.at_node, train.destination)
        if not links:
            self._out.append(self._end_train(train, at_ns, "no route"))
            return
        link = links[0]
        fortune = self._fortune
        if train.copy == 0 and fortune.happens(train, link, "duplicate", link.duplicate):
            twin = train.twin(self._next_index())
            self._trains[twin.index] = twin
            self._copies[train.number] = self._copies.get(train.number, 1) + 1
            self._in_flight += 1
            self.duplicated += 1
            self._cross(train, link, at_ns)
            self._cross(twin, link, at_ns)
            return
        self._cross(train, link, at_ns)

    def _cross(self, train: Train, link: Link, at_ns: int) -> None:
        fortune = self._fortune
        if fortune.loses(train, link):
            self._out.append(self._end_train(train, at_ns, "lost"))
            return
        if fortune.happens(train, link, "corrupt", link.corrupt):
            train.corrupt = True
        resource = self._ways.resource(link)
        was_free_ns = max(resource.free_ns, at_ns)
        taken = datagrams.transmit(train, link, resource, at_ns, self._standing_ns(resource, at_ns))
        if taken is None:
            self._out.append(self._end_train(train, at_ns, "queue full"))
            return
        self._push_back(resource, at_ns, resource.free_ns - was_free_ns)
        train.at_node = link.target
        train.wake_ns = at_ns + taken + fortune.delay_ns(train, link)
        if link.target == train.destination:
            train.arriving = True
            train.wake_ns += train.lag_ns
        heapq.heappush(self._heap, (train.wake_ns, train.index, train))

    def _push_back(self, resource: Resource, now_ns: int, by_ns: int) -> None:
        """Streams that fill a link lose the time that a datagram takes of it."""
        users = [flow for flow in resource.users.values() if flow.goal_ns > now_ns]
        load = sum(
            flow.speed * 8e9 * use.per_bit
            for flow in users
            for use in flow.path.uses
            if use.resource is resource
        )
        if load < 0.99 * resource.capacity:
            return
        for flow in users:
            if isinstance(flow, Stream):
                flow.rebase(now_ns)
                flow.since_ns += by_ns
                self._plan(flow)

    def _end_train(self, train: Train, at_ns: int, reason: str) -> Fate:
        del self._trains[train.index]
        train.wake_ns = NEVER
        self._in_flight -= 1
        left = self._copies.pop(train.number, 1) - 1
        if left:
            self._copies[train.number] = left
        return Fate(train.number, at_ns, reason, train.copy, not left)


def _equal_share(flows: Sequence[Flow]) -> float:
    """What each gets where all cross one link and nothing else binds any of them; else 0."""
    count = len(flows)
    if any(per_bit != 1.0 for flow in flows for per_bit in flow.path.per_bit):
        return 0.0
    for resource in flows[0].path.resources:
        users, share = resource.users, resource.capacity / count
        if all(flow.index in users and flow.cap_bps >= share for flow in flows) and all(
            other.capacity >= share * len(other.users)
            for flow in flows
            for other in flow.path.resources
        ):
            return share
    return 0.0


def _necks(flows: Sequence[Flow], rates: Mapping[int, float]) -> dict[int, Resource]:
    """The resource on each flow's way that has the least to spare."""
    load: dict[Resource, float] = {}
    for flow in flows:
        for resource, per_bit in zip(flow.path.resources, flow.path.per_bit, strict=True):
            load[resource] = load.get(resource, 0.0) + rates[flow.index] * per_bit
    return {
        flow.index: max(flow.path.resources, key=lambda r: load[r] / r.capacity) for flow in flows
    }


def _timer_after(stalled_ns: int, path_back_ns: int, rto_ns: int) -> int:
    """The first instant at or after `path_back_ns` at which the doubled timer fires."""
    at_ns = stalled_ns + rto_ns
    while at_ns < path_back_ns:
        rto_ns *= 2
        at_ns += rto_ns
    return at_ns


__all__ = ["Cost", "Fate", "Network", "Path"]
