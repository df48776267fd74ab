"""Small pairing problems, drawn from a seed."""

from __future__ import annotations

import random

import pytest

from atlas.pairing import Capability, Problem, SpanCost, StepCost

MIB = 2**20


def drawn(seed: int, *, clients: int = 4, hosts: int = 5, spans: int = 2) -> Problem:
    """Clients of which some have room, and hosts with room for what they need and some more."""
    numbers = random.Random(seed)

    def device(name: str, free: float) -> Capability:
        uplink = numbers.choice([1e7, 2e7, 8e7])
        flops = numbers.choice([1e9, 3e9, 7e9]) * numbers.uniform(0.8, 1.2)
        return Capability(name, int(free), flops, uplink, 2 * uplink, numbers.uniform(0, 0.02))

    base, session = 60 * MIB // spans, 40 * MIB // spans
    pieces = tuple(SpanCost(s, s + 1, base, session, 1e9 / spans, 10_000) for s in range(spans))
    cost = StepCost(1e8, 100_000, pieces, steps=3)
    people = [device(f"c{n}", numbers.uniform(0, 60) * MIB) for n in range(clients)]
    share = max(clients * 100 / hosts, 110) * MIB
    others = [device(f"h{n}", share * numbers.uniform(1.0, 1.6)) for n in range(hosts)]
    return Problem(people, [*others, *people], cost)


@pytest.fixture(scope="session")
def problems() -> list[Problem]:
    return [drawn(seed, clients=2 + seed % 3, spans=1 + seed % 2) for seed in range(8)]
