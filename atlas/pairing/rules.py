"""The rules by which hosts can be chosen, under one interface.

`semantic` is ours: inside a neighborhood, for the objective. The others are blind to the task: they
choose among all hosts. All keep to the memory and never let a client host for itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from scipy.optimize import linear_sum_assignment

from atlas.pairing import heuristic
from atlas.pairing.objective import Arrangement, Bools, Floats, Problem
from atlas.pairing.packing import infeasible, packed
from atlas.pairing.types import PairingError

RuleName = Literal["semantic", "titanic", "cheapest", "random"]
TRIES = 20


class Rule(Protocol):
    """Chooses a host for each span of each client."""

    @property
    def is_blind(self) -> bool:
        """Whether it chooses among all hosts, whatever the neighborhoods are."""

    def place(self, problem: Problem, seed: int) -> Arrangement:
        """A placement that holds. Raises PairingError, saying why there is none."""


@dataclass(frozen=True)
class _Rule:
    is_blind: bool
    _place: Callable[[Problem, int], Arrangement]

    def place(self, problem: Problem, seed: int) -> Arrangement:
        return self._place(problem, seed)


def _semantic(problem: Problem, _: int) -> Arrangement:
    return heuristic.solve(problem)


def _cheapest(problem: Problem, _: int) -> Arrangement:
    """In the order given each client takes what is quickest for it alone and has room."""
    placement = _in_turn(problem, range(problem.shape[0]), lambda times: int(np.argmin(times)))
    return placement or _packed(problem)


def _random(problem: Problem, seed: int) -> Arrangement:
    """Each span on any host that has room, all as likely."""
    digest = hashlib.sha256(f"{seed}/random pairing".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))

    def any_of(times: Floats) -> int:
        return int(generator.choice(np.flatnonzero(np.isfinite(times))))

    for _ in range(TRIES):
        order = [int(client) for client in generator.permutation(problem.shape[0])]
        placement = _in_turn(problem, order, any_of)
        if placement is not None:
            return placement
    return _packed(problem)


def _in_turn(
    problem: Problem, clients: Iterable[int], choose: Callable[[Floats], int]
) -> Arrangement | None:
    placement = Arrangement(problem)
    if not np.isfinite(placement.alone).all():
        return None
    for client in clients:
        for span in range(problem.shape[1]):
            room = placement.fits(client, span)
            times = np.where(room, problem.seconds(client, span), np.inf)
            if not np.isfinite(times).any():
                return None
            placement.put(client, span, choose(times))
    return placement


def _packed(problem: Problem) -> Arrangement:
    """Where taking turns strands one without room, memory comes first."""
    placement = packed(problem)
    if placement is None:
        raise infeasible(problem)
    return placement


def _titanic(problem: Problem, _: int) -> Arrangement:
    """TITANIC's integer program: Su, Hu, Li, Li, INFOCOM 2024, equations 1 to 5, as retold by
    others, for its text is not at hand:

        maximize Σ A(n,k) x(n,k)   with   Σ_n x(n,k) = 1,   Σ_k x(n,k) ≤ 1,
        x(n,k) = 0 where host n lacks the memory of partition k,   x ∈ {0, 1}

    Its matrix is that of an assignment and totally unimodular, so the linear relaxation has whole
    solutions, and an algorithm for assignments finds one. A(n,k) is minus the mean time of
    computing and of the way, alone. There one chain serves all; where no host has the memory for so
    many sessions, the clients are dealt out, one by one in turn, to as few chains as there have to
    be, each partition of each being one of the program's.
    """
    clients, spans, hosts = problem.shape
    for chains in range(1, min(clients, hosts // spans) + 1):
        if not _may_match(problem, chains):
            continue
        able, gains = titanic_program(problem, chains)
        try:
            partitions, chosen = linear_sum_assignment(np.where(able, -gains, np.inf))
        except ValueError:  # no assignment
            continue
        placement = Arrangement(problem)
        for partition, host in zip(partitions, chosen, strict=True):
            chain, span = divmod(int(partition), spans)
            for client in range(chain, clients, chains):
                placement.put(client, span, int(host))
        return placement
    found = infeasible(problem)
    raise PairingError(
        found.client,
        found.span,
        f"a host takes one partition for one chain under TITANIC's rule, and {hosts} hosts are not "
        f"enough for {spans} partitions of any number of chains that {clients} clients share",
        rule="titanic",
    )


def titanic_program(problem: Problem, chains: int) -> tuple[Bools, Floats]:
    """Where x may be 1, and A, both [chains K, H]; clients are dealt to the chains in turn."""
    clients, spans, _ = problem.shape
    able, gains = [], []
    for chain in range(chains):
        members = np.arange(chain, clients, chains)
        for span in range(spans):
            times = np.array([problem.seconds(int(member), span) for member in members])
            need = problem.base[span] + len(members) * problem.session[span]
            fits = (need <= problem.free) & np.isfinite(times).all(axis=0)
            able.append(fits)
            gains.append(np.where(fits, -np.where(fits, times, 0.0).mean(axis=0), 0.0))
    return np.array(able), np.array(gains)


def _may_match(problem: Problem, chains: int) -> bool:
    """A quick necessary condition: for the most demanding partitions there are hosts enough."""
    members = problem.shape[0] // chains
    needs = np.sort(problem.base + members * problem.session)[::-1]
    return all(
        int((problem.free >= need).sum()) >= chains * (place + 1)
        for place, need in enumerate(needs)
    )


RULES: Mapping[str, Rule] = {
    "semantic": _Rule(False, _semantic),
    "titanic": _Rule(True, _titanic),
    "cheapest": _Rule(True, _cheapest),
    "random": _Rule(True, _random),
}
