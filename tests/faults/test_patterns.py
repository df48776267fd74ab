"""Swizzles, rings and random scenarios are what their names say, and the same everywhere."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import faults
import topologies
from faults import Scenario, patterns, strategies
from faults.patterns import Dice

SECOND = 10**9
NAMES = tuple(f"phone-{number}" for number in range(7))


@pytest.fixture(scope="module")
def edge_clusters():
    return topologies.load("edge-clusters")


def flat(names: tuple[str, ...]) -> topologies.Topology:
    nodes = [topologies.Node(name=name) for name in ("hub", *names)]
    links = [
        topologies.Link(source=a, target=b, bandwidth_bps=1e6, delay_s=0.01)
        for name in names
        for a, b in ((name, "hub"), ("hub", name))
    ]
    return topologies.Topology.of("flat", nodes, links)


def expand(entries, names: tuple[str, ...] = NAMES):
    return faults.expand(Scenario.of({"timeline": entries}), flat(names), 1)


def test_a_swizzle_cuts_half_one_by_one_and_mends_them_in_another_order():
    orders = set()
    for seed in range(20):
        entries = patterns.swizzle(NAMES, 10 * SECOND, 60 * SECOND, Dice(seed))
        events = expand(entries)
        assert {event.kind for event in events} == {"cut"}
        gone = [event.nodes[0] for event in events if event.phase == "begin"]
        back = [event.nodes[0] for event in events if event.phase == "end"]
        assert len(gone) == len(set(gone)) == 3
        assert sorted(gone) == sorted(back)
        first_back = next(event.at_ns for event in events if event.phase == "end")
        assert all(event.at_ns < first_back for event in events if event.phase == "begin")
        assert 10 * SECOND <= events[0].at_ns <= events[-1].at_ns <= 70 * SECOND
        orders.add(tuple(gone.index(name) for name in back))
    assert len(orders) == 6


def test_isolating_one_keeps_it_from_everybody():
    (begin, _) = expand(patterns.isolate_one(NAMES, 0, SECOND, Dice(1)))
    conditions = faults.Conditions().begin(begin)
    alone = begin.groups[0][0]
    assert all(conditions.blocked(alone, name) for name in ("hub", *NAMES) if name != alone)
    others = [name for name in NAMES if name != alone]
    assert not any(conditions.blocked(a, b) for a in others for b in others)


def test_a_split_has_a_majority():
    for seed in range(20):
        (begin, _) = expand(patterns.split(NAMES, 0, SECOND, Dice(seed)))
        fewer, more = begin.groups
        assert len(fewer) < len(more)
        assert sorted((*fewer, *more)) == sorted(NAMES)


@pytest.mark.parametrize("size", [4, 5, 6, 7, 12])
def test_in_a_majority_ring_each_hears_a_majority_and_no_two_the_same(size):
    names = tuple(f"phone-{number}" for number in range(size))
    conditions = faults.Conditions()
    for event in expand(patterns.majority_ring(names, 0, SECOND, Dice(3)), names):
        if event.phase == "begin":
            conditions = conditions.begin(event)
    heard = [frozenset(b for b in names if not conditions.blocked(b, a)) for a in names]
    assert all(len(who) > size / 2 for who in heard)
    assert len(set(heard)) == size
    assert all(
        conditions.blocked(a, b) == conditions.blocked(b, a) for a, b in combinations(names, 2)
    )


def test_a_ring_of_three_is_whole():
    assert patterns.majority_ring(NAMES[:3], 0, SECOND, Dice(3)) == []


@given(strategies.topologies(), st.integers(), st.floats(0.0, 1.0))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_a_random_scenario_fits_and_is_over_in_its_time(network, seed, intensity):
    scenario = faults.random(network, seed, intensity=intensity, duration_s=60)
    events = faults.expand(scenario, network, 1)
    assert events
    assert events[-1].at_ns <= 60 * SECOND
    conditions = faults.Conditions()
    for event in events:
        conditions = (conditions.begin if event.phase == "begin" else conditions.end)(event)
    assert conditions == faults.Conditions()
    assert faults.parse(faults.write(scenario)).timeline == scenario.timeline


def test_a_random_scenario_fits_where_links_go_one_way_only_or_there_are_none():
    nodes = [topologies.Node(name=name) for name in ("a", "b", "c")]
    ring = [
        topologies.Link(source=a, target=b, bandwidth_bps=1e6, delay_s=0.0)
        for a, b in (("a", "b"), ("a", "c"))
    ]
    for network in (
        topologies.Topology.of("fork", nodes, ring),
        topologies.Topology.of("islands", nodes, []),
        topologies.Topology.of("alone", nodes[:1], []),
    ):
        for seed in range(50):
            assert faults.expand(faults.random(network, seed, intensity=1.0), network, 1)


def test_a_random_scenario_slows_and_squeezes_only_what_has_a_device(small):
    entries = [
        fault for seed in range(30) for fault in faults.random(small, seed, intensity=1.0).timeline
    ]
    struck = {name for fault in entries if fault.slow for name in fault.slow.nodes}
    struck |= {name for fault in entries if fault.squeeze for name in fault.squeeze.nodes}
    assert struck == {"phone-0", "phone-1", "phone-2", "box-0", "box-1"}


def test_random_scenarios_have_every_kind_and_more_faults_where_they_are_intense(edge_clusters):
    drawn = [faults.random(edge_clusters, seed, intensity=1.0) for seed in range(20)]
    kinds = {fault.kind for scenario in drawn for fault in scenario.timeline}
    assert kinds == set(faults.KINDS) - {"join", "trace"}
    mild = faults.random(edge_clusters, 1, intensity=0.05)
    assert len(mild.timeline) * 5 < len(drawn[1].timeline)
    assert faults.random(edge_clusters, 1) == faults.random(edge_clusters, 1)
    assert faults.random(edge_clusters, 1) != faults.random(edge_clusters, 2)


@pytest.mark.parametrize("arguments", [{"intensity": 1.1}, {"intensity": -0.1}, {"duration_s": 0}])
def test_a_random_scenario_has_an_intensity_and_a_time(arguments, edge_clusters):
    with pytest.raises(ValueError, match="intensity"):
        faults.random(edge_clusters, 1, **arguments)


def test_a_random_scenario_is_the_same_in_every_process(edge_clusters):
    script = (
        "import faults, topologies, hashlib;"
        "text = faults.write(faults.random(topologies.load('edge-clusters'), 3, intensity=0.7));"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    here = faults.write(faults.random(edge_clusters, 3, intensity=0.7))
    for hash_seed in ("0", "1"):
        there = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        assert there == hashlib.sha256(here.encode()).hexdigest()


def test_dice_fall_as_they_always_did():
    dice = Dice(1, "a")
    assert [dice.below(100) for _ in range(3)] + dice.shuffled("abcd") == [
        95,
        40,
        36,
        "d",
        "c",
        "a",
        "b",
    ]
