"""A network small enough to know by heart: three phones and two hosts behind two gateways."""

from __future__ import annotations

import pytest

import topologies
from topologies import Topology

SMALL = """\
name: small
nodes:
  gate-0: {role: gateway, cluster: 0}
  gate-1: {role: gateway, cluster: 1}
  phone-0: {role: client, device: phone-midrange, cluster: 0}
  phone-1: {role: client, device: phone-midrange, cluster: 1}
  phone-2: {role: client, device: phone-flagship, cluster: 1}
  box-0: {role: host, device: mini-pc, cluster: 0}
  box-1: {role: host, device: laptop, cluster: 1}
links:
  - {between: [gate-0, gate-1], bandwidth: 1 Gbit/s, delay: 2 ms}
  - between: [phone-0, gate-0]
    up: {bandwidth: 2 Mbit/s}
    down: {bandwidth: 8 Mbit/s}
    delay: 20 ms
  - {between: [phone-1, gate-1], bandwidth: 8 Mbit/s, delay: 20 ms, jitter: 1 ms, loss: 1 %}
  - {between: [phone-2, gate-1], bandwidth: 8 Mbit/s, delay: 20 ms}
  - {between: [box-0, gate-0], bandwidth: 100 Mbit/s, delay: 1 ms}
  - {between: [box-1, gate-1], bandwidth: 100 Mbit/s, delay: 1 ms}
"""


@pytest.fixture(scope="session")
def small() -> Topology:
    return topologies.parse(SMALL)
