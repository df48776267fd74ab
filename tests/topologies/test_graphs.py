"""NetworkX graphs, node-link JSON and GraphML carry a topology without loss."""

from __future__ import annotations

import io
import json

import networkx as nx
import pytest

import topologies
from topologies import Topology, TopologyError, parse
from topologies.devices import devices


@pytest.fixture(scope="module")
def edge_clusters() -> Topology:
    return topologies.load("edge-clusters")


def graphml(graph: nx.Graph) -> str:
    file = io.BytesIO()
    nx.write_graphml(graph, file)
    return file.getvalue().decode()


def home() -> nx.Graph:
    graph = nx.Graph(name="home", attributes="floor")
    graph.add_node("box", role="gateway")
    graph.add_node("pi", role="client", device="raspberry-pi-4", grant="64 MiB", cluster=1, floor=2)
    graph.add_edge("box", "pi", bandwidth="10 Mbit/s", delay="20 ms", loss="1 %")
    return graph


def test_a_topology_is_the_same_after_networkx_and_back(edge_clusters):
    assert Topology.from_networkx(edge_clusters.to_networkx()) == edge_clusters


def test_a_topology_is_the_same_after_node_link_json_and_back(edge_clusters):
    data = nx.node_link_data(edge_clusters.to_networkx(), edges="edges")
    assert parse(json.dumps(data), "x.txt") == edge_clusters


def test_a_topology_is_the_same_after_graphml_and_back(edge_clusters):
    assert parse(graphml(edge_clusters.to_networkx()), "x.txt") == edge_clusters


def test_a_topology_is_the_same_after_gml_and_back(edge_clusters):
    text = "\n".join(nx.generate_gml(edge_clusters.to_networkx()))
    assert parse(text, "x.txt") == edge_clusters


def test_derived_values_stay_marked_on_the_way():
    geant = topologies.load("zoo-geant")
    assert geant.links["UK", "FR"].derived["delay_s"] == "great-circle"
    assert Topology.from_networkx(geant.to_networkx()) == geant
    assert parse(graphml(geant.to_networkx())) == geant
    text = "\n".join(nx.generate_gml(geant.to_networkx()))
    assert parse(text) == geant


def test_attributes_of_ones_own_survive_the_journey_with_their_types():
    topology = Topology.from_networkx(home())
    again = parse(graphml(topology.to_networkx()))
    assert again == topology
    assert again.nodes["pi"].attributes == {"cluster": 1, "floor": 2}


def test_an_undirected_graph_has_links_both_ways_and_a_directed_one_has_not():
    topology = Topology.from_networkx(home())
    assert topology.links["box", "pi"].bandwidth_bps == 1e7
    assert topology.links["pi", "box"].loss == 0.01
    directed = nx.DiGraph()
    directed.add_edge("a", "b", bandwidth_bps=5.0, delay_s=0.1)
    assert list(Topology.from_networkx(directed).links) == [("a", "b")]


def test_the_edges_of_networkx_2_are_read_as_well():
    data = nx.node_link_data(home(), edges="links")
    assert parse(json.dumps(data)) == Topology.from_networkx(home())


def test_a_device_of_the_catalog_keeps_its_numbers_and_grants_what_is_said():
    device = Topology.from_networkx(home()).nodes["pi"].device
    assert device == devices()["raspberry-pi-4"].model_copy(update={"grant_bytes": 64 * 2**20})


def test_our_own_file_may_be_written_in_json():
    link = '{"between": ["a", "b"], "bandwidth": "1 bit/s", "delay": "1 s"}'
    text = f'{{"nodes": {{"a": {{}}, "b": {{}}}}, "links": [{link}]}}'
    assert list(parse(text).nodes) == ["a", "b"]


def test_graph_algorithms_can_use_the_numbers(edge_clusters):
    graph = edge_clusters.to_networkx()
    path = nx.shortest_path(graph, "client-0", "host-11", weight="delay_s")
    assert path == ["client-0", "gateway-0", "gateway-3", "host-11"]


@pytest.mark.parametrize(
    ("node", "edge", "words"),
    [
        ({"rol": "x"}, {}, 'nodes #1 > rol: there is no such setting. Did you mean "role"'),
        ({"device": "raspberry"}, {}, "Did you mean"),
        ({"grant_bytes": 5}, {}, "only a device can grant memory"),
        ({"device": "x", "flops": 3.0}, {}, "only half described"),
        ({}, {"bandwidth": 10, "delay": "1 s"}, '"10" has no unit'),
        ({}, {"bandwidth": "1 bit/s"}, "has no delay"),
        ({}, {"bandwidth": "1 bit/s", "bandwidth_bps": 1.0, "delay": "1 s"}, "the same thing"),
        ({}, {"bandwidth_bps": -1.0, "delay_s": 1.0}, "greater than 0"),
        ({}, {"bandwidth_bps": 1.0, "delay_s": 1.0, "loss": 2}, "less than 1"),
        ({}, {"bandwidth_bps": 1.0, "delay_s": 1.0, "lost": 0}, 'Did you mean "loss"'),
    ],
)
def test_what_a_graph_can_not_mean_is_refused(node, edge, words):
    graph = nx.Graph()
    graph.add_node("a", **node)
    graph.add_edge("a", "b", **(edge or {"bandwidth_bps": 1.0, "delay_s": 1.0}))
    with pytest.raises(TopologyError) as caught:
        Topology.from_networkx(graph)
    assert words in str(caught.value)


def test_parallel_links_are_refused():
    graph = nx.MultiGraph()
    graph.add_edge("a", "b", bandwidth_bps=1.0, delay_s=1.0)
    assert Topology.from_networkx(graph).links.keys() == {("a", "b"), ("b", "a")}
    graph.add_edge("a", "b", bandwidth_bps=2.0, delay_s=1.0)
    with pytest.raises(TopologyError, match="Parallel links"):
        Topology.from_networkx(graph)


@pytest.mark.parametrize(
    "text",
    [
        "<graphml",
        "<html><body/></html>",
        "<graphml/>",
        '<graphml xmlns="http://graphml.graphdrawing.org/xmlns"><graph edgedefault="x"/></graphml>',
        '<graphml xmlns="http://graphml.graphdrawing.org/xmlns"><graph edgedefault="undirected">'
        '<node id="a"><data key="missing">1</data></node></graph></graphml>',
        '{"nodes": []}',
        '{"nodes": [1], "edges": []}',
        '{"nodes": [{"id": "a"}]}',
        '{"nodes": [{"id": "a"}, {"id": "a"}], "edges": []}',
        '{"nodes": [{"id": null}], "edges": []}',
        '{"nodes": [{"id": "a"}], "edges": [], "egdes": []}',
        '{"nodes": [{"id": "a"}], "edges": [{"source": "a"}]}',
        '{"nodes": [{"id": "a"}], "edges": [], "directed": "yes"}',
    ],
)
def test_a_broken_graph_file_gets_an_error_and_no_traceback(text):
    with pytest.raises(TopologyError) as caught:
        parse(text, "g.graphml")
    assert str(caught.value).startswith("g.graphml")


def test_null_in_a_graph_of_a_program_is_what_it_leaves_out():
    data = nx.node_link_data(home(), edges="edges")
    data["edges"][0] |= {"jitter": None, "burst": None}
    data["nodes"][0] |= {"flops": None}
    assert parse(json.dumps(data), "home.json") == Topology.from_networkx(home())
