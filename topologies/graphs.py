"""NetworkX graphs, its node-link JSON and GraphML: to and from a `Topology`.

Nodes and edges carry the settings of our own files under the same names (`topologies.layout`):
``role``, ``device``, ``grant``, ``cluster`` and declared attributes on nodes; ``bandwidth``,
``delay``, ``jitter``, ``loss``, … on edges (`topologies.link_settings`), as text with units.
Programs may write SI numbers instead, under the names of a `Link`: ``bandwidth_bps``, ``delay_s``,
``jitter_s``, ``queue_bytes``; ``grant_bytes`` on nodes. That is what `to_networkx` writes, so that
graph algorithms can use them as weights; a device is written out (``memory_bytes``, ``flops``,
``device_source``), so nothing depends on a catalog. A table of jitter is a text of numbers,
because GraphML has no lists; a transport stands in the graph's own attributes, as
``transport_congestion``, ``transport_initial_window``, …. The edges of an undirected graph are
links in both directions. Parallel edges are refused.
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
from topologies.fields import one_of
from topologies.jitter import SHAPES
from topologies.layout import NodeSettings, declared, machine, split_attributes
from topologies.link_settings import CONGESTION, Direction, LinkReader, LossSettings, check_media
from topologies.model import Device, Link, Node, Topology, Transport

if TYPE_CHECKING:
    import networkx


_TRANSPORT = "transport_"
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


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _chance(value: object) -> object:
    return value if value is None or _is_number(value) else units.fraction(value)


def _loss(value: object) -> object:
    return LossSettings.model_construct(mean=float(value)) if _is_number(value) else value  # type: ignore[arg-type]


def _table(value: object) -> object:
    return value.split() if isinstance(value, str) else value


class GraphNode(NodeSettings):
    """A node's settings in a graph file: our own, or a device written out in SI numbers."""

    memory_bytes: int | None = None
    grant_bytes: int | None = None
    flops: float | None = None
    device_source: str = ""


class GraphEdge(Direction):
    """An edge's settings in a graph file: our own, or SI numbers under the names of a `Link`."""

    loss: Annotated[LossSettings | None, BeforeValidator(_loss)] = None
    duplicate: Annotated[float | None, BeforeValidator(_chance)] = None
    reorder: Annotated[float | None, BeforeValidator(_chance)] = None
    corrupt: Annotated[float | None, BeforeValidator(_chance)] = None
    bandwidth_bps: float | None = None
    delay_s: float | None = None
    jitter_s: float | None = None
    jitter_shape: Annotated[str, one_of((*SHAPES, "table"), what="shapes of jitter")] | None = None
    jitter_table: Annotated[tuple[float, ...] | None, BeforeValidator(_table)] = None
    burst: float | None = None
    queue_bytes: int | None = None


class GraphSettings(Settings):
    """What a graph file says of the whole."""

    name: str | None = None
    description: str = ""
    attributes: str = ""
    transport_congestion: Annotated[str, one_of(CONGESTION, what="laws of congestion")] | None = (
        None
    )
    transport_segment_bytes: int | None = None
    transport_header_bytes: int | None = None
    transport_initial_window: int | None = None
    transport_minimum_rto_s: float | None = None
    transport_send_buffer_bytes: int | None = None
    transport_timeout_s: float | None = None


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
    places: dict[tuple[str, str], Place] = {}
    reader = LinkReader(document)
    for index, row in enumerate(graph.edges or graph.links or []):
        edge = {key: value for key, value in row.items() if key != "key" or not graph.multigraph}
        for link in _edge(document, reader, edge, graph.directed, (where, index)):
            if link.ends in links:
                problem = f"there is a link {link.source} → {link.target} already"
                remedy = "Parallel links are not supported: make one of them"
                raise document.error(problem, (where, index), remedy)
            links[link.ends], places[link.ends] = link, (where, index)
    check_media(document, links, places)
    transport = _transport(document, graph.graph)
    whole = {
        "name": graph.graph.name or name,
        "nodes": nodes,
        "links": links,
        "transport": transport,
    }
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
        values = link.model_dump(exclude={"source", "target"}, exclude_defaults=True)
        if link.jitter_table:
            values["jitter_table"] = " ".join(map(repr, link.jitter_table))
        graph.add_edge(link.source, link.target, **values)
    for name, value in topology.transport.model_dump(exclude_defaults=True).items():
        graph.graph[f"{_TRANSPORT}{name}"] = value
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


def _edge(
    document: Document, reader: LinkReader, row: Mapping[str, Any], directed: bool, place: Place
) -> list[Link]:
    source = _identifier(document, row, "source", place)
    target = _identifier(document, row, "target", place)
    settings = {key: value for key, value in row.items() if key not in ("source", "target")}
    given = document.read(GraphEdge, settings, place)
    told = {name: getattr(given, name) for name in given.model_fields_set}
    told = {name: value for name, value in told.items() if value is not None}
    own = {name: value for name, value in told.items() if name in Direction.model_fields}
    fields = reader.fields(own, place)
    for name in sorted(told.keys() - own.keys()):
        if name in fields:
            written = _WRITTEN[name]
            raise document.error(f"{written} and {name} are the same thing", place, "Keep one")
    fields |= {name: value for name, value in told.items() if name not in own}
    for name in ("bandwidth_bps", "delay_s"):
        if name not in fields:
            remedy = 'Write it with its unit, as bandwidth="10 Mbit/s" delay="5 ms"'
            problem = f"the link {source} → {target} has no {_WRITTEN[name]}"
            raise document.error(problem, place, remedy)
    forth = document.read(Link, {**fields, "source": source, "target": target}, place)
    if directed:
        return [forth]
    return [forth, document.read(Link, {**fields, "source": target, "target": source}, place)]


def _transport(document: Document, given: GraphSettings) -> Transport:
    told = {
        name.removeprefix(_TRANSPORT): getattr(given, name)
        for name in given.model_fields_set
        if name.startswith(_TRANSPORT)
    }
    said = {name: value for name, value in told.items() if value is not None}
    return document.read(Transport, said, ("graph",))


def _identifier(document: Document, row: Mapping[str, Any], key: str, place: Place) -> str:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise document.error(f"{key} has to be the name of a node", place)
    return str(value)
