"""The best plan there is, proven, for small problems: a mixed-integer program solved by HiGHS.

    minimize T
    Σ_h x(c,s,h) = 1                                             every span has a host
    x(c,s,h) ≤ y(s,h)                                            which then holds its base
    Σ_s base(s) y(s,h) + Σ_cs session(s) x(c,s,h) ≤ free(h)      and all it is given
    own(c) + Σ_sh seconds(c,s,h) x(c,s,h) ≤ T                    every client alone
    fixed(r) + Σ_cs demand(r,s) x(c,s,h(r)) ≤ T                  every processor, uplink, downlink

with x and y 0 or 1: the objective as `objective` has it. The heuristic's plan bounds T from above,
which rules most of the x out beforehand; what it leaves is then evened out for the second
objective. Not for runs, whose plans may not depend on how quick a machine is: with a limit of time
another machine may prove more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array, vstack

from atlas.pairing import heuristic
from atlas.pairing.objective import RELATIVE, Arrangement, Floats, Ints, Problem


@dataclass(frozen=True)
class Solved:
    """A placement, and what is known of how good it is.

    `bound_s` is a round that no plan beats, and `gap` how much longer this one's is, as a share of
    its own; `is_proven` where it is the best.
    """

    placement: Arrangement
    bound_s: float
    gap: float
    is_proven: bool


def solve(problem: Problem, *, limit_s: float = 60.0, gap: float = 1e-6) -> Solved:
    """The placement with the shortest slowest round, or the best within `limit_s` seconds.

    Raises PairingError where none fits the memory.
    """
    start = heuristic.solve(problem)
    program = _Program(problem, start.round_s)
    result = milp(
        program.cost,
        constraints=program.constraints,
        integrality=program.integrality,
        bounds=program.bounds,
        options={"time_limit": limit_s, "mip_rel_gap": gap},
    )
    best = start
    if result.x is not None:
        found = program.placement(result.x)
        heuristic.improve(found)
        if found.holds:
            best = min((start, found), key=heuristic.score)
    lower = problem.bound
    if result.mip_dual_bound is not None and np.isfinite(result.mip_dual_bound):
        lower = max(lower, min(float(result.mip_dual_bound) * program.scale, best.round_s))
    left = max(best.round_s - lower, 0.0) / best.round_s
    return Solved(best, lower, left, left <= max(gap, 1e-6) * (1 + RELATIVE))


def relaxed(problem: Problem, longest_s: float) -> float:
    """The linear relaxation's T: no plan beats it; at least the problem's own bound.

    Args:
        problem: Clients, hosts, and what they cost.
        longest_s: The slowest round of some plan; only better ones are looked for.
    """
    program = _Program(problem, longest_s)
    result = milp(program.cost, constraints=program.constraints, bounds=program.bounds)
    found = problem.bound if result.x is None else float(result.fun) * program.scale
    return max(problem.bound, found)


class _Program:
    """The program as sparse matrices. Columns: every x that a better plan may have, y, T."""

    def __init__(self, problem: Problem, longest_s: float) -> None:
        clients, spans, hosts = problem.shape
        self._problem = problem
        self.scale = longest_s
        times = np.array(
            [[problem.seconds(c, s) for s in range(spans)] for c in range(clients)]
        ).reshape(clients, spans, hosts)
        alone = problem.own + problem.least.sum(axis=1)
        with_it = alone[:, None, None] + times - problem.least[:, :, None]
        load = (problem.fixed[:, None, :] + problem.demand).max(axis=0)
        limit = longest_s * (1 + 10 * RELATIVE)
        self._cells: Ints = np.argwhere((with_it <= limit) & (load[None] <= limit))
        c, s, h = self._cells.T
        width = len(c)
        self._y = width
        columns = width + spans * hosts + 1
        x = np.arange(width)
        y = width + s * hosts + h

        def matrix(values: Floats, rows: Ints, cols: Ints, height: int) -> csr_array:
            return csr_array(coo_array((values, (rows, cols)), shape=(height, columns)))

        one = np.ones(width)
        placed = matrix(one, c * spans + s, x, clients * spans)
        opened = matrix(
            np.concatenate([one, -one]), np.concatenate([x, x]), np.concatenate([x, y]), width
        )
        unit = float(max(int((problem.base + problem.session).max()), 1))
        every = np.arange(spans * hosts)
        memory = matrix(
            np.concatenate([problem.session[s] / unit, np.repeat(problem.base, hosts) / unit]),
            np.concatenate([h, every % hosts]),
            np.concatenate([x, width + every]),
            hosts,
        )
        last = np.full(clients, columns - 1)
        clock = matrix(
            np.concatenate([times[c, s, h] / self.scale, -np.ones(clients)]),
            np.concatenate([c, np.arange(clients)]),
            np.concatenate([x, last]),
            clients,
        )
        loads = [
            matrix(
                np.concatenate([problem.demand[r, s, h] / self.scale, -np.ones(hosts)]),
                np.concatenate([h, np.arange(hosts)]),
                np.concatenate([x, np.full(hosts, columns - 1)]),
                hosts,
            )
            for r in range(3)
        ]
        upper = np.concatenate(
            [
                np.zeros(width),
                np.maximum(problem.free, 0) / unit,
                -problem.own / self.scale,
                *(-problem.fixed / self.scale),
            ]
        )
        below = vstack([opened, memory, clock, *loads])
        self.constraints = (
            LinearConstraint(placed, 1, 1),
            LinearConstraint(below, -np.inf, upper),
        )
        self.cost = np.zeros(columns)
        self.cost[-1] = 1.0
        self.integrality: Ints = np.ones(columns, dtype=np.int64)
        self.integrality[-1] = 0
        least = np.zeros(columns)
        least[-1] = min(problem.bound / self.scale, 1.0)
        most = np.ones(columns)
        most[-1] = 1 + 10 * RELATIVE
        self.bounds = Bounds(least, most)

    def placement(self, values: Floats) -> Arrangement:
        """What HiGHS found, for each span the host whose x is nearest to 1."""
        placement = Arrangement(self._problem)
        chosen: dict[tuple[int, int], tuple[float, int]] = {}
        for (client, span, host), value in zip(self._cells, values[: self._y], strict=True):
            job = int(client), int(span)
            if value > chosen.get(job, (-1.0, 0))[0]:
                chosen[job] = float(value), int(host)
        for (client, span), (_, host) in chosen.items():
            placement.put(client, span, host)
        return placement
