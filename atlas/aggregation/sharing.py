"""What of an adapter crosses between a client and its aggregator, with each method.

A client's state is an adapter, and beside it what its base has taken over from earlier rounds:
low-rank pairs that are no longer trained, under the same names with `frozen.` before them. A part
of it crosses; with the rest a client makes whole what it gets:

              hands in    gets back         the rest is
    fedsa     A           A                 its own B, which nobody else ever sees
    ffa       B           B                 A as it was drawn, which is never trained
    flora     A and B     frozen pairs      A and B as they were drawn: LoRA begins anew
    fedex     A and B     A, B and frozen pairs
    others    A and B     A and B

A classifier's score head always crosses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from torch import Tensor

from atlas.aggregation.methods import METHODS, Round
from atlas.aggregation.pairs import is_half, sum_of
from atlas.models.adapters import AdapterState

FROZEN = "frozen."
Part: TypeAlias = Callable[[str, Mapping[str, Tensor]], AdapterState]
"""A method's part of a state: `handed_in` or `handed_back`."""

_STAYS = {"fedsa": ".lora_B.", "ffa": ".lora_A."}
STARTED = frozenset({"flora", "fedex", "clipped-mean"})
"""Methods that build on what the round began from."""
PERSONAL = frozenset({"fedsa"})
"""Methods after which each client has an adapter of its own."""


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


def handed_in(method: str, state: Mapping[str, Tensor]) -> AdapterState:
    """What a client gives to its aggregator after a round."""
    stays = _STAYS.get(method, FROZEN)
    return {name: tensor for name, tensor in parted(state)[0].items() if stays not in name}


def handed_back(method: str, state: Mapping[str, Tensor]) -> AdapterState:
    """What of a state to go on from is the same for all members, and has to be told."""
    adapter, frozen = parted(state)
    shared = handed_in(method, adapter)
    if method == "flora":
        shared = {name: tensor for name, tensor in shared.items() if not is_half(name)}
    return joined(shared, frozen)


def completed(
    method: str, came: Mapping[str, Tensor], own: Mapping[str, Tensor], drawn: Mapping[str, Tensor]
) -> AdapterState:
    """What a client goes on from: `came` was handed back, `own` is what it had itself, `drawn` is
    the adapter that all began the run with.
    """
    adapter, frozen = parted(came)
    rest = own if method in PERSONAL else drawn
    return joined({name: adapter.get(name, rest[name]) for name in drawn}, frozen)


def combining_flops(method: str, clients: int, rank: int) -> float:
    """Operations of `combine` per number that was handed in: 2 for a mean; where products are added
    up, those of a QR, 6 times the rank that they have together (Golub and Van Loan, 5.2).
    """
    return 6.0 * clients * rank if method in ("flexlora", "flora", "fedex") else 2.0


def combine(method: str, given: Round, frozen: Mapping[str, Tensor]) -> AdapterState:
    """A round of clients with equal ranks, as `handed_back`: `frozen` is what their base had taken
    over before, and takes over with it what the method could not put into A and B.
    """
    found = METHODS[method](given)
    shared = next(iter(found.adapters.values()))
    return handed_back(method, joined(shared, sum_of([(1.0, frozen), (1.0, found.frozen)])))
