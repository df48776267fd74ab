"""A trunk that several clients share on a host: each step is the mean of all their gradients.

Each client has a session of its own. All begin a round from the same adapter, and no session takes
a step before every sharer's gradients of it are there; then each takes the same one. So they are
one trunk in fact, whatever the order in which requests come, and what a step comes to is a function
of the round's beginning, of the clients' text and of the seed.

The mean gradients of the round are on the host's disk before anybody takes the step. So a client
that crashed, and a host that did, repeat the round's steps without the others, and come to where
they were.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgpack

from atlas.aggregation import average
from atlas.models import AdapterState
from atlas.models.tensors import pack, unpack
from atlas.roles.patience import keep
from broker import Node

MEAN_FLOPS = 2.0
"""Operations of a mean per number and client."""


class Trunk:
    """The steps of one round of one span, for those who share it.

    Args:
        name: of its file.
        sharers: in the order in which sums are taken.
    """

    def __init__(self, node: Node, name: str, round_: int, sharers: Sequence[str]) -> None:
        self._node = node
        self._name = name
        self.round = round_
        self._sharers = sharers
        self._given: dict[int, dict[str, AdapterState]] = {}
        self._means: dict[int, AdapterState] = {}
        self._came = asyncio.Event()
        self._read = False

    async def step(self, number: int, client: str, gradients: AdapterState) -> AdapterState:
        """The gradients that everybody takes step `number` with, once all have given theirs."""
        await self._read_back()
        if number not in self._means:
            given = self._given.setdefault(number, {})
            given[client] = dict(gradients)
            if len(given) == len(self._sharers):
                await self._close(number, [given[name] for name in self._sharers])
        while number not in self._means:
            await self._came.wait()
        return self._means[number]

    async def _close(self, number: int, given: Sequence[AdapterState]) -> None:
        size = sum(held.numel() for held in given[0].values())
        mean = await self._node.compute(
            lambda: average(given, [1.0] * len(given)), flops=MEAN_FLOPS * size * len(given)
        )
        means = self._means | {number: mean}
        kept = {step: _plain(state) for step, state in means.items()}
        await keep(self._node, self._name, msgpack.packb({"round": self.round, "means": kept}))
        self._means = means
        self._given.pop(number, None)
        self._came.set()
        self._came = asyncio.Event()

    async def _read_back(self) -> None:
        """What an earlier life had written."""
        if self._read or self._name not in self._node.disk:
            self._read = True
            return
        kept = msgpack.unpackb(await self._node.disk.read(self._name), strict_map_key=False)
        if not self._read and kept["round"] == self.round:
            self._means = {
                step: _read(*state) for step, state in kept["means"].items()
            } | self._means
        self._read = True


def _plain(state: AdapterState) -> list[Any]:
    manifest, buffers = pack(state)
    return [manifest, [bytes(buffer) for buffer in buffers]]


def _read(manifest: list[dict[str, Any]], buffers: Sequence[bytes]) -> AdapterState:
    return {name: tensor.clone() for name, tensor in unpack(manifest, buffers).items()}
