"""A device as one of many: whom it takes orders from, and what it does between rounds.

Every device knows who coordinates, under which term, and the last decision that it was told. It
takes neither a lower term nor an older decision. What it wants of the coordinator or of an
aggregator it asks until it is answered, by whoever holds that office then.

A client keeps, in memory and with its adapter on its disk, what it handed in for the last round
(and what it had begun it from, where the method of aggregation builds on that): until the next one
is merged somebody may have to merge that round again.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgpack
import numpy as np

from atlas.aggregation import ADDRESSED, STARTED, Part, completed, handed_back, handed_in
from atlas.decision import Decision, Office
from atlas.models import AdapterState, ProtocolError
from atlas.models.tensors import pack, unpack
from atlas.protocol import (
    ADAPTERS,
    CONTROL,
    MOST_AGAIN_S,
    PATIENCE_S,
    SIGNATURES,
    Accepted,
    AnyBody,
    AskMerged,
    AskOrders,
    AskOwn,
    AskThere,
    AskUpdate,
    Assignment,
    Chain,
    Elsewhere,
    Hello,
    Lead,
    Orders,
    Refused,
    Signature,
    Tensors,
    UnansweredError,
    Update,
    answer_within_s,
    parse,
)
from atlas.roles.patience import monotonic_s, try_to_keep
from atlas.roles.settings import RunSettings
from atlas.semantics import encode
from broker import Message, Node
from topologies import InputError

STATE = "client-state"
PAUSE_S = 5.0
"""How long it waits before it asks again who could not answer yet."""

T = TypeVar("T")
Answer = tuple[AnyBody, Message]
MemberRequest = AskThere | AskUpdate | AskOwn | Orders | Lead


@dataclass
class Standing:
    """What a client goes on from: the beginning of `round`, with `adapter` and the frozen pairs
    beside it (None: the adapter that all start from).
    """

    round: int
    adapter: AdapterState | None
    chain: Chain


class Member:
    """What this device knows of the others, and how it asks them.

    `hello` makes its introduction, given the round that it is in; None for a device that only
    coordinates.
    """

    def __init__(
        self, node: Node, settings: RunSettings, hello: Callable[[int | None], Hello] | None
    ) -> None:
        self._node = node
        self._settings = settings
        self._method = settings.aggregation.method
        self._hello = hello
        self.leader = settings.coordinator
        self.term = 1
        self.number = -1
        self._decision: Decision | None = None
        self._another_leader = asyncio.Event()
        self._another_decision = asyncio.Event()
        self._standing: Standing | None = None
        self._handed_in: dict[int, AdapterState] = {}
        self._began: dict[int, AdapterState] = {}
        self._introduced = False
        self.resumes = False
        self._errands: dict[str, asyncio.Task[None]] = {}

    @property
    def decision(self) -> Decision:
        """The last decision that it was told."""
        assert self._decision is not None, "asked for only where it is known that there is one"
        return self._decision

    @property
    def knows_decision(self) -> bool:
        """Whether anything is decided, as far as it knows."""
        return self._decision is not None

    @property
    def neighborhood(self) -> str:
        """Where this client belongs in the round that it is in."""
        number = 0 if self._standing is None else self._standing.round
        home = self.decision.home(self._node.name, number) or self.decision.home(self._node.name)
        assert home is not None, "a client that trains belongs somewhere"
        return home.neighborhood

    # Orders.

    def follow(self, leader: str | None, term: int) -> None:
        """`leader` coordinates in `term`, says somebody."""
        if leader is None or (term, leader) == (self.term, self.leader) or term < self.term:
            return
        self.leader, self.term = leader, term
        self._another_leader.set()
        self._another_leader = asyncio.Event()
        if self._introduced:
            self._run("introduce", self._introduce_again)

    def adopt(self, orders: Orders | Assignment) -> bool:
        """Whether these orders are newer than what it knows; then they hold."""
        if orders.term < self.term or orders.number <= self.number:
            return False
        self.number, self._decision = orders.number, orders.decision
        self._another_decision.set()
        self._another_decision = asyncio.Event()
        return True

    def orders(self) -> Orders:
        """What it has been told, for others."""
        told = self.decision.model_copy(update={"landmarks": {}, "signed": {}})
        return Orders(term=self.term, number=self.number, decision=told)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until a decision fulfils it."""
        while not condition():
            await self._another_decision.wait()

    async def serve(self, message: Message, request: MemberRequest) -> None:
        """Does what others may ask of any device."""
        match request:
            case Lead():
                self.follow(message.source, request.term)
            case Orders():
                self.adopt(request)
            case AskThere():
                await message.reply(Accepted().header())
            case AskUpdate():
                kept = self._began if request.start else self._handed_in
                await self._give(message, request.round, kept.get(request.round))
            case AskOwn():
                standing = self._standing
                if standing is None:
                    await self._give(message, 0, None)
                else:
                    await self._give(message, standing.round - 1, standing.adapter)

    async def tell_merged(self, message: Message, name: str, number: int) -> bool:
        """Gives that neighborhood's adapter after round `number` or a later one, if it is here;
        never where each client has its own.
        """
        standing = self._standing
        if standing is None or standing.adapter is None or standing.round <= number:
            return False
        if self.neighborhood != name:  # it has been moved since, or was never there
            return False
        if self._method in ADDRESSED:
            return False
        await self._give(message, standing.round - 1, handed_back(self._method, standing.adapter))
        return True

    async def _give(self, message: Message, number: int, adapter: AdapterState | None) -> None:
        if adapter is None:
            await message.reply(Refused(reason="not here", missing=True).header())
            return
        manifest, buffers = pack(adapter)
        body = Tensors(manifest=manifest, round=number)
        await message.reply(body.header(), buffers, purpose=ADAPTERS)

    # Asking.

    async def ask(
        self,
        to: str,
        body: Any,
        payload: Sequence[bytes | memoryview] = (),
        *,
        purpose: str = CONTROL,
        within_s: float,
        unless: asyncio.Event | None = None,
    ) -> Answer | None:
        """Asks once. None when nothing that can be read came in time, or `unless` came before."""

        async def request() -> Answer | None:
            try:
                reply = await self._node.request(
                    to, body.header(), payload, purpose=purpose, timeout=within_s
                )
                return parse(reply), reply
            except TimeoutError:
                return None
            except InputError as error:
                self._node.note("malformed", source=to, problem=str(error))
                await asyncio.sleep(PAUSE_S)
                return None

        return await request() if unless is None else await _unless(request(), unless)

    async def ask_leader(
        self,
        make: Callable[[], Any],
        payload: Sequence[bytes | memoryview] = (),
        *,
        purpose: str = CONTROL,
    ) -> Answer:
        """The coordinator's answer, whoever that is by then. Raises UnansweredError.

        Where it is silent, voters are asked in between: they know of another one.
        """
        until, doubled = monotonic_s() + PATIENCE_S, 0
        voters = itertools.cycle(self._settings.voters)
        to = leader = self.leader
        while monotonic_s() < until:
            body = make()
            within_s = min(answer_within_s(self._node, to, payload) * 2**doubled, MOST_AGAIN_S)
            answer = await self.ask(
                to, body, payload, purpose=purpose, within_s=within_s, unless=self._another_leader
            )
            if answer is not None and not isinstance(answer[0], Elsewhere):
                return answer
            if answer is not None and isinstance(answer[0], Elsewhere):
                self.follow(answer[0].leader, answer[0].term)
                if self.leader == to:
                    await asyncio.sleep(PAUSE_S)
            if self.leader != leader:
                to = leader = self.leader
                doubled = 0
            elif to != leader:
                to = leader
            else:
                to = next(voters)
                doubled += 1
        raise UnansweredError(
            f"no coordinator has answered {self._node.name}'s {body.kind!r} in {PATIENCE_S:,.0f} s"
        )

    async def ask_office(
        self,
        neighborhood: str,
        make: Callable[[Office], Any],
        payload: Sequence[bytes | memoryview] = (),
        *,
        purpose: str = CONTROL,
        answer_bytes: int = 0,
    ) -> Answer:
        """The answer of a neighborhood's aggregator, whoever that is by then. Raises
        UnansweredError.
        """
        answer = await self._ask_office_while(
            lambda: True, neighborhood, make, payload, purpose=purpose, answer_bytes=answer_bytes
        )
        assert answer is not None, "it is asked for as long as it takes"
        return answer

    async def _ask_office_while(
        self,
        wanted: Callable[[], bool],
        neighborhood: str,
        make: Callable[[Office], Any],
        payload: Sequence[bytes | memoryview] = (),
        *,
        purpose: str = CONTROL,
        answer_bytes: int = 0,
    ) -> Answer | None:
        """As `ask_office`; None once that answer is not wanted any more."""
        until, doubled = monotonic_s() + PATIENCE_S, 0
        while monotonic_s() < until:
            if not wanted():
                return None
            office = self.decision.offices[neighborhood]
            to = office.aggregator
            within_s = answer_within_s(self._node, to, payload, answer_bytes) * 2**doubled
            answer = await self.ask(
                to,
                make(office),
                payload,
                purpose=purpose,
                within_s=min(within_s, MOST_AGAIN_S),
                unless=self._another_decision,
            )
            if answer is not None and not isinstance(answer[0], Orders):
                return answer
            if answer is not None and isinstance(answer[0], Orders):
                if not self.adopt(answer[0]):
                    self.look()
                    await asyncio.sleep(PAUSE_S)
            elif office == self.decision.offices[neighborhood]:
                self.look()
                doubled += 1
        raise UnansweredError(
            f"no aggregator of {neighborhood} has answered {self._node.name} in {PATIENCE_S:,.0f} s"
        )

    def look(self) -> None:
        """Asks the coordinator what is decided, beside whatever else it does."""
        self._run("look", self._look)

    async def _look(self) -> None:
        body, _ = await self.ask_leader(AskOrders)
        if isinstance(body, Orders):
            self.adopt(body)

    def _run(self, name: str, errand: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs an errand, unless it is being run."""
        running = self._errands.get(name)
        if running is None or running.done():
            self._errands[name] = asyncio.get_running_loop().create_task(errand())

    # Joining.

    async def introduce(self) -> AnyBody:
        """Says hello until it is answered. A client's answer is its provisional chain."""
        if not self._introduced:
            self._node.note("registered", **self._hello_now().model_dump(exclude={"kind", "round"}))
        while True:
            known = self.term, self.leader
            body, reply = await self.ask_leader(self._hello_now)
            self._introduced = True
            if reply.source == self.leader or (self.term, self.leader) == known:
                return body  # else another one coordinates by now, who has not heard it

    async def _introduce_again(self) -> None:
        await self.introduce()

    def _hello_now(self) -> Hello:
        assert self._hello is not None
        return self._hello(None if self._standing is None else self._standing.round)

    async def join(self, sign: Callable[[Chain], Awaitable[np.ndarray]]) -> Standing:
        """What this client goes on from: its disk, or a neighborhood found for its signature."""
        if STATE in self._node.disk:
            await self._resume()
            self._run("introduce", self._introduce_again)
        else:
            chain, raw = await self.introduce(), b""
            if self._settings.signs:
                if not isinstance(chain, Chain):
                    raise ProtocolError(f"{self.leader} answered a hello with {chain.kind!r}")
                raw = encode(await sign(chain))
                self._node.note("signature", bytes=len(raw))
            assignment = await self._assignment(raw)
            while not self.adopt(assignment) and not self.knows_decision:
                await asyncio.sleep(PAUSE_S)  # it came from who coordinates no longer
                assignment = await self._assignment(raw)
            home = assignment.decision.home(self._node.name)
            assert home is not None, "an assignment is for one who belongs somewhere"
            adapter = None
            if home.since > 0:
                number, came = await self._fetch(home.since - 1)
                drawn = self._settings.initial_adapter()
                if came is not None:
                    adapter = completed(self._method, came, drawn, drawn)
                home = home.model_copy(update={"since": number + 1})
            self._standing = Standing(home.since, adapter, assignment.chain)
            await self._save()
        assert self._standing is not None
        return self._standing

    async def _assignment(self, signature: bytes) -> Assignment:
        """A place in a neighborhood, for a signature, or for none where groups are settled."""
        dimensions = self._settings.signature.dimensions if signature else 0
        body, _ = await self.ask_leader(
            lambda: Signature(dimensions=dimensions),
            [signature] if signature else [],
            purpose=SIGNATURES if signature else CONTROL,
        )
        if not isinstance(body, Assignment):
            raise ProtocolError(f"{self.leader} answered a signature with {body.kind!r}")
        return body

    # Between rounds.

    async def hand_in(
        self, number: int, adapter: AdapterState, signature: bytes | None = None
    ) -> Standing:
        """Hands in what came of round `number`, as far as it crosses, and waits for what to go on
        from.

        That is the neighborhood's adapter after this round; or after a later one, where this client
        was away. Who has been moved goes on from the adapter of its new neighborhood, or, alone,
        from the one that all start from.
        """
        standing = self._standing
        assert standing is not None
        began = self.neighborhood
        drawn = self._settings.initial_adapter()
        start = drawn if standing.adapter is None else standing.adapter
        before = {
            past: state
            for past, state in self._handed_in.items()
            if past == number - 1 or self._may_miss(past)
        }
        self._handed_in = before | {number: handed_in(self._method, adapter)}
        if self._method in STARTED:
            before = {past: state for past, state in self._began.items() if past == number - 1}
            self._began = before | {number: start}
        manifest, buffers = pack(self._handed_in[number])
        merged: tuple[int, AdapterState | None] | None = None
        until_s = monotonic_s() + PATIENCE_S
        while merged is None:
            if monotonic_s() > until_s:
                raise UnansweredError(
                    f"{self._node.name} handed in round {number} and got nothing to go on from in "
                    f"{PATIENCE_S:,.0f} s: nobody has all of it, as when disks are full for long"
                )
            body, _ = await self.ask_office(
                began,
                lambda office: Update(
                    neighborhood=began,
                    round=number,
                    office=office.term,
                    manifest=manifest,
                    signature=signature,
                ),
                buffers,
                purpose=ADAPTERS,
            )
            if isinstance(body, Accepted):
                merged = await self._try_to_fetch(number)
            else:
                self.look()
                await asyncio.sleep(PAUSE_S)
        own = adapter if merged[0] >= number else start
        standing.round = merged[0] + 1
        came = merged[1]
        standing.adapter = None if came is None else completed(self._method, came, own, drawn)
        await self._save()
        return standing

    def _may_miss(self, past: int) -> bool:
        """Whether a neighborhood that this client has left after that round may still need what it
        handed in: as long as it may have to merge that round again.
        """
        home = self.decision.home(self._node.name, past)
        after = self.decision.home(self._node.name, past + 1)
        if home is None or after is None or home.neighborhood == after.neighborhood:
            return False
        return self.decision.running(home.neighborhood) <= past + 2

    async def finish(self) -> None:
        """Tells the coordinator that this client is through."""
        await self.introduce()

    async def _fetch(self, number: int) -> tuple[int, AdapterState | None]:
        while True:
            merged = await self._try_to_fetch(number)
            if merged is not None:
                return merged
            await asyncio.sleep(PAUSE_S)

    async def _try_to_fetch(self, number: int) -> tuple[int, AdapterState | None] | None:
        """What to go on from after round `number`; None where this client's own is missing.

        Without an adapter it is the one that all start from: in a neighborhood that begins then.
        """
        name, after = place = self._ahead(number)
        if after + 1 == self.decision.began(name):
            return after, None
        answer = await self._ask_office_while(
            lambda: self._ahead(number) == place,
            name,
            lambda _: AskMerged(neighborhood=name, round=after),
            answer_bytes=self._settings.adapter_bytes,
        )
        if answer is None:
            return await self._try_to_fetch(number)
        body, reply = answer
        adapter = self.read(body, reply, handed_back)
        if adapter is None or not isinstance(body, Tensors) or body.round is None:
            await asyncio.sleep(PAUSE_S)
            return None
        home = self.decision.home(self._node.name, body.round + 1)
        if home is not None and home.neighborhood != name:
            return await self._try_to_fetch(body.round)
        return body.round, adapter

    def _ahead(self, number: int) -> tuple[str, int]:
        """Where this client goes on, and after which round, who is through with round `number`:
        later where its neighborhood is already past the round in which it was moved elsewhere.
        """
        decision, name = self.decision, self._node.name
        home = decision.home(name, number + 1) or decision.home(name)
        assert home is not None, "a client that trains belongs somewhere"
        after = max(number, home.since - 1)
        for stay in decision.stays:
            later = stay.client == name and stay.since > home.since
            if later and stay.since <= decision.running(home.neighborhood):
                home, after = stay, stay.since - 1
        return home.neighborhood, after

    def read(self, body: AnyBody, reply: Message, part: Part | None = None) -> AdapterState | None:
        """The state in an answer, or that part of one, as one's own; None where there is none, and
        noted where it is none of this run.
        """
        if not isinstance(body, Tensors):
            return None
        try:
            adapter = unpack(body.manifest, reply.payload)
            self._settings.require_state(adapter, part)
        except ProtocolError as error:
            self._node.note("malformed", source=reply.source, problem=str(error))
            return None
        return {name: tensor.clone() for name, tensor in adapter.items()}

    # The disk.

    async def _save(self) -> None:
        """Keeps what a later life needs to go on from the beginning of this round, and what others
        may need of the last one; without room for it that life goes on from an earlier round, and
        comes to the same.
        """
        standing = self._standing
        assert standing is not None
        state = {
            "round": standing.round,
            "chain": standing.chain.model_dump(),
            "orders": self.orders().model_dump(),
            "adapter": None if standing.adapter is None else plain(standing.adapter),
            "handed in": {number: plain(state) for number, state in self._handed_in.items()},
            "began": {number: plain(state) for number, state in self._began.items()},
            "leader": self.leader,
        }
        await try_to_keep(self._node, STATE, msgpack.packb(state))

    async def _resume(self) -> None:
        state = msgpack.unpackb(await self._node.disk.read(STATE), strict_map_key=False)
        self.follow(state["leader"], state["orders"]["term"])
        self.adopt(Orders.model_validate(state["orders"]))
        adapter = None if state["adapter"] is None else from_plain(state["adapter"])
        self._handed_in = {n: from_plain(kept) for n, kept in state["handed in"].items()}
        self._began = {n: from_plain(kept) for n, kept in state["began"].items()}
        self._standing = Standing(state["round"], adapter, Chain.model_validate(state["chain"]))
        self.resumes = True


def plain(state: AdapterState) -> list[object]:
    """An adapter as plain data, for the disk."""
    manifest, buffers = pack(state)
    return [manifest, [bytes(buffer) for buffer in buffers]]


def from_plain(kept: list[list[Any]]) -> AdapterState:
    """The inverse of `plain`."""
    manifest, buffers = kept
    return {name: tensor.clone() for name, tensor in unpack(manifest, buffers).items()}


async def _unless(asked: Coroutine[Any, Any, T], event: asyncio.Event) -> T | None:
    """What `asked` gives, or None once `event` is set; then it is asked no longer."""
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[Any]] = [loop.create_task(asked), loop.create_task(event.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
