"""What one layer keeps until backward, counted on the layer itself, whatever the family.

Two rows of as many tokens as are asked about go through one real layer, once, and every tensor that
autograd keeps is noted: each storage once, weights and LoRA left out. That is exact where attention
keeps what grows with the square of the tokens (ALiBi, masks), and on either side of a sliding
window. It takes the memory of one layer and two rows, is done once per process for each kind of
layer, and depends on shapes alone.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from atlas.models.dropout import Draws
from atlas.models.session import Session
from atlas.models.settings import LoraSettings
from atlas.models.skeleton import lora_shapes
from atlas.models.spec import ModelSpec, Range, read_config
from atlas.models.stage import Stage

ROWS = 2


@lru_cache(maxsize=256)
def counted_bytes(spec: ModelSpec, lora: LoraSettings, tokens: int, layer: int) -> int:
    """Bytes that a layer keeps of one token in rows of `tokens`, rounded up."""
    stage = Stage.load(spec, Range(layer, layer + 1), lora=lora)
    zeros = {name: torch.zeros(shape) for name, shape in lora_shapes(spec, lora).items()}
    session = Session(stage, zeros, learning_rate=0.0)
    hidden = torch.zeros(ROWS, tokens, spec.hidden, dtype=spec.dtype)
    return -(-kept_bytes(session, hidden) // (ROWS * tokens))


def kept_bytes(session: Session, hidden: Tensor) -> int:
    """Bytes that autograd keeps of a forward of `hidden` [b, t, h], which is discarded then."""
    stage, kept = session.stage, dict[int, tuple[int, Tensor]]()
    known = {
        tensor.untyped_storage().data_ptr()
        for tensor in (*stage.weights(), *session.parameters.values())
    }

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    draws = Draws(0, "", 0, 0) if stage.lora.dropout else None
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        session.forward(hidden, draws)
    session.discard()
    return sum(size_bytes for size_bytes, _ in kept.values())


@lru_cache(maxsize=16)
def kinds(spec: ModelSpec) -> tuple[int, ...]:
    """For each layer the first one of its kind, as far as the configuration tells layers apart."""
    config = read_config(spec.folder).to_dict()
    told = [
        value for value in config.values() if isinstance(value, list) and len(value) == spec.layers
    ]
    kind = list(zip(*told, strict=True)) or [()] * spec.layers
    return tuple(kind.index(own) for own in kind)


@lru_cache(maxsize=16)
def window(spec: ModelSpec) -> int | None:
    """The tokens of the sliding window that the configuration has, if any."""
    tokens = getattr(read_config(spec.folder), "sliding_window", None)
    return None if tokens is None else int(tokens)
