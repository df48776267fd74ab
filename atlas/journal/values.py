"""Values as the journal knows them: a digest of what goes in, and bytes of what comes out.

A digest is of content alone. Mappings are taken in the order of their keys, since adapters are
looked up by name; paths are left out, since where a model lies is not what it is. What comes out is
numbers, texts and tensors, in tuples and mappings; tensors are kept as they are in memory, and bit
for bit come back.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgpack
import torch
from pydantic import BaseModel
from torch import Tensor

DIGEST_BYTES = 32
_TENSOR = 1
ALIGNED = 64
_LENGTH = struct.Struct("<Q")


def digest(*things: object) -> bytes:
    """A digest of these values, `DIGEST_BYTES` long: equal for equal content, and for no other.

    Raises TypeError for a value of a kind that it doesn't know.
    """
    total = blake2b(digest_size=DIGEST_BYTES)
    _feed(total.update, things)
    return total.digest()


def _feed(update: Callable[[Any], None], thing: object) -> None:
    """Each value with its kind and its length in front, so that no two read alike."""
    match thing:
        case None | bool() | int() | float() | torch.dtype():
            update(f"{type(thing).__name__}:{thing!r};".encode())
        case str() | bytes():
            raw = thing.encode() if isinstance(thing, str) else thing
            update(f"{type(thing).__name__}:{len(raw)}:".encode())
            update(raw)
        case Tensor():
            update(f"tensor:{thing.dtype}:{list(thing.shape)}:".encode())
            update(_raw(thing))
        case Mapping():
            update(f"mapping:{len(thing)}:".encode())
            for key in sorted(thing):
                _feed(update, key)
                _feed(update, thing[key])
        case Sequence():
            update(f"sequence:{len(thing)}:".encode())
            for item in thing:
                _feed(update, item)
        case Path():
            update(b"path;")
        case _:
            update(f"{type(thing).__name__}:".encode())
            _feed(update, _parts(thing))


def _parts(thing: object) -> object:
    """What a thing of a class of its own consists of. Raises TypeError where that isn't known."""
    if hasattr(thing, "digest"):
        return thing.digest
    if isinstance(thing, BaseModel):
        return thing.model_dump()
    if dataclasses.is_dataclass(thing):
        return {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
    raise TypeError(f"a {type(thing).__name__} has no digest")


def encode(value: object) -> bytes:
    """A value as bytes: what it is, then its tensors, each where memory is aligned.

    Raises TypeError for what is no number, text or tensor in tuples and mappings.
    """
    tensors: list[bytes | memoryview] = []
    size = 0

    def kept(item: object) -> object:
        nonlocal size
        if not isinstance(item, Tensor):
            raise TypeError(f"a {type(item).__name__} can't be kept")
        raw, name = _raw(item), str(item.dtype).removeprefix("torch.")
        what = msgpack.packb([name, list(item.shape), size])
        tensors.extend((raw, padding(raw.nbytes)))
        size += raw.nbytes + len(tensors[-1])
        return msgpack.ExtType(_TENSOR, what)

    head = msgpack.packb(value, default=kept)
    begin = _LENGTH.pack(len(head)) + head
    return b"".join([begin, padding(len(begin)), *tensors])


def padding(size_bytes: int) -> bytes:
    """What is missing behind so many bytes until memory is aligned again."""
    return bytes(-size_bytes % ALIGNED)


def decode(content: bytearray) -> Any:
    """The value that `encode` made these bytes of; its tensors stand on them."""
    (length,) = _LENGTH.unpack_from(content)
    end = _LENGTH.size + length
    first = end + len(padding(end))

    def tensor(_: int, what: bytes) -> Tensor:
        name, shape, offset = msgpack.unpackb(what)
        dtype, count = getattr(torch, name), math.prod(shape)
        if not count:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(content, dtype=dtype, count=count, offset=first + offset).view(
            shape
        )

    head = memoryview(content)[_LENGTH.size : end]
    return msgpack.unpackb(head, ext_hook=tensor, use_list=False)


def _raw(tensor: Tensor) -> memoryview:
    """A tensor's bytes as they lie in memory, in the order of its elements."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().data
