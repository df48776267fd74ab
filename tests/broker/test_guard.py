"""What a program finds where it reaches past asyncio, and what everybody else finds meanwhile."""

from __future__ import annotations

import _thread
import asyncio
import concurrent.futures
import contextlib
import multiprocessing
import os
import random
import select
import socket
import subprocess
import sys
import threading
import time
import uuid
from datetime import UTC, datetime

import numpy
import pytest

import broker
from broker import DeadlockError, Node, ProgramError, RealWorldError, guard
from tests.broker.worlds import network, strike

PAIR = network("a-b")
POOL = concurrent.futures.ThreadPoolExecutor(1)
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


def alone(program, **options):
    """What one program returns."""
    return broker.run({"a": program}, topology=PAIR, **options).returned["a"]


# Clocks.


def test_clocks_are_virtual_and_a_run_begins_on_new_years_day_2026():
    async def main(_: Node):
        await asyncio.sleep(2.5)
        return [
            time.time(), time.time_ns(), time.monotonic(), time.monotonic_ns(),
            time.perf_counter(), time.perf_counter_ns(),
        ]  # fmt: skip

    nanoseconds = 2_500_000_000
    assert alone(main) == [
        NEW_YEAR + 2.5, int(NEW_YEAR) * 10**9 + nanoseconds, 2.5, nanoseconds, 2.5, nanoseconds,
    ]  # fmt: skip


def test_the_calendar_is_the_nodes_too():
    async def main(_: Node):
        await asyncio.sleep(86_400)
        told = time.ctime(), time.asctime(), time.strftime("%a %b %e %H:%M:%S %Y")
        return time.gmtime()[:6], time.gmtime(0)[:6], set(told), time.localtime()

    then = NEW_YEAR + 86_400
    epoch, second = (1970, 1, 1, 0, 0, 0), (2026, 1, 2, 0, 0, 0)
    assert alone(main) == (second, epoch, {time.ctime(then)}, time.localtime(then))


def test_a_clock_that_is_off_is_off_in_time_and_in_uuids_and_never_in_monotonic():
    async def main(_: Node):
        await asyncio.sleep(2)
        since_1582 = uuid.uuid1().time / 1e7
        return time.time() - NEW_YEAR, time.monotonic(), since_1582 - 12_219_292_800 - NEW_YEAR

    faults = strike("skew", "a", 1, offset_ns=-3 * 10**9)
    assert alone(main, faults=faults) == (-1, 2, pytest.approx(-1, abs=1e-5))


# What is refused.


def make_a_thread() -> None:
    threading.Thread(target=print).start()


def make_a_timer() -> None:
    threading.Timer(1, print).start()


def open_a_socket() -> None:
    socket.socket()


def connect() -> None:
    socket.create_connection(("127.0.0.1", 9))


def run_a_process() -> None:
    subprocess.run(["true"], check=False)


@pytest.mark.parametrize(
    ("reach_out", "what", "remedy"),
    [
        (lambda: time.sleep(0), "time.sleep", "await asyncio.sleep"),
        (make_a_thread, "threading.Thread.start", "use node.compute"),
        (make_a_timer, "threading.Thread.start", "use node.compute"),
        (open_a_socket, "socket.socket", "use node.send and node.receive"),
        (connect, "socket.socket", "use node.send and node.receive"),
        (run_a_process, "subprocess.Popen", "use node.compute"),
        (lambda: os.system("true"), "os.system", "use node.compute"),
        (lambda: os.fork(), "os.fork", "use node.compute"),  # noqa: PLW0108 - looked up when called
        (
            lambda: multiprocessing.Process(target=int).start(),
            "multiprocessing.Process.start",
            "node.compute",
        ),
        (lambda: _thread.start_new_thread(int, ()), "_thread.start_new_thread", "node.compute"),
        (lambda: POOL.submit(int), "ThreadPoolExecutor.submit", "asyncio.to_thread"),
        (lambda: select.select([], [], [], 0), "select.select", "await what you wait for"),
        (lambda: time.process_time(), "time.process_time", "use node.now"),  # noqa: PLW0108
        (lambda: time.clock_gettime(0), "time.clock_gettime", "use node.now"),
        (lambda: numpy.random.rand(2), "numpy.random.rand", "numpy.random.default_rng"),
        (lambda: numpy.random.seed(1), "numpy.random.seed", "numpy.random.default_rng"),
        (lambda: numpy.random.normal(0), "numpy.random.normal", "numpy.random.default_rng"),
        (lambda: numpy.random.sample(2), "numpy.random.sample", "numpy.random.default_rng"),
    ],
)
def test_what_would_leave_the_emulator_is_refused_by_name_and_with_a_remedy(
    reach_out, what, remedy
):
    async def main(_: Node) -> str:
        with pytest.raises(RealWorldError) as caught:
            reach_out()
        return str(caught.value)

    said = alone(main)
    assert said.startswith(f"node a called {what}, which leaves the emulator: ")
    assert remedy in said


def test_a_refusal_that_nobody_catches_ends_the_run_with_its_line():
    async def main(_: Node) -> None:
        await asyncio.sleep(3)
        time.sleep(1)  # noqa: ASYNC251 - that is what is caught

    with pytest.raises(ProgramError, match=r"RealWorldError: node a called time\.sleep") as caught:
        alone(main)
    assert (caught.value.node, caught.value.time_s) == ("a", 3)


# Generators.


async def draw(_: Node) -> list[object]:
    return [random.random(), random.gauss(0, 1), os.urandom(4), random.Random().random()]


def test_every_node_draws_for_itself_and_every_incarnation_anew():
    seen: list[list[object]] = []

    async def main(node: Node) -> None:
        seen.append(await draw(node))
        await asyncio.sleep(5)

    faults = strike("crash", "a", 1, 2)
    broker.run({"a": main, "b": main}, topology=PAIR, faults=faults)
    assert len(seen) == 3
    assert len({repr(drawn) for drawn in seen}) == 3


def test_a_program_may_seed_the_global_generator_and_only_its_own_is_seeded():
    async def main(node: Node) -> float:
        if node.name == "a":
            random.seed(11)
        await asyncio.sleep(1)
        return random.random()

    before = random.getstate()
    first, second = (
        broker.run({"a": main, "b": main}, topology=PAIR, seed=seed).returned for seed in (1, 2)
    )
    assert random.getstate() == before
    assert first["a"] == second["a"] == random.Random(11).random()
    assert first["b"] != second["b"]


def test_a_seeded_generator_is_what_it_is_everywhere():
    async def main(_: Node) -> tuple[float, float]:
        return random.Random(5).random(), float(numpy.random.default_rng(5).random())

    assert alone(main) == (random.Random(5).random(), float(numpy.random.default_rng(5).random()))


def test_what_work_draws_is_its_own_whoever_does_it_and_whenever():
    def work() -> tuple[float, bytes, float, str]:
        return random.random(), os.urandom(4), random.Random().random(), uuid.uuid4().hex

    async def main(node: Node):
        loop = asyncio.get_running_loop()
        works = [node.compute(work, flops=1), asyncio.to_thread(work)]
        return await asyncio.gather(*works, loop.run_in_executor(POOL, work))

    first, again = alone(main), alone(main, workers=4)
    assert first == again
    assert len(set(first)) == 3
    assert alone(main, seed=1) != first


def test_asyncio_takes_what_is_to_complete_in_the_order_given():
    """By itself it makes its tasks of a set of coroutines, in the order of their addresses."""
    begun: list[int] = []

    async def note(number: int) -> None:
        begun.append(number)

    async def main(_: Node) -> None:
        waiting = asyncio.as_completed([note(number) for number in range(40)])
        assert await asyncio.gather(*waiting) == [None] * 40

    alone(main)
    assert begun == list(range(40))


def test_the_place_of_a_future_in_a_set_is_no_address():
    async def main(node: Node) -> list[int]:
        loop = asyncio.get_running_loop()
        futures = [
            loop.create_future(),
            loop.run_in_executor(None, int),
            node.compute(int, flops=1),
            asyncio.gather(asyncio.sleep(0)),
            asyncio.shield(asyncio.sleep(0)),
        ]
        first, *numbers = [hash(future) for future in futures]
        assert len(dict.fromkeys(futures)) == len(futures)
        return [number - first for number in numbers]

    assert alone(main) == [1, 2, 3, 4]


# What goes on as ever.


def test_real_work_sees_the_real_world():
    def work() -> tuple[float, int, str]:
        began = time.time()
        time.sleep(0.001)
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
        socket.socket().close()
        return began, len(os.urandom(4)), threading.current_thread().name

    async def main(node: Node):
        return await asyncio.to_thread(work), await node.compute(work, flops=1)

    in_thread, computed = alone(main)
    for began, length, name in (in_thread, computed):
        assert abs(began - time.time()) < 600
        assert length == 4
        assert name != threading.current_thread().name


def test_observers_and_taps_see_the_real_world():
    seen: list[float] = []

    async def main(node: Node) -> None:
        node.note("here")
        await node.send("a", {})

    alone(main, observe=lambda _: seen.append(time.time()), tap=lambda *_: seen.append(time.time()))
    assert len(seen) == 2
    assert all(abs(at - time.time()) < 600 for at in seen)


def test_other_threads_see_the_real_world_while_a_run_is_under_way():
    under_way, seen = threading.Event(), threading.Event()
    clocks: list[float] = []

    async def main(node: Node) -> float:
        await asyncio.sleep(3)
        # Held where it is until the other thread has looked.
        await node.compute(lambda: (under_way.set(), seen.wait(60)), flops=1)
        return time.time()

    def look() -> None:
        assert under_way.wait(60)
        assert guard._guards == 1
        clocks.append(time.time())
        time.sleep(0.001)
        socket.socket().close()
        threading.Thread(target=seen.set).start()

    thread = threading.Thread(target=look)
    thread.start()
    now = alone(main)
    thread.join()
    assert now == pytest.approx(NEW_YEAR + 3, abs=1e-3)
    assert abs(clocks[0] - time.time()) < 600


def test_a_program_may_start_a_run_of_its_own_in_a_thread():
    """Two runs at once: the guard stays until the last of them is over."""

    async def inner(_: Node) -> float:
        await asyncio.sleep(7)
        return time.monotonic()

    async def main(node: Node):
        await asyncio.sleep(1)
        inside = await node.compute(lambda: alone(inner), flops=1e9)
        return inside, time.monotonic()

    assert alone(main) == (7, 2)
    assert guard._guards == 0


# Afterwards.

WATCHED = [
    *[(time, name) for name in ("time", "monotonic_ns", "perf_counter", "sleep")],
    *[(random, name) for name in ("random", "seed", "shuffle", "_urandom")],
    (random.Random, "seed"), (os, "urandom"), (uuid, "uuid1"), (threading.Thread, "start"),
    (socket.socket, "__init__"), (subprocess.Popen, "__init__"), (numpy.random, "rand"),
    (numpy.random, "seed"),
]  # fmt: skip


def things() -> list[object]:
    return [getattr(owner, name) for owner, name in WATCHED]


async def fail(_: Node) -> None:
    raise ValueError


async def wait_for_nobody(node: Node) -> None:
    await node.receive()


@pytest.mark.parametrize("program", [draw, fail, wait_for_nobody])
def test_everything_is_as_before_after_a_run_however_it_ends(program):
    before = things()
    during: list[list[object]] = []

    async def main(node: Node) -> None:
        during.append(things())
        await program(node)

    with contextlib.suppress(ProgramError, DeadlockError):
        alone(main)
    assert all(here is not there for here, there in zip(before, during[0], strict=True))
    assert all(here is there for here, there in zip(before, things(), strict=True))


def test_everything_is_as_before_after_a_run_that_could_not_begin(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no socket today")

    before = things()
    monkeypatch.setattr("broker.bus.Bus.wait_for_all", refuse)
    with pytest.raises(OSError, match="no socket today"):
        alone(draw)
    assert all(here is there for here, there in zip(before, things(), strict=True))
    assert sys.modules["broker.guard"]._guards == 0


def test_a_module_loaded_by_a_program_draws_nothing_from_its_generator(tmp_path, monkeypatch):
    (tmp_path / "drawing_as_it_loads.py").write_text("import random\ndrawn = random.random()\n")
    monkeypatch.syspath_prepend(tmp_path)

    async def main(_: Node) -> float:
        import drawing_as_it_loads  # type: ignore[import-not-found]

        assert drawing_as_it_loads.drawn
        return random.random()

    first, second = (broker.run({"a": main}, topology=PAIR).returned["a"] for _ in range(2))
    assert first == second
