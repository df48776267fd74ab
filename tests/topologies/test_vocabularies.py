"""Files of other programs are read unmodified, and what they leave out is derived and marked."""

from __future__ import annotations

import json

import networkx as nx
import pytest

from topologies import Rules, Topology, TopologyError, parse
from topologies.rules import great_circle_km

KEYS = """\
  <key attr.name="label" attr.type="string" for="node" id="n0" />
  <key attr.name="Latitude" attr.type="double" for="node" id="n1" />
  <key attr.name="Longitude" attr.type="double" for="node" id="n2" />
  <key attr.name="Internal" attr.type="int" for="node" id="n3" />
  <key attr.name="hyperedge" attr.type="int" for="node" id="n4" />
  <key attr.name="Country" attr.type="string" for="node" id="n5" />
  <key attr.name="LinkSpeedRaw" attr.type="double" for="edge" id="e0" />
  <key attr.name="LinkSpeed" attr.type="string" for="edge" id="e1" />
  <key attr.name="LinkSpeedUnits" attr.type="string" for="edge" id="e2" />
  <key attr.name="LinkType" attr.type="string" for="edge" id="e3" />
  <key attr.name="LinkLabel" attr.type="string" for="edge" id="e4" />
  <key attr.name="key" attr.type="integer" for="edge" id="e5" />
  <key attr.name="Network" attr.type="string" for="graph" id="g0" />
"""
ZOO = f"""<?xml version="1.0" encoding="utf-8"?>
<graphml xmlns="http://graphml.graphdrawing.org/xmlns">
{KEYS}
  <graph edgedefault="undirected">
    <data key="g0">Made up</data>
    <node id="0"><data key="n0">Paris</data><data key="n1">48.86</data><data key="n2">2.35</data>
      <data key="n3">1</data><data key="n5">France</data></node>
    <node id="1"><data key="n0">London</data><data key="n1">51.51</data><data key="n2">-0.13</data>
      <data key="n3">1</data></node>
    <node id="2"><data key="n0">London</data><data key="n1">51.51</data><data key="n2">-0.13</data>
      <data key="n3">1</data></node>
    <node id="3"><data key="n0">A/B &amp;amp; C</data><data key="n3">0</data></node>
    <node id="4"><data key="n3">1</data><data key="n4">1</data></node>
    <edge source="0" target="1"><data key="e0">155000000.0</data></edge>
    <edge source="0" target="1"><data key="e0">1000000000.0</data><data key="e5">1</data></edge>
    <edge source="1" target="2"><data key="e1">2.5</data><data key="e2">G</data></edge>
    <edge source="2" target="3"><data key="e3">OC-48</data></edge>
    <edge source="3" target="4"><data key="e4">Darkfibers</data></edge>
    <edge source="4" target="0"><data key="e4">Yellow</data></edge>
    <edge source="0" target="0"/>
  </graph>
</graphml>
"""


@pytest.fixture(scope="module")
def zoo() -> Topology:
    return parse(ZOO, "made-up.graphml")


def test_zoo_nodes_are_called_by_their_label_made_distinct(zoo):
    assert zoo.name == "Made up"
    assert list(zoo.nodes) == ["Paris", "London-1", "London-2", "A-B & C", "4"]
    assert dict(zoo.nodes["Paris"].derived) == {"role": "kind-of-node"}
    assert dict(zoo.nodes["London-2"].derived) == {"name": "label", "role": "kind-of-node"}
    assert zoo.nodes["London-2"].attributes["label"] == "London"
    assert zoo.nodes["A-B & C"].attributes["label"] == "A/B & C"


def test_zoo_nodes_keep_their_place_their_attributes_and_their_part(zoo):
    assert zoo.nodes["Paris"].place == (48.86, 2.35)
    assert zoo.nodes["Paris"].attributes["Country"] == "France"
    assert [node.role for node in zoo.nodes.values()] == [
        *("router", "router", "router", "external", "exchange")
    ]


def test_zoo_speeds_are_taken_where_stated_and_else_derived_by_kind_of_link(zoo):
    told = {
        ends: (link.bandwidth_bps, link.derived.get("bandwidth_bps"))
        for ends, link in zoo.links.items()
    }
    assert told["Paris", "London-1"] == (1.155e9, "parallel")
    assert told["London-1", "London-2"] == (2.5e9, None)
    assert told["London-2", "A-B & C"] == (2.48832e9, "kind-of-link")
    assert told["A-B & C", "4"] == (10e9, "kind-of-link")
    assert told["4", "Paris"] == (1e9, "default-bandwidth")
    assert len(told) == 10, "both directions of five links; the loop is left out"


@pytest.mark.parametrize(
    ("label", "bandwidth_bps"),
    [
        ("Gigabit Ethernet", 1e9),
        ("10 Gigabit Ethernet", 10e9),
        ("100-Gigabit", 100e9),
        ("Ethernet", 100e6),
        ("10GE", 10e9),
    ],
)
def test_ethernet_is_as_fast_as_its_name_says(label, bandwidth_bps):
    assert Rules().bandwidth_of(label) == (bandwidth_bps, "kind-of-link")


def test_delays_follow_the_great_circle_at_5_us_a_km_with_a_floor(zoo):
    link = zoo.links["Paris", "London-1"]
    assert link.delay_s == pytest.approx(344e3 / 2e8, rel=0.01)
    assert link.derived["delay_s"] == "great-circle"
    assert zoo.links["London-1", "London-2"].delay_s == 50e-6
    assert zoo.links["4", "Paris"].delay_s == 1e-3
    assert zoo.links["4", "Paris"].derived["delay_s"] == "unplaced"


def test_a_caller_can_change_every_rule():
    rules = Rules(
        delay_per_km="10 us",
        least_delay="1 ms",
        unplaced_delay="7 ms",
        bandwidth="3 Gbit/s",
        bandwidths={"Yellow": "5 Mbit/s", "OC-48": "1 Mbit/s"},
        parallel="fastest",
        external="drop",
    )
    changed = parse(ZOO, "z", rules)
    assert list(changed.nodes) == ["Paris", "London-1", "London-2", "4"]
    assert changed.links["Paris", "London-1"].bandwidth_bps == 1e9
    assert changed.links["Paris", "London-1"].delay_s == pytest.approx(344e-5, rel=0.01)
    assert changed.links["London-1", "London-2"].delay_s == 1e-3
    assert changed.links["4", "Paris"].bandwidth_bps == 5e6
    assert changed.links["4", "Paris"].delay_s == 7e-3
    kept = parse(ZOO, "z", Rules(bandwidths={"OC-48": "1 Mbit/s"}, bandwidth="3 Gbit/s"))
    assert kept.links["London-2", "A-B & C"].bandwidth_bps == 1e6
    assert kept.links["4", "Paris"].bandwidth_bps == 3e9
    with pytest.raises(TopologyError, match="there is a link Paris → London-1 already"):
        parse(ZOO, "z", Rules(parallel="refuse"))


def test_zoo_gml_says_the_same_as_its_graphml(zoo):
    text = """\
graph [
  Network "Made up"
  node [ id 0 label "Paris" Latitude 48.86 Longitude 2.35 Internal 1 Country "France" ]
  node [ id 1 label "London" Latitude 51.51 Longitude -0.13 Internal 1 ]
  node [ id 2 label "London" Latitude 51.51 Longitude -0.13 Internal 1 ]
  node [ id 3 label "A/B &amp; C" Internal 0 ]
  node [ id 4 label "" Internal 1 hyperedge 1 ]
  # parallel edges without "multigraph 1", as the Zoo has them
  edge [ source 0 target 1 LinkSpeedRaw 155000000.0 ]
  edge [ source 0 target 1 LinkSpeedRaw 1e9 key 1 ]
  edge [ source 1 target 2 LinkSpeed "2.5" LinkSpeedUnits "G" ]
  edge [ source 2 target 3 LinkType "OC-48" ]
  edge [ source 3 target 4 LinkLabel "Darkfibers" ]
  edge [ source 4 target 0 LinkLabel "Yellow" ]
  edge [ source 0 target 0 ]
]
"""
    assert parse(text, "zoo.gml") == zoo


def test_parallel_links_with_a_derived_speed_say_so():
    graph = nx.MultiGraph()
    graph.add_edge("a", "b", LinkSpeedRaw=1e6)
    graph.add_edge("a", "b", LinkType="E1")
    link = Topology.from_networkx(graph).links["b", "a"]
    assert link.bandwidth_bps == 3.048e6
    assert link.derived["bandwidth_bps"] == "parallel-derived"


def test_parallel_links_that_differ_in_more_can_not_be_made_one():
    graph = nx.MultiGraph()
    graph.add_edge("a", "b", capacity=1, packet_loss=0.1)
    graph.add_edge("a", "b", capacity=2, packet_loss=0.2)
    with pytest.raises(TopologyError, match="differ in more than bandwidth and delay"):
        Topology.from_networkx(graph)
    fastest = Topology.from_networkx(graph, Rules(parallel="fastest"))
    assert fastest.links["a", "b"].loss == 0.2


@pytest.mark.parametrize("ids", [(0, 1), ("0", "1")])
def test_topohub_tells_lengths_in_km_and_places_with_the_longitude_first(ids):
    data = {
        "directed": False,
        "multigraph": False,
        "graph": {"name": "t", "demands": {"1": {"0": 5.0}}, "stats": {"nodes": 2}},
        "nodes": [
            {"id": ids[0], "name": "Gda/nsk", "pos": [18.6, 54.2], "type": "City"},
            {"id": ids[1], "name": "Warsaw", "pos": [21.0, 52.2]},
        ],
        "edges": [
            {"source": ids[0], "target": ids[1], "dist": 273.4,
             "ecmp_fwd": {"uni": 1}, "ecmp_bwd": {"uni": 1}},
        ],
    }  # fmt: skip
    found = parse(json.dumps(data))
    assert list(found.nodes) == ["Gda-nsk", "Warsaw"]
    assert found.nodes["Warsaw"].place == (52.2, 21.0)
    assert found.nodes["Gda-nsk"].attributes["type"] == "City"
    link = found.links["Gda-nsk", "Warsaw"]
    assert link.delay_s == pytest.approx(273.4 * 5e-6)
    assert dict(link.derived) == {"delay_s": "length", "bandwidth_bps": "default-bandwidth"}


def test_a_drawing_in_pixels_gives_no_lengths():
    nodes = [{"id": 0, "pos": [283.0, 248.0]}, {"id": 1, "pos": [451.0, 201.0]}]
    edges = [{"source": 0, "target": 1, "dist": 19576.3}]
    found = parse(json.dumps({"nodes": nodes, "edges": edges}))
    assert found.nodes["0"].place is None
    assert found.nodes["0"].attributes["x"] == 283.0
    assert found.links["0", "1"].derived["delay_s"] == "unplaced"


def test_fnss_tells_units_in_the_graph():
    graph = nx.Graph(capacity_unit="Gbps", delay_unit="ms", distance_unit="Km", buffer_unit="bytes")
    graph.add_edge(1, 2, capacity=10, delay=2.5, weight=1, buffer=30000)
    graph.add_edge(2, 3, capacity=1, length=400.0, buffer=1)
    found = Topology.from_networkx(graph)
    one, two = found.links["1", "2"], found.links["2", "3"]
    assert (one.bandwidth_bps, one.delay_s, one.queue_bytes) == (10e9, 0.0025, 30000)
    assert one.derived == {}
    assert two.delay_s == pytest.approx(2e-3)
    assert dict(two.derived) == {"delay_s": "length"}


def test_fnss_buffers_in_packets_are_counted_in_bytes():
    graph = nx.Graph(capacity_unit="Mbps", buffer_unit="packets")
    graph.add_edge(1, 2, capacity=10, buffer=20)
    link = Topology.from_networkx(graph).links["1", "2"]
    assert link.queue_bytes == 30_000
    assert link.derived["queue_bytes"] == "packets"


def test_numbers_without_a_unit_are_read_in_the_units_of_the_rules():
    graph = nx.Graph()
    graph.add_edge("a", "b", capacity="8", latency=20)
    link = Topology.from_networkx(graph).links["a", "b"]
    assert (link.bandwidth_bps, link.delay_s) == (8e6, 0.02)
    assert dict(link.derived) == {"bandwidth_bps": "unit", "delay_s": "unit"}
    link = Topology.from_networkx(graph, Rules(capacity_unit="kBps", delay_unit="us")).links[
        "a", "b"
    ]
    assert (link.bandwidth_bps, link.delay_s) == (64_000, pytest.approx(20e-6))


SHADOW = """\
graph [
  directed 1
  node [ id 0 label "client" host_bandwidth_up "10 Mbit" host_bandwidth_down "100 megabit" ]
  node [ id 1 label "server" host_bandwidth_up "1 Gbit" host_bandwidth_down "1 Gbit" ]
  edge [ source 0 target 0 latency "1 ms" ]
  edge [ source 0 target 1 latency "20 ms" jitter "1 ms" packet_loss 0.01 ]
  edge [ source 1 target 0 latency "25 milliseconds" ]
]
"""


def test_shadow_tells_what_hosts_can_send_and_receive():
    found = parse(SHADOW)
    up, down = found.links["client", "server"], found.links["server", "client"]
    assert (up.bandwidth_bps, down.bandwidth_bps) == (10e6, 100e6)
    assert up.derived == {"bandwidth_bps": "host-bandwidth"}
    assert (up.delay_s, up.jitter_s, up.loss) == (0.02, 0.001, 0.01)
    assert down.delay_s == 0.025
    assert len(found.links) == 2


def test_shadows_latencies_without_unit_are_seconds_and_in_its_first_format_milliseconds():
    assert parse(SHADOW.replace('"20 ms"', "0.5")).links["client", "server"].delay_s == 0.5
    graph = nx.Graph()
    graph.add_node("poi-1", bandwidthup=1024, bandwidthdown=2048)
    graph.add_node("poi-2", bandwidthup=512, bandwidthdown=512)
    graph.add_edge("poi-1", "poi-2", latency=50.0, packetloss=0.005)
    found = Topology.from_networkx(graph).links
    assert found["poi-1", "poi-2"].delay_s == 0.05
    assert found["poi-1", "poi-2"].bandwidth_bps == 512 * 8192
    assert found["poi-2", "poi-1"].loss == 0.005


NATIVE = """\
?SNDlib native format; type: network; version: 1.0
# a comment
META (
  granularity = 1day
)
NODES (
  Berlin ( 13.48 52.52 )
  Hamburg ( 10.08 53.55 ) () ()
  Koeln ( 6.96 50.94 )
)
LINKS (
  L1 ( Berlin Hamburg ) 40.00 0.00 1.00 0.00 ( 100.00 7.00 )
  L2 ( Hamburg Koeln ) 0.00 0.00 1.00 0.00 ( 622.00 9.00 155.00 3.00 )
  L3 ( Koeln Berlin ) 0.00 0.00 1.00 0.00 ( )
)
DEMANDS (
  D1 ( Berlin Koeln ) 1 5.00 UNLIMITED
)
ADMISSIBLE_PATHS (
  D1 (
    P0 ( L1 L2 )
  )
)
"""


def test_sndlib_tells_capacities_without_a_unit():
    found = parse(NATIVE, "germany3.txt")
    assert found.name == "germany3"
    told = [
        (link.bandwidth_bps, link.derived["bandwidth_bps"])
        for ends, link in found.links.items()
        if ends in (("Berlin", "Hamburg"), ("Hamburg", "Koeln"), ("Koeln", "Berlin"))
    ]
    assert told == [(40e6, "unit"), (155e6, "smallest-module"), (1e9, "default-bandwidth")]
    expected = great_circle_km((52.52, 13.48), (53.55, 10.08)) * 5e-6
    assert found.links["Berlin", "Hamburg"].delay_s == pytest.approx(expected)
    gbps = parse(NATIVE, "g", Rules(capacity_unit="Gbps"))
    assert gbps.links["Hamburg", "Berlin"].bandwidth_bps == 40e9


XML = """<?xml version="1.0" encoding="ISO-8859-1"?>
<network xmlns="http://sndlib.zib.de/network" version="1.0">
 <networkStructure>
  <nodes coordinatesType="KIND">
   <node id="Berlin"><coordinates><x>13.48</x><y>52.52</y></coordinates></node>
   <node id="Hamburg"><coordinates><x>10.08</x><y>53.55</y></coordinates></node>
   <node id="Koeln"><coordinates><x>6.96</x><y>50.94</y></coordinates></node>
  </nodes>
  <links>
   <link id="L1"><source>Berlin</source><target>Hamburg</target>
    <preInstalledModule><capacity>40.0</capacity><cost>0.0</cost></preInstalledModule></link>
   <link id="L2"><source>Hamburg</source><target>Koeln</target><additionalModules>
    <addModule><capacity>622.0</capacity><cost>9.0</cost></addModule>
    <addModule><capacity>155.0</capacity><cost>3.0</cost></addModule></additionalModules></link>
   <link id="L3"><source>Koeln</source><target>Berlin</target></link>
  </links>
 </networkStructure>
 <demands/>
</network>
"""


def test_sndlibs_xml_says_the_same_as_its_text(tmp_path):
    path = tmp_path / "germany3.xml"
    path.write_bytes(XML.replace("KIND", "geographical").encode("iso-8859-1"))
    import topologies

    assert topologies.load(path) == parse(NATIVE, "germany3.txt")
    drawn = parse(XML.replace("KIND", "pixel"), "x")
    assert drawn.links["Berlin", "Hamburg"].derived["delay_s"] == "unplaced"


def test_a_graph_that_says_nothing_of_its_links_gets_all_of_it_from_the_rules():
    found = Topology.from_networkx(nx.karate_club_graph(), Rules(least_delay="9 ms"))
    assert len(found.nodes) == 34
    assert found.nodes["0"].attributes["club"] == "Mr. Hi"
    assert {tuple(link.derived) for link in found.links.values()} == {("bandwidth_bps", "delay_s")}


def test_networkx_1_wrote_the_ends_of_links_as_positions_of_nodes():
    data = {
        "directed": False,
        "graph": {},
        "nodes": [{"id": "x"}, {"id": "y"}],
        "links": [{"source": 0, "target": 1, "weight": 2}],
    }
    assert list(parse(json.dumps(data)).links) == [("x", "y"), ("y", "x")]


def test_an_attribute_of_links_that_means_nothing_is_an_error_unless_the_rules_say_so():
    graph = nx.Graph()
    graph.add_edge("a", "b", bandwith="10 Mbit/s")
    with pytest.raises(TopologyError, match='Did you mean "bandwidth"') as caught:
        Topology.from_networkx(graph)
    assert 'Rules(ignore=["bandwith"])' in str(caught.value)
    found = Topology.from_networkx(graph, Rules(ignore=["bandwith"]))
    assert found.links["a", "b"].derived["bandwidth_bps"] == "default-bandwidth"


def test_a_graph_in_our_own_words_is_completed_only_by_rules_that_are_given():
    graph = nx.Graph()
    graph.add_edge("a", "b", bandwidth="10 Mbit/s")
    with pytest.raises(TopologyError, match="has no delay"):
        Topology.from_networkx(graph)
    link = Topology.from_networkx(graph, Rules(unplaced_delay="3 ms")).links["b", "a"]
    assert (link.bandwidth_bps, link.delay_s) == (1e7, 0.003)
    assert dict(link.derived) == {"delay_s": "unplaced"}


def test_rules_that_are_given_hold_for_a_graph_in_our_own_words_too():
    graph = nx.MultiGraph(attributes="floor")
    graph.add_node("a", floor=1, role="client")
    graph.add_edge("a", "b", bandwidth="10 Mbit/s", delay="1 d")
    graph.add_edge("a", "b", bandwidth_bps=5e6, delay_s=1.0)
    graph.add_node("c")
    with pytest.raises(TopologyError, match="falls apart into 2 parts"):
        Topology.from_networkx(graph, Rules())
    found = Topology.from_networkx(graph, Rules(disconnected="largest"))
    assert list(found.nodes) == ["a", "b"]
    assert found.nodes["a"].attributes == {"floor": 1}
    assert (found.links["b", "a"].bandwidth_bps, found.links["b", "a"].delay_s) == (15e6, 1.0)
    graph.nodes["a"]["flor"] = 2
    with pytest.raises(TopologyError, match='Did you mean "floor"'):
        Topology.from_networkx(graph, Rules(disconnected="largest"))


def test_our_own_words_may_be_added_to_others():
    graph = nx.Graph()
    graph.add_node("a", Latitude=50.0, Longitude=8.0, role="client", device="raspberry-pi-4")
    graph.add_node("b", Latitude=51.0, Longitude=8.0)
    graph.add_edge("a", "b", LinkSpeedRaw=1e6, loss="1 %", jitter="2 ms")
    found = Topology.from_networkx(graph)
    assert found.nodes["a"].device.name == "raspberry-pi-4"
    assert (found.links["a", "b"].loss, found.links["a", "b"].jitter_s) == (0.01, 0.002)


OURS = """\
name: ours
rules: {delay_per_km: 10 us, bandwidth: 2 Gbit/s}
nodes:
  a: {latitude: 50, longitude: 8}
  b: {latitude: 51.0, longitude: 8.0}
  c: {}
links:
  - {between: [a, b]}
  - {between: [b, c], delay: 3 ms}
  - {between: [c, a], bandwidth: 1 Mbit/s}
"""


def test_our_own_file_may_name_rules_for_what_its_links_leave_out():
    found = parse(OURS)
    assert found.links["a", "b"].delay_s == pytest.approx(111.19e-5, rel=1e-4)
    assert dict(found.links["a", "b"].derived) == {
        "bandwidth_bps": "default-bandwidth",
        "delay_s": "great-circle",
    }
    assert dict(found.links["b", "c"].derived) == {"bandwidth_bps": "default-bandwidth"}
    assert dict(found.links["c", "a"].derived) == {"delay_s": "unplaced"}


def test_rules_of_the_caller_go_over_those_of_the_file():
    found = parse(OURS, "o", Rules(bandwidth="7 Gbit/s"))
    assert found.links["a", "b"].bandwidth_bps == 7e9
    assert found.links["a", "b"].delay_s == pytest.approx(111.19e-5, rel=1e-4)


def test_a_kind_of_link_may_be_one_of_the_bundled_access_networks():
    text = "nodes: {a: {}, b: {}}\nlinks: [{between: [a, b], kind: lte}]\n"
    found = parse(text)
    assert found.links["a", "b"].bandwidth_bps == 6.3e6
    assert found.links["b", "a"].bandwidth_bps == 21.3e6
    own = "kinds: {lte: {bandwidth: 1 Mbit/s, delay: 1 s}}\n" + text
    assert parse(own).links["a", "b"].bandwidth_bps == 1e6
    with pytest.raises(TopologyError, match='Did you mean "starlink"'):
        parse(text.replace("lte", "starlnk"))


def test_yed_labels_and_defaults_of_keys_are_read():
    text = """\
<graphml xmlns="http://graphml.graphdrawing.org/xmlns" xmlns:y="http://www.yworks.com/xml/graphml">
  <key for="node" id="d0" yfiles.type="nodegraphics"/>
  <key for="edge" id="d1" attr.name="LinkSpeedRaw" attr.type="double"><default>5e6</default></key>
  <key for="node" id="d2" attr.name="backbone" attr.type="boolean"/>
  <graph edgedefault="directed">
    <node id="n0"><data key="d0"><y:ShapeNode><y:NodeLabel>Oslo</y:NodeLabel></y:ShapeNode></data>
      <data key="d2">true</data></node>
    <node id="n1"/>
    <edge source="n0" target="n1"/>
  </graph>
</graphml>
"""
    found = parse(text)
    assert list(found.nodes) == ["Oslo", "n1"]
    assert found.nodes["Oslo"].attributes["backbone"] == 1
    assert list(found.links) == [("Oslo", "n1")]
    assert found.links["Oslo", "n1"].bandwidth_bps == 5e6
