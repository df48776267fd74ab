"""A model with holes: the model's own class, holding only some of its layers.

The class is built on the meta device, so nothing is allocated. Each layer that is not held is
replaced by a hole, a module without parameters that returns its input, so that masks, rotary
embeddings, layer numbers and parameter names stay the model's own. What comes over the wire is put
in where it belongs by a hook on the layer that gets it. LoRA is injected by PEFT itself into the
layers held, so what it computes is what PEFT computes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from atlas.models.dropout import SeededDropout
from atlas.models.fused import fuse
from atlas.models.settings import LoraSettings
from atlas.models.spec import ModelSpec, Range, read_config
from atlas.models.weights import WRONG_WEIGHTS, base_weights
from topologies import InputError

ADAPTER_PREFIX = "base_model.model."
"""What PEFT puts before a parameter's name when it saves an adapter."""

_BUILDING = threading.Lock()
"""One model is built at a time: meanwhile PEFT replaces `nn.Module.register_parameter` for all."""


class Hole(nn.Module):
    """Where something is not held: gives back its first argument."""

    def forward(self, value: Tensor, *_: object, **__: object) -> Tensor:
        """Return `value` as it is."""
        return value


class Entry:
    """The door by which a hidden state enters a model in front of one of its layers.

    `put` is called before the model's forward; the layer then gets this tensor in place of what the
    model's embedding would have given it, once.
    """

    def __init__(self, layer: nn.Module) -> None:
        self._waiting: Tensor | None = None
        layer.register_forward_pre_hook(self._enter)

    def put(self, hidden: Tensor) -> Tensor:
        """Leave `hidden` [b, t, h] at the door; gives a stand-in for `inputs_embeds`, as large."""
        self._waiting = hidden
        return hidden.new_zeros(()).expand(hidden.shape)

    def _enter(self, _: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        hidden, self._waiting = self._waiting, None
        return None if hidden is None else (hidden, *arguments[1:])


def build(
    spec: ModelSpec, held: Range, *, embedding: bool, head: bool, lora: LoraSettings | None
) -> PreTrainedModel:
    """The model's own class with only layers `held`, and embedding, or norm and head, if asked for.

    Weights are loaded and shared; LoRA's, if `lora` is given, are injected without storage, to be
    bound later. The model is in evaluation mode: nothing in it draws random numbers.

    Raises InputError if the range is not within the model or a LoRA target is not a projection of
    its layers.
    """
    if held.last > spec.layers:
        raise InputError(
            f"layers {held.first} to {held.last} are asked of a model that has {spec.layers}"
        )
    with _BUILDING:
        return _build(spec, held, embedding=embedding, head=head, lora=lora)


@lru_cache(maxsize=8)
def lora_shapes(spec: ModelSpec, lora: LoraSettings) -> Mapping[str, torch.Size]:
    """Shape of each LoRA parameter of the whole model, in the model's order; no weight is read.

    Raises InputError if a LoRA target is not a projection of the model's layers.
    """
    with _BUILDING:
        model = _on_meta(read_config(spec.folder), spec.dtype)
        _inject_lora(model, lora, spec)
        return {name: lora_shape(module) for name, module in lora_slots(model).items()}


def body_of(model: PreTrainedModel) -> PreTrainedModel:
    """The part of a causal language model that its head stands on."""
    return cast("PreTrainedModel", model.base_model)


def layers_of(body: PreTrainedModel, spec: ModelSpec) -> nn.ModuleList:
    """The list of the model's layers."""
    for child in body.children():
        if isinstance(child, nn.ModuleList) and len(child) == spec.layers:
            return child
    raise InputError(
        f"models of the family {spec.family!r} can't be cut: they have no plain list of layers",
        file=str(spec.folder / "config.json"),
    )


def lora_slots(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Modules whose `weight` is one of LoRA's, by the name PEFT saves, in the model's order."""
    return {
        f"{ADAPTER_PREFIX}{name.removesuffix('.default')}.weight": module
        for name, module in model.named_modules()
        if name.endswith((".lora_A.default", ".lora_B.default"))
    }


def dropouts(model: PreTrainedModel) -> tuple[SeededDropout, ...]:
    """All that has to be told where in a run it is before a forward draws."""
    return tuple(module for module in model.modules() if isinstance(module, SeededDropout))


def lora_shape(slot: nn.Module) -> torch.Size:
    """Shape of the LoRA matrix that a slot applies, [out, in]."""
    assert isinstance(slot, nn.Linear)
    return torch.Size((slot.out_features, slot.in_features))


def peft_config(lora: LoraSettings, spec: ModelSpec) -> LoraConfig:
    """The same settings in PEFT's words, for training with PEFT's own classes or for saving."""
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=list(lora.targets),
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        bias="none",
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=str(spec.folder),
    )


def _build(
    spec: ModelSpec, held: Range, *, embedding: bool, head: bool, lora: LoraSettings | None
) -> PreTrainedModel:
    config = read_config(spec.folder)
    config.use_cache = False
    model = _on_meta(config, spec.dtype)
    body = body_of(model)
    layers = layers_of(body, spec)
    for number in range(spec.layers):
        if number not in held:
            layers[number] = Hole()
    if not embedding:
        body.set_input_embeddings(Hole())
    if not head:
        setattr(body, _final_norm(body, spec), Hole())
        setattr(model, _head_name(model, spec), Hole())
    _rebuild_buffers(model, config)
    _load(model, spec)
    if lora is not None and len(held):
        _inject_lora(model, lora, spec)
    model.requires_grad_(False)
    model.train(False)
    return model


def _on_meta(config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The whole model of a configuration without any storage."""
    make: Callable[..., PreTrainedModel] = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        return make(config, dtype=dtype)


def _inject_lora(model: PreTrainedModel, lora: LoraSettings, spec: ModelSpec) -> None:
    """Let PEFT put LoRA, on the meta device, beside the targets in the layers that are there."""
    inside = {
        name.rpartition(".")[2]
        for name, module in layers_of(body_of(model), spec).named_modules()
        if isinstance(module, nn.Linear)
    }
    for target in lora.targets:
        if target not in inside:
            raise InputError(
                f"the model's layers have no projection {target!r}",
                key="lora.targets",
                remedy=f"Name some of {', '.join(sorted(inside))}",
            )
    inject_adapter_in_model(peft_config(lora, spec), model, low_cpu_mem_usage=True)
    _seed_dropout(model, lora)
    if lora.fused:
        fuse(model, lora.scaling)


def _seed_dropout(model: PreTrainedModel, lora: LoraSettings) -> None:
    """Put a dropout that knows where in a run it is in the place of each of PEFT's."""
    for name, module in list(model.named_modules()):
        if name.endswith(".lora_dropout.default") and isinstance(module, nn.Dropout):
            of = name.removesuffix(".lora_dropout.default")
            parameter = f"{ADAPTER_PREFIX}{of}.lora_A.weight"
            model.set_submodule(name, SeededDropout(lora.dropout, parameter))


def _head_name(model: PreTrainedModel, spec: ModelSpec) -> str:
    get: Callable[[], nn.Module] = model.get_output_embeddings
    head = get()
    for name, child in model.named_children():
        if child is head:
            return name
    raise InputError(
        f"models of the family {spec.family!r} can't be cut: their head was not found",
        file=str(spec.folder / "config.json"),
    )


def _final_norm(body: PreTrainedModel, spec: ModelSpec) -> str:
    if not isinstance(getattr(body, "norm", None), nn.Module):
        raise InputError(
            f"models of the family {spec.family!r} can't be cut: their final norm was not found",
            file=str(spec.folder / "config.json"),
        )
    return "norm"


def _rebuild_buffers(model: PreTrainedModel, config: PretrainedConfig) -> None:
    """Make anew the modules whose buffers are computed, and so in no file (rotary embeddings)."""
    stale = [
        name
        for name, module in model.named_modules()
        if any(buffer.is_meta for buffer in module.buffers(recurse=False))
    ]
    for name in stale:
        model.set_submodule(name, type(model.get_submodule(name))(config))


def _load(model: PreTrainedModel, spec: ModelSpec) -> None:
    """Put the shared weights in the places of the meta tensors; tied ones are one object."""
    tied: dict[str, str] = model.all_tied_weights_keys
    named = dict(model.named_parameters(remove_duplicate=False))
    weights = base_weights(spec.folder, [tied.get(name, name) for name in named], spec.dtype)
    for name, meta in named.items():
        weight = weights[tied.get(name, name)]
        if weight.shape != meta.shape:
            raise InputError(
                f"{name} is {list(weight.shape)}, and config.json asks for {list(meta.shape)}",
                file=str(spec.folder),
                remedy=WRONG_WEIGHTS,
            )
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, weight)
