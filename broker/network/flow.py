"""One stream: its messages in order, how far they have drained, and its sender's state.

Messages lie end to end in one sequence of bytes on the wire. The fluid drains through the
bottleneck at `speed` bytes a nanosecond, from `drained` at `since_ns` up to `goal`, which it
reaches at `goal_ns`: the end of what there is, of what the window allows in this round trip, or the
next segment that will be lost. So long as nothing changes nothing is computed: a message's arrival
follows from where it ends. `settle` takes what has drained out of the queue, and such a message's
arrival stands fast; all others move when `speed` changes.

A window is a burst a round trip. The next burst begins one round trip after this one began, or at
once where the burst itself took longer: then the pipe is full, and without losses that is the end
of rounds.

Which segments will be lost is drawn when they are handed over (`holes`: where they begin). What
happens then is Linux's loss recovery: three segments behind the hole, or one and a quarter of a
round trip (RACK, RFC 8985), and it is sent again, which takes one round trip more; nothing behind
it, and the tail loss probe or the retransmission timer has to find it. What lies behind the hole in
this flow arrives with it, not before.

Of what links do to packets, damage is a loss to a stream (a checksum finds it), and duplicates are
nothing: the receiver has those bytes. Nor is reordering: Linux sees it (RACK, D-SACK) and takes a
few needless retransmissions back, so it is not modelled. Jitter delays, and never reorders.
"""

from __future__ import annotations

import math
import random
from collections import deque

from broker.network import chance
from broker.network.chance import Losses
from broker.network.paths import Path, Resource
from broker.network.segments import wire_bytes
from broker.network.window import Window
from topologies import Transport

NEVER = 1 << 62
BURST_GAIN = 4.0
HYSTART_SPACING_NS = 1e6  # Linux: 2 ms from one acknowledgment of two segments to the next
REPAIRED, TIMED_OUT = 1, 2


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


class Stream(Flow):
    """The flow of one ordered pair."""

    __slots__ = (
        "chances",
        "destination",
        "drained",
        "enqueued",
        "full",
        "full_ns",
        "generation",
        "goal",
        "holes",
        "last_ns",
        "limit",
        "losses",
        "lost",
        "must",
        "next_lost",
        "overflow",
        "queue",
        "recover",
        "resend",
        "resume_ns",
        "round_base",
        "round_end",
        "round_ns",
        "rto_doubled",
        "rto_least_ns",
        "seed",
        "segment",
        "segments",
        "since_ns",
        "source",
        "stalled_ns",
        "transit",
        "wait_ns",
        "waiting",
        "window",
    )  # fmt: skip

    def __init__(
        self, index: int, source: str, destination: str, seed: int, transport: Transport
    ) -> None:
        super().__init__(index)
        self.source, self.destination, self.seed = source, destination, seed
        self.generation = -1
        self.window = Window(transport.congestion, transport.initial_window)
        self.segment = transport.segment_bytes + transport.header_bytes
        self.rto_least_ns = round(transport.minimum_rto_s * 1e9)
        # Each message: where it ends, its number, and the bytes of its first segment.
        self.queue: deque[tuple[int, int, int]] = deque()
        self.transit: deque[tuple[int, int]] = deque()
        self.enqueued = 0
        self.drained = 0.0
        self.since_ns = 0
        self.goal: float = 0
        self.must = False  # somebody has to be there when the goal is reached
        self.limit: float = 0
        self.round_ns = self.round_end = 0
        self.round_base = 0.0
        self.full = False
        self.full_ns = 0
        self.overflow = False  # the next hole is one that a full queue makes
        self.wait_ns = 0  # behind the queues of others
        self.waiting = False
        self.resume_ns = 0
        self.stalled_ns = -1
        self.last_ns = 0
        self.chances: dict[str, random.Random] = {}
        self.losses: Losses | None = None
        self.holes: deque[float] = deque()
        self.segments = self.next_lost = 0
        self.lost = 0  # or what this round's losses mean for the window
        self.resend = 0.0
        self.recover = 0.0  # losses before this are known to the sender

    # Time.

    @property
    def gain(self) -> float:
        """Queues are first in, first out: what comes in a burst has taken its places at once."""
        return 1.0 if self.full or self.window.size >= self.window.threshold else BURST_GAIN

    @property
    def rto_ns(self) -> int:
        """The retransmission timeout (Linux: smoothed round trip, and its variation or 200 ms)."""
        return self.rtt_ns + max(self.rto_least_ns, 2 * self.path.jitter_most_ns)

    @property
    def rtt_ns(self) -> int:
        """The round trip with the queues on the way."""
        return self.path.rtt_ns + self.wait_ns

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
            at = since + math.ceil((end - drained) / speed)
            if at > now_ns:
                break
            queue.popleft()
            at += travel + int(per_byte * head)
            if jitter is not None:
                at += jitter(self.chance("jitter"))
            last = max(last, at)
            transit.append((last, number))
        self.last_ns = last

    def rebase(self, now_ns: int) -> None:
        self.settle(now_ns)
        if now_ns >= self.goal_ns:
            self.drained = self.goal
        elif now_ns > self.since_ns:
            self.drained = min(self.drained + (now_ns - self.since_ns) * self.speed, self.goal)
        self.since_ns = max(now_ns, self.since_ns)

    def aim(self) -> int:
        """Sets the goal, and gives the next instant at which something has to happen."""
        wake = NEVER
        if self.waiting:
            wake = self.resume_ns
        else:
            goal = min(self.enqueued, self.limit)
            if self.holes and self.holes[0] < goal:
                goal = max(self.holes[0], self.drained)
            self.goal = goal
            self.goal_ns = self.since_ns + math.ceil((goal - self.drained) / self.speed)
            self.must = self.shared or goal < self.enqueued
            if self.must and (goal < self.enqueued or self.drained < goal):
                wake = self.goal_ns
        if self.transit:
            return min(wake, self.transit[0][0])
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
                return min(wake, at + max(least, 0))
        return wake

    def stop(self, now_ns: int, until_ns: int) -> None:
        """Nothing drains until then."""
        self.rebase(now_ns)
        self.waiting, self.resume_ns = True, until_ns
        self.goal, self.goal_ns = self.drained, now_ns

    # Rounds.

    def open_round(self, now_ns: int) -> None:
        """A flow that was idle begins to send: in the round that is under way, or in a new one."""
        idle_ns = now_ns - self.goal_ns
        if self.full:
            if idle_ns < self.rtt_ns and self.losses is None:
                return
            self.full, self.cap_bps = False, math.inf
            self.round_end = now_ns
        if now_ns >= self.round_end:
            window = self.window
            if self.lost or 2 * (self.drained - self.round_base) > window.size * self.segment:
                self._judge(now_ns)
            if not window.at_first:
                window.idle(idle_ns, self.rto_ns)
            self.begin_round(now_ns)

    def next_round(self, now_ns: int) -> None:
        """The round trip is over, and there is more to send."""
        self._judge(now_ns)
        self.drained -= self.resend
        self.resend = 0.0
        self.begin_round(now_ns)

    def begin_round(self, now_ns: int) -> None:
        """A burst of one window from now on."""
        self.round_ns, self.round_base = now_ns, self.drained
        self.round_end = now_ns + self.path.rtt_ns + self.wait_ns
        window = self.window
        burst = window.size * self.segment
        self.limit = self.drained + burst
        backlog = self.enqueued - self.drained
        if backlog > 2 * self.segment and self.losses is None and window.size < window.threshold:
            self._overflow(burst)

    def _overflow(self, burst: float) -> None:
        """A burst of slow start comes at twice the speed at which it drains; of what does not find
        room every other segment is lost, and sent again while the queue empties.
        """
        speed = self.speed or self.path.speed
        room = self.path.queue_bytes * speed / self.path.speed
        excess = max(burst / 2, burst - speed * self.rtt_ns) - room
        hole = self.drained + burst - 2 * excess
        if excess > self.segment and hole < self.enqueued:
            self.holes.append(max(hole, self.drained))
            self.overflow = True

    def _judge(self, now_ns: int) -> None:
        """What the round trip that is over means for the window."""
        window, path = self.window, self.path
        if self.lost == TIMED_OUT:
            window.time_out()
        elif self.lost:
            window.back_off()
        else:
            speed = self.speed or path.speed
            used = (self.drained - self.round_base) / self.segment
            found = window.trains and (
                2 * window.size * self.segment >= speed * self.rtt_ns
                and self.segment <= speed * HYSTART_SPACING_NS
            )
            if found and window.size < window.threshold and 2 * used > window.size:
                # HyStart stops slow start half a round trip into the acknowledgments of a train.
                window.acknowledge(min(used, speed * self.rtt_ns / self.segment / 2))
                window.leave_slow_start()
            else:
                window.grow(now_ns, self.rtt_ns, used)
            most = (path.speed * path.rtt_ns + path.queue_bytes) / self.segment
            if window.size > most and window.size > window.threshold:
                window.size = max(most, 1.0)
                window.back_off()
        self.lost = 0

    def fill(self, now_ns: int) -> None:
        """A burst took a whole round trip: what comes next follows at once."""
        if self.window.trains:
            self.window.leave_slow_start()
        if self.losses is None and self.window.size >= self.window.threshold:
            self.full, self.full_ns, self.limit = True, now_ns, math.inf
            self.cap_bps = self.path.bandwidth_bps * self.path.utilization
        else:
            self.next_round(now_ns)

    def queued(self, now_ns: int) -> float:
        """The bytes with which its window fills the queue at its bottleneck.

        It left slow start with half a product of bandwidth and round trip too much at most, and
        gains what its law gains until the queue is as long as it is on the mean of many losses.
        """
        if not self.full:
            return 0.0
        path = self.path
        rounds = (now_ns - self.full_ns) / path.rtt_ns
        product = self.speed * path.rtt_ns
        begun = min(max(self.window.size * self.segment - product, 0.0), product / 2)
        if self.window.trains:
            gained = (begun + product) * (math.pow(1.05, min(rounds, 400.0)) - 1)
        else:
            gained = rounds * self.segment
        return min(begun + gained, path.standing_ns * path.speed)

    def close_pipe(self) -> None:
        """The way has changed: back to bursts, with the window that there was."""
        if self.full:
            self.full, self.cap_bps = False, math.inf
            self.window.size = max(self.window.size, self.speed * self.rtt_ns / self.segment)
            self.window.leave_slow_start()

    def connect_anew(self) -> None:
        """An end has died and come back."""
        self.window.reset()
        self.full, self.cap_bps = False, math.inf
        self.lost = 0
        self.resend = 0.0
        self.round_end = 0

    # Chance and loss.

    def chance(self, purpose: str) -> random.Random:
        """This flow's stream of chance for one purpose."""
        known = self.chances.get(purpose)
        if known is None:
            known = chance.stream(self.seed, purpose, self.source, self.destination)
            self.chances[purpose] = known
        return known

    def take_losses(self) -> None:
        """The way is another: which segments will be lost is drawn anew."""
        self.holes.clear()
        self.overflow = False
        if not self.path.losses:
            self.losses = None
            return
        self.losses = Losses(
            [(loss, burst, self.chance(purpose)) for purpose, loss, burst in self.path.losses]
        )
        self.segments, self.next_lost = 0, 1 + self.losses.gap()
        begin = self.drained
        for end, _, _ in self.queue:
            self.mark(end, end - begin)
            begin = end

    def mark(self, end: int, size: float) -> None:
        """A message is handed over: finds those of its segments that will be lost."""
        if self.losses is None:
            return
        segments = math.ceil(size / self.segment)
        self.segments += segments
        while self.next_lost <= self.segments:
            back = self.segments - self.next_lost + 1
            self.holes.append(end - back * size / segments)
            self.next_lost += 1 + self.losses.gap()

    def lose(self, now_ns: int) -> int:
        """The segment at `holes[0]` is lost. Returns until when the sender is silent, or 0."""
        hole = self.holes.popleft()
        end = min(self.limit, self.enqueued)
        behind = (end - hole) / self.segment - 1
        lost_too = sum(1 for other in self.holes if other < end)
        more = self.enqueued > self.limit
        alone = hole - self.round_base < self.segment / 2 and behind < 0.5
        found = behind - lost_too >= 0.5 or (more and not alone)
        rtt_ns = max(self.rtt_ns, int((end - hole) / self.speed))
        again = self.chance("again")
        rate = self.losses.rate if self.losses is not None else 0.0
        silent_until = 0
        lost = REPAIRED
        if found:
            sent_ns = now_ns + rtt_ns + (0 if behind >= 2.5 or more else rtt_ns // 4)
            if behind < 0.5:
                sent_ns += rtt_ns
            if again.random() < rate:
                sent_ns += rtt_ns
        else:
            if alone:
                sent_ns = now_ns + self.rto_ns
            elif lost_too == 0 and behind < 0.5:
                sent_ns = now_ns + rtt_ns + min(2 * rtt_ns + self.rto_least_ns, self.rto_ns)
            else:
                sent_ns = now_ns + rtt_ns + min(2 * rtt_ns, self.rto_ns) + rtt_ns * 5 // 4
            wait_ns = self.rto_ns
            while again.random() < rate:
                sent_ns += wait_ns
                wait_ns *= 2
                lost = TIMED_OUT
            if more:
                silent_until = sent_ns
                lost = TIMED_OUT
        if lost == TIMED_OUT or hole >= self.recover:
            # What was acknowledged before it still opens the window, and all that is sent until
            # the loss is found belongs to the same recovery (RFC 6675).
            self.lost = max(self.lost, lost)
            self.window.acknowledge((hole - self.round_base) / self.segment)
            self.recover = hole + self.window.size * self.segment
        if self.overflow:
            self.overflow = False  # what found no room before the link has not used it
        else:
            self.resend += self.segment
        path = self.path
        at = sent_ns + path.travel_ns + self.wait_ns
        at += int((path.per_byte_ns + 1 / path.speed) * self.segment)
        self.last_ns = max(self.last_ns, at)
        return silent_until


__all__ = ["NEVER", "Flow", "Stream", "wire_bytes"]
