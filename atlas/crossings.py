"""In which codec each client's hidden states and gradients cross: settled before a run begins.

Codecs other than fp32 change values a little, so which one a client uses may depend on nothing that
a fault can change: only on the config and on the topology as it is when nothing is wrong. So a host
that is lost, a link that is slow for a while and a client that begins again leave it as it is.
"""

from __future__ import annotations

from statistics import median

from atlas.models import codec
from atlas.models.codec import Codec
from atlas.roles.settings import RunSettings
from broker.map import Map
from topologies import Topology


def choose(topology: Topology, settings: RunSettings) -> dict[str, Codec]:
    """The codec of each client: the config's, or with `auto` what suits the client's ways.

    A step counts as the client's own part on its device, and all other layers on a device of the
    median speed of the hosts, reached over ways of the median bandwidth in each direction. Where
    all devices are clients, the others count as hosts.
    """
    chosen = settings.split.codec
    if chosen != "auto":
        return dict.fromkeys(settings.clients, chosen)
    ways = Map(topology)
    speeds = {
        name: node.device.flops for name, node in topology.nodes.items() if node.device is not None
    }
    spans = 1 if settings.split.spans == "auto" else settings.split.spans
    cost = settings.step_cost(spans)
    hosted_flops = sum(span.step_flops for span in cost.spans)
    hosts = [name for name in settings.devices if name not in settings.clients]
    found: dict[str, Codec] = {}
    for client in settings.clients:
        others = hosts or [name for name in settings.devices if name != client]
        up = [way.bandwidth_bps for name in others if (way := ways.route(client, name))]
        down = [way.bandwidth_bps for name in others if (way := ways.route(name, client))]
        if not up or not down:  # pairing will say that it has no host
            found[client] = "fp32"
            continue
        found[client] = codec.choose(
            settings.spec,
            settings.training.batch,
            settings.training.tokens,
            spans=spans,
            uplink_bps=median(up),
            downlink_bps=median(down),
            computation_s=cost.own_flops / speeds[client]
            + hosted_flops / median(speeds[name] for name in others),
        )
    return found
