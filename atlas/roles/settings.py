"""What every device of a run is told before it starts: the model, and how it is trained.

It is what a person would install on a device together with the program; no text, and no word on who
has which task.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from atlas import assets
from atlas.aggregation import ADDRESSED, Part, handed_back, parted, random_graph, settling
from atlas.config import (
    Aggregation,
    Drift,
    Membership,
    Recovery,
    SignatureSettings,
    Split,
    Training,
)
from atlas.drift import looks, measures
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
from atlas.policies import BY_SIGNATURE, WHOLE
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
    drift: Drift
    aggregation: Aggregation
    membership: Membership
    recovery: Recovery
    coordinator: str
    clients: tuple[str, ...]
    devices: tuple[str, ...]
    groups: Mapping[str, str] = field(default_factory=dict)
    """By client its group, where groups are settled before the run. It is for the coordinator, and
    for clients that gather their group's text.
    """
    ample: bool = False
    """Whether devices grant more than anybody needs, so that nothing has to be split."""
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

    @property
    def whole(self) -> bool:
        """Whether clients hold the whole model, so that there are no hosts."""
        return self.split.placement in WHOLE

    def group_of(self, client: str) -> list[str]:
        """The clients of a settled group, in order."""
        return [name for name in self.clients if self.groups[name] == self.groups[client]]

    def training_of(self, client: str) -> Training:
        """How a client trains: one that has gathered the text of several takes their steps, too."""
        if self.split.placement != "gathered":
            return self.training
        steps = self.training.steps * len(self.group_of(client))
        return self.training.model_copy(update={"steps": steps})

    @property
    def signs(self) -> bool:
        """Whether signatures are taken: for the grouping, or to know who is like whom."""
        how = self.aggregation
        moves = how.between > 0 and how.grouping != "one"
        return how.grouping in BY_SIGNATURE or moves or how.weighs_signatures

    @property
    def introducing(self) -> tuple[str, ...]:
        """Who says hello: all devices, and the coordinator's node where it is a server."""
        server = (self.coordinator,) if self.split.placement == "server" else ()
        return (*self.devices, *server)

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

    def measures(self, round_: int) -> bool:
        """Whether clients take their signatures again in this round."""
        return measures(self.drift, round_, self.training.rounds)

    @property
    def signatures(self) -> int:
        """How often a client takes its signature: before the first round, and in measured ones."""
        return 1 + looks(self.drift, self.training.rounds)

    @property
    def fixed_a(self) -> bool:
        """Whether no A of LoRA's is trained."""
        return self.aggregation.method == "ffa"

    @functools.cached_property
    def most_pull(self) -> float:
        """Below this, steps along the graph of the clients settle, and along each part of it."""
        if self.aggregation.graph == "random":
            return settling(random_graph(self.clients, self.seed))
        return 2 / len(self.clients)  # as if all were alike

    @property
    def pull(self) -> float:
        """How far clients move along the edges of their graph."""
        said = self.aggregation.pull
        return min(0.1 * self.most_pull, 1.0) if said is None else said

    def require_state(self, state: Mapping[str, torch.Tensor], part: Part | None = None) -> None:
        """Raises ProtocolError unless this is a state of the whole model as the run's method has
        it, or that part of one. Frozen pairs may be of any rank. Nothing is a state where each
        client has its own: it keeps that.
        """
        if not state and part is handed_back and self.aggregation.method in ADDRESSED:
            return
        shapes = lora_shapes(self.spec, self.lora)
        adapter, frozen = parted(state)
        whole: Mapping[str, torch.Tensor] = dict.fromkeys(shapes, torch.empty(0))
        expected = whole if part is None else parted(part(self.aggregation.method, whole))[0]
        odd = sorted(adapter.keys() ^ expected.keys() or frozen.keys() - shapes.keys())
        odd += [name for name, tensor in adapter.items() if tensor.shape != shapes.get(name)]
        odd += [
            name
            for name, tensor in frozen.items()
            if name in shapes and _width(name, tensor.shape) != _width(name, shapes[name])
        ]
        odd += [name for name, tensor in state.items() if tensor.dtype != torch.float32]
        if odd:
            raise ProtocolError(f"{odd[0]} is not as this run's adapters have it")

    def draws(self, client: str, round: int, step: int, micro: int) -> Draws | None:
        """What dropout draws there. Signatures, taken before round 0, are taken without dropout."""
        return Draws(self.seed, client, round, step, micro) if round >= 0 else None

    @property
    def own_cost(self) -> StepCost:
        """What one batch costs where nothing is split."""
        own = self.flops(self.ends) + costs.head_flops(self.spec, self.training.batch)
        return StepCost(own, 0, (), self.training.steps * self.training.accumulate)

    def step_cost(self, count: int) -> StepCost:
        """What one batch costs when the layers between are cut into `count` spans."""
        return StepCost(
            own_flops=self.own_cost.own_flops,
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
        base_bytes = costs.span_base_bytes(self.spec, span)
        if self.split.labels == "server" and span.last == self.spec.layers:
            base_bytes += costs.ends_bytes(self.spec, self.lora, Range(0, 0), *shape)
        if self.split.trunk == "shared":
            base_bytes += self.training.steps * costs.adapter_bytes(self.spec, self.lora, span)
        return SpanCost(
            span.first,
            span.last,
            base_bytes,
            costs.span_session_bytes(
                self.spec, span, self.lora, *shape, optimizer=self.recovery.keep == "host"
            )
            + self.frozen_bytes(span),
            self.flops(span),
            costs.adapter_bytes(self.spec, self.lora, span),
        )

    def frozen_bytes(self, layers: Range) -> int:
        """Most memory that one client's frozen pairs can come to take in the last round: each round
        adds LoRA's rank for each client, and with fedex once more for each neighborhood.
        """
        per_client = {"flora": 1, "fedex": 2}.get(self.aggregation.method, 0)
        rank = per_client * self.lora.rank * len(self.clients) * (self.training.rounds - 1)
        return costs.frozen_bytes(self.spec, self.lora, layers, rank)

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
        now = int(counts.max()) * self.training.batch
        return max(now, self.most_labels(data.then)) if data.then else now

    def ends_bytes(self, labels: int) -> int:
        """Memory that a client's own part of a step takes, with what it keeps for its hosts."""
        shape = (self.training.batch, self.training.tokens)
        own = costs.ends_bytes(self.spec, self.lora, self.ends, *shape, labels=labels)
        return own + self.frozen_bytes(self.ends) + self._kept_bytes()

    def _kept_bytes(self) -> int:
        """What a client keeps in case a host is lost: what it sent of the steps that another would
        repeat, and the state that these begin from, an own one and its hosts'.

        Where the cut is still to be chosen, that is for one span; each further one would send as
        much again.
        """
        if self.whole:
            return 0
        between = Range(self.split.kept_layers, self.spec.layers)
        spans = 1 if self.split.spans == "auto" else self.split.spans
        steps, states = self.training.steps, 0
        if self.recovery.keep == "client":
            steps = 1
            states = costs.LORA_BYTES * costs.lora_parameters(self.spec, self.lora, between)
        elif self.recovery.snapshot_every:
            steps = min(steps, self.recovery.snapshot_every + 1)
            states = costs.state_bytes(self.spec, self.lora, self.spec.whole)
        boundary = max(self.boundary_bytes(name) for name in self.clients)
        return spans * costs.history_bytes(boundary, self.training.accumulate, steps) + states

    def whole_step_bytes(self, labels: int) -> int:
        """Memory that one step of the unsplit model would take on one device."""
        shape = (self.training.batch, self.training.tokens)
        return costs.whole_step_bytes(self.spec, self.lora, *shape, labels=labels)


def _width(name: str, shape: Sequence[int]) -> int:
    """What a matrix of LoRA's shares with its projection: A's columns, B's rows; else 0."""
    if len(shape) != 2:
        return 0
    return shape[1] if ".lora_A." in name else shape[0]


@functools.lru_cache(maxsize=4)
def _spec(folder: Path, dtype: str) -> ModelSpec:
    return ModelSpec.read(folder, DTYPES[dtype])


@functools.lru_cache(maxsize=4)
def _tokenizer(folder: Path) -> Tokenizer:
    return assets.tokenizer(folder)
