"""What a part costs is known beforehand: bytes that can be counted, FLOPs as torch counts them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from atlas.models import LoraSettings, ModelSpec, Range, Session, Stage, costs, initial_adapter

from .conftest import CONFIGS

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TARGETS = [("q_proj", "v_proj"), ALL, ("down_proj",), ("o_proj", "up_proj")]
# Rows are shorter than Mistral's window here, which is 4: beyond it there is a mask to keep too.
BATCH, TOKENS, LAYERS = 20, 3, Range(1, 4)


@pytest.mark.parametrize("family", sorted(CONFIGS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("targets", TARGETS)
def test_what_backward_needs_is_what_the_formula_says(
    family: str,
    dtype: torch.dtype,
    targets: tuple[str, ...],
    folder_of: Callable[[str], Path],
) -> None:
    spec, lora = ModelSpec.read(folder_of(family), dtype), LoraSettings(targets=targets)
    stage = Stage.load(spec, LAYERS, lora=lora)
    session = Session(stage, initial_adapter(spec, lora, 0), learning_rate=1.0)
    known = {
        p.untyped_storage().data_ptr()
        for p in stage._pool.free[0].front.parameters()
        if not p.is_meta
    }
    known |= {p.untyped_storage().data_ptr() for p in session.parameters.values()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        session.forward(torch.randn(BATCH, TOKENS, spec.hidden).to(dtype))
    measured = sum(saved.values()) / (BATCH * TOKENS * len(LAYERS))
    # Beside the formula: a few statistics per head and norm, and the rotary tables.
    assert 0 <= measured - costs.saved_bytes(spec, lora) < 100


def test_a_lora_element_costs_sixteen_bytes(spec: ModelSpec, lora: LoraSettings) -> None:
    state = initial_adapter(spec, lora, 0)
    assert costs.lora_parameters(spec, lora, spec.whole) == sum(t.numel() for t in state.values())
    assert costs.adapter_bytes(spec, lora, spec.whole) == sum(t.nbytes for t in state.values())


@pytest.mark.parametrize("targets", TARGETS)
def test_flops_are_those_that_torch_counts(spec: ModelSpec, targets: tuple[str, ...]) -> None:
    lora = LoraSettings(targets=targets)
    session = Session(
        Stage.load(spec, LAYERS, lora=lora), initial_adapter(spec, lora, 0), learning_rate=1.0
    )
    hidden = torch.randn(BATCH, TOKENS, spec.hidden)
    with FlopCounterMode(display=False) as forward:
        output = session.forward(hidden)
    with FlopCounterMode(display=False) as backward:
        session.backward(output)
    attention = 4 * BATCH * TOKENS * TOKENS * spec.query_width * len(LAYERS)
    # torch counts attention on the CPU as nothing.
    expected = costs.forward_flops(spec, lora, LAYERS, BATCH, TOKENS)
    assert forward.get_total_flops() in (expected, expected - attention)
    expected = costs.backward_flops(spec, lora, LAYERS, BATCH, TOKENS)
    assert backward.get_total_flops() in (expected, expected - 2 * attention)


def test_the_whole_is_more_than_any_part_and_labels_cost(
    spec: ModelSpec, lora: LoraSettings
) -> None:
    shape = (BATCH, TOKENS)
    whole = costs.whole_step_bytes(spec, lora, *shape)
    assert costs.ends_bytes(spec, lora, Range(0, 1), *shape) < whole
    few = costs.whole_step_bytes(spec, lora, *shape, labels=1)
    assert whole - few == (BATCH * TOKENS - 1) * spec.vocabulary * 12
