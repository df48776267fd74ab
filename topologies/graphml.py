"""GraphML as a node-link document, each node and edge with its line.

Read are keys of all types with their defaults, and the labels of yEd's drawings. Hyperedges, graphs
inside nodes and a mixture of directed and undirected edges are refused, for a node-link document
has none of them. See http://graphml.graphdrawing.org/specification.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from topologies.document import Document, Place, Value
from topologies.errors import TopologyError
from topologies.markup import Element

_TYPES = ("boolean", "int", "integer", "long", "float", "double", "string")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class _Key:
    name: str
    kind: str
    target: str
    default: Value = None


def read_graphml(root: Element, file: str) -> Document:
    """The node-link document that this GraphML is. Raises TopologyError."""
    graph = root.first("graph")
    if graph is None:
        remedy = 'Write <graph edgedefault="undirected"> … </graph>'
        problem = "there is no graph in it"
        raise TopologyError(problem, file=file, line=root.line, remedy=remedy)
    keys = _keys(root, file)
    direction = graph.attributes.get("edgedefault", "undirected")
    if direction not in ("directed", "undirected"):
        problem = f'edgedefault is "{direction}"'
        remedy = 'Write "directed" or "undirected"'
        raise TopologyError(problem, file=file, line=graph.line, key="graph", remedy=remedy)
    lines: dict[Place, int] = {}
    nodes: list[Value] = []
    edges: list[Value] = []
    for element in graph.children:
        if element.tag == "node":
            lines["nodes", len(nodes)] = element.line
            row = _data(element, "node", keys, file)
            nodes.append({**row, "id": _attribute(element, "id", file)})
        elif element.tag == "edge":
            lines["edges", len(edges)] = element.line
            edges.append(_edge(element, direction, keys, file))
        elif element.tag == "hyperedge":
            problem = "hyperedges are not read"
            remedy = "Make it a node, with an edge to each of its ends"
            raise TopologyError(problem, file=file, line=element.line, remedy=remedy)
    value: Value = {
        "directed": direction == "directed",
        "multigraph": True,
        "graph": _data(graph, "graph", keys, file),
        "nodes": nodes,
        "edges": edges,
    }
    return Document(file=file, value=value, lines=lines, failure=TopologyError)


def _edge(element: Element, direction: str, keys: Mapping[str, _Key], file: str) -> Value:
    directed = element.attributes.get("directed")
    if directed is not None and (directed == "true") != (direction == "directed"):
        problem = "this edge is directed and others are not, or the other way round"
        remedy = f"Make all of them {direction}, as the graph's edgedefault says"
        raise TopologyError(problem, file=file, line=element.line, key="edge", remedy=remedy)
    ends = {name: _attribute(element, name, file) for name in ("source", "target")}
    return {**_data(element, "edge", keys, file), **ends}


def _keys(root: Element, file: str) -> dict[str, _Key]:
    keys: dict[str, _Key] = {}
    for element in root.all("key"):
        identity = _attribute(element, "id", file)
        attributes = element.attributes
        drawn = attributes.get("yfiles.type", "")
        name = attributes.get("attr.name") or ("label" if drawn.endswith("graphics") else identity)
        key = _Key(name, attributes.get("attr.type", "string"), attributes.get("for", "all"))
        if key.kind not in _TYPES:
            problem = f'the key {name} has the type "{key.kind}"'
            remedy = f"The types are {', '.join(_TYPES)}"
            raise TopologyError(problem, file=file, line=element.line, key="key", remedy=remedy)
        default = element.first("default")
        if default is not None:
            key = _Key(key.name, key.kind, key.target, _value(default, key, file))
        keys[identity] = key
    return keys


def _data(element: Element, target: str, keys: Mapping[str, _Key], file: str) -> dict[str, Value]:
    row: dict[str, Value] = {
        key.name: key.default
        for key in keys.values()
        if key.default is not None and key.target in (target, "all")
    }
    for data in element.children:
        if data.tag == "graph" and target == "node":
            problem = "graphs inside nodes are not read"
            raise TopologyError(problem, file=file, line=data.line, remedy="Take them out")
        if data.tag != "data":
            continue
        identity = _attribute(data, "key", file)
        if identity not in keys:
            problem = f'there is no key "{identity}"'
            remedy = "Declare it with <key id=…> at the top"
            raise TopologyError(problem, file=file, line=data.line, key=target, remedy=remedy)
        key = keys[identity]
        if data.children:  # what yEd draws: its label is all that we read of it
            label = data.anywhere("NodeLabel") or data.anywhere("EdgeLabel")
            if label is not None and label.text.strip():
                row.setdefault("label", label.text.strip())
        else:
            row[key.name] = _value(data, key, file)
    return row


def _value(element: Element, key: _Key, file: str) -> Value:
    text = element.text
    try:
        if key.kind in ("int", "integer", "long"):
            return int(text)
        if key.kind in ("float", "double"):
            return float(text)
        if key.kind == "boolean":
            return _BOOLEANS[text.strip().lower()]
    except (ValueError, KeyError):
        problem = f'"{text[:60]}" is no {key.kind}'
        line, remedy = element.line, "Correct it, or the type of its <key>"
        raise TopologyError(problem, file=file, line=line, key=key.name, remedy=remedy) from None
    return text


def _attribute(element: Element, name: str, file: str) -> str:
    value = element.attributes.get(name)
    if value is None:
        problem, remedy = f"this {element.tag} has no {name}", f'Write {name}="…"'
        raise TopologyError(problem, file=file, line=element.line, key=element.tag, remedy=remedy)
    return value
