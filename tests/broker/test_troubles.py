"""What befalls a node short of its death: a stop, a pause, a wrong clock, slow links, and several
of these at once.
"""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest

import broker
from broker import DeadlockError, LostError, Node
from broker.troubles import Troubles
from faults import Event
from faults.event import Amount, Change
from tests.broker.worlds import SECOND, crash, degrade, network, slow, strike

PAIR = network("a-b", "b-c")


async def listen(node: Node) -> None:
    async for _ in node:
        pass


def play(program, *faults: Event, other=listen, **options) -> broker.Run:
    """A run of `program` on a, beside `other` on b, which need not end unless it is given."""
    background = ["b"] if other is listen else []
    return broker.run(
        {"a": program, "b": other}, topology=PAIR, faults=faults, background=background, **options
    )


# Stop.


def test_a_stopped_program_cleans_up_says_goodbye_and_is_started_again():
    async def main(node: Node):
        if node.incarnation:
            return node.incarnation, node.now, await node.disk.read("state")
        try:
            await asyncio.sleep(100)
        finally:
            await node.disk.write("state", b"saved")
            await node.send("b", {"goodbye": node.now})
        pytest.fail("it was cancelled")

    async def hear(node: Node) -> object:
        return (await node.receive()).header["goodbye"]

    run = play(main, *strike("stop", "a", 2, 10), other=hear)
    assert run.returned["a"] == (1, 10, b"saved")
    assert run.returned["b"] == pytest.approx(2.002, abs=1e-4)


def test_a_program_that_ignores_the_stop_goes_on_until_it_is_started_again():
    ticks: list[tuple[int, float]] = []

    async def main(node: Node) -> int:
        for _ in range(20):
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                continue
            ticks.append((node.incarnation, node.now))
        return node.incarnation

    run = play(main, *strike("stop", "a", 2.5, 5.25))
    assert run.returned["a"] == 1
    assert [at for incarnation, at in ticks if incarnation == 0] == [1, 2, 3.5, 4.5]
    assert next(at for incarnation, at in ticks if incarnation == 1) == 6.25


def test_a_program_that_ends_well_in_time_after_a_stop_has_not_returned():
    async def main(node: Node) -> str:
        try:
            await asyncio.sleep(3)
        except asyncio.CancelledError:
            return "stopped"
        return f"incarnation {node.incarnation}"

    run = play(main, *strike("stop", "a", 1, 4))
    assert run.returned["a"] == "incarnation 1"
    assert run.virtual_seconds == 7


def test_what_fails_while_it_is_stopped_is_reported():
    async def main(_: Node) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            raise ValueError("while cleaning up")

    with pytest.raises(broker.ProgramError, match="while cleaning up") as caught:
        play(main, *strike("stop", "a", 1, 4))
    assert (caught.value.node, caught.value.time_s) == ("a", 1)


def test_a_stop_that_never_ends_is_named_where_others_wait_for_the_program():
    async def main(node: Node) -> None:
        await node.receive()

    async def wait(node: Node) -> None:
        await node.receive()

    programs = {"a": main, "b": wait}
    with pytest.raises(DeadlockError) as caught:
        broker.run(programs, topology=PAIR, faults=strike("stop", "a", 1), background=["a"])
    assert caught.value.waiting["a"] == "stopped"
    assert "wait" in caught.value.waiting["b"]


def test_a_stop_after_its_return_undoes_the_return_until_it_returns_again():
    async def main(node: Node) -> int:
        await asyncio.sleep(1)
        return node.incarnation

    async def other(_: Node) -> None:
        await asyncio.sleep(5)

    run = play(main, *strike("stop", "a", 3, 10), other=other)
    assert (run.returned["a"], run.virtual_seconds) == (1, 11)
    with pytest.raises(LostError, match=r"node a is down for good since 3\.0"):
        play(main, *strike("stop", "a", 3), other=other)


def test_tasks_and_computations_of_a_stopped_program_end_with_it():
    seen: list[object] = []

    async def main(node: Node) -> None:
        if node.incarnation:
            return

        async def tick() -> None:
            while True:
                seen.append(node.now)
                await asyncio.sleep(1)

        task = asyncio.create_task(tick())
        await node.compute(lambda: seen.append("work"), flops=2.5e9)
        await node.compute(int, flops=1e12)
        task.cancel()

    play(main, *strike("stop", "a", 4.5, 10))
    assert [at for at in seen if at != "work"] == [0, 1, 2, 3, 4]


def test_a_stop_lets_every_task_of_the_program_clean_up():
    async def main(node: Node) -> None:
        async def child(number: int) -> None:
            try:
                await asyncio.sleep(100)
            finally:
                await node.send("b", {"child": number, "at": node.now})
                await asyncio.sleep(number)
                await node.send("b", {"child": number, "at": node.now})

        tasks = [asyncio.create_task(child(number)) for number in range(2)]
        try:
            await asyncio.sleep(100)
        finally:
            await node.send("b", {"main": len(tasks), "at": node.now})

    async def hear(node: Node) -> list[object]:
        return [(await node.receive()).header for _ in range(5)]

    run = broker.run(
        {"a": main, "b": hear}, topology=PAIR, faults=strike("stop", "a", 1), background=["a"]
    )
    assert run.returned["b"] == [
        {"main": 2, "at": 1}, {"child": 0, "at": 1}, {"child": 1, "at": 1}, {"child": 0, "at": 1},
        {"child": 1, "at": 2},
    ]  # fmt: skip


# Pause.


def test_nothing_happens_in_a_pause_and_all_that_came_due_happens_after_it():
    async def main(node: Node):
        events = []

        async def hear() -> None:
            while True:
                message = await node.receive()
                events.append((message.header["i"], message.arrived_at))

        hearing = asyncio.create_task(hear())
        for _ in range(4):
            await asyncio.sleep(1)
            events.append(("tick", node.now))
        await node.compute(int, flops=1e9)
        events.append(("computed", node.now))
        hearing.cancel()
        return events

    async def tell(node: Node) -> None:
        for i in range(3):
            await asyncio.sleep(1 + i - node.now)
            await node.send("a", {"i": i})

    run = play(main, *strike("pause", "a", 1.5, 6.25), other=tell)
    events = run.returned["a"]
    assert [what for what, _ in events] == ["tick", 0, 1, 2, "tick", "tick", "tick", "computed"]
    assert [at for what, at in events if what == "tick"] == [1, 6.25, 7.25, 8.25]
    assert {at for what, at in events if what in (1, 2)} == {6.25}
    assert events[-1][1] == 9.25
    assert [entry.ended_ns // SECOND for entry in run.ledger] == [1, 2, 3]


def test_a_computation_stands_still_in_a_pause_and_goes_on_after_it():
    async def main(node: Node) -> float:
        await node.compute(int, flops=3e9)
        return node.now

    assert play(main, *strike("pause", "a", 1, 11)).returned["a"] == 13
    slowed = play(main, *strike("pause", "a", 1, 11), *slow("a", 2, 0.5, 12))
    # 0.5 s at full speed, 0.5 and then 1 at half, and the rest at full speed again.
    assert slowed.returned["a"] == 13.75


def test_a_device_that_gets_slower_in_a_pause_stands_still_and_is_slow_after_it():
    async def main(node: Node) -> float:
        await node.compute(int, flops=3e9)
        return node.now

    assert play(main, *strike("pause", "a", 1, 11), *slow("a", 2, 5, 100)).returned["a"] == 15


def test_timeouts_that_run_out_in_a_pause_fire_after_it_even_where_the_answer_came_meanwhile():
    async def main(node: Node):
        try:
            message = await node.receive(timeout=2)
        except TimeoutError:
            return "timeout", node.now
        return message.header, node.now

    async def tell(node: Node) -> None:
        await asyncio.sleep(1.5)
        await node.send("a", {"late": True})

    # What came in is told before timers fire, as a socket's buffer would be read.
    assert play(main, *strike("pause", "a", 1, 5), other=tell).returned["a"] == ({"late": True}, 5)


def test_a_node_that_begins_in_a_pause_begins_after_it():
    async def main(node: Node) -> float:
        return node.now

    assert play(main, *strike("pause", "a", 0, 3)).returned["a"] == 3


def test_a_pause_is_named_in_the_report_of_a_deadlock():
    async def main(node: Node) -> None:
        await node.receive()

    with pytest.raises(DeadlockError) as caught:
        play(main, *strike("pause", "a", 1))
    assert caught.value.waiting["a"].startswith("paused in ")


# Skew.


def test_a_clock_that_is_ahead_is_ahead_in_all_that_a_program_reads_but_the_loops():
    async def main(node: Node):
        loop = asyncio.get_running_loop()
        readings = []
        for _ in range(3):
            await asyncio.sleep(2)
            readings.append((node.now, time.time() - 1_767_225_600, loop.time(), time.monotonic()))
        await node.send("b", {})
        return readings

    async def hear(node: Node):
        message = await node.receive()
        return message.sent_at - message.arrived_at

    run = play(main, *strike("skew", "a", 1, 5, offset_ns=30 * SECOND), other=hear)
    assert run.returned["a"] == [(32, 32, 2, 2), (34, 34, 4, 4), (6, 6, 6, 6)]
    assert run.returned["b"] == pytest.approx(-0.01, abs=1e-3)
    early = play(main, *strike("skew", "a", 1, offset_ns=30 * SECOND), other=hear)
    assert early.returned["b"] == pytest.approx(29.99, abs=1e-3)


def test_sleeps_end_early_by_a_fast_clock_and_late_by_a_slow_one():
    async def main(node: Node) -> tuple[float, float]:
        await asyncio.sleep(11)
        return node.now, asyncio.get_running_loop().time()

    for drift, lasts in ((0.1, 10.0), (-0.5, 22.0)):
        run = play(main, *strike("skew", "a", 0, drift=drift))
        assert run.virtual_seconds == pytest.approx(lasts, abs=1e-8)
        assert run.returned["a"] == pytest.approx((11, 11), abs=1e-8)


def test_a_timer_under_way_feels_a_drift_from_its_beginning_to_its_end():
    async def main(_: Node) -> float:
        await asyncio.sleep(10)
        return asyncio.get_running_loop().time()

    # 4 s right, then 2 s of the run that count as 3, and 3 s right.
    run = play(main, *strike("skew", "a", 4, 6, drift=0.5))
    assert run.virtual_seconds == pytest.approx(9, abs=1e-8)
    assert run.returned["a"] == pytest.approx(10, abs=1e-8)


def test_the_loops_clock_never_goes_back():
    async def main(_: Node) -> list[float]:
        readings = []
        for _ in range(60):
            await asyncio.sleep(0.1)
            readings.append(asyncio.get_running_loop().time())
        return readings

    faults = [
        *strike("skew", "a", 0.5, 1.5, offset_ns=-5 * SECOND, drift=0.3),
        *strike("skew", "a", 1.0, 2.5, offset_ns=9 * SECOND, drift=-0.2),
        *strike("skew", "a", 3.0, 4.0, offset_ns=-SECOND),
    ]
    readings = play(main, *faults).returned["a"]
    gaps = [after - before for before, after in pairwise(readings)]
    assert gaps == pytest.approx([0.1] * 59, abs=1e-8)


def test_skews_that_overlap_add_up_and_a_clock_without_any_is_right():
    async def main(node: Node) -> list[float]:
        readings = []
        for at in (1, 2, 3, 4):
            loop = asyncio.get_running_loop()
            await asyncio.sleep(at - loop.time())
            readings.append(round(node.now - at, 6))
        return readings

    faults = [
        *strike("skew", "a", 0.5, 2.5, offset_ns=10 * SECOND),
        *strike("skew", "a", 1.5, 3.5, offset_ns=5 * SECOND),
    ]
    assert play(main, *faults).returned["a"] == [10, 15, 5, 0]


# Several at once.


def test_a_crash_within_a_pause_is_a_crash_and_the_restart_waits_for_the_pauses_end():
    async def main(node: Node) -> tuple[int, float]:
        if node.incarnation == 0:
            await asyncio.sleep(100)
        return node.incarnation, node.now

    faults = [*strike("pause", "a", 1, 8), *crash("a", 2, 5)]
    assert play(main, *faults).returned["a"] == (1, 8)


def test_a_crash_within_a_stop_and_a_stop_within_a_crash_start_the_program_when_both_are_over():
    def main_of(lives: list[tuple[int, float]]):
        async def main(node: Node) -> None:
            lives.append((node.incarnation, node.now))
            await asyncio.sleep(20)

        return main

    for faults in (
        [*strike("stop", "a", 1, 4), *crash("a", 2, 6)],
        [*crash("a", 1, 4), *strike("stop", "a", 2, 6)],
    ):
        lives: list[tuple[int, float]] = []
        play(main_of(lives), *faults)
        assert lives == [(0, 0), (1, 6)]


def test_a_stop_within_a_pause_is_heard_after_it():
    heard: list[float] = []

    async def main(node: Node) -> int:
        try:
            await asyncio.sleep(20 if node.incarnation == 0 else 1)
        except asyncio.CancelledError:
            heard.append(node.now)
            raise
        return node.incarnation

    faults = [*strike("pause", "a", 1, 5), *strike("stop", "a", 2, 9)]
    assert play(main, *faults).returned["a"] == 1
    assert heard == [5]


def test_a_skew_outlives_a_crash_and_a_restart_finds_the_clock_off():
    async def main(node: Node) -> float:
        if node.incarnation == 0:
            await asyncio.sleep(100)
        return node.now

    faults = [*strike("skew", "a", 1, offset_ns=7 * SECOND), *crash("a", 2, 5)]
    assert play(main, *faults).returned["a"] == 12


def test_a_skew_within_a_pause_holds_after_it():
    async def main(node: Node) -> tuple[float, float]:
        await asyncio.sleep(3)
        return node.now, asyncio.get_running_loop().time()

    faults = [*strike("pause", "a", 1, 6), *strike("skew", "a", 2, 20, offset_ns=SECOND, drift=0.5)]
    now, monotonic = play(main, *faults).returned["a"]
    assert now == pytest.approx(6 + 1 + 2, abs=1e-8)
    assert monotonic == pytest.approx(6 + 2, abs=1e-8)


# Pure.


def test_orders_of_one_instant_stand_in_the_order_of_the_runs_nodes():
    faults = [*crash("c", 1), *strike("stop", "a", 1), *strike("pause", "b", 1)]
    troubles = Troubles(faults, PAIR, 0, ["b", "c", "a"])
    strike_of = troubles.strike(SECOND, {})
    assert strike_of is not None
    assert strike_of.orders == (("pause", 0, True), ("crash", 1), ("stop", 2))
    assert troubles.strike(2 * SECOND, {}) is None


# Links, as a program sees them.


def test_a_node_sees_what_has_become_of_its_links():
    async def main(node: Node):
        seen = []
        for _ in range(3):
            link = node.link("c")
            seen.append((link.bandwidth_bps, round(link.delay_s, 6), round(link.loss, 6)))
            await asyncio.sleep(1)
        return seen

    lossy = Change(delay=Amount("plus", 0.1), loss=Amount("absolute", 0.02))
    faults = [
        *degrade("a", "b", 0.25, 0.5, 1.5),
        Event(SECOND // 2, "far", "begin", "degrade", links=(("b", "c"),), change=lossy),
        Event(SECOND * 3 // 2, "far", "end", "degrade", links=(("b", "c"),)),
    ]
    assert play(main, *faults).returned["a"] == [
        (8e6, 0.02, 0), (2e6, 0.12, 0.02), (8e6, 0.02, 0),
    ]  # fmt: skip
