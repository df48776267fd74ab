"""LoRA's dropout, whose draws are a function of where in a run they are made, and of nothing else.

A step that is repeated, by whoever holds the layer then, draws what it drew before. What is drawn
is what `torch.nn.Dropout` draws from a global generator with the same seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Draws:
    """The random numbers of one client's micro-batch `micro` of a step of a round."""

    seed: int
    client: str
    round: int
    step: int
    micro: int = 0

    def seed_of(self, name: str) -> int:
        """The seed of what is drawn for the parameter `name`."""
        place = f"{self.seed} {self.client} {self.round} {self.step} {self.micro}"
        digest = sha256(f"dropout {place} {name}".encode()).digest()
        return int.from_bytes(digest[:8], "little")


class SeededDropout(nn.Module):
    """In place of the `nn.Dropout` in front of LoRA's A named `name`; it drops a share `rate`.

    Whoever runs the layer says in `draws` where in the run it is; without, as in evaluation, the
    input passes as it is. Source of the formula: Hinton et al., Improving neural networks by
    preventing co-adaptation of feature detectors, 2012, scaled by 1 / (1 - rate) as torch does.
    """

    def __init__(self, rate: float, name: str) -> None:
        super().__init__()
        self.rate = rate
        self.name = name
        self.draws: Draws | None = None

    def forward(self, value: Tensor) -> Tensor:
        """`value` [b, t, in] with some elements set to 0 and the others made larger."""
        noise = self.noise(value)
        return value if noise is None else value * noise

    def noise(self, value: Tensor) -> Tensor | None:
        """What `value` is multiplied by: 0 or 1 / (1 - rate), of its shape; None for nothing."""
        if self.draws is None:
            return None
        generator = torch.Generator().manual_seed(self.draws.seed_of(self.name))
        noise = torch.empty_like(value).bernoulli_(1 - self.rate, generator=generator)
        return noise.div_(1 - self.rate)
