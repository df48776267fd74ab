"""Programs that let nothing stop them are dead when they are dead.

They catch everything, send in every `finally`, start tasks and threads from the grave, and are
crashed a thousand times. Each message says in its header which incarnation sent it, and none is
sent outside that one's life.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import time
from collections.abc import AsyncIterator, Iterator

import pytest

import broker
from broker import Node, machine
from broker.wire import unpack
from faults import Event
from tests.broker.worlds import SECOND, crash, network, strike

STAR = network("a-hub", "b-hub", "c-hub", "d-hub", "e-hub", bandwidth_bps=1e9, delay_s=0.001)
LIVES = 200
PERIOD_S = 0.05
REST_S = 0.01


async def say(node: Node, what: str) -> None:
    await node.send("hub", {"incarnation": node.incarnation, "what": what})


class Lingering:
    """Speaks when it is collected, from wherever that happens."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def __del__(self) -> None:
        self.node.note("del")
        self.node.subscribe("graves")
        with contextlib.suppress(RuntimeError):
            loop = asyncio.get_running_loop()
            self.task = loop.create_task(say(self.node, "del"))


async def catch_everything(node: Node) -> None:
    while True:
        try:
            await say(node, "awake")
            await asyncio.sleep(0.015)
        except BaseException:
            with contextlib.suppress(BaseException):
                await say(node, "caught")
        finally:
            await say(node, "finally")


async def clean_up_for_ever(node: Node) -> None:
    lingering = Lingering(node)
    lingering.itself = lingering  # type: ignore[attr-defined]  # only the collector finds it
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(catch_everything(node))
            await asyncio.Event().wait()
    finally:
        for _ in range(3):
            try:
                await asyncio.gather(say(node, "cleaning"), asyncio.sleep(0))
            finally:
                await node.publish("graves", {"incarnation": node.incarnation, "what": "published"})


async def generate(node: Node) -> AsyncIterator[int]:
    try:
        for i in range(1_000):
            await asyncio.sleep(0.007)
            yield i
    finally:
        await say(node, "generator")


async def leave_generators(node: Node) -> None:
    while True:
        async for _ in generate(node):
            break
        generator = generate(node)
        await anext(generator)
        await say(node, "left one")


def send_from_a_plain_generator(node: Node) -> Iterator[None]:
    try:
        yield
    finally:
        node.note("plain generator")
        node.declare("host of a", [node.name])
        node.compute(lambda: None, flops=1)


async def use_threads(node: Node) -> None:
    kept = send_from_a_plain_generator(node)
    next(kept)
    while True:
        try:
            await asyncio.to_thread(int)
            await node.compute(int, flops=1e6)
            await asyncio.sleep(0.011)
        except BaseException:
            node.note("caught")
        finally:
            asyncio.get_running_loop().call_soon(node.note, "called back")
            asyncio.create_task(say(node, "thread"))  # noqa: RUF006


async def ask_around(node: Node) -> None:
    while True:
        node.suspects("hub")
        with contextlib.suppress(BaseException):
            async with asyncio.timeout(0.006):
                await node.disk.write("life", bytes([node.incarnation % 256]))
                await node.request("hub", {"incarnation": node.incarnation}, timeout=0.005)
        try:
            with contextlib.suppress(TimeoutError):
                await node.receive(timeout=0.005)
        finally:
            await asyncio.shield(asyncio.ensure_future(say(node, "shielded")))


PROGRAMS = {
    "a": catch_everything,
    "b": clean_up_for_ever,
    "c": leave_generators,
    "d": use_threads,
    "e": ask_around,
}


async def outlive(node: Node) -> None:
    async def hear() -> None:
        async for _ in node:
            pass

    hearing = asyncio.create_task(hear())
    for _ in range(5):
        await asyncio.sleep(LIVES * PERIOD_S / 5)
        gc.collect()
    hearing.cancel()


def churn() -> list[Event]:
    """A hundred and more lives for each, the nodes' deaths not all at once."""
    return [
        event
        for i in range(LIVES)
        for number, name in enumerate(PROGRAMS)
        for event in strike(
            "crash", name, i * PERIOD_S + 0.025 + number / 1_000, (i + 1) * PERIOD_S - REST_S
        )
    ]


def lives(faults: list[Event]) -> dict[tuple[str, int], tuple[int, int]]:
    """From when to when each incarnation of each node lives."""
    begins = dict.fromkeys(PROGRAMS, 0)
    counts = dict.fromkeys(PROGRAMS, 0)
    spans: dict[tuple[str, int], tuple[int, int]] = {}
    for event in sorted(faults, key=lambda event: event.at_ns):
        (name,) = event.nodes
        if event.phase == "begin":
            spans[name, counts[name]] = (begins[name], event.at_ns)
            counts[name] += 1
        else:
            begins[name] = event.at_ns
    return spans


def test_who_catches_everything_and_is_crashed_a_thousand_times_sends_nothing_after_death(
    monkeypatch,
):
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    faults = churn()
    spans = lives(faults)
    said: list[tuple[str, int, str, int]] = []
    noted: list[broker.Note] = []

    def hear(source: str, _: str, frame: broker.Frame) -> None:
        header = unpack(frame.body)
        if "incarnation" in header:
            what = header.get("what", "asked")
            said.append((source, header["incarnation"], what, frame.instant_ns))

    run = broker.run(
        {**PROGRAMS, "hub": outlive},
        topology=STAR,
        faults=faults,
        background=list(PROGRAMS),
        tap=hear,
        observe=lambda note: noted.append(note) if note.node else None,
    )
    assert len([event for event in run.faults if event.phase == "begin"]) == 1_000
    assert {(source, what) for source, _, what, _ in said} >= {
        ("a", "awake"), ("a", "finally"), ("b", "awake"), ("c", "left one"), ("c", "generator"),
        ("d", "thread"), ("e", "shielded"), ("e", "asked"),
    }  # fmt: skip
    for source, incarnation, what, at_ns in said:
        born_ns, died_ns = spans.get((source, incarnation), (0, 1 << 62))
        assert born_ns <= at_ns < died_ns, (source, incarnation, what)
    assert len({(source, incarnation) for source, incarnation, _, _ in said}) >= 1_000
    assert {what for _, _, what, _ in said}.isdisjoint({"caught", "cleaning", "published", "del"})
    assert {note.event for note in noted} <= {"called back"}
    gc.collect()
    assert unraisable == []


@pytest.mark.parametrize("spinner", ["sleep", "send", "compute", "thread", "disk", "room"])
def test_a_program_that_tries_again_for_ever_is_closed_all_the_same(spinner):
    """What a dead program awaits never comes, and does not raise either: else it would spin."""

    async def once(node: Node) -> None:
        if spinner == "sleep":
            await asyncio.sleep(1)
        elif spinner == "send":
            await node.send("b", {}, [bytes(9_000_000)])
        elif spinner == "compute":
            await node.compute(int, flops=1e9)
        elif spinner == "thread":
            await asyncio.to_thread(int)
            await asyncio.sleep(1)
        elif spinner == "disk":
            await node.disk.write("x", b"x")
        else:
            await node.request("b", {}, timeout=1)

    async def main(node: Node) -> None:
        while True:
            with contextlib.suppress(BaseException):
                await once(node)

    async def other(_: Node) -> float:
        await asyncio.sleep(5)
        return time.monotonic()

    pair = network("a-b")
    run = broker.run(
        {"a": main, "b": other}, topology=pair, faults=crash("a", 1, 3), background=["a"]
    )
    machine.dispose_of_remains()
    assert machine.remains == []
    assert run.returned["b"] == 5
    assert not [entry for entry in run.ledger if SECOND <= entry.sent_ns < 3 * SECOND]


def test_a_finally_of_the_dead_finds_no_real_world():
    found: list[str] = []

    async def main(_: Node) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            try:
                time.sleep(1_000)  # noqa: ASYNC251 - it must not
            except broker.RealWorldError as error:
                found.append(str(error))

    async def other(_: Node) -> None:
        await asyncio.sleep(5)

    broker.run(
        {"a": main, "b": other}, topology=network("a-b"), faults=crash("a", 1), background=["a"]
    )
    machine.dispose_of_remains()
    broker.run({"a": main, "b": other}, topology=network("a-b"), background=["a"])
    machine.dispose_of_remains()
    assert len(found) == 2
    assert "await asyncio.sleep" in found[0]
