"""The hot path of wall time: frames in from a ROUTER, through the network, and out again.

The network model is pure and knows nothing of the machine's clock. Here it runs `settle_ns` behind
it, so that what was sent before an instant is here, in the order of the senders' own stamps, before
the network has passed that instant: a message's time counts from when it was sent, not from when it
was read. What arrives is known well before it does, because links have delay; it goes out to its
receiver at once and is released there at its time (`Frame.due_ns`). Only what can't change any more
goes out early, and nothing past the next fault, so there is never anything to call back.

Frames are read as bytes. Only their fixed prefix is looked at; body and payload are passed on as
they came. Whatever breaks a bound is counted with its reason and dropped, and a node's name is that
of the connection it came over, whatever the frame says.
"""

from __future__ import annotations

import itertools
import struct
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Protocol

import zmq
import zmq.backend

from broker.errors import FrameError
from broker.network import Fate, Network
from broker.shared import SHARED, Custodian, inline, references
from broker.wire import (
    DATAGRAM,
    MAGIC,
    MAX_BODY_BYTES,
    MAX_FRAMES,
    MAX_PACKET_BYTES,
    MAX_PARTS,
    MAX_PAYLOAD_BYTES,
    MAX_PURPOSE_BYTES,
    NOBODY,
    PUBLISH,
    Buffer,
    Frame,
    Kind,
    decode,
    encode,
    pack,
)

EARLY_NS = 20_000_000
"""How long before its time a message may go out to its receiver."""
SETTLE_NS = 500_000
"""How far the network's time is behind the machine's, at most."""
TICK_NS = 250_000
"""How often the network is asked, at most, while nothing else happens."""
PACKETS_AT_ONCE = 512
BACKLOG_BYTES = 256 * 2**20
"""What may wait for a process that does not read; more is lost, and counted."""
_OUT_BYTES = 256 * 2**10

_HEAD = struct.Struct("!2sH")
_PREFIX = struct.Struct("!BBHIIQQqqqBI")
_LENGTH = struct.Struct("!I")
_DUE = struct.Struct("!q")
_DUE_AT = 36
_DESTINATION_AT = 8
_APART = 0x8000_0000
_MORE = int(zmq.SNDMORE)
_NOBLOCK = int(zmq.NOBLOCK)
_STAMP = itemgetter(0)

_SEND, _DELIVER, _QUIET = int(Kind.SEND), int(Kind.DELIVER), int(Kind.QUIET)

Sent = tuple[int, int, int, int, int, bytes, tuple[Buffer, ...]]
"""Stamp, source, destination, size in bytes, flags, the frame as it came, its parts apart."""


@dataclass(frozen=True, slots=True)
class Other:
    """A packet that holds no messages: a report, or a stranger's.

    `user` is whom the connection's key stands for, where there are keys.
    """

    identity: bytes
    connection: Connection | None
    packet: bytes
    user: str = ""


class Books(Protocol):
    """Who writes down what became of messages."""

    def sent(self, number: int, sent: Sent) -> None: ...

    def ended(self, fate: Fate) -> None: ...


class Connection:
    """One DEALER that was admitted, and what waits to go out to it.

    `word` stands in the first frame of each of its packets (`due_ns`): a routing id alone could be
    taken over by somebody else once its holder is gone.
    """

    __slots__ = (
        "apart", "backlog", "backlog_bytes", "count", "gone", "identity", "nodes", "number", "out",
        "shares", "word",
    )  # fmt: skip

    def __init__(self, number: int, identity: bytes, nodes: frozenset[int], word: int) -> None:
        self.number = number
        self.identity = identity
        self.nodes = nodes
        self.word = word
        self.out = bytearray()
        self.count = 0
        self.apart: list[Buffer] = []
        self.backlog: deque[tuple[Buffer, ...]] = deque()
        self.backlog_bytes = 0
        self.gone = False
        self.shares = False


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
        self._taken: list[Sent] = []
        self._held: dict[int, Sent] = {}
        self._numbers = itertools.count(1)
        self._under_way: dict[tuple[int, int], int] = {}
        self._topics: dict[str, dict[int, None]] = {}
        self._receipts: list[Frame] = []
        self._dirty: dict[Connection, None] = {}
        self._inner_ns = 0
        self._moved_ns = 0
        self.look_ahead()
        self.sent = self.sent_bytes = self.delivered = self.delivered_bytes = 0
        self.dropped: dict[str, int] = {}
        self.malformed: dict[str, int] = {}
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
        self._connections.pop(connection.identity, None)
        self._dirty.pop(connection, None)
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
        receive = zmq.backend.Socket.recv
        socket, connections = self._socket, self._connections
        others: list[Other] = []
        for _ in range(PACKETS_AT_ONCE):
            try:
                identity = receive(socket, _NOBLOCK)
            except zmq.Again:
                return True, others
            connection = connections.get(identity)
            if connection is None:
                if not socket.getsockopt(zmq.RCVMORE):
                    self.refuse("a part too many")  # of the packet before
                    continue
                first = receive(socket, _NOBLOCK, copy=False)
                others.append(Other(identity, None, first.bytes, _user(first)))
                if self._rest():
                    others.pop()
                    self.refuse("before hello")
                continue
            packet = receive(socket, _NOBLOCK)
            mark = len(self._taken)
            try:
                if not self._take(connection, packet):
                    others.append(Other(identity, connection, packet))
            except (FrameError, struct.error, UnicodeDecodeError) as error:
                del self._taken[mark:]
                self._rest()
                self.refuse(str(error) if isinstance(error, FrameError) else "cut short")
        return False, others

    def _take(self, connection: Connection, packet: bytes) -> bool:
        """Takes in the messages of a packet. False: it holds something else, and nothing was
        taken.
        """
        unpack_prefix = _PREFIX.unpack_from
        magic, count = _HEAD.unpack_from(packet)
        end = len(packet)
        if magic != MAGIC or end > MAX_PACKET_BYTES:
            raise FrameError("not a packet of this protocol")
        taken, nodes, known = self._taken, connection.nodes, len(self._names)
        apart: list[Buffer] = []
        start, at, word = 4, 4, None
        while count:
            count -= 1
            (
                kind, flags, parts, source, destination, _, _, stamp, due, _, purpose_bytes,
                body_bytes,
            ) = unpack_prefix(packet, at)  # fmt: skip
            if word is None:
                word = due
                if due != connection.word:
                    raise FrameError("wrong word")
            if kind != _SEND:
                if kind == _QUIET and count == 0 and at == start:
                    return False
                raise FrameError(f"unexpected kind {kind}")
            if source not in nodes:
                raise FrameError("speaks for another node")
            if destination >= known and not (destination == NOBODY and flags & PUBLISH):
                raise FrameError("no such destination")
            size = at + 57 + purpose_bytes + body_bytes
            if purpose_bytes:
                if purpose_bytes > MAX_PURPOSE_BYTES:
                    raise FrameError("purpose too long")
                packet[at + 57 : at + 57 + purpose_bytes].decode()
            large: tuple[Buffer, ...] = ()
            here = 0
            if parts:
                if parts == 1:
                    (length,) = _LENGTH.unpack_from(packet, size)
                    size += 4
                    if length & _APART:
                        large = (self._apart(length & ~_APART),)
                        here = len(large[0])
                    else:
                        size += length
                else:
                    size, large = self._parts(packet, size, parts)
                    here = sum(map(len, large))
            if size > end or body_bytes > MAX_BODY_BYTES:
                raise FrameError("cut short")
            frame = packet[at:size]
            if flags & SHARED:
                table = references(frame)
                if any(entry.arena != connection.number for entry in table.entries):
                    raise FrameError("another's shared memory")
                here += table.size_bytes
            taken.append((stamp, source, destination, size - at + here, flags, frame, large))
            apart.extend(large)
            at = size
        if at != end:
            raise FrameError("bytes after the last frame")
        if word is None:
            raise FrameError("an empty packet")
        return True

    def _parts(self, packet: bytes, at: int, count: int) -> tuple[int, tuple[Buffer, ...]]:
        """Where the payload ends that begins at `at`, and which of its parts came apart."""
        if count > MAX_PARTS:
            raise FrameError("too many payload parts")
        lengths = struct.unpack_from(f"!{count}I", packet, at)
        at += 4 * count
        large: list[Buffer] = []
        total = 0
        for length in lengths:
            size = length & ~_APART
            total += size
            if total > MAX_PAYLOAD_BYTES:
                raise FrameError("payload too large")
            if length & _APART:
                large.append(self._apart(size))
            else:
                at += size
        return at, tuple(large)

    def _apart(self, size: int) -> Buffer:
        """The next part of this packet, which has to be of that size."""
        if size > MAX_PAYLOAD_BYTES or not self._socket.getsockopt(zmq.RCVMORE):
            raise FrameError("no part where a frame speaks of one")
        part = zmq.backend.Socket.recv(self._socket, _NOBLOCK, copy=False)
        if len(part) != size:
            raise FrameError("a part of another size than its frame says")
        buffer: memoryview = part.buffer
        return buffer

    def _rest(self) -> int:
        """Reads past what is left of a message, and says how many parts that were."""
        count = 0
        while self._socket.getsockopt(zmq.RCVMORE):
            zmq.backend.Socket.recv(self._socket, _NOBLOCK, copy=False)
            count += 1
        return count

    def refuse(self, reason: str) -> None:
        """Counts a frame that could not be read or was not allowed."""
        self.malformed[reason] = self.malformed.get(reason, 0) + 1

    # Through the network.

    def move(self, to_ns: int, now_ns: int, until_ns: int) -> None:
        """The network's time is `to_ns` now: hands over what was sent until then, and takes out
        what has ended, or can't but arrive before `until_ns`.
        """
        taken = self._taken
        if taken:
            taken.sort(key=_STAMP)
            cut = bisect_right(taken, to_ns, key=_STAMP)
            if cut:
                self._taken = taken[cut:]
                del taken[cut:]
                self._hand_over(taken)
        network = self._network
        self._moved_ns = now_ns
        if to_ns > self._inner_ns:
            self._inner_ns = to_ns
        fates = network.advance(self._inner_ns)
        if fates:
            self._settle(fates, now_ns)
        if until_ns > self._inner_ns:
            fates = network.arrivals(until_ns)
            if fates:
                self._settle(fates, now_ns)

    def _hand_over(self, sent: Iterable[Sent]) -> None:
        names, network, held, numbers = self._names, self._network, self._held, self._numbers
        under_way, limit, inner = self._under_way, self._buffer_bytes, self._inner_ns
        books = self._books
        count = total = 0
        for one in sent:
            stamp, source, destination, size, flags, _, _ = one
            if stamp > inner:
                inner = stamp
            if not flags & DATAGRAM:
                if destination == NOBODY:
                    self._publish(one)
                    continue
                pair = (source, destination)
                ahead = under_way.get(pair, 0)
                if ahead >= limit:
                    self.refuse("more than its send buffer")
                    self._let_go(one)
                    continue
                if source != destination:
                    under_way[pair] = ahead + size
            number = next(numbers)
            held[number] = one
            count += 1
            total += size
            if books is not None:
                books.sent(number, one)
            if source == destination:
                self._settle([Fate(number, inner)], inner)
            else:
                network.send(
                    inner, number, names[source], names[destination], size,
                    datagram=bool(flags & DATAGRAM),
                )  # fmt: skip
        self._inner_ns = inner
        self.sent += count
        self.sent_bytes += total

    def _publish(self, one: Sent) -> None:
        """A copy for each who subscribes; who has not taken up enough of what came before loses."""
        stamp, source, _, size, flags, frame, large = one
        length = frame[52]
        topic = frame[57 : 57 + length].decode()
        for number in tuple(self._topics.get(topic, ())):
            head = bytearray(frame)
            head[_DESTINATION_AT : _DESTINATION_AT + 4] = number.to_bytes(4, "big")
            copy = (stamp, source, number, size, flags, bytes(head), large)
            if self._under_way.get((source, number), 0) >= self._buffer_bytes:
                self._drop("subscriber too slow")
                self.sent += 1
                self.sent_bytes += size
            else:
                self._hand_over([copy])

    def _settle(self, fates: Iterable[Fate], now_ns: int) -> None:
        """Books fates, and puts what arrived where it goes out."""
        held, home, dirty, books = self._held, self._home, self._dirty, self._books
        for fate in fates:
            number, at_ns, reason, copy, last = fate
            one = held.pop(number) if last else held[number]
            _, source, destination, size, flags, frame, large = one
            connection = home.get(destination)
            if not reason:
                if connection is None:
                    reason = "nobody there"
                elif connection.backlog_bytes > BACKLOG_BYTES:
                    reason = "its process does not read"
            if books is not None:
                books.ended(Fate(number, at_ns, reason, copy, last))
            if reason or connection is None:
                self._drop(reason)
                if last:
                    self._lost(one)
                continue
            self.delivered += 1
            self.delivered_bytes += size
            if source == destination and not flags & PUBLISH:
                continue  # it has heard itself already
            if at_ns < now_ns:
                self.late += 1
                if now_ns - at_ns > self.lag_ns:
                    self.lag_ns = now_ns - at_ns
            if flags & SHARED and not copy:
                if connection.shares:
                    self._custodian.handed(references(frame).entries, connection.number)
                else:
                    frame, large = self._fetched(one)
            out = connection.out
            base = len(out)
            out += frame
            out[base] = _DELIVER
            _DUE.pack_into(out, base + _DUE_AT, at_ns)
            connection.count += 1
            if large:
                connection.apart.extend(large)
            dirty[connection] = None
            if connection.count >= MAX_FRAMES or len(out) > _OUT_BYTES or large:
                self._post(connection)

    def _fetched(self, one: Sent) -> tuple[bytes, tuple[Buffer, ...]]:
        """A message with its payload, for a receiver that can't see the sender's memory."""
        sent = frame_of(one)
        entries = references(one[5]).entries
        parts = [self._custodian.read(entry) for entry in entries]
        self._custodian.free(entries)
        packet, *apart = encode([inline(sent, parts)])
        return bytes(packet[4:]), tuple(apart)

    def _drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def _lost(self, one: Sent) -> None:
        """A stream's sender need not wait for what was lost."""
        _, source, destination, size, flags, _, _ = one
        if not flags & (DATAGRAM | PUBLISH):
            self.receipt(self._inner_ns, destination, source, size, False, way_ns=0)
        self._let_go(one)

    def _let_go(self, one: Sent) -> None:
        if one[4] & SHARED:
            self._custodian.free(references(one[5]).entries)

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
        self._under_way[pair] = max(self._under_way.get(pair, 0) - size, 0)
        if not published and (connection := self._home.get(source)) is not None and size:
            frame = Frame(
                Kind.RECEIPT, receiver, source, size, instant_ns=at_ns, due_ns=at_ns + way_ns
            )
            self._append(connection, frame)

    def forget(self, number: int) -> None:
        """A node has died: what was under way to it and from it is no longer waited for."""
        for pair in [pair for pair in self._under_way if number in pair]:
            size = self._under_way.pop(pair)
            source, receiver = pair
            if receiver == number and size and (home := self._home.get(source)) is not None:
                self._append(
                    home,
                    Frame(
                        Kind.RECEIPT, receiver, source, 0,
                        instant_ns=self._inner_ns, due_ns=self._inner_ns,
                    ),
                )  # fmt: skip

    def blocked(self) -> int:
        """How many senders can't send to somebody now because too much is under way."""
        return sum(size >= self._buffer_bytes for size in self._under_way.values())

    # Out.

    def tell(self, connection: Connection, frame: Frame) -> None:
        """Sends a frame of control, behind what waits already."""
        self._append(connection, frame)
        self._post(connection)

    def _append(self, connection: Connection, frame: Frame) -> None:
        connection.out += encode([frame])[0][4:]
        connection.count += 1
        self._dirty[connection] = None

    def flush(self) -> None:
        """Sends what waits; what a process does not take now is tried again later."""
        for connection in list(self._dirty):
            self._post(connection)
            if connection.backlog:
                self._push(connection)
            if not connection.backlog:
                self._dirty.pop(connection, None)

    def _post(self, connection: Connection) -> None:
        if not connection.count:
            return
        packet = _HEAD.pack(MAGIC, connection.count) + connection.out
        parts = (connection.identity, packet, *connection.apart)
        connection.out = bytearray()
        connection.count = 0
        connection.apart = []
        if connection.backlog or not self._try(connection, parts):
            connection.backlog.append(parts)
            connection.backlog_bytes += sum(map(len, parts))

    def _push(self, connection: Connection) -> None:
        while connection.backlog:
            parts = connection.backlog[0]
            if not self._try(connection, parts):
                return
            connection.backlog.popleft()
            connection.backlog_bytes -= sum(map(len, parts))

    def _try(self, connection: Connection, parts: tuple[Buffer, ...]) -> bool:
        """Whether it was sent; what goes to somebody who is gone counts as sent."""
        send = zmq.backend.Socket.send
        last = len(parts) - 1
        try:
            for place, part in enumerate(parts):
                flags = _NOBLOCK | _MORE if place < last else _NOBLOCK
                send(self._socket, part, flags, copy=len(part) < 65_536)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self.dismiss(connection)
            connection.backlog.clear()
            connection.backlog_bytes = 0
        return True

    # When.

    def next_ns(self) -> int | None:
        """When `move` is next of use, by the machine's clock."""
        candidates = []
        if (due := self._network.next_ns()) is not None:
            candidates.append(max(due + self.settle_ns, self._moved_ns + self._tick_ns))
        if self._taken:
            candidates.append(self._taken[0][0] + self.settle_ns)
        if self._dirty:
            candidates.append(self._moved_ns + 1_000_000)
        return min(candidates, default=None)

    def arenas_in_flight(self) -> list[int]:
        """The shared memory that messages under way refer to."""
        return [
            entry.arena
            for one in (*self._held.values(), *self._taken)
            if one[4] & SHARED
            for entry in references(one[5]).entries
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


def frame_of(one: Sent) -> Frame:
    """A message as it was sent."""
    return decode([_HEAD.pack(MAGIC, 1) + one[5], *one[6]])[0]


def hello(body: Mapping[str, object]) -> list[Buffer]:
    """A packet with one HELLO."""
    return encode([Frame(Kind.HELLO, body=pack(dict(body)))])


def _user(part: zmq.Frame) -> str:
    try:
        return str(part.get("User-Id"))
    except zmq.ZMQError:
        return ""
