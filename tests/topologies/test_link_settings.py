"""What links and streams can be told: short forms and long ones, tables, media, and slips."""

from __future__ import annotations

import json

import networkx as nx
import pytest

import topologies.link_settings
from topologies import Link, Topology, TopologyError, Transport, parse
from topologies.jitter import read_table

AB = {"source": "a", "target": "b", "bandwidth_bps": 1e6, "delay_s": 0.002}


def network(settings: str, more: str = "") -> str:
    return (
        f"nodes: {{a: {{}}, b: {{}}, c: {{}}}}\n{more}"
        f"links:\n  - {{between: [a, b], bandwidth: 1 Mbit/s, delay: 2 ms, {settings}}}\n"
    )


def refusal(text: str, file: str = "t.yaml") -> str:
    with pytest.raises(TopologyError) as caught:
        parse(text, file)
    return str(caught.value)


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ("jitter: 2 ms", {"jitter_s": 0.002}),
        ("jitter: {spread: 2 ms}", {"jitter_s": 0.002}),
        ("jitter: {spread: 2 ms, shape: normal}", {"jitter_s": 0.002, "jitter_shape": "normal"}),
        ("jitter: {spread: 0 s, shape: pareto}", {"jitter_shape": "pareto"}),
        ("loss: 1 %", {"loss": 0.01}),
        ("loss: {mean: 1 %, burst: 5}", {"loss": 0.01, "burst": 5.0}),
        ("loss: {mean: 0 %, burst: 2.5}", {"burst": 2.5}),
        ("duplicate: 1 %", {"duplicate": 0.01}),
        ("reorder: 2 %, corrupt: 0.5 %", {"reorder": 0.02, "corrupt": 0.005}),
        ("queue: 256 KiB", {"queue_bytes": 2**18}),
        ("queue: codel", {"queue": "codel"}),
        ("queue: {limit: 1 MB, discipline: codel}", {"queue_bytes": 10**6, "queue": "codel"}),
        ("queue: {discipline: drop-tail}", {}),
        ("medium: wifi-1", {"medium": "wifi-1"}),
    ],
)
def test_a_setting_has_a_short_form_and_a_long_one(settings, fields):
    topology = parse(network(settings))
    assert topology.links["a", "b"] == Link(**AB, **fields)
    assert topology.links["b", "a"] == Link(**{**AB, "source": "b", "target": "a"}, **fields)


def test_each_direction_has_its_own_queue_jitter_and_losses():
    text = network(
        "up: {queue: codel, jitter: {spread: 1 ms, shape: normal}}, "
        "down: {queue: 1 MB, loss: {mean: 2 %, burst: 3}}, corrupt: 1 %"
    )
    up = Link(**AB, queue="codel", jitter_s=0.001, jitter_shape="normal", corrupt=0.01)
    assert parse(text).links["a", "b"] == up
    down = parse(text).links["b", "a"]
    assert (down.queue, down.queue_bytes, down.jitter_s) == ("drop-tail", 10**6, 0.0)
    assert (down.loss, down.burst, down.corrupt) == (0.02, 3.0, 0.01)


def test_a_setting_is_replaced_as_a_whole():
    kinds = (
        "kinds:\n  radio: {jitter: {spread: 2 ms, shape: normal}, loss: {mean: 1 %, burst: 5}, "
        "queue: {limit: 1 MB, discipline: codel}}\n"
    )
    link = parse(network("kind: radio, jitter: 5 ms, loss: 2 %, queue: 2 MB", kinds)).links[
        "a", "b"
    ]
    assert link == Link(**AB, jitter_s=0.005, loss=0.02, queue_bytes=2 * 10**6)


def test_the_settings_in_the_documentation_are_settings():
    text = topologies.link_settings.__doc__.split("```yaml\n")[1].split("```")[0]
    settings = ", ".join(line.split(" #")[0].strip() for line in text.splitlines()[2:])
    assert parse(network(settings)).links["a", "b"].medium == "wifi-1"


DIST = "# measured on a Tuesday\n-8192 -4096  # the lower half\n\n0\t4096\n16384\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "tuesday.dist").write_text(DIST)
    return tmp_path


def test_a_table_of_jitter_is_found_beside_the_topology(folder, monkeypatch):
    monkeypatch.chdir("/")
    (folder / "t.yaml").write_text(network("jitter: {spread: 2 ms, shape: tables/tuesday.dist}"))
    link = topologies.load(folder / "t.yaml").links["a", "b"]
    table = (-1.0, -0.5, 0.0, 0.5, 2.0)
    assert link == Link(**AB, jitter_s=0.002, jitter_shape="table", jitter_table=table)


def test_a_graph_file_may_name_a_table_too(folder):
    edge = {"source": "a", "target": "b", "bandwidth": "1 Mbit/s", "delay": "2 ms"}
    edge["jitter"] = {"spread": "2 ms", "shape": "tables/tuesday.dist"}
    graph = {"nodes": [{"id": "a"}, {"id": "b"}], "edges": [edge]}
    topology = parse(json.dumps(graph), str(folder / "g.json"))
    assert topology.links["b", "a"].jitter_table == (-1.0, -0.5, 0.0, 0.5, 2.0)


def test_many_links_read_their_table_once(folder, monkeypatch):
    read = []
    monkeypatch.setattr(
        "topologies.jitter.read_table",
        lambda text, file: read.append(file) or read_table(text, file),
    )
    text = network("jitter: {spread: 2 ms, shape: tables/tuesday.dist}")
    text = text.replace("[a, b]", "[d-0..4, b]").replace("c: {}", "d-0..4: {}")
    topology = parse(text, str(folder / "t.yaml"))
    assert len(read) == 1
    assert len({id(link.jitter_table) for link in topology.links.values()}) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "this table is empty. Write whole numbers"),
        ("# nothing\n", "this table is empty"),
        ("1 2\n3 4.5\n", '.dist:2: "4.5" is no whole number. A table holds whole numbers'),
        ("0x1F", "is no whole number"),
        ("9" * 40_000, "is no whole number"),
        ("1 2\n\n1\n", ".dist:3: 1 comes after 2. A table ascends"),
        ("7\n" * 16_385, ".dist:16385: this table has more than 16384 entries. Take every second"),
    ],
)
def test_a_table_that_is_none_says_where_and_what_would_be_right(text, message, tmp_path):
    (tmp_path / "x.dist").write_text(text)
    text = network("jitter: {spread: 2 ms, shape: x.dist}")
    answer = refusal(text, str(tmp_path / "t.yaml"))
    assert message in answer
    assert answer.startswith(str(tmp_path / "x.dist"))
    assert len(answer) < 300


def test_the_largest_table_is_read():
    assert len(read_table("7\n" * 16_384)) == 16_384


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("jitter: 2", 'links #1 > jitter: "2" has no unit'),
        ("jitter: {shape: normal}", "jitter > spread: this setting is missing"),
        ("jitter: {spread: 2 ms, shape: norml}", 'shape: there is no shape of jitter "norml"'),
        ("jitter: {spread: 2 ms, shape: norml}", 'Did you mean "normal"?'),
        ("jitter: {spread: 2 ms, shape: table}", "or the path of a .dist file"),
        ("jitter: {spred: 2 ms}", 'Did you mean "spread"?'),
        ("jitter: {spread: 2 ms, shape: x.dist}", "> jitter: x.dist: there is no such file. The p"),
        ("jitter: {spread: 2 ms, shape: /dev/zero}", "this is a device, and may never end"),
        ("loss: {mean: 1 %, burst: 0.5}", "loss > burst: something greater than or equal to 1"),
        ("loss: {mean: 1 %, burst: 5 ms}", 'burst: a number was expected here, not "5 ms"'),
        ("loss: {mean: 1 %, brust: 5}", 'Did you mean "burst"?'),
        ("loss: {mean: 90 %, burst: 2}", "Make the bursts 9 or longer"),
        ("loss: {burst: 2}", "loss > mean: this setting is missing"),
        ("loss: [1 %]", "links #1 > loss: a percentage was expected here"),
        ("queue: codle", 'queue > discipline: "codle" is none of'),
        ("queue: codle", 'Did you mean "codel"?'),
        ("queue: 0 B", "a queue without any room passes nothing on"),
        ("queue: {limit: 0 B}", "queue > limit: something greater than 0"),
        ("queue: 12 ms", "is not a unit of size"),
        ("queue: {size: 1 MB}", "The settings here are limit, discipline"),
        ("reorder: 100 %", "reorder: something less than 1"),
        ("reorder: 1 %, up: {delay: 0 s}", "Give the link a delay, or leave reorder out"),
        ("duplicates: 1 %", 'Did you mean "duplicate"?'),
        ("duplicate: 0.1", '"0.1" has no unit'),
        ("medium: ''", "medium: some text was expected here"),
        ("up: {medium: wifi-1}", 'links #1 > medium: a → b is alone on the medium "wifi-1". Give'),
    ],
)  # fmt: skip
def test_a_slip_of_the_pen_is_named_with_its_place_and_remedy(settings, message):
    answer = refusal(network(settings))
    assert message in answer
    assert answer.startswith("t.yaml:3: links #1")


def test_a_link_alone_on_its_medium_is_told_the_medium_that_was_meant():
    text = network("medium: wifi-1") + (
        "  - {from: c, to: a, bandwidth: 1 Mbit/s, delay: 2 ms, medium: wifi1}\n"
    )
    answer = refusal(text)
    assert answer.startswith('t.yaml:4: links #2 > medium: c → a is alone on the medium "wifi1"')
    assert 'Did you mean "wifi-1"?' in answer
    assert parse(text.replace("wifi1", "wifi-1")).links["c", "a"].medium == "wifi-1"


def test_a_link_of_a_graph_alone_on_its_medium_is_refused():
    graph = nx.DiGraph()
    graph.add_edge("a", "b", bandwidth_bps=1.0, delay_s=1.0, medium="air")
    with pytest.raises(TopologyError, match="edges #1 > medium: a → b is alone"):
        Topology.from_networkx(graph)
    graph.add_edge("b", "a", bandwidth_bps=1.0, delay_s=1.0, medium="air")
    assert Topology.from_networkx(graph).links["b", "a"].medium == "air"


def test_a_file_says_how_streams_behave():
    transport = (
        "transport: {congestion: reno, segment: 536 B, header: 0 B, initial_window: 2, "
        "minimum_rto: 1 s, send_buffer: 64 KiB, timeout: 2 min}\n"
    )
    assert parse(network("queue: codel", transport)).transport == Transport(
        congestion="reno",
        segment_bytes=536,
        header_bytes=0,
        initial_window=2,
        minimum_rto_s=1.0,
        send_buffer_bytes=65536,
        timeout_s=120.0,
    )
    assert parse(network("queue: codel")).transport == Transport()


@pytest.mark.parametrize(
    ("transport", "message"),
    [
        (
            "{congestion: renoo}",
            'transport > congestion: "renoo" is none of the laws of congestion',
        ),
        ("{initial window: 4}", 'Did you mean "initial_window"?'),
        ("{initial_window: 0}", "initial_window: something greater than or equal to 1"),
        ("{initial_window: 4 B}", "a whole number was expected here"),
        ("{segment: 0 B}", "segment: something greater than 0"),
        ("{minimum_rto: 0 s}", "minimum_rto: something greater than 0"),
        ("{timeout: 5}", '"5" has no unit'),
        ("cubic", "transport: a mapping of settings was expected here"),
    ],
)
def test_a_transport_that_can_not_be_is_refused(transport, message):
    answer = refusal(network("queue: codel", f"transport: {transport}\n"))
    assert message in answer
    assert answer.startswith("t.yaml:2: transport")


@pytest.mark.parametrize(
    ("edge", "fields"),
    [
        ({"jitter": "2 ms", "jitter_shape": "normal"}, {"jitter_s": 0.002}),
        ({"loss": 0.01, "burst": 5}, {"loss": 0.01, "burst": 5.0}),
        ({"loss": "1 %", "burst": 5.0}, {"loss": 0.01, "burst": 5.0}),
        ({"loss": {"mean": "1 %", "burst": 5}}, {"loss": 0.01, "burst": 5.0}),
        ({"duplicate": "1 %", "corrupt": 0.25}, {"duplicate": 0.01, "corrupt": 0.25}),
        ({"queue": "256 KiB"}, {"queue_bytes": 2**18}),
        ({"queue": "codel", "queue_bytes": 5}, {"queue_bytes": 5, "queue": "codel"}),
        ({"jitter_s": 1.0, "jitter_shape": "table", "jitter_table": "-1 0.5 2"},
         {"jitter_table": (-1.0, 0.5, 2.0)}),
        ({"jitter_s": 1.0, "jitter_shape": "table", "jitter_table": [-1, 0.5, 2]},
         {"jitter_table": (-1.0, 0.5, 2.0)}),
    ],
)  # fmt: skip
def test_an_edge_of_a_graph_says_it_in_units_or_in_numbers(edge, fields):
    graph = nx.Graph()
    graph.add_edge("a", "b", bandwidth="1 Mbit/s", delay_s=0.002, **edge)
    link = Topology.from_networkx(graph).links["a", "b"]
    assert {name: getattr(link, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("edge", "words"),
    [
        ({"queue": "256 KiB", "queue_bytes": 5}, "queue and queue_bytes are the same thing"),
        ({"jitter": {"spread": "1 ms", "shape": "normal"}, "jitter_shape": "pareto"}, "the same"),
        ({"loss": {"mean": "1 %", "burst": 2}, "burst": 3.0}, "loss and burst are the same thing"),
        ({"jitter_shape": "norml"}, 'Did you mean "normal"?'),
        ({"jitter_table": "1 2 3"}, "a jitter of shape table has a table"),
        ({"jitter_shape": "table", "jitter_table": "1 x"}, "jitter_table #2: a number was"),
        ({"loss": 0.9, "burst": 2.0}, "Make the bursts 9 or longer"),
        ({"loss": True}, "a percentage was expected"),
        ({"queue_bytes": 1.5}, "a whole number was expected"),
        ({"duplicates": 0.1}, 'Did you mean "duplicate"?'),
    ],
)  # fmt: skip
def test_what_an_edge_of_a_graph_can_not_mean_is_refused(edge, words):
    graph = nx.Graph()
    graph.add_edge("a", "b", bandwidth_bps=1.0, delay_s=1.0, **edge)
    with pytest.raises(TopologyError) as caught:
        Topology.from_networkx(graph)
    assert words in str(caught.value)
    assert "edges #1" in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"transport_congestion": "renoo"}, 'Did you mean "reno"?'),
        ({"transport_windows": 3}, "there is no such setting"),
        ({"transport_initial_window": 0}, "initial_window"),
    ],
)
def test_a_transport_that_a_graph_can_not_mean_is_refused(setting, words):
    graph = nx.Graph(**setting)
    graph.add_node("a")
    with pytest.raises(TopologyError) as caught:
        Topology.from_networkx(graph)
    assert words in str(caught.value)
