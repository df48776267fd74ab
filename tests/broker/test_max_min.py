"""Max-min fairness, and what holds of the whole network whatever happens."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.network import Network, Parcel, max_min, wire_bytes
from faults import Conditions
from tests.broker.worlds import SECOND, STEADY, crash, degrade, network, partition

ONE, TWO = ("m", "n"), ("n", "o")
X, Y, Z = ("x", "o"), ("y", "o"), ("z", "o")
FREE = {X: math.inf, Y: math.inf, Z: math.inf}


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
    assert max_min(routes, capacity, FREE | caps) == pytest.approx(rates)


def test_nothing_to_share_is_no_error():
    assert max_min({}, {}, {}) == {}


@st.composite
def shares(draw: st.DrawFn):
    links = [(f"l{i}", f"l{i + 1}") for i in range(draw(st.integers(1, 5)))]
    capacity = {link: draw(st.floats(1e3, 1e10)) for link in links}
    flows = [(f"f{i}", "end") for i in range(draw(st.integers(1, 7)))]
    route = st.lists(st.sampled_from(links), min_size=1, unique=True).map(tuple)
    routes = {flow: draw(route) for flow in flows}
    cap = st.just(math.inf) | st.floats(1e2, 1e10)
    return routes, capacity, {flow: draw(cap) for flow in flows}


@settings(STEADY, max_examples=100)
@given(shares())
def test_no_link_is_over_capacity_and_every_flow_has_a_bottleneck_or_its_cap(share):
    routes, capacity, caps = share
    rates = max_min(routes, capacity, caps)
    load = {
        link: sum(rates[flow] for flow, route in routes.items() if link in route)
        for link in capacity
    }
    for link, bps in load.items():
        assert bps <= capacity[link] * (1 + 1e-9)
    for flow, route in routes.items():
        assert rates[flow] <= caps[flow] * (1 + 1e-9)
        capped = rates[flow] >= caps[flow] * (1 - 1e-9)
        # A bottleneck: a full link on which nobody gets more.
        bottlenecked = any(
            load[link] >= capacity[link] * (1 - 1e-9)
            and all(
                rates[other] <= rates[flow] * (1 + 1e-9)
                for other, crosses in routes.items()
                if link in crosses
            )
            for link in route
        )
        assert capped or bottlenecked


NODES = ("a", "b", "c", "d")
FAULTS = (
    crash("c", 0.4, 1.2),
    crash("hub", 0.9, 1.6, fault="hub"),
    degrade("a", "hub", 0.1, 0.2, 1.4),
    partition(["a", "b"], ["d"], 0.5, 1.1),
)


@settings(STEADY, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2_000),
            st.sampled_from([(s, d) for s in NODES for d in NODES if s != d]),
            st.integers(0, 200_000),
        ),
        max_size=25,
    ),
    st.sets(st.integers(0, len(FAULTS) - 1)),
)
def test_whatever_happens_each_parcel_ends_once_in_order_and_not_too_early(sends, chosen):
    model = Network(network(*(f"{node}-hub" for node in NODES)), 3)
    steps = [(event.at_ns, 0, event) for i in sorted(chosen) for event in FAULTS[i]]
    parcels = {}
    for number, (ms, (source, destination), size) in enumerate(sorted(sends), start=1):
        parcels[number] = Parcel(number, source, destination, size)
        steps.append((ms * SECOND // 1_000, number, parcels[number]))
    conditions = Conditions()
    ended = []
    sent_at = {}
    for at_ns, _, step in sorted(steps, key=lambda step: step[:2]):
        ended += model.advance(at_ns)
        if isinstance(step, Parcel):
            model.send(at_ns, step)
            sent_at[step.number] = at_ns
        else:
            begins = step.phase == "begin"
            conditions = conditions.begin(step) if begins else conditions.end(step)
            model.apply(at_ns, conditions)
        ended += model.advance(at_ns)
        assert len(ended) + model.in_flight() == len(sent_at)
    while (due := model.next_ns()) is not None:
        ended += model.advance(due)
    assert sorted(fate.number for fate in ended) == sorted(parcels)
    arrived: dict[tuple[str, str], list[int]] = {}
    for fate in ended:
        parcel = parcels[fate.number]
        if fate.reason:
            assert chosen
            continue
        arrived.setdefault((parcel.source, parcel.destination), []).append(fate.number)
        least_s = wire_bytes(parcel.size_bytes) / 1e6 + 0.02
        assert fate.at_ns - sent_at[fate.number] >= least_s * SECOND - 2
    for numbers in arrived.values():
        assert numbers == sorted(numbers)
