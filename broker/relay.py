"""The hot path of wall time: messages off a ROUTER, through the network, and out again.

The network model is pure and knows nothing of the machine's clock. Here it runs `settle_ns` behind
it, so that what was sent before an instant is here, in the order of the senders' own stamps, before
the network has passed that instant: a message's time counts from when it was sent, not from when it
was read. What arrives is known well before it does, because links have delay; it goes out to its
receiver at once and is released there at its time (`Frame.due_ns`). Only what can't change any more
goes out early, and nothing past the next fault, so there is never anything to call back.

A node's name is that of the connection it came over, whatever the frame says (`broker.intake`).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter

import zmq
import zmq.backend

from broker.books import Books, frame_of
from broker.connection import FRAMES, Connection
from broker.intake import Intake, Other, Part, Sent, Shape
from broker.network import Fate, Network
from broker.shared import Custodian, inline
from broker.wire import (
    ANSWER,
    DATAGRAM,
    NOBODY,
    PUBLISH,
    Buffer,
    Frame,
    Kind,
    encode,
    pack,
)

EARLY_NS = 100_000_000
"""How long before its time a message may go out to its receiver."""
SETTLE_NS = 500_000
"""How far the network's time is behind the machine's, at most."""
TICK_NS = 250_000
"""How often the network is asked, at most, while nothing else happens."""
BACKLOG_BYTES = 256 * 2**20
"""What may wait for a process that does not read; more is lost, and counted."""

_DUE = struct.Struct("!q")
_DUE_AT = 36
_FEW = 8
_DESTINATION_AT = 8
_STAMP, _SHAPE = itemgetter(0), itemgetter(1)
_DELIVER = int(Kind.DELIVER)
_DELIVERS = bytes([Kind.DELIVER]) * FRAMES
_SPECIAL = DATAGRAM | PUBLISH


class Relay:
    """Messages between the connections of one ROUTER socket, through `network`.

    `names` are the run's nodes in order. `dropped` counts messages by reason, `malformed` frames
    that could not be read or were not allowed, `late` messages that went out after their time, and
    `lag_ns` is the worst of those.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        network: Network,
        names: Sequence[str],
        send_buffer_bytes: int,
        custodian: Custodian,
        books: Books | None = None,
    ) -> None:
        self._socket = socket
        self._network = network
        self._names = tuple(names)
        self._buffer_bytes = send_buffer_bytes
        self._custodian = custodian
        self._books = books
        self._connections: dict[bytes, Connection] = {}
        self._home: dict[int, Connection] = {}
        self._intake = Intake(socket, len(names))
        self._held: dict[int, Sent] = {}
        self._number = 0
        self._under_way: dict[tuple[int, int], int] = {}
        self._published: dict[tuple[int, int], int] = {}
        self._topics: dict[str, dict[int, None]] = {}
        self._dirty: dict[Connection, None] = {}
        self._inner_ns = 0
        self._moved_ns = 0
        self.look_ahead()
        self.sent = self.sent_bytes = self.delivered = self.delivered_bytes = 0
        self.dropped: dict[str, int] = {}
        self.late = self.lag_ns = 0

    def look_ahead(self) -> None:
        """The network's links have changed, and with them how long a message takes at least."""
        self.lookahead_ns = ahead_ns = self._network.lookahead_ns(self._names)
        self.settle_ns = min(SETTLE_NS, ahead_ns // 2)
        self._tick_ns = max(min(TICK_NS, ahead_ns // 4), 50_000)

    # Who is there.

    def admit(self, connection: Connection) -> None:
        """From now on its nodes live behind this connection."""
        self._connections[connection.identity] = connection
        for number in connection.nodes:
            self._home[number] = connection

    def dismiss(self, connection: Connection) -> None:
        """It is gone; its nodes are nowhere until somebody else brings them."""
        connection.gone = True
        self._dirty.pop(connection, None)
        if self._connections.pop(connection.identity, None) is None:
            return  # that was known
        for number in connection.nodes:
            if self._home.get(number) is connection:
                del self._home[number]
            for topic in self._topics.values():
                topic.pop(number, None)
        self._custodian.gone(connection.number)

    def home(self, number: int) -> Connection | None:
        """The connection behind which a node lives."""
        return self._home.get(number)

    def connections(self) -> list[Connection]:
        """All that are there, in the order in which they came."""
        return list(self._connections.values())

    def subscribe(self, number: int, topic: str, wanted: bool) -> None:
        """A node wants what is published under a topic, or no more."""
        subscribers = self._topics.setdefault(topic, {})
        if wanted:
            subscribers[number] = None
        else:
            subscribers.pop(number, None)

    # In.

    def read(self) -> tuple[bool, list[Other]]:
        """Reads what has come, a bounded number of packets; says whether that was all.

        Messages are kept for `move`; what else came is returned.
        """
        return self._intake.read(self._connections)

    def refuse(self, reason: str) -> None:
        """Counts a frame that could not be read or was not allowed."""
        self._intake.refuse(reason)

    @property
    def malformed(self) -> dict[str, int]:
        """Frames that could not be read or were not allowed, by reason."""
        return self._intake.malformed

    # Through the network.

    def move(self, to_ns: int, now_ns: int, until_ns: int) -> None:
        """The network's time is `to_ns` now: hands over what was sent until then, and takes out
        what has ended, or can't but arrive before `until_ns`.
        """
        taken = self._intake.taken
        if taken:
            taken.sort(key=_STAMP)
            cut = bisect_right(taken, to_ns, key=_STAMP)
            if cut:
                self._intake.taken = taken[cut:]
                del taken[cut:]
                self._hand_over(taken)
        network = self._network
        self._moved_ns = now_ns
        self._inner_ns = max(self._inner_ns, to_ns)
        fates = network.advance(self._inner_ns)
        if fates:
            self._settle(fates, now_ns)
        if until_ns > self._inner_ns:
            fates = network.arrivals(until_ns)
            if fates:
                self._settle(fates, now_ns)

    def skip(self, to_ns: int) -> None:
        """Nothing happens until then; what has come already counts as sent then."""
        self._inner_ns = self._moved_ns = to_ns

    def _hand_over(self, sent: Iterable[Sent]) -> None:
        """Gives messages to the network, each at the instant of its stamp, or now if it is late.

        Most are a stream's, and follow others of the same shape: those are handed over together.
        """
        for shape, some in groupby(sent, _SHAPE):
            if shape.flags & _SPECIAL or shape.source == shape.destination:
                for one in some:
                    self._inner_ns = max(self._inner_ns, one[0])
                    self._hand_over_special(one, self._inner_ns)
            else:
                self._hand_over_alike(shape, list(some))

    def _hand_over_alike(self, shape: Shape, some: list[Sent]) -> None:
        """Messages of a stream, in order, as far as they fit into its send buffer. Answers need no
        room there: who asked has room for them, and nobody gives a receipt.
        """
        pair, size = (shape.source, shape.destination), shape.size
        counts = not shape.flags & ANSWER
        ahead = self._under_way.get(pair, 0)
        if counts and ahead + (len(some) - 1) * size >= self._buffer_bytes:
            fit = max(-(-(self._buffer_bytes - ahead) // size), 0)
            for one in some[fit:]:
                self.refuse("more than its send buffer")
                self._let_go(one)
            del some[fit:]
            if not some:
                return
        first, count = self._number + 1, len(some)
        self._number += count
        self.sent += count
        self.sent_bytes += count * size
        if counts:
            self._under_way[pair] = ahead + count * size
        self._held.update(enumerate(some, first))
        if self._books is not None:
            for number, one in enumerate(some, first):
                self._books.sent(number, one)
        source, destination = self._names[shape.source], self._names[shape.destination]
        if count == 1:
            self._inner_ns = inner_ns = max(self._inner_ns, some[0][0])
            self._network.send(inner_ns, first, source, destination, size)
            return
        instants = [one[0] for one in some]
        if instants[0] < self._inner_ns:
            instants = [max(stamp, self._inner_ns) for stamp in instants]
        self._network.send_alike(instants, first, source, destination, size)
        self._inner_ns = instants[-1]

    def _hand_over_special(self, one: Sent, at_ns: int) -> None:
        """A datagram, something published, or a message to oneself, which arrives at once."""
        shape = one[1]
        if shape.destination == NOBODY:
            self._publish(one, at_ns)
            return
        number = self._begin(one)
        if shape.source == shape.destination:
            self._settle([Fate(number, at_ns)], at_ns)
        else:
            self._network.send(
                at_ns,
                number,
                self._names[shape.source],
                self._names[shape.destination],
                shape.size,
                datagram=bool(shape.flags & DATAGRAM),
            )

    def _begin(self, one: Sent) -> int:
        """Books a message that was sent; gives its number."""
        self._number = number = self._number + 1
        self._held[number] = one
        self.sent += 1
        self.sent_bytes += one[1].size
        if self._books is not None:
            self._books.sent(number, one)
        return number

    def _publish(self, one: Sent, at_ns: int) -> None:
        """A copy for each who subscribes; who has not taken up enough of what came before loses."""
        stamp, shape, frame, apart = one
        source, size = shape.source, shape.size
        topic = frame[57 : 57 + frame[52]].decode()
        for number in sorted(self._topics.get(topic, ())):
            if number == source:
                continue
            head = bytearray(frame)
            head[_DESTINATION_AT : _DESTINATION_AT + 4] = number.to_bytes(4, "big")
            of_copy = Shape(source, number, size, shape.flags, len(head), shape.places)
            copy = (stamp, of_copy, bytes(head), apart)
            under_way = self._published.get((source, number), 0)
            if under_way >= self._buffer_bytes:
                fate = Fate(self._begin(copy), at_ns, "subscriber too slow")
                self._published[source, number] = under_way + size  # `_lost` takes it off again
                self._settle([fate], at_ns)
                continue
            self._published[source, number] = under_way + size
            self._hand_over_special(copy, at_ns)

    def _settle(self, fates: Sequence[Fate], now_ns: int) -> None:
        """Books fates, and puts what arrived where it goes out."""
        numbers, instants, reasons, _, last = zip(*fates, strict=True)
        take, held = self._held.pop, self._held
        if all(last):
            ended = list(map(take, numbers))
        else:
            ended = [take(fate[0]) if fate[4] else held[fate[0]] for fate in fates]
        begin = 0
        for kind, alike in groupby([one[1].kind for one in ended]):
            end = begin + len(list(alike))
            connection = self._home.get(kind[0])
            if (
                kind[1]
                and self._books is None
                and connection is not None
                and not connection.backlog_bytes
                and not any(reasons[begin:end])
            ):
                self._pass_on(kind[1], ended[begin:end], instants[begin:end], connection)
            else:
                for place in range(begin, end):
                    self._settle_special(ended[place], fates[place])
            begin = end
        lag_ns = now_ns - min(instants)
        if lag_ns > 0:
            self.late += sum([at_ns < now_ns for at_ns in instants])
            self.lag_ns = max(self.lag_ns, lag_ns)

    def _pass_on(
        self, size: int, some: Sequence[Sent], instants: Sequence[int], connection: Connection
    ) -> None:
        """Small messages of so many bytes have arrived: their frames go out, with when that is."""
        self._dirty[connection] = None
        self.delivered += len(some)
        self.delivered_bytes += len(some) * size
        for begin in range(0, len(some), FRAMES):
            frames = [one[2] for one in some[begin : begin + FRAMES]]
            count, out = len(frames), connection.out
            at = len(out)
            out += b"".join(frames)
            if count < _FEW:
                for base, at_ns in enumerate(instants[begin : begin + count]):
                    out[at + base * size] = _DELIVER
                    _DUE.pack_into(out, at + base * size + _DUE_AT, at_ns)
            else:  # the same byte of all of them at once
                out[at::size] = _DELIVERS[:count]
                dues = struct.pack(f"!{count}q", *instants[begin : begin + count])
                for place in range(8):
                    out[at + _DUE_AT + place :: size] = dues[place::8]
            connection.count += count
            if connection.is_full:
                self._post(connection)

    def _settle_special(self, one: Sent, fate: Fate) -> None:
        """A fate of which more is to be said than that a small message of a stream is there."""
        _, shape, frame, apart = one
        connection = self._home.get(shape.destination)
        if fate.reason or connection is None or connection.backlog_bytes > BACKLOG_BYTES:
            self._lose(one, fate, connection)
            return
        if self._books is not None:
            self._books.ended(fate)
        self.delivered += 1
        self.delivered_bytes += shape.size
        if shape.source == shape.destination:
            return  # it has heard itself already
        if shape.places:
            frame, apart = self._hand(one, connection)
        out = connection.out
        base = len(out)
        out += frame
        out[base] = _DELIVER
        _DUE.pack_into(out, base + _DUE_AT, fate.at_ns)
        connection.count += 1
        self._dirty[connection] = None
        if apart:
            connection.apart.extend(apart)
        if connection.is_full:
            self._post(connection)

    def _lose(self, one: Sent, fate: Fate, connection: Connection | None) -> None:
        """A copy of a message was lost in the network, or has nobody to go to."""
        reason = fate.reason or (
            "nobody there" if connection is None else "its process does not read"
        )
        if self._books is not None:
            self._books.ended(fate._replace(reason=reason))
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        if not fate.last:
            return
        shape = one[1]
        ends = (shape.destination, shape.source)
        if shape.flags & PUBLISH:
            self.receipt(fate.at_ns, *ends, shape.size, True, way_ns=0)
        elif not shape.flags & (DATAGRAM | ANSWER):
            self.receipt(fate.at_ns, *ends, shape.size, False, way_ns=self.lookahead_ns)
        self._let_go(one)

    def _hand(self, one: Sent, connection: Connection) -> tuple[bytes, tuple[Part, ...]]:
        """A message that refers to shared memory, as its receiver can read it."""
        entries = one[1].places
        if connection.shares:
            self._custodian.handed(entries, connection.number)
            return one[2], one[3]
        parts = [self._custodian.read(entry) for entry in entries]
        self._custodian.free(entries)
        packet, *apart = encode([inline(frame_of(one), parts)])
        return bytes(packet[4:]), tuple(apart)

    def _let_go(self, one: Sent) -> None:
        self._custodian.free(one[1].places)

    # Flow control.

    def receipt(
        self, at_ns: int, receiver: int, source: int, size: int, published: bool, way_ns: int
    ) -> None:
        """A receiver has taken up so many bytes of a source's, or they are lost; the source learns
        of it `way_ns` later.
        """
        if not (0 <= source < len(self._names) and size >= 0):
            self.refuse("a receipt for nobody")
            return
        pair = (source, receiver)
        ledger = self._published if published else self._under_way
        ledger[pair] = max(ledger.get(pair, 0) - size, 0)
        if not published and (connection := self._home.get(source)) is not None and size:
            frame = Frame(
                Kind.RECEIPT, receiver, source, size, instant_ns=at_ns, due_ns=at_ns + way_ns
            )
            connection.add(frame)
            self._dirty[connection] = None

    def forget(self, number: int) -> None:
        """A node has died: what was under way to it and from it is no longer waited for."""
        for subscribers in self._topics.values():
            subscribers.pop(number, None)
        for pair in [pair for pair in self._published if number in pair]:
            del self._published[pair]
        for pair in [pair for pair in self._under_way if number in pair]:
            size = self._under_way.pop(pair)
            source, receiver = pair
            if receiver == number and size and (home := self._home.get(source)) is not None:
                frame = Frame(
                    Kind.RECEIPT, receiver, source, 0,
                    instant_ns=self._inner_ns, due_ns=self._inner_ns,
                )  # fmt: skip
                home.add(frame)
                self._dirty[home] = None

    def under_way(self) -> list[tuple[tuple[int, int], int]]:
        """How many bytes of whose to whom have not been taken up, where there are any."""
        return [entry for entry in self._under_way.items() if entry[1]]

    def blocked(self) -> int:
        """How many senders can't send to somebody now because too much is under way."""
        return sum(size >= self._buffer_bytes for size in self._under_way.values())

    # Out.

    def tell(self, connection: Connection, frame: Frame) -> None:
        """Sends a frame of control, behind what waits already."""
        connection.add(frame)
        self._dirty[connection] = None
        self._post(connection)

    def flush(self) -> None:
        """Sends what waits; what a process does not take now is tried again later."""
        for connection in list(self._dirty):
            connection.push(self._socket)
            self._post(connection)
            if not connection.backlog:
                self._dirty.pop(connection, None)

    def _post(self, connection: Connection) -> None:
        connection.post(self._socket)
        if connection.gone:
            self.dismiss(connection)

    # When.

    def next_ns(self) -> int | None:
        """When `move` is next of use, by the machine's clock."""
        candidates = []
        if (due := self._network.next_ns()) is not None:
            candidates.append(max(due + self.settle_ns, self._moved_ns + self._tick_ns))
        if self._intake.taken:
            candidates.append(self._intake.taken[0][0] + self.settle_ns)
        if self._dirty:
            candidates.append(self._moved_ns + 1_000_000)
        return min(candidates, default=None)

    def arenas_in_flight(self) -> list[int]:
        """The shared memory that messages under way refer to."""
        return [
            entry.arena
            for one in (*self._held.values(), *self._intake.taken)
            for entry in one[1].places
        ]

    def in_flight(self) -> int:
        """Messages that the network holds."""
        return self._network.in_flight()

    def check(self) -> str:
        """What is wrong with the books; empty where they balance."""
        begun = self.sent + self._network.duplicated
        ended = self.delivered + sum(self.dropped.values())
        held = self.in_flight()
        if begun != ended + held:
            return f"{begun:,} messages were sent, {ended:,} have ended, the network holds {held:,}"
        return ""


def hello(body: Mapping[str, object]) -> list[Buffer]:
    """A packet with one HELLO."""
    return encode([Frame(Kind.HELLO, body=pack(dict(body)))])
