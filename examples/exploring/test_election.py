"""Three members elect a leader, who keeps its office by heartbeats. They have a bug.

A plain test passes, and so does one in which the leader dies. What it takes is one member that is
cut off: it asks for votes, and counts a majority of those that answer.
"""

import asyncio

import pytest

pytestmark = [pytest.mark.asyncio, pytest.mark.network(topology="edge-clusters")]
MEMBERS = ["client-0", "gateway-1", "host-2"]
HEARTBEAT_S, LEASE_S, PATIENCE_S = 0.5, 2.0, 4.0


class Member:
    def __init__(self, node):
        self.node = node
        self.others = [name for name in MEMBERS if name != node.name]
        self.term = 0
        self.heard = node.now

    async def live(self):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.answer())
            tasks.create_task(self.rule())

    async def answer(self):
        async for message in self.node:
            term = message.header["term"]
            if "heartbeat" in message.header:
                agrees = term >= self.term
            else:  # no vote while a leader may be in office, and one in each term
                agrees = term > self.term and self.node.now - self.heard >= PATIENCE_S
            if agrees:
                self.term, self.heard = term, self.node.now
            await message.reply({"yes": agrees})

    async def ask(self, header):
        """Those who agree, and how many have answered."""

        async def one(name):
            try:
                reply = await self.node.request(name, header, timeout=HEARTBEAT_S)
            except TimeoutError:
                return None
            return reply.header["yes"]

        answers = await asyncio.gather(*map(one, self.others))
        return answers.count(True), len(answers) - answers.count(None)

    async def rule(self):
        while True:
            wait = PATIENCE_S + self.node.random.random()
            await asyncio.sleep(HEARTBEAT_S)
            if self.node.now - self.heard < wait:
                continue
            self.term += 1
            self.heard = self.node.now
            votes, answered = await self.ask({"term": self.term})
            if votes + 1 > (answered + 1) / 2:  # the bug: of all members, not of those reached
                await self.lead()

    async def lead(self):
        self.node.note("leads", term=self.term)
        term, confirmed = self.term, self.node.now
        while self.term == term and self.node.now - confirmed < LEASE_S:
            asked = self.node.now
            agree, _ = await self.ask({"term": term, "heartbeat": True})
            if agree + 1 > len(MEMBERS) / 2:
                confirmed = asked
            await asyncio.sleep(HEARTBEAT_S)
        self.node.note("follows")
        self.heard = self.node.now


async def member(node):
    await Member(node).live()


@pytest.mark.explore(seeds=500, kinds=["partition", "cut", "flap"])
async def test_there_are_never_two_leaders(bus):
    for name in MEMBERS:
        bus.start(name, member)
    await asyncio.sleep(30)
    leaders = set()
    for note in bus.notes:
        if note.node:
            (leaders.add if note.event == "leads" else leaders.discard)(note.node)
            assert len(leaders) < 2, f"{' and '.join(sorted(leaders))} lead at {note.time_s:.1f} s"
