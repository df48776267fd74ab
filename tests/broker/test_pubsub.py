"""Publish and subscribe: one message for each who subscribes at that instant."""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import pairwise

import pytest

import broker
from broker import BrokerError, Node
from tests.broker.worlds import crash, network, partition, strike
from topologies import Transport

STAR = network("p-hub", "s-hub", "t-hub")
SMALL = STAR.model_copy(update={"transport": Transport(send_buffer_bytes=10_000)})


async def publish(node: Node, count: int = 10, topic: str = "news", size: int = 0) -> float:
    """One message every second, from 1 s on."""
    for i in range(count):
        await asyncio.sleep(i + 1 - node.now)
        await node.publish(topic, {"i": i}, [bytes(size)] if size else ())
    await asyncio.sleep(1)
    return node.now


async def hear(node: Node, from_s: float = 0, until_s: float = 60, topic: str = "news"):
    await asyncio.sleep(from_s - node.now)
    node.subscribe(topic)
    heard = []
    try:
        async with asyncio.timeout_at(until_s):
            while True:
                message = await node.receive()
                heard.append(message.header["i"])
    except TimeoutError:
        return heard


def test_who_subscribes_hears_what_is_published_from_then_on_and_nothing_else():
    run = broker.run(
        {
            "p": publish,
            "s": partial(hear, until_s=20),
            "t": partial(hear, from_s=4.5, until_s=20),
            "hub": partial(hear, topic="sports", until_s=20),
        },
        topology=STAR,
    )
    assert run.returned["s"] == list(range(10))
    assert run.returned["t"] == list(range(4, 10))
    assert run.returned["hub"] == []
    assert len(run.ledger) == 16


def test_who_subscribes_at_the_very_instant_hears_it():
    run = broker.run(
        {"p": partial(publish, count=3), "s": partial(hear, from_s=2, until_s=9)}, topology=STAR
    )
    assert run.returned["s"] == [1, 2]


def test_a_subscription_costs_nothing_and_holds_at_once_across_a_partition():
    run = broker.run(
        {"p": partial(publish, count=3), "s": partial(hear, from_s=1.5, until_s=20)},
        topology=STAR,
        faults=partition(["p"], ["s"], 0.5, 1.9),
    )
    assert run.returned["s"] == [1, 2]
    assert set(run.ledger.bytes_by_purpose()) == {"news"}


def test_a_message_says_its_topic_and_its_source_and_one_that_was_sent_has_none():
    async def tell(node: Node) -> None:
        await asyncio.sleep(1)
        await node.publish("news", {"i": 1}, [b"abc"])
        await node.send("s", {"i": 2}, purpose="news")

    async def listen(node: Node):
        node.subscribe("news")
        messages = [await node.receive() for _ in range(2)]
        return [(m.source, m.topic, m.purpose, m.header["i"], len(m.payload)) for m in messages]

    run = broker.run({"p": tell, "s": listen}, topology=STAR)
    assert run.returned["s"] == [("p", "news", "news", 1, 1), ("p", "", "news", 2, 0)]


def test_nobody_hears_what_he_publishes_himself_and_without_a_topic_nothing_is():
    async def main(node: Node) -> None:
        node.subscribe("news")
        await asyncio.sleep(1)
        await node.publish("news", {})
        with pytest.raises(BrokerError, match="node p publishes without a topic"):
            await node.publish("", {})
        with pytest.raises(TimeoutError):
            await node.receive(timeout=5)

    assert len(broker.run({"p": main}, topology=STAR).ledger) == 0


def test_who_unsubscribes_hears_no_more_and_what_is_under_way_still_comes():
    async def listen(node: Node) -> list[int]:
        node.subscribe("news")
        heard = [(await node.receive()).header["i"] for _ in range(3)]
        # Half-way between two; then when one has just left, whose arrival nobody can undo.
        await asyncio.sleep(4 + 1e-6 - node.now)
        node.unsubscribe("news")
        node.unsubscribe("never heard of")
        while True:
            try:
                heard.append((await node.receive(timeout=20)).header["i"])
            except TimeoutError:
                return heard

    run = broker.run({"p": publish, "s": listen}, topology=STAR)
    assert run.returned["s"] == [0, 1, 2, 3]
    assert len(run.ledger) == 4


@pytest.mark.parametrize("kind", ["crash", "stop"])
def test_a_program_that_is_started_again_has_forgotten_what_it_subscribed_to(kind):
    async def listen(node: Node) -> list[int]:
        if node.incarnation == 0:
            node.subscribe("news")
            await asyncio.sleep(100)
        heard = []
        while node.now < 9:
            try:
                heard.append((await node.receive(timeout=1)).header["i"])
            except TimeoutError:
                if node.now > 6.5:
                    node.subscribe("news")
        return heard

    run = broker.run({"p": publish, "s": listen}, topology=STAR, faults=strike(kind, "s", 2.5, 4.5))
    assert run.returned["s"][0] in (6, 7)
    assert set(run.returned["s"]) <= {6, 7, 8, 9}


def test_a_publisher_that_dies_leaves_its_subscribers_to_the_next_incarnation():
    async def tell(node: Node) -> None:
        await node.publish("news", {"i": node.incarnation})
        await asyncio.sleep(10)

    run = broker.run(
        {"p": tell, "s": partial(hear, until_s=9)}, topology=STAR, faults=crash("p", 2, 3)
    )
    assert run.returned["s"] == [0, 1]


# Slow subscribers.


async def flood(node: Node) -> float:
    """A thousand messages of 1 kB, a hundred a second."""
    await asyncio.sleep(1)
    for i in range(300):
        await node.publish("news", {"i": i}, [bytes(1_000)])
        await asyncio.sleep(0.01)
    return node.now


async def hear_slowly(node: Node) -> list[int]:
    node.subscribe("news")
    heard = []
    while True:
        try:
            heard.append((await node.receive(timeout=5)).header["i"])
        except TimeoutError:
            return heard
        await asyncio.sleep(0.1)


def test_a_subscriber_that_does_not_keep_up_loses_and_nobody_else_does():
    seen: list[str] = []
    programs = {"p": flood, "s": hear_slowly, "t": hear_fast}
    run = broker.run(programs, topology=SMALL, tap=lambda *frame: seen.append(frame[1]))
    assert seen == [entry.destination for entry in run.ledger]
    assert run.returned["p"] == pytest.approx(4, abs=1e-6)
    assert run.returned["t"] == list(range(300))
    slow = run.returned["s"]
    assert slow == sorted(slow)
    assert 30 <= len(slow) < 100
    fates = run.ledger.fates()
    assert fates == {"delivered": 300 + len(slow), "subscriber too slow": 300 - len(slow)}
    lost = [entry for entry in run.ledger if entry.fate != "delivered"]
    assert {(entry.destination, entry.source, entry.wire_bytes) for entry in lost} == {
        ("s", "p", 0)
    }
    # The first ones come as they are: what fits into his buffer, and what he reads meanwhile.
    together = next(i for i, (one, two) in enumerate(pairwise(slow)) if two > one + 1)
    assert together == 9


async def hear_fast(node: Node) -> list[int]:
    return await hear(node, until_s=30)


def test_who_has_caught_up_hears_everything_again():
    async def pause_once(node: Node) -> list[int]:
        node.subscribe("news")
        await asyncio.sleep(2)
        heard = []
        while True:
            try:
                heard.append((await node.receive(timeout=5)).header["i"])
            except TimeoutError:
                return heard

    run = broker.run({"p": flood, "s": pause_once}, topology=SMALL)
    heard = run.returned["s"]
    assert heard[:5] == list(range(5))
    assert heard[-150:] == list(range(150, 300))
    assert len(heard) < 300


def test_topics_are_purposes_in_the_ledger():
    async def tell(node: Node) -> None:
        await asyncio.sleep(1)
        for topic, size in (("news", 100), ("sports", 1_000)):
            await node.publish(topic, {}, [bytes(size)])
        await node.send("s", {}, purpose="letters")

    async def listen(node: Node) -> None:
        node.subscribe("news")
        node.subscribe("sports")
        for _ in range(3):
            await node.receive()

    run = broker.run({"p": tell, "s": listen}, topology=STAR)
    totals = run.ledger.bytes_by_purpose()
    assert list(totals) == ["letters", "news", "sports"]
    assert totals["sports"] - totals["news"] == 902  # the topic's name is on the wire, too


@pytest.mark.parametrize("dies", ["p", "s"])
def test_what_was_under_way_when_one_of_both_died_takes_no_room_later(dies):
    async def tell(node: Node) -> None:
        for _ in range(2 - node.incarnation):
            for i in range(20):
                await node.publish("news", {"i": i}, [bytes(1_000)])
            await asyncio.sleep(4)

    async def never_read(node: Node) -> None:
        node.subscribe("news")
        await asyncio.sleep(20)

    run = broker.run(
        {"p": tell, "s": never_read, "t": never_read}, topology=SMALL, faults=crash(dies, 1, 2)
    )
    later = [entry.fate for entry in run.ledger if entry.destination == "s" and entry.sent_ns]
    assert sorted(set(later)) == ["delivered", "subscriber too slow"]
