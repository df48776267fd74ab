"""What happened can be written down and happens again, exactly."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import faults
import topologies
from faults import Event

SELECTORS = st.sampled_from(
    ["box-0", "phone-*", "role=host", "[phone-0, box-1]", "host of phone-1",
     "[box-0, host of phone-0]",
     "hosts of neighborhood-1"]
)  # fmt: skip
OFFSETS = st.integers(-(10**15), 10**15).filter(bool)
TIMES = st.integers(1, 10**12).map(topologies.units.show_nanoseconds)


@st.composite
def scenarios(draw) -> str:
    lines = ["name: drawn", "timeline:"]
    for number in range(draw(st.integers(0, 5))):
        at, who = draw(TIMES), draw(SELECTORS)
        lasts = f", for: {draw(TIMES)}" if draw(st.booleans()) else ""
        name = f", id: fault-{number}" if draw(st.booleans()) else ""
        percent = topologies.units.show_fraction(draw(st.floats(1e-3, 0.999)))
        more = topologies.units.show_duration(draw(st.floats(0.1, 100.0)))
        times = topologies.units.show_factor(draw(st.floats(1.001, 1000.0)))
        offset = topologies.units.show_offset(draw(OFFSETS))
        drift = topologies.units.show_drift(draw(st.floats(-0.999, 10.0)))
        rate = topologies.units.show_bandwidth(draw(st.floats(1.0, 1e12)))
        burst = topologies.units.show_number(draw(st.floats(1.5, 1e20)))
        chance = topologies.units.show_fraction(draw(st.floats(1e-9, 0.999)))
        what = draw(
            st.sampled_from(
                [
                    f"crash: {who}",
                    f"stop: {who}",
                    f"pause: {who}",
                    f"skew: {{nodes: {who}, offset: {offset}}}",
                    f"skew: {{nodes: {who}, offset: {offset}, drift: {drift}}}",
                    f"traffic: {{from: box-1, to: phone-0, rate: {rate}}}",
                    f"traffic: {{from: 'phone-*', to: [cluster=0, box-1], rate: {rate}}}",
                    f"degrade: {{nodes: {who}, loss: +1 %, burst: {burst}, reorder: 2 %}}",
                    f"degrade: {{nodes: {who}, duplicate: {chance}, corrupt: +{chance}}}",
                    f"slow: {{nodes: {who}, compute: {times}}}",
                    f"degrade: {{nodes: {who}, bandwidth: {percent}, delay: +{more}}}",
                    f"degrade: {{link: [box-0, gate-0], delay: {more}, jitter: {times}}}",
                    "degrade: {link: [gate-0, box-0], oneway: true, loss: +3 %}",
                    "partition: [[cluster=0], [cluster=1]]",
                    "partition: {groups: [[box-0], [box-1], ['phone-*']], oneway: true}",
                ]
            )
        )
        lines.append(f"  - {{at: {at}, {what}{lasts}{name}}}")
    text = "\n".join(lines) + ("" if len(lines) > 2 else " []") + "\n"
    if draw(st.booleans()):
        churn = "{nodes: role=host, mean_up: 1 min, mean_down: 9 s, until: 4 min}"
        text += f"processes:\n  - churn: {churn}\n"
    return text


@given(scenarios())
@settings(derandomize=True, deadline=None)
def test_events_written_down_and_read_again_are_the_same_events(small, text):
    events = faults.expand(faults.parse(text), small, seed=1)
    written = faults.concrete(events, name="again")
    again = faults.parse(written)
    assert again.name == "again"
    assert faults.expand(again, small, seed=2) == events


def test_what_a_run_filled_in_is_written_out(small):
    text = "timeline:\n  - {at: 1 s, crash: host of phone-0, for: 2 s}\n"
    begin, end = faults.expand(faults.parse(text), small, 1)
    facts = {"host of phone-0": ("box-1",)}
    resolved = [faults.resolve(event, facts, small) for event in (begin, end)]
    written = faults.concrete(resolved, name="what happened")
    assert "  - {at: 1 s, crash: box-1, for: 2 s}\n" in written
    assert faults.expand(faults.parse(written), small, 9) == tuple(resolved)


def test_a_resolved_degrade_comes_back_with_its_links(small):
    text = "timeline:\n  - {at: 1 s, degrade: {nodes: host of phone-0, delay: +1 s}}\n"
    (event,) = faults.expand(faults.parse(text), small, 1)
    resolved = faults.resolve(event, {"host of phone-0": ("box-1",)}, small)
    written = faults.concrete([resolved], name="x")
    assert faults.expand(faults.parse(written), small, 1) == (resolved,)


def test_what_changed_nothing_for_whom_a_run_chose_is_no_slip_where_a_run_wrote_it(small):
    text = """
timeline:
  - {at: 1 s, degrade: {nodes: host of phone-0, bandwidth: 1 Tbit/s}}
  - {at: 1 s, squeeze: {nodes: host of phone-0, memory: 1 TiB}}
"""
    facts = {"host of phone-0": ("box-1",)}
    events = [faults.resolve(e, facts, small) for e in faults.expand(faults.parse(text), small, 1)]
    written = faults.concrete(events, name="x")
    assert faults.expand(faults.parse(written), small, 1) == tuple(events)
    assert faults.write(faults.parse(written)).splitlines()[1] == "concrete: true"
    with pytest.raises(faults.ScenarioError, match="no worse than what"):
        faults.expand(faults.parse(written.replace("concrete: true\n", "")), small, 1)


@pytest.mark.parametrize(
    "entry",
    [
        "crash: []",
        "slow: {nodes: [], compute: 2x}",
        "slow: {nodes: box-0, compute: 1x}",
        "slow: {nodes: gate-0, compute: 2x}",
        "squeeze: {nodes: gate-0, memory: 50 %}",
        "degrade: {nodes: box-0, bandwidth: 100 %, delay: 1x, loss: +0 %}",
    ],
)
def test_what_does_nothing_is_only_refused_where_a_person_wrote_it(entry, small):
    text = f"timeline:\n  - {{at: 1 s, {entry}}}\n"
    with pytest.raises(faults.ScenarioError):
        faults.expand(faults.parse(text), small, 1)
    (event,) = faults.expand(faults.parse("concrete: true\n" + text), small, 1)
    written = faults.concrete([event], name="x")
    assert faults.expand(faults.parse(written), small, 1) == (event,)


def test_whom_a_run_chose_may_have_no_link_that_a_fault_could_strike():
    text = "nodes: {a: {}, b: {}}\nlinks: [{from: a, to: b, bandwidth: 1 Mbit/s, delay: 1 ms}]\n"
    oneway = topologies.parse(text)
    text = "timeline:\n  - {at: 1 s, cut: {nodes: busiest node, oneway: true}}\n"
    (event,) = faults.expand(faults.parse(text), oneway, 1)
    resolved = faults.resolve(event, {"busiest node": ("b",)}, oneway)
    assert not resolved.links
    written = faults.concrete([resolved], name="x")
    assert faults.expand(faults.parse(written), oneway, 1) == (resolved,)


def test_a_run_that_stopped_early_is_written_as_far_as_it_came(small):
    text = """
timeline:
  - {at: 9 s, crash: box-1}
  - {at: 1 s, crash: box-0, for: 20 s}
  - {at: 2 s, crash: phone-0, for: 1 s}
"""
    events = faults.expand(faults.parse(text), small, 1)
    happened = [event for event in events if event.at_ns < 9 * 10**9]
    written = faults.concrete(happened, name="x")
    assert faults.expand(faults.parse(written), small, 1) == tuple(happened)


def test_ties_keep_their_order(small):
    text = """
timeline:
  - {at: 50 s, crash: box-0, for: 10 s}
  - {at: 40 s, crash: box-1, for: 20 s}
"""
    events = faults.expand(faults.parse(text), small, 1)
    assert [e.fault for e in events if e.phase == "end"] == ["1", "2"]
    assert faults.expand(faults.parse(faults.concrete(events, name="x")), small, 1) == events


def test_names_that_yaml_would_take_for_something_else_are_quoted():
    topology = topologies.parse(
        'nodes: {"true": {}, "12": {}, "1:30": {}, "a, b": {}, "x: y": {}, "ü #": {}, "no": {}}'
    )
    events = tuple(
        Event(n, str(n + 1), "begin", "crash", nodes=(name,))
        for n, name in enumerate(topology.nodes)
    )
    written = faults.concrete(events, name="- odd: [name]")
    again = faults.parse(written)
    assert again.name == "- odd: [name]"
    assert faults.expand(again, topology, 1) == events


def test_nothing_is_written_as_an_empty_timeline(small):
    written = faults.concrete([], name="calm")
    assert faults.expand(faults.parse(written), small, 1) == ()


def test_an_end_without_its_begin_is_refused(small):
    _, end = faults.expand(faults.parse("timeline: [{at: 1 s, crash: box-0, for: 1 s}]"), small, 1)
    with pytest.raises(ValueError, match="without having begun"):
        faults.concrete([replace(end)], name="x")
