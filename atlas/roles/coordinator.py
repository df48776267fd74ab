"""The coordinator: who is here, who is alike, who is paired with whom.

It never sees text, labels or activations.

It waits for the devices, gives every client a provisional chain that is blind to its task, clusters
the signatures, lends the hosts to the neighborhoods, pairs inside each, elects aggregators, and at
the end receives one adapter for each neighborhood.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from atlas import pairing
from atlas.models import ProtocolError
from atlas.pairing import Capability, Plan
from atlas.protocol import (
    PATIENCE_S,
    Accepted,
    Assignment,
    Chain,
    Done,
    Hello,
    Manifest,
    Result,
    Signature,
    UnansweredError,
    parse,
)
from atlas.roles.settings import RunSettings
from atlas.semantics import Neighborhoods, cluster, decode
from broker import Message, Node
from topologies import InputError

JOIN_S = 300.0
"""How long it waits for hosts; clients are waited for as long as there is patience."""
CLUSTERING_FLOPS = 1e7


@dataclass(frozen=True)
class NeighborhoodResult:
    """One neighborhood's members and adapter, as packed tensors."""

    name: str
    members: tuple[str, ...]
    manifest: Manifest
    tensors: tuple[bytes, ...]


@dataclass(frozen=True)
class Outcome:
    """What the coordinator returns."""

    neighborhoods: tuple[NeighborhoodResult, ...]
    silhouette: float | None
    p_value: float


async def coordinator(node: Node, settings: RunSettings) -> Outcome:
    """The coordinator's program."""
    torch.set_num_threads(1)
    desk = _Desk(node, settings)
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(desk.serve())
        outcome = await desk.run()
        serving.cancel()
    return outcome


class _Desk:
    def __init__(self, node: Node, settings: RunSettings) -> None:
        self._node = node
        self._settings = settings
        self._changed = asyncio.Event()
        self._hellos: dict[str, Hello] = {}
        self._halves: dict[str, np.ndarray] = {}
        self._results: dict[str, tuple[Manifest, tuple[bytes, ...]]] = {}
        self._done: set[str] = set()
        self._chains: dict[str, Chain] = {}
        self._assignments: dict[str, Assignment] = {}
        self._waiting: dict[tuple[str, str], Message] = {}

    # What devices ask.

    async def serve(self) -> None:
        """Answers devices, at once or when the answer is known."""
        async for message in self._node:
            try:
                await self._serve(message)
            except InputError as error:
                self._node.note("malformed", source=message.source, problem=str(error))
            self._changed.set()

    async def _serve(self, message: Message) -> None:
        name = message.source
        match parse(message):
            case Hello() as hello:
                self._hellos.setdefault(name, hello)
                if name in self._chains:
                    await message.reply(self._chains[name].header())
                elif hello.examples:
                    self._waiting[name, "hello"] = message
                else:
                    await message.reply(Accepted().header())
            case Signature() as signature:
                try:
                    halves = decode(b"".join(message.payload), signature.dimensions)
                except ValueError as error:
                    raise ProtocolError(f"the signature that {name} sent: {error}") from None
                self._halves.setdefault(name, halves)
                if name in self._assignments:
                    await message.reply(self._assignments[name].header())
                else:
                    self._waiting[name, "signature"] = message
            case Result() as result:
                tensors = tuple(bytes(part) for part in message.payload)
                self._results.setdefault(result.neighborhood, (result.manifest, tensors))
                await message.reply(Accepted().header())
            case Done():
                self._done.add(name)
                await message.reply(Accepted().header())
            case other:
                raise ProtocolError(f"{name} sent the coordinator a {other.kind!r}")

    # What the coordinator does.

    async def run(self) -> Outcome:
        """One life of a run, from the first hello to the last adapter."""
        settings = self._settings
        await self._until(settings.devices, self._hellos, JOIN_S, strict=False)
        await self._until(settings.clients, self._hellos, PATIENCE_S)
        self._check_memory()
        await self._pair_blindly()
        await self._until(settings.clients, self._halves, PATIENCE_S)
        found = await self._node.compute(
            lambda: cluster(
                {name: self._halves[name] for name in settings.clients}, seed=settings.seed
            ),
            flops=CLUSTERING_FLOPS,
        )
        await self._assign(found)
        names = [_name(index) for index in range(len(found.members))]
        await self._until(names, self._results, PATIENCE_S)
        await self._until(settings.clients, self._done, PATIENCE_S)
        self._node.note("finished", rounds=settings.training.rounds, steps=settings.training.steps)
        neighborhoods = tuple(
            NeighborhoodResult(name, members, *self._results[name])
            for name, members in zip(names, found.members, strict=True)
        )
        return Outcome(neighborhoods, found.silhouette, found.p_value)

    async def _until(
        self, names: Sequence[str], known: Container[str], seconds: float, *, strict: bool = True
    ) -> None:
        """Waits until all `names` are known; at the deadline, `strict` raises UnansweredError."""
        try:
            async with asyncio.timeout(seconds):
                while not all(name in known for name in names):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            if strict:
                missing = [name for name in names if name not in known]
                raise UnansweredError(
                    f"nothing came from {', '.join(missing)} in {seconds:,.0f} s"
                ) from None

    def _check_memory(self) -> None:
        """The premise of a split run: no device could hold a whole step."""
        for name, hello in self._hellos.items():
            if hello.grant_bytes >= hello.whole_step_bytes:
                raise InputError(
                    f"{name} grants {hello.grant_bytes:,} bytes, and a whole training step takes "
                    f"{hello.whole_step_bytes:,}: it has no need of a split",
                    key="topology",
                    remedy="Grant less, take a larger model, or train it whole",
                )
            if hello.examples and hello.free_bytes < 0:
                raise InputError(
                    f"{name} grants {hello.grant_bytes:,} bytes, and its own part of a step takes "
                    f"{hello.ends_bytes:,}",
                    key="split.client_layers",
                    remedy="Keep fewer layers at the client, or grant more memory",
                )

    async def _pair_blindly(self) -> None:
        """Provisional chains: by memory and speed alone, as if all were one neighborhood."""
        plan = self._plan([self._settings.clients], [[1.0]])
        for name, chain in plan.chains.items():
            self._chains[name] = _as_message(chain, plan)
            waiting = self._waiting.pop((name, "hello"), None)
            if waiting is not None:
                await waiting.reply(self._chains[name].header())

    def _plan(
        self, neighborhoods: Sequence[Sequence[str]], similarity: Sequence[Sequence[float]]
    ) -> Plan:
        settings = self._settings
        clients = {name: self._capability(name) for name in settings.clients}
        hosts = [self._capability(name) for name in self._hellos if name not in clients]
        return pairing.plan(
            clients,
            hosts,
            neighborhoods,
            similarity,
            settings.step_costs(),
            settings.split.spare,
            rule=settings.split.pairing,
            seed=settings.seed,
        )

    async def _assign(self, found: Neighborhoods) -> None:
        """Neighborhoods, hosts lent to them, chains inside them, an aggregator for each."""
        names = [_name(index) for index in range(len(found.members))]
        self._node.note(
            "neighborhoods",
            members=dict(zip(names, map(list, found.members), strict=True)),
            silhouette=found.silhouette,
            p_value=found.p_value,
        )
        similarity = _between_groups(found, self._settings.clients)
        plan = self._plan(found.members, similarity)
        aggregators = {
            name: self._elect(members) for name, members in zip(names, found.members, strict=True)
        }
        self._node.declare("the elected aggregator", [aggregators[names[0]]])
        self._node.declare("the elected aggregators", list(aggregators.values()))
        for name, members, lent in zip(names, found.members, plan.lent, strict=True):
            self._node.declare(f"hosts of {name}", lent)
            self._node.declare(f"the elected aggregator of {name}", [aggregators[name]])
            for member in members:
                self._node.declare(f"the elected aggregator of {member}", [aggregators[name]])
                self._node.declare(f"hosts of the neighborhood of {member}", lent)
                chain = _as_message(plan.chains[member], plan)
                self._note_pairing(member, name, chain)
                self._assignments[member] = Assignment(
                    neighborhood=name,
                    members=list(members),
                    weights=[self._hellos[other].examples for other in members],
                    aggregators=aggregators,
                    similarity=similarity,
                    chain=chain,
                )
                waiting = self._waiting.pop((member, "signature"), None)
                if waiting is not None:
                    await waiting.reply(self._assignments[member].header())

    def _note_pairing(self, client: str, neighborhood: str, chain: Chain) -> None:
        self._node.note(
            "paired",
            client=client,
            neighborhood=neighborhood,
            chain=[
                {"first": first, "last": last, "host": host}
                for (first, last), host in zip(chain.spans, chain.hosts, strict=True)
            ],
            stand_ins=chain.stand_ins,
            codec=self._settings.codec(client),
        )

    def _capability(self, name: str) -> Capability:
        hello = self._hellos[name]
        return Capability(
            name,
            hello.free_bytes,
            hello.flops,
            hello.uplink_bps,
            hello.downlink_bps,
            hello.delay_s,
        )

    def _elect(self, members: Sequence[str]) -> str:
        """The member whose way to the network carries most."""
        return min(members, key=lambda name: (-self._hellos[name].uplink_bps, name))


def _as_message(chain: pairing.Chain, plan: Plan) -> Chain:
    return Chain(
        spans=[(span.first, span.last) for span in plan.cost.spans],
        hosts=list(chain.hosts),
        stand_ins=[list(hosts) for hosts in chain.stand_ins],
        fallbacks=[list(hosts) for hosts in chain.fallbacks],
    )


def _name(index: int) -> str:
    return f"neighborhood-{index}"


def _between_groups(found: Neighborhoods, clients: Sequence[str]) -> list[list[float]]:
    """Mean similarity of the members of each two neighborhoods."""
    position = {name: index for index, name in enumerate(clients)}
    groups = [[position[name] for name in members] for members in found.members]
    return [
        [float(found.similarity[np.ix_(here, there)].mean()) for there in groups] for here in groups
    ]
