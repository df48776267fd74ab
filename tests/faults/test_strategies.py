"""What the strategies draw is valid, and what is true of every scenario is tested with it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import faults
import topologies
from faults import strategies

ANY = strategies.topologies()
quickly = settings(derandomize=True, deadline=None, max_examples=50)


@given(st.data())
@quickly
def test_a_drawn_scenario_fits_its_topology_and_is_written_and_read_again(data):
    network = data.draw(ANY)
    scenario = data.draw(strategies.scenarios(network))
    again = faults.parse(faults.write(scenario))
    assert (again.timeline, again.processes) == (scenario.timeline, scenario.processes)
    assert faults.expand(again, network, 3) == faults.expand(scenario, network, 3)


@pytest.mark.parametrize("kind", [kind for kind in faults.KINDS if kind != "trace"])
def test_every_kind_is_drawn_expanded_and_written_as_what_happened(kind):
    @given(st.data())
    @settings(derandomize=True, deadline=None, max_examples=10)
    def check(data):
        network = data.draw(ANY)
        entry = data.draw(strategies.entries(network, (kind,)))
        events = faults.expand(faults.Scenario.of({"timeline": [entry]}), network, 1)
        assert events
        written = faults.concrete(events, name="again")
        assert faults.expand(faults.parse(written), network, 2) == events

    check()


@given(st.data())
@quickly
def test_drawn_events_begin_before_they_end_and_need_nothing_more(data):
    network = data.draw(ANY)
    conditions = faults.Conditions()
    for event in data.draw(strategies.events(network)):
        assert event.selector is None
        assert set(event.nodes) <= set(network.nodes)
        conditions = (conditions.begin if event.phase == "begin" else conditions.end)(event)


@given(ANY)
@quickly
def test_a_drawn_topology_is_connected(network):
    selection = faults.Selection(network)
    assert all(selection.reach(node) == set(network.nodes) for node in network.nodes)
    assert topologies.Topology.from_networkx(network.to_networkx()) == network
