"""Where a model can be cut, found on its own class, whatever the family.

The class is built on the meta device, where tensors have shapes and no storage. Then it is run once
with nothing in it: everything that has parameters is stood in for by an `Absent`, which answers
with zeros as large as the real answer would be. Who is called in which order shows what comes in
front of the layers, what comes behind them, and whether the layers are a plain chain, each fed
with nothing but what the one before it gave. No name of a family's module is known here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

BUILDING = threading.RLock()
"""One model is built at a time: meanwhile PEFT replaces `nn.Module.register_parameter` for all."""


class CannotCutError(ValueError):
    """Why a model can't be cut into stages, in words for a person."""


@dataclass(frozen=True)
class Anatomy:
    """The parts of a model by their names in it.

    `layers` is the list of layers. `front` are the modules with parameters that come before the
    first layer (embeddings, their norm or projection), `back` those behind the last one, the head
    at the end, both in the order in which they are called. A layer answers with the hidden state
    alone if `answer` is 0, and else with a tuple of so many, of which it is the first.
    """

    layers: str
    front: tuple[str, ...]
    back: tuple[str, ...]
    answer: int

    @property
    def head(self) -> str:
        """The module that makes logits."""
        return self.back[-1]


class Absent(nn.Module):
    """Stands for a module that is not held: answers as that would, in shape, without its content.

    The module is kept on the meta device, outside this one's parameters, and asked for the shape of
    its answer; the zeros that come back take no memory. `called` is told each call and answer.
    """

    def __init__(self, module: nn.Module, called: Callable[..., None] | None = None) -> None:
        super().__init__()
        self._stood_for = (module,)
        self._called = called

    def forward(self, *arguments: object, **named: object) -> object:
        """Zeros in the shape of what the module would answer."""
        on_meta = {name: _mapped(value, _to_meta) for name, value in named.items()}
        with torch.no_grad():
            answer = self._stood_for[0](
                *[_mapped(value, _to_meta) for value in arguments], **on_meta
            )
        answer = _mapped(answer, _zeros)
        if self._called is not None:
            self._called(arguments, answer)
        return answer

    def __getattr__(self, name: str) -> Any:
        """What else is asked of the module is answered by itself: its kind of attention, say."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._stood_for[0], name)


class Hole(Absent):
    """Stands for a layer that is not held: gives back the hidden state, in the form of a layer."""

    def __init__(self, layer: nn.Module, answer: int) -> None:
        super().__init__(layer)
        self._answer = answer

    def forward(self, *arguments: object, **_: object) -> object:
        """Return the first argument as it is."""
        hidden = arguments[0]
        return (hidden, *[None] * (self._answer - 1)) if self._answer else hidden


def on_meta(
    config: PretrainedConfig, dtype: torch.dtype, classes: int | None = None
) -> PreTrainedModel:
    """The whole model of a configuration without storage, in evaluation mode.

    A causal language model, or with `classes` a sequence classifier of so many. Raises
    CannotCutError if transformers has no such class for the configuration.
    """
    auto = AutoModelForCausalLM if classes is None else AutoModelForSequenceClassification
    make: Callable[..., PreTrainedModel] = auto.from_config
    if classes is not None:
        config.num_labels = classes
    config.use_cache = False
    try:
        with torch.device("meta"):
            model = make(config, dtype=dtype)
    except (ValueError, ImportError) as error:
        kind = "causal language model" if classes is None else "sequence classifier"
        raise CannotCutError(
            f"transformers has no {kind} for them ({str(error).splitlines()[0]})"
        ) from error
    model.train(False)
    return model


def layer_list(model: PreTrainedModel) -> str:
    """The name of the list of the model's layers. Raises CannotCutError if there is none."""
    count = int(model.config.num_hidden_layers)
    found: list[str] = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    outermost = [name for name in found if not any(name.startswith(f"{o}.") for o in found)]
    if len(outermost) != 1:
        raise CannotCutError("they have no plain list of layers")
    return outermost[0]


def dissect(model: PreTrainedModel) -> Anatomy:
    """Find the parts of a model on meta, which is spent by it. Raises CannotCutError with why."""
    layers = layer_list(model)
    listed = model.get_submodule(layers)
    _refuse_experts(listed)
    count = len(list(listed.children()))
    calls: list[tuple[str, tuple[object, ...], object]] = []

    def stand_in(name: str) -> None:
        def called(arguments: tuple[object, ...], answer: object) -> None:
            calls.append((name, arguments, answer))

        model.set_submodule(name, Absent(model.get_submodule(name), called))

    inside = [f"{layers}.{number}" for number in range(count)]
    for name in [*_parts(model, layers), *inside]:
        stand_in(name)
    rebuild_buffers(model)
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = 0
    with torch.no_grad():
        model(input_ids=torch.zeros(1, 2, dtype=torch.int64))
    names = [name for name, _, _ in calls]
    if [name for name in names if name in set(inside)] != inside:
        raise CannotCutError("their layers don't follow each other")
    first, last = names.index(inside[0]), names.index(inside[-1])
    if last - first != count - 1:
        raise CannotCutError(f"{names[first + 1]} comes between their layers")
    front, back = names[:first], names[last + 1 :]
    if len(set(front + back)) != len(front + back):
        raise CannotCutError("something beside their layers is used twice")
    if not back:
        raise CannotCutError("they have no head")
    return Anatomy(layers, tuple(front), tuple(back), _answer(calls[first : last + 1]))


def body_of(model: PreTrainedModel) -> PreTrainedModel:
    """The part of the model that its head stands on."""
    body = model.base_model
    assert isinstance(body, PreTrainedModel)
    return body


def rebuild_buffers(model: PreTrainedModel) -> None:
    """Compute anew what is in no file and was left on meta: rotary tables, embedding scales.

    It is done as `from_pretrained` does it, by the family's own initialization, which leaves alone
    what is marked as loaded.
    """
    for parameter in model.parameters():
        parameter._is_hf_initialized = True  # type: ignore[attr-defined]
    with torch.no_grad():
        _rebuild(model, model)


def projections(layers: nn.Module) -> dict[str, tuple[int, int]]:
    """What LoRA can be put on inside a layer: name → (in, out), in the order of the layer.

    A name is as much of the end of the module's path as tells it from the others, as PEFT's
    `target_modules` takes it: `q_proj`, but `attn.c_proj` beside `mlp.c_proj`.
    """
    shapes: dict[tuple[str, ...], tuple[int, int]] = {}
    for layer in layers.children():
        for path, module in layer.named_modules():
            shape = matrix_shape(module)
            if shape is not None:
                key = tuple(path.split("."))
                shapes[key] = max(shape, shapes.get(key, shape))
    named = {}
    for path, shape in shapes.items():
        length = 1
        while sum(other[-length:] == path[-length:] for other in shapes) > 1:
            length += 1
        named[".".join(path[-length:])] = shape
    return named


def matrix_shape(module: nn.Module) -> tuple[int, int] | None:
    """Widths (in, out) of a linear projection, None for anything else."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    return None


def _parts(module: nn.Module, layers: str, prefix: str = "") -> Iterator[str]:
    """Names of the outermost modules beside the layers that have parameters of their own."""
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if path == layers:
            continue
        if any(True for _ in child.parameters(recurse=False)):
            if layers.startswith(f"{path}."):
                raise CannotCutError(f"{path} has parameters beside its layers")
            yield path
        else:
            yield from _parts(child, layers, f"{path}.")


def _answer(calls: list[tuple[str, tuple[object, ...], object]]) -> int:
    """The form of the layers' answers, once each was given what the one before it answered."""
    forms = set()
    handed: object = None
    for number, (name, arguments, answer) in enumerate(calls):
        if not arguments or not isinstance(arguments[0], Tensor):
            raise CannotCutError(f"{name} doesn't take a hidden state first")
        if number and arguments[0] is not handed:
            raise CannotCutError(f"{name} takes something else than what the layer before it gave")
        handed = answer[0] if isinstance(answer, tuple | list) else answer
        if not isinstance(handed, Tensor) or handed.shape != arguments[0].shape:
            raise CannotCutError(f"{name} doesn't give a hidden state first")
        forms.add(len(answer) if isinstance(answer, tuple | list) else 0)
    if len(forms) != 1:
        raise CannotCutError("their layers don't all answer in the same form")
    return forms.pop()


def _refuse_experts(layers: nn.Module) -> None:
    for name, _ in layers.named_modules():
        if name.rpartition(".")[2] in {"experts", "router"}:
            raise CannotCutError(
                "they are mixtures of experts, whose cost and memory depend on the text"
            )


def _rebuild(module: nn.Module, model: PreTrainedModel) -> None:
    """Compute the buffers of a module and all below it; `model` is the smallest around it."""
    model = module if isinstance(module, PreTrainedModel) else model
    stale = {name: buffer for name, buffer in module._buffers.items() if _is_meta(buffer)}
    for name, buffer in stale.items():
        assert buffer is not None
        module._buffers[name] = torch.empty_like(buffer, device="cpu")
    if stale:
        initialize: Callable[[nn.Module], None] = model._init_weights
        initialize(module)
    for child in module.children():
        _rebuild(child, model)


def _is_meta(buffer: Tensor | None) -> bool:
    return buffer is not None and buffer.is_meta


def _to_meta(tensor: Tensor) -> Tensor:
    return tensor.to("meta")


def _zeros(tensor: Tensor) -> Tensor:
    return torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)


def _mapped(value: object, change: Callable[[Tensor], Tensor]) -> object:
    """A nest of tuples, lists and dicts with each tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple | list):
        return type(value)(_mapped(part, change) for part in value)
    if isinstance(value, dict):
        return {key: _mapped(part, change) for key, part in value.items()}
    return value
