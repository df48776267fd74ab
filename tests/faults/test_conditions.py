"""How overlapping faults compose: by the rule in `faults.conditions`, in any order."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faults import Amount, Change, Conditions, Event, Traffic
from topologies import Link

NODES = ("a", "b", "c")
LINKS = tuple(
    Link(source=x, target=y, bandwidth_bps=1e7, delay_s=0.03, jitter_s=0.007, loss=0.1)
    for x in NODES
    for y in NODES
    if x != y
)
AB = LINKS[0]


def begin(fault: str, kind: str, **fields) -> Event:
    return Event(0, fault, "begin", kind, **fields)


def end(event: Event) -> Event:
    return Event(1, event.fault, "end", event.kind)


def after(*events: Event) -> Conditions:
    conditions = Conditions()
    for event in events:
        conditions = (conditions.begin if event.phase == "begin" else conditions.end)(event)
    return conditions


def degraded(*changes: Change) -> Link:
    events = (begin(str(n), "degrade", links=(AB.ends,), change=c) for n, c in enumerate(changes))
    return after(*events).link(AB)


def test_a_node_is_down_while_any_crash_holds_it():
    first, second = begin("1", "crash", nodes=("a", "b")), begin("2", "crash", nodes=("a",))
    assert Conditions().is_up("a")
    assert not after(first, second).is_up("a")
    assert not after(first, second, end(first)).is_up("a")
    assert after(first, second, end(first)).is_up("b")
    assert after(first, second, end(first), end(second)).is_up("a")


def test_slowdowns_multiply():
    first = begin("1", "slow", nodes=("a",), change=Change(compute=4.0))
    second = begin("2", "slow", nodes=("a",), change=Change(compute=2.0))
    assert after(first).compute_factor("a") == 0.25
    assert after(first, second).compute_factor("a") == 0.125
    assert after(first, second).compute_factor("b") == 1.0
    assert after(first, second, end(first)).compute_factor("a") == 0.5


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ([("bandwidth", "relative", 0.1)], "bandwidth_bps", 1e6),
        ([("bandwidth", "relative", 0.1), ("bandwidth", "relative", 0.5)], "bandwidth_bps", 5e5),
        ([("bandwidth", "absolute", 4e6)], "bandwidth_bps", 4e6),
        ([("bandwidth", "absolute", 4e6), ("bandwidth", "absolute", 2e6)], "bandwidth_bps", 2e6),
        ([("bandwidth", "absolute", 4e6), ("bandwidth", "relative", 0.5)], "bandwidth_bps", 2e6),
        ([("bandwidth", "absolute", 4e9)], "bandwidth_bps", 1e7),
        ([("delay", "plus", 0.15)], "delay_s", 0.18),
        ([("delay", "plus", 0.15), ("delay", "plus", 0.05)], "delay_s", 0.23),
        ([("delay", "absolute", 0.5), ("delay", "absolute", 0.2)], "delay_s", 0.5),
        ([("delay", "relative", 3.0), ("delay", "plus", 0.01)], "delay_s", 0.1),
        (
            [("delay", "absolute", 0.1), ("delay", "relative", 2.0), ("delay", "plus", 1.0)],
            "delay_s",
            1.2,
        ),
        ([("jitter", "relative", 2.0)], "jitter_s", 0.014),
        ([("loss", "absolute", 0.3), ("loss", "absolute", 0.2)], "loss", 0.3),
        ([("loss", "absolute", 0.05)], "loss", 0.1),
        ([("loss", "plus", 0.5)], "loss", 0.55),
        ([("loss", "plus", 0.5), ("loss", "plus", 0.5)], "loss", 0.775),
        ([("burst", "absolute", 5.0), ("burst", "absolute", 3.0)], "burst", 5.0),
        ([("duplicate", "absolute", 0.2), ("duplicate", "plus", 0.5)], "duplicate", 0.6),
        ([("reorder", "plus", 0.25)], "reorder", 0.25),
        ([("corrupt", "absolute", 0.02), ("corrupt", "absolute", 0.01)], "corrupt", 0.02),
    ],
)  # fmt: skip
def test_the_changes_of_a_link_compose_by_the_written_rule(changes, field, value):
    link = degraded(*(Change(**{name: Amount(how, number)}) for name, how, number in changes))
    assert getattr(link, field) == pytest.approx(value, rel=1e-12)
    for other in set(Link.model_fields) - {field}:
        assert getattr(link, other) == getattr(AB, other)


def test_loss_never_reaches_certainty():
    nearly = Change(loss=Amount("plus", 0.99))
    assert degraded(*[nearly] * 40).loss < 1.0


def test_degrading_nodes_touches_every_link_at_them_and_each_link_once():
    event = begin("1", "degrade", nodes=("a", "b"), change=Change(delay=Amount("plus", 1.0)))
    conditions = after(event)
    for link in LINKS:
        touched = {"a", "b"} & set(link.ends)
        assert conditions.link(link).delay_s == (1.03 if touched else 0.03)


def test_a_link_that_nothing_touches_is_the_very_same():
    event = begin("1", "degrade", links=(("a", "c"),), change=Change(delay=Amount("plus", 1.0)))
    assert after(event).link(AB) is AB
    assert after(event, end(event)).link(LINKS[1]) is LINKS[1]


def test_a_node_is_stopped_or_paused_while_any_stop_or_pause_holds_it():
    for kind, holds in (("stop", Conditions.is_stopped), ("pause", Conditions.is_paused)):
        first, second = begin("1", kind, nodes=("a", "b")), begin("2", kind, nodes=("a",))
        assert not holds(Conditions(), "a")
        assert holds(after(first, second), "a")
        assert holds(after(first, second, end(first)), "a")
        assert not holds(after(first, second, end(first)), "b")
        assert not holds(after(first, second, end(first), end(second)), "a")
        assert after(first).is_up("a")


def skewed(*changes: Change) -> tuple[int, float]:
    events = (begin(str(n), "skew", nodes=("a",), change=c) for n, c in enumerate(changes))
    conditions = after(*events)
    assert conditions.skew("b") == (0, 0.0)
    return conditions.skew("a")


@pytest.mark.parametrize(
    ("changes", "skew"),
    [
        ([], (0, 0.0)),
        ([Change(offset_ns=-200)], (-200, 0.0)),
        ([Change(offset_ns=-200), Change(offset_ns=500, drift=5e-5)], (300, 5e-5)),
        ([Change(drift=-0.1)], (0, -0.1)),
        ([Change(drift=0.5), Change(drift=1.0)], (0, 2.0)),
        ([Change(drift=-0.5), Change(drift=-0.75)], (0, -0.875)),
    ],
)
def test_offsets_of_a_clock_add_up_and_its_rates_multiply(changes, skew):
    assert skewed(*changes) == skew


def test_however_many_drifts_there_are_time_goes_on():
    assert skewed(*[Change(drift=-0.999)] * 40)[1] > -1


def test_traffic_of_several_faults_flows_side_by_side():
    change = Change(rate_bps=5e6)
    second = begin("2", "traffic", links=(("b", "a"), ("b", "c")), change=change)
    first = begin("1", "traffic", links=(("b", "a"),), change=Change(rate_bps=1e6))
    flows = (
        Traffic("1", "b", "a", 1e6), Traffic("2", "b", "a", 5e6), Traffic("2", "b", "c", 5e6)
    )  # fmt: skip
    assert after(second, first).traffic() == flows
    assert after(second, first, end(second)).traffic() == flows[:1]
    assert after(second, first).link(AB) is AB
    assert Conditions().traffic() == ()


def test_bursts_are_as_long_as_so_many_losses_need():
    both = (Change(burst=Amount("absolute", 2.0)), Change(loss=Amount("absolute", 0.9)))
    assert degraded(*both).burst == pytest.approx(9.0)
    assert degraded(both[0]).burst == 2.0
    assert degraded(both[1]).burst == 1.0


def test_nothing_is_reordered_where_there_is_no_delay_to_skip():
    at_once = AB.model_copy(update={"delay_s": 0.0, "jitter_s": 0.0})
    reorder = begin("1", "degrade", links=(AB.ends,), change=Change(reorder=Amount("plus", 0.2)))
    delay = begin("2", "degrade", links=(AB.ends,), change=Change(delay=Amount("plus", 0.2)))
    assert after(reorder).link(at_once).reorder == 0.0
    assert after(reorder, delay).link(at_once).reorder == pytest.approx(0.2)


def test_a_node_that_has_left_is_not_up_and_one_whose_disk_is_full_is():
    leave, crash = begin("1", "leave", nodes=("a", "b")), begin("2", "crash", nodes=("a",))
    assert after(leave).has_left("a")
    assert not after(leave).is_up("a")
    assert not after(leave, crash, end(leave)).is_up("a")
    assert after(leave, crash, end(leave)).is_up("b")
    assert not after(crash).has_left("a")
    full = begin("3", "full_disk", nodes=("a",))
    assert after(full).is_disk_full("a")
    assert after(full).is_up("a")
    assert not after(full, end(full)).is_disk_full("a")


@pytest.mark.parametrize(
    ("amounts", "left"),
    [
        ([], 1000),
        ([("relative", 0.5)], 500),
        ([("relative", 0.5), ("relative", 0.1)], 50),
        ([("absolute", 300.0), ("absolute", 700.0)], 300),
        ([("absolute", 300.0), ("relative", 0.5)], 150),
        ([("absolute", 3000.0)], 1000),
        ([("relative", 0.0)], 0),
        ([("relative", 0.3333)], 333),
    ],
)
def test_of_memory_the_least_is_left_and_shares_multiply_it(amounts, left):
    events = [
        begin(str(number), "squeeze", nodes=("a",), change=Change(memory=Amount(*amount)))
        for number, amount in enumerate(amounts)
    ]
    assert after(*events).memory_bytes("a", 1000) == left
    assert after(*events).memory_bytes("b", 1000) == 1000


def test_a_link_is_cut_while_any_cut_holds_it():
    one, both = begin("1", "cut", links=(AB.ends,)), begin("2", "cut", nodes=("a",))
    assert after(one).is_cut("a", "b")
    assert not after(one).is_cut("b", "a")
    assert after(both).is_cut("b", "a")
    assert after(one, both, end(both)).is_cut("a", "b")
    assert not after(one, both, end(both), end(one)).is_cut("a", "b")
    assert after(one, both).link(AB) is AB


def test_oneway_with_nodes_touches_only_what_they_send():
    cut = begin("1", "cut", nodes=("a",), oneway=True)
    slower = Change(bandwidth=Amount("relative", 0.1))
    degrade = begin("2", "degrade", nodes=("a",), oneway=True, change=slower)
    conditions = after(cut, degrade)
    assert conditions.is_cut("a", "b")
    assert not conditions.is_cut("b", "a")
    back = next(link for link in LINKS if link.ends == ("b", "a"))
    assert conditions.link(AB).bandwidth_bps == 1e6
    assert conditions.link(back) is back


def test_who_is_behind_a_nat_is_called_by_way_of_its_gateway_or_not_at_all():
    relayed = begin("1", "nat", nodes=("a", "b"), links=(("a", "g"), ("b", "h")))
    closed = begin("2", "nat", nodes=("a",))
    assert Conditions().relays("c", "a") == ()
    assert after(relayed).relays("c", "a") == ("g",)
    assert after(relayed).relays("a", "c") == ()
    assert after(relayed).relays("a", "b") == ("h",)
    assert after(relayed).relays("g", "a") == ()
    assert after(closed).relays("c", "a") is None
    assert after(relayed, closed).relays("c", "a") is None
    assert after(relayed, closed, end(closed)).relays("c", "a") == ("g",)


def test_those_behind_one_gateway_call_each_other_and_several_nats_are_passed_in_turn():
    first = begin("1", "nat", nodes=("a", "b"), links=(("a", "g"), ("b", "g")))
    second = begin("2", "nat", nodes=("a",), links=(("a", "h"),))
    again = begin("3", "nat", nodes=("a",), links=(("a", "g"),))
    assert after(first).relays("a", "b") == ()
    assert after(first, second).relays("b", "a") == ("h",)
    assert after(first, second, again).relays("c", "a") == ("g", "h")
    assert after(second, first, again) == after(again, first, second)
    behind = begin("4", "nat", nodes=("a", "b"))
    assert after(behind).relays("a", "b") == ()


def test_what_has_changed_since_is_told_by_the_beginnings_of_what_differs():
    one, two, three = (begin(str(n), "crash", nodes=("a",)) for n in range(1, 4))
    before = after(one, two)
    assert after(one, two).since(before) == ()
    assert after(two, three).since(before) == (one, three)
    assert before.since(after(two, three)) == (one, three)
    again = begin("1", "crash", nodes=("b",))
    assert after(again, two).since(before) == (one, again)


class Side(tuple[str, ...]):
    """A side of a partition that counts how often somebody goes through it."""

    looks = 0

    def __contains__(self, name: object) -> bool:
        type(self).looks += 1
        return super().__contains__(name)

    def __iter__(self) -> Iterator[str]:
        type(self).looks += 1
        return super().__iter__()


def test_a_large_partition_is_asked_about_without_a_look_at_all_its_nodes():
    here = Side(f"a{number}" for number in range(1_000))
    there = Side(f"b{number}" for number in range(1_000))
    names = (*here, *there)
    conditions = after(begin("1", "partition", nodes=names, groups=(here, there)))
    assert Side.looks
    Side.looks = 0
    assert [conditions.blocked(name, "a0") for name in names] == [False] * 1_000 + [True] * 1_000
    assert Side.looks == 0


def test_a_partition_keeps_its_sides_apart_and_leaves_others_alone():
    conditions = after(begin("1", "partition", nodes=("a", "b"), groups=(("a",), ("b",))))
    assert conditions.blocked("a", "b")
    assert conditions.blocked("b", "a")
    assert not conditions.blocked("a", "c")
    assert not conditions.blocked("c", "b")
    assert not conditions.blocked("a", "a")


def test_a_one_way_partition_lets_the_other_way_through():
    groups = (("a",), ("b",), ("c",))
    conditions = after(begin("1", "partition", nodes=NODES, groups=groups, oneway=True))
    assert [conditions.blocked(x, y) for x, y in pairwise(NODES)] == [True, True]
    assert not conditions.blocked("b", "a")
    assert not conditions.blocked("c", "a")


def test_two_one_way_partitions_close_both_ways():
    one = begin("1", "partition", nodes=("a", "b"), groups=(("a",), ("b",)), oneway=True)
    two = begin("2", "partition", nodes=("a", "b"), groups=(("b",), ("a",)), oneway=True)
    assert after(one, two).blocked("b", "a")
    assert not after(one, two, end(two)).blocked("b", "a")


def test_conditions_are_values():
    event = begin("1", "crash", nodes=("a",))
    healthy = Conditions()
    broken = healthy.begin(event)
    assert healthy.is_up("a")
    assert healthy == Conditions()
    assert pickle.loads(pickle.dumps(broken)) == broken
    assert not pickle.loads(pickle.dumps(broken)).is_up("a")


def test_a_fault_out_of_turn_is_refused():
    event = begin("1", "crash", nodes=("a",))
    with pytest.raises(ValueError, match="holds already"):
        after(event, event)
    with pytest.raises(ValueError, match="does not hold"):
        after(end(event))
    with pytest.raises(ValueError, match="resolve"):
        after(begin("1", "crash", selector="host of a"))
    with pytest.raises(ValueError, match="is an end"):
        Conditions().begin(end(event))
    with pytest.raises(ValueError, match="is a begin"):
        after(event).end(event)


def amounts(*kinds: tuple[str, float, float]):
    return st.none() | st.one_of(
        [st.builds(Amount, st.just(how), st.floats(low, high)) for how, low, high in kinds]
    )


CHANGES = st.builds(
    Change,
    bandwidth=amounts(("absolute", 1e3, 1e8), ("relative", 1e-3, 1.0)),
    delay=amounts(("absolute", 0.0, 5.0), ("relative", 1.0, 50.0), ("plus", 0.0, 5.0)),
    jitter=amounts(("absolute", 0.0, 5.0), ("relative", 1.0, 50.0), ("plus", 0.0, 5.0)),
    loss=amounts(("absolute", 0.0, 0.9), ("plus", 0.0, 0.9)),
    burst=amounts(("absolute", 1.0, 50.0)),
    duplicate=amounts(("absolute", 0.0, 0.9), ("plus", 0.0, 0.9)),
    reorder=amounts(("absolute", 0.0, 0.9), ("plus", 0.0, 0.9)),
    corrupt=amounts(("absolute", 0.0, 0.9), ("plus", 0.0, 0.9)),
)
SKEWS = st.builds(
    Change,
    offset_ns=st.none() | st.integers(-(10**12), 10**12),
    drift=st.none() | st.floats(-0.999, 10.0),
)
PAIRS = st.lists(
    st.sampled_from([link.ends for link in LINKS]), min_size=1, unique=True
).map(tuple)  # fmt: skip
SOME = st.lists(st.sampled_from(NODES), min_size=1, unique=True).map(tuple)
SIDES = st.permutations(NODES).map(lambda nodes: ((nodes[0],), tuple(nodes[1:])))


AMOUNTS_OF_MEMORY = amounts(("absolute", 0.0, 1e9), ("relative", 0.0, 0.99)).filter(bool)
KINDS = st.one_of(
    [
        st.fixed_dictionaries({"kind": st.just(kind), "nodes": SOME})
        for kind in ("crash", "stop", "pause", "leave", "full_disk")
    ]
    + [
        st.fixed_dictionaries({"kind": st.just(kind), "nodes": SOME, "change": change})
        for kind, change in (
            ("skew", SKEWS),
            ("slow", st.builds(Change, compute=st.floats(1.0, 100.0))),
            ("squeeze", st.builds(Change, memory=AMOUNTS_OF_MEMORY)),
        )
    ]
    + [
        st.fixed_dictionaries({"kind": st.just(kind), "change": change, **whom})
        for kind, change in (("degrade", CHANGES), ("cut", st.none()))
        for whom in ({"nodes": SOME, "oneway": st.booleans()}, {"links": PAIRS})
    ]
    + [
        st.fixed_dictionaries(
            {
                "kind": st.just("traffic"),
                "links": PAIRS,
                "change": st.builds(Change, rate_bps=st.floats(1.0, 1e9)),
            }
        ),
        st.fixed_dictionaries(
            {
                "kind": st.just("partition"),
                "nodes": st.just(NODES),
                "groups": SIDES,
                "oneway": st.booleans(),
            }
        ),
        st.tuples(SOME, st.sampled_from(["", "a", "g", "h"])).map(
            lambda nat: {
                "kind": "nat",
                "nodes": nat[0],
                "links": tuple((node, nat[1]) for node in nat[0] if nat[1]),
            }
        ),
    ]
)


@st.composite
def faults_at_once(draw):
    fields = draw(st.lists(KINDS, min_size=1, max_size=6))
    return [begin(str(number), **field) for number, field in enumerate(fields)]


def everything(conditions: Conditions) -> list[object]:
    asked = ("is_up", "has_left", "is_stopped", "is_paused", "is_disk_full", "skew",
             "compute_factor")  # fmt: skip
    return [
        *(getattr(conditions, question)(node) for question in asked for node in NODES),
        *(conditions.memory_bytes(node, 10**9) for node in NODES),
        conditions.traffic(),
        *(conditions.link(link) for link in LINKS),
        *(
            question(x, y)
            for question in (conditions.blocked, conditions.is_cut, conditions.relays)
            for x in NODES
            for y in NODES
        ),
    ]


@given(faults_at_once(), st.data())
@settings(derandomize=True, deadline=None)
def test_the_order_in_which_faults_begin_does_not_matter(events, data):
    other = data.draw(st.permutations(events))
    assert after(*events) == after(*other)
    assert everything(after(*events)) == everything(after(*other))


@given(faults_at_once(), st.data())
@settings(derandomize=True, deadline=None)
def test_a_fault_that_has_ended_leaves_no_trace(events, data):
    ended = data.draw(st.lists(st.sampled_from(events), unique_by=lambda event: event.fault))
    left = [event for event in events if event not in ended]
    conditions = after(*events, *(end(event) for event in ended))
    assert conditions == after(*left)
    assert everything(conditions) == everything(after(*left))


@given(faults_at_once(), st.data())
@settings(derandomize=True, deadline=None)
def test_when_all_faults_have_ended_everything_is_exactly_what_it_was(events, data):
    ends = [end(event) for event in data.draw(st.permutations(events))]
    conditions = after(*events, *ends)
    assert conditions == Conditions()
    assert all(conditions.link(link) is link for link in LINKS)
    assert everything(conditions) == everything(Conditions())


@given(faults_at_once())
@settings(derandomize=True, deadline=None)
def test_no_fault_makes_a_link_or_a_node_better_and_none_makes_it_impossible(events):
    conditions = after(*events)
    assert all(0 < conditions.compute_factor(node) <= 1 for node in NODES)
    assert all(0 <= conditions.memory_bytes(node, 10**9) <= 10**9 for node in NODES)
    assert all(conditions.skew(node)[1] > -1 for node in NODES)
    for link in LINKS:
        now = conditions.link(link)
        assert Link.model_validate(now.model_dump()) == now
        assert now.bandwidth_bps <= link.bandwidth_bps
        assert now.delay_s >= link.delay_s
        assert now.jitter_s >= link.jitter_s
        for name in ("loss", "burst", "duplicate", "reorder", "corrupt"):
            assert getattr(now, name) >= getattr(link, name)
