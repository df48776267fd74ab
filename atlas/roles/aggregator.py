"""A device as aggregator of its neighborhood: elected, and replaceable by its own disk.

It waits for the adapters of all members, averages them by examples in the order of the members,
exchanges the means with the other neighborhoods' aggregators, and moves its own towards those that
are like it. What it has merged it writes to its disk before it tells anybody, so that a round is
never merged twice in two ways. Members ask until they are answered, and hand their adapter in again
when it was forgotten.
"""

from __future__ import annotations

import asyncio

import msgpack
import numpy as np

from atlas.aggregation import average, between
from atlas.models import AdapterState
from atlas.models.tensors import pack, unpack
from atlas.protocol import (
    ADAPTERS,
    Accepted,
    AggregatorRequest,
    AskMean,
    AskMerged,
    Assignment,
    Refused,
    Result,
    Tensors,
    Update,
    ask,
    parse,
)
from atlas.roles.patience import keep
from atlas.roles.settings import RunSettings
from broker import Message, Node

Outcome = tuple[AdapterState, AdapterState]


class Aggregator:
    """Aggregates for one neighborhood, if this node is elected to."""

    def __init__(self, node: Node, settings: RunSettings) -> None:
        self._node = node
        self._settings = settings
        self._assignment: Assignment | None = None
        self._updates: dict[int, dict[str, AdapterState]] = {}
        self._means: dict[int, AdapterState] = {}
        self._merged: dict[int, AdapterState] = {}
        self._waiting: dict[tuple[str, int], dict[str, Message]] = {}

    async def settle(self, assignment: Assignment) -> None:
        """This node's neighborhood is known; what an earlier life had merged is read back."""
        self._assignment = assignment
        for number in range(self._settings.training.rounds):
            if _file(number) in self._node.disk:
                kept = msgpack.unpackb(await self._node.disk.read(_file(number)))
                self._means[number] = _copy(kept["mean"])
                self._merged[number] = _copy(kept["merged"])
                await self._announce(number)

    async def serve(self, message: Message, request: AggregatorRequest) -> None:
        """Does what a member or another aggregator asks, at once or when it can."""
        match request:
            case Update():
                await self._update(message, request)
            case AskMean():
                await self._tell(message, "mean", request.round, self._means)
            case AskMerged():
                known = self._updates.get(request.round, {})
                if request.round not in self._merged and message.source not in known:
                    forgotten = Refused(reason="your adapter is not here", missing=True)
                    await message.reply(forgotten.header())
                else:
                    await self._tell(message, "merged", request.round, self._merged)

    async def _tell(
        self, message: Message, what: str, number: int, known: dict[int, AdapterState]
    ) -> None:
        """Answers now, or as soon as it is known."""
        if number in known:
            manifest, buffers = pack(known[number])
            await message.reply(Tensors(manifest=manifest).header(), buffers, purpose=ADAPTERS)
        else:
            self._waiting.setdefault((what, number), {})[message.source] = message

    async def _answer_waiting(self, what: str, number: int, known: dict[int, AdapterState]) -> None:
        """Answers each who waits, once: to its latest asking."""
        for message in self._waiting.pop((what, number), {}).values():
            await self._tell(message, what, number, known)

    async def _update(self, message: Message, request: Update) -> None:
        assignment, number = self._assignment, request.round
        if assignment is None or message.source not in assignment.members:
            reason = "not settled yet" if assignment is None else "not of this neighborhood"
            await message.reply(Refused(reason=reason).header())
            return
        updates = self._updates.setdefault(number, {})
        new = message.source not in updates and number not in self._merged
        if new:
            updates[message.source] = unpack(request.manifest, message.payload)
        await message.reply(Accepted().header())
        if new and len(updates) == len(assignment.members):
            await self._merge(number, assignment)

    async def _merge(self, number: int, assignment: Assignment) -> None:
        updates = self._updates[number]
        states = [updates[member] for member in assignment.members]
        size = sum(tensor.numel() for tensor in states[0].values())
        mean = await self._node.compute(
            lambda: average(states, [float(weight) for weight in assignment.weights]),
            flops=2.0 * size * len(states),
        )
        self._means[number] = mean
        await self._answer_waiting("mean", number, self._means)
        near = _near(assignment)
        means = {assignment.neighborhood: mean}
        async with asyncio.TaskGroup() as group:
            for neighborhood in near:
                if neighborhood != assignment.neighborhood:
                    group.create_task(self._fetch(number, neighborhood, means))
        ordered = {neighborhood: means[neighborhood] for neighborhood in near}
        positions = list(near.values())
        similarity = np.asarray(assignment.similarity, dtype=np.float64)
        similarity = similarity[np.ix_(positions, positions)]
        strength = self._settings.aggregation.between
        merged = await self._node.compute(
            lambda: between(ordered, similarity, strength)[assignment.neighborhood],
            flops=2.0 * size * len(ordered),
        )
        kept = {"mean": _plain(mean), "merged": _plain(merged)}
        await keep(self._node, _file(number), msgpack.packb(kept))
        self._merged[number] = merged
        del self._updates[number]
        self._node.note(
            "aggregated",
            neighborhood=assignment.neighborhood,
            round=number,
            aggregator=self._node.name,
            clients=list(assignment.members),
        )
        await self._announce(number)

    async def _fetch(self, number: int, neighborhood: str, means: dict[str, AdapterState]) -> None:
        assert self._assignment is not None
        aggregator = self._assignment.aggregators[neighborhood]
        reply = await ask(
            self._node,
            aggregator,
            AskMean(round=number),
            answer_bytes=self._settings.adapter_bytes,
        )
        body = parse(reply)
        assert isinstance(body, Tensors)
        means[neighborhood] = unpack(body.manifest, reply.payload)

    async def _announce(self, number: int) -> None:
        """A round is merged: whoever waits is told, and the coordinator after the last one."""
        await self._answer_waiting("mean", number, self._means)
        await self._answer_waiting("merged", number, self._merged)
        if number == self._settings.training.rounds - 1 and self._assignment is not None:
            manifest, buffers = pack(self._merged[number])
            result = Result(neighborhood=self._assignment.neighborhood, manifest=manifest)
            await ask(self._node, self._settings.coordinator, result, buffers, purpose=ADAPTERS)


def _near(assignment: Assignment) -> dict[str, int]:
    """The neighborhoods that matter to this one, itself among them, with their places in the
    matrix.
    """
    names = list(assignment.aggregators)
    own = names.index(assignment.neighborhood)
    return {
        name: place
        for place, name in enumerate(names)
        if place == own or assignment.similarity[own][place] > 0
    }


def _file(number: int) -> str:
    return f"merged-{number}"


def _plain(state: AdapterState) -> list[object]:
    manifest, buffers = pack(state)
    return [manifest, [bytes(buffer) for buffer in buffers]]


def _copy(plain: list[list[bytes]]) -> AdapterState:
    manifest, buffers = plain
    return {name: tensor.clone() for name, tensor in unpack(manifest, buffers).items()}
