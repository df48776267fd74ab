"""One stream as a fluid: its messages in order, and how far they have drained.

Messages lie end to end in one sequence of bytes on the wire. The fluid drains through the
bottleneck at `speed` bytes a nanosecond, from `drained` at `since_ns` up to `goal`, which it
reaches at `goal_ns`: the end of what there is, of what the window allows in this round trip, or the
next segment that will be lost. So long as nothing changes nothing is computed: a message's arrival
follows from where it ends. `settle` takes what has drained out of the queue, and such a message's
arrival stands fast; all others move when `speed` changes.

Its sender may have a part of it stand in line with the bursts of others: up to `lined_up` its place
in the queues is taken, and it drains at the link's full rate from when those before it are through.

A short message that finds none of its stream before it is a train of packets, and goes without all
that: first in, first out, behind the trains that are queued at each link, as real packets do. Its
arrival stands fast at once (until a fault takes back what has not left by `busy_ns`).
"""

from __future__ import annotations

import math
import random
from collections import deque

from broker.network import chance
from broker.network.agenda import NEVER
from broker.network.paths import Path, Resource

STEADFAST = 100.0
"""How traffic as much as its link carries counts beside a stream, which never starves quite."""


class Flow:
    """What shares links with others: who it is, where it goes, how fast it drains.

    It sends until `goal_ns`; `cap_bps` is the most it wants.
    """

    __slots__ = ("cap_bps", "goal_ns", "index", "neck", "path", "shared", "speed", "wake_ns")

    path: Path

    def __init__(self, index: int) -> None:
        self.index = index
        self.path = None  # type: ignore[assignment]  # until it has a way; then it sends
        self.speed = 0.0
        self.goal_ns = 0
        self.shared = False
        self.cap_bps = math.inf
        self.neck: Resource | None = None  # where its bytes queue
        self.wake_ns = NEVER

    def rebase(self, now_ns: int) -> None:
        """Takes note of what has drained, before the speed changes."""

    @property
    def gain(self) -> float:
        """How much of a queue it takes beside a flow whose pipe is full."""
        return 1.0


class Background(Flow):
    """Traffic that does not give way: it sends `cap_bps`, and others share what is left."""

    __slots__ = ()

    @property
    def gain(self) -> float:
        return STEADFAST * self.cap_bps / self.path.bandwidth_bps


class Fluid(Flow):
    """The messages of one ordered pair. What sets `limit` and `holes` is its sender's."""

    __slots__ = (
        "busy_ns", "chances", "channel", "destination", "drained", "enqueued", "goal", "holes",
        "last_ns", "limit", "lined_up", "must", "queue", "resume_ns", "seed", "segment", "since_ns",
        "source", "transit", "wait_ns", "waiting",
    )  # fmt: skip

    def __init__(self, index: int, source: str, destination: str, seed: int, segment: int) -> None:
        super().__init__(index)
        self.segment = segment  # bytes on the wire
        self.source, self.destination, self.seed = source, destination, seed
        self.channel = 0  # which of several connections between its nodes it is
        # Each message: where it ends, its number, and the bytes of its first segment.
        self.queue: deque[tuple[int, int, int]] = deque()
        # When it arrives, its number, when its last byte leaves the bottleneck; of a train where it
        # ends and its bytes.
        self.transit: deque[tuple[int, int, int, int, int]] = deque()
        self.enqueued = 0
        self.drained = 0.0
        self.since_ns = 0
        self.goal: float = 0
        self.must = False  # somebody has to be there when the goal is reached
        self.limit: float = 0
        self.lined_up = 0.0  # a train up to there has its place in the queues
        self.holes: deque[float] = deque()
        self.wait_ns = 0  # behind the queues of others
        self.waiting = False
        self.resume_ns = 0
        self.busy_ns = 0  # trains leave until then
        self.last_ns = 0
        self.chances: dict[str, random.Random] = {}

    def chance(self, purpose: str) -> random.Random:
        """This flow's stream of chance for one purpose."""
        known = self.chances.get(purpose)
        if known is None:
            name = f"{purpose} {self.channel}" if self.channel else purpose
            known = chance.stream(self.seed, name, self.source, self.destination)
            self.chances[purpose] = known
        return known

    def settle(self, now_ns: int) -> None:
        """What has drained by now is on its way, and its arrival stands fast."""
        queue = self.queue
        if not queue or queue[0][0] > self.goal:
            return
        path, transit, last = self.path, self.transit, self.last_ns
        since, drained, speed, goal = self.since_ns, self.drained, self.speed, self.goal
        travel, per_byte, jitter = path.travel_ns + self.wait_ns, path.per_byte_ns, path.jitter
        while queue:
            end, number, head = queue[0]
            if end > goal:
                break
            left = since + math.ceil((end - drained) / speed)
            if left > now_ns:
                break
            queue.popleft()
            at = left + travel + int(per_byte * head)
            if jitter is not None:
                at += jitter(self.chance("jitter"))
            last = max(last, at)
            transit.append((last, number, left, end, 0))
        self.last_ns = last

    def rebase(self, now_ns: int) -> None:
        self.settle(now_ns)
        if now_ns >= self.goal_ns:
            self.drained = self.goal
        elif now_ns > self.since_ns:
            drained = self.drained + (now_ns - self.since_ns) * self.speed
            self.drained = drained if drained < self.goal else self.goal
        self.since_ns = max(self.since_ns, now_ns)

    def has_places(self, now_ns: int) -> bool:
        """Whether it has places in queues, which are free once it takes that back."""
        return self.path is not None and (self.busy_ns > now_ns or self.lined_up > self.drained)

    def take_back(self, now_ns: int) -> None:
        """What has not left yet of trains is before the rest of the queue again."""
        if self.lined_up > self.drained:
            for resource, byte_ns in self.path.hops:
                rest_ns = int(byte_ns * (self.lined_up - self.drained))
                resource.free_ns = max(now_ns, resource.free_ns - rest_ns)
        self.lined_up = 0.0
        if self.busy_ns <= now_ns:
            return
        transit, path = self.transit, self.path
        while transit and transit[-1][2] > now_ns:
            _, number, left_ns, end, size = transit.pop()
            self.queue.appendleft((end, number, min(size, self.segment)))
            rest = min(float(size), (left_ns - now_ns) * path.speed)
            self.drained, self.since_ns = end - rest, now_ns
            for resource, byte_ns in path.hops:
                resource.free_ns = max(now_ns, resource.free_ns - int(byte_ns * rest))
        self.last_ns = transit[-1][0] if transit else now_ns
        self.goal = max(self.drained, min(self.goal, self.limit))
        self.goal_ns = NEVER if self.queue else now_ns
        self.busy_ns = now_ns

    def aim(self) -> int:
        """Sets the goal, and gives the next instant at which something has to happen."""
        wake = NEVER
        if self.waiting:
            wake = self.resume_ns
        elif self.drained >= self.enqueued:
            self.must = False  # nothing is left, or only trains that nobody has to look after
        else:
            goal: float = self.enqueued
            goal = min(goal, self.limit)
            if self.holes and self.holes[0] < goal:
                goal = max(self.holes[0], self.drained)
            if self.drained < self.lined_up < goal:
                goal = self.lined_up
            self.goal = goal
            self.goal_ns = self.since_ns + math.ceil((goal - self.drained) / self.speed)
            self.must = self.shared or goal < self.enqueued
            if self.must and (goal < self.enqueued or self.drained < goal):
                wake = self.goal_ns
        if self.transit:
            first = self.transit[0][0]
            return first if first < wake else wake
        if self.queue and not self.waiting:
            end, _, head = self.queue[0]
            if end <= self.goal:
                path = self.path
                at = self.since_ns + math.ceil((end - self.drained) / self.speed)
                least = (
                    path.travel_ns
                    + self.wait_ns
                    + int(path.per_byte_ns * head)
                    - path.jitter_most_ns
                )
                if least > 0:
                    at += least
                return at if at < wake else wake
        return wake

    def stop(self, now_ns: int, until_ns: int) -> None:
        """Nothing drains until then."""
        self.rebase(now_ns)
        self.waiting, self.resume_ns = True, until_ns
        self.goal, self.goal_ns = self.drained, now_ns


__all__ = ["NEVER", "Flow", "Fluid"]
