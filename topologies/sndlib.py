"""SNDlib's networks, its native text format and its XML, as node-link documents.

Links are undirected and may be parallel. A link's capacity is what is installed on it already;
where that is nothing, the smallest module that could be. Its unit is not said, so the rules say it.
Coordinates are degrees where the XML says ``geographical``, and in the native format, which does
not say, where all of them could be. Demands, costs and admissible paths are no part of a network
and left aside. See S. Orlowski, M. Pióro, A. Tomaszewski and R. Wessäly, "SNDlib 1.0 - Survivable
Network Design Library", Networks 55(3), 2010, and its pages on the formats.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from topologies.document import Document, Place, Value
from topologies.errors import TopologyError
from topologies.markup import Element

_HEADER = re.compile(r"(?:\s*#[^\n]*\n)*\s*\?\s*SNDlib\s+native\s+format")
_SECTION = re.compile(r"([A-Z_]+)\s*\(")
_NODE = re.compile(r"(?P<id>[^\s()]+)\s*\(\s*(?P<x>\S+)\s+(?P<y>[^\s)]+)\s*\).*")
_LINK = re.compile(
    r"(?P<id>[^\s()]+)\s*\(\s*(?P<source>\S+)\s+(?P<target>[^\s)]+)\s*\)"
    r"\s+(?P<installed>[^\s()]+)(?P<costs>(?:\s+[^\s()]+){3})\s*\(\s*(?P<modules>[^()]*)\).*"
)


def is_native(text: str) -> bool:
    """Whether this text begins as SNDlib's native format does."""
    return _HEADER.match(text) is not None


def read_native(text: str, file: str) -> Document:
    """The node-link document that this native network file is. Raises TopologyError."""
    lines: dict[Place, int] = {}
    nodes: list[Value] = []
    edges: list[Value] = []
    for section, line, number in _lines(text, file):
        if section == "NODES":
            match = _NODE.fullmatch(line)
            if match is None:
                remedy = "Write name ( x y )"
                raise TopologyError("this is no node", file=file, line=number, remedy=remedy)
            lines["nodes", len(nodes)] = number
            x, y = (_number(match[name], f"{name} of {match['id']}", file, number) for name in "xy")
            nodes.append({"id": match["id"], "x": x, "y": y})
        elif section == "LINKS":
            match = _LINK.fullmatch(line)
            if match is None:
                remedy = "Write name ( source target ) capacity cost cost cost ( modules )"
                raise TopologyError("this is no link", file=file, line=number, remedy=remedy)
            lines["edges", len(edges)] = number
            installed = _number(match["installed"], "the capacity", file, number)
            words = match["modules"].split()[::2]
            modules = [_number(word, "a module's capacity", file, number) for word in words]
            row: dict[str, Value] = {"source": match["source"], "target": match["target"]}
            edges.append({**row, **_capacity(installed, modules)})
    places = [(row["x"], row["y"]) for row in nodes if isinstance(row, dict)]
    degrees = all(
        isinstance(x, float) and isinstance(y, float) and abs(x) <= 180 and abs(y) <= 90
        for x, y in places
    )
    return _document(nodes, edges, lines, "geographical" if degrees else "pixel", file)


def read_xml(root: Element, file: str) -> Document:
    """The node-link document that this XML network is. Raises TopologyError."""
    drawn = root.first("networkStructure", "nodes")
    joined = root.first("networkStructure", "links")
    if drawn is None:
        problem = "there is no networkStructure with nodes in it"
        remedy = "Is it SNDlib's network, and not a model or a solution?"
        raise TopologyError(problem, file=file, line=root.line, remedy=remedy)
    lines: dict[Place, int] = {}
    nodes: list[Value] = []
    edges: list[Value] = []
    for element in drawn.all("node"):
        lines["nodes", len(nodes)] = element.line
        row: dict[str, Value] = {"id": _said(element.attributes.get("id"), element, "id", file)}
        for name in ("x", "y"):
            found = element.first("coordinates", name)
            if found is not None:
                row[name] = _number(found.text, name, file, found.line)
        nodes.append(row)
    for element in joined.all("link") if joined else ():
        lines["edges", len(edges)] = element.line
        row = {}
        for name in ("source", "target"):
            found = element.first(name)
            row[name] = _said(found.text.strip() if found else None, element, name, file)
        installed = element.first("preInstalledModule", "capacity")
        present = _number(installed.text, "capacity", file, installed.line) if installed else 0.0
        modules: list[float] = []
        choice = element.first("additionalModules")
        for module in choice.all("addModule") if choice else ():
            capacity = module.first("capacity")
            if capacity is not None:
                modules.append(_number(capacity.text, "capacity", file, capacity.line))
        edges.append(row | _capacity(present, modules))
    kind = drawn.attributes.get("coordinatesType", "geographical")
    return _document(nodes, edges, lines, kind, file)


def _document(
    nodes: list[Value], edges: list[Value], lines: dict[Place, int], coordinates: str, file: str
) -> Document:
    value: Value = {
        "directed": False,
        "multigraph": True,
        "graph": {"coordinates": coordinates},
        "nodes": nodes,
        "edges": edges,
    }
    return Document(file=file, value=value, lines=lines, failure=TopologyError)


def _lines(text: str, file: str) -> Iterator[tuple[str, str, int]]:
    """Each line that says something: the section it stands in, the line, and its number."""
    section = ""
    for number, written in enumerate(text.split("\n"), start=1):
        line = written.partition("#")[0].strip()
        if not line or line.startswith("?"):
            if line and "network" not in line.partition("type:")[2].partition(";")[0]:
                problem = "this is a file of SNDlib, but not a network"
                remedy = "The network stands in a file of its own, whose type is network"
                raise TopologyError(problem, file=file, line=number, remedy=remedy)
            continue
        opened = _SECTION.fullmatch(line)
        if not section and opened:
            section = opened[1]
        elif section and line == ")":
            section = ""
        elif section:
            yield section, line, number
        elif line != ")" and not re.fullmatch(r"[A-Z_]+\s*\(\s*\)", line):
            remedy = "Sections are written as NODES ( … )"
            raise TopologyError("this stands in no section", file=file, line=number, remedy=remedy)
    if section:
        raise TopologyError(f"the section {section} is never closed", file=file, remedy="Write )")


def _capacity(installed: float, modules: list[float]) -> dict[str, Value]:
    if installed > 0 or installed < 0:
        return {"pre_installed_capacity": installed}
    return {"module_capacity": min(modules)} if modules else {}


def _number(text: str, what: str, file: str, line: int) -> float:
    try:
        return float(text)
    except ValueError:
        problem = f'{what} is "{text.strip()[:40]}", which is no number'
        raise TopologyError(problem, file=file, line=line, remedy="Write a number") from None


def _said(value: str | None, element: Element, name: str, file: str) -> str:
    if not value:
        problem = f"this {element.tag} has no {name}"
        raise TopologyError(problem, file=file, line=element.line, remedy="Give it one")
    return value
