"""Packets off a ROUTER socket, as bytes: what is a message, from whom, for whom, how large.

Only the fixed prefix of a frame is looked at; body and payload stay as they came. Nothing is
trusted before it was checked, and whatever breaks a bound is refused with its reason, the whole
packet with it. Most frames of a connection are like the one before but for their numbers and
stamps: those are known by a few bytes that must be the same (`Pattern`), and need no second look;
where several in a row are alike, they are taken apart in one go.

A ROUTER gives a message as parts: the routing id first. On the fast path the parts of a packet are
counted by what its frames speak of, not by asking the socket, which is slow. A packet with a part
too many is noticed at the next one: no connection has that part as its routing id.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import zmq
import zmq.backend

from broker.connection import Connection
from broker.errors import FrameError
from broker.shared import Reference, references
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
MESSAGES_AT_ONCE = 1_024
TOGETHER = 16
REASONS = 64
LARGEST_DATAGRAM_BYTES = 65_507

_HEAD = struct.Struct("!2sH")
OPENING = _HEAD.pack(MAGIC, 1)
_PREFIX = struct.Struct("!BBHII16xqq8xBI")
_PREFIX_BYTES = 57
_WORD = 40  # where the first frame's is in a packet
_APART = 0x8000_0000
_NOBLOCK = int(zmq.NOBLOCK)
_SEND, _QUIET = int(Kind.SEND), int(Kind.QUIET)


class Shape:
    """What messages of one kind have in common: ends, size and flags, and the places in shared
    memory that they refer to.

    `kind` is what has to be the same for messages to be passed on together: to whom they go, and
    how large their frames are, or 0 where more is to be known of them than that.
    """

    __slots__ = ("destination", "flags", "kind", "places", "size", "source")

    def __init__(
        self,
        source: int,
        destination: int,
        size: int,
        flags: int,
        frame_bytes: int,
        places: tuple[Reference, ...] = (),
    ) -> None:
        self.source, self.destination = source, destination
        self.size, self.flags = size, flags
        self.places = places
        is_plain = size == frame_bytes and not flags & ~REQUEST and source != destination
        self.kind = (destination, frame_bytes if is_plain else 0)


class Pattern:
    """How to tell frames of the same shape as one that was looked at, and has nothing apart.

    Four fields are cut out of a frame: its head, its stamp, all lengths with the purpose, and the
    lengths of payload parts. All but the stamp have to be as in `marks`. The same for a packet of
    one frame (`alone`): its first field has the packet's head, too, and behind the stamp is the
    word. And for `TOGETHER` frames in a row, whose fields lie one behind the other (`row`).
    """

    __slots__ = ("_cuts", "alone", "alone_marks", "fields", "frame_bytes", "marks", "packet_bytes",
                 "shape")  # fmt: skip

    def __init__(
        self, shape: Shape, frame: bytes, word: bytes, purpose: int, body: int, parts: int
    ) -> None:
        payload = len(frame) - _PREFIX_BYTES - purpose - body - 4 * parts
        self.shape = shape
        self.frame_bytes = len(frame)
        self.packet_bytes = _HEAD.size + len(frame)
        self._cuts = f"{5 + purpose}s{body}x{4 * parts}s{payload}x"
        self.fields, self.alone = _cutters(self._cuts)
        head, _, lengths, part_lengths = self.fields.unpack(frame)
        self.marks = head, lengths, part_lengths
        self.alone_marks = OPENING + head, word, lengths, part_lengths

    def row(self, packet: bytes, at: int) -> Iterable[tuple[int, bytes]] | None:
        """Stamps and frames of the next `TOGETHER`, if they are all like that."""
        fields, frames = _row_cutters(self._cuts, self.frame_bytes)
        found = fields.unpack_from(packet, at)
        for place, mark in zip((0, 2, 3), self.marks, strict=True):
            if found[place::4].count(mark) != TOGETHER:
                return None
        return zip(found[1::4], frames.unpack_from(packet, at), strict=True)


@lru_cache(1_024)
def _cutters(cuts: str) -> tuple[struct.Struct, struct.Struct]:
    return struct.Struct(f"!12s16xq16x{cuts}"), struct.Struct(f"!16s16xq8s8x{cuts}")


@lru_cache(256)
def _row_cutters(cuts: str, size: int) -> tuple[struct.Struct, struct.Struct]:
    fields = f"12s16xq16x{cuts}" * TOGETHER
    return struct.Struct("!" + fields), struct.Struct(f"{size}s" * TOGETHER)


Part = Buffer | zmq.Frame
Sent = tuple[int, Shape, bytes, tuple[Part, ...]]
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
        receive, socket = zmq.backend.Socket.recv, self._socket
        others: list[Other] = []
        taken = self.taken
        add = taken.append
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
            # Most packets hold one message that is like the one before: what is written out here
            # is `_take` for these, and nothing else.
            like = connection.like
            if like is not None and len(packet) == like.packet_bytes:
                head, stamp, word, lengths, part_lengths = like.alone.unpack(packet)
                if (head, word, lengths, part_lengths) == like.alone_marks:
                    add((stamp, like.shape, packet[4:], ()))
                    continue
            mark = len(taken)
            try:
                if not self._take(connection, packet):
                    others.append(Other(identity, connection, packet))
            except (FrameError, struct.error, UnicodeDecodeError) as error:
                del taken[mark:]
                connection.like = None
                self._rest()
                self.refuse(str(error) if isinstance(error, FrameError) else "cut short")
            if len(taken) > MESSAGES_AT_ONCE:
                break
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
        if packet[_WORD : _WORD + 8] != connection.word:
            raise FrameError("wrong word")
        if packet[_HEAD.size] == _QUIET and count == 1:
            return False
        at = _HEAD.size
        in_rows = True
        while count:
            like = connection.like
            if like is None or at + like.frame_bytes > end:
                at = self._look(connection, packet, at)
                count -= 1
                continue
            if in_rows and count >= TOGETHER and at + TOGETHER * like.frame_bytes <= end:
                row = like.row(packet, at)
                if row is not None:
                    shape = like.shape
                    self.taken += [(stamp, shape, frame, ()) for stamp, frame in row]
                    at += TOGETHER * like.frame_bytes
                    count -= TOGETHER
                    continue
                in_rows = False  # this packet has frames of several kinds
            head, stamp, lengths, part_lengths = like.fields.unpack_from(packet, at)
            if (head, lengths, part_lengths) == like.marks:
                self.taken.append((stamp, like.shape, packet[at : at + like.frame_bytes], ()))
                at += like.frame_bytes
            else:
                at = self._look(connection, packet, at)
            count -= 1
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
        places: tuple[Reference, ...] = ()
        if flags & SHARED:
            places, further_bytes = references(frame)
            if any(place.arena != connection.number for place in places):
                raise FrameError("another's shared memory")
            size += further_bytes
        if flags & DATAGRAM and size > LARGEST_DATAGRAM_BYTES:
            raise FrameError("datagram too large")
        shape = Shape(source, destination, size, flags, len(frame), places)
        self.taken.append((stamp, shape, frame, apart))
        if apart or places:
            connection.like = None
        else:
            connection.like = Pattern(shape, frame, connection.word, purpose, body, parts)
        return stop

    def _parts(self, packet: bytes, at: int, count: int) -> tuple[int, tuple[Part, ...]]:
        """Where the payload ends whose lengths begin at `at`, and which of its parts came apart."""
        if count > MAX_PARTS:
            raise FrameError("too many payload parts")
        lengths = struct.unpack_from(f"!{count}I", packet, at)
        at += 4 * count
        apart: list[Part] = []
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

    def _apart(self, size: int) -> zmq.Frame:
        """The next part of this packet, which has to be of that size."""
        if not self._socket.getsockopt(zmq.RCVMORE):
            raise FrameError("no part where a frame speaks of one")
        part = zmq.backend.Socket.recv(self._socket, _NOBLOCK, copy=False)
        if len(part) != size:
            raise FrameError("a part of another size than its frame says")
        return part

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
