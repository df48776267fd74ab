"""What every device of a run is told before it starts: the model, and how it is trained.

It is what a person would install on a device together with the program; no text, and no word on who
has which task.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from atlas import assets
from atlas.config import Aggregation, Membership, Recovery, SignatureSettings, Split, Training
from atlas.journal import Journal
from atlas.models import (
    LoraSettings,
    ModelSpec,
    ProtocolError,
    Range,
    costs,
    initial_adapter,
)
from atlas.models.adapters import AdapterState
from atlas.models.codec import Codec, boundary_bytes
from atlas.models.dropout import Draws
from atlas.models.skeleton import lora_shapes
from atlas.pairing import SpanCost, StepCost
from atlas.tasks import ClientData, Tokenizer, batch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class RunSettings:
    """The same for all devices of a run. `folder` is the model's, which every device has on its
    disk; `journal` is the experimenter's, and changes nothing but how long a run takes.
    """

    seed: int
    folder: Path
    dtype: str
    lora: LoraSettings
    training: Training
    split: Split
    signature: SignatureSettings
    aggregation: Aggregation
    membership: Membership
    recovery: Recovery
    coordinator: str
    clients: tuple[str, ...]
    devices: tuple[str, ...]
    journal: Journal | None = None
    codecs: Mapping[str, Codec] = field(default_factory=dict)
    """In which codec each client's hidden states and gradients cross; fp32 where none is named."""

    def codec(self, client: str) -> Codec:
        """The codec of a client, the same for the whole run."""
        return self.codecs.get(client, "fp32")

    @property
    def spec(self) -> ModelSpec:
        """The model's shape."""
        return _spec(self.folder, self.dtype)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, loaded once a process."""
        return _tokenizer(self.folder)

    @functools.cached_property
    def voters(self) -> tuple[str, ...]:
        """Who elects the coordinator: the one named in the topology, and clients from all over."""
        count = min(self.membership.voters - 1, len(self.clients))
        places = [place * len(self.clients) // count for place in range(count)]
        return (self.coordinator, *(self.clients[place] for place in places))

    @property
    def ends(self) -> Range:
        """The layers that clients keep, beside embedding and head."""
        return Range(0, self.split.kept_layers)

    def spans(self, count: int) -> tuple[Range, ...]:
        """The layers between the ends, cut into `count` pieces as equal as can be."""
        first, last = self.split.kept_layers, self.spec.layers
        cuts = [first + (last - first) * piece // count for piece in range(count + 1)]
        return tuple(Range(a, b) for a, b in itertools.pairwise(cuts))

    def initial_adapter(self) -> AdapterState:
        """What every client starts from: A seeded by parameter name, B zero."""
        return initial_adapter(self.spec, self.lora, self.seed)

    def require_adapter(self, adapter: Mapping[str, torch.Tensor]) -> None:
        """Raises ProtocolError unless this has the parameters of the whole model's adapter."""
        shapes = lora_shapes(self.spec, self.lora)
        for name in sorted(shapes.keys() | adapter.keys()):
            tensor = adapter.get(name)
            if tensor is None or tensor.shape != shapes.get(name) or tensor.dtype != torch.float32:
                raise ProtocolError(f"{name} is not as this run's adapters have it")

    def draws(self, client: str, round: int, step: int, micro: int) -> Draws | None:
        """What dropout draws there. Signatures, taken before round 0, are taken without dropout."""
        return Draws(self.seed, client, round, step, micro) if round >= 0 else None

    def step_cost(self, count: int) -> StepCost:
        """What one batch costs when the layers between are cut into `count` spans."""
        return StepCost(
            own_flops=self.flops(self.ends) + costs.head_flops(self.spec, self.training.batch),
            boundary_bytes=max(self.boundary_bytes(name) for name in self.clients),
            spans=tuple(self.span_cost(span) for span in self.spans(count)),
            steps=self.training.steps * self.training.accumulate,
        )

    def boundary_bytes(self, client: str) -> int:
        """Bytes of a hidden state of the client, or of its gradient, at full size."""
        shape = (self.training.batch, self.training.tokens)
        return boundary_bytes(self.spec, self.codec(client), *shape)

    @property
    def largest_hidden_bytes(self) -> int:
        """Memory of the hidden state of the largest batch that a client of this run makes."""
        return costs.hidden_bytes(self.spec, self.largest_batch, self.training.tokens)

    def step_costs(self) -> tuple[StepCost, ...]:
        """The ways in which the layers between may be cut, the coarsest first."""
        between = self.spec.layers - self.split.kept_layers
        counts = range(1, between + 1) if self.split.spans == "auto" else (self.split.spans,)
        return tuple(self.step_cost(count) for count in counts)

    def span_cost(self, span: Range) -> SpanCost:
        """What hosting `span` costs a device."""
        shape = (self.training.batch, self.training.tokens)
        return SpanCost(
            span.first,
            span.last,
            costs.span_base_bytes(self.spec, span),
            costs.span_session_bytes(self.spec, span, self.lora, *shape),
            self.flops(span),
            costs.adapter_bytes(self.spec, self.lora, span),
        )

    def flops(self, layers: Range) -> float:
        """Operations of one batch, forward and backward, through `layers` at full size."""
        shape = (self.training.batch, self.training.tokens)
        return costs.forward_flops(self.spec, self.lora, layers, *shape) + costs.backward_flops(
            self.spec, self.lora, layers, *shape
        )

    @property
    def adapter_bytes(self) -> int:
        """Bytes of a whole adapter as it is sent."""
        return costs.adapter_bytes(self.spec, self.lora, self.spec.whole)

    @property
    def largest_batch(self) -> int:
        """Most examples that go through the model at once."""
        return max(self.training.batch, self.signature.batch)

    def most_labels(self, data: ClientData) -> int:
        """Most labeled positions that a batch of this text can have."""
        rows = batch(data.examples, self.tokenizer, self.training.tokens)
        counts = (rows.targets >= 0).sum(dim=1)
        return int(counts.max()) * self.training.batch

    def ends_bytes(self, labels: int) -> int:
        """Memory that a client's own part of a step takes."""
        shape = (self.training.batch, self.training.tokens)
        return costs.ends_bytes(self.spec, self.lora, self.ends, *shape, labels=labels)

    def whole_step_bytes(self, labels: int) -> int:
        """Memory that one step of the unsplit model would take on one device."""
        shape = (self.training.batch, self.training.tokens)
        return costs.whole_step_bytes(self.spec, self.lora, *shape, labels=labels)


@functools.lru_cache(maxsize=4)
def _spec(folder: Path, dtype: str) -> ModelSpec:
    return ModelSpec.read(folder, DTYPES[dtype])


@functools.lru_cache(maxsize=4)
def _tokenizer(folder: Path) -> Tokenizer:
    return assets.tokenizer(folder)
