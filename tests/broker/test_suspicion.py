"""A failure detector: right most of the time, and wrong where anybody would be."""

from __future__ import annotations

import asyncio
import math

import pytest

import broker
from broker import BrokerError, DeadlockError, Node
from broker.suspicion import THRESHOLD, Detector
from tests.broker.worlds import crash, degrade, network, partition, strike

PAIR = network("a-b", "b-c")


async def watch_and_listen(node: Node) -> None:
    (peer,) = node.peers()
    await asyncio.sleep(1)
    node.suspects(peer)
    await node.receive()


# Pure.


def fed(gaps: list[float]) -> tuple[Detector, float]:
    """A detector that has seen signs so far apart, and when the last came."""
    detector, now = Detector(0.0), 0.0
    for gap in gaps:
        now += gap
        detector.alive(now)
    return detector, now


def test_suspicion_only_grows_with_silence():
    detector, now = fed([1.0] * 20)
    levels = [detector.phi(now + step / 10) for step in range(80)]
    assert levels == sorted(levels)
    assert levels[0] < 0.1
    assert math.inf > levels[50] > THRESHOLD or levels[50] == math.inf


def test_one_that_comes_regularly_is_suspected_soon_and_an_irregular_one_late():
    def patience(gaps: list[float]) -> float:
        detector, now = fed(gaps)
        return next(step / 100 for step in range(10_000) if detector.suspects(now + step / 100))

    regular, irregular = patience([1.0] * 50), patience([0.2, 1.8] * 25)
    assert 4 < regular < 5
    assert irregular > regular + 1


def test_one_as_regular_as_a_clock_is_not_suspected_for_being_late_by_a_hair():
    detector, now = fed([1.0] * 300)
    patience = next(step / 100 for step in range(1_000) if detector.suspects(now + step / 100))
    assert patience == pytest.approx(1 + 3 + 5.61 * 0.1, abs=0.01)


def test_a_sign_of_life_ends_all_suspicion():
    detector, now = fed([1.0] * 10)
    assert detector.suspects(now + 60)
    detector.alive(now + 60)
    assert not detector.suspects(now + 61)


# In a run.


def watched(faults, until_s: float = 40, peer: str = "b", topology=PAIR, **others):
    """When a came to suspect its peer, and when it trusted it again."""

    async def watch(node: Node) -> list[tuple[float, bool]]:
        turns: list[tuple[float, bool]] = []
        while node.now < until_s:
            suspects = node.suspects(peer)
            if not turns or turns[-1][1] != suspects:
                turns.append((node.now, suspects))
            await asyncio.sleep(0.1)
        return turns

    async def live(node: Node) -> None:
        async for _ in node:
            pass

    programs = {"a": watch, "b": live, **others}
    background = [name for name in programs if name != "a"]
    run = broker.run(programs, topology=topology, faults=faults, background=background)
    return run.returned["a"], run


def test_a_living_peer_is_not_suspected_and_its_watch_costs_messages():
    turns, run = watched([], until_s=300)
    assert turns == [(0, False)]
    heartbeats = [entry for entry in run.ledger if entry.purpose == "heartbeats"]
    assert 580 <= len(heartbeats) <= 602
    assert len(heartbeats) == len(run.ledger)


def test_a_dead_peer_is_suspected_within_some_seconds():
    turns, _ = watched(crash("b", 10))
    (_, first), (at_s, then) = turns
    assert (first, then) == (False, True)
    assert 13 < at_s < 16


def test_one_that_comes_back_is_trusted_again():
    turns, _ = watched(crash("b", 10, 20))
    assert [suspected for _, suspected in turns] == [False, True, False]
    assert 20 < turns[2][0] < 22


def test_one_behind_a_partition_is_suspected_wrongly_and_trusted_again():
    lived = []

    async def live(node: Node) -> None:
        while True:
            lived.append(node.now)
            await asyncio.sleep(1)

    turns, _ = watched(partition(["a"], ["b"], 10, 20), b=live)
    assert [suspected for _, suspected in turns] == [False, True, False]
    assert 13 < turns[1][0] < 16
    assert {11, 15, 19} <= set(lived)  # it was there all the time


def test_a_paused_peer_is_suspected_and_a_short_pause_forgiven():
    long, _ = watched(strike("pause", "b", 10, 20))
    short, _ = watched(strike("pause", "b", 10, 12))
    assert [suspected for _, suspected in long] == [False, True, False]
    assert short == [(0, False)]


def test_a_slow_link_is_not_death():
    turns, _ = watched(degrade("a", "b", 0.01, 5, 30))
    assert turns == [(0, False)]


def test_any_message_is_a_sign_of_life():
    """One whose heartbeats get lost but who talks is not suspected."""

    async def talk(node: Node) -> None:
        while True:
            await node.send("a", {})
            await asyncio.sleep(1)

    async def say_nothing(_: Node) -> None:
        await asyncio.Event().wait()

    lossy = PAIR.model_copy(
        update={
            "links": {
                ends: link.model_copy(update={"loss": 0.97}) if ends == ("a", "b") else link
                for ends, link in PAIR.links.items()
            }
        }
    )
    silent, _ = watched([], topology=lossy, b=say_nothing)
    talking, _ = watched([], topology=lossy, b=talk)
    assert any(suspected for _, suspected in silent)
    assert talking == [(0, False)]


def test_nobody_sees_heartbeats_and_a_peer_that_has_returned_is_suspected():
    async def leave(_: Node) -> None:
        await asyncio.sleep(10)

    turns, _ = watched([], b=leave)
    assert [suspected for _, suspected in turns] == [False, True]


def test_a_detector_runs_by_the_nodes_own_clock():
    """Half as fast a clock takes twice as long to lose patience."""
    turns, run = watched([*strike("skew", "a", 0, drift=-0.5), *crash("b", 10)], until_s=20)
    assert run.virtual_seconds >= 40 - 1
    (at_s,) = [at_s for at_s, suspected in turns if suspected]
    # At 10 s it shows 5, and then it waits some four of its seconds.
    assert 8 < at_s < 11


@pytest.mark.parametrize("processes", [1, 2])
def test_heartbeats_are_not_what_anybody_waits_for(processes):
    programs = {"a": watch_and_listen, "b": watch_and_listen}
    with pytest.raises(DeadlockError) as caught:
        broker.run(programs, topology=PAIR, processes=processes)
    assert 1 < caught.value.time_s < 15
    assert "receive" in caught.value.waiting["a"]


@pytest.mark.parametrize("rescue", ["timer", "message", "fault", "work"])
def test_what_comes_besides_heartbeats_is_waited_for(rescue):
    async def watch(node: Node) -> float:
        node.suspects("b")
        if node.incarnation:
            return node.now
        if rescue == "timer":
            await asyncio.sleep(200)
            return node.now
        if rescue == "work":
            await node.compute(lambda: None, flops=200e9)
            return node.now
        return (await node.receive()).arrived_at

    async def tell(node: Node) -> None:
        if rescue == "message":  # 200 s and more on the way, while all programs wait for it
            await node.send("a", {}, [bytes(200_000)])
        await node.receive()

    slow = network("a-b", bandwidth_bps=8e3)
    faults = crash("a", 100, 200) if rescue == "fault" else []
    programs = {"a": watch, "b": tell}
    run = broker.run(programs, topology=slow, background=["b"], faults=faults)
    assert 199 < run.returned["a"] < 250


def test_a_stranger_can_not_be_watched():
    async def main(node: Node) -> None:
        with pytest.raises(BrokerError, match="no program runs on a node 'z'"):
            node.suspects("z")

    broker.run({"a": main}, topology=PAIR)
