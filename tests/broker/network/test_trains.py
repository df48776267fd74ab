"""Trains of packets: what short messages do to each other, and to streams that fill a link.

8 Mbit/s carry 1,000 bytes in 1 ms, and each link takes 10 ms.
"""

from __future__ import annotations

import pytest

from broker.network import Network
from faults import Conditions
from tests.broker.worlds import SECOND, crash, degrade, directed, network, size_for
from topologies import Link

MS = SECOND // 1_000
SMALL = size_for(1_000)
STAR = network("a-hub", "b-hub", "c-hub", "d-hub")


def ends(model: Network) -> dict[int, float]:
    """When each message arrives, in ms; all do."""
    fates = model.advance(10**14)
    assert not any(fate.reason for fate in fates)
    assert model.in_flight() == 0
    return {fate.number: fate.at_ns / MS for fate in fates}


def test_messages_of_one_instant_leave_their_node_in_the_order_of_sending():
    model = Network(STAR, 0)
    for number, to in enumerate("bcdb"):
        model.send(0, number, "a", to, SMALL)
    # Two links of 10 ms; the hub forwards a packet once it has all of it.
    assert ends(model) == {number: 22.0 + number for number in range(4)}


def test_messages_of_several_nodes_queue_at_the_link_where_they_meet():
    model = Network(STAR, 0)
    for number, source in enumerate("abc"):
        model.send(0, number, source, "d", SMALL)
    model.send(MS, 3, "a", "b", SMALL)
    assert ends(model) == {0: 22.0, 1: 23.0, 2: 24.0, 3: 23.0}


def test_a_slow_link_of_one_does_not_hold_up_the_others():
    narrow = {"bandwidth_bps": 8e5, "delay_s": 0.0}
    wide = {"bandwidth_bps": 8e6, "delay_s": 0.0}
    model = Network(
        directed(
            Link(source="a", target="hub", **narrow),
            Link(source="b", target="hub", **narrow),
            Link(source="hub", target="c", **wide),
        ),
        0,
    )
    model.send(0, 0, "a", "c", SMALL)
    model.send(0, 1, "b", "c", SMALL)
    # Each takes 10 ms of its own link; the common one has room for ten such.
    assert ends(model) == {0: 11.0, 1: 11.0}


def test_datagrams_and_trains_stand_in_one_queue():
    model = Network(network("a-b"), 0)
    model.send(0, 0, "a", "b", 958, datagram=True)
    model.send(0, 1, "a", "b", SMALL)
    model.send(0, 2, "a", "b", 958, datagram=True)
    assert ends(model) == {0: 11.0, 1: 12.0, 2: 13.0}


def test_a_stream_that_fills_a_link_loses_the_time_of_trains():
    def takes(trains: int) -> float:
        model = Network(STAR, 0)
        model.send(0, 0, "a", "d", 1_000_000)
        for number in range(1, trains + 1):
            model.send((100 + 10 * number) * MS, number, "b", "d", SMALL)
        return ends(model)[0]

    assert takes(50) - takes(0) == pytest.approx(50, abs=2)


def test_ten_segments_are_a_train_and_what_is_longer_mingles_with_others():
    def last_two(segments: int) -> list[float]:
        model = Network(STAR, 0)
        for number, source in enumerate("ab"):
            model.send(0, number, source, "d", 1_448 * segments)
        return list(ends(model).values())

    one = 10 * 1.514
    assert last_two(10) == pytest.approx([20 + one + 1.514, 20 + 2 * one + 1.514])
    first, second = last_two(20)
    assert first == second


def test_a_slower_link_holds_back_what_has_not_left():
    model = Network(network("a-b"), 0)
    for number in range(10):
        model.send(0, number, "a", "b", SMALL)
    (begin,) = degrade("a", "b", 0.5, 0.0035)
    model.apply(begin.at_ns, Conditions().begin(begin))
    # Three and a half have left; a half of the fourth takes a whole millisecond now.
    expected = [11, 12, 13, *(14.5 + 2 * i for i in range(7))]
    assert list(ends(model).values()) == pytest.approx(expected, abs=1e-5)


def test_the_death_of_the_source_loses_what_still_waits_in_its_queue():
    model = Network(STAR, 0)
    for number, to in enumerate("bcdbcd"):
        model.send(0, number, "a", to, SMALL)
    (begin,) = crash("a", 0.0035)
    model.apply(begin.at_ns, Conditions().begin(begin))
    reasons = {fate.number: fate.reason for fate in model.advance(SECOND)}
    assert reasons == {0: "", 1: "", 2: "", **dict.fromkeys((3, 4, 5), "source crashed")}
    # And nobody waits behind what has gone.
    model.send(SECOND, 9, "b", "c", SMALL)
    assert ends(model) == {9: 1_022.0}


def test_a_dead_sender_leaves_no_place_taken_where_others_queue():
    model = Network(STAR, 0)
    for number in range(6):
        model.send(0, number, "a", "d", SMALL)
    (begin,) = crash("a", 0.002)
    model.apply(begin.at_ns, Conditions().begin(begin))
    model.advance(2 * MS)
    model.send(2 * MS, 9, "b", "d", SMALL)
    assert {fate.number: fate.at_ns / MS for fate in model.advance(SECOND)}[9] == 24.0


@pytest.mark.parametrize("early", [False, True])
def test_who_is_told_of_an_arrival_before_it_has_left_finds_the_rest_as_it_would_be(early):
    model = Network(network("a-b"), 0)
    model.send(0, 0, "a", "b", size_for(3_000))  # leaves within 3 ms
    told = model.arrivals(100 * MS) if early else []
    model.send(MS, 1, "a", "b", SMALL)
    model.send(2 * MS, 2, "a", "b", SMALL)
    told += model.arrivals(100 * MS) if early else []
    told += model.advance(SECOND)
    assert [(fate.number, fate.at_ns / MS) for fate in told] == [(0, 13.0), (1, 14.0), (2, 15.0)]
