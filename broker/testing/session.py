"""The world of each marked test in a session of pytest: made, checked and closed.

A test's coroutine and its asynchronous fixtures run on the world's loop: pytest-asyncio takes it
from its hook for loop factories, anyio from a runner that is opened for the test. Both are asked
for a loop that lives as long as one test.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from _pytest.unittest import TestCaseFunction

from broker.errors import BrokerError
from broker.testing import marks
from broker.testing.loop import VirtualLoop
from broker.testing.report import describe, task_in_words
from broker.testing.world import World
from faults import Scenario
from topologies import InputError, Topology


@dataclass(frozen=True)
class Instead:
    """What a run of a test is to have, whatever its marks say; `faults` None: what they say. Where
    it is to be `brief`, nobody reads its report.
    """

    seed: int
    faults: Scenario | None
    topology: Topology
    limit_s: float
    brief: bool = False


WORLD = pytest.StashKey[World]()
INSTEAD = pytest.StashKey[Instead]()
ERROR = pytest.StashKey[BaseException]()
"""What the test failed with."""
_STRICT = pytest.StashKey[bool]()
_FAILED = pytest.StashKey[bool]()
_UNNOTICED = ("TestRunner._run_tests_and_fixtures",)  # anyio's own, which ends with its runner
_current: World | None = None


def loop_of_the_test() -> asyncio.AbstractEventLoop:
    """The loop of the test that is about to run, for who makes loops."""
    if _current is None:
        raise BrokerError("a virtual loop is made for a test that is marked, and for its time only")
    return _current.loop


def topology(request: pytest.FixtureRequest) -> Topology:
    """The topology that a test is to have."""
    item: pytest.Item = request.node
    instead = item.stash.get(INSTEAD, None)
    if instead is not None:
        return instead.topology
    found: Topology
    with _readable():
        found = marks.topology(item, getattr(request, "param", None))
    return found


@contextlib.contextmanager
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """The world of a test, until its loop is closed."""
    global _current  # noqa: PLW0603 - a process runs one test at a time
    item = request.node
    item.stash[_FAILED] = False
    _refuse_longer_lives(item)
    network = request.getfixturevalue("network")
    with _readable():
        settings = marks.read(item)
        seed, trouble, limit_s = settings.seed, settings.faults, settings.limit_s
        instead = item.stash.get(INSTEAD, None)
        if instead is not None:
            seed, limit_s = instead.seed, min(limit_s, instead.limit_s)
            trouble = trouble if instead.faults is None else instead.faults
        wall = item.config.option.network_wall
        try:
            made = World(network, faults=trouble, seed=seed, limit_s=limit_s, wall=wall)
        except InputError as error:
            raise marks.misfit(item, error) from error
    item.stash[WORLD], item.stash[_STRICT] = made, settings.strict
    _current = made
    try:
        yield made
    finally:
        _current = None
        folder = item.config.option.network_trace
        if folder and instead is None:
            _write_trace(made, Path(folder), item.nodeid)
        made.close()


@contextlib.contextmanager
def checks(request: pytest.FixtureRequest, made: World) -> Iterator[None]:
    """Opens who runs the test, and sees to it afterwards that no task is left."""
    item = request.node
    with _anyio_runner(item, made.loop):
        if item.get_closest_marker("asyncio") is not None and _is_coroutine(item):
            runner = request.getfixturevalue("_function_scoped_runner")
            if runner.get_loop() is not made.loop:
                _fail(item, _OTHER_LOOP)
        yield
        left = [task for task in made.loop.tasks() if _matters(task)]
        if left and not item.stash.get(_FAILED, False):
            lines = [f"  {task_in_words(task)}" for task in left]
            _fail(
                item,
                f"{len(left)} task{'s' if len(left) > 1 else ''} left over, which nobody awaits:\n"
                + "\n".join(lines)
                + f"\n\n{describe(made, item.nodeid)}",
            )


_OTHER_LOOP = (
    "the test does not run in virtual time: its loop is another's. pytest-asyncio has to be 1.4 or "
    "later, and a test's own `loop_factories` can't be honored beside the mark network"
)


@contextlib.contextmanager
def calling(item: pytest.Item) -> Iterator[None]:
    """A test is called. What ends its world from outside of it (a deadlock, a program that fails)
    has no line of the test to show, and so needs no traceback.
    """
    try:
        yield
    except BrokerError as error:
        made = item.stash.get(WORLD, None)
        if made is None or not any(map(_matters, made.loop.tasks())):
            raise
        problem = f"{item.nodeid}: {type(error).__name__}: {error}"
        raise pytest.fail.Exception(problem, pytrace=False) from None
    check(item)


def check(item: pytest.Item) -> None:
    """Fails a test that has passed where the books are wrong, or where `strict` nobody reads."""
    made = item.stash.get(WORLD, None)
    if made is None:
        return
    made.check()
    unread = made.unread if item.stash.get(_STRICT, False) else {}
    if unread:
        nodes = ", ".join(f"{count} at {name}" for name, count in unread.items())
        _fail(item, f"messages that nobody has read: {nodes}")


def failed(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """Adds to the report of a test that failed what its network did."""
    if report.when == "call":
        item.stash[_FAILED] = True
    if ERROR not in item.stash and call.excinfo is not None:
        item.stash[ERROR] = call.excinfo.value
    made, instead = item.stash.get(WORLD, None), item.stash.get(INSTEAD, None)
    if report.when == "call" and made is not None and not (instead and instead.brief):
        said = describe(made, item.nodeid, item, explored=instead is not None)
        report.sections.append(("Captured network", said))


def _fail(item: pytest.Item, text: str) -> None:
    pytest.fail(f"{item.nodeid}: {text}", pytrace=False)


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Bad input fails the test with its sentence, and no traceback."""
    try:
        yield
    except InputError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


def _matters(task: asyncio.Task[Any]) -> bool:
    return getattr(task.get_coro(), "__qualname__", "") not in _UNNOTICED


def _is_coroutine(item: Any) -> bool:
    """Whether a test is asynchronous, Hypothesis's inner one included."""
    test = getattr(item, "obj", None)
    inner = getattr(getattr(test, "hypothesis", None), "inner_test", test)
    return inspect.iscoroutinefunction(inner)


def _refuse_longer_lives(item: Any) -> None:
    """A clock that lives longer than a test would make it depend on the tests before it."""
    why = (
        "would live longer than the test. The mark network asks for function scope, because a "
        "clock that lives longer would make a test depend on those that ran before it"
    )
    if isinstance(item, TestCaseFunction) and _is_coroutine(item):
        _fail(item, "unittest makes loops of its own; write the test as a function")
    if hasattr(getattr(item, "obj", None), "hypothesis") and _is_coroutine(item):
        remedy = "make a World in each example (broker.testing), in a plain function"
        _fail(item, f"its network would live longer than an example of Hypothesis: {remedy}")
    marker = item.get_closest_marker("asyncio")
    if marker is not None and _is_coroutine(item):
        scope = marker.kwargs.get("loop_scope") or marker.kwargs.get("scope")
        scope = scope or item.config.getini("asyncio_default_test_loop_scope")
        if scope != "function":
            remedy = 'write @pytest.mark.asyncio(loop_scope="function")'
            _fail(item, f"its event loop has {scope} scope, and {why}: {remedy}")
    for name, definitions in item._fixtureinfo.name2fixturedefs.items():
        fixture = definitions[-1]
        function = fixture.func
        asynchronous = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        scope = getattr(function, "_loop_scope", None) or fixture.scope
        if asynchronous and scope != "function":
            remedy = "give it function scope, or make it a plain function"
            _fail(item, f"the asynchronous fixture {name} has {scope} scope, and {why}: {remedy}")


@contextlib.contextmanager
def _anyio_runner(item: Any, loop: VirtualLoop) -> Iterator[None]:
    """Where anyio's plugin runs the test, its runner for this time, on the world's loop."""
    if item.get_closest_marker("anyio") is None or not _is_coroutine(item):
        yield
        return
    from anyio import pytest_plugin  # noqa: PLC0415 - not everybody has it

    backend = getattr(item, "callspec", None) and item.callspec.params.get("anyio_backend")
    name = backend[0] if isinstance(backend, tuple) else backend
    if name not in (None, "asyncio"):
        pytest.skip(f"{name} has a clock of its own; the mark network is for asyncio")
    with pytest_plugin.get_runner("asyncio", {"loop_factory": lambda: loop}) as runner:
        if runner.get_loop() is not loop:  # type: ignore[attr-defined]
            _fail(item, "an asynchronous fixture of anyio lives longer than the test; give it "
                  "function scope")  # fmt: skip
        yield


def _write_trace(made: World, folder: Path, nodeid: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.-]+", "_", nodeid)
    made.ledger.write_parquet(folder / f"{name}.parquet")
