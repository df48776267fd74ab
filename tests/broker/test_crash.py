"""A crash: nothing of the program runs any more, and only the disk is left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
import time

import pytest

import broker
from broker import Node, ProgramError
from tests.broker.worlds import GRANT, crash, network, partition, slow, strike

PAIR = network("a-b", "b-c")


def play(program, *faults, other=None, **options):
    """What the program of a returned, with crashes of a; b listens or does `other`."""

    async def listen(node: Node) -> None:
        async for _ in node:
            pass

    programs = {"a": program, "b": other or listen}
    background = [] if other else ["b"]
    return broker.run(programs, topology=PAIR, faults=[*faults], background=background, **options)


def test_a_restart_calls_the_program_again_as_the_next_incarnation():
    calls = []

    async def main(node: Node) -> int:
        calls.append((node.incarnation, node.now))
        await asyncio.sleep(10)
        return node.incarnation

    faults = [*crash("a", 1, 2.5), *crash("a", 4, 5, fault="again")]
    run = play(main, *faults)
    assert calls == [(0, 0), (1, 2.5), (2, 5)]
    assert run.returned["a"] == 2
    assert run.virtual_seconds == 15


@pytest.mark.parametrize("dead", ["a", "b"])
def test_who_dies_before_there_ever_was_a_way_takes_what_waited_for_it_along(dead):
    async def main(node: Node) -> None:
        await asyncio.sleep(1)
        if not node.incarnation:
            await node.send("b", {})
        await asyncio.sleep(5)

    cut = partition(["a"], ["b"], 0.5, 3.5)
    run = play(main, *sorted([*cut, *crash(dead, 2, 3)], key=lambda event: event.at_ns))
    reason = {"a": "source crashed", "b": "destination crashed"}[dead]
    assert run.ledger.fates() == {reason: 1}


def test_no_finally_of_a_crashed_program_runs_or_sends(monkeypatch):
    ran = []
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)

    async def clean_up(node: Node, what: str) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            ran.append(what)
            await node.send("b", {"from": "the grave"})
            await asyncio.sleep(1)

    async def main(node: Node) -> None:
        if node.incarnation:
            return
        asyncio.create_task(clean_up(node, "a task that nobody holds"))  # noqa: RUF006
        asyncio.get_running_loop().call_later(3, ran.append, "a timer")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(clean_up(node, "a task of a group"))
                await node.compute(lambda: None, flops=1e11)
        finally:
            ran.append("the program")

    async def other(_: Node) -> None:
        await asyncio.sleep(20)
        gc.collect()

    run = play(main, *crash("a", 1, 10), other=other)
    assert ran == []
    assert len(run.ledger) == 0
    # The next run clears away what this one left, and neither hears of it.
    other_run = play(main, *crash("a", 1, 10), other=other)
    gc.collect()
    assert len(other_run.ledger) == 0
    assert unraisable == []


def test_a_program_that_dies_or_still_waits_inside_a_task_group_ends_no_run():
    """Closing it makes the group raise an exception group of its own."""

    async def main(node: Node) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
            async for _ in node:
                pass

    async def other(_: Node) -> int:
        await asyncio.sleep(20)
        return 3

    programs = {"a": main, "b": other}
    for faults in ([], crash("a", 1, 10)):
        run = broker.run(programs, topology=PAIR, faults=faults, background=["a"])
        assert run.returned["b"] == 3


def test_a_message_to_a_dead_node_is_lost_and_one_after_its_restart_arrives():
    async def main(node: Node):
        if node.incarnation == 0:
            await node.receive()
        return (await node.receive()).header

    async def tell(node: Node) -> None:
        for at in (1, 3, 6):
            await asyncio.sleep(at - node.now)
            await node.send("a", {"at": at})

    run = play(main, *crash("a", 2, 5), other=tell)
    assert run.returned["a"] == {"at": 6}
    assert run.ledger.fates() == {"delivered": 2, "destination down": 1}


def test_what_was_received_and_not_yet_read_is_forgotten():
    async def main(node: Node):
        await asyncio.sleep(3)
        with pytest.raises(TimeoutError):
            await node.receive(timeout=5)
        return node.incarnation

    async def tell(node: Node) -> None:
        await node.send("a", {})

    assert play(main, *crash("a", 2, 2.5), other=tell).returned["a"] == 1


def test_what_came_in_a_pause_is_forgotten_in_the_crash_that_ends_it():
    async def main(node: Node) -> tuple[int, list[int]]:
        heard = []
        with contextlib.suppress(TimeoutError):
            while True:
                heard.append((await node.receive(timeout=6)).header["i"])
        return node.incarnation, heard

    async def tell(node: Node) -> None:
        for i in range(8):
            await node.send("a", {"i": i})
            await asyncio.sleep(0.5)

    faults = [*strike("pause", "a", 1, 5), *crash("a", 3, 3.4)]
    run = play(main, *faults, other=tell)
    assert run.returned["a"] == (1, [7])
    assert run.ledger.fates() == {"delivered": 7, "destination down": 1}


def test_what_a_program_sends_itself_as_it_returns_does_not_reach_its_next_incarnation():
    async def main(node: Node) -> int:
        if node.incarnation == 0:
            await node.send("a", {})
            return 0
        with pytest.raises(TimeoutError):
            await node.receive(timeout=5)
        return node.incarnation

    async def other(_: Node) -> None:
        await asyncio.sleep(5)

    assert play(main, *crash("a", 1, 2), other=other).returned["a"] == 1


def test_an_answer_to_the_dead_is_nobodys():
    async def main(node: Node):
        if node.incarnation == 0:
            await node.request("b", {"i": 0}, timeout=60)
        reply = await node.request("b", {"i": 1}, timeout=60)
        with pytest.raises(TimeoutError):
            await node.receive(timeout=30)
        return reply.header

    async def serve(node: Node) -> None:
        for _ in range(2):
            message = await node.receive()
            asyncio.get_running_loop().create_task(answer(message))
        await asyncio.sleep(30)

    async def answer(message) -> None:
        await asyncio.sleep(5)
        await message.reply({"to": message.header["i"]})

    assert play(main, *crash("a", 1, 2), other=serve).returned["a"] == {"to": 1}


def test_the_disk_survives_and_a_half_done_write_leaves_the_old_file():
    async def main(node: Node):
        if node.incarnation == 0:
            await node.disk.write("done", b"new")
            await node.disk.write("half", b"old")
            await node.disk.write("half", bytes(100_000_000))  # takes five seconds
            pytest.fail("it was dead by then")
        return await node.disk.read("done"), await node.disk.read("half")

    assert play(main, *crash("a", 3, 20)).returned["a"] == (b"new", b"old")


def test_memory_is_forgotten():
    async def main(node: Node) -> int:
        node.reserve(GRANT)
        await asyncio.sleep(5)
        return node.reserved_bytes

    assert play(main, *crash("a", 1, 2)).returned["a"] == GRANT


@pytest.mark.parametrize("kind", ["crash", "stop"])
def test_what_a_program_wanted_called_in_a_crash_fails_as_the_program_does(kind):
    called = []

    async def main(node: Node) -> None:
        node.on_crash(lambda: called.append(time.time() - 1_767_225_600))
        node.on_crash(lambda: called.append(1 / 0))
        node.on_crash(lambda: called.append("the last"))
        await asyncio.sleep(5)

    async def other(_: Node) -> None:
        await asyncio.sleep(3)

    programs = {"a": main, "b": other}
    with pytest.raises(ProgramError, match="ZeroDivisionError") as caught:
        broker.run(programs, topology=PAIR, faults=strike(kind, "a", 1, 2), background=["a"])
    died_s = 1 if kind == "crash" else 2
    assert (caught.value.node, caught.value.time_s) == ("a", died_s)
    assert "in <lambda>" in caught.value.report
    assert called == [died_s, "the last"]


def test_what_is_called_in_a_crash_can_do_nothing_any_more():
    async def main(node: Node) -> None:
        def let_go() -> None:
            node.note("from the grave")
            asyncio.get_running_loop().call_soon(node.note, "from the grave")
            for act in (node.send("b", {}), node.publish("b", {})):
                asyncio.get_running_loop().create_task(act)
            with pytest.raises(broker.RealWorldError):
                time.sleep(1)

        node.on_crash(let_go)
        await asyncio.sleep(9)

    notes = []
    run = play(main, *crash("a", 1, 2), observe=notes.append)
    assert len(run.ledger) == 0
    assert [note.event for note in notes] == ["fault", "fault"]


def test_what_fails_when_a_run_is_over_is_only_told(caplog):
    async def main(node: Node) -> None:
        node.on_crash(lambda: 1 / 0)
        await node.receive()

    async def other(_: Node) -> int:
        return 3

    run = broker.run({"a": main, "b": other}, topology=PAIR, background=["a"])
    assert run.returned == {"b": 3}
    assert "node a: what it wanted called in a crash failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_a_result_is_not_delivered_to_a_dead_incarnation_nor_to_the_next():
    committed = []

    async def main(node: Node) -> float:
        born = node.incarnation
        committed.append((born, await node.compute(lambda: born, flops=5e9), node.now))
        return node.now

    assert play(main, *crash("a", 1, 2)).returned["a"] == 7
    assert committed == [(1, 1, 7)]


def test_work_that_has_not_begun_when_its_node_dies_is_never_done():
    died = threading.Event()
    done = []

    async def main(node: Node) -> None:
        if node.incarnation == 0:
            works = (lambda: died.wait(30), lambda: done.append("of the dead"))
            await asyncio.gather(*(node.compute(work, flops=9e9) for work in works))
        await node.compute(lambda: done.append("of the living"), flops=1)

    async def other(_: Node) -> None:
        await asyncio.sleep(1.5)
        died.set()

    play(main, *crash("a", 1, 2), other=other, workers=1)
    assert done == ["of the living"]


def test_a_device_that_was_slow_before_its_restart_is_slow_after_it():
    async def main(node: Node) -> float:
        began = node.now
        await node.compute(int, flops=2e9)
        return node.now - began

    assert play(main, *slow("a", 4, 1, 50), *crash("a", 2, 2.5)).returned["a"] == 8


def test_a_file_whose_deletion_is_under_way_is_still_there():
    async def main(node: Node) -> bool:
        if node.incarnation == 0:
            await node.disk.write("x", b"x")
            await asyncio.sleep(1 - node.now)
            await node.disk.delete("x")
        return "x" in node.disk

    assert play(main, *crash("a", 1.001, 2)).returned["a"] is True


def test_a_device_is_idle_again_after_its_restart():
    async def main(node: Node) -> float:
        if node.incarnation == 0:
            await asyncio.gather(*(node.compute(lambda: None, flops=1e12) for _ in range(3)))
        await node.compute(lambda: None, flops=1e9)
        return node.now

    assert play(main, *crash("a", 1, 2)).returned["a"] == 3


def test_a_program_that_had_returned_is_called_again_and_must_end_again():
    async def main(node: Node) -> int:
        await asyncio.sleep(1)
        return node.incarnation

    async def other(_: Node) -> None:
        await asyncio.sleep(5)

    run = play(main, *crash("a", 3, 10), other=other)
    assert run.returned["a"] == 1
    assert run.virtual_seconds == 11


def test_a_gateway_without_a_program_can_die_too():
    async def main(node: Node) -> float:
        await node.send("c", {})
        return (await node.receive()).arrived_at

    async def far(node: Node) -> None:
        await node.receive()
        await node.send("a", {})

    programs = {"a": main, "c": far}
    healthy = broker.run(programs, topology=PAIR).returned["a"]
    run = broker.run(programs, topology=PAIR, faults=crash("b", 0, 1))
    # Stalled at 0 s; the timer (0.2 s and a round trip over two links of 10 ms and 8 Mbit/s) fires
    # after one, three and seven times its time.
    timer = 0.2 + 4 * 0.01 + 2 * (1_514 + 66) * 8 / 8e6
    assert run.returned["a"] == pytest.approx(7 * timer + healthy, abs=1e-7)
