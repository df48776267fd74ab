"""Rows of one's own: JSON lines, CSV, Parquet, and folders of Hugging Face's `datasets`.

A folder is one that `save_to_disk` wrote, or one of files named after their part, as sets are
published (`train-00000-of-00002.parquet`, `test.csv`). Both are read without that package: the
former is a list of Arrow files, whose schema says what the numbers in a column of labels mean.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from atlas.tasks.model import TaskError

if TYPE_CHECKING:
    import pyarrow

Place = tuple[str, int]
"""A file and the number of a line in it, or of a row where it has no lines."""

_PARTS = {"train": "train", "validation": "validation|valid|val|dev", "held_out": "test"}
_SUFFIXES = (".arrow", ".csv", ".json", ".jsonl", ".parquet", ".tsv")


@dataclass(frozen=True)
class Table:
    """The rows of one file, and for its columns of labels what each number means."""

    rows: Iterator[tuple[Place, Mapping[str, object]]]
    labels: Mapping[str, tuple[str, ...]]


def files(path: Path, part: str) -> tuple[Path, ...]:
    """The files that hold a part ("train", "validation", "held_out"); none where it isn't there.

    A file is whatever part it is asked for, and so is a folder that has only one.

    Raises:
        TaskError: a folder in which there is nothing that can be read.
    """
    if not path.is_dir():
        return (path,)
    if (path / "dataset_dict.json").is_file():
        names = _json(path / "dataset_dict.json").get("splits")
        for name in names if isinstance(names, list) else ():
            if re.fullmatch(_PARTS[part], str(name)):
                return _saved(path / str(name))
        return ()
    if (path / "state.json").is_file():
        return _saved(path)
    found = [
        file
        for folder in (path, path / "data")
        if folder.is_dir()
        for file in sorted(folder.iterdir())
        if file.suffix in _SUFFIXES and file.is_file()
    ]
    named = {
        each: tuple(file for file in found if re.match(rf"({pattern})(?![a-z])", file.name))
        for each, pattern in _PARTS.items()
    }
    if not any(named.values()):
        raise TaskError(
            "this folder has neither what save_to_disk writes nor files such as train.jsonl",
            file=str(path),
            remedy="Name the files after their part (train, validation, test), or give one file",
        )
    return named[part]


def read(file: Path) -> Table:
    """The rows of a file, by what its name ends with; JSON lines where that says nothing.

    Raises:
        OSError, ValueError: it can't be read, at once or later (pyarrow's errors are of these).
        TaskError: a line is not as it should be.
    """
    match file.suffix:
        case ".parquet":
            from pyarrow.parquet import ParquetFile  # noqa: PLC0415  (slow: only where needed)

            parquet = ParquetFile(file)
            return Table(
                _numbered(file, parquet.iter_batches()), _labels(parquet.schema_arrow.metadata)
            )
        case ".arrow":
            reader = _arrow(file)
            return Table(_numbered(file, iter(reader)), _labels(reader.schema.metadata))
        case ".csv" | ".tsv":
            return Table(_separated(file), {})
        case _:
            return Table(_json_lines(file), {})


def _numbered(
    file: Path, batches: Iterator[pyarrow.RecordBatch]
) -> Iterator[tuple[Place, Mapping[str, object]]]:
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield (str(file), number), row


def _arrow(file: Path) -> pyarrow.ipc.RecordBatchStreamReader:
    """`datasets` writes streams; Arrow's other form has an index at its end."""
    import pyarrow  # noqa: PLC0415  (slow: only where needed)
    import pyarrow.ipc  # noqa: PLC0415

    mapped = pyarrow.memory_map(str(file))
    try:
        return pyarrow.ipc.open_stream(mapped)
    except pyarrow.ArrowInvalid:
        table = pyarrow.ipc.open_file(mapped).read_all()
        return pyarrow.RecordBatchReader.from_batches(table.schema, table.to_batches())


def _labels(metadata: Mapping[bytes, bytes] | None) -> dict[str, tuple[str, ...]]:
    """Names of labels by column, as `datasets` keeps them in a schema."""
    features = json.loads((metadata or {}).get(b"huggingface", b"{}"))
    columns = features.get("info", {}).get("features", {})
    return {
        name: tuple(feature["names"])
        for name, feature in columns.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }


def _separated(file: Path) -> Iterator[tuple[Place, Mapping[str, object]]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, delimiter="\t" if file.suffix == ".tsv" else ",")
        for row in reader:
            place = (str(file), reader.line_num)
            if None in row or None in row.values():
                raise TaskError(
                    f"a row has another number of columns than the {len(reader.fieldnames or ())} "
                    "of the first line",
                    file=place[0],
                    line=place[1],
                    remedy="Quote cells that have separators or line ends in them",
                )
            yield place, row


def _json_lines(file: Path) -> Iterator[tuple[Place, Mapping[str, object]]]:
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
        if line.strip():
            yield (str(file), number), _object(line, (str(file), number))


def _object(line: str, place: Place) -> Mapping[str, object]:
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
    return fields


def _saved(folder: Path) -> tuple[Path, ...]:
    """The Arrow files of one part, as `save_to_disk` lists them."""
    state = _json(folder / "state.json")
    listed = state.get("_data_files")
    if not isinstance(listed, list) or not listed or state.get("_indices_data_files"):
        raise TaskError(
            "it names no files, or rows of them by number, as old versions of `datasets` do",
            file=str(folder / "state.json"),
            remedy="Load the set and write it again with save_to_disk, or write it as Parquet",
        )
    return tuple(folder / str(each["filename"]) for each in listed)


def _json(file: Path) -> Mapping[str, object]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TaskError(
            "it is not as `datasets` writes it",
            file=str(file),
            remedy="Write the set again with save_to_disk",
        ) from error
    return content if isinstance(content, dict) else {}
