"""A whole scenario drawn by a seed, for campaigns that look for what breaks a program."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from faults.patterns import Dice, Entries, entry, isolate_one, majority_ring, split, swizzle
from faults.scenario import Scenario
from faults.selection import Selection
from topologies import units
from topologies.model import Topology

SECOND = 10**9


def random(
    topology: Topology, seed: int, *, intensity: float = 0.5, duration_s: float = 600.0
) -> Scenario:
    """Faults on this topology, the same for the same arguments: of all kinds but joins, which would
    have nodes away from the start, and traces, which are files.

    When the duration is over, all of them have ended: what does not recover then, never does.

    Args:
        intensity: 0 is next to nothing; 1 is four faults a minute, each up to a fifth of the
            duration long and as bad as they come.
        duration_s: how long there are faults.

    Raises ``ValueError`` for an intensity that is not from 0 to 1, or no duration.
    """
    if not 0 <= intensity <= 1 or duration_s <= 0:
        raise ValueError(f"intensity {intensity} is from 0 to 1, and {duration_s} s above 0")
    dice = Dice(seed, topology.name, "random")
    selection = Selection(topology)
    whole_ns = max(round(duration_s * SECOND), 100)
    longest_ns = max(round(whole_ns * (0.02 + 0.18 * intensity)), 10)
    timeline: Entries = []
    makers = _makers(selection, dice, intensity)
    for _ in range(max(1, round(intensity * duration_s / 15))):
        lasts_ns = dice.between(longest_ns // 10, longest_ns)
        at_ns = dice.between(1, whole_ns - lasts_ns)
        timeline += dice.one(makers)(at_ns, lasts_ns)
    timeline.sort(key=lambda one: units.nanoseconds(one["at"]))
    percent = units.show_fraction(intensity)
    return Scenario.of(
        {
            "name": f"random-{seed}",
            "description": f"drawn for {topology.name} by seed {seed}, intensity {percent}",
            "timeline": timeline,
        }
    )


_Maker: TypeAlias = Callable[[int, int], Entries]


def _makers(selection: Selection, dice: Dice, intensity: float) -> list[_Maker]:
    """What can happen on this topology, each as likely."""
    nodes = list(selection.topology.nodes)
    computing = [node.name for node in selection.topology.nodes.values() if node.device]
    joined = [node for node in nodes if selection.links_of([node])]
    sending = [node for node in nodes if selection.links_of([node], oneway=True)]
    links = list(selection.topology.links)
    delayed = [link.ends for link in selection.topology.links.values() if link.delay_s]
    bad = 1 + round(99 * intensity)

    def one() -> dict[str, Any]:
        return {"nodes": dice.one(nodes)}

    def on_links() -> dict[str, Any]:
        one, oneway = dice.below(2), dice.below(2)
        if one:
            whom: dict[str, Any] = {"link": list(dice.one(links))}
        else:
            whom = {"nodes": dice.one(sending if oneway else joined)}
        return whom | ({"oneway": True} if oneway else {})

    def percent(most: int) -> str:
        return f"{dice.between(1, max(1, most * bad // 100))} %"

    def part_of(lasts_ns: int) -> str:
        return units.show_nanoseconds(max(lasts_ns // dice.between(5, 20), 1))

    def less() -> int:
        return max(1, 100 - dice.between(1, bad))

    def at(kind: str, fault: Callable[[], Any]) -> _Maker:
        return lambda at_ns, lasts_ns: [entry(at_ns, lasts_ns, **{kind: fault()})]

    makers = [at(kind, lambda: dice.one(nodes)) for kind in
              ("crash", "crash", "stop", "pause", "leave", "full_disk")]  # fmt: skip
    if computing:

        def device() -> dict[str, Any]:
            return {"nodes": dice.one(computing)}

        makers += [
            at("slow", lambda: device() | {"compute": f"{dice.between(2, 2 + bad // 5)}x"}),
            at("squeeze", lambda: device() | {"memory": f"{less()} %"}),
        ]
    makers += [
        at("skew", lambda: one() | {"offset": f"{dice.one('+-')}{dice.between(1, 50 * bad)} ms"}),
        at("skew", lambda: one() | {"drift": f"{dice.one('+-')}{dice.between(1, 5 * bad)} ppm"}),
        at("nat", one),
    ]
    if joined:
        makers += [
            at("cut", on_links),
            at("degrade", lambda: on_links() | {"bandwidth": f"{less()} %"}),
            at("degrade", lambda: on_links() | {"delay": f"+{dice.between(1, 10 * bad)} ms"}),
            at("loss", lambda: on_links() | {"chance": f"+{percent(30)}"}),
            at("burst_loss", lambda: on_links()
               | {"chance": f"+{percent(10)}", "burst": dice.between(2, 2 + bad)}),
            at("duplicate", lambda: on_links() | {"chance": f"+{percent(20)}"}),
            at("corrupt", lambda: on_links() | {"chance": f"+{percent(5)}"}),
            at("traffic", lambda: _flow(selection, dice)
               | {"rate": f"{dice.between(1, bad)} Mbit/s"}),
            lambda at_ns, lasts_ns: [
                entry(at_ns, lasts_ns, flap=on_links()
                      | {"down": part_of(lasts_ns), "up": part_of(lasts_ns)})],
        ]  # fmt: skip
    if delayed:

        def late() -> dict[str, Any]:
            return {"link": list(dice.one(delayed)), "oneway": True}

        makers.append(at("reorder", lambda: late() | {"chance": f"+{percent(20)}"}))
    if len(joined) > 1:
        makers.append(partial(swizzle, _some(joined, dice), dice=dice))
    if len(nodes) > 1:
        patterns = [isolate_one, split] + [majority_ring] * (len(nodes) > 3)
        makers += [partial(pattern, _some(nodes, dice), dice=dice) for pattern in patterns]
    return makers


def _some(nodes: list[str], dice: Dice) -> list[str]:
    """At most so many that a pattern of them can be read."""
    return nodes if len(nodes) <= 32 else dice.shuffled(nodes)[:32]


def _flow(selection: Selection, dice: Dice) -> dict[str, str]:
    """From one end of a link to a node that can be reached from there."""
    source = dice.one(list(selection.topology.links))[0]
    reached = selection.in_order(selection.reach(source) - {source})
    return {"from": source, "to": dice.one(reached)}
