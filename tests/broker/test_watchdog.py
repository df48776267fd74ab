"""Who holds up a run in real time is named, and interrupted where that is possible."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import broker
from broker import Node, ProgramError, WorkerError, watchdog
from tests.broker import worlds
from tests.broker.test_run import line_of
from tests.broker.worlds import network

PAIR = network("a-b")
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    before = threading.active_count()
    monkeypatch.setattr(watchdog, "PATIENCE_S", 0.3)
    monkeypatch.setattr(watchdog, "_LOOK_S", 0.02)
    yield
    assert threading.active_count() == before


async def idle(_: Node) -> None:
    await asyncio.sleep(9)


def test_a_program_that_blocks_is_named_with_its_line_and_once(caplog):
    async def block(_: Node) -> str:
        await asyncio.sleep(2)
        threading.Event().wait(1)
        return "went on"

    run = broker.run({"a": idle, "b": block}, topology=PAIR)
    assert run.returned["b"] == "went on"
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "node b does not give its thread back" in warning
    assert "it has been at 2.000000 s" in warning
    assert f'test_watchdog.py", line {line_of(block, "wait(1)")}, in block' in warning


def test_a_program_that_never_waits_for_anything_is_interrupted(monkeypatch):
    async def spin(_: Node) -> None:
        await asyncio.sleep(2)
        while True:
            pass

    monkeypatch.setattr(watchdog, "DEADLINE_S", 0.5)
    with pytest.raises(
        ProgramError, match=r"HangError: interrupted here.*give its thread"
    ) as caught:
        broker.run({"a": idle, "b": spin}, topology=PAIR)
    assert (caught.value.node, caught.value.time_s) == ("b", 2)
    assert "in spin" in caught.value.report


def test_who_takes_long_without_holding_up_anything_is_left_alone(caplog, monkeypatch):
    """Real work, and a program that does a little at each of many instants."""
    monkeypatch.setattr(watchdog, "DEADLINE_S", 0.4)

    async def compute(node: Node) -> None:
        await node.compute(lambda: threading.Event().wait(0.6), flops=1e6)
        await asyncio.to_thread(threading.Event().wait, 0.6)

    async def often(_: Node) -> None:
        for _ in range(60):
            threading.Event().wait(0.01)
            await asyncio.sleep(1)

    broker.run({"a": compute, "b": often}, topology=PAIR)
    assert caplog.records == []


def test_a_program_in_another_process_is_interrupted_too(capfd):
    programs = {"a": worlds.wait_for_ever, "b": worlds.hold_up_the_process}
    with pytest.raises(ProgramError, match="HangError") as caught:
        broker.run(programs, topology=PAIR, processes=2, background=["a"])
    assert (caught.value.node, caught.value.time_s) == ("b", 1)
    assert "node b does not give its thread back" in capfd.readouterr().err


def test_a_process_that_has_fallen_silent_is_named_with_its_nodes(monkeypatch, caplog):
    monkeypatch.setattr("broker.bus._POLL_MS", 50)
    monkeypatch.setattr("broker.bus._PATIENT_POLLS", 4)
    monkeypatch.setattr("broker.scheduler.INSTANT_DEADLINE_S", 1.0)
    monkeypatch.setattr("broker.processes._END_S", 0.2)
    programs = dict.fromkeys("ab", worlds.wait_for_ever) | {"b": worlds.stop_own_process}
    began = time.monotonic()
    with pytest.raises(WorkerError, match=r"worker 1 \(b\) took too long to answer"):
        broker.run(programs, topology=PAIR, processes=2)
    assert "worker 1 (b): no answer for " in caplog.text
    assert time.monotonic() - began < 60


def test_after_a_run_python_can_be_traced_as_before():
    """Taking an interruption back that never was makes Python 3.11 hang when it is traced."""
    code = (
        "import cProfile; from tests.broker.worlds import life; life(); "
        "cProfile.Profile().runcall(lambda: sum(len(str(n)) for n in range(1_000))); print('done')"
    )
    command = [sys.executable, "-c", code]
    ended = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert (ended.returncode, ended.stdout) == (0, "done\n")
