"""The time of a round and the memory of a host, against sums done by hand."""

import numpy as np
import pytest

from atlas.pairing import Arrangement, Capability, Problem, SpanCost, StepCost, Way, heuristic

COST = StepCost(
    own_flops=1e9,
    boundary_bytes=1_000,
    spans=(SpanCost(1, 2, 100, 10, 2e9, 500), SpanCost(2, 3, 100, 10, 4e9, 500)),
    steps=3,
)


def test_a_round_alone_is_what_its_parts_take_one_after_the_other() -> None:
    client = Capability("c", 0, 1e9, 8e3, 16e3, 0.5)
    host = Capability("h", 1_000, 2e9, 4e3, 32e3, 0.25)
    placement = Arrangement(Problem([client], [host], COST))
    for span in (0, 1):
        placement.put(0, span, 0)

    computing = 3 * (1 + 1 + 2)
    bits = 2 * 8 * (2 * 3 * 1_000 + 500)
    crossing = bits / 8e3 + bits / 4e3
    trips = 2 * 2 * (3 + 1) * 2 * (0.5 + 0.25)
    assert placement.alone[0] == pytest.approx(computing + crossing + trips)
    assert placement.round_s == pytest.approx(computing + crossing + trips)


def test_a_known_way_counts_instead_of_what_its_ends_say() -> None:
    client = Capability("c", 0, 1e9, 8e3, 16e3, 0.5)
    host = Capability("h", 1_000, 2e9, 4e3, 32e3, 0.25)
    ways = {("c", "h"): Way(1e3, 0.0), ("h", "c"): Way(2e3, 0.0)}
    problem = Problem([client], [host], COST, ways)

    bits = 8 * (2 * 3 * 1_000 + 500)
    assert problem.seconds(0, 0)[0] == pytest.approx(3 * 1 + bits / 1e3 + bits / 2e3)


def test_a_host_is_busy_for_all_it_serves_and_the_busiest_part_of_it_decides() -> None:
    wide = {"uplink_bps": 1e12, "downlink_bps": 1e12, "delay_s": 0.0}
    clients = [Capability(f"c{n}", 0, 1e12, **wide) for n in range(4)]
    host = Capability("h", 1_000, 1e9, **wide)
    placement = Arrangement(Problem(clients, [host], COST))
    for client in range(4):
        for span in (0, 1):
            placement.put(client, span, 0)

    assert placement.busy[:, 0].max() == pytest.approx(4 * 3 * 6)
    assert placement.round_s == pytest.approx(4 * 3 * 6)
    assert placement.alone.max() < 3 * 6.1


def test_the_base_of_a_span_is_held_once_and_a_session_for_each_client() -> None:
    clients = [Capability(f"c{n}", 0, 1e9, 1e9, 1e9, 0.0) for n in range(3)]
    placement = Arrangement(Problem(clients, [Capability("h", 1_000, 1e9, 1e9, 1e9, 0.0)], COST))
    for client in range(3):
        placement.put(client, 0, 0)
    assert placement.need[0] == 100 + 3 * 10

    placement.put(0, 1, 0)
    assert placement.need[0] == 2 * 100 + 4 * 10


def test_what_is_put_and_taken_again_leaves_nothing_behind(problems: list[Problem]) -> None:
    for problem in problems:
        placement = heuristic.solve(problem)
        before = placement.copy()
        hosts = [placement.take(c, s) for c, s in np.ndindex(placement.host_of.shape)]
        assert not placement.need.any()
        np.testing.assert_allclose(placement.busy, problem.fixed, atol=1e-9)
        for (client, span), host in zip(np.ndindex(placement.host_of.shape), hosts, strict=True):
            placement.put(client, span, host)
        np.testing.assert_array_equal(placement.need, before.need)
        np.testing.assert_allclose(placement.alone, before.alone)
