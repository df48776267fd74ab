"""What a person may choose about LoRA. No torch here: `atlas config` prints these without it."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator


class LoraSettings(BaseModel):
    """The low-rank adapters that are trained: W + scaling B A, A [rank, in], B [out, rank].

    `targets` are the names of the linear projections inside a layer that get one (PEFT's
    `target_modules`). A sees its input with a share `dropout` of it left out. With `fused` the
    update is computed by one function in the model's own number format instead of PEFT's
    operations: faster, and the same for every cut, but not the same bits as PEFT's. Sources: Hu et
    al., LoRA: Low-Rank Adaptation of Large Language Models, 2021; Kalajdzievski, A Rank
    Stabilization Scaling Factor for Fine-Tuning with LoRA, 2023.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[int, Field(ge=1)] = 16
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("q_proj", "v_proj")
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    rslora: bool = False
    fused: bool = False

    @property
    def scaling(self) -> float:
        """What B A is multiplied by: alpha / rank, with `rslora` alpha / √rank."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @field_validator("targets")
    @classmethod
    def _each_target_once(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(targets)) != len(targets):
            raise ValueError("names a projection twice; name each once")
        return targets
