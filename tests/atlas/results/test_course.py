from __future__ import annotations

from atlas.results.course import Hosting, Wait, follow


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
