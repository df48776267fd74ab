"""The ways to combine clients' adapters after a round, all the same kind of function.

    p_i   client i's share of the examples        r_i  its rank
    B_i A_i its pair for a module, scaled by s(r_i) = alpha / r_i (rsLoRA: alpha / sqrt r_i)

What a method can't put into the adapters it returns as a frozen pair, to be added to the base's
weight from the next round on. What is no pair, a classifier's score head, is averaged by examples
(by the robust means as they average all else). With every method clients come in the order of the
mapping.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from atlas.aggregation.means import (
    average,
    clipped_mean,
    median,
    shares_of,
    trimmed_mean,
    weighted_sum,
)
from atlas.aggregation.moving import laplacian
from atlas.aggregation.pairs import (
    Pair,
    is_half,
    low_rank,
    modules_of,
    named,
    norm_of,
    pair_of,
    stack,
)
from atlas.models.adapters import AdapterState


@dataclass(frozen=True)
class Round:
    """What a round brought.

    Attributes:
        adapters: by client, in the order in which sums are taken.
        examples: of each client.
        start: the adapter that they started from, as far as it was the same.
        fresh: what LoRA starts from when it begins anew: A drawn, B zero.
        scale: LoRA's factor for a rank; alpha / rank in PEFT.
        trim: share that a trimmed mean cuts at each end.
        graph: how much each two clients pull at each other, [clients, clients]; None: not at all.
        pull: how far they move, eta lambda.
    """

    adapters: Mapping[str, AdapterState]
    examples: Mapping[str, float]
    start: AdapterState
    fresh: AdapterState
    scale: Callable[[int], float]
    trim: float = 0.2
    graph: NDArray[np.float64] | None = None
    pull: float = 0.0

    @property
    def shares(self) -> dict[str, float]:
        """p_i of each client. Raises ValueError unless all have examples."""
        weights = [self.examples[client] for client in self.adapters]
        return dict(zip(self.adapters, shares_of(weights, len(weights)), strict=True))


@dataclass(frozen=True)
class Combined:
    """What comes of a round.

    Attributes:
        adapters: by client, what it starts the next round from; one object where it is the same.
        frozen: pairs that are added to the base's weights as they are, s(r) = 1; {} if none.
    """

    adapters: Mapping[str, AdapterState]
    frozen: AdapterState = field(default_factory=dict)


Method: TypeAlias = Callable[[Round], Combined]


def fedit(given: Round) -> Combined:
    """A = sum p_i A_i, B = sum p_i B_i: FedAvg of each.

    The product of these means is not the mean of the products. Source: FedIT (Zhang et al., 2023).
    """
    return _same(given, average(list(given.adapters.values()), _weights(given)))


def flexlora(given: Round) -> Combined:
    """The best rank-r_i pair of sum_i p_i s(r_i) B_i A_i, for each client's own rank r_i.

    The mean of products is exact; its truncation is the nearest pair of that rank. How the singular
    values are divided between A and B the paper leaves open; here by square roots. Source: FlexLoRA
    (Bai et al., NeurIPS 2024, arXiv 2402.11505).
    """
    totals = {module: _total(given, module) for module in _modules(given)}
    made: dict[tuple[int, ...], AdapterState] = {}
    adapters = {}
    for client, own in given.adapters.items():
        ranks = tuple(pair_of(own, module)[0].shape[0] for module in totals)
        if ranks not in made:
            made[ranks] = named(
                {
                    module: _scaled(low_rank(total, rank), 1 / given.scale(rank))
                    for (module, total), rank in zip(totals.items(), ranks, strict=True)
                }
            ) | _rest(given)
        adapters[client] = made[ranks]
    return Combined(adapters)


def flora(given: Round) -> Combined:
    """All pairs side by side are frozen, and LoRA begins anew:

        A = [p_1 s(r_1) A_1; …; p_n s(r_n) A_n],  B = [B_1, …, B_n]

    so BA = sum p_i s(r_i) B_i A_i exactly, for any ranks. Source: FLoRA (Wang et al., NeurIPS 2024,
    arXiv 2409.05976).
    """
    frozen = named({module: low_rank(_total(given, module)) for module in _modules(given)})
    return _same(given, given.fresh | _rest(given), frozen)


def fedsa(given: Round) -> Combined:
    """A = sum p_i A_i for all; each client keeps its own B. Equal ranks.

    Source: FedSA-LoRA (Guo et al., ICLR 2025, arXiv 2410.01463): A learns what is general, B what
    is the client's.
    """
    mean = average(list(given.adapters.values()), _weights(given))
    return Combined(
        {
            client: {name: own[name] if ".lora_B." in name else mean[name] for name in own}
            for client, own in given.adapters.items()
        }
    )


def ffa(given: Round) -> Combined:
    """B = sum p_i B_i over one A that is never trained, so the mean is exact.

    Source: FFA-LoRA (Sun et al., ICLR 2024, arXiv 2403.12313). Raises ValueError if a client has
    trained its A.
    """
    mean = average(list(given.adapters.values()), _weights(given))
    for client, own in given.adapters.items():
        for name in own:
            if ".lora_A." in name and not own[name].equal(given.start[name]):
                raise ValueError(f"{client} has trained {name}, which ffa keeps frozen")
    return _same(
        given, {name: given.start[name] if ".lora_A." in name else mean[name] for name in mean}
    )


def fedex(given: Round) -> Combined:
    """FedIT's means, and what they miss of the mean product as a frozen pair. Equal ranks.

        frozen = s(r) (sum p_i B_i A_i - B A),  A = sum p_i A_i, B = sum p_i B_i

    of rank up to r (n + 1). Source: FedEx-LoRA (Singhal et al., 2024, arXiv 2410.09432), there with
    p_i = 1/n.
    """
    mean = average(list(given.adapters.values()), _weights(given))
    frozen: dict[str, Pair] = {}
    for module in _modules(given):
        own = pair_of(mean, module)
        rest = stack([(1.0, _total(given, module)), (-given.scale(own[0].shape[0]), own)])
        frozen[module] = low_rank(rest)
    return _same(given, mean, named(frozen))


def hetlora(given: Round) -> Combined:
    """Mixed ranks: pairs padded with zeros, averaged by their strength, and cut to each rank.

        w_i = |B_i A_i| / sum_j |B_j A_j| (Frobenius),  A = sum w_i pad(A_i),  B = sum w_i pad(B_i)

    per module, |B_i A_i| with its scale; all weights equal where every product is zero. Examples
    have no weight. The paper's pruning of ranks is not done: ranks are the devices'. Source:
    HetLoRA (Cho et al., EMNLP 2024, arXiv 2401.06432).
    """
    adapters: dict[str, AdapterState] = {client: {} for client in given.adapters}
    for module in _modules(given):
        pairs = {client: pair_of(own, module) for client, own in given.adapters.items()}
        strengths = [given.scale(pair[0].shape[0]) * norm_of(pair) for pair in pairs.values()]
        total = sum(strengths)
        shares = [strength / total if total else 1 / len(pairs) for strength in strengths]
        rank = max(a.shape[0] for a, _ in pairs.values())
        weighted = list(zip(shares, pairs.values(), strict=True))
        mean_a = weighted_sum([(w, _padded(a, rank, 0)) for w, (a, _) in weighted])
        mean_b = weighted_sum([(w, _padded(b, rank, 1)) for w, (_, b) in weighted])
        for client, (a, _) in pairs.items():
            own_rank = a.shape[0]
            adapters[client] |= named({module: (mean_a[:own_rank], mean_b[:, :own_rank])})
    rest = _rest(given)
    return Combined({client: own | rest for client, own in adapters.items()})


def by_median(given: Round) -> Combined:
    """`median` of A and of B."""
    return _same(given, median(list(given.adapters.values())))


def by_trimmed_mean(given: Round) -> Combined:
    """`trimmed_mean` of A and of B."""
    return _same(given, trimmed_mean(list(given.adapters.values()), given.trim))


def by_clipped_mean(given: Round) -> Combined:
    """`clipped_mean` of A and B together, to the median of the clients' norms."""
    return _same(given, clipped_mean(list(given.adapters.values()), _weights(given), given.start))


def by_laplacian(given: Round) -> Combined:
    """`laplacian` of A and of B, score head and all: each client keeps an adapter of its own."""
    count = len(given.adapters)
    graph = np.zeros((count, count)) if given.graph is None else given.graph
    return Combined(laplacian(given.adapters, graph, given.pull))


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "fedit": fedit,
        "flexlora": flexlora,
        "flora": flora,
        "fedsa": fedsa,
        "ffa": ffa,
        "fedex": fedex,
        "hetlora": hetlora,
        "median": by_median,
        "trimmed-mean": by_trimmed_mean,
        "clipped-mean": by_clipped_mean,
        "laplacian": by_laplacian,
    }
)
"""By the name that a config gives."""


def _same(given: Round, adapter: AdapterState, frozen: AdapterState | None = None) -> Combined:
    return Combined(dict.fromkeys(given.adapters, adapter), frozen or {})


def _weights(given: Round) -> list[float]:
    return [given.examples[client] for client in given.adapters]


def _modules(given: Round) -> list[str]:
    """The modules of all adapters. Raises ValueError unless they are the same."""
    adapters = list(given.adapters.values())
    if not adapters:
        raise ValueError("there is no adapter to average")
    for other in adapters[1:]:
        if odd := other.keys() ^ adapters[0].keys():
            raise ValueError(f"not all adapters have {min(odd)}")
    return modules_of(name for name in adapters[0] if is_half(name))


def _rest(given: Round) -> AdapterState:
    """The mean of what is no pair."""
    rest = [
        {name: tensor for name, tensor in own.items() if not is_half(name)}
        for own in given.adapters.values()
    ]
    return average(rest, _weights(given))


def _total(given: Round, module: str) -> Pair:
    """sum_i p_i s(r_i) B_i A_i as one pair."""
    shares = given.shares
    terms = []
    for client, own in given.adapters.items():
        pair = pair_of(own, module)
        terms.append((shares[client] * given.scale(pair[0].shape[0]), pair))
    return stack(terms)


def _scaled(pair: Pair, factor: float) -> Pair:
    root = factor**0.5
    return pair[0] * root, pair[1] * root


def _padded(tensor: Tensor, size: int, dim: int) -> Tensor:
    """The tensor with zeros behind it along `dim`."""
    shape = list(tensor.shape)
    shape[dim] = size
    wide = tensor.new_zeros(shape)
    wide.narrow(dim, 0, tensor.shape[dim]).copy_(tensor)
    return wide
