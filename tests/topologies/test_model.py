"""A topology is frozen, consistent, and the same after any journey."""

from __future__ import annotations

import copy
import pickle

import pytest
from pydantic import ValidationError

from topologies import Device, Link, Node, Topology

CAMERA = Device(name="camera", memory_bytes=2**30, grant_bytes=2**27, flops=2e9, source="measured")
A = Node(name="a", role="client", device=CAMERA, attributes={"cluster": 1})
B = Node(name="b")
AB = Link(source="a", target="b", bandwidth_bps=1e6, delay_s=0.01)
BA = Link(source="b", target="a", bandwidth_bps=8e6, delay_s=0.01, jitter_s=0.001, loss=0.02)


def pair() -> Topology:
    return Topology.of("pair", [A, B], [AB, BA])


def test_nodes_and_links_keep_their_order_and_each_direction_its_own_numbers():
    topology = pair()
    assert list(topology.nodes) == ["a", "b"]
    assert topology.links["a", "b"].bandwidth_bps == 1e6
    assert topology.links["b", "a"].bandwidth_bps == 8e6


def test_nothing_in_a_topology_can_be_changed():
    topology = pair()
    with pytest.raises(ValidationError):
        topology.name = "other"
    with pytest.raises(TypeError):
        topology.nodes["c"] = B
    with pytest.raises(TypeError):
        topology.links.clear()
    with pytest.raises(TypeError):
        topology.nodes["a"].attributes.update(cluster=2)
    with pytest.raises(ValidationError):
        topology.links["a", "b"].delay_s = 0.0


def test_a_topology_is_equal_after_pickling_copying_and_dumping():
    topology = pair()
    assert pickle.loads(pickle.dumps(topology)) == topology
    assert copy.deepcopy(topology) == topology
    assert Topology.model_validate(topology.model_dump()) == topology


def test_attributes_answer_what_selectors_ask():
    assert A.attribute("role") == "client"
    assert A.attribute("device") == "camera"
    assert A.attribute("cluster") == 1
    assert A.attribute("floor") is None
    assert B.attribute("device") is None


def test_neighbors_and_links_of_a_node_are_found():
    topology = pair()
    assert topology.neighbors("a") == ("b",)
    assert topology.links_of(["b"]) == (("a", "b"), ("b", "a"))
    assert topology.links_of([]) == ()


def test_what_was_asked_of_a_topology_leaves_it_equal_and_whole():
    asked, other = pair(), pair()
    assert asked.neighbors("b") == ("a",)
    assert asked == other
    assert pickle.loads(pickle.dumps(asked)) == other
    assert asked.model_dump() == other.model_dump()
    assert asked.neighbors("nobody") == asked.links_of(["nobody"]) == ()


def test_neighbors_and_links_come_in_the_order_of_the_file():
    names = [Node(name=name) for name in "cab"]
    links = [
        Link(source=x, target=y, bandwidth_bps=1.0, delay_s=0.0) for x, y in ("bc", "ac", "cb")
    ]
    topology = Topology.of("t", names, links)
    assert topology.neighbors("c") == ("a", "b")
    assert topology.links_of(["b", "a"]) == (("b", "c"), ("a", "c"), ("c", "b"))


@pytest.mark.parametrize(
    ("nodes", "links", "words"),
    [
        ([], [], "at least 1"),
        ([A, A.model_copy()], [], "two nodes a"),
        ([A], [AB], "there is no node b"),
        ([A, B], [AB, AB.model_copy()], "two links a → b"),
    ],
)
def test_what_is_no_network_is_refused(nodes, links, words):
    with pytest.raises(ValueError, match=words):
        Topology.of("bad", nodes, links)


@pytest.mark.parametrize(
    "wrong",
    [
        {"bandwidth_bps": 0},
        {"bandwidth_bps": float("inf")},
        {"delay_s": -1},
        {"delay_s": float("nan")},
        {"jitter_s": -0.1},
        {"loss": 1.0},
        {"target": "a"},
        {"speed": 3},
        {"burst": 0.5},
        {"loss": 0.9, "burst": 2.0},
        {"duplicate": 1.0},
        {"reorder": -0.1},
        {"reorder": 0.1, "delay_s": 0.0},
        {"corrupt": 1.0},
        {"queue_bytes": 0},
        {"queue": "red"},
        {"jitter_shape": "table"},
        {"jitter_shape": "bell"},
        {"jitter_table": (0.0, 1.0)},
        {"jitter_shape": "table", "jitter_table": (1.0, 0.0)},
        {"jitter_shape": "table", "jitter_table": (0.0,) * 16_385},
    ],
)
def test_a_link_that_can_not_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        Link(**{**AB.model_dump(), **wrong})


def test_links_that_jitter_alike_share_one_table():
    table = tuple(number / 8192 for number in range(-4096, 4096))
    jitter = {"jitter_s": 0.001, "jitter_shape": "table"}
    one = Link(**{**AB.model_dump(), **jitter, "jitter_table": table})
    two = Link(**{**BA.model_dump(), **jitter, "jitter_table": list(table)})
    assert one.jitter_table == table
    assert one.jitter_table is two.jitter_table


def test_losses_in_bursts_may_be_as_many_as_leave_a_packet_between_bursts():
    Link(**{**AB.model_dump(), "loss": 0.75, "burst": 3.0})
    with pytest.raises(ValidationError, match=r"come in bursts of 2\.9"):
        Link(**{**AB.model_dump(), "loss": 0.75, "burst": 2.9})


@pytest.mark.parametrize("name", ["", " a", "a/b", "..", "a\n", "x" * 201, "a\\b"])
def test_a_name_that_could_not_be_a_folder_is_refused(name):
    with pytest.raises(ValidationError, match="can't be a name"):
        Node(name=name)


def test_a_device_grants_no_more_than_it_has():
    with pytest.raises(ValidationError, match="can't grant"):
        Device(name="x", memory_bytes=1, grant_bytes=2, flops=1.0, source="")
