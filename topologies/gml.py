"""GML as a node-link document, each node and edge with its line.

GML is keys and values: a value is a number, a text between quotes, or a list of further keys and
values between brackets. A node's name is its ``label`` where every node has another one, as
NetworkX has it, and its ``id`` otherwise; edges go by ``id`` in any case. See the technical report
of M. Himsolt, "GML: a portable graph file format" (1997).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass

from topologies.document import Document, Place, Value
from topologies.errors import TopologyError

_TOKEN = re.compile(
    r"(?P<gap>[ \t\r]+|\#[^\n]*)"
    r"|(?P<newline>\n)"
    r"|(?P<key>[A-Za-z_]\w*)"
    r"|(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])"
    r'|(?P<text>"[^"]*")'
    r"|(?P<open>\[)"
    r"|(?P<close>\])"
)
_GRAPH = re.compile(r"^[ \t]*graph\s*\[", re.MULTILINE)
DEEPEST = 32


def is_gml(text: str) -> bool:
    """Whether this text looks like GML."""
    return _GRAPH.search(text) is not None


@dataclass(slots=True)
class _Entry:
    key: str
    value: int | float | str | list[_Entry]
    line: int


def read_gml(text: str, file: str) -> Document:
    """The node-link document that this GML is. Raises TopologyError."""
    tokens = _tokens(text, file)
    graphs = [entry for entry in _entries(tokens, file, 0) if entry.key == "graph"]
    if not graphs or not isinstance(graphs[0].value, list):
        raise TopologyError("there is no graph in it", file=file, remedy="Write graph [ … ]")
    lines: dict[Place, int] = {}
    rows: dict[str, list[dict[str, Value]]] = {"node": [], "edge": []}
    whole: list[_Entry] = []
    for entry in graphs[0].value:
        if entry.key in rows and isinstance(entry.value, list):
            lines[f"{entry.key}s", len(rows[entry.key])] = entry.line
            rows[entry.key].append(_mapping(entry.value, file))
        else:
            whole.append(entry)
    about = _mapping(whole, file)
    about.pop("multigraph", None)
    directed = about.pop("directed", 0)
    nodes, edges = rows["node"], rows["edge"]
    _name_by_label(nodes, edges)
    value: Value = {
        "directed": directed == 1,
        "multigraph": True,
        "graph": about,
        "nodes": [*nodes],
        "edges": [*edges],
    }
    return Document(file=file, value=value, lines=lines, failure=TopologyError)


def _name_by_label(nodes: list[dict[str, Value]], edges: list[dict[str, Value]]) -> None:
    """Makes labels the ids, where each node has another one."""
    labels = [node.get("label") for node in nodes]
    if not all(isinstance(label, str) and label.strip() for label in labels):
        return
    if len({str(label) for label in labels}) < len(labels):
        return
    names = {str(node.get("id")): node.get("label") for node in nodes}
    if len(names) < len(nodes):
        return
    for node in nodes:
        node["id"] = node.pop("label")
    for edge in edges:
        for end in ("source", "target"):
            edge[end] = names.get(str(edge.get(end)), edge.get(end))


def _mapping(entries: list[_Entry], file: str) -> dict[str, Value]:
    mapping: dict[str, Value] = {}
    for entry in entries:
        if entry.key in mapping:
            problem = f'the key "{entry.key}" is there twice'
            raise TopologyError(problem, file=file, line=entry.line, remedy="Keep one")
        value = entry.value
        mapping[entry.key] = _mapping(value, file) if isinstance(value, list) else value
    return mapping


def _entries(tokens: Iterator[tuple[str, str, int]], file: str, depth: int) -> list[_Entry]:
    if depth > DEEPEST:
        raise _error("a [ in a [ in a [ …, nested too deeply", file, None)
    entries: list[_Entry] = []
    for role, word, line in tokens:
        if role == "close" and depth:
            return entries
        if role != "key":
            problem = f"{word[:40]} stands where a key should"
            raise _error(problem, file, line)
        kind, value, where = next(tokens, ("end", "", line))
        if kind == "open":
            entries.append(_Entry(word, _entries(tokens, file, depth + 1), line))
        elif kind == "text":
            entries.append(_Entry(word, html.unescape(value[1:-1]), line))
        elif kind == "number":
            whole = value.lstrip("+-").isdigit()
            entries.append(_Entry(word, int(value) if whole else float(value), line))
        else:
            problem = f"{word} has no value: it is a number, a text in quotes, or a [ … ]"
            raise _error(problem, file, where)
    if depth:
        raise _error("a [ is never closed", file, None)
    return entries


def _tokens(text: str, file: str) -> Iterator[tuple[str, str, int]]:
    line, position = 1, 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            word = text[position : position + 20].split(maxsplit=1)[0]
            raise _error(f"{word!r} means nothing", file, line)
        kind = match.lastgroup or ""
        if kind not in ("gap", "newline"):
            yield kind, match[0], line
        if kind in ("newline", "text"):
            line += match[0].count("\n")
        position = match.end()


def _error(problem: str, file: str, line: int | None) -> TopologyError:
    remedy = "GML is key value key value …, and a list of them stands between [ and ]"
    return TopologyError(f"this is not GML: {problem}", file=file, line=line, remedy=remedy)
