"""Signatures add up over the holders of parts; neighborhoods are found where there are some."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from atlas.semantics import cluster, decode, encode, sketch

NAME = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"


def gradients(seed: int, layers: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {NAME.format(n, "B"): torch.randn(40, 8, generator=generator) for n in range(layers)}


def halves_of(
    groups: list[int], *, noise: float, seed: int, dimensions: int = 64
) -> dict[str, np.ndarray]:
    """Clients whose true signature is their group's, with noise of its own in each half."""
    generator = np.random.default_rng(seed)
    centers = generator.normal(size=(max(groups) + 1, dimensions))
    return {
        f"client-{index}": centers[group] + noise * generator.normal(size=(2, dimensions))
        for index, group in enumerate(groups)
    }


def labels(members: tuple[tuple[str, ...], ...]) -> list[int]:
    found = {name: index for index, group in enumerate(members) for name in group}
    return [found[f"client-{index}"] for index in range(len(found))]


@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(0, 6))
@settings(deadline=None, max_examples=30)
def test_sketches_of_parts_add_up_to_the_sketch_of_the_whole(seed: int, cut: int) -> None:
    whole = gradients(seed)
    names = list(whole)
    parts = [{name: whole[name] for name in some} for some in (names[:cut], names[cut:])]
    total = sum(sketch(part, dimensions=32, seed=seed) for part in parts)
    np.testing.assert_array_equal(total, sketch(whole, dimensions=32, seed=seed))


def test_a_sketch_is_linear_and_keeps_inner_products_on_average() -> None:
    one, other = gradients(1), gradients(2)
    mixed = {name: 0.6 * one[name] + 0.8 * other[name] for name in one}
    products = []
    for seed in range(200):
        a, b, m = (sketch(g, dimensions=64, seed=seed).astype(float) for g in (one, other, mixed))
        np.testing.assert_allclose(m, 0.6 * a + 0.8 * b, atol=1e-2)
        products.append(a @ m)
    true = sum(
        (depth + 1) ** 2 * float((one[name] * mixed[name]).sum()) for depth, name in enumerate(one)
    )
    assert np.mean(products) == pytest.approx(true, rel=0.05)


def test_gradients_of_a_are_left_out() -> None:
    with_a = {**gradients(1), NAME.format(0, "A"): torch.ones(8, 40)}
    assert np.array_equal(
        sketch(with_a, dimensions=64, seed=0), sketch(gradients(1), dimensions=64, seed=0)
    )


def test_names_and_seeds_have_projections_of_their_own() -> None:
    values = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    one, other = (
        sketch({NAME.format(n, "B"): values}, dimensions=64, seed=0).astype(float) for n in (0, 1)
    )
    reseeded = sketch({NAME.format(0, "B"): values}, dimensions=64, seed=1).astype(float)
    for different in (other, reseeded):
        cosine = one @ different / np.linalg.norm(one) / np.linalg.norm(different)
        assert abs(cosine) < 0.5


def test_deep_layers_count_for_more() -> None:
    values = torch.ones(40, 8)
    low, high = (
        sketch({NAME.format(n, "B"): values}, dimensions=64, seed=0).astype(float) for n in (1, 3)
    )
    assert (high**2).sum() == pytest.approx(4 * (low**2).sum(), rel=0.5)


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))
@settings(deadline=None, max_examples=30)
def test_a_signature_is_512_bytes_and_keeps_its_direction(seed: int, scale: float) -> None:
    halves = np.random.default_rng(seed).normal(size=(2, 256)) * [[scale], [1.0]]
    raw = encode(halves)
    assert len(raw) == 512
    for half, sent in zip(halves, decode(raw, 256).astype(float), strict=True):
        assert half @ sent / np.linalg.norm(half) / np.linalg.norm(sent) > 0.999


def test_a_signature_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="not 512 bytes"):
        decode(bytes(512), 128)
    assert not decode(encode(np.zeros((2, 16))), 16).any()


def test_a_sketch_is_known_in_advance() -> None:
    ramp = {NAME.format(3, "B"): torch.arange(12.0).reshape(6, 2)}
    assert sketch(ramp, dimensions=4, seed=7).tolist() == [0.0, -36.0, -4.0, -8.0]


def test_clear_groups_are_found_whatever_their_sizes() -> None:
    groups = [0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 0, 1]
    scores = []
    for seed in range(10):
        found = cluster(halves_of(groups, noise=0.7, seed=seed), seed=seed)
        scores.append(adjusted_rand_score(groups, labels(found.members)))
        assert found.p_value < 0.01
        assert ("client-3",) in found.members
    assert scores.count(1.0) >= 8
    assert min(scores) > 0.75


def test_neighborhoods_come_in_the_order_of_their_first_client() -> None:
    found = cluster(halves_of([0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 0, 1], noise=0.3, seed=0), seed=0)
    assert [group[0] for group in found.members] == [f"client-{n}" for n in range(4)]
    assert found.confidence == 1.0


@pytest.mark.parametrize("count", [6, 12])
def test_one_group_is_split_in_at_most_five_of_a_hundred_deals(count: int) -> None:
    splits = 0
    for seed in range(100):
        found = cluster(halves_of([0] * count, noise=1.0, seed=seed), seed=seed)
        splits += len(found.members) > 1
    assert splits <= 5


def test_a_division_that_the_halves_do_not_share_is_noise() -> None:
    found = cluster(halves_of([0] * 12, noise=1.0, seed=0), seed=0, significance=1.0)
    assert len(found.members) == 1
    assert found.silhouette is None
    assert found.confidence is None


def test_the_test_of_one_group_is_exact() -> None:
    values = [cluster(halves_of([0] * 7, noise=1.0, seed=s), seed=s).p_value for s in range(200)]
    assert 0.4 < np.mean(values) < 0.6
    assert np.mean(np.array(values) <= 0.05) < 0.1


@given(order=st.permutations(range(12)))
@settings(deadline=None, max_examples=10)
def test_neither_names_nor_order_change_who_belongs_together(order: list[int]) -> None:
    halves = halves_of([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2], noise=0.5, seed=3)
    renamed = {f"node-{index}": halves[f"client-{index}"] for index in order}
    found = {frozenset(group) for group in cluster(renamed, seed=0).members}
    assert found == {frozenset(f"node-{n}" for n in range(kind, 12, 3)) for kind in range(3)}


def test_outliers_stay_alone_each_by_itself() -> None:
    groups = [0, 0, 0, 0, 0, 1, 2]
    found = cluster(halves_of(groups, noise=0.3, seed=2), seed=0)
    assert found.members == (tuple(f"client-{n}" for n in range(5)), ("client-5",), ("client-6",))


def test_few_clients_are_not_centered_away() -> None:
    groups = [0, 0, 1, 1, 1]
    found = cluster(halves_of(groups, noise=0.3, seed=1), seed=0, significance=0.1)
    assert labels(found.members) == groups


@pytest.mark.parametrize("count", [1, 2, 3])
def test_too_few_clients_to_tell_stay_together(count: int) -> None:
    found = cluster(halves_of(list(range(count)), noise=0.1, seed=0), seed=0)
    assert len(found.members) == 1
    assert found.p_value > 0.05


def test_similarity_is_in_the_clients_order() -> None:
    groups = [0, 1, 0, 1, 0, 1]
    found = cluster(halves_of(groups, noise=0.2, seed=0), seed=0)
    alike = np.equal.outer(groups, groups)
    assert found.similarity[alike].min() > 0.5 > found.similarity[~alike].max()


def test_a_silent_client_is_no_error() -> None:
    halves = halves_of([0, 0, 1, 1, 1], noise=0.2, seed=0)
    halves["client-0"] = np.zeros((2, 64))
    assert np.isfinite(cluster(halves, seed=0).similarity).all()


def test_what_is_no_signature_is_refused() -> None:
    with pytest.raises(ValueError, match="no client"):
        cluster({}, seed=0)
    with pytest.raises(ValueError, match="half-signatures"):
        cluster({"a": np.zeros((3, 64))}, seed=0)
    with pytest.raises(ValueError, match="half-signatures"):
        cluster({"a": np.full((2, 64), np.nan)}, seed=0)
