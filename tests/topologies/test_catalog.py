"""The bundled topology and devices are what the house says of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import networkx as nx
import pytest

import topologies
from topologies import TopologyError
from topologies.devices import devices
from topologies.making import zoo

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


def test_devices_say_what_they_store_on_and_which_networks_they_are_commonly_on():
    for device in devices().values():
        assert device.disk_bytes > device.memory_bytes
        assert device.disk_read_bps >= device.disk_write_bps >= 8e7
        assert device.networks
        assert set(device.networks) <= set(topologies.access())


def test_access_networks_are_bounded_by_what_people_have_and_tell_their_source():
    assert {"3g", "lte", "5g", "cable", "fibre", "starlink", "wifi"} <= set(topologies.access())
    for one in topologies.access().values():
        for way in (one.link.up, one.link.down):
            bandwidth = way.bandwidth or one.link.bandwidth
            delay = way.delay or one.link.delay
            assert 1e5 < bandwidth <= 1e9
            assert 1e-5 < delay < 0.2
        assert len(one.source) > 60


ZOO = [name for name in topologies.catalog() if name.startswith("zoo-")]


def test_ten_and_more_real_networks_are_bundled_with_licence_and_citation():
    folder = Path(topologies.__file__).with_name("catalog")
    licence = (folder / "topology-zoo.LICENSE.md").read_text(encoding="utf-8")
    assert "CC BY 4.0" in licence
    assert "10.1109/JSAC.2011.111002" in licence
    assert len(ZOO) >= 10
    assert sorted(choice.name for choice in zoo.CHOICES) == ZOO
    for name in ZOO:
        head = (folder / f"{name}.yaml").read_text(encoding="utf-8").partition("\nname:")[0]
        assert "CC BY 4.0" in head
        assert "topology-zoo.LICENSE.md" in head


@pytest.mark.parametrize("name", ZOO)
def test_devices_are_attached_to_a_real_network_by_the_rule_of_the_script(name):
    network = topologies.load(name)
    routers = [node for node in network.nodes.values() if node.role == "router"]
    clients = [node for node in network.nodes.values() if node.role == "client"]
    hosts = [node for node in network.nodes.values() if node.role == "host"]
    assert len(routers) >= 10
    assert (len(clients), len(hosts)) == (24, 16)
    by_degree = {
        node.name: sum(network.nodes[x].role != "client" for x in network.neighbors(node.name))
        for node in routers
    }
    for node in (*clients, *hosts):
        (site,) = network.neighbors(node.name)
        assert network.nodes[site].place is not None
        assert by_degree[site] >= 2
        assert node.attributes["cluster"] in range(8)


def test_delays_of_real_networks_are_marked_as_derived_from_their_places():
    network = topologies.load("zoo-geant")
    link = network.links["UK", "FR"]
    assert link.derived["delay_s"] == "great-circle"
    assert link.delay_s == pytest.approx(344e3 / 2e8, rel=0.02)
    stated = network.links["UK", "PT"]
    assert stated.bandwidth_bps == 1e10
    assert dict(stated.derived) == {"delay_s": "great-circle"}


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
