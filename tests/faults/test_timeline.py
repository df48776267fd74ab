"""A scenario, a topology and a seed become one list of concrete events."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys

import pytest

import faults
import topologies
from faults import Change, Event, ScenarioError
from faults.chance import exponential_ns


def expand(text: str, topology, seed: int = 1) -> tuple[Event, ...]:
    return faults.expand(faults.parse(text, "s.yaml"), topology, seed)


def only(text: str, topology) -> Event:
    events = expand(f"timeline:\n  - {text}\n", topology)
    assert len(events) == 1
    return events[0]


def refusal(text: str, topology) -> str:
    with pytest.raises(ScenarioError) as caught:
        expand(f"timeline:\n  - {{at: 0 s, crash: gate-0}}\n  - {text}\n", topology)
    return str(caught.value)


@pytest.mark.parametrize(
    ("selector", "nodes"),
    [
        ("box-1", ("box-1",)),
        ("phone-*", ("phone-0", "phone-1", "phone-2")),
        ('"phone-[02]"', ("phone-0", "phone-2")),
        ("role=host", ("box-0", "box-1")),
        ("cluster=0", ("gate-0", "phone-0", "box-0")),
        ("cluster=0.0", ("gate-0", "phone-0", "box-0")),
        ("device=phone-midrange", ("phone-0", "phone-1")),
        ("[box-1, role=gateway, box-*]", ("gate-0", "gate-1", "box-0", "box-1")),
    ],
)
def test_a_selector_means_nodes_in_the_order_of_the_topology(selector, nodes, small):
    assert only(f"{{at: 1 s, crash: {selector}}}", small).nodes == nodes


def test_what_only_a_run_can_know_stays_as_it_is(small):
    event = only("{at: 1 s, crash: host of phone-1}", small)
    assert (event.nodes, event.selector) == ((), "host of phone-1")


def test_a_name_is_a_name_even_when_it_reads_like_a_selector():
    topology = topologies.parse("nodes: {isle of man: {}, a=b: {}, 'x*': {}, xy: {}}")
    for name in ("isle of man", "a=b", "x*"):
        assert only(f"{{at: 1 s, crash: '{name}'}}", topology).nodes == (name,)


def test_an_attribute_or_a_pattern_may_hold_any_words():
    nodes = dict.fromkeys(("Bank of Seoul", "Bank of Busan", "c"), "{country: Republic of Korea}")
    listed = ", ".join(f"{name}: {told}" for name, told in (nodes | {"d": "{}"}).items())
    topology = topologies.parse(f"attributes: [country]\nnodes: {{{listed}}}")
    assert only('{at: 1 s, crash: "country=Republic of Korea"}', topology).nodes == tuple(nodes)
    banks = only('{at: 1 s, crash: "Bank of *"}', topology)
    assert (banks.nodes, banks.selector) == (("Bank of Seoul", "Bank of Busan"), None)
    drawn = only('{at: 1 s, crash: "any 30 % of country=Republic of Korea"}', topology)
    assert len(drawn.nodes) == 1
    assert drawn.nodes[0] in nodes


def test_a_fault_with_an_end_is_two_events_of_one_name(small):
    events = expand("timeline:\n  - {at: 2 s, crash: box-0, for: 3 s}\n", small)
    assert [(e.at_ns, e.fault, e.phase, e.kind, e.nodes) for e in events] == [
        (2 * 10**9, "1", "begin", "crash", ("box-0",)),
        (5 * 10**9, "1", "end", "crash", ("box-0",)),
    ]


def test_events_come_by_time_and_then_in_the_order_of_the_file(small):
    text = """
timeline:
  - {at: 5 s, crash: box-1, id: late}
  - {at: 1 s, crash: box-0, for: 4 s}
  - {at: 5 s, crash: gate-0}
"""
    events = expand(text, small)
    assert [(e.fault, e.phase) for e in events] == [
        ("2", "begin"), ("late", "begin"), ("2", "end"), ("3", "begin")
    ]  # fmt: skip


def test_of_a_mixed_selector_each_part_that_a_run_knows_is_an_event_by_itself(small):
    text = "timeline:\n  - {at: 1 s, crash: [box-0, host of phone-0, box-1, host of phone-1]}\n"
    events = expand(text, small)
    assert [(e.fault, e.nodes, e.selector) for e in events] == [
        ("1.1", ("box-0", "box-1"), None),
        ("1.2", (), "host of phone-0"),
        ("1.3", (), "host of phone-1"),
    ]


def test_degrading_a_link_touches_both_directions_and_oneway_only_the_first(small):
    both = only("{at: 1 s, degrade: {link: [gate-0, phone-0], delay: +1 s}}", small)
    assert both.links == (("phone-0", "gate-0"), ("gate-0", "phone-0"))
    one = only("{at: 1 s, degrade: {link: [gate-0, phone-0], oneway: true, delay: +1 s}}", small)
    assert one.links == (("gate-0", "phone-0"),)


def test_degrading_nodes_touches_all_their_links(small):
    event = only("{at: 1 s, degrade: {nodes: [phone-0, box-0], bandwidth: 10%}}", small)
    assert event.nodes == ("phone-0", "box-0")
    assert event.links == (
        ("phone-0", "gate-0"), ("gate-0", "phone-0"), ("box-0", "gate-0"), ("gate-0", "box-0")
    )  # fmt: skip


def test_a_partition_names_its_sides(small):
    event = only("{at: 1 s, partition: [[cluster=1], [cluster=0]]}", small)
    assert event.groups == (
        ("gate-1", "phone-1", "phone-2", "box-1"),
        ("gate-0", "phone-0", "box-0"),
    )
    assert set(event.nodes) == set(small.nodes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{at: 1 s, crash: box-3}", '"box-3" is no node of small. Did you mean box-1 or box-0'),
        ("{at: 1 s, crash: bx-*}", 'no node of small matches "bx-*"'),
        ("{at: 1 s, crash: rôle=host}", 'Did you mean "role"?'),
        ("{at: 1 s, crash: role=hots}", 'Did you mean "host"?'),
        ("{at: 1 s, crash: cluster=7}", "The values of cluster are 0, 1"),
        ("{at: 1 s, crash: host of phon-1}", "Did you mean phone-1"),
        ("{at: 1 s, crash: host of phone-11}", "Did you mean phone-1"),
        ("{at: 1 s, slow: {nodes: box, compute: 2x}}", '#2 > slow > nodes: "box" is no node'),
        ("{at: 1 s, partition: [[box-0], [role=host]]}", "box-0 is on two sides"),
        ("{at: 1 s, partition: [[box-0], [host of phone-1]]}", "a partition has to know before"),
        ("{at: 1 s, partition: [[box-0], []]}", "this list names nobody"),
        ("{at: 1 s, degrade: {link: [phone-0, box-0], delay: 1 s}}", "is joined to gate-0."),
        ("{at: 1 s, degrade: {link: [box-0, host of phone-0], delay: 1 s}}", "degrade: {nodes: …}"),
        ("{at: 1 s, degrade: {link: [phone-0, gate-9], delay: 1 s}}", "Did you mean gate-"),
        ("{at: 1 s, degrade: {nodes: phone-0, bandwidth: 9 Mbit/s}}", "no worse than what"),
        ("{at: 1 s, degrade: {nodes: phone-1, loss: 1 %}}", "> loss: this loss is no worse"),
        ("{at: 1 s, crash: box-0, id: 1}", 'two faults are called "1"'),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_topology_names_fault_selector_and_what_is_near(text, message, small):
    answer = refusal(text, small)
    assert message in answer
    assert answer.startswith("s.yaml:")


BAD = """
nodes: {gate-0: {}, b: {}}
links:
  - between: [gate-0, b]
    bandwidth: 1 Mbit/s
    delay: 1 ms
    loss: {mean: 1 %, burst: 3}
    duplicate: 1 %
    reorder: 2 %
    corrupt: 3 %
"""


@pytest.mark.parametrize(
    ("name", "idle", "worse"),
    [
        ("burst", "3", "3.5"),
        ("burst", "1", "4"),
        ("duplicate", "1 %", "1.1 %"),
        ("duplicate", "0.5 %", "+0.5 %"),
        ("reorder", "2 %", "3 %"),
        ("corrupt", "3 %", "4 %"),
    ],
)
def test_an_absolute_value_that_makes_nothing_worse_is_a_slip_of_the_pen(name, idle, worse):
    bad = topologies.parse(BAD)
    answer = refusal(f"{{at: 1 s, degrade: {{nodes: b, {name}: {idle}}}}}", bad)
    assert f"#2 > degrade > {name}: this {name} is no worse than what" in answer
    assert "write a worse value, or leave it out" in answer
    assert only(f"{{at: 1 s, degrade: {{nodes: b, {name}: {worse}}}}}", bad).links


def test_bursts_need_losses_and_overtaking_needs_a_delay(small):
    answer = refusal("{at: 1 s, degrade: {nodes: phone-0, burst: 5}}", small)
    assert "> burst: no loss could come in bursts" in answer
    assert "Write loss as well" in answer
    only("{at: 1 s, degrade: {nodes: phone-0, burst: 5, loss: +1 %}}", small)
    only("{at: 1 s, degrade: {nodes: phone-1, burst: 5}}", small)
    at_once = topologies.parse(
        "nodes: {gate-0: {}, b: {}}\n"
        "links: [{between: [gate-0, b], bandwidth: 1 Mbit/s, delay: 0 s}]"
    )
    answer = refusal("{at: 1 s, degrade: {nodes: b, reorder: 1 %}}", at_once)
    assert "> reorder: a packet overtakes others by skipping the delay" in answer
    only("{at: 1 s, degrade: {nodes: b, reorder: 1 %, delay: +1 ms}}", at_once)


def test_stop_pause_and_skew_strike_nodes_also_those_that_only_a_run_knows(small):
    for what in ("stop: %s", "pause: %s", "skew: {nodes: %s, offset: -1 s, drift: 5 ppm}"):
        kind = what.split(":")[0]
        known = only(f"{{at: 1 s, {what % 'role=host'}}}", small)
        assert (known.kind, known.nodes) == (kind, ("box-0", "box-1"))
        later = only(f"{{at: 1 s, {what % 'host of phone-1'}}}", small)
        resolved = faults.resolve(later, {"host of phone-1": ("box-1",)}, small)
        assert (resolved.nodes, resolved.links, resolved.change) == (("box-1",), (), known.change)
    assert known.change == Change(offset_ns=-(10**9), drift=5e-6)


def test_traffic_flows_from_each_to_each_but_from_nobody_to_itself(small):
    one = only("{at: 1 s, traffic: {from: phone-0, to: box-1, rate: 5 Mbit/s}}", small)
    assert one.links == (("phone-0", "box-1"),)
    assert one.change == Change(rate_bps=5e6)
    many = only("{at: 1 s, traffic: {from: role=host, to: [box-*, gate-0], rate: 1 bit/s}}", small)
    assert many.links == (
        ("box-0", "gate-0"), ("box-0", "box-1"), ("box-1", "gate-0"), ("box-1", "box-0")
    )  # fmt: skip


def test_traffic_needs_a_way_in_its_direction():
    islands = topologies.parse("""
nodes: {gate-0: {}, b: {}, c: {}, d: {}}
links:
  - {from: gate-0, to: b, bandwidth: 1 Mbit/s, delay: 1 ms}
  - {from: b, to: c, bandwidth: 1 Mbit/s, delay: 1 ms}
  - {from: d, to: c, bandwidth: 1 Mbit/s, delay: 1 ms}
""")
    assert only("{at: 1 s, traffic: {from: gate-0, to: c, rate: 1 bit/s}}", islands).links
    for source, target in [("c", "gate-0"), ("gate-0", "d")]:
        text = f"{{at: 1 s, traffic: {{from: {source}, to: [{target}], rate: 1 bit/s}}}}"
        answer = refusal(text, islands)
        assert f"#2 > traffic > to: there is no way from {source} to {target}" in answer


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ("from: box-0, to: box-0", "this traffic has nowhere to go"),
        ("from: box-0, to: []", "> to: this list names nobody"),
        ("from: host of phone-0, to: box-0", "> from: only a run can know"),
        ("from: box-0, to: hosts of phone-0", "traffic has to know before"),
        ("from: box-0, to: bx-0", '> to: "bx-0" is no node of small'),
        ("from: role=client, to: role=host", "these are more than 5 pairs of nodes"),
    ],
)
def test_traffic_that_can_not_flow_is_refused(ends, message, small, monkeypatch):
    monkeypatch.setattr("faults.kinds.MOST_PAIRS", 5)
    assert message in refusal(f"{{at: 1 s, traffic: {{{ends}, rate: 1 Mbit/s}}}}", small)


def test_a_node_without_links_can_not_be_degraded():
    alone = topologies.parse("nodes: {a: {}, b: {}}")
    with pytest.raises(ScenarioError, match="no link"):
        only("{at: 1 s, degrade: {nodes: a, delay: +1 s}}", alone)


def test_a_run_fills_in_what_only_it_knows(small):
    event = only("{at: 1 s, crash: host of phone-1}", small)
    facts = {"host of phone-1": ("box-1", "box-0")}
    assert faults.resolve(event, facts).nodes == ("box-1", "box-0")
    resolved = faults.resolve(event, facts, small)
    assert (resolved.nodes, resolved.selector) == (("box-0", "box-1"), None)
    assert faults.resolve(resolved, {}, small) is resolved


def test_a_resolved_degrade_also_has_its_links(small):
    event = only("{at: 1 s, degrade: {nodes: host of phone-1, delay: +1 s}}", small)
    resolved = faults.resolve(event, {"host of phone-1": ("box-1",)}, small)
    assert resolved.links == (("box-1", "gate-1"), ("gate-1", "box-1"))


def test_nobody_is_an_answer_but_not_knowing_is_an_error(small):
    event = only("{at: 1 s, crash: host of phone-1}", small)
    assert faults.resolve(event, {"host of phone-1": ()}, small).nodes == ()
    with pytest.raises(ScenarioError, match="The facts it knows are host of phone-0"):
        faults.resolve(event, {"host of phone-0": ("box-0",)}, small)
    with pytest.raises(ScenarioError, match="which is no node of small"):
        faults.resolve(event, {"host of phone-1": ("box-9",)}, small)


CHURN = "processes:\n  - churn: {nodes: %s, mean_up: 1 min, mean_down: 10 s, until: 10 h}\n"


def test_churn_crashes_each_node_by_itself_with_the_stated_means(small):
    events = expand(CHURN % "role=host", small)
    for box in ("box-0", "box-1"):
        times = [e.at_ns for e in events if e.nodes == (box,)]
        phases = [e.phase for e in events if e.nodes == (box,)]
        assert phases == ["begin", "end"] * (len(times) // 2)
        assert times == sorted(times)
        ups = [b - a for a, b in zip([0, *times[1::2]], times[::2], strict=False)]
        downs = [b - a for a, b in zip(times[::2], times[1::2], strict=True)]
        assert sum(ups) / len(ups) == pytest.approx(60e9, rel=0.2)
        assert sum(downs) / len(downs) == pytest.approx(10e9, rel=0.2)
    assert max(e.at_ns for e in events if e.phase == "begin") <= 36_000 * 10**9
    begins = [e.fault for e in events if e.phase == "begin"]
    assert begins == [f"churn-1.{n}" for n in range(1, len(begins) + 1)]


def test_churn_is_the_same_for_a_seed_and_another_for_another(small):
    assert expand(CHURN % "role=host", small, 1) == expand(CHURN % "role=host", small, 1)
    assert expand(CHURN % "role=host", small, 1) != expand(CHURN % "role=host", small, 2)


def test_times_drawn_are_exponential():
    stream = random.Random(7)
    times = [exponential_ns(stream, 10**9) / 1e9 for _ in range(20_000)]
    assert sum(times) / len(times) == pytest.approx(1.0, rel=0.03)
    assert sum(time**2 for time in times) / len(times) == pytest.approx(2.0, rel=0.05)
    for threshold in (0.1, 1.0, 3.0):
        later = sum(time > threshold for time in times) / len(times)
        assert later == pytest.approx(math.exp(-threshold), rel=0.1)


def test_one_node_more_changes_nothing_for_the_others(small):
    def crashes(text: str) -> list[int]:
        return [e.at_ns for e in expand(text, small) if e.nodes == ("box-0",)]

    assert crashes(CHURN % "box-0") == crashes(CHURN % "role=host")


def test_churn_drawn_here_is_the_churn_drawn_anywhere(small):
    """The numbers themselves: they must not depend on machine, process or version."""
    first = expand(CHURN % "box-0", small, 5)[:3]
    assert [e.at_ns for e in first] == [68_906_461_209, 71_143_565_440, 137_484_303_472]


def test_the_events_do_not_depend_on_the_hash_seed():
    script = (
        "import faults, topologies, hashlib;"
        "network = topologies.load('edge-clusters');"
        "events = [faults.expand(faults.load(name), network, 3) for name in faults.catalog()];"
        "print(hashlib.sha256(repr(events).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("nodes", "means", "message"),
    [
        ("host of phone-0", "mean_up: 1 s, mean_down: 1 s", "a churn has to know before"),
        ("role=hots", "mean_up: 1 s, mean_down: 1 s", 'Did you mean "host"?'),
        ("box-0", "mean_up: 1 ns, mean_down: 1 ns", "more than 1000 crashes"),
    ],
)
def test_a_churn_that_can_not_be_is_refused(nodes, means, message, small, monkeypatch):
    monkeypatch.setattr("faults.chance.MOST_EVENTS", 1000)
    with pytest.raises(ScenarioError, match="processes #1 > churn") as caught:
        expand(f"processes:\n  - churn: {{nodes: {nodes}, {means}}}\n", small)
    assert message in str(caught.value)
