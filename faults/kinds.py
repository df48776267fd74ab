"""What an entry of a timeline means: its concrete events, each with how long it lasts.

Several words of the file are spellings of one kind of event: a ``join`` is the end of a ``leave``
that began with the run; ``loss``, ``burst_loss``, ``corrupt``, ``duplicate`` and ``reorder`` are a
``degrade``; a ``flap`` is a ``cut`` again and again; a ``trace`` is a ``degrade`` for each value of
the bandwidth, a ``cut`` where that is 0, and for devices what its ``as`` says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

from faults import chance
from faults.chance import Lasting
from faults.entries import CHANGES, Fault, OnLinks, Trace, Worse
from faults.event import Amount, Change, Event, Kind
from faults.recordings import Availability, Bandwidths, Opportunities, Steps
from faults.selection import Selection
from topologies import units
from topologies.document import Place
from topologies.model import Link

if TYPE_CHECKING:
    from faults.recordings import Recording

MOST_PAIRS = 10_000
_WORSE = ("degrade", "loss", "burst_loss", "corrupt", "duplicate", "reorder")
_WHOLE = ("crash", "stop", "pause", "leave", "full_disk")
_CHANGED = ("slow", "squeeze", "skew")
_NOTHING = (Amount("relative", 1.0), Amount("plus", 0.0), Amount("absolute", 0.0))


def events(
    fault: Fault, name: str, selection: Selection, place: Place, recording: Recording | None
) -> Iterator[Lasting]:
    """The events with which one fault begins. Raises ScenarioError where it doesn't fit."""
    place = (*place, fault.kind)
    if fault.join is not None:
        yield from _join(fault, name, selection, place)
    elif fault.flap is not None:
        yield from _flap(fault, name, selection, place)
    elif fault.trace is not None:
        assert recording is not None
        yield from _trace(fault, name, selection, place, recording)
    else:
        for event in _at_once(fault, name, selection, place):
            yield event, fault.for_


def _at_once(fault: Fault, name: str, selection: Selection, place: Place) -> Iterator[Event]:
    """The events of a fault that holds all the time until it is over."""
    kind = fault.kind
    if kind in _WHOLE:
        event = Event(fault.at, name, "begin", _kind(kind))
        yield from _strike(event, getattr(fault, kind), selection, place)
    elif kind in _CHANGED:
        event = Event(fault.at, name, "begin", _kind(kind), change=_change(fault))
        whom: Sequence[str] = getattr(fault, kind).nodes
        for struck in _strike(event, whom, selection, (*place, "nodes")):
            _refuse_unfelt(struck, whom, selection, place)
            yield struck
    elif kind in _WORSE:
        worse: Worse = getattr(fault, kind)
        event = Event(fault.at, name, "begin", "degrade", change=worse.change)
        for struck in _on_links(event, worse, selection, place):
            _refuse_idle(struck, worse, selection, place)
            yield struck
    elif fault.cut is not None:
        event = Event(fault.at, name, "begin", "cut")
        yield from _on_links(event, fault.cut, selection, place)
    elif fault.partition is not None:
        yield _partition(fault, name, selection, place)
    elif fault.nat is not None:
        yield _nat(fault, name, selection, place)
    else:
        yield _traffic(fault, name, selection, place)


def _kind(word: str) -> Kind:
    return next(kind for kind in get_args(Kind) if kind == word)


def _change(fault: Fault) -> Change:
    if fault.slow is not None:
        return Change(compute=fault.slow.compute)
    if fault.squeeze is not None:
        return Change(memory=fault.squeeze.memory)
    assert fault.skew is not None
    return Change(offset_ns=fault.skew.offset, drift=fault.skew.drift)


def _strike(
    event: Event, selector: Sequence[str], selection: Selection, place: Place
) -> list[Event]:
    """This event for those whom the selector means.

    What is known beforehand strikes as one; each part that only a run can know strikes by itself,
    and then the parts are called 3.1, 3.2, ….
    """
    choice = selection.choose(selector, place, event.fault)
    parts = [replace(event, selector=word) for word in choice.run_only]
    if choice.nodes or not parts:
        parts.insert(0, replace(event, nodes=choice.nodes))
    if len(parts) == 1:
        return parts
    return [replace(part, fault=f"{part.fault}.{n}") for n, part in enumerate(parts, start=1)]


def _on_links(
    event: Event, whom: OnLinks | Trace, selection: Selection, place: Place
) -> Iterator[Event]:
    """This event for the link, or for all the links of the nodes, that an entry names."""
    if whom.link is not None:
        a, b = whom.link
        links = selection.link(a, b, oneway=whom.oneway, place=(*place, "link"))
        yield replace(event, links=links, oneway=len(links) == 1)
        return
    event = replace(event, oneway=whom.oneway)
    for part in _strike(event, whom.nodes or (), selection, (*place, "nodes")):
        struck = replace(part, links=selection.links_of(part.nodes, oneway=part.oneway))
        if struck.nodes and not struck.links and not selection.concrete:
            problem = f"{', '.join(struck.nodes)} has no link that could be struck"
            raise selection.document.error(problem, (*place, "nodes"))
        yield struck


def _join(fault: Fault, name: str, selection: Selection, place: Place) -> Iterator[Lasting]:
    nodes = selection.nodes(fault.join or (), place, "a join", name)
    absent = Event(0, name, "begin", "leave", nodes=nodes)
    if fault.for_ is None:
        yield absent, fault.at
        return
    yield replace(absent, fault=f"{name}.1"), fault.at
    yield replace(absent, fault=f"{name}.2", at_ns=fault.at + fault.for_), None


def _flap(fault: Fault, name: str, selection: Selection, place: Place) -> Iterator[Lasting]:
    flap = fault.flap
    assert flap is not None
    assert fault.for_ is not None
    cuts = range(fault.at, fault.at + fault.for_, flap.down + flap.up)
    _refuse_so_many(len(cuts), selection, place)
    event = Event(fault.at, name, "begin", "cut")
    for part in _on_links(event, flap, selection, place):
        for number, at_ns in enumerate(cuts, start=1):
            lasts_ns = min(flap.down, fault.at + fault.for_ - at_ns)
            yield replace(part, fault=f"{part.fault}.{number}", at_ns=at_ns), lasts_ns


def _trace(
    fault: Fault, name: str, selection: Selection, place: Place, recording: Recording
) -> Iterator[Lasting]:
    trace = fault.trace
    assert trace is not None
    if isinstance(recording, Availability):
        yield from _availability(fault, name, selection, place, recording)
        return
    if "away" in trace.model_fields_set:
        problem = "this file is of a bandwidth, and not of who is there"
        raise selection.document.error(problem, (*place, "as"), "Leave it out")
    steps, length_ns = _steps(trace, selection, place, recording)
    until_ns = fault.for_ or length_ns
    if len({value for _, value in steps}) == 1:
        steps, length_ns = steps[:1], until_ns
    _refuse_so_many(len(steps) * -(-until_ns // length_ns), selection, place)
    event = Event(fault.at, name, "begin", "degrade")
    for part in _on_links(event, trace, selection, place):
        spans = _spans(steps, length_ns, until_ns)
        for number, (from_ns, to_ns, rate) in enumerate(spans, start=1):
            change = Change(bandwidth=Amount("absolute", rate))
            one = replace(part, fault=f"{part.fault}.{number}", at_ns=fault.at + from_ns)
            struck = replace(one, change=change) if rate > 0 else replace(one, kind="cut")
            yield struck, to_ns - from_ns


def _steps(
    trace: Trace, selection: Selection, place: Place, recording: Opportunities | Bandwidths
) -> tuple[Steps, int]:
    """From when on there is how much, in bit/s, and how long that goes."""
    foreign, of = "window", "packet opportunities"
    if isinstance(recording, Opportunities):
        foreign, of = "unit", "lines of `timestamp bandwidth`"
    if foreign in trace.model_fields_set:
        problem = f"a {foreign} is for {of}, which this file has not"
        raise selection.document.error(problem, (*place, foreign), "Leave it out")
    if isinstance(recording, Opportunities):
        _refuse_so_many(recording.length_ns // trace.window, selection, place)
        return recording.steps(trace.window), recording.length_ns
    steps = tuple((at_ns, value * trace.unit) for at_ns, value in recording.values)
    return steps, recording.length_ns


def _spans(steps: Steps, length_ns: int, until_ns: int) -> Iterator[tuple[int, int, float]]:
    """From when to when there is how much, again and again until then; like values as one."""
    since_ns, now = 0, steps[0][1]
    for begin_ns in range(0, until_ns, length_ns):
        for at_ns, value in steps:
            if begin_ns + at_ns >= until_ns:
                break
            if value != now:
                yield since_ns, begin_ns + at_ns, now
                since_ns, now = begin_ns + at_ns, value
    yield since_ns, until_ns, now


def _availability(
    fault: Fault, name: str, selection: Selection, place: Place, recording: Availability
) -> Iterator[Lasting]:
    """The first device's recording for the first of the nodes, and so on, over and over."""
    trace = fault.trace
    assert trace is not None
    for setting in ("link", "oneway", "window", "unit"):
        if setting in trace.model_fields_set:
            problem = f"this file is of who is there, and not of a bandwidth, so {setting} says \
nothing"
            raise selection.document.error(problem, (*place, setting), "Leave it out")
    nodes = selection.nodes(trace.nodes or (), (*place, "nodes"), "a trace of devices", name)
    number = 0
    for index, node in enumerate(nodes):
        device = recording.devices[index % len(recording.devices)]
        for from_ns, to_ns in device.absences(fault.for_ or device.length_ns):
            number += 1
            _refuse_so_many(number, selection, place)
            at_ns = fault.at + from_ns
            yield Event(at_ns, f"{name}.{number}", "begin", trace.away, (node,)), to_ns - from_ns


def _partition(fault: Fault, name: str, selection: Selection, place: Place) -> Event:
    partition = fault.partition
    assert partition is not None
    groups: dict[int, tuple[str, ...]] = {}
    side_of: dict[str, int] = {}
    nodes = selection.topology.nodes
    # Those whom "others" means are known once all the others are.
    sides = sorted(enumerate(partition.groups), key=lambda side: side[1] == ("others",))
    for side, selector in sides:
        where = (*place, "groups", side)
        if selector == ("others",) and "others" not in nodes:
            group = tuple(node for node in nodes if node not in side_of)
        else:
            group = selection.nodes(selector, where, "a partition", name)
        if not group:
            raise selection.document.error("a side of a partition can't be empty", where)
        for node in group:
            if side_of.setdefault(node, side) != side:
                problem = f"{node} is on two sides of the partition"
                remedy = f"It is already in group #{side_of[node] + 1}: a node has one side"
                raise selection.document.error(problem, where, remedy)
        groups[side] = group
    return Event(
        fault.at,
        name,
        "begin",
        "partition",
        nodes=selection.in_order(side_of),
        groups=tuple(groups[side] for side in sorted(groups)),
        oneway=partition.oneway,
    )


def _nat(fault: Fault, name: str, selection: Selection, place: Place) -> Event:
    nat = fault.nat
    assert nat is not None
    nodes = selection.nodes(nat.nodes, (*place, "nodes"), "a NAT", name)
    event = Event(fault.at, name, "begin", "nat", nodes=nodes)
    if nat.gateway is None:
        return event
    where = (*place, "gateway")
    gateways = selection.nodes(nat.gateway, where, "a NAT", name)
    if both := [node for node in nodes if node in gateways]:
        problem = f"{both[0]} can't be behind itself"
        raise selection.document.error(problem, where, "Name another gateway, or fewer nodes")
    nearest = selection.nearest(nodes, gateways)
    if lost := [node for node in nodes if node not in nearest]:
        problem = f"there is no way from {lost[0]} to a gateway"
        raise selection.document.error(problem, where, "Name one that it can reach")
    return replace(event, links=tuple(nearest.items()))


def _traffic(fault: Fault, name: str, selection: Selection, place: Place) -> Event:
    background = fault.traffic
    assert background is not None
    sources = selection.nodes(background.source, (*place, "from"), "traffic", name)
    targets = selection.nodes(background.target, (*place, "to"), "traffic", name)
    if len(sources) * len(targets) > MOST_PAIRS:
        problem = f"these are more than {MOST_PAIRS} pairs of nodes"
        raise selection.document.error(problem, place, "Name fewer of them")
    pairs = tuple((a, b) for a in sources for b in targets if a != b)
    if not pairs:
        remedy = "Name two different nodes, which need not be neighbors"
        raise selection.document.error("this traffic has nowhere to go", place, remedy)
    _refuse_unreached(sources, targets, selection, (*place, "to"))
    change = Change(rate_bps=background.rate)
    return Event(fault.at, name, "begin", "traffic", links=pairs, change=change)


def _refuse_unreached(
    sources: Sequence[str], targets: Sequence[str], selection: Selection, place: Place
) -> None:
    """Everybody has to have a way to everybody; looked for from the side that is smaller."""
    back = len(targets) < len(sources)
    few, many = (targets, sources) if back else (sources, targets)
    for one in few:
        reached = selection.reach(one, back=back)
        for other in many:
            if other not in reached:
                source, target = (other, one) if back else (one, other)
                problem = f"there is no way from {source} to {target}"
                remedy = "Traffic flows along links, each of which has its direction"
                raise selection.document.error(problem, place, remedy)


def _refuse_so_many(number: int, selection: Selection, place: Place) -> None:
    if number > chance.MOST_EVENTS:
        problem = f"this {place[-1]} has more than {chance.MOST_EVENTS} faults"
        raise selection.document.error(problem, place, "Write longer times, or a shorter for")


def _refuse_unfelt(event: Event, whom: Sequence[str], selection: Selection, place: Place) -> None:
    """A slowdown to the same speed, memory that is no less than what every node has already, and
    either for nodes without a device, unless they were drawn, are slips of the pen.
    """
    change = event.change or Change()
    if selection.concrete or (change.compute, change.memory) == (None, None):
        return
    if change.compute == 1:
        problem, remedy = "this slows nothing down", 'Write more than "1x", or leave it out'
        raise selection.document.error(problem, (*place, "compute"), remedy)
    given = [selection.topology.nodes[node].device for node in event.nodes]
    devices = [device for device in given if device is not None]
    drawn = any(word.startswith("any ") for word in whom)
    if event.nodes and not devices and not drawn:
        problem = f"{_few(event.nodes)} {'has' if len(given) == 1 else 'have'} no device, so that \
this does nothing"
        remedy = "Name nodes that have a device, or give these one in the topology"
        raise selection.document.error(problem, (*place, "nodes"), remedy)
    amount = change.memory
    if amount is None or amount.how == "relative" or not devices:
        return
    most = max(device.grant_bytes for device in devices)
    if amount.value >= most:
        problem = f"this leaves more than {units.show_size(most)}, which is all that is granted"
        raise selection.document.error(problem, (*place, "memory"), "Write less, or leave it out")


def _refuse_idle(event: Event, worse: Worse, selection: Selection, place: Place) -> None:
    """A value that is no worse than what every link has already is a slip of the pen; so are bursts
    where nothing is lost, and overtaking where there is no delay to skip.
    """
    if selection.concrete:
        return
    links = [selection.topology.links[ends] for ends in event.links]
    change = event.change or Change()

    def where(name: str) -> Place:
        return (*place, name if name in type(worse).model_fields else "chance")

    remedy = "A degrade never makes a link better: write a worse value, or leave it out"
    for name in CHANGES:
        amount: Amount | None = getattr(change, name)
        if amount is None:
            continue
        if amount in _NOTHING:
            problem = f"this {name} makes no link worse"
            raise selection.document.error(problem, where(name), remedy)
        known = links if amount.how == "absolute" else ()
        if known and not any(_is_worse(name, amount.value, link) for link in known):
            problem = f"this {name} is no worse than what {_names(links)} already"
            raise selection.document.error(problem, where(name), remedy)

    if not links:
        return
    if change.burst and not change.loss and not any(link.loss for link in links):
        problem = f"no loss could come in bursts, for {_names(links)} none"
        raise selection.document.error(problem, where("burst"), "Write loss as well")
    delayed = change.delay or change.jitter or any(link.delay_s + link.jitter_s for link in links)
    if change.reorder and not delayed:
        problem = f"a packet overtakes others by skipping the delay, and {_names(links)} none"
        raise selection.document.error(problem, where("reorder"), "Write delay as well")


def _is_worse(name: str, value: float, link: Link) -> bool:
    if name == "bandwidth":
        return value < link.bandwidth_bps
    own: float = getattr(link, f"{name}_s" if name in ("delay", "jitter") else name)
    return value > own


def _names(links: Sequence[Link]) -> str:
    shown = _few([f"{link.source} → {link.target}" for link in links])
    return f"{shown} {'has' if len(links) == 1 else 'have'}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
