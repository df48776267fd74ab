from __future__ import annotations

import json

import pytest

from atlas.results.closing import sentences
from atlas.results.summary import Summary, adjusted_rand_index, summarize
from atlas.results.tally import Tally


def step(say, time_s, client, round_, step_):
    return say(time_s, "step", client=client, round=round_, step=step_, loss=1.0)


def test_the_figures_of_a_run_are_exact(story):
    summary = summarize(
        story.notes,
        truth=story.truth,
        steps_expected=story.steps_expected,
        bytes_by_purpose=story.bytes,
        wall_seconds=271.0,
        digest="9f",
        whole_step_bytes=2 * 2**30,
    )
    assert summary.finished
    assert (summary.steps, summary.steps_expected) == (240, 240)
    assert (summary.steps_lost, summary.steps_twice) == (0, 0)
    # 3 repairs that replayed 2 steps, 6 that replayed 1, and 4 steps of a client that came back.
    assert summary.steps_repeated == 3 * 2 + 6 * 1 + 4
    assert (summary.repairings, summary.fallbacks, summary.deaths) == (9, 6, 4)
    assert summary.bytes == {**story.bytes, "recovery": 0}
    assert summary.virtual_seconds == 245.0
    assert (summary.whole_step_bytes, summary.largest_grant_bytes) == (2 * 2**30, 512 * 2**20)
    assert summary.neighborhoods.count == 4
    assert summary.neighborhoods.members["neighborhood-1"] == ("client-1", "client-5", "client-9")
    assert summary.neighborhoods.adjusted_rand_index == 1.0
    assert summary.neighborhoods.silhouette == 0.62
    assert list(summary.tasks) == sorted(set(story.truth.values()))
    film, maths = summary.tasks["film sentiment"], summary.tasks["maths word problems"]
    assert (film.clients, film.examples, film.majority) == (3, 120, 0.52)
    assert (film.loss_before, film.loss_after) == (2.6, 0.7)
    assert (film.choice_loss_before, film.choice_loss_after) == (1.4, 0.9)
    assert (maths.choice_loss_before, maths.choice_loss_after) == (None, None)


def test_clients_who_come_late_or_move_count_where_they_are_at_the_end(say):
    notes = [
        say(1.0, "neighborhoods", members={"n-0": ["a", "b", "c"], "n-1": ["d", "e"]}),
        say(2.0, "placed", client="f", neighborhood="n-2", round=1, p_value=0.0),
        say(3.0, "drifted", client="b", left="n-0", neighborhood="n-1", round=2),
    ]
    found = summarize(notes, truth={}, steps_expected=0).neighborhoods

    assert found.members == {"n-0": ("a", "c"), "n-1": ("d", "e", "b"), "n-2": ("f",)}
    assert found.count == 3


def test_the_summary_has_the_keys_that_others_rely_on(story):
    summary = summarize(
        story.notes, truth=story.truth, steps_expected=240, bytes_by_purpose={"x": 1}
    )
    value = json.loads(summary.model_dump_json())
    assert set(value) >= {
        *("tasks", "neighborhoods", "repairings", "fallbacks", "steps", "steps_lost"),
        *("steps_repeated", "bytes", "virtual_seconds", "wall_seconds", "digest"),
    }
    assert set(value["neighborhoods"]) >= {"count", "members", "adjusted_rand_index", "silhouette"}
    assert set(value["tasks"]["news topic"]) == {
        *("clients", "loss_before", "loss_after", "choice_loss_before", "choice_loss_after"),
        *("accuracy_before", "accuracy_after", "majority", "examples"),
        *("metric", "measure_before", "measure_after"),
    }
    assert value["bytes"] == {
        **dict.fromkeys(("signatures", "activations", "gradients", "adapters"), 0),
        **dict.fromkeys(("recovery", "control"), 0),
        "x": 1,
    }
    assert Summary.model_validate_json(summary.model_dump_json()) == summary


def test_a_step_that_is_told_twice_was_applied_twice(say):
    tally = Tally([step(say, 1.0, "a", 1, 0), step(say, 2.0, "a", 1, 0), step(say, 3.0, "b", 1, 0)])
    assert (tally.steps, tally.steps_twice, tally.steps_rerun) == (2, 1, 0)


def test_a_client_that_came_back_does_its_round_again(say):
    notes = [step(say, 1.0, "a", 1, 0), step(say, 2.0, "a", 2, 0), step(say, 3.0, "a", 2, 1)]
    notes += [step(say, 3.0, "b", 2, 0), say(4.0, "resumed", client="a", round=2)]
    back = Tally(notes)
    assert back.steps == 2, "what was done in the round does not stand any more"
    again = Tally([*notes, step(say, 5.0, "a", 2, 0), step(say, 6.0, "a", 2, 1)])
    assert (again.steps, again.steps_rerun, again.steps_twice) == (4, 2, 0)
    too_often = Tally([*notes, step(say, 5.0, "a", 2, 0), step(say, 6.0, "a", 2, 0)])
    assert too_often.steps_twice == 1
    earlier = Tally([*notes, step(say, 5.0, "a", 1, 0)])
    assert earlier.steps_twice == 1, "the round before was on its disk"
    other = Tally([*notes, step(say, 5.0, "b", 2, 0)])
    assert other.steps_twice == 1, "only the client that came back may repeat"


def test_a_client_that_goes_on_in_the_middle_of_a_round_keeps_what_was_before(say):
    notes = [step(say, 1.0, "a", 1, 0), step(say, 2.0, "a", 1, 1)]
    tally = Tally([*notes, say(3.0, "resumed", client="a", round=1, step=1)])
    assert tally.steps == 1


def test_steps_that_were_never_done_are_lost(story):
    kept = [
        note
        for note in story.notes
        if not (note.event == "step" and note.fields["client"] == "client-2" and note.time_s > 200)
    ]
    dropped = len(story.notes) - len(kept)
    summary = summarize(kept, truth=story.truth, steps_expected=240)
    assert dropped > 0
    assert summary.steps_lost == dropped


def test_a_node_that_two_crashes_hold_down_dies_once(say):
    def crash(time_s, phase, fault):
        return say(time_s, "fault", kind="crash", phase=phase, fault=fault, nodes=["edge-1"])

    begun = [crash(1.0, "begin", "1"), crash(2.0, "begin", "2")]
    assert Tally(begun).deaths == 1
    assert Tally([*begun, crash(3.0, "end", "1"), crash(4.0, "begin", "1")]).deaths == 1
    ended = [crash(3.0, "end", "1"), crash(4.0, "end", "2"), crash(5.0, "begin", "3")]
    assert Tally([*begun, *ended]).deaths == 2


def test_a_task_in_two_neighborhoods_counts_each_client_with_what_it_got(say):
    truth = {"a": "news", "b": "news", "c": "news", "d": "film"}
    members = {"neighborhood-0": ["a", "b", "d"], "neighborhood-1": ["c"]}
    scores = [
        say(9.0, "evaluated", task="news", phase="after", loss=loss, rows=100, neighborhood=name,
            metric="macro-f1", measure=loss / 10)
        for name, loss in (("neighborhood-0", 1.0), ("neighborhood-1", 4.0))
    ]  # fmt: skip
    notes = [say(1.0, "neighborhoods", members=members), *scores]
    summary = summarize(notes, truth=truth, steps_expected=0)
    assert summary.tasks["news"].loss_after == pytest.approx((2 * 1.0 + 4.0) / 3)
    assert summary.tasks["news"].loss_before is None
    assert summary.tasks["news"].metric == "macro-f1"
    assert summary.tasks["news"].measure_after == pytest.approx(0.2)
    assert "news macro-f1 — → 20 %" in dict(sentences(summary))["Judged by"]
    assert summary.tasks["film"].clients == 1


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"x": ["a", "b"], "y": ["c", "d"]}, 1.0),
        ({"x": ["a", "c"], "y": ["b", "d"]}, -0.5),
        ({"x": ["a", "b", "c", "d"]}, 0.0),
        ({"x": ["a"]}, None),
    ],
)
def test_neighborhoods_are_held_against_the_true_tasks(members, expected):
    truth = {"a": "film", "b": "film", "c": "news", "d": "news"}
    assert adjusted_rand_index(members, truth) == expected


def test_a_run_that_told_nothing_has_a_summary():
    summary = summarize([], truth={}, steps_expected=12)
    assert not summary.finished
    assert (summary.steps, summary.steps_lost) == (0, 12)
    assert summary.neighborhoods.adjusted_rand_index is None
