"""A client's signature: its gradients of LoRA's B, projected to a few numbers.

The projection is a count sketch (Charikar, Chen and Farach-Colton, 2002): each element of each
parameter has a bucket and a sign of its own, drawn from a counter-based generator keyed by (seed,
parameter name), so every holder of layers draws the same ones without a word. It is linear, so the
sketches of parts add up to the sketch of the whole, and inner products are kept in expectation.

A layer counts by its depth, or a power of it, as each holder knows of its own layers: gradients are
largest in the lowest, and say least about the task there (`docs/learning.md` has the figures).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from atlas.models.adapters import layer_of

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 127

GRID = 2.0**-30
"""Sketches of parameters are rounded to multiples of it, whose sums below 2^23 are exact."""


def sketch(
    gradients: Mapping[str, Tensor], *, dimensions: int = 256, seed: int, steepness: int = 1
) -> NDArray[np.float64]:
    """Project gradients to `dimensions` numbers: float64 [dimensions].

    Gradients of layer l (from 0) count (l + 1)^steepness times; those of LoRA's A are left out:
    they are zero while B is. What each parameter adds is rounded to a grid on which sums are exact,
    so parts of a model add up to the whole's sketch bit for bit, wherever it is cut and in any
    order.
    """
    total = np.zeros(dimensions)
    for name, gradient in gradients.items():
        layer = layer_of(name)
        if ".lora_B." not in name or layer is None:
            continue
        values = gradient.detach().reshape(-1).double().numpy()
        buckets, signs = projection(name, values.size, dimensions, seed)
        folded = np.bincount(buckets, weights=values * signs, minlength=dimensions)
        total += np.rint((layer + 1) ** steepness * folded / GRID) * GRID
    return total


def encode(halves: NDArray[np.floating]) -> bytes:
    """Half-signatures, [2, dimensions], as they are sent: a byte for each number.

    Each half is scaled so that its largest number is ±127. How long it was is lost, which nothing
    asks for.
    """
    largest = np.abs(halves).max(axis=1, keepdims=True)
    scaled = np.asarray(halves, dtype=np.float64) * (LARGEST / np.where(largest > 0, largest, 1.0))
    return np.rint(scaled).astype(np.int8).tobytes()


def decode(raw: bytes, dimensions: int) -> NDArray[np.float32]:
    """What `encode` made, as fp32 [2, dimensions]. Raises ValueError if it is of another size."""
    if len(raw) != 2 * dimensions:
        raise ValueError(f"two halves of {dimensions} numbers are not {len(raw)} bytes")
    return np.frombuffer(raw, dtype=np.int8).reshape(2, dimensions).astype(np.float32)


@lru_cache(maxsize=512)
def projection(
    name: str, size: int, dimensions: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Bucket and sign of each element of a parameter."""
    key = int.from_bytes(sha256(f"sketch {seed} {name}".encode()).digest()[:16], "little")
    drawn = np.random.Generator(np.random.Philox(key=key)).integers(0, 2 * dimensions, size)
    return drawn // 2, (1 - 2 * (drawn % 2)).astype(np.int8)
