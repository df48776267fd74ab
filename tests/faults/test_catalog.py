"""The bundled scenarios fit the bundled topology, and say what they are."""

from __future__ import annotations

import doctest

import pytest

import faults
import topologies
from faults import Event


@pytest.fixture(scope="module")
def edge_clusters():
    return topologies.load("edge-clusters")


@pytest.mark.parametrize("name", faults.catalog())
def test_every_bundled_scenario_fits_edge_clusters_and_has_a_sentence(name, edge_clusters):
    scenario = faults.load(name)
    assert scenario.name == name
    assert scenario.description
    assert faults.expand(scenario, edge_clusters, seed=0)


@pytest.mark.parametrize("name", ["quickstart", "tiny"])
def test_the_main_job_meets_death_abandonment_slowness_and_thin_links(name, edge_clusters):
    begins = [
        event
        for event in faults.expand(faults.load(name), edge_clusters, seed=0)
        if event.phase == "begin"
    ]
    assert {event.kind for event in begins} == {"crash", "slow", "degrade"}
    at_work, abandoned = (event.selector for event in begins if event.kind == "crash")
    assert at_work == "host of client-0"
    assert abandoned.startswith("hosts of the neighborhood of client-")


def test_host_churn_strikes_every_host_and_nobody_else(edge_clusters):
    events = faults.expand(faults.load("host-churn"), edge_clusters, seed=0)
    struck = {node for event in events for node in event.nodes}
    assert struck == {name for name, node in edge_clusters.nodes.items() if node.role == "host"}


def test_the_bundled_scenarios_show_every_kind_of_fault(edge_clusters):
    shown = {
        event.kind
        for name in faults.catalog()
        for event in faults.expand(faults.load(name), edge_clusters, seed=0)
    }
    assert shown >= {"crash", "stop", "pause", "slow", "skew", "degrade", "traffic"}


def test_the_example_of_each_room_runs():
    for room in (faults, topologies):
        result = doctest.testmod(room)
        assert result.attempted > 0
        assert result.failed == 0


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("crash: client-0", "crash client-0"),
        ("crash: host of client-0", "crash host of client-0"),
        ("slow: {nodes: client-2, compute: 4x}", "slow client-2: compute 4x"),
        (
            "degrade: {nodes: client-7, bandwidth: 10%, delay: +150 ms, loss: 2 %}",
            "degrade links of client-7: bandwidth 10 %, delay +150 ms, loss 2 %",
        ),
        (
            "degrade: {link: [client-0, gateway-0], delay: 1 s}",
            "degrade client-0 ↔ gateway-0: delay 1 s",
        ),
        (
            "degrade: {link: [client-0, gateway-0], oneway: true, bandwidth: 1 Mbit/s}",
            "degrade client-0 → gateway-0: bandwidth 1 Mbit/s",
        ),
        ("stop: client-0", "stop client-0"),
        ("pause: host of client-0", "pause host of client-0"),
        (
            "skew: {nodes: client-2, offset: 200 ms, drift: -50 ppm}",
            "skew client-2: offset +200 ms, drift -50 ppm",
        ),
        (
            'traffic: {from: host-0, to: ["client-[01]", coordinator], rate: 5 Mbit/s}',
            "traffic host-0 → coordinator, client-0, client-1: rate 5 Mbit/s",
        ),
        (
            "degrade: {nodes: client-7, loss: 2 %, burst: 5, reorder: +1 %}",
            "degrade links of client-7: loss 2 %, burst 5, reorder +1 %",
        ),
        (
            "partition: [[client-0, client-1], [host-0]]",
            "partition client-0, client-1 | host-0",
        ),
        (
            "partition: {groups: [[client-0], [host-0]], oneway: true}",
            "partition client-0 ⇥ host-0",
        ),
    ],
)
def test_an_event_says_itself_in_a_few_words(entry, text, edge_clusters):
    scenario = faults.parse(f"timeline:\n  - {{at: 1 s, {entry}, for: 1 s}}\n")
    events: tuple[Event, ...] = faults.expand(scenario, edge_clusters, 0)
    assert [event.text for event in events] == [text, f"end of {text.split(':')[0]}"]
