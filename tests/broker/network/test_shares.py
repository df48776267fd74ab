"""What flows get is solved once an instant, and is what solving it each time would have given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.network import Demand, Network, max_min
from broker.network.agenda import Agenda
from broker.network.flow import Flow
from broker.network.shares import Shares, enlist
from broker.network.ways import Ways
from tests.broker.worlds import SECOND, STEADY, network
from topologies import Transport

MS = SECOND // 1_000
NODES = "abcd"
STAR = network("a-hub", "b-hub", "c-hub", "d-hub", bandwidth_bps=10e6)

pairs = st.sampled_from([(a, b) for a in NODES for b in NODES if a != b])
sends = st.lists(
    st.tuples(st.sampled_from((0, 40, 41)), pairs, st.integers(1, 300_000)), min_size=1, max_size=12
)


@given(sends)
@STEADY
def test_what_is_sent_at_one_instant_is_shared_as_if_each_were_solved_alone(sends):
    def play(*, ask: bool) -> list[tuple[int, int]]:
        model = Network(STAR, 1)
        told = []
        for number, (at_ms, (source, destination), size) in enumerate(sorted(sends)):
            model.send(at_ms * MS, number, source, destination, size)
            if ask:
                told += model.advance(at_ms * MS)
                model.next_ns()
        return [(fate.number, fate.at_ns) for fate in told + model.advance(10**13)]

    together, alone = dict(play(ask=False)), dict(play(ask=True))
    assert together.keys() == alone.keys()
    assert all(abs(together[number] - alone[number]) <= 2 for number in together)


@given(st.lists(st.tuples(pairs, st.floats(1e5, 2e7)), min_size=1, max_size=10))
@STEADY
def test_the_short_way_to_the_shares_gives_what_progressive_filling_gives(wanted):
    ways = Ways(STAR)
    agenda = Agenda()
    shares = Shares(agenda, Transport())
    flows = []
    for (source, destination), cap_bps in wanted:
        flow = Flow(agenda.name())
        flow.path = ways.path(source, destination)
        flow.cap_bps, flow.goal_ns = cap_bps, SECOND
        enlist(flow)
        shares.touch(0, flow.path.resources)
        flows.append(flow)
    shares.solve()
    expected = max_min(
        {flow.index: Demand(flow.path.uses, 1.0, flow.cap_bps) for flow in flows},
        {resource: resource.capacity for flow in flows for resource in flow.path.resources},
    )
    for flow in flows:
        assert flow.speed * 8e9 == pytest.approx(expected[flow.index])


def test_only_flows_that_hang_together_are_solved_again():
    model = Network(STAR, 0)
    for number, (source, destination) in enumerate(("ab", "cd", "ad")):
        model.send(0, number, source, destination, 200_000)
    before = model.cost("b", "c")
    assert before.bandwidth_bps == 10e6
    assert model.cost("c", "b").bandwidth_bps < 10e6
