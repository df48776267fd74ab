"""The frozen part of the model that one node holds, shared by every client it serves.

A stage is made once per node. It holds no client's parameters: a `Session` lends its own for the
length of one forward, by reference, and the graph keeps them from then on, so that the graphs of
many clients can be in flight on one stage. One forward runs at a time on a stage (it is locked);
stages of different nodes, and backward passes, run side by side, though their frozen tensors are
the same memory.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import MappingProxyType
from typing import Any, Self, cast

import torch
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedModel

from atlas.models import skeleton
from atlas.models.dropout import Draws
from atlas.models.merged import Pairs
from atlas.models.settings import LoraSettings
from atlas.models.spec import ModelSpec, Range

NOTHING: Mapping[str, Any] = MappingProxyType({})
"""Merged into the base where nothing was."""


class Stage:
    """Layers `range` of a model, with room for LoRA; with `ends`, also embedding, final norm, head.

    Made by `Stage.load`. With `ends` this is the client's part of a U: its range starts at layer 0,
    and the text and the labels need never leave the node.
    """

    def __init__(
        self,
        spec: ModelSpec,
        layers: Range,
        lora: LoraSettings,
        front: PreTrainedModel,
        back: PreTrainedModel | None,
    ) -> None:
        self.spec = spec
        self.range = layers
        self.lora = lora
        self.slots = skeleton.lora_slots(front)
        self._dropouts = skeleton.dropouts(front)
        self._merged = skeleton.merged(front)
        self._lock = threading.Lock()
        self._front = skeleton.body_of(front)
        numbered = skeleton.layers_of(front, spec)
        self._entry = skeleton.Entry(numbered[min(layers.first, spec.layers - 1)])
        self._exit = skeleton.Exit(numbered[max(layers.last - 1, 0)])
        self._back = back
        if back is not None:
            self.slots |= skeleton.score_slots(back, spec)
            self._back_entry = skeleton.Entry(skeleton.layers_of(back, spec)[-1])

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
        front = skeleton.build(spec, layers, embedding=ends, head=False, lora=lora)
        back = None
        if ends:
            back = skeleton.build(spec, Range(0, 0), embedding=False, head=True, lora=None)
        return cls(spec, layers, lora, front, back)

    @property
    def ends(self) -> bool:
        """Whether this stage holds the embedding, the final norm and the head."""
        return self._back is not None

    def weights(self) -> Iterator[Tensor]:
        """The frozen tensors in front of the head that are really here."""
        return (weight for weight in self._front.parameters() if not weight.is_meta)

    def pairs(self, frozen: Mapping[str, Tensor]) -> Pairs:
        """What was merged into the layers held, checked and shared, for `run`.

        `frozen` has pairs of any rank under PEFT's names of LoRA's, of these layers or more, fp32.
        Raises ProtocolError if one is not whole or doesn't fit its projection.
        """
        found = {door.name: door.pair_of(frozen) for door in self._merged}
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
        with self._lock, self._lent(parameters, draws, pairs):
            self._front(input_ids=self._entry.put(hidden))
            return self._exit.take()

    def run_tokens(
        self,
        tokens: Tensor,
        parameters: Mapping[str, Tensor],
        draws: Draws | None = None,
        pairs: Pairs = NOTHING,
    ) -> Tensor:
        """Token ids [b, t] → hidden state [b, t, h] behind the last layer held, with its graph."""
        with self._lock, self._lent(parameters, draws, pairs):
            self._front(input_ids=tokens)
            return self._exit.take()

    def logits(self, rows: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """Hidden states [n, h] behind the model's last layer → logits [n, vocabulary or classes].

        Each row is run as a text of one token: there are no layers here in which it could see more.
        A classifier's score head is one of the client's `parameters`.
        """
        if self._back is None:
            raise RuntimeError("this stage holds no head: only one loaded with ends=True does")
        lent = nullcontext() if parameters is None else self._lent(parameters, None, NOTHING)
        with self._lock, lent:
            output = self._back(input_ids=self._back_entry.put(rows[:, None]))
        return cast("Tensor", output.logits).reshape(len(rows), -1)

    @contextmanager
    def _lent(
        self, parameters: Mapping[str, Tensor], draws: Draws | None, pairs: Pairs
    ) -> Iterator[None]:
        """Bind a client's parameters by reference, record a graph, and take them out again."""
        for name, module in self.slots.items():
            module._parameters["weight"] = cast("Parameter", parameters[name])
        for dropout in self._dropouts:
            dropout.draws = draws
        for door in self._merged:
            door.pair = pairs.get(door.name)
        try:
            with torch.enable_grad():
                yield
        finally:
            for module in self.slots.values():
                module._parameters["weight"] = None
            for door in self._merged:
                door.pair = None


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
