"""A scenario, a topology and a seed into one list of concrete events.

The list is a pure function of its arguments: the same on every machine, in every process, under any
hash seed. Nothing has to run for it; what only a run can know stands in it as such, and `resolve`
fills it in later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from faults import kinds
from faults.chance import Lasting, draw
from faults.errors import ScenarioError
from faults.event import Event
from faults.scenario import Scenario
from faults.selection import Selection
from topologies.document import Place
from topologies.errors import did_you_mean
from topologies.model import Topology


def expand(scenario: Scenario, topology: Topology, seed: int) -> tuple[Event, ...]:
    """The concrete events of a scenario on a topology, by time, then by their order in the file.

    Raises ScenarioError, naming fault and selector, when the scenario doesn't fit the topology.
    """
    selection = Selection(topology, scenario.origin, seed, concrete=scenario.concrete)
    spans: list[Lasting] = []
    joins: list[tuple[int, Event, Place]] = []
    for index, fault in enumerate(scenario.timeline):
        name = fault.id or str(index + 1)
        recording = scenario.recordings.get(fault.trace.file) if fault.trace is not None else None
        place = ("timeline", index)
        found = tuple(kinds.events(fault, name, selection, place, recording))
        if fault.join is not None and not selection.concrete:
            joins.append((fault.at, found[0][0], place))
        spans.extend(found)
    _refuse_lost(joins, spans, selection)
    for index, process in enumerate(scenario.processes):
        name = process.id or f"{process.kind}-{index + 1}"
        spans.extend(draw(process, name, seed, selection, ("processes", index)))
    _refuse_twins(spans, selection)
    events: list[Event] = []
    for order, (event, lasts_ns) in enumerate(spans):
        begin = replace(event, order=order)
        events.append(begin)
        if lasts_ns is not None:
            events.append(replace(begin, at_ns=begin.at_ns + lasts_ns, phase="end"))
    return tuple(sorted(events, key=lambda event: (event.at_ns, event.order)))


def resolve(
    event: Event,
    facts: Mapping[str, tuple[str, ...]],
    topology: Selection | Topology | None = None,
) -> Event:
    """The event with its nodes filled in from what the run knows now.

    *facts* maps selectors, word for word, to nodes: ``{"host of client-3": ("edge-2",)}``; nobody
    is an answer too. With the *topology* the nodes come in its order, and a ``degrade`` or a
    ``cut`` also gets its links; who resolves many events makes one ``faults.Selection`` of it. An
    event that needs no resolving comes back as it is. The end of a fault need not be resolved: it
    ends what its begin began (`faults.Conditions.end`).

    Raises ScenarioError when the run doesn't know, or when the facts name what is no node.
    """
    if event.selector is None:
        return event
    nodes = facts.get(event.selector)
    if nodes is None:
        remedy = did_you_mean(event.selector, facts, what="facts it knows")
        problem = f'this run does not know "{event.selector}"'
        raise ScenarioError(problem, key=f"fault {event.fault}", remedy=remedy)
    if topology is None:
        return replace(event, selector=None, nodes=tuple(nodes))
    selection = topology if isinstance(topology, Selection) else Selection(topology)
    strangers = [node for node in nodes if node not in selection.topology.nodes]
    if strangers:
        problem = f'"{event.selector}" is {strangers[0]}, which is no node of '
        problem += selection.topology.name
        raise ScenarioError(problem, key=f"fault {event.fault}")
    chosen = selection.in_order(dict.fromkeys(nodes))
    links: tuple[tuple[str, str], ...] = ()
    if event.kind in ("degrade", "cut"):
        links = selection.links_of(chosen, oneway=event.oneway)
    return replace(event, selector=None, nodes=chosen, links=links)


def _refuse_lost(
    joins: Sequence[tuple[int, Event, Place]], spans: Sequence[Lasting], selection: Selection
) -> None:
    """Who joins was not there before: nobody joins twice, or after having gone without end."""
    if not joins:
        return
    gone: dict[str, int] = {}
    for event, lasts_ns in spans:
        if lasts_ns is None and event.kind in ("leave", "crash", "stop"):
            for node in event.nodes:
                gone[node] = min(gone.get(node, event.at_ns), event.at_ns)
    joined: set[str] = set()
    for at_ns, event, place in joins:
        for node in event.nodes:
            if node not in joined and gone.get(node, at_ns) >= at_ns:
                joined.add(node)
                continue
            why = "joins by another fault" if node in joined else "has gone for good before"
            problem = f"{node} {why}, and a join is of one that was not there from the start"
            remedy = "To have it go and come back, write a leave with for: 20 s, and no join"
            raise selection.document.error(problem, (*place, "join"), remedy)


def _refuse_twins(spans: Sequence[Lasting], selection: Selection) -> None:
    """Two faults of one name could not be told apart when one of them ends."""
    seen: set[str] = set()
    for event, _ in spans:
        if event.fault in seen:
            remedy = "Give each fault another id; without one it is called by its position"
            raise selection.document.error(f'two faults are called "{event.fault}"', (), remedy)
        seen.add(event.fault)
