"""The edges of other programs' graphs, in our own words: bandwidth, delay, loss, queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from topologies import rules as assumptions
from topologies import units
from topologies.document import Document, Place
from topologies.errors import did_you_mean
from topologies.foreign_nodes import NodeTranslator, Row, Vertex
from topologies.foreign_values import number, quantity, share
from topologies.graph_settings import GraphEdge
from topologies.rules import Rules

OWN_EDGE = frozenset(GraphEdge.settings())
FOREIGN_EDGE = frozenset({
    "LinkSpeedRaw", "LinkSpeed", "LinkSpeedUnits", "LinkType", "LinkLabel", "LinkNote",
    "LinkStatus", "dist", "capacity", "length", "buffer", "latency", "packet_loss", "packetloss",
    "pre_installed_capacity", "module_capacity",
})  # fmt: skip
_KNOWN_ASIDE = frozenset({
    "source", "target", "id", "key", "label", "name", "type", "weight", "color", "colour",
    "description", "bundle", "ecmp_fwd", "ecmp_bwd", "org",
})  # fmt: skip


@dataclass(slots=True)
class Arc:
    """One direction of an edge: its ends, and its settings in our own words.

    Attributes:
        derived: which of the fields of its `Link` no file states, and by which rule they are.
        at: where its edge stands in the document.
    """

    ends: tuple[str, str]
    settings: dict[str, Any]
    at: Place
    derived: dict[str, str] = field(default_factory=dict)

    def derive(self, name: str, value_and_rule: tuple[float, str]) -> None:
        """Sets a field by a rule."""
        self.settings[name], self.derived[name] = value_and_rule


class EdgeTranslator:
    """Translates the edges of a node-link document whose nodes are known."""

    def __init__(self, document: Document, rules: Rules, about: Row, nodes: NodeTranslator) -> None:
        self._document = document
        self._rules = rules
        self._about = about
        self._nodes = nodes

    def arcs(
        self,
        rows: Sequence[Row],
        vertices: Mapping[str, Vertex],
        ids: Sequence[object],
        where: str,
        directed: bool,
    ) -> list[Arc]:
        """Both directions of each edge, or the one it has. Raises the document's error."""
        indices = self._are_indices(rows, ids)
        latency = _latency_unit(vertices)
        arcs: list[Arc] = []
        for index, row in enumerate(rows):
            at: Place = (where, index)
            a, b = (self._end(row, key, ids if indices else (), at) for key in ("source", "target"))
            self._check_names(row, at)
            if a == b:
                continue
            told = {key: row[key] for key in row if key in OWN_EDGE and row[key] is not None}
            derived = self._document.read(GraphEdge, {"derived": told.pop("derived", {})}, at)
            for ends in ((a, b),) if directed else ((a, b), (b, a)):
                arc = Arc(ends, dict(told), at, dict(derived.derived))
                self._bandwidth(arc, row, vertices)
                self._delay(arc, row, vertices, latency)
                self._rest(arc, row)
                arcs.append(arc)
        return arcs

    def _are_indices(self, rows: Sequence[Row], ids: Sequence[object]) -> bool:
        """Whether ends are the positions of nodes, as NetworkX 1 wrote them."""
        ends = [row.get(key) for row in rows for key in ("source", "target")]
        if not all(isinstance(end, int) for end in ends):
            return False
        texts = all(isinstance(identity, str) for identity in ids)
        return texts and not all(str(end) in self._nodes.by_id for end in ends)

    def _end(self, row: Row, key: str, ids: Sequence[object], at: Place) -> str:
        end = row.get(key)
        if isinstance(end, int) and 0 <= end < len(ids):
            end = ids[end]
        name = self._nodes.by_id.get(str(end))
        if name is None:
            problem = f"its {key} is missing" if end is None else f'there is no node "{end}"'
            remedy = "Each edge goes from one of the nodes to another"
            raise self._document.error(problem, (*at, key), remedy)
        return name

    def _check_names(self, row: Row, at: Place) -> None:
        for key in row:
            if key in OWN_EDGE or key in FOREIGN_EDGE or key in _KNOWN_ASIDE:
                continue
            if key not in self._rules.ignore:
                remedy = did_you_mean(key, sorted(OWN_EDGE | FOREIGN_EDGE), what="attributes")
                remedy += f'. If it means nothing here, say Rules(ignore=["{key}"])'
                raise self._document.error("there is no such attribute", (*at, key), remedy)

    def _bandwidth(self, arc: Arc, row: Row, vertices: Mapping[str, Vertex]) -> None:
        if "bandwidth_bps" in arc.settings:
            return
        if "bandwidth" in arc.settings:
            written, at = arc.settings.pop("bandwidth"), (*arc.at, "bandwidth")
            arc.settings["bandwidth_bps"] = quantity(
                self._document, units.bandwidth, written, None, at, positive=True
            )
            return
        unit = self._about.get("capacity_unit")
        for key, stated in (
            ("LinkSpeedRaw", "bps"),
            ("LinkSpeed", f"{row.get('LinkSpeedUnits', '')}bps"),
            ("capacity", unit),
            ("pre_installed_capacity", unit),
            ("module_capacity", unit),
        ):
            if key in row:
                bare = stated is None and number(row[key]) is not None
                arc.settings["bandwidth_bps"] = quantity(
                    self._document,
                    units.foreign_bandwidth,
                    row[key],
                    self._rules.capacity_unit if bare else stated,
                    (*arc.at, key),
                    positive=True,
                )
                if bare or key == "module_capacity":
                    rule = "smallest-module" if key == "module_capacity" else "unit"
                    arc.derived["bandwidth_bps"] = rule
                return
        limits = (vertices[arc.ends[0]].up_bps, vertices[arc.ends[1]].down_bps)
        known = [limit for limit in limits if limit is not None]
        words = row.get("LinkType"), row.get("LinkLabel")
        found = (min(known), "host-bandwidth") if known else self._rules.bandwidth_of(*words)
        arc.derive("bandwidth_bps", found)

    def _delay(
        self, arc: Arc, row: Row, vertices: Mapping[str, Vertex], latency: str | None
    ) -> None:
        if "delay_s" in arc.settings:
            return
        for key, stated in (("delay", self._about.get("delay_unit")), ("latency", latency)):
            if key in row and row[key] is not None:
                bare = stated is None and number(row[key]) is not None
                unit = self._rules.delay_unit if bare else stated
                ours = key == "delay" and unit is None
                read, at = units.duration if ours else units.foreign_duration, (*arc.at, key)
                arc.settings.pop(key, None)
                arc.settings["delay_s"] = quantity(self._document, read, row[key], unit, at)
                if bare:
                    arc.derived["delay_s"] = "unit"
                return
        length = self._length(arc, row)
        a, b = (vertices[end].place for end in arc.ends)
        if length is not None or a is None or b is None:
            arc.derive("delay_s", self._rules.delay_of(length, stated=True))
        else:
            arc.derive("delay_s", self._rules.delay_of(assumptions.great_circle_km(a, b)))

    def _length(self, arc: Arc, row: Row) -> float | None:
        """What the edge says; topohub's is no length where positions are those of a drawing."""
        stated = self._about.get("distance_unit", "km")
        for key, unit in (("length", stated), ("dist", "km")):
            if key in row and (key == "length" or self._nodes.geographic):
                at = (*arc.at, key)
                return quantity(self._document, units.foreign_length_km, row[key], unit, at)
        return None

    def _rest(self, arc: Arc, row: Row) -> None:
        for key in ("packet_loss", "packetloss"):
            if key in row:
                at = (*arc.at, key)
                arc.settings["loss"] = quantity(self._document, share, row[key], None, at)
        if "buffer" not in row:
            return
        unit = self._about.get("buffer_unit", "bytes")
        if unit not in ("bytes", "packets"):
            problem = f'"{unit}" is not a unit of buffers'
            remedy = "The units are bytes and packets"
            raise self._document.error(problem, ("graph", "buffer_unit"), remedy)
        waiting = number(row["buffer"])
        if waiting is None or not 0 < waiting < float("inf"):
            problem = f"a buffer is greater than 0, unlike {row['buffer']}"
            remedy = "Leave it out for what suits the bandwidth"
            raise self._document.error(problem, (*arc.at, "buffer"), remedy)
        if unit == "packets":
            arc.derive("queue_bytes", (round(waiting * assumptions.PACKET_BYTES), "packets"))
        else:
            arc.settings["queue_bytes"] = round(waiting)


def _latency_unit(vertices: Mapping[str, Vertex]) -> str | None:
    """The unit of latencies without one: Shadow's seconds, and ms in files of its first format."""
    for vertex in vertices.values():
        if vertex.up_bps is not None or vertex.down_bps is not None:
            return "ms" if vertex.first_format else "s"
    return None


def together(document: Document, rules: Rules, arcs: Sequence[Arc]) -> list[Arc]:
    """The arcs, those with the same ends made one as the rules say. Raises the document's error."""
    groups: dict[tuple[str, str], list[Arc]] = {}
    for arc in arcs:
        groups.setdefault(arc.ends, []).append(arc)
    return [
        group[0] if len(group) == 1 else _one(document, rules, group) for group in groups.values()
    ]


def _one(document: Document, rules: Rules, group: Sequence[Arc]) -> Arc:
    source, target = group[0].ends
    if rules.parallel == "refuse":
        problem = f"there is a link {source} → {target} already"
        remedy = 'Keep one, or say Rules(parallel="sum") or "fastest"'
        raise document.error(problem, group[1].at, remedy)
    if rules.parallel == "fastest":
        return max(group, key=lambda arc: float(arc.settings["bandwidth_bps"]))
    rest = [
        {key: arc.settings[key] for key in arc.settings if key not in ("bandwidth_bps", "delay_s")}
        for arc in group
    ]
    if any(settings != rest[0] for settings in rest):
        problem = f"the links {source} → {target} differ in more than bandwidth and delay"
        remedy = 'They can\'t be made one: keep one, or say Rules(parallel="fastest")'
        raise document.error(problem, group[1].at, remedy)
    nearest = min(group, key=lambda arc: float(arc.settings["delay_s"]))
    whole = Arc(nearest.ends, dict(nearest.settings), group[0].at, dict(nearest.derived))
    bandwidth = sum(float(arc.settings["bandwidth_bps"]) for arc in group)
    guessed = any("bandwidth_bps" in arc.derived for arc in group)
    whole.derive("bandwidth_bps", (bandwidth, "parallel-derived" if guessed else "parallel"))
    return whole
