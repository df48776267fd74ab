"""What was merged into the base: a frozen low-rank pair beside a projection, y + B (A x).

Some ways to combine adapters (FLoRA, FedEx) add a product B A to the base's weights. The weights
themselves are shared by all and stay as they are, so the product is kept as its two factors. Each
client lends its own, by reference, for the length of a forward, as it lends its LoRA: clients whose
pairs differ are served by one stage. They are fp32, have no gradient, and cost a step nothing that
is kept until backward.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from atlas.models.tensors import ProtocolError

Pairs: TypeAlias = Mapping[str, tuple[Tensor, Tensor]]
"""A [r, in] and B [out, r] by the projection's name."""

A, B = ".lora_A.weight", ".lora_B.weight"


class Merged:
    """The door in a projection named `name` where its frozen pair, if it has one, comes in.

    `into` and `out` are the widths of the projection.
    """

    def __init__(self, name: str, projection: nn.Module, into: int, out: int) -> None:
        self.name = name
        self.pair: tuple[Tensor, Tensor] | None = None
        self._into, self._out = into, out
        projection.register_forward_hook(self._add)

    def pair_of(self, frozen: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
        """The projection's own pair, which is not copied; None if it has none.

        Raises ProtocolError if half of it is missing or it doesn't fit the projection.
        """
        a, b = frozen.get(self.name + A), frozen.get(self.name + B)
        if a is None and b is None:
            return None
        if a is None or b is None:
            raise ProtocolError(f"one half of the frozen pair of {self.name} is missing")
        if a.shape != (len(a), self._into) or b.shape != (self._out, len(a)):
            raise ProtocolError(
                f"the frozen pair of {self.name} is {list(b.shape)} times {list(a.shape)}, and the "
                f"projection is [{self._out}, {self._into}]"
            )
        return a.detach().to(torch.float32), b.detach().to(torch.float32)

    def _add(self, _: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if self.pair is None:
            return None
        a, b = self.pair
        added = linear(linear(arguments[0].to(a.dtype), a), b)
        return output + added.to(output.dtype)
