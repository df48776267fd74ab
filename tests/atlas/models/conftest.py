"""Small models of each family, and an adapter that is not at its start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from atlas.models import AdapterState, LoraSettings, ModelSpec, initial_adapter

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama-untied": lambda: LlamaConfig(**SHAPE, attention_bias=True),
    "mistral": lambda: MistralConfig(**SHAPE, sliding_window=4),
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=16),
}


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes the folder of a random model of a family, once."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = AutoModelForCausalLM.from_config(CONFIGS[family]())
                for parameter in model.parameters():
                    torch.nn.init.normal_(
                        parameter, mean=0.0 if parameter.dim() > 1 else 1.0, std=0.2
                    )
            model.save_pretrained(folder)
            made[family] = folder
        return made[family]

    return make


@pytest.fixture
def spec(folder_of: Callable[[str], Path]) -> ModelSpec:
    """A Llama of four layers with a tied head, in fp32."""
    return ModelSpec.read(folder_of("llama"))


@pytest.fixture
def lora() -> LoraSettings:
    return LoraSettings(rank=3, alpha=5, targets=("q_proj", "v_proj", "down_proj"))


def trained(spec: ModelSpec, lora: LoraSettings, seed: int) -> AdapterState:
    """An adapter whose B is not zero, so that A gets gradients."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in initial_adapter(spec, lora, seed).items()
    }
