"""What a person may choose about LoRA. No torch here: `atlas config` prints these without it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class LoraSettings(BaseModel):
    """The low-rank adapters that are trained: W + (alpha / rank) B A, A [rank, in], B [out, rank].

    `targets` are the names of the linear projections inside a layer that get one (PEFT's
    `target_modules`); `all-linear` means each of them, `auto` those that PEFT chooses for the
    family: queries and values, by themselves or in one. Source: Hu et al., LoRA: Low-Rank
    Adaptation of Large Language Models, 2021.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[int, Field(ge=1)] = 16
    targets: Literal["auto", "all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = (
        "auto"
    )

    @field_validator("targets")
    @classmethod
    def _each_target_once(cls, targets: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not isinstance(targets, str) and len(set(targets)) != len(targets):
            raise ValueError("names a projection twice; name each once")
        return targets
