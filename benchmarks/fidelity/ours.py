"""The emulator's own network, carrying the grid's transfers.

A topology that says the same as a cell, a send for each flow, and time moved on until all have
arrived. Each seed is a network of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise

from benchmarks.fidelity.grid import Cell
from benchmarks.fidelity.store import Store
from broker.network import Network
from faults import Conditions
from faults.event import Change, Event
from topologies import Link, Node, Topology, Transport

START_NS = 5_000_000_000
ACCESS_BPS = 1e12
PATIENCE_NS = 600_000_000_000
TARGET = "target"


def topology(cell: Cell) -> Topology:
    """The cell's route: sources at router 0, the hops, the target behind the last one. A single
    source is router 0 itself.
    """
    names = [f"router-{number}" for number in range(len(cell.hops))] + [TARGET]
    links = []
    for hop, (here, there) in zip(cell.hops, pairwise(names), strict=True):
        way = {"bandwidth_bps": hop.bandwidth_bps, "delay_s": hop.delay_s}
        queue = {"queue_bytes": hop.queue_bytes}
        links.append(Link(source=here, target=there, loss=hop.loss, **way, **queue))
        links.append(Link(source=there, target=here, **way, **queue))
    others = [*(sources(cell) if cell.flows > 1 else ()), *(["other"] if cell.cross_bps else ())]
    for name in others:
        for ends in ((name, names[0]), (names[0], name)):
            link = Link(source=ends[0], target=ends[1], bandwidth_bps=ACCESS_BPS, delay_s=0.0)
            links.append(link)
    nodes = [Node(name=name) for name in (*names, *others)]
    return Topology.of("fidelity", nodes, links, Transport(congestion=cell.law))


def sources(cell: Cell) -> list[str]:
    """Who sends: one node for each flow."""
    if cell.flows == 1:
        return ["router-0"]
    return [f"source-{number}" for number in range(cell.flows)]


def seconds(cell: Cell, seed: int) -> list[float]:
    """The completion time of each flow.

    Raises ``RuntimeError`` when one of them is lost, or does not arrive in ten minutes.
    """
    network = Network(topology(cell), seed)
    if cell.cross_bps:
        pair = ("other", TARGET)
        change = Change(rate_bps=cell.cross_bps)
        event = Event(0, "cross", "begin", "traffic", links=(pair,), change=change)
        network.apply(0, Conditions().begin(event))
    for number, source in enumerate(sources(cell)):
        network.send(START_NS, number, source, TARGET, cell.size_bytes)
    arrived: dict[int, float] = {}
    while len(arrived) < cell.flows:
        at_ns = network.next_ns()
        if at_ns is None or at_ns > START_NS + PATIENCE_NS:
            raise RuntimeError(f"{cell.name}: {len(arrived)} of {cell.flows} arrived")
        for fate in network.advance(at_ns):
            if fate.reason:
                raise RuntimeError(f"{cell.name}: {fate.reason}")
            arrived[fate.number] = (fate.at_ns - START_NS) / 1e9
    return [arrived[number] for number in range(cell.flows)]


def measure(cells: Sequence[Cell], seeds: int, store: Store, say: Callable[[str], None]) -> None:
    """Runs the cells and puts their figures into the store."""
    store.settings = {"transport": Transport().model_dump(), "network": "broker.network.Network"}
    began = time.perf_counter()
    for cell in cells:
        runs = [seconds(cell, seed) for seed in range(1, cell.seeds(seeds) + 1)]
        store.put(cell.name, runs, write=False)
    store.checks = {"wall_s": round(time.perf_counter() - began, 1)}
    store.write()
    say(f"ours: {len(cells)} cells in {store.checks['wall_s']} s")
