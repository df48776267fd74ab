"""One seed, one digest: whatever the processes, the hash seed, the sockets, the threads, the load.

The digest here is of all that can be seen of a run: every message and fault, what the programs
returned, and every note, of a world that has everything in it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import scheduler
from tests.broker.everything import everything

ROOT = Path(__file__).parents[2]
DEADLINE_S = 300


@pytest.fixture(scope="module")
def once():
    return everything()


@pytest.fixture(scope="module")
def load() -> Iterator[None]:
    """Somebody else computes on this machine, all the time."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: sum(range(10**6))"])
    yield
    busy.kill()
    busy.wait()


def test_the_world_has_everything_in_it(once):
    _, run = once
    fates = run.ledger.fates()
    assert {
        "delivered", "lost", "corrupt", "destination down", "source crashed", "no route",
        "subscriber too slow",
    } <= fates.keys()  # fmt: skip
    assert any(entry.copy for entry in run.ledger)
    assert {"asks", "answers", "flood", "gossip", "heartbeats", "news", "progress"} <= (
        run.ledger.bytes_by_purpose().keys()
    )
    assert {event.kind for event in run.faults} == {
        "crash", "stop", "pause", "leave", "slow", "squeeze", "skew", "full_disk", "degrade", "cut",
        "partition", "nat", "traffic",
    }  # fmt: skip
    assert run.faults[-1].nodes == ("d",)
    assert len(run.ledger) > 500


def test_another_seed_is_another_run(once):
    assert everything(seed=2)[0] != once[0]


@pytest.mark.parametrize(("transport", "workers"), [("inproc", 1), ("ipc", 2), ("tcp", 4)])
def test_the_digest_is_the_same_over_all_sockets_and_with_any_threads(once, transport, workers):
    assert everything(transport=transport, workers=workers)[0] == once[0]


@pytest.mark.usefixtures("load")
def test_the_digest_is_the_same_in_all_processes_under_any_hash_seed_and_under_load(once):
    ways = {
        "0": ("1:inproc:2", "4:tcp:1"),
        "1": ("1:ipc:4", "2:ipc:2"),
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.broker.everything", *these],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed, these in ways.items()
    ]
    with contextlib.ExitStack() as opened:
        for process in started:
            opened.callback(process.kill)
        printed = [process.communicate(timeout=DEADLINE_S)[0].split() for process in started]
    assert printed == [[once[0]] * 2] * 2


def test_it_would_not_be_if_ties_were_broken_by_chance(once, monkeypatch):
    """The digest sees the order of what is sent at one instant."""
    monkeypatch.setattr(scheduler, "_tie_break", lambda *_: os.urandom(8))
    assert everything()[0] != once[0]
