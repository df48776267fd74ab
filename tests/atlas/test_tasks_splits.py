"""No text is in two parts of a task, nor learned from in one task and asked for in another."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas import assets, tasks
from atlas.pins import PACKAGES
from atlas.tasks import Example, Task, TaskError, TaskSpec, Tokenizer
from atlas.tasks.distinct import beginning, plain
from atlas.tasks.splitting import Shown, apart, split


def _texts(rows: Iterable[Example]) -> set[str]:
    return {plain(row.prompt) for row in rows}


def _is_disjoint(task: Task) -> bool:
    parts = [_texts(part) for part in (task.train, task.validation, task.held_out)]
    return (
        len(set().union(*parts))
        == sum(map(len, parts))
        == sum(len(part) for part in (task.train, task.validation, task.held_out))
    )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("A cat.", "a  CAT", True),
        ("“A cat,” she said", "a cat she said", True),
        ("ﬁne", "fine!", True),
        ("what is it ?", "What is it...", True),
        ("a cat", "a dog", False),
        ("2 - 2", "2 * 2", False),
        ("2-2", "22", False),
        ("x[0]", "x.0", False),
        ("?", "!", False),
        ("return []", "return {}", False),
    ],
)
def test_texts_are_the_same_but_for_case_spacing_and_punctuation_around_words(
    one: str, other: str, same: bool
) -> None:
    assert (plain(one) == plain(other)) is same


@given(st.text(max_size=60))
def test_plain_text_is_as_plain_as_it_gets_with_more_space(text: str) -> None:
    assert plain(f"  {text}\n") == plain(text)
    assert beginning(text + " more") == beginning(text + "  more")


WORDS = st.sampled_from(["cat", "Cat", "cat.", "dog", "DOG!", "emu", "“emu”", "fox", "gnu", "hen"])


@st.composite
def _rows(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Texts, many of them spelled in several ways, with their answers."""
    texts = draw(st.lists(st.lists(WORDS, min_size=1, max_size=3), min_size=8, max_size=60))
    return [(" ".join(text), draw(st.sampled_from(["a", "b", "c"]))) for text in texts]


def _shown(rows: list[tuple[str, str]]) -> Shown:
    """Distinct examples by what they show, each of several questions about its text."""
    distinct = {plain(text): (text, answer) for text, answer in rows}
    return [
        (text, Example(f"{text} {question}?", answer, ("a", "b", "c")))
        for text, answer in distinct.values()
        for question in range(1 + len(text) % 3)
    ]


@given(rows=_rows(), held_out=st.integers(1, 10), validation=st.integers(0, 10))
@settings(deadline=None)
def test_a_split_loses_no_row_and_shares_no_text(
    rows: list[tuple[str, str]], held_out: int, validation: int
) -> None:
    shown = _shown(rows)
    if len(shown) < 2 * (held_out + validation):
        with pytest.raises(TaskError, match="too few to hold out"):
            split(shown, held_out=held_out, validation=validation, name="t")
        return
    parts = split(shown, held_out=held_out, validation=validation, name="t")
    named = (parts.train, parts.validation, parts.held_out)
    assert Counter(row for part in named for row in part) == Counter(shown)
    texts = [{plain(text) for text, _ in part} for part in named]
    assert len(set().union(*texts)) == sum(map(len, texts))
    assert len(parts.held_out) <= held_out
    assert len(parts.validation) <= validation


@given(rows=_rows(), validation=st.integers(0, 8))
@settings(deadline=None)
def test_held_out_rows_are_the_same_however_many_are_for_validation(
    rows: list[tuple[str, str]], validation: int
) -> None:
    shown = _shown(rows)
    held_out = len(shown) // 4
    if not held_out or len(shown) < 2 * (held_out + validation):
        return
    alone = split(shown, held_out=held_out, validation=0, name="t")
    beside = split(shown, held_out=held_out, validation=validation, name="t")
    assert beside.held_out == alone.held_out


VARIED = st.lists(
    st.tuples(
        st.integers(0, 30), st.sampled_from(["{}?", "{} ?", "Word {}", "word {}.", "WORD {}"])
    ),
    min_size=60,
    max_size=120,
)


@given(rows=VARIED, held_out=st.integers(1, 6), validation=st.integers(0, 6))
@settings(deadline=None, max_examples=25)
def test_rows_of_a_file_with_near_copies_are_told_apart(
    rows: list[tuple[int, str]],
    held_out: int,
    validation: int,
    tmp_path_factory: pytest.TempPathFactory,
    byte_tokenizer: Tokenizer,
) -> None:
    file = tmp_path_factory.getbasetemp() / "near-copies.jsonl"
    lines = [
        json.dumps({"prompt": form.format(number), "answer": str(number % 3)})
        for number, form in rows
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    distinct = {plain(form.format(number)) for number, form in rows}
    if len(distinct) < 2 * (held_out + validation):
        return
    task = tasks.load(
        TaskSpec(name="own", train=file),
        tokenizer=byte_tokenizer,
        max_tokens=30,
        held_out=held_out,
        validation=validation,
    )
    assert _is_disjoint(task)
    assert _texts((*task.train, *task.validation, *task.held_out)) == distinct
    assert task.left_out == len(rows) - len(distinct)


def test_validation_keeps_the_proportions_of_answers_too(byte_tokenizer: Tokenizer) -> None:
    task = tasks.load(
        "stdlib-unicode", tokenizer=byte_tokenizer, max_tokens=48, held_out=100, validation=60
    )
    every = Counter(row.answer for row in (*task.train, *task.validation, *task.held_out))
    chosen = Counter(row.answer for row in task.validation)
    for answer, count in every.items():
        assert abs(chosen[answer] - 60 * count / every.total()) < 1
    assert _is_disjoint(task)


def _with_beginnings(name: str, texts: dict[str, list[str]]) -> Task:
    parts = {
        part: tuple(Example(f"{text} {name}", "x", beginning=beginning(text)) for text in rows)
        for part, rows in texts.items()
    }
    return Task(name, "generation", "", "", (), parts["train"], parts["held_out"], 0)


def test_what_one_task_is_tested_by_no_other_learns_from() -> None:
    one = _with_beginnings("colors", {"train": ["Red.", "green"], "held_out": ["blue"]})
    other = _with_beginnings("moods", {"train": ["Blue!", "gray"], "held_out": ["red"]})
    colors, moods = apart([one, other])
    assert [row.prompt for row in colors.train] == ["green colors"]
    assert [row.prompt for row in moods.train] == ["gray moods"]
    assert (colors.left_out, moods.left_out) == (1, 1)
    assert (colors.held_out, moods.held_out) == (one.held_out, other.held_out)


def test_two_tasks_of_one_name_are_refused(byte_tokenizer: Tokenizer) -> None:
    with pytest.raises(TaskError, match="there are 2 tasks 'stdlib-unicode'"):
        tasks.load_all(["stdlib-unicode"] * 2, tokenizer=byte_tokenizer, max_tokens=48)


REAL = [(("stdlib-package", "stdlib-docstring"), 48), (("medical-specialty", "medical-exam"), 160)]


@pytest.mark.parametrize(("names", "max_tokens"), REAL, ids=[names[0] for names, _ in REAL])
def test_real_tasks_side_by_side_share_no_text_between_learning_and_testing(
    names: tuple[str, ...], max_tokens: int, byte_tokenizer: Tokenizer
) -> None:
    for source in (tasks.registry()[name] for name in names):
        if source.package:
            package = PACKAGES[source.package]
            if not (assets.home() / "packages" / package.file).is_file():
                pytest.skip(f"{package.requirement} is not in the cache, and tests fetch nothing")
    loaded = tasks.load_all(
        names, tokenizer=byte_tokenizer, max_tokens=max_tokens, held_out=100, validation=48
    )
    scored = {row.beginning for task in loaded for row in (*task.validation, *task.held_out)}
    for task in loaded:
        assert _is_disjoint(task)
        assert (len(task.validation), len(task.held_out)) == (48, 100)
        own = {row.beginning for row in (*task.validation, *task.held_out)}
        assert not {row.beginning for row in task.train} & (scored - own)
