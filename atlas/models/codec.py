"""How a hidden state or its gradient is written in fewer bytes.

Three ways. `fp32` is the tensor as the model computes it, bit for bit (so bf16 in a bf16 model).
`bf16` rounds each value. `int8` rounds each token's values to 127 steps either way of that token's
own scale, but for the few channels with the largest values, which are kept as they are: language
models have some whose values are a hundred times all others' (Dettmers et al., LLM.int8(), 2022),
and a scale that has to reach them leaves nothing for the rest.

All is a pure function of one tensor, the same bits each time: ties go to the lower channel, halves
are rounded to even. No value raises an error. What is not finite passes as it is; `int8` keeps the
channels that have such values before all others, and where there are more than it keeps, they make
NaN of their token, as the next matrix product would have done.
"""

from __future__ import annotations

from math import prod
from typing import Literal

import torch
from torch import Tensor

from atlas.models.spec import ModelSpec

Codec = Literal["fp32", "bf16", "int8"]
CODECS: tuple[Codec, ...] = ("fp32", "bf16", "int8")
"""From the most bytes to the fewest."""
KEPT = 8
"""Channels of a tensor that `int8` keeps as they are, at most one in eight."""
LEVELS = 127
SHARE = 0.1
"""The most that crossings may add to a step's computation before a coarser codec is chosen."""


class CodecError(ValueError):
    """Bytes that no tensor is encoded in."""


def encode(values: Tensor, codec: Codec) -> Tensor:
    """Tokens [n, h] in fp32 or bf16 → their bytes, uint8 [encoded_bytes].

    Not copied where nothing changes and the memory is contiguous.
    """
    if _as_is(codec, values.dtype):
        return _raw(values)
    if codec == "bf16":
        return _raw(values.to(torch.bfloat16))
    count, width = values.shape
    out = torch.empty(encoded_bytes(codec, count, width, values.dtype.itemsize), dtype=torch.uint8)
    channels, scales, kept, steps = _parts(out, count, width, values.dtype)
    rest = values.to(torch.float32, copy=True)
    largest = _largest(rest, 0).nan_to_num(torch.inf, torch.inf)
    channels.copy_(torch.argsort(largest, descending=True, stable=True)[: len(channels)].sort()[0])
    kept.copy_(values[:, channels])
    rest[:, channels] = 0.0
    span = _largest(rest, 1)
    scales.copy_(torch.where(span.isfinite(), span / LEVELS, torch.nan))
    rest /= torch.where(scales > 0, scales, 1.0)[:, None]
    steps.copy_(rest.round_().clamp_(-LEVELS, LEVELS).nan_to_num_(0.0))
    return out


def decode(raw: Tensor, codec: Codec, count: int, width: int, dtype: torch.dtype) -> Tensor:
    """Bytes that `encode` made, uint8 of the size of `encoded_bytes`, → tokens [n, h] in `dtype`.

    Raises CodecError where channels or scales are none that `encode` writes.
    """
    if _as_is(codec, dtype):
        return raw.view(dtype).view(count, width)
    if codec == "bf16":
        return raw.view(torch.bfloat16).view(count, width).to(dtype)
    channels, scales, kept, steps = _parts(raw, count, width, dtype)
    listed = channels.tolist()
    if listed != sorted(set(listed)) or any(not 0 <= channel < width for channel in listed):
        raise CodecError(f"the channels kept are {listed} of {width}")
    if bool((scales.isinf() | (scales < 0)).any()):
        raise CodecError("a scale is negative or infinite")
    values = (steps * scales[:, None]).to(dtype)
    values[:, listed] = kept
    return values


def encoded_bytes(codec: Codec, count: int, width: int, element_bytes: int) -> int:
    """Bytes of `count` tokens of `width` channels of a model of `element_bytes` a value.

    In `int8` n(h + 4 + ke) + 4k bytes: steps, scales and the k kept channels, and which they are.
    """
    if codec == "int8":
        kept = _kept(width)
        return count * (width + 4 + kept * element_bytes) + 4 * kept
    return count * width * (min(2, element_bytes) if codec == "bf16" else element_bytes)


def boundary_bytes(spec: ModelSpec, codec: Codec, batch: int, tokens: int) -> int:
    """Bytes of one hidden state, or of its gradient, that crosses with no padding to leave out."""
    return encoded_bytes(codec, batch * tokens, spec.hidden, spec.element_bytes)


def choose(
    spec: ModelSpec,
    batch: int,
    tokens: int,
    *,
    spans: int,
    uplink_bps: float,
    downlink_bps: float,
    computation_s: float,
) -> Codec:
    """The first codec with which a step's crossings take at most `SHARE` of its computation.

    Each span is crossed to and from in both directions. Where no codec is enough, the smallest.
    """
    per_byte_s = spans * 2 * 8 * (1 / uplink_bps + 1 / downlink_bps)
    sizes = {codec: boundary_bytes(spec, codec, batch, tokens) for codec in CODECS}
    for codec, size_bytes in sizes.items():
        if per_byte_s * size_bytes <= SHARE * computation_s:
            return codec
    return min(CODECS, key=lambda codec: sizes[codec])


def _kept(width: int) -> int:
    return min(KEPT, width // 8)


def _as_is(codec: Codec, dtype: torch.dtype) -> bool:
    return codec == "fp32" or (codec == "bf16" and dtype == torch.bfloat16)


def _raw(values: Tensor) -> Tensor:
    return values.contiguous().reshape(-1).view(torch.uint8)


def _parts(
    raw: Tensor, count: int, width: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Views of what `int8` writes.

    Channels kept, int32 [k] rising; scales, fp32 [n]; values kept, [n, k]; steps, int8 [n, h].
    """
    kept = _kept(width)
    layout: tuple[tuple[torch.dtype, tuple[int, ...]], ...] = (
        (torch.int32, (kept,)),
        (torch.float32, (count,)),
        (dtype, (count, kept)),
        (torch.int8, (count, width)),
    )
    views, offset = [], 0
    for kind, shape in layout:
        size = prod(shape) * kind.itemsize
        views.append(raw[offset : offset + size].view(kind).view(shape))
        offset += size
    return views[0], views[1], views[2], views[3]


def _largest(values: Tensor, dimension: int) -> Tensor:
    """Largest magnitudes along a dimension; zeros where there are no values. NaN wins."""
    if not values.numel():
        return values.new_zeros(values.shape[1 - dimension])
    return values.abs().amax(dimension)
