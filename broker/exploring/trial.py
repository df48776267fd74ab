"""What an exploration tries, and what came of it.

An `Attempt` is a function from a trial to its outcome; the same trial always has the same outcome.
`in_world` makes one of a coroutine function, and `broker.exploring.item` one of a test of pytest.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeAlias

from broker.testing.world import World
from faults import Scenario
from topologies import Topology

LIMIT_S = 3600.0
_TIMES_AS_LONG = 20


def limit_s(calm: Outcome) -> float:
    """How long a trial may take, by what it takes without faults."""
    return max(LIMIT_S, _TIMES_AS_LONG * calm.virtual_s)


@dataclass(frozen=True)
class Trial:
    """A seed, what goes wrong (None: what the test itself says), a network, and the virtual time
    after which it has failed: drawn faults end, so what does not end then is stuck.
    """

    seed: int
    scenario: Scenario | None
    topology: Topology
    limit_s: float = LIMIT_S


@dataclass(frozen=True)
class Failure:
    """How a trial failed. Two failures are one and the same where their `signature` is.

    `text` is a line for people, `report` all there is to say.
    """

    signature: str
    text: str
    report: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of a trial: how it failed, if it did; the kinds of fault that struck; the nodes
    that had a part in it; how long it took, in virtual seconds.
    """

    failure: Failure | None
    kinds: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    virtual_s: float = 0.0


Attempt: TypeAlias = Callable[[Trial], Outcome]
Story: TypeAlias = Callable[[World], Coroutine[Any, Any, object]]


def in_world(story: Story) -> Attempt:
    """Tries `async def story(world)`, which raises where an invariant is broken."""

    def attempt(trial: Trial) -> Outcome:
        scenario = trial.scenario or ()
        failure = None
        with World(
            trial.topology, faults=scenario, seed=trial.seed, limit_s=trial.limit_s
        ) as world:
            try:
                world.run(story(world))
            except Exception as error:
                failure = failure_of(error)
            return seen(world, failure)

    return attempt


def seen(world: World, failure: Failure | None) -> Outcome:
    """The outcome of what has happened in a world."""
    begun = (event.kind for event in world.struck if event.phase == "begin")
    return Outcome(failure, tuple(dict.fromkeys(begun)), tuple(world.names), world.now)


def failure_of(error: BaseException) -> Failure:
    """An exception as a failure: it is its type and the line where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    raised = frames[-1] if frames else None
    place = f"{raised.filename}:{raised.lineno}" if raised else "?"
    text = "".join(traceback.format_exception_only(error)).strip().partition("\n")[0]
    report = "".join(traceback.format_exception(error))
    return Failure(f"{type(error).__name__} at {place}", text, report)
