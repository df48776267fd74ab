"""Who sends to somebody who does not read waits, and goes on when there is room."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial

import pytest

import broker
from broker import Node
from broker.clock import NodeLoop, driving
from broker.errors import FrameError
from broker.traffic import Traffic
from tests.broker.worlds import crash, network, strike
from topologies import Topology, Transport

BUFFER = 10_000


def small_buffers(*pairs: str, **link: float) -> Topology:
    topology = network(*pairs, **link)
    return topology.model_copy(update={"transport": Transport(send_buffer_bytes=BUFFER)})


PAIR = small_buffers("a-b")
STAR = small_buffers("a-hub", "b-hub", "c-hub")
PART = [bytes(1_000)]


async def flood(node: Node, to: str, count: int = 100) -> list[float]:
    """When each of so many messages was on its way."""
    sent = []
    for i in range(count):
        await node.send(to, {"i": i}, PART)
        sent.append(node.now)
    return sent


async def read_from(node: Node, at_s: float, count: int = 100) -> list[int]:
    await asyncio.sleep(at_s)
    return [(await node.receive()).header["i"] for _ in range(count)]


def test_a_sender_waits_for_who_does_not_read_and_goes_on_when_it_does():
    run = broker.run({"a": partial(flood, to="b"), "b": partial(read_from, at_s=30)}, topology=PAIR)
    sent = run.returned["a"]
    size = next(iter(run.ledger)).size_bytes
    at_once = sum(at == 0 for at in sent)
    assert at_once == -(-BUFFER // size)
    assert min(at for at in sent if at) == pytest.approx(30.01, abs=1e-3)
    assert run.returned["b"] == list(range(100))


def test_who_is_alone_goes_on_sending_to_the_dead_within_seconds():
    """Nobody is left who could hear of it, and so no promise how soon."""
    options = {"topology": PAIR, "faults": crash("b", 1), "background": ["b"]}

    async def main(node: Node) -> float:
        await asyncio.sleep(2)
        return (await flood(node, "b", count=30))[-1]

    run = broker.run({"a": main, "b": partial(read_from, at_s=0)}, **options)
    assert run.returned["a"] <= 5
    assert run.ledger.fates() == {"destination down": 30}


def test_what_is_not_taken_up_is_never_more_than_the_buffer_and_one_message():
    most = []

    async def read_slowly(node: Node) -> None:
        for _ in range(100):
            most.append(sum(message._frame.size_bytes for message in node._inbox))
            await node.receive()
            await asyncio.sleep(0.05)

    run = broker.run({"a": partial(flood, to="b"), "b": read_slowly}, topology=PAIR)
    size = next(iter(run.ledger)).size_bytes
    assert BUFFER / 2 < max(most) < BUFFER + size
    open_now = peak = 0
    for _, change in sorted(
        [(entry.sent_ns, 1) for entry in run.ledger]
        + [(entry.ended_ns, -1) for entry in run.ledger]
    ):
        open_now += change
        peak = max(peak, open_now)
    assert peak * size < BUFFER + size


def test_one_message_larger_than_the_buffer_goes_and_the_next_waits():
    async def main(node: Node) -> list[float]:
        times = []
        for _ in range(2):
            await node.send("b", {"i": 0}, [bytes(5 * BUFFER)])
            times.append(node.now)
        return times

    run = broker.run({"a": main, "b": partial(read_from, at_s=5, count=2)}, topology=PAIR)
    assert run.returned["a"] == [0, pytest.approx(5.01, abs=1e-3)]


def test_without_receipts_the_sender_waits_for_ever(monkeypatch):
    monkeypatch.setattr("broker.traffic.Traffic.receipt", lambda *_: None)
    with pytest.raises(broker.DeadlockError, match="flood"):
        broker.run({"a": partial(flood, to="b"), "b": partial(read_from, at_s=1)}, topology=PAIR)


def test_a_slow_reader_holds_nobody_else_up():
    async def main(node: Node) -> tuple[list[float], float]:
        async with asyncio.TaskGroup() as group:
            group.create_task(flood(node, "b"))
            quick = group.create_task(flood(node, "c"))
        return quick.result(), node.now

    run = broker.run(
        {
            "a": main,
            "b": partial(read_from, at_s=60),
            "c": partial(read_from, at_s=0),
        },
        topology=STAR,
    )
    quick, end = run.returned["a"]
    assert max(quick) < 2
    assert end > 60


def test_tasks_that_send_to_one_peer_take_turns():
    """Also one that never waits for anything but room does not keep the others from theirs."""

    async def main(node: Node) -> None:
        async def send(who: int) -> None:
            for _ in range(40):
                await node.send("b", {"i": who}, PART)

        await asyncio.gather(*(send(who) for who in range(3)))

    run = broker.run({"a": main, "b": partial(read_from, at_s=1, count=120)}, topology=PAIR)
    order = run.returned["b"]
    # What fits goes at once; from there on, one each.
    rest = order[10:100]
    assert all(set(rest[i : i + 3]) == {0, 1, 2} for i in range(0, len(rest), 3))


def test_messages_of_one_task_never_overtake_each_other():
    run = broker.run(
        {"a": partial(flood, to="b"), "b": partial(read_from, at_s=2)}, topology=PAIR, seed=4
    )
    assert run.returned["b"] == sorted(run.returned["b"])


def test_one_who_gives_up_waiting_lets_the_next_go():
    async def main(node: Node) -> list[str]:
        done = []

        async def send(name: str, patience: float) -> None:
            try:
                async with asyncio.timeout(patience):
                    await node.send("b", {"i": 0}, PART)
            except TimeoutError:
                done.append(f"{name} gave up")
            else:
                done.append(f"{name} sent")

        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                await node.send("b", {"i": 0}, PART)
            for name, patience in (("first", 2), ("second", 30), ("third", 3), ("fourth", 30)):
                group.create_task(send(name, patience))
        return done

    run = broker.run({"a": main, "b": partial(read_from, at_s=10, count=12)}, topology=PAIR)
    assert run.returned["a"] == ["first gave up", "third gave up", "second sent", "fourth sent"]


def test_one_whose_turn_has_come_and_who_gives_up_at_that_instant_lets_the_next_go():
    loop = NodeLoop("a")
    traffic = Traffic(loop, BUFFER)
    traffic.sent(1, BUFFER)
    went = []

    async def send(name: str) -> None:
        await traffic.room(1)
        went.append(name)

    def run() -> None:
        with driving():
            loop.take_over()
            loop.run_until_quiet(0)

    first, _ = [loop.create_task(send(name)) for name in ("first", "second")]
    run()
    traffic.receipt(1, None)
    first.cancel()
    run()
    assert went == ["second"]


def test_a_message_that_can_not_be_sent_does_not_block_the_line():
    async def main(node: Node) -> str:
        async def send(purpose: str) -> None:
            await node.send("b", {"i": 1}, PART, purpose=purpose)

        for _ in range(10):
            await node.send("b", {"i": 0}, PART)
        bad, good = asyncio.create_task(send("x" * 100)), asyncio.create_task(send("ok"))
        with pytest.raises(FrameError, match="longer than 64 bytes"):
            await bad
        async with asyncio.timeout(60):
            await good
        return "sent"

    run = broker.run({"a": main, "b": partial(read_from, at_s=10, count=11)}, topology=PAIR)
    assert run.returned["a"] == "sent"


def test_datagrams_and_what_is_published_wait_for_nothing():
    async def main(node: Node) -> float:
        for i in range(60):
            await node.send("b", {"i": i}, PART, datagram=True)
            await node.publish("news", {"i": i}, PART)
        return node.now

    async def never(_: Node) -> None:
        await asyncio.sleep(5)

    assert broker.run({"a": main, "b": never}, topology=PAIR).returned["a"] == 0


# Ends.


def test_the_readers_death_frees_the_sender():
    async def never(_: Node) -> None:
        await asyncio.sleep(1_000)

    run = broker.run(
        {"a": partial(flood, to="b", count=30), "b": never},
        topology=PAIR,
        faults=crash("b", 20),
        background=["b"],
    )
    freed = sorted({at for at in run.returned["a"] if at})
    assert freed[0] == pytest.approx(20.01, abs=1e-3)
    assert run.ledger.fates()["destination down"] > 0


def test_a_reader_that_comes_back_reads_on_under_the_same_bounds():
    most = []

    async def read(node: Node) -> None:
        await asyncio.sleep(5)
        while True:
            most.append(len(node._inbox))
            await node.receive()
            await asyncio.sleep(0.02)

    run = broker.run(
        {"a": partial(flood, to="b", count=200), "b": read},
        topology=PAIR,
        faults=crash("b", 3, 3.1),
        background=["b"],
    )
    assert (max(most) - 1) * 1_000 < BUFFER  # and one message
    assert max(run.returned["a"]) > 8


@pytest.mark.parametrize("kind", ["crash", "stop"])
def test_a_reader_that_comes_and_goes_a_hundred_times_leaks_no_room(kind):
    """Less than a quarter of the buffer is never reported: that must not add up."""

    async def read(node: Node) -> None:
        async for _ in node:
            pass

    async def tell(node: Node) -> int:
        for i in range(100):
            await asyncio.sleep(i + 0.25 - node.now)
            async with asyncio.timeout(0.1):
                await node.send("b", {"i": i}, PART)
        await asyncio.sleep(0.2)
        return 100

    faults = [
        event
        for i in range(100)
        for event in strike(kind, "b", i + 0.75, i + 0.8)  # type: ignore[arg-type]
    ]
    run = broker.run({"a": tell, "b": read}, topology=PAIR, faults=faults, background=["b"])
    assert run.returned["a"] == 100
    assert run.ledger.fates() == {"delivered": 100}


def test_a_reader_that_has_returned_keeps_nobody_waiting():
    async def leave(_: Node) -> None:
        await asyncio.sleep(3)

    run = broker.run({"a": partial(flood, to="b"), "b": leave}, topology=PAIR)
    assert max(run.returned["a"]) < 5


def test_a_paused_reader_makes_the_sender_wait_until_it_goes_on():
    run = broker.run(
        {"a": partial(flood, to="b"), "b": partial(read_from, at_s=0)},
        topology=PAIR,
        faults=strike("pause", "b", 0.001, 40),
    )
    assert sum(at == 0 for at in run.returned["a"]) == 10
    assert min(at for at in run.returned["a"] if at) >= 40


# Requests.


def test_requests_and_replies_both_larger_than_the_buffer_do_not_lock_each_other():
    large = [bytes(3 * BUFFER)]

    async def serve(node: Node) -> None:
        async for message in node:
            await message.reply(message.header, large)

    async def ask(node: Node, peer: str) -> list[int]:
        async def one(i: int) -> int:
            return (await node.request(peer, {"i": i}, large, timeout=600)).header["i"]

        server = asyncio.create_task(serve(node))
        answers = await asyncio.gather(*(one(i) for i in range(10)))
        await asyncio.sleep(60)
        server.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await server
        return answers

    run = broker.run({"a": partial(ask, peer="b"), "b": partial(ask, peer="a")}, topology=PAIR)
    assert list(run.returned.values()) == [list(range(10))] * 2


def test_requests_wait_for_room_and_those_that_are_lost_free_it():
    async def ask(node: Node) -> None:
        async def one() -> None:
            with contextlib.suppress(TimeoutError):
                await node.request("b", {}, PART, timeout=60)

        await asyncio.gather(*(one() for _ in range(12)))

    async def never(_: Node) -> None:
        await asyncio.sleep(100)

    programs = {"a": ask, "b": never, "c": never}
    run = broker.run(programs, topology=STAR, background=["b", "c"])
    assert len(run.ledger) == 10
    run = broker.run(programs, topology=STAR, background=["b", "c"], faults=crash("b", 0))
    assert run.ledger.fates() == {"destination down": 12}


def test_what_a_node_sends_itself_needs_no_room():
    async def main(node: Node) -> int:
        for i in range(50):
            await node.send("a", {"i": i}, [bytes(BUFFER)])
        heard = [await node.receive() for _ in range(50)]
        await node.send("b", {"i": 0})
        await asyncio.sleep(1)
        return len(heard)

    run = broker.run({"a": main, "b": partial(read_from, at_s=0, count=1)}, topology=PAIR)
    assert run.returned["a"] == 50


def test_flow_control_is_the_same_in_every_run():
    def play() -> str:
        programs = {
            "a": partial(flood, to="c", count=40),
            "b": partial(flood, to="c", count=40),
            "c": partial(read_from, at_s=1, count=80),
        }
        return broker.run(programs, topology=STAR, seed=9).digest

    assert play() == play()
