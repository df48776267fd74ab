"""Clients whose batches go through a host together get what each would get alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from atlas.models import LoraSettings, ModelSpec, ProtocolError, Range, Session, Stage
from atlas.models.grouping import Group

from .conftest import trained

CLIENTS = 3


@pytest.fixture
def fused(lora: LoraSettings) -> LoraSettings:
    return lora.model_copy(update={"fused": True})


def sessions_on(stage: Stage) -> list[Session]:
    return [
        Session(stage, trained(stage.spec, stage.lora, seed), learning_rate=1e-2)
        for seed in range(CLIENTS)
    ]


def some(spec: ModelSpec, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(1, 8, spec.hidden, generator=generator).to(spec.dtype) for _ in range(CLIENTS)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_group_gives_each_client_the_bits_that_it_gets_alone(
    folder_of: Callable[[str], Path], fused: LoraSettings, dtype: torch.dtype
) -> None:
    spec = ModelSpec.read(folder_of("llama"), dtype)
    stage = Stage.load(spec, Range(1, 3), lora=fused)
    alone, together = sessions_on(stage), sessions_on(stage)
    group = Group(together)
    for step in range(2):
        given, gradients = some(spec, step), some(spec, 10 + step)
        outputs, backs = group.forward(given), group.backward(gradients)
        for number, session in enumerate(alone):
            assert torch.equal(session.forward(given[number]), outputs[number])
            back = session.backward(gradients[number])
            assert back is not None
            assert torch.equal(back, backs[number])
            session.commit()
            together[number].commit()
            for name, tensor in session.adapter().items():
                assert torch.equal(tensor, together[number].parameters[name]), name


def test_what_makes_no_group_is_refused(spec: ModelSpec, fused: LoraSettings) -> None:
    stage = Stage.load(spec, Range(1, 3), lora=fused)
    group = Group(sessions_on(stage))
    with pytest.raises(ProtocolError, match="of one shape"):
        group.forward([*some(spec, 0)[:2], torch.zeros(1, 5, spec.hidden)])
    with pytest.raises(RuntimeError, match="nothing to go back through"):
        group.backward(some(spec, 0))
    other = Stage.load(spec, Range(1, 3), lora=fused)
    with pytest.raises(ValueError, match="one stage"):
        Group([*sessions_on(stage), *sessions_on(other)])
    exact = Stage.load(spec, Range(1, 3), lora=fused.model_copy(update={"fused": False}))
    with pytest.raises(ValueError, match=r"lora\.fused"):
        Group(sessions_on(exact))
