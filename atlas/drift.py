"""Who belongs elsewhere by now: what a measured round, or a late joiner, changes in the decision.

In every `every`th round each client takes its signature again, before it trains: through its own
chain, and from the adapter that all start from, so that it lies where the first ones lay. It goes
to the aggregator with what the client hands in, and from there to the coordinator with the question
whether the round may be closed. There it is part of the decision, until the round is closed in all
neighborhoods: with the last one, in the same change, clients who no longer belong to theirs are
moved from the next round on, which begins nowhere before.

So who moves is a function of what was computed in that round, by whoever coordinates and whenever
it came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from atlas.config import Drift
from atlas.decision import Decision, found, move, settle
from atlas.semantics import Landmarks, Placement, decode, drifted

Halves = NDArray[np.floating]


def measures(drift: Drift, round_: int, rounds: int) -> bool:
    """Whether signatures are taken again in this round, of so many. Not in the last, after which
    nobody could be moved.
    """
    return drift.every > 0 and (round_ + 1) % drift.every == 0 and round_ + 1 < rounds


def looks(drift: Drift, rounds: int) -> int:
    """In how many of the rounds they are taken."""
    return (rounds - 1) // drift.every if drift.every > 0 else 0


def measured(
    decision: Decision,
    round_: int,
    signed: Mapping[str, bytes],
    order: Sequence[str],
    *,
    dimensions: int,
    significance: float,
) -> Decision:
    """The decision after a measured round was closed in a neighborhood, with what its members sent.

    Where it was the last one, clients are moved: those whose text is no longer that of their
    neighborhood to the one that it is like, or, where it is like none, to one of their own.
    `significance` is for each client; `order` that of all clients.
    """
    known = {**decision.signed, **signed}
    if not decision.passed(round_):
        return decision.model_copy(update={"signed": known})
    decision = decision.model_copy(update={"signed": {}})
    for client in order:
        home = decision.home(client)
        if client not in known or home is None or home.since > round_:
            continue
        if len(decision.members(home.neighborhood, round_ + 1)) < 2:
            continue
        halves = decode(known[client], dimensions)
        landmarks = Landmarks.read(decision.landmarks)
        place = list(decision.offices).index(home.neighborhood)
        drift = drifted(halves, landmarks, place, significance=significance)
        if drift is not None:
            decision, name = _there(decision, drift, client, halves, round_ + 1)
            decision = move(decision, client, name, round_ + 1, order)
    return decision


def joined(
    decision: Decision,
    client: str,
    placement: Placement,
    halves: Halves,
    examples: int,
    order: Sequence[str],
    *,
    rounds: int,
) -> Decision:
    """The decision with a client that comes late: in the neighborhood that it fits, from the next
    round on that has not begun there, or else alone, from the round on that the slowest is in. When
    no such round is left nothing depends on it.
    """
    if decision.home(client) is not None:
        return decision
    since = min(map(decision.running, decision.offices))
    if placement.neighborhood is not None or since >= rounds:
        name = list(decision.offices)[placement.nearest]
        return settle(decision, client, name, examples, order)
    decision, name = _there(decision, placement, client, halves, since)
    return settle(decision, client, name, examples, order, since=since)


def joined_group(
    decision: Decision,
    client: str,
    groups: Mapping[str, str],
    examples: int,
    order: Sequence[str],
) -> Decision:
    """The decision with a client that comes late, where groups were settled beforehand: in the
    neighborhood of its group, or alone.
    """
    if decision.home(client) is not None:
        return decision
    for stay in decision.stays:
        if groups[stay.client] == groups[client]:
            return settle(decision, client, stay.neighborhood, examples, order)
    since = min(map(decision.running, decision.offices))
    decision = found(decision, client, since, {})
    return settle(decision, client, list(decision.offices)[-1], examples, order, since=since)


def _there(
    decision: Decision, placement: Placement, client: str, halves: Halves, since: int
) -> tuple[Decision, str]:
    """The neighborhood that a client fits, or a new one of its own."""
    if placement.neighborhood is None:
        landmarks = Landmarks.read(decision.landmarks).alone(halves)
        decision = found(decision, client, since, landmarks.plain())
        return decision, list(decision.offices)[-1]
    return decision, list(decision.offices)[placement.neighborhood]
