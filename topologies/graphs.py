"""Node-link documents and NetworkX graphs: to and from a `Topology`.

A graph speaks our own vocabulary (`topologies.graph_settings`) or somebody else's
(`topologies.vocabularies`), which is translated first. `to_networkx` writes ours, in SI numbers so
that graph algorithms can use them as weights; a device is written out (``memory_bytes``,
``flops``, ``device_source``), so nothing depends on a catalog. The edges of an undirected graph
are links in both directions. In our own vocabulary parallel edges are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from topologies.devices import devices
from topologies.document import Document, Place, Value
from topologies.errors import TopologyError
from topologies.graph_settings import TRANSPORT, Graph, GraphEdge, GraphNode, GraphSettings
from topologies.layout import (
    ALWAYS,
    MOST_NODES,
    declared,
    machine,
    split_attributes,
)
from topologies.link_settings import SAID_OF_A_DIRECTION, LinkReader, check_media
from topologies.model import Device, Link, Node, Topology, Transport
from topologies.rules import Rules
from topologies.vocabularies import is_foreign, translate

if TYPE_CHECKING:
    import networkx

# Under which of our own names a graph can say the same as under a name of a `Link`.
_WRITTEN = {
    "bandwidth_bps": "bandwidth",
    "delay_s": "delay",
    "jitter_s": "jitter",
    "jitter_shape": "jitter",
    "jitter_table": "jitter",
    "burst": "loss",
    "queue_bytes": "queue",
}
_ENDS = ("source", "target")
_DEFAULTS = ("node_default", "edge_default")


def read_graph(document: Document, name: str, rules: Rules | None = None) -> Topology:
    """The topology that a node-link document describes; *name*, unless it says another.

    A graph in somebody else's vocabulary is completed by the rules. One in ours is held to rules
    that are given, and without them has to say everything itself. Raises TopologyError.
    """
    foreign = is_foreign(document.mapping())
    if foreign or rules is not None:
        document = translate(document, rules or Rules(), foreign=foreign)
    graph = document.read(Graph, document.mapping())
    if not graph.nodes:
        raise document.error("there are no nodes", ("nodes",), "A network has one node at least")
    if len(graph.nodes) > MOST_NODES:
        raise document.error(f"these are more than {MOST_NODES} nodes", ("nodes",))
    own = declared(document, tuple(graph.graph.attributes.split()), ("graph", "attributes"))
    nodes: dict[str, Node] = {}
    for index, row in enumerate(graph.nodes):
        node = _node(document, row, own, ("nodes", index))
        if node.name in nodes:
            raise document.error(f"there is a node {node.name} already", ("nodes", index))
        nodes[node.name] = node
    if (graph.edges is None) == (graph.links is None):
        raise document.error("a graph has either edges or links", (), "networkx writes edges")
    where = "edges" if graph.links is None else "links"
    links: dict[tuple[str, str], Link] = {}
    places: dict[tuple[str, str], Place] = {}
    reader = _Reader(document, LinkReader(document))
    for index, row in enumerate(graph.edges or graph.links or []):
        place: Place = (where, index)
        edge = {key: value for key, value in row.items() if key != "key" or not graph.multigraph}
        for link in reader.links(edge, graph.directed, place):
            if link.ends in links:
                problem = f"there is a link {link.source} → {link.target} already"
                remedy = 'Parallel links have to be one: say Rules(parallel="sum"), or make it so'
                raise document.error(problem, place, remedy)
            links[link.ends], places[link.ends] = link, place
    check_media(document, links, places)
    transport = _transport(document, graph.graph)
    whole = {
        "name": graph.graph.name or name,
        "nodes": nodes,
        "links": links,
        "transport": transport,
    }
    return document.read(Topology, whole)


def from_networkx(graph: networkx.Graph[Any], rules: Rules | None = None) -> Topology:
    """The topology of this graph, directed or not. Raises TopologyError."""
    return read_graph(_node_link(graph), "graph", rules)


def to_networkx(topology: Topology) -> networkx.DiGraph[str]:
    """The topology as a directed graph, in SI numbers and without loss."""
    import networkx as nx  # noqa: PLC0415  (takes longer to import than all the rest of this room)

    own = {name for node in topology.nodes.values() for name in node.attributes} - {*ALWAYS}
    graph: networkx.DiGraph[str] = nx.DiGraph(name=topology.name)
    if own:
        graph.graph["attributes"] = " ".join(sorted(own))
    for node in topology.nodes.values():
        graph.add_node(node.name, role=node.role, **node.attributes)
        attributes = graph.nodes[node.name]
        if node.device is not None:
            said = node.device.model_dump(exclude_defaults=True)
            attributes.update(device=said.pop("name"), device_source=said.pop("source"), **said)
            if node.device.networks:
                attributes["networks"] = " ".join(node.device.networks)
        if node.derived:
            attributes["derived"] = _marks(node.derived)
    for link in topology.links.values():
        values = link.model_dump(exclude={"source", "target"}, exclude_defaults=True)
        if link.jitter_table:
            values["jitter_table"] = " ".join(map(repr, link.jitter_table))
        if link.derived:
            values["derived"] = _marks(link.derived)
        graph.add_edge(link.source, link.target, **values)
    for name, value in topology.transport.model_dump(exclude_defaults=True).items():
        graph.graph[f"{TRANSPORT}{name}"] = value
    return graph


def _marks(derived: Mapping[str, str]) -> str:
    return " ".join(f"{field}={rule}" for field, rule in derived.items())


def _node_link(graph: networkx.Graph[Any]) -> Document:
    edges: list[Value] = [
        {"source": str(a), "target": str(b)} | {k: v for k, v in data.items() if k != "id"}
        for a, b, data in graph.edges(data=True)
    ]
    nodes: list[Value] = [{**data, "id": str(node)} for node, data in graph.nodes(data=True)]
    value: Value = {
        "directed": graph.is_directed(),
        "multigraph": graph.is_multigraph(),
        "graph": {k: v for k, v in graph.graph.items() if k not in _DEFAULTS},
        "nodes": nodes,
        "edges": edges,
    }
    return Document(file="networkx graph", value=value, failure=TopologyError)


def _node(document: Document, row: Mapping[str, Any], own: frozenset[str], place: Place) -> Node:
    name = _identifier(document, row, "id", place)
    settings = {key: value for key, value in row.items() if key != "id"}
    rest, attributes = split_attributes(document, settings, own, GraphNode.settings(), place)
    given = document.read(GraphNode, rest, place)
    fields: dict[str, object] = {
        "name": name,
        "role": given.role,
        "device": _device(document, given, place),
        "attributes": attributes,
    }
    if given.derived:
        fields["derived"] = given.derived
    return document.read(Node, fields, place)


def _device(document: Document, given: GraphNode, place: Place) -> Device | None:
    numbers = (given.memory_bytes, given.flops)
    if given.grant is not None and given.grant_bytes is not None:
        raise document.error("grant and grant_bytes are the same thing", place, "Keep one")
    if numbers == (None, None) and not given.device_source:
        device = machine(document, given, devices(), place)
        if given.grant_bytes is None:
            return device
        if device is None:
            problem = "only a device can grant memory"
            raise document.error(problem, (*place, "grant_bytes"), "Say which device it is")
        changed = {**device.model_dump(), "grant_bytes": given.grant_bytes}
        return document.read(Device, changed, place)
    grant = given.grant_bytes if given.grant is None else given.grant
    if None in (*numbers, grant, given.device):
        remedy = "Give device, memory_bytes, grant_bytes and flops, or a device of the catalog"
        raise document.error("this device is only half described", place, remedy)
    fields = {
        "name": given.device,
        "memory_bytes": given.memory_bytes,
        "grant_bytes": grant,
        "flops": given.flops,
        "source": given.device_source,
        "disk_bytes": given.disk_bytes,
        "disk_read_bps": given.disk_read_bps,
        "disk_write_bps": given.disk_write_bps,
        "networks": given.networks,
    }
    return document.read(Device, fields, place)


@dataclass(frozen=True)
class _Reader:
    """Reads the edges of a graph."""

    document: Document
    settings: LinkReader

    def links(self, row: Mapping[str, Any], directed: bool, place: Place) -> Iterator[Link]:
        """The links that one edge is: one, or one each way."""
        source, target = (_identifier(self.document, row, key, place) for key in _ENDS)
        told = {key: value for key, value in row.items() if key not in _ENDS}
        fields = self._fields(told, place)
        yield self._link(source, target, fields, place)
        if not directed:
            yield self._link(target, source, fields, place)

    def _fields(self, row: Mapping[str, Any], place: Place) -> dict[str, object]:
        given = self.document.read(GraphEdge, row, place)
        told = {name: getattr(given, name) for name in given.model_fields_set}
        told = {name: value for name, value in told.items() if value is not None}
        own = {name: value for name, value in told.items() if name in SAID_OF_A_DIRECTION}
        fields = self.settings.fields(own, place)
        for name in sorted(told.keys() - own.keys()):
            if name in fields:
                problem = f"{_WRITTEN[name]} and {name} are the same thing"
                raise self.document.error(problem, place, "Keep one")
        return fields | {name: value for name, value in told.items() if name not in own}

    def _link(self, a: str, b: str, told: Mapping[str, object], place: Place) -> Link:
        fields = {**told, "source": a, "target": b}
        for name in ("bandwidth_bps", "delay_s"):
            if name not in fields:
                remedy = 'Write it with its unit, as bandwidth="10 Mbit/s" delay="5 ms"'
                problem = f"the link {a} → {b} has no {_WRITTEN[name]}"
                raise self.document.error(problem, place, remedy)
        return self.document.read(Link, fields, place)


def _transport(document: Document, given: GraphSettings) -> Transport:
    told = {
        name.removeprefix(TRANSPORT): getattr(given, name)
        for name in given.model_fields_set
        if name.startswith(TRANSPORT)
    }
    said = {name: value for name, value in told.items() if value is not None}
    return document.read(Transport, said, ("graph",))


def _identifier(document: Document, row: Mapping[str, Any], key: str, place: Place) -> str:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int):
        remedy = "Write a text or a whole number"
        raise document.error(f"{key} has to be the name of a node", place, remedy)
    return str(value)
