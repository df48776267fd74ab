"""The scenario file: what it may say, and the answer when it says something else."""

from __future__ import annotations

import pytest

import faults
import faults.scenario
from faults import Amount, ScenarioError


def refusal(text: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        faults.parse(text, "s.yaml")
    return str(caught.value)


def entry(text: str) -> faults.scenario.Fault:
    return faults.parse(f"timeline:\n  - {text}\n", "s.yaml").timeline[0]


def test_the_example_in_the_documentation_is_a_scenario():
    text = faults.scenario.__doc__.split("```yaml\n")[1].split("```")[0]
    scenario = faults.parse(text, "example.yaml")
    assert scenario.name == "evening-churn"
    kinds = [fault.kind for fault in scenario.timeline]
    assert kinds == [
        "crash", "partition", "degrade", "slow", "stop", "pause", "skew", "traffic", "degrade",
        "crash",
    ]  # fmt: skip
    assert scenario.processes[0].churn.mean_up == 240 * 10**9


def test_times_are_whole_nanoseconds_and_selectors_lists_of_words():
    fault = entry("{at: 30 s, crash: [edge-3, role=client, 7], for: 20 ms}")
    assert fault.at == 30 * 10**9
    assert fault.for_ == 20 * 10**6
    assert fault.crash == ("edge-3", "role=client", "7")


@pytest.mark.parametrize(
    ("setting", "value", "amount"),
    [
        ("bandwidth", "10%", Amount("relative", 0.1)),
        ("bandwidth", "0.25x", Amount("relative", 0.25)),
        ("bandwidth", "1 Mbit/s", Amount("absolute", 1e6)),
        ("delay", "+150 ms", Amount("plus", 0.15)),
        ("delay", "500 ms", Amount("absolute", 0.5)),
        ("delay", "3x", Amount("relative", 3.0)),
        ("jitter", "300 %", Amount("relative", 3.0)),
        ("loss", "5 %", Amount("absolute", 0.05)),
        ("loss", "+5 %", Amount("plus", 0.05)),
        ("burst", "5", Amount("absolute", 5.0)),
        ("duplicate", "5 %", Amount("absolute", 0.05)),
        ("reorder", "+5 %", Amount("plus", 0.05)),
        ("corrupt", "5 %", Amount("absolute", 0.05)),
    ],
)
def test_a_change_is_absolute_relative_or_more(setting, value, amount):
    fault = entry(f"{{at: 1 s, degrade: {{nodes: a, {setting}: {value}}}}}")
    assert getattr(fault.degrade, setting) == amount


def test_a_clock_may_be_ahead_or_behind_and_run_fast_or_slow():
    ahead = entry("{at: 1 s, skew: {nodes: a, offset: +200 ms, drift: -50 ppm}}").skew
    assert (ahead.offset, ahead.drift) == (200_000_000, -5e-5)
    behind = entry("{at: 1 s, skew: {nodes: a, offset: -1 s}}").skew
    assert (behind.offset, behind.drift) == (-(10**9), None)
    assert entry("{at: 1 s, skew: {nodes: a, drift: -99 %}}").skew.drift == -0.99


def test_a_partition_is_a_list_of_groups_or_says_that_it_is_one_way():
    assert entry("{at: 1 s, partition: [[a], [b, c]]}").partition.groups == (("a",), ("b", "c"))
    oneway = entry("{at: 1 s, partition: {groups: [a, b], oneway: true}}").partition
    assert oneway.groups == (("a",), ("b",))
    assert oneway.oneway


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{at: 30 s, crush: a}", '#1 > crush: there is no such setting. Did you mean "crash"'),
        ("{at: 30 s, freeze: a}", "The kinds of fault are crash, stop, pause, leave, join, slow"),
        ("{at: 30 s}", "no fault. Write one of crash, stop, pause, leave, join, slow"),
        ("{at: 30 s, crash: a, slow: {nodes: b, compute: 2x}}", "one fault, not crash and slow"),
        ("{crash: a}", "timeline #1 > at: this setting is missing"),
        ("{at: 1:30, crash: a}", '"1:30" could be a time of day'),
        ("{at: 30, crash: a}", 'Write it with its unit, as "30 s"'),
        ("{at: -3 s, crash: a}", '"-3 s" is not a time'),
        ("{at: 30 s, crash: a, for: 0 s}", '"0 s" is no time at all'),
        ("{at: 30 s, crash: a, fro: 1 s}", 'Did you mean "for"?'),
        ("{at: 30 s, crash: {nodes: a}}", "a node was expected here"),
        ("{at: 30 s, crash: true}", "a node was expected here"),
        ("{at: 30 s, crash: [a, 1.5]}", "a node was expected here"),
        ("{at: 30 s, slow: {nodes: a, compute: 50 %}}", "doesn't say how much slower"),
        ("{at: 30 s, slow: {nodes: a, compute: 0.5x}}", "is no slowdown"),
        ("{at: 30 s, slow: {nodes: a, compute: 4}}", '"4" has no unit'),
        ("{at: 30 s, slow: {nodes: a}}", "slow > compute: this setting is missing"),
        ("{at: 30 s, degrade: {nodes: a}}", "this degrades nothing"),
        ("{at: 30 s, degrade: {delay: 1 s}}", "this needs either a link or nodes"),
        ("{at: 30 s, degrade: {link: [a, b], nodes: c, delay: 1 s}}", "either a link or nodes"),
        ("{at: 30 s, degrade: {link: [a], delay: 1 s}}", "degrade > link"),
        ("{at: 30 s, degrade: {link: a, delay: 1 s}}", "a list was expected here"),
        ("{at: 30 s, degrade: {nodes: a, bandwith: 10%}}", 'Did you mean "bandwidth"?'),
        ("{at: 30 s, degrade: {nodes: a, bandwidth: 110%}}", "doesn't degrade a bandwidth"),
        ("{at: 30 s, degrade: {nodes: a, bandwidth: 0 Mbit/s}}", "is a cut"),
        ("{at: 30 s, degrade: {nodes: a, bandwidth: 5 Mbps}}", '"Mbit/s" (bits) or "MB/s" (bytes)'),
        ("{at: 30 s, degrade: {nodes: a, bandwidth: +5 Mbit/s}}", "is not a bandwidth"),
        ("{at: 30 s, degrade: {nodes: a, delay: 50%}}", "makes no delay longer"),
        ("{at: 30 s, degrade: {nodes: a, loss: 100 %}}", "loses everything"),
        ("{at: 30 s, degrade: {nodes: a, loss: 0.1}}", '"0.1" has no unit'),
        ("{at: 30 s, degrade: {nodes: a, burst: 0.5}}", '"0.5" is no length of a burst. Write how'),
        ("{at: 30 s, degrade: {nodes: a, burst: 5 %}}", "is no length of a burst"),
        ("{at: 30 s, degrade: {nodes: a, burst: true}}", "is no length of a burst"),
        ("{at: 30 s, degrade: {nodes: a, brust: 5}}", 'Did you mean "burst"?'),
        ("{at: 30 s, degrade: {nodes: a, loss: 90 %, burst: 2}}", "Make the bursts 9 or longer"),
        ("{at: 30 s, degrade: {nodes: a, duplicate: 100 %}}", "Write less than 100 %"),
        ("{at: 30 s, degrade: {nodes: a, corrupt: 3}}", '"3" has no unit'),
        ("{at: 30 s, stop: {nodes: a}}", "stop: a node was expected here"),
        ("{at: 30 s, pauze: a}", 'Did you mean "pause"?'),
        ("{at: 30 s, skew: {nodes: a}}", "this changes no clock. Write offset: +200 ms, drift"),
        ("{at: 30 s, skew: {nodes: a, offset: 0 s, drift: 0 ppm}}", "this changes no clock"),
        ("{at: 30 s, skew: {offset: 1 s}}", "skew > nodes: this setting is missing"),
        ("{at: 30 s, skew: {nodes: a, offset: 200}}", '"200" has no unit'),
        ("{at: 30 s, skew: {nodes: a, drift: 50 pmm}}", "Did you mean ppm?"),
        ("{at: 30 s, skew: {nodes: a, drift: -100 %}}", "time would stand still or run backwards"),
        ("{at: 30 s, skew: {nodes: a, drift: -1000001 ppm}}", "to freeze a node, write a pause"),
        ("{at: 30 s, skew: {nodes: a, ofset: 1 s}}", 'Did you mean "offset"?'),
        ("{at: 30 s, traffic: {from: a, to: b}}", "traffic > rate: this setting is missing"),
        ("{at: 30 s, traffic: {from: a, to: b, rate: 0 bit/s}}", '"0 bit/s" is no traffic'),
        ("{at: 30 s, traffic: {from: a, to: b, rate: 50 %}}", "is not a unit of bandwidth"),
        ("{at: 30 s, traffic: {from: a, too: b, rate: 1 bit/s}}", 'Did you mean "to"?'),
        ("{at: 30 s, crash: a, for: }", "timeline #1 > for: nothing stands here. Write its value"),
        ("{at: 30 s, crash: a, for: null}", "#1 > for: nothing stands here"),
        ("{at: 30 s, crash: null}", "#1 > crash: nothing stands here"),
        ("{at: 30 s, nat: {nodes: a, gateway: }}", "#1 > nat > gateway: nothing stands here"),
        ("{at: 30 s, partition: [[a]]}", "a partition needs two sides"),
        ("{at: 30 s, partition: a}", "a mapping of settings was expected"),
        ("{at: 30 s, partition: {groups: [[a], [b]], oneway: yes}}", "true or false was expected"),
    ],
)  # fmt: skip
def test_a_slip_of_the_pen_in_the_timeline_is_answered_with_what_would_be_right(text, message):
    answer = refusal(f"timeline:\n  - {text}\n")
    assert answer.startswith("s.yaml:2: ")
    assert message in answer


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\n", "neither a timeline nor processes"),
        ("timelin: []\n", 'Did you mean "timeline"?'),
        ("timeline: {at: 1 s}\n", "timeline: a list was expected here, not a mapping"),
        ("processes:\n  - flap: {}\n", "The processes are churn"),
        ("processes:\n  - churn: {nodes: a, mean_up: 1 s}\n", "mean_down: this setting is missing"),
        ("timeline: []\ntimeline: []\n", "twice"),
        ("timeline:\nprocesses: []\n", "timeline: nothing stands here"),
        (
            "processes:\n  - crashes: {nodes: a, mean_between: 1 s, mean_down: }\n",
            "processes #1 > crashes > mean_down: nothing stands here. Write its value, or leave it",
        ),
        ("", "empty"),
    ],
)
def test_a_slip_of_the_pen_in_the_file_is_answered_with_what_would_be_right(text, message):
    assert message in refusal(text)


def test_a_scenario_is_found_by_name_or_by_path(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("timeline: []\n")
    assert faults.load(path).name == "mine"
    assert faults.load(str(path)) == faults.load(path)
    assert faults.load("quickstart").name == "quickstart"
    with pytest.raises(ScenarioError, match='Did you mean "quickstart"'):
        faults.load("quikstart")
    with pytest.raises(ScenarioError, match="no such file"):
        faults.load("nowhere/mine.yaml")
