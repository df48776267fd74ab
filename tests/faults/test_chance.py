"""Processes: the same everywhere, and as often as they say."""

from __future__ import annotations

from itertools import pairwise

import pytest

import faults
from faults import ScenarioError
from faults.chance import share
from faults.processes import Diurnal

SECOND = 10**9
HOUR = 3600 * SECOND


def expand(process: str, topology, seed: int = 1):
    return faults.expand(faults.parse(f"processes:\n  - {process}\n", "s.yaml"), topology, seed)


FLAPPING = "flapping: {%s, mean_up: 1 min, mean_down: 5 s, until: 20 h}"


def test_links_flap_each_by_itself_with_the_stated_means(small):
    events = expand(FLAPPING % "nodes: role=host", small)
    assert {event.kind for event in events} == {"cut"}
    for box, gate in (("box-0", "gate-0"), ("box-1", "gate-1")):
        mine = [event for event in events if event.links == ((box, gate), (gate, box))]
        assert [event.phase for event in mine] == ["begin", "end"] * (len(mine) // 2)
        downs = [b.at_ns - a.at_ns for a, b in zip(mine[::2], mine[1::2], strict=True)]
        assert sum(downs) / len(downs) == pytest.approx(5 * SECOND, rel=0.15)
        assert len(downs) == pytest.approx(20 * 60 / (65 / 60), rel=0.15)
    assert expand(FLAPPING % "link: [box-0, gate-0]", small) == expand(
        FLAPPING % "nodes: box-0", small
    )


def test_links_flap_alike_whichever_of_their_directions_comes_first(small):
    turned = small.of(small.name, small.nodes.values(), reversed(small.links.values()))
    assert turned == small
    one, other = (
        {(event.at_ns, event.phase, frozenset(event.links)) for event in expand(text, network)}
        for text in [FLAPPING % "nodes: role=host"]
        for network in (small, turned)
    )
    assert one == other


def test_a_link_between_two_flapping_nodes_flaps_once(small):
    events = expand(FLAPPING % "nodes: 'gate-*'", small)
    links = {event.links for event in events}
    assert len(links) == 6
    oneway = expand(FLAPPING % "nodes: gate-0, oneway: true", small)
    assert {event.links for event in oneway} == {
        (("gate-0", "gate-1"),), (("gate-0", "phone-0"),), (("gate-0", "box-0"),)
    }  # fmt: skip
    assert all(event.oneway for event in oneway)


def test_now_and_then_one_of_some_nodes_crashes(small):
    events = expand(
        "crashes: {nodes: 'phone-*', mean_between: 1 min, mean_down: 7 s, until: 30 h}", small
    )
    begins = [event for event in events if event.phase == "begin"]
    gaps = [b.at_ns - a.at_ns for a, b in pairwise(begins)]
    assert sum(gaps) / len(gaps) == pytest.approx(60 * SECOND, rel=0.1)
    for phone in ("phone-0", "phone-1", "phone-2"):
        count = sum(event.nodes == (phone,) for event in begins)
        assert count == pytest.approx(len(begins) / 3, rel=0.15)
    over = {event.fault: event.at_ns for event in events if event.phase == "end"}
    downs = [over[event.fault] - event.at_ns for event in begins]
    assert sum(downs) / len(downs) == pytest.approx(7 * SECOND, rel=0.1)
    forever = expand("crashes: {nodes: box-0, mean_between: 1 min}", small)
    assert {event.phase for event in forever} == {"begin"}


def diurnal(**settings) -> Diurnal:
    return Diurnal.model_validate({"nodes": "*", "most": "90 %", "least": "20 %"} | settings)


def test_the_share_of_a_day_is_a_wave_between_least_and_most():
    day = diurnal(peak="20 h")
    at = [share(day, hour * HOUR) for hour in range(24)]
    assert at[20] == max(at) == pytest.approx(0.9)
    assert at[8] == min(at) == pytest.approx(0.2)
    assert at[2] == at[14] == pytest.approx(0.55)
    assert share(day, 44 * HOUR) == at[20]
    assert sum(at) / 24 == pytest.approx(0.55)


def test_devices_are_there_by_the_time_of_day(small):
    text = (
        "diurnal: {nodes: 'phone-*', most: 90 %, least: 20 %, peak: 12 h, mean_stay: 10 min, "
        "until: 200 d, as: stop}"
    )
    events = expand(text, small)
    assert {event.kind for event in events} == {"stop"}
    conditions, passed_ns = faults.Conditions(), 0
    there = dict.fromkeys(range(24), 0)
    for event in events:
        for hour in range(-(-passed_ns // HOUR), event.at_ns // HOUR + 1):
            there[hour % 24] += sum(not conditions.is_stopped(f"phone-{n}") for n in range(3))
        passed_ns = event.at_ns + 1
        conditions = (conditions.begin if event.phase == "begin" else conditions.end)(event)
    assert conditions == faults.Conditions()
    assert events[-1].at_ns <= 200 * 24 * HOUR
    day = diurnal(peak="12 h")
    for hour, count in there.items():
        assert count / 600 == pytest.approx(share(day, hour * HOUR), abs=0.1)


@pytest.mark.parametrize(
    "process",
    [
        FLAPPING % "nodes: '*'",
        "crashes: {nodes: '*', mean_between: 1 min, mean_down: 9 s}",
        "diurnal: {nodes: '*', most: 90 %, least: 10 %, until: 9 d}",
    ],
)
def test_a_process_is_the_same_for_a_seed_and_another_for_another_and_is_written_down(
    process, small
):
    events = expand(process, small)
    assert events == expand(process, small)
    assert events != expand(process, small, 2)
    again = faults.parse(faults.concrete(events, name="again"))
    assert faults.expand(again, small, 3) == events


def test_times_drawn_here_are_the_times_drawn_anywhere(small):
    """The numbers themselves: they must not depend on machine, process or version."""
    first = [
        expand(process, small, 5)[0].at_ns
        for process in (
            FLAPPING % "nodes: box-0",
            "crashes: {nodes: '*', mean_between: 1 min, mean_down: 9 s}",
            "diurnal: {nodes: phone-1, most: 100 %, least: 0 %, until: 9 d}",
        )
    ]
    assert first == [20_198_828_854, 61_341_572_835, 10_826_862_885_112]


def test_a_process_may_have_a_name_of_its_own(small):
    events = expand("{id: night, churn: {nodes: box-0, mean_up: 1 min, mean_down: 9 s}}", small)
    assert events[0].fault == "night.1"


@pytest.mark.parametrize(
    ("process", "message"),
    [
        ("{}", "no process. Write one of churn, crashes, flapping, diurnal"),
        ("{churn: {nodes: a, mean_up: 1 s, mean_down: 1 s}, "
         "crashes: {nodes: a, mean_between: 1 s}}",
         "one process, not churn and crashes"),
        ("diurnal: {nodes: '*', most: 10 %, least: 20 %}", "at least more are there than at most"),
        ("diurnal: {nodes: '*', most: 90 %, least: 20 %, mean_stay: 1 ns}",
         "more than 1000 changes"),
        ("crashes: {nodes: box-0, mean_between: 1 ns}", "more than 1000 crashes"),
        ("crashes: {nodes: host of phone-0, mean_between: 1 s}", "has to know before"),
        (FLAPPING % "nodes: host of phone-0", "has to know before"),
        (FLAPPING % "nodes: []", "flapping > nodes: this list names nobody"),
        ("churn: {nodes: [], mean_up: 1 s, mean_down: 1 s}", "nodes: this list names nobody"),
        (FLAPPING % "link: [box-0, box-1]", "there is no link box-0 ↔ box-1"),
    ],
)  # fmt: skip
def test_a_process_that_can_not_be_is_refused(process, message, small, monkeypatch):
    monkeypatch.setattr("faults.chance.MOST_EVENTS", 1000)
    with pytest.raises(ScenarioError, match="processes #1") as caught:
        expand(process, small)
    assert message in str(caught.value)
