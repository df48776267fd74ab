"""Which codec a client's tensors cross in: settled by its ways, before anything can go wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import topologies
from atlas.config import (
    Aggregation,
    Drift,
    Membership,
    Recovery,
    SignatureSettings,
    Split,
    Training,
)
from atlas.crossings import choose
from atlas.models import LoraSettings
from atlas.roles import RunSettings
from topologies import Topology

NETWORK = """
nodes:
  coordinator: {role: coordinator, device: small-server}
  gateway: {role: gateway}
  near: {role: client, device: raspberry-pi-5}
  middling: {role: client, device: raspberry-pi-5}
  far: {role: client, device: raspberry-pi-5}
  host-0: {role: host, device: laptop}
  host-1: {role: host, device: laptop}
links:
  - {between: [coordinator, gateway], bandwidth: 100 Gbit/s, delay: 1 ms}
  - {between: [near, gateway], bandwidth: 100 Gbit/s, delay: 1 ms}
  - {between: [middling, gateway], bandwidth: 3.5 Gbit/s, delay: 1 ms}
  - {between: [far, gateway], bandwidth: 1 Mbit/s, delay: 1 ms}
  - {between: [host-0, gateway], bandwidth: 100 Gbit/s, delay: 1 ms}
  - {between: [host-1, gateway], bandwidth: 100 Gbit/s, delay: 1 ms}
"""


@pytest.fixture
def topology() -> Topology:
    return topologies.parse(NETWORK)


@pytest.fixture
def settings(tiny_folder: Path) -> RunSettings:
    return RunSettings(
        seed=0,
        folder=tiny_folder,
        dtype="float32",
        lora=LoraSettings(),
        training=Training(),
        split=Split(client_layers=1, codec="auto"),
        signature=SignatureSettings(),
        aggregation=Aggregation(),
        membership=Membership(),
        drift=Drift(),
        recovery=Recovery(),
        coordinator="coordinator",
        clients=("near", "middling", "far"),
        devices=("near", "middling", "far", "host-0", "host-1"),
    )


def test_each_client_has_the_codec_that_its_own_ways_ask_for(
    topology: Topology, settings: RunSettings
) -> None:
    assert choose(topology, settings) == {"near": "fp32", "middling": "bf16", "far": "int8"}


def test_what_the_config_names_is_used_by_all(topology: Topology, settings: RunSettings) -> None:
    split = settings.split.model_copy(update={"codec": "bf16"})
    chosen = choose(topology, dataclasses.replace(settings, split=split))
    assert chosen == {"near": "bf16", "middling": "bf16", "far": "bf16"}


def test_a_step_is_planned_with_the_largest_of_what_crosses(
    topology: Topology, settings: RunSettings
) -> None:
    def planned(codec: str) -> int:
        split = settings.split.model_copy(update={"codec": codec})
        there = dataclasses.replace(settings, split=split)
        return (
            dataclasses.replace(there, codecs=choose(topology, there)).step_cost(1).boundary_bytes
        )

    assert planned("auto") == planned("fp32") == 2 * planned("bf16") > 2 * planned("int8")
