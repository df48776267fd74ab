"""How jitter is distributed: the shapes that have a name, and tables that somebody measured.

A table is a text file as netem's ``.dist`` files are: whole numbers with ``#`` comments, the
inverse of the cumulative distribution at equally spaced probabilities, so ascending; a number over
8192 is in units of the link's ``spread``. See ``README.distribution`` of iproute2, whose
``maketable`` makes one of measured delays. iproute2's own tables are under the GPL and not bundled:
on most Linux machines they lie in ``/usr/lib/tc``.
"""

from __future__ import annotations

import re
from pathlib import Path

from topologies.document import Document, Place, read_text
from topologies.errors import InputError, TopologyError, nearest

SHAPES = ("uniform", "normal", "pareto", "paretonormal")
MOST_ENTRIES = 16_384
_SCALE = 8192
_WHOLE = re.compile(r"-?[0-9]{1,6}")
_ENTRY = re.compile(r"[^\s#]+")


def is_table(shape: str) -> bool:
    """Whether a shape, as a file says it, is the path of a table and not a name."""
    return shape.endswith(".dist") or "/" in shape


def named_shape(shape: str) -> str:
    """This shape. Raises InputError when it is neither one of `SHAPES` nor a table's path."""
    if shape not in SHAPES and not is_table(shape):
        match = nearest(shape, SHAPES)
        question = f'Did you mean "{match}"? ' if match else ""
        remedy = f"{question}The shapes are {', '.join(SHAPES)}, or the path of a .dist file"
        raise InputError(f'there is no shape of jitter "{shape}"', remedy=remedy)
    return shape


def find_table(document: Document, shape: str, place: Place) -> tuple[float, ...]:
    """The table at this path, which stands in a document at this place and is relative to its file.

    Raises the document's error when it can't be read, and one about the table when it is none.
    """
    path = Path(document.file).parent / shape
    try:
        text = read_text(path, TopologyError)
    except InputError as error:
        remedy = "The path of a table is relative to the folder of this file"
        raise document.error(f"{path}: {error.problem}", place, remedy) from None
    return read_table(text, str(path))


def read_table(text: str, file: str = "<text>") -> tuple[float, ...]:
    """The values of a table, in units of the spread; *file* is its name in errors.

    Raises TopologyError.
    """
    values: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        for match in _ENTRY.finditer(line.partition("#")[0]):
            entry = match[0]
            if not _WHOLE.fullmatch(entry):
                problem = f'"{entry[:40]}" is no whole number'
                remedy = "A table holds whole numbers, 8192 times the spread each, and # comments"
                raise TopologyError(problem, file=file, line=number, remedy=remedy)
            values.append(int(entry))
            if values[-2:] != sorted(values[-2:]):
                problem = f"{values[-1]} comes after {values[-2]}"
                remedy = "A table ascends, for it is the inverse of a cumulative distribution"
                raise TopologyError(problem, file=file, line=number, remedy=remedy)
            if len(values) > MOST_ENTRIES:
                problem = f"this table has more than {MOST_ENTRIES} entries"
                remedy = "Take every second one, or fewer: they are equally spaced"
                raise TopologyError(problem, file=file, line=number, remedy=remedy)
    if not values:
        remedy = "Write whole numbers, 8192 times the spread each, ascending"
        raise TopologyError("this table is empty", file=file, remedy=remedy)
    return tuple(value / _SCALE for value in values)
