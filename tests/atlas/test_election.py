"""Elections, whatever happens to messages and voters: pure machines, driven by Hypothesis."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas.protocol import ElectionMessage, Lead
from atlas.roles.election import QUORUM_S, Ballot, Election

NAMES = ("coordinator", "client-0", "client-1", "client-2", "client-3")


class World:
    """Voters, their disks, and the letters under way."""

    def __init__(self, names: tuple[str, ...] = NAMES, seed: int = 0) -> None:
        self.names, self.seed, self.now_s = names, seed, 0.0
        self.disks: dict[str, Ballot | None] = dict.fromkeys(names)
        self.alive: dict[str, Election] = {}
        self.letters: list[tuple[str, str, ElectionMessage]] = []
        self.leaders: dict[int, str] = {}
        self.committed: list[Any] = []
        self.decisions = 0
        for name in names:
            self.start(name)

    def start(self, name: str) -> None:
        kept = self.disks[name]
        machine = Election(name, self.names, self.names[0], kept, seed=self.seed, now_s=self.now_s)
        assert kept is None or machine.ballot == kept
        self.alive[name] = machine
        self.settle(name, [])

    def settle(self, name: str, letters: list[tuple[str, ElectionMessage]]) -> None:
        """The ballot is written, then the letters leave; what must hold is looked at."""
        machine, kept = self.alive[name], self.disks[name]
        if kept is not None:
            assert machine.ballot.term >= kept.term
            assert machine.ballot.version >= kept.version
            same_term = machine.ballot.term == kept.term
            assert not (same_term and kept.vote is not None and machine.ballot.vote != kept.vote)
        self.disks[name] = machine.ballot
        self.letters += [(name, to, message) for to, message in letters]
        if machine.leads:
            assert self.leaders.setdefault(machine.term, name) == name
        if machine.committed is not None:
            self.commit(machine)

    def commit(self, machine: Election) -> None:
        """Each decision is the list of all before it and itself: none may be undone."""
        assert machine.committed is not None
        if machine.committed == machine.ballot.version[1]:
            history = machine.ballot.decision.get("history", [])
            shorter = min(len(history), len(self.committed))
            assert history[:shorter] == self.committed[:shorter]
            self.committed = max(self.committed, history, key=len)

    def tick(self, name: str) -> None:
        if name in self.alive:
            self.settle(name, self.alive[name].tick(self.now_s))

    def decide(self, name: str) -> None:
        machine = self.alive.get(name)
        if machine is not None and machine.leads:
            self.decisions += 1
            history = [*machine.ballot.decision.get("history", []), self.decisions]
            self.settle(name, machine.decide({"history": history}, self.now_s))

    def deliver(self, index: int, *, keep: bool = False) -> None:
        if self.letters:
            index %= len(self.letters)
            letter = self.letters[index] if keep else self.letters.pop(index)
            self.hand(letter)

    def hand(self, letter: tuple[str, str, ElectionMessage]) -> None:
        source, to, message = letter
        if to in self.alive:
            self.settle(to, self.alive[to].receive(source, message, self.now_s))

    def live(self, seconds: float, apart: frozenset[str] = frozenset()) -> None:
        """Time passes: each letter takes no time, none gets into `apart` or out of it."""
        until_s = self.now_s + seconds
        while True:
            while self.letters:
                letter = self.letters.pop(0)
                if (letter[0] in apart) == (letter[1] in apart):
                    self.hand(letter)
            due_s = min(machine.due_s for machine in self.alive.values())
            if due_s > until_s:
                break
            self.now_s = max(self.now_s, due_s)
            for name in self.names:
                self.tick(name)
        self.now_s = until_s

    @property
    def leader(self) -> str:
        """Who leads the greatest term."""
        leading = [machine for machine in self.alive.values() if machine.leads]
        return max(leading, key=lambda machine: machine.term)._name


def words() -> st.SearchStrategy[list[tuple[str, int]]]:
    acts = ["wait", "tick", "decide", "deliver", "double", "lose", "crash", "start"]
    weights = ["deliver"] * 10 + ["tick"] * 4 + ["wait"] * 3 + acts
    return st.lists(st.tuples(st.sampled_from(weights), st.integers(0, 60)), max_size=150)


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(words(), st.sampled_from([3, 4, 5]))
def test_whatever_happens_no_term_has_two_leaders_and_no_decision_is_undone(
    acts: list[tuple[str, int]], size: int
) -> None:
    world = World(NAMES[:size])
    for act, number in acts:
        name = world.names[number % size]
        match act:
            case "wait":
                world.now_s += number
            case "tick":
                world.tick(name)
            case "decide":
                world.decide(name)
            case "deliver" | "double":
                world.deliver(number, keep=act == "double")
            case "lose" if world.letters:
                world.letters.pop(number % len(world.letters))
            case "crash":
                world.alive.pop(name, None)
            case "start" if name not in world.alive:
                world.start(name)
    for name in world.names:
        if name not in world.alive:
            world.start(name)
    world.live(1000.0)
    leader = world.alive[world.leader]
    assert leader.committed == leader.ballot.version[1]
    assert leader.ballot.decision.get("history", [])[: len(world.committed)] == world.committed


def test_the_coordinator_leads_from_the_start_and_nobody_stands_against_it() -> None:
    world = World()
    world.live(5000.0)

    assert world.leader == "coordinator"
    assert world.leaders == {1: "coordinator"}


def test_another_is_elected_when_it_is_gone_and_has_what_was_decided() -> None:
    world = World()
    world.live(3.0)
    world.decide("coordinator")
    world.live(3.0)
    del world.alive["coordinator"]
    world.live(200.0)

    assert world.leader != "coordinator"
    assert world.alive[world.leader].ballot.decision == {"history": [1]}


def test_one_that_comes_back_at_once_leads_again_in_the_next_term() -> None:
    world = World()
    world.live(3.0)
    del world.alive["coordinator"]
    world.live(1.0)
    world.start("coordinator")
    world.live(1.0)

    assert world.leaders == {1: "coordinator", 2: "coordinator"}


def test_a_leader_cut_off_with_a_minority_decides_nothing_and_yields_when_the_cut_heals() -> None:
    world = World()
    world.live(3.0)
    apart = frozenset({"coordinator", "client-0"})
    world.live(4.0, apart)
    world.decide("coordinator")
    world.live(300.0, apart)
    chosen = world.leader
    world.decide(chosen)
    world.live(300.0, apart)

    assert chosen not in apart
    assert world.committed == [2]
    assert not world.alive["coordinator"].leads, "who hears no majority resigns"
    assert world.alive["client-0"].term == 1, "the minority's term does not grow"

    world.live(300.0)
    assert world.leader == chosen
    assert all(machine.ballot.decision == {"history": [2]} for machine in world.alive.values())


def test_one_that_was_cut_off_does_not_disturb_the_others_when_it_is_back() -> None:
    world = World()
    world.live(1000.0, frozenset({"client-3"}))
    world.live(1000.0)

    assert world.leaders == {1: "coordinator"}


def test_signs_of_life_get_rare_when_nothing_happens() -> None:
    world = World(seed=3)
    beats = 0
    hand = world.hand

    def count(letter: tuple[str, str, ElectionMessage]) -> None:
        nonlocal beats
        beats += isinstance(letter[2], Lead)
        hand(letter)

    world.hand = count  # type: ignore[method-assign]
    world.live(24 * 3600.0)

    assert beats < 4 * 24 * 65


def test_nobody_is_elected_without_a_majority() -> None:
    world = World()
    for name in ("coordinator", "client-0", "client-1"):
        del world.alive[name]
    world.live(24 * 3600.0)

    assert world.leaders == {1: "coordinator"}


def test_two_seeds_elect_after_different_times() -> None:
    def elected_s(seed: int) -> float:
        world = World(seed=seed)
        world.live(QUORUM_S)
        del world.alive["coordinator"]
        while 2 not in world.leaders:
            world.live(0.05)
        return world.now_s

    assert len({round(elected_s(seed), 2) for seed in range(4)}) > 1


def test_who_is_no_voter_is_not_heard() -> None:
    world = World()
    forged = {"history": ["forged"]}
    lead = Lead.model_construct(term=9, version=(9, 9), next_s=1.0, decision=forged)

    assert world.alive["client-0"].receive("host-0", lead, 0.0) == []
    assert world.alive["client-0"].term == 1


@pytest.mark.parametrize("size", [1, 2])
def test_a_world_of_one_or_two_voters_has_a_leader_as_long_as_all_are_there(size: int) -> None:
    world = World(NAMES[:size])
    world.live(10.0)
    world.decide("coordinator")
    world.live(10.0)

    assert world.committed == [1]


def test_a_voter_alone_that_was_away_leads_again_at_once_and_knows_what_was_decided() -> None:
    world = World(NAMES[:1])
    world.decide("coordinator")
    del world.alive["coordinator"]
    world.start("coordinator")
    world.live(10.0)
    world.decide("coordinator")

    assert world.alive["coordinator"].term == 2
    assert world.committed == [1, 2]
