"""Whether everybody's spans fit at all, which is a question of numbers, not of names.

Sessions of one span are alike, so memory only asks how many of span s go to host h: integers n with
Σ_h n(s,h) = C and Σ_s ([n > 0] base(s) + n session(s)) ≤ free(h). A host that is a client takes at
most C - 1 of a span, since not its own; and that is enough for the clients to be dealt out so that
nobody hosts for itself (Hall's condition: two clients are refused by different hosts). So what
fits in numbers fits.

Bin packing with bases shared is hard: first a greedy filling, then HiGHS for what is small enough.
HiGHS is bounded by nodes, never by time, so that the same question always has the same answer.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, linear_sum_assignment, milp
from scipy.sparse import csr_array

from atlas.pairing.objective import Arrangement, Ints, Problem
from atlas.pairing.types import PairingError

MOST_CELLS = 4_000
"""Spans times hosts up to which HiGHS is asked, too."""
MOST_NODES = 2_000
_FAR = 1e12


def packed(problem: Problem) -> Arrangement | None:
    """A placement that holds, made for memory first; None where none was found."""
    counts = numbers(problem)
    return None if counts is None else _dealt(problem, counts)


def numbers(problem: Problem) -> Ints | None:
    """n [K, H], or None where none was found (up to `MOST_CELLS`: where there is none)."""
    _, spans, hosts = problem.shape
    counts, left = _filled(problem)
    if not left.any():
        return counts
    if not hosts or spans * hosts > MOST_CELLS or not _could_fit(problem):
        return None
    return _solved(problem)


def shortage(problem: Problem) -> dict[int, int]:
    """By host, the bytes with which all would fit: the fewest in all, up to `MOST_CELLS`."""
    _, spans, hosts = problem.shape
    if not hosts:
        return {}
    if spans * hosts <= MOST_CELLS:
        extra = _lacking(problem)
        if extra is not None:
            return extra
    counts, left = _filled(problem)
    eligible = problem.free.copy()
    if problem.shape[0] == 1:  # nobody else would be helped
        eligible[problem.itself[problem.itself >= 0]] = np.iinfo(np.int64).min
    host = int(np.argmax(eligible))
    bases = problem.base[(left > 0) & (counts[:, host] == 0)].sum()
    need = _need(problem, counts)[host] + bases + int(left @ problem.session)
    return {host: int(need - problem.free[host])}


def more_hosts(problem: Problem) -> tuple[int, int]:
    """How many hosts, of the roomiest one's bytes or what the largest span takes, hold what a
    filling leaves over.
    """
    _, left = _filled(problem)
    size = int((problem.base + problem.session).max())
    size = max(size, int(problem.free.max(initial=0)))
    count = 0
    while left.any():
        taken = _fill(problem, left, size, np.zeros_like(left))
        left, count = left - taken, count + 1
    return count, size


def _most(problem: Problem) -> Ints:
    """[K, H], at most how many sessions of a span a host may be given, by whose they are."""
    clients, spans, hosts = problem.shape
    most = np.full((spans, hosts), clients, dtype=np.int64)
    most[:, problem.itself[problem.itself >= 0]] -= 1
    return most


def _need(problem: Problem, counts: Ints) -> Ints:
    need: Ints = problem.base @ (counts > 0) + problem.session @ counts
    return need


def _could_fit(problem: Problem) -> bool:
    """False where the bytes of all sessions and one base each are more than there are."""
    clients, _, _ = problem.shape
    bytes_ = clients * int(problem.session.sum()) + int(problem.base.sum())
    return bytes_ <= int(np.maximum(problem.free, 0).sum())


def _fill(problem: Problem, left: Ints, free: int, counts: Ints, most: Ints | None = None) -> Ints:
    """[K], what more one host takes: whole spans as long as they fit, the fullest use first."""
    taken = np.zeros_like(left)
    while True:
        bases = np.where(counts + taken == 0, problem.base, 0)
        remaining = left - taken
        if most is not None:
            remaining = np.minimum(remaining, most - counts - taken)
        used = int(_need(problem, (counts + taken)[:, None])[0])
        number = np.minimum(remaining, (free - used - bases) // np.maximum(problem.session, 1))
        number = np.maximum(number, 0)
        if not number.any():
            return taken
        share = np.where(
            number > 0, number * problem.session / (bases + number * problem.session + 1), -1
        )
        best = int(np.argmax(share))
        taken[best] += number[best]


def _filled(problem: Problem) -> tuple[Ints, Ints]:
    """Host after host, the roomiest first: (n, what is left over of each span)."""
    clients, spans, hosts = problem.shape
    counts = np.zeros((spans, hosts), dtype=np.int64)
    left = np.full(spans, clients, dtype=np.int64)
    most = _most(problem)
    for host in np.argsort(-problem.free, kind="stable"):
        if not left.any():
            break
        free = int(problem.free[host])
        taken = _fill(problem, left, free, counts[:, host], most[:, host])
        counts[:, host] += taken
        left -= taken
    return counts, left


def _solved(problem: Problem) -> Ints | None:
    return _milp(problem, slack=False)[0]


def _lacking(problem: Problem) -> dict[int, int] | None:
    counts, found = _milp(problem, slack=True)
    if counts is None or not found:
        return None
    lacking = _need(problem, counts) - problem.free
    return {int(h): int(lacking[h]) for h in np.flatnonzero((lacking > 0) & counts.any(axis=0))}


def _milp(problem: Problem, *, slack: bool) -> tuple[Ints | None, bool]:
    """n, by HiGHS. With `slack` hosts may lack bytes, the fewest in all."""
    clients, spans, hosts = problem.shape
    cells = spans * hosts
    most = _most(problem)
    free = problem.free[None, :] - problem.base[:, None]
    if not slack:
        most = np.clip(free // np.maximum(problem.session[:, None], 1), 0, most)
    scale = float(max(int(problem.base.max() + problem.session.max()), 1))
    n, y, e = 0, cells, 2 * cells
    size = 2 * cells + (hosts if slack else 0)
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    low: list[float] = []
    high: list[float] = []

    def row(entries: list[tuple[int, float]], lower: float, upper: float) -> None:
        for column, value in entries:
            rows.append(len(low))
            columns.append(column)
            values.append(value)
        low.append(lower)
        high.append(upper)

    for span in range(spans):
        row([(n + span * hosts + host, 1.0) for host in range(hosts)], clients, clients)
    for host in range(hosts):
        entries = [(n + s * hosts + host, problem.session[s] / scale) for s in range(spans)]
        entries += [(y + s * hosts + host, problem.base[s] / scale) for s in range(spans)]
        if slack:
            entries.append((e + host, -1.0))
        row(entries, -np.inf, max(int(problem.free[host]), 0) / scale)
        for span in range(spans):
            cell = span * hosts + host
            row([(n + cell, 1.0), (y + cell, -float(most[span, host]))], -np.inf, 0.0)
    matrix = csr_array((values, (rows, columns)), shape=(len(low), size))
    upper = np.concatenate([most.ravel(), np.ones(cells), np.full(size - 2 * cells, np.inf)])
    result = milp(
        np.concatenate([np.zeros(2 * cells), np.ones(size - 2 * cells)]),
        constraints=LinearConstraint(matrix, low, high),
        integrality=np.concatenate([np.ones(2 * cells), np.zeros(size - 2 * cells)]),
        bounds=Bounds(0, upper),
        options={"node_limit": MOST_NODES},
    )
    if result.x is None:
        return None, False
    counts = np.rint(result.x[:cells]).astype(np.int64).reshape(spans, hosts)
    if not slack and (_need(problem, counts) > np.maximum(problem.free, 0)).any():
        return None, False  # by less than HiGHS's tolerance
    return counts, True


def _dealt(problem: Problem, counts: Ints) -> Arrangement:
    """Who takes which of the places, span by span, in the least time in all (an assignment)."""
    placement = Arrangement(problem)
    clients, spans, _ = problem.shape
    for span in range(spans):
        slots = np.repeat(np.arange(counts.shape[1]), counts[span])
        times = np.array([problem.seconds(client, span)[slots] for client in range(clients)])
        # Beyond reach, and yet finite: an assignment of all is known to exist.
        rows, columns = linear_sum_assignment(np.where(np.isfinite(times), times, _FAR))
        for client, slot in zip(rows, columns, strict=True):
            placement.put(int(client), span, int(slots[slot]))
    return placement


def infeasible(problem: Problem) -> PairingError:
    """Says which client's which span has no place, and what would give it one."""
    _, left = _filled(problem)
    span = int(np.argmax(left > 0)) if left.any() else 0
    clients, _, hosts = problem.shape
    client = clients - int(max(left[span], 1))
    cost = problem.cost.spans[span]
    roomiest = int(problem.free.max(initial=0))
    return PairingError(
        problem.clients[client].name,
        cost,
        f"they need {cost.base_bytes + cost.session_bytes:,} bytes on one device, the roomiest of "
        f"{hosts} grants {roomiest:,} and {clients} clients share them",
        more_hosts=more_hosts(problem),
        shortage=lambda: {
            problem.hosts[host].name: size for host, size in shortage(problem).items()
        },
    )
