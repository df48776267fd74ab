"""The loop of a test in virtual time: what asyncio.Runner and programs may expect of it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
import time

import pytest

from broker import DeadlockError, RealWorldError, SpinError
from broker.testing import VirtualLoop, loop


def run(story):
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(story)


def test_hours_pass_at_once_and_timers_fire_in_order():
    async def story():
        seen = []

        async def say(after):
            await asyncio.sleep(after)
            seen.append((after, asyncio.get_running_loop().time()))

        await asyncio.gather(say(3600), say(1), say(60))
        return seen

    assert run(story()) == [(1, 1.0), (60, 60.0), (3600, 3600.0)]


def test_clocks_and_generators_are_virtual_within_and_real_without():
    async def story():
        before = time.time()
        await asyncio.sleep(10)
        return before, time.time() - before, random.random()

    began, took, drawn = run(story())
    assert began == 1_767_225_600
    assert took == 10
    assert drawn == run(story())[2]
    assert time.time() > began + took


def test_what_waits_for_nothing_is_a_deadlock_that_is_told():
    async def story():
        await asyncio.get_running_loop().create_future()

    with pytest.raises(DeadlockError, match="no other loop could wake it"):
        run(story())


def test_a_timeout_takes_no_time():
    async def story():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(86_400):
                await asyncio.Event().wait()

    began = time.perf_counter()
    run(story())
    assert time.perf_counter() - began < 3600


def test_what_leaves_virtual_time_is_refused():
    async def story():
        with pytest.raises(RealWorldError, match="the test called socket"):
            socket.socket()
        with pytest.raises(RealWorldError, match="create_connection"):
            await asyncio.open_connection("127.0.0.1", 1)
        with pytest.raises(RealWorldError, match="await asyncio"):
            time.sleep(1)  # noqa: ASYNC251 - that is the point

    run(story())


def test_work_in_a_thread_holds_the_clock():
    async def story():
        done = await asyncio.to_thread(lambda: sum(range(1000)))
        return done, asyncio.get_running_loop().time()

    assert run(story()) == (499_500, 0.0)


def test_a_call_from_another_thread_is_refused_there():
    refused = []

    def call(loop):
        try:
            loop.call_soon_threadsafe(print)
        except RealWorldError as error:
            refused.append(str(error))

    async def story():
        await asyncio.to_thread(call, asyncio.get_running_loop())

    run(story())
    assert "await asyncio.to_thread" in refused[0]


def test_a_runner_cancels_what_is_left_and_closes_generators():
    ended = []

    async def linger():
        try:
            await asyncio.sleep(1e6)
        finally:
            ended.append("task")

    async def numbers():
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(1)
            ended.append("generator")

    kept = numbers()

    async def story():
        lingering.append(asyncio.create_task(linger()))
        await anext(kept)

    lingering = []
    run(story())
    assert ended == ["task", "generator"]
    assert lingering[0].cancelled()


def test_a_loop_can_be_run_again_and_time_goes_on():
    with contextlib.closing(VirtualLoop()) as virtual:
        virtual.run_until_complete(asyncio.sleep(5))
        virtual.call_later(3, virtual.stop)
        virtual.run_forever()
        assert virtual.time() == 8


def test_stop_lets_what_is_ready_run_and_nothing_after_it():
    seen = []
    with contextlib.closing(VirtualLoop()) as virtual:
        virtual.call_soon(virtual.stop)
        virtual.call_soon(seen.append, "ready")
        virtual.call_soon(virtual.call_soon, seen.append, "later")
        virtual.run_forever()
        assert seen == ["ready"]
        virtual.call_soon(virtual.stop)
        virtual.run_forever()
        assert seen == ["ready", "later"]


def test_it_says_what_asyncio_says_where_it_is_used_wrongly():
    virtual = VirtualLoop()

    forgotten = asyncio.sleep(0)

    async def nested():
        with pytest.raises(RuntimeError, match="already running"):
            virtual.run_until_complete(forgotten)

    virtual.run_until_complete(nested())
    virtual.run_until_complete(asyncio.sleep(0))
    future = virtual.create_future()
    virtual.call_soon(virtual.stop)
    with pytest.raises(RuntimeError, match="stopped before Future completed"):
        virtual.run_until_complete(future)
    virtual.close()
    assert virtual.is_closed()
    with pytest.raises(RuntimeError, match="closed"):
        virtual.run_until_complete(forgotten)


def test_handlers_and_factories_are_those_that_were_set():
    told, made = [], []

    def factory(virtual, coroutine, **options):
        made.append(coroutine.__qualname__)
        return asyncio.Task(coroutine, loop=virtual, **options)

    async def story():
        virtual = asyncio.get_running_loop()
        virtual.set_exception_handler(lambda _, context: told.append(context["exception"]))
        virtual.call_soon(lambda: 1 / 0)
        virtual.set_task_factory(factory)
        await asyncio.create_task(asyncio.sleep(1), name="mine")
        assert virtual.get_task_factory() is factory

    run(story())
    assert isinstance(told[0], ZeroDivisionError)
    assert made[0] == "sleep"


def test_one_who_never_waits_is_named(monkeypatch):
    monkeypatch.setattr(loop, "_SPIN_LIMIT", 1_000)

    async def story():
        spinning = asyncio.create_task(spin())
        await asyncio.sleep(1)
        spinning.cancel()

    async def spin():
        while True:  # noqa: ASYNC110 - it never waits
            await asyncio.sleep(0)

    with pytest.raises(SpinError, match="the test ran"):
        run(story())


def test_in_wall_time_it_keeps_pace_with_the_machine():
    with contextlib.closing(VirtualLoop(wall=True)) as virtual:
        began = time.monotonic()
        virtual.run_until_complete(asyncio.sleep(0.05))
        assert time.monotonic() - began >= 0.05
        assert virtual.time() == 0.05


def test_threads_that_know_nothing_of_it_have_their_own_clock():
    seen = []

    async def story():
        await asyncio.sleep(5)
        await asyncio.to_thread(seen.append, time.time)

    thread = threading.Thread(target=lambda: seen.append(asyncio.run(_now())))
    thread.start()
    run(story())
    thread.join()
    assert len(seen) == 2


async def _now():
    await asyncio.sleep(0)
    return time.time()
