"""Notes: what the programs of a run tell the experimenter, as they arrive and as they lie on disk.

A note is a moment of virtual time, a node, the name of an event and its fields. Anything with
these five attributes is one (the emulator's own notes are); nothing here imports the emulator. On
disk a note is one line of JSON with the fields beside `time_s`, `node`, `event` and `bytes_total`,
so that any tool can filter it: `jq 'select(.event == "step") | .loss' metrics.jsonl`. Numbers
that JSON lacks are written as "NaN", "Infinity" and "-Infinity", and the models of `events` read
them back as numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, ValidationError

from topologies import InputError

RESERVED = ("time_s", "node", "event", "bytes_total")


class Note(Protocol):
    """What a program reported, and when: the least that the results need to know of it."""

    @property
    def time_s(self) -> float:
        """Virtual time in seconds since the run began."""

    @property
    def node(self) -> str:
        """The node that reported; empty for what the network itself tells."""

    @property
    def event(self) -> str:
        """The kind of event, one of `events.EVENTS` or any other name."""

    @property
    def fields(self) -> Mapping[str, object]:
        """The event's values: whatever JSON can hold."""

    @property
    def bytes_total(self) -> int:
        """Bytes that all nodes had sent by then."""


class Record(BaseModel):
    """A note read back from `metrics.jsonl`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    time_s: NonNegativeFloat
    node: str
    event: str
    bytes_total: NonNegativeInt
    fields: dict[str, object]


def to_line(note: Note) -> str:
    """The note as one line of strict JSON, without the line's end.

    Raises:
        ValueError: a field is named like one of the note's own attributes, or is not JSON.
    """
    taken = sorted(set(note.fields) & set(RESERVED))
    if taken:
        raise ValueError(
            f"the event {note.event!r} has a field named {taken[0]!r}, which notes use"
        )
    line: dict[str, object] = {
        "time_s": note.time_s,
        "node": note.node,
        "event": note.event,
        "bytes_total": note.bytes_total,
    }
    line.update(note.fields)
    return json.dumps(_strict(line), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def from_lines(text: str, *, file: Path) -> tuple[Record, ...]:
    """The notes in the text of a `metrics.jsonl`, in order.

    A last line that a killed run left unfinished is dropped: it was never told. `file` is for the
    errors.

    Raises:
        InputError: a line is not a note; it names the file and the line.
    """
    # Everything up to the last line's end was flushed whole; what follows was being written when
    # the run ended.
    lines = text.split("\n")[:-1]
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError("it is not a JSON object")
            fields = {key: value[key] for key in value if key not in RESERVED}
            known = {key: value[key] for key in RESERVED if key in value}
            records.append(Record.model_validate({**known, "fields": fields}))
        except (ValueError, ValidationError) as error:
            raise InputError(
                f"this line is not a note of a run: {_first_line(error)}",
                file=str(file),
                line=number,
                remedy="Restore the file, or delete the line",
            ) from error
    return tuple(records)


def _strict(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): _strict(value[key]) for key in value}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_strict(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{type(value).__name__} is not a value that a note can carry")


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return str(error).splitlines()[0]
