"""What senders' windows do to a transfer, worked out by hand.

10 Mbit/s carry a full segment in 1.2112 ms; a round trip of 100 ms takes that and its
acknowledgment besides.
"""

from __future__ import annotations

import pytest

from broker.network import Network, laws
from broker.network.window import Window
from tests.broker.worlds import SECOND, directed, network
from topologies import Link, Transport

MS = SECOND // 1_000
SEGMENT = 1_514 * 8 / 10e6
RTT = 0.1 + SEGMENT + 66 * 8 / 10e6


def pair(**settings: object):
    """Two nodes 50 ms apart at 10 Mbit/s, each way; `settings` are of the way there."""
    both = {"bandwidth_bps": 10e6, "delay_s": 0.05}
    return directed(
        Link(source="a", target="b", **{**both, **settings}),
        Link(source="b", target="a", **both),
    )


def arrival_s(model: Network, at_s: float, segments: int, number: int = 1) -> float:
    """When the last of so many full segments arrives that are sent at that time."""
    model.send(round(at_s * SECOND), number, "a", "b", 1_448 * segments)
    (fate,) = model.advance(10**12 * 100)
    assert (fate.number, fate.reason) == (number, "")
    return fate.at_ns / SECOND - at_s


@pytest.mark.parametrize(
    ("segments", "rounds", "sent_before"),
    [(1, 0, 0), (10, 0, 0), (11, 1, 10), (30, 1, 10), (31, 2, 30), (70, 2, 30), (71, 3, 70),
     (150, 3, 70), (310, 4, 150), (1_000, 4, 150)],
)  # fmt: skip
def test_slow_start_doubles_a_window_of_ten_until_the_pipe_is_full(segments, rounds, sent_before):
    # A burst of 80 takes 97 ms, one of 160 longer than a round trip: then there are no more pauses.
    expected = rounds * RTT + (segments - sent_before) * SEGMENT + 0.05
    assert arrival_s(Network(pair(), 0), 0, segments) == pytest.approx(expected, abs=1e-7)


def test_a_connection_remembers_its_window_for_as_long_as_a_timeout():
    model = Network(pair(), 0)
    arrival_s(model, 0, 30)
    # 30 segments were sent in two rounds; the window is 40 now, and all of them go at once.
    assert arrival_s(model, 0.4, 40, 2) == pytest.approx(40 * SEGMENT + 0.05, abs=1e-7)
    # Ten seconds later it is 10 again.
    expected = 2 * RTT + 10 * SEGMENT + 0.05
    assert arrival_s(model, 10, 40, 3) == pytest.approx(expected, abs=1e-7)


def test_a_window_that_is_not_used_does_not_grow():
    model = Network(pair(), 0)
    for number in range(20):
        arrival_s(model, number * 0.11, 1, number)
    assert arrival_s(model, 2.2, 11, 99) == pytest.approx(RTT + SEGMENT + 0.05, abs=1e-7)


def test_small_messages_within_a_round_trip_share_its_window():
    model = Network(pair(), 0)
    for number in range(12):
        model.send(number * MS, number, "a", "b", 1_448)
    at = [fate.at_ns / SECOND for fate in model.advance(SECOND)]
    assert at[:10] == pytest.approx([0.05 + (i + 1) * SEGMENT for i in range(10)], abs=1e-7)
    assert at[10:] == pytest.approx([RTT + 0.05 + (i + 1) * SEGMENT for i in range(2)], abs=1e-7)


def test_a_queue_that_is_too_short_for_slow_start_costs_a_recovery():
    # Reno without HyStart doubles on until the queue overflows.
    reno = {"update": {"transport": Transport(congestion="reno")}}
    long, short = (
        arrival_s(Network(pair(queue_bytes=size).model_copy(**reno), 0), 0, 700)
        for size in (10_000_000, 20_000)
    )
    assert long == pytest.approx(4 * RTT + 550 * SEGMENT + 0.05, abs=1e-7)
    # A burst of 40 needs room for 20. What is left then is a window of less than half the pipe.
    assert long + 2 * RTT < short < 2 * long


def test_a_small_queue_leaves_the_link_idle_for_a_while():
    for law, least in (("reno", 0.75), ("cubic", 0.85)):
        assert laws.utilization(law, 0) == pytest.approx(least, abs=0.08)
        assert laws.utilization(law, 0.1) < laws.utilization(law, 0.1, flows=9) < 1
        assert laws.utilization(law, 1 / laws.BACK_OFF[law] - 1 + 1e-9) == 1
    assert laws.utilization("reno", 0) == 0.75


def test_a_window_grows_as_its_law_says():
    reno = Window("reno", 10)
    reno.size = 100
    reno.back_off()
    assert (reno.size, reno.threshold) == (50, 50)
    for _ in range(7):
        reno.grow(0, 10, reno.size)
    assert reno.size == 57
    cubic = Window("cubic", 10)
    cubic.size = 1_000.0
    cubic.back_off()
    assert cubic.size == 700
    k = (300 / 0.4) ** (1 / 3)
    rtt = 100 * MS
    for step in range(200):
        cubic.grow(step * rtt, rtt, cubic.size)
        t = (step + 1) * 0.1
        friendly = 700 + (step + 1) * laws.FRIENDLY
        assert cubic.size == pytest.approx(max(1_000 + 0.4 * (t - k) ** 3, friendly), rel=1e-6)
    cubic.time_out()
    assert cubic.size == 1


def test_one_transfer_takes_little_more_than_its_bytes_and_two_twice_that():
    def takes(*sources: str) -> list[float]:
        topology = network("a-hub", "b-hub", "hub-c", bandwidth_bps=10e6, delay_s=0.01)
        model = Network(topology, 0)
        for number, source in enumerate(sources):
            model.send(0, number, source, "c", 5_000_000)
        return [fate.at_ns / SECOND for fate in model.advance(100 * SECOND)]

    (one,) = takes("a")
    assert 1.03 <= one / (5_000_000 * 8 / 10e6) <= 1.15
    assert all(1.85 <= at / one <= 2.1 for at in takes("a", "b"))


# Queues that stand.


def test_a_stream_that_fills_a_link_leaves_a_queue_that_others_wait_in():
    def waits(**settings: object) -> float:
        links = [
            Link(source=source, target="hub", bandwidth_bps=1e9, delay_s=0.01)
            for source in ("a", "b")
        ]
        narrow = {"bandwidth_bps": 10e6, "delay_s": 0.01, **settings}
        model = Network(directed(*links, Link(source="hub", target="c", **narrow)), 0)
        model.send(0, 1, "b", "c", 100)
        (fate,) = model.advance(SECOND)
        model.send(SECOND, 2, "a", "c", 20_000_000)
        model.advance(10 * SECOND)
        cost = model.cost("b", "c")
        assert 3e6 < cost.bandwidth_bps < 8.1e6
        model.send(10 * SECOND, 3, "b", "c", 100)
        (later,) = model.advance(11 * SECOND)
        assert cost.delay_s - 0.02 == pytest.approx((later.at_ns - fate.at_ns) / 1e9 - 10, abs=2e-3)
        return cost.delay_s - 0.02

    assert 0.05 < waits() < 0.1
    assert 0.2 < waits(queue_bytes=500_000) < 0.4
    assert waits(queue="codel") == pytest.approx(0.005, abs=1e-4)


def test_an_idle_way_costs_what_its_links_do():
    topology = network("a-b", "b-c", bandwidth_bps=8e6)
    model = Network(topology, 0)
    assert model.cost("a", "c") == (8e6, 0.02, 0.0)
    assert model.cost("a", "a") == (float("inf"), 0.0, 0.0)
    lossy = Network(
        directed(Link(source="a", target="b", bandwidth_bps=1e9, delay_s=0.05, loss=0.01)), 0
    )
    bandwidth_bps, _, loss = lossy.cost("a", "b")
    assert loss == pytest.approx(0.01)
    assert bandwidth_bps == pytest.approx(1_514 * 8 / 0.1 * 12.25, rel=0.02)
    assert lossy.cost("b", "a") is None


def test_a_shorter_round_trip_gets_more_of_what_is_shared():
    def takes(queue_bytes: int) -> list[float]:
        links = [
            Link(source="near", target="hub", bandwidth_bps=1e9, delay_s=0.005),
            Link(source="far", target="hub", bandwidth_bps=1e9, delay_s=0.095),
            Link(source="hub", target="c", bandwidth_bps=10e6, delay_s=0.005,
                 queue_bytes=queue_bytes),
        ]  # fmt: skip
        model = Network(directed(*links), 0)
        model.send(0, 1, "far", "c", 10_000_000)
        model.send(0, 2, "near", "c", 10_000_000)
        return [fate.number for fate in model.advance(100 * SECOND)]

    assert takes(30_000) == [2, 1]
