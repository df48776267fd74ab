"""Small networks, faults and programs that the tests of this room are about.

The programs stand in a module of their own so that worker processes can import them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, settings

import broker
from broker import Node, watchdog
from broker.network import HEADER_BYTES, SEGMENT_BYTES, wire_bytes
from faults import Event
from faults.event import Amount, Change, Kind
from topologies import Device, Link, Topology
from topologies import Node as Place

SECOND = 1_000_000_000
GRANT = 1_000_000

# Hypothesis on a machine that others use too: the same examples each time, however long they take.
STEADY = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def network(*pairs: str, bandwidth_bps: float = 8e6, delay_s: float = 0.01) -> Topology:
    """Links in both directions ("a-b"); every node computes 1 GFLOP/s and grants 1 MB."""
    device = Device(
        name="box", memory_bytes=2 * GRANT, grant_bytes=GRANT, flops=1e9, source="made up"
    )
    ends = [tuple(pair.split("-")) for pair in pairs]
    names = dict.fromkeys(name for pair in ends for name in pair)
    return Topology.of(
        "small",
        [Place(name=name, device=device) for name in names],
        [
            Link(source=source, target=target, bandwidth_bps=bandwidth_bps, delay_s=delay_s)
            for a, b in ends
            for source, target in ((a, b), (b, a))
        ],
    )


def directed(*links: Link) -> Topology:
    """A network of exactly these directed links, without devices."""
    names = dict.fromkeys(end for link in links for end in link.ends)
    return Topology.of("small", [Place(name=name) for name in names], links)


def size_for(on_the_wire: int) -> int:
    """The size of a message that takes so many bytes on the wire, headers counted."""
    segments = -(-on_the_wire // (SEGMENT_BYTES + HEADER_BYTES))
    size = on_the_wire - segments * HEADER_BYTES
    assert wire_bytes(size) == on_the_wire
    return size


def _span(until_s: float | None, begin: Event) -> list[Event]:
    events = [begin]
    if until_s is not None:
        ns = round(until_s * SECOND)
        end = Event(ns, begin.fault, "end", begin.kind, begin.nodes, begin.links, begin.groups)
        events.append(end)
    return events


def crash(
    node: str, at_s: float, until_s: float | None = None, fault: str = "crash"
) -> list[Event]:
    at = round(at_s * SECOND)
    return _span(until_s, Event(at, fault, "begin", "crash", nodes=(node,)))


def slow(node: str, times: float, at_s: float, until_s: float | None = None) -> list[Event]:
    at = round(at_s * SECOND)
    change = Change(compute=times)
    return _span(until_s, Event(at, "slow", "begin", "slow", (node,), change=change))


def degrade(
    source: str, target: str, bandwidth: float, at_s: float, until_s: float | None = None
) -> list[Event]:
    """`bandwidth` is what is left of it: 0.1 is a tenth."""
    at = round(at_s * SECOND)
    change = Change(bandwidth=Amount("relative", bandwidth))
    links = ((source, target), (target, source))
    event = Event(at, "degrade", "begin", "degrade", links=links, change=change)
    return _span(until_s, event)


def strike(
    kind: Kind, node: str, at_s: float, until_s: float | None = None, **change: Any
) -> list[Event]:
    """Any fault of one node; what it changes is a `Change`'s."""
    begin = Event(
        round(at_s * SECOND), f"{kind}-{node}-{at_s:g}", "begin", kind, (node,),
        change=Change(**change) if change else None,
    )  # fmt: skip
    return _span(until_s, begin)


def partition(
    here: Sequence[str], there: Sequence[str], at_s: float, until_s: float | None = None
) -> list[Event]:
    at = round(at_s * SECOND)
    groups = (tuple(here), tuple(there))
    nodes = (*here, *there)
    return _span(until_s, Event(at, "cut", "begin", "partition", nodes, groups=groups))


# A life with everything in it, on a network where every message meets others.

LIFE = network("a-hub", "b-hub", "c-hub", "s-hub", bandwidth_bps=4e5, delay_s=0.004)
LIFE_FAULTS = [
    *crash("b", 0.48, 1.0),
    *degrade("s", "hub", 0.5, 0.2, 2.0),
    *partition(["a"], ["s"], 0.7, 0.9),
    *slow("c", 3.0, 0.3, 1.5),
    Event(2_600_000_000, "chosen", "begin", "crash", selector="favorite of all"),
    Event(3_600_000_000, "chosen", "end", "crash", selector="favorite of all"),
]


async def serve(node: Node) -> None:
    async for message in node:
        done = await node.compute(lambda i=message.header["i"]: i * i, flops=2e6)
        await message.reply({"square": done}, message.payload, purpose="answers")


async def live(node: Node) -> list[object]:
    seen: list[object] = [node.incarnation]
    favorite = asyncio.create_task(name_a_favorite(node))
    for i in range(8):
        while True:
            try:
                payload = [bytes([i]) * (700 * (i + 1))]
                reply = await node.request("s", {"i": i}, payload, purpose="asks", timeout=0.6)
                break
            except TimeoutError:
                seen.append("timeout")
        seen.append((reply.header["square"], reply.arrived_at))
        await asyncio.gather(
            node.disk.write("step", bytes([i])), asyncio.sleep(node.random.random() / 20)
        )
        node.note("step", i=i)
    await favorite
    return [*seen, list(node.disk), await node.disk.read("step")]


async def name_a_favorite(node: Node) -> None:
    """All three contradict each other at one instant; the last in the order of the run counts."""
    await asyncio.sleep(2.5 - node.now)
    if node.name == "b":
        # The other process has long answered by then.
        await node.compute(lambda: time.sleep(0.2), flops=0)
    node.declare("favorite of all", ["s" if node.name == "c" else "a"])


def life(
    seed: int = 1, processes: int = 1
) -> tuple[broker.Run, list[tuple[float, str, str, object, int]]]:
    """One run of it, and what an observer saw."""
    notes: list[broker.Note] = []
    run = broker.run(
        {"a": live, "b": live, "c": live, "s": serve},
        topology=LIFE,
        faults=LIFE_FAULTS,
        seed=seed,
        processes=processes,
        background=["s"],
        observe=notes.append,
    )
    return run, [(n.time_s, n.node, n.event, n.fields, n.bytes_total) for n in notes]


# Programs that come to a bad end in a process of their own.


async def wait_for_ever(node: Node) -> None:
    await node.receive()


async def kill_own_process(_: Node) -> None:
    await asyncio.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)


async def exit_while_computing(node: Node) -> None:
    await node.compute(lambda: os._exit(7), flops=1e9)


async def say_which_process(node: Node) -> None:
    node.note("here", process=os.getpid())
    await asyncio.sleep(1)


async def look_for_ctrl_c(_: Node) -> bool:
    return signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def run_until_killed() -> None:
    """The body of a process that stops in the middle of a run, whose workers then wait for it."""

    def tell(note: broker.Note) -> None:
        print(note.fields["process"], flush=True)
        if note.node == "b":
            time.sleep(600)

    broker.run(
        dict.fromkeys("ab", say_which_process), topology=network("a-b"), processes=2, observe=tell
    )


async def fail_at_two(node: Node) -> None:
    await asyncio.sleep(2)
    raise ValueError(f"{node.name} has had enough")


async def return_a_lambda(node: Node) -> object:
    return lambda: node.name


async def stop_own_process(_: Node) -> None:
    await asyncio.sleep(1)
    os.kill(os.getpid(), signal.SIGSTOP)


async def hold_up_the_process(_: Node) -> None:
    """In a process whose watchdog has less patience than usual."""
    watchdog.PATIENCE_S, watchdog.DEADLINE_S = 0.2, 0.5
    await asyncio.sleep(1)
    while True:
        pass
