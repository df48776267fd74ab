"""Who gets how much: flows that meet on links, and what else stands in the queues there.

Nothing is solved at a join or a leave: what it touches is remembered, and all of one instant is
solved together before time moves on or somebody asks (`solve`). Only what hangs together with it is
looked at, and only flows whose speed is another now are planned again. Where one link binds all of
them the shares follow from their weights at once; else `max_min` finds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from broker.network import laws
from broker.network.agenda import Agenda
from broker.network.flow import Flow
from broker.network.paths import Path, Resource
from broker.network.sender import Stream
from broker.network.sharing import Demand, max_min
from topologies import Transport


class Shares:
    """The sharing of all resources among the flows that use them.

    `dirty` says that something was touched, at `dirty_ns`, and is not solved yet.
    """

    __slots__ = ("_agenda", "_changed", "_law", "_segment", "_touched", "dirty", "dirty_ns")

    def __init__(self, agenda: Agenda, transport: Transport) -> None:
        self._agenda = agenda
        self._law = transport.congestion
        self._segment = transport.segment_bytes + transport.header_bytes
        self._changed: dict[int, Stream] = {}
        self._touched: dict[Resource, None] = {}
        self.dirty = False
        self.dirty_ns = 0

    def touch(
        self, now_ns: int, resources: Iterable[Resource], changed: Iterable[Stream] = ()
    ) -> None:
        """Something else uses these resources now; `changed` are to be planned in any case."""
        for resource in resources:
            self._touched[resource] = None
        self.dirty, self.dirty_ns = True, now_ns
        for stream in changed:
            self._changed[stream.index] = stream

    def solve(self) -> None:
        """Shares anew what was touched."""
        now_ns, changed, wake = self.dirty_ns, self._changed, self._agenda.wake
        touched, self._touched, self._changed = self._touched, {}, {}
        self.dirty = False
        seen: dict[Resource, None] = {}
        for resource in touched:
            if resource in seen:
                continue
            flows = self._part((resource,), now_ns, seen)
            rates = self._rates(flows)
            shared = len(flows) > 1
            for flow, rate in zip(flows, rates, strict=True):
                speed = rate / 8e9
                if speed == flow.speed and shared == flow.shared:
                    continue
                flow.rebase(now_ns)
                flow.speed, flow.shared = speed, shared
                if isinstance(flow, Stream) and flow.index not in changed:
                    wake(flow, flow.aim())
        for stream in changed.values():
            wake(stream, stream.aim())

    def offer(self, path: Path, now_ns: int) -> float:
        """The rate that a new stream on this way would get."""
        probe = Flow(0)
        probe.path = path
        necks = [(flow, flow.neck) for flow in self._part(path.resources, now_ns, {})]
        rate = self._rates([*(flow for flow, _ in necks), probe])[-1]
        for flow, neck in necks:
            flow.neck = neck
        return rate

    def _part(
        self, resources: Sequence[Resource], now_ns: int, seen: dict[Resource, None]
    ) -> list[Flow]:
        """The flows that are sending in the part of the network that hangs together with these."""
        found: dict[int, Flow] = {}
        open_ = list(resources)
        seen.update(dict.fromkeys(open_))
        while open_:
            users = open_.pop().users
            for flow in list(users.values()):
                if flow.goal_ns <= now_ns:
                    del users[flow.index]
                elif flow.index not in found:
                    found[flow.index] = flow
                    for resource in flow.path.resources:
                        if resource not in seen:
                            seen[resource] = None
                            open_.append(resource)
        return [found[index] for index in sorted(found)]

    def _rates(self, flows: Sequence[Flow]) -> Sequence[float]:
        """What each gets, in bit/s; notes where each is bound."""
        if len(flows) <= 1:
            for flow in flows:
                flow.neck = min(flow.path.hops, key=_capacity)[0]
            return [min(flow.path.bandwidth_bps, flow.cap_bps) for flow in flows]
        weights = self._weights(flows)
        found = _one_neck(flows, weights)
        if found:
            return found
        rates = max_min(
            {
                i: Demand(flow.path.uses, weight, flow.cap_bps)
                for i, (flow, weight) in enumerate(zip(flows, weights, strict=True))
            },
            {resource: resource.capacity for flow in flows for resource in flow.path.resources},
        )
        load: dict[Resource, float] = {}
        for i, flow in enumerate(flows):
            for resource, per_bit in zip(flow.path.resources, flow.path.per_bit, strict=True):
                load[resource] = load.get(resource, 0.0) + rates[i] * per_bit
        for flow in flows:
            flow.neck = max(flow.path.resources, key=lambda r: load[r] / r.capacity)
        return [rates[i] for i in range(len(flows))]

    def _weights(self, flows: Sequence[Flow]) -> list[float]:
        """How flows count beside each other: the law's bias at the loss that they all see, and what
        bursts gain on flows whose pipes are full.
        """
        gains = [flow.gain for flow in flows]
        trips = [flow.path.rtt_ns + flow.path.standing_ns for flow in flows]
        if max(trips) <= min(trips) * 1.001:
            return gains
        mean_s = sum(trips) / len(trips) / 1e9
        share = min(flow.path.bandwidth_bps for flow in flows) / len(flows)
        window = max(share * mean_s / 8 / self._segment, 1.0)
        loss = laws.loss_at(self._law, window, mean_s)
        unit = laws.bias(self._law, loss, mean_s)
        return [
            gain * laws.bias(self._law, loss, trip / 1e9) / unit
            for gain, trip in zip(gains, trips, strict=True)
        ]

    # Queues.

    def standing_ns(self, resource: Resource, now_ns: int, but: Flow | None = None) -> int:
        """How long the queue is that streams which fill a resource leave standing there."""
        queued = most = 0.0
        for flow in resource.users.values():
            if flow is but or flow.neck is not resource or flow.goal_ns <= now_ns:
                continue
            if isinstance(flow, Stream) and flow.full:
                queued += flow.queued(now_ns) / flow.path.speed
                most = max(most, flow.path.standing_ns)
        return int(min(queued, most))

    def wait_ns(self, path: Path, now_ns: int, but: Flow | None = None) -> int:
        """What those queues are on a way together."""
        return sum(self.standing_ns(resource, now_ns, but) for resource in path.resources)

    def in_use(self, resource: Resource, now_ns: int) -> bool:
        """Whether a stream drains there as a fluid."""
        users = resource.users
        return len(users) > len(resource.background) and any(
            flow.goal_ns > now_ns
            for index, flow in users.items()
            if index not in resource.background
        )

    def share(self, resource: Resource, now_ns: int) -> float:
        """How much of a resource what is sending now uses."""
        load = sum(
            flow.speed * 8e9 * per_bit
            for flow in resource.users.values()
            if flow.goal_ns > now_ns
            for used, per_bit in zip(flow.path.resources, flow.path.per_bit, strict=True)
            if used is resource
        )
        return load / resource.capacity if resource.capacity else 0.0

    def push_back(self, resource: Resource, now_ns: int, by_ns: int) -> None:
        """Streams that fill a link lose the time that packets take of it."""
        if self.share(resource, now_ns) < 0.99:
            return
        users = [flow for flow in resource.users.values() if flow.goal_ns > now_ns]
        for flow in users:
            if isinstance(flow, Stream):
                flow.rebase(now_ns)
                flow.since_ns += by_ns
                self._agenda.wake(flow, flow.aim())

    def pass_by(self, resource: Resource, stream: Stream, now_ns: int, by_ns: int) -> int:
        """A train goes over a resource that flows may be using: how long it waits behind what they
        leave standing there.
        """
        users = resource.users
        for flow in list(users.values()):
            if flow is stream or flow.goal_ns <= now_ns:
                del users[flow.index]
        if not users:
            return 0
        if self.dirty:
            self.solve()
        wait_ns = self.standing_ns(resource, now_ns)
        self.push_back(resource, now_ns, by_ns)
        return wait_ns


def enlist(flow: Flow) -> None:
    """It sends over its way."""
    for resource in flow.path.resources:
        resource.users[flow.index] = flow


def unlist(flow: Flow) -> None:
    """It does not any more."""
    for resource in flow.path.resources:
        resource.users.pop(flow.index, None)


def _capacity(hop: tuple[Resource, float]) -> float:
    return -hop[1]


def _one_neck(flows: Sequence[Flow], weights: Sequence[float]) -> list[float]:
    """What each gets where all cross one link and nothing else binds any of them; else nothing."""
    count = len(flows)
    for neck in flows[0].path.resources:
        if len(neck.users) != count or any(flow.index not in neck.users for flow in flows):
            continue
        level = neck.capacity / sum(weights)
        rates = [level * weight for weight in weights]
        load: dict[Resource, float] = {}
        for flow, rate in zip(flows, rates, strict=True):
            path = flow.path
            if flow.cap_bps < rate or not path.plain:
                return []
            for resource in path.resources:
                load[resource] = load.get(resource, 0.0) + rate
        if all(used <= resource.capacity * _ROUNDING for resource, used in load.items()):
            for flow in flows:
                flow.neck = neck
            return rates
    return []


_ROUNDING = 1 + 1e-12
