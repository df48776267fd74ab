"""The example with Flower: a federation of real processes through the proxy, faults and all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from examples.flower import federate

FLOWER = federate.flower_programs(
    Path(os.environ["ATLAS_FLOWER"]) if "ATLAS_FLOWER" in os.environ else None
)


@pytest.mark.slow
@pytest.mark.skipif(
    FLOWER is None,
    reason="needs Flower: tox -e flower, or ATLAS_FLOWER=FOLDER of its programs",
)
def test_flower_federates_three_sites_through_a_partition_and_a_slow_uplink():
    assert FLOWER is not None
    said = federate.federate(FLOWER, 2)
    rounds = said["rounds"]
    assert [one["round"] for one in rounds] == [0, 1, 2]
    assert rounds[-1]["accuracy"] > 0.9 > rounds[0]["accuracy"]
    for site in federate.SITES:
        assert said["sites"][site]["up_bytes"] > 2 * 70_000, "its weights, each round"
        assert said["sites"][site]["down_bytes"] > 2 * 70_000
    assert "partition" in federate.report(said)
