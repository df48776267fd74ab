"""Routes against NetworkX, and what lookahead promises."""

from __future__ import annotations

import itertools
from dataclasses import replace

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.network import Network
from faults import Conditions, Event
from faults.event import Amount, Change
from tests.broker.worlds import SECOND, STEADY, crash, degrade, directed, network
from topologies import Link

NAMES = "abcdefg"


@st.composite
def meshes(draw: st.DrawFn):
    ends = st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)).filter(lambda e: e[0] != e[1])
    pairs = draw(st.lists(ends, min_size=1, max_size=16, unique=True))
    shape = st.sampled_from(["uniform", "normal", "pareto"])
    return [
        Link(
            source=a,
            target=b,
            bandwidth_bps=1e12,
            delay_s=draw(st.integers(0, 4)) / 100,
            jitter_s=draw(st.sampled_from([0.0, 0.0, 0.002, 0.02])),
            jitter_shape=draw(shape),
        )
        for a, b in pairs
    ]


@settings(STEADY, max_examples=150)
@given(meshes())
def test_a_route_is_the_first_of_all_by_delay_hops_and_names(links):
    topology = directed(*links)
    model = Network(topology, 0)
    graph = networkx.DiGraph([link.ends for link in links])
    for source, target in itertools.permutations(topology.nodes, 2):
        ways = [
            (
                round(sum(topology.links[e].delay_s for e in itertools.pairwise(way)), 9),
                len(way),
                way,
            )
            for way in networkx.all_simple_paths(graph, source, target)
        ]
        route = model.route(source, target)
        if not ways:
            assert route is None
        else:
            assert [link.ends for link in route] == list(itertools.pairwise(min(ways)[2]))


@settings(STEADY, max_examples=100)
@given(meshes(), st.integers(0, 5))
def test_nothing_arrives_sooner_than_lookahead_says(links, seed):
    topology = directed(*links)
    nodes = list(topology.nodes)
    model = Network(topology, seed)
    ahead = model.lookahead_ns(nodes)
    number = 0
    for at_ns in range(0, 5 * SECOND, SECOND):
        for source, target in itertools.permutations(nodes, 2):
            if model.route(source, target):
                number += 1
                model.send(at_ns, number, source, target, 0, datagram=number % 2 == 0)
        for fate in model.advance(at_ns + SECOND - 1):
            assert fate.at_ns - at_ns >= ahead


def test_lookahead_is_of_the_nodes_that_are_asked_about_and_holds_whatever_gets_worse():
    model = Network(network("a-b", "b-c", "c-d"), 0)
    assert model.lookahead_ns(["a", "d"]) == 30_000_000
    assert model.lookahead_ns(["d", "a", "c"]) == 10_000_000
    assert model.lookahead_ns(["a"]) == 600 * SECOND
    model.apply(0, Conditions().begin(crash("b", 0)[0]))
    assert model.lookahead_ns(["a", "d"]) == 30_000_000


@settings(STEADY, max_examples=100)
@given(meshes(), st.data())
def test_lookahead_holds_while_links_get_sooner_and_are_as_ever_again(links, data):
    topology = directed(*links)
    nodes = tuple(topology.nodes)
    model = Network(topology, 0)
    asked = nodes[:: data.draw(st.integers(1, 2))]
    promised = model.lookahead_ns(asked)
    conditions = Conditions()
    changes = (Change(reorder=Amount("absolute", 0.1)), Change(jitter=Amount("plus", 0.002)))
    for number in data.draw(st.lists(st.integers(0, 5), max_size=12)):
        fault = f"sooner {number}"
        ends = links[number % len(links)].ends
        event = Event(
            0, fault, "begin", "degrade", links=(ends,), change=changes[number % len(changes)]
        )
        ended = fault in conditions.active
        change = conditions.end if ended else conditions.begin
        conditions = change(replace(event, phase="end") if ended else event)
        model.apply(0, conditions)
        soonest = Network(
            directed(*[conditions.link(link) for link in topology.links.values()]), 0
        ).lookahead_ns(asked)
        assert model.lookahead_ns(asked) <= soonest
        if not conditions.active:
            assert model.lookahead_ns(asked) == promised


def test_a_star_of_ten_thousand_nodes_is_no_trouble():
    model = Network(network(*(f"n{i}-hub" for i in range(10_000)), delay_s=0.001), 0)
    for i in range(3_000):
        model.send(i * 1_000, i, f"n{i}", f"n{9_999 - i}", 100)
    assert len(model.advance(SECOND)) == 3_000
    assert model.lookahead_ns([f"n{i}" for i in range(10_000)]) == 2_000_000


def test_background_traffic_takes_its_rate_and_no_more():
    def takes(rate_bps: float) -> float:
        model = Network(network("a-b", "b-c"), 0)
        change = Change(rate_bps=rate_bps)
        event = Event(0, "noise", "begin", "traffic", links=(("b", "c"),), change=change)
        model.apply(0, Conditions().begin(event))
        model.send(0, 1, "a", "c", 5_000_000)
        (fate,) = model.advance(10**12)
        assert model.in_flight() == 0
        return fate.at_ns / SECOND

    alone = takes(1.0)
    assert takes(2e6) == pytest.approx(alone * 8 / 6, rel=0.02)
    assert takes(7e6) == pytest.approx(alone * 8, rel=0.05)


def test_a_slower_link_is_felt_at_once_and_its_end_too():
    topology = network("a-b")
    model = Network(topology, 0)
    slow = degrade("a", "b", 0.5, 0)[0]
    model.apply(0, Conditions().begin(slow))
    assert model.cost("a", "b").bandwidth_bps == 4e6
    assert model.route("a", "b")[0].bandwidth_bps == 4e6
    model.apply(1, Conditions())
    assert model.route("a", "b") == (topology.links["a", "b"],)
