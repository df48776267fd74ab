"""Our own topology file: short forms, precedence, and errors that a person can use."""

from __future__ import annotations

import pytest

import topologies.layout
from topologies import TopologyError, parse
from topologies.devices import devices

SMALL = """\
name: small
attributes: [floor]
kinds:
  line: {up: {bandwidth: 1 Mbit/s, delay: 9 ms}, down: {bandwidth: 8 Mbit/s}, delay: 5 ms}
nodes:
  hub: {role: gateway}
  phone: {role: client, device: phone-midrange, grant: 64 MiB, cluster: 1, floor: 2.5}
  pi-0..2: {role: host, device: raspberry-pi-4}
links:
  - {between: [phone, hub], kind: line, jitter: 1 ms, loss: 1 %}
  - {between: [pi-0..2, hub], bandwidth: 100 Mbit/s, delay: 1 ms}
  - {from: pi-0, to: pi-1, bandwidth: 1 Gbit/s, delay: 10 us}
"""


def refusal(text: str) -> str:
    with pytest.raises(TopologyError) as caught:
        parse(text, "t.yaml")
    return str(caught.value)


def test_a_file_says_nodes_devices_and_attributes():
    topology = parse(SMALL, "t.yaml")
    assert topology.name == "small"
    assert list(topology.nodes) == ["hub", "phone", "pi-0", "pi-1", "pi-2"]
    phone = topology.nodes["phone"]
    assert phone.device is not None
    assert phone.device.name == "phone-midrange"
    assert phone.device.grant_bytes == 64 * 2**20
    assert phone.attributes == {"cluster": 1, "floor": 2.5}
    assert topology.nodes["pi-2"].device == devices()["raspberry-pi-4"]
    assert topology.nodes["hub"].device is None


def test_up_and_down_win_over_what_stands_beside_them_and_a_link_over_its_kind():
    topology = parse(SMALL, "t.yaml")
    up, down = topology.links["phone", "hub"], topology.links["hub", "phone"]
    assert (up.bandwidth_bps, up.delay_s, up.jitter_s, up.loss) == (1e6, 0.009, 0.001, 0.01)
    assert (down.bandwidth_bps, down.delay_s, down.jitter_s, down.loss) == (8e6, 0.005, 0.001, 0.01)
    faster = SMALL.replace("kind: line, jitter", "kind: line, delay: 2 ms, jitter")
    topology = parse(faster, "t.yaml")
    assert topology.links["phone", "hub"].delay_s == 0.002
    assert topology.links["hub", "phone"].delay_s == 0.002


def test_an_undirected_link_has_both_directions_and_a_directed_one_has_one():
    topology = parse(SMALL, "t.yaml")
    assert ("pi-0", "pi-1") in topology.links
    assert ("pi-1", "pi-0") not in topology.links
    assert topology.links["pi-2", "hub"].delay_s == topology.links["hub", "pi-2"].delay_s == 0.001


def test_the_example_in_the_documentation_is_a_topology():
    text = topologies.layout.__doc__.split("```yaml\n")[1].split("```")[0]
    topology = parse(text, "example.yaml")
    assert len(topology.nodes) == 5
    assert topology.links["camera-3", "gateway"].bandwidth_bps == 1e6
    assert topology.links["gateway", "camera-3"].bandwidth_bps == 16e6
    assert topology.nodes["camera-1"].device.grant_bytes == 64 * 2**20


def test_a_file_without_a_name_has_the_name_of_the_file():
    assert parse(SMALL.replace("name: small\n", ""), "some/where/campus.yaml").name == "campus"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("device: phone-midrange", "devise: phone", '> devise: there is no such setting. Did you'),
        ("device: phone-midrange", "device: phone-midrang", 'Did you mean "phone-midrange"?'),
        ("floor: 2.5", "flour: 2.5", 'Did you mean "floor"?'),
        ("floor: 2.5", "colour: red", "listed under attributes, at the top"),
        ("floor: 2.5", "floor: true", "an attribute is a text or a number"),
        ("grant: 64 MiB", "grant: 64", 't.yaml:7: nodes > phone > grant: "64" has no unit'),
        ("grant: 64 MiB", "grant: 64 GiB", "can't grant"),
        ("device: phone-midrange, ", "", "only a device can grant memory"),
        ("[phone, hub]", "[phone, hubb]", 'links #1: there is no node "hubb". Did you mean hub?'),
        ("[phone, hub]", "[phone]", "t.yaml:10: links #1 > between"),
        ("kind: line", "kind: lime", 'Did you mean "line"?'),
        ("jitter: 1 ms", "jitters: 1 ms", 'Did you mean "jitter"?'),
        ("loss: 1 %", "loss: 0.01", 'links #1 > loss: "0.01" has no unit'),
        ("loss: 1 %", "loss: 100 %", "less than 1"),
        ("between: [phone, hub], ", "", "a link needs its two ends"),
        ("{from: pi-0, to: pi-1", "{from: pi-0", "a link needs its two ends"),
        ("{from: pi-0, to: pi-1", "{from: pi-0, to: pi-0", "to itself is no link"),
        ("{from: pi-0, to: pi-1", "{from: pi-0, to: hub", "there is a link pi-0 → hub already"),
        ("bandwidth: 100 Mbit/s, ", "", "the link pi-0 → hub has no bandwidth"),
        ("bandwidth: 100 Mbit/s", "bandwidth: 0 bit/s", "greater than 0"),
        ("pi-0..2: {", "pi-2..0: {", '"pi-2..0" is no range'),
        ("pi-0..2: {", "pi-0..9999999: {", "is no range"),
        ("phone: {", "pi-1: {", "there is a node pi-1 already"),
        ("phone: {", "hub: {", "this key is there twice"),
        ("hub: {role: gateway}", "hub: gateway", "a mapping of settings was expected here"),
        ("[floor]", "[role]", '"role" can\'t be the name of an attribute'),
        ("name: small", "nmae: small", 'Did you mean "name"?'),
        ("  pi-0..2:", "  a/b:", "can't be a name"),
    ],
)  # fmt: skip
def test_a_slip_of_the_pen_is_named_with_its_place_and_remedy(old, new, message):
    assert old in SMALL
    text = refusal(SMALL.replace(old, new))
    assert message in text
    assert text.startswith("t.yaml")


def test_a_file_without_nodes_is_no_topology():
    assert "nodes: this setting is missing" in refusal("name: x\n")
    assert "at least 1 item" in refusal("nodes: {}\n")
    assert "a mapping of settings was expected" in refusal("just words\n")
