"""Each method does what its paper's formula says, held against dense matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from atlas.aggregation import (
    METHODS,
    Combined,
    Round,
    between,
    combine,
    completed,
    handed_back,
    handed_in,
    joined,
    low_rank,
    parted,
    product_of,
    stack,
)
from atlas.aggregation.pairs import norm_of
from atlas.config import Aggregation
from atlas.models import AdapterState

MODULES = ("layers.0.q_proj", "layers.1.v_proj")
IN, OUT = 12, 10


def scale(rank: int) -> float:
    return 16 / rank


def adapter(seed: int, rank: int = 4) -> AdapterState:
    generator = torch.Generator().manual_seed(seed)
    state: AdapterState = {}
    for module in MODULES:
        state[f"{module}.lora_A.weight"] = torch.randn(rank, IN, generator=generator)
        state[f"{module}.lora_B.weight"] = torch.randn(OUT, rank, generator=generator)
    return state


def a_round(adapters: Sequence[AdapterState], examples: Sequence[float] = ()) -> Round:
    names = [f"client-{number}" for number in range(len(adapters))]
    fresh = adapter(99)
    for name in fresh:
        if ".lora_B." in name:
            fresh[name] = torch.zeros_like(fresh[name])
    return Round(
        adapters=dict(zip(names, adapters, strict=True)),
        examples=dict(zip(names, examples or [1.0] * len(names), strict=True)),
        start=adapter(98),
        fresh=fresh,
        scale=scale,
    )


def effect(state: AdapterState, module: str) -> Tensor:
    """What an adapter adds to a weight: s(r) B A."""
    return scale(state[f"{module}.lora_A.weight"].shape[0]) * product_of(state, module)


def mean_effect(given: Round, module: str) -> Tensor:
    return sum(
        share * effect(given.adapters[client], module) for client, share in given.shares.items()
    )  # type: ignore[return-value]


def after(combined: Combined, client: str, module: str) -> Tensor:
    total = effect(combined.adapters[client], module)
    return total + product_of(combined.frozen, module) if combined.frozen else total


MIXED = ([adapter(1, 2), adapter(2, 4), adapter(3, 3)], (10.0, 30.0, 60.0))
EQUAL = ([adapter(1), adapter(2), adapter(3)], (10.0, 30.0, 60.0))


@pytest.mark.parametrize("method", ["flora", "fedex"])
def test_methods_that_freeze_what_is_left_over_are_exact(method: str) -> None:
    given = a_round(*EQUAL)
    found = METHODS[method](given)
    for module in MODULES:
        for client in given.adapters:
            torch.testing.assert_close(
                after(found, client, module), mean_effect(given, module), rtol=1e-5, atol=1e-4
            )


def test_stacking_takes_any_ranks_and_begins_anew() -> None:
    given = a_round(*MIXED)
    found = METHODS["flora"](given)
    assert all(state == given.fresh for state in found.adapters.values())
    for module in MODULES:
        torch.testing.assert_close(
            product_of(found.frozen, module), mean_effect(given, module), rtol=1e-5, atol=1e-4
        )
        assert found.frozen[f"{module}.lora_A.weight"].shape[0] == 2 + 4 + 3


def test_flexlora_gives_each_client_the_nearest_product_of_its_own_rank() -> None:
    given = a_round(*MIXED)
    found = METHODS["flexlora"](given)
    for client, own in given.adapters.items():
        for module in MODULES:
            rank = own[f"{module}.lora_A.weight"].shape[0]
            u, singular, v = torch.linalg.svd(mean_effect(given, module))
            nearest = u[:, :rank] @ singular[:rank].diag() @ v[:rank]
            assert found.adapters[client][f"{module}.lora_B.weight"].shape == (OUT, rank)
            torch.testing.assert_close(
                effect(found.adapters[client], module), nearest, rtol=1e-5, atol=1e-4
            )


def test_fedit_misses_the_mean_product_and_fedex_keeps_fedits_adapter() -> None:
    given = a_round(*EQUAL)
    fedit, fedex = METHODS["fedit"](given), METHODS["fedex"](given)
    for client in given.adapters:
        for name, tensor in fedit.adapters[client].items():
            assert torch.equal(tensor, fedex.adapters[client][name])
    missed = mean_effect(given, MODULES[0]) - effect(fedit.adapters["client-0"], MODULES[0])
    assert missed.norm() > 0.1 * mean_effect(given, MODULES[0]).norm()


def test_fedsa_shares_a_and_leaves_b_to_each_client() -> None:
    given = a_round(*EQUAL)
    found = METHODS["fedsa"](given)
    for client, own in given.adapters.items():
        for module in MODULES:
            b, a = f"{module}.lora_B.weight", f"{module}.lora_A.weight"
            assert torch.equal(found.adapters[client][b], own[b])
            expected = sum(
                share * given.adapters[other][a].double() for other, share in given.shares.items()
            )
            assert torch.equal(found.adapters[client][a], expected.float())  # type: ignore[union-attr]


def test_ffa_is_exact_over_one_frozen_a_and_refuses_another() -> None:
    start = adapter(98)
    states = []
    for seed in (1, 2, 3):
        own = adapter(seed)
        states.append({n: start[n] if ".lora_A." in n else own[n] for n in own})
    given = a_round(states, (1.0, 2.0, 3.0))
    found = METHODS["ffa"](given)
    for module in MODULES:
        torch.testing.assert_close(
            after(found, "client-0", module), mean_effect(given, module), rtol=1e-5, atol=1e-4
        )
    with pytest.raises(ValueError, match="client-0 has trained layers"):
        METHODS["ffa"](a_round(*EQUAL))


def test_hetlora_weighs_by_strength_pads_and_cuts() -> None:
    given = a_round(*MIXED)
    found = METHODS["hetlora"](given)
    for module in MODULES:
        a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
        norms = [effect(own, module).norm() for own in given.adapters.values()]
        mean_a, mean_b = torch.zeros(4, IN).double(), torch.zeros(OUT, 4).double()
        for norm, own in zip(norms, given.adapters.values(), strict=True):
            rank = own[a].shape[0]
            mean_a[:rank] += norm / sum(norms) * own[a]
            mean_b[:, :rank] += norm / sum(norms) * own[b]
        for client, own in given.adapters.items():
            rank = own[a].shape[0]
            torch.testing.assert_close(found.adapters[client][a], mean_a[:rank].float())
            torch.testing.assert_close(found.adapters[client][b], mean_b[:, :rank].float())


@pytest.mark.parametrize("method", sorted(METHODS))
def test_clients_that_agree_keep_what_they_agree_on(method: str) -> None:
    own = adapter(98)  # with the A that they started from, so that ffa is content
    given = a_round([own] * 5)
    found = METHODS[method](given)
    for module in MODULES:
        for client in given.adapters:
            torch.testing.assert_close(
                after(found, client, module), effect(own, module), rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_same_round_gives_the_same_bits_and_stays_as_it_was(method: str) -> None:
    start = adapter(98)
    states = [
        {n: start[n] if ".lora_A." in n else own[n] for n in own} for own in map(adapter, range(4))
    ]
    before = [{name: tensor.clone() for name, tensor in state.items()} for state in states]
    one, other = METHODS[method](a_round(states)), METHODS[method](a_round(states))
    for client in one.adapters:
        for name, tensor in one.adapters[client].items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, other.adapters[client][name])
    assert all(torch.equal(one.frozen[name], other.frozen[name]) for name in one.frozen)
    for state, kept in zip(states, before, strict=True):
        assert all(torch.equal(state[name], kept[name]) for name in kept)


@pytest.mark.parametrize("method", ["median", "trimmed-mean", "clipped-mean"])
def test_a_poisoned_client_ruins_the_plain_mean_and_not_the_robust_ones(method: str) -> None:
    honest = [
        {name: tensor + 0.05 * adapter(seed)[name] for name, tensor in adapter(98).items()}
        for seed in range(4)
    ]
    poisoned = {name: -50.0 * tensor for name, tensor in adapter(98).items()}
    truth = METHODS["fedit"](a_round(honest)).adapters["client-0"]

    def error(name: str, states: list[AdapterState]) -> float:
        found = METHODS[name](a_round(states)).adapters["client-0"]
        return max(float((found[key] - truth[key]).norm() / truth[key].norm()) for key in truth)

    assert error("fedit", [*honest, poisoned]) > 5
    assert error(method, [*honest, poisoned]) < 0.1
    assert error(method, honest) < 0.1


def test_a_trimmed_mean_leaves_out_that_share_at_both_ends() -> None:
    values = [1.0, 2.0, 3.0, 10.0, -90.0]
    states = [{"x.lora_A.weight": torch.tensor([[value]])} for value in values]
    for state in states:
        state["x.lora_B.weight"] = torch.zeros(1, 1)
    found = METHODS["trimmed-mean"](a_round(states)).adapters["client-0"]
    assert found["x.lora_A.weight"].item() == 2.0  # of -90, 1, 2, 3, 10 the middle three
    middle = METHODS["median"](a_round(states[:4])).adapters["client-0"]
    assert middle["x.lora_A.weight"].item() == 2.5


def test_a_pair_is_cut_to_the_rank_that_it_has() -> None:
    first = adapter(1, 3)
    a, b = (first[f"{MODULES[0]}.lora_{half}.weight"] for half in "AB")
    twice = stack([(1.0, (a, b)), (1.0, (a, b))])
    cut = low_rank(twice)
    assert twice[0].shape[0] == 6
    assert cut[0].shape[0] == 3
    torch.testing.assert_close(cut[1] @ cut[0], 2 * (b.double() @ a.double()))
    assert norm_of(cut) == pytest.approx(2 * float((b @ a).norm()))
    wide = low_rank((a, b), 5)
    assert wide[0].shape == (5, IN)
    assert not wide[0][3:].any()


def test_a_pair_of_zeros_stays_one() -> None:
    zero = low_rank((torch.ones(2, IN), torch.zeros(OUT, 2)))
    assert zero[0].shape == (1, IN)
    assert not (zero[1] @ zero[0]).any()


def test_adapters_of_other_modules_and_lone_halves_are_refused() -> None:
    other = {name.replace("q_proj", "k_proj"): tensor for name, tensor in adapter(1).items()}
    with pytest.raises(ValueError, match="not all adapters have layers"):
        METHODS["flora"](a_round([adapter(1), other]))
    with pytest.raises(ValueError, match="different shapes: ranks can be mixed with flexlora"):
        METHODS["fedit"](a_round(*MIXED))
    half = {name: tensor for name, tensor in adapter(1).items() if "1.v_proj.lora_B" not in name}
    with pytest.raises(ValueError, match="not half of a pair"):
        METHODS["flora"](a_round([half, half]))


SCORE = "score.weight"


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"laplacian"}))
def test_a_score_head_is_averaged_by_examples_by_every_method_that_weighs(method: str) -> None:
    heads = [torch.full((2, 3), float(value)) for value in (0, 10, 20)]
    given = a_round([adapter(7) | {SCORE: head} for head in heads], (10.0, 30.0, 60.0))
    given = replace(given, start=adapter(7) | {SCORE: torch.zeros(2, 3)})

    found = METHODS[method](given)

    robust = {"median": 10.0, "trimmed-mean": 10.0, "clipped-mean": 9.0}
    expected = torch.full((2, 3), robust.get(method, 15.0))
    for client in given.adapters:
        assert list(found.adapters[client]) == list(given.adapters[client])
        torch.testing.assert_close(found.adapters[client][SCORE], expected)
    assert SCORE not in found.frozen


@pytest.mark.parametrize("method", METHODS)
def test_with_what_is_handed_back_a_client_has_what_the_method_says(method: str) -> None:
    drawn = a_round([adapter(1)]).fresh
    kept_a = {name: tensor for name, tensor in drawn.items() if ".lora_A." in name}
    own = [adapter(seed) | (kept_a if method == "ffa" else {}) for seed in (1, 2, 3)]
    given = replace(a_round(own, (10.0, 30.0, 60.0)), start=drawn)
    found = METHODS[method](given)

    crossing = {client: handed_in(method, each) for client, each in given.adapters.items()}
    merged = combine(method, replace(given, adapters=crossing), {})

    for client, each in given.adapters.items():
        came = merged.own.get(client, merged.shared)
        adapter_, frozen = parted(completed(method, came, each, drawn))
        for name, tensor in found.adapters[client].items():
            assert torch.equal(adapter_[name], tensor), name
        for module in MODULES if found.frozen else ():
            torch.testing.assert_close(
                product_of(frozen, module), product_of(found.frozen, module), atol=1e-5, rtol=1e-5
            )
        assert handed_back(method, joined(adapter_, frozen)).keys() == came.keys()


def test_only_halves_cross_that_a_method_shares() -> None:
    state = joined(adapter(1) | {SCORE: torch.zeros(1, 1)}, adapter(2))

    assert all(".lora_A." in name or name == SCORE for name in handed_in("fedsa", state))
    assert all(".lora_B." in name or name == SCORE for name in handed_in("ffa", state))
    assert (
        handed_in("flora", state).keys()
        == handed_in("fedit", state).keys()
        == adapter(1).keys() | {SCORE}
    )
    assert {name.removeprefix("frozen.") for name in handed_back("flora", state)} == {
        SCORE,
        *adapter(2),
    }


def test_what_the_base_takes_over_adds_up_over_rounds() -> None:
    given = a_round(*EQUAL)
    once = parted(combine("flora", given, {}).shared)[1]
    twice = parted(combine("flora", given, once).shared)[1]
    for module in MODULES:
        torch.testing.assert_close(
            product_of(twice, module), 2 * product_of(once, module), rtol=1e-5, atol=1e-4
        )


def test_frozen_pairs_move_between_neighborhoods_as_the_matrices_they_stand_for() -> None:
    states = {"one": joined({}, adapter(1, 2)), "other": joined({}, adapter(2, 3))}
    similarity = np.array([[1.0, 0.5], [0.5, 1.0]])

    moved = parted(between(states, similarity, 0.5)["one"])[1]

    for module in MODULES:
        own, other = product_of(adapter(1, 2), module), product_of(adapter(2, 3), module)
        torch.testing.assert_close(
            product_of(moved, module), (own + 0.25 * other) / 1.25, rtol=1e-5, atol=1e-5
        )


def test_a_config_can_name_every_method_and_no_other() -> None:
    names = get_args(Aggregation.model_fields["method"].annotation)
    assert set(names) == set(METHODS)
    with pytest.raises(ValidationError):
        Aggregation(method="fedavg")
