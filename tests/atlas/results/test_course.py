from __future__ import annotations

import pytest

from atlas.results.course import Hosting, Wait, follow
from atlas.results.events import read
from atlas.results.hosting_figure import breakage_rows
from atlas.results.telling import Sentence, tell


def paired(say, time_s, host, client="a"):
    chain = [{"first": 2, "last": 6, "host": host}]
    return say(time_s, "paired", client=client, neighborhood="n", chain=chain, stand_ins=[["y"]])


def repaired(say, time_s, host, *, fallback=False):
    fields = {"client": "a", "first": 2, "last": 6, "lost": "x", "host": host}
    return say(time_s, "repaired", fallback=fallback, **fields)


def test_a_repair_ends_one_hosting_and_begins_another_after_the_wait(say):
    notes = [
        paired(say, 1.0, "x"),
        say(8.0, "suspected", client="a", host="x", deadline_s=3.0, waited_s=3.0),
        repaired(say, 9.0, "y", fallback=True),
        say(20.0, "finished"),
    ]
    found = follow(notes)
    assert found.hostings == (
        Hosting("a", 2, 6, "x", 1.0, 5.0),
        Hosting("a", 2, 6, "y", 9.0, 20.0, borrowed=True),
    )
    assert found.waits == (Wait("a", 2, 6, "x", "y", 5.0, 9.0),)


def test_a_suspicion_that_came_to_nothing_leaves_no_gap(say):
    notes = [
        paired(say, 1.0, "x"),
        say(8.0, "suspected", client="a", host="x", deadline_s=3.0, waited_s=3.0),
        say(9.0, "step", client="a", round=1, step=0, loss=1.0),
        repaired(say, 15.0, "y"),
        say(20.0, "finished"),
    ]
    assert [(h.begin_s, h.end_s) for h in follow(notes).hostings] == [(1.0, 15.0), (15.0, 20.0)]


def test_pairing_again_with_the_same_host_goes_on_and_with_another_changes(say):
    notes = [paired(say, 1.0, "x"), paired(say, 5.0, "x"), paired(say, 7.0, "z")]
    found = follow([*notes, say(9.0, "finished")])
    assert [(h.host, h.begin_s, h.end_s) for h in found.hostings] == [
        ("x", 1.0, 7.0),
        ("z", 7.0, 9.0),
    ]


def test_a_fault_that_never_ends_lasts_to_the_end(story):
    found = {breakage.fault: breakage for breakage in follow(story.notes).breakages}
    assert (found["1"].begin_s, found["1"].end_s, found["1"].lasting) == (74.2, 245.0, True)
    assert (found["2"].begin_s, found["2"].end_s, found["2"].lasting) == (95.0, 155.0, False)
    assert found["2"].text == "edge-2 computes slower (compute 4x)"


def moved(say, time_s, host):
    return say(time_s, "moved", client="a", round=2, first=2, last=6, host=host)


def test_a_round_that_begins_at_another_host_ends_one_hosting_and_begins_another(say):
    back = moved(say, 15.0, "x")
    notes = [paired(say, 1.0, "x"), repaired(say, 9.0, "y"), back, say(20.0, "finished")]
    assert [(h.host, h.begin_s, h.end_s, h.borrowed) for h in follow(notes).hostings] == [
        ("x", 1.0, 9.0, False),
        ("y", 9.0, 15.0, False),
        ("x", 15.0, 20.0, False),
    ]
    assert tell(read(back)) == Sentence("a goes on at x with layers 2-5", "plain")


def test_a_client_that_moves_to_a_host_of_another_neighborhood_has_borrowed_it(say):
    chain = [{"first": 2, "last": 6, "host": "far"}]
    other = say(1.0, "paired", client="b", neighborhood="m", chain=chain, stand_ins=[["far-2"]])
    notes = [paired(say, 1.0, "x"), other, moved(say, 5.0, "far-2"), say(9.0, "finished")]
    assert [h.host for h in follow(notes).hostings if h.borrowed] == ["far-2"]


def test_a_silent_host_of_two_parts_is_silent_for_both(say):
    chain = [{"first": first, "last": first + 4, "host": "x"} for first in (2, 6)]
    repairs = [
        say(at, "repaired", client="a", first=first, last=first + 4, lost="x", host="y")
        for at, first in ((9.0, 2), (12.0, 6))
    ]
    notes = [
        say(1.0, "paired", client="a", chain=chain),
        say(8.0, "suspected", client="a", host="x", waited_s=3.0),
        *repairs,
    ]
    assert [(w.first, w.begin_s, w.end_s) for w in follow(notes).waits] == [
        (2, 5.0, 9.0),
        (6, 5.0, 12.0),
    ]


def test_a_client_that_is_refused_waits_until_another_host_takes_it(say):
    refused = say(6.0, "refused", client="a", host="x", reason="no room")
    found = follow([paired(say, 1.0, "x"), refused, repaired(say, 9.0, "y")])
    assert found.waits == (Wait("a", 2, 6, "x", "y", 6.0, 9.0),)


def test_hosts_are_drawn_until_the_last_round_of_their_neighborhood(say):
    notes = [paired(say, 1.0, "x"), say(7.0, "aggregated", neighborhood="n", round=0)]
    assert follow([*notes, say(20.0, "finished")]).hostings[0].end_s == 7.0
    broken_off = [*notes, say(20.0, "registered")]
    assert follow(broken_off).hostings[0].end_s == 20.0, "another round may have been under way"


def test_each_device_that_a_fault_strikes_has_a_row_and_each_kind_its_own(say):
    def fault(at, name, kind, nodes):
        return say(at, "fault", kind=kind, phase="begin", fault=name, nodes=nodes)

    notes = [
        fault(1.0, "1", "crash", ["a"]),
        fault(2.0, "2", "crash", ["a", "b"]),
        fault(3.0, "3", "slow", ["b"]),
        fault(4.0, "4", "slow", [f"c-{index}" for index in range(30)]),
    ]
    rows = breakage_rows(follow(notes).breakages)
    assert {name: [bar.fault for bar in bars] for name, bars in rows.items()} == {
        "a": ["1", "2"],
        "b · dead": ["2"],
        "b · slow": ["3"],
        "c-0 and 29 more": ["4"],
    }


@pytest.mark.parametrize(
    ("why", "because"),
    [
        ("squeezed", "its device takes 64 MiB back"),
        ("unused", "they were unused, and a newcomer needs 64 MiB"),
    ],
)
def test_a_session_that_was_given_up_is_told_with_its_reason(say, why, because):
    fields = {"client": "a", "host": "x", "first": 2, "last": 6, "steps": 3, "bytes": 2**26}
    sentence = tell(read(say(4.0, "evicted", **fields, why=why)))
    assert sentence == Sentence(f"x gives up layers 2-5 of a after 3 steps: {because}", "trouble")
