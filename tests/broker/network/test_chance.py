"""Jitter's distributions and the gaps between losses."""

from __future__ import annotations

import itertools
import random
import statistics

import pytest

from broker.network import Network
from broker.network.chance import Losses, least_delay_s, quantile, stream
from tests.broker.worlds import SECOND, directed
from topologies import Link


def link(**settings: object) -> Link:
    return Link(source="a", target="b", **{"bandwidth_bps": 1e9, "delay_s": 0.1, **settings})


@pytest.mark.parametrize(
    ("shape", "least", "mean", "deviation", "most"),
    [
        ("uniform", -1, 0, 3**-0.5, 1),
        ("normal", -4, 0, 1, 4),
        # (4/3) (u^(-1/3) - 1.5): its mean is 0, less the 0.033 that the cut at 4 takes off.
        ("pareto", -2 / 3, -0.033, 0.83, 4),
        ("paretonormal", -1.5, -0.025, 0.86, 4),
    ],
)
def test_shapes_of_jitter_are_those_of_netem(shape, least, mean, deviation, most):
    of = quantile(link(jitter_s=0.01, jitter_shape=shape))
    values = [of((i + 0.5) / 20_000) for i in range(20_000)]
    assert values == sorted(values)
    assert of(0.0) == pytest.approx(least)
    assert of(1.0) == pytest.approx(most, abs=1e-6)
    assert statistics.mean(values) == pytest.approx(mean, abs=0.002)
    assert statistics.pstdev(values) == pytest.approx(deviation, abs=0.03)


def test_a_measured_table_gives_each_of_its_values_as_often():
    of = quantile(link(jitter_s=0.01, jitter_shape="table", jitter_table=(-1.0, 0.0, 0.0, 3.0)))
    assert [of(u) for u in (0, 0.24, 0.25, 0.74, 0.75, 1.0)] == [-1, -1, 0, 0, 3, 3]


def test_no_delay_is_shorter_than_jitter_allows_nor_negative():
    assert least_delay_s(link(jitter_s=0.02)) == pytest.approx(0.08)
    assert least_delay_s(link(jitter_s=0.02, jitter_shape="normal")) == pytest.approx(0.02)
    assert least_delay_s(link(jitter_s=0.5)) == 0
    assert least_delay_s(link(reorder=0.1)) == 0
    assert least_delay_s(link()) == 0.1


@pytest.mark.parametrize("shape", ["uniform", "normal", "pareto", "paretonormal"])
def test_what_arrives_is_as_early_and_as_late_as_the_shape_says(shape):
    model = Network(directed(link(jitter_s=0.02, jitter_shape=shape)), 5)
    for number in range(2_000):
        model.send(number * SECOND, number, "a", "b", 10, datagram=number % 2 == 0)
    travel = [fate.at_ns / SECOND - fate.number for fate in model.advance(10_000 * SECOND)]
    of = quantile(link(jitter_s=0.02, jitter_shape=shape))
    for share in (0.05, 0.5, 0.95):
        found = sorted(travel)[int(share * len(travel))]
        assert found == pytest.approx(0.1 + 0.02 * of(share), abs=0.003)


def test_one_stream_of_chance_for_each_purpose_and_pair():
    draws = {
        stream(seed, purpose, a, b).random()
        for seed in (1, 2)
        for purpose in ("jitter", "loss")
        for a, b in (("a", "b"), ("b", "a"), ("ab", ""))
    }
    assert len(draws) == 12
    assert stream(1, "loss", "a", "b").random() == stream(1, "loss", "a", "b").random()


def lost(loss: float, burst: float, packets: int = 200_000) -> list[int]:
    chain = Losses([(loss, burst, random.Random(1))])
    found: list[int] = []
    at = chain.gap()
    while at < packets:
        found.append(at)
        at += 1 + chain.gap()
    return found


@pytest.mark.parametrize(("loss", "burst"), [(0.02, 1), (0.02, 5), (0.3, 1), (0.3, 4), (0.01, 1.5)])
def test_losses_have_the_mean_and_the_bursts_that_were_asked_for(loss, burst):
    found = lost(loss, burst)
    assert len(found) / 200_000 == pytest.approx(loss, rel=0.1)
    runs = 1 + sum(b != a + 1 for a, b in itertools.pairwise(found))
    expected = burst if burst > 1 else 1 / (1 - loss)
    assert len(found) / runs == pytest.approx(expected, rel=0.08)


def test_several_lossy_links_lose_what_any_of_them_loses():
    chain = Losses([(0.1, 1, random.Random(1)), (0.2, 3, random.Random(2))])
    assert chain.rate == pytest.approx(0.28)
    passed = sum(chain.gap() for _ in range(20_000))
    assert 20_000 / (passed + 20_000) == pytest.approx(0.28, rel=0.05)
