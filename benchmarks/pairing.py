"""How good the pairing is, how quick, and how well it foretells the time of a round.

    python benchmarks/pairing.py            # measures, and writes results/pairing.json
    python benchmarks/pairing.py --table    # prints what was measured

Three things: the gap between the heuristic and the proven best (or the best that HiGHS found in its
limit of time) over random small problems; seconds and the gap to a lower bound for 10, 100 and
1,000 clients, on networks where ways decide and where loads decide, each rule beside ours; and
whole lives of the tiny model on slow devices, their measured steps against the predicted ones.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import scipy
import torch

from atlas import assets, config, experiment, foresight
from atlas.pairing import (
    RULES,
    Arrangement,
    Capability,
    PairingError,
    Problem,
    SpanCost,
    StepCost,
    exact,
    heuristic,
)
from broker import Note
from topologies import Topology

RESULTS = Path(__file__).with_name("results") / "pairing.json"
MIB = 2**20
SMALL = 36
LIMIT_S = 4.0
NEAR = 1e-6
SLOWER = (1, 100)
"""So many times slower than their profile are the devices of a life: from ways to loads."""
LOST = ("", "host-0 host-3 host-4 host-5 host-8 host-9 host-10 host-11")


class Nobody:
    """A view for nobody."""

    def say(self, text: str) -> None: ...
    def note(self, note: Note) -> None: ...
    def expect(self, **_: object) -> None: ...


def problem(
    seed: int, clients: int, hosts: int, spans: int, *, room: float = 1.5, loaded: bool = False
) -> Problem:
    """Devices as the catalog has them, with SmolLM2's layers (fp32, 8 x 64 tokens) to host.

    `room` is what hosts have of what is needed; `loaded` makes all clients quick and the hosts few,
    so that loads decide and not the slowest client.
    """
    draw = random.Random(seed)

    def device(name: str, free: float) -> Capability:
        uplink = 150e6 if loaded else draw.choice([10e6, 20e6, 80e6, 150e6])
        delay = 0.005 if loaded else draw.choice([0.002, 0.005, 0.01, 0.025])
        flops = draw.choice([12e9, 30e9, 71e9, 200e9]) * draw.uniform(0.7, 1.3)
        return Capability(name, int(free), flops, uplink, 2 * uplink, delay)

    base, session = 350 * MIB // spans, 560 * MIB // spans
    pieces = tuple(
        SpanCost(2 + s, 3 + s, base, session, 2.9e11 / spans, 9_000_000 // spans)
        for s in range(spans)
    )
    cost = StepCost(2e10, 1_180_000, pieces, steps=5)
    share = room * clients * (session + base / 2) * spans / hosts
    people = [device(f"c{n}", 0 if loaded else draw.uniform(0, 400) * MIB) for n in range(clients)]
    if loaded:
        people = [dataclasses.replace(one, flops=2e11) for one in people]
    others = [device(f"h{n}", share * draw.uniform(0.6, 1.6)) for n in range(hosts)]
    return Problem(people, [*others, *people], cost)


def gaps() -> dict[str, Any]:
    """The heuristic against the proven best, on random small problems."""
    found, seconds, heuristic_seconds, sizes = [], [], [], []
    infeasible = proven = 0
    for seed in range(SMALL):
        draw = random.Random(-seed - 1)
        size = draw.randint(2, 8), draw.randint(3, 10), draw.randint(1, 3)
        drawn = problem(seed, *size, loaded=bool(seed % 2))
        try:
            started = time.process_time()
            quick = heuristic.solve(drawn)
            heuristic_seconds.append(time.process_time() - started)
        except PairingError:
            infeasible += 1
            continue
        started = time.process_time()
        best = exact.solve(drawn, limit_s=LIMIT_S)
        seconds.append(time.process_time() - started)
        proven += best.is_proven
        sizes.append(size)
        found.append(quick.round_s / best.placement.round_s - 1)
    return {
        "instances": len(found),
        "infeasible": infeasible,
        "proven": proven,
        "limit_s": LIMIT_S,
        "clients_hosts_spans_from": [min(size[axis] for size in sizes) for axis in range(3)],
        "clients_hosts_spans_to": [max(size[axis] for size in sizes) for axis in range(3)],
        "gap_median": statistics.median(found),
        "gap_mean": statistics.mean(found),
        "gap_worst": max(found),
        "at_the_best": sum(gap <= NEAR for gap in found),
        "exact_seconds_median": statistics.median(seconds),
        "exact_seconds_worst": max(seconds),
        "heuristic_seconds_median": statistics.median(heuristic_seconds),
    }


def sizes() -> Iterator[dict[str, Any]]:
    """Seconds, and the gap to the lower bound; each rule's slowest round beside ours."""
    for clients in (10, 100, 1_000):
        for loaded in (False, True):
            hosts = clients if loaded else clients * 13 // 10
            drawn = problem(1, clients, hosts, 4, room=1.4 if loaded else 2.0, loaded=loaded)
            started = time.process_time()
            found = heuristic.solve(drawn)
            seconds = time.process_time() - started
            row = {
                "clients": clients,
                "hosts": hosts,
                "spans": 4,
                "decided_by": "loads" if loaded else "ways",
                "seconds": seconds,
                "round_s": found.round_s,
                "gap_to_bound": found.round_s / drawn.bound - 1,
            }
            if clients == 10:
                lower = exact.relaxed(drawn, found.round_s)
                row["gap_to_relaxation"] = found.round_s / lower - 1
            row["other_rules_round_s"] = {
                name: _round_s(drawn, name) for name in RULES if name != "semantic"
            }
            yield row


def _round_s(drawn: Problem, rule: str) -> float | str:
    try:
        return RULES[rule].place(drawn, 0).round_s
    except PairingError as error:
        return error.why


def lives() -> Iterator[dict[str, Any]]:
    """The slowest client's steps, predicted and measured. Text fills every batch to the brim."""
    assets.forbid_hub()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tasks = [_task(Path(folder), name, order) for name, order in _ORDERS.items()]
        settings = ["faults=none", "training.rounds=2", "training.steps=6", "training.tokens=48"]
        settings += ["examples_per_client=24", "held_out=8", "split.spare=0"]
        settings.append(f"tasks=[{', '.join(tasks)}]")
        prepared = experiment.prepare(config.load("tiny", settings), Nobody())
        for slower in SLOWER:
            for lost in LOST:
                yield _life(prepared, slower, tuple(lost.split()))


_ORDERS = {"copy": "abcd", "turn": "wxyz"}


def _task(folder: Path, name: str, order: str) -> str:
    for part, first, rows in (("train", 0, 200), ("held", 1_000, 40)):
        lines = [
            json.dumps(
                {
                    "prompt": f"{name} the number {first + n:06d} in the order of {order}: ",
                    "answer": order[n % 4],
                }
            )
            for n in range(rows)
        ]
        (folder / f"{name}-{part}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    train, held = folder / f"{name}-train.jsonl", folder / f"{name}-held.jsonl"
    return f"{{name: {name}, train: {train}, held_out: {held}}}"


def _life(prepared: experiment.Prepared, slower: int, lost: tuple[str, ...]) -> dict[str, Any]:
    old = prepared.topology
    nodes = []
    for node in old.nodes.values():
        if node.name in lost:
            continue
        device = node.device
        if device is not None and node.role != "coordinator":
            device = device.model_copy(update={"flops": device.flops / slower})
        nodes.append(node.model_copy(update={"device": device}))
    links = [link for link in old.links.values() if not {link.source, link.target} & set(lost)]
    topology = Topology.of(old.name, nodes, links)
    devices = tuple(name for name in prepared.settings.devices if name not in lost)
    settings = dataclasses.replace(prepared.settings, devices=devices)
    notes: list[Note] = []
    experiment.train(
        dataclasses.replace(prepared, topology=topology, settings=settings), observe=notes.append
    )
    chains = {note.fields["client"]: note.fields for note in notes if note.event == "paired"}
    spans = len(next(iter(chains.values()))["chain"])
    measured = {
        client: [
            sum(
                note.fields["seconds"]
                for note in notes
                if note.event == "step"
                and note.fields["client"] == client
                and note.fields["round"] == number
            )
            for number in (0, 1)
        ]
        for client in chains
    }
    ways = foresight.routes(topology, settings)
    caps = {n: foresight.capability(n, settings, topology, prepared.data, ways) for n in devices}
    row: dict[str, Any] = {
        "slower": slower,
        "clients": len(chains),
        "hosts": len(devices) - len(chains),
        "spans": spans,
        "measured_s": [max(times[number] for times in measured.values()) for number in (0, 1)],
    }
    for name, known in (("by_ways", ways), ("by_hello", None)):
        # Steps alone, as they are measured: adapters and the aggregator's turn come between.
        cost = settings.step_cost(spans)
        pieces = tuple(dataclasses.replace(span, adapter_bytes=0) for span in cost.spans)
        cost = dataclasses.replace(cost, spans=pieces)
        clients = [caps[client] for client in settings.clients]
        drawn = Problem(clients, list(caps.values()), cost, known)
        placement = Arrangement(drawn)
        place = {one.name: index for index, one in enumerate(drawn.hosts)}
        for index, client in enumerate(settings.clients):
            for span, part in enumerate(chains[client]["chain"]):
                placement.put(index, span, place[part["host"]])
        share = cost.steps / (cost.steps + 1)  # of the round trips, without the adapter's
        predicted = max(
            placement.round_of(index) - (1 - share) * _trips(drawn, placement, index)
            for index in range(len(clients))
        )
        row[f"predicted_s_{name}"] = predicted
        row[f"error_{name}"] = [predicted / one - 1 for one in row["measured_s"]]
    return row


def _trips(drawn: Problem, placement: Arrangement, client: int) -> float:
    """Seconds of round trips in this client's round."""
    return float(drawn.trips[client, placement.host_of[client]].sum())


def main() -> None:
    """Measures, or prints what was."""
    if "--table" not in sys.argv:
        result = {
            "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
            "scipy": scipy.__version__,
            "small": gaps(),
            "large": list(sizes()),
            "lives": list(lives()),
        }
        RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(RESULTS.read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
