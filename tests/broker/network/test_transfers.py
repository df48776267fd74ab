"""The network: what a transfer takes, how flows share, what faults do to what is under way.

The tables are worked out by hand: 8 Mbit/s carry 1,000,000 bytes on the wire in one second. Most
senders here have a window that is always wide enough, so that only the sharing counts; what windows
do stands in test_windows.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from broker.network import Fate, Network, wire_bytes
from faults import Conditions, Event
from tests.broker.worlds import SECOND, crash, degrade, directed, network, partition, size_for
from topologies import Link, Topology, Transport

MEGABYTE = size_for(1_000_000)
MS = SECOND // 1_000
# What a full segment takes at 8 Mbit/s, and a round trip of two links with 10 ms, its
# acknowledgment included; what a hub takes to forward a segment.
SEGMENT = FORWARD = 1_514e-6
RTT = 2 * 0.01 + SEGMENT + 66e-6
RTO = RTT + 0.2
# A timeout leaves one segment; the window doubles each round trip until 16 segments, which take
# longer than one: four round trips in which 15 segments were sent.
SLOW_START = 4 * RTT - 15 * SEGMENT


def wide(topology: Topology, **transport: object) -> Topology:
    """The same where windows and queues are never too small."""
    settings = Transport(initial_window=100_000, **transport)
    links = {
        ends: link.model_copy(update={"queue_bytes": 10**12})
        for ends, link in topology.links.items()
    }
    return topology.model_copy(update={"transport": settings, "links": links})


def fates(
    model: Network,
    sends: Sequence[tuple[float, str, int]],
    events: Sequence[Event] = (),
) -> dict[int, tuple[float, str]]:
    """Plays sends (seconds, "a>b", size) and events; gives each parcel's end, and why."""
    steps: list[tuple[int, int, object]] = [(event.at_ns, 0, event) for event in events]
    for number, (at_s, ends, size) in enumerate(sends, start=1):
        steps.append((round(at_s * SECOND), 1, (number, *ends.split(">"), size)))
    conditions = Conditions()
    ended: list[Fate] = []
    for at_ns, _, step in sorted(steps, key=lambda step: step[:2]):
        if isinstance(step, tuple):
            model.send(at_ns, *step)
        else:
            begins = step.phase == "begin"
            conditions = conditions.begin(step) if begins else conditions.end(step)
            model.apply(at_ns, conditions)
    while (due := model.next_ns()) is not None:
        ended += model.advance(due)
    assert [fate.at_ns for fate in ended] == sorted(fate.at_ns for fate in ended)
    assert model.in_flight() == 0
    numbers = [fate.number for fate in ended]
    assert sorted(numbers) == list(range(1, len(sends) + 1))
    return {fate.number: (fate.at_ns / SECOND, fate.reason) for fate in ended}


def ends(*args: object, **options: object) -> list[float]:
    """The same, of parcels that all arrive: just when."""
    found = fates(*args, **options)
    assert not any(reason for _, reason in found.values())
    return [pytest.approx(at_s, abs=1e-8) for _, (at_s, _) in sorted(found.items())]


@pytest.mark.parametrize(
    ("size", "on_the_wire"),
    [(0, 66), (1, 67), (1_448, 1_514), (1_449, 1_581), (14_480, 15_140)],
)
def test_each_segment_on_the_wire_has_headers(size, on_the_wire):
    assert wire_bytes(size) == on_the_wire


# One flow.


def test_a_transfer_takes_its_bytes_over_the_bandwidth_and_the_delay():
    model = Network(wide(network("a-b")), 0)
    assert ends(model, [(0.5, "a>b", size_for(1_000))]) == [0.5 + 0.001 + 0.01]


def test_over_several_links_the_slowest_counts_once_and_every_delay():
    topology = directed(
        Link(source="a", target="b", bandwidth_bps=80e6, delay_s=0.001),
        Link(source="b", target="c", bandwidth_bps=8e6, delay_s=0.020),
        Link(source="c", target="d", bandwidth_bps=16e6, delay_s=0.300),
    )
    assert ends(Network(wide(topology), 0), [(0, "a>d", MEGABYTE)]) == [
        1.321 + FORWARD / 10 + FORWARD / 2
    ]


def test_each_direction_of_a_link_is_on_its_own():
    topology = directed(
        Link(source="phone", target="gate", bandwidth_bps=2e6, delay_s=0.020),
        Link(source="gate", target="phone", bandwidth_bps=8e6, delay_s=0.050),
    )
    sends = [(0, "phone>gate", MEGABYTE), (0, "gate>phone", MEGABYTE)]
    assert ends(Network(wide(topology), 0), sends) == [4.020, 1.050]


def test_messages_of_one_flow_queue_behind_each_other():
    sends = [(0, "a>b", MEGABYTE), (0, "a>b", MEGABYTE), (1.5, "a>b", MEGABYTE)]
    assert ends(Network(wide(network("a-b")), 0), sends) == [1.01, 2.01, 3.01]


def test_a_message_to_oneself_arrives_at_once():
    assert ends(Network(wide(network("a-b")), 0), [(2, "a>a", MEGABYTE)]) == [2.0]


def test_jitter_never_reorders_a_flow_and_is_the_seeds():
    link = Link(source="a", target="b", bandwidth_bps=80e6, delay_s=0.05, jitter_s=0.04)
    sends = [(i // 2 * 0.1, "a>b", 100) for i in range(200)]

    def arrivals(seed: int) -> list[float]:
        found = fates(Network(directed(link), seed), sends)
        return [at_s for _, (at_s, _) in sorted(found.items())]

    first = arrivals(1)
    assert first == sorted(first)
    travel = [at_s - sent_s for at_s, (sent_s, _, _) in zip(first, sends, strict=True)]
    assert min(travel) < 0.03
    assert max(travel) > 0.07
    assert all(0.01 <= seconds <= 0.0901 for seconds in travel)
    assert arrivals(1) == first
    assert arrivals(2) != first


# Flows that meet.


def test_two_flows_share_a_bottleneck_and_each_takes_twice_the_time():
    model = Network(wide(network("a-hub", "b-hub", "hub-c")), 0)
    assert ends(model, [(0, "a>c", MEGABYTE), (0, "b>c", MEGABYTE)]) == [2.02 + FORWARD] * 2


def test_a_flow_gets_all_of_the_link_once_the_other_has_ended():
    model = Network(wide(network("a-hub", "b-hub", "hub-c")), 0)
    # Alone for 0.5 s; then half each, so a needs 1 s more, in which b gets half of its own through.
    assert ends(model, [(0, "a>c", MEGABYTE), (0.5, "b>c", MEGABYTE)]) == [
        1.52 + FORWARD,
        2.02 + FORWARD,
    ]


def test_a_flow_with_much_to_send_does_not_hold_up_the_other():
    model = Network(wide(network("a-hub", "b-hub", "hub-c")), 0)
    sends = [(0, "a>c", MEGABYTE) for _ in range(9)] + [(0, "b>c", MEGABYTE)]
    assert ends(model, sends)[-1] == 2.02 + FORWARD


def test_flows_on_other_links_do_not_feel_each_other():
    model = Network(wide(network("a-b", "c-d")), 0)
    assert ends(model, [(0, "a>b", MEGABYTE), (0, "c>d", MEGABYTE)]) == [1.01, 1.01]


def test_what_one_flow_can_not_use_the_other_gets():
    topology = directed(
        Link(source="a", target="hub", bandwidth_bps=2e6, delay_s=0),
        Link(source="b", target="hub", bandwidth_bps=80e6, delay_s=0),
        Link(source="hub", target="c", bandwidth_bps=8e6, delay_s=0),
    )
    # a: 2 Mbit/s by its own link; b: the other 6 of the 8.
    sends = [(0, "a>c", MEGABYTE), (0, "b>c", MEGABYTE)]
    assert ends(Network(wide(topology), 0), sends) == [4.0 + FORWARD, 8 / 6 + FORWARD / 10]


# Faults.


def test_what_is_under_way_is_planned_anew_when_its_link_gets_slower():
    # Half at full speed, half at a tenth.
    model = Network(wide(network("a-b")), 0)
    assert ends(model, [(0, "a>b", MEGABYTE)], degrade("a", "b", 0.1, 0.5)) == [5.51]


def test_and_again_when_the_link_is_well():
    # 0.5 s full, 1 s at a tenth, the other 0.4 full.
    model = Network(wide(network("a-b")), 0)
    assert ends(model, [(0, "a>b", MEGABYTE)], degrade("a", "b", 0.1, 0.5, 1.5)) == [1.91]


@pytest.mark.parametrize(
    ("until_s", "resumes_s"),
    [(0.6, 0.5 + RTO), (0.7, 0.5 + RTO), (0.73, 0.5 + 3 * RTO), (1.5, 0.5 + 7 * RTO)],
)
def test_a_partition_stalls_a_stream_until_the_doubled_timer_fires_after_it(until_s, resumes_s):
    # Stalled at 0.5 s: the timer fires after RTO, then twice that, then four times that.
    model = Network(wide(network("a-b")), 0)
    sends = [(0, "a>b", MEGABYTE), (0.55, "a>b", MEGABYTE)]
    found = ends(model, sends, partition(["a"], ["b"], 0.5, until_s))
    assert found == [resumes_s + SLOW_START + 0.51, resumes_s + SLOW_START + 1.51]


def test_a_stalled_flow_leaves_its_share_to_the_others():
    model = Network(wide(network("a-hub", "b-hub", "hub-c")), 0)
    sends = [(0, "a>c", MEGABYTE), (0, "b>c", MEGABYTE)]
    # Until 1 s half each, then b alone: done at 1.5 s. a goes on after seven times the timer, and
    # sends 31 segments in five round trips before its pipe is full again.
    rtt = 2 * RTT
    resumes = 1 + 7 * (rtt + 0.2)
    found = ends(model, sends, partition(["a"], ["c"], 1, 2))
    assert found == [resumes + 5 * rtt - 31 * SEGMENT + 0.52 + FORWARD, 1.52 + FORWARD]


def test_without_a_path_for_long_the_stream_gives_up():
    model = Network(wide(network("a-b"), timeout_s=5), 0)
    sends = [(0, "a>b", MEGABYTE), (2, "a>b", 1), (9, "a>b", 1)]
    found = fates(model, sends, partition(["a"], ["b"], 0.5))
    assert found == {
        1: (5.5, "stream timeout"),
        2: (5.5, "stream timeout"),
        3: (14.0, "stream timeout"),
    }


def test_the_death_of_the_destination_loses_all_that_was_for_it():
    model = Network(wide(network("a-b", delay_s=1)), 0)
    sends = [
        (0, "a>b", MEGABYTE),
        (0, "a>b", MEGABYTE),
        (0, "a>b", 1),
        (2, "a>b", 1),
        (4, "a>b", 0),
    ]
    found = fates(model, sends, crash("b", 1.5, 3))
    assert found == {
        1: (1.5, "destination crashed"),  # travelling
        2: (1.5, "destination crashed"),  # draining
        3: (1.5, "destination crashed"),  # queued
        4: (2.0, "destination down"),
        5: (pytest.approx(5 + 66e-6), ""),
    }


def test_the_death_of_the_source_loses_what_had_not_left_it():
    model = Network(wide(network("a-b", delay_s=1)), 0)
    sends = [(0, "a>b", MEGABYTE), (0, "a>b", MEGABYTE), (0, "a>b", 1)]
    found = fates(model, sends, crash("a", 1.5, 3))
    assert found == {
        1: (2.0, ""),
        2: (1.5, "source crashed"),
        3: (1.5, "source crashed"),
    }


def test_the_dead_take_nothing_from_others():
    def takes(*sends: tuple[float, str, int]) -> float:
        topology = network("a-hub", "b-hub", "hub-c")
        return fates(Network(topology, 0), sends, crash("a", 0.005))[len(sends)][0]

    # It dies within its first window, and the rest of it goes with it.
    late = (0.03, "b>c", MEGABYTE)
    assert takes((0, "a>c", MEGABYTE), late) == pytest.approx(takes(late), abs=1e-6)


def test_an_arrival_at_the_instant_of_the_crash_is_lost():
    model = Network(wide(network("a-b")), 0)
    found = fates(model, [(0, "a>b", MEGABYTE)], crash("b", 1.01))
    assert found == {1: (1.01, "destination crashed")}


def test_the_rest_takes_another_route_when_a_gateway_dies():
    topology = directed(
        Link(source="a", target="near", bandwidth_bps=8e6, delay_s=0.01),
        Link(source="near", target="b", bandwidth_bps=8e6, delay_s=0.01),
        Link(source="a", target="far", bandwidth_bps=4e6, delay_s=0.1),
        Link(source="far", target="b", bandwidth_bps=4e6, delay_s=0.1),
    )
    model = Network(wide(topology), 0)
    assert [link.target for link in model.route("a", "b")] == ["near", "b"]
    # Half of it at 8 Mbit/s by the near one, half at 4 by the far one.
    sends = [(0, "a>b", MEGABYTE), (2, "a>b", MEGABYTE)]
    assert ends(model, sends, crash("near", 0.5, 2)) == [1.7 + 2 * FORWARD, 3.02 + FORWARD]


def test_a_route_is_the_shortest_by_delay_and_then_by_hops():
    topology = directed(
        Link(source="a", target="b", bandwidth_bps=1e3, delay_s=0.02),
        Link(source="a", target="m", bandwidth_bps=1e9, delay_s=0.01),
        Link(source="m", target="b", bandwidth_bps=1e9, delay_s=0.01),
        Link(source="m", target="c", bandwidth_bps=1e9, delay_s=0.01),
        Link(source="b", target="c", bandwidth_bps=1e9, delay_s=0.001),
    )
    model = Network(wide(topology), 0)
    assert [link.target for link in model.route("a", "b")] == ["b"]
    assert [link.target for link in model.route("a", "c")] == ["m", "c"]
    assert model.route("c", "a") is None
    assert model.route("c", "c") == ()


@pytest.mark.parametrize("trouble", [{}, {"loss": 0.01}, {"jitter_s": 0.002}], ids=str)
@pytest.mark.parametrize("gap_ns", [0, 1_000, 5_000_000])
@pytest.mark.parametrize("apart_ns", [0, 1_000, 120_000, 3_000_000])
@pytest.mark.parametrize("bandwidth_bps", [1e7, 1e9])
def test_messages_handed_over_together_fare_as_those_handed_over_one_by_one(
    trouble, gap_ns, apart_ns, bandwidth_bps
):
    """Alone, with another stream beside it, idle or not, within the window and beyond it, at one
    instant or at several.
    """
    topology = directed(
        Link(source="a", target="b", bandwidth_bps=bandwidth_bps, delay_s=0.01, **trouble),
        Link(source="b", target="a", bandwidth_bps=bandwidth_bps, delay_s=0.01),
        Link(source="c", target="a", bandwidth_bps=2 * bandwidth_bps, delay_s=0.01),
    )
    fates = []
    for together in (True, False):
        model = Network(topology, 5)
        number, at_ns = 1, 1_000_000
        told = []
        for source, size, count in [
            ("a", 100, 3), ("a", 2_000, 40), ("c", 700, 5), ("a", 100, 60), ("c", 9_000, 30),
            ("c", 100, 300), ("a", 100, 9),
        ] * 3:  # fmt: skip
            instants = [at_ns + place * apart_ns for place in range(count)]
            if together:
                model.send_alike(instants, number, source, "b", size)
            else:
                for following, instant in enumerate(instants, number):
                    model.send(instant, following, source, "b", size)
            number += count
            at_ns = instants[-1] + gap_ns
            told += model.advance(at_ns)
            told += model.arrivals(at_ns + 5_000_000)
        fates.append((model.in_flight(), told + model.advance(3600 * SECOND), model.in_flight()))
    assert fates[0] == fates[1]
    assert len(fates[0][1]) == number - 1
