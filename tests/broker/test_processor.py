"""A device's time: one computation after the other, slower when the device is slower."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.processor import Processor
from tests.broker.worlds import SECOND, STEADY


def test_an_idle_device_has_no_next_end():
    assert Processor(1e9).next_end_ns() is None


def test_a_computation_takes_its_operations_over_the_speed():
    device = Processor(2e9)
    device.submit(5, 1, 1e9)
    assert device.next_end_ns() == 5 + SECOND // 2


def test_computations_follow_each_other_in_the_order_given():
    device = Processor(1e9)
    device.submit(0, 1, 2e9)
    device.submit(SECOND, 2, 1e9)
    device.submit(SECOND, 3, 0)
    assert device.finish_due(2 * SECOND - 1) == []
    assert device.finish_due(2 * SECOND) == [1]
    assert device.next_end_ns() == 3 * SECOND
    assert device.finish_due(3 * SECOND) == [2, 3]
    assert device.next_end_ns() is None


def test_a_pause_between_computations_costs_nothing():
    device = Processor(1e9)
    device.submit(0, 1, 1e9)
    device.finish_due(SECOND)
    device.submit(10 * SECOND, 2, 1e9)
    assert device.next_end_ns() == 11 * SECOND


def test_slower_and_faster_move_the_end_of_what_is_under_way():
    device = Processor(1e9)
    device.submit(0, 1, 1e9)
    device.submit(0, 2, 1e9)
    device.set_factor(SECOND // 2, 0.25)
    assert device.next_end_ns() == SECOND * 5 // 2
    device.set_factor(SECOND, 1.0)
    assert device.finish_due(SECOND * 11 // 8) == [1]
    assert device.next_end_ns() == SECOND * 19 // 8


def test_a_factor_set_while_idle_holds_for_what_comes():
    device = Processor(1e9)
    device.set_factor(7 * SECOND, 0.5)
    device.submit(9 * SECOND, 1, 1e9)
    assert device.next_end_ns() == 11 * SECOND


@STEADY
@given(
    st.lists(st.floats(0, 1e10), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 20 * SECOND), st.sampled_from([1.0, 0.5, 0.1])), max_size=5),
)
def test_no_change_of_speed_makes_or_loses_operations(jobs, changes):
    device = Processor(1e9)
    for number, flops in enumerate(jobs):
        device.submit(0, number, flops)
    ended: dict[int, int] = {}
    at, factor, done = 0, 1.0, 0.0
    for change_ns, new in [*sorted(changes), (10**18, 1.0)]:
        while (end := device.next_end_ns()) is not None and end <= change_ns:
            ended |= dict.fromkeys(device.finish_due(end), end)
            done += (end - at) * factor
            at = end
        done += (change_ns - at) * factor if len(ended) < len(jobs) else 0
        at, factor = change_ns, new
        if change_ns < 10**18:
            device.set_factor(change_ns, new)
    assert list(ended) == list(range(len(jobs)))
    assert done == pytest.approx(sum(jobs), abs=100)
