"""LoRA adapters by layer: made, cut along the layers, joined again, and kept in PEFT's own format.

An adapter is a plain dict from the names under which PEFT saves its parameters
(`base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight`) to fp32 tensors: A is [rank, in],
B is [out, rank]. Layer numbers in it are the whole model's, so parts of different nodes join by
name alone. A sequence classifier's adapter also has the whole score head [classes, hidden], at the
end: on a language model it is new, so it has to be learned, as PEFT has it (`modules_to_save`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from atlas.models.settings import LoraSettings
from atlas.models.skeleton import ADAPTER_PREFIX, lora_shapes, peft_config
from atlas.models.spec import ModelSpec, Range, read_config
from atlas.models.weights import base_weights, holds
from topologies import InputError

AdapterState: TypeAlias = dict[str, Tensor]

_LAYER = re.compile(r"\.(\d+)\.")


def initial_adapter(spec: ModelSpec, lora: LoraSettings, seed: int) -> AdapterState:
    """The whole model's adapter to begin with: A uniform in ±1/√in (PEFT's Kaiming rule), B zero.

    A classifier's score head is the one in the folder, or, if that has none, normal with the
    model's own deviation (`initializer_range`). Each tensor is drawn from a generator of its own,
    seeded by SHA-256 of the seed and the parameter's name: whoever holds whatever layers gets the
    same values. Raises InputError if a LoRA target is not in the model.
    """
    state: AdapterState = {}
    for name, shape in lora_shapes(spec, lora).items():
        tensor = torch.zeros(shape)
        if ".lora_B." not in name:
            digest = sha256(f"lora {seed} {name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
            if ".lora_A." in name:
                nn.init.kaiming_uniform_(tensor, a=math.sqrt(5), generator=generator)
            else:
                tensor = _score_head(spec, name.removeprefix(ADAPTER_PREFIX), tensor, generator)
        state[name] = tensor
    return state


def slice_adapter(state: Mapping[str, Tensor], layers: Range) -> AdapterState:
    """The part of an adapter that belongs to some layers; the tensors are not copied."""
    return {
        name: tensor
        for name, tensor in state.items()
        if (number := layer_of(name)) is not None and number in layers
    }


def join_adapters(parts: Iterable[Mapping[str, Tensor]]) -> AdapterState:
    """One adapter out of its parts, in the order of the layers.

    Raises ValueError if two parts share a parameter.
    """
    joined: AdapterState = {}
    for part in parts:
        for name, tensor in part.items():
            if name in joined:
                raise ValueError(f"two parts of the adapter have {name}")
            joined[name] = tensor
    return {name: joined[name] for name in sorted(joined, key=_place)}


def save_adapter(
    state: Mapping[str, Tensor],
    folder: Path,
    spec: ModelSpec,
    lora: LoraSettings,
    *,
    base: str | None = None,
    frozen: Mapping[str, Tensor] | None = None,
) -> None:
    """Write an adapter as PEFT does: `adapter_model.safetensors` and `adapter_config.json`.

    `PeftModel.from_pretrained(model, folder)` loads it. `base` is the model that the config names;
    the spec's folder if it is not given. `frozen` pairs, which were merged into the base, become
    part of the adapter, whose rank is then larger (see `widened`). Equal arguments give equal
    bytes. Raises ValueError if a parameter is missing or not one of the model's.
    """
    shapes = lora_shapes(spec, lora)
    if odd := shapes.keys() ^ state.keys():
        raise ValueError(f"this is not the whole model's adapter: see {min(odd)}")
    if frozen:
        state, lora = widened(state, frozen, lora)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: state[name].detach().contiguous() for name in sorted(shapes)}
    (folder / "adapter_model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    as_dict: Callable[[], dict[str, object]] = peft_config(lora, spec).to_dict
    config = as_dict()
    if base is not None:
        config["base_model_name_or_path"] = base
    text = json.dumps(config, indent=2, sort_keys=True, default=_plain)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def widened(
    state: Mapping[str, Tensor], frozen: Mapping[str, Tensor], lora: LoraSettings
) -> tuple[AdapterState, LoraSettings]:
    """One adapter that does what this one and the frozen pairs beside it do, and its settings.

        A' = [scaling A; A_f; 0],  B' = [B, B_f, 0],  scaling' = alpha' / rank' = 1

    Zeros fill it up to the same rank in all modules.
    """
    extra = max(len(pair) for name, pair in frozen.items() if ".lora_A." in name)
    wide: AdapterState = {}
    for name, tensor in state.items():
        if ".lora_A." in name:
            zeros = tensor.new_zeros(extra, tensor.shape[1])
            pair = frozen.get(name, zeros[:0])
            zeros[: len(pair)] = pair
            wide[name] = torch.cat([lora.scaling * tensor, zeros])
        elif ".lora_B." in name:
            zeros = tensor.new_zeros(len(tensor), extra)
            pair = frozen.get(name, zeros[:, :0])
            zeros[:, : pair.shape[1]] = pair
            wide[name] = torch.cat([tensor, zeros], dim=1)
        else:
            wide[name] = tensor
    rank = lora.rank + extra
    return wide, lora.model_copy(update={"rank": rank, "alpha": rank, "rslora": False})


def load_adapter(folder: Path, spec: ModelSpec, lora: LoraSettings) -> AdapterState:
    """Read an adapter that PEFT or `save_adapter` wrote.

    Raises InputError if it doesn't fit the model.
    """
    file = folder / "adapter_model.safetensors"
    try:
        state: AdapterState = load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"the adapter can't be read: {error}", file=str(file)) from error
    shapes = lora_shapes(spec, lora)
    for name in sorted(shapes.keys() | state.keys()):
        if name not in shapes or name not in state or state[name].shape != shapes[name]:
            raise InputError(
                "the adapter does not fit the model and the LoRA settings",
                file=str(file),
                key=name,
                remedy="Use the rank and targets that it was trained with",
            )
    return {name: state[name] for name in shapes}


def layer_of(name: str) -> int | None:
    """The number of the layer that an adapter's parameter belongs to; None for the score head."""
    found = _LAYER.search(name)
    return None if found is None else int(found[1])


def _place(name: str) -> tuple[bool, int]:
    """Where a parameter stands in an adapter: by its layer, the score head behind them all."""
    number = layer_of(name)
    return number is None, number or 0


def _score_head(spec: ModelSpec, name: str, new: Tensor, generator: torch.Generator) -> Tensor:
    """The score head to begin with, [classes, hidden]."""
    if holds(spec.folder, name):
        found = base_weights(spec.folder, [name], torch.float32)[name].detach()
        if found.shape == new.shape:
            return found.clone()
    deviation = getattr(read_config(spec.folder), "initializer_range", None) or 0.02
    return nn.init.normal_(new, std=float(deviation), generator=generator)


def _plain(value: object) -> object:
    """What JSON has no word for in PEFT's config: sets, ordered by hash there, and enumerations."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(getattr(value, "value", value))
