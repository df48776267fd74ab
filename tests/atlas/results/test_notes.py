from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from atlas.results.events import Step, read
from atlas.results.notes import from_lines, to_line
from topologies import InputError

FILE = Path("metrics.jsonl")


def test_a_note_read_back_is_the_note_that_was_written(story):
    text = "".join(to_line(note) + "\n" for note in story.notes)
    back = from_lines(text, file=FILE)
    assert len(back) == len(story.notes)
    for record, note in zip(back, story.notes, strict=True):
        assert (record.time_s, record.node, record.event, record.bytes_total) == (
            note.time_s,
            note.node,
            note.event,
            note.bytes_total,
        )
        assert read(record) == read(note)


def test_the_fields_of_a_note_stand_beside_its_time_on_one_line(say):
    line = to_line(say(1.5, "step", client="client-0", loss=0.25))
    assert json.loads(line) == {
        "time_s": 1.5,
        "node": "node-0",
        "event": "step",
        "bytes_total": 150,
        "client": "client-0",
        "loss": 0.25,
    }
    assert "\n" not in to_line(say(1.5, "refused", reason="two\nlines"))


def test_a_loss_that_is_no_number_stays_readable_as_strict_json(say):
    line = to_line(say(1.0, "step", client="client-0", round=1, step=0, loss=math.nan))
    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    (record,) = from_lines(line + "\n", file=FILE)
    event = read(record)
    assert isinstance(event, Step)
    assert math.isnan(event.loss)


def test_a_line_that_a_killed_run_left_unfinished_is_dropped(say):
    whole = to_line(say(1.0, "signature", bytes=10))
    for cut in range(len(whole)):
        records = from_lines(f"{whole}\n{whole[:cut]}", file=FILE)
        assert [record.time_s for record in records] == [1.0]


@pytest.mark.parametrize("line", ["{", "[1]", "{}", '{"time_s": -1, "node": "", "event": "x"}'])
def test_a_damaged_line_is_refused_with_its_file_and_number(say, line):
    with pytest.raises(InputError, match=r"metrics\.jsonl:2: this line is not a note"):
        from_lines(f"{to_line(say(1.0, 'signature'))}\n{line}\n", file=FILE)


def test_a_field_named_like_a_part_of_the_note_is_refused(say):
    with pytest.raises(ValueError, match="'bytes_total'"):
        to_line(say(1.0, "signature", bytes_total=3))
    with pytest.raises(ValueError, match="set is not a value"):
        to_line(say(1.0, "signature", clients={1, 2}))


def test_an_event_that_nobody_knows_is_kept_and_means_nothing(say):
    note = say(1.0, "weather", sky="blue")
    assert read(note) is None
    assert from_lines(to_line(note) + "\n", file=FILE)[0].fields == {"sky": "blue"}


def test_a_known_event_with_a_missing_value_is_refused(say):
    with pytest.raises(ValidationError, match="loss"):
        read(say(1.0, "step", client="client-0", round=1, step=0))
