"""Text of one's own in tables, and in folders as Hugging Face's `datasets` wrote them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from atlas import tasks
from atlas.tasks import Example, Task, TaskError, TaskSpec, Tokenizer

SAVED = Path(__file__).with_name("saved_by_datasets")
"""What `datasets` 5.2.0 wrote: 24 rows to learn from and 10 to test by, of which 4 are the same."""


def _load(tokenizer: Tokenizer, spec: TaskSpec, held_out: int = 5, validation: int = 0) -> Task:
    return tasks.load(
        spec, tokenizer=tokenizer, max_tokens=60, held_out=held_out, validation=validation
    )


def _rows(examples: Sequence[Example]) -> set[tuple[str, str]]:
    return {(example.prompt, example.answer) for example in examples}


def _numbered(count: int) -> list[dict[str, object]]:
    return [{"text": f"{n} is", "label": n % 2, "who": f"p{n % 3}"} for n in range(count)]


def _write(file: Path, rows: list[dict[str, object]]) -> Path:
    match file.suffix:
        case ".csv" | ".tsv":
            separator = "," if file.suffix == ".csv" else "\t"
            lines = [separator.join(map(str, row.values())) for row in rows]
            file.write_text("\n".join([separator.join(rows[0]), *lines]) + "\n", encoding="utf-8")
        case ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
        case ".arrow":
            table = pyarrow.Table.from_pylist(rows)
            with pyarrow.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
        case _:
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet", "arrow"])
def test_every_kind_of_file_gives_the_same_task(
    tmp_path: Path, byte_tokenizer: Tokenizer, suffix: str
) -> None:
    spec = TaskSpec(
        name="parity",
        train=_write(tmp_path / f"rows.{suffix}", _numbered(20)),
        prompt="text",
        answer="label",
        choices=("even", "odd"),
        domain="who",
        after="\nParity:",
        metric="macro-f1",
    )
    task = _load(byte_tokenizer, spec)
    assert task.kind == "classification"
    assert task.metric == "macro-f1"
    assert task.choices == ("even", "odd")
    assert _rows((*task.train, *task.held_out)) == {
        (f"{n} is\nParity:", ("even", "odd")[n % 2]) for n in range(20)
    }
    assert {example.domain for example in task.train} == {"p0", "p1", "p2"}


def test_a_saved_set_of_datasets_is_read_with_its_parts_and_names_of_labels(
    byte_tokenizer: Tokenizer,
) -> None:
    spec = TaskSpec(name="films", train=SAVED, prompt="text", answer="label", after=" is")
    task = _load(byte_tokenizer, spec, held_out=6, validation=4)
    every = {n: (f"{('bad', 'good')[n % 2]} film number {n} is", n % 2) for n in range(30)}
    named = {(prompt, ("negative", "positive")[label]) for prompt, label in every.values()}
    assert _rows((*task.train, *task.validation, *task.held_out)) <= named
    assert task.choices == ("negative", "positive")
    assert (len(task.train), len(task.validation), len(task.held_out)) == (16, 4, 6)
    assert task.left_out == 4
    late = {every[n][0] for n in range(20, 30)}
    assert {example.prompt for example in task.held_out} <= late
    assert not {example.prompt for example in (*task.train, *task.validation)} & late


def test_published_parquet_files_have_names_of_labels_too(byte_tokenizer: Tokenizer) -> None:
    file = SAVED / "parquet" / "test-00000-of-00001.parquet"
    spec = TaskSpec(name="films", train=file, prompt="text", answer="label")
    task = _load(byte_tokenizer, spec, held_out=3)
    assert task.choices == ("negative", "positive")
    assert len(task.train) + len(task.held_out) == 10


def test_labels_by_number_may_be_given_other_names(byte_tokenizer: Tokenizer) -> None:
    names = ("bad", "good")
    spec = TaskSpec(name="f", train=SAVED / "train", prompt="text", answer="label", choices=names)
    task = _load(byte_tokenizer, spec)
    assert all(example.prompt.startswith(example.answer) for example in task.train)


def test_one_saved_part_is_a_training_file(byte_tokenizer: Tokenizer) -> None:
    spec = TaskSpec(
        name="films",
        train=SAVED / "train",
        held_out=SAVED / "test",
        prompt="text",
        answer="label",
    )
    task = _load(byte_tokenizer, spec)
    assert (len(task.train), len(task.held_out)) == (20, 10)


def test_files_named_after_their_parts_are_those_parts(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    rows = [{"prompt": f"{n}:", "answer": str(n)} for n in range(40)]
    (tmp_path / "data").mkdir()
    _write(tmp_path / "data" / "train-00000-of-00002.csv", list(rows[:10]))
    _write(tmp_path / "data" / "train-00001-of-00002.csv", list(rows[10:20]))
    _write(tmp_path / "data" / "dev.jsonl", list(rows[20:30]))
    _write(tmp_path / "data" / "test.parquet", list(rows[30:]))
    _write(tmp_path / "data" / "trainers.csv", [{"shoes": "red"}])
    task = _load(byte_tokenizer, TaskSpec(name="own", train=tmp_path), validation=4)
    assert {int(example.answer) for example in task.train} == set(range(20))
    assert {int(example.answer) for example in task.validation} < set(range(20, 30))
    assert {int(example.answer) for example in task.held_out} < set(range(30, 40))
    assert (len(task.validation), len(task.held_out)) == (4, 5)


def test_what_is_tested_by_is_not_learned_from_even_if_spelled_otherwise(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    train = [{"prompt": f"Question {n}", "answer": str(n)} for n in range(9)]
    held = [{"prompt": "question  3!", "answer": "3"}, {"prompt": "question 10", "answer": "10"}]
    chosen = [{"prompt": "QUESTION 4", "answer": "4"}, {"prompt": "question 10?", "answer": "10"}]
    spec = TaskSpec(
        name="own",
        train=_write(tmp_path / "train.jsonl", list(train)),
        validation=_write(tmp_path / "validation.jsonl", list(chosen)),
        held_out=_write(tmp_path / "held.jsonl", list(held)),
    )
    task = _load(byte_tokenizer, spec)
    assert {int(example.answer) for example in task.train} == {0, 1, 2, 5, 6, 7, 8}
    assert [example.answer for example in task.validation] == ["4"]
    assert len(task.held_out) == 2
    assert task.left_out == 3


def test_long_rows_of_ones_own_are_cut_where_that_is_wished(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    rows = [{"prompt": f"{n} " + "word " * 30, "answer": "yes"} for n in range(10)]
    file = _write(tmp_path / "rows.jsonl", list(rows))
    spec = TaskSpec(name="own", train=file, choices=("no", "yes"), after="\nSo?", cut=True)
    for example in _load(byte_tokenizer, spec).train:
        assert example.prompt.endswith("word\nSo?")
        assert 50 < len(f"{example.prompt} yes") <= 60
    with pytest.raises(TaskError, match="0 rows that fit"):
        _load(byte_tokenizer, spec.model_copy(update={"cut": False}))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.csv", "prompt,answer\na\n", r"rows\.csv:2: .*the 2 of the first line"),
        ("rows.csv", "prompt\na\n", r"rows\.csv:2: answer: .*it is missing.*'prompt'"),
        ("rows.csv", "", r"rows\.csv: no rows"),
        ("rows.parquet", "PAR1", r"rows\.parquet: .*can't be read"),
        ("rows.arrow", "nothing", r"rows\.arrow: .*can't be read"),
        ("rows.csv", "prompt,answer\na,maybe\n", r"rows\.csv:2: answer: .*'maybe' is none of"),
        ("rows.csv", "prompt,answer\na,2\n", r"rows\.csv:2: answer: .*'2' is none of the choices"),
        ("rows.jsonl", '{"prompt": "a", "answer": -1}', r"rows\.jsonl:1: answer: .*'-1' is none"),
    ],
)
def test_a_table_that_is_not_as_it_should_be_is_named(
    tmp_path: Path, byte_tokenizer: Tokenizer, name: str, content: str, said: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    spec = TaskSpec(name="own", train=tmp_path / name, choices=("no", "yes"))
    with pytest.raises(TaskError, match=said):
        _load(byte_tokenizer, spec)


def test_a_folder_without_text_says_what_it_should_have(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    with pytest.raises(TaskError, match=r"neither what save_to_disk writes.*train, validation"):
        _load(byte_tokenizer, TaskSpec(name="own", train=tmp_path))
    spec = TaskSpec(name="own", train=SAVED, validation=SAVED, prompt="text", answer="label")
    with pytest.raises(TaskError, match="validation: this folder has no part for 'validation'"):
        _load(byte_tokenizer, spec)


def test_a_set_saved_as_numbers_of_rows_is_refused(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    shutil.copytree(SAVED / "train", tmp_path / "train")
    file = tmp_path / "train" / "state.json"
    state = json.loads(file.read_text()) | {"_indices_data_files": [{"filename": "i.arrow"}]}
    file.write_text(json.dumps(state))
    spec = TaskSpec(name="own", train=tmp_path / "train", prompt="text", answer="label")
    with pytest.raises(TaskError, match=r"state\.json: .*rows of them by number"):
        _load(byte_tokenizer, spec)


def test_a_metric_that_does_not_go_with_the_rows_is_refused(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    rows = [{"prompt": f"{n}:", "answer": str(n)} for n in range(20)]
    spec = TaskSpec(name="own", train=_write(tmp_path / "r.jsonl", list(rows)), metric="macro-f1")
    with pytest.raises(TaskError, match="metric: macro-f1 is no metric of generation"):
        _load(byte_tokenizer, spec)
    assert _load(byte_tokenizer, spec.model_copy(update={"metric": None})).metric == "exact-match"
    own = [row | {"choices": [str(row["answer"]), "none"]} for row in rows]
    spec = spec.model_copy(update={"train": _write(tmp_path / "own.jsonl", list(own))})
    with pytest.raises(TaskError, match="metric: macro-f1 is a mean over classes"):
        _load(byte_tokenizer, spec)
