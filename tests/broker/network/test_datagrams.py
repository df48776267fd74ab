"""Datagrams: each on its own, with every fate that a link can deal them."""

from __future__ import annotations

from collections import Counter

import pytest

from broker.network import Fate, Network, datagram_bytes
from faults import Conditions
from tests.broker.worlds import SECOND, crash, directed, network, partition
from topologies import InputError, Link, Transport

MS = SECOND // 1_000


def play(model: Network, count: int = 2_000, size: int = 100, gap_ns: int = MS) -> list[Fate]:
    for number in range(count):
        model.send(number * gap_ns, number, "a", "b", size, datagram=True)
    return model.advance(10**15)


def link(**settings: object) -> Link:
    return Link(source="a", target="b", **{"bandwidth_bps": 8e6, "delay_s": 0.01, **settings})


@pytest.mark.parametrize(
    ("size", "on_the_wire"),
    [(0, 42), (1_472, 1_514), (1_473, 1_549), (65_507, 65_507 + 8 + 45 * 34)],
)
def test_a_datagram_on_the_wire_has_the_headers_of_its_fragments(size, on_the_wire):
    assert datagram_bytes(size, Transport()) == on_the_wire


def test_one_takes_its_bytes_and_the_delay_of_each_link():
    model = Network(network("a-hub", "hub-b"), 0)
    (fate,) = play(model, 1, 958)
    assert fate == (0, 22 * MS, "", 0, True)
    assert model.in_flight() == 0


def test_a_train_of_fragments_is_forwarded_packet_by_packet():
    # Ten fragments of 1,514 bytes and more: the second link waits for the first of them only.
    size = 10 * 1_480 - 8
    (fate,) = play(Network(network("a-hub", "hub-b"), 0), 1, size)
    assert fate.at_ns == pytest.approx(20 * MS + 11 * 1_514_000, abs=10)


def test_one_that_is_too_large_is_refused():
    with pytest.raises(InputError, match="at most 65,507 bytes"):
        Network(network("a-b"), 0).send(0, 1, "a", "b", 65_508, datagram=True)


def test_losses_are_told_when_they_happen_and_a_fragment_loses_the_train():
    def share(size: int, **settings: object) -> float:
        fates = play(Network(directed(link(bandwidth_bps=1e9, **settings)), 1), 4_000, size)
        assert len(fates) == 4_000
        assert {fate.reason for fate in fates} == {"", "lost"}
        return Counter(fate.reason for fate in fates)["lost"] / 4_000

    assert share(100, loss=0.05) == pytest.approx(0.05, rel=0.15)
    assert share(14_000, loss=0.05) == pytest.approx(1 - 0.95**10, rel=0.05)
    assert share(100, loss=0.05, burst=10.0) == pytest.approx(0.05, rel=0.5)


def test_a_damaged_one_arrives_as_such_and_is_no_message():
    fates = play(Network(directed(link(corrupt=0.1)), 1))
    reasons = Counter(fate.reason for fate in fates)
    assert set(reasons) == {"", "corrupt"}
    assert reasons["corrupt"] == pytest.approx(200, rel=0.25)
    assert all((fate.at_ns - fate.number * MS) == 10 * MS + 142_000 for fate in fates)


def test_a_duplicate_is_a_second_fate_of_the_same_number():
    model = Network(directed(link(duplicate=0.2, loss=0.1)), 1)
    fates = play(model)
    assert model.duplicated == pytest.approx(400, rel=0.2)
    assert len(fates) == 2_000 + model.duplicated
    assert model.in_flight() == 0
    by_number: dict[int, list[Fate]] = {}
    for fate in fates:
        by_number.setdefault(fate.number, []).append(fate)
    for copies in by_number.values():
        assert [fate.last for fate in copies] == [False] * (len(copies) - 1) + [True]
        assert sorted(fate.copy for fate in copies) == list(range(len(copies)))


def test_a_reordered_one_skips_the_delay():
    fates = play(Network(directed(link(reorder=0.1)), 1))
    early = [fate for fate in fates if fate.at_ns - fate.number * MS < 10 * MS]
    assert len(early) == pytest.approx(200, rel=0.25)
    assert all(fate.at_ns - fate.number * MS == 142_000 for fate in early)
    numbers = [fate.number for fate in fates]
    assert numbers != sorted(numbers)


def test_jitter_may_reorder_them():
    numbers = [fate.number for fate in play(Network(directed(link(jitter_s=0.009)), 1))]
    assert numbers != sorted(numbers)


def test_they_queue_and_a_full_queue_drops_the_tail():
    # Ten of 1,000 bytes on the wire at once: one goes, and 5,500 bytes hold five more.
    fates = play(Network(directed(link(queue_bytes=5_500)), 0), 10, 958, gap_ns=0)
    arrived = [fate for fate in fates if not fate.reason]
    assert [fate.at_ns for fate in arrived] == [(11 + i) * MS for i in range(6)]
    assert [fate.reason for fate in fates[:4]] == ["queue full"] * 4


def test_streams_give_way_to_them():
    def takes(datagrams: int) -> float:
        model = Network(
            directed(link(), Link(source="b", target="a", bandwidth_bps=8e6, delay_s=0.01)), 0
        )
        model.send(0, 0, "a", "b", 1_000_000)
        for number in range(1, datagrams + 1):
            model.send(number * 10 * MS, number, "a", "b", 958, datagram=True)
        (end,) = [fate.at_ns for fate in model.advance(10**12) if fate.number == 0]
        return end / SECOND

    assert takes(50) - takes(0) == pytest.approx(50 * 0.001, abs=2e-3)


def test_without_a_way_or_a_destination_they_are_lost():
    model = Network(network("a-hub", "hub-b"), 0)
    events = [*crash("b", 1), *partition(["a"], ["hub"], 3), *crash("hub", 3.005, fault="hub")]
    conditions = Conditions()
    model.send(990 * MS, 1, "a", "b", 958, datagram=True)
    conditions = conditions.begin(events[0])
    model.apply(SECOND, conditions)
    model.send(SECOND, 2, "a", "b", 958, datagram=True)
    model.send(2_995 * MS, 3, "a", "hub", 958, datagram=True)
    conditions = conditions.begin(events[1])
    model.apply(3 * SECOND, conditions)
    model.send(3 * SECOND, 4, "a", "hub", 958, datagram=True)
    model.send(3 * SECOND, 5, "b", "hub", 958, datagram=True)
    assert model.advance(4 * SECOND) == [
        Fate(1, SECOND, "destination crashed"),
        Fate(2, SECOND, "destination down"),
        Fate(4, 3 * SECOND, "no route"),
        Fate(5, 3 * SECOND, "no route"),
        Fate(3, 3_006 * MS),
    ]
    assert model.in_flight() == 0
