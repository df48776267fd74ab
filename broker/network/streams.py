"""All streams: what is sent goes as trains or drains as a fluid, and what faults do to it.

A message that finds its stream idle and fits into its window is a train, if it is short: first in,
first out at every link (see `flow`), and so are the rounds of a sender whose bursts nothing spreads
before its bottleneck (see `sender`). All else drains as a fluid that shares links with others. What
waits for a way is in the queue, too.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, islice, repeat

from broker.network.agenda import NEVER, Agenda, Fate
from broker.network.flow import Background, Flow
from broker.network.paths import Resource
from broker.network.progress import Progress
from broker.network.sender import (
    ANOTHER_WAY,
    NO_WAY,
    TIMED_OUT,
    TRAIN_SEGMENTS,
    Stream,
)
from broker.network.shares import Shares, enlist, unlist
from broker.network.ways import Changed, Ways
from topologies import Transport

Noise = tuple[str, str, str]
"""Background traffic: the fault, and where it flows from and to."""
Key = tuple[str, str] | tuple[str, str, int]
"""Whose stream it is: the two nodes, and which of their connections where they have several."""


class Streams(Progress):
    """The streams of a network, by their pair of nodes, and the traffic in the background."""

    __slots__ = (
        "_at", "_freed", "_full_bytes", "_header_bytes", "_longest", "_most_head", "_noise",
        "_noise_at", "_seed", "_streams", "_timeout_ns", "_transport", "_ways", "generation",
    )  # fmt: skip

    def __init__(
        self, agenda: Agenda, ways: Ways, shares: Shares, transport: Transport, seed: int
    ) -> None:
        super().__init__(agenda, shares)
        self._ways, self._transport, self._seed = ways, transport, seed
        self._full_bytes, self._header_bytes = transport.segment_bytes, transport.header_bytes
        self._most_head = self._full_bytes + self._header_bytes
        self._longest = TRAIN_SEGMENTS * self._most_head
        self._timeout_ns = round(transport.timeout_s * 1e9)
        self._streams: dict[Key, Stream] = {}
        self._at: dict[str, list[Stream]] = {}
        self._freed: dict[Resource, None] = {}
        self._noise: dict[Noise, tuple[float, Flow | None]] = {}
        self._noise_at: dict[str, dict[Noise, None]] = {}
        self.generation = 0

    # Sending.

    def send(
        self,
        at_ns: int,
        number: int,
        source: str,
        destination: str,
        size_bytes: int,
        channel: int = 0,
    ) -> None:
        """A message is handed over."""
        key: Key = (source, destination, channel) if channel else (source, destination)
        stream = self._streams.get(key)
        if stream is None or stream.generation != self.generation or stream.waiting:
            stream = self._ready(at_ns, number, source, destination, key)
            if stream is None:
                return
        self._agenda.in_flight += 1
        if size_bytes <= self._full_bytes:
            size = head = size_bytes + self._header_bytes
        else:
            size = size_bytes + -(-size_bytes // self._full_bytes) * self._header_bytes
            head = self._most_head
        begin = stream.enqueued
        end = stream.enqueued = begin + size
        if stream.losses is not None:
            stream.mark(end, size)
        queue = stream.queue
        if stream.waiting:
            queue.append((end, number, head))
            return
        if at_ns >= stream.goal_ns:
            self._start(stream, at_ns, begin, end, number, head)
            return
        queue.append((end, number, head))
        if end > stream.limit or stream.holes or stream.drained < stream.lined_up:
            if not stream.must or (not stream.holes and stream.goal < stream.limit):
                self._agenda.wake(stream, stream.aim())
            return
        stream.goal = end
        stream.goal_ns = stream.since_ns + math.ceil((end - stream.drained) / stream.speed)

    def send_alike(
        self,
        instants: Sequence[int],
        begin: int,
        number: int,
        source: str,
        destination: str,
        size_bytes: int,
    ) -> int:
        """Messages are handed over at `instants[begin:]`, numbered from `number` on, until anything
        else happens; says how many were taken, which is one at least.
        """
        stream = self._streams.get((source, destination))
        taken = 0
        if (
            stream is not None
            and stream.generation == self.generation
            and stream.losses is None
            and not (stream.waiting or stream.holes or stream.full)
        ):
            size = size_bytes + (-(-size_bytes // self._full_bytes) or 1) * self._header_bytes
            if instants[begin] < stream.goal_ns:
                if stream.queue and stream.drained >= stream.lined_up:
                    taken = self._lengthen(stream, instants, begin, number, size)
            elif size <= self._longest and not stream.queue and len(instants) > begin + 1:
                taken = self._pass_alike(stream, instants, begin, number, size)
        if not taken:
            self.send(instants[begin], number, source, destination, size_bytes)
            return 1
        self._agenda.in_flight += taken
        return taken

    def _lengthen(
        self, stream: Stream, instants: Sequence[int], begin: int, number: int, size: int
    ) -> int:
        """Messages of so many bytes each for a stream that is draining, and loses nothing."""
        heap, limit = self._agenda.heap, stream.limit
        head = min(size, self._most_head)
        end, following = stream.enqueued, number
        until_ns = heap[0][0] if heap else NEVER
        add = stream.queue.append
        for at_ns in islice(instants, begin, None):
            if at_ns >= stream.goal_ns and end <= limit:
                self._aim_at(stream, end)
            if at_ns >= stream.goal_ns or at_ns >= until_ns:
                break
            end += size
            add((end, following, head))
            following += 1
            if end > limit and (not stream.must or stream.goal < limit):
                stream.enqueued = end
                self._agenda.wake(stream, stream.aim())
                until_ns = heap[0][0]
        stream.enqueued = end
        if end <= limit:
            self._aim_at(stream, end)
        return following - number

    def _aim_at(self, stream: Stream, end: int) -> None:
        """All that is queued drains without a break."""
        stream.goal = end
        stream.goal_ns = stream.since_ns + math.ceil((end - stream.drained) / stream.speed)

    def _pass_alike(
        self, stream: Stream, instants: Sequence[int], begin: int, number: int, size: int
    ) -> int:
        """Trains of so many bytes each, as far as `_pass` would find nobody else on their way: link
        by link instead of one by one.
        """
        path, heap, at_ns = stream.path, self._agenda.heap, instants[begin]
        if any(resource.users for resource in path.resources):
            return 0
        # Within this round, and until anything else happens than its own arrivals.
        others = heap[1:3] if heap and heap[0][2] is stream else heap[:1]
        until_ns = min([stream.round_end, *(other[0] for other in others)])
        some = instants[begin : bisect_left(instants, until_ns, begin)]
        first = stream.enqueued + size
        ends = range(first, first + len(some) * size, size)
        if ends and ends[-1] > stream.limit:
            ends = ends[: bisect_right(ends, stream.limit)]
            some = some[: len(ends)]
        if not ends:
            return 0
        columns: dict[tuple[int, int], list[int]] = {}
        for resource, byte_ns in path.hops:
            free_ns, taken_ns = max(resource.free_ns, at_ns), math.ceil(size * byte_ns)
            column = columns.get((free_ns, taken_ns))
            if column is None:
                key = (free_ns, taken_ns)
                column = columns[key] = [
                    free_ns := (free_ns if free_ns > at_ns else at_ns) + taken_ns for at_ns in some
                ]
            resource.take_alike(some, column, taken_ns)
        several = list(columns.values())
        left = several[0] if len(several) == 1 else list(map(max, *several))
        travel_ns = path.travel_ns + int(path.per_byte_ns * min(size, self._most_head))
        there = [left_ns + travel_ns for left_ns in left]
        if path.jitter is not None:
            chance = stream.chance("jitter")
            there = [there_ns + path.jitter(chance) for there_ns in there]
        if path.jitter is not None or there[0] < stream.last_ns:
            there = list(accumulate(there, max, initial=stream.last_ns))[1:]
        stream.enqueued = stream.drained = stream.goal = ends[-1]
        stream.since_ns = stream.busy_ns = left[-1]
        stream.wait_ns = 0
        stream.last_ns = there[-1]
        if not stream.transit:
            stream.wake_ns = there[0]
            heapq.heappush(heap, (there[0], stream.index, stream))
        numbers = range(number, number + len(ends))
        stream.transit.extend(zip(there, numbers, left, ends, repeat(size)))
        return len(ends)

    def _start(
        self, stream: Stream, at_ns: int, begin: int, end: int, number: int, head: int
    ) -> None:
        """A message for a stream of which nothing drains: a train, or it begins to drain."""
        if stream.queue:
            stream.settle(at_ns)
        stream.drained = begin
        if at_ns >= stream.round_end or stream.full:
            stream.open_round(at_ns)
        if end - begin <= self._longest and end <= stream.limit and not stream.holes:
            self._pass(stream, at_ns, end, number, end - begin, head)
        else:
            stream.queue.append((end, number, head))
            self._begin(stream, at_ns)

    def _pass(
        self, stream: Stream, at_ns: int, end: int, number: int, size: int, head: int
    ) -> None:
        """A train: behind the others that are queued at each link, and its arrival is known."""
        path = stream.path
        left = at_ns
        wait_ns = 0
        for resource, byte_ns in path.hops:
            taken = math.ceil(size * byte_ns)
            if resource.users:
                wait_ns += self._shares.pass_by(resource, stream, at_ns, taken)
            left = max(left, resource.take(at_ns, taken))
        stream.drained = stream.goal = end
        stream.since_ns = stream.busy_ns = left
        stream.wait_ns = wait_ns
        at = left + path.travel_ns + wait_ns + int(path.per_byte_ns * head)
        if path.jitter is not None:
            at += path.jitter(stream.chance("jitter"))
        at = max(at, stream.last_ns)
        stream.last_ns = at
        transit = stream.transit
        transit.append((at, number, left, end, size))
        if len(transit) == 1:
            stream.wake_ns = at
            heapq.heappush(self._agenda.heap, (at, stream.index, stream))

    def _begin(self, stream: Stream, at_ns: int) -> None:
        """A stream that was idle begins to drain."""
        path = stream.path
        stream.since_ns = at_ns
        stream.speed = path.speed
        stream.shared = stream.must = False
        stream.wait_ns = 0
        if stream.line is not None:
            self._line_up(stream, stream.line, at_ns)
            return
        index = stream.index
        contended = False
        for resource in path.resources:
            users = resource.users
            if users:
                for other in users.values():
                    if other.goal_ns > at_ns and other is not stream:
                        contended = True
                        break
                else:
                    users.clear()
            users[index] = stream
            stream.since_ns = max(stream.since_ns, resource.free_ns)
        if contended:
            stream.shared = True
            stream.goal_ns = NEVER
            stream.wait_ns = self._shares.wait_ns(path, at_ns, stream)
            self._shares.touch(at_ns, path.resources, (stream,))
        else:
            self._agenda.wake(stream, stream.aim())

    # Ways.

    def _ready(
        self, at_ns: int, number: int, source: str, destination: str, key: Key
    ) -> Stream | None:
        """The stream between two nodes on the way of now; None where the message has ended."""
        if not self._ways.conditions.is_up(destination):
            self._agenda.fates.append(Fate(number, at_ns, "destination down"))
            return None
        if source == destination:
            self._agenda.fates.append(Fate(number, at_ns))
            return None
        stream = self._streams.get(key)
        if stream is None:
            index = self._agenda.name()
            stream = Stream(index, source, destination, self._seed, self._transport)
            stream.channel = key[2] if len(key) == 3 else 0
            self._streams[key] = stream
            for end in (source, destination):
                self._at.setdefault(end, []).append(stream)
        if stream.generation != self.generation:
            stream.rebase(at_ns)
            self._take_way(stream, at_ns)
            if stream.waiting:
                self._agenda.wake(stream, stream.aim())
        return stream

    def _take_way(self, stream: Stream, at_ns: int) -> None:
        """Puts the stream on the way of now; without one it stalls, with one again it resumes once
        its retransmission timer, doubled each time, has fired.
        """
        known = stream.generation != NO_WAY
        path = self._ways.path(stream.source, stream.destination)
        stream.generation = self.generation
        if path is None:
            if stream.stalled_ns < 0:
                stream.stop(at_ns, at_ns + self._timeout_ns)
                stream.stalled_ns = at_ns
            return
        if self._ways.call(stream.source, stream.destination):
            self._open_back(stream, at_ns)
        if known and stream.stalled_ns < 0 and path.is_as(stream.path):
            return
        fresh = not known or not stream.full
        stream.close_pipe()
        moved = not known or stream.path is None or stream.path.losses != path.losses
        stream.go_by(path)
        stream.speed = path.speed
        if moved:
            stream.take_losses()
        if stream.stalled_ns >= 0:
            stream.resume_ns = _timer_after(stream.stalled_ns, at_ns, stream.rto_ns)
            stream.stalled_ns = -1
            stream.lost = TIMED_OUT
        elif not stream.waiting and not fresh:
            stream.begin_round(at_ns)

    def _open_back(self, stream: Stream, at_ns: int) -> None:
        """Who is called from behind a NAT reaches the caller from now on."""
        for back in self._of(stream.destination):
            if back.destination == stream.source and back.generation != NO_WAY:
                back.generation = ANOTHER_WAY
                if back.waiting:
                    self._take_way(back, at_ns)
                    self._agenda.wake(back, back.aim())

    def move(self, at_ns: int, changed: Changed) -> None:
        """Ways have changed: what is under way on them is planned anew."""
        self.generation = self._ways.generation
        busy = self._concerned(at_ns, changed)
        touched: dict[Resource, None] = {}
        self._make_noise(changed, touched)
        for stream in busy:
            stream.rebase(at_ns)
            stream.take_back(at_ns)
        busy.sort(key=_place)
        for stream in busy:
            if stream.waiting or stream.drained < stream.enqueued:
                if stream.path is not None:
                    touched.update(dict.fromkeys(stream.path.resources))
                    unlist(stream)
                self._take_way(stream, at_ns)
        if touched or busy:
            self._shares.touch(at_ns, touched, busy)
        for stream in busy:
            if stream.waiting or stream.drained >= stream.enqueued:
                continue
            if stream.line is not None:
                self._line_up(stream, stream.line, at_ns)
            else:
                self._enlist(stream)
                self._shares.touch(at_ns, stream.path.resources)

    def _concerned(self, at_ns: int, changed: Changed) -> list[Stream]:
        """The streams under way of which the way is another now, or is none."""
        concerned: Iterable[Stream] = self._streams.values()
        if not changed.everybody:
            found = {stream.index: stream for name in changed.nodes for stream in self._of(name)}
            for stream in concerned if changed.stale else ():
                if stream.path is not None and stream.path.is_stale:
                    found[stream.index] = stream
            concerned = [found[index] for index in sorted(found)]
            for stream in concerned:
                if stream.generation != NO_WAY:
                    stream.generation = ANOTHER_WAY
        busy = [
            stream
            for stream in concerned
            if (stream.waiting or stream.goal_ns > at_ns or stream.queue or stream.busy_ns > at_ns)
            and not self._keeps_its_way(stream)
        ]
        return self._with_those_behind(busy, at_ns)

    def _with_those_behind(self, busy: list[Stream], at_ns: int) -> list[Stream]:
        """With all who queue where places get free: those move up."""
        freed, self._freed = self._freed, {}
        for stream in busy:
            if stream.has_places(at_ns):
                freed.update(dict.fromkeys(stream.path.resources))
        found = {stream.index: stream for stream in busy}
        more = bool(freed)
        while more:
            more = False
            for stream in self._streams.values():
                if stream.index in found or not stream.has_places(at_ns):
                    continue
                if any(resource in freed for resource in stream.path.resources):
                    found[stream.index] = stream
                    freed.update(dict.fromkeys(stream.path.resources))
                    more = True
        return [found[index] for index in sorted(found)]

    def _keeps_its_way(self, stream: Stream) -> bool:
        path = self._ways.path(stream.source, stream.destination)
        if stream.generation == NO_WAY or (stream.stalled_ns < 0) != (path is not None):
            return False
        if path is not None and not path.is_as(stream.path):
            return False
        stream.generation = self.generation
        return True

    def _make_noise(self, changed: Changed, touched: dict[Resource, None]) -> None:
        """Background traffic begins, ends, or takes other ways; `touched` is what it uses or used.

        It has been asked for by whom it flows to, so that a NAT lets it through.
        """
        for event, begins in changed.noise:
            rate_bps = event.change.rate_bps if event.change is not None else None
            for source, target in event.links if rate_bps else ():
                noise = (event.fault, source, target)
                self._silence(noise, touched)
                for end in (source, target):
                    if begins:
                        self._noise_at.setdefault(end, {})[noise] = None
                    else:
                        self._noise_at[end].pop(noise, None)
                if begins and rate_bps:
                    self._noise[noise] = (rate_bps, None)
                    self._sound(noise, touched)
                else:
                    self._noise.pop(noise, None)
        heard: Iterable[Noise] = tuple(self._noise)
        if not (changed.everybody or changed.stale):
            heard = {one: None for name in changed.nodes for one in self._noise_at.get(name, ())}
        for noise in heard:
            self._sound(noise, touched)

    def _sound(self, noise: Noise, touched: dict[Resource, None]) -> None:
        rate_bps, flow = self._noise[noise]
        path = self._ways.path(noise[1], noise[2], called=True)
        if flow is not None and path is not None and path.is_as(flow.path):
            return
        self._silence(noise, touched)
        if path is not None:
            flow = Background(self._agenda.name())
            flow.path, flow.cap_bps, flow.goal_ns = path, rate_bps, NEVER
            self._noise[noise] = (rate_bps, flow)
            enlist(flow)
            for resource in path.resources:
                resource.background[flow.index] = rate_bps
            touched.update(dict.fromkeys(path.resources))

    def _silence(self, noise: Noise, touched: dict[Resource, None]) -> None:
        rate_bps, flow = self._noise.get(noise, (0.0, None))
        if flow is not None:
            self._noise[noise] = (rate_bps, None)
            unlist(flow)
            for resource in flow.path.resources:
                del resource.background[flow.index]
            touched.update(dict.fromkeys(flow.path.resources))

    def _of(self, name: str) -> Sequence[Stream]:
        return self._at.get(name, ())

    # Ends.

    def close(self, at_ns: int, source: str, destination: str, channel: int) -> None:
        """A connection is no more: what of it has not arrived is lost."""
        stream = self._streams.pop((source, destination, channel), None)
        if stream is None:
            return
        for end in (source, destination):
            self._at[end].remove(stream)
        stream.settle(at_ns)
        reason = "connection closed"
        self._agenda.fates += [Fate(item[1], at_ns, reason) for item in stream.transit]
        self._agenda.in_flight -= len(stream.transit)
        stream.transit.clear()
        self._lose_queue(stream, at_ns, reason)
        stream.wake_ns = NEVER

    def lose_ends(self, now_ns: int, name: str, how: str) -> None:
        """A node crashed, or left: what it had not sent out is lost, and all that was for it."""
        agenda = self._agenda
        for stream in self._of(name):
            if stream.has_places(now_ns):
                self._freed.update(dict.fromkeys(stream.path.resources))
            if stream.destination == name:
                stream.settle(now_ns)
                reason = f"destination {how}"
                for item in stream.transit:
                    agenda.fates.append(Fate(item[1], now_ns, reason))
                agenda.in_flight -= len(stream.transit)
                stream.transit.clear()
            else:
                stream.settle(now_ns)
                stream.take_back(now_ns)
                reason = f"source {how}"
            self._lose_queue(stream, now_ns, reason)
            stream.connect_anew()


def _place(stream: Stream) -> int:
    """Its place in a line: since when, or from when on, it drains."""
    return stream.since_ns


def _timer_after(stalled_ns: int, path_back_ns: int, rto_ns: int) -> int:
    """The first instant at or after `path_back_ns` at which the doubled timer fires."""
    at_ns = stalled_ns + rto_ns
    while at_ns < path_back_ns:
        rto_ns *= 2
        at_ns += rto_ns
    return at_ns
