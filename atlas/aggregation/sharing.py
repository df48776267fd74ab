"""What of an adapter crosses between a client and its aggregator, with each method.

A client's state is an adapter, and beside it what its base has taken over from earlier rounds:
low-rank pairs that are no longer trained, under the same names with `frozen.` before them. A part
of it crosses; with the rest a client makes whole what it gets:

              hands in    gets back         the rest is
    fedsa     A           A                 its own B, which nobody else ever sees
    ffa       B           B                 A as it was drawn, which is never trained
    flora     A and B     frozen pairs      A and B as they were drawn: LoRA begins anew
    fedex     A and B     A, B and frozen pairs
    laplacian A and B     an A and a B of its own
    others    A and B     A and B

A classifier's score head always crosses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

from atlas.aggregation.means import average
from atlas.aggregation.methods import METHODS, Round
from atlas.aggregation.pairs import FROZEN, is_half, joined, parted, sum_of
from atlas.models.adapters import AdapterState

Part: TypeAlias = Callable[[str, Mapping[str, Tensor]], AdapterState]
"""A method's part of a state: `handed_in` or `handed_back`."""

_STAYS = {"fedsa": ".lora_B.", "ffa": ".lora_A."}
STARTED = frozenset({"flora", "fedex", "clipped-mean"})
"""Methods that build on what the round began from."""
ADDRESSED = frozenset({"laplacian"})
"""Methods with which each client gets back an adapter of its own."""
PERSONAL = frozenset({"fedsa"}) | ADDRESSED
"""Methods after which each client has an adapter of its own."""


@dataclass(frozen=True)
class Merged:
    """What a round came to: `shared` is for everybody, unless there is an `own` for a client."""

    shared: AdapterState
    own: Mapping[str, AdapterState] = field(default_factory=dict)


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
    up, those of a QR, 6 times the rank that they have together (Golub and Van Loan, 5.2); for
    each client a mean of its own.
    """
    if method in ADDRESSED:
        return 2.0 * clients
    return 6.0 * clients * rank if method in ("flexlora", "flora", "fedex") else 2.0


def combine(method: str, given: Round, frozen: Mapping[str, Tensor]) -> Merged:
    """A round of clients with equal ranks, as `handed_back`: `frozen` is what their base had taken
    over before, and takes over with it what the method could not put into A and B.

    Where each gets its own, their mean by examples is for who comes later.
    """
    found = METHODS[method](given)
    if method in ADDRESSED:
        examples = [given.examples[client] for client in found.adapters]
        return Merged(average(list(found.adapters.values()), examples), found.adapters)
    shared = next(iter(found.adapters.values()))
    taken_over = sum_of([(1.0, frozen), (1.0, found.frozen)])
    return Merged(handed_back(method, joined(shared, taken_over)))
