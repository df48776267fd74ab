"""Topology files into a `Topology`, by what is in them and not by what they are called.

Read are our own YAML (see ``catalog/edge-clusters.yaml``, and `topologies.layout` for its
settings), and NetworkX's node-link JSON and GraphML whose attributes have the same names
(`topologies.graphs`).
"""

from __future__ import annotations

from pathlib import Path

from topologies.bundled import Catalog
from topologies.document import parse_json, parse_yaml
from topologies.errors import TopologyError
from topologies.graphs import graphml, read_graph
from topologies.layout import read_layout
from topologies.model import Topology

_CATALOG = Catalog(Path(__file__).with_name("catalog"), "topology", TopologyError)


def catalog() -> tuple[str, ...]:
    """The names of the bundled topologies."""
    return _CATALOG.names()


def load(name_or_path: str | Path) -> Topology:
    """The bundled topology of this name, or the one in this file.

    Raises TopologyError when there is neither, or when the file is no topology.
    """
    return parse(*_CATALOG.read(name_or_path))


def parse(text: str, file: str = "<text>") -> Topology:
    """The topology that this text is, in any of the formats; *file* is its name in errors.

    Raises TopologyError.
    """
    start = text.lstrip()
    name = Path(file).stem
    if start.startswith("<"):
        return read_graph(graphml(text, file), name)
    if start.startswith("{") and '"nodes"' in text:
        document = parse_json(text, file, TopologyError)
        if isinstance(document.value, dict) and isinstance(document.value.get("nodes"), list):
            return read_graph(document, name)
        return read_layout(document, name)
    return read_layout(parse_yaml(text, file, TopologyError), name)
