"""Frames: what is encoded is decoded, and nothing else is."""

from __future__ import annotations

import contextlib
import random
import struct
from dataclasses import replace

import msgpack
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from broker import FrameError, wire
from broker.wire import Frame, Kind, check, decode, encode, pack, unpack
from tests.broker.worlds import STEADY

FRAMES = st.builds(
    Frame,
    kind=st.sampled_from(Kind),
    source=st.integers(0, 2**32 - 1),
    destination=st.integers(0, 2**32 - 1),
    sequence=st.integers(0, 2**64 - 1),
    answers=st.integers(0, 2**64 - 1),
    instant_ns=st.integers(-(2**63), 2**63 - 1),
    purpose=st.text("aä✓", max_size=16),
    body=st.binary(max_size=64),
    payload=st.lists(st.binary(max_size=64), max_size=20).map(tuple),
    flags=st.integers(0, 255),
    due_ns=st.integers(-(2**63), 2**63 - 1),
    clock_ns=st.integers(-(2**63), 2**63 - 1),
)
LARGE = b"x" * wire.LARGE_BYTES
SAMPLE = Frame(Kind.SEND, 1, 2, 3, 4, 5, "asks", pack({"i": 1}), (b"abc", LARGE, b"", b"defg"))
PACKET = [SAMPLE, Frame(Kind.QUIET), replace(SAMPLE, purpose="", payload=(LARGE, LARGE))]


@STEADY
@given(st.lists(FRAMES, max_size=4))
def test_decoded_frames_are_the_encoded_ones(frames):
    assert decode(encode(frames)) == frames


def test_large_payloads_travel_as_parts_of_their_own():
    parts = encode(PACKET)
    assert [len(part) for part in parts[1:]] == [wire.LARGE_BYTES] * 3
    assert parts[1] is LARGE
    assert decode(parts) == PACKET


@STEADY
@given(FRAMES)
def test_the_size_of_a_frame_is_that_of_its_bytes_in_a_packet(frame):
    assert frame.size_bytes == len(encode([frame])[0]) - len(encode([])[0])


def test_thousands_of_damaged_packets_are_refused_or_read_as_what_they_now_say():
    rng = random.Random(1)
    read = refused = 0
    for _ in range(4_000):
        parts = [bytearray(part) if len(part) < 9_999 else part for part in encode(PACKET)]
        for _ in range(rng.randrange(1, 4)):
            damage(rng, parts)
        try:
            frames = decode([bytes(part) for part in parts])
        except FrameError:
            refused += 1
            continue
        read += 1
        assert encode(frames) == parts
        for frame in frames:
            with contextlib.suppress(FrameError):
                assert isinstance(unpack(frame.body), dict)
    assert read > 500
    assert refused > 500


def damage(rng: random.Random, parts: list[bytearray]) -> None:
    small = [part for part in parts if len(part) < 9_999]
    part = rng.choice(small) if small else bytearray()
    match rng.randrange(9):
        case 0 if parts:
            del parts[rng.randrange(len(parts))]
        case 1:
            parts.insert(rng.randrange(len(parts) + 1), bytearray(rng.randbytes(5)))
        case 2:
            rng.shuffle(parts)
        case 3:
            del part[rng.randrange(len(part) + 1) :]
        case 4:
            part += rng.randbytes(rng.randrange(9))
        case _ if part:
            part[rng.randrange(len(part))] = rng.randrange(256)


@STEADY
@given(st.binary(max_size=40))
def test_any_bytes_are_a_map_or_no_body(body):
    try:
        value = unpack(body)
    except FrameError:
        return
    assert isinstance(value, dict)


@pytest.mark.parametrize("value", [1, [], "text", None, {1: 2}, {"deep": {7: 1}}])
def test_a_body_that_is_no_map_of_names_is_refused(value):
    with pytest.raises(FrameError, match="body is"):
        unpack(msgpack.packb(value))


def packet(*frames: bytes, magic: bytes = b"A2", count: int | None = None) -> bytes:
    return struct.pack("!2sH", magic, len(frames) if count is None else count) + b"".join(frames)


def prefix(kind: int = 2, parts: int = 0, purpose: int = 0, body: int = 0) -> bytes:
    return struct.pack("!BBHIIQQqqqBI", kind, 0, parts, 0, 0, 0, 0, 0, 0, 0, purpose, body)


def sized(*lengths: int) -> bytes:
    return struct.pack(f"!{len(lengths)}I", *lengths)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([], "0 parts"),
        ([b"A2"], "packet of 2 bytes"),
        ([packet(magic=b"XX")], "not a packet of this protocol"),
        ([packet(count=1)], "ends within a prefix"),
        ([packet(prefix()[:-1])], "ends within a prefix"),
        ([packet(prefix(kind=0))], "unknown kind 0"),
        ([packet(prefix(kind=99))], "unknown kind 99"),
        ([packet(prefix(purpose=65) + b"a" * 65)], "purpose of 65 bytes"),
        ([packet(prefix(purpose=1) + b"\xff")], "purpose is not UTF-8"),
        ([packet(prefix(purpose=3) + b"ab")], "ends within a frame"),
        ([packet(prefix(body=2) + b"a")], "ends within a frame"),
        ([packet(prefix(body=2**31))], "body of 2,147,483,648 bytes"),
        ([packet(prefix(parts=5_000))], "5,000 payload parts"),
        ([packet(prefix(parts=1))], "ends within a frame"),
        ([packet(prefix(parts=1) + sized(2) + b"a")], "ends within a payload"),
        ([packet(prefix(parts=1) + sized(2**17) + LARGE + LARGE)], "ends within a payload"),
        ([packet(prefix(parts=1) + sized(1 << 31 | 2**16))], "no part of 65,536 bytes"),
        ([packet(prefix(parts=1) + sized(1 << 31 | 2)), b"ab"], "no part of 2 bytes"),
        ([packet(prefix(parts=1) + sized(1 << 31 | 2**17)), LARGE], "no part of 131,072 bytes"),
        ([packet(prefix(parts=2) + sized(*[0x7FFF_FFFF] * 2))], "payload of 2,147,483,647 bytes"),
        ([packet(prefix()), b"more"], "1 part.s. that no frame has spoken of"),
        ([packet(prefix()) + b"more"], "4 bytes after the last frame"),
    ],
)
def test_a_packet_that_is_none_is_refused_with_the_reason(parts, reason):
    with pytest.raises(FrameError, match=reason):
        decode(parts)


@pytest.mark.parametrize(
    ("bound", "value", "reason"),
    [
        ("MAX_BODY_BYTES", 2, "body of 4 bytes; at most 2"),
        ("MAX_PAYLOAD_BYTES", 6, "payload of .* bytes; at most 6"),
        ("MAX_PARTS", 2, "4 payload parts; at most 2"),
        ("MAX_PURPOSE_BYTES", 3, "longer than 3 bytes|purpose of 4 bytes; at most 3"),
    ],
)
def test_both_ends_keep_the_bounds(monkeypatch, bound, value, reason):
    parts = encode([SAMPLE])
    monkeypatch.setattr(wire, bound, value)
    with pytest.raises(FrameError, match=reason):
        check(SAMPLE)
    with pytest.raises(FrameError, match=reason):
        decode(parts)


def test_a_packet_is_bounded(monkeypatch):
    parts = encode(PACKET)
    monkeypatch.setattr(wire, "MAX_FRAMES", 2)
    with pytest.raises(FrameError, match="3 frames in a packet; at most 2"):
        encode(PACKET)
    monkeypatch.setattr(wire, "MAX_PACKET_BYTES", 100)
    with pytest.raises(FrameError, match=r"packet of .* bytes; at most 100"):
        decode(parts)


def test_many_frames_go_in_as_few_packets_as_the_bounds_allow(monkeypatch):
    context = zmq.Context()
    left, right = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    left.bind("inproc://pair")
    right.connect("inproc://pair")
    monkeypatch.setattr(wire, "MAX_FRAMES", 4)
    frames = [replace(SAMPLE, sequence=number) for number in range(10)]
    wire.post(left, frames)
    packets = [decode(wire.collect(right)) for _ in range(3)]
    assert [len(packet) for packet in packets] == [4, 4, 2]
    assert [frame for packet in packets for frame in packet] == frames
    monkeypatch.setattr(wire, "MAX_PACKET_BYTES", 2 * len(encode([SAMPLE])[0]))
    wire.post(left, frames[:3])
    assert [len(decode(wire.collect(right))) for _ in range(2)] == [1, 2]
    left.close(0)
    right.close(0)
    context.term()


def test_a_purpose_is_bounded_in_bytes_not_in_characters():
    check(replace(SAMPLE, purpose="ä" * 32))
    with pytest.raises(FrameError, match="longer than 64 bytes"):
        check(replace(SAMPLE, purpose="ä" * 33))
    with pytest.raises(FrameError, match=r"topic 'long.* longer than 64 bytes"):
        check(replace(SAMPLE, purpose="long" * 17, flags=wire.PUBLISH))


def test_each_flag_has_a_bit_of_its_own():
    flags = [wire.DATAGRAM, wire.HEARTBEAT, wire.PUBLISH, wire.ANSWER, wire.SHARED, wire.REQUEST]
    assert sum(flags) == 2 ** len(flags) - 1
