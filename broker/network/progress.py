"""A stream under way: what has arrived is told, and what its sender does next.

The events of a stream are the arrivals of what is in transit, the end of a silence, and, where
somebody has to be there, its goal.
"""

from __future__ import annotations

import math

from broker.network.agenda import NEVER, Agenda, Fate
from broker.network.paths import Resource
from broker.network.sender import NO_WAY, Stream
from broker.network.shares import Shares, enlist, unlist

_fate = tuple.__new__


class Progress:
    """What happens to streams in the course of time."""

    __slots__ = ("_agenda", "_shares")

    def __init__(self, agenda: Agenda, shares: Shares) -> None:
        self._agenda, self._shares = agenda, shares

    def wake(self, stream: Stream, at_ns: int, to_ns: int) -> None:
        """What has arrived is told, as far ahead as nothing else happens; then its own events."""
        agenda, queue, transit = self._agenda, stream.queue, stream.transit
        own_ns = NEVER
        if stream.waiting:
            own_ns = stream.resume_ns
        elif stream.must:
            own_ns = stream.goal_ns
        ahead = to_ns
        if agenda.heap and agenda.heap[0][0] <= ahead:
            ahead = agenda.heap[0][0] - 1
        if own_ns <= ahead:
            ahead = own_ns - 1
        if ahead < at_ns or self._shares.dirty:
            ahead = at_ns
        self._tell(stream, ahead)
        if transit and own_ns > at_ns:
            wake = transit[0][0]
            agenda.wake(stream, wake if wake < own_ns else own_ns)
            return
        if at_ns >= own_ns:
            if stream.waiting:
                self._resume(stream, at_ns)
            else:
                self._reach_goal(stream, at_ns)
        if transit or queue or stream.waiting:
            agenda.wake(stream, stream.aim())

    def _tell(self, stream: Stream, until_ns: int) -> None:
        """What has arrived by then; nothing else happens until then."""
        queue, transit = stream.queue, stream.transit
        while True:
            self._agenda.fates += self._arrived(stream, until_ns)
            if transit or not queue:
                break
            stream.settle(until_ns)
            if not transit:
                break

    def early(self, stream: Stream, now_ns: int, until_ns: int) -> list[Fate]:
        """Pops those arrivals until then that stand fast."""
        stream.settle(now_ns)
        return self._arrived(stream, until_ns)

    def _arrived(self, stream: Stream, until_ns: int) -> list[Fate]:
        """Pops what is known to arrive by then."""
        transit = stream.transit
        if transit and transit[-1][0] <= until_ns:
            told = list(transit)
            transit.clear()
        else:
            told = []
            while transit and transit[0][0] <= until_ns:
                told.append(transit.popleft())
        self._agenda.in_flight -= len(told)
        return [_fate(Fate, (number, at_ns, "", 0, True)) for at_ns, number, _, _, _ in told]

    def _resume(self, stream: Stream, at_ns: int) -> None:
        """A silence is over: the next round, a timer, or the end of patience with a lost way."""
        stream.waiting = False
        stream.since_ns = at_ns
        if stream.stalled_ns >= 0:
            stream.stalled_ns = -1
            stream.generation = NO_WAY
            self._lose_queue(stream, at_ns, "stream timeout")
            return
        if stream.path is not None:
            stream.wait_ns = self._shares.wait_ns(stream.path, at_ns, stream)
        line = stream.line
        stream.next_round(at_ns, line is not None and self._is_crowded(line, at_ns))
        if stream.drained < stream.enqueued:
            self._join(stream, at_ns)

    def _reach_goal(self, stream: Stream, at_ns: int) -> None:
        """All is sent, or the window is used up, or a segment is lost."""
        stream.rebase(at_ns)
        if stream.holes and stream.drained >= stream.holes[0]:
            until_ns = stream.lose(at_ns)
            if stream.drained >= stream.limit:
                until_ns = max(until_ns, stream.round_end, at_ns)
            if until_ns:
                self._pause(stream, at_ns, until_ns)
                return
        elif stream.drained >= stream.enqueued:
            self._leave(stream, at_ns)
            return
        elif stream.drained >= stream.limit:
            if at_ns < stream.round_end:
                self._pause(stream, at_ns, stream.round_end)
                return
            gain, line = stream.gain, stream.line
            stream.fill(at_ns, line is not None and self._is_crowded(line, at_ns))
            if stream.shared and stream.gain != gain:
                self._enlist(stream)
                self._shares.touch(at_ns, stream.path.resources, (stream,))
                return
        self._join(stream, at_ns)

    def _is_crowded(self, line: Resource, at_ns: int) -> bool:
        """Whether others use this link, when a train is through or not there yet."""
        return line.free_ns > at_ns or self._shares.in_use(line, at_ns)

    def _join(self, stream: Stream, at_ns: int) -> None:
        """The stream sends on: with others there the sharing is solved anew."""
        if stream.line is not None:
            self._line_up(stream, stream.line, at_ns)
            return
        resources = stream.path.resources
        listed = stream.shared and all(stream.index in resource.users for resource in resources)
        self._enlist(stream)
        if listed:
            self._agenda.wake(stream, stream.aim())
        else:
            self._shares.touch(at_ns, resources, (stream,))

    def _line_up(self, stream: Stream, line: Resource, at_ns: int) -> None:
        """The rest of its round goes as a train, behind those that are queued at each link."""
        path = stream.path
        if stream.shared:
            self._leave(stream, at_ns)
        stream.shared, stream.lined_up = False, 0.0
        stream.speed = path.speed
        if line.background:
            stream.speed *= stream.part_beside(sum(line.background.values()) / line.capacity)
        stream.aim()
        size = stream.goal - stream.drained
        start_ns, wait_ns = at_ns, 0
        for resource, byte_ns in path.hops:
            taken_ns = math.ceil(size * byte_ns)
            if resource.users:
                wait_ns += self._shares.pass_by(resource, stream, at_ns, taken_ns)
            start_ns = max(start_ns, resource.take(at_ns, taken_ns) - taken_ns)
        stream.since_ns, stream.wait_ns = start_ns, wait_ns
        self._agenda.wake(stream, stream.aim())
        stream.lined_up = stream.goal
        line.free_ns = stream.goal_ns

    def _pause(self, stream: Stream, at_ns: int, until_ns: int) -> None:
        """The stream is silent until then."""
        stream.stop(at_ns, until_ns)
        self._leave(stream, at_ns)

    def _enlist(self, stream: Stream) -> None:
        stream.goal_ns = NEVER
        enlist(stream)

    def _leave(self, stream: Stream, at_ns: int) -> None:
        """The stream sends no more; what it took the others get."""
        unlist(stream)
        if stream.shared:
            stream.shared = stream.must = False
            self._shares.touch(at_ns, stream.path.resources)

    def _lose_queue(self, stream: Stream, now_ns: int, reason: str) -> None:
        for _, number, _ in stream.queue:
            self._agenda.fates.append(Fate(number, now_ns, reason))
        self._agenda.in_flight -= len(stream.queue)
        stream.queue.clear()
        stream.holes.clear()
        stream.drained = stream.goal = stream.enqueued
        stream.limit = max(stream.limit, stream.enqueued)
        stream.goal_ns = now_ns
        stream.waiting = stream.must = False
        stream.stalled_ns = -1
        if stream.path is not None:
            self._leave(stream, now_ns)
        self._agenda.wake(stream, stream.aim())
