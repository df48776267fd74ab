"""The bundled scenarios fit the bundled topology, and say what they are."""

from __future__ import annotations

import doctest
import hashlib
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest

import faults
import topologies
from faults import Event, commuter_train, recordings
from faults.event import Kind


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
    assert shown == set(get_args(Kind)) - {"nat"}


def test_the_catalogue_has_what_people_look_for():
    assert set(faults.catalog()) >= {
        "host-churn", "evening-churn", "flash-crowd", "gateway-down", "split-brain", "slow-uplink",
        "commuter-train", "stragglers", "memory-squeeze", "rolling-restart", "flaky-wifi",
        "satellite", "quickstart", "tiny", "busy-evening", "wrong-clocks",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("quickstart", "492415b5a98d40d6"),
        ("tiny", "67a4ed422791d963"),
        ("busy-evening", "3a740a1347aedc42"),
        ("wrong-clocks", "dabe1a8c35d28cc9"),
        ("host-churn", "b4a93c2597f92f27"),
    ],
)
def test_what_published_figures_were_measured_with_has_not_changed(name, digest, edge_clusters):
    """The events themselves, as a run writes them, without the mark that a run did."""
    events = faults.expand(faults.load(name), edge_clusters, seed=0)
    written = faults.concrete(events, name=name).replace("concrete: true\n", "")
    assert hashlib.sha256(written.encode()).hexdigest()[:16] == digest


def test_the_train_is_what_its_model_makes():
    path = Path(faults.__file__).with_name("catalog") / "commuter-train.trace"
    kept = recordings.read(path)
    made = recordings.parse("\n".join(commuter_train.lines()), "made")
    assert [at for at, _ in kept.values] == [at for at, _ in made.values]
    # To a hundredth: the last digits of logarithms differ between machines.
    assert [rate for _, rate in made.values] == pytest.approx(
        [rate for _, rate in kept.values], abs=0.0101
    )


def test_the_train_stops_at_stations_and_never_gets_more_than_its_share():
    places = list(commuter_train.positions())
    standing = sum(a == b for a, b in pairwise(places))
    stations = int(places[-1] // commuter_train.STATION_EVERY_M)
    assert standing in range((stations - 1) * 30, stations * 30 + 1)
    rates = list(commuter_train.bandwidths())
    most = commuter_train.SHARE * commuter_train.CARRIER_HZ * commuter_train.MOST_BPS_PER_HZ
    assert max(rates) == most
    assert sum(rates) / len(rates) == pytest.approx(6.73e6, rel=0.01)


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
