"""The pytest plugin: `pytest.mark.network`, `pytest.mark.explore` and their fixtures.

Installing the package is all it takes. Nothing of it is imported until a test is marked, so that
other tests pay nothing for it; what the marks do stands in `broker.testing` and
`broker.exploring`, and docs/testing.md says how to use them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import asyncio

    from broker.node import Node
    from broker.testing import Injector, World
    from topologies import Topology

MARKS = (
    "network(topology, faults, seed, strict, limit): runs the test in virtual time, beside an "
    "emulated network",
    "explore(seeds, faults, intensity, kinds, budget, jobs): runs the test under many seeds and "
    "random faults, and shrinks what breaks it",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("network", "emulated networks")
    group.addoption(
        "--network-seed",
        metavar="N|random",
        help="the seed of all tests marked network, whatever their marks say; random draws one",
    )
    group.addoption(
        "--network-wall",
        action="store_true",
        help="virtual time keeps pace with the machine's clock instead of jumping",
    )
    group.addoption(
        "--network-trace",
        metavar="DIR",
        help="write each test's messages and faults there, for `python -m broker trace`",
    )
    group.addoption("--network-faults", metavar="FILE", help="these faults, whatever the marks say")
    group.addoption(
        "--network-topology", metavar="FILE", help="this topology, whatever the marks say"
    )
    group.addoption(
        "--network-explore",
        metavar="JSON",
        help="explore all tests marked network, with these settings of the mark explore",
    )
    group.addoption(
        "--network-found",
        metavar="DIR",
        help="where explorations write what they have found (default: found)",
    )


def pytest_configure(config: pytest.Config) -> None:
    for mark in MARKS:
        config.addinivalue_line("markers", mark)
    given = getattr(config, "workerinput", {})  # of a process of pytest-xdist
    if "network_seed" in given:
        config.option.network_seed = given["network_seed"]
    seed = config.option.network_seed
    if seed == "random":
        config.option.network_seed = str(random.SystemRandom().randrange(2**31))
    elif seed is not None and not seed.isdecimal():
        raise pytest.UsageError(f"--network-seed {seed}: give a whole number, or random")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """All processes of pytest-xdist have the same seed."""
    if node.config.option.network_seed is not None:
        node.workerinput["network_seed"] = node.config.option.network_seed


def pytest_report_header(config: pytest.Config) -> str | None:
    seed = config.option.network_seed
    return None if seed is None else f"network: --network-seed {seed}"


# Collecting: pytest-asyncio asks for loops by a hook of its own. It is implemented only while it
# asks for a marked test, so that all others keep the loop they have without this plugin.


class _VirtualLoops:
    @pytest.hookimpl(tryfirst=True)
    def pytest_asyncio_loop_factories(
        self,
    ) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
        return {"virtual": _new_loop}


def _new_loop() -> asyncio.AbstractEventLoop:
    from broker.testing import session  # noqa: PLC0415 - heavy, and only for marked tests

    return session.loop_of_the_test()


@pytest.hookimpl(wrapper=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Generator[None, None, None]:
    if metafunc.definition.get_closest_marker("network") is None:
        return (yield)
    loops, plugins = _VirtualLoops(), metafunc.config.pluginmanager
    if not hasattr(metafunc.config.hook, "pytest_asyncio_loop_factories"):
        return (yield)
    plugins.register(loops)
    try:
        return (yield)
    finally:
        plugins.unregister(loops)


def pytest_itemcollected(item: pytest.Item) -> None:
    """The world of a marked test is made before all its other fixtures, and outlives them."""
    names = getattr(item, "fixturenames", None)
    if item.get_closest_marker("network") is not None and isinstance(names, list):
        for name in ("_network_checks", "_network_world"):
            if name in names:
                names.remove(name)
            names.insert(0, name)


# Running.


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    asked = item.get_closest_marker("explore") or (
        item.config.option.network_explore and item.get_closest_marker("network")
    )
    if not asked:
        return None
    from broker.exploring.item import protocol  # noqa: PLC0415 - as above

    return protocol(item, nextitem)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    if item.get_closest_marker("network") is None:
        return (yield)
    from broker.testing import session  # noqa: PLC0415 - as above

    with session.calling(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and item.get_closest_marker("network") is not None:
        from broker.testing import session  # noqa: PLC0415 - as above

        session.failed(item, call, report)
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    said = [
        text
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, text in getattr(report, "user_properties", ())
        if name == "exploration"
    ]
    if said:
        terminalreporter.section("exploration")
        for text in said:
            terminalreporter.line(text)


# Fixtures.


@pytest.fixture
def _network_world(request: pytest.FixtureRequest) -> Iterator[World]:
    from broker.testing import session  # noqa: PLC0415 - as above

    with session.world(request) as world:
        yield world


@pytest.fixture
def _network_checks(request: pytest.FixtureRequest, _network_world: World) -> Iterator[None]:
    from broker.testing import session  # noqa: PLC0415 - as above

    with session.checks(request, _network_world):
        yield


def _world(request: pytest.FixtureRequest, fixture: str) -> World:
    if request.node.get_closest_marker("network") is None:
        pytest.fail(
            f"{request.node.nodeid}: the fixture {fixture} is for tests that are marked: "
            '@pytest.mark.network(topology="edge-clusters")',
            pytrace=False,
        )
    world: World = request.getfixturevalue("_network_world")
    return world


@pytest.fixture
def network(request: pytest.FixtureRequest) -> Topology:
    """The topology of the test; parametrize it (``indirect=True``) to have the test on many."""
    from broker.testing import session  # noqa: PLC0415 - as above

    return session.topology(request)


@pytest.fixture
def bus(request: pytest.FixtureRequest) -> World:
    """The emulated network: starts programs, and knows every message's fate."""
    return _world(request, "bus")


@pytest.fixture
def node(request: pytest.FixtureRequest) -> Callable[[str], Node]:
    """``node("client-0")`` is that node in the test's own hands."""
    return _world(request, "node").node


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> Injector:
    """Breaks things by hand: ``async with faults.partition(["a"], ["b"]): …``"""
    return _world(request, "faults").faults
