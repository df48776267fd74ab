"""The sender of a stream: its window, its round trips, and what it does about losses.

A window is a burst a round trip. The next burst begins one round trip after this one began, or at
once where the burst itself took longer: then the pipe is full, and without losses that is the end
of rounds.

Where no link before the bottleneck spreads them, bursts of several senders stand in line there, one
behind the other (`line`), and in the order in which they left their acknowledgments come back
and call for the next ones. So each gets what its window is of all windows, short transfers end one
after the other, whom the queue has no room for loses, and HyStart sees how long the line is. Once
the link has not been idle for long, their pipes are full here, too.

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

from broker.network.chance import Losses
from broker.network.flow import NEVER, STEADFAST, Fluid
from broker.network.paths import Path, Resource
from broker.network.window import Window
from topologies import Transport

TRAIN_SEGMENTS = 10
"""A longer burst that comes at once would be in the way of others for too long: it mingles with
them, as a fluid.
"""
BURST_GAIN = 4.0
SETTLED_ROUNDS = 16
"""After so many round trips in which a link was never idle the flows on it are taken to share it by
their weights; until then they have what their windows got them.
"""
HYSTART_WINDOW, HYSTART_SAMPLES = 16, 8  # Linux: from so many segments on, once a round trip
HYSTART_LEAST_NS, HYSTART_MOST_NS = 4e6, 16e6
HYSTART_SPACING_NS = 1e6  # Linux: 2 ms from one acknowledgment of two segments to the next
REPAIRED, TIMED_OUT = 1, 2
NO_WAY, ANOTHER_WAY = -1, -2
"""A stream's `generation` before it has had a way, and where that may be another one now."""


class Stream(Fluid):
    """The flow of one ordered pair, and who sends it."""

    __slots__ = (
        "full", "full_ns", "generation", "line", "losses", "lost", "next_lost", "overflow",
        "recover", "resend", "round_base", "round_end", "rto_least_ns", "segments", "stalled_ns",
        "unseen", "wait_least_ns", "waited_ns", "window",
    )  # fmt: skip

    def __init__(
        self, index: int, source: str, destination: str, seed: int, transport: Transport
    ) -> None:
        segment = transport.segment_bytes + transport.header_bytes
        super().__init__(index, source, destination, seed, segment)
        self.generation = NO_WAY
        self.window = Window(transport.congestion, transport.initial_window)
        self.rto_least_ns = round(transport.minimum_rto_s * 1e9)
        self.round_end = 0
        self.round_base = 0.0
        self.full = False
        self.full_ns = 0
        self.line: Resource | None = None  # where its round stands in line with those of others
        self.overflow = False  # the next hole is one that a full queue makes
        self.stalled_ns = -1
        self.losses: Losses | None = None
        self.segments = self.next_lost = 0
        self.lost = 0  # or what this round's losses mean for the window
        self.resend = 0.0
        self.recover = 0.0  # losses before this are known to the sender
        self.unseen = False  # the last segment there is was lost, and nothing came behind it
        self.waited_ns = 0  # this round, behind the trains of others
        self.wait_least_ns = NEVER

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

    # Rounds.

    def open_round(self, now_ns: int) -> None:
        """A flow that was idle begins to send: in the round that is under way, or in a new one."""
        idle_ns = max(now_ns - max(self.goal_ns, self.busy_ns), 0)
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

    def next_round(self, now_ns: int, crowded: bool) -> None:
        """The round trip is over, and there is more to send."""
        self._judge(now_ns)
        self.drained -= self.resend
        self.resend = 0.0
        if crowded and self._is_settled(now_ns):
            self._fill_pipe(now_ns)
        else:
            self.begin_round(now_ns)

    def begin_round(self, now_ns: int) -> None:
        """A burst of one window from now on."""
        self.round_base = self.drained
        self.round_end = now_ns + self.path.rtt_ns + self.wait_ns
        window = self.window
        burst = window.size * self.segment
        self.limit = self.drained + burst
        if self.path.neck is not None:
            self._take_place(self.path.neck, now_ns)
        backlog = self.enqueued - self.drained
        if backlog > 2 * self.segment and self.losses is None:
            if window.size < window.threshold:
                self._overflow(burst)
            elif self.waited_ns * self.path.speed > self.path.queue_bytes:
                # Past slow start one segment more comes than finds room.
                self._lose_to_queue(self.drained)

    def _take_place(self, neck: Resource, now_ns: int) -> None:
        """The round is a train behind those that stand in line at the bottleneck."""
        window = self.window
        self.line = neck if not window.at_first or window.size <= TRAIN_SEGMENTS else None
        self.waited_ns = max(neck.free_ns - now_ns, 0)
        self.wait_least_ns = min(self.wait_least_ns, self.waited_ns)
        self.round_end += self.waited_ns
        if self.unseen:
            self.unseen = False
            self.limit = max(min(self.limit, self.enqueued - self.segment), self.drained)

    def _is_settled(self, now_ns: int) -> bool:
        """Whether the link has been busy for so long that windows need no following any more."""
        line, window = self.line, self.window
        if line is None or self.losses is not None or window.size < window.threshold:
            return False
        return now_ns - line.idle_ns > SETTLED_ROUNDS * self.rtt_ns

    def _overflow(self, burst: float) -> None:
        """A burst of slow start comes at twice the speed at which it drains, the first one all at
        once. Of what does not find room every other segment is lost, or all of it, and sent again
        while the queue empties or, where others stand in it, a round trip later.
        """
        path = self.path
        speed = self.speed or path.speed
        room = path.queue_bytes * speed / path.speed - (self.waited_ns + self.wait_ns) * speed
        at_once = self.window.at_first
        excess = (burst if at_once else max(burst / 2, burst - speed * self.rtt_ns)) - room
        hole = self.drained + max(burst - excess * (1 if at_once else 2), 0.0)
        end = min(self.limit, self.enqueued)
        if excess <= self.segment or hole >= end:
            return
        self._lose_to_queue(hole)
        if at_once:
            self.limit = hole
        elif self.waited_ns:
            self.unseen = self.enqueued <= self.limit
            self.limit = (hole + end) / 2

    def _lose_to_queue(self, hole: float) -> None:
        self.holes.append(hole)
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
            if self.waited_ns and self._waits_longer():
                window.acknowledge(HYSTART_SAMPLES)
                window.leave_slow_start()
            elif found and window.size < window.threshold and 2 * used > window.size:
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

    def _waits_longer(self) -> bool:
        """Whether HyStart finds that round trips have become longer than they were."""
        trip_ns = self.rtt_ns + self.wait_least_ns
        longer_ns = min(max(trip_ns / 8, HYSTART_LEAST_NS), HYSTART_MOST_NS)
        return (
            self.window.trains
            and HYSTART_WINDOW <= self.window.size < self.window.threshold
            and self.waited_ns - self.wait_least_ns > longer_ns
        )

    def fill(self, now_ns: int, crowded: bool) -> None:
        """A burst took a whole round trip: what comes next follows at once."""
        if crowded or self._competes():
            # The acknowledgments of its first segments have come since, and it was in line again.
            self.next_round(self.round_end, crowded)
            return
        if self.window.trains:
            self.window.leave_slow_start()
        if self.losses is None and self.window.size >= self.window.threshold:
            self._fill_pipe(now_ns)
        else:
            self.next_round(now_ns, crowded)

    def _competes(self) -> bool:
        """Whether it is in slow start beside traffic that does not give way."""
        if self.line is None or self.window.size >= self.window.threshold:
            return False
        return bool(self.line.background)

    def part_beside(self, background: float) -> float:
        """What its train has of a link of which such traffic takes this part: slow start comes at
        twice the link's speed, and that gets in between; later it has what is left.
        """
        if self.window.size < self.window.threshold:
            return 2 / (2 + background)
        return max(1 - background, 1 / STEADFAST)

    def _fill_pipe(self, now_ns: int) -> None:
        self.full, self.full_ns, self.limit = True, now_ns, math.inf
        self.line = None
        self.cap_bps = self.path.bandwidth_bps * self.path.utilization
        if self.path.neck is not None:
            self.since_ns = max(self.since_ns, self.path.neck.free_ns)

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

    def go_by(self, path: Path) -> None:
        """This is its way now; a round stays in line where that is the same link's."""
        self.path = path
        if self.line is not path.neck:
            self.line = None
            self.wait_least_ns = NEVER

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

    # Losses.

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
        alone = hole - self.round_base < self.segment / 2 and behind - lost_too < 0.5
        found = behind - lost_too >= 0.5 or (more and not alone)
        rtt_ns = max(self.rtt_ns, int((end - hole) / self.speed))
        again = self.chance("again")
        rate = self.losses.rate if self.losses is not None else 0.0
        silent_until = 0
        lost = REPAIRED
        if found:
            sent_ns = now_ns + rtt_ns + (0 if behind >= 2.5 or more else rtt_ns // 4)
            if behind - lost_too < 0.5:
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
