"""Text of one's own: JSON lines, checked row by row at the door.

A bad row is an error that names the file, the line and the key; nothing is skipped in silence.
"""

from __future__ import annotations

import json
from pathlib import Path

from atlas.tasks.model import Row, TaskError, TaskSpec


def read(file: Path, spec: TaskSpec) -> list[Row]:
    """All rows of a JSON lines file (UTF-8; empty lines are allowed).

    Raises:
        TaskError: the file can't be read, a row is not as it should be, or there is none.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(
            f"the text of task {spec.name!r} can't be read ({_reason(error)})",
            file=str(file),
            remedy="Give the path of a JSON lines file in UTF-8",
        ) from error
    lines = enumerate(text.split("\n"), start=1)
    rows = [_row(line, (str(file), number), spec) for number, line in lines if line.strip()]
    if not rows:
        raise TaskError("no rows", file=str(file), remedy="Write one JSON object per line")
    if len({bool(row.choices) for row in rows}) > 1:
        raise TaskError(
            "some rows have choices and some have none",
            file=str(file),
            key=spec.choices,
            remedy="Give choices in every row (classification) or in none (generation)",
        )
    return rows


_Place = tuple[str, int]
"""A file and the number of a line in it."""


def _row(line: str, place: _Place, spec: TaskSpec) -> Row:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise TaskError(
            f"not JSON ({error.msg} at column {error.colno})",
            file=place[0],
            line=place[1],
            remedy='Write one object per line, such as {"prompt": "2+2=", "answer": "4"}',
        ) from error
    if not isinstance(fields, dict):
        raise TaskError(
            f"a row is a JSON object, not {type(fields).__name__}",
            file=place[0],
            line=place[1],
            remedy='Write {"prompt": "...", "answer": "..."}',
        )
    prompt = _text(fields, spec.prompt, place)
    answer = _text(fields, spec.answer, place)
    choices = _choices(fields, spec.choices, place)
    if choices and answer not in choices:
        raise TaskError(
            f"the answer {answer!r} is none of the choices {', '.join(map(repr, choices))}",
            file=place[0],
            line=place[1],
            key=spec.answer,
            remedy="Write the answer exactly as it stands among the choices",
        )
    return Row("", answer, before=prompt, choices=choices)


def _text(fields: dict[str, object], key: str, place: _Place) -> str:
    value = fields.get(key)
    if not isinstance(value, str) or not value.strip():
        found = "it is missing" if key not in fields else f"it is {json.dumps(value)}"
        raise TaskError(
            f"a row needs text here, and {found}",
            file=place[0],
            line=place[1],
            key=key,
            remedy=f"The row has the keys {', '.join(map(repr, fields)) or 'none'}",
        )
    return value


def _choices(fields: dict[str, object], key: str, place: _Place) -> tuple[str, ...]:
    value = fields.get(key, [])
    if (
        not isinstance(value, list)
        or not all(isinstance(choice, str) and choice.strip() for choice in value)
        or len(set(value)) != len(value)
        or len(value) == 1
    ):
        raise TaskError(
            f"choices are two or more different texts, not {json.dumps(value)}",
            file=place[0],
            line=place[1],
            key=key,
            remedy='Write a list such as ["yes", "no"], or leave the key out for free answers',
        )
    return tuple(value)


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or "unreadable") if isinstance(error, OSError) else "not UTF-8"
