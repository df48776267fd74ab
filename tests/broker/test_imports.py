"""What an import brings along: the emulator alone is quick to load, and knows no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

import broker
import faults
import topologies

LEARNING = ("torch", "transformers", "peft", "sklearn", "scipy", "atlas")


def imported(statement: str) -> set[str]:
    """The names of all modules that are there after a statement, in a process of its own."""
    code = f"import sys; {statement}; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return set(found.stdout.split())


def test_importing_the_broker_brings_nothing_but_a_few_of_pythons_own_modules():
    more = imported("import broker") - imported("pass")
    rooms = {name for name in more if name.partition(".")[0] not in sys.stdlib_module_names}
    assert rooms == {"broker"}
    assert not more & {"asyncio", "socket", "ctypes", "multiprocessing"}


@pytest.mark.parametrize(
    "statement",
    [
        "import broker; broker.run, broker.join, broker.Ledger",
        "import broker.standalone, broker.control.api, broker.control.server",
        "import faults, topologies; faults.load('host-churn'); topologies.load('edge-clusters')",
    ],
)
def test_the_emulator_runs_without_what_learning_needs(statement):
    found = {name.partition(".")[0] for name in imported(statement)}
    assert found.isdisjoint(LEARNING)
    assert "pyarrow" not in found  # only who writes or reads a trace needs it


def test_the_rooms_below_know_nothing_of_those_above():
    found = {name.partition(".")[0] for name in imported("import topologies")}
    assert found.isdisjoint({"faults", "broker", "zmq", *LEARNING})
    found = {name.partition(".")[0] for name in imported("import faults")}
    assert found.isdisjoint({"broker", "zmq", *LEARNING})


@pytest.mark.parametrize("room", [broker, faults, topologies], ids=lambda room: room.__name__)
def test_everything_a_room_shows_is_there_and_is_listed(room):
    for name in room.__all__:
        assert getattr(room, name) is not None
        assert name in dir(room)
    assert sorted(room.__all__) == sorted(set(room.__all__))


def test_what_is_not_there_is_said_so():
    with pytest.raises(AttributeError, match="module 'broker' has no attribute 'runn'"):
        _ = broker.runn
    assert set(broker._MODULES) == set(broker.__all__)
