"""The time line as a picture: who does what when, at a glance."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

import faults
from atlas import showing
from faults.picture import picture


def drawn(text: str, topology, width: int = 10):
    return picture(faults.expand(faults.parse(text), topology, 1), width)


def test_each_fault_has_a_lane_that_is_full_while_it_holds(small):
    found = drawn(
        """
timeline:
  - {at: 2 s, crash: box-0, for: 3 s}
  - {at: 5 s, slow: {nodes: box-1, compute: 2x}, for: 5 s, id: heat}
  - {at: 9 s, pause: box-0}
""",
        small,
    )
    assert [(lane.name, lane.kind, lane.cells) for lane in found.lanes] == [
        ("1", "crash", "  ███     "),
        ("heat", "slow", "     █████"),
        ("3", "pause", "         █"),
    ]
    assert found.axis.startswith("0 s")
    assert found.axis.endswith("10 s")


def test_what_one_entry_does_again_and_again_is_one_lane_and_shades_say_how_much(small):
    flap = "timeline:\n  - {at: 0 s, flap: {nodes: box-0, down: 1 s, up: 3 s}, for: 13 s}\n"
    (each,) = drawn(flap, small, width=13).lanes
    assert each.cells == "█   █   █   █"
    (quarter,) = drawn(flap, small, width=3).lanes
    assert quarter.cells == "▒▒▒"
    short = "timeline:\n  - {at: 3 s, crash: box-0, for: 1 ms}\n  - {at: 9 s, pause: box-0}\n"
    assert drawn(short, small).lanes[0].cells.strip() == "░"


def test_a_lane_is_full_where_as_many_hold_as_ever_hold_at_once(small):
    text = """
timeline:
  - {at: 0 s, crash: [box-0, host of phone-0], for: 4 s, id: x}
  - {at: 4 s, crash: box-0, for: 4 s, id: x.3}
"""
    (lane,) = drawn(text, small, width=4).lanes
    assert lane.cells == "██▒▒"


def test_nothing_at_all_is_no_lane(small):
    assert drawn("timeline: []", small).lanes == ()


@pytest.mark.parametrize("everything", [False, True])
def test_the_table_and_the_picture_are_printed_and_long_tables_are_cut(everything):
    console = Console(file=io.StringIO(), width=90)
    showing.faults("host-churn", "edge-clusters", 3, console, everything=everything)
    printed = console.file.getvalue()
    assert "every host comes and goes by itself" in printed
    faults_shown = printed.count("crash host-")
    assert (faults_shown == 100) != everything
    assert ("--all shows them" in printed) != everything
    (lane,) = [line for line in printed.splitlines() if line.startswith("churn-1 crash")]
    assert len(lane) <= 90
    assert set("░▒▓") <= set(lane)


def test_what_only_a_run_knows_is_said_and_never_ending_faults_are_for_ever():
    console = Console(file=io.StringIO(), width=120)
    showing.faults("wrong-clocks", "edge-clusters", 3, console)
    printed = console.file.getvalue()
    assert "is known only to a run" in printed
    assert "ever" in printed


def test_without_a_name_every_bundled_scenario_is_listed_with_its_sentence():
    console = Console(file=io.StringIO(), width=200)
    showing.faults("", "edge-clusters", 0, console)
    for name in faults.catalog():
        assert faults.load(name).description in console.file.getvalue()
