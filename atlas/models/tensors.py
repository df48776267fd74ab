"""Tensors as they cross the network: a list of what they are, and their bytes as in memory.

Nothing is pickled and nothing is copied, neither on the way out nor on the way in: a tensor that
was unpacked stands on the received buffer and must not be written to. Bytes are in the order of
little-endian machines. What comes from outside is checked before a tensor is made of it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from math import prod
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from topologies import InputError

if sys.byteorder != "little":
    raise ImportError(
        "tensors cross the network in little-endian order, and this machine has another"
    )

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class ProtocolError(InputError):
    """What came from another node is not what the protocol allows."""


class _Described(BaseModel):
    """One tensor of a message."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(max_length=512)]
    dtype: Literal["float32", "bfloat16"]
    shape: Annotated[list[Annotated[int, Field(ge=0, lt=2**40)]], Field(max_length=8)]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * _DTYPES[self.dtype].itemsize


_MANIFEST = TypeAdapter(list[_Described])


def pack(tensors: Mapping[str, Tensor]) -> tuple[list[dict[str, object]], list[memoryview]]:
    """Describe tensors (fp32 or bf16) and give their bytes, one buffer each, in the given order.

    The manifest has plain values only: [{"name": …, "dtype": "float32", "shape": [8, 32, 576]}, …].
    The buffers are views of the tensors' memory, which must not change before they are sent; only a
    tensor that is not contiguous is copied. Raises ProtocolError for another dtype.
    """
    manifest: list[dict[str, object]] = []
    buffers: list[memoryview] = []
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise ProtocolError(f"{name} is {tensor.dtype}: only float32 and bfloat16 are sent")
        manifest.append({"name": name, "dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape)})
        raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        buffers.append(raw.data)
    return manifest, buffers


def unpack(
    manifest: object, buffers: Sequence[bytes | bytearray | memoryview]
) -> dict[str, Tensor]:
    """Make tensors of a manifest and buffers that `pack` made, on the buffers' own memory.

    They must not be written to: memory that the network gave may be read-only. Raises ProtocolError
    if the manifest is malformed, names a tensor twice, or does not fit the number or the sizes of
    the buffers.
    """
    try:
        described = _MANIFEST.validate_python(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ProtocolError(f"malformed manifest of tensors: {place}: {first['msg']}") from None
    if len(described) != len(buffers):
        raise ProtocolError(f"{len(described)} tensors are described and {len(buffers)} came")
    tensors: dict[str, Tensor] = {}
    for entry, buffer in zip(described, buffers, strict=True):
        view = memoryview(buffer)
        if entry.name in tensors:
            raise ProtocolError(f"{entry.name} is described twice")
        if view.nbytes != entry.nbytes:
            raise ProtocolError(
                f"{entry.name} should be {entry.nbytes} bytes ({entry.dtype} {entry.shape}), "
                f"not {view.nbytes}"
            )
        tensors[entry.name] = _on(view, _DTYPES[entry.dtype]).view(entry.shape)
    return tensors


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


def _on(view: memoryview, dtype: torch.dtype) -> Tensor:
    """A flat tensor on a buffer's memory, which it keeps alive."""
    if not view.nbytes:
        return torch.empty(0, dtype=dtype)
    return torch.from_numpy(np.asarray(_ReadOnly(view))).view(dtype)
