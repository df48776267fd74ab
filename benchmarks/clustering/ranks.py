"""Drift by gradients that training makes anyway: what the product would save, and why it doesn't.

A round's first step starts from the same adapter for all members of a neighborhood, so its
gradients could tell who is unlike the others. But neighborhoods have different adapters by then, so
nothing says where such a client belongs; and with text of its own a client may always be the
farthest, without any change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.semantics.placing import _distances, unit
from benchmarks.clustering.gradients import Pool
from benchmarks.clustering.studies import WEIGHTINGS, fold
from benchmarks.clustering.warming import COURSES, OWN, STOPS

Floats = NDArray[np.float64]
CLIENTS, EXAMPLES, TRIALS = 5, 9, 50


def training(pools: Mapping[str, Pool]) -> dict[str, Any]:
    """Five clients of each of four tasks, each with nine examples of its own, of which a round
    takes eight; adapters have had six steps. Who drifts has the next task's text.
    """
    rows = [
        fold(pools[f"drift-{name}-{STOPS[-1]}"].sketches, WEIGHTINGS["by depth"], 256)
        for name in COURSES
    ]
    members = [[f"{kind}-{n}" for n in range(CLIENTS)] for kind in range(len(COURSES))]
    found: dict[str, Any] = {}
    for rounds in (4, 8):
        alarms = noticed = moved = 0
        for trial in range(TRIALS):
            generator = np.random.default_rng(trial)
            own = [
                generator.permutation(OWN)[: CLIENTS * EXAMPLES].reshape(CLIENTS, EXAMPLES)
                for _ in COURSES
            ]
            kind = trial % len(COURSES)
            for drifting in (None, kind):
                measured = [_sketches(rows, own, generator, drifting) for _ in range(rounds)]
                named = _by_ranks(measured, members)
                if drifting is None:
                    alarms += bool(named)
                else:
                    noticed += f"{kind}-0" in named
                    moved += named.get(f"{kind}-0") == (kind + 1) % len(COURSES)
        found[f"{rounds} rounds measured"] = {
            "trials": TRIALS,
            "false alarms": alarms,
            "drift noticed": noticed,
            "moved to its task": moved,
        }
    return found


def _sketches(
    rows: Sequence[NDArray[np.float32]],
    own: Sequence[NDArray[np.int64]],
    generator: np.random.Generator,
    drifting: int | None,
) -> dict[str, NDArray[np.float32]]:
    """One sketch of each client, at its own neighborhood's adapter."""
    sketched = {}
    for kind, pool in enumerate(rows):
        for client in range(CLIENTS):
            drawn = generator.permutation(own[kind][client])[: EXAMPLES - 1]
            if client == 0 and kind == drifting:
                drawn = OWN + generator.permutation(len(pool) - OWN)[: EXAMPLES - 1]
            sketched[f"{kind}-{client}"] = pool[drawn].mean(axis=0)
    return sketched


def _by_ranks(
    rounds: Sequence[Mapping[str, NDArray[np.floating]]],
    members: Sequence[Sequence[str]],
    *,
    significance: float = 0.05,
) -> dict[str, int | None]:
    """Which clients are farther from the others of their group than chance has it, and the group
    whose mean is nearest, if they aren't farther off than all of its members.

    In each round a client has a rank by its distance to the mean of the others. If all ranks were
    equally likely, the chance of a sum of ranks would be known exactly (Holm's correction).
    """
    names = [name for group in members for name in group]
    groups: list[list[int]] = []
    for some in members:
        start = sum(map(len, groups))
        groups.append(list(range(start, start + len(some))))
    stacked = np.stack(
        [unit(np.stack([np.asarray(found[name], float) for name in names])) for found in rounds]
    )
    p_values: dict[int, float] = {}
    for group in groups:
        if len(group) > 2:
            distances = np.stack([_distances(rows, [group])[0] for rows in stacked])
            ranks = (distances[:, None, :] >= distances[:, :, None]).sum(axis=2).sum(axis=0)
            chances = _chances_of_rank_sums(len(group), len(rounds))
            for row, rank in zip(group, ranks, strict=True):
                p_values[row] = float(chances[: rank + 1].sum())
    named: set[int] = set()
    for position, row in enumerate(sorted(p_values, key=lambda row: (p_values[row], row))):
        if p_values[row] * (len(p_values) - position) > significance:
            break
        named.add(row)
    staying = [[row for row in group if row not in named] for group in groups]
    return {names[row]: _where(stacked, row, groups, staying) for row in named}


def _chances_of_rank_sums(members: int, rounds: int) -> Floats:
    """Chance of each sum, from 0 on, of as many ranks as rounds, each 1 … members."""
    chances: Floats = np.ones(1)
    for _ in range(rounds):
        chances = np.convolve(chances, np.concatenate([[0.0], np.full(members, 1.0 / members)]))
    return chances


def _where(
    stacked: Floats, row: int, groups: Sequence[Sequence[int]], staying: Sequence[Sequence[int]]
) -> int | None:
    """The nearest other neighborhood, None if `row` is farther off than all members there."""
    apart = {}
    for number, group in enumerate(staying):
        if len(group) > 1 and row not in groups[number]:
            means = unit(stacked[:, list(group)].sum(axis=1))
            apart[number] = float(np.mean(1.0 - (means * stacked[:, row]).sum(axis=1)))
    if not apart:
        return None
    nearest = min(apart, key=lambda number: apart[number])
    own = np.mean([_distances(rows, [staying[nearest]])[0] for rows in stacked], axis=0)
    return nearest if apart[nearest] <= own.max() else None
