"""Whom a selector means in a topology.

In this order: the exact name of a node; ``any 30 %``, ``any 3``, ``any 30 % of role=client``, drawn
by the seed; ``attribute=value``; a pattern (``edge-*``); and, for anything else of several words,
what only a run can know. A selector that means nobody is an error that names what looks like it,
never an empty choice.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256

from faults.errors import ScenarioError
from topologies.document import Document, Place
from topologies.errors import InputError, did_you_mean, near
from topologies.model import Attribute, Topology
from topologies.units import fraction

_PATTERN = frozenset("*?[")
_ANY = re.compile(r"any (?P<share>[0-9]+(?:\.[0-9]+)? ?%|[0-9]+)(?: of (?P<whom>.+))?")
Ends = tuple[str, str]


@dataclass(frozen=True)
class Choice:
    """Whom a selector means: nodes, in the topology's order, and what only a run can know."""

    nodes: tuple[str, ...]
    run_only: tuple[str, ...] = ()


class Selection:
    """The nodes and links of one topology, ready to be chosen from many times.

    The *document* is that of the selectors, for errors; the *seed* is of what is drawn. The
    document is *concrete* where a run wrote it.
    """

    def __init__(
        self,
        topology: Topology,
        document: Document | None = None,
        seed: int = 0,
        *,
        concrete: bool = False,
    ) -> None:
        self.topology = topology
        self.concrete = concrete
        self.document = document or Document("scenario", None, failure=ScenarioError)
        self._seed = seed
        self._position = {name: index for index, name in enumerate(topology.nodes)}
        self._order = {ends: index for index, ends in enumerate(topology.links)}
        self._links: dict[str, list[Ends]] = {}
        for ends in topology.links:
            for end in ends:
                self._links.setdefault(end, []).append(ends)
        self._known: dict[str, tuple[str, ...] | None] = {}

    def choose(self, selector: Sequence[str], place: Place, draw: str = "") -> Choice:
        """Whom this selector, which stands at this place, means; *draw* is the name of what is
        drawn, if anything is. Raises ScenarioError.
        """
        if not selector and not self.concrete:
            remedy = "Name somebody, or leave the entry out"
            raise self.document.error("this list names nobody", place, remedy)
        nodes: set[str] = set()
        run_only: list[str] = []
        for word in selector:
            drawn = None if word in self._position else _ANY.fullmatch(word)
            if drawn is not None:
                nodes.update(self._any(drawn, place, draw))
                continue
            if word not in self._known:
                self._known[word] = self._find(word, place)
            found = self._known[word]
            if found is not None:
                nodes.update(found)
            elif word not in run_only:
                run_only.append(word)
        return Choice(self.in_order(nodes), tuple(run_only))

    def nodes(
        self, selector: Sequence[str], place: Place, what: str, draw: str = ""
    ) -> tuple[str, ...]:
        """Whom a selector means that has to be known beforehand. Raises ScenarioError."""
        choice = self.choose(selector, place, draw)
        if choice.run_only:
            problem = f'only a run can know "{choice.run_only[0]}", and {what} has to know before'
            remedy = "Name the nodes, or choose them by pattern or attribute"
            raise self.document.error(problem, place, remedy)
        return choice.nodes

    def link(self, a: str, b: str, *, oneway: bool, place: Place) -> tuple[Ends, ...]:
        """The link between two neighbors: both directions, as far as there are two.

        Raises ScenarioError when there is no such link.
        """
        for name in (a, b):
            if name not in self._position:
                problem = f'a link joins two nodes, and there is no node "{name}"'
                if " of " in name:
                    remedy = "Write degrade: {nodes: …} for the links of a node that a run chooses"
                else:
                    remedy = self._like(name)
                raise self.document.error(problem, place, remedy)
        ways = ((a, b),) if oneway else ((a, b), (b, a))
        found = tuple(ends for ends in ways if ends in self._order)
        if not found:
            neighbors = {end for ends in self._links.get(a, ()) for end in ends} - {a}
            listed = ", ".join(self.in_order(neighbors)[:8]) or "nobody"
            listed += ", …" if len(neighbors) > 8 else ""
            arrow = "→" if oneway else "↔"
            problem = f"there is no link {a} {arrow} {b}: {a} is joined to {listed}"
            remedy = "Name two neighbors, or write degrade: {nodes: …} for all the links of a node"
            raise self.document.error(problem, place, remedy)
        return tuple(sorted(found, key=self._order.__getitem__))

    def links_of(self, nodes: Iterable[str], *, oneway: bool = False) -> tuple[Ends, ...]:
        """The links that begin or end at one of these nodes, or only those that begin there, in the
        topology's order.
        """
        found = {
            ends
            for node in nodes
            for ends in self._links.get(node, ())
            if not oneway or ends[0] == node
        }
        return tuple(sorted(found, key=self._order.__getitem__))

    def pairs_of(self, nodes: Iterable[str]) -> tuple[tuple[Ends, ...], ...]:
        """The same links, those between the same two neighbors together."""
        pairs: dict[frozenset[str], list[Ends]] = {}
        for ends in self.links_of(nodes):
            pairs.setdefault(frozenset(ends), []).append(ends)
        return tuple(tuple(pair) for pair in pairs.values())

    def nearest(self, nodes: Sequence[str], targets: Iterable[str]) -> dict[str, str]:
        """For each of these nodes the fewest links away target; of several the first in the
        topology's order. Those that reach none are left out.
        """
        found = {target: target for target in self.in_order(targets)}
        edge = list(found)
        while edge:
            beyond: dict[str, str] = {}
            for here in edge:
                for a, b in self._links.get(here, ()):
                    if b == here and a not in found:
                        best = beyond.setdefault(a, found[here])
                        if self._position[found[here]] < self._position[best]:
                            beyond[a] = found[here]
            found |= beyond
            edge = list(beyond)
        return {node: found[node] for node in nodes if node in found}

    def reach(self, start: str, *, back: bool = False) -> set[str]:
        """The nodes that something sent by this one can get to, itself included; with *back* those
        from which something can get to it.
        """
        near, far = (1, 0) if back else (0, 1)
        found = {start}
        ahead = [start]
        while ahead:
            here = ahead.pop()
            beyond = {ends[far] for ends in self._links.get(here, ()) if ends[near] == here} - found
            found |= beyond
            ahead.extend(beyond)
        return found

    def in_order(self, nodes: Iterable[str]) -> tuple[str, ...]:
        """These nodes, in the topology's order."""
        return tuple(sorted(nodes, key=self._position.__getitem__))

    def _find(self, word: str, place: Place) -> tuple[str, ...] | None:
        """The nodes that one word means; None when only a run can know. Raises ScenarioError."""
        nodes = self.topology.nodes
        if word in nodes:
            return (word,)
        if word.startswith("any "):
            remedy = 'Write "any 30 %", "any 3", or "any 30 % of role=client"'
            raise self.document.error(f'"{word}" doesn\'t say how many', place, remedy)
        if "=" in word:
            return self._by_attribute(word, place)
        if _PATTERN & set(word):
            found = tuple(name for name in nodes if fnmatchcase(name, word))
            if found:
                return found
            problem = f'no node of {self.topology.name} matches "{word}"'
            raise self.document.error(problem, place, self._like(word.strip("*?")))
        if " " in word:
            self._refuse_slip(word, place)
            return None
        problem = f'"{word}" is no node of {self.topology.name}'
        raise self.document.error(problem, place, self._like(word))

    def _by_attribute(self, word: str, place: Place) -> tuple[str, ...]:
        name, _, wanted = (part.strip() for part in word.partition("="))
        nodes = self.topology.nodes.values()
        found = tuple(node.name for node in nodes if _equals(node.attribute(name), wanted))
        if found:
            return found
        values = {str(node.attribute(name)) for node in nodes if node.attribute(name) is not None}
        problem = f'no node of {self.topology.name} has "{word}"'
        if values:
            remedy = did_you_mean(wanted, sorted(values), what=f"values of {name}")
        else:
            names = {"role", "device"} | {key for node in nodes for key in node.attributes}
            remedy = did_you_mean(name, sorted(names), what="attributes")
        raise self.document.error(problem, place, remedy)

    def _any(self, drawn: re.Match[str], place: Place, draw: str) -> tuple[str, ...]:
        """So many of these nodes, each as likely: those whose hash is smallest."""
        whom = drawn["whom"]
        nodes = list(self.topology.nodes)
        if whom is not None:
            nodes = list(self.nodes((whom,), place, "a draw"))
        try:
            share = drawn["share"]
            wanted = round(fraction(share) * len(nodes)) if "%" in share else int(share)
        except InputError as error:
            raise self.document.error(error.problem, place, error.remedy) from None
        if not 0 < wanted <= len(nodes):
            problem = f'"{drawn[0]}" would be {wanted} of {len(nodes)} nodes'
            raise self.document.error(problem, place, "Draw one at least, and no more than all")
        keys = {node: sha256(f"{self._seed}:{draw}:{node}".encode()).digest() for node in nodes}
        return tuple(sorted(nodes, key=keys.__getitem__)[:wanted])

    def _refuse_slip(self, word: str, place: Place) -> None:
        """A name, or one after "of", that is no node's, but nearly one's, is a slip of the pen."""
        name = word.rpartition(" of ")[2].strip()
        like = difflib.get_close_matches(name, self.topology.nodes, n=3, cutoff=0.8)
        if name not in self.topology.nodes and like:
            problem = f'"{word}": {name} is no node of {self.topology.name}'
            raise self.document.error(problem, place, f"Did you mean {' or '.join(like)}?")

    def _like(self, word: str) -> str:
        like = near(word, self.topology.nodes)
        if like:
            return f"Did you mean {' or '.join(like)}?"
        nodes = list(self.topology.nodes)
        return f"Its nodes are {', '.join(nodes[:8])}{', …' if len(nodes) > 8 else ''}"


def _equals(value: Attribute | None, wanted: str) -> bool:
    if value is None or str(value) == wanted:
        return value is not None
    if isinstance(value, str):
        return False
    try:
        return float(wanted) == value
    except ValueError:
        return False
