"""Exploring: the three bugs of the examples are found and shrunk, and mended programs pass."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import broker.exploring.item
import faults
import topologies
from broker.exploring import Settings, drawing, explore, in_world, shrink
from broker.exploring.search import Exploration
from faults import Scenario
from tests.broker.worlds import network

EXAMPLES = Path(__file__).parents[2] / "examples" / "exploring"
REPOSITORY = Path(__file__).parents[2]
PAIR = network("a-hub", "b-hub", "c-hub", "d-hub")
CALM = Scenario("nothing")
MENDED = {
    "test_meter.py": (
        "        if number != expected:\n            continue",
        "        if number > expected:\n            continue",
        "        expected += 1\n",
        "        expected = max(expected, number + 1)\n",
    ),
    "test_payments.py": (
        'self.paid.append(message.header["euros"])',
        'self.paid += [message.header["euros"]] * (message.header["bill"] == len(self.paid))',
    ),
    "test_election.py": ("(answered + 1) / 2", "len(MEMBERS) / 2"),
}
SEEDS = {"test_meter.py": 20, "test_payments.py": 12, "test_election.py": 4}


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Runs pytest here, and gives what it prints."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    (pytester.path / "pytest.ini").write_text(
        "[pytest]\nasyncio_default_fixture_loop_scope = function\n"
    )

    def run(*options: str, fails: bool) -> str:
        given = ("-p", "pytest_atlas", "-p", "no:cacheprovider", *options)
        done = pytester.runpytest_inprocess(*given)
        printed = str(done.stdout)
        assert done.ret == int(fails), printed + str(done.stderr)
        return printed

    return run


def example(name: str, folder: Path, *changes: str, new: str = "") -> Path:
    """One of the examples, changed, with fewer seeds, and in this process only."""
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    for before, after in zip(changes[::2], changes[1::2], strict=True):
        assert before in text
        text = text.replace(before, after)
    text = text.replace("seeds=500", f"seeds={SEEDS[name]}, jobs=1")
    file = folder / (new or name)
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("name", sorted(MENDED))
def test_a_subtle_bug_is_found_shrunk_and_written_down_as_a_test(name, run, pytester):
    file = example(name, pytester.path)
    printed = run(name, fails=True)
    (scenario,) = (pytester.path / "found").glob("*.yaml")
    (test,) = (pytester.path / "found").glob("test_*_found.py")
    assert len(faults.load(scenario).timeline) == 1
    (network_file,) = (pytester.path / "found").glob("*.topology.json")
    assert len(topologies.load(network_file).nodes) <= 4
    (said,) = {line for line in printed.splitlines() if " fails under seed " in line}
    assert said.startswith("test_")
    assert f"pytest found/{test.name}" in printed

    repeated = run(str(test), fails=True)
    assert "1 failed" in repeated
    file.unlink()
    example(name, pytester.path, *MENDED[name])
    sys.modules.pop(file.stem, None)
    assert "1 passed" in run(str(test), fails=False)


@pytest.mark.parametrize("name", sorted(MENDED))
def test_a_mended_program_passes_and_says_what_was_tried(name, run, pytester):
    example(name, pytester.path, *MENDED[name], new=f"test_mended_{name.removeprefix('test_')}")
    printed = run(fails=False)
    assert f"{SEEDS[name]} scenarios in" in printed
    assert "none failed. Scenarios in which it struck: " in printed


def test_what_is_written_of_a_method_with_fixtures_and_parameters_repeats_it(run, pytester):
    (pytester.path / "test_of_a_class.py").write_text("""
import pytest
import pytest_asyncio


@pytest_asyncio.fixture
async def client(bus, node):
    async def answer(host):
        async for message in host:
            await message.reply({})

    bus.start("host-0", answer)
    yield node("client-0")


@pytest.mark.asyncio
@pytest.mark.network(strict=True, limit="1 h")
class TestOfAClass:
    @pytest.mark.parametrize("network", ["tiny-clusters"], indirect=True)
    @pytest.mark.parametrize("times", [20])
    @pytest.mark.explore(seeds=40, jobs=1, kinds=["cut", "partition"])
    async def test_asks(self, client, network, times):
        for _ in range(times):
            await client.request("host-0", {}, timeout=0.5)
""")
    assert "test_asks[20-tiny-clusters] fails under seed" in run(fails=True)
    (test,) = (pytester.path / "found").glob("*.py")
    text = test.read_text(encoding="utf-8")
    assert "from test_of_a_class import client, TestOfAClass as _TestOfAClass" in text
    assert "strict=True" in text
    assert "times=20" in text
    assert "1 failed" in run(str(test), fails=True)


def test_seeds_alone_are_explored_under_the_faults_of_the_mark(run, pytester):
    (pytester.path / "test_seeds.py").write_text("""
import pytest


async def draw(node):
    assert node.incarnation == 0 or node.random.random() < 0.95


@pytest.mark.network(
    topology="tiny-clusters", faults={"timeline": [{"at": "1 s", "crash": "host-0", "for": "1 s"}]}
)
@pytest.mark.explore(seeds=100, faults=None, jobs=1)
def test_draws(bus):
    async def wait(node):
        await draw(node)
        await node.receive()

    bus.start("host-0", wait)

    async def story():
        import asyncio
        await asyncio.sleep(3)

    bus.run(story())
""")
    printed = run(fails=True)
    (said,) = {line for line in printed.splitlines() if " fails under seed " in line}
    assert "AssertionError" in said
    assert "crash host-0 at 1 s for 1 s" in said
    assert "crash: host-0" in (pytester.path / "found" / "draws.yaml").read_text()
    assert "1 failed" in run("found", fails=True)


def test_without_exploration_the_examples_pass(run, pytester):
    for name in MENDED:
        text = (EXAMPLES / name).read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if not line.startswith("@pytest.mark.explore")]
        (pytester.path / name.replace("test_", "test_calm_")).write_text("\n".join(lines))
    assert "3 passed" in run(fails=False)


def test_the_command_explores_a_test_that_has_only_the_mark_network(pytester):
    lines = (EXAMPLES / "test_election.py").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("@pytest.mark.explore"))
    (pytester.path / "pytest.ini").write_text("[pytest]\n")
    (pytester.path / "test_commanded.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "broker", "explore",
         "test_commanded.py::test_there_are_never_two_leaders", "--seeds", "6", "--jobs", "2",
         "--kind", "partition", "--kind", "cut", "--out", "here"],
        cwd=pytester.path, capture_output=True, text=True, check=False, timeout=120,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "test_there_are_never_two_leaders fails under seed" in done.stdout
    assert (pytester.path / "here" / "test_there_are_never_two_leaders_found.py").is_file()


def test_what_the_mark_says_wrongly_is_told(run, pytester):
    (pytester.path / "test_said.py").write_text("""
import pytest

network = pytest.mark.network(topology="tiny-clusters")


@network
@pytest.mark.explore(sedes=3)
def test_setting(bus): ...


@network
@pytest.mark.explore(kinds=["crahs"])
def test_kind(bus): ...


@network
@pytest.mark.explore(intensity=2)
def test_intensity(bus): ...


@pytest.mark.explore(seeds=3)
def test_network(): ...


@network
@pytest.mark.explore(seeds=3)
def test_fails_without_any_fault(bus):
    assert bus.now == 1
""")
    printed = run("-rN", fails=True)
    for says in (
        'test_setting: mark explore, sedes: this mark has no such setting. Did you mean "seeds"?',
        "test_kind: mark explore, kinds: there is no fault 'crahs'. Did you mean \"crash\"?",
        "test_intensity: mark explore, intensity: 2 is no number from 0 to 1",
        "test_network: mark explore: only a test with a network can be explored",
        "assert bus.now == 1",
    ):
        assert says in printed
    assert "scenarios in" not in printed


async def answer(node):
    async for message in node:
        await message.reply({})


async def impatient(world):
    """It breaks where a request is not answered within a second."""
    world.start("b", answer)
    a = world.node("a")
    for _ in range(5):
        await a.request("b", {}, timeout=1)
        await asyncio.sleep(1)


def explored(**settings):
    return explore(in_world(impatient), PAIR, Settings(**settings))


def test_what_fails_without_any_fault_is_not_explored():
    async def fail(_):
        raise ValueError("always")

    with pytest.raises(ValueError, match="fails without any fault: ValueError: always"):
        explore(in_world(fail), PAIR, Settings())


def test_what_is_found_does_not_depend_on_how_many_cores_look():
    alone, two = explored(seeds=60, jobs=1), explored(seeds=60, jobs=2)
    assert alone.trial == two.trial
    assert alone.failure == two.failure
    assert alone.failure.signature.startswith("TimeoutError at ")
    assert sum(alone.kinds.values()) > 0


def test_only_the_kinds_that_are_asked_for_strike():
    found = explored(seeds=10, kinds=("skew", "slow"))
    assert found.failure is None
    assert set(found.kinds) <= {"skew", "slow"}
    assert found.tried == 10


def test_a_budget_that_is_over_ends_it():
    assert 1 <= explored(seeds=10_000, budget_s=0.0, jobs=1, kinds=("skew",)).tried < 10_000


def test_the_smallest_failure_has_no_more_faults_nodes_or_seed_than_it_takes():
    attempt = in_world(impatient)
    found = explored(seeds=60, jobs=1)
    smallest = shrink(found.trial, found.failure, attempt, nodes=("a", "b"))
    assert attempt(smallest).failure.signature == found.failure.signature
    assert attempt(replace(smallest, scenario=CALM)).failure is None
    assert len(smallest.scenario.timeline) == 1
    assert list(smallest.topology.nodes) == ["a", "hub", "b"] or len(smallest.topology.nodes) == 3
    assert smallest.seed == 0


def test_faults_are_drawn_where_they_can_matter_and_the_same_each_time():
    part = drawing.around(PAIR, ["a", "b"])
    assert set(part.nodes) == {"a", "b", "hub"}
    assert drawing.around(PAIR, []) is PAIR
    one = drawing.draw(part, 7, intensity=1, lasts_s=10)
    assert one == drawing.draw(part, 7, intensity=1, lasts_s=10)
    assert one != drawing.draw(part, 8, intensity=1, lasts_s=10)
    assert "c" not in faults.write(one).replace("crash", "").split("nodes: ")[-1][:1]
    assert faults.expand(one, PAIR, 7)


def test_a_network_does_not_fall_apart_to_get_smaller():
    assert drawing.joins(drawing.restricted(PAIR, ["a", "hub", "b"]), PAIR, ["a", "b"])
    assert not drawing.joins(drawing.restricted(PAIR, ["a", "b"]), PAIR, ["a", "b"])
    assert not drawing.joins(drawing.restricted(PAIR, ["a", "hub"]), PAIR, ["a", "b"])


def test_an_exploration_knows_its_rate_and_coverage():
    found = Exploration(tried=30, seconds=2.0)
    found.kinds.update({"crash": 3, "full_disk": 1})
    assert found.rate == 15
    assert found.coverage.startswith("crash 3, full disk 1; never stop, pause, ")
    assert broker.exploring.item._tried(found) == (
        "30 scenarios in 2.0 s (15 a second), 0 virtual seconds"
    )
