"""One causal language model, cut into stages on different nodes, trained by LoRA as if whole.

A `ModelSpec` reads a Hugging Face folder's shape without its weights. A `Stage` holds some of the
layers, and loads only those. A `Session` is one client's LoRA on one stage: forward, backward, then
commit or discard. What a split model computes is what the unsplit PEFT model computes, bit for bit
in fp32. `costs` says beforehand what a part takes in bytes and FLOPs, `tensors` puts tensors on the
wire, and adapters are kept as PEFT keeps them.

Names are resolved on first use, so that settings can be read where torch is not installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atlas.models.adapters import (
        AdapterState,
        initial_adapter,
        join_adapters,
        load_adapter,
        save_adapter,
        slice_adapter,
    )
    from atlas.models.session import Session
    from atlas.models.settings import LoraSettings
    from atlas.models.spec import ModelSpec, Range
    from atlas.models.stage import Stage, whole_model
    from atlas.models.tensors import ProtocolError

_HOMES = {
    "AdapterState": "adapters",
    "LoraSettings": "settings",
    "ModelSpec": "spec",
    "ProtocolError": "tensors",
    "Range": "spec",
    "Session": "session",
    "Stage": "stage",
    "initial_adapter": "adapters",
    "join_adapters": "adapters",
    "load_adapter": "adapters",
    "save_adapter": "adapters",
    "slice_adapter": "adapters",
    "whole_model": "stage",
}

__all__ = [
    "AdapterState",
    "LoraSettings",
    "ModelSpec",
    "ProtocolError",
    "Range",
    "Session",
    "Stage",
    "initial_adapter",
    "join_adapters",
    "load_adapter",
    "save_adapter",
    "slice_adapter",
    "whole_model",
]


def __getattr__(name: str) -> object:
    """Import the file that a public name lives in when the name is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
