"""Judgments kept by content: the same adapters on the same rows are judged once.

One JSON file for each, named by a digest of all that it depends on. Any number of processes may
share a folder: a file is written whole and renamed, and whoever comes second writes the same.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from atlas.journal.values import digest
from atlas.tasks import batching, encoding, greedy, scoring
from atlas.tasks.model import Example
from atlas.tasks.scoring import Judgment

_CODE = [
    Path(module.__file__ or "").read_bytes() for module in (batching, encoding, greedy, scoring)
]
"""What judges: with another version of it, everything is judged anew."""


def kept(
    folder: Path,
    judged: Callable[[], Sequence[Judgment]],
    examples: Sequence[Example],
    *world: object,
) -> tuple[Judgment, ...]:
    """The judgments of these examples, from the folder if they are there, else made and put there.

    Args:
        folder: where the files are; made at need.
        judged: makes them, as `judge` does. It is called only where they are not known, so a model
            is best built in it.
        examples: the rows.
        world: all else that a judgment depends on: digest of the model's files, number format,
            adapter and its settings, tokens, batch size, whether answers are written; and versions
            of torch and kind of processor, where the last bit matters. Texts, numbers, tensors,
            mappings, sequences, dataclasses and pydantic models of these.

    Raises:
        TypeError: the world has something in it that has no digest.
    """
    rows = [[row.prompt, row.answer, row.choices] for row in examples]
    file = folder / f"{digest(_CODE, rows, world).hex()}.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return tuple(Judgment(**each) for each in found)
    except (FileNotFoundError, ValueError):  # a file that lost power to the disk is no JSON
        pass
    judgments = tuple(judged())
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, prefix=".", suffix=".json")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        json.dump([asdict(each) for each in judgments], stream)
    Path(name).replace(file)
    return judgments
