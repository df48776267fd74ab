"""What the person who sets a run up can work out before it begins: where to cut the model.

How many layers the clients keep decides what they load before they say hello, so it is chosen
here, from the topology and the settings alone, by the same pairing that the coordinator makes
later: for each cut that leaves a layer to host, the plan as if all clients were one neighborhood,
and of those that fit the memory the one with the shortest predicted round. It is the same for all
clients, stands in the run's config from then on, and no fault changes it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import networkx

from atlas import pairing
from atlas.config import Split
from atlas.pairing import Capability, PairingError, Plan, Way
from atlas.roles import RunSettings
from atlas.tasks import ClientData
from topologies import Topology


def cut(settings: RunSettings, topology: Topology, data: Mapping[str, ClientData]) -> Split:
    """The split with what is to be chosen before a run begins: the number of layers that the
    clients keep; and, where codecs round at each crossing, into how many spans the others are cut.

    Raises PairingError where no cut fits the grants.
    """
    ways = routes(topology, settings)

    def planned(layers: int) -> Plan:
        at = _kept(settings, layers)
        devices = {name: capability(name, at, topology, data, ways) for name in at.devices}
        clients = {name: devices[name] for name in at.clients}
        costs = at.step_costs()
        for client in clients.values():
            if client.free_bytes < 0:
                raise PairingError(
                    client.name,
                    costs[-1].spans[0],
                    f"keeping {layers} layers takes {-client.free_bytes:,} bytes more than it "
                    "grants",
                    more_bytes={client.name: -client.free_bytes},
                )
        hosts = [devices[name] for name in at.devices if name not in clients]
        return pairing.plan(
            clients,
            hosts,
            [at.clients],
            [[1.0]],
            costs,
            at.split.spare,
            ways=ways,
            rule=at.split.pairing,
            seed=at.seed,
        )

    split = settings.split
    most = settings.spec.layers - (1 if split.spans == "auto" else split.spans)
    kept = split.client_layers
    found = pairing.cheapest_cut(range(1, most + 1) if kept == "auto" else (kept,), planned)
    settled: dict[str, object] = {"client_layers": found.client_layers}
    if split.codec != "fp32":
        settled["spans"] = len(found.plan.cost.spans)
    return split.model_copy(update=settled)


def capability(
    name: str,
    settings: RunSettings,
    topology: Topology,
    data: Mapping[str, ClientData],
    ways: pairing.Ways,
) -> Capability:
    """What the device will say of itself in its hello."""
    device = topology.nodes[name].device
    assert device is not None, "checked when the topology was read"
    part = data.get(name)
    own = 0 if part is None else settings.ends_bytes(settings.most_labels(part))
    up, down = ways[name, settings.coordinator], ways[settings.coordinator, name]
    free = device.grant_bytes - own
    return Capability(name, free, device.flops, up.bandwidth_bps, down.bandwidth_bps, up.delay_s)


def routes(topology: Topology, settings: RunSettings) -> dict[tuple[str, str], Way]:
    """Between clients and devices, and the coordinator and devices: shortest by delay."""
    graph = networkx.DiGraph()
    for ends, link in topology.links.items():
        graph.add_edge(*ends, delay=link.delay_s, bandwidth=link.bandwidth_bps)
    found: dict[tuple[str, str], Way] = {}
    for one in (settings.coordinator, *settings.clients):
        for back, directed in ((False, graph), (True, graph.reverse(copy=False))):
            delays, paths = networkx.single_source_dijkstra(directed, one, weight="delay")
            for other in settings.devices:
                if other != one and other in paths:
                    path = paths[other]
                    widths = [
                        directed.edges[a, b]["bandwidth"] for a, b in itertools.pairwise(path)
                    ]
                    ends = (other, one) if back else (one, other)
                    found[ends] = Way(min(widths), delays[other])
    return found


def _kept(settings: RunSettings, layers: int) -> RunSettings:
    split = settings.split.model_copy(update={"client_layers": layers})
    return dataclasses.replace(settings, split=split)
