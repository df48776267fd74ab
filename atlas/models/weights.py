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
from safetensors import SafetensorError, safe_open
from torch.nn import Parameter
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from topologies import InputError

WRONG_WEIGHTS = "Export the model again: its weights don't belong to its config.json"

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
            with _opened(file) as tensors:
                for name, key in missing.items():
                    found[name] = Parameter(tensors.get_tensor(name).to(dtype), requires_grad=False)
                    _held[key] = found[name]
    return found


def stored_names(folder: Path, model: PreTrainedModel) -> dict[str, str]:
    """Under which names a folder's files have the parameters of a whole model that have others.

    Checkpoints of a family's bare model lack the name that a head puts before all others, and old
    ones have names that have changed since: both are told apart by transformers' own rules. Raises
    InputError if the folder has no safetensors.
    """
    rules = [rule for rule in get_model_conversion_mapping(model) if type(rule) is WeightRenaming]
    state = model.state_dict()
    stored = {}
    for name in _files(folder.resolve()):
        if name not in state:
            here, _ = rename_source_key(name, rules, [], model.base_model_prefix, state)
            stored[here] = name
    return stored


def weights_stamp(folder: Path) -> int:
    """What changes when other weights are put into the folder."""
    files = (folder / "model.safetensors.index.json", folder / "model.safetensors")
    return max((file.stat().st_mtime_ns for file in files if file.is_file()), default=0)


def holds(folder: Path, name: str) -> bool:
    """Whether the folder's files have a tensor. Raises InputError if there are no safetensors."""
    return name in _files(folder.resolve())


def require_readable(folder: Path) -> None:
    """Raises InputError unless all of a model's weight files are there and whole."""
    for file in sorted(set(_files(folder.resolve()).values())):
        with _opened(file):
            pass


def _files(folder: Path) -> dict[str, Path]:
    """Which file of a model's folder holds which tensor."""
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if index.is_file():
        try:
            names: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return {name: folder / file for name, file in names.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"the list of weight files can't be read: {type(error).__name__}: {error}",
                file=str(index),
                remedy=WRONG_WEIGHTS,
            ) from error
    if not single.is_file():
        if pickled := sorted(folder.glob("*.bin")):
            raise InputError(
                "the model's weights are pickled, and what is pickled can run a stranger's code",
                file=str(pickled[0]),
                remedy="Load the model where you trust it and save it with save_pretrained, which "
                "writes safetensors",
            )
        raise InputError(
            "the model's weights are not here",
            file=str(single),
            remedy="Save the model with save_pretrained, which writes safetensors",
        )
    with _opened(single) as tensors:
        return dict.fromkeys(tensors.keys(), single)


def _opened(file: Path) -> safe_open:
    """A safetensors file, its header read and held against the file's size."""
    try:
        return safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"this is not a whole safetensors file ({error})",
            file=str(file),
            remedy="Fetch it again; a file of a few hundred bytes is a pointer of Git LFS, "
            "which `git lfs pull` replaces",
        ) from error
