"""Private signatures: the noise is the closed form's, releases compose, examples are clipped."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from atlas.semantics import noise_multiplier, private_sum, spent
from atlas.semantics.privacy import failure
from atlas.tasks import Batch

EPSILONS = st.floats(0.05, 50.0)
DELTAS = st.floats(1e-9, 0.1)


def by_definition(epsilon: float, mu: float) -> float:
    """The hockey-stick divergence of N(mu, 1) from N(0, 1), integrated."""
    log_ratio = epsilon / mu + mu / 2
    value, _ = quad(
        lambda x: norm.pdf(x, mu) - math.exp(epsilon) * norm.pdf(x), log_ratio, log_ratio + 40
    )
    return float(value)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("mu", [0.2, 1.0, 3.0])
def test_the_closed_form_is_the_divergence_of_two_gaussians(epsilon: float, mu: float) -> None:
    assert failure(epsilon, mu) == pytest.approx(by_definition(epsilon, mu), rel=1e-5, abs=1e-10)


@given(epsilon=EPSILONS, delta=DELTAS)
@settings(deadline=None, max_examples=40)
def test_the_noise_is_the_least_that_suffices(epsilon: float, delta: float) -> None:
    mu = 1 / noise_multiplier(epsilon, delta)
    assert failure(epsilon, mu) <= delta * (1 + 1e-9) < failure(epsilon, mu * 1.001)


def test_the_noise_is_less_than_the_classical_bound_asks_for() -> None:
    assert noise_multiplier(1.0, 1e-5) == pytest.approx(3.7306, abs=1e-3)
    assert noise_multiplier(1.0, 1e-5) < math.sqrt(2 * math.log(1.25e5))


@given(epsilon=EPSILONS, delta=DELTAS, releases=st.integers(1, 50))
@settings(deadline=None, max_examples=40)
def test_releases_spend_what_they_were_given(epsilon: float, delta: float, releases: int) -> None:
    each = noise_multiplier(epsilon, delta, releases=releases)
    assert spent([each] * releases, delta) == pytest.approx(epsilon, rel=1e-6)
    if releases > 1:
        assert spent([each], delta) < epsilon


def test_nothing_released_spends_nothing_and_no_noise_is_no_privacy() -> None:
    assert spent([], 1e-5) == 0.0
    with pytest.raises(ValueError, match="nothing private"):
        spent([1e-6], 1e-5)


@pytest.mark.parametrize(("epsilon", "delta", "releases"), [(0, 1e-5, 1), (1, 0, 1), (1, 1e-5, 0)])
def test_what_is_no_privacy_is_refused(epsilon: float, delta: float, releases: int) -> None:
    with pytest.raises(ValueError, match="privacy over"):
        noise_multiplier(epsilon, delta, releases=releases)


@given(seed=st.integers(0, 2**32 - 1), taken=st.integers(0, 7), clip=st.floats(0.01, 10.0))
@settings(deadline=None, max_examples=40)
def test_an_example_changes_the_sum_by_the_clipping_length_at_most(
    seed: int, taken: int, clip: float
) -> None:
    rows = np.random.default_rng(seed).lognormal(0.0, 2.0, size=(8, 16))
    without = rows.copy()
    without[taken] = 0
    both = [private_sum(given, clip=clip, multiplier=1.0, key="a") for given in (rows, without)]
    assert np.linalg.norm(both[0].astype(float) - both[1]) <= clip * (1 + 1e-3)


def test_short_examples_are_not_cut() -> None:
    rows = np.array([[0.3, 0.0], [0.0, 0.4]])
    assert private_sum(rows, clip=1.0, multiplier=0.0, key="a") == pytest.approx([0.3, 0.4])
    assert private_sum(rows, clip=0.3, multiplier=0.0, key="a") == pytest.approx([0.3, 0.3])


def test_the_noise_has_the_deviation_it_should_and_is_the_same_again() -> None:
    noise = private_sum(np.zeros((1, 20_000)), clip=2.0, multiplier=3.0, key="a")
    assert noise.std() == pytest.approx(6.0, rel=0.05)
    assert np.array_equal(
        noise, private_sum(np.zeros((1, 20_000)), clip=2.0, multiplier=3.0, key="a")
    )
    other = private_sum(np.zeros((1, 20_000)), clip=2.0, multiplier=3.0, key="b")
    assert abs(np.corrcoef(noise, other)[0, 1]) < 0.05


def test_an_example_by_itself_is_the_batch_of_one() -> None:
    tokens = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
    targets = torch.tensor([[-100, -100, 8, 3], [-100, 11, -100, -100]])
    first, second = Batch(tokens, targets).singly()
    assert torch.equal(first.tokens, tokens[:1])
    assert second.tokens.tolist() == [[9, 10]]
    assert second.targets.tolist() == [[-100, 11]]
