"""Hypothesis strategies for any test suite: topologies, scenarios and events.

>>> from hypothesis import given
>>> from faults import strategies
>>> @given(strategies.topologies().flatmap(strategies.scenarios))
... def test_the_service_survives(scenario): ...

What they draw is valid: a scenario fits its topology, and events are such as `faults.expand` gives.
Nothing else in this package needs Hypothesis; ``pip install hypothesis`` brings it.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

import faults
import topologies as networks
from faults.event import Event
from faults.scenario import Scenario
from topologies import Link, Node, Topology, units

_ROLES = ("client", "host", "gateway", "coordinator")
SECOND = 10**9


@st.composite
def topologies(draw: st.DrawFn, min_nodes: int = 2, max_nodes: int = 8) -> Topology:
    """Connected networks of a few nodes, whose links differ in their two directions."""
    number = draw(st.integers(min_nodes, max_nodes))
    devices = sorted(networks.devices())
    nodes = [
        Node(
            name=f"node-{index}",
            role=draw(st.sampled_from(_ROLES)),
            device=networks.devices()[draw(st.sampled_from(devices))],
            attributes={"cluster": draw(st.integers(0, 1))},
        )
        for index in range(number)
    ]
    pairs = [(index, draw(st.integers(0, index - 1))) for index in range(1, number)]
    if number > 2:
        more = st.tuples(st.integers(0, number - 1), st.integers(0, number - 1))
        pairs += [pair for pair in draw(st.lists(more, max_size=3)) if pair[0] != pair[1]]
    joined = dict.fromkeys(tuple(sorted(pair)) for pair in pairs)
    links = [
        draw(_links(nodes[here].name, nodes[there].name))
        for a, b in joined
        for here, there in ((a, b), (b, a))
    ]
    return Topology.of("drawn", nodes, links)


def _links(source: str, target: str) -> st.SearchStrategy[Link]:
    return st.builds(
        Link,
        source=st.just(source),
        target=st.just(target),
        bandwidth_bps=st.floats(1e4, 1e10),
        delay_s=st.floats(1e-6, 1.0),
        jitter_s=st.floats(0.0, 0.1),
        loss=st.floats(0.0, 0.3),
    )


def times(longest_ns: int = 3600 * SECOND) -> st.SearchStrategy[str]:
    """Times as a scenario file writes them, of a nanosecond or more."""
    return st.integers(1, longest_ns).map(units.show_nanoseconds)


def selectors(topology: Topology, *, run_only: bool = True) -> st.SearchStrategy[Any]:
    """What names nodes of this topology: names, patterns, attributes, shares, and lists of them;
    with *run_only* also what only a run can know.
    """
    names = st.sampled_from(list(topology.nodes))
    roles = sorted({node.role for node in topology.nodes.values()})
    words = [
        names,
        st.just("*"),
        st.sampled_from(roles).map("role={}".format),
        st.integers(1, len(topology.nodes)).map("any {}".format),
        st.sampled_from(["any 60 %", "any 100%"]),
    ]
    if run_only:
        words += [
            names.map("host of {}".format),
            st.sampled_from(["busiest host", "the elected aggregator"]),
        ]
    word = st.one_of(words)
    return word | st.lists(word, min_size=1, max_size=3)


def faults_of(kind: str, topology: Topology, *, run_only: bool = True) -> st.SearchStrategy[Any]:
    """What stands beside one kind of fault in a timeline on this topology; see `faults.KINDS`.

    Traces have none: they are files. *run_only* as for `selectors`.
    """
    whom = selectors(topology, run_only=run_only)
    known = selectors(topology, run_only=False)
    offset = st.integers(-(10**15), 10**15).filter(bool).map(units.show_offset)
    drift = st.floats(-0.999, 10.0).filter(bool).map(units.show_drift)
    rate = st.floats(1.0, 1e9).map(units.show_bandwidth)
    found: dict[str, st.SearchStrategy[Any]] = {
        **dict.fromkeys(("crash", "stop", "pause", "leave", "full_disk"), whom),
        "join": known,
        "slow": _mapping(nodes=whom, compute=st.floats(1.001, 1e3).map(units.show_factor)),
        "squeeze": _mapping(nodes=whom, memory=st.floats(0.0, 0.99).map(units.show_fraction)),
        "skew": _mapping(nodes=whom, offset=offset) | _mapping(nodes=whom, drift=drift),
        "partition": _partitions(topology),
        "nat": _nats(topology),
        "traffic": st.permutations(list(topology.nodes)).flatmap(
            lambda nodes: _mapping(
                **{"from": st.just(nodes[0]), "to": st.just(nodes[1])}, rate=rate
            )
        ),
    }
    if kind in found:
        return found[kind]
    return _on_links(topology, whom).flatmap(
        lambda where: _worse(kind).map(lambda change: {**where, **change})
    )


@st.composite
def entries(
    draw: st.DrawFn, topology: Topology, kinds: tuple[str, ...] = (), *, run_only: bool = True
) -> dict[str, Any]:
    """An entry of a timeline, as a file says it, of one of these kinds, or of any; *run_only* as
    for `selectors`.
    """
    possible = [kind for kind in kinds or faults.KINDS if kind != "trace"]
    if len(topology.nodes) < 2:
        alone = ("crash", "stop", "pause", "leave", "join", "slow", "squeeze", "skew", "full_disk")
        possible = [kind for kind in possible if kind in alone]
    kind = draw(st.sampled_from(possible))
    said = {"at": draw(times()), kind: draw(faults_of(kind, topology, run_only=run_only))}
    if kind == "flap":
        lasts_ns = units.nanoseconds(said[kind]["down"]) * draw(st.integers(1, 8))
        said["for"] = units.show_nanoseconds(lasts_ns)
    elif draw(st.booleans()):
        said["for"] = draw(times())
    return said


@st.composite
def scenarios(
    draw: st.DrawFn,
    topology: Topology,
    kinds: tuple[str, ...] = (),
    max_faults: int = 6,
    *,
    processes: bool = True,
    run_only: bool = True,
) -> Scenario:
    """Scenarios that fit this topology, with faults of these kinds, or of all but traces.
    *run_only* as for `selectors`.
    """
    one = entries(topology, kinds, run_only=run_only)
    content: dict[str, Any] = {
        "name": "drawn",
        "timeline": _joinable(draw(st.lists(one, max_size=max_faults))),
    }
    if processes and draw(st.booleans()):
        content["processes"] = [draw(_processes(topology))]
    return Scenario.of(content)


def _joinable(timeline: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most one join of these, and none where others take nodes away without end."""
    gone = ("crash", "stop", "leave")
    stay = not any(kind in said and "for" not in said for said in timeline for kind in gone)
    joins = [index for index, said in enumerate(timeline) if "join" in said]
    surplus = joins[1 if stay else 0 :]
    return [said for index, said in enumerate(timeline) if index not in surplus]


@st.composite
def events(
    draw: st.DrawFn, topology: Topology, kinds: tuple[str, ...] = (), max_faults: int = 6
) -> tuple[Event, ...]:
    """Events as `faults.expand` gives them, what only a run can know filled in."""
    scenario = draw(scenarios(topology, kinds, max_faults))
    expanded = faults.expand(scenario, topology, draw(st.integers(0, 2**32)))
    selection = faults.Selection(topology)
    who = st.lists(st.sampled_from(list(topology.nodes)), max_size=3, unique=True)
    facts = {event.selector: tuple(draw(who)) for event in expanded if event.selector is not None}
    return tuple(faults.resolve(event, facts, selection) for event in expanded)


def _mapping(**settings: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(settings)


def _on_links(
    topology: Topology, whom: st.SearchStrategy[Any]
) -> st.SearchStrategy[dict[str, Any]]:
    oneway = st.sampled_from([{}, {"oneway": True}])
    link = st.sampled_from([{"link": list(ends)} for ends in topology.links])
    nodes = _mapping(nodes=whom)
    return st.tuples(link | nodes, oneway).map(lambda both: {**both[0], **both[1]})


def _worse(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    """How links get worse, always by amounts that any link can get worse by."""
    chance = st.floats(1e-6, 0.99).map(lambda part: f"+{units.show_fraction(part)}")
    more = st.floats(1e-6, 100.0).map(lambda time: f"+{units.show_duration(time)}")
    burst = st.floats(1.5, 1e6)
    if kind == "cut":
        return st.just({})
    if kind == "flap":
        return _mapping(down=times(60 * SECOND), up=times(60 * SECOND))
    if kind == "burst_loss":
        return _mapping(chance=chance, burst=burst)
    if kind != "degrade":
        return _mapping(chance=chance)
    changes = {
        "bandwidth": st.floats(1e-3, 0.999).map(units.show_fraction),
        "delay": more | st.floats(1.001, 1e3).map(units.show_factor),
        "jitter": more,
        "loss": chance,
        "duplicate": chance,
        "reorder": chance,
        "corrupt": chance,
    }
    return st.sets(st.sampled_from(sorted(changes)), min_size=1).flatmap(
        lambda names: _mapping(**{name: changes[name] for name in sorted(names)})
    )


@st.composite
def _partitions(draw: st.DrawFn, topology: Topology) -> Any:
    order = draw(st.permutations(list(topology.nodes)))
    first = draw(st.integers(1, len(order) - 1))
    groups = [order[:first], draw(st.sampled_from([order[first:], ["others"]]))]
    return {"groups": groups, "oneway": True} if draw(st.booleans()) else groups


@st.composite
def _nats(draw: st.DrawFn, topology: Topology) -> dict[str, Any]:
    order = draw(st.permutations(list(topology.nodes)))
    behind = order[: draw(st.integers(1, len(order) - 1))]
    gateway = {"gateway": order[-1]} if draw(st.booleans()) else {}
    return {"nodes": behind, **gateway}


def _processes(topology: Topology) -> st.SearchStrategy[dict[str, Any]]:
    nodes = selectors(topology, run_only=False)
    minutes = st.integers(10 * SECOND, 600 * SECOND).map(units.show_nanoseconds)
    until = st.just("10 min")
    up_and_down = {"mean_up": minutes, "mean_down": minutes, "until": until}
    each = {
        "churn": _mapping(nodes=nodes, **up_and_down),
        "crashes": _mapping(nodes=nodes, mean_between=minutes, mean_down=minutes, until=until),
        "diurnal": _mapping(
            nodes=nodes, most=st.just("90 %"), least=st.just("20 %"), mean_stay=minutes, until=until
        ),
    }
    if topology.links:
        each["flapping"] = _mapping(nodes=nodes, **up_and_down)
    return st.one_of([_mapping(**{kind: process}) for kind, process in sorted(each.items())])
