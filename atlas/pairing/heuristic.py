"""Plans for any number of clients: a greedy start, then the slowest is helped until nobody can.

The start places the clients whose own part takes longest first, each span where the slowest round,
and then the waiting, grows least; where that strands one without room, a packing for memory is the
start (`packing`). Then what is slowest (a client's round, or a host's load) loses the job whose
move, or exchange with another, leaves everything that it touches shorter: the sorted list of times
falls with each change, so it ends. Where that is stuck, a few jobs are taken out and put back in
another order, a bounded number of times, drawn from a fixed seed. At last jobs move where that
lessens the waiting without anything getting slower than the slowest. Loads are kept up to date and
a job's moves are weighed for all hosts at once, so a change costs a few operations on arrays of
hosts, or of jobs.
"""

from __future__ import annotations

import hashlib

import numpy as np

from atlas.pairing.objective import RELATIVE, Arrangement, Bools, Floats, Ints, Problem
from atlas.pairing.packing import infeasible, packed

CHANGES_PER_JOB = 8
"""At most so many changes, on average, for each job."""
MOST_PASSES = 3
MOST_SHAKES, PATIENCE = 400, 40
"""How often jobs are shaken up in all, and in vain in a row."""
SHAKING = 400_000
"""Shakes times (jobs + hosts): large problems get fewer, so that they take seconds."""
NEAR = 1e-3
"""Nobody shakes for less than this share of the round."""
OTHERS, MOST_OUT = 6, 24
"""How many hosts are emptied beside the slowest's, and of how many jobs at most."""


def solve(problem: Problem) -> Arrangement:
    """A good placement. Raises PairingError where none was found that fits the memory."""
    start = greedy(problem)
    if start is None:
        start = packed(problem)
    if start is None:
        raise infeasible(problem)
    _shorten(start)
    _shake(start)
    improve(start)
    return start


def score(placement: Arrangement) -> tuple[float, float]:
    """Both objectives, rounded so that rounding does not decide."""
    first, second = placement.round_s, placement.waiting_s
    return float(f"{first:.9g}"), float(f"{second:.9g}")


def improve(placement: Arrangement) -> None:
    """Changes the placement while that shortens the slowest round, or lessens the waiting."""
    before = None
    for _ in range(MOST_PASSES):
        _shorten(placement)
        _even(placement)
        now = score(placement)
        if now == before:
            break
        before = now


def greedy(problem: Problem) -> Arrangement | None:
    """Each span where it costs least, the slowest clients' first; None where one is stranded."""
    spans = problem.shape[1]
    placement = Arrangement(problem)
    if not np.isfinite(placement.alone).all():
        return None
    for client in np.argsort(-placement.alone, kind="stable"):
        for span in range(spans):
            if not _put_best(placement, int(client), span):
                return None
    return placement


def _put_best(placement: Arrangement, client: int, span: int) -> bool:
    """Puts a job where the slowest round, and then the waiting, grows least; False without room."""
    options = _Moves(placement, client, span)
    if not options.can.any():
        return False
    slowest = np.maximum(options.longest, placement.round_s)
    best = np.where(options.can, slowest, np.inf).min()
    tied = options.can & (slowest <= best * (1 + RELATIVE))
    placement.put(client, span, int(np.argmin(np.where(tied, options.waiting, np.inf))))
    return True


class _Moves:
    """What it would come to if a job that has no host now went to each host. All [H].

    Attributes:
        can: who may take it and has room.
        longest: the longest of what it touches, the client's round and the host's load.
        waiting: by how much the second objective grows.
    """

    def __init__(self, placement: Arrangement, client: int, span: int) -> None:
        problem = placement.problem
        times = problem.seconds(client, span)
        self.can: Bools = placement.fits(client, span) & np.isfinite(times)
        demand = problem.demand[:, span]
        longer = times - problem.least[client, span]
        self.longest: Floats = np.maximum(
            placement.alone[client] + longer, (placement.busy + demand).max(axis=0)
        )
        squares = (demand * (2 * placement.busy + demand)).sum(axis=0)
        self.waiting: Floats = longer + squares / (problem.bound or 1.0)


def _shorten(placement: Arrangement) -> None:
    changes = CHANGES_PER_JOB * placement.host_of.size
    for _ in range(changes):
        slowest = placement.round_s
        limit = slowest * (1 - RELATIVE)
        critical = _critical(placement)
        if not (_move_one(placement, critical, limit) or _exchange(placement, critical, limit)):
            return


def _shake(placement: Arrangement) -> None:
    """Takes one job of the slowest away, and others that are drawn, some from a few hosts, some
    from anywhere; puts them back in another order, each where it costs least then; and keeps what
    comes out if it is better (a large neighborhood search).
    """
    problem = placement.problem
    digest = hashlib.sha256(f"pairing/{problem.shape}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    clients, spans, hosts = problem.shape
    failures = 0
    for _ in range(min(MOST_SHAKES, SHAKING // (clients * spans + hosts))):
        if failures == PATIENCE or placement.round_s <= problem.bound * (1 + NEAR):
            return
        before, was = placement.copy(), score(placement)
        failures += 1
        if _rebuilt(placement, generator):
            _shorten(placement)
            now = score(placement)
            failures = 0 if now[0] < was[0] else failures
            if now < was:
                continue
        placement.become(before)


def _rebuilt(placement: Arrangement, generator: np.random.Generator) -> bool:
    critical = _critical(placement)
    first = critical[int(generator.integers(len(critical)))]
    jobs_of = placement.host_of
    if generator.integers(2):
        drawn = generator.integers(placement.problem.shape[2], size=1 + generator.integers(OTHERS))
        emptied = [int(jobs_of[first]), *(int(host) for host in drawn)]
        among = np.flatnonzero(np.isin(jobs_of, emptied))
    else:
        among = np.arange(jobs_of.size)
    share = min(MOST_OUT, max(2, len(among) // (1 + int(generator.integers(4)))))
    drawn = generator.permutation(among)[:share]
    out = dict.fromkeys([first, *(divmod(int(job), jobs_of.shape[1]) for job in drawn)])
    jobs = list(out)
    for job in jobs:
        placement.take(*job)
    return all(_put_best(placement, *jobs[place]) for place in generator.permutation(len(jobs)))


def _critical(placement: Arrangement) -> list[tuple[int, int]]:
    """The jobs of which one has to change for the slowest to get shorter."""
    busy = placement.busy.max(axis=0)
    if placement.alone.max() >= busy.max():
        client = int(np.argmax(placement.alone))
        return [(client, span) for span in range(placement.host_of.shape[1])]
    jobs = np.argwhere(placement.host_of == int(np.argmax(busy)))
    return [(int(client), int(span)) for client, span in jobs]


def _move_one(placement: Arrangement, jobs: list[tuple[int, int]], limit: float) -> bool:
    """Makes the best move of one of these jobs after which all it touches is under the limit."""
    best: tuple[float, int, int, int] | None = None
    for client, span in jobs:
        here = placement.take(client, span)
        options = _Moves(placement, client, span)
        options.can[here] = False
        # What is left behind gets shorter anyway.
        under = options.can & (options.longest < limit)
        if under.any():
            there = int(np.argmin(np.where(under, options.longest, np.inf)))
            found = (float(options.longest[there]), client, span, there)
            if best is None or found[0] < best[0]:
                best = found
        placement.put(client, span, here)
    if best is None:
        return False
    _, client, span, there = best
    placement.take(client, span)
    placement.put(client, span, there)
    return True


def _exchange(placement: Arrangement, jobs: list[tuple[int, int]], limit: float) -> bool:
    """Exchanges the hosts of one of these jobs and another's, so that all is under the limit."""
    best: tuple[float, int, int, int, int] | None = None
    for client, span in jobs:
        longest = _exchanged(placement, client, span)
        other = int(np.argmin(longest))
        if longest[other] < limit and (best is None or longest[other] < best[0]):
            spans = placement.host_of.shape[1]
            best = (float(longest[other]), client, span, other // spans, other % spans)
    if best is None:
        return False
    _, client, span, partner, with_ = best
    here, there = placement.take(client, span), placement.take(partner, with_)
    placement.put(client, span, there)
    placement.put(partner, with_, here)
    return True


def _exchanged(placement: Arrangement, client: int, span: int) -> Floats:
    """[C K], the longest of what an exchange with each job would touch; infinite where it can't."""
    problem, host_of = placement.problem, placement.host_of
    size, spans, _ = problem.shape
    partners: Ints = np.repeat(np.arange(size), spans)
    theirs: Ints = np.tile(np.arange(spans), size)
    here, there = int(host_of[client, span]), host_of.ravel()

    mine = problem.seconds(client, span)
    longer = placement.alone[client] - mine[here] + mine[there]
    now = problem.seconds_on(partners, theirs, there)
    other = placement.alone[partners] - now + problem.seconds_on(partners, theirs, here)

    demand = problem.demand
    busy_here = (
        placement.busy[:, here, None] - demand[:, span, here, None] + demand[:, theirs, here]
    )
    busy_there = placement.busy[:, there] - demand[:, theirs, there] + demand[:, span, there]

    lose = np.where(placement.count[span, here] == 1, problem.base[span], 0) + problem.session[span]
    gain = np.where(placement.count[theirs, here] == 0, problem.base[theirs], 0)
    gain = gain + problem.session[theirs]
    need_here = placement.need[here] - lose + gain
    lose = np.where(placement.count[theirs, there] == 1, problem.base[theirs], 0)
    lose = lose + problem.session[theirs]
    gain = np.where(placement.count[span, there] == 0, problem.base[span], 0)
    gain = gain + problem.session[span]
    need_there = placement.need[there] - lose + gain
    alike = theirs == span
    fits = alike | ((need_here <= problem.free[here]) & (need_there <= problem.free[there]))

    allowed = fits & (partners != client) & (there != here)
    longest = np.maximum(np.maximum(longer, other), busy_here.max(axis=0))
    longest = np.maximum(longest, busy_there.max(axis=0))
    return np.where(allowed & np.isfinite(longest), longest, np.inf)


def _even(placement: Arrangement) -> None:
    """One pass over all jobs: each moves where the waiting is least, nothing over the slowest."""
    cap = placement.round_s * (1 + RELATIVE)
    clients, spans = placement.host_of.shape
    for client in range(clients):
        for span in range(spans):
            here = placement.take(client, span)
            options = _Moves(placement, client, span)
            options.can[here] = True
            waiting = np.where(options.can & (options.longest <= cap), options.waiting, np.inf)
            there = int(np.argmin(waiting))
            if not waiting[there] < waiting[here] - RELATIVE * cap:
                there = here
            placement.put(client, span, there)
