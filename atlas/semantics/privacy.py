"""Signatures that are private by example: each example's sketch clipped, and Gaussian noise.

What is protected is one example of a client's text, against whoever sees the client's signature:
its presence changes the sum of clipped sketches by at most the clipping length. The two halves of a
signature are made of disjoint examples, so one example changes one half only, and both together are
one release. What an example's absence means is that its sketch is zero (zero-out adjacency; Kairouz
et al., Practical and Private (Deep) Learning without Sampling or Shuffling, 2021): which other
examples are drawn doesn't depend on it.

Nothing else that a client sends is protected by this: not activations, not gradients to hosts, not
adapters; and a host that sketches its layers sees that part of each example's gradient.

Releases of a Gaussian mechanism compose exactly: with noise of `multiplier` times the clipping
length each is μ-GDP with μ = 1 / multiplier, and n of them are √(Σ μ²)-GDP (Dong, Roth and Su,
Gaussian Differential Privacy, 2022, corollary 3.3). So no bound is lost, and none has to be
computed numerically.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

MOST_EPSILON = 1e4
_HALVINGS = 200


def failure(epsilon: float, mu: float) -> float:
    """δ(ε) of a μ-GDP mechanism: Φ(μ/2 - ε/μ) - exp(ε) Φ(-μ/2 - ε/μ).

    Exact for the Gaussian mechanism, where μ is sensitivity over deviation. Source: Balle and Wang,
    Improving the Gaussian Mechanism for Differential Privacy, 2018, theorem 8.
    """
    if mu <= 0:
        return 0.0
    above = math.exp(log_ndtr(mu / 2 - epsilon / mu))
    return max(above - math.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu)), 0.0)


def noise_multiplier(epsilon: float, delta: float, *, releases: int = 1) -> float:
    """Deviation of the noise, in clipping lengths, of each of `releases` that together are (ε, δ).

    The analytic Gaussian mechanism: the least noise that suffices, found by bisection on
    `failure`. Raises ValueError if ε isn't above 0, δ not between 0 and 1, or there is no release.
    """
    if not (0 < epsilon <= MOST_EPSILON and 0 < delta < 1 and releases >= 1):
        raise ValueError(f"there is no ({epsilon}, {delta})-privacy over {releases} releases")
    low, high = 0.0, 1.0
    while failure(epsilon, high) <= delta:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if failure(epsilon, middle) <= delta else (low, middle)
    return math.sqrt(releases) / low


def spent(multipliers: Sequence[float], delta: float) -> float:
    """The least ε for which releases with these noise multipliers are (ε, δ) together.

    0 for no release. Raises ValueError if that is above `MOST_EPSILON`.
    """
    mu = math.sqrt(sum(multiplier**-2 for multiplier in multipliers))
    if failure(0.0, mu) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while failure(high, mu) > delta:
        low, high = high, 2 * high
        if high > MOST_EPSILON:
            raise ValueError(f"noise of {min(multipliers)} clipping lengths keeps nothing private")
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if failure(middle, mu) <= delta else (middle, high)
    return high


def private_sum(
    sketches: NDArray[np.floating], *, clip: float, multiplier: float, key: str
) -> NDArray[np.float64]:
    """Noisy sum of single examples' sketches, [examples, dimensions], each cut to length `clip`.

    Noise of deviation `multiplier` · `clip` is added to each dimension. It is drawn from `key`
    alone, so that a run can be repeated: who knows the key can take the noise off again. On real
    devices the key has to be the client's secret, and used once.
    """
    rows = np.asarray(sketches, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    total = (rows * np.minimum(1.0, clip / np.maximum(lengths, 1e-300))).sum(axis=0)
    stream = np.random.Philox(key=int.from_bytes(sha256(key.encode()).digest()[:16], "little"))
    noise = np.random.Generator(stream).normal(size=total.shape)
    noisy: NDArray[np.float64] = total + multiplier * clip * noise
    return noisy
