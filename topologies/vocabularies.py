"""Graphs that other programs wrote, in our own words.

Each collection of networks has names of its own for the same things. They are told apart by what
stands in the graph, never by a file's name, and may be mixed:

| who | on edges | on nodes |
|---|---|---|
| Topology Zoo | ``LinkSpeedRaw`` (bit/s), ``LinkSpeed`` and ``LinkSpeedUnits``, ``LinkType``, ``LinkLabel`` | ``Latitude``, ``Longitude``, ``Internal``, ``hyperedge``, ``label`` |
| topohub | ``dist`` (km) | ``pos`` (longitude, latitude), ``name`` |
| fnss | ``capacity``, ``delay``, ``length``, ``buffer``, their units in the graph | ``latitude``, ``longitude`` |
| SNDlib | ``pre_installed_capacity``, ``module_capacity`` | ``x``, ``y`` |
| Shadow | ``latency``, ``packet_loss``, ``jitter`` | ``host_bandwidth_up``, ``host_bandwidth_down`` |
| any | nothing, or ``weight`` | anything |

What is missing is derived by `topologies.rules`. A node's attributes stay with it; an edge's have to
mean something, so one that is not known is an error, unless the rules ignore it. Edges from a node
to itself carry nothing between nodes and are left out.
"""  # noqa: E501 - a table's rows are lines

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from topologies.document import Document, Place, Value
from topologies.foreign_edges import FOREIGN_EDGE, OWN_EDGE, Arc, EdgeTranslator, together
from topologies.foreign_nodes import FOREIGN_NODE, OWN_NODE, NodeTranslator, Row, Vertex
from topologies.graph_settings import GraphSettings
from topologies.rules import Rules

_FOREIGN_GRAPH = frozenset(
    ["capacity_unit", "delay_unit", "distance_unit", "buffer_unit", "coordinates"]
)


def is_foreign(graph: Mapping[str, Value]) -> bool:
    """Whether a node-link document speaks another vocabulary than ours, or none."""
    edges = _rows(graph, "edges") or _rows(graph, "links")
    on_edges = {key for row in edges for key in row}
    on_nodes = {key for row in _rows(graph, "nodes") for key in row}
    about = _about(graph)
    if on_edges & FOREIGN_EDGE or on_nodes & FOREIGN_NODE or _FOREIGN_GRAPH & about.keys():
        return True
    return bool(edges) and not on_edges & OWN_EDGE


def translate(document: Document, rules: Rules, *, foreign: bool) -> Document:
    """The same graph in our own vocabulary, with everything that our files have to say.

    Of a graph that is not *foreign* nodes stay as they are. Raises the document's error.
    """
    graph = document.mapping()
    about, rows = _about(graph), _rows(graph, "nodes")
    if not rows:
        remedy = "A network has one node at least"
        raise document.error("there are no nodes", ("nodes",), remedy)
    nodes = NodeTranslator(document, about, rows, foreign=foreign)
    vertices = nodes.vertices()
    where = "edges" if isinstance(graph.get("edges"), list) else "links"
    edges = EdgeTranslator(document, rules, about, nodes)
    directed, ids = graph.get("directed") is True, [row["id"] for row in rows]
    arcs = edges.arcs(_rows(graph, where), vertices, ids, where, directed)
    arcs = together(document, rules, arcs)
    kept = _kept(document, rules, vertices, arcs)
    arcs = [arc for arc in arcs if arc.ends[0] in kept and arc.ends[1] in kept]
    whole = _settings(about)
    if not foreign:
        whole["attributes"] = about.get("attributes", "")
    return _written(document, whole, {name: vertices[name] for name in kept}, arcs)


def _written(
    document: Document, whole: dict[str, Value], vertices: Mapping[str, Vertex], arcs: Sequence[Arc]
) -> Document:
    """A node-link document of these nodes and links, each on the line it came from."""
    nodes = [vertex.settings for vertex in vertices.values()]
    edges: list[Value] = [
        {**arc.settings, "source": arc.ends[0], "target": arc.ends[1], "derived": {**arc.derived}}
        for arc in arcs
    ]
    places: dict[Place, Place] = {("edges", index): arc.at for index, arc in enumerate(arcs)}
    places |= {("nodes", index): vertex.at for index, vertex in enumerate(vertices.values())}
    lines = {new: document.line(old) for new, old in places.items()}
    own = {key for node in nodes for key in node} - OWN_NODE - {"id", "derived"}
    value: Value = {
        "directed": True,
        "graph": {"attributes": " ".join(sorted(own)), **whole},
        "nodes": [*nodes],
        "edges": edges,
    }
    known = {place: line for place, line in lines.items() if line is not None}
    return Document(document.file, value, known, document.failure)


def _settings(about: Row) -> dict[str, Value]:
    """What of the graph's own attributes our vocabulary has, and its name."""
    known = set(GraphSettings.settings()) - {"attributes", "name"}
    said: dict[str, Value] = {key: value for key, value in about.items() if key in known}
    names = (about.get(key) for key in ("name", "label", "Network"))
    name = next((name.strip() for name in names if isinstance(name, str) and name.strip()), None)
    return said if name is None else {**said, "name": name}


def _kept(
    document: Document, rules: Rules, vertices: Mapping[str, Vertex], arcs: Sequence[Arc]
) -> dict[str, None]:
    """The names of the nodes that stay, in their order."""
    inside = {
        name: vertex
        for name, vertex in vertices.items()
        if not (vertex.external and rules.external == "drop")
    }
    if not inside:
        raise document.error("all nodes are external", ("nodes",), 'Say Rules(external="keep")')
    ends = [arc.ends for arc in arcs if arc.ends[0] in inside and arc.ends[1] in inside]
    parts = _parts(inside, ends)
    if rules.disconnected == "keep" or len(parts) == 1:
        return dict.fromkeys(inside)
    largest = max(parts, key=len)
    if rules.disconnected == "largest":
        return {name: None for name in inside if name in largest}
    outside = next(name for name in inside if name not in largest)
    problem = (
        f"the network falls apart into {len(parts)} parts: {len(largest)} of its {len(inside)} "
        f"nodes hang together, and {outside} is not among them"
    )
    remedy = 'Say Rules(disconnected="largest") for that part alone, or "keep" for all of it'
    raise document.error(problem, inside[outside].at, remedy)


def _parts(names: Iterable[str], ends: Iterable[tuple[str, str]]) -> list[set[str]]:
    """The parts of a network that hang together, whatever the direction of its links."""
    neighbors: dict[str, list[str]] = {name: [] for name in names}
    for a, b in ends:
        neighbors[a].append(b)
        neighbors[b].append(a)
    parts: list[set[str]] = []
    seen: set[str] = set()
    for start in neighbors:
        if start in seen:
            continue
        part, waiting = {start}, [start]
        while waiting:
            for other in neighbors[waiting.pop()]:
                if other not in part:
                    part.add(other)
                    waiting.append(other)
        seen |= part
        parts.append(part)
    return parts


def _about(graph: Mapping[str, Value]) -> dict[str, Any]:
    about = graph.get("graph")
    return about if isinstance(about, dict) else {}


def _rows(graph: Mapping[str, Value], key: str) -> list[Row]:
    rows = graph.get(key)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
