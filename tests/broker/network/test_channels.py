"""Several connections between the same two nodes: streams of their own, on one link."""

from __future__ import annotations

import pytest

from broker.network import Fate, Network
from faults import Conditions
from tests.broker.network.test_transfers import wide
from tests.broker.worlds import SECOND, crash, network, size_for

MEGABYTE = size_for(1_000_000)


def ends(model: Network) -> dict[int, Fate]:
    """How everything under way ends."""
    found: dict[int, Fate] = {}
    while (due := model.next_ns()) is not None:
        found |= {fate.number: fate for fate in model.advance(due)}
    assert model.in_flight() == 0
    return found


def test_connections_share_a_link_and_none_waits_behind_another():
    model = Network(wide(network("a-b")), 0)
    for channel in (1, 2):
        model.send(0, channel, "a", "b", MEGABYTE, channel=channel)
    took = [fate.at_ns / SECOND for fate in ends(model).values()]
    assert took == pytest.approx([2.01, 2.01], abs=0.01)


def test_messages_of_one_connection_stay_in_line():
    model = Network(wide(network("a-b")), 0)
    for number in (1, 2):
        model.send(0, number, "a", "b", MEGABYTE, channel=7)
    took = [fate.at_ns / SECOND for fate in ends(model).values()]
    assert took == pytest.approx([1.01, 2.01], abs=0.01)


def test_a_connection_that_is_closed_loses_what_was_under_way_and_frees_its_share():
    model = Network(wide(network("a-b")), 0)
    for channel in (1, 2):
        model.send(0, channel, "a", "b", MEGABYTE, channel=channel)
    model.close(SECOND, "a", "b", 1)
    found = ends(model)
    assert found[1].reason == "connection closed"
    assert found[2].at_ns / SECOND == pytest.approx(1.51, abs=0.01)


def test_after_a_close_the_same_channel_is_a_new_connection_and_to_close_none_is_nothing():
    model = Network(wide(network("a-b")), 0)
    model.close(0, "a", "b", 3)
    model.send(0, 1, "a", "b", MEGABYTE, channel=3)
    model.close(SECOND // 2, "a", "b", 3)
    model.send(SECOND // 2, 2, "a", "b", 10, channel=3)
    found = ends(model)
    assert found[1].reason == "connection closed"
    assert found[2].reason == ""


def test_losses_and_jitter_of_two_connections_are_not_the_same():
    topology = network("a-b")
    links = {
        pair: link.model_copy(update={"jitter_s": 0.002, "loss": 0.05})
        for pair, link in topology.links.items()
    }
    noisy = topology.model_copy(update={"links": links})

    def arrivals(channel: int) -> list[int]:
        model = Network(noisy, 5)
        for number in range(1, 30):
            model.send(number * SECOND // 10, number, "a", "b", 1_000, channel=channel)
        return [fate.at_ns for fate in ends(model).values()]

    assert arrivals(1) == arrivals(1)
    assert arrivals(1) != arrivals(2)


def test_a_crash_ends_all_connections_of_a_node():
    model = Network(wide(network("a-b")), 0)
    for channel in (1, 2):
        model.send(0, channel, "a", "b", MEGABYTE, channel=channel)
    (event,) = crash("b", 0.5)
    model.apply(SECOND // 2, Conditions().begin(event))
    assert [fate.reason for fate in ends(model).values()] == ["destination crashed"] * 2
