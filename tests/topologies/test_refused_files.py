"""A file that can't be a network gets an error that names file, element and remedy."""

from __future__ import annotations

import json

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import topologies
from topologies import InputError, Topology, TopologyError, parse
from topologies.markup import MOST_ELEMENTS

GRAPHML = '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n'
SPEED = '<key id="s" for="edge" attr.name="LinkSpeedRaw" attr.type="double"/>\n'
NATIVE = "?SNDlib native format; type: network; version: 1.0\n"
BOMB = """<?xml version="1.0"?>
<!DOCTYPE lolz [ <!ENTITY lol "lol"> <!ENTITY lol2 "&lol;&lol;"> ]>
<graphml>&lol2;</graphml>
"""


def edge(**attributes: object) -> str:
    row = {"source": 0, "target": 1, **attributes}
    nodes = [{"id": 0, "pos": [0.0, 0.0]}, {"id": 1, "pos": [1.0, 1.0]}]
    return json.dumps({"nodes": nodes, "edges": [row]})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["the file is empty"]),
        (" \n", ["the file is empty"]),
        ("a\x00b", ["U+0000", "Leave it out"]),
        ("<", ["x:1", "this is not XML"]),
        (BOMB, ["x:2", "document types and entities are not read", "Leave the lines"]),
        ("<gexf/>", ["neither GraphML nor SNDlib's", "<gexf>", "networkx.write_graphml"]),
        (GRAPHML + "</graphml>", ["x:1", "there is no graph in it"]),
        (GRAPHML + "<graph/></graphml>", ["nodes: there are no nodes"]),
        (GRAPHML + '<graph edgedefault="up"/></graphml>', ["x:2: graph", 'Write "directed"']),
        (GRAPHML + '<graph><node id="a"/><node/></graph></graphml>', ["x:2", "node has no id"]),
        (
            GRAPHML + '<graph><node id="a"/><edge source="a"/></graph></graphml>',
            ["x:2", "edge has no target"],
        ),
        (
            GRAPHML + '<graph>\n<node id="a"/>\n<edge source="a" target="b"/></graph></graphml>',
            ["x:4: edges #1 > target", 'there is no node "b"', "from one of the nodes"],
        ),
        (GRAPHML + "<graph><hyperedge/></graph></graphml>", ["hyperedges are not read"]),
        (
            GRAPHML + '<graph><node id="a"><graph/></node></graph></graphml>',
            ["graphs inside nodes are not read"],
        ),
        (
            GRAPHML + '<key id="d" attr.name="x" attr.type="list"/></graphml>'.replace(
                "</graphml>", "<graph/></graphml>"
            ),
            ["x:2: key", 'has the type "list"', "The types are boolean"],
        ),
        (
            GRAPHML + '<graph><node id="a"><data key="q">1</data></node></graph></graphml>',
            ["x:2: node", 'there is no key "q"', "Declare it"],
        ),
        (
            GRAPHML + '<key id="d" attr.name="x" attr.type="int"/><graph><node id="a">\n'
            '<data key="d">1.5</data></node></graph></graphml>',
            ["x:3: x", '"1.5" is no int'],
        ),
        (
            GRAPHML + '<graph edgedefault="directed"><node id="a"/><node id="b"/>\n'
            '<edge directed="false" source="a" target="b"/></graph></graphml>',
            ["x:3: edge", "Make all of them directed"],
        ),
        (
            GRAPHML + SPEED + '<graph><node id="a"/><node id="b"/>\n'
            '<edge source="a" target="b"><data key="s">-5</data></edge></graph></graphml>',
            ["x:4: edges #1 > LinkSpeedRaw", "not negative"],
        ),
        (
            GRAPHML + SPEED + '<graph><node id="a"/><node id="b"/>\n'
            '<edge source="a" target="b"><data key="s">0</data></edge></graph></graphml>',
            ["x:4: edges #1 > LinkSpeedRaw", "greater than 0", "Leave out links"],
        ),
        ("graph [ node [ id 1 ]", ["not GML", "never closed"]),
        ("graph [\n node [ id ]\n]", ["x:2", "id has no value"]),
        ("graph [\n 5\n]", ["x:2", "5 stands where a key should"]),
        ("graph [\n node [ id ~ ]\n]", ["x:2", "not GML"]),
        ("graph [ node [ id 1 id 2 ] ]", ['the key "id" is there twice', "Keep one"]),
        ("graph [ a [ " * 40, ["nested too deeply"]),
        ("graph [\n]", ["there are no nodes", "one node at least"]),
        ("graph [\n node [ label \"a\" ]\n node [ id 2 ]\n]", ["id has to be the name of a node"]),
        ("digraph { a -> b }", ["looks like DOT", "read_dot"]),
        ("graph {\n a -- b\n}", ["looks like DOT"]),
        ('{"nodes": [], "edges": []}', ["nodes", "there are no nodes"]),
        (edge(dist=-1), ["edges #1 > dist", "not negative"]),
        (edge(dist="far"), ["edges #1 > dist", '"far" is not a length']),
        (edge(capacity="10 Mfoo"), ["edges #1 > capacity", '"Mfoo" is not a unit of bandwidth']),
        (edge(capacity=True), ["edges #1 > capacity", "a bandwidth was expected"]),
        (edge(latency="-3 ms"), ["edges #1 > latency"]),
        (edge(packet_loss=1.5), ["edges #1 > packet_loss", "0 to less than 1"]),
        (edge(buffer=0, dist=1), ["edges #1 > buffer", "greater than 0"]),
        (edge(LinkSpeed="2.5", LinkSpeedUnits="Q"), ["edges #1 > LinkSpeed", '"Qbps"']),
        (edge(target=7), ["edges #1 > target", 'there is no node "7"']),
        (edge(distt=3), ["edges #1 > distt", 'Did you mean "dist"']),
        (
            '{"nodes": [{"id": 0, "Latitude": 95.0, "Longitude": 1.0}], "edges": []}',
            ["nodes #1 > Latitude", "-90 to 90", "Correct it"],
        ),
        (
            '{"graph": {"capacity_unit": "Mbps", "buffer_unit": "cars"}, "nodes": [{"id": 0}, '
            '{"id": 1}], "edges": [{"source": 0, "target": 1, "buffer": 3}]}',
            ["graph > buffer_unit", "bytes and packets"],
        ),
        (
            '{"nodes": [{"id": 0, "pos": [0, 0]}, {"id": 0}], "edges": []}',
            ["nodes #2", "there is a node 0 already"],
        ),
        (
            '{"nodes": [{"id": 0, "pos": [0, 0]}, {"id": 1, "name": "far"}], "edges": []}',
            ["nodes #2", "falls apart into 2 parts", "far is not", 'Rules(disconnected="largest")'],
        ),
        (NATIVE, ["there are no nodes"]),
        (NATIVE.replace("network", "model"), ["x:1", "not a network"]),
        (NATIVE + "NODES (\n a 1 2\n)\n", ["x:3", "this is no node", "name ( x y )"]),
        (NATIVE + "NODES (\n a ( 1 x )\n)\n", ["x:3", 'y of a is "x"']),
        (NATIVE + "NODES (\n a ( 1 2 )\n)\nLINKS (\n L a b\n)", ["x:6", "this is no link"]),
        (NATIVE + "NODES (\n a ( 1 2 )\n", ["the section NODES is never closed", "Write )"]),
        (NATIVE + "a ( 1 2 )\n", ["x:2", "stands in no section"]),
        ('<network xmlns="http://sndlib.zib.de/network"/>', ["no networkStructure"]),
    ],
)  # fmt: skip
def test_it_says_what_is_wrong_and_where(text, words):
    with pytest.raises(TopologyError) as caught:
        parse(text, "x")
    for word in words:
        assert word in str(caught.value)
    assert str(caught.value).startswith("x:")
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not text in UTF-8"),
        (bytes(range(128, 256)), "not text in UTF-8"),
        (b"\x1f\x8b\x08\x00", "not text in UTF-8"),
        (b"", "the file is empty"),
        (b'<?xml version="1.0" encoding="ebcdic"?><a/>', "neither GraphML nor"),
    ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path, content, words):
    path = tmp_path / "network.graphml"
    path.write_bytes(content)
    with pytest.raises(TopologyError, match=words) as caught:
        topologies.load(path)
    assert str(caught.value).startswith(str(path))


def test_a_huge_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(TopologyError, match="larger than 64 MiB"):
        topologies.load(path)


def test_more_nodes_than_anybody_has_are_refused():
    rows = [{"id": index} for index in range(100_001)]
    with pytest.raises(TopologyError, match="more than 100000 nodes"):
        parse(json.dumps({"nodes": rows, "edges": []}))


def test_xml_without_end_is_refused(monkeypatch):
    monkeypatch.setattr("topologies.markup.MOST_ELEMENTS", 10)
    assert MOST_ELEMENTS > 10**6
    with pytest.raises(TopologyError, match="more than 10 elements"):
        parse("<a>" + "<b/>" * 10 + "</a>")
    monkeypatch.setattr("topologies.markup.MOST_ELEMENTS", 10**6)
    with pytest.raises(TopologyError, match="64 deep"):
        parse("<a>" * 100)


def test_a_network_of_other_networks_only_is_refused_where_they_are_to_be_dropped():
    graph = nx.Graph()
    graph.add_node("a", Internal=0)
    with pytest.raises(TopologyError, match="all nodes are external"):
        Topology.from_networkx(graph, topologies.Rules(external="drop"))


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"bandwidth": "10 Mbps"}, '"Mbit/s" \\(bits\\)'),
        ({"delay_per_km": 5e-6}, "has no unit"),
        ({"capacity_unit": "cars"}, "not a unit of bandwidth"),
        ({"delay_unit": "years"}, "not a unit of time"),
        ({"paralel": "sum"}, 'Did you mean "parallel"'),
    ],
)
def test_a_rule_that_can_not_be_is_refused(rule, words):
    with pytest.raises(ValueError, match=words):
        topologies.Rules(**rule)


SEEDS = [
    "graph [ node [ id 0 label \"a\" ] node [ id 1 ] edge [ source 0 target 1 capacity 3 ] ]",
    GRAPHML + SPEED + '<graph><node id="a"/><node id="b"/><edge source="a" target="b">'
    '<data key="s">5</data></edge></graph></graphml>',
    NATIVE + "NODES (\n a ( 1 2 )\n b ( 1 2 )\n)\nLINKS (\n L ( a b ) 1 1 1 1 ( 1 1 )\n)\n",
    edge(dist=5, LinkLabel="E1"),
    "rules: {}\nnodes: {a: {}, b: {latitude: 5}}\nlinks: [{between: [a, b], kind: lte}]\n",
]  # fmt: skip


@given(st.data())
@settings(derandomize=True, deadline=None, max_examples=400)
def test_a_damaged_file_means_something_or_gets_an_error_and_no_traceback(data):
    text = data.draw(st.sampled_from(SEEDS))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text)))
        length = data.draw(st.integers(0, 6))
        new = data.draw(st.text(alphabet='ab[](){}"<>/=:,-.1 \nNé\x00', max_size=4))
        text = text[:place] + new + text[place + length :]
    try:
        found = parse(text, "x")
    except InputError as error:
        message = str(error)
    else:
        assert found.nodes
        message = "x"
    assert message.startswith("x")
