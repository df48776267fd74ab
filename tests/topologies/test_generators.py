"""A shape, a size and a seed are one topology, whole and connected."""

from __future__ import annotations

import os
import subprocess
import sys

import networkx as nx
import pytest

import topologies
from topologies import Rules, TopologyError, generators

MADE = {
    "star": lambda seed: generators.star(7, seed=seed),
    "clustered_edge": lambda seed: generators.clustered_edge(4, 3, 2, seed=seed),
    "hierarchical_wan": lambda seed: generators.hierarchical_wan(5, 2, 3, seed=seed),
    "random_geometric": lambda seed: generators.random_geometric(60, seed=seed),
    "fat_tree": lambda seed: generators.fat_tree(4, seed=seed),
    "small_world": lambda seed: generators.small_world(30, seed=seed),
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_the_same_seed_makes_the_same_network_and_another_seed_another(make):
    assert make(3) == make(3)
    one, other = make(3), make(4)
    assert (one.nodes, one.links) != (other.nodes, other.links)


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_every_node_can_reach_every_other(make):
    for seed in range(3):
        assert nx.is_strongly_connected(make(seed).to_networkx())


def test_a_network_is_the_same_whatever_the_seed_of_hashes():
    script = (
        "from topologies import generators as g;"
        "print([[*map(repr, t.links.values())] for t in (g.random_geometric(40, seed=1),"
        "g.small_world(20, seed=1), g.clustered_edge(3, 2, 1, seed=1))])"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("0", "1")
    }
    assert len(printed) == 1


def roles(topology: topologies.Topology) -> dict[str, int]:
    counts: dict[str, int] = {}
    for node in topology.nodes.values():
        counts[node.role] = counts.get(node.role, 0) + 1
    return counts


@pytest.mark.parametrize("clusters", [1, 2, 3, 6])
def test_clusters_hang_on_gateways_that_form_a_ring(clusters):
    made = generators.clustered_edge(clusters, 3, 2)
    assert roles(made) == {
        "coordinator": 1,
        "gateway": clusters,
        "client": 3 * clusters,
        "host": 2 * clusters,
    }
    for node in made.nodes.values():
        if node.role in ("client", "host"):
            assert made.neighbors(node.name) == (f"gateway-{node.attributes['cluster']}",)
    ring = sum(a.startswith("gateway") and b.startswith("gateway") for a, b in made.links)
    assert ring == {1: 0, 2: 2, 3: 6, 6: 12}[clusters]


def test_devices_are_of_the_catalog_on_networks_that_they_commonly_have():
    made = generators.star(40)
    for node in made.nodes.values():
        if node.role == "client":
            link = made.links[node.name, "coordinator"]
            kinds = [topologies.access()[name].link for name in node.device.networks]
            speeds = {kind.up.bandwidth or kind.bandwidth for kind in kinds}
            assert link.bandwidth_bps in speeds
    assert len({node.device.name for node in made.nodes.values()}) == 5


def test_delays_of_a_wan_follow_from_the_distances_by_the_rules():
    made = generators.hierarchical_wan(6, 2, 1, seed=2)
    slow = generators.hierarchical_wan(6, 2, 1, seed=2, rules=Rules(delay_per_km="50 us"))
    ends = ("region-0", "region-1")
    assert slow.links[ends].delay_s == pytest.approx(10 * made.links[ends].delay_s)
    site = max(
        link.delay_s for (a, b), link in made.links.items() if {a[:4], b[:4]} == {"gate", "regi"}
    )
    assert site <= 151 * 5e-6


def test_near_is_near_in_a_random_geometric_graph():
    made = generators.random_geometric(200, seed=1, side_km=100, radius_km=9)
    spots = [node.place for node in made.nodes.values()]
    lengths = {
        (a, b): topologies.rules.great_circle_km(spots[a], spots[b])
        for a in range(200)
        for b in range(a)
    }
    near = {pair for pair, length in lengths.items() if length < 8.95}
    linked = {(max(a, b), min(a, b)) for a, b in ((int(a[5:]), int(b[5:])) for a, b in made.links)}
    assert near <= linked
    far = [pair for pair in linked if lengths[pair] > 9.05]
    assert 0 < len(far) < 20, "only what joins the parts is longer"


def test_a_fat_tree_has_as_many_hosts_and_switches_as_its_ports_allow():
    made = generators.fat_tree(4)
    assert roles(made) == {"router": 20, "host": 16}
    degrees = {name: len(made.neighbors(name)) for name in made.nodes}
    assert all(degrees[name] == (1 if name.startswith("host") else 4) for name in degrees)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: generators.star(0), "clients: clients is 0"),
        (lambda: generators.random_geometric(100_001), "nodes is 100001"),
        (lambda: generators.fat_tree(3), "an even number of ports"),
        (lambda: generators.fat_tree(90), "nodes is "),
        (lambda: generators.small_world(4, neighbors=4), "no such graph"),
        (lambda: generators.small_world(9, rewired=2), "no such graph"),
        (lambda: generators.random_geometric(9, radius_km=0), "radius_km is 0"),
        (lambda: generators.random_geometric(9, side_km=-1.0), "side_km is -1"),
    ],
)
def test_a_size_that_can_not_be_is_refused(make, words):
    with pytest.raises(TopologyError, match=words):
        make()
