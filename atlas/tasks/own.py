"""Text of one's own: rows of files, checked one by one at the door.

A bad row is an error that names the file, the line and the key; nothing is skipped in silence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from atlas.tasks import tables
from atlas.tasks.model import Row, TaskError, TaskSpec
from atlas.tasks.tables import Place


def parts(spec: TaskSpec) -> dict[str, tuple[Path, ...]]:
    """The files of each part that the task has: "train", and perhaps "validation", "held_out".

    Raises:
        TaskError: a folder lacks the part that is asked of it.
    """
    given = {"train": spec.train, "validation": spec.validation, "held_out": spec.held_out}
    found = {}
    for part, path in given.items():
        files = tables.files(path or spec.train, part) if path or _has_parts(spec.train) else ()
        if path is not None and not files:
            raise TaskError(
                f"this folder has no part for {part!r}",
                file=str(path),
                key=part,
                remedy="Name its files or parts train, validation and test, or give one file",
            )
        if files:
            found[part] = files
    return found


def read(files: Sequence[Path], spec: TaskSpec) -> list[Row]:
    """All rows of these files (text in UTF-8; empty lines are allowed).

    Raises:
        TaskError: a file can't be read, a row is not as it should be, or there is none.
    """
    rows = [row for file in files for row in _rows(file, spec)]
    if not rows:
        raise TaskError(
            "no rows", file=str(files[0]), remedy="Write one JSON object per line, or give a table"
        )
    if len({bool(row.choices) for row in rows}) > 1:
        raise TaskError(
            "some rows have choices and some have none",
            file=str(files[0]),
            key=_key_of_choices(spec),
            remedy="Give choices in every row (classification) or in none (generation)",
        )
    return rows


def _has_parts(path: Path) -> bool:
    """Whether it may hold more than one part: a folder that isn't one saved part."""
    return path.is_dir() and not (path / "state.json").is_file()


def _rows(file: Path, spec: TaskSpec) -> list[Row]:
    try:
        table = tables.read(file)
        return [_row(fields, place, spec, table.labels) for place, fields in table.rows]
    except TaskError:
        raise
    except (OSError, ValueError) as error:
        raise TaskError(
            f"the text of task {spec.name!r} can't be read ({_reason(error)})",
            file=str(file),
            remedy="Give JSON lines or CSV in UTF-8, Parquet, or a folder of `datasets`",
        ) from error


def _row(
    fields: Mapping[str, object],
    place: Place,
    spec: TaskSpec,
    labels: Mapping[str, tuple[str, ...]],
) -> Row:
    prompt = _text(fields, spec.prompt, place)
    domain = "" if spec.domain is None else _text(fields, spec.domain, place)
    if isinstance(spec.choices, tuple):
        choices = spec.choices
    else:
        choices = _choices(fields, spec.choices, place) or labels.get(spec.answer, ())
    answer = _answer(fields, spec, place, choices)
    if spec.cut:
        return Row(prompt, answer, after=spec.after, choices=choices, domain=domain)
    return Row("", answer, before=prompt, after=spec.after, choices=choices, domain=domain)


def _answer(
    fields: Mapping[str, object], spec: TaskSpec, place: Place, choices: tuple[str, ...]
) -> str:
    """The answer as it is written, or the choice whose number it is, counted from 0."""
    value = fields.get(spec.answer)
    if not choices:
        return _text(fields, spec.answer, place)
    if isinstance(value, str) and value not in choices and value.isdecimal():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices):
        return choices[value]
    if isinstance(value, int):
        value = str(value)
    answer = value if isinstance(value, str) else _text(fields, spec.answer, place)
    if answer not in choices:
        raise TaskError(
            f"the answer {answer!r} is none of the choices {', '.join(map(repr, choices))}",
            file=place[0],
            line=place[1],
            key=spec.answer,
            remedy="Write the answer exactly as it stands among the choices, or its number from 0",
        )
    return answer


def _text(fields: Mapping[str, object], key: str, place: Place) -> str:
    value = fields.get(key)
    if not isinstance(value, str) or not value.strip():
        found = "it is missing" if key not in fields else f"it is {_shown(value)}"
        raise TaskError(
            f"a row needs text here, and {found}",
            file=place[0],
            line=place[1],
            key=key,
            remedy=f"The row has the keys {', '.join(map(repr, fields)) or 'none'}",
        )
    return value


def _choices(fields: Mapping[str, object], key: str, place: Place) -> tuple[str, ...]:
    value = fields.get(key, [])
    if (
        not isinstance(value, list)
        or not all(isinstance(choice, str) and choice.strip() for choice in value)
        or len(set(value)) != len(value)
        or len(value) == 1
    ):
        raise TaskError(
            f"choices are two or more different texts, not {_shown(value)}",
            file=place[0],
            line=place[1],
            key=key,
            remedy='Write a list such as ["yes", "no"], or leave the key out for free answers',
        )
    return tuple(value)


def _shown(value: object) -> str:
    return json.dumps(value, default=str)


def _key_of_choices(spec: TaskSpec) -> str:
    return spec.choices if isinstance(spec.choices, str) else "choices"


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or ["unreadable"])[0]
