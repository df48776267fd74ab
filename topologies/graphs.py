"""NetworkX graphs, its node-link JSON and GraphML: to and from a `Topology`.

Nodes and edges carry the settings of our own files under the same names (`topologies.layout`):
``role``, ``device``, ``grant``, ``cluster`` and declared attributes on nodes; ``bandwidth``,
``delay``, ``jitter`` and ``loss`` on edges, as text with units. Programs may write SI numbers
instead, under names that say so: ``bandwidth_bps``, ``delay_s``, ``jitter_s``, ``grant_bytes``.
That is what `to_networkx` writes, so that graph algorithms can use them as weights; a device is
written out (``memory_bytes``, ``flops``, ``device_source``), so nothing depends on a catalog. The
edges of an undirected graph are links in both directions. Parallel edges are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, StrictBool

from topologies import units
from topologies.devices import devices
from topologies.document import Document, Place, Settings, Value
from topologies.errors import TopologyError
from topologies.fields import BitsPerSecond, Seconds
from topologies.layout import NodeSettings, declared, machine, split_attributes
from topologies.model import Device, Link, Node, Topology

if TYPE_CHECKING:
    import networkx


def _loss(value: object) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number else units.fraction(value)  # type: ignore[arg-type]


class GraphNode(NodeSettings):
    """A node's settings in a graph file: our own, or a device written out in SI numbers."""

    memory_bytes: int | None = None
    grant_bytes: int | None = None
    flops: float | None = None
    device_source: str = ""


class GraphEdge(Settings):
    """An edge's settings in a graph file: quantities with units, or SI numbers."""

    bandwidth: BitsPerSecond | None = None
    delay: Seconds | None = None
    jitter: Seconds | None = None
    bandwidth_bps: float | None = None
    delay_s: float | None = None
    jitter_s: float | None = None
    loss: Annotated[float, BeforeValidator(_loss)] = 0.0


class GraphSettings(Settings):
    """What a graph file says of the whole."""

    name: str | None = None
    description: str = ""
    attributes: str = ""


class Graph(Settings):
    """Node-link JSON, as `networkx.node_link_data` writes it."""

    directed: StrictBool = False
    multigraph: StrictBool = False
    graph: GraphSettings = GraphSettings()
    nodes: list[dict[str, object]]
    edges: list[dict[str, object]] | None = None
    links: list[dict[str, object]] | None = None


def read_graph(document: Document, name: str) -> Topology:
    """The topology that a node-link document describes; *name*, unless it says another.

    Raises TopologyError.
    """
    graph = document.read(Graph, document.mapping())
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
    for index, row in enumerate(graph.edges or graph.links or []):
        edge = {key: value for key, value in row.items() if key != "key" or not graph.multigraph}
        for link in _edge(document, edge, graph.directed, (where, index)):
            if link.ends in links:
                problem = f"there is a link {link.source} → {link.target} already"
                remedy = "Parallel links are not supported: make one of them"
                raise document.error(problem, (where, index), remedy)
            links[link.ends] = link
    whole = {"name": graph.graph.name or name, "nodes": nodes, "links": links}
    return document.read(Topology, whole)


def graphml(text: str, file: str) -> Document:
    """GraphML as a node-link document. Raises TopologyError when networkx can't read it."""
    # Imported late: networkx takes longer to import than all the rest of this room.
    from xml.etree.ElementTree import ParseError  # noqa: PLC0415

    import networkx as nx  # noqa: PLC0415

    try:
        graph = nx.read_graphml(BytesIO(text.encode()))
    except ParseError as error:
        line = error.position[0]
        raise TopologyError(f"this is not XML: {error}", file=file, line=line) from None
    except nx.NetworkXError as error:
        problem = f"networkx can't read this as GraphML: {error}"
        raise TopologyError(problem, file=file, remedy="Other XML formats are not read") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        problem = f"networkx can't read this as GraphML: {type(error).__name__}: {error}"
        raise TopologyError(problem, file=file) from None
    return _node_link(graph, file)


def from_networkx(graph: networkx.Graph[Any]) -> Topology:
    """The topology of this graph, directed or not. Raises TopologyError."""
    return read_graph(_node_link(graph, "networkx graph"), "graph")


def to_networkx(topology: Topology) -> networkx.DiGraph[str]:
    """The topology as a directed graph, in SI numbers and without loss."""
    import networkx as nx  # noqa: PLC0415

    own = {name for node in topology.nodes.values() for name in node.attributes} - {"cluster"}
    graph: networkx.DiGraph[str] = nx.DiGraph(name=topology.name)
    if own:
        graph.graph["attributes"] = " ".join(sorted(own))
    for node in topology.nodes.values():
        graph.add_node(node.name, role=node.role, **node.attributes)
        if node.device is not None:
            graph.nodes[node.name].update(
                device=node.device.name,
                memory_bytes=node.device.memory_bytes,
                grant_bytes=node.device.grant_bytes,
                flops=node.device.flops,
                device_source=node.device.source,
            )
    for link in topology.links.values():
        numbers = link.model_dump(
            exclude={"source", "target", "jitter_table"}, exclude_defaults=True
        )
        graph.add_edge(link.source, link.target, **numbers)
    return graph


def _node_link(graph: networkx.Graph[Any], file: str) -> Document:
    edges: list[Value] = [
        {"source": str(a), "target": str(b)} | {k: v for k, v in data.items() if k != "id"}
        for a, b, data in graph.edges(data=True)
    ]
    nodes: list[Value] = [{"id": str(node)} | data for node, data in graph.nodes(data=True)]
    whole = {k: v for k, v in graph.graph.items() if k not in ("node_default", "edge_default")}
    value: Value = {
        "directed": graph.is_directed(),
        "multigraph": graph.is_multigraph(),
        "graph": whole,
        "nodes": nodes,
        "edges": edges,
    }
    return Document(file=file, value=value, failure=TopologyError)


def _node(document: Document, row: Mapping[str, Any], own: frozenset[str], place: Place) -> Node:
    name = _identifier(document, row, "id", place)
    settings = {key: value for key, value in row.items() if key != "id"}
    rest, attributes = split_attributes(document, settings, own, GraphNode.settings(), place)
    given = document.read(GraphNode, rest, place)
    fields = {
        "name": name,
        "role": given.role,
        "device": _device(document, given, place),
        "attributes": attributes,
    }
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
    }
    return document.read(Device, fields, place)


def _edge(document: Document, row: Mapping[str, Any], directed: bool, place: Place) -> list[Link]:
    source = _identifier(document, row, "source", place)
    target = _identifier(document, row, "target", place)
    settings = {key: value for key, value in row.items() if key not in ("source", "target")}
    given = document.read(GraphEdge, settings, place)
    fields: dict[str, object] = {"source": source, "target": target, "loss": given.loss}
    for name, number in (
        ("bandwidth", "bandwidth_bps"),
        ("delay", "delay_s"),
        ("jitter", "jitter_s"),
    ):
        values = (getattr(given, name), getattr(given, number))
        if None not in values:
            raise document.error(f"{name} and {number} are the same thing", place, "Keep one")
        value = values[0] if values[1] is None else values[1]
        if value is not None:
            fields[number] = value
        elif name != "jitter":
            remedy = 'Write it with its unit, as bandwidth="10 Mbit/s" delay="5 ms"'
            raise document.error(f"the link {source} → {target} has no {name}", place, remedy)
    forth = document.read(Link, fields, place)
    if directed:
        return [forth]
    return [forth, document.read(Link, {**fields, "source": target, "target": source}, place)]


def _identifier(document: Document, row: Mapping[str, Any], key: str, place: Place) -> str:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise document.error(f"{key} has to be the name of a node", place)
    return str(value)
