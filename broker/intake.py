"""Packets off a ROUTER socket, as bytes: what is a message, from whom, for whom, how large.

Only the fixed prefix of a frame is looked at; body and payload stay as they came. Nothing is
trusted before it was checked, and whatever breaks a bound is refused with its reason, the whole
packet with it. Most packets of a connection are like the one before but for their numbers and
stamps: those are known by a few bytes that must be the same, and need no second look.

A ROUTER gives a message as parts: the routing id first. On the fast path the parts of a packet are
counted by what its frames speak of, not by asking the socket, which is slow. A packet with a part
too many is noticed at the next one: no connection has that part as its routing id.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import zmq
import zmq.backend

from broker.connection import Connection
from broker.errors import FrameError
from broker.shared import references
from broker.wire import (
    DATAGRAM,
    MAGIC,
    MAX_BODY_BYTES,
    MAX_PACKET_BYTES,
    MAX_PARTS,
    MAX_PAYLOAD_BYTES,
    MAX_PURPOSE_BYTES,
    NOBODY,
    PUBLISH,
    REQUEST,
    SHARED,
    Buffer,
    Kind,
)

PACKETS_AT_ONCE = 512
REASONS = 64
LARGEST_DATAGRAM_BYTES = 65_507

_HEAD = struct.Struct("!2sH")
_PREFIX = struct.Struct("!BBHII16xqq8xBI")
_SHAPE = struct.Struct("!12s16xq8s8x5s")
_PREFIX_BYTES = 57
_LENGTH = struct.Struct("!I")
_APART = 0x8000_0000
_NOBLOCK = int(zmq.NOBLOCK)
_SEND, _QUIET = int(Kind.SEND), int(Kind.QUIET)


class Shape:
    """What messages of one kind have in common: ends, size and flags.

    Of a small message it also knows the bytes by which to tell another of its kind: one whose head,
    lengths, purpose and payload's length are the same needs no second look.
    """

    __slots__ = (
        "body_end", "destination", "flags", "head", "lengths", "part", "part_length", "plain",
        "purpose", "purpose_end", "size", "source",
    )  # fmt: skip

    def __init__(
        self,
        frame: bytes,
        source: int,
        destination: int,
        size: int,
        flags: int,
        purpose: int = 0,
        body_end: int = _PREFIX_BYTES,
        parts: int = 0,
    ) -> None:
        self.head, _, _, self.lengths = _SHAPE.unpack_from(frame)
        self.source, self.destination = source, destination
        self.size, self.flags = size, flags
        self.plain = size == len(frame) and not flags & ~REQUEST and source != destination
        self.purpose_end = _PREFIX_BYTES + purpose
        self.purpose = frame[_PREFIX_BYTES : self.purpose_end]
        self.body_end = body_end
        self.part = body_end + 4 * parts
        self.part_length = frame[body_end : self.part]


Sent = tuple[int, Shape, bytes, tuple[Buffer, ...]]
"""A message: its stamp, its shape, the frame as it came, and the parts that came apart from it."""


@dataclass(frozen=True, slots=True)
class Other:
    """A packet that holds no messages: a report, or a stranger's.

    `user` is whom the connection's key stands for, where there are keys.
    """

    identity: bytes
    connection: Connection | None
    packet: bytes
    user: str = ""


class Intake:
    """Reads what comes over `socket`, for a run of so many `nodes`.

    `taken` are the messages read so far, for whoever takes them out; `malformed` counts what was
    refused, by reason.
    """

    def __init__(self, socket: zmq.Socket[bytes], nodes: int) -> None:
        self._socket = socket
        self._nodes = nodes
        self.taken: list[Sent] = []
        self.malformed: dict[str, int] = {}

    def read(self, connections: dict[bytes, Connection]) -> tuple[bool, list[Other]]:
        """Reads a bounded number of packets; says whether that was all, and what came beside
        messages.
        """
        receive = zmq.backend.Socket.recv
        socket = self._socket
        others: list[Other] = []
        for _ in range(PACKETS_AT_ONCE):
            try:
                identity = receive(socket, _NOBLOCK)
            except zmq.Again:
                return True, others
            connection = connections.get(identity)
            if connection is None:
                self._meet(identity, others)
                continue
            packet = receive(socket, _NOBLOCK)
            mark = len(self.taken)
            try:
                if not self._take(connection, packet):
                    others.append(Other(identity, connection, packet))
            except (FrameError, struct.error, UnicodeDecodeError) as error:
                del self.taken[mark:]
                connection.like = None
                self._rest()
                self.refuse(str(error) if isinstance(error, FrameError) else "cut short")
        return False, others

    def refuse(self, reason: str) -> None:
        """Counts what could not be read or was not allowed; a bounded number of reasons apart."""
        if reason not in self.malformed and len(self.malformed) >= REASONS:
            reason = "another reason"
        self.malformed[reason] = self.malformed.get(reason, 0) + 1

    def _meet(self, identity: bytes, others: list[Other]) -> None:
        """A packet of somebody who has not been admitted, or a part too many of the one before."""
        if not self._socket.getsockopt(zmq.RCVMORE):
            self.refuse("a part too many")
            return
        first = zmq.backend.Socket.recv(self._socket, _NOBLOCK, copy=False)
        if self._rest() or len(first) > MAX_BODY_BYTES:
            self.refuse("before hello")
        else:
            others.append(Other(identity, None, first.bytes, _user(first)))

    # Packets.

    def _take(self, connection: Connection, packet: bytes) -> bool:
        """Takes in the messages of a packet. False: it holds a report."""
        magic, count = _HEAD.unpack_from(packet)
        end = len(packet)
        if magic != MAGIC or end > MAX_PACKET_BYTES:
            raise FrameError("not a packet of this protocol")
        if not count:
            raise FrameError("an empty packet")
        unpack = _SHAPE.unpack_from
        head, stamp, word, lengths = unpack(packet, 4)
        if word != connection.word:
            raise FrameError("wrong word")
        if head[0] == _QUIET and count == 1:
            return False
        add = self.taken.append
        like = connection.like
        at = 4
        while True:
            if like is not None and head == like.head and lengths == like.lengths:
                stop = at + like.size
                frame = packet[at:stop]
                if (
                    stop <= end
                    and frame[like.body_end : like.part] == like.part_length
                    and frame[_PREFIX_BYTES : like.purpose_end] == like.purpose
                ):
                    add((stamp, like, frame, ()))
                else:
                    stop = self._look(connection, packet, at)
                    like = connection.like
            else:
                stop = self._look(connection, packet, at)
                like = connection.like
            at = stop
            count -= 1
            if not count:
                break
            head, stamp, _, lengths = unpack(packet, at)
        if at != end:
            raise FrameError("bytes after the last frame")
        return True

    def _look(self, connection: Connection, packet: bytes, at: int) -> int:
        """Checks and takes the frame that begins at `at`; says where it ends."""
        kind, flags, parts, source, destination, stamp, _, purpose, body = _PREFIX.unpack_from(
            packet, at
        )
        if kind != _SEND:
            raise FrameError("unexpected kind")
        if source not in connection.nodes:
            raise FrameError("speaks for another node")
        if destination >= self._nodes and not (destination == NOBODY and flags & PUBLISH):
            raise FrameError("no such destination")
        if purpose > MAX_PURPOSE_BYTES or body > MAX_BODY_BYTES:
            raise FrameError("purpose or body too long")
        body_end = at + _PREFIX_BYTES + purpose + body
        packet[at + _PREFIX_BYTES : at + _PREFIX_BYTES + purpose].decode()
        stop, apart = self._parts(packet, body_end, parts) if parts else (body_end, ())
        if stop > len(packet):
            raise FrameError("cut short")
        frame = packet[at:stop]
        size = stop - at + sum(map(len, apart))
        if flags & SHARED:
            table = references(frame)
            if any(entry.arena != connection.number for entry in table.entries):
                raise FrameError("another's shared memory")
            size += table.size_bytes
        if flags & DATAGRAM and size > LARGEST_DATAGRAM_BYTES:
            raise FrameError("datagram too large")
        shape = Shape(
            frame, source, destination, size, flags, purpose, body_end - at, min(parts, 1)
        )
        self.taken.append((stamp, shape, frame, apart))
        alike = parts <= 1 and not apart and not flags & SHARED
        connection.like = shape if alike else None
        return stop

    def _parts(self, packet: bytes, at: int, count: int) -> tuple[int, tuple[Buffer, ...]]:
        """Where the payload ends whose lengths begin at `at`, and which of its parts came apart."""
        if count > MAX_PARTS:
            raise FrameError("too many payload parts")
        lengths = struct.unpack_from(f"!{count}I", packet, at)
        at += 4 * count
        apart: list[Buffer] = []
        total = 0
        for length in lengths:
            size = length & ~_APART
            total += size
            if total > MAX_PAYLOAD_BYTES:
                raise FrameError("payload too large")
            if length & _APART:
                apart.append(self._apart(size))
            else:
                at += size
        return at, tuple(apart)

    def _apart(self, size: int) -> Buffer:
        """The next part of this packet, which has to be of that size."""
        if not self._socket.getsockopt(zmq.RCVMORE):
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


def _user(part: zmq.Frame) -> str:
    try:
        return str(part.get("User-Id"))
    except zmq.ZMQError:
        return ""
