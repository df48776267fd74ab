"""A made-up but realistic run, as its notes: twelve clients, four tasks, each kind of fault."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest

TASKS = ("film sentiment", "maths word problems", "medical exam", "news topic")
ROUNDS, STEPS = 5, 4
SPANS = ((4, 16), (16, 28))


@dataclass(frozen=True)
class Said:
    """A note, with the attributes of the emulator's own."""

    time_s: float
    node: str
    event: str
    fields: Mapping[str, object] = field(default_factory=dict)
    bytes_total: int = 0


Say = Callable[..., Said]


@dataclass(frozen=True)
class Story:
    """A run: its notes, and what the experimenter knows beside them."""

    notes: tuple[Said, ...]
    truth: dict[str, str]
    steps_expected: int
    bytes: dict[str, int]


@pytest.fixture(scope="session")
def say() -> Say:
    """Makes a note: `say(2.0, "step", client="client-0", …)`."""

    def make(time_s: float, event: str, **fields: object) -> Said:
        return Said(time_s, "node-0", event, fields, round(time_s * 100))

    return make


@pytest.fixture(scope="session")
def story() -> Story:
    return tell_story()


def tell_story() -> Story:
    chance = random.Random(7)
    truth = {f"client-{index}": TASKS[index % 4] for index in range(12)}
    members = {
        f"neighborhood-{task}": [c for c, name in truth.items() if name == TASKS[task]]
        for task in range(4)
    }
    home = {client: name for name, clients in members.items() for client in clients}
    hosts = {
        name: [f"edge-{2 * index}", f"edge-{2 * index + 1}"] for index, name in enumerate(members)
    }
    notes = _arrivals(truth, chance)
    notes.append(
        Said(
            14.0,
            "coordinator",
            "neighborhoods",
            {"members": members, "silhouette": 0.62, "p_value": 0.001},
            18_400_000,
        )
    )
    for client in truth:
        chain = [
            {"first": first, "last": last, "host": host}
            for (first, last), host in zip(SPANS, hosts[home[client]], strict=True)
        ]
        stand_ins = [[hosts[home[client]][1]], [hosts[home[client]][0]]]
        fields = {"client": client, "neighborhood": home[client], "chain": chain}
        notes.append(
            Said(15.0, "coordinator", "paired", fields | {"stand_ins": stand_ins}, 18_500_000)
        )
    notes += _training(truth, home, chance)
    notes += _troubles()
    notes += _scores(chance)
    notes.append(Said(245.0, "coordinator", "finished", {"rounds": ROUNDS, "steps": 240}, 0))
    return Story(
        notes=_with_bytes(sorted(notes, key=lambda note: note.time_s)),
        truth=truth,
        steps_expected=len(truth) * ROUNDS * STEPS,
        bytes={
            "activations": 812_400_000,
            "gradients": 806_100_000,
            "adapters": 41_300_000,
            "signatures": 18_400_000,
            "control": 2_150_000,
        },
    )


def _arrivals(truth: Mapping[str, str], chance: random.Random) -> list[Said]:
    notes = []
    for index, client in enumerate(truth):
        fields = {"device": "raspberry-pi-5", "role": "client", "grant_bytes": 512 * 2**20}
        fields |= {"flops": 2.4e10, "examples": 150 + index}
        notes.append(Said(round(0.1 + chance.random(), 3), client, "registered", fields))
    for index in range(8):
        fields = {"device": "jetson-orin-nano", "role": "host", "grant_bytes": 512 * 2**20}
        fields |= {"flops": 1.1e11, "examples": 0}
        notes.append(Said(round(0.1 + chance.random(), 3), f"edge-{index}", "registered", fields))
    notes += [
        Said(round(4 + 9 * chance.random(), 3), client, "signature", {"bytes": 1024})
        for client in truth
    ]
    return notes


def _training(
    truth: Mapping[str, str], home: Mapping[str, str], chance: random.Random
) -> list[Said]:
    notes = []
    for index, client in enumerate(truth):
        start, pace = 16.0 + chance.random(), 9.4 + 0.25 * (index % 3)
        if home[client] == "neighborhood-1":
            pace += 0.8
        high, low = {0: (2.9, 0.7), 1: (1.9, 0.8), 2: (2.4, 1.0), 3: (3.3, 0.5)}[index % 4]
        for number in range(ROUNDS * STEPS):
            loss = low + (high - low) * 0.84**number + chance.gauss(0, 0.09)
            late = 10.0 if client == "client-5" and number >= STEPS else 0.0
            late += 8.0 if client in ("client-0", "client-4", "client-8") and number >= 6 else 0.0
            fields = {"client": client, "neighborhood": home[client], "tokens": 256}
            fields |= {"round": number // STEPS + 1, "step": number % STEPS}
            fields |= {"loss": round(loss, 4), "seconds": round(pace, 3)}
            notes.append(Said(round(start + pace * (number + 1) + late, 3), client, "step", fields))
            if client == "client-5" and number < STEPS:
                notes.append(Said(66.0 + 1.5 * number, client, "step", fields))
    for round_ in range(1, ROUNDS + 1):
        for index in range(4):
            name = f"neighborhood-{index}"
            clients = [client for client in truth if home[client] == name]
            fields = {"neighborhood": name, "round": round_, "aggregator": clients[0]}
            fields |= {"clients": clients, "mean_loss": round(2.0 * 0.7**round_, 3)}
            notes.append(Said(26.5 + 43 * round_, clients[0], "aggregated", fields))
    return notes


def _troubles() -> list[Said]:
    def fault(at: float, phase: str, name: str, nodes: list[str], text: str) -> Said:
        kind = text.split(maxsplit=1)[0]
        links = [["gateway-1", "edge-3"], ["edge-3", "gateway-1"]] if kind == "degrade" else []
        fields = {"kind": kind, "phase": phase, "fault": name, "nodes": nodes, "links": links}
        ending = "" if phase == "begin" else "end of "
        return Said(at, "", "fault", fields | {"text": ending + text})

    def repaired(at: float, client: str, span: int, lost: str, host: str, **more: object) -> Said:
        fields = {"client": client, "round": 2, "step": 2, "first": SPANS[span][0]}
        fields |= {"last": SPANS[span][1], "lost": lost, "host": host, "replayed": 2}
        return Said(at, client, "repaired", fields | {"fallback": False} | more)

    def suspected(at: float, client: str, host: str) -> Said:
        fields = {"client": client, "host": host, "deadline_s": 6.0, "waited_s": 6.0}
        return Said(at, client, "suspected", fields)

    def resumed(at: float, client: str, round_: int) -> Said:
        return Said(at, client, "resumed", {"client": client, "round": round_})

    notes = [
        fault(74.2, "begin", "1", ["edge-0"], "crash edge-0"),
        fault(95.0, "begin", "2", ["edge-2"], "slow edge-2: compute 4x"),
        fault(155.0, "end", "2", ["edge-2"], "slow edge-2"),
        fault(120.0, "begin", "3", [], "degrade gateway-1 - edge-3: bandwidth 10 %"),
        fault(180.0, "end", "3", [], "degrade gateway-1 - edge-3"),
        fault(150.3, "begin", "4", ["edge-6", "edge-7"], "crash edge-6, edge-7"),
        fault(205.3, "end", "4", ["edge-6", "edge-7"], "crash edge-6, edge-7"),
    ]
    for delay, client in ((0.0, "client-0"), (0.6, "client-4"), (1.1, "client-8")):
        notes.append(suspected(80.6 + delay, client, "edge-0"))
        notes.append(repaired(82.9 + delay, client, 0, "edge-0", "edge-1"))
    for delay, client in ((0.0, "client-3"), (0.4, "client-7"), (0.9, "client-11")):
        notes.append(suspected(156.8 + delay, client, "edge-6"))
        fields = {"client": client, "host": "edge-5", "reason": "its grant is full"}
        notes.append(Said(157.0 + delay, client, "refused", fields))
        last = {"fallback": True, "round": 4, "step": 1, "replayed": 1}
        notes.append(repaired(159.1 + delay, client, 0, "edge-6", "edge-4", **last))
        notes.append(repaired(159.9 + delay, client, 1, "edge-7", "edge-2", **last))
    notes += [
        fault(61.0, "begin", "5", ["client-5"], "crash client-5"),
        fault(64.0, "end", "5", ["client-5"], "crash client-5"),
        resumed(64.5, "client-5", 1),
    ]
    return notes


def _scores(chance: random.Random) -> list[Said]:
    notes = []
    for index, task in enumerate(TASKS):
        majority = (0.52, 0.06, 0.27, 0.25)[index]
        before = {"loss": 2.6 + 0.3 * index, "accuracy": majority + 0.04 * chance.random()}
        after = {"loss": round(0.7 + 0.1 * index, 1), "accuracy": majority + 0.18 + 0.1 * index}
        for phase, at, figures in (("before", 0.0, before), ("after", 244.0, after)):
            choice = {"choice_loss": 1.4 if phase == "before" else 0.9} if index != 1 else {}
            fields = {"task": task, "phase": phase, "majority": majority, "rows": 120}
            fields |= {"neighborhood": f"neighborhood-{index}"} if phase == "after" else {}
            fields |= {"choice_loss": None} | choice | figures
            notes.append(Said(at, "", "evaluated", fields))
    return notes


def _with_bytes(notes: list[Said]) -> tuple[Said, ...]:
    total, counted = 0, []
    for note in notes:
        total = max(total + (6_900_000 if note.event == "step" else 9_000), note.bytes_total)
        counted.append(Said(note.time_s, note.node, note.event, note.fields, total))
    return tuple(counted)
