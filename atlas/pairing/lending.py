"""Hosts without text belong to no neighborhood until they are lent to one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from atlas.pairing.objective import Problem
from atlas.pairing.types import Capability, StepCost, Ways


def lend(
    hosts: Sequence[Capability],
    clients: Mapping[str, Capability],
    neighborhoods: Sequence[Sequence[str]],
    cost: StepCost,
    ways: Ways | None = None,
) -> tuple[tuple[str, ...], ...]:
    """Divides the hosts among the neighborhoods.

    They take turns: the one with the most jobs that nobody has room for yet comes first, and when
    all have room, the one with the most clients per host. Each takes the free host that shortens
    its clients' rounds most.
    """
    lent: list[list[str]] = [[] for _ in neighborhoods]
    if not hosts:
        return tuple(tuple(names) for names in lent)
    room = [room_of(host, cost) for host in hosts]
    homeless = [
        len(members) * len(cost.spans)
        - (sum(room_of(clients[name], cost) for name in members) if len(members) > 1 else 0)
        for members in neighborhoods
    ]
    seconds = [
        _seconds([clients[name] for name in members], hosts, cost, ways)
        for members in neighborhoods
    ]
    free = list(range(len(hosts)))
    while free:
        turn = max(
            range(len(neighborhoods)),
            key=lambda n: (max(homeless[n], 0), len(neighborhoods[n]) / (len(lent[n]) + 1), -n),
        )
        times = seconds[turn]
        best = min(free, key=lambda host: (not room[host], times[host]))
        lent[turn].append(hosts[best].name)
        homeless[turn] -= room[best]
        free.remove(best)
    return tuple(tuple(names) for names in lent)


def _seconds(
    members: Sequence[Capability],
    hosts: Sequence[Capability],
    cost: StepCost,
    ways: Ways | None,
) -> list[float]:
    """For each host what a round of all these clients would take there, one by one."""
    problem = Problem(members, hosts, cost, ways)
    problem.able[:] = True
    total = np.zeros(len(hosts))
    for client in range(len(members)):
        for span in range(len(cost.spans)):
            total += problem.seconds(client, span)
    return [float(value) for value in total]


def room_of(host: Capability, cost: StepCost) -> int:
    """How many jobs fit on a host when they are of different spans, as far as there are such."""
    jobs, used = 0, 0
    spans = sorted(cost.spans, key=lambda span: -span.base_bytes)
    session = max(span.session_bytes for span in spans)
    for span in spans:
        used += session + span.base_bytes
        if used > host.free_bytes:
            return jobs
        jobs += 1
    return jobs + (host.free_bytes - used) // max(session, 1)
