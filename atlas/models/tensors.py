"""Tensors as they cross the network: a list of what they are, and their bytes.

Nothing is pickled. Adapters cross as they are in memory and are not copied, neither on the way out
nor on the way in. Hidden states and gradients may be written in fewer bytes (`codec`), and the
positions that matter to nobody are left out: `rows` marks those that cross, and whoever receives
puts zeros in the place of the others. What was unpacked may stand on the received buffer and must
not be written to. Bytes are in the order of little-endian machines. What comes from outside is
checked before a tensor is made of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from atlas.models.codec import Codec, CodecError, decode, encode, encoded_bytes
from topologies import InputError

if sys.byteorder != "little":
    raise ImportError(
        "tensors cross the network in little-endian order, and this machine has another"
    )

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_WORD_BITS = 64
"""Marks of rows are filled up to whole words, so that what follows them is aligned."""
MOST_BYTES = 2**30
"""What one tensor whose rows were left out may take when it is whole again, unless it is said."""


Buffer = bytes | memoryview


class ProtocolError(InputError):
    """What came from another node is not what the protocol allows."""


class Packed(NamedTuple):
    """Tensors as a message carries them; buffers can be sent on as they came."""

    manifest: list[dict[str, Any]]
    buffers: Sequence[Buffer]

    def with_(self, other: Packed) -> Packed:
        """Both in one message."""
        return Packed([*self.manifest, *other.manifest], [*self.buffers, *other.buffers])

    def parted(self, count: int) -> tuple[Packed, Packed]:
        """The first so many tensors, and the others."""
        return (
            Packed(self.manifest[:count], self.buffers[:count]),
            Packed(self.manifest[count:], self.buffers[count:]),
        )


class _Described(BaseModel):
    """One tensor of a message. `marked`: its buffer begins with which of its rows are in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(max_length=512)]
    dtype: Literal["float32", "bfloat16"]
    shape: Annotated[list[Annotated[int, Field(ge=0, lt=2**40)]], Field(max_length=8)]
    codec: Codec = "fp32"
    marked: bool = False

    @property
    def rows(self) -> int:
        return prod(self.shape[:-1])

    @property
    def width(self) -> int:
        return self.shape[-1] if self.shape else 1

    @property
    def marks_bytes(self) -> int:
        return _marks_bytes(self.rows) if self.marked else 0

    def nbytes(self, rows: int) -> int:
        element_bytes = _DTYPES[self.dtype].itemsize
        return self.marks_bytes + encoded_bytes(self.codec, rows, self.width, element_bytes)


_MANIFEST = TypeAdapter(list[_Described])


def pack(
    tensors: Mapping[str, Tensor], codec: Codec = "fp32", rows: Tensor | None = None
) -> Packed:
    """Describe tensors (fp32 or bf16) and give their bytes, one buffer each, in the given order.

    The manifest has plain values only: [{"name": …, "dtype": "float32", "shape": [8, 32, 576]}, …].
    `rows`, bool of the tensors' shape but for the last dimension, marks what is sent of them; all
    is, without. The buffers may be views of the tensors' memory, which must not change before they
    are sent; a tensor is copied if it is not contiguous, is encoded, or goes in part. Raises
    ProtocolError for another dtype.
    """
    manifest: list[dict[str, Any]] = []
    buffers: list[memoryview] = []
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise ProtocolError(f"{name} is {tensor.dtype}: only float32 and bfloat16 are sent")
        shape = list(tensor.shape)
        described: dict[str, Any] = {
            "name": name,
            "dtype": _NAMES[tensor.dtype],
            "shape": shape,
        }
        if codec != "fp32":
            described["codec"] = codec
        values = tensor.detach().reshape(prod(shape[:-1]), shape[-1] if shape else 1)
        if rows is None:
            raw = encode(values, codec)
        else:
            described["marked"] = True
            marked = rows.reshape(-1).nonzero().squeeze(1)
            raw = torch.cat([_marks(rows), encode(values.index_select(0, marked), codec)])
        manifest.append(described)
        buffers.append(raw.numpy().data)
    return Packed(manifest, buffers)


def unpack(
    manifest: object,
    buffers: Sequence[Buffer | bytearray],
    *,
    limit_bytes: int = MOST_BYTES,
) -> dict[str, Tensor]:
    """Make tensors of a manifest and buffers that `pack` made, in the dtypes they had there.

    Where nothing was encoded or left out they stand on the buffers' own memory. They must not be
    written to: memory that the network gave may be read-only. Raises ProtocolError if the manifest
    is malformed, names a tensor twice, does not fit the number or the sizes of the buffers, or what
    is in these is none of what `pack` writes; or if a tensor with rows left out would take more
    than `limit_bytes`.
    """
    tensors: dict[str, Tensor] = {}
    for entry, view in _entries(manifest, buffers):
        dtype, width = _DTYPES[entry.dtype], entry.width
        marked, encoded = _divide(entry, view)
        count = entry.rows if marked is None else len(marked)
        try:
            values = decode(_on(encoded), entry.codec, count, width, dtype)
        except CodecError as error:
            raise ProtocolError(f"{entry.name} is not encoded in {entry.codec}: {error}") from None
        if marked is not None:
            whole_bytes = entry.rows * width * dtype.itemsize
            if whole_bytes > limit_bytes:
                raise ProtocolError(
                    f"{entry.name} {entry.shape} would be {whole_bytes:,} bytes, more than the "
                    f"{limit_bytes:,} allowed"
                )
            whole = torch.zeros(entry.rows, width, dtype=dtype)
            values = whole.index_copy_(0, torch.from_numpy(marked), values)
        tensors[entry.name] = values.view(entry.shape)
    return tensors


def written(
    manifest: object, buffers: Sequence[Buffer | bytearray], name: str
) -> tuple[Codec, Tensor | None]:
    """How this tensor of a message was packed, so that the answer can be: its codec and its rows.

    Rows are bool of its shape but for the last dimension, None where all were sent. Raises
    ProtocolError as `unpack` does, and if there is no such tensor.
    """
    for entry, view in _entries(manifest, buffers):
        if entry.name == name:
            marked, _ = _divide(entry, view)
            if marked is None:
                return entry.codec, None
            rows = torch.zeros(entry.rows, dtype=torch.bool)
            rows[torch.from_numpy(marked)] = True
            return entry.codec, rows.view(entry.shape[:-1])
    raise ProtocolError(f"there is no {name} among what came")


def touched(gradient: Tensor) -> Tensor:
    """The rows of a gradient [b, t, h] that are not zero throughout, bool [b, t]."""
    if not gradient.numel():
        return torch.zeros(gradient.shape[:-1], dtype=torch.bool)
    return gradient.detach().abs().amax(-1) != 0


def _entries(
    manifest: object, buffers: Sequence[Buffer | bytearray]
) -> Iterator[tuple[_Described, memoryview]]:
    """What a message describes, each with its buffer."""
    try:
        described = _MANIFEST.validate_python(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ProtocolError(f"malformed manifest of tensors: {place}: {first['msg']}") from None
    if len(described) != len(buffers):
        raise ProtocolError(f"{len(described)} tensors are described and {len(buffers)} came")
    names: set[str] = set()
    for entry, buffer in zip(described, buffers, strict=True):
        if entry.name in names:
            raise ProtocolError(f"{entry.name} is described twice")
        names.add(entry.name)
        view = memoryview(buffer)
        yield entry, view.cast("B") if view.nbytes else memoryview(b"")


def _divide(entry: _Described, view: memoryview) -> tuple[np.ndarray | None, memoryview]:
    """The numbers of the rows that are there (None: all), and their bytes, of the right size."""
    marked = None
    if entry.marked and entry.marks_bytes <= view.nbytes:
        bits = np.frombuffer(view[: entry.marks_bytes], dtype=np.uint8)
        marked = np.unpackbits(bits).nonzero()[0]
        if len(marked) and marked[-1] >= entry.rows:
            raise ProtocolError(f"{entry.name} {entry.shape} has no row {marked[-1]}")
    expected = entry.nbytes(entry.rows if marked is None else len(marked))
    if view.nbytes != expected:
        raise ProtocolError(
            f"{entry.name} should be {expected} bytes ({entry.dtype} {entry.shape} in "
            f"{entry.codec}), not {view.nbytes}"
        )
    return marked, view[entry.marks_bytes :]


def _marks_bytes(rows: int) -> int:
    return -(-rows // _WORD_BITS) * (_WORD_BITS // 8)


def _marks(rows: Tensor) -> Tensor:
    """Which rows are there, a bit each, the first bit the highest of its byte."""
    bits = np.zeros(_marks_bytes(rows.numel()), dtype=np.uint8)
    given = np.packbits(rows.reshape(-1).numpy())
    bits[: len(given)] = given
    return torch.from_numpy(bits)


class _ReadOnly:
    """A read-only buffer as numpy takes memory: torch warns of what is marked as not writable."""

    def __init__(self, view: memoryview) -> None:
        array = np.frombuffer(view, dtype=np.uint8)
        self._owner = array
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": array.shape,
            "data": (array.__array_interface__["data"][0], False),
        }


def _on(view: memoryview) -> Tensor:
    """A flat uint8 tensor on a buffer's memory, which it keeps alive."""
    if not view.nbytes:
        return torch.empty(0, dtype=torch.uint8)
    return torch.from_numpy(np.asarray(_ReadOnly(view)))
