"""A shop pays its bills, and tries again when the bank does not answer in time. It has a bug.

A plain test passes. What it takes is an answer that comes too late: the bank has paid, the shop
does not know it, and the second attempt is a second payment.
"""

import asyncio

import pytest

pytestmark = [pytest.mark.asyncio, pytest.mark.network(topology="edge-clusters")]
BILLS = [120, 80, 45, 300]


async def shop(node):
    paid = int(await node.disk.read("paid")) if "paid" in node.disk else 0
    for number in range(paid, len(BILLS)):
        while True:
            bill = {"bill": number, "euros": BILLS[number]}
            try:
                await node.request("gateway-1", bill, timeout=2)
                break
            except TimeoutError:
                continue  # the bug: nothing tells the bank that this is the same payment
        await node.disk.write("paid", str(number + 1).encode())
        await asyncio.sleep(2)


class Bank:
    def __init__(self):
        self.paid = []

    async def serve(self, node):
        async for message in node:
            self.paid.append(message.header["euros"])
            await message.reply({"paid": message.header["bill"]})


@pytest.mark.explore(seeds=500, kinds=["crash", "cut", "degrade", "flap", "partition", "pause"])
async def test_every_bill_is_paid_once(bus):
    bank = Bank()
    bus.start("gateway-1", bank.serve)
    await bus.start("client-0", shop)
    assert bank.paid == BILLS
