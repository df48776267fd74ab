"""Worker processes: what they bring back, and that nothing of them is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import broker
from broker import BrokerError, Node, ProgramError, WorkerError
from tests.broker import worlds

PAIR = worlds.network("a-b")


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("t")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    began = time.monotonic()
    yield
    assert multiprocessing.active_children() == []
    assert list(Path(folder).iterdir()) == []
    assert time.monotonic() - began < 60


def test_a_worker_that_is_killed_ends_the_run():
    programs = {"a": worlds.wait_for_ever, "b": worlds.kill_own_process}
    with pytest.raises(WorkerError, match="broker-worker-1 ended with code -9"):
        broker.run(programs, topology=PAIR, processes=2)


def test_a_work_that_takes_its_process_with_it_ends_the_run():
    programs = {"a": worlds.exit_while_computing, "b": worlds.wait_for_ever}
    with pytest.raises(WorkerError, match="broker-worker-0 ended with code 7"):
        broker.run(programs, topology=PAIR, processes=2)


def test_a_program_that_fails_in_a_worker_is_reported_as_ever():
    programs = dict.fromkeys("ba", worlds.fail_at_two)
    with pytest.raises(ProgramError, match="ValueError: b has had enough") as caught:
        broker.run(programs, topology=PAIR, processes=2)
    assert (caught.value.node, caught.value.time_s) == ("b", 2)


def test_a_result_that_can_not_be_sent_is_an_error_that_says_so():
    programs = {"a": worlds.wait_for_ever, "b": worlds.return_a_lambda}
    with pytest.raises(WorkerError, match="return_a_lambda"):
        broker.run(programs, topology=PAIR, processes=2, background=["a"])


def test_a_script_that_starts_its_run_when_it_is_imported_is_told_what_to_do(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import broker\n"
        "from tests.broker.worlds import fail_at_two, network\n"
        "programs = dict.fromkeys('ab', fail_at_two)\n"
        "broker.run(programs, topology=network('a-b'), processes=2)\n"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, script], cwd=root, env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert 'has to do so under `if __name__ == "__main__":`' in ended.stderr.splitlines()[-1]
    script.unlink()


def test_a_program_that_can_not_be_sent_is_refused_before_anything_runs():
    async def local(node: Node) -> None:
        await node.receive()

    with pytest.raises(BrokerError, match=r"programs can't go to other processes.*processes=1"):
        broker.run({"a": worlds.wait_for_ever, "b": local}, topology=PAIR, processes=2)


def test_ctrl_c_is_for_the_parent_alone():
    before = signal.getsignal(signal.SIGINT)
    run = broker.run(dict.fromkeys("ab", worlds.look_for_ctrl_c), topology=PAIR, processes=2)
    assert run.returned == {"a": True, "b": True}
    assert signal.getsignal(signal.SIGINT) is before


def test_a_worker_whose_parent_is_killed_ends_by_itself():
    parent = subprocess.Popen(
        [sys.executable, "-c", "from tests.broker.worlds import run_until_killed as r; r()"],
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        assert all(is_there(worker) for worker in workers)
        parent.kill()
    until = time.monotonic() + 20
    while any(is_there(worker) for worker in workers):
        assert time.monotonic() < until
        time.sleep(0.05)


def is_there(process: int) -> bool:
    """Whether it runs: nobody may have come yet to ask how one that has ended has."""
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text().partition(")")[2][:4]
    except OSError:
        return False
