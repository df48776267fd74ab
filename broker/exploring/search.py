"""Trials by seed, in parallel over the cores, until one fails or the budget ends.

What is found is the failure of the lowest seed, so it does not depend on how many cores look.
Processes are forked, so that whatever was imported and collected is there at once.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import get_args

from broker.exploring import drawing
from broker.exploring.trial import Attempt, Failure, Outcome, Trial, limit_s
from broker.guard import guarded
from faults import Scenario
from faults.event import Kind
from topologies import Topology

_CHUNK = 8
_AHEAD = 2


@dataclass(frozen=True)
class Settings:
    """How hard to look.

    Attributes:
        seeds: how many, from the test's own on.
        random: whether faults are drawn; else only seeds differ.
        intensity: of the faults, from 0 to 1.
        kinds: of fault, all if none is named.
        budget_s: real seconds after which no further trial begins.
        jobs: processes; as many as there are cores, if 0.
    """

    seeds: int = 1000
    random: bool = True
    intensity: float = 0.5
    kinds: tuple[str, ...] = ()
    budget_s: float = 60.0
    jobs: int = 0


@dataclass
class Exploration:
    """What was tried, and the first that failed, if one did."""

    tried: int = 0
    seconds: float = 0.0
    virtual_s: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    trial: Trial | None = None
    failure: Failure | None = None

    @property
    def rate(self) -> float:
        """Scenarios a second."""
        return self.tried / self.seconds if self.seconds else 0.0

    @property
    def coverage(self) -> str:
        """In how many scenarios each kind of fault struck while the test ran, and which never."""
        struck = [f"{_words(kind)} {count}" for kind, count in self.kinds.most_common()]
        never = [_words(kind) for kind in get_args(Kind) if kind not in self.kinds]
        missing = f"; never {', '.join(never)}" if never and struck else ""
        return ", ".join(struck) + missing


def _words(kind: str) -> str:
    return kind.replace("_", " ")


def explore(
    attempt: Attempt,
    topology: Topology,
    settings: Settings,
    *,
    calm: Outcome | None = None,
    first_seed: int = 0,
    begin: Callable[[], None] = lambda: None,
) -> Exploration:
    """Tries seeds and faults.

    Args:
        calm: what came of it without any; tried first, if it is not known.
        begin: called in each further process before its first trial.

    Raises ValueError where it fails without any fault, so that there is nothing to look for.
    """
    calm = calm or attempt(Trial(first_seed, Scenario("nothing"), topology))
    if calm.failure is not None:
        raise ValueError(f"it fails without any fault: {calm.failure.text}")
    where = drawing.around(topology, calm.nodes)
    lasts_s = calm.virtual_s

    def trial(seed: int) -> Trial:
        scenario = None
        if settings.random:
            scenario = drawing.draw(
                where,
                seed,
                intensity=settings.intensity,
                lasts_s=lasts_s,
                kinds=settings.kinds,
            )
        return Trial(seed, scenario, topology, limit_s(calm))

    found = Exploration()
    began_s = time.monotonic()
    until_s = began_s + settings.budget_s
    chunks = [
        range(at, min(at + _CHUNK, first_seed + settings.seeds))
        for at in range(first_seed, first_seed + settings.seeds, _CHUNK)
    ]

    def run(seeds: range) -> list[tuple[int, Outcome]]:
        outcomes: list[tuple[int, Outcome]] = []
        with guarded():  # once for all of them
            for seed in seeds:
                outcomes.append((seed, attempt(trial(seed))))
                if outcomes[-1][1].failure or time.monotonic() > until_s:
                    break
        return outcomes

    jobs = min(settings.jobs or cores(), len(chunks))
    results = _here(run, chunks) if jobs <= 1 else _over_cores(run, chunks, jobs, begin)
    for outcomes in results:
        for seed, outcome in outcomes:
            found.tried += 1
            found.virtual_s += outcome.virtual_s
            found.kinds.update(outcome.kinds)
            if outcome.failure is not None:
                found.trial, found.failure = trial(seed), outcome.failure
        if found.failure is not None or time.monotonic() > until_s:
            break
    found.seconds = time.monotonic() - began_s
    return found


def cores() -> int:
    """How many processes can run at once here."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_Run = Callable[[range], list[tuple[int, Outcome]]]
_run: _Run | None = None


def _here(run: _Run, chunks: list[range]) -> Iterator[list[tuple[int, Outcome]]]:
    return map(run, chunks)


def _over_cores(
    run: _Run, chunks: list[range], jobs: int, begin: Callable[[], None]
) -> Iterator[list[tuple[int, Outcome]]]:
    """The results in the order of the chunks. What a process is to run it has by being forked."""
    global _run  # noqa: PLW0603 - functions that are no module's can't be sent to processes
    _run = run
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=begin)
    try:
        waiting = deque(chunks)
        under_way: deque[Future[list[tuple[int, Outcome]]]] = deque()
        while waiting or under_way:
            while waiting and len(under_way) < jobs * _AHEAD:
                under_way.append(pool.submit(_run_here, waiting.popleft()))
            yield under_way.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        _run = None


def _run_here(seeds: range) -> list[tuple[int, Outcome]]:
    assert _run is not None
    return _run(seeds)
