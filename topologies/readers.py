"""Topology files into a `Topology`, by what is in them and not by what they are called.

Read are our own YAML (see ``catalog/edge-clusters.yaml``, and `topologies.layout` for its
settings); GraphML, GML and node-link JSON, in our own words or in those of others
(`topologies.vocabularies`); and SNDlib's two formats.
"""

from __future__ import annotations

import re
from pathlib import Path

from topologies.bundled import Catalog
from topologies.document import Document, parse_json, parse_yaml
from topologies.errors import TopologyError
from topologies.gml import is_gml, read_gml
from topologies.graphml import read_graphml
from topologies.graphs import read_graph
from topologies.layout import read_layout
from topologies.markup import read_markup
from topologies.model import Topology
from topologies.rules import Rules
from topologies.sndlib import is_native, read_native, read_xml

_CATALOG = Catalog(Path(__file__).with_name("catalog"), "topology", TopologyError)
_DOT = re.compile(r"\s*(?:strict\s+)?(?:di)?graph\b[^\[\n:]*\{")


def catalog() -> tuple[str, ...]:
    """The names of the bundled topologies."""
    return _CATALOG.names()


def load(name_or_path: str | Path, rules: Rules | None = None) -> Topology:
    """The bundled topology of this name, or the one in this file.

    Args:
        rules: how what the file does not say is derived, for those who want it otherwise.

    Raises TopologyError when there is neither, or when the file is no topology.
    """
    return parse(*_CATALOG.read(name_or_path), rules)


def parse(text: str, file: str = "<text>", rules: Rules | None = None) -> Topology:
    """The topology that this text is, in any of the formats; *file* is its name in errors.

    Raises TopologyError.
    """
    name = Path(file).stem
    start = text.lstrip()
    if start.startswith("<"):
        return read_graph(_xml(text, file), name, rules)
    if is_native(text):
        return read_graph(read_native(text, file), name, rules)
    if start.startswith("{") and '"nodes"' in text:
        document = parse_json(text, file, TopologyError)
        if isinstance(document.value, dict) and isinstance(document.value.get("nodes"), list):
            return read_graph(document, name, rules)
        return read_layout(document, name, rules)
    if is_gml(text):
        return read_graph(read_gml(text, file), name, rules)
    if _DOT.match(text):
        remedy = "Convert it: networkx.write_graphml(networkx.nx_pydot.read_dot(…), …)"
        raise TopologyError("this looks like DOT, which is not read", file=file, remedy=remedy)
    return read_layout(parse_yaml(text, file, TopologyError), name, rules)


def _xml(text: str, file: str) -> Document:
    root = read_markup(text, file)
    if root.tag == "graphml":
        return read_graphml(root, file)
    if root.tag == "network":
        return read_xml(root, file)
    problem = f"this is XML, but neither GraphML nor SNDlib's: it begins with <{root.tag}>"
    remedy = "NetworkX can convert many formats: networkx.write_graphml(…)"
    raise TopologyError(problem, file=file, line=root.line, remedy=remedy)
