"""A plan for all neighborhoods: hosts lent, clients paired, stand-ins and fallbacks ranked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from atlas.pairing import packing
from atlas.pairing.lending import lend
from atlas.pairing.objective import Arrangement, Problem
from atlas.pairing.rules import RULES, Rule
from atlas.pairing.types import Capability, Hosting, PairingError, Plan, StepCost, Ways

MOST_RANKED = 64
"""Stand-ins, and fallbacks, that a client is told for a span: a list, not a census."""
MOST_MENDED = 20
"""How often a shortage is looked for again after what was lacking is there."""


def plan(
    clients: Mapping[str, Capability],
    hosts: Sequence[Capability],
    neighborhoods: Sequence[Sequence[str]],
    similarity: Sequence[Sequence[float]],
    costs: Sequence[StepCost],
    spare: float,
    *,
    ways: Ways | None = None,
    rule: str = "semantic",
    seed: int = 0,
    remedies: bool = True,
) -> Plan:
    """Lends hosts to neighborhoods and pairs inside each; a rule that is blind pairs among all.

    Args:
        clients: All clients by name; each may host for its neighbors.
        hosts: Devices without text.
        neighborhoods: Their clients.
        similarity: Between neighborhoods; clients fall back to the most similar first.
        costs: The ways to cut, the coarsest first. The first with which every neighborhood lives
            through the loss of its roomiest hosts is taken; else the first with which it lives.
        spare: The share of a neighborhood's hosts that may be lost.
        ways: What is known of the routes between pairs.
        rule: One of `RULES`.
        seed: Of what is drawn; only the random rule draws.
        remedies: Whether a refusal says what would do, which can take long to work out.

    Raises PairingError, naming the client and what would do, when no way to cut fits the devices'
    memory.
    """
    asked = _Asked(clients, hosts, neighborhoods, similarity, ways or {}, RULES[rule], seed)
    refused: PairingError | None = None
    for margin in (spare, 0.0):
        for cost in costs:
            try:
                return asked.plan(cost, margin)
            except PairingError as error:
                refused = error
    assert refused is not None, "there is at least one way to cut"
    raise asked.remedied(refused, costs[-1]) if remedies else refused


def pair(
    clients: Sequence[Capability],
    hosts: Sequence[Capability],
    cost: StepCost,
    elsewhere: Sequence[Capability] = (),
    *,
    ways: Ways | None = None,
    rule: str = "semantic",
    seed: int = 0,
) -> dict[str, Hosting]:
    """Chains for the clients of one neighborhood out of its hosts.

    Args:
        clients: The neighborhood's clients.
        hosts: Who may host for them; may contain the clients themselves.
        cost: What a step costs.
        elsewhere: Hosts of other neighborhoods in order of nearness, to fall back to.
        ways, rule, seed: As `plan` has them.

    Raises PairingError when the hosts' memory does not hold all jobs.
    """
    try:
        placement = RULES[rule].place(Problem(clients, hosts, cost, ways), seed)
    except PairingError as error:
        raise error.told() from None
    return _chains(placement, elsewhere)


def unsplit(
    clients: Mapping[str, Capability], neighborhoods: Sequence[Sequence[str]], cost: StepCost
) -> Plan:
    """The plan where nothing is split: no client has a host, and the slowest computes longest."""
    slowest = max(cost.steps * cost.own_flops / client.flops for client in clients.values())
    chains = {name: Hosting((), (), ()) for name in clients}
    return Plan(cost, tuple(() for _ in neighborhoods), chains, slowest)


def _chains(placement: Arrangement, elsewhere: Sequence[Capability]) -> dict[str, Hosting]:
    problem = placement.problem
    return {
        client.name: Hosting(
            placement.names(index),
            tuple(_stand_ins(placement, index, span) for span in range(problem.shape[1])),
            tuple(
                tuple(
                    host.name
                    for host in elsewhere
                    if host.name != client.name
                    and span.base_bytes + span.session_bytes <= host.free_bytes
                )[:MOST_RANKED]
                for span in problem.cost.spans
            ),
        )
        for index, client in enumerate(problem.clients)
    }


def _stand_ins(placement: Arrangement, client: int, span: int) -> tuple[str, ...]:
    """Hosts that could take the span over: those with room now first, then by what the client's
    round would be.
    """
    problem = placement.problem
    times = problem.seconds(client, span)
    here = placement.host_of[client, span]
    longer = placement.alone[client] - times[here] + times
    load = (placement.busy + problem.demand[:, span]).max(axis=0)
    room = placement.fits(client, span)
    order = np.lexsort((times, np.maximum(longer, load), ~room))
    able = np.isfinite(times)
    able[here] = False
    return tuple(problem.hosts[host].name for host in order if able[host])[:MOST_RANKED]


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What a plan is asked for, but for the way to cut."""

    clients: Mapping[str, Capability]
    hosts: Sequence[Capability]
    neighborhoods: Sequence[Sequence[str]]
    similarity: Sequence[Sequence[float]]
    ways: Ways
    rule: Rule
    seed: int

    def plan(self, cost: StepCost, spare: float) -> Plan:
        return self._blind(cost, spare) if self.rule.is_blind else self._inside(cost, spare)

    def _blind(self, cost: StepCost, spare: float) -> Plan:
        """All clients among all hosts; lent to a neighborhood are those that serve it."""
        placement = self._placed(
            [*self.clients.values()], self.hosts, [*self.hosts, *self.clients.values()], cost, spare
        )
        chains = _chains(placement, ())
        names = {host.name for host in self.hosts}
        lent = tuple(
            tuple(
                dict.fromkeys(
                    host for member in members for host in chains[member].hosts if host in names
                )
            )
            for members in self.neighborhoods
        )
        return Plan(cost, lent, chains, placement.round_s)

    def _inside(self, cost: StepCost, spare: float) -> Plan:
        lent = lend(self.hosts, self.clients, self.neighborhoods, cost, self.ways)
        named = {host.name: host for host in self.hosts}
        own = [[self.clients[member] for member in members] for members in self.neighborhoods]
        pools = [
            [*(named[name] for name in names), *members]
            for names, members in zip(lent, own, strict=True)
        ]
        chains: dict[str, Hosting] = {}
        slowest = 0.0
        for index, members in enumerate(own):
            free = [named[name] for name in lent[index]]
            placement = self._placed(members, free, pools[index], cost, spare)
            others = [other for other in range(len(own)) if other != index]
            others.sort(key=lambda other: (-self.similarity[index][other], other))
            elsewhere = [host for other in others for host in pools[other]]
            chains |= _chains(placement, elsewhere)
            slowest = max(slowest, placement.round_s)
        return Plan(cost, lent, chains, slowest)

    def _placed(
        self,
        clients: Sequence[Capability],
        free: Sequence[Capability],
        pool: Sequence[Capability],
        cost: StepCost,
        spare: float,
    ) -> Arrangement:
        """The rule's placement in the pool; without the roomiest hosts memory must do, too."""
        by_room = sorted(range(len(free)), key=lambda index: (-free[index].free_bytes, index))
        lost = {free[index].name for index in by_room[: int(spare * len(by_room))]}
        if lost:
            left = Problem(clients, [host for host in pool if host.name not in lost], cost)
            if packing.numbers(left) is None:
                raise packing.infeasible(left)
        return self.rule.place(Problem(clients, pool, cost, self.ways), self.seed)

    def remedied(self, refused: PairingError, cost: StepCost) -> PairingError:
        """The error with remedies of which each was tried: with it there is a plan."""
        if refused.rule is not None:
            return refused
        return PairingError(
            refused.client,
            refused.span,
            refused.why,
            more_bytes=self._more_bytes(refused, cost),
            more_hosts=self._more_hosts(refused, cost),
        )

    def _more_bytes(self, refused: PairingError, cost: StepCost) -> dict[str, int]:
        """What grants have to grow by. More in one place may change who is lent what, so what is
        lacking then is added, until nothing is.
        """
        grown: dict[str, int] = {}
        lacking = refused.lacking()
        for _ in range(MOST_MENDED):
            for name, size in lacking.items():
                grown[name] = grown.get(name, 0) + size
            granted = dataclasses.replace(
                self,
                clients={name: _grown(one, grown) for name, one in self.clients.items()},
                hosts=[_grown(host, grown) for host in self.hosts],
            )
            try:
                granted.plan(cost, 0.0)
            except PairingError as error:
                lacking = error.lacking()
            else:
                return grown
        return {}

    def _more_hosts(self, refused: PairingError, cost: StepCost) -> tuple[int, int] | None:
        """How many hosts like the slowest there is, of so many bytes, would do."""
        assert refused.more_hosts is not None, "what is refused for memory says it"
        count, size = refused.more_hosts
        slowest = min((*self.hosts, *self.clients.values()), key=lambda host: host.flops)
        for more in range(max(count, 1), max(count, 1) + MOST_MENDED):
            added = [
                dataclasses.replace(slowest, name=f"{slowest.name}+{index}", free_bytes=size)
                for index in range(more)
            ]
            try:
                dataclasses.replace(self, hosts=[*self.hosts, *added]).plan(cost, 0.0)
            except PairingError:
                continue
            return more, size
        return None


def _grown(device: Capability, by: Mapping[str, int]) -> Capability:
    return dataclasses.replace(device, free_bytes=device.free_bytes + by.get(device.name, 0))
