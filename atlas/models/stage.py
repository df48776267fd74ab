"""The frozen part of the model that one node holds, shared by every client it serves.

A stage is made once per node. It holds no client's parameters: a `Session` lends its own for the
length of one forward, by reference, and the graph keeps them from then on, so that the graphs of
many clients can be in flight on one stage. Nothing of a forward stays behind, so stages of the same
layers share what runs them: modules are built for as many forwards as run side by side, not for
each node. They go, and the frozen tensors with them, when the last such stage is let go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from types import MappingProxyType
from typing import Any, Self, cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedModel

from atlas.models import skeleton
from atlas.models.anatomy import BUILDING
from atlas.models.dropout import Draws
from atlas.models.merged import Pairs
from atlas.models.settings import LoraSettings
from atlas.models.spec import ModelSpec, Range
from atlas.models.weights import weights_stamp

NOTHING: Mapping[str, Any] = MappingProxyType({})
"""Merged into the base where nothing was."""


class Stage:
    """Layers `range` of a model, with room for LoRA; with `ends`, also embedding, final norm, head.

    Made by `Stage.load`. With `ends` this is the client's part of a U: its range starts at layer 0,
    and the text and the labels need never leave the node. `shapes` are those of the parameters that
    a client lends, by the names that PEFT saves. Safe to use from several threads.
    """

    def __init__(
        self, spec: ModelSpec, layers: Range, lora: LoraSettings, *, ends: bool, pool: _Pool
    ) -> None:
        self.spec = spec
        self.range = layers
        self.lora = lora
        self.ends = ends
        self.shapes: Mapping[str, torch.Size] = pool.shapes
        self._pool = pool

    @classmethod
    def load(
        cls, spec: ModelSpec, layers: Range, *, ends: bool = False, lora: LoraSettings | None = None
    ) -> Self:
        """Load what these layers need, and nothing else, from the model's folder.

        With `ends` the range starts at 0 and may be empty. Raises InputError if it is not within
        the model, or if the folder lacks a tensor or the layers a LoRA target; ValueError for a
        range that makes no stage.
        """
        lora = lora or LoraSettings()
        if ends and layers.first != 0:
            raise ValueError(f"the part with both ends starts at layer 0, not at {layers.first}")
        if not ends and not len(layers):
            raise ValueError("a stage without ends holds at least one layer")
        key = (spec, layers, ends, lora, weights_stamp(spec.folder))
        with BUILDING:
            pool = _pools.get(key)
            if pool is None:
                pool = _pools[key] = _Pool(partial(_Modules, spec, layers, ends, lora))
        return cls(spec, layers, lora, ends=ends, pool=pool)

    def weights(self) -> Iterator[Tensor]:
        """The frozen tensors in front of the head that are really here."""
        return (weight for weight in self._pool.first.front.parameters() if not weight.is_meta)

    def pairs(self, frozen: Mapping[str, Tensor]) -> Pairs:
        """What was merged into the layers held, checked and shared, for `run`.

        `frozen` has pairs of any rank under PEFT's names of LoRA's, of these layers or more, fp32.
        Raises ProtocolError if one is not whole or doesn't fit its projection.
        """
        found = {door.name: door.pair_of(frozen) for door in self._pool.first.merged}
        return {name: pair for name, pair in found.items() if pair is not None}

    def run(
        self,
        hidden: Tensor,
        parameters: Mapping[str, Tensor],
        draws: Draws | None = None,
        pairs: Pairs = NOTHING,
    ) -> Tensor:
        """Hidden state [b, t, h] in front of the first layer held → that behind the last.

        Without `draws` nothing is dropped out, and without `pairs` the base is as it was loaded.
        """
        with self._pool.lend() as modules, modules.given(parameters, draws, pairs):
            return modules.run(hidden)

    def run_tokens(
        self,
        tokens: Tensor,
        parameters: Mapping[str, Tensor],
        draws: Draws | None = None,
        pairs: Pairs = NOTHING,
    ) -> Tensor:
        """Token ids [b, t] → hidden state [b, t, h] behind the last layer held, with its graph."""
        with self._pool.lend() as modules, modules.given(parameters, draws, pairs):
            return modules.run_tokens(tokens)

    def logits(self, rows: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """Hidden states [n, h] behind the model's last layer → logits [n, vocabulary or classes].

        Each row is run as a text of one token: there are no layers here in which it could see more.
        A classifier's score head is one of the client's `parameters`.
        """
        if not self.ends:
            raise RuntimeError("this stage holds no head: only one loaded with ends=True does")
        with self._pool.lend() as modules:
            given = (
                nullcontext() if parameters is None else modules.given(parameters, None, NOTHING)
            )
            with given:
                return modules.logits(rows)


class _Modules:
    """A model with holes, and one for the head where that is held: for one forward at a time."""

    def __init__(self, spec: ModelSpec, layers: Range, ends: bool, lora: LoraSettings) -> None:
        front = skeleton.build(spec, layers, embedding=ends, head=False, lora=lora)
        self.slots = skeleton.lora_slots(front)
        self._dropouts = skeleton.dropouts(front)
        self.merged = skeleton.merged(front)
        self.front = skeleton.body_of(front)
        numbered = skeleton.layers_of(front, spec)
        self._entry = skeleton.Entry(numbered[min(layers.first, spec.layers - 1)])
        self._exit = skeleton.Exit(numbered[max(layers.last - 1, 0)])
        self.back: PreTrainedModel | None = None
        if ends:
            back = skeleton.build(spec, Range(0, 0), embedding=False, head=True, lora=None)
            self.slots |= skeleton.score_slots(back, spec)
            self._back_entry = skeleton.Entry(skeleton.layers_of(back, spec)[-1])
            self.back = back

    def run(self, hidden: Tensor) -> Tensor:
        self.front(input_ids=self._entry.put(hidden))
        return self._exit.take()

    def run_tokens(self, tokens: Tensor) -> Tensor:
        self.front(input_ids=tokens)
        return self._exit.take()

    def logits(self, rows: Tensor) -> Tensor:
        assert self.back is not None
        output = self.back(input_ids=self._back_entry.put(rows[:, None]))
        return cast("Tensor", output.logits).reshape(len(rows), -1)

    @contextmanager
    def given(
        self, parameters: Mapping[str, Tensor], draws: Draws | None, pairs: Pairs
    ) -> Iterator[None]:
        """Bind a client's parameters by reference, record a graph, and take them out again."""
        for name, module in self.slots.items():
            module._parameters["weight"] = cast("Parameter", parameters[name])
        for dropout in self._dropouts:
            dropout.draws = draws
        for door in self.merged:
            door.pair = pairs.get(door.name)
        try:
            with torch.enable_grad():
                yield
        finally:
            for module in self.slots.values():
                module._parameters["weight"] = None
            for door in self.merged:
                door.pair = None


class _Pool:
    """The modules that stages of the same layers run on, as many as were in use at once."""

    def __init__(self, build: Callable[[], _Modules]) -> None:
        self._build = build
        self.first = build()
        self.free = [self.first]
        self.shapes = {name: skeleton.lora_shape(slot) for name, slot in self.first.slots.items()}

    @contextmanager
    def lend(self) -> Iterator[_Modules]:
        """Modules for one forward. Those in which one failed are not used again."""
        try:
            modules = self.free.pop()
        except IndexError:
            modules = self._build()
        yield modules
        self.free.append(modules)


_pools: WeakValueDictionary[object, _Pool] = WeakValueDictionary()
"""By all that modules are a function of; guarded by `BUILDING`."""


def whole_model(
    spec: ModelSpec,
    lora: LoraSettings,
    adapter: Mapping[str, Tensor],
    frozen: Mapping[str, Tensor] = NOTHING,
) -> PreTrainedModel:
    """The unsplit model with an adapter applied, for evaluation: frozen, without gradients.

    It shares its frozen tensors with the stages of the process, so it costs no memory beside them.
    What it computes is what `PeftModel.from_pretrained` computes from the saved adapter; `frozen`
    is what was merged into the base, as `Stage.pairs` takes it. Raises KeyError if the adapter
    lacks a parameter.
    """
    model = skeleton.build(spec, spec.whole, embedding=True, head=True, lora=lora)
    slots = skeleton.lora_slots(model) | skeleton.score_slots(model, spec)
    for name, module in slots.items():
        module._parameters["weight"] = Parameter(adapter[name].clone(), requires_grad=False)
    for door in skeleton.merged(model):
        door.pair = door.pair_of(frozen)
    return model
