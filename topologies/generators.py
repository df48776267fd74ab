"""Networks made to measure: a shape, a size and a seed give one topology, the same anywhere.

Every generator takes *seed* and draws devices, access networks and places from a stream each, so
that another size of one thing does not change the rest. Devices come from the catalog
(`topologies.devices`), ways into the network from `topologies.access`, each device on a network
that it commonly has. What they return has the roles that `atlas run` knows: ``coordinator``,
``gateway``, ``client`` and ``host``; switches and routers are ``router``. Ten thousand nodes take
seconds.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import product

from topologies.access import access
from topologies.devices import devices
from topologies.errors import TopologyError
from topologies.layout import MOST_NODES
from topologies.link_settings import Direction, LinkKind
from topologies.model import Link, Node, Topology
from topologies.rules import Rules, great_circle_km

CLIENTS = ("phone-flagship", "phone-midrange", "raspberry-pi-5", "raspberry-pi-4")
HOSTS = ("laptop", "mini-pc", "jetson-orin-nano")
_KM_PER_DEGREE = 111.2
_CENTER = (48.0, 9.0)


def star(clients: int, *, seed: int = 0, kinds: Sequence[str] = CLIENTS) -> Topology:
    """A coordinator with clients around it, each over an access network of its own.

    Args:
        clients: how many.
        seed: of what is drawn: devices and access networks.
        kinds: the devices that are drawn from.
    """
    _check(clients=clients)
    made = _Made("star", seed)
    made.add("coordinator", "coordinator", "small-server")
    for index in range(clients):
        made.attach(f"client-{index}", "client", "coordinator", kinds)
    return made.topology()


def clustered_edge(
    clusters: int,
    clients: int,
    hosts: int = 0,
    *,
    seed: int = 0,
    client_kinds: Sequence[str] = CLIENTS,
    host_kinds: Sequence[str] = HOSTS,
) -> Topology:
    """Gateways in a ring, each with clients and hosts around it, and a coordinator on two of them.

    The shape of the bundled ``edge-clusters``: the access networks of one city. Nodes have
    the attribute ``cluster``.

    Args:
        clusters: how many gateways.
        clients, hosts: how many of them at each gateway.
        seed: of what is drawn: devices, access networks, delays between gateways (1 to 3 ms).
        client_kinds, host_kinds: the devices that are drawn from.
    """
    _check(clusters=clusters, clients=clients)
    made = _Made("clustered-edge", seed)
    made.add("coordinator", "coordinator", "small-server")
    delays = made.stream("metro")
    for cluster in range(clusters):
        made.add(f"gateway-{cluster}", "gateway", cluster=cluster)
    ring = list(range(clusters))
    for a, b in zip(ring, [*ring[1:], 0], strict=True) if clusters > 2 else ((0, 1),):
        if b < clusters:
            made.join(f"gateway-{a}", f"gateway-{b}", 1e9, round(delays.uniform(1e-3, 3e-3), 6))
    for cluster in sorted({0, clusters // 2}):
        made.join("coordinator", f"gateway-{cluster}", 2.5e9, 3e-3)
    for cluster, (role, count, kinds) in product(
        ring, (("client", clients, client_kinds), ("host", hosts, host_kinds))
    ):
        for index in range(cluster * count, (cluster + 1) * count):
            made.attach(f"{role}-{index}", role, f"gateway-{cluster}", kinds, cluster=cluster)
    return made.topology()


def hierarchical_wan(
    regions: int,
    sites: int,
    clients: int,
    *,
    seed: int = 0,
    rules: Rules | None = None,
    kinds: Sequence[str] = CLIENTS,
) -> Topology:
    """Three tiers: regions in a ring with chords, sites around each region, clients at each site.

    Regions lie within 1,500 km of a center, sites within 150 km of their region, and delays follow
    from the distances by the rules. Backbone links have 100 Gbit/s, those to sites 10 Gbit/s.
    The coordinator is at the first region. Nodes have ``latitude``, ``longitude`` and ``cluster``,
    the number of their region.

    Args:
        regions, sites, clients: how many; sites in each region, clients at each site.
        seed: of what is drawn: places, devices, access networks.
        rules: how delays follow from distances.
        kinds: the devices that are drawn from.
    """
    _check(regions=regions, sites=sites, clients=clients)
    made = _Made("hierarchical-wan", seed, rules)
    places = made.stream("places")
    cores = [_near(_CENTER, 1500, places) for _ in range(regions)]
    cores.sort(key=lambda at: math.atan2(at[0] - _CENTER[0], at[1] - _CENTER[1]))
    for region, place in enumerate(cores):
        made.add(f"region-{region}", "router", place=place, cluster=region)
    rings = [(r, (r + 1) % regions) for r in range(regions)]
    chords = [(r, r + regions // 2) for r in range(0, regions // 2, 2)]
    for a, b in dict.fromkeys((min(p), max(p)) for p in (*rings, *chords)):
        if a != b:
            made.join(f"region-{a}", f"region-{b}", 100e9)
    made.add("coordinator", "coordinator", "small-server", place=cores[0])
    made.join("coordinator", "region-0", 10e9)
    for index, region in enumerate(r for r in range(regions) for _ in range(sites)):
        place = _near(cores[region], 150, places)
        made.add(f"gateway-{index}", "gateway", place=place, cluster=region)
        made.join(f"gateway-{index}", f"region-{region}", 10e9)
        for client in range(index * clients, (index + 1) * clients):
            made.attach(f"client-{client}", "client", f"gateway-{index}", kinds, cluster=region)
    return made.topology()


def random_geometric(
    nodes: int,
    *,
    seed: int = 0,
    side_km: float = 100.0,
    radius_km: float | None = None,
    bandwidth_bps: float = 1e9,
    rules: Rules | None = None,
) -> Topology:
    """Nodes anywhere in a square, linked with all that are near.

    Where that leaves parts, each is joined to the largest where they are nearest.

    Args:
        nodes: how many.
        seed: of the places.
        side_km: of the square.
        radius_km: how near is near. Without it, where such graphs begin to be connected:
            ``side * sqrt(ln n / (pi n))`` (M. Penrose, Random Geometric Graphs, 2003).
        bandwidth_bps: of every link.
        rules: how delays follow from distances.
    """
    _check(nodes=nodes)
    for name, length_km in (("side_km", side_km), ("radius_km", radius_km)):
        if length_km is not None and not 0 < length_km < math.inf:
            raise TopologyError(f"{name} is {length_km}, and has to be more than 0", key=name)
    made = _Made("random-geometric", seed, rules)
    places = made.stream("places")
    spots = [(places.uniform(0, side_km), places.uniform(0, side_km)) for _ in range(nodes)]
    if radius_km is None:
        radius_km = side_km * math.sqrt(math.log(max(nodes, 2)) / (math.pi * nodes))
    for index, spot in enumerate(spots):
        made.add(f"node-{index}", "router", place=_on_earth(spot))
    pairs = list(_near_pairs(spots, radius_km))
    for a, b in (*pairs, *_bridges(spots, pairs)):
        made.join(f"node-{a}", f"node-{b}", bandwidth_bps)
    return made.topology()


def fat_tree(
    ports: int, *, seed: int = 0, bandwidth_bps: float = 1e9, kinds: Sequence[str] = HOSTS
) -> Topology:
    """A data center of switches with so many ports: ports³ / 4 hosts and 5 ports² / 4 switches.

    Three layers: edge, aggregation, core; a host has the same bandwidth to any other, if routes
    spread. See M. Al-Fares, A. Loukissas and A. Vahdat, "A Scalable, Commodity Data Center Network
    Architecture", SIGCOMM 2008. Nodes have ``cluster``, the number of their pod.

    Args:
        ports: of each switch, an even number.
        seed: of the devices of the hosts.
        bandwidth_bps: of every link.
        kinds: the devices that are drawn from.
    """
    _check(ports=ports)
    if ports % 2:
        raise TopologyError(f"a fat tree's switches have an even number of ports, unlike {ports}")
    half = ports // 2
    _check(nodes=ports**3 // 4 + 5 * half**2)
    made = _Made("fat-tree", seed)
    for core in range(half * half):
        made.add(f"core-{core}", "router")
    for pod in range(ports):
        for layer, index in product(("aggregation", "edge"), range(half)):
            made.add(f"{layer}-{pod}-{index}", "router", cluster=pod)
        for upper, lower in product(range(half), range(half)):
            made.join(f"aggregation-{pod}-{upper}", f"core-{upper * half + lower}", bandwidth_bps)
            made.join(f"edge-{pod}-{lower}", f"aggregation-{pod}-{upper}", bandwidth_bps)
        for edge, index in product(range(half), range(half)):
            host = f"host-{(pod * half + edge) * half + index}"
            made.add(host, "host", made.draw("devices", kinds), cluster=pod)
            made.join(host, f"edge-{pod}-{edge}", bandwidth_bps)
    return made.topology()


def small_world(
    nodes: int,
    *,
    neighbors: int = 4,
    rewired: float = 0.1,
    seed: int = 0,
    bandwidth_bps: float = 100e6,
    delay_s: float = 0.01,
    kinds: Sequence[str] = CLIENTS,
) -> Topology:
    """Peers in a ring, each linked with its nearest, some links led to anywhere instead.

    The connected graphs of D. Watts and S. Strogatz, "Collective dynamics of 'small-world'
    networks", Nature 393, 1998, as NetworkX makes them.

    Args:
        nodes: how many peers, all clients.
        neighbors: how many each is linked with at first, an even number.
        rewired: the share of links that are led elsewhere.
        seed: of the graph and the devices.
        bandwidth_bps, delay_s: of every link.
        kinds: the devices that are drawn from.
    """
    import networkx as nx  # noqa: PLC0415  (takes longer to import than all the rest of this room)

    _check(nodes=nodes)
    if not 0 <= rewired <= 1 or not 2 <= neighbors < nodes:
        problem = f"{neighbors} neighbors among {nodes} nodes, {rewired} rewired: no such graph"
        remedy = "Give 2 neighbors or more, fewer than nodes, and a share from 0 to 1"
        raise TopologyError(problem, remedy=remedy)
    made = _Made("small-world", seed)
    stream = made.stream("graph")
    graph = nx.connected_watts_strogatz_graph(nodes, neighbors, rewired, tries=100, seed=stream)
    for index in range(nodes):
        made.add(f"client-{index}", "client", made.draw("devices", kinds))
    for a, b in sorted(graph.edges):
        made.join(f"client-{a}", f"client-{b}", bandwidth_bps, delay_s)
    return made.topology()


class _Made:
    """A network in the making: its nodes and links so far, and its streams of chance."""

    def __init__(self, name: str, seed: int, rules: Rules | None = None) -> None:
        self._name = name
        self._seed = seed
        self._rules = rules or Rules()
        self._streams: dict[str, random.Random] = {}
        self._nodes: dict[str, Node] = {}
        self._links: list[Link] = []

    def stream(self, purpose: str) -> random.Random:
        """The stream of chance for this purpose."""
        seeded = f"{self._name}:{self._seed}:{purpose}"
        return self._streams.setdefault(purpose, random.Random(seeded))

    def draw(self, purpose: str, names: Sequence[str]) -> str:
        """One of these names."""
        return self.stream(purpose).choice(names)

    def add(
        self,
        name: str,
        role: str,
        device: str | None = None,
        *,
        place: tuple[float, float] | None = None,
        cluster: int | None = None,
    ) -> None:
        """A node."""
        attributes: dict[str, str | int | float] = {}
        if cluster is not None:
            attributes["cluster"] = cluster
        if place is not None:
            attributes["latitude"], attributes["longitude"] = place
        kind = None if device is None else devices()[device]
        self._nodes[name] = Node(name=name, role=role, device=kind, attributes=attributes)

    def join(self, a: str, b: str, bandwidth_bps: float, delay_s: float | None = None) -> None:
        """A link both ways; without a delay, that of the distance or of one building."""
        if delay_s is None:
            here, there = self._nodes[a].place, self._nodes[b].place
            if here is None or there is None:
                delay_s = self._rules.least_delay
            else:
                delay_s, _ = self._rules.delay_of(great_circle_km(here, there))
        for source, target in ((a, b), (b, a)):
            link = Link(source=source, target=target, bandwidth_bps=bandwidth_bps, delay_s=delay_s)
            self._links.append(link)

    def attach(
        self,
        name: str,
        role: str,
        to: str,
        kinds: Sequence[str],
        *,
        cluster: int | None = None,
    ) -> None:
        """A device that is drawn, over one of the access networks it has."""
        device = self.draw(f"{role} devices", kinds)
        self.add(name, role, device, cluster=cluster)
        networks = devices()[device].networks or ("ethernet",)
        kind = access()[self.draw(f"{role} access", networks)].link
        self._links.append(_over(kind, kind.up, name, to))
        self._links.append(_over(kind, kind.down, to, name))

    def topology(self) -> Topology:
        """The whole."""
        name = f"{self._name}-{self._seed}"
        return Topology.of(name, self._nodes.values(), self._links)


def _over(kind: LinkKind, way: Direction, source: str, target: str) -> Link:
    """One direction of a link over an access network."""
    fields: dict[str, object] = {"source": source, "target": target}
    for told in (kind, way):
        if told.bandwidth is not None:
            fields["bandwidth_bps"] = told.bandwidth
        if told.delay is not None:
            fields["delay_s"] = told.delay
        if told.jitter is not None:
            fields |= {"jitter_s": told.jitter.spread, "jitter_shape": told.jitter.shape}
        if told.loss is not None:
            fields |= {"loss": told.loss.mean, "burst": told.loss.burst}
    return Link.model_validate(fields)


def _check(**counts: int) -> None:
    for name, count in counts.items():
        if not 1 <= count <= MOST_NODES:
            raise TopologyError(f"{name} is {count}, and has to be 1 to {MOST_NODES}", key=name)


def _near(
    center: tuple[float, float], radius_km: float, places: random.Random
) -> tuple[float, float]:
    """A place in a circle around another, as likely anywhere."""
    reach, angle = radius_km * math.sqrt(places.random()), places.uniform(0, 2 * math.pi)
    north, east = reach * math.sin(angle), reach * math.cos(angle)
    return _moved(center, east, north)


def _on_earth(spot: tuple[float, float]) -> tuple[float, float]:
    return _moved(_CENTER, *spot)


def _moved(place: tuple[float, float], east_km: float, north_km: float) -> tuple[float, float]:
    latitude = place[0] + north_km / _KM_PER_DEGREE
    longitude = place[1] + east_km / (_KM_PER_DEGREE * math.cos(math.radians(latitude)))
    return round(latitude, 5), round(longitude, 5)


def _near_pairs(spots: Sequence[tuple[float, float]], radius: float) -> Iterator[tuple[int, int]]:
    """All pairs that are no farther apart than this; each spot looks only into cells around it."""
    cells: dict[tuple[int, int], list[int]] = {}
    for index, (x, y) in enumerate(spots):
        cells.setdefault((int(x // radius), int(y // radius)), []).append(index)
    for index, (x, y) in enumerate(spots):
        column, row = int(x // radius), int(y // radius)
        for across, along in product((-1, 0, 1), (-1, 0, 1)):
            for other in cells.get((column + across, row + along), ()):
                if other > index and math.dist((x, y), spots[other]) <= radius:
                    yield index, other


def _bridges(
    spots: Sequence[tuple[float, float]], pairs: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """Pairs that join the parts of a graph: each further part to the nearest spot of the first."""
    import networkx as nx  # noqa: PLC0415  (as in small_world)

    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(range(len(spots)))
    graph.add_edges_from(pairs)
    whole, *parts = sorted(nx.connected_components(graph), key=lambda part: (-len(part), min(part)))
    for part in parts:
        near = min((math.dist(spots[a], spots[b]), a, b) for a in part for b in whole)
        yield near[1], near[2]
        whole |= part
