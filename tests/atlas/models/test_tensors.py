"""Tensors cross the wire unchanged and uncopied, and nothing malformed becomes one."""

from __future__ import annotations

import msgpack
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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
