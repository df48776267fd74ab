"""Random faults where they can matter: on the nodes that have a part in a test, and on the ways
between them, while the test lives.

A whole scenario is several of `faults.random`, for a test that takes three virtual seconds would
else see one fault at most. It is a function of topology, seed, intensity and the time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import faults
from broker.network import Network
from faults import Scenario
from faults.entries import Fault
from faults.patterns import Dice
from topologies import Topology

_MOST_PARTS = 7
_SHORTEST_S = 0.5


def draw(
    topology: Topology,
    seed: int,
    *,
    intensity: float,
    lasts_s: float,
    kinds: Sequence[str] = (),
) -> Scenario:
    """Faults on this topology for a test that takes `lasts_s` without any.

    Of these `kinds` only, where some are given. The harder (`intensity`, from 0 to 1), the more,
    the longer and the worse.
    """
    dice = Dice(seed, topology.name, "explore")
    parts = dice.between(1, 1 + round(_MOST_PARTS * intensity))
    lasts_s = max(lasts_s, _SHORTEST_S)
    drawn: list[Fault] = []
    for _ in range(parts):
        window_s = lasts_s * dice.between(50, 500) / 100
        part = faults.random(topology, dice.below(2**31), intensity=intensity, duration_s=window_s)
        drawn += [fault for fault in part.timeline if not kinds or fault.kind in kinds]
    timeline = tuple(sorted(drawn, key=lambda fault: fault.at))
    return Scenario(
        f"explored-{seed}", f"drawn for {topology.name} by seed {seed}", False, timeline
    )


def restricted(topology: Topology, names: Collection[str]) -> Topology:
    """The topology with only these nodes and the links between them."""
    keep = frozenset(names)
    return Topology.of(
        topology.name,
        [node for node in topology.nodes.values() if node.name in keep],
        [link for ends, link in topology.links.items() if keep.issuperset(ends)],
        topology.transport,
    )


def around(topology: Topology, names: Sequence[str]) -> Topology:
    """The part of a topology in which these nodes reach each other: they, and who is on their ways.

    All of it where they have no part in anything.
    """
    kept = dict.fromkeys(names)
    for ways in _ways(topology, names).values():
        kept |= dict.fromkeys(ways)
    return restricted(topology, kept) if kept else topology


def joins(part: Topology, whole: Topology, names: Sequence[str]) -> bool:
    """Whether these nodes reach each other in a part of a topology as they do in the whole."""
    return part.nodes.keys() >= set(names) and (
        _ways(part, names).keys() == _ways(whole, names).keys()
    )


def _ways(topology: Topology, names: Sequence[str]) -> dict[tuple[str, str], list[str]]:
    """The nodes on the way from each of these to each other that it reaches."""
    network = Network(topology, 0)
    return {
        (source, destination): [end for link in route for end in link.ends]
        for source in names
        for destination in names
        if source != destination and (route := network.route(source, destination)) is not None
    }
