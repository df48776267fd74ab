"""Virtual time: who may move it, how far, and what happens in which order.

The scheduler moves from window to window. A window begins at the next instant at which something
happens and ends before anything that is sent in it could arrive: the network promises a
*lookahead*, the least time a message takes from one node to another. Nodes can't hear of each other
within a window, so each worker runs its nodes through it by itself. Where the promise is nothing (a
link without delay) a window is a single instant, repeated in rounds until nothing more happens.

At each instant, in this order: faults strike; what arrives is delivered; computations end; timers
fire; programs run until nothing is ready in any of them. What was sent is then collected from all
workers and given to the network in order of time; ties are broken by a hash of (seed, instant,
source) and then by sequence, so that no name always wins and other seeds explore other orders. So
the trace is the same for any number of workers.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter, itemgetter
from typing import Any, Literal

from broker.bus import Bus
from broker.clock import to_seconds
from broker.errors import (
    BrokerError,
    DeadlockError,
    LedgerError,
    LimitError,
    LivelockError,
    LostError,
    ProgramError,
)
from broker.facts import Facts
from broker.ledger import TOO_SLOW, Ledger
from broker.network import Fate, Network
from broker.troubles import Order, Strike, Troubles, told
from broker.wire import DATAGRAM, HEARTBEAT, NOBODY, PUBLISH, UNCOUNTED, Frame, Kind, pack, unpack

ROUNDS_AT_AN_INSTANT = 10_000
INSTANT_DEADLINE_S = 900.0
_FIRST_LOOK_NS = 10_000_000_000
_LONGEST_WINDOW_NS = 1_000_000_000

_INSTANT, _DUE = attrgetter("instant_ns"), attrgetter("due_ns")
_NO_NEWS: dict[str, Any] = {}
Tap = Callable[[str, str, Frame], None]


Ends = Literal["all", "first"]
"""Which of the programs that a run waits for end it."""


@dataclass(frozen=True, slots=True)
class Note:
    """What a program told the experimenter, or what the emulator did to it (`node` is "" then).

    `bytes_total` counts the bytes handed to the network until then.
    """

    time_s: float
    node: str
    event: str
    fields: dict[str, Any]
    bytes_total: int


Observer = Callable[[Note], None]


class Scheduler:
    """One run in virtual time, over workers that have joined `bus`.

    `owners` gives the worker of each node; `pump` lets a worker in this process take its turn.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        owners: tuple[int, ...],
        principals: Sequence[str],
        network: Network,
        troubles: Troubles,
        ledger: Ledger,
        bus: Bus,
        *,
        seed: int,
        send_buffer_bytes: int,
        limit_ns: int,
        ends: Ends,
        observe: Observer | None,
        tap: Tap | None,
        pump: Callable[[], object],
    ) -> None:
        self._names = names
        self._owners = owners
        self._workers = max(owners) + 1
        self._numbers = {name: number for number, name in enumerate(names)}
        self._principals = frozenset(self._numbers[name] for name in principals)
        self._enough = len(self._principals) if ends == "all" else 1
        self._network = network
        self._troubles = troubles
        self._ledger = ledger
        self._bus = bus
        self._words = [word_of(seed, name) for name in names]
        self._buffer_bytes = send_buffer_bytes
        self._limit_ns = limit_ns
        self._observe = observe
        self._tap = tap
        self._pump = pump
        self._stopped = False

        self.now_ns = 0
        self._lived_ns = 0
        self._lookahead_ns = 0
        self._flying: dict[int, Frame] = {}
        self._next_of: list[int | None] = [None] * self._workers
        self._returned: dict[int, int] = {}
        self._facts = Facts(names, troubles.topology)
        self._subscribers: dict[str, dict[int, None]] = {}
        self._topics_of: dict[int, dict[str, None]] = {}
        self._published: dict[int, dict[int, int]] = {}
        self._readers_of: dict[int, dict[int, None]] = {}
        self._receipts: list[tuple[int, int, int, int]] = []
        self._held: dict[int, dict[int, int]] = {}
        self._arriving: list[Fate] = []
        self._late = 0
        self._lost: str | None = None
        self._look_ns = _FIRST_LOOK_NS

    def stop(self) -> None:
        """Ends the run with an error at its next window; may be called from another thread."""
        self._stopped = True

    def live(self) -> None:
        """Moves time until enough principals have returned. The books are checked, however
        that ends.

        Raises ProgramError, DeadlockError, LivelockError, BrokerError.
        """
        try:
            self._live()
        except LedgerError:
            raise
        except BrokerError:
            self._check()
            raise
        self._check()

    def has_returned(self, name: str) -> bool:
        """Whether a node's program had returned by now: workers run on beyond the end."""
        return self._returned.get(self._numbers[name], math.inf) <= self.now_ns

    def _live(self) -> None:
        orders = self._troubles.first_orders()
        self._begin_window(orders)
        while not self._is_over():
            if self._stopped:
                raise BrokerError("the run was stopped from outside")
            if self._lost is not None:
                raise LostError(self._lost, to_seconds(self.now_ns))
            self.now_ns = self._next_instant()
            if self.now_ns > self._limit_ns:
                raise LimitError(to_seconds(self._limit_ns), self._waiting())
            if self.now_ns > self._look_ns:
                self._look_behind_heartbeats()
            self._begin_window([])
        self._end(self._end_ns())

    def _end(self, now_ns: int) -> None:
        """The run ends at this instant of its last window."""
        self.now_ns = now_ns
        for fate in self._network.advance(now_ns):
            self._ledger.ended(fate)

    def _check(self) -> None:
        """Raises LedgerError where the books don't balance: an error within a window leaves what
        was to arrive in it under way.
        """
        in_flight = self._network.in_flight() + len(self._arriving) + self._late
        self._ledger.check(in_flight, self._network.duplicated)

    def _next_instant(self) -> int:
        candidates = [ns for ns in self._next_of if ns is not None]
        coming = (self._network.next_ns(), self._troubles.next_ns())
        candidates.extend(ns for ns in coming if ns is not None)
        if self._receipts:
            candidates.append(self._receipts[0][0])
        if not candidates:
            raise DeadlockError(to_seconds(self.now_ns), self._waiting())
        return max(min(candidates), self.now_ns)

    def _look_behind_heartbeats(self) -> None:
        """Heartbeats go on for ever, and nobody waits for them: where nothing else is to come, it
        is a deadlock. It is looked for after each quarter more of the time.
        """
        self._look_ns = self.now_ns + self.now_ns // 4
        if self._receipts or self._troubles.next_ns() is not None:
            return
        if all(frame.flags & HEARTBEAT for frame in self._flying.values()):
            said = self._describe()
            if all(body["idle"] for body in said):
                raise DeadlockError(to_seconds(self.now_ns), self._waiting(said))

    # A window.

    def _begin_window(self, orders: list[Order]) -> None:
        """Lets a window happen that begins now."""
        now_ns = self.now_ns
        links = None
        due = self._troubles.next_ns()
        if due is not None and due <= now_ns:
            early = self._network.advance(now_ns - 1)
            strike = self._troubles.strike(now_ns, self._facts)
            assert strike is not None
            self._network.apply(now_ns, self._troubles.conditions)
            orders, links = self._order(orders, strike)
            self._look_ahead()
            due = self._troubles.next_ns()
        else:
            early = []
            if orders:
                self._look_ahead()
        end_ns = now_ns + max(self._lookahead_ns, 1)
        if due is not None:
            end_ns = min(end_ns, due)
        for _ in range(ROUNDS_AT_AN_INSTANT):
            fates = early + self._network.advance(now_ns)
            early = []
            if end_ns > now_ns + 1:
                end_ns = self._network.certain_ns(end_ns)
                fates += self._network.arrivals(end_ns - 1)
            deliveries = self._settle(fates, end_ns)
            workers = {
                worker for worker, ns in enumerate(self._next_of) if ns is not None and ns < end_ns
            }
            workers.update(deliveries, (self._owners[order[1]] for order in orders))
            if links is not None:
                workers.update(range(self._workers))
            if workers:
                self._step(sorted(workers), orders, links, deliveries, end_ns)
            orders, links = [], None
            if self._lookahead_ns > 0:
                self._lived_ns = end_ns
                return
            if not workers and not self._happens_now():
                return
        raise LivelockError(to_seconds(now_ns), ROUNDS_AT_AN_INSTANT)

    def _look_ahead(self) -> None:
        """How long a window can be. Who can reach nobody is still to hear soon what was lost."""
        self._lookahead_ns = min(self._network.lookahead_ns(self._names), _LONGEST_WINDOW_NS)

    def _happens_now(self) -> bool:
        due = self._network.next_ns()
        return due is not None and due <= self.now_ns

    def _settle(self, fates: Iterable[Fate], end_ns: int) -> dict[int, list[Frame]]:
        """What arrives in this window by worker, in order of time and the seeded order within."""
        arrived: list[Frame] = []
        book = self._book_fate
        for fate in fates:
            frame = book(fate)
            if frame is not None:
                arrived.append(frame)
        while self._receipts and self._receipts[0][0] < end_ns:
            due_ns, node, peer, size = heapq.heappop(self._receipts)
            arrived.append(Frame(Kind.RECEIPT, peer, node, size, due_ns=due_ns))
        if not arrived:
            return {}
        deliveries: dict[int, list[Frame]] = {}
        for frame in self._in_order(arrived, _DUE):
            deliveries.setdefault(self._owners[frame.destination], []).append(frame)
        return deliveries

    def _book_fate(self, fate: Fate) -> Frame | None:
        """Books how a message ended; the frame to deliver where it has arrived."""
        number = fate.number
        frame = self._flying.pop(number) if fate.last else self._flying[number]
        if fate.reason:
            self._ledger.ended(fate)
            if not frame.flags & UNCOUNTED:
                back_ns = fate.at_ns + self._lookahead_ns
                self._owe(back_ns, frame.source, frame.destination, frame.size_bytes)
            elif frame.flags & PUBLISH:
                self._unpublish(frame.source, frame.destination, frame.size_bytes)
            return None
        if fate.at_ns < max(self.now_ns, self._lived_ns):
            raise LedgerError(
                f"message {number} arrived at {to_seconds(fate.at_ns):.9f} s, which is past: the "
                "network broke its promise of a lookahead"
            )
        self._arriving.append(fate)
        if not fate.last:
            frame = replace(frame)
        frame.kind, frame.due_ns = Kind.DELIVER, fate.at_ns
        return frame

    def _in_order(self, frames: list[Frame], when: Callable[[Frame], int]) -> Iterable[Frame]:
        """By time; at one instant by a hash of seed, instant and source, then by sequence."""
        if len({when(frame) for frame in frames}) == len(frames):
            frames.sort(key=when)
            return frames
        words = self._words

        def rank(frame: Frame) -> tuple[int, int, int, int]:
            at_ns = when(frame)
            return at_ns, _tie_break(words[frame.source], at_ns), frame.sequence, frame.destination

        frames.sort(key=rank)
        return frames

    # The conversation with the workers.

    def _step(
        self,
        workers: Sequence[int],
        orders: Sequence[Order],
        links: Sequence[Any] | None,
        deliveries: dict[int, list[Frame]],
        end_ns: int,
    ) -> None:
        """Lets the workers run through the window, and books what they did."""
        now_ns = self.now_ns
        for worker in workers:
            frames = deliveries.get(worker, [])
            mine = [order for order in orders if self._owners[order[1]] == worker]
            if mine or links is not None:
                body: dict[str, Any] = {"actions": mine}
                if links is not None:
                    body["links"] = links
                frames = [Frame(Kind.ORDERS, instant_ns=now_ns, body=pack(body)), *frames]
            frames.append(Frame(Kind.ADVANCE, instant_ns=now_ns, due_ns=end_ns))
            self._bus.send(worker, frames)
            self._pump()
        sent: list[Frame] = []
        reports: list[dict[str, Any]] = []
        counts = [0] * self._workers
        while len(reports) < len(workers):
            worker, frames = self._bus.receive(INSTANT_DEADLINE_S)
            *said, last = frames
            if last.kind == Kind.SEND:
                said = frames
            sent += said
            counts[worker] += len(said)
            if last.kind == Kind.SEND:
                continue
            if last.sequence != counts[worker]:
                raise BrokerError(
                    f"worker {worker} sent {last.sequence} frames, {counts[worker]} came"
                )
            self._next_of[worker] = last.due_ns if last.due_ns >= 0 else None
            reports.append(unpack(last.body) if len(last.body) > 1 else _NO_NEWS)
        self._book(sent, reports)

    def _book(self, sent: list[Frame], reports: Sequence[dict[str, Any]]) -> None:
        """Books what happened in a window, in order of time, up to the run's end."""
        for ended_ns, number, well in _merged(reports, "ended"):
            if well:
                self._returned[number] = ended_ns
        until_ns = self._end_ns() if self._is_over() else math.inf
        failed = _merged(reports, "failed")
        if failed:
            until_ns = min(until_ns, failed[0][0])
        for fate in self._arriving:
            if fate.at_ns <= until_ns:
                self._ledger.ended(fate)
            else:
                self._late += 1
        self._arriving.clear()
        topics, notes = _merged(reports, "topics"), _merged(reports, "notes")
        self._act(self._in_order(sent, _INSTANT), topics, notes, until_ns)
        for _, _, fact, nodes in _merged(reports, "facts"):
            self._facts.declare(fact, nodes)
        for number, seconds in _merged(reports, "worked"):
            self._facts.worked(self._names[number], seconds)
        for receipt in _merged(reports, "receipts"):
            self._receipt(*receipt)
        if failed and failed[0][0] == until_ns:
            ended_ns, number, text, problem = failed[0]
            self._end(ended_ns)
            raise ProgramError(self._names[number], to_seconds(ended_ns), text, problem)

    def _act(
        self,
        ordered: Iterable[Frame],
        topics: Sequence[Any],
        notes: Sequence[Any],
        until_ns: float,
    ) -> None:
        """What programs did that others can notice, in order of time. At one instant subscriptions
        come before messages, and notes after them.
        """
        if not topics and not notes:
            for frame in ordered:
                if frame.instant_ns <= until_ns:
                    self._hand_over(frame)
            return
        acts: list[tuple[int, int, Callable[..., None], Sequence[Any]]] = [
            (frame.instant_ns, 1, self._hand_over, (frame,)) for frame in ordered
        ]
        acts += [(at_ns, 0, self._turn, values) for at_ns, *values in topics]
        acts += [(note[0], 2, self._tell, note) for note in notes]
        for at_ns, _, act, values in sorted(acts, key=itemgetter(0, 1)):
            if at_ns <= until_ns:
                act(*values)

    def _is_over(self) -> bool:
        """Whether enough principals have returned."""
        return len(self._principals & self._returned.keys()) >= self._enough

    def _end_ns(self) -> int:
        """The instant at which enough principals had returned."""
        returned = sorted(self._returned[name] for name in self._principals & self._returned.keys())
        return returned[self._enough - 1]

    def _hand_over(self, frame: Frame) -> None:
        if frame.destination == NOBODY:
            self._publish(frame)
            return
        source, destination = self._names[frame.source], self._names[frame.destination]
        entry = self._ledger.sent(source, destination, frame)
        if self._tap is not None:
            self._tap(source, destination, frame)
        if frame.source == frame.destination:
            self._ledger.ended(Fate(entry.number, frame.instant_ns))
            return
        self._flying[entry.number] = frame
        if not frame.flags & UNCOUNTED:
            held = self._held.get(frame.destination)
            if held is None:
                held = self._held[frame.destination] = {}
            held[frame.source] = held.get(frame.source, 0) + entry.size_bytes
        self._network.send(
            frame.instant_ns,
            entry.number,
            source,
            destination,
            entry.size_bytes,
            datagram=bool(frame.flags & DATAGRAM),
        )

    # What one node's program has to do with another's beside messages.

    def _publish(self, frame: Frame) -> None:
        """One copy for each subscriber, in the order of the run's nodes."""
        size = frame.size_bytes
        for subscriber in sorted(self._subscribers.get(frame.purpose, ())):
            if subscriber == frame.source:
                continue
            copy = replace(frame, destination=subscriber)
            published = self._published.setdefault(subscriber, {})
            held = published.get(frame.source, 0)
            if held >= self._buffer_bytes:
                source, destination = self._names[frame.source], self._names[subscriber]
                entry = self._ledger.sent(source, destination, copy)
                self._ledger.ended(Fate(entry.number, frame.instant_ns, TOO_SLOW))
                if self._tap is not None:
                    self._tap(source, destination, copy)
                continue
            published[frame.source] = held + size
            self._readers_of.setdefault(frame.source, {})[subscriber] = None
            self._hand_over(copy)

    def _unpublish(self, source: int, subscriber: int, size: int) -> None:
        published = self._published.get(subscriber, {})
        published[source] = max(published.get(source, 0) - size, 0)

    def _turn(self, number: int, topic: str, on: bool) -> None:
        subscribers = self._subscribers.setdefault(topic, {})
        topics = self._topics_of.setdefault(number, {})
        if on:
            subscribers[number] = topics[topic] = None
        else:
            subscribers.pop(number, None)
            topics.pop(topic, None)

    def _receipt(self, at_ns: int, number: int, peer: int, size: int, published: bool) -> None:
        """A program has taken up so many bytes of what `peer` sent; that goes the way back."""
        if published:
            self._unpublish(peer, number, size)
        else:
            self._owe(at_ns + self._way_back_ns(number, peer), peer, number, size)

    def _owe(self, due_ns: int, node: int, peer: int, size: int) -> None:
        """`node` is to hear that `peer` has taken up so many bytes, or that they are lost."""
        held = self._held.get(peer)
        if held is not None and node in held:
            held[node] -= size
        heapq.heappush(self._receipts, (due_ns, node, peer, size))

    def _way_back_ns(self, number: int, peer: int) -> int:
        """How long a receipt takes; it is small, and goes as a stream's acknowledgments do."""
        links = self._network.route(self._names[number], self._names[peer]) or ()
        delay_ns = round(sum(link.delay_s for link in links) * 1e9)
        return max(delay_ns, self._lookahead_ns, 1)

    def _tell(self, at_ns: int, number: int, event: str, fields: dict[str, Any]) -> None:
        if self._observe is not None:
            name = self._names[number] if number >= 0 else ""
            self._observe(Note(to_seconds(at_ns), name, event, fields, self._ledger.wire_bytes))

    # Faults.

    def _order(
        self, orders: list[Order], strike: Strike
    ) -> tuple[list[Order], Sequence[Any] | None]:
        """Books and tells a strike; the orders for the machines, and what links are now."""
        now_ns = self.now_ns
        for event in strike.events:
            entry, fields = told(event)
            self._ledger.fault(entry)
            self._tell(now_ns, -1, "fault", fields)
        for action, number, *_ in strike.orders:
            if action in ("crash", "boot"):
                self._fall(number)
        down = [name for name in self._troubles.lost if self._numbers.get(name) in self._principals]
        self._lost = down[0] if len(self._principals) - len(down) < self._enough else None
        first = [order for order in orders if self._troubles.runs(self._names[order[1]])]
        for order in strike.orders:
            if order[0] in ("crash", "stop", "boot"):
                self._returned.pop(order[1], None)
        return [*first, *strike.orders], strike.links

    def _fall(self, number: int) -> None:
        """A node's program is gone: it subscribes to nothing, and who sent to it need not wait."""
        self._facts.forget(self._names[number])
        for topic in self._topics_of.pop(number, {}):
            del self._subscribers[topic][number]
        self._published.pop(number, None)
        for subscriber in self._readers_of.pop(number, {}):
            self._published.get(subscriber, {}).pop(number, None)
        back_ns = self.now_ns + self._lookahead_ns + 1
        held = self._held.get(number, {})
        for peer, forgotten in (Counter(held) - self._flying_to(number)).items():
            self._owe(back_ns, peer, number, forgotten)

    def _flying_to(self, number: int) -> Counter[int]:
        """The bytes on their way to a node, by source: their fates are told one by one."""
        flying: Counter[int] = Counter()
        for frame in self._flying.values():
            if frame.destination == number and not frame.flags & UNCOUNTED:
                flying[frame.source] += frame.size_bytes
        return flying

    def _describe(self) -> list[dict[str, Any]]:
        """What each worker says of its nodes: who is `waiting` for what, and whether all are `idle`
        until they hear of others.
        """
        said: list[dict[str, Any]] = []
        for worker in range(self._workers):
            self._bus.send(worker, [Frame(Kind.DESCRIBE)])
            self._pump()
            _, (frame,) = self._bus.receive(INSTANT_DEADLINE_S)
            said.append(unpack(frame.body))
        return said

    def _waiting(self, said: Sequence[dict[str, Any]] | None = None) -> dict[str, str]:
        """Who waits for what, in the order of the run's nodes."""
        waiting: dict[str, str] = {}
        for body in said or self._describe():
            waiting |= body["waiting"]
        return {name: waiting[name] for name in self._names if name in waiting}


def _merged(reports: Sequence[dict[str, Any]], what: str) -> list[Any]:
    """What the workers said of something, in order of time and then of the run's nodes."""
    said = [thing for report in reports for thing in report.get(what, ())]
    return sorted(said, key=lambda thing: thing[:2]) if len(said) > 1 else said


def word_of(seed: int, source: str) -> int:
    """What is drawn for a node, of 64 bits, for the order at every instant."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{source}".encode(), digest_size=8).digest())


def _tie_break(word: int, at_ns: int) -> int:
    """Who comes first at an instant, as good as drawn. `PYTHONHASHSEED` has no part in the hash of
    numbers.
    """
    return hash((word, at_ns))
