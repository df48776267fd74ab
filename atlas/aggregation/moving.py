"""How adapters of neighborhoods, or of tasks, move towards each other without becoming one.

Each of A and B moves apart; frozen pairs move as the matrices that they stand for, exactly.
Neighborhoods are taken in the order of the mapping.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from atlas.aggregation.means import require_alike, weighted_sum
from atlas.aggregation.pairs import joined, parted, sum_of
from atlas.models.adapters import AdapterState


def between(
    states: Mapping[str, Mapping[str, Tensor]],
    similarity: NDArray[np.floating],
    strength: float,
) -> dict[str, AdapterState]:
    """Move each neighborhood's adapter towards the others', the more so the more they are alike.

    For neighborhood i, over the others j, in the given order:

        x_i' = (x_i + strength * sum_j s_ij x_j) / (1 + strength * sum_j s_ij)
        s_ij = max(similarity[i, j], 0)

    so unlike neighborhoods leave each other alone, strength 0 changes nothing, and a neighborhood
    alone keeps its adapter. `similarity` is [neighborhoods, neighborhoods] in the order of
    `states`; its diagonal is not read. This is one step of the personalized aggregation of FedAMP's
    kind (Huang et al., 2021) with cosine weights. Raises ValueError if shapes don't fit, values
    aren't finite, or strength is negative.
    """
    weights = np.maximum(_square(states, similarity), 0.0)
    if not 0 <= strength < float("inf"):
        raise ValueError("similarities must be finite, and strength finite and not negative")
    moved: dict[str, AdapterState] = {}
    for row, name in enumerate(states):
        shares = [
            (1.0 if row == column else strength * float(weights[row, column]), states[other])
            for column, other in enumerate(states)
        ]
        total = sum(share for share, _ in shares)
        moved[name] = _mixed([(share / total, state) for share, state in shares if share > 0])
    return moved


def laplacian(
    states: Mapping[str, Mapping[str, Tensor]],
    adjacency: NDArray[np.floating],
    strength: float,
) -> dict[str, AdapterState]:
    """One step along the Laplacian of a task graph, as MIRA's server takes it, equation (8):

        x_i' = x_i - strength * sum_j a_ij (x_i - x_j)

    `strength` is the paper's eta times lambda, `adjacency` its M: symmetric, not negative, its
    diagonal not read. Source: Elbakary et al., MIRA, IEEE Networking Letters 7(3), 2025, after FedU
    (Dinh et al., 2021). Repeated, the step runs away unless strength * lambda_max(L) < 2 for L = D
    - M: ValueError says which strength is the limit. Raises ValueError also if shapes don't fit or
    values are not as said.
    """
    weights = _square(states, adjacency)
    np.fill_diagonal(weights, 0.0)
    if not np.allclose(weights, weights.T) or (weights < 0).any():
        raise ValueError("a task graph's weights are symmetric and not negative")
    if not 0 <= strength < (most := settling(weights)):
        raise ValueError(
            f"a step of {strength} along this graph's Laplacian does not settle: take at least 0 "
            f"and less than {most:.3g}"
        )
    moved: dict[str, AdapterState] = {}
    for row, (name, own) in enumerate(states.items()):
        pulls = [
            (strength * float(weights[row, column]), other)
            for column, other in enumerate(states.values())
            if weights[row, column] > 0
        ]
        kept = 1.0 - sum(pull for pull, _ in pulls)
        moved[name] = _mixed([(kept, own), *pulls])
    return moved


def settling(adjacency: NDArray[np.floating]) -> float:
    """The strength below which steps along a graph's Laplacian settle, and so along those of all
    its parts: 2 / lambda_max(L). `adjacency` is as `laplacian` has it, its diagonal zero.
    """
    degrees = np.diag(adjacency.sum(axis=1))
    largest = float(np.linalg.eigvalsh(degrees - adjacency)[-1])
    return 2 / largest if largest > 0 else float("inf")


def random_graph(names: Sequence[str], seed: int) -> NDArray[np.float64]:
    """A task graph as MIRA was published with, [names, names]: each two pull at each other with a
    weight drawn from [0, 1), the same one whoever else is there.
    """
    weights = np.zeros((len(names), len(names)))
    for row, column in itertools.combinations(range(len(names)), 2):
        one, other = sorted((names[row], names[column]))
        digest = hashlib.sha256(json.dumps(["task graph", seed, one, other]).encode()).digest()
        weights[row, column] = weights[column, row] = int.from_bytes(digest[:7], "big") / 2.0**56
    return weights


def _mixed(terms: Sequence[tuple[float, Mapping[str, Tensor]]]) -> AdapterState:
    """Sum of weight times state."""
    parts = [(weight, *parted(state)) for weight, state in terms]
    return joined(
        {
            key: weighted_sum([(weight, adapter[key]) for weight, adapter, _ in parts])
            for key in parts[0][1]
        },
        sum_of([(weight, frozen) for weight, _, frozen in parts]),
    )


def _square(
    states: Mapping[str, Mapping[str, Tensor]], matrix: NDArray[np.floating]
) -> NDArray[np.float64]:
    """A copy of the matrix, which has a row and a column for each adapter; adapters are alike."""
    values = np.array(matrix, dtype=np.float64)
    if values.shape != (len(states), len(states)):
        raise ValueError(f"{len(states)} neighborhoods came with similarities of {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("similarities must be finite, and strength finite and not negative")
    require_alike([parted(state)[0] for state in states.values()])
    return values
