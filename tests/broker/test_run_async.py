"""A run from within a loop that goes on meanwhile; and real work that overlaps."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import random
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import pytest

import broker
from broker import BrokerError, DeadlockError, Node, ProgramError, WorkerError, clock, guard
from faults import ScenarioError
from faults.event import Event
from tests.broker.worlds import SECOND, crash, fail_at_two, life, network, slow, wait_for_ever

PAIR = network("a-b", "b-c")


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(threading.enumerate())
    yield
    assert multiprocessing.active_children() == []
    assert list(Path(tmp_path).iterdir()) == []
    assert guard._guards == 0
    deadline = time.monotonic() + 60
    while any(
        thread.is_alive() and thread.name.startswith("compute")
        for thread in set(threading.enumerate()) - before
    ):
        assert time.monotonic() < deadline
        threading.Event().wait(0.001)


async def tick(node: Node) -> float:
    for _ in range(200):
        await asyncio.sleep(1)
        await node.send("b", {"at": node.now})
    return node.now


async def for_ever(node: Node) -> None:
    """Virtual time that never ends, and is never without something to do."""
    while True:
        await asyncio.sleep(0.001)
        await node.send("b", {})


async def listen(node: Node) -> None:
    async for _ in node:
        pass


PROGRAMS = {"a": tick, "b": listen}


def test_a_loop_goes_on_while_a_run_is_under_way():
    async def main():
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        run = await broker.run_async(PROGRAMS, topology=PAIR, background=["b"])
        counting.cancel()
        return run, turns

    run, turns = asyncio.run(main())
    assert run.digest == broker.run(PROGRAMS, topology=PAIR, background=["b"]).digest
    assert run.returned == {"a": 200}
    assert turns > 10


def test_two_runs_at_once_know_nothing_of_each_other():
    async def draw(_: Node) -> list[object]:
        drawn = []
        for _ in range(50):
            await asyncio.sleep(1)
            drawn.append((random.random(), time.time()))
        return drawn

    async def main():
        return await asyncio.gather(
            *(
                broker.run_async({"a": draw, "b": draw}, topology=PAIR, seed=seed)
                for seed in (1, 2, 1)
            )
        )

    first, other, again = asyncio.run(main())
    alone = broker.run({"a": draw, "b": draw}, topology=PAIR, seed=1)
    assert first.returned == again.returned == alone.returned
    assert other.returned["a"] != first.returned["a"]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_is_cancelled_ends_soon_and_leaves_nothing(processes):
    async def main() -> None:
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()
        running = asyncio.create_task(
            broker.run_async(
                {"a": for_ever, "b": listen},
                topology=PAIR,
                processes=processes,
                tap=lambda *_: loop.call_soon_threadsafe(begun.set),
            )
        )
        await begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 100


def test_a_run_that_is_cancelled_before_it_has_begun_does_not_begin():
    async def main() -> None:
        running = asyncio.create_task(broker.run_async({"a": for_ever, "b": listen}, topology=PAIR))
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())


def test_a_timeout_around_a_run_ends_it():
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await broker.run_async({"a": for_ever, "b": listen}, topology=PAIR)

    asyncio.run(main())


async def fail_at_once(_: Node) -> None:
    raise ValueError("enough")


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"programs": {"a": fail_at_once}}, ProgramError, "enough"),
        ({"programs": {"a": wait_for_ever}}, DeadlockError, "deadlock at virtual time"),
        ({"programs": {"x": listen}}, BrokerError, "no node 'x'"),
        ({"programs": {"a": tick}}, ProgramError, "no program runs on a node 'b'"),
        (
            {
                "programs": {"a": tick, "b": listen},
                "faults": [Event(SECOND, "1", "begin", "crash", selector="host of a")],
            },
            ScenarioError,
            "host of a",
        ),
    ],
)
def test_errors_pass_through(options, error, says):
    async def main() -> None:
        await broker.run_async(topology=PAIR, **options)

    with pytest.raises(error, match=says):
        asyncio.run(main())


def test_an_error_of_an_observer_or_a_tap_passes_through():
    async def note(node: Node) -> None:
        node.note("here")
        await node.send("a", {})

    def refuse(*_: object) -> None:
        raise KeyError("not today")

    for way in ("observe", "tap"):
        with pytest.raises(KeyError, match="not today"):
            broker.run({"a": note}, topology=PAIR, **{way: refuse})


def test_a_failure_in_another_process_passes_through():
    async def main() -> None:
        await broker.run_async(dict.fromkeys("ab", fail_at_two), topology=PAIR, processes=2)

    with pytest.raises(ProgramError, match="has had enough"):
        asyncio.run(main())


# Real work.


def busy(rounds: int) -> int:
    total = 0
    for i in range(rounds):
        total = (total * 31 + i) % 1_000_003
    return total


async def work_hard(node: Node) -> list[tuple[int, float]]:
    done = []
    for i in range(6):
        one, two = await asyncio.gather(
            node.compute(partial(busy, node.random.randrange(4_000)), flops=2e7 * (i + 1)),
            node.compute(partial(busy, node.random.randrange(4_000)), flops=1e6),
        )
        done.append((one + two, node.now))
        await node.send("c" if node.name != "c" else "a", {"sum": one + two})
    return done


def test_computations_give_the_same_with_any_number_of_threads():
    runs = [
        broker.run(
            dict.fromkeys("abc", work_hard),
            topology=PAIR,
            workers=workers,
            faults=[*slow("b", 3, 0.05, 0.2), *crash("c", 0.1, 0.15)],
        )
        for workers in (1, 2, 4)
    ]
    assert len({run.digest for run in runs}) == 1
    assert runs[0].returned == runs[1].returned == runs[2].returned


def test_work_under_way_when_its_node_dies_commits_nothing():
    """It ends long after the death, in the next incarnation's time, and nobody hears of it."""
    begun, restarted = threading.Event(), threading.Event()
    ended: list[int] = []
    committed: list[int] = []

    def work(incarnation: int) -> int:
        begun.set()
        if incarnation == 0:
            assert restarted.wait(60)
        ended.append(incarnation)
        return incarnation

    async def main(node: Node) -> float:
        if node.incarnation:
            restarted.set()
        committed.append(await node.compute(lambda: work(node.incarnation), flops=2e9))
        return node.now

    async def see_it_begin(node: Node) -> None:
        assert await node.compute(lambda: begun.wait(60), flops=5e8)

    run = broker.run(
        {"a": main, "b": see_it_begin}, topology=PAIR, faults=crash("a", 1, 3), workers=3
    )
    assert run.returned["a"] == 5
    assert committed == [1]
    deadline = time.monotonic() + 60
    while len(ended) < 2 and time.monotonic() < deadline:
        threading.Event().wait(0.001)
    assert sorted(ended) == [0, 1]
    assert committed == [1]


@pytest.mark.parametrize("how", ["compute", "to_thread"])
def test_a_cancelled_run_does_not_wait_for_work_that_takes_long(how):
    release, begun = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        release.wait(60)

    async def main(node: Node) -> None:
        if how == "compute":
            await node.compute(work, flops=1e9)
        else:
            await asyncio.to_thread(work)

    async def outside() -> float:
        running = asyncio.create_task(broker.run_async({"a": main}, topology=PAIR))
        await asyncio.to_thread(begun.wait, 60)
        began = time.monotonic()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        return time.monotonic() - began

    try:
        assert asyncio.run(outside()) < 30
    finally:
        release.set()


@pytest.mark.parametrize("how", ["compute", "to_thread"])
def test_work_that_never_ends_is_reported(monkeypatch, how):
    monkeypatch.setattr(clock, "_WORK_DEADLINE_S", 0.2)
    release = threading.Event()

    async def main(node: Node) -> None:
        if how == "compute":
            await node.compute(lambda: release.wait(60), flops=1e9)
        else:
            await asyncio.to_thread(release.wait, 60)

    try:
        with pytest.raises(WorkerError, match=r"node a took more than 0 s"):
            broker.run({"a": main}, topology=PAIR)
    finally:
        release.set()


def test_a_life_with_everything_in_a_thread_is_the_same_as_without():
    async def main():
        return await asyncio.to_thread(life, 1)

    assert asyncio.run(main())[0].digest == life(1)[0].digest
