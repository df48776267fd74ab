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
import contextlib
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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


@dataclass
class _Book:
    """What is known of a neighborhood's rounds: what was handed in, and what came of it."""

    updates: dict[int, dict[str, AdapterState]] = field(default_factory=dict)
    signatures: dict[int, dict[str, bytes]] = field(default_factory=dict)
    means: dict[int, Merged] = field(default_factory=dict)
    merged: dict[int, Merged] = field(default_factory=dict)


class Aggregator:
    """Aggregates for one neighborhood, while this node is appointed to.

    Who has been moved may come to aggregate for another one: each has a book of its own.
    """

    def __init__(self, node: Node, settings: RunSettings, member: Member) -> None:
        self._node = node
        self._settings = settings
        self._method = settings.aggregation.method
        self._member = member
        self._books: defaultdict[str, _Book] = defaultdict(_Book)
        self._waiting: dict[tuple[str, str, int], dict[tuple[str, str], Message]] = {}
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
                await self._tell(message, "mean", request.neighborhood, request.round)
            case AskMerged():
                await self._tell_merged(message, request.neighborhood, request.round)

    async def _update(self, message: Message, request: Update) -> None:
        held, number = self._office(), request.round
        if held is None or (held[0], held[1].term) != (request.neighborhood, request.office):
            behind = held is None or held[0] != request.neighborhood
            await self._redirect(
                message, newer=behind or (held is not None and request.office > held[1].term)
            )
            return
        decision = self._member.decision
        late = number > decision.running(held[0])
        if late or message.source not in decision.members(held[0], number):
            await self._redirect(message, newer=True)
            return
        book = self._books[held[0]]
        if number not in book.merged and number >= decision.running(held[0]) - 1:
            updates = book.updates.setdefault(number, {})
            if message.source not in updates:
                adapter = unpack(request.manifest, message.payload)
                self._settings.require_state(adapter, handed_in)
                updates[message.source] = adapter
                if request.signature is not None:
                    signatures = book.signatures.setdefault(number, {})
                    signatures[message.source] = request.signature
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

    async def _tell(self, message: Message, what: str, name: str, number: int) -> None:
        """Answers now, or as soon as it is known; not where that is not this node's office."""
        held, book = self._office(), self._books.get(name, _Book())
        known = book.means if what == "mean" else book.merged
        if number in known:
            manifest, buffers = pack(self._part(message.source, what, name, number, known[number]))
            body = Tensors(manifest=manifest, round=number)
            await message.reply(body.header(), buffers, purpose=ADAPTERS)
        elif held is None or held[0] != name:
            await self._redirect(message, newer=held is not None)
        elif not 0 <= number <= self._member.decision.running(name) + 1:
            self._member.look()  # it may be this one that is behind
            await message.reply(Refused(reason=f"round {number} is far from here").header())
        else:
            asker = message.source, message.purpose  # a client may coordinate, too
            self._waiting.setdefault((what, name, number), {})[asker] = message

    def _part(self, source: str, what: str, name: str, number: int, came: Merged) -> AdapterState:
        """What is for who asks; nothing for a member that was dropped and keeps its own."""
        if what == "mean" or not came.own or source in came.own:
            return came.shared if what == "mean" else came.own.get(source, came.shared)
        members = self._member.decision.members(name, number)
        return {} if source in members else came.shared

    async def _tell_merged(self, message: Message, name: str, number: int) -> None:
        merged = self._books.get(name, _Book()).merged
        newest = max(merged, default=-1)
        given = number if number in merged and self._method in PERSONAL else max(number, newest)
        if self._has_left(message.source, name, number, given):
            await self._redirect(message, newer=True)
        elif newest >= number:
            await self._tell(message, "merged", name, given)
        elif await self._member.tell_merged(message, name, number):
            return
        elif self._misses(message.source, name, number):
            await message.reply(Refused(reason="your adapter is not here", missing=True).header())
        else:
            await self._tell(message, "merged", name, number)

    def _settles(self, number: int) -> bool:
        """Whether it is still to be decided, as far as it is known here, who is moved after the
        last measured round up to this one.
        """
        measured = filter(self._settings.measures, range(number, -1, -1))
        last = next(measured, None)
        return last is not None and not self._member.decision.passed(last)

    def _has_left(self, source: str, name: str, number: int, given: int) -> bool:
        """Whether `source`, a member in round `number`, is elsewhere after round `given`."""
        if not self._member.knows_decision or source not in self._member.decision.members(
            name, number
        ):
            return False
        home = self._member.decision.home(source, given + 1)
        return home is not None and home.neighborhood != name

    def _misses(self, source: str, name: str, number: int) -> bool:
        """Whether this round can't be merged here without `source`, who should know it."""
        held = self._office()
        if held is None or held[0] != name:
            return False
        decision = self._member.decision
        running = number >= decision.running(name)
        members = decision.members(name, number) if running else decision.counted(name, number)
        return source in members and source not in self._books[name].updates.get(number, {})

    async def _announce(self, what: str, name: str, number: int) -> None:
        """Answers each who waits, once: to its latest asking."""
        for message in self._waiting.pop((what, name, number), {}).values():
            if what == "merged" and self._has_left(message.source, name, number, number):
                await self._redirect(message)
            else:
                await self._tell(message, what, name, number)

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
        first = max(decision.running(name) - 1, decision.began(name))
        async with asyncio.TaskGroup() as group:
            for number in range(first, rounds):
                await self._round(group, name, office, number)

    async def _round(
        self, group: asyncio.TaskGroup, name: str, office: Office, number: int
    ) -> None:
        """One round, from the first adapter that comes to the merged one that goes out."""
        book = self._books[name]
        if self._member.decision.running(name) <= number:
            await self._close(name, office, number)
        await self._settled(number)
        if number not in book.means:
            group.create_task(self._average(name, number))
            if number not in book.merged and self._method in ADDRESSED:
                await self._wait(lambda: number in book.means)
            elif number not in book.merged:
                looking = group.create_task(self._look_around(name, number))
                await self._wait(lambda: number in book.means or number in book.merged)
                looking.cancel()
        if number not in book.merged:
            book.merged[number] = await self._move(name, number)
            kept = {
                "neighborhood": name,
                "round": number,
                "mean": _plain(book.means[number]),
                "merged": _plain(book.merged[number]),
            }
            await try_to_keep(self._node, MERGED, msgpack.packb(kept))
            self._node.note(
                "aggregated",
                neighborhood=name,
                round=number,
                aggregator=self._node.name,
                clients=list(self._member.decision.counted(name, number)),
            )
        _forget(book, number - REMEMBERED, merged=self._method not in PERSONAL - ADDRESSED)
        await self._announce("merged", name, number)

    async def _settled(self, number: int) -> None:
        """Waits until it is decided who is moved after a measured round: no neighborhood goes on
        before all have closed it.
        """
        pause_s = PAUSE_S
        while self._settles(number):
            self._member.look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._member.until(lambda: not self._settles(number))
            pause_s = min(2 * pause_s, MOST_AGAIN_S)

    async def _close(self, name: str, office: Office, number: int) -> None:
        """Waits for the adapters of a running round, and has it closed."""
        began_s, enough_s = monotonic_s(), None
        membership, book = self._settings.membership, self._books[name]
        while self._member.decision.running(name) <= number:
            members = self._member.decision.members(name, number)
            present = [each for each in members if each in book.updates.get(number, {})]
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
        signatures = self._books[name].signatures.get(number, {})
        over = Over(
            neighborhood=name,
            round=number,
            office=office.term,
            present=present,
            signatures={each: signatures[each] for each in present if each in signatures},
        )
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
        book = self._books[name]
        updates = book.updates.setdefault(number, {})
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
        book.means[number] = await self._node.compute(
            lambda: self._combined(adapters, counted, start, graph),
            flops=flops * size * len(adapters),
        )
        self._came.set()
        await self._announce("mean", name, number)

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
        if number == self._member.decision.began(name):
            return self._settings.initial_adapter()
        merged, pause_s = self._books[name].merged, PAUSE_S
        while number - 1 not in merged:
            for each in self._member.decision.counted(name, number):
                got = await self._ask(each, AskUpdate(round=number, start=True))
                if got is not None:
                    return got
            if self._is_over(name, number):
                return None
            await self._more(pause_s)
            pause_s = min(2 * pause_s, MOST_AGAIN_S)
        return merged[number - 1].shared

    def _is_over(self, name: str, number: int) -> bool:
        """Whether nobody needs the mean of this round any more."""
        decision = self._member.decision
        alone = len(decision.near(name)) == 1
        merged = self._books[name].merged
        return decision.running(name) > number + 1 or (alone and number in merged)

    async def _look_around(self, name: str, number: int) -> None:
        """Whether a member already has what this closed round came to."""
        counted, book = self._member.decision.counted(name, number), self._books[name]
        while all(each in book.updates.get(number, {}) for each in counted):
            await self._more(PAUSE_S)
        others = [each for each in counted if each != self._node.name]
        pause_s = PAUSE_S
        while number not in book.merged:
            for each in others:
                got = await self._ask(each, AskMerged(neighborhood=name, round=number))
                if got is not None:
                    book.merged[number] = Merged(got)
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
        mean = self._books[name].means[number]
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
                other, lambda _: AskMean(neighborhood=other, round=number), answer_bytes=size
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
        number, book = kept["round"], self._books[name]
        if kept["neighborhood"] == name and number not in book.merged:
            await self._settled(number)
            book.means[number] = _from_plain(kept["mean"])
            book.merged[number] = _from_plain(kept["merged"])
            await self._announce("mean", name, number)
            await self._announce("merged", name, number)

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


def _forget(book: _Book, last: int, *, merged: bool) -> None:
    """What was known of rounds up to `last`; of what was merged only where that is said."""
    for known in (book.updates, book.signatures, book.means, book.merged if merged else {}):
        for past in [past for past in known if past <= last]:
            del known[past]


def _plain(merged: Merged) -> list[Any]:
    """For the disk."""
    return [plain(merged.shared), {client: plain(own) for client, own in merged.own.items()}]


def _from_plain(kept: list[Any]) -> Merged:
    """The inverse of `_plain`."""
    shared, own = kept
    return Merged(from_plain(shared), {client: from_plain(each) for client, each in own.items()})


def _size(state: AdapterState) -> int:
    return sum(tensor.numel() for tensor in state.values())
