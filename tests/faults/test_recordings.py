"""Traces from files: what they hold, and the answer when they hold something else."""

from __future__ import annotations

import json

import pytest

import faults
from faults import Amount, Change, ScenarioError, recordings
from faults.recordings import Availability, Bandwidths, Opportunities

SECOND = 10**9


def refusal(text: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        recordings.parse(text, "t.txt")
    return str(caught.value)


def test_a_line_of_a_millisecond_is_a_packet_that_could_be_sent():
    found = recordings.parse("1\n1\n2\n4\n", "t")
    assert found == Opportunities((1, 1, 2, 4))
    assert found.length_ns == 4 * 10**6
    packets = [rate * 2e-3 / 12_000 for _, rate in found.steps(2 * 10**6)]
    assert packets == pytest.approx([3, 1])  # that of the second millisecond ends a window


@pytest.mark.parametrize("window_ns", [10**9, 5 * 10**8])
def test_what_comes_evenly_is_played_evenly(window_ns):
    every = window_ns // 10**6
    found = recordings.parse("".join(f"{every * n}\n" for n in range(1, 6)), "t")
    rates = [rate for _, rate in found.steps(window_ns)]
    assert rates == pytest.approx([12_000 * 10**9 / window_ns] * 5)


def test_a_constant_opportunity_is_its_bandwidth_in_any_window():
    found = recordings.parse("\n".join(str(ms) for ms in range(1, 3001)), "t")
    for window_ns in (SECOND, 700 * 10**6, 5 * SECOND):
        rates = [rate for _, rate in found.steps(window_ns)]
        assert rates == pytest.approx([12e6] * len(rates), rel=0.01)
    assert sum(rate for _, rate in found.steps(5 * SECOND)) * 3 == 3000 * 12_000


def test_two_numbers_to_a_line_are_a_bandwidth_from_then_on():
    found = recordings.parse("# made up\n1000.5 3\n\n1002.5 0\n1003 2.5\n", "t")
    assert found == Bandwidths(((0, 3.0), (2 * SECOND, 0.0), (2_500_000_000, 2.5)), 3 * SECOND)


def test_devices_are_there_from_active_to_inactive():
    device = {"active": [10, 50], "inactive": [30, 60], "finish_time": 100, "model": "x"}
    found = recordings.parse(json.dumps({"7": device}), "t")
    assert isinstance(found, Availability)
    absences = list(found.devices[0].absences(160 * SECOND))
    assert [(a / SECOND, b / SECOND) for a, b in absences] == [
        (0, 10), (30, 50), (60, 110), (130, 150)
    ]  # fmt: skip


def test_a_device_that_is_always_or_never_there():
    always = {"active": [0, 40], "inactive": [40, 100], "finish_time": 100}
    never = {"active": [], "inactive": [], "finish_time": 100}
    found = recordings.parse(json.dumps({"a": always, "b": never}), "t")
    assert isinstance(found, Availability)
    assert [list(device.absences(250 * SECOND)) for device in found.devices] == [
        [], [(0, 250 * SECOND)]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing was recorded"),
        ("# only words\n", "nothing was recorded"),
        ("1 2 3\n", "t.txt:1: there are 3 words here"),
        ("1 2\n3\n", "t.txt:2: there were 2 words to a line, and here are 1"),
        ("1\n-2\n", 't.txt:2: "-2" is no number of milliseconds'),
        ("1\n1.5\n", "is no number of milliseconds"),
        ("5\n4\n", "t.txt:2: 4 comes after 5"),
        ("0\n0\n", "over as soon as it begins"),
        ("1 2\n", "doesn't say how long it lasts"),
        ("1 2\n1 3\n", "is not after the line before it"),
        ("1 2\n2 nan\n", '"nan" is no number'),
        ("1 2\n2 -3\n", '"-3" is no number'),
        ("{", "this is not JSON"),
        ("{}", "nothing was recorded"),
        ('{"a": 1}', "a: a mapping of active, inactive and finish_time"),
        ('{"a": {"active": [1], "finish_time": 3}}', "inactive has to be a list"),
        ('{"a": {"active": [1], "inactive": [2]}}', "no finish_time is no number of seconds"),
        ('{"a": {"active": [1], "inactive": [], "finish_time": 3}}', "they come in pairs"),
        ('{"a": {"active": [2], "inactive": [1], "finish_time": 3}}', "have to ascend"),
        ('{"a": {"active": [1], "inactive": [2], "finish_time": 1}}', "have to ascend"),
        ('{"a": {"active": [], "inactive": [], "finish_time": 0}}', "more than 0"),
        ('{"a": {"active": [1e999], "inactive": [2], "finish_time": 3}}', "no number of seconds"),
    ],
)
def test_what_is_no_trace_is_answered_with_line_and_formats(text, message):
    answer = refusal(text)
    assert message in answer
    assert answer.startswith("t.txt")


def played(entry: str, small, tmp_path, **files: str):
    for name, content in files.items():
        (tmp_path / f"{name}.txt").write_text(content)
    path = tmp_path / "s.yaml"
    path.write_text(f"timeline:\n  - {{at: 10 s, trace: {{{entry}}}, for: 8 s}}\n")
    return faults.expand(faults.load(path), small, 1)


def test_a_trace_of_a_bandwidth_is_a_degrade_for_each_value_and_a_cut_where_there_is_none(
    small, tmp_path
):
    events = played(
        "file: bw.txt, link: [phone-0, gate-0], unit: kbit/s", small, tmp_path,
        bw="0 900\n2 0\n3 900\n",
    )  # fmt: skip
    begins = [
        (event.at_ns / SECOND, event.kind, event.change and event.change.bandwidth)
        for event in events
        if event.phase == "begin"
    ]
    amount = Amount("absolute", 900e3)
    # It lasts 4 s, and then begins again: at 12 and 16 s there is nothing for a second.
    assert begins == [
        (10, "degrade", amount), (12, "cut", None), (13, "degrade", amount), (16, "cut", None),
        (17, "degrade", amount),
    ]  # fmt: skip
    assert events[-1].at_ns == 18 * SECOND
    assert faults.expand(faults.parse(faults.concrete(events, name="x")), small, 2) == events


def test_a_constant_that_is_short_may_be_played_for_long(small, tmp_path):
    (tmp_path / "steady.txt").write_text("1\n")
    path = tmp_path / "s.yaml"
    path.write_text(
        "timeline: [{at: 1 s, trace: {file: steady.txt, nodes: box-0, window: 1 ms}, for: 1 h}]\n"
    )
    begin, end = faults.expand(faults.load(path), small, 1)
    assert begin.change == Change(bandwidth=Amount("absolute", 12e6))
    assert end.at_ns - begin.at_ns == 3600 * SECOND


def test_without_for_a_trace_is_played_once(small, tmp_path):
    (tmp_path / "bw.txt").write_text("0 1\n5 2\n")
    path = tmp_path / "s.yaml"
    path.write_text("timeline: [{at: 1 s, trace: {file: bw.txt, nodes: 'phone-*'}}]\n")
    events = faults.expand(faults.load(path), small, 1)
    assert [(e.at_ns // SECOND, e.fault, e.phase) for e in events] == [
        (1, "1.1", "begin"), (6, "1.1", "end"), (6, "1.2", "begin"), (11, "1.2", "end")
    ]  # fmt: skip
    assert len(events[0].links) == 6


def test_a_trace_of_devices_takes_them_away_in_turn(small, tmp_path):
    devices = {
        name: {"active": [start], "inactive": [4], "finish_time": 4}
        for name, start in (("a", 1), ("b", 2))
    }
    events = played(
        "file: d.txt, nodes: 'phone-*', as: pause", small, tmp_path, d=json.dumps(devices)
    )
    away = {(event.nodes[0], event.at_ns // SECOND) for event in events if event.phase == "begin"}
    assert away == {(f"phone-{n}", at) for n in range(3) for at in (10, 14)}
    assert {event.kind for event in events} == {"pause"}
    ends = {e.nodes[0]: e.at_ns // SECOND for e in events if e.phase == "end"}
    assert ends == {"phone-0": 15, "phone-1": 16, "phone-2": 15}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("file: nowhere.txt, nodes: box-0", "trace > file: "),
        ("file: bad.txt, nodes: box-0", 'bad.txt: "x" is no number of milliseconds'),
        ("file: bw.txt, nodes: box-0, as: leave", "as: this file is of a bandwidth"),
        ("file: bw.txt, nodes: box-0, window: 1 s", "a window is for packet opportunities"),
        ("file: ms.txt, nodes: box-0, unit: kbit/s", "a unit is for lines of"),
        ("file: ms.txt, nodes: box-0, window: 1 ns", "this trace has more than"),
        ("file: d.txt, link: [box-0, gate-0]", "link says nothing"),
        ("file: d.txt, nodes: host of phone-0", "a trace of devices has to know before"),
        ("file: bw.txt", "either a link or nodes"),
        ("file: bw.txt, nodes: box-0, unit: Mbps", '"Mbit/s" (bits) or "MB/s" (bytes)'),
        ("file: d.txt, nodes: box-0, as: leaf", 'Did you mean "leave"?'),
    ],
)
def test_a_trace_that_does_not_fit_is_refused_where_it_stands(entry, message, small, tmp_path):
    device = '{"a": {"active": [1], "inactive": [2], "finish_time": 4}}'
    with pytest.raises(ScenarioError) as caught:
        played(entry, small, tmp_path, bw="0 1\n1 2\n", ms="1\n2000\n", d=device, bad="x\n")
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 's.yaml'}:2: timeline #1 > trace")
