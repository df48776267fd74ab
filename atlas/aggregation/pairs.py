"""Products of low-rank pairs, without ever making the matrix that they stand for.

A pair is LoRA's A [rank, in] and B [out, rank] of one module, in an adapter under
`MODULE.lora_A.weight` and `MODULE.lora_B.weight`. Sums of products are pairs again: side by side,
their ranks add up; QR of both sides and an SVD of the small middle bring the rank down again.
Everything is computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from atlas.models.adapters import AdapterState

Pair = tuple[Tensor, Tensor]
"""A [rank, in] and B [out, rank]."""

FROZEN = "frozen."
"""In front of the names of pairs that a base has taken over, beside an adapter."""
_A, _B = ".lora_A.weight", ".lora_B.weight"


def parted(state: Mapping[str, Tensor]) -> tuple[AdapterState, AdapterState]:
    """The adapter, and the frozen pairs under the names of the parameters beside which they are."""
    adapter = {name: tensor for name, tensor in state.items() if not name.startswith(FROZEN)}
    frozen = {
        name.removeprefix(FROZEN): tensor
        for name, tensor in state.items()
        if name.startswith(FROZEN)
    }
    return adapter, frozen


def joined(adapter: Mapping[str, Tensor], frozen: Mapping[str, Tensor]) -> AdapterState:
    """The inverse of `parted`."""
    return {**adapter, **{FROZEN + name: tensor for name, tensor in frozen.items()}}


def is_half(name: str) -> bool:
    """Whether a parameter is an A or a B of LoRA's."""
    return name.endswith((_A, _B))


def modules_of(state: Iterable[str]) -> list[str]:
    """Names of the modules that an adapter has pairs for, in its order.

    Raises ValueError if a name is not half of a pair.
    """
    names = list(state)
    modules = [name.removesuffix(_A) for name in names if name.endswith(_A)]
    if odd := set(names) ^ {name for module in modules for name in (module + _A, module + _B)}:
        raise ValueError(f"{min(odd)} is not half of a pair of LoRA's")
    return modules


def pair_of(state: Mapping[str, Tensor], module: str) -> Pair:
    """A and B of one module."""
    return state[module + _A], state[module + _B]


def named(pairs: Mapping[str, Pair]) -> AdapterState:
    """An adapter of pairs by module, in fp32."""
    state: AdapterState = {}
    for module, (a, b) in pairs.items():
        state[module + _A] = a.float().contiguous()
        state[module + _B] = b.float().contiguous()
    return state


def norm_of(pair: Pair) -> float:
    """Frobenius norm of B A: the root of the trace of (B'B)(AA')."""
    a, b = pair[0].double(), pair[1].double()
    return math.sqrt(max(float(((b.T @ b) * (a @ a.T)).sum()), 0.0))


def product_of(state: Mapping[str, Tensor], module: str) -> Tensor:
    """The matrix B A [out, in] of one module, in float64: for checking, not for use."""
    a, b = pair_of(state, module)
    return b.double() @ a.double()


def stack(terms: Sequence[tuple[float, Pair]]) -> Pair:
    """The pair of sum_i w_i B_i A_i: A [sum of ranks, in], B [out, sum of ranks], in float64.

    Weights go into A, as FLoRA has it.
    """
    a = torch.cat([weight * pair[0].double() for weight, pair in terms], dim=0)
    b = torch.cat([pair[1].double() for _, pair in terms], dim=1)
    return a, b


def low_rank(pair: Pair, rank: int | None = None) -> Pair:
    """The best pair of a lower rank, by singular values; both sides get their square root.

    Without a rank, as many as fp32 can tell from zero: singular values above 2^-24 of the largest,
    at least one. With more rank than the product has, zeros fill it. Eckart and Young, 1936: no
    pair of this rank is nearer in Frobenius norm. Signs are set so that each column of B has its
    largest element positive: the same product gives the same pair.
    """
    a, b = pair[0].double(), pair[1].double()
    left, upper_b = torch.linalg.qr(b)
    right, upper_a = torch.linalg.qr(a.T)
    u, singular, v = torch.linalg.svd(upper_b @ upper_a.T, full_matrices=False)
    u, v = left @ u, (right @ v.T).T
    if rank is None:
        rank = max(1, int((singular > singular[0] * 2.0**-24).sum()))
    kept = min(rank, len(singular))
    peaks = u.abs().argmax(dim=0, keepdim=True)
    signs = torch.where(u.gather(0, peaks) < 0, -1.0, 1.0)
    roots = singular.sqrt()
    new_b = b.new_zeros(b.shape[0], rank)
    new_a = a.new_zeros(rank, a.shape[1])
    new_b[:, :kept] = (u * signs * roots)[:, :kept]
    new_a[:kept] = (v * signs.T * roots[:, None])[:kept]
    return new_a, new_b


def sum_of(terms: Sequence[tuple[float, Mapping[str, Tensor]]]) -> AdapterState:
    """The pairs of sum_i w_i B_i A_i for each module, of as low a rank as is exact in fp32.

    A state may lack modules, or all of them. Modules are in the order of the first state that has
    them.
    """
    states = [(weight, state) for weight, state in terms if weight]
    modules = dict.fromkeys(module for _, state in states for module in modules_of(state))
    return named(
        {
            module: low_rank(
                stack([(w, pair_of(state, module)) for w, state in states if module + _A in state])
            )
            for module in modules
        }
    )
