"""Means of adapters, each parameter apart: by weight, and such as a few liars can't move far.

A and B are averaged apart, which is not the average of the products BA, but keeps rank and size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from atlas.models.adapters import AdapterState


def average(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> AdapterState:
    """Weighted mean of adapters, each parameter apart: sum_i w_i x_i / sum_i w_i.

    Weights are the clients' numbers of examples. Source: FedIT (Zhang et al., Towards Building the
    Federated GPT, 2023), which is FedAvg (McMahan et al., 2017) on A and B. Raises ValueError if
    there is no adapter, if adapters don't have the same parameters, or if weights aren't positive
    or as many.
    """
    shares = shares_of(weights, len(states))
    require_alike(states)
    return {
        name: weighted_sum(
            [(share, state[name]) for share, state in zip(shares, states, strict=True)]
        )
        for name in states[0]
    }


def median(states: Sequence[Mapping[str, Tensor]]) -> AdapterState:
    """Median of each element over the clients, the mean of the middle two if they are even.

    Up to half of the clients can send anything without moving an element out of the range of the
    others; examples have no weight. Source: Yin et al., Byzantine-Robust Distributed Learning, 2018
    (coordinate-wise median).
    """
    return trimmed_mean(states, 0.5)


def trimmed_mean(states: Sequence[Mapping[str, Tensor]], trim: float) -> AdapterState:
    """Mean of each element without its `trim` largest and `trim` smallest values, a share of all.

    Of n clients floor(trim n) are cut at each end, and at least one or two are left. Source: Yin et
    al., 2018 (coordinate-wise trimmed mean). Raises ValueError if `trim` is not within 0 and 0.5.
    """
    if not states:
        raise ValueError("there is no adapter to average")
    if not 0 <= trim <= 0.5:
        raise ValueError(f"a share of {trim} can't be cut at both ends: 0 to 0.5 can")
    require_alike(states)
    count = len(states)
    cut = min(math.floor(trim * count), (count - 1) // 2)
    return {
        name: torch.stack([state[name].double() for state in states])
        .sort(dim=0)
        .values[cut : count - cut]
        .mean(dim=0)
        .float()
        for name in states[0]
    }


def clipped_mean(
    states: Sequence[Mapping[str, Tensor]],
    weights: Sequence[float],
    start: Mapping[str, Tensor],
    bound: float | None = None,
) -> AdapterState:
    """Weighted mean after each client's change from `start` is cut to a norm.

        x = start + sum_i p_i d_i min(1, bound / |d_i|),  d_i = x_i - start

    |d_i| is the Frobenius norm over all parameters, so a single client moves the mean no further
    than its share of `bound`; without one, `bound` is the median of the norms. Source: Sun et al.,
    Can You Really Backdoor Federated Learning?, 2019 (norm thresholding). Raises ValueError as
    `average` does.
    """
    shares = shares_of(weights, len(states))
    require_alike([*states, start])
    changes = [{name: state[name].double() - start[name] for name in start} for state in states]
    norms = [math.sqrt(sum(float(part.square().sum()) for part in d.values())) for d in changes]
    if bound is None:
        ordered = sorted(norms)
        bound = (ordered[(len(norms) - 1) // 2] + ordered[len(norms) // 2]) / 2
    factors = [min(1.0, bound / norm) if norm > 0 else 1.0 for norm in norms]
    return {
        name: weighted_sum(
            [(1.0, start[name])]
            + [
                (share * factor, change[name])
                for share, factor, change in zip(shares, factors, changes, strict=True)
            ]
        )
        for name in start
    }


def shares_of(weights: Sequence[float], count: int) -> list[float]:
    """Weights as shares of their sum. Raises ValueError unless they are `count`, all positive."""
    if not count:
        raise ValueError("there is no adapter to average")
    if count != len(weights):
        raise ValueError(f"{count} adapters came with {len(weights)} weights")
    if not all(0 < weight < float("inf") for weight in weights):
        raise ValueError("weights of adapters must be positive and finite")
    total = sum(weights)
    return [weight / total for weight in weights]


def weighted_sum(terms: Sequence[tuple[float, Tensor]]) -> Tensor:
    """Sum of weight times tensor, in the given order, in float64, rounded to fp32."""
    total = torch.zeros_like(terms[0][1], dtype=torch.float64)
    for weight, tensor in terms:
        total += weight * tensor.double()
    return total.float()


def require_alike(states: Sequence[Mapping[str, Tensor]]) -> None:
    """Raises ValueError unless all adapters have the same parameters in the same shapes."""
    for state in states[1:]:
        if odd := state.keys() ^ states[0].keys():
            raise ValueError(f"not all adapters have {min(odd)}")
        for name, tensor in state.items():
            if tensor.shape != states[0][name].shape:
                raise ValueError(
                    f"adapters have {name} in different shapes: ranks can be mixed with flexlora, "
                    "flora and hetlora"
                )
