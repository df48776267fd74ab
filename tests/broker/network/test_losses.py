"""What losses do to streams: the published laws in the long run, and single recoveries by hand."""

from __future__ import annotations

import statistics
from itertools import pairwise

import pytest

from broker.network import Network, laws
from tests.broker.worlds import SECOND, directed
from topologies import Link, Transport

LONG = {"bandwidth_bps": 100e9, "delay_s": 0.05, "queue_bytes": 10**9}


def lossy(law: str = "cubic", **settings: object):
    """Two nodes; the way there is lossy."""
    links = {"bandwidth_bps": 10e6, "delay_s": 0.05, **settings}
    topology = directed(
        Link(source="a", target="b", **links),
        Link(
            source="b", target="a", bandwidth_bps=links["bandwidth_bps"], delay_s=links["delay_s"]
        ),
    )
    return topology.model_copy(update={"transport": Transport(congestion=law)})


def mean_window(law: str, loss: float, delay_s: float = 0.05, **settings: object) -> float:
    """The segments a round trip that a transfer of 60,000 gets through once it has settled."""
    topology = lossy(law, loss=loss, **{**LONG, "delay_s": delay_s, **settings})
    model = Network(topology, 1)
    count, each = 600, 100
    for number in range(count):
        model.send(0, number, "a", "b", 1_448 * each)
    at = [fate.at_ns / SECOND for fate in model.advance(10**15)]
    return (count / 2) * each / (at[-1] - at[count // 2 - 1]) * 2 * delay_s


@pytest.mark.parametrize("loss", [0.002, 0.005, 0.01, 0.02])
def test_reno_under_loss_is_as_fast_as_mathis_says(loss):
    assert mean_window("reno", loss) == pytest.approx(laws.mathis(loss), rel=0.15)


@pytest.mark.parametrize(("loss", "delay_s"), [(0.002, 0.005), (0.002, 0.1), (0.01, 0.05)])
def test_cubic_under_loss_is_as_fast_as_its_response_function_says(loss, delay_s):
    expected = laws.cubic(loss, 2 * delay_s)
    assert mean_window("cubic", loss, delay_s) == pytest.approx(expected, rel=0.2)


def test_pftk_is_mathis_where_losses_are_rare_and_less_where_timeouts_come():
    assert laws.pftk(1e-6, 0.1, 0.3) * 0.1 == pytest.approx(laws.mathis(1e-6), rel=0.01)
    assert laws.pftk(0.1, 0.1, 0.3) * 0.1 < 0.7 * laws.mathis(0.1)
    assert laws.pftk(0.001, 0.1, 0.3, window=5) == 50
    assert laws.pftk(0, 0.1, 0.3, window=5) == 50


@pytest.mark.parametrize("law", ["reno", "cubic"])
@pytest.mark.parametrize("rtt_s", [0.01, 0.3])
def test_the_loss_at_a_window_is_that_under_which_it_is_the_mean(law, rtt_s):
    for segments in (2, 30, 1_000):
        loss = laws.loss_at(law, segments, rtt_s)
        assert laws.window(law, loss, rtt_s) == pytest.approx(segments)


def test_the_bias_against_long_round_trips_is_weaker_for_cubic():
    def ratio(law: str, loss: float) -> float:
        return laws.bias(law, loss, 0.05) / laws.bias(law, loss, 0.2)

    assert ratio("reno", 1e-6) == pytest.approx(4)
    assert ratio("cubic", 1e-6) == pytest.approx(4**0.25)
    assert ratio("cubic", 0.01) == pytest.approx(4)


def delays(loss: float, segments: int, seeds: int = 400, **settings: object) -> list[float]:
    """How much later than without loss a transfer arrives, for each seed, in round trips."""
    rtt = 0.1 + (1_514 + 66) * 8 / 10e6

    def at(seed: int, loss: float) -> float:
        model = Network(lossy(loss=loss, **settings), seed)
        model.send(0, 1, "a", "b", 1_448 * segments)
        return model.advance(10**15)[0].at_ns / SECOND

    clean = at(0, 0.0)
    return [(at(seed, loss) - clean) / rtt for seed in range(seeds)]


def test_a_single_lost_segment_waits_for_its_timer():
    late = delays(0.1, 1)
    lost = [late_by for late_by in late if late_by > 0]
    assert 0.06 < len(lost) / len(late) < 0.14
    # 0.2 s and a round trip, or that and twice as much again, …
    assert min(lost) == pytest.approx(1 + 0.2 / 0.1013, rel=0.05)
    assert statistics.median(lost) == min(lost)


def test_a_segment_lost_in_a_burst_comes_a_round_trip_later():
    late = [late_by for late_by in delays(0.02, 10) if late_by > 0]
    # Of a burst of ten the last has none behind it; of the others most come one round trip later.
    early = [late_by for late_by in late if late_by < 1.5]
    assert 0.6 < len(early) / len(late) < 0.95
    assert all(late_by > 0.85 for late_by in early)
    assert max(late) > 3


def test_what_comes_behind_a_hole_arrives_with_it():
    model = Network(lossy(loss=0.05), 3)
    for number in range(300):
        model.send(number * SECOND // 100, number, "a", "b", 1_000)
    fates = model.advance(10**12)
    assert [fate.number for fate in fates] == list(range(300))
    gaps = [b.at_ns - a.at_ns for a, b in pairwise(fates)]
    assert gaps.count(0) > 20
    assert max(gaps) > 0.08 * SECOND


def test_damage_is_a_loss_to_a_stream_and_duplicates_and_reordering_are_nothing():
    damaged = delays(0.0, 10, 200, corrupt=0.02)
    assert sum(late > 0 for late in damaged) > 10
    assert delays(0.0, 10, 20, duplicate=0.3, reorder=0.3) == [0.0] * 20


def test_bursts_lose_the_same_share_in_fewer_recoveries():
    alone = mean_window("reno", 0.01)
    together = mean_window("reno", 0.01, burst=8.0)
    assert together > 1.5 * alone


def test_other_seeds_lose_other_segments_and_one_seed_the_same():
    def at(seed: int) -> int:
        model = Network(lossy(loss=0.02), seed)
        model.send(0, 1, "a", "b", 1_000_000)
        return model.advance(10**15)[0].at_ns

    assert at(1) == at(1)
    assert len({at(seed) for seed in range(10)}) > 5
