"""The pytest plugin, as an outside project meets it: installed, and nothing else done."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import anyio.pytest_plugin  # noqa: F401 - so that it is imported once for all of these
import pytest

import broker.exploring
import broker.testing.session  # noqa: F401 - as above

REPOSITORY = Path(__file__).parents[2]
PROGRAMS = """
import asyncio
import time

import pytest


async def shop(node):
    async for message in node:
        await message.reply({"confirmed": message.header["order"]})


async def order(client, number, timeout=5):
    reply = await client.request("host-0", {"order": number}, timeout=timeout)
    assert reply.header == {"confirmed": number}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an installer would write down: that there is a plugin."""
    folder = tmp_path_factory.mktemp("site")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    written = folder / "atlas_emulator-0.dist-info"
    written.mkdir()
    (written / "METADATA").write_text("Metadata-Version: 2.1\nName: atlas-emulator\nVersion: 0\n")
    (name, module), *_ = project["entry-points"]["pytest11"].items()
    (written / "entry_points.txt").write_text(f"[pytest11]\n{name} = {module}\n")
    return folder


class Project:
    """An outside project, in a folder of its own."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.folder, self._pytester = pytester.path, pytester
        self.write("pytest.ini", "[pytest]\nasyncio_default_fixture_loop_scope = function\n")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def run(self, *options: str, fails: bool = False) -> str:
        """What pytest prints, here with the plugin by its name."""
        given = ("-p", "pytest_atlas", "-p", "no:cacheprovider", *options)
        done = self._pytester.runpytest_inprocess(*given)
        printed = str(done.stdout)
        assert done.ret == int(fails), printed + str(done.stderr)
        return printed


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    return Project(pytester)


def test_an_outside_project_needs_nothing_but_that_it_is_installed(
    tmp_path: Path, site: Path
) -> None:
    (tmp_path / "test_orders.py").write_text(
        PROGRAMS
        + """
@pytest.mark.asyncio
@pytest.mark.network(topology="edge-clusters", seed=3)
async def test_every_order_is_confirmed(bus, node):
    bus.start("host-0", shop)
    client = node("client-0")
    for number in range(60):
        await order(client, number)
        await asyncio.sleep(60)
    assert 3600 < bus.now < 3603
"""
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(REPOSITORY)])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_the_marks_and_fixtures_work_in_strict_mode_beside_anyio_and_others(project):
    project.write(
        "test_orders.py",
        PROGRAMS
        + """
import anyio
import pytest_asyncio

import topologies


@pytest_asyncio.fixture
async def warm(bus):
    await asyncio.sleep(3600)
    yield bus.now
    await asyncio.sleep(3600)


@pytest.mark.asyncio
@pytest.mark.network(topology="edge-clusters", seed=3)
async def test_every_order_is_confirmed(bus, node, warm):
    assert warm == 3600
    bus.start("host-0", shop)
    client = node("client-0")
    for number in range(5):
        await order(client, number)
        await asyncio.sleep(60)
    assert 3900 < time.time() - 1767225600 < 3901


@pytest.mark.asyncio
@pytest.mark.network(topology="edge-clusters")
async def test_faults_by_hand(bus, node, faults):
    bus.start("host-0", shop)
    client = node("client-0")
    async with faults.partition(["client-0"], ["host-0"]):
        with pytest.raises(TimeoutError):
            await order(client, 1)
    await order(client, 2)


@pytest.mark.asyncio
@pytest.mark.network()
@pytest.mark.parametrize("network", ["edge-clusters", "tiny-clusters"], indirect=True)
async def test_on_many_networks(bus, network):
    assert bus.topology is network


@pytest.mark.network(topology=topologies.load("tiny-clusters"), seed=1)
class TestOfAClass:
    @pytest.mark.asyncio
    @pytest.mark.network(seed=2)
    async def test_the_nearer_mark_wins(self, bus):
        assert (bus.seed, bus.topology.name) == (2, "tiny-clusters")

    def test_without_a_runner_the_bus_runs_coroutines(self, bus):
        bus.run(asyncio.sleep(60))
        assert bus.now == 60


@pytest.fixture
async def async_fixture_of_anyio(bus, anyio_backend):
    await anyio.sleep(60)
    yield bus.now


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.network(topology="edge-clusters")
async def test_anyio(bus, node, async_fixture_of_anyio):
    bus.start("host-0", shop)
    await order(node("client-0"), 1)
    with anyio.move_on_after(3600) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert 3660 < bus.now < 3661


@pytest.mark.asyncio
async def test_others_have_the_loop_they_always_had():
    before = time.monotonic()
    await asyncio.sleep(0.01)
    assert time.monotonic() - before >= 0.009
    assert "Virtual" not in type(asyncio.get_running_loop()).__name__


def test_plain():
    pass
""",
    )
    printed = project.run("-v")
    assert "9 passed" in printed
    assert "test_others_have_the_loop_they_always_had PASSED" in printed


def test_in_auto_mode_a_coroutine_needs_no_mark_but_that_of_the_network(project):
    project.write("pytest.ini", "[pytest]\nasyncio_mode = auto\n"
                  "asyncio_default_fixture_loop_scope = function\n")  # fmt: skip
    project.write(
        "test_orders.py",
        PROGRAMS
        + """
pytestmark = pytest.mark.network(topology="edge-clusters", faults="host-churn", seed=3)


@pytest.fixture
async def client(bus, node):
    bus.start("host-0", shop)
    await asyncio.sleep(1)
    return node("client-0")


async def test_orders_are_confirmed_in_the_end(client, bus):
    tries = 0
    for number in range(50):
        while True:
            tries += 1
            try:
                await order(client, number, timeout=2)
                break
            except TimeoutError:
                continue
        await asyncio.sleep(30)
    assert tries > 50
    assert any(event.kind == "crash" for event in bus.struck)
""",
    )
    assert "1 passed" in project.run()


def test_a_test_that_fails_says_what_the_network_did_and_how_to_repeat_it(project):
    project.write(
        "test_orders.py",
        PROGRAMS
        + """
pytestmark = [pytest.mark.asyncio, pytest.mark.network(topology="edge-clusters", seed=3)]


async def test_fails(bus, node, faults):
    bus.start("host-0", shop)
    client = node("client-0")
    await order(client, 0)
    async with faults.crash("host-0"):
        await order(client, 1)


async def test_waits_for_ever(bus, node):
    bus.start("host-0", shop)
    await node("client-0").receive()


async def test_leaves_a_task(bus):
    asyncio.create_task(asyncio.sleep(5), name="forgotten")


@pytest.mark.network(strict=True)
async def test_reads_nothing(bus, node):
    await node("client-0").send("host-0", {}) if node("host-0") else None
    await asyncio.sleep(1)


async def fail(node):
    await asyncio.sleep(2)
    raise ValueError("enough")


async def test_has_a_program_that_fails(bus):
    bus.start("host-0", fail)
    await asyncio.sleep(60)
""",
    )
    printed = project.run("-v", fails=True)
    assert re.search(r"4 failed, 1 passed(, \d+ warnings?)?, 1 error", printed)
    of = dict(zip(*[iter(re.split(r"^_{3,}(?: ERROR at \w+ of)? (test_\w+) _{3,}$", printed,
                                  flags=re.MULTILINE)[1:])] * 2, strict=False))  # fmt: skip

    fails = of["test_fails"]
    assert "▸ crash host-0" in fails
    assert "client-0 → host-0" in fails
    assert "destination down" in fails
    assert "client-0: sent to host-0 at" in fails
    assert "pytest test_orders.py::test_fails --network-seed 3" in fails

    assert "DeadlockError: deadlock at virtual time 0.000000 s" in of["test_waits_for_ever"]
    assert "host-0: shop (test_orders.py:" in of["test_waits_for_ever"]
    assert "loop.py" not in of["test_waits_for_ever"]
    assert "1 task left over, which nobody awaits:\n  forgotten: sleep" in of["test_leaves_a_task"]
    assert "messages that nobody has read: 1 at host-0" in of["test_reads_nothing"]
    assert "failed at 2.000000 s" in of["test_has_a_program_that_fails"]
    assert "raise ValueError" in of["test_has_a_program_that_fails"]


def test_what_a_mark_says_wrongly_is_told_with_the_mark_and_the_test(project):
    project.write(
        "test_marks.py",
        """
import asyncio
import unittest

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.network(topology="edge-clusters")
class OfUnittest(unittest.IsolatedAsyncioTestCase):
    async def test_unittest(self): ...


@pytest.mark.asyncio
@pytest.mark.network(topology="edge-clusters")
@given(st.integers())
async def test_examples(bus, number): ...


@pytest.mark.network(topology="edge-cluster")
def test_topology(bus): ...


@pytest.mark.network(topology="edge-clusters", faults="host-chrun")
def test_faults(bus): ...


@pytest.mark.network(topology="edge-clusters", faults={"timeline": [{"at": "1 s", "crash": "me"}]})
def test_misfit(bus): ...


@pytest.mark.network(topology="edge-clusters", sed=3)
def test_setting(bus): ...


@pytest.mark.network(topology="edge-clusters", seed="3")
def test_seed(bus): ...


@pytest.mark.network(topology="edge-clusters", limit="soon")
def test_limit(bus): ...


@pytest.mark.network("edge-clusters")
def test_name(bus): ...


@pytest.mark.network()
def test_nothing(bus): ...


def test_no_mark(bus): ...


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.network(topology="edge-clusters")
async def test_scope(bus): ...


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(): ...


@pytest.mark.asyncio
@pytest.mark.network(topology="edge-clusters")
async def test_fixture(bus, shared): ...
""",
    )
    printed = project.run("-rN", fails=True)
    assert "13 errors" in printed
    for test, says in {
        "test_topology: mark network, topology": 'Did you mean "edge-clusters"?',
        "test_faults: mark network, faults": 'Did you mean "host-churn"?',
        "test_misfit: mark network, faults": "me",
        "test_setting: mark network, sed": 'Did you mean "seed"?',
        "test_seed: mark network, seed": "'3' is no whole number from 0 on",
        "test_limit: mark network, limit": 'Write "10 min"',
        "test_name: mark network": "network(topology='edge-clusters')",
        "test_nothing: mark network, topology": "there is none",
        "test_no_mark": "the fixture bus is for tests that are marked",
        "test_scope": "its event loop has module scope",
        "OfUnittest::test_unittest": "unittest makes loops of its own",
        "test_examples": "longer than an example of Hypothesis: make a World in each example",
        "test_fixture": "the asynchronous fixture shared has module scope",
    }.items():
        lines = [line for line in printed.splitlines() if f"test_marks.py::{test}:" in line]
        assert says in lines[0]
    assert "Traceback" not in printed
    assert "another exception" not in printed


def test_the_command_line_sets_seeds_and_writes_traces_with_xdist_too(project):
    project.write(
        "test_seeds.py",
        """
import asyncio

import pytest

pytestmark = [pytest.mark.asyncio, pytest.mark.network(topology="tiny-clusters", seed=3)]


@pytest.mark.parametrize("number", [1, 2])
async def test_seed(bus, node, number):
    print("seed", bus.seed)
    await node("client-0").send("host-0", {}) if node("host-0") else None
    await node("host-0").receive()
""",
    )
    printed = project.run("-v", "-s", "--network-seed", "7", "--network-trace", "traces")
    assert printed.count("seed 7\n") >= 2
    assert sorted(file.name for file in (project.folder / "traces").iterdir()) == [
        "test_seeds.py_test_seed_1_.parquet", "test_seeds.py_test_seed_2_.parquet",
    ]  # fmt: skip
    printed = project.run("-rP", "-n2", "--network-wall", "--network-seed", "random")
    (drawn,) = re.findall(r"--network-seed (\d+)", printed)
    assert printed.count(f"seed {drawn}\n") >= 2


def test_importing_the_plugin_imports_nothing_heavy():
    code = "import sys, pytest; before = set(sys.modules); import pytest_atlas; " \
           "print(sorted(set(sys.modules) - before))"  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['pytest_atlas']"
