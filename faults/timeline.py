"""A scenario, a topology and a seed into one list of concrete events.

The list is a pure function of its arguments: the same on every machine, in every process, under any
hash seed. Nothing has to run for it; what only a run can know stands in it as such, and `resolve`
fills it in later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from faults.chance import churn
from faults.errors import ScenarioError
from faults.event import Amount, Change, Event
from faults.scenario import CHANGES, Background, Degrade, Fault, Partition, Scenario
from faults.selection import Selection
from topologies.document import Place
from topologies.errors import did_you_mean
from topologies.model import Link, Topology

MOST_PAIRS = 10_000


def expand(scenario: Scenario, topology: Topology, seed: int) -> tuple[Event, ...]:
    """The concrete events of a scenario on a topology, by time, then by their order in the file.

    Raises ScenarioError, naming fault and selector, when the scenario doesn't fit the topology.
    """
    selection = Selection(topology, scenario.origin)
    spans: list[tuple[Event, int | None]] = []
    for index, fault in enumerate(scenario.timeline):
        name = fault.id or str(index + 1)
        begins = _begins(fault, name, selection, ("timeline", index))
        spans.extend((event, fault.for_) for event in begins)
    for index, process in enumerate(scenario.processes):
        place: Place = ("processes", index, "churn")
        spans.extend(churn(process.churn, f"churn-{index + 1}", seed, selection, place))
    _refuse_twins(spans, selection)
    events: list[Event] = []
    for order, (event, lasts_ns) in enumerate(spans):
        begin = replace(event, order=order)
        events.append(begin)
        if lasts_ns is not None:
            events.append(replace(begin, at_ns=begin.at_ns + lasts_ns, phase="end"))
    return tuple(sorted(events, key=lambda event: (event.at_ns, event.order)))


def resolve(
    event: Event, facts: Mapping[str, tuple[str, ...]], topology: Topology | None = None
) -> Event:
    """The event with its nodes filled in from what the run knows now.

    *facts* maps selectors, word for word, to nodes: ``{"host of client-3": ("edge-2",)}``; nobody
    is an answer too. With the *topology* the nodes come in its order, and a ``degrade`` also gets
    its links. An event that needs no resolving comes back as it is. The end of a fault need not be
    resolved: it ends what its begin began (`faults.Conditions.end`).

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
    strangers = [node for node in nodes if node not in topology.nodes]
    if strangers:
        problem = f'"{event.selector}" is {strangers[0]}, which is no node of {topology.name}'
        raise ScenarioError(problem, key=f"fault {event.fault}")
    chosen = tuple(name for name in topology.nodes if name in nodes)
    links = topology.links_of(chosen) if event.kind == "degrade" else ()
    return replace(event, selector=None, nodes=chosen, links=links)


def _begins(fault: Fault, name: str, selection: Selection, place: Place) -> Iterator[Event]:
    """The events with which one fault of the timeline begins."""
    if fault.crash is not None:
        event = Event(fault.at, name, "begin", "crash")
        yield from _strike(event, fault.crash, selection, (*place, "crash"))
    elif fault.stop is not None:
        event = Event(fault.at, name, "begin", "stop")
        yield from _strike(event, fault.stop, selection, (*place, "stop"))
    elif fault.pause is not None:
        event = Event(fault.at, name, "begin", "pause")
        yield from _strike(event, fault.pause, selection, (*place, "pause"))
    elif fault.slow is not None:
        change = Change(compute=fault.slow.compute)
        event = Event(fault.at, name, "begin", "slow", change=change)
        yield from _strike(event, fault.slow.nodes, selection, (*place, "slow", "nodes"))
    elif fault.skew is not None:
        change = Change(offset_ns=fault.skew.offset, drift=fault.skew.drift)
        event = Event(fault.at, name, "begin", "skew", change=change)
        yield from _strike(event, fault.skew.nodes, selection, (*place, "skew", "nodes"))
    elif fault.degrade is not None:
        yield from _degrade(fault.at, name, fault.degrade, selection, (*place, "degrade"))
    elif fault.partition is not None:
        yield _partition(fault.at, name, fault.partition, selection, (*place, "partition"))
    elif fault.traffic is not None:
        yield _traffic(fault.at, name, fault.traffic, selection, (*place, "traffic"))


def _strike(
    event: Event, selector: Sequence[str], selection: Selection, place: Place
) -> list[Event]:
    """This event for those whom the selector means.

    What is known beforehand strikes as one; each part that only a run can know strikes by itself,
    and then the parts are called 3.1, 3.2, ….
    """
    choice = selection.choose(selector, place)
    parts = [replace(event, selector=word) for word in choice.run_only]
    if choice.nodes or not parts:
        parts.insert(0, replace(event, nodes=choice.nodes))
    if len(parts) == 1:
        return parts
    return [replace(part, fault=f"{part.fault}.{n}") for n, part in enumerate(parts, start=1)]


def _degrade(
    at_ns: int, name: str, degrade: Degrade, selection: Selection, place: Place
) -> Iterator[Event]:
    event = Event(at_ns, name, "begin", "degrade", change=degrade.change)
    if degrade.link is not None:
        a, b = degrade.link
        links = selection.link(a, b, oneway=degrade.oneway, place=(*place, "link"))
        event = replace(event, links=links, oneway=len(links) == 1)
        _refuse_idle(event, selection, place)
        yield event
        return
    for part in _strike(event, degrade.nodes or (), selection, (*place, "nodes")):
        struck = replace(part, links=selection.links_of(part.nodes))
        if struck.nodes and not struck.links:
            problem = f"{', '.join(struck.nodes)} has no link that could be degraded"
            raise selection.document.error(problem, (*place, "nodes"))
        if struck.nodes:
            _refuse_idle(struck, selection, place)
        yield struck


def _partition(
    at_ns: int, name: str, partition: Partition, selection: Selection, place: Place
) -> Event:
    groups: list[tuple[str, ...]] = []
    side_of: dict[str, int] = {}
    for side, selector in enumerate(partition.groups):
        where = (*place, "groups", side)
        group = selection.nodes(selector, where, "a partition")
        if not group:
            raise selection.document.error("a side of a partition can't be empty", where)
        for node in group:
            if side_of.setdefault(node, side) != side:
                problem = f"{node} is on two sides of the partition"
                remedy = f"It is already in group #{side_of[node] + 1}: a node has one side"
                raise selection.document.error(problem, where, remedy)
        groups.append(group)
    return Event(
        at_ns,
        name,
        "begin",
        "partition",
        nodes=selection.in_order(side_of),
        groups=tuple(groups),
        oneway=partition.oneway,
    )


def _traffic(
    at_ns: int, name: str, background: Background, selection: Selection, place: Place
) -> Event:
    sources = selection.nodes(background.source, (*place, "from"), "traffic")
    targets = selection.nodes(background.target, (*place, "to"), "traffic")
    if len(sources) * len(targets) > MOST_PAIRS:
        problem = f"these are more than {MOST_PAIRS} pairs of nodes"
        raise selection.document.error(problem, place, "Name fewer of them")
    pairs = tuple((a, b) for a in sources for b in targets if a != b)
    if not pairs:
        remedy = "Name two different nodes, which need not be neighbors"
        raise selection.document.error("this traffic has nowhere to go", place, remedy)
    for source, target in pairs:
        if target not in selection.reach(source):
            problem = f"there is no way from {source} to {target}"
            remedy = "Traffic flows along links, each of which has its direction"
            raise selection.document.error(problem, (*place, "to"), remedy)
    change = Change(rate_bps=background.rate)
    return Event(at_ns, name, "begin", "traffic", links=pairs, change=change)


def _refuse_idle(event: Event, selection: Selection, place: Place) -> None:
    """An absolute value that is no worse than what every link has already is a slip of the pen; so
    are bursts where nothing is lost, and overtaking where there is no delay to skip.
    """
    links = [selection.topology.links[ends] for ends in event.links]
    change = event.change or Change()
    for name in CHANGES:
        amount: Amount | None = getattr(change, name)
        if amount is None or amount.how != "absolute":
            continue
        if not any(_is_worse(name, amount.value, link) for link in links):
            problem = f"this {name} is no worse than what {_names(links)} already"
            remedy = "A degrade never makes a link better: write a worse value, or leave it out"
            raise selection.document.error(problem, (*place, name), remedy)

    if change.burst and not change.loss and not any(link.loss for link in links):
        problem = f"no loss could come in bursts, for {_names(links)} none"
        raise selection.document.error(problem, (*place, "burst"), "Write loss as well")
    delayed = change.delay or change.jitter or any(link.delay_s + link.jitter_s for link in links)
    if change.reorder and not delayed:
        problem = f"a packet overtakes others by skipping the delay, and {_names(links)} none"
        raise selection.document.error(problem, (*place, "reorder"), "Write delay as well")


def _is_worse(name: str, value: float, link: Link) -> bool:
    if name == "bandwidth":
        return value < link.bandwidth_bps
    own: float = getattr(link, f"{name}_s" if name in ("delay", "jitter") else name)
    return value > own


def _names(links: Sequence[Link]) -> str:
    shown = ", ".join(f"{link.source} → {link.target}" for link in links[:3])
    rest = ", …" if len(links) > 3 else ""
    return f"{shown}{rest} {'has' if len(links) == 1 else 'have'}"


def _refuse_twins(spans: Sequence[tuple[Event, int | None]], selection: Selection) -> None:
    """Two faults of one name could not be told apart when one of them ends."""
    seen: set[str] = set()
    for event, _ in spans:
        if event.fault in seen:
            remedy = "Give each fault another id; without one it is called by its position"
            raise selection.document.error(f'two faults are called "{event.fault}"', (), remedy)
        seen.add(event.fault)
