"""The program of every device but the coordinator.

It is a host; a client where it has text; an aggregator where it is elected.

Only what it says in `Hello` is known of it: memory, speed, its way to the network, how much text.
Never the text.
"""

from __future__ import annotations

import asyncio
import functools

import torch

from atlas.protocol import (
    AggregatorRequest,
    Hello,
    HostRequest,
    ask,
    parse,
)
from atlas.roles.aggregator import Aggregator
from atlas.roles.client import Client
from atlas.roles.host import Host
from atlas.roles.patience import hold
from atlas.roles.settings import RunSettings
from atlas.tasks import ClientData
from broker import Message, Node
from topologies import InputError


async def device(node: Node, settings: RunSettings, data: ClientData | None) -> None:
    """Serves until the run is over; a client trains meanwhile."""
    torch.set_num_threads(1)
    host = Host(node, settings)
    aggregator = Aggregator(node, settings)
    async with asyncio.TaskGroup() as group:
        group.create_task(_serve(node, host, aggregator, group))
        if data is None:
            await _introduce(node, settings, None)
        else:
            group.create_task(_train(node, settings, data, aggregator))


async def _serve(node: Node, host: Host, aggregator: Aggregator, group: asyncio.TaskGroup) -> None:
    """Starts on each request as it comes; what can't be read is noted and dropped."""
    async for message in node:
        try:
            body = parse(message)
        except InputError as error:
            node.note("malformed", source=message.source, problem=str(error))
            continue
        if isinstance(body, HostRequest):
            group.create_task(host.serve(message, body))
        elif isinstance(body, AggregatorRequest):
            group.create_task(aggregator.serve(message, body))
        else:
            problem = f"a {body.kind!r} is for no device"
            node.note("malformed", source=message.source, problem=problem)


async def _train(
    node: Node, settings: RunSettings, data: ClientData, aggregator: Aggregator
) -> None:
    labels = settings.most_labels(data)
    with await hold(node, settings.ends_bytes(labels), "the client's own part"):
        client = Client(node, settings, data)
        await client.prepare()
        introduce = functools.partial(_introduce, node, settings, data)
        await client.run(introduce, aggregator.settle)


async def _introduce(node: Node, settings: RunSettings, data: ClientData | None) -> Message:
    """Says hello. A client's answer is its provisional chain."""
    way = node.link(settings.coordinator)
    back = node.link(settings.coordinator, back=True)
    labels = settings.training.batch if data is None else settings.most_labels(data)
    grant = node.device.grant_bytes
    own = 0 if data is None else settings.ends_bytes(labels)
    hello = Hello(
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
    )
    node.note("registered", **hello.model_dump(exclude={"kind"}))
    return await ask(node, settings.coordinator, hello)
