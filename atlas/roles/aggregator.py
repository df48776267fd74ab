"""A device as aggregator of its neighborhood: appointed for a term of office, and replaceable.

It waits for the adapters of the round's members and asks the coordinator to close the round with
them. What is closed is decided by a majority of voters, so two aggregators can never close one
round in two ways; and since sums run in the order of the clients, whoever merges a closed round
gets the same bytes. Then it combines them by the run's method, exchanges what came of it, the
neighborhood's mean, with the other neighborhoods' aggregators, and moves its own towards those that
are like it.

One who is appointed while a round runs is handed the adapters again. Of the round before, which is
closed, it asks the members for what it has not: the merged adapter, or their own once more.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from atlas.aggregation import (
    ADDRESSED,
    PERSONAL,
    STARTED,
    Merged,
    Round,
    between,
    combine,
    combining_flops,
    handed_back,
    handed_in,
    parted,
    random_graph,
)
from atlas.decision import Office
from atlas.models import AdapterState
from atlas.models.tensors import pack, unpack
from atlas.protocol import (
    ADAPTERS,
    MOST_AGAIN_S,
    Accepted,
    AggregatorRequest,
    AskMean,
    AskMerged,
    AskUpdate,
    Orders,
    Over,
    Refused,
    Tensors,
    Update,
    answer_within_s,
)
from atlas.roles.member import PAUSE_S, Member, from_plain, plain
from atlas.roles.patience import monotonic_s, try_to_keep
from atlas.roles.settings import RunSettings
from broker import Message, Node

MERGED = "merged"
SHORTEST_S = 1e-6
"""What is due sooner is due now: the clock counts nanoseconds, and floats are not exact."""
REMEMBERED = 2
"""Rounds whose means and merged adapters it keeps: who is near may still be in the one before.

Where clients keep a part of their own it keeps all that it merged: one that has lost its part of a
round takes up each round after it once more.
"""


class Aggregator:
    """Aggregates for one neighborhood, while this node is appointed to."""

    def __init__(self, node: Node, settings: RunSettings, member: Member) -> None:
        self._node = node
        self._settings = settings
        self._method = settings.aggregation.method
        self._member = member
        self._updates: dict[int, dict[str, AdapterState]] = {}
        self._means: dict[int, Merged] = {}
        self._merged: dict[int, Merged] = {}
        self._waiting: dict[tuple[str, int], dict[tuple[str, str], Message]] = {}
        self._came = asyncio.Event()

    async def run(self) -> None:
        """Presides whenever this node holds an office, as long as it does."""
        while True:
            await self._member.until(lambda: self._office() is not None)
            held = self._office()
            assert held is not None
            presiding = asyncio.get_running_loop().create_task(self._preside(*held))
            leaving = asyncio.get_running_loop().create_task(
                self._member.until(lambda: self._office() != held)  # noqa: B023 - awaited here
            )
            await asyncio.wait([presiding, leaving], return_when=asyncio.FIRST_COMPLETED)
            if presiding.done():
                presiding.result()
                await leaving
            presiding.cancel()
            await asyncio.gather(presiding, return_exceptions=True)
            await self._send_away()

    def _office(self) -> tuple[str, Office] | None:
        if not self._member.knows_decision:
            return None
        offices = self._member.decision.offices
        return next(
            ((name, held) for name, held in offices.items() if held.aggregator == self._node.name),
            None,
        )

    # What members and other aggregators ask.

    async def serve(self, message: Message, request: AggregatorRequest) -> None:
        """Does what is asked, at once or when it can."""
        match request:
            case Update():
                await self._update(message, request)
            case AskMean():
                await self._tell(message, "mean", request.round, self._means)
            case AskMerged():
                await self._tell_merged(message, request.round)

    async def _update(self, message: Message, request: Update) -> None:
        held, number = self._office(), request.round
        if held is None or held[1].term != request.office:
            await self._redirect(message, newer=held is None or request.office > held[1].term)
            return
        decision = self._member.decision
        late = number > decision.running(held[0])
        if late or message.source not in decision.members(held[0], number):
            await self._redirect(message, newer=True)
            return
        if number not in self._merged and number >= decision.running(held[0]) - 1:
            updates = self._updates.setdefault(number, {})
            if message.source not in updates:
                adapter = unpack(request.manifest, message.payload)
                self._settings.require_state(adapter, handed_in)
                updates[message.source] = adapter
        await message.reply(Accepted().header())
        self._came.set()

    async def _redirect(self, message: Message, *, newer: bool = False) -> None:
        """Tells who asks the wrong one what is decided; `newer`: this may be behind itself."""
        if newer:
            self._member.look()
        if self._member.knows_decision:
            await message.reply(self._member.orders().header())
        else:
            await message.reply(Refused(reason="nothing is decided here").header())

    async def _tell(
        self, message: Message, what: str, number: int, known: Mapping[int, Merged]
    ) -> None:
        """Answers now, or as soon as it is known; not where that is not this node's office."""
        if number in known:
            manifest, buffers = pack(self._part(message.source, what, number, known[number]))
            body = Tensors(manifest=manifest, round=number)
            await message.reply(body.header(), buffers, purpose=ADAPTERS)
        elif (held := self._office()) is None:
            await self._redirect(message)
        elif not 0 <= number <= self._member.decision.running(held[0]) + 1:
            self._member.look()  # it may be this one that is behind
            await message.reply(Refused(reason=f"round {number} is far from here").header())
        else:
            asker = message.source, message.purpose  # a client may coordinate, too
            self._waiting.setdefault((what, number), {})[asker] = message

    def _part(self, source: str, what: str, number: int, came: Merged) -> AdapterState:
        """What is for who asks; nothing for a member that was dropped and keeps its own."""
        if what == "mean" or not came.own or source in came.own:
            return came.shared if what == "mean" else came.own.get(source, came.shared)
        held = self._office()
        members = {} if held is None else self._member.decision.members(held[0], number)
        return {} if source in members else came.shared

    async def _tell_merged(self, message: Message, number: int) -> None:
        newest = max(self._merged, default=-1)
        if number in self._merged and self._method in PERSONAL:
            await self._tell(message, "merged", number, self._merged)
        elif newest >= number:
            await self._tell(message, "merged", newest, self._merged)
        elif await self._member.tell_merged(message, number):
            return
        elif self._misses(message.source, number):
            await message.reply(Refused(reason="your adapter is not here", missing=True).header())
        else:
            await self._tell(message, "merged", number, self._merged)

    def _misses(self, source: str, number: int) -> bool:
        """Whether this round can't be merged here without `source`, who should know it."""
        held = self._office()
        if held is None:
            return False
        decision, name = self._member.decision, held[0]
        running = number >= decision.running(name)
        members = decision.members(name, number) if running else decision.counted(name, number)
        return source in members and source not in self._updates.get(number, {})

    async def _announce(self, what: str, number: int, known: Mapping[int, Merged]) -> None:
        """Answers each who waits, once: to its latest asking."""
        for message in self._waiting.pop((what, number), {}).values():
            await self._tell(message, what, number, known)

    async def _send_away(self) -> None:
        """The office is another's: who waits is told so."""
        waiting, self._waiting = self._waiting, {}
        for messages in waiting.values():
            for message in messages.values():
                await self._redirect(message)

    # Rounds.

    async def _preside(self, name: str, office: Office) -> None:
        await self._read_back(name)
        decision = self._member.decision
        rounds = self._settings.training.rounds
        async with asyncio.TaskGroup() as group:
            for number in range(max(decision.running(name) - 1, 0), rounds):
                await self._round(group, name, office, number)

    async def _round(
        self, group: asyncio.TaskGroup, name: str, office: Office, number: int
    ) -> None:
        """One round, from the first adapter that comes to the merged one that goes out."""
        if self._member.decision.running(name) <= number:
            await self._close(name, office, number)
        if number not in self._means:
            group.create_task(self._average(name, number))
            if number not in self._merged and self._method in ADDRESSED:
                await self._wait(lambda: number in self._means)
            elif number not in self._merged:
                looking = group.create_task(self._look_around(name, number))
                await self._wait(lambda: number in self._means or number in self._merged)
                looking.cancel()
        if number not in self._merged:
            self._merged[number] = await self._move(name, number)
            kept = {
                "neighborhood": name,
                "round": number,
                "mean": _plain(self._means[number]),
                "merged": _plain(self._merged[number]),
            }
            await try_to_keep(self._node, MERGED, msgpack.packb(kept))
            self._node.note(
                "aggregated",
                neighborhood=name,
                round=number,
                aggregator=self._node.name,
                clients=list(self._member.decision.counted(name, number)),
            )
        self._forget(number - REMEMBERED)
        await self._announce("merged", number, self._merged)

    def _forget(self, last: int) -> None:
        """What was known of rounds up to `last`."""
        merged = {} if self._method in PERSONAL - ADDRESSED else self._merged
        for known in (self._updates, self._means, merged):
            for past in [past for past in known if past <= last]:
                del known[past]

    async def _close(self, name: str, office: Office, number: int) -> None:
        """Waits for the adapters of a running round, and has it closed."""
        began_s, enough_s = monotonic_s(), None
        membership = self._settings.membership
        while self._member.decision.running(name) <= number:
            members = self._member.decision.members(name, number)
            present = [each for each in members if each in self._updates.get(number, {})]
            least = math.ceil(membership.least * len(members))
            now_s = monotonic_s()
            if enough_s is None and len(present) >= least:
                enough_s = now_s
            until_s = math.inf
            if enough_s is not None and membership.late == "drop":
                until_s = began_s + membership.slack * (enough_s - began_s)
            left_s = until_s - now_s
            is_over = left_s < SHORTEST_S
            if len(present) == len(members) or (is_over and len(present) >= least):
                await self._ask_to_close(name, office, number, present)
            else:
                await self._more(math.inf if is_over else left_s)

    async def _ask_to_close(
        self, name: str, office: Office, number: int, present: list[str]
    ) -> None:
        over = Over(neighborhood=name, round=number, office=office.term, present=present)
        body, _ = await self._member.ask_leader(lambda: over)
        if isinstance(body, Orders):
            self._member.adopt(body)
        if self._member.decision.running(name) <= number:
            await asyncio.sleep(PAUSE_S)
            return
        dropped = self._member.decision.closed[name][number].dropped
        if dropped:
            self._node.note("dropped", neighborhood=name, round=number, clients=list(dropped))

    async def _average(self, name: str, number: int) -> None:
        """The mean of a closed round: of what was handed in, and what members are asked for."""
        counted = self._member.decision.counted(name, number)
        updates = self._updates.setdefault(number, {})
        pause_s = PAUSE_S
        while missing := [each for each in counted if each not in updates]:
            for each in missing:
                got = await self._ask(each, AskUpdate(round=number))
                if got is not None:
                    updates.setdefault(each, got)
            if self._is_over(name, number):
                return
            if any(each not in updates for each in counted):
                await self._more(pause_s)
                pause_s = min(2 * pause_s, MOST_AGAIN_S)
        start = await self._start(name, number)
        if start is None:
            return
        adapters = {each: updates[each] for each in counted}
        graph = self._graph(name, list(adapters)) if self._method in ADDRESSED else None
        size = _size(next(iter(adapters.values())))
        flops = combining_flops(self._method, len(adapters), self._settings.lora.rank)
        self._means[number] = await self._node.compute(
            lambda: self._combined(adapters, counted, start, graph),
            flops=flops * size * len(adapters),
        )
        self._came.set()
        await self._announce("mean", number, self._means)

    def _graph(self, name: str, clients: Sequence[str]) -> NDArray[np.float64]:
        """How much these members pull at each other."""
        settings = self._settings
        if settings.aggregation.graph == "random":
            return random_graph(clients, settings.seed)
        alike = self._member.decision.alikeness(name, clients)
        return np.maximum(np.array(alike, dtype=np.float64), 0.0)

    def _combined(
        self,
        adapters: Mapping[str, AdapterState],
        examples: Mapping[str, int],
        start: AdapterState,
        graph: NDArray[np.float64] | None,
    ) -> Merged:
        settings = self._settings
        began, frozen = parted(start)
        given = Round(
            adapters,
            examples,
            began,
            fresh=settings.initial_adapter(),
            scale=lambda rank: settings.lora.model_copy(update={"rank": rank}).scaling,
            trim=settings.aggregation.trim,
            graph=graph,
            pull=0.0 if graph is None else settings.pull,
        )
        return combine(self._method, given, frozen)

    async def _start(self, name: str, number: int) -> AdapterState | None:
        """What the members had begun a round from, if the method builds on that; None once that is
        needed no more.
        """
        if self._method not in STARTED:
            return {}
        if number == 0:
            return self._settings.initial_adapter()
        pause_s = PAUSE_S
        while number - 1 not in self._merged:
            for each in self._member.decision.counted(name, number):
                got = await self._ask(each, AskUpdate(round=number, start=True))
                if got is not None:
                    return got
            if self._is_over(name, number):
                return None
            await self._more(pause_s)
            pause_s = min(2 * pause_s, MOST_AGAIN_S)
        return self._merged[number - 1].shared

    def _is_over(self, name: str, number: int) -> bool:
        """Whether nobody needs the mean of this round any more."""
        decision = self._member.decision
        alone = len(decision.near(name)) == 1
        return decision.running(name) > number + 1 or (alone and number in self._merged)

    async def _look_around(self, name: str, number: int) -> None:
        """Whether a member already has what this closed round came to."""
        counted = self._member.decision.counted(name, number)
        while all(each in self._updates.get(number, {}) for each in counted):
            await self._more(PAUSE_S)
        others = [each for each in counted if each != self._node.name]
        pause_s = PAUSE_S
        while number not in self._merged:
            for each in others:
                got = await self._ask(each, AskMerged(round=number))
                if got is not None:
                    self._merged[number] = Merged(got)
                    self._came.set()
                    return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MOST_AGAIN_S)

    async def _ask(self, other: str, question: AskUpdate | AskMerged) -> AdapterState | None:
        """A member's tensors of that round, if it is there and has them."""
        size = self._settings.adapter_bytes
        within_s = answer_within_s(self._node, other, answer_bytes=size)
        answer = await self._member.ask(other, question, within_s=within_s)
        if answer is None:
            return None
        body, reply = answer
        if not isinstance(body, Tensors) or body.round != question.round:
            return None
        if isinstance(question, AskMerged):
            return self._member.read(body, reply, handed_back)
        return self._member.read(body, reply, None if question.start else handed_in)

    async def _move(self, name: str, number: int) -> Merged:
        """The neighborhood's mean, moved towards those of its like, and so its members' own."""
        decision = self._member.decision
        near = decision.near(name)
        mean = self._means[number]
        means = {name: mean.shared}
        async with asyncio.TaskGroup() as group:
            for other in near:
                if other != name:
                    group.create_task(self._fetch(number, other, means))
        ordered = {other: means[other] for other in near}
        places = list(near.values())
        similarity = np.asarray(decision.similarity, dtype=np.float64)[np.ix_(places, places)]
        strength = self._settings.aggregation.between

        def moved(state: AdapterState) -> AdapterState:
            return between({**ordered, name: state}, similarity, strength)[name]

        def all_moved() -> Merged:
            own = {client: moved(state) for client, state in mean.own.items()}
            return Merged(moved(mean.shared), own)

        states = 1 + len(mean.own)
        return await self._node.compute(
            all_moved, flops=2.0 * _size(mean.shared) * len(ordered) * states
        )

    async def _fetch(self, number: int, other: str, means: dict[str, AdapterState]) -> None:
        size = self._settings.adapter_bytes
        while other not in means:
            body, reply = await self._member.ask_office(
                other, lambda _: AskMean(round=number), answer_bytes=size
            )
            mean = self._member.read(body, reply, handed_back)
            if mean is None:
                await asyncio.sleep(PAUSE_S)
            else:
                means[other] = mean

    async def _read_back(self, name: str) -> None:
        """What an earlier life had merged."""
        if MERGED not in self._node.disk:
            return
        kept = msgpack.unpackb(await self._node.disk.read(MERGED))
        number = kept["round"]
        if kept["neighborhood"] == name and number not in self._merged:
            self._means[number] = _from_plain(kept["mean"])
            self._merged[number] = _from_plain(kept["merged"])
            await self._announce("mean", number, self._means)
            await self._announce("merged", number, self._merged)

    async def _wait(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._more(math.inf)

    async def _more(self, seconds: float) -> None:
        """Until something comes in, or for so long."""
        self._came.clear()
        try:
            async with asyncio.timeout(None if seconds == math.inf else seconds):
                await self._came.wait()
        except TimeoutError:
            pass


def _plain(merged: Merged) -> list[Any]:
    """For the disk."""
    return [plain(merged.shared), {client: plain(own) for client, own in merged.own.items()}]


def _from_plain(kept: list[Any]) -> Merged:
    """The inverse of `_plain`."""
    shared, own = kept
    return Merged(from_plain(shared), {client: from_plain(each) for client, each in own.items()})


def _size(state: AdapterState) -> int:
    return sum(tensor.numel() for tensor in state.values())
