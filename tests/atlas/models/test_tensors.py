"""Tensors cross the wire unchanged and uncopied, and nothing malformed becomes one."""

from __future__ import annotations

import contextlib

import msgpack
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atlas.models.codec import CODECS
from atlas.models.tensors import ProtocolError, pack, unpack

SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@given(shapes=st.lists(SHAPES, max_size=4), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_what_is_packed_is_unpacked(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(len(shapes))
    given_ = {
        f"tensor-{index}": torch.randn(shape, generator=generator).to(dtype)
        for index, shape in enumerate(shapes)
    }
    manifest, buffers = pack(given_)
    manifest = msgpack.unpackb(msgpack.packb(manifest))
    found = unpack(manifest, [bytes(buffer) for buffer in buffers])
    assert list(found) == list(given_)
    for name, tensor in given_.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], tensor)


def test_nothing_is_copied() -> None:
    tensor = torch.arange(6.0)
    _, (buffer,) = pack({"x": tensor})
    tensor[0] = 9
    assert memoryview(buffer).cast("f")[0] == 9
    raw = bytes(buffer)
    one, other = (
        unpack([{"name": "x", "dtype": "float32", "shape": [6]}], [raw])["x"] for _ in "ab"
    )
    assert one.data_ptr() == other.data_ptr()


def test_a_transposed_tensor_arrives_as_it_reads() -> None:
    tensor = torch.arange(6.0).reshape(2, 3).T
    assert torch.equal(unpack(*pack({"x": tensor}))["x"], tensor)


def test_a_tensor_keeps_its_buffer_alive() -> None:
    found = unpack([{"name": "x", "dtype": "float32", "shape": [1000]}], [bytearray(4000)])["x"]
    junk = [bytearray(b"\xff" * 4000) for _ in range(100)]
    assert junk
    assert not found.any()


GOOD = {"name": "x", "dtype": "float32", "shape": [2]}


@pytest.mark.parametrize(
    ("manifest", "buffers", "message"),
    [
        ([GOOD], [b"1234567"], "should be 8 bytes"),
        ([GOOD], [], "1 tensors are described and 0 came"),
        ([GOOD, GOOD], [b"12345678"] * 2, "described twice"),
        ([{**GOOD, "dtype": "int64"}], [bytes(16)], "dtype"),
        ([{**GOOD, "shape": [-1]}], [b""], "shape"),
        ([{**GOOD, "shape": [2**50, 2**50]}], [b""], "shape"),
        ([{**GOOD, "shape": ["2"]}], [bytes(8)], "shape"),
        ([{**GOOD, "code": "x"}], [bytes(8)], "code"),
        ({"x": 1}, [], "list"),
        (None, [], "list"),
    ],
)
def test_what_is_malformed_is_refused(manifest: object, buffers: list[bytes], message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        unpack(manifest, buffers)


def test_other_dtypes_are_not_sent() -> None:
    with pytest.raises(ProtocolError, match="int64"):
        pack({"x": torch.tensor([1])})


NUMBERS = st.integers(0, 2**41) | st.integers(0, 6)
ENTRY = st.fixed_dictionaries(
    {
        "name": st.sampled_from("xy"),
        "dtype": st.sampled_from(["float32", "bfloat16"]),
        "shape": st.lists(NUMBERS, max_size=4),
    },
    optional={"codec": st.sampled_from(["fp32", "bf16", "int8", "fp64"]), "marked": st.booleans()},
)


@given(manifest=st.lists(ENTRY, max_size=2), buffers=st.lists(st.binary(max_size=60), max_size=2))
def test_any_manifest_with_any_bytes_is_unpacked_or_refused(
    manifest: list[dict[str, object]], buffers: list[bytes]
) -> None:
    with contextlib.suppress(ProtocolError):
        tensors = unpack(manifest, buffers, limit_bytes=10_000)
        assert [list(tensor.shape) for tensor in tensors.values()] == [
            entry["shape"] for entry in manifest
        ]


@given(st.data())
def test_a_packed_tensor_with_any_bytes_changed_is_unpacked_or_refused(data: st.DataObject) -> None:
    codec = data.draw(st.sampled_from(CODECS))
    rows = data.draw(st.none() | st.lists(st.booleans(), min_size=6, max_size=6))
    values = torch.arange(60.0).view(2, 3, 10)
    marked = None if rows is None else torch.tensor(rows).view(2, 3)
    manifest, (buffer,) = pack({"x": values}, codec, marked)
    raw = bytearray(buffer)
    for place, byte in data.draw(
        st.lists(st.tuples(st.integers(0, len(raw) - 1), st.integers(0, 255)), max_size=4)
        if raw
        else st.just([])
    ):
        raw[place] = byte
    raw = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    with contextlib.suppress(ProtocolError):
        assert unpack(manifest, [raw])["x"].shape == values.shape
