"""What a model is, read from its folder's `config.json` without touching a weight.

`ModelSpec` is what everything else in this room is a function of: which class, how many layers, how
wide, in which dtype it runs. `Range` names layers by their number in the whole model, everywhere
and always.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from transformers import AutoConfig, PretrainedConfig

from topologies import InputError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Families whose cut is tested to be exact; others are refused by name."""

DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True, order=True)
class Range:
    """Layers `first` … `last` - 1 of the whole model, counted from 0."""

    first: int
    last: int

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last:
            raise ValueError(
                f"layers {self.first} to {self.last} are no range: 0 <= first <= last is"
            )

    def __len__(self) -> int:
        return self.last - self.first

    def __contains__(self, layer: int) -> bool:
        return self.first <= layer < self.last


@dataclass(frozen=True)
class ModelSpec:
    """The shape of one causal language model in one folder, run in one dtype.

    `hidden`, `intermediate` and `vocabulary` are widths in elements; `query_width` and
    `key_value_width` are those of all heads' queries, and of their keys (and as many values), of
    one token: grouped-query attention makes the latter narrower. `tied` means that the head's
    matrix is the embedding's. `small` counts the elements of one layer that are in no matrix: norms
    and biases. `head_norms` says whether queries and keys are normalized.
    """

    folder: Path
    family: str
    layers: int
    hidden: int
    intermediate: int
    query_width: int
    key_value_width: int
    vocabulary: int
    tied: bool
    small: int
    head_norms: bool
    dtype: torch.dtype

    @classmethod
    def read(cls, folder: Path | str, dtype: torch.dtype = torch.float32) -> Self:
        """Read the shape of the model in a folder, to be run in `dtype` (fp32 or bf16).

        Raises InputError if there is no readable `config.json`, if the family is none that can be
        cut exactly, or if the dtype is neither of the two.
        """
        folder = Path(folder)
        if dtype not in DTYPES:
            raise InputError(
                f"{dtype} is no dtype to train in", key="dtype", remedy="Use float32 or bfloat16"
            )
        config = read_config(folder)
        family = str(config.model_type)
        if family not in FAMILIES:
            raise InputError(
                f"models of the family {family!r} can't be cut: their exactness has not been shown",
                file=str(folder / "config.json"),
                key="model_type",
                remedy=f"Use a model of one of {', '.join(FAMILIES)}",
            )
        heads = int(config.num_attention_heads)
        hidden = int(config.hidden_size)
        head_width = int(getattr(config, "head_dim", None) or hidden // heads)
        query_width = head_width * heads
        key_value_width = head_width * int(getattr(config, "num_key_value_heads", None) or heads)
        head_norms = family == "qwen3"
        small = 2 * hidden + 2 * head_width * head_norms
        if family == "qwen2" or getattr(config, "attention_bias", False):
            small += query_width + 2 * key_value_width
            small += hidden * (family != "qwen2")
        return cls(
            folder=folder,
            family=family,
            layers=int(config.num_hidden_layers),
            hidden=hidden,
            intermediate=int(config.intermediate_size),
            query_width=query_width,
            key_value_width=key_value_width,
            vocabulary=int(config.vocab_size),
            tied=bool(config.tie_word_embeddings),
            small=small,
            head_norms=head_norms,
            dtype=dtype,
        )

    @property
    def whole(self) -> Range:
        """All layers."""
        return Range(0, self.layers)

    @property
    def element_bytes(self) -> int:
        """Bytes of one element of a weight or of a hidden state."""
        return self.dtype.itemsize


def read_config(folder: Path) -> PretrainedConfig:
    """Read a model folder's configuration, from the disk only.

    Raises InputError if the folder or its `config.json` is missing or can't be read.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise InputError(
            "there is no model here",
            file=str(file),
            remedy="Give a Hugging Face folder with config.json and model.safetensors",
        )
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise InputError(
            f"the model's configuration can't be read: {error}", file=str(file)
        ) from error
    assert isinstance(config, PretrainedConfig)
    return config
