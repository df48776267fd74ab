"""The coordinator: who is here, who is alike, who is paired with whom.

It never sees text, labels or activations.

It waits for the devices, gives every client a provisional chain that is blind to its task, clusters
the signatures, lends the hosts to the neighborhoods, pairs inside each and appoints aggregators.
Then it closes rounds, finds a place for clients that come late and another aggregator where one is
dead for long, and at the end fetches one adapter for each neighborhood.

Any voter can be elected to do this (`atlas.roles.election`). What must not be forgotten is the
decision, which a majority has on disk before anybody is told; the rest a new coordinator asks for:
devices introduce themselves to it, and clients repeat what was not answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from atlas import pairing
from atlas.aggregation import PERSONAL, handed_back
from atlas.decision import (
    Decision,
    Office,
    Stay,
    appoint,
    close,
    first_decision,
)
from atlas.drift import joined, joined_group, measured
from atlas.models import ProtocolError
from atlas.pairing import Capability, PairingError, Plan
from atlas.protocol import (
    ADAPTERS,
    CONTROL,
    MOST_AGAIN_S,
    Accepted,
    AskMerged,
    AskOrders,
    AskOwn,
    AskThere,
    Assignment,
    Chain,
    CoordinatorRequest,
    Hello,
    Lead,
    Manifest,
    Orders,
    Over,
    Refused,
    Signature,
    Tensors,
    UnansweredError,
    answer_within_s,
)
from atlas.roles.council import Council
from atlas.roles.member import PAUSE_S, Member
from atlas.roles.patience import monotonic_s
from atlas.roles.settings import RunSettings
from atlas.semantics import Landmarks, Neighborhoods, cluster, decode, place
from broker import Message, Node
from topologies import InputError
from topologies.units import duration

JOIN_S = 300.0
"""How long it waits for hosts."""
FAREWELL_S = 300.0
"""How long it waits, once it has all adapters, for clients to say that they are through."""
WATCH_S = 10.0
"""How often aggregators are asked whether they are there; while they are, ever more seldom."""
CLUSTERING_FLOPS = 1e7


Fetched = tuple[Manifest, tuple[bytes, ...]]
"""Packed tensors."""


@dataclass(frozen=True)
class NeighborhoodResult:
    """One neighborhood's members, and what came of their last round, as it is handed back; where
    each of them has an adapter of its own, these as well.
    """

    name: str
    members: tuple[str, ...]
    merged: Fetched
    own: dict[str, Fetched]


@dataclass(frozen=True)
class Outcome:
    """What the program of whoever coordinates at the end returns."""

    neighborhoods: tuple[NeighborhoodResult, ...]
    silhouette: float | None
    p_value: float | None


class Desk:
    """What a coordinator does in one term."""

    def __init__(self, node: Node, settings: RunSettings, council: Council, member: Member) -> None:
        self._node = node
        self._settings = settings
        self._council = council
        self._member = member
        self._began_s = monotonic_s()
        self._changed = asyncio.Event()
        self._hellos: dict[str, Hello] = {}
        self._halves: dict[str, np.ndarray] = {}
        self._waiting: dict[tuple[str, str], Message] = {}
        self._provisional: Plan | None = None
        self._plan: Plan | None = None
        self._moves: tuple[Stay, ...] = ()

    def _tell(self) -> None:
        """Wakes all who wait for something to change."""
        self._changed.set()
        self._changed = asyncio.Event()

    # What devices ask.

    async def serve(self, message: Message, request: CoordinatorRequest) -> None:
        """Answers a device, at once or when the answer is known."""
        match request:
            case Hello():
                if request.examples:
                    self._require_client(message.source)
                self._hellos[message.source] = request
                if request.examples and request.round is None and self._settings.signs:
                    self._waiting[message.source, "hello"] = message
                else:
                    await message.reply(Accepted().header())
            case Signature():
                self._require_client(message.source)
                if self._settings.signs:
                    self._halves.setdefault(message.source, self._read_halves(message))
                self._waiting[message.source, "signature"] = message
            case AskOrders():
                await message.reply(self._orders().header())
            case Over():
                await self._over(message, request)
        self._tell()

    def _require_client(self, name: str) -> None:
        if name not in self._settings.clients:
            raise ProtocolError(f"{name} is none of this run's clients")

    def _read_halves(self, message: Message) -> np.ndarray:
        try:
            return decode(b"".join(message.payload), self._settings.signature.dimensions)
        except ValueError as error:
            raise ProtocolError(f"the signature that {message.source} sent: {error}") from None

    def _orders(self) -> Orders | Refused:
        if self._member.knows_decision:
            return self._member.orders()
        return Refused(reason="nothing is decided yet")

    async def _over(self, message: Message, over: Over) -> None:
        """Closes the round, if it may be, and answers with what holds then."""
        offices = self._member.decision.offices if self._member.knows_decision else {}
        office = offices.get(over.neighborhood)
        is_theirs = office is not None and office.aggregator == message.source
        if is_theirs and 0 <= over.round < self._settings.training.rounds:
            await self._council.decide(lambda now: None if now is None else self._closed(now, over))
        await message.reply(self._orders().header())
        is_measured = is_theirs and self._settings.measures(over.round)
        if is_measured and self._member.decision.passed(over.round):
            moved = self._note_moves(self._member.decision)
            await self._proclaim(self._member.decision, aggregators=not moved)

    def _closed(self, decision: Decision, over: Over) -> Decision:
        members = decision.members(over.neighborhood, over.round)
        present = [name for name in members if name in over.present]
        membership = self._settings.membership
        share = membership.least if membership.late == "drop" else 1.0
        if not present or len(present) < share * len(members):
            return decision
        closed = close(decision, over.neighborhood, over.round, over.office, present)
        if closed == decision or not self._settings.measures(over.round):
            return closed
        settings = self._settings
        size = 2 * settings.signature.dimensions
        signed = {
            name: over.signatures[name]
            for name in present
            if len(over.signatures.get(name, b"")) == size
        }
        return measured(
            closed,
            over.round,
            signed,
            settings.clients,
            dimensions=settings.signature.dimensions,
            significance=settings.drift.significance
            / (len(settings.clients) * (settings.signatures - 1)),
        )

    async def _decide(self, change: Callable[[Decision], Decision]) -> None:
        await self._stand(self._council.decide(lambda now: None if now is None else change(now)))

    async def _stand(self, deciding: Awaitable[bool]) -> None:
        """Returns when it is decided; never where this is the coordinator no longer. Then the desk
        is ended.
        """
        if not await deciding:
            await asyncio.Event().wait()

    # What the coordinator does.

    async def run(self) -> Outcome:
        """Its whole term, up to the last adapter where it lasts so long."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._summon()), group.create_task(self._answer())]
            if self._council.decision is None:
                await self._found()
            else:
                await self._stand(self._council.until_committed())
            decision = self._member.decision
            self._moves = decision.stays
            self._note_neighborhoods(decision)
            self._declare_aggregators(decision)
            self._tell()
            tasks.append(group.create_task(self._watch()))
            outcome = await self._conclude()
            for task in tasks:
                task.cancel()
        return outcome

    async def _summon(self) -> None:
        """Tells all devices who coordinates now, until they have introduced themselves. In the
        first term they do so by themselves, and voters know.
        """
        lead = Lead(term=self._council.term, version=(0, 0), next_s=0.0, decision=None)
        pause_s = PAUSE_S
        while lead.term > 1:
            for name in self._settings.devices:
                if name not in self._hellos and name not in self._settings.voters:
                    await self._node.send(name, lead.header(), purpose=CONTROL, datagram=True)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MOST_AGAIN_S)

    async def _found(self) -> None:
        """From the first hello to the first decision."""
        settings, wait_s = self._settings, duration(self._settings.membership.wait)
        await self._until(settings.introducing, self._hellos, min(JOIN_S, wait_s))
        clients = await self._some(settings.clients, self._hellos, wait_s)
        clients = self._taking_part(clients)
        self._check_memory()
        self._provisional = await self._first_plan(clients, wait_s)
        self._tell()
        found: Neighborhoods | None = None
        if settings.signs:
            clients = await self._some(clients, self._halves, max(wait_s, JOIN_S))
            found = await self._node.compute(
                lambda: cluster({name: self._halves[name] for name in clients}, seed=settings.seed),
                flops=CLUSTERING_FLOPS,
            )
        groups = self._settled(clients) if settings.groups or found is None else found.members
        members = {
            _name(index): {name: self._hellos[name].examples for name in group}
            for index, group in enumerate(groups)
        }
        decision = first_decision(
            members,
            {name: self._ranked(list(group))[0] for name, group in members.items()},
            _between_groups(found, groups, clients),
            settings.clients,
            silhouette=None if found is None or settings.groups else found.silhouette,
            p_value=None if found is None else found.p_value,
            landmarks={} if found is None else found.landmarks.plain(),
            alike={} if found is None else self._alike(found, clients),
        )
        await self._stand(self._council.decide(lambda now: decision if now is None else now))

    def _taking_part(self, clients: Sequence[str]) -> list[str]:
        """Those who do not sit out, as one does who can't hold what its method has it hold."""
        taking = [name for name in clients if self._hellos[name].examples]
        if not taking:
            raise InputError(
                "no client grants what a step of the whole model takes, so all sit out",
                key="split.placement",
                remedy="Say memory: ample, grant more, or split",
            )
        return taking

    def _settled(self, clients: Sequence[str]) -> list[list[str]]:
        """The groups that were settled before the run, in the order of their first clients."""
        groups: dict[str, list[str]] = {}
        for name in clients:
            groups.setdefault(self._settings.groups[name], []).append(name)
        return list(groups.values())

    def _alike(self, found: Neighborhoods, clients: Sequence[str]) -> dict[str, list[float]]:
        """How alike signatures are, where the method of aggregation goes by it."""
        if not self._settings.aggregation.weighs_signatures:
            return {}
        return dict(zip(clients, found.similarity.tolist(), strict=True))

    async def _first_plan(self, clients: Sequence[str], wait_s: float) -> Plan:
        """A plan with the devices that are here, or with more that come within so long."""
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    known = len(self._hellos)
                    with contextlib.suppress(PairingError):
                        return self._plan_for([clients], [[1.0]])
                    while len(self._hellos) == known:
                        await self._changed.wait()
        except TimeoutError:
            return self._plan_for([clients], [[1.0]], remedies=True)

    async def _some(
        self, clients: Sequence[str], known: Container[str], seconds: float
    ) -> list[str]:
        """The clients that are known within so long. Raises UnansweredError where none is."""
        await self._until(clients, known, seconds)
        some = [name for name in clients if name in known]
        if not some:
            raise UnansweredError(f"nothing came from {', '.join(clients)} in {seconds:,.0f} s")
        if len(some) < len(clients):
            missing = [name for name in clients if name not in known]
            self._node.note("left out", clients=missing, waited_s=seconds)
        return some

    async def _until(self, names: Sequence[str], known: Container[str], seconds: float) -> None:
        """Waits until all `names` are known, and no longer than that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not all(name in known for name in names):
                    await self._changed.wait()

    def _check_memory(self) -> None:
        """The premise of a split run: no device could hold a whole step."""
        for name, hello in self._hellos.items():
            scarce = self._settings.split.placement == "peers" and not self._settings.ample
            if scarce and hello.grant_bytes >= hello.whole_step_bytes:
                raise InputError(
                    f"{name} grants {hello.grant_bytes:,} bytes, and a whole training step takes "
                    f"{hello.whole_step_bytes:,}: it has no need of a split",
                    key="topology",
                    remedy="Grant less, take a larger model, or train it whole",
                )
            if hello.examples and hello.free_bytes < 0:
                raise InputError(
                    f"{name} grants {hello.grant_bytes:,} bytes, and its own part of a step takes "
                    f"{hello.ends_bytes:,}",
                    key="split.client_layers",
                    remedy="Keep fewer layers at the client, or grant more memory",
                )

    # Chains and places.

    async def _answer(self) -> None:
        """Gives chains and assignments to those who wait for them, as soon as there are any."""
        while True:
            changed = self._changed
            for (name, what), message in list(self._waiting.items()):
                try:
                    body = await (self._chain(name) if what == "hello" else self._assignment(name))
                except PairingError as error:  # who comes late can't end a run
                    self._node.note("no room", client=name, problem=str(error))
                    continue
                if body is not None and self._waiting.get((name, what)) is message:
                    del self._waiting[name, what]
                    await message.reply(body.header())
            await changed.wait()

    async def _chain(self, name: str) -> Chain | None:
        """A provisional chain; for who comes late as soon as there are neighborhoods."""
        if self._provisional is None or name not in self._provisional.chains:
            if not self._member.knows_decision:
                return None
            await self._until_joined()
            known = [client for client in self._settings.clients if client in self._hellos]
            clients = self._taking_part(known)
            self._provisional = self._plan_for([clients], [[1.0]])
        return _as_message(self._provisional.chains[name], self._provisional)

    async def _assignment(self, name: str) -> Assignment | None:
        if not self._member.knows_decision or name not in self._hellos:
            return None
        if self._member.decision.home(name) is None:
            await (self._place_in_group(name) if self._settings.groups else self._place(name))
        if self._plan is None or name not in self._plan.chains:
            await self._until_joined()
            self._plan = self._plan_neighborhoods(self._member.decision)
        home = self._member.decision.home(name)
        assert home is not None, "who belonged somewhere does for ever"
        chain = _as_message(self._plan.chains[name], self._plan)
        chain = chain.model_copy(update={"sharing": self._sharing(name, self._plan)})
        self._note_pairing(name, home.neighborhood, chain)
        orders = self._member.orders()
        return Assignment(
            term=orders.term, number=orders.number, decision=orders.decision, chain=chain
        )

    def _sharing(self, name: str, plan: Plan) -> list[list[str]]:
        """Who shares the trunk of each of a client's spans: those whom its host serves there, from
        the start on. One that comes late has its own.
        """
        if self._settings.split.trunk == "own":
            return []
        first = [stay.client for stay in self._member.decision.stays if stay.since == 0]
        if name not in first:
            return [[name] for _ in plan.cost.spans]
        chains = {each: plan.chains[each] for each in first if each in plan.chains}
        return [
            [each for each, chain in chains.items() if chain.hosts[span] == host]
            for span, host in enumerate(plan.chains[name].hosts)
        ]

    async def _place(self, name: str) -> None:
        """Finds the neighborhood that a client fits who comes late, or one of its own, and a chain
        for it. The others keep theirs.
        """
        await self._until_joined()
        halves = self._halves[name]
        found = place(halves, Landmarks.read(self._member.decision.landmarks))
        change = functools.partial(
            joined,
            client=name,
            placement=found,
            halves=halves,
            examples=self._hellos[name].examples,
            order=self._settings.clients,
            rounds=self._settings.training.rounds,
        )
        self._plan = self._plan_neighborhoods(change(self._member.decision))
        await self._decide(change)
        home = self._member.decision.home(name)
        assert home is not None, "it was given one"
        self._node.note(
            "placed",
            client=name,
            neighborhood=home.neighborhood,
            round=home.since,
            p_value=found.p_value,
        )

    async def _place_in_group(self, name: str) -> None:
        """A client that comes late goes where its group is, or is alone."""
        await self._until_joined()
        change = functools.partial(
            joined_group,
            client=name,
            groups=self._settings.groups,
            examples=self._hellos[name].examples,
            order=self._settings.clients,
        )
        self._plan = self._plan_neighborhoods(change(self._member.decision))
        await self._decide(change)

    async def _until_joined(self) -> None:
        """A new coordinator gives the devices a while to introduce themselves."""
        seconds = self._began_s + JOIN_S - monotonic_s()
        await self._until(self._settings.introducing, self._hellos, max(seconds, 0.0))

    def _plan_neighborhoods(self, decision: Decision) -> Plan:
        """Chains inside neighborhoods; so far as clients are known here."""
        groups = {name: list[str]() for name in decision.offices}
        for client in self._settings.clients:
            home = decision.home(client)
            if home is not None and client in self._hellos:
                groups[home.neighborhood].append(client)
        plan = self._plan_for(list(groups.values()), decision.similarity)
        for (name, members), lent in zip(groups.items(), plan.lent, strict=True):
            self._node.declare(f"hosts of {name}", lent)
            for member in members:
                self._node.declare(f"hosts of the neighborhood of {member}", lent)
        return plan

    def _plan_for(
        self,
        neighborhoods: Sequence[Sequence[str]],
        similarity: Sequence[Sequence[float]],
        *,
        remedies: bool = False,
    ) -> Plan:
        """Raises PairingError where the devices that are here can't host the clients' layers."""
        settings, placement = self._settings, self._settings.split.placement
        clients = {name: self._capability(name) for group in neighborhoods for name in group}
        if settings.whole:
            return pairing.unsplit(clients, neighborhoods, settings.own_cost)
        present = [name for name in settings.introducing if name in self._hellos]
        hosts = [self._capability(name) for name in present if not self._hellos[name].examples]
        if placement == "server":
            hosts = [host for host in hosts if host.name == settings.coordinator]
            clients = {name: replace(one, free_bytes=0) for name, one in clients.items()}
        return pairing.plan(
            clients,
            hosts,
            neighborhoods,
            similarity,
            settings.step_costs(),
            settings.split.spare,
            rule="cheapest" if placement == "server" else settings.split.pairing,
            seed=settings.seed,
            remedies=remedies,
        )

    def _capability(self, name: str) -> Capability:
        hello = self._hellos[name]
        return Capability(
            name,
            hello.free_bytes,
            hello.flops,
            hello.uplink_bps,
            hello.downlink_bps,
            hello.delay_s,
        )

    # Aggregators.

    def _ranked(self, members: Sequence[str]) -> list[str]:
        """Members by how much their way to the network carries."""
        known = [name for name in members if name in self._hellos]
        return sorted(known, key=lambda name: (-self._hellos[name].uplink_bps, name))

    async def _watch(self) -> None:
        """Puts another in the place of an aggregator that has been silent for long."""
        heard: dict[Office, float] = {}
        long_s = duration(self._settings.membership.replace)
        pause_s = WATCH_S
        while True:
            offices = dict(self._member.decision.offices)
            there = await asyncio.gather(
                *(self._is_there(office.aggregator) for office in offices.values())
            )
            for (name, office), alive in zip(offices.items(), there, strict=True):
                last_s = heard.setdefault(office, monotonic_s())
                if alive:
                    heard[office] = monotonic_s()
                elif monotonic_s() - last_s >= long_s:
                    await self._replace(name, office)
            pause_s = min(2 * pause_s, MOST_AGAIN_S / 5) if all(there) else WATCH_S
            await asyncio.sleep(pause_s)

    async def _is_there(self, name: str) -> bool:
        within_s = answer_within_s(self._node, name)
        return await self._member.ask(name, AskThere(), within_s=within_s) is not None

    async def _replace(self, name: str, office: Office) -> None:
        decision = self._member.decision
        number = min(decision.running(name), self._settings.training.rounds - 1)
        for member in self._ranked(list(decision.members(name, number))):
            if member == office.aggregator or not await self._is_there(member):
                continue
            change = functools.partial(
                appoint, neighborhood=name, aggregator=member, instead_of=office
            )
            await self._decide(change)
            decision = self._member.decision
            self._node.note(
                "replaced",
                neighborhood=name,
                lost=office.aggregator,
                aggregator=decision.offices[name].aggregator,
                term=decision.offices[name].term,
            )
            self._declare_aggregators(decision)
            await self._proclaim(decision)
            return

    async def _proclaim(self, decision: Decision, *, aggregators: bool = False) -> None:
        """Tells what is decided to all whom it concerns, or to aggregators alone; who does not hear
        it will ask.
        """
        orders = self._member.orders()
        presiding = {office.aggregator for office in decision.offices.values()}
        for client in self._settings.clients:
            concerned = decision.home(client) is not None
            if client != self._node.name and (client in presiding if aggregators else concerned):
                await self._node.send(client, orders.header(), purpose=CONTROL, datagram=True)

    # The end.

    async def _conclude(self) -> Outcome:
        """Waits for the last round and fetches what came of it."""
        rounds = self._settings.training.rounds
        await self._member.until(
            lambda: all(len(each) == rounds for each in self._member.decision.closed.values())
        )
        decision = self._member.decision
        async with asyncio.TaskGroup() as group:
            fetching = {
                name: group.create_task(self._fetch(name, rounds - 1)) for name in decision.offices
            }
        through = _Through(self._hellos, rounds)
        counted = [name for each in decision.offices for name in decision.counted(each, rounds - 1)]
        await self._until(counted, through, FAREWELL_S)
        self._node.note("finished", rounds=rounds, steps=self._settings.training.steps)
        own = await self._fetch_own(counted)
        return Outcome(
            tuple(
                NeighborhoodResult(
                    name,
                    tuple(members := decision.members(name, rounds - 1)),
                    fetching[name].result(),
                    {member: own[member] for member in members if member in own},
                )
                for name in decision.offices
            ),
            decision.silhouette,
            decision.p_value,
        )

    async def _fetch_own(self, clients: Sequence[str]) -> dict[str, Fetched]:
        """What each client ended up with, where that is its own: of those who are there to give it.
        It is for the experimenter, and nobody trains with it.
        """
        found: dict[str, Fetched] = {}
        if self._settings.aggregation.method not in PERSONAL:
            return found
        size, until_s = self._settings.adapter_bytes, monotonic_s() + FAREWELL_S
        last = self._settings.training.rounds - 1
        while len(found) < len(clients) and monotonic_s() < until_s:
            for name in clients:
                within_s = answer_within_s(self._node, name, answer_bytes=size)
                answer = name not in found and await self._member.ask(
                    name, AskOwn(), purpose=ADAPTERS, within_s=within_s
                )
                if not answer:
                    continue
                body, reply = answer
                if isinstance(body, Tensors) and body.round == last:
                    found[name] = body.manifest, tuple(bytes(part) for part in reply.payload)
            if len(found) < len(clients):
                await asyncio.sleep(PAUSE_S)
        return found

    async def _fetch(self, name: str, number: int) -> Fetched:
        while True:
            body, reply = await self._member.ask_office(
                name,
                lambda _: AskMerged(neighborhood=name, round=number),
                purpose=ADAPTERS,
                answer_bytes=self._settings.adapter_bytes,
            )
            known = self._member.read(body, reply, handed_back)
            if known is not None and isinstance(body, Tensors):
                return body.manifest, tuple(bytes(part) for part in reply.payload)
            await asyncio.sleep(PAUSE_S)

    # What is told to the experimenter.

    def _note_neighborhoods(self, decision: Decision) -> None:
        latest = {stay.client: stay for stay in decision.stays}.values()
        self._node.note(
            "neighborhoods",
            members={
                name: [stay.client for stay in latest if stay.neighborhood == name]
                for name in decision.offices
            },
            silhouette=decision.silhouette,
            p_value=decision.p_value,
        )

    def _declare_aggregators(self, decision: Decision) -> None:
        """So that a scenario can strike `the elected aggregator of client-0`."""
        aggregators = {name: office.aggregator for name, office in decision.offices.items()}
        self._node.declare("the elected aggregator", list(aggregators.values())[:1])
        self._node.declare("the elected aggregators", list(aggregators.values()))
        for name, aggregator in aggregators.items():
            self._node.declare(f"the elected aggregator of {name}", [aggregator])
        for stay in decision.stays:
            aggregator = aggregators[stay.neighborhood]
            self._node.declare(f"the elected aggregator of {stay.client}", [aggregator])

    def _note_moves(self, decision: Decision) -> bool:
        """Tells who has been moved since it was told last, and whether anybody was."""
        last, moves = dict[str, Stay](), len(self._moves)
        for stay in decision.stays:
            before = last.get(stay.client)
            if before is not None and stay not in self._moves:
                self._node.note(
                    "drifted",
                    client=stay.client,
                    left=before.neighborhood,
                    neighborhood=stay.neighborhood,
                    round=stay.since,
                )
            last[stay.client] = stay
        self._moves = decision.stays
        self._declare_aggregators(decision)
        return len(self._moves) > moves

    def _note_pairing(self, client: str, neighborhood: str, chain: Chain) -> None:
        self._node.note(
            "paired",
            client=client,
            neighborhood=neighborhood,
            chain=[
                {"first": first, "last": last, "host": host}
                for (first, last), host in zip(chain.spans, chain.hosts, strict=True)
            ],
            stand_ins=chain.stand_ins,
            codec=self._settings.codec(client),
        )


class _Through(Container[str]):
    """Those who have said that they are through with all rounds."""

    def __init__(self, hellos: Mapping[str, Hello], rounds: int) -> None:
        self._hellos = hellos
        self._rounds = rounds

    def __contains__(self, name: object) -> bool:
        hello = self._hellos.get(str(name))
        return hello is not None and hello.round is not None and hello.round >= self._rounds


def _as_message(chain: pairing.Hosting, plan: Plan) -> Chain:
    return Chain(
        spans=[(span.first, span.last) for span in plan.cost.spans],
        hosts=list(chain.hosts),
        stand_ins=[list(hosts) for hosts in chain.stand_ins],
        fallbacks=[list(hosts) for hosts in chain.fallbacks],
    )


def _name(index: int) -> str:
    return f"neighborhood-{index}"


def _between_groups(
    found: Neighborhoods | None, members: Sequence[Sequence[str]], clients: Sequence[str]
) -> list[list[float]]:
    """Mean similarity of the members of each two neighborhoods; without signatures each is like
    itself alone.
    """
    if found is None:
        return np.eye(len(members)).tolist()
    position = {name: index for index, name in enumerate(clients)}
    groups = [[position[name] for name in group] for group in members]
    return [
        [float(found.similarity[np.ix_(here, there)].mean()) for there in groups] for here in groups
    ]
