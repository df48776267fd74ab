"""A model with holes: the model's own class, holding only some of its parts.

The class is built on the meta device, so nothing is allocated. What is not held is replaced: a
layer by a hole, which returns its input, anything else by a stand-in, which answers with zeros. So
masks, rotary embeddings, multipliers, layer numbers and parameter names stay the model's own. What
comes over the wire is put in where it belongs by a hook on the layer that gets it, and what goes
out is taken by a hook on the layer that makes it. LoRA is injected by PEFT itself into the layers
held, so what it computes is what PEFT computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn
from transformers import PreTrainedModel

from atlas.models.anatomy import BUILDING, Absent, Hole, body_of, on_meta, rebuild_buffers
from atlas.models.dropout import SeededDropout
from atlas.models.fused import fuse
from atlas.models.merged import A, Merged
from atlas.models.settings import LoraSettings
from atlas.models.spec import ModelSpec, Range, read_config
from atlas.models.weights import WRONG_WEIGHTS, base_weights, stored_names, weights_stamp
from topologies import InputError

__all__ = [
    "ADAPTER_PREFIX",
    "Entry",
    "Exit",
    "body_of",
    "build",
    "dropouts",
    "layers_of",
    "lora_shape",
    "lora_shapes",
    "lora_slots",
    "merged",
    "peft_config",
    "score_slots",
    "targets",
]

ADAPTER_PREFIX = "base_model.model."
"""What PEFT puts before a parameter's name when it saves an adapter."""


class Entry:
    """The door by which a hidden state enters a model in front of one of its layers.

    `put` is called before the model's forward; the layer then gets this tensor in place of what the
    model's embedding would have given it, once.
    """

    def __init__(self, layer: nn.Module) -> None:
        self._waiting: Tensor | None = None
        layer.register_forward_pre_hook(self._enter)

    def put(self, hidden: Tensor) -> Tensor:
        """Leave `hidden` [b, t, h] at the door; gives token ids [b, t] to run the model on."""
        self._waiting = hidden
        return torch.zeros(hidden.shape[:2], dtype=torch.int64)

    def _enter(self, _: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        hidden, self._waiting = self._waiting, None
        return None if hidden is None else (hidden, *arguments[1:])


class Exit:
    """The door by which a hidden state leaves a model behind one of its layers."""

    def __init__(self, layer: nn.Module) -> None:
        self._left: Tensor | None = None
        layer.register_forward_hook(self._leave)

    def take(self) -> Tensor:
        """What the layer gave in the model's last forward, [b, t, h]."""
        hidden, self._left = self._left, None
        assert hidden is not None
        return hidden

    def _leave(self, _: nn.Module, __: object, answer: Tensor | tuple[Tensor, ...]) -> None:
        self._left = answer if isinstance(answer, Tensor) else answer[0]


def build(
    spec: ModelSpec, held: Range, *, embedding: bool, head: bool, lora: LoraSettings | None
) -> PreTrainedModel:
    """The model's own class with only layers `held`, and its front, or back and head, if asked for.

    Weights are loaded and shared; LoRA's, if `lora` is given, are injected without storage, to be
    bound later; so is a classifier's score head. The model is in evaluation mode: nothing in it
    draws random numbers.

    Raises InputError if the range is not within the model or a LoRA target is not a projection of
    its layers.
    """
    if held.last > spec.layers:
        raise InputError(
            f"layers {held.first} to {held.last} are asked of a model that has {spec.layers}"
        )
    with BUILDING:
        return _build(spec, held, embedding=embedding, head=head, lora=lora)


@lru_cache(maxsize=8)
def lora_shapes(spec: ModelSpec, lora: LoraSettings) -> Mapping[str, torch.Size]:
    """Shape of each trained parameter of the whole model, in the model's order; no weight is read.

    These are LoRA's, and a classifier's score head at the end. Raises InputError if a LoRA target
    is not a projection of the model's layers.
    """
    with BUILDING:
        model = on_meta(read_config(spec.folder), spec.dtype, spec.classes)
        _inject_lora(model, lora, spec)
        slots = lora_slots(model) | score_slots(model, spec)
        return {name: lora_shape(module) for name, module in slots.items()}


def layers_of(model: PreTrainedModel, spec: ModelSpec) -> nn.ModuleList:
    """The list of the model's layers."""
    layers = model.get_submodule(spec.anatomy.layers)
    assert isinstance(layers, nn.ModuleList)
    return layers


def lora_slots(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Modules whose `weight` is one of LoRA's, by the name PEFT saves, in the model's order."""
    return {
        f"{ADAPTER_PREFIX}{name.removesuffix('.default')}.weight": module
        for name, module in model.named_modules()
        if name.endswith((".lora_A.default", ".lora_B.default"))
    }


def score_slots(model: PreTrainedModel, spec: ModelSpec) -> dict[str, nn.Module]:
    """A classifier's score head, which is trained whole, by the name under which PEFT saves it."""
    if spec.classes is None:
        return {}
    head = spec.anatomy.head
    return {f"{ADAPTER_PREFIX}{head}.weight": model.get_submodule(head)}


def dropouts(model: PreTrainedModel) -> tuple[SeededDropout, ...]:
    """All that has to be told where in a run it is before a forward draws."""
    return tuple(module for module in model.modules() if isinstance(module, SeededDropout))


def merged(model: PreTrainedModel) -> tuple[Merged, ...]:
    """Doors for what was merged into each projection that has LoRA; they are made by this."""
    doors = []
    for name, slot in lora_slots(model).items():
        if name.endswith(A):
            owner = name.removesuffix(A)
            projection = model.get_submodule(owner.removeprefix(ADAPTER_PREFIX))
            out, _ = lora_shape(projection.get_submodule("lora_B.default"))
            doors.append(Merged(owner, projection, lora_shape(slot)[1], out))
    return tuple(doors)


def lora_shape(slot: nn.Module) -> torch.Size:
    """Shape of the matrix that a slot applies, [out, in]."""
    assert isinstance(slot, nn.Linear)
    return torch.Size((slot.out_features, slot.in_features))


def targets(spec: ModelSpec, lora: LoraSettings) -> tuple[str, ...]:
    """The projections of a layer that get LoRA, by their names in `spec.projections`.

    `auto` means PEFT's own choice for the family; for a family that PEFT has none for, the first of
    its choices that the layers have. `all-linear` means all. Else a name means, as with PEFT, each
    projection that it is the end of: `c_proj` both `attn.c_proj` and `mlp.c_proj`.

    Raises InputError if a name is no projection's.
    """
    there = tuple(spec.projections)
    if lora.targets == "all-linear":
        return there
    if lora.targets == "auto":
        known = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
        for names in (known.get(spec.family, [""]), *known.values()):
            chosen = [_named(there, name) for name in names]
            if not isinstance(names, str) and all(chosen):
                return tuple(name for name in there if any(name in part for part in chosen))
        raise InputError(
            f"PEFT has no targets for models of the family {spec.family!r}",
            key="lora.targets",
            remedy=f"Name some of {', '.join(there)}",
        )
    for target in lora.targets:
        if not _named(there, target):
            raise InputError(
                f"the model's layers have no projection {target!r}",
                key="lora.targets",
                remedy=f"Name some of {', '.join(sorted(there))}",
            )
    return tuple(name for name in there if any(name in _named(there, t) for t in lora.targets))


def peft_config(lora: LoraSettings, spec: ModelSpec) -> LoraConfig:
    """The same settings in PEFT's words, for training with PEFT's own classes or for saving."""
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=list(targets(spec, lora)),
        fan_in_fan_out=spec.transposed,
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        bias="none",
        modules_to_save=None if spec.classes is None else [spec.anatomy.head],
        task_type="CAUSAL_LM" if spec.classes is None else "SEQ_CLS",
        inference_mode=True,
        base_model_name_or_path=str(spec.folder),
    )


def _build(
    spec: ModelSpec, held: Range, *, embedding: bool, head: bool, lora: LoraSettings | None
) -> PreTrainedModel:
    model = on_meta(read_config(spec.folder), spec.dtype, spec.classes)
    if spec.classes is not None and model.config.pad_token_id is None:
        model.config.pad_token_id = 0  # without one, a classifier takes no second row
    stored = _stored(spec, weights_stamp(spec.folder))
    if head:
        for slot in score_slots(model, spec).values():
            slot._parameters["weight"] = None
    layers = layers_of(model, spec)
    for number in range(spec.layers):
        if number not in held:
            layers[number] = Hole(layers[number], spec.anatomy.answer)
    for names, wanted in ((spec.anatomy.front, embedding), (spec.anatomy.back, head)):
        for name in () if wanted else names:
            model.set_submodule(name, Absent(model.get_submodule(name)))
    _load(model, spec, stored)
    rebuild_buffers(model)
    if lora is not None and len(held):
        _inject_lora(model, lora, spec)
    model.requires_grad_(False)
    model.train(False)
    return model


def _inject_lora(model: PreTrainedModel, lora: LoraSettings, spec: ModelSpec) -> None:
    """Let PEFT put LoRA, on the meta device, beside the targets in the layers that are there."""
    config = peft_config(lora, spec)
    config.modules_to_save = None
    config.init_lora_weights = False
    inject_adapter_in_model(config, layers_of(model, spec), low_cpu_mem_usage=True)
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


def _named(there: tuple[str, ...], target: str) -> tuple[str, ...]:
    """The projections that a target's name means, as PEFT takes it."""
    return tuple(name for name in there if name == target or name.endswith(f".{target}"))


@lru_cache(maxsize=8)
def _stored(spec: ModelSpec, stamp: int) -> Mapping[str, str]:  # noqa: ARG001 - files may change
    """Which parameters have another name in the folder's files, and which."""
    return stored_names(spec.folder, on_meta(read_config(spec.folder), spec.dtype, spec.classes))


def _load(model: PreTrainedModel, spec: ModelSpec, stored: Mapping[str, str]) -> None:
    """Put the shared weights in the places of the meta tensors; tied ones are one object."""
    tied: dict[str, str] = model.all_tied_weights_keys
    named = dict(model.named_parameters(remove_duplicate=False))
    source = {name: tied.get(name, name) for name in named}
    files = {name: stored.get(origin, origin) for name, origin in source.items()}
    weights = base_weights(spec.folder, files.values(), spec.dtype)
    for name, meta in named.items():
        weight = weights[files[name]]
        if weight.shape != meta.shape:
            raise InputError(
                f"{name} is {list(weight.shape)}, and config.json asks for {list(meta.shape)}",
                file=str(spec.folder),
                remedy=WRONG_WEIGHTS,
            )
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, weight)
