"""What an encoded tensor keeps to the bit, what it may lose, and what is no encoding at all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from atlas.models import ModelSpec
from atlas.models.codec import (
    CODECS,
    KEPT,
    Codec,
    CodecError,
    boundary_bytes,
    choose,
    decode,
    encode,
    encoded_bytes,
)

FLOATS = (torch.float32, torch.bfloat16)


def tokens(count: int, width: int, seed: int = 0) -> Tensor:
    """Hidden states with a few massive channels, as language models have."""
    values = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    values[:, ::9] *= 300
    return values


def there_and_back(values: Tensor, codec: Codec) -> Tensor:
    raw = encode(values, codec)
    assert raw.numel() == encoded_bytes(codec, *values.shape, values.dtype.itemsize)
    return decode(raw, codec, *values.shape, values.dtype)


@given(
    count=st.integers(0, 5),
    width=st.integers(1, 20),
    codec=st.sampled_from(CODECS),
    dtype=st.sampled_from(FLOATS),
)
def test_a_tensor_of_any_shape_comes_back_in_its_shape_and_dtype(
    count: int, width: int, codec: Codec, dtype: torch.dtype
) -> None:
    values = tokens(count, width).to(dtype)
    found = there_and_back(values, codec)
    assert found.shape == values.shape
    assert found.dtype == dtype
    if codec == "fp32" or (codec == "bf16" and dtype == torch.bfloat16):
        assert torch.equal(found, values)


def test_bf16_rounds_each_value_once() -> None:
    values = tokens(4, 30)
    assert torch.equal(there_and_back(values, "bf16"), values.bfloat16().float())


def test_int8_keeps_the_largest_channels_and_misses_others_by_half_a_step_at_most() -> None:
    values = tokens(50, 64)
    found = there_and_back(values, "int8")
    kept = values.abs().amax(0).argsort(descending=True)[:KEPT].sort()[0]
    assert kept.tolist() == list(range(0, 64, 9))
    assert torch.equal(found[:, kept], values[:, kept])
    rest = torch.ones(64, dtype=torch.bool).index_fill(0, kept, False)
    half_steps = values[:, rest].abs().amax(1, keepdim=True) / 127 / 2
    missed = (found - values)[:, rest].abs()
    assert (missed <= half_steps * 1.0001).all()
    assert missed.any()


def test_of_channels_of_the_same_magnitude_the_lower_are_kept() -> None:
    values = torch.full((3, 70), -2.5)
    values[:, 4:] = 2.5
    raw = encode(values, "int8")
    assert raw[: 4 * KEPT].view(torch.int32).tolist() == list(range(KEPT))
    assert torch.equal(decode(raw, "int8", 3, 70, torch.float32), values)


@pytest.mark.parametrize("codec", CODECS)
def test_equal_values_are_equal_bytes_wherever_they_lie_in_memory(codec: Codec) -> None:
    values = tokens(6, 40)
    elsewhere = values.T.contiguous().T
    assert torch.equal(encode(values, codec), encode(elsewhere, codec))
    assert torch.equal(values, tokens(6, 40)), "what is encoded is not written to"


@pytest.mark.parametrize("codec", CODECS)
def test_zeros_and_the_smallest_numbers_make_neither_errors_nor_larger_numbers(
    codec: Codec,
) -> None:
    values = torch.zeros(4, 30)
    values[1] = 1e-44
    values[2, 20] = 1e-38
    found = there_and_back(values, codec)
    assert torch.equal(found[0], values[0])
    assert (found.abs() <= 1.01 * values.abs().amax(1, keepdim=True)).all()


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_not_finite_passes_as_it_is(codec: Codec) -> None:
    values = tokens(5, 64)
    values[1, 9], values[2, 4], values[3, 5] = torch.inf, torch.nan, -torch.inf
    found = there_and_back(values, codec)
    assert torch.equal(found.isfinite(), values.isfinite())
    assert (found[1, 9], found[3, 5]) == (torch.inf, -torch.inf)
    assert found[2, 4].isnan()


def test_more_of_it_than_int8_can_keep_makes_nan_of_its_tokens_alone() -> None:
    values = tokens(5, 64)
    values[2, 20:50] = torch.nan
    values[3, 20:50] = torch.inf
    found = there_and_back(values, "int8")
    assert found[[0, 1, 4]].isfinite().all()
    assert not found[2:4, 20:50].isfinite().any()


@pytest.mark.parametrize(
    ("place", "changed"),
    [
        (0, torch.tensor([0, 0, 1, 2, 3, 4, 5, 6], dtype=torch.int32)),
        (0, torch.tensor([1, 0, 2, 3, 4, 5, 6, 7], dtype=torch.int32)),
        (0, torch.tensor([0, 1, 2, 3, 4, 5, 6, 64], dtype=torch.int32)),
        (0, torch.tensor([-1, 1, 2, 3, 4, 5, 6, 7], dtype=torch.int32)),
        (32, torch.tensor([torch.inf])),
        (32, torch.tensor([-1.0])),
    ],
)
def test_channels_and_scales_that_encode_does_not_write_are_refused(
    place: int, changed: Tensor
) -> None:
    raw = encode(tokens(2, 64), "int8")
    raw[place : place + 4 * len(changed)] = changed.view(torch.uint8)
    with pytest.raises(CodecError, match="channels kept" if place == 0 else "scale"):
        decode(raw, "int8", 2, 64, torch.float32)


def test_a_boundary_of_smollm2_takes_half_in_bf16_and_little_over_a_quarter_in_int8(
    spec: ModelSpec,
) -> None:
    whole = encoded_bytes("fp32", 512, 576, 4)
    assert whole == 512 * 576 * 4
    assert encoded_bytes("bf16", 512, 576, 4) == whole / 2
    assert encoded_bytes("int8", 512, 576, 4) == 512 * (576 + 4 + 8 * 4) + 32
    assert boundary_bytes(spec, "fp32", 4, 10) == 4 * 10 * spec.hidden * 4


def test_the_slower_the_way_the_fewer_bytes_are_chosen(spec: ModelSpec) -> None:
    def at(bps: float, computation_s: float = 1.0) -> Codec:
        return choose(
            spec, 8, 40, spans=1, uplink_bps=bps, downlink_bps=bps, computation_s=computation_s
        )

    crossings_bits = 4 * 8 * boundary_bytes(spec, "fp32", 8, 40)
    assert at(10.01 * crossings_bits) == "fp32"
    assert at(9.99 * crossings_bits) == "bf16"
    assert at(4.99 * crossings_bits) == at(1.0) == "int8"
    assert at(4.99 * crossings_bits, computation_s=3.0) == "fp32"
