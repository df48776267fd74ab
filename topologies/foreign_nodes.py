"""The nodes of other programs' graphs, in our own words: names, places, roles, attributes."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from topologies import units
from topologies.document import Document, Place, Value
from topologies.foreign_values import number, quantity
from topologies.graph_settings import GraphNode
from topologies.model import can_be_an_attribute
from topologies.names import distinct

OWN_NODE = frozenset(GraphNode.settings()) - {"derived"}
FOREIGN_NODE = frozenset({
    "Internal", "Latitude", "Longitude", "hyperedge", "pos", "host_bandwidth_up",
    "host_bandwidth_down", "bandwidthup", "bandwidthdown",
})  # fmt: skip
_NAMED = ("label", "name")
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Vertex:
    """A node: its settings in our own words, and what its links are derived from.

    Attributes:
        place: latitude and longitude.
        external: it belongs to another network.
        up_bps, down_bps: what it can send and receive, in Shadow's files.
        first_format: these are of Shadow's first format, which has other units.
        at: where it stands in the document.
    """

    settings: dict[str, Value]
    place: tuple[float, float] | None
    external: bool
    up_bps: float | None
    down_bps: float | None
    first_format: bool
    at: Place


class NodeTranslator:
    """Translates the nodes of a node-link document.

    Attributes:
        by_id: each node's name, by its id.
        geographic: positions are places on Earth. SNDlib and topohub have also those of drawings.
    """

    def __init__(
        self, document: Document, about: Row, rows: Sequence[Row], *, foreign: bool
    ) -> None:
        self._foreign = foreign
        self._document = document
        self._drawn_in_degrees = about.get("coordinates") == "geographical"
        self._rows = rows
        self.geographic = _is_geographic(about, rows)
        self.by_id: dict[str, str] = {}

    def vertices(self) -> dict[str, Vertex]:
        """The nodes by name, in their order. Raises the document's error."""
        labels = [self._label(row, ("nodes", i)) for i, row in enumerate(self._rows)]
        names = distinct(labels) if self._foreign else [identity for _, identity in labels]
        vertices: dict[str, Vertex] = {}
        for index, row in enumerate(self._rows):
            at: Place = ("nodes", index)
            name, (label, identity) = names[index], labels[index]
            if identity in self.by_id:
                problem, remedy = f"there is a node {identity} already", "Give each its own id"
                raise self._document.error(problem, at, remedy)
            self.by_id[identity] = name
            vertices[name] = self._vertex(row, name, label, at)
        return vertices

    def _label(self, row: Row, at: Place) -> tuple[str, str]:
        """What a node is called, and its id."""
        identity = row.get("id")
        if isinstance(identity, bool) or not isinstance(identity, str | int):
            remedy = "Give each node an id, a text or a whole number"
            raise self._document.error("id has to be the name of a node", at, remedy)
        for key in _NAMED if self._foreign else ():
            label = row.get(key)
            if isinstance(label, str) and label.strip():
                return html.unescape(label), str(identity)
        return str(identity), str(identity)

    def _vertex(self, row: Row, name: str, label: str, at: Place) -> Vertex:
        settings: dict[str, Value] = {"id": name}
        derived: dict[str, Value] = {} if name == label else {"name": "label"}
        external = number(row.get("Internal")) == 0
        place = self._place(row, at) if self.geographic else None
        for key, value in row.items():
            if key in OWN_NODE or (key != "id" and not self._foreign):
                settings[key] = value
            elif key not in FOREIGN_NODE and key not in ("id", *_NAMED):
                _keep(settings, key, value)
        if self._foreign and "role" not in row and ("Internal" in row or row.get("hyperedge")):
            role = "external" if external else "router"
            settings["role"] = "exchange" if row.get("hyperedge") else role
            derived["role"] = "kind-of-node"
        if label != name:
            _keep(settings, "label", label)
        if place is not None:
            settings["latitude"], settings["longitude"] = place
        elif isinstance(row.get("pos"), list):
            for key, value in zip("xy", row["pos"], strict=False):
                _keep(settings, key, value)
        if self._foreign:
            settings["derived"] = derived
        return Vertex(
            settings,
            place,
            external,
            self._bandwidth(row, "host_bandwidth_up", "bandwidthup", at),
            self._bandwidth(row, "host_bandwidth_down", "bandwidthdown", at),
            "bandwidthup" in row or "bandwidthdown" in row,
            at,
        )

    def _bandwidth(self, row: Row, key: str, old: str, at: Place) -> float | None:
        """What a host can send or receive; in Shadow's first format in KiB/s."""
        name, unit = (key, None) if key in row else (old, "KiB/s")
        if name not in row:
            return None
        read = units.foreign_bandwidth
        return quantity(self._document, read, row[name], unit, (*at, name), positive=True)

    def _place(self, row: Row, at: Place) -> tuple[float, float] | None:
        if isinstance(row.get("pos"), list):
            east, north = row["pos"]
            return float(north), float(east)
        keys = ("y", "x") if self._drawn_in_degrees else ("latitude", "longitude")
        keys = ("Latitude", "Longitude") if "Latitude" in row else keys
        found: list[float] = []
        for key, most in zip(keys, (90, 180), strict=True):
            if row.get(key) is None:
                return None
            degrees = number(row[key])
            if degrees is None or not -most <= degrees <= most:
                problem = f"{key} is {row[key]}, and has to be -{most} to {most} degrees"
                raise self._document.error(problem, (*at, key), "Correct it, or leave it out")
            found.append(degrees)
        return found[0], found[1]


def _is_geographic(about: Row, rows: Sequence[Row]) -> bool:
    kind = about.get("coordinates")
    if kind is not None:
        return bool(kind == "geographical")
    drawn = [row["pos"] for row in rows if isinstance(row.get("pos"), list)]
    return all(
        len(pos) == 2
        and all(isinstance(x, int | float) for x in pos)
        and abs(pos[0]) <= 180
        and abs(pos[1]) <= 90
        for pos in drawn
    )


def _keep(settings: dict[str, Value], key: str, value: object) -> None:
    """Keeps what is a text or a number as an attribute, under a name that one can have."""
    name = re.sub(r"\W", "_", key, flags=re.ASCII)
    if not can_be_an_attribute(name):
        name = f"_{name}"
    if isinstance(value, str):
        value = html.unescape(value)
    elif isinstance(value, bool):
        value = int(value)
    if isinstance(value, str | int | float):
        settings.setdefault(name, value)
