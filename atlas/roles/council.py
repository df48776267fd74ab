"""A voter's seat: the election, run on a node, with its disk and its clock.

What the election is and why it is safe stands in `atlas.roles.election`. Here its letters leave
only when its ballot is on disk, decisions are made by the leader one after the other, and whoever
wants to know waits until one is committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgpack

from atlas.decision import Decision
from atlas.protocol import CONTROL, ElectionMessage, Lead, Orders
from atlas.roles.election import Ballot, Election, Letter
from atlas.roles.member import Member
from atlas.roles.patience import keep, monotonic_s
from atlas.roles.settings import RunSettings
from broker import Node

BALLOT = "ballot"
Change = Callable[[Decision | None], Decision | None]


class Council:
    """This node's part in electing a coordinator, and in what one decides."""

    def __init__(self, node: Node, settings: RunSettings, member: Member) -> None:
        self._node = node
        self._settings = settings
        self._member = member
        self._election: Election
        self._turn = asyncio.Lock()
        self._changes: list[Change] = []
        self._proposed: dict[int, Decision] = {}
        self._read: tuple[tuple[int, int], Decision | None] | None = None
        self._news = asyncio.Event()
        self._open = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()

    @property
    def leads(self) -> bool:
        """Whether this node coordinates, as far as it knows."""
        return self._open.is_set() and self._election.leads

    @property
    def term(self) -> int:
        """The term that it is in."""
        return self._election.term

    @property
    def decision(self) -> Decision | None:
        """What the leader has decided last, committed or not; None before the first decision."""
        ballot = self._election.ballot
        if self._read is None or self._read[0] != ballot.version:
            plain = ballot.decision
            decision = Decision.model_validate(plain) if plain else None
            self._read = ballot.version, decision
        return self._read[1]

    async def run(self) -> None:
        """Takes part, from the ballot on disk on."""
        kept = None
        if BALLOT in self._node.disk:
            packed = msgpack.unpackb(await self._node.disk.read(BALLOT))
            kept = Ballot(packed[0], packed[1], tuple(packed[2]), packed[3])
        self._election = Election(
            self._node.name,
            self._settings.voters,
            self._settings.coordinator,
            kept,
            seed=self._settings.seed,
            now_s=monotonic_s(),
        )
        await self._write()
        self._open.set()
        self._tell()
        while True:
            news, due_s = self._news, self._election.due_s
            try:
                async with asyncio.timeout(max(due_s - monotonic_s(), 0.0)):
                    await news.wait()
            except TimeoutError:
                await self._tick(max(due_s, monotonic_s()))  # timers may fire a rounding early

    async def _tick(self, now_s: float) -> None:
        async with self._turn:
            await self._settle(lambda election: election.tick(now_s))

    async def hear(self, source: str, message: ElectionMessage) -> None:
        """A letter of another voter."""
        await self._open.wait()
        async with self._turn:
            await self._settle(lambda election: election.receive(source, message, monotonic_s()))

    async def until_it_leads(self) -> int:
        """The term in which this node has come to lead."""
        while not self.leads:
            await self._news.wait()
        return self.term

    async def until_it_yields(self, term: int) -> None:
        """Returns once it leads no longer in `term`."""
        while self.leads and self.term == term:
            await self._news.wait()

    async def decide(self, change: Change) -> bool:
        """Has something decided, and returns when a majority has it. A change that changes nothing
        is decided already; several that wait are decided together.

        False: this node leads no longer, and nobody knows whether it is decided.
        """
        self._changes.append(change)
        async with self._turn:
            waiting, self._changes = self._changes, []
            if not self.leads:
                return False
            before = decision = self.decision
            for each in waiting:
                decision = each(decision)
            if decision is not None and decision != before:
                plain = decision.model_dump()
                await self._settle(lambda election: election.decide(plain, monotonic_s()))
            number = self._election.ballot.version[1]
        return await self.until_committed(number)

    async def until_committed(self, number: int | None = None) -> bool:
        """Returns once a majority has the decision of that number, or the last one; False when this
        node leads no longer.
        """
        term = self.term
        if number is None:
            number = self._election.ballot.version[1]
        while self.leads and self.term == term:
            if (self._election.committed or 0) >= number:
                return True
            await self._news.wait()
        return False

    async def _settle(self, act: Callable[[Election], list[Letter]]) -> None:
        """Lets the election act; what it says leaves when what it must not forget is on disk."""
        election = self._election
        before = election.ballot, election.leader, election.committed, election.due_s
        letters = act(election)
        if election.ballot != before[0]:
            await self._write()
        for to, letter in letters:
            await self._send(to, letter)
        if (election.ballot, election.leader, election.committed, election.due_s) != before:
            self._tell()

    async def _write(self) -> None:
        ballot = self._election.ballot
        packed = [ballot.term, ballot.vote, ballot.version, ballot.decision]
        await keep(self._node, BALLOT, msgpack.packb(packed))

    async def _send(self, to: str, letter: ElectionMessage) -> None:
        """A record goes as a stream, and nobody waits for that; all else gets there at once or not
        at all: it is soon said again.
        """
        if isinstance(letter, Lead) and letter.decision is not None:
            sending = self._node.send(to, letter.header(), purpose=CONTROL)
            task = asyncio.get_running_loop().create_task(sending)
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        else:
            await self._node.send(to, letter.header(), purpose=CONTROL, datagram=True)

    def _tell(self) -> None:
        """Wakes who waits; the device takes its orders from whoever leads."""
        election = self._election
        self._member.follow(election.leader, election.term)
        number, decision = election.ballot.version[1], self.decision
        if election.leads and decision is not None:
            self._proposed[number] = decision
        for number in [each for each in self._proposed if each <= (election.committed or -1)]:
            decision = self._proposed.pop(number)
            self._member.adopt(Orders(term=election.term, number=number, decision=decision))
        if not election.leads:
            self._proposed.clear()
        self._news.set()
        self._news = asyncio.Event()
