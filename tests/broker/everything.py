"""A world with everything in it, whose digest must not depend on anything but the seed.

Every kind of fault, every kind of delivery, every kind of chance, and programs that use all that a
node gives. `python -m tests.broker.everything 1:inproc:1 2:ipc:2` prints a digest for each way to
run it: processes, transport, workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import sys
import time
import uuid

import broker
from broker import DeviceMemoryError, Message, Node
from faults import Event, Scenario
from faults.event import Amount, Change, Kind
from tests.broker.worlds import SECOND, crash, partition, slow, strike
from topologies import Device, Link, Topology, Transport
from topologies import Node as Place

NAMES = ("a", "b", "c", "d", "s")
END_S = 3.0
_BOX = Device(name="box", memory_bytes=10**6, grant_bytes=10**6, flops=1e9, source="made up")


def topology() -> Topology:
    """A star whose every link has jitter, losses, duplicates and a small queue; two share air."""
    return Topology.of(
        "everything",
        [Place(name=name, device=_BOX) for name in (*NAMES, "hub")],
        [
            Link(
                source=source,
                target=target,
                bandwidth_bps=2e6,
                delay_s=0.004,
                jitter_s=0.001,
                jitter_shape="normal" if name == "a" else "uniform",
                loss=0.01,
                burst=2.0,
                duplicate=0.05,
                reorder=0.05 if name == "c" else 0.0,
                corrupt=0.01,
                queue_bytes=30_000,
                queue="codel" if name == "b" else "drop-tail",
                medium="air" if name in "cd" else "",
            )
            for name in NAMES
            for source, target in ((name, "hub"), ("hub", name))
        ],
        Transport(send_buffer_bytes=8_000),
    )


def troubles() -> list[Event]:
    """Churn of b, and one of everything else."""
    chance = random.Random(1)
    churn = [
        event
        for i in range(4)
        for event in crash(
            "b",
            i * 0.6 + chance.uniform(0.1, 0.2),
            i * 0.6 + chance.uniform(0.3, 0.5),
            fault=f"churn-{i}",
        )
    ]
    worse = Change(
        bandwidth=Amount("relative", 0.5), delay=Amount("plus", 0.02), loss=Amount("absolute", 0.1)
    )
    noisy = Change(rate_bps=1e6)
    links = (("a", "hub"), ("hub", "a"))
    return [
        *churn,
        *strike("stop", "c", 0.8, 1.1),
        *strike("pause", "d", 0.4, 0.7),
        *strike("skew", "a", 0.2, 1.6, offset_ns=-SECOND, drift=0.05),
        *strike("skew", "s", 0.6, drift=-0.01),
        *slow("s", 3.0, 0.9, 1.3),
        *partition(["a"], ["s", "d"], 1.2, 1.5),
        *_from_to(0.4, 1.6, "worse", "degrade", (), links, worse),
        *_from_to(0.3, 2.0, "noise", "traffic", ("a", "s"), (("s", "a"),), noisy),
        *strike("leave", "d", 0.9, 2.2),
        *strike("squeeze", "a", 0.3, 0.5, memory=Amount("absolute", 500)),
        *strike("full_disk", "c", 0.5, 0.7),
        *_from_to(1.6, 1.8, "cable", "cut", (), (("c", "hub"), ("hub", "c")), Change()),
        *_from_to(1.9, 2.3, "router", "nat", ("a",), (("a", "hub"),), Change()),
        Event(round(2.4 * SECOND), "chosen", "begin", "crash", selector="favorite of all"),
        Event(round(2.6 * SECOND), "chosen", "end", "crash", selector="favorite of all"),
    ]


def _from_to(
    at_s: float,
    until_s: float,
    fault: str,
    kind: Kind,
    nodes: tuple[str, ...],
    links: tuple[tuple[str, str], ...],
    change: Change,
) -> list[Event]:
    return [
        Event(round(at_s * SECOND), fault, "begin", kind, nodes, links, change=change),
        Event(round(until_s * SECOND), fault, "end", kind, nodes, links),
    ]


async def serve(node: Node) -> None:
    """Answers with what it has computed, and publishes how far it is."""
    node.subscribe("news")
    node.declare("favorite of all", ["d"])

    async def answer(message: Message) -> None:
        content = bytes(message.payload[0])
        done = await node.compute(lambda: hashlib.sha256(content).digest(), flops=1e7)
        await message.reply({"i": message.header["i"]}, [done], purpose="answers")

    async with asyncio.TaskGroup() as group:
        async for message in node:
            if message.topic:
                await node.publish("progress", {"of": message.source}, [bytes(1_500)])
            elif message.purpose == "asks":
                group.create_task(answer(message))


async def live(node: Node) -> list[object]:
    """One of four who ask, compute, publish, gossip, watch and save."""
    seen: list[object] = [node.incarnation, random.random(), str(uuid.uuid4()), time.time()]
    node.subscribe("progress")
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(task(node, seen))
                for task in (ask, gossip, listen, watch, flood)
            ]  # fmt: skip
            await asyncio.sleep(max(END_S - asyncio.get_running_loop().time(), 0.0))
            for task in tasks:
                task.cancel()
    finally:
        await node.publish("news", {"end of": node.name})
    return [*seen, node.link("s").loss, await node.disk.read("steps")]


async def ask(node: Node, seen: list[object]) -> None:
    for i in range(1_000):
        payload = [bytes([i % 256]) * random.randrange(100, 4_000)]
        with contextlib.suppress(TimeoutError):
            reply = await node.request("s", {"i": i}, payload, purpose="asks", timeout=0.8)
            seen.append((reply.header["i"], reply.arrived_at, reply.sent_at))
        with contextlib.suppress(DeviceMemoryError), node.reserve(1_000):
            await node.compute(lambda i=i: sum(range(i)), flops=node.random.randrange(10**7))
        try:
            await node.disk.write("steps", str(i).encode())
        except OSError as error:
            seen.append(error.errno)
        node.note("step", i=i, at=time.monotonic())
        await node.publish("news", {"i": i})


async def gossip(node: Node, _: list[object]) -> None:
    while True:
        for peer in node.peers():
            await node.send(peer, {"t": node.now}, [bytes(200)], purpose="gossip", datagram=True)
        await asyncio.sleep(0.1 + random.random() / 20)


async def listen(node: Node, seen: list[object]) -> None:
    async for message in node:
        seen.append((message.source, message.purpose, message.arrived_at))
        if message.purpose == "flood":
            await asyncio.sleep(0.04)


async def watch(node: Node, seen: list[object]) -> None:
    while True:
        seen.append([peer for peer in node.peers() if node.suspects(peer)])
        await asyncio.sleep(0.7)


async def flood(node: Node, _: list[object]) -> None:
    """More than the next one reads."""
    names = [name for name in NAMES if name != "s"]
    peer = names[(names.index(node.name) + 1) % len(names)]
    while True:
        await node.send(peer, {}, [bytes(1_500)], purpose="flood")
        await asyncio.sleep(0.01)


def everything(
    seed: int = 1,
    processes: int = 1,
    transport: str | None = None,
    workers: int | None = None,
    faults: Scenario | None = None,
) -> tuple[str, broker.Run]:
    """A digest of all that can be seen of one run of it, and the run."""
    notes: list[str] = []
    run = broker.run(
        {**dict.fromkeys(NAMES[:-1], live), "s": serve},
        topology=topology(),
        faults=troubles() if faults is None else faults,
        seed=seed,
        processes=processes,
        transport=transport,  # type: ignore[arg-type]
        workers=workers,
        background=["s"],
        limit_s=600,
        observe=lambda note: notes.append(repr(note)),
    )
    seen = repr((run.digest, run.returned, run.faults, run.virtual_seconds, notes))
    return hashlib.sha256(seen.encode()).hexdigest(), run


if __name__ == "__main__":
    for way in sys.argv[1:]:
        processes, transport, workers = way.split(":")
        print(everything(1, int(processes), transport, int(workers))[0], flush=True)
