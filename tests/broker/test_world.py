"""A world: programs, the test among them, faults by hand, and the same run each time."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

import broker
from broker import BrokerError, DeadlockError, LimitError, ProgramError
from broker.testing import World
from faults import ScenarioError, parse, strategies
from tests.broker.worlds import STEADY, crash, network, slow

PAIR = network("a-b")
RING = network("a-b", "b-c", "c-a")


async def echo(node):
    async for message in node:
        await message.reply(message.header)


async def ask(node, times=3):
    return [
        (await node.request("b", {"i": i}, timeout=9)).header["i"] + node.now for i in range(times)
    ]


def test_a_program_does_the_same_in_a_world_as_in_a_run():
    async def client(node):
        seen = await ask(node)
        await asyncio.sleep(2)
        return seen, node.random.random()

    events = [*crash("b", 1.0, 1.5), *slow("b", 3, 0.01, 0.9)]
    run = broker.run(
        {"a": client, "b": echo}, topology=PAIR, faults=events, seed=4, background=["b"]
    )
    with World(PAIR, faults=events, seed=4) as world:
        returned = world.run(world.play({"a": client, "b": echo}, background=["b"]))
    assert returned == run.returned
    assert world.digest == run.digest


def test_a_test_holds_nodes_itself():
    with World(PAIR, seed=1) as world:
        a, b = world.node("a"), world.node("b")

        async def story():
            await a.send("b", {"say": "hello"}, [b"bytes"])
            message = await b.receive(timeout=1)
            return message.source, message.header, bytes(message.payload[0]), world.now

        source, header, payload, now = world.run(story())
    assert (source, header, payload) == ("a", {"say": "hello"}, b"bytes")
    assert 0.01 < now < 0.011
    assert world.node("a") is a
    assert world.ledger.fates() == {"delivered": 1}


def test_the_same_seed_gives_the_same_digest_and_another_does_not():
    def life(seed):
        with World(RING, faults=parse("timeline: [{at: 1 s, crash: any 1, for: 2 s}]"),
                   seed=seed) as world:  # fmt: skip
            for name in "abc":
                world.start(name, chat)
            world.run(asyncio.sleep(10))
            return world.digest

    async def chat(node):
        while True:
            await node.send(node.random.choice(node.peers()), {}, [node.random.randbytes(500)])
            await asyncio.sleep(node.random.random())

    assert life(1) == life(1) != life(2)


def test_a_test_sees_what_programs_did_at_its_instant_and_nothing_later():
    """No node runs ahead: within the time a message takes, a run lets each go by itself."""
    seen = []

    async def count(_):
        for i in range(100):
            seen.append(i)
            await asyncio.sleep(0.001)

    with World(PAIR) as world:
        world.start("a", count)

        async def story():
            await asyncio.sleep(0.0505)
            return len(seen)

        assert world.run(story()) == 51


def test_a_program_can_wake_the_test_but_not_the_other_way_round():
    with World(PAIR) as world:
        told = asyncio.Event()
        gate = asyncio.Event()

        async def tell(_):
            await asyncio.sleep(3)
            told.set()
            await gate.wait()

        world.start("a", tell)

        async def story():
            await told.wait()
            with pytest.raises(BrokerError, match="nodes share nothing but messages"):
                gate.set()
            return world.now

        assert world.run(story()) == 3


def test_what_a_program_returns_or_raises_comes_to_who_awaits_it():
    async def fail(node):
        await asyncio.sleep(1)
        raise ValueError(f"{node.name} has had enough")

    with World(PAIR) as world:

        async def story():
            assert await world.start("a", ask_nobody) == "a"
            failing = world.start("b", fail)
            with pytest.raises(ProgramError, match="b failed at 1"):
                await failing
            assert failing.has_ended

        world.run(story())


async def ask_nobody(node):
    return node.name


def test_a_program_that_fails_while_nobody_awaits_it_ends_the_test():
    async def fail(_):
        await asyncio.sleep(1)
        raise ValueError("enough")

    with World(PAIR) as world:
        world.start("a", fail)
        with pytest.raises(ProgramError, match="enough"):
            world.run(asyncio.sleep(60))
        assert world.now == 1


def test_faults_by_hand_hold_as_long_as_their_block():
    with World(PAIR, seed=2) as world:
        world.start("b", echo)
        a = world.node("a")

        async def answered(seconds):
            try:
                await a.request("b", {}, timeout=seconds)
            except TimeoutError:
                return False
            return True

        async def story():
            seen = []
            async with world.faults.partition(["a"], ["b"]):
                seen.append(await answered(3))
            seen.append(await answered(3))
            await world.faults.crash("b", for_="2 s")
            seen.append(await answered(1))
            await asyncio.sleep(2)
            seen.append(await answered(1))
            async with world.faults.degrade(link=["a", "b"], delay="+5 s"):
                seen.append(await answered(4))
            return seen

        assert world.run(story()) == [False, True, False, True, False]
        kinds = [(event.kind, event.phase) for event in world.struck]
    assert kinds[:3] == [("partition", "begin"), ("partition", "end"), ("crash", "begin")]
    assert kinds[-2:] == [("degrade", "begin"), ("degrade", "end")]


def test_a_block_that_is_left_early_leaves_nothing_of_its_fault():
    with World(PAIR) as world:

        async def story():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1), world.faults.flap(
                    nodes="a", down="100 ms", up="100 ms", for_="1 min"
                ):  # fmt: skip
                    await asyncio.sleep(30)
            assert world.to_come == ()

        world.run(story())


def test_a_whole_scenario_plays_from_now_on():
    evening = parse("name: evening\ntimeline: [{at: 2 s, crash: b, for: 1 s}]")
    with World(PAIR) as world:

        async def story():
            await asyncio.sleep(10)
            world.faults.play(evening)
            await asyncio.sleep(10)

        world.run(story())
        assert [event.at_ns / 1e9 for event in world.struck] == [12, 13]


def test_a_fault_that_there_is_not_is_refused_with_the_nearest():
    with World(PAIR) as world:
        with pytest.raises(AttributeError, match='Did you mean "partition"'):
            world.faults.partitoin(["a"], ["b"])
        with pytest.raises(ScenarioError, match="no node"):
            world.faults.crash("x")
        with pytest.raises(ScenarioError, match="takes the nodes it strikes"):
            world.faults.crash("a", nodes="b")


def test_a_node_in_the_tests_hands_is_off_the_network_while_a_crash_holds():
    with World(PAIR) as world:
        a, b = world.node("a"), world.node("b")

        async def story():
            await a.send("b", {"i": 0})
            await asyncio.sleep(1)
            async with world.faults.crash("b"):
                await a.send("b", {"i": 1})
                await asyncio.sleep(1)
            await a.send("b", {"i": 2})
            return (await b.receive()).header["i"]

        assert world.run(story()) == 2


def test_a_pause_holds_up_what_comes_to_a_node_in_the_tests_hands():
    with World(PAIR) as world:
        a, b = world.node("a"), world.node("b")

        async def story():
            async with world.faults.pause("b"):
                await a.send("b", {})
                with pytest.raises(TimeoutError):
                    await b.receive(timeout=5)
            await b.receive()
            return world.now

        assert world.run(story()) == 5


def test_a_program_that_starts_later_finds_the_faults_of_then():
    with World(PAIR, faults=parse("timeline: [{at: 1 s, crash: a, for: 4 s}]")) as world:

        async def story():
            await asyncio.sleep(2)
            return await world.start("a", when)

        async def when(node):
            return node.now, node.incarnation

        assert world.run(story()) == (5, 1)


def test_a_node_has_one_program_or_the_test():
    with World(PAIR) as world:
        world.start("a", echo)
        world.node("b")
        for name, says in (("a", "runs a program already"), ("b", "in the test's hands")):
            with pytest.raises(BrokerError, match=says):
                world.start(name, echo)
        with pytest.raises(BrokerError, match=r"Did you mean|The nodes are"):
            world.node("x")
        with pytest.raises(BrokerError, match="don't call it"):
            world.start("a", 3)


def test_a_deadlock_says_who_waits_for_what():
    with World(PAIR) as world:
        world.start("b", echo)

        async def story():
            await world.node("a").receive()

        with pytest.raises(DeadlockError) as caught:
            world.run(story())
    assert "story" in caught.value.waiting["the test"]
    assert "echo" in caught.value.waiting["b"]


def test_virtual_time_has_a_limit():
    with World(PAIR, limit_s=60) as world, pytest.raises(LimitError, match="60 virtual seconds"):
        world.run(asyncio.sleep(61))


def test_unread_messages_are_counted_and_notes_kept():
    async def note(node):
        node.note("here", i=1)
        await node.receive()

    with World(PAIR) as world:
        world.start("b", note)
        a = world.node("a")

        async def story():
            for _ in range(2):
                await a.send("b", {})
            await asyncio.sleep(1)
            await a.send("a", {})

        world.run(story())
        assert world.unread == {"a": 1}
        assert [(note.node, note.event, note.fields) for note in world.notes] == [
            ("b", "here", {"i": 1})
        ]


@settings(STEADY, max_examples=15)
@given(st.data())
def test_any_scenario_on_any_network_leaves_the_books_in_balance(data):
    topology = data.draw(strategies.topologies(max_nodes=4))
    scenario = data.draw(strategies.scenarios(topology, run_only=False))
    with World(topology, faults=scenario) as world:
        names = list(topology.nodes)

        async def chat(node):
            while True:
                for peer in node.peers():
                    await node.send(peer, {"from": node.name}, [bytes(100)])
                await asyncio.sleep(5)

        for name in names[1:]:
            world.start(name, chat)
        world.node(names[0])
        world.run(asyncio.sleep(60))


class Counter(RuleBasedStateMachine):
    """Adding over a network in which Hypothesis breaks things: each sum is added once."""

    def __init__(self):
        super().__init__()
        self.world = World(PAIR)
        self.added = self.kept = 0
        self.world.start("b", self.keep)
        self.client = self.world.node("a")

    async def keep(self, node):
        async for message in node:
            self.kept += message.header["sum"]
            await message.reply({})

    @rule(number=st.integers(1, 9))
    def add(self, number):
        async def story():
            await self.client.request("b", {"sum": number}, timeout=3600)
            self.added += number

        self.world.run(story())

    @rule(entry=strategies.entries(PAIR, kinds=("loss", "degrade", "cut"), run_only=False))
    def break_something(self, entry):
        self.world.run(self.strike(entry | {"for": "10 s"}))

    async def strike(self, entry):
        await self.world.faults.inject(entry | {"at": "0 s"})
        await asyncio.sleep(1)

    @invariant()
    def nothing_is_lost_or_added_twice(self):
        assert self.kept == self.added

    def teardown(self):
        self.world.check()
        self.world.close()


def test_hypothesis_breaks_things_between_the_steps_of_a_stateful_test():
    run_state_machine_as_test(
        Counter, settings=settings(STEADY, max_examples=8, stateful_step_count=8)
    )
