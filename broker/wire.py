"""Frames on the socket, and their bounds.

A ZeroMQ message carries any number of frames: the packet. Its first part has them one behind the
other, small payloads included; payload parts of 64 KiB and more follow as parts of their own, so
that nobody copies them on the way. A frame is a fixed binary prefix for routing, a msgpack body
that only the ends unpack, and raw payload parts that nobody unpickles. `decode` checks every size
before it trusts anything, and raises `FrameError` with the reason.

    packet   magic 2s · count u16 · frames · [large payload parts]
    frame    kind u8 · flags u8 · parts u16 · source u32 · destination u32 · sequence u64 ·
             answers u64 · instant i64 · due i64 · clock i64 · purpose length u8 · body length u32 ·
             purpose · body · part length u32 … · small payload parts

The high bit of a part's length says that it travels as a part of its own.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack
import zmq
import zmq.backend

from broker.errors import FrameError

MAGIC = b"A2"
MAX_NODES = 65_536
MAX_FRAMES = 65_535
MAX_PACKET_BYTES = 64 * 2**20
MAX_BODY_BYTES = 16 * 2**20
MAX_PAYLOAD_BYTES = 512 * 2**20
MAX_PARTS = 4_096
MAX_PURPOSE_BYTES = 64
NOBODY = 0xFFFF_FFFF
LARGE_BYTES = 65_536
_APART = 0x8000_0000
_MORE = int(zmq.SNDMORE)

_HEAD = struct.Struct("!2sH")
_PREFIX = struct.Struct("!BBHIIQQqqqBI")
_LENGTHS = tuple(struct.Struct(f"!{count}I") for count in range(17))
_ONE = _LENGTHS[1]

Buffer = bytes | memoryview

DATAGRAM = 1
"""Flag: this message goes as a datagram, and may be lost, doubled or overtaken."""
HEARTBEAT = 2
"""Flag: a failure detector's question or answer, which no program sees."""
PUBLISH = 4
"""Flag: for all who subscribe to the topic that stands in the purpose's place."""
ANSWER = 8
"""Flag: the answer to a message. Who asks has room for it, so it waits for none."""
SHARED = 16
"""Flag: its last payload part says where in shared memory the others are (`broker.shared`)."""
REQUEST = 32
"""Flag: who sent it waits for an answer."""
UNCOUNTED = DATAGRAM | HEARTBEAT | PUBLISH | ANSWER
"""What has one of these waits for no room at the receiver, and takes none."""


class Kind(IntEnum):
    """What a frame is for."""

    HELLO = 1  # worker → bus: I am here
    SEND = 2  # worker → bus: a node's message
    QUIET = 3  # worker → bus: nothing is ready here any more until the window's end
    DELIVER = 4  # bus → worker: a message that arrives, and when
    ADVANCE = 5  # bus → worker: run until then
    DESCRIBE = 6  # bus → worker: who waits for what?
    CLOSE = 7  # bus → worker: the run is over
    ORDERS = 8  # bus → worker: what happens to nodes at a window's beginning
    RECEIPT = 9  # bus → worker: `source` has taken up `sequence` bytes; 0: all there were are lost


_KINDS = {int(kind): kind for kind in Kind}
_new = object.__new__
_tuple = tuple.__new__


@dataclass(slots=True)
class Frame:
    """One frame.

    `source` and `destination` are numbers of nodes in the order of the run's programs.
    `instant_ns` is when the message was sent (SEND, DELIVER), or the instant that is meant
    (control); `due_ns` is when it arrives (DELIVER), where a window ends (ADVANCE), or when the
    worker next has something to do (QUIET; -1: never); `clock_ns` is how far the sender's own clock
    was ahead. `sequence` counts a node's messages, or what was sent in a window (QUIET). `answers`
    is the sequence number of the request this replies to, or 0.
    """

    kind: Kind
    source: int = NOBODY
    destination: int = NOBODY
    sequence: int = 0
    answers: int = 0
    instant_ns: int = 0
    purpose: str = ""
    body: Buffer = b"\x80"
    payload: tuple[Buffer, ...] = ()
    flags: int = 0
    due_ns: int = 0
    clock_ns: int = 0
    _rest: _Rest | None = field(default=None, init=False, compare=False, repr=False)

    @property
    def size_bytes(self) -> int:
        """All its bytes, as they would lie in a stream."""
        return (self._rest or _write(self)).size_bytes

    @property
    def body_bytes(self) -> int:
        """How long the body is."""
        return (self._rest or _write(self)).body_length

    def carried(self) -> tuple[Buffer, ...]:
        """What it carries (purpose, body, payload), as few buffers: for who takes a fingerprint."""
        rest = self._rest or _write(self)
        return (rest.near, *rest.apart) if rest.apart else (rest.near,)

    def contents(self) -> tuple[Buffer, tuple[Buffer, ...]]:
        """The body and the payload."""
        rest = self._rest
        if rest is None:
            return self.body, self.payload
        near, apart, _, begin, length, parts = rest
        end = begin + length
        if not parts:
            return near[begin:end], ()
        if parts == 1:
            return near[begin:end], apart or (near[end + _ONE.size :],)
        return near[begin:end], _cut(rest, end)

    def __getattr__(self, name: str) -> Any:
        """The body and the payload of a frame that was decoded are cut out when they are wanted."""
        if name not in ("body", "payload") or self._rest is None:
            raise AttributeError(f"a frame has no {name}")
        self.body, self.payload = self.contents()
        return getattr(self, name)


class _Rest(NamedTuple):
    """What comes behind a frame's prefix: near it in the packet, and in parts of their own."""

    near: Buffer
    apart: tuple[Buffer, ...]
    size_bytes: int
    purpose_length: int
    body_length: int
    parts: int


class _Packer(threading.local):
    """A packer for each thread: a new one for each body costs six times as much."""

    def __init__(self) -> None:
        self.pack = msgpack.Packer(use_bin_type=True).pack


_mine = _Packer()


def pack(value: dict[str, Any]) -> bytes:
    """A header or a control body as msgpack."""
    packed: bytes = _mine.pack(value)
    return packed


def unpack(body: Buffer) -> dict[str, Any]:
    """The msgpack map in `body`. Raises FrameError for anything else."""
    try:
        value = msgpack.unpackb(body, raw=False, strict_map_key=True)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise FrameError(f"body is not msgpack: {error}") from error
    if not isinstance(value, dict):
        raise FrameError(f"body is a {type(value).__name__}, not a map")
    return value


def post(socket: zmq.Socket[bytes], frames: Sequence[Frame], *envelope: bytes) -> None:
    """Sends frames, in as few packets as their bounds allow, each behind the `envelope` that a
    ROUTER needs. Large payloads are not copied.
    """
    if len(frames) > MAX_FRAMES:
        post(socket, frames[:MAX_FRAMES], *envelope)
        post(socket, frames[MAX_FRAMES:], *envelope)
        return
    parts = encode(frames)
    if len(parts[0]) > MAX_PACKET_BYTES:
        middle = len(frames) // 2
        post(socket, frames[:middle], *envelope)
        post(socket, frames[middle:], *envelope)
        return
    send_parts(socket, [*envelope, *parts])


def send_parts(socket: zmq.Socket[bytes], parts: Sequence[Buffer], flags: int = 0) -> None:
    """Sends a multipart message; large parts are not copied."""
    send = zmq.backend.Socket.send  # `send_multipart` does sums with enums, at twice the price
    last = len(parts) - 1
    for place, part in enumerate(parts):
        more = flags | _MORE if place < last else flags
        if len(part) < LARGE_BYTES:
            send(socket, part, more)
        else:
            send(socket, part, more, copy=False)


def collect(socket: zmq.Socket[bytes], flags: int = 0) -> list[Buffer]:
    """The parts of the next multipart message; large ones are not copied."""
    receive = zmq.backend.Socket.recv
    parts: list[Buffer] = []
    more = True
    while more:
        part = receive(socket, flags, copy=False)
        size = len(part)
        parts.append(part.bytes if size < LARGE_BYTES else part.buffer)
        more = part.more
    return parts


def check(frame: Frame) -> None:
    """Raises FrameError when a frame breaks a bound, and so could never be read."""
    if len(frame.purpose) > MAX_PURPOSE_BYTES // 4:
        purpose = frame.purpose.encode()
        if len(purpose) > MAX_PURPOSE_BYTES:
            what = "topic" if frame.flags & PUBLISH else "purpose"
            raise FrameError(f"{what} {frame.purpose!r} is longer than {MAX_PURPOSE_BYTES} bytes")
    if len(frame.body) > MAX_BODY_BYTES:
        raise FrameError(f"body of {len(frame.body):,} bytes; at most {MAX_BODY_BYTES:,}")
    if frame.payload:
        if len(frame.payload) > MAX_PARTS:
            raise FrameError(f"{len(frame.payload):,} payload parts; at most {MAX_PARTS:,}")
        total = sum(map(len, frame.payload))
        if total > MAX_PAYLOAD_BYTES:
            raise FrameError(f"payload of {total:,} bytes; at most {MAX_PAYLOAD_BYTES:,}")


def encode(frames: Sequence[Frame]) -> list[Buffer]:
    """The parts of one packet. The frames have been checked (`check`), or were decoded."""
    if len(frames) > MAX_FRAMES:
        raise FrameError(f"{len(frames):,} frames in a packet; at most {MAX_FRAMES:,}")
    inside: list[Buffer] = [_HEAD.pack(MAGIC, len(frames))]
    apart: list[Buffer] = []
    for frame in frames:
        near, mine, _, purpose_length, body_length, count = frame._rest or _write(frame)
        inside.append(
            _PREFIX.pack(
                frame.kind,
                frame.flags,
                count,
                frame.source,
                frame.destination,
                frame.sequence,
                frame.answers,
                frame.instant_ns,
                frame.due_ns,
                frame.clock_ns,
                purpose_length,
                body_length,
            )
        )
        inside.append(near)
        if mine:
            apart += mine
    return [b"".join(inside), *apart]


def _write(frame: Frame) -> _Rest:
    """Lays out what comes behind the prefix; a frame is not changed in that any more."""
    purpose = frame.purpose.encode() if frame.purpose else b""
    body, payload = frame.body, frame.payload
    apart: tuple[Buffer, ...] = ()
    near: Buffer
    if not payload:
        near = purpose + body if purpose else body
    elif len(payload) == 1 and len(payload[0]) < LARGE_BYTES:
        near = b"".join((purpose, body, _ONE.pack(len(payload[0])), payload[0]))
    else:
        sizes = [len(part) for part in payload]
        marked = [size | _APART if size >= LARGE_BYTES else size for size in sizes]
        lengths = _lengths(len(marked)).pack(*marked)
        small = [part for part in payload if len(part) < LARGE_BYTES]
        apart = tuple([part for part in payload if len(part) >= LARGE_BYTES])
        near = b"".join((purpose, body, lengths, *small))
    size = _PREFIX.size + len(near)
    if apart:
        size += sum(map(len, apart))
    rest = frame._rest = _tuple(_Rest, (near, apart, size, len(purpose), len(body), len(payload)))
    return rest


def decode(parts: Sequence[Buffer]) -> list[Frame]:
    """The frames in a packet. Raises FrameError with the reason it can't be one."""
    if not parts:
        raise FrameError("0 parts; a packet has at least one")
    packet = memoryview(parts[0])
    end = len(packet)
    if end < _HEAD.size:
        raise FrameError(f"packet of {end} bytes; it has at least {_HEAD.size}")
    if end > MAX_PACKET_BYTES:
        raise FrameError(f"packet of {end:,} bytes; at most {MAX_PACKET_BYTES:,}")
    magic, count = _HEAD.unpack_from(packet)
    if magic != MAGIC:
        raise FrameError("not a packet of this protocol")
    frames: list[Frame] = []
    at = _HEAD.size
    apart = 1
    for _ in range(count):
        frame, at, apart = _decode_one(packet, at, end, parts, apart)
        frames.append(frame)
    if at != end:
        raise FrameError(f"{end - at:,} bytes after the last frame")
    if apart != len(parts):
        raise FrameError(f"{len(parts) - apart:,} part(s) that no frame has spoken of")
    return frames


def _decode_one(
    packet: memoryview, at: int, end: int, parts: Sequence[Buffer], apart: int
) -> tuple[Frame, int, int]:
    if at + _PREFIX.size > end:
        raise FrameError("the packet ends within a prefix")
    (
        kind, flags, count, source, destination, sequence, answers, instant, due, clock,
        purpose_length, body_length,
    ) = _PREFIX.unpack_from(packet, at)  # fmt: skip
    known = _KINDS.get(kind)
    if known is None:
        raise FrameError(f"unknown kind {kind}")
    if purpose_length > MAX_PURPOSE_BYTES:
        raise FrameError(f"purpose of {purpose_length} bytes; at most {MAX_PURPOSE_BYTES}")
    if body_length > MAX_BODY_BYTES:
        raise FrameError(f"body of {body_length:,} bytes; at most {MAX_BODY_BYTES:,}")
    if count > MAX_PARTS:
        raise FrameError(f"{count:,} payload parts; at most {MAX_PARTS:,}")
    begin = at
    at += _PREFIX.size
    body_at = at + purpose_length
    lengths_at = body_at + body_length
    next_at = lengths_at + 4 * count
    if next_at > end:
        raise FrameError("the packet ends within a frame")
    text = ""
    if purpose_length:
        try:
            text = str(packet[at:body_at], "utf-8")
        except UnicodeDecodeError as error:
            raise FrameError(f"purpose is not UTF-8: {error}") from error
    mine: tuple[Buffer, ...] = ()
    far = 0
    if count:
        lengths = _lengths(count).unpack_from(packet, lengths_at)
        if count == 1 and lengths[0] < LARGE_BYTES:
            next_at += lengths[0]
        else:
            small, far, mine = _measure(lengths, parts, apart)
            next_at += small
        if next_at > end:
            raise FrameError("the packet ends within a payload")
    frame = _new(Frame)
    frame.kind = known
    frame.source = source
    frame.destination = destination
    frame.sequence = sequence
    frame.answers = answers
    frame.instant_ns = instant
    frame.purpose = text
    frame.flags = flags
    frame.due_ns = due
    frame.clock_ns = clock
    size = next_at - begin + far
    frame._rest = _tuple(
        _Rest, (packet[at:next_at], mine, size, purpose_length, body_length, count)
    )
    return frame, next_at, apart + len(mine)


def _measure(
    lengths: Sequence[int], parts: Sequence[Buffer], apart: int
) -> tuple[int, int, tuple[Buffer, ...]]:
    """How many bytes of payload are near and apart, and the parts that are apart. Raises
    FrameError.
    """
    total = small = 0
    mine: list[Buffer] = []
    for length in lengths:
        size = length & ~_APART
        total += size
        if total > MAX_PAYLOAD_BYTES:
            raise FrameError(f"payload of {total:,} bytes; at most {MAX_PAYLOAD_BYTES:,}")
        if length & _APART:
            place = apart + len(mine)
            if size < LARGE_BYTES or place >= len(parts) or len(parts[place]) != size:
                raise FrameError(f"no part of {size:,} bytes where a frame speaks of one")
            mine.append(parts[place])
        elif size >= LARGE_BYTES:
            raise FrameError("the packet ends within a payload")
        else:
            small += size
    return small, total - small, tuple(mine)


def _cut(rest: _Rest, at: int) -> tuple[Buffer, ...]:
    """The payload of a frame whose body ends at `at`."""
    near, apart = rest.near, iter(rest.apart)
    payload: list[Buffer] = []
    lengths = _lengths(rest.parts).unpack_from(near, at)
    at += 4 * rest.parts
    for length in lengths:
        if length & _APART:
            payload.append(next(apart))
        else:
            payload.append(near[at : at + length])
            at += length
    return tuple(payload)


def _lengths(count: int) -> struct.Struct:
    return _LENGTHS[count] if count < len(_LENGTHS) else struct.Struct(f"!{count}I")
