"""A meter sends readings as datagrams, each until it is acknowledged. It has a bug.

    pytest test_meter.py                              # finds nothing: the network is too good
    python -m broker explore test_meter.py::test_every_reading_arrives

A plain test passes. What it takes is an acknowledgement that gets lost: the meter sends its reading
again, the station is past that number, and never says so.
"""

import asyncio

import pytest

pytestmark = [pytest.mark.asyncio, pytest.mark.network(topology="edge-clusters")]
READINGS = 10


async def meter(node):
    for number in range(READINGS):
        acknowledged = False
        while not acknowledged:
            await node.send("gateway-0", {"number": number}, datagram=True)
            try:
                answer = await node.receive(timeout=0.5)
                acknowledged = answer.header["acknowledged"] == number
            except TimeoutError:
                continue
        await asyncio.sleep(1)


async def station(node):
    expected = 0
    async for message in node:
        number = message.header["number"]
        if number != expected:
            continue  # the bug: what was acknowledged before has to be acknowledged again
        expected += 1
        await node.send(message.source, {"acknowledged": number}, datagram=True)


@pytest.mark.explore(seeds=500, kinds=["loss", "burst_loss", "degrade", "cut", "partition"])
async def test_every_reading_arrives(bus):
    bus.start("gateway-0", station)
    sending = bus.start("client-3", meter)
    async with asyncio.timeout(60):
        await sending
