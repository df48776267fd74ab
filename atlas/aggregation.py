"""How adapters are combined: within a neighborhood by examples, between neighborhoods by likeness.

Pure functions on adapters. A and B are averaged apart, which is not the average of the products BA,
but keeps rank and size. Sums are taken in float64, term by term in the given order, and rounded
once to fp32: the same arguments give the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atlas.models.adapters import AdapterState


def average(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> AdapterState:
    """Weighted mean of adapters, each parameter apart: sum_i w_i x_i / sum_i w_i.

    Weights are the clients' numbers of examples. Source: FedIT (Zhang et al., Towards Building the
    Federated GPT, 2023), which is FedAvg (McMahan et al., 2017) on A and B. Raises ValueError if
    there is no adapter, if adapters don't have the same parameters, or if weights aren't positive
    or as many.
    """
    if not states:
        raise ValueError("there is no adapter to average")
    if len(states) != len(weights):
        raise ValueError(f"{len(states)} adapters came with {len(weights)} weights")
    if not all(0 < weight < float("inf") for weight in weights):
        raise ValueError("weights of adapters must be positive and finite")
    _require_alike(states)
    total = sum(weights)
    return {
        name: _combined(
            [(weight / total, state[name]) for state, weight in zip(states, weights, strict=True)]
        )
        for name in states[0]
    }


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
    names = list(states)
    weights = np.maximum(np.asarray(similarity, dtype=np.float64), 0.0)
    if weights.shape != (len(names), len(names)):
        raise ValueError(f"{len(names)} neighborhoods came with similarities of {weights.shape}")
    if not np.isfinite(weights).all() or not 0 <= strength < float("inf"):
        raise ValueError("similarities must be finite, and strength finite and not negative")
    _require_alike(list(states.values()))
    moved: dict[str, AdapterState] = {}
    for row, name in enumerate(names):
        shares = [
            (1.0 if row == column else strength * float(weights[row, column]), states[other])
            for column, other in enumerate(names)
        ]
        total = sum(share for share, _ in shares)
        moved[name] = {
            key: _combined([(share / total, state[key]) for share, state in shares if share > 0])
            for key in states[name]
        }
    return moved


def _combined(terms: Sequence[tuple[float, Tensor]]) -> Tensor:
    """Sum of weight times tensor, in the given order, in float64."""
    total = torch.zeros_like(terms[0][1], dtype=torch.float64)
    for weight, tensor in terms:
        total += weight * tensor.double()
    return total.float()


def _require_alike(states: Sequence[Mapping[str, Tensor]]) -> None:
    for state in states[1:]:
        if odd := state.keys() ^ states[0].keys():
            raise ValueError(f"not all adapters have {min(odd)}")
        for name, tensor in state.items():
            if tensor.shape != states[0][name].shape:
                raise ValueError(f"adapters have {name} in different shapes")
