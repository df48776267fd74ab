"""How long it takes to expand, to write, to read and to apply 100,000 events.

    python benchmarks/fault_events.py            # measures, and writes results/fault_events.json
    python benchmarks/fault_events.py --table    # prints what was measured

Two scenarios on one network: a churn of 10,000 nodes, and a timeline of 50,000 faults of all kinds.
Applying is what `faults.Conditions` does at each event, and asking it what has changed; it is
measured on 1,000 and on 10,000 nodes, for it should not depend on their number.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import faults
from faults import Conditions, Event, Scenario
from topologies import Link, Node, Topology, devices

RESULTS = Path(__file__).with_name("results") / "fault_events.json"
NODES, SMALLER = 10_000, 1_000
EVENTS = 100_000
BEHIND_A_GATEWAY = 100
REPEATS = 3
_What = TypeVar("_What")


def network(nodes: int) -> Topology:
    """Gateways in a ring, and devices behind them."""
    gateways = nodes // BEHIND_A_GATEWAY
    names = [f"gateway-{index}" for index in range(gateways)]
    pairs = [(names[index], names[index - 1]) for index in range(gateways)]
    device = devices()["raspberry-pi-4"]
    places = [Node(name=name, role="gateway") for name in names]
    for index in range(nodes - gateways):
        places.append(Node(name=f"device-{index}", role="client", device=device))
        pairs.append((f"device-{index}", names[index % gateways]))
    links = [
        Link(source=here, target=there, bandwidth_bps=1e8, delay_s=0.005)
        for a, b in pairs
        for here, there in ((a, b), (b, a))
    ]
    return Topology.of(f"ring-{nodes}", places, links)


def churn(nodes: int) -> Scenario:
    """So many crashes and restarts of devices that there are 100,000 events."""
    devices = nodes - nodes // BEHIND_A_GATEWAY
    until_s = round(EVENTS / 2 * 330 / devices)
    process = {"nodes": "role=client", "mean_up": "5 min", "mean_down": "30 s"}
    return Scenario.of({"processes": [{"churn": process | {"until": f"{until_s} s"}}]})


def timeline(nodes: int) -> Scenario:
    """Half as many faults as there are to be events, of many kinds, on single nodes and links."""
    kinds: Sequence[Callable[[str, str], dict[str, Any]]] = (
        lambda node, _: {"crash": node},
        lambda node, _: {"pause": node},
        lambda node, _: {"slow": {"nodes": node, "compute": "4x"}},
        lambda node, _: {"skew": {"nodes": node, "offset": "+20 ms"}},
        lambda node, gateway: {"degrade": {"link": [node, gateway], "bandwidth": "10 %"}},
        lambda node, _: {"cut": {"nodes": node}},
        lambda node, _: {"loss": {"nodes": node, "chance": "+1 %"}},
        lambda node, gateway: {"partition": [[node], [gateway]]},
    )
    gateways = nodes // BEHIND_A_GATEWAY
    entries = []
    for number in range(EVENTS // 2):
        device = number * 7919 % (nodes - gateways)
        fault = kinds[number % len(kinds)](f"device-{device}", f"gateway-{device % gateways}")
        entries.append({"at": f"{number * 10} ms", "for": "30 s"} | fault)
    return Scenario.of({"timeline": entries})


def apply(events: Sequence[Event]) -> None:
    """What a run does with the events, and what its network asks after each of them."""
    conditions = Conditions()
    for event in events:
        before = conditions
        conditions = (before.begin if event.phase == "begin" else before.end)(event)
        assert len(conditions.since(before)) == 1


def best(work: Callable[[], _What]) -> tuple[float, _What]:
    """The shortest of some tries, in seconds of this processor, and what came of it."""
    seconds = []
    for _ in range(REPEATS):
        begun = time.process_time()
        result = work()
        seconds.append(time.process_time() - begun)
    return round(min(seconds), 3), result


def measure() -> dict[str, Any]:
    """All figures."""
    large, small = network(NODES), network(SMALLER)
    found: dict[str, Any] = {
        "machine": {
            "processor": platform.machine(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
        },
        "nodes": NODES,
        "links": len(large.links),
    }
    for make in (churn, timeline):
        expand_s, events = best(lambda make=make: faults.expand(make(NODES), large, 1))  # type: ignore[misc]
        fewer = faults.expand(make(SMALLER), small, 1)
        apply_s, _ = best(lambda events=events: apply(events))  # type: ignore[misc]
        smaller_s, _ = best(lambda fewer=fewer: apply(fewer))  # type: ignore[misc]
        found[make.__name__] = {
            "events": len(events),
            "expand_s": expand_s,
            "apply_us_per_event": round(apply_s / len(events) * 1e6, 1),
            f"apply_us_per_event_on_{SMALLER}_nodes": round(smaller_s / len(fewer) * 1e6, 1),
            "sha256": hashlib.sha256(repr(events).encode()).hexdigest(),
        }
    write_s, text = best(lambda: faults.concrete(events, name="again"))
    begun = time.process_time()
    again = faults.parse(text)
    read_s = round(time.process_time() - begun, 3)
    assert faults.expand(again, large, 2) == events
    found["file"] = {"bytes": len(text.encode()), "write_s": write_s, "read_s": read_s}
    return found


def table(found: dict[str, Any]) -> str:
    """The figures as a page shows them."""
    rows = [
        f"| {name} | {found[name]['events']:,} | {found[name]['expand_s']:.1f} s "
        f"| {found[name]['apply_us_per_event']:.0f} µs "
        f"| {found[name][f'apply_us_per_event_on_{SMALLER}_nodes']:.0f} µs |"
        for name in ("churn", "timeline")
    ]
    head = [
        f"| {found['nodes']:,} nodes | events | expand | apply one | one on {SMALLER:,} nodes |",
        "|---|---|---|---|---|",
    ]
    return "\n".join(head + rows)


def main() -> None:
    if "--table" not in sys.argv[1:]:
        RESULTS.write_text(json.dumps(measure(), indent=2) + "\n", encoding="utf-8")
    print(table(json.loads(RESULTS.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
