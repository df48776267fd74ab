"""What a proxy is told, in a file and on the command line, and what is refused."""

from __future__ import annotations

import pytest

import topologies
from broker import proxy
from broker.proxy import Address
from topologies import InputError

NETWORK = """
name: pair
nodes: {phone: {}, shop: {}}
links: [{between: [phone, shop], bandwidth: 1 Mbit/s, delay: 10 ms}]
"""
FAULTS = """
name: bad
timeline: [{at: 1 s, crash: shop, for: 1 s}]
"""
ROUTE = "  till: {listen: 6380, forward: '127.0.0.1:6379', from: phone, to: shop}"


@pytest.fixture
def written(tmp_path):
    """Writes the files of a proxy; gives the path of its own."""
    (tmp_path / "pair.yaml").write_text(NETWORK)
    (tmp_path / "bad.yaml").write_text(FAULTS)

    def write(text: str):
        path = tmp_path / "shop.yaml"
        path.write_text(text)
        return path

    return write


def test_a_file_names_network_faults_and_routes_relative_to_itself(written):
    said = proxy.load(
        written(f"topology: pair.yaml\nfaults: bad.yaml\nseed: 4\nclock: at once\nroutes:\n{ROUTE}")
    )
    assert said.topology is not None
    assert said.faults is not None
    assert (said.topology.name, said.faults.name, said.seed, said.at_once) == (
        "pair",
        "bad",
        4,
        True,
    )
    (route,) = said.routes
    assert route == proxy.Route(
        "till", Address("127.0.0.1", 6380), Address("127.0.0.1", 6379), "phone", "shop"
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (f"topology: pair.yaml\nrotes:\n{ROUTE}", ["rotes", "Did you mean \"routes\""]),
        (f"routes:\n{ROUTE}", ["2: routes > till > from", "Name a topology"]),
        (f"topology: pair.yaml\nroutes:\n{ROUTE}".replace("phone", "fone"),
         ["routes > till > from", "Did you mean \"phone\""]),
        ("topology: pair.yaml\nroutes:\n  till: {listen: 1, forward: 2, from: phone}",
         ["routes > till > to", "missing"]),
        ("routes:\n  till: {listen: 1, forward: here}", ["routes > till > forward", "no address"]),
        ("routes:\n  till: {listen: 1, forward: 70000}", ["forward", "no address"]),
        ("routes:\n  till: {listen: 1, forward: 0}", ["forward", "port 0"]),
        ("faults: bad.yaml\nroutes: {}", ["faults", "Name a topology"]),
        ("routes: {}\nclock: never", ["clock"]),
        ("topology: nowhere.yaml", ["nowhere.yaml", "no such file"]),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_is_named_with_its_place_and_what_would_be_right(written, text, wanted):
    with pytest.raises(InputError) as refused:
        proxy.load(written(text))
    for words in wanted:
        assert words in str(refused.value)


def test_a_route_on_the_command_line_says_its_nodes_and_addresses():
    network = topologies.parse(NETWORK)
    route = proxy.route("phone@127.0.0.1:6380=shop@[::1]:6379", network)
    assert (route.source, route.target) == ("phone", "shop")
    assert (str(route.listen), str(route.forward)) == ("127.0.0.1:6380", "[::1]:6379")
    assert proxy.route("6380=6379", None).forward == Address("127.0.0.1", 6379)


@pytest.mark.parametrize("text", ["6380", "phone@1=2", "a@1=b@2", "1=x"])
def test_a_route_that_can_not_be_is_refused(text):
    with pytest.raises(InputError):
        proxy.route(text, topologies.parse(NETWORK))


@pytest.mark.parametrize("fault", ["slow: {nodes: shop, compute: 4x}", "crash: busiest host"])
def test_faults_that_real_programs_can_not_suffer_are_refused(fault):
    import faults

    scenario = faults.parse(f"name: bad\ntimeline: [{{at: 1 s, {fault}, for: 1 s}}]")
    settings = proxy.ProxySettings((), topologies.parse(NETWORK), scenario)
    with pytest.raises(InputError), proxy.running(settings):
        pass
