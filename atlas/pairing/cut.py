"""Where the model is cut: how many layers every client keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from atlas.pairing.types import PairingError, Plan


@dataclass(frozen=True)
class Cut:
    """How many layers clients keep, and the plan that was made for it."""

    client_layers: int
    plan: Plan


def cheapest_cut(layers: Iterable[int], planned: Callable[[int], Plan]) -> Cut:
    """The cut with the shortest predicted round, the fewest layers at the client among equals.

    The same for all clients of a run, and fixed for it.

    Args:
        layers: The numbers of layers that clients may keep.
        planned: A plan for that number, or PairingError where memory does not allow it.

    Raises the first cut's PairingError when no cut has a plan.
    """
    best: Cut | None = None
    refused: PairingError | None = None
    for count in layers:
        try:
            found = Cut(count, planned(count))
        except PairingError as error:
            refused = refused or error
            continue
        if best is None or found.plan.round_s < best.plan.round_s:
            best = found
    if best is None:
        assert refused is not None, "there is at least one cut"
        raise refused
    return best
