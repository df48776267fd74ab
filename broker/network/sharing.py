"""Weighted max-min fairness, as a pure function of a table.

Flows use *resources*: a link, of which a flow takes its rate in bit/s, or a medium whose links take
turns, of which a flow takes the share of time that its rate needs. All rates rise together, each in
proportion to its flow's weight, until a resource is used up or a flow has reached its cap; what is
bound then stays, the others rise on (progressive filling: Bertsekas and Gallager, *Data Networks*,
2nd ed., section 6.5.2). So no resource is over its capacity, and every flow either has its cap or
crosses a full resource on which nobody has more than it, weighed.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import NamedTuple, TypeVar

Flow = TypeVar("Flow", bound=Hashable)
Resource = TypeVar("Resource", bound=Hashable)


class Use(NamedTuple):
    """How a flow uses a resource: `per_bit` of it for each bit/s (1 of a link; of a medium, 1 over
    the bandwidth of each of its links on the flow's way).
    """

    resource: Hashable
    per_bit: float = 1.0


class Demand(NamedTuple):
    """What a flow crosses, how it counts beside others, and the most it can take by itself."""

    uses: tuple[Use, ...]
    weight: float = 1.0
    cap_bps: float = math.inf


def max_min(
    demands: Mapping[Flow, Demand], capacity: Mapping[Resource, float]
) -> dict[Flow, float]:
    """Each flow's rate in bit/s; infinite for one that nothing binds.

    `capacity` says how much there is of each resource: bit/s of a link, 1 of a medium.
    """
    rates: dict[Flow, float] = {}
    left: dict[Hashable, float] = {}
    rising: dict[Hashable, dict[Flow, float]] = {}
    slope: dict[Hashable, float] = {}
    capped: list[tuple[float, int, Flow]] = []
    for order, (flow, demand) in enumerate(demands.items()):
        for resource, per_bit in demand.uses:
            members = rising.setdefault(resource, {})
            members[flow] = members.get(flow, 0.0) + per_bit
            slope[resource] = slope.get(resource, 0.0) + per_bit * demand.weight
            left[resource] = capacity[resource]  # type: ignore[index]
        if demand.cap_bps < math.inf:
            capped.append((demand.cap_bps / demand.weight, order, flow))
    capped.sort(reverse=True)

    def bind(flow: Flow, rate_bps: float) -> None:
        rates[flow] = rate_bps
        weight = demands[flow].weight
        for resource in dict.fromkeys(use[0] for use in demands[flow].uses):
            per_bit = rising[resource].pop(flow)
            left[resource] -= per_bit * rate_bps
            slope[resource] -= per_bit * weight
            if not rising[resource]:
                del slope[resource]

    while len(rates) < len(demands):
        level, full = math.inf, None
        for resource, rise in slope.items():
            at = left[resource] / rise
            if at < level:
                level, full = at, resource
        while capped and capped[-1][2] in rates:
            capped.pop()
        if capped and capped[-1][0] <= level:
            flow = capped.pop()[2]
            bind(flow, demands[flow].cap_bps)
        elif full is None:
            rates.update((flow, math.inf) for flow in demands if flow not in rates)
        else:
            level = max(level, 0.0)
            for flow in list(rising[full]):
                bind(flow, demands[flow].weight * level)
    return rates
