"""The script that wrote the real networks of the catalog takes facts and attaches devices."""

from __future__ import annotations

import networkx as nx
import pytest

from topologies import parse
from topologies.making import zoo


@pytest.fixture
def written(tmp_path) -> str:
    graph = nx.MultiGraph(Source="http://example.org/map", label="Made")
    places = {"Köln: Süd": (50.9, 6.9), "yes": (50.1, 8.7), "Ulm": (48.4, 10.0)}
    for index, (label, (north, east)) in enumerate(places.items()):
        graph.add_node(index, label=label, Latitude=north, Longitude=east, Internal=1, Country="DE")
    graph.add_node(3, label="Peer's", Internal=0)
    graph.add_node(4, label="alone", Internal=1)
    graph.add_edge(0, 1, LinkSpeedRaw=1e9)
    graph.add_edge(0, 1, LinkSpeedRaw=1e9)
    graph.add_edge(1, 2, LinkLabel="Blue")
    graph.add_edge(1, 3)
    graph.add_edge(1, 3, LinkSpeedRaw=1e9)
    nx.write_graphml(graph, tmp_path / "Made.graphml")
    return zoo.written(zoo.Choice("Made", "zoo-made", "a made-up one"), tmp_path / "Made.graphml")


def test_facts_are_written_and_what_is_not_stated_is_left_to_the_rules(written):
    found = parse(written)
    assert list(found.nodes)[:4] == ["Köln: Süd", "yes", "Ulm", "Peer's"]
    assert found.nodes["yes"].place == (50.1, 8.7)
    assert found.nodes["yes"].attributes["country"] == "DE"
    assert found.nodes["Peer's"].role == "external"
    stated = found.links["yes", "Köln: Süd"]
    assert (stated.bandwidth_bps, dict(stated.derived)) == (2e9, {"delay_s": "great-circle"})
    assert set(found.links["yes", "Ulm"].derived) == {"bandwidth_bps", "delay_s"}
    assert set(found.links["yes", "Peer's"].derived) == {"bandwidth_bps", "delay_s"}


def test_devices_hang_on_the_best_joined_nodes_that_have_a_place(written):
    found = parse(written)
    sites = {
        node.attributes["cluster"]: found.neighbors(name)
        for name, node in found.nodes.items()
        if node.role == "client"
    }
    assert sites == {0: ("yes",), 1: ("Köln: Süd",), 2: ("Ulm",)}
    assert found.neighbors("coordinator") == ("yes",)
    assert found.links["client-0", "yes"].bandwidth_bps == 21.1e6, "a flagship phone on 5G"


def test_licence_and_source_stand_at_the_top(written):
    head = written.partition("\nname:")[0]
    assert all(line.startswith("# ") for line in head.splitlines())
    assert "CC BY 4.0" in head
    assert "http://example.org/map" in head
