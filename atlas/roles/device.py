"""The programs of a run's nodes: that of the coordinator, and that of every other device.

A device is a host; a client where it has text; an aggregator where it is appointed; and where it is
a voter it takes part in electing the coordinator, and coordinates where it is elected. The node
that the topology calls coordinator is a voter, the first to be elected, and nothing else.

Only what it says in `Hello` is known of a device: memory, speed, its way to the network, how much
text. Never the text.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import torch

from atlas.models import ProtocolError
from atlas.protocol import (
    AggregatorRequest,
    AskOwn,
    AskThere,
    AskUpdate,
    CoordinatorRequest,
    ElectionMessage,
    Elsewhere,
    Hello,
    HostRequest,
    Lead,
    Orders,
    Refused,
    Text,
    parse,
)
from atlas.roles.aggregator import Aggregator
from atlas.roles.client import Client
from atlas.roles.coordinator import Desk, Outcome
from atlas.roles.council import Council
from atlas.roles.gathering import gather, have
from atlas.roles.host import Host
from atlas.roles.member import Member
from atlas.roles.patience import hold
from atlas.roles.settings import RunSettings
from atlas.tasks import ClientData
from broker import Message, Node
from topologies import InputError

Handler = Callable[[Message, Any], Awaitable[None]]


async def coordinator(node: Node, settings: RunSettings) -> Outcome:
    """The program of the node that coordinates at first. Returns when it has the last adapter."""
    torch.set_num_threads(1)
    member = Member(node, settings, functools.partial(_hello, node, settings, None))
    voter = _Voter(node, settings, member)
    outcome: Outcome | None = None
    try:
        async with asyncio.TaskGroup() as group:
            handlers = [*voter.handlers, *_member_handlers(member)]
            if settings.split.placement == "server":
                handlers.append((HostRequest, Host(node, settings).serve))
                group.create_task(_introduce(member))
            group.create_task(_serve(node, group, handlers))
            outcome = await voter.run(group)
            raise _OverError
    except* _OverError:
        pass
    assert outcome is not None, "only one who has an outcome ends"
    return outcome


async def device(node: Node, settings: RunSettings, data: ClientData | None) -> Outcome | None:
    """Serves until the run is over; a client trains meanwhile. Returns where it comes to coordinate
    and has the last adapter.
    """
    torch.set_num_threads(1)
    if data is not None and settings.split.placement == "gathered":
        data = await gather(node, settings, data)
    if data is not None and settings.whole and not _holds(node, settings, data):
        data = None
    member = Member(node, settings, functools.partial(_hello, node, settings, data))
    host = Host(node, settings)
    aggregator = Aggregator(node, settings, member)
    voter = _Voter(node, settings, member)
    handlers: list[tuple[Any, Handler]] = [
        (HostRequest, host.serve),
        (AggregatorRequest, aggregator.serve),
        *voter.handlers,
        *_member_handlers(member),
        (Text, have),
    ]
    outcome: Outcome | None = None
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_serve(node, group, handlers))
            if data is None:
                group.create_task(_introduce(member))
            else:
                group.create_task(_train(node, settings, data, member))
                group.create_task(aggregator.run())
            if node.name in settings.voters:
                outcome = await voter.run(group)
                raise _OverError
    except* _OverError:
        pass
    return outcome


class _OverError(Exception):
    """The run is over, and with it all that this device does."""


class _Voter:
    """This node's part in coordinating: as a voter, and as coordinator while it is elected."""

    def __init__(self, node: Node, settings: RunSettings, member: Member) -> None:
        self._node = node
        self._settings = settings
        self._member = member
        self._council = Council(node, settings, member)
        self._desk: Desk | None = None
        self._votes = node.name in settings.voters
        self.handlers: list[tuple[Any, Handler]] = [(CoordinatorRequest, self._serve)]
        if self._votes:
            self.handlers.append((ElectionMessage, self._hear))

    async def run(self, group: asyncio.TaskGroup) -> Outcome:
        """Votes, and coordinates whenever it is elected, until it has an outcome."""
        group.create_task(self._council.run())
        loop = asyncio.get_running_loop()
        while True:
            term = await self._council.until_it_leads()
            if term > 1:
                self._node.note("elected", coordinator=self._node.name, term=term)
            self._node.declare("the acting coordinator", [self._node.name])
            self._desk = Desk(self._node, self._settings, self._council, self._member)
            working = loop.create_task(self._desk.run())
            yielding = loop.create_task(self._council.until_it_yields(term))
            try:
                await asyncio.wait([working, yielding], return_when=asyncio.FIRST_COMPLETED)
                if working.done():
                    return working.result()
            finally:
                self._desk = None
                for task in (working, yielding):
                    task.cancel()
                await asyncio.gather(working, yielding, return_exceptions=True)

    async def _serve(self, message: Message, request: CoordinatorRequest) -> None:
        if self._desk is not None:
            await self._desk.serve(message, request)
        else:
            leader = self._member.leader
            other = None if leader == self._node.name else leader
            await message.reply(Elsewhere(leader=other, term=self._member.term).header())

    async def _hear(self, message: Message, letter: ElectionMessage) -> None:
        await self._council.hear(message.source, letter)


def _member_handlers(member: Member) -> list[tuple[Any, Handler]]:
    return [(AskThere | AskUpdate | AskOwn | Orders | Lead, member.serve)]


async def _serve(node: Node, group: asyncio.TaskGroup, handlers: list[tuple[Any, Handler]]) -> None:
    """Starts on each request as it comes; what can't be read, or is not for this device, is noted
    and refused.
    """
    async for message in node:
        try:
            body = parse(message)
        except InputError as error:
            node.note("malformed", source=message.source, problem=str(error))
            continue
        handler = next((each for kinds, each in handlers if isinstance(body, kinds)), None)
        group.create_task(_handle(node, message, body, handler))


async def _handle(node: Node, message: Message, body: Any, handler: Handler | None) -> None:
    """Nothing that others send ends a program."""
    problem = f"{body.kind!r} is not for {node.name}"
    try:
        if handler is not None:
            await handler(message, body)
            return
    except (InputError, ProtocolError) as error:
        problem = str(error)
    node.note("malformed", source=message.source, problem=problem)
    if message.asks:
        await message.reply(Refused(reason=problem).header())


async def _train(node: Node, settings: RunSettings, data: ClientData, member: Member) -> None:
    labels = settings.most_labels(data)
    with await hold(node, settings.ends_bytes(labels), "the client's own part"):
        client = Client(node, settings, data)
        await client.prepare()
        await client.run(member)


def _holds(node: Node, settings: RunSettings, data: ClientData) -> bool:
    """Whether this device can hold the whole model; a client that can't sits out."""
    needed, granted = settings.ends_bytes(settings.most_labels(data)), node.device.grant_bytes
    if needed > granted:
        node.note("sat out", client=node.name, needed_bytes=needed, grant_bytes=granted)
    return needed <= granted


async def _introduce(member: Member) -> None:
    await member.introduce()


def _hello(node: Node, settings: RunSettings, data: ClientData | None, round_: int | None) -> Hello:
    """What a device says of itself."""
    to = settings.coordinator if node.name != settings.coordinator else settings.devices[0]
    way, back = node.link(to), node.link(to, back=True)
    labels = settings.training.batch if data is None else settings.most_labels(data)
    grant = node.device.grant_bytes
    own = 0 if data is None else settings.ends_bytes(labels)
    return Hello(
        device=node.device.name,
        role=node.place.role,
        grant_bytes=grant,
        free_bytes=grant - own,
        ends_bytes=own,
        whole_step_bytes=settings.whole_step_bytes(labels),
        flops=node.device.flops,
        uplink_bps=way.bandwidth_bps,
        downlink_bps=back.bandwidth_bps,
        delay_s=way.delay_s,
        examples=0 if data is None else len(data.examples),
        round=round_,
    )
