"""A client's signature: its gradients of LoRA's B, projected to a few numbers.

The projection is a count sketch (Charikar, Chen and Farach-Colton, 2002): each element of each
parameter has a bucket and a sign of its own, drawn from a counter-based generator keyed by (seed,
parameter name), so every holder of layers draws the same ones without a word. It is linear, so the
sketches of parts add up to the sketch of the whole, and inner products are kept in expectation.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


def sketch(
    gradients: Mapping[str, Tensor], *, dimensions: int = 64, seed: int
) -> NDArray[np.float32]:
    """Project gradients to `dimensions` numbers: fp32 [dimensions].

    Gradients of LoRA's A are left out: they are zero while B is. Sums are taken in float64,
    parameter by parameter in the given order, and rounded once; parts of a model therefore add up
    to the whole's sketch up to fp32 rounding, and the same parts added in the same order always
    give the same bits.
    """
    total = np.zeros(dimensions)
    for name, gradient in gradients.items():
        if ".lora_A." in name:
            continue
        values = gradient.detach().reshape(-1).double().numpy()
        buckets, signs = _projection(name, values.size, dimensions, seed)
        total += np.bincount(buckets, weights=values * signs, minlength=dimensions)
    return total.astype(np.float32)


@lru_cache(maxsize=512)
def _projection(
    name: str, size: int, dimensions: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Bucket and sign of each element of a parameter."""
    key = int.from_bytes(sha256(f"sketch {seed} {name}".encode()).digest()[:16], "little")
    drawn = np.random.Generator(np.random.Philox(key=key)).integers(0, 2 * dimensions, size)
    return drawn // 2, (1 - 2 * (drawn % 2)).astype(np.int8)
