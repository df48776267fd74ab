"""Same seed, same run: again, in any number of processes, under any hash seed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

import broker
from broker import Node
from tests.broker.worlds import directed, life
from topologies import Link

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def once():
    return life(seed=1)


def same(one: broker.Run, other: broker.Run) -> None:
    assert list(one.ledger) == list(other.ledger)
    assert one.returned == other.returned
    assert one.faults == other.faults
    assert one.virtual_seconds == other.virtual_seconds
    assert one.digest == other.digest


def test_the_life_meets_what_it_is_there_for(once):
    run, notes = once
    fates = run.ledger.fates()
    assert fates["delivered"] > 30
    assert fates["source crashed"] > 0
    assert [seen[0] for seen in run.returned.values()] == [0, 1, 0]
    assert "timeout" in run.returned["a"]
    assert run.faults[-1].nodes == ("s",)
    assert len([note for note in notes if note[2] == "step"]) >= 24


def test_again_it_is_the_same(once):
    for _ in range(2):
        run, notes = life(seed=1)
        same(run, once[0])
        assert notes == once[1]


@pytest.mark.parametrize("processes", [2, 3])
def test_in_more_processes_it_is_the_same(once, processes):
    run, notes = life(seed=1, processes=processes)
    same(run, once[0])
    assert notes == once[1]


def test_under_other_hash_seeds_it_is_the_same(once):
    code = "from tests.broker.worlds import life; print(life(seed=1)[0].digest)"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    digests = [process.communicate(timeout=60)[0].strip() for process in started]
    assert digests == [once[0].digest] * 2


def test_another_seed_is_another_run(once):
    assert life(seed=2)[0].digest != once[0].digest


def test_no_name_always_wins_a_tie():
    links = [Link(source=name, target="z", bandwidth_bps=1e6, delay_s=0.1) for name in "ab"]

    async def tell(node: Node) -> None:
        await node.send("z", {})

    async def listen(node: Node) -> str:
        return (await node.receive()).source + (await node.receive()).source

    def order(seed: int) -> str:
        programs = {"a": tell, "b": tell, "z": listen}
        return broker.run(programs, topology=directed(*links), seed=seed).returned["z"]

    orders = [order(seed) for seed in range(12)]
    assert set(orders) == {"ab", "ba"}
    assert orders == [order(seed) for seed in range(12)]


def test_cancelled_tasks_send_in_the_same_order_wherever_they_lie_in_memory():
    async def say_goodbye(node: Node, number: int) -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await node.send("b", {"number": number})

    async def start_and_fail(node: Node) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(30):
                group.create_task(say_goodbye(node, number))
            await asyncio.sleep(1)
            raise ValueError

    async def main(node: Node) -> None:
        with pytest.raises(ExceptionGroup):
            await start_and_fail(node)

    async def listen(node: Node) -> list[int]:
        return [(await node.receive()).header["number"] for _ in range(30)]

    link = Link(source="a", target="b", bandwidth_bps=1e6, delay_s=0.1)
    for noise in range(3):
        kept = [bytearray(37 * noise + i) for i in range(100)]
        run = broker.run({"a": main, "b": listen}, topology=directed(link))
        assert run.returned["b"] == list(range(30)), len(kept)
