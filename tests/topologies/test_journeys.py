"""Whatever a link or a transport can be told survives every way in which it can be written."""

from __future__ import annotations

import io
import json

import networkx as nx
from hypothesis import given, settings
from hypothesis import strategies as st

from topologies import Device, Link, Node, Rules, Topology, Transport, parse
from topologies.link_settings import describe_link, describe_transport
from topologies.model import can_be_an_attribute

NAMES = ("a", "b", "c")
CHANCES = st.just(0.0) | st.floats(1e-9, 0.999)
TIMES = st.just(0.0) | st.floats(1e-9, 1e3)
SIZES = st.integers(1, 2**62)
TABLES = st.lists(st.floats(-4, 4).map(lambda x: x + 0.0), min_size=1, max_size=9)


@st.composite
def links(draw, source: str, target: str, *, tables: bool = True) -> Link:
    loss = draw(CHANCES)
    least = max(1.0, loss / (1 - loss))
    delay, jitter = draw(st.floats(1e-9, 10)), draw(TIMES)
    shapes = ["uniform", "normal", "pareto", "paretonormal", *(["table"] if tables else [])]
    shape = draw(st.sampled_from(shapes))
    return Link(
        source=source,
        target=target,
        bandwidth_bps=draw(st.floats(1e-3, 1e15)),
        delay_s=delay,
        jitter_s=jitter,
        jitter_shape=shape,
        jitter_table=tuple(sorted(draw(TABLES))) if shape == "table" else (),
        loss=loss,
        burst=draw(st.just(1.0) | st.floats(least, 2 * least + 100)),
        duplicate=draw(CHANCES),
        reorder=draw(CHANCES),
        corrupt=draw(CHANCES),
        queue_bytes=draw(st.none() | SIZES),
        queue=draw(st.sampled_from(["drop-tail", "codel"])),
        medium=draw(st.sampled_from(["", "wifi-1", "the air"])),
    )


TRANSPORTS = st.builds(
    Transport,
    congestion=st.sampled_from(["cubic", "reno"]),
    segment_bytes=SIZES,
    header_bytes=st.integers(0, 100),
    initial_window=st.integers(1, 1000),
    minimum_rto_s=st.floats(1e-9, 100),
    send_buffer_bytes=SIZES,
    timeout_s=st.floats(1e-9, 1e6),
)


RULES = st.from_regex(r"[a-z][a-z0-9-]{0,12}", fullmatch=True)
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=9)
NUMBERS = st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False)


def derived(*fields: str):
    return st.dictionaries(st.sampled_from(fields), RULES, max_size=2)


@st.composite
def devices(draw) -> Device:
    memory = draw(SIZES)
    return Device(
        name=draw(st.sampled_from(["raspberry-pi-4", "camera", "a box"])),
        memory_bytes=memory,
        grant_bytes=draw(st.integers(0, memory)),
        flops=draw(st.floats(1e-3, 1e18)),
        source=draw(WORDS),
        disk_bytes=draw(st.none() | SIZES),
        disk_read_bps=draw(st.none() | st.floats(1e-3, 1e15)),
        disk_write_bps=draw(st.none() | st.floats(1e-3, 1e15)),
        networks=tuple(draw(st.lists(st.sampled_from(["lte", "5g", "wifi"]), max_size=2))),
    )


@st.composite
def nodes(draw, name: str) -> Node:
    attributes: dict[str, str | int | float] = draw(
        st.dictionaries(
            st.from_regex(r"_?[A-Za-z]{1,6}[0-9]?", fullmatch=True).filter(can_be_an_attribute),
            WORDS | NUMBERS,
            max_size=3,
        )
    )
    attributes |= draw(
        st.fixed_dictionaries(
            {},
            optional={
                "cluster": st.integers(0, 9) | WORDS,
                "latitude": st.floats(-90, 90),
                "longitude": st.floats(-180, 180),
            },
        )
    )
    for coordinate in ("latitude", "longitude"):
        if isinstance(attributes.get(coordinate), str):
            del attributes[coordinate]
    return Node(
        name=name,
        role=draw(st.sampled_from(["node", "client", "ein Gerät"])),
        device=draw(st.none() | devices()),
        attributes=attributes,
        derived=draw(derived("name", "role")),
    )


@st.composite
def whole_networks(draw) -> Topology:
    """Networks whose nodes have all that nodes can have, and whose links are partly derived."""
    plain = draw(networks())
    marks = {ends: draw(derived("bandwidth_bps", "delay_s", "queue_bytes")) for ends in plain.links}
    marked = [
        Link(**{**link.model_dump(), "derived": marks[ends]}) for ends, link in plain.links.items()
    ]
    made = [draw(nodes(name)) for name in plain.nodes]
    return Topology.of(draw(st.sampled_from(["x", "ein Netz"])), made, marked, plain.transport)


@st.composite
def networks(draw, *, tables: bool = True) -> Topology:
    ends = [(x, y) for x in NAMES for y in NAMES if x != y and draw(st.booleans())]
    made = [draw(links(*pair, tables=tables)) for pair in ends]
    media = [link.medium for link in made]
    alone = {medium for medium in media if media.count(medium) == 1}
    whole = [
        link.model_copy(update={"medium": ""}) if link.medium in alone else link for link in made
    ]
    transport = draw(st.just(Transport()) | TRANSPORTS)
    return Topology.of("drawn", [Node(name=name) for name in NAMES], whole, transport)


@given(whole_networks())
@settings(derandomize=True, deadline=None)
def test_a_topology_is_the_same_after_networkx_json_and_graphml(topology):
    graph = topology.to_networkx()
    assert Topology.from_networkx(graph) == topology
    assert parse(json.dumps(nx.node_link_data(graph, edges="edges"))) == topology
    file = io.BytesIO()
    nx.write_graphml(graph, file)
    assert parse(file.getvalue().decode()) == topology


@given(whole_networks())
@settings(derandomize=True, deadline=None)
def test_rules_change_nothing_of_a_network_that_says_everything(topology):
    rules = Rules(disconnected="keep", bandwidth="1 bit/s", unplaced_delay="1 d")
    assert Topology.from_networkx(topology.to_networkx(), rules) == topology


@given(networks(tables=False))
@settings(derandomize=True, deadline=None)
def test_a_topology_written_in_our_own_settings_is_the_same(topology):
    def flow(settings: dict[str, str]) -> str:
        return "{" + ", ".join(f"{key}: {value}" for key, value in settings.items()) + "}"

    entries = [
        flow({"from": link.source, "to": link.target} | describe_link(link))
        for link in topology.links.values()
    ]
    text = "\n".join(
        [
            "name: drawn",
            "nodes: {a: {}, b: {}, c: {}}",
            f"transport: {flow(describe_transport(topology.transport))}",
            "links:" + "".join(f"\n  - {entry}" for entry in entries) if entries else "",
        ]
    )
    assert parse(text) == topology


def test_a_table_is_told_by_its_size():
    link = Link(
        source="a",
        target="b",
        bandwidth_bps=1e6,
        delay_s=0.1,
        jitter_s=0.002,
        jitter_shape="table",
        jitter_table=(-1.0, 0.0, 1.0),
    )
    assert describe_link(link)["jitter"] == "{spread: 2 ms, shape: table of 3 values}"
