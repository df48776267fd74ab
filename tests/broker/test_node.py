"""What a program can do on its node, and what it costs in virtual time."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from functools import partial

import pytest

import broker
from broker import BrokerError, DeviceMemoryError, Node, ProgramError
from broker.wire import LARGE_BYTES
from tests.broker.worlds import GRANT, crash, directed, network, slow
from topologies import Link

PAIR = network("a-b", "b-c")


def alone(program, **options):
    """What one program returns, on a node whose neighbor only listens."""

    async def listen(node: Node) -> None:
        async for _ in node:
            pass

    programs = {"a": program, "b": listen}
    return broker.run(programs, topology=PAIR, background=["b"], **options).returned["a"]


# Messages.


def test_a_message_brings_what_was_sent():
    header = {"text": "ä", "number": 2**60, "list": [1, None, True], "bytes": b"\0"}
    payload = [b"abc", b"", memoryview(b"def")[1:], bytearray(b"gh")]

    async def tell(node: Node) -> None:
        await asyncio.sleep(2)
        await node.send("b", header, payload, purpose="asks")

    async def listen(node: Node):
        message = await node.receive()
        assert all(part.readonly for part in message.payload)
        return message, [bytes(part) for part in message.payload], node.now

    run = broker.run({"a": tell, "b": listen}, topology=PAIR)
    message, parts, now = run.returned["b"]
    assert (message.source, message.header, message.purpose) == ("a", header, "asks")
    assert parts == [b"abc", b"", b"ef", b"gh"]
    (entry,) = run.ledger
    arrival = 2 + entry.wire_bytes / 1e6 + 0.01
    assert (message.sent_at, message.arrived_at) == (2, now)
    assert now == pytest.approx(arrival, abs=1e-8)


def test_a_sender_may_write_into_its_buffer_again():
    async def tell(node: Node) -> None:
        buffer = bytearray(b"first")
        await node.send("b", {}, [buffer])
        buffer[:] = b"later"

    async def listen(node: Node) -> bytes:
        return bytes((await node.receive()).payload[0])

    assert broker.run({"a": tell, "b": listen}, topology=PAIR).returned["b"] == b"first"


@pytest.mark.parametrize("size", [10, LARGE_BYTES, 1_000_000])
def test_nobody_can_write_into_what_came_nor_so_into_what_was_sent(size):
    """A large part lies where its sender has put it, and the socket's buffers can be written."""
    content = bytes(size)

    async def tell(node: Node) -> None:
        await node.send("b", {}, [content, b"small", content])
        await node.send("a", {}, [content])
        await scribble(node)

    async def scribble(node: Node) -> None:
        for part in (await node.receive()).payload:
            with pytest.raises(TypeError, match="read-only"):
                part[0] = 7

    broker.run({"a": tell, "b": scribble}, topology=PAIR)
    assert content == bytes(size)


@pytest.mark.parametrize(
    ("to", "header", "payload", "reason"),
    [
        ("nobody", {}, [], "no program runs on a node 'nobody'"),
        ("b", {1: 2}, [], r"TypeError: header has a key 1; keys are text"),
        (
            "b",
            {"deep": {"x": object()}},
            [],
            r"header\['deep'\]\['x'\] is a object; headers are of text",
        ),
        ("b", {"all": [1, {2}]}, [], r"header\['all'\]\[1\] is a set; headers are of text"),
        ("b", ["no map"], [], "body is a list"),
        ("b", {}, b"bytes", "sequence of buffers"),
        ("b", {}, [7], r"payload\[0\] is a int; parts are bytes"),
        ("b", {}, [b"", memoryview(b""), "text"], r"payload\[2\] is a str; parts are bytes"),
        ("b", {"x": b"." * 17_000_000}, [], "at most 16,777,216"),
    ],
)
def test_what_no_receiver_could_read_fails_at_the_sender(to, header, payload, reason):
    async def tell(node: Node) -> None:
        await node.send(to, header, payload)

    with pytest.raises(ProgramError, match=reason) as caught:
        alone(tell)
    assert caught.value.node == "a"
    assert "in tell" in caught.value.report


def test_a_reply_goes_to_its_request_and_not_to_the_inbox():
    async def serve(node: Node) -> None:
        first, second = await node.receive(), await node.receive()
        await second.reply({"to": second.header["i"]})
        await node.send("a", {"to": "anybody"})
        await first.reply({"to": first.header["i"]}, purpose="answers")

    async def ask(node: Node):
        one, two, other = await asyncio.gather(
            node.request("b", {"i": 1}, timeout=9),
            node.request("b", {"i": 2}, timeout=9, purpose="asks"),
            node.receive(),
        )
        return [one.header["to"], two.header["to"], other.header["to"]], one.purpose, two.purpose

    run = broker.run({"a": ask, "b": serve}, topology=PAIR)
    assert run.returned["a"] == ([1, 2, "anybody"], "answers", "asks")


def test_timeouts_are_exact():
    async def wait(node: Node):
        times = []
        with pytest.raises(TimeoutError):
            await node.receive(timeout=1.25)
        times.append(node.now)
        with pytest.raises(TimeoutError):
            await node.request("b", {}, timeout=0.5)
        times.append(node.now)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.000_000_001):
                await node.receive()
        times.append(node.now)
        return times

    assert alone(wait) == [1.25, 1.75, 1.750000001]


@pytest.mark.parametrize(("nanoseconds", "in_time"), [(-1, False), (0, True), (1, True)])
def test_what_arrives_at_the_deadline_arrives_in_time(nanoseconds, in_time):
    def arrived(timeout: float) -> bool:
        async def tell(node: Node) -> None:
            await node.send("b", {})

        async def listen(node: Node):
            try:
                return (await node.receive(timeout)).arrived_at
            except TimeoutError:
                return None

        return broker.run({"a": tell, "b": listen}, topology=PAIR).returned["b"]

    at = arrived(5)
    assert arrived(at + nanoseconds / 1e9) == (at if in_time else None)


def test_a_late_reply_is_nobodys():
    async def serve(node: Node) -> None:
        message = await node.receive()
        await asyncio.sleep(3)
        await message.reply({"late": True})

    async def ask(node: Node) -> str:
        with pytest.raises(TimeoutError):
            await node.request("b", {}, timeout=1)
        with pytest.raises(TimeoutError):
            await node.receive(timeout=10)
        return "done"

    run = broker.run({"a": ask, "b": serve}, topology=PAIR)
    assert run.returned["a"] == "done"
    assert run.ledger.fates() == {"delivered": 2}


@pytest.mark.parametrize("how", ["send", "datagram", "publish", "itself"])
def test_to_answer_what_asked_for_no_answer_is_an_error_where_it_is_answered(how):
    async def tell(node: Node) -> None:
        await asyncio.sleep(1)
        if how == "publish":
            await node.publish("news", {})
        else:
            await node.send("b", {}, datagram=how == "datagram")
        await asyncio.sleep(1)

    async def listen(node: Node) -> None:
        node.subscribe("news")
        if how == "itself":
            await node.send("b", {})
        with pytest.raises(
            BrokerError, match=r"node b answers a message of .* asked for no answer"
        ):
            await (await node.receive()).reply({})

    run = broker.run({"a": tell, "b": listen}, topology=PAIR)
    assert all(entry.source == "a" or how == "itself" for entry in run.ledger)


def test_a_message_is_not_lost_on_a_reader_that_was_cancelled():
    async def main(node: Node):
        async def cancel_the_next(readers: list) -> None:
            await node.receive()
            readers[0].cancel()

        readers: list[asyncio.Task] = []
        killer = asyncio.create_task(cancel_the_next(readers))
        await asyncio.sleep(0)
        readers += [asyncio.create_task(node.receive()) for _ in range(2)]
        await asyncio.sleep(0)
        for number in range(2):  # both arrive before any of the three runs
            await node.send("a", {"number": number})
        await killer
        return (await asyncio.wait_for(readers[1], 5)).header, readers[0].cancelled()

    assert alone(main) == ({"number": 1}, True)


def test_readers_that_gave_up_do_not_pile_up():
    async def main(node: Node) -> int:
        for _ in range(100):
            with pytest.raises(TimeoutError):
                await node.receive(timeout=0.1)
        return len(node._readers)

    assert alone(main) == 0


# Neighbors in one process.

SHARED: dict[str, object] = {}


async def hold(node: Node) -> None:
    event = SHARED["event"] = asyncio.Event()
    SHARED["node"] = node
    waiting = asyncio.create_task(event.wait())
    await asyncio.sleep(10)
    waiting.cancel()


ACTS = [
    lambda node: node.note("x"),
    lambda node: node.declare("x", ["a"]),
    lambda node: node.subscribe("x"),
    lambda node: node.unsubscribe("x"),
    lambda node: node.suspects("b"),
    lambda node: node.random,
    lambda node: node.compute(int, flops=1),
    lambda node: node.send("b", {}),
    lambda node: node.publish("x", {}),
    lambda node: node.receive(),
]


@pytest.mark.parametrize(
    "act",
    [*ACTS, lambda node: node.request("b", {}, timeout=1), lambda _: SHARED["event"].set()],
)
def test_no_neighbor_acts_on_a_node_through_memory(act):
    """An event that another's program sets would wake nobody; what it sent would be a lie."""

    async def meddle(_: Node) -> None:
        await asyncio.sleep(1)
        acted = act(SHARED["node"])
        if inspect.isawaitable(acted):
            await acted

    with pytest.raises(ProgramError, match="the program of node b acts on node a") as caught:
        broker.run({"a": hold, "b": meddle}, topology=PAIR)
    assert (caught.value.node, caught.value.time_s) == ("b", 1)


@pytest.mark.parametrize("act", ACTS)
def test_no_computation_acts_on_a_node(act):
    def work(node: Node) -> None:
        acted = act(node)
        if asyncio.iscoroutine(acted):
            acted.send(None)

    async def main(node: Node) -> None:
        await node.compute(partial(work, node), flops=1)

    with pytest.raises(ProgramError, match="code outside its program acts on node a"):
        alone(main)


# Place.


def test_a_node_knows_its_place():
    async def main(node: Node):
        return node.name, node.peers(), node.device.flops, node.incarnation, node.link("b")

    name, peers, flops, incarnation, link = alone(main)
    assert (name, peers, flops, incarnation) == ("a", ("b",), 1e9, 0)
    assert (link.bandwidth_bps, link.delay_s) == (8e6, 0.01)


def test_the_way_back_may_cost_something_else():
    topology = directed(
        Link(source="a", target="b", bandwidth_bps=1e6, delay_s=0.1),
        Link(source="b", target="a", bandwidth_bps=2e6, delay_s=0.2),
        Link(source="a", target="c", bandwidth_bps=2e6, delay_s=0.2),
    )

    async def main(node: Node):
        with pytest.raises(BrokerError, match="no way from c to a"):
            node.link("c", back=True)
        with pytest.raises(BrokerError, match="node a has no device"):
            node.reserve(1)
        with pytest.raises(BrokerError, match="node a has no device"):
            await node.compute(lambda: 1, flops=1)
        return node.link("b").delay_s, node.link("b", back=True).bandwidth_bps

    assert broker.run({"a": main}, topology=topology).returned["a"] == (0.1, 2e6)


def test_a_nodes_chance_is_its_own_and_the_seeds():
    async def draw(node: Node) -> float:
        return node.random.random()

    def draws(seed: int) -> list[float]:
        run = broker.run(dict.fromkeys("abc", draw), topology=PAIR, seed=seed)
        return list(run.returned.values())

    assert draws(1) == draws(1)
    assert len({*draws(1), *draws(2)}) == 6


# Computing.


def test_a_device_computes_one_thing_at_a_time_in_order_and_time_pays():
    async def main(node: Node):
        order = []

        async def compute(name: str, flops: float) -> None:
            order.append((name, await node.compute(name.upper, flops=flops), node.now))

        await asyncio.gather(compute("long", 2e9), compute("short", 1e6), compute("none", 0))
        await asyncio.sleep(1)
        await compute("later", 1e9)
        return order

    assert alone(main) == [
        ("long", "LONG", 2.0),
        ("short", "SHORT", 2.001),
        ("none", "NONE", 2.001),
        ("later", "LATER", 4.001),
    ]


def test_one_devices_works_never_overlap():
    running = []
    most = []

    def work() -> None:
        running.append(1)
        most.append(len(running))
        running.pop()

    async def main(node: Node) -> None:
        await asyncio.gather(*(node.compute(work, flops=1) for _ in range(50)))

    alone(main)
    assert most == [1] * 50


def test_works_of_two_nodes_overlap_in_real_time(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    both = threading.Barrier(2, timeout=30)

    async def main(node: Node):
        await node.compute(both.wait, flops=1e9)  # ends only while the other is under way
        return node.now

    run = broker.run({"a": main, "b": main}, topology=PAIR)
    assert run.returned == {"a": 1.0, "b": 1.0}


def test_time_goes_on_to_what_is_earlier_than_the_end_of_a_work():
    told = threading.Event()

    async def compute(node: Node) -> None:
        await node.compute(lambda: told.wait(30), flops=5e9)

    async def tell(node: Node) -> float:
        await asyncio.sleep(4)
        told.set()
        return node.now

    run = broker.run({"a": compute, "b": tell}, topology=PAIR)
    assert (run.returned["b"], run.virtual_seconds) == (4, 5)


@pytest.mark.parametrize(("until_s", "end_s"), [(None, 2.5), (1.0, 1.375)])
def test_a_slower_device_ends_later(until_s, end_s):
    async def main(node: Node) -> float:
        await node.compute(lambda: None, flops=1e9)
        return node.now

    assert alone(main, faults=slow("a", 4, 0.5, until_s)) == end_s


@pytest.mark.parametrize("error", [KeyError("k"), TimeoutError("t"), SystemExit(3)])
def test_what_a_work_raises_reaches_who_awaits_it_at_the_end(error):
    def work() -> None:
        raise error

    async def main(node: Node) -> float:
        with pytest.raises(type(error)) as caught:
            await node.compute(work, flops=1e9)
        assert caught.value is error
        return node.now

    assert alone(main) == 1


@pytest.mark.parametrize("work", [int, lambda: 1 / 0])
def test_a_work_that_nobody_awaits_any_more_ends_unseen_and_takes_its_time(work):
    async def main(node: Node) -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await node.compute(work, flops=3e9)
        await node.compute(int, flops=1e9)
        return node.now

    assert alone(main) == 4


def test_a_work_that_raises_stop_iteration_ends_as_an_error():
    async def main(node: Node) -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await node.compute(iter(()).__next__, flops=1)

    alone(main)


@pytest.mark.parametrize("flops", [-1, float("nan"), float("inf")])
def test_a_price_that_is_none_is_refused(flops):
    async def main(node: Node) -> None:
        with pytest.raises(BrokerError, match="node a: flops is"):
            await node.compute(lambda: None, flops=flops)

    alone(main)


# Memory.


def test_memory_is_what_the_device_grants():
    async def main(node: Node):
        first = node.reserve(GRANT - 10, "layers")
        with pytest.raises(DeviceMemoryError, match="a has 10 of 1,000,000 bytes left; a graph"):
            node.reserve(11, "a graph")
        with node.reserve(10):
            assert node.reserved_bytes == GRANT
        first.release()
        first.release()
        with pytest.raises(BrokerError, match="-1 bytes"):
            node.reserve(-1)
        return node.reserved_bytes

    assert alone(main) == 0


# What the experimenter hears.


def test_a_note_is_what_it_was_when_it_was_made():
    notes = []

    async def main(node: Node) -> None:
        values = [1]
        await asyncio.sleep(2)
        node.note("values", values=values)
        values.append(2)

    alone(main, observe=notes.append)
    assert [(n.time_s, n.node, n.event, n.fields) for n in notes] == [
        (2, "a", "values", {"values": [1]})
    ]


def test_a_note_that_can_not_be_told_fails_where_it_is_made():
    async def main(node: Node) -> None:
        node.note("value", value=object())

    with pytest.raises(ProgramError, match="in main"):
        alone(main)


def test_notes_of_one_instant_come_in_the_order_of_the_run():
    notes = []

    async def main(node: Node) -> None:
        await asyncio.sleep(1)
        node.note("first")
        node.note("second")

    broker.run(dict.fromkeys("cab", main), topology=PAIR, observe=notes.append)
    assert [(n.node, n.event) for n in notes] == [
        (name, event) for name in "cab" for event in ("first", "second")
    ]


def test_a_dead_node_says_nothing_more():
    notes = []
    kept = []

    async def main(node: Node) -> None:
        kept.append(node)
        await asyncio.sleep(1 if node.incarnation else 9)
        kept[0].note("from the grave")
        kept[0].declare("host of a", ["b"])
        await kept[0].send("b", {"from": "the grave"})

    run = broker.run(
        {"a": main, "b": main}, topology=PAIR, faults=crash("a", 2, 3), observe=notes.append
    )
    assert [note.event for note in notes] == ["fault", "fault"]
    assert len(run.ledger) == 0
