"""The frozen weights of a model, each read at most once per process and shared by whoever holds it.

A tensor is read by name from the folder's safetensors files, which are mapped, not copied: with the
file's own dtype nothing is allocated. As long as any stage of the process holds a tensor, every
other stage that asks for it gets the same object; when the last one lets go, it is freed. Safe to
use from several threads.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from safetensors import safe_open
from torch.nn import Parameter

from topologies import InputError

WRONG_WEIGHTS = "the weights don't belong to the config.json beside them; export the model again"

_Key = tuple[Path, int, str, torch.dtype]

_held: WeakValueDictionary[_Key, Parameter] = WeakValueDictionary()
_lock = threading.Lock()


def base_weights(folder: Path, names: Iterable[str], dtype: torch.dtype) -> dict[str, Parameter]:
    """Frozen tensors of the model in `folder`, by name, in `dtype`.

    Raises InputError if the folder has no safetensors or lacks a tensor.
    """
    files = _files(folder.resolve())
    found: dict[str, Parameter] = {}
    wanted: dict[Path, dict[str, _Key]] = {}
    with _lock:
        for name in names:
            if name not in files:
                raise InputError(
                    f"the model has no tensor {name!r}",
                    file=str(folder),
                    remedy=WRONG_WEIGHTS,
                )
            file = files[name]
            key = (file, file.stat().st_mtime_ns, name, dtype)
            held = _held.get(key)
            if held is None:
                wanted.setdefault(file, {})[name] = key
            else:
                found[name] = held
        for file, missing in wanted.items():
            with safe_open(file, framework="pt") as tensors:
                for name, key in missing.items():
                    found[name] = Parameter(tensors.get_tensor(name).to(dtype), requires_grad=False)
                    _held[key] = found[name]
    return found


def _files(folder: Path) -> dict[str, Path]:
    """Which file of a model's folder holds which tensor."""
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if index.is_file():
        names: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {name: folder / file for name, file in names.items()}
    if not single.is_file():
        raise InputError(
            "the model's weights are not here",
            file=str(single),
            remedy="save the model with save_pretrained, which writes safetensors",
        )
    with safe_open(single, framework="pt") as tensors:
        return dict.fromkeys(tensors.keys(), single)
