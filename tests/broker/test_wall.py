"""Wall time: the same programs on the machine's clock deliver what they do in virtual time.

Bounds on times are generous: a loaded machine may be late, and never early.
"""

from __future__ import annotations

import asyncio
import errno
import threading
import time

import pytest

import broker
import faults as fault_language
from broker import BrokerError, Node, ProgramError, wall
from tests.broker.harbor import WORD, harbor
from tests.broker.worlds import GRANT, SECOND, crash, network
from topologies import Topology

NETWORK = network("a-hub", "b-hub", bandwidth_bps=1e8, delay_s=0.01)
LATE_S = 5.0


# Programs, in a module so that other processes find them.


async def tell(node: Node) -> list[object]:
    """Sends numbers, asks, and says what came back."""
    for i in range(5):
        await node.send("b", {"i": i}, [bytes([i]) * 100 * i])
    await asyncio.sleep(0.05)
    reply = await node.request("b", {"i": "large"}, [b"x" * 300_000], timeout=30)
    return [reply.header["i"], bytes(reply.payload[0]) == b"x" * 300_000]


async def hear(node: Node) -> list[tuple[object, int]]:
    heard: list[tuple[object, int]] = []
    while len(heard) < 6:
        message = await node.receive()
        assert message.arrived_at - message.sent_at >= 0.02 - 1e-6  # never early
        heard.append((message.header["i"], sum(map(len, message.payload))))
    await message.reply(message.header, message.payload)
    return heard


async def count_lives(node: Node) -> int:
    node.disk._files["lives"] = lives = node.disk._files.get("lives", b"") + b"x"
    try:
        await asyncio.sleep(3600 if len(lives) == 1 else 0)
    finally:
        if len(lives) == 1:
            await node.send("b", {"i": "from the grave"})
    return len(lives)


async def listen_a_while(node: Node) -> int:
    heard = 0
    try:
        async with asyncio.timeout(0.8):
            async for _ in node:
                heard += 1
    except TimeoutError:
        return heard


async def fail(node: Node) -> None:
    await asyncio.sleep(0.01)
    raise ValueError(f"{node.name} has had enough")


async def sleep_for_ever(_: Node) -> None:
    await asyncio.sleep(3600)


def story(run: broker.Run) -> list[tuple[str, str, str, int, bytes, str]]:
    """What a run's messages were, without their times."""
    return [
        (one.source, one.destination, one.purpose, one.size_bytes, one.content, one.fate)
        for one in run.ledger
    ]


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_a_program_delivers_the_same_messages_in_virtual_and_in_wall_time(transport):
    programs = {"a": tell, "b": hear}
    virtual = broker.run(programs, topology=NETWORK, seed=3)
    real = broker.run(
        programs, topology=NETWORK, seed=3, clock="wall", processes=2, transport=transport
    )
    assert real.returned == virtual.returned
    assert sorted(story(real)) == sorted(story(virtual))
    times = {one.number: one.ended_ns - one.sent_ns for one in virtual.ledger}
    for one in real.ledger:
        took = one.ended_ns - one.sent_ns
        assert took >= 0.02 * SECOND
        assert took <= times[one.number] + LATE_S * SECOND
    assert real.ledger.malformed_frames == {}


def join_alone(
    programs: dict[str, object], topology: Topology = NETWORK, **options: object
) -> dict[str, object]:
    """Runs programs in this process against a bus in a thread."""
    with harbor(topology, expected=len(programs), **options) as here:
        return wall.join(here.endpoint, programs, word=WORD)


def test_programs_join_a_bus_that_is_there():
    assert join_alone({"a": tell, "b": hear})["b"] == [*((i, 100 * i) for i in range(5)),
                                                       ("large", 300_000)]  # fmt: skip


def test_a_crash_strikes_at_its_time_and_the_dead_say_nothing():
    faults = crash("a", 0.2, 0.3)
    with harbor(NETWORK, expected=2, faults=faults) as here:
        returned = wall.join(here.endpoint, {"a": count_lives, "b": listen_a_while}, word=WORD)
        assert returned == {"a": 2, "b": 0}
        assert here.close().sent == 0


AFFLICTED = """
name: afflicted
timeline:
  - {at: 0 s, nat: {nodes: late}}
  - {at: 300 ms, leave: mover, for: 3 s}
  - {at: 500 ms, join: late}
  - {at: 400 ms, squeeze: {nodes: busiest node, memory: 10 %}, for: 600 ms}
  - {at: 400 ms, full_disk: full, for: 600 ms}
  - {at: 400 ms, cut: {link: [full, hub]}, for: 600 ms}
"""


async def feel(node: Node) -> tuple[int, int]:
    """What is left of its memory, and why it can't write, while that is so."""
    await node.compute(int, flops=1e8)
    while node.memory_bytes == GRANT:  # noqa: ASYNC110 - nothing else tells it
        await asyncio.sleep(0.02)
    left, why = node.memory_bytes, 0
    try:
        await node.disk.write("note", b"")
    except OSError as error:
        why = error.errno
    while node.memory_bytes < GRANT:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.02)
    await node.disk.write("note", b"")
    return left, why


async def move(node: Node) -> float:
    try:
        await asyncio.sleep(0 if node.incarnation else 3600)
    finally:
        if not node.incarnation:
            await node.send("caller", {"goodbye": node.name})
    return node.now


async def call(node: Node) -> dict[str, object]:
    message = await node.receive()
    await asyncio.sleep(2 - node.now)
    for peer in ("mover", "late"):
        await node.send(peer, {}, datagram=True)
    return message.header


async def come(node: Node) -> float:
    await asyncio.sleep(2.5 - node.now)
    return asyncio.get_running_loop().time()


def test_nodes_that_come_and_go_and_what_takes_room_and_ways_are_as_in_virtual_time():
    star = network("full-hub", "mover-hub", "caller-hub", "late-hub", bandwidth_bps=1e8)
    programs = {"full": feel, "mover": move, "caller": call, "late": come}
    scenario = fault_language.parse(AFFLICTED)
    virtual = broker.run(programs, topology=star, faults=scenario)
    real = broker.run(programs, topology=star, faults=scenario, clock="wall")
    for run in (virtual, real):
        assert run.returned["full"] == (GRANT // 10, errno.ENOSPC)
        assert run.returned["caller"] == {"goodbye": "mover"}
        assert run.returned["mover"] >= 3.3
        assert run.ledger.fates() == {"behind a NAT": 1, "delivered": 1, "destination down": 1}
        assert [e.nodes for e in run.faults if e.kind == "squeeze"] == [("full",)] * 2
    assert virtual.returned["late"] == 2.5


def test_work_that_takes_longer_than_its_price_holds_up_only_who_waits_for_it():
    async def compute(node: Node) -> list[str]:
        order: list[str] = []

        async def tick() -> None:
            await asyncio.sleep(0.05)
            order.append("tick")

        async def work() -> None:
            await node.compute(lambda: time.sleep(0.3), flops=1e6)  # its price is 1 ms
            order.append("done")

        await asyncio.gather(work(), tick())
        return order

    assert join_alone({"a": compute}) == {"a": ["tick", "done"]}


def test_work_that_is_done_before_its_price_is_paid_is_committed_then():
    async def compute(node: Node) -> float:
        await node.compute(lambda: None, flops=2e8)  # its price is 0.2 s
        return node.now

    (ended,) = join_alone({"a": compute}).values()
    assert isinstance(ended, float)
    assert ended >= 0.2


def test_a_program_that_fails_is_reported_with_its_node():
    with pytest.raises(ProgramError, match=r"node a failed at .*(?s:.)*has had enough") as caught:
        broker.run(
            {"a": fail, "b": sleep_for_ever},
            topology=NETWORK,
            clock="wall",
            faults=crash("b", 3600),
        )
    assert caught.value.ledger is not None
    assert [event.kind for event in caught.value.faults] == ["crash"]


def test_a_bus_that_falls_silent_is_noticed(monkeypatch):
    monkeypatch.setattr("broker.port.SILENCE_S", 0.3)
    monkeypatch.setattr("broker.serve.BEAT_NS", 3600 * SECOND)
    with (
        harbor(NETWORK, expected=1) as here,
        pytest.raises(BrokerError, match="fallen silent"),
    ):
        wall.join(here.endpoint, {"a": sleep_for_ever}, word=WORD)


def test_the_run_ends_for_those_who_joined_when_the_bus_stops():
    ended: list[object] = []
    with harbor(NETWORK, expected=1) as here:
        thread = threading.Thread(
            target=lambda: ended.append(wall.join(here.endpoint, {"a": sleep_for_ever}, word=WORD))
        )
        thread.start()
        here.until(lambda: here.bus.now_ns > 0.05 * SECOND)
        here.close()
        thread.join(20)
    assert ended == [{}]


def test_there_are_two_clocks_and_sockets_between_processes():
    programs = {"a": tell, "b": hear}
    with pytest.raises(BrokerError, match="clock is 'sun'; it is virtual or wall"):
        broker.run(programs, topology=NETWORK, clock="sun")
    with pytest.raises(BrokerError, match="processes of their own: use ipc or tcp"):
        broker.run(programs, topology=NETWORK, clock="wall", transport="inproc")


async def ask_for_much(node: Node) -> int:
    size = 0
    for _ in range(8):
        reply = await node.request("b", {}, timeout=20)
        size += sum(map(len, reply.payload))
    return size


async def answer_much(node: Node) -> None:
    async for message in node:
        await message.reply({}, [bytes(10_000)] * 100)


def test_answers_need_no_room_in_a_send_buffer():
    programs = {"a": ask_for_much, "b": answer_much}
    run = broker.run(programs, topology=NETWORK, clock="wall", background=["b"])
    assert run.returned["a"] == 8_000_000 > NETWORK.transport.send_buffer_bytes


async def look_at_the_clock(_: Node) -> float:
    return time.time()


def test_in_wall_time_programs_see_the_machines_clock():
    before = time.time()
    run = broker.run({"a": look_at_the_clock}, topology=NETWORK, clock="wall")
    assert before < run.returned["a"] < time.time()
