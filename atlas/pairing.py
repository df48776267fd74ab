"""Who hosts which layers for whom: a pure function of what the devices say of themselves.

A client keeps both ends of the model; the layers between are cut into spans, and each (client,
span) is a job that some host takes. A plan gives every job a host, ranked stand-ins out of the same
neighborhood, and ranked hosts of other neighborhoods to fall back to, the nearest neighborhood
first. No host is given more than its memory holds, and the slowest client's step is made as short
as a greedy start, and then moves and exchanges, can make it.

A host computes one thing at a time, so a job waits, at worst, for everything else on its host. The
time of a client's step is therefore estimated as

    own compute + Σ over its spans of (four crossings of the boundary + all compute on that host)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from topologies import InputError

ROUNDING_S = 1e-9


@dataclass(frozen=True)
class Capability:
    """What a device says of itself: memory it has left to host with, speed, and its way to the
    network.
    """

    name: str
    free_bytes: int
    flops: float
    uplink_bps: float
    downlink_bps: float
    delay_s: float


@dataclass(frozen=True)
class SpanCost:
    """What hosting layers `first` … `last - 1` costs: the base once a host, the rest for each
    client.
    """

    first: int
    last: int
    base_bytes: int
    session_bytes: int
    step_flops: float


@dataclass(frozen=True)
class StepCost:
    """What is the same for every client: its own part of a step, and a boundary tensor."""

    own_flops: float
    boundary_bytes: int
    spans: tuple[SpanCost, ...]


@dataclass(frozen=True)
class Chain:
    """One client's hosts. `stand_ins` and `fallbacks` are ranked, per span."""

    hosts: tuple[str, ...]
    stand_ins: tuple[tuple[str, ...], ...]
    fallbacks: tuple[tuple[str, ...], ...]


class PairingError(InputError):
    """The devices can't host the clients' layers; says for whom and what would help."""


Job = tuple[str, int]


@dataclass(frozen=True)
class Plan:
    """Who hosts what for whom. `cost` says into how many spans the layers are cut.

    `lent` are the hosts of each neighborhood, in the order of the neighborhoods.
    """

    cost: StepCost
    lent: tuple[tuple[str, ...], ...]
    chains: dict[str, Chain]


def plan(
    clients: Mapping[str, Capability],
    hosts: Sequence[Capability],
    neighborhoods: Sequence[Sequence[str]],
    similarity: Sequence[Sequence[float]],
    costs: Sequence[StepCost],
    spare: float,
) -> Plan:
    """Lends hosts to neighborhoods and pairs inside each.

    Args:
        clients: All clients by name; each may host for its neighbors.
        hosts: Devices without text.
        neighborhoods: Their clients.
        similarity: Between neighborhoods; clients fall back to the most similar first.
        costs: The ways to cut, the coarsest first. The first with which every neighborhood lives
            through the loss of its roomiest hosts is taken; else the first with which it lives.
        spare: The share of a neighborhood's hosts that may be lost.

    Raises PairingError, naming the client, when no way to cut fits the devices' memory.
    """
    refused: PairingError | None = None
    for margin in (spare, 0.0):
        for cost in costs:
            try:
                return _plan(clients, hosts, neighborhoods, similarity, cost, margin)
            except PairingError as error:
                refused = error
    assert refused is not None, "there is at least one way to cut"
    raise refused


def _plan(
    clients: Mapping[str, Capability],
    hosts: Sequence[Capability],
    neighborhoods: Sequence[Sequence[str]],
    similarity: Sequence[Sequence[float]],
    cost: StepCost,
    spare: float,
) -> Plan:
    lent = lend(hosts, clients, neighborhoods, cost)
    named = {host.name: host for host in hosts}
    pools = [
        [*(named[name] for name in names), *(clients[member] for member in members)]
        for names, members in zip(lent, neighborhoods, strict=True)
    ]
    chains: dict[str, Chain] = {}
    for index, members in enumerate(neighborhoods):
        own = [clients[member] for member in members]
        by_room = sorted(lent[index], key=lambda name: (-named[name].free_bytes, name))
        lost = set(by_room[: int(spare * len(by_room))])
        if lost:
            pair(own, [host for host in pools[index] if host.name not in lost], cost)
        others = [other for other in range(len(neighborhoods)) if other != index]
        others.sort(key=lambda other: (-similarity[index][other], other))
        elsewhere = [host for other in others for host in pools[other]]
        chains |= pair(own, pools[index], cost, elsewhere)
    return Plan(cost, lent, chains)


def lend(
    hosts: Sequence[Capability],
    clients: Mapping[str, Capability],
    neighborhoods: Sequence[Sequence[str]],
    cost: StepCost,
) -> tuple[tuple[str, ...], ...]:
    """Divides the hosts among the neighborhoods.

    They take turns: the one with the most jobs that nobody has room for yet comes first, and when
    all have room, the one with the most clients per host. Each takes the free host that shortens
    its clients' steps most.
    """
    free = {host.name: host for host in hosts}
    lent: list[list[str]] = [[] for _ in neighborhoods]
    homeless = [
        len(members) * len(cost.spans)
        - (sum(_room(clients[name], cost) for name in members) if len(members) > 1 else 0)
        for members in neighborhoods
    ]
    while free:
        turn = max(
            range(len(neighborhoods)),
            key=lambda n: (max(homeless[n], 0), len(neighborhoods[n]) / (len(lent[n]) + 1), -n),
        )
        members = [clients[name] for name in neighborhoods[turn]]

        def nearness(name: str, members: Sequence[Capability] = members) -> tuple[bool, float, str]:
            seconds = sum(_alone_s(member, free[name], cost) for member in members)
            return not _room(free[name], cost), seconds, name

        best = min(free, key=nearness)
        lent[turn].append(best)
        homeless[turn] -= _room(free[best], cost)
        del free[best]
    return tuple(tuple(names) for names in lent)


def _room(host: Capability, cost: StepCost) -> int:
    """How many jobs fit on a host when they are of different spans, as far as there are such."""
    jobs, used = 0, 0
    spans = sorted(cost.spans, key=lambda span: -span.base_bytes)
    session = max(span.session_bytes for span in spans)
    while True:
        used += session + (spans[jobs].base_bytes if jobs < len(spans) else 0)
        if used > host.free_bytes:
            return jobs
        jobs += 1


def pair(
    clients: Sequence[Capability],
    hosts: Sequence[Capability],
    cost: StepCost,
    elsewhere: Sequence[Capability] = (),
) -> dict[str, Chain]:
    """Chains for the clients of one neighborhood out of its hosts.

    Args:
        clients: The neighborhood's clients.
        hosts: Who may host for them; may contain the clients themselves.
        cost: What a step costs.
        elsewhere: Hosts of other neighborhoods in order of nearness, to fall back to.

    Raises PairingError when the hosts' memory does not hold all jobs.
    """
    jobs = _Jobs(clients, hosts, cost)
    jobs.start()
    jobs.improve()
    chains: dict[str, Chain] = {}
    for client in clients:
        stand_ins = tuple(
            jobs.ranked(client, span, [h for h in hosts if h.name != chosen])
            for span, chosen in enumerate(jobs.chain(client.name))
        )
        fallbacks = tuple(
            tuple(h.name for h in elsewhere if h.name != client.name and _fits(h, span))
            for span in cost.spans
        )
        chains[client.name] = Chain(jobs.chain(client.name), stand_ins, fallbacks)
    return chains


def _fits(host: Capability, span: SpanCost) -> bool:
    return span.base_bytes + span.session_bytes <= host.free_bytes


def _is_shorter(new: tuple[float, float], old: tuple[float, float]) -> bool:
    """By more than rounding: the slowest step, or else the sum of all."""
    if abs(new[0] - old[0]) > ROUNDING_S:
        return new[0] < old[0]
    return new[1] < old[1] - ROUNDING_S


def _crossings_s(client: Capability, host: Capability, boundary_bytes: int) -> float:
    """Activations there and back, then gradients there and back."""
    bits = boundary_bytes * 8
    there = bits / min(client.uplink_bps, host.downlink_bps)
    back = bits / min(host.uplink_bps, client.downlink_bps)
    return 2 * (there + back) + 4 * (client.delay_s + host.delay_s)


def _alone_s(client: Capability, host: Capability, cost: StepCost) -> float:
    flops = sum(span.step_flops for span in cost.spans) / len(cost.spans)
    return _crossings_s(client, host, cost.boundary_bytes) + flops / host.flops


class _Jobs:
    """Jobs on hosts, and what that costs."""

    def __init__(
        self, clients: Sequence[Capability], hosts: Sequence[Capability], cost: StepCost
    ) -> None:
        self._clients = {client.name: client for client in clients}
        self._hosts = {host.name: host for host in hosts}
        self._cost = cost
        self._host_of: dict[Job, str] = {}

    def chain(self, client: str) -> tuple[str, ...]:
        return tuple(self._host_of[client, span] for span in range(len(self._cost.spans)))

    def start(self) -> None:
        """Places all jobs: where each costs least, or, if that leaves one without room, packed."""
        try:
            self._place_fast()
        except PairingError:
            self._host_of.clear()
            self._place_packed()

    def _place_fast(self) -> None:
        """One by one, the slowest clients' first, each on the host where it costs least."""
        own_s = {
            client.name: self._cost.own_flops / client.flops + client.delay_s
            for client in self._clients.values()
        }
        for name in sorted(self._clients, key=lambda name: (-own_s[name], name)):
            for span in range(len(self._cost.spans)):
                job = (name, span)
                options = self._options(job)
                self._host_of[job] = min(options, key=lambda host: (self._after({job: host}), host))

    def _place_packed(self) -> None:
        """Span by span, where its frozen layers are already, else on the roomiest host."""
        for span in range(len(self._cost.spans)):
            for name in self._clients:
                job = (name, span)
                there = {host for (_, other), host in self._host_of.items() if other == span}

                def rank(host: str, there: set[str] = there) -> tuple[bool, int, str]:
                    return host not in there, self._needed(host) - self._room_of(host), host

                self._host_of[job] = min(self._options(job), key=rank)

    def _options(self, job: Job) -> list[str]:
        options = [host for host in self._hosts if self._holds({job: host})]
        if not options:
            raise self._infeasible(job)
        return options

    def improve(self) -> None:
        """Moves jobs, or lets two exchange hosts, while that shortens the slowest step, or all."""
        improved = True
        while improved:
            improved = False
            for job in list(self._host_of):
                improved = self._improve(job) or improved

    def _improve(self, job: Job) -> bool:
        """Makes the best move or exchange of this job, if one helps."""
        here = self._host_of[job]
        options: dict[tuple[str, Job | None], tuple[float, float]] = {}
        for host in self._hosts:
            if self._holds({job: host}):
                options[host, None] = self._after({job: host})
        for partner, there in self._host_of.items():
            exchange = {job: there, partner: here}
            if there != here and self._holds(exchange):
                options[there, partner] = self._after(exchange)
        host, other = min(options, key=lambda option: (options[option], option[0], str(option[1])))
        if not _is_shorter(options[host, other], options[here, None]):
            return False
        self._host_of[job] = host
        if other is not None:
            self._host_of[other] = here
        return True

    def ranked(self, client: Capability, span: int, hosts: Sequence[Capability]) -> tuple[str, ...]:
        """Hosts that could take the span over: those with room now first, then by time."""
        cost = self._cost.spans[span]
        able = [host for host in hosts if host.name != client.name and _fits(host, cost)]
        job = (client.name, span)
        loads = self._loads()

        def rank(host: Capability) -> tuple[bool, float, str]:
            seconds = _crossings_s(client, host, self._cost.boundary_bytes)
            seconds += (loads[host.name] + cost.step_flops) / host.flops
            return not self._holds({job: host.name}), seconds, host.name

        return tuple(host.name for host in sorted(able, key=rank))

    def _after(self, moves: Mapping[Job, str]) -> tuple[float, float]:
        """(slowest step, sum of steps) in seconds if these jobs lay on these hosts."""
        with self._moved(moves):
            loads = self._loads()
            times = [self._step_s(name, loads) for name in self._clients]
        return max(times), sum(times)

    def _holds(self, moves: Mapping[Job, str]) -> bool:
        """Whether nobody would host for itself, nor more than its memory holds."""
        with self._moved(moves):
            return all(
                host != name and self._needed(host) <= self._room_of(host)
                for (name, _), host in moves.items()
            )

    @contextmanager
    def _moved(self, moves: Mapping[Job, str]) -> Iterator[None]:
        before = self._host_of
        self._host_of = before | dict(moves)
        try:
            yield
        finally:
            self._host_of = before

    def _step_s(self, name: str, loads: Mapping[str, float]) -> float:
        client = self._clients[name]
        seconds = self._cost.own_flops / client.flops
        for span in range(len(self._cost.spans)):
            host = self._host_of.get((name, span))
            if host is not None:
                place = self._hosts[host]
                seconds += _crossings_s(client, place, self._cost.boundary_bytes)
                seconds += loads[host] / place.flops
        return seconds

    def _loads(self) -> dict[str, float]:
        """What each host computes for one step of all its clients, in operations."""
        loads = dict.fromkeys(self._hosts, 0.0)
        for (_, span), host in self._host_of.items():
            loads[host] += self._cost.spans[span].step_flops
        return loads

    def _room_of(self, host: str) -> int:
        return self._hosts[host].free_bytes

    def _needed(self, host: str) -> int:
        """Memory of the host's jobs."""
        jobs = [job for job, where in self._host_of.items() if where == host]
        spans = {span for _, span in jobs}
        return sum(self._cost.spans[span].base_bytes for span in spans) + sum(
            self._cost.spans[span].session_bytes for _, span in jobs
        )

    def _infeasible(self, job: Job) -> PairingError:
        span = self._cost.spans[job[1]]
        roomiest = max((host.free_bytes for host in self._hosts.values()), default=0)
        return PairingError(
            f"no host has room for layers {span.first}-{span.last - 1} of {job[0]}: they need "
            f"{span.base_bytes + span.session_bytes:,} bytes on one device, the roomiest of "
            f"{len(self._hosts)} grants {roomiest:,} and already hosts others",
            key="split.spans",
            remedy="Cut into more spans, grant more memory, or add hosts to the topology",
        )
