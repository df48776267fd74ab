"""A node's loop: asyncio as ever, at instants that it is told."""

from __future__ import annotations

import asyncio
import gc
import inspect
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from broker import RealWorldError, SpinError, clock
from broker.clock import NodeLoop, driving, to_ns, to_seconds
from broker.tasks import watched_collector


def run(loop: NodeLoop, now_ns: int) -> None:
    with driving():
        loop.take_over()
        loop.run_until_quiet(now_ns)


def play(loop: NodeLoop, main, *, until_ns: int = 10**15):
    """Runs a coroutine on the loop, jumping from instant to instant."""
    task = loop.create_task(main)
    while not task.done():
        due = loop.next_ns()
        assert due is not None, "nothing to come"
        assert due <= until_ns
        run(loop, due)
    return task.result()


@pytest.fixture
def loop() -> Iterator[NodeLoop]:
    built = NodeLoop("phone")
    yield built
    built.close()


def test_seconds_are_whole_nanoseconds_inside():
    assert to_ns(0.1 + 0.2) == 300_000_000
    assert to_seconds(to_ns(604_800.000_000_001)) == 604_800.000_000_001


def test_sleep_takes_exactly_its_time(loop):
    async def main():
        times = [loop.time()]
        for seconds in (0.1, 0.2, 3600, 1e-9):
            await asyncio.sleep(seconds)
            times.append(loop.time())
        return times

    assert play(loop, main()) == [0, 0.1, 0.3, 3600.3, 3600.300000001]


def test_timers_of_one_instant_fire_in_the_order_they_were_set(loop):
    async def main():
        fired = []
        for number, seconds in enumerate([2, 1, 1, 2, 1]):
            loop.call_later(seconds, fired.append, number)
        await asyncio.sleep(3)
        return fired

    assert play(loop, main()) == [1, 2, 4, 0, 3]


def test_a_cancelled_timer_is_nothing_to_come(loop):
    loop.call_later(5, print).cancel()
    assert loop.next_ns() is None


def test_a_timeout_in_the_past_fires_now_and_not_before(loop):
    run(loop, 5)
    loop.call_at(0, lambda: None)
    assert loop.next_ns() == 5


def test_to_sleep_for_ever_is_to_wait_for_a_cancellation(loop):
    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(7):
                await asyncio.sleep(math.inf)
        return loop.time()

    assert play(loop, main()) == 7


def test_gather_wait_and_task_groups_work(loop):
    async def after(seconds):
        await asyncio.sleep(seconds)
        return seconds

    async def main():
        assert await asyncio.gather(after(2), after(1)) == [2, 1]
        assert loop.time() == 2
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(after(seconds)) for seconds in (3, 1)]
        assert [task.result() for task in tasks] == [3, 1]
        assert loop.time() == 5
        done, pending = await asyncio.wait(
            [asyncio.create_task(after(1)), asyncio.create_task(after(9))],
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert (len(done), len(pending)) == (1, 1)
        assert await asyncio.wait_for(asyncio.shield(pending.pop()), 20) == 9
        queue = asyncio.Queue()
        loop.call_later(1, queue.put_nowait, "item")
        assert await queue.get() == "item"
        return loop.time()

    assert play(loop, main()) == 15


def test_a_task_group_cancels_in_the_order_in_which_tasks_were_made(loop):
    async def wait(number, order):
        try:
            await asyncio.sleep(100)
        finally:
            order.append(number)

    async def start_and_fail(order):
        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(wait(number, order))
            await asyncio.sleep(1)
            raise ValueError

    async def main():
        order = []
        with pytest.raises(ExceptionGroup):
            await start_and_fail(order)
        return order

    assert play(loop, main()) == list(range(40))


def test_a_generator_left_half_way_is_closed_as_a_task(loop):
    closed = []

    async def numbers():
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(3)
            closed.append(loop.time())

    async def main():
        async for _ in numbers():
            break
        gc.collect()
        await asyncio.sleep(5)

    play(loop, main())
    assert closed == [3]


def test_work_in_a_thread_holds_time_still(loop):
    release = threading.Event()

    def work():
        assert release.wait(20)
        return "done"

    async def main():
        timer = loop.call_later(1e-9, pytest.fail, "time went on")
        threading.Timer(0.05, release.set).start()
        assert await asyncio.to_thread(work) == "done"
        timer.cancel()
        return loop.time()

    assert play(loop, main()) == 0


def test_what_a_thread_raises_reaches_who_awaits_it(loop):
    async def main():
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 / 0)

    play(loop, main())


def test_a_loop_that_is_never_quiet_is_reported_with_its_node_and_instant(loop, monkeypatch):
    monkeypatch.setattr(clock, "_SPIN_LIMIT", 1_000)

    async def main():
        await asyncio.sleep(2)
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    with pytest.raises(SpinError, match=r"node phone .* 2\.000000 s"):
        play(loop, main())
    assert asyncio._get_running_loop() is None


@pytest.mark.parametrize(
    "leave",
    [
        lambda loop, ran: loop.call_soon(ran.append, "ready"),
        lambda loop, ran: loop.call_later(1, ran.append, "later"),
        lambda loop, ran: loop.call_at(1, ran.append, "at"),
        lambda loop, ran: loop.create_task(note(ran)),
    ],
)
@pytest.mark.parametrize("first", ["leave", "fence"])
def test_on_a_fenced_loop_nothing_runs_that_was_left_or_comes_later(loop, leave, first):
    ran: list[object] = []
    if first == "leave":
        leave(loop, ran)
    loop.fence()
    if first == "fence":
        leave(loop, ran)
    assert loop.next_ns() is None
    run(loop, 10**12)
    assert ran == []
    assert loop.is_closed()
    for task in loop.tasks():
        task.get_coro().close()


def test_a_fenced_loop_waits_for_no_thread_and_starts_none():
    release, ran = threading.Event(), []
    loop = NodeLoop("phone", interrupted=lambda: True)  # to wait would be an error
    loop.run_in_executor(None, release.wait)
    loop.fence()
    run(loop, 1)
    release.set()
    loop.run_in_executor(None, ran.append, "work")
    with ThreadPoolExecutor() as threads:
        loop.run_in_executor(threads, ran.append, "work")
    assert ran == []


async def note(ran: list[object]) -> None:
    ran.append("task")


def test_what_a_fenced_loop_is_given_is_gone_without_a_word(loop, caplog):
    """The collector would say of a task that it was pending, and run what a generator has left."""
    ran: list[object] = []

    async def numbers():
        try:
            yield 1
        finally:
            ran.append("finally")

    async def begin(generator):
        await anext(generator)

    generator = numbers()
    play(loop, begin(generator))
    loop.fence()
    with driving():
        loop.take_over()
        coroutine = note(ran)
        loop.create_task(coroutine)
        del generator
        gc.collect()
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
    run(loop, 1)
    assert (ran, loop.tasks(), caplog.text) == ([], [], "")


def test_an_exception_in_a_callback_is_logged_with_node_and_time(loop, caplog):
    loop.call_later(2, lambda: 1 / 0)
    run(loop, to_ns(2))
    assert "node phone at 2.000000 s" in caplog.text
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    "reach_out",
    [
        lambda: asyncio.open_connection("localhost", 1),
        lambda: asyncio.start_server(print, "localhost", 1),
        lambda: asyncio.create_subprocess_exec("true"),
        lambda: asyncio.get_running_loop().getaddrinfo("localhost", 1),
    ],
)
def test_what_would_leave_the_emulator_is_refused(loop, reach_out):
    async def main():
        with pytest.raises(RealWorldError, match="node phone called"):
            await reach_out()

    play(loop, main())


@pytest.mark.parametrize("method", ["set_exception_handler", "set_task_factory", "stop"])
def test_what_a_nodes_loop_has_not_is_refused_in_words(loop, method):
    async def main():
        with pytest.raises(RealWorldError, match=f"node phone called {method}"):
            getattr(asyncio.get_running_loop(), method)(None)

    play(loop, main())


def test_a_running_loop_outside_is_put_back(loop):
    async def outside():
        before = asyncio.get_running_loop()
        play(loop, asyncio.sleep(1))
        assert asyncio.get_running_loop() is before

    asyncio.run(outside())


def test_a_generator_that_only_the_collector_finds_is_not_closed_when_that_pleases():
    closed: list[str] = []

    async def numbers(name: str):
        try:
            while True:
                yield 1
        finally:
            closed.append(name)

    async def main() -> None:
        left = numbers("left")
        await anext(left)
        del left
        await asyncio.sleep(1)
        circle: list[object] = [numbers("circle")]
        await anext(circle[0])  # type: ignore[call-overload]
        circle.append(circle)
        del circle
        gc.collect()
        await asyncio.sleep(1)

    with watched_collector():
        play(NodeLoop("a"), main())
    assert closed == ["left"]


def test_a_task_lives_until_it_ends_whoever_forgets_it():
    ended: list[float] = []

    async def wait_for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1.0)

    async def main() -> None:
        asyncio.create_task(wait_for_ever())  # noqa: RUF006 - it is to be forgotten
        await asyncio.sleep(1)
        gc.collect()
        await asyncio.sleep(1)

    loop = NodeLoop("a")
    play(loop, main())
    assert not ended
    assert [task.get_coro().__name__ for task in loop.tasks()] == ["wait_for_ever"]
    loop.tasks()[0].cancel()
    run(loop, 3 * 10**9)
    assert (ended, loop.tasks()) == ([1.0], [])


def test_a_failure_is_unheard_until_somebody_asks():
    async def fail(text: str) -> None:
        await asyncio.sleep(1)
        raise ValueError(text)

    async def main() -> None:
        heard, unheard = asyncio.create_task(fail("a")), asyncio.create_task(fail("b"))
        await asyncio.sleep(2)
        with pytest.raises(ValueError, match="a"):
            await heard
        assert not unheard.cancelled()

    loop = NodeLoop("a")
    play(loop, main())
    ((at_ns, task),) = loop.unheard()
    assert (at_ns, str(task.exception())) == (10**9, "b")
    assert loop.unheard() == []
