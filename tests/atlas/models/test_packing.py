"""Positions after a row's last label need not cross: a step without them has the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from atlas.models import LoraSettings, ModelSpec, Range, Session, Stage
from atlas.models.codec import CODECS, Codec
from atlas.models.tensors import ProtocolError, pack, touched, unpack, written
from atlas.tasks import Batch

from .conftest import CONFIGS, trained

LENGTHS = (3, 9, 12, 1)


def batch(vocabulary: int) -> Batch:
    """Rows of different lengths, whatever behind them."""
    tokens = torch.randint(0, vocabulary, (4, 12), generator=torch.Generator().manual_seed(1))
    targets = torch.full_like(tokens, -100)
    for row, length in enumerate(LENGTHS):
        targets[row, max(0, length - 2) : length] = tokens[row, :length][-2:]
    return Batch(tokens, targets)


def stages(spec: ModelSpec, lora: LoraSettings) -> list[Stage]:
    """A client's and two hosts'."""
    return [
        Stage.load(spec, Range(0, 1), ends=True, lora=lora),
        Stage.load(spec, Range(1, 2), lora=lora),
        Stage.load(spec, Range(2, 4), lora=lora),
    ]


def step(held: list[Stage], codec: Codec, *, packed: bool) -> tuple[float, dict[str, Tensor], int]:
    """Loss, LoRA gradients and bytes sent of one step."""
    spec, lora = held[0].spec, held[0].lora
    state = trained(spec, lora, 3)
    client, *hosts = [Session(stage, state, learning_rate=1e-2) for stage in held]
    given = batch(spec.vocabulary)
    sent = 0

    def cross(tensor: Tensor, rows: Tensor) -> Tensor:
        nonlocal sent
        manifest, buffers = pack({"x": tensor}, codec, rows if packed else None)
        sent += sum(memoryview(buffer).nbytes for buffer in buffers)
        return unpack(manifest, buffers)["x"].clone()

    hidden = cross(client.embed(given.tokens), given.needed)
    for host in hosts:
        hidden = cross(host.forward(hidden), given.needed)
    loss, gradient = client.loss(hidden, given.targets)
    for host in reversed(hosts):
        gradient = host.backward(cross(gradient, touched(gradient)))
        assert gradient is not None
    client.backward(cross(gradient, touched(gradient)))
    gradients = {
        name: value.clone()
        for session in (client, *hosts)
        for name, value in session.gradients().items()
    }
    return loss, gradients, sent


@pytest.mark.parametrize("family", CONFIGS)
def test_leaving_out_what_follows_the_last_label_changes_no_bit_of_loss_and_gradients(
    family: str, folder_of: Callable[[str], Path], lora: LoraSettings
) -> None:
    held = stages(ModelSpec.read(folder_of(family)), lora)
    loss, gradients, sent = step(held, "fp32", packed=False)
    packed_loss, packed_gradients, packed_sent = step(held, "fp32", packed=True)
    assert packed_loss == loss
    assert list(packed_gradients) == list(gradients)
    for name, gradient in gradients.items():
        assert gradient.any()
        assert torch.equal(packed_gradients[name], gradient), name
    assert packed_sent < 0.6 * sent


@pytest.mark.parametrize(("codec", "error"), [("bf16", 0.02), ("int8", 0.05)])
def test_gradients_through_a_coarser_codec_are_near_the_exact_ones(
    codec: Codec, error: float, spec: ModelSpec, lora: LoraSettings
) -> None:
    held = stages(spec, lora)
    _, exact, whole = step(held, "fp32", packed=True)
    _, found, sent = step(held, codec, packed=True)
    flat = [torch.cat([value.reshape(-1) for value in some.values()]) for some in (exact, found)]
    assert 0 < (flat[1] - flat[0]).norm() < error * flat[0].norm()
    assert sent < 0.7 * whole


@pytest.mark.parametrize("codec", CODECS)
def test_rows_that_are_not_marked_arrive_as_zeros_and_the_marks_with_them(codec: Codec) -> None:
    values = torch.arange(1.0, 121.0).view(2, 5, 12)
    rows = torch.tensor([[True] * 5, [True, False, True, False, False]])
    packed = pack({"hidden": values}, codec, rows)
    found = unpack(*packed)["hidden"]
    assert torch.equal(touched(found), rows)
    alone = pack({"hidden": values[rows]}, codec)
    assert torch.equal(found[rows], unpack(*alone)["hidden"])
    assert packed.manifest[0]["shape"] == [2, 5, 12]
    said, marked = written(*packed, "hidden")
    assert said == codec
    assert marked is not None
    assert torch.equal(marked, rows)
    assert written(*alone, "hidden") == (codec, None)


def test_what_was_packed_of_an_answer_is_packed_of_it_again() -> None:
    values = torch.randn(3, 7, 40, generator=torch.Generator().manual_seed(0))
    rows = values[..., 0] > 0
    once = pack({"hidden": values}, "int8", rows)
    codec, marked = written(*once, "hidden")
    again = pack({"hidden": values}, codec, marked)
    assert again.manifest == once.manifest
    assert [bytes(buffer) for buffer in again.buffers] == [bytes(part) for part in once.buffers]


def test_few_bytes_do_not_become_a_tensor_larger_than_is_allowed() -> None:
    nothing = torch.zeros(64, 64, 1000)
    manifest, buffers = pack({"hidden": nothing}, rows=touched(nothing))
    assert sum(memoryview(buffer).nbytes for buffer in buffers) == 64 * 64 / 8
    assert not unpack(manifest, buffers, limit_bytes=nothing.nbytes)["hidden"].any()
    with pytest.raises(ProtocolError, match="more than the 16,383,999 allowed"):
        unpack(manifest, buffers, limit_bytes=nothing.nbytes - 1)


def test_a_mark_beyond_the_last_row_is_refused() -> None:
    manifest, _ = pack({"x": torch.zeros(3, 2)}, rows=torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ProtocolError, match="has no row 3"):
        unpack(manifest, [bytes([0b00010000]) + bytes(7 + 8)])


def test_positions_up_to_the_last_label_of_their_row_are_needed() -> None:
    given = batch(50)
    expected = [[position < length for position in range(12)] for length in LENGTHS]
    assert given.needed.tolist() == expected
