"""Topology files into a `Topology`, by what is in them and not by what they are called.

Read are our own YAML (see ``catalog/edge-clusters.yaml``, and `topologies.layout` for its
settings), and NetworkX's node-link JSON and GraphML whose attributes have the same names
(`topologies.graphs`).
"""

from __future__ import annotations

from pathlib import Path

from topologies.document import parse_json, parse_yaml, read_text
from topologies.errors import TopologyError, did_you_mean
from topologies.graphs import graphml, read_graph
from topologies.layout import read_layout
from topologies.model import Topology

_CATALOG = Path(__file__).with_name("catalog")


def catalog() -> tuple[str, ...]:
    """The names of the bundled topologies."""
    return tuple(sorted(path.stem for path in _CATALOG.glob("*.yaml")))


def load(name_or_path: str | Path) -> Topology:
    """The bundled topology of this name, or the one in this file.

    Raises TopologyError when there is neither, or when the file is no topology.
    """
    if isinstance(name_or_path, str) and name_or_path in catalog():
        path = _CATALOG / f"{name_or_path}.yaml"
        return parse(read_text(path, TopologyError), path.name)
    path = Path(name_or_path)
    if isinstance(name_or_path, str) and not path.suffix and not path.exists():
        remedy = did_you_mean(name_or_path, catalog(), what="bundled topologies")
        raise TopologyError(
            f'there is neither a bundled topology nor a file "{name_or_path}"', remedy=remedy
        )
    return parse(read_text(path, TopologyError), str(path))


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
