"""What was merged into the base counts as if it had been added to its weights, on every cut."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from atlas.journal import Journal, begin, load
from atlas.models import (
    AdapterState,
    LoraSettings,
    ModelSpec,
    ProtocolError,
    Range,
    Session,
    Stage,
    whole_model,
)
from atlas.models.grouping import Group

from .conftest import trained
from .test_exactness import assert_equal, batch, split_step

CUTS = [(0, 4), (1, 4), (2, 3, 4), (1, 2, 3, 4), (4,)]


def merged(spec: ModelSpec, lora: LoraSettings, rank: int = 5) -> AdapterState:
    """A pair of a rank of its own for every projection that has LoRA."""
    settings = lora.model_copy(update={"rank": rank})
    return {name: 0.3 * tensor for name, tensor in trained(spec, settings, seed=7).items()}


def chain(
    spec: ModelSpec,
    lora: LoraSettings,
    state: AdapterState,
    cuts: tuple[int, ...],
    frozen: AdapterState,
) -> list[Session]:
    stages = [Stage.load(spec, Range(0, cuts[0]), ends=True, lora=lora)]
    stages += [Stage.load(spec, Range(*ends), lora=lora) for ends in pairwise(cuts)]
    return [Session(stage, state, learning_rate=1e-2, frozen=frozen) for stage in stages]


def dense(stage: Stage, frozen: AdapterState) -> None:
    """Adds the products to the weights themselves."""
    for name, module in stage._pool.first.front.named_modules():
        if hasattr(module, "base_layer"):
            of = f"base_model.model.model.{name}"
            product = frozen[f"{of}.lora_B.weight"] @ frozen[f"{of}.lora_A.weight"]
            weight = module.base_layer.weight
            added = product if weight.shape == product.shape else product.T
            module.base_layer.weight = torch.nn.Parameter(weight + added, requires_grad=False)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_a_merged_pair_is_the_dense_model_with_the_product_in_its_weights(
    fused: bool, dropout: float, spec: ModelSpec, lora: LoraSettings
) -> None:
    lora = lora.model_copy(update={"fused": fused, "dropout": dropout})
    state, frozen = trained(spec, lora, seed=1), merged(spec, lora)
    found = chain(spec, lora, state, (4,), frozen)
    plain = chain(spec, lora, state, (4,), {})
    before = split_step(plain, *batch(spec.vocabulary, 0))
    plain[0].discard()
    loss, gradients = split_step(found, *batch(spec.vocabulary, 0))
    dense(plain[0].stage, frozen)  # these modules are those of the other chain, too
    expected = split_step(plain, *batch(spec.vocabulary, 0))
    assert abs(loss - before[0]) > 1e-3
    assert abs(loss - expected[0]) < 1e-5
    for name, gradient in gradients.items():
        assert (gradient - expected[1][name]).abs().max() < 1e-5


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_merged_pairs_give_the_same_bits_on_every_cut(
    family: str, folder_of: Callable[[str], Path], lora: LoraSettings
) -> None:
    spec = ModelSpec.read(folder_of(family))
    state, frozen = trained(spec, lora, seed=1), merged(spec, lora)
    expected = None
    for cuts in CUTS:
        sessions = chain(spec, lora, state, cuts, frozen)
        found = []
        for step in range(2):
            found.append(split_step(sessions, *batch(spec.vocabulary, step)))
            for session in sessions:
                session.commit()
        expected = expected or found
        for one, other in zip(found, expected, strict=True):
            assert one[0] == other[0], cuts
            assert_equal(one[1], other[1])


def test_the_whole_model_for_evaluation_has_them_too(spec: ModelSpec, lora: LoraSettings) -> None:
    state, frozen = trained(spec, lora, seed=1), merged(spec, lora)
    (session,) = chain(spec, lora, state, (4,), frozen)
    tokens, _ = batch(spec.vocabulary, 0)
    model = whole_model(spec, lora, state, frozen)
    with torch.no_grad():
        expected = model(input_ids=tokens).logits
    hidden = session.embed(tokens)
    rows = session.stage.logits(hidden.reshape(-1, spec.hidden))
    assert torch.equal(rows.reshape(expected.shape), expected)


def test_pairs_are_shared_and_each_client_has_its_own(spec: ModelSpec, lora: LoraSettings) -> None:
    stage = Stage.load(spec, Range(1, 3), lora=lora)
    state, frozen = trained(spec, lora, seed=1), merged(spec, lora)
    hidden = torch.randn(2, 5, spec.hidden, generator=torch.Generator().manual_seed(0))
    with_pairs = Session(stage, state, learning_rate=1.0, frozen=frozen)
    kept = [tensor for pair in with_pairs.pairs.values() for tensor in pair]
    assert {tensor.data_ptr() for tensor in kept} <= {t.data_ptr() for t in frozen.values()}
    assert len(kept) == 2 * len(with_pairs.pairs) == 2 * 2 * 3

    def output(session: Session) -> Tensor:
        given = session.forward(hidden)
        session.discard()
        return given

    first = output(with_pairs)
    without = output(Session(stage, state, learning_rate=1.0))
    assert not torch.equal(first, without)
    assert torch.equal(output(with_pairs), first)
    assert with_pairs.adapter().keys() == stage.shapes.keys()


def test_bf16_keeps_pairs_in_fp32(folder_of: Callable[[str], Path], lora: LoraSettings) -> None:
    spec = ModelSpec.read(folder_of("llama"), torch.bfloat16)
    state, frozen = trained(spec, lora, seed=1), merged(spec, lora)
    split = chain(spec, lora, state, (1, 4), frozen)
    whole = chain(spec, lora, state, (4,), frozen)
    for sessions in (split, whole):
        assert all(t.dtype is torch.float32 for p in sessions[0].pairs.values() for t in p)
    one, other = (split_step(s, *batch(spec.vocabulary, 0)) for s in (split, whole))
    assert one[0] == other[0]
    assert_equal(one[1], other[1])


def test_a_pair_that_does_not_fit_is_refused(spec: ModelSpec, lora: LoraSettings) -> None:
    stage = Stage.load(spec, Range(1, 3), lora=lora)
    state, frozen = trained(spec, lora, seed=1), merged(spec, lora)
    name = next(name for name in frozen if ".1." in name and "lora_A" in name)
    with pytest.raises(ProtocolError, match="half"):
        Session(stage, state, learning_rate=1.0, frozen={name: frozen[name]})
    with pytest.raises(ProtocolError, match="times"):
        Session(stage, state, learning_rate=1.0, frozen=frozen | {name: frozen[name][:, 1:]})


def test_a_group_shares_one_pair(spec: ModelSpec, lora: LoraSettings) -> None:
    lora = lora.model_copy(update={"fused": True})
    stage, frozen = Stage.load(spec, Range(1, 3), lora=lora), merged(spec, lora)
    states = [trained(spec, lora, seed) for seed in (1, 2)]
    hidden = [
        torch.randn(2, 5, spec.hidden, generator=torch.Generator().manual_seed(s)) for s in (3, 4)
    ]
    sessions = [Session(stage, state, learning_rate=1.0, frozen=frozen) for state in states]
    expected = [session.forward(x) for session, x in zip(sessions, hidden, strict=True)]
    for session in sessions:
        session.discard()
    for found, one in zip(Group(sessions).forward(hidden), expected, strict=True):
        assert torch.equal(found, one)
    other = Session(stage, states[0], learning_rate=1.0)
    with pytest.raises(ValueError, match="merged"):
        Group([sessions[0], other])


def test_the_journal_tells_sessions_with_other_pairs_apart(
    spec: ModelSpec, lora: LoraSettings, tmp_path: Path
) -> None:
    state, frozen = trained(spec, lora, seed=1), merged(spec, lora)
    hidden = torch.randn(2, 5, spec.hidden, generator=torch.Generator().manual_seed(0))

    def life() -> tuple[list[Tensor], Journal]:
        journal = Journal(tmp_path, b"world")
        stage = load(journal, Stage.load, spec, Range(1, 3), lora=lora)
        outputs = [
            begin(journal, Session, stage, state, learning_rate=1.0, frozen=given).forward(hidden)
            for given in ({}, frozen)
        ]
        journal.close()
        return outputs, journal

    (plain, with_pairs), _ = life()
    assert not torch.equal(plain, with_pairs)
    (again, with_pairs_again), journal = life()
    assert journal.computed == 0
    assert torch.equal(plain, again)
    assert torch.equal(with_pairs, with_pairs_again)
