"""The gradient of LoRA's B on each example by itself, taken once and kept as count sketches.

The gradient of a batch of n examples whose losses are averaged is the mean of its examples', so any
batch, any client and any deal can be made of these without the model. One pass takes sixteen
examples at once: with a [t, rank] what goes into B for one example and g [t, out] the gradient with
respect to what comes out, the example's own gradient of B is gᵀ a.

A pool is one file of the cache: `sketches` float32 [examples, parameters, 128], the squared norm of
each gradient before it was sketched, and the mean embedding of each text (for PACFL). A second file
has those of the same prompts with the answer of the next one in their block of eight, the last with
that of the first: as a client deals its answers (`atlas.semantics.meanings`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atlas import assets
from atlas.models import AdapterState, LoraSettings, ModelSpec, initial_adapter, skeleton
from atlas.models.stage import whole_model
from atlas.semantics.signature import projection
from atlas.tasks import Example, Tokenizer, batch

DIMENSIONS = 128
AT_ONCE = 16
BLOCK = 8
"""Examples that answers are dealt among: those of a half-signature."""
SEED = 0
LORA = LoraSettings()


@dataclass(frozen=True)
class Pool:
    """Examples of one kind: `sketches` [n, p, d], `squares` [n, p], `embeddings` [n, h].

    `answers` are those of the first examples, and `dealt` [m, p, d] what they give with the answer
    of the next in their block; empty where answers are free.
    """

    sketches: NDArray[np.float32]
    squares: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    answers: tuple[str, ...] = ()
    dealt: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0, 0), np.float32))

    def __len__(self) -> int:
        return len(self.sketches)


class Probe:
    """The whole model in fp32, that gives the gradient of B on each example by itself."""

    def __init__(self, name: str, adapter: AdapterState | None = None) -> None:
        folder = assets.model(name)
        self.spec = ModelSpec.read(folder)
        self.tokenizer: Tokenizer = assets.tokenizer(folder)
        self._model = whole_model(
            self.spec, LORA, adapter or initial_adapter(self.spec, LORA, SEED)
        )
        self.slots = skeleton.lora_slots(self._model)
        self.names = [name for name in self.slots if ".lora_B." in name]
        self._held: dict[str, tuple[Tensor, Tensor]] = {}
        for slot in self.names:
            self.slots[slot].register_forward_hook(self._watch(slot))

    def load(self, adapter: AdapterState) -> None:
        """Goes on with other values of A and B."""
        for name, module in self.slots.items():
            module._parameters["weight"] = nn.Parameter(adapter[name].clone(), requires_grad=False)

    def gradients(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Of each example's mean loss over its labels, by parameter: [n, out, rank]."""
        rows = batch(examples, self.tokenizer, 4096)
        with torch.enable_grad():
            body = skeleton.body_of(self._model)
            hidden = body(input_ids=rows.tokens, use_cache=False).last_hidden_state
            labeled = rows.targets >= 0
            logits = self._model.get_output_embeddings()(hidden[labeled])
            losses = torch.nn.functional.cross_entropy(
                logits.float(), rows.targets[labeled], reduction="none"
            )
            shares = 1.0 / labeled.sum(dim=1, keepdim=True).expand_as(labeled)[labeled]
            (losses * shares).sum().backward()
        found = {
            name: torch.einsum("bto,btr->bor", gradient, entering)
            for name, (entering, gradient) in self._held.items()
        }
        self._held.clear()
        return found

    def embeddings(self, examples: Sequence[Example]) -> Tensor:
        """Mean input embedding of each text, answer included: [n, h]."""
        table = self._model.get_input_embeddings()
        with torch.no_grad():
            means = []
            for one in examples:
                tokens = self.tokenizer.encode(
                    f"{one.prompt} {one.answer}", add_special_tokens=False
                )
                means.append(table(torch.tensor(tokens)).float().mean(dim=0))
        return torch.stack(means)

    def _watch(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            entering = arguments[0].detach()
            if not output.requires_grad:
                output = output.detach().requires_grad_()

            def keep(gradient: Tensor) -> None:
                self._held[name] = (entering, gradient.detach())

            output.register_hook(keep)
            return output

        return hook


def pool(file: Path, probe: Callable[[], Probe], examples: Callable[[], Sequence[Example]]) -> Pool:
    """The pool that the file has; made, and kept there, if there is none."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        made = take(probe(), examples())
        partial = file.with_suffix(".partial.npz")
        np.savez(
            partial,
            sketches=made.sketches,
            squares=made.squares,
            embeddings=made.embeddings,
        )
        partial.rename(file)
        print(f"{file.stem}: {len(made)} examples in {time.monotonic() - started:.0f} s")
    with np.load(file) as kept:
        return Pool(kept["sketches"], kept["squares"], kept["embeddings"])


def deal_answers(
    file: Path, probe: Callable[[], Probe], examples: Callable[[], Sequence[Example]]
) -> None:
    """Keeps in the file what examples give with each other's answers, if it isn't there."""
    if not file.is_file():
        own = examples()
        own = own[: len(own) // BLOCK * BLOCK]
        dealt = [
            replace(one, answer=own[n // BLOCK * BLOCK + (n + 1) % BLOCK].answer)
            for n, one in enumerate(own)
        ]
        sketches = take(probe(), dealt).sketches
        np.savez(file, sketches=sketches, answers=[one.answer for one in own])
        print(f"{file.stem}: {len(dealt)} examples")


def take(probe: Probe, examples: Sequence[Example]) -> Pool:
    """Gradients of all examples, sketched; those of about the same length share a pass."""
    order = sorted(range(len(examples)), key=lambda n: (len(examples[n].prompt), n))
    sketches = np.zeros((len(examples), len(probe.names), DIMENSIONS), np.float32)
    squares = np.zeros((len(examples), len(probe.names)), np.float32)
    for start in range(0, len(order), AT_ONCE):
        chosen = order[start : start + AT_ONCE]
        found = probe.gradients([examples[n] for n in chosen])
        sketches[chosen], squares[chosen] = sketched(found, probe.names)
    return Pool(sketches, squares, probe.embeddings(examples).numpy())


def sketched(
    gradients: Mapping[str, Tensor], names: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Count sketch of each example's gradient of each parameter, [n, p, d], and squared norms."""
    rows = next(iter(gradients.values())).shape[0]
    sketches = np.zeros((rows, len(names), DIMENSIONS), np.float32)
    squares = np.zeros((rows, len(names)), np.float32)
    for place, name in enumerate(names):
        values = gradients[name].reshape(rows, -1).double()
        buckets, signs = projection(name, values.shape[1], DIMENSIONS, SEED)
        total = torch.zeros(rows, DIMENSIONS, dtype=torch.float64)
        total.index_add_(1, torch.from_numpy(buckets), values * torch.from_numpy(signs))
        sketches[:, place] = total.float().numpy()
        squares[:, place] = values.square().sum(dim=1).numpy()
    return sketches, squares
