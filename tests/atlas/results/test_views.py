from __future__ import annotations

import io

import pytest
from rich.console import Console

from atlas.results.closing import final_table
from atlas.results.live import LiveView, open_view, sparkline
from atlas.results.plain import PlainView
from atlas.results.summary import TaskFigures, summarize


class Clock:
    """A clock that goes on by a second whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def console(**settings) -> Console:
    return Console(file=io.StringIO(), width=100, height=50, **settings)


def text_of(console: Console) -> str:
    return console.file.getvalue()


def test_an_output_that_is_no_terminal_gets_plain_lines(story):
    output = console()
    view = open_view(output)
    assert isinstance(view, PlainView)
    with view:
        view.expect(steps=story.steps_expected, truth=story.truth)
        view.say("dealing out the tasks")
        for note in story.notes:
            view.note(note)
    lines = text_of(output).splitlines()
    assert "\x1b" not in text_of(output)
    assert 20 < len(lines) < 60
    assert lines[0] == "dealing out the tasks"
    assert "   2.0 s" not in text_of(output), "single steps are not told"
    assert "  1:14.2  edge-0 dies" in lines
    assert (
        "  1:22.9  edge-1 takes over layers 4-15 of client-0 from edge-0, 2 steps replayed" in lines
    )
    assert any("fallback: edge-4 takes over layers 4-15 of client-3" in line for line in lines)
    assert any(line.startswith("  2:00.0  a bad link: gateway-1 - edge-3") for line in lines)
    assert any("round 5: 240 of 240 steps" in line for line in lines)
    assert any("20 devices registered" in line for line in lines)


def test_plain_lines_stay_few_however_much_happens(say):
    output = console()
    view = PlainView(output, most_lines=10)
    for index in range(500):
        fields = {"client": "a", "first": 0, "last": 4, "lost": "x", "host": "y"}
        view.note(say(float(index), "repaired", **fields))
        view.note(say(float(index), "aggregated", neighborhood="n", round=index))
    assert len(text_of(output).splitlines()) < 80


def test_what_a_client_tried_before_a_repair_is_one_plain_line(say):
    output = console()
    view = PlainView(output)
    view.note(say(1.0, "suspected", client="client-8", host="host-0", waited_s=2.0))
    for index in range(5):
        fields = {"client": "client-8", "host": f"host-{index + 1}", "reason": "full"}
        view.note(say(2.0 + index, "refused", **fields))
    repair = {"client": "client-8", "first": 2, "last": 16, "lost": "host-0", "host": "host-9"}
    view.note(say(8.0, "repaired", fallback=True, **repair))
    assert [line.strip() for line in text_of(output).splitlines()] == [
        "8.0 s  client-8 has no answer from host-0 and is refused by 5 hosts",
        "8.0 s  fallback: host-9 takes over layers 2-15 of client-8 from host-0 "
        "(no host of the neighborhood could take it)",
    ]


def test_many_searches_and_repairs_never_silence_faults_and_scores(say):
    output = console()
    view = PlainView(output, most_lines=20)
    repair = {"client": "a", "first": 0, "last": 4, "lost": "x", "host": "y"}
    for index in range(300):
        view.note(say(float(index), "refused", client="a", host="z"))
        view.note(say(float(index), "moved", client="b", first=0, last=4, host="z"))
        if index % 10 == 0:
            view.note(say(float(index), "repaired", **repair))
    crash = {"kind": "crash", "phase": "begin", "fault": "1", "nodes": ["edge-9"]}
    view.note(say(300.0, "fault", **crash))
    view.note(say(301.0, "aggregated", neighborhood="n", round=0))
    for task in ("news", "film"):
        view.note(say(302.0, "evaluated", task=task, phase="after", loss=1.0))
    lines = text_of(output).splitlines()
    assert sum("takes over" in line for line in lines) == 20, "searches do not use up their lines"
    assert [line.strip() for line in lines[-4:]] == [
        "5:00.0  edge-9 dies",
        "5:01.0  round 0: 0 steps, 30.1 kB",
        "5:02.0  news after training: loss 1.00",
        "5:02.0  film after training: loss 1.00",
    ]
    assert len(lines) < 36


def test_a_terminal_gets_a_picture_with_clock_losses_and_events(story):
    output = console(force_terminal=True, color_system=None)
    assert isinstance(open_view(output), LiveView)
    view = LiveView(output, clock=Clock())
    view.expect(steps=story.steps_expected, truth=story.truth)
    half = [note for note in story.notes if note.time_s <= 160.0]
    for note in half:
        view.note(note)
    output.print(view.picture())
    picture = text_of(output)
    for words in ("round 4", "virtual 2:40.0", "deaths 4", "of 240 steps", "left", "news topic"):
        assert words in picture
    assert "fallback: edge-4 takes over layers 4-15 of client-11" in picture
    assert "client-5 is back" not in picture, "only the last events are shown"


def test_the_live_view_shows_neighborhoods_where_tasks_are_not_known(story):
    output = console(force_terminal=True, color_system=None)
    view = LiveView(output, clock=Clock())
    for note in story.notes:
        view.note(note)
    output.print(view.picture())
    assert "neighborhood-2" in text_of(output)
    assert "news topic" not in text_of(output)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_view_that_is_interrupted_says_so_and_lets_the_interrupt_through(terminal, story):
    output = console(force_terminal=terminal, color_system=None)

    def watch():
        with open_view(output) as view:
            view.say("training")
            for note in story.notes[:150]:
                view.note(note)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch()
    assert "interrupted" in text_of(output)


def test_names_are_shown_as_they_are_and_never_as_markup(say):
    output = console()
    view = PlainView(output)
    with view:
        view.note(say(1.0, "refused", client="[bold]a[/bold]", host="b", reason="[/]"))
    assert "b can't serve [bold]a[/bold]: [/]" in text_of(output)


def test_the_final_table_tells_results_bytes_and_places(tmp_path, story):
    summary = summarize(
        story.notes,
        truth=story.truth,
        steps_expected=240,
        bytes_by_purpose=story.bytes,
        wall_seconds=271.0,
        digest="9f",
        whole_step_bytes=2 * 2**30,
    )
    output = console()
    final_table(summary, {"report": tmp_path / "report.html"}, output)
    text = text_of(output)
    assert "film sentiment" in text
    assert "2.60 → 0.70" in text
    assert "240 of 240 done, 0 lost, none applied twice" in text
    assert "1.7 GB: activations 812 MB, gradients 806 MB" in text
    assert "a whole training step needs 2 GiB; the largest grant is 512 MiB" in text
    assert str(tmp_path / "report.html") in text


@pytest.mark.parametrize("width", [80, 72, 40])
def test_the_final_table_cuts_nothing_however_narrow_the_terminal_is(width):
    name = "twenty-letters-long!"
    figures = TaskFigures(
        clients=3,
        examples=1000,
        loss_before=13.09,
        loss_after=0.74,
        choice_loss_before=1.92,
        choice_loss_after=1.48,
        accuracy_before=0.35,
        accuracy_after=0.54,
        majority=0.47,
    )
    summary = summarize([], truth={}, steps_expected=0).model_copy(
        update={"tasks": {name: figures}}
    )
    output = Console(file=io.StringIO(), width=width)
    final_table(summary, [], output)
    lines = text_of(output).splitlines()
    assert "…" not in text_of(output)
    row = next(line for line in lines if line.startswith(name))
    for figure in ("13.09 → 0.74", "1.92 → 1.48", "35 → 54 %", "47 %", "1,000"):
        assert figure in row
    if width >= 72:
        assert " ".join(lines[0].split()) == "Task Loss Over choices Accuracy Baseline Rows"
        assert len(row) <= width


def test_the_final_table_of_a_run_that_was_broken_off_does_not_call_steps_lost(story):
    summary = summarize(story.notes[:100], truth=story.truth, steps_expected=240)
    output = console()
    final_table(summary, [], output)
    assert "the run did not come to its end" in text_of(output)
    assert "not done" in text_of(output)


def test_a_sparkline_goes_from_zero_to_the_largest():
    assert sparkline([8.0, 4.0, 0.0], 24) == "█▅▁"
    assert sparkline([1.0] * 100, 24) == "█" * 24
    assert sparkline([float("nan")], 24) == ""
    assert sparkline([0.0, 0.0], 24) == "▁▁"
