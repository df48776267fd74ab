"""Frames on the socket, and their bounds.

A frame is a ZeroMQ multipart message: a fixed binary prefix for routing, one msgpack body that only
the ends unpack, and raw payload parts that nobody copies or unpacks on the way. `decode` checks
every size before it trusts anything, and raises `FrameError` with the reason.

    prefix   magic 2s · kind u8 · parts u16 · source u32 · destination u32 ·
             sequence u64 · answers u64 · instant i64 · purpose length u8, purpose
    body     msgpack map
    payload  `parts` raw frames
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import msgpack
import zmq
import zmq.backend

from broker.errors import FrameError

MAGIC = b"A1"
MAX_NODES = 65_536
MAX_BODY_BYTES = 16 * 2**20
MAX_PAYLOAD_BYTES = 512 * 2**20
MAX_PARTS = 4_096
MAX_PURPOSE_BYTES = 64
NOBODY = 0xFFFF_FFFF
_LARGE_BYTES = 65_536
_MORE = int(zmq.SNDMORE)

_PREFIX = struct.Struct("!2sBHIIQQqB")

Buffer = bytes | memoryview


class Kind(IntEnum):
    """What a frame is for."""

    HELLO = 1  # worker → bus: I am here
    SEND = 2  # worker → bus: a node's message
    QUIET = 3  # worker → bus: nothing is ready here any more at this instant
    DELIVER = 4  # bus → worker: a message that arrives at this instant
    ADVANCE = 5  # bus → worker: it is this instant now; run
    DESCRIBE = 6  # bus → worker: who waits for what?
    CLOSE = 7  # bus → worker: the run is over


_KINDS = {int(kind): kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame.

    `source` and `destination` are numbers of nodes in the order of the run's programs.
    `instant_ns` is when the message was sent (SEND, DELIVER), or the instant that is meant
    (control). `answers` is the sequence number of the request this replies to, or 0.
    """

    kind: Kind
    source: int = NOBODY
    destination: int = NOBODY
    sequence: int = 0
    answers: int = 0
    instant_ns: int = 0
    purpose: str = ""
    body: bytes = b"\x80"
    payload: tuple[Buffer, ...] = ()

    @property
    def size_bytes(self) -> int:
        """All its bytes, as they would lie in a stream."""
        return (
            _PREFIX.size
            + len(self.purpose.encode())
            + len(self.body)
            + sum(len(part) for part in self.payload)
        )


def pack(value: dict[str, Any]) -> bytes:
    """A header or a control body as msgpack."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
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


def post(socket: zmq.Socket[bytes], frame: Frame, *envelope: bytes) -> None:
    """Sends a frame, behind the `envelope` that a ROUTER needs. Large payloads are not copied."""
    send = zmq.backend.Socket.send  # `send_multipart` does sums with enums, at twice the price
    parts = [*envelope, *encode(frame)]
    last = len(parts) - 1
    for place, part in enumerate(parts):
        flags = _MORE if place < last else 0
        if len(part) < _LARGE_BYTES:
            send(socket, part, flags)
        else:
            send(socket, part, flags, copy=False)


def collect(socket: zmq.Socket[bytes]) -> list[Buffer]:
    """The parts of the next multipart message, not copied."""
    receive = zmq.backend.Socket.recv
    parts: list[Buffer] = []
    more = True
    while more:
        part = receive(socket, copy=False)
        parts.append(part.buffer if len(part) else b"")
        more = part.more
    return parts


def encode(frame: Frame) -> list[Buffer]:
    """The parts of the multipart message. Raises FrameError when a bound is broken."""
    purpose = frame.purpose.encode()
    if len(purpose) > MAX_PURPOSE_BYTES:
        raise FrameError(f"purpose {frame.purpose!r} is longer than {MAX_PURPOSE_BYTES} bytes")
    _check_sizes(frame.body, frame.payload)
    prefix = _PREFIX.pack(
        MAGIC,
        frame.kind,
        len(frame.payload),
        frame.source,
        frame.destination,
        frame.sequence,
        frame.answers,
        frame.instant_ns,
        len(purpose),
    )
    return [prefix + purpose, frame.body, *frame.payload]


def decode(parts: Sequence[Buffer]) -> Frame:
    """The frame in a multipart message. Raises FrameError with the reason it can't be one."""
    if len(parts) < 2:
        raise FrameError(f"{len(parts)} part(s); a frame has a prefix and a body")
    prefix = bytes(parts[0])
    if len(prefix) < _PREFIX.size:
        raise FrameError(f"prefix of {len(prefix)} bytes; it has at least {_PREFIX.size}")
    magic, kind, count, source, destination, sequence, answers, instant, purpose_length = (
        _PREFIX.unpack_from(prefix)
    )
    if magic != MAGIC:
        raise FrameError("not a frame of this protocol")
    known = _KINDS.get(kind)
    if known is None:
        raise FrameError(f"unknown kind {kind}")
    payload = tuple(parts[2:])
    if count != len(payload):
        raise FrameError(f"{len(payload)} payload part(s) where the prefix says {count}")
    purpose = prefix[_PREFIX.size :]
    if len(purpose) != purpose_length or purpose_length > MAX_PURPOSE_BYTES:
        raise FrameError("purpose has the wrong length")
    _check_sizes(parts[1], payload)
    try:
        text = purpose.decode()
    except UnicodeDecodeError as error:
        raise FrameError(f"purpose is not UTF-8: {error}") from error
    return Frame(
        known,
        source,
        destination,
        sequence,
        answers,
        instant,
        text,
        bytes(parts[1]),
        payload,
    )


def _check_sizes(body: Buffer, payload: Sequence[Buffer]) -> None:
    if len(body) > MAX_BODY_BYTES:
        raise FrameError(f"body of {len(body):,} bytes; at most {MAX_BODY_BYTES:,}")
    if len(payload) > MAX_PARTS:
        raise FrameError(f"{len(payload):,} payload parts; at most {MAX_PARTS:,}")
    total = sum(len(part) for part in payload)
    if total > MAX_PAYLOAD_BYTES:
        raise FrameError(f"payload of {total:,} bytes; at most {MAX_PAYLOAD_BYTES:,}")
