"""What a part costs is known beforehand: bytes that can be counted, FLOPs as torch counts them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from atlas.models import LoraSettings, ModelSpec, Range, Session, Stage, costs, initial_adapter
from atlas.models.saved import kept_bytes

from .conftest import CONFIGS
from .families import FAMILIES

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
    hidden = torch.randn(BATCH, TOKENS, spec.hidden).to(dtype)
    measured = kept(spec, lora, LAYERS, hidden) / (BATCH * TOKENS * len(LAYERS))
    # Beside the formula: a few statistics per head and norm, and the rotary tables.
    assert 0 <= measured - costs.saved_bytes(spec, lora, TOKENS) < 100


def kept(spec: ModelSpec, lora: LoraSettings, layers: Range, hidden: torch.Tensor) -> int:
    stage = Stage.load(spec, layers, lora=lora)
    return kept_bytes(Session(stage, initial_adapter(spec, lora, 0), learning_rate=1.0), hidden)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("fused", [False, True])
def test_dropout_and_the_fused_function_are_in_the_formula(
    dtype: torch.dtype, dropout: float, fused: bool, folder_of: Callable[[str], Path]
) -> None:
    spec = ModelSpec.read(folder_of("llama"), dtype)
    for targets in TARGETS:
        lora = LoraSettings(targets=targets, dropout=dropout, fused=fused)
        hidden = torch.randn(BATCH, TOKENS, spec.hidden).to(dtype)
        measured = kept(spec, lora, LAYERS, hidden)
        if fused and dtype is torch.bfloat16:  # LoRA's own values, which count as the session's
            measured -= 2 * costs.lora_parameters(spec, lora, LAYERS)
        measured /= BATCH * TOKENS * len(LAYERS)
        assert 0 <= measured - costs.saved_bytes(spec, lora, TOKENS) < 100, targets


@pytest.mark.parametrize("family", ["bloom", "falcon", "gemma3", "gpt2", "gpt_neo", "mpt", "phi3"])
def test_layers_of_other_families_are_counted_kind_by_kind(family: str, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(FAMILIES[family]()).save_pretrained(tmp_path)
    spec = ModelSpec.read(tmp_path)
    for lora in (
        LoraSettings(),
        LoraSettings(targets="all-linear", dropout=0.1),
        LoraSettings(targets="all-linear", dropout=0.1, fused=True),
    ):
        batch, tokens = 5, 24
        hidden = torch.randn(batch, tokens, spec.hidden)
        measured = kept(spec, lora, spec.whole, hidden)
        predicted = (
            batch
            * tokens
            * sum(costs.saved_bytes(spec, lora, tokens, layer) for layer in range(spec.layers))
        )
        # A mask and rotary tables that layers share are counted with each of them.
        assert measured <= predicted * 1.001
        assert predicted < measured * 1.1


def test_rows_longer_than_the_sliding_window_cost_what_is_counted(
    folder_of: Callable[[str], Path], lora: LoraSettings
) -> None:
    spec = ModelSpec.read(folder_of("mistral"))
    short, long = (costs.saved_bytes(spec, lora, tokens) for tokens in (4, 12))
    assert long > short
    measured = kept(spec, lora, Range(1, 2), torch.randn(3, 12, spec.hidden)) / 36
    # The tables that rows share weigh more where there are only two rows, as in the count.
    assert measured <= long < measured * 1.02


def test_a_host_without_the_optimizer_needs_half_for_lora(
    spec: ModelSpec, lora: LoraSettings
) -> None:
    whole, half = (
        costs.span_session_bytes(spec, LAYERS, lora, BATCH, TOKENS, optimizer=there)
        for there in (True, False)
    )
    assert whole - half == 8 * costs.lora_parameters(spec, lora, LAYERS)
    session = Session(
        Stage.load(spec, LAYERS, lora=lora), initial_adapter(spec, lora, 0), learning_rate=1.0
    )
    snapshot = sum(t.nbytes for t in session.snapshot().values())
    assert costs.state_bytes(spec, lora, LAYERS) == snapshot - 4  # the number of steps


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
