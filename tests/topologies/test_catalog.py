"""The bundled topology and devices are what the house says of them."""

from __future__ import annotations

import subprocess
import sys

import networkx as nx
import pytest

import topologies
from topologies import TopologyError
from topologies.devices import devices

MIB = 2**20


@pytest.fixture(scope="module")
def edge_clusters():
    return topologies.load("edge-clusters")


def test_every_bundled_topology_is_strongly_connected():
    for name in topologies.catalog():
        topology = topologies.load(name)
        assert topology.name == name
        assert nx.is_strongly_connected(topology.to_networkx())


def test_edge_clusters_has_twelve_clients_and_sixteen_hosts_in_four_places(edge_clusters):
    by_role: dict[str, list[str]] = {}
    for node in edge_clusters.nodes.values():
        by_role.setdefault(node.role, []).append(node.name)
    assert by_role == {
        "coordinator": ["coordinator"],
        "gateway": [f"gateway-{n}" for n in range(4)],
        "client": [f"client-{n}" for n in range(12)],
        "host": [f"host-{n}" for n in range(16)],
    }
    for role, places in (("client", 4 * [3]), ("host", 4 * [4])):
        clusters = [edge_clusters.nodes[name].attributes["cluster"] for name in by_role[role]]
        assert [clusters.count(place) for place in range(4)] == places


def test_edge_clusters_grants_are_stated_and_modest(edge_clusters):
    grants = {
        (node.role, node.device.grant_bytes)
        for node in edge_clusters.nodes.values()
        if node.role in ("client", "host")
    }
    by_role = dict(sorted(grants))
    assert len(grants) == len(by_role) == 2
    assert by_role["client"] == 576 * MIB
    assert 576 * MIB < by_role["host"] <= 768 * MIB


def test_each_device_hangs_on_the_gateway_of_its_place(edge_clusters):
    for node in edge_clusters.nodes.values():
        if node.role in ("client", "host"):
            gateway = f"gateway-{node.attributes['cluster']}"
            assert edge_clusters.neighbors(node.name) == (gateway,)
            up = edge_clusters.links[node.name, gateway]
            down = edge_clusters.links[gateway, node.name]
            assert up.bandwidth_bps < down.bandwidth_bps


def test_the_catalog_of_devices_has_plausible_numbers_with_their_source():
    assert {"raspberry-pi-4", "raspberry-pi-5", "jetson-nano", "jetson-orin-nano"} <= set(devices())
    assert {"laptop", "mini-pc", "small-server"} <= set(devices())
    for device in devices().values():
        assert 256 * MIB <= device.grant_bytes <= device.memory_bytes // 8
        assert 1e10 < device.flops < 1e12
        assert len(device.source) > 40


def test_the_catalog_of_devices_can_not_be_changed():
    with pytest.raises(TypeError):
        devices()["mine"] = devices()["laptop"]


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(TopologyError, match='Did you mean "edge-clusters"'):
        topologies.load("edge-cluster")
    with pytest.raises(TopologyError, match="no such file"):
        topologies.load("missing/campus.yaml")


def test_a_file_is_read_by_its_content_whatever_it_is_called(tmp_path, edge_clusters):
    path = tmp_path / "topology.dat"
    nx.write_graphml(edge_clusters.to_networkx(), path)
    assert topologies.load(path) == edge_clusters
    assert topologies.load(str(path)) == edge_clusters


def test_importing_the_two_rooms_imports_neither_networkx_nor_numpy_nor_torch():
    script = (
        "import sys, topologies, faults;"
        "print([m for m in ('networkx', 'numpy', 'torch', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
