"""The laws of a run, each with its safeguard on and with its safeguard off.

A law that holds with its safeguard off is either not the safeguard's or not tested. So each of
these breaks the emulator on purpose, and sees that the law is broken then, or that the emulator
says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import sys
import time
import uuid
from collections.abc import Callable
from functools import partial

import numpy
import pytest

import broker
from broker import BrokerError, LedgerError, Node, tasks
from broker import guard as guard_module
from broker import scheduler as scheduler_module
from broker import worker as worker_module
from broker.machine import Machine
from broker.network import Fate, Network, chance
from broker.wire import Kind
from tests.broker.worlds import SECOND, crash, directed, network
from topologies import Link

PAIR = network("a-b", "b-c")


async def listen(node: Node) -> list[tuple[str, object]]:
    heard = []
    with contextlib.suppress(TimeoutError):
        while True:
            message = await node.receive(timeout=10)
            heard.append((message.source, message.header.get("i")))
    return heard


async def tell(node: Node) -> None:
    for i in range(3):
        await node.send("b", {"i": i})
        await asyncio.sleep(0.02)


def through(monkeypatch: pytest.MonkeyPatch, network_class: type[Network]) -> None:
    monkeypatch.setattr(sys.modules["broker.runs"], "Network", network_class)


# Quiescence: all that was sent has come before time moves.


def test_what_was_sent_has_come_before_time_moves():
    run = broker.run({"a": tell, "b": listen}, topology=PAIR)
    assert run.returned["b"] == [("a", 0), ("a", 1), ("a", 2)]


def losing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker says how much it sends, and its socket loses one frame."""
    post = worker_module.post

    def lose(socket, frames, *envelope):
        lost = next((i for i, frame in enumerate(frames) if frame.kind == Kind.SEND), None)
        if lost is not None and frames[lost].sequence == 2:
            frames = [*frames[:lost], *frames[lost + 1 :]]
        post(socket, frames, *envelope)

    monkeypatch.setattr(worker_module, "post", lose)


def test_a_frame_that_a_socket_loses_is_found_out(monkeypatch):
    losing_one(monkeypatch)
    with pytest.raises(BrokerError, match="worker 0 sent 1 frames, 0 came"):
        broker.run({"a": tell, "b": listen}, topology=PAIR)


def saying(monkeypatch: pytest.MonkeyPatch, wrong: Callable[[int], int]) -> None:
    """The worker says another number of frames than it sends, where it sends any."""
    post = worker_module.post

    def lie(socket, frames, *envelope):
        quiet = frames[-1]
        if quiet.kind == Kind.QUIET and quiet.sequence:
            quiet.sequence = wrong(quiet.sequence)
        post(socket, frames, *envelope)

    monkeypatch.setattr(worker_module, "post", lie)


def test_nobody_would_know_of_a_lost_frame_if_workers_did_not_count(monkeypatch):
    losing_one(monkeypatch)
    counts = iter([1, 0, 1])
    saying(monkeypatch, lambda _: next(counts))
    run = broker.run({"a": tell, "b": listen}, topology=PAIR)
    assert run.returned["b"] == [("a", 0), ("a", 2)]


def test_a_worker_that_says_less_than_it_sends_is_found_out(monkeypatch):
    saying(monkeypatch, lambda _: 0)
    with pytest.raises(BrokerError, match="worker 0 sent 0 frames, 1 came"):
        broker.run({"a": tell, "b": listen}, topology=PAIR)


# Order: of what is sent at one instant, a seeded hash says who comes first.


MEETING = directed(
    *[Link(source=name, target="z", bandwidth_bps=1e6, delay_s=0.1) for name in "abcd"]
)


async def tell_z(node: Node) -> None:
    await node.send("z", {})


async def hear_four(node: Node) -> str:
    return "".join([(await node.receive()).source for _ in range(4)])


def order(names: str, seed: int) -> str:
    """Who comes first of four who send at one instant, and are on the run's list as `names`."""
    programs = dict.fromkeys(names, tell_z) | {"z": hear_four}
    return broker.run(programs, topology=MEETING, seed=seed).returned["z"]


def test_who_comes_first_is_the_seeds_and_not_the_lists():
    orders = [order("abcd", seed) for seed in range(6)]
    assert orders == [order("dbca", seed) for seed in range(6)]


def test_other_seeds_explore_other_interleavings():
    orders = {order("abcd", seed) for seed in range(24)}
    assert len(orders) >= 12
    assert {found[0] for found in orders} == set("abcd")


def test_without_the_seeded_hash_it_is_the_lists_and_the_same_for_every_seed(monkeypatch):
    monkeypatch.setattr(scheduler_module, "_tie_break", lambda *_: b"")
    assert order("abcd", 1) != order("dbca", 1)
    assert len({order("abcd", seed) for seed in range(6)}) == 1


# Lookahead: nobody lives through an instant before all that arrives then is known.


class Hasty(Network):
    """Promises that messages take ten times as long as they do."""

    def lookahead_ns(self, nodes):
        return 10 * super().lookahead_ns(nodes)


async def tick(node: Node) -> list[float]:
    """Lives through every millisecond, and says when messages came."""
    heard: list[float] = []

    async def hear() -> None:
        while True:
            heard.append((await node.receive()).arrived_at)

    task = asyncio.create_task(hear())
    for _ in range(200):
        await asyncio.sleep(0.001)
    task.cancel()
    return heard


async def tell_and_tick(node: Node) -> list[float]:
    await node.send("b", {})
    return await tick(node)


def test_messages_come_when_they_come_among_timers():
    run = broker.run({"a": tell_and_tick, "b": tick}, topology=PAIR)
    assert run.returned["b"] == [pytest.approx(0.0101, abs=1e-4)]


def test_a_network_that_promises_too_much_is_found_out(monkeypatch):
    through(monkeypatch, Hasty)
    with pytest.raises(BrokerError, match=r"message 1 arrived at 0\.01\d+ s, which is past"):
        broker.run({"a": tell_and_tick, "b": tick}, topology=PAIR)


HALF_WAY = directed(
    *[
        Link(source=a, target=b, bandwidth_bps=1e6, delay_s=0.01, duplicate=0.5)
        for a, b in (("a", "hub"), ("hub", "b"), ("b", "hub"), ("hub", "a"))
    ]
)


async def tell_and_hear(node: Node) -> list[int]:
    """Datagrams over two links, so that there is always one half-way when a window begins."""
    (peer,) = node.peers()
    heard: list[int] = []

    async def hear() -> None:
        while True:
            heard.append((await node.receive()).header["i"])

    task = asyncio.create_task(hear())
    for i in range(60):
        await node.send(peer, {"i": i}, datagram=True)
        await asyncio.sleep(0.0037)
    await asyncio.sleep(1)
    task.cancel()
    return heard


def test_a_datagram_that_is_half_way_arrives_in_time_and_each_copy_has_a_fate_of_its_own():
    run = broker.run({"a": tell_and_hear, "b": tell_and_hear}, topology=HALF_WAY)
    copies = [entry.copy for entry in run.ledger]
    assert set(copies) == {0, 1, 2}
    assert run.ledger.fates() == {"delivered": len(copies)}
    for node, heard in run.returned.items():
        arrived = [entry for entry in run.ledger if entry.destination == node]
        assert len(heard) == len(arrived)
        assert set(heard) == set(range(60))


def test_without_a_look_at_what_is_half_way_it_would_be_late(monkeypatch):
    monkeypatch.setattr(Network, "certain_ns", lambda _, until_ns: until_ns)
    with pytest.raises(BrokerError, match="which is past"):
        broker.run({"a": tell_and_hear, "b": tell_and_hear}, topology=HALF_WAY)


# The ledger: sent + duplicated = delivered + dropped + in flight.


class Forgetful(Network):
    """Loses the second message, and says nothing."""

    def advance(self, to_ns):
        return [fate for fate in super().advance(to_ns) if fate.number != 2]

    def arrivals(self, until_ns):
        return [fate for fate in super().arrivals(until_ns) if fate.number != 2]


class Doubling(Network):
    """Delivers the second message twice, and books no copy."""

    def _twice(self, fates):
        for fate in fates:
            if fate.number == 2:
                yield fate._replace(last=False)
                yield fate._replace(copy=1)
            else:
                yield fate

    def advance(self, to_ns):
        return list(self._twice(super().advance(to_ns)))

    def arrivals(self, until_ns):
        return list(self._twice(super().arrivals(until_ns)))


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (
            Forgetful,
            "3 messages were sent and 0 duplicated, 2 have a fate, and the network holds 0",
        ),
        (Doubling, "3 messages were sent and 0 duplicated, 4 have a fate, and the network holds 0"),
    ],
)
def test_a_network_that_forgets_or_doubles_a_message_is_found_out_at_the_close(
    monkeypatch, broken, says
):
    through(monkeypatch, broken)
    with pytest.raises(LedgerError, match=says):
        broker.run({"a": tell, "b": listen}, topology=PAIR)


@pytest.mark.parametrize(("broken", "heard"), [(Forgetful, [0, 2]), (Doubling, [0, 1, 1, 2])])
def test_nobody_would_know_if_the_books_were_not_checked(monkeypatch, broken, heard):
    through(monkeypatch, broken)
    monkeypatch.setattr(broker.Ledger, "check", lambda *_: None)
    run = broker.run({"a": tell, "b": listen}, topology=PAIR)
    assert run.returned["b"] == [("a", i) for i in heard]


def test_a_message_that_ends_twice_is_found_out_at_once(monkeypatch):
    class Stutter(Network):
        def advance(self, to_ns):
            return self._stutter(super().advance(to_ns))

        def arrivals(self, until_ns):
            return self._stutter(super().arrivals(until_ns))

        def _stutter(self, fates: list[Fate]) -> list[Fate]:
            return [copy for fate in fates for copy in (fate._replace(last=False), fate)]

    through(monkeypatch, Stutter)
    with pytest.raises(LedgerError, match="message 1 ended twice"):
        broker.run({"a": tell, "b": listen}, topology=PAIR)


# The fence: a dead program does nothing more.


async def say_goodbye(node: Node) -> None:
    try:
        await asyncio.sleep(100)
    finally:
        await node.send("b", {"from": "the grave"})


def after_death(run: broker.Run, at_s: float) -> int:
    return sum(entry.source == "a" and entry.sent_ns >= at_s * SECOND for entry in run.ledger)


async def sleep_for_three(_: Node) -> None:
    await asyncio.sleep(3)


def die() -> broker.Run:
    return broker.run(
        {"a": say_goodbye, "b": sleep_for_three},
        topology=PAIR,
        faults=crash("a", 1),
        background=["a"],
    )


def test_a_dead_program_sends_nothing():
    assert after_death(die(), 1) == 0


def test_without_the_fence_its_finally_would_send(monkeypatch):
    def cancel(machine: Machine, _: int) -> None:
        for task in asyncio.all_tasks(machine._loop) if machine._loop else ():
            machine._stopping = True
            task.cancel()

    monkeypatch.setattr(Machine, "crash", cancel)
    assert after_death(die(), 1) == 1


# Order of tasks: sets of tasks have one order in every run.


async def fail_among_thirty(node: Node) -> list[int]:
    order: list[int] = []

    async def wait(number: int) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            order.append(number)

    async def start_and_fail() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(30):
                group.create_task(wait(number))
            await asyncio.sleep(1)
            raise ValueError

    noise = [bytearray(61 * i) for i in range(node.place.attributes["noise"])]
    with pytest.raises(ExceptionGroup):
        await start_and_fail()
    assert len(noise) == node.place.attributes["noise"]
    return order


def cancelled_orders() -> list[list[int]]:
    topology = network("a-b")
    places = [
        topology.nodes["a"].model_copy(update={"attributes": {"noise": noise}})
        for noise in (0, 100, 1_000)
    ]
    return [
        broker.run(
            {"a": fail_among_thirty},
            topology=topology.model_copy(update={"nodes": {**topology.nodes, "a": place}}),
        ).returned["a"]
        for place in places
    ]


def test_a_task_group_cancels_in_the_order_of_starting():
    assert cancelled_orders() == [list(range(30))] * 3


def test_without_a_tasks_own_hash_the_order_is_memorys(monkeypatch):
    monkeypatch.setattr(tasks.Task, "__hash__", object.__hash__)
    assert cancelled_orders() != [list(range(30))] * 3


# No global generator, no machine's clock.


async def look_around(_: Node) -> list[object]:
    await asyncio.sleep(1)
    return [
        random.random(),
        random.randint(0, 10**9),
        random.sample(range(10**6), 3),
        random.Random().random(),
        random.SystemRandom().random(),
        time.time(),
        time.monotonic(),
        time.perf_counter_ns(),
        str(uuid.uuid1()),
        str(uuid.uuid4()),
        os.urandom(8),
        secrets.token_hex(8),
        secrets.randbelow(10**12),
        float(numpy.random.default_rng().random()),
    ]


def surroundings(seed: int, monkeypatch: pytest.MonkeyPatch | None = None) -> list[object]:
    if monkeypatch is not None:
        monkeypatch.setattr(guard_module, "guarded", contextlib.nullcontext)
    return broker.run({"a": look_around}, topology=PAIR, seed=seed).returned["a"]


CLOCKS = range(5, 8)


def test_clocks_and_generators_are_the_same_in_every_run_and_others_for_another_seed():
    first, other = surroundings(1), surroundings(2)
    assert first == surroundings(1)
    for number, (here, there) in enumerate(zip(first, other, strict=True)):
        assert (here == there) == (number in CLOCKS), number


def test_without_the_guard_nothing_is_the_same_in_two_runs(monkeypatch):
    first = surroundings(1, monkeypatch)
    again = surroundings(1, monkeypatch)
    assert [here for here, there in zip(first, again, strict=True) if here == there] == []


# One stream per purpose and link: no draw of one moves another's.


LOSSY = directed(
    *[
        Link(source=a, target=b, bandwidth_bps=1e6, delay_s=0.01, jitter_s=0.002, loss=0.3)
        for a, b in ("ab", "ba", "cd")
    ]
)


async def chatter(node: Node, to: str) -> None:
    for i in range(40):
        await node.send(to, {"i": i}, datagram=True)
        await asyncio.sleep(0.02)


def fates_between_a_and_b(*, others: bool) -> list[tuple[str, int]]:
    programs = {"a": partial(chatter, to="b"), "b": idle}
    if others:
        programs |= {"b": partial(chatter, to="a"), "c": partial(chatter, to="d"), "d": idle}
    run = broker.run(programs, topology=LOSSY, seed=3)
    return [
        (entry.fate, entry.ended_ns)
        for entry in run.ledger
        if (entry.source, entry.destination) == ("a", "b")
    ]


async def idle(_: Node) -> None:
    await asyncio.sleep(2)


def test_the_chance_of_a_link_is_not_moved_by_another_links_traffic():
    alone = fates_between_a_and_b(others=False)
    assert {fate for fate, _ in alone} == {"delivered", "lost"}
    assert alone == fates_between_a_and_b(others=True)


def test_with_one_stream_for_all_it_would_be(monkeypatch):
    streams: dict[int, random.Random] = {}

    def shared(seed: int, *_: str) -> random.Random:
        return streams.setdefault(seed, random.Random(seed))

    monkeypatch.setattr(chance, "stream", shared)
    alone = fates_between_a_and_b(others=False)
    streams.clear()
    assert alone != fates_between_a_and_b(others=True)


def test_a_programs_own_draws_do_not_move_the_global_ones():
    async def draw(node: Node, own: int) -> tuple[float, float]:
        for _ in range(own):
            node.random.random()
        return random.random(), node.random.random()

    few, many = (
        broker.run({"a": partial(draw, own=own)}, topology=PAIR).returned["a"] for own in (1, 5)
    )
    assert few[0] == many[0]
    assert few[1] != many[1]
