"""Every kind of fault can be written under its name, and becomes concrete events."""

from __future__ import annotations

import pytest

import faults
import topologies
from faults import Amount, Change, Event, ScenarioError

SECOND = 10**9


def expand(entry: str, topology, seed: int = 1) -> tuple[Event, ...]:
    return faults.expand(faults.parse(f"timeline:\n  - {entry}\n", "s.yaml"), topology, seed)


def refusal(entry: str, topology) -> str:
    with pytest.raises(ScenarioError) as caught:
        expand(entry, topology)
    assert str(caught.value).startswith("s.yaml:2: timeline #1")
    return str(caught.value)


def begins(events: tuple[Event, ...]) -> list[tuple[float, str, str]]:
    return [(e.at_ns / SECOND, e.fault, e.kind) for e in events if e.phase == "begin"]


PLUS = Amount("plus", 0.02)


@pytest.mark.parametrize(
    ("entry", "change"),
    [
        ("loss: {nodes: box-0, chance: +2 %}", Change(loss=PLUS)),
        (
            "burst_loss: {nodes: box-0, chance: +2 %, burst: 8}",
            Change(loss=PLUS, burst=Amount("absolute", 8.0)),
        ),
        ("corrupt: {nodes: box-0, chance: +2 %}", Change(corrupt=PLUS)),
        ("duplicate: {nodes: box-0, chance: +2 %}", Change(duplicate=PLUS)),
        ("reorder: {nodes: box-0, chance: +2 %}", Change(reorder=PLUS)),
    ],
)
def test_some_kinds_are_a_degrade_by_the_name_that_people_know(entry, change, small):
    (event,) = expand(f"{{at: 1 s, {entry}}}", small)
    assert (event.kind, event.nodes, event.change) == ("degrade", ("box-0",), change)
    assert event.links == (("box-0", "gate-0"), ("gate-0", "box-0"))


def test_oneway_with_nodes_is_only_what_they_send(small):
    (event,) = expand("{at: 1 s, degrade: {nodes: 'box-*', oneway: true, delay: +1 s}}", small)
    assert event.links == (("box-0", "gate-0"), ("box-1", "gate-1"))
    assert event.text == "degrade links from box-0, box-1: delay +1 s"
    later = "{at: 1 s, cut: {nodes: host of phone-0, oneway: true}}"
    resolved = faults.resolve(expand(later, small)[0], {"host of phone-0": ("box-1",)}, small)
    assert resolved.links == (("box-1", "gate-1"),)


def test_who_joins_has_been_away_from_the_start(small):
    events = expand("{at: 60 s, join: role=host}", small)
    assert [(e.at_ns // SECOND, e.phase, e.kind, e.nodes) for e in events] == [
        (0, "begin", "leave", ("box-0", "box-1")), (60, "end", "leave", ("box-0", "box-1"))
    ]  # fmt: skip
    stay = expand("{at: 60 s, join: box-0, for: 20 s}", small)
    assert [(e.at_ns // SECOND, e.fault, e.phase) for e in stay] == [
        (0, "1.1", "begin"), (60, "1.1", "end"), (80, "1.2", "begin")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ("{at: 10 s, leave: box-0}", "box-0 has gone for good before"),
        ("{at: 10 s, crash: role=host}", "box-0 has gone for good before"),
        ("{at: 80 s, join: 'box-*'}", "box-0 joins by another fault"),
    ],
)
def test_who_joins_is_not_taken_away_by_another_fault_as_well(other, why, small):
    text = "timeline:\n  - {at: 60 s, join: [phone-0, box-0]}\n"
    with pytest.raises(ScenarioError) as caught:
        faults.expand(faults.parse(f"{text}  - {other}\n", "s.yaml"), small, 1)
    assert f"> join: {why}" in str(caught.value)
    assert "write a leave with for" in str(caught.value)


@pytest.mark.parametrize(
    "other",
    ["{at: 10 s, leave: box-0, for: 5 s}", "{at: 70 s, leave: box-0}", "{at: 10 s, leave: box-1}"],
)
def test_who_joins_may_have_gone_for_a_while_or_go_later(other, small):
    text = f"timeline:\n  - {{at: 60 s, join: box-0}}\n  - {other}\n"
    assert faults.expand(faults.parse(text), small, 1)


def test_a_flap_is_a_cut_again_and_again_until_it_is_over(small):
    events = expand(
        "{at: 10 s, flap: {link: [box-0, gate-0], down: 2 s, up: 3 s}, for: 11 s}", small
    )
    assert [(e.at_ns // SECOND, e.fault, e.phase, e.kind) for e in events] == [
        (10, "1.1", "begin", "cut"), (12, "1.1", "end", "cut"),
        (15, "1.2", "begin", "cut"), (17, "1.2", "end", "cut"),
        (20, "1.3", "begin", "cut"), (21, "1.3", "end", "cut"),
    ]  # fmt: skip
    assert all(len(event.links) == 2 for event in events)


def test_a_squeeze_leaves_a_share_or_so_many_bytes(small):
    (part,) = expand("{at: 1 s, squeeze: {nodes: box-0, memory: 25 %}}", small)
    assert part.change == Change(memory=Amount("relative", 0.25))
    (most,) = expand("{at: 1 s, squeeze: {nodes: box-0, memory: 64 MiB}}", small)
    assert most.change == Change(memory=Amount("absolute", 64 * 2**20))
    assert most.text == "squeeze box-0: memory 64 MiB"
    # Who only a run knows may have any device, one with a device is enough, and dice may miss it.
    expand("{at: 1 s, squeeze: {nodes: any 1 of gate-*, memory: 1 TiB}}", small)
    expand("{at: 1 s, squeeze: {nodes: [gate-0, box-0], memory: 64 MiB}}", small)
    expand("{at: 1 s, squeeze: {nodes: host of phone-0, memory: 1 TiB}}", small)


def test_behind_a_nat_each_has_the_nearest_gateway(small):
    (event,) = expand("{at: 0 s, nat: {nodes: role=client, gateway: 'gate-*'}}", small)
    assert event.links == (("phone-0", "gate-0"), ("phone-1", "gate-1"), ("phone-2", "gate-1"))
    assert event.text == "nat phone-0, phone-1, phone-2 behind gate-0, gate-1"
    (closed,) = expand("{at: 0 s, nat: {nodes: phone-1}}", small)
    assert (closed.nodes, closed.links) == (("phone-1",), ())


def test_of_equally_near_gateways_the_first_relays():
    ring = topologies.parse(
        "nodes: {a: {}, b: {}, c: {}, d: {}, e: {}}\n"
        "links:\n"
        + "".join(
            f"  - {{between: [{x}, {y}], bandwidth: 1 Mbit/s, delay: 1 ms}}\n"
            for x, y in ("bc", "cd", "da", "ab", "ce")
        )
    )
    (event,) = expand("{at: 0 s, nat: {nodes: [c, e], gateway: [d, b]}}", ring)
    assert event.links == (("c", "b"), ("e", "b"))


def test_others_are_all_whom_a_partition_does_not_name(small):
    (event,) = expand("{at: 1 s, partition: [[others], [box-0], [cluster=1]]}", small)
    assert event.groups == (
        ("gate-0", "phone-0"), ("box-0",), ("gate-1", "phone-1", "phone-2", "box-1")
    )  # fmt: skip


def test_a_full_disk_and_a_leave_strike_nodes(small):
    for kind in ("full_disk", "leave"):
        (event,) = expand(f"{{at: 1 s, {kind}: role=host}}", small)
        assert (event.kind, event.nodes) == (kind, ("box-0", "box-1"))
    assert expand("{at: 1 s, full_disk: box-0}", small)[0].text == "full disk box-0"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{at: 9 s, crash: []}", "#1 > crash: this list names nobody. Name somebody, or leave"),
        ("{at: 9 s, slow: {nodes: [], compute: 2x}}", "slow > nodes: this list names nobody"),
        ("{at: 9 s, slow: {nodes: box-0, compute: 1x}}", "slow > compute: this slows nothing"),
        ("{at: 9 s, slow: {nodes: 'gate-*', compute: 2x}}", "gate-0, gate-1 have no device"),
        ("{at: 9 s, squeeze: {nodes: gate-0, memory: 50 %}}", "nodes: gate-0 has no device"),
        ("{at: 9 s, degrade: {nodes: box-0, bandwidth: 100 %}}", "this bandwidth makes no link"),
        ("{at: 9 s, degrade: {nodes: box-0, delay: 1x}}", "this delay makes no link worse"),
        ("{at: 9 s, degrade: {nodes: box-0, delay: +0 ms}}", "this delay makes no link worse"),
        ("{at: 9 s, degrade: {nodes: box-0, loss: +0 %}}", "this loss makes no link worse"),
        (
            "{at: 9 s, loss: {nodes: host of phone-0, chance: 0 %}}",
            "loss > chance: this loss makes",
        ),
        ("{at: 0 s, join: box-0}", "at the start there is nobody to join yet"),
        ("{at: 9 s, join: host of phone-0}", "join: only a run can know"),
        ("{at: 9 s, flap: {nodes: box-0, down: 1 s, up: 1 s}}", "a flap needs an end"),
        ("{at: 9 s, flap: {nodes: box-0, down: 1 ns, up: 1 ns}, for: 1 h}", "more than"),
        ("{at: 9 s, flap: {nodes: box-0, down: 1 s}, for: 1 h}", "up: this setting is missing"),
        ("{at: 9 s, squeeze: {nodes: box-0, memory: 100 %}}", "takes no memory away"),
        ("{at: 9 s, squeeze: {nodes: box-0, memory: 1 TiB}}", "which is all that is granted"),
        ("{at: 9 s, squeeze: {nodes: box-0, memory: 5}}", '"5" has no unit'),
        ("{at: 9 s, squeeze: {nodes: box-0, memory: +5 MB}}", '"+5 MB" is not a size'),
        ("{at: 9 s, loss: {nodes: phone-1, chance: 1 %}}", "loss > chance: this loss is no worse"),
        ("{at: 9 s, loss: {nodes: phone-1, burst: 3}}", "there is no such setting"),
        ("{at: 9 s, burst_loss: {nodes: box-0, chance: 90 %, burst: 2}}", "Make the bursts 9"),
        ("{at: 9 s, bust_loss: {nodes: box-0, chance: 9 %}}", 'Did you mean "burst_loss"?'),
        ("{at: 9 s, cut: box-0}", "a mapping of settings was expected here"),
        ("{at: 9 s, cut: {nodes: box-0, link: [box-0, gate-0]}}", "either a link or nodes"),
        ("{at: 9 s, nat: {nodes: phone-0, gateway: phone-*}}", "phone-0 can't be behind itself"),
        ("{at: 9 s, nat: {nodes: host of phone-0}}", "a NAT has to know before"),
        ("{at: 9 s, partition: [[others], [others]]}", "a side of a partition can't be empty"),
        ("{at: 9 s, partition: [['*'], [others]]}", "a side of a partition can't be empty"),
    ],
)
def test_what_can_not_be_is_answered_with_what_would_be_right(entry, message, small):
    assert message in refusal(entry, small)


def test_a_node_that_reaches_no_gateway_is_not_behind_one():
    apart = topologies.parse("nodes: {a: {}, b: {}}")
    assert "no way from a to a gateway" in refusal("{at: 1 s, nat: {nodes: a, gateway: b}}", apart)


def test_a_share_is_drawn_by_the_seed_and_the_faults_name(small):
    def drawn(selector: str, seed: int = 1, name: str = "x") -> tuple[str, ...]:
        return expand(f"{{at: 1 s, crash: {selector}, id: {name}}}", small, seed)[0].nodes

    assert len(drawn("any 3")) == 3
    assert len(drawn("any 43 %")) == len(drawn("any 43%")) == 3
    assert len(drawn("any 100 %")) == 7
    assert drawn("any 3") == drawn("any 3")
    assert len({drawn("any 3", seed) for seed in range(20)}) > 5
    assert len({drawn("any 3", 1, f"n{number}") for number in range(20)}) > 5
    assert set(drawn("any 2 of phone-*")) < {"phone-0", "phone-1", "phone-2"}
    assert set(drawn("[any 1 of role=host, gate-1]")) in ({"box-0", "gate-1"}, {"box-1", "gate-1"})
    counts = [drawn("any 1 of role=client", seed) for seed in range(300)]
    assert all(60 < counts.count((f"phone-{n}",)) < 140 for n in range(3))


def test_a_share_drawn_here_is_the_share_drawn_anywhere(small):
    assert expand("{at: 1 s, crash: any 3}", small, 5)[0].nodes == ("gate-0", "phone-0", "phone-1")


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("any 0", "would be 0 of 7 nodes"),
        ("any 8", "would be 8 of 7 nodes"),
        ("any 1 %", "would be 0 of 7 nodes"),
        ("any 130 %", "is more than all of it"),
        ("any of role=client", "doesn't say how many"),
        ("any 3x", "doesn't say how many"),
        ("any 1 of host of phone-0", "a draw has to know before"),
        ("any 1 of role=hots", 'Did you mean "host"?'),
    ],
)
def test_a_share_that_can_not_be_drawn_is_refused(selector, message, small):
    assert message in refusal(f"{{at: 1 s, crash: {selector}}}", small)


@pytest.mark.parametrize(
    "words", ["busiest host", "the elected aggregator", "host of phone-1", "hosts of the far side"]
)
def test_several_words_are_what_only_a_run_can_know(words, small):
    (event,) = expand(f"{{at: 1 s, crash: {words}}}", small)
    assert (event.nodes, event.selector) == ((), words)
    assert faults.resolve(event, {words: ("box-1",)}, small).nodes == ("box-1",)


def test_a_name_of_several_words_that_is_nearly_right_is_a_slip_of_the_pen():
    topology = topologies.parse("nodes: {New York: {}, Los Angeles: {}}")
    assert "Did you mean New York?" in refusal("{at: 1 s, crash: New Yrok}", topology)
    assert expand("{at: 1 s, crash: New York}", topology)[0].nodes == ("New York",)


def test_resolving_many_events_needs_one_selection(small):
    selection = faults.Selection(small)
    (event,) = expand("{at: 1 s, degrade: {nodes: busiest host, delay: +1 s}}", small)
    facts = {"busiest host": ("box-1",)}
    assert faults.resolve(event, facts, selection) == faults.resolve(event, facts, small)
