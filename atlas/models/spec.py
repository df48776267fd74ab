"""What a model is, read from its folder's `config.json` without touching a weight.

`ModelSpec` is what everything else in this room is a function of: which class, how many layers, how
wide, in which dtype it runs, where it can be cut. `Range` names layers by their number in the whole
model, everywhere and always.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from atlas.models import anatomy
from atlas.models.anatomy import Anatomy, CannotCutError
from topologies import InputError

FAMILIES = (
    "bloom",
    "cohere",
    "cohere2",
    "exaone4",
    "falcon",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm",
    "gpt2",
    "gpt_bigcode",
    "gpt_neo",
    "gpt_neox",
    "gptj",
    "granite",
    "llama",
    "mistral",
    "mpt",
    "nemotron",
    "olmo",
    "olmo2",
    "olmo3",
    "opt",
    "phi",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
    "stablelm",
    "starcoder2",
)
"""Families whose every cut is tested to be exact. Any other has to prove it when it is read."""

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
    """The shape of one model in one folder, run in one dtype.

    It is a causal language model, or with `classes` a sequence classifier of so many. `hidden`,
    `intermediate` and `vocabulary` are widths in elements; `query_width` and `key_value_width` are
    those of all heads' queries, and of their keys (and as many values), of one token: grouped-query
    attention makes the latter narrower. `tied` means that the head's matrix is the embedding's.
    `head_norms` says whether queries and keys are normalized, `transposed` whether matrices stand
    as [in, out] (GPT-2's Conv1D). Counted from the model's own class:
    `layer_elements` of one layer (of the largest, if they differ), `ends_elements` of all that
    stands in front of and behind the layers, and `projections`, what LoRA can be put on inside a
    layer: name, as PEFT's `target_modules` takes it → widths (in, out). `anatomy` says where it is
    cut.
    """

    folder: Path
    family: str
    classes: int | None
    layers: int
    hidden: int
    intermediate: int
    query_width: int
    key_value_width: int
    vocabulary: int
    tied: bool
    head_norms: bool
    transposed: bool
    layer_elements: int
    ends_elements: int
    projections: Mapping[str, tuple[int, int]] = field(hash=False)
    anatomy: Anatomy
    dtype: torch.dtype

    @classmethod
    def read(
        cls,
        folder: Path | str,
        dtype: torch.dtype = torch.float32,
        *,
        classes: int | None = None,
    ) -> Self:
        """Read the shape of the model in a folder, to be run in `dtype` (fp32 or bf16).

        With `classes` it is to be a sequence classifier of so many classes, also where the folder
        has a language model: its score head is then new. A family whose exactness is not tested
        here proves it now, once per process: a step of the whole model and of one cut at each
        layer, compared bit for bit, which takes the memory of the whole model.

        Raises InputError if there is no readable `config.json`, if the model is one that can't be
        cut exactly, with the reason, or if the dtype is neither of the two.
        """
        folder = Path(folder)
        if dtype not in DTYPES:
            raise InputError(
                f"{dtype} is no dtype to train in", key="dtype", remedy="Use float32 or bfloat16"
            )
        config = read_config(folder)
        try:
            spec = cls._measured(folder, config, dtype, classes)
        except CannotCutError as error:
            raise refusal(folder, str(config.model_type), str(error)) from error
        if spec.family not in FAMILIES:
            from atlas.models.proof import require_exact  # noqa: PLC0415 - it trains a model

            require_exact(spec)
        return spec

    @classmethod
    def _measured(
        cls, folder: Path, config: PretrainedConfig, dtype: torch.dtype, classes: int | None
    ) -> Self:
        """Everything that the model's own class, without storage, tells."""
        with anatomy.BUILDING:
            model = anatomy.on_meta(config, dtype, classes)
            layers = model.get_submodule(anatomy.layer_list(model))
            widths = anatomy.projections(layers)
            tied = bool(model.all_tied_weights_keys)
            sizes = [_elements(layer) for layer in layers.children()]
            ends = _elements(model) - sum(sizes)
            norms = any(name.endswith(".q_norm") for name, _ in layers.named_modules())
            transposed = any(isinstance(module, Conv1D) for module in layers.modules())
            found = anatomy.dissect(model)
        hidden = int(config.hidden_size)
        query = _query_width(config, widths)
        return cls(
            folder=folder,
            family=str(config.model_type),
            classes=classes,
            layers=len(sizes),
            hidden=hidden,
            intermediate=list(widths.values())[-1][0],
            query_width=query,
            key_value_width=_key_value_width(widths, hidden, query),
            vocabulary=int(config.vocab_size),
            tied=tied,
            head_norms=norms,
            transposed=transposed,
            layer_elements=max(sizes),
            ends_elements=ends,
            projections=widths,
            anatomy=found,
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

    Raises InputError if the folder or its `config.json` is missing or can't be read, and if the
    model is of a kind that is never run here: with code of its own, quantized, of several parts.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise InputError(
            "there is no model here",
            file=str(file),
            remedy="Give a Hugging Face folder with config.json and model.safetensors",
        )
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        if "auto_map" in raw:
            raise refusal(folder, str(raw.get("model_type")), "they bring code of their own")
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"the model's configuration can't be read: {error}", file=str(file)
        ) from error
    assert isinstance(config, PretrainedConfig)
    if getattr(config, "is_encoder_decoder", False):
        raise refusal(folder, config.model_type, "they have an encoder and a decoder")
    if config.get_text_config() is not config:
        raise refusal(folder, config.model_type, "they take more than text")
    if getattr(config, "quantization_config", None) is not None:
        raise refusal(folder, config.model_type, "their weights are quantized")
    return config


def refusal(folder: Path, family: str, reason: str) -> InputError:
    """The error for a model that can't be cut."""
    return InputError(
        f"models of the family {family!r} can't be cut: {reason}",
        file=str(folder / "config.json"),
        key="model_type",
        remedy=f"Use a model of one of {', '.join(FAMILIES)}",
    )


def _elements(module: nn.Module | PreTrainedModel) -> int:
    """Elements of all parameters, a tied one once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _query_width(config: PretrainedConfig, widths: Mapping[str, tuple[int, int]]) -> int:
    """Width of all heads' queries: the query projection's, or by the heads where it is fused."""
    if "q_proj" in widths:
        return widths["q_proj"][1]
    heads = int(getattr(config, "num_attention_heads", 1))
    return heads * int(getattr(config, "head_dim", None) or config.hidden_size // heads)


def _key_value_width(widths: Mapping[str, tuple[int, int]], hidden: int, query: int) -> int:
    """Width of all heads' keys; where they are fused with queries and values, half the rest."""
    if "k_proj" in widths:
        return widths["k_proj"][1]
    fused = (out for into, out in widths.values() if into == hidden and out > query)
    return (next(fused, 3 * query) - query) // 2
