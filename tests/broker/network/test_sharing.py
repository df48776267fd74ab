"""Weighted max-min fairness, as a table."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.network import Demand, Use, max_min
from tests.broker.worlds import STEADY

ONE, TWO = ("m", "n"), ("n", "o")
X, Y, Z = ("x", "o"), ("y", "o"), ("z", "o")


def demands(routes, caps=None, weights=None):
    """What flows want that cross these links."""
    return {
        flow: Demand(
            tuple(Use(link) for link in route),
            (weights or {}).get(flow, 1.0),
            (caps or {}).get(flow, math.inf),
        )
        for flow, route in routes.items()
    }


@pytest.mark.parametrize(
    ("capacity", "caps", "rates"),
    [
        # X crosses both links, Y the first, Z the second.
        ({ONE: 10, TWO: 10}, {}, {X: 5, Y: 5, Z: 5}),
        ({ONE: 10, TWO: 4}, {}, {X: 2, Y: 8, Z: 2}),
        ({ONE: 4, TWO: 10}, {}, {X: 2, Y: 2, Z: 8}),
        ({ONE: 10, TWO: 10}, {X: 1}, {X: 1, Y: 9, Z: 9}),
        ({ONE: 10, TWO: 10}, {Y: 3, Z: 7}, {X: 5, Y: 3, Z: 5}),
        ({ONE: 10, TWO: 20}, {Y: 3}, {X: 7, Y: 3, Z: 13}),
        ({ONE: 1e12, TWO: 1e12}, {X: 1e3, Y: 2e3, Z: 3e3}, {X: 1e3, Y: 2e3, Z: 3e3}),
    ],
)
def test_three_flows_over_two_links(capacity, caps, rates):
    routes = {X: (ONE, TWO), Y: (ONE,), Z: (TWO,)}
    assert max_min(demands(routes, caps), capacity) == pytest.approx(rates)


def test_weights_say_who_gets_more_of_what_they_share():
    routes = {X: (ONE, TWO), Y: (ONE,), Z: (TWO,)}
    wanted = demands(routes, weights={X: 1, Y: 4, Z: 9})
    assert max_min(wanted, {ONE: 10, TWO: 10}) == pytest.approx({X: 1, Y: 9, Z: 9})
    assert max_min(wanted, {ONE: 10, TWO: 100}) == pytest.approx({X: 2, Y: 8, Z: 98})


def test_links_of_a_medium_take_turns():
    # Of the medium's time X needs a part for each of its two links, Y for its one.
    slow, fast = Use("air", 1 / 2e6), Use("air", 1 / 8e6)
    wanted = {X: Demand((Use("air", 1 / 2e6 + 1 / 8e6),)), Y: Demand((fast,))}
    rates = max_min(wanted, {"air": 1.0})
    assert rates == pytest.approx({X: 4e6 / 3, Y: 4e6 / 3})
    assert max_min({X: Demand((slow,)), Y: Demand((fast,))}, {"air": 1.0})[X] == pytest.approx(
        1.6e6
    )


def test_nothing_to_share_is_no_error_and_what_nothing_binds_is_free():
    assert max_min({}, {}) == {}
    assert max_min({X: Demand(()), Y: Demand((), cap_bps=3)}, {}) == {X: math.inf, Y: 3}


@st.composite
def shares(draw: st.DrawFn):
    links = [(f"l{i}", f"l{i + 1}") for i in range(draw(st.integers(1, 5)))]
    capacity = {link: draw(st.floats(1e3, 1e10)) for link in links}
    flows = [(f"f{i}", "end") for i in range(draw(st.integers(1, 7)))]
    route = st.lists(st.sampled_from(links), min_size=1, unique=True).map(tuple)
    routes = {flow: draw(route) for flow in flows}
    cap = st.just(math.inf) | st.floats(1e2, 1e10)
    caps = {flow: draw(cap) for flow in flows}
    return routes, capacity, caps, {flow: draw(st.floats(0.01, 100)) for flow in flows}


@settings(STEADY, max_examples=100)
@given(shares())
def test_no_link_is_over_capacity_and_every_flow_has_a_bottleneck_or_its_cap(share):
    routes, capacity, caps, weights = share
    rates = max_min(demands(routes, caps, weights), capacity)
    load = {
        link: sum(rates[flow] for flow, route in routes.items() if link in route)
        for link in capacity
    }
    for link, bps in load.items():
        assert bps <= capacity[link] * (1 + 1e-9)
    for flow, route in routes.items():
        assert rates[flow] <= caps[flow] * (1 + 1e-9)
        capped = rates[flow] >= caps[flow] * (1 - 1e-9)
        # A bottleneck: a full link on which nobody gets more, weighed.
        bottlenecked = any(
            load[link] >= capacity[link] * (1 - 1e-9)
            and all(
                rates[other] / weights[other] <= rates[flow] / weights[flow] * (1 + 1e-9)
                for other, crosses in routes.items()
                if link in crosses
            )
            for link in route
        )
        assert capped or bottlenecked
