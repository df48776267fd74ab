"""Frames: what is encoded is decoded, and nothing else is."""

from __future__ import annotations

import contextlib
import random
import struct
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import FrameError, wire
from broker.wire import Frame, Kind, decode, encode, pack, unpack
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
    payload=st.lists(st.binary(max_size=64), max_size=4).map(tuple),
)
SAMPLE = Frame(Kind.SEND, 1, 2, 3, 4, 5, "asks", pack({"i": 1}), (b"abc", b"", b"defg"))


@STEADY
@given(FRAMES)
def test_a_decoded_frame_is_the_encoded_one(frame):
    assert decode(encode(frame)) == frame


@STEADY
@given(FRAMES)
def test_the_size_of_a_frame_is_the_sum_of_its_parts(frame):
    assert frame.size_bytes == sum(len(part) for part in encode(frame))


def test_thousands_of_damaged_frames_are_refused_or_read_as_what_they_now_say():
    rng = random.Random(1)
    read = refused = 0
    for _ in range(4_000):
        parts = [bytearray(part) for part in encode(SAMPLE)]
        for _ in range(rng.randrange(1, 4)):
            damage(rng, parts)
        try:
            frame = decode([bytes(part) for part in parts])
        except FrameError:
            refused += 1
            continue
        read += 1
        assert encode(frame) == parts
        with contextlib.suppress(FrameError):
            assert isinstance(unpack(frame.body), dict)
    assert read > 500
    assert refused > 500


def damage(rng: random.Random, parts: list[bytearray]) -> None:
    part = rng.choice(parts) if parts else bytearray()
    match rng.randrange(6):
        case 0 if part:
            part[rng.randrange(len(part))] = rng.randrange(256)
        case 1:
            del part[rng.randrange(len(part) + 1) :]
        case 2:
            part += rng.randbytes(rng.randrange(9))
        case 3 if parts:
            del parts[rng.randrange(len(parts))]
        case 4:
            parts.insert(rng.randrange(len(parts) + 1), bytearray(rng.randbytes(5)))
        case _:
            rng.shuffle(parts)


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


def prefix(**changes: int) -> bytes:
    fields = {"magic": b"A1", "kind": 2, "parts": 0, "rest": (0, 0, 0, 0, 0), "purpose": 0}
    fields |= changes
    rest = fields["rest"]
    return struct.pack(
        "!2sBHIIQQqB", fields["magic"], fields["kind"], fields["parts"], *rest, fields["purpose"]
    )


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([], "0 part"),
        ([prefix()], "1 part"),
        ([b"short", b"\x80"], "prefix of 5 bytes"),
        ([prefix(magic=b"XX"), b"\x80"], "not a frame of this protocol"),
        ([prefix(kind=0), b"\x80"], "unknown kind 0"),
        ([prefix(kind=99), b"\x80"], "unknown kind 99"),
        ([prefix(parts=1), b"\x80"], "0 payload part"),
        ([prefix(), b"\x80", b"more"], "1 payload part"),
        ([prefix(purpose=3) + b"ab", b"\x80"], "purpose has the wrong length"),
        ([prefix(purpose=65) + b"a" * 65, b"\x80"], "purpose has the wrong length"),
        ([prefix(purpose=1) + b"\xff", b"\x80"], "purpose is not UTF-8"),
    ],
)
def test_a_frame_that_is_none_is_refused_with_the_reason(parts, reason):
    with pytest.raises(FrameError, match=reason):
        decode(parts)


@pytest.mark.parametrize(
    ("bound", "value", "reason"),
    [
        ("MAX_BODY_BYTES", 2, "body of 4 bytes; at most 2"),
        ("MAX_PAYLOAD_BYTES", 6, "payload of 7 bytes; at most 6"),
        ("MAX_PARTS", 2, "3 payload parts; at most 2"),
    ],
)
def test_both_ends_keep_the_bounds(monkeypatch, bound, value, reason):
    parts = encode(SAMPLE)
    monkeypatch.setattr(wire, bound, value)
    with pytest.raises(FrameError, match=reason):
        encode(SAMPLE)
    with pytest.raises(FrameError, match=reason):
        decode(parts)


def test_a_purpose_is_bounded_in_bytes_not_in_characters():
    encode(replace(SAMPLE, purpose="ä" * 32))
    with pytest.raises(FrameError, match="longer than 64 bytes"):
        encode(replace(SAMPLE, purpose="ä" * 33))
