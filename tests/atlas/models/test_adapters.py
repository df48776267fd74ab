"""Adapters are PEFT's own, whole or in parts, and the same for the same seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from atlas.models import (
    LoraSettings,
    ModelSpec,
    Range,
    initial_adapter,
    join_adapters,
    load_adapter,
    save_adapter,
    slice_adapter,
    whole_model,
)
from topologies import InputError

from .conftest import trained

# PEFT asks transformers for an attribute by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TOKENS = torch.tensor([[5, 3, 60, 22, 9], [1, 95, 4, 4, 0]])


def test_a_is_uniform_by_name_and_b_is_zero(spec: ModelSpec, lora: LoraSettings) -> None:
    state = initial_adapter(spec, lora, seed=7)
    assert len(state) == spec.layers * len(lora.targets) * 2
    for name, tensor in state.items():
        if ".lora_B." in name:
            assert not tensor.any()
        else:
            bound = tensor.shape[1] ** -0.5
            assert 0.8 * bound < tensor.abs().max() <= bound
    first, second = (
        state[f"base_model.model.model.layers.{n}.self_attn.q_proj.lora_A.weight"] for n in (0, 1)
    )
    assert not torch.equal(first, second)


def test_an_initial_adapter_depends_on_its_seed_alone(spec: ModelSpec, lora: LoraSettings) -> None:
    one = initial_adapter(spec, lora, seed=7)
    torch.manual_seed(3)
    again, other = initial_adapter(spec, lora, seed=7), initial_adapter(spec, lora, seed=8)
    names = [name for name in one if ".lora_A." in name]
    assert all(torch.equal(one[name], again[name]) for name in names)
    assert not any(torch.equal(one[name], other[name]) for name in names)


def test_parts_join_to_the_whole_in_any_order(spec: ModelSpec, lora: LoraSettings) -> None:
    state = trained(spec, lora, seed=1)
    parts = [slice_adapter(state, Range(*ends)) for ends in ((2, 4), (0, 1), (1, 2))]
    joined = join_adapters(parts)
    assert list(joined) == list(state)
    assert all(joined[name] is state[name] for name in state)
    with pytest.raises(ValueError, match="two parts"):
        join_adapters([*parts, parts[0]])


def test_peft_loads_a_saved_adapter_and_computes_the_same(
    spec: ModelSpec, lora: LoraSettings, tmp_path: Path
) -> None:
    state = trained(spec, lora, seed=1)
    save_adapter(state, tmp_path, spec, lora)
    base = AutoModelForCausalLM.from_pretrained(spec.folder)
    model = PeftModel.from_pretrained(base, tmp_path)
    result = model.load_adapter(tmp_path, "again")
    assert not [key for key in result.missing_keys if "lora" in key]
    assert not result.unexpected_keys
    with torch.no_grad():
        theirs = model.eval()(input_ids=TOKENS).logits
        ours = whole_model(spec, lora, state)(input_ids=TOKENS).logits
        plain = AutoModelForCausalLM.from_pretrained(spec.folder)(input_ids=TOKENS).logits
    assert torch.equal(theirs, ours)
    assert not torch.equal(theirs, plain)


def test_an_adapter_that_peft_saved_is_read(
    spec: ModelSpec, lora: LoraSettings, tmp_path: Path
) -> None:
    state = trained(spec, lora, seed=1)
    save_adapter(state, tmp_path / "ours", spec, lora)
    base = AutoModelForCausalLM.from_pretrained(spec.folder)
    PeftModel.from_pretrained(base, tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        read = load_adapter(tmp_path / folder, spec, lora)
        assert list(read) == list(state)
        assert all(torch.equal(read[name], state[name]) for name in state)


def test_the_same_adapter_is_the_same_bytes_in_any_order(
    spec: ModelSpec, lora: LoraSettings, tmp_path: Path
) -> None:
    state = trained(spec, lora, seed=1)
    save_adapter(state, tmp_path / "one", spec, lora)
    save_adapter(dict(reversed(state.items())), tmp_path / "other", spec, lora)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text(encoding="utf-8"))
    # PEFT keeps targets as a set, whose order the hash seed decides.
    assert config["target_modules"] == sorted(lora.targets)


def test_an_adapter_that_does_not_fit_is_refused(
    spec: ModelSpec, lora: LoraSettings, tmp_path: Path
) -> None:
    state = trained(spec, lora, seed=1)
    with pytest.raises(ValueError, match="not the whole model's"):
        save_adapter(slice_adapter(state, Range(0, 2)), tmp_path, spec, lora)
    with pytest.raises(InputError, match="can't be read"):
        load_adapter(tmp_path / "nowhere", spec, lora)
    save_adapter(state, tmp_path, spec, lora)
    with pytest.raises(InputError, match="does not fit"):
        load_adapter(tmp_path, spec, LoraSettings(rank=4))


@pytest.mark.parametrize("rslora", [False, True])
def test_frozen_pairs_are_saved_as_part_of_an_adapter_that_peft_loads(
    spec: ModelSpec, lora: LoraSettings, tmp_path: Path, rslora: bool
) -> None:
    lora = lora.model_copy(update={"rslora": rslora})
    state, frozen = trained(spec, lora, seed=1), {}
    for number, (name, tensor) in enumerate(trained(spec, lora, seed=2).items()):
        if number // 2:  # one projection has none, and one has a pair of a lower rank
            kept = 1 if number // 2 == 1 else 3
            frozen[name] = tensor[:kept] if ".lora_A." in name else tensor[:, :kept]

    save_adapter(state, tmp_path, spec, lora, frozen=frozen)
    base = AutoModelForCausalLM.from_pretrained(spec.folder)
    with torch.no_grad():
        without = whole_model(spec, lora, state)(TOKENS).logits
        expected = whole_model(spec, lora, state, frozen)(TOKENS).logits
        found = PeftModel.from_pretrained(base, tmp_path).eval()(TOKENS).logits

    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == lora.rank + 3
    assert (expected - without).abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
